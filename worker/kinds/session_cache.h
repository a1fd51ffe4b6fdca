/* Sessions of models that this process has served lately, so that the next request for the same
 * blob finds its model loaded and planned. Bounded by bytes and count; the one used longest ago
 * goes first. One thread. */
#ifndef MQ_WORKER_KINDS_SESSION_CACHE_H
#define MQ_WORKER_KINDS_SESSION_CACHE_H

#include "worker/exec/session.h"
#include "worker/slot/host.h"

enum { MQ_SESSION_CACHE_COUNT_MAX = 32 };
#define MQ_SESSION_CACHE_BYTES_MAX ((size_t)1 << 30) /* of files and packed weights */

/* The session of a model blob, opened and loaded when it is not there; borrowed until the next call
 * of this function. Errors name the model. */
MQ_MUST_USE mq_code mq_session_cache_get(mq_host *host, const char *blob, mq_session **out,
                                         mq_error *err);

/* How many are there, for tests. */
size_t mq_session_cache_count(void);

/* Frees all. */
void mq_session_cache_clear(void);

#endif

/* The log of a redis-server that was killed, made loadable without losing what was acknowledged.
 *
 * Redis 7.0 cuts a torn tail off by itself (aof-load-truncated yes), but when the tear is inside a
 * command of a transaction, it keeps the transaction's beginning. What is written from then on
 * stands inside a MULTI without EXEC: the next restart executes a part of the torn transaction or
 * throws away everything acknowledged since (tried with 7.0.15, both happen). So our servers run
 * with aof-load-truncated no and this is called before each start. The same by hand:
 * redis-check-aof --fix, which also cuts there, but would cut in the middle of the file as well. */
#ifndef MQ_STORE_AOF_H
#define MQ_STORE_AOF_H

#include "shared/base/error.h"

/* dir: the server's `dir`; the server must not be running. Cuts the last file of the log after the
 * last whole command or transaction, when only its end is incomplete; nothing of that was ever
 * acknowledged. *cut_bytes (may be NULL): how much, 0 = nothing to do, as for a dir without a log.
 * Damage anywhere else: MQ_E_CORRUPT with file and offset, and nothing is touched. */
MQ_MUST_USE mq_code mq_aof_repair(const char *dir, size_t *cut_bytes, mq_error *err);

#endif

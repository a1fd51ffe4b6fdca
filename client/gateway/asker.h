/* Threads for calls that block: a bounded queue of exchanges whose `task` they run. */
#ifndef MQ_GATEWAY_ASKER_H
#define MQ_GATEWAY_ASKER_H

#include "client/gateway/gateway.h"

MQ_MUST_USE mq_code mq_asker_new(mq_asker **out, mq_error *err);

/* False when the queue is full or stopping; then the exchange stays the caller's. */
bool mq_asker_add(mq_asker *asker, mq_exchange *exchange);

/* Takes no more, answers what waits with 503, joins the threads. NULL is ignored by both. */
void mq_asker_stop(mq_asker *asker);
void mq_asker_free(mq_asker *asker);

#endif

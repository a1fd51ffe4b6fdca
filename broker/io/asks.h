/* Questions to the store beside its commits: bodies of live jobs and records of ended ones. The
 * store takes few calls at a time; what is more waits here in order, and bodies go many to a call.
 */
#ifndef MQ_BROKER_IO_ASKS_H
#define MQ_BROKER_IO_ASKS_H

#include "shared/store/store.h"

enum {
    MQ_ASKS_MAX = 16384,       /* waiting and under way together */
    MQ_ASKS_INFLIGHT_MAX = 16, /* calls */
    MQ_ASKS_BODIES_MAX = 64,   /* of one call */
};

typedef struct mq_asks mq_asks;

/* The body of a live job (value.data NULL: the store has none), or code != MQ_OK. */
typedef void mq_asks_on_body(void *arg, mq_code code, mq_span id, mq_span body);

/* Borrows the store. Returns owned. */
MQ_MUST_USE mq_code mq_asks_new(mq_asks **out, mq_store *store, mq_error *err);

/* The store must have been freed before: what waits is answered MQ_E_CANCELLED and must not ask
 * again. */
void mq_asks_free(mq_asks *asks);

/* Each is answered exactly once through its callback, later. MQ_E_BUSY when too many wait. */
MQ_MUST_USE mq_code mq_asks_body(mq_asks *asks, mq_span id, mq_asks_on_body *on_body, void *arg,
                                 mq_error *err);
MQ_MUST_USE mq_code mq_asks_job(mq_asks *asks, mq_span id, mq_store_on_job *on_job, void *arg,
                                mq_error *err);

/* Sends what may be sent; what the store cannot take now (no connection, too many calls) waits on.
 * Call it once a turn. */
void mq_asks_turn(mq_asks *asks);

#endif

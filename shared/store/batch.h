/* What both stores check before they look at a batch, so that they refuse the same ones. */
#ifndef MQ_STORE_BATCH_H
#define MQ_STORE_BATCH_H

#include "shared/store/store.h"

/* MQ_OK, or MQ_E_LIMIT / MQ_E_ARG naming the entry and the limit. Pure. */
MQ_MUST_USE mq_code mq_batch_check(const mq_store_batch *batch, mq_error *err);

/* Texts of an acquire fit their places and the ttl is 100 ms .. 1 h. */
MQ_MUST_USE mq_code mq_owner_check(mq_span owner, mq_span endpoint, int64_t ttl_ms, mq_error *err);

/* Ids are ULIDs and not more than MQ_STORE_JOBS_MAX. */
MQ_MUST_USE mq_code mq_bodies_check(const mq_span *ids, uint32_t count, mq_error *err);

/* Minute of an id that mq_batch_check has accepted: the number of its done bucket. */
int64_t mq_batch_minute(mq_span id);

static inline uint64_t mq_batch_segment(uint64_t number)
{
    return number / MQ_STORE_SEGMENT_JOBS;
}

/* Creates and is_new finishes are refused when their id exists, and need memory. */
static inline bool mq_batch_adds(const mq_store_batch *batch)
{
    if (batch->create_count > 0) {
        return true;
    }
    for (uint32_t i = 0; i < batch->finish_count; i++) {
        if (batch->finishes[i].is_new) {
            return true;
        }
    }
    return false;
}

#endif

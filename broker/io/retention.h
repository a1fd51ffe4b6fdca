/* The store does not fill up silently: bytes of finished jobs are counted, the oldest results make
 * room when they are too many, and operators are warned before new jobs are answered busy. Private
 * to broker/io. */
#ifndef MQ_BROKER_IO_RETENTION_H
#define MQ_BROKER_IO_RETENTION_H

#include "broker/io/broker.h"

enum {
    MQ_STORE_WARN_PERCENT = 70, /* of the store's memory: operators are told */
    MQ_STORE_FULL_PERCENT = 80, /* new jobs are answered busy */
    MQ_KEPT_PER_COMMIT = 64,    /* minutes told apart in one commit; more go to the last of them */
};

/* What one commit adds to the done buckets. */
typedef struct mq_kept_delta {
    uint32_t count;
    uint64_t minutes[MQ_KEPT_PER_COMMIT];
    int64_t bytes[MQ_KEPT_PER_COMMIT];
} mq_kept_delta;

/* Sums up the finishes of a batch. */
void mq_retention_sum(const mq_store_batch *batch, mq_kept_delta *out);
/* The commit is stored. */
void mq_retention_add(mq_broker *b, const mq_kept_delta *delta);

/* A counter as it is loaded; those of other things are passed over. */
void mq_retention_load(mq_broker *b, mq_span name, mq_span value);
/* Before counters are loaded. */
void mq_retention_reset(mq_broker *b);

/* Once a second: looks whether room must be made, and at the store's memory. */
void mq_retention_tick(mq_broker *b);
void mq_retention_release(mq_broker *b);

/* Bytes kept, and the most there may be (0: no limit). */
int64_t mq_retention_bytes(const mq_broker *b);
int64_t mq_retention_max(const mq_broker *b);
/* Memory of the store in use, in percent of its limit; 0 without one. "ok", "warn" or "full". */
uint32_t mq_retention_percent(const mq_broker *b);
const char *mq_retention_level(const mq_broker *b);

#endif

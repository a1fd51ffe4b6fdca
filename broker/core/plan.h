/* Who should own which shard: a pure function of the table of brokers and shards, so that every
 * broker that sees the same table comes to the same plan. Equal shares (they differ by at most
 * one), as few moves as possible, operators' wishes first. */
#ifndef MQ_BROKER_CORE_PLAN_H
#define MQ_BROKER_CORE_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#define MQ_PLAN_NONE UINT32_MAX

enum { MQ_PLAN_BROKERS_MAX = 64, MQ_PLAN_SHARDS_MAX = 64 };

typedef struct mq_plan_in {
    uint32_t broker_count, shard_count;
    bool is_active[MQ_PLAN_BROKERS_MAX]; /* alive and not draining; brokers in order of their ids */
    bool is_alive[MQ_PLAN_BROKERS_MAX];
    uint32_t owner[MQ_PLAN_SHARDS_MAX]; /* index of a broker, or NONE */
    uint32_t pin[MQ_PLAN_SHARDS_MAX];   /* where operators want it, or NONE */
} mq_plan_in;

/* out[s]: index of the broker that should own shard s; NONE when no broker is alive. A pin to a
 * broker that is not active is passed over. When nobody is active, draining brokers keep what they
 * have. */
void mq_plan(const mq_plan_in *in, uint32_t out[MQ_PLAN_SHARDS_MAX]);

#endif

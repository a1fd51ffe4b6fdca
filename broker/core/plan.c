/* The plan of shards; see plan.h. Pure. */
#include "broker/core/plan.h"

#include "shared/base/assert.h"

typedef struct work {
    const mq_plan_in *in;
    uint32_t *out;
    uint32_t count[MQ_PLAN_BROKERS_MAX];
    bool may[MQ_PLAN_BROKERS_MAX];
    uint32_t base, extra; /* each has base shards; extra of them one more */
} work;

static void give(work *w, uint32_t shard, uint32_t broker)
{
    w->out[shard] = broker;
    w->extra -= w->count[broker] == w->base && w->extra > 0;
    w->count[broker]++;
}

static bool is_ours(const work *w, uint32_t broker)
{
    return broker < w->in->broker_count && w->may[broker];
}

/* Owners keep what is within their share. */
static void keep(work *w, bool with_extra)
{
    for (uint32_t s = 0; s < w->in->shard_count; s++) {
        uint32_t owner = w->in->owner[s];
        if (w->out[s] == MQ_PLAN_NONE && is_ours(w, owner) &&
            (w->count[owner] < w->base ||
             (with_extra && w->count[owner] == w->base && w->extra > 0))) {
            give(w, s, owner);
        }
    }
}

/* The broker with the fewest shards so far; of equals the first. */
static uint32_t poorest(const work *w)
{
    uint32_t found = MQ_PLAN_NONE;
    for (uint32_t b = 0; b < w->in->broker_count; b++) {
        if (w->may[b] && (found == MQ_PLAN_NONE || w->count[b] < w->count[found])) {
            found = b;
        }
    }
    return found;
}

void mq_plan(const mq_plan_in *in, uint32_t out[MQ_PLAN_SHARDS_MAX])
{
    MQ_ASSERT(in->broker_count <= MQ_PLAN_BROKERS_MAX && in->shard_count <= MQ_PLAN_SHARDS_MAX);
    work w = {.in = in, .out = out};
    uint32_t active = 0, alive = 0;
    for (uint32_t b = 0; b < in->broker_count; b++) {
        active += in->is_active[b];
        alive += in->is_alive[b];
    }
    for (uint32_t b = 0; b < in->broker_count; b++) {
        w.may[b] = active > 0 ? in->is_active[b] : in->is_alive[b];
    }
    for (uint32_t s = 0; s < in->shard_count; s++) {
        out[s] = MQ_PLAN_NONE;
    }
    uint32_t sharers = active > 0 ? active : alive;
    if (sharers == 0) {
        return;
    }
    w.base = active > 0 ? in->shard_count / sharers : in->shard_count;
    w.extra = active > 0 ? in->shard_count % sharers : 0;
    for (uint32_t s = 0; s < in->shard_count; s++) {
        if (is_ours(&w, in->pin[s])) {
            give(&w, s, in->pin[s]);
        }
    }
    keep(&w, false);
    keep(&w, true);
    for (uint32_t s = 0; s < in->shard_count; s++) {
        if (out[s] == MQ_PLAN_NONE) {
            give(&w, s, poorest(&w));
        }
    }
}

/* Carries the asks of this process's shards for lent permits (broker/core/lend.c) to the book in
 * the store and brings the answers back: one call at a time, all asks of a moment in it. */
#include "broker/io/node.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

static void on_grants(void *arg, const mq_lend_grant *grants, uint32_t count)
{
    mq_node *n = arg;
    n->is_lending = false;
    for (uint32_t i = 0; i < count && grants != NULL; i++) {
        const mq_lend_line *line = &n->lend_lines[i];
        mq_broker *b = n->shards[line->ask.shard];
        if (b != NULL && mq_own_is_serving(b)) {
            mq_input in = {.type = MQ_IN_LENT};
            in.as.lent.line = line; /* the core knows its epoch and its latest ask */
            in.as.lent.grant = &grants[i];
            mq_act_step(b, &in);
        }
    }
}

void mq_lend_tick(mq_node *n)
{
    uint32_t count = 0;
    if (n->is_lending || n->view.shard_count < 2 || !mq_cluster_is_connected(n->cluster)) {
        return;
    }
    for (uint32_t i = 0; i < n->view.shard_count && count < MQ_LEND_ASKS_MAX; i++) {
        uint32_t s = (n->lend_first + i) % n->view.shard_count;
        mq_broker *b = n->shards[s];
        if (b == NULL || !mq_own_is_serving(b)) {
            continue;
        }
        uint32_t more = mq_core_lend_asks(b->core, &n->lend_lines[count], MQ_LEND_ASKS_MAX - count);
        for (uint32_t k = 0; k < more; k++) {
            n->lend_lines[count++].ask.shard = s;
        }
    }
    n->lend_first++; /* another shard comes first next time */
    if (count > 0) {
        n->is_lending =
            mq_lend_send(n->cluster, n->view.shard_count, n->lend_lines, count, on_grants, n);
    }
}

int64_t mq_lend_deadline(const mq_node *n)
{
    int64_t at_ms = INT64_MAX;
    for (uint32_t s = 0; s < n->view.shard_count && !n->is_lending; s++) {
        const mq_broker *b = n->shards[s];
        if (b != NULL && mq_own_is_serving(b) && mq_core_lend_due(b->core) < INT64_MAX) {
            at_ms = mq_min_i64(at_ms, mq_core_lend_due(b->core) - b->store_offset_ms);
        }
    }
    return mq_cluster_is_connected(n->cluster) ? at_ms : INT64_MAX;
}

/* Tells workers of a deployment of several shards that jobs wait in this one: their free slots may
 * be lent to another shard's owner, which has no use for them. Hints: nothing depends on them but
 * time. */
#include "broker/io/node.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

enum {
    REPEAT_MS = 200,   /* while jobs wait */
    GANG_MS = 10000,   /* credit that gathers for a gang may stay so long unused */
    LOOK_LANES = 4096, /* lanes looked at for a gang */
};

static bool has_gang(const mq_broker *b)
{
    mq_lane_view lane;
    uint32_t lanes = b->core_config.lanes_max < LOOK_LANES ? b->core_config.lanes_max : LOOK_LANES;
    for (uint32_t i = 0; i < lanes; i++) {
        if (mq_core_lane(b->core, i, &lane) && lane.is_gang && !lane.is_paused) {
            return true;
        }
    }
    return false;
}

void mq_want_tick(mq_broker *b)
{
    if (mq_node_shards(b->node) <= 1) {
        return;
    }
    mq_core_stats stats;
    mq_core_stats_read(b->core, &stats);
    int64_t now_ms = mq_clock_mono_ms();
    uint32_t waiting = stats.by_state[MQ_STATE_QUEUED];
    bool is_news = (waiting > 0) != b->is_wanting;
    if (!is_news && (waiting == 0 || now_ms < b->want_ms)) {
        return;
    }
    b->is_wanting = waiting > 0;
    b->want_ms = now_ms + REPEAT_MS;
    mq_msg_want m = {.waiting = waiting,
                     .patience_ms = waiting > 0 && b->shard == 0 && has_gang(b) ? GANG_MS : 0};
    uint32_t left = stats.workers;
    for (uint32_t i = 0; i < b->core_config.workers_max && left > 0; i++) {
        mq_worker_view w;
        if (mq_core_worker(b->core, i, &w)) {
            left--;
            (void)mq_act_send(b, w.conn, MQ_CMD_want, &m, (mq_span){0});
        }
    }
}

int64_t mq_want_deadline(const mq_broker *b)
{
    return b->is_wanting ? b->want_ms : INT64_MAX;
}

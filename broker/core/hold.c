/* Why a job waits, for operators: what dispatch would find if it came to the job now. Reads only;
 * it must not be needed by dispatch. */
#include "broker/core/state.h"

static bool limit_holds(const mq_core *core, uint32_t no, mq_hold_view *out)
{
    if (no == 0 || !mq_core_limit(core, no, &out->limit)) {
        return false;
    }
    const mq_limit_view *l = &out->limit;
    bool is_full = l->concurrency > 0 && (core->is_loading || l->running >= l->concurrency);
    out->is_rate = !is_full;
    return is_full || (l->rate > 0 && l->tokens == 0);
}

/* The nearest worker: can any run it, has any of those a slot free? */
static void look_at_workers(const mq_core *core, const mq_lane *lane, mq_hold_view *out)
{
    bool is_free = false;
    out->misfit = MQ_MISFIT_KIND;
    out->workers = 0;
    for (uint32_t i = 0; i < core->worker_slots.high; i++) {
        const mq_worker *w = &core->workers[i];
        if (!w->is_used || w->is_draining || w->conn == 0) {
            continue;
        }
        mq_misfit misfit = mq_worker_misfit(w, lane);
        out->workers++;
        out->misfit = misfit < out->misfit ? misfit : out->misfit;
        is_free = is_free || (misfit == MQ_MISFIT_NONE && mq_worker_free(w) > 0);
    }
    bool can_run = out->workers > 0 && out->misfit == MQ_MISFIT_NONE;
    out->hold = !can_run ? MQ_HOLD_NO_WORKER : is_free ? MQ_HOLD_NONE : MQ_HOLD_BUSY;
}

static void look(const mq_core *core, const mq_lane *lane, uint32_t key_limit, mq_hold_view *out)
{
    *out = (mq_hold_view){.queue = mq_name_text(core, lane->queue),
                          .kind = mq_name_text(core, lane->kind),
                          .needs = mq_name_text(core, lane->needs)};
    if (mq_kind_is_paused(core, out->kind)) {
        out->hold = MQ_HOLD_KIND_PAUSED;
    } else if (lane->is_paused) {
        out->hold = MQ_HOLD_QUEUE_PAUSED;
    } else {
        look_at_workers(core, lane, out);
        if (out->hold != MQ_HOLD_NO_WORKER &&
            (limit_holds(core, key_limit, out) || limit_holds(core, lane->limits[0], out) ||
             limit_holds(core, lane->limits[1], out))) {
            out->hold = MQ_HOLD_LIMIT;
        }
    }
}

bool mq_core_job_hold(const mq_core *core, uint32_t slot, mq_hold_view *out)
{
    if (slot >= core->job_slots.high || !core->jobs[slot].is_used || !core->jobs[slot].in_lane) {
        return false;
    }
    const mq_strand *strand = &core->strands[core->jobs[slot].strand];
    look(core, &core->lanes[core->flows[strand->flow].lane], strand->limit, out);
    return true;
}

bool mq_core_lane_hold(const mq_core *core, uint32_t index, mq_hold_view *out)
{
    if (index >= core->lane_slots.high || !core->lanes[index].is_used) {
        return false;
    }
    look(core, &core->lanes[index], 0, out);
    return true;
}

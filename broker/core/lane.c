/* Waiting jobs: a pairing heap a strand, kept in the jobs themselves (tree.c says which kind of
 * heap): push in constant time, pop and removal in logarithmic time on average. Order: priority 9
 * first, then submission number, so a retried job keeps its age. Lanes, flows and strands are made
 * with their first job and go with their last (strand.c). It must not know workers. */
#include "broker/core/state.h"

/* Joins two heaps; either may be MQ_NONE. */
static uint32_t meld(mq_core *core, uint32_t a, uint32_t b)
{
    if (a == MQ_NONE || b == MQ_NONE) {
        return a == MQ_NONE ? b : a;
    }
    if (mq_lane_key(&core->jobs[b]) < mq_lane_key(&core->jobs[a])) {
        uint32_t t = a;
        a = b;
        b = t;
    }
    mq_job *top = &core->jobs[a];
    mq_job *low = &core->jobs[b];
    low->heap_prev = a;
    low->heap_next = top->heap_child;
    if (top->heap_child != MQ_NONE) {
        core->jobs[top->heap_child].heap_prev = b;
    }
    top->heap_child = b;
    top->heap_next = MQ_NONE;
    top->heap_prev = MQ_NONE;
    return a;
}

/* Joins a list of siblings in two passes: pairs from the left, then all from the right. */
static uint32_t meld_list(mq_core *core, uint32_t first)
{
    uint32_t pairs = MQ_NONE; /* linked by heap_next, last pair first */
    while (first != MQ_NONE) {
        uint32_t a = first;
        uint32_t b = core->jobs[a].heap_next;
        first = b == MQ_NONE ? MQ_NONE : core->jobs[b].heap_next;
        core->jobs[a].heap_next = core->jobs[a].heap_prev = MQ_NONE;
        if (b != MQ_NONE) {
            core->jobs[b].heap_next = core->jobs[b].heap_prev = MQ_NONE;
        }
        uint32_t m = meld(core, a, b);
        core->jobs[m].heap_next = pairs;
        pairs = m;
    }
    uint32_t root = MQ_NONE;
    while (pairs != MQ_NONE) {
        uint32_t next = core->jobs[pairs].heap_next;
        core->jobs[pairs].heap_next = MQ_NONE;
        root = meld(core, root, pairs);
        pairs = next;
    }
    return root;
}

/* ---- strands ---- */

bool mq_lane_push(mq_core *core, mq_job *job)
{
    uint32_t no = mq_strand_take(core, job);
    if (no == MQ_NONE) {
        return false;
    }
    mq_strand *strand = &core->strands[no];
    mq_lane *lane = mq_lane_of(core, strand);
    uint32_t before = strand->root;
    job->strand = no;
    job->in_lane = true;
    job->heap_child = job->heap_next = job->heap_prev = MQ_NONE;
    strand->root = meld(core, before, mq_job_no(core, job));
    strand->count++;
    lane->count++;
    lane->blocked += strand->is_blocked;
    if (strand->root != before) {
        mq_strand_place(core, no);
    }
    return true;
}

void mq_lane_remove(mq_core *core, mq_job *job)
{
    MQ_ASSERT(job->in_lane);
    mq_strand *strand = &core->strands[job->strand];
    mq_lane *lane = mq_lane_of(core, strand);
    uint32_t no = mq_job_no(core, job);
    uint32_t before = strand->root;
    uint32_t below = meld_list(core, job->heap_child);
    if (strand->root == no) {
        strand->root = below;
    } else {
        mq_job *prev = &core->jobs[job->heap_prev];
        if (prev->heap_child == no) {
            prev->heap_child = job->heap_next;
        } else {
            prev->heap_next = job->heap_next;
        }
        if (job->heap_next != MQ_NONE) {
            core->jobs[job->heap_next].heap_prev = job->heap_prev;
        }
        strand->root = meld(core, strand->root, below);
    }
    job->heap_child = job->heap_next = job->heap_prev = MQ_NONE;
    job->in_lane = false;
    MQ_ASSERT(strand->count > 0 && lane->count >= strand->count);
    lane->count--;
    lane->blocked -= strand->is_blocked;
    if (--strand->count == 0) {
        MQ_ASSERT(strand->root == MQ_NONE);
        mq_strand_give(core, job->strand);
    } else if (strand->root != before) {
        mq_strand_place(core, job->strand);
    }
    job->strand = MQ_NONE;
}

mq_job *mq_lane_top(mq_core *core, mq_lane *lane)
{
    const mq_flow *flow = mq_lane_flow(core, lane);
    return flow == NULL ? NULL : mq_job_at(core, core->strands[flow->root].root);
}

void mq_lanes_refresh(mq_core *core)
{
    for (uint32_t i = 0; i < core->lane_slots.high; i++) {
        if (core->lanes[i].is_used) {
            mq_lane_refresh(core, &core->lanes[i]);
        }
    }
}

bool mq_core_lane(const mq_core *core, uint32_t index, mq_lane_view *out)
{
    if (index >= core->lane_slots.high || !core->lanes[index].is_used) {
        return false;
    }
    const mq_lane *lane = &core->lanes[index];
    uint32_t job =
        lane->root == MQ_NONE ? MQ_NONE : core->strands[core->flows[lane->root].root].root;
    *out = (mq_lane_view){
        .queue = mq_name_text(core, lane->queue),
        .kind = mq_name_text(core, lane->kind),
        .model = mq_name_text(core, lane->model),
        .needs = mq_name_text(core, lane->needs),
        .waiting = lane->count,
        .blocked = lane->blocked,
        .tenants = lane->flow_count,
        .oldest_ms = job == MQ_NONE ? 0 : core->jobs[job].submitted_ms,
        .is_paused = lane->is_paused,
        .is_gang = lane->is_gang,
        .is_draining = mq_queue_is_draining(core, mq_name_text(core, lane->queue)),
    };
    return true;
}

/* Waiting jobs: one pairing heap a lane, kept in the jobs themselves (M. Fredman et al., "The
 * pairing heap", Algorithmica 1, 1986): push in constant time, pop and removal in logarithmic time
 * on average. Order: priority 9 first, then submission number, so a retried job keeps its age. It
 * must not know workers. */
#include "broker/core/state.h"

uint64_t mq_lane_key(const mq_job *job)
{
    MQ_ASSERT(job->priority <= 9 && job->number < UINT64_C(1) << 56);
    return (uint64_t)(9 - job->priority) << 56 | job->number;
}

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

/* ---- lanes ---- */

typedef struct lane_key {
    uint32_t queue, kind, model;
    bool is_gang, is_transient;
} lane_key;

static uint32_t hash_key(lane_key k)
{
    uint64_t h = (uint64_t)k.queue * UINT64_C(0x9e3779b97f4a7c15);
    h = (h ^ k.kind) * UINT64_C(0xbf58476d1ce4e5b9);
    h = (h ^ k.model) * UINT64_C(0x94d049bb133111eb) + (k.is_gang ? 1 : 0);
    h += k.is_transient ? UINT64_C(1) << 40 : 0;
    return (uint32_t)(h >> 32);
}

static uint32_t lane_hash(const mq_core *core, uint32_t value)
{
    const mq_lane *l = &core->lanes[value];
    return hash_key((lane_key){l->queue, l->kind, l->model, l->is_gang, l->is_transient});
}

static bool lane_is(const mq_core *core, uint32_t value, const void *key)
{
    const mq_lane *l = &core->lanes[value];
    const lane_key *k = key;
    return l->queue == k->queue && l->kind == k->kind && l->model == k->model &&
           l->is_gang == k->is_gang && l->is_transient == k->is_transient;
}

void mq_lane_init(mq_core *core)
{
    core->lane_index.hash_of = lane_hash;
}

bool mq_lane_push(mq_core *core, mq_job *job)
{
    lane_key key = {job->queue, job->kind, job->is_transient ? job->model : 0, job->seats_max > 0,
                    job->is_transient};
    uint32_t no = mq_index_find(core, &core->lane_index, hash_key(key), lane_is, &key);
    if (no == MQ_NONE) {
        no = MQ_TAKE(core, lane, lanes, mq_lane);
        if (no == MQ_NONE) {
            return false;
        }
        core->lanes[no] = (mq_lane){.is_used = true,
                                    .is_gang = key.is_gang,
                                    .is_transient = key.is_transient,
                                    .queue = key.queue,
                                    .kind = key.kind,
                                    .model = key.model,
                                    .root = MQ_NONE};
        core->lanes[no].is_paused = mq_queue_is_paused(core, mq_name_text(core, key.queue));
        mq_name_hold(core, key.queue);
        mq_name_hold(core, key.kind);
        mq_name_hold(core, key.model);
        mq_index_put(core, &core->lane_index, no);
    }
    mq_lane *lane = &core->lanes[no];
    job->lane = no;
    job->in_lane = true;
    job->heap_child = job->heap_next = job->heap_prev = MQ_NONE;
    lane->root = meld(core, lane->root, mq_job_no(core, job));
    lane->count++;
    return true;
}

static void give_back(mq_core *core, uint32_t no)
{
    mq_lane *lane = &core->lanes[no];
    mq_index_remove(core, &core->lane_index, no);
    mq_name_drop(core, lane->queue);
    mq_name_drop(core, lane->kind);
    mq_name_drop(core, lane->model);
    lane->is_used = false;
    lane->next_free = mq_slots_give(&core->lane_slots, no);
}

void mq_lane_remove(mq_core *core, mq_job *job)
{
    MQ_ASSERT(job->in_lane);
    mq_lane *lane = &core->lanes[job->lane];
    uint32_t no = mq_job_no(core, job);
    uint32_t below = meld_list(core, job->heap_child);
    if (lane->root == no) {
        lane->root = below;
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
        lane->root = meld(core, lane->root, below);
    }
    job->heap_child = job->heap_next = job->heap_prev = MQ_NONE;
    job->in_lane = false;
    MQ_ASSERT(lane->count > 0);
    if (--lane->count == 0) {
        MQ_ASSERT(lane->root == MQ_NONE);
        give_back(core, job->lane);
    }
    job->lane = MQ_NONE;
}

mq_job *mq_lane_top(mq_core *core, mq_lane *lane)
{
    return lane->root == MQ_NONE ? NULL : mq_job_at(core, lane->root);
}

void mq_lanes_pause(mq_core *core, uint32_t queue, bool is_paused)
{
    for (uint32_t i = 0; i < core->lane_slots.high; i++) {
        if (core->lanes[i].is_used && core->lanes[i].queue == queue) {
            core->lanes[i].is_paused = is_paused;
        }
    }
}

bool mq_core_lane(const mq_core *core, uint32_t index, mq_lane_view *out)
{
    if (index >= core->lane_slots.high || !core->lanes[index].is_used) {
        return false;
    }
    const mq_lane *lane = &core->lanes[index];
    *out = (mq_lane_view){
        .queue = mq_name_text(core, lane->queue),
        .kind = mq_name_text(core, lane->kind),
        .model = mq_name_text(core, lane->model),
        .waiting = lane->count,
        .oldest_ms = lane->root == MQ_NONE ? 0 : core->jobs[lane->root].submitted_ms,
        .is_paused = lane->is_paused,
    };
    return true;
}

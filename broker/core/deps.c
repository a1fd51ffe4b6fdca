/* Dependencies. A parent that is in memory is an edge to its child and lets it go when its own end
 * is STORED, so that a child never runs on a success that a crash could undo. A parent that is not
 * in memory is an id in the child's `deps` until the store has said how it ended. It must not know
 * why a job ends. */
#include "broker/core/state.h"

void mq_deps_later(mq_core *core, mq_job *job)
{
    if (job->in_unresolved) {
        return;
    }
    uint32_t no = mq_job_no(core, job);
    job->in_unresolved = true;
    job->next_unresolved = MQ_NONE;
    if (core->unresolved_head == MQ_NONE) {
        core->unresolved_head = no;
    } else {
        core->jobs[core->unresolved_tail].next_unresolved = no;
    }
    core->unresolved_tail = no;
    core->wants_turn = true;
}

bool mq_deps_add(mq_core *core, mq_job *child, mq_job *parent)
{
    uint32_t no = MQ_TAKE(core, edge, edges, mq_edge);
    if (no == MQ_NONE) {
        return false;
    }
    core->edges[no] = (mq_edge){.child = mq_job_no(core, child),
                                .parent = mq_job_no(core, parent),
                                .next_parent = child->parents,
                                .next_child = parent->children,
                                .prev_child = MQ_NONE};
    if (parent->children != MQ_NONE) {
        core->edges[parent->children].prev_child = no;
    }
    child->parents = no;
    parent->children = no;
    child->deps_left++;
    return true;
}

static void unlink_from_parent(mq_core *core, uint32_t no)
{
    mq_edge *e = &core->edges[no];
    if (e->prev_child != MQ_NONE) {
        core->edges[e->prev_child].next_child = e->next_child;
    } else {
        core->jobs[e->parent].children = e->next_child;
    }
    if (e->next_child != MQ_NONE) {
        core->edges[e->next_child].prev_child = e->prev_child;
    }
}

static void unlink_from_child(mq_core *core, uint32_t no)
{
    mq_job *child = &core->jobs[core->edges[no].child];
    uint32_t *at = &child->parents;
    while (*at != no) {
        MQ_ASSERT(*at != MQ_NONE);
        at = &core->edges[*at].next_parent;
    }
    *at = core->edges[no].next_parent;
    MQ_ASSERT(child->deps_left > 0);
    child->deps_left--;
}

/* Takes a job that goes out of the list of those to be looked up. */
static void unlist(mq_core *core, mq_job *job)
{
    uint32_t no = mq_job_no(core, job);
    uint32_t before = MQ_NONE;
    uint32_t at = core->unresolved_head;
    while (at != no) {
        MQ_ASSERT(at != MQ_NONE);
        before = at;
        at = core->jobs[at].next_unresolved;
    }
    if (before == MQ_NONE) {
        core->unresolved_head = job->next_unresolved;
    } else {
        core->jobs[before].next_unresolved = job->next_unresolved;
    }
    if (core->unresolved_tail == no) {
        core->unresolved_tail = before;
    }
    job->in_unresolved = false;
}

static void give_edge(mq_core *core, uint32_t no)
{
    core->edges[no].next_free = mq_slots_give(&core->edge_slots, no);
}

void mq_deps_drop(mq_core *core, mq_job *child)
{
    if (child->in_unresolved) {
        unlist(core, child);
    }
    while (child->parents != MQ_NONE) {
        uint32_t no = child->parents;
        unlink_from_parent(core, no);
        unlink_from_child(core, no);
        give_edge(core, no);
    }
}

/* Whether a parent that ended so lets the child go on. One that nobody knows does not. */
static bool satisfies(const mq_job *child, mq_state state)
{
    return state == MQ_STATE_SUCCEEDED || (child->runs_anyway && mq_state_is_terminal(state));
}

static void fail_child(mq_core *core, mq_job *child, mq_span parent)
{
    if (child->state == MQ_STATE_NONE) { /* it is stored as blocked first, then as cancelled */
        mq_job_move(core, child, MQ_EVENT_BLOCK, "deps");
    }
    if (child->state == MQ_STATE_BLOCKED) {
        mq_job_why(child, "dep:", parent);
        mq_job_move(core, child, MQ_EVENT_CANCEL, NULL);
    }
}

/* Goes on when nothing is unknown any more. */
static void settle(mq_core *core, mq_job *child)
{
    bool is_waiting = child->state == MQ_STATE_NONE || child->state == MQ_STATE_BLOCKED;
    if (!is_waiting || child->deps_len > 0) {
        return;
    }
    if (child->state == MQ_STATE_NONE || child->deps_left == 0) {
        mq_submit_place(core, child);
    }
}

/* Forgets the id at byte `at` of deps; ids that are being asked for stay in front. */
static void forget_id(mq_core *core, mq_job *child, size_t at)
{
    uint8_t *ids = mq_pool_at(&core->pool, child->deps);
    MQ_ASSERT(child->deps_len >= MQ_ULID_LEN && at < child->deps_len);
    if (at < child->deps_asked) {
        child->deps_asked = (uint16_t)(child->deps_asked - MQ_ULID_LEN);
        memmove(ids + at, ids + child->deps_asked, MQ_ULID_LEN);
        at = child->deps_asked;
    }
    child->deps_len = (uint16_t)(child->deps_len - MQ_ULID_LEN);
    memmove(ids + at, ids + child->deps_len, MQ_ULID_LEN);
}

void mq_deps_answer(mq_core *core, mq_job *child, mq_span parent, mq_state state)
{
    uint8_t *ids = mq_pool_at(&core->pool, child->deps);
    size_t at = 0;
    while (at < child->deps_len && memcmp(ids + at, parent.data, MQ_ULID_LEN) != 0) {
        at += MQ_ULID_LEN;
    }
    if (at == child->deps_len) {
        return;
    }
    if (!satisfies(child, state)) {
        fail_child(core, child,
                   parent); /* keeps the id: a crash before the end is stored asks again */
        return;
    }
    forget_id(core, child, at);
    mq_job_dirty(core, child);
    settle(core, child);
}

/* Looks up one id; false when it has to be tried again later. */
static bool look_up(mq_core *core, mq_job *child, mq_outputs *out)
{
    uint8_t *at = mq_pool_at(&core->pool, child->deps) + child->deps_asked;
    mq_span id = mq_span_of(at, MQ_ULID_LEN);
    mq_job *parent = mq_job_find(core, id);
    const mq_recent *recent = parent == NULL ? mq_recent_find(core, id) : NULL;
    if (parent != NULL) {
        bool is_added = mq_deps_add(core, child, parent);
        if (is_added) {
            forget_id(core, child, child->deps_asked);
        }
        return is_added;
    }
    if (recent != NULL && satisfies(child, (mq_state)recent->state)) {
        forget_id(core, child, child->deps_asked);
        mq_job_dirty(core, child);
        return true;
    }
    if (recent != NULL) {
        fail_child(core, child, id);
        return true;
    }
    mq_ask *ask = mq_ask_new(core, MQ_ASK_DEP, id, out);
    if (ask == NULL) {
        return false;
    }
    ask->job = mq_job_no(core, child);
    ask->number = child->number;
    child->deps_asked = (uint16_t)(child->deps_asked + MQ_ULID_LEN);
    return true;
}

void mq_deps_turn(mq_core *core, mq_outputs *out)
{
    if (core->is_loading) {
        return; /* a parent may be in a segment that is still to come */
    }
    for (int i = 0; i < MQ_TURN_DEPS && core->unresolved_head != MQ_NONE; i++) {
        mq_job *child = &core->jobs[core->unresolved_head];
        while (!mq_job_ended(child) && child->deps_asked < child->deps_len) {
            if (!look_up(core, child, out)) {
                return; /* the table of questions is full: next turn */
            }
        }
        core->unresolved_head = child->next_unresolved;
        child->in_unresolved = false;
        settle(core, child);
    }
    core->wants_turn = core->wants_turn || core->unresolved_head != MQ_NONE;
}

/* A parent that was an edge becomes an id again; there is room, deps held all ids once. */
static void keep_id(mq_core *core, mq_job *child, const mq_job *parent)
{
    MQ_ASSERT(child->deps.at != 0 && (size_t)child->deps_len + MQ_ULID_LEN <= child->deps.len);
    memcpy(mq_pool_at(&core->pool, child->deps) + child->deps_len, parent->id, MQ_ULID_LEN);
    child->deps_len = (uint16_t)(child->deps_len + MQ_ULID_LEN);
}

void mq_deps_release(mq_core *core, mq_job *parent, mq_state state)
{
    mq_span id = mq_span_of(parent->id, MQ_ULID_LEN);
    while (parent->children != MQ_NONE) {
        uint32_t no = parent->children;
        mq_job *child = &core->jobs[core->edges[no].child];
        unlink_from_parent(core, no);
        unlink_from_child(core, no);
        give_edge(core, no);
        if (mq_job_ended(child)) {
            if (!satisfies(child, state)) {
                keep_id(core, child, parent); /* its create may be stored yet, and a crash follow */
            }
            continue;
        }
        if (!satisfies(child, state)) {
            keep_id(core, child, parent); /* until the child's end is stored */
            fail_child(core, child, id);
        } else {
            mq_job_dirty(core, child);
            settle(core, child);
        }
    }
}

void mq_deps_orphan(mq_core *core, mq_job *parent)
{
    while (parent->children != MQ_NONE) {
        uint32_t no = parent->children;
        mq_job *child = &core->jobs[core->edges[no].child];
        unlink_from_parent(core, no);
        unlink_from_child(core, no);
        give_edge(core, no);
        keep_id(core, child, parent);
        mq_deps_later(core, child);
    }
}

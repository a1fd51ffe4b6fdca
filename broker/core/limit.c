/* Limits of a queue, a kind or a key, for the whole fleet: how many jobs are leased at once, and a
 * token bucket for how many start in a period (J. Turner, "New directions in communications", IEEE
 * Communications 24(10), 1986). "key=*" gives each key a limit of its own.
 *
 * A full limit of a queue or kind makes dispatch pass by its lanes; one of a key takes its strands
 * out of their flows until it opens. Neither looks at a job. What counts is counted when a job is
 * leased and when it leaves that state, so it is right again after a takeover: loaded leases count,
 * caps stay closed until all are loaded, and a bucket that is loaded begins empty. It must not know
 * workers. */
#include "broker/core/state.h"

enum { WAKE_MAX = 64 /* strands that one limit puts back in one turn */ };

static uint32_t no_of(const mq_core *core, const mq_limit *l)
{
    return (uint32_t)(l - core->limits);
}

static void refill(const mq_core *core, mq_limit *l)
{
    uint64_t most = (uint64_t)l->burst * l->period_ms;
    int64_t passed = core->now_ms - l->filled_ms;
    if (passed <= 0) {
        return;
    }
    l->filled_ms = core->now_ms;
    uint64_t ms = (uint64_t)passed;
    bool is_full = ms > most / l->rate || l->level + ms * l->rate >= most;
    l->level = is_full ? most : l->level + ms * l->rate;
}

/* When there is a token again. */
static int64_t token_ms(const mq_core *core, const mq_limit *l)
{
    uint64_t missing = l->level >= l->period_ms ? 0 : l->period_ms - l->level;
    return core->now_ms + (int64_t)((missing + l->rate - 1) / l->rate);
}

/* May one more job start? If not for want of a token, the limit is looked at again in time. */
static bool is_open(mq_core *core, mq_limit *l)
{
    if (l->lent.is_lent) {
        return mq_lend_open(core, l);
    }
    if (l->concurrency > 0 && (core->is_loading || l->running >= l->concurrency)) {
        return false;
    }
    if (l->rate == 0) {
        return true;
    }
    refill(core, l);
    if (l->level >= l->period_ms) {
        return true;
    }
    mq_heap_set(&core->limit_timers, no_of(core, l), token_ms(core, l));
    return false;
}

bool mq_lane_open(mq_core *core, const mq_lane *lane)
{
    if (!lane->is_limited) {
        return true;
    }
    return (lane->limits[0] == 0 || is_open(core, &core->limits[lane->limits[0]])) &&
           (lane->limits[1] == 0 || is_open(core, &core->limits[lane->limits[1]]));
}

static void take_one(mq_core *core, mq_job *job, uint32_t no)
{
    mq_limit *l = &core->limits[no];
    l->running++;
    job->limited |= (uint8_t)(1U << l->type);
    if (l->lent.is_lent) {
        mq_lend_take(l);
    } else if (l->rate > 0) {
        l->level -= l->level < l->period_ms ? l->level : l->period_ms;
    }
}

void mq_limits_take(mq_core *core, mq_job *job)
{
    const uint32_t limits[MQ_LIMIT_TYPES] = {core->names[job->queue].limits[MQ_LIMIT_QUEUE],
                                             core->names[job->kind].limits[MQ_LIMIT_KIND],
                                             core->names[job->key].limits[MQ_LIMIT_KEY]};
    for (int i = 0; i < MQ_LIMIT_TYPES; i++) {
        if (limits[i] != 0) {
            take_one(core, job, limits[i]);
        }
    }
}

void mq_limits_give(mq_core *core, mq_job *job)
{
    const uint32_t names[MQ_LIMIT_TYPES] = {job->queue, job->kind, job->key};
    for (int i = 0; i < MQ_LIMIT_TYPES; i++) {
        uint32_t no = core->names[names[i]].limits[i];
        if ((job->limited & 1U << i) == 0 || no == 0) {
            continue;
        }
        MQ_ASSERT(core->limits[no].running > 0);
        core->limits[no].running--;
        if (core->limits[no].lent.is_lent) {
            mq_lend_give(core, &core->limits[no]);
        }
        mq_heap_set(&core->limit_timers, no, core->now_ms); /* wakes strands, or frees it */
    }
    job->limited = 0;
}

/* ---- strands under the limit of their key ---- */

void mq_limit_block(mq_core *core, uint32_t strand)
{
    mq_strand *s = &core->strands[strand];
    mq_limit *l = &core->limits[s->limit];
    MQ_ASSERT(!s->is_blocked);
    s->is_blocked = true;
    s->blocked_next = MQ_NONE;
    s->blocked_prev = l->blocked_tail;
    *(l->blocked_tail == MQ_NONE ? &l->blocked_head
                                 : &core->strands[l->blocked_tail].blocked_next) = strand;
    l->blocked_tail = strand;
    mq_lane_of(core, s)->blocked += s->count;
    mq_strand_place(core, strand);
}

static void unblock(mq_core *core, uint32_t strand)
{
    mq_strand *s = &core->strands[strand];
    mq_limit *l = &core->limits[s->limit];
    MQ_ASSERT(s->is_blocked);
    *(s->blocked_prev == MQ_NONE ? &l->blocked_head
                                 : &core->strands[s->blocked_prev].blocked_next) = s->blocked_next;
    *(s->blocked_next == MQ_NONE ? &l->blocked_tail
                                 : &core->strands[s->blocked_next].blocked_prev) = s->blocked_prev;
    s->is_blocked = false;
    s->blocked_prev = s->blocked_next = MQ_NONE;
    mq_lane_of(core, s)->blocked -= s->count;
    mq_strand_place(core, strand);
}

bool mq_strand_open(mq_core *core, uint32_t strand)
{
    const mq_strand *s = &core->strands[strand];
    return s->limit == 0 || is_open(core, &core->limits[s->limit]);
}

void mq_limit_part(mq_core *core, uint32_t strand)
{
    mq_strand *s = &core->strands[strand];
    uint32_t no = s->limit;
    if (s->is_blocked) {
        unblock(core, strand);
    }
    s->limit = 0;
    MQ_ASSERT(core->limits[no].strands > 0);
    core->limits[no].strands--;
    mq_heap_set(&core->limit_timers, no, core->now_ms);
}

/* ---- making and ending ---- */

static mq_limit *new_limit(mq_core *core, mq_limit_type type, uint32_t name)
{
    uint32_t no = MQ_TAKE(core, limit, limits, mq_limit);
    if (no == MQ_NONE) {
        return NULL;
    }
    core->limits[no] = (mq_limit){.is_used = true,
                                  .type = (uint8_t)type,
                                  .name = name,
                                  .filled_ms = core->now_ms,
                                  .blocked_head = MQ_NONE,
                                  .blocked_tail = MQ_NONE};
    core->names[name].limits[type] = no;
    mq_name_hold(core, name);
    if (mq_limit_is_lent(core, type)) {
        mq_lend_begin(core, &core->limits[no]);
    }
    return &core->limits[no];
}

static void free_limit(mq_core *core, uint32_t no)
{
    mq_limit *l = &core->limits[no];
    MQ_ASSERT(l->strands == 0 && l->blocked_head == MQ_NONE);
    mq_heap_remove(&core->limit_timers, no);
    core->names[l->name].limits[l->type] = 0;
    mq_name_drop(core, l->name);
    l->is_used = false;
    l->next_free = mq_slots_give(&core->limit_slots, no);
}

static void copy_rule(mq_limit *l, const mq_limit *rule)
{
    l->concurrency = rule->concurrency;
    l->rate = rule->rate;
    l->period_ms = rule->period_ms;
    l->burst = rule->burst;
    uint64_t most = (uint64_t)l->burst * l->period_ms;
    l->level = l->level < most ? l->level : most;
}

/* The limit of a key: its own, or one made from "key=*" while it is needed; NULL: none. */
static mq_limit *limit_of_key(mq_core *core, uint32_t key)
{
    uint32_t no = core->names[key].limits[MQ_LIMIT_KEY];
    if (no != 0 || !core->every_key.is_used || key == 0) {
        return no == 0 ? NULL : &core->limits[no];
    }
    mq_limit *l = new_limit(core, MQ_LIMIT_KEY, key);
    if (l != NULL) {
        copy_rule(l, &core->every_key);
        l->level = core->is_loading ? 0 : (uint64_t)l->burst * l->period_ms;
    }
    return l;
}

void mq_limit_join(mq_core *core, uint32_t strand)
{
    mq_limit *l = limit_of_key(core, core->strands[strand].key);
    if (l != NULL) {
        core->strands[strand].limit = no_of(core, l);
        l->strands++;
    }
}

void mq_limits_load(mq_core *core, mq_job *job)
{
    MQ_ASSERT(job->state == MQ_STATE_LEASED && job->limited == 0);
    const uint32_t names[MQ_LIMIT_TYPES] = {job->queue, job->kind, job->key};
    if (core->limit_slots.count == 1 && !core->every_key.is_used) {
        return; /* slot 0 is nobody's */
    }
    (void)limit_of_key(core, job->key);
    for (int i = 0; i < MQ_LIMIT_TYPES; i++) {
        uint32_t no = core->names[names[i]].limits[i];
        if (no != 0) {
            core->limits[no].running++;
            job->limited |= (uint8_t)(1U << i);
            if (core->limits[no].lent.is_lent) {
                mq_lend_counted(&core->limits[no]);
            }
        }
    }
}

/* After a rule has changed: who is under which limit, and what is counted. Looks at every job in
 * memory once, at an operator's command. */
static void recount(mq_core *core)
{
    for (uint32_t i = 0; i < core->strand_slots.high; i++) {
        mq_strand *s = &core->strands[i];
        if (s->is_used && s->limit != 0) {
            mq_limit_part(core, i);
        }
    }
    for (uint32_t i = 1; i < core->limit_slots.high; i++) {
        mq_limit *l = &core->limits[i];
        l->running = 0;
        if (l->is_used && !l->is_own) {
            copy_rule(l, &core->every_key);
            if (!core->every_key.is_used) {
                free_limit(core, i);
            }
        }
    }
    for (uint32_t i = 0; i < core->strand_slots.high; i++) {
        if (core->strands[i].is_used && core->strands[i].key != 0) {
            mq_limit_join(core, i);
        }
    }
    for (uint32_t i = 0; i < core->job_slots.high; i++) {
        mq_job *job = &core->jobs[i];
        if (job->is_used && job->state == MQ_STATE_LEASED) {
            job->limited = 0;
            mq_limits_load(core, job);
        }
    }
    mq_lanes_refresh(core);
    core->wants_turn = true;
}

bool mq_limit_set(mq_core *core, mq_limit_type type, mq_span name, const mq_limit *rule)
{
    bool is_set = rule->concurrency > 0 || rule->rate > 0;
    if (type == MQ_LIMIT_KEY && mq_span_is(name, "*")) {
        core->every_key = *rule;
        core->every_key.is_used = is_set;
        recount(core);
        return true;
    }
    uint32_t no = is_set ? mq_name_take(core, name) : mq_name_find(core, name);
    if (no == MQ_NONE) {
        return !is_set;
    }
    uint32_t old = core->names[no].limits[type];
    mq_limit *l = old != 0 ? &core->limits[old] : is_set ? new_limit(core, type, no) : NULL;
    if (l != NULL) {
        bool is_new = old == 0 || !l->is_own;
        l->is_own = is_set;
        copy_rule(l, rule);
        l->level = !is_new ? l->level : core->is_loading ? 0 : (uint64_t)l->burst * l->period_ms;
        if (!is_set && (type != MQ_LIMIT_KEY || !core->every_key.is_used)) {
            for (uint32_t i = 0; i < core->strand_slots.high; i++) {
                if (core->strands[i].is_used && core->strands[i].limit == old) {
                    mq_limit_part(core, i);
                }
            }
            free_limit(core, old);
        }
        recount(core);
    }
    if (is_set) {
        mq_name_drop(core, no); /* the limit holds it */
    }
    return l != NULL || !is_set;
}

/* ---- time ---- */

/* A limit made from "key=*" goes when nobody is under it and its bucket is full again. */
static void retire(mq_core *core, mq_limit *l)
{
    uint64_t most = (uint64_t)l->burst * l->period_ms;
    if (l->rate > 0) {
        refill(core, l);
    }
    if (l->level >= most) {
        free_limit(core, no_of(core, l));
    } else {
        int64_t full_ms = core->now_ms + (int64_t)((most - l->level + l->rate - 1) / l->rate);
        mq_heap_set(&core->limit_timers, no_of(core, l), full_ms);
    }
}

static void wake(mq_core *core, mq_limit *l)
{
    for (int i = 0; i < WAKE_MAX && l->blocked_head != MQ_NONE; i++) {
        if (!is_open(core, l)) {
            return;
        }
        unblock(core, l->blocked_head);
    }
    if (l->blocked_head != MQ_NONE) {
        mq_heap_set(&core->limit_timers, no_of(core, l), core->now_ms + 1);
    }
}

void mq_limits_turn(mq_core *core)
{
    for (int i = 0; i < MQ_TURN_TIMERS; i++) {
        const mq_heap_entry *top = mq_heap_top(&core->limit_timers);
        if (top == NULL || top->key > core->now_ms) {
            return;
        }
        mq_limit *l = &core->limits[top->id];
        mq_heap_remove(&core->limit_timers, top->id);
        if (l->blocked_head != MQ_NONE) {
            wake(core, l);
        } else if (!l->is_own && l->strands == 0 && l->running == 0) {
            retire(core, l);
        }
    }
    core->wants_turn = true;
}

void mq_limits_loaded(mq_core *core)
{
    for (uint32_t i = 1; i < core->limit_slots.high; i++) {
        if (core->limits[i].is_used) {
            mq_heap_set(&core->limit_timers, i, core->now_ms);
        }
    }
}

/* ---- what may be read ---- */

const char *mq_limit_type_name(mq_limit_type type)
{
    static const char *const names[MQ_LIMIT_TYPES] = {"queue", "kind", "key"};
    MQ_ASSERT(type < MQ_LIMIT_TYPES);
    return names[type];
}

bool mq_core_limit(const mq_core *core, uint32_t index, mq_limit_view *out)
{
    const mq_limit *l = index == 0 ? &core->every_key : &core->limits[index];
    if (index >= core->limit_slots.high || !l->is_used) {
        return false;
    }
    *out = (mq_limit_view){.type = (mq_limit_type)l->type,
                           .name = index == 0 ? mq_str("*") : mq_name_text(core, l->name),
                           .concurrency = l->concurrency,
                           .rate = l->rate,
                           .period_ms = l->period_ms,
                           .burst = l->burst,
                           .running = l->running,
                           .is_own = l->is_own,
                           .is_waited_for = l->blocked_head != MQ_NONE};
    if (l->lent.is_lent) {
        out->tokens = l->lent.tokens;
        out->next_ms = l->rate > 0 && l->lent.tokens == 0 ? l->lent.again_ms : core->now_ms;
    } else if (l->rate > 0 && index > 0) {
        mq_limit now = *l;
        refill(core, &now);
        out->tokens = (uint32_t)(now.level / now.period_ms);
        out->next_ms = token_ms(core, &now);
    }
    return true;
}

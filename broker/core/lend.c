/* Limits that several shards share: a queue's or kind's permits and tokens are lent to this shard
 * out of a book in the store (shared/store/lend.h). This file says when to ask for what, and takes
 * the answers; a start that finds none left waits like under any full limit (limit.c). It must not
 * know how asks travel. */
#include "shared/store/lend.h"
#include <stdio.h>

#include "broker/core/state.h"

enum {
    POLL_MS = 100, /* while something is held: others may lack it */
    AGAIN_MS = 20, /* after an ask that brought nothing */
    AGAIN_MS_MAX = 200,
    BATCH_MS = 100, /* tokens are asked for so far ahead */
};

bool mq_limit_is_lent(const mq_core *core, mq_limit_type type)
{
    return core->config.shards > 1 && type != MQ_LIMIT_KEY; /* keys live in one shard */
}

void mq_lend_begin(mq_core *core, mq_limit *l)
{
    l->lent = (mq_lent){.is_lent = true, .must_tell = true};
    l->lent.held = l->lent.share = l->running;
    core->lend_due_ms = 0;
}

bool mq_lend_open(mq_core *core, mq_limit *l)
{
    bool is_open = (l->concurrency == 0 || (!core->is_loading && l->running < l->lent.held &&
                                            l->running < l->concurrency)) &&
                   (l->rate == 0 || l->lent.tokens > 0);
    if (!is_open) {
        l->lent.is_wanted = true;
        core->lend_due_ms = mq_min_i64(core->lend_due_ms, l->lent.again_ms);
    }
    return is_open;
}

void mq_lend_take(mq_limit *l)
{
    if (l->rate > 0 && l->lent.tokens > 0) {
        l->lent.tokens--;
    }
}

/* What runs is held; what others wait for goes when it is free. */
static void shrink(mq_core *core, mq_limit *l)
{
    uint32_t keep = l->lent.share > l->running ? l->lent.share : l->running;
    if (l->lent.held > keep) {
        l->lent.held = keep;
        l->lent.must_tell = true;
        core->lend_due_ms = mq_min_i64(core->lend_due_ms, l->lent.again_ms);
    }
}

void mq_lend_give(mq_core *core, mq_limit *l)
{
    shrink(core, l);
}

void mq_lend_counted(mq_limit *l)
{
    l->lent.held = l->lent.held < l->running ? l->running : l->lent.held;
    l->lent.must_tell = true;
}

/* ---- asking ---- */

/* Jobs that wait under each lent limit. Transient for one call. */
static void count_waiting(mq_core *core)
{
    for (uint32_t i = 1; i < core->limit_slots.high; i++) {
        core->limits[i].lent.waiting = 0;
    }
    for (uint32_t i = 0; i < core->lane_slots.high; i++) {
        const mq_lane *lane = &core->lanes[i];
        for (int k = 0; k < 2 && lane->is_used && lane->is_limited && !lane->is_paused; k++) {
            if (lane->limits[k] != 0) {
                core->limits[lane->limits[k]].lent.waiting += lane->count - lane->blocked;
            }
        }
    }
}

static uint64_t tokens_wanted(const mq_limit *l)
{
    uint64_t ahead = (uint64_t)l->rate * BATCH_MS / l->period_ms + 1;
    uint64_t most = ahead < l->burst ? ahead : l->burst;
    most = most < l->lent.waiting ? most : l->lent.waiting;
    return most > l->lent.tokens ? most - l->lent.tokens : 0;
}

static bool is_due(const mq_core *core, const mq_limit *l)
{
    const mq_lent *t = &l->lent;
    if (core->now_ms < t->again_ms) {
        return false;
    }
    bool has_any = t->held > 0 || t->tokens > 0 || t->was_needed;
    return t->must_tell || (t->is_wanted && t->waiting > 0) ||
           (has_any && core->now_ms >= t->poll_ms);
}

static void fill(mq_core *core, mq_limit *l, mq_lend_line *line)
{
    mq_lent *t = &l->lent;
    mq_span name = mq_name_text(core, l->name);
    uint64_t need = (uint64_t)l->running + t->waiting;
    if (t->waiting == 0 && l->running == 0) {
        t->held = 0; /* at rest: all of it goes back */
    }
    mq_lend_ask ask = {.epoch = core->epoch,
                       .number = ++core->lend_number,
                       .cap = l->concurrency,
                       .held = t->held,
                       .need = need < l->concurrency ? need : l->concurrency,
                       .rate = l->rate,
                       .period_ms = l->period_ms,
                       .burst = l->burst};
    if (l->rate > 0 && t->waiting == 0) {
        ask.back = t->tokens;
        t->tokens = 0;
    }
    ask.have = t->tokens;
    ask.want = l->rate > 0 ? tokens_wanted(l) : 0;
    line->ask = ask;
    (void)snprintf(line->name, sizeof line->name, "%s=%.*s",
                   mq_limit_type_name((mq_limit_type)l->type), MQ_SPAN_ARG(name));
    t->was_needed = need > 0;
    t->number = ask.number;
    t->must_tell = t->is_wanted = false;
    t->poll_ms = core->now_ms + POLL_MS;
    t->again_ms = core->now_ms + AGAIN_MS; /* should no answer come */
}

uint32_t mq_core_lend_asks(mq_core *core, mq_lend_line *out, uint32_t most)
{
    uint32_t count = 0;
    int64_t next_ms = INT64_MAX;
    if (core->config.shards < 2 || core->is_loading || core->now_ms < core->lend_due_ms) {
        return 0;
    }
    count_waiting(core);
    for (uint32_t i = 1; i < core->limit_slots.high; i++) {
        mq_limit *l = &core->limits[i];
        if (!l->is_used || !l->lent.is_lent) {
            continue;
        }
        if (count < most && is_due(core, l)) {
            fill(core, l, &out[count++]);
        }
        const mq_lent *t = &l->lent;
        bool has_any = t->held > 0 || t->tokens > 0 || t->was_needed;
        bool is_soon = t->must_tell || (t->is_wanted && t->waiting > 0);
        if (is_soon || has_any) {
            next_ms = mq_min_i64(next_ms, is_soon ? t->again_ms : t->poll_ms);
        }
    }
    core->lend_due_ms = mq_max_i64(next_ms, core->now_ms + 1);
    return count;
}

int64_t mq_core_lend_due(const mq_core *core)
{
    return core->config.shards < 2 || core->is_loading || core->limit_slots.count == 1
               ? INT64_MAX
               : core->lend_due_ms;
}

/* ---- answers ---- */

/* The limit that a line is about, if that was its latest ask; NULL: it has changed since. */
static mq_limit *limit_of(mq_core *core, const mq_lend_line *line)
{
    for (uint32_t i = 1; i < core->limit_slots.high; i++) {
        mq_limit *l = &core->limits[i];
        if (l->is_used && l->lent.is_lent && l->lent.number == line->ask.number) {
            return l;
        }
    }
    return NULL;
}

void mq_lend_answered(mq_core *core, const mq_input *in)
{
    const mq_lend_line *line = in->as.lent.line;
    const mq_lend_grant *g = in->as.lent.grant;
    mq_limit *l = line->ask.epoch == core->epoch ? limit_of(core, line) : NULL;
    if (l == NULL || !g->is_good) {
        return; /* what was told holds in the book; the next ask says it again */
    }
    mq_lent *t = &l->lent;
    bool is_more = g->held > line->ask.held || g->tokens > 0;
    bool is_bound = l->rate > 0 && g->tokens == 0 && line->ask.want > 0;
    if (l->concurrency > 0) {
        t->held = (uint32_t)mq_min_i64((int64_t)g->held, UINT32_MAX);
        t->held = t->held < l->running ? l->running : t->held;
        t->share = (uint32_t)mq_min_i64((int64_t)g->share, UINT32_MAX);
    }
    t->tokens += (uint32_t)g->tokens;
    uint64_t wait_ms = is_bound && g->wait_ms > 0 ? g->wait_ms : AGAIN_MS;
    wait_ms = wait_ms > AGAIN_MS_MAX ? AGAIN_MS_MAX : wait_ms;
    t->again_ms = core->now_ms + (is_more ? 0 : (int64_t)wait_ms);
    shrink(core, l);
    core->wants_turn = true;
}

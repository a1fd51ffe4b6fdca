/* Each free slot is lent to the owner of one shard at a time. Who has jobs waiting says so; credit
 * that an owner does not use is taken back by a beat, and lent elsewhere once that beat has been
 * answered: what the owner had sent before has come by then. Pure; see session.h. */
#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/core/job.h"

static void keep(mq_worker_session *s)
{
    s->talks[s->at] = (mq_ws_talk){.link = s->link,
                                   .broker = s->broker,
                                   .heard_ms = s->heard_ms,
                                   .asked_ms = s->asked_ms,
                                   .ask_ms = s->ask_ms,
                                   .next_beat_ms = s->next_beat_ms,
                                   .epoch = s->epoch,
                                   .seq = s->seq,
                                   .jobs_seen = s->jobs_seen,
                                   .free_told = s->free_told,
                                   .seen_told = s->seen_told,
                                   .want_beat = s->want_beat};
}

void mq_ws_from(mq_worker_session *s, uint32_t at)
{
    MQ_ASSERT(at < s->talk_count);
    if (at == s->at) {
        return;
    }
    keep(s);
    const mq_ws_talk *t = &s->talks[at];
    s->at = at;
    s->link = t->link;
    s->broker = t->broker;
    s->heard_ms = t->heard_ms;
    s->asked_ms = t->asked_ms;
    s->ask_ms = t->ask_ms;
    s->next_beat_ms = t->next_beat_ms;
    s->epoch = t->epoch;
    s->seq = t->seq;
    s->jobs_seen = t->jobs_seen;
    s->free_told = t->free_told;
    s->seen_told = t->seen_told;
    s->want_beat = t->want_beat;
}

void mq_ws_talks(mq_worker_session *s, uint64_t shards)
{
    uint32_t count = shards < 1 ? 1 : shards > MQ_WS_TALKS_MAX ? MQ_WS_TALKS_MAX : (uint32_t)shards;
    for (; s->talk_count < count; s->talk_count++) {
        s->talks[s->talk_count] = (mq_ws_talk){.link = MQ_WS_DOWN, .broker = s->broker};
    }
}

/* What the owner at hand still may use of what it was told. */
static uint64_t told_left(const mq_worker_session *s)
{
    uint64_t came = s->jobs_seen - s->seen_told;
    return s->free_told > came ? s->free_told - came : 0;
}

void mq_ws_on_want(mq_worker_session *s, const mq_msg_want *m, int64_t now_ms)
{
    mq_ws_loan *l = &s->loans[s->at];
    s->heard_ms = now_ms;
    l->wanted_ms = m->waiting == 0 ? 0 : now_ms + MQ_WS_WANT_MS;
    l->patience_ms = m->patience_ms > 60000 ? 60000 : (int64_t)m->patience_ms;
    l->patience_ms = mq_max_i64(l->patience_ms, MQ_WS_PATIENCE_MS);
}

void mq_ws_lend_job(mq_worker_session *s, int64_t now_ms)
{
    mq_ws_loan *l = &s->loans[s->at];
    l->held -= l->held > 0;
    l->used_ms = now_ms;
}

void mq_ws_lend_told(mq_worker_session *s, uint64_t before, int64_t now_ms)
{
    mq_ws_loan *l = &s->loans[s->at];
    if (s->free_told >= before && l->back_seq == 0) {
        l->used_ms = s->free_told > before ? now_ms : l->used_ms;
        l->held = s->free_told;
    } else if (s->free_told < before) {
        l->back_seq = s->seq;
    }
    l->held = s->free_told > l->held ? s->free_told : l->held;
}

void mq_ws_lend_back(mq_worker_session *s, uint64_t seq, uint64_t reserved)
{
    mq_ws_loan *l = &s->loans[s->at];
    if (l->back_seq != 0 && seq >= l->back_seq) {
        l->back_seq = 0;
        l->held = told_left(s) + reserved;
    }
}

void mq_ws_lend_lost(mq_worker_session *s)
{
    mq_ws_loan *l = &s->loans[s->at];
    l->share = l->held = l->back_seq = 0;
    s->free_told = 0;
    s->seen_told = s->jobs_seen;
}

static bool is_serving(const mq_worker_session *s, uint32_t talk)
{
    return (talk == s->at ? s->link : s->talks[talk].link) == MQ_WS_SERVING;
}

/* Gives `spare` slots out, one at a time in turn, to those that are asked for. */
static uint64_t give(mq_worker_session *s, uint64_t spare, bool only_wanted, int64_t now_ms)
{
    uint32_t misses = 0;
    while (spare > 0 && misses < s->talk_count) {
        uint32_t k = s->lend_next++ % s->talk_count;
        mq_ws_loan *l = &s->loans[k];
        bool may = is_serving(s, k) && l->back_seq == 0 && (!only_wanted || l->wanted_ms > now_ms);
        misses = may ? 0 : misses + 1;
        l->share += may;
        spare -= may;
    }
    return spare;
}

/* Someone wants a slot and has none: whoever leaves one unused gives it back. */
static void take_back(mq_worker_session *s, int64_t now_ms)
{
    bool is_wanted = false;
    uint32_t best = MQ_WS_TALKS_MAX;
    for (uint32_t k = 0; k < s->talk_count; k++) {
        const mq_ws_loan *l = &s->loans[k];
        is_wanted |= is_serving(s, k) && l->wanted_ms > now_ms && l->share == 0 && l->held == 0;
        bool is_idle = l->wanted_ms <= now_ms || now_ms - l->used_ms >= l->patience_ms;
        if (l->share > 0 && l->back_seq == 0 && is_idle &&
            (best == MQ_WS_TALKS_MAX || l->share > s->loans[best].share)) {
            best = k;
        }
    }
    if (is_wanted && best != MQ_WS_TALKS_MAX) {
        mq_ws_loan *l = &s->loans[best];
        l->share -= l->wanted_ms > now_ms ? 1 : (l->share + 1) / 2;
    }
}

void mq_ws_lend(mq_worker_session *s, int64_t now_ms)
{
    uint64_t all = mq_ws_credit(s, now_ms), held = 0;
    uint32_t at = s->at;
    for (uint32_t k = 0; k < s->talk_count; k++) {
        mq_ws_from(s, k);
        mq_ws_loan *l = &s->loans[k];
        l->share = s->link == MQ_WS_SERVING ? told_left(s) : 0;
        held += s->link == MQ_WS_SERVING ? l->held : 0;
    }
    mq_ws_from(s, at);
    if (all > held) {
        (void)give(s, give(s, all - held, true, now_ms), false, now_ms);
    } else {
        for (uint32_t k = 0; k < s->talk_count && held > all; k++) { /* fewer slots than before */
            mq_ws_loan *l = &s->loans[k];
            uint64_t cut = l->share < held - all ? l->share : held - all;
            l->share -= l->back_seq == 0 ? cut : 0;
            held -= l->back_seq == 0 ? cut : 0;
        }
        take_back(s, now_ms);
    }
}

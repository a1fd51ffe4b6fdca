/* The worker's session with its brokers; see session.h. Pure: no I/O, no clock, no allocation, no
 * formatting. Connection and timers are here, what happens to a job in job.c. */
#include "worker/core/session.h"

#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/core/job.h"

void mq_ws_init(mq_worker_session *s, const mq_ws_config *config, int64_t now_ms)
{
    MQ_ASSERT(config->broker_count > 0);
    MQ_ASSERT(config->slot_count > 0 && config->slot_count <= MQ_WS_SLOTS_MAX);
    *s = (mq_worker_session){
        .config = *config, .talk_count = 1, .beat_ms = MQ_WS_BEAT_MS, .heard_ms = now_ms};
    s->prng.state = config->seed;
    s->free_head = s->waiting_head = s->waiting_tail = MQ_WS_NONE;
    for (uint32_t i = 0; i < MQ_WS_HASH_SIZE; i++) {
        s->by_grant[i] = MQ_WS_NONE;
    }
    for (uint32_t i = 0; i < MQ_WS_SLOTS_MAX; i++) {
        s->slots[i] = MQ_WS_SLOT_DEAD;
    }
}

mq_ws_action *mq_ws_put(mq_ws_actions *out, mq_ws_action_type type)
{
    MQ_ASSERT(out->count < MQ_WS_ACTIONS_MAX);
    mq_ws_action *action = &out->at[out->count++];
    *action = (mq_ws_action){.type = type};
    return action;
}

/* The same, about the shard at hand. */
static mq_ws_action *put(const mq_worker_session *s, mq_ws_actions *out, mq_ws_action_type type)
{
    mq_ws_action *action = mq_ws_put(out, type);
    action->talk = s->at;
    return action;
}

/* Beats are spread by a tenth, so that a fleet does not beat as one. */
static int64_t beat_after(mq_worker_session *s)
{
    int64_t tenth = mq_max_i64(s->beat_ms / 10, 1);
    return s->beat_ms - tenth + (int64_t)mq_prng_below(&s->prng, (uint64_t)(2 * tenth + 1));
}

static void greet(mq_worker_session *s, int64_t now_ms)
{
    s->link = MQ_WS_GREETING;
    s->asked_ms = now_ms;
    s->ask_ms = now_ms;
    mq_ws_lend_lost(s);
}

static void set_beat_ms(mq_worker_session *s, uint64_t beat_ms)
{
    if (beat_ms > 0) {
        s->beat_ms = (int64_t)(beat_ms < 10 ? 10 : beat_ms > 600000 ? 600000 : beat_ms);
    }
}

void mq_ws_on_welcome(mq_worker_session *s, const mq_msg_welcome *m, int64_t now_ms,
                      mq_ws_actions *out)
{
    (void)out;
    s->heard_ms = now_ms;
    set_beat_ms(s, m->beat_ms);
    mq_ws_talks(s, m->shards);
    if (s->link == MQ_WS_GREETING) {
        s->link = MQ_WS_REGISTERING;
        s->asked_ms = now_ms;
        s->ask_ms = now_ms;
    }
}

void mq_ws_on_registered(mq_worker_session *s, const mq_msg_registered *m, int64_t now_ms,
                         mq_ws_actions *out)
{
    s->heard_ms = now_ms;
    set_beat_ms(s, m->beat_ms);
    if (s->link == MQ_WS_REGISTERING) {
        s->link = MQ_WS_SERVING;
        s->epoch = m->epoch;
        s->want_beat = true;
        for (uint32_t i = 0; i < s->high; i++) {
            s->jobs[i].resend_ms = s->jobs[i].talk == s->at ? 0 : s->jobs[i].resend_ms;
        }
    }
    for (uint32_t i = 0; i < m->verdicts_count; i++) {
        mq_ws_job_verdict(s, &m->verdicts[i], false, now_ms, out);
    }
}

void mq_ws_on_beaten(mq_worker_session *s, const mq_msg_beaten *m, int64_t now_ms,
                     mq_ws_actions *out)
{
    s->heard_ms = now_ms;
    mq_ws_lend_back(s, m->seq, m->reserved);
    for (uint32_t i = 0; i < m->verdicts_count; i++) {
        mq_ws_job_verdict(s, &m->verdicts[i], false, now_ms, out);
    }
}

void mq_ws_on_verdict(mq_worker_session *s, const mq_msg_verdict *m, int64_t now_ms,
                      mq_ws_actions *out)
{
    s->heard_ms = now_ms;
    for (uint32_t i = 0; i < m->verdicts_count; i++) {
        mq_ws_job_verdict(s, &m->verdicts[i], true, now_ms, out);
    }
}

void mq_ws_on_job(mq_worker_session *s, const mq_msg_job *m, int64_t now_ms, mq_ws_actions *out)
{
    s->heard_ms = now_ms;
    /* The beat is the acceptance: it goes out before anything runs. Quick jobs need none: the next
     * word about credit counts them (jobs_seen), and their results follow. */
    bool is_quick = s->run_us > 0 && s->run_us < MQ_WS_HAND_US;
    for (uint32_t i = 0; i < m->jobs_count; i++) {
        s->jobs_seen++;
        mq_ws_lend_job(s, now_ms);
        s->want_beat = s->want_beat || !is_quick || m->jobs[i].gang_epoch > 0;
        mq_ws_job_accept(s, &m->jobs[i], i, now_ms, out);
    }
}

void mq_ws_on_error(mq_worker_session *s, const mq_msg_error *m, int64_t now_ms, mq_ws_actions *out)
{
    s->heard_ms = now_ms;
    if (mq_span_is(m->code, "moved") || mq_span_is(m->code, "version")) {
        mq_ws_next_broker(s, now_ms, out);
        s->asked_ms = now_ms - MQ_WS_ANSWER_MS + MQ_WS_MOVED_MS;
        return;
    }
    if (mq_span_is(m->code, "busy") && m->rid == 0 && m->retry_ms > 0) { /* nobody owns it now */
        if (s->link != MQ_WS_GREETING) {
            greet(s, now_ms);
        }
        s->ask_ms = now_ms + (int64_t)(m->retry_ms < MQ_WS_HELLO_MS ? m->retry_ms : MQ_WS_HELLO_MS);
        return;
    }
    bool is_unknown = mq_span_is(m->code, "unknown") || mq_span_is(m->code, "not_found");
    if (is_unknown && m->rid == 0 && s->link == MQ_WS_SERVING) {
        greet(s, now_ms);
    }
}

void mq_ws_on_other(mq_worker_session *s, int64_t now_ms)
{
    s->heard_ms = now_ms;
}

void mq_ws_on_link_down(mq_worker_session *s, int64_t now_ms)
{
    if (s->link != MQ_WS_DOWN) {
        greet(s, now_ms);
        s->asked_ms = now_ms - MQ_WS_ANSWER_MS + MQ_WS_GONE_MS;
    }
}

void mq_ws_on_link_up(mq_worker_session *s, int64_t now_ms)
{
    if (s->link == MQ_WS_GREETING) {
        s->ask_ms = now_ms;
        s->asked_ms = now_ms;
    }
}

bool mq_ws_is_behind(const mq_worker_session *s, uint64_t shard, uint64_t epoch)
{
    if (shard >= s->talk_count) {
        return false;
    }
    mq_ws_link link = shard == s->at ? s->link : s->talks[shard].link;
    return link != MQ_WS_DOWN &&
           (link != MQ_WS_SERVING || (shard == s->at ? s->epoch : s->talks[shard].epoch) < epoch);
}

void mq_ws_next_broker(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    if (s->link != MQ_WS_DOWN) {
        s->broker = (s->broker + 1) % s->config.broker_count;
    }
    greet(s, now_ms);
    s->heard_ms = now_ms;
    put(s, out, MQ_WS_CONNECT)->index = s->broker;
}

void mq_ws_go(mq_worker_session *s, uint32_t shard, int64_t now_ms, mq_ws_actions *out)
{
    uint32_t at = s->at;
    mq_ws_from(s, shard);
    mq_ws_next_broker(s, now_ms, out);
    mq_ws_from(s, at);
}

void mq_ws_drain(mq_worker_session *s, int64_t deadline_ms, int64_t now_ms)
{
    int64_t until_ms = now_ms + (deadline_ms > 0 ? deadline_ms : s->config.drain_ms);
    if (!s->is_draining || until_ms < s->drain_until_ms) {
        s->drain_until_ms = until_ms;
        s->leave_ms = until_ms + MQ_WS_CANCEL_MS + MQ_WS_FAREWELL_MS;
    }
    s->want_beat = !s->is_draining;
    for (uint32_t k = 0; k < s->talk_count; k++) {
        s->talks[k].want_beat |= s->want_beat;
    }
    s->is_draining = true;
}

void mq_ws_stop_now(mq_worker_session *s, int64_t now_ms)
{
    s->is_draining = true;
    s->is_stopping = true;
    s->drain_until_ms = now_ms;
    s->leave_ms = now_ms + MQ_WS_FAREWELL_MS;
}

/* How many jobs more than free slots are worth having here. */
static uint64_t prefetch_now(const mq_worker_session *s, int64_t now_ms)
{
    uint64_t quick = 0;
    for (uint32_t i = 0; i < s->config.slot_count; i++) {
        uint32_t job = s->slots[i];
        quick += job == MQ_WS_SLOT_IDLE ||
                 (job < MQ_WS_JOBS_MAX && now_ms - s->jobs[job].since_ms <= MQ_WS_QUICK_US / 1000);
    }
    if (s->run_us == 0 || s->run_us >= MQ_WS_QUICK_US) {
        return 0;
    }
    uint64_t fit = quick * MQ_WS_QUICK_US / s->run_us;
    return fit < s->config.prefetch ? fit : s->config.prefetch;
}

uint64_t mq_ws_credit(const mq_worker_session *s, int64_t now_ms)
{
    uint64_t idle = 0, open = MQ_WS_JOBS_MAX - s->used;
    uint64_t waiting = s->waiting_count + s->handed_count;
    if (s->is_draining || s->kept_bytes > MQ_WS_KEPT_BYTES_MAX) {
        return 0;
    }
    for (uint32_t i = 0; i < s->config.slot_count; i++) {
        idle += s->slots[i] == MQ_WS_SLOT_IDLE;
    }
    uint64_t want = idle + prefetch_now(s, now_ms);
    want = want > waiting ? want - waiting : 0;
    return want < open ? want : open;
}

/* Greeting, registration, silence: everything about the connection that is due. */
static void flush_link(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    bool is_asking = s->link == MQ_WS_GREETING || s->link == MQ_WS_REGISTERING;
    bool is_unanswered = is_asking && now_ms - s->asked_ms >= MQ_WS_ANSWER_MS;
    bool is_silent =
        s->link == MQ_WS_SERVING && now_ms - s->heard_ms >= MQ_WS_SILENT_INTERVALS * s->beat_ms;
    if (s->link == MQ_WS_DOWN || is_unanswered || is_silent) {
        mq_ws_next_broker(s, now_ms, out);
        is_asking = true;
    }
    if (is_asking && now_ms >= s->ask_ms) {
        put(s, out, s->link == MQ_WS_GREETING ? MQ_WS_SEND_HELLO : MQ_WS_SEND_READY);
        s->ask_ms = now_ms + MQ_WS_HELLO_MS;
    }
}

static void flush_beat(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    bool is_lent = s->talk_count > 1;
    uint64_t free_now = is_lent ? s->loans[s->at].share : mq_ws_credit(s, now_ms);
    /* What the broker counts with: the jobs that came since used up some of what it was told. */
    uint64_t came = s->jobs_seen - s->seen_told;
    uint64_t told = s->free_told > came ? s->free_told - came : 0;
    /* A little more of what is there already can wait for the next word; idle slots cannot. */
    uint64_t step = 1 + (told > s->config.slot_count ? s->config.prefetch / 4 : 0);
    bool is_news =
        free_now < told ? free_now == 0 || free_now + step <= told : free_now >= told + step;
    is_news = is_lent ? free_now != told : is_news;
    s->want_beat |= is_lent && free_now < told; /* what is taken back is taken by a beat */
    if (s->want_beat || now_ms >= s->next_beat_ms) {
        s->next_beat_ms = now_ms + beat_after(s);
        s->want_beat = false;
        put(s, out, MQ_WS_SEND_BEAT);
    } else if (is_news) {
        put(s, out, MQ_WS_SEND_CREDIT);
    } else {
        return;
    }
    s->seq++;
    s->free_told = free_now;
    s->seen_told = s->jobs_seen;
    mq_ws_lend_told(s, told, now_ms);
}

/* The end of a drain: everything has its verdict, or the last deadline has passed. */
static void flush_exit(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    if (!s->is_draining || s->is_gone) {
        return;
    }
    if (s->used == 0 || now_ms >= s->leave_ms) {
        s->is_gone = true;
        for (uint32_t k = 0; k < s->talk_count; k++) {
            mq_ws_put(out, MQ_WS_SEND_BYE)->talk = k;
        }
        mq_ws_put(out, MQ_WS_EXIT);
    }
}

/* Beats and credit of every shard that is being served. */
static void flush_beats(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    if (s->talk_count > 1) {
        mq_ws_lend(s, now_ms);
    }
    for (uint32_t k = 0; k < s->talk_count; k++) {
        mq_ws_from(s, k);
        if (s->link == MQ_WS_SERVING) {
            flush_beat(s, now_ms, out);
        }
    }
}

void mq_ws_flush(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    for (uint32_t k = 0; k < s->talk_count; k++) {
        mq_ws_from(s, k);
        flush_link(s, now_ms, out);
    }
    if (s->is_draining) {
        mq_ws_jobs_drain(s, now_ms, out);
    }
    mq_ws_jobs_timers(s, now_ms, out);
    /* A result goes before the credit that its slot frees, the acceptance before the start. */
    for (uint32_t k = 0; k < s->talk_count; k++) {
        mq_ws_from(s, k);
        if (s->link == MQ_WS_SERVING) {
            mq_ws_jobs_send(s, now_ms, out);
        }
    }
    flush_beats(s, now_ms, out);
    mq_ws_jobs_start(s, now_ms, out);
    flush_beats(s, now_ms, out);
    mq_ws_from(s, 0);
    flush_exit(s, now_ms, out);
}

/* Of one shard's link. */
static int64_t link_deadline(const mq_worker_session *s, const mq_ws_talk *t, int64_t now_ms)
{
    if (t->link == MQ_WS_DOWN || (t->want_beat && t->link == MQ_WS_SERVING)) {
        return now_ms;
    }
    if (t->link == MQ_WS_SERVING) {
        return mq_min_i64(t->next_beat_ms, t->heard_ms + MQ_WS_SILENT_INTERVALS * s->beat_ms);
    }
    return mq_min_i64(t->ask_ms, t->asked_ms + MQ_WS_ANSWER_MS);
}

int64_t mq_ws_deadline(const mq_worker_session *s, int64_t now_ms)
{
    mq_ws_talk here = {.link = s->link,
                       .heard_ms = s->heard_ms,
                       .asked_ms = s->asked_ms,
                       .ask_ms = s->ask_ms,
                       .next_beat_ms = s->next_beat_ms,
                       .want_beat = s->want_beat};
    int64_t at = now_ms + (s->talk_count > 1 ? MQ_WS_PATIENCE_MS : 1000);
    for (uint32_t k = 0; k < s->talk_count; k++) {
        at = mq_min_i64(at, link_deadline(s, k == s->at ? &here : &s->talks[k], now_ms));
    }
    if (at <= now_ms) {
        return now_ms;
    }
    if (s->is_draining) {
        at = mq_min_i64(at, s->drain_until_ms > now_ms ? s->drain_until_ms : s->leave_ms);
    }
    for (uint32_t i = 0; i < s->high; i++) {
        const mq_ws_job *job = &s->jobs[i];
        mq_ws_link link = job->talk == s->at ? s->link : s->talks[job->talk].link;
        if (job->state == MQ_WS_RUNNING) {
            int64_t due_ms = job->kill_ms > 0 ? job->kill_ms : job->stop_ms;
            at = due_ms > 0 ? mq_min_i64(at, due_ms) : at;
        } else if (job->state == MQ_WS_WAITING) {
            at = mq_min_i64(at, job->since_ms + MQ_WS_WAIT_MS);
        } else if (job->state == MQ_WS_ENDED && link == MQ_WS_SERVING) {
            at = mq_min_i64(at, job->resend_ms);
        }
    }
    return mq_max_i64(mq_ws_hand_deadline(s, at), now_ms);
}

uint32_t mq_ws_held(const mq_worker_session *s, mq_msg_held *held, uint32_t *jobs)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->high; i++) {
        const mq_ws_job *job = &s->jobs[i];
        if (job->state == MQ_WS_FREE || job->stop == MQ_WS_STOP_STALE || job->talk != s->at) {
            continue;
        }
        held[count] =
            (mq_msg_held){.id = mq_str(job->id), .epoch = job->epoch, .grant = job->grant};
        jobs[count++] = i;
    }
    return count;
}

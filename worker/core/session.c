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
    *s = (mq_worker_session){.config = *config, .beat_ms = MQ_WS_BEAT_MS, .heard_ms = now_ms};
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
            s->jobs[i].resend_ms = 0;
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
        s->want_beat = s->want_beat || !is_quick || m->jobs[i].gang_epoch > 0;
        mq_ws_job_accept(s, &m->jobs[i], i, now_ms, out);
    }
}

void mq_ws_on_error(mq_worker_session *s, const mq_msg_error *m, int64_t now_ms, mq_ws_actions *out)
{
    s->heard_ms = now_ms;
    if (mq_span_is(m->code, "moved") || mq_span_is(m->code, "version")) {
        mq_ws_next_broker(s, now_ms, out);
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
    }
}

void mq_ws_on_link_up(mq_worker_session *s, int64_t now_ms)
{
    if (s->link == MQ_WS_GREETING) {
        s->ask_ms = now_ms;
    }
}

void mq_ws_next_broker(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    if (s->link != MQ_WS_DOWN) {
        s->broker = (s->broker + 1) % s->config.broker_count;
    }
    greet(s, now_ms);
    s->heard_ms = now_ms;
    mq_ws_put(out, MQ_WS_CONNECT)->index = s->broker;
}

void mq_ws_drain(mq_worker_session *s, int64_t deadline_ms, int64_t now_ms)
{
    int64_t until_ms = now_ms + (deadline_ms > 0 ? deadline_ms : s->config.drain_ms);
    if (!s->is_draining || until_ms < s->drain_until_ms) {
        s->drain_until_ms = until_ms;
        s->leave_ms = until_ms + MQ_WS_CANCEL_MS + MQ_WS_FAREWELL_MS;
    }
    s->want_beat = !s->is_draining;
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
        mq_ws_put(out, s->link == MQ_WS_GREETING ? MQ_WS_SEND_HELLO : MQ_WS_SEND_READY);
        s->ask_ms = now_ms + MQ_WS_HELLO_MS;
    }
}

static void flush_beat(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    uint64_t free_now = mq_ws_credit(s, now_ms);
    /* What the broker counts with: the jobs that came since used up some of what it was told. */
    uint64_t came = s->jobs_seen - s->seen_told;
    uint64_t told = s->free_told > came ? s->free_told - came : 0;
    /* A little more of what is there already can wait for the next word; idle slots cannot. */
    uint64_t step = 1 + (told > s->config.slot_count ? s->config.prefetch / 4 : 0);
    bool is_news =
        free_now < told ? free_now == 0 || free_now + step <= told : free_now >= told + step;
    if (s->want_beat || now_ms >= s->next_beat_ms) {
        s->next_beat_ms = now_ms + beat_after(s);
        s->want_beat = false;
        mq_ws_put(out, MQ_WS_SEND_BEAT);
    } else if (is_news) {
        mq_ws_put(out, MQ_WS_SEND_CREDIT);
    } else {
        return;
    }
    s->seq++;
    s->free_told = free_now;
    s->seen_told = s->jobs_seen;
}

/* The end of a drain: everything has its verdict, or the last deadline has passed. */
static void flush_exit(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    if (!s->is_draining || s->is_gone) {
        return;
    }
    if (s->used == 0 || now_ms >= s->leave_ms) {
        s->is_gone = true;
        mq_ws_put(out, MQ_WS_SEND_BYE);
        mq_ws_put(out, MQ_WS_EXIT);
    }
}

void mq_ws_flush(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    flush_link(s, now_ms, out);
    if (s->is_draining) {
        mq_ws_jobs_drain(s, now_ms, out);
    }
    mq_ws_jobs_timers(s, now_ms, out);
    /* A result goes before the credit that its slot frees, the acceptance before the start. */
    if (s->link == MQ_WS_SERVING) {
        mq_ws_jobs_send(s, now_ms, out);
        flush_beat(s, now_ms, out);
    }
    mq_ws_jobs_start(s, now_ms, out);
    if (s->link == MQ_WS_SERVING) {
        flush_beat(s, now_ms, out);
    }
    flush_exit(s, now_ms, out);
}

int64_t mq_ws_deadline(const mq_worker_session *s, int64_t now_ms)
{
    int64_t at = now_ms + 1000;
    if (s->link == MQ_WS_DOWN || (s->want_beat && s->link == MQ_WS_SERVING)) {
        return now_ms;
    }
    if (s->link == MQ_WS_SERVING) {
        at = mq_min_i64(at, s->next_beat_ms);
        at = mq_min_i64(at, s->heard_ms + MQ_WS_SILENT_INTERVALS * s->beat_ms);
    } else {
        at = mq_min_i64(at, mq_min_i64(s->ask_ms, s->asked_ms + MQ_WS_ANSWER_MS));
    }
    if (s->is_draining) {
        at = mq_min_i64(at, s->drain_until_ms > now_ms ? s->drain_until_ms : s->leave_ms);
    }
    for (uint32_t i = 0; i < s->high; i++) {
        const mq_ws_job *job = &s->jobs[i];
        if (job->state == MQ_WS_RUNNING) {
            int64_t due_ms = job->kill_ms > 0 ? job->kill_ms : job->stop_ms;
            at = due_ms > 0 ? mq_min_i64(at, due_ms) : at;
        } else if (job->state == MQ_WS_WAITING) {
            at = mq_min_i64(at, job->since_ms + MQ_WS_WAIT_MS);
        } else if (job->state == MQ_WS_ENDED && s->link == MQ_WS_SERVING) {
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
        if (job->state == MQ_WS_FREE || job->stop == MQ_WS_STOP_STALE) {
            continue;
        }
        held[count] =
            (mq_msg_held){.id = mq_str(job->id), .epoch = job->epoch, .grant = job->grant};
        jobs[count++] = i;
    }
    return count;
}

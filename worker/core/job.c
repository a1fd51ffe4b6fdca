/* A job's way through the worker: accepted, started, stopped, ended, acknowledged. Pure. */
#include "worker/core/job.h"

#include "shared/base/assert.h"
#include "shared/base/math.h"

static const char *const class_names[] = {
    [MQ_WS_CLASS_OK] = "ok",         [MQ_WS_CLASS_RETRY] = "retry",
    [MQ_WS_CLASS_FATAL] = "fatal",   [MQ_WS_CLASS_CRASH] = "crash",
    [MQ_WS_CLASS_RETURN] = "return", [MQ_WS_CLASS_CANCELLED] = "cancelled",
};

const char *mq_ws_class_name(mq_ws_class class)
{
    MQ_ASSERT((size_t) class < sizeof class_names / sizeof class_names[0]);
    return class_names[class];
}

static uint32_t *chain_of(mq_worker_session *s, uint64_t grant)
{
    return &s->by_grant[grant & (MQ_WS_HASH_SIZE - 1)];
}

uint32_t mq_ws_find(const mq_worker_session *s, mq_span id, uint64_t epoch, uint64_t grant)
{
    uint32_t i = s->by_grant[grant & (MQ_WS_HASH_SIZE - 1)];
    while (i != MQ_WS_NONE) {
        const mq_ws_job *job = &s->jobs[i];
        if (job->grant == grant && job->epoch == epoch && mq_span_is(id, job->id)) {
            return i;
        }
        i = job->same;
    }
    return MQ_WS_NONE;
}

/* ---- the waiting ones, in order ---- */

static void waiting_remove(mq_worker_session *s, mq_ws_job *job)
{
    *(job->prev == MQ_WS_NONE ? &s->waiting_head : &s->jobs[job->prev].next) = job->next;
    *(job->next == MQ_WS_NONE ? &s->waiting_tail : &s->jobs[job->next].prev) = job->prev;
    s->waiting_count--;
}

/* Those that come back from a slot were there before those that wait. */
static void waiting_add(mq_worker_session *s, uint32_t index, bool is_first)
{
    mq_ws_job *job = &s->jobs[index];
    job->prev = is_first ? MQ_WS_NONE : s->waiting_tail;
    job->next = is_first ? s->waiting_head : MQ_WS_NONE;
    *(job->prev == MQ_WS_NONE ? &s->waiting_head : &s->jobs[job->prev].next) = index;
    *(job->next == MQ_WS_NONE ? &s->waiting_tail : &s->jobs[job->next].prev) = index;
    s->waiting_count++;
}

void mq_ws_job_set(mq_worker_session *s, uint32_t index, mq_ws_state state)
{
    mq_ws_job *job = &s->jobs[index];
    if (job->state == MQ_WS_WAITING) {
        waiting_remove(s, job);
    }
    job->state = state;
    if (state == MQ_WS_WAITING) {
        waiting_add(s, index, true);
    }
}

static void forget(mq_worker_session *s, uint32_t index, mq_ws_actions *out)
{
    mq_ws_job *job = &s->jobs[index];
    MQ_ASSERT(job->state == MQ_WS_ENDED || job->state == MQ_WS_UPLOADING);
    MQ_ASSERT(s->kept_bytes >= job->kept_bytes);
    s->kept_bytes -= job->kept_bytes;
    uint32_t *at = chain_of(s, job->grant);
    while (*at != index) {
        at = &s->jobs[*at].same;
    }
    *at = job->same;
    job->state = MQ_WS_FREE;
    job->kept_bytes = 0;
    job->next = s->free_head;
    s->free_head = index;
    if (--s->used == 0) {
        s->high = 0;
        s->free_head = MQ_WS_NONE;
    }
    mq_ws_put(out, MQ_WS_FORGET)->index = index;
}

void mq_ws_job_end(mq_worker_session *s, uint32_t index, mq_ws_class class, mq_code code,
                   mq_span text, size_t kept_bytes)
{
    mq_ws_job *job = &s->jobs[index];
    mq_ws_job_set(s, index, MQ_WS_ENDED);
    job->class = class;
    job->error.code = code;
    mq_span_copy(text, job->error.text, sizeof job->error.text);
    job->kill_ms = 0;
    job->resend_ms = 0;
    job->resend_after_ms = MQ_WS_RESEND_MS;
    job->kept_bytes = kept_bytes;
    s->kept_bytes += kept_bytes;
}

/* A place for one more job, or MQ_WS_NONE. */
static uint32_t take_place(mq_worker_session *s)
{
    uint32_t index = s->free_head;
    if (index != MQ_WS_NONE) {
        s->free_head = s->jobs[index].next;
    } else if (s->high < MQ_WS_JOBS_MAX) {
        index = s->high++;
    }
    return index;
}

void mq_ws_job_accept(mq_worker_session *s, const mq_msg_job_item *it, uint32_t item,
                      int64_t now_ms, mq_ws_actions *out)
{
    if (mq_ws_find(s, it->id, it->epoch, it->grant) != MQ_WS_NONE) {
        return;
    }
    uint32_t index = take_place(s);
    if (index == MQ_WS_NONE) {
        return; /* full: unanswered, its lease lapses */
    }
    uint64_t waiting = s->waiting_count + s->handed_count;
    s->used++;
    mq_ws_job *job = &s->jobs[index];
    *job = (mq_ws_job){
        .state = MQ_WS_WAITING,
        .talk = s->at,
        .epoch = it->epoch,
        .grant = it->grant,
        .is_transient = it->is_transient,
        .is_alone = it->gang_epoch > 0 || it->len > MQ_WS_HAND_BYTES,
        .max_run_ms = it->max_run_ms > INT32_MAX ? INT32_MAX : (int64_t)it->max_run_ms,
        .order = ++s->order,
        .since_ms = now_ms,
        .same = *chain_of(s, it->grant),
    };
    *chain_of(s, it->grant) = index;
    waiting_add(s, index, false);
    mq_span_copy(it->id, job->id, sizeof job->id);
    if (s->is_draining || waiting >= (uint64_t)s->config.slot_count * 2 + s->config.prefetch) {
        const char *why = s->is_draining ? "worker drains" : "more jobs than this worker's credit";
        mq_ws_job_end(s, index, MQ_WS_CLASS_RETURN, MQ_E_BUSY, mq_str(why), 0);
        return;
    }
    mq_ws_action *action = mq_ws_put(out, MQ_WS_ACCEPT);
    action->index = index;
    action->item = item;
}

void mq_ws_job_stopped(mq_worker_session *s, uint32_t index, mq_ws_actions *out)
{
    mq_ws_job *job = &s->jobs[index];
    switch (job->stop) {
    case MQ_WS_STOP_CANCEL:
        mq_ws_job_end(s, index, MQ_WS_CLASS_CANCELLED, MQ_E_CANCELLED,
                      mq_str("cancelled by request"), 0);
        break;
    case MQ_WS_STOP_TIMEOUT:
        mq_ws_job_end(s, index, MQ_WS_CLASS_RETRY, MQ_E_TIMEOUT,
                      mq_str("ran longer than max_run_ms"), 0);
        break;
    case MQ_WS_STOP_RETURN:
        mq_ws_job_end(s, index, MQ_WS_CLASS_RETURN, MQ_E_BUSY, mq_str("worker drains"), 0);
        break;
    case MQ_WS_STOP_STALE:
        mq_ws_job_set(s, index, MQ_WS_ENDED);
        forget(s, index, out);
        break;
    case MQ_WS_STOP_NONE:
        MQ_ASSERT(false);
    }
}

static void stop(mq_worker_session *s, uint32_t index, mq_ws_stop why, int64_t now_ms,
                 mq_ws_actions *out)
{
    mq_ws_job *job = &s->jobs[index];
    bool is_first = job->stop == MQ_WS_STOP_NONE;
    if (!is_first && why != MQ_WS_STOP_STALE) {
        return;
    }
    job->stop = why;
    if (job->state == MQ_WS_WAITING) {
        mq_ws_job_stopped(s, index, out);
        return;
    }
    if (job->state == MQ_WS_HANDED) {
        mq_ws_hand_recall(s, index, out);
        return;
    }
    MQ_ASSERT(job->state == MQ_WS_RUNNING);
    int64_t kill_ms = now_ms + (why == MQ_WS_STOP_STALE ? MQ_WS_STALE_MS : MQ_WS_CANCEL_MS);
    job->kill_ms = is_first ? kill_ms : mq_min_i64(kill_ms, job->kill_ms);
    if (is_first) {
        mq_ws_action *action = mq_ws_put(out, MQ_WS_CANCEL);
        action->index = index;
        action->slot = job->slot;
    }
}

/* Verdict on a job that has not ended. */
static void verdict_open(mq_worker_session *s, uint32_t index, mq_span verdict, int64_t now_ms,
                         mq_ws_actions *out)
{
    if (mq_span_is(verdict, "stale") || mq_span_is(verdict, "unknown")) {
        stop(s, index, MQ_WS_STOP_STALE, now_ms, out);
    } else if (mq_span_is(verdict, "cancel")) {
        stop(s, index, MQ_WS_STOP_CANCEL, now_ms, out);
    } else if (mq_span_is(verdict, "timeout")) {
        stop(s, index, MQ_WS_STOP_TIMEOUT, now_ms, out);
    }
}

void mq_ws_job_verdict(mq_worker_session *s, const mq_msg_held_verdict *v, bool is_final,
                       int64_t now_ms, mq_ws_actions *out)
{
    uint32_t index = mq_ws_find(s, v->id, v->epoch, v->grant);
    if (index == UINT32_MAX) {
        return;
    }
    mq_ws_job *job = &s->jobs[index];
    if (job->state == MQ_WS_WAITING || job->state == MQ_WS_HANDED || job->state == MQ_WS_RUNNING) {
        verdict_open(s, index, v->verdict, now_ms, out);
        return;
    }
    bool is_lost = mq_span_is(v->verdict, "stale") || mq_span_is(v->verdict, "unknown");
    bool is_committed = is_final && mq_span_is(v->verdict, "ok");
    if (is_lost || is_committed || mq_span_is(v->verdict, "dup")) {
        forget(s, index, out);
    } else if (mq_span_is(v->verdict, "missing") && job->state == MQ_WS_ENDED) {
        job->state = MQ_WS_UPLOADING;
        mq_ws_action *action = mq_ws_put(out, MQ_WS_UPLOAD);
        action->index = index;
        action->missing = v->missing;
        action->missing_count = v->missing_count;
    }
}

void mq_ws_on_unsent(mq_worker_session *s, uint32_t job, int64_t now_ms)
{
    MQ_ASSERT(job < MQ_WS_JOBS_MAX && s->jobs[job].state == MQ_WS_ENDED);
    s->jobs[job].is_sent = false;
    s->jobs[job].resend_ms = now_ms + MQ_WS_UNSENT_MS;
    s->jobs[job].resend_after_ms = MQ_WS_RESEND_MS;
}

void mq_ws_on_uploaded(mq_worker_session *s, uint32_t job, bool is_ok, int64_t now_ms)
{
    (void)now_ms;
    MQ_ASSERT(job < MQ_WS_JOBS_MAX);
    mq_ws_job *j = &s->jobs[job];
    if (j->state != MQ_WS_UPLOADING) {
        return; /* a stale verdict came meanwhile */
    }
    j->state = MQ_WS_ENDED;
    j->resend_ms = 0;
    j->resend_after_ms = MQ_WS_RESEND_MS;
    if (!is_ok) {
        j->class = MQ_WS_CLASS_RETRY;
        j->error.code = MQ_E_MISSING;
        mq_span_copy(mq_str("blobs of the result are gone from the store"), j->error.text,
                     sizeof j->error.text);
    }
}

void mq_ws_on_slot_ready(mq_worker_session *s, uint32_t slot, int64_t now_ms, mq_ws_actions *out)
{
    (void)now_ms;
    (void)out;
    MQ_ASSERT(slot < s->config.slot_count && s->slots[slot] == MQ_WS_SLOT_DEAD);
    s->slots[slot] = MQ_WS_SLOT_IDLE;
}

static void end_crashed(mq_worker_session *s, uint32_t index, mq_span why, mq_ws_actions *out)
{
    if (s->jobs[index].stop != MQ_WS_STOP_NONE) {
        mq_ws_job_stopped(s, index, out);
    } else {
        mq_ws_job_end(s, index, MQ_WS_CLASS_CRASH, MQ_E_INTERNAL, why, 0);
    }
}

void mq_ws_on_slot_dead(mq_worker_session *s, uint32_t slot, mq_span why, bool has_begun,
                        int64_t now_ms, mq_ws_actions *out)
{
    (void)now_ms;
    MQ_ASSERT(slot < s->config.slot_count);
    uint32_t index = s->slots[slot];
    mq_ws_hand_back(s, slot, out);
    s->slots[slot] = MQ_WS_SLOT_DEAD;
    if (index >= MQ_WS_JOBS_MAX) {
        return;
    }
    mq_ws_job *job = &s->jobs[index];
    MQ_ASSERT(job->state == MQ_WS_RUNNING && job->slot == slot);
    if (!has_begun && job->stop == MQ_WS_STOP_NONE) {
        mq_ws_job_set(s, index, MQ_WS_WAITING);
    } else {
        end_crashed(s, index, why, out);
    }
}

void mq_ws_on_crashed(mq_worker_session *s, uint32_t slot, mq_span why, uint64_t run_us,
                      int64_t now_ms, mq_ws_actions *out)
{
    MQ_ASSERT(slot < s->config.slot_count && s->slots[slot] < MQ_WS_JOBS_MAX);
    uint32_t index = s->slots[slot];
    MQ_ASSERT(s->jobs[index].state == MQ_WS_RUNNING && s->jobs[index].slot == slot);
    s->slots[slot] = MQ_WS_SLOT_IDLE;
    s->jobs[index].run_us = run_us;
    end_crashed(s, index, why, out);
    (void)mq_ws_hand_next(s, slot, now_ms, out);
}

/* Codes that another attempt may cure (kind.h). */
static bool is_retryable(mq_code code)
{
    return code == MQ_E_IO || code == MQ_E_BUSY || code == MQ_E_TIMEOUT || code == MQ_E_MISSING ||
           code == MQ_E_INTERNAL;
}

void mq_ws_on_ended(mq_worker_session *s, uint32_t slot, const mq_error *error, uint64_t run_us,
                    size_t kept_bytes, int64_t now_ms, mq_ws_actions *out)
{
    MQ_ASSERT(slot < s->config.slot_count && s->slots[slot] < MQ_WS_JOBS_MAX);
    uint32_t index = s->slots[slot];
    mq_ws_job *job = &s->jobs[index];
    MQ_ASSERT(job->state == MQ_WS_RUNNING && job->slot == slot);
    s->slots[slot] = MQ_WS_SLOT_IDLE;
    job->run_us = run_us;
    s->run_us = s->run_us == 0 ? run_us + 1 : (7 * s->run_us + run_us) / 8 + 1;
    mq_span text = mq_str(error->text);
    /* A result that was ready in spite of a cancel counts, unless the lease is gone. */
    if (job->stop == MQ_WS_STOP_STALE || (job->stop != MQ_WS_STOP_NONE && error->code != MQ_OK)) {
        mq_ws_job_stopped(s, index, out);
    } else if (error->code == MQ_OK) {
        mq_ws_job_end(s, index, MQ_WS_CLASS_OK, MQ_OK, text, kept_bytes);
    } else if (error->code == MQ_E_CANCELLED || error->code == MQ_E_STALE) {
        /* Nobody asked for it as far as is known here: another attempt will tell. */
        mq_ws_job_end(s, index, MQ_WS_CLASS_RETRY, error->code, text, 0);
    } else {
        mq_ws_job_end(s, index, is_retryable(error->code) ? MQ_WS_CLASS_RETRY : MQ_WS_CLASS_FATAL,
                      error->code, text, 0);
    }
    (void)mq_ws_hand_next(s, slot, now_ms, out);
}

void mq_ws_jobs_timers(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    mq_ws_hand_timers(s, now_ms, out);
    for (uint32_t i = 0; i < s->high; i++) {
        mq_ws_job *job = &s->jobs[i];
        if (job->state == MQ_WS_WAITING && now_ms - job->since_ms >= MQ_WS_WAIT_MS) {
            mq_ws_job_end(s, i, MQ_WS_CLASS_RETURN, MQ_E_BUSY, mq_str("no slot came free in time"),
                          0);
        }
        if (job->state != MQ_WS_RUNNING) {
            continue;
        }
        if (job->kill_ms > 0 && now_ms >= job->kill_ms) {
            job->kill_ms = now_ms + MQ_WS_CANCEL_MS; /* SIGKILL works at once; this is patience */
            mq_ws_action *action = mq_ws_put(out, MQ_WS_KILL);
            action->index = i;
            action->slot = job->slot;
        } else if (job->stop == MQ_WS_STOP_NONE && job->stop_ms > 0 && now_ms >= job->stop_ms) {
            stop(s, i, MQ_WS_STOP_TIMEOUT, now_ms, out);
        }
    }
}

void mq_ws_jobs_send(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    for (uint32_t i = 0; i < s->high; i++) {
        mq_ws_job *job = &s->jobs[i];
        if (job->state != MQ_WS_ENDED || job->talk != s->at || now_ms < job->resend_ms) {
            continue;
        }
        if (job->is_transient && job->is_sent) {
            forget(s, i, out);
            continue;
        }
        mq_ws_action *action = mq_ws_put(out, MQ_WS_SEND_RESULT);
        action->index = i;
        action->talk = s->at;
        job->is_sent = true;
        job->resend_ms = job->is_transient ? now_ms : now_ms + job->resend_after_ms;
        job->resend_after_ms = mq_min_i64(job->resend_after_ms * 2, MQ_WS_RESEND_MS_MAX);
    }
}

void mq_ws_jobs_start(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    for (uint32_t slot = 0; slot < s->config.slot_count; slot++) {
        uint32_t index = s->slots[slot] == MQ_WS_SLOT_IDLE ? s->waiting_head : MQ_WS_NONE;
        if (index == MQ_WS_NONE) {
            continue;
        }
        mq_ws_job *job = &s->jobs[index];
        mq_ws_job_set(s, index, MQ_WS_RUNNING);
        job->slot = slot;
        job->since_ms = now_ms;
        job->stop_ms = job->max_run_ms > 0 ? now_ms + job->max_run_ms : 0;
        s->slots[slot] = index;
        mq_ws_action *action = mq_ws_put(out, MQ_WS_START);
        action->index = index;
        action->slot = slot;
    }
    mq_ws_hand_out(s, now_ms, out);
}

void mq_ws_jobs_drain(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    bool is_over = now_ms >= s->drain_until_ms;
    for (uint32_t i = 0; i < s->high; i++) {
        mq_ws_job *job = &s->jobs[i];
        if (job->state == MQ_WS_WAITING || job->state == MQ_WS_HANDED ||
            (job->state == MQ_WS_RUNNING && is_over)) {
            stop(s, i, MQ_WS_STOP_RETURN, now_ms, out);
        }
        if (job->state == MQ_WS_RUNNING && s->is_stopping && job->kill_ms > now_ms) {
            job->kill_ms = now_ms;
        }
    }
}

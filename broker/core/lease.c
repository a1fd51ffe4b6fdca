/* How a lease ends without a result, and everything else that time does to a job. It must not know
 * messages. */
#include "broker/core/state.h"
#include "shared/job/retry.h"

enum { TRANSIENT_TRIES = 2 };

void mq_end_transient(mq_core *core, mq_job *job, mq_outputs *out)
{
    MQ_ASSERT(job->is_transient && mq_job_ended(job));
    mq_say_ended(core, job, out);
    mq_recent_add(core, job);
    mq_bytes_release(core, job->body, out);
    mq_bytes_release(core, job->result, out);
    job->body = job->result = NULL;
    mq_job_free(core, job);
}

static void die(mq_core *core, mq_job *job, const char *why, mq_code code, const char *text,
                mq_outputs *out)
{
    if (text != NULL) {
        mq_job_set_error(core, job, mq_str(mq_code_name(code)), mq_str(text));
    }
    mq_job_move(core, job, MQ_EVENT_FAIL, why);
    if (job->is_transient) {
        mq_end_transient(core, job, out);
    }
}

void mq_fail_attempt(mq_core *core, mq_job *job, const char *why, mq_outputs *out)
{
    job->attempts++;
    if (job->is_transient && job->attempts < TRANSIENT_TRIES) {
        mq_job_move(core, job, MQ_EVENT_LAPSE, why);
        return;
    }
    if (job->is_transient || job->attempts >= job->attempts_max) {
        die(core, job, job->attempts_max > 1 ? "attempts" : why, MQ_OK, NULL, out);
        return;
    }
    job->run_at_ms = core->now_ms + mq_retry_delay_own(job->attempts, job->backoff_ms,
                                                       job->backoff_max_ms, &core->prng);
    core->stats.retried++;
    core->tally.retried++;
    mq_job_move(core, job, MQ_EVENT_RETRY, why);
}

void mq_lapse(mq_core *core, mq_job *job, bool is_counted, const char *why, mq_outputs *out)
{
    MQ_ASSERT(job->state == MQ_STATE_LEASED && job->gang == MQ_NONE);
    if (is_counted) {
        job->lapses++;
        core->stats.lapsed++;
        core->tally.lapsed += !job->is_transient;
    }
    if (job->is_cancelling) {
        mq_job_move(core, job, MQ_EVENT_CANCEL, "cancel");
        if (job->is_transient) {
            mq_end_transient(core, job, out);
        }
    } else if (job->is_timed_out) {
        mq_job_set_error(core, job, mq_str(mq_code_name(MQ_E_TIMEOUT)),
                         mq_str("ran longer than its run limit"));
        mq_fail_attempt(core, job, "timeout", out);
    } else if (job->is_transient && job->lapses >= TRANSIENT_TRIES) {
        die(core, job, "lost", MQ_E_IO, "two workers were lost while they ran it", out);
    } else if (job->lapses >= MQ_LAPSES_MAX) {
        die(core, job, "undeliverable", MQ_E_TIMEOUT, "no worker kept its lease, 20 times", out);
    } else {
        mq_job_move(core, job, MQ_EVENT_LAPSE, why);
    }
}

static void expire(mq_core *core, mq_job *job, mq_outputs *out)
{
    if (job->state == MQ_STATE_LEASED) { /* transient: its deadline counts while it runs, too */
        mq_job_move(core, job, MQ_EVENT_LAPSE, "ttl");
    }
    if (!mq_job_ended(job)) {
        mq_job_move(core, job, MQ_EVENT_EXPIRE, "ttl");
    }
    if (job->is_transient) {
        mq_end_transient(core, job, out);
    }
}

static void timer(mq_core *core, mq_job *job, mq_outputs *out)
{
    bool is_expired = job->expires_ms > 0 && job->expires_ms <= core->now_ms &&
                      (job->state != MQ_STATE_LEASED || job->is_transient);
    if (is_expired) {
        expire(core, job, out);
        return;
    }
    switch ((mq_state)job->state) {
    case MQ_STATE_SCHEDULED:
        mq_job_move(core, job, MQ_EVENT_DUE, "due");
        break;
    case MQ_STATE_QUEUED:
        job->wants_lane = false;
        mq_job_timer(core, job);
        mq_job_ready(core, job);
        break;
    case MQ_STATE_LEASED:
        if (job->gang != MQ_NONE) {
            mq_gang_lapse(core, job, out);
        } else {
            mq_lapse(core, job, true, "lapsed", out);
        }
        break;
    case MQ_STATE_NONE:
    case MQ_STATE_BLOCKED:
    case MQ_STATE_SUCCEEDED:
    case MQ_STATE_DEAD:
    case MQ_STATE_CANCELLED:
    case MQ_STATE_EXPIRED:
    case MQ_STATE_COUNT:
        MQ_ASSERT(false); /* these have no timer but their expiry */
    }
}

void mq_timers_turn(mq_core *core, mq_outputs *out)
{
    for (int i = 0; i < MQ_TURN_TIMERS; i++) {
        const mq_heap_entry *top = mq_heap_top(&core->timers);
        if (top == NULL || top->key > core->now_ms) {
            return;
        }
        timer(core, mq_job_at(core, top->id), out);
    }
    core->wants_turn = true;
}

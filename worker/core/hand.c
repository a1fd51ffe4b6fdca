/* Jobs given to a slot behind the one it runs. A slot begins them in the order in which they were
 * given; what it has not begun can be taken back. Pure; see session.h. */
#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/core/job.h"

static void take_out(mq_worker_session *s, uint32_t index)
{
    mq_ws_job *job = &s->jobs[index];
    MQ_ASSERT(job->state == MQ_WS_HANDED);
    uint16_t *all = s->handed[job->slot];
    uint8_t count = s->handed_by[job->slot];
    uint8_t at = 0;
    while (at < count && all[at] != index) {
        at++;
    }
    MQ_ASSERT(at < count);
    memmove(&all[at], &all[at + 1], (size_t)(count - at - 1) * sizeof *all);
    s->handed_by[job->slot]--;
    s->handed_count--;
}

/* How many jobs a slot may have behind the one it runs; 0 while that may be a long one. */
static uint32_t room(const mq_worker_session *s, uint32_t slot, int64_t now_ms)
{
    uint32_t head = s->slots[slot];
    if (head >= MQ_WS_JOBS_MAX || s->run_us == 0 || s->run_us > MQ_WS_HAND_US) {
        return 0;
    }
    const mq_ws_job *job = &s->jobs[head];
    if (job->is_alone || job->stop != MQ_WS_STOP_NONE || now_ms - job->since_ms >= MQ_WS_HAND_MS) {
        return 0;
    }
    uint64_t most = MQ_WS_HAND_US / s->run_us;
    most = most < s->config.hand ? most : s->config.hand;
    return most > s->handed_by[slot] ? (uint32_t)most - s->handed_by[slot] : 0;
}

/* Evenly: the slot that has least gets the next one. */
void mq_ws_hand_out(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    MQ_ASSERT(s->config.hand <= MQ_WS_HAND_MAX);
    while (s->waiting_head != MQ_WS_NONE && !s->jobs[s->waiting_head].is_alone) {
        uint32_t best = MQ_WS_NONE;
        for (uint32_t i = 0; i < s->config.slot_count; i++) {
            if ((best == MQ_WS_NONE || s->handed_by[i] < s->handed_by[best]) &&
                room(s, i, now_ms) > 0) {
                best = i;
            }
        }
        if (best == MQ_WS_NONE || out->count + 2 > MQ_WS_ACTIONS_MAX / 2) {
            return;
        }
        uint32_t index = s->waiting_head;
        mq_ws_job_set(s, index, MQ_WS_HANDED);
        s->jobs[index].slot = best;
        s->jobs[index].is_recalled = false;
        s->handed[best][s->handed_by[best]++] = (uint16_t)index;
        s->handed_count++;
        mq_ws_action *action = mq_ws_put(out, MQ_WS_START);
        action->index = index;
        action->slot = best;
    }
}

bool mq_ws_hand_next(mq_worker_session *s, uint32_t slot, int64_t now_ms, mq_ws_actions *out)
{
    if (s->handed_by[slot] == 0) {
        return false;
    }
    uint32_t index = s->handed[slot][0];
    mq_ws_job *job = &s->jobs[index];
    take_out(s, index);
    mq_ws_job_set(s, index, MQ_WS_RUNNING);
    job->since_ms = now_ms;
    job->stop_ms = job->max_run_ms > 0 ? now_ms + job->max_run_ms : 0;
    s->slots[slot] = index;
    if (job->stop != MQ_WS_STOP_NONE) { /* it could not be taken back in time */
        job->kill_ms = now_ms + (job->stop == MQ_WS_STOP_STALE ? MQ_WS_STALE_MS : MQ_WS_CANCEL_MS);
        mq_ws_action *action = mq_ws_put(out, MQ_WS_CANCEL);
        action->index = index;
        action->slot = slot;
    }
    return true;
}

void mq_ws_on_recalled(mq_worker_session *s, uint32_t index, mq_ws_actions *out)
{
    MQ_ASSERT(index < MQ_WS_JOBS_MAX && s->jobs[index].state == MQ_WS_HANDED);
    take_out(s, index);
    mq_ws_job_set(s, index, MQ_WS_WAITING);
    if (s->jobs[index].stop != MQ_WS_STOP_NONE) {
        mq_ws_job_stopped(s, index, out);
    }
}

void mq_ws_on_refused(mq_worker_session *s, uint32_t index, const mq_error *error, int64_t now_ms,
                      mq_ws_actions *out)
{
    if (s->jobs[index].state == MQ_WS_HANDED) {
        take_out(s, index);
        mq_ws_job_end(s, index, MQ_WS_CLASS_RETRY, error->code, mq_str(error->text), 0);
    } else {
        mq_ws_on_ended(s, s->jobs[index].slot, error, 0, 0, now_ms, out);
    }
}

void mq_ws_hand_back(mq_worker_session *s, uint32_t slot, mq_ws_actions *out)
{
    while (s->handed_by[slot] > 0) { /* the last first, so that they wait in order again */
        mq_ws_on_recalled(s, s->handed[slot][s->handed_by[slot] - 1], out);
    }
}

void mq_ws_hand_recall(mq_worker_session *s, uint32_t index, mq_ws_actions *out)
{
    mq_ws_job *job = &s->jobs[index];
    if (!job->is_recalled) {
        job->is_recalled = true;
        mq_ws_action *action = mq_ws_put(out, MQ_WS_RECALL);
        action->index = index;
        action->slot = job->slot;
    }
}

void mq_ws_hand_timers(mq_worker_session *s, int64_t now_ms, mq_ws_actions *out)
{
    for (uint32_t i = 0; s->handed_count > 0 && i < s->config.slot_count; i++) {
        uint8_t count = s->handed_by[i];
        if (count > 0 && now_ms - s->jobs[s->slots[i]].since_ms >= MQ_WS_HAND_MS) {
            for (uint8_t k = count; k-- > 0;) {
                mq_ws_hand_recall(s, s->handed[i][k], out);
            }
        }
    }
}

int64_t mq_ws_hand_deadline(const mq_worker_session *s, int64_t at_ms)
{
    for (uint32_t i = 0; s->handed_count > 0 && i < s->config.slot_count; i++) {
        uint8_t count = s->handed_by[i];
        if (count > 0 && !s->jobs[s->handed[i][count - 1]].is_recalled) {
            at_ms = mq_min_i64(at_ms, s->jobs[s->slots[i]].since_ms + MQ_WS_HAND_MS);
        }
    }
    return at_ms;
}

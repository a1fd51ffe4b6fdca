/* Results: at most one is committed for a job, under the token that is current. It must not know
 * how the change reaches the store. */
#include "broker/core/state.h"

void mq_result_refuse(const mq_input *in, mq_outputs *out)
{
    mq_out_refuse(out, in->body);
    for (uint32_t i = 0; i < in->as.result.item->spawn_count; i++) {
        mq_out_refuse(out, in->as.result.spawn_bodies[i]);
    }
}

static void say(const mq_input *in, const char *verdict, mq_outputs *out)
{
    const mq_msg_result_item *item = in->as.result.item;
    mq_say_verdict(out, in->conn, item->id, item->epoch, item->grant, verdict);
}

/* The verdict follows the commit. Without room for it the worker simply sends its result again. */
void mq_result_wait(mq_core *core, mq_job *job, const mq_input *in, mq_wait_verdict verdict)
{
    mq_waiter *w = mq_wait_job(core, job, MQ_WAIT_VERDICT, in->conn, 0);
    if (w != NULL) {
        w->verdict = (uint8_t)verdict;
        w->epoch = in->as.result.item->epoch;
        w->grant = in->as.result.item->grant;
    }
}

static void not_in_memory(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_msg_result_item *item = in->as.result.item;
    const mq_recent *recent = mq_recent_find(core, item->id);
    if (recent != NULL) {
        bool is_it = recent->epoch == item->epoch && recent->grant == item->grant &&
                     mq_span_is(in->as.result.worker, recent->holder);
        say(in, is_it ? "dup" : "stale", out);
        return;
    }
    if (core->is_loading) {
        return; /* it may be in a segment that is still to come: the worker asks again */
    }
    if (item->id.len != MQ_ULID_LEN || in->as.result.worker.len > MQ_UUID_LEN) {
        say(in, "unknown", out);
        return;
    }
    mq_ask *ask = mq_ask_new(core, MQ_ASK_RESULT, item->id, out);
    if (ask != NULL) {
        ask->conn = in->conn;
        ask->epoch = item->epoch;
        ask->grant = item->grant;
        (void)mq_span_copy(in->as.result.worker, ask->worker, sizeof ask->worker);
    }
}

/* What a result may not contain; the job then dies with the reason. */
static mq_code check(mq_core *core, const mq_job *job, const mq_msg_result_item *item,
                     mq_error *err)
{
    if (job->is_transient && (item->publish_count > 0 || item->spawn_count > 0)) {
        err->code = MQ_E_ARG;
        mq_text(err, "a transient job can neither publish nor spawn", (mq_span){0});
        return MQ_E_ARG;
    }
    for (uint32_t i = 0; i < item->publish_count; i++) {
        mq_code code = mq_publish_check(core, &item->publish[i], err);
        if (code != MQ_OK) {
            return code;
        }
    }
    for (uint32_t i = 0; i < item->spawn_count; i++) {
        mq_code code = mq_spawn_check(core, &item->spawn[i], err);
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

static bool has_room(const mq_core *core, const mq_msg_result_item *item)
{
    uint64_t bytes = (uint64_t)item->blobs_count * MQ_HASH_LEN * 2 + 4096;
    for (uint32_t i = 0; i < item->publish_count; i++) {
        bytes += (item->publish[i].meta.len + item->publish[i].blobs_count * 70 + 1024) * 2;
    }
    return mq_pool_has(&core->pool, bytes) && mq_wait_room(core, 8) &&
           mq_slots_has(&core->job_slots, item->spawn_count + 1) &&
           mq_slots_has(&core->name_slots, item->spawn_count * 2 + 8) &&
           mq_slots_has(&core->reg_slots, item->publish_count) &&
           mq_slots_has(&core->object_slots, item->publish_count);
}

static void spawn_all(mq_core *core, mq_job *job, const mq_input *in, mq_outputs *out)
{
    const mq_msg_result_item *item = in->as.result.item;
    for (uint32_t i = 0; i < item->spawn_count; i++) {
        mq_bytes *body = in->as.result.spawn_bodies[i];
        mq_span id = item->spawn[i].id;
        mq_job *child = NULL;
        if (mq_core_find(core, id) == MQ_NONE && mq_recent_find(core, id) == NULL) {
            child = mq_spawn_new(core, job, &item->spawn[i], body);
        }
        if (child == NULL) {
            mq_out_refuse(out, body);
            continue;
        }
        child->next_spawn = job->spawns;
        job->spawns = mq_job_no(core, child);
        core->tally.spawned++;
    }
}

static void publish_all(mq_core *core, mq_job *job, const mq_input *in)
{
    const mq_msg_result_item *item = in->as.result.item;
    mq_worker *w = item->publish_count == 0 ? NULL : mq_worker_find(core, in->as.result.worker);
    mq_span fingerprint = w == NULL ? (mq_span){0} : mq_name_text(core, w->fingerprint);
    for (uint32_t i = 0; i < item->publish_count; i++) {
        mq_publish(core, job, &item->publish[i], fingerprint);
    }
}

static void keep_unpins(mq_core *core, mq_job *job, const mq_msg_result_item *item)
{
    mq_ref text = mq_pool_take(&core->pool, (size_t)item->blobs_count * MQ_HASH_LEN);
    if (text.at == 0) {
        return;
    }
    uint8_t *at = mq_pool_at(&core->pool, text);
    for (uint32_t i = 0; i < item->blobs_count; i++) {
        memset(at, '0', MQ_HASH_LEN);
        memcpy(at, item->blobs[i].data, mq_min_size(item->blobs[i].len, MQ_HASH_LEN));
        at += MQ_HASH_LEN;
    }
    mq_unpin_later(core, job, text, item->blobs_count);
}

void mq_unpin_later(mq_core *core, mq_job *job, mq_ref text, uint32_t count)
{
    mq_waiter *w = mq_wait_job(core, job, MQ_WAIT_UNPIN, 0, 0);
    if (w == NULL) {
        mq_ref_drop(core, &text); /* it stays pinned: a leak of space, nothing worse */
        return;
    }
    w->text = text;
    job->waiter_weight += count;
}

void mq_complete(mq_core *core, mq_job *job, const mq_input *in, mq_outputs *out)
{
    const mq_msg_result_item *item = in->as.result.item;
    mq_error *err = &core->err;
    if (check(core, job, item, err) != MQ_OK) {
        mq_result_refuse(in, out);
        if (job->state != MQ_STATE_LEASED) { /* late: it simply runs again */
            say(in, "stale", out);
            return;
        }
        mq_job_set_error(core, job, mq_str(mq_code_name(err->code)), mq_str(err->text));
        job->is_spent = true;
        mq_end(core, job, MQ_EVENT_FAIL, "error", in, out);
        return;
    }
    if (!has_room(core, item)) {
        mq_result_refuse(in, out); /* the worker keeps it and sends it again */
        return;
    }
    core->names[job->kind].crash_row = 0;
    mq_run_note(core, job->kind, item->run_us);
    job->code = 0;
    mq_ref_drop(core, &job->error);
    mq_job_set_result(core, job, in->body);
    spawn_all(core, job, in, out);
    publish_all(core, job, in);
    if (item->blobs_count > 0 && !job->is_transient) {
        keep_unpins(core, job, item);
    }
    mq_end(core, job, MQ_EVENT_COMPLETE, "ok", in, out);
}

/* The job's last step, by this result; its verdict is ok. */
void mq_end(mq_core *core, mq_job *job, mq_event event, const char *why, const mq_input *in,
            mq_outputs *out)
{
    if (job->gang != MQ_NONE) {
        mq_gang_end(core, job, in->as.result.item->grant, out);
    }
    mq_job_move(core, job, event, why);
    if (job->is_transient) { /* its worker has forgotten it: no verdict */
        mq_end_transient(core, job, out);
    } else {
        mq_result_wait(core, job, in, MQ_SAY_OK);
    }
}

/* A failure that is not the last word: the job goes on waiting. */
static void back(mq_core *core, mq_job *job, const mq_input *in, mq_outputs *out,
                 void (*step)(mq_core *, mq_job *, mq_outputs *))
{
    if (!job->is_transient) {
        mq_result_wait(core, job, in, MQ_SAY_OK);
    }
    step(core, job, out);
}

static void step_retry(mq_core *core, mq_job *job, mq_outputs *out)
{
    mq_fail_attempt(core, job, job->is_timed_out ? "timeout" : "retry", out);
}

static void step_return(mq_core *core, mq_job *job, mq_outputs *out)
{
    mq_lapse(core, job, false, "return", out);
}

static void step_unasked_cancel(mq_core *core, mq_job *job, mq_outputs *out)
{
    mq_lapse(core, job, true, "cancelled by worker", out);
}

static void step_crash(mq_core *core, mq_job *job, mq_outputs *out)
{
    if (job->crashes < 2 || job->is_transient) {
        mq_lapse(core, job, job->is_transient, "crash", out);
        return;
    }
    job->run_at_ms = core->now_ms + (int64_t)mq_prng_below(&core->prng, 2000);
    mq_job_move(core, job, MQ_EVENT_RETRY, "crash");
}

void mq_result_failed(mq_core *core, mq_job *job, const mq_input *in, mq_outputs *out)
{
    const mq_msg_result_item *item = in->as.result.item;
    mq_result_refuse(in, out);
    mq_job_set_error(core, job, item->code, item->error);
    job->is_spent = true;
    bool is_crash = mq_span_is(item->class, "crash");
    if (is_crash) {
        job->crashes++;
        core->stats.crashed++;
        core->tally.crashed += !job->is_transient;
        mq_quarantine_crash(core, job);
    } else if (!mq_span_is(item->class, "return") && !mq_span_is(item->class, "cancelled")) {
        core->names[job->kind].crash_row = 0; /* it ran to an end of its own */
    }
    if (is_crash && job->crashes >= job->crashes_max) {
        mq_end(core, job, MQ_EVENT_FAIL, "poison", in, out);
    } else if (job->is_cancelling) {
        mq_end(core, job, MQ_EVENT_CANCEL, "cancel", in, out);
    } else if (is_crash) {
        back(core, job, in, out, step_crash);
    } else if (mq_span_is(item->class, "retry")) {
        back(core, job, in, out, step_retry);
    } else if (mq_span_is(item->class, "return")) {
        back(core, job, in, out, step_return);
    } else if (mq_span_is(item->class, "cancelled")) {
        back(core, job, in, out, step_unasked_cancel);
    } else {
        mq_end(core, job, MQ_EVENT_FAIL, "error", in, out);
    }
}

void mq_result(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_msg_result_item *item = in->as.result.item;
    mq_job *job = mq_job_find(core, item->id);
    if (job == NULL || job->is_spawned) {
        mq_result_refuse(in, out);
        not_in_memory(core, in, out);
        return;
    }
    mq_gang *gang = mq_gang_of(core, job);
    if (gang != NULL) {
        mq_seat *seat = mq_gang_seat(gang, item->grant, in->as.result.worker);
        if (seat == NULL || item->epoch != job->epoch) {
            mq_result_refuse(in, out);
            say(in, "stale", out);
        } else {
            mq_gang_result(core, job, seat, in, out);
        }
        return;
    }
    bool is_it = job->epoch == item->epoch && job->grant == item->grant &&
                 mq_span_is(in->as.result.worker, job->holder);
    bool is_ok = mq_span_is(item->class, "ok");
    bool may_be_late = job->state == MQ_STATE_QUEUED || job->state == MQ_STATE_SCHEDULED;
    if (!is_it) {
        mq_result_refuse(in, out);
        say(in, "stale", out);
    } else if (job->state == MQ_STATE_SUCCEEDED || job->is_spent) {
        mq_result_refuse(in, out);
        if (job->is_transient) { /* no commit will answer it */
            say(in, "dup", out);
        } else {
            mq_result_wait(core, job, in, MQ_SAY_DUP);
        }
    } else if (job->state == MQ_STATE_LEASED || (may_be_late && is_ok)) {
        job->run_us = item->run_us;
        if (!mq_wait_room(core, 8)) {
            mq_result_refuse(in, out);
        } else if (is_ok) {
            mq_complete(core, job, in, out);
        } else {
            mq_result_failed(core, job, in, out);
        }
    } else {
        mq_result_refuse(in, out);
        say(in, "stale", out);
    }
}

void mq_complete_by_memo(mq_core *core, mq_job *job, uint32_t reg)
{
    MQ_ASSERT(job->state == MQ_STATE_QUEUED && !job->is_transient);
    bool is_read = mq_entry_read(mq_pool_span(&core->pool, core->regs[reg].value), &core->entry,
                                 NULL) == MQ_OK;
    MQ_ASSERT(is_read); /* it was packed or checked here */
    (void)mq_pool_copy(&core->pool, core->entry.meta, &job->result_text);
    job->has_result = true;
    job->result_bytes = job->result_text.at == 0 ? 0 : core->entry.meta.len;
    core->stats.memo_hits++;
    mq_job_move(core, job, MQ_EVENT_COMPLETE, "memo");
}

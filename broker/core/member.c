/* Members of a gang: how they leave, what their results, checkpoints and accusations do. The rules
 * are in gang.c. It must not know how a gang forms. */
#include "broker/core/state.h"

/* ---- leaving ---- */

static void tell(mq_core *core, const mq_job *job, const mq_seat *seat, const char *verdict,
                 mq_outputs *out)
{
    if (seat->worker == MQ_NONE || !seat->is_sent || out->verdict_count == MQ_OUT_VERDICTS_MAX) {
        return; /* the next beat tells it */
    }
    mq_msg_held_verdict *v = &out->verdicts[out->verdict_count++];
    *v = (mq_msg_held_verdict){.id = mq_span_of(job->id, MQ_ULID_LEN),
                               .epoch = job->epoch,
                               .grant = seat->grant,
                               .verdict = mq_str(verdict)};
    mq_output *item = mq_out_add(out, MQ_OUT_BEATEN, core->workers[seat->worker].conn, 0);
    item->as.beaten = (mq_msg_beaten){.verdicts = v, .verdicts_count = 1};
}

static void release_seat(mq_core *core, mq_seat *seat)
{
    if (seat->worker == MQ_NONE) {
        return;
    }
    mq_worker *w = &core->workers[seat->worker];
    MQ_ASSERT(w->busy > 0 && w->busy_batch > 0);
    w->busy--;
    w->busy_batch--;
    if (!seat->is_sent) {
        MQ_ASSERT(w->reserved > 0);
        w->reserved--;
        mq_idle_note(core, seat->worker);
    }
}

void mq_gang_end(mq_core *core, mq_job *job, uint64_t but_grant, mq_outputs *out)
{
    mq_gang *gang = mq_gang_of(core, job);
    for (uint32_t i = 0; i < gang->count; i++) {
        mq_seat *seat = &gang->seats[i];
        release_seat(core, seat);
        if (seat->grant == but_grant) {
            continue;
        }
        if (seat->phase == MQ_SEAT_DONE && seat->worker != MQ_NONE) {
            mq_say_verdict(out, core->workers[seat->worker].conn, mq_span_of(job->id, MQ_ULID_LEN),
                           job->epoch, seat->grant, "stale");
        } else {
            tell(core, job, seat, "cancel", out);
        }
    }
    mq_name_drop(core, gang->fingerprint);
    gang->is_used = false;
    gang->next_free = mq_slots_give(&core->gang_slots, job->gang);
    job->gang = MQ_NONE;
}

static void collapse(mq_core *core, mq_job *job, bool is_counted, mq_outputs *out)
{
    mq_gang_end(core, job, 0, out);
    mq_lapse(core, job, is_counted, "gang lost", out);
}

void mq_gang_leave(mq_core *core, mq_job *job, mq_seat *seat, bool is_counted, mq_outputs *out)
{
    mq_gang *gang = mq_gang_of(core, job);
    release_seat(core, seat);
    uint32_t at = (uint32_t)(seat - gang->seats);
    MQ_ASSERT(at < gang->count);
    memmove(seat, seat + 1, sizeof *seat * (gang->count - at - 1));
    gang->count--;
    if (mq_gang_alive(gang) == 0) {
        collapse(core, job, is_counted, out);
        return;
    }
    if (!gang->is_recovered) {
        gang->gang_epoch = mq_gang_next_epoch(core);
        gang->roster_due = true;
    }
    gang->changed_ms = core->now_ms;
    core->wants_turn = true;
    mq_job_dirty(core, job);
    mq_job_timer(core, job);
}

void mq_gang_lapse(mq_core *core, mq_job *job, mq_outputs *out)
{
    uint32_t i = 0;
    while (job->gang != MQ_NONE && i < core->gangs[job->gang].count) {
        mq_seat *seat = &core->gangs[job->gang].seats[i];
        if (seat->phase != MQ_SEAT_DONE && seat->lease_until_ms <= core->now_ms) {
            tell(core, job, seat, "stale", out);
            mq_gang_leave(core, job, seat, true, out);
        } else {
            i++;
        }
    }
}

void mq_gang_worker_gone(mq_core *core, uint32_t worker, mq_outputs *out)
{
    for (uint32_t g = 0; g < core->gang_slots.high; g++) {
        uint32_t i = 0;
        while (core->gangs[g].is_used && i < core->gangs[g].count) {
            mq_gang *gang = &core->gangs[g];
            if (gang->seats[i].worker == worker) {
                mq_gang_leave(core, mq_job_at(core, gang->job), &gang->seats[i], true, out);
            } else {
                i++;
            }
        }
    }
}

void mq_gang_cancel(mq_core *core, mq_job *job, mq_outputs *out)
{
    const mq_gang *gang = mq_gang_of(core, job);
    for (uint32_t i = 0; i < gang->count; i++) {
        tell(core, job, &gang->seats[i], "cancel", out);
    }
}

void mq_gang_claim(mq_core *core, mq_seat *seat, uint32_t worker)
{
    if (seat->worker == MQ_NONE) { /* loaded, and its holder is back */
        seat->worker = worker;
        core->workers[worker].busy++;
        core->workers[worker].busy_batch++;
        seat->is_sent = true;
        core->wants_turn = true;
    }
    seat->is_accepted = true;
}

/* ---- results, checkpoints, accusations ---- */

static void seat_failed(mq_core *core, mq_job *job, mq_seat *seat, const mq_input *in,
                        mq_outputs *out)
{
    const mq_msg_result_item *item = in->as.result.item;
    bool is_crash = mq_span_is(item->class, "crash");
    bool is_retry = mq_span_is(item->class, "retry");
    bool is_leave = mq_span_is(item->class, "return") || mq_span_is(item->class, "cancelled");
    mq_result_refuse(in, out);
    mq_job_set_error(core, job, item->code, item->error);
    job->crashes += is_crash;
    core->stats.crashed += is_crash;
    core->tally.crashed += is_crash;
    if (is_crash) {
        mq_quarantine_crash(core, job);
    }
    bool is_last = mq_gang_alive(mq_gang_of(core, job)) == 1 && seat->phase != MQ_SEAT_DONE;
    if (job->is_cancelling && is_last) {
        mq_end(core, job, MQ_EVENT_CANCEL, "cancel", in, out);
    } else if (is_crash && job->crashes >= job->crashes_max) {
        mq_end(core, job, MQ_EVENT_FAIL, "poison", in, out);
    } else if (is_retry && is_last) {
        mq_result_wait(core, job, in, MQ_SAY_OK);
        mq_gang_end(core, job, item->grant, out);
        mq_fail_attempt(core, job, job->is_timed_out ? "timeout" : "retry", out);
    } else if (is_retry && ++job->attempts >= job->attempts_max) {
        mq_end(core, job, MQ_EVENT_FAIL, "attempts", in, out);
    } else if (is_crash || is_retry || is_leave) {
        mq_result_wait(core, job, in, MQ_SAY_OK);
        mq_gang_leave(core, job, seat, mq_span_is(item->class, "cancelled"), out);
    } else {
        mq_end(core, job, MQ_EVENT_FAIL, "error", in, out);
    }
}

void mq_gang_result(mq_core *core, mq_job *job, mq_seat *seat, const mq_input *in, mq_outputs *out)
{
    const mq_msg_result_item *item = in->as.result.item;
    if (!mq_wait_room(core, 256)) {
        mq_result_refuse(in, out);
        return;
    }
    if (!mq_span_is(item->class, "ok")) {
        seat_failed(core, job, seat, in, out);
        return;
    }
    bool is_empty = item->len == 0 && item->publish_count == 0 && item->spawn_count == 0;
    uint32_t others = mq_gang_alive(mq_gang_of(core, job)) - (seat->phase != MQ_SEAT_DONE);
    if (is_empty && others > 0) { /* somebody else brings the result; the verdict comes then */
        mq_result_refuse(in, out);
        seat->phase = MQ_SEAT_DONE;
        mq_job_timer(core, job);
        return;
    }
    job->grant = seat->grant; /* the token that commits */
    memcpy(job->holder, seat->uuid, sizeof job->holder);
    job->run_us = item->run_us;
    mq_complete(core, job, in, out);
}

static bool keep_checkpoint(mq_core *core, mq_job *job, const mq_msg_checkpoint *m)
{
    mq_ref ref = mq_pool_take(&core->pool, m->chain.len + m->blob.len + m->meta.len);
    if (ref.at == 0) {
        return false;
    }
    uint8_t *at = mq_pool_at(&core->pool, ref);
    const mq_span parts[] = {m->chain, m->blob, m->meta};
    for (int i = 0; i < 3; i++) {
        if (parts[i].len > 0) {
            memcpy(at, parts[i].data, parts[i].len);
            at += parts[i].len;
        }
    }
    mq_span old = mq_pool_span(&core->pool, job->check);
    if (job->blob_len == MQ_HASH_LEN) {
        mq_ref name;
        mq_span hash = mq_span_of(old.data + job->chain_len, MQ_HASH_LEN);
        (void)mq_blob_drop(core, hash);
        if (mq_pool_copy(&core->pool, hash, &name)) {
            mq_unpin_later(core, job, name, 1);
        }
    }
    mq_blob_hold(core, m->blob);
    mq_ref_drop(core, &job->check);
    job->check = ref;
    job->chain_len = (uint8_t)m->chain.len;
    job->blob_len = (uint8_t)m->blob.len;
    job->meta_len = (uint16_t)m->meta.len;
    job->step = m->step;
    job->crashes = job->lapses = 0; /* it makes progress: no poison */
    core->tally.checkpoints++;
    return true;
}

static bool has_same_blob(const mq_core *core, const mq_job *job, mq_span blob)
{
    mq_span check = mq_pool_span(&core->pool, job->check);
    return job->blob_len == blob.len && check.len > 0 &&
           memcmp(check.data + job->chain_len, blob.data, blob.len) == 0;
}

void mq_checkpoint(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_msg_checkpoint *m = in->as.checkpoint;
    mq_job *job = mq_job_find(core, m->id);
    mq_gang *gang = job == NULL ? NULL : mq_gang_of(core, job);
    const char *verdict = NULL;
    bool is_it = job != NULL && job->state == MQ_STATE_LEASED && job->epoch == m->epoch;
    if (gang != NULL) {
        is_it = is_it && gang->gang_epoch == m->gang_epoch &&
                mq_gang_seat(gang, m->grant, (mq_span){0}) != NULL;
    } else {
        is_it = is_it && job->grant == m->grant;
    }
    bool is_repeat = is_it && m->step == job->step && has_same_blob(core, job, m->blob);
    if (!is_it || (m->step <= job->step && !is_repeat)) {
        verdict = "stale";
    } else if (!mq_blob_name_ok(m->blob) || m->chain.len > 64 || m->meta.len > 4096) {
        verdict = mq_code_name(MQ_E_ARG);
    } else if (!mq_wait_room(core, 8) || (!is_repeat && !keep_checkpoint(core, job, m))) {
        verdict = "busy";
    }
    if (verdict != NULL) {
        mq_out_add(out, MQ_OUT_CHECKPOINTED, in->conn, 0)->as.checkpointed = (mq_msg_checkpointed){
            .id = m->id, .grant = m->grant, .step = m->step, .verdict = mq_str(verdict)};
        return;
    }
    mq_waiter *w = mq_wait_job(core, job, MQ_WAIT_CHECKPOINTED, in->conn, 0);
    MQ_ASSERT(w != NULL); /* there was room */
    w->verdict = is_repeat ? MQ_SAY_DUP : MQ_SAY_OK;
    w->grant = m->grant;
    w->step = m->step;
}

void mq_lost(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_msg_lost *m = in->as.lost;
    mq_job *job = mq_job_find(core, m->id);
    mq_gang *gang = job == NULL ? NULL : mq_gang_of(core, job);
    if (gang == NULL || job->epoch != m->epoch || gang->gang_epoch != m->gang_epoch) {
        return; /* a newer roster is on its way */
    }
    const mq_seat *accuser = mq_gang_seat(gang, m->grant, (mq_span){0});
    bool is_member = accuser != NULL && accuser->worker != MQ_NONE && accuser->seat != m->seat &&
                     core->workers[accuser->worker].conn == in->conn;
    for (uint32_t i = 0; i < gang->count && is_member; i++) {
        mq_seat *seat = &gang->seats[i];
        if (seat->seat == m->seat && seat->phase == MQ_SEAT_ACTIVE) {
            tell(core, job, seat, "stale", out);
            mq_gang_leave(core, job, seat, false, out);
            return;
        }
    }
}

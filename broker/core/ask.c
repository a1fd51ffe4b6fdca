/* Jobs that are not in memory: those that ended lately are remembered, the others are asked for in
 * the store. It must not change a live job but through its owner's functions. */
#include "broker/core/state.h"

/* ---- remembered ends ---- */

static bool recent_is(const mq_core *core, uint32_t value, const void *key)
{
    const mq_span *id = key;
    return id->len == MQ_ULID_LEN && memcmp(core->recents[value].id, id->data, MQ_ULID_LEN) == 0;
}

const mq_recent *mq_recent_find(const mq_core *core, mq_span id)
{
    uint32_t no = mq_index_find(core, &core->recent_index, mq_id_hash(id), recent_is, &id);
    return no == MQ_NONE ? NULL : &core->recents[no];
}

static void forget(mq_core *core, uint32_t no)
{
    mq_recent *r = &core->recents[no];
    int64_t ms = mq_ulid_time(r->id);
    core->evicted_id_ms = mq_max_i64(core->evicted_id_ms, ms);
    mq_index_remove(core, &core->recent_index, no);
    mq_name_drop(core, r->kind);
    mq_name_drop(core, r->queue);
    mq_name_drop(core, r->model);
    r->id[0] = '\0';
}

/* An operator's retry brings a remembered dead job back: it is not ended any more. */
static void forget_id(mq_core *core, mq_span id)
{
    const mq_recent *r = mq_recent_find(core, id);
    if (r != NULL) {
        forget(core, (uint32_t)(r - core->recents));
    }
}

void mq_recent_add(mq_core *core, const mq_job *job)
{
    uint32_t no = (uint32_t)(core->recent_total++ % core->config.recent_max);
    mq_recent *r = &core->recents[no];
    if (r->id[0] != '\0') {
        uint32_t soon = (uint32_t)((core->recent_total + 3) % core->config.recent_max);
        mq_index_foresee(&core->recent_index, core->recents[soon].id_hash);
        forget(core, no);
    }
    /* Else its last lease ended without a result: that one, when it comes, is stale. */
    bool is_taken = job->state == MQ_STATE_SUCCEEDED || job->is_spent;
    *r = (mq_recent){.state = job->state,
                     .is_gang = job->seats_max > 0,
                     .kind = job->kind,
                     .queue = job->queue,
                     .model = job->model,
                     .hash = {job->hash[0], job->hash[1]},
                     .epoch = job->epoch,
                     .grant = is_taken ? job->grant : 0,
                     .queue_us = job->queue_us,
                     .run_us = job->run_us,
                     .submitted_ms = job->submitted_ms,
                     .ended_ms = job->ended_ms};
    memcpy(r->id, job->id, sizeof r->id);
    r->id_hash = job->id_hash;
    memcpy(r->why, job->why, sizeof r->why);
    memcpy(r->holder, job->holder, sizeof r->holder);
    mq_name_hold(core, r->kind);
    mq_name_hold(core, r->queue);
    mq_name_hold(core, r->model);
    mq_index_put(core, &core->recent_index, no);
}

bool mq_core_recent(const mq_core *core, uint32_t back, mq_recent_view *out)
{
    if (back >= core->recent_total || back >= core->config.recent_max) {
        return false;
    }
    const mq_recent *r = &core->recents[(core->recent_total - 1 - back) % core->config.recent_max];
    *out = (mq_recent_view){.id = mq_str(r->id),
                            .kind = mq_name_text(core, r->kind),
                            .queue = mq_name_text(core, r->queue),
                            .model = mq_name_text(core, r->model),
                            .why = mq_str(r->why),
                            .state = (mq_state)r->state,
                            .submitted_ms = r->submitted_ms,
                            .ended_ms = r->ended_ms,
                            .queue_us = r->queue_us,
                            .run_us = r->run_us};
    return true;
}

uint64_t mq_core_recent_total(const mq_core *core)
{
    return core->recent_total;
}

/* ---- questions ---- */

mq_ask *mq_ask_new(mq_core *core, mq_ask_type type, mq_span id, mq_outputs *out)
{
    MQ_ASSERT(id.len == MQ_ULID_LEN);
    uint32_t no = MQ_TAKE(core, ask, asks, mq_ask);
    if (no == MQ_NONE) {
        return NULL;
    }
    mq_ask *ask = &core->asks[no];
    *ask = (mq_ask){.type = (uint8_t)type, .job = MQ_NONE};
    memcpy(ask->id, id.data, MQ_ULID_LEN);
    mq_output *item = mq_out_add(out, MQ_OUT_ASK, 0, 0);
    item->as.ask.id = mq_span_of(ask->id, MQ_ULID_LEN);
    item->as.ask.ask = no;
    return ask;
}

/* A create was a dup: the job exists already, with this record, or is live in a segment that is not
 * loaded. */
static void found_submit(mq_core *core, const mq_ask *ask, const mq_job_record *r, mq_outputs *out)
{
    mq_span id = mq_span_of(ask->id, MQ_ULID_LEN);
    const mq_job *job = mq_job_find(core, id);
    if (job != NULL && !mq_replica_has(core, job)) {
        mq_say_submitted(out, ask->conn, ask->rid, id, "busy", "",
                         "no replica has confirmed the job yet; ask again", MQ_RETRY_LATER_MS);
        return;
    }
    if (r == NULL) {
        const char *state = job == NULL ? "queued" : mq_state_name((mq_state)job->state);
        mq_say_submitted(out, ask->conn, ask->rid, id, "dup", state, "", 0);
        return;
    }
    bool is_same =
        r->hash.len == sizeof ask->hash && memcmp(r->hash.data, ask->hash, sizeof ask->hash) == 0;
    mq_state state = mq_state_parse(r->state);
    bool is_unsure = (r->flags & MQ_REC_REPLICATED) != 0 && !core->was_replica_open;
    if (is_same && is_unsure) {
        mq_say_submitted(out, ask->conn, ask->rid, id, "busy", "", mq_replica_closed(core),
                         MQ_RETRY_LATER_MS);
        return;
    }
    mq_say_submitted(out, ask->conn, ask->rid, id, is_same ? "dup" : "conflict",
                     mq_state_name(state),
                     is_same ? "" : "id: used before by a job with other content", 0);
}

static void found_result(const mq_ask *ask, const mq_job_record *r, mq_outputs *out)
{
    const char *verdict = "unknown";
    if (r != NULL) { /* the last lease may have ended without its result */
        bool is_taken =
            mq_state_parse(r->state) == MQ_STATE_SUCCEEDED || (r->flags & MQ_REC_SPENT) != 0;
        bool is_it =
            r->epoch == ask->epoch && r->grant == ask->grant && mq_span_is(r->worker, ask->worker);
        verdict = is_it && is_taken ? "dup" : "stale";
    }
    mq_say_verdict(out, ask->conn, mq_span_of(ask->id, MQ_ULID_LEN), ask->epoch, ask->grant,
                   verdict);
}

static void found_cancel(const mq_ask *ask, const mq_job_record *r, mq_outputs *out)
{
    if (r == NULL) {
        mq_say_reply(out, ask->conn, ask->rid, "not_found", "", "id: no such job");
    } else {
        const char *state = mq_state_name(mq_state_parse(r->state));
        mq_say_reply(out, ask->conn, ask->rid, "dup", state, "the job had ended already");
    }
}

/* An operator brings a dead job back under its old id, with its counters at zero. */
static void found_retry(mq_core *core, const mq_ask *ask, const mq_job_record *r, mq_outputs *out)
{
    mq_span id = mq_span_of(ask->id, MQ_ULID_LEN);
    if (r == NULL || mq_state_parse(r->state) != MQ_STATE_DEAD || mq_job_find(core, id) != NULL ||
        (r->flags & MQ_REC_DISCARDED) != 0) {
        mq_say_reply(out, ask->conn, ask->rid, "not_found", "", "id: no dead job has it");
        return;
    }
    if (r->unique.len > 0 && mq_unique_find(core, r->unique) != NULL) {
        mq_say_reply(out, ask->conn, ask->rid, "conflict", "", "a live job has its unique key");
        return;
    }
    mq_job *job = core->is_full || !mq_wait_room(core, 64) ? NULL : mq_job_new(core, id);
    if (job == NULL || !mq_recover_apply(core, job, r)) {
        if (job != NULL) {
            mq_job_free(core, job);
        }
        mq_say_reply(out, ask->conn, ask->rid, "busy", "", "the broker's job memory is full");
        return;
    }
    forget_id(core, id);
    mq_unique_hold(core, job);
    job->create = MQ_CREATE_REVIVE;
    job->number = core->next_number++;
    job->attempts = job->crashes = job->lapses = 0;
    job->code = 0;
    mq_ref_drop(core, &job->error);
    job->expires_ms = 0;
    job->ended_ms = 0;
    job->is_cancelling = job->is_spent = false;
    core->live++;
    core->names[job->tenant].live++;
    mq_job_move(core, job, MQ_EVENT_REQUEUE, "operator");
    (void)mq_wait_job(core, job, MQ_WAIT_REPLY, ask->conn, ask->rid);
}

static void found_dep(mq_core *core, const mq_ask *ask, const mq_job_record *r)
{
    mq_job *child = &core->jobs[ask->job];
    if (child->is_used && child->number == ask->number && !mq_job_ended(child)) {
        mq_deps_answer(core, child, mq_span_of(ask->id, MQ_ULID_LEN),
                       r == NULL ? MQ_STATE_REFUSED : mq_state_parse(r->state));
    }
}

static void give(mq_core *core, uint32_t no)
{
    core->asks[no].type = MQ_ASK_NONE;
    core->asks[no].next_free = mq_slots_give(&core->ask_slots, no);
}

void mq_ask_found(mq_core *core, const mq_input *in, mq_outputs *out)
{
    uint32_t no = in->as.found.ask;
    MQ_ASSERT(no < core->config.asks_max && core->asks[no].type != MQ_ASK_NONE);
    core->asked = core->asks[no];
    const mq_ask *ask = &core->asked;
    give(core, no);
    if (in->as.found.is_failed) {
        return; /* the store is lost: this core ends; whoever asked asks again */
    }
    mq_job_record *r = NULL;
    if (in->as.found.record.len > 0) {
        r = &core->record;
        if (mq_job_record_read(in->as.found.record, r, &core->err) != MQ_OK) {
            r = NULL;
        }
    }
    switch ((mq_ask_type)ask->type) {
    case MQ_ASK_DEP:
        found_dep(core, ask, r);
        break;
    case MQ_ASK_SUBMIT:
        found_submit(core, ask, r, out);
        break;
    case MQ_ASK_RESULT:
        found_result(ask, r, out);
        break;
    case MQ_ASK_CANCEL:
        found_cancel(ask, r, out);
        break;
    case MQ_ASK_RETRY:
        found_retry(core, ask, r, out);
        break;
    case MQ_ASK_DISCARD:
        mq_discard_found(core, ask, r, out);
        break;
    case MQ_ASK_NONE:
        MQ_ASSERT(false);
    }
}

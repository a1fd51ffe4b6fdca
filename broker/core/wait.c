/* Answers: those given at once, and those that wait for a commit. It must not decide anything. */
#include "broker/core/state.h"

/* The ordinary ones are large and come several to a job: `as` is what the caller makes it. */
static mq_output *take(mq_outputs *out, mq_output_type type, uint64_t conn, uint64_t rid)
{
    MQ_ASSERT(out->count < MQ_OUTPUTS_MAX);
    mq_output *item = &out->items[out->count++];
    item->type = type;
    item->conn = conn;
    item->rid = rid;
    item->payload = (mq_span){0};
    item->bytes = NULL;
    return item;
}

mq_output *mq_out_add(mq_outputs *out, mq_output_type type, uint64_t conn, uint64_t rid)
{
    mq_output *item = take(out, type, conn, rid);
    memset(&item->as, 0, sizeof item->as);
    return item;
}

mq_output *mq_out_job(mq_outputs *out, uint64_t conn)
{
    return take(out, MQ_OUT_JOB, conn, 0);
}

void mq_out_release(mq_outputs *out, mq_bytes *bytes)
{
    take(out, MQ_OUT_RELEASE, 0, 0)->bytes = bytes;
}

mq_span mq_out_text(mq_outputs *out, mq_span a, mq_span b, mq_span c)
{
    const mq_span parts[] = {a, b, c};
    uint32_t from = out->text_len;
    for (int i = 0; i < 3; i++) {
        MQ_ASSERT(parts[i].len <= MQ_OUT_TEXT_MAX - out->text_len);
        if (parts[i].len > 0) {
            memcpy(out->text + out->text_len, parts[i].data, parts[i].len);
            out->text_len += (uint32_t)parts[i].len;
        }
    }
    return mq_span_of(out->text + from, out->text_len - from);
}

void mq_out_refuse(mq_outputs *out, mq_bytes *bytes)
{
    if (bytes != NULL) {
        mq_out_release(out, bytes);
    }
}

void mq_say_submitted(mq_outputs *out, uint64_t conn, uint64_t rid, mq_span id, const char *verdict,
                      const char *state, const char *text, uint64_t retry_ms)
{
    if (conn == 0) {
        return;
    }
    mq_output *item = take(out, MQ_OUT_SUBMITTED, conn, rid);
    item->as.submitted = (mq_msg_submitted_job){
        .id = id,
        .verdict = mq_str(verdict),
        .state = mq_str(state),
        .text = mq_str(text),
        .retry_ms = retry_ms,
    };
}

void mq_say_reply(mq_outputs *out, uint64_t conn, uint64_t rid, const char *verdict,
                  const char *state, const char *text)
{
    mq_output *item = mq_out_add(out, MQ_OUT_REPLY, conn, rid);
    item->as.reply = (mq_msg_reply){
        .rid = rid, .verdict = mq_str(verdict), .state = mq_str(state), .text = mq_str(text)};
}

void mq_say_verdict(mq_outputs *out, uint64_t conn, mq_span id, uint64_t epoch, uint64_t grant,
                    const char *verdict)
{
    mq_output *item = take(out, MQ_OUT_VERDICT, conn, 0);
    item->as.verdict =
        (mq_msg_held_verdict){.id = id, .epoch = epoch, .grant = grant, .verdict = mq_str(verdict)};
}

void mq_say_error(mq_outputs *out, uint64_t conn, uint64_t rid, mq_code code, const char *text)
{
    mq_output *item = mq_out_add(out, MQ_OUT_ERROR, conn, rid);
    item->as.error =
        (mq_msg_error){.rid = rid, .code = mq_str(mq_code_name(code)), .text = mq_str(text)};
}

void mq_say_ended(mq_core *core, mq_job *job, mq_outputs *out)
{
    mq_output *item = take(out, MQ_OUT_ENDED, job->conn, 0);
    mq_span id = mq_span_of(job->id, MQ_ULID_LEN);
    item->bytes = job->result;
    item->payload = job->result != NULL ? mq_span_of(job->result->data, job->result->len)
                                        : mq_pool_span(&core->pool, job->result_text);
    item->as.ended = (mq_ended){
        .done = {.id = id,
                 .state = mq_state_text((mq_state)job->state),
                 .why = mq_str(job->why),
                 .code = job->code == 0 ? (mq_span){0} : mq_str(mq_code_name((mq_code)job->code)),
                 .error = mq_pool_span(&core->pool, job->error),
                 .attempts = job->attempts,
                 .queue_us = job->queue_us,
                 .run_us = job->run_us,
                 .len = item->payload.len},
        .kind = mq_name_text(core, job->kind),
        .queue = mq_name_text(core, job->queue),
        .model = mq_name_text(core, job->model),
        .worker = mq_str(job->holder),
        .state = (mq_state)job->state,
        .submitted_ms = job->submitted_ms,
        .ended_ms = job->ended_ms,
        .is_quiet = job->is_quiet,
        .is_transient = job->is_transient,
    };
}

/* ---- waiters ---- */

bool mq_wait_room(const mq_core *core, uint32_t count)
{
    return mq_slots_has(&core->waiter_slots, count);
}

uint32_t mq_wait_take(mq_core *core, mq_wait_type type, uint64_t conn, uint64_t rid)
{
    uint32_t no = MQ_TAKE(core, waiter, waiters, mq_waiter);
    if (no != MQ_NONE) {
        core->waiters[no] = (mq_waiter){
            .next = MQ_NONE, .job = MQ_NONE, .type = (uint8_t)type, .conn = conn, .rid = rid};
    }
    return no;
}

mq_waiter *mq_wait_job(mq_core *core, mq_job *job, mq_wait_type type, uint64_t conn, uint64_t rid)
{
    uint32_t no = mq_wait_take(core, type, conn, rid);
    if (no == MQ_NONE) {
        return NULL;
    }
    core->waiters[no].job = mq_job_no(core, job);
    if (job->waiters == MQ_NONE) {
        job->waiters = no;
    } else {
        core->waiters[job->waiters_tail].next = no;
    }
    job->waiters_tail = no;
    job->waiter_weight++;
    mq_job_dirty(core, job);
    return &core->waiters[no];
}

mq_waiter *mq_wait_reg(mq_core *core, uint32_t reg, mq_wait_type type, uint64_t conn, uint64_t rid)
{
    uint32_t no = mq_wait_take(core, type, conn, rid);
    mq_reg *r = &core->regs[reg];
    if (no == MQ_NONE) {
        return NULL;
    }
    if (r->waiters == MQ_NONE) {
        r->waiters = no;
    } else {
        core->waiters[r->waiters_tail].next = no;
    }
    r->waiters_tail = no;
    return &core->waiters[no];
}

void mq_wait_free(mq_core *core, uint32_t waiter)
{
    mq_waiter *w = &core->waiters[waiter];
    mq_ref_drop(core, &w->text);
    w->next_free = mq_slots_give(&core->waiter_slots, waiter);
}

static const char *verdict_text(const mq_waiter *w)
{
    static const char *const texts[] = {
        [MQ_SAY_OK] = "ok", [MQ_SAY_DUP] = "dup", [MQ_SAY_STALE] = "stale"};
    MQ_ASSERT(w->verdict < sizeof texts / sizeof texts[0]);
    return texts[w->verdict];
}

static void unpin(mq_core *core, const mq_waiter *w, mq_outputs *out)
{
    mq_span names = mq_pool_span(&core->pool, w->text);
    for (size_t at = 0; at + MQ_HASH_LEN <= names.len; at += MQ_HASH_LEN) {
        mq_span hash = mq_span_of(names.data + at, MQ_HASH_LEN);
        if (!mq_blob_is_held(core, hash)) {
            mq_out_add(out, MQ_OUT_UNPIN, 0, 0)->as.hash = hash;
        }
    }
}

static void say(mq_core *core, const mq_waiter *w, mq_outputs *out)
{
    mq_job *job = w->job == MQ_NONE ? NULL : mq_job_at(core, w->job);
    bool is_hidden = job != NULL && mq_job_ended(job) && !job->is_ending; /* not stored yet */
    /* Created and ended by one commit: its end follows by itself, nobody has to ask for it. */
    is_hidden |= job != NULL && job->is_ending && job->create == MQ_CREATE_SENT &&
                 w->type == MQ_WAIT_SUBMITTED && w->conn == job->conn;
    const char *state =
        job == NULL ? "" : mq_state_name((mq_state)(is_hidden ? job->before : job->state));
    mq_span id = job == NULL ? (mq_span){0} : mq_span_of(job->id, MQ_ULID_LEN);
    switch ((mq_wait_type)w->type) {
    case MQ_WAIT_SUBMITTED:
        mq_say_submitted(out, w->conn, w->rid, id, verdict_text(w), state, "", 0);
        break;
    case MQ_WAIT_REPLY:
        mq_say_reply(out, w->conn, w->rid, verdict_text(w), state, "");
        break;
    case MQ_WAIT_VERDICT:
        mq_say_verdict(out, w->conn, id, w->epoch, w->grant, verdict_text(w));
        break;
    case MQ_WAIT_CHECKPOINTED:
        mq_out_add(out, MQ_OUT_CHECKPOINTED, w->conn, 0)->as.checkpointed = (mq_msg_checkpointed){
            .id = id, .grant = w->grant, .step = w->step, .verdict = mq_str(verdict_text(w))};
        break;
    case MQ_WAIT_JOB:
        if (job->gang != MQ_NONE && job->grants == w->grant) {
            mq_gang_stored(core, job, out);
        } else if (job->gang == MQ_NONE && job->state == MQ_STATE_LEASED &&
                   job->grant == w->grant) {
            job->wait_stored = false;
            mq_send_job(core, job, out);
        }
        break;
    case MQ_WAIT_UNIQUE:
        mq_unique_say(core, w, out);
        break;
    case MQ_WAIT_UNPIN:
        unpin(core, w, out);
        break;
    }
}

void mq_wait_release(mq_core *core, uint32_t head, mq_outputs *out)
{
    while (head != MQ_NONE) {
        uint32_t next = core->waiters[head].next;
        say(core, &core->waiters[head], out);
        mq_wait_free(core, head);
        head = next;
    }
}

/* Cancelling: at once where nobody runs the job, else by asking whoever runs it; a hard cancel does
 * not wait for them. A result that comes before a soft cancel is done wins. */
#include "broker/core/state.h"

static void tell(mq_core *core, const mq_job *job, const char *verdict, mq_outputs *out)
{
    if (job->worker == MQ_NONE || out->verdict_count == MQ_OUT_VERDICTS_MAX) {
        return; /* the next beat tells it */
    }
    mq_msg_held_verdict *v = &out->verdicts[out->verdict_count++];
    *v = (mq_msg_held_verdict){.id = mq_span_of(job->id, MQ_ULID_LEN),
                               .epoch = job->epoch,
                               .grant = job->grant,
                               .verdict = mq_str(verdict)};
    mq_output *item = mq_out_add(out, MQ_OUT_BEATEN, core->workers[job->worker].conn, 0);
    item->as.beaten = (mq_msg_beaten){.verdicts = v, .verdicts_count = 1};
}

static void answer_unknown(mq_core *core, const mq_input *in, mq_outputs *out)
{
    mq_span id = in->as.cancel->id;
    const mq_recent *recent = mq_recent_find(core, id);
    if (recent != NULL) {
        mq_say_reply(out, in->conn, in->rid, "dup", mq_state_name((mq_state)recent->state),
                     "the job had ended already");
    } else if (id.len != MQ_ULID_LEN) {
        mq_say_reply(out, in->conn, in->rid, "not_found", "", "id: no such job");
    } else if (core->is_loading) {
        mq_say_reply(out, in->conn, in->rid, "busy", "", "the broker is still loading; ask again");
    } else {
        mq_ask *ask = mq_ask_new(core, MQ_ASK_CANCEL, id, out);
        if (ask == NULL) {
            mq_say_reply(out, in->conn, in->rid, "busy", "", "too many questions to the store");
            return;
        }
        ask->conn = in->conn;
        ask->rid = in->rid;
    }
}

static void answer(mq_core *core, mq_job *job, const mq_input *in, mq_wait_verdict verdict,
                   mq_outputs *out)
{
    mq_waiter *w = mq_wait_job(core, job, MQ_WAIT_REPLY, in->conn, in->rid);
    if (w == NULL) {
        mq_say_reply(out, in->conn, in->rid, "busy", "", "too many answers wait for the store");
        return;
    }
    w->verdict = (uint8_t)verdict;
}

static void cancel_soft(mq_core *core, mq_job *job, const mq_input *in, mq_outputs *out)
{
    job->is_cancelling = true;
    if (job->gang != MQ_NONE) {
        mq_gang_cancel(core, job, out);
    } else {
        tell(core, job, "cancel", out);
    }
    if (job->is_transient) {
        mq_say_reply(out, in->conn, in->rid, "ok", "leased", "");
    } else {
        answer(core, job, in, MQ_SAY_OK, out);
    }
}

void mq_cancel(mq_core *core, const mq_input *in, mq_outputs *out)
{
    mq_job *job = mq_job_find(core, in->as.cancel->id);
    if (job == NULL || job->is_spawned) {
        answer_unknown(core, in, out);
        return;
    }
    if (core->is_loading && !job->is_transient && job->create != MQ_CREATE_STORED) {
        /* It may be a repeat of one that is loaded yet, which would not hear of it. */
        mq_say_reply(out, in->conn, in->rid, "busy", "", "the broker is still loading; ask again");
        return;
    }
    if (mq_job_ended(job)) {
        answer(core, job, in, MQ_SAY_DUP, out);
        return;
    }
    if (job->state == MQ_STATE_LEASED && !in->as.cancel->is_hard) {
        cancel_soft(core, job, in, out);
        return;
    }
    if (job->gang != MQ_NONE) {
        mq_gang_end(core, job, 0, out);
    } else {
        tell(core, job, "stale", out);
    }
    if (job->state == MQ_STATE_NONE) { /* its parents are being looked up */
        mq_job_move(core, job, MQ_EVENT_BLOCK, "deps");
    }
    mq_job_move(core, job, MQ_EVENT_CANCEL, "cancel");
    job->grant = 0; /* nobody's token any more */
    if (job->is_transient) {
        mq_say_reply(out, in->conn, in->rid, "ok", "cancelled", "");
        mq_end_transient(core, job, out);
    } else {
        answer(core, job, in, MQ_SAY_OK, out);
    }
}

/* Recurring jobs: the registry holds each one's definition (unread here) and the time of its last
 * firing that was dealt with. A firing's job and that time go to the store in one commit, so each
 * time is fired once, whatever dies in between. It must not know schedules nor time zones: the
 * shell says when. */
#include "broker/core/state.h"

static void answer(const mq_input *in, mq_outputs *out, mq_code code, const char *text)
{
    if (in->conn != 0) {
        mq_say_reply(out, in->conn, in->rid, mq_code_name(code), "", text);
    }
}

/* Starts core->making as the entry stands; false when there is none. */
static bool start(mq_core *core, uint32_t no)
{
    mq_entry *making = &core->making;
    memset(making, 0, offsetof(mq_entry, blobs));
    if (no == MQ_NONE || core->regs[no].is_deleted || core->regs[no].value.at == 0) {
        return false;
    }
    return mq_entry_read(mq_pool_span(&core->pool, core->regs[no].value), making, NULL) == MQ_OK;
}

static void write(mq_core *core, const mq_input *in, uint32_t no, mq_outputs *out)
{
    if (!mq_wait_room(core, 8) || !mq_reg_set(core, no, &core->making)) {
        answer(in, out, MQ_E_BUSY, "the registry is full");
        return;
    }
    if (in->conn != 0) {
        (void)mq_wait_reg(core, no, MQ_WAIT_REPLY, in->conn, in->rid);
    }
    mq_reg_dirty(core, no);
}

static void add(mq_core *core, const mq_input *in, const mq_entry_key *key, uint32_t no,
                mq_outputs *out)
{
    if (!mq_entry_name_ok(key->name)) {
        answer(in, out, MQ_E_ARG, "cron: a name has 1 to 128 printable letters without blank / @");
        return;
    }
    if (start(core, no)) {
        bool is_same = mq_span_eq(core->making.meta, in->as.cron.meta);
        answer(in, out, is_same ? MQ_OK : MQ_E_EXISTS,
               is_same ? "it was so already" : "cron: the name is taken; remove that one first");
        return;
    }
    no = no != MQ_NONE ? no : mq_reg_new(core, key);
    if (no == MQ_NONE) {
        answer(in, out, MQ_E_BUSY, "the registry is full");
        return;
    }
    memset(&core->making, 0, offsetof(mq_entry, blobs));
    core->making.meta = in->as.cron.meta;
    core->making.at_ms = core->now_ms;
    write(core, in, no, out);
}

/* The job of one firing, and with its create the time that is dealt with. */
static void fire(mq_core *core, const mq_input *in, uint32_t no, mq_outputs *out)
{
    const mq_msg_submit_job *item = in->as.cron.item;
    bool is_known = mq_job_find(core, item->id) != NULL || mq_recent_find(core, item->id) != NULL;
    bool is_alone = item->unique.len > 0 && mq_unique_find(core, item->unique) != NULL;
    if (is_known || is_alone) { /* it was fired before, or the one before still runs */
        mq_out_refuse(out, in->body);
        write(core, in, no, out);
        return;
    }
    mq_job *job = core->is_loading ? NULL : mq_submit_new(core, item, in->body);
    if (job == NULL) {
        mq_out_refuse(out, in->body); /* no room now: the shell fires it again */
        return;
    }
    if (mq_reg_set(core, no, &core->making)) {
        core->regs[no].is_pending = true;
        job->cron = no + 1;
    }                      /* else a full pool: its id tells the next attempt that it has been */
    job->is_fresh = false; /* its id may have been fired before: the store tells first */
    mq_submit_place(core, job);
}

void mq_cron(mq_core *core, const mq_input *in, mq_outputs *out)
{
    mq_entry_key key = {.type = MQ_ENTRY_CRON, .name = in->as.cron.name};
    uint32_t no = mq_reg_find(core, &key);
    if (no != MQ_NONE && (core->regs[no].is_pending || core->regs[no].is_dirty)) {
        mq_out_refuse(out, in->body);
        answer(in, out, MQ_E_BUSY, "cron: a change of it is being stored; ask again");
        return;
    }
    if (in->as.cron.what == MQ_CRON_ADD) {
        add(core, in, &key, no, out);
        return;
    }
    if (!start(core, no)) {
        mq_out_refuse(out, in->body);
        answer(in, out, MQ_E_NOT_FOUND, "cron: there is none of this name");
        return;
    }
    mq_entry *making = &core->making;
    switch (in->as.cron.what) {
    case MQ_CRON_PAUSE:
        making->is_paused = true;
        break;
    case MQ_CRON_RESUME: /* what was due meanwhile is not made up for */
        making->at_ms = making->is_paused ? core->now_ms : making->at_ms;
        making->is_paused = false;
        break;
    case MQ_CRON_REMOVE:
        memset(making, 0, offsetof(mq_entry, blobs));
        making->is_deleted = true;
        break;
    case MQ_CRON_SKIP:
    case MQ_CRON_FIRE:
        if (making->is_paused || in->as.cron.at_ms <= making->at_ms) {
            mq_out_refuse(out, in->body); /* dealt with already */
            return;
        }
        making->at_ms = in->as.cron.at_ms;
        break;
    case MQ_CRON_ADD:
        MQ_ASSERT(false);
    }
    if (in->as.cron.what == MQ_CRON_FIRE) {
        fire(core, in, no, out);
    } else {
        write(core, in, no, out);
    }
}

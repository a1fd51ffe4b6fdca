/* Quarantine of a kind: when so many different jobs of it, one after another, have crashed the slot
 * that ran them, no more of it start anywhere until an operator says so. A single poison job is not
 * enough (it dies alone), nor is a kind that works now and then: a success and a clean failure both
 * begin the row anew. The pause is an entry of the registry; the row itself is not stored, after a
 * takeover it begins at 0. It must not know how a lane is passed by (strand.c). */
#include "broker/core/state.h"

/* True: the entry is on its way to the store. */
static bool set_kind(mq_core *core, mq_span kind, bool is_paused, mq_span job, uint32_t row,
                     const mq_input *in, mq_outputs *out)
{
    mq_entry_key key = {.type = MQ_ENTRY_KIND, .name = kind};
    mq_entry *entry = &core->making;
    memset(entry, 0, offsetof(mq_entry, blobs));
    entry->at_ms = core->now_ms;
    entry->is_paused = is_paused;
    entry->job = job;
    entry->numbers[0] = row;
    if (in != NULL && !mq_command_write(core, in, &key, out)) {
        return false;
    }
    if (in == NULL) {
        uint32_t no = mq_reg_find(core, &key);
        no = no != MQ_NONE ? no : mq_reg_new(core, &key);
        if (no == MQ_NONE || !mq_reg_set(core, no, entry)) {
            return false; /* the registry is full: tried again with the next crash */
        }
        mq_reg_dirty(core, no);
    }
    mq_policy_apply(core, &key, entry);
    mq_lanes_refresh(core);
    core->wants_turn = true;
    return true;
}

void mq_quarantine_crash(mq_core *core, const mq_job *job)
{
    mq_name *kind = &core->names[job->kind];
    uint32_t most = core->config.quarantine_jobs;
    if (most == 0 || job->crashes != 1) { /* each job counts once */
        return;
    }
    kind->crash_row++;
    mq_span name = mq_name_text(core, job->kind);
    if (kind->crash_row >= most && !mq_kind_is_paused(core, name) &&
        set_kind(core, name, true, mq_span_of(job->id, MQ_ULID_LEN), kind->crash_row, NULL, NULL)) {
        core->stats.quarantines++;
    }
}

void mq_do_kind(mq_core *core, const mq_input *in, mq_outputs *out)
{
    mq_span kind = in->as.command->args[0];
    bool is_paused = mq_span_is(in->as.command->verb, "pause-kind");
    if (!mq_entry_name_ok(kind) || kind.len > 64) {
        mq_say_reply(out, in->conn, in->rid, mq_code_name(MQ_E_ARG), "", "kind: must be a name");
        return;
    }
    uint32_t name = mq_name_find(core, kind);
    if (set_kind(core, kind, is_paused, (mq_span){0}, 0, in, out) && name != MQ_NONE) {
        core->names[name].crash_row = 0;
    }
}

void mq_kinds_count(mq_core *core)
{
    core->stats.kinds_paused = core->stats.kinds_quarantined = 0;
    for (uint32_t i = 0; i < core->reg_slots.high; i++) {
        const mq_reg *reg = &core->regs[i];
        if (reg->is_used && reg->type == MQ_ENTRY_KIND && reg->is_paused) {
            core->stats.kinds_paused++;
            core->stats.kinds_quarantined += reg->number > 0;
        }
    }
}

bool mq_core_kind(const mq_core *core, mq_span name, mq_kind_view *out)
{
    mq_entry_key key = {.type = MQ_ENTRY_KIND, .name = name};
    uint32_t no = mq_reg_find(core, &key);
    uint32_t kind = mq_name_find(core, name);
    *out = (mq_kind_view){.name = name,
                          .crash_row = kind == MQ_NONE ? 0 : core->names[kind].crash_row};
    if (no == MQ_NONE || !core->regs[no].is_paused) {
        return false;
    }
    out->is_paused = true;
    out->quarantined_after = core->regs[no].number;
    out->value = mq_pool_span(&core->pool, core->regs[no].value);
    return true;
}

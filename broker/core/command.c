/* Operators' actions. Each is a row of the table; an answer waits for the commit that holds the
 * change. It must not know who the operator is. */
#include "broker/core/state.h"

typedef void command_fn(mq_core *core, const mq_input *in, mq_outputs *out);

static void refuse(const mq_input *in, mq_code code, const char *text, mq_outputs *out)
{
    mq_say_reply(out, in->conn, in->rid, mq_code_name(code), "", text);
}

static bool number_of(mq_span text, uint32_t *out)
{
    uint64_t n = 0;
    for (size_t i = 0; i < text.len && n <= MQ_ENTRY_VERSION_MAX; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') {
            return false;
        }
        n = n * 10 + (uint64_t)(text.data[i] - '0');
    }
    *out = (uint32_t)n;
    return text.len > 0 && n <= MQ_ENTRY_VERSION_MAX;
}

bool mq_command_write(mq_core *core, const mq_input *in, const mq_entry_key *key, mq_outputs *out)
{
    uint32_t no = mq_reg_find(core, key);
    no = no != MQ_NONE ? no : mq_reg_new(core, key);
    if (no == MQ_NONE || !mq_wait_room(core, 8) || !mq_reg_set(core, no, &core->making)) {
        refuse(in, MQ_E_BUSY, "the registry is full", out);
        return false;
    }
    (void)mq_wait_reg(core, no, MQ_WAIT_REPLY, in->conn, in->rid);
    mq_reg_dirty(core, no);
    return true;
}

/* Writes core->making into the entry of key and answers when that is stored. */
static void write_entry(mq_core *core, const mq_input *in, const mq_entry_key *key, mq_outputs *out)
{
    (void)mq_command_write(core, in, key, out);
}

static mq_entry *start_entry(mq_core *core)
{
    memset(&core->making, 0, offsetof(mq_entry, blobs));
    core->making.at_ms = core->now_ms;
    return &core->making;
}

/* What the alias remembers after it has moved from `now` (0: from nowhere): one more, or, when it
 * goes back, only what came before the version it goes back to. */
static void remember(mq_core *core, uint32_t no, uint32_t now, bool is_back, mq_entry *to)
{
    mq_entry *old = &core->entry;
    bool has_old = no != MQ_NONE && mq_entry_read(mq_pool_span(&core->pool, core->regs[no].value),
                                                  old, NULL) == MQ_OK;
    uint32_t count = has_old ? old->before_count : 0;
    uint32_t from = 0;
    if (!is_back && now != 0) {
        to->before[to->before_count++] = now;
    }
    while (is_back && from < count && old->before[from++] != to->version) {
    }
    while (from < count && to->before_count < MQ_ENTRY_BEFORE_MAX) {
        to->before[to->before_count++] = old->before[from++];
    }
}

static void do_alias(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_span *args = in->as.command->args;
    uint32_t version = 0;
    uint32_t expected = 0;
    mq_entry_key key = {.type = MQ_ENTRY_ALIAS, .name = args[0], .alias = args[1]};
    mq_entry_key target = {.type = MQ_ENTRY_MODEL, .name = args[0]};
    if (!mq_entry_name_ok(args[0]) || !mq_entry_name_ok(args[1]) || number_of(args[1], &version)) {
        refuse(in, MQ_E_ARG, "alias: model and alias are names, an alias is no number", out);
        return;
    }
    bool has_expected = in->as.command->args_count > 3 && args[3].len > 0;
    if (!number_of(args[2], &version) || (has_expected && !number_of(args[3], &expected))) {
        refuse(in, MQ_E_ARG, "alias: versions are numbers, 0 = none", out);
        return;
    }
    target.version = version;
    mq_entry_view view;
    uint32_t no = mq_reg_find(core, &target);
    if (version != 0 && (no == MQ_NONE || !mq_core_entry(core, no, &view))) {
        refuse(in, MQ_E_NOT_FOUND, "alias: the model has no such version", out);
        return;
    }
    uint32_t now = mq_alias_version(core, args[0], args[1]);
    bool is_same = version != 0 && now == version; /* sent again: stored again, then answered */
    if (has_expected && now != expected && !is_same) {
        char digits[21];
        mq_text(&core->err, "alias: somebody else was faster, it points to version ",
                mq_digits(now, digits));
        refuse(in, MQ_E_CONFLICT, core->err.text, out);
        return;
    }
    if (version == 0 && now == 0) {
        refuse(in, MQ_E_NOT_FOUND, "alias: there is none of this name", out);
        return;
    }
    mq_entry *entry = start_entry(core);
    entry->version = version;
    if (version != 0) {
        bool is_back = in->as.command->args_count > 4 && mq_span_is(args[4], "back");
        remember(core, mq_reg_find(core, &key), is_same ? 0 : now, is_back && !is_same, entry);
    }
    write_entry(core, in, &key, out);
}

/* Pause, resume and drain of a queue: resume undoes both. */
static void set_queue(mq_core *core, const mq_input *in, bool is_paused, bool is_draining,
                      mq_outputs *out)
{
    mq_span queue = in->as.command->args[0];
    mq_entry_key key = {.type = MQ_ENTRY_QUEUE, .name = queue};
    if (!mq_entry_name_ok(queue)) {
        refuse(in, MQ_E_ARG, "queue: must be a name", out);
        return;
    }
    mq_entry *entry = start_entry(core);
    entry->is_paused = is_paused;
    entry->is_draining = is_draining;
    if (mq_command_write(core, in, &key, out)) {
        mq_policy_apply(core, &key, entry);
        mq_lanes_refresh(core);
        core->wants_turn = true;
    }
}

static void do_pause(mq_core *core, const mq_input *in, mq_outputs *out)
{
    set_queue(core, in, true, mq_queue_is_draining(core, in->as.command->args[0]), out);
}

static void do_resume(mq_core *core, const mq_input *in, mq_outputs *out)
{
    set_queue(core, in, false, false, out);
}

static void do_drain_queue(mq_core *core, const mq_input *in, mq_outputs *out)
{
    set_queue(core, in, false, true, out);
}

static void do_drain(mq_core *core, const mq_input *in, mq_outputs *out)
{
    mq_worker *w = mq_worker_find(core, in->as.command->args[0]);
    if (w == NULL) {
        refuse(in, MQ_E_NOT_FOUND, "drain: no worker has this uuid", out);
        return;
    }
    w->is_draining = true;
    mq_out_add(out, MQ_OUT_DRAIN, w->conn, 0);
    mq_say_reply(out, in->conn, in->rid, "ok", "", "");
}

static void do_undrain(mq_core *core, const mq_input *in, mq_outputs *out)
{
    mq_worker *w = mq_worker_find(core, in->as.command->args[0]);
    if (w == NULL) {
        refuse(in, MQ_E_NOT_FOUND, "undrain: no worker has this uuid", out);
        return;
    }
    w->is_draining = false;
    mq_idle_note(core, (uint32_t)(w - core->workers));
    mq_say_reply(out, in->conn, in->rid, "ok", "", "");
}

/* Asks the store for the dead job of the first argument. */
static void ask_for_dead(mq_core *core, const mq_input *in, mq_ask_type type, mq_outputs *out)
{
    mq_span id = in->as.command->args[0];
    const mq_job *job = mq_job_find(core, id);
    if (mq_ulid_ms(id) < 0 || (job != NULL && !mq_job_ended(job))) {
        refuse(in, MQ_E_NOT_FOUND, "no dead job has this id", out);
        return;
    }
    mq_ask *ask = job == NULL ? mq_ask_new(core, type, id, out) : NULL;
    if (ask == NULL) {
        refuse(in, MQ_E_BUSY, "its end is not stored yet, or too many questions; ask again", out);
        return;
    }
    ask->conn = in->conn;
    ask->rid = in->rid;
}

static void do_retry(mq_core *core, const mq_input *in, mq_outputs *out)
{
    ask_for_dead(core, in, MQ_ASK_RETRY, out);
}

static void do_discard(mq_core *core, const mq_input *in, mq_outputs *out)
{
    ask_for_dead(core, in, MQ_ASK_DISCARD, out);
}

static bool has_alias(const mq_core *core, const mq_entry_key *key)
{
    uint32_t object = mq_object_find(core, key->type, key->name);
    uint32_t no = object == MQ_NONE ? MQ_NONE : core->objects[object].entries;
    for (; no != MQ_NONE; no = core->regs[no].next) {
        if (core->regs[no].type == MQ_ENTRY_ALIAS && core->regs[no].target == key->version) {
            return true;
        }
    }
    return false;
}

/* The number stays used; what the version named is let go after the commit. */
static void do_delete_version(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_msg_command *m = in->as.command;
    bool is_dataset = m->args_count > 2 && mq_span_is(m->args[2], "dataset");
    mq_entry_key key = {.type = is_dataset ? MQ_ENTRY_DATASET : MQ_ENTRY_MODEL, .name = m->args[0]};
    bool is_number = number_of(m->args[1], &key.version);
    mq_entry_view view;
    uint32_t no = is_number ? mq_reg_find(core, &key) : MQ_NONE;
    if (no == MQ_NONE || !mq_core_entry(core, no, &view)) {
        refuse(in, MQ_E_NOT_FOUND, "delete-version: there is no such version", out);
        return;
    }
    if (has_alias(core, &key)) {
        refuse(in, MQ_E_CONFLICT, "delete-version: an alias points to it; move that first", out);
        return;
    }
    mq_ref names = {0};
    if (mq_entry_read(view.value, &core->entry, NULL) == MQ_OK && core->entry.blob_count > 0) {
        names = mq_pool_take(&core->pool, (size_t)core->entry.blob_count * MQ_HASH_LEN);
        for (uint32_t i = 0; i < core->entry.blob_count && names.at != 0; i++) {
            memcpy(mq_pool_at(&core->pool, names) + (size_t)i * MQ_HASH_LEN,
                   core->entry.blobs[i].data, MQ_HASH_LEN);
        }
    }
    start_entry(core)->is_deleted = true;
    write_entry(core, in, &key, out);
    mq_waiter *w = core->regs[no].is_deleted && names.at != 0
                       ? mq_wait_reg(core, no, MQ_WAIT_UNPIN, 0, 0)
                       : NULL;
    if (w != NULL) {
        w->text = names;
    } else {
        mq_ref_drop(core, &names);
    }
}

static const struct {
    const char *verb;
    uint32_t args_min;
    command_fn *run;
} commands[] = {
    {"alias", 3, do_alias},
    {"pause", 1, do_pause},
    {"resume", 1, do_resume},
    {"drain", 1, do_drain},
    {"undrain", 1, do_undrain},
    {"retry", 1, do_retry},
    {"discard", 1, do_discard},
    {"delete-version", 2, do_delete_version},
    {"limit", 5, mq_do_limit_set},
    {"tenant", 3, mq_do_tenant_set},
    {"pause-kind", 1, mq_do_kind},
    {"resume-kind", 1, mq_do_kind},
    {"drain-queue", 1, do_drain_queue},
};

void mq_command_do(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_msg_command *m = in->as.command;
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (!mq_span_is(m->verb, commands[i].verb)) {
            continue;
        }
        if (m->args_count < commands[i].args_min) {
            refuse(in, MQ_E_ARG, "command: too few args for this verb", out);
        } else if (core->is_loading &&
                   (commands[i].run == do_retry || commands[i].run == do_discard)) {
            refuse(in, MQ_E_BUSY, "the broker is still loading; ask again", out);
        } else {
            commands[i].run(core, in, out);
        }
        return;
    }
    refuse(in, MQ_E_ARG,
           "verb: must be alias, pause, resume, drain, undrain, retry, discard, delete-version, "
           "limit, "
           "tenant, pause-kind, resume-kind or drain-queue",
           out);
}

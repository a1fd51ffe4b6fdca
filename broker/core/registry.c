/* The registry: versions of models and datasets, aliases, memos, paused queues. Values are kept as
 * they are stored, packed; what is inside a meta is never read. An entry that a result publishes is
 * not visible before the commit that holds both. It must not know who asks. */
#include "broker/core/state.h"

static bool object_is(const mq_core *core, uint32_t value, const void *key)
{
    const mq_entry_key *k = key;
    const mq_object *o = &core->objects[value];
    return o->type == k->type && mq_span_eq(mq_pool_span(&core->pool, o->name), k->name);
}

static uint32_t hash_key(mq_entry_type type, mq_span name)
{
    return mq_id_hash(name) * 31 + (uint32_t)type;
}

static uint32_t object_hash(const mq_core *core, uint32_t value)
{
    const mq_object *o = &core->objects[value];
    return hash_key((mq_entry_type)o->type, mq_pool_span(&core->pool, o->name));
}

void mq_registry_init(mq_core *core)
{
    core->object_index.hash_of = object_hash;
}

/* Aliases live with their model. */
static mq_entry_type object_type(mq_entry_type type)
{
    return type == MQ_ENTRY_ALIAS ? MQ_ENTRY_MODEL : type;
}

uint32_t mq_object_find(const mq_core *core, mq_entry_type type, mq_span name)
{
    mq_entry_key key = {.type = object_type(type), .name = name};
    return mq_index_find(core, &core->object_index, hash_key(key.type, name), object_is, &key);
}

static uint32_t object_take(mq_core *core, mq_entry_type type, mq_span name)
{
    uint32_t no = mq_object_find(core, type, name);
    mq_ref text;
    if (no != MQ_NONE) {
        return no;
    }
    if (!mq_slots_has(&core->object_slots, 1) || !mq_pool_copy(&core->pool, name, &text)) {
        return MQ_NONE;
    }
    no = MQ_TAKE(core, object, objects, mq_object);
    core->objects[no] = (mq_object){
        .is_used = true, .type = (uint8_t)object_type(type), .name = text, .entries = MQ_NONE};
    mq_index_put(core, &core->object_index, no);
    core->stats.models += type == MQ_ENTRY_MODEL || type == MQ_ENTRY_ALIAS;
    core->stats.datasets += type == MQ_ENTRY_DATASET;
    core->stats.memos += type == MQ_ENTRY_MEMO;
    core->stats.crons += type == MQ_ENTRY_CRON;
    return no;
}

/* Order inside an object: versions upwards, then aliases as they come. */
static bool goes_before(const mq_reg *a, const mq_reg *b)
{
    if (a->type != b->type) {
        return a->type < b->type;
    }
    return a->type != MQ_ENTRY_ALIAS && a->version < b->version;
}

/* A new, empty entry of an object; MQ_NONE when the registry is full. */
uint32_t mq_reg_new(mq_core *core, const mq_entry_key *key)
{
    uint32_t object = object_take(core, key->type, key->name);
    mq_ref alias;
    if (object == MQ_NONE || !mq_slots_has(&core->reg_slots, 1) ||
        !mq_pool_copy(&core->pool, key->alias, &alias)) {
        return MQ_NONE;
    }
    uint32_t no = MQ_TAKE(core, reg, regs, mq_reg);
    mq_reg *reg = &core->regs[no];
    *reg = (mq_reg){.is_used = true,
                    .type = (uint8_t)key->type,
                    .object = object,
                    .version = key->version,
                    .alias = alias,
                    .next_dirty = MQ_NONE,
                    .next_of_job = MQ_NONE,
                    .waiters = MQ_NONE,
                    .waiters_tail = MQ_NONE};
    mq_object *o = &core->objects[object];
    uint32_t *at = &o->entries;
    while (*at != MQ_NONE && !goes_before(reg, &core->regs[*at])) {
        at = &core->regs[*at].next;
    }
    reg->next = *at;
    *at = no;
    if (key->version > o->last_version) {
        o->last_version = key->version;
    }
    return no;
}

uint32_t mq_reg_find(const mq_core *core, const mq_entry_key *key)
{
    uint32_t object = mq_object_find(core, key->type, key->name);
    uint32_t no = object == MQ_NONE ? MQ_NONE : core->objects[object].entries;
    for (; no != MQ_NONE; no = core->regs[no].next) {
        const mq_reg *reg = &core->regs[no];
        bool is_it = reg->type == key->type && reg->version == key->version &&
                     mq_span_eq(mq_pool_span(&core->pool, reg->alias), key->alias);
        if (is_it) {
            return no;
        }
    }
    return MQ_NONE;
}

mq_entry_key mq_reg_key(const mq_core *core, const mq_reg *reg)
{
    return (mq_entry_key){.type = (mq_entry_type)reg->type,
                          .name = mq_pool_span(&core->pool, core->objects[reg->object].name),
                          .alias = mq_pool_span(&core->pool, reg->alias),
                          .version = reg->version};
}

static void count_blobs(mq_core *core, const mq_entry *entry, bool is_held)
{
    for (uint32_t i = 0; i < entry->blob_count && !entry->is_deleted; i++) {
        if (is_held) {
            mq_blob_hold(core, entry->blobs[i]);
        } else {
            (void)mq_blob_drop(core, entry->blobs[i]);
        }
    }
}

static void cache(mq_reg *reg, const mq_entry *entry)
{
    reg->is_deleted = entry->is_deleted;
    reg->is_paused = entry->is_paused;
    reg->is_draining = entry->is_draining;
    reg->number = entry->numbers[0] > UINT32_MAX ? UINT32_MAX : (uint32_t)entry->numbers[0];
    reg->target = entry->version;
}

/* Packs an entry into the pool as the new value. False: no room, nothing changed. */
bool mq_reg_set(mq_core *core, uint32_t no, const mq_entry *entry)
{
    mq_buf *buf = &core->packed;
    mq_reg *reg = &core->regs[no];
    mq_ref value;
    mq_buf_reset(buf);
    if (mq_entry_pack(entry, buf, NULL) != MQ_OK ||
        !mq_pool_copy(&core->pool, mq_buf_span(buf), &value)) {
        return false;
    }
    count_blobs(core, entry, true);
    MQ_ASSERT(entry != &core->entry);
    if (reg->value.at != 0 &&
        mq_entry_read(mq_pool_span(&core->pool, reg->value), &core->entry, NULL) == MQ_OK) {
        count_blobs(core, &core->entry, false);
    }
    mq_ref_drop(core, &reg->value);
    reg->value = value;
    cache(reg, entry);
    return true;
}

void mq_reg_dirty(mq_core *core, uint32_t no)
{
    mq_reg *reg = &core->regs[no];
    if (reg->is_dirty) {
        return;
    }
    reg->is_dirty = true;
    reg->next_dirty = MQ_NONE;
    if (core->dirty_reg_head == MQ_NONE) {
        core->dirty_reg_head = no;
    } else {
        core->regs[core->dirty_reg_tail].next_dirty = no;
    }
    core->dirty_reg_tail = no;
}

void mq_registry_load(mq_core *core, const mq_input *in)
{
    mq_entry_key key;
    if (mq_entry_field_read(in->as.registry.field, &key, NULL) != MQ_OK ||
        mq_entry_read(in->as.registry.value, &core->entry, NULL) != MQ_OK) {
        core->stats.load_errors++;
        return;
    }
    uint32_t no = mq_reg_find(core, &key);
    no = no != MQ_NONE ? no : mq_reg_new(core, &key);
    if (no == MQ_NONE || !mq_pool_copy(&core->pool, in->as.registry.value, &core->regs[no].value)) {
        core->stats.load_errors++;
        return;
    }
    cache(&core->regs[no], &core->entry);
    count_blobs(core, &core->entry, true);
    mq_policy_apply(core, &key, &core->entry);
}

/* ---- publishing ---- */

static bool type_of(mq_span text, mq_entry_type *out)
{
    if (mq_span_is(text, "model")) {
        *out = MQ_ENTRY_MODEL;
    } else if (mq_span_is(text, "dataset")) {
        *out = MQ_ENTRY_DATASET;
    } else if (mq_span_is(text, "memo")) {
        *out = MQ_ENTRY_MEMO;
    } else {
        return false;
    }
    return true;
}

mq_code mq_publish_check(mq_core *core, const mq_msg_published *item, mq_error *err)
{
    mq_entry_type type = MQ_ENTRY_MEMO;
    const char *text = NULL;
    if (core->config.is_away) { /* nobody would find it here */
        text = "publish: only jobs of shard 0 publish: submit it with an id whose letters 11 and "
               "12 are 00";
    } else if (!type_of(item->type, &type)) {
        text = "publish: type must be model, dataset or memo";
    } else if (type == MQ_ENTRY_MEMO ? item->name.len == 0 : !mq_entry_name_ok(item->name)) {
        text = "publish: name must be 1 to 128 printable letters without blank, / and @";
    } else if (item->meta.len > MQ_ENTRY_META_MAX || item->blobs_count > MQ_ENTRY_BLOBS_MAX) {
        text = "publish: at most 64 KiB of meta and 1024 blobs";
    }
    for (uint32_t i = 0; i < item->blobs_count && text == NULL; i++) {
        text = mq_blob_name_ok(item->blobs[i]) ? NULL : "publish: a blob's name is 64 hex digits";
    }
    if (text != NULL) {
        err->code = MQ_E_ARG;
        mq_text(err, text, (mq_span){0});
        return MQ_E_ARG;
    }
    return MQ_OK;
}

void mq_publish(mq_core *core, mq_job *job, const mq_msg_published *item, mq_span fingerprint)
{
    mq_entry_key key = {.name = item->name};
    bool is_known = type_of(item->type, &key.type);
    MQ_ASSERT(is_known); /* mq_publish_check */
    uint32_t object = mq_object_find(core, key.type, item->name);
    uint32_t no = MQ_NONE;
    if (key.type == MQ_ENTRY_MEMO) {
        no = mq_reg_find(core, &key);
    } else {
        key.version = object == MQ_NONE ? 1 : core->objects[object].last_version + 1;
    }
    no = no != MQ_NONE ? no : mq_reg_new(core, &key);
    mq_entry *entry = &core->making;
    memset(entry, 0, offsetof(mq_entry, blobs));
    entry->meta = item->meta;
    entry->job = mq_span_of(job->id, MQ_ULID_LEN);
    entry->fingerprint = fingerprint;
    entry->at_ms = core->now_ms;
    entry->blob_count = item->blobs_count;
    for (uint32_t i = 0; i < item->blobs_count; i++) {
        entry->blobs[i] = item->blobs[i];
    }
    if (no == MQ_NONE || core->regs[no].is_pending || !mq_reg_set(core, no, entry)) {
        core->stats.unpublished++; /* only a memo that two results give at once, or a full pool */
        return;
    }
    mq_reg *reg = &core->regs[no];
    reg->is_pending = true;
    reg->next_of_job = job->entries;
    job->entries = no;
    core->tally.published++;
}

void mq_publish_stored(mq_core *core, uint32_t reg)
{
    core->regs[reg].is_pending = false;
}

/* ---- reading ---- */

uint32_t mq_memo_find(const mq_core *core, mq_span key)
{
    mq_entry_key k = {.type = MQ_ENTRY_MEMO, .name = key};
    uint32_t no = mq_reg_find(core, &k);
    return no != MQ_NONE && !core->regs[no].is_pending && core->regs[no].value.at != 0 ? no
                                                                                       : MQ_NONE;
}

/* Equal work only where it would give equal bits: some connected worker has the fingerprint that
 * made it, or nobody is there to ask. */
bool mq_memo_usable(const mq_core *core, uint32_t reg)
{
    mq_entry entry;
    bool has_worker = false;
    if (mq_entry_read(mq_pool_span(&core->pool, core->regs[reg].value), &entry, NULL) != MQ_OK) {
        return false;
    }
    for (uint32_t i = 0; i < core->worker_slots.high; i++) {
        const mq_worker *w = &core->workers[i];
        if (w->is_used && mq_span_eq(mq_name_text(core, w->fingerprint), entry.fingerprint)) {
            return true;
        }
        has_worker = has_worker || w->is_used;
    }
    return !has_worker;
}

bool mq_queue_is_paused(const mq_core *core, mq_span name)
{
    mq_entry_key key = {.type = MQ_ENTRY_QUEUE, .name = name};
    uint32_t no = mq_reg_find(core, &key);
    return no != MQ_NONE && core->regs[no].is_paused;
}

bool mq_queue_is_draining(const mq_core *core, mq_span name)
{
    mq_entry_key key = {.type = MQ_ENTRY_QUEUE, .name = name};
    uint32_t no = core->has_draining ? mq_reg_find(core, &key) : MQ_NONE;
    return no != MQ_NONE && core->regs[no].is_draining;
}

static bool is_shown(const mq_core *core, uint32_t no)
{
    const mq_reg *reg = &core->regs[no];
    return reg->is_used && (!reg->is_pending || reg->type == MQ_ENTRY_CRON) && reg->value.at != 0 &&
           !reg->is_deleted && (reg->type != MQ_ENTRY_ALIAS || reg->target != 0);
}

bool mq_core_entry(const mq_core *core, uint32_t index, mq_entry_view *out)
{
    if (index >= core->reg_slots.high || !is_shown(core, index)) {
        return false;
    }
    out->key = mq_reg_key(core, &core->regs[index]);
    out->value = mq_pool_span(&core->pool, core->regs[index].value);
    return true;
}

/* "name" and what stands behind the "@". */
static mq_span split(mq_span name, mq_span *tail)
{
    size_t at = 0;
    while (at < name.len && name.data[at] != '@') {
        at++;
    }
    bool has_tail = at < name.len;
    *tail = has_tail ? mq_span_of(name.data + at + 1, name.len - at - 1) : (mq_span){0};
    return mq_span_of(name.data, at);
}

static bool number_of(mq_span text, uint32_t *out)
{
    uint64_t n = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9' || n > MQ_ENTRY_VERSION_MAX) {
            return false;
        }
        n = n * 10 + (uint64_t)(text.data[i] - '0');
    }
    *out = (uint32_t)n;
    return text.len > 0 && n >= 1 && n <= MQ_ENTRY_VERSION_MAX;
}

/* Version an alias points to; 0 = there is no such alias. */
uint32_t mq_alias_version(const mq_core *core, mq_span model, mq_span alias)
{
    mq_entry_key key = {.type = MQ_ENTRY_ALIAS, .name = model, .alias = alias};
    uint32_t no = mq_reg_find(core, &key);
    return no == MQ_NONE ? 0 : core->regs[no].target;
}

static uint32_t highest(const mq_core *core, mq_entry_type type, mq_span name)
{
    uint32_t object = mq_object_find(core, type, name);
    uint32_t version = 0;
    uint32_t no = object == MQ_NONE ? MQ_NONE : core->objects[object].entries;
    for (; no != MQ_NONE; no = core->regs[no].next) {
        if (core->regs[no].type == type && is_shown(core, no)) {
            version = core->regs[no].version;
        }
    }
    return version;
}

static mq_code not_found(mq_error *err, const char *text, mq_span name)
{
    if (err != NULL) {
        err->code = MQ_E_NOT_FOUND;
        mq_text(err, text, name);
    }
    return MQ_E_NOT_FOUND;
}

mq_code mq_core_resolve(const mq_core *core, mq_entry_type type, mq_span name, mq_entry_view *out,
                        mq_error *err)
{
    mq_span tail = {0};
    mq_entry_key key = {.type = type, .name = name};
    if (type == MQ_ENTRY_MODEL || type == MQ_ENTRY_DATASET) {
        key.name = split(name, &tail);
        bool has_number = number_of(tail, &key.version);
        if (!has_number && tail.len > 0) {
            key.version = mq_alias_version(core, key.name, tail);
            if (key.version == 0) {
                return not_found(err, "no such alias or version: ", name);
            }
        } else if (!has_number) {
            key.version =
                type == MQ_ENTRY_MODEL ? mq_alias_version(core, key.name, mq_str("prod")) : 0;
            key.version = key.version != 0 ? key.version : highest(core, type, key.name);
        }
    }
    uint32_t no = mq_reg_find(core, &key);
    if (no == MQ_NONE || !mq_core_entry(core, no, out)) {
        return not_found(err, "nothing is registered under this name: ", name);
    }
    return MQ_OK;
}

/* Slots, hash indices and names: the ground the rest of the core stands on. It must not know what a
 * job is beyond its id. */
#include "broker/core/state.h"

enum { INDEX_FIRST = 4096 }; /* slots of an index that has little in it */

uint32_t mq_slots_take(mq_slots *slots, const void *array, size_t stride, size_t next_offset)
{
    uint32_t index = slots->free_head;
    if (slots->count == slots->capacity) {
        return MQ_NONE;
    }
    if (index != 0) { /* free_head holds index + 1, so that zeroed memory is an empty list */
        index--;
        memcpy(&slots->free_head, (const uint8_t *)array + stride * index + next_offset,
               sizeof slots->free_head);
    } else {
        index = slots->high++;
    }
    slots->count++;
    return index;
}

uint32_t mq_slots_give(mq_slots *slots, uint32_t index)
{
    uint32_t next = slots->free_head;
    MQ_ASSERT(slots->count > 0 && index < slots->high);
    slots->free_head = index + 1;
    slots->count--;
    return next;
}

uint32_t mq_index_find(const mq_core *core, const mq_index *index, uint32_t hash, mq_index_is *is,
                       const void *key)
{
    const mq_index_slot *slots = index->slots;
    for (uint32_t i = hash & index->mask; slots[i].entry != 0; i = (i + 1) & index->mask) {
        if (slots[i].hash == hash && is(core, slots[i].entry - 1, key)) {
            return slots[i].entry - 1;
        }
    }
    return MQ_NONE;
}

/* Makes `size` empty slots the current ones. */
static void begin_slots(mq_index *index, uint32_t size)
{
    uint32_t region = ((uint32_t)__builtin_ctz(index->most) - (uint32_t)__builtin_ctz(size)) & 1;
    uint32_t dirty = index->used[region] < size ? index->used[region] : size;
    index->slots = index->regions[region];
    index->mask = size - 1;
    if (dirty > 0) {
        memset(index->slots, 0, dirty * sizeof index->slots[0]);
    }
    index->used[region] = index->used[region] < size ? size : index->used[region];
}

void mq_index_init(mq_index *index)
{
    begin_slots(index, index->most < INDEX_FIRST ? index->most : INDEX_FIRST);
}

static void put(mq_index *index, mq_index_slot slot)
{
    uint32_t i = slot.hash & index->mask;
    while (index->slots[i].entry != 0) {
        MQ_ASSERT(index->slots[i].entry != slot.entry);
        i = (i + 1) & index->mask;
    }
    index->slots[i] = slot;
}

static void grow(mq_index *index)
{
    const mq_index_slot *from = index->slots;
    uint32_t size = index->mask + 1;
    begin_slots(index, size * 2);
    for (uint32_t i = 0; i < size; i++) {
        if (from[i].entry != 0) {
            put(index, from[i]);
        }
    }
}

void mq_index_put(const mq_core *core, mq_index *index, uint32_t value)
{
    if (index->count * 2 > index->mask && index->mask + 1 < index->most) {
        grow(index);
    }
    put(index, (mq_index_slot){index->hash_of(core, value), value + 1});
    index->count++;
}

void mq_index_remove(const mq_core *core, mq_index *index, uint32_t value)
{
    mq_index_slot *slots = index->slots;
    uint32_t mask = index->mask;
    uint32_t hole = index->hash_of(core, value) & mask;
    while (slots[hole].entry != value + 1) {
        MQ_ASSERT(slots[hole].entry != 0);
        hole = (hole + 1) & mask;
    }
    for (uint32_t i = (hole + 1) & mask; slots[i].entry != 0; i = (i + 1) & mask) {
        if (((i - slots[i].hash) & mask) >= ((i - hole) & mask)) {
            slots[hole] = slots[i];
            hole = i;
        }
    }
    slots[hole].entry = 0;
    if (--index->count == 0 && index->mask >= INDEX_FIRST) {
        mq_index_init(index);
    }
}

uint32_t mq_id_hash(mq_span id)
{
    return (uint32_t)mq_hash_quick(id, 0x6a6f62);
}

/* ---- what each index hashes ---- */

static uint32_t job_hash(const mq_core *core, uint32_t value)
{
    return core->jobs[value].id_hash;
}

static uint32_t recent_hash(const mq_core *core, uint32_t value)
{
    return core->recents[value].id_hash;
}

static uint32_t worker_hash(const mq_core *core, uint32_t value)
{
    return mq_id_hash(mq_span_of(core->workers[value].uuid, MQ_UUID_LEN));
}

static uint32_t name_hash(const mq_core *core, uint32_t value)
{
    return mq_id_hash(mq_pool_span(&core->pool, core->names[value].text));
}

void mq_table_init(mq_core *core)
{
    core->job_index.hash_of = job_hash;
    core->recent_index.hash_of = recent_hash;
    core->worker_index.hash_of = worker_hash;
    core->name_index.hash_of = name_hash;
}

/* ---- names ---- */

static bool name_is(const mq_core *core, uint32_t value, const void *key)
{
    return mq_span_eq(mq_pool_span(&core->pool, core->names[value].text), *(const mq_span *)key);
}

/* Where a name that was taken lately is remembered: nearly every job has the names of the one
 * before it. A hint is right when the text is; a name that is gone has none. */
static uint32_t hint_of(mq_span text)
{
    return (text.data[0] + 7U * text.data[text.len - 1] + (uint32_t)text.len) % MQ_NAME_HINTS;
}

uint32_t mq_name_find(const mq_core *core, mq_span text)
{
    if (text.len == 0) {
        return 0;
    }
    uint32_t hint = core->name_hints[hint_of(text)];
    if (mq_span_eq(mq_pool_span(&core->pool, core->names[hint].text), text)) {
        return hint;
    }
    return mq_index_find(core, &core->name_index, mq_id_hash(text), name_is, &text);
}

uint32_t mq_name_take(mq_core *core, mq_span text)
{
    if (text.len == 0) {
        return 0;
    }
    uint32_t name = mq_name_find(core, text);
    if (name != MQ_NONE) {
        core->names[name].refs++;
        core->name_hints[hint_of(text)] = name;
        return name;
    }
    mq_ref ref;
    if (!mq_slots_has(&core->name_slots, 1) || !mq_pool_copy(&core->pool, text, &ref)) {
        return MQ_NONE;
    }
    name = MQ_TAKE(core, name, names, mq_name);
    core->names[name] = (mq_name){.text = ref, .refs = 1};
    mq_index_put(core, &core->name_index, name);
    return name;
}

void mq_name_hold(mq_core *core, uint32_t name)
{
    core->names[name].refs++;
}

void mq_name_drop(mq_core *core, uint32_t name)
{
    mq_name *n = &core->names[name];
    if (name == 0) {
        return;
    }
    MQ_ASSERT(n->refs > 0);
    if (--n->refs == 0) {
        mq_index_remove(core, &core->name_index, name);
        mq_ref_drop(core, &n->text);
        n->next_free = mq_slots_give(&core->name_slots, name);
    }
}

/* Table of the in-memory model; see dict.h. It knows nothing of jobs. */
#include "shared/store/dict.h"

#include <stdlib.h>

#include "shared/base/assert.h"

enum { CAPACITY_MIN = 64 };

static uint8_t *copy(mq_span s)
{
    uint8_t *data = malloc(s.len + 1);
    MQ_ASSERT(data != NULL);
    if (s.len > 0) {
        memcpy(data, s.data, s.len);
    }
    return data;
}

void mq_dict_release(mq_dict *dict)
{
    for (uint32_t i = 0; i < dict->count; i++) {
        free(dict->entries[i].key_bytes);
        free(dict->entries[i].value_bytes);
    }
    free(dict->entries);
    if (dict->capacity > 0) {
        mq_map_release(&dict->map);
    }
    *dict = (mq_dict){0};
}

static uint32_t find(const mq_dict *dict, mq_span key)
{
    return dict->count == 0 ? MQ_MAP_NONE : mq_map_find(&dict->map, key);
}

mq_dict_entry *mq_dict_find(const mq_dict *dict, mq_span key)
{
    uint32_t i = find(dict, key);
    return i == MQ_MAP_NONE ? NULL : &dict->entries[i];
}

static void grow(mq_dict *dict)
{
    uint32_t capacity = dict->capacity == 0 ? CAPACITY_MIN : dict->capacity * 2;
    mq_dict_entry *entries = realloc(dict->entries, sizeof *entries * capacity);
    MQ_ASSERT(entries != NULL);
    mq_map map;
    mq_code code = mq_map_init(&map, capacity, 0, NULL);
    MQ_ASSERT(code == MQ_OK);
    for (uint32_t i = 0; i < dict->count; i++) {
        bool is_in = mq_map_put(&map, entries[i].key, i);
        MQ_ASSERT(is_in);
    }
    if (dict->capacity > 0) {
        mq_map_release(&dict->map);
    }
    dict->map = map;
    dict->entries = entries;
    dict->capacity = capacity;
}

void mq_dict_put(mq_dict *dict, mq_span key, mq_span value, uint64_t extra)
{
    mq_dict_entry *e = mq_dict_find(dict, key);
    if (e != NULL) {
        uint8_t *old = e->value_bytes; /* value may lie in it */
        dict->bytes += value.len;
        dict->bytes -= e->value.len;
        e->value_bytes = copy(value);
        e->value = mq_span_of(e->value_bytes, value.len);
        e->extra = extra;
        free(old);
        return;
    }
    if (dict->count == dict->capacity) {
        grow(dict);
    }
    mq_dict_entry fresh = {.extra = extra, .key_bytes = copy(key), .value_bytes = copy(value)};
    fresh.key = mq_span_of(fresh.key_bytes, key.len);
    fresh.value = mq_span_of(fresh.value_bytes, value.len);
    dict->entries[dict->count] = fresh;
    bool is_in = mq_map_put(&dict->map, fresh.key, dict->count);
    MQ_ASSERT(is_in);
    dict->count++;
    dict->bytes += key.len + value.len;
}

bool mq_dict_remove(mq_dict *dict, mq_span key)
{
    uint32_t i = find(dict, key);
    if (i == MQ_MAP_NONE) {
        return false;
    }
    mq_dict_entry gone = dict->entries[i];
    (void)mq_map_remove(&dict->map, key);
    dict->bytes -= gone.key.len + gone.value.len;
    dict->count--;
    if (i != dict->count) {
        dict->entries[i] = dict->entries[dict->count];
        bool is_in = mq_map_put(&dict->map, dict->entries[i].key, i);
        MQ_ASSERT(is_in);
    }
    free(gone.key_bytes); /* key itself may be this one, so it goes last */
    free(gone.value_bytes);
    return true;
}

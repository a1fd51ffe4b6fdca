/* Fixed-capacity hash map; see map.h. */
#include "shared/base/map.h"

#include <endian.h>
#include <stdlib.h>

#include "shared/base/assert.h"

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= UINT64_C(0xd6e8feb86659fd93);
    h ^= h >> 32;
    h *= UINT64_C(0xd6e8feb86659fd93);
    return h ^ (h >> 32);
}

uint64_t mq_hash64(mq_span s, uint64_t seed)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325) ^ seed ^ (uint64_t)s.len;
    size_t i = 0;
    for (; i + 8 <= s.len; i += 8) {
        uint64_t word; /* little-endian on every machine: the hash is stored */
        memcpy(&word, s.data + i, sizeof word);
        h = mix(h ^ le64toh(word));
    }
    for (; i < s.len; i++) {
        h = (h ^ s.data[i]) * UINT64_C(0x100000001b3);
    }
    return mix(h);
}

void mq_hash64_pair(mq_span s, uint64_t pair[2])
{
    uint64_t a = UINT64_C(0xcbf29ce484222325) ^ pair[0] ^ (uint64_t)s.len;
    uint64_t b = UINT64_C(0xcbf29ce484222325) ^ pair[1] ^ (uint64_t)s.len;
    size_t i = 0;
    for (; i + 8 <= s.len; i += 8) { /* neither waits for the other's product */
        uint64_t word;
        memcpy(&word, s.data + i, sizeof word);
        a = mix(a ^ le64toh(word));
        b = mix(b ^ le64toh(word));
    }
    for (; i < s.len; i++) {
        a = (a ^ s.data[i]) * UINT64_C(0x100000001b3);
        b = (b ^ s.data[i]) * UINT64_C(0x100000001b3);
    }
    pair[0] = mix(a);
    pair[1] = mix(b);
}

mq_code mq_map_init(mq_map *map, uint32_t capacity, uint64_t seed, mq_error *err)
{
    MQ_ASSERT(capacity > 0 && capacity <= UINT32_C(1) << 28);
    uint32_t size = 8;
    while (size < capacity + capacity / 3 + 1) {
        size *= 2;
    }
    *map = (mq_map){.mask = size - 1, .capacity = capacity, .seed = seed};
    map->slots = malloc(sizeof *map->slots * size);
    if (map->slots == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a map of %u entries", capacity);
    }
    for (uint32_t i = 0; i < size; i++) {
        map->slots[i].value = MQ_MAP_NONE;
    }
    return MQ_OK;
}

void mq_map_release(mq_map *map)
{
    free(map->slots);
    *map = (mq_map){0};
}

static uint32_t slot_of(const mq_map *map, mq_span key, uint32_t hash)
{
    uint32_t i = hash & map->mask;
    while (map->slots[i].value != MQ_MAP_NONE) {
        if (map->slots[i].hash == hash && mq_span_eq(map->slots[i].key, key)) {
            return i;
        }
        i = (i + 1) & map->mask;
    }
    return i;
}

uint32_t mq_map_find(const mq_map *map, mq_span key)
{
    return map->slots[slot_of(map, key, (uint32_t)mq_hash64(key, map->seed))].value;
}

bool mq_map_put(mq_map *map, mq_span key, uint32_t value)
{
    MQ_ASSERT(value != MQ_MAP_NONE);
    uint32_t hash = (uint32_t)mq_hash64(key, map->seed);
    mq_map_slot *slot = &map->slots[slot_of(map, key, hash)];
    if (slot->value == MQ_MAP_NONE) {
        if (map->count == map->capacity) {
            return false;
        }
        map->count++;
    }
    *slot = (mq_map_slot){key, hash, value};
    return true;
}

uint32_t mq_map_remove(mq_map *map, mq_span key)
{
    uint32_t at = slot_of(map, key, (uint32_t)mq_hash64(key, map->seed));
    uint32_t value = map->slots[at].value;
    if (value == MQ_MAP_NONE) {
        return MQ_MAP_NONE;
    }
    map->count--;
    uint32_t hole = at;
    for (uint32_t i = (at + 1) & map->mask; map->slots[i].value != MQ_MAP_NONE;
         i = (i + 1) & map->mask) {
        uint32_t home = map->slots[i].hash & map->mask;
        if (((i - home) & map->mask) >= ((i - hole) & map->mask)) {
            map->slots[hole] = map->slots[i];
            hole = i;
        }
    }
    map->slots[hole].value = MQ_MAP_NONE;
    return value;
}

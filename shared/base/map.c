/* Fixed-capacity hash map; see map.h. */
#include "shared/base/map.h"

#include <endian.h>
#include <stdlib.h>

#include "shared/base/assert.h"

/* ---- hashes ---- */

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

__extension__ typedef unsigned __int128 wide;

/* Odd constants with as many ones as zeros. */
#define K0 UINT64_C(0x9e3779b97f4a7c15)
#define K1 UINT64_C(0xd6e8feb86659fd93)
#define K2 UINT64_C(0xa0761d6478bd642f)
#define K3 UINT64_C(0xe7037ed1a0b428db)

static uint64_t fold(uint64_t a, uint64_t b)
{
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t word_at(const uint8_t *at)
{
    uint64_t word; /* little-endian on every machine: the wide one is stored */
    memcpy(&word, at, sizeof word);
    return le64toh(word);
}

static uint32_t half_at(const uint8_t *at)
{
    uint32_t half;
    memcpy(&half, at, sizeof half);
    return le32toh(half);
}

/* The last 1..16 bytes of s as two words: they overlap what came before, or each other, which costs
 * nothing as the length is part of the hash. */
static void tail_of(mq_span s, uint64_t out[2])
{
    const uint8_t *end = s.data + s.len;
    if (s.len >= 16) {
        out[0] = word_at(end - 16);
        out[1] = word_at(end - 8);
    } else if (s.len >= 8) {
        out[0] = word_at(s.data);
        out[1] = word_at(end - 8);
    } else if (s.len >= 4) {
        out[0] = half_at(s.data);
        out[1] = half_at(end - 4);
    } else {
        out[0] = (uint64_t)s.data[0] << 16 | (uint64_t)s.data[s.len / 2] << 8 | end[-1];
        out[1] = 0;
    }
}

uint64_t mq_hash_quick(mq_span s, uint64_t seed)
{
    uint64_t tail[2] = {0, 0};
    uint64_t h = seed ^ fold(s.len ^ K0, K1);
    for (size_t i = 0; i + 16 < s.len; i += 16) {
        h = fold(word_at(s.data + i) ^ h, word_at(s.data + i + 8) ^ K2);
    }
    if (s.len > 0) {
        tail_of(s, tail);
    }
    h = fold(tail[0] ^ h, tail[1] ^ K3);
    return h ^ h >> 32;
}

void mq_hash_wide(mq_span s, uint64_t pair[2])
{
    uint64_t tail[2] = {0, 0};
    uint64_t a = pair[0] ^ fold(s.len ^ K0, K1), b = pair[1] ^ fold(s.len ^ K2, K3);
    for (size_t i = 0; i + 16 < s.len; i += 16) { /* neither waits for the other's product */
        uint64_t low = word_at(s.data + i), high = word_at(s.data + i + 8);
        a = fold(low ^ a, high ^ K2);
        b = fold(low ^ K1, high ^ b);
    }
    if (s.len > 0) {
        tail_of(s, tail);
    }
    pair[0] = fold(tail[0] ^ a, tail[1] ^ K3);
    pair[1] = fold(tail[0] ^ K0, tail[1] ^ b);
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
    if (map->count == 0) {
        return MQ_MAP_NONE;
    }
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

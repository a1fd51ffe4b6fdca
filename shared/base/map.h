/* Hash map from short byte keys to uint32 values: fixed capacity, linear probing, no allocation
 * after init, deletion by backward shift. Keys are borrowed: they must live as long as the entry.
 * Iteration is by the caller's own arrays, never by slots, so that order cannot depend on hashing.
 */
#ifndef MQ_BASE_MAP_H
#define MQ_BASE_MAP_H

#include "shared/base/error.h"
#include "shared/base/span.h"

#define MQ_MAP_NONE UINT32_MAX

typedef struct mq_map_slot {
    mq_span key;
    uint32_t hash;
    uint32_t value; /* MQ_MAP_NONE = empty */
} mq_map_slot;

typedef struct mq_map {
    mq_map_slot *slots; /* owned, a power of two, at least 4/3 of capacity */
    uint32_t mask;
    uint32_t count;
    uint32_t capacity;
    uint64_t seed; /* set from outside where keys are hostile; 0 in tests */
} mq_map;

MQ_MUST_USE mq_code mq_map_init(mq_map *map, uint32_t capacity, uint64_t seed, mq_error *err);
void mq_map_release(mq_map *map);

/* Value of key, or MQ_MAP_NONE. */
uint32_t mq_map_find(const mq_map *map, mq_span key);

/* Inserts or replaces; false when the map is full and the key new. value != MQ_MAP_NONE. */
bool mq_map_put(mq_map *map, mq_span key, uint32_t value);

/* Removes key when it is in; returns its value or MQ_MAP_NONE. */
uint32_t mq_map_remove(mq_map *map, mq_span key);

/* 64-bit hash of bytes, the same on every machine (FNV-1a over words with a final mix). Not for
 * security. */
uint64_t mq_hash64(mq_span s, uint64_t seed);

/* A quicker one for tables in memory and for content that is compared within one version: a product
 * of 128 bits, folded, for each 16 bytes (as in W. Yi's wyhash). Never stored as a name. */
uint64_t mq_hash_quick(mq_span s, uint64_t seed);

/* The same with 128 bits: each half depends on all of s and on what pair was. */
void mq_hash_wide(mq_span s, uint64_t pair[2]);

#endif

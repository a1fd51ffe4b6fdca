/* What the core's state is built of: lists of free slots, the pool of bytes, indices over arrays,
 * names. For the files of broker/core only. */
#ifndef MQ_BROKER_CORE_PARTS_H
#define MQ_BROKER_CORE_PARTS_H

#include "broker/core/core.h"

typedef struct mq_slots {
    uint32_t free_head; /* list of freed slots */
    uint32_t high;      /* slots used so far */
    uint32_t count;
    uint32_t capacity;
} mq_slots;

/* Bytes in the pool. */
typedef struct mq_ref {
    uint32_t at; /* in units of 16 bytes; 0 = none */
    uint32_t len;
} mq_ref;

enum { MQ_POOL_CLASSES = 64, MQ_POOL_UNIT = 16 };

typedef struct mq_pool {
    uint8_t *base;
    uint64_t units, high; /* capacity; first unit that was never used */
    uint64_t used_bytes;
    uint32_t free_head[MQ_POOL_CLASSES]; /* unit of the first free chunk, 0 = none */
} mq_pool;

/* The hash stands beside the index: what is passed by on the way to an element is not looked at,
 * which would be a miss of the caches each time. */
typedef struct mq_index_slot {
    uint32_t hash;
    uint32_t entry; /* index + 1; 0 = empty, so zeroed memory is an empty index */
} mq_index_slot;

/* Open addressing over indices of some array. It is as large as it has to be: a thousand jobs in a
 * broker that could hold a million then lie in a few pages of it, which stay in the caches. It
 * doubles into the other one of its two regions when it is half full (the longest step, to 2^22
 * slots, takes some 30 ms), and is small again when it is empty. */
typedef struct mq_index {
    mq_index_slot *slots; /* one of regions */
    uint32_t mask, count;
    uint32_t most;    /* slots of regions[0]; regions[1] has half of them */
    uint32_t used[2]; /* slots of each that were used before, and may not be empty */
    mq_index_slot
        *regions[2]; /* sizes most, most / 4 ... lie in the first, most / 2 ... in the other */
    uint32_t (*hash_of)(const mq_core *core, uint32_t value);
} mq_index;

/* Place of an element in a heap (tree.c). */
typedef struct mq_node {
    uint32_t child, next, prev;
    bool is_in;
    uint64_t tag; /* fairness: of the tenant */
    uint64_t age; /* mq_lane_key of the first job: priority, then submission number */
} mq_node;

enum { MQ_AGE_BITS = 56, MQ_RANKS = 10 }; /* rank 0: priority 9 */

/* Heap elements: base is the mq_node of element 0. */
typedef struct mq_tree {
    uint8_t *base;
    size_t stride;
} mq_tree;

/* A name in use: kind, queue, model, tenant, limit key, tag or list of needs. Index 0 is the empty
 * name. One text has one slot, whatever it names. */
typedef struct mq_name {
    mq_ref text;
    uint32_t refs;
    uint32_t live; /* durable jobs of the tenant of this name that are not ended */
    uint32_t next_free;
    uint32_t limits[MQ_LIMIT_TYPES]; /* limit of the queue, kind, key of this name; 0 = none */
    uint32_t weight, quota;          /* of the tenant; 0 = the default */
    uint32_t crash_row;              /* of the kind: jobs in a row that crashed their slot */
    uint32_t keep_misses;            /* of the kind: keep.c */
    uint32_t run_us;                 /* of the kind: its longer runs of late; 0 = none yet */
    uint64_t finish[MQ_RANKS]; /* of the tenant, by rank: virtual time when its last start ends */
} mq_name;

#endif

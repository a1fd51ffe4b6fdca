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

/* Open addressing over indices of some array: slots hold index + 1, 0 = empty, so zeroed memory is
 * an empty index. */
typedef struct mq_index {
    uint32_t *slots;
    uint32_t mask;
    uint32_t (*hash_of)(const mq_core *core, uint32_t value);
} mq_index;

/* A name in use: kind, queue, model or tenant. Index 0 is the empty name. */
typedef struct mq_name {
    mq_ref text;
    uint32_t refs;
    uint32_t live; /* durable jobs of the tenant of this name that are not ended */
    uint32_t next_free;
} mq_name;

#endif

/* Binary min-heap of (key, id) with positions kept by the caller, for timers: an entry can be moved
 * or removed by its position. Fixed capacity, storage from the caller, no allocation. Ties are
 * broken by id, so that order never depends on history. */
#ifndef MQ_BASE_HEAP_H
#define MQ_BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MQ_HEAP_NONE UINT32_MAX

typedef struct mq_heap_entry {
    int64_t key; /* smallest first, for example a deadline in ms */
    uint32_t id; /* index into positions */
} mq_heap_entry;

typedef struct mq_heap {
    mq_heap_entry *entries; /* borrowed, capacity of them */
    uint32_t *positions;    /* borrowed, one per id: index into entries or MQ_HEAP_NONE */
    uint32_t count;
    uint32_t capacity;
} mq_heap;

/* Borrows both arrays; sets all `capacity` positions to MQ_HEAP_NONE. Ids are 0..capacity-1. */
void mq_heap_init(mq_heap *heap, mq_heap_entry *entries, uint32_t *positions, uint32_t capacity);

/* Inserts id with key, or moves it when it is already in. */
void mq_heap_set(mq_heap *heap, uint32_t id, int64_t key);

/* Takes id out when it is in; nothing otherwise. */
void mq_heap_remove(mq_heap *heap, uint32_t id);

bool mq_heap_has(const mq_heap *heap, uint32_t id);

/* Smallest entry, or NULL when empty. Borrowed until the next change. */
const mq_heap_entry *mq_heap_top(const mq_heap *heap);

#endif

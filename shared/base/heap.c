/* Binary min-heap with positions; see heap.h. */
#include "shared/base/heap.h"

#include "shared/base/assert.h"

void mq_heap_init(mq_heap *heap, mq_heap_entry *entries, uint32_t *positions, uint32_t capacity)
{
    *heap = (mq_heap){.entries = entries, .positions = positions, .capacity = capacity};
    for (uint32_t i = 0; i < capacity; i++) {
        positions[i] = MQ_HEAP_NONE;
    }
}

static bool is_less(mq_heap_entry a, mq_heap_entry b)
{
    return a.key < b.key || (a.key == b.key && a.id < b.id);
}

static void place(mq_heap *heap, uint32_t at, mq_heap_entry entry)
{
    heap->entries[at] = entry;
    heap->positions[entry.id] = at;
}

static uint32_t sift_up(mq_heap *heap, uint32_t at, mq_heap_entry entry)
{
    while (at > 0 && is_less(entry, heap->entries[(at - 1) / 2])) {
        place(heap, at, heap->entries[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    return at;
}

static uint32_t sift_down(mq_heap *heap, uint32_t at, mq_heap_entry entry)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= heap->count) {
            return at;
        }
        if (child + 1 < heap->count && is_less(heap->entries[child + 1], heap->entries[child])) {
            child++;
        }
        if (!is_less(heap->entries[child], entry)) {
            return at;
        }
        place(heap, at, heap->entries[child]);
        at = child;
    }
}

void mq_heap_set(mq_heap *heap, uint32_t id, int64_t key)
{
    MQ_ASSERT(id < heap->capacity);
    uint32_t at = heap->positions[id];
    if (at == MQ_HEAP_NONE) {
        MQ_ASSERT(heap->count < heap->capacity);
        at = heap->count++;
    }
    mq_heap_entry entry = {key, id};
    place(heap, sift_down(heap, sift_up(heap, at, entry), entry), entry);
}

void mq_heap_remove(mq_heap *heap, uint32_t id)
{
    MQ_ASSERT(id < heap->capacity);
    uint32_t at = heap->positions[id];
    if (at == MQ_HEAP_NONE) {
        return;
    }
    heap->positions[id] = MQ_HEAP_NONE;
    mq_heap_entry last = heap->entries[--heap->count];
    if (last.id != id) {
        place(heap, sift_down(heap, sift_up(heap, at, last), last), last);
    }
}

bool mq_heap_has(const mq_heap *heap, uint32_t id)
{
    MQ_ASSERT(id < heap->capacity);
    return heap->positions[id] != MQ_HEAP_NONE;
}

const mq_heap_entry *mq_heap_top(const mq_heap *heap)
{
    return heap->count == 0 ? NULL : &heap->entries[0];
}

/* See ring.h. Must not know what a run is. */
#include "worker/slot/ring.h"

#include <string.h>

enum { WORDS = MQ_RING_BYTES / 8, HEAD_WORDS = sizeof(mq_ring_record) / 8 };

static uint64_t words_of(uint64_t bytes)
{
    return HEAD_WORDS + (bytes + 7) / 8;
}

/* Copies around the end of the ring. */
static void copy_in(mq_ring *ring, uint64_t at, const void *from, size_t bytes)
{
    size_t start = (size_t)(at % WORDS), first = (WORDS - start) * 8;
    first = first < bytes ? first : bytes;
    memcpy(&ring->words[start], from, first);
    memcpy(ring->words, (const uint8_t *)from + first, bytes - first);
}

static void copy_out(const mq_ring *ring, uint64_t at, void *to, size_t bytes)
{
    size_t start = (size_t)(at % WORDS), first = (WORDS - start) * 8;
    first = first < bytes ? first : bytes;
    memcpy(to, &ring->words[start], first);
    memcpy((uint8_t *)to + first, ring->words, bytes - first);
}

bool mq_ring_put(mq_ring *ring, uint64_t after, uint64_t run, uint64_t run_us, mq_span result)
{
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    uint64_t used = tail - atomic_load(&ring->head);
    if (result.len > MQ_RING_RESULT_MAX || used + words_of(result.len) > WORDS) {
        return false;
    }
    mq_ring_record record = {.after = after, .run = run, .run_us = run_us, .bytes = result.len};
    copy_in(ring, tail, &record, sizeof record);
    if (result.len > 0) {
        copy_in(ring, tail + HEAD_WORDS, result.data, result.len);
    }
    atomic_store(&ring->tail, tail + words_of(result.len));
    return true;
}

/* Both sides store their own number before they load the other's, so one of them sees the news. */
bool mq_ring_is_behind(mq_ring *ring, uint64_t at)
{
    return atomic_load(&ring->head) < at;
}

mq_code mq_ring_peek(mq_ring *ring, uint64_t head, mq_ring_record *out, uint8_t *buffer,
                     mq_error *err)
{
    uint64_t there = atomic_load(&ring->tail) - head;
    if (there == 0) {
        return MQ_E_BUSY;
    }
    if (there > WORDS || there < HEAD_WORDS) {
        return mq_fail(err, MQ_E_FORMAT, "ring: %llu words, of %d", (unsigned long long)there,
                       WORDS);
    }
    copy_out(ring, head, out, sizeof *out);
    if (out->bytes > MQ_RING_RESULT_MAX || words_of(out->bytes) > there) {
        return mq_fail(err, MQ_E_FORMAT, "ring: a result of %llu bytes, at most %d",
                       (unsigned long long)out->bytes, MQ_RING_RESULT_MAX);
    }
    copy_out(ring, head + HEAD_WORDS, buffer, (size_t)out->bytes);
    return MQ_OK;
}

void mq_ring_took(mq_ring *ring, uint64_t *head, const mq_ring_record *record)
{
    *head += words_of(record->bytes);
    atomic_store(&ring->head, *head);
}

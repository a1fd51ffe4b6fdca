/* The ends of short jobs, from a slot to its supervisor through shared memory: no system call each,
 * and what a slot has written before it dies is there to be read.
 *
 *     records, each  after | run | run_us | bytes (u64 each), then the result, padded to 8 bytes
 *
 * tail is the slot's, head the supervisor's; both count words of 8 bytes and only grow. `after`:
 * how many frames the slot had sent over its socket before this record. The supervisor handles a
 * record once it has handled so many frames, and before the next one, so the two ways keep one
 * order.
 *
 * The slot is not trusted: the supervisor keeps its own head, reads every number once and checks it
 * before it is used. See worker/slot/protocol.h for who maps what. */
#ifndef MQ_WORKER_SLOT_RING_H
#define MQ_WORKER_SLOT_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "shared/base/error.h"
#include "shared/base/span.h"

enum {
    MQ_RING_BYTES = 1 << 16, /* a power of two */
    MQ_RING_RESULT_MAX = 2048,
};

typedef struct mq_ring {
    _Atomic uint64_t tail;
    uint8_t apart[56]; /* the two sides write to different cache lines */
    _Atomic uint64_t head;
    uint8_t apart_too[56];
    uint64_t words[MQ_RING_BYTES / 8];
} mq_ring;

typedef struct mq_ring_record {
    uint64_t after, run, run_us;
    uint64_t bytes; /* of the result, at most MQ_RING_RESULT_MAX */
} mq_ring_record;

/* Slot: adds a record; false when it is too large or there is no room, nothing is changed then. */
bool mq_ring_put(mq_ring *ring, uint64_t after, uint64_t run, uint64_t run_us, mq_span result);

/* Slot: true when the supervisor has yet to read what came before position `at` of the tail; it
 * then also reads what was put since. */
bool mq_ring_is_behind(mq_ring *ring, uint64_t at);

/* Supervisor: the record at *head and its result, into buffer[MQ_RING_RESULT_MAX]. MQ_E_BUSY: there
 * is none. MQ_E_FORMAT: the slot has broken the rules. Take with mq_ring_took. */
MQ_MUST_USE mq_code mq_ring_peek(mq_ring *ring, uint64_t head, mq_ring_record *out, uint8_t *buffer,
                                 mq_error *err);

/* Supervisor: goes on behind the record that was seen. */
void mq_ring_took(mq_ring *ring, uint64_t *head, const mq_ring_record *record);

#endif

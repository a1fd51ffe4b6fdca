/* Pinning of blobs beside the event loop. A result or checkpoint that names blobs is fed to the
 * core only after they were made permanent in the blob store (DESIGN.md 3), and that store may be
 * slow or gone: so one thread does it, with bounded queues on both sides, and the loop polls a
 * descriptor.
 *
 * Requests are answered in their order. A request whose store does not answer is tried again until
 * it does or the request is MQ_PIN_DEADLINE_MS old, then answered MQ_E_IO (the worker sends its
 * result again, and the pin is asked anew). */
#ifndef MQ_BROKER_IO_PIN_H
#define MQ_BROKER_IO_PIN_H

#include "shared/base/error.h"
#include "shared/base/sha256.h"
#include "shared/base/span.h"

enum {
    MQ_PIN_REQUESTS_MAX = 1024, /* waiting and unread answers together */
    MQ_PIN_BLOBS_MAX = 8192,    /* hashes of one request: 8 published things of 1,024 blobs */
    MQ_PIN_DEADLINE_MS = 10000,
};

typedef enum mq_pin_op { MQ_PIN, MQ_UNPIN } mq_pin_op;

typedef struct mq_pins mq_pins;

typedef struct mq_pin_answer {
    uint64_t ticket;
    mq_code code;                   /* MQ_OK, MQ_E_MISSING or MQ_E_IO */
    char (*missing)[MQ_SHA256_HEX]; /* blobs that are not in the store; borrowed until the next call
                                     */
    uint32_t missing_count;
    mq_error err;
} mq_pin_answer;

/* Starts the thread. url as for mq_blobs_new; no connection is made yet. Returns owned. */
MQ_MUST_USE mq_code mq_pins_new(mq_pins **out, const char *url, mq_error *err);

/* Stops the thread (it finishes the call it is in, at most its own deadline) and frees. */
void mq_pins_free(mq_pins *pins);

/* Queues a request; the hashes are copied. MQ_E_BUSY when the queue is full (the caller lets the
 * sender try again), MQ_E_ARG for a hash that is not 64 lower-case hex digits. An unpin is answered
 * too. */
MQ_MUST_USE mq_code mq_pins_ask(mq_pins *pins, mq_pin_op op, uint64_t ticket, const mq_span *hashes,
                                uint32_t count, mq_error *err);

/* Readable while answers wait. Owned by pins. */
int mq_pins_fd(const mq_pins *pins);

/* Next answer; false when there is none (the descriptor is then not readable). */
bool mq_pins_next(mq_pins *pins, mq_pin_answer *out);

#endif

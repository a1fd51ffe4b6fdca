/* The slot protocol: what a supervisor and a slot process say to each other over their socketpair
 * (SOCK_STREAM), and supervisors of a gang to each other.
 *
 *     +--------------+---------+--------+--------+-----------------------+
 *     | u32 length   | u8 type | u8 fds | u16 0  | body, length bytes    |   little-endian
 *     +--------------+---------+--------+--------+-----------------------+
 *
 * length <= MQ_FRAME_BYTES_MAX. fds = 1: one descriptor came by SCM_RIGHTS with the frame's first
 * byte; descriptors are taken in the order of the frames that announce them. Bodies: slot.def.
 *
 *     supervisor                          slot
 *     start (page), claims ---------------->
 *     <------------------------------- hello   (fingerprint)
 *     run, roster ------------------------->
 *     <------------- open, put, query, progress, log, send, ...
 *     opened, stored, answer, piece, roster ->
 *     <-------- publish*, spawn*, done | fail
 *     run, run, run ... ------------------->
 *
 * A slot that breaks the rules is killed. It works at one run at a time, in their order; short jobs
 * are given ahead of time, each with its place in the page of claims: the slot takes a run there
 * before it begins it, the supervisor takes it back there, and only one of the two succeeds.
 *
 * Besides, both map one page, so that the two questions a training loop asks at every turn cost one
 * atomic read and no system call (mq_slot_page). */
#ifndef MQ_WORKER_SLOT_PROTOCOL_H
#define MQ_WORKER_SLOT_PROTOCOL_H

#include <stdatomic.h>
#include <stdbool.h>

#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "worker/slot/ring.h"

enum {
    MQ_FRAME_HEAD_BYTES = 8,
    MQ_FRAME_BYTES_MAX = 64 << 20,
    MQ_FRAME_FIELDS_MAX = 16,
    MQ_PEER_VERSION = 1,
    MQ_SLOT_WINDOW_BYTES = 64 << 20, /* sent by a slot to its gang and not yet received */
    MQ_SLOT_MEMBER_BYTES = 5,        /* of one member in a roster frame */
    MQ_SLOT_RUNS_MAX = 256,          /* given and not yet met by the slot, with those taken back */
};

/* Mapped by both for writing; what a slot writes there is not trusted: a lie costs its own jobs.
 * at[run % MQ_SLOT_RUNS_MAX] = mq_slot_claim(run, phase). Short results come by the ring instead of
 * `done` frames; `news` says that there are some. */
typedef struct mq_claims_page {
    _Atomic uint64_t at[MQ_SLOT_RUNS_MAX];
    mq_ring ring;
} mq_claims_page;

typedef enum mq_slot_phase { MQ_RUN_OFFERED, MQ_RUN_BEGUN, MQ_RUN_RECALLED } mq_slot_phase;

/* Moves a run that is OFFERED to `to`; false when the other side was first. */
static inline bool mq_slot_claim(mq_claims_page *claims, uint64_t run, mq_slot_phase to)
{
    uint64_t offered = run * 4 + MQ_RUN_OFFERED;
    return atomic_compare_exchange_strong(&claims->at[run % MQ_SLOT_RUNS_MAX], &offered,
                                          run * 4 + (uint64_t)to);
}

/* Written by the supervisor only; the slot maps it read-only. Reset before each run. */
typedef struct mq_slot_page {
    _Atomic uint64_t cancelled_run; /* runs up to this number are to stop */
    _Atomic uint64_t broken_epoch;  /* gang epochs up to this one are over */
    _Atomic uint64_t roster_epoch;  /* greatest epoch whose roster has been sent */
} mq_slot_page;

#define MQ_FRAME(name, type, fds)                                                                  \
    typedef struct mq_slot_##name mq_slot_##name;                                                  \
    struct mq_slot_##name {
#define MQ_FRAME_U64(name, field)       uint64_t field;
#define MQ_FRAME_TEXT(name, field, max) mq_span field;
#define MQ_FRAME_REST(name, field)      mq_span field;
#define MQ_FRAME_END(name)                                                                         \
    }                                                                                              \
    ;
#include "worker/slot/slot.def"
#undef MQ_FRAME
#undef MQ_FRAME_U64
#undef MQ_FRAME_TEXT
#undef MQ_FRAME_REST
#undef MQ_FRAME_END

typedef enum mq_frame_type {
    MQ_FRAME_none = 0,
#define MQ_FRAME(name, type, fds) MQ_FRAME_##name = type,
#define MQ_FRAME_U64(name, field)
#define MQ_FRAME_TEXT(name, field, max)
#define MQ_FRAME_REST(name, field)
#define MQ_FRAME_END(name)
#include "worker/slot/slot.def"
#undef MQ_FRAME
#undef MQ_FRAME_U64
#undef MQ_FRAME_TEXT
#undef MQ_FRAME_REST
#undef MQ_FRAME_END
} mq_frame_type;

/* Name of a type ("run"), "unknown" otherwise. */
const char *mq_frame_name(uint8_t type);

/* Appends the body of a frame from its struct, but for its REST field, which *rest gets (empty when
 * the frame has none): large bytes need not be copied. Texts above their limit are our own bug. */
void mq_frame_encode(mq_frame_type type, const void *message, mq_buf *out, mq_span *rest);

/* Fills the struct of `type` (one of the table's) from a body; spans borrow from it. */
MQ_MUST_USE mq_code mq_frame_decode(uint8_t type, mq_span body, void *message, mq_error *err);

#endif

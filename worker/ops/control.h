/* What If, Loop, Scan and SequenceMap share: values that a graph's run made are kept, and stacked.
 */
#ifndef MQ_WORKER_OPS_CONTROL_H
#define MQ_WORKER_OPS_CONTROL_H

#include "shared/base/buf.h"
#include "worker/ops/kit.h"

/* Runs of a graph in one run of a Loop: a file may ask for 2^63. */
#define MQ_LOOP_TRIPS_MAX ((int64_t)1 << 24)

/* Values carried from trip to trip: each trip's are copied into one arena while the other still
 * holds the trip before's, so that a long loop takes no more memory than a short one. */
typedef struct mq_carried {
    mq_arena arenas[2];
    uint32_t turn;
    mq_tensor *at; /* borrowed */
    uint32_t count;
} mq_carried;

void mq_carried_init(mq_carried *c, mq_tensor *at, uint32_t count, size_t memory_bytes_max);
MQ_MUST_USE mq_code mq_carried_take(mq_carried *c, const mq_tensor *from, mq_error *err);
void mq_carried_release(mq_carried *c);

/* Tensors of one type and shape, one behind the other. Texts are copied into the arena. */
typedef struct mq_stack {
    mq_buf bytes;
    mq_dtype dtype;
    mq_shape shape; /* of one */
    size_t count;
} mq_stack;

void mq_stack_init(mq_stack *s, const mq_op_call *call);
MQ_MUST_USE mq_code mq_stack_push(mq_stack *s, mq_arena *arena, const mq_tensor *t, mq_error *err);

/* *out of shape [count, shape...], with the new dimension at `axis` (0 for a Loop), in the call's
 * arena. is_reversed: last pushed first. */
MQ_MUST_USE mq_code mq_stack_finish(const mq_stack *s, const mq_op_call *call, int64_t axis,
                                    bool is_reversed, mq_tensor *out, mq_error *err);

/* A tensor of this type and shape in the arena, zeroed. */
MQ_MUST_USE mq_code mq_make_tensor(mq_arena *arena, mq_dtype dtype, const mq_shape *shape,
                                   mq_tensor *out, mq_error *err);

/* Element 0 of a boolean of one element; MQ_E_ARG when it is not one. */
MQ_MUST_USE mq_code mq_condition(const mq_tensor *t, const char *what, bool *out, mq_error *err);

#endif

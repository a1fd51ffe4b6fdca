/* Inside worker/train only: what a compiled net is. net_build.c makes it, net.c runs it.
 *
 *   net
 *    +- program       the whole model's graph: values and steps, fused, softmax at the end cut off
 *    +- params[]      trainable initializers and their places in the flat vector
 *    +- first, last   the steps of this stage; input, output: the values at its borders
 *    +- slots[16]     one micro-batch each, made when first used
 *        +- tensors[] by value: shape, and where its data is (a parameter's: in flat, per call)
 *        +- calls[]   forward, by step; grads[]: backward, by step
 *        +- block     activations, all kept
 *
 * Gradients of activations share one block for all slots: one slot goes backward at a time. */
#ifndef MQ_WORKER_TRAIN_NET_IMPL_H
#define MQ_WORKER_TRAIN_NET_IMPL_H

#include "worker/blas/blas.h"
#include "worker/exec/program.h"
#include "worker/train/net.h"

enum { MQ_NET_SLOTS_MAX = 16, MQ_NET_GEMMS_MAX = 1024 };

/* One trainable initializer: its value in the program, or MQ_NO_VALUE when this stage lacks it. */
typedef struct mq_net_weight {
    uint32_t value;
    size_t offset, count;
} mq_net_weight;

typedef struct mq_net_slot {
    bool is_ready, is_forward; /* memory is there; a forward waits for its backward */
    mq_tensor *tensors;        /* by value */
    mq_op_call *calls;         /* by step - first */
    mq_op_grad *grads;         /* by step - first; op NULL: nothing to do */
    float *block;
    float *x_copy;    /* the stage's input as mq_net_forward keeps it */
    float *d_out;     /* derivative of the loss by the outputs */
    mq_label *labels; /* of the last forward */
    mq_draw draw;     /* likewise */
} mq_net_slot;

struct mq_net {
    const mq_model *model;
    mq_net_options options;
    mq_program program;
    mq_arena arena;
    mq_tensor *shapes; /* by value: type and shape with the batch dimension = rows */
    mq_net_param *params;
    mq_net_weight *weights; /* those of this stage, like params */
    size_t param_count, param_total;
    uint32_t first, last; /* steps first..last-1 */
    uint32_t input, output;
    mq_draw draw;       /* what Dropout reads */
    uint32_t *view_of;  /* by value: whose data it shares, or itself */
    bool *is_wanted;    /* by value: a gradient is computed for it */
    size_t *place;      /* by value: floats from the start of the block */
    size_t *grad_place; /* by value: floats from the start of grad_block */
    bool *is_added;     /* by step input, in one row: the gradient adds to an earlier one */
    uint32_t *added_at; /* by step: where its inputs start in is_added */
    size_t block_floats, grad_floats, scratch_bytes;
    float *grad_block;
    float **grad_of; /* by value: where its gradient goes (a parameter's: in grads, per call) */
    void *scratch;
    mq_net_slot slots[MQ_NET_SLOTS_MAX];
    double flop;
    /* bare products for the benchmark */
    mq_gemm gemms[MQ_NET_GEMMS_MAX];
    uint32_t gemm_count;
    const float *gemm_flat;
    float *gemm_scratch;
};

/* Trainable initializers of a model in graph order, one bool per initializer (room for at least
 * one), but for frozen ones (freeze may be NULL). A float32 initializer of more than one element is
 * trainable when some node reads it where its operator has weights (mq_op.params). */
MQ_MUST_USE mq_code mq_net_trainable(const mq_model *model, const mq_freeze *freeze, bool *is_param,
                                     mq_error *err);

/* net_training.c: BatchNormalization takes the batch's moments, Dropout draws. */
MQ_MUST_USE mq_code mq_net_start_training(mq_net *net, mq_error *err);

/* Multiply-adds x 2 of a step; scratch is reset. */
double mq_net_step_cost(mq_net *net, uint32_t step, mq_arena *scratch);

/* Sets first, last, input and output from options.stage. MQ_E_ARG: no such cut. */
MQ_MUST_USE mq_code mq_net_choose_stage(mq_net *net, mq_error *err);

/* Memory and calls of a slot; MQ_E_LIMIT. */
MQ_MUST_USE mq_code mq_net_slot_init(mq_net *net, uint32_t slot, mq_error *err);

#endif

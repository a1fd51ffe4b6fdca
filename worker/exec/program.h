/* A model bound to operators: names resolved to numbered values, nodes to steps. What the session
 * and the trainer both start from; neither plan nor memory yet. */
#ifndef MQ_WORKER_EXEC_PROGRAM_H
#define MQ_WORKER_EXEC_PROGRAM_H

#include "worker/ops/op.h"

#define MQ_NO_VALUE UINT32_MAX

typedef enum mq_value_kind {
    MQ_VALUE_INPUT, /* given by the caller */
    MQ_VALUE_CONST, /* tensor has data */
    MQ_VALUE_PARAM, /* a trainable initializer: tensor has shape, data comes from the flat vector */
    MQ_VALUE_STEP,  /* made by a step */
} mq_value_kind;

typedef struct mq_value {
    const char *name;
    mq_value_kind kind;
    mq_tensor tensor;
    uint32_t source; /* graph input, initializer or step */
    uint32_t uses;   /* inputs of steps that read it */
    uint32_t reader; /* the last step that reads it, when uses > 0 */
    bool is_output;  /* of the graph */
} mq_value;

typedef struct mq_step {
    const mq_op *op; /* NULL: folded or fused away */
    const mq_node *node;
    const void *attrs;
    const void *state; /* what op->prepare made */
    uint32_t *inputs;  /* values; MQ_NO_VALUE for an omitted one */
    uint32_t *outputs;
    uint32_t input_count, output_count;
} mq_step;

typedef struct mq_program {
    const mq_model *model;
    mq_value *values;
    mq_step *steps;
    uint32_t *inputs;  /* values of the free graph inputs, in order */
    uint32_t *outputs; /* values of the graph outputs, in order */
    uint32_t value_count, step_count, input_count, output_count;
    uint32_t fused_count, folded_count;
    mq_arena arena; /* holds all of it */
} mq_program;

/* Binds. is_param (may be NULL): one bool per initializer, true for those that become
 * MQ_VALUE_PARAM. Borrows the model. On failure the program is released. */
MQ_MUST_USE mq_code mq_program_init(mq_program *program, const mq_model *model,
                                    const bool *is_param, size_t memory_bytes_max, mq_error *err);
void mq_program_release(mq_program *program);

/* Computes steps whose inputs are all constant, as long as their outputs stay small. */
MQ_MUST_USE mq_code mq_program_fold(mq_program *program, mq_error *err);

/* Joins steps into one kernel where the intermediate value has no other reader (fuse.c). */
MQ_MUST_USE mq_code mq_program_fuse(mq_program *program, mq_error *err);

/* Drops steps without op and those whose outputs nobody reads; counts uses anew. */
void mq_program_compact(mq_program *program);

/* Lets operators pack their constant inputs. */
MQ_MUST_USE mq_code mq_program_prepare(mq_program *program, mq_error *err);

/* The call of a step over an array of tensors by value; pointer arrays from the arena. NULL
 * pointers at its limit: returns false. */
bool mq_program_call(const mq_program *program, uint32_t step, mq_tensor *tensors, mq_arena *arena,
                     mq_op_call *call);

#endif

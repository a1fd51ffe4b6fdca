/* A model bound to operators: names resolved to numbered values, nodes to steps. What the session
 * and the trainer both start from; neither plan nor memory yet. */
#ifndef MQ_WORKER_EXEC_PROGRAM_H
#define MQ_WORKER_EXEC_PROGRAM_H

#include "shared/base/map.h"
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

typedef struct mq_program mq_program;

/* A graph that a node's attribute holds, bound like the main one. Its program inputs are the
 * graph's, then one for each value that it reads from around the node. */
typedef struct mq_body {
    mq_program *program;
    uint32_t *captures; /* values of the program around it, one for each further input */
    uint32_t formal_count, capture_count;
} mq_body;

typedef struct mq_step {
    const mq_op *op; /* NULL: folded or fused away */
    const mq_node *node;
    const void *attrs;
    const void *state; /* what op->prepare made */
    uint32_t *inputs;  /* values; MQ_NO_VALUE for an omitted one */
    uint32_t *outputs;
    uint32_t input_count, output_count;
    uint32_t formal_count; /* inputs of the node; those after it are what its graphs read */
    mq_body *bodies;       /* graphs of the node's attributes, in the order of op->specs */
    uint32_t body_count;
} mq_step;

struct mq_program {
    const mq_model *model;
    const mq_graph *graph; /* the model's, or one within it */
    mq_value *values;
    mq_step *steps;
    uint32_t *inputs;  /* values of the free graph inputs, in order */
    uint32_t *outputs; /* values of the graph outputs, in order */
    uint32_t value_count, step_count, input_count, output_count;
    uint32_t value_room;
    enum { MQ_DOUBLE_UNKNOWN, MQ_DOUBLE_NONE, MQ_DOUBLE_SOME } doubles; /* fuse_match.c */
    uint32_t fused_count, folded_count;
    uint32_t kernels; /* MQ_KERNELS_* */
    mq_packs *packs;  /* borrowed; NULL: constants are made in the arena */
    mq_arena *arena;  /* holds all of it; that of the outermost program */
    mq_arena own;     /* the outermost program's */
};

/* Binds. is_param (may be NULL): one bool per initializer, true for those that become
 * MQ_VALUE_PARAM. Borrows the model. On failure the program is released. */
MQ_MUST_USE mq_code mq_program_init(mq_program *program, const mq_model *model,
                                    const bool *is_param, size_t memory_bytes_max, mq_error *err);

/* The same with a place for what is packed; borrowed until release. */
MQ_MUST_USE mq_code mq_program_init_packs(mq_program *program, const mq_model *model,
                                          const bool *is_param, mq_packs *packs,
                                          size_t memory_bytes_max, mq_error *err);
void mq_program_release(mq_program *program);

/* What the calls of this program and of those within it may compute with. */
void mq_program_kernels(mq_program *program, uint32_t kernels);

/* Computes steps whose inputs are all constant, as long as their outputs stay small. */
MQ_MUST_USE mq_code mq_program_fold(mq_program *program, mq_error *err);

/* Joins steps into one kernel where the intermediate value has no other reader (fuse.c). */
MQ_MUST_USE mq_code mq_program_fuse(mq_program *program, mq_error *err);

/* All that makes a run faster and has no gradient, mq_program_fuse included: rules of optimize.c.
 */
MQ_MUST_USE mq_code mq_program_optimize(mq_program *program, mq_error *err);

/* One of the above for the programs of all graphs within. */
typedef mq_code mq_program_pass(mq_program *program, mq_error *err);
MQ_MUST_USE mq_code mq_program_each_body(mq_program *program, mq_program_pass *pass, mq_error *err);

/* Drops steps without op and those whose outputs nobody reads; counts uses anew. */
void mq_program_compact(mq_program *program);

/* Lets operators pack their constant inputs. */
MQ_MUST_USE mq_code mq_program_prepare(mq_program *program, mq_error *err);

/* Inside worker/exec: binding the graphs of a node (body.c, called by program.c). A scope is a
 * program under construction and the names seen in it. */
typedef struct mq_scope mq_scope;
struct mq_scope {
    mq_program *program;
    mq_map names; /* to values */
    mq_scope *outer;
    uint32_t *captures; /* values of the outer scope, as mq_body has them */
    uint32_t capture_count;
};
mq_code mq_bind_bodies(mq_scope *scope, mq_step *step, mq_error *err);
mq_code mq_bind_graph(mq_scope *scope, const mq_graph *graph, const bool *is_param, mq_error *err);

/* Value of a name in the scope, or one that stands for it and is taken from around it.
 * MQ_NO_VALUE: there is none. */
uint32_t mq_scope_find(mq_scope *scope, const char *name);

/* The call of a step over an array of tensors by value; pointer arrays from the arena. NULL
 * pointers at its limit: returns false. */
bool mq_program_call(const mq_program *program, uint32_t step, mq_tensor *tensors, mq_arena *arena,
                     mq_op_call *call);

#endif

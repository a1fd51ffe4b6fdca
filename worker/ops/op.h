/* An operator: everything the executor, the trainer and the tests know of it is one mq_op in one
 * file of worker/ops, named by one row of ops.def. To add one: write the file (or add to its
 * family's), add the row; the tests find it by iterating the table.
 *
 * Several opset versions that differ in meaning are several rows; lookup takes the highest `since`
 * that is not above the model's opset. Versions that only widened the allowed types share a row.
 *
 * Tensors in a call are row-major and contiguous. Broadcasting follows ONNX (NumPy).
 * Threads: an mq_op is constant; a call belongs to one thread. */
#ifndef MQ_WORKER_OPS_OP_H
#define MQ_WORKER_OPS_OP_H

#include "shared/base/arena.h"
#include "shared/base/error.h"
#include "shared/tensor/tensor.h"
#include "worker/onnx/model.h"
#include "worker/packs/packs.h"

/* Sets of element types. */
typedef uint32_t mq_types;
#define MQ_T(dtype)   ((mq_types)1 << (dtype))
#define MQ_T_FLOATS   (MQ_T(MQ_DT_F32) | MQ_T(MQ_DT_F64))
#define MQ_T_SIGNED   (MQ_T(MQ_DT_I8) | MQ_T(MQ_DT_I16) | MQ_T(MQ_DT_I32) | MQ_T(MQ_DT_I64))
#define MQ_T_UNSIGNED (MQ_T(MQ_DT_U8) | MQ_T(MQ_DT_U16) | MQ_T(MQ_DT_U32) | MQ_T(MQ_DT_U64))
#define MQ_T_INTS     (MQ_T_SIGNED | MQ_T_UNSIGNED)
#define MQ_T_NUMBERS  (MQ_T_FLOATS | MQ_T_INTS)
#define MQ_T_HALF     (MQ_T(MQ_DT_F16) | MQ_T(MQ_DT_BF16))
#define MQ_T_INDEX    (MQ_T(MQ_DT_I32) | MQ_T(MQ_DT_I64))
#define MQ_T_BOOL     MQ_T(MQ_DT_BOOL)
#define MQ_T_FOUR     (MQ_T(MQ_DT_U4) | MQ_T(MQ_DT_I4))                  /* a byte each in memory */
#define MQ_T_FIXED    (MQ_T_NUMBERS | MQ_T_HALF | MQ_T_BOOL | MQ_T_FOUR) /* all but strings */

/* Two kinds of value that are no tensors travel as one of rank 0 with these types. A sequence's
 * data is one mq_sequence; an optional that holds something is that thing itself, an empty one has
 * type MQ_DT_EMPTY and no data. They live in dynamic plans only and are never changed. */
#define MQ_DT_SEQUENCE ((mq_dtype)30)
#define MQ_DT_EMPTY    ((mq_dtype)31)
#define MQ_T_VALUES    (MQ_T_FIXED | MQ_T(MQ_DT_STR) | MQ_T(MQ_DT_SEQUENCE) | MQ_T(MQ_DT_EMPTY))

/* Bytes of one element: mq_span for strings, mq_sequence, 0 for what has none. */
size_t mq_value_item_bytes(mq_dtype dtype);

/* A copy with all it holds (texts and items too) in the arena; false at its limit. */
bool mq_value_copy(mq_arena *arena, const mq_tensor *from, mq_tensor *to);

typedef struct mq_sequence {
    const mq_tensor *items; /* borrowed, as their data, until the run's memory goes */
    size_t count;
} mq_sequence;

/* One input's type rule. Inputs with the same non-zero group letter must have the same type. */
typedef struct mq_op_arg {
    char group;
    mq_types types;
} mq_op_arg;

enum { MQ_OP_ARGS_MAX = 8 };

typedef struct mq_op mq_op;

/* One attribute an operator knows: where its value goes in the attribute struct, and its default.
 * FLOAT -> float, INT -> int64_t, STRING -> mq_span, TENSOR -> const mq_init *, GRAPH ->
 * mq_graph *, INTS -> mq_ints, FLOATS -> mq_floats, STRINGS -> mq_strings. Lists and tensors are
 * borrowed from the model; an absent one has count 0 and is_given false (tensors: NULL). */
typedef struct mq_attr_spec {
    const char *name; /* NULL ends a list of specs */
    mq_attr_type type;
    size_t offset;
    bool is_required;
    int64_t i;     /* default of an INT */
    float f;       /* default of a FLOAT */
    const char *s; /* default of a STRING */
} mq_attr_spec;

typedef struct mq_ints {
    const int64_t *at;
    size_t count;
    bool is_given;
} mq_ints;

typedef struct mq_floats {
    const float *at;
    size_t count;
    bool is_given;
} mq_floats;

typedef struct mq_strings {
    const mq_span *at;
    size_t count;
    bool is_given;
} mq_strings;

/* The graphs that a node's attributes hold (then_branch, body), numbered as in the operator's
 * specs. Made by the executor; values that they read from around the node are not seen here. */
typedef struct mq_op_graphs mq_op_graphs;
struct mq_op_graphs {
    /* Runs one. Inputs are borrowed for the call; outputs until the graph's next run. */
    mq_code (*run)(const mq_op_graphs *self, uint32_t which, const mq_tensor *inputs,
                   uint32_t input_count, mq_tensor *outputs, uint32_t output_count, mq_error *err);
    /* Types and shapes of the outputs as far as they follow without a run; what does not has type
     * MQ_DT_NONE. */
    mq_code (*shapes)(const mq_op_graphs *self, uint32_t which, const mq_tensor *inputs,
                      uint32_t input_count, mq_tensor *outputs, uint32_t output_count,
                      mq_error *err);
    /* Fails when the run is to end: its time is over or its owner asked. */
    mq_code (*go_on)(const mq_op_graphs *self, mq_error *err);
};

/* What a call may compute with. */
enum {
    MQ_KERNELS_EXACT = 1, /* sums in an order that does not depend on what else is in the batch */
    MQ_KERNELS_OWN = 2,   /* without oneDNN, though it is there */
};

/* What one run of a node is: tensors, parsed attributes, prepared state. Pointer arrays have
 * input_count / output_count entries; an omitted optional one is NULL. */
typedef struct mq_op_call {
    const mq_op *op;
    const void *attrs; /* the attribute struct; NULL when op->attrs_bytes is 0 */
    const mq_tensor *const *inputs;
    mq_tensor *const *outputs;
    uint32_t input_count;
    uint32_t output_count;
    const void *state; /* what op->prepare made, or NULL */
    void *scratch;     /* op->scratch bytes, 64-byte aligned, contents undefined */
    mq_arena *arena;   /* MQ_OP_MAKES: memory of its outputs, which lives as long as this run */
    const mq_op_graphs *graphs; /* NULL unless an attribute holds one */
    bool is_widened;            /* see mq_op_run */
    uint32_t kernels;           /* MQ_KERNELS_* */
    mq_packs *packs;            /* prepare: where packed weights are kept; NULL: in its arena */
} mq_op_call;

/* One gradient call: the forward call with its tensors, the gradients of its outputs, and where to
 * put those of its inputs. dy[i] may be overwritten. dx[i] NULL: not wanted. add[i]: add to what is
 * there instead of writing. */
typedef struct mq_op_grad {
    mq_op_call call;
    float *const *dy;
    float *const *dx;
    const bool *add;
} mq_op_grad;

/* What the gradient reads of the forward call, so that the planner knows what to keep. */
enum {
    MQ_GRAD_INPUTS = 1,
    MQ_GRAD_OUTPUTS = 2,
};

enum {
    MQ_OP_VIEW = 1,        /* output 0 is input 0's bytes under another shape: never copied */
    MQ_OP_ELEMENTWISE = 2, /* output 0 may use the memory of an input of equal type and shape */
    MQ_OP_INTERNAL = 4,    /* made by fusion, not accepted from a file */
    MQ_OP_OF_SHAPE = 8,    /* run reads only type and shape of its inputs, their data may be NULL */
    MQ_OP_OVER_LAST = 32,  /* output 0 may use the memory of the last input of four, as above */
    MQ_OP_MAKES = 16,      /* run sets type, shape and memory of its outputs; there is no shape() */
};

/* Why parse may refuse is said to the caller, who puts node, operator, domain and opset in front.
 */
struct mq_op {
    const char *name;
    const char *domain; /* "" = ai.onnx */
    int32_t since;      /* first opset version with this meaning */
    int32_t until;      /* last one, 0 = open (refuses e.g. an operator that was removed) */
    struct {
        uint32_t min, max; /* trailing omitted ones do not count; max UINT32_MAX = variadic */
    } in, out;
    mq_op_arg args[MQ_OP_ARGS_MAX]; /* by input; the last one given serves all further inputs */
    uint32_t flags;
    uint32_t shape_inputs;     /* bit i: shape() needs input i's values, not only its shape */
    uint32_t params;           /* bit i: a float32 initializer at input i is a trainable weight */
    uint32_t follows;          /* bit i: an initializer at input i is a running moment (below) */
    uint32_t no_grad;          /* bit i: there is no gradient by input i, though it is float32 */
    uint32_t grad_keeps;       /* MQ_GRAD_* */
    uint32_t stay_wide;        /* bit i: output i stays float32 in a widened call (mq_op_run) */
    size_t attrs_bytes;        /* of the attribute struct */
    const mq_attr_spec *specs; /* NULL: no attributes; others than these are refused */

    /* Optional: checks the attribute struct, which specs has filled, and may add to it. */
    mq_code (*parse)(const mq_node *node, int64_t opset, void *attrs, mq_error *err);

    /* Sets type and shape of every output from type and shape of the inputs (data may be NULL but
     * for shape_inputs), and refuses what does not fit. */
    mq_code (*shape)(const mq_op_call *call, mq_error *err);

    /* Optional: bytes of scratch that run needs for these shapes. */
    size_t (*scratch)(const mq_op_call *call);

    /* Optional, once at load: packs constant inputs (the others' data is NULL). *state in arena. */
    mq_code (*prepare)(const mq_op_call *call, mq_arena *arena, const void **state, mq_error *err);

    /* Optional: frees what the state holds beside the arena. */
    void (*release)(const void *state);

    /* Optional, whenever shapes become known, before scratch and run: makes in the state what a run
     * with these shapes wants (kernels compiled, weights packed). Again with the same shapes must
     * be quick. Never called without a state. */
    mq_code (*ready)(const mq_op_call *call, mq_error *err);

    /* Computes the outputs. Fails only for values that cannot be (an index out of range). */
    mq_code (*run)(const mq_op_call *call, mq_error *err);

    /* float32 only; NULL: cannot be trained through. Fixed order of arithmetic: same bits always.
     */
    void (*grad)(const mq_op_grad *grad);

    /* Optional: the attribute struct to train with (BatchNormalization takes the batch's moments),
     * in the arena; NULL when there is no room. What `follows` names is then not trained by a
     * gradient: grad writes its new value, moved towards the batch's, to dx[i]. */
    const void *(*training)(const void *attrs, mq_arena *arena);

    /* Optional: multiply-adds times 2 of one run, where they are what it costs. */
    double (*flop)(const mq_op_call *call);

    /* The same result the plainest way, for tests; may be slow. NULL: vectors alone test it. */
    mq_code (*reference)(const mq_op_call *call, mq_error *err);

    /* What tests run it on: cases separated by ';', each "attr=value ... | input input ...".
     * An input is type[dims] with random values, type{values}, or '-' (omitted); a capital letter
     * is a random dimension, the same within a case. '+' after it: values above 0. */
    const char *cases;
};

/* All rows, sorted by name, domain, since. */
size_t mq_op_table(const mq_op *const **out);

/* Row for an operator of a model that imports `opset` of `domain`, or NULL. "ai.onnx" is "". */
const mq_op *mq_op_find(const char *domain, const char *name, int64_t opset);

/* Looks the node's operator up, checks arity and parses attributes into the arena. Errors
 * (MQ_E_UNSUPPORTED, MQ_E_FORMAT) name node, operator, domain, opset and reason. */
MQ_MUST_USE mq_code mq_op_bind(const mq_node *node, int64_t opset, mq_arena *arena,
                               const mq_op **op, const void **attrs, mq_error *err);

/* The attribute struct of the operator from the node's attributes and defaults; no parse. */
MQ_MUST_USE mq_code mq_op_fill(const mq_node *node, const mq_op *op, void *attrs, mq_error *err);

/* Checks the input types of a call against the row, then op->shape (MQ_OP_MAKES: types only). Same
 * form of errors. Sets call->is_widened. */
MQ_MUST_USE mq_code mq_op_shape(mq_op_call *call, const mq_node *node, mq_error *err);

/* op->ready, op->scratch and op->run of a call that mq_op_shape has seen. float16 and bfloat16
 * inputs that the row does not take are widened to float32 where it takes that; float32 outputs are
 * then rounded back once, at the end, so that a kernel computes in single precision whatever its
 * inputs are. */
MQ_MUST_USE mq_code mq_op_ready(const mq_op_call *call, mq_error *err);
size_t mq_op_scratch(const mq_op_call *call);
MQ_MUST_USE mq_code mq_op_run(const mq_op_call *call, mq_error *err);
bool mq_op_has_scratch(const mq_op_call *call);

/* Inside worker/ops only (widen.c, called by the four above). */
bool mq_widen_wants(const mq_op_call *call);
mq_code mq_widen_shape(const mq_op_call *call, mq_error *err);
size_t mq_widen_scratch(const mq_op_call *call);
mq_code mq_widen_run(const mq_op_call *call, mq_error *err);

#define MQ_OP(symbol) extern const mq_op mq_op_##symbol;
#include "worker/ops/ops.def"
#undef MQ_OP

#endif

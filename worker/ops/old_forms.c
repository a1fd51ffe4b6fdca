/* Pow, PRelu, comparisons and logical operators before opset 7: the second operand is aligned, not
 * broadcast as by NumPy. All hand an aligned view of it to the present row. */
#include "worker/ops/kit.h"

typedef struct old_attrs {
    int64_t axis, broadcast;
    mq_ints consumed_inputs;
    bool has_axis;
} old_attrs;

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)opset;
    (void)err;
    ((old_attrs *)attrs)->has_axis = mq_node_attr(node, "axis") != NULL;
    return MQ_OK;
}

/* The call with input 1 under another shape, for another row. */
typedef struct view {
    mq_tensor second;
    const mq_tensor *inputs[2];
    mq_op_call call;
} view;

static const mq_op_call *view_of(const mq_op_call *call, const mq_op *op, const mq_shape *shape,
                                 view *v)
{
    v->second = *call->inputs[1];
    v->second.shape = *shape;
    v->inputs[0] = call->inputs[0];
    v->inputs[1] = &v->second;
    v->call = *call;
    v->call.op = op;
    v->call.inputs = v->inputs;
    return &v->call;
}

/* --- pairs: with broadcast, b's axes lie on a's from `axis` on, or on its last ones --- */

static mq_code pair_aligned(const mq_op_call *call, mq_shape *out, mq_error *err)
{
    const old_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *b = &call->inputs[1]->shape;
    *out = *b;
    if (a->broadcast == 0) {
        return mq_shape_eq(x, b) ? MQ_OK
                                 : mq_fail(err, MQ_E_ARG, "the shapes differ and broadcast is 0");
    }
    int64_t axis = !a->has_axis ? x->rank - b->rank : a->axis < 0 ? a->axis + x->rank : a->axis;
    if (axis < 0 || axis > x->rank - b->rank) {
        return mq_fail(err, MQ_E_ARG, "axis %lld of rank %d and an operand of rank %d",
                       (long long)axis, x->rank, b->rank);
    }
    out->rank = x->rank - (int32_t)axis;
    for (int32_t d = b->rank; d < out->rank; d++) {
        out->dims[d] = 1;
    }
    return MQ_OK;
}

#define PAIR_FUNCTIONS(symbol)                                                                     \
    static mq_code symbol##_shape(const mq_op_call *call, mq_error *err)                           \
    {                                                                                              \
        mq_shape aligned = {.rank = 0};                                                            \
        view v;                                                                                    \
        mq_code code = pair_aligned(call, &aligned, err);                                          \
        return code != MQ_OK                                                                       \
                   ? code                                                                          \
                   : mq_op_##symbol.shape(view_of(call, &mq_op_##symbol, &aligned, &v), err);      \
    }                                                                                              \
    static mq_code symbol##_run(const mq_op_call *call, mq_error *err)                             \
    {                                                                                              \
        mq_shape aligned = {.rank = 0};                                                            \
        view v;                                                                                    \
        mq_code code = pair_aligned(call, &aligned, err);                                          \
        return code != MQ_OK                                                                       \
                   ? code                                                                          \
                   : mq_op_##symbol.run(view_of(call, &mq_op_##symbol, &aligned, &v), err);        \
    }

static const mq_attr_spec pair_specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(old_attrs, axis)},
    {.name = "broadcast", .type = MQ_ATTR_INT, .offset = offsetof(old_attrs, broadcast)},
    {.name = NULL},
};

#define PAIR(symbol, name_, types_, cases_)                                                        \
    PAIR_FUNCTIONS(symbol)                                                                         \
    const mq_op mq_op_##symbol##_1 = {                                                             \
        .name = (name_),                                                                           \
        .domain = "",                                                                              \
        .since = 1,                                                                                \
        .in = {2, 2},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{'T', (types_)}, {'T', (types_)}},                                                \
        .attrs_bytes = sizeof(old_attrs),                                                          \
        .specs = pair_specs,                                                                       \
        .parse = parse,                                                                            \
        .shape = symbol##_shape,                                                                   \
        .run = symbol##_run,                                                                       \
        .cases = (cases_),                                                                         \
    }
#define LOGICAL "| bool[A,B] bool[A,B]; broadcast=1 | bool[A,B,C] bool[B,C]"
#define ORDERED "| f32[A,B] f32[A,B]; broadcast=1 axis=1 | f64[A,B,C] f64[B]"

PAIR(
    pow, "Pow", MQ_T_FLOATS,
    "| f32[A,B]+ f32[A,B]; broadcast=1 axis=1 | f32[A,B,C]+ f32[B]; broadcast=1 | f64[A,B]+ f64[]");
PAIR(and, "And", MQ_T_BOOL, LOGICAL);
PAIR(or, "Or", MQ_T_BOOL, LOGICAL);
PAIR(xor, "Xor", MQ_T_BOOL, LOGICAL);
PAIR(equal, "Equal", MQ_T_BOOL | MQ_T_INDEX, "| i32[A,B] i32[A,B]; broadcast=1 | i64[A,B] i64[B]");
PAIR(greater, "Greater", MQ_T_FLOATS, ORDERED);
PAIR(less, "Less", MQ_T_FLOATS, ORDERED);

/* --- PRelu: one slope, or one a channel --- */

static mq_shape prelu_aligned(const mq_op_call *call)
{
    const mq_shape *x = &call->inputs[0]->shape, *s = &call->inputs[1]->shape;
    mq_shape aligned = *s;
    if (s->rank == 1 && s->dims[0] != 1 && x->rank >= 2) {
        aligned.rank = x->rank - 1;
        for (int32_t d = 1; d < aligned.rank; d++) {
            aligned.dims[d] = 1;
        }
    }
    return aligned;
}

static mq_code prelu_shape(const mq_op_call *call, mq_error *err)
{
    mq_shape aligned = prelu_aligned(call);
    view v;
    return mq_op_prelu.shape(view_of(call, &mq_op_prelu, &aligned, &v), err);
}

static mq_code prelu_run(const mq_op_call *call, mq_error *err)
{
    mq_shape aligned = prelu_aligned(call);
    view v;
    return mq_op_prelu.run(view_of(call, &mq_op_prelu, &aligned, &v), err);
}

static const mq_attr_spec prelu_specs[] = {
    {.name = "consumed_inputs",
     .type = MQ_ATTR_INTS,
     .offset = offsetof(old_attrs, consumed_inputs)},
    {.name = NULL},
};

const mq_op mq_op_prelu_1 = {
    .name = "PRelu",
    .domain = "",
    .since = 1,
    .in = {2, 2},
    .out = {1, 1},
    .args = {{'T', MQ_T_FLOATS}, {'T', MQ_T_FLOATS}},
    .attrs_bytes = sizeof(old_attrs),
    .specs = prelu_specs,
    .shape = prelu_shape,
    .run = prelu_run,
    .cases = "| f32[A,B,C] f32[B]; | f32[A,B] f32{0.25}; | f64[A,3,B,C] f64[3]",
};

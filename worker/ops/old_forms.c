/* Pow before opset 7 and PRelu before opset 7: the second operand is aligned, not broadcast as by
 * NumPy. Both hand an aligned view of it to the present row. */
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

/* --- Pow: with broadcast, b's axes lie on a's from `axis` on, or on its last ones --- */

static mq_code pow_aligned(const mq_op_call *call, mq_shape *out, mq_error *err)
{
    const old_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *b = &call->inputs[1]->shape;
    *out = *b;
    if (a->broadcast == 0) {
        return mq_shape_eq(x, b) ? MQ_OK
                                 : mq_fail(err, MQ_E_ARG, "the shapes differ and broadcast is 0");
    }
    int64_t axis = !a->has_axis ? x->rank - b->rank : a->axis < 0 ? a->axis + x->rank : a->axis;
    if (axis < 0 || axis + b->rank > x->rank) {
        return mq_fail(err, MQ_E_ARG, "axis %lld of rank %d and an exponent of rank %d",
                       (long long)axis, x->rank, b->rank);
    }
    out->rank = x->rank - (int32_t)axis;
    for (int32_t d = b->rank; d < out->rank; d++) {
        out->dims[d] = 1;
    }
    return MQ_OK;
}

static mq_code pow_shape(const mq_op_call *call, mq_error *err)
{
    mq_shape aligned = {.rank = 0};
    view v;
    mq_code code = pow_aligned(call, &aligned, err);
    return code == MQ_OK ? mq_op_pow.shape(view_of(call, &mq_op_pow, &aligned, &v), err) : code;
}

static mq_code pow_run(const mq_op_call *call, mq_error *err)
{
    mq_shape aligned = {.rank = 0};
    view v;
    mq_code code = pow_aligned(call, &aligned, err);
    return code == MQ_OK ? mq_op_pow.run(view_of(call, &mq_op_pow, &aligned, &v), err) : code;
}

static const mq_attr_spec pow_specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(old_attrs, axis)},
    {.name = "broadcast", .type = MQ_ATTR_INT, .offset = offsetof(old_attrs, broadcast)},
    {.name = NULL},
};

const mq_op mq_op_pow_1 = {
    .name = "Pow",
    .domain = "",
    .since = 1,
    .in = {2, 2},
    .out = {1, 1},
    .args = {{'T', MQ_T_FLOATS}, {'T', MQ_T_FLOATS}},
    .attrs_bytes = sizeof(old_attrs),
    .specs = pow_specs,
    .parse = parse,
    .shape = pow_shape,
    .run = pow_run,
    .cases = "| f32[A,B]+ f32[A,B]; broadcast=1 axis=1 | f32[A,B,C]+ f32[B]; broadcast=1 | "
             "f64[A,B]+ f64[]",
};

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

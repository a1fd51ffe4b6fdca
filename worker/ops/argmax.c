/* ArgMax and ArgMin: index of the extreme along one axis; of equals the first, or the last with
 * select_last_index. */
#include "worker/ops/kit.h"

typedef struct arg_attrs {
    int64_t axis, keep_dims, is_last;
} arg_attrs;

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const arg_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    int32_t axis;
    mq_code code = mq_axis(a->axis, x->rank, &axis, err);
    mq_shape y = {.rank = 0};
    for (int32_t i = 0; i < x->rank && code == MQ_OK; i++) {
        if (i != axis || a->keep_dims != 0) {
            y.dims[y.rank++] = i == axis ? 1 : x->dims[i];
        }
    }
    if (code == MQ_OK && x->dims[axis] == 0) {
        code = mq_fail(err, MQ_E_ARG, "dimension %d is 0: nothing to choose from", axis);
    }
    call->outputs[0]->dtype = MQ_DT_I64;
    call->outputs[0]->shape = y;
    return code;
}

#define CHOOSE(type)                                                                               \
    for (size_t line = 0; line < outer * inner; line++) {                                          \
        const type *x =                                                                            \
            (const type *)call->inputs[0]->data + line / inner * n * inner + line % inner;         \
        size_t best = 0;                                                                           \
        for (size_t i = 1; i < n; i++) {                                                           \
            type v = x[i * inner], top = x[best * inner];                                          \
            bool is_more = is_min ? v < top : v > top, is_less = is_min ? v > top : v < top;       \
            best = is_more || (a->is_last != 0 && !is_less) ? i : best;                            \
        }                                                                                          \
        y[line] = (int64_t)best;                                                                   \
    }                                                                                              \
    break;

static mq_code choose(const mq_op_call *call, bool is_min)
{
    const arg_attrs *a = call->attrs;
    const mq_shape *s = &call->inputs[0]->shape;
    int32_t axis = (int32_t)(a->axis < 0 ? a->axis + s->rank : a->axis);
    size_t outer = mq_dims_product(s, 0, axis), n = (size_t)s->dims[axis];
    size_t inner = mq_dims_product(s, axis + 1, s->rank);
    int64_t *y = call->outputs[0]->data;
    switch ((int)call->inputs[0]->dtype) {
    case MQ_DT_F64:
        CHOOSE(double)
    case MQ_DT_I8:
        CHOOSE(int8_t)
    case MQ_DT_U8:
        CHOOSE(uint8_t)
    case MQ_DT_I32:
        CHOOSE(int32_t)
    case MQ_DT_I64:
        CHOOSE(int64_t)
    default:
        CHOOSE(float)
    }
    return MQ_OK;
}

static mq_code run_max(const mq_op_call *call, mq_error *err)
{
    (void)err;
    return choose(call, false);
}

static mq_code run_min(const mq_op_call *call, mq_error *err)
{
    (void)err;
    return choose(call, true);
}

static const mq_attr_spec specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(arg_attrs, axis)},
    {.name = "keepdims", .type = MQ_ATTR_INT, .offset = offsetof(arg_attrs, keep_dims), .i = 1},
    {.name = "select_last_index", .type = MQ_ATTR_INT, .offset = offsetof(arg_attrs, is_last)},
    {.name = NULL},
};

#define ARG(symbol, name_, run_)                                                                   \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = 1,                                                                                \
        .in = {1, 1},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{0, MQ_T_FLOATS | MQ_T_INDEX | MQ_T(MQ_DT_I8) | MQ_T(MQ_DT_U8)}},                 \
        .attrs_bytes = sizeof(arg_attrs),                                                          \
        .specs = specs,                                                                            \
        .shape = shape,                                                                            \
        .run = run_,                                                                               \
        .cases =                                                                                   \
            "axis=1 | f32[A,B]; axis=-1 keepdims=0 | i32[A,B]; select_last_index=1 | u8[A,B]",     \
    }
ARG(argmax, "ArgMax", run_max);
ARG(argmin, "ArgMin", run_min);

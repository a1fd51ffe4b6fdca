/* Operators that look at an element's place: Trilu, EyeLike, OneHot, and sums along an axis:
 * CumSum, CumProd. onnx.ai/onnx/operators/onnx__Trilu.html and its sisters. */
#include "worker/ops/copy.h"
#include "worker/ops/element.h"

/* --- Trilu: the upper or lower triangle of the last two dimensions, the rest 0 --- */

typedef struct trilu_attrs {
    int64_t upper;
} trilu_attrs;

static mq_code trilu_shape(const mq_op_call *call, mq_error *err)
{
    if (call->inputs[0]->shape.rank < 2) {
        return mq_fail(err, MQ_E_ARG, "rank %d, at least 2 is due", call->inputs[0]->shape.rank);
    }
    return mq_shape_same(call, err);
}

static mq_code trilu_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0], *diagonal = mq_call_input(call, 1);
    bool is_upper = ((const trilu_attrs *)call->attrs)->upper != 0;
    int64_t k = diagonal == NULL ? 0 : mq_element_int(diagonal, 0);
    int64_t rows = x->shape.dims[x->shape.rank - 2], columns = x->shape.dims[x->shape.rank - 1];
    k = k > MQ_DIM_MAX ? MQ_DIM_MAX : k < -MQ_DIM_MAX ? -MQ_DIM_MAX : k;
    size_t each = mq_each(x);
    for (size_t i = 0, n = mq_elements(x); i < n; i++) {
        int64_t r = (int64_t)(i / (size_t)columns) % rows, c = (int64_t)(i % (size_t)columns);
        bool is_kept = is_upper ? c >= r + k : c <= r + k;
        if (is_kept) {
            memmove((uint8_t *)call->outputs[0]->data + i * each,
                    (const uint8_t *)x->data + i * each, each);
        } else {
            memset((uint8_t *)call->outputs[0]->data + i * each, 0, each);
        }
    }
    return MQ_OK;
}

static const mq_attr_spec trilu_specs[] = {
    {.name = "upper", .type = MQ_ATTR_INT, .offset = offsetof(trilu_attrs, upper), .i = 1},
    {.name = NULL},
};

const mq_op mq_op_trilu = {
    .name = "Trilu",
    .domain = "",
    .since = 14,
    .in = {1, 2},
    .out = {1, 1},
    .args = {{'T', MQ_T_FIXED}, {0, MQ_T(MQ_DT_I64)}},
    .attrs_bytes = sizeof(trilu_attrs),
    .specs = trilu_specs,
    .shape = trilu_shape,
    .run = trilu_run,
    .cases = "| f32[A,B,C]; upper=0 | i64[A,B] i64{1}",
};

/* --- CumSum, CumProd along an axis --- */

typedef struct cumulative_attrs {
    int64_t exclusive, reverse;
    bool is_product;
} cumulative_attrs;

static mq_code product_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    (void)err;
    ((cumulative_attrs *)attrs)->is_product = true;
    return MQ_OK;
}

/* One line of n elements, `step` apart. */
static void accumulate(const mq_op_call *call, size_t first, size_t n, size_t step)
{
    const cumulative_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    bool is_float = mq_is_float(x->dtype);
    double sum = a->is_product ? 1.0 : 0.0;
    uint64_t whole = a->is_product;
    for (size_t k = 0; k < n; k++) {
        size_t i = first + (a->reverse != 0 ? n - 1 - k : k) * step;
        double v = is_float ? mq_element(x, i) : 0.0;
        uint64_t w = is_float ? 0 : (uint64_t)mq_element_int(x, i);
        double before = sum;
        uint64_t whole_before = whole;
        sum = a->is_product ? sum * v : sum + v;
        whole = a->is_product ? whole * w : whole + w;
        if (is_float) {
            mq_element_set(y, i, a->exclusive != 0 ? before : sum);
        } else {
            mq_element_set_int(y, i, (int64_t)(a->exclusive != 0 ? whole_before : whole));
        }
    }
}

static mq_code cumulative_run(const mq_op_call *call, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape;
    int32_t axis;
    mq_code code = mq_axis(mq_element_int(call->inputs[1], 0), x->rank, &axis, err);
    if (code != MQ_OK) {
        return code;
    }
    size_t n = (size_t)x->dims[axis], inner = mq_dims_product(x, axis + 1, x->rank);
    for (size_t o = 0, outer = mq_dims_product(x, 0, axis); o < outer; o++) {
        for (size_t i = 0; i < inner; i++) {
            accumulate(call, o * n * inner + i, n, inner);
        }
    }
    return MQ_OK;
}

static const mq_attr_spec cumulative_specs[] = {
    {.name = "exclusive", .type = MQ_ATTR_INT, .offset = offsetof(cumulative_attrs, exclusive)},
    {.name = "reverse", .type = MQ_ATTR_INT, .offset = offsetof(cumulative_attrs, reverse)},
    {.name = NULL},
};

#define CUMULATIVE(symbol, name_, since_, parse_)                                                  \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {2, 2},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{'T', MQ_T_NUMBERS | MQ_T_HALF}, {0, MQ_T_INDEX}},                                \
        .attrs_bytes = sizeof(cumulative_attrs),                                                   \
        .specs = cumulative_specs,                                                                 \
        .parse = parse_,                                                                           \
        .shape = mq_shape_same,                                                                    \
        .run = cumulative_run,                                                                     \
        .cases = "| f32[A,B] i64{1}; reverse=1 exclusive=1 | i32[A,B,C] i32{-2}",                  \
    }
CUMULATIVE(cum_sum, "CumSum", 11, NULL);
CUMULATIVE(cum_prod, "CumProd", 26, product_parse);

/* --- EyeLike, OneHot --- */

typedef struct make_attrs {
    int64_t dtype, k, axis;
} make_attrs;

static mq_code eye_shape(const mq_op_call *call, mq_error *err)
{
    const make_attrs *a = call->attrs;
    mq_code code = mq_shape_same(call, err);
    if (call->inputs[0]->shape.rank != 2) {
        return mq_fail(err, MQ_E_ARG, "rank %d where 2 is due", call->inputs[0]->shape.rank);
    }
    if (a->dtype != 0) {
        call->outputs[0]->dtype = a->dtype > 0 && a->dtype < 32 ? (mq_dtype)a->dtype : MQ_DT_NONE;
        if (mq_dtype_bytes(call->outputs[0]->dtype) == 0) {
            code = mq_fail(err, MQ_E_UNSUPPORTED, "dtype %lld", (long long)a->dtype);
        }
    }
    return code;
}

static mq_code eye_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const make_attrs *a = call->attrs;
    const mq_tensor *y = call->outputs[0];
    int64_t columns = y->shape.dims[1];
    for (size_t i = 0, n = mq_elements(y); i < n; i++) {
        int64_t r = (int64_t)i / columns, c = (int64_t)i % columns;
        mq_element_set(y, i, c - r == a->k ? 1.0 : 0.0);
    }
    return MQ_OK;
}

static const mq_attr_spec eye_specs[] = {
    {.name = "dtype", .type = MQ_ATTR_INT, .offset = offsetof(make_attrs, dtype)},
    {.name = "k", .type = MQ_ATTR_INT, .offset = offsetof(make_attrs, k)},
    {.name = NULL},
};

const mq_op mq_op_eye_like = {
    .name = "EyeLike",
    .domain = "",
    .since = 9,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{'T', MQ_T_FIXED}},
    .flags = MQ_OP_OF_SHAPE,
    .attrs_bytes = sizeof(make_attrs),
    .specs = eye_specs,
    .shape = eye_shape,
    .run = eye_run,
    .cases = "| f32[A,B]; k=1 dtype=6 | f32[A,B]",
};

static mq_code one_hot_shape(const mq_op_call *call, mq_error *err)
{
    const make_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    mq_shape y = {.rank = x->rank + 1};
    int32_t axis;
    if (y.rank > MQ_RANK_MAX || mq_elements(call->inputs[1]) != 1 ||
        mq_elements(call->inputs[2]) != 2) {
        return mq_fail(err, MQ_E_ARG,
                       "indices of rank %d at most, one depth and two values are due",
                       MQ_RANK_MAX - 1);
    }
    mq_code code = mq_axis(a->axis, y.rank, &axis, err);
    double depth = mq_element(call->inputs[1], 0);
    if (code == MQ_OK && !(depth >= 0.0 && depth <= (double)MQ_DIM_MAX)) {
        code = mq_fail(err, MQ_E_ARG, "depth %g", depth);
    }
    for (int32_t i = 0; i < y.rank && code == MQ_OK; i++) {
        y.dims[i] = i == axis ? (int64_t)depth : x->dims[i < axis ? i : i - 1];
    }
    call->outputs[0]->dtype = call->inputs[2]->dtype;
    call->outputs[0]->shape = y;
    return code;
}

static mq_code one_hot_run(const mq_op_call *call, mq_error *err)
{
    const make_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *values = call->inputs[2], *y = call->outputs[0];
    size_t each = mq_each(values), n = mq_elements(y);
    int32_t axis;
    mq_code code = mq_axis(a->axis, y->shape.rank, &axis, err);
    for (size_t i = 0; i < n && code == MQ_OK; i++) {
        memcpy((uint8_t *)y->data + i * each, values->data, each);
    }
    int64_t depth = code == MQ_OK ? y->shape.dims[axis] : 0;
    size_t inner = code == MQ_OK ? mq_dims_product(&y->shape, axis + 1, y->shape.rank) : 0;
    for (size_t i = 0; n > 0 && i < mq_elements(x) && code == MQ_OK; i++) {
        double v = mq_element(x, i);
        int64_t at = v >= -(double)depth && v < (double)depth ? (int64_t)v : depth;
        at = at < 0 ? at + depth : at;
        if (at < depth) {
            size_t to = (i / inner * (size_t)depth + (size_t)at) * inner + i % inner;
            memcpy((uint8_t *)y->data + to * each, (const uint8_t *)values->data + each, each);
        }
    }
    return code;
}

static const mq_attr_spec one_hot_specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(make_attrs, axis), .i = -1},
    {.name = NULL},
};

const mq_op mq_op_one_hot = {
    .name = "OneHot",
    .domain = "",
    .since = 9,
    .in = {3, 3},
    .out = {1, 1},
    .args = {{0, MQ_T_NUMBERS}, {0, MQ_T_NUMBERS}, {0, MQ_T_FIXED}},
    .shape_inputs = 2,
    .attrs_bytes = sizeof(make_attrs),
    .specs = one_hot_specs,
    .shape = one_hot_shape,
    .run = one_hot_run,
    .cases = "| i64[A,B] i64{12} f32{0,1}; axis=0 | i32[A] f32{3} i32{2,5}",
};

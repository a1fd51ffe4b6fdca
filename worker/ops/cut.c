/* Operators that cut, pad and repeat: Split, Pad, Tile. onnx.ai/onnx/operators/onnx__Split.html */
#include "shared/base/math.h"
#include "worker/ops/copy.h"
#include "worker/ops/element.h"

#define ANY_TYPE (MQ_T_FIXED | MQ_T(MQ_DT_STR))

/* --- Split: lengths from attribute or input, else equal parts --- */

typedef struct split_attrs {
    int64_t axis, num_outputs;
    mq_ints split;
} split_attrs;

static mq_code split_at(const mq_op_call *call, uint32_t part, int32_t axis, int64_t *length,
                        mq_error *err)
{
    const split_attrs *a = call->attrs;
    const mq_tensor *lengths = mq_call_input(call, 1);
    int64_t dim = call->inputs[0]->shape.dims[axis], parts = call->output_count;
    size_t given = lengths != NULL ? mq_elements(lengths) : a->split.count;
    if (lengths == NULL && !a->split.is_given) {
        int64_t each = (dim + parts - 1) / parts; /* the last may be shorter since opset 18 */
        int64_t left = dim - each * part;
        *length = left < 0 ? 0 : mq_min_i64(each, left);
        return MQ_OK;
    }
    if (given != call->output_count) {
        return mq_fail(err, MQ_E_ARG, "%zu lengths for %u outputs", given, call->output_count);
    }
    *length = lengths != NULL ? mq_element_int(lengths, part) : a->split.at[part];
    return *length < 0 || *length > dim
               ? mq_fail(err, MQ_E_ARG, "length %lld of part %u is outside 0..%lld",
                         (long long)*length, part, (long long)dim)
               : MQ_OK;
}

static mq_code split_shape(const mq_op_call *call, mq_error *err)
{
    const split_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    int32_t axis;
    int64_t sum = 0, length = 0;
    mq_code code = mq_axis(a->axis, x->rank, &axis, err);
    if (code == MQ_OK && a->num_outputs != 0 && a->num_outputs != call->output_count) {
        code = mq_fail(err, MQ_E_ARG, "num_outputs is %lld, there are %u outputs",
                       (long long)a->num_outputs, call->output_count);
    }
    for (uint32_t i = 0; i < call->output_count && code == MQ_OK; i++) {
        code = split_at(call, i, axis, &length, err);
        if (code == MQ_OK && call->outputs[i] != NULL) {
            call->outputs[i]->dtype = call->inputs[0]->dtype;
            call->outputs[i]->shape = *x;
            call->outputs[i]->shape.dims[axis] = length;
        }
        sum += code == MQ_OK ? length : 0;
    }
    if (code == MQ_OK && sum != x->dims[axis]) {
        code = mq_fail(err, MQ_E_ARG, "lengths add up to %lld, the dimension is %lld",
                       (long long)sum, (long long)x->dims[axis]);
    }
    return code;
}

static mq_code split_run(const mq_op_call *call, mq_error *err)
{
    const split_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    int32_t axis;
    mq_code code = mq_axis(a->axis, x->shape.rank, &axis, err);
    size_t outer = mq_dims_product(&x->shape, 0, axis);
    size_t inner = mq_dims_product(&x->shape, axis + 1, x->shape.rank) * mq_each(x);
    size_t row = (size_t)x->shape.dims[axis] * inner, at = 0;
    for (uint32_t i = 0; i < call->output_count && code == MQ_OK; i++) {
        int64_t length = 0;
        code = split_at(call, i, axis, &length, err);
        size_t piece = (size_t)length * inner;
        for (size_t o = 0; call->outputs[i] != NULL && piece > 0 && o < outer; o++) {
            memcpy((uint8_t *)call->outputs[i]->data + o * piece,
                   (const uint8_t *)x->data + o * row + at, piece);
        }
        at += piece;
    }
    return code;
}

static const mq_attr_spec split_1_specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(split_attrs, axis)},
    {.name = "split", .type = MQ_ATTR_INTS, .offset = offsetof(split_attrs, split)},
    {.name = NULL},
};
static const mq_attr_spec split_13_specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(split_attrs, axis)},
    {.name = "num_outputs", .type = MQ_ATTR_INT, .offset = offsetof(split_attrs, num_outputs)},
    {.name = NULL},
};

#define SPLIT(since_, in_max, specs_, cases_)                                                      \
    const mq_op mq_op_split_##since_ = {                                                           \
        .name = "Split",                                                                           \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {1, in_max},                                                                         \
        .out = {1, UINT32_MAX},                                                                    \
        .args = {{'T', ANY_TYPE}, {0, MQ_T(MQ_DT_I64)}},                                           \
        .shape_inputs = 2,                                                                         \
        .attrs_bytes = sizeof(split_attrs),                                                        \
        .specs = specs_,                                                                           \
        .shape = split_shape,                                                                      \
        .run = split_run,                                                                          \
        .cases = cases_,                                                                           \
    }
SPLIT(1, 1, split_1_specs, "axis=1 | f32[A,B,C]; axis=-1 split=(4) | u8[A,4]");
SPLIT(13, 2, split_13_specs, "axis=1 | f32[A,B,C]; | i64[4] i64{4}; num_outputs=1 | f32[A]");

/* --- Pad --- */

typedef struct pad_attrs {
    mq_span mode;
    mq_ints pads;
    float value;
} pad_attrs;

typedef struct padding {
    int64_t begin[MQ_RANK_MAX], end[MQ_RANK_MAX];
} padding;

static mq_code pads_of(const mq_op_call *call, padding *p, mq_error *err)
{
    const pad_attrs *a = call->attrs;
    const mq_tensor *pads = mq_call_input(call, 1), *axes = mq_call_input(call, 3);
    int32_t rank = call->inputs[0]->shape.rank;
    size_t count = pads != NULL ? mq_elements(pads) : a->pads.count;
    size_t n = axes != NULL ? mq_elements(axes) : (size_t)rank;
    *p = (padding){{0}, {0}};
    if (count != 2 * n || n > (size_t)rank) {
        return mq_fail(err, MQ_E_ARG, "%zu pads for %zu axes", count, n);
    }
    for (size_t i = 0; i < n; i++) {
        int32_t axis = (int32_t)i;
        mq_code code = axes == NULL ? MQ_OK : mq_axis(mq_element_int(axes, i), rank, &axis, err);
        if (code != MQ_OK) {
            return code;
        }
        p->begin[axis] = pads != NULL ? mq_element_int(pads, i) : a->pads.at[i];
        p->end[axis] = pads != NULL ? mq_element_int(pads, i + n) : a->pads.at[i + n];
    }
    return MQ_OK;
}

static mq_code pad_shape(const mq_op_call *call, mq_error *err)
{
    padding p;
    const pad_attrs *a = call->attrs;
    mq_tensor *y = call->outputs[0];
    mq_code code = pads_of(call, &p, err);
    bool is_wrap = mq_span_is(a->mode, "wrap"), is_reflect = mq_span_is(a->mode, "reflect");
    bool is_edge = mq_span_is(a->mode, "edge"), is_constant = mq_span_is(a->mode, "constant");
    if (code == MQ_OK && !is_wrap && !is_reflect && !is_edge && !is_constant) {
        code = mq_fail(err, MQ_E_ARG, "mode is none of constant, reflect, edge, wrap");
    }
    y->dtype = call->inputs[0]->dtype;
    y->shape = call->inputs[0]->shape;
    for (int32_t i = 0; i < y->shape.rank && code == MQ_OK; i++) {
        int64_t dim = y->shape.dims[i], size = 0;
        if (p.begin[i] < -MQ_DIM_MAX || p.begin[i] > MQ_DIM_MAX || p.end[i] < -MQ_DIM_MAX ||
            p.end[i] > MQ_DIM_MAX || (size = dim + p.begin[i] + p.end[i]) < 0) {
            code = mq_fail(err, MQ_E_ARG, "pads %lld and %lld do not fit dimension %d of %lld",
                           (long long)p.begin[i], (long long)p.end[i], i, (long long)dim);
        } else if (dim == 0 && size > 0 && !is_constant) {
            code = mq_fail(err, MQ_E_ARG, "dimension %d is 0: nothing to repeat", i);
        }
        y->shape.dims[i] = size;
    }
    return code;
}

/* Where position x (may lie outside 0..n-1) comes from; -1: the constant. */
static int64_t source(mq_span mode, int64_t x, int64_t n)
{
    if (x >= 0 && x < n) {
        return x;
    }
    if (mq_span_is(mode, "edge")) {
        return x < 0 ? 0 : n - 1;
    }
    if (mq_span_is(mode, "wrap")) {
        return (x % n + n) % n;
    }
    if (!mq_span_is(mode, "reflect")) {
        return -1;
    }
    int64_t period = n == 1 ? 1 : 2 * n - 2;
    x = (x % period + period) % period;
    return x < n ? x : period - x;
}

static mq_code pad_run(const mq_op_call *call, mq_error *err)
{
    padding p;
    const pad_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0], *given = mq_call_input(call, 2);
    size_t each = mq_each(x);
    uint8_t constant[sizeof(mq_span)] = {0};
    mq_tensor fill = {x->dtype, {.rank = 0}, constant, each};
    mq_code code = pads_of(call, &p, err);
    if (given != NULL && mq_elements(given) > 0) {
        memcpy(constant, given->data, each);
    } else if (mq_is_float(x->dtype)) {
        mq_element_set(&fill, 0, (double)a->value);
    }
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t i = 0, n = mq_elements(y); i < n && code == MQ_OK; i++) {
        int64_t at = 0;
        for (int32_t d = 0; d < y->shape.rank && at >= 0; d++) {
            int64_t from = source(a->mode, index[d] - p.begin[d], x->shape.dims[d]);
            at = from < 0 ? -1 : at * x->shape.dims[d] + from;
        }
        memcpy((uint8_t *)y->data + i * each,
               at < 0 ? constant : (const uint8_t *)x->data + (size_t)at * each, each);
        mq_next_index(&y->shape, index);
    }
    return code;
}

static const mq_attr_spec pad_2_specs[] = {
    {.name = "mode", .type = MQ_ATTR_STRING, .offset = offsetof(pad_attrs, mode), .s = "constant"},
    {.name = "pads",
     .type = MQ_ATTR_INTS,
     .offset = offsetof(pad_attrs, pads),
     .is_required = true},
    {.name = "value", .type = MQ_ATTR_FLOAT, .offset = offsetof(pad_attrs, value)},
    {.name = NULL},
};
static const mq_attr_spec pad_11_specs[] = {
    {.name = "mode", .type = MQ_ATTR_STRING, .offset = offsetof(pad_attrs, mode), .s = "constant"},
    {.name = NULL},
};

#define PAD(since_, in_min, in_max, specs_, cases_)                                                \
    const mq_op mq_op_pad_##since_ = {                                                             \
        .name = "Pad",                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {in_min, in_max},                                                                    \
        .out = {1, 1},                                                                             \
        .args = {{'T', MQ_T_FIXED}, {0, MQ_T(MQ_DT_I64)}, {'T', MQ_T_FIXED}, {0, MQ_T_INDEX}},     \
        .shape_inputs = 10,                                                                        \
        .attrs_bytes = sizeof(pad_attrs),                                                          \
        .specs = specs_,                                                                           \
        .shape = pad_shape,                                                                        \
        .run = pad_run,                                                                            \
        .cases = cases_,                                                                           \
    }
PAD(2, 1, 1, pad_2_specs, "pads=(1,0,2,1) value=0.5 | f32[A,B]; pads=(-1,0,0,0) | f32[3,B]");
PAD(11, 2, 4, pad_11_specs,
    "| f32[A,B] i64{1,0,2,1} f32{0.5}; mode=reflect | f32[4,5] i64{1,2,3,0};"
    "mode=edge | u8[A,B] i64{1,2} - i64{-1}; mode=wrap | f32[A] i64{2,3}");

/* --- Tile --- */

static mq_code tile_shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape;
    const mq_tensor *repeats = call->inputs[1];
    mq_shape *y = &call->outputs[0]->shape;
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    *y = *x;
    if (mq_elements(repeats) != (size_t)x->rank) {
        return mq_fail(err, MQ_E_ARG, "%zu repeats for rank %d", mq_elements(repeats), x->rank);
    }
    for (int32_t i = 0; i < x->rank; i++) {
        int64_t n = mq_element_int(repeats, (size_t)i);
        if (n < 0 || (x->dims[i] > 0 && n > MQ_DIM_MAX / x->dims[i])) {
            return mq_fail(err, MQ_E_ARG, "repeats[%d] is %lld", i, (long long)n);
        }
        y->dims[i] = x->dims[i] * n;
    }
    return MQ_OK;
}

static mq_code tile_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    size_t each = mq_each(x);
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t i = 0, n = mq_elements(y); i < n; i++) {
        size_t from = 0;
        for (int32_t d = 0; d < y->shape.rank; d++) {
            from = from * (size_t)x->shape.dims[d] + (size_t)(index[d] % x->shape.dims[d]);
        }
        memcpy((uint8_t *)y->data + i * each, (const uint8_t *)x->data + from * each, each);
        mq_next_index(&y->shape, index);
    }
    return MQ_OK;
}

const mq_op mq_op_tile = {
    .name = "Tile",
    .domain = "",
    .since = 6,
    .in = {2, 2},
    .out = {1, 1},
    .args = {{'T', ANY_TYPE}, {0, MQ_T(MQ_DT_I64)}},
    .shape_inputs = 2,
    .shape = tile_shape,
    .run = tile_run,
    .cases = "| f32[A,B] i64{2,3}; | u8[A] i64{0}",
};

/* Operators that only give the same bytes another shape: Identity, Flatten, Reshape, Squeeze,
 * Unsqueeze, Dropout as inference sees it. The planner lets output 0 share input 0's memory
 * (MQ_OP_VIEW); run copies only where it could not. */
#include "worker/ops/element.h"

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0];
    if (call->outputs[0]->data != x->data && x->bytes > 0) {
        memcpy(call->outputs[0]->data, x->data, x->bytes);
    }
    return MQ_OK;
}

static void grad(const mq_op_grad *g)
{
    size_t n = mq_elements(g->call.inputs[0]);
    float *dx = g->dx[0];
    if (dx == NULL || dx == g->dy[0]) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        dx[i] = g->add[0] ? dx[i] + g->dy[0][i] : g->dy[0][i];
    }
}

static mq_code reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    for (size_t i = 0; i < call->inputs[0]->bytes; i++) {
        ((uint8_t *)call->outputs[0]->data)[i] = ((const uint8_t *)call->inputs[0]->data)[i];
    }
    return MQ_OK;
}

/* Strings are spans here, so they can be viewed as well. */
#define ANY_TYPE (MQ_T_FIXED | MQ_T(MQ_DT_STR))

#define COMMON(name_, since_, in_min, in_max, run_)                                                \
    .name = name_, .domain = "", .since = since_, .in = {in_min, in_max}, .flags = MQ_OP_VIEW,     \
    .run = run_, .grad = grad, .reference = reference
#define ARGS .args = {{'T', ANY_TYPE}, {0, MQ_T_FIXED}}

/* --- Identity --- */

const mq_op mq_op_identity = {
    COMMON("Identity", 1, 1, 1, run),
    .args = {{'T', MQ_T_VALUES}},
    .out = {1, 1},
    .shape = mq_shape_same,
    .cases = "| f32[A,B]; | i64[A]; | f32[]",
};

/* --- Flatten: [d0 .. d(axis-1)] and the rest become one dimension each --- */

typedef struct axis_attrs {
    int64_t axis;
} axis_attrs;

static mq_code flatten_shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape;
    int64_t axis = ((const axis_attrs *)call->attrs)->axis;
    if (axis < -x->rank || axis > x->rank) {
        return mq_fail(err, MQ_E_ARG, "axis %lld is outside %d..%d", (long long)axis, -x->rank,
                       x->rank);
    }
    int32_t cut = (int32_t)(axis < 0 ? axis + x->rank : axis);
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = (mq_shape){
        2, {(int64_t)mq_dims_product(x, 0, cut), (int64_t)mq_dims_product(x, cut, x->rank)}};
    return MQ_OK;
}

static const mq_attr_spec flatten_specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(axis_attrs, axis), .i = 1},
    {.name = NULL},
};

const mq_op mq_op_flatten = {
    COMMON("Flatten", 1, 1, 1, run),
    ARGS,
    .out = {1, 1},
    .attrs_bytes = sizeof(axis_attrs),
    .specs = flatten_specs,
    .shape = flatten_shape,
    .cases = "| f32[A,B,C]; axis=0 | f32[A,B]; axis=-1 | f64[A,B,C]; axis=2 | i32[A,B]",
};

/* --- Reshape: 0 keeps a dimension (unless allowzero), one -1 takes what is left --- */

typedef struct reshape_attrs {
    mq_ints shape; /* below opset 5 */
    int64_t allow_zero;
} reshape_attrs;

static mq_code reshape_to(const mq_op_call *call, const int64_t *dims, size_t count, mq_error *err)
{
    const mq_tensor *x = call->inputs[0];
    const reshape_attrs *a = call->attrs;
    mq_shape y = {.rank = (int32_t)count};
    int32_t open = -1;
    size_t known = 1, all = mq_elements(x);
    if (count > MQ_RANK_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "rank %zu is above %d", count, MQ_RANK_MAX);
    }
    for (int32_t i = 0; i < y.rank; i++) {
        int64_t dim = dims[i];
        if (dim == 0 && !a->allow_zero) {
            if (i >= x->shape.rank) {
                return mq_fail(err, MQ_E_ARG, "shape[%d] is 0 but the input has rank %d", i,
                               x->shape.rank);
            }
            dim = x->shape.dims[i];
        }
        if (dim < -1 || dim > MQ_DIM_MAX || (dim == -1 && open >= 0)) {
            return mq_fail(err, MQ_E_ARG, "shape[%d] is %lld%s", i, (long long)dim,
                           dim == -1 ? ", and so is another" : "");
        }
        y.dims[i] = dim == -1 ? 1 : dim;
        open = dim == -1 ? i : open;
    }
    mq_code code = mq_shape_count(&y, &known, err);
    if (code != MQ_OK) {
        return code;
    }
    if (open >= 0 && known > 0) {
        y.dims[open] = (int64_t)(all / known);
        known *= (size_t)y.dims[open];
    }
    if (known != all) {
        char from[128], to[128];
        return mq_fail(err, MQ_E_ARG, "%s does not reshape to %s",
                       mq_shape_text(&x->shape, from, sizeof from),
                       mq_shape_text(&y, to, sizeof to));
    }
    call->outputs[0]->dtype = x->dtype;
    call->outputs[0]->shape = y;
    return MQ_OK;
}

static mq_code reshape_shape(const mq_op_call *call, mq_error *err)
{
    const reshape_attrs *a = call->attrs;
    if (call->input_count < 2) {
        return reshape_to(call, a->shape.at, a->shape.count, err);
    }
    int64_t dims[MQ_RANK_MAX];
    if (call->inputs[1]->dtype != MQ_DT_I64 || call->inputs[1]->shape.rank != 1) {
        return mq_fail(err, MQ_E_FORMAT, "shape must be a list of int64");
    }
    return reshape_to(call, dims, mq_tensor_ints(call->inputs[1], dims, MQ_RANK_MAX), err);
}

static const mq_attr_spec reshape_specs_1[] = {
    {.name = "shape", .type = MQ_ATTR_INTS, .offset = offsetof(reshape_attrs, shape)},
    {.name = "consumed_inputs", .type = MQ_ATTR_INTS, .offset = offsetof(reshape_attrs, shape)},
    {.name = NULL},
};

static const mq_attr_spec reshape_specs_5[] = {
    {.name = "allowzero", .type = MQ_ATTR_INT, .offset = offsetof(reshape_attrs, allow_zero)},
    {.name = NULL},
};

const mq_op mq_op_reshape_1 = {
    COMMON("Reshape", 1, 1, 1, run),
    ARGS,
    .out = {1, 1},
    .attrs_bytes = sizeof(reshape_attrs),
    .specs = reshape_specs_1,
    .shape = reshape_shape,
    .cases = "shape=(0,-1) | f32[A,B,C]",
};

const mq_op mq_op_reshape_5 = {
    COMMON("Reshape", 5, 1, 2, run),
    ARGS,
    .out = {1, 1},
    .shape_inputs = 2,
    .attrs_bytes = sizeof(reshape_attrs),
    .specs = reshape_specs_5,
    .shape = reshape_shape,
    .cases =
        "| f32[A,B,C] i64{0,-1}; | f64[A,B,C] i64{-1,1,0}; | f32[2,3,4] i64{4,6}; | f32[] i64{1}",
};

/* --- Squeeze and Unsqueeze: axes as attribute, from 13 on as input --- */

typedef struct axes_attrs {
    mq_ints axes;
} axes_attrs;

/* Bit per axis; axes outside the rank or named twice are refused. */
static mq_code axes_mask(const mq_op_call *call, int32_t rank, uint32_t *mask, bool *is_given,
                         mq_error *err)
{
    int64_t list[MQ_RANK_MAX];
    const mq_ints *attr = &((const axes_attrs *)call->attrs)->axes;
    const mq_tensor *input = mq_call_input(call, 1);
    size_t count = input != NULL ? mq_tensor_ints(input, list, MQ_RANK_MAX) : attr->count;
    *is_given = input != NULL || attr->is_given;
    *mask = 0;
    if (count > MQ_RANK_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "%zu axes, limit %d", count, MQ_RANK_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        int32_t axis;
        mq_code code = mq_axis(input != NULL ? list[i] : attr->at[i], rank, &axis, err);
        if (code != MQ_OK) {
            return code;
        }
        if ((*mask >> axis & 1) != 0) {
            return mq_fail(err, MQ_E_ARG, "axis %d is named twice", axis);
        }
        *mask |= 1u << axis;
    }
    return MQ_OK;
}

static mq_code squeeze_shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape;
    uint32_t mask;
    bool is_given;
    mq_code code = axes_mask(call, x->rank, &mask, &is_given, err);
    mq_shape y = {.rank = 0};
    for (int32_t i = 0; i < x->rank && code == MQ_OK; i++) {
        bool is_named = (mask >> i & 1) != 0;
        if (is_named && x->dims[i] != 1) {
            code = mq_fail(err, MQ_E_ARG, "dimension %d is %lld, not 1", i, (long long)x->dims[i]);
        }
        if (is_given ? !is_named : x->dims[i] != 1) {
            y.dims[y.rank++] = x->dims[i];
        }
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = y;
    return code;
}

static mq_code unsqueeze_shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape;
    const mq_tensor *input = mq_call_input(call, 1);
    const mq_ints *attr = &((const axes_attrs *)call->attrs)->axes;
    size_t more = input != NULL ? mq_elements(input) : attr->count;
    uint32_t mask;
    bool is_given;
    if (more > (size_t)(MQ_RANK_MAX - x->rank)) {
        return mq_fail(err, MQ_E_LIMIT, "rank above %d", MQ_RANK_MAX);
    }
    mq_shape y = {.rank = x->rank + (int32_t)more};
    mq_code code = axes_mask(call, y.rank, &mask, &is_given, err);
    for (int32_t i = 0, from = 0; i < y.rank && code == MQ_OK; i++) {
        y.dims[i] = (mask >> i & 1) != 0 ? 1 : x->dims[from++];
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = y;
    return code;
}

static const mq_attr_spec axes_specs[] = {
    {.name = "axes", .type = MQ_ATTR_INTS, .offset = offsetof(axes_attrs, axes)},
    {.name = NULL},
};

static const mq_attr_spec axes_required[] = {
    {.name = "axes",
     .type = MQ_ATTR_INTS,
     .offset = offsetof(axes_attrs, axes),
     .is_required = true},
    {.name = NULL},
};

const mq_op mq_op_squeeze_1 = {
    COMMON("Squeeze", 1, 1, 1, run),
    ARGS,
    .out = {1, 1},
    .attrs_bytes = sizeof(axes_attrs),
    .specs = axes_specs,
    .shape = squeeze_shape,
    .cases = "axes=(0,-1) | f32[1,A,1]; | f32[1,A,1]",
};

const mq_op mq_op_squeeze_13 = {
    COMMON("Squeeze", 13, 1, 2, run),
    ARGS,
    .out = {1, 1},
    .shape_inputs = 2,
    .attrs_bytes = sizeof(axes_attrs),
    .shape = squeeze_shape,
    .cases = "| f32[1,A,1] i64{0,2}; | i64[1,A,1]; | f32[1] i64{0}",
};

const mq_op mq_op_unsqueeze_1 = {
    COMMON("Unsqueeze", 1, 1, 1, run),
    ARGS,
    .out = {1, 1},
    .attrs_bytes = sizeof(axes_attrs),
    .specs = axes_required,
    .shape = unsqueeze_shape,
    .cases = "axes=(0,2) | f32[A,B]",
};

const mq_op mq_op_unsqueeze_13 = {
    COMMON("Unsqueeze", 13, 2, 2, run),
    ARGS,
    .out = {1, 1},
    .shape_inputs = 2,
    .attrs_bytes = sizeof(axes_attrs),
    .shape = unsqueeze_shape,
    .cases = "| f32[A,B] i64{0,-1}; | f32[] i64{0}; | u8[A] i64{1}",
};

/* --- Dropout: the identity when not training; the mask is all true --- */

typedef struct dropout_attrs {
    float ratio;
    int64_t is_test, seed;
    mq_ints consumed_inputs;
} dropout_attrs;

static mq_code dropout_shape(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *ratio = mq_call_input(call, 1), *training = mq_call_input(call, 2);
    mq_tensor *mask = mq_call_output(call, 1);
    if (training != NULL && training->bytes > 0 && *(const uint8_t *)training->data != 0 &&
        (ratio == NULL || mq_elements(ratio) != 1 || mq_element(ratio, 0) != 0.0)) {
        return mq_fail(err, MQ_E_UNSUPPORTED,
                       "training_mode is true and ratio is not 0: export for inference");
    }
    if (mask != NULL) {
        mask->dtype = call->op->since >= 10 ? MQ_DT_BOOL : call->inputs[0]->dtype;
        mask->shape = call->inputs[0]->shape;
    }
    return mq_shape_same(call, err);
}

static mq_code dropout_run(const mq_op_call *call, mq_error *err)
{
    mq_tensor *mask = mq_call_output(call, 1);
    for (size_t i = 0, n = mask == NULL ? 0 : mq_elements(mask); i < n; i++) {
        if (mask->dtype == MQ_DT_BOOL) {
            ((uint8_t *)mask->data)[i] = 1;
        } else if (mask->dtype == MQ_DT_F32) {
            ((float *)mask->data)[i] = 1.0f;
        } else {
            ((double *)mask->data)[i] = 1.0;
        }
    }
    return run(call, err);
}

static const mq_attr_spec dropout_specs[] = {
    {.name = "ratio", .type = MQ_ATTR_FLOAT, .offset = offsetof(dropout_attrs, ratio), .f = 0.5f},
    {.name = "is_test", .type = MQ_ATTR_INT, .offset = offsetof(dropout_attrs, is_test)},
    {.name = "seed", .type = MQ_ATTR_INT, .offset = offsetof(dropout_attrs, seed)},
    {.name = "consumed_inputs",
     .type = MQ_ATTR_INTS,
     .offset = offsetof(dropout_attrs, consumed_inputs)},
    {.name = NULL},
};

#define DROPOUT(symbol, since_, in_max)                                                            \
    const mq_op mq_op_##symbol = {                                                                 \
        COMMON("Dropout", since_, 1, in_max, dropout_run),                                         \
        .args = {{0, MQ_T_FLOATS}, {0, MQ_T_FLOATS | MQ_T_HALF}, {0, MQ_T_BOOL}},                  \
        .out = {1, 2},                                                                             \
        .shape_inputs = since_ >= 12 ? 6 : 0,                                                      \
        .attrs_bytes = sizeof(dropout_attrs),                                                      \
        .specs = dropout_specs,                                                                    \
        .shape = dropout_shape,                                                                    \
        .cases = "| f32[A,B]; ratio=0.1 | f64[A]",                                                 \
    }
DROPOUT(dropout_1, 1, 1);
DROPOUT(dropout_10, 10, 1);
DROPOUT(dropout_12, 12, 3);

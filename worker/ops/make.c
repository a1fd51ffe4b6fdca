/* Operators that make tensors out of attributes or shapes: Constant, ConstantOfShape, Shape, Size,
 * Range. */
#include "worker/ops/copy.h"

#define ANY_TYPE (MQ_T_FIXED | MQ_T(MQ_DT_STR))

/* --- Constant: exactly one of its attributes --- */

typedef struct constant_attrs {
    const mq_init *value;
    mq_floats floats;
    mq_ints ints;
    float f;
    int64_t i;
    bool is_float, is_int;
} constant_attrs;

static mq_code constant_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)opset;
    constant_attrs *a = attrs;
    a->is_float = mq_node_attr(node, "value_float") != NULL;
    a->is_int = mq_node_attr(node, "value_int") != NULL;
    if (node->attr_count != 1) {
        return mq_fail(err, MQ_E_FORMAT, "%u attributes where one value is due", node->attr_count);
    }
    return MQ_OK;
}

/* The value as a tensor that borrows from the attributes. */
static mq_tensor constant_value(const constant_attrs *a)
{
    if (a->value != NULL) {
        return a->value->tensor;
    }
    if (a->floats.is_given) {
        return (mq_tensor){MQ_DT_F32,
                           {1, {(int64_t)a->floats.count}},
                           (void *)(uintptr_t)a->floats.at,
                           a->floats.count * sizeof(float)};
    }
    if (a->ints.is_given) {
        return (mq_tensor){MQ_DT_I64,
                           {1, {(int64_t)a->ints.count}},
                           (void *)(uintptr_t)a->ints.at,
                           a->ints.count * sizeof(int64_t)};
    }
    if (a->is_float) {
        return (mq_tensor){MQ_DT_F32, {.rank = 0}, (void *)(uintptr_t)&a->f, sizeof a->f};
    }
    return (mq_tensor){MQ_DT_I64, {.rank = 0}, (void *)(uintptr_t)&a->i, sizeof a->i};
}

static mq_code constant_shape(const mq_op_call *call, mq_error *err)
{
    (void)err;
    mq_tensor value = constant_value(call->attrs);
    call->outputs[0]->dtype = value.dtype;
    call->outputs[0]->shape = value.shape;
    return MQ_OK;
}

static mq_code constant_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    mq_tensor value = constant_value(call->attrs);
    if (value.bytes > 0) {
        memcpy(call->outputs[0]->data, value.data, value.bytes);
    }
    return MQ_OK;
}

static const mq_attr_spec constant_specs[] = {
    {.name = "value", .type = MQ_ATTR_TENSOR, .offset = offsetof(constant_attrs, value)},
    {.name = "value_float", .type = MQ_ATTR_FLOAT, .offset = offsetof(constant_attrs, f)},
    {.name = "value_floats", .type = MQ_ATTR_FLOATS, .offset = offsetof(constant_attrs, floats)},
    {.name = "value_int", .type = MQ_ATTR_INT, .offset = offsetof(constant_attrs, i)},
    {.name = "value_ints", .type = MQ_ATTR_INTS, .offset = offsetof(constant_attrs, ints)},
    {.name = NULL},
};

const mq_op mq_op_constant = {
    .name = "Constant",
    .domain = "",
    .since = 1,
    .in = {0, 0},
    .out = {1, 1},
    .attrs_bytes = sizeof(constant_attrs),
    .specs = constant_specs,
    .parse = constant_parse,
    .shape = constant_shape,
    .run = constant_run,
    .cases = "value_int=7 |; value_ints=(1,2,3) |; value_float=0.5 |",
};

/* --- ConstantOfShape --- */

typedef struct fill_attrs {
    const mq_init *value; /* default: float32 0 */
} fill_attrs;

static mq_code fill_shape(const mq_op_call *call, mq_error *err)
{
    const fill_attrs *a = call->attrs;
    mq_shape y = {.rank = 0};
    size_t rank = mq_tensor_ints(call->inputs[0], y.dims, MQ_RANK_MAX);
    if (rank > MQ_RANK_MAX || (a->value != NULL && mq_elements(&a->value->tensor) != 1)) {
        return mq_fail(err, MQ_E_ARG, "rank %zu is above %d, or value has not one element", rank,
                       MQ_RANK_MAX);
    }
    y.rank = (int32_t)rank;
    call->outputs[0]->dtype = a->value == NULL ? MQ_DT_F32 : a->value->tensor.dtype;
    call->outputs[0]->shape = y;
    return MQ_OK;
}

static mq_code fill_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const fill_attrs *a = call->attrs;
    mq_tensor *y = call->outputs[0];
    size_t each = mq_each(y), count = mq_elements(y);
    static const uint8_t zero[16];
    const void *value = a->value == NULL ? zero : a->value->tensor.data;
    for (size_t i = 0; i < count; i++) {
        memcpy((uint8_t *)y->data + i * each, value, each);
    }
    return MQ_OK;
}

static const mq_attr_spec fill_specs[] = {
    {.name = "value", .type = MQ_ATTR_TENSOR, .offset = offsetof(fill_attrs, value)},
    {.name = NULL},
};

const mq_op mq_op_constant_of_shape = {
    .name = "ConstantOfShape",
    .domain = "",
    .since = 9,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{0, MQ_T(MQ_DT_I64)}},
    .shape_inputs = 1,
    .attrs_bytes = sizeof(fill_attrs),
    .specs = fill_specs,
    .shape = fill_shape,
    .run = fill_run,
    .cases = "| i64{2,3}; | i64{0,4}",
};

/* --- Shape and Size: known as soon as the input's shape is --- */

typedef struct shape_attrs {
    int64_t start, end; /* from opset 15 on */
} shape_attrs;

static void shape_range(const mq_op_call *call, int32_t *from, int32_t *to)
{
    const shape_attrs *a = call->attrs;
    int64_t rank = call->inputs[0]->shape.rank;
    int64_t start = a->start < 0 ? a->start + rank : a->start;
    int64_t end = a->end < 0 ? a->end + rank : a->end;
    start = start < 0 ? 0 : start > rank ? rank : start;
    end = end < start ? start : end > rank ? rank : end;
    *from = (int32_t)start;
    *to = (int32_t)end;
}

static mq_code shape_shape(const mq_op_call *call, mq_error *err)
{
    (void)err;
    int32_t from, to;
    shape_range(call, &from, &to);
    call->outputs[0]->dtype = MQ_DT_I64;
    call->outputs[0]->shape = (mq_shape){1, {to - from}};
    return MQ_OK;
}

static mq_code shape_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    int32_t from, to;
    shape_range(call, &from, &to);
    for (int32_t i = from; i < to; i++) {
        ((int64_t *)call->outputs[0]->data)[i - from] = call->inputs[0]->shape.dims[i];
    }
    return MQ_OK;
}

static const mq_attr_spec shape_specs[] = {
    {.name = "start", .type = MQ_ATTR_INT, .offset = offsetof(shape_attrs, start)},
    {.name = "end", .type = MQ_ATTR_INT, .offset = offsetof(shape_attrs, end), .i = INT32_MAX},
    {.name = NULL},
};

const mq_op mq_op_shape_of = {
    .name = "Shape",
    .domain = "",
    .since = 1,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{0, ANY_TYPE}},
    .flags = MQ_OP_OF_SHAPE,
    .attrs_bytes = sizeof(shape_attrs),
    .specs = shape_specs,
    .shape = shape_shape,
    .run = shape_run,
    .cases = "| f32[A,B]; start=1 end=-1 | f32[A,B,C]; | u8[]",
};

static mq_code size_shape(const mq_op_call *call, mq_error *err)
{
    (void)err;
    call->outputs[0]->dtype = MQ_DT_I64;
    call->outputs[0]->shape = (mq_shape){.rank = 0};
    return MQ_OK;
}

static mq_code size_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    *(int64_t *)call->outputs[0]->data = (int64_t)mq_elements(call->inputs[0]);
    return MQ_OK;
}

const mq_op mq_op_size = {
    .name = "Size",
    .domain = "",
    .since = 1,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{0, ANY_TYPE}},
    .flags = MQ_OP_OF_SHAPE,
    .shape = size_shape,
    .run = size_run,
    .cases = "| f32[A,B]; | i64[]",
};

/* --- Range: start, start + delta, ... below (or above) limit --- */

static mq_code range_count(const mq_op_call *call, int64_t *count, mq_error *err)
{
    double v[3];
    for (uint32_t i = 0; i < 3; i++) {
        const mq_tensor *t = call->inputs[i];
        if (mq_elements(t) != 1) {
            return mq_fail(err, MQ_E_ARG, "input %u must be one number", i);
        }
        v[i] = t->dtype == MQ_DT_F32   ? (double)*(const float *)t->data
               : t->dtype == MQ_DT_F64 ? *(const double *)t->data
               : t->dtype == MQ_DT_I64 ? (double)*(const int64_t *)t->data
               : t->dtype == MQ_DT_I32 ? (double)*(const int32_t *)t->data
                                       : (double)*(const int16_t *)t->data;
    }
    double steps = ceil((v[1] - v[0]) / v[2]);
    if (!(steps <= (double)MQ_DIM_MAX)) {
        return mq_fail(err, MQ_E_ARG, "range from %g to %g by %g", v[0], v[1], v[2]);
    }
    *count = steps > 0.0 ? (int64_t)steps : 0;
    return MQ_OK;
}

static mq_code range_shape(const mq_op_call *call, mq_error *err)
{
    int64_t count = 0;
    mq_code code = range_count(call, &count, err);
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = (mq_shape){1, {count}};
    return code;
}

#define RANGE_OF(type)                                                                             \
    for (int64_t i = 0; i < count; i++) {                                                          \
        ((type *)y)[i] = (type)(*(const type *)start + (type)i * *(const type *)delta);            \
    }

static mq_code range_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    int64_t count = call->outputs[0]->shape.dims[0];
    const void *start = call->inputs[0]->data, *delta = call->inputs[2]->data;
    void *y = call->outputs[0]->data;
    switch ((int)call->inputs[0]->dtype) {
    case MQ_DT_F32:
        RANGE_OF(float)
        break;
    case MQ_DT_F64:
        RANGE_OF(double)
        break;
    case MQ_DT_I32:
        RANGE_OF(int32_t)
        break;
    case MQ_DT_I64:
        RANGE_OF(int64_t)
        break;
    default:
        RANGE_OF(int16_t)
        break;
    }
    return MQ_OK;
}

const mq_op mq_op_range = {
    .name = "Range",
    .domain = "",
    .since = 11,
    .in = {3, 3},
    .out = {1, 1},
    .args = {{'T', MQ_T_FLOATS | MQ_T_INDEX | MQ_T(MQ_DT_I16)}},
    .shape_inputs = 7,
    .shape = range_shape,
    .run = range_run,
    .cases = "| f32{1} f32{7} f32{2}; | i64{10} i64{0} i64{-3}; | i32{3} i32{3} i32{1}",
};

/* TopK: the k largest or smallest along an axis, equal ones by their position.
 * onnx.ai/onnx/operators/onnx__TopK.html */
#include "worker/ops/order.h"

typedef struct topk_attrs {
    int64_t axis, k, largest, sorted;
} topk_attrs;

typedef struct topk_place {
    const mq_tensor *x;
    size_t base, stride;
    bool is_largest;
} topk_place;

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const topk_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *count = mq_call_input(call, 1);
    int64_t k = a->k;
    int32_t axis = 0;
    mq_code code = mq_axis(a->axis, x->shape.rank, &axis, err);
    if (code != MQ_OK) {
        return code;
    }
    if (count != NULL) {
        if (mq_elements(count) != 1) {
            return mq_fail(err, MQ_E_ARG, "k must be one number");
        }
        k = mq_element_int(count, 0);
    }
    if (k < 0 || k > x->shape.dims[axis]) {
        return mq_fail(err, MQ_E_ARG, "k is %lld where axis %d has %lld elements", (long long)k,
                       axis, (long long)x->shape.dims[axis]);
    }
    for (uint32_t i = 0; i < call->output_count; i++) {
        mq_tensor *y = call->outputs[i];
        if (y != NULL) {
            y->dtype = i == 0 ? x->dtype : MQ_DT_I64;
            y->shape = x->shape;
            y->shape.dims[axis] = k;
        }
    }
    return MQ_OK;
}

static size_t axis_length(const mq_op_call *call)
{
    const topk_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    return (size_t)x->dims[a->axis < 0 ? a->axis + x->rank : a->axis];
}

static size_t scratch(const mq_op_call *call)
{
    return 2 * axis_length(call) * sizeof(size_t);
}

static int order(const void *arg, size_t a, size_t b)
{
    const topk_place *p = arg;
    int c = mq_element_compare(p->x, p->base + a * p->stride, p->base + b * p->stride);
    return p->is_largest ? -c : c;
}

static void put(const mq_op_call *call, size_t at, size_t from, size_t index)
{
    mq_tensor *values = mq_call_output(call, 0), *indices = mq_call_output(call, 1);
    size_t each = mq_dtype_bytes(call->inputs[0]->dtype);
    if (values != NULL) {
        memcpy((uint8_t *)values->data + at * each,
               (const uint8_t *)call->inputs[0]->data + from * each, each);
    }
    if (indices != NULL) {
        ((int64_t *)indices->data)[at] = (int64_t)index;
    }
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const topk_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    const mq_tensor *y = call->outputs[0] != NULL ? call->outputs[0] : mq_call_output(call, 1);
    int32_t axis = (int32_t)(a->axis < 0 ? a->axis + x->shape.rank : a->axis);
    size_t n = axis_length(call), stride = mq_dims_product(&x->shape, axis + 1, x->shape.rank);
    size_t outer = mq_dims_product(&x->shape, 0, axis), k = (size_t)y->shape.dims[axis];
    size_t *indices = call->scratch, *spare = indices + n;
    for (size_t o = 0; o < outer * stride; o++) {
        size_t row = o / stride, column = o % stride;
        topk_place p = {x, row * n * stride + column, stride, a->largest != 0};
        for (size_t i = 0; i < n; i++) {
            indices[i] = i;
        }
        mq_sort_indices(indices, spare, n, order, &p);
        for (size_t i = 0; i < k; i++) {
            put(call, (row * k + i) * stride + column, p.base + indices[i] * stride, indices[i]);
        }
    }
    return MQ_OK;
}

#define TOPK_INT(name_, value_)                                                                    \
    {                                                                                              \
        .name = #name_, .type = MQ_ATTR_INT, .offset = offsetof(topk_attrs, name_), .i = (value_)  \
    }
static const mq_attr_spec specs_1[] = {
    TOPK_INT(axis, -1),
    {.name = "k", .type = MQ_ATTR_INT, .offset = offsetof(topk_attrs, k), .is_required = true},
    {.name = NULL},
};
static const mq_attr_spec specs_10[] = {
    TOPK_INT(axis, -1),
    TOPK_INT(largest, 1),
    TOPK_INT(sorted, 1),
    {.name = NULL},
};

static mq_code parse_1(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    (void)err;
    ((topk_attrs *)attrs)->largest = 1;
    return MQ_OK;
}

const mq_op mq_op_topk_1 = {
    .name = "TopK",
    .domain = "",
    .since = 1,
    .in = {1, 1},
    .out = {1, 2},
    .args = {{0, MQ_T_NUMBERS | MQ_T_HALF}},
    .attrs_bytes = sizeof(topk_attrs),
    .specs = specs_1,
    .parse = parse_1,
    .shape = shape,
    .scratch = scratch,
    .run = run,
    .cases = "k=2 axis=1 | f32[A,5]; k=1 | f64[A,3]",
};

const mq_op mq_op_topk_10 = {
    .name = "TopK",
    .domain = "",
    .since = 10,
    .in = {2, 2},
    .out = {1, 2},
    .args = {{0, MQ_T_NUMBERS | MQ_T_HALF}, {0, MQ_T(MQ_DT_I64)}},
    .shape_inputs = 2,
    .attrs_bytes = sizeof(topk_attrs),
    .specs = specs_10,
    .shape = shape,
    .scratch = scratch,
    .run = run,
    .cases = "| f32[A,5] i64{3}; axis=0 largest=0 | i32[6,B] i64{2}; axis=-2 | u64[A,4,C] i64{4}; "
             "| f32[A,3] i64{0}",
};

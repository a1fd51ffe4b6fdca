/* CenterCropPad, Col2Im, MaxUnpool, ReverseSequence, TensorScatter: elements put elsewhere.
 * onnx.ai/onnx/operators/onnx__Col2Im.html and the pages of the others */
#include "worker/ops/copy.h"
#include "worker/ops/element.h"

#define ANY_TYPE (MQ_T_FIXED | MQ_T(MQ_DT_STR))

static void copy_element(const mq_tensor *to, size_t i, const mq_tensor *from, size_t k)
{
    size_t each = mq_each(from);
    memcpy((uint8_t *)to->data + i * each, (const uint8_t *)from->data + k * each, each);
}

static void fill_zero(const mq_tensor *t)
{
    if (mq_elements(t) > 0) {
        memset(t->data, 0, mq_elements(t) * mq_each(t));
    }
}

/* --- CenterCropPad --- */

typedef struct crop_attrs {
    mq_ints axes;
} crop_attrs;

static mq_code crop_shape(const mq_op_call *call, mq_error *err)
{
    const crop_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    int64_t sizes[MQ_RANK_MAX];
    bool is_seen[MQ_RANK_MAX] = {false};
    size_t count = mq_tensor_ints(call->inputs[1], sizes, MQ_RANK_MAX);
    if (count != (a->axes.is_given ? a->axes.count : (size_t)x->rank) || count > (size_t)x->rank) {
        return mq_fail(err, MQ_E_ARG, "shape has %zu entries, axes another number", count);
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = *x;
    for (size_t i = 0; i < count; i++) {
        int32_t axis = (int32_t)i;
        mq_code code = a->axes.is_given ? mq_axis(a->axes.at[i], x->rank, &axis, err) : MQ_OK;
        if (code == MQ_OK && is_seen[axis]) {
            code = mq_fail(err, MQ_E_FORMAT, "axis %d comes twice", axis);
        }
        if (code != MQ_OK) {
            return code;
        }
        is_seen[axis] = true;
        call->outputs[0]->shape.dims[axis] = sizes[i];
    }
    return MQ_OK;
}

static mq_code crop_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    int64_t index[MQ_RANK_MAX] = {0}, shift[MQ_RANK_MAX];
    size_t count = mq_elements(y), i = 0;
    for (int32_t d = 0; d < x->shape.rank; d++) { /* position in y plus shift: position in x */
        int64_t more = x->shape.dims[d] - y->shape.dims[d];
        shift[d] = more >= 0 ? more / 2 : -(-more / 2);
    }
    fill_zero(y);
    for (; i < count; i++) {
        size_t at = 0;
        bool is_inside = true;
        for (int32_t d = 0; d < x->shape.rank; d++) {
            int64_t k = index[d] + shift[d];
            is_inside = is_inside && k >= 0 && k < x->shape.dims[d];
            at = at * (size_t)x->shape.dims[d] + (size_t)(is_inside ? k : 0);
        }
        if (is_inside) {
            copy_element(y, i, x, at);
        }
        mq_next_index(&y->shape, index);
    }
    return MQ_OK;
}

static const mq_attr_spec crop_specs[] = {
    {.name = "axes", .type = MQ_ATTR_INTS, .offset = offsetof(crop_attrs, axes)},
    {.name = NULL},
};

const mq_op mq_op_center_crop_pad = {
    .name = "CenterCropPad",
    .domain = "",
    .since = 18,
    .in = {2, 2},
    .out = {1, 1},
    .args = {{0, ANY_TYPE}, {0, MQ_T_INDEX}},
    .shape_inputs = 2,
    .attrs_bytes = sizeof(crop_attrs),
    .specs = crop_specs,
    .shape = crop_shape,
    .run = crop_run,
    .cases = "| f32[5,4,3] i64{2,7,3}; axes=(-1,0) | u8[4,3,2] i32{5,1}",
};

/* --- ReverseSequence: the first lens[b] steps of every batch, backwards --- */

typedef struct reverse_attrs {
    int64_t batch_axis, time_axis;
} reverse_attrs;

static mq_code reverse_shape(const mq_op_call *call, mq_error *err)
{
    const reverse_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *n = &call->inputs[1]->shape;
    if (x->rank < 2 || a->batch_axis + a->time_axis != 1 || a->batch_axis < 0 ||
        a->batch_axis > 1) {
        return mq_fail(err, MQ_E_ARG, "batch_axis and time_axis must be 0 and 1, in either order");
    }
    if (n->rank != 1 || n->dims[0] != x->dims[a->batch_axis]) {
        return mq_fail(err, MQ_E_ARG, "sequence_lens must have one entry for each of the batch");
    }
    return mq_shape_same(call, err);
}

static mq_code reverse_run(const mq_op_call *call, mq_error *err)
{
    const reverse_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    size_t rows = (size_t)x->shape.dims[0], columns = (size_t)x->shape.dims[1];
    size_t bytes = mq_dims_product(&x->shape, 2, x->shape.rank) * mq_each(x);
    int64_t steps = x->shape.dims[a->time_axis];
    for (size_t i = 0; i < rows * columns; i++) {
        int64_t b = (int64_t)(a->batch_axis == 0 ? i / columns : i % columns);
        int64_t t = (int64_t)(a->batch_axis == 0 ? i % columns : i / columns);
        int64_t n = mq_element_int(call->inputs[1], (size_t)b);
        if (n < 0 || n > steps) {
            return mq_fail(err, MQ_E_ARG, "sequence_lens[%lld] is %lld of %lld", (long long)b,
                           (long long)n, (long long)steps);
        }
        size_t from = (size_t)(t < n ? n - 1 - t : t);
        from = a->batch_axis == 0 ? (size_t)b * columns + from : from * columns + (size_t)b;
        if (bytes > 0) {
            memcpy((uint8_t *)call->outputs[0]->data + i * bytes,
                   (const uint8_t *)x->data + from * bytes, bytes);
        }
    }
    return MQ_OK;
}

static const mq_attr_spec reverse_specs[] = {
    {.name = "batch_axis",
     .type = MQ_ATTR_INT,
     .offset = offsetof(reverse_attrs, batch_axis),
     .i = 1},
    {.name = "time_axis", .type = MQ_ATTR_INT, .offset = offsetof(reverse_attrs, time_axis)},
    {.name = NULL},
};

const mq_op mq_op_reverse_sequence = {
    .name = "ReverseSequence",
    .domain = "",
    .since = 10,
    .in = {2, 2},
    .out = {1, 1},
    .args = {{0, ANY_TYPE}, {0, MQ_T(MQ_DT_I64)}},
    .attrs_bytes = sizeof(reverse_attrs),
    .specs = reverse_specs,
    .shape = reverse_shape,
    .run = reverse_run,
    .cases = "| f32[4,2,A] i64{3,4}; batch_axis=0 time_axis=1 | u8[3,5] i64{0,1,5}",
};

/* --- TensorScatter: rows of a cache overwritten from an index on --- */

typedef struct cache_attrs {
    int64_t axis;
    mq_span mode;
    bool is_circular;
} cache_attrs;

static mq_code cache_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    cache_attrs *a = attrs;
    a->is_circular = mq_span_is(a->mode, "circular");
    return a->is_circular || mq_span_is(a->mode, "linear")
               ? MQ_OK
               : mq_fail(err, MQ_E_UNSUPPORTED, "mode is neither linear nor circular");
}

static mq_code cache_shape(const mq_op_call *call, mq_error *err)
{
    const cache_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *u = &call->inputs[1]->shape;
    const mq_tensor *at = mq_call_input(call, 2);
    int32_t axis = 0;
    mq_code code = mq_axis(a->axis, x->rank, &axis, err);
    if (code == MQ_OK && (axis == 0 || u->rank != x->rank)) {
        code = mq_fail(err, MQ_E_ARG, "axis 0 is the batch; update must have rank %d", x->rank);
    }
    for (int32_t d = 0; d < x->rank && code == MQ_OK; d++) {
        if (d == axis ? u->dims[d] > x->dims[d] : u->dims[d] != x->dims[d]) {
            code = mq_fail(err, MQ_E_ARG, "update does not fit past_cache in dimension %d", d);
        }
    }
    if (code == MQ_OK && at != NULL && (at->shape.rank != 1 || at->shape.dims[0] != x->dims[0])) {
        code = mq_fail(err, MQ_E_ARG, "write_indices must be [batch]");
    }
    return code == MQ_OK ? mq_shape_same(call, err) : code;
}

static mq_code cache_run(const mq_op_call *call, mq_error *err)
{
    const cache_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *u = call->inputs[1], *y = call->outputs[0];
    const mq_tensor *starts = mq_call_input(call, 2);
    int32_t axis = (int32_t)(a->axis < 0 ? a->axis + x->shape.rank : a->axis);
    size_t bytes = mq_dims_product(&x->shape, axis + 1, x->shape.rank) * mq_each(x);
    size_t outer = mq_dims_product(&x->shape, 0, axis);
    size_t per_batch = mq_dims_product(&x->shape, 1, axis);
    int64_t room = x->shape.dims[axis], steps = u->shape.dims[axis];
    if (mq_elements(x) > 0 && y->data != x->data) {
        memcpy(y->data, x->data, mq_elements(x) * mq_each(x));
    }
    for (size_t o = 0; o < outer && bytes > 0; o++) {
        int64_t start = starts == NULL ? 0 : mq_element_int(starts, o / per_batch);
        if (start < 0 || start > (a->is_circular ? MQ_DIM_MAX : room - steps)) {
            return mq_fail(err, MQ_E_ARG, "write_indices[%zu] is %lld: %lld rows of %lld",
                           o / per_batch, (long long)start, (long long)steps, (long long)room);
        }
        for (int64_t i = 0; i < steps; i++) {
            size_t to = o * (size_t)room + (size_t)((start + i) % room);
            memcpy((uint8_t *)y->data + to * bytes,
                   (const uint8_t *)u->data + (o * (size_t)steps + (size_t)i) * bytes, bytes);
        }
    }
    return MQ_OK;
}

static const mq_attr_spec cache_specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(cache_attrs, axis), .i = -2},
    {.name = "mode", .type = MQ_ATTR_STRING, .offset = offsetof(cache_attrs, mode), .s = "linear"},
    {.name = NULL},
};

const mq_op mq_op_tensor_scatter = {
    .name = "TensorScatter",
    .domain = "",
    .since = 24,
    .in = {2, 3},
    .out = {1, 1},
    .args = {{'T', ANY_TYPE}, {'T', ANY_TYPE}, {0, MQ_T(MQ_DT_I64)}},
    .attrs_bytes = sizeof(cache_attrs),
    .specs = cache_specs,
    .parse = cache_parse,
    .shape = cache_shape,
    .run = cache_run,
    .cases = "| f32[2,A,6,C] f32[2,A,2,C] i64{1,4}; mode=circular axis=1 | "
             "f32[2,4,C] f32[2,3,C] i64{3,2}; | u8[2,4,3] u8[2,4,3]",
};

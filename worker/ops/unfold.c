/* Col2Im and MaxUnpool: blocks and maxima put back where they were taken from.
 * onnx.ai/onnx/operators/onnx__Col2Im.html, onnx__MaxUnpool.html */
#include "worker/ops/copy.h"
#include "worker/ops/element.h"
#include "worker/ops/window.h"

static int64_t ints_at(const mq_ints *list, size_t i, int64_t otherwise)
{
    return list->is_given && i < list->count ? list->at[i] : otherwise;
}

static bool is_small(int64_t v, int64_t from)
{
    return v >= from && v <= MQ_DIM_MAX;
}

/* --- Col2Im: overlapping blocks are added up --- */

typedef struct image {
    int32_t axes;
    int64_t size[MQ_WINDOW_AXES_MAX], block[MQ_WINDOW_AXES_MAX], steps[MQ_WINDOW_AXES_MAX];
    int64_t stride[MQ_WINDOW_AXES_MAX], dilation[MQ_WINDOW_AXES_MAX], begin[MQ_WINDOW_AXES_MAX];
    int64_t block_count, step_count;
} image;

static mq_code image_axis(const mq_window_attrs *a, image *m, size_t i, mq_error *err)
{
    int64_t end = ints_at(&a->pads, i + (size_t)m->axes, 0);
    m->stride[i] = ints_at(&a->strides, i, 1);
    m->dilation[i] = ints_at(&a->dilations, i, 1);
    m->begin[i] = ints_at(&a->pads, i, 0);
    if (!is_small(m->size[i], 1) || !is_small(m->block[i], 1) || !is_small(m->stride[i], 1) ||
        !is_small(m->dilation[i], 1) || !is_small(m->begin[i], 0) || !is_small(end, 0) ||
        m->block[i] > MQ_DIM_MAX / m->dilation[i]) {
        return mq_fail(err, MQ_E_ARG, "axis %zu: sizes, strides, dilations above 0, pads not below",
                       i);
    }
    int64_t span = m->size[i] + m->begin[i] + end - m->dilation[i] * (m->block[i] - 1) - 1;
    m->steps[i] = span < 0 ? 0 : span / m->stride[i] + 1;
    if (span < 0 || m->block_count > MQ_DIM_MAX / m->block[i] ||
        m->step_count > MQ_DIM_MAX / m->steps[i]) {
        return mq_fail(err, MQ_E_ARG, "axis %zu: the block does not fit the image", i);
    }
    m->block_count *= m->block[i];
    m->step_count *= m->steps[i];
    return MQ_OK;
}

static mq_code image_of(const mq_op_call *call, image *m, mq_error *err)
{
    const mq_window_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    size_t axes = mq_tensor_ints(call->inputs[1], m->size, MQ_WINDOW_AXES_MAX);
    if (axes < 1 || axes > MQ_WINDOW_AXES_MAX ||
        mq_tensor_ints(call->inputs[2], m->block, MQ_WINDOW_AXES_MAX) != axes || x->rank != 3) {
        return mq_fail(err, MQ_E_ARG,
                       "input must be [N, C * block, L]; image_shape and block_shape of one "
                       "length, 1 to %d",
                       MQ_WINDOW_AXES_MAX);
    }
    m->axes = (int32_t)axes;
    m->block_count = m->step_count = 1;
    mq_code code = MQ_OK;
    for (size_t i = 0; i < axes && code == MQ_OK; i++) {
        code = image_axis(a, m, i, err);
    }
    if (code == MQ_OK && (x->dims[1] % m->block_count != 0 || x->dims[2] != m->step_count)) {
        code = mq_fail(err, MQ_E_ARG,
                       "input [.., %lld, %lld] where blocks of %lld at %lld places "
                       "are due",
                       (long long)x->dims[1], (long long)x->dims[2], (long long)m->block_count,
                       (long long)m->step_count);
    }
    return code;
}

static mq_code image_shape(const mq_op_call *call, mq_error *err)
{
    image m = {0};
    mq_code code = image_of(call, &m, err);
    if (code == MQ_OK) {
        const mq_shape *x = &call->inputs[0]->shape;
        mq_shape y = {.rank = m.axes + 2, .dims = {x->dims[0], x->dims[1] / m.block_count}};
        memcpy(y.dims + 2, m.size, (size_t)m.axes * sizeof *m.size);
        call->outputs[0]->dtype = call->inputs[0]->dtype;
        call->outputs[0]->shape = y;
    }
    return code;
}

/* Offset in the image of element k of the block at step s, or -1. */
static int64_t image_at(const image *m, int64_t k, int64_t s)
{
    int64_t at = 0, scale = 1;
    for (int32_t d = m->axes - 1; d >= 0; d--) {
        int64_t position =
            s % m->steps[d] * m->stride[d] + k % m->block[d] * m->dilation[d] - m->begin[d];
        if (position < 0 || position >= m->size[d]) {
            return -1;
        }
        at += position * scale;
        scale *= m->size[d];
        s /= m->steps[d];
        k /= m->block[d];
    }
    return at;
}

static mq_code image_run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    image m = {0};
    mq_code code = image_of(call, &m, err);
    if (code != MQ_OK || mq_elements(y) == 0) {
        return code;
    }
    memset(y->data, 0, mq_elements(y) * mq_dtype_bytes(y->dtype));
    size_t area = mq_dims_product(&y->shape, 2, y->shape.rank);
    int64_t rows = x->shape.dims[0] * x->shape.dims[1];
    for (int64_t row = 0; row < rows; row++) {
        size_t plane = (size_t)(row / m.block_count) * area;
        for (int64_t s = 0; s < m.step_count; s++) {
            int64_t to = image_at(&m, row % m.block_count, s);
            size_t from = (size_t)(row * m.step_count + s);
            if (to >= 0 && mq_is_float(x->dtype)) {
                mq_element_set(y, plane + (size_t)to,
                               mq_element(y, plane + (size_t)to) + mq_element(x, from));
            } else if (to >= 0) {
                uint64_t sum = (uint64_t)mq_element_int(y, plane + (size_t)to) +
                               (uint64_t)mq_element_int(x, from);
                mq_element_set_int(y, plane + (size_t)to, (int64_t)sum);
            }
        }
    }
    return MQ_OK;
}

static const mq_attr_spec image_specs[] = {
    MQ_WINDOW_INTS(dilations), MQ_WINDOW_INTS(pads), MQ_WINDOW_INTS(strides), {.name = NULL}};

const mq_op mq_op_col2im = {
    .name = "Col2Im",
    .domain = "",
    .since = 18,
    .in = {3, 3},
    .out = {1, 1},
    .args = {{0, MQ_T_NUMBERS | MQ_T_HALF}, {0, MQ_T(MQ_DT_I64)}},
    .shape_inputs = 6,
    .attrs_bytes = sizeof(mq_window_attrs),
    .specs = image_specs,
    .shape = image_shape,
    .run = image_run,
    .cases = "strides=(1,5) | f32[A,10,4] i64{2,10} i64{1,5}; strides=(2,2) pads=(1,0,1,0) | "
             "f64[1,8,6] i64{4,4} "
             "i64{2,2}; dilations=(2) | i32[1,2,3] i64{5} i64{2}",
};

/* --- MaxUnpool --- */

static mq_code unpool_inferred(const mq_op_call *call, mq_shape *y, mq_error *err)
{
    const mq_window_attrs *a = call->attrs;
    *y = call->inputs[0]->shape;
    size_t axes = a->kernel_shape.count;
    if (y->rank < 3 || axes != (size_t)y->rank - 2 || !mq_shape_eq(&call->inputs[1]->shape, y) ||
        (a->pads.is_given && a->pads.count != 2 * axes) ||
        (a->strides.is_given && a->strides.count != axes)) {
        return mq_fail(err, MQ_E_ARG,
                       "X and I must be equal in shape, with an entry of "
                       "kernel_shape, strides, pads for each spatial axis");
    }
    for (size_t i = 0; i < axes; i++) {
        int64_t stride = ints_at(&a->strides, i, 1), kernel = a->kernel_shape.at[i];
        int64_t begin = ints_at(&a->pads, i, 0), end = ints_at(&a->pads, i + axes, 0);
        if (!is_small(stride, 1) || !is_small(kernel, 1) || !is_small(begin, 0) ||
            !is_small(end, 0)) {
            return mq_fail(err, MQ_E_ARG, "axis %zu: kernel and stride above 0, pads not below", i);
        }
        y->dims[2 + i] = (y->dims[2 + i] - 1) * stride - begin - end + kernel;
    }
    size_t count;
    return mq_shape_count(y, &count, err);
}

static mq_code unpool_shape(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *wanted = mq_call_input(call, 2);
    mq_shape inferred = {.rank = 0}, y;
    mq_code code = unpool_inferred(call, &inferred, err);
    y = inferred;
    if (code == MQ_OK && wanted != NULL) {
        size_t rank = mq_tensor_ints(wanted, y.dims, MQ_RANK_MAX);
        for (int32_t d = 0; d < y.rank && code == MQ_OK; d++) {
            if (rank != (size_t)y.rank || y.dims[d] < inferred.dims[d]) {
                code = mq_fail(err, MQ_E_ARG, "output_shape is smaller than what is put back");
            }
        }
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = y;
    return code;
}

static mq_code unpool_run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    mq_shape inferred = {.rank = 0};
    mq_code code = unpool_inferred(call, &inferred, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_tensor whole = {.shape = inferred};
    int64_t count = (int64_t)mq_elements(&whole);
    if (mq_elements(y) > 0) {
        memset(y->data, 0, mq_elements(y) * mq_dtype_bytes(y->dtype));
    }
    for (size_t i = 0; i < mq_elements(x); i++) {
        int64_t at = mq_element_int(call->inputs[1], i), rest = at;
        if (at < 0 || at >= count) {
            return mq_fail(err, MQ_E_ARG, "index %lld of %lld", (long long)at, (long long)count);
        }
        size_t to = 0, scale = 1;
        for (int32_t d = inferred.rank - 1; d >= 0; d--) { /* the output may be larger */
            to += (size_t)(rest % inferred.dims[d]) * scale;
            rest /= inferred.dims[d];
            scale *= (size_t)y->shape.dims[d];
        }
        size_t each = mq_dtype_bytes(x->dtype);
        memcpy((uint8_t *)y->data + to * each, (const uint8_t *)x->data + i * each, each);
    }
    return MQ_OK;
}

static const mq_attr_spec unpool_specs[] = {{.name = "kernel_shape",
                                             .type = MQ_ATTR_INTS,
                                             .offset = offsetof(mq_window_attrs, kernel_shape),
                                             .is_required = true},
                                            MQ_WINDOW_INTS(pads),
                                            MQ_WINDOW_INTS(strides),
                                            {.name = NULL}};

const mq_op mq_op_max_unpool = {
    .name = "MaxUnpool",
    .domain = "",
    .since = 9,
    .in = {2, 3},
    .out = {1, 1},
    .args = {{0, MQ_T_NUMBERS | MQ_T_HALF}, {0, MQ_T(MQ_DT_I64)}},
    .shape_inputs = 4,
    .attrs_bytes = sizeof(mq_window_attrs),
    .specs = unpool_specs,
    .shape = unpool_shape,
    .run = unpool_run,
    .cases = "kernel_shape=(2,2) strides=(2,2) | f32[1,1,2,2] i64[1,1,2,2]+; kernel_shape=(2) "
             "strides=(2) | f64[2,2,3] i64[2,2,3]+ i64{2,2,7}",
};

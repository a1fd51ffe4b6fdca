/* ConvInteger and QLinearConv: convolutions of 8-bit numbers, summed exactly in 32 bits. Each
 * output position gathers what its window covers, less the zero point, and multiplies it with all
 * kernels. onnx.ai/onnx/operators/onnx__ConvInteger.html, onnx__QLinearConv.html */
#include "shared/base/math.h"
#include "worker/ops/conv.h"
#include "worker/ops/element.h"

#define BYTE_TYPES (MQ_T(MQ_DT_U8) | MQ_T(MQ_DT_I8))

enum { BLOCK = 16384 }; /* products of 9-bit numbers whose sum fits 32 bits */

/* Which input is what. */
typedef struct roles {
    uint32_t w, x_zero, w_zero;
} roles;

static roles roles_of(const mq_op_call *call)
{
    return call->op == &mq_op_conv_integer ? (roles){1, 2, 3} : (roles){3, 2, 5};
}

static mq_code window_of(const mq_op_call *call, mq_window *w, mq_error *err)
{
    const mq_window_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *f = &call->inputs[roles_of(call).w]->shape;
    if (x->rank < 3 || f->rank != x->rank) {
        return mq_fail(err, MQ_E_ARG, "X must be [N,C,D1,..] and W of the same rank");
    }
    if (a->group < 1 || f->dims[1] > x->dims[1] / a->group || f->dims[1] * a->group != x->dims[1] ||
        f->dims[0] % a->group != 0) {
        return mq_fail(err, MQ_E_ARG, "%lld channels, weights [%lld,%lld,..], group %lld",
                       (long long)x->dims[1], (long long)f->dims[0], (long long)f->dims[1],
                       (long long)a->group);
    }
    return mq_window_of(a, x, f->dims + 2, w, err);
}

/* One value, or one for each kernel. */
static mq_code check_count(const mq_op_call *call, uint32_t input, bool is_many, mq_error *err)
{
    const mq_tensor *t = mq_call_input(call, input);
    size_t maps = (size_t)call->inputs[roles_of(call).w]->shape.dims[0];
    size_t count = t == NULL ? 1 : mq_elements(t);
    return count == 1 || (is_many && count == maps)
               ? MQ_OK
               : mq_fail(err, MQ_E_ARG, "input %u has %zu values where 1%s is due", input, count,
                         is_many ? " or one a kernel" : "");
}

static mq_code conv_shape(const mq_op_call *call, mq_error *err)
{
    roles r = roles_of(call);
    mq_window w = {0};
    mq_code code = window_of(call, &w, err);
    code = code == MQ_OK ? check_count(call, r.x_zero, false, err) : code;
    code = code == MQ_OK ? check_count(call, r.w_zero, true, err) : code;
    for (uint32_t i = r.x_zero; i <= r.w_zero && code == MQ_OK; i += r.w_zero - r.x_zero) {
        const mq_tensor *zero = mq_call_input(call, i);
        if (zero != NULL && zero->dtype != call->inputs[i == r.x_zero ? 0 : r.w]->dtype) {
            code = mq_fail(err, MQ_E_FORMAT, "zero point %u has another type than its tensor", i);
        }
    }
    if (code != MQ_OK) {
        return code;
    }
    mq_tensor *y = call->outputs[0];
    y->dtype = MQ_DT_I32;
    y->shape = call->inputs[0]->shape;
    y->shape.dims[1] = call->inputs[r.w]->shape.dims[0];
    memcpy(y->shape.dims + 2, w.out, (size_t)w.axes * sizeof *w.out);
    return MQ_OK;
}

/* All kernels and one position's input, 16 bits each. */
static size_t conv_scratch(const mq_op_call *call)
{
    const mq_tensor *f = call->inputs[roles_of(call).w];
    size_t kernel = mq_dims_product(&f->shape, 1, f->shape.rank);
    return (mq_elements(f) + kernel) * sizeof(int16_t);
}

static int32_t zero_of(const mq_tensor *t, size_t i)
{
    return t == NULL ? 0 : (int32_t)mq_element_int(t, mq_elements(t) == 1 ? 0 : i);
}

static int64_t dot(const int16_t *a, const int16_t *b, size_t n)
{
    int64_t total = 0;
    for (size_t from = 0; from < n; from += BLOCK) {
        size_t to = n - from < BLOCK ? n : from + BLOCK;
        int32_t sum = 0;
        for (size_t i = from; i < to; i++) {
            sum += (int32_t)a[i] * (int32_t)b[i];
        }
        total += sum;
    }
    return total;
}

static void unpack_kernels(const mq_op_call *call, int16_t *to)
{
    roles r = roles_of(call);
    const mq_tensor *f = call->inputs[r.w], *zero = mq_call_input(call, r.w_zero);
    size_t kernel = mq_dims_product(&f->shape, 1, f->shape.rank);
    for (size_t i = 0, n = mq_elements(f); i < n; i++) {
        to[i] = (int16_t)(mq_element_int(f, i) - zero_of(zero, i / kernel));
    }
}

/* What the window at output position o covers of `channels` planes; padding is 0. */
static void gather(const mq_op_call *call, const mq_window *w, size_t plane, size_t channels,
                   const int64_t *o, int16_t *to)
{
    const mq_tensor *x = call->inputs[0];
    int32_t zero = zero_of(mq_call_input(call, roles_of(call).x_zero), 0);
    size_t area = mq_window_in(w), taps = mq_window_kernel_size(w), k = 0;
    int64_t tap[MQ_WINDOW_AXES_MAX] = {0};
    do {
        ptrdiff_t at = mq_window_tap(w, o, tap);
        for (size_t c = 0; c < channels; c++) {
            int64_t v = at < 0 ? 0 : mq_element_int(x, (plane + c) * area + (size_t)at) - zero;
            to[c * taps + k] = (int16_t)v;
        }
        k++;
    } while (mq_window_next(w->axes, w->kernel, tap));
}

typedef void put_sum(const mq_op_call *call, size_t at, size_t map, int64_t sum);

static mq_code convolve(const mq_op_call *call, put_sum *put, mq_error *err)
{
    const mq_window_attrs *a = call->attrs;
    const mq_tensor *f = call->inputs[roles_of(call).w];
    mq_window w = {0};
    mq_code code = window_of(call, &w, err);
    if (code != MQ_OK || mq_elements(call->outputs[0]) == 0) {
        return code;
    }
    size_t maps = (size_t)f->shape.dims[0], groups = (size_t)a->group, each = maps / groups;
    size_t channels = (size_t)f->shape.dims[1], kernel = channels * mq_window_kernel_size(&w);
    size_t places = mq_window_out(&w), images = (size_t)call->inputs[0]->shape.dims[0];
    int16_t *kernels = call->scratch, *covered = kernels + maps * kernel;
    unpack_kernels(call, kernels);
    for (size_t i = 0; i < images * groups; i++) {
        int64_t o[MQ_WINDOW_AXES_MAX] = {0};
        size_t image = i / groups, group = i % groups;
        for (size_t p = 0; p < places; p++) {
            gather(call, &w, i * channels, channels, o, covered);
            for (size_t m = group * each; m < (group + 1) * each; m++) {
                put(call, (image * maps + m) * places + p, m,
                    dot(kernels + m * kernel, covered, kernel));
            }
            mq_window_next(w.axes, w.out, o);
        }
    }
    return MQ_OK;
}

static void put_whole(const mq_op_call *call, size_t at, size_t map, int64_t sum)
{
    (void)map;
    ((int32_t *)call->outputs[0]->data)[at] = (int32_t)sum;
}

/* --- oneDNN, where it is there and all but x is constant --- */

static bool is_there(const mq_tensor *t)
{
    return t != NULL && t->data != NULL;
}

/* Kernels as int8 around 0: as they are, or uint8 around 128 less that. NULL: neither. */
static const int8_t *signed_kernels(const mq_tensor *w, const mq_tensor *zero, mq_arena *arena)
{
    int32_t middle = w->dtype == MQ_DT_U8 ? 128 : 0;
    for (size_t i = 0; i < (zero == NULL ? 1 : mq_elements(zero)); i++) {
        if (zero_of(zero, i) != middle) {
            return NULL;
        }
    }
    if (middle == 0) {
        return w->data;
    }
    int8_t *copy = mq_arena_alloc(arena, mq_elements(w) + 1, 1);
    for (size_t i = 0; copy != NULL && i < mq_elements(w); i++) {
        copy[i] = (int8_t)(((const uint8_t *)w->data)[i] - 128);
    }
    return copy;
}

static bool scales_of(const mq_op_call *call, int64_t maps, mq_arena *arena, mq_dnnl_conv_spec *out)
{
    const mq_tensor *ws = call->inputs[4], *bias = mq_call_input(call, 8);
    for (uint32_t i = 1; i < 8; i++) {
        if (!is_there(call->inputs[i]) ||
            (i != 3 && i != 4 && i != 5 && mq_elements(call->inputs[i]) != 1)) {
            return false;
        }
    }
    float *scales = mq_arena_new(arena, float, (size_t)maps);
    if (scales == NULL || (mq_elements(ws) != 1 && mq_elements(ws) != (size_t)maps) ||
        (bias != NULL &&
         (bias->data == NULL || bias->dtype != MQ_DT_I32 || mq_elements(bias) != (size_t)maps))) {
        return false;
    }
    for (size_t m = 0; m < (size_t)maps; m++) {
        scales[m] = (float)mq_element(call->inputs[1], 0) *
                    (float)mq_element(ws, mq_elements(ws) == 1 ? 0 : m) /
                    (float)mq_element(call->inputs[6], 0);
    }
    out->scales = scales;
    out->bias = bias == NULL ? NULL : bias->data;
    out->y_zero = zero_of(call->inputs[7], 0);
    out->y_type = call->inputs[7]->dtype;
    return true;
}

bool mq_qconv_spec_of(const mq_op_call *call, const mq_window_attrs *a, bool is_linear,
                      mq_arena *arena, mq_dnnl_conv_spec *out)
{
    roles r = is_linear ? (roles){3, 2, 5} : (roles){1, 2, 3};
    const mq_tensor *w = call->inputs[r.w], *x_zero = mq_call_input(call, r.x_zero);
    const mq_tensor *w_zero = mq_call_input(call, r.w_zero);
    if (!is_there(w) || !is_there(x_zero) || mq_elements(x_zero) != 1 ||
        (w_zero != NULL && !is_there(w_zero)) || !mq_conv_window_of(&w->shape, a, out)) {
        return false;
    }
    out->w = signed_kernels(w, w_zero, arena);
    out->packs = call->packs;
    out->key = mq_pack_key_of(call->packs, w->data, w->dtype == MQ_DT_U8 ? 'U' : 'S');
    out->x_type = x_zero->dtype;
    out->y_type = MQ_DT_I32;
    out->x_zero = zero_of(x_zero, 0);
    return out->w != NULL && (!is_linear || scales_of(call, out->maps, arena, out));
}

static mq_code conv_prepare(const mq_op_call *call, mq_arena *arena, const void **state,
                            mq_error *err)
{
    (void)err;
    mq_dnnl_conv_spec spec;
    bool is_linear = call->op != &mq_op_conv_integer;
    bool fits = call->kernels == 0 && mq_dnnl_is_there() &&
                mq_qconv_spec_of(call, call->attrs, is_linear, arena, &spec);
    *state = fits ? mq_dnnl_conv_new(&spec, arena) : NULL;
    return MQ_OK;
}

static void conv_release(const void *state)
{
    mq_dnnl_conv_free((mq_dnnl_conv *)(uintptr_t)state);
}

static mq_dnnl_conv_size dnnl_size(const mq_op_call *call)
{
    mq_window w = {0};
    (void)!window_of(call, &w, NULL);
    return mq_conv_size_of(&w, call->inputs[0]->shape.dims[0]);
}

static mq_code conv_ready(const mq_op_call *call, mq_error *err)
{
    (void)err;
    if (mq_elements(call->inputs[0]) > 0 && mq_elements(call->outputs[0]) > 0) {
        mq_dnnl_conv_size size = dnnl_size(call);
        (void)mq_dnnl_conv_ready((mq_dnnl_conv *)(uintptr_t)call->state, &size);
    }
    return MQ_OK;
}

static size_t any_scratch(const mq_op_call *call)
{
    mq_dnnl_conv_size size = dnnl_size(call);
    return mq_max_size(conv_scratch(call), mq_dnnl_conv_scratch(call->state, &size));
}

static bool run_dnnl(const mq_op_call *call)
{
    mq_dnnl_conv *conv = (mq_dnnl_conv *)(uintptr_t)call->state;
    mq_dnnl_conv_size size = dnnl_size(call);
    return conv != NULL && mq_dnnl_conv_run(conv, &size, call->inputs[0]->data,
                                            call->outputs[0]->data, call->scratch);
}

static mq_code integer_run(const mq_op_call *call, mq_error *err)
{
    return run_dnnl(call) ? MQ_OK : convolve(call, put_whole, err);
}

static const mq_attr_spec specs[] = {
    MQ_WINDOW_AUTO_PAD,   MQ_WINDOW_INTS(kernel_shape), MQ_WINDOW_INTS(strides),
    MQ_WINDOW_INTS(pads), MQ_WINDOW_INTS(dilations),    MQ_WINDOW_INT(group, 1),
    {.name = NULL},
};

const mq_op mq_op_conv_integer = {
    .name = "ConvInteger",
    .domain = "",
    .since = 10,
    .in = {2, 4},
    .out = {1, 1},
    .args = {{0, BYTE_TYPES}},
    .attrs_bytes = sizeof(mq_window_attrs),
    .specs = specs,
    .shape = conv_shape,
    .scratch = any_scratch,
    .prepare = conv_prepare,
    .release = conv_release,
    .ready = conv_ready,
    .run = integer_run,
    .cases = "| u8[1,2,4,4] u8[3,2,2,2] u8{1} u8{1,2,3}; pads=(1,1,1,1) group=2 strides=(2,2) | "
             "i8[2,2,5,5] i8[2,1,3,3]; auto_pad=SAME_UPPER | u8[1,1,7] i8[2,1,3] u8{5}",
};

/* --- QLinearConv --- */

static mq_code linear_shape(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *bias = mq_call_input(call, 8);
    mq_code code = conv_shape(call, err);
    for (uint32_t i = 1; i < 8 && code == MQ_OK; i++) {
        bool is_many = i == 4; /* scales of the kernels; the zero points were checked */
        code = i == 3 || i == 2 || i == 5 ? MQ_OK : check_count(call, i, is_many, err);
    }
    if (code == MQ_OK &&
        ((BYTE_TYPES & MQ_T(call->inputs[7]->dtype)) == 0 ||
         (bias != NULL && (bias->dtype != MQ_DT_I32 ||
                           mq_elements(bias) != (size_t)call->inputs[3]->shape.dims[0])))) {
        code = mq_fail(err, MQ_E_FORMAT,
                       "y_zero_point must be 8-bit, B int32 with one value a "
                       "kernel");
    }
    if (code == MQ_OK) {
        call->outputs[0]->dtype = call->inputs[7]->dtype;
    }
    return code;
}

static void put_scaled(const mq_op_call *call, size_t at, size_t map, int64_t sum)
{
    const mq_tensor *w_scale = call->inputs[4], *bias = mq_call_input(call, 8);
    const mq_tensor *y = call->outputs[0];
    float scale = (float)mq_element(call->inputs[1], 0) *
                  (float)mq_element(w_scale, mq_elements(w_scale) == 1 ? 0 : map) /
                  (float)mq_element(call->inputs[6], 0);
    sum += bias == NULL ? 0 : ((const int32_t *)bias->data)[map];
    float low = y->dtype == MQ_DT_I8 ? -128.0f : 0.0f, high = low + 255.0f;
    float v = rintf((float)(int32_t)sum * scale) + (float)zero_of(call->inputs[7], 0);
    v = v > low ? v : low; /* NaN too */
    v = v < high ? v : high;
    mq_element_set_int(y, at, (int64_t)v);
}

static mq_code linear_run(const mq_op_call *call, mq_error *err)
{
    return run_dnnl(call) ? MQ_OK : convolve(call, put_scaled, err);
}

const mq_op mq_op_qlinear_conv = {
    .name = "QLinearConv",
    .domain = "",
    .since = 10,
    .in = {8, 9},
    .out = {1, 1},
    .args = {{0, BYTE_TYPES},
             {0, MQ_T(MQ_DT_F32)},
             {0, BYTE_TYPES},
             {0, BYTE_TYPES},
             {0, MQ_T(MQ_DT_F32)},
             {0, BYTE_TYPES},
             {0, MQ_T(MQ_DT_F32)},
             {0, BYTE_TYPES | MQ_T(MQ_DT_I32)}},
    .attrs_bytes = sizeof(mq_window_attrs),
    .specs = specs,
    .shape = linear_shape,
    .scratch = any_scratch,
    .prepare = conv_prepare,
    .release = conv_release,
    .ready = conv_ready,
    .run = linear_run,
    .cases = "| u8[1,2,4,4] f32{0.02} u8{3} i8[3,2,2,2] f32{0.1,0.2,0.3} i8{0,1,2} f32{0.05} "
             "u8{128} i32[3]; pads=(1,1) | i8[2,1,5] f32{0.5} i8{1} i8[2,1,3] f32{0.25} i8{0} "
             "f32{1.5} i8{-3}",
};

/* Conv and ConvTranspose over any number of spatial dimensions, in groups: unrolled tiles times
 * weights (im2col); one input channel a group (depthwise) is added up tap by tap instead.
 * onnx.ai/onnx/operators/onnx__Conv.html, onnx__ConvTranspose.html */
#include <math.h>

#include "shared/base/math.h"
#include "worker/blas/blas.h"
#include "worker/ops/conv.h"

enum { TILE_FLOATS = 1 << 18, TILE_MIN = 64 };

/* A call's sizes. Transposed: `in` and `out` of the window are swapped, see window.h. */
typedef struct conv {
    mq_window w;
    size_t batch, groups;
    size_t x_channels, y_channels; /* of a group */
    size_t x_plane, y_plane, taps;
    bool is_transposed;
} conv;

static mq_code conv_of(const mq_op_call *call, bool is_transposed, conv *c, mq_error *err)
{
    const mq_window_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *w = &call->inputs[1]->shape;
    int64_t kernel[MQ_WINDOW_AXES_MAX];
    char tx[128], tw[128];
    if (x->rank < 3 || w->rank != x->rank) {
        return mq_fail(err, MQ_E_ARG, "input %s and weights %s: both need rank 3 to %d",
                       mq_shape_text(x, tx, sizeof tx), mq_shape_text(w, tw, sizeof tw),
                       MQ_RANK_MAX);
    }
    int64_t in = is_transposed ? w->dims[0] : w->dims[1] * a->group;
    if (a->group < 1 || a->group > MQ_DIM_MAX || in != x->dims[1] || x->dims[1] % a->group != 0 ||
        (!is_transposed && w->dims[0] % a->group != 0)) {
        return mq_fail(err, MQ_E_ARG, "input %s and weights %s do not go together in %lld groups",
                       mq_shape_text(x, tx, sizeof tx), mq_shape_text(w, tw, sizeof tw),
                       (long long)a->group);
    }
    for (int32_t i = 0; i < w->rank - 2; i++) {
        kernel[i] = w->dims[i + 2];
        if (a->kernel_shape.is_given &&
            (a->kernel_shape.count != (size_t)w->rank - 2 || a->kernel_shape.at[i] != kernel[i])) {
            return mq_fail(err, MQ_E_ARG, "kernel_shape does not agree with weights %s",
                           mq_shape_text(w, tw, sizeof tw));
        }
    }
    mq_code code = is_transposed ? mq_window_transposed(a, x, kernel, &c->w, err)
                                 : mq_window_of(a, x, kernel, &c->w, err);
    if (code == MQ_OK) {
        c->is_transposed = is_transposed;
        c->batch = (size_t)x->dims[0];
        c->groups = (size_t)a->group;
        c->x_channels = (size_t)(x->dims[1] / a->group);
        c->y_channels = (size_t)(is_transposed ? w->dims[1] : w->dims[0] / a->group);
        c->x_plane = is_transposed ? mq_window_out(&c->w) : mq_window_in(&c->w);
        c->y_plane = is_transposed ? mq_window_in(&c->w) : mq_window_out(&c->w);
        c->taps = mq_window_kernel_size(&c->w);
    }
    return code;
}

/* Of a call whose shapes were checked. */
static conv sizes(const mq_op_call *call, bool is_transposed)
{
    conv c = {.batch = 0};
    (void)!conv_of(call, is_transposed, &c, NULL);
    return c;
}

static mq_code any_shape(const mq_op_call *call, bool is_transposed, mq_error *err)
{
    conv c;
    const mq_tensor *bias = mq_call_input(call, 2);
    mq_code code = conv_of(call, is_transposed, &c, err);
    if (code != MQ_OK) {
        return code;
    }
    int64_t channels = (int64_t)(c.y_channels * c.groups);
    if (bias != NULL && (bias->shape.rank != 1 || bias->shape.dims[0] != channels)) {
        return mq_fail(err, MQ_E_ARG, "the bias must have shape [%lld]", (long long)channels);
    }
    mq_tensor *y = call->outputs[0];
    y->dtype = call->inputs[0]->dtype;
    y->shape = (mq_shape){c.w.axes + 2, {(int64_t)c.batch, channels}};
    for (int32_t i = 0; i < c.w.axes; i++) {
        y->shape.dims[i + 2] = is_transposed ? c.w.in[i] : c.w.out[i];
    }
    return MQ_OK;
}

/* ---- tiles ---- */

static bool is_depthwise(const conv *c)
{
    return c->x_channels == 1 && !c->is_transposed;
}

/* Channels and positions of the unrolled matrix: those of the side that windows slide over. */
static size_t rows_of(const conv *c)
{
    return (c->is_transposed ? c->y_channels : c->x_channels) * c->taps;
}

static size_t positions_of(const conv *c)
{
    return mq_window_out(&c->w);
}

static size_t tile_of(const conv *c)
{
    size_t rows = rows_of(c) == 0 ? 1 : rows_of(c);
    size_t tile = TILE_FLOATS / rows < TILE_MIN ? TILE_MIN : TILE_FLOATS / rows;
    return mq_min_size(tile & ~(size_t)15, positions_of(c));
}

static size_t tile_bytes(const conv *c)
{
    return rows_of(c) * tile_of(c) * sizeof(float);
}

/* The planes that windows slide over, and the dense side's, of one image and group. */
static size_t plane_at(size_t image, size_t group, const conv *c, size_t channels, size_t plane)
{
    return (image * c->groups + group) * channels * plane;
}

static void fill_bias(const mq_op_call *call, const conv *c)
{
    const mq_tensor *bias = mq_call_input(call, 2);
    float *y = call->outputs[0]->data;
    size_t channels = c->groups * c->y_channels;
    if (bias == NULL) {
        memset(y, 0, c->batch * channels * c->y_plane * sizeof(float));
        return;
    }
    for (size_t row = 0; row < c->batch * channels; row++) {
        float b = ((const float *)bias->data)[row % channels];
        for (size_t i = 0; i < c->y_plane; i++) {
            y[row * c->y_plane + i] = b;
        }
    }
}

/* ---- Conv ---- */

static mq_code conv_shape(const mq_op_call *call, mq_error *err)
{
    return any_shape(call, false, err);
}

bool mq_conv_window_of(const mq_shape *w, const mq_window_attrs *a, mq_dnnl_conv_spec *out)
{
    size_t axes = w->rank < 3 ? 0 : (size_t)w->rank - 2;
    if (axes == 0 || axes > MQ_DNNL_AXES_MAX || a->group < 1 || a->group > MQ_DIM_MAX ||
        (a->strides.is_given && a->strides.count != axes) ||
        (a->dilations.is_given && a->dilations.count != axes)) {
        return false; /* shape() says what is wrong with it, if anything is */
    }
    *out = (mq_dnnl_conv_spec){.axes = (int32_t)axes,
                               .channels = w->dims[1] * a->group,
                               .maps = w->dims[0],
                               .group = a->group,
                               .low = -INFINITY,
                               .high = INFINITY};
    bool fits = true;
    for (size_t i = 0; i < axes; i++) {
        out->kernel[i] = w->dims[i + 2];
        out->stride[i] = a->strides.is_given ? a->strides.at[i] : 1;
        out->dilation[i] = a->dilations.is_given ? a->dilations.at[i] : 1;
        fits = fits && out->kernel[i] >= 1 && out->stride[i] >= 1 && out->dilation[i] >= 1;
    }
    return fits;
}

bool mq_conv_spec_of(const mq_op_call *call, const mq_window_attrs *a, mq_dnnl_conv_spec *out)
{
    const mq_tensor *w = call->inputs[1], *bias = mq_call_input(call, 2);
    if (w->data == NULL || w->dtype != MQ_DT_F32 ||
        (bias != NULL && (bias->data == NULL || w->shape.rank < 1 ||
                          mq_elements(bias) != (size_t)w->shape.dims[0])) ||
        !mq_conv_window_of(&w->shape, a, out)) {
        return false;
    }
    out->x_type = MQ_DT_F32;
    out->y_type = MQ_DT_F32;
    out->w = w->data;
    out->packs = call->packs;
    out->key = mq_pack_key_of(call->packs, w->data, 0);
    out->bias = bias == NULL ? NULL : bias->data;
    return true;
}

/* The state of a Conv with constant weights is a mq_dnnl_conv; without it, or with bits that must
 * not depend on the batch, tiles do. */
static mq_code conv_prepare(const mq_op_call *call, mq_arena *arena, const void **state,
                            mq_error *err)
{
    (void)err;
    mq_dnnl_conv_spec spec;
    bool fits = call->kernels == 0 && mq_conv_spec_of(call, call->attrs, &spec);
    *state = fits ? mq_dnnl_conv_new(&spec, arena) : NULL;
    return MQ_OK;
}

static void conv_release(const void *state)
{
    mq_dnnl_conv_free((mq_dnnl_conv *)(uintptr_t)state);
}

mq_dnnl_conv_size mq_conv_size_of(const mq_window *w, int64_t batch)
{
    mq_dnnl_conv_size s = {.batch = batch};
    for (int32_t i = 0; i < w->axes && i < MQ_DNNL_AXES_MAX; i++) {
        s.in[i] = w->in[i], s.out[i] = w->out[i];
        s.begin[i] = w->begin[i], s.end[i] = w->end[i];
    }
    return s;
}

static mq_dnnl_conv *dnnl_of(const mq_op_call *call)
{
    return (mq_dnnl_conv *)(uintptr_t)call->state;
}

static mq_code conv_ready(const mq_op_call *call, mq_error *err)
{
    (void)err;
    conv c = sizes(call, false);
    mq_dnnl_conv_size size = mq_conv_size_of(&c.w, (int64_t)c.batch);
    if (mq_elements(call->outputs[0]) > 0 && mq_elements(call->inputs[0]) > 0) {
        (void)mq_dnnl_conv_ready(dnnl_of(call), &size);
    }
    return MQ_OK;
}

static size_t conv_scratch(const mq_op_call *call)
{
    conv c = sizes(call, false);
    mq_dnnl_conv_size size = mq_conv_size_of(&c.w, (int64_t)c.batch);
    return mq_max_size(tile_bytes(&c), mq_dnnl_conv_scratch(dnnl_of(call), &size));
}

/* y[outputs of a group] += weights x tile, tile by tile. */
static void conv_group(const conv *c, const float *x, const float *weights, float *y, float *tile)
{
    size_t rows = rows_of(c), step = tile_of(c);
    bool is_plain = mq_window_is_pointwise(&c->w);
    for (size_t from = 0; from < c->y_plane; from += step) {
        size_t n = mq_min_size(step, c->y_plane - from);
        if (!is_plain) {
            mq_window_unroll(&c->w, x, c->x_channels, from, from + n, tile);
        }
        mq_blas_gemm(&(mq_gemm){.m = (int64_t)c->y_channels,
                                .n = (int64_t)n,
                                .k = (int64_t)rows,
                                .alpha = 1.0f,
                                .beta = 1.0f,
                                .a = weights,
                                .lda = (int64_t)rows,
                                .b = is_plain ? x + from : tile,
                                .ldb = (int64_t)(is_plain ? c->x_plane : n),
                                .c = y + from,
                                .ldc = (int64_t)c->y_plane});
    }
}

static mq_code conv_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    conv c = sizes(call, false);
    const float *x = call->inputs[0]->data, *weights = call->inputs[1]->data;
    float *y = call->outputs[0]->data;
    mq_dnnl_conv_size size = mq_conv_size_of(&c.w, (int64_t)c.batch);
    if (mq_dnnl_conv_run(dnnl_of(call), &size, x, y, call->scratch)) {
        return MQ_OK;
    }
    fill_bias(call, &c);
    for (size_t image = 0; image < c.batch; image++) {
        for (size_t g = 0; g < c.groups; g++) {
            const float *xg = x + plane_at(image, g, &c, c.x_channels, c.x_plane);
            const float *wg = weights + g * c.y_channels * rows_of(&c);
            float *yg = y + plane_at(image, g, &c, c.y_channels, c.y_plane);
            if (!is_depthwise(&c)) {
                conv_group(&c, xg, wg, yg, call->scratch);
                continue;
            }
            for (size_t m = 0; m < c.y_channels; m++) {
                mq_window_correlate(&c.w, xg, wg + m * c.taps, yg + m * c.y_plane);
            }
        }
    }
    return MQ_OK;
}

/* dX = fold(W^T dY), dW += dY unroll(X)^T, each by tiles in the order of images, groups, tiles. */
static void conv_grad_group(const mq_op_grad *g, const conv *c, size_t image, size_t group)
{
    size_t rows = rows_of(c), step = tile_of(c);
    size_t x_at = plane_at(image, group, c, c->x_channels, c->x_plane);
    const float *x = (const float *)g->call.inputs[0]->data + x_at;
    const float *weights = (const float *)g->call.inputs[1]->data + group * c->y_channels * rows;
    const float *dy = g->dy[0] + plane_at(image, group, c, c->y_channels, c->y_plane);
    float *tile = g->call.scratch;
    for (size_t from = 0; from < c->y_plane; from += step) {
        size_t n = mq_min_size(step, c->y_plane - from);
        mq_gemm p = {.alpha = 1.0f};
        if (g->dx[1] != NULL) {
            mq_window_unroll(&c->w, x, c->x_channels, from, from + n, tile);
            p.m = (int64_t)c->y_channels, p.n = (int64_t)rows, p.k = (int64_t)n, p.beta = 1.0f;
            p.a = dy + from, p.lda = (int64_t)c->y_plane;
            p.b = tile, p.ldb = (int64_t)n, p.trans_b = true;
            p.c = g->dx[1] + group * c->y_channels * rows, p.ldc = (int64_t)rows;
            mq_blas_gemm(&p);
        }
        if (g->dx[0] != NULL) {
            p = (mq_gemm){.alpha = 1.0f, .trans_a = true};
            p.m = (int64_t)rows, p.n = (int64_t)n, p.k = (int64_t)c->y_channels;
            p.a = weights, p.lda = (int64_t)rows;
            p.b = dy + from, p.ldb = (int64_t)c->y_plane;
            p.c = tile, p.ldc = (int64_t)n;
            mq_blas_gemm(&p);
            mq_window_fold(&c->w, tile, c->x_channels, from, from + n, g->dx[0] + x_at);
        }
    }
}

static void clear_wanted(const mq_op_grad *g)
{
    for (uint32_t i = 0; i < g->call.input_count; i++) {
        if (g->dx[i] != NULL && !g->add[i]) {
            memset(g->dx[i], 0, mq_elements(g->call.inputs[i]) * sizeof(float));
        }
    }
}

static void bias_grad(const mq_op_grad *g, const conv *c)
{
    size_t channels = c->groups * c->y_channels;
    if (g->call.input_count < 3 || g->dx[2] == NULL) {
        return;
    }
    for (size_t row = 0; row < c->batch * channels; row++) {
        float sum = 0.0f;
        for (size_t i = 0; i < c->y_plane; i++) {
            sum += g->dy[0][row * c->y_plane + i];
        }
        g->dx[2][row % channels] += sum;
    }
}

static void conv_grad(const mq_op_grad *g)
{
    conv c = sizes(&g->call, false);
    clear_wanted(g);
    bias_grad(g, &c);
    for (size_t image = 0; image < c.batch; image++) {
        for (size_t group = 0; group < c.groups; group++) {
            conv_grad_group(g, &c, image, group);
        }
    }
}

static double conv_flop(const mq_op_call *call)
{
    conv c = sizes(call, false);
    return 2.0 * (double)mq_elements(call->outputs[0]) * (double)rows_of(&c);
}

/* Sum over all pairs of an output and a tap; transposed, the output is where a tap of the input
 * falls. */
static mq_code any_reference(const mq_op_call *call, bool is_transposed)
{
    conv c = sizes(call, is_transposed);
    const float *x = call->inputs[0]->data, *weights = call->inputs[1]->data;
    float *y = call->outputs[0]->data;
    fill_bias(call, &c);
    size_t xs = c.groups * c.x_channels, ys = c.groups * c.y_channels;
    for (size_t at = 0; at < c.batch * xs * c.y_channels; at++) {
        size_t m = at % c.y_channels, cx = at / c.y_channels % xs, n = at / c.y_channels / xs;
        size_t my = cx / c.x_channels * c.y_channels + m;
        const float *xp = x + (n * xs + cx) * c.x_plane;
        const float *w = weights + (is_transposed ? cx * c.y_channels + m
                                                  : my * c.x_channels + cx % c.x_channels) *
                                       c.taps;
        float *yp = y + (n * ys + my) * c.y_plane;
        int64_t o[MQ_WINDOW_AXES_MAX] = {0}, k[MQ_WINDOW_AXES_MAX] = {0};
        size_t out = 0;
        if (mq_window_out(&c.w) == 0) {
            continue;
        }
        do {
            size_t tap = 0;
            do {
                ptrdiff_t in = mq_window_tap(&c.w, o, k);
                if (in >= 0 && is_transposed) {
                    yp[in] += xp[out] * w[tap];
                } else if (in >= 0) {
                    yp[out] += xp[in] * w[tap];
                }
                tap++;
            } while (mq_window_next(c.w.axes, c.w.kernel, k));
            out++;
        } while (mq_window_next(c.w.axes, c.w.out, o));
    }
    return MQ_OK;
}

static mq_code conv_reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    return any_reference(call, false);
}

static const mq_attr_spec conv_specs[] = {
    MQ_WINDOW_AUTO_PAD,   MQ_WINDOW_INTS(kernel_shape), MQ_WINDOW_INTS(strides),
    MQ_WINDOW_INTS(pads), MQ_WINDOW_INTS(dilations),    MQ_WINDOW_INT(group, 1),
    {.name = NULL},
};

const mq_op mq_op_conv = {
    .name = "Conv",
    .domain = "",
    .since = 1,
    .in = {2, 3},
    .out = {1, 1},
    .args = {{'T', MQ_T(MQ_DT_F32)}},
    .params = 6,
    .grad_keeps = MQ_GRAD_INPUTS,
    .attrs_bytes = sizeof(mq_window_attrs),
    .specs = conv_specs,
    .shape = conv_shape,
    .scratch = conv_scratch,
    .prepare = conv_prepare,
    .release = conv_release,
    .ready = conv_ready,
    .run = conv_run,
    .grad = conv_grad,
    .flop = conv_flop,
    .reference = conv_reference,
    .cases = "pads=(1,1,1,1) | f32[N,2,5,6] f32[M,2,3,3] f32[M];"
             "strides=(2,3) pads=(0,1,2,0) dilations=(1,2) | f32[1,C,6,7] f32[M,C,2,3];"
             "group=2 auto_pad=SAME_UPPER strides=(2,2) | f32[N,4,5,5] f32[6,2,3,2] f32[6];"
             "group=3 pads=(1,1,1,1) | f32[N,3,4,4] f32[6,1,3,3] f32[6];"
             "| f32[N,C,3,3] f32[M,C,1,1]; pads=(1,0) | f32[N,C,6] f32[M,C,3] f32[M];"
             "auto_pad=SAME_LOWER | f32[1,C,3,3,2] f32[M,C,2,2,2]",
};

/* ---- ConvTranspose: every input position adds its multiple of the kernel ---- */

static mq_code turned_shape(const mq_op_call *call, mq_error *err)
{
    return any_shape(call, true, err);
}

static size_t turned_scratch(const mq_op_call *call)
{
    conv c = sizes(call, true);
    return tile_bytes(&c);
}

static mq_code turned_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    conv c = sizes(call, true);
    size_t rows = rows_of(&c), step = tile_of(&c);
    float *tile = call->scratch;
    fill_bias(call, &c);
    for (size_t at = 0; at < c.batch * c.groups; at++) {
        const float *x = (const float *)call->inputs[0]->data + at * c.x_channels * c.x_plane;
        const float *w = (const float *)call->inputs[1]->data + at % c.groups * c.x_channels * rows;
        float *y = (float *)call->outputs[0]->data + at * c.y_channels * c.y_plane;
        for (size_t from = 0; from < c.x_plane; from += step) {
            size_t n = mq_min_size(step, c.x_plane - from);
            mq_blas_gemm(&(mq_gemm){.trans_a = true,
                                    .m = (int64_t)rows,
                                    .n = (int64_t)n,
                                    .k = (int64_t)c.x_channels,
                                    .alpha = 1.0f,
                                    .a = w,
                                    .lda = (int64_t)rows,
                                    .b = x + from,
                                    .ldb = (int64_t)c.x_plane,
                                    .c = tile,
                                    .ldc = (int64_t)n});
            mq_window_fold(&c.w, tile, c.y_channels, from, from + n, y);
        }
    }
    return MQ_OK;
}

/* dX = W unroll(dY), dW += X unroll(dY)^T. */
static void turned_grad(const mq_op_grad *g)
{
    conv c = sizes(&g->call, true);
    size_t rows = rows_of(&c), step = tile_of(&c);
    float *tile = g->call.scratch;
    clear_wanted(g);
    bias_grad(g, &c);
    for (size_t at = 0; at < c.batch * c.groups; at++) {
        size_t x_at = at * c.x_channels * c.x_plane;
        size_t w_at = at % c.groups * c.x_channels * rows;
        const float *dy = g->dy[0] + at * c.y_channels * c.y_plane;
        for (size_t from = 0; from < c.x_plane; from += step) {
            size_t n = mq_min_size(step, c.x_plane - from);
            mq_gemm p = {.alpha = 1.0f, .beta = 1.0f, .b = tile, .ldb = (int64_t)n};
            mq_window_unroll(&c.w, dy, c.y_channels, from, from + n, tile);
            p.m = (int64_t)c.x_channels;
            if (g->dx[0] != NULL) {
                p.n = (int64_t)n, p.k = (int64_t)rows;
                p.a = (const float *)g->call.inputs[1]->data + w_at, p.lda = (int64_t)rows;
                p.c = g->dx[0] + x_at + from, p.ldc = (int64_t)c.x_plane;
                mq_blas_gemm(&p);
            }
            if (g->dx[1] != NULL) {
                p.n = (int64_t)rows, p.k = (int64_t)n, p.trans_b = true;
                p.a = (const float *)g->call.inputs[0]->data + x_at + from;
                p.lda = (int64_t)c.x_plane;
                p.c = g->dx[1] + w_at, p.ldc = (int64_t)rows;
                mq_blas_gemm(&p);
            }
        }
    }
}

static double turned_flop(const mq_op_call *call)
{
    conv c = sizes(call, true);
    return 2.0 * (double)mq_elements(call->inputs[0]) * (double)rows_of(&c);
}

static mq_code turned_reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    return any_reference(call, true);
}

static const mq_attr_spec turned_specs[] = {
    MQ_WINDOW_AUTO_PAD,           MQ_WINDOW_INTS(kernel_shape), MQ_WINDOW_INTS(strides),
    MQ_WINDOW_INTS(pads),         MQ_WINDOW_INTS(dilations),    MQ_WINDOW_INTS(output_padding),
    MQ_WINDOW_INTS(output_shape), MQ_WINDOW_INT(group, 1),      {.name = NULL},
};

const mq_op mq_op_conv_transpose = {
    .name = "ConvTranspose",
    .domain = "",
    .since = 1,
    .in = {2, 3},
    .out = {1, 1},
    .args = {{'T', MQ_T(MQ_DT_F32)}},
    .params = 6,
    .grad_keeps = MQ_GRAD_INPUTS,
    .attrs_bytes = sizeof(mq_window_attrs),
    .specs = turned_specs,
    .shape = turned_shape,
    .scratch = turned_scratch,
    .run = turned_run,
    .grad = turned_grad,
    .flop = turned_flop,
    .reference = turned_reference,
    .cases = "| f32[N,2,3,3] f32[2,M,3,3] f32[M];"
             "strides=(2,3) output_padding=(1,0) | f32[1,C,3,2] f32[C,M,2,3];"
             "group=2 pads=(1,0,0,1) | f32[N,4,3,3] f32[4,3,3,2] f32[6];"
             "dilations=(2) | f32[N,C,4] f32[C,M,2];"
             "strides=(3,2) output_shape=(10,8) | f32[1,1,3,3] f32[1,2,3,3];"
             "auto_pad=SAME_UPPER strides=(2,2) | f32[1,1,3,3] f32[1,2,3,3]",
};

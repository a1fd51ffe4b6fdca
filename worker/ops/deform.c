/* DeformConv: a convolution whose every tap reads where an offset says, bilinearly, zero outside.
 * onnx.ai/onnx/operators/onnx__DeformConv.html */
#include "worker/ops/element.h"
#include "worker/ops/window.h"

#define FLOAT_TYPES (MQ_T_FLOATS | MQ_T_HALF)

typedef struct deform_attrs {
    mq_window_attrs window;
    int64_t offset_group;
} deform_attrs;

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    deform_attrs *a = attrs;
    a->window.auto_pad = mq_str("NOTSET");
    if (a->window.group < 1 || a->offset_group < 1) {
        return mq_fail(err, MQ_E_FORMAT, "group and offset_group must be above 0");
    }
    return MQ_OK;
}

static mq_code window_of(const mq_op_call *call, mq_window *w, mq_error *err)
{
    const deform_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *f = &call->inputs[1]->shape;
    if (x->rank != 4 || f->rank != 4) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "two spatial axes are supported");
    }
    return mq_window_of(&a->window, x, f->dims + 2, w, err);
}

static bool is_shape(const mq_tensor *t, int64_t d0, int64_t d1, const mq_window *w)
{
    return t->shape.rank == 4 && t->shape.dims[0] == d0 && t->shape.dims[1] == d1 &&
           t->shape.dims[2] == w->out[0] && t->shape.dims[3] == w->out[1];
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const deform_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *f = &call->inputs[1]->shape;
    const mq_tensor *bias = mq_call_input(call, 3), *mask = mq_call_input(call, 4);
    mq_window w = {0};
    mq_code code = window_of(call, &w, err);
    if (code != MQ_OK) {
        return code;
    }
    int64_t taps = f->dims[2] * f->dims[3], group = a->window.group;
    if (f->dims[1] > x->dims[1] / group || f->dims[1] * group != x->dims[1] ||
        f->dims[0] % group != 0 || x->dims[1] % a->offset_group != 0 ||
        a->offset_group > MQ_DIM_MAX / (2 * taps + 1)) {
        return mq_fail(err, MQ_E_ARG,
                       "%lld channels, weights for %lld, group %lld, offset_group "
                       "%lld",
                       (long long)x->dims[1], (long long)f->dims[1], (long long)group,
                       (long long)a->offset_group);
    }
    if (!is_shape(call->inputs[2], x->dims[0], 2 * taps * a->offset_group, &w) ||
        (mask != NULL && !is_shape(mask, x->dims[0], taps * a->offset_group, &w)) ||
        (bias != NULL && (bias->shape.rank != 1 || bias->shape.dims[0] != f->dims[0]))) {
        return mq_fail(err, MQ_E_ARG, "offset, mask or B does not fit the output [%lld,%lld]",
                       (long long)w.out[0], (long long)w.out[1]);
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = (mq_shape){4, {x->dims[0], f->dims[0], w.out[0], w.out[1]}};
    return MQ_OK;
}

/* The samples of one output position: channels * taps. */
static size_t scratch(const mq_op_call *call)
{
    const mq_shape *f = &call->inputs[1]->shape;
    return (size_t)call->inputs[0]->shape.dims[1] * (size_t)(f->dims[2] * f->dims[3]) *
           sizeof(double);
}

static double pixel(const mq_tensor *x, size_t plane, int64_t h, int64_t w)
{
    int64_t height = x->shape.dims[2], width = x->shape.dims[3];
    return h >= 0 && h < height && w >= 0 && w < width
               ? mq_element(x, (plane * (size_t)height + (size_t)h) * (size_t)width + (size_t)w)
               : 0.0;
}

static double bilinear(const mq_tensor *x, size_t plane, double h, double w)
{
    if (!(h > -1.0) || !(w > -1.0) || !(h < (double)x->shape.dims[2]) ||
        !(w < (double)x->shape.dims[3])) {
        return 0.0;
    }
    double h0 = floor(h), w0 = floor(w), dh = h - h0, dw = w - w0;
    int64_t ih = (int64_t)h0, iw = (int64_t)w0;
    return (1.0 - dh) * ((1.0 - dw) * pixel(x, plane, ih, iw) + dw * pixel(x, plane, ih, iw + 1)) +
           dh * ((1.0 - dw) * pixel(x, plane, ih + 1, iw) + dw * pixel(x, plane, ih + 1, iw + 1));
}

/* Samples of image n at output position p into `to`. */
static void sample(const mq_op_call *call, const mq_window *w, size_t n, size_t p, double *to)
{
    const deform_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *offset = call->inputs[2], *mask = mq_call_input(call, 4);
    size_t channels = (size_t)x->shape.dims[1], groups = (size_t)a->offset_group;
    size_t taps = (size_t)(w->kernel[0] * w->kernel[1]), area = (size_t)(w->out[0] * w->out[1]);
    int64_t row = (int64_t)p / w->out[1], column = (int64_t)p % w->out[1];
    for (size_t c = 0; c < channels; c++) {
        size_t g = n * groups + c / (channels / groups);
        for (size_t k = 0; k < taps; k++) {
            int64_t kh = (int64_t)k / w->kernel[1], kw = (int64_t)k % w->kernel[1];
            size_t at = ((g * taps + k) * 2) * area + p;
            double h = (double)(row * w->stride[0] - w->begin[0] + kh * w->dilation[0]);
            double v = (double)(column * w->stride[1] - w->begin[1] + kw * w->dilation[1]);
            double s = bilinear(x, n * channels + c, h + mq_element(offset, at),
                                v + mq_element(offset, at + area));
            to[c * taps + k] = mask == NULL ? s : s * mq_element(mask, (g * taps + k) * area + p);
        }
    }
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    const deform_attrs *a = call->attrs;
    const mq_tensor *f = call->inputs[1], *bias = mq_call_input(call, 3), *y = call->outputs[0];
    mq_window w = {0};
    mq_code code = window_of(call, &w, err);
    if (code != MQ_OK) {
        return code;
    }
    size_t taps = (size_t)(w.kernel[0] * w.kernel[1]), area = (size_t)(w.out[0] * w.out[1]);
    size_t maps = (size_t)f->shape.dims[0], length = (size_t)f->shape.dims[1] * taps;
    size_t per_group = maps / (size_t)a->window.group;
    double *samples = call->scratch;
    for (size_t i = 0; i < (size_t)y->shape.dims[0] * area; i++) {
        size_t n = i / area, p = i % area;
        sample(call, &w, n, p, samples);
        for (size_t m = 0; m < maps; m++) {
            double sum = bias == NULL ? 0.0 : mq_element(bias, m);
            const double *from = samples + m / per_group * length;
            for (size_t k = 0; k < length; k++) {
                sum += from[k] * mq_element(f, m * length + k);
            }
            mq_element_set(y, (n * maps + m) * area + p, sum);
        }
    }
    return MQ_OK;
}

static const mq_attr_spec specs[] = {
    MQ_WINDOW_INTS(kernel_shape),
    MQ_WINDOW_INTS(strides),
    MQ_WINDOW_INTS(pads),
    MQ_WINDOW_INTS(dilations),
    MQ_WINDOW_INT(group, 1),
    {.name = "offset_group",
     .type = MQ_ATTR_INT,
     .offset = offsetof(deform_attrs, offset_group),
     .i = 1},
    {.name = NULL},
};

const mq_op mq_op_deform_conv = {
    .name = "DeformConv",
    .domain = "",
    .since = 19,
    .in = {3, 5},
    .out = {1, 1},
    .args = {{'T', FLOAT_TYPES}},
    .attrs_bytes = sizeof(deform_attrs),
    .specs = specs,
    .parse = parse,
    .shape = shape,
    .scratch = scratch,
    .run = run,
    .cases = "| f32[1,1,3,3] f32[1,1,2,2] f32[1,8,2,2]; pads=(1,1,1,1) offset_group=2 | "
             "f32[2,2,3,3] f32[3,2,3,3] f32[2,36,3,3] f32[3] f32[2,18,3,3]; group=2 strides=(2,2) "
             "| f64[1,4,4,4] f64[2,2,2,2] f64[1,8,2,2]",
};

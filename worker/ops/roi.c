/* RoiAlign: a fixed number of bins out of each region, by bilinear samples.
 * onnx.ai/onnx/operators/onnx__RoiAlign.html */
#include "worker/ops/element.h"

#define SAMPLES_MAX 65536

typedef struct roi_attrs {
    mq_span mode, coordinates;
    int64_t output_height, output_width, sampling_ratio;
    float spatial_scale;
    bool is_max, is_half;
} roi_attrs;

static mq_code roi_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    roi_attrs *a = attrs;
    a->is_max = mq_span_is(a->mode, "max");
    a->is_half = opset >= 16 && mq_span_is(a->coordinates, "half_pixel");
    if (!a->is_max && !mq_span_is(a->mode, "avg")) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "mode is neither avg nor max");
    }
    if (opset >= 16 && !a->is_half && !mq_span_is(a->coordinates, "output_half_pixel")) {
        return mq_fail(err, MQ_E_UNSUPPORTED,
                       "coordinate_transformation_mode is neither half_pixel nor "
                       "output_half_pixel");
    }
    if (a->output_height < 1 || a->output_width < 1 || a->output_height > MQ_DIM_MAX ||
        a->output_width > MQ_DIM_MAX || a->sampling_ratio < 0 || a->sampling_ratio > 256) {
        return mq_fail(err, MQ_E_FORMAT, "output %lld x %lld, sampling_ratio %lld (0 to 256)",
                       (long long)a->output_height, (long long)a->output_width,
                       (long long)a->sampling_ratio);
    }
    return MQ_OK;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const roi_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *r = &call->inputs[1]->shape;
    const mq_shape *b = &call->inputs[2]->shape;
    if (x->rank != 4 || r->rank != 2 || r->dims[1] != 4 || b->rank != 1 ||
        b->dims[0] != r->dims[0] || x->dims[2] < 1 || x->dims[3] < 1) {
        return mq_fail(err, MQ_E_ARG, "X must be [N,C,H,W], rois [R,4], batch_indices [R]");
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape =
        (mq_shape){4, {r->dims[0], x->dims[1], a->output_height, a->output_width}};
    return MQ_OK;
}

typedef struct roi {
    size_t plane; /* of the image: batch * channels */
    double x, y, bin_width, bin_height;
    int64_t across, down; /* samples a bin */
} roi;

static int64_t samples_of(const roi_attrs *a, double bin)
{
    return a->sampling_ratio > 0 ? a->sampling_ratio
           : bin <= 0.0          ? 0
                                 : (int64_t)fmin(ceil(bin), (double)SAMPLES_MAX + 1.0);
}

static mq_code roi_of(const mq_op_call *call, size_t n, roi *out, mq_error *err)
{
    const roi_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    double at[4], offset = a->is_half ? 0.5 : 0.0;
    int64_t batch = mq_element_int(call->inputs[2], n);
    if (batch < 0 || batch >= x->dims[0]) {
        return mq_fail(err, MQ_E_ARG, "batch_indices[%zu] is %lld of %lld", n, (long long)batch,
                       (long long)x->dims[0]);
    }
    for (size_t i = 0; i < 4; i++) {
        at[i] = mq_element(call->inputs[1], 4 * n + i) * (double)a->spatial_scale - offset;
        if (!isfinite(at[i])) {
            return mq_fail(err, MQ_E_ARG, "rois[%zu] is not finite", n);
        }
    }
    double width = at[2] - at[0], height = at[3] - at[1];
    if (!a->is_half) { /* regions of no size count as one pixel */
        width = fmax(width, 1.0);
        height = fmax(height, 1.0);
    }
    *out = (roi){(size_t)(batch * x->dims[1]),      at[0], at[1], width / (double)a->output_width,
                 height / (double)a->output_height, 0,     0};
    out->across = samples_of(a, out->bin_width);
    out->down = samples_of(a, out->bin_height);
    if (out->across * out->down > SAMPLES_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "rois[%zu]: more than %d samples a bin", n, SAMPLES_MAX);
    }
    return MQ_OK;
}

/* The four weighted neighbours of a point; false outside of the image. */
static bool neighbours(const mq_tensor *x, size_t plane, double py, double px, double *v)
{
    int64_t height = x->shape.dims[2], width = x->shape.dims[3];
    for (int i = 0; i < 4; i++) {
        v[i] = 0.0;
    }
    if (!(py >= -1.0) || !(py <= (double)height) || !(px >= -1.0) || !(px <= (double)width)) {
        return false;
    }
    py = fmin(fmax(py, 0.0), (double)(height - 1));
    px = fmin(fmax(px, 0.0), (double)(width - 1));
    int64_t y0 = (int64_t)py, x0 = (int64_t)px;
    int64_t y1 = y0 + 1 < height ? y0 + 1 : y0, x1 = x0 + 1 < width ? x0 + 1 : x0;
    double ly = py - (double)y0, lx = px - (double)x0;
    size_t base = plane * (size_t)(height * width);
    v[0] = (1.0 - ly) * (1.0 - lx) * mq_element(x, base + (size_t)(y0 * width + x0));
    v[1] = (1.0 - ly) * lx * mq_element(x, base + (size_t)(y0 * width + x1));
    v[2] = ly * (1.0 - lx) * mq_element(x, base + (size_t)(y1 * width + x0));
    v[3] = ly * lx * mq_element(x, base + (size_t)(y1 * width + x1));
    return true;
}

static double bin_value(const mq_op_call *call, const roi *r, size_t plane, int64_t by, int64_t bx)
{
    const roi_attrs *a = call->attrs;
    double sum = 0.0, most = 0.0, v[4];
    for (int64_t i = 0; i < r->across * r->down; i++) {
        int64_t row = i / r->across;
        double sy = ((double)row + 0.5) / (double)r->down;
        double sx = ((double)(i % r->across) + 0.5) / (double)r->across;
        neighbours(call->inputs[0], plane, r->y + ((double)by + sy) * r->bin_height,
                   r->x + ((double)bx + sx) * r->bin_width, v);
        double top = fmax(fmax(v[0], v[1]), fmax(v[2], v[3]));
        sum += v[0] + v[1] + v[2] + v[3];
        most = i == 0 ? top : fmax(most, top);
    }
    int64_t count = r->across * r->down;
    return a->is_max ? most : sum / (double)(count > 0 ? count : 1);
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    const roi_attrs *a = call->attrs;
    size_t channels = (size_t)call->inputs[0]->shape.dims[1], at = 0;
    for (size_t n = 0; n < mq_elements(call->inputs[2]); n++) {
        roi r = {0};
        mq_code code = roi_of(call, n, &r, err);
        if (code != MQ_OK) {
            return code;
        }
        for (size_t c = 0; c < channels; c++) {
            for (int64_t i = 0; i < a->output_height * a->output_width; i++) {
                mq_element_set(
                    call->outputs[0], at++,
                    bin_value(call, &r, r.plane + c, i / a->output_width, i % a->output_width));
            }
        }
    }
    return MQ_OK;
}

static const mq_attr_spec specs[] = {
    {.name = "mode", .type = MQ_ATTR_STRING, .offset = offsetof(roi_attrs, mode), .s = "avg"},
    {.name = "coordinate_transformation_mode",
     .type = MQ_ATTR_STRING,
     .offset = offsetof(roi_attrs, coordinates),
     .s = "half_pixel"},
    {.name = "output_height",
     .type = MQ_ATTR_INT,
     .offset = offsetof(roi_attrs, output_height),
     .i = 1},
    {.name = "output_width",
     .type = MQ_ATTR_INT,
     .offset = offsetof(roi_attrs, output_width),
     .i = 1},
    {.name = "sampling_ratio", .type = MQ_ATTR_INT, .offset = offsetof(roi_attrs, sampling_ratio)},
    {.name = "spatial_scale",
     .type = MQ_ATTR_FLOAT,
     .offset = offsetof(roi_attrs, spatial_scale),
     .f = 1.0f},
    {.name = NULL},
};

const mq_op mq_op_roi_align = {
    .name = "RoiAlign",
    .domain = "",
    .since = 10,
    .in = {3, 3},
    .out = {1, 1},
    .args = {{'T', MQ_T_FLOATS | MQ_T_HALF}, {'T', MQ_T_FLOATS | MQ_T_HALF}, {0, MQ_T(MQ_DT_I64)}},
    .attrs_bytes = sizeof(roi_attrs),
    .specs = specs,
    .parse = roi_parse,
    .shape = shape,
    .run = run,
    .cases = "output_height=2 output_width=3 | f32[2,2,6,7] f32[2,4]+ i64{0,1}; mode=max "
             "sampling_ratio=2 | f64[1,1,5,5] f64[1,4]+ i64{0}",
};

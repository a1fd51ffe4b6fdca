/* Resize and Upsample: each axis in turn is resampled by taps of nearest, linear or cubic
 * interpolation. onnx.ai/onnx/operators/onnx__Resize.html */
#include "shared/base/math.h"
#include "worker/ops/copy.h"
#include "worker/ops/element.h"

typedef struct resize_attrs {
    mq_span mode, coordinates, nearest, policy;
    mq_ints axes;
    float cubic_a, extrapolation;
    int64_t exclude_outside, antialias;
    uint32_t roi_input, scales_input, sizes_input; /* 0: none */
} resize_attrs;

/* One axis: from `in` to `out` elements. */
typedef struct axis_plan {
    int64_t in, out;
    double scale, wanted; /* wanted: in * scale before rounding */
    double roi_start, roi_end;
} axis_plan;

#define SCALE_MIN (1.0 / 65536.0)
#define ROI_MAX   1e6

typedef struct resize_plan {
    axis_plan axis[MQ_RANK_MAX];
} resize_plan;

static const mq_tensor *filled(const mq_op_call *call, uint32_t i)
{
    const mq_tensor *t = i == 0 ? NULL : mq_call_input(call, i);
    return t != NULL && mq_elements(t) > 0 ? t : NULL;
}

/* Which axes scales, sizes and roi speak of. */
static mq_code axes_of(const mq_op_call *call, int32_t *axes, size_t *count, mq_error *err)
{
    const resize_attrs *a = call->attrs;
    int32_t rank = call->inputs[0]->shape.rank;
    *count = a->axes.is_given ? a->axes.count : (size_t)rank;
    if (*count > (size_t)rank) {
        return mq_fail(err, MQ_E_ARG, "%zu axes for rank %d", *count, rank);
    }
    for (size_t i = 0; i < *count; i++) {
        axes[i] = (int32_t)i;
        mq_code code = a->axes.is_given ? mq_axis(a->axes.at[i], rank, &axes[i], err) : MQ_OK;
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

static mq_code plan_scales(const mq_op_call *call, const int32_t *axes, size_t count,
                           resize_plan *p, mq_error *err)
{
    const resize_attrs *a = call->attrs;
    const mq_tensor *scales = filled(call, a->scales_input);
    bool is_crop = mq_span_is(a->coordinates, "tf_crop_and_resize");
    if (scales == NULL || mq_elements(scales) != count) {
        return mq_fail(err, MQ_E_ARG, "scales (or sizes) must have %zu entries", count);
    }
    for (size_t i = 0; i < count; i++) {
        axis_plan *x = &p->axis[axes[i]];
        x->scale = mq_element(scales, i);
        x->wanted = (double)x->in * x->scale * (is_crop ? x->roi_end - x->roi_start : 1.0);
        if (!(x->scale > 0.0) || !(x->wanted >= 0.0 && x->wanted <= (double)MQ_DIM_MAX)) {
            return mq_fail(err, MQ_E_ARG, "scales[%zu] is %g", i, x->scale);
        }
        x->out = (int64_t)floor(x->wanted);
    }
    return MQ_OK;
}

static mq_code plan_sizes(const mq_op_call *call, const mq_tensor *sizes, const int32_t *axes,
                          size_t count, resize_plan *p, mq_error *err)
{
    const resize_attrs *a = call->attrs;
    bool is_smaller = mq_span_is(a->policy, "not_larger");
    bool is_kept = is_smaller || mq_span_is(a->policy, "not_smaller");
    double common = is_smaller ? HUGE_VAL : 0.0;
    if (mq_elements(sizes) != count) {
        return mq_fail(err, MQ_E_ARG, "sizes has %zu entries where %zu are due", mq_elements(sizes),
                       count);
    }
    for (size_t i = 0; i < count; i++) {
        axis_plan *x = &p->axis[axes[i]];
        x->out = mq_element_int(sizes, i);
        if (x->out < 0 || x->out > MQ_DIM_MAX || x->in < 1) {
            return mq_fail(err, MQ_E_ARG, "sizes[%zu] is %lld", i, (long long)x->out);
        }
        x->scale = (double)x->out / (double)x->in;
        common = is_smaller ? fmin(common, x->scale) : fmax(common, x->scale);
    }
    for (size_t i = 0; i < count; i++) {
        axis_plan *x = &p->axis[axes[i]];
        if (is_kept) {
            x->scale = common;
            x->out = (int64_t)floor(common * (double)x->in + 0.5);
        }
        x->wanted = (double)x->in * x->scale;
    }
    return MQ_OK;
}

/* What no picture needs and arithmetic does not bear. */
static mq_code check_plan(resize_plan *p, int32_t rank, mq_error *err)
{
    for (int32_t i = 0; i < rank; i++) {
        axis_plan *x = &p->axis[i];
        x->scale = x->out == 0 ? 1.0 : x->scale; /* nothing is computed */
        if (!(x->scale >= SCALE_MIN && x->scale <= 1.0 / SCALE_MIN)) {
            return mq_fail(err, MQ_E_LIMIT, "axis %d is scaled by %g", i, x->scale);
        }
        if (!(fabs(x->roi_start) <= ROI_MAX && fabs(x->roi_end) <= ROI_MAX)) {
            return mq_fail(err, MQ_E_ARG, "roi of axis %d is %g to %g", i, x->roi_start,
                           x->roi_end);
        }
    }
    return MQ_OK;
}

static mq_code plan_of(const mq_op_call *call, resize_plan *p, mq_error *err)
{
    const resize_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    const mq_tensor *sizes = filled(call, a->sizes_input), *roi = filled(call, a->roi_input);
    int32_t axes[MQ_RANK_MAX] = {0};
    size_t count;
    mq_code code = axes_of(call, axes, &count, err);
    for (int32_t i = 0; i < x->rank; i++) {
        p->axis[i] = (axis_plan){x->dims[i], x->dims[i], 1.0, (double)x->dims[i], 0.0, 1.0};
    }
    for (size_t i = 0; roi != NULL && i < count && code == MQ_OK; i++) {
        if (mq_elements(roi) != 2 * count) {
            return mq_fail(err, MQ_E_ARG, "roi must have %zu entries", 2 * count);
        }
        p->axis[axes[i]].roi_start = mq_element(roi, i);
        p->axis[axes[i]].roi_end = mq_element(roi, i + count);
    }
    if (code == MQ_OK) {
        code = sizes != NULL ? plan_sizes(call, sizes, axes, count, p, err)
                             : plan_scales(call, axes, count, p, err);
    }
    return code == MQ_OK ? check_plan(p, x->rank, err) : code;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    resize_plan p;
    mq_code code = plan_of(call, &p, err);
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = call->inputs[0]->shape;
    for (int32_t i = 0; i < call->inputs[0]->shape.rank && code == MQ_OK; i++) {
        call->outputs[0]->shape.dims[i] = p.axis[i].out;
        if (p.axis[i].in < 1 && p.axis[i].out > 0) {
            code = mq_fail(err, MQ_E_ARG, "dimension %d is 0: nothing to interpolate", i);
        }
    }
    return code;
}

/* ---- taps of one output coordinate ---- */

static double coordinate(const resize_attrs *a, const axis_plan *x, int64_t o)
{
    double at = (double)o, half = (at + 0.5) / x->scale - 0.5;
    if (mq_span_is(a->coordinates, "asymmetric")) {
        return at / x->scale;
    }
    if (mq_span_is(a->coordinates, "align_corners")) {
        return x->out < 2 ? 0.0 : at * (double)(x->in - 1) / (x->wanted - 1.0);
    }
    if (mq_span_is(a->coordinates, "pytorch_half_pixel")) {
        return x->out < 2 ? 0.0 : half;
    }
    if (mq_span_is(a->coordinates, "tf_half_pixel_for_nn")) {
        return half + 0.5;
    }
    if (mq_span_is(a->coordinates, "half_pixel_symmetric")) {
        double adjust = (double)x->out / x->wanted;
        return (double)x->in / 2.0 * (1.0 - adjust) + half;
    }
    if (mq_span_is(a->coordinates, "tf_crop_and_resize")) {
        double last = (double)(x->in - 1);
        return x->out > 1 ? x->roi_start * last +
                                at * (x->roi_end - x->roi_start) * last / (double)(x->out - 1)
                          : 0.5 * (x->roi_start + x->roi_end) * last;
    }
    return half;
}

static double nearest(const resize_attrs *a, double x)
{
    if (mq_span_is(a->nearest, "floor")) {
        return floor(x);
    }
    if (mq_span_is(a->nearest, "ceil")) {
        return ceil(x);
    }
    return mq_span_is(a->nearest, "round_prefer_ceil") ? floor(x + 0.5) : ceil(x - 0.5);
}

static double cubic(double a, double x)
{
    x = fabs(x);
    return x <= 1.0  ? ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
           : x < 2.0 ? ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
                     : 0.0;
}

/* Weights of inputs first.. into weights; returns how many. */
static size_t taps_at(const resize_attrs *a, const axis_plan *x, double at, int64_t *first,
                      double *weights)
{
    if (mq_span_is(a->mode, "nearest")) {
        *first = (int64_t)nearest(a, at);
        weights[0] = 1.0;
        return 1;
    }
    bool is_cubic = mq_span_is(a->mode, "cubic");
    double reach = is_cubic ? 2.0 : 1.0, base = floor(at), ratio = at - base, sum = 0.0;
    double scale = a->antialias != 0 && x->scale < 1.0 ? x->scale : 1.0;
    int64_t start = (int64_t)floor(-reach / scale) + 1;
    size_t count = (size_t)(2 - 2 * start);
    *first = (int64_t)base + start;
    for (size_t i = 0; i < count; i++) {
        double d = ((double)(start + (int64_t)i) - ratio) * scale;
        int64_t from = *first + (int64_t)i;
        bool is_outside = a->exclude_outside != 0 && (from < 0 || from >= x->in);
        double w = is_cubic ? cubic((double)a->cubic_a, d) : 1.0 - fabs(d);
        weights[i] = is_outside || (!is_cubic && w < 0.0) ? 0.0 : w;
        sum += weights[i];
    }
    for (size_t i = 0; i < count; i++) {
        weights[i] /= sum;
    }
    return count;
}

/* Taps of the widest axis. */
static size_t taps_max(const resize_plan *p, int32_t rank)
{
    size_t most = 8;
    for (int32_t i = 0; i < rank; i++) {
        double scale = p->axis[i].scale < 1.0 ? p->axis[i].scale : 1.0;
        most = mq_max_size(most, 2 * (size_t)floor(2.0 / scale) + 8);
    }
    return most;
}

/* Elements of the largest tensor on the way: axes are resampled from the last to the first. */
static size_t between(const resize_plan *p, int32_t rank)
{
    size_t most = 1;
    for (int32_t done = 0; done <= rank; done++) {
        size_t count = 1;
        for (int32_t i = 0; i < rank; i++) {
            count *= (size_t)(i < rank - done ? p->axis[i].in : p->axis[i].out);
        }
        most = mq_max_size(most, count);
    }
    return most;
}

static size_t scratch(const mq_op_call *call)
{
    resize_plan p;
    int32_t rank = call->inputs[0]->shape.rank;
    if (plan_of(call, &p, NULL) != MQ_OK) {
        return 0;
    }
    return (2 * between(&p, rank) + taps_max(&p, rank)) * sizeof(double);
}

/* to[outer, out, inner] from from[outer, in, inner]. */
static void resample(const resize_attrs *a, const axis_plan *x, size_t outer, size_t inner,
                     const double *from, double *to, double *weights)
{
    bool is_crop = mq_span_is(a->coordinates, "tf_crop_and_resize");
    for (int64_t o = 0; o < x->out; o++) {
        int64_t first;
        double at = coordinate(a, x, o);
        size_t taps = taps_at(a, x, at, &first, weights);
        bool is_outside = is_crop && (at < 0.0 || at > (double)(x->in - 1));
        for (size_t r = 0; r < outer; r++) {
            double *row = to + (r * (size_t)x->out + (size_t)o) * inner;
            for (size_t i = 0; i < inner; i++) {
                row[i] = is_outside ? (double)a->extrapolation : 0.0;
            }
            for (size_t k = 0; !is_outside && k < taps; k++) {
                int64_t line = first + (int64_t)k;
                line = line < 0 ? 0 : line >= x->in ? x->in - 1 : line;
                const double *in = from + (r * (size_t)x->in + (size_t)line) * inner;
                double w = weights[k];
                for (size_t i = 0; i < inner; i++) {
                    row[i] += w * in[i];
                }
            }
        }
    }
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    const resize_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    int32_t rank = x->shape.rank;
    resize_plan p;
    mq_code code = plan_of(call, &p, err);
    if (code != MQ_OK || mq_elements(call->outputs[0]) == 0) {
        return code;
    }
    size_t room = between(&p, rank), inner = 1;
    double *from = call->scratch, *to = from + room, *weights = to + room;
    for (size_t i = 0, n = mq_elements(x); i < n; i++) {
        from[i] = mq_element(x, i);
    }
    for (int32_t d = rank - 1; d >= 0; d--) {
        const axis_plan *axis = &p.axis[d];
        bool is_same = axis->in == axis->out && axis->scale >= 1.0 && axis->scale <= 1.0 &&
                       !mq_span_is(a->coordinates, "tf_crop_and_resize");
        if (!is_same) {
            resample(a, axis, mq_dims_product(&x->shape, 0, d), inner, from, to, weights);
            double *other = from;
            from = to;
            to = other;
        }
        inner *= (size_t)axis->out;
    }
    bool is_float = mq_is_float(x->dtype);
    for (size_t i = 0, n = mq_elements(call->outputs[0]); i < n; i++) {
        mq_element_set(call->outputs[0], i, is_float ? from[i] : nearbyint(from[i]));
    }
    return MQ_OK;
}

/* ---- rows ---- */

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    resize_attrs *a = attrs;
    bool is_upsample = strcmp(node->op_type, "Upsample") == 0;
    if (is_upsample || opset == 10) {
        a->coordinates = mq_str("asymmetric");
        a->nearest = mq_str("floor");
        a->policy = mq_str("stretch");
        a->scales_input = 1;
    } else {
        a->roi_input = 1, a->scales_input = 2, a->sizes_input = 3;
    }
    bool is_linear = mq_span_is(a->mode, "linear") || mq_span_is(a->mode, "bilinear");
    if (!is_linear && !mq_span_is(a->mode, "nearest") && !mq_span_is(a->mode, "cubic")) {
        return mq_fail(err, MQ_E_ARG, "mode is none of nearest, linear, cubic");
    }
    return MQ_OK;
}

#define TEXT(name_, field, value)                                                                  \
    {                                                                                              \
        .name = name_, .type = MQ_ATTR_STRING, .offset = offsetof(resize_attrs, field),            \
        .s = (value)                                                                               \
    }
static const mq_attr_spec upsample_9_specs[] = {TEXT("mode", mode, "nearest"), {.name = NULL}};
static const mq_attr_spec resize_specs[] = {
    TEXT("mode", mode, "nearest"),
    TEXT("coordinate_transformation_mode", coordinates, "half_pixel"),
    TEXT("nearest_mode", nearest, "round_prefer_floor"),
    TEXT("keep_aspect_ratio_policy", policy, "stretch"),
    {.name = "axes", .type = MQ_ATTR_INTS, .offset = offsetof(resize_attrs, axes)},
    {.name = "cubic_coeff_a",
     .type = MQ_ATTR_FLOAT,
     .offset = offsetof(resize_attrs, cubic_a),
     .f = -0.75f},
    {.name = "extrapolation_value",
     .type = MQ_ATTR_FLOAT,
     .offset = offsetof(resize_attrs, extrapolation)},
    {.name = "exclude_outside",
     .type = MQ_ATTR_INT,
     .offset = offsetof(resize_attrs, exclude_outside)},
    {.name = "antialias", .type = MQ_ATTR_INT, .offset = offsetof(resize_attrs, antialias)},
    {.name = NULL},
};

#define TYPES (MQ_T_NUMBERS | MQ_T_HALF)
#define ROW(symbol, name_, since_, in_min, in_max, values_, specs_, cases_)                        \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {in_min, in_max},                                                                    \
        .out = {1, 1},                                                                             \
        .args = {{0, TYPES}, {0, MQ_T_FLOATS | MQ_T_HALF}, {0, MQ_T_FLOATS}, {0, MQ_T_INDEX}},     \
        .shape_inputs = values_,                                                                   \
        .attrs_bytes = sizeof(resize_attrs),                                                       \
        .specs = specs_,                                                                           \
        .parse = parse,                                                                            \
        .shape = shape,                                                                            \
        .scratch = scratch,                                                                        \
        .run = run,                                                                                \
        .cases = cases_,                                                                           \
    }
ROW(upsample_9, "Upsample", 9, 2, 2, 2, upsample_9_specs, "| f32[1,A,2,3] f32{1,1,2,3}");
ROW(resize_10, "Resize", 10, 2, 2, 2, upsample_9_specs, "mode=linear | f32[1,A,2,3] f32{1,1,2,3}");
ROW(resize_11, "Resize", 11, 1, 4, 14, resize_specs,
    "mode=linear | f32[1,A,4,3] - f32{1,1,0.5,3}; mode=cubic | f32[A,4] - - i64{2,7};"
    "antialias=1 mode=linear axes=(1) | f64[A,9] - - i64{4}");

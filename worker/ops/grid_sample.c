/* GridSample and AffineGrid: reading a tensor at real coordinates, in any number of dimensions.
 * onnx.ai/onnx/operators/onnx__GridSample.html, onnx__AffineGrid.html */
#include "worker/ops/copy.h"
#include "worker/ops/element.h"

enum { TAPS_MAX = 4, SPACE_MAX = MQ_RANK_MAX - 2 };

typedef enum grid_mode { GRID_NEAREST, GRID_LINEAR, GRID_CUBIC } grid_mode;
typedef enum grid_pad { GRID_ZEROS, GRID_BORDER, GRID_REFLECTION } grid_pad;

typedef struct grid_attrs {
    mq_span mode_name, pad_name;
    int64_t align_corners;
    grid_mode mode;
    grid_pad pad;
} grid_attrs;

static mq_code grid_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    grid_attrs *a = attrs;
    if (mq_span_is(a->mode_name, "nearest")) {
        a->mode = GRID_NEAREST;
    } else if (mq_span_is(a->mode_name, "linear") || mq_span_is(a->mode_name, "bilinear")) {
        a->mode = GRID_LINEAR;
    } else if (mq_span_is(a->mode_name, "cubic") || mq_span_is(a->mode_name, "bicubic")) {
        a->mode = GRID_CUBIC;
    } else {
        return mq_fail(err, MQ_E_UNSUPPORTED, "mode '%.*s'", (int)(a->mode_name.len & 63),
                       (const char *)a->mode_name.data);
    }
    if (mq_span_is(a->pad_name, "zeros")) {
        a->pad = GRID_ZEROS;
    } else if (mq_span_is(a->pad_name, "border")) {
        a->pad = GRID_BORDER;
    } else if (mq_span_is(a->pad_name, "reflection")) {
        a->pad = GRID_REFLECTION;
    } else {
        return mq_fail(err, MQ_E_UNSUPPORTED, "padding_mode '%.*s'", (int)(a->pad_name.len & 63),
                       (const char *)a->pad_name.data);
    }
    return MQ_OK;
}

static mq_code grid_shape(const mq_op_call *call, mq_error *err)
{
    const grid_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    const mq_shape *g = &call->inputs[1]->shape;
    int32_t space = x->shape.rank - 2;
    if (space < 1 || g->rank != x->shape.rank || g->dims[0] != x->shape.dims[0] ||
        g->dims[g->rank - 1] != space) {
        char tx[128], tg[128];
        return mq_fail(err, MQ_E_ARG, "input %s and grid %s: [N,C,D1..] and [N,..,%d] are due",
                       mq_shape_text(&x->shape, tx, sizeof tx), mq_shape_text(g, tg, sizeof tg),
                       space);
    }
    if (a->mode != GRID_NEAREST && x->dtype == MQ_DT_STR) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "strings have no value in between");
    }
    mq_shape y = *g;
    y.dims[1] = x->shape.dims[1];
    for (int32_t i = 0; i < space; i++) {
        y.dims[2 + i] = g->dims[1 + i];
        if (x->shape.dims[2 + i] == 0 && a->pad != GRID_ZEROS) {
            return mq_fail(err, MQ_E_ARG, "input dimension %d is 0", 2 + i);
        }
    }
    call->outputs[0]->dtype = x->dtype;
    call->outputs[0]->shape = y;
    return MQ_OK;
}

/* Folds v into [low, high] as by mirrors at both ends. */
static double reflect(double v, double low, double high)
{
    double range = high - low, away = v < low ? low - v : v - high;
    if (away <= 0.0) {
        return v;
    }
    if (range <= 0.0) {
        return low;
    }
    double turns = floor(away / range), rest = away - turns * range;
    bool is_even = fmod(turns, 2.0) == 0.0;
    return (v < low) == is_even ? low + rest : high - rest;
}

typedef struct taps {
    int32_t count;
    int64_t at[TAPS_MAX]; /* -1: outside, counts 0 */
    double weight[TAPS_MAX];
} taps;

static double cubic(double x) /* Keys 1981, a = -0.75 */
{
    double t = fabs(x), a = -0.75;
    return t <= 1.0 ? ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
                    : ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a;
}

static int64_t tap_index(const grid_attrs *a, double at, double low, double high, int64_t length)
{
    if (a->pad == GRID_REFLECTION) {
        at = reflect(at, low, high);
        at = at < 0.0 ? 0.0 : floor(at);
    }
    if (a->pad != GRID_ZEROS) {
        return at < 0.0 ? 0 : at > (double)(length - 1) ? length - 1 : (int64_t)at;
    }
    return at >= 0.0 && at < (double)length ? (int64_t)at : -1;
}

/* What a normalized coordinate reads of an axis. */
static void taps_of(const grid_attrs *a, double n, bool is_double, int64_t length, taps *t)
{
    double low = a->align_corners != 0 ? 0.0 : -0.5;
    double high = (double)length + (a->align_corners != 0 ? -1.0 : -0.5), x;
    if (is_double) {
        x = a->align_corners != 0 ? (n + 1.0) / 2.0 * (double)(length - 1)
                                  : ((n + 1.0) * (double)length - 1.0) / 2.0;
    } else { /* which of two neighbours is nearest depends on the precision */
        float f = (float)n, l = (float)length;
        x = (double)(a->align_corners != 0 ? (f + 1.0f) / 2.0f * (l - 1.0f)
                                           : ((f + 1.0f) * l - 1.0f) / 2.0f);
    }
    x = x > -1e12 && x < 1e12 ? x : -1.0; /* NaN, infinity */
    x = a->mode == GRID_NEAREST ? rint(x) : x;
    if (a->pad == GRID_BORDER) {
        x = x < 0.0 ? 0.0 : x > (double)(length - 1) ? (double)(length - 1) : x;
    } else if (a->pad == GRID_REFLECTION) {
        x = reflect(x, low, high);
    }
    double base = a->mode == GRID_NEAREST ? trunc(x) : floor(x);
    double first = a->mode == GRID_CUBIC ? base - 1.0 : base;
    t->count = a->mode == GRID_NEAREST ? 1 : a->mode == GRID_LINEAR ? 2 : 4;
    for (int32_t i = 0; i < t->count; i++) {
        double at = first + (double)i;
        t->at[i] = tap_index(a, at, low, high, length);
        t->weight[i] = a->mode == GRID_NEAREST  ? 1.0
                       : a->mode == GRID_LINEAR ? 1.0 - fabs(x - at)
                                                : cubic(x - at);
    }
}

/* Sum over all combinations of taps. */
static double sample(const mq_tensor *x, size_t plane, const mq_shape *xs, const taps *t)
{
    int32_t space = xs->rank - 2, index[SPACE_MAX] = {0}, d;
    double sum = 0.0;
    do {
        double weight = 1.0;
        size_t at = 0;
        bool is_inside = true;
        for (d = 0; d < space; d++) {
            int64_t i = t[d].at[index[d]];
            is_inside = is_inside && i >= 0;
            weight *= t[d].weight[index[d]];
            at = at * (size_t)xs->dims[2 + d] + (size_t)(i < 0 ? 0 : i);
        }
        if (is_inside) {
            sum += weight * mq_element(x, plane + at);
        }
        for (d = space - 1; d >= 0 && ++index[d] == t[d].count; d--) {
            index[d] = 0;
        }
    } while (d >= 0);
    return sum;
}

static void copy_nearest(const mq_tensor *x, size_t plane, const taps *t, const mq_tensor *y,
                         size_t to)
{
    size_t at = 0, each = mq_each(x);
    for (int32_t d = 0; d < x->shape.rank - 2; d++) {
        if (t[d].at[0] < 0) {
            memset((uint8_t *)y->data + to * each, 0, each);
            return;
        }
        at = at * (size_t)x->shape.dims[2 + d] + (size_t)t[d].at[0];
    }
    memcpy((uint8_t *)y->data + to * each, (const uint8_t *)x->data + (plane + at) * each, each);
}

static mq_code grid_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const grid_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *grid = call->inputs[1], *y = call->outputs[0];
    int32_t space = x->shape.rank - 2;
    size_t points = mq_dims_product(&y->shape, 2, y->shape.rank);
    size_t area = mq_dims_product(&x->shape, 2, x->shape.rank);
    size_t channels = (size_t)x->shape.dims[1], total = (size_t)x->shape.dims[0] * points;
    for (size_t p = 0; p < total; p++) {
        taps t[SPACE_MAX];
        for (int32_t d = 0; d < space; d++) { /* coordinates come x first */
            double n = mq_element(grid, p * (size_t)space + (size_t)(space - 1 - d));
            taps_of(a, n, grid->dtype == MQ_DT_F64, x->shape.dims[2 + d], &t[d]);
        }
        for (size_t c = 0; c < channels; c++) {
            size_t plane = p / points * channels + c, to = plane * points + p % points;
            if (a->mode == GRID_NEAREST) {
                copy_nearest(x, plane * area, t, y, to);
            } else {
                mq_element_set(y, to, sample(x, plane * area, &x->shape, t));
            }
        }
    }
    return MQ_OK;
}

static const mq_attr_spec grid_specs[] = {
    {.name = "mode",
     .type = MQ_ATTR_STRING,
     .offset = offsetof(grid_attrs, mode_name),
     .s = "linear"},
    {.name = "padding_mode",
     .type = MQ_ATTR_STRING,
     .offset = offsetof(grid_attrs, pad_name),
     .s = "zeros"},
    {.name = "align_corners", .type = MQ_ATTR_INT, .offset = offsetof(grid_attrs, align_corners)},
    {.name = NULL},
};

const mq_op mq_op_grid_sample = {
    .name = "GridSample",
    .domain = "",
    .since = 16,
    .in = {2, 2},
    .out = {1, 1},
    .args = {{0, MQ_T_FIXED | MQ_T(MQ_DT_STR)}, {0, MQ_T_FLOATS | MQ_T_HALF}},
    .attrs_bytes = sizeof(grid_attrs),
    .specs = grid_specs,
    .parse = grid_parse,
    .shape = grid_shape,
    .run = grid_run,
    .cases = "| f32[2,3,A,B] f32[2,C,D,2]; mode=cubic padding_mode=reflection | "
             "f32[1,2,A,B] f32[1,C,D,2]; mode=nearest padding_mode=border align_corners=1 | "
             "i32[1,2,A,B,C] f64[1,2,3,2,3]; padding_mode=reflection align_corners=1 | "
             "f64[1,1,1,B] f32[1,3,3,2]",
};

/* --- AffineGrid: theta times the coordinates of every output point --- */

typedef struct affine_attrs {
    int64_t align_corners;
} affine_attrs;

static mq_code affine_shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *t = &call->inputs[0]->shape;
    int64_t size[5];
    size_t count = mq_tensor_ints(call->inputs[1], size, 5);
    int32_t space = (int32_t)count - 2;
    if ((count != 4 && count != 5) || t->rank != 3 || t->dims[0] != size[0] ||
        t->dims[1] != space || t->dims[2] != space + 1) {
        return mq_fail(err, MQ_E_ARG,
                       "theta must be [N,2,3] with size [N,C,H,W], or [N,3,4] with [N,C,D,H,W]");
    }
    mq_shape y = {.rank = space + 2};
    y.dims[0] = size[0];
    for (int32_t i = 0; i < space; i++) {
        y.dims[1 + i] = size[2 + i];
    }
    y.dims[space + 1] = space;
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = y;
    return MQ_OK;
}

static double affine_at(bool is_aligned, int64_t i, int64_t length)
{
    if (!is_aligned) {
        return (2.0 * (double)i + 1.0) / (double)length - 1.0;
    }
    return length > 1 ? 2.0 * (double)i / (double)(length - 1) - 1.0 : -1.0;
}

static mq_code affine_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const affine_attrs *a = call->attrs;
    const mq_tensor *theta = call->inputs[0], *y = call->outputs[0];
    int32_t space = y->shape.rank - 2;
    size_t s = (size_t)space, total = mq_dims_product(&y->shape, 0, space + 1);
    int64_t index[MQ_RANK_MAX] = {0};
    mq_shape points = y->shape;
    points.rank = space + 1;
    for (size_t p = 0; p < total; p++) {
        for (size_t row = 0; row < s; row++) {
            size_t at = ((size_t)index[0] * s + row) * (s + 1);
            double sum = mq_element(theta, at + s);
            for (int32_t k = 0; k < space; k++) { /* x is the last axis */
                sum += mq_element(theta, at + (size_t)k) *
                       affine_at(a->align_corners != 0, index[space - k], y->shape.dims[space - k]);
            }
            mq_element_set(y, p * s + row, sum);
        }
        mq_next_index(&points, index);
    }
    return MQ_OK;
}

static const mq_attr_spec affine_specs[] = {
    {.name = "align_corners", .type = MQ_ATTR_INT, .offset = offsetof(affine_attrs, align_corners)},
    {.name = NULL},
};

const mq_op mq_op_affine_grid = {
    .name = "AffineGrid",
    .domain = "",
    .since = 20,
    .in = {2, 2},
    .out = {1, 1},
    .args = {{0, MQ_T_FLOATS | MQ_T_HALF}, {0, MQ_T(MQ_DT_I64)}},
    .shape_inputs = 2,
    .attrs_bytes = sizeof(affine_attrs),
    .specs = affine_specs,
    .shape = affine_shape,
    .run = affine_run,
    .cases = "| f32[2,2,3] i64{2,3,4,5}; align_corners=1 | f64[1,3,4] i64{1,1,2,3,1}",
};

/* MaxPool, AveragePool, LpPool and their global forms, over any number of spatial dimensions.
 * onnx.ai/onnx/operators/onnx__MaxPool.html and its sisters. */
#include "worker/ops/rows.h"
#include "worker/ops/window.h"

typedef enum pool_kind {
    POOL_MAX,
    POOL_AVERAGE,
    POOL_LP,
} pool_kind;

typedef struct pool_attrs {
    mq_window_attrs window;
    pool_kind kind;
    bool is_global;
} pool_attrs;

static mq_code window_of(const mq_op_call *call, mq_window *w, mq_error *err)
{
    const pool_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    int64_t kernel[MQ_WINDOW_AXES_MAX];
    if (!a->is_global) {
        mq_code code = mq_window_kernel(&a->window, x, kernel, err);
        return code == MQ_OK ? mq_window_of(&a->window, x, kernel, w, err) : code;
    }
    if (x->rank < 2) {
        return mq_fail(err, MQ_E_ARG, "rank %d, at least 2 is due: batch, channels, ...", x->rank);
    }
    *w = (mq_window){.axes = x->rank - 2};
    for (int32_t i = 0; i < w->axes; i++) {
        w->in[i] = w->kernel[i] = x->dims[i + 2];
        w->out[i] = w->stride[i] = w->dilation[i] = 1;
        if (w->in[i] < 1) {
            return mq_fail(err, MQ_E_ARG, "spatial dimension %d is 0: nothing to pool", i);
        }
    }
    return MQ_OK;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    mq_window w;
    mq_code code = window_of(call, &w, err);
    if (code != MQ_OK) {
        return code;
    }
    for (uint32_t k = 0; k < call->output_count; k++) {
        mq_tensor *y = call->outputs[k];
        if (y == NULL) {
            continue;
        }
        y->dtype = k == 0 ? call->inputs[0]->dtype : MQ_DT_I64;
        y->shape = call->inputs[0]->shape;
        for (int32_t i = 0; i < w.axes; i++) {
            y->shape.dims[i + 2] = w.out[i];
        }
    }
    return MQ_OK;
}

/* Planes: every channel of every image. */
static size_t planes_of(const mq_op_call *call)
{
    return mq_dims_product(&call->inputs[0]->shape, 0, 2);
}

/* Elements that output position o averages over. Padding counts with count_include_pad, what a
 * ceiled last window has beyond it never. */
static float count_at(const mq_window *w, const int64_t *o, bool has_padding)
{
    int64_t count = 1;
    for (int32_t i = 0; i < w->axes; i++) {
        int64_t x = o[i] * w->stride[i] - w->begin[i], n = 0;
        int64_t from = has_padding ? -w->begin[i] : 0,
                to = w->in[i] + (has_padding ? w->end[i] : 0);
        for (int64_t k = 0; k < w->kernel[i]; k++, x += w->dilation[i]) {
            n += x >= from && x < to;
        }
        count *= n;
    }
    return (float)count;
}

static double read_at(const mq_tensor *t, size_t i)
{
    switch ((int)t->dtype) {
    case MQ_DT_F64:
        return ((const double *)t->data)[i];
    case MQ_DT_I8:
        return (double)((const int8_t *)t->data)[i];
    case MQ_DT_U8:
        return (double)((const uint8_t *)t->data)[i];
    default:
        return (double)((const float *)t->data)[i];
    }
}

static void write_at(mq_tensor *t, size_t i, double v)
{
    switch ((int)t->dtype) {
    case MQ_DT_F64:
        ((double *)t->data)[i] = v;
        break;
    case MQ_DT_I8:
        ((int8_t *)t->data)[i] = (int8_t)v;
        break;
    case MQ_DT_U8:
        ((uint8_t *)t->data)[i] = (uint8_t)v;
        break;
    default:
        ((float *)t->data)[i] = (float)v;
        break;
    }
}

/* ---- the plain way, which also finds where a maximum is ---- */

typedef struct pooled {
    double value;
    ptrdiff_t best; /* offset of the maximum in the plane */
} pooled;

static pooled pool_at(const pool_attrs *a, const mq_window *w, const mq_tensor *x, size_t base,
                      const int64_t *o)
{
    int64_t k[MQ_WINDOW_AXES_MAX] = {0};
    double p = (double)a->window.p, sum = 0.0;
    pooled best = {-HUGE_VAL, -1};
    do {
        ptrdiff_t at = mq_window_tap(w, o, k);
        if (at < 0) {
            continue;
        }
        double v = read_at(x, base + (size_t)at);
        sum += a->kind == POOL_LP ? pow(fabs(v), p) : v;
        if (best.best < 0 || v > best.value) {
            best = (pooled){v, at};
        }
    } while (mq_window_next(w->axes, w->kernel, k));
    if (a->kind == POOL_AVERAGE) {
        best.value = sum / (double)count_at(w, o, a->window.count_include_pad != 0);
    } else if (a->kind == POOL_LP) {
        best.value = pow(sum, 1.0 / p);
    }
    return best;
}

/* Offset in a plane stored column by column (storage_order 1). */
static int64_t column_major(const mq_window *w, int64_t at)
{
    int64_t out = 0, coordinates[MQ_WINDOW_AXES_MAX];
    for (int32_t i = w->axes - 1; i >= 0; i--) {
        coordinates[i] = at % w->in[i];
        at /= w->in[i];
    }
    for (int32_t i = w->axes - 1; i >= 0; i--) {
        out = out * w->in[i] + coordinates[i];
    }
    return out;
}

static mq_code run_plain(const mq_op_call *call, mq_error *err)
{
    const pool_attrs *a = call->attrs;
    mq_tensor *indices = mq_call_output(call, 1);
    mq_window w;
    mq_code code = window_of(call, &w, err);
    size_t in = mq_window_in(&w), at = 0;
    for (size_t plane = 0; mq_window_out(&w) > 0 && plane < planes_of(call); plane++) {
        int64_t o[MQ_WINDOW_AXES_MAX] = {0};
        do {
            pooled p = pool_at(a, &w, call->inputs[0], plane * in, o);
            write_at(call->outputs[0], at, p.value);
            if (indices != NULL) {
                int64_t best = a->window.storage_order != 0 ? column_major(&w, p.best) : p.best;
                ((int64_t *)indices->data)[at] = (int64_t)(plane * in) + best;
            }
            at++;
        } while (mq_window_next(w.axes, w.out, o));
    }
    return code;
}

/* ---- float32: tap by tap over rows of outputs ---- */

/* One sum or maximum a plane. */
static void run_global(const mq_op_call *call, bool is_maximum)
{
    const mq_tensor *x = call->inputs[0];
    size_t planes = planes_of(call), n = planes == 0 ? 0 : mq_elements(x) / planes;
    float *y = call->outputs[0]->data;
    for (size_t i = 0; i < planes; i++) {
        const float *plane = (const float *)x->data + i * n;
        y[i] = is_maximum ? (float)mq_row_wide(MQ_ROW_MAX, plane, n)
                          : (float)(mq_row_wide(MQ_ROW_SUM, plane, n) / (double)n);
    }
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    const pool_attrs *a = call->attrs;
    mq_window w;
    if (a->is_global && a->kind != POOL_LP && call->inputs[0]->dtype == MQ_DT_F32) {
        run_global(call, a->kind == POOL_MAX);
        return MQ_OK;
    }
    if (call->inputs[0]->dtype != MQ_DT_F32 || mq_call_output(call, 1) != NULL ||
        a->kind == POOL_LP) {
        return run_plain(call, err);
    }
    mq_code code = window_of(call, &w, err);
    size_t in = mq_window_in(&w), out = mq_window_out(&w);
    for (size_t plane = 0; out > 0 && plane < planes_of(call); plane++) {
        const float *x = (const float *)call->inputs[0]->data + plane * in;
        float *y = (float *)call->outputs[0]->data + plane * out;
        if (a->kind == POOL_MAX) {
            mq_window_maximum(&w, x, y);
            continue;
        }
        int64_t o[MQ_WINDOW_AXES_MAX] = {0};
        mq_window_sum(&w, x, y);
        do {
            *y++ /= count_at(&w, o, a->window.count_include_pad != 0);
        } while (mq_window_next(w.axes, w.out, o));
    }
    return code;
}

/* What one output position gives to those it was made of. */
static void spread(const mq_op_grad *g, const mq_window *w, size_t base, size_t at,
                   const int64_t *o)
{
    const pool_attrs *a = g->call.attrs;
    int64_t k[MQ_WINDOW_AXES_MAX] = {0};
    float *dx = g->dx[0] + base;
    if (a->kind == POOL_MAX) {
        dx[pool_at(a, w, g->call.inputs[0], base, o).best] += g->dy[0][at];
        return;
    }
    float part = g->dy[0][at] / count_at(w, o, a->window.count_include_pad != 0);
    do {
        ptrdiff_t to = mq_window_tap(w, o, k);
        if (to >= 0) {
            dx[to] += part;
        }
    } while (mq_window_next(w->axes, w->kernel, k));
}

/* Not for POOL_LP: powers come from libm, whose bits are not fixed. */
static void grad(const mq_op_grad *g)
{
    mq_window w;
    if (g->dx[0] == NULL || window_of(&g->call, &w, NULL) != MQ_OK) {
        return;
    }
    size_t in = mq_window_in(&w), at = 0;
    if (!g->add[0]) {
        memset(g->dx[0], 0, mq_elements(g->call.inputs[0]) * sizeof(float));
    }
    for (size_t plane = 0; mq_window_out(&w) > 0 && plane < planes_of(&g->call); plane++) {
        int64_t o[MQ_WINDOW_AXES_MAX] = {0};
        do {
            spread(g, &w, plane * in, at++, o);
        } while (mq_window_next(w.axes, w.out, o));
    }
}

/* ---- rows ---- */

#define PARSE(symbol, kind_, is_global_)                                                           \
    static mq_code parse_##symbol(const mq_node *node, int64_t opset, void *attrs, mq_error *err)  \
    {                                                                                              \
        (void)node;                                                                                \
        (void)opset;                                                                               \
        pool_attrs *a = attrs;                                                                     \
        a->kind = kind_;                                                                           \
        a->is_global = is_global_;                                                                 \
        if (kind_ == POOL_LP && a->window.p < 1) {                                                 \
            return mq_fail(err, MQ_E_ARG, "p is %lld, at least 1 is due", (long long)a->window.p); \
        }                                                                                          \
        return MQ_OK;                                                                              \
    }
PARSE(max, POOL_MAX, false)
PARSE(average, POOL_AVERAGE, false)
PARSE(lp, POOL_LP, false)
PARSE(global_max, POOL_MAX, true)
PARSE(global_average, POOL_AVERAGE, true)
PARSE(global_lp, POOL_LP, true)

static const mq_attr_spec max_specs[] = {
    MQ_WINDOW_AUTO_PAD,
    MQ_WINDOW_INTS(kernel_shape),
    MQ_WINDOW_INTS(strides),
    MQ_WINDOW_INTS(pads),
    MQ_WINDOW_INTS(dilations),
    MQ_WINDOW_INT(ceil_mode, 0),
    MQ_WINDOW_INT(storage_order, 0),
    {.name = NULL},
};

static const mq_attr_spec average_specs[] = {
    MQ_WINDOW_AUTO_PAD,
    MQ_WINDOW_INTS(kernel_shape),
    MQ_WINDOW_INTS(strides),
    MQ_WINDOW_INTS(pads),
    MQ_WINDOW_INTS(dilations),
    MQ_WINDOW_INT(ceil_mode, 0),
    MQ_WINDOW_INT(count_include_pad, 0),
    {.name = NULL},
};

static const mq_attr_spec lp_specs[] = {
    MQ_WINDOW_AUTO_PAD,        MQ_WINDOW_INTS(kernel_shape),
    MQ_WINDOW_INTS(strides),   MQ_WINDOW_INTS(pads),
    MQ_WINDOW_INTS(dilations), MQ_WINDOW_INT(ceil_mode, 0),
    MQ_WINDOW_INT(p, 2),       {.name = NULL},
};

static const mq_attr_spec global_specs[] = {{.name = NULL}};
static const mq_attr_spec global_lp_specs[] = {MQ_WINDOW_INT(p, 2), {.name = NULL}};

#define FLOAT_TYPES MQ_T_FLOATS
#define ROW(symbol, name_, since_, out_max, types_, kind, specs_, grad_, cases_)                   \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {1, 1},                                                                              \
        .out = {1, out_max},                                                                       \
        .args = {{'T', types_}},                                                                   \
        .grad_keeps = MQ_GRAD_INPUTS | MQ_GRAD_OUTPUTS,                                            \
        .attrs_bytes = sizeof(pool_attrs),                                                         \
        .specs = specs_,                                                                           \
        .parse = parse_##kind,                                                                     \
        .shape = shape,                                                                            \
        .run = run,                                                                                \
        .grad = grad_,                                                                             \
        .reference = run_plain,                                                                    \
        .cases = cases_,                                                                           \
    }

ROW(max_pool, "MaxPool", 1, 2, FLOAT_TYPES | MQ_T(MQ_DT_I8) | MQ_T(MQ_DT_U8), max, max_specs, grad,
    "kernel_shape=(2,3) pads=(1,1,0,1) | f32[N,C,5,6];"
    "kernel_shape=(3,3) strides=(2,2) ceil_mode=1 | f32[N,C,6,6];"
    "kernel_shape=(2) strides=(2) dilations=(2) | f32[N,C,7];"
    "kernel_shape=(2,2) | i8[N,C,4,4]; kernel_shape=(2,2,2) auto_pad=SAME_UPPER | f64[1,C,3,3,3]");
ROW(average_pool, "AveragePool", 1, 1, FLOAT_TYPES, average, average_specs, grad,
    "kernel_shape=(2,3) pads=(1,1,0,1) | f32[N,C,5,6];"
    "kernel_shape=(3,3) strides=(2,2) ceil_mode=1 count_include_pad=1 pads=(1,1,1,1) | "
    "f32[N,C,6,6]; kernel_shape=(2) strides=(2) dilations=(2) | f64[N,C,7]");
ROW(lp_pool, "LpPool", 2, 1, FLOAT_TYPES, lp, lp_specs, NULL,
    "kernel_shape=(2,2) | f32[N,C,4,4]; kernel_shape=(3) strides=(2) p=3 | f32[N,C,6]");
ROW(global_max_pool, "GlobalMaxPool", 1, 1, FLOAT_TYPES, global_max, global_specs, grad,
    "| f32[N,C,3,4]; | f64[N,C,5]");
ROW(global_average_pool, "GlobalAveragePool", 1, 1, FLOAT_TYPES, global_average, global_specs, grad,
    "| f32[N,C,3,4]; | f64[N,C,5]");
ROW(global_lp_pool, "GlobalLpPool", 2, 1, FLOAT_TYPES, global_lp, global_lp_specs, NULL,
    "| f32[N,C,3,2]; p=1 | f32[N,C,4]");

/* Softmax and LogSoftmax. Up to opset 12 the input is taken as a matrix cut at `axis`; from 13 on
 * only `axis` is normalized. onnx.ai/onnx/operators/onnx__Softmax.html */
#include "worker/ops/kit.h"
#include "worker/ops/rows.h"
#include "worker/ops/simd.h"

typedef struct softmax_attrs {
    int64_t axis;
    bool is_flat; /* opsets below 13 */
} softmax_attrs;

/* The input as [outer, n, inner]; softmax runs over n. */
typedef struct cut {
    size_t outer, n, inner;
} cut;

static cut cut_of(const mq_op_call *call)
{
    const softmax_attrs *a = call->attrs;
    const mq_shape *s = &call->inputs[0]->shape;
    int32_t axis = (int32_t)(a->axis < 0 ? a->axis + s->rank : a->axis);
    if (s->rank == 0) {
        return (cut){1, 1, 1};
    }
    int32_t end = a->is_flat ? s->rank : axis + 1;
    return (cut){mq_dims_product(s, 0, axis), mq_dims_product(s, axis, end),
                 mq_dims_product(s, end, s->rank)};
}

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)err;
    softmax_attrs *a = attrs;
    a->is_flat = opset < 13;
    if (a->is_flat && mq_node_attr(node, "axis") == NULL) {
        a->axis = 1;
    }
    return MQ_OK;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const softmax_attrs *a = call->attrs;
    int32_t axis, rank = call->inputs[0]->shape.rank;
    mq_code code = mq_axis(a->axis, rank == 0 ? 1 : rank, &axis, err);
    return code == MQ_OK ? mq_shape_same(call, err) : code;
}

/* One row with step 1, the common case. */
static void row_f32(const float *x, float *y, size_t n, bool is_log)
{
    if (!is_log) {
        mq_row_softmax(x, NULL, 1.0f, y, n);
        return;
    }
    float top = mq_row_max(x, n), sum = 0.0f;
    for (size_t i = 0; i < n; i++) {
        sum += mq_expf(x[i] - top);
    }
    float shift = mq_logf(sum);
    for (size_t i = 0; i < n; i++) {
        y[i] = (x[i] - top) - shift;
    }
}

#define LINE(type, suffix, exp_of, log_of)                                                         \
    static void line_##suffix(const type *x, type *y, size_t n, size_t step, bool is_log)          \
    {                                                                                              \
        type top = x[0], sum = 0;                                                                  \
        for (size_t i = 1; i < n; i++) {                                                           \
            top = x[i * step] > top ? x[i * step] : top;                                           \
        }                                                                                          \
        for (size_t i = 0; i < n; i++) {                                                           \
            y[i * step] = exp_of(x[i * step] - top);                                               \
            sum += y[i * step];                                                                    \
        }                                                                                          \
        type shift = is_log ? log_of(sum) : 0;                                                     \
        for (size_t i = 0; i < n; i++) {                                                           \
            y[i * step] = is_log ? (x[i * step] - top) - shift : y[i * step] / sum;                \
        }                                                                                          \
    }
LINE(float, f32, mq_expf, mq_logf)
LINE(double, f64, exp, log)
#undef LINE

/* Softmax of `width` neighbouring lines at once, each with the additions of line_f32. */
enum { COLUMNS = 64 };
MQ_ALWAYS_INLINE void columns_loop(const float *x, float *y, size_t n, size_t step, size_t width)
{
    float top[COLUMNS], sum[COLUMNS];
    for (size_t k = 0; k < width; k++) {
        top[k] = x[k];
        sum[k] = 0.0f;
    }
    for (size_t i = 1; i < n; i++) {
        for (size_t k = 0; k < width; k++) {
            top[k] = x[i * step + k] > top[k] ? x[i * step + k] : top[k];
        }
    }
    for (size_t i = 0; i < n; i++) {
        MQ_EACH_ALONE
        for (size_t k = 0; k < width; k++) {
            y[i * step + k] = mq_expf(x[i * step + k] - top[k]);
        }
        for (size_t k = 0; k < width; k++) {
            sum[k] += y[i * step + k];
        }
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < width; k++) {
            y[i * step + k] = y[i * step + k] / sum[k];
        }
    }
}
MQ_SIMD(columns, (const float *x, float *y, size_t n, size_t step, size_t width),
        columns_loop(x, y, n, step, width), (x, y, n, step, width))

/* float32 along a dimension that is not the last; false: LogSoftmax, or another type. */
static bool by_columns(const mq_tensor *t, const mq_tensor *out, cut c, bool is_log)
{
    if (is_log || t->dtype != MQ_DT_F32 || c.inner < 2) {
        return false;
    }
    for (size_t o = 0; o < c.outer; o++) {
        for (size_t i = 0; i < c.inner; i += COLUMNS) {
            size_t at = o * c.n * c.inner + i;
            size_t width = c.inner - i < COLUMNS ? c.inner - i : COLUMNS;
            columns((const float *)t->data + at, (float *)out->data + at, c.n, c.inner, width);
        }
    }
    return true;
}

static void compute(const mq_op_call *call, bool is_log)
{
    cut c = cut_of(call);
    const mq_tensor *x = call->inputs[0];
    mq_tensor *y = call->outputs[0];
    if (c.n == 0 || by_columns(x, y, c, is_log)) {
        return;
    }
    for (size_t o = 0; o < c.outer; o++) {
        for (size_t i = 0; i < c.inner; i++) {
            size_t at = o * c.n * c.inner + i;
            if (x->dtype == MQ_DT_F64) {
                line_f64((const double *)x->data + at, (double *)y->data + at, c.n, c.inner,
                         is_log);
            } else if (c.inner == 1) {
                row_f32((const float *)x->data + at, (float *)y->data + at, c.n, is_log);
            } else {
                line_f32((const float *)x->data + at, (float *)y->data + at, c.n, c.inner, is_log);
            }
        }
    }
}

static mq_code run_softmax(const mq_op_call *call, mq_error *err)
{
    (void)err;
    compute(call, false);
    return MQ_OK;
}

static mq_code run_log(const mq_op_call *call, mq_error *err)
{
    (void)err;
    compute(call, true);
    return MQ_OK;
}

/* Softmax: dx = y (dy - sum(dy y)). LogSoftmax: dx = dy - e^y sum(dy). */
static void grad_of(const mq_op_grad *g, bool is_log)
{
    cut c = cut_of(&g->call);
    const float *y = g->call.outputs[0]->data;
    float *dx = g->dx[0], *dy = g->dy[0];
    for (size_t line = 0; line < c.outer * c.inner && dx != NULL; line++) {
        size_t at = line / c.inner * c.n * c.inner + line % c.inner;
        float sum = 0.0f;
        for (size_t i = 0; i < c.n; i++) {
            size_t k = at + i * c.inner;
            sum += is_log ? dy[k] : dy[k] * y[k];
        }
        for (size_t i = 0; i < c.n; i++) {
            size_t k = at + i * c.inner;
            float d = is_log ? dy[k] - mq_expf(y[k]) * sum : y[k] * (dy[k] - sum);
            dx[k] = g->add[0] ? dx[k] + d : d;
        }
    }
}

static void grad_softmax(const mq_op_grad *g)
{
    grad_of(g, false);
}

static void grad_log(const mq_op_grad *g)
{
    grad_of(g, true);
}

static mq_code reference_of(const mq_op_call *call, bool is_log)
{
    cut c = cut_of(call);
    const mq_tensor *x = call->inputs[0];
    mq_tensor *y = call->outputs[0];
    for (size_t line = 0; line < c.outer * c.inner; line++) {
        size_t at = line / c.inner * c.n * c.inner + line % c.inner;
        double sum = 0.0;
        for (size_t i = 0; i < 2 * c.n; i++) {
            size_t k = at + i % c.n * c.inner;
            double v = x->dtype == MQ_DT_F32 ? (double)((const float *)x->data)[k]
                                             : ((const double *)x->data)[k];
            if (i < c.n) {
                sum += exp(v);
            } else if (x->dtype == MQ_DT_F32) {
                ((float *)y->data)[k] = (float)(is_log ? v - log(sum) : exp(v) / sum);
            } else {
                ((double *)y->data)[k] = is_log ? v - log(sum) : exp(v) / sum;
            }
        }
    }
    return MQ_OK;
}

static mq_code reference_softmax(const mq_op_call *call, mq_error *err)
{
    (void)err;
    return reference_of(call, false);
}

static mq_code reference_log(const mq_op_call *call, mq_error *err)
{
    (void)err;
    return reference_of(call, true);
}

static const mq_attr_spec specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(softmax_attrs, axis), .i = -1},
    {.name = NULL},
};

#define SOFTMAX(symbol, name_, version, which)                                                     \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = version,                                                                          \
        .in = {1, 1},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{'T', MQ_T_FLOATS}},                                                              \
        .grad_keeps = MQ_GRAD_OUTPUTS,                                                             \
        .attrs_bytes = sizeof(softmax_attrs),                                                      \
        .specs = specs,                                                                            \
        .parse = parse,                                                                            \
        .shape = shape,                                                                            \
        .run = run_##which,                                                                        \
        .grad = grad_##which,                                                                      \
        .reference = reference_##which,                                                            \
        .cases = "| f32[M,N]; axis=1 | f32[A,B,C]; axis=0 | f64[A,B]; axis=-1 | f32[A,B,C]",       \
    }
SOFTMAX(softmax_1, "Softmax", 1, softmax);
SOFTMAX(softmax_13, "Softmax", 13, softmax);
SOFTMAX(log_softmax_1, "LogSoftmax", 1, log);
SOFTMAX(log_softmax_13, "LogSoftmax", 13, log);

/* Activations, vectorized, and the internal operator of one alone; see act.h. */
#include "worker/ops/act.h"

#include "worker/ops/flat.h"
#include "worker/ops/simd.h"

MQ_ALWAYS_INLINE float relu_of(float x, mq_act t)
{
    (void)t;
    return x < 0.0f ? 0.0f : x; /* keeps NaN */
}
MQ_ALWAYS_INLINE float clip_of(float x, mq_act t)
{
    x = x < t.a ? t.a : x;
    return x > t.b ? t.b : x;
}
MQ_ALWAYS_INLINE float leaky_of(float x, mq_act t)
{
    return x < 0.0f ? t.a * x : x;
}
MQ_ALWAYS_INLINE float sigmoid_of(float x, mq_act t)
{
    (void)t;
    return mq_sigmoidf(x);
}
MQ_ALWAYS_INLINE float tanh_of(float x, mq_act t)
{
    (void)t;
    return mq_tanh_flat(x);
}
MQ_ALWAYS_INLINE float hard_sigmoid_of(float x, mq_act t)
{
    float y = t.a * x + t.b;
    return y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y;
}
MQ_ALWAYS_INLINE float hard_swish_of(float x, mq_act t)
{
    return x * hard_sigmoid_of(x, t);
}
MQ_ALWAYS_INLINE float silu_of(float x, mq_act t)
{
    return x * mq_sigmoidf(t.a * x);
}
MQ_ALWAYS_INLINE float gelu_of(float x, mq_act t)
{
    (void)t;
    return 0.5f * x * (1.0f + mq_erf_flat(x * 0.707106781f));
}
MQ_ALWAYS_INLINE float gelu_tanh_of(float x, mq_act t)
{
    (void)t;
    return 0.5f * x * (1.0f + mq_tanh_flat(0.797884561f * (x + 0.044715f * x * x * x)));
}

#define LOOPS(symbol)                                                                              \
    MQ_ALWAYS_INLINE void symbol##_map_loop(mq_act t, const float *x, float *y, size_t n)          \
    {                                                                                              \
        MQ_EACH_ALONE                                                                              \
        for (size_t i = 0; i < n; i++) {                                                           \
            y[i] = symbol##_of(x[i], t);                                                           \
        }                                                                                          \
    }                                                                                              \
    MQ_ALWAYS_INLINE void symbol##_row_loop(mq_act t, const float *bias, float *y, size_t n)       \
    {                                                                                              \
        MQ_EACH_ALONE                                                                              \
        for (size_t i = 0; i < n; i++) {                                                           \
            y[i] = symbol##_of(y[i] + bias[i], t);                                                 \
        }                                                                                          \
    }                                                                                              \
    MQ_SIMD(symbol##_map, (mq_act t, const float *x, float *y, size_t n),                          \
            symbol##_map_loop(t, x, y, n), (t, x, y, n))                                           \
    MQ_SIMD(symbol##_row, (mq_act t, const float *bias, float *y, size_t n),                       \
            symbol##_row_loop(t, bias, y, n), (t, bias, y, n))

MQ_ALWAYS_INLINE float none_of(float x, mq_act t)
{
    (void)t;
    return x;
}
LOOPS(none)
LOOPS(relu)
LOOPS(clip)
LOOPS(leaky)
LOOPS(sigmoid)
LOOPS(tanh)
LOOPS(hard_sigmoid)
LOOPS(hard_swish)
LOOPS(silu)
LOOPS(gelu)
LOOPS(gelu_tanh)

typedef struct loops {
    void (*map)(mq_act t, const float *x, float *y, size_t n);
    void (*row)(mq_act t, const float *bias, float *y, size_t n);
} loops;

#define ROW(kind, symbol) [kind] = {symbol##_map, symbol##_row}
static const loops table[] = {
    ROW(MQ_ACT_NONE, none),
    ROW(MQ_ACT_RELU, relu),
    ROW(MQ_ACT_CLIP, clip),
    ROW(MQ_ACT_LEAKY_RELU, leaky),
    ROW(MQ_ACT_SIGMOID, sigmoid),
    ROW(MQ_ACT_TANH, tanh),
    ROW(MQ_ACT_HARD_SIGMOID, hard_sigmoid),
    ROW(MQ_ACT_HARD_SWISH, hard_swish),
    ROW(MQ_ACT_SILU, silu),
    ROW(MQ_ACT_GELU, gelu),
    ROW(MQ_ACT_GELU_TANH, gelu_tanh),
};

void mq_act_map(mq_act act, const float *x, float *y, size_t n)
{
    if (act.kind != MQ_ACT_NONE || x != y) {
        table[act.kind].map(act, x, y, n);
    }
}

void mq_act_row(mq_act act, const float *bias, float *y, size_t n)
{
    if (bias == NULL) {
        mq_act_map(act, y, y, n);
    } else {
        table[act.kind].row(act, bias, y, n);
    }
}

/* --- the operator --- */

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    const mq_activate_attrs *a = attrs;
    return a->kind >= MQ_ACT_NONE && a->kind <= MQ_ACT_GELU_TANH
               ? MQ_OK
               : mq_fail(err, MQ_E_ARG, "kind %lld is no activation", (long long)a->kind);
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_activate_attrs *a = call->attrs;
    mq_act_map((mq_act){(mq_activation)a->kind, a->a, a->b}, call->inputs[0]->data,
               call->outputs[0]->data, mq_elements(call->inputs[0]));
    return MQ_OK;
}

static double plain(mq_activation kind, double a, double b, double x)
{
    double hard = fmin(1.0, fmax(0.0, a * x + b));
    switch (kind) {
    case MQ_ACT_RELU:
        return fmax(0.0, x);
    case MQ_ACT_CLIP:
        return fmin(b, fmax(a, x));
    case MQ_ACT_LEAKY_RELU:
        return x < 0.0 ? a * x : x;
    case MQ_ACT_SIGMOID:
        return 1.0 / (1.0 + exp(-x));
    case MQ_ACT_TANH:
        return tanh(x);
    case MQ_ACT_HARD_SIGMOID:
        return hard;
    case MQ_ACT_HARD_SWISH:
        return x * hard;
    case MQ_ACT_SILU:
        return x / (1.0 + exp(-a * x));
    case MQ_ACT_GELU:
        return x / 2.0 * (1.0 + erf(x / sqrt(2.0)));
    case MQ_ACT_GELU_TANH:
        return x / 2.0 * (1.0 + tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case MQ_ACT_NONE:
    default:
        return x;
    }
}

static mq_code reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_activate_attrs *a = call->attrs;
    const float *x = call->inputs[0]->data;
    float *y = call->outputs[0]->data;
    for (size_t i = 0, n = mq_elements(call->inputs[0]); i < n; i++) {
        y[i] = (float)plain((mq_activation)a->kind, (double)a->a, (double)a->b, (double)x[i]);
    }
    return MQ_OK;
}

static const mq_attr_spec specs[] = {
    {.name = "kind", .type = MQ_ATTR_INT, .offset = offsetof(mq_activate_attrs, kind)},
    {.name = "a", .type = MQ_ATTR_FLOAT, .offset = offsetof(mq_activate_attrs, a), .f = 0.5f},
    {.name = "b", .type = MQ_ATTR_FLOAT, .offset = offsetof(mq_activate_attrs, b), .f = 0.75f},
    {.name = NULL},
};

const mq_op mq_op_activate = {
    .name = "Activate",
    .domain = "maasq",
    .since = 1,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{'T', MQ_T(MQ_DT_F32)}},
    .flags = MQ_OP_INTERNAL | MQ_OP_ELEMENTWISE,
    .attrs_bytes = sizeof(mq_activate_attrs),
    .specs = specs,
    .parse = parse,
    .shape = mq_shape_same,
    .run = run,
    .reference = reference,
    .cases = "| f32[A,B,C]; kind=1 | f32[A,B]; kind=2 | f32[A,B]; kind=3 | f32[A,B];"
             "kind=4 | f32[A,B]; kind=5 | f32[A,B]; kind=6 | f32[A,B]; kind=7 | f32[A,B];"
             "kind=8 | f32[A,B]; kind=9 | f32[A,B]; kind=10 | f32[A,B]; kind=9 | f32[]",
};

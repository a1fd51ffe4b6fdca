/* Element-wise functions with attributes: LeakyRelu, Elu, Selu, Celu, HardSigmoid, ThresholdedRelu,
 * Gelu; and Clip, whose bounds are attributes below opset 11 and inputs from then on. */
#include "worker/ops/act.h"
#include "worker/ops/kit.h"
#include "worker/ops/simd.h"

typedef struct act_attrs {
    float alpha, gamma; /* gamma: Selu; HardSigmoid calls it beta */
    mq_span approximate;
    mq_ints consumed_inputs;
} act_attrs;

#define F32(t) ((const float *)(t)->data)

/* Each function takes x, the attributes, and gives y; slopes take x and y. */
static inline float leaky(float x, const act_attrs *a)
{
    return x < 0.0f ? a->alpha * x : x;
}
static inline float elu(float x, const act_attrs *a)
{
    return x < 0.0f ? a->alpha * (mq_expf(x) - 1.0f) : x;
}
static inline float selu(float x, const act_attrs *a)
{
    return x > 0.0f ? a->gamma * x : a->gamma * (a->alpha * mq_expf(x) - a->alpha);
}
static inline float celu(float x, const act_attrs *a)
{
    return x > 0.0f ? x : a->alpha * (mq_expf(x / a->alpha) - 1.0f);
}
static inline float hard_sigmoid(float x, const act_attrs *a)
{
    float y = a->alpha * x + a->gamma;
    return y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y;
}
static inline float thresholded(float x, const act_attrs *a)
{
    return x > a->alpha ? x : 0.0f;
}
static inline bool is_tanh(const act_attrs *a)
{
    return mq_span_is(a->approximate, "tanh");
}
static inline float gelu_slope(float x, const act_attrs *a)
{
    if (is_tanh(a)) {
        float t = mq_tanhf(0.797884561f * (x + 0.044715f * x * x * x));
        float inner = 0.797884561f * (1.0f + 3.0f * 0.044715f * x * x);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
    }
    return 0.5f * (1.0f + mq_erff(x * 0.707106781f)) + x * 0.398942280f * mq_expf(-0.5f * x * x);
}

#define LOOP(symbol, f)                                                                            \
    MQ_ALWAYS_INLINE void symbol##_loop(const float *x, const act_attrs *at, float *y, size_t n)   \
    {                                                                                              \
        const act_attrs a = *at;                                                                   \
        MQ_EACH_ALONE                                                                              \
        for (size_t i = 0; i < n; i++) {                                                           \
            y[i] = f(x[i], &a);                                                                    \
        }                                                                                          \
    }                                                                                              \
    MQ_SIMD(symbol##_all, (const float *x, const act_attrs *a, float *y, size_t n),                \
            symbol##_loop(x, a, y, n), (x, a, y, n))
LOOP(leaky_relu, leaky)
LOOP(elu, elu)
LOOP(selu, selu)
LOOP(celu, celu)
LOOP(hard_sigmoid, hard_sigmoid)
LOOP(thresholded_relu, thresholded)

static void gelu_all(const float *x, const act_attrs *a, float *y, size_t n)
{
    mq_act_map((mq_act){.kind = is_tanh(a) ? MQ_ACT_GELU_TANH : MQ_ACT_GELU}, x, y, n);
}

#define ACT(symbol, slope, ref)                                                                    \
    static mq_code run_##symbol(const mq_op_call *call, mq_error *err)                             \
    {                                                                                              \
        (void)err;                                                                                 \
        const act_attrs *a = call->attrs;                                                          \
        symbol##_all(F32(call->inputs[0]), a, call->outputs[0]->data,                              \
                     mq_elements(call->inputs[0]));                                                \
        return MQ_OK;                                                                              \
    }                                                                                              \
    static void grad_##symbol(const mq_op_grad *g)                                                 \
    {                                                                                              \
        const act_attrs *a = g->call.attrs;                                                        \
        for (size_t i = 0, n = mq_elements(g->call.inputs[0]); i < n && g->dx[0] != NULL; i++) {   \
            float x = F32(g->call.inputs[0])[i], y = F32(g->call.outputs[0])[i];                   \
            (void)x;                                                                               \
            (void)y;                                                                               \
            float d = g->dy[0][i] * (slope);                                                       \
            g->dx[0][i] = g->add[0] ? g->dx[0][i] + d : d;                                         \
        }                                                                                          \
    }                                                                                              \
    static mq_code reference_##symbol(const mq_op_call *call, mq_error *err)                       \
    {                                                                                              \
        (void)err;                                                                                 \
        const act_attrs *attrs = call->attrs;                                                      \
        double a = (double)attrs->alpha, c = (double)attrs->gamma;                                 \
        (void)a;                                                                                   \
        (void)c;                                                                                   \
        for (size_t i = 0, n = mq_elements(call->inputs[0]); i < n; i++) {                         \
            double x = (double)F32(call->inputs[0])[i];                                            \
            ((float *)call->outputs[0]->data)[i] = (float)(ref);                                   \
        }                                                                                          \
        return MQ_OK;                                                                              \
    }

ACT(leaky_relu, x < 0.0f ? a->alpha : 1.0f, x < 0 ? a * x : x)
ACT(elu, x < 0.0f ? y + a->alpha : 1.0f, x < 0 ? a * expm1(x) : x)
ACT(selu, x > 0.0f ? a->gamma : y + a->gamma * a->alpha, c *(x > 0 ? x : a * expm1(x)))
ACT(celu, x > 0.0f ? 1.0f : y / a->alpha + 1.0f, x > 0 ? x : a * expm1(x / a))
ACT(hard_sigmoid, y > 0.0f && y < 1.0f ? a->alpha : 0.0f, fmin(1, fmax(0, a *x + c)))
ACT(thresholded_relu, x > a->alpha ? 1.0f : 0.0f, x > a ? x : 0)
ACT(gelu, gelu_slope(x, a),
    is_tanh(attrs) ? x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)))
                   : x / 2 * (1 + erf(x / sqrt(2))))

#define ALPHA(value)                                                                               \
    {                                                                                              \
        .name = "alpha", .type = MQ_ATTR_FLOAT, .offset = offsetof(act_attrs, alpha), .f = value   \
    }
#define GAMMA(name_, value)                                                                        \
    {                                                                                              \
        .name = name_, .type = MQ_ATTR_FLOAT, .offset = offsetof(act_attrs, gamma), .f = value     \
    }
#define CONSUMED                                                                                   \
    {                                                                                              \
        .name = "consumed_inputs", .type = MQ_ATTR_INTS,                                           \
        .offset = offsetof(act_attrs, consumed_inputs)                                             \
    }
static const mq_attr_spec leaky_relu_specs[] = {ALPHA(0.01f), CONSUMED, {.name = NULL}};
static const mq_attr_spec elu_specs[] = {ALPHA(1.0f), CONSUMED, {.name = NULL}};
static const mq_attr_spec selu_specs[] = {ALPHA(1.67326319217681884765625f),
                                          GAMMA("gamma", 1.05070102214813232421875f),
                                          CONSUMED,
                                          {.name = NULL}};
static const mq_attr_spec celu_specs[] = {ALPHA(1.0f), {.name = NULL}};
static const mq_attr_spec hard_sigmoid_specs[] = {
    ALPHA(0.2f), GAMMA("beta", 0.5f), CONSUMED, {.name = NULL}};
static const mq_attr_spec thresholded_relu_specs[] = {ALPHA(1.0f), {.name = NULL}};
static const mq_attr_spec gelu_specs[] = {
    {.name = "approximate",
     .type = MQ_ATTR_STRING,
     .offset = offsetof(act_attrs, approximate),
     .s = "none"},
    {.name = NULL},
};

#define OP(symbol, name_, since_, cases_)                                                          \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {1, 1},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{'T', MQ_T(MQ_DT_F32)}},                                                          \
        .flags = MQ_OP_ELEMENTWISE,                                                                \
        .grad_keeps = MQ_GRAD_INPUTS | MQ_GRAD_OUTPUTS,                                            \
        .attrs_bytes = sizeof(act_attrs),                                                          \
        .specs = symbol##_specs,                                                                   \
        .shape = mq_shape_same,                                                                    \
        .run = run_##symbol,                                                                       \
        .grad = grad_##symbol,                                                                     \
        .reference = reference_##symbol,                                                           \
        .cases = cases_,                                                                           \
    }
OP(leaky_relu, "LeakyRelu", 1, "| f32[A,B]; alpha=0.3 | f32[A]");
OP(elu, "Elu", 1, "| f32[A,B]; alpha=2.0 | f32[A]");
OP(selu, "Selu", 1, "| f32[A,B]; alpha=2.0 gamma=3.0 | f32[A]");
OP(celu, "Celu", 12, "alpha=2.0 | f32[A,B]");
OP(hard_sigmoid, "HardSigmoid", 1, "| f32[A,B]; alpha=0.5 beta=0.6 | f32[A]");
OP(thresholded_relu, "ThresholdedRelu", 10, "alpha=0.5 | f32[A,B]");
OP(gelu, "Gelu", 20, "| f32[A,B]; approximate=tanh | f32[A,B]");

/* --- Clip --- */

typedef struct clip_attrs {
    float min, max;
    mq_ints consumed_inputs;
} clip_attrs;

static mq_code clip_shape(const mq_op_call *call, mq_error *err)
{
    for (uint32_t i = 1; i < call->input_count; i++) {
        if (call->inputs[i] != NULL && mq_elements(call->inputs[i]) != 1) {
            return mq_fail(err, MQ_E_ARG, "input %u (a bound) must be one number", i);
        }
    }
    return mq_shape_same(call, err);
}

#define CLIP_OF(type, lowest, highest)                                                             \
    {                                                                                              \
        type low = min == NULL ? lowest : *(const type *)min->data;                                \
        type high = max == NULL ? highest : *(const type *)max->data;                              \
        const type *x = call->inputs[0]->data;                                                     \
        type *y = call->outputs[0]->data;                                                          \
        for (size_t i = 0; i < n; i++) {                                                           \
            type v = x[i] < low ? low : x[i];                                                      \
            y[i] = v > high ? high : v;                                                            \
        }                                                                                          \
    }

static mq_code clip_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const clip_attrs *a = call->attrs;
    const mq_tensor *min = mq_call_input(call, 1), *max = mq_call_input(call, 2);
    float bottom = call->op->since < 11 ? a->min : -HUGE_VALF;
    float top = call->op->since < 11 ? a->max : HUGE_VALF;
    size_t n = mq_elements(call->inputs[0]);
    switch ((int)call->inputs[0]->dtype) {
    case MQ_DT_F64:
        CLIP_OF(double, (double)bottom, (double)top)
        break;
    case MQ_DT_I8:
        CLIP_OF(int8_t, INT8_MIN, INT8_MAX)
        break;
    case MQ_DT_U8:
        CLIP_OF(uint8_t, 0, UINT8_MAX)
        break;
    case MQ_DT_I32:
        CLIP_OF(int32_t, INT32_MIN, INT32_MAX)
        break;
    case MQ_DT_I64:
        CLIP_OF(int64_t, INT64_MIN, INT64_MAX)
        break;
    default:
        CLIP_OF(float, bottom, top)
        break;
    }
    return MQ_OK;
}

static void clip_grad(const mq_op_grad *g)
{
    const clip_attrs *a = g->call.attrs;
    const mq_tensor *min = mq_call_input(&g->call, 1), *max = mq_call_input(&g->call, 2);
    bool is_old = g->call.op->since < 11;
    float low = min != NULL ? F32(min)[0] : is_old ? a->min : -HUGE_VALF;
    float high = max != NULL ? F32(max)[0] : is_old ? a->max : HUGE_VALF;
    for (size_t i = 0, n = mq_elements(g->call.inputs[0]); i < n && g->dx[0] != NULL; i++) {
        float x = F32(g->call.inputs[0])[i];
        float d = x >= low && x <= high ? g->dy[0][i] : 0.0f;
        g->dx[0][i] = g->add[0] ? g->dx[0][i] + d : d;
    }
}

static const mq_attr_spec clip_specs[] = {
    {.name = "min",
     .type = MQ_ATTR_FLOAT,
     .offset = offsetof(clip_attrs, min),
     .f = -3.402823466e+38f},
    {.name = "max",
     .type = MQ_ATTR_FLOAT,
     .offset = offsetof(clip_attrs, max),
     .f = 3.402823466e+38f},
    {.name = "consumed_inputs",
     .type = MQ_ATTR_INTS,
     .offset = offsetof(clip_attrs, consumed_inputs)},
    {.name = NULL},
};

const mq_op mq_op_clip_1 = {
    .name = "Clip",
    .domain = "",
    .since = 1,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{'T', MQ_T_FLOATS}},
    .flags = MQ_OP_ELEMENTWISE,
    .grad_keeps = MQ_GRAD_INPUTS,
    .attrs_bytes = sizeof(clip_attrs),
    .specs = clip_specs,
    .shape = clip_shape,
    .run = clip_run,
    .grad = clip_grad,
    .cases = "min=-0.5 max=0.5 | f32[A,B]; max=0.25 | f64[A]",
};

const mq_op mq_op_clip_11 = {
    .name = "Clip",
    .domain = "",
    .since = 11,
    .in = {1, 3},
    .out = {1, 1},
    .args = {{'T', MQ_T_FLOATS | MQ_T(MQ_DT_I8) | MQ_T(MQ_DT_U8) | MQ_T_INDEX}},
    .flags = MQ_OP_ELEMENTWISE,
    .no_grad = 6,
    .grad_keeps = MQ_GRAD_INPUTS,
    .shape = clip_shape,
    .run = clip_run,
    .grad = clip_grad,
    .cases = "| f32[A,B] f32[] f32[]+; | i64[A] - i64[]; | f32[A]",
};

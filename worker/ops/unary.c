/* Operators that map each element by a function of one variable and have no attributes. One macro
 * row gives the float, double and gradient loops. float32 uses the functions of kit.h, whose bits
 * are fixed; float64 uses libm. */
#include "worker/ops/flat.h"
#include "worker/ops/simd.h"

/* --- functions; x is the input, y the output, in gradients d = dL/dy --- */

static inline float relu_f32(float x)
{
    return x < 0.0f ? 0.0f : x; /* keeps NaN */
}
static inline double relu_f64(double x)
{
    return x < 0.0 ? 0.0 : x;
}
static inline double sigmoid_f64(double x)
{
    return 1.0 / (1.0 + exp(-x));
}
static inline float softplus_f32(float x)
{
    float a = x < 0.0f ? x : -x; /* log(1 + e^x) = max(x, 0) + log(1 + e^-|x|) */
    float e = mq_expf(a), u = 1.0f + e;
    float tail = u == 1.0f ? e : mq_logf(u) * (e / (u - 1.0f)); /* log1p after Kahan */
    return (x < 0.0f ? 0.0f : x) + tail;
}
static inline double softplus_f64(double x)
{
    return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x)));
}
static inline float softsign_f32(float x)
{
    return x / (1.0f + fabsf(x));
}
static inline double softsign_f64(double x)
{
    return x / (1.0 + fabs(x));
}
static inline float reciprocal_f32(float x)
{
    return 1.0f / x;
}
static inline double reciprocal_f64(double x)
{
    return 1.0 / x;
}
static inline float hard_swish_f32(float x)
{
    float t = x * (1.0f / 6.0f) + 0.5f;
    return x * (t < 0.0f ? 0.0f : t > 1.0f ? 1.0f : t);
}
static inline double hard_swish_f64(double x)
{
    double t = x / 6.0 + 0.5;
    return x * (t < 0.0 ? 0.0 : t > 1.0 ? 1.0 : t);
}

/* --- the operators --- */

#define RUN(symbol, f32, f64)                                                                      \
    MQ_ALWAYS_INLINE void symbol##_loop(const float *x, float *y, size_t n)                        \
    {                                                                                              \
        MQ_EACH_ALONE                                                                              \
        for (size_t i = 0; i < n; i++) {                                                           \
            y[i] = f32(x[i]);                                                                      \
        }                                                                                          \
    }                                                                                              \
    MQ_SIMD(symbol##_all, (const float *x, float *y, size_t n), symbol##_loop(x, y, n), (x, y, n)) \
    static mq_code run_##symbol(const mq_op_call *call, mq_error *err)                             \
    {                                                                                              \
        (void)err;                                                                                 \
        size_t n = mq_elements(call->inputs[0]);                                                   \
        if (call->inputs[0]->dtype == MQ_DT_F32) {                                                 \
            symbol##_all(call->inputs[0]->data, call->outputs[0]->data, n);                        \
        } else {                                                                                   \
            const double *x = call->inputs[0]->data;                                               \
            double *y = call->outputs[0]->data;                                                    \
            for (size_t i = 0; i < n; i++) {                                                       \
                y[i] = f64(x[i]);                                                                  \
            }                                                                                      \
        }                                                                                          \
        return MQ_OK;                                                                              \
    }

#define REFERENCE(symbol, expr)                                                                    \
    static mq_code reference_##symbol(const mq_op_call *call, mq_error *err)                       \
    {                                                                                              \
        (void)err;                                                                                 \
        bool is_f32 = call->inputs[0]->dtype == MQ_DT_F32;                                         \
        for (size_t i = 0; i < mq_elements(call->inputs[0]); i++) {                                \
            double x = is_f32 ? (double)((const float *)call->inputs[0]->data)[i]                  \
                              : ((const double *)call->inputs[0]->data)[i];                        \
            double v = (expr);                                                                     \
            if (is_f32) {                                                                          \
                ((float *)call->outputs[0]->data)[i] = (float)v;                                   \
            } else {                                                                               \
                ((double *)call->outputs[0]->data)[i] = v;                                         \
            }                                                                                      \
        }                                                                                          \
        return MQ_OK;                                                                              \
    }

#define GRAD(symbol, expr)                                                                         \
    static void grad_##symbol(const mq_op_grad *g)                                                 \
    {                                                                                              \
        size_t n = mq_elements(g->call.inputs[0]);                                                 \
        const float *xs = g->call.inputs[0]->data, *ys = g->call.outputs[0]->data;                 \
        const float *dy = g->dy[0];                                                                \
        float *dx = g->dx[0];                                                                      \
        for (size_t i = 0; i < n && dx != NULL; i++) {                                             \
            float x = xs[i], y = ys[i], d = dy[i];                                                 \
            (void)x;                                                                               \
            (void)y;                                                                               \
            float v = (expr);                                                                      \
            dx[i] = g->add[0] ? dx[i] + v : v;                                                     \
        }                                                                                          \
    }

#define OP(symbol, name_, keeps, cases_)                                                           \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = 1,                                                                                \
        .in = {1, 1},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{'T', MQ_T_FLOATS}},                                                              \
        .flags = MQ_OP_ELEMENTWISE,                                                                \
        .grad_keeps = keeps,                                                                       \
        .shape = mq_shape_same,                                                                    \
        .run = run_##symbol,                                                                       \
        .grad = grad_##symbol,                                                                     \
        .reference = reference_##symbol,                                                           \
        .cases = cases_,                                                                           \
    }

#define UNARY(symbol, name_, f32, f64, ref, slope, keeps, cases_)                                  \
    RUN(symbol, f32, f64)                                                                          \
    REFERENCE(symbol, ref)                                                                         \
    GRAD(symbol, slope)                                                                            \
    OP(symbol, name_, keeps, cases_)

#define ANY      "| f32[A,B,C]; | f64[A]; | f32[]; | f32[0,A]"
#define POSITIVE "| f32[A,B,C]+; | f64[A]+"

UNARY(relu, "Relu", relu_f32, relu_f64, x<0 ? 0 : x, y> 0.0f ? d : 0.0f, MQ_GRAD_OUTPUTS, ANY);
UNARY(sigmoid, "Sigmoid", mq_sigmoidf, sigmoid_f64, 1 / (1 + exp(-x)), d *y *(1.0f - y),
      MQ_GRAD_OUTPUTS, ANY);
UNARY(tanh, "Tanh", mq_tanh_flat, tanh, tanh(x), d *(1.0f - y * y), MQ_GRAD_OUTPUTS, ANY);
UNARY(exp, "Exp", mq_expf, exp, exp(x), d *y, MQ_GRAD_OUTPUTS, ANY);
UNARY(log, "Log", mq_logf, log, log(x), d / x, MQ_GRAD_INPUTS, POSITIVE);
UNARY(sqrt, "Sqrt", sqrtf, sqrt, sqrt(x), d * 0.5f / y, MQ_GRAD_OUTPUTS, POSITIVE);
UNARY(reciprocal, "Reciprocal", reciprocal_f32, reciprocal_f64, 1 / x, -d *y *y, MQ_GRAD_OUTPUTS,
      POSITIVE);
UNARY(softplus, "Softplus", softplus_f32, softplus_f64, log1p(exp(x)), d *mq_sigmoidf(x),
      MQ_GRAD_INPUTS, ANY);
UNARY(softsign, "Softsign", softsign_f32, softsign_f64, x / (1 + fabs(x)),
      d / ((1.0f + fabsf(x)) * (1.0f + fabsf(x))), MQ_GRAD_INPUTS, ANY);
UNARY(erf, "Erf", mq_erf_flat, erf, erf(x), d * 1.12837917f * mq_expf(-x * x), MQ_GRAD_INPUTS, ANY);
UNARY(hard_swish, "HardSwish", hard_swish_f32, hard_swish_f64,
      x *(x <= -3  ? 0
          : x >= 3 ? 1
                   : x / 6 + 0.5),
      x <= -3.0f  ? 0.0f
      : x >= 3.0f ? d
                  : d * (x * (1.0f / 3.0f) + 0.5f),
      MQ_GRAD_INPUTS, ANY);
UNARY(floor, "Floor", floorf, floor, floor(x), 0.0f * d, 0, ANY);
UNARY(ceil, "Ceil", ceilf, ceil, ceil(x), 0.0f * d, 0, ANY);

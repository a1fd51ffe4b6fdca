/* Neg, Abs and Sign of every signed type (Abs and Sign: unsigned as well). */
#include "worker/ops/kit.h"

#define LOOP(type, expr)                                                                           \
    for (size_t i = 0; i < n; i++) {                                                               \
        type x = ((const type *)call->inputs[0]->data)[i];                                         \
        ((type *)call->outputs[0]->data)[i] = (type)(expr);                                        \
    }                                                                                              \
    break;

/* expr for floats, int_expr for integers (on uint64_t arithmetic, so that the lowest wraps). */
#define RUN(symbol, f32, f64, int_expr)                                                            \
    static mq_code run_##symbol(const mq_op_call *call, mq_error *err)                             \
    {                                                                                              \
        (void)err;                                                                                 \
        size_t n = mq_elements(call->inputs[0]);                                                   \
        switch ((int)call->inputs[0]->dtype) {                                                     \
        case MQ_DT_F64:                                                                            \
            LOOP(double, f64)                                                                      \
        case MQ_DT_I8:                                                                             \
            LOOP(int8_t, int_expr)                                                                 \
        case MQ_DT_I16:                                                                            \
            LOOP(int16_t, int_expr)                                                                \
        case MQ_DT_I32:                                                                            \
            LOOP(int32_t, int_expr)                                                                \
        case MQ_DT_I64:                                                                            \
            LOOP(int64_t, int_expr)                                                                \
        case MQ_DT_U8:                                                                             \
            LOOP(uint8_t, int_expr)                                                                \
        case MQ_DT_U16:                                                                            \
            LOOP(uint16_t, int_expr)                                                               \
        case MQ_DT_U32:                                                                            \
            LOOP(uint32_t, int_expr)                                                               \
        case MQ_DT_U64:                                                                            \
            LOOP(uint64_t, int_expr)                                                               \
        default:                                                                                   \
            LOOP(float, f32)                                                                       \
        }                                                                                          \
        return MQ_OK;                                                                              \
    }

/* In an unsigned type nothing is below 1 but 0. */
RUN(neg, -x, -x, 0 - (uint64_t)x)
RUN(abs, fabsf(x), fabs(x), x < 1 ? 0 - (uint64_t)x : (uint64_t)x)
RUN(sign,
    x > 0.0f   ? 1.0f
    : x < 0.0f ? -1.0f
               : x,
    x > 0.0   ? 1.0
    : x < 0.0 ? -1.0
              : x,
    x > 0             ? 1
    : x < 1 && x != 0 ? -1
                      : 0)

#define GRAD(symbol, slope)                                                                        \
    static void grad_##symbol(const mq_op_grad *g)                                                 \
    {                                                                                              \
        for (size_t i = 0, n = mq_elements(g->call.inputs[0]); i < n && g->dx[0] != NULL; i++) {   \
            float x = ((const float *)g->call.inputs[0]->data)[i];                                 \
            (void)x;                                                                               \
            float d = g->dy[0][i] * (slope);                                                       \
            g->dx[0][i] = g->add[0] ? g->dx[0][i] + d : d;                                         \
        }                                                                                          \
    }
GRAD(neg, -1.0f)
GRAD(abs, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f)
GRAD(sign, 0.0f)

#define OP(symbol, name_, since_, types_, cases_)                                                  \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {1, 1},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{'T', types_}},                                                                   \
        .flags = MQ_OP_ELEMENTWISE,                                                                \
        .grad_keeps = MQ_GRAD_INPUTS,                                                              \
        .shape = mq_shape_same,                                                                    \
        .run = run_##symbol,                                                                       \
        .grad = grad_##symbol,                                                                     \
        .cases = cases_,                                                                           \
    }
OP(neg, "Neg", 1, MQ_T_FLOATS | MQ_T_SIGNED, "| f32[A,B]; | i32[A]; | f64[]");
OP(abs, "Abs", 1, MQ_T_NUMBERS, "| f32[A,B]; | i64[A]; | u8[A]");
OP(sign, "Sign", 9, MQ_T_NUMBERS, "| f32[A,B]; | i8[A]; | u8[A]");

/* Pow. The usual constant exponents (2, 3, 0.5, 1, -1) are products, roots and quotients, whose
 * bits are fixed; others go through pow in double precision. Integer bases with integer exponents
 * are exact (wrapping). onnx.ai/onnx/operators/onnx__Pow.html */
#include "worker/ops/pair.h"

static double exponent_at(const mq_tensor *t, size_t i)
{
    switch ((int)t->dtype) {
    case MQ_DT_F64:
        return ((const double *)t->data)[i];
    case MQ_DT_I8:
        return (double)((const int8_t *)t->data)[i];
    case MQ_DT_I16:
        return (double)((const int16_t *)t->data)[i];
    case MQ_DT_I32:
        return (double)((const int32_t *)t->data)[i];
    case MQ_DT_I64:
        return (double)((const int64_t *)t->data)[i];
    case MQ_DT_U8:
        return (double)((const uint8_t *)t->data)[i];
    case MQ_DT_U16:
        return (double)((const uint16_t *)t->data)[i];
    case MQ_DT_U32:
        return (double)((const uint32_t *)t->data)[i];
    case MQ_DT_U64:
        return (double)((const uint64_t *)t->data)[i];
    default:
        return (double)((const float *)t->data)[i];
    }
}

static uint64_t int_power(uint64_t base, double exponent)
{
    uint64_t result = 1;
    for (uint64_t e = exponent < 9e18 ? (uint64_t)exponent : 0; e > 0; e >>= 1) {
        result *= (e & 1) != 0 ? base : 1;
        base *= base;
    }
    return result;
}

static int64_t int_pow(int64_t base, double exponent)
{
    if (exponent >= 0.0 && floor(exponent) >= exponent) {
        return (int64_t)int_power((uint64_t)base, exponent);
    }
    double v = pow((double)base, exponent);
    return v > -9e18 && v < 9e18 ? (int64_t)v : 0;
}

/* float32 by a single constant exponent of the usual kind; false when it is another. */
static bool run_usual(const mq_op_call *call)
{
    const mq_tensor *x = call->inputs[0];
    if (x->dtype != MQ_DT_F32 || mq_elements(call->inputs[1]) != 1 ||
        call->outputs[0]->bytes != x->bytes) {
        return false;
    }
    double e = exponent_at(call->inputs[1], 0);
    int twice = e >= -1.0 && e <= 3.0 ? (int)(e * 2.0) : 99;
    if ((double)twice < e * 2.0 || (double)twice > e * 2.0) {
        return false;
    }
    const float *from = x->data;
    float *to = call->outputs[0]->data;
    for (size_t i = 0, n = mq_elements(x); i < n; i++) {
        float v = from[i];
        switch (twice) {
        case 4:
            to[i] = v * v;
            break;
        case 6:
            to[i] = v * v * v;
            break;
        case 1:
            to[i] = sqrtf(v);
            break;
        case 2:
            to[i] = v;
            break;
        case -2:
            to[i] = 1.0f / v;
            break;
        default:
            return false;
        }
    }
    return true;
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0], *e = call->inputs[1], *y = call->outputs[0];
    if (run_usual(call)) {
        return MQ_OK;
    }
    mq_strides sx = mq_strides_of(&x->shape, &y->shape), se = mq_strides_of(&e->shape, &y->shape);
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t i = 0, n = mq_elements(y); i < n; i++) {
        size_t at = mq_offset(&sx, index, y->shape.rank);
        double power = exponent_at(e, mq_offset(&se, index, y->shape.rank));
        switch ((int)x->dtype) {
        case MQ_DT_F64:
            ((double *)y->data)[i] = pow(((const double *)x->data)[at], power);
            break;
        case MQ_DT_I32:
            ((int32_t *)y->data)[i] = (int32_t)int_pow(((const int32_t *)x->data)[at], power);
            break;
        case MQ_DT_I64:
            ((int64_t *)y->data)[i] = int_pow(((const int64_t *)x->data)[at], power);
            break;
        default:
            ((float *)y->data)[i] = (float)pow((double)((const float *)x->data)[at], power);
            break;
        }
        mq_next_index(&y->shape, index);
    }
    return MQ_OK;
}

/* By the base only: d x^e = e x^(e-1). */
static void grad(const mq_op_grad *g)
{
    const mq_tensor *x = g->call.inputs[0], *e = g->call.inputs[1], *y = g->call.outputs[0];
    mq_strides sx = mq_strides_of(&x->shape, &y->shape), se = mq_strides_of(&e->shape, &y->shape);
    int64_t index[MQ_RANK_MAX] = {0};
    if (g->dx[0] == NULL) {
        return;
    }
    if (!g->add[0]) {
        memset(g->dx[0], 0, mq_elements(x) * sizeof(float));
    }
    for (size_t i = 0, n = mq_elements(y); i < n; i++) {
        size_t at = mq_offset(&sx, index, y->shape.rank);
        double power = exponent_at(e, mq_offset(&se, index, y->shape.rank));
        double base = (double)((const float *)x->data)[at];
        double slope = power >= 2.0 && power <= 2.0 ? 2.0 * base : power * pow(base, power - 1.0);
        g->dx[0][at] += g->dy[0][i] * (float)slope;
        mq_next_index(&y->shape, index);
    }
}

const mq_op mq_op_pow = {
    .name = "Pow",
    .domain = "",
    .since = 7,
    .in = {2, 2},
    .out = {1, 1},
    .args = {{0, MQ_T_FLOATS | MQ_T_INDEX}, {0, MQ_T_NUMBERS}},
    .no_grad = 2,
    .grad_keeps = MQ_GRAD_INPUTS,
    .shape = mq_shape_broadcast,
    .run = run,
    .grad = grad,
    .cases = "| f32[A,B]+ f32{2}; | f32[A]+ f32{0.5}; | f64[A]+ f64[A]; | i32[A] i32{2}; | f32[A]+ "
             "i64{3}",
};

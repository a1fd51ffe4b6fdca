/* DynamicQuantizeLinear: uint8 with a scale and a zero point that fit the values met, with 0 always
 * exact. Half to even. All zeros: scale 1, zero point 0.
 * onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html */
#include "worker/ops/kit.h"

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    (void)err;
    *call->outputs[0] = (mq_tensor){.dtype = MQ_DT_U8, .shape = call->inputs[0]->shape};
    if (mq_call_output(call, 1) != NULL) {
        *call->outputs[1] = (mq_tensor){.dtype = MQ_DT_F32};
    }
    if (mq_call_output(call, 2) != NULL) {
        *call->outputs[2] = (mq_tensor){.dtype = MQ_DT_U8};
    }
    return MQ_OK;
}

/* Rounds |v| < 2^22 half to even, in a way that compilers vectorize. */
static inline float round_even(float v)
{
    return (v + 12582912.0f) - 12582912.0f;
}

static void give(const mq_op_call *call, float scale, float zero)
{
    mq_tensor *s = mq_call_output(call, 1), *z = mq_call_output(call, 2);
    if (s != NULL) {
        *(float *)s->data = scale;
    }
    if (z != NULL) {
        *(uint8_t *)z->data = (uint8_t)zero;
    }
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const float *x = call->inputs[0]->data;
    uint8_t *y = call->outputs[0]->data;
    size_t n = mq_elements(call->inputs[0]);
    float low = 0.0f, high = 0.0f;
    for (size_t i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    float scale = (high - low) / 255.0f;
    scale = scale > 0.0f ? scale : 1.0f;
    float zero = round_even(-low / scale);
    zero = zero <= 255.0f ? zero : 255.0f; /* NaN too */
    for (size_t i = 0; i < n; i++) {
        float v = x[i] / scale;
        v = v > -512.0f ? v : -512.0f; /* NaN too */
        v = v < 512.0f ? v : 512.0f;
        v = round_even(v) + zero;
        v = v < 0.0f ? 0.0f : v;
        y[i] = (uint8_t)(int32_t)(v > 255.0f ? 255.0f : v);
    }
    give(call, scale, zero);
    return MQ_OK;
}

static mq_code reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const float *x = call->inputs[0]->data;
    double low = 0, high = 0;
    for (size_t i = 0; i < mq_elements(call->inputs[0]); i++) {
        low = fmin(low, (double)x[i]);
        high = fmax(high, (double)x[i]);
    }
    float scale = (float)((high - low) / 255.0);
    scale = scale > 0.0f ? scale : 1.0f;
    float zero = rintf(fminf(255.0f, -(float)low / scale));
    for (size_t i = 0; i < mq_elements(call->inputs[0]); i++) {
        float v = fminf(255.0f, fmaxf(0.0f, rintf(x[i] / scale) + zero));
        ((uint8_t *)call->outputs[0]->data)[i] = (uint8_t)v;
    }
    give(call, scale, zero);
    return MQ_OK;
}

const mq_op mq_op_dynamic_quantize_linear = {
    .name = "DynamicQuantizeLinear",
    .domain = "",
    .since = 11,
    .in = {1, 1},
    .out = {1, 3},
    .args = {{0, MQ_T(MQ_DT_F32)}},
    .shape = shape,
    .run = run,
    .reference = reference,
    .cases = "| f32[A,B]; | f32[A]+; | f32{0,0,0}; | f32{-1,-2,-3}",
};

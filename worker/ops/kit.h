/* What operators share: axis and broadcast rules, common shape functions, and exp, log, tanh, erf
 * of our own, whose bits do not depend on which processor glibc finds (TRAINING.md 3.1 rule 8). */
#ifndef MQ_WORKER_OPS_KIT_H
#define MQ_WORKER_OPS_KIT_H

#include <math.h>

#include "worker/ops/op.h"

#define MQ_COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Elements of a tensor whose shape was checked. */
static inline size_t mq_elements(const mq_tensor *t)
{
    size_t count = 1;
    for (int32_t i = 0; i < t->shape.rank; i++) {
        count *= (size_t)t->shape.dims[i];
    }
    return count;
}

/* Product of dims[from..to). */
static inline size_t mq_dims_product(const mq_shape *shape, int32_t from, int32_t to)
{
    size_t count = 1;
    for (int32_t i = from; i < to; i++) {
        count *= (size_t)shape->dims[i];
    }
    return count;
}

/* Input i, or NULL when omitted or not there. */
static inline const mq_tensor *mq_call_input(const mq_op_call *call, uint32_t i)
{
    return i < call->input_count ? call->inputs[i] : NULL;
}

static inline mq_tensor *mq_call_output(const mq_op_call *call, uint32_t i)
{
    return i < call->output_count ? call->outputs[i] : NULL;
}

/* Negative axes count from the end; MQ_E_ARG when outside -rank..rank-1 (rank: for an axis that
 * may also be one past the last, pass rank + 1). */
MQ_MUST_USE mq_code mq_axis(int64_t axis, int32_t rank, int32_t *out, mq_error *err);

/* Integers of a 0- or 1-D int32 or int64 tensor into out; returns how many (at most room are
 * written). */
size_t mq_tensor_ints(const mq_tensor *t, int64_t *out, size_t room);

/* Shape functions: output 0 like input 0. */
mq_code mq_shape_same(const mq_op_call *call, mq_error *err);

/* All inputs broadcast together; type of input 0. */
mq_code mq_shape_broadcast(const mq_op_call *call, mq_error *err);

/* Broadcast of two shapes; MQ_E_ARG names both. */
MQ_MUST_USE mq_code mq_broadcast(const mq_shape *a, const mq_shape *b, mq_shape *out,
                                 mq_error *err);

/* How to walk one operand of a broadcast: per dimension of the output, its stride in elements, 0
 * where it repeats. */
typedef struct mq_strides {
    size_t at[MQ_RANK_MAX];
} mq_strides;
mq_strides mq_strides_of(const mq_shape *operand, const mq_shape *out);

/* Next index vector in row-major order; false after the last. Starts as zeros. */
bool mq_next_index(const mq_shape *shape, int64_t *index);
size_t mq_offset(const mq_strides *strides, const int64_t *index, int32_t rank);

/* Adds up (or copies) a gradient of shape `full` into one of shape `part` that was broadcast to it.
 * Order: row-major over `full`. */
void mq_reduce_to(const float *from, const mq_shape *full, float *to, const mq_shape *part,
                  bool is_added);

/* --- single precision functions with fixed bits; about 1e-7 relative error --- */

static inline float mq_float_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t mq_bits_float(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* e^x: 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2, a degree-6 polynomial for e^r. Below -87
 * it is 0 (no denormals), above 88.72 infinity. Branchless, so that compilers vectorize it. */
static inline float mq_expf(float x)
{
    float c = x > -87.0f ? x : -87.0f; /* NaN too, and comes back at the end */
    c = c > 88.72283f ? 88.72283f : c;
    float n = (c * 1.44269504f + 12582912.0f) - 12582912.0f;
    float r = (c - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    /* n is -126..128: 128 does not fit one exponent, so two steps */
    int32_t i = (int32_t)n;
    int32_t half = i >> 1;
    float y = p * mq_float_bits((uint32_t)(half + 127) << 23) *
              mq_float_bits((uint32_t)(i - half + 127) << 23);
    y = x < -87.0f ? 0.0f : y;
    y = x > 88.72283f ? mq_float_bits(0x7f800000u) : y;
    return x != x ? x : y;
}

/* Natural logarithm after Cephes: mantissa in [sqrt(1/2), sqrt(2)), a degree-9 polynomial. */
float mq_logf(float x);
float mq_tanhf(float x);
float mq_erff(float x);

static inline float mq_sigmoidf(float x)
{
    float e = mq_expf(x < 0.0f ? x : -x); /* never overflows */
    return x < 0.0f ? e / (1.0f + e) : 1.0f / (1.0f + e);
}

#endif

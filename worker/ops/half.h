/* float16 and bfloat16 to and from float32, rounding to nearest even (IEEE 754-2008). */
#ifndef MQ_WORKER_OPS_HALF_H
#define MQ_WORKER_OPS_HALF_H

#include "worker/ops/kit.h"

static inline float mq_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 0x1f, mantissa = h & 0x3ff;
    if (exponent == 0x1f) {
        return mq_float_bits(sign | 0x7f800000u | mantissa << 13);
    }
    if (exponent != 0) {
        return mq_float_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    }
    float value = (float)mantissa * 5.9604644775390625e-8f; /* 2^-24 */
    return sign != 0 ? -value : value;
}

static inline uint16_t mq_float_to_half(float f)
{
    uint32_t bits = mq_bits_float(f), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00);
    }
    if (rest >= 0x477ff000u) { /* rounds to 65520 or more */
        return (uint16_t)(sign | 0x7c00);
    }
    if (rest < 0x38800000u) { /* below 2^-14: multiples of 2^-24 */
        float scaled = mq_float_bits(rest) * 16777216.0f;
        uint32_t whole = (uint32_t)scaled;
        float left = scaled - (float)whole;
        whole += left > 0.5f || (left >= 0.5f && (whole & 1) != 0);
        return (uint16_t)(sign | whole);
    }
    uint32_t rounded = rest - 0x38000000u;
    rounded += 0xfff + (rounded >> 13 & 1);
    return (uint16_t)(sign | rounded >> 13);
}

static inline float mq_bfloat_to_float(uint16_t h)
{
    return mq_float_bits((uint32_t)h << 16);
}

static inline uint16_t mq_float_to_bfloat(float f)
{
    uint32_t bits = mq_bits_float(f);
    if ((bits & 0x7fffffff) > 0x7f800000u) {
        return (uint16_t)(bits >> 16 | 0x40);
    }
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif

/* Dynamic quantization of a tensor to uint8; see qrange.h. */
#include "worker/ops/qrange.h"

#include "worker/ops/simd.h"

enum { LANES = 32 };

/* Minimum and maximum do not depend on order, so lanes may run side by side. */
MQ_ALWAYS_INLINE void range_loop(const float *x, size_t n, float *low, float *high)
{
    float lows[LANES] = {0}, highs[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t k = 0; k < LANES; k++) {
            lows[k] = x[i + k] < lows[k] ? x[i + k] : lows[k];
            highs[k] = x[i + k] > highs[k] ? x[i + k] : highs[k];
        }
    }
    for (; i < n; i++) {
        lows[0] = x[i] < lows[0] ? x[i] : lows[0];
        highs[0] = x[i] > highs[0] ? x[i] : highs[0];
    }
    for (size_t k = 1; k < LANES; k++) {
        lows[0] = lows[k] < lows[0] ? lows[k] : lows[0];
        highs[0] = highs[k] > highs[0] ? highs[k] : highs[0];
    }
    *low = lows[0];
    *high = highs[0];
}
MQ_SIMD(range, (const float *x, size_t n, float *low, float *high), range_loop(x, n, low, high),
        (x, n, low, high))

/* Nearest even, for |v| below 2^22. */
MQ_ALWAYS_INLINE float round_even(float v)
{
    return (v + 12582912.0f) - 12582912.0f;
}

MQ_ALWAYS_INLINE void quantize_loop(const float *x, size_t n, float scale, float zero, uint8_t *q)
{
    for (size_t i = 0; i < n; i++) {
        float v = x[i] / scale;
        v = v > -512.0f ? v : -512.0f; /* NaN too */
        v = v < 512.0f ? v : 512.0f;
        v = round_even(v) + zero;
        v = v < 0.0f ? 0.0f : v;
        v = v > 255.0f ? 255.0f : v;
        q[i] = (uint8_t)(int32_t)v;
    }
}
MQ_SIMD(quantize, (const float *x, size_t n, float scale, float zero, uint8_t *q),
        quantize_loop(x, n, scale, zero, q), (x, n, scale, zero, q))

void mq_qrange(const float *x, size_t n, float *scale, uint8_t *zero, uint8_t *q)
{
    float low, high;
    range(x, n, &low, &high);
    float s = (high - low) / 255.0f;
    s = s > 0.0f ? s : 1.0f;
    float z = round_even(-low / s);
    z = z <= 255.0f ? z : 255.0f; /* NaN too */
    quantize(x, n, s, z, q);
    *scale = s;
    *zero = (uint8_t)z;
}

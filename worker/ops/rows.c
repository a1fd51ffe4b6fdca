/* Kernels over rows of floats; see rows.h. */
#include "worker/ops/rows.h"

#include "worker/ops/kit.h"
#include "worker/ops/simd.h"

enum { LANES = 32 }; /* two registers of 16, so that additions need not wait for each other */

MQ_ALWAYS_INLINE float add_lanes(float *lane)
{
    for (size_t half = LANES / 2; half > 0; half /= 2) {
        for (size_t k = 0; k < half; k++) {
            lane[k] += lane[k + half];
        }
    }
    return lane[0];
}

/* Adds `of(i)` for i in 0..n-1 into `sum`. */
#define SUM(sum, n, of)                                                                            \
    do {                                                                                           \
        float lane[LANES] = {0.0f};                                                                \
        size_t full = (n) / LANES * LANES;                                                         \
        for (size_t i0 = 0; i0 < full; i0 += LANES) {                                              \
            for (size_t k = 0; k < LANES; k++) {                                                   \
                size_t i = i0 + k;                                                                 \
                lane[k] += (of);                                                                   \
            }                                                                                      \
        }                                                                                          \
        for (size_t i = full; i < (n); i++) {                                                      \
            lane[i - full] += (of);                                                                \
        }                                                                                          \
        (sum) = add_lanes(lane);                                                                   \
    } while (0)

MQ_ALWAYS_INLINE float sum_of(const float *x, size_t n)
{
    float sum;
    SUM(sum, n, x[i]);
    return sum;
}

MQ_ALWAYS_INLINE float max_of(const float *x, size_t n)
{
    float lane[LANES], top = x[0];
    size_t full = n / LANES * LANES;
    for (size_t k = 0; k < LANES; k++) {
        lane[k] = top;
    }
    for (size_t i0 = 0; i0 < full; i0 += LANES) {
        for (size_t k = 0; k < LANES; k++) {
            lane[k] = x[i0 + k] > lane[k] ? x[i0 + k] : lane[k];
        }
    }
    for (size_t i = full; i < n; i++) {
        top = x[i] > top ? x[i] : top;
    }
    for (size_t half = LANES / 2; half > 0; half /= 2) {
        for (size_t k = 0; k < half; k++) {
            lane[k] = lane[k + half] > lane[k] ? lane[k + half] : lane[k];
        }
    }
    return lane[0] > top ? lane[0] : top;
}

MQ_ALWAYS_INLINE void softmax_loop(const float *x, const float *mask, float scale, float *y,
                                   size_t n)
{
    if (mask != NULL) {
        MQ_EACH_ALONE
        for (size_t i = 0; i < n; i++) {
            y[i] = x[i] * scale + mask[i];
        }
        x = y;
        scale = 1.0f;
    } else if (scale != 1.0f) {
        MQ_EACH_ALONE
        for (size_t i = 0; i < n; i++) {
            y[i] = x[i] * scale;
        }
        x = y;
    }
    float top = max_of(x, n), sum;
    MQ_EACH_ALONE
    for (size_t i = 0; i < n; i++) {
        y[i] = mq_expf(x[i] - top);
    }
    sum = sum_of(y, n);
    MQ_EACH_ALONE
    for (size_t i = 0; i < n; i++) {
        y[i] = y[i] / sum;
    }
}
MQ_SIMD(softmax_any, (const float *x, const float *mask, float scale, float *y, size_t n),
        softmax_loop(x, mask, scale, y, n), (x, mask, scale, y, n))

void mq_row_softmax(const float *x, const float *mask, float scale, float *y, size_t n)
{
    if (n > 0) {
        softmax_any(x, mask, scale, y, n);
    }
}

MQ_ALWAYS_INLINE void layer_loop(const float *x, const float *scale, const float *bias,
                                 float epsilon, float *y, size_t n, float *mean, float *inverse)
{
    float m = sum_of(x, n) / (float)n, square;
    SUM(square, n, (x[i] - m) * (x[i] - m));
    float s = 1.0f / sqrtf(square / (float)n + epsilon);
    if (bias != NULL) {
        MQ_EACH_ALONE
        for (size_t i = 0; i < n; i++) {
            y[i] = (x[i] - m) * s * scale[i] + bias[i];
        }
    } else {
        MQ_EACH_ALONE
        for (size_t i = 0; i < n; i++) {
            y[i] = (x[i] - m) * s * scale[i];
        }
    }
    *mean = m;
    *inverse = s;
}
MQ_SIMD(layer_any,
        (const float *x, const float *scale, const float *bias, float epsilon, float *y, size_t n,
         float *mean, float *inverse),
        layer_loop(x, scale, bias, epsilon, y, n, mean, inverse),
        (x, scale, bias, epsilon, y, n, mean, inverse))

void mq_row_layer_norm(const float *x, const float *scale, const float *bias, float epsilon,
                       float *y, size_t n, float *mean, float *inverse)
{
    float m, s;
    layer_any(x, scale, bias, epsilon, y, n, mean == NULL ? &m : mean,
              inverse == NULL ? &s : inverse);
}

MQ_ALWAYS_INLINE void rms_loop(const float *x, const float *scale, float epsilon, float *y,
                               size_t n)
{
    float square;
    SUM(square, n, x[i] * x[i]);
    float s = 1.0f / sqrtf(square / (float)n + epsilon);
    MQ_EACH_ALONE
    for (size_t i = 0; i < n; i++) {
        y[i] = x[i] * s * scale[i];
    }
}
MQ_SIMD(rms_any, (const float *x, const float *scale, float epsilon, float *y, size_t n),
        rms_loop(x, scale, epsilon, y, n), (x, scale, epsilon, y, n))

void mq_row_rms_norm(const float *x, const float *scale, float epsilon, float *y, size_t n)
{
    rms_any(x, scale, epsilon, y, n);
}

MQ_ALWAYS_INLINE void add_loop(const float *a, const float *b, float *y, size_t n)
{
    MQ_EACH_ALONE
    for (size_t i = 0; i < n; i++) {
        y[i] = a[i] + b[i];
    }
}
MQ_SIMD(add_any, (const float *a, const float *b, float *y, size_t n), add_loop(a, b, y, n),
        (a, b, y, n))

void mq_row_add(const float *a, const float *b, float *y, size_t n)
{
    add_any(a, b, y, n);
}

MQ_ALWAYS_INLINE void sum_loop(const float *x, size_t n, float *out)
{
    *out = sum_of(x, n);
}
MQ_SIMD(sum_any, (const float *x, size_t n, float *out), sum_loop(x, n, out), (x, n, out))

float mq_row_sum(const float *x, size_t n)
{
    float sum;
    sum_any(x, n, &sum);
    return sum;
}

MQ_ALWAYS_INLINE void max_loop(const float *x, size_t n, float *out)
{
    *out = max_of(x, n);
}
MQ_SIMD(max_any, (const float *x, size_t n, float *out), max_loop(x, n, out), (x, n, out))

float mq_row_max(const float *x, size_t n)
{
    float top;
    max_any(x, n, &top);
    return top;
}

/* --- wide --- */

enum { WIDE = 16 };

#define WIDE_LOOP(symbol, first, step)                                                             \
    MQ_ALWAYS_INLINE void symbol##_loop(const float *x, size_t n, double *out)                     \
    {                                                                                              \
        double lane[WIDE];                                                                         \
        for (size_t k = 0; k < WIDE; k++) {                                                        \
            lane[k] = (first);                                                                     \
        }                                                                                          \
        size_t full = n / WIDE * WIDE;                                                             \
        for (size_t i = 0; i < full; i += WIDE) {                                                  \
            for (size_t k = 0; k < WIDE; k++) {                                                    \
                double s = lane[k], v = (double)x[i + k];                                          \
                lane[k] = (step);                                                                  \
            }                                                                                      \
        }                                                                                          \
        for (size_t i = full; i < n; i++) {                                                        \
            double s = lane[i - full], v = (double)x[i];                                           \
            lane[i - full] = (step);                                                               \
        }                                                                                          \
        memcpy(out, lane, sizeof lane);                                                            \
    }                                                                                              \
    MQ_SIMD(symbol, (const float *x, size_t n, double *out), symbol##_loop(x, n, out), (x, n, out))

WIDE_LOOP(wide_sum, 0.0, s + v)
WIDE_LOOP(wide_squares, 0.0, s + v * v)
WIDE_LOOP(wide_max, -HUGE_VAL, v > s || isnan(v) ? v : s)
WIDE_LOOP(wide_min, HUGE_VAL, v < s || isnan(v) ? v : s)

double mq_row_wide(mq_row_kind kind, const float *x, size_t n)
{
    double lane[WIDE];
    static void (*const loops[])(const float *, size_t, double *) = {
        [MQ_ROW_SUM] = wide_sum,
        [MQ_ROW_SQUARES] = wide_squares,
        [MQ_ROW_MAX] = wide_max,
        [MQ_ROW_MIN] = wide_min,
    };
    loops[kind](x, n, lane);
    for (size_t half = WIDE / 2; half > 0; half /= 2) {
        for (size_t k = 0; k < half; k++) {
            double s = lane[k], v = lane[k + half];
            bool takes = kind == MQ_ROW_MAX ? v > s || isnan(v) : v < s || isnan(v);
            lane[k] = kind == MQ_ROW_SUM || kind == MQ_ROW_SQUARES ? s + v : takes ? v : s;
        }
    }
    return lane[0];
}

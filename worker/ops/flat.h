/* tanh, erf and what is made of them without a branch, so that a loop over them vectorizes: both
 * sides are computed and one is chosen. The same bits as mq_tanhf and mq_erff, which are these. */
#ifndef MQ_WORKER_OPS_FLAT_H
#define MQ_WORKER_OPS_FLAT_H

#include "worker/ops/kit.h"

static inline float mq_tanh_flat(float x)
{
    float a = x < 0.0f ? -x : x, z = x * x;
    float p = -5.70498872745e-3f; /* Cephes: odd polynomial where 1 - 2 / (e^2x + 1) would cancel */
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float near = p * z * x + x;
    float far = 1.0f - 2.0f / (mq_expf(2.0f * a) + 1.0f);
    far = x < 0.0f ? -far : far;
    far = x != x ? x : far;
    return a < 0.625f ? near : far;
}

static inline float mq_erf_flat(float x)
{
    float a = x < 0.0f ? -x : x, z = x * x;
    float s = 1.0f / 76204800; /* Maclaurin: (2 / sqrt(pi)) sum (-1)^n x^(2n+1) / (n! (2n+1)) */
    s = s * z + -1.0f / 6894720;
    s = s * z + 1.0f / 685440;
    s = s * z + -1.0f / 75600;
    s = s * z + 1.0f / 9360;
    s = s * z + -1.0f / 1320;
    s = s * z + 1.0f / 216;
    s = s * z + -1.0f / 42;
    s = s * z + 1.0f / 10;
    s = s * z + -1.0f / 3;
    s = s * z + 1.0f;
    float near = 1.12837917f * x * s;
    float t = 1.0f / (1.0f + 0.3275911f * a); /* Abramowitz, Stegun 7.1.26: within 1.5e-7 */
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    float far = 1.0f - p * t * mq_expf(-a * a);
    far = x < 0.0f ? -far : far;
    far = x != x ? x : far;
    return a < 1.0f ? near : far;
}

#endif

/* Element-wise loops, compiled once for every x86-64 and once for AVX2; see vec.h. */
#include "worker/train/vec.h"

#if defined(__x86_64__)
#define MQ_VEC_AVX2 1
#else
#define MQ_VEC_AVX2 0
#endif

#define BODY static inline __attribute__((always_inline)) void

BODY add(float *out, const float *a, const float *b, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = a[i] + b[i];
    }
}

BODY sgd_plain(float lr, float mu, const float *restrict g, float *restrict w, float *restrict m,
               size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float v = mu * m[i] + g[i];
        m[i] = v;
        w[i] = w[i] - lr * v;
    }
}

BODY sgd_decay(const mq_sgd *sgd, const float *restrict g, float *restrict w, float *restrict m,
               size_t count)
{
    float lr = sgd->lr, mu = sgd->momentum, decay = sgd->decay;
    for (size_t i = 0; i < count; i++) {
        float v = mu * m[i] + (g[i] + decay * w[i]);
        m[i] = v;
        w[i] = w[i] - lr * v;
    }
}

#if MQ_VEC_AVX2
#define WIDE static __attribute__((target("avx2"), noinline)) void

WIDE add_wide(float *out, const float *a, const float *b, size_t count)
{
    add(out, a, b, count);
}

WIDE sgd_wide(const mq_sgd *sgd, const float *g, float *w, float *m, size_t count)
{
    if (sgd->decay == 0) {
        sgd_plain(sgd->lr, sgd->momentum, g, w, m, count);
    } else {
        sgd_decay(sgd, g, w, m, count);
    }
}
#endif

void mq_vec_add(float *out, const float *a, const float *b, size_t count)
{
#if MQ_VEC_AVX2
    if (__builtin_cpu_supports("avx2")) {
        add_wide(out, a, b, count);
        return;
    }
#endif
    add(out, a, b, count);
}

void mq_vec_sgd(const mq_sgd *sgd, const float *g, float *w, float *m, size_t count)
{
#if MQ_VEC_AVX2
    if (__builtin_cpu_supports("avx2")) {
        sgd_wide(sgd, g, w, m, count);
        return;
    }
#endif
    if (sgd->decay == 0) {
        sgd_plain(sgd->lr, sgd->momentum, g, w, m, count);
    } else {
        sgd_decay(sgd, g, w, m, count);
    }
}

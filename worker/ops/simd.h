/* One loop compiled for several instruction sets and chosen at run time. The loops are plain C that
 * compilers vectorize; without contraction into FMA (see the Makefile) every variant gives the same
 * bits.
 *
 *     static inline void scale_loop(float *x, size_t n, float f) { for (...) x[i] *= f; }
 *     MQ_SIMD(scale, (float *x, size_t n, float f), scale_loop(x, n, f), (x, n, f))
 *     ... scale(x, n, 2.0f);
 */
#ifndef MQ_WORKER_OPS_SIMD_H
#define MQ_WORKER_OPS_SIMD_H

#define MQ_ALWAYS_INLINE static inline __attribute__((always_inline))

/* Before a loop whose output may be one of its inputs, element for element: no iteration depends on
 * another, and compilers need not look for an overlap. */
#if defined(__GNUC__) && !defined(__clang__) /* clang's form is a warning where it cannot */
#define MQ_EACH_ALONE _Pragma("GCC ivdep")
#else
#define MQ_EACH_ALONE
#endif

#if defined(__x86_64__)
#define MQ_SIMD(name, params, loop, args)                                                          \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))) static void name##_512 params    \
    {                                                                                              \
        loop;                                                                                      \
    }                                                                                              \
    __attribute__((target("avx2"))) static void name##_256 params                                  \
    {                                                                                              \
        loop;                                                                                      \
    }                                                                                              \
    static void name##_128 params                                                                  \
    {                                                                                              \
        loop;                                                                                      \
    }                                                                                              \
    static void name params                                                                        \
    {                                                                                              \
        if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&            \
            __builtin_cpu_supports("avx512dq")) {                                                  \
            name##_512 args;                                                                       \
        } else if (__builtin_cpu_supports("avx2")) {                                               \
            name##_256 args;                                                                       \
        } else {                                                                                   \
            name##_128 args;                                                                       \
        }                                                                                          \
    }
#else
#define MQ_SIMD(name, params, loop, args)                                                          \
    static void name params                                                                        \
    {                                                                                              \
        loop;                                                                                      \
    }
#endif

#endif

/* Checked arithmetic for sizes that come from outside, and small integer helpers. */
#ifndef MQ_BASE_MATH_H
#define MQ_BASE_MATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *out = a * b; false (and *out untouched) on overflow. */
static inline bool mq_mul_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) {
        return false;
    }
    *out = r;
    return true;
}

static inline bool mq_add_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) {
        return false;
    }
    *out = r;
    return true;
}

/* n rounded up to a multiple of align, a power of two. The caller knows that it cannot overflow. */
static inline size_t mq_align_up(size_t n, size_t align)
{
    return (n + align - 1) & ~(align - 1);
}

static inline int64_t mq_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t mq_max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline size_t mq_min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t mq_max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

#endif

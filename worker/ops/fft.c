/* Fourier transforms; see fft.h. Knows nothing of tensors. */
#include "worker/ops/fft.h"

#include <math.h>

#define PI 3.14159265358979323846

static mq_complex times(mq_complex a, mq_complex b)
{
    return (mq_complex){a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

static bool is_power(size_t n)
{
    return (n & (n - 1)) == 0;
}

/* The power of two in which a convolution of length n fits. */
static size_t room_for(size_t n)
{
    size_t m = 1;
    while (m < 2 * n - 1) {
        m *= 2;
    }
    return m;
}

size_t mq_fft_work(size_t n)
{
    return n < 2 ? 1 : is_power(n) ? n : 2 * room_for(n) + room_for(n) + n;
}

/* n a power of two; roots: n / 2 of them. */
static void radix2(mq_complex *x, size_t n, bool is_inverse, mq_complex *roots)
{
    for (size_t i = 0; i < n / 2; i++) {
        double angle = 2.0 * PI * (double)i / (double)n;
        roots[i] = (mq_complex){cos(angle), is_inverse ? sin(angle) : -sin(angle)};
    }
    for (size_t i = 1, j = 0; i < n; i++) { /* bit reversal */
        size_t bit = n >> 1;
        for (; (j & bit) != 0; bit >>= 1) {
            j ^= bit;
        }
        j ^= bit;
        if (i < j) {
            mq_complex swap = x[i];
            x[i] = x[j];
            x[j] = swap;
        }
    }
    for (size_t length = 2; length <= n; length *= 2) {
        for (size_t start = 0; start < n; start += length) {
            for (size_t k = 0; k < length / 2; k++) {
                mq_complex *a = &x[start + k], *b = &x[start + k + length / 2];
                mq_complex odd = times(*b, roots[k * (n / length)]);
                *b = (mq_complex){a->re - odd.re, a->im - odd.im};
                *a = (mq_complex){a->re + odd.re, a->im + odd.im};
            }
        }
    }
}

/* j k = (j^2 + k^2 - (k - j)^2) / 2 turns the transform into a convolution with a chirp. */
static void bluestein(mq_complex *x, size_t n, bool is_inverse, mq_complex *work)
{
    size_t m = room_for(n);
    mq_complex *a = work, *b = a + m, *roots = b + m, *chirp = roots + m;
    for (size_t i = 0; i < n; i++) {
        double angle = PI * (double)((unsigned long long)i * i % (2 * n)) / (double)n;
        chirp[i] = (mq_complex){cos(angle), is_inverse ? sin(angle) : -sin(angle)};
    }
    for (size_t i = 0; i < m; i++) {
        a[i] = i < n ? times(x[i], chirp[i]) : (mq_complex){0.0, 0.0};
        b[i] = (mq_complex){0.0, 0.0};
    }
    for (size_t i = 0; i < n; i++) {
        b[i] = (mq_complex){chirp[i].re, -chirp[i].im};
        b[(m - i) % m] = b[i];
    }
    radix2(a, m, false, roots);
    radix2(b, m, false, roots);
    for (size_t i = 0; i < m; i++) {
        a[i] = times(a[i], b[i]);
    }
    radix2(a, m, true, roots);
    for (size_t i = 0; i < n; i++) {
        mq_complex y = times(a[i], chirp[i]);
        x[i] = (mq_complex){y.re / (double)m, y.im / (double)m};
    }
}

void mq_fft(mq_complex *x, size_t n, bool is_inverse, mq_complex *work)
{
    if (n < 2) {
        return;
    }
    if (is_power(n)) {
        radix2(x, n, is_inverse, work);
    } else {
        bluestein(x, n, is_inverse, work);
    }
}

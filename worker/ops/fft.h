/* Discrete Fourier transform of any length: radix 2 where it is a power of two, else as a
 * convolution of such (Bluestein, IEEE Trans. Audio Electroacoust. 18(4), 1970). */
#ifndef MQ_WORKER_OPS_FFT_H
#define MQ_WORKER_OPS_FFT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct mq_complex {
    double re, im;
} mq_complex;

#define MQ_FFT_LENGTH_MAX ((size_t)1 << 26)

/* Elements of work space for length n (at most MQ_FFT_LENGTH_MAX). */
size_t mq_fft_work(size_t n);

/* x[k] = sum over j of x[j] e^(-2 pi i j k / n), in place; is_inverse: e^(+...), not divided by n.
 */
void mq_fft(mq_complex *x, size_t n, bool is_inverse, mq_complex *work);

#endif

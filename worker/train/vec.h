/* The element-wise loops of training. Each element is computed by itself with the same IEEE
 * operations in the same order, without fused multiply-add, so the width of the vectors that a CPU
 * has (chosen at run time) cannot show in the bits. Pointers need no alignment; out may be a or b.
 */
#ifndef MQ_WORKER_TRAIN_VEC_H
#define MQ_WORKER_TRAIN_VEC_H

#include <stddef.h>

/* out[i] = a[i] + b[i] */
void mq_vec_add(float *out, const float *a, const float *b, size_t count);

/* SGD as in PyTorch: g += decay w (left out when decay is 0); m = momentum m + g; w -= lr m. */
typedef struct mq_sgd {
    float lr, momentum, decay;
} mq_sgd;

void mq_vec_sgd(const mq_sgd *sgd, const float *g, float *w, float *m, size_t count);

#endif

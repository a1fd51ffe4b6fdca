/* First weights as a function of (seed, layer, element): what the model builder fills initializers
 * with. Only additions, multiplications and square roots, so the bits are the same on every
 * machine. layer: the number of the tensor within the model, so that no two tensors share numbers.
 *
 * All are uniform, which needs no logarithm; bounds as in He et al. 2015 (arXiv:1502.01852) and
 * Glorot, Bengio 2010. */
#ifndef MQ_WORKER_TRAIN_INIT_H
#define MQ_WORKER_TRAIN_INIT_H

#include <stddef.h>
#include <stdint.h>

/* count numbers uniform in (-bound, bound). */
void mq_init_uniform(uint64_t seed, uint32_t layer, float bound, float *out, size_t count);

/* For layers followed by ReLU: bound sqrt(6 / fan_in). fan_in > 0. */
void mq_init_he(uint64_t seed, uint32_t layer, size_t fan_in, float *out, size_t count);

/* For layers without, or with tanh or softmax behind them: bound sqrt(6 / (fan_in + fan_out)). */
void mq_init_xavier(uint64_t seed, uint32_t layer, size_t fan_in, size_t fan_out, float *out,
                    size_t count);

/* Nearly normal with mean 0: the sum of eight uniform 16-bit numbers, scaled (for embeddings). */
void mq_init_normal(uint64_t seed, uint32_t layer, float deviation, float *out, size_t count);

#endif

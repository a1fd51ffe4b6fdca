/* Small seeded generator (splitmix64) for jitter, choice of two and tests. Not for secrets, and not
 * for training, which uses counters (worker/train/philox.h). */
#ifndef MQ_BASE_PRNG_H
#define MQ_BASE_PRNG_H

#include <stdint.h>

typedef struct mq_prng {
    uint64_t state;
} mq_prng;

static inline uint64_t mq_prng_next(mq_prng *prng)
{
    uint64_t z = (prng->state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Uniform in 0..bound-1; bound > 0. The bias below 2^-32 for bounds under 2^32 does not matter
 * here. */
static inline uint64_t mq_prng_below(mq_prng *prng, uint64_t bound)
{
    return mq_prng_next(prng) % bound;
}

#endif

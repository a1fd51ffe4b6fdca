/* First weights from Philox; see init.h. */
#include "worker/train/init.h"

#include <math.h>

#include "shared/base/assert.h"
#include "worker/train/philox.h"

/* Block number i of a layer's draw. Elements past 2^34 would repeat; the model limit is far below.
 */
static mq_philox_block block_at(uint64_t seed, uint32_t layer, size_t i)
{
    uint32_t counter[4] = {(uint32_t)i, layer, 0, MQ_PURPOSE_INIT};
    return mq_philox(seed, counter);
}

void mq_init_uniform(uint64_t seed, uint32_t layer, float bound, float *out, size_t count)
{
    MQ_ASSERT(count >> 34 == 0);
    for (size_t i = 0; i < count; i += 4) {
        mq_philox_block b = block_at(seed, layer, i / 4);
        for (size_t j = 0; j < 4 && i + j < count; j++) {
            /* 24 bits, centred: (k + 1/2) / 2^23 - 1 is exact in fp32 and never -1, 0 or 1. */
            int32_t k = (int32_t)(b.word[j] >> 8) - (1 << 23);
            out[i + j] = bound * (((float)k + 0.5F) * 0x1p-23F);
        }
    }
}

void mq_init_he(uint64_t seed, uint32_t layer, size_t fan_in, float *out, size_t count)
{
    MQ_ASSERT(fan_in > 0);
    mq_init_uniform(seed, layer, (float)sqrt(6.0 / (double)fan_in), out, count);
}

void mq_init_xavier(uint64_t seed, uint32_t layer, size_t fan_in, size_t fan_out, float *out,
                    size_t count)
{
    MQ_ASSERT(fan_in + fan_out > 0);
    mq_init_uniform(seed, layer, (float)sqrt(6.0 / (double)(fan_in + fan_out)), out, count);
}

void mq_init_normal(uint64_t seed, uint32_t layer, float deviation, float *out, size_t count)
{
    MQ_ASSERT(count >> 32 == 0);
    /* Eight uniform numbers of variance 2^32 / 12 each. */
    double scale = (double)deviation / sqrt(8.0 / 12.0) / 65536.0;
    for (size_t i = 0; i < count; i++) {
        mq_philox_block b = block_at(seed, layer, i);
        int32_t sum = 0;
        for (size_t j = 0; j < 4; j++) {
            sum += (int32_t)(b.word[j] & 0xFFFF) + (int32_t)(b.word[j] >> 16);
        }
        out[i] = (float)(((double)sum - 8 * 32767.5) * scale);
    }
}

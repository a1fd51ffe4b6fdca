/* The numeric battery; see fingerprint.h. */
#include "worker/train/fingerprint.h"

#include "worker/blas/blas.h"
#include "worker/train/philox.h"

enum { BATTERY_FLOATS = 800 * 512 }; /* the largest operand */

/* Sizes of training's products: rows of a shard, layer in and out, and odd ones. */
static const struct {
    int64_t m, n, k;
} sizes[] = {
    {32, 256, 784}, {32, 10, 128}, {784, 256, 32}, {64, 128, 256}, {33, 17, 65}, {1, 256, 512},
};

static void fill(float *out, uint32_t layer)
{
    for (uint32_t i = 0; i < BATTERY_FLOATS / 4; i++) {
        uint32_t counter[4] = {i, layer, 0, MQ_PURPOSE_FINGERPRINT};
        mq_philox_block b = mq_philox(1, counter);
        for (size_t j = 0; j < 4; j++) {
            out[4 * i + j] = (float)((int32_t)(b.word[j] >> 8) - (1 << 23)) * 0x1p-23F;
        }
    }
}

void mq_fingerprint(char out[MQ_SHA256_HEX])
{
    static float a[BATTERY_FLOATS], b[BATTERY_FLOATS], c[BATTERY_FLOATS];
    mq_blas_init();
    fill(a, 0);
    fill(b, 1);
    mq_sha256 *hash = mq_sha256_new();
    mq_sha256_add(hash, mq_span_of(a, sizeof a));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int64_t m = sizes[i].m, n = sizes[i].n, k = sizes[i].k;
        for (int trans = 0; trans < 4; trans++) {
            bool ta = (trans & 1) != 0, tb = (trans & 2) != 0;
            mq_gemm g = {ta, tb, m, n, k, 1, 0, a, b, c, ta ? m : k, tb ? k : n, n};
            mq_blas_gemm(&g);
            mq_sha256_add(hash, mq_span_of(c, (size_t)(m * n) * sizeof c[0]));
        }
    }
    uint8_t digest[MQ_SHA256_BYTES];
    mq_sha256_end(hash, digest);
    mq_sha256_hex(digest, out);
}

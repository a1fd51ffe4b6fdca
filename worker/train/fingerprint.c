/* The numeric battery; see fingerprint.h. */
#include "worker/train/fingerprint.h"

#include "shared/base/assert.h"
#include "worker/blas/blas.h"
#include "worker/models/arch.h"
#include "worker/train/net.h"
#include "worker/train/philox.h"
#include "worker/train/vec.h"

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

/* One real training step: softmax, exp, ReLU and whatever else runs between the products. */
enum { STEP_ROWS = 32, STEP_CLASSES = 10, STEP_PARAMS_MAX = 4096 };

static void add_step(mq_sha256 *hash, const float *x)
{
    static float flat[STEP_PARAMS_MAX], grads[STEP_PARAMS_MAX], momentum[STEP_PARAMS_MAX];
    mq_label labels[STEP_ROWS];
    mq_model *model;
    mq_net *net;
    mq_net_stats stats = {0};
    mq_net_options options = {
        .rows = STEP_ROWS, .stage_count = 1, .memory_bytes_max = (size_t)64 << 20};
    for (int32_t i = 0; i < STEP_ROWS; i++) {
        labels[i].class_number = i % STEP_CLASSES;
    }
    mq_code code = mq_arch_build(&model, "mlp:65-33-17-10", 1, NULL);
    MQ_ASSERT(code == MQ_OK);
    code = mq_net_new(&net, model, &options, NULL);
    MQ_ASSERT(code == MQ_OK);
    size_t count = mq_net_param_total(net);
    MQ_ASSERT(count <= STEP_PARAMS_MAX);
    mq_net_params_get(net, flat);
    memset(momentum, 0, sizeof momentum);
    for (int step = 0; step < 3; step++) {
        code = mq_net_step(net, flat, x, labels, 1.0F / STEP_ROWS, grads, &stats, NULL);
        MQ_ASSERT(code == MQ_OK);
        mq_vec_sgd(&(mq_sgd){0.5F, 0.9F, 0.01F}, grads, flat, momentum, count);
        mq_sha256_add(hash, mq_span_of(&stats.loss_sum, sizeof stats.loss_sum));
    }
    mq_sha256_add(hash, mq_span_of(flat, count * sizeof flat[0]));
    mq_net_free(net);
    mq_model_free(model);
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
    add_step(hash, a);
    uint8_t digest[MQ_SHA256_BYTES];
    mq_sha256_end(hash, digest);
    mq_sha256_hex(digest, out);
}

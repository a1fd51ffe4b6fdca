/* Training step against its bare products: MLP 784-256-128-10, 8 shards of 32 rows a batch. Prints
 * samples/s of both and their ratio, the best of several rounds that take turns. */
#include <time.h>

#include "tests/worker/mlp.h"
#include "worker/blas/blas.h"
#include "worker/train/net.h"

enum { ROWS = 32, SHARDS = 8, BATCHES = 40, ROUNDS = 12 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct bench {
    mq_net *net;
    float *flat, *grads, *x;
    mq_label *labels;
} bench;

static double run(const bench *b, bool is_bare)
{
    double start = now_s();
    for (int i = 0; i < BATCHES * SHARDS; i++) {
        if (is_bare) {
            mq_net_gemm_only(b->net, b->flat);
        } else {
            mq_net_stats stats;
            mq_error err;
            int shard = i % SHARDS;
            mlp_must(mq_net_step(b->net, b->flat, b->x + shard * ROWS * 784,
                                 b->labels + shard * ROWS, 1.0f / 256.0f,
                                 b->grads + (size_t)shard * mq_net_param_total(b->net), &stats,
                                 &err),
                     &err);
        }
    }
    return (double)(BATCHES * SHARDS * ROWS) / (now_s() - start);
}

int main(void)
{
    mq_error err;
    mq_prng prng = {7};
    for (int flags = 0; flags <= MLP_TRANSPOSED; flags++) {
        mq_model *model = mlp_new((const int64_t[]){784, 256, 128, 10}, 4, flags, 1);
        bench b;
        mlp_must(
            mq_net_new(&b.net, model,
                       &(mq_net_options){.rows = ROWS, .stage_count = 1},
                       &err),
            &err);
        size_t total = mq_net_param_total(b.net);
        b.flat = calloc(total, sizeof(float));
        b.grads = calloc(total * SHARDS, sizeof(float));
        b.x = calloc((size_t)SHARDS * ROWS * 784, sizeof(float));
        b.labels = calloc((size_t)SHARDS * ROWS, sizeof(mq_label));
        MQ_ASSERT(b.flat != NULL && b.grads != NULL && b.x != NULL && b.labels != NULL);
        mq_net_params_get(b.net, b.flat);
        for (int i = 0; i < SHARDS * ROWS * 784; i++) {
            b.x[i] = mlp_random(&prng, 1.0f);
        }
        double step = 0.0, bare = 0.0;
        for (int r = 0; r < ROUNDS; r++) {
            double s = run(&b, false), g = run(&b, true);
            step = s > step ? s : step;
            bare = g > bare ? g : bare;
        }
        printf("{\"bench\":\"net\",\"case\":\"mlp-784-256-128-10-rows32-%s\",\"value\":%.0f,"
               "\"unit\":\"samples/s\",\"ceiling\":\"bare-gemm\",\"ceiling_value\":%.0f,"
               "\"ratio\":%.3f,\"gflops_bare\":%.1f,\"core\":\"%s\"}\n",
               flags == 0 ? "in-out" : "out-in", step, bare, step / bare,
               bare / ROWS * mq_net_gemm_flop(b.net) * 1e-9, mq_blas_core());
        mq_net_free(b.net);
        mq_model_free(model);
        free(b.flat);
        free(b.grads);
        free(b.x);
        free(b.labels);
    }
    return 0;
}

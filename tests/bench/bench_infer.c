/* Inference of the MLP 784-256-128-10, float and dynamically quantized, against the time that its
 * bare float products take (gemv at one row). Medians of many runs. */
#include <time.h>

#include "tests/worker/mlp.h"
#include "worker/blas/blas.h"
#include "worker/dnnl/dnnl.h"
#include "worker/exec/session.h"
#include "worker/ops/qgemm.h"

enum { RUNS = 2000 };

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static const int64_t sizes[] = {784, 256, 128, 10};

/* The same layers as DynamicQuantizeLinear, MatMulInteger, Cast, Mul, Add, Relu. */
static mq_model *quantized(void)
{
    mq_model *m;
    mq_error err;
    mq_prng prng = {3};
    mlp_must(mq_model_new(&m, "int8", 0, &err), &err);
    char x[16] = "x", n[12][16];
    for (int i = 0; i < 3; i++) {
        static const char *const kinds[] = {"xq", "xs", "xz", "w", "ws", "b",
                                            "i",  "f",  "s",  "m", "h",  "a"};
        for (int k = 0; k < 12; k++) {
            snprintf(n[k], sizeof n[k], i == 2 && k == 10 ? "y" : "%s%d", kinds[k], i);
        }
        size_t count = (size_t)(sizes[i] * sizes[i + 1]);
        int8_t *w = malloc(count);
        MQ_ASSERT(w != NULL);
        for (size_t k = 0; k < count; k++) {
            w[k] = (int8_t)mq_prng_next(&prng);
        }
        mq_shape ws = {2, {sizes[i], sizes[i + 1]}}, scalar = {.rank = 0};
        float scale = 0.001f;
        mlp_must(mq_model_set_init(m, n[3], MQ_DT_I8, &ws, mq_span_of(w, count), &err), &err);
        mlp_must(mq_model_set_init(m, n[4], MQ_DT_F32, &scalar, mq_span_of(&scale, 4), &err), &err);
        mlp_init(m, n[5], &(mq_shape){1, {sizes[i + 1]}}, 0.1f, &prng);
        free(w);
        const mq_node_spec nodes[] = {
            {"DynamicQuantizeLinear", NULL, "", MQ_NODE_ARGS(x), MQ_NODE_ARGS(n[0], n[1], n[2])},
            {"MatMulInteger", NULL, "", MQ_NODE_ARGS(n[0], n[3], n[2]), MQ_NODE_ARGS(n[6])},
            {"Cast", NULL, "", MQ_NODE_ARGS(n[6]), MQ_NODE_ARGS(n[7])},
            {"Mul", NULL, "", MQ_NODE_ARGS(n[1], n[4]), MQ_NODE_ARGS(n[8])},
            {"Mul", NULL, "", MQ_NODE_ARGS(n[7], n[8]), MQ_NODE_ARGS(n[9])},
            {"Add", NULL, "", MQ_NODE_ARGS(n[9], n[5]), MQ_NODE_ARGS(n[10])},
            {"Relu", NULL, "", MQ_NODE_ARGS(n[10]), MQ_NODE_ARGS(n[11])},
        };
        for (int k = 0; k < (i == 2 ? 6 : 7); k++) {
            mq_node *node;
            mlp_must(mq_model_add_node(m, m->graph.node_count, &nodes[k], &node, &err), &err);
            if (k == 2) {
                mlp_must(mq_node_set_int(m, node, "to", MQ_DT_F32, &err), &err);
            }
        }
        snprintf(x, sizeof x, "%s", n[11]);
    }
    mlp_io(m, "x", 784, "y", 10);
    mlp_must(mq_model_verify(m, &err), &err);
    return m;
}

/* Median microseconds of a run, and in *bare of its products alone, as `own` (the session without
 * oneDNN) gives them to OpenBLAS. */
static double measure(mq_session *s, mq_session *own, int64_t rows, float *x, double *bare)
{
    static double times[RUNS];
    mq_gemm list[16];
    mq_gemm_log log = {list, 0, 16};
    mq_tensor in = {MQ_DT_F32, {2, {rows, 784}}, x, (size_t)rows * 784 * 4};
    const mq_tensor *out;
    mq_error err;
    mq_blas_log(&log);
    mlp_must(mq_session_run(own, &in, 1, &out, &err), &err);
    mq_blas_log(NULL);
    for (int i = 0; i < RUNS; i++) {
        double start = now_us();
        for (uint32_t k = 0; k < log.count; k++) {
            mq_blas_gemm_fast(&list[k]);
        }
        times[i] = now_us() - start;
    }
    qsort(times, RUNS, sizeof times[0], by_value);
    *bare = times[RUNS / 2];
    for (int i = 0; i < RUNS; i++) {
        double start = now_us();
        mlp_must(mq_session_run(s, &in, 1, &out, &err), &err);
        times[i] = now_us() - start;
    }
    qsort(times, RUNS, sizeof times[0], by_value);
    return times[RUNS / 2];
}

int main(void)
{
    static float x[32 * 784];
    mq_prng prng = {5};
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++) {
        x[i] = mlp_random(&prng, 1.0f);
    }
    for (int form = 0; form < 3; form++) {
        static const char *const names[] = {"f32-in-out", "f32-out-in", "dynamic-int8"};
        mq_model *model = form == 2 ? quantized() : mlp_new(sizes, 4, form, 1);
        mq_session *s, *own;
        mq_error err;
        static double float_bare[3];
        mq_session_options without = {.own_kernels = true};
        mlp_must(mq_session_new(&s, model, NULL, &err), &err);
        mlp_must(mq_session_new(&own, model, &without, &err), &err);
        for (int b = 0; b < 3; b++) {
            int64_t rows = b == 0 ? 1 : b == 1 ? 8 : 32;
            double bare, us = measure(s, own, rows, x, &bare);
            float_bare[b] = form == 2 ? float_bare[b] : bare;
            printf("{\"bench\":\"infer\",\"case\":\"mlp-%s-b%lld\",\"value\":%.2f,\"unit\":\"us\","
                   "\"ceiling\":\"bare-f32-products\",\"ceiling_value\":%.2f,\"ratio\":%.3f,"
                   "\"core\":\"%s, int8 %s, %s\"}\n",
                   names[form], (long long)rows, us, float_bare[b], float_bare[b] / us,
                   mq_blas_core(), mq_qgemm_name(), mq_dnnl_name());
        }
        mq_session_free(s);
        mq_session_free(own);
        mq_model_free(model);
    }
    return 0;
}

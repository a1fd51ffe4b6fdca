/* Builds small models for tests and benchmarks of the engine: an MLP with given layer sizes. */
#ifndef MQ_TESTS_WORKER_MLP_H
#define MQ_TESTS_WORKER_MLP_H

#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/base/prng.h"
#include "worker/onnx/model.h"

static inline float mlp_random(mq_prng *prng, float scale)
{
    return scale * ((float)(mq_prng_next(prng) >> 40) / 8388608.0f - 1.0f);
}

static inline void mlp_must(mq_code code, const mq_error *err)
{
    if (code != MQ_OK) {
        fprintf(stderr, "%s\n", err->text);
        abort();
    }
}

static inline void mlp_init(mq_model *model, const char *name, const mq_shape *shape, float scale,
                            mq_prng *prng)
{
    mq_error err;
    size_t count = 1;
    for (int i = 0; i < shape->rank; i++) {
        count *= (size_t)shape->dims[i];
    }
    float *data = malloc(count * sizeof *data);
    MQ_ASSERT(data != NULL);
    for (size_t i = 0; i < count; i++) {
        data[i] = mlp_random(prng, scale);
    }
    mlp_must(mq_model_set_init(model, name, MQ_DT_F32, shape, mq_span_of(data, count * 4), &err),
             &err);
    free(data);
}

static inline void mlp_io(mq_model *model, const char *input, int64_t in, const char *output,
                          int64_t out)
{
    mq_error err;
    mlp_must(
        mq_model_set_input(
            model,
            &(mq_value_info){
                .name = input, .dtype = MQ_DT_F32, .rank = 2, .dims = {-1, in}, .dim_names = {"N"}},
            &err),
        &err);
    mlp_must(mq_model_set_output(model,
                                 &(mq_value_info){.name = output,
                                                  .dtype = MQ_DT_F32,
                                                  .rank = 2,
                                                  .dims = {-1, out},
                                                  .dim_names = {"N"}},
                                 &err),
             &err);
}

enum {
    MLP_TRANSPOSED = 1, /* weights [out, in], Gemm with transB */
    MLP_SOFTMAX = 2,    /* ends in Softmax */
    MLP_MATMUL = 4,     /* MatMul and Add instead of Gemm */
};

/* sizes: count numbers, input first. Returns a model that passes mq_model_verify. */
static inline mq_model *mlp_new(const int64_t *sizes, int count, int flags, uint64_t seed)
{
    mq_model *model;
    mq_error err;
    mq_prng prng = {seed};
    mlp_must(mq_model_new(&model, "mlp", 0, &err), &err);
    char x[32] = "x", w[32], b[32], y[32], h[32];
    for (int i = 0; i + 1 < count; i++) {
        bool is_last = i + 2 == count, is_t = (flags & MLP_TRANSPOSED) != 0;
        snprintf(w, sizeof w, "w%d", i);
        snprintf(b, sizeof b, "b%d", i);
        snprintf(h, sizeof h, "h%d", i);
        snprintf(y, sizeof y, is_last ? "y" : "a%d", i);
        const char *made = is_last && (flags & MLP_SOFTMAX) == 0 ? y : h;
        mq_shape ws = {2, {sizes[is_t ? i + 1 : i], sizes[is_t ? i : i + 1]}};
        mlp_init(model, w, &ws, 1.5f / (float)sizes[i] + 0.05f, &prng);
        mlp_init(model, b, &(mq_shape){1, {sizes[i + 1]}}, 0.1f, &prng);
        mq_node *node;
        uint32_t at = model->graph.node_count;
        if ((flags & MLP_MATMUL) != 0) {
            mq_node_spec mm = {"MatMul", NULL, "mm", MQ_NODE_ARGS(x, w), MQ_NODE_ARGS("t")};
            char t[32];
            snprintf(t, sizeof t, "t%d", i);
            mm.outputs = (const char *const[]){t};
            mlp_must(mq_model_add_node(model, at, &mm, &node, &err), &err);
            mq_node_spec add = {"Add", NULL, "add", MQ_NODE_ARGS(t, b), MQ_NODE_ARGS(made)};
            mlp_must(mq_model_add_node(model, at + 1, &add, &node, &err), &err);
        } else {
            mq_node_spec gemm = {"Gemm", NULL, w, MQ_NODE_ARGS(x, w, b), MQ_NODE_ARGS(made)};
            mlp_must(mq_model_add_node(model, at, &gemm, &node, &err), &err);
            if (is_t) {
                mlp_must(mq_node_set_int(model, node, "transB", 1, &err), &err);
            }
        }
        if (!is_last || (flags & MLP_SOFTMAX) != 0) {
            mq_node_spec act = {is_last ? "Softmax" : "Relu", NULL, y, MQ_NODE_ARGS(h),
                                MQ_NODE_ARGS(y)};
            mlp_must(mq_model_add_node(model, model->graph.node_count, &act, NULL, &err), &err);
        }
        snprintf(x, sizeof x, "%s", y);
    }
    mlp_io(model, "x", sizes[0], "y", sizes[count - 1]);
    mlp_must(mq_model_verify(model, &err), &err);
    return model;
}

#endif

/* Dense networks: "mlp", "logistic" and "linear" are the same chain of Gemm and ReLU. Weights lie
 * as [out, in] (Gemm with transB), the layout of PyTorch's Linear. */
#include <stdio.h>
#include <stdlib.h>

#include "worker/models/arch.h"
#include "worker/train/init.h"

extern mq_arch_build_fn mq_arch_build_mlp, mq_arch_build_logistic, mq_arch_build_linear;

/* Text names of one layer. */
typedef struct layer_names {
    char weight[32], bias[32], node[32], out[32], relu[32], act[32];
} layer_names;

static void name_layer(layer_names *names, uint32_t number)
{
    snprintf(names->node, sizeof names->node, "fc%u", number);
    snprintf(names->weight, sizeof names->weight, "fc%u.weight", number);
    snprintf(names->bias, sizeof names->bias, "fc%u.bias", number);
    snprintf(names->out, sizeof names->out, "fc%u.out", number);
    snprintf(names->relu, sizeof names->relu, "relu%u", number);
    snprintf(names->act, sizeof names->act, "relu%u.out", number);
}

/* First weights: He before a ReLU, Xavier at the end; biases zero. */
static mq_code add_weights(mq_model *model, const layer_names *names, uint32_t layer, int64_t in,
                           int64_t out, bool is_last, uint64_t seed, mq_error *err)
{
    size_t count = (size_t)in * (size_t)out;
    float *w = calloc(count, sizeof *w);
    float *zeros = calloc((size_t)out, sizeof *zeros);
    mq_code code = MQ_OK;
    if (w == NULL || zeros == NULL) {
        code = mq_fail(err, MQ_E_LIMIT, "no memory for %zu weights", count);
    } else if (is_last) {
        mq_init_xavier(seed, layer, (size_t)in, (size_t)out, w, count);
    } else {
        mq_init_he(seed, layer, (size_t)in, w, count);
    }
    if (code == MQ_OK) {
        code = mq_model_set_init(model, names->weight, MQ_DT_F32, &(mq_shape){2, {out, in}},
                                 mq_span_of(w, count * sizeof *w), err);
    }
    if (code == MQ_OK) {
        code = mq_model_set_init(model, names->bias, MQ_DT_F32, &(mq_shape){1, {out}},
                                 mq_span_of(zeros, (size_t)out * sizeof *zeros), err);
    }
    free(zeros);
    free(w);
    return code;
}

static mq_code add_dense(mq_model *model, const layer_names *names, const char *from,
                         const char *to, mq_error *err)
{
    mq_node *node;
    mq_node_spec spec = {"Gemm", "", names->node, MQ_NODE_ARGS(from, names->weight, names->bias),
                         MQ_NODE_ARGS(to)};
    mq_code code = mq_model_add_node(model, model->graph.node_count, &spec, &node, err);
    return code == MQ_OK ? mq_node_set_int(model, node, "transB", 1, err) : code;
}

static mq_code add_relu(mq_model *model, const layer_names *names, mq_error *err)
{
    mq_node_spec spec = {"Relu", "", names->relu, MQ_NODE_ARGS(names->out),
                         MQ_NODE_ARGS(names->act)};
    return mq_model_add_node(model, model->graph.node_count, &spec, NULL, err);
}

static mq_code add_ends(mq_model *model, int64_t in, int64_t out, const char *output, mq_error *err)
{
    mq_value_info x = {"input", MQ_DT_F32, 2, {-1, in}, {"N"}};
    mq_value_info y = {output, MQ_DT_F32, 2, {-1, out}, {"N"}};
    mq_code code = mq_model_set_input(model, &x, err);
    return code == MQ_OK ? mq_model_set_output(model, &y, err) : code;
}

static mq_code build_chain(mq_model *model, const mq_arch_sizes *s, uint64_t seed,
                           const char *output, mq_error *err)
{
    int64_t total = 0;
    for (uint32_t i = 0; i + 1 < s->count; i++) {
        total += (s->size[i] + 1) * s->size[i + 1];
    }
    if (total > MQ_ARCH_PARAMS_MAX) {
        return mq_fail(err, MQ_E_ARG, "%lld parameters; the limit is %d", (long long)total,
                       MQ_ARCH_PARAMS_MAX);
    }
    mq_code code = add_ends(model, s->size[0], s->size[s->count - 1], output, err);
    layer_names names, previous;
    for (uint32_t i = 0; i + 1 < s->count && code == MQ_OK; i++) {
        bool is_last = i + 2 == s->count;
        name_layer(&names, i + 1);
        code = add_weights(model, &names, i, s->size[i], s->size[i + 1], is_last, seed, err);
        if (code == MQ_OK) {
            code = add_dense(model, &names, i == 0 ? "input" : previous.act,
                             is_last ? output : names.out, err);
        }
        if (code == MQ_OK && !is_last) {
            code = add_relu(model, &names, err);
        }
        previous = names;
    }
    return code;
}

mq_code mq_arch_build_mlp(mq_model *model, const mq_arch_sizes *sizes, uint64_t seed, mq_error *err)
{
    if (sizes->count < 2) {
        return mq_fail(err, MQ_E_ARG, "at least an input and an output size are needed");
    }
    return build_chain(model, sizes, seed, "logits", err);
}

static mq_code expect_two(const mq_arch_sizes *sizes, mq_error *err)
{
    return sizes->count == 2
               ? MQ_OK
               : mq_fail(err, MQ_E_ARG, "exactly two sizes are needed, not %u", sizes->count);
}

mq_code mq_arch_build_logistic(mq_model *model, const mq_arch_sizes *sizes, uint64_t seed,
                               mq_error *err)
{
    mq_code code = expect_two(sizes, err);
    return code == MQ_OK ? build_chain(model, sizes, seed, "logits", err) : code;
}

mq_code mq_arch_build_linear(mq_model *model, const mq_arch_sizes *sizes, uint64_t seed,
                             mq_error *err)
{
    mq_code code = expect_two(sizes, err);
    return code == MQ_OK ? build_chain(model, sizes, seed, "output", err) : code;
}

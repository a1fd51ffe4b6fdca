/* Replacing a classifier's last layer; see head.h. Knows no training. */
#include "worker/models/head.h"

#include <stdlib.h>
#include <string.h>

#include "worker/train/init.h"

/* Number of the new weight for init.h: no builder counts that far. */
#define HEAD_TENSOR UINT32_MAX

typedef struct head {
    const mq_init *weight, *bias; /* bias NULL: none */
    bool is_transposed;           /* weight is [out, in] */
} head;

static const mq_node *maker(const mq_graph *g, const char *value)
{
    uint32_t at = mq_graph_producer(g, value);
    return at == UINT32_MAX ? NULL : &g->nodes[at];
}

static bool is_behind(const mq_node *n)
{
    static const char *const names[] = {"Softmax", "LogSoftmax", "Sigmoid", "Identity"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(n->op_type, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool find_product(const mq_graph *g, const mq_node *n, head *out)
{
    if (strcmp(n->op_type, "Gemm") == 0 && n->input_count >= 2) {
        const mq_attr *transposed = mq_node_attr(n, "transB");
        out->weight = mq_graph_init(g, n->inputs[1]);
        bool has_bias = n->input_count > 2 && n->inputs[2][0] != '\0';
        out->bias = has_bias ? mq_graph_init(g, n->inputs[2]) : NULL;
        out->is_transposed = transposed != NULL && transposed->i != 0;
        return out->weight != NULL && (!has_bias || out->bias != NULL);
    }
    if (strcmp(n->op_type, "Add") == 0) {
        uint32_t bias = mq_graph_init(g, n->inputs[0]) != NULL ? 0 : 1;
        out->bias = mq_graph_init(g, n->inputs[bias]);
        n = out->bias == NULL ? NULL : maker(g, n->inputs[1 - bias]);
    }
    if (n == NULL || strcmp(n->op_type, "MatMul") != 0) {
        return false;
    }
    out->weight = mq_graph_init(g, n->inputs[1]);
    return out->weight != NULL;
}

static bool is_usable(const mq_graph *g, const head *h)
{
    const mq_init *both[] = {h->weight, h->bias};
    for (size_t i = 0; i < 2; i++) {
        if (both[i] != NULL &&
            (both[i]->tensor.dtype != MQ_DT_F32 || mq_graph_use_count(g, both[i]->name) != 1)) {
            return false;
        }
    }
    return h->weight->tensor.shape.rank == 2;
}

static mq_code fill(mq_model *model, const head *h, int64_t width, uint64_t seed, mq_error *err)
{
    mq_shape shape = h->weight->tensor.shape, flat = {1, {width}};
    int64_t in = shape.dims[h->is_transposed ? 1 : 0];
    shape.dims[h->is_transposed ? 0 : 1] = width;
    size_t count = 0;
    mq_code code = mq_shape_count(&shape, &count, err);
    float *numbers = code == MQ_OK ? calloc(count + (size_t)width, sizeof *numbers) : NULL;
    if (code == MQ_OK && numbers == NULL) {
        code = mq_fail(err, MQ_E_LIMIT, "no memory for a layer of %zu numbers", count);
    }
    if (code != MQ_OK) {
        return code;
    }
    mq_init_xavier(seed, HEAD_TENSOR, (size_t)in, (size_t)width, numbers, count);
    if (h->bias != NULL) { /* before the weight: a call moves what the pointers point to */
        const char *name = h->weight->name;
        code = mq_model_set_init(model, h->bias->name, MQ_DT_F32, &flat,
                                 mq_span_of(numbers + count, (size_t)width * sizeof *numbers), err);
        code = code != MQ_OK ? code
                             : mq_model_set_init(model, name, MQ_DT_F32, &shape,
                                                 mq_span_of(numbers, count * sizeof *numbers), err);
    } else {
        code = mq_model_set_init(model, h->weight->name, MQ_DT_F32, &shape,
                                 mq_span_of(numbers, count * sizeof *numbers), err);
    }
    free(numbers);
    return code;
}

mq_code mq_model_replace_head(mq_model *model, int64_t width, uint64_t seed, mq_error *err)
{
    const mq_graph *g = &model->graph;
    head h = {0};
    if (width < 1 || width > MQ_HEAD_WIDTH_MAX) {
        return mq_fail(err, MQ_E_ARG, "head: %lld is outside 1..%d", (long long)width,
                       MQ_HEAD_WIDTH_MAX);
    }
    const mq_node *n = g->output_count == 1 ? maker(g, g->outputs[0].name) : NULL;
    for (uint32_t i = 0; n != NULL && is_behind(n) && i < g->node_count; i++) {
        n = maker(g, n->inputs[0]);
    }
    if (n == NULL || !find_product(g, n, &h) || !is_usable(g, &h)) {
        return mq_fail(err, MQ_E_UNSUPPORTED,
                       "head: the model must have one output that a Gemm, or a MatMul and an Add, "
                       "with weights of its own makes; here it is made by %s",
                       n == NULL ? "an input" : n->op_type);
    }
    mq_value_info out = g->outputs[0];
    if (out.rank > 0) {
        out.dims[out.rank - 1] = width;
        out.dim_names[out.rank - 1] = NULL;
    }
    mq_code code = fill(model, &h, width, seed, err);
    return code != MQ_OK ? code : mq_model_set_output(model, &out, err);
}

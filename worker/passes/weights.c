/* Finding and copying weights; see weights.h. */
#include "worker/passes/weights.h"

#include <math.h>
#include <stdlib.h>

#include "shared/base/assert.h"

/* Which dimension of the parameter counts outputs. */
static int32_t out_axis_of(const mq_node *node, const mq_shape *shape)
{
    const mq_attr *trans = mq_node_attr(node, "transB");
    if (strcmp(node->op_type, "Gemm") == 0) {
        return trans != NULL && trans->i != 0 ? 0 : 1;
    }
    if (strcmp(node->op_type, "MatMul") == 0) {
        return shape->rank - 1;
    }
    return strcmp(node->op_type, "ConvTranspose") == 0 ? 1 : 0;
}

/* Operators that are linear in a parameter, and which input that is (-1: any). */
static const struct {
    const char *op_type;
    int input;
} linear[] = {{"Gemm", 1}, {"MatMul", -1}, {"Conv", 1}, {"ConvTranspose", 1}};

static bool takes_weight(const mq_node *node, const char *name)
{
    for (size_t k = 0; k < sizeof linear / sizeof linear[0]; k++) {
        for (uint32_t i = 0; i < node->input_count; i++) {
            if (strcmp(node->op_type, linear[k].op_type) == 0 && node->domain[0] == '\0' &&
                (linear[k].input < 0 || linear[k].input == (int)i) &&
                strcmp(node->inputs[i], name) == 0) {
                return true;
            }
        }
    }
    return false;
}

/* The node that multiplies by the initializer, or NULL. */
static const mq_node *reader_of(const mq_model *model, const char *name)
{
    for (uint32_t n = 0; n < model->graph.node_count; n++) {
        if (takes_weight(&model->graph.nodes[n], name)) {
            return &model->graph.nodes[n];
        }
    }
    return NULL;
}

static mq_code copy_values(mq_weight *w, const mq_init *init, mq_error *err)
{
    w->values = malloc(w->count * sizeof *w->values + 1);
    if (w->values == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a copy of weight \"%.64s\"", w->name);
    }
    memcpy(w->values, init->tensor.data, w->count * sizeof *w->values);
    for (size_t i = 0; i < w->count; i++) {
        if (!isfinite(w->values[i])) {
            return mq_fail(err, MQ_E_NUMERIC, "weight \"%.64s\": element %zu is %g", w->name, i,
                           (double)w->values[i]);
        }
    }
    return MQ_OK;
}

mq_code mq_weights_get(mq_weights *out, const mq_model *model, mq_error *err)
{
    const mq_graph *g = &model->graph;
    *out = (mq_weights){.list = calloc((size_t)g->initializer_count + 1, sizeof *out->list)};
    if (out->list == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a list of weights");
    }
    for (uint32_t i = 0; i < g->initializer_count; i++) {
        const mq_init *init = &g->initializers[i];
        const mq_node *node = init->tensor.dtype == MQ_DT_F32 && init->tensor.shape.rank >= 2
                                  ? reader_of(model, init->name)
                                  : NULL;
        if (node == NULL) {
            continue;
        }
        mq_weight *w = &out->list[out->count++];
        w->name = init->name;
        w->shape = init->tensor.shape;
        w->out_axis = out_axis_of(node, &w->shape);
        mq_code code = mq_shape_count(&w->shape, &w->count, err);
        if (code == MQ_OK) {
            code = copy_values(w, init, err);
        }
        if (code != MQ_OK) {
            return code;
        }
        out->elements += w->count;
    }
    return MQ_OK;
}

void mq_weights_release(mq_weights *weights)
{
    for (size_t i = 0; i < weights->count; i++) {
        free(weights->list[i].values);
    }
    free(weights->list);
    *weights = (mq_weights){0};
}

mq_code mq_weight_set(const mq_weight *w, mq_model *model, mq_error *err)
{
    return mq_model_set_init(model, w->name, MQ_DT_F32, &w->shape,
                             mq_span_of(w->values, w->count * sizeof *w->values), err);
}

mq_weight_rows mq_weight_rows_of(const mq_weight *w)
{
    mq_weight_rows rows = {.channels = (size_t)w->shape.dims[w->out_axis], .outer = 1, .inner = 1};
    MQ_ASSERT(w->out_axis < w->shape.rank);
    for (int32_t d = 0; d < w->shape.rank; d++) {
        size_t dim = (size_t)w->shape.dims[d];
        rows.outer *= d < w->out_axis ? dim : 1;
        rows.inner *= d > w->out_axis ? dim : 1;
    }
    rows.step = rows.channels * rows.inner;
    return rows;
}

/* Pass "fold": does at once what would be done again in every run.
 *
 * - Nodes whose inputs are all constant become initializers (of at most 1 MiB each).
 * - Identity, and Dropout outside training, go; their readers read what they read.
 * - BatchNormalization behind Gemm or Conv goes into its weights and bias:
 *       w' = w s,  b' = (b - mean) s + shift,  s = scale / sqrt(variance + epsilon)
 * - What nobody reads goes.
 *
 * Outputs stay the same up to rounding (a relative 1e-5 of the largest output in tests). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/exec/program.h"
#include "worker/passes/pass.h"
#include "worker/passes/weights.h"

static mq_code check(const mq_pass_args *args, mq_error *err);
static mq_code run(mq_model *model, const mq_pass_args *args, mq_buf *report, mq_error *err);

const mq_pass mq_pass_fold = {
    .name = "fold",
    .form = "fold",
    .summary = "constants, identities, dead nodes, BatchNormalization into Gemm and Conv",
    .check = check,
    .run = run,
};

#define EPSILON_DEFAULT  1e-5f
#define MEMORY_BYTES_MAX ((size_t)1 << 30)

static mq_code check(const mq_pass_args *args, mq_error *err)
{
    return mq_pass_known(args, (const char *[]){NULL}, err);
}

static bool is_output(const mq_graph *g, const char *value)
{
    for (uint32_t i = 0; i < g->output_count; i++) {
        if (strcmp(g->outputs[i].name, value) == 0) {
            return true;
        }
    }
    return false;
}

/* --- constants --- */

/* Puts what the program could compute into initializers; the nodes die of not being read. */
static mq_code fold_constants(mq_model *model, uint32_t *folded, mq_error *err)
{
    mq_program program;
    *folded = 0;
    mq_code code = mq_program_init(&program, model, NULL, MEMORY_BYTES_MAX, err);
    if (code != MQ_OK) {
        return code;
    }
    code = mq_program_fold(&program, err);
    for (uint32_t v = 0; v < program.value_count && code == MQ_OK; v++) {
        const mq_value *value = &program.values[v];
        uint32_t node = value->kind == MQ_VALUE_CONST && !is_output(&model->graph, value->name)
                            ? mq_graph_producer(&model->graph, value->name)
                            : UINT32_MAX;
        if (node == UINT32_MAX) {
            continue;
        }
        const char *fresh = mq_model_unique_name(model, value->name);
        mq_span bytes = mq_span_of(value->tensor.data, value->tensor.bytes);
        code = fresh == NULL ? mq_fail(err, MQ_E_LIMIT, "no memory")
                             : mq_model_set_init(model, fresh, value->tensor.dtype,
                                                 &value->tensor.shape, bytes, err);
        if (code == MQ_OK) {
            code = mq_model_replace_uses(model, value->name, fresh, err);
        }
        ++*folded;
    }
    mq_program_release(&program);
    return code;
}

/* --- identities --- */

static bool passes_through(const mq_model *model, const mq_node *node)
{
    if (node->domain[0] != '\0' || node->input_count == 0) {
        return false;
    }
    if (strcmp(node->op_type, "Identity") == 0) {
        return true;
    }
    /* Dropout's mask must not be wanted, and its training flag (an input since 12) not be given. */
    bool has_mask = node->output_count > 1 && node->outputs[1][0] != '\0' &&
                    mq_graph_use_count(&model->graph, node->outputs[1]) > 0;
    return strcmp(node->op_type, "Dropout") == 0 && node->input_count < 3 && !has_mask &&
           mq_model_opset(model, "") >= 7;
}

static mq_code drop_identities(mq_model *model, uint32_t *dropped, mq_error *err)
{
    *dropped = 0;
    for (uint32_t n = model->graph.node_count; n > 0; n--) {
        const mq_node *node = &model->graph.nodes[n - 1];
        if (!passes_through(model, node) || is_output(&model->graph, node->outputs[0])) {
            continue;
        }
        mq_code code = mq_model_replace_uses(model, node->outputs[0], node->inputs[0], err);
        if (code != MQ_OK) {
            return code;
        }
        mq_model_remove_node(model, n - 1);
        ++*dropped;
    }
    return MQ_OK;
}

/* --- BatchNormalization --- */

/* float32 vector of `count`, from an initializer nobody else changes; NULL when it is not one. The
 * bytes may have any alignment. */
static const uint8_t *vector(const mq_model *model, const char *name, size_t count)
{
    const mq_init *init = mq_graph_init(&model->graph, name);
    bool fits = init != NULL && init->tensor.dtype == MQ_DT_F32 && init->tensor.shape.rank == 1 &&
                init->tensor.shape.dims[0] == (int64_t)count;
    return fits ? init->tensor.data : NULL;
}

static float at(const uint8_t *vector, size_t i)
{
    float v;
    memcpy(&v, vector + i * sizeof v, sizeof v);
    return v;
}

static float attr_float(const mq_node *node, const char *name, float otherwise)
{
    const mq_attr *a = mq_node_attr(node, name);
    return a == NULL ? otherwise : a->f;
}

static int64_t attr_int(const mq_node *node, const char *name, int64_t otherwise)
{
    const mq_attr *a = mq_node_attr(node, name);
    return a == NULL ? otherwise : a->i;
}

/* A BatchNormalization in inference form and the Gemm or Conv that alone feeds it. */
typedef struct batch_norm {
    uint32_t norm, linear; /* nodes */
    size_t channels;
    const uint8_t *scale, *shift, *mean, *variance, *bias; /* bias NULL: none */
    float epsilon;
    bool has_bias;
} batch_norm;

static bool match_linear(const mq_model *model, batch_norm *b)
{
    const mq_graph *g = &model->graph;
    const mq_node *node = &g->nodes[b->linear];
    bool is_gemm = strcmp(node->op_type, "Gemm") == 0;
    if (node->domain[0] != '\0' || (!is_gemm && strcmp(node->op_type, "Conv") != 0) ||
        node->input_count < 2 ||
        (is_gemm &&
         (attr_float(node, "alpha", 1) != 1.0f || attr_float(node, "beta", 1) != 1.0f))) {
        return false;
    }
    const mq_init *w = mq_graph_init(g, node->inputs[1]);
    int axis = is_gemm && attr_int(node, "transB", 0) == 0 ? 1 : 0;
    if (w == NULL || w->tensor.dtype != MQ_DT_F32 || w->tensor.shape.rank < 2 ||
        mq_graph_use_count(g, node->inputs[1]) != 1) {
        return false;
    }
    b->channels = (size_t)w->tensor.shape.dims[axis];
    b->has_bias = node->input_count > 2 && node->inputs[2][0] != '\0';
    b->bias = b->has_bias ? vector(model, node->inputs[2], b->channels) : NULL;
    return !b->has_bias || (b->bias != NULL && mq_graph_use_count(g, node->inputs[2]) == 1);
}

static bool match(const mq_model *model, uint32_t n, batch_norm *b)
{
    const mq_graph *g = &model->graph;
    const mq_node *node = &g->nodes[n];
    if (strcmp(node->op_type, "BatchNormalization") != 0 || node->domain[0] != '\0' ||
        node->input_count != 5 || node->output_count != 1 ||
        attr_int(node, "training_mode", 0) != 0 || mq_model_opset(model, "") < 9) {
        return false;
    }
    *b = (batch_norm){.norm = n, .linear = mq_graph_producer(g, node->inputs[0])};
    if (b->linear == UINT32_MAX || mq_graph_use_count(g, node->inputs[0]) != 1 ||
        !match_linear(model, b)) {
        return false;
    }
    b->scale = vector(model, node->inputs[1], b->channels);
    b->shift = vector(model, node->inputs[2], b->channels);
    b->mean = vector(model, node->inputs[3], b->channels);
    b->variance = vector(model, node->inputs[4], b->channels);
    b->epsilon = attr_float(node, "epsilon", EPSILON_DEFAULT);
    return b->scale != NULL && b->shift != NULL && b->mean != NULL && b->variance != NULL;
}

/* Multiplies the linear node's weights, channel by channel. */
static mq_code scale_weights(mq_model *model, const batch_norm *b, const float *factor,
                             mq_error *err)
{
    const mq_node *node = &model->graph.nodes[b->linear];
    const mq_init *init = mq_graph_init(&model->graph, node->inputs[1]);
    bool is_gemm = strcmp(node->op_type, "Gemm") == 0;
    mq_weight w = {.name = init->name,
                   .shape = init->tensor.shape,
                   .count = init->tensor.bytes / sizeof(float),
                   .out_axis = is_gemm && attr_int(node, "transB", 0) == 0 ? 1 : 0};
    w.values = malloc(init->tensor.bytes + 1);
    if (w.values == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a copy of weight \"%.64s\"", w.name);
    }
    memcpy(w.values, init->tensor.data, init->tensor.bytes);
    mq_weight_rows rows = mq_weight_rows_of(&w);
    for (size_t c = 0; c < rows.channels; c++) {
        for (size_t o = 0; o < rows.outer; o++) {
            float *v = w.values + c * rows.inner + o * rows.step;
            for (size_t i = 0; i < rows.inner; i++) {
                v[i] *= factor[c];
            }
        }
    }
    mq_code code = mq_weight_set(&w, model, err);
    free(w.values);
    return code;
}

/* Gives the linear node a bias input when it has none: nodes cannot grow, so it is made anew. */
static mq_code add_bias_input(mq_model *model, const batch_norm *b, const char *bias, mq_error *err)
{
    mq_node old = model->graph.nodes[b->linear], *fresh;
    mq_node_spec spec = {old.op_type, old.domain,
                         old.name,    MQ_NODE_ARGS(old.inputs[0], old.inputs[1], bias),
                         NULL,        1};
    spec.outputs = (const char *const *)old.outputs;
    mq_model_remove_node(model, b->linear);
    mq_code code = mq_model_add_node(model, b->linear, &spec, &fresh, err);
    for (uint32_t a = 0; a < old.attr_count && code == MQ_OK; a++) {
        const mq_attr *attr = &old.attrs[a];
        if (attr->type == MQ_ATTR_INT) {
            code = mq_node_set_int(model, fresh, attr->name, attr->i, err);
        } else if (attr->type == MQ_ATTR_FLOAT) {
            code = mq_node_set_float(model, fresh, attr->name, attr->f, err);
        } else if (attr->type == MQ_ATTR_STRING) {
            code = mq_node_set_string(model, fresh, attr->name, attr->s, err);
        } else if (attr->type == MQ_ATTR_INTS) {
            code = mq_node_set_ints(model, fresh, attr->name, attr->ints, attr->count, err);
        }
    }
    return code;
}

static mq_code fold_batch_norm(mq_model *model, batch_norm *b, mq_error *err)
{
    float *factor = calloc(b->channels + 1, sizeof *factor);
    float *bias = calloc(b->channels + 1, sizeof *bias);
    char name[MQ_MODEL_NAME_BYTES_MAX + 8];
    mq_code code = factor == NULL || bias == NULL ? mq_fail(err, MQ_E_LIMIT, "no memory") : MQ_OK;
    for (size_t c = 0; c < b->channels && code == MQ_OK; c++) {
        double s = (double)at(b->scale, c) / sqrt((double)at(b->variance, c) + (double)b->epsilon);
        double before = b->has_bias ? (double)at(b->bias, c) : 0;
        factor[c] = (float)s;
        bias[c] = (float)((before - (double)at(b->mean, c)) * s + (double)at(b->shift, c));
    }
    if (code == MQ_OK) {
        code = scale_weights(model, b, factor, err);
    }
    const mq_node *linear = &model->graph.nodes[b->linear];
    const char *out = model->graph.nodes[b->norm].outputs[0];
    snprintf(name, sizeof name, "%s", linear->inputs[b->has_bias ? 2 : 1]);
    const char *bias_name = b->has_bias ? linear->inputs[2] : mq_model_unique_name(model, name);
    if (code == MQ_OK && bias_name != NULL) {
        code =
            mq_model_set_init(model, bias_name, MQ_DT_F32, &(mq_shape){1, {(int64_t)b->channels}},
                              mq_span_of(bias, b->channels * sizeof *bias), err);
    }
    mq_model_remove_node(model, b->norm); /* behind the linear node, whose index stays */
    if (code == MQ_OK && !b->has_bias) {
        code = add_bias_input(model, b, bias_name, err);
    }
    if (code == MQ_OK) {
        code = mq_node_set_output(model, &model->graph.nodes[b->linear], 0, out, err);
    }
    free(factor);
    free(bias);
    return code;
}

static mq_code fold_batch_norms(mq_model *model, uint32_t *folded, mq_error *err)
{
    *folded = 0;
    for (uint32_t n = 0; n < model->graph.node_count; n++) {
        batch_norm b;
        if (match(model, n, &b) && b.linear < b.norm) {
            mq_code code = fold_batch_norm(model, &b, err);
            if (code != MQ_OK) {
                return code;
            }
            ++*folded;
            n--;
        }
    }
    return MQ_OK;
}

static mq_code run(mq_model *model, const mq_pass_args *args, mq_buf *report, mq_error *err)
{
    uint32_t constants = 0, identities = 0, norms = 0;
    (void)args;
    uint32_t before = model->graph.node_count;
    mq_code code = drop_identities(model, &identities, err);
    if (code == MQ_OK) {
        code = fold_batch_norms(model, &norms, err);
    }
    if (code == MQ_OK) {
        mq_model_remove_dead(model);
        code = mq_model_verify(model, err);
    }
    if (code == MQ_OK) {
        code = fold_constants(model, &constants, err);
    }
    if (code == MQ_OK) {
        mq_model_remove_dead(model);
    }
    mq_buf_printf(report,
                  "\"nodes_before\":%u,\"nodes\":%u,\"constants\":%u,\"identities\":%u,"
                  "\"batch_norms\":%u",
                  before, model->graph.node_count, constants, identities, norms);
    return code;
}

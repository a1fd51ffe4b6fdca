/* Pass "quantize:int8": weights of Gemm and MatMul become int8 with one scale for each output
 * (symmetric, so no zero point), activations are quantized to uint8 as they come. All in standard
 * operators, so that other runtimes run the file too:
 *
 *     bytes, scale, zero = DynamicQuantizeLinear(x)
 *     sums = MatMulInteger(bytes, w.int8, zero)
 *     y = Cast(sums) * (scale * w.scale) + bias
 *
 * Left as they are: products of two activations, Gemm with transA or a beta that is not 1 with a
 * computed bias, weights of other ranks than 2. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/passes/pass.h"

static mq_code check(const mq_pass_args *args, mq_error *err);
static mq_code run(mq_model *model, const mq_pass_args *args, mq_buf *report, mq_error *err);

const mq_pass mq_pass_quantize = {
    .name = "quantize",
    .form = "quantize:int8",
    .summary = "int8 weights, activations quantized as they come",
    .check = check,
    .run = run,
};

enum { OPSET_MIN = 11, NAME_MAX = MQ_MODEL_NAME_BYTES_MAX + 32, ONNX_FLOAT = 1 };

static mq_code check(const mq_pass_args *args, mq_error *err)
{
    static const char *const forms[] = {"int8", NULL};
    int form = 0;
    mq_code code = mq_pass_known(args, (const char *[]){"", NULL}, err);
    if (code == MQ_OK && mq_pass_item(args, "") == NULL) {
        code =
            mq_fail(err, MQ_E_ARG, "pass \"%s\": the type is required: quantize:int8", args->text);
    }
    return code == MQ_OK ? mq_pass_choice(args, "", forms, &form, err) : code;
}

/* A product that can be done in integers. */
typedef struct product {
    uint32_t node;
    const mq_init *weight;
    int64_t k, n;
    bool is_transposed; /* stored [n, k] */
    float alpha, beta;
    const char *x, *y, *bias; /* bias NULL: none; owned by the model's arena */
} product;

static float attr_float(const mq_node *node, const char *name, float otherwise)
{
    const mq_attr *a = mq_node_attr(node, name);
    return a == NULL ? otherwise : a->f;
}

static bool attr_flag(const mq_node *node, const char *name)
{
    const mq_attr *a = mq_node_attr(node, name);
    return a != NULL && a->i != 0;
}

static bool match(const mq_model *model, uint32_t n, product *p)
{
    const mq_node *node = &model->graph.nodes[n];
    bool is_gemm = strcmp(node->op_type, "Gemm") == 0;
    if (node->domain[0] != '\0' || (!is_gemm && strcmp(node->op_type, "MatMul") != 0) ||
        node->input_count < 2) {
        return false;
    }
    *p = (product){.node = n, .alpha = 1, .beta = 1, .x = node->inputs[0], .y = node->outputs[0]};
    p->weight = mq_graph_init(&model->graph, node->inputs[1]);
    if (p->weight == NULL || p->weight->tensor.dtype != MQ_DT_F32 ||
        p->weight->tensor.shape.rank != 2 || mq_graph_init(&model->graph, p->x) != NULL) {
        return false;
    }
    if (is_gemm) {
        p->alpha = attr_float(node, "alpha", 1);
        p->beta = attr_float(node, "beta", 1);
        p->is_transposed = attr_flag(node, "transB");
        p->bias = node->input_count > 2 && node->inputs[2][0] != '\0' ? node->inputs[2] : NULL;
        if (attr_flag(node, "transA") || (p->bias != NULL && p->beta != 1.0f)) {
            return false;
        }
    }
    p->k = p->weight->tensor.shape.dims[p->is_transposed ? 1 : 0];
    p->n = p->weight->tensor.shape.dims[p->is_transposed ? 0 : 1];
    return p->k > 0 && p->n > 0;
}

/* Largest |w| / 127 of each column becomes its scale; weights are rounded to nearest, half to even.
 * q: k x n. */
static mq_code quantize_weight(const product *p, int8_t *q, float *scales, mq_error *err)
{
    size_t k = (size_t)p->k, n = (size_t)p->n;
    const uint8_t *bytes = p->weight->tensor.data;
    for (size_t c = 0; c < n; c++) {
        float largest = 0, w = 0;
        for (size_t r = 0; r < k; r++) {
            memcpy(&w, bytes + 4 * (p->is_transposed ? c * k + r : r * n + c), sizeof w);
            if (!isfinite(w)) {
                return mq_fail(err, MQ_E_NUMERIC, "weight \"%.64s\" has a value that is not finite",
                               p->weight->name);
            }
            largest = fabsf(w) > largest ? fabsf(w) : largest;
        }
        float scale = largest / 127.0f;
        scale = scale > 0 ? scale : 1.0f;
        for (size_t r = 0; r < k; r++) {
            memcpy(&w, bytes + 4 * (p->is_transposed ? c * k + r : r * n + c), sizeof w);
            float v = rintf(w / scale);
            q[r * n + c] = (int8_t)(v > 127 ? 127 : v < -127 ? -127 : v);
        }
        scales[c] = scale * p->alpha;
    }
    return MQ_OK;
}

/* Names of the two initializers that replace a weight; made once for a weight with two readers of
 * one kind (the names say how it was stored and scaled). */
static mq_code replace_weight(mq_model *model, const product *p, char *q_name, char *scale_name,
                              mq_error *err)
{
    const char *form = p->is_transposed ? ".t" : "";
    snprintf(q_name, NAME_MAX, "%s.int8%s", p->weight->name, form);
    if (p->alpha == 1.0f) {
        snprintf(scale_name, NAME_MAX, "%s.scale%s", p->weight->name, form);
    } else {
        snprintf(scale_name, NAME_MAX, "%s.scale%s.%a", p->weight->name, form, (double)p->alpha);
    }
    if (mq_graph_init(&model->graph, q_name) != NULL &&
        mq_graph_init(&model->graph, scale_name) != NULL) {
        return MQ_OK;
    }
    size_t count = (size_t)p->k * (size_t)p->n;
    int8_t *q = malloc(count);
    float *scales = malloc((size_t)p->n * sizeof *scales);
    mq_code code = q == NULL || scales == NULL
                       ? mq_fail(err, MQ_E_LIMIT, "no memory for weight \"%.64s\"", p->weight->name)
                       : quantize_weight(p, q, scales, err);
    if (code == MQ_OK) {
        code = mq_model_set_init(model, q_name, MQ_DT_I8, &(mq_shape){2, {p->k, p->n}},
                                 mq_span_of(q, count), err);
    }
    if (code == MQ_OK) {
        code = mq_model_set_init(model, scale_name, MQ_DT_F32, &(mq_shape){1, {p->n}},
                                 mq_span_of(scales, (size_t)p->n * sizeof *scales), err);
    }
    free(q);
    free(scales);
    return code;
}

/* Nodes are inserted one after the other before the product, which goes at the end. */
typedef struct inserting {
    mq_model *model;
    uint32_t at;
    mq_error *err;
} inserting;

static mq_code insert(inserting *in, const char *op_type, const char *const *inputs,
                      uint32_t input_count, const char *const *outputs, uint32_t output_count,
                      mq_node **out)
{
    mq_node_spec spec = {op_type, "", outputs[0], inputs, input_count, outputs, output_count};
    return mq_model_add_node(in->model, in->at++, &spec, out, in->err);
}

/* Value names of a quantized activation. */
typedef struct activation {
    const char *bytes, *scale, *zero;
} activation;

/* Finds the activation's quantization, or inserts it. */
static mq_code quantize_activation(inserting *in, const char *x, activation *out)
{
    const mq_graph *g = &in->model->graph;
    char name[NAME_MAX];
    for (uint32_t n = 0; n < g->node_count; n++) {
        const mq_node *node = &g->nodes[n];
        if (strcmp(node->op_type, "DynamicQuantizeLinear") == 0 && node->domain[0] == '\0' &&
            node->output_count == 3 && strcmp(node->inputs[0], x) == 0) {
            *out = (activation){node->outputs[0], node->outputs[1], node->outputs[2]};
            return MQ_OK;
        }
    }
    snprintf(name, sizeof name, "%s.u8", x);
    out->bytes = mq_model_unique_name(in->model, name);
    snprintf(name, sizeof name, "%s.scale", x);
    out->scale = mq_model_unique_name(in->model, name);
    snprintf(name, sizeof name, "%s.zero", x);
    out->zero = mq_model_unique_name(in->model, name);
    if (out->bytes == NULL || out->scale == NULL || out->zero == NULL) {
        return mq_fail(in->err, MQ_E_LIMIT, "no memory for names");
    }
    return insert(in, "DynamicQuantizeLinear", MQ_NODE_ARGS(x),
                  MQ_NODE_ARGS(out->bytes, out->scale, out->zero), NULL);
}

static mq_code insert_product(inserting *in, const product *p, const activation *x,
                              const char *q_name, const char *scale_name)
{
    char name[NAME_MAX];
    const char *made[4]; /* sums, sums as floats, scales, product without bias */
    static const char *const kinds[4] = {"sums", "floats", "scales", "product"};
    mq_node *cast;
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s.%s", p->y, kinds[i]);
        made[i] = mq_model_unique_name(in->model, name);
        if (made[i] == NULL) {
            return mq_fail(in->err, MQ_E_LIMIT, "no memory for names");
        }
    }
    const char *product_out = p->bias == NULL ? p->y : made[3];
    mq_code code = insert(in, "MatMulInteger", MQ_NODE_ARGS(x->bytes, q_name, x->zero),
                          MQ_NODE_ARGS(made[0]), NULL);
    if (code == MQ_OK) {
        code = insert(in, "Cast", MQ_NODE_ARGS(made[0]), MQ_NODE_ARGS(made[1]), &cast);
    }
    if (code == MQ_OK) {
        code = mq_node_set_int(in->model, cast, "to", ONNX_FLOAT, in->err);
    }
    if (code == MQ_OK) {
        code = insert(in, "Mul", MQ_NODE_ARGS(x->scale, scale_name), MQ_NODE_ARGS(made[2]), NULL);
    }
    if (code == MQ_OK) {
        code = insert(in, "Mul", MQ_NODE_ARGS(made[1], made[2]), MQ_NODE_ARGS(product_out), NULL);
    }
    if (code == MQ_OK && p->bias != NULL) {
        code = insert(in, "Add", MQ_NODE_ARGS(made[3], p->bias), MQ_NODE_ARGS(p->y), NULL);
    }
    return code;
}

static mq_code replace(mq_model *model, const product *p, mq_error *err)
{
    char q_name[NAME_MAX], scale_name[NAME_MAX];
    activation x;
    inserting in = {model, p->node, err};
    mq_code code = replace_weight(model, p, q_name, scale_name, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_model_remove_node(model, p->node); /* frees its output's name for the new nodes */
    code = quantize_activation(&in, p->x, &x);
    return code == MQ_OK ? insert_product(&in, p, &x, q_name, scale_name) : code;
}

static mq_code run(mq_model *model, const mq_pass_args *args, mq_buf *report, mq_error *err)
{
    uint32_t replaced = 0;
    (void)args;
    mq_code code = MQ_OK;
    for (uint32_t n = 0; n < model->graph.node_count && code == MQ_OK; n++) {
        product p;
        if (!match(model, n, &p)) {
            continue;
        }
        if (mq_model_opset(model, "") < OPSET_MIN) {
            return mq_fail(err, MQ_E_UNSUPPORTED,
                           "the model imports opset %lld; DynamicQuantizeLinear needs %d",
                           (long long)mq_model_opset(model, ""), OPSET_MIN);
        }
        code = replace(model, &p, err);
        replaced++;
    }
    mq_buf_printf(report, "\"products\":%u", replaced);
    return code;
}

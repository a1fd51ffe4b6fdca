/* NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss: scores [N, C, d...], labels [N, d...],
 * weights by class, one label that does not count, and the reductions none, sum and mean (of what
 * the weights give). onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html */
#include "worker/ops/element.h"

typedef struct nll_attrs {
    mq_span reduction;
    int64_t ignore_index;
    bool has_ignore, is_softmax;
} nll_attrs;

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)opset;
    nll_attrs *a = attrs;
    a->has_ignore = mq_node_attr(node, "ignore_index") != NULL;
    a->is_softmax = node->op_type[0] == 'S';
    if (!mq_span_is(a->reduction, "none") && !mq_span_is(a->reduction, "sum") &&
        !mq_span_is(a->reduction, "mean")) {
        return mq_fail(err, MQ_E_ARG, "reduction is none of none, sum, mean");
    }
    return MQ_OK;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const nll_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *labels = &call->inputs[1]->shape;
    const mq_tensor *weights = mq_call_input(call, 2);
    bool is_fit = x->rank >= 2 && labels->rank == x->rank - 1 && labels->dims[0] == x->dims[0];
    for (int32_t i = 2; i < x->rank && is_fit; i++) {
        is_fit = labels->dims[i - 1] == x->dims[i];
    }
    if (!is_fit) {
        char tx[128], tl[128];
        return mq_fail(err, MQ_E_ARG, "scores %s and labels %s do not go together",
                       mq_shape_text(x, tx, sizeof tx), mq_shape_text(labels, tl, sizeof tl));
    }
    if (weights != NULL && (weights->shape.rank != 1 || weights->shape.dims[0] != x->dims[1])) {
        return mq_fail(err, MQ_E_ARG, "weights must have shape [%lld]", (long long)x->dims[1]);
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = mq_span_is(a->reduction, "none") ? *labels : (mq_shape){.rank = 0};
    if (mq_call_output(call, 1) != NULL) {
        call->outputs[1]->dtype = call->inputs[0]->dtype;
        call->outputs[1]->shape = *x;
    }
    return MQ_OK;
}

/* log of the sum of exponents over the classes of one position. */
static double log_sum(const mq_tensor *x, size_t first, size_t classes, size_t step)
{
    double top = -HUGE_VAL, sum = 0.0;
    for (size_t c = 0; c < classes; c++) {
        top = fmax(top, mq_element(x, first + c * step));
    }
    for (size_t c = 0; c < classes; c++) {
        sum += exp(mq_element(x, first + c * step) - top);
    }
    return sum <= 0.0 ? top : top + log(sum); /* no classes: nothing to add */
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    const nll_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *labels = call->inputs[1];
    const mq_tensor *weights = mq_call_input(call, 2), *logs = mq_call_output(call, 1);
    size_t classes = (size_t)x->shape.dims[1], inner = mq_dims_product(&x->shape, 2, x->shape.rank);
    bool is_none = mq_span_is(a->reduction, "none");
    double sum = 0.0, total = 0.0;
    for (size_t i = 0, n = mq_elements(labels); i < n; i++) {
        size_t first = i / inner * classes * inner + i % inner;
        int64_t label = mq_element_int(labels, i);
        bool is_ignored = a->has_ignore && label == a->ignore_index;
        if (!is_ignored && (label < 0 || label >= (int64_t)classes)) {
            return mq_fail(err, MQ_E_ARG, "label %zu is %lld, outside 0..%zu", i, (long long)label,
                           classes - 1);
        }
        double shift = a->is_softmax ? log_sum(x, first, classes, inner) : 0.0;
        for (size_t c = 0; logs != NULL && c < classes; c++) {
            size_t at = first + c * inner;
            mq_element_set(logs, at, mq_element(x, at) - shift);
        }
        double weight = is_ignored        ? 0.0
                        : weights == NULL ? 1.0
                                          : mq_element(weights, (size_t)label);
        double loss =
            is_ignored ? 0.0 : weight * (shift - mq_element(x, first + (size_t)label * inner));
        sum += loss;
        total += weight;
        if (is_none) {
            mq_element_set(call->outputs[0], i, loss);
        }
    }
    if (!is_none) {
        mq_element_set(call->outputs[0], 0, mq_span_is(a->reduction, "mean") ? sum / total : sum);
    }
    return MQ_OK;
}

static const mq_attr_spec specs[] = {
    {.name = "reduction",
     .type = MQ_ATTR_STRING,
     .offset = offsetof(nll_attrs, reduction),
     .s = "mean"},
    {.name = "ignore_index", .type = MQ_ATTR_INT, .offset = offsetof(nll_attrs, ignore_index)},
    {.name = NULL},
};

#define ROW(symbol, name_, outputs)                                                                \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = 12,                                                                               \
        .in = {2, 3},                                                                              \
        .out = {1, outputs},                                                                       \
        .args = {{'T', MQ_T_FLOATS | MQ_T_HALF}, {0, MQ_T_INDEX}, {'T', MQ_T_FLOATS | MQ_T_HALF}}, \
        .attrs_bytes = sizeof(nll_attrs),                                                          \
        .specs = specs,                                                                            \
        .parse = parse,                                                                            \
        .shape = shape,                                                                            \
        .run = run,                                                                                \
        .cases = "| f32[3,4] i64{0,3,1}; reduction=sum | f64[2,3] i32{1,2} f64{1,0.5,2};"          \
                 "reduction=none ignore_index=7 | f32[3,4] i64{0,7,1}",                            \
    }
ROW(negative_log_likelihood_loss, "NegativeLogLikelihoodLoss", 1);
ROW(softmax_cross_entropy_loss, "SoftmaxCrossEntropyLoss", 2);

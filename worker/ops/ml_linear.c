/* LinearClassifier, LinearRegressor of ai.onnx.ml.
 * onnx.ai/onnx/operators/onnx_aionnxml_LinearClassifier.html */
#include "worker/ops/ml.h"

typedef struct linear_attrs {
    mq_floats coefficients, intercepts;
    mq_ml_labels labels;
    mq_span post_name;
    mq_ml_post post;
    int64_t targets, multi_class;
} linear_attrs;

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    linear_attrs *a = attrs;
    mq_code code = mq_ml_post_parse(a->post_name, &a->post, err);
    if (code == MQ_OK && a->targets < 1) {
        code = mq_fail(err, MQ_E_ARG, "targets is %lld", (long long)a->targets);
    }
    return code;
}

/* Rows of coefficients: one for each intercept, or as many as there are labels or targets. */
static size_t scores_of(const linear_attrs *a, bool is_regressor)
{
    size_t wanted = is_regressor ? (size_t)a->targets : mq_ml_label_count(&a->labels);
    return a->intercepts.count > 0 && !is_regressor ? a->intercepts.count : wanted;
}

static mq_code sizes(const mq_op_call *call, bool is_regressor, size_t *rows, size_t *columns,
                     mq_error *err)
{
    const linear_attrs *a = call->attrs;
    size_t n = scores_of(a, is_regressor);
    mq_code code = mq_ml_rows(call->inputs[0], rows, columns, err);
    bool is_fit = n > 0 && a->coefficients.count == n * *columns &&
                  (a->intercepts.count == 0 || a->intercepts.count == n);
    if (code == MQ_OK && !is_fit) {
        code = mq_fail(err, MQ_E_ARG, "%zu coefficients and %zu intercepts for %zu features",
                       a->coefficients.count, a->intercepts.count, *columns);
    }
    return code;
}

static double score(const mq_op_call *call, size_t row, size_t columns, size_t k)
{
    const linear_attrs *a = call->attrs;
    double sum = a->intercepts.count > 0 ? (double)a->intercepts.at[k] : 0.0;
    for (size_t c = 0; c < columns; c++) {
        sum += mq_element(call->inputs[0], row * columns + c) *
               (double)a->coefficients.at[k * columns + c];
    }
    return sum;
}

/* One row of scores for two labels gives two columns. */
static bool is_binary(const linear_attrs *a)
{
    return scores_of(a, false) == 1 && mq_ml_label_count(&a->labels) == 2;
}

static mq_code classifier_shape(const mq_op_call *call, mq_error *err)
{
    const linear_attrs *a = call->attrs;
    size_t rows, columns, n = scores_of(a, false);
    mq_code code = sizes(call, false, &rows, &columns, err);
    if (code == MQ_OK && !is_binary(a) && mq_ml_label_count(&a->labels) != n) {
        code = mq_fail(err, MQ_E_ARG, "%zu labels for %zu rows of coefficients",
                       mq_ml_label_count(&a->labels), n);
    }
    if (code == MQ_OK) {
        mq_ml_classifier_shape(call, &a->labels, rows, is_binary(a) ? 2 : n);
    }
    return code;
}

static size_t classifier_scratch(const mq_op_call *call)
{
    return (scores_of(call->attrs, false) + 1) * sizeof(double);
}

static mq_code classifier_run(const mq_op_call *call, mq_error *err)
{
    const linear_attrs *a = call->attrs;
    size_t rows, columns, n = scores_of(a, false);
    double *scores = call->scratch;
    mq_tensor *z = mq_call_output(call, 1);
    mq_code code = sizes(call, false, &rows, &columns, err);
    for (size_t r = 0; r < rows && code == MQ_OK; r++) {
        size_t best = 0, out = n;
        for (size_t k = 0; k < n; k++) {
            scores[k] = score(call, r, columns, k);
            best = scores[k] > scores[best] ? k : best;
        }
        if (is_binary(a)) {
            best = scores[0] > 0.0;
            scores[1] = a->post == MQ_ML_LOGISTIC ? mq_ml_logistic(scores[0]) : scores[0];
            scores[0] = a->post == MQ_ML_LOGISTIC ? 1.0 - scores[1] : 1.0 - scores[0];
            out = 2;
        } else {
            mq_ml_post_apply(a->post, scores, n);
        }
        mq_ml_label_put(&a->labels, call->outputs[0], r, best);
        for (size_t k = 0; z != NULL && k < out; k++) {
            mq_element_set(z, r * out + k, scores[k]);
        }
    }
    return code;
}

static mq_code regressor_shape(const mq_op_call *call, mq_error *err)
{
    size_t rows, columns;
    mq_code code = sizes(call, true, &rows, &columns, err);
    call->outputs[0]->dtype = MQ_DT_F32;
    call->outputs[0]->shape =
        (mq_shape){2, {(int64_t)rows, ((const linear_attrs *)call->attrs)->targets}};
    return code;
}

static size_t regressor_scratch(const mq_op_call *call)
{
    return (size_t)((const linear_attrs *)call->attrs)->targets * sizeof(double);
}

static mq_code regressor_run(const mq_op_call *call, mq_error *err)
{
    const linear_attrs *a = call->attrs;
    size_t rows, columns, n = (size_t)a->targets;
    double *scores = call->scratch;
    mq_code code = sizes(call, true, &rows, &columns, err);
    for (size_t r = 0; r < rows && code == MQ_OK; r++) {
        for (size_t k = 0; k < n; k++) {
            scores[k] = score(call, r, columns, k);
        }
        mq_ml_post_apply(a->post, scores, n);
        for (size_t k = 0; k < n; k++) {
            mq_element_set(call->outputs[0], r * n + k, scores[k]);
        }
    }
    return code;
}

#define ATTR(type_, name_, field_) MQ_ML_ATTR(type_, linear_attrs, name_, field_)
#define COMMON                                                                                     \
    ATTR(FLOATS, "coefficients", coefficients), ATTR(FLOATS, "intercepts", intercepts),            \
        MQ_ML_TEXT(linear_attrs, "post_transform", post_name, "NONE"),                             \
    {                                                                                              \
        .name = "targets", .type = MQ_ATTR_INT, .offset = offsetof(linear_attrs, targets), .i = 1  \
    }
static const mq_attr_spec classifier_specs[] = {
    COMMON,
    ATTR(INTS, "classlabels_ints", labels.ints),
    ATTR(STRINGS, "classlabels_strings", labels.strings),
    ATTR(INT, "multi_class", multi_class),
    {.name = NULL}};
static const mq_attr_spec regressor_specs[] = {COMMON, {.name = NULL}};

#define ROW(symbol, name_, what, outputs_, cases_)                                                 \
    const mq_op mq_op_ml_##symbol = {                                                              \
        .name = name_,                                                                             \
        .domain = "ai.onnx.ml",                                                                    \
        .since = 1,                                                                                \
        .in = {1, 1},                                                                              \
        .out = {1, outputs_},                                                                      \
        .args = {{0, MQ_ML_INPUTS}},                                                               \
        .attrs_bytes = sizeof(linear_attrs),                                                       \
        .specs = what##_specs,                                                                     \
        .parse = parse,                                                                            \
        .shape = what##_shape,                                                                     \
        .scratch = what##_scratch,                                                                 \
        .run = what##_run,                                                                         \
        .cases = cases_,                                                                           \
    }
ROW(linear_classifier, "LinearClassifier", classifier, 2,
    "coefficients=(1.5,-1.0,0.5,2.0) intercepts=(0.5,-0.5) classlabels_ints=(3,9) | f32[A,2]");
ROW(linear_regressor, "LinearRegressor", regressor, 1,
    "coefficients=(1.5,-1.0) intercepts=(0.5) | f32[A,2]");

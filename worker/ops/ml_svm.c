/* SVMClassifier and SVMRegressor of ai.onnx.ml, as libsvm computes them: one vote a pair of
 * classes, and probabilities by coupling the pairs' (Wu, Lin, Weng: Probability estimates for
 * multi-class classification by pairwise coupling, JMLR 2004).
 * onnx.ai/onnx/operators/onnx_aionnxml_SVMClassifier.html */
#include "worker/ops/ml.h"

enum { CLASSES_MAX = 4096 };

typedef enum kernel_type {
    LINEAR,
    POLY,
    RBF,
    SIGMOID,
} kernel_type;

typedef struct svm_attrs {
    mq_floats coefficients, kernel_params, vectors, rho, prob_a, prob_b;
    mq_ints per_class;
    mq_ml_labels labels;
    mq_span kernel_name, post_name;
    int64_t one_class, n_supports;
    kernel_type kernel;
    mq_ml_post post;
    size_t supports; /* 0: one linear score a class */
    bool is_classifier;
} svm_attrs;

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)opset;
    static const char *const names[] = {"LINEAR", "POLY", "RBF", "SIGMOID"};
    svm_attrs *a = attrs;
    int kernel = 0;
    while (kernel < 4 && !mq_span_is(a->kernel_name, names[kernel])) {
        kernel++;
    }
    a->kernel = (kernel_type)kernel;
    a->is_classifier = strcmp(node->op_type, "SVMClassifier") == 0;
    if (kernel == 4 || (a->kernel_params.count != 0 && a->kernel_params.count != 3)) {
        return mq_fail(err, MQ_E_ARG,
                       "kernel_type is none of LINEAR, POLY, RBF, SIGMOID, or kernel_params is not "
                       "gamma, coef0, degree");
    }
    for (size_t i = 0; i < a->per_class.count; i++) {
        if (a->per_class.at[i] < 0 || a->per_class.at[i] > MQ_DIM_MAX) {
            return mq_fail(err, MQ_E_ARG, "vectors_per_class[%zu] is %lld", i,
                           (long long)a->per_class.at[i]);
        }
        a->supports += (size_t)a->per_class.at[i];
    }
    a->supports = a->is_classifier ? a->supports : (size_t)(a->n_supports < 0 ? 0 : a->n_supports);
    return mq_ml_post_parse(a->post_name, &a->post, err);
}

static size_t classes_of(const svm_attrs *a)
{
    return a->supports > 0 ? a->per_class.count : mq_ml_label_count(&a->labels);
}

static size_t pairs_of(size_t classes)
{
    return classes * (classes - 1) / 2;
}

static bool has_probabilities(const svm_attrs *a)
{
    return a->prob_a.count > 0 && a->supports > 0;
}

static mq_code classifier_sizes(const svm_attrs *a, size_t columns, mq_error *err)
{
    size_t n = classes_of(a);
    bool is_fit = n >= 2 && n <= CLASSES_MAX && mq_ml_label_count(&a->labels) == n;
    if (a->supports > 0) {
        is_fit = is_fit && a->vectors.count == a->supports * columns &&
                 a->coefficients.count == (n - 1) * a->supports && a->rho.count >= pairs_of(n) &&
                 (a->prob_a.count == 0 ||
                  (a->prob_a.count == pairs_of(n) && a->prob_b.count == pairs_of(n)));
    } else {
        is_fit = is_fit && a->coefficients.count == n * columns && a->rho.count > 0;
    }
    return is_fit ? MQ_OK
                  : mq_fail(err, MQ_E_ARG,
                            "%zu classes, %zu supports, %zu coefficients, %zu values of support "
                            "vectors and %zu features do not go together",
                            n, a->supports, a->coefficients.count, a->vectors.count, columns);
}

/* The kernel of row r with a vector of `columns` floats. */
static double kernel(const svm_attrs *a, const mq_tensor *x, size_t r, size_t columns,
                     const float *vector)
{
    double gamma = a->kernel_params.count > 0 ? (double)a->kernel_params.at[0] : 0.0;
    double coef0 = a->kernel_params.count > 0 ? (double)a->kernel_params.at[1] : 0.0;
    double degree = a->kernel_params.count > 0 ? (double)a->kernel_params.at[2] : 0.0;
    double sum = 0.0;
    for (size_t c = 0; c < columns; c++) {
        double v = mq_element(x, r * columns + c), d = v - (double)vector[c];
        sum += a->kernel == RBF ? d * d : v * (double)vector[c];
    }
    switch (a->kernel) {
    case POLY:
        return pow(gamma * sum + coef0, degree);
    case RBF:
        return exp(-gamma * sum);
    case SIGMOID:
        return tanh(gamma * sum + coef0);
    case LINEAR:
    default:
        return sum;
    }
}

/* ---- classifier ---- */

/* A score and a vote for every pair of classes. */
static void pair_scores(const svm_attrs *a, const double *kernels, double *scores, double *votes)
{
    size_t n = a->per_class.count, start_i = 0, pair = 0;
    for (size_t i = 0; i < n; i++) {
        size_t count_i = (size_t)a->per_class.at[i], start_j = start_i + count_i;
        for (size_t j = i + 1; j < n; j++, pair++) {
            size_t count_j = (size_t)a->per_class.at[j];
            const float *of_i = a->coefficients.at + (j - 1) * a->supports;
            const float *of_j = a->coefficients.at + i * a->supports;
            double sum = (double)a->rho.at[pair];
            for (size_t k = start_i; k < start_i + count_i; k++) {
                sum += (double)of_i[k] * kernels[k];
            }
            for (size_t k = start_j; k < start_j + count_j; k++) {
                sum += (double)of_j[k] * kernels[k];
            }
            scores[pair] = sum;
            votes[sum > 0.0 ? i : j] += 1.0;
            start_j += count_j;
        }
        start_i += count_i;
    }
}

/* p[n] out of r[i * n + j] = P(i | i or j), by the fixed point of the cited paper. q: n * n + n. */
static void couple(const double *r, size_t n, double *p, double *q)
{
    double *qp = q + n * n;
    for (size_t t = 0; t < n; t++) {
        p[t] = 1.0 / (double)n;
        q[t * n + t] = 0.0;
        for (size_t j = 0; j < n; j++) {
            if (j != t) {
                q[t * n + t] += r[j * n + t] * r[j * n + t];
                q[t * n + j] = -r[j * n + t] * r[t * n + j];
            }
        }
    }
    for (int round = 0; round < 100; round++) {
        double pqp = 0.0, error = 0.0;
        for (size_t t = 0; t < n; t++) {
            qp[t] = 0.0;
            for (size_t j = 0; j < n; j++) {
                qp[t] += q[t * n + j] * p[j];
            }
            pqp += p[t] * qp[t];
        }
        for (size_t t = 0; t < n; t++) {
            error = fmax(error, fabs(qp[t] - pqp));
        }
        if (error < 0.005 / (double)n) {
            break;
        }
        for (size_t t = 0; t < n; t++) {
            double d = (pqp - qp[t]) / q[t * n + t];
            p[t] += d;
            pqp = (pqp + d * (d * q[t * n + t] + 2.0 * qp[t])) / (1.0 + d) / (1.0 + d);
            for (size_t j = 0; j < n; j++) {
                qp[j] = (qp[j] + d * q[t * n + j]) / (1.0 + d);
                p[j] /= 1.0 + d;
            }
        }
    }
}

static void probabilities(const svm_attrs *a, const double *scores, size_t n, double *p,
                          double *room)
{
    double *r = room, *q = room + n * n;
    for (size_t i = 0, pair = 0; i < n; i++) {
        for (size_t j = i + 1; j < n; j++, pair++) {
            double s = scores[pair] * (double)a->prob_a.at[pair] + (double)a->prob_b.at[pair];
            double v = 1.0 - mq_ml_logistic(s);
            v = fmin(fmax(v, 1e-7), 1.0 - 1e-7);
            r[i * n + j] = v;
            r[j * n + i] = 1.0 - v;
        }
    }
    couple(r, n, p, q);
}

static size_t argmax(const double *values, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        best = values[i] > values[best] ? i : best;
    }
    return best;
}

/* Scores that the second output has. */
static size_t scores_of(const svm_attrs *a)
{
    size_t n = classes_of(a);
    return a->supports == 0 || has_probabilities(a) || n == 2 ? n : pairs_of(n);
}

static size_t classifier_scratch(const mq_op_call *call)
{
    const svm_attrs *a = call->attrs;
    size_t n = classes_of(a);
    return (a->supports + pairs_of(n) + 3 * n + 2 * n * n + 2) * sizeof(double);
}

/* Two classes and one score: ONNX Runtime's rule, which the published expectations follow. */
static size_t binary(const svm_attrs *a, double *scores, size_t best)
{
    double s = scores[0];
    if (a->post == MQ_ML_PROBIT) {
        mq_ml_post_apply(a->post, scores, 1);
        scores[1] = scores[0];
        return best;
    }
    bool is_logistic = a->post == MQ_ML_LOGISTIC;
    scores[1] = is_logistic ? mq_ml_logistic(s) : s;
    scores[0] = is_logistic ? mq_ml_logistic(-s) : -s;
    return best;
}

static mq_code classifier_run(const mq_op_call *call, mq_error *err)
{
    const svm_attrs *a = call->attrs;
    size_t rows, columns, n = classes_of(a), out = scores_of(a);
    double *kernels = call->scratch, *scores = kernels + a->supports;
    double *votes = scores + pairs_of(n) + n + 2, *p = votes + n, *room = p + n;
    mq_tensor *z = mq_call_output(call, 1);
    mq_code code = mq_ml_rows(call->inputs[0], &rows, &columns, err);
    for (size_t r = 0; r < rows && code == MQ_OK; r++) {
        size_t best;
        if (a->supports == 0) {
            for (size_t k = 0; k < n; k++) {
                const float *coefficients = a->coefficients.at + k * columns;
                scores[k] = kernel(a, call->inputs[0], r, columns, coefficients);
                scores[k] += (double)a->rho.at[0];
            }
            best = argmax(scores, n);
            mq_ml_post_apply(a->post, scores, n);
        } else {
            for (size_t k = 0; k < a->supports; k++) {
                kernels[k] = kernel(a, call->inputs[0], r, columns, a->vectors.at + k * columns);
            }
            memset(votes, 0, n * sizeof *votes);
            pair_scores(a, kernels, scores, votes);
            best = argmax(votes, n);
            if (has_probabilities(a)) {
                probabilities(a, scores, n, p, room);
                best = argmax(p, n);
                memcpy(scores, p, n * sizeof *scores);
                mq_ml_post_apply(a->post, scores, n);
            } else if (n == 2) {
                best = binary(a, scores, best);
            } else {
                mq_ml_post_apply(a->post, scores, out);
            }
        }
        mq_ml_label_put(&a->labels, call->outputs[0], r, best);
        for (size_t k = 0; z != NULL && k < out; k++) {
            mq_element_set(z, r * out + k, scores[k]);
        }
    }
    return code;
}

static mq_code classifier_shape(const mq_op_call *call, mq_error *err)
{
    const svm_attrs *a = call->attrs;
    size_t rows, columns;
    mq_code code = mq_ml_rows(call->inputs[0], &rows, &columns, err);
    code = code == MQ_OK ? classifier_sizes(a, columns, err) : code;
    if (code == MQ_OK) {
        mq_ml_classifier_shape(call, &a->labels, rows, scores_of(a));
    }
    return code;
}

/* ---- regressor ---- */

static mq_code regressor_shape(const mq_op_call *call, mq_error *err)
{
    const svm_attrs *a = call->attrs;
    size_t rows, columns;
    mq_code code = mq_ml_rows(call->inputs[0], &rows, &columns, err);
    bool is_fit =
        a->rho.count > 0 && (a->supports > 0 ? a->coefficients.count == a->supports &&
                                                   a->vectors.count == a->supports * columns
                                             : a->coefficients.count == columns);
    if (code == MQ_OK && !is_fit) {
        code = mq_fail(err, MQ_E_ARG, "%zu supports, %zu coefficients, %zu features", a->supports,
                       a->coefficients.count, columns);
    }
    call->outputs[0]->dtype = MQ_DT_F32;
    call->outputs[0]->shape = (mq_shape){2, {(int64_t)rows, 1}};
    return code;
}

static mq_code regressor_run(const mq_op_call *call, mq_error *err)
{
    const svm_attrs *a = call->attrs;
    size_t rows, columns;
    mq_code code = mq_ml_rows(call->inputs[0], &rows, &columns, err);
    for (size_t r = 0; r < rows && code == MQ_OK; r++) {
        double sum = (double)a->rho.at[0];
        for (size_t k = 0; k < a->supports; k++) {
            sum += (double)a->coefficients.at[k] *
                   kernel(a, call->inputs[0], r, columns, a->vectors.at + k * columns);
        }
        if (a->supports == 0) {
            sum += kernel(a, call->inputs[0], r, columns, a->coefficients.at);
        }
        mq_ml_post_apply(a->post, &sum, 1);
        mq_element_set(call->outputs[0], r, a->one_class == 0 ? sum : sum > 0.0 ? 1.0 : -1.0);
    }
    return code;
}

/* ---- rows ---- */

#define ATTR(type_, name_, field_) MQ_ML_ATTR(type_, svm_attrs, name_, field_)
#define COMMON                                                                                     \
    ATTR(FLOATS, "coefficients", coefficients), ATTR(FLOATS, "kernel_params", kernel_params),      \
        ATTR(FLOATS, "support_vectors", vectors), ATTR(FLOATS, "rho", rho),                        \
        MQ_ML_TEXT(svm_attrs, "kernel_type", kernel_name, "LINEAR"),                               \
        MQ_ML_TEXT(svm_attrs, "post_transform", post_name, "NONE")
static const mq_attr_spec classifier_specs[] = {
    COMMON,
    ATTR(FLOATS, "prob_a", prob_a),
    ATTR(FLOATS, "prob_b", prob_b),
    ATTR(INTS, "vectors_per_class", per_class),
    ATTR(INTS, "classlabels_ints", labels.ints),
    ATTR(STRINGS, "classlabels_strings", labels.strings),
    {.name = NULL}};
static const mq_attr_spec regressor_specs[] = {
    COMMON, ATTR(INT, "one_class", one_class), ATTR(INT, "n_supports", n_supports), {.name = NULL}};

#define ROW(symbol, name_, what, outputs_, scratch_, cases_)                                       \
    const mq_op mq_op_ml_##symbol = {                                                              \
        .name = name_,                                                                             \
        .domain = "ai.onnx.ml",                                                                    \
        .since = 1,                                                                                \
        .in = {1, 1},                                                                              \
        .out = {1, outputs_},                                                                      \
        .args = {{0, MQ_ML_INPUTS}},                                                               \
        .attrs_bytes = sizeof(svm_attrs),                                                          \
        .specs = what##_specs,                                                                     \
        .parse = parse,                                                                            \
        .shape = what##_shape,                                                                     \
        .scratch = scratch_,                                                                       \
        .run = what##_run,                                                                         \
        .cases = cases_,                                                                           \
    }
ROW(svm_classifier, "SVMClassifier", classifier, 2, classifier_scratch,
    "coefficients=(1.5,-1.5) support_vectors=(0.5,1.0,-1.0,2.0) vectors_per_class=(1,1) rho=(0.25) "
    "kernel_type=RBF kernel_params=(0.5,0.0,3.0) classlabels_ints=(4,7) | f32[A,2]");
ROW(svm_regressor, "SVMRegressor", regressor, 1, NULL,
    "coefficients=(1.5,-0.5) support_vectors=(0.5,1.0,-1.0,2.0) n_supports=2 rho=(0.25) "
    "kernel_type=POLY kernel_params=(0.5,1.0,3.0) | f32[A,2]");

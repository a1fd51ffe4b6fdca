/* Scores, labels and rows of ai.onnx.ml operators; see ml.h. */
#include "worker/ops/ml.h"

mq_code mq_ml_post_parse(mq_span name, mq_ml_post *out, mq_error *err)
{
    static const char *const names[] = {"NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"};
    for (int i = 0; i < 5; i++) {
        if (mq_span_is(name, names[i])) {
            *out = (mq_ml_post)i;
            return MQ_OK;
        }
    }
    return mq_fail(err, MQ_E_ARG,
                   "post_transform is none of NONE, SOFTMAX, LOGISTIC, SOFTMAX_ZERO, PROBIT");
}

double mq_ml_logistic(double x)
{
    double e = exp(-fabs(x));
    return x < 0.0 ? e / (1.0 + e) : 1.0 / (1.0 + e);
}

/* Inverse of the normal distribution's integral, by Winitzki's approximation of the inverse error
 * function, which is what ONNX Runtime computes. */
static double probit(double p)
{
    double x = 2.0 * p - 1.0, log_part = log((1.0 - x) * (1.0 + x));
    double v = 2.0 / (3.14159 * 0.147) + 0.5 * log_part;
    double root = sqrt(-v + sqrt(v * v - log_part / 0.147));
    return 1.41421356 * (x < 0.0 ? -root : root);
}

static void softmax(double *scores, size_t n, bool keeps_zero)
{
    double top = -HUGE_VAL, sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        top = fmax(top, scores[i]);
    }
    for (size_t i = 0; i < n; i++) {
        bool is_zero = keeps_zero && fabs(scores[i]) <= 1e-7;
        scores[i] = is_zero ? scores[i] * exp(-top) : exp(scores[i] - top);
        sum += scores[i];
    }
    for (size_t i = 0; i < n; i++) {
        scores[i] /= sum;
    }
}

void mq_ml_post_apply(mq_ml_post post, double *scores, size_t n)
{
    if (post == MQ_ML_SOFTMAX || post == MQ_ML_SOFTMAX_ZERO) {
        softmax(scores, n, post == MQ_ML_SOFTMAX_ZERO);
        return;
    }
    for (size_t i = 0; i < n && post != MQ_ML_NONE; i++) {
        scores[i] = post == MQ_ML_LOGISTIC ? mq_ml_logistic(scores[i]) : probit(scores[i]);
    }
}

size_t mq_ml_label_count(const mq_ml_labels *labels)
{
    return labels->strings.count > 0 ? labels->strings.count : labels->ints.count;
}

mq_dtype mq_ml_label_type(const mq_ml_labels *labels)
{
    return labels->strings.count > 0 ? MQ_DT_STR : MQ_DT_I64;
}

void mq_ml_label_put(const mq_ml_labels *labels, const mq_tensor *y, size_t i, size_t k)
{
    if (labels->strings.count > 0) {
        ((mq_span *)y->data)[i] = labels->strings.at[k];
    } else {
        ((int64_t *)y->data)[i] = labels->ints.count > 0 ? labels->ints.at[k] : (int64_t)k;
    }
}

mq_code mq_ml_rows(const mq_tensor *x, size_t *rows, size_t *columns, mq_error *err)
{
    if (x->shape.rank < 1 || x->shape.rank > 2) {
        return mq_fail(err, MQ_E_ARG, "rank %d where 1 or 2 is due: rows of features",
                       x->shape.rank);
    }
    *columns = (size_t)x->shape.dims[x->shape.rank - 1];
    *rows = x->shape.rank == 1 ? 1 : (size_t)x->shape.dims[0];
    return MQ_OK;
}

void mq_ml_classifier_shape(const mq_op_call *call, const mq_ml_labels *labels, size_t rows,
                            size_t scores)
{
    mq_tensor *y = mq_call_output(call, 0), *z = mq_call_output(call, 1);
    if (y != NULL) {
        y->dtype = mq_ml_label_type(labels);
        y->shape = (mq_shape){1, {(int64_t)rows}};
    }
    if (z != NULL) {
        z->dtype = MQ_DT_F32;
        z->shape = (mq_shape){2, {(int64_t)rows, (int64_t)scores}};
    }
}

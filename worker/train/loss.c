/* The losses, one function a row; see loss.h. They know no net. */
#include "worker/train/loss.h"

#include <math.h>

#include "worker/ops/kit.h"

/* One row: its derivative into d, its loss as the result, whether its class is right in *correct.
 */
typedef double loss_fn(const mq_loss_spec *spec, const float *z, mq_label y, int64_t width,
                       float *d, bool *correct);

static int64_t largest(const float *z, int64_t width)
{
    int64_t top = 0;
    for (int64_t c = 1; c < width; c++) {
        top = z[c] > z[top] ? c : top;
    }
    return top;
}

/* p = softmax(z), loss = log(sum e^(z - max)) - (z[y] - max), d = p - t. */
static double loss_cross_entropy(const mq_loss_spec *spec, const float *z, mq_label y,
                                 int64_t width, float *d, bool *correct)
{
    int64_t top = largest(z, width), label = y.class_number;
    float max = z[top], sum = 0.0f;
    for (int64_t c = 0; c < width; c++) {
        d[c] = mq_expf(z[c] - max);
    }
    for (int64_t c = 0; c < width; c++) {
        sum += d[c];
    }
    float scale = 1.0f / sum;
    for (int64_t c = 0; c < width; c++) {
        d[c] *= scale;
    }
    *correct = top == label;
    if (spec->smoothing == 0) {
        d[label] = d[label] - 1.0f;
        return (double)(mq_logf(sum) - (z[label] - max));
    }
    float each = spec->smoothing / (float)width, own = 1.0f - spec->smoothing;
    double mean = 0;
    for (int64_t c = 0; c < width; c++) {
        d[c] -= each;
        mean += (double)(z[c] - max);
    }
    d[label] -= own;
    return (double)mq_logf(sum) - (double)own * (double)(z[label] - max) - (double)each * mean;
}

/* log(1 + e^-u) without overflow: for u < 0 it is log(1 + e^u) - u. */
static double loss_binary(const mq_loss_spec *spec, const float *z, mq_label y, int64_t width,
                          float *d, bool *correct)
{
    (void)spec;
    (void)width;
    float u = y.class_number != 0 ? z[0] : -z[0];
    float e = mq_expf(u < 0 ? u : -u); /* at most 1 */
    float p = u < 0 ? 1.0f / (1.0f + e) : e / (1.0f + e);
    d[0] = y.class_number != 0 ? -p : p;
    *correct = u > 0;
    return (double)mq_logf(1.0f + e) - (double)(u < 0 ? u : 0);
}

static double loss_hinge(const mq_loss_spec *spec, const float *z, mq_label y, int64_t width,
                         float *d, bool *correct)
{
    (void)spec;
    int64_t label = y.class_number, other = -1;
    if (width == 1) {
        float u = label != 0 ? z[0] : -z[0];
        d[0] = u >= 1 ? 0 : label != 0 ? -1.0f : 1.0f;
        *correct = u > 0;
        return u >= 1 ? 0 : (double)(1.0f - u);
    }
    for (int64_t c = 0; c < width; c++) {
        d[c] = 0;
        if (c != label && (other < 0 || z[c] > z[other])) {
            other = c;
        }
    }
    float gap = 1.0f - z[label] + z[other];
    *correct = largest(z, width) == label;
    if (gap <= 0) {
        return 0;
    }
    d[label] = -1.0f;
    d[other] = 1.0f;
    return (double)gap;
}

static double loss_mse(const mq_loss_spec *spec, const float *z, mq_label y, int64_t width,
                       float *d, bool *correct)
{
    (void)spec;
    (void)width;
    float gap = z[0] - y.value;
    d[0] = 2.0f * gap;
    *correct = false;
    return (double)gap * (double)gap;
}

static double loss_l1(const mq_loss_spec *spec, const float *z, mq_label y, int64_t width, float *d,
                      bool *correct)
{
    (void)spec;
    (void)width;
    float gap = z[0] - y.value;
    d[0] = gap > 0 ? 1.0f : gap < 0 ? -1.0f : 0.0f;
    *correct = false;
    return fabs((double)gap);
}

static const struct {
    mq_loss_row row;
    loss_fn *run;
} table[] = {
#define MQ_LOSS(symbol, id, name, values, softmax)                                                 \
    [MQ_LOSS_##symbol] = {{name, values, softmax}, loss_##id},
#include "worker/train/loss.def"
#undef MQ_LOSS
};

const mq_loss_row *mq_loss_of(mq_loss loss)
{
    return &table[loss].row;
}

mq_code mq_loss_check_width(const mq_loss_spec *spec, int64_t width, mq_error *err)
{
    const char *name = table[spec->loss].row.name;
    if (width < 1 || (spec->loss == MQ_LOSS_CROSS_ENTROPY && width < 2)) {
        return mq_fail(err, MQ_E_ARG,
                       "loss: \"%s\" needs at least two outputs a row, the model has %lld; take "
                       "\"binary\" for one",
                       name, (long long)width);
    }
    if (width > 1 && (spec->loss == MQ_LOSS_BINARY || table[spec->loss].row.is_value)) {
        return mq_fail(err, MQ_E_ARG, "loss: \"%s\" needs one output a row, the model has %lld",
                       name, (long long)width);
    }
    int64_t classes = width == 1 ? 2 : width;
    if (spec->weight_count > 0 && (int64_t)spec->weight_count != classes) {
        return mq_fail(err, MQ_E_ARG,
                       "class_weights: %u weights for a model of %lld classes; give one for each",
                       spec->weight_count, (long long)classes);
    }
    return MQ_OK;
}

mq_code mq_loss_check_labels(const mq_loss_spec *spec, const mq_label *labels, int64_t rows,
                             int64_t width, mq_error *err)
{
    bool is_value = table[spec->loss].row.is_value;
    int64_t classes = width == 1 ? 2 : width;
    for (int64_t r = 0; r < rows; r++) {
        if (is_value && !isfinite(labels[r].value)) {
            return mq_fail(err, MQ_E_ARG, "label of row %lld is not a finite number", (long long)r);
        }
        if (!is_value && (labels[r].class_number < 0 || labels[r].class_number >= classes)) {
            return mq_fail(err, MQ_E_ARG, "label of row %lld is %d, outside 0..%lld", (long long)r,
                           labels[r].class_number, (long long)classes - 1);
        }
    }
    return MQ_OK;
}

void mq_loss_rows(const mq_loss_spec *spec, const float *out, const mq_label *labels, int64_t rows,
                  int64_t width, float *d, mq_loss_sums *sums)
{
    loss_fn *run = table[spec->loss].run;
    mq_loss_sums all = {0};
    for (int64_t r = 0; r < rows; r++, out += width, d += width) {
        bool correct = false;
        double loss = run(spec, out, labels[r], width, d, &correct);
        if (spec->weight_count > 0) {
            float weight = spec->weights[labels[r].class_number];
            loss *= (double)weight;
            for (int64_t c = 0; c < width; c++) {
                d[c] *= weight;
            }
        }
        all.loss += loss;
        all.correct += correct;
    }
    *sums = all;
}

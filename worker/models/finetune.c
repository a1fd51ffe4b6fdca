/* Fine-tuning on one worker; see finetune.h. The gang trainer (worker/train) is for long runs that
 * must survive deaths; this is a short loop over the same compiled step. */
#include "worker/models/finetune.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "worker/train/net.h"
#include "worker/train/philox.h"
#include "worker/train/vec.h"

enum { PROGRESS_MS = 200 };

typedef struct tuning {
    const mq_finetune_options *options;
    mq_host *host;
    mq_dataset *data;
    const mq_dataset_facts *facts;
    mq_net *net;
    size_t count; /* floats of all parameters */
    float *weights, *momentum, *grads;
    uint8_t *is_free; /* 0: this weight stays 0 */
    float *x;
    mq_label *y;
    uint64_t steps_per_epoch, step;
    double loss_sum; /* of the epoch under way */
    uint64_t correct;
    int64_t told_ms;
} tuning;

static mq_code check_data(const tuning *t, mq_error *err)
{
    mq_shape shape;
    size_t elements = 1;
    mq_net_input_shape(t->net, &shape);
    for (int d = 1; d < shape.rank; d++) {
        elements *= (size_t)shape.dims[d];
    }
    if (t->facts->classes == 0) {
        return mq_fail(err, MQ_E_ARG, "data: dataset %s has no class labels", t->facts->name);
    }
    if (elements != t->facts->x_count) {
        return mq_fail(err, MQ_E_ARG,
                       "data: rows of dataset %s have %zu numbers, the model takes "
                       "%zu",
                       t->facts->name, t->facts->x_count, elements);
    }
    if (t->facts->rows < t->options->batch) {
        return mq_fail(err, MQ_E_ARG, "data: dataset %s has %llu rows, fewer than batch %u",
                       t->facts->name, (unsigned long long)t->facts->rows, t->options->batch);
    }
    return MQ_OK;
}

static mq_code allocate(tuning *t, mq_error *err)
{
    t->count = mq_net_param_total(t->net);
    t->weights = calloc(t->count + 1, sizeof(float));
    t->momentum = calloc(t->count + 1, sizeof(float));
    t->grads = calloc(t->count + 1, sizeof(float));
    t->is_free = malloc(t->count + 1);
    t->x = calloc((size_t)t->options->batch * t->facts->x_count + 1, sizeof(float));
    t->y = calloc(t->options->batch, sizeof(mq_label));
    return t->weights == NULL || t->momentum == NULL || t->grads == NULL || t->is_free == NULL ||
                   t->x == NULL || t->y == NULL
               ? mq_fail(err, MQ_E_LIMIT, "no memory to fine-tune %zu weights", t->count)
               : MQ_OK;
}

/* Marks the zeros of tensors with at least two dimensions: a bias of 0 is no pruned weight. */
static void mark_zeros(tuning *t)
{
    const mq_net_param *params;
    size_t count = mq_net_params(t->net, &params);
    memset(t->is_free, 1, t->count);
    for (size_t p = 0; p < count && t->options->keep_zeros; p++) {
        for (size_t i = 0; i < params[p].count && params[p].shape.rank >= 2; i++) {
            t->is_free[params[p].offset + i] = t->weights[params[p].offset + i] != 0.0f;
        }
    }
}

static void tell(tuning *t, uint64_t steps, double loss)
{
    char text[160];
    int64_t now = mq_clock_mono_ms();
    if (now - t->told_ms >= PROGRESS_MS) {
        t->told_ms = now;
        int len = snprintf(text, sizeof text,
                           "{\"stage\":\"finetune\",\"step\":%llu,\"steps\":%llu,\"loss\":%.6g}",
                           (unsigned long long)t->step, (unsigned long long)steps, loss);
        t->host->ops->progress(t->host, mq_span_of(text, (size_t)len));
    }
}

/* Running moments are not trained: the step has made their new values. */
static void move_moments(tuning *t)
{
    const mq_net_param *params;
    size_t count = mq_net_params(t->net, &params);
    for (size_t p = 0; p < count; p++) {
        if (params[p].follows) {
            memcpy(t->weights + params[p].offset, t->grads + params[p].offset,
                   params[p].count * sizeof(float));
        }
    }
}

static mq_code run_step(tuning *t, const mq_permutation *order, mq_error *err)
{
    uint32_t batch = t->options->batch;
    uint64_t first = t->step % t->steps_per_epoch * batch;
    mq_net_stats stats = {0};
    mq_code code = t->host->ops->check(t->host, err);
    for (uint32_t i = 0; i < batch && code == MQ_OK; i++) {
        code = mq_dataset_row(t->data, mq_permutation_at(order, first + i),
                              t->x + i * t->facts->x_count, &t->y[i].class_number, NULL, err);
    }
    mq_net_draw(t->net, &(mq_draw){t->options->seed, t->step, 0});
    if (code == MQ_OK) {
        code =
            mq_net_step(t->net, t->weights, t->x, t->y, 1.0f / (float)batch, t->grads, &stats, err);
    }
    if (code == MQ_OK && !isfinite(stats.loss_sum)) {
        code = mq_fail(err, MQ_E_NUMERIC,
                       "fine-tuning: the loss of step %llu is not finite; a "
                       "smaller lr helps",
                       (unsigned long long)t->step + 1);
    }
    if (code != MQ_OK) {
        return code;
    }
    for (size_t i = 0; i < t->count; i++) {
        t->grads[i] = t->is_free[i] ? t->grads[i] : 0.0f;
    }
    double left = 1.0 - (double)t->step / (double)(t->steps_per_epoch * t->options->epochs);
    mq_sgd sgd = {(float)(t->options->lr * left), (float)t->options->momentum, 0.0f};
    mq_vec_sgd(&sgd, t->grads, t->weights, t->momentum, t->count);
    move_moments(t);
    t->loss_sum += stats.loss_sum;
    t->correct += (uint64_t)stats.correct;
    t->step++;
    tell(t, t->steps_per_epoch * t->options->epochs, stats.loss_sum / batch);
    return MQ_OK;
}

static mq_code run_epochs(tuning *t, mq_finetune_result *out, mq_error *err)
{
    mq_code code = MQ_OK;
    for (uint32_t epoch = 0; epoch < t->options->epochs && code == MQ_OK; epoch++) {
        mq_permutation order;
        mq_permutation_init(&order, t->options->seed, epoch, t->facts->rows);
        t->loss_sum = 0;
        t->correct = 0;
        for (uint64_t s = 0; s < t->steps_per_epoch && code == MQ_OK; s++) {
            code = run_step(t, &order, err);
        }
    }
    double rows = (double)t->steps_per_epoch * (double)t->options->batch;
    *out = (mq_finetune_result){t->step, t->loss_sum / rows, (double)t->correct / rows};
    return code;
}

mq_code mq_finetune(mq_model *model, mq_dataset *data, const mq_finetune_options *options,
                    mq_host *host, mq_finetune_result *out, mq_error *err)
{
    MQ_ASSERT(options->epochs > 0);
    MQ_ASSERT(options->batch > 0);
    tuning t = {.options = options,
                .host = host,
                .data = data,
                .facts = mq_dataset_facts_of(data),
                .told_ms = mq_clock_mono_ms()};
    mq_net_options net = {
        .rows = options->batch, .stage_count = 1, .memory_bytes_max = host->memory_bytes_max};
    mq_code code = mq_net_new(&t.net, model, &net, err);
    if (code == MQ_OK) {
        code = check_data(&t, err);
    }
    if (code == MQ_OK) {
        code = allocate(&t, err);
    }
    if (code == MQ_OK) {
        t.steps_per_epoch = t.facts->rows / options->batch;
        mq_net_params_get(t.net, t.weights);
        mark_zeros(&t);
        code = run_epochs(&t, out, err);
    }
    mq_net_free(t.net);
    if (code == MQ_OK) {
        code = mq_net_params_set(t.weights, NULL, model, err);
    }
    free(t.weights);
    free(t.momentum);
    free(t.grads);
    free(t.is_free);
    free(t.x);
    free(t.y);
    return code;
}

/* Running a model to measure it; see measure.h. */
#include "worker/models/measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"
#include "worker/exec/session.h"

enum { LATENCY_RUNS_MAX = 201, LATENCY_NS_MAX = 100000000, WARM_RUNS = 3, PROGRESS_MS = 200 };

static int compare_ns(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static double median_run_us(mq_session *session, const mq_tensor *inputs, size_t count)
{
    int64_t ns[LATENCY_RUNS_MAX];
    int runs = 0;
    const mq_tensor *outputs;
    int64_t until = mq_clock_mono_ns() + LATENCY_NS_MAX;
    for (int i = 0; i < WARM_RUNS; i++) {
        if (mq_session_run(session, inputs, count, &outputs, NULL) != MQ_OK) {
            return (double)NAN;
        }
    }
    do {
        int64_t start = mq_clock_mono_ns();
        if (mq_session_run(session, inputs, count, &outputs, NULL) != MQ_OK) {
            return (double)NAN;
        }
        ns[runs++] = mq_clock_mono_ns() - start;
    } while (runs < LATENCY_RUNS_MAX && mq_clock_mono_ns() < until);
    qsort(ns, (size_t)runs, sizeof *ns, compare_ns);
    int middle = runs / 2;
    return (double)ns[middle] / 1000.0;
}

/* Zeroed tensors of one row for every input; false when a type or shape cannot be made up. */
static bool make_inputs(const mq_value_info *infos, size_t count, mq_arena *arena,
                        mq_tensor *inputs)
{
    for (size_t i = 0; i < count; i++) {
        size_t elements;
        mq_tensor *t = &inputs[i];
        t->dtype = infos[i].dtype;
        t->shape.rank = infos[i].rank;
        for (int d = 0; d < infos[i].rank; d++) {
            t->shape.dims[d] = infos[i].dims[d] < 0 ? 1 : infos[i].dims[d];
        }
        if (mq_dtype_bytes(t->dtype) == 0 || mq_shape_count(&t->shape, &elements, NULL) != MQ_OK) {
            return false;
        }
        t->bytes = elements * mq_dtype_bytes(t->dtype);
        t->data = mq_arena_alloc(arena, elements, mq_dtype_bytes(t->dtype));
        if (t->data == NULL) {
            return false;
        }
    }
    return true;
}

double mq_model_latency_us(const mq_model *model)
{
    mq_session *session;
    mq_arena arena;
    const mq_value_info *infos;
    double result = (double)NAN;
    if (mq_session_new(&session, model, NULL, NULL) != MQ_OK) {
        return result;
    }
    mq_arena_init(&arena, (size_t)256 << 20);
    size_t count = mq_session_inputs(session, &infos);
    mq_tensor *inputs = mq_arena_new(&arena, mq_tensor, count);
    if (inputs != NULL && make_inputs(infos, count, &arena, inputs)) {
        result = median_run_us(session, inputs, count);
    }
    mq_arena_release(&arena);
    mq_session_free(session);
    return result;
}

/* One pass over the data. */
typedef struct pass {
    mq_session *session;
    mq_dataset *data;
    const mq_dataset_facts *facts;
    mq_shape input; /* dims[0] is set per batch */
    float *x, *value;
    int32_t *y;
    mq_score *score;
    double loss_sum;
    uint64_t correct;
} pass;

/* The model's one input must take rows of the dataset: equal dims behind the batch, or one flat
 * dimension of as many elements. */
static mq_code fit_input(pass *p, mq_error *err)
{
    const mq_value_info *in;
    const mq_dataset_facts *f = p->facts;
    size_t elements = 1;
    if (mq_session_inputs(p->session, &in) != 1 || in->dtype != MQ_DT_F32 || in->rank < 1) {
        return mq_fail(err, MQ_E_UNSUPPORTED,
                       "the model must have exactly one input of float32 with a batch dimension");
    }
    p->input = (mq_shape){in->rank, {0}};
    int32_t open = 0; /* one free dimension behind the batch may be worked out */
    for (int d = 1; d < in->rank; d++) {
        p->input.dims[d] = in->dims[d];
        if (in->dims[d] < 0) {
            open = open == 0 ? d : -1;
        } else if (!mq_mul_size(elements, (size_t)in->dims[d], &elements)) {
            elements = 0;
        }
    }
    if (open > 0 && elements > 0 && f->x_count % elements == 0) {
        p->input.dims[open] = (int64_t)(f->x_count / elements);
        elements = f->x_count;
    }
    if (elements != f->x_count || open < 0) {
        char have[128];
        return mq_fail(
            err, MQ_E_ARG, "model input \"%s\" takes %zu numbers a row; dataset %s has %zu (%s)",
            in->name, elements, f->name, f->x_count, mq_shape_text(&f->x_shape, have, sizeof have));
    }
    return MQ_OK;
}

static void score_row(pass *p, const float *logits, size_t n, int32_t label)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += exp((double)logits[i] - (double)logits[best]);
    }
    p->loss_sum += log(sum) - ((double)logits[label] - (double)logits[best]);
    bool is_correct = best == (size_t)label;
    p->correct += is_correct;
    p->score->class_rows[label]++;
    p->score->class_correct[label] += is_correct;
}

static mq_code score_outputs(pass *p, const mq_tensor *out, uint64_t rows, mq_error *err)
{
    char shape[128];
    size_t n = out->bytes / (4 * rows);
    bool is_class = p->score->classes > 0;
    bool fits = out->dtype == MQ_DT_F32 && out->shape.rank >= 1 && out->shape.rank <= 2 &&
                out->shape.dims[0] == (int64_t)rows &&
                (is_class ? n >= (size_t)p->score->classes : n == 1);
    if (!fits) {
        return mq_fail(err, MQ_E_ARG,
                       "the model's first output is %s %s; expected float32 [%llu,%d] to compare "
                       "with dataset %s",
                       mq_dtype_name(out->dtype), mq_shape_text(&out->shape, shape, sizeof shape),
                       (unsigned long long)rows, is_class ? p->score->classes : 1, p->facts->name);
    }
    const float *at = out->data;
    for (uint64_t r = 0; r < rows; r++, at += n) {
        if (is_class) {
            score_row(p, at, n, p->y[r]);
        } else {
            double d = (double)at[0] - (double)p->value[r];
            p->loss_sum += d * d;
        }
    }
    return MQ_OK;
}

static mq_code run_batch(pass *p, uint64_t first, uint64_t rows, mq_error *err)
{
    bool is_class = p->score->classes > 0;
    mq_code code = mq_dataset_rows(p->data, first, rows, p->x, is_class ? p->y : NULL,
                                   is_class ? NULL : p->value, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_tensor in = {MQ_DT_F32, p->input, p->x, rows * p->facts->x_count * sizeof *p->x};
    in.shape.dims[0] = (int64_t)rows;
    const mq_tensor *outputs;
    code = mq_session_run(p->session, &in, 1, &outputs, err);
    return code == MQ_OK ? score_outputs(p, &outputs[0], rows, err) : code;
}

static mq_code run_all(pass *p, uint32_t batch, mq_host *host, const char *stage, mq_error *err)
{
    mq_code code = MQ_OK;
    int64_t told = mq_clock_mono_ms();
    for (uint64_t row = 0; row < p->facts->rows && code == MQ_OK; row += batch) {
        uint64_t rows = p->facts->rows - row;
        code = host->ops->check(host, err);
        if (code == MQ_OK) {
            code = run_batch(p, row, rows < batch ? rows : batch, err);
        }
        if (stage != NULL && mq_clock_mono_ms() - told >= PROGRESS_MS) {
            char text[160];
            int len = snprintf(text, sizeof text, "{\"stage\":\"%s\",\"rows\":%llu,\"of\":%llu}",
                               stage, (unsigned long long)row, (unsigned long long)p->facts->rows);
            host->ops->progress(host, mq_span_of(text, (size_t)len));
            told = mq_clock_mono_ms();
        }
    }
    return code;
}

static mq_code allocate(pass *p, uint32_t batch, mq_error *err)
{
    size_t classes = p->score->classes > 0 ? (size_t)p->score->classes : 1;
    p->x = calloc((size_t)batch * p->facts->x_count, sizeof *p->x);
    p->y = calloc(batch, sizeof *p->y);
    p->value = calloc(batch, sizeof *p->value);
    p->score->class_rows = calloc(classes, sizeof *p->score->class_rows);
    p->score->class_correct = calloc(classes, sizeof *p->score->class_correct);
    if (p->x == NULL || p->y == NULL || p->value == NULL || p->score->class_rows == NULL ||
        p->score->class_correct == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for batches of %u rows", batch);
    }
    return MQ_OK;
}

mq_code mq_model_score(mq_score *out, const mq_model *model, mq_dataset *data, uint32_t batch,
                       mq_host *host, const char *stage, mq_error *err)
{
    MQ_ASSERT(batch > 0);
    const mq_dataset_facts *facts = mq_dataset_facts_of(data);
    pass p = {.data = data, .facts = facts, .score = out};
    *out = (mq_score){.rows = facts->rows, .classes = facts->classes};
    if (facts->y_dtype == MQ_DT_NONE) {
        return mq_fail(err, MQ_E_ARG, "dataset %s has no labels to compare with", facts->name);
    }
    mq_code code = mq_session_new(&p.session, model, NULL, err);
    if (code == MQ_OK) {
        code = fit_input(&p, err);
    }
    if (code == MQ_OK) {
        code = allocate(&p, batch, err);
    }
    int64_t start = mq_clock_mono_ns();
    if (code == MQ_OK) {
        code = run_all(&p, batch, host, stage, err);
    }
    double seconds = (double)(mq_clock_mono_ns() - start) / 1e9;
    out->accuracy = out->classes > 0 ? (double)p.correct / (double)facts->rows : (double)NAN;
    out->loss = p.loss_sum / (double)facts->rows;
    out->rows_per_s = (double)facts->rows / seconds;
    free(p.x);
    free(p.y);
    free(p.value);
    mq_session_free(p.session);
    return code;
}

void mq_score_release(mq_score *score)
{
    free(score->class_rows);
    free(score->class_correct);
    score->class_rows = score->class_correct = NULL;
}

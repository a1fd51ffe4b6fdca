/* Kind "optimize": applies optimization passes to a model and publishes the result as its next
 * version, with a report of what that did.
 *
 *   {"model":"demo@3", "passes":["prune:0.8","quantize:int8"],
 *    "data":"fashion@1",       for fine-tuning; for the accuracies too when there is no eval
 *    "eval":"fashion-test@1",  for the accuracies
 *    "finetune_epochs":0, "lr":0.05, "momentum":0.9, "batch":256, "seed":1}
 *
 * Passes run in the order of worker/passes/passes.def whatever order they are named in. Fine-tuning
 * follows right behind prune and keeps pruned weights at 0. Result {"name","meta"}; the report is
 * meta.report: {"passes":[...],"finetune":{...}|null,"before":{...},"after":{...}}. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "worker/kinds/body.h"
#include "worker/kinds/kind.h"
#include "worker/models/finetune.h"
#include "worker/models/measure.h"
#include "worker/models/meta.h"
#include "worker/passes/pass.h"

mq_kind_run mq_kind_run_optimize;

enum { PASSES_MAX = 16, BATCH_MAX = 65536, EPOCHS_MAX = 1000, REPORT_BYTES_MAX = 32 << 10 };
enum { EVAL_BATCH = 256 };

typedef struct planned {
    const mq_pass *pass; /* NULL: this row of the table is not wanted */
    mq_pass_args args;
} planned;

/* What a model costs and gives at one moment. */
typedef struct measured {
    double accuracy, loss, latency_us;
    size_t bytes, params, nonzero;
} measured;

typedef struct work {
    mq_host *host;
    mq_body body;
    const char *model, *data_name, *eval_name;
    mq_finetune_options finetune;
    planned plan[PASSES_MAX]; /* by row of the table */
    size_t row_count;
    mq_model_ref source;
    mq_model *edited;        /* owned */
    mq_dataset *data, *eval; /* owned; NULL when not given */
    mq_buf report;
    mq_finetune_result tuned;
    bool is_tuned;
} work;

/* --- request --- */

static mq_code read_passes(work *w, mq_error *err)
{
    const json_t *list = json_object_get(w->body.root, "passes");
    const mq_pass *const *table;
    w->row_count = mq_pass_table(&table);
    MQ_ASSERT(w->row_count <= PASSES_MAX);
    if (json_array_size(list) == 0 || json_array_size(list) > PASSES_MAX) {
        return mq_fail(err, MQ_E_ARG,
                       "passes: expected a list of 1..%d texts such as \"prune:0.8\"", PASSES_MAX);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        const mq_pass *pass;
        mq_pass_args args;
        size_t row;
        if (text == NULL) {
            return mq_fail(err, MQ_E_ARG, "passes: item %zu is not a text", i + 1);
        }
        mq_code code = mq_pass_parse(text, &pass, &args, &row, err);
        if (code != MQ_OK) {
            return code;
        }
        if (w->plan[row].pass != NULL) {
            return mq_fail(err, MQ_E_ARG, "passes: \"%s\" and \"%s\": each pass at most once a job",
                           w->plan[row].args.text, args.text);
        }
        w->plan[row] = (planned){pass, args};
    }
    return MQ_OK;
}

static mq_code read_numbers(work *w, mq_error *err)
{
    int64_t epochs = 0, batch = 256, seed = 1;
    w->finetune = (mq_finetune_options){.lr = 0.05, .momentum = 0.9, .keep_zeros = true};
    mq_code code = mq_body_int(&w->body, "finetune_epochs", 0, EPOCHS_MAX, &epochs, err);
    if (code == MQ_OK) {
        code = mq_body_int(&w->body, "batch", 1, BATCH_MAX, &batch, err);
    }
    if (code == MQ_OK) {
        code = mq_body_int(&w->body, "seed", 0, INT64_MAX, &seed, err);
    }
    if (code == MQ_OK) {
        code = mq_body_number(&w->body, "lr", 1e-9, 100, &w->finetune.lr, err);
    }
    if (code == MQ_OK) {
        code = mq_body_number(&w->body, "momentum", 0, 0.9999, &w->finetune.momentum, err);
    }
    w->finetune.epochs = (uint32_t)epochs;
    w->finetune.batch = (uint32_t)batch;
    w->finetune.seed = (uint64_t)seed;
    return code;
}

static mq_code read_request(work *w, mq_error *err)
{
    static const char *const known[] = {"model", "passes",   "data",  "eval", "finetune_epochs",
                                        "lr",    "momentum", "batch", "seed", NULL};
    w->model = w->host->model[0] == '\0' ? NULL : w->host->model;
    mq_code code = mq_body_open(&w->body, w->host->body, known, err);
    if (code == MQ_OK) {
        code = mq_body_name(&w->body, "model", w->model == NULL, true, &w->model, err);
    }
    if (code == MQ_OK) {
        code = read_passes(w, err);
    }
    if (code == MQ_OK) {
        code = mq_body_name(&w->body, "data", false, true, &w->data_name, err);
    }
    if (code == MQ_OK) {
        code = mq_body_name(&w->body, "eval", false, true, &w->eval_name, err);
    }
    if (code == MQ_OK) {
        code = read_numbers(w, err);
    }
    if (code != MQ_OK || w->finetune.epochs == 0) {
        return code;
    }
    bool follows = false;
    for (size_t i = 0; i < w->row_count; i++) {
        follows = follows || (w->plan[i].pass != NULL && w->plan[i].pass->is_for_finetune);
    }
    if (!follows || w->data_name == NULL) {
        return mq_fail(err, MQ_E_ARG, "finetune_epochs: needs %s",
                       follows ? "data to train on" : "the pass prune, which it follows");
    }
    return MQ_OK;
}

/* --- measuring --- */

static mq_code measure(work *w, const mq_model *model, const char *stage, measured *out,
                       mq_error *err)
{
    mq_dataset *data = w->eval != NULL ? w->eval : w->data;
    out->accuracy = out->loss = (double)NAN;
    out->latency_us = mq_model_latency_us(model);
    mq_model_count(model, &out->params, &out->nonzero);
    if (data == NULL || mq_dataset_facts_of(data)->y_dtype == MQ_DT_NONE) {
        return MQ_OK;
    }
    mq_score score;
    mq_code code = mq_model_score(&score, model, data, EVAL_BATCH, w->host, stage, err);
    out->accuracy = score.accuracy;
    out->loss = score.loss;
    mq_score_release(&score);
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "%s", stage);
}

static void add_number(mq_buf *out, const char *key, double value)
{
    if (isfinite(value)) {
        mq_buf_printf(out, "\"%s\":%.9g,", key, value);
    } else {
        mq_buf_printf(out, "\"%s\":null,", key);
    }
}

static void add_measured(mq_buf *out, const char *key, const measured *m)
{
    mq_buf_printf(out, ",\"%s\":{", key);
    add_number(out, "accuracy", m->accuracy);
    add_number(out, "loss", m->loss);
    add_number(out, "latency_us", m->latency_us);
    mq_buf_printf(out, "\"bytes\":%zu,\"params\":%zu,\"nonzero\":%zu}", m->bytes, m->params,
                  m->nonzero);
}

/* --- work --- */

static mq_code open_all(work *w, mq_error *err)
{
    mq_code code = mq_model_ref_open(&w->source, w->host, w->model, err);
    if (code == MQ_OK) {
        code = mq_model_clone(&w->edited, w->source.model, 0, err);
    }
    if (code == MQ_OK && w->data_name != NULL) {
        code = mq_dataset_open(&w->data, w->host, w->data_name, err);
    }
    if (code == MQ_OK && w->eval_name != NULL) {
        code = mq_dataset_open(&w->eval, w->host, w->eval_name, err);
    }
    return code;
}

static mq_code apply(work *w, mq_error *err)
{
    bool is_first = true;
    mq_code code = MQ_OK;
    mq_buf_add_str(&w->report, "{\"passes\":[");
    for (size_t i = 0; i < w->row_count && code == MQ_OK; i++) {
        const planned *p = &w->plan[i];
        if (p->pass == NULL) {
            continue;
        }
        mq_buf_add_str(&w->report, is_first ? "" : ",");
        is_first = false;
        code = mq_pass_apply(p->pass, &p->args, w->edited, &w->report, err);
        if (code == MQ_OK && p->pass->is_for_finetune && w->finetune.epochs > 0) {
            code = mq_finetune(w->edited, w->data, &w->finetune, w->host, &w->tuned, err);
            w->is_tuned = true;
        }
        if (code == MQ_OK) {
            code = w->host->ops->check(w->host, err);
        }
    }
    mq_buf_add_str(&w->report, "],\"finetune\":");
    if (w->is_tuned) {
        mq_buf_printf(&w->report,
                      "{\"data\":\"%s\",\"epochs\":%u,\"steps\":%llu,\"loss\":%.6g,"
                      "\"accuracy\":%.6g}",
                      mq_dataset_facts_of(w->data)->name, w->finetune.epochs,
                      (unsigned long long)w->tuned.steps, w->tuned.loss, w->tuned.accuracy);
    } else {
        mq_buf_add_str(&w->report, "null");
    }
    return code;
}

/* The passes as they ran: "prune:0.8+quantize:int8". */
static void join_passes(const work *w, char *out, size_t size)
{
    out[0] = '\0';
    for (size_t i = 0; i < w->row_count; i++) {
        size_t used = strlen(out);
        if (w->plan[i].pass != NULL) {
            snprintf(out + used, size - used, "%s%s", used == 0 ? "" : "+", w->plan[i].args.text);
        }
    }
}

static mq_code publish(work *w, const measured *after, const char *blob, mq_error *err)
{
    char passes[PASSES_MAX * (MQ_PASS_TEXT_MAX + 2)], name[MQ_NAME_BYTES_MAX + 1];
    const mq_dataset *data = w->eval != NULL ? w->eval : w->data;
    mq_model_meta meta;
    join_passes(w, passes, sizeof passes);
    mq_span_copy(mq_span_of(w->source.name, strcspn(w->source.name, "@")), name, sizeof name);
    mq_model_meta_init(&meta);
    meta.kind = w->source.kind;
    meta.parent = w->source.name;
    meta.pass = passes;
    meta.dataset = data == NULL ? NULL : mq_dataset_facts_of(data)->name;
    meta.accuracy = after->accuracy;
    meta.loss = after->loss;
    meta.latency_us = after->latency_us;
    meta.report = mq_buf_span(&w->report);
    return mq_model_publish_blob(w->host, name, w->edited, blob, after->bytes, &meta, err);
}

static mq_code optimize(work *w, mq_error *err)
{
    measured before = {0}, after = {0};
    char blob[MQ_SHA256_HEX];
    mq_buf file;
    mq_buf_init(&file, MQ_MODEL_BYTES_MAX);
    mq_buf_init(&w->report, REPORT_BYTES_MAX);
    mq_code code = open_all(w, err);
    if (code == MQ_OK) {
        code = measure(w, w->source.model, "before", &before, err);
        before.bytes = w->source.file.bytes.len;
    }
    if (code == MQ_OK) {
        code = apply(w, err);
    }
    if (code == MQ_OK) {
        code = mq_model_save(w->edited, &file, err);
    }
    if (code == MQ_OK) {
        code = measure(w, w->edited, "after", &after, err);
        after.bytes = file.len;
    }
    if (code == MQ_OK) {
        code = w->host->ops->blob_put(w->host, mq_buf_span(&file), blob, err);
    }
    if (code == MQ_OK) {
        add_measured(&w->report, "before", &before);
        add_measured(&w->report, "after", &after);
        mq_buf_add_str(&w->report, "}");
        code = w->report.is_full
                   ? mq_fail(err, MQ_E_LIMIT, "report of more than %d bytes", REPORT_BYTES_MAX)
                   : publish(w, &after, blob, err);
    }
    mq_buf_release(&file);
    return code;
}

mq_code mq_kind_run_optimize(mq_host *host, mq_error *err)
{
    work *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory");
    }
    w->host = host;
    mq_code code = read_request(w, err);
    if (code == MQ_OK) {
        code = optimize(w, err);
    }
    mq_buf_release(&w->report);
    mq_model_free(w->edited);
    mq_model_ref_release(&w->source);
    mq_dataset_free(w->data);
    mq_dataset_free(w->eval);
    mq_body_close(&w->body);
    free(w);
    return code;
}

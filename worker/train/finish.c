/* The end of a run: the trained model is evaluated, written as ONNX, published with all that is
 * known of how it came to be, and remembered under its manifest's hash; and the other way round, an
 * equal run that somebody has finished before is found by that hash. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "worker/models/measure.h"
#include "worker/models/meta.h"
#include "worker/train/train.h"

enum {
    META_BYTES_MAX = 1 << 20,
    VERSIONS_SEARCHED_MAX = 64,
    DUMP_FLAGS = JSON_COMPACT | JSON_REAL_PRECISION(9),
};

void mq_trainer_curve(const mq_trainer *t, mq_buf *out)
{
    const mq_record *r = &t->state.record;
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < r->curve_count; i++) {
        const mq_curve_point *p = &r->curve[i];
        mq_buf_printf(out, "%s{\"epoch\":%.4g,\"step\":%llu,\"loss\":%.6g,\"accuracy\":%.5g}",
                      i > 0 ? "," : "", (double)p->step / (double)t->plan.steps_per_epoch,
                      (unsigned long long)p->step, p->loss, p->accuracy);
    }
    mq_buf_add_str(out, "]");
}

static mq_code evaluate(mq_trainer *t, double *accuracy, mq_error *err)
{
    mq_dataset *data;
    mq_score score = {0};
    *accuracy = (double)NAN;
    if (t->m.eval[0] == '\0') {
        return MQ_OK;
    }
    mq_code code = mq_dataset_open(&data, t->host, t->m.eval, err);
    if (code == MQ_OK) {
        code = mq_model_score(&score, t->model, data, MQ_TRAIN_EVAL_BATCH, t->host, NULL, err);
        *accuracy = score.accuracy;
        mq_score_release(&score);
        mq_dataset_free(data);
    }
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "eval");
}

/* The model's registry record: what every model has, and what only training knows. */
static mq_code make_meta(mq_trainer *t, const char *blob, size_t bytes, double accuracy,
                         json_t **out, mq_error *err)
{
    const mq_record *r = &t->state.record;
    mq_model_meta meta;
    mq_buf text, curve;
    char chain[MQ_SHA256_HEX];
    mq_model_meta_init(&meta);
    meta.kind = mq_model_metadata(t->model, "maasq.arch");
    bool is_from_model = t->host->model_blob != NULL && t->host->model != NULL &&
                         t->host->model[0] != '\0' &&
                         strcmp(t->host->model_blob, t->from_blob) == 0;
    meta.parent = is_from_model ? t->host->model : NULL;
    meta.pass = "train";
    meta.dataset = t->m.data;
    meta.manifest = t->m.hash;
    meta.accuracy = accuracy;
    meta.loss = r->epoch_before.loss / (double)r->epoch_before.rows;
    meta.latency_us = mq_model_latency_us(t->model);
    mq_state_chain_hex(&t->state, &t->plan, chain);
    mq_buf_init(&text, META_BYTES_MAX);
    mq_buf_init(&curve, META_BYTES_MAX);
    mq_code code = mq_model_meta_write(&meta, t->model, blob, bytes, t->host->job_id, &text, err);
    mq_trainer_curve(t, &curve);
    *out = json_loadb((const char *)text.data, text.len, 0, NULL);
    json_t *points = json_loadb((const char *)curve.data, curve.len, 0, NULL);
    json_t *metrics = json_object_get(*out, "metrics");
    double train_accuracy = (double)r->epoch_before.correct / (double)r->epoch_before.rows;
    mq_buf_release(&text);
    mq_buf_release(&curve);
    if (code == MQ_OK &&
        (json_object_set_new(metrics, "train_accuracy", json_real(train_accuracy)) != 0 ||
         json_object_set_new(*out, "curve", points) != 0 ||
         json_object_set_new(*out, "chain", json_string(chain)) != 0 ||
         json_object_set_new(*out, "fingerprint", json_string(t->fingerprint)) != 0 ||
         json_object_set_new(*out, "steps_run", json_integer((json_int_t)r->step)) != 0 ||
         json_object_set_new(*out, "continued_from", json_integer((json_int_t)t->continued_step)) !=
             0 ||
         json_object_set_new(*out, "workers_seen",
                             json_integer(r->workers_seen > 0 ? r->workers_seen : 1)) != 0)) {
        code = mq_fail(err, MQ_E_INTERNAL, "model meta: no memory for its JSON");
    }
    const mq_validated *v = &r->validated;
    if (code == MQ_OK && v->best_step > 0) {
        json_t *seen =
            json_pack("{s:f, s:f, s:I, s:f, s:f, s:b, s:s}", "loss", v->best_loss, "accuracy",
                      v->best_accuracy, "best_step", (json_int_t)v->best_step, "last_loss", v->loss,
                      "last_accuracy", v->accuracy, "stopped", (int)v->is_stopped, "published",
                      t->m.validation.is_last ? "last" : "best");
        (void)json_object_set_new(*out, "validation", seen);
    }
    return code;
}

static mq_code publish_one(mq_trainer *t, const char *type, const char *name, const json_t *meta,
                           const char *blob, mq_error *err)
{
    char *text = json_dumps(meta, DUMP_FLAGS);
    if (text == NULL) {
        return mq_fail(err, MQ_E_INTERNAL, "%s meta: no memory for its JSON", type);
    }
    mq_publish publish = {type, name, mq_str(text), &blob, 1};
    mq_code code = t->host->ops->publish(t->host, &publish, err);
    free(text);
    return code;
}

static mq_code set_result(mq_trainer *t, const json_t *result, mq_error *err)
{
    char *text = json_dumps(result, DUMP_FLAGS);
    if (text == NULL) {
        return mq_fail(err, MQ_E_INTERNAL, "result: no memory for its JSON");
    }
    mq_code code = t->host->ops->result(t->host, mq_str(text), err);
    free(text);
    return code;
}

static mq_code publish_all(mq_trainer *t, const char *blob, json_t *meta, mq_error *err)
{
    json_t *result = json_pack("{s:s, s:O, s:s, s:b}", "name", t->m.model, "meta", meta,
                               "fingerprint", t->fingerprint, "reused", 0);
    mq_code code = publish_one(t, "model", t->m.model, meta, blob, err);
    code = code != MQ_OK ? code : publish_one(t, "memo", t->m.hash, result, blob, err);
    code = code != MQ_OK ? code : mq_trainer_remember(t, err);
    code = code != MQ_OK ? code : set_result(t, result, err);
    json_decref(result);
    return code;
}

static const float *best_weights(const mq_trainer *t)
{
    bool has_best = t->state.best != NULL && t->state.record.validated.best_step > 0;
    return has_best ? t->state.best : t->state.weights;
}

mq_code mq_trainer_finish(mq_trainer *t, mq_error *err)
{
    char blob[MQ_SHA256_HEX];
    double accuracy = 0;
    json_t *meta = NULL;
    mq_buf file;
    MQ_ASSERT(t->is_whole);
    mq_buf_init(&file, MQ_MODEL_BYTES_MAX);
    mq_code code = mq_net_params_set(best_weights(t), &t->m.freeze, t->model, err);
    code = code != MQ_OK ? code : mq_model_save(t->model, &file, err);
    code = code != MQ_OK ? code : t->host->ops->blob_put(t->host, mq_buf_span(&file), blob, err);
    code = code != MQ_OK ? code : evaluate(t, &accuracy, err);
    code = code != MQ_OK ? code : make_meta(t, blob, file.len, accuracy, &meta, err);
    code = code != MQ_OK ? code : publish_all(t, blob, meta, err);
    json_decref(meta);
    mq_buf_release(&file);
    return code;
}

/* The registry's answer parsed, or NULL (also when there is none). */
static json_t *ask(mq_trainer *t, const char *what, const char *name)
{
    mq_buf answer;
    mq_buf_init(&answer, META_BYTES_MAX * 2);
    json_t *root = NULL;
    if (t->host->ops->query(t->host, what, name, &answer, NULL) == MQ_OK) {
        root = json_loadb((const char *)answer.data, answer.len, JSON_REJECT_DUPLICATES, NULL);
    }
    mq_buf_release(&answer);
    return root;
}

/* Version of m.model whose file is the blob, looking back from the latest; 0 when there is none. */
static json_int_t version_of(mq_trainer *t, const char *blob)
{
    json_t *latest = ask(t, "model", t->m.model);
    json_int_t version = json_integer_value(json_object_get(latest, "version"));
    json_decref(latest);
    for (int i = 0; i < VERSIONS_SEARCHED_MAX && version > 0; i++, version--) {
        char name[MQ_MANIFEST_NAME_SIZE + 24];
        (void)snprintf(name, sizeof name, "%s@%lld", t->m.model, (long long)version);
        json_t *answer = ask(t, "model", name);
        json_t *meta = json_object_get(answer, "meta");
        const char *found = json_string_value(json_object_get(meta, "blob"));
        bool is_it = found != NULL && strcmp(found, blob) == 0;
        json_decref(answer);
        if (is_it) {
            return version;
        }
    }
    return 0;
}

static mq_code publish_reused(mq_trainer *t, json_t *memo, const char *blob, mq_error *err)
{
    json_t *meta = json_object_get(memo, "meta");
    json_int_t version = version_of(t, blob);
    mq_code code = MQ_OK;
    if (version == 0) {
        code = publish_one(t, "model", t->m.model, meta, blob, err);
    }
    json_t *result = json_pack("{s:s, s:O, s:s, s:b, s:i}", "name", t->m.model, "meta", meta,
                               "fingerprint", t->fingerprint, "reused", 1, "steps_run", 0);
    if (version > 0) {
        (void)json_object_set_new(result, "version", json_integer(version));
    }
    code = code != MQ_OK ? code : set_result(t, result, err);
    json_decref(result);
    return code;
}

mq_code mq_trainer_reuse(mq_trainer *t, bool *is_found, mq_error *err)
{
    *is_found = false;
    if (!t->m.reuse) {
        return MQ_OK;
    }
    json_t *answer = ask(t, "memo", t->m.hash);
    json_t *memo = json_object_get(answer, "meta"), *meta = json_object_get(memo, "meta");
    const char *fingerprint = json_string_value(json_object_get(memo, "fingerprint"));
    const char *blob = json_string_value(json_object_get(meta, "blob"));
    mq_code code = MQ_OK;
    if (fingerprint != NULL && strcmp(fingerprint, t->fingerprint) == 0 && blob != NULL &&
        mq_sha256_is_hex(mq_str(blob))) {
        mq_map_file file;
        *is_found = t->host->ops->blob_open(t->host, blob, &file, NULL) == MQ_OK;
        if (*is_found) {
            mq_map_file_release(&file);
            mq_trainer_log(t, "manifest %.16s was run to its end before; nothing to do", t->m.hash);
            code = publish_reused(t, memo, blob, err);
        }
    }
    json_decref(answer);
    return code;
}

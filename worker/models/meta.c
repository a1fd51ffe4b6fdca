/* The registry's record of a model version; see meta.h. Knows ONNX models and the host, nothing of
 * how a model came to be. */
#include "worker/models/meta.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "shared/base/assert.h"
#include "worker/models/measure.h"

enum { META_BYTES_MAX = 64 << 10, FREE_INPUTS_MAX = 256 };

void mq_model_meta_init(mq_model_meta *meta)
{
    *meta =
        (mq_model_meta){.accuracy = (double)NAN, .loss = (double)NAN, .latency_us = (double)NAN};
}

void mq_model_weights_hash(const mq_model *model, char out[MQ_SHA256_HEX])
{
    mq_sha256 *hash = mq_sha256_new();
    for (uint32_t i = 0; i < model->graph.initializer_count; i++) {
        const mq_init *init = &model->graph.initializers[i];
        const mq_shape *shape = &init->tensor.shape;
        uint8_t head[2 + 8 * MQ_RANK_MAX] = {(uint8_t)init->tensor.dtype, (uint8_t)shape->rank};
        for (int d = 0; d < shape->rank; d++) {
            for (int b = 0; b < 8; b++) {
                head[2 + 8 * d + b] = (uint8_t)((uint64_t)shape->dims[d] >> (8 * b));
            }
        }
        mq_sha256_add(hash, mq_span_of(init->name, strlen(init->name) + 1));
        mq_sha256_add(hash, mq_span_of(head, 2 + 8 * (size_t)shape->rank));
        if (init->tensor.dtype != MQ_DT_STR) {
            mq_sha256_add(hash, mq_span_of(init->tensor.data, init->tensor.bytes));
        }
    }
    uint8_t digest[MQ_SHA256_BYTES];
    mq_sha256_end(hash, digest);
    mq_sha256_hex(digest, out);
}

/* Elements with any bit set; for floats -0 counts as zero as well. */
static size_t nonzero_of(const mq_tensor *t, size_t count)
{
    const uint8_t *at = t->data;
    size_t each = mq_dtype_bytes(t->dtype), found = 0;
    bool is_float = t->dtype == MQ_DT_F32 || t->dtype == MQ_DT_F64 || t->dtype == MQ_DT_F16 ||
                    t->dtype == MQ_DT_BF16;
    for (size_t i = 0; i < count; i++, at += each) {
        unsigned bits = is_float ? at[each - 1] & 0x7fu : at[each - 1];
        for (size_t b = 0; b + 1 < each; b++) {
            bits |= at[b];
        }
        found += bits != 0;
    }
    return found;
}

void mq_model_count(const mq_model *model, size_t *params, size_t *nonzero)
{
    *params = 0;
    *nonzero = 0;
    for (uint32_t i = 0; i < model->graph.initializer_count; i++) {
        const mq_tensor *t = &model->graph.initializers[i].tensor;
        size_t count = 0;
        if (mq_shape_count(&t->shape, &count, NULL) == MQ_OK) {
            *params += count;
            *nonzero += t->dtype == MQ_DT_STR ? count : nonzero_of(t, count);
        }
    }
}

static void add_text(mq_buf *out, const char *key, const char *value)
{
    mq_buf_printf(out, "\"%s\":", key);
    if (value == NULL) {
        mq_buf_add_str(out, "null");
    } else {
        mq_buf_add_json(out, mq_str(value));
    }
    mq_buf_add_str(out, ",");
}

static void add_number(mq_buf *out, const char *key, double value)
{
    if (isfinite(value)) {
        mq_buf_printf(out, "\"%s\":%.9g", key, value);
    } else {
        mq_buf_printf(out, "\"%s\":null", key);
    }
}

static void add_info(mq_buf *out, const mq_value_info *info, bool is_first)
{
    mq_buf_add_str(out, is_first ? "{\"name\":" : ",{\"name\":");
    mq_buf_add_json(out, mq_str(info->name));
    mq_buf_printf(out, ",\"dtype\":\"%s\",\"shape\":", mq_dtype_name(info->dtype));
    if (info->rank < 0) {
        mq_buf_add_str(out, "null}");
        return;
    }
    for (int d = 0; d < info->rank; d++) {
        mq_buf_printf(out, "%s%lld", d == 0 ? "[" : ",", (long long)info->dims[d]);
    }
    mq_buf_add_str(out, info->rank == 0 ? "[]}" : "]}");
}

static void add_signature(mq_buf *out, const mq_model *model)
{
    uint32_t free_inputs[FREE_INPUTS_MAX];
    size_t count = mq_model_free_inputs(model, free_inputs, FREE_INPUTS_MAX);
    mq_buf_add_str(out, "\"inputs\":[");
    for (size_t i = 0; i < count && i < FREE_INPUTS_MAX; i++) {
        add_info(out, &model->graph.inputs[free_inputs[i]], i == 0);
    }
    mq_buf_add_str(out, "],\"outputs\":[");
    for (uint32_t i = 0; i < model->graph.output_count; i++) {
        add_info(out, &model->graph.outputs[i], i == 0);
    }
    mq_buf_add_str(out, "],");
}

mq_code mq_model_meta_write(const mq_model_meta *meta, const mq_model *model, const char *blob,
                            size_t bytes, const char *job_id, mq_buf *out, mq_error *err)
{
    char weights[MQ_SHA256_HEX];
    size_t params, nonzero;
    mq_model_weights_hash(model, weights);
    mq_model_count(model, &params, &nonzero);
    mq_buf_printf(out, "{\"blob\":\"%s\",\"bytes\":%zu,\"params\":%zu,\"nonzero\":%zu,", blob,
                  bytes, params, nonzero);
    add_text(out, "kind", meta->kind == NULL ? "onnx" : meta->kind);
    add_text(out, "parent", meta->parent);
    add_text(out, "pass", meta->pass);
    add_text(out, "job", job_id);
    add_text(out, "dataset", meta->dataset);
    add_text(out, "manifest", meta->manifest);
    add_text(out, "weights_hash", weights);
    mq_buf_add_str(out, "\"metrics\":{");
    add_number(out, "accuracy", meta->accuracy);
    mq_buf_add_str(out, ",");
    add_number(out, "loss", meta->loss);
    mq_buf_add_str(out, "},");
    add_number(out, "latency_us", meta->latency_us);
    mq_buf_add_str(out, ",");
    add_signature(out, model);
    mq_buf_add_str(out, "\"report\":");
    mq_buf_add_span(out, meta->report.len > 0 ? meta->report : mq_str("null"));
    mq_buf_add_str(out, "}");
    return out->is_full
               ? mq_fail(err, MQ_E_LIMIT, "model meta: more than %zu bytes of JSON", out->limit)
               : MQ_OK;
}

mq_code mq_model_publish_blob(mq_host *host, const char *name, const mq_model *model,
                              const char *blob, size_t bytes, const mq_model_meta *given,
                              mq_error *err)
{
    mq_buf text, result;
    mq_model_meta meta = *given;
    if (isnan(meta.latency_us)) {
        meta.latency_us = mq_model_latency_us(model);
    }
    mq_buf_init(&text, META_BYTES_MAX);
    mq_buf_init(&result, META_BYTES_MAX + 1024);
    mq_code code = mq_model_meta_write(&meta, model, blob, bytes, host->job_id, &text, err);
    if (code == MQ_OK) {
        const char *blobs[1] = {blob};
        mq_publish publish = {"model", name, mq_buf_span(&text), blobs, 1};
        code = host->ops->publish(host, &publish, err);
    }
    if (code == MQ_OK) {
        mq_buf_add_str(&result, "{\"name\":");
        mq_buf_add_json(&result, mq_str(name));
        mq_buf_add_str(&result, ",\"meta\":");
        mq_buf_add_span(&result, mq_buf_span(&text));
        mq_buf_add_str(&result, "}");
        MQ_ASSERT(!result.is_full);
        code = host->ops->result(host, mq_buf_span(&result), err);
    }
    mq_buf_release(&text);
    mq_buf_release(&result);
    return code;
}

mq_code mq_model_publish(mq_host *host, const char *name, const mq_model *model,
                         const mq_model_meta *meta, mq_error *err)
{
    char hash[MQ_SHA256_HEX];
    mq_buf file;
    mq_buf_init(&file, MQ_MODEL_BYTES_MAX);
    mq_code code = mq_model_save(model, &file, err);
    if (code == MQ_OK) {
        code = host->ops->blob_put(host, mq_buf_span(&file), hash, err);
    }
    if (code == MQ_OK) {
        code = mq_model_publish_blob(host, name, model, hash, file.len, meta, err);
    }
    mq_buf_release(&file);
    return code;
}

/* Takes what mq_model_ref keeps out of the registry's answer. */
static mq_code parse_answer(mq_model_ref *ref, const char *asked, mq_span answer, mq_error *err)
{
    json_t *root = json_loadb((const char *)answer.data, answer.len, JSON_REJECT_DUPLICATES, NULL);
    const char *name = NULL, *blob = NULL, *kind = "onnx";
    json_int_t version = 0;
    mq_code code = MQ_OK;
    json_t *accuracy = NULL, *metrics = NULL;
    if (root == NULL ||
        json_unpack(root, "{s:s,s:I,s:{s:s,s?s,s?o}}", "name", &name, "version", &version, "meta",
                    "blob", &blob, "kind", &kind, "metrics", &metrics) != 0) {
        code = mq_fail(err, MQ_E_FORMAT,
                       "model %s: the registry's record lacks name, version or "
                       "meta.blob",
                       asked);
    } else if (!mq_sha256_is_hex(mq_str(blob))) {
        code = mq_fail(err, MQ_E_FORMAT, "model %s: meta.blob is not a hash", asked);
    } else {
        snprintf(ref->name, sizeof ref->name, "%s@%lld", name, (long long)version);
        snprintf(ref->blob, sizeof ref->blob, "%s", blob);
        snprintf(ref->kind, sizeof ref->kind, "%s", kind);
        accuracy = json_object_get(metrics, "accuracy");
        ref->accuracy = json_is_number(accuracy) ? json_number_value(accuracy) : (double)NAN;
    }
    json_decref(root);
    return code;
}

mq_code mq_model_ref_open(mq_model_ref *ref, mq_host *host, const char *name, mq_error *err)
{
    mq_buf answer;
    *ref = (mq_model_ref){.accuracy = (double)NAN};
    mq_buf_init(&answer, META_BYTES_MAX + 4096);
    mq_code code = host->ops->query(host, "model", name, &answer, err);
    if (code == MQ_OK) {
        code = parse_answer(ref, name, mq_buf_span(&answer), err);
    }
    mq_buf_release(&answer);
    if (code == MQ_OK) {
        code = host->ops->blob_open(host, ref->blob, &ref->file, err);
    }
    if (code == MQ_OK) {
        code = mq_model_load(&ref->model, ref->file.bytes, 0, err);
        if (code != MQ_OK) {
            return mq_wrap(err, "model %s", ref->name);
        }
    }
    return code;
}

void mq_model_ref_release(mq_model_ref *ref)
{
    mq_model_free(ref->model);
    ref->model = NULL;
    mq_map_file_release(&ref->file);
}

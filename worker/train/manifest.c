/* Reading, checking and hashing of train bodies; see manifest.h. Knows JSON and nothing of nets. */
#include "worker/train/manifest.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/assert.h"
#include "worker/train/fields.h"

/* --- groups of fields --- */

static mq_code check_name(const char *field, const char *name, mq_error *err)
{
    for (const char *c = name; *c != '\0'; c++) {
        bool is_ok = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                     (*c >= '0' && *c <= '9') || (c > name && strchr("._-", *c) != NULL);
        if (!is_ok) {
            return mq_fail(err, MQ_E_ARG,
                           "%s: \"%s\" has a character outside A-Z a-z 0-9 . _ - (or begins with "
                           "one of the last three); give a plain name without a version",
                           field, name);
        }
    }
    return MQ_OK;
}

static mq_code read_names(mq_manifest *m, const json_t *o, mq_error *err)
{
    mq_code code = mq_field_text(o, "model", m->model, sizeof m->model, err);
    code = code != MQ_OK ? code : mq_field_text(o, "data", m->data, sizeof m->data, err);
    code = code != MQ_OK ? code : mq_field_text(o, "eval", m->eval, sizeof m->eval, err);
    if (code != MQ_OK) {
        return code;
    }
    if (m->model[0] == '\0') {
        return mq_fail(err, MQ_E_ARG, "model: missing; name the model that the result becomes");
    }
    if (m->data[0] == '\0') {
        return mq_fail(err, MQ_E_ARG, "data: missing; name the dataset to train on");
    }
    return check_name("model", m->model, err);
}

static mq_code read_init(mq_manifest *m, const json_t *o, mq_error *err)
{
    static const char *const known[] = {"blob", "arch", "head", NULL};
    json_t *init = json_object_get(o, "init");
    if (init == NULL) {
        return MQ_OK;
    }
    bool has_blob = json_object_get(init, "blob") != NULL;
    bool has_arch = json_object_get(init, "arch") != NULL;
    bool has_head = json_object_get(init, "head") != NULL;
    if (json_object_size(init) == 0 || (has_arch && (has_blob || has_head))) {
        return mq_fail(err, MQ_E_ARG,
                       "init: must be {\"blob\":hash} or {\"arch\":text}; the first may have "
                       "\"head\", or it may be alone");
    }
    mq_code code = mq_fields_known(init, "init.", known, err);
    code =
        code != MQ_OK ? code : mq_field_text(init, "arch", m->init_arch, sizeof m->init_arch, err);
    code = code != MQ_OK ? code : mq_field_u32(init, "head", 1, 65536, &m->init_head, err);
    const json_t *blob = json_object_get(init, "blob");
    if (code != MQ_OK || blob == NULL) {
        return code;
    }
    const char *hex = json_string_value(blob);
    if (hex == NULL || !mq_sha256_is_hex(mq_span_of(hex, json_string_length(blob)))) {
        return mq_fail(err, MQ_E_ARG, "init.blob: must be 64 lower-case hex digits");
    }
    memcpy(m->init_blob, hex, MQ_SHA256_HEX);
    return MQ_OK;
}

static mq_code read_split(mq_manifest *m, const json_t *o, mq_error *err)
{
    mq_code code = mq_field_u32(o, "batch", 1, 65536, &m->batch, err);
    code = code != MQ_OK ? code
                         : mq_field_u32(o, "shards", 1, MQ_MANIFEST_SHARDS_MAX, &m->shards, err);
    uint32_t micro = m->shards;
    code = code != MQ_OK ? code
                         : mq_field_u32(o, "micro_batches", 1, MQ_MANIFEST_SHARDS_MAX, &micro, err);
    if (code != MQ_OK) {
        return code;
    }
    if ((m->shards & (m->shards - 1)) != 0) {
        return mq_fail(err, MQ_E_ARG, "shards: %u is not a power of two (1, 2, 4 .. %d)", m->shards,
                       MQ_MANIFEST_SHARDS_MAX);
    }
    if (m->batch % m->shards != 0) {
        return mq_fail(err, MQ_E_ARG, "batch: %u cannot be cut into %u shards; take a multiple",
                       m->batch, m->shards);
    }
    if (micro != m->shards) {
        return mq_fail(err, MQ_E_ARG,
                       "micro_batches: %u differs from shards: %u; micro-batches are the shards, "
                       "so that a pipeline and a gang give the same weights: leave it out",
                       micro, m->shards);
    }
    return MQ_OK;
}

static mq_code read_length(mq_manifest *m, const json_t *o, mq_error *err)
{
    int64_t max_steps = 0;
    mq_code code = mq_field_u32(o, "epochs", 1, 10000, &m->epochs, err);
    code = code != MQ_OK ? code : mq_field_int(o, "seed", 0, INT64_MAX, &m->seed, err);
    code = code != MQ_OK ? code : mq_field_int(o, "max_steps", 0, 1000000000, &max_steps, err);
    m->max_steps = (uint64_t)max_steps;
    return code;
}

static mq_code read_mode(mq_manifest *m, const json_t *o, mq_error *err)
{
    const json_t *v = json_object_get(o, "mode");
    m->stages = 1;
    if (v == NULL || (json_is_string(v) && strcmp(json_string_value(v), "gang") == 0)) {
        return MQ_OK;
    }
    static const char prefix[] = "pipeline:";
    const char *text = json_is_string(v) ? json_string_value(v) : "";
    if (strncmp(text, prefix, sizeof prefix - 1) == 0) {
        const char *digits = text + sizeof prefix - 1;
        char *end = NULL;
        long stages = strtol(digits, &end, 10);
        if (*digits >= '1' && *digits <= '9' && *end == '\0' && stages <= MQ_MANIFEST_STAGES_MAX) {
            m->is_pipeline = true;
            m->stages = (uint32_t)stages;
            return MQ_OK;
        }
    }
    return mq_fail(err, MQ_E_ARG, "mode: must be \"gang\" or \"pipeline:P\" with P in 1..%d",
                   MQ_MANIFEST_STAGES_MAX);
}

static mq_code read_run(mq_manifest *m, const json_t *o, mq_error *err)
{
    static const char *const known[] = {"commit_ms", "progress_ms", "transport", "reuse", NULL};
    static const char *const transports[] = {"auto", "shm", "message", "zmq", NULL};
    json_t *run = json_object_get(o, "run");
    if (run == NULL) {
        return MQ_OK;
    }
    if (!json_is_object(run)) {
        return mq_fail(err, MQ_E_ARG, "run: must be an object");
    }
    uint32_t transport = 0;
    mq_code code = mq_fields_known(run, "run.", known, err);
    code = code != MQ_OK ? code : mq_field_u32(run, "commit_ms", 10, 3600000, &m->commit_ms, err);
    code = code != MQ_OK ? code : mq_field_u32(run, "progress_ms", 0, 60000, &m->progress_ms, err);
    code = code != MQ_OK ? code : mq_field_choice(run, "transport", transports, &transport, err);
    const json_t *reuse = json_object_get(run, "reuse");
    if (code != MQ_OK) {
        return mq_wrap(err, "run");
    }
    if (reuse != NULL && !json_is_boolean(reuse)) {
        return mq_fail(err, MQ_E_ARG, "run.reuse: must be true or false");
    }
    m->reuse = reuse == NULL || json_is_true(reuse);
    m->transport = transport == 0   ? MQ_TRANSPORT_AUTO
                   : transport == 1 ? MQ_TRANSPORT_SHM
                                    : MQ_TRANSPORT_MESSAGE;
    return MQ_OK;
}

/* The fields of this file's readers and those of the recipe, and no others. */
static mq_code check_fields(json_t *o, mq_error *err)
{
    static const char *const own[] = {"model",     "data",   "eval",   "init",          "epochs",
                                      "batch",     "shards", "seed",   "micro_batches", "max_steps",
                                      "mode",      "run",    "freeze", "validation",    "patience",
                                      "min_delta", "last",   "crop",   "shift",         "flip"};
    enum { OWN = sizeof own / sizeof own[0], ALL_MAX = 48 };
    const char *all[ALL_MAX] = {NULL};
    memcpy(all, own, sizeof own);
    for (size_t i = 0; mq_recipe_fields[i] != NULL; i++) {
        MQ_ASSERT(OWN + i + 1 < ALL_MAX);
        all[OWN + i] = mq_recipe_fields[i];
    }
    return mq_fields_known(o, "", all, err);
}

mq_code mq_manifest_parse(mq_manifest *out, mq_span body, mq_error *err)
{
    *out = (mq_manifest){
        .epochs = 5,
        .batch = 256,
        .shards = 8,
        .seed = 1,
        .stages = 1,
        .commit_ms = 2000,
        .progress_ms = 250,
        .reuse = true,
    };
    if (body.len == 0 || body.len > MQ_MANIFEST_BODY_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "body: %zu bytes are outside 1..%d", body.len,
                       MQ_MANIFEST_BODY_MAX);
    }
    json_error_t where;
    json_t *o = json_loadb((const char *)body.data, body.len, JSON_REJECT_DUPLICATES, &where);
    if (o == NULL) {
        return mq_fail(err, MQ_E_FORMAT, "body: no JSON at byte %d: %s", where.position,
                       where.text);
    }
    mq_code code = MQ_OK;
    if (!json_is_object(o)) {
        code = mq_fail(err, MQ_E_FORMAT, "body: must be a JSON object");
    }
    code = code != MQ_OK ? code : check_fields(o, err);
    code = code != MQ_OK ? code : read_names(out, o, err);
    code = code != MQ_OK ? code : read_init(out, o, err);
    code = code != MQ_OK ? code : read_split(out, o, err);
    code = code != MQ_OK ? code : read_length(out, o, err);
    code = code != MQ_OK ? code : mq_recipe_read(&out->recipe, o, err);
    code = code != MQ_OK ? code : mq_freeze_read(&out->freeze, o, err);
    code = code != MQ_OK ? code : mq_validation_read(&out->validation, o, err);
    code = code != MQ_OK ? code : mq_augment_read(&out->augment, o, err);
    code = code != MQ_OK ? code : read_mode(out, o, err);
    code = code != MQ_OK ? code : read_run(out, o, err);
    json_decref(o);
    return code;
}

mq_code mq_manifest_canonical(const mq_manifest *m, mq_buf *out, mq_error *err)
{
    json_t *o = json_pack("{s:s, s:s, s:{s:s}, s:I, s:I, s:I, s:I, s:I}", "data", m->data, "eval",
                          m->eval, "init", "blob", m->init_blob, "epochs", (json_int_t)m->epochs,
                          "batch", (json_int_t)m->batch, "shards", (json_int_t)m->shards, "seed",
                          (json_int_t)m->seed, "max_steps", (json_int_t)m->max_steps);
    if (o != NULL &&
        !(mq_recipe_write(&m->recipe, o) && mq_freeze_write(&m->freeze, o) &&
          mq_validation_write(&m->validation, o) && mq_augment_write(&m->augment, o))) {
        json_decref(o);
        o = NULL;
    }
    char *text = o == NULL ? NULL : json_dumps(o, JSON_SORT_KEYS | JSON_COMPACT);
    bool is_ok = text != NULL && mq_buf_add_str(out, text);
    free(text);
    json_decref(o);
    return is_ok ? MQ_OK : mq_fail(err, MQ_E_LIMIT, "manifest: no memory for its canonical form");
}

bool mq_manifest_continues(const mq_manifest *m)
{
    mq_schedule schedule = m->recipe.schedule.schedule;
    return m->max_steps == 0 && (schedule == MQ_SCHEDULE_CONSTANT || schedule == MQ_SCHEDULE_STEP);
}

static mq_code hash_of(const mq_manifest *m, char out[MQ_SHA256_HEX], mq_error *err)
{
    mq_buf text;
    mq_buf_init(&text, MQ_MANIFEST_BODY_MAX);
    mq_code code = mq_manifest_canonical(m, &text, err);
    if (code == MQ_OK) {
        mq_sha256_hex_of(mq_buf_span(&text), out);
    }
    mq_buf_release(&text);
    return code;
}

mq_code mq_manifest_seal(mq_manifest *m, const char *data, const char *eval, const char *init_blob,
                         mq_error *err)
{
    if (!mq_span_copy(mq_str(data), m->data, sizeof m->data) ||
        !mq_span_copy(mq_str(eval), m->eval, sizeof m->eval)) {
        return mq_fail(err, MQ_E_LIMIT, "data, eval: a resolved name is longer than %d bytes",
                       MQ_MANIFEST_REF_SIZE - 1);
    }
    MQ_ASSERT(mq_sha256_is_hex(mq_str(init_blob)));
    if (m->init_blob != init_blob) {
        (void)mq_span_copy(mq_str(init_blob), m->init_blob, sizeof m->init_blob);
    }
    uint32_t epochs = m->epochs;
    mq_code code = hash_of(m, m->hash, err);
    m->epochs = mq_manifest_continues(m) ? 0 : epochs; /* no manifest has 0 */
    code = code != MQ_OK ? code : hash_of(m, m->family, err);
    m->epochs = epochs;
    return code;
}

mq_code mq_manifest_steps(const mq_manifest *m, uint64_t rows, uint64_t *steps, mq_error *err)
{
    if (rows < m->batch) {
        return mq_fail(err, MQ_E_ARG,
                       "batch: %u is more than the %llu rows of dataset %s; take a smaller batch",
                       m->batch, (unsigned long long)rows, m->data);
    }
    *steps = rows / m->batch * m->epochs;
    if (m->max_steps > 0 && *steps > m->max_steps) {
        *steps = m->max_steps;
    }
    return MQ_OK;
}

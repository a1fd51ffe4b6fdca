/* From a job's body to everything a step needs: names resolved, first model, data, plan, net. Knows
 * no other member. */
#include <stdio.h>

#include "shared/base/assert.h"
#include "worker/models/arch.h"
#include "worker/models/head.h"
#include "worker/models/meta.h"
#include "worker/train/fingerprint.h"
#include "worker/train/train.h"

static const size_t memory_default = (size_t)1 << 30;

/* The name of a dataset with its version, without keeping it open. */
static mq_code resolve(mq_trainer *t, const char *field, const char *name, char *out, size_t size,
                       mq_error *err)
{
    mq_dataset *data;
    mq_code code = mq_dataset_open(&data, t->host, name, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "%s", field);
    }
    bool is_whole = mq_span_copy(mq_str(mq_dataset_facts_of(data)->name), out, size);
    mq_dataset_free(data);
    return is_whole ? MQ_OK
                    : mq_fail(err, MQ_E_LIMIT, "%s: name and version are longer than %zu bytes",
                              field, size - 1);
}

/* Stores the first model as it is now, so that the manifest can name its bytes. */
static mq_code keep_model(mq_trainer *t, mq_error *err)
{
    mq_buf bytes;
    mq_buf_init(&bytes, MQ_MODEL_BYTES_MAX);
    mq_code code = mq_model_save(t->model, &bytes, err);
    code = code != MQ_OK
               ? code
               : t->host->ops->blob_put(t->host, mq_buf_span(&bytes), t->m.init_blob, err);
    mq_buf_release(&bytes);
    return code;
}

/* Builds the architecture and stores it, so that the manifest can name the first weights by hash.
 */
static mq_code build_arch(mq_trainer *t, mq_error *err)
{
    mq_code code = mq_arch_build(&t->model, t->m.init_arch, (uint64_t)t->m.seed, err);
    code = code != MQ_OK ? code : keep_model(t, err);
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "init.arch");
}

static mq_code load_model(mq_trainer *t, mq_error *err)
{
    if (t->m.init_arch[0] != '\0') {
        return build_arch(t, err);
    }
    if (t->m.init_blob[0] == '\0') {
        if (t->host->model_blob == NULL || t->host->model_blob[0] == '\0') {
            return mq_fail(err, MQ_E_ARG,
                           "init: missing, and the job names no model to go on from; give "
                           "{\"arch\":...} or {\"blob\":...}");
        }
        (void)mq_span_copy(mq_str(t->host->model_blob), t->m.init_blob, sizeof t->m.init_blob);
    }
    mq_code code = t->host->ops->blob_open(t->host, t->m.init_blob, &t->init_file, err);
    code = code != MQ_OK ? code : mq_model_load(&t->model, t->init_file.bytes, 0, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "first model %.16s", t->m.init_blob);
    }
    memcpy(t->from_blob, t->m.init_blob, sizeof t->from_blob);
    if (t->m.init_head > 0) {
        code = mq_model_replace_head(t->model, t->m.init_head, (uint64_t)t->m.seed, err);
        code = code != MQ_OK ? code : keep_model(t, err);
    }
    return code;
}

static mq_code check_shapes(const mq_trainer *t, mq_error *err)
{
    const mq_dataset_facts *facts = mq_dataset_facts_of(t->data);
    mq_shape in, out;
    size_t in_count = 0;
    mq_net_input_shape(t->net, &in);
    mq_net_output_shape(t->net, &out);
    mq_code code = mq_shape_count(&in, &in_count, err);
    if (code != MQ_OK) {
        return code;
    }
    const mq_loss_row *loss = mq_loss_of(t->m.recipe.loss.loss);
    bool has_labels = loss->is_value ? facts->y_dtype != MQ_DT_NONE : facts->classes > 0;
    if (!has_labels) {
        return mq_fail(err, MQ_E_ARG, "data: dataset %s has no %s, which loss \"%s\" needs",
                       facts->name, loss->is_value ? "labels" : "class labels", loss->name);
    }
    if (in_count != facts->x_count * t->shard_rows) {
        char model[96], data[96];
        return mq_fail(err, MQ_E_ARG,
                       "data: rows of dataset %s are %s (%zu numbers); the model takes %s for %u "
                       "rows",
                       facts->name, mq_shape_text(&facts->x_shape, data, sizeof data),
                       facts->x_count, mq_shape_text(&in, model, sizeof model), t->shard_rows);
    }
    int64_t width = out.rank > 0 ? out.dims[out.rank - 1] : 1, classes = width == 1 ? 2 : width;
    if (!loss->is_value && classes < facts->classes) {
        return mq_fail(err, MQ_E_ARG,
                       "data: dataset %s has %d classes; the model's output has only %lld",
                       facts->name, facts->classes, (long long)classes);
    }
    return MQ_OK;
}

static mq_code compile(mq_trainer *t, mq_error *err)
{
    t->shard_rows = t->m.batch / t->m.shards;
    mq_net_options options = {
        .rows = t->shard_rows,
        .loss = t->m.recipe.loss,
        .stage_count = 1,
        .shards = t->m.shards,
        .freeze = &t->m.freeze,
        .memory_bytes_max = t->arena.limit_bytes * 4,
    };
    mq_code code = mq_freeze_check(&t->m.freeze, t->model, err);
    code = code != MQ_OK ? code : mq_net_new(&t->net, t->model, &options, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "model");
    }
    if (mq_net_param_total(t->net) == 0) {
        return mq_fail(err, MQ_E_ARG, "model: has no trainable parameters");
    }
    code = mq_augment_check(&t->m.augment, &mq_dataset_facts_of(t->data)->x_shape, err);
    return code != MQ_OK ? code : check_shapes(t, err);
}

/* What validation scores: rows of data, or a dataset whose rows are like those of data. */
static mq_code open_held(mq_trainer *t, mq_error *err)
{
    const mq_dataset_facts *own = mq_dataset_facts_of(t->data);
    mq_permutation_init(&t->split, (uint64_t)t->m.seed, UINT32_MAX - 1, own->rows);
    if (t->m.validation.data[0] == '\0') {
        return MQ_OK;
    }
    mq_code code = mq_dataset_open(&t->held, t->host, t->m.validation.data, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "validation");
    }
    const mq_dataset_facts *facts = mq_dataset_facts_of(t->held);
    if (facts->x_count != own->x_count || facts->classes > own->classes ||
        (facts->y_dtype == MQ_DT_NONE) != (own->y_dtype == MQ_DT_NONE) || facts->rows == 0) {
        return mq_fail(err, MQ_E_ARG,
                       "validation: dataset %s has %llu rows of %zu numbers and %d classes; they "
                       "must be like those of %s: %zu numbers, at most %d classes",
                       facts->name, (unsigned long long)facts->rows, facts->x_count, facts->classes,
                       own->name, own->x_count, own->classes);
    }
    return MQ_OK;
}

static mq_code make_buffers(mq_trainer *t, mq_error *err)
{
    size_t x_count = mq_dataset_facts_of(t->data)->x_count;
    const mq_net_param *params;
    size_t param_count = mq_net_params(t->net, &params);
    t->params = mq_arena_new(&t->arena, mq_state_param, param_count);
    if (t->params == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "memory: no room to list %zu parameters", param_count);
    }
    for (size_t i = 0; i < param_count; i++) {
        t->params[i] = (mq_state_param){{params[i].offset, params[i].count}, params[i].follows};
    }
    mq_code code = mq_state_init(&t->state, &t->arena, t->m.recipe.optimizer,
                                 mq_validation_is_on(&t->m.validation) && !t->m.validation.is_last,
                                 t->params, param_count, err);
    if (code != MQ_OK) {
        return code;
    }
    t->x = mq_arena_new(&t->arena, float, x_count * t->shard_rows);
    t->y = mq_arena_new(&t->arena, mq_label, t->shard_rows);
    t->row = mq_arena_new(&t->arena, float, x_count);
    if (t->x == NULL || t->y == NULL || t->row == NULL) {
        return mq_fail(err, MQ_E_LIMIT,
                       "memory: %u rows of %zu features do not fit in %zu bytes; take a smaller "
                       "batch or more shards",
                       t->shard_rows, x_count, t->arena.limit_bytes);
    }
    return MQ_OK;
}

mq_code mq_trainer_open(mq_trainer *t, mq_host *host, mq_error *err)
{
    size_t memory = host->memory_bytes_max == 0 ? memory_default : host->memory_bytes_max;
    *t = (mq_trainer){.host = host};
    mq_arena_init(&t->arena, memory / 8);
    mq_arena_init(&t->roster, memory / 8 * 3);
    char data[MQ_MANIFEST_REF_SIZE], eval[MQ_MANIFEST_REF_SIZE] = "";
    char data_of_validation[MQ_VALIDATION_REF_SIZE] = "";
    mq_code code = mq_manifest_parse(&t->m, host->body, err);
    code = code != MQ_OK ? code : resolve(t, "data", t->m.data, data, sizeof data, err);
    if (code == MQ_OK && t->m.eval[0] != '\0') {
        code = resolve(t, "eval", t->m.eval, eval, sizeof eval, err);
    }
    if (code == MQ_OK && t->m.validation.data[0] != '\0') {
        code = resolve(t, "validation", t->m.validation.data, data_of_validation,
                       sizeof data_of_validation, err);
        memcpy(t->m.validation.data, data_of_validation, sizeof data_of_validation);
    }
    code = code != MQ_OK ? code : load_model(t, err);
    code = code != MQ_OK ? code : mq_manifest_seal(&t->m, data, eval, t->m.init_blob, err);
    code = code != MQ_OK ? code : mq_dataset_open(&t->data, host, t->m.data, err);
    code = code != MQ_OK ? code
                         : mq_plan_make(&t->plan, &t->m, mq_dataset_facts_of(t->data)->rows, err);
    code = code != MQ_OK ? code : compile(t, err);
    code = code != MQ_OK ? code : open_held(t, err);
    code = code != MQ_OK ? code : make_buffers(t, err);
    if (code == MQ_OK) {
        mq_fingerprint(t->fingerprint);
        t->permutation.epoch = UINT32_MAX;
        if (host->checkpoint_blob != NULL && host->checkpoint_blob[0] != '\0') {
            t->checkpoint_step = host->checkpoint_step;
            (void)mq_span_copy(mq_str(host->checkpoint_blob), t->checkpoint_blob,
                               sizeof t->checkpoint_blob);
        }
    }
    return code;
}

void mq_trainer_close(mq_trainer *t)
{
    mq_net_free(t->net);
    mq_dataset_free(t->held);
    mq_dataset_free(t->data);
    mq_model_free(t->model);
    mq_map_file_release(&t->init_file);
    mq_arena_release(&t->roster);
    mq_arena_release(&t->arena);
}

mq_code mq_trainer_ready(mq_trainer *t, mq_error *err)
{
    if (t->is_whole) {
        return MQ_OK;
    }
    if (t->checkpoint_blob[0] != '\0') {
        mq_map_file file;
        mq_code code = t->host->ops->blob_open(t->host, t->checkpoint_blob, &file, err);
        if (code == MQ_OK) {
            code = mq_state_load(&t->state, &t->m, file.bytes, err);
            mq_map_file_release(&file);
            t->is_whole = code == MQ_OK;
            return code;
        }
        if (code != MQ_E_NOT_FOUND && code != MQ_E_MISSING) {
            return mq_wrap(err, "checkpoint of step %llu", (unsigned long long)t->checkpoint_step);
        }
        mq_trainer_log(t, "checkpoint of step %llu is gone; beginning at step 0",
                       (unsigned long long)t->checkpoint_step);
        t->checkpoint_blob[0] = '\0';
    }
    if (!mq_trainer_continue(t)) {
        mq_net_params_get(t->net, t->state.weights);
        mq_state_begin(&t->state, &t->m);
    }
    t->is_whole = true;
    return MQ_OK;
}

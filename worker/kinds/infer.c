/* Kind "infer": the body is a safetensors file with one tensor per input of the job's model, named
 * as the model names them; the result is a safetensors file with its outputs. The batch dimension
 * may be any size where the model leaves it free. The path is short: parse in place, find the warm
 * session, run, write. */
#include <stdio.h>

#include "shared/base/math.h"
#include "shared/tensor/safetensors.h"
#include "worker/kinds/kind.h"
#include "worker/kinds/session_cache.h"

mq_kind_run mq_kind_run_infer;

enum { INPUTS_MAX = 64, OUTPUTS_MAX = 64, NAME_SHOWN = 64, RESULT_BYTES_MAX = 256 << 20 };
enum { INPUT_BYTES_MAX = 256 << 20 /* copied for alignment, where the job has no limit */ };

/* "float32 [-1,784]" of what the model says. */
static const char *signature(const mq_value_info *info, char *out, size_t size)
{
    mq_shape shape = {info->rank < 0 ? 0 : info->rank, {0}};
    char dims[160];
    memcpy(shape.dims, info->dims, (size_t)shape.rank * sizeof *shape.dims);
    snprintf(out, size, "%s %s", mq_dtype_name(info->dtype),
             info->rank < 0 ? "of any shape" : mq_shape_text(&shape, dims, sizeof dims));
    return out;
}

static bool shape_fits(const mq_value_info *info, const mq_shape *shape)
{
    bool fits = info->rank < 0 || info->rank == shape->rank;
    for (int d = 0; fits && d < info->rank; d++) {
        fits = info->dims[d] < 0 || info->dims[d] == shape->dims[d];
    }
    return fits;
}

static mq_code match_input(const mq_value_info *info, const mq_safetensors *request, mq_tensor *out,
                           mq_error *err)
{
    char want[192], dims[160];
    const mq_tensor *t = mq_safetensors_find(request, mq_str(info->name));
    if (t == NULL) {
        return mq_fail(err, MQ_E_ARG, "input \"%s\": is missing; expected %s", info->name,
                       signature(info, want, sizeof want));
    }
    if (t->dtype != info->dtype || !shape_fits(info, &t->shape)) {
        return mq_fail(err, MQ_E_ARG, "input \"%s\": given %s %s; expected %s", info->name,
                       mq_dtype_name(t->dtype), mq_shape_text(&t->shape, dims, sizeof dims),
                       signature(info, want, sizeof want));
    }
    *out = *t;
    return MQ_OK;
}

/* Names a tensor of the request that the model does not know. */
static mq_code refuse_extra(const mq_value_info *infos, size_t count, const mq_safetensors *request,
                            mq_error *err)
{
    char names[256] = "";
    for (size_t i = 0; i < count; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s\"%s\"", i == 0 ? "" : ", ", infos[i].name);
    }
    for (uint32_t t = 0; t < request->count; t++) {
        mq_span name = request->entries[t].name;
        bool is_known = false;
        for (size_t i = 0; i < count; i++) {
            is_known = is_known || mq_span_is(name, infos[i].name);
        }
        if (!is_known) {
            return mq_fail(err, MQ_E_ARG, "tensor \"%.*s\": is no input of the model; it takes %s",
                           (int)mq_min_size(name.len, NAME_SHOWN), (const char *)name.data, names);
        }
    }
    return MQ_OK;
}

/* Kernels read whole elements: data at odd addresses are copied first. */
static mq_code align_inputs(mq_tensor *inputs, size_t count, mq_arena *arena, mq_error *err)
{
    for (size_t i = 0; i < count; i++) {
        mq_tensor *t = &inputs[i];
        if (((uintptr_t)t->data & (mq_dtype_bytes(t->dtype) - 1)) != 0) {
            t->data = mq_arena_copy(arena, mq_span_of(t->data, t->bytes));
            if (t->data == NULL) {
                return mq_fail(err, MQ_E_LIMIT, "inputs of more than %zu bytes",
                               arena->limit_bytes);
            }
        }
    }
    return MQ_OK;
}

static mq_code give_outputs(mq_host *host, const mq_session *session, const mq_tensor *outputs,
                            mq_error *err)
{
    const mq_value_info *infos;
    mq_st_entry entries[OUTPUTS_MAX];
    size_t count = mq_session_outputs(session, &infos);
    if (count > OUTPUTS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "the model has %zu outputs; the limit is %d", count,
                       OUTPUTS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        if (outputs[i].dtype == MQ_DT_STR) {
            return mq_fail(err, MQ_E_UNSUPPORTED, "output \"%s\": texts cannot be answered",
                           infos[i].name);
        }
        entries[i] = (mq_st_entry){mq_str(infos[i].name), outputs[i]};
    }
    mq_buf out;
    mq_buf_init(&out, RESULT_BYTES_MAX);
    mq_code code = mq_safetensors_write(entries, (uint32_t)count, (mq_span){0}, &out, err);
    if (code == MQ_OK) {
        code = host->ops->result(host, mq_buf_span(&out), err);
    }
    mq_buf_release(&out);
    return code;
}

static mq_code answer(mq_host *host, mq_session *session, const mq_safetensors *request,
                      mq_error *err)
{
    mq_tensor inputs[INPUTS_MAX];
    const mq_value_info *infos;
    const mq_tensor *outputs;
    mq_arena arena;
    size_t count = mq_session_inputs(session, &infos);
    if (count > INPUTS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "the model has %zu inputs; the limit is %d", count,
                       INPUTS_MAX);
    }
    mq_code code = MQ_OK;
    for (size_t i = 0; i < count && code == MQ_OK; i++) {
        code = match_input(&infos[i], request, &inputs[i], err);
    }
    if (code == MQ_OK && request->count != count) {
        code = refuse_extra(infos, count, request, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    mq_arena_init(&arena, host->memory_bytes_max == 0 ? INPUT_BYTES_MAX : host->memory_bytes_max);
    if (!request->is_aligned) {
        code = align_inputs(inputs, count, &arena, err);
    }
    if (code == MQ_OK) {
        code = mq_session_run(session, inputs, count, &outputs, err);
    }
    if (code == MQ_OK) {
        code = give_outputs(host, session, outputs, err);
    }
    mq_arena_release(&arena);
    return code;
}

mq_code mq_kind_run_infer(mq_host *host, mq_error *err)
{
    mq_safetensors request;
    mq_session *session;
    if (host->model_blob[0] == '\0') {
        return mq_fail(err, MQ_E_ARG, "model: is required: name the model to ask");
    }
    mq_code code = mq_safetensors_read(&request, host->body, err);
    if (code == MQ_OK) {
        code = mq_session_cache_get(host, host->model_blob, &session, err);
    } else {
        mq_wrap(err, "body");
    }
    if (code == MQ_OK) {
        code = answer(host, session, &request, err);
    }
    mq_safetensors_release(&request);
    return code;
}

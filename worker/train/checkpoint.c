/* States as safetensors blobs; see state.h. Knows neither when they are saved nor where. */
#include <stdio.h>

#include "shared/tensor/safetensors.h"
#include "worker/train/state.h"

static const char *name_of(const mq_state *state, uint32_t v)
{
    static const char *const names[] = {"weights", "optimizer.1", "optimizer.2"};
    return v <= state->moment_count ? names[v] : "best";
}

mq_code mq_state_save(const mq_state *state, const mq_manifest *m, mq_buf *out, mq_error *err)
{
    char metadata[128];
    (void)snprintf(metadata, sizeof metadata, "{\"format\":\"maasq-train-4\",\"family\":\"%s\"}",
                   m->family);
    int64_t count = (int64_t)state->count;
    mq_record record = state->record;
    mq_st_entry entries[1 + MQ_STATE_VECTORS_MAX] = {
        {mq_str("record"), {MQ_DT_U8, {1, {sizeof(mq_record)}}, &record, sizeof(mq_record)}},
    };
    for (uint32_t v = 0; v < state->vector_count; v++) {
        entries[1 + v] = (mq_st_entry){
            mq_str(name_of(state, v)),
            {MQ_DT_F32, {1, {count}}, state->vectors[v], state->count * sizeof(float)}};
    }
    return mq_safetensors_write(entries, 1 + state->vector_count, mq_str(metadata), out, err);
}

static mq_code take(const mq_safetensors *st, const char *name, mq_dtype dtype, void *out,
                    size_t bytes, mq_error *err)
{
    const mq_tensor *t = mq_safetensors_find(st, mq_str(name));
    if (t == NULL || t->dtype != dtype || t->bytes != bytes) {
        return mq_fail(err, MQ_E_FORMAT,
                       "checkpoint: tensor \"%s\" is missing or is not %zu bytes of %s", name,
                       bytes, mq_dtype_name(dtype));
    }
    memcpy(out, t->data, bytes);
    return MQ_OK;
}

mq_code mq_state_load(mq_state *state, const mq_manifest *m, mq_span bytes, mq_error *err)
{
    mq_safetensors st;
    mq_record record;
    size_t vector = state->count * sizeof(float);
    mq_code code = mq_safetensors_read(&st, bytes, err);
    char wanted[96];
    (void)snprintf(wanted, sizeof wanted, "\"%s\"", m->family);
    if (code == MQ_OK && (st.metadata.len == 0 || memmem(st.metadata.data, st.metadata.len, wanted,
                                                         strlen(wanted)) == NULL)) {
        code = mq_fail(err, MQ_E_CONFLICT,
                       "checkpoint: belongs to another manifest than %.16s...; the dataset, the "
                       "first model or a hyper-parameter changed since it was written",
                       m->family);
    }
    code = code != MQ_OK ? code : take(&st, "record", MQ_DT_U8, &record, sizeof record, err);
    for (uint32_t v = 0; v < state->vector_count && code == MQ_OK; v++) {
        code = take(&st, name_of(state, v), MQ_DT_F32, state->vectors[v], vector, err);
    }
    if (code == MQ_OK && record.curve_count > MQ_CURVE_MAX) {
        code = mq_fail(err, MQ_E_FORMAT, "checkpoint: %u points of the curve; the limit is %d",
                       record.curve_count, MQ_CURVE_MAX);
    }
    if (code == MQ_OK) {
        state->record = record;
    }
    mq_safetensors_release(&st);
    return code;
}

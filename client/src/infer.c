/* Inference requests: tensors in, tensors out, safetensors between. */
#include <stdio.h>
#include <stdlib.h>

#include "client/src/client.h"
#include "shared/base/math.h"
#include "shared/tensor/safetensors.h"

enum { TIMEOUT_MS_MAX = 3600000 };

/* Checks one input; *entry borrows its data and name. */
static mq_code read_input(const maasq_tensor *in, size_t index, mq_st_entry *entry, mq_error *err)
{
    if (memchr(in->name, '\0', sizeof in->name) == NULL) {
        return mq_fail(err, MQ_E_ARG, "inputs[%zu].name: not ended within %d bytes", index,
                       MAASQ_NAME_SIZE);
    }
    if (in->rank < 0 || in->rank > MAASQ_RANK_MAX) {
        return mq_fail(err, MQ_E_ARG, "inputs[%zu].rank: %d is outside 0..%d", index, in->rank,
                       MAASQ_RANK_MAX);
    }
    mq_shape shape = {.rank = in->rank};
    memcpy(shape.dims, in->shape, (size_t)in->rank * sizeof *in->shape);
    entry->name = mq_str(in->name[0] == '\0' ? "input" : in->name);
    if (mq_tensor_of(&entry->tensor, (mq_dtype)in->dtype, &shape, mq_span_of(in->data, in->bytes),
                     err) != MQ_OK) {
        return mq_wrap(err, "inputs[%zu] '%s'", index, in->name);
    }
    return MQ_OK;
}

static mq_code pack(const maasq_tensor *inputs, size_t count, mq_buf *out, mq_error *err)
{
    mq_st_entry entries[MAASQ_TENSORS_MAX];
    if (inputs == NULL || count == 0 || count > MAASQ_TENSORS_MAX) {
        return mq_fail(err, MQ_E_ARG, "inputs: %zu is outside 1..%d", count, MAASQ_TENSORS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        mq_code code = read_input(&inputs[i], i, &entries[i], err);
        if (code != MQ_OK) {
            return code;
        }
    }
    return mq_safetensors_write(entries, (uint32_t)count, (mq_span){0}, out, err);
}

maasq_job *maasq_infer(maasq_client *client, const char *model, const maasq_tensor *inputs,
                       size_t count, int64_t timeout_ms, maasq_done_fn *done, void *arg,
                       maasq_error *err)
{
    mq_error why = {0};
    if (model == NULL || model[0] == '\0') {
        (void)mq_client_fail(err, MQ_E_ARG,
                             "model: empty; name one, as \"m\", \"m@3\", \"m@prod\"");
        return NULL;
    }
    if (timeout_ms < 1 || timeout_ms > TIMEOUT_MS_MAX) {
        (void)mq_client_fail(err, MQ_E_ARG, "timeout_ms: %lld is outside 1..%d",
                             (long long)timeout_ms, TIMEOUT_MS_MAX);
        return NULL;
    }
    mq_buf body;
    mq_buf_init(&body, MQ_PAYLOAD_BYTES_MAX);
    maasq_job *job = NULL;
    if (pack(inputs, count, &body, &why) != MQ_OK) {
        (void)mq_client_error(err, &why);
    } else {
        maasq_spec spec = {.size = sizeof spec,
                           .kind = "infer",
                           .model = model,
                           .body = body.data,
                           .body_bytes = body.len,
                           .durability = MAASQ_TRANSIENT,
                           .ttl_ms = (uint64_t)timeout_ms};
        job = maasq_submit(client, &spec, done, arg, err);
    }
    mq_buf_release(&body);
    return job;
}

static void write_output(const mq_st_entry *entry, maasq_tensor *out)
{
    *out = (maasq_tensor){.dtype = (int)entry->tensor.dtype,
                          .rank = entry->tensor.shape.rank,
                          .data = entry->tensor.data,
                          .bytes = entry->tensor.bytes};
    (void)mq_span_copy(entry->name, out->name, sizeof out->name);
    memcpy(out->shape, entry->tensor.shape.dims, (size_t)out->rank * sizeof *out->shape);
}

int maasq_outputs(const maasq_job *job, maasq_tensor *outputs, size_t max, size_t *count,
                  maasq_error *err)
{
    maasq_view view = {0};
    int code = maasq_result(job, &view, err);
    if (code != MAASQ_OK) {
        return code;
    }
    mq_safetensors st;
    mq_error why = {0};
    if (mq_safetensors_read(&st, mq_span_of(view.data, view.bytes), &why) != MQ_OK) {
        code = mq_client_fail(err, why.code, "result of job %s: %s", maasq_job_id(job), why.text);
    } else {
        for (size_t i = 0; i < st.count && i < max; i++) {
            write_output(&st.entries[i], &outputs[i]); /* data stay in the job's result */
        }
        if (count != NULL) {
            *count = st.count;
        }
    }
    mq_safetensors_release(&st);
    return code;
}

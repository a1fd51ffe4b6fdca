/* OIP responses; see oip.h. */
#include "client/gateway/oip.h"

static const maasq_tensor *find_output(const maasq_tensor *outputs, size_t count, const char *name);
static mq_code write_output(const maasq_tensor *output, bool is_binary, mq_buf *out, mq_error *err);
static bool is_json_type(int dtype);

mq_code mq_oip_write(const mq_oip_request *request, const char *model, const char *version,
                     const maasq_tensor *outputs, size_t count, mq_buf *out, size_t *json_bytes,
                     mq_error *err)
{
    const maasq_tensor *binary[MAASQ_TENSORS_MAX];
    size_t binary_count = 0;
    size_t wanted = request->output_count > 0 ? request->output_count : count;
    *json_bytes = 0;
    mq_buf_add_str(out, "{\"model_name\":");
    mq_buf_add_json(out, mq_str(model));
    if (version[0] != '\0') {
        mq_buf_add_str(out, ",\"model_version\":");
        mq_buf_add_json(out, mq_str(version));
    }
    if (request->id[0] != '\0') {
        mq_buf_add_str(out, ",\"id\":");
        mq_buf_add_json(out, mq_str(request->id));
    }
    mq_buf_add_str(out, ",\"outputs\":[");
    for (size_t i = 0; i < wanted; i++) {
        const mq_oip_output *asked = request->output_count > 0 ? &request->outputs[i] : NULL;
        const maasq_tensor *output =
            asked == NULL ? &outputs[i] : find_output(outputs, count, asked->name);
        bool is_binary = asked == NULL ? request->is_binary : asked->is_binary;
        if (output == NULL) {
            return mq_fail(err, MQ_E_NOT_FOUND, "outputs[%zu].name: the model has no output \"%s\"",
                           i, asked->name);
        }
        mq_buf_add_str(out, i > 0 ? "," : "");
        mq_code code = write_output(output, is_binary, out, err);
        if (code != MQ_OK) {
            return mq_wrap(err, "output %s", output->name);
        }
        if (is_binary) {
            binary[binary_count++] = output;
        }
    }
    mq_buf_add_str(out, "]}");
    if (binary_count > 0) {
        *json_bytes = out->len;
    }
    for (size_t i = 0; i < binary_count; i++) {
        mq_buf_add(out, binary[i]->data, binary[i]->bytes);
    }
    return out->is_full ? mq_fail(err, MQ_E_LIMIT, "answer of more than %zu bytes", out->limit)
                        : MQ_OK;
}

static const maasq_tensor *find_output(const maasq_tensor *outputs, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(outputs[i].name, name) == 0) {
            return &outputs[i];
        }
    }
    return NULL;
}

static mq_code write_output(const maasq_tensor *output, bool is_binary, mq_buf *out, mq_error *err)
{
    mq_dtype dtype = (mq_dtype)output->dtype;
    size_t width = mq_dtype_bytes(dtype);
    if (width == 0 || output->bytes % width != 0) {
        return mq_fail(err, MQ_E_INTERNAL, "%zu bytes of type %d", output->bytes, output->dtype);
    }
    mq_buf_add_str(out, "{\"name\":");
    mq_buf_add_json(out, mq_str(output->name));
    mq_buf_printf(out, ",\"datatype\":\"%s\",\"shape\":[", mq_dtype_oip(dtype));
    for (int i = 0; i < output->rank; i++) {
        mq_buf_printf(out, "%s%lld", i > 0 ? "," : "", (long long)output->shape[i]);
    }
    mq_buf_add_str(out, "]");
    if (is_binary) {
        mq_buf_printf(out, ",\"parameters\":{\"binary_data_size\":%zu}}", output->bytes);
        return MQ_OK;
    }
    if (!is_json_type(output->dtype)) {
        return mq_fail(err, MQ_E_ARG, "is of type %s, which JSON cannot say: ask for binary_data",
                       mq_dtype_oip(dtype));
    }
    mq_buf_add_str(out, ",\"data\":");
    mq_code code = mq_oip_print(dtype, output->data, output->bytes / width, out, err);
    mq_buf_add_str(out, "}");
    return code;
}

static bool is_json_type(int dtype)
{
    return dtype != MAASQ_F16 && dtype != MAASQ_BF16;
}

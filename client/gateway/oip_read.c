/* OIP requests; see oip.h. Unknown members are ignored, as the protocol asks; everything that is
 * read is checked, and what is wrong is named by its place in the JSON. */
#include <stdio.h>

#include "client/gateway/oip.h"

#include "shared/base/math.h"

enum { DEPTH_MAX = 16 };

/* Where a tensor's JSON values go. */
typedef struct filling {
    mq_dtype dtype;
    void *data;
    size_t count; /* elements that the shape wants */
    size_t next;
} filling;

static mq_code read_header(mq_oip_request *out, const json_t *root, mq_error *err);
static mq_code read_parameters(const json_t *owner, const char *what, const json_t **out,
                               mq_error *err);
static mq_code read_flag(const json_t *parameters, const char *key, bool *out, mq_error *err);
static mq_code read_inputs(mq_oip_request *out, mq_arena *arena, const json_t *root, mq_span *raw,
                           mq_error *err);
static mq_code read_input(maasq_tensor *out, mq_arena *arena, const json_t *input, mq_span *raw,
                          mq_error *err);
static mq_code read_outputs(mq_oip_request *out, const json_t *root, mq_error *err);
static mq_code read_name(char out[MAASQ_NAME_SIZE], const json_t *owner, mq_error *err);
static mq_code read_type(maasq_tensor *out, const json_t *input, size_t *count, mq_error *err);
static mq_code take_raw(maasq_tensor *out, const json_t *size, size_t count, mq_span *raw,
                        mq_error *err);
static mq_code take_values(maasq_tensor *out, mq_arena *arena, const json_t *data, size_t count,
                           mq_error *err);
static mq_code fill(filling *to, const json_t *value, int depth, mq_error *err);

mq_code mq_oip_read(mq_oip_request *out, mq_arena *arena, mq_span body, int64_t json_bytes,
                    mq_error *err)
{
    *out = (mq_oip_request){.timeout_ms = MQ_OIP_TIMEOUT_MS};
    if (json_bytes < -1 || json_bytes > (int64_t)body.len) {
        return mq_fail(err, MQ_E_ARG,
                       "Inference-Header-Content-Length: %lld is not within the body of %zu bytes",
                       (long long)json_bytes, body.len);
    }
    mq_span text = json_bytes < 0 ? body : mq_span_of(body.data, (size_t)json_bytes);
    mq_span raw = mq_span_of(body.data + text.len, body.len - text.len);
    json_t *root = mq_json_read(text, err);
    if (root == NULL) {
        return err != NULL ? err->code : MQ_E_FORMAT;
    }
    mq_code code = read_header(out, root, err);
    if (code == MQ_OK) {
        code = read_inputs(out, arena, root, &raw, err);
    }
    if (code == MQ_OK) {
        code = read_outputs(out, root, err);
    }
    if (code == MQ_OK && raw.len > 0) {
        code = mq_fail(err, MQ_E_ARG, "body: %zu bytes follow the last binary tensor", raw.len);
    }
    json_decref(root);
    return code;
}

mq_code mq_oip_read_raw(mq_oip_request *out, mq_span body, const char *name, mq_dtype dtype,
                        const mq_shape *shape, mq_error *err)
{
    *out = (mq_oip_request){.timeout_ms = MQ_OIP_TIMEOUT_MS, .is_binary = true, .input_count = 1};
    maasq_tensor *input = &out->inputs[0];
    size_t row = mq_dtype_bytes(dtype);
    int variable = -1;
    bool is_simple = row > 0;
    for (int i = 0; i < shape->rank; i++) {
        input->shape[i] = shape->dims[i];
        if (shape->dims[i] < 0) {
            is_simple = is_simple && variable < 0;
            variable = i;
        } else {
            is_simple = is_simple && mq_mul_size(row, (size_t)shape->dims[i], &row) && row > 0;
        }
    }
    if (!is_simple) {
        return mq_fail(err, MQ_E_UNSUPPORTED,
                       "raw request: input %s of this model needs JSON to say its shape", name);
    }
    if (body.len % row != 0 || (variable < 0 && body.len != row)) {
        return mq_fail(err, MQ_E_ARG, "raw request: %zu bytes are not %s %zu bytes of input %s",
                       body.len, variable < 0 ? "the" : "a multiple of", row, name);
    }
    if (variable >= 0) {
        input->shape[variable] = (int64_t)(body.len / row);
    }
    input->rank = shape->rank;
    input->dtype = (int)dtype;
    input->data = body.data;
    input->bytes = body.len;
    mq_span_copy(mq_str(name), input->name, sizeof input->name);
    return MQ_OK;
}

json_t *mq_json_read(mq_span text, mq_error *err)
{
    /* jansson takes some 40 bytes of memory a value: count before it does. */
    size_t values = 0;
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];
        values += c == ',' || c == '[' || c == '{' ? 1 : 0;
    }
    if (values > MQ_OIP_VALUES_MAX) {
        mq_fail(err, MQ_E_LIMIT, "JSON: more than %d values: send tensors in binary form",
                MQ_OIP_VALUES_MAX);
        return NULL;
    }
    json_error_t why;
    json_t *root = json_loadb((const char *)text.data, text.len, JSON_REJECT_DUPLICATES, &why);
    if (root == NULL) {
        mq_fail(err, MQ_E_FORMAT, "JSON: line %d, column %d: %s", why.line, why.column, why.text);
    } else if (!json_is_object(root)) {
        mq_fail(err, MQ_E_FORMAT, "JSON: must be an object");
        json_decref(root);
        root = NULL;
    }
    return root;
}

static mq_code read_header(mq_oip_request *out, const json_t *root, mq_error *err)
{
    const json_t *id = json_object_get(root, "id");
    if (id != NULL && (!json_is_string(id) ||
                       !mq_span_copy(mq_str(json_string_value(id)), out->id, sizeof out->id))) {
        return mq_fail(err, MQ_E_ARG, "id: must be text of at most %d bytes", MQ_OIP_ID_SIZE - 1);
    }
    const json_t *parameters;
    mq_code code = read_parameters(root, "parameters", &parameters, err);
    if (code == MQ_OK) {
        code = read_flag(parameters, "binary_data_output", &out->is_binary, err);
    }
    const json_t *timeout = json_object_get(parameters, "timeout");
    if (code == MQ_OK && timeout != NULL) {
        json_int_t us = json_is_integer(timeout) ? json_integer_value(timeout) : -1;
        if (us < 0 || us > (json_int_t)MQ_OIP_TIMEOUT_MS_MAX * 1000) {
            return mq_fail(err, MQ_E_ARG, "parameters.timeout: must be 0..%d microseconds",
                           MQ_OIP_TIMEOUT_MS_MAX * 1000);
        }
        /* 0 is Triton's word for the default; anything below a millisecond still gets one. */
        out->timeout_ms = us == 0 ? MQ_OIP_TIMEOUT_MS : (us + 999) / 1000;
    }
    return code;
}

/* *out: the object, or NULL when there is none. */
static mq_code read_parameters(const json_t *owner, const char *what, const json_t **out,
                               mq_error *err)
{
    *out = json_object_get(owner, "parameters");
    if (*out == NULL) {
        return MQ_OK;
    }
    if (!json_is_object(*out)) {
        return mq_fail(err, MQ_E_ARG, "%s: must be an object", what);
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)*out, key, value)
    {
        if (!json_is_string(value) && !json_is_number(value) && !json_is_boolean(value)) {
            return mq_fail(err, MQ_E_ARG, "%s.%.64s: must be text, a number or true/false", what,
                           key);
        }
    }
    return MQ_OK;
}

static mq_code read_flag(const json_t *parameters, const char *key, bool *out, mq_error *err)
{
    const json_t *value = json_object_get(parameters, key);
    if (value == NULL) {
        return MQ_OK;
    }
    if (!json_is_boolean(value)) {
        return mq_fail(err, MQ_E_ARG, "parameters.%s: must be true or false", key);
    }
    *out = json_is_true(value);
    return MQ_OK;
}

static mq_code read_inputs(mq_oip_request *out, mq_arena *arena, const json_t *root, mq_span *raw,
                           mq_error *err)
{
    const json_t *inputs = json_object_get(root, "inputs");
    size_t count = json_array_size(inputs);
    if (!json_is_array(inputs) || count < 1 || count > MAASQ_TENSORS_MAX) {
        return mq_fail(err, MQ_E_ARG, "inputs: must be a list of 1..%d tensors", MAASQ_TENSORS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        mq_code code = read_input(&out->inputs[i], arena, json_array_get(inputs, i), raw, err);
        if (code != MQ_OK) {
            return mq_wrap(err, "inputs[%zu]", i);
        }
        for (size_t k = 0; k < i; k++) {
            if (strcmp(out->inputs[k].name, out->inputs[i].name) == 0) {
                return mq_fail(err, MQ_E_ARG, "inputs[%zu].name: \"%s\" is there twice", i,
                               out->inputs[i].name);
            }
        }
    }
    out->input_count = (uint32_t)count;
    return MQ_OK;
}

static mq_code read_input(maasq_tensor *out, mq_arena *arena, const json_t *input, mq_span *raw,
                          mq_error *err)
{
    if (!json_is_object(input)) {
        return mq_fail(err, MQ_E_ARG, "must be an object");
    }
    size_t count = 0;
    const json_t *parameters;
    mq_code code = read_name(out->name, input, err);
    if (code == MQ_OK) {
        code = read_type(out, input, &count, err);
    }
    if (code == MQ_OK) {
        code = read_parameters(input, "parameters", &parameters, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    const json_t *data = json_object_get(input, "data");
    const json_t *size = json_object_get(parameters, "binary_data_size");
    if ((data != NULL) == (size != NULL)) {
        return mq_fail(err, MQ_E_ARG,
                       "needs either data or parameters.binary_data_size, and not both");
    }
    return size != NULL ? take_raw(out, size, count, raw, err)
                        : take_values(out, arena, data, count, err);
}

static mq_code read_name(char out[MAASQ_NAME_SIZE], const json_t *owner, mq_error *err)
{
    const char *name = json_string_value(json_object_get(owner, "name"));
    if (name == NULL || name[0] == '\0' || !mq_span_copy(mq_str(name), out, MAASQ_NAME_SIZE)) {
        return mq_fail(err, MQ_E_ARG, "name: must be text of 1..%d bytes", MAASQ_NAME_SIZE - 1);
    }
    return MQ_OK;
}

/* datatype and shape; *count is their number of elements. */
static mq_code read_type(maasq_tensor *out, const json_t *input, size_t *count, mq_error *err)
{
    const char *type = json_string_value(json_object_get(input, "datatype"));
    mq_dtype dtype = type == NULL ? MQ_DT_NONE : mq_dtype_parse_oip(mq_str(type));
    if (dtype == MQ_DT_NONE) {
        return mq_fail(err, MQ_E_ARG,
                       "datatype \"%.32s\": must be FP32, INT64, UINT8 or another of "
                       "the protocol's types",
                       type == NULL ? "" : type);
    }
    if (dtype == MQ_DT_STR) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "datatype BYTES: not served here, send numbers");
    }
    const json_t *dims = json_object_get(input, "shape");
    size_t rank = json_array_size(dims);
    if (!json_is_array(dims) || rank > MAASQ_RANK_MAX) {
        return mq_fail(err, MQ_E_ARG, "shape: must be a list of at most %d sizes", MAASQ_RANK_MAX);
    }
    mq_shape shape = {.rank = (int32_t)rank};
    for (size_t i = 0; i < rank; i++) {
        const json_t *dim = json_array_get(dims, i);
        shape.dims[i] = json_is_integer(dim) ? json_integer_value(dim) : -1;
        out->shape[i] = shape.dims[i];
    }
    mq_code code = mq_shape_count(&shape, count, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "shape");
    }
    if (!mq_mul_size(*count, mq_dtype_bytes(dtype), &out->bytes) ||
        out->bytes > MQ_OIP_TENSOR_BYTES_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "shape: a tensor of more than %d bytes",
                       MQ_OIP_TENSOR_BYTES_MAX);
    }
    out->dtype = (int)dtype;
    out->rank = (int)rank;
    return MQ_OK;
}

static mq_code take_raw(maasq_tensor *out, const json_t *size, size_t count, mq_span *raw,
                        mq_error *err)
{
    json_int_t bytes = json_is_integer(size) ? json_integer_value(size) : -1;
    if (bytes < 0 || (uint64_t)bytes != out->bytes) {
        return mq_fail(err, MQ_E_ARG,
                       "parameters.binary_data_size: must be %zu, the bytes of %zu elements",
                       out->bytes, count);
    }
    if (raw->len < out->bytes) {
        return mq_fail(err, MQ_E_ARG, "the body ends %zu bytes before this tensor does",
                       out->bytes - raw->len);
    }
    out->data = raw->data;
    *raw = mq_span_of(raw->data + out->bytes, raw->len - out->bytes);
    return MQ_OK;
}

static mq_code take_values(maasq_tensor *out, mq_arena *arena, const json_t *data, size_t count,
                           mq_error *err)
{
    mq_dtype dtype = (mq_dtype)out->dtype;
    if (dtype == MQ_DT_F16 || dtype == MQ_DT_BF16) {
        return mq_fail(err, MQ_E_ARG, "datatype %s: only as binary data", mq_dtype_oip(dtype));
    }
    if (!json_is_array(data)) {
        return mq_fail(err, MQ_E_ARG, "data: must be a list");
    }
    void *bytes = mq_arena_alloc(arena, out->bytes > 0 ? out->bytes : 1, 1);
    if (bytes == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "the inputs together have more than %d bytes",
                       MQ_OIP_TENSOR_BYTES_MAX);
    }
    filling to = {dtype, bytes, count, 0};
    mq_code code = fill(&to, data, 0, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "data, element %zu", to.next);
    }
    if (to.next != count) {
        return mq_fail(err, MQ_E_ARG, "data: %zu elements, but the shape has %zu", to.next, count);
    }
    out->data = bytes;
    return MQ_OK;
}

/* Nested lists count like flat ones: the protocol allows both. */
static mq_code fill(filling *to, const json_t *value, int depth, mq_error *err)
{
    size_t count = json_array_size(value);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(value, i);
        mq_code code = MQ_OK;
        if (json_is_array(item)) {
            code = depth + 1 < DEPTH_MAX
                       ? fill(to, item, depth + 1, err)
                       : mq_fail(err, MQ_E_ARG, "lists are nested more than %d deep", DEPTH_MAX);
        } else if (to->next >= to->count) {
            code = mq_fail(err, MQ_E_ARG, "more elements than the %zu of the shape", to->count);
        } else {
            code = mq_oip_store(to->dtype, item, to->data, to->next, err);
            to->next += code == MQ_OK ? 1 : 0;
        }
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

static mq_code read_outputs(mq_oip_request *out, const json_t *root, mq_error *err)
{
    const json_t *outputs = json_object_get(root, "outputs");
    size_t count = json_array_size(outputs);
    if (outputs == NULL) {
        return MQ_OK;
    }
    if (!json_is_array(outputs) || count > MAASQ_TENSORS_MAX) {
        return mq_fail(err, MQ_E_ARG, "outputs: must be a list of at most %d names",
                       MAASQ_TENSORS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *output = json_array_get(outputs, i);
        mq_oip_output *to = &out->outputs[i];
        const json_t *parameters = NULL;
        to->is_binary = out->is_binary;
        mq_code code = read_name(to->name, output, err);
        if (code == MQ_OK) {
            code = read_parameters(output, "parameters", &parameters, err);
        }
        if (code == MQ_OK) {
            code = read_flag(parameters, "binary_data", &to->is_binary, err);
        }
        if (code != MQ_OK) {
            return mq_wrap(err, "outputs[%zu]", i);
        }
    }
    out->output_count = (uint32_t)count;
    return MQ_OK;
}

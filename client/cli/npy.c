/* NPY and JSON tensors; see npy.h. */
#include "client/cli/npy.h"

#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/tensor/tensor.h"

static const struct {
    const char *descr;
    int dtype;
} types[] = {{"<f4", MAASQ_F32}, {"<f8", MAASQ_F64}, {"<f2", MAASQ_F16}, {"|u1", MAASQ_U8},
             {"|i1", MAASQ_I8},  {"<u2", MAASQ_U16}, {"<i2", MAASQ_I16}, {"<u4", MAASQ_U32},
             {"<i4", MAASQ_I32}, {"<u8", MAASQ_U64}, {"<i8", MAASQ_I64}, {"|b1", MAASQ_BOOL}};

enum { TYPE_COUNT = sizeof types / sizeof *types, PREFIX = 10, ALIGN = 64 };

/* Text behind 'key': in the header's dictionary, NULL when it is not there. */
static const char *value_of(const char *header, const char *key)
{
    char quoted[32];
    (void)snprintf(quoted, sizeof quoted, "'%s':", key);
    const char *at = strstr(header, quoted);
    if (at == NULL) {
        return NULL;
    }
    at += strlen(quoted);
    while (*at == ' ') {
        at++;
    }
    return at;
}

static mq_code read_shape(const char *at, maasq_tensor *out, mq_error *err)
{
    if (at == NULL || *at != '(') {
        return mq_fail(err, MQ_E_FORMAT, "NPY header: no shape");
    }
    at++;
    while (*at != ')') {
        char *end = NULL;
        if (out->rank == MAASQ_RANK_MAX) {
            return mq_fail(err, MQ_E_LIMIT, "NPY header: more than %d dimensions", MAASQ_RANK_MAX);
        }
        long long dim = strtoll(at, &end, 10);
        if (end == at || dim < 0 || dim > INT32_MAX) {
            return mq_fail(err, MQ_E_FORMAT, "NPY header: the shape is not a list of sizes");
        }
        out->shape[out->rank++] = dim;
        at = end;
        while (*at == ',' || *at == ' ') {
            at++;
        }
    }
    return MQ_OK;
}

static mq_code read_header(const char *header, maasq_tensor *out, mq_error *err)
{
    const char *descr = value_of(header, "descr");
    const char *order = value_of(header, "fortran_order");
    if (descr == NULL || (*descr != '\'' && *descr != '"')) {
        return mq_fail(err, MQ_E_FORMAT, "NPY header: no descr");
    }
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        size_t len = strlen(types[i].descr);
        if (strncmp(descr + 1, types[i].descr, len) == 0 && descr[1 + len] == descr[0]) {
            out->dtype = types[i].dtype;
        }
    }
    if (out->dtype == 0) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "NPY header: element type %.8s is not supported",
                       descr);
    }
    if (order == NULL || strncmp(order, "False", 5) != 0) {
        return mq_fail(err, MQ_E_UNSUPPORTED,
                       "NPY header: Fortran order is not supported; save it "
                       "with numpy.ascontiguousarray");
    }
    return read_shape(value_of(header, "shape"), out, err);
}

mq_code mq_npy_read(mq_span bytes, maasq_tensor *out, mq_error *err)
{
    *out = (maasq_tensor){0};
    if (bytes.len < PREFIX + 2 || memcmp(bytes.data, "\x93NUMPY", 6) != 0) {
        return mq_fail(err, MQ_E_FORMAT, "no NPY file: it does not begin with \\x93NUMPY");
    }
    bool is_wide = bytes.data[6] >= 2;
    size_t start = is_wide ? 12 : PREFIX;
    size_t len = bytes.data[8] | (size_t)bytes.data[9] << 8;
    len |= is_wide ? (size_t)bytes.data[10] << 16 | (size_t)bytes.data[11] << 24 : 0;
    if (bytes.data[6] < 1 || bytes.data[6] > 3 || len > 65536 || start + len > bytes.len) {
        return mq_fail(err, MQ_E_FORMAT,
                       "NPY file of %zu bytes: its header of %zu bytes from byte %zu "
                       "is truncated",
                       bytes.len, len, start);
    }
    char *header = malloc(len + 1);
    if (header == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory");
    }
    (void)mq_span_copy(mq_span_of(bytes.data + start, len), header, len + 1);
    mq_code code = read_header(header, out, err);
    free(header);
    mq_shape shape = {.rank = out->rank};
    memcpy(shape.dims, out->shape, sizeof out->shape);
    mq_tensor checked;
    mq_span data = mq_span_of(bytes.data + start + len, bytes.len - start - len);
    code = code != MQ_OK ? code : mq_tensor_of(&checked, (mq_dtype)out->dtype, &shape, data, err);
    out->data = data.data;
    out->bytes = data.len;
    return code;
}

mq_code mq_npy_write(const maasq_tensor *tensor, mq_buf *out, mq_error *err)
{
    const char *descr = NULL;
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        descr = types[i].dtype == tensor->dtype ? types[i].descr : descr;
    }
    if (descr == NULL) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "element type %d has no NPY name", tensor->dtype);
    }
    mq_buf header;
    mq_buf_init(&header, 4096);
    mq_buf_printf(&header, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (int i = 0; i < tensor->rank; i++) {
        mq_buf_printf(&header, "%lld,%s", (long long)tensor->shape[i],
                      i + 1 < tensor->rank ? " " : "");
    }
    mq_buf_add_str(&header, "), }");
    while ((PREFIX + header.len + 1) % ALIGN != 0) {
        mq_buf_add_str(&header, " ");
    }
    mq_buf_add_str(&header, "\n");
    uint8_t prefix[PREFIX] = {
        0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)header.len, (uint8_t)(header.len >> 8)};
    bool is_ok = mq_buf_add(out, prefix, sizeof prefix) &&
                 mq_buf_add_span(out, mq_buf_span(&header)) &&
                 mq_buf_add(out, tensor->data, tensor->bytes);
    mq_buf_release(&header);
    return is_ok ? MQ_OK
                 : mq_fail(err, MQ_E_LIMIT, "an NPY file of more than %zu bytes", out->limit);
}

/* ---- JSON ---- */

static bool add_number(double value, int dtype, mq_buf *store)
{
    switch (dtype) {
    case MAASQ_F32:
        return mq_buf_add(store, &(float){(float)value}, sizeof(float));
    case MAASQ_F64:
        return mq_buf_add(store, &value, sizeof value);
    case MAASQ_I32:
        return mq_buf_add(store, &(int32_t){(int32_t)value}, sizeof(int32_t));
    case MAASQ_I64:
        return mq_buf_add(store, &(int64_t){(int64_t)value}, sizeof(int64_t));
    case MAASQ_U8:
        return mq_buf_add(store, &(uint8_t){(uint8_t)value}, sizeof(uint8_t));
    default:
        return false;
    }
}

static bool number_fits(double value, int dtype)
{
    switch (dtype) {
    case MAASQ_I32:
        return value >= INT32_MIN && value <= INT32_MAX;
    case MAASQ_I64:
        return value >= -9.2e18 && value <= 9.2e18;
    case MAASQ_U8:
        return value >= 0 && value <= 255;
    default:
        return true;
    }
}

static mq_code add_lists(const json_t *value, int depth, const maasq_tensor *shape, mq_buf *store,
                         mq_error *err)
{
    if (depth == shape->rank) {
        double number = json_number_value(value);
        if (!json_is_number(value) || !number_fits(number, shape->dtype)) {
            return mq_fail(err, MQ_E_FORMAT,
                           "JSON: at depth %d there is no number that fits the "
                           "input's type; all rows need the same shape",
                           depth);
        }
        return add_number(number, shape->dtype, store)
                   ? MQ_OK
                   : mq_fail(err, MQ_E_LIMIT, "JSON: more than %zu bytes of numbers", store->limit);
    }
    if (!json_is_array(value) || json_array_size(value) != (size_t)shape->shape[depth]) {
        return mq_fail(err, MQ_E_FORMAT,
                       "JSON: lists at depth %d differ in length; the first has %lld", depth,
                       (long long)shape->shape[depth]);
    }
    mq_code code = MQ_OK;
    for (size_t i = 0; code == MQ_OK && i < json_array_size(value); i++) {
        code = add_lists(json_array_get(value, i), depth + 1, shape, store, err);
    }
    return code;
}

mq_code mq_json_tensor(const json_t *lists, int dtype, maasq_tensor *out, mq_buf *store,
                       mq_error *err)
{
    *out = (maasq_tensor){.dtype = dtype};
    if (mq_dtype_bytes((mq_dtype)dtype) == 0 ||
        (dtype != MAASQ_F32 && dtype != MAASQ_F64 && dtype != MAASQ_I32 && dtype != MAASQ_I64 &&
         dtype != MAASQ_U8)) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "JSON numbers for an input of type %s: use NPY",
                       mq_dtype_name((mq_dtype)dtype));
    }
    for (const json_t *at = lists; json_is_array(at); at = json_array_get(at, 0)) {
        if (out->rank == MAASQ_RANK_MAX) {
            return mq_fail(err, MQ_E_LIMIT, "JSON: lists deeper than %d", MAASQ_RANK_MAX);
        }
        out->shape[out->rank++] = (int64_t)json_array_size(at);
    }
    size_t start = store->len;
    mq_code code = add_lists(lists, 0, out, store, err);
    out->data = store->data + start;
    out->bytes = store->len - start;
    return code;
}

size_t mq_tensor_count(const maasq_tensor *tensor)
{
    size_t count = 1;
    for (int i = 0; i < tensor->rank; i++) {
        count *= (size_t)tensor->shape[i];
    }
    return count;
}

#define READ(type)                                                                                 \
    {                                                                                              \
        type value;                                                                                \
        memcpy(&value, (const uint8_t *)tensor->data + i * sizeof value, sizeof value);            \
        return (double)value;                                                                      \
    }

double mq_tensor_number(const maasq_tensor *tensor, size_t i)
{
    switch (tensor->dtype) {
    case MAASQ_F32:
        READ(float)
    case MAASQ_F64:
        READ(double)
    case MAASQ_U8:
    case MAASQ_BOOL:
        READ(uint8_t)
    case MAASQ_I8:
        READ(int8_t)
    case MAASQ_U16:
        READ(uint16_t)
    case MAASQ_I16:
        READ(int16_t)
    case MAASQ_I32:
        READ(int32_t)
    case MAASQ_I64:
        READ(int64_t)
    case MAASQ_U32:
        READ(uint32_t)
    case MAASQ_U64:
        READ(uint64_t)
    default:
        return 0;
    }
}

static json_t *lists_of(const maasq_tensor *tensor, int depth, size_t *at)
{
    if (depth == tensor->rank) {
        double value = mq_tensor_number(tensor, (*at)++);
        bool is_real = tensor->dtype == MAASQ_F32 || tensor->dtype == MAASQ_F64;
        json_t *real = is_real ? json_real(value) : json_integer((json_int_t)value);
        return real != NULL ? real : json_null(); /* JSON has no infinity */
    }
    json_t *list = json_array();
    for (int64_t i = 0; i < tensor->shape[depth]; i++) {
        (void)json_array_append_new(list, lists_of(tensor, depth + 1, at));
    }
    return list;
}

json_t *mq_tensor_json(const maasq_tensor *tensor)
{
    if (tensor->dtype == MAASQ_F16 || tensor->dtype == MAASQ_BF16) {
        return NULL;
    }
    size_t at = 0;
    return lists_of(tensor, 0, &at);
}

/* Element types and checked shapes; see tensor.h. */
#include "shared/tensor/tensor.h"

#include <stdio.h>

#include "shared/base/math.h"

typedef struct dtype_row {
    mq_dtype dtype;
    size_t bytes;
    const char *names[3]; /* by dialect */
} dtype_row;

enum { TEXT, SAFETENSORS, OIP };

static const dtype_row rows[] = {
#define MQ_DTYPE(name, text, bytes, onnx, safetensors, oip)                                        \
    {MQ_DT_##name, bytes, {text, safetensors, oip}},
#include "shared/tensor/dtype.def"
#undef MQ_DTYPE
};

enum { ROW_COUNT = sizeof rows / sizeof rows[0] };

static const dtype_row none = {MQ_DT_NONE, 0, {"none", "", ""}};

static const dtype_row *row_of(mq_dtype dtype)
{
    for (int i = 0; i < ROW_COUNT; i++) {
        if (rows[i].dtype == dtype) {
            return &rows[i];
        }
    }
    return &none;
}

size_t mq_dtype_bytes(mq_dtype dtype)
{
    return row_of(dtype)->bytes;
}

const char *mq_dtype_name(mq_dtype dtype)
{
    return row_of(dtype)->names[TEXT];
}

const char *mq_dtype_safetensors(mq_dtype dtype)
{
    return row_of(dtype)->names[SAFETENSORS];
}

const char *mq_dtype_oip(mq_dtype dtype)
{
    return row_of(dtype)->names[OIP];
}

static mq_dtype parse(mq_span text, int dialect)
{
    for (int i = 0; i < ROW_COUNT && text.len > 0; i++) {
        if (mq_span_is(text, rows[i].names[dialect])) {
            return rows[i].dtype;
        }
    }
    return MQ_DT_NONE;
}

mq_dtype mq_dtype_parse(mq_span text)
{
    return parse(text, TEXT);
}

mq_dtype mq_dtype_parse_safetensors(mq_span text)
{
    return parse(text, SAFETENSORS);
}

mq_dtype mq_dtype_parse_oip(mq_span text)
{
    return parse(text, OIP);
}

mq_code mq_shape_count(const mq_shape *shape, size_t *out, mq_error *err)
{
    if (shape->rank < 0 || shape->rank > MQ_RANK_MAX) {
        return mq_fail(err, MQ_E_ARG, "rank %d is outside 0..%d", shape->rank, MQ_RANK_MAX);
    }
    size_t count = 1;
    for (int i = 0; i < shape->rank; i++) {
        int64_t dim = shape->dims[i];
        if (dim < 0 || dim > MQ_DIM_MAX) {
            return mq_fail(err, MQ_E_ARG, "dimension %d is %lld, outside 0..%lld", i,
                           (long long)dim, (long long)MQ_DIM_MAX);
        }
        if (!mq_mul_size(count, (size_t)dim, &count)) {
            return mq_fail(err, MQ_E_ARG, "the product of the dimensions overflows");
        }
    }
    *out = count;
    return MQ_OK;
}

bool mq_shape_eq(const mq_shape *a, const mq_shape *b)
{
    return a->rank == b->rank && memcmp(a->dims, b->dims, (size_t)a->rank * sizeof a->dims[0]) == 0;
}

char *mq_shape_text(const mq_shape *shape, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < shape->rank && used < size; i++) {
        used += (size_t)snprintf(out + used, size - used, "%s%lld", i == 0 ? "" : ",",
                                 (long long)shape->dims[i]);
    }
    if (used < size) {
        snprintf(out + used, size - used, "]");
    }
    return out;
}

mq_code mq_tensor_of(mq_tensor *out, mq_dtype dtype, const mq_shape *shape, mq_span data,
                     mq_error *err)
{
    size_t count, bytes;
    mq_code code = mq_shape_count(shape, &count, err);
    if (code != MQ_OK) {
        return code;
    }
    size_t each = mq_dtype_bytes(dtype);
    if (each == 0) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "element type %d has no fixed size", (int)dtype);
    }
    if (!mq_mul_size(count, each, &bytes) || bytes != data.len) {
        char text[128];
        return mq_fail(err, MQ_E_FORMAT, "%zu bytes where %s of %s needs %zu", data.len,
                       mq_dtype_name(dtype), mq_shape_text(shape, text, sizeof text), count * each);
    }
    *out = (mq_tensor){dtype, *shape, (void *)(uintptr_t)data.data, data.len};
    return MQ_OK;
}

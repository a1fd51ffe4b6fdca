/* Elements of OIP tensors: JSON to bytes and bytes to JSON. Every value is checked against its
 * type; nothing is rounded into range. */
#include <limits.h>
#include <math.h>

#include "client/gateway/oip.h"

#include "shared/base/assert.h"

static mq_code store_integer(mq_dtype dtype, const json_t *value, void *data, size_t index,
                             mq_error *err);
static bool print_one(mq_dtype dtype, const void *data, size_t i, mq_buf *out);

mq_code mq_oip_store(mq_dtype dtype, const json_t *value, void *data, size_t index, mq_error *err)
{
    if (dtype == MQ_DT_BOOL) {
        if (!json_is_boolean(value)) {
            return mq_fail(err, MQ_E_ARG, "must be true or false");
        }
        ((uint8_t *)data)[index] = json_is_true(value) ? 1 : 0;
        return MQ_OK;
    }
    if (dtype != MQ_DT_F32 && dtype != MQ_DT_F64) {
        return store_integer(dtype, value, data, index, err);
    }
    if (!json_is_number(value)) {
        return mq_fail(err, MQ_E_ARG, "must be a number");
    }
    double number = json_number_value(value);
    if (dtype == MQ_DT_F64) {
        ((double *)data)[index] = number;
        return MQ_OK;
    }
    float small = (float)number;
    if (!isfinite(small)) {
        return mq_fail(err, MQ_E_ARG, "%g does not fit FP32", number);
    }
    ((float *)data)[index] = small;
    return MQ_OK;
}

static mq_code store_integer(mq_dtype dtype, const json_t *value, void *data, size_t index,
                             mq_error *err)
{
    if (!json_is_integer(value)) {
        return mq_fail(err, MQ_E_ARG, "must be an integer without fraction or exponent");
    }
    json_int_t n = json_integer_value(value);
    json_int_t min = 0;
    json_int_t max = LLONG_MAX;
    switch (mq_dtype_bytes(dtype)) {
    case 1:
        max = dtype == MQ_DT_U8 ? UINT8_MAX : INT8_MAX;
        break;
    case 2:
        max = dtype == MQ_DT_U16 ? UINT16_MAX : INT16_MAX;
        break;
    case 4:
        max = dtype == MQ_DT_U32 ? UINT32_MAX : INT32_MAX;
        break;
    default:
        break;
    }
    if (dtype == MQ_DT_I8 || dtype == MQ_DT_I16 || dtype == MQ_DT_I32 || dtype == MQ_DT_I64) {
        min = -max - 1;
    }
    if (n < min || n > max) {
        return mq_fail(err, MQ_E_ARG, "%lld does not fit %s (%lld..%lld)", (long long)n,
                       mq_dtype_oip(dtype), (long long)min, (long long)max);
    }
    /* Little-endian machines only, like all of this system's tensors: the low bytes come first. */
    size_t width = mq_dtype_bytes(dtype);
    memcpy((uint8_t *)data + index * width, &n, width);
    return MQ_OK;
}

mq_code mq_oip_print(mq_dtype dtype, const void *data, size_t count, mq_buf *out, mq_error *err)
{
    bool is_finite = true;
    mq_buf_add_str(out, "[");
    for (size_t i = 0; i < count && is_finite; i++) {
        if (i > 0) {
            mq_buf_add_str(out, ",");
        }
        is_finite = print_one(dtype, data, i, out);
    }
    mq_buf_add_str(out, "]");
    if (!is_finite) {
        return mq_fail(err, MQ_E_ARG,
                       "holds NaN or infinity, which JSON cannot say: ask for binary_data");
    }
    if (out->is_full) {
        return mq_fail(err, MQ_E_LIMIT, "answer of more than %zu bytes: ask for binary_data",
                       out->limit);
    }
    return MQ_OK;
}

/* False when the element is not finite. FP32 with 9 and FP64 with 17 digits read back as they were.
 */
static bool print_one(mq_dtype dtype, const void *data, size_t i, mq_buf *out)
{
    switch (dtype) {
    case MQ_DT_F32: {
        double x = (double)((const float *)data)[i];
        mq_buf_printf(out, "%.9g", x);
        return isfinite(x);
    }
    case MQ_DT_F64: {
        double x = ((const double *)data)[i];
        mq_buf_printf(out, "%.17g", x);
        return isfinite(x);
    }
    case MQ_DT_BOOL:
        return mq_buf_add_str(out, ((const uint8_t *)data)[i] != 0 ? "true" : "false") || true;
    case MQ_DT_U4:
    case MQ_DT_U8:
        return mq_buf_printf(out, "%u", ((const uint8_t *)data)[i]) || true;
    case MQ_DT_I4:
    case MQ_DT_I8:
        return mq_buf_printf(out, "%d", ((const int8_t *)data)[i]) || true;
    case MQ_DT_U16:
        return mq_buf_printf(out, "%u", ((const uint16_t *)data)[i]) || true;
    case MQ_DT_I16:
        return mq_buf_printf(out, "%d", ((const int16_t *)data)[i]) || true;
    case MQ_DT_U32:
        return mq_buf_printf(out, "%u", ((const uint32_t *)data)[i]) || true;
    case MQ_DT_I32:
        return mq_buf_printf(out, "%d", ((const int32_t *)data)[i]) || true;
    case MQ_DT_U64:
        return mq_buf_printf(out, "%llu", (unsigned long long)((const uint64_t *)data)[i]) || true;
    case MQ_DT_I64:
        return mq_buf_printf(out, "%lld", (long long)((const int64_t *)data)[i]) || true;
    case MQ_DT_NONE:
    case MQ_DT_STR:
    case MQ_DT_F16:
    case MQ_DT_BF16:
        break;
    }
    MQ_ASSERT(false); /* the caller writes these types as binary only */
    return false;
}

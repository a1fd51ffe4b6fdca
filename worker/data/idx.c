/* Format "idx", as MNIST is published in:
 *
 *   00 00 TT DD | DD sizes of 4 bytes, big-endian | numbers, big-endian, row-major
 *
 * TT: 08 uint8, 09 int8, 0B int16, 0C int32, 0D float32, 0E float64.
 * (http://yann.lecun.com/exdb/mnist, "the IDX file format".) */
#include "shared/base/math.h"
#include "worker/data/import.h"

static bool detect(mq_span bytes);
static mq_code parse(mq_span bytes, mq_array *out, mq_error *err);

const mq_format mq_format_idx = {.name = "idx", .detect = detect, .parse = parse};

enum { MAGIC_BYTES = 4, DIM_BYTES = 4 };

static mq_dtype dtype_of(uint8_t code)
{
    switch (code) {
    case 0x08:
        return MQ_DT_U8;
    case 0x09:
        return MQ_DT_I8;
    case 0x0B:
        return MQ_DT_I16;
    case 0x0C:
        return MQ_DT_I32;
    case 0x0D:
        return MQ_DT_F32;
    case 0x0E:
        return MQ_DT_F64;
    default:
        return MQ_DT_NONE;
    }
}

static bool detect(mq_span bytes)
{
    return bytes.len >= MAGIC_BYTES && bytes.data[0] == 0 && bytes.data[1] == 0 &&
           dtype_of(bytes.data[2]) != MQ_DT_NONE && bytes.data[3] >= 1 &&
           bytes.data[3] <= MQ_RANK_MAX;
}

static mq_code parse(mq_span bytes, mq_array *out, mq_error *err)
{
    char text[128];
    const uint8_t *b = bytes.data;
    if (bytes.len < MAGIC_BYTES) {
        return mq_fail(err, MQ_E_FORMAT, "IDX header is cut: %zu bytes, at least %d expected",
                       bytes.len, MAGIC_BYTES);
    }
    if (!detect(bytes)) {
        return mq_fail(err, MQ_E_FORMAT,
                       "byte 0: %02x %02x %02x %02x is no IDX magic; expected 00 00, a type of 08, "
                       "09, 0b, 0c, 0d, 0e, and 01..08 dimensions",
                       b[0], b[1], b[2], b[3]);
    }
    *out = (mq_array){.dtype = dtype_of(b[2]), .is_big_endian = true, .shape = {b[3], {0}}};
    size_t header = MAGIC_BYTES + DIM_BYTES * (size_t)b[3], count, need;
    if (bytes.len < header) {
        return mq_fail(err, MQ_E_FORMAT,
                       "IDX header is cut: %zu bytes, %zu expected for %d "
                       "dimensions",
                       bytes.len, header, b[3]);
    }
    for (int d = 0; d < b[3]; d++) {
        const uint8_t *at = b + MAGIC_BYTES + DIM_BYTES * d;
        out->shape.dims[d] = (int64_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
    }
    mq_error cause;
    if (mq_shape_count(&out->shape, &count, &cause) != MQ_OK) {
        return mq_fail(err, MQ_E_FORMAT, "IDX header: %s", cause.text);
    }
    if (!mq_mul_size(count, mq_dtype_bytes(out->dtype), &need) || need != bytes.len - header) {
        return mq_fail(err, MQ_E_FORMAT,
                       "%s of %s needs %zu bytes behind the header of %zu; there are %zu: the file "
                       "is cut or has something behind its end",
                       mq_dtype_name(out->dtype), mq_shape_text(&out->shape, text, sizeof text),
                       count * mq_dtype_bytes(out->dtype), header, bytes.len - header);
    }
    out->data = mq_span_of(b + header, need);
    return MQ_OK;
}

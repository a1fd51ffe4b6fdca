/* Protobuf wire format, reading by cursor and writing into a buffer. Knows nothing of ONNX. */
#include "worker/onnx/pb.h"

#include <stdio.h>

#include "shared/base/assert.h"

enum { VARINT_BYTES_MAX = 10 };

mq_pb mq_pb_of(mq_span file, mq_error *err)
{
    const uint8_t *end = file.len == 0 ? file.data : file.data + file.len;
    return (mq_pb){.base = file.data, .at = file.data, .end = end, .code = MQ_OK, .err = err};
}

mq_pb mq_pb_nested(const mq_pb *parent, const mq_pb_field *field)
{
    MQ_ASSERT(field->wire == MQ_PB_BYTES);
    return (mq_pb){.base = parent->base,
                   .at = field->bytes.data,
                   .end = field->bytes.data + field->bytes.len,
                   .code = MQ_OK,
                   .err = parent->err};
}

bool mq_pb_fail(mq_pb *pb, size_t offset, mq_code code, const char *fmt, ...)
{
    if (pb->code == MQ_OK) {
        char text[MQ_ERROR_TEXT_MAX];
        va_list args;
        va_start(args, fmt);
        vsnprintf(text, sizeof text, fmt, args);
        va_end(args);
        pb->code = mq_fail(pb->err, code, "offset %zu: %s", offset, text);
    }
    return false;
}

bool mq_pb_varint(const uint8_t **at, const uint8_t *end, uint64_t *out)
{
    uint64_t value = 0;
    for (int i = 0; i < VARINT_BYTES_MAX && *at + i < end; i++) {
        uint8_t byte = (*at)[i];
        if (i == VARINT_BYTES_MAX - 1 && byte > 1) {
            return false;
        }
        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            *at += i + 1;
            *out = value;
            return true;
        }
    }
    return false;
}

static bool read_fixed(mq_pb *pb, size_t bytes, mq_pb_field *field)
{
    if ((size_t)(pb->end - pb->at) < bytes) {
        return mq_pb_fail(pb, field->offset, MQ_E_FORMAT, "field %u is cut off", field->number);
    }
    for (size_t i = 0; i < bytes; i++) {
        field->value |= (uint64_t)pb->at[i] << (8 * i);
    }
    pb->at += bytes;
    return true;
}

static bool read_bytes(mq_pb *pb, mq_pb_field *field)
{
    uint64_t len;
    if (!mq_pb_varint(&pb->at, pb->end, &len)) {
        return mq_pb_fail(pb, field->offset, MQ_E_FORMAT,
                          "field %u: its length is cut off or overlong", field->number);
    }
    size_t left = (size_t)(pb->end - pb->at);
    if (len > left) {
        return mq_pb_fail(pb, field->offset, MQ_E_FORMAT,
                          "field %u says %llu bytes where %zu are left", field->number,
                          (unsigned long long)len, left);
    }
    field->bytes = mq_span_of(pb->at, (size_t)len);
    pb->at += len;
    return true;
}

bool mq_pb_next(mq_pb *pb, mq_pb_field *field)
{
    if (pb->code != MQ_OK || pb->at == pb->end) {
        return false;
    }
    *field = (mq_pb_field){.offset = (size_t)(pb->at - pb->base)};
    uint64_t tag;
    if (!mq_pb_varint(&pb->at, pb->end, &tag) || tag > UINT32_MAX || tag >> 3 == 0) {
        return mq_pb_fail(pb, field->offset, MQ_E_FORMAT, "no valid field tag");
    }
    field->number = (uint32_t)(tag >> 3);
    uint32_t wire = (uint32_t)tag & 7;
    field->wire = (mq_pb_wire)wire;
    if (wire == MQ_PB_VARINT) {
        if (!mq_pb_varint(&pb->at, pb->end, &field->value)) {
            return mq_pb_fail(pb, field->offset, MQ_E_FORMAT,
                              "field %u: varint is cut off or overlong", field->number);
        }
        return true;
    }
    if (wire == MQ_PB_BYTES) {
        return read_bytes(pb, field);
    }
    if (wire == MQ_PB_FIXED64 || wire == MQ_PB_FIXED32) {
        return read_fixed(pb, wire == MQ_PB_FIXED64 ? 8 : 4, field);
    }
    return mq_pb_fail(pb, field->offset, MQ_E_FORMAT, "field %u has wire type %u, which ends here",
                      field->number, wire);
}

bool mq_pb_want(mq_pb *pb, const mq_pb_field *field, mq_pb_wire wire, const char *what)
{
    if (field->wire == wire) {
        return true;
    }
    return mq_pb_fail(pb, field->offset, MQ_E_FORMAT, "%s has wire type %d where %d is due", what,
                      (int)field->wire, (int)wire);
}

void mq_pb_put_varint(mq_buf *buf, uint64_t value)
{
    uint8_t bytes[VARINT_BYTES_MAX];
    size_t n = 0;
    while (value >= 0x80) {
        bytes[n++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    bytes[n++] = (uint8_t)value;
    mq_buf_add(buf, bytes, n);
}

static void put_tag(mq_buf *buf, uint32_t number, mq_pb_wire wire)
{
    mq_pb_put_varint(buf, (uint64_t)number << 3 | (uint64_t)wire);
}

void mq_pb_put_int(mq_buf *buf, uint32_t number, int64_t value)
{
    put_tag(buf, number, MQ_PB_VARINT);
    mq_pb_put_varint(buf, (uint64_t)value);
}

void mq_pb_put_float(mq_buf *buf, uint32_t number, float value)
{
    put_tag(buf, number, MQ_PB_FIXED32);
    mq_buf_add(buf, &value, sizeof value);
}

void mq_pb_put_bytes(mq_buf *buf, uint32_t number, mq_span bytes)
{
    put_tag(buf, number, MQ_PB_BYTES);
    mq_pb_put_varint(buf, bytes.len);
    mq_buf_add_span(buf, bytes);
}

void mq_pb_put_str(mq_buf *buf, uint32_t number, const char *text)
{
    mq_pb_put_bytes(buf, number, mq_str(text));
}

size_t mq_pb_begin(mq_buf *buf, uint32_t number)
{
    put_tag(buf, number, MQ_PB_BYTES);
    return buf->len;
}

void mq_pb_end(mq_buf *buf, size_t begin)
{
    if (buf->is_full) {
        return;
    }
    size_t len = buf->len - begin;
    size_t width = 1;
    for (uint64_t rest = len; rest >= 0x80; rest >>= 7) {
        width++;
    }
    if (mq_buf_extend(buf, width) == NULL) {
        return;
    }
    memmove(buf->data + begin + width, buf->data + begin, len);
    uint64_t rest = len;
    for (size_t i = 0; i < width; i++) {
        buf->data[begin + i] = (uint8_t)((rest & 0x7f) | (i + 1 < width ? 0x80 : 0));
        rest >>= 7;
    }
}

/* The protobuf wire format (protobuf.dev/programming-guides/encoding), as far as ONNX needs it: a
 * cursor that never copies and never reads past its end, and a writer into mq_buf. Every field is
 * length-checked before it is looked at; errors say the offset from the start of the file. */
#ifndef MQ_WORKER_ONNX_PB_H
#define MQ_WORKER_ONNX_PB_H

#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/span.h"

typedef enum mq_pb_wire {
    MQ_PB_VARINT = 0,
    MQ_PB_FIXED64 = 1,
    MQ_PB_BYTES = 2,
    MQ_PB_FIXED32 = 5,
} mq_pb_wire;

/* A message being read. code is sticky: after an error next() says false for ever. */
typedef struct mq_pb {
    const uint8_t *base; /* start of the file, for offsets */
    const uint8_t *at;
    const uint8_t *end;
    mq_code code;
    mq_error *err;
} mq_pb;

typedef struct mq_pb_field {
    uint32_t number;
    mq_pb_wire wire;
    uint64_t value; /* VARINT, FIXED64, FIXED32 */
    mq_span bytes;  /* BYTES, borrowed from the file */
    size_t offset;  /* of the field's tag */
} mq_pb_field;

mq_pb mq_pb_of(mq_span file, mq_error *err);

/* Reader of a nested message; base and err are the parent's. */
mq_pb mq_pb_nested(const mq_pb *parent, const mq_pb_field *field);

/* Next field; false at the end and on an error (look at pb->code). */
bool mq_pb_next(mq_pb *pb, mq_pb_field *field);

/* True when the field has that wire type, else the error says so. what: "NodeProto.name". */
bool mq_pb_want(mq_pb *pb, const mq_pb_field *field, mq_pb_wire wire, const char *what);

/* Fails the reader: "offset N: text". Returns false. */
bool mq_pb_fail(mq_pb *pb, size_t offset, mq_code code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* A varint in the middle of packed data; moves at. False: cut off or longer than 64 bits. */
bool mq_pb_varint(const uint8_t **at, const uint8_t *end, uint64_t *out);

/* --- writing; a full buffer is seen by its sticky flag --- */

void mq_pb_put_varint(mq_buf *buf, uint64_t value);
void mq_pb_put_int(mq_buf *buf, uint32_t number, int64_t value);
void mq_pb_put_float(mq_buf *buf, uint32_t number, float value);
void mq_pb_put_bytes(mq_buf *buf, uint32_t number, mq_span bytes);
void mq_pb_put_str(mq_buf *buf, uint32_t number, const char *text);

/* A nested message of unknown length: begin, write its fields, end. The length is put in
 * afterwards, moving the message by the bytes its length takes. */
size_t mq_pb_begin(mq_buf *buf, uint32_t number);
void mq_pb_end(mq_buf *buf, size_t begin);

#endif

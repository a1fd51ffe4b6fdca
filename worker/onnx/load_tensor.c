/* TensorProto to mq_init: borrows raw_data and packed little-endian lists where their bytes already
 * are the tensor, decodes everything else into the arena. */
#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/onnx/build.h"

/* Field numbers of TensorProto. */
enum {
    DIMS = 1,
    DATA_TYPE = 2,
    SEGMENT = 3,
    FLOAT_DATA = 4,
    INT32_DATA = 5,
    STRING_DATA = 6,
    INT64_DATA = 7,
    NAME = 8,
    RAW_DATA = 9,
    DOUBLE_DATA = 10,
    UINT64_DATA = 11,
    EXTERNAL_DATA = 13,
    DATA_LOCATION = 14,
};

/* What the first pass finds. */
typedef struct scan {
    mq_init *out;
    mq_arena *arena;
    mq_span raw;
    mq_span packed;  /* the last packed list seen */
    uint32_t listed; /* field number of typed data, 0 = none */
    uint32_t chunks; /* fields of typed data */
    size_t elements; /* in typed data */
    int64_t elem_type;
    bool has_raw, is_external;
    size_t offset;
} scan;

static mq_pb_wire wire_of(uint32_t number)
{
    return number == FLOAT_DATA    ? MQ_PB_FIXED32
           : number == DOUBLE_DATA ? MQ_PB_FIXED64
           : number == STRING_DATA ? MQ_PB_BYTES
                                   : MQ_PB_VARINT;
}

/* Field in which typed data of this element type lies. */
static uint32_t list_of(mq_dtype dtype)
{
    switch ((int)dtype) {
    case MQ_DT_F32:
        return FLOAT_DATA;
    case MQ_DT_F64:
        return DOUBLE_DATA;
    case MQ_DT_I64:
        return INT64_DATA;
    case MQ_DT_U32:
    case MQ_DT_U64:
        return UINT64_DATA;
    case MQ_DT_STR:
        return STRING_DATA;
    default:
        return INT32_DATA;
    }
}

static size_t fixed_bytes(uint32_t number)
{
    return number == FLOAT_DATA ? 4 : number == DOUBLE_DATA ? 8 : 0;
}

/* Elements of one typed field, packed or not. */
static bool count_elements(mq_pb *pb, const mq_pb_field *field, size_t *out)
{
    if (field->wire != MQ_PB_BYTES || field->number == STRING_DATA) {
        *out = 1;
        return mq_pb_want(pb, field, wire_of(field->number), "TensorProto data");
    }
    size_t each = fixed_bytes(field->number);
    if (each != 0) {
        *out = field->bytes.len / each;
        return field->bytes.len % each == 0 ||
               mq_pb_fail(pb, field->offset, MQ_E_FORMAT, "TensorProto data: a value is cut off");
    }
    size_t count = 0;
    for (size_t i = 0; i < field->bytes.len; i++) {
        count += field->bytes.data[i] < 0x80;
    }
    *out = count;
    return true;
}

static bool add_dim(mq_pb *pb, scan *s, size_t offset, uint64_t dim)
{
    mq_shape *shape = &s->out->tensor.shape;
    if (shape->rank == MQ_RANK_MAX) {
        return mq_pb_fail(pb, offset, MQ_E_LIMIT, "TensorProto.dims: rank above %d", MQ_RANK_MAX);
    }
    if (dim > (uint64_t)MQ_DIM_MAX) {
        return mq_pb_fail(pb, offset, MQ_E_FORMAT, "TensorProto.dims: %lld is outside 0..%lld",
                          (long long)dim, (long long)MQ_DIM_MAX);
    }
    shape->dims[shape->rank++] = (int64_t)dim;
    return true;
}

static bool scan_dims(mq_pb *pb, scan *s, const mq_pb_field *field)
{
    if (field->wire != MQ_PB_BYTES) {
        return mq_pb_want(pb, field, MQ_PB_VARINT, "TensorProto.dims") &&
               add_dim(pb, s, field->offset, field->value);
    }
    const uint8_t *at = field->bytes.data, *end = at + field->bytes.len;
    while (at < end) {
        uint64_t dim;
        if (!mq_pb_varint(&at, end, &dim)) {
            return mq_pb_fail(pb, field->offset, MQ_E_FORMAT, "TensorProto.dims: bad varint");
        }
        if (!add_dim(pb, s, field->offset, dim)) {
            return false;
        }
    }
    return true;
}

static bool scan_list(mq_pb *pb, scan *s, const mq_pb_field *field)
{
    size_t n;
    if (!count_elements(pb, field, &n)) {
        return false;
    }
    if (s->listed != 0 && s->listed != field->number) {
        return mq_pb_fail(pb, field->offset, MQ_E_FORMAT, "TensorProto: data in two kinds of list");
    }
    if (n > 0) {
        s->listed = field->number;
        s->elements += n;
        s->packed = field->bytes;
        s->chunks++;
    }
    return true;
}

static bool scan_field(mq_pb *pb, scan *s, const mq_pb_field *field)
{
    switch (field->number) {
    case DIMS:
        return scan_dims(pb, s, field);
    case DATA_TYPE:
        s->elem_type = (int64_t)field->value;
        return mq_pb_want(pb, field, MQ_PB_VARINT, "TensorProto.data_type");
    case NAME:
        s->out->name = mq_read_name(pb, s->arena, field, "TensorProto.name");
        return s->out->name != NULL;
    case RAW_DATA:
        s->raw = field->bytes;
        s->has_raw = field->bytes.len > 0 || s->has_raw;
        return mq_pb_want(pb, field, MQ_PB_BYTES, "TensorProto.raw_data");
    case SEGMENT:
        return mq_pb_fail(pb, field->offset, MQ_E_UNSUPPORTED,
                          "TensorProto.segment: tensors in segments are not supported");
    case EXTERNAL_DATA:
        s->is_external = true;
        return true;
    case DATA_LOCATION:
        s->is_external = s->is_external || field->value == 1;
        return mq_pb_want(pb, field, MQ_PB_VARINT, "TensorProto.data_location");
    case FLOAT_DATA:
    case INT32_DATA:
    case STRING_DATA:
    case INT64_DATA:
    case DOUBLE_DATA:
    case UINT64_DATA:
        return scan_list(pb, s, field);
    default:
        return true;
    }
}

/* Does an int32_data (or uint64_data) value fit the element type? */
static bool fits(mq_dtype dtype, int64_t v)
{
    switch ((int)dtype) {
    case MQ_DT_U8:
        return v >= 0 && v <= UINT8_MAX;
    case MQ_DT_I8:
        return v >= INT8_MIN && v <= INT8_MAX;
    case MQ_DT_U16:
    case MQ_DT_F16:
    case MQ_DT_BF16:
        return v >= 0 && v <= UINT16_MAX;
    case MQ_DT_I16:
        return v >= INT16_MIN && v <= INT16_MAX;
    case MQ_DT_BOOL:
        return v == 0 || v == 1;
    case MQ_DT_U32:
        return v >= 0 && v <= UINT32_MAX;
    case MQ_DT_I32:
        return v >= INT32_MIN && v <= INT32_MAX;
    default:
        return true;
    }
}

static bool put_value(mq_pb *pb, scan *s, size_t offset, size_t *index, uint64_t value)
{
    mq_tensor *t = &s->out->tensor;
    size_t each = mq_dtype_bytes(t->dtype);
    if (!fits(t->dtype, (int64_t)value)) {
        return mq_pb_fail(pb, offset, MQ_E_FORMAT, "TensorProto data: %lld does not fit %s",
                          (long long)value, mq_dtype_name(t->dtype));
    }
    MQ_ASSERT((*index + 1) * each <= t->bytes);
    memcpy((uint8_t *)t->data + *index * each, &value, each); /* little-endian: low bytes first */
    (*index)++;
    return true;
}

static bool decode_list(mq_pb *pb, scan *s, const mq_pb_field *field, size_t *index)
{
    mq_tensor *t = &s->out->tensor;
    if (field->number == STRING_DATA) {
        ((mq_span *)t->data)[(*index)++] = field->bytes;
        return true;
    }
    if (field->wire != MQ_PB_BYTES) {
        return put_value(pb, s, field->offset, index, field->value);
    }
    if (fixed_bytes(field->number) != 0) {
        memcpy((uint8_t *)t->data + *index * fixed_bytes(field->number), field->bytes.data,
               field->bytes.len);
        *index += field->bytes.len / fixed_bytes(field->number);
        return true;
    }
    const uint8_t *at = field->bytes.data, *end = at + field->bytes.len;
    while (at < end) {
        uint64_t value;
        if (!mq_pb_varint(&at, end, &value)) {
            return mq_pb_fail(pb, field->offset, MQ_E_FORMAT, "TensorProto data: bad varint");
        }
        if (!put_value(pb, s, field->offset, index, value)) {
            return false;
        }
    }
    return true;
}

/* Second pass over a tensor whose element count is already known to be right. */
static void decode(mq_pb *pb, scan *s, mq_pb again)
{
    mq_tensor *t = &s->out->tensor;
    size_t each = t->dtype == MQ_DT_STR ? sizeof(mq_span) : mq_dtype_bytes(t->dtype);
    t->bytes = s->elements * each;
    t->data = mq_arena_alloc(s->arena, s->elements, each);
    if (t->data == NULL) {
        mq_read_full(pb, s->offset);
        return;
    }
    s->out->is_owned = t->dtype != MQ_DT_STR;
    size_t index = 0;
    mq_pb_field field;
    while (pb->code == MQ_OK && mq_pb_next(&again, &field)) {
        if (field.number == s->listed && !decode_list(pb, s, &field, &index)) {
            return;
        }
    }
    MQ_ASSERT(index == s->elements);
}

/* Four-bit integers: two a byte, in raw_data or in the values of int32_data, become one a byte. */
static void unpack_nibbles(mq_pb *pb, scan *s, mq_pb again, size_t count)
{
    mq_tensor *t = &s->out->tensor;
    size_t pairs = count / 2 + count % 2;
    if ((s->has_raw ? s->raw.len : s->elements) != pairs) {
        mq_pb_fail(pb, s->offset, MQ_E_FORMAT, "tensor '%s': %zu pairs where its shape needs %zu",
                   s->out->name, s->has_raw ? s->raw.len : s->elements, pairs);
        return;
    }
    mq_dtype dtype = t->dtype;
    const uint8_t *in = s->raw.data;
    if (!s->has_raw) {
        t->dtype = MQ_DT_U8; /* as which the pairs are read */
        decode(pb, s, again);
        t->dtype = dtype;
        in = t->data;
    }
    uint8_t *out = pb->code == MQ_OK ? mq_arena_alloc(s->arena, count, 1) : NULL;
    if (out == NULL) {
        mq_read_full(pb, s->offset);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        uint8_t half = i % 2 == 0 ? in[i / 2] & 15 : in[i / 2] >> 4;
        out[i] = dtype == MQ_DT_U4 ? half : (uint8_t)((half ^ 8) - 8);
    }
    t->data = out;
    t->bytes = count;
    s->out->is_owned = true;
}

static void place_data(mq_pb *pb, scan *s, mq_pb again)
{
    mq_tensor *t = &s->out->tensor;
    size_t count, bytes;
    mq_error why;
    if (mq_shape_count(&t->shape, &count, &why) != MQ_OK) {
        mq_pb_fail(pb, s->offset, MQ_E_FORMAT, "tensor '%s': %s", s->out->name, why.text);
    } else if (s->has_raw && s->listed != 0) {
        mq_pb_fail(pb, s->offset, MQ_E_FORMAT, "tensor '%s': raw_data and a typed list as well",
                   s->out->name);
    } else if (s->listed != 0 && s->listed != list_of(t->dtype)) {
        mq_pb_fail(pb, s->offset, MQ_E_FORMAT, "tensor '%s': its data is in the wrong list for %s",
                   s->out->name, mq_dtype_name(t->dtype));
    } else if (t->dtype == MQ_DT_U4 || t->dtype == MQ_DT_I4) {
        unpack_nibbles(pb, s, again, count);
        return;
    } else if (s->has_raw || t->dtype != MQ_DT_STR) {
        size_t each = mq_dtype_bytes(t->dtype);
        if (!mq_mul_size(count, each == 0 ? 1 : each, &bytes)) {
            bytes = SIZE_MAX;
        }
        if (s->has_raw && (each == 0 || s->raw.len != bytes)) {
            mq_pb_fail(pb, s->offset, MQ_E_FORMAT,
                       "tensor '%s': %zu bytes where its shape needs %zu", s->out->name, s->raw.len,
                       bytes);
            return;
        }
        t->bytes = bytes;
        t->data = (void *)(uintptr_t)s->raw.data;
    }
    if (pb->code != MQ_OK || s->has_raw) {
        return;
    }
    if (s->elements != count) {
        mq_pb_fail(pb, s->offset, MQ_E_FORMAT, "tensor '%s': %zu values where its shape needs %zu",
                   s->out->name, s->elements, count);
    } else if (s->chunks == 1 && s->packed.len == t->bytes && fixed_bytes(s->listed) != 0) {
        t->data = (void *)(uintptr_t)s->packed.data;
    } else {
        decode(pb, s, again);
    }
}

void mq_read_tensor(mq_pb *pb, mq_arena *arena, mq_init *out)
{
    *out = (mq_init){.name = ""};
    scan s = {.out = out, .arena = arena, .offset = (size_t)(pb->at - pb->base)};
    mq_pb again = *pb;
    mq_pb_field field;
    while (mq_pb_next(pb, &field) && scan_field(pb, &s, &field)) {
    }
    if (pb->code != MQ_OK) {
        return;
    }
    if (s.is_external) {
        mq_pb_fail(pb, s.offset, MQ_E_UNSUPPORTED,
                   "tensor '%s': its data is in another file (external data); save the model with "
                   "its weights inside",
                   out->name);
        return;
    }
    out->tensor.dtype = (mq_dtype)s.elem_type;
    if (s.elem_type < 0 || s.elem_type > 1000 ||
        (mq_dtype_bytes(out->tensor.dtype) == 0 && out->tensor.dtype != MQ_DT_STR)) {
        mq_pb_fail(pb, s.offset, MQ_E_UNSUPPORTED,
                   "tensor '%s': element type %lld is not supported", out->name,
                   (long long)s.elem_type);
        return;
    }
    place_data(pb, &s, again);
}

mq_code mq_tensor_proto_load(mq_arena *arena, mq_span bytes, mq_init *out, mq_error *err)
{
    mq_pb pb = mq_pb_of(bytes, err);
    mq_read_tensor(&pb, arena, out);
    return pb.code;
}

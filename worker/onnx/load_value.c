/* ValueInfoProto: name, type and shape of a value; and the text fields that every message has. */
#include "worker/onnx/build.h"

static bool is_utf8_tail(const uint8_t *p, size_t left, size_t n)
{
    for (size_t i = 1; i <= n; i++) {
        if (i >= left || (p[i] & 0xc0) != 0x80) {
            return false;
        }
    }
    return true;
}

bool mq_is_name(mq_span s)
{
    for (size_t i = 0; i < s.len;) {
        const uint8_t *p = s.data + i;
        size_t left = s.len - i;
        size_t tail = p[0] < 0x80 ? 0 : p[0] < 0xe0 ? 1 : p[0] < 0xf0 ? 2 : 3;
        bool ok = p[0] != 0 && (p[0] < 0x80 || (p[0] >= 0xc2 && p[0] <= 0xf4)) &&
                  is_utf8_tail(p, left, tail);
        if (ok && tail > 1) { /* overlong forms, surrogates, above U+10FFFF */
            ok = !(p[0] == 0xe0 && p[1] < 0xa0) && !(p[0] == 0xed && p[1] >= 0xa0) &&
                 !(p[0] == 0xf0 && p[1] < 0x90) && !(p[0] == 0xf4 && p[1] >= 0x90);
        }
        if (!ok) {
            return false;
        }
        i += tail + 1;
    }
    return true;
}

bool mq_read_full(mq_pb *pb, size_t offset)
{
    return mq_pb_fail(pb, offset, MQ_E_LIMIT, "the model needs more memory than its limit allows");
}

const char *mq_read_name(mq_pb *pb, mq_arena *arena, const mq_pb_field *field, const char *what)
{
    if (!mq_pb_want(pb, field, MQ_PB_BYTES, what)) {
        return NULL;
    }
    if (field->bytes.len > MQ_MODEL_NAME_BYTES_MAX) {
        mq_pb_fail(pb, field->offset, MQ_E_LIMIT, "%s: %zu bytes, limit %d", what, field->bytes.len,
                   MQ_MODEL_NAME_BYTES_MAX);
        return NULL;
    }
    if (!mq_is_name(field->bytes)) {
        mq_pb_fail(pb, field->offset, MQ_E_FORMAT, "%s: not UTF-8 text without NUL", what);
        return NULL;
    }
    const char *name = mq_arena_str(arena, field->bytes);
    if (name == NULL) {
        mq_read_full(pb, field->offset);
    }
    return name;
}

bool mq_read_join(mq_pb *pb, const mq_pb *nested)
{
    pb->code = nested->code;
    return pb->code == MQ_OK;
}

static bool read_dim(mq_pb *pb, mq_loader *l, mq_value_info *info)
{
    int64_t dim = -1;
    const char *symbol = NULL;
    mq_pb_field f;
    while (mq_pb_next(pb, &f)) {
        if (f.number == 1) {
            if (!mq_pb_want(pb, &f, MQ_PB_VARINT, "Dimension.dim_value")) {
                return false;
            }
            dim = (int64_t)f.value < 0 ? -1 : (int64_t)f.value;
            if (dim > MQ_DIM_MAX) {
                return mq_pb_fail(pb, f.offset, MQ_E_LIMIT, "Dimension.dim_value: above %lld",
                                  (long long)MQ_DIM_MAX);
            }
        } else if (f.number == 2) {
            symbol = mq_read_name(pb, &l->model->arena, &f, "Dimension.dim_param");
            if (symbol == NULL) {
                return false;
            }
        }
    }
    if (pb->code == MQ_OK) {
        info->dims[info->rank] = dim;
        info->dim_names[info->rank++] = symbol;
    }
    return pb->code == MQ_OK;
}

static bool read_shape(mq_pb *pb, mq_loader *l, mq_value_info *info)
{
    info->rank = 0;
    mq_pb_field f;
    while (mq_pb_next(pb, &f)) {
        if (f.number != 1) {
            continue;
        }
        if (info->rank == MQ_RANK_MAX) {
            return mq_pb_fail(pb, f.offset, MQ_E_LIMIT, "value '%s': rank above %d", info->name,
                              MQ_RANK_MAX);
        }
        if (!mq_pb_want(pb, &f, MQ_PB_BYTES, "TensorShapeProto.dim")) {
            return false;
        }
        mq_pb dim = mq_pb_nested(pb, &f);
        read_dim(&dim, l, info);
        if (!mq_read_join(pb, &dim)) {
            return false;
        }
    }
    return pb->code == MQ_OK;
}

static bool read_tensor_type(mq_pb *pb, mq_loader *l, mq_value_info *info)
{
    mq_pb_field f;
    while (mq_pb_next(pb, &f)) {
        if (f.number == 1) {
            if (!mq_pb_want(pb, &f, MQ_PB_VARINT, "TypeProto.Tensor.elem_type")) {
                return false;
            }
            mq_dtype dtype = f.value > 1000 ? MQ_DT_NONE : (mq_dtype)f.value;
            bool is_known = dtype == MQ_DT_STR || mq_dtype_bytes(dtype) != 0;
            info->dtype = is_known ? dtype : MQ_DT_NONE;
        } else if (f.number == 2) {
            if (!mq_pb_want(pb, &f, MQ_PB_BYTES, "TypeProto.Tensor.shape")) {
                return false;
            }
            mq_pb shape = mq_pb_nested(pb, &f);
            read_shape(&shape, l, info);
            if (!mq_read_join(pb, &shape)) {
                return false;
            }
        }
    }
    return pb->code == MQ_OK;
}

static bool read_type(mq_pb *pb, mq_loader *l, mq_value_info *info)
{
    mq_pb_field f;
    while (mq_pb_next(pb, &f)) {
        if (f.number == 1) { /* tensor_type; sequences, maps and optionals leave dtype NONE */
            if (!mq_pb_want(pb, &f, MQ_PB_BYTES, "TypeProto.tensor_type")) {
                return false;
            }
            mq_pb type = mq_pb_nested(pb, &f);
            read_tensor_type(&type, l, info);
            if (!mq_read_join(pb, &type)) {
                return false;
            }
        }
    }
    return pb->code == MQ_OK;
}

bool mq_read_value_info(mq_pb *pb, mq_loader *l, mq_value_info *info)
{
    *info = (mq_value_info){.name = "", .rank = -1};
    mq_pb_field f;
    while (mq_pb_next(pb, &f)) {
        if (f.number == 1) {
            info->name = mq_read_name(pb, &l->model->arena, &f, "ValueInfoProto.name");
            if (info->name == NULL) {
                info->name = "";
                return false;
            }
        } else if (f.number == 2) {
            if (!mq_pb_want(pb, &f, MQ_PB_BYTES, "ValueInfoProto.type")) {
                return false;
            }
            mq_pb type = mq_pb_nested(pb, &f);
            read_type(&type, l, info);
            if (!mq_read_join(pb, &type)) {
                return false;
            }
        }
    }
    return pb->code == MQ_OK;
}

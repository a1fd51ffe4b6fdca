/* AttributeProto: one value of eight kinds. Lists are read in two passes, counted and then filled.
 */
#include "worker/onnx/build.h"

/* Elements of a repeated float, int64 or bytes field of an attribute. */
static size_t list_count(const mq_pb_field *f)
{
    if (f->wire != MQ_PB_BYTES || f->number == 9) {
        return 1;
    }
    if (f->number == 7) {
        return f->bytes.len / sizeof(float);
    }
    size_t count = 0;
    for (size_t i = 0; i < f->bytes.len; i++) {
        count += f->bytes.data[i] < 0x80;
    }
    return count;
}

static bool fill_floats(mq_pb *pb, const mq_pb_field *f, float *out)
{
    if (f->wire == MQ_PB_BYTES) {
        if (f->bytes.len % sizeof(float) != 0) {
            return mq_pb_fail(pb, f->offset, MQ_E_FORMAT, "AttributeProto.floats is cut off");
        }
        memcpy(out, f->bytes.data, f->bytes.len);
        return true;
    }
    uint32_t bits = (uint32_t)f->value;
    memcpy(out, &bits, sizeof bits);
    return mq_pb_want(pb, f, MQ_PB_FIXED32, "AttributeProto.floats");
}

static bool fill_ints(mq_pb *pb, const mq_pb_field *f, int64_t *out)
{
    if (f->wire != MQ_PB_BYTES) {
        *out = (int64_t)f->value;
        return mq_pb_want(pb, f, MQ_PB_VARINT, "AttributeProto.ints");
    }
    const uint8_t *at = f->bytes.data, *end = at + f->bytes.len;
    while (at < end) {
        uint64_t value;
        if (!mq_pb_varint(&at, end, &value)) {
            return mq_pb_fail(pb, f->offset, MQ_E_FORMAT, "AttributeProto.ints: bad varint");
        }
        *out++ = (int64_t)value;
    }
    return true;
}

/* Second pass: the lists, whose lengths the first pass counted. */
static bool read_lists(mq_pb *pb, mq_pb again, mq_loader *l, mq_attr *attr, const size_t counts[3])
{
    mq_arena *arena = &l->model->arena;
    size_t offset = (size_t)(again.at - again.base), done[3] = {0};
    float *floats = mq_arena_new(arena, float, counts[0] + 1); /* an empty list is a place too */
    int64_t *ints = mq_arena_new(arena, int64_t, counts[1] + 1);
    mq_span *strings = mq_arena_new(arena, mq_span, counts[2] + 1);
    if (floats == NULL || ints == NULL || strings == NULL) {
        return mq_read_full(pb, offset);
    }
    mq_pb_field f;
    while (mq_pb_next(&again, &f)) {
        bool ok = true;
        if (f.number == 7) {
            ok = fill_floats(pb, &f, floats + done[0]);
        } else if (f.number == 8) {
            ok = fill_ints(pb, &f, ints + done[1]);
        } else if (f.number == 9) {
            strings[done[2]] = f.bytes;
            ok = mq_pb_want(pb, &f, MQ_PB_BYTES, "AttributeProto.strings");
        }
        if (!ok) {
            return false;
        }
        if (f.number >= 7 && f.number <= 9) {
            done[f.number - 7] += list_count(&f);
        }
    }
    attr->floats = floats;
    attr->ints = ints;
    attr->strings = strings;
    return true;
}

static bool read_attr_tensor(mq_pb *pb, mq_loader *l, const mq_pb_field *f, mq_attr *attr)
{
    if (!mq_pb_want(pb, f, MQ_PB_BYTES, "AttributeProto.t")) {
        return false;
    }
    mq_init *tensor = mq_arena_new(&l->model->arena, mq_init, 1);
    if (tensor == NULL) {
        return mq_read_full(pb, f->offset);
    }
    mq_pb nested = mq_pb_nested(pb, f);
    mq_read_tensor(&nested, &l->model->arena, tensor);
    attr->tensor = tensor;
    return mq_read_join(pb, &nested);
}

static bool read_attr_graph(mq_pb *pb, mq_loader *l, const mq_pb_field *f, mq_attr *attr)
{
    if (!mq_pb_want(pb, f, MQ_PB_BYTES, "AttributeProto.g")) {
        return false;
    }
    if (attr->graph != NULL) {
        return mq_pb_fail(pb, f->offset, MQ_E_FORMAT, "AttributeProto.g is given twice");
    }
    attr->graph = mq_arena_new(&l->model->arena, mq_graph, 1);
    if (attr->graph == NULL) {
        return mq_read_full(pb, f->offset);
    }
    mq_pb nested = mq_pb_nested(pb, f);
    mq_read_graph(&nested, l, attr->graph);
    return mq_read_join(pb, &nested);
}

/* One field of an attribute; seen: bit of each kind of value that was there. */
static bool read_attr_field(mq_pb *pb, mq_loader *l, const mq_pb_field *f, mq_attr *attr,
                            size_t counts[3], int64_t *type)
{
    uint32_t bits = (uint32_t)f->value;
    switch (f->number) {
    case 1:
        attr->name = mq_read_name(pb, &l->model->arena, f, "AttributeProto.name");
        return attr->name != NULL;
    case 2:
        memcpy(&attr->f, &bits, sizeof bits);
        return mq_pb_want(pb, f, MQ_PB_FIXED32, "AttributeProto.f");
    case 3:
        attr->i = (int64_t)f->value;
        return mq_pb_want(pb, f, MQ_PB_VARINT, "AttributeProto.i");
    case 4:
        attr->s = f->bytes;
        return mq_pb_want(pb, f, MQ_PB_BYTES, "AttributeProto.s");
    case 5:
        return read_attr_tensor(pb, l, f, attr);
    case 6:
        return read_attr_graph(pb, l, f, attr);
    case 7:
    case 8:
    case 9:
        counts[f->number - 7] += list_count(f);
        return true;
    case 21:
        attr->ref = mq_read_name(pb, &l->model->arena, f, "AttributeProto.ref_attr_name");
        return attr->ref != NULL &&
               (l->is_function || mq_pb_fail(pb, f->offset, MQ_E_FORMAT,
                                             "attribute '%s' refers to '%s' outside of a function",
                                             attr->name, attr->ref));
    case 20:
        *type = (int64_t)f->value;
        return mq_pb_want(pb, f, MQ_PB_VARINT, "AttributeProto.type");
    case 10:
    case 11:
    case 14:
    case 15:
    case 22:
    case 23:
        return mq_pb_fail(pb, f->offset, MQ_E_UNSUPPORTED,
                          "attribute '%s': field %u (lists of tensors or graphs, types, "
                          "sparse tensors) is not supported",
                          attr->name, f->number);
    default:
        return true;
    }
}

/* Files older than IR version 4 may leave type out: it follows from what is there. */
static bool settle_type(mq_pb *pb, size_t offset, mq_attr *attr, const size_t counts[3],
                        int64_t type)
{
    if (type == 0) {
        type = attr->graph != NULL    ? MQ_ATTR_GRAPH
               : attr->tensor != NULL ? MQ_ATTR_TENSOR
               : counts[0] > 0        ? MQ_ATTR_FLOATS
               : counts[1] > 0        ? MQ_ATTR_INTS
               : counts[2] > 0        ? MQ_ATTR_STRINGS
               : attr->s.data != NULL ? MQ_ATTR_STRING
               : attr->i != 0         ? MQ_ATTR_INT
                                      : MQ_ATTR_FLOAT;
    }
    if (type < MQ_ATTR_FLOAT || type > MQ_ATTR_STRINGS) {
        return mq_pb_fail(pb, offset, MQ_E_UNSUPPORTED, "attribute '%s' of type %lld", attr->name,
                          (long long)type);
    }
    attr->type = (mq_attr_type)type;
    if (attr->ref != NULL) {
        return true;
    }
    if ((attr->type == MQ_ATTR_TENSOR && attr->tensor == NULL) ||
        (attr->type == MQ_ATTR_GRAPH && attr->graph == NULL)) {
        return mq_pb_fail(pb, offset, MQ_E_FORMAT, "attribute '%s' lacks its value", attr->name);
    }
    if (attr->type >= MQ_ATTR_FLOATS) {
        attr->count = counts[attr->type - MQ_ATTR_FLOATS];
    }
    return true;
}

bool mq_read_attr(mq_pb *pb, mq_loader *l, mq_attr *attr)
{
    *attr = (mq_attr){.name = ""};
    mq_pb again = *pb;
    size_t counts[3] = {0}, offset = (size_t)(pb->at - pb->base);
    int64_t type = 0;
    mq_pb_field f;
    while (mq_pb_next(pb, &f)) {
        if (!read_attr_field(pb, l, &f, attr, counts, &type)) {
            return false;
        }
    }
    if (pb->code != MQ_OK || !settle_type(pb, offset, attr, counts, type)) {
        return false;
    }
    return counts[0] + counts[1] + counts[2] == 0 || read_lists(pb, again, l, attr, counts);
}

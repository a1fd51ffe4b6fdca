/* ModelProto bytes to mq_model. Recursive descent over the cursor of pb.h, one function a message;
 * depth, counts and memory are limited, so a hostile file costs no more than an honest one of its
 * length. Must not know operators: a graph is only names here. */
#include "shared/base/assert.h"
#include "worker/onnx/build.h"

/* What the readers share. */
typedef struct loader {
    mq_model *model;
    uint32_t depth;
    uint32_t value_total;
} loader;

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

/* Hands a nested reader's error to its parent. */
static bool join(mq_pb *pb, const mq_pb *nested)
{
    pb->code = nested->code;
    return pb->code == MQ_OK;
}

/* --- value infos --- */

static bool read_dim(mq_pb *pb, loader *l, mq_value_info *info)
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

static bool read_shape(mq_pb *pb, loader *l, mq_value_info *info)
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
        if (!join(pb, &dim)) {
            return false;
        }
    }
    return pb->code == MQ_OK;
}

static bool read_tensor_type(mq_pb *pb, loader *l, mq_value_info *info)
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
            if (!join(pb, &shape)) {
                return false;
            }
        }
    }
    return pb->code == MQ_OK;
}

static bool read_type(mq_pb *pb, loader *l, mq_value_info *info)
{
    mq_pb_field f;
    while (mq_pb_next(pb, &f)) {
        if (f.number == 1) { /* tensor_type; sequences, maps and optionals leave dtype NONE */
            if (!mq_pb_want(pb, &f, MQ_PB_BYTES, "TypeProto.tensor_type")) {
                return false;
            }
            mq_pb type = mq_pb_nested(pb, &f);
            read_tensor_type(&type, l, info);
            if (!join(pb, &type)) {
                return false;
            }
        }
    }
    return pb->code == MQ_OK;
}

static bool read_value_info(mq_pb *pb, loader *l, mq_value_info *info)
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
            if (!join(pb, &type)) {
                return false;
            }
        }
    }
    return pb->code == MQ_OK;
}

/* --- nodes --- */

static bool read_graph(mq_pb *pb, loader *l, mq_graph *graph);

static bool count_value(mq_pb *pb, loader *l, size_t offset)
{
    if (l->value_total++ == 3 * MQ_MODEL_VALUES_MAX) {
        return mq_pb_fail(pb, offset, MQ_E_LIMIT, "more than %d values", 3 * MQ_MODEL_VALUES_MAX);
    }
    return true;
}

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
static bool read_lists(mq_pb *pb, mq_pb again, loader *l, mq_attr *attr, const size_t counts[3])
{
    mq_arena *arena = &l->model->arena;
    size_t offset = (size_t)(again.at - again.base), done[3] = {0};
    float *floats = counts[0] == 0 ? NULL : mq_arena_new(arena, float, counts[0]);
    int64_t *ints = counts[1] == 0 ? NULL : mq_arena_new(arena, int64_t, counts[1]);
    mq_span *strings = counts[2] == 0 ? NULL : mq_arena_new(arena, mq_span, counts[2]);
    if ((counts[0] > 0 && floats == NULL) || (counts[1] > 0 && ints == NULL) ||
        (counts[2] > 0 && strings == NULL)) {
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

static bool read_attr_tensor(mq_pb *pb, loader *l, const mq_pb_field *f, mq_attr *attr)
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
    return join(pb, &nested);
}

static bool read_attr_graph(mq_pb *pb, loader *l, const mq_pb_field *f, mq_attr *attr)
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
    read_graph(&nested, l, attr->graph);
    return join(pb, &nested);
}

/* One field of an attribute; seen: bit of each kind of value that was there. */
static bool read_attr_field(mq_pb *pb, loader *l, const mq_pb_field *f, mq_attr *attr,
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
    case 20:
        *type = (int64_t)f->value;
        return mq_pb_want(pb, f, MQ_PB_VARINT, "AttributeProto.type");
    case 10:
    case 11:
    case 14:
    case 15:
    case 21:
    case 22:
    case 23:
        return mq_pb_fail(pb, f->offset, MQ_E_UNSUPPORTED,
                          "attribute '%s': field %u (lists of tensors or graphs, types, "
                          "references, sparse tensors) is not supported",
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
    if ((attr->type == MQ_ATTR_TENSOR && attr->tensor == NULL) ||
        (attr->type == MQ_ATTR_GRAPH && attr->graph == NULL)) {
        return mq_pb_fail(pb, offset, MQ_E_FORMAT, "attribute '%s' lacks its value", attr->name);
    }
    if (attr->type >= MQ_ATTR_FLOATS) {
        attr->count = counts[attr->type - MQ_ATTR_FLOATS];
    }
    return true;
}

static bool read_attr(mq_pb *pb, loader *l, mq_attr *attr)
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

typedef struct node_room {
    uint32_t inputs, outputs, attrs;
} node_room;

static bool read_arg(mq_pb *pb, loader *l, const mq_pb_field *f, const char ***list,
                     uint32_t *count, uint32_t *room, const char *what)
{
    if (*count == MQ_MODEL_ARGS_MAX) {
        return mq_pb_fail(pb, f->offset, MQ_E_LIMIT, "%s: more than %d", what, MQ_MODEL_ARGS_MAX);
    }
    const char *name = mq_read_name(pb, &l->model->arena, f, what);
    if (name == NULL) {
        return false;
    }
    const char **slot = mq_grow(&l->model->arena, list, count, room, sizeof *slot);
    if (slot == NULL) {
        return mq_read_full(pb, f->offset);
    }
    *slot = name;
    return true;
}

static bool read_node_attr(mq_pb *pb, loader *l, const mq_pb_field *f, mq_node *node,
                           node_room *room)
{
    if (!mq_pb_want(pb, f, MQ_PB_BYTES, "NodeProto.attribute")) {
        return false;
    }
    if (node->attr_count == MQ_MODEL_ATTRS_MAX) {
        return mq_pb_fail(pb, f->offset, MQ_E_LIMIT, "node '%s': more than %d attributes",
                          node->name, MQ_MODEL_ATTRS_MAX);
    }
    mq_attr *attr =
        mq_grow(&l->model->arena, &node->attrs, &node->attr_count, &room->attrs, sizeof *attr);
    if (attr == NULL) {
        return mq_read_full(pb, f->offset);
    }
    mq_pb nested = mq_pb_nested(pb, f);
    read_attr(&nested, l, attr);
    if (!join(pb, &nested)) {
        return false;
    }
    for (uint32_t i = 0; i + 1 < node->attr_count; i++) {
        if (strcmp(node->attrs[i].name, attr->name) == 0) {
            return mq_pb_fail(pb, f->offset, MQ_E_FORMAT, "attribute '%s' is given twice",
                              attr->name);
        }
    }
    return true;
}

static bool read_node_field(mq_pb *pb, loader *l, const mq_pb_field *f, mq_node *node,
                            node_room *room)
{
    mq_arena *arena = &l->model->arena;
    const char **text = f->number == 3   ? &node->name
                        : f->number == 4 ? &node->op_type
                        : f->number == 7 ? &node->domain
                                         : NULL;
    if (text != NULL) {
        const char *name = mq_read_name(pb, arena, f, "NodeProto name, op_type or domain");
        *text = name == NULL ? "" : name;
        return name != NULL;
    }
    if (f->number == 1) {
        return read_arg(pb, l, f, &node->inputs, &node->input_count, &room->inputs,
                        "NodeProto.input");
    }
    if (f->number == 2) {
        return read_arg(pb, l, f, &node->outputs, &node->output_count, &room->outputs,
                        "NodeProto.output");
    }
    return f->number == 5 ? read_node_attr(pb, l, f, node, room) : true;
}

static bool read_node(mq_pb *pb, loader *l, mq_node *node)
{
    *node = (mq_node){.op_type = "", .domain = "", .name = ""};
    node_room room = {0};
    mq_pb_field f;
    while (mq_pb_next(pb, &f)) {
        if (!read_node_field(pb, l, &f, node, &room)) {
            return false;
        }
    }
    if (strcmp(node->domain, "ai.onnx") == 0) {
        node->domain = "";
    }
    return pb->code == MQ_OK;
}

/* --- graphs --- */

static bool read_graph_value(mq_pb *pb, loader *l, const mq_pb_field *f, mq_graph *g)
{
    mq_value_info **list = f->number == 11   ? &g->inputs
                           : f->number == 12 ? &g->outputs
                                             : &g->values;
    uint32_t *count = f->number == 11   ? &g->input_count
                      : f->number == 12 ? &g->output_count
                                        : &g->value_count;
    uint32_t *room = f->number == 11   ? &g->input_room
                     : f->number == 12 ? &g->output_room
                                       : &g->value_room;
    mq_value_info *info = count_value(pb, l, f->offset)
                              ? mq_grow(&l->model->arena, list, count, room, sizeof *info)
                              : NULL;
    if (info == NULL) {
        return mq_read_full(pb, f->offset);
    }
    mq_pb nested = mq_pb_nested(pb, f);
    read_value_info(&nested, l, info);
    if (!join(pb, &nested)) {
        return false;
    }
    if (f->number != 13 && info->dtype == MQ_DT_NONE && (l->depth == 1 && f->number == 11)) {
        return mq_pb_fail(pb, f->offset, MQ_E_UNSUPPORTED,
                          "graph input '%s' is not a tensor of a supported element type",
                          info->name);
    }
    return true;
}

static bool read_graph_node(mq_pb *pb, loader *l, const mq_pb_field *f, mq_graph *g)
{
    if (l->model->node_total == MQ_MODEL_NODES_MAX) {
        return mq_pb_fail(pb, f->offset, MQ_E_LIMIT, "more than %d nodes", MQ_MODEL_NODES_MAX);
    }
    l->model->node_total++;
    mq_node node; /* a subgraph may grow other arrays meanwhile, so it is put in place at the end */
    mq_pb nested = mq_pb_nested(pb, f);
    read_node(&nested, l, &node);
    if (!join(pb, &nested)) {
        return false;
    }
    mq_node *slot =
        mq_grow(&l->model->arena, &g->nodes, &g->node_count, &g->node_room, sizeof *slot);
    if (slot == NULL) {
        return mq_read_full(pb, f->offset);
    }
    *slot = node;
    return true;
}

static bool read_graph_init(mq_pb *pb, loader *l, const mq_pb_field *f, mq_graph *g)
{
    mq_init *init = count_value(pb, l, f->offset)
                        ? mq_grow(&l->model->arena, &g->initializers, &g->initializer_count,
                                  &g->initializer_room, sizeof *init)
                        : NULL;
    if (init == NULL) {
        return mq_read_full(pb, f->offset);
    }
    mq_pb nested = mq_pb_nested(pb, f);
    mq_read_tensor(&nested, &l->model->arena, init);
    if (!join(pb, &nested)) {
        return false;
    }
    return init->name[0] != '\0' ||
           mq_pb_fail(pb, f->offset, MQ_E_FORMAT, "an initializer without a name");
}

static bool read_graph(mq_pb *pb, loader *l, mq_graph *g)
{
    *g = (mq_graph){.name = ""};
    if (l->depth == MQ_MODEL_DEPTH_MAX) {
        return mq_pb_fail(pb, (size_t)(pb->at - pb->base), MQ_E_LIMIT,
                          "graphs nested deeper than %d", MQ_MODEL_DEPTH_MAX);
    }
    l->depth++;
    mq_pb_field f;
    bool ok = true;
    while (ok && mq_pb_next(pb, &f)) {
        bool is_message = f.number == 1 || f.number == 5 || (f.number >= 11 && f.number <= 13);
        if (is_message && !mq_pb_want(pb, &f, MQ_PB_BYTES, "GraphProto field")) {
            ok = false;
        } else if (f.number == 1) {
            ok = read_graph_node(pb, l, &f, g);
        } else if (f.number == 2) {
            g->name = mq_read_name(pb, &l->model->arena, &f, "GraphProto.name");
            ok = g->name != NULL;
        } else if (f.number == 5) {
            ok = read_graph_init(pb, l, &f, g);
        } else if (f.number == 15) {
            ok =
                mq_pb_fail(pb, f.offset, MQ_E_UNSUPPORTED, "sparse initializers are not supported");
        } else if (is_message) {
            ok = read_graph_value(pb, l, &f, g);
        }
    }
    l->depth--;
    return pb->code == MQ_OK;
}

/* --- the model --- */

static bool read_opset(mq_pb *pb, loader *l, const mq_pb_field *field)
{
    mq_model *m = l->model;
    if (!mq_pb_want(pb, field, MQ_PB_BYTES, "ModelProto.opset_import")) {
        return false;
    }
    if (m->opset_count == MQ_MODEL_OPSETS_MAX) {
        return mq_pb_fail(pb, field->offset, MQ_E_LIMIT, "more than %d opset imports",
                          MQ_MODEL_OPSETS_MAX);
    }
    mq_opset *opset = &m->opsets[m->opset_count++];
    *opset = (mq_opset){.domain = ""};
    mq_pb nested = mq_pb_nested(pb, field);
    mq_pb_field f;
    while (mq_pb_next(&nested, &f)) {
        if (f.number == 1) {
            const char *domain = mq_read_name(&nested, &m->arena, &f, "OperatorSetIdProto.domain");
            opset->domain = domain == NULL || strcmp(domain, "ai.onnx") == 0 ? "" : domain;
        } else if (f.number == 2 &&
                   mq_pb_want(&nested, &f, MQ_PB_VARINT, "OperatorSetIdProto.version")) {
            opset->version = (int64_t)f.value;
        }
    }
    return join(pb, &nested);
}

static bool read_metadata(mq_pb *pb, loader *l, const mq_pb_field *field)
{
    mq_model *m = l->model;
    if (!mq_pb_want(pb, field, MQ_PB_BYTES, "ModelProto.metadata_props")) {
        return false;
    }
    if (m->metadata_count == MQ_MODEL_METADATA_MAX) {
        return mq_pb_fail(pb, field->offset, MQ_E_LIMIT, "more than %d metadata entries",
                          MQ_MODEL_METADATA_MAX);
    }
    mq_metadata *entry =
        mq_grow(&m->arena, &m->metadata, &m->metadata_count, &m->metadata_room, sizeof *entry);
    if (entry == NULL) {
        return mq_read_full(pb, field->offset);
    }
    *entry = (mq_metadata){"", ""};
    mq_pb nested = mq_pb_nested(pb, field);
    mq_pb_field f;
    while (mq_pb_next(&nested, &f)) {
        if (f.number != 1 && f.number != 2) {
            continue;
        }
        if (f.wire == MQ_PB_BYTES && !mq_is_name(f.bytes)) {
            mq_pb_fail(&nested, f.offset, MQ_E_FORMAT, "metadata: not UTF-8 text without NUL");
        } else if (mq_pb_want(&nested, &f, MQ_PB_BYTES, "StringStringEntryProto")) {
            const char *text = mq_arena_str(&m->arena, f.bytes); /* values may be long */
            if (text == NULL) {
                mq_read_full(&nested, f.offset);
            } else {
                *(f.number == 1 ? &entry->key : &entry->value) = text;
            }
        }
    }
    return join(pb, &nested);
}

static bool read_model_field(mq_pb *pb, loader *l, const mq_pb_field *f, bool *has_graph)
{
    mq_model *m = l->model;
    const char **text = f->number == 2   ? &m->producer_name
                        : f->number == 3 ? &m->producer_version
                        : f->number == 4 ? &m->domain
                                         : NULL;
    if (text != NULL) {
        *text = mq_read_name(pb, &m->arena, f, "ModelProto producer or domain");
        return *text != NULL;
    }
    switch (f->number) {
    case 1:
        m->ir_version = (int64_t)f->value;
        return mq_pb_want(pb, f, MQ_PB_VARINT, "ModelProto.ir_version");
    case 5:
        m->model_version = (int64_t)f->value;
        return mq_pb_want(pb, f, MQ_PB_VARINT, "ModelProto.model_version");
    case 7: {
        if (*has_graph || !mq_pb_want(pb, f, MQ_PB_BYTES, "ModelProto.graph")) {
            return mq_pb_fail(pb, f->offset, MQ_E_FORMAT, "ModelProto.graph is given twice");
        }
        *has_graph = true;
        mq_pb nested = mq_pb_nested(pb, f);
        read_graph(&nested, l, &m->graph);
        return join(pb, &nested);
    }
    case 8:
        return read_opset(pb, l, f);
    case 14:
        return read_metadata(pb, l, f);
    case 25:
        return mq_pb_fail(pb, f->offset, MQ_E_UNSUPPORTED,
                          "model-local functions are not supported; inline them before export");
    default:
        return true;
    }
}

static mq_code read_model(loader *l, mq_span bytes, mq_error *err)
{
    mq_model *m = l->model;
    mq_pb pb = mq_pb_of(bytes, err);
    bool has_graph = false;
    mq_pb_field f;
    while (mq_pb_next(&pb, &f)) {
        if (!read_model_field(&pb, l, &f, &has_graph)) {
            break;
        }
    }
    if (pb.code != MQ_OK) {
        return pb.code;
    }
    if (!has_graph || m->ir_version < 1) {
        return mq_fail(err, MQ_E_FORMAT, "not an ONNX model: %s is missing after %zu bytes",
                       has_graph ? "ModelProto.ir_version" : "ModelProto.graph", bytes.len);
    }
    if (m->ir_version > 13) {
        return mq_fail(err, MQ_E_VERSION, "ir_version %lld is newer than 13; export an older one",
                       (long long)m->ir_version);
    }
    if (m->opset_count == 0 && m->ir_version < 3) {
        m->opsets[m->opset_count++] = (mq_opset){"", 1};
    }
    return MQ_OK;
}

mq_code mq_model_read(mq_model **out, mq_span bytes, bool is_copied, size_t memory_bytes_max,
                      mq_error *err)
{
    *out = NULL;
    if (memory_bytes_max == 0) {
        memory_bytes_max = ((size_t)256 << 20) + 2 * bytes.len;
    }
    mq_model *model = mq_model_blank(memory_bytes_max);
    mq_span source = bytes;
    if (model != NULL && is_copied) {
        source.data = mq_arena_copy(&model->arena, bytes);
    }
    if (model == NULL || (source.data == NULL && bytes.len > 0)) {
        mq_model_free(model);
        return mq_fail(err, MQ_E_LIMIT, "no memory for a model (limit %zu bytes)",
                       memory_bytes_max);
    }
    loader l = {.model = model};
    mq_code code = read_model(&l, source, err);
    if (code == MQ_OK) {
        code = mq_model_verify(model, err);
    }
    if (code != MQ_OK) {
        mq_model_free(model);
        return code;
    }
    *out = model;
    return MQ_OK;
}

mq_code mq_model_load(mq_model **out, mq_span bytes, size_t memory_bytes_max, mq_error *err)
{
    return mq_model_read(out, bytes, false, memory_bytes_max, err);
}

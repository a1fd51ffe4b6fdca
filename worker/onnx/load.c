/* ModelProto bytes to mq_model. Recursive descent over the cursor of pb.h, one function a message;
 * depth, counts and memory are limited, so a hostile file costs no more than an honest one of its
 * length. Must not know operators: a graph is only names here. */
#include "shared/base/assert.h"
#include "worker/onnx/build.h"

/* --- nodes --- */

static bool count_value(mq_pb *pb, mq_loader *l, size_t offset)
{
    if (l->value_total++ == 3 * MQ_MODEL_VALUES_MAX) {
        return mq_pb_fail(pb, offset, MQ_E_LIMIT, "more than %d values", 3 * MQ_MODEL_VALUES_MAX);
    }
    return true;
}

typedef struct node_room {
    uint32_t inputs, outputs, attrs;
} node_room;

static bool read_arg(mq_pb *pb, mq_loader *l, const mq_pb_field *f, const char ***list,
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

static bool read_node_attr(mq_pb *pb, mq_loader *l, const mq_pb_field *f, mq_node *node,
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
    mq_read_attr(&nested, l, attr);
    if (!mq_read_join(pb, &nested)) {
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

static bool read_node_field(mq_pb *pb, mq_loader *l, const mq_pb_field *f, mq_node *node,
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

static bool read_node(mq_pb *pb, mq_loader *l, mq_node *node)
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

bool mq_read_counted_node(mq_pb *pb, mq_loader *l)
{
    mq_node node;
    if (l->model->node_total++ >= MQ_MODEL_NODES_MAX) {
        return mq_pb_fail(pb, (size_t)(pb->at - pb->base), MQ_E_LIMIT, "more than %d nodes",
                          MQ_MODEL_NODES_MAX);
    }
    bool ok = read_node(pb, l, &node); /* it may hold graphs, whose nodes pass here too */
    l->node = node;
    return ok;
}

/* --- graphs --- */

static bool read_graph_value(mq_pb *pb, mq_loader *l, const mq_pb_field *f, mq_graph *g)
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
    mq_read_value_info(&nested, l, info);
    if (!mq_read_join(pb, &nested)) {
        return false;
    }
    if (f->number != 13 && info->dtype == MQ_DT_NONE && (l->depth == 1 && f->number == 11)) {
        return mq_pb_fail(pb, f->offset, MQ_E_UNSUPPORTED,
                          "graph input '%s' is not a tensor of a supported element type",
                          info->name);
    }
    return true;
}

static bool read_graph_node(mq_pb *pb, mq_loader *l, const mq_pb_field *f, mq_graph *g)
{
    if (l->model->node_total == MQ_MODEL_NODES_MAX) {
        return mq_pb_fail(pb, f->offset, MQ_E_LIMIT, "more than %d nodes", MQ_MODEL_NODES_MAX);
    }
    l->model->node_total++;
    mq_node node; /* a subgraph may grow other arrays meanwhile, so it is put in place at the end */
    mq_pb nested = mq_pb_nested(pb, f);
    read_node(&nested, l, &node);
    if (!mq_read_join(pb, &nested)) {
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

static bool read_graph_init(mq_pb *pb, mq_loader *l, const mq_pb_field *f, mq_graph *g)
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
    if (!mq_read_join(pb, &nested)) {
        return false;
    }
    return init->name[0] != '\0' ||
           mq_pb_fail(pb, f->offset, MQ_E_FORMAT, "an initializer without a name");
}

bool mq_read_graph(mq_pb *pb, mq_loader *l, mq_graph *g)
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

static bool read_opset(mq_pb *pb, mq_loader *l, const mq_pb_field *field)
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
    return mq_read_join(pb, &nested);
}

static bool read_metadata(mq_pb *pb, mq_loader *l, const mq_pb_field *field)
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
    return mq_read_join(pb, &nested);
}

static bool read_model_field(mq_pb *pb, mq_loader *l, const mq_pb_field *f, bool *has_graph)
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
        mq_read_graph(&nested, l, &m->graph);
        return mq_read_join(pb, &nested);
    }
    case 8:
        return read_opset(pb, l, f);
    case 14:
        return read_metadata(pb, l, f);
    case 25: {
        if (!mq_pb_want(pb, f, MQ_PB_BYTES, "ModelProto.functions")) {
            return false;
        }
        mq_pb nested = mq_pb_nested(pb, f);
        mq_read_function(&nested, l);
        return mq_read_join(pb, &nested);
    }
    default:
        return true;
    }
}

static mq_code read_model(mq_loader *l, mq_span bytes, mq_error *err)
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
    mq_loader l = {.model = model};
    mq_code code = read_model(&l, source, err);
    if (code == MQ_OK) {
        code = mq_expand_functions(&l, err);
    }
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

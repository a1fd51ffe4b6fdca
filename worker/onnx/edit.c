/* Changing a model's main graph: what architectures, passes and the trainer use. Texts and bytes
 * are copied into the model's arena. */
#include <stdio.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/onnx/build.h"

static mq_code full(const mq_model *model, mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "the model needs more memory than its limit of %zu bytes",
                   model->arena.limit_bytes);
}

/* Copy of a name, or NULL with the error said. */
static const char *copy_name(mq_model *model, const char *name, const char *what, mq_error *err)
{
    mq_span s = mq_str(name);
    if (s.len > MQ_MODEL_NAME_BYTES_MAX || !mq_is_name(s)) {
        mq_fail(err, MQ_E_ARG, "%s: must be UTF-8 text of at most %d bytes", what,
                MQ_MODEL_NAME_BYTES_MAX);
        return NULL;
    }
    const char *copy = mq_arena_str(&model->arena, s);
    if (copy == NULL) {
        full(model, err);
    }
    return copy;
}

static mq_code name_failed(const mq_error *err)
{
    return err == NULL ? MQ_E_ARG : err->code;
}

mq_code mq_model_set_opset(mq_model *model, const char *domain, int64_t version, mq_error *err)
{
    if (strcmp(domain, "ai.onnx") == 0) {
        domain = "";
    }
    for (uint32_t i = 0; i < model->opset_count; i++) {
        if (strcmp(model->opsets[i].domain, domain) == 0) {
            model->opsets[i].version = version;
            return MQ_OK;
        }
    }
    if (model->opset_count == MQ_MODEL_OPSETS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "more than %d opset imports", MQ_MODEL_OPSETS_MAX);
    }
    const char *copy = copy_name(model, domain, "opset domain", err);
    if (copy == NULL) {
        return name_failed(err);
    }
    model->opsets[model->opset_count++] = (mq_opset){copy, version};
    return MQ_OK;
}

mq_code mq_model_set_metadata(mq_model *model, const char *key, const char *value, mq_error *err)
{
    mq_metadata *entry = NULL;
    for (uint32_t i = 0; i < model->metadata_count; i++) {
        if (strcmp(model->metadata[i].key, key) == 0) {
            entry = &model->metadata[i];
        }
    }
    if (!mq_is_name(mq_str(value)) || !mq_is_name(mq_str(key))) {
        return mq_fail(err, MQ_E_ARG, "metadata: key and value must be UTF-8 text");
    }
    if (entry == NULL && model->metadata_count == MQ_MODEL_METADATA_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "more than %d metadata entries", MQ_MODEL_METADATA_MAX);
    }
    const char *key_copy = mq_arena_str(&model->arena, mq_str(key));
    const char *value_copy = mq_arena_str(&model->arena, mq_str(value));
    if (entry == NULL && key_copy != NULL) {
        entry = mq_grow(&model->arena, &model->metadata, &model->metadata_count,
                        &model->metadata_room, sizeof *entry);
    }
    if (key_copy == NULL || value_copy == NULL || entry == NULL) {
        return full(model, err);
    }
    *entry = (mq_metadata){key_copy, value_copy};
    return MQ_OK;
}

static mq_code set_info(mq_model *model, const mq_value_info *info, mq_value_info **list,
                        uint32_t *count, uint32_t *room, mq_error *err)
{
    mq_value_info copy = *info;
    if (info->rank < -1 || info->rank > MQ_RANK_MAX) {
        return mq_fail(err, MQ_E_ARG, "value '%s': rank %d is outside 0..%d", info->name,
                       info->rank, MQ_RANK_MAX);
    }
    copy.name = copy_name(model, info->name, "value name", err);
    if (copy.name == NULL) {
        return name_failed(err);
    }
    for (int32_t i = 0; i < info->rank; i++) {
        if (info->dims[i] >= 0 || info->dim_names[i] == NULL) {
            copy.dim_names[i] = NULL;
            continue;
        }
        copy.dim_names[i] = copy_name(model, info->dim_names[i], "dimension name", err);
        if (copy.dim_names[i] == NULL) {
            return name_failed(err);
        }
    }
    mq_value_info *slot = NULL;
    for (uint32_t i = 0; i < *count; i++) {
        if (strcmp((*list)[i].name, info->name) == 0) {
            slot = &(*list)[i];
        }
    }
    if (slot == NULL) {
        slot = mq_grow(&model->arena, list, count, room, sizeof *slot);
    }
    if (slot == NULL) {
        return full(model, err);
    }
    *slot = copy;
    return MQ_OK;
}

mq_code mq_model_set_input(mq_model *model, const mq_value_info *info, mq_error *err)
{
    mq_graph *g = &model->graph;
    return set_info(model, info, &g->inputs, &g->input_count, &g->input_room, err);
}

mq_code mq_model_set_output(mq_model *model, const mq_value_info *info, mq_error *err)
{
    mq_graph *g = &model->graph;
    return set_info(model, info, &g->outputs, &g->output_count, &g->output_room, err);
}

void mq_model_remove_output(mq_model *model, const char *name)
{
    mq_graph *g = &model->graph;
    for (uint32_t i = 0; i < g->output_count; i++) {
        if (strcmp(g->outputs[i].name, name) == 0) {
            mq_array_remove(g->outputs, &g->output_count, sizeof *g->outputs, i);
            return;
        }
    }
}

static mq_init *find_init(mq_model *model, const char *name)
{
    for (uint32_t i = 0; i < model->graph.initializer_count; i++) {
        if (strcmp(model->graph.initializers[i].name, name) == 0) {
            return &model->graph.initializers[i];
        }
    }
    return NULL;
}

mq_code mq_model_set_init(mq_model *model, const char *name, mq_dtype dtype, const mq_shape *shape,
                          mq_span bytes, mq_error *err)
{
    mq_tensor tensor;
    if (mq_tensor_of(&tensor, dtype, shape, bytes, err) != MQ_OK) {
        return mq_wrap(err, "initializer '%s'", name);
    }
    mq_init *init = find_init(model, name);
    if (init != NULL && init->is_owned && init->tensor.bytes == bytes.len) {
        if (bytes.len > 0) {
            memmove(init->tensor.data, bytes.data, bytes.len);
        }
        init->tensor.dtype = dtype;
        init->tensor.shape = *shape;
        return MQ_OK;
    }
    tensor.data = mq_arena_copy(&model->arena, bytes);
    if (tensor.data == NULL) {
        return full(model, err);
    }
    if (init == NULL) {
        const char *copy = copy_name(model, name, "initializer name", err);
        if (copy == NULL) {
            return name_failed(err);
        }
        mq_graph *g = &model->graph;
        if (g->initializer_count == MQ_MODEL_VALUES_MAX) {
            return mq_fail(err, MQ_E_LIMIT, "more than %d initializers", MQ_MODEL_VALUES_MAX);
        }
        init = mq_grow(&model->arena, &g->initializers, &g->initializer_count, &g->initializer_room,
                       sizeof *init);
        if (init == NULL) {
            return full(model, err);
        }
        init->name = copy;
    }
    init->tensor = tensor;
    init->is_owned = true;
    return MQ_OK;
}

void mq_model_remove_init(mq_model *model, const char *name)
{
    mq_init *init = find_init(model, name);
    if (init != NULL) {
        mq_graph *g = &model->graph;
        mq_array_remove(g->initializers, &g->initializer_count, sizeof *init,
                        (uint32_t)(init - g->initializers));
    }
}

static const char **copy_names(mq_model *model, const char *const *names, uint32_t count,
                               const char *what, mq_error *err)
{
    const char **out = mq_arena_new(&model->arena, const char *, (size_t)count + 1);
    if (out == NULL) {
        full(model, err);
    }
    for (uint32_t i = 0; i < count && out != NULL; i++) {
        out[i] = copy_name(model, names[i], what, err);
        if (out[i] == NULL) {
            return NULL;
        }
    }
    return out;
}

mq_code mq_model_add_node(mq_model *model, uint32_t index, const mq_node_spec *spec, mq_node **out,
                          mq_error *err)
{
    mq_graph *g = &model->graph;
    mq_error local;
    mq_error *e = err == NULL ? &local : err;
    if (index > g->node_count || spec->input_count > MQ_MODEL_ARGS_MAX ||
        spec->output_count > MQ_MODEL_ARGS_MAX) {
        return mq_fail(e, MQ_E_ARG, "new %s node: index or number of inputs is out of range",
                       spec->op_type);
    }
    if (model->node_total == MQ_MODEL_NODES_MAX) {
        return mq_fail(e, MQ_E_LIMIT, "more than %d nodes", MQ_MODEL_NODES_MAX);
    }
    mq_node node = {.input_count = spec->input_count, .output_count = spec->output_count};
    node.op_type = copy_name(model, spec->op_type, "op_type", e);
    node.domain = copy_name(model, spec->domain == NULL ? "" : spec->domain, "domain", e);
    node.name = copy_name(model, spec->name == NULL ? "" : spec->name, "node name", e);
    node.inputs = copy_names(model, spec->inputs, spec->input_count, "node input", e);
    node.outputs = copy_names(model, spec->outputs, spec->output_count, "node output", e);
    if (node.op_type == NULL || node.domain == NULL || node.name == NULL || node.inputs == NULL ||
        node.outputs == NULL) {
        return e->code;
    }
    if (mq_grow(&model->arena, &g->nodes, &g->node_count, &g->node_room, sizeof node) == NULL) {
        return full(model, e);
    }
    memmove(&g->nodes[index + 1], &g->nodes[index], (g->node_count - 1 - index) * sizeof node);
    g->nodes[index] = node;
    model->node_total++;
    if (out != NULL) {
        *out = &g->nodes[index];
    }
    return MQ_OK;
}

void mq_model_remove_node(mq_model *model, uint32_t index)
{
    mq_array_remove(model->graph.nodes, &model->graph.node_count, sizeof(mq_node), index);
    model->node_total--;
}

/* The attribute of that name, made when it is not there, emptied but for name and type. */
static mq_attr *attr_slot(mq_model *model, mq_node *node, const char *name, mq_attr_type type,
                          mq_error *err)
{
    uint32_t at = 0;
    while (at < node->attr_count && strcmp(node->attrs[at].name, name) != 0) {
        at++;
    }
    if (at == MQ_MODEL_ATTRS_MAX) {
        mq_fail(err, MQ_E_LIMIT, "node '%s': more than %d attributes", node->name,
                MQ_MODEL_ATTRS_MAX);
        return NULL;
    }
    if (at == node->attr_count) { /* a node has few attributes: a new array each time is cheap */
        const char *copy = copy_name(model, name, "attribute name", err);
        mq_attr *list = mq_arena_new(&model->arena, mq_attr, (size_t)at + 1);
        if (copy == NULL || list == NULL) {
            full(model, err);
            return NULL;
        }
        if (at > 0) {
            memcpy(list, node->attrs, at * sizeof *list);
        }
        list[at].name = copy;
        node->attrs = list;
        node->attr_count++;
    }
    node->attrs[at] = (mq_attr){.name = node->attrs[at].name, .type = type};
    return &node->attrs[at];
}

mq_code mq_node_set_int(mq_model *model, mq_node *node, const char *name, int64_t value,
                        mq_error *err)
{
    mq_attr *attr = attr_slot(model, node, name, MQ_ATTR_INT, err);
    if (attr == NULL) {
        return MQ_E_LIMIT;
    }
    attr->i = value;
    return MQ_OK;
}

mq_code mq_node_set_float(mq_model *model, mq_node *node, const char *name, float value,
                          mq_error *err)
{
    mq_attr *attr = attr_slot(model, node, name, MQ_ATTR_FLOAT, err);
    if (attr == NULL) {
        return MQ_E_LIMIT;
    }
    attr->f = value;
    return MQ_OK;
}

mq_code mq_node_set_string(mq_model *model, mq_node *node, const char *name, mq_span value,
                           mq_error *err)
{
    const void *copy = mq_arena_copy(&model->arena, value);
    mq_attr *attr = attr_slot(model, node, name, MQ_ATTR_STRING, err);
    if (attr == NULL || copy == NULL) {
        return full(model, err);
    }
    attr->s = mq_span_of(copy, value.len);
    return MQ_OK;
}

mq_code mq_node_set_ints(mq_model *model, mq_node *node, const char *name, const int64_t *values,
                         size_t count, mq_error *err)
{
    const void *copy = mq_arena_copy(&model->arena, mq_span_of(values, count * sizeof *values));
    mq_attr *attr = attr_slot(model, node, name, MQ_ATTR_INTS, err);
    if (attr == NULL || copy == NULL) {
        return full(model, err);
    }
    attr->ints = copy;
    attr->count = count;
    return MQ_OK;
}

mq_code mq_node_set_floats(mq_model *model, mq_node *node, const char *name, const float *values,
                           size_t count, mq_error *err)
{
    const void *copy = mq_arena_copy(&model->arena, mq_span_of(values, count * sizeof *values));
    mq_attr *attr = attr_slot(model, node, name, MQ_ATTR_FLOATS, err);
    if (attr == NULL || copy == NULL) {
        return full(model, err);
    }
    attr->floats = copy;
    attr->count = count;
    return MQ_OK;
}

mq_code mq_node_set_tensor(mq_model *model, mq_node *node, const char *name, const mq_tensor *value,
                           mq_error *err)
{
    if (value->dtype == MQ_DT_STR) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "attribute '%s': a string tensor", name);
    }
    mq_init *copy = mq_arena_new(&model->arena, mq_init, 1);
    void *bytes = mq_arena_copy(&model->arena, mq_span_of(value->data, value->bytes));
    mq_attr *attr = attr_slot(model, node, name, MQ_ATTR_TENSOR, err);
    if (attr == NULL || copy == NULL || bytes == NULL) {
        return full(model, err);
    }
    *copy = (mq_init){.name = "", .tensor = *value, .is_owned = true};
    copy->tensor.data = bytes;
    attr->tensor = copy;
    return MQ_OK;
}

void mq_node_remove_attr(mq_node *node, const char *name)
{
    for (uint32_t i = 0; i < node->attr_count; i++) {
        if (strcmp(node->attrs[i].name, name) == 0) {
            mq_array_remove(node->attrs, &node->attr_count, sizeof *node->attrs, i);
            return;
        }
    }
}

static mq_code set_arg(mq_model *model, const char **list, uint32_t count, uint32_t index,
                       const char *name, mq_error *err)
{
    if (index >= count) {
        return mq_fail(err, MQ_E_ARG, "argument %u of a node that has %u", index, count);
    }
    const char *copy = copy_name(model, name, "value name", err);
    if (copy == NULL) {
        return name_failed(err);
    }
    list[index] = copy;
    return MQ_OK;
}

mq_code mq_node_set_input(mq_model *model, mq_node *node, uint32_t index, const char *name,
                          mq_error *err)
{
    return set_arg(model, node->inputs, node->input_count, index, name, err);
}

mq_code mq_node_set_output(mq_model *model, mq_node *node, uint32_t index, const char *name,
                           mq_error *err)
{
    return set_arg(model, node->outputs, node->output_count, index, name, err);
}

/* Inputs of all nodes, those of nested graphs too. */
static void replace_in(mq_graph *graph, const char *from, const char *to)
{
    for (uint32_t n = 0; n < graph->node_count; n++) {
        mq_node *node = &graph->nodes[n];
        for (uint32_t i = 0; i < node->input_count; i++) {
            if (strcmp(node->inputs[i], from) == 0) {
                node->inputs[i] = to;
            }
        }
        for (uint32_t i = 0; i < node->attr_count; i++) {
            if (node->attrs[i].graph != NULL) {
                replace_in(node->attrs[i].graph, from, to);
            }
        }
    }
}

mq_code mq_model_replace_uses(mq_model *model, const char *from, const char *to, mq_error *err)
{
    const char *source = copy_name(model, from, "value name", err); /* from may be a node's own */
    const char *copy = copy_name(model, to, "value name", err);
    if (copy == NULL || source == NULL) {
        return name_failed(err);
    }
    replace_in(&model->graph, source, copy);
    return MQ_OK;
}

/* Does any graph mention the name? */
static bool is_used(const mq_graph *g, const char *name)
{
    if (mq_graph_init(g, name) != NULL || mq_graph_input(g, name) != NULL ||
        mq_graph_producer(g, name) != UINT32_MAX || mq_graph_use_count(g, name) > 0) {
        return true;
    }
    for (uint32_t n = 0; n < g->node_count; n++) {
        for (uint32_t i = 0; i < g->nodes[n].attr_count; i++) {
            const mq_graph *inner = g->nodes[n].attrs[i].graph;
            if (inner != NULL && is_used(inner, name)) {
                return true;
            }
        }
    }
    return false;
}

const char *mq_model_unique_name(mq_model *model, const char *prefix)
{
    char name[MQ_MODEL_NAME_BYTES_MAX + 1];
    snprintf(name, sizeof name, "%.*s", MQ_MODEL_NAME_BYTES_MAX - 16, prefix);
    for (uint32_t i = 1; is_used(&model->graph, name); i++) {
        snprintf(name, sizeof name, "%.*s_%u", MQ_MODEL_NAME_BYTES_MAX - 16, prefix, i);
    }
    return mq_arena_str(&model->arena, mq_str(name));
}

uint32_t mq_model_remove_dead(mq_model *model)
{
    mq_graph *g = &model->graph;
    uint32_t removed = 0;
    for (uint32_t n = g->node_count; n-- > 0;) { /* from the end: readers go before their makers */
        uint32_t uses = 0;
        for (uint32_t i = 0; i < g->nodes[n].output_count; i++) {
            const char *out = g->nodes[n].outputs[i];
            uses += out[0] == '\0' ? 0 : mq_graph_use_count(g, out);
        }
        if (uses == 0) {
            mq_model_remove_node(model, n);
            removed++;
        }
    }
    for (uint32_t i = g->initializer_count; i-- > 0;) {
        const char *name = g->initializers[i].name;
        if (mq_graph_use_count(g, name) == 0) {
            for (uint32_t k = g->input_count; k-- > 0;) {
                if (strcmp(g->inputs[k].name, name) == 0) {
                    mq_array_remove(g->inputs, &g->input_count, sizeof *g->inputs, k);
                }
            }
            mq_array_remove(g->initializers, &g->initializer_count, sizeof *g->initializers, i);
            removed++;
        }
    }
    return removed;
}

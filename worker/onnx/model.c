/* Life and look-ups of mq_model. */
#include "worker/onnx/model.h"

#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/onnx/build.h"

enum { ROOM_FIRST = 4 };

void *mq_grow(mq_arena *arena, void *array_ptr, uint32_t *count, uint32_t *room, size_t size)
{
    void *array;
    memcpy(&array, array_ptr, sizeof array);
    if (*count == *room) {
        uint32_t more = *room == 0 ? ROOM_FIRST : *room * 2;
        uint8_t *bigger = more < *room ? NULL : mq_arena_alloc(arena, more, size);
        if (bigger == NULL) {
            return NULL;
        }
        if (*count > 0) {
            memcpy(bigger, array, *count * size);
        }
        *room = more;
        array = bigger;
        memcpy(array_ptr, &array, sizeof array);
    }
    void *slot = (uint8_t *)array + (size_t)*count * size;
    (*count)++;
    return memset(slot, 0, size);
}

void mq_array_remove(void *array, uint32_t *count, size_t size, uint32_t index)
{
    MQ_ASSERT(index < *count);
    uint8_t *at = (uint8_t *)array + index * size;
    memmove(at, at + size, (*count - index - 1) * size);
    (*count)--;
}

mq_model *mq_model_blank(size_t memory_bytes_max)
{
    mq_arena arena;
    mq_arena_init(&arena, memory_bytes_max);
    mq_model *model = mq_arena_new(&arena, mq_model, 1);
    if (model == NULL) {
        mq_arena_release(&arena);
        return NULL;
    }
    *model = (mq_model){.producer_name = "", .producer_version = "", .domain = "", .arena = arena};
    model->graph.name = "";
    return model;
}

mq_code mq_model_new(mq_model **out, const char *graph_name, size_t memory_bytes_max, mq_error *err)
{
    *out = NULL;
    if (memory_bytes_max == 0) {
        memory_bytes_max = (size_t)1 << 30;
    }
    mq_model *model = mq_model_blank(memory_bytes_max);
    if (model != NULL) {
        model->ir_version = MQ_MODEL_IR;
        model->producer_name = "maasq";
        model->producer_version = MQ_VERSION;
        model->opsets[model->opset_count++] = (mq_opset){"", MQ_MODEL_OPSET};
        model->graph.name = mq_arena_str(&model->arena, mq_str(graph_name));
    }
    if (model == NULL || model->graph.name == NULL) {
        mq_model_free(model);
        return mq_fail(err, MQ_E_LIMIT, "no memory for a model (limit %zu bytes)",
                       memory_bytes_max);
    }
    *out = model;
    return MQ_OK;
}

mq_code mq_model_clone(mq_model **out, const mq_model *model, size_t memory_bytes_max,
                       mq_error *err)
{
    mq_buf bytes;
    mq_buf_init(&bytes, SIZE_MAX / 4);
    mq_code code = mq_model_save(model, &bytes, err);
    if (code == MQ_OK) {
        size_t limit = memory_bytes_max;
        if (limit == 0) {
            limit = ((size_t)1 << 30) + 4 * bytes.len;
        }
        code = mq_model_read(out, mq_buf_span(&bytes), true, limit, err);
    }
    mq_buf_release(&bytes);
    if (code == MQ_OK) {
        mq_graph *graph = &(*out)->graph;
        for (uint32_t i = 0; i < graph->initializer_count; i++) {
            graph->initializers[i].is_owned = graph->initializers[i].tensor.dtype != MQ_DT_STR;
        }
    }
    return code;
}

void mq_model_free(mq_model *model)
{
    if (model != NULL) {
        mq_arena arena = model->arena; /* the struct itself lies in it */
        mq_arena_release(&arena);
    }
}

int64_t mq_model_opset(const mq_model *model, const char *domain)
{
    if (strcmp(domain, "ai.onnx") == 0) {
        domain = "";
    }
    for (uint32_t i = 0; i < model->opset_count; i++) {
        if (strcmp(model->opsets[i].domain, domain) == 0) {
            return model->opsets[i].version;
        }
    }
    return 0;
}

const mq_init *mq_graph_init(const mq_graph *graph, const char *name)
{
    for (uint32_t i = 0; i < graph->initializer_count; i++) {
        if (strcmp(graph->initializers[i].name, name) == 0) {
            return &graph->initializers[i];
        }
    }
    return NULL;
}

const mq_value_info *mq_graph_input(const mq_graph *graph, const char *name)
{
    for (uint32_t i = 0; i < graph->input_count; i++) {
        if (strcmp(graph->inputs[i].name, name) == 0) {
            return &graph->inputs[i];
        }
    }
    return NULL;
}

const mq_attr *mq_node_attr(const mq_node *node, const char *name)
{
    for (uint32_t i = 0; i < node->attr_count; i++) {
        if (strcmp(node->attrs[i].name, name) == 0) {
            return &node->attrs[i];
        }
    }
    return NULL;
}

const char *mq_model_metadata(const mq_model *model, const char *key)
{
    for (uint32_t i = 0; i < model->metadata_count; i++) {
        if (strcmp(model->metadata[i].key, key) == 0) {
            return model->metadata[i].value;
        }
    }
    return NULL;
}

size_t mq_model_free_inputs(const mq_model *model, uint32_t *indices, size_t room)
{
    size_t count = 0;
    for (uint32_t i = 0; i < model->graph.input_count; i++) {
        if (model->graph.initializer_count > 0 &&
            mq_graph_init(&model->graph, model->graph.inputs[i].name) != NULL) {
            continue;
        }
        if (count < room) {
            indices[count] = i;
        }
        count++;
    }
    return count;
}

uint32_t mq_graph_producer(const mq_graph *graph, const char *value)
{
    for (uint32_t n = 0; n < graph->node_count; n++) {
        for (uint32_t i = 0; i < graph->nodes[n].output_count; i++) {
            if (strcmp(graph->nodes[n].outputs[i], value) == 0) {
                return n;
            }
        }
    }
    return UINT32_MAX;
}

uint32_t mq_graph_use_count(const mq_graph *graph, const char *value)
{
    uint32_t count = 0;
    for (uint32_t n = 0; n < graph->node_count; n++) {
        for (uint32_t i = 0; i < graph->nodes[n].input_count; i++) {
            count += strcmp(graph->nodes[n].inputs[i], value) == 0;
        }
        for (uint32_t i = 0; i < graph->nodes[n].attr_count; i++) {
            const mq_graph *inner = graph->nodes[n].attrs[i].graph;
            count += inner == NULL ? 0 : mq_graph_use_count(inner, value);
        }
    }
    for (uint32_t i = 0; i < graph->output_count; i++) {
        count += strcmp(graph->outputs[i].name, value) == 0;
    }
    return count;
}

void mq_model_sizes(const mq_model *model, size_t *elements, size_t *bytes)
{
    *elements = 0;
    *bytes = 0;
    for (uint32_t i = 0; i < model->graph.initializer_count; i++) {
        const mq_tensor *t = &model->graph.initializers[i].tensor;
        size_t each = t->dtype == MQ_DT_STR ? sizeof(mq_span) : mq_dtype_bytes(t->dtype);
        *elements += t->bytes / each;
        *bytes += t->bytes;
    }
}

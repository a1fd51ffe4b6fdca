/* FunctionProto to mq_function: names, attributes with their defaults, nodes whose attributes may
 * refer to the call's. Must not know calls. Source: FunctionProto of onnx.proto3. */
#include <stdlib.h>

#include "worker/onnx/functions.h"

static const char *domain_of(const char *name)
{
    return strcmp(name, "ai.onnx") == 0 ? "" : name;
}

static bool read_opset_of(mq_pb *pb, mq_loader *l, const mq_pb_field *field, mq_function *fn)
{
    mq_arena *arena = &l->model->arena;
    if (fn->opset_count == MQ_MODEL_OPSETS_MAX) {
        return mq_pb_fail(pb, field->offset, MQ_E_LIMIT,
                          "function '%s': more than %d opset imports", fn->name,
                          MQ_MODEL_OPSETS_MAX);
    }
    mq_opset *opset = mq_grow(arena, &fn->opsets, &fn->opset_count, &fn->opset_room, sizeof *opset);
    if (opset == NULL) {
        return mq_read_full(pb, field->offset);
    }
    opset->domain = "";
    mq_pb nested = mq_pb_nested(pb, field);
    mq_pb_field f;
    while (mq_pb_next(&nested, &f)) {
        if (f.number == 1) {
            const char *name = mq_read_name(&nested, arena, &f, "OperatorSetIdProto.domain");
            opset->domain = name == NULL ? "" : domain_of(name);
        } else if (f.number == 2) {
            opset->version = (int64_t)f.value;
        }
    }
    return mq_read_join(pb, &nested);
}

static bool read_name_into(mq_pb *pb, mq_loader *l, const mq_pb_field *f, const char ***list,
                           uint32_t *count, uint32_t *room)
{
    const char *name = mq_read_name(pb, &l->model->arena, f, "FunctionProto input or output");
    const char **slot = name == NULL || *count == MQ_MODEL_ARGS_MAX
                            ? NULL
                            : mq_grow(&l->model->arena, list, count, room, sizeof *slot);
    if (slot == NULL) {
        return pb->code == MQ_OK ? mq_read_full(pb, f->offset) : false;
    }
    *slot = name;
    return true;
}

static bool read_body_node(mq_pb *pb, mq_loader *l, const mq_pb_field *f, mq_function *fn)
{
    mq_pb nested = mq_pb_nested(pb, f);
    bool is_read = mq_read_counted_node(&nested, l);
    if (!mq_read_join(pb, &nested) || !is_read) {
        return false;
    }
    mq_node *node =
        mq_grow(&l->model->arena, &fn->nodes, &fn->node_count, &fn->node_room, sizeof *node);
    if (node == NULL) {
        return mq_read_full(pb, f->offset);
    }
    *node = l->node;
    return true;
}

static bool read_default(mq_pb *pb, mq_loader *l, const mq_pb_field *f, mq_function *fn)
{
    if (fn->default_count == MQ_MODEL_ATTRS_MAX) {
        return mq_pb_fail(pb, f->offset, MQ_E_LIMIT, "function '%s': more than %d attributes",
                          fn->name, MQ_MODEL_ATTRS_MAX);
    }
    mq_attr *attr = mq_grow(&l->model->arena, &fn->defaults, &fn->default_count, &fn->default_room,
                            sizeof *attr);
    if (attr == NULL) {
        return mq_read_full(pb, f->offset);
    }
    mq_pb nested = mq_pb_nested(pb, f);
    l->is_function = false; /* a default is a value, it cannot refer to one */
    mq_read_attr(&nested, l, attr);
    l->is_function = true;
    return mq_read_join(pb, &nested);
}

static bool read_field(mq_pb *pb, mq_loader *l, const mq_pb_field *f, mq_function *fn)
{
    mq_arena *arena = &l->model->arena;
    switch (f->number) {
    case 1:
    case 10: {
        const char *text = mq_read_name(pb, arena, f, "FunctionProto.name or domain");
        *(f->number == 1 ? &fn->name : &fn->domain) = text == NULL ? "" : domain_of(text);
        return text != NULL;
    }
    case 4:
        return read_name_into(pb, l, f, &fn->inputs, &fn->input_count, &fn->input_room);
    case 5:
        return read_name_into(pb, l, f, &fn->outputs, &fn->output_count, &fn->output_room);
    case 7:
        return mq_pb_want(pb, f, MQ_PB_BYTES, "FunctionProto.node") && read_body_node(pb, l, f, fn);
    case 9:
        return mq_pb_want(pb, f, MQ_PB_BYTES, "FunctionProto.opset_import") &&
               read_opset_of(pb, l, f, fn);
    case 11:
        return mq_pb_want(pb, f, MQ_PB_BYTES, "FunctionProto.attribute_proto") &&
               read_default(pb, l, f, fn);
    case 13:
        return f->bytes.len == 0 ||
               mq_pb_fail(pb, f->offset, MQ_E_UNSUPPORTED,
                          "function '%s': overloads are not supported; give it a name of its own",
                          fn->name);
    default:
        return true;
    }
}

static int compare_formals(const void *a, const void *b)
{
    const mq_formal *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : (int)x->is_output - (int)y->is_output;
}

/* Sorts the names of inputs and outputs, so that they are found fast; each may be there once. */
static bool sort_formals(mq_pb *pb, mq_loader *l, mq_function *fn)
{
    size_t offset = (size_t)(pb->at - pb->base), count = fn->input_count + fn->output_count;
    fn->formals = mq_arena_new(&l->model->arena, mq_formal, count + 1);
    if (fn->formals == NULL) {
        return mq_read_full(pb, offset);
    }
    for (uint32_t i = 0; i < count; i++) {
        bool is_output = i >= fn->input_count;
        uint32_t at = is_output ? i - fn->input_count : i;
        fn->formals[i] = (mq_formal){is_output ? fn->outputs[at] : fn->inputs[at], is_output, at};
    }
    qsort(fn->formals, count, sizeof *fn->formals, compare_formals);
    for (size_t i = 1; i < count; i++) {
        if (compare_formals(&fn->formals[i - 1], &fn->formals[i]) == 0) {
            return mq_pb_fail(pb, offset, MQ_E_FORMAT, "function '%s': '%s' is given twice",
                              fn->name, fn->formals[i].name);
        }
    }
    return true;
}

bool mq_read_function(mq_pb *pb, mq_loader *l)
{
    mq_function fn = {.name = "", .domain = ""};
    mq_pb_field f;
    l->is_function = true;
    while (mq_pb_next(pb, &f) && read_field(pb, l, &f, &fn)) {
    }
    l->is_function = false;
    if (pb->code != MQ_OK || !sort_formals(pb, l, &fn)) {
        return false;
    }
    if (l->function_count == MQ_MODEL_FUNCTIONS_MAX) {
        return mq_pb_fail(pb, (size_t)(pb->at - pb->base), MQ_E_LIMIT, "more than %d functions",
                          MQ_MODEL_FUNCTIONS_MAX);
    }
    mq_function *slot = mq_grow(&l->model->arena, &l->functions, &l->function_count,
                                &l->function_room, sizeof *slot);
    if (slot == NULL) {
        return mq_read_full(pb, (size_t)(pb->at - pb->base));
    }
    *slot = fn;
    return true;
}

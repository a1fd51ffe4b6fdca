/* Layers as weights and nodes; see builder.h. It knows no architecture. */
#include "worker/models/builder.h"

#include <stdio.h>
#include <stdlib.h>

#include "worker/train/init.h"

static mq_built name_of(const char *layer, const char *part)
{
    mq_built out;
    (void)snprintf(out.name, sizeof out.name, "%s%s%s", layer, part[0] == '\0' ? "" : ".", part);
    return out;
}

mq_built mq_build_input(mq_builder *b, uint32_t rank, const int64_t *dims)
{
    mq_value_info x = {"input", MQ_DT_F32, (int32_t)rank + 1, {-1}, {"N"}};
    for (uint32_t i = 0; i < rank; i++) {
        x.dims[i + 1] = dims[i];
    }
    if (b->code == MQ_OK) {
        b->code = mq_model_set_input(b->model, &x, b->err);
    }
    return name_of("input", "");
}

static void put(mq_builder *b, const mq_built *name, mq_dtype dtype, const mq_shape *shape,
                mq_span bytes)
{
    if (b->code == MQ_OK) {
        b->code = mq_model_set_init(b->model, name->name, dtype, shape, bytes, b->err);
    }
}

static void draw(mq_builder *b, mq_first first, int64_t fan_in, int64_t fan_out, float *out,
                 size_t count)
{
    switch (first) {
    case MQ_FIRST_ZERO:
    case MQ_FIRST_ONE:
        for (size_t i = 0; i < count; i++) {
            out[i] = first == MQ_FIRST_ONE ? 1.0F : 0.0F;
        }
        return;
    case MQ_FIRST_HE:
        mq_init_he(b->seed, b->tensors++, (size_t)fan_in, out, count);
        return;
    case MQ_FIRST_XAVIER:
        mq_init_xavier(b->seed, b->tensors++, (size_t)fan_in, (size_t)fan_out, out, count);
        return;
    case MQ_FIRST_NORMAL:
        mq_init_normal(b->seed, b->tensors++, 0.02F, out, count);
        return;
    }
}

mq_built mq_build_weight(mq_builder *b, const char *layer, const char *part, const mq_shape *shape,
                         mq_first first, int64_t fan_in, int64_t fan_out)
{
    mq_built out = name_of(layer, part);
    size_t count = 0;
    if (b->code != MQ_OK) {
        return out;
    }
    b->code = mq_shape_count(shape, &count, b->err);
    b->params += (int64_t)count;
    if (b->code == MQ_OK && (count > MQ_ARCH_PARAMS_MAX || b->params > MQ_ARCH_PARAMS_MAX)) {
        b->code = mq_fail(b->err, MQ_E_ARG, "more than %d parameters", MQ_ARCH_PARAMS_MAX);
    }
    float *w = b->code == MQ_OK ? calloc(count, sizeof *w) : NULL;
    if (b->code == MQ_OK && w == NULL) {
        b->code = mq_fail(b->err, MQ_E_LIMIT, "no memory for %zu weights", count);
    }
    if (b->code == MQ_OK) {
        draw(b, first, fan_in, fan_out, w, count);
        put(b, &out, MQ_DT_F32, shape, mq_span_of(w, count * sizeof *w));
    }
    free(w);
    return out;
}

mq_built mq_build_ints(mq_builder *b, const char *layer, const char *part, const int64_t *values,
                       uint32_t count)
{
    mq_built out = name_of(layer, part);
    put(b, &out, MQ_DT_I64, &(mq_shape){1, {count}}, mq_span_of(values, count * sizeof *values));
    return out;
}

mq_built mq_build_real(mq_builder *b, const char *layer, const char *part, float value)
{
    mq_built out = name_of(layer, part);
    put(b, &out, MQ_DT_F32, &(mq_shape){0, {0}}, mq_span_of(&value, sizeof value));
    return out;
}

mq_built mq_build_node(mq_builder *b, const char *op, const char *layer, const mq_built *ins,
                       uint32_t count)
{
    mq_built out = name_of(layer, "out");
    const char *names[MQ_BUILDER_INS_MAX], *outs[] = {out.name};
    for (uint32_t i = 0; i < count && i < MQ_BUILDER_INS_MAX; i++) {
        names[i] = ins[i].name;
    }
    mq_node_spec spec = {op, "", layer, names, count, outs, 1};
    if (b->code == MQ_OK) {
        b->code = mq_model_add_node(b->model, b->model->graph.node_count, &spec, NULL, b->err);
    }
    return out;
}

mq_built mq_build_one(mq_builder *b, const char *op, const char *layer, mq_built x)
{
    return mq_build_node(b, op, layer, &x, 1);
}

mq_built mq_build_two(mq_builder *b, const char *op, const char *layer, mq_built x, mq_built y)
{
    mq_built ins[] = {x, y};
    return mq_build_node(b, op, layer, ins, 2);
}

static mq_node *last_node(mq_builder *b)
{
    return &b->model->graph.nodes[b->model->graph.node_count - 1];
}

void mq_build_int(mq_builder *b, const char *name, int64_t value)
{
    if (b->code == MQ_OK) {
        b->code = mq_node_set_int(b->model, last_node(b), name, value, b->err);
    }
}

void mq_build_float(mq_builder *b, const char *name, float value)
{
    if (b->code == MQ_OK) {
        b->code = mq_node_set_float(b->model, last_node(b), name, value, b->err);
    }
}

void mq_build_list(mq_builder *b, const char *name, const int64_t *values, uint32_t count)
{
    if (b->code == MQ_OK) {
        b->code = mq_node_set_ints(b->model, last_node(b), name, values, count, b->err);
    }
}

mq_built mq_build_gemm(mq_builder *b, const char *layer, mq_built x, int64_t in, int64_t out,
                       mq_first first)
{
    mq_built ins[3] = {x};
    ins[1] = mq_build_weight(b, layer, "weight", &(mq_shape){2, {out, in}}, first, in, out);
    ins[2] = mq_build_weight(b, layer, "bias", &(mq_shape){1, {out}}, MQ_FIRST_ZERO, 0, 0);
    mq_built y = mq_build_node(b, "Gemm", layer, ins, 3);
    mq_build_int(b, "transB", 1);
    return y;
}

mq_built mq_build_linear(mq_builder *b, const char *layer, mq_built x, int64_t in, int64_t out,
                         mq_first first)
{
    char product[MQ_BUILDER_NAME_SIZE];
    (void)snprintf(product, sizeof product, "%.50s.product", layer);
    mq_built w = mq_build_weight(b, layer, "weight", &(mq_shape){2, {in, out}}, first, in, out);
    mq_built bias = mq_build_weight(b, layer, "bias", &(mq_shape){1, {out}}, MQ_FIRST_ZERO, 0, 0);
    return mq_build_two(b, "Add", layer, mq_build_two(b, "MatMul", product, x, w), bias);
}

static void add_window(mq_builder *b, mq_window w)
{
    mq_build_list(b, "kernel_shape", (int64_t[]){w.size, w.size}, 2);
    mq_build_list(b, "strides", (int64_t[]){w.stride, w.stride}, 2);
    mq_build_list(b, "pads", (int64_t[]){w.pad, w.pad, w.pad, w.pad}, 4);
}

mq_built mq_build_conv(mq_builder *b, const char *layer, mq_built x, int64_t in, int64_t out,
                       mq_window w, bool has_bias)
{
    mq_built ins[3] = {x};
    ins[1] = mq_build_weight(b, layer, "weight", &(mq_shape){4, {out, in, w.size, w.size}},
                             MQ_FIRST_HE, in * w.size * w.size, out);
    if (has_bias) {
        ins[2] = mq_build_weight(b, layer, "bias", &(mq_shape){1, {out}}, MQ_FIRST_ZERO, 0, 0);
    }
    mq_built y = mq_build_node(b, "Conv", layer, ins, has_bias ? 3 : 2);
    add_window(b, w);
    return y;
}

mq_built mq_build_max_pool(mq_builder *b, const char *layer, mq_built x, mq_window w)
{
    mq_built y = mq_build_one(b, "MaxPool", layer, x);
    add_window(b, w);
    return y;
}

mq_built mq_build_batch_norm(mq_builder *b, const char *layer, mq_built x, int64_t channels)
{
    const mq_shape shape = {1, {channels}};
    mq_built ins[5] = {x};
    ins[1] = mq_build_weight(b, layer, "weight", &shape, MQ_FIRST_ONE, 0, 0);
    ins[2] = mq_build_weight(b, layer, "bias", &shape, MQ_FIRST_ZERO, 0, 0);
    ins[3] = mq_build_weight(b, layer, "running_mean", &shape, MQ_FIRST_ZERO, 0, 0);
    ins[4] = mq_build_weight(b, layer, "running_var", &shape, MQ_FIRST_ONE, 0, 0);
    return mq_build_node(b, "BatchNormalization", layer, ins, 5);
}

mq_built mq_build_layer_norm(mq_builder *b, const char *layer, mq_built x, int64_t width)
{
    const mq_shape shape = {1, {width}};
    mq_built ins[3] = {x};
    ins[1] = mq_build_weight(b, layer, "weight", &shape, MQ_FIRST_ONE, 0, 0);
    ins[2] = mq_build_weight(b, layer, "bias", &shape, MQ_FIRST_ZERO, 0, 0);
    return mq_build_node(b, "LayerNormalization", layer, ins, 3);
}

void mq_build_output(mq_builder *b, const char *name, int64_t width)
{
    mq_value_info y = {name, MQ_DT_F32, 2, {-1, width}, {"N"}};
    if (b->code == MQ_OK) {
        b->code = mq_node_set_output(b->model, last_node(b), 0, name, b->err);
    }
    if (b->code == MQ_OK) {
        b->code = mq_model_set_output(b->model, &y, b->err);
    }
}

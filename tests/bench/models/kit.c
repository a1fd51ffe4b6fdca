/* Values, weights and nodes of benchmark models; see kit.h. It knows no architecture. */
#include "tests/bench/models/kit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_BYTES_MAX ((size_t)2 << 30)

void kit_must(mq_code code, const mq_error *err)
{
    if (code != MQ_OK) {
        fprintf(stderr, "%s\n", err->text);
        exit(1);
    }
}

static void *must_alloc(size_t count, size_t size)
{
    void *p = calloc(count, size);
    if (p == NULL) {
        fprintf(stderr, "no memory for %zu elements\n", count);
        exit(1);
    }
    return p;
}

static kit_value named(kit *k, const char *prefix)
{
    kit_value v = {.scale = 0};
    (void)snprintf(v.name, sizeof v.name, "%s%u", prefix, k->count++);
    return v;
}

/* About normal, deviation 1: four 16 bit numbers added. */
static float draw(kit *k)
{
    uint64_t z = mq_prng_next(&k->prng);
    uint64_t sum = (z & 65535) + (z >> 16 & 65535) + (z >> 32 & 65535) + (z >> 48);
    return ((float)sum - 131070.0F) / 37837.0F;
}

static size_t count_of(const mq_shape *shape)
{
    size_t count = 1;
    for (int32_t i = 0; i < shape->rank; i++) {
        count *= (size_t)shape->dims[i];
    }
    return count;
}

void kit_begin(kit *k, uint64_t seed, bool is_int8, int64_t opset)
{
    mq_error err;
    *k = (kit){.prng = {seed}, .is_int8 = is_int8};
    kit_must(mq_model_new(&k->model, "bench", MODEL_BYTES_MAX, &err), &err);
    kit_must(mq_model_set_opset(k->model, "", opset, &err), &err);
}

static mq_value_info info_of(const char *name, mq_dtype dtype, int32_t rank, const int64_t *dims)
{
    mq_value_info info = {.name = name, .dtype = dtype, .rank = rank};
    for (int32_t i = 0; i < rank; i++) {
        info.dims[i] = dims[i];
        info.dim_names[i] = dims[i] < 0 ? "N" : NULL;
    }
    return info;
}

kit_value kit_input(kit *k, const char *name, mq_dtype dtype, int32_t rank, const int64_t *dims)
{
    mq_error err;
    kit_value v = {.scale = 0};
    mq_value_info info = info_of(name, dtype, rank, dims);
    (void)snprintf(v.name, sizeof v.name, "%s", name);
    kit_must(mq_model_set_input(k->model, &info, &err), &err);
    return v;
}

void kit_output(kit *k, kit_value v, const char *name, int32_t rank, const int64_t *dims)
{
    mq_error err;
    mq_value_info info = info_of(name, MQ_DT_F32, rank, dims);
    mq_node *nodes = k->model->graph.nodes;
    uint32_t at = mq_graph_producer(&k->model->graph, v.name);
    kit_must(mq_model_replace_uses(k->model, v.name, name, &err), &err);
    kit_must(mq_node_set_output(k->model, &nodes[at], 0, name, &err), &err);
    kit_must(mq_model_set_output(k->model, &info, &err), &err);
}

kit_value kit_bytes(kit *k, mq_dtype dtype, const mq_shape *shape, const void *data, size_t len)
{
    mq_error err;
    kit_value v = named(k, "c");
    kit_must(mq_model_set_init(k->model, v.name, dtype, shape, mq_span_of(data, len), &err), &err);
    return v;
}

kit_value kit_normal(kit *k, const mq_shape *shape, float mean, float scale)
{
    size_t count = count_of(shape);
    float *w = must_alloc(count, sizeof *w);
    for (size_t i = 0; i < count; i++) {
        w[i] = mean + scale * draw(k);
    }
    kit_value v = kit_bytes(k, MQ_DT_F32, shape, w, count * sizeof *w);
    free(w);
    return v;
}

kit_value kit_real(kit *k, float value)
{
    return kit_bytes(k, MQ_DT_F32, &(mq_shape){.rank = 0}, &value, sizeof value);
}

kit_value kit_ints(kit *k, const int64_t *values, int32_t count)
{
    return kit_bytes(k, MQ_DT_I64, &(mq_shape){1, {count}}, values, (size_t)count * sizeof *values);
}

void kit_node_many(kit *k, const char *op, const kit_value *inputs, uint32_t count,
                   kit_value *outputs, uint32_t output_count)
{
    mq_error err;
    const char *ins[8], *outs[4];
    for (uint32_t i = 0; i < count && i < 8; i++) {
        ins[i] = inputs[i].name;
    }
    for (uint32_t i = 0; i < output_count && i < 4; i++) {
        outputs[i] = named(k, "v");
        outs[i] = outputs[i].name;
    }
    const mq_node_spec spec = {op, "", outputs[0].name, ins, count, outs, output_count};
    kit_must(mq_model_add_node(k->model, k->model->graph.node_count, &spec, NULL, &err), &err);
}

kit_value kit_node(kit *k, const char *op, const kit_value *inputs, uint32_t count)
{
    kit_value v;
    kit_node_many(k, op, inputs, count, &v, 1);
    return v;
}

static mq_node *last(kit *k)
{
    return &k->model->graph.nodes[k->model->graph.node_count - 1];
}

void kit_int(kit *k, const char *name, int64_t value)
{
    mq_error err;
    kit_must(mq_node_set_int(k->model, last(k), name, value, &err), &err);
}

void kit_float(kit *k, const char *name, float value)
{
    mq_error err;
    kit_must(mq_node_set_float(k->model, last(k), name, value, &err), &err);
}

void kit_list(kit *k, const char *name, const int64_t *values, size_t count)
{
    mq_error err;
    kit_must(mq_node_set_ints(k->model, last(k), name, values, count, &err), &err);
}

kit_value kit_qdq(kit *k, kit_value x, float scale, uint8_t zero)
{
    if (!k->is_int8) {
        return x;
    }
    kit_value s = kit_real(k, scale);
    kit_value z = kit_bytes(k, MQ_DT_U8, &(mq_shape){.rank = 0}, &zero, 1);
    kit_value y = KIT_NODE(k, "DequantizeLinear", KIT_NODE(k, "QuantizeLinear", x, s, z), s, z);
    y.scale = scale;
    y.zero = zero;
    return y;
}

kit_value kit_weights_int8(kit *k, const mq_shape *shape, int64_t axis, float deviation, float *all)
{
    size_t count = count_of(shape), channels = (size_t)shape->dims[axis];
    int8_t *w = must_alloc(count, 1), *zeros = must_alloc(channels, 1);
    for (size_t i = 0; i < count; i++) {
        w[i] = (int8_t)lrintf(fmaxf(-127.0F, fminf(127.0F, draw(k) * 32.0F)));
    }
    for (size_t i = 0; i < channels; i++) {
        all[i] = deviation / 32.0F * (0.8F + 0.4F * (float)mq_prng_below(&k->prng, 1000) * 0.001F);
    }
    const mq_shape line = {1, {(int64_t)channels}};
    kit_value q = kit_bytes(k, MQ_DT_I8, shape, w, count);
    kit_value s = kit_bytes(k, MQ_DT_F32, &line, all, channels * sizeof *all);
    kit_value z = kit_bytes(k, MQ_DT_I8, &line, zeros, channels);
    free(w);
    free(zeros);
    kit_value y = KIT_NODE(k, "DequantizeLinear", q, s, z);
    kit_int(k, "axis", axis);
    return y;
}

kit_value kit_bias_int32(kit *k, int64_t count, float input_scale, const float *weight_scales)
{
    const mq_shape line = {1, {count}};
    int32_t *bias = must_alloc((size_t)count, sizeof *bias),
            *zeros = must_alloc((size_t)count, sizeof *zeros);
    float *scales = must_alloc((size_t)count, sizeof *scales);
    for (int64_t i = 0; i < count; i++) {
        scales[i] = input_scale * weight_scales[i];
        bias[i] = (int32_t)lrintf(0.1F * draw(k) / scales[i]);
    }
    kit_value b = kit_bytes(k, MQ_DT_I32, &line, bias, (size_t)count * sizeof *bias);
    kit_value s = kit_bytes(k, MQ_DT_F32, &line, scales, (size_t)count * sizeof *scales);
    kit_value z = kit_bytes(k, MQ_DT_I32, &line, zeros, (size_t)count * sizeof *zeros);
    free(bias);
    free(zeros);
    free(scales);
    kit_value y = KIT_NODE(k, "DequantizeLinear", b, s, z);
    kit_int(k, "axis", 0);
    return y;
}

/* Writing benchmark models: values are numbered as they are made, weights are drawn from one seed
 * and scaled so that numbers neither grow nor die through the layers. A program for benchmarks
 * only: what goes wrong ends it with a message. */
#ifndef MQ_TESTS_BENCH_MODELS_KIT_H
#define MQ_TESTS_BENCH_MODELS_KIT_H

#include "shared/base/prng.h"
#include "worker/onnx/model.h"

/* A value of the graph by name; in quantized models also the scale and zero point of the uint8 form
 * that it was dequantized from. */
typedef struct kit_value {
    char name[24];
    float scale;
    uint8_t zero;
} kit_value;

typedef struct kit {
    mq_model *model;
    mq_prng prng;
    uint32_t count;
    bool is_int8; /* QDQ around convolutions and products, or dynamic int8 (bert, mlp) */
} kit;

void kit_must(mq_code code, const mq_error *err);

/* A new empty model at this opset; N is free in all inputs and outputs. */
void kit_begin(kit *k, uint64_t seed, bool is_int8, int64_t opset);
kit_value kit_input(kit *k, const char *name, mq_dtype dtype, int32_t rank, const int64_t *dims);
void kit_output(kit *k, kit_value v, const char *name, int32_t rank, const int64_t *dims);

/* Constants. normal: deviation `scale` around `mean`. */
kit_value kit_normal(kit *k, const mq_shape *shape, float mean, float scale);
kit_value kit_real(kit *k, float value);
kit_value kit_ints(kit *k, const int64_t *values, int32_t count);
kit_value kit_bytes(kit *k, mq_dtype dtype, const mq_shape *shape, const void *data, size_t len);

/* A node with one output, or with as many as given. */
kit_value kit_node(kit *k, const char *op, const kit_value *inputs, uint32_t count);
void kit_node_many(kit *k, const char *op, const kit_value *inputs, uint32_t count,
                   kit_value *outputs, uint32_t output_count);
#define KIT_NODE(k, op, ...)                                                                       \
    kit_node(k, op, (const kit_value[]){__VA_ARGS__},                                              \
             (uint32_t)(sizeof((const kit_value[]){__VA_ARGS__}) / sizeof(kit_value)))

/* Attributes of the node added last. */
void kit_int(kit *k, const char *name, int64_t value);
void kit_float(kit *k, const char *name, float value);
void kit_list(kit *k, const char *name, const int64_t *values, size_t count);

/* QuantizeLinear and DequantizeLinear, to uint8, behind a value; in float models the value. */
kit_value kit_qdq(kit *k, kit_value x, float scale, uint8_t zero);

/* int8 weights, symmetric, dequantized along `axis` by one scale for each of its elements, which
 * all[] also receives, and an int32 bias whose scale is exactly input scale x weight scale. */
kit_value kit_weights_int8(kit *k, const mq_shape *shape, int64_t axis, float deviation,
                           float *all);
kit_value kit_bias_int32(kit *k, int64_t count, float input_scale, const float *weight_scales);

/* The models: worker of each row of models.def. */
typedef void kit_make(kit *k);

#endif

/* Building graphs layer by layer: each call adds weights and nodes and gives the value they make.
 * The first error is kept and makes every later call do nothing, so that a builder reads as a list
 * of layers and looks at the end. Tensors are numbered as they are added: text and seed of an
 * architecture decide every bit. */
#ifndef MQ_WORKER_MODELS_BUILDER_H
#define MQ_WORKER_MODELS_BUILDER_H

#include "worker/models/arch.h"

enum { MQ_BUILDER_NAME_SIZE = 64, MQ_BUILDER_INS_MAX = 5 };

/* A value of the graph by name; by value, so that layers chain. */
typedef struct mq_built {
    char name[MQ_BUILDER_NAME_SIZE];
} mq_built;

typedef struct mq_builder {
    mq_model *model;
    uint64_t seed;
    uint32_t tensors; /* random ones so far: the number of the next for init.h */
    int64_t params;   /* trainable numbers so far, at most MQ_ARCH_PARAMS_MAX */
    mq_code code;
    mq_error *err;
} mq_builder;

/* How first weights are drawn (init.h). */
typedef enum mq_first {
    MQ_FIRST_ZERO,
    MQ_FIRST_ONE,
    MQ_FIRST_HE,     /* before a ReLU */
    MQ_FIRST_XAVIER, /* otherwise */
    MQ_FIRST_NORMAL, /* embeddings: deviation 0.02 */
} mq_first;

/* Input "input" [N, dims...] and its value. */
mq_built mq_build_input(mq_builder *b, uint32_t rank, const int64_t *dims);

/* A float32 weight; fans are those of the matrix it stands for. */
mq_built mq_build_weight(mq_builder *b, const char *layer, const char *part, const mq_shape *shape,
                         mq_first first, int64_t fan_in, int64_t fan_out);

/* A constant list of int64, for Reshape, and a constant float. */
mq_built mq_build_ints(mq_builder *b, const char *layer, const char *part, const int64_t *values,
                       uint32_t count);
mq_built mq_build_real(mq_builder *b, const char *layer, const char *part, float value);

/* A node with one output "<layer>.out"; returns it. ins: count names. */
mq_built mq_build_node(mq_builder *b, const char *op, const char *layer, const mq_built *ins,
                       uint32_t count);
mq_built mq_build_one(mq_builder *b, const char *op, const char *layer, mq_built x);
mq_built mq_build_two(mq_builder *b, const char *op, const char *layer, mq_built x, mq_built y);

/* Attributes of the node added last. */
void mq_build_int(mq_builder *b, const char *name, int64_t value);
void mq_build_float(mq_builder *b, const char *name, float value);
void mq_build_list(mq_builder *b, const char *name, const int64_t *values, uint32_t count);

/* y = x W^T + b with W [out, in], for x of two dimensions. */
mq_built mq_build_gemm(mq_builder *b, const char *layer, mq_built x, int64_t in, int64_t out,
                       mq_first first);

/* y = x W + b with W [in, out], for x of any rank. */
mq_built mq_build_linear(mq_builder *b, const char *layer, mq_built x, int64_t in, int64_t out,
                         mq_first first);

/* Square windows, equal padding on all sides. Convolutions with a bias of zeros or none. */
typedef struct mq_window {
    int64_t size, stride, pad;
} mq_window;
mq_built mq_build_conv(mq_builder *b, const char *layer, mq_built x, int64_t in, int64_t out,
                       mq_window w, bool has_bias);
mq_built mq_build_max_pool(mq_builder *b, const char *layer, mq_built x, mq_window w);

/* Normalization over the batch and all positions of each channel, with running moments; and over
 * the last dimension. */
mq_built mq_build_batch_norm(mq_builder *b, const char *layer, mq_built x, int64_t channels);
mq_built mq_build_layer_norm(mq_builder *b, const char *layer, mq_built x, int64_t width);

/* What the node added last makes becomes the graph's output [N, width] of this name. */
void mq_build_output(mq_builder *b, const char *name, int64_t width);

#endif

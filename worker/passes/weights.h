/* The weights of a model that compression works on: float32 initializers with at least two
 * dimensions that Gemm, MatMul or a convolution multiplies by. Biases are left alone. */
#ifndef MQ_WORKER_PASSES_WEIGHTS_H
#define MQ_WORKER_PASSES_WEIGHTS_H

#include "worker/onnx/model.h"

typedef struct mq_weight {
    const char *name; /* borrowed from the model */
    mq_shape shape;
    size_t count;
    int32_t out_axis; /* dimension of the outputs (neurons, channels) */
    float *values;    /* owned copy, in the model's order */
} mq_weight;

typedef struct mq_weights {
    mq_weight *list; /* owned, in the model's order of initializers, each once */
    size_t count;
    size_t elements; /* of all */
} mq_weights;

/* Copies them out. MQ_E_NUMERIC names a tensor with NaN or infinity. Release also after an error.
 */
MQ_MUST_USE mq_code mq_weights_get(mq_weights *out, const mq_model *model, mq_error *err);
void mq_weights_release(mq_weights *weights);

/* Writes one back. */
MQ_MUST_USE mq_code mq_weight_set(const mq_weight *weight, mq_model *model, mq_error *err);

/* One output's elements: outer blocks of `inner` neighbours, `step` apart, the first at
 * channel * inner. channels = shape.dims[out_axis]. */
typedef struct mq_weight_rows {
    size_t channels, outer, inner, step;
} mq_weight_rows;

mq_weight_rows mq_weight_rows_of(const mq_weight *weight);

#endif

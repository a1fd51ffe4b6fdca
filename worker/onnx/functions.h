/* Inside worker/onnx only: a model-local function between reading (load_function.c) and putting it
 * in place of its calls (functions.c). All in the model's arena. */
#ifndef MQ_WORKER_ONNX_FUNCTIONS_H
#define MQ_WORKER_ONNX_FUNCTIONS_H

#include "worker/onnx/build.h"

/* An input or output of a function, sorted by name; of equal names the input is first. */
typedef struct mq_formal {
    const char *name;
    bool is_output;
    uint32_t position;
} mq_formal;

struct mq_function {
    const char *name, *domain;
    const char **inputs, **outputs;
    mq_formal *formals; /* input_count + output_count */
    mq_attr *defaults;
    mq_node *nodes;
    mq_opset *opsets;
    uint32_t input_count, output_count, default_count, node_count, opset_count;
    uint32_t input_room, output_room, default_room, node_room, opset_room;
};

#endif

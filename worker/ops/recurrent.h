/* What RNN, GRU and LSTM share: attributes, shapes, the loop over time. Each file gives what one
 * step of time does (onnx.ai/onnx/operators: RNN-22, GRU-22, LSTM-22). */
#ifndef MQ_WORKER_OPS_RECURRENT_H
#define MQ_WORKER_OPS_RECURRENT_H

#include "worker/ops/kit.h"

typedef enum mq_activate {
    MQ_ACTIVATE_SIGMOID,
    MQ_ACTIVATE_TANH,
    MQ_ACTIVATE_RELU,
    MQ_ACTIVATE_AFFINE,
    MQ_ACTIVATE_LEAKY_RELU,
    MQ_ACTIVATE_THRESHOLDED_RELU,
    MQ_ACTIVATE_SCALED_TANH,
    MQ_ACTIVATE_HARD_SIGMOID,
    MQ_ACTIVATE_ELU,
    MQ_ACTIVATE_SOFTSIGN,
    MQ_ACTIVATE_SOFTPLUS,
} mq_activate;

typedef struct mq_activation {
    mq_activate kind;
    float alpha, beta;
} mq_activation;

enum { MQ_RECURRENT_ACTS_MAX = 6 }; /* three for each of two directions */

typedef struct mq_recurrent_attrs {
    mq_floats alpha, beta;
    mq_strings activations;
    mq_span direction;
    float clip; /* 0: none */
    int64_t hidden_size, layout, linear_before_reset, input_forget, output_sequence;
    mq_activation acts[MQ_RECURRENT_ACTS_MAX]; /* parsed */
    uint32_t acts_each;                        /* of one direction */
    int32_t directions;
    bool is_reversed; /* the first direction */
} mq_recurrent_attrs;

extern const mq_attr_spec mq_recurrent_specs[];

/* acts_each and the activations' defaults follow from the operator's name. */
mq_code mq_recurrent_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err);
mq_code mq_recurrent_shape(const mq_op_call *call, mq_error *err);
size_t mq_recurrent_scratch(const mq_op_call *call);

/* One direction at one step of time: rows of a batch. Lengths in floats. */
typedef struct mq_recurrent_step {
    const mq_recurrent_attrs *attrs;
    const mq_activation *acts;
    size_t batch, hidden, gates;
    const float *r;         /* [gates * hidden, hidden] */
    const float *r_bias;    /* [gates * hidden], or NULL */
    const float *peepholes; /* [3 * hidden], or NULL */
    const bool *is_active;  /* by row: false past its length */
    float **x;    /* by row: input times W plus biases, [gates * hidden]; may be changed */
    float *rec;   /* room: [batch, gates * hidden] */
    float *room;  /* [batch, hidden] */
    float *h, *c; /* [batch, hidden]: before, and to be replaced in active rows */
} mq_recurrent_step;

/* mq_op.run of the three, with what a step does. r_bias goes into x at once, but for the last
 * gate of a GRU that resets after the product: that one a step adds itself. */
mq_code mq_recurrent_run(const mq_op_call *call, size_t gates,
                         void (*step)(const mq_recurrent_step *s), mq_error *err);

/* rec = h R[from .. from + count gates]^T, rows as wide as all gates. */
void mq_recurrent_product(const mq_recurrent_step *s, const float *h, size_t from, size_t count);

/* The activation of a clipped value. */
float mq_recurrent_activate(const mq_recurrent_step *s, uint32_t which, float v);

#endif

/* Activations that fusion puts behind a product, a convolution or a row, and alone: one table of
 * what each computes, in single precision with the fixed bits of kit.h. */
#ifndef MQ_WORKER_OPS_ACT_H
#define MQ_WORKER_OPS_ACT_H

#include <stddef.h>
#include <stdint.h>

typedef enum mq_activation {
    MQ_ACT_NONE = 0,
    MQ_ACT_RELU = 1,
    MQ_ACT_CLIP,         /* a <= x <= b */
    MQ_ACT_LEAKY_RELU,   /* x < 0 ? a x : x */
    MQ_ACT_SIGMOID,      /* 1 / (1 + e^-x) */
    MQ_ACT_TANH,         /* tanh x */
    MQ_ACT_HARD_SIGMOID, /* max(0, min(1, a x + b)) */
    MQ_ACT_HARD_SWISH,   /* x times that */
    MQ_ACT_SILU,         /* x / (1 + e^-(a x)) */
    MQ_ACT_GELU,         /* x / 2 (1 + erf(x / sqrt 2)) */
    MQ_ACT_GELU_TANH,    /* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
} mq_activation;

/* What behind a kernel: zeroed is none. */
typedef struct mq_act {
    mq_activation kind;
    float a, b;
} mq_act;

/* Attributes of the internal operator of one alone, mq_op_activate. */
typedef struct mq_activate_attrs {
    int64_t kind;
    float a, b;
} mq_activate_attrs;

/* y[i] = act(x[i]); y may be x. */
void mq_act_map(mq_act act, const float *x, float *y, size_t n);

/* One kernel of a row: y[i] = act(y[i] + bias[i]), bias NULL for none. */
void mq_act_row(mq_act act, const float *bias, float *y, size_t n);

#endif

/* The internal operator that fusion makes of a residual sum and a layer normalization over the last
 * axis: inputs x, scale [n], bias [n] or omitted, and what is added to x first, or omitted (it
 * broadcasts). y = (s - mean) / sqrt(variance + epsilon) * scale + bias with s = x + more. */
#ifndef MQ_WORKER_OPS_NORM_H
#define MQ_WORKER_OPS_NORM_H

typedef struct mq_norm_attrs {
    float epsilon;
} mq_norm_attrs;

#endif

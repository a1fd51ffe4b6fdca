/* The internal operator that fusion makes of Gemm or MatMul, Add and Relu: y = act(x W + b). */
#ifndef MQ_WORKER_OPS_DENSE_H
#define MQ_WORKER_OPS_DENSE_H

#include <stdbool.h>

#include "worker/ops/act.h"

/* Inputs x [..., K], W [K, N] or (is_transposed) [N, K], b [N] or omitted. */
typedef struct mq_dense_attrs {
    bool is_transposed;
    mq_activation act;
    float a, b; /* of the activation, see act.h; training knows none and Relu */
} mq_dense_attrs;

#endif

/* Attributes of Gemm, for fusion. */
#ifndef MQ_WORKER_OPS_GEMM_H
#define MQ_WORKER_OPS_GEMM_H

#include <stdint.h>

typedef struct mq_gemm_attrs {
    float alpha, beta;
    int64_t trans_a, trans_b;
    int64_t broadcast; /* opset 1 and 6 only; what it allows is allowed anyway */
} mq_gemm_attrs;

#endif

/* The internal operator that fusion makes of DynamicQuantizeLinear, MatMulInteger, Cast, Mul, Add
 * and Relu: inputs x, W, zero point of W (or omitted), scale of W, bias (or omitted). The same
 * integers and the same float operations in the same order as the nodes it stands for. */
#ifndef MQ_WORKER_OPS_QMATMUL_H
#define MQ_WORKER_OPS_QMATMUL_H

#include "worker/ops/dense.h"

typedef struct mq_qdense_attrs {
    mq_activation act;
    float a, b; /* of the activation, see act.h */
} mq_qdense_attrs;

#endif

/* Shapes and batches of numpy.matmul, for MatMul, MatMulInteger and QLinearMatMul. */
#ifndef MQ_WORKER_OPS_PRODUCT_H
#define MQ_WORKER_OPS_PRODUCT_H

#include "worker/ops/pair.h"

/* A product of batches: matrix i of the output takes matrices a and b of the operands. */
typedef struct mq_product {
    int64_t m, n, k;
    mq_pair batch; /* over the dimensions before the last two, in matrices */
    size_t count;  /* matrices in the output */
} mq_product;

/* Shape of the result; MQ_E_ARG names both operands' shapes. */
MQ_MUST_USE mq_code mq_product_shape(const mq_shape *a, const mq_shape *b, mq_shape *out,
                                     mq_error *err);

/* For shapes that mq_product_shape has accepted. A single right matrix makes the left operand one
 * tall matrix. */
mq_product mq_product_of(const mq_shape *a, const mq_shape *b);

/* Matrix indices of the operands for output matrix i. */
void mq_product_at(const mq_product *p, size_t i, size_t *a, size_t *b);

#endif

/* MatMul as numpy.matmul: the last two dimensions multiply, those before broadcast; a 1-D operand
 * is a row (left) or a column (right) whose dimension is dropped from the result.
 * onnx.ai/onnx/operators/onnx__MatMul.html */
#include "worker/ops/product.h"

#include "worker/blas/blas.h"

typedef mq_product product;

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    return mq_product_shape(&call->inputs[0]->shape, &call->inputs[1]->shape,
                            &call->outputs[0]->shape, err);
}

static product product_of(const mq_op_call *call)
{
    return mq_product_of(&call->inputs[0]->shape, &call->inputs[1]->shape);
}

#define INT_PRODUCT(type)                                                                          \
    for (int64_t r = 0; r < p->m; r++) {                                                           \
        for (int64_t c = 0; c < p->n; c++) {                                                       \
            uint64_t sum = 0;                                                                      \
            for (int64_t i = 0; i < p->k; i++) {                                                   \
                sum += (uint64_t)((const type *)a)[r * p->k + i] *                                 \
                       (uint64_t)((const type *)b)[i * p->n + c];                                  \
            }                                                                                      \
            ((type *)y)[r * p->n + c] = (type)sum;                                                 \
        }                                                                                          \
    }

static void one(const product *p, mq_dtype dtype, const void *a, const void *b, void *y)
{
    switch ((int)dtype) {
    case MQ_DT_F64:
        mq_blas_dgemm(&(mq_dgemm){.m = p->m,
                                  .n = p->n,
                                  .k = p->k,
                                  .alpha = 1.0,
                                  .a = a,
                                  .lda = p->k,
                                  .b = b,
                                  .ldb = p->n,
                                  .c = y,
                                  .ldc = p->n});
        break;
    case MQ_DT_I32:
        INT_PRODUCT(int32_t)
        break;
    case MQ_DT_U32:
        INT_PRODUCT(uint32_t)
        break;
    case MQ_DT_I64:
        INT_PRODUCT(int64_t)
        break;
    case MQ_DT_U64:
        INT_PRODUCT(uint64_t)
        break;
    default:
        mq_blas_gemm_fast(&(mq_gemm){.m = p->m,
                                     .n = p->n,
                                     .k = p->k,
                                     .alpha = 1.0f,
                                     .a = a,
                                     .lda = p->k,
                                     .b = b,
                                     .ldb = p->n,
                                     .c = y,
                                     .ldc = p->n});
        break;
    }
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    product p = product_of(call);
    const mq_tensor *y = call->outputs[0];
    size_t each = mq_dtype_bytes(y->dtype);
    size_t bytes_a = (size_t)(p.m * p.k) * each, bytes_b = (size_t)(p.k * p.n) * each;
    for (size_t i = 0; i < p.count; i++) {
        size_t a, b;
        mq_product_at(&p, i, &a, &b);
        one(&p, y->dtype, (const uint8_t *)call->inputs[0]->data + a * bytes_a,
            (const uint8_t *)call->inputs[1]->data + b * bytes_b,
            (uint8_t *)y->data + i * (size_t)(p.m * p.n) * each);
    }
    return MQ_OK;
}

/* dA = dY B^T and dB = A^T dY, added up over batches that share a matrix, in order. */
static void grad(const mq_op_grad *g)
{
    const mq_op_call *call = &g->call;
    product p = product_of(call);
    size_t size_a = (size_t)(p.m * p.k), size_b = (size_t)(p.k * p.n), size_y = (size_t)(p.m * p.n);
    bool is_single = p.count == 1;
    for (int i = 0; i < 2; i++) {
        if (g->dx[i] != NULL && !g->add[i] && !is_single) {
            memset(g->dx[i], 0, mq_elements(call->inputs[i]) * sizeof(float));
        }
    }
    for (size_t i = 0; i < p.count; i++) {
        size_t a, b;
        mq_product_at(&p, i, &a, &b);
        const float *dy = g->dy[0] + i * size_y;
        if (g->dx[0] != NULL) {
            mq_blas_gemm(&(mq_gemm){.m = p.m,
                                    .n = p.k,
                                    .k = p.n,
                                    .alpha = 1.0f,
                                    .beta = is_single && !g->add[0] ? 0.0f : 1.0f,
                                    .a = dy,
                                    .lda = p.n,
                                    .b = (const float *)call->inputs[1]->data + b * size_b,
                                    .ldb = p.n,
                                    .trans_b = true,
                                    .c = g->dx[0] + a * size_a,
                                    .ldc = p.k});
        }
        if (g->dx[1] != NULL) {
            mq_blas_gemm(&(mq_gemm){.m = p.k,
                                    .n = p.n,
                                    .k = p.m,
                                    .alpha = 1.0f,
                                    .beta = is_single && !g->add[1] ? 0.0f : 1.0f,
                                    .a = (const float *)call->inputs[0]->data + a * size_a,
                                    .lda = p.k,
                                    .trans_a = true,
                                    .b = dy,
                                    .ldb = p.n,
                                    .c = g->dx[1] + b * size_b,
                                    .ldc = p.n});
        }
    }
}

static double flop(const mq_op_call *call)
{
    const mq_shape *a = &call->inputs[0]->shape;
    return 2.0 * (double)mq_elements(call->outputs[0]) * (double)a->dims[a->rank - 1];
}

static mq_code reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    product p = product_of(call);
    for (size_t i = 0; i < p.count; i++) {
        size_t a, b;
        mq_product_at(&p, i, &a, &b);
        for (int64_t e = 0; e < p.m * p.n; e++) {
            double sum = 0.0;
            for (int64_t j = 0; j < p.k; j++) {
                size_t ia = a * (size_t)(p.m * p.k) + (size_t)(e / p.n * p.k + j);
                size_t ib = b * (size_t)(p.k * p.n) + (size_t)(j * p.n + e % p.n);
                switch ((int)call->inputs[0]->dtype) {
                case MQ_DT_F32:
                    sum += (double)((const float *)call->inputs[0]->data)[ia] *
                           (double)((const float *)call->inputs[1]->data)[ib];
                    break;
                case MQ_DT_F64:
                    sum += ((const double *)call->inputs[0]->data)[ia] *
                           ((const double *)call->inputs[1]->data)[ib];
                    break;
                default:
                    sum += (double)((const int32_t *)call->inputs[0]->data)[ia] *
                           (double)((const int32_t *)call->inputs[1]->data)[ib];
                    break;
                }
            }
            size_t at = i * (size_t)(p.m * p.n) + (size_t)e;
            if (call->outputs[0]->dtype == MQ_DT_F32) {
                ((float *)call->outputs[0]->data)[at] = (float)sum;
            } else if (call->outputs[0]->dtype == MQ_DT_F64) {
                ((double *)call->outputs[0]->data)[at] = sum;
            } else {
                ((int32_t *)call->outputs[0]->data)[at] = (int32_t)sum;
            }
        }
    }
    return MQ_OK;
}

const mq_op mq_op_matmul = {
    .name = "MatMul",
    .domain = "",
    .since = 1,
    .in = {2, 2},
    .out = {1, 1},
    .args = {{'T', MQ_T_FLOATS | MQ_T_INDEX | MQ_T(MQ_DT_U32) | MQ_T(MQ_DT_U64)}},
    .params = 3,
    .grad_keeps = MQ_GRAD_INPUTS,
    .shape = shape,
    .run = run,
    .grad = grad,
    .flop = flop,
    .reference = reference,
    .cases = "| f32[M,K] f32[K,N]; | f32[B,M,K] f32[K,N]; | f32[B,M,K] f32[B,K,N];"
             "| f32[B,1,M,K] f32[C,K,N]; | f32[K] f32[K,N]; | f32[M,K] f32[K]; | f32[K] f32[K];"
             "| f64[B,M,K] f64[1,K,N]; | i32[M,K] i32[K,N]; | f32[M,K] f32[B,K,N]",
};

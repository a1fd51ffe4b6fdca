/* Gemm: Y = alpha op(A) op(B) + beta C, C broadcast to Y. onnx.ai/onnx/operators/onnx__Gemm.html */
#include "worker/ops/gemm.h"

#include "worker/blas/blas.h"
#include "worker/ops/kit.h"

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const mq_gemm_attrs *at = call->attrs;
    const mq_shape *a = &call->inputs[0]->shape, *b = &call->inputs[1]->shape;
    const mq_tensor *c = mq_call_input(call, 2);
    char ta[128], tb[128];
    if (a->rank != 2 || b->rank != 2 ||
        a->dims[at->trans_a ? 0 : 1] != b->dims[at->trans_b ? 1 : 0]) {
        return mq_fail(err, MQ_E_ARG, "A %s and B %s do not multiply (transA %d, transB %d)",
                       mq_shape_text(a, ta, sizeof ta), mq_shape_text(b, tb, sizeof tb),
                       at->trans_a != 0, at->trans_b != 0);
    }
    mq_shape y = {2, {a->dims[at->trans_a ? 1 : 0], b->dims[at->trans_b ? 0 : 1]}}, both;
    if (c != NULL) {
        mq_code code = mq_broadcast(&y, &c->shape, &both, err);
        if (code == MQ_OK && !mq_shape_eq(&y, &both)) {
            code =
                mq_fail(err, MQ_E_ARG, "C %s does not broadcast to %s",
                        mq_shape_text(&c->shape, ta, sizeof ta), mq_shape_text(&y, tb, sizeof tb));
        }
        if (code != MQ_OK) {
            return code;
        }
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = y;
    return MQ_OK;
}

/* Y = C broadcast, element by element of the given size. */
static void spread(const mq_tensor *c, mq_tensor *y, size_t each)
{
    mq_strides s = mq_strides_of(&c->shape, &y->shape);
    int64_t index[MQ_RANK_MAX] = {0};
    uint8_t *out = y->data;
    if (mq_elements(y) == 0) {
        return;
    }
    do {
        memcpy(out, (const uint8_t *)c->data + mq_offset(&s, index, 2) * each, each);
        out += each;
    } while (mq_next_index(&y->shape, index));
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_gemm_attrs *at = call->attrs;
    const mq_tensor *a = call->inputs[0], *b = call->inputs[1], *c = mq_call_input(call, 2);
    mq_tensor *y = call->outputs[0];
    int64_t m = y->shape.dims[0], n = y->shape.dims[1], k = a->shape.dims[at->trans_a ? 0 : 1];
    if (c != NULL) {
        spread(c, y, mq_dtype_bytes(y->dtype));
    }
    if (y->dtype == MQ_DT_F32) {
        mq_blas_gemm_fast(&(mq_gemm){.trans_a = at->trans_a != 0,
                                     .trans_b = at->trans_b != 0,
                                     .m = m,
                                     .n = n,
                                     .k = k,
                                     .alpha = at->alpha,
                                     .beta = c == NULL ? 0.0f : at->beta,
                                     .a = a->data,
                                     .lda = a->shape.dims[1],
                                     .b = b->data,
                                     .ldb = b->shape.dims[1],
                                     .c = y->data,
                                     .ldc = n});
    } else {
        mq_blas_dgemm(&(mq_dgemm){.trans_a = at->trans_a != 0,
                                  .trans_b = at->trans_b != 0,
                                  .m = m,
                                  .n = n,
                                  .k = k,
                                  .alpha = (double)at->alpha,
                                  .beta = c == NULL ? 0.0 : (double)at->beta,
                                  .a = a->data,
                                  .lda = a->shape.dims[1],
                                  .b = b->data,
                                  .ldb = b->shape.dims[1],
                                  .c = y->data,
                                  .ldc = n});
    }
    return MQ_OK;
}

static void grad_a(const mq_op_grad *g, int64_t m, int64_t n, int64_t k)
{
    const mq_gemm_attrs *at = g->call.attrs;
    const mq_tensor *b = g->call.inputs[1];
    mq_gemm p = {.alpha = at->alpha, .beta = g->add[0] ? 1.0f : 0.0f, .k = n, .c = g->dx[0]};
    if (at->trans_a) { /* dA[K,M] = op(B) dY^T */
        p.m = k, p.n = m, p.ldc = m;
        p.a = b->data, p.lda = b->shape.dims[1], p.trans_a = at->trans_b != 0;
        p.b = g->dy[0], p.ldb = n, p.trans_b = true;
    } else { /* dA[M,K] = dY op(B)^T */
        p.m = m, p.n = k, p.ldc = k;
        p.a = g->dy[0], p.lda = n;
        p.b = b->data, p.ldb = b->shape.dims[1], p.trans_b = at->trans_b == 0;
    }
    mq_blas_gemm(&p);
}

static void grad_b(const mq_op_grad *g, int64_t m, int64_t n, int64_t k)
{
    const mq_gemm_attrs *at = g->call.attrs;
    const mq_tensor *a = g->call.inputs[0];
    mq_gemm p = {.alpha = at->alpha, .beta = g->add[1] ? 1.0f : 0.0f, .k = m, .c = g->dx[1]};
    if (at->trans_b) { /* dB[N,K] = dY^T op(A) */
        p.m = n, p.n = k, p.ldc = k;
        p.a = g->dy[0], p.lda = n, p.trans_a = true;
        p.b = a->data, p.ldb = a->shape.dims[1], p.trans_b = at->trans_a != 0;
    } else { /* dB[K,N] = op(A)^T dY */
        p.m = k, p.n = n, p.ldc = n;
        p.a = a->data, p.lda = a->shape.dims[1], p.trans_a = at->trans_a == 0;
        p.b = g->dy[0], p.ldb = n;
    }
    mq_blas_gemm(&p);
}

static void grad(const mq_op_grad *g)
{
    const mq_gemm_attrs *at = g->call.attrs;
    const mq_shape *y = &g->call.outputs[0]->shape;
    int64_t m = y->dims[0], n = y->dims[1];
    int64_t k = g->call.inputs[0]->shape.dims[at->trans_a ? 0 : 1];
    if (g->dx[0] != NULL) {
        grad_a(g, m, n, k);
    }
    if (g->dx[1] != NULL) {
        grad_b(g, m, n, k);
    }
    if (g->call.input_count > 2 && g->dx[2] != NULL) {
        for (int64_t i = 0; i < m * n && at->beta != 1.0f; i++) {
            g->dy[0][i] *= at->beta; /* dy is not needed any more */
        }
        mq_reduce_to(g->dy[0], y, g->dx[2], &g->call.inputs[2]->shape, g->add[2]);
    }
}

static double flop(const mq_op_call *call)
{
    const mq_gemm_attrs *at = call->attrs;
    const mq_shape *a = &call->inputs[0]->shape;
    return 2.0 * (double)mq_elements(call->outputs[0]) * (double)a->dims[at->trans_a ? 0 : 1];
}

static double at2(const mq_tensor *t, int64_t row, int64_t column)
{
    int64_t i = row * t->shape.dims[1] + column;
    return t->dtype == MQ_DT_F32 ? (double)((const float *)t->data)[i]
                                 : ((const double *)t->data)[i];
}

static mq_code reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_gemm_attrs *at = call->attrs;
    const mq_tensor *a = call->inputs[0], *b = call->inputs[1], *c = mq_call_input(call, 2);
    mq_tensor *y = call->outputs[0];
    int64_t k = a->shape.dims[at->trans_a ? 0 : 1];
    if (c != NULL) {
        spread(c, y, mq_dtype_bytes(y->dtype));
    }
    for (int64_t i = 0; i < y->shape.dims[0]; i++) {
        for (int64_t j = 0; j < y->shape.dims[1]; j++) {
            double sum = 0.0, base = c == NULL ? 0.0 : at2(y, i, j) * (double)at->beta;
            for (int64_t p = 0; p < k; p++) {
                sum += (at->trans_a ? at2(a, p, i) : at2(a, i, p)) *
                       (at->trans_b ? at2(b, j, p) : at2(b, p, j));
            }
            double v = base + (double)at->alpha * sum;
            if (y->dtype == MQ_DT_F32) {
                ((float *)y->data)[i * y->shape.dims[1] + j] = (float)v;
            } else {
                ((double *)y->data)[i * y->shape.dims[1] + j] = v;
            }
        }
    }
    return MQ_OK;
}

static const mq_attr_spec specs[] = {
    {.name = "alpha", .type = MQ_ATTR_FLOAT, .offset = offsetof(mq_gemm_attrs, alpha), .f = 1.0f},
    {.name = "beta", .type = MQ_ATTR_FLOAT, .offset = offsetof(mq_gemm_attrs, beta), .f = 1.0f},
    {.name = "transA", .type = MQ_ATTR_INT, .offset = offsetof(mq_gemm_attrs, trans_a)},
    {.name = "transB", .type = MQ_ATTR_INT, .offset = offsetof(mq_gemm_attrs, trans_b)},
    {.name = "broadcast", .type = MQ_ATTR_INT, .offset = offsetof(mq_gemm_attrs, broadcast)},
    {.name = NULL},
};

const mq_op mq_op_gemm = {
    .name = "Gemm",
    .domain = "",
    .since = 1,
    .in = {2, 3},
    .out = {1, 1},
    .args = {{'T', MQ_T_FLOATS}},
    .params = 7,
    .grad_keeps = MQ_GRAD_INPUTS,
    .attrs_bytes = sizeof(mq_gemm_attrs),
    .specs = specs,
    .shape = shape,
    .run = run,
    .grad = grad,
    .flop = flop,
    .reference = reference,
    .cases = "| f32[M,K] f32[K,N] f32[N]; transB=1 alpha=0.5 beta=2.0 | f32[M,K] f32[N,K] f32[M,1];"
             "transA=1 | f32[K,M] f32[K,N]; transA=1 transB=1 | f64[K,M] f64[N,K] f64[1];"
             "transB=1 | f32[1,K] f32[N,K] f32[1,N]; transA=1 | f32[K,1] f32[K,N];"
             "| f32[M,K] f32[K,1]; transB=1 | f32[M,K] f32[1,K]",
};

/* Dense, internal: x W + b and Relu in one kernel, and its gradient; what an MLP spends its time
 * in. float32 only. The bias and the activation go over the product once; backward, the mask of
 * Relu and the bias gradient go over dy once, and both weight products write straight to where the
 * caller wants them. */
#include "worker/ops/dense.h"

#include "worker/blas/blas.h"
#include "worker/dnnl/dnnl.h"
#include "worker/ops/kit.h"

typedef struct sizes {
    int64_t m, n, k, ldw;
} sizes;

static sizes sizes_of(const mq_op_call *call)
{
    const mq_dense_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *w = call->inputs[1];
    sizes s = {.k = w->shape.dims[a->is_transposed ? 1 : 0],
               .n = w->shape.dims[a->is_transposed ? 0 : 1],
               .ldw = w->shape.dims[1]};
    s.m = (int64_t)mq_dims_product(&x->shape, 0, x->shape.rank - 1);
    return s;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const mq_dense_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *w = &call->inputs[1]->shape;
    const mq_tensor *b = mq_call_input(call, 2);
    char tx[128], tw[128];
    if (x->rank < 1 || w->rank != 2 || x->dims[x->rank - 1] != w->dims[a->is_transposed ? 1 : 0]) {
        return mq_fail(err, MQ_E_ARG, "shapes %s and %s do not multiply",
                       mq_shape_text(x, tx, sizeof tx), mq_shape_text(w, tw, sizeof tw));
    }
    int64_t n = w->dims[a->is_transposed ? 0 : 1];
    if (b != NULL && (b->shape.rank != 1 || b->shape.dims[0] != n)) {
        return mq_fail(err, MQ_E_ARG, "bias %s where [%lld] is due",
                       mq_shape_text(&b->shape, tx, sizeof tx), (long long)n);
    }
    call->outputs[0]->dtype = MQ_DT_F32;
    call->outputs[0]->shape = *x;
    call->outputs[0]->shape.dims[x->rank - 1] = n;
    return MQ_OK;
}

static void finish(float *y, int64_t m, int64_t n, const float *b, const mq_dense_attrs *a)
{
    mq_act act = {a->act, a->a, a->b};
    if (b == NULL) {
        mq_act_map(act, y, y, (size_t)(m * n));
        return;
    }
    for (int64_t r = 0; r < m; r++, y += n) {
        mq_act_row(act, b, y, (size_t)n);
    }
}

/* What is kept for a constant W. */
typedef struct state {
    mq_dnnl_dense *dnnl;
    bool has_relu; /* it does the activation as well */
} state;

static mq_code prepare(const mq_op_call *call, mq_arena *arena, const void **out, mq_error *err)
{
    const mq_dense_attrs *a = call->attrs;
    const mq_tensor *w = call->inputs[1], *b = mq_call_input(call, 2);
    *out = NULL;
    if (call->kernels != 0 || w->data == NULL || (b != NULL && b->data == NULL)) {
        return MQ_OK;
    }
    state *s = mq_arena_new(arena, state, 1);
    if (s == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a matrix product");
    }
    s->has_relu = a->act == MQ_ACT_RELU;
    s->dnnl =
        mq_dnnl_dense_new(&(mq_dnnl_dense_spec){.is_transposed = a->is_transposed,
                                                .is_relu = s->has_relu,
                                                .k = w->shape.dims[a->is_transposed ? 1 : 0],
                                                .n = w->shape.dims[a->is_transposed ? 0 : 1],
                                                .w = w->data,
                                                .bias = b == NULL ? NULL : b->data,
                                                .packs = call->packs,
                                                .key = mq_pack_key_of(call->packs, w->data, 0)},
                          arena);
    *out = s->dnnl == NULL ? NULL : s;
    return MQ_OK;
}

static void release(const void *held)
{
    mq_dnnl_dense_free(((const state *)held)->dnnl);
}

/* One row is bound by reading W, and gemv reads it as it lies; below a million multiply-adds
 * OpenBLAS has a path without packing that costs less than a call of oneDNN. */
static bool is_for_dnnl(const sizes *s)
{
    return s->m > 1 && s->m * s->n * s->k > 1000000;
}

static mq_code ready(const mq_op_call *call, mq_error *err)
{
    (void)err;
    sizes s = sizes_of(call);
    if (is_for_dnnl(&s)) {
        (void)mq_dnnl_dense_ready(((const state *)call->state)->dnnl, s.m);
    }
    return MQ_OK;
}

static size_t scratch(const mq_op_call *call)
{
    sizes s = sizes_of(call);
    return call->state == NULL ? 0 : mq_dnnl_dense_scratch(((const state *)call->state)->dnnl, s.m);
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_dense_attrs *a = call->attrs;
    const mq_tensor *b = mq_call_input(call, 2);
    sizes s = sizes_of(call);
    float *y = call->outputs[0]->data;
    const state *held = call->state;
    if (held != NULL && is_for_dnnl(&s) &&
        mq_dnnl_dense_run(held->dnnl, s.m, call->inputs[0]->data, y, call->scratch)) {
        if (!held->has_relu) {
            finish(y, s.m, s.n, NULL, a);
        }
        return MQ_OK;
    }
    mq_blas_gemm_fast(&(mq_gemm){.trans_b = a->is_transposed,
                                 .m = s.m,
                                 .n = s.n,
                                 .k = s.k,
                                 .alpha = 1.0f,
                                 .a = call->inputs[0]->data,
                                 .lda = s.k,
                                 .b = call->inputs[1]->data,
                                 .ldb = s.ldw,
                                 .c = y,
                                 .ldc = s.n});
    finish(y, s.m, s.n, b == NULL ? NULL : b->data, a);
    return MQ_OK;
}

/* dy becomes dz = dy where y > 0, and db gets its column sums, rows in order. */
static void grad_finish(float *restrict dy, const float *restrict y, int64_t m, int64_t n,
                        float *restrict db, mq_activation act)
{
    for (int64_t r = 0; r < m; r++, dy += n, y += n) {
        if (act == MQ_ACT_RELU) {
            for (int64_t i = 0; i < n; i++) {
                dy[i] = y[i] > 0.0f ? dy[i] : 0.0f;
            }
        }
        if (db != NULL) {
            for (int64_t i = 0; i < n; i++) {
                db[i] += dy[i];
            }
        }
    }
}

static void grad(const mq_op_grad *g)
{
    const mq_op_call *call = &g->call;
    const mq_dense_attrs *a = call->attrs;
    sizes s = sizes_of(call);
    float *dz = g->dy[0], *dx = g->dx[0], *dw = g->dx[1];
    float *db = call->input_count > 2 ? g->dx[2] : NULL;
    if (db != NULL && !g->add[2]) {
        memset(db, 0, (size_t)s.n * sizeof *db);
    }
    grad_finish(dz, call->outputs[0]->data, s.m, s.n, db, a->act);
    const float *x = call->inputs[0]->data, *w = call->inputs[1]->data;
    mq_gemm product = {.alpha = 1.0f, .k = s.m, .c = dw, .ldc = s.ldw};
    if (dw != NULL && a->is_transposed) { /* dW[N,K] = dz^T x */
        product.m = s.n, product.n = s.k;
        product.a = dz, product.lda = s.n, product.trans_a = true;
        product.b = x, product.ldb = s.k;
    } else if (dw != NULL) { /* dW[K,N] = x^T dz */
        product.m = s.k, product.n = s.n;
        product.a = x, product.lda = s.k, product.trans_a = true;
        product.b = dz, product.ldb = s.n;
    }
    if (dw != NULL) {
        product.beta = g->add[1] ? 1.0f : 0.0f;
        mq_blas_gemm(&product);
    }
    if (dx != NULL) {
        mq_blas_gemm(&(mq_gemm){.trans_b = !a->is_transposed,
                                .m = s.m,
                                .n = s.k,
                                .k = s.n,
                                .alpha = 1.0f,
                                .beta = g->add[0] ? 1.0f : 0.0f,
                                .a = dz,
                                .lda = s.n,
                                .b = w,
                                .ldb = s.ldw,
                                .c = dx,
                                .ldc = s.k});
    }
}

static double flop(const mq_op_call *call)
{
    sizes s = sizes_of(call);
    return 2.0 * (double)s.m * (double)s.n * (double)s.k;
}

static mq_code reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_dense_attrs *a = call->attrs;
    const mq_tensor *b = mq_call_input(call, 2);
    const float *x = call->inputs[0]->data, *w = call->inputs[1]->data;
    float *y = call->outputs[0]->data;
    sizes s = sizes_of(call);
    for (int64_t r = 0; r < s.m; r++) {
        for (int64_t c = 0; c < s.n; c++) {
            double sum = b == NULL ? 0.0 : (double)((const float *)b->data)[c];
            for (int64_t i = 0; i < s.k; i++) {
                sum += (double)x[r * s.k + i] *
                       (double)w[a->is_transposed ? c * s.k + i : i * s.n + c];
            }
            y[r * s.n + c] = a->act == MQ_ACT_RELU && sum < 0.0 ? 0.0f : (float)sum;
        }
    }
    return MQ_OK;
}

const mq_op mq_op_dense = {
    .name = "Dense",
    .domain = "maasq",
    .since = 1,
    .in = {2, 3},
    .out = {1, 1},
    .args = {{'T', MQ_T(MQ_DT_F32)}},
    .flags = MQ_OP_INTERNAL,
    .params = 7,
    .grad_keeps = MQ_GRAD_INPUTS | MQ_GRAD_OUTPUTS,
    .attrs_bytes = sizeof(mq_dense_attrs),
    .shape = shape,
    .scratch = scratch,
    .prepare = prepare,
    .release = release,
    .ready = ready,
    .run = run,
    .grad = grad,
    .flop = flop,
    .reference = reference,
    .cases = "| f32[M,K] f32[K,N] f32[N]; | f32[M,P,K] f32[K,N]; | f32[1,K] f32[K,N] f32[N]",
};

/* Heads, internal: fused attention over operands in any order of dimensions; see heads.h. */
#include "worker/ops/heads.h"

#include "shared/base/math.h"
#include "worker/blas/blas.h"
#include "worker/ops/kit.h"
#include "worker/ops/rows.h"

enum { BLOCK_FLOATS = 1 << 15, BLOCK_ROWS_MIN = 32 };

/* A tensor as a product sees it: transposed, with leading dimensions of 1 up to the rank. */
typedef struct view {
    size_t dims[MQ_RANK_MAX], strides[MQ_RANK_MAX]; /* stride 0 where the size is 1 */
} view;

typedef struct heads {
    int32_t rank;
    view q, k, v, y;
    size_t batch[MQ_RANK_MAX]; /* rank - 2 of them */
    size_t count;              /* their product */
    size_t m, n, width, out;   /* rows, keys, width of q and k, width of v */
    mq_shape scores;
} heads;

/* Is perm absent or a permutation of that rank? */
static bool is_perm(const mq_ints *perm, int32_t rank)
{
    uint32_t seen = 0;
    if (!perm->is_given) {
        return true;
    }
    for (size_t i = 0; i < perm->count && perm->count == (size_t)rank; i++) {
        if (perm->at[i] < 0 || perm->at[i] >= rank || (seen >> perm->at[i] & 1) != 0) {
            return false;
        }
        seen |= 1u << perm->at[i];
    }
    return perm->count == (size_t)rank;
}

static view view_of(const mq_shape *s, const mq_ints *perm, int32_t rank)
{
    size_t rows[MQ_RANK_MAX], step = 1;
    view w;
    for (int32_t i = s->rank - 1; i >= 0; i--) {
        rows[i] = step;
        step *= (size_t)s->dims[i];
    }
    for (int32_t i = 0; i < rank; i++) {
        int32_t at = i - (rank - s->rank);
        int32_t from = at >= 0 && perm->is_given ? (int32_t)perm->at[at] : at;
        w.dims[i] = at < 0 ? 1 : (size_t)s->dims[from];
        w.strides[i] = w.dims[i] == 1 ? 0 : rows[from];
    }
    return w;
}

/* What a call's shapes mean; MQ_E_ARG when they do not go together. */
static mq_code heads_of(const mq_op_call *call, heads *h, mq_shape *out, mq_error *err)
{
    const mq_heads_attrs *a = call->attrs;
    const mq_shape *q = &call->inputs[0]->shape, *k = &call->inputs[1]->shape;
    const mq_shape *v = &call->inputs[2]->shape;
    int32_t rank = q->rank > k->rank ? q->rank : k->rank, last = rank - 1;
    rank = v->rank > rank ? v->rank : rank;
    last = rank - 1;
    if (q->rank < 2 || k->rank < 2 || v->rank < 2 || !is_perm(&a->perm_q, q->rank) ||
        !is_perm(&a->perm_k, k->rank) || !is_perm(&a->perm_v, v->rank) ||
        !is_perm(&a->perm_y, rank) || (a->perm_y.is_given && a->perm_y.at[last] != last)) {
        return mq_fail(err, MQ_E_ARG, "ranks %d, %d and %d do not go with the transpositions",
                       q->rank, k->rank, v->rank);
    }
    *h = (heads){.rank = rank, .count = 1};
    h->q = view_of(q, &a->perm_q, rank);
    h->k = view_of(k, &a->perm_k, rank);
    h->v = view_of(v, &a->perm_v, rank);
    h->m = h->q.dims[last - 1], h->width = h->q.dims[last];
    h->n = h->k.dims[last], h->out = h->v.dims[last];
    bool fits = h->k.dims[last - 1] == h->width && h->v.dims[last - 1] == h->n;
    h->scores = (mq_shape){.rank = rank};
    mq_shape y = {.rank = rank};
    for (int32_t i = 0; i < rank - 2; i++) {
        size_t most = mq_max_size(mq_max_size(h->q.dims[i], h->k.dims[i]), h->v.dims[i]);
        const size_t each[] = {h->q.dims[i], h->k.dims[i], h->v.dims[i]};
        for (size_t e = 0; e < 3; e++) {
            most = each[e] == 0 ? 0 : most;
            fits = fits && (each[e] == most || each[e] == 1);
        }
        h->batch[i] = most;
        h->count *= most;
        h->scores.dims[i] = y.dims[i] = (int64_t)most;
    }
    if (!fits) {
        char tq[128], tk[128], tv[128];
        return mq_fail(err, MQ_E_ARG, "shapes %s, %s and %s do not multiply",
                       mq_shape_text(q, tq, sizeof tq), mq_shape_text(k, tk, sizeof tk),
                       mq_shape_text(v, tv, sizeof tv));
    }
    h->scores.dims[last - 1] = y.dims[last - 1] = (int64_t)h->m;
    h->scores.dims[last] = (int64_t)h->n;
    y.dims[last] = (int64_t)h->out;
    *out = y;
    for (int32_t i = 0; i < rank; i++) {
        out->dims[i] = y.dims[a->perm_y.is_given ? a->perm_y.at[i] : i];
    }
    size_t step = 1; /* dimension i of the output is dimension perm_y[i] of the product */
    for (int32_t i = last; i >= 0; i--) {
        int64_t to = a->perm_y.is_given ? a->perm_y.at[i] : i;
        h->y.dims[to] = (size_t)out->dims[i];
        h->y.strides[to] = step;
        step *= (size_t)out->dims[i];
    }
    return MQ_OK;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    heads h;
    const mq_tensor *mask = mq_call_input(call, 3);
    mq_code code = heads_of(call, &h, &call->outputs[0]->shape, err);
    if (code == MQ_OK && mask != NULL) {
        mq_shape both;
        code = mq_broadcast(&h.scores, &mask->shape, &both, err);
        if (code == MQ_OK && !mq_shape_eq(&both, &h.scores)) {
            code = mq_fail(err, MQ_E_ARG, "the mask is larger than the scores");
        }
    }
    call->outputs[0]->dtype = MQ_DT_F32;
    return code;
}

/* A matrix for the product: as it lies, transposed, or copied because neither of its dimensions is
 * contiguous. */
typedef struct matrix {
    const float *at;
    int64_t ld;
    bool is_transposed;
} matrix;

static bool needs_copy(const view *w, int32_t rank)
{
    return w->strides[rank - 1] > 1 && w->strides[rank - 2] > 1;
}

static matrix matrix_of(const view *w, int32_t rank, const float *at, float *copy)
{
    size_t rows = w->dims[rank - 2], columns = w->dims[rank - 1];
    size_t by_row = w->strides[rank - 2], by_column = w->strides[rank - 1];
    if (needs_copy(w, rank)) {
        for (size_t i = 0; i < rows * columns; i++) {
            copy[i] = at[i / columns * by_row + i % columns * by_column];
        }
        return (matrix){copy, (int64_t)columns, false};
    }
    bool is_transposed = by_column > 1;
    return is_transposed ? (matrix){at, (int64_t)mq_max_size(by_column, rows), true}
                         : (matrix){at, (int64_t)mq_max_size(by_row, columns), false};
}

static size_t block_of(const heads *h)
{
    size_t rows = BLOCK_FLOATS / mq_max_size(h->n, 1);
    return mq_min_size(mq_max_size(rows, BLOCK_ROWS_MIN), mq_max_size(h->m, 1));
}

/* Floats of scratch: scores of a block, a row of the mask, and copies of what needs one. */
typedef struct layout {
    size_t row, q, k, v, end;
} layout;

static layout layout_of(const heads *h)
{
    layout l = {.row = block_of(h) * h->n};
    l.q = l.row + h->n;
    l.k = l.q + (needs_copy(&h->q, h->rank) ? h->m * h->width : 0);
    l.v = l.k + (needs_copy(&h->k, h->rank) ? h->width * h->n : 0);
    l.end = l.v + (needs_copy(&h->v, h->rank) ? h->n * h->out : 0);
    return l;
}

static size_t scratch(const mq_op_call *call)
{
    heads h;
    mq_shape out;
    return heads_of(call, &h, &out, NULL) == MQ_OK ? layout_of(&h).end * sizeof(float) : 0;
}

/* What is added to row r of the scores of one batch, or NULL. */
static const float *mask_row(const mq_tensor *mask, const mq_strides *strides, const heads *h,
                             const int64_t *index, size_t r, float *row)
{
    if (mask == NULL) {
        return NULL;
    }
    size_t step = strides->at[h->rank - 1];
    const float *at = (const float *)mask->data + mq_offset(strides, index, h->rank - 2) +
                      r * strides->at[h->rank - 2];
    if (step == 1 || h->n == 1) {
        return at;
    }
    for (size_t i = 0; i < h->n; i++) {
        row[i] = at[i * step];
    }
    return row;
}

/* One batch: blocks of rows through both products. */
static void run_one(const mq_op_call *call, const heads *h, const mq_strides *strides,
                    const int64_t *index, const matrix *q, const matrix *k, const matrix *v,
                    float *y)
{
    const mq_heads_attrs *a = call->attrs;
    float *scores = call->scratch;
    size_t block = block_of(h), by_row = h->y.strides[h->rank - 2];
    for (size_t from = 0; from < h->m; from += block) {
        size_t rows = mq_min_size(block, h->m - from);
        size_t at = q->is_transposed ? from : from * (size_t)q->ld;
        mq_blas_gemm_fast(&(mq_gemm){.trans_a = q->is_transposed,
                                     .trans_b = k->is_transposed,
                                     .m = (int64_t)rows,
                                     .n = (int64_t)h->n,
                                     .k = (int64_t)h->width,
                                     .alpha = a->scale,
                                     .a = q->at + at,
                                     .lda = q->ld,
                                     .b = k->at,
                                     .ldb = k->ld,
                                     .c = scores,
                                     .ldc = (int64_t)h->n});
        for (size_t r = 0; r < rows; r++) {
            const float *mask = mask_row(mq_call_input(call, 3), strides, h, index, from + r,
                                         scores + layout_of(h).row);
            mq_row_softmax(scores + r * h->n, mask, 1.0f, scores + r * h->n, h->n);
        }
        mq_blas_gemm_fast(&(mq_gemm){.trans_b = v->is_transposed,
                                     .m = (int64_t)rows,
                                     .n = (int64_t)h->out,
                                     .k = (int64_t)h->n,
                                     .alpha = 1.0f,
                                     .a = scores,
                                     .lda = (int64_t)h->n,
                                     .b = v->at,
                                     .ldb = v->ld,
                                     .c = y + from * by_row,
                                     .ldc = (int64_t)mq_max_size(by_row, h->out)});
    }
}

static size_t offset_of(const view *w, const int64_t *index, int32_t count)
{
    size_t at = 0;
    for (int32_t i = 0; i < count; i++) {
        at += (size_t)index[i] * w->strides[i];
    }
    return at;
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    heads h;
    mq_shape out;
    int64_t index[MQ_RANK_MAX] = {0};
    const mq_tensor *mask = mq_call_input(call, 3);
    mq_code code = heads_of(call, &h, &out, err);
    if (code != MQ_OK) {
        return code;
    }
    if (mq_elements(call->outputs[0]) == 0) {
        return MQ_OK;
    }
    mq_strides strides = {.at = {0}};
    if (mask != NULL) {
        strides = mq_strides_of(&mask->shape, &h.scores);
    }
    layout l = layout_of(&h);
    float *memory = call->scratch;
    int32_t outer = h.rank - 2;
    mq_shape batch = h.scores;
    batch.rank = outer;
    for (size_t b = 0; b < h.count; b++) {
        const float *at[3];
        const view *views[] = {&h.q, &h.k, &h.v};
        for (size_t i = 0; i < 3; i++) {
            at[i] = (const float *)call->inputs[i]->data + offset_of(views[i], index, outer);
        }
        matrix q = matrix_of(&h.q, h.rank, at[0], memory + l.q);
        matrix k = matrix_of(&h.k, h.rank, at[1], memory + l.k);
        matrix v = matrix_of(&h.v, h.rank, at[2], memory + l.v);
        float *y = (float *)call->outputs[0]->data + offset_of(&h.y, index, outer);
        run_one(call, &h, &strides, index, &q, &k, &v, y);
        mq_next_index(&batch, index);
    }
    return MQ_OK;
}

static double flop(const mq_op_call *call)
{
    heads h;
    mq_shape out;
    return heads_of(call, &h, &out, NULL) != MQ_OK
               ? 0.0
               : 2.0 * (double)(h.count * h.m * h.n) * (double)(h.width + h.out);
}

/* Element (row, column) of one batch's matrix. */
static double element(const mq_op_call *call, uint32_t which, const view *w, const int64_t *index,
                      int32_t rank, size_t row, size_t column)
{
    size_t at =
        offset_of(w, index, rank - 2) + row * w->strides[rank - 2] + column * w->strides[rank - 1];
    return (double)((const float *)call->inputs[which]->data)[at];
}

static void reference_row(const mq_op_call *call, const heads *h, const mq_strides *strides,
                          const int64_t *index, size_t r, double *row)
{
    const mq_heads_attrs *a = call->attrs;
    const mq_tensor *mask = mq_call_input(call, 3);
    double sum = 0.0;
    for (size_t j = 0; j < h->n; j++) {
        double score = 0.0;
        for (size_t i = 0; i < h->width; i++) {
            score += element(call, 0, &h->q, index, h->rank, r, i) *
                     element(call, 1, &h->k, index, h->rank, i, j);
        }
        score *= (double)a->scale;
        if (mask != NULL) {
            size_t at = mq_offset(strides, index, h->rank - 2) + r * strides->at[h->rank - 2] +
                        j * strides->at[h->rank - 1];
            score += (double)((const float *)mask->data)[at];
        }
        row[j] = exp(score);
        sum += row[j];
    }
    size_t to = offset_of(&h->y, index, h->rank - 2) + r * h->y.strides[h->rank - 2];
    for (size_t c = 0; c < h->out; c++) {
        double y = 0.0;
        for (size_t j = 0; j < h->n; j++) {
            y += row[j] / sum * element(call, 2, &h->v, index, h->rank, j, c);
        }
        ((float *)call->outputs[0]->data)[to + c] = (float)y;
    }
}

static mq_code reference(const mq_op_call *call, mq_error *err)
{
    heads h;
    mq_shape out;
    int64_t index[MQ_RANK_MAX] = {0};
    double row[256];
    mq_code code = heads_of(call, &h, &out, err);
    if (code != MQ_OK || h.n > sizeof row / sizeof row[0]) {
        return code;
    }
    const mq_tensor *mask = mq_call_input(call, 3);
    mq_strides strides = {.at = {0}};
    if (mask != NULL) {
        strides = mq_strides_of(&mask->shape, &h.scores);
    }
    mq_shape batch = h.scores;
    batch.rank = h.rank - 2;
    for (size_t b = 0; b < h.count; b++) {
        for (size_t r = 0; r < h.m; r++) {
            reference_row(call, &h, &strides, index, r, row);
        }
        mq_next_index(&batch, index);
    }
    return MQ_OK;
}

#define PERM(name_)                                                                                \
    {                                                                                              \
        .name = #name_, .type = MQ_ATTR_INTS, .offset = offsetof(mq_heads_attrs, name_)            \
    }
static const mq_attr_spec specs[] = {
    {.name = "scale", .type = MQ_ATTR_FLOAT, .offset = offsetof(mq_heads_attrs, scale), .f = 1.0f},
    PERM(perm_q),
    PERM(perm_k),
    PERM(perm_v),
    PERM(perm_y),
    {.name = NULL},
};

const mq_op mq_op_heads = {
    .name = "Heads",
    .domain = "maasq",
    .since = 1,
    .in = {3, 4},
    .out = {1, 1},
    .args = {{'T', MQ_T(MQ_DT_F32)}},
    .flags = MQ_OP_INTERNAL,
    .attrs_bytes = sizeof(mq_heads_attrs),
    .specs = specs,
    .shape = shape,
    .scratch = scratch,
    .run = run,
    .flop = flop,
    .reference = reference,
    .cases = "scale=0.5 | f32[A,B,M,D] f32[A,B,D,N] f32[A,B,N,C] f32[A,1,M,N];"
             "perm_q=(0,2,1,3) perm_k=(0,2,3,1) perm_v=(0,2,1,3) perm_y=(0,2,1,3) scale=0.25 |"
             " f32[A,M,H,D] f32[A,N,H,D] f32[A,N,H,C] f32[A,1,1,N];"
             "perm_q=(1,0,2) perm_k=(1,2,0) perm_v=(1,0,2) perm_y=(1,0,2) |"
             " f32[M,B,D] f32[N,B,D] f32[N,B,C];"
             "perm_k=(2,1,0) perm_v=(2,0,1) | f32[3,M,D] f32[N,D,3] f32[N,C,3] f32[M,1];"
             "| f32[M,D] f32[D,N] f32[N,C] f32[1]; perm_q=(1,0) | f32[D,40] f32[D,40] f32[40,C]",
};

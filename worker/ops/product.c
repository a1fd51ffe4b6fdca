/* Shapes and batches of matrix products; see product.h. */
#include "worker/ops/product.h"

/* Shape with at least two dimensions: the operand as matrices. */
static mq_shape as_matrix(const mq_shape *s, bool is_left)
{
    if (s->rank != 1) {
        return *s;
    }
    return is_left ? (mq_shape){2, {1, s->dims[0]}} : (mq_shape){2, {s->dims[0], 1}};
}

mq_code mq_product_shape(const mq_shape *sa, const mq_shape *sb, mq_shape *out, mq_error *err)
{
    char ta[128], tb[128];
    mq_shape a = as_matrix(sa, true), b = as_matrix(sb, false), y;
    if (sa->rank < 1 || sb->rank < 1 || a.dims[a.rank - 1] != b.dims[b.rank - 2]) {
        return mq_fail(err, MQ_E_ARG, "shapes %s and %s do not multiply",
                       mq_shape_text(sa, ta, sizeof ta), mq_shape_text(sb, tb, sizeof tb));
    }
    int64_t m = a.dims[a.rank - 2], n = b.dims[b.rank - 1];
    a.rank -= 2;
    b.rank -= 2;
    mq_code code = mq_broadcast(&a, &b, &y, err);
    if (code != MQ_OK) {
        return code;
    }
    if (sa->rank > 1) {
        y.dims[y.rank++] = m;
    }
    if (sb->rank > 1) {
        y.dims[y.rank++] = n;
    }
    *out = y;
    return MQ_OK;
}

mq_product mq_product_of(const mq_shape *sa, const mq_shape *sb)
{
    mq_shape a = as_matrix(sa, true), b = as_matrix(sb, false), y = {.rank = 0};
    mq_product p = {.m = a.dims[a.rank - 2], .n = b.dims[b.rank - 1], .k = a.dims[a.rank - 1]};
    a.rank -= 2;
    b.rank -= 2;
    if (b.rank == 0) {
        p.m *= (int64_t)mq_dims_product(&a, 0, a.rank);
        a.rank = 0;
    }
    if (mq_broadcast(&a, &b, &y, NULL) != MQ_OK) {
        return p; /* shape() has refused it before */
    }
    p.batch = mq_pair_of(&a, &b, &y);
    p.count = mq_dims_product(&y, 0, y.rank);
    return p;
}

void mq_product_at(const mq_product *p, size_t i, size_t *a, size_t *b)
{
    size_t n = p->batch.dims[p->batch.rank - 1], last = i % n;
    mq_pair_at(&p->batch, i / n, a, b);
    *a += last * p->batch.a[p->batch.rank - 1];
    *b += last * p->batch.b[p->batch.rank - 1];
}

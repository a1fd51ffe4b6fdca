/* Broadcast walks of two operands; see pair.h. */
#include "worker/ops/pair.h"

mq_pair mq_pair_of(const mq_shape *a, const mq_shape *b, const mq_shape *out)
{
    mq_strides sa = mq_strides_of(a, out), sb = mq_strides_of(b, out);
    mq_pair p = {.outer = 1};
    for (int32_t i = 0; i < out->rank; i++) {
        size_t dim = (size_t)out->dims[i];
        if (dim == 1) {
            continue;
        }
        int32_t last = p.rank - 1;
        bool is_joined = last >= 0 && p.a[last] == sa.at[i] * dim && p.b[last] == sb.at[i] * dim;
        if (is_joined) {
            p.dims[last] *= dim;
        } else {
            last = p.rank++;
            p.dims[last] = dim;
        }
        p.a[last] = sa.at[i];
        p.b[last] = sb.at[i];
    }
    if (p.rank == 0) {
        p.rank = 1;
        p.dims[0] = 1;
    }
    for (int32_t i = 0; i + 1 < p.rank; i++) {
        p.outer *= p.dims[i];
    }
    if (p.dims[p.rank - 1] == 0) {
        p.outer = 0;
    }
    return p;
}

void mq_pair_at(const mq_pair *pair, size_t o, size_t *a, size_t *b)
{
    *a = 0;
    *b = 0;
    for (int32_t i = pair->rank - 2; i >= 0; i--) {
        size_t index = o % pair->dims[i];
        o /= pair->dims[i];
        *a += index * pair->a[i];
        *b += index * pair->b[i];
    }
}

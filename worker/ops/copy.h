/* Copying elements by strides: what Transpose, Slice, Expand and others are made of. */
#ifndef MQ_WORKER_OPS_COPY_H
#define MQ_WORKER_OPS_COPY_H

#include "worker/ops/kit.h"

/* Bytes of one element; a string is its span. */
static inline size_t mq_each(const mq_tensor *t)
{
    return t->dtype == MQ_DT_STR ? sizeof(mq_span) : mq_dtype_bytes(t->dtype);
}

/* out[index] = from[sum index[i] * strides[i]] for every index of shape, in row-major order;
 * strides in elements, may be 0 or negative. each: bytes of an element. */
void mq_copy_strided(void *out, const mq_shape *shape, const void *from, const ptrdiff_t *strides,
                     size_t each);

/* to[sum index[i] * strides[i]] += from[index]: the gradient of such a copy. */
void mq_add_strided(float *to, const mq_shape *shape, const float *from, const ptrdiff_t *strides);

/* Row-major strides of a shape, in elements. */
void mq_row_strides(const mq_shape *shape, ptrdiff_t *strides);

#endif

/* Strided copies; see copy.h. */
#include "worker/ops/copy.h"

void mq_row_strides(const mq_shape *shape, ptrdiff_t *strides)
{
    ptrdiff_t stride = 1;
    for (int32_t i = shape->rank - 1; i >= 0; i--) {
        strides[i] = stride;
        stride *= (ptrdiff_t)shape->dims[i];
    }
}

/* Dimensions that step as one are joined; those of size 1 go. */
static mq_shape join(const mq_shape *shape, const ptrdiff_t *strides, ptrdiff_t *joined)
{
    mq_shape s = {.rank = 0};
    for (int32_t i = 0; i < shape->rank; i++) {
        if (shape->dims[i] == 1) {
            continue;
        }
        if (s.rank > 0 && joined[s.rank - 1] == strides[i] * (ptrdiff_t)shape->dims[i]) {
            s.dims[s.rank - 1] *= shape->dims[i];
        } else {
            s.dims[s.rank++] = shape->dims[i];
        }
        joined[s.rank - 1] = strides[i];
    }
    return s;
}

#define RUN_OF(type)                                                                               \
    for (size_t i = 0; i < n; i++) {                                                               \
        ((type *)out)[i] = ((const type *)from)[(ptrdiff_t)i * step];                              \
    }

/* One run along the last dimension. */
static void copy_run(void *out, const void *from, size_t n, ptrdiff_t step, size_t each)
{
    if (step == 1) {
        memcpy(out, from, n * each);
        return;
    }
    switch (each) {
    case 1:
        RUN_OF(uint8_t)
        break;
    case 2:
        RUN_OF(uint16_t)
        break;
    case 4:
        RUN_OF(uint32_t)
        break;
    case 8:
        RUN_OF(uint64_t)
        break;
    default:
        RUN_OF(mq_span)
        break;
    }
}

static ptrdiff_t offset_of(const int64_t *index, const ptrdiff_t *strides, int32_t rank)
{
    ptrdiff_t offset = 0;
    for (int32_t i = 0; i < rank; i++) {
        offset += (ptrdiff_t)index[i] * strides[i];
    }
    return offset;
}

void mq_copy_strided(void *out, const mq_shape *shape, const void *from, const ptrdiff_t *strides,
                     size_t each)
{
    ptrdiff_t steps[MQ_RANK_MAX];
    if (mq_dims_product(shape, 0, shape->rank) == 0) {
        return;
    }
    mq_shape s = join(shape, strides, steps);
    size_t n = s.rank == 0 ? 1 : (size_t)s.dims[s.rank - 1];
    ptrdiff_t step = s.rank == 0 ? 1 : steps[s.rank - 1];
    mq_shape outer = s;
    outer.rank = s.rank == 0 ? 0 : s.rank - 1;
    int64_t index[MQ_RANK_MAX] = {0};
    uint8_t *to = out;
    do {
        ptrdiff_t at = offset_of(index, steps, outer.rank) * (ptrdiff_t)each;
        copy_run(to, (const uint8_t *)from + at, n, step, each);
        to += n * each;
    } while (mq_next_index(&outer, index));
}

void mq_add_strided(float *to, const mq_shape *shape, const float *from, const ptrdiff_t *strides)
{
    size_t count = mq_dims_product(shape, 0, shape->rank);
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t i = 0; i < count; i++) {
        to[offset_of(index, strides, shape->rank)] += from[i];
        mq_next_index(shape, index);
    }
}

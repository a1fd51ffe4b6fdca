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

enum { TILE = 16 };

/* One plane of four-byte elements: out[a][b] = from[a + b step], rows of out `row` apart; in tiles,
 * so that lines of both stay in the cache. */
static void turn(uint32_t *out, size_t row, const uint32_t *from, ptrdiff_t step, size_t rows,
                 size_t columns)
{
    for (size_t a0 = 0; a0 < rows; a0 += TILE) {
        size_t a1 = a0 + TILE < rows ? a0 + TILE : rows;
        for (size_t b0 = 0; b0 < columns; b0 += TILE) {
            size_t b1 = b0 + TILE < columns ? b0 + TILE : columns;
            for (size_t a = a0; a < a1; a++) {
                for (size_t b = b0; b < b1; b++) {
                    out[a * row + b] = from[(ptrdiff_t)b * step + (ptrdiff_t)a];
                }
            }
        }
    }
}

/* A transposition of four-byte elements: some dimension but the last steps by one. False: none. */
static bool copy_turned(uint32_t *out, const mq_shape *s, const uint32_t *from,
                        const ptrdiff_t *steps)
{
    int32_t last = s->rank - 1, d = 0;
    while (d < last && steps[d] != 1) {
        d++;
    }
    if (s->rank < 2 || d == last || s->dims[d] < TILE / 2 || steps[last] < 1) {
        return false;
    }
    ptrdiff_t rows[MQ_RANK_MAX];
    mq_row_strides(s, rows);
    mq_shape outer = *s; /* the two dimensions of the plane stand still */
    outer.dims[d] = 1;
    outer.dims[last] = 1;
    int64_t index[MQ_RANK_MAX] = {0};
    do {
        turn(out + offset_of(index, rows, s->rank), (size_t)rows[d],
             from + offset_of(index, steps, s->rank), steps[last], (size_t)s->dims[d],
             (size_t)s->dims[last]);
    } while (mq_next_index(&outer, index));
    return true;
}

void mq_copy_strided(void *out, const mq_shape *shape, const void *from, const ptrdiff_t *strides,
                     size_t each)
{
    ptrdiff_t steps[MQ_RANK_MAX];
    if (mq_dims_product(shape, 0, shape->rank) == 0) {
        return;
    }
    mq_shape s = join(shape, strides, steps);
    if (each == sizeof(uint32_t) && copy_turned(out, &s, from, steps)) {
        return;
    }
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

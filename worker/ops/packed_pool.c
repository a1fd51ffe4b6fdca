/* PackedPool: maxima and averages over windows, all channels of a block at once; see packed.h. */
#include <math.h>

#include "shared/base/math.h"
#include "worker/ops/packed.h"

static mq_code window_of(const mq_op_call *call, mq_window *w, mq_error *err)
{
    const mq_packed_pool_attrs *a = call->attrs;
    mq_shape x = call->inputs[0]->shape;
    int64_t kernel[MQ_WINDOW_AXES_MAX];
    if (x.rank != 5 || (x.dims[4] != 8 && x.dims[4] != 16)) {
        return mq_fail(err, MQ_E_ARG, "these are no packed images of rank 4 in blocks of 8 or 16");
    }
    x.rank--;
    if (!a->is_global) {
        mq_code code = mq_window_kernel(&a->window, &x, kernel, err);
        return code == MQ_OK ? mq_window_of(&a->window, &x, kernel, w, err) : code;
    }
    *w = (mq_window){.axes = x.rank - 2};
    for (int32_t i = 0; i < w->axes; i++) {
        w->in[i] = w->kernel[i] = x.dims[i + 2];
        w->out[i] = w->stride[i] = w->dilation[i] = 1;
        if (w->in[i] < 1) {
            return mq_fail(err, MQ_E_ARG, "spatial dimension %d is 0: nothing to pool", i);
        }
    }
    return MQ_OK;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    mq_window w = {0};
    mq_code code = window_of(call, &w, err);
    call->outputs[0]->dtype = MQ_DT_F32;
    call->outputs[0]->shape = call->inputs[0]->shape;
    for (int32_t i = 0; i < w.axes && code == MQ_OK; i++) {
        call->outputs[0]->shape.dims[i + 2] = w.out[i];
    }
    return code;
}

/* What a window covers of each axis, by output position: first position and taps inside. */
typedef struct span {
    int64_t first, taps;
} span;

static span span_at(const mq_window *w, int32_t axis, int64_t o)
{
    int64_t d = w->dilation[axis], x = o * w->stride[axis] - w->begin[axis];
    int64_t k = x < 0 ? (-x + d - 1) / d : 0;
    span s = {.first = x + k * d};
    int64_t end = s.first >= w->in[axis] ? 0 : (w->in[axis] - s.first + d - 1) / d;
    s.taps = mq_max_i64(0, mq_min_i64(w->kernel[axis] - k, end));
    return s;
}

typedef struct job {
    const mq_window *w;
    const float *x;
    float *y;
    size_t planes;
    bool is_average;
} job;

/* One output position: the block from the window's rows and columns, into y; NaN stays NaN. Each
 * kernel below is this with its own lanes. */
static inline const float *corner(const job *j, const float *plane, span rows, span columns,
                                  int64_t block)
{
    return plane + (rows.first * j->w->in[1] + columns.first) * block;
}

typedef void kernel(const job *j, const float *plane, span rows, span columns, float *y);

static void plain_any(const job *j, const float *plane, span rows, span columns, float *y,
                      int64_t block)
{
    const float *at = corner(j, plane, rows, columns, block);
    int64_t step = j->w->dilation[1] * block, down = j->w->dilation[0] * j->w->in[1] * block;
    for (int64_t i = 0; i < block; i++) {
        float total = j->is_average ? 0.0f : -INFINITY;
        for (int64_t t = 0; t < rows.taps * columns.taps; t++) {
            float x = at[t / columns.taps * down + t % columns.taps * step + i];
            float larger = x > total || x != x ? x : total;
            total = j->is_average ? total + x : larger;
        }
        y[i] = j->is_average ? total / (float)(rows.taps * columns.taps) : total;
    }
}

static void plain_16(const job *j, const float *plane, span rows, span columns, float *y)
{
    plain_any(j, plane, rows, columns, y, 16);
}

static void plain_8(const job *j, const float *plane, span rows, span columns, float *y)
{
    plain_any(j, plane, rows, columns, y, 8);
}

#if defined(__x86_64__)
#include <immintrin.h>

/* max(x, total) gives total where one is NaN: put those of x in. */
#define LARGER_512(x, total)                                                                       \
    _mm512_mask_mov_ps(_mm512_max_ps(x, total), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x)
#define LARGER_256(x, total)                                                                       \
    _mm256_blendv_ps(_mm256_max_ps(x, total), x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q))

#define POOL(name, isa, lanes, bits, block)                                                        \
    __attribute__((target(isa))) static void name(const job *j, const float *plane, span rows,     \
                                                  span columns, float *y)                          \
    {                                                                                              \
        const float *at = corner(j, plane, rows, columns, block);                                  \
        int64_t step = j->w->dilation[1] * block, down = j->w->dilation[0] * j->w->in[1] * block;  \
        lanes total = _mm##bits##_set1_ps(j->is_average ? 0.0f : -INFINITY);                       \
        for (int64_t r = 0; r < rows.taps; r++, at += down) {                                      \
            for (int64_t t = 0; t < columns.taps; t++) {                                           \
                lanes x = _mm##bits##_loadu_ps(at + t * step);                                     \
                total = j->is_average ? _mm##bits##_add_ps(total, x) : LARGER_##bits(x, total);    \
            }                                                                                      \
        }                                                                                          \
        if (j->is_average) {                                                                       \
            float count = (float)(rows.taps * columns.taps);                                       \
            total = _mm##bits##_div_ps(total, _mm##bits##_set1_ps(count));                         \
        }                                                                                          \
        _mm##bits##_storeu_ps(y, total);                                                           \
    }
POOL(avx512_16, "avx512f", __m512, 512, 16)
POOL(avx2_8, "avx2", __m256, 256, 8)
#endif

static kernel *kernel_of(int64_t block)
{
#if defined(__x86_64__)
    if (block == 16 && __builtin_cpu_supports("avx512f")) {
        return avx512_16;
    }
    if (block == 8 && __builtin_cpu_supports("avx2")) {
        return avx2_8;
    }
#endif
    return block == 16 ? plain_16 : plain_8;
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    const mq_packed_pool_attrs *a = call->attrs;
    const mq_shape *s = &call->inputs[0]->shape;
    mq_window w = {0};
    mq_code code = window_of(call, &w, err);
    if (code != MQ_OK || mq_elements(call->outputs[0]) == 0) {
        return code;
    }
    job j = {.w = &w,
             .x = call->inputs[0]->data,
             .y = call->outputs[0]->data,
             .planes = mq_dims_product(s, 0, 2),
             .is_average = a->is_average != 0};
    kernel *one = kernel_of(s->dims[4]);
    for (size_t p = 0; p < j.planes; p++) {
        const float *plane = j.x + p * mq_window_in(&w) * (size_t)s->dims[4];
        for (int64_t r = 0; r < w.out[0]; r++) {
            span rows = span_at(&w, 0, r);
            for (int64_t c = 0; c < w.out[1]; c++, j.y += s->dims[4]) {
                one(&j, plane, rows, span_at(&w, 1, c), j.y);
            }
        }
    }
    return MQ_OK;
}

static const mq_attr_spec specs[] = {
    MQ_WINDOW_INTS(kernel_shape),
    MQ_WINDOW_INTS(strides),
    MQ_WINDOW_INTS(pads),
    MQ_WINDOW_INTS(dilations),
    MQ_WINDOW_AUTO_PAD,
    MQ_WINDOW_INT(ceil_mode, 0),
    {.name = "is_average",
     .type = MQ_ATTR_INT,
     .offset = offsetof(mq_packed_pool_attrs, is_average)},
    {.name = "is_global", .type = MQ_ATTR_INT, .offset = offsetof(mq_packed_pool_attrs, is_global)},
    {.name = NULL},
};

const mq_op mq_op_packed_pool = {
    .name = "PackedPool",
    .domain = "maasq",
    .since = 1,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{0, MQ_T(MQ_DT_F32)}},
    .flags = MQ_OP_INTERNAL,
    .attrs_bytes = sizeof(mq_packed_pool_attrs),
    .specs = specs,
    .shape = shape,
    .run = run,
    .cases = "kernel_shape=(3,3) strides=(2,2) pads=(1,1,1,1) | f32[1,C,6,5,8];"
             "kernel_shape=(2,2) is_average=1 pads=(0,1,1,0) | f32[1,2,4,4,16];"
             "is_global=1 is_average=1 | f32[N,1,A,B,8]",
};

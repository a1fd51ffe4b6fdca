/* Geometry of sliding windows, and the matrices made of them; see window.h. */
#include "worker/ops/window.h"

#include "shared/base/math.h"

static int64_t entry(const mq_ints *list, size_t i, int64_t otherwise)
{
    return list->is_given && list->count > 0 ? list->at[i] : otherwise;
}

static mq_code check_list(const mq_ints *list, const char *name, size_t count, int64_t least,
                          mq_error *err)
{
    if (!list->is_given || list->count == 0) {
        return MQ_OK;
    }
    if (list->count != count) {
        return mq_fail(err, MQ_E_ARG, "%s has %zu entries where %zu are due", name, list->count,
                       count);
    }
    for (size_t i = 0; i < count; i++) {
        if (list->at[i] < least || list->at[i] > MQ_DIM_MAX) {
            return mq_fail(err, MQ_E_ARG, "%s[%zu] is %lld, allowed are %lld to %lld", name, i,
                           (long long)list->at[i], (long long)least, (long long)MQ_DIM_MAX);
        }
    }
    return MQ_OK;
}

/* Strides, dilations and explicit pads; what does not depend on sizes. */
static mq_code start(const mq_window_attrs *a, const mq_shape *x, const int64_t *kernel,
                     mq_window *w, mq_error *err)
{
    if (x->rank < 2) {
        return mq_fail(err, MQ_E_ARG, "rank %d, at least 2 is due: batch, channels, ...", x->rank);
    }
    *w = (mq_window){.axes = x->rank - 2};
    size_t n = (size_t)w->axes;
    mq_code code = check_list(&a->strides, "strides", n, 1, err);
    code = code == MQ_OK ? check_list(&a->dilations, "dilations", n, 1, err) : code;
    code = code == MQ_OK ? check_list(&a->pads, "pads", 2 * n, 0, err) : code;
    for (size_t i = 0; i < n && code == MQ_OK; i++) {
        w->in[i] = x->dims[i + 2];
        w->kernel[i] = kernel[i];
        w->stride[i] = entry(&a->strides, i, 1);
        w->dilation[i] = entry(&a->dilations, i, 1);
        w->begin[i] = entry(&a->pads, i, 0);
        w->end[i] = entry(&a->pads, i + n, 0);
        if (kernel[i] < 1) {
            code = mq_fail(err, MQ_E_ARG, "kernel dimension %zu is %lld", i, (long long)kernel[i]);
        } else if (kernel[i] > MQ_DIM_MAX / w->dilation[i]) {
            code = mq_fail(err, MQ_E_ARG, "kernel dimension %zu is too large", i);
        }
    }
    return code;
}

/* Splits the padding that SAME_* needs; the odd one goes to the end for UPPER. */
static void same_pads(mq_window *w, int32_t i, int64_t total, bool is_upper)
{
    total = total < 0 ? 0 : total;
    w->begin[i] = is_upper ? total / 2 : total - total / 2;
    w->end[i] = total - w->begin[i];
}

static mq_code auto_pad(const mq_window_attrs *a, bool *is_same, bool *is_upper, bool *is_valid,
                        mq_error *err)
{
    *is_upper = mq_span_is(a->auto_pad, "SAME_UPPER");
    *is_same = *is_upper || mq_span_is(a->auto_pad, "SAME_LOWER");
    *is_valid = mq_span_is(a->auto_pad, "VALID");
    if (!*is_same && !*is_valid && a->auto_pad.len > 0 && !mq_span_is(a->auto_pad, "NOTSET")) {
        return mq_fail(err, MQ_E_ARG, "auto_pad is none of NOTSET, SAME_UPPER, SAME_LOWER, VALID");
    }
    return MQ_OK;
}

mq_code mq_window_of(const mq_window_attrs *a, const mq_shape *x, const int64_t *kernel,
                     mq_window *w, mq_error *err)
{
    bool is_same, is_upper, is_valid;
    mq_code code = start(a, x, kernel, w, err);
    code = code == MQ_OK ? auto_pad(a, &is_same, &is_upper, &is_valid, err) : code;
    for (int32_t i = 0; i < w->axes && code == MQ_OK; i++) {
        int64_t span = (w->kernel[i] - 1) * w->dilation[i] + 1;
        if (is_same) {
            w->out[i] = (w->in[i] + w->stride[i] - 1) / w->stride[i];
            same_pads(w, i, (w->out[i] - 1) * w->stride[i] + span - w->in[i], is_upper);
            continue;
        }
        if (is_valid) {
            w->begin[i] = w->end[i] = 0;
        }
        int64_t room = w->in[i] + w->begin[i] + w->end[i] - span;
        if (room < 0) {
            return mq_fail(err, MQ_E_ARG,
                           "a kernel that spans %lld does not fit spatial dimension %d of %lld "
                           "with pads %lld and %lld",
                           (long long)span, i, (long long)w->in[i], (long long)w->begin[i],
                           (long long)w->end[i]);
        }
        w->out[i] = room / w->stride[i] + 1;
        if (a->ceil_mode != 0 && room % w->stride[i] != 0 &&
            w->out[i] * w->stride[i] < w->in[i] + w->begin[i]) {
            w->out[i]++;
        }
    }
    return code;
}

mq_code mq_window_transposed(const mq_window_attrs *a, const mq_shape *x, const int64_t *kernel,
                             mq_window *w, mq_error *err)
{
    bool is_same, is_upper, is_valid;
    mq_code code = start(a, x, kernel, w, err);
    size_t n = code == MQ_OK ? (size_t)w->axes : 0;
    code = code == MQ_OK ? auto_pad(a, &is_same, &is_upper, &is_valid, err) : code;
    code = code == MQ_OK ? check_list(&a->output_padding, "output_padding", n, 0, err) : code;
    if (code == MQ_OK && a->output_shape.count == n + 2) {
        code = mq_fail(err, MQ_E_UNSUPPORTED, "output_shape with batch and channels");
    }
    code = code == MQ_OK ? check_list(&a->output_shape, "output_shape", n, 0, err) : code;
    for (int32_t i = 0; i < w->axes && code == MQ_OK; i++) {
        int64_t more = entry(&a->output_padding, (size_t)i, 0), size = w->in[i];
        int64_t full = w->stride[i] * (size - 1) + more + (w->kernel[i] - 1) * w->dilation[i] + 1;
        if (a->output_shape.is_given && a->output_shape.count > 0) {
            w->in[i] = a->output_shape.at[i];
            same_pads(w, i, full - w->in[i], is_upper);
            /* an output larger than the full one is padded at its end by zeros */
        } else if (is_same) {
            w->in[i] = size * w->stride[i];
            same_pads(w, i, full - w->in[i], is_upper);
        } else {
            if (is_valid) {
                w->begin[i] = w->end[i] = 0;
            }
            w->in[i] = full - w->begin[i] - w->end[i];
        }
        w->out[i] = size;
        if (w->in[i] < 0) {
            code = mq_fail(err, MQ_E_ARG, "pads cut away all of spatial dimension %d", i);
        }
    }
    return code;
}

mq_code mq_window_kernel(const mq_window_attrs *a, const mq_shape *x, int64_t *kernel,
                         mq_error *err)
{
    int32_t axes = x->rank - 2;
    if (axes < 0 || a->kernel_shape.count != (size_t)axes) {
        return mq_fail(err, MQ_E_ARG, "kernel_shape has %zu entries, the input rank %d",
                       a->kernel_shape.count, x->rank);
    }
    for (int32_t i = 0; i < axes; i++) {
        kernel[i] = a->kernel_shape.at[i];
        if (kernel[i] < 1 || kernel[i] > MQ_DIM_MAX) {
            return mq_fail(err, MQ_E_ARG, "kernel_shape[%d] is %lld", i, (long long)kernel[i]);
        }
    }
    return MQ_OK;
}

static size_t product(int32_t axes, const int64_t *dims)
{
    size_t count = 1;
    for (int32_t i = 0; i < axes; i++) {
        count *= (size_t)dims[i];
    }
    return count;
}

size_t mq_window_in(const mq_window *w)
{
    return product(w->axes, w->in);
}

size_t mq_window_out(const mq_window *w)
{
    return product(w->axes, w->out);
}

size_t mq_window_kernel_size(const mq_window *w)
{
    return product(w->axes, w->kernel);
}

bool mq_window_is_pointwise(const mq_window *w)
{
    for (int32_t i = 0; i < w->axes; i++) {
        if (w->kernel[i] != 1 || w->stride[i] != 1 || w->begin[i] != 0 || w->end[i] != 0) {
            return false;
        }
    }
    return true;
}

ptrdiff_t mq_window_tap(const mq_window *w, const int64_t *o, const int64_t *k)
{
    int64_t at = 0;
    for (int32_t i = 0; i < w->axes; i++) {
        int64_t x = o[i] * w->stride[i] - w->begin[i] + k[i] * w->dilation[i];
        if (x < 0 || x >= w->in[i]) {
            return -1;
        }
        at = at * w->in[i] + x;
    }
    return (ptrdiff_t)at;
}

bool mq_window_next(int32_t axes, const int64_t *dims, int64_t *index)
{
    for (int32_t i = axes - 1; i >= 0; i--) {
        if (++index[i] < dims[i]) {
            return true;
        }
        index[i] = 0;
    }
    return false;
}

/* A piece of one row of the unrolled matrix: outputs that share all but the last coordinate. */
typedef struct run_piece {
    size_t count;   /* outputs of it */
    size_t first;   /* of these, the first whose tap is inside the input */
    size_t inside;  /* and how many are */
    ptrdiff_t from; /* offset of the first inside tap in the plane */
    size_t step;    /* between taps */
} run_piece;

/* The piece that begins at output position o (index vector) and has at most `room` outputs. */
static run_piece piece_at(const mq_window *w, const int64_t *o, const int64_t *k, size_t room)
{
    int32_t last = w->axes - 1;
    run_piece p = {.count = 1, .inside = 1};
    if (last < 0) {
        return p;
    }
    int64_t row = 0;
    p.count = mq_min_size((size_t)(w->out[last] - o[last]), room);
    p.step = (size_t)w->stride[last];
    p.inside = 0;
    for (int32_t i = 0; i < last; i++) {
        int64_t x = o[i] * w->stride[i] - w->begin[i] + k[i] * w->dilation[i];
        if (x < 0 || x >= w->in[i]) {
            return p;
        }
        row = row * w->in[i] + x;
    }
    int64_t s = w->stride[last];
    int64_t x = o[last] * s - w->begin[last] + k[last] * w->dilation[last];
    int64_t skip = x >= 0 ? 0 : (-x + s - 1) / s;
    int64_t stop = x >= w->in[last] ? 0 : (w->in[last] - 1 - x) / s + 1;
    stop = mq_min_i64(stop, (int64_t)p.count);
    if (skip < stop) {
        p.first = (size_t)skip;
        p.inside = (size_t)(stop - skip);
        p.from = (ptrdiff_t)(row * w->in[last] + x + skip * s);
    }
    return p;
}

static void position(const mq_window *w, size_t at, int64_t *index)
{
    for (int32_t i = w->axes - 1; i >= 0; i--) {
        index[i] = (int64_t)(at % (size_t)w->out[i]);
        at /= (size_t)w->out[i];
    }
}

/* Moves an index vector on by the piece that begins at it. */
static void advance(const mq_window *w, size_t count, int64_t *index)
{
    int32_t last = w->axes - 1;
    if (last >= 0) {
        index[last] += (int64_t)count - 1;
        (void)mq_window_next(w->axes, w->out, index);
    }
}

static void unroll_row(const mq_window *w, const float *plane, const int64_t *k, size_t from,
                       size_t to, float *out)
{
    int64_t o[MQ_WINDOW_AXES_MAX] = {0};
    position(w, from, o);
    for (size_t at = from; at < to;) {
        run_piece p = piece_at(w, o, k, to - at);
        const float *x = plane + p.from;
        memset(out, 0, p.first * sizeof *out);
        if (p.step == 1) {
            memcpy(out + p.first, x, p.inside * sizeof *out);
        } else {
            for (size_t i = 0; i < p.inside; i++) {
                out[p.first + i] = x[i * p.step];
            }
        }
        memset(out + p.first + p.inside, 0, (p.count - p.first - p.inside) * sizeof *out);
        out += p.count;
        at += p.count;
        advance(w, p.count, o);
    }
}

void mq_window_unroll(const mq_window *w, const float *x, size_t channels, size_t from, size_t to,
                      float *out)
{
    size_t plane = mq_window_in(w);
    for (size_t c = 0; c < channels; c++) {
        int64_t k[MQ_WINDOW_AXES_MAX] = {0};
        do {
            unroll_row(w, x + c * plane, k, from, to, out);
            out += to - from;
        } while (mq_window_next(w->axes, w->kernel, k));
    }
}

static void fold_row(const mq_window *w, const float *columns, const int64_t *k, size_t from,
                     size_t to, float *plane)
{
    int64_t o[MQ_WINDOW_AXES_MAX] = {0};
    position(w, from, o);
    for (size_t at = from; at < to;) {
        run_piece p = piece_at(w, o, k, to - at);
        float *x = plane + p.from;
        for (size_t i = 0; i < p.inside; i++) {
            x[i * p.step] += columns[p.first + i];
        }
        columns += p.count;
        at += p.count;
        advance(w, p.count, o);
    }
}

void mq_window_fold(const mq_window *w, const float *columns, size_t channels, size_t from,
                    size_t to, float *x)
{
    size_t plane = mq_window_in(w);
    for (size_t c = 0; c < channels; c++) {
        int64_t k[MQ_WINDOW_AXES_MAX] = {0};
        do {
            fold_row(w, columns, k, from, to, x + c * plane);
            columns += to - from;
        } while (mq_window_next(w->axes, w->kernel, k));
    }
}

/* For every tap, in order, and every run of outputs: STATEMENT on to[i] and x[i * step]. Written
 * twice, because only the loop of step 1 is turned into vector instructions. */
#define EACH_TAP(STATEMENT)                                                                        \
    int64_t k[MQ_WINDOW_AXES_MAX] = {0};                                                           \
    size_t outputs = mq_window_out(w);                                                             \
    do {                                                                                           \
        int64_t o[MQ_WINDOW_AXES_MAX] = {0};                                                       \
        for (size_t at = 0; at < outputs;) {                                                       \
            run_piece p = piece_at(w, o, k, outputs - at);                                         \
            const float *from = plane + p.from;                                                    \
            float *to = y + at + p.first;                                                          \
            for (size_t i = 0; p.step == 1 && i < p.inside; i++) {                                 \
                float x = from[i];                                                                 \
                STATEMENT;                                                                         \
            }                                                                                      \
            for (size_t i = 0; p.step != 1 && i < p.inside; i++) {                                 \
                float x = from[i * p.step];                                                        \
                STATEMENT;                                                                         \
            }                                                                                      \
            at += p.count;                                                                         \
            advance(w, p.count, o);                                                                \
        }                                                                                          \
        kernel++;                                                                                  \
    } while (mq_window_next(w->axes, w->kernel, k));

void mq_window_correlate(const mq_window *w, const float *plane, const float *kernel, float *y)
{
    EACH_TAP(to[i] += *kernel * x)
}

void mq_window_sum(const mq_window *w, const float *plane, float *y)
{
    size_t kernel = 0;
    memset(y, 0, mq_window_out(w) * sizeof *y);
    EACH_TAP(to[i] += x)
}

void mq_window_maximum(const mq_window *w, const float *plane, float *y)
{
    size_t kernel = 0;
    for (size_t i = 0, n = mq_window_out(w); i < n; i++) {
        y[i] = -HUGE_VALF;
    }
    EACH_TAP(to[i] = x > to[i] ? x : to[i])
}

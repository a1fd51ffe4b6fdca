/* Sliding windows over the spatial dimensions of [N, C, D1, D2, ...], as convolution and pooling
 * use them: what the attributes kernel_shape, strides, pads, dilations, auto_pad and ceil_mode mean
 * for given shapes. onnx.ai/onnx/operators/onnx__Conv.html, onnx__MaxPool.html */
#ifndef MQ_WORKER_OPS_WINDOW_H
#define MQ_WORKER_OPS_WINDOW_H

#include "worker/ops/kit.h"

enum { MQ_WINDOW_AXES_MAX = MQ_RANK_MAX - 2 };

/* Attributes that such operators have; each lists those it knows. */
typedef struct mq_window_attrs {
    mq_span auto_pad;
    mq_ints kernel_shape, strides, pads, dilations, output_padding, output_shape;
    int64_t group, ceil_mode, count_include_pad, storage_order, p;
} mq_window_attrs;

#define MQ_WINDOW_INTS(name_)                                                                      \
    {                                                                                              \
        .name = #name_, .type = MQ_ATTR_INTS, .offset = offsetof(mq_window_attrs, name_)           \
    }
#define MQ_WINDOW_AUTO_PAD                                                                         \
    {                                                                                              \
        .name = "auto_pad", .type = MQ_ATTR_STRING, .offset = offsetof(mq_window_attrs, auto_pad), \
        .s = "NOTSET"                                                                              \
    }
#define MQ_WINDOW_INT(name_, value_)                                                               \
    {                                                                                              \
        .name = #name_, .type = MQ_ATTR_INT, .offset = offsetof(mq_window_attrs, name_),           \
        .i = (value_)                                                                              \
    }

/* Everything by spatial axis. Output position o covers input o * stride - begin + k * dilation for
 * k in 0..kernel-1; positions outside 0..in-1 are padding. */
typedef struct mq_window {
    int32_t axes; /* 0..MQ_WINDOW_AXES_MAX; pooling of rank-2 tensors has none */
    int64_t in[MQ_WINDOW_AXES_MAX], out[MQ_WINDOW_AXES_MAX], kernel[MQ_WINDOW_AXES_MAX];
    int64_t stride[MQ_WINDOW_AXES_MAX], dilation[MQ_WINDOW_AXES_MAX];
    int64_t begin[MQ_WINDOW_AXES_MAX], end[MQ_WINDOW_AXES_MAX];
} mq_window;

/* For an input of shape x and a kernel of the given spatial shape. MQ_E_ARG names what does not
 * fit. Ceil mode drops a last window that would begin in the padding. */
MQ_MUST_USE mq_code mq_window_of(const mq_window_attrs *a, const mq_shape *x, const int64_t *kernel,
                                 mq_window *out, mq_error *err);

/* The same for a transposed convolution: `in` is what the windows slide over backwards (the
 * output), `out` the operator's input. */
MQ_MUST_USE mq_code mq_window_transposed(const mq_window_attrs *a, const mq_shape *x,
                                         const int64_t *kernel, mq_window *out, mq_error *err);

/* kernel_shape of the attributes (required, one entry an axis). */
MQ_MUST_USE mq_code mq_window_kernel(const mq_window_attrs *a, const mq_shape *x, int64_t *kernel,
                                     mq_error *err);

/* Elements of input, output, kernel. */
size_t mq_window_in(const mq_window *w);
size_t mq_window_out(const mq_window *w);
size_t mq_window_kernel_size(const mq_window *w);

/* Is the kernel one element, unpadded, at stride 1? Then a convolution is a plain product. */
bool mq_window_is_pointwise(const mq_window *w);

/* Offset of tap k (an index vector) of output position o in the input plane, -1 in the padding. */
ptrdiff_t mq_window_tap(const mq_window *w, const int64_t *o, const int64_t *k);

/* Next index vector below dims[0..axes), row-major; false after the last (all zero again). */
bool mq_window_next(int32_t axes, const int64_t *dims, int64_t *index);

/* Columns from..to of the matrix [channels * kernel, outputs] that a convolution multiplies with
 * its weights (im2col), into out, row length to - from. */
void mq_window_unroll(const mq_window *w, const float *x, size_t channels, size_t from, size_t to,
                      float *out);

/* Its transpose: adds the columns to the planes they came from (col2im). Order: row by row. */
void mq_window_fold(const mq_window *w, const float *columns, size_t channels, size_t from,
                    size_t to, float *x);

/* y[outputs] += correlation of one plane with one kernel, tap by tap. */
void mq_window_correlate(const mq_window *w, const float *plane, const float *kernel, float *y);

/* y[outputs] = sum, or maximum, of what each window covers; -infinity for one all in padding. */
void mq_window_sum(const mq_window *w, const float *plane, float *y);
void mq_window_maximum(const mq_window *w, const float *plane, float *y);

#endif

/* Inside worker/ops: what Conv and PackedConv tell oneDNN. */
#ifndef MQ_WORKER_OPS_CONV_H
#define MQ_WORKER_OPS_CONV_H

#include "worker/dnnl/dnnl.h"
#include "worker/ops/window.h"

/* Of a float call with inputs x, W, bias whose W and bias are constant: plain layouts, no clamp, no
 * sum. False: not constant, or not what oneDNN takes. */
bool mq_conv_spec_of(const mq_op_call *call, const mq_window_attrs *a, mq_dnnl_conv_spec *out);

/* What weights of shape w and the attributes say: all but types, W and what comes after the sum. */
bool mq_conv_window_of(const mq_shape *w, const mq_window_attrs *a, mq_dnnl_conv_spec *out);

/* Of a QLinearConv or ConvInteger whose other inputs than x are constant; copies into the arena. */
bool mq_qconv_spec_of(const mq_op_call *call, const mq_window_attrs *a, bool is_linear,
                      mq_arena *arena, mq_dnnl_conv_spec *out);

mq_dnnl_conv_size mq_conv_size_of(const mq_window *w, int64_t batch);

#endif

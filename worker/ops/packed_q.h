/* PackedQConv, internal, made by exec/layout_bytes.c: QLinearConv whose image or result lies as
 * [N, H, W, C], as kernels of bytes like it. Inputs as QLinearConv has them. */
#ifndef MQ_WORKER_OPS_PACKED_Q_H
#define MQ_WORKER_OPS_PACKED_Q_H

#include "worker/ops/window.h"

typedef struct mq_packed_qconv_attrs {
    mq_window_attrs window;           /* as Conv has them */
    int64_t x_is_packed, y_is_packed; /* [N, H, W, C] */
} mq_packed_qconv_attrs;

#endif

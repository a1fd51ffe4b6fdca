/* Internal operators on images in packed layout, made by exec/layout.c: [N, C, H, W] becomes
 * [N, C', H, W, B] with C' = ceil(C / B) blocks of B channels, the last one filled up with numbers
 * that mean nothing (and are finite). An ordinary tensor of one rank more, so that element-wise
 * operators, and Concat along C' where all C are whole blocks, work on it as they are. */
#ifndef MQ_WORKER_OPS_PACKED_H
#define MQ_WORKER_OPS_PACKED_H

#include "worker/ops/window.h"

/* PackedConv: inputs x, W, bias (or omitted), what is added to the result (packed, or omitted).
 * y = clamp(conv(x) + bias + sum). The sum's memory may become y's. */
typedef struct mq_packed_conv_attrs {
    mq_window_attrs window; /* as Conv has them */
    int64_t block;          /* B */
    float low, high;        /* infinities: no clamp */
    int64_t x_is_packed, y_is_packed;
} mq_packed_conv_attrs;

/* PackedPool: input and output packed. */
typedef struct mq_packed_pool_attrs {
    mq_window_attrs window; /* as MaxPool and AveragePool have them; count_include_pad 0 */
    int64_t is_average;     /* over what is not padding; else the maximum */
    int64_t is_global;      /* window is not read */
} mq_packed_pool_attrs;

/* Unpack: packed to plain. */
typedef struct mq_unpack_attrs {
    int64_t channels;
} mq_unpack_attrs;

#endif

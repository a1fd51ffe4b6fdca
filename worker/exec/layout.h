/* Inside worker/exec: keeps images in packed layout between convolutions. */
#ifndef MQ_WORKER_EXEC_LAYOUT_H
#define MQ_WORKER_EXEC_LAYOUT_H

#include "worker/exec/program.h"

/* After fusion, before prepare. Makes PackedConv and PackedPool (worker/ops/packed.h) of Conv, its
 * Add, Relu and Clip, and pools; element-wise operators between them stay as they are; Unpack
 * stands wherever a plain tensor is due. Does nothing without oneDNN, or when the program's kernels
 * are to be our own. */
MQ_MUST_USE mq_code mq_program_layout(mq_program *program, mq_error *err);

/* The same for quantized images ([N, H, W, C]): QLinearConv and QLinearAdd; see layout_bytes.c. */
MQ_MUST_USE mq_code mq_program_layout_bytes(mq_program *program, mq_error *err);

#endif

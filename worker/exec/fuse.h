/* Inside worker/exec only: what the fusion rules share. */
#ifndef MQ_WORKER_EXEC_FUSE_H
#define MQ_WORKER_EXEC_FUSE_H

#include "worker/exec/program.h"

/* Is the step alive and this operator of the default domain? */
bool mq_fuse_is(const mq_step *step, const char *name);

/* The step that alone reads output 0 of step s (which has no other output), or MQ_NO_VALUE. */
uint32_t mq_fuse_reader(const mq_program *p, uint32_t s);

/* Rule for step s when it is MatMulInteger; see fuse_quant.c. */
MQ_MUST_USE mq_code mq_fuse_quantized(mq_program *p, uint32_t s, mq_error *err);

#endif

/* Inside worker/exec only: what the fusion rules share. A rule looks at one step, the anchor of its
 * pattern, finds the rest by makers and readers, and puts one kernel in the place of the pattern's
 * last step; what nobody reads any more goes with the next mq_program_compact. It must not fire
 * when a value inside the pattern has another reader or is an output. */
#ifndef MQ_WORKER_EXEC_FUSE_H
#define MQ_WORKER_EXEC_FUSE_H

#include "worker/exec/program.h"

/* Is the step alive and this operator of the default domain? */
bool mq_fuse_is(const mq_step *step, const char *name);

/* The step that alone reads output 0 of step s (which has no other output), or MQ_NO_VALUE. */
uint32_t mq_fuse_reader(const mq_program *p, uint32_t s);

/* The same when it is that operator. */
uint32_t mq_fuse_next(const mq_program *p, uint32_t s, const char *name);

/* The step that makes v when it is that operator, or MQ_NO_VALUE. */
uint32_t mq_fuse_maker(const mq_program *p, uint32_t v, const char *name);

/* Has v just so many uses, and is no output? */
bool mq_fuse_uses(const mq_program *p, uint32_t v, uint32_t uses);

/* The other operand of a step with two, or MQ_NO_VALUE. */
uint32_t mq_fuse_other(const mq_step *step, uint32_t v);

/* Constants: any; one float32 number; one that is about `near`. */
bool mq_fuse_is_const(const mq_program *p, uint32_t v);
bool mq_fuse_number(const mq_program *p, uint32_t v, float *out);
bool mq_fuse_is_number(const mq_program *p, uint32_t v, float near);

/* A constant float32 vector; its length, or 0. */
int64_t mq_fuse_vector(const mq_program *p, uint32_t v);

/* Might a value of the model be float64? (Kernels made by fusion are float32 only; a pattern with a
 * float32 constant in it cannot be anything else.) */
bool mq_fuse_has_double(mq_program *p);

/* Step s becomes this kernel; inputs and attributes are copied. */
MQ_MUST_USE mq_code mq_fuse_put(mq_program *p, uint32_t s, const mq_op *op, const void *attrs,
                                const uint32_t *inputs, uint32_t count, mq_error *err);

/* A new constant of float32, zeroed; its value. MQ_NO_VALUE: no memory. Moves p->values. */
uint32_t mq_fuse_constant(mq_program *p, const mq_shape *shape);

/* The same of data that is there already (a piece of packs); NULL: as above. */
uint32_t mq_fuse_constant_at(mq_program *program, const mq_shape *shape, const float *data);

/* One rule: looks at step s; says in *fired whether it changed the program. */
typedef mq_code mq_fuse_rule(mq_program *p, uint32_t s, bool *fired, mq_error *err);
mq_fuse_rule mq_fuse_gelu;        /* Erf or Tanh */
mq_fuse_rule mq_fuse_silu;        /* Sigmoid or HardSigmoid, times its input */
mq_fuse_rule mq_fuse_clip;        /* Clip between additions and factors: HardSigmoid, HardSwish */
mq_fuse_rule mq_fuse_layer_norm;  /* Div */
mq_fuse_rule mq_fuse_conv_affine; /* Conv and what scales and shifts its channels */
mq_fuse_rule mq_fuse_attention;   /* Softmax between two products */
mq_fuse_rule mq_fuse_dense_act;   /* Dense and the activation behind it */
mq_fuse_rule mq_fuse_skip_norm;   /* Norm and the sum before it */

/* Lets equal steps be one; see fuse_same.c. For a program that nothing was fused in. */
MQ_MUST_USE mq_code mq_program_merge(mq_program *p, mq_error *err);

/* Rule for step s when it is MatMulInteger; see fuse_quant.c. */
MQ_MUST_USE mq_code mq_fuse_quantized(mq_program *p, uint32_t s, mq_error *err);

/* Is it Relu, or Clip with constant bounds? Sets those it has. */
bool mq_fuse_clamp(const mq_program *p, const mq_step *step, float *low, float *high);

/* Before constants are folded; see fuse_qdq.c. Nothing without oneDNN's products of bytes. */
MQ_MUST_USE mq_code mq_program_qdq(mq_program *p, mq_error *err);

#endif

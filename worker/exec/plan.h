/* Inside worker/exec only: a program laid out for one set of input shapes.
 *
 * Static: every shape is known before the run. Values get places in one block by the steps in which
 * they live; views share their input's place, element-wise operators overwrite an input that dies.
 * Values that follow from shapes alone (Shape, Gather on it, ...) are computed while planning.
 * Dynamic: some shape depends on values; a run computes shapes step by step and takes each output
 * from an arena that the next run resets. */
#ifndef MQ_WORKER_EXEC_PLAN_H
#define MQ_WORKER_EXEC_PLAN_H

#include "worker/exec/program.h"
#include "worker/exec/session.h"

typedef struct mq_plan mq_plan;

/* inputs: one tensor per program input, data not read. Borrows the program. MQ_E_LIMIT when
 * memory_bytes_max does not do. */
MQ_MUST_USE mq_code mq_plan_new(mq_plan **out, const mq_program *program, const mq_tensor *inputs,
                                size_t memory_bytes_max, mq_error *err);
void mq_plan_free(mq_plan *plan);

bool mq_plan_fits(const mq_plan *plan, const mq_tensor *inputs);
bool mq_plan_is_static(const mq_plan *plan);
size_t mq_plan_bytes(const mq_plan *plan);

/* observe may be NULL. */
MQ_MUST_USE mq_code mq_plan_run(mq_plan *plan, const mq_tensor *inputs, mq_session_observe *observe,
                                void *observe_arg, mq_error *err);

/* Output tensors of the last run (a static plan's shapes also before it). */
void mq_plan_outputs(const mq_plan *plan, mq_tensor *out);

#endif

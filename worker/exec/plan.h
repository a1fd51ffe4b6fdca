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

/* What all plans of a session share. */
typedef struct mq_run_control {
    bool (*stop)(void *arg); /* NULL: never */
    void *stop_arg;
    mq_session_timed *timed; /* NULL: nothing is timed */
    void *timed_arg;
} mq_run_control;

/* inputs: one tensor per program input, data not read. Borrows program and control. MQ_E_LIMIT when
 * memory_bytes_max does not do. */
MQ_MUST_USE mq_code mq_plan_new(mq_plan **out, const mq_program *program, const mq_tensor *inputs,
                                size_t memory_bytes_max, const mq_run_control *control,
                                mq_error *err);
void mq_plan_free(mq_plan *plan);

bool mq_plan_fits(const mq_plan *plan, const mq_tensor *inputs);
bool mq_plan_is_static(const mq_plan *plan);
size_t mq_plan_bytes(const mq_plan *plan);

/* What a call of a step with graphs sees of them (body.c). memory: in the arena; NULL at its limit.
 * Plans of the graphs are kept until release; each call's NULL is allowed. */
const mq_op_graphs *mq_body_runner_new(mq_arena *arena, const mq_step *step, const mq_op_call *call,
                                       const mq_run_control *control);
void mq_body_runner_release(const mq_op_graphs *graphs);
size_t mq_body_runner_bytes(const mq_op_graphs *graphs);

/* observe may be NULL. */
MQ_MUST_USE mq_code mq_plan_run(mq_plan *plan, const mq_tensor *inputs, mq_session_observe *observe,
                                void *observe_arg, mq_error *err);

/* Output tensors of the last run (a static plan's shapes also before it). */
void mq_plan_outputs(const mq_plan *plan, mq_tensor *out);

#endif

/* Graphs within nodes: bound into programs of their own, and run for the operators that hold them
 * (If, Loop, Scan, SequenceMap). A value that a graph reads from around its node is one more input
 * of its program and of the node's step, so that lifetimes see it. Must not know operators. */
#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/exec/plan.h"

enum { PLANS_KEPT = 4 }; /* by shapes, for each graph; the oldest goes */

/* --- binding --- */

static mq_code bind_body(mq_scope *outer, mq_body *body, const mq_graph *graph, mq_error *err)
{
    mq_program *around = outer->program;
    mq_program *p = mq_arena_new(around->arena, mq_program, 1);
    if (p == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "the model needs more memory than its limit of %zu bytes",
                       around->arena->limit_bytes);
    }
    p->model = around->model;
    p->arena = around->arena;
    p->packs = around->packs;
    mq_scope scope = {.program = p, .outer = outer};
    mq_code code = mq_bind_graph(&scope, graph, NULL, err);
    *body = (mq_body){p, scope.captures, graph->input_count, scope.capture_count};
    return code;
}

mq_code mq_bind_bodies(mq_scope *scope, mq_step *step, mq_error *err)
{
    uint32_t count = 0;
    for (const mq_attr_spec *s = step->op->specs; s != NULL && s->name != NULL; s++) {
        count += s->type == MQ_ATTR_GRAPH;
    }
    if (count == 0) {
        return MQ_OK;
    }
    step->bodies = mq_arena_new(scope->program->arena, mq_body, count);
    if (step->bodies == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the graphs of a node");
    }
    for (const mq_attr_spec *s = step->op->specs; s->name != NULL; s++) {
        const mq_attr *attr = s->type == MQ_ATTR_GRAPH ? mq_node_attr(step->node, s->name) : NULL;
        if (attr == NULL) {
            continue; /* all graphs are required attributes */
        }
        mq_code code = bind_body(scope, &step->bodies[step->body_count++], attr->graph, err);
        if (code != MQ_OK) {
            return mq_wrap(err, "%s of node '%s'", s->name, step->node->name);
        }
    }
    return MQ_OK;
}

mq_code mq_program_each_body(mq_program *p, mq_program_pass *pass, mq_error *err)
{
    mq_code code = MQ_OK;
    for (uint32_t s = 0; s < p->step_count; s++) {
        for (uint32_t b = 0; b < p->steps[s].body_count && code == MQ_OK; b++) {
            code = pass(p->steps[s].bodies[b].program, err);
        }
    }
    return code;
}

/* --- running --- */

typedef struct body_state {
    const mq_body *body;
    const mq_tensor *const *captures; /* in the call, after its own inputs */
    mq_tensor *inputs;                /* room for all of the program's */
    mq_plan *plans[PLANS_KEPT];       /* most recently used first */
    uint32_t plan_count;
} body_state;

typedef struct body_runner {
    mq_op_graphs api; /* first: the operator's pointer is this one's */
    mq_arena *around; /* of the plan that the step belongs to: its limit is ours */
    const mq_run_control *control;
    body_state *states;
    uint32_t count;
} body_runner;

static body_runner *runner_of(const mq_op_graphs *graphs)
{
    return (body_runner *)(uintptr_t)graphs; /* made writable by mq_body_runner_new */
}

static mq_code gather_inputs(body_state *state, const mq_tensor *inputs, uint32_t input_count,
                             mq_error *err)
{
    const mq_body *body = state->body;
    if (input_count != body->formal_count) {
        return mq_fail(err, MQ_E_FORMAT, "graph '%s' has %u inputs where %u are given",
                       body->program->graph->name, body->formal_count, input_count);
    }
    for (uint32_t i = 0; i < input_count; i++) {
        state->inputs[i] = inputs[i];
    }
    for (uint32_t i = 0; i < body->capture_count; i++) {
        state->inputs[input_count + i] = *state->captures[i];
    }
    return MQ_OK;
}

/* The plan for the gathered inputs, put first. */
static mq_code plan_for(body_runner *r, body_state *state, mq_error *err)
{
    uint32_t at = 0;
    while (at < state->plan_count && !mq_plan_fits(state->plans[at], state->inputs)) {
        at++;
    }
    if (at == state->plan_count) {
        size_t used = mq_body_runner_bytes(&r->api) + r->around->used_bytes;
        mq_plan *plan;
        mq_code code = mq_plan_new(
            &plan, state->body->program, state->inputs,
            r->around->limit_bytes - mq_min_size(r->around->limit_bytes, used), r->control, err);
        if (code != MQ_OK) {
            return code;
        }
        at = state->plan_count < PLANS_KEPT ? state->plan_count++ : PLANS_KEPT - 1;
        mq_plan_free(state->plans[at]);
        state->plans[at] = plan;
    }
    mq_plan *found = state->plans[at];
    memmove(state->plans + 1, state->plans, at * sizeof(mq_plan *));
    state->plans[0] = found;
    return MQ_OK;
}

static mq_code check_output_count(const body_state *state, uint32_t output_count, mq_error *err)
{
    const mq_program *p = state->body->program;
    return p->output_count == output_count
               ? MQ_OK
               : mq_fail(err, MQ_E_FORMAT, "graph '%s' has %u outputs where %u are due",
                         p->graph->name, p->output_count, output_count);
}

static mq_code run_body(const mq_op_graphs *graphs, uint32_t which, const mq_tensor *inputs,
                        uint32_t input_count, mq_tensor *outputs, uint32_t output_count,
                        mq_error *err)
{
    body_runner *r = runner_of(graphs);
    MQ_ASSERT(which < r->count);
    body_state *state = &r->states[which];
    mq_code code = gather_inputs(state, inputs, input_count, err);
    if (code == MQ_OK) {
        code = check_output_count(state, output_count, err);
    }
    if (code == MQ_OK) {
        code = plan_for(r, state, err);
    }
    if (code == MQ_OK) {
        code = mq_plan_run(state->plans[0], state->inputs, NULL, NULL, err);
    }
    if (code == MQ_OK) {
        mq_plan_outputs(state->plans[0], outputs);
    }
    return code;
}

/* By a plan where that tells, else by what the file says of the graph's outputs. */
static mq_code shape_body(const mq_op_graphs *graphs, uint32_t which, const mq_tensor *inputs,
                          uint32_t input_count, mq_tensor *outputs, uint32_t output_count,
                          mq_error *err)
{
    body_runner *r = runner_of(graphs);
    MQ_ASSERT(which < r->count);
    body_state *state = &r->states[which];
    mq_code code = gather_inputs(state, inputs, input_count, err);
    if (code == MQ_OK) {
        code = check_output_count(state, output_count, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    if (plan_for(r, state, NULL) == MQ_OK && mq_plan_is_static(state->plans[0])) {
        mq_plan_outputs(state->plans[0], outputs);
    } else {
        for (uint32_t i = 0; i < output_count; i++) {
            const mq_value_info *info = &state->body->program->graph->outputs[i];
            outputs[i] = (mq_tensor){.dtype = info->dtype};
            outputs[i].shape.rank = info->rank < 0 ? 0 : info->rank;
            for (int32_t d = 0; d < info->rank; d++) {
                outputs[i].shape.dims[d] = info->dims[d] < 0 ? 0 : info->dims[d];
            }
        }
    }
    for (uint32_t i = 0; i < output_count; i++) {
        outputs[i].data = NULL;
    }
    return MQ_OK;
}

static mq_code go_on(const mq_op_graphs *graphs, mq_error *err)
{
    const mq_run_control *control = runner_of(graphs)->control;
    return control->stop != NULL && control->stop(control->stop_arg)
               ? mq_fail(err, MQ_E_CANCELLED, "the run was stopped")
               : MQ_OK;
}

const mq_op_graphs *mq_body_runner_new(mq_arena *arena, const mq_step *step, const mq_op_call *call,
                                       const mq_run_control *control)
{
    body_runner *r = mq_arena_new(arena, body_runner, 1);
    body_state *states = mq_arena_new(arena, body_state, step->body_count);
    if (r == NULL || states == NULL) {
        return NULL;
    }
    const mq_tensor *const *captures = call->inputs + step->formal_count;
    for (uint32_t b = 0; b < step->body_count; b++) {
        states[b].body = &step->bodies[b];
        states[b].captures = captures;
        captures += step->bodies[b].capture_count;
        size_t count = (size_t)step->bodies[b].formal_count + step->bodies[b].capture_count;
        states[b].inputs = mq_arena_new(arena, mq_tensor, count + 1);
        if (states[b].inputs == NULL) {
            return NULL;
        }
    }
    *r = (body_runner){{run_body, shape_body, go_on}, arena, control, states, step->body_count};
    return &r->api;
}

void mq_body_runner_release(const mq_op_graphs *graphs)
{
    for (uint32_t b = 0; graphs != NULL && b < runner_of(graphs)->count; b++) {
        body_state *state = &runner_of(graphs)->states[b];
        for (uint32_t i = 0; i < state->plan_count; i++) {
            mq_plan_free(state->plans[i]);
        }
        state->plan_count = 0;
    }
}

size_t mq_body_runner_bytes(const mq_op_graphs *graphs)
{
    size_t bytes = 0;
    for (uint32_t b = 0; graphs != NULL && b < runner_of(graphs)->count; b++) {
        const body_state *state = &runner_of(graphs)->states[b];
        for (uint32_t i = 0; i < state->plan_count; i++) {
            bytes += mq_plan_bytes(state->plans[i]);
        }
    }
    return bytes;
}

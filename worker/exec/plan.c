/* Shapes, lifetimes and places of one program for one set of input shapes; see plan.h. */
#include "worker/exec/plan.h"

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

enum {
    KNOWN_BYTES_MAX = 4096, /* larger values are not computed while planning */
    ALIGN = 64,
    LIVE_MAX = 1024, /* values alive at once for which free places are searched */
};

/* A value of the program under this plan. */
typedef struct placed {
    uint32_t root;  /* the value whose memory this one uses: itself, or what it is a view of */
    uint32_t first; /* step that makes the root; last step that reads it or a view of it */
    uint32_t last;
    size_t offset, bytes;
    bool is_known; /* computed while planning: never runs again */
} placed;

struct mq_plan {
    mq_arena arena; /* holds this struct and everything but the run's arena */
    mq_arena run;   /* dynamic plans: values of the last run */
    const mq_program *program;
    mq_tensor *keys;    /* by input */
    mq_tensor *tensors; /* by value */
    placed *places;     /* by value */
    mq_op_call *calls;  /* by step; op NULL: known while planning */
    uint32_t *views;    /* values that are views of an input, pointed anew each run */
    uint32_t view_count;
    const mq_run_control *control;
    uint8_t **copies; /* by output: where an output that is an input is copied to, or NULL */
    uint8_t *block;
    size_t block_bytes;
    void *scratch;
    size_t scratch_bytes;
    bool is_static;
};

static mq_code no_memory(const mq_plan *plan, mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "a run with these shapes needs more memory than %zu bytes",
                   plan->arena.limit_bytes);
}

/* --- shapes --- */

static bool has_data(const mq_op_call *call, uint32_t i)
{
    return call->inputs[i] == NULL || call->inputs[i]->data != NULL || call->inputs[i]->bytes == 0;
}

/* Are all values that shape() reads there? */
static bool is_shape_ready(const mq_op_call *call)
{
    for (uint32_t i = 0; i < call->input_count && i < 32; i++) {
        if ((call->op->shape_inputs >> i & 1) != 0 && !has_data(call, i)) {
            return false;
        }
    }
    return true;
}

/* May the step be computed while planning? */
static bool is_computable(const mq_op_call *call)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < call->input_count; i++) {
        if ((call->op->flags & MQ_OP_OF_SHAPE) == 0 && !has_data(call, i)) {
            return false;
        }
    }
    for (uint32_t i = 0; i < call->output_count; i++) {
        bytes += call->outputs[i] == NULL ? 0 : call->outputs[i]->bytes;
    }
    return bytes <= KNOWN_BYTES_MAX;
}

static mq_code compute_known(mq_plan *plan, uint32_t s, mq_error *err)
{
    mq_op_call *call = &plan->calls[s];
    const mq_step *step = &plan->program->steps[s];
    for (uint32_t i = 0; i < call->output_count; i++) {
        if (call->outputs[i] == NULL) {
            continue;
        }
        call->outputs[i]->data = mq_arena_alloc(&plan->arena, call->outputs[i]->bytes + 1, 1);
        if (call->outputs[i]->data == NULL) {
            return no_memory(plan, err);
        }
        plan->places[step->outputs[i]].is_known = true;
    }
    if (mq_op_has_scratch(call)) {
        call->scratch = mq_arena_alloc(&plan->arena, mq_op_scratch(call), 1);
        if (call->scratch == NULL) {
            return no_memory(plan, err);
        }
    }
    mq_code code = mq_op_run(call, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "node '%s' (%s)", step->node->name, step->node->op_type);
    }
    call->op = NULL;
    return MQ_OK;
}

static mq_code shape_all(mq_plan *plan, mq_error *err)
{
    const mq_program *p = plan->program;
    plan->is_static = true;
    for (uint32_t s = 0; s < p->step_count; s++) {
        mq_op_call *call = &plan->calls[s];
        if (!mq_program_call(p, s, plan->tensors, &plan->arena, call)) {
            return no_memory(plan, err);
        }
        bool is_made = (call->op->flags & MQ_OP_MAKES) != 0;
        if (p->steps[s].body_count > 0) {
            call->graphs = mq_body_runner_new(&plan->arena, &p->steps[s], call, plan->control);
            if (call->graphs == NULL) {
                return no_memory(plan, err);
            }
        }
        if (!plan->is_static || is_made || !is_shape_ready(call)) {
            plan->is_static = false;
            continue;
        }
        mq_code code = mq_op_shape(call, p->steps[s].node, err);
        if (code == MQ_OK && is_computable(call)) {
            code = compute_known(plan, s, err);
        } else if (code == MQ_OK) {
            code = mq_op_ready(call, err);
            plan->scratch_bytes = mq_max_size(plan->scratch_bytes, mq_op_scratch(call));
        }
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

/* A dynamic plan computes everything anew in each run. */
static void forget_known(mq_plan *plan)
{
    const mq_program *p = plan->program;
    for (uint32_t s = 0; s < p->step_count; s++) {
        plan->calls[s].op = p->steps[s].op;
    }
    plan->scratch_bytes = 0;
}

/* --- lifetimes and places --- */

static bool is_placed(const mq_plan *plan, uint32_t v)
{
    return plan->program->values[v].kind == MQ_VALUE_STEP && !plan->places[v].is_known;
}

/* The value whose memory v uses, through views and overwrites. */
static uint32_t root_of(mq_plan *plan, uint32_t v)
{
    while (plan->places[v].root != v) {
        plan->places[v].root = plan->places[plan->places[v].root].root; /* halves the path */
        v = plan->places[v].root;
    }
    return v;
}

/* May output 0 of the step overwrite input i? Only a value of the block that nobody reads later. */
static bool may_overwrite(mq_plan *plan, uint32_t s, uint32_t i)
{
    const mq_step *step = &plan->program->steps[s];
    uint32_t x = step->inputs[i], y = step->outputs[0];
    if (x == MQ_NO_VALUE || !is_placed(plan, root_of(plan, x))) {
        return false;
    }
    return plan->places[root_of(plan, x)].last == s &&
           plan->tensors[x].dtype == plan->tensors[y].dtype &&
           mq_shape_eq(&plan->tensors[x].shape, &plan->tensors[y].shape);
}

static void find_roots(mq_plan *plan)
{
    const mq_program *p = plan->program;
    for (uint32_t v = 0; v < p->value_count; v++) {
        plan->places[v].root = v;
    }
    for (uint32_t s = 0; s < p->step_count; s++) {
        const mq_step *step = &p->steps[s];
        for (uint32_t i = 0; plan->calls[s].op != NULL && i < step->output_count; i++) {
            if (step->outputs[i] != MQ_NO_VALUE) {
                plan->places[step->outputs[i]].first = s;
                plan->places[step->outputs[i]].last = s;
            }
        }
        if (plan->calls[s].op != NULL && (step->op->flags & MQ_OP_VIEW) != 0) {
            plan->places[step->outputs[0]].root = root_of(plan, step->inputs[0]);
        }
        for (uint32_t i = 0; plan->calls[s].op != NULL && i < step->input_count; i++) {
            if (step->inputs[i] != MQ_NO_VALUE) {
                plan->places[root_of(plan, step->inputs[i])].last = s;
            }
        }
    }
    for (uint32_t i = 0; i < p->output_count; i++) {
        plan->places[root_of(plan, p->outputs[i])].last = UINT32_MAX;
    }
}

/* Element-wise operators take over the memory of an input that dies there. */
static void find_overwrites(mq_plan *plan)
{
    const mq_program *p = plan->program;
    for (uint32_t s = 0; s < p->step_count; s++) {
        const mq_step *step = &p->steps[s];
        bool is_any = (step->op->flags & MQ_OP_ELEMENTWISE) != 0;
        bool is_last = (step->op->flags & MQ_OP_OVER_LAST) != 0 && step->input_count == 4;
        if (plan->calls[s].op == NULL || !(is_any || is_last)) {
            continue;
        }
        uint32_t y = step->outputs[0];
        for (uint32_t i = is_any ? 0 : 3; i < step->input_count && plan->places[y].root == y; i++) {
            if (may_overwrite(plan, s, i)) {
                uint32_t root = root_of(plan, step->inputs[i]);
                plan->places[root].last = plan->places[y].last;
                plan->places[y].root = root;
            }
        }
    }
}

/* Lowest offset where the value overlaps no other that lives at the same time. live: roots placed
 * so far that may still live, by offset. */
static void place_one(mq_plan *plan, uint32_t v, uint32_t *live, uint32_t *live_count)
{
    placed *mine = &plan->places[v];
    size_t at = 0;
    uint32_t kept = 0, slot = 0;
    for (uint32_t i = 0; i < *live_count; i++) {
        if (plan->places[live[i]].last >= mine->first) {
            live[kept++] = live[i];
        }
    }
    *live_count = kept;
    if (kept >= LIVE_MAX) { /* at the end, where it overlaps nothing */
        mine->offset = plan->block_bytes;
        plan->block_bytes += mine->bytes;
        return;
    }
    while (slot < kept && plan->places[live[slot]].offset < at + mine->bytes) {
        at = plan->places[live[slot]].offset + plan->places[live[slot]].bytes;
        slot++;
    }
    memmove(live + slot + 1, live + slot, (kept - slot) * sizeof *live);
    live[slot] = v;
    (*live_count)++;
    mine->offset = at;
    plan->block_bytes = mq_max_size(plan->block_bytes, at + mine->bytes);
}

static mq_code place_all(mq_plan *plan, mq_error *err)
{
    const mq_program *p = plan->program;
    uint32_t *live = mq_arena_new(&plan->arena, uint32_t, (size_t)p->value_count + 1);
    uint32_t live_count = 0;
    if (live == NULL) {
        return no_memory(plan, err);
    }
    for (uint32_t s = 0; s < p->step_count; s++) {
        const mq_step *step = &p->steps[s];
        for (uint32_t i = 0; plan->calls[s].op != NULL && i < step->output_count; i++) {
            uint32_t v = step->outputs[i];
            if (v != MQ_NO_VALUE && plan->places[v].root == v) {
                plan->places[v].bytes = mq_align_up(plan->tensors[v].bytes + 1, ALIGN);
                place_one(plan, v, live, &live_count);
            }
        }
    }
    plan->block = mq_arena_alloc(&plan->arena, plan->block_bytes + ALIGN, 1);
    plan->scratch = mq_arena_alloc(&plan->arena, plan->scratch_bytes + ALIGN, 1);
    return plan->block == NULL || plan->scratch == NULL ? no_memory(plan, err) : MQ_OK;
}

/* Data pointers that hold for all runs, and the list of those that follow the inputs. */
static mq_code point_all(mq_plan *plan, mq_error *err)
{
    const mq_program *p = plan->program;
    plan->views = mq_arena_new(&plan->arena, uint32_t, (size_t)p->value_count + 1);
    if (plan->views == NULL) {
        return no_memory(plan, err);
    }
    for (uint32_t v = 0; v < p->value_count; v++) {
        uint32_t root = root_of(plan, v);
        if (p->values[v].kind != MQ_VALUE_STEP || plan->places[v].is_known) {
            continue;
        }
        if (is_placed(plan, root)) {
            plan->tensors[v].data = plan->block + plan->places[root].offset;
        } else if (p->values[root].kind == MQ_VALUE_INPUT) {
            plan->views[plan->view_count++] = v;
        } else {
            plan->tensors[v].data = plan->tensors[root].data;
        }
    }
    for (uint32_t i = 0; i < p->output_count; i++) {
        uint32_t v = p->outputs[i];
        if (p->values[root_of(plan, v)].kind == MQ_VALUE_INPUT) {
            plan->copies[i] = mq_arena_alloc(&plan->arena, plan->tensors[v].bytes + 1, 1);
            if (plan->copies[i] == NULL) {
                return no_memory(plan, err);
            }
        }
    }
    for (uint32_t s = 0; s < p->step_count; s++) {
        plan->calls[s].scratch = plan->scratch;
    }
    return MQ_OK;
}

/* --- life --- */

static mq_code build(mq_plan *plan, const mq_tensor *inputs, mq_error *err)
{
    const mq_program *p = plan->program;
    plan->keys = mq_arena_new(&plan->arena, mq_tensor, (size_t)p->input_count + 1);
    plan->tensors = mq_arena_new(&plan->arena, mq_tensor, (size_t)p->value_count + 1);
    plan->places = mq_arena_new(&plan->arena, placed, (size_t)p->value_count + 1);
    plan->calls = mq_arena_new(&plan->arena, mq_op_call, (size_t)p->step_count + 1);
    plan->copies = mq_arena_new(&plan->arena, uint8_t *, (size_t)p->output_count + 1);
    if (plan->keys == NULL || plan->tensors == NULL || plan->places == NULL ||
        plan->calls == NULL || plan->copies == NULL) {
        return no_memory(plan, err);
    }
    for (uint32_t v = 0; v < p->value_count; v++) {
        plan->tensors[v] = p->values[v].tensor;
    }
    for (uint32_t i = 0; i < p->input_count; i++) {
        mq_tensor *t = &plan->tensors[p->inputs[i]];
        size_t count = 1;
        for (int32_t d = 0; d < inputs[i].shape.rank; d++) {
            count *= (size_t)inputs[i].shape.dims[d]; /* the session has checked the product */
        }
        size_t each = mq_value_item_bytes(inputs[i].dtype);
        *t = (mq_tensor){inputs[i].dtype, inputs[i].shape, NULL, count * each};
        plan->keys[i] = *t;
    }
    mq_code code = shape_all(plan, err);
    if (code != MQ_OK) {
        return code;
    }
    if (!plan->is_static) {
        forget_known(plan);
        return MQ_OK;
    }
    find_roots(plan);
    find_overwrites(plan);
    code = place_all(plan, err);
    return code == MQ_OK ? point_all(plan, err) : code;
}

mq_code mq_plan_new(mq_plan **out, const mq_program *program, const mq_tensor *inputs,
                    size_t memory_bytes_max, const mq_run_control *control, mq_error *err)
{
    *out = NULL;
    mq_arena arena;
    mq_arena_init(&arena, memory_bytes_max);
    mq_plan *plan = mq_arena_new(&arena, mq_plan, 1);
    if (plan == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a plan (limit %zu bytes)", memory_bytes_max);
    }
    plan->arena = arena;
    plan->program = program;
    plan->control = control;
    mq_code code = build(plan, inputs, err);
    mq_arena_init(&plan->run,
                  memory_bytes_max - mq_min_size(memory_bytes_max, plan->arena.used_bytes));
    if (code != MQ_OK) {
        mq_plan_free(plan);
        return code;
    }
    *out = plan;
    return MQ_OK;
}

void mq_plan_free(mq_plan *plan)
{
    if (plan != NULL) {
        for (uint32_t s = 0; plan->calls != NULL && s < plan->program->step_count; s++) {
            mq_body_runner_release(plan->calls[s].graphs);
        }
        mq_arena_release(&plan->run);
        mq_arena arena = plan->arena; /* the struct itself lies in it */
        mq_arena_release(&arena);
    }
}

bool mq_plan_fits(const mq_plan *plan, const mq_tensor *inputs)
{
    for (uint32_t i = 0; i < plan->program->input_count; i++) {
        if (plan->keys[i].dtype != inputs[i].dtype ||
            !mq_shape_eq(&plan->keys[i].shape, &inputs[i].shape)) {
            return false;
        }
    }
    return true;
}

bool mq_plan_is_static(const mq_plan *plan)
{
    return plan->is_static;
}

size_t mq_plan_bytes(const mq_plan *plan)
{
    size_t bytes = plan->arena.used_bytes + plan->run.used_bytes;
    for (uint32_t s = 0; s < plan->program->step_count; s++) {
        bytes += mq_body_runner_bytes(plan->calls[s].graphs);
    }
    return bytes;
}

/* --- runs --- */

static void observe_step(const mq_plan *plan, uint32_t s, mq_session_observe *observe, void *arg)
{
    const mq_step *step = &plan->program->steps[s];
    for (uint32_t i = 0; i < step->output_count; i++) {
        if (step->outputs[i] != MQ_NO_VALUE) {
            observe(arg, plan->program->values[step->outputs[i]].name,
                    &plan->tensors[step->outputs[i]]);
        }
    }
}

/* Dynamic plans: shape, memory, for one step. */
static mq_code make_room(mq_plan *plan, uint32_t s, mq_error *err)
{
    mq_op_call *call = &plan->calls[s];
    const mq_step *step = &plan->program->steps[s];
    mq_code code = mq_op_shape(call, step->node, err);
    code = code == MQ_OK ? mq_op_ready(call, err) : code;
    if (code != MQ_OK) {
        return code;
    }
    bool is_made = (call->op->flags & MQ_OP_MAKES) != 0;
    call->arena = &plan->run;
    for (uint32_t i = 0; i < call->output_count && !is_made; i++) {
        mq_tensor *y = call->outputs[i];
        if (y == NULL) {
            continue;
        }
        bool is_view = i == 0 && (call->op->flags & MQ_OP_VIEW) != 0;
        y->bytes = is_view ? call->inputs[0]->bytes : y->bytes; /* sequences have no element size */
        y->data = is_view ? call->inputs[0]->data : mq_arena_alloc(&plan->run, y->bytes + 1, 1);
        if (y->data == NULL && !is_view) {
            return no_memory(plan, err);
        }
    }
    if (mq_op_has_scratch(call)) {
        call->scratch = mq_arena_alloc(&plan->run, mq_op_scratch(call) + ALIGN, 1);
        if (call->scratch == NULL) {
            return no_memory(plan, err);
        }
    }
    return MQ_OK;
}

static mq_code copy_outputs(mq_plan *plan, mq_error *err)
{
    const mq_program *p = plan->program;
    for (uint32_t i = 0; i < p->output_count; i++) {
        const mq_tensor *t = &plan->tensors[p->outputs[i]];
        if (!plan->is_static) { /* it may be a view of an input: the caller's memory */
            mq_tensor copy;
            if (!mq_value_copy(&plan->run, t, &copy)) {
                return no_memory(plan, err);
            }
            plan->copies[i] = copy.data;
        } else if (plan->copies[i] != NULL && t->bytes > 0) {
            memcpy(plan->copies[i], t->data, t->bytes);
        }
    }
    return MQ_OK;
}

static mq_code run_call(const mq_plan *plan, const mq_op_call *call, mq_error *err)
{
    if (plan->control->timed == NULL) {
        return mq_op_run(call, err);
    }
    int64_t start_ns = mq_clock_mono_ns();
    mq_code code = mq_op_run(call, err);
    plan->control->timed(plan->control->timed_arg, call, mq_clock_mono_ns() - start_ns);
    return code;
}

mq_code mq_plan_run(mq_plan *plan, const mq_tensor *inputs, mq_session_observe *observe,
                    void *observe_arg, mq_error *err)
{
    const mq_program *p = plan->program;
    for (uint32_t i = 0; i < p->input_count; i++) {
        plan->tensors[p->inputs[i]].data = inputs[i].data;
        if (observe != NULL) {
            observe(observe_arg, p->values[p->inputs[i]].name, &plan->tensors[p->inputs[i]]);
        }
    }
    for (uint32_t i = 0; i < plan->view_count; i++) {
        uint32_t v = plan->views[i];
        plan->tensors[v].data = plan->tensors[root_of(plan, v)].data;
    }
    if (!plan->is_static) {
        mq_arena_reset(&plan->run);
    }
    for (uint32_t s = 0; s < p->step_count; s++) {
        const mq_op_call *call = &plan->calls[s];
        if (plan->control->stop != NULL && plan->control->stop(plan->control->stop_arg)) {
            return mq_fail(err, MQ_E_CANCELLED, "the run was stopped");
        }
        mq_code code = plan->is_static ? MQ_OK : make_room(plan, s, err);
        if (code == MQ_OK && call->op != NULL) {
            code = run_call(plan, call, err);
            if (code != MQ_OK) {
                mq_wrap(err, "node '%s' (%s)", p->steps[s].node->name, p->steps[s].node->op_type);
            }
        }
        if (code != MQ_OK) {
            return code;
        }
        if (observe != NULL) {
            observe_step(plan, s, observe, observe_arg);
        }
    }
    return copy_outputs(plan, err);
}

void mq_plan_outputs(const mq_plan *plan, mq_tensor *out)
{
    const mq_program *p = plan->program;
    for (uint32_t i = 0; i < p->output_count; i++) {
        out[i] = plan->tensors[p->outputs[i]];
        if (plan->copies[i] != NULL || !plan->is_static) {
            out[i].data = plan->copies[i];
        }
    }
}

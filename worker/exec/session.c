/* Sessions: a program, plans by input shape, and runs. A plan places every value of one shape
 * signature in one block by lifetimes; where shapes depend on values it has no places and each run
 * computes shapes and takes memory as it goes. */
#include "worker/exec/session.h"

#include <stdio.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/blas/blas.h"
#include "worker/dnnl/dnnl.h"
#include "worker/exec/fuse.h"
#include "worker/exec/layout.h"
#include "worker/exec/plan.h"

enum { PLANS_DEFAULT = 16, PLANS_MAX = 256 };

struct mq_session {
    mq_arena self; /* holds this struct */
    const mq_model *model;
    mq_run_control control;
    mq_session_options options;
    mq_packs *packs;
    mq_program program;
    mq_value_info *inputs, *outputs;
    mq_tensor *results; /* what run hands out */
    mq_plan **plans;    /* most recently used first */
    uint32_t plan_count;
    bool was_planned;
};

static mq_code no_memory(const mq_session *s, mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "the session needs more memory than its limit of %zu bytes",
                   s->options.memory_bytes_max);
}

static mq_code describe_io(mq_session *s, mq_error *err)
{
    mq_program *p = &s->program;
    s->inputs = mq_arena_new(p->arena, mq_value_info, (size_t)p->input_count + 1);
    s->outputs = mq_arena_new(p->arena, mq_value_info, (size_t)p->output_count + 1);
    s->results = mq_arena_new(p->arena, mq_tensor, (size_t)p->output_count + 1);
    s->plans = mq_arena_new(p->arena, mq_plan *, s->options.plans_max);
    if (s->inputs == NULL || s->outputs == NULL || s->results == NULL || s->plans == NULL) {
        return no_memory(s, err);
    }
    for (uint32_t i = 0; i < p->input_count; i++) {
        s->inputs[i] = s->model->graph.inputs[p->values[p->inputs[i]].source];
    }
    for (uint32_t i = 0; i < p->output_count; i++) {
        s->outputs[i] = s->model->graph.outputs[i];
    }
    return MQ_OK;
}

/* What the session's part of the class of its packed weights is: all that changes what is asked. */
static mq_packs *packs_of(const mq_session_options *o)
{
    char kind[128];
    (void)snprintf(kind, sizeof kind, "%s %d%d%d %zu", mq_dnnl_name(), o->is_exact, o->own_kernels,
                   o->no_fusion, o->memory_bytes_max);
    return mq_packs_new(o->observe != NULL ? NULL : o->packs, kind, o->memory_bytes_max);
}

/* After a round of packing: what was packed from is not read again soon. */
static void settle(mq_session *s)
{
    mq_packs_settle(s->packs);
    if (s->options.file != NULL) {
        mq_map_file_rest(s->options.file);
    }
}

static mq_code build(mq_session *s, mq_error *err)
{
    mq_program *p = &s->program;
    mq_code code =
        mq_program_init_packs(p, s->model, NULL, s->packs, s->options.memory_bytes_max, err);
    if (code == MQ_OK) {
        code = describe_io(s, err);
    }
    mq_program_kernels(p, (s->options.is_exact ? MQ_KERNELS_EXACT : 0u) |
                              (s->options.own_kernels ? MQ_KERNELS_OWN : 0u));
    if (code == MQ_OK && !s->options.no_fusion) {
        code = mq_program_qdq(p, err);
    }
    if (code == MQ_OK && s->options.observe == NULL) {
        code = mq_program_fold(p, err);
    }
    if (code == MQ_OK && !s->options.no_fusion) {
        code = mq_program_optimize(p, err);
    }
    if (code == MQ_OK && !s->options.no_fusion) {
        code = mq_program_layout(p, err);
        code = code == MQ_OK ? mq_program_layout_bytes(p, err) : code;
    }
    return code == MQ_OK ? mq_program_prepare(p, err) : code;
}

mq_code mq_session_new(mq_session **out, const mq_model *model, const mq_session_options *options,
                       mq_error *err)
{
    *out = NULL;
    mq_session_options o = options == NULL ? (mq_session_options){0} : *options;
    o.memory_bytes_max = o.memory_bytes_max == 0 ? (size_t)1 << 30 : o.memory_bytes_max;
    o.plans_max = o.plans_max == 0 ? PLANS_DEFAULT : o.plans_max;
    o.no_fusion = o.no_fusion || o.observe != NULL;
    if (o.plans_max > PLANS_MAX) {
        return mq_fail(err, MQ_E_ARG, "plans_max: %u is above %d", o.plans_max, PLANS_MAX);
    }
    mq_blas_init();
    mq_arena arena; /* for the struct alone; the program has its own */
    mq_arena_init(&arena, sizeof(mq_session) + 64 * 1024);
    mq_session *s = mq_arena_new(&arena, mq_session, 1);
    if (s == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a session");
    }
    s->model = model;
    s->options = o;
    s->control = (mq_run_control){o.stop, o.stop_arg, o.timed, o.timed_arg};
    s->self = arena;
    s->packs = packs_of(&o);
    mq_code code = s->packs == NULL ? no_memory(s, err) : build(s, err);
    s->options.packs = NULL;
    if (code != MQ_OK) {
        mq_session_free(s);
        return code;
    }
    settle(s);
    *out = s;
    return MQ_OK;
}

void mq_session_free(mq_session *s)
{
    if (s == NULL) {
        return;
    }
    for (uint32_t i = 0; i < s->plan_count; i++) {
        mq_plan_free(s->plans[i]);
    }
    mq_program_release(&s->program);
    mq_packs_free(s->packs);
    mq_arena self = s->self;
    mq_arena_release(&self);
}

size_t mq_session_inputs(const mq_session *s, const mq_value_info **out)
{
    *out = s->inputs;
    return s->program.input_count;
}

size_t mq_session_outputs(const mq_session *s, const mq_value_info **out)
{
    *out = s->outputs;
    return s->program.output_count;
}

/* --- inputs against what the graph says --- */

/* The same symbol must have the same size everywhere. */
static mq_code check_symbol(const mq_session *s, const mq_tensor *inputs, size_t i, int32_t d,
                            mq_error *err)
{
    const mq_value_info *info = &s->inputs[i];
    for (size_t k = 0; k <= i && info->dim_names[d] != NULL; k++) {
        const mq_value_info *other = &s->inputs[k];
        for (int32_t e = 0; e < other->rank && (k < i || e < d); e++) {
            if (other->dim_names[e] != NULL &&
                strcmp(other->dim_names[e], info->dim_names[d]) == 0 &&
                inputs[k].shape.dims[e] != inputs[i].shape.dims[d]) {
                return mq_fail(err, MQ_E_ARG,
                               "input '%s': dimension %d ('%s') is %lld, but %lld in input '%s'",
                               info->name, d, info->dim_names[d],
                               (long long)inputs[i].shape.dims[d],
                               (long long)inputs[k].shape.dims[e], other->name);
            }
        }
    }
    return MQ_OK;
}

static mq_code check_input(const mq_session *s, const mq_tensor *inputs, size_t i, mq_error *err)
{
    const mq_value_info *info = &s->inputs[i];
    const mq_tensor *t = &inputs[i];
    size_t count;
    if (t->dtype != info->dtype) {
        return mq_fail(err, MQ_E_ARG, "input '%s' is %s where the model wants %s", info->name,
                       mq_dtype_name(t->dtype), mq_dtype_name(info->dtype));
    }
    if (info->rank >= 0 && t->shape.rank != info->rank) {
        return mq_fail(err, MQ_E_ARG, "input '%s' has rank %d where the model wants %d", info->name,
                       t->shape.rank, info->rank);
    }
    if (mq_shape_count(&t->shape, &count, err) != MQ_OK) {
        return mq_wrap(err, "input '%s'", info->name);
    }
    for (int32_t d = 0; d < info->rank; d++) {
        if (info->dims[d] >= 0 && info->dims[d] != t->shape.dims[d]) {
            return mq_fail(err, MQ_E_ARG,
                           "input '%s': dimension %d is %lld where the model wants %lld",
                           info->name, d, (long long)t->shape.dims[d], (long long)info->dims[d]);
        }
        mq_code code = check_symbol(s, inputs, i, d, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

static mq_code check_bytes(const mq_session *s, const mq_tensor *inputs, mq_error *err)
{
    for (uint32_t i = 0; i < s->program.input_count; i++) {
        size_t each =
            inputs[i].dtype == MQ_DT_STR ? sizeof(mq_span) : mq_dtype_bytes(inputs[i].dtype);
        size_t bytes = each;
        for (int32_t d = 0; d < inputs[i].shape.rank; d++) {
            bytes *= (size_t)inputs[i].shape.dims[d]; /* checked when the plan was made */
        }
        if (inputs[i].bytes != bytes || (bytes > 0 && inputs[i].data == NULL)) {
            return mq_fail(err, MQ_E_ARG, "input '%s' has %zu bytes where its shape needs %zu",
                           s->inputs[i].name, inputs[i].bytes, bytes);
        }
        if ((uintptr_t)inputs[i].data % mq_min_size(each, 8) != 0) {
            return mq_fail(err, MQ_E_ARG, "input '%s': its data is not aligned to %zu bytes",
                           s->inputs[i].name, mq_min_size(each, 8));
        }
    }
    return MQ_OK;
}

/* --- plans --- */

static size_t plan_bytes_left(const mq_session *s)
{
    mq_packs_stats packs;
    mq_packs_stats_get(s->packs, &packs);
    size_t used = s->program.own.used_bytes + packs.bytes;
    for (uint32_t i = 0; i < s->plan_count; i++) {
        used += mq_plan_bytes(s->plans[i]);
    }
    return used >= s->options.memory_bytes_max ? 0 : s->options.memory_bytes_max - used;
}

static mq_code new_plan(mq_session *s, const mq_tensor *inputs, mq_plan **out, mq_error *err)
{
    for (uint32_t i = 0; i < s->program.input_count; i++) {
        mq_code code = check_input(s, inputs, i, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    if (s->plan_count == s->options.plans_max) {
        mq_plan_free(s->plans[--s->plan_count]);
    }
    mq_code code = mq_plan_new(out, &s->program, inputs, plan_bytes_left(s), &s->control, err);
    while (code == MQ_E_LIMIT && s->plan_count > 0) {
        mq_plan_free(s->plans[--s->plan_count]);
        code = mq_plan_new(out, &s->program, inputs, plan_bytes_left(s), &s->control, err);
    }
    settle(s);
    return code;
}

/* The plan for these shapes, made when there is none, put first. */
static mq_code plan_for(mq_session *s, const mq_tensor *inputs, size_t input_count, mq_error *err)
{
    if (input_count != s->program.input_count) {
        return mq_fail(err, MQ_E_ARG, "%zu inputs where the model wants %u", input_count,
                       s->program.input_count);
    }
    uint32_t at = 0;
    while (at < s->plan_count && !mq_plan_fits(s->plans[at], inputs)) {
        at++;
    }
    mq_plan *plan = at < s->plan_count ? s->plans[at] : NULL;
    if (plan == NULL) {
        mq_code code = new_plan(s, inputs, &plan, err);
        if (code != MQ_OK) {
            return code;
        }
        at = s->plan_count++;
    }
    memmove(s->plans + 1, s->plans, at * sizeof(mq_plan *));
    s->plans[0] = plan;
    s->was_planned = mq_plan_is_static(plan);
    return MQ_OK;
}

static mq_code check_results(const mq_session *s, mq_error *err)
{
    for (uint32_t i = 0; i < s->program.output_count; i++) {
        if (s->results[i].dtype == MQ_DT_SEQUENCE || s->results[i].dtype == MQ_DT_EMPTY) {
            return mq_fail(err, MQ_E_UNSUPPORTED,
                           "output '%s' is no tensor: sequences and optionals stay inside a model",
                           s->outputs[i].name);
        }
    }
    return MQ_OK;
}

mq_code mq_session_run(mq_session *s, const mq_tensor *inputs, size_t input_count,
                       const mq_tensor **outputs, mq_error *err)
{
    mq_code code = plan_for(s, inputs, input_count, err);
    if (code == MQ_OK) {
        code = check_bytes(s, inputs, err);
    }
    if (code == MQ_OK) {
        code = mq_plan_run(s->plans[0], inputs, s->options.observe, s->options.observe_arg, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    mq_plan_outputs(s->plans[0], s->results);
    *outputs = s->results;
    return check_results(s, err);
}

mq_code mq_session_shapes(mq_session *s, const mq_tensor *inputs, size_t input_count,
                          const mq_tensor **outputs, mq_error *err)
{
    mq_code code = plan_for(s, inputs, input_count, err);
    if (code != MQ_OK) {
        return code;
    }
    if (!s->was_planned) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "output shapes depend on values of the inputs");
    }
    mq_plan_outputs(s->plans[0], s->results);
    for (uint32_t i = 0; i < s->program.output_count; i++) {
        s->results[i].data = NULL;
    }
    *outputs = s->results;
    return MQ_OK;
}

void mq_session_stats_get(const mq_session *s, mq_session_stats *out)
{
    mq_packs_stats packs;
    mq_packs_stats_get(s->packs, &packs);
    *out = (mq_session_stats){.packed_bytes = s->program.own.used_bytes + packs.bytes,
                              .packs = packs,
                              .plan_bytes = s->plan_count == 0 ? 0 : mq_plan_bytes(s->plans[0]),
                              .plan_count = s->plan_count,
                              .step_count = s->program.step_count,
                              .fused_count = s->program.fused_count,
                              .folded_count = s->program.folded_count,
                              .is_planned = s->was_planned};
}

static size_t check_graph(const mq_model *model, const mq_graph *g, mq_arena *scratch, mq_buf *text)
{
    size_t count = 0;
    for (uint32_t n = 0; n < g->node_count; n++) {
        const mq_node *node = &g->nodes[n];
        const mq_op *op;
        const void *attrs;
        mq_error err;
        mq_arena_reset(scratch);
        if (mq_op_bind(node, mq_model_opset(model, node->domain), scratch, &op, &attrs, &err) !=
            MQ_OK) {
            mq_buf_printf(text, "%s\n", err.text);
            count++;
        }
        for (uint32_t i = 0; i < node->attr_count; i++) {
            const mq_graph *inner = node->attrs[i].graph; /* depth: MQ_MODEL_DEPTH_MAX */
            count += inner == NULL ? 0 : check_graph(model, inner, scratch, text);
        }
    }
    return count;
}

size_t mq_session_check(const mq_model *model, mq_buf *text)
{
    mq_arena scratch;
    mq_arena_init(&scratch, (size_t)1 << 20);
    size_t count = check_graph(model, &model->graph, &scratch, text);
    mq_arena_release(&scratch);
    return count;
}

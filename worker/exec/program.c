/* Binding a model's graph: names to values, nodes to operators, constants folded. Must not know
 * where tensors of a run live. */
#include "worker/exec/program.h"

#include "shared/base/assert.h"
#include "shared/base/math.h"

enum { SMALL_BYTES_MAX = 16 * 1024 };
enum { FOLD_BYTES_MAX = 64 << 20 }; /* a folded tensor that large is better made at run time */

static mq_code no_memory(const mq_program *p, mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "the model needs more memory than its limit of %zu bytes",
                   p->arena->limit_bytes);
}

/* Names that a graph and those within it may read from around it: at most so many. */
static size_t capture_room(const mq_graph *g)
{
    size_t room = g->output_count;
    for (uint32_t n = 0; n < g->node_count; n++) {
        room += g->nodes[n].input_count;
        for (uint32_t i = 0; i < g->nodes[n].attr_count; i++) {
            const mq_graph *inner = g->nodes[n].attrs[i].graph; /* depth: MQ_MODEL_DEPTH_MAX */
            room += inner == NULL ? 0 : capture_room(inner);
        }
    }
    return room;
}

static size_t value_room(const mq_graph *g)
{
    size_t room = (size_t)g->input_count + g->initializer_count;
    for (uint32_t n = 0; n < g->node_count; n++) {
        room += g->nodes[n].output_count;
    }
    return room;
}

static uint32_t add_value(mq_program *p, mq_map *names, const char *name, mq_value_kind kind,
                          uint32_t source)
{
    uint32_t id = p->value_count++;
    p->values[id] = (mq_value){.name = name, .kind = kind, .source = source};
    if (name[0] != '\0') {
        MQ_ASSERT(mq_map_put(names, mq_str(name), id));
    }
    return id;
}

static bool copy(void *arg, void *memory)
{
    const mq_span *from = arg;
    if (from->len > 0) {
        memcpy(memory, from->data, from->len);
    }
    return true;
}

/* A constant's bytes may lie anywhere in a file; kernels want them aligned. */
static mq_code add_constant(mq_program *p, mq_value *value, const mq_tensor *tensor, mq_error *err)
{
    value->kind = MQ_VALUE_CONST;
    value->tensor = *tensor;
    size_t each = mq_dtype_bytes(tensor->dtype);
    /* Small ones are copied, too, so that a run does not bring the file's pages back for them. */
    bool is_small = p->packs != NULL && each > 0 && tensor->bytes <= SMALL_BYTES_MAX;
    if (each > 1 && (is_small || (uintptr_t)tensor->data % each != 0)) {
        mq_span from = mq_span_of(tensor->data, tensor->bytes);
        value->tensor.data = (void *)(uintptr_t)mq_packs_get(
            p->packs, p->arena, mq_pack_key_of(p->packs, tensor->data, 'A'), from.len, copy, &from);
        if (value->tensor.data == NULL) {
            return no_memory(p, err);
        }
    }
    return MQ_OK;
}

static mq_code bind_given(mq_program *p, mq_map *names, const bool *is_param, mq_error *err)
{
    const mq_graph *g = p->graph;
    bool is_body = g != &p->model->graph; /* what a body is given stands above a default */
    for (uint32_t i = 0; i < g->input_count && is_body; i++) {
        p->inputs[p->input_count++] = add_value(p, names, g->inputs[i].name, MQ_VALUE_INPUT, i);
    }
    for (uint32_t i = 0; i < g->initializer_count; i++) {
        if (is_body && mq_map_find(names, mq_str(g->initializers[i].name)) != MQ_MAP_NONE) {
            continue;
        }
        bool is_weight = is_param != NULL && is_param[i];
        uint32_t id = add_value(p, names, g->initializers[i].name,
                                is_weight ? MQ_VALUE_PARAM : MQ_VALUE_CONST, i);
        p->values[id].tensor = g->initializers[i].tensor;
        mq_code code =
            is_weight ? MQ_OK : add_constant(p, &p->values[id], &g->initializers[i].tensor, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    for (uint32_t i = 0; i < g->input_count && !is_body; i++) {
        if (mq_map_find(names, mq_str(g->inputs[i].name)) == MQ_MAP_NONE) {
            p->inputs[p->input_count++] = add_value(p, names, g->inputs[i].name, MQ_VALUE_INPUT, i);
        }
    }
    return MQ_OK;
}

/* Constant with a tensor needs no step: its bytes are used where they are. */
static const mq_init *constant_of(const mq_node *node)
{
    const mq_attr *attr = NULL;
    if (strcmp(node->op_type, "Constant") == 0 && node->domain[0] == '\0' &&
        node->attr_count == 1 && node->output_count == 1) {
        attr = mq_node_attr(node, "value");
    }
    return attr != NULL && attr->type == MQ_ATTR_TENSOR ? attr->tensor : NULL;
}

/* The values of the node's inputs, then those that its graphs read. */
static mq_code bind_inputs(mq_scope *scope, mq_step *step, mq_error *err)
{
    const mq_node *node = step->node;
    size_t room = (size_t)node->input_count + 1; /* fusion may add one */
    for (uint32_t b = 0; b < step->body_count; b++) {
        room += step->bodies[b].capture_count;
    }
    step->inputs = mq_arena_new(scope->program->arena, uint32_t, room);
    step->outputs = mq_arena_new(scope->program->arena, uint32_t, (size_t)node->output_count + 1);
    if (step->inputs == NULL || step->outputs == NULL) {
        return no_memory(scope->program, err);
    }
    for (uint32_t i = 0; i < node->input_count; i++) {
        step->inputs[i] =
            node->inputs[i][0] == '\0' ? MQ_NO_VALUE : mq_scope_find(scope, node->inputs[i]);
    }
    while (step->input_count > 0 && step->inputs[step->input_count - 1] == MQ_NO_VALUE) {
        step->input_count--;
    }
    step->formal_count = step->input_count;
    for (uint32_t b = 0; b < step->body_count; b++) {
        for (uint32_t i = 0; i < step->bodies[b].capture_count; i++) {
            step->inputs[step->input_count++] = step->bodies[b].captures[i];
        }
    }
    return MQ_OK;
}

static mq_code bind_node(mq_scope *scope, const mq_node *node, mq_error *err)
{
    mq_program *p = scope->program;
    mq_map *names = &scope->names;
    const mq_init *constant = constant_of(node);
    if (constant != NULL) {
        uint32_t id = add_value(p, names, node->outputs[0], MQ_VALUE_CONST, 0);
        return add_constant(p, &p->values[id], &constant->tensor, err);
    }
    mq_step *step = &p->steps[p->step_count];
    *step = (mq_step){
        .node = node, .input_count = node->input_count, .output_count = node->output_count};
    mq_code code = mq_op_bind(node, mq_model_opset(p->model, node->domain), p->arena, &step->op,
                              &step->attrs, err);
    if (code != MQ_OK) {
        return code;
    }
    code = mq_bind_bodies(scope, step, err);
    if (code == MQ_OK) {
        code = bind_inputs(scope, step, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    for (uint32_t i = 0; i < node->output_count; i++) {
        step->outputs[i] = node->outputs[i][0] == '\0' ? MQ_NO_VALUE
                                                       : add_value(p, names, node->outputs[i],
                                                                   MQ_VALUE_STEP, p->step_count);
    }
    p->step_count++;
    return MQ_OK;
}

static mq_code bind_outputs(mq_scope *scope, mq_error *err)
{
    mq_program *p = scope->program;
    const mq_graph *g = p->graph;
    for (uint32_t i = 0; i < g->output_count; i++) {
        uint32_t id = mq_scope_find(scope, g->outputs[i].name);
        if (id == MQ_MAP_NONE) {
            return mq_fail(err, MQ_E_FORMAT, "graph output '%s' is made by no node",
                           g->outputs[i].name);
        }
        p->outputs[p->output_count++] = id;
        p->values[id].is_output = true;
    }
    return MQ_OK;
}

uint32_t mq_scope_find(mq_scope *scope, const char *name)
{
    uint32_t id = mq_map_find(&scope->names, mq_str(name));
    if (id != MQ_MAP_NONE || scope->outer == NULL) {
        return id == MQ_MAP_NONE ? MQ_NO_VALUE : id;
    }
    uint32_t outer = mq_scope_find(scope->outer, name);
    if (outer == MQ_NO_VALUE) {
        return MQ_NO_VALUE;
    }
    mq_program *p = scope->program;
    const mq_value *value = &scope->outer->program->values[outer];
    if (value->kind == MQ_VALUE_CONST) { /* needs no passing on */
        id = add_value(p, &scope->names, name, MQ_VALUE_CONST, 0);
        p->values[id].tensor = value->tensor;
        return id;
    }
    id = add_value(p, &scope->names, name, MQ_VALUE_INPUT, 0);
    scope->captures[scope->capture_count++] = outer;
    p->inputs[p->input_count++] = id;
    return id;
}

mq_code mq_bind_graph(mq_scope *scope, const mq_graph *g, const bool *is_param, mq_error *err)
{
    mq_program *p = scope->program;
    size_t captures = capture_room(g), room = value_room(g) + captures;
    p->graph = g;
    p->value_room = (uint32_t)room + 1;
    p->values = mq_arena_new(p->arena, mq_value, room + 1);
    p->steps = mq_arena_new(p->arena, mq_step, (size_t)g->node_count + 1);
    p->inputs = mq_arena_new(p->arena, uint32_t, (size_t)g->input_count + captures + 1);
    p->outputs = mq_arena_new(p->arena, uint32_t, (size_t)g->output_count + 1);
    scope->captures = mq_arena_new(p->arena, uint32_t, captures + 1);
    if (p->values == NULL || p->steps == NULL || p->inputs == NULL || p->outputs == NULL ||
        scope->captures == NULL || room >= UINT32_MAX) {
        return no_memory(p, err);
    }
    mq_code code = mq_map_init(&scope->names, (uint32_t)room + 1, (uint64_t)(uintptr_t)p, err);
    if (code != MQ_OK) {
        return code;
    }
    code = bind_given(p, &scope->names, is_param, err);
    for (uint32_t n = 0; n < g->node_count && code == MQ_OK; n++) {
        code = bind_node(scope, &g->nodes[n], err);
    }
    if (code == MQ_OK) {
        code = bind_outputs(scope, err);
    }
    mq_map_release(&scope->names);
    if (code == MQ_OK) {
        mq_program_compact(p);
    }
    return code;
}

mq_code mq_program_init(mq_program *p, const mq_model *model, const bool *is_param,
                        size_t memory_bytes_max, mq_error *err)
{
    return mq_program_init_packs(p, model, is_param, NULL, memory_bytes_max, err);
}

mq_code mq_program_init_packs(mq_program *p, const mq_model *model, const bool *is_param,
                              mq_packs *packs, size_t memory_bytes_max, mq_error *err)
{
    *p = (mq_program){.model = model, .packs = packs};
    mq_arena_init(&p->own, memory_bytes_max);
    p->arena = &p->own;
    mq_scope scope = {.program = p};
    mq_code code = mq_bind_graph(&scope, &model->graph, is_param, err);
    if (code != MQ_OK) {
        mq_program_release(p);
    }
    return code;
}

void mq_program_kernels(mq_program *p, uint32_t kernels)
{
    p->kernels = kernels;
    for (uint32_t s = 0; s < p->step_count; s++) {
        for (uint32_t b = 0; b < p->steps[s].body_count; b++) {
            mq_program_kernels(p->steps[s].bodies[b].program, kernels);
        }
    }
}

/* What operators hold beside the arena. */
static void release_states(mq_program *p)
{
    for (uint32_t s = 0; s < p->step_count; s++) {
        const mq_step *step = &p->steps[s];
        if (step->op != NULL && step->op->release != NULL && step->state != NULL) {
            step->op->release(step->state);
        }
        for (uint32_t b = 0; b < step->body_count; b++) {
            release_states(step->bodies[b].program);
        }
    }
}

void mq_program_release(mq_program *p)
{
    release_states(p);
    mq_arena_release(&p->own);
    *p = (mq_program){.model = NULL};
}

static void count_uses(mq_program *p)
{
    for (uint32_t v = 0; v < p->value_count; v++) {
        p->values[v].uses = 0;
    }
    for (uint32_t s = 0; s < p->step_count; s++) {
        for (uint32_t i = 0; p->steps[s].op != NULL && i < p->steps[s].input_count; i++) {
            if (p->steps[s].inputs[i] != MQ_NO_VALUE) {
                p->values[p->steps[s].inputs[i]].uses++;
                p->values[p->steps[s].inputs[i]].reader = s;
            }
        }
    }
}

void mq_program_compact(mq_program *p)
{
    count_uses(p);
    for (uint32_t s = p->step_count; s-- > 0;) {
        mq_step *step = &p->steps[s];
        bool is_read = false;
        for (uint32_t i = 0; step->op != NULL && i < step->output_count; i++) {
            uint32_t v = step->outputs[i];
            is_read =
                is_read || (v != MQ_NO_VALUE && (p->values[v].uses > 0 || p->values[v].is_output));
        }
        for (uint32_t i = 0; step->op != NULL && !is_read && i < step->input_count; i++) {
            if (step->inputs[i] != MQ_NO_VALUE) {
                p->values[step->inputs[i]].uses--;
            }
        }
        step->op = is_read ? step->op : NULL;
    }
    uint32_t kept = 0;
    for (uint32_t s = 0; s < p->step_count; s++) {
        if (p->steps[s].op == NULL) {
            continue;
        }
        p->steps[kept] = p->steps[s];
        for (uint32_t i = 0; i < p->steps[kept].input_count; i++) {
            if (p->steps[kept].inputs[i] != MQ_NO_VALUE) {
                p->values[p->steps[kept].inputs[i]].reader = kept;
            }
        }
        for (uint32_t i = 0; i < p->steps[kept].output_count; i++) {
            if (p->steps[kept].outputs[i] != MQ_NO_VALUE) {
                p->values[p->steps[kept].outputs[i]].source = kept;
            }
        }
        kept++;
    }
    p->step_count = kept;
}

bool mq_program_call(const mq_program *p, uint32_t s, mq_tensor *tensors, mq_arena *arena,
                     mq_op_call *call)
{
    const mq_step *step = &p->steps[s];
    const mq_tensor **inputs = mq_arena_new(arena, const mq_tensor *, step->input_count);
    mq_tensor **outputs = mq_arena_new(arena, mq_tensor *, step->output_count);
    if (inputs == NULL || outputs == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < step->input_count; i++) {
        inputs[i] = step->inputs[i] == MQ_NO_VALUE ? NULL : &tensors[step->inputs[i]];
    }
    for (uint32_t i = 0; i < step->output_count; i++) {
        outputs[i] = step->outputs[i] == MQ_NO_VALUE ? NULL : &tensors[step->outputs[i]];
    }
    *call =
        (mq_op_call){.op = step->op,
                     .attrs = step->attrs,
                     .inputs = inputs,
                     .outputs = outputs,
                     .input_count = step->body_count == 0 ? step->input_count : step->formal_count,
                     .output_count = step->output_count,
                     .state = step->state,
                     .kernels = p->kernels,
                     .packs = p->packs};
    return true;
}

/* Runs one step whose inputs are constants and makes its outputs constants. */
static mq_code fold_step(mq_program *p, uint32_t s, mq_tensor *tensors, mq_arena *scratch,
                         mq_error *err)
{
    mq_step *step = &p->steps[s];
    mq_op_call call;
    size_t bytes = 0;
    if (!mq_program_call(p, s, tensors, scratch, &call)) {
        return no_memory(p, err);
    }
    mq_code code = mq_op_shape(&call, step->node, err);
    for (uint32_t i = 0; i < step->output_count && code == MQ_OK; i++) {
        bytes += call.outputs[i] == NULL ? 0 : call.outputs[i]->bytes;
    }
    if (code != MQ_OK || bytes > FOLD_BYTES_MAX) {
        return code;
    }
    for (uint32_t i = 0; i < step->output_count; i++) {
        if (call.outputs[i] != NULL) {
            call.outputs[i]->data = mq_arena_alloc(p->arena, call.outputs[i]->bytes, 1);
            code = call.outputs[i]->data == NULL ? no_memory(p, err) : code;
        }
    }
    if (code == MQ_OK && mq_op_has_scratch(&call)) {
        call.scratch = mq_arena_alloc(scratch, mq_op_scratch(&call), 1);
        code = call.scratch == NULL ? no_memory(p, err) : code;
    }
    if (code == MQ_OK) {
        code = mq_op_run(&call, err);
    }
    if (code != MQ_OK) {
        return mq_wrap(err, "node '%s' (%s)", step->node->name, step->node->op_type);
    }
    for (uint32_t i = 0; i < step->output_count; i++) {
        if (call.outputs[i] != NULL) {
            p->values[step->outputs[i]].kind = MQ_VALUE_CONST;
            p->values[step->outputs[i]].tensor = *call.outputs[i];
        }
    }
    step->op = NULL;
    p->folded_count++;
    return MQ_OK;
}

mq_code mq_program_fold(mq_program *p, mq_error *err)
{
    mq_arena scratch;
    mq_arena_init(&scratch, p->arena->limit_bytes);
    mq_tensor *tensors = mq_arena_new(&scratch, mq_tensor, (size_t)p->value_count + 1);
    mq_code code = tensors == NULL ? no_memory(p, err) : MQ_OK;
    for (uint32_t v = 0; v < p->value_count && code == MQ_OK; v++) {
        if (p->values[v].kind == MQ_VALUE_CONST) {
            tensors[v] = p->values[v].tensor;
        }
    }
    for (uint32_t s = 0; s < p->step_count && code == MQ_OK; s++) {
        bool is_constant = (p->steps[s].op->flags & MQ_OP_MAKES) == 0;
        for (uint32_t i = 0; i < p->steps[s].input_count; i++) {
            uint32_t v = p->steps[s].inputs[i];
            is_constant = is_constant && (v == MQ_NO_VALUE || p->values[v].kind == MQ_VALUE_CONST);
        }
        code = is_constant ? fold_step(p, s, tensors, &scratch, err) : MQ_OK;
    }
    mq_arena_release(&scratch);
    if (code == MQ_OK) {
        mq_program_compact(p);
        code = mq_program_each_body(p, mq_program_fold, err);
    }
    return code;
}

mq_code mq_program_prepare(mq_program *p, mq_error *err)
{
    mq_arena scratch;
    mq_arena_init(&scratch, p->arena->limit_bytes);
    mq_tensor *tensors = mq_arena_new(&scratch, mq_tensor, (size_t)p->value_count + 1);
    mq_code code = tensors == NULL ? no_memory(p, err) : MQ_OK;
    for (uint32_t v = 0; v < p->value_count && code == MQ_OK; v++) {
        if (p->values[v].kind == MQ_VALUE_CONST) {
            tensors[v] = p->values[v].tensor;
        }
    }
    for (uint32_t s = 0; s < p->step_count && code == MQ_OK; s++) {
        mq_op_call call;
        if (p->steps[s].op->prepare == NULL) {
            continue;
        }
        if (!mq_program_call(p, s, tensors, &scratch, &call)) {
            code = no_memory(p, err);
        } else if (!mq_widen_wants(&call)) { /* kernels pack what they take */
            code = call.op->prepare(&call, p->arena, &p->steps[s].state, err);
        }
    }
    mq_arena_release(&scratch);
    return code == MQ_OK ? mq_program_each_body(p, mq_program_prepare, err) : code;
}

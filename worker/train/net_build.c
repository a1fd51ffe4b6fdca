/* Compiles a model into a net: which weights train, which steps are this stage's, which values get
 * a gradient, where everything lies. Nothing here runs arithmetic. */
#include "shared/base/assert.h"
#include "shared/base/map.h"
#include "shared/base/math.h"
#include "worker/train/net_impl.h"

static mq_code no_memory(const mq_net *net, mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "the net needs more memory than its limit of %zu bytes",
                   net->options.memory_bytes_max);
}

/* --- parameters --- */

static void mark_inputs(const mq_model *model, const mq_map *names, const mq_node *node,
                        bool *is_param)
{
    const mq_op *op = mq_op_find(node->domain, node->op_type, mq_model_opset(model, node->domain));
    for (uint32_t i = 0; op != NULL && i < node->input_count && i < 32; i++) {
        uint32_t init = mq_map_find(names, mq_str(node->inputs[i]));
        if (((op->params | op->follows) >> i & 1) != 0 && init != MQ_MAP_NONE) {
            const mq_tensor *t = &model->graph.initializers[init].tensor;
            bool is_large = t->bytes > sizeof(float) || (op->follows >> i & 1) != 0;
            is_param[init] = is_param[init] || (t->dtype == MQ_DT_F32 && is_large);
        }
    }
}

mq_code mq_net_trainable(const mq_model *model, const mq_freeze *freeze, bool *is_param,
                         mq_error *err)
{
    const mq_graph *g = &model->graph;
    mq_map names;
    mq_code code = mq_map_init(&names, g->initializer_count + 1, 0, err);
    if (code != MQ_OK) {
        return code;
    }
    for (uint32_t i = 0; i < g->initializer_count; i++) {
        is_param[i] = false;
        MQ_ASSERT(mq_map_put(&names, mq_str(g->initializers[i].name), i));
    }
    for (uint32_t n = 0; n < g->node_count; n++) {
        mark_inputs(model, &names, &g->nodes[n], is_param);
    }
    for (uint32_t i = 0; i < g->initializer_count; i++) {
        is_param[i] = is_param[i] && !mq_freeze_fits(freeze, g->initializers[i].name);
    }
    mq_map_release(&names);
    return MQ_OK;
}

/* --- the graph up to the logits --- */

/* Losses are computed on logits: a Softmax (or LogSoftmax, or Sigmoid for the binary one) over the
 * last axis that makes the graph's only output is left out, its input becomes the output. */
static void cut_softmax(mq_program *p, const char *softmax)
{
    uint32_t out = p->outputs[0];
    if (p->values[out].kind != MQ_VALUE_STEP || p->values[out].uses > 0) {
        return;
    }
    mq_step *step = &p->steps[p->values[out].source];
    const char *name = strncmp(step->op->name, "Log", 3) == 0 ? step->op->name + 3 : step->op->name;
    if (softmax[0] == '\0' || strcmp(name, softmax) != 0) {
        return;
    }
    p->values[out].is_output = false;
    p->outputs[0] = step->inputs[0];
    p->values[step->inputs[0]].is_output = true;
    mq_program_compact(p);
}

static mq_code shape_input(mq_net *net, mq_error *err)
{
    const mq_program *p = &net->program;
    if (p->input_count != 1 || p->output_count != 1) {
        return mq_fail(err, MQ_E_UNSUPPORTED,
                       "training needs a graph with one input and one output, this has %u and %u",
                       p->input_count, p->output_count);
    }
    const mq_value_info *info = &net->model->graph.inputs[p->values[p->inputs[0]].source];
    if (info->dtype != MQ_DT_F32 || info->rank < 1) {
        return mq_fail(err, MQ_E_UNSUPPORTED,
                       "input '%s': training needs float32 with a batch dimension", info->name);
    }
    mq_tensor *t = &net->shapes[p->inputs[0]];
    t->dtype = MQ_DT_F32;
    t->shape.rank = info->rank;
    for (int32_t i = 0; i < info->rank; i++) {
        if (i > 0 && info->dims[i] < 1) {
            return mq_fail(err, MQ_E_ARG, "input '%s': dimension %d is not fixed", info->name, i);
        }
        t->shape.dims[i] = i == 0 ? net->options.rows : info->dims[i];
    }
    if (info->dims[0] > 0 && info->dims[0] != net->options.rows) {
        return mq_fail(err, MQ_E_ARG, "input '%s' has a fixed batch of %lld, rows are %lld",
                       info->name, (long long)info->dims[0], (long long)net->options.rows);
    }
    size_t count;
    mq_code code = mq_shape_count(&t->shape, &count, err);
    t->bytes = count * sizeof(float);
    return code;
}

static mq_code shape_steps(mq_net *net, mq_error *err)
{
    mq_program *p = &net->program;
    mq_arena scratch;
    mq_arena_init(&scratch, net->options.memory_bytes_max);
    mq_code code = MQ_OK;
    for (uint32_t s = 0; s < p->step_count && code == MQ_OK; s++) {
        const mq_step *step = &p->steps[s];
        mq_op_call call;
        mq_arena_reset(&scratch);
        if (!mq_program_call(p, s, net->shapes, &scratch, &call)) {
            code = no_memory(net, err);
            break;
        }
        for (uint32_t i = 0; i < step->input_count && i < 32 && code == MQ_OK; i++) {
            if ((step->op->shape_inputs >> i & 1) != 0 && call.inputs[i] != NULL &&
                call.inputs[i]->data == NULL) {
                code = mq_fail(err, MQ_E_UNSUPPORTED,
                               "node '%s' (%s): its shape depends on computed values",
                               step->node->name, step->node->op_type);
            }
        }
        if (code == MQ_OK) {
            code = mq_op_shape(&call, step->node, err);
        }
        if (code == MQ_OK && step->op->scratch != NULL) {
            net->scratch_bytes = mq_max_size(net->scratch_bytes, step->op->scratch(&call));
        }
    }
    mq_arena_release(&scratch);
    return code;
}

/* --- the weights of this stage --- */

/* Is the value a running moment of some step? */
static bool follows(const mq_program *p, uint32_t value)
{
    for (uint32_t s = 0; s < p->step_count; s++) {
        for (uint32_t i = 0; i < p->steps[s].input_count && i < 32; i++) {
            if ((p->steps[s].op->follows >> i & 1) != 0 && p->steps[s].inputs[i] == value) {
                return true;
            }
        }
    }
    return false;
}

static mq_code list_params(mq_net *net, const bool *is_param, mq_error *err)
{
    const mq_graph *g = &net->model->graph;
    const mq_program *p = &net->program;
    bool *is_here = mq_arena_new(&net->arena, bool, p->value_count);
    net->params = mq_arena_new(&net->arena, mq_net_param, (size_t)g->initializer_count + 1);
    net->weights = mq_arena_new(&net->arena, mq_net_weight, (size_t)g->initializer_count + 1);
    if (net->params == NULL || net->weights == NULL || is_here == NULL) {
        return no_memory(net, err);
    }
    for (uint32_t s = net->first; s < net->last; s++) {
        for (uint32_t i = 0; i < p->steps[s].input_count; i++) {
            if (p->steps[s].inputs[i] != MQ_NO_VALUE) {
                is_here[p->steps[s].inputs[i]] = true;
            }
        }
    }
    for (uint32_t i = 0; i < g->initializer_count; i++) { /* value i is initializer i */
        const mq_init *init = &g->initializers[i];
        size_t count = init->tensor.bytes / sizeof(float);
        MQ_ASSERT(p->values[i].source == i);
        if (!is_param[i]) {
            continue;
        }
        if (is_here[i] || (p->values[i].uses == 0 && net->options.stage == 0)) {
            net->params[net->param_count] = (mq_net_param){init->name, net->param_total, count,
                                                           init->tensor.shape, follows(p, i)};
            net->weights[net->param_count++] = (mq_net_weight){i, net->param_total, count};
        }
        net->param_total += count;
    }
    return MQ_OK;
}

/* A weight that two stages read would need its gradients added across them. */
static mq_code check_shared(const mq_net *net, mq_error *err)
{
    const mq_program *p = &net->program;
    for (uint32_t s = 0; s < p->step_count; s++) {
        bool is_outside = s < net->first || s >= net->last;
        for (uint32_t i = 0; is_outside && i < p->steps[s].input_count; i++) {
            uint32_t v = p->steps[s].inputs[i];
            for (size_t k = 0; k < net->param_count; k++) {
                if (v == net->weights[k].value) {
                    return mq_fail(err, MQ_E_UNSUPPORTED,
                                   "weight '%s' is used by two stages; use fewer stages",
                                   p->values[v].name);
                }
            }
        }
    }
    return MQ_OK;
}

/* --- gradients and memory --- */

static mq_code mark_wanted(mq_net *net, mq_error *err)
{
    const mq_program *p = &net->program;
    for (size_t k = 0; k < net->param_count; k++) {
        net->is_wanted[net->weights[k].value] = true;
    }
    if (net->options.stage > 0) {
        net->is_wanted[net->input] = true;
    }
    for (uint32_t s = net->first; s < net->last; s++) {
        const mq_step *step = &p->steps[s];
        bool is_needed = false;
        for (uint32_t i = 0; i < step->input_count; i++) {
            is_needed =
                is_needed || (step->inputs[i] != MQ_NO_VALUE && net->is_wanted[step->inputs[i]]);
        }
        if (!is_needed || net->shapes[step->outputs[0]].dtype != MQ_DT_F32) {
            continue; /* indices and shapes carry no gradient */
        }
        for (uint32_t i = 1; i < step->output_count; i++) {
            if (step->outputs[i] != MQ_NO_VALUE && p->values[step->outputs[i]].uses > 0 &&
                net->shapes[step->outputs[i]].dtype == MQ_DT_F32) {
                return mq_fail(err, MQ_E_UNSUPPORTED,
                               "node '%s' (%s): no gradient through several outputs",
                               step->node->name, step->node->op_type);
            }
        }
        if (step->op->grad == NULL) {
            return mq_fail(err, MQ_E_UNSUPPORTED,
                           "node '%s' (%s): this operator has no gradient here", step->node->name,
                           step->node->op_type);
        }
        for (uint32_t i = 0; i < step->input_count && i < 32; i++) {
            bool has_none = (step->op->no_grad & ~step->op->follows) >> i & 1;
            if (has_none && step->inputs[i] != MQ_NO_VALUE && net->is_wanted[step->inputs[i]]) {
                return mq_fail(err, MQ_E_UNSUPPORTED, "node '%s' (%s): no gradient by input %u",
                               step->node->name, step->node->op_type, i);
            }
        }
        net->is_wanted[step->outputs[0]] = true;
    }
    if (!net->is_wanted[net->output]) {
        return mq_fail(err, MQ_E_ARG,
                       "no weight of the model leads to its output: nothing to train");
    }
    return MQ_OK;
}

/* Views share memory: forward with their input; backward too when nobody else reads the input. */
static void place_values(mq_net *net)
{
    const mq_program *p = &net->program;
    for (uint32_t v = 0; v < p->value_count; v++) {
        net->view_of[v] = v;
    }
    for (uint32_t s = net->first; s < net->last; s++) {
        const mq_step *step = &p->steps[s];
        for (uint32_t i = 0; i < step->output_count; i++) {
            uint32_t v = step->outputs[i];
            if (v == MQ_NO_VALUE) {
                continue;
            }
            if (i == 0 && (step->op->flags & MQ_OP_VIEW) != 0) {
                net->view_of[v] = net->view_of[step->inputs[0]];
                continue;
            }
            net->place[v] = net->block_floats;
            net->block_floats += mq_align_up(net->shapes[v].bytes, 64) / sizeof(float);
        }
    }
}

static void place_grads(mq_net *net)
{
    const mq_program *p = &net->program;
    for (uint32_t s = net->last; s-- > net->first;) {
        const mq_step *step = &p->steps[s];
        for (uint32_t i = 0; i < step->output_count; i++) {
            uint32_t v = step->outputs[i];
            if (v != MQ_NO_VALUE && net->is_wanted[v] && net->grad_place[v] == SIZE_MAX) {
                net->grad_place[v] = net->grad_floats;
                net->grad_floats += mq_align_up(net->shapes[v].bytes, 64) / sizeof(float);
            }
        }
        uint32_t x = step->input_count > 0 ? step->inputs[0] : MQ_NO_VALUE;
        if ((step->op->flags & MQ_OP_VIEW) != 0 && x != MQ_NO_VALUE && net->is_wanted[x] &&
            p->values[x].kind == MQ_VALUE_STEP && p->values[x].uses == 1 && x != net->input &&
            net->grad_place[x] == SIZE_MAX) {
            net->grad_place[x] = net->grad_place[step->outputs[0]];
        }
    }
    if (net->is_wanted[net->input]) {
        net->grad_place[net->input] = net->grad_floats;
        net->grad_floats += mq_align_up(net->shapes[net->input].bytes, 64) / sizeof(float);
    }
}

/* In backward order: the first gradient of a value is written, later ones are added. */
static mq_code mark_added(mq_net *net, mq_error *err)
{
    const mq_program *p = &net->program;
    size_t total = 0;
    for (uint32_t s = 0; s < p->step_count; s++) {
        net->added_at[s] = (uint32_t)total;
        total += p->steps[s].input_count;
    }
    bool *is_written = mq_arena_new(&net->arena, bool, p->value_count);
    net->is_added = mq_arena_new(&net->arena, bool, total + 1);
    if (is_written == NULL || net->is_added == NULL) {
        return no_memory(net, err);
    }
    for (uint32_t s = net->last; s-- > net->first;) {
        for (uint32_t i = 0; i < p->steps[s].input_count; i++) {
            uint32_t v = p->steps[s].inputs[i];
            if (v != MQ_NO_VALUE && net->is_wanted[v]) {
                net->is_added[net->added_at[s] + i] = is_written[v];
                is_written[v] = true;
            }
        }
    }
    return MQ_OK;
}

static mq_code plan(mq_net *net, mq_error *err)
{
    size_t values = net->program.value_count, steps = net->program.step_count;
    net->view_of = mq_arena_new(&net->arena, uint32_t, values);
    net->is_wanted = mq_arena_new(&net->arena, bool, values);
    net->place = mq_arena_new(&net->arena, size_t, values);
    net->grad_place = mq_arena_new(&net->arena, size_t, values);
    net->grad_of = mq_arena_new(&net->arena, float *, values);
    net->added_at = mq_arena_new(&net->arena, uint32_t, steps + 1);
    if (net->view_of == NULL || net->is_wanted == NULL || net->place == NULL ||
        net->grad_place == NULL || net->grad_of == NULL || net->added_at == NULL) {
        return no_memory(net, err);
    }
    for (size_t v = 0; v < values; v++) {
        net->grad_place[v] = SIZE_MAX;
    }
    mq_code code = mark_wanted(net, err);
    if (code != MQ_OK) {
        return code;
    }
    place_values(net);
    place_grads(net);
    code = mark_added(net, err);
    if (code != MQ_OK) {
        return code;
    }
    net->grad_block = mq_arena_new(&net->arena, float, net->grad_floats);
    net->scratch = mq_arena_alloc(&net->arena, net->scratch_bytes, 1);
    if (net->grad_block == NULL || net->scratch == NULL) {
        return no_memory(net, err);
    }
    for (size_t v = 0; v < values; v++) {
        bool is_placed = net->grad_place[v] != SIZE_MAX;
        net->grad_of[v] = is_placed ? net->grad_block + net->grad_place[v] : NULL;
    }
    return MQ_OK;
}

static mq_code check_logits(const mq_net *net, mq_error *err)
{
    const mq_tensor *t = &net->shapes[net->output];
    if (net->options.stage + 1 < net->options.stage_count) {
        return MQ_OK;
    }
    int64_t classes = t->shape.rank < 1 ? 0 : t->shape.dims[t->shape.rank - 1];
    if (t->dtype != MQ_DT_F32 || classes < 1 || classes > INT32_MAX ||
        t->bytes != (size_t)net->options.rows * (size_t)classes * sizeof(float)) {
        char text[128];
        return mq_fail(err, MQ_E_ARG, "output %s where [%lld,classes] is needed for %s",
                       mq_shape_text(&t->shape, text, sizeof text), (long long)net->options.rows,
                       mq_loss_of(net->options.loss.loss)->name);
    }
    return mq_loss_check_width(&net->options.loss, classes, err);
}

/* --- slots --- */

static mq_code slot_calls(mq_net *net, mq_net_slot *slot, mq_error *err)
{
    const mq_program *p = &net->program;
    for (uint32_t s = net->first; s < net->last; s++) {
        mq_op_call *call = &slot->calls[s - net->first];
        mq_op_grad *grad = &slot->grads[s - net->first];
        const mq_step *step = &p->steps[s];
        float **dy = mq_arena_new(&net->arena, float *, step->output_count);
        float **dx = mq_arena_new(&net->arena, float *, (size_t)step->input_count + 1);
        if (dy == NULL || dx == NULL || !mq_program_call(p, s, slot->tensors, &net->arena, call)) {
            return no_memory(net, err);
        }
        call->scratch = net->scratch;
        for (uint32_t i = 0; i < step->output_count; i++) {
            dy[i] = step->outputs[i] == MQ_NO_VALUE ? NULL : net->grad_of[step->outputs[i]];
        }
        if (net->is_wanted[step->outputs[0]]) {
            *grad = (mq_op_grad){*call, dy, dx, net->is_added + net->added_at[s]};
        }
    }
    return MQ_OK;
}

mq_code mq_net_slot_init(mq_net *net, uint32_t index, mq_error *err)
{
    mq_net_slot *slot = &net->slots[index];
    const mq_program *p = &net->program;
    size_t rows = (size_t)net->options.rows, steps = net->last - net->first;
    slot->tensors = mq_arena_new(&net->arena, mq_tensor, p->value_count);
    slot->calls = mq_arena_new(&net->arena, mq_op_call, steps);
    slot->grads = mq_arena_new(&net->arena, mq_op_grad, steps);
    slot->block = mq_arena_new(&net->arena, float, net->block_floats);
    slot->d_out = mq_arena_alloc(&net->arena, net->shapes[net->output].bytes, 1);
    slot->labels = mq_arena_new(&net->arena, mq_label, rows);
    if (slot->tensors == NULL || slot->calls == NULL || slot->grads == NULL ||
        slot->block == NULL || slot->d_out == NULL || slot->labels == NULL) {
        return no_memory(net, err);
    }
    memcpy(slot->tensors, net->shapes, p->value_count * sizeof *slot->tensors);
    for (uint32_t s = net->first; s < net->last; s++) {
        for (uint32_t i = 0; i < p->steps[s].output_count; i++) {
            uint32_t v = p->steps[s].outputs[i];
            if (v != MQ_NO_VALUE && net->view_of[v] == v) {
                slot->tensors[v].data = slot->block + net->place[v];
            } else if (v != MQ_NO_VALUE) {
                slot->tensors[v].data = slot->tensors[net->view_of[v]].data;
            }
        }
    }
    mq_code code = slot_calls(net, slot, err);
    slot->is_ready = code == MQ_OK;
    return code;
}

/* --- the whole --- */

static mq_code check_options(const mq_net_options *o, mq_error *err)
{
    if (o->rows < 1 || o->rows > (1 << 20)) {
        return mq_fail(err, MQ_E_ARG, "rows: %lld is outside 1..%d", (long long)o->rows, 1 << 20);
    }
    MQ_ASSERT(o->loss.loss < MQ_LOSS_COUNT);
    if (o->stage_count < 1 || o->stage_count > 16 || o->stage >= o->stage_count) {
        return mq_fail(err, MQ_E_ARG, "stage %u of %u: 1..16 stages, numbered from 0", o->stage,
                       o->stage_count);
    }
    return MQ_OK;
}

static mq_code build(mq_net *net, bool *is_param, mq_error *err)
{
    mq_program *p = &net->program;
    mq_code code = mq_net_trainable(net->model, net->options.freeze, is_param, err);
    if (code == MQ_OK) {
        code = mq_program_init(p, net->model, is_param, net->options.memory_bytes_max, err);
    }
    if (code == MQ_OK) {
        code = mq_program_fold(p, err);
    }
    if (code == MQ_OK && !net->options.is_serving) {
        code = mq_net_start_training(net, err);
    }
    if (code == MQ_OK && p->output_count > 0) {
        cut_softmax(p, mq_loss_of(net->options.loss.loss)->softmax);
        code = mq_program_fuse(p, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    net->shapes = mq_arena_new(&net->arena, mq_tensor, (size_t)p->value_count + 1);
    if (net->shapes == NULL) {
        return no_memory(net, err);
    }
    for (uint32_t v = 0; v < p->value_count; v++) {
        net->shapes[v] = p->values[v].tensor;
        if (p->values[v].kind == MQ_VALUE_PARAM) {
            net->shapes[v].data = NULL;
        }
    }
    mq_code (*const steps[])(mq_net *, mq_error *) = {shape_input, shape_steps,
                                                      mq_net_choose_stage};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && code == MQ_OK; i++) {
        code = steps[i](net, err);
    }
    if (code == MQ_OK) {
        code = list_params(net, is_param, err);
    }
    if (code == MQ_OK) {
        code = check_shared(net, err);
    }
    if (code == MQ_OK) {
        code = check_logits(net, err);
    }
    return code == MQ_OK ? plan(net, err) : code;
}

/* Forward products of this stage, and one more for each operand that gets a gradient. */
static double count_flop(mq_net *net)
{
    const mq_program *p = &net->program;
    mq_arena scratch;
    mq_arena_init(&scratch, net->options.memory_bytes_max);
    double sum = 0.0;
    for (uint32_t s = net->first; s < net->last; s++) {
        double one = mq_net_step_cost(net, s, &scratch);
        sum += one;
        for (uint32_t i = 0; i < p->steps[s].input_count && i < 2; i++) {
            uint32_t v = p->steps[s].inputs[i];
            sum += v != MQ_NO_VALUE && net->is_wanted[v] ? one : 0.0;
        }
    }
    mq_arena_release(&scratch);
    return sum;
}

mq_code mq_net_new(mq_net **out, const mq_model *model, const mq_net_options *options,
                   mq_error *err)
{
    *out = NULL;
    mq_code code = check_options(options, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_blas_init();
    mq_arena arena;
    size_t limit = options->memory_bytes_max == 0 ? (size_t)1 << 30 : options->memory_bytes_max;
    mq_arena_init(&arena, limit);
    mq_net *net = mq_arena_new(&arena, mq_net, 1);
    bool *is_param = mq_arena_new(&arena, bool, (size_t)model->graph.initializer_count + 1);
    if (net == NULL || is_param == NULL) {
        mq_arena_release(&arena);
        return mq_fail(err, MQ_E_LIMIT, "no memory for a net (limit %zu bytes)", limit);
    }
    net->model = model;
    net->options = *options;
    net->options.memory_bytes_max = limit;
    net->arena = arena;
    code = build(net, is_param, err);
    if (code == MQ_OK) {
        code = mq_net_slot_init(net, 0, err);
    }
    if (code != MQ_OK) {
        mq_net_free(net);
        return code;
    }
    net->flop = count_flop(net);
    *out = net;
    return MQ_OK;
}

void mq_net_free(mq_net *net)
{
    if (net != NULL) {
        mq_program_release(&net->program);
        mq_arena arena = net->arena; /* the struct itself lies in it */
        mq_arena_release(&arena);
    }
}

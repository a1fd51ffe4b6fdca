/* Runs a compiled net: forward, loss, backward. Allocates nothing (but a slot's
 * memory at its first use); the order of all arithmetic is fixed by the net. */
#include "shared/base/assert.h"
#include "worker/ops/kit.h"
#include "worker/train/net_impl.h"

size_t mq_net_param_total(const mq_net *net)
{
    return net->param_total;
}

size_t mq_net_params(const mq_net *net, const mq_net_param **out)
{
    *out = net->params;
    return net->param_count;
}

void mq_net_input_shape(const mq_net *net, mq_shape *out)
{
    *out = net->shapes[net->input].shape;
}

void mq_net_output_shape(const mq_net *net, mq_shape *out)
{
    *out = net->shapes[net->output].shape;
}

void mq_net_params_get(const mq_net *net, float *flat)
{
    for (size_t k = 0; k < net->param_count; k++) {
        const mq_init *init = &net->model->graph.initializers[net->weights[k].value];
        memcpy(flat + net->weights[k].offset, init->tensor.data, init->tensor.bytes);
    }
}

mq_code mq_net_params_set(const float *flat, const mq_freeze *freeze, mq_model *model,
                          mq_error *err)
{
    mq_arena scratch;
    mq_arena_init(&scratch, (size_t)1 << 24);
    bool *is_param = mq_arena_new(&scratch, bool, (size_t)model->graph.initializer_count + 1);
    mq_code code = is_param == NULL ? mq_fail(err, MQ_E_LIMIT, "no memory to list parameters")
                                    : mq_net_trainable(model, freeze, is_param, err);
    size_t offset = 0;
    for (uint32_t i = 0; i < model->graph.initializer_count && code == MQ_OK; i++) {
        const mq_init *init = &model->graph.initializers[i];
        if (is_param[i]) {
            mq_shape shape = init->tensor.shape;
            size_t bytes = init->tensor.bytes;
            code = mq_model_set_init(model, init->name, MQ_DT_F32, &shape,
                                     mq_span_of(flat + offset, bytes), err);
            offset += bytes / sizeof(float);
        }
    }
    mq_arena_release(&scratch);
    return code;
}

/* --- loss --- */

/* Outputs a row. */
static int64_t width_of(const mq_net *net)
{
    const mq_shape *s = &net->shapes[net->output].shape;
    return s->dims[s->rank - 1];
}

static mq_code check_labels(const mq_net *net, const mq_label *labels, mq_error *err)
{
    return mq_loss_check_labels(&net->options.loss, labels, net->options.rows, width_of(net), err);
}

/* --- passes --- */

static uint32_t shards_of(const mq_net *net)
{
    return net->options.shards > 0 ? net->options.shards : 1;
}

static bool is_last_stage(const mq_net *net)
{
    return net->options.stage + 1 == net->options.stage_count;
}

/* A view of the input or of a parameter has no memory of its own. */
static void point_views(const mq_net *net, mq_net_slot *slot)
{
    for (uint32_t s = net->first; s < net->last; s++) {
        uint32_t v = net->program.steps[s].outputs[0];
        if (net->view_of[v] != v) {
            slot->tensors[v].data = slot->tensors[net->view_of[v]].data;
        }
    }
}

static mq_code forward(mq_net *net, mq_net_slot *slot, const float *flat, const float *x,
                       const mq_label *labels, mq_net_stats *stats, mq_error *err)
{
    slot->tensors[net->input].data = (void *)(uintptr_t)x;
    for (size_t k = 0; k < net->param_count; k++) {
        slot->tensors[net->weights[k].value].data =
            (void *)(uintptr_t)(flat + net->weights[k].offset);
    }
    point_views(net, slot);
    for (uint32_t s = net->first; s < net->last; s++) {
        const mq_op_call *call = &slot->calls[s - net->first];
        mq_code code = mq_op_run(call, err);
        if (code != MQ_OK) {
            const mq_node *node = net->program.steps[s].node;
            return mq_wrap(err, "node '%s' (%s)", node->name, node->op_type);
        }
    }
    if (is_last_stage(net)) {
        mq_loss_sums sums;
        mq_loss_rows(&net->options.loss, slot->tensors[net->output].data, labels, net->options.rows,
                     width_of(net), slot->d_out, &sums);
        *stats = (mq_net_stats){sums.loss, sums.correct};
    }
    return MQ_OK;
}

/* Points every gradient call at its targets: activations have theirs, parameters lie in grads. */
static void point_grads(mq_net *net, mq_net_slot *slot, float *dx, float *grads)
{
    for (size_t k = 0; k < net->param_count; k++) {
        net->grad_of[net->weights[k].value] = grads + net->weights[k].offset;
    }
    if (net->is_wanted[net->input]) {
        net->grad_of[net->input] = dx != NULL ? dx : net->grad_block + net->grad_place[net->input];
    }
    for (uint32_t s = net->first; s < net->last; s++) {
        const mq_step *step = &net->program.steps[s];
        const mq_op_grad *grad = &slot->grads[s - net->first];
        for (uint32_t i = 0; grad->call.op != NULL && i < step->input_count; i++) {
            uint32_t v = step->inputs[i];
            bool is_wanted = v != MQ_NO_VALUE && net->is_wanted[v];
            /* dx lies in the net's arena; the struct shows it constant to operators only */
            ((float **)(uintptr_t)grad->dx)[i] = is_wanted ? net->grad_of[v] : NULL;
        }
    }
}

static void backward(mq_net *net, mq_net_slot *slot, const float *dy, float scale, float *dx,
                     float *grads)
{
    float *top = net->grad_of[net->output];
    if (is_last_stage(net)) {
        size_t count = net->shapes[net->output].bytes / sizeof *top;
        for (size_t i = 0; i < count; i++) {
            top[i] = slot->d_out[i] * scale;
        }
    } else {
        memcpy(top, dy, net->shapes[net->output].bytes);
    }
    point_grads(net, slot, dx, grads);
    for (uint32_t s = net->last; s-- > net->first;) {
        const mq_op_grad *grad = &slot->grads[s - net->first];
        if (grad->call.op != NULL) {
            grad->call.op->grad(grad);
        }
    }
    for (size_t k = 0; k < net->param_count; k++) {
        float *at = grads + net->weights[k].offset, share = 1.0f / (float)shards_of(net);
        for (size_t i = 0; net->params[k].follows && i < net->weights[k].count; i++) {
            at[i] *= share;
        }
        if (net->program.values[net->weights[k].value].uses == 0) {
            memset(grads + net->weights[k].offset, 0, net->weights[k].count * sizeof *grads);
        }
    }
}

void mq_net_draw(mq_net *net, const mq_draw *draw)
{
    net->draw = *draw;
}

mq_code mq_net_step(mq_net *net, const float *flat, const float *x, const mq_label *labels,
                    float scale, float *grads, mq_net_stats *stats, mq_error *err)
{
    MQ_ASSERT(net->options.stage_count == 1);
    mq_net_slot *slot = &net->slots[0];
    mq_code code = check_labels(net, labels, err);
    if (code == MQ_OK) {
        code = forward(net, slot, flat, x, labels, stats, err);
    }
    if (code == MQ_OK) {
        slot->is_forward = false;
        backward(net, slot, NULL, scale, NULL, grads);
    }
    return code;
}

mq_code mq_net_score(mq_net *net, const float *flat, const float *x, const mq_label *labels,
                     mq_net_stats *stats, mq_error *err)
{
    MQ_ASSERT(net->options.stage_count == 1);
    mq_code code = check_labels(net, labels, err);
    return code != MQ_OK ? code : forward(net, &net->slots[0], flat, x, labels, stats, err);
}

mq_code mq_net_forward(mq_net *net, uint32_t index, const float *flat, const float *x,
                       const mq_label *labels, float *y, mq_net_stats *stats, mq_error *err)
{
    if (index >= MQ_NET_SLOTS_MAX) {
        return mq_fail(err, MQ_E_ARG, "slot %u is outside 0..%d", index, MQ_NET_SLOTS_MAX - 1);
    }
    mq_net_slot *slot = &net->slots[index];
    size_t rows = (size_t)net->options.rows, x_bytes = net->shapes[net->input].bytes;
    mq_code code = slot->is_ready ? MQ_OK : mq_net_slot_init(net, index, err);
    if (code == MQ_OK && slot->x_copy == NULL) {
        slot->x_copy = mq_arena_alloc(&net->arena, x_bytes, 1);
        if (slot->x_copy == NULL) {
            code = mq_fail(err, MQ_E_LIMIT, "the net needs more memory than its limit of %zu bytes",
                           net->options.memory_bytes_max);
        }
    }
    if (code == MQ_OK && is_last_stage(net)) {
        code = check_labels(net, labels, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    memcpy(slot->x_copy, x, x_bytes);
    slot->draw = net->draw;
    if (is_last_stage(net)) {
        memcpy(slot->labels, labels, rows * sizeof *labels);
    }
    code = forward(net, slot, flat, slot->x_copy, slot->labels, stats, err);
    if (code == MQ_OK && y != NULL) {
        memcpy(y, slot->tensors[net->output].data, net->shapes[net->output].bytes);
    }
    slot->is_forward = code == MQ_OK;
    return code;
}

mq_code mq_net_backward(mq_net *net, uint32_t index, const float *flat, const float *dy,
                        float scale, float *dx, float *grads, mq_error *err)
{
    if (index >= MQ_NET_SLOTS_MAX || !net->slots[index].is_forward) {
        return mq_fail(err, MQ_E_ARG, "slot %u: backward without a forward before it", index);
    }
    mq_net_slot *slot = &net->slots[index];
    for (size_t k = 0; k < net->param_count; k++) { /* flat may have moved, not changed */
        slot->tensors[net->weights[k].value].data =
            (void *)(uintptr_t)(flat + net->weights[k].offset);
    }
    net->draw = slot->draw;
    backward(net, slot, dy, scale, dx, grads);
    slot->is_forward = false;
    return MQ_OK;
}

/* --- bare products --- */

double mq_net_gemm_flop(const mq_net *net)
{
    return net->flop;
}

/* Notes the products of one step on scratch memory; they are then run as noted. */
static void note_gemms(mq_net *net, const float *flat)
{
    size_t rows = (size_t)net->options.rows;
    size_t x_floats = net->shapes[net->input].bytes / sizeof(float);
    size_t y_floats = net->shapes[net->output].bytes / sizeof(float);
    mq_net_slot *slot = &net->slots[0];
    if (net->gemm_scratch == NULL) {
        net->gemm_scratch =
            mq_arena_new(&net->arena, float, net->param_total + x_floats + y_floats);
    }
    if (net->gemm_scratch == NULL) {
        return;
    }
    const float *x = net->gemm_scratch + net->param_total, *dy = x + x_floats;
    memset(slot->labels, 0, rows * sizeof *slot->labels);
    mq_gemm_log log = {net->gemms, 0, MQ_NET_GEMMS_MAX};
    mq_net_stats stats;
    mq_blas_log(&log);
    mq_code code = forward(net, slot, flat, x, slot->labels, &stats, NULL);
    if (code == MQ_OK) {
        backward(net, slot, dy, 1.0f / (float)rows, NULL, net->gemm_scratch);
    }
    mq_blas_log(NULL);
    slot->is_forward = false;
    net->gemm_count = log.count < MQ_NET_GEMMS_MAX ? log.count : MQ_NET_GEMMS_MAX;
    net->gemm_flat = flat;
}

void mq_net_gemm_only(mq_net *net, const float *flat)
{
    if (net->gemm_flat != flat) {
        note_gemms(net, flat);
    }
    for (uint32_t i = 0; i < net->gemm_count; i++) {
        mq_blas_gemm_fast(&net->gemms[i]);
    }
}

/* What a graph does otherwise while it is trained; see net_impl.h. Before fusion and shapes. */
#include "worker/ops/element.h"
#include "worker/ops/kit.h"
#include "worker/train/net_impl.h"

static mq_code no_memory(const mq_net *net, mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "the net needs more memory than its limit of %zu bytes",
                   net->options.memory_bytes_max);
}

/* A graph's Dropout, the identity when serving, draws. Its outputs but the first are not made. */
static mq_code start_dropout(mq_net *net, mq_step *step, uint32_t layer, mq_error *err)
{
    const mq_attr *given = mq_node_attr(step->node, "ratio");
    uint32_t input = step->input_count > 1 ? step->inputs[1] : MQ_NO_VALUE;
    double ratio = given != NULL ? (double)given->f : 0.5;
    if (input != MQ_NO_VALUE) {
        const mq_tensor *t = &net->program.values[input].tensor;
        if (t->data == NULL || mq_elements(t) != 1) {
            return mq_fail(err, MQ_E_UNSUPPORTED, "node '%s' (Dropout): its ratio is not constant",
                           step->node->name);
        }
        ratio = mq_element(t, 0);
    }
    if (step->output_count > 1 && step->outputs[1] != MQ_NO_VALUE &&
        net->program.values[step->outputs[1]].uses > 0) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "node '%s' (Dropout): its mask is read",
                       step->node->name);
    }
    if (!(ratio >= 0) || !(ratio < 1)) {
        return mq_fail(err, MQ_E_ARG, "node '%s' (Dropout): a ratio of %g is outside 0 <= . < 1",
                       step->node->name, ratio);
    }
    mq_dropout_attrs *attrs = mq_arena_new(&net->arena, mq_dropout_attrs, 1);
    if (attrs == NULL) {
        return no_memory(net, err);
    }
    *attrs = (mq_dropout_attrs){(float)ratio, layer, &net->draw};
    step->op = &mq_op_training_dropout;
    step->attrs = attrs;
    step->input_count = step->output_count = 1;
    return MQ_OK;
}

/* A normalization whose running moments are frozen goes on as when serving. */
static bool is_frozen(const mq_net *net, const mq_step *step)
{
    bool has_moments = false;
    for (uint32_t i = 0; i < step->input_count && i < 32; i++) {
        uint32_t v = step->inputs[i];
        if ((step->op->follows >> i & 1) != 0 && v != MQ_NO_VALUE) {
            has_moments = true;
            if (net->program.values[v].kind == MQ_VALUE_PARAM) {
                return false;
            }
        }
    }
    return has_moments && net->options.freeze != NULL && net->options.freeze->count > 0;
}

/* Operators that work another way while training do so from here on. */
mq_code mq_net_start_training(mq_net *net, mq_error *err)
{
    uint32_t layers = 0;
    mq_code code = MQ_OK;
    for (uint32_t s = 0; s < net->program.step_count && code == MQ_OK; s++) {
        mq_step *step = &net->program.steps[s];
        if (step->op == NULL) {
            continue;
        }
        if (is_frozen(net, step)) {
            continue;
        }
        if (strcmp(step->op->name, "Dropout") == 0) {
            code = start_dropout(net, step, layers++, err);
        } else if (step->op->training != NULL) {
            step->attrs = step->op->training(step->attrs, &net->arena);
            code = step->attrs == NULL ? no_memory(net, err) : MQ_OK;
        }
    }
    return code;
}

/* Which steps a pipeline stage owns: the graph is cut where a single tensor crosses, in shares of
 * its products that are as equal as such places allow. Depends on the graph and the rows only. */
#include "worker/train/net_impl.h"

/* The one value that crosses behind step `at`, or MQ_NO_VALUE when there is none or several. */
static uint32_t crossing(const mq_net *net, uint32_t at)
{
    const mq_program *p = &net->program;
    uint32_t found = MQ_NO_VALUE;
    for (uint32_t s = at + 1; s < p->step_count; s++) {
        for (uint32_t i = 0; i < p->steps[s].input_count; i++) {
            uint32_t v = p->steps[s].inputs[i];
            if (v == MQ_NO_VALUE || p->values[v].kind == MQ_VALUE_CONST ||
                p->values[v].kind == MQ_VALUE_PARAM ||
                (p->values[v].kind == MQ_VALUE_STEP && p->values[v].source > at)) {
                continue;
            }
            if (p->values[v].kind == MQ_VALUE_INPUT || (found != MQ_NO_VALUE && found != v)) {
                return MQ_NO_VALUE;
            }
            found = v;
        }
    }
    return found != MQ_NO_VALUE && net->shapes[found].dtype == MQ_DT_F32 ? found : MQ_NO_VALUE;
}

double mq_net_step_cost(mq_net *net, uint32_t s, mq_arena *scratch)
{
    mq_op_call call;
    mq_arena_reset(scratch);
    if (!mq_program_call(&net->program, s, net->shapes, scratch, &call)) {
        return 0.0;
    }
    return call.op->flop == NULL ? 0.0 : call.op->flop(&call);
}

/* Where stages end: of the places where one tensor crosses, those that come nearest to equal
 * shares of the multiply-adds; of equals the later, so that cheap operators stay with the product
 * before them. cuts[k] = first step of stage k + 1. */
static mq_code choose_cuts(mq_net *net, uint32_t *cuts, mq_error *err)
{
    const mq_program *p = &net->program;
    uint32_t stages = net->options.stage_count, from = 0;
    mq_arena scratch;
    mq_arena_init(&scratch, net->options.memory_bytes_max);
    double total = 0.0, before = 0.0;
    for (uint32_t s = 0; s < p->step_count; s++) {
        total += mq_net_step_cost(net, s, &scratch);
    }
    mq_code code = MQ_OK;
    for (uint32_t k = 0; k + 1 < stages && code == MQ_OK; k++) {
        double goal = total * (double)(k + 1) / (double)stages, best = -1.0, sum = before;
        uint32_t chosen = MQ_NO_VALUE;
        double chosen_sum = 0.0;
        for (uint32_t s = from; s + (stages - k - 1) < p->step_count; s++) {
            sum += mq_net_step_cost(net, s, &scratch);
            double off = sum < goal ? goal - sum : sum - goal;
            if ((best < 0.0 || off <= best) && crossing(net, s) != MQ_NO_VALUE) {
                best = off;
                chosen = s;
                chosen_sum = sum;
            }
        }
        if (chosen == MQ_NO_VALUE) {
            code = mq_fail(err, MQ_E_ARG,
                           "the graph cannot be cut into %u stages: there are not enough places "
                           "where a single tensor crosses",
                           stages);
            break;
        }
        cuts[k] = chosen + 1;
        from = chosen + 1;
        before = chosen_sum;
    }
    mq_arena_release(&scratch);
    return code;
}

mq_code mq_net_choose_stage(mq_net *net, mq_error *err)
{
    uint32_t cuts[MQ_NET_SLOTS_MAX] = {0};
    const mq_program *p = &net->program;
    uint32_t stage = net->options.stage, count = net->options.stage_count;
    if (p->step_count < count) {
        return mq_fail(err, MQ_E_ARG, "%u stages for a graph of %u steps", count, p->step_count);
    }
    mq_code code = choose_cuts(net, cuts, err);
    if (code != MQ_OK) {
        return code;
    }
    net->first = stage == 0 ? 0 : cuts[stage - 1];
    net->last = stage + 1 == count ? p->step_count : cuts[stage];
    net->input = stage == 0 ? p->inputs[0] : crossing(net, net->first - 1);
    net->output = stage + 1 == count ? p->outputs[0] : crossing(net, net->last - 1);
    return MQ_OK;
}

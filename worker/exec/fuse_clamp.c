/* Relu and Clip with constant bounds, as rules see them. */
#include "worker/exec/fuse.h"

/* One float, or omitted (then *out is kept). */
static bool scalar_of(const mq_program *p, const mq_step *step, uint32_t input, float *out)
{
    if (input >= step->input_count || step->inputs[input] == MQ_NO_VALUE) {
        return true;
    }
    const mq_value *v = &p->values[step->inputs[input]];
    if (v->kind != MQ_VALUE_CONST || v->tensor.dtype != MQ_DT_F32 || v->tensor.bytes != 4) {
        return false;
    }
    *out = *(const float *)v->tensor.data;
    return true;
}

bool mq_fuse_clamp(const mq_program *p, const mq_step *step, float *low, float *high)
{
    if (mq_fuse_is(step, "Relu")) {
        *low = 0.0f;
        return true;
    }
    if (!mq_fuse_is(step, "Clip")) {
        return false;
    }
    if (step->op->since >= 11) {
        return scalar_of(p, step, 1, low) && scalar_of(p, step, 2, high);
    }
    const mq_attr *min = mq_node_attr(step->node, "min"), *max = mq_node_attr(step->node, "max");
    *low = min == NULL ? *low : min->f;
    *high = max == NULL ? *high : max->f;
    return true;
}

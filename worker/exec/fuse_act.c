/* Activations that exporters write as several nodes, each as one kernel, and activations behind a
 * dense product as part of it. */
#include "worker/exec/fuse.h"
#include "worker/ops/dense.h"
#include "worker/ops/qmatmul.h"

static mq_code put_act(mq_program *p, uint32_t s, uint32_t x, mq_act act, bool *fired,
                       mq_error *err)
{
    mq_activate_attrs attrs = {(int64_t)act.kind, act.a, act.b};
    *fired = true;
    return mq_fuse_put(p, s, &mq_op_activate, &attrs, &x, 1, err);
}

/* --- GELU: x / 2 (1 + f(x)), f = erf or tanh of something --- */

/* The last step of the pattern whose f is step f: 1 is added to it, and it is multiplied by x and
 * 0.5 in any order. */
static uint32_t gelu_end(const mq_program *p, uint32_t f, uint32_t x)
{
    uint32_t add = mq_fuse_next(p, f, "Add");
    if (add == MQ_NO_VALUE ||
        !mq_fuse_is_number(p, mq_fuse_other(&p->steps[add], p->steps[f].outputs[0]), 1.0f)) {
        return MQ_NO_VALUE;
    }
    uint32_t mul = mq_fuse_next(p, add, "Mul");
    if (mul == MQ_NO_VALUE) {
        return MQ_NO_VALUE;
    }
    uint32_t by = mq_fuse_other(&p->steps[mul], p->steps[add].outputs[0]);
    uint32_t half = mq_fuse_maker(p, by, "Mul"); /* (x / 2) first */
    if (half != MQ_NO_VALUE && mq_fuse_uses(p, by, 1) &&
        mq_fuse_is_number(p, mq_fuse_other(&p->steps[half], x), 0.5f)) {
        return mul;
    }
    uint32_t last = mq_fuse_next(p, mul, "Mul");
    if (last == MQ_NO_VALUE) {
        return MQ_NO_VALUE;
    }
    uint32_t then = mq_fuse_other(&p->steps[last], p->steps[mul].outputs[0]);
    bool is_x_first = by == x && mq_fuse_is_number(p, then, 0.5f);
    bool is_half_first = then == x && mq_fuse_is_number(p, by, 0.5f);
    return is_x_first || is_half_first ? last : MQ_NO_VALUE;
}

static mq_code gelu_erf(mq_program *p, uint32_t s, bool *fired, mq_error *err)
{
    uint32_t v = p->steps[s].inputs[0], x = MQ_NO_VALUE;
    uint32_t div = mq_fuse_maker(p, v, "Div"), mul = mq_fuse_maker(p, v, "Mul");
    if (!mq_fuse_uses(p, v, 1)) {
        return MQ_OK;
    }
    if (div != MQ_NO_VALUE && mq_fuse_is_number(p, p->steps[div].inputs[1], 1.41421356f)) {
        x = p->steps[div].inputs[0];
    } else if (mul != MQ_NO_VALUE) {
        uint32_t first = mq_fuse_is_number(p, p->steps[mul].inputs[0], 0.70710678f);
        uint32_t second = mq_fuse_is_number(p, p->steps[mul].inputs[1], 0.70710678f);
        x = second ? p->steps[mul].inputs[0] : first ? p->steps[mul].inputs[1] : MQ_NO_VALUE;
    }
    uint32_t end = x == MQ_NO_VALUE ? MQ_NO_VALUE : gelu_end(p, s, x);
    return end == MQ_NO_VALUE ? MQ_OK
                              : put_act(p, end, x, (mq_act){.kind = MQ_ACT_GELU}, fired, err);
}

/* Value v as number times another value, alone: that one; else MQ_NO_VALUE. */
static uint32_t times(const mq_program *p, uint32_t v, float number)
{
    uint32_t mul = mq_fuse_maker(p, v, "Mul");
    if (mul == MQ_NO_VALUE || !mq_fuse_uses(p, v, 1)) {
        return MQ_NO_VALUE;
    }
    const uint32_t *in = p->steps[mul].inputs;
    return mq_fuse_is_number(p, in[1], number)   ? in[0]
           : mq_fuse_is_number(p, in[0], number) ? in[1]
                                                 : MQ_NO_VALUE;
}

/* x when v is x^3 as Pow(x, 3) or as products. */
static uint32_t cube_of(const mq_program *p, uint32_t v)
{
    uint32_t pow = mq_fuse_maker(p, v, "Pow"), mul = mq_fuse_maker(p, v, "Mul");
    if (!mq_fuse_uses(p, v, 1)) {
        return MQ_NO_VALUE;
    }
    if (pow != MQ_NO_VALUE && mq_fuse_is_number(p, p->steps[pow].inputs[1], 3.0f)) {
        return p->steps[pow].inputs[0];
    }
    for (uint32_t i = 0; mul != MQ_NO_VALUE && i < 2; i++) {
        uint32_t square = mq_fuse_maker(p, p->steps[mul].inputs[i], "Mul");
        uint32_t x = p->steps[mul].inputs[1 - i];
        if (square != MQ_NO_VALUE && mq_fuse_uses(p, p->steps[mul].inputs[i], 1) &&
            p->steps[square].inputs[0] == x && p->steps[square].inputs[1] == x) {
            return x;
        }
    }
    return MQ_NO_VALUE;
}

static mq_code gelu_tanh(mq_program *p, uint32_t s, bool *fired, mq_error *err)
{
    uint32_t sum = times(p, p->steps[s].inputs[0], 0.797884561f);
    uint32_t add = mq_fuse_maker(p, sum, "Add");
    if (add == MQ_NO_VALUE || !mq_fuse_uses(p, sum, 1)) {
        return MQ_OK;
    }
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t x = p->steps[add].inputs[i];
        if (cube_of(p, times(p, p->steps[add].inputs[1 - i], 0.044715f)) != x) {
            continue;
        }
        uint32_t end = gelu_end(p, s, x);
        return end == MQ_NO_VALUE
                   ? MQ_OK
                   : put_act(p, end, x, (mq_act){.kind = MQ_ACT_GELU_TANH}, fired, err);
    }
    return MQ_OK;
}

mq_code mq_fuse_gelu(mq_program *p, uint32_t s, bool *fired, mq_error *err)
{
    if (mq_fuse_is(&p->steps[s], "Erf")) {
        return gelu_erf(p, s, fired, err);
    }
    return mq_fuse_is(&p->steps[s], "Tanh") ? gelu_tanh(p, s, fired, err) : MQ_OK;
}

/* --- x sigmoid(a x), x hardsigmoid(x) --- */

static void hard_factors(const mq_node *node, mq_act *act)
{
    const mq_attr *alpha = mq_node_attr(node, "alpha"), *beta = mq_node_attr(node, "beta");
    act->a = alpha == NULL ? 0.2f : alpha->f;
    act->b = beta == NULL ? 0.5f : beta->f;
}

mq_code mq_fuse_silu(mq_program *p, uint32_t s, bool *fired, mq_error *err)
{
    mq_act act = {MQ_ACT_SILU, 1.0f, 0.0f};
    uint32_t mul = mq_fuse_next(p, s, "Mul"), x = p->steps[s].inputs[0];
    bool is_hard = mq_fuse_is(&p->steps[s], "HardSigmoid");
    if ((!is_hard && !mq_fuse_is(&p->steps[s], "Sigmoid")) || mul == MQ_NO_VALUE ||
        mq_fuse_has_double(p)) {
        return MQ_OK;
    }
    uint32_t by = mq_fuse_other(&p->steps[mul], p->steps[s].outputs[0]);
    if (is_hard) {
        act.kind = MQ_ACT_HARD_SWISH;
        hard_factors(p->steps[s].node, &act);
    } else if (by != x) { /* sigmoid of a multiple */
        uint32_t inner = mq_fuse_maker(p, x, "Mul");
        bool fits = inner != MQ_NO_VALUE && mq_fuse_uses(p, x, 1) &&
                    mq_fuse_number(p, mq_fuse_other(&p->steps[inner], by), &act.a);
        x = fits ? by : MQ_NO_VALUE;
    }
    return by == x && x != MQ_NO_VALUE ? put_act(p, mul, x, act, fired, err) : MQ_OK;
}

/* --- Clip(x + c, 0, d) / d, and times x --- */

/* Bounds of a Clip; false when they are not constant. */
static bool clip_bounds(const mq_program *p, const mq_step *step, mq_act *act)
{
    *act = (mq_act){MQ_ACT_CLIP, -3.402823466e38f, 3.402823466e38f};
    if (step->op->since < 11) {
        const mq_attr *low = mq_node_attr(step->node, "min");
        const mq_attr *high = mq_node_attr(step->node, "max");
        act->a = low == NULL ? act->a : low->f;
        act->b = high == NULL ? act->b : high->f;
        return act->a <= act->b;
    }
    for (uint32_t i = 1; i < step->input_count; i++) {
        if (step->inputs[i] != MQ_NO_VALUE &&
            !mq_fuse_number(p, step->inputs[i], i == 1 ? &act->a : &act->b)) {
            return false;
        }
    }
    return act->a <= act->b;
}

/* The step that divides s's output by `by`, as Div or Mul. */
static uint32_t divided(const mq_program *p, uint32_t s, float by)
{
    uint32_t div = mq_fuse_next(p, s, "Div"), mul = mq_fuse_next(p, s, "Mul");
    uint32_t v = p->steps[s].outputs[0];
    if (div != MQ_NO_VALUE && p->steps[div].inputs[0] == v &&
        mq_fuse_is_number(p, p->steps[div].inputs[1], by)) {
        return div;
    }
    return mul != MQ_NO_VALUE && mq_fuse_is_number(p, mq_fuse_other(&p->steps[mul], v), 1.0f / by)
               ? mul
               : MQ_NO_VALUE;
}

mq_code mq_fuse_clip(mq_program *p, uint32_t s, bool *fired, mq_error *err)
{
    mq_act clip;
    float c;
    if (!mq_fuse_is(&p->steps[s], "Clip") || !clip_bounds(p, &p->steps[s], &clip) ||
        clip.a != 0.0f || !(clip.b > 0.0f)) {
        return MQ_OK;
    }
    uint32_t v = p->steps[s].inputs[0], add = mq_fuse_maker(p, v, "Add");
    if (add == MQ_NO_VALUE || !mq_fuse_uses(p, v, 1)) {
        return MQ_OK;
    }
    const uint32_t *in = p->steps[add].inputs;
    uint32_t x = mq_fuse_number(p, in[1], &c)   ? in[0]
                 : mq_fuse_number(p, in[0], &c) ? in[1]
                                                : MQ_NO_VALUE;
    mq_act act = {MQ_ACT_HARD_SIGMOID, 1.0f / clip.b, c / clip.b};
    uint32_t end = x == MQ_NO_VALUE ? MQ_NO_VALUE : divided(p, s, clip.b);
    if (end != MQ_NO_VALUE) {
        uint32_t mul = mq_fuse_next(p, end, "Mul");
        if (mul != MQ_NO_VALUE && mq_fuse_other(&p->steps[mul], p->steps[end].outputs[0]) == x) {
            act.kind = MQ_ACT_HARD_SWISH;
            end = mul;
        }
        return put_act(p, end, x, act, fired, err);
    }
    uint32_t mul = x == MQ_NO_VALUE ? MQ_NO_VALUE : mq_fuse_next(p, s, "Mul");
    if (mul != MQ_NO_VALUE && mq_fuse_other(&p->steps[mul], p->steps[s].outputs[0]) == x) {
        end = divided(p, mul, clip.b);
        act.kind = MQ_ACT_HARD_SWISH;
    }
    return end == MQ_NO_VALUE ? MQ_OK : put_act(p, end, x, act, fired, err);
}

/* --- behind a dense product --- */

/* The activation that a step is; kind NONE: it is none that a kernel can take over. */
static mq_act act_of(const mq_program *p, const mq_step *step)
{
    static const struct {
        const char *name;
        mq_act act;
    } plain[] = {
        {"Relu", {MQ_ACT_RELU, 0.0f, 0.0f}},
        {"Sigmoid", {MQ_ACT_SIGMOID, 0.0f, 0.0f}},
        {"Tanh", {MQ_ACT_TANH, 0.0f, 0.0f}},
        {"HardSwish", {MQ_ACT_HARD_SWISH, 1.0f / 6.0f, 0.5f}},
    };
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        if (mq_fuse_is(step, plain[i].name)) {
            return plain[i].act;
        }
    }
    mq_act act = {.kind = MQ_ACT_NONE};
    if (step->op == &mq_op_activate) {
        const mq_activate_attrs *a = step->attrs;
        return (mq_act){(mq_activation)a->kind, a->a, a->b};
    }
    if (mq_fuse_is(step, "Clip") && !clip_bounds(p, step, &act)) {
        act.kind = MQ_ACT_NONE;
    } else if (mq_fuse_is(step, "LeakyRelu")) {
        const mq_attr *alpha = mq_node_attr(step->node, "alpha");
        act = (mq_act){MQ_ACT_LEAKY_RELU, alpha == NULL ? 0.01f : alpha->f, 0.0f};
    } else if (mq_fuse_is(step, "HardSigmoid")) {
        act.kind = MQ_ACT_HARD_SIGMOID;
        hard_factors(step->node, &act);
    } else if (mq_fuse_is(step, "Gelu")) {
        const mq_attr *kind = mq_node_attr(step->node, "approximate");
        act.kind = kind != NULL && mq_span_is(kind->s, "tanh") ? MQ_ACT_GELU_TANH : MQ_ACT_GELU;
    }
    return act;
}

mq_code mq_fuse_dense_act(mq_program *p, uint32_t s, bool *fired, mq_error *err)
{
    const mq_step *step = &p->steps[s];
    bool is_int8 = step->op == &mq_op_qdense;
    uint32_t r = is_int8 || step->op == &mq_op_dense ? mq_fuse_reader(p, s) : MQ_NO_VALUE;
    if (r == MQ_NO_VALUE || p->steps[r].inputs[0] != step->outputs[0]) {
        return MQ_OK;
    }
    mq_dense_attrs dense = {.act = MQ_ACT_NONE};
    mq_qdense_attrs quantized = {.act = MQ_ACT_NONE};
    if (is_int8) {
        quantized = *(const mq_qdense_attrs *)step->attrs;
    } else {
        dense = *(const mq_dense_attrs *)step->attrs;
    }
    mq_act act = act_of(p, &p->steps[r]);
    if (act.kind == MQ_ACT_NONE || dense.act != MQ_ACT_NONE || quantized.act != MQ_ACT_NONE) {
        return MQ_OK;
    }
    dense.act = quantized.act = act.kind;
    dense.a = quantized.a = act.a;
    dense.b = quantized.b = act.b;
    *fired = true;
    return mq_fuse_put(p, r, step->op, is_int8 ? (const void *)&quantized : &dense, step->inputs,
                       step->input_count, err);
}

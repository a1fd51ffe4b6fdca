/* The chain that dynamic quantization writes, as one kernel:
 *
 *   x -> DynamicQuantizeLinear -> (q, s, z);   q, W, z, wz -> MatMulInteger -> Cast -> c
 *   s, ws -> Mul -> m;   c, m -> Mul -> (Add bias) -> (Relu)
 *
 * Every value between must have this one reader, but for q, s and z. */
#include "worker/exec/fuse.h"
#include "worker/ops/qmatmul.h"

typedef struct chain {
    uint32_t quantize, product, cast, scale, mul, add, relu; /* steps, MQ_NO_VALUE: not there */
    uint32_t x, w, w_zero, w_scale, bias;                    /* values */
} chain;

static bool is_alone(const mq_program *p, uint32_t v)
{
    return v != MQ_NO_VALUE && p->values[v].uses == 1 && !p->values[v].is_output;
}

static uint32_t maker(const mq_program *p, uint32_t v, const char *name)
{
    if (v == MQ_NO_VALUE || p->values[v].kind != MQ_VALUE_STEP) {
        return MQ_NO_VALUE;
    }
    uint32_t s = p->values[v].source;
    return mq_fuse_is(&p->steps[s], name) ? s : MQ_NO_VALUE;
}

/* The other operand of a step with two. */
static uint32_t other(const mq_step *step, uint32_t v)
{
    return step->input_count != 2 ? MQ_NO_VALUE : step->inputs[step->inputs[0] == v ? 1 : 0];
}

static bool is_constant(const mq_program *p, uint32_t v)
{
    return v != MQ_NO_VALUE && p->values[v].kind == MQ_VALUE_CONST;
}

static size_t count_of(const mq_program *p, uint32_t v)
{
    return p->values[v].tensor.bytes / mq_dtype_bytes(p->values[v].tensor.dtype);
}

static bool find_product(const mq_program *p, uint32_t s, chain *c)
{
    const mq_step *step = &p->steps[s];
    c->product = s;
    c->quantize = maker(p, step->inputs[0], "DynamicQuantizeLinear");
    c->w = step->inputs[1];
    c->w_zero = step->input_count > 3 ? step->inputs[3] : MQ_NO_VALUE;
    if (c->quantize == MQ_NO_VALUE || step->input_count < 3 || !is_constant(p, c->w) ||
        p->values[c->w].tensor.shape.rank != 2 ||
        (c->w_zero != MQ_NO_VALUE && !is_constant(p, c->w_zero))) {
        return false;
    }
    const mq_step *q = &p->steps[c->quantize];
    c->x = q->inputs[0];
    if (q->output_count != 3) {
        return false;
    }
    /* Other products may read the quantized rows too (query, key and value of attention): each then
     * quantizes them by itself, which costs less than passing 32-bit results on. */
    return step->inputs[0] == q->outputs[0] && step->inputs[2] == q->outputs[2];
}

static bool find_scaling(const mq_program *p, chain *c)
{
    c->cast = mq_fuse_reader(p, c->product);
    if (c->cast == MQ_NO_VALUE || !mq_fuse_is(&p->steps[c->cast], "Cast")) {
        return false;
    }
    const mq_attr *to = mq_node_attr(p->steps[c->cast].node, "to");
    c->mul = mq_fuse_reader(p, c->cast);
    if (to == NULL || to->i != MQ_DT_F32 || c->mul == MQ_NO_VALUE ||
        !mq_fuse_is(&p->steps[c->mul], "Mul") || p->steps[c->mul].op->since < 7) {
        return false;
    }
    uint32_t m = other(&p->steps[c->mul], p->steps[c->cast].outputs[0]);
    c->scale = maker(p, m, "Mul");
    if (c->scale == MQ_NO_VALUE || !is_alone(p, m)) {
        return false;
    }
    uint32_t s = p->steps[c->quantize].outputs[1];
    const mq_step *scale = &p->steps[c->scale];
    c->w_scale = other(scale, s);
    bool reads_s = scale->inputs[0] == s || scale->inputs[1] == s;
    size_t n = (size_t)p->values[c->w].tensor.shape.dims[1];
    return reads_s && is_constant(p, c->w_scale) &&
           p->values[c->w_scale].tensor.dtype == MQ_DT_F32 &&
           p->values[c->w_scale].tensor.shape.rank <= 1 &&
           (count_of(p, c->w_scale) == 1 || count_of(p, c->w_scale) == n);
}

static void find_tail(const mq_program *p, chain *c)
{
    uint32_t last = c->mul, r = mq_fuse_reader(p, last);
    c->add = MQ_NO_VALUE;
    c->relu = MQ_NO_VALUE;
    c->bias = MQ_NO_VALUE;
    if (r != MQ_NO_VALUE && mq_fuse_is(&p->steps[r], "Add") && p->steps[r].op->since >= 7) {
        uint32_t bias = other(&p->steps[r], p->steps[last].outputs[0]);
        if (is_constant(p, bias) && p->values[bias].tensor.dtype == MQ_DT_F32 &&
            p->values[bias].tensor.shape.rank == 1 &&
            p->values[bias].tensor.shape.dims[0] == p->values[c->w].tensor.shape.dims[1]) {
            c->add = r;
            c->bias = bias;
            last = r;
            r = mq_fuse_reader(p, last);
        }
    }
    if (r != MQ_NO_VALUE && mq_fuse_is(&p->steps[r], "Relu")) {
        c->relu = r;
    }
}

mq_code mq_fuse_quantized(mq_program *p, uint32_t s, mq_error *err)
{
    chain c;
    if (!mq_fuse_is(&p->steps[s], "MatMulInteger") || !find_product(p, s, &c) ||
        !find_scaling(p, &c)) {
        return MQ_OK;
    }
    find_tail(p, &c);
    mq_qdense_attrs *attrs = mq_arena_new(p->arena, mq_qdense_attrs, 1);
    uint32_t *inputs = mq_arena_new(p->arena, uint32_t, 5);
    if (attrs == NULL || inputs == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for fusion");
    }
    attrs->act = c.relu == MQ_NO_VALUE ? MQ_ACT_NONE : MQ_ACT_RELU;
    memcpy(inputs, (const uint32_t[]){c.x, c.w, c.w_zero, c.w_scale, c.bias}, 5 * sizeof *inputs);
    uint32_t last = c.relu != MQ_NO_VALUE ? c.relu : c.add != MQ_NO_VALUE ? c.add : c.mul;
    const uint32_t gone[] = {c.product, c.cast, c.scale, c.mul, c.add, c.relu}; /* not c.quantize */
    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++) {
        if (gone[i] != MQ_NO_VALUE && gone[i] != last) {
            p->steps[gone[i]].op = NULL;
            p->fused_count++;
        }
    }
    mq_step *step = &p->steps[last]; /* where all of its inputs are there */
    step->op = &mq_op_qdense;
    step->attrs = attrs;
    step->inputs = inputs;
    step->input_count = c.bias == MQ_NO_VALUE ? 4 : 5;
    return MQ_OK;
}

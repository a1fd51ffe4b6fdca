/* Attention as exporters write it: MatMul, a factor, a mask, Softmax, MatMul, with the
 * transpositions of their operands and of the result, as one kernel that makes none of them. */
#include "worker/exec/fuse.h"
#include "worker/ops/heads.h"

typedef struct pattern {
    uint32_t q, k, v, mask; /* values */
    uint32_t end;           /* the last step */
    size_t rank;            /* of the products, as far as a transposition says it; 0: unknown */
    mq_heads_attrs attrs;
} pattern;

/* The permutation of a Transpose that says it, in *perm; its rank must be that of the others. */
static bool take_perm(const mq_program *p, uint32_t s, pattern *at, mq_ints *perm)
{
    const mq_attr *attr = mq_node_attr(p->steps[s].node, "perm");
    if (attr == NULL || attr->count < 2 || (at->rank != 0 && at->rank != attr->count)) {
        return false;
    }
    at->rank = attr->count;
    *perm = (mq_ints){attr->ints, attr->count, true};
    return true;
}

/* A factor that v was multiplied with, taken off: v's other operand, and *scale. */
static uint32_t without_factor(const mq_program *p, uint32_t v, float *scale)
{
    float f;
    uint32_t mul = mq_fuse_maker(p, v, "Mul"), div = mq_fuse_maker(p, v, "Div");
    if (!mq_fuse_uses(p, v, 1)) {
        return v;
    }
    if (mul != MQ_NO_VALUE) {
        for (uint32_t i = 0; i < 2; i++) {
            if (mq_fuse_number(p, p->steps[mul].inputs[i], &f)) {
                *scale *= f;
                return p->steps[mul].inputs[1 - i];
            }
        }
    } else if (div != MQ_NO_VALUE && mq_fuse_number(p, p->steps[div].inputs[1], &f) && f != 0.0f) {
        *scale /= f;
        return p->steps[div].inputs[0];
    }
    return v;
}

/* An operand without its factor and transposition. */
static uint32_t operand(const mq_program *p, uint32_t v, pattern *at, mq_ints *perm)
{
    v = without_factor(p, v, &at->attrs.scale);
    uint32_t s = mq_fuse_maker(p, v, "Transpose");
    if (s == MQ_NO_VALUE || !mq_fuse_uses(p, v, 1) || !take_perm(p, s, at, perm)) {
        return v;
    }
    return without_factor(p, p->steps[s].inputs[0], &at->attrs.scale);
}

/* From the softmax's input back to q and k. */
static bool find_scores(const mq_program *p, uint32_t v, pattern *at)
{
    at->mask = MQ_NO_VALUE;
    v = without_factor(p, v, &at->attrs.scale);
    uint32_t add = mq_fuse_maker(p, v, "Add");
    if (add != MQ_NO_VALUE) {
        bool is_plain = at->attrs.scale == 1.0f && mq_fuse_uses(p, v, 1);
        for (uint32_t i = 0; i < 2 && is_plain; i++) {
            float scale = 1.0f;
            uint32_t scores = without_factor(p, p->steps[add].inputs[i], &scale);
            if (mq_fuse_maker(p, scores, "MatMul") != MQ_NO_VALUE) {
                at->mask = p->steps[add].inputs[1 - i];
                at->attrs.scale = scale;
                v = scores;
                break;
            }
        }
    }
    uint32_t product = mq_fuse_maker(p, v, "MatMul");
    if (product == MQ_NO_VALUE || !mq_fuse_uses(p, v, 1)) {
        return false;
    }
    at->q = operand(p, p->steps[product].inputs[0], at, &at->attrs.perm_q);
    at->k = operand(p, p->steps[product].inputs[1], at, &at->attrs.perm_k);
    return true;
}

/* From the softmax on to v and the end. */
static bool find_result(const mq_program *p, uint32_t s, pattern *at)
{
    uint32_t product = mq_fuse_next(p, s, "MatMul");
    if (product == MQ_NO_VALUE || p->steps[product].inputs[0] != p->steps[s].outputs[0]) {
        return false;
    }
    float none = at->attrs.scale; /* a factor of v is another thing */
    at->v = p->steps[product].inputs[1];
    uint32_t turned = mq_fuse_maker(p, at->v, "Transpose");
    if (turned != MQ_NO_VALUE && mq_fuse_uses(p, at->v, 1) &&
        take_perm(p, turned, at, &at->attrs.perm_v)) {
        at->v = p->steps[turned].inputs[0];
    }
    at->attrs.scale = none;
    at->end = product;
    uint32_t back = mq_fuse_next(p, product, "Transpose");
    mq_ints perm;
    if (back != MQ_NO_VALUE && take_perm(p, back, at, &perm) &&
        perm.at[perm.count - 1] == (int64_t)perm.count - 1) {
        at->attrs.perm_y = perm;
        at->end = back;
    }
    return true;
}

mq_code mq_fuse_attention(mq_program *p, uint32_t s, bool *fired, mq_error *err)
{
    pattern at = {.attrs = {.scale = 1.0f}};
    const mq_step *step = &p->steps[s];
    if (!mq_fuse_is(step, "Softmax") || mq_fuse_has_double(p) ||
        !find_scores(p, step->inputs[0], &at) || !find_result(p, s, &at)) {
        return MQ_OK;
    }
    const mq_attr *axis = mq_node_attr(step->node, "axis");
    int64_t along = axis != NULL ? axis->i : step->op->since >= 13 ? -1 : 1;
    if (at.rank == 0 || (along != -1 && along != (int64_t)at.rank - 1)) {
        return MQ_OK; /* nothing says the rank, or it is not the keys that are normalized */
    }
    *fired = true;
    const uint32_t inputs[] = {at.q, at.k, at.v, at.mask};
    return mq_fuse_put(p, at.end, &mq_op_heads, &at.attrs, inputs, at.mask == MQ_NO_VALUE ? 3 : 4,
                       err);
}

/* Joining steps. Each rule looks at one step and the only reader of its output; what it makes is an
 * internal operator of worker/ops. Arithmetic is the same in the same order, so bits do not change
 * with fusion but for the last rounding of a bias added inside a product. */
#include "worker/exec/fuse.h"
#include "shared/base/assert.h"
#include "worker/ops/dense.h"
#include "worker/ops/gemm.h"

static bool is_fixed(const mq_program *p, uint32_t v)
{
    return v != MQ_NO_VALUE &&
           (p->values[v].kind == MQ_VALUE_CONST || p->values[v].kind == MQ_VALUE_PARAM);
}

static bool is_f32(const mq_program *p, uint32_t v, int32_t rank)
{
    return is_fixed(p, v) && p->values[v].tensor.dtype == MQ_DT_F32 &&
           p->values[v].tensor.shape.rank == rank;
}

/* Step s takes over the output of the step that read it. */
static void take_over(mq_program *p, uint32_t s, uint32_t reader)
{
    p->steps[s].outputs = p->steps[reader].outputs;
    p->values[p->steps[s].outputs[0]].source = s;
    p->steps[reader].op = NULL;
    p->fused_count++;
}

static mq_code make_dense(mq_program *p, mq_step *step, bool is_transposed, mq_error *err)
{
    mq_dense_attrs *attrs = mq_arena_new(p->arena, mq_dense_attrs, 1);
    if (attrs == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for fusion");
    }
    attrs->is_transposed = is_transposed;
    step->attrs = attrs;
    step->op = &mq_op_dense;
    return MQ_OK;
}

/* Gemm with a constant matrix, plain factors and a bias per column. */
static mq_code fuse_gemm(mq_program *p, mq_step *step, mq_error *err)
{
    const mq_gemm_attrs *a = step->attrs;
    uint32_t w = step->inputs[1], c = step->input_count > 2 ? step->inputs[2] : MQ_NO_VALUE;
    if (a->trans_a != 0 || a->alpha != 1.0f || !is_f32(p, w, 2)) {
        return MQ_OK;
    }
    int64_t n = p->values[w].tensor.shape.dims[a->trans_b != 0 ? 0 : 1];
    if (c != MQ_NO_VALUE &&
        (a->beta != 1.0f || !is_f32(p, c, 1) || p->values[c].tensor.shape.dims[0] != n)) {
        return MQ_OK;
    }
    return make_dense(p, step, a->trans_b != 0, err);
}

/* MatMul with a constant matrix, and the Add of a constant row behind it. */
static mq_code fuse_matmul(mq_program *p, uint32_t s, mq_error *err)
{
    mq_step *step = &p->steps[s];
    uint32_t w = step->inputs[1];
    if (!is_f32(p, w, 2)) {
        return MQ_OK;
    }
    int64_t n = p->values[w].tensor.shape.dims[1];
    mq_code code = make_dense(p, step, false, err);
    uint32_t r = mq_fuse_reader(p, s);
    if (code != MQ_OK || r == MQ_NO_VALUE || !mq_fuse_is(&p->steps[r], "Add") ||
        p->steps[r].op->since < 7) {
        return code;
    }
    uint32_t v = step->outputs[0];
    uint32_t bias = p->steps[r].inputs[p->steps[r].inputs[0] == v ? 1 : 0];
    if (bias != v && is_f32(p, bias, 1) && p->values[bias].tensor.shape.dims[0] == n) {
        step->inputs[2] = bias; /* bind_node left room for one more */
        step->input_count = 3;
        take_over(p, s, r);
    }
    return MQ_OK;
}

static void fuse_activation(mq_program *p, uint32_t s)
{
    uint32_t r = mq_fuse_reader(p, s);
    if (r != MQ_NO_VALUE && mq_fuse_is(&p->steps[r], "Relu")) {
        mq_dense_attrs *attrs = mq_arena_new(p->arena, mq_dense_attrs, 1);
        if (attrs == NULL) {
            return; /* two kernels do it as well */
        }
        *attrs = *(const mq_dense_attrs *)p->steps[s].attrs;
        attrs->act = MQ_ACT_RELU;
        p->steps[s].attrs = attrs;
        take_over(p, s, r);
    }
}

mq_code mq_program_fuse(mq_program *p, mq_error *err)
{
    for (uint32_t s = 0; s < p->step_count; s++) {
        mq_code code = MQ_OK;
        if (mq_fuse_is(&p->steps[s], "Gemm")) {
            code = fuse_gemm(p, &p->steps[s], err);
        } else if (mq_fuse_is(&p->steps[s], "MatMul")) {
            code = fuse_matmul(p, s, err);
        } else {
            code = mq_fuse_quantized(p, s, err);
        }
        if (code != MQ_OK) {
            return code;
        }
        if (p->steps[s].op == &mq_op_dense) {
            fuse_activation(p, s);
        }
    }
    mq_program_compact(p);
    return mq_program_each_body(p, mq_program_fuse, err);
}

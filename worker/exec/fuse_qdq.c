/* Models quantized as DequantizeLinear, operator, QuantizeLinear: the operator on bytes.
 *
 *   DQ(x) -> Conv(., DQ(W), DQ(b)) -> (Relu, Clip) -> Q    QLinearConv
 *   DQ(a), DQ(b) -> Add -> (Relu) -> Q                     QLinearAdd
 *
 * Before constants are folded, which would turn W into floats. A Relu or Clip goes when the range
 * of the quantized result implies it. A bias becomes a whole number of accumulator steps (x scale
 * times W scale), whatever its own scale was. */
#include "worker/exec/fuse.h"

#include <math.h>

#include "worker/dnnl/dnnl.h"
#include "worker/ops/window.h"

/* A DequantizeLinear or QuantizeLinear: values. */
typedef struct quantized {
    uint32_t data, scale, zero;
} quantized;

static const mq_tensor *constant(const mq_program *p, uint32_t v)
{
    bool is_constant = v != MQ_NO_VALUE && p->values[v].kind == MQ_VALUE_CONST;
    return is_constant ? &p->values[v].tensor : NULL;
}

/* Of a value that is known to be one. */
static const mq_tensor *known(const mq_program *p, uint32_t v)
{
    return &p->values[v].tensor;
}

static size_t count_of(const mq_tensor *t)
{
    return t->bytes / mq_dtype_bytes(t->dtype);
}

/* The step that makes the value, when it is this operator. */
static uint32_t maker(const mq_program *p, uint32_t v, const char *name)
{
    if (v == MQ_NO_VALUE || p->values[v].kind != MQ_VALUE_STEP) {
        return MQ_NO_VALUE;
    }
    uint32_t s = p->values[v].source;
    return mq_fuse_is(&p->steps[s], name) ? s : MQ_NO_VALUE;
}

/* Constant scale and zero point, one each or (many) one for each index of axis 0. */
static bool is_quantized(const mq_program *p, const mq_step *step, bool may_be_many, quantized *out)
{
    if (step->input_count != 3 || step->output_count != 1) {
        return false;
    }
    *out = (quantized){step->inputs[0], step->inputs[1], step->inputs[2]};
    const mq_tensor *scale = constant(p, out->scale), *zero = constant(p, out->zero);
    if (scale == NULL || zero == NULL || scale->dtype != MQ_DT_F32 ||
        count_of(scale) != count_of(zero)) {
        return false;
    }
    const mq_attr *axis = mq_node_attr(step->node, "axis");
    const mq_attr *block = mq_node_attr(step->node, "block_size");
    bool is_one = count_of(scale) == 1 && scale->shape.rank <= 1;
    bool is_by_map = scale->shape.rank == 1 && axis != NULL && axis->i == 0;
    return (is_one || (may_be_many && is_by_map)) && (block == NULL || block->i == 0);
}

static bool dequantized(const mq_program *p, uint32_t v, bool may_be_many, quantized *out)
{
    uint32_t s = maker(p, v, "DequantizeLinear");
    if (s == MQ_NO_VALUE || !is_quantized(p, &p->steps[s], may_be_many, out)) {
        return false;
    }
    mq_dtype type = known(p, out->zero)->dtype;
    return type == MQ_DT_U8 || type == MQ_DT_I8;
}

/* Does quantizing saturate at or above `low`, at or below `high`? To half a step. */
static bool implies(const mq_program *p, const quantized *q, float low, float high)
{
    const mq_tensor *zero = known(p, q->zero);
    float scale = *(const float *)known(p, q->scale)->data;
    bool is_signed = zero->dtype == MQ_DT_I8;
    float z = is_signed ? (float)*(const int8_t *)zero->data : (float)*(const uint8_t *)zero->data;
    float least = ((is_signed ? -128.0f : 0.0f) - z) * scale;
    float most = ((is_signed ? 127.0f : 255.0f) - z) * scale;
    return least >= low - scale * 0.5f && most <= high + scale * 0.5f;
}

/* The step that computes what QuantizeLinear s quantizes, behind clamps that go; MQ_NO_VALUE. */
static uint32_t source_of(mq_program *p, uint32_t s, const quantized *q, uint32_t *clamp)
{
    uint32_t v = q->data;
    *clamp = MQ_NO_VALUE;
    for (int i = 0; i < 2; i++) {
        const mq_value *value = &p->values[v];
        if (value->kind != MQ_VALUE_STEP || value->uses != 1 || value->is_output ||
            value->reader != (i == 0 ? s : *clamp)) {
            return MQ_NO_VALUE;
        }
        const mq_step *step = &p->steps[value->source];
        float low = -INFINITY, high = INFINITY;
        if (i == 1 || !mq_fuse_clamp(p, step, &low, &high)) {
            return value->source;
        }
        if (!implies(p, q, low, high)) {
            return MQ_NO_VALUE;
        }
        *clamp = value->source;
        v = step->inputs[0];
    }
    return MQ_NO_VALUE;
}

static bool add_constant(mq_program *p, mq_dtype dtype, int64_t count, uint32_t like, uint32_t *out)
{
    size_t bytes = (size_t)count * mq_dtype_bytes(dtype);
    void *data = mq_arena_alloc(p->arena, bytes + 1, 1);
    if (data == NULL) {
        return false;
    }
    *out = p->value_count++;
    p->values[*out] = (mq_value){.name = p->values[like].name, .kind = MQ_VALUE_CONST};
    p->values[*out].tensor = (mq_tensor){dtype, {1, {count}}, data, bytes};
    return true;
}

/* A bias of floats, or of int32 with a scale, in steps of x scale times W scale. */
static bool make_bias(mq_program *p, uint32_t v, const quantized *x, const quantized *w,
                      uint32_t *out)
{
    uint32_t s = maker(p, v, "DequantizeLinear");
    quantized b = {.data = v};
    if (s != MQ_NO_VALUE) {
        const mq_step *step = &p->steps[s];
        b = (quantized){step->inputs[0], step->inputs[1], MQ_NO_VALUE};
        const mq_tensor *zero = step->input_count > 2 ? constant(p, step->inputs[2]) : NULL;
        for (size_t i = 0; zero != NULL && zero->dtype == MQ_DT_I32 && i < count_of(zero); i++) {
            if (((const int32_t *)zero->data)[i] != 0) {
                return false;
            }
        }
    }
    const mq_tensor *data = constant(p, b.data);
    const mq_tensor *scale = s == MQ_NO_VALUE ? NULL : constant(p, b.scale);
    const mq_tensor *ws = known(p, w->scale), *kernels = known(p, w->data);
    mq_dtype due = s == MQ_NO_VALUE ? MQ_DT_F32 : MQ_DT_I32;
    size_t maps = (size_t)kernels->shape.dims[0];
    if (data == NULL || data->dtype != due || count_of(data) != maps ||
        (s != MQ_NO_VALUE && (scale == NULL || scale->dtype != MQ_DT_F32 ||
                              (count_of(scale) != 1 && count_of(scale) != maps)))) {
        return false;
    }
    if (!add_constant(p, MQ_DT_I32, (int64_t)maps, v, out)) {
        return false;
    }
    double xs = (double)*(const float *)known(p, x->scale)->data;
    for (size_t i = 0; i < maps; i++) {
        double step = xs * (double)((const float *)ws->data)[count_of(ws) == 1 ? 0 : i];
        double real = s == MQ_NO_VALUE
                          ? (double)((const float *)data->data)[i]
                          : (double)((const int32_t *)data->data)[i] *
                                (double)((const float *)scale->data)[count_of(scale) == 1 ? 0 : i];
        double whole = rint(real / step);
        if (!(fabs(whole) < 1073741824.0)) {
            return false;
        }
        ((int32_t *)p->values[*out].tensor.data)[i] = (int32_t)whole;
    }
    return true;
}

static mq_code no_memory(mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "no memory for fusion");
}

/* Step s, the QuantizeLinear, becomes the operator; what it stood behind goes. */
static mq_code become(mq_program *p, uint32_t s, const mq_op *op, const void *attrs,
                      const uint32_t *inputs, uint32_t count, mq_error *err)
{
    uint32_t *copy = mq_arena_new(p->arena, uint32_t, count);
    if (copy == NULL) {
        return no_memory(err);
    }
    memcpy(copy, inputs, count * sizeof *copy);
    mq_step *step = &p->steps[s];
    step->op = op;
    step->attrs = attrs;
    step->inputs = copy;
    step->input_count = step->formal_count = count;
    return MQ_OK;
}

static void drop(mq_program *p, uint32_t s)
{
    if (s != MQ_NO_VALUE) {
        p->steps[s].op = NULL;
        p->fused_count++;
    }
}

static mq_code fuse_conv(mq_program *p, uint32_t s, uint32_t c, uint32_t clamp, const quantized *y,
                         mq_error *err)
{
    const mq_step *conv = &p->steps[c];
    quantized x, w;
    uint32_t bias = MQ_NO_VALUE;
    if (!dequantized(p, conv->inputs[0], false, &x) || !dequantized(p, conv->inputs[1], true, &w) ||
        constant(p, w.data) == NULL || known(p, w.data)->shape.rank < 3 ||
        (count_of(known(p, w.scale)) != 1 &&
         (int64_t)count_of(known(p, w.scale)) != known(p, w.data)->shape.dims[0])) {
        return MQ_OK;
    }
    if (conv->input_count > 2 && !make_bias(p, conv->inputs[2], &x, &w, &bias)) {
        return MQ_OK;
    }
    const uint32_t inputs[] = {x.data, x.scale,  x.zero,  w.data, w.scale,
                               w.zero, y->scale, y->zero, bias};
    mq_code code =
        become(p, s, &mq_op_qlinear_conv, conv->attrs, inputs, bias == MQ_NO_VALUE ? 8 : 9, err);
    if (code == MQ_OK) {
        drop(p, c);
        drop(p, clamp);
    }
    return code;
}

static mq_code fuse_add(mq_program *p, uint32_t s, uint32_t c, uint32_t clamp, const quantized *y,
                        mq_error *err)
{
    quantized a, b;
    if (p->steps[c].op->since < 7 || !dequantized(p, p->steps[c].inputs[0], false, &a) ||
        !dequantized(p, p->steps[c].inputs[1], false, &b)) {
        return MQ_OK;
    }
    const uint32_t inputs[] = {a.data, a.scale, a.zero, b.data, b.scale, b.zero, y->scale, y->zero};
    mq_code code = become(p, s, &mq_op_qlinear_add, NULL, inputs, 8, err);
    if (code == MQ_OK) {
        drop(p, c);
        drop(p, clamp);
    }
    return code;
}

static mq_code fuse_step(mq_program *p, uint32_t s, mq_error *err)
{
    quantized y;
    uint32_t clamp;
    if (!mq_fuse_is(&p->steps[s], "QuantizeLinear") || !is_quantized(p, &p->steps[s], false, &y) ||
        (known(p, y.zero)->dtype != MQ_DT_U8 && known(p, y.zero)->dtype != MQ_DT_I8)) {
        return MQ_OK;
    }
    uint32_t c = source_of(p, s, &y, &clamp);
    if (c == MQ_NO_VALUE) {
        return MQ_OK;
    }
    if (mq_fuse_is(&p->steps[c], "Conv")) {
        return fuse_conv(p, s, c, clamp, &y, err);
    }
    return mq_fuse_is(&p->steps[c], "Add") ? fuse_add(p, s, c, clamp, &y, err) : MQ_OK;
}

mq_code mq_program_qdq(mq_program *p, mq_error *err)
{
    if (p->kernels != 0 || !mq_dnnl_has_bytes()) {
        return MQ_OK; /* floats are faster than our own convolution of bytes */
    }
    mq_value *more = mq_arena_new(p->arena, mq_value, (size_t)p->value_count + p->step_count + 1);
    if (more == NULL) {
        return no_memory(err);
    }
    memcpy(more, p->values, p->value_count * sizeof *more);
    p->values = more;
    mq_code code = MQ_OK;
    for (uint32_t s = 0; s < p->step_count && code == MQ_OK; s++) {
        code = p->steps[s].op == NULL ? MQ_OK : fuse_step(p, s, err);
    }
    mq_program_compact(p);
    return code;
}

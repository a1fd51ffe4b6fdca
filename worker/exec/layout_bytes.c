/* Quantized images stay [N, H, W, C] between convolutions and sums; a Transpose gives the plain
 * form, once, to whoever else reads one. Like layout.c, without shapes. */
#include "worker/dnnl/dnnl.h"
#include "worker/exec/fuse.h"
#include "worker/exec/layout.h"
#include "worker/ops/packed_q.h"

typedef struct pass {
    mq_program *p;
    bool *is_packed, *is_wanted; /* by value */
    uint32_t *plain;             /* by value: its plain copy, or MQ_NO_VALUE */
    mq_step *steps;
    uint32_t step_count;
    const mq_op *transpose;
    const void *to_plain; /* its attributes */
} pass;

/* A QLinearConv over two axes of which all but the image is constant. */
static bool is_conv(const mq_program *p, const mq_step *step)
{
    if (step->op != &mq_op_qlinear_conv) {
        return false;
    }
    for (uint32_t i = 1; i < step->input_count; i++) {
        if (step->inputs[i] == MQ_NO_VALUE || p->values[step->inputs[i]].kind != MQ_VALUE_CONST) {
            return false;
        }
    }
    return p->values[step->inputs[3]].tensor.shape.rank == 4;
}

static bool is_sum(const mq_step *step)
{
    return step->op == &mq_op_qlinear_add;
}

/* Marks what convolutions and sums read as images. */
static void find_wanted(pass *a)
{
    for (uint32_t s = 0; s < a->p->step_count; s++) {
        const mq_step *step = &a->p->steps[s];
        if (is_conv(a->p, step) || is_sum(step)) {
            a->is_wanted[step->inputs[0]] = true;
        }
        if (is_sum(step)) {
            a->is_wanted[step->inputs[3]] = true;
        }
    }
}

static mq_code no_memory(mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "no memory for the layout of a model");
}

static mq_code plain_of(pass *a, uint32_t v, const mq_node *node, uint32_t *out, mq_error *err)
{
    *out = v;
    if (v == MQ_NO_VALUE || !a->is_packed[v]) {
        return MQ_OK;
    }
    if (a->plain[v] == MQ_NO_VALUE) {
        uint32_t *ends = mq_arena_new(a->p->arena, uint32_t, 2);
        if (ends == NULL) {
            return no_memory(err);
        }
        ends[0] = v;
        ends[1] = a->p->value_count++;
        a->p->values[ends[1]] = (mq_value){
            .name = a->p->values[v].name, .kind = MQ_VALUE_STEP, .source = a->step_count};
        a->plain[v] = ends[1];
        a->steps[a->step_count++] = (mq_step){.op = a->transpose,
                                              .node = node,
                                              .attrs = a->to_plain,
                                              .inputs = ends,
                                              .outputs = ends + 1,
                                              .input_count = 1,
                                              .output_count = 1,
                                              .formal_count = 1};
    }
    *out = a->plain[v];
    return MQ_OK;
}

static mq_code put_conv(pass *a, uint32_t s, mq_error *err)
{
    mq_step step = a->p->steps[s];
    mq_packed_qconv_attrs *attrs = mq_arena_new(a->p->arena, mq_packed_qconv_attrs, 1);
    if (attrs == NULL) {
        return no_memory(err);
    }
    attrs->window = *(const mq_window_attrs *)step.attrs;
    attrs->x_is_packed = a->is_packed[step.inputs[0]];
    attrs->y_is_packed = a->is_wanted[step.outputs[0]];
    a->is_packed[step.outputs[0]] = attrs->y_is_packed != 0;
    step.op = &mq_op_packed_qconv;
    step.attrs = attrs;
    a->steps[a->step_count++] = step;
    return MQ_OK;
}

static mq_code put_step(pass *a, uint32_t s, mq_error *err)
{
    mq_step *step = &a->p->steps[s];
    if (is_conv(a->p, step)) {
        return put_conv(a, s, err);
    }
    bool is_packed_sum =
        is_sum(step) && a->is_packed[step->inputs[0]] && a->is_packed[step->inputs[3]];
    mq_code code = MQ_OK;
    for (uint32_t i = 0; i < step->input_count && !is_packed_sum && code == MQ_OK; i++) {
        code = plain_of(a, step->inputs[i], step->node, &step->inputs[i], err);
    }
    if (is_packed_sum) {
        a->is_packed[step->outputs[0]] = true;
    }
    a->steps[a->step_count++] = *step;
    return code;
}

static mq_code put_outputs(pass *a, mq_error *err)
{
    for (uint32_t i = 0; i < a->p->output_count; i++) {
        uint32_t v = a->p->outputs[i];
        if (!a->is_packed[v]) {
            continue;
        }
        const mq_node *node = a->steps[a->step_count - 1].node;
        mq_code code = plain_of(a, v, node, &a->p->outputs[i], err);
        if (code != MQ_OK) {
            return code;
        }
        a->p->values[v].is_output = false;
        a->p->values[a->p->outputs[i]].is_output = true;
    }
    return MQ_OK;
}

static mq_code begin(pass *a, mq_error *err)
{
    static const int64_t to_plain[] = {0, 3, 1, 2};
    mq_program *p = a->p;
    size_t values = (size_t)p->value_count * 2 + 1;
    mq_value *more = mq_arena_new(p->arena, mq_value, values);
    mq_node *node = mq_arena_new(p->arena, mq_node, 1);
    mq_attr *perm = mq_arena_new(p->arena, mq_attr, 1);
    const char **names = mq_arena_new(p->arena, const char *, 2);
    a->is_packed = mq_arena_new(p->arena, bool, values);
    a->is_wanted = mq_arena_new(p->arena, bool, values);
    a->plain = mq_arena_new(p->arena, uint32_t, values);
    a->steps = mq_arena_new(p->arena, mq_step, (size_t)p->step_count + values);
    if (more == NULL || node == NULL || perm == NULL || names == NULL || a->is_packed == NULL ||
        a->is_wanted == NULL || a->plain == NULL || a->steps == NULL || values >= UINT32_MAX) {
        return no_memory(err);
    }
    memcpy(more, p->values, p->value_count * sizeof *more);
    p->values = more;
    for (size_t v = 0; v < values; v++) {
        a->plain[v] = MQ_NO_VALUE;
    }
    names[0] = names[1] = "image";
    *perm = (mq_attr){.name = "perm", .type = MQ_ATTR_INTS, .count = 4, .ints = to_plain};
    *node = (mq_node){.op_type = "Transpose",
                      .domain = "",
                      .name = "",
                      .inputs = names,
                      .outputs = names + 1,
                      .attrs = perm,
                      .input_count = 1,
                      .output_count = 1,
                      .attr_count = 1};
    return mq_op_bind(node, 13, p->arena, &a->transpose, &a->to_plain, err);
}

mq_code mq_program_layout_bytes(mq_program *p, mq_error *err)
{
    pass a = {.p = p};
    bool has_conv = false;
    for (uint32_t s = 0; s < p->step_count; s++) {
        has_conv = has_conv || is_conv(p, &p->steps[s]);
    }
    if (!mq_dnnl_has_bytes() || p->kernels != 0 || !has_conv) {
        return MQ_OK;
    }
    mq_code code = begin(&a, err);
    if (code == MQ_OK) {
        find_wanted(&a);
    }
    for (uint32_t s = 0; s < p->step_count && code == MQ_OK; s++) {
        code = p->steps[s].op == NULL ? MQ_OK : put_step(&a, s, err);
    }
    code = code == MQ_OK ? put_outputs(&a, err) : code;
    if (code == MQ_OK) {
        p->steps = a.steps;
        p->step_count = a.step_count;
        mq_program_compact(p);
    }
    return code;
}

/* Which values are kept in packed layout, and what joins a convolution; see layout.h. Shapes are
 * not known here: what is known is channels (from weights) and which values have equal spatial
 * dimensions, because the same windows slid over the same image. */
#include "worker/exec/layout.h"

#include <math.h>

#include "shared/base/assert.h"
#include "worker/dnnl/dnnl.h"
#include "worker/exec/fuse.h"
#include "worker/ops/packed.h"

typedef enum role {
    ROLE_NONE,
    ROLE_CONV,
    ROLE_MAP,  /* element-wise: any layout, the same for all */
    ROLE_JOIN, /* Concat of channels */
    ROLE_POOL,
} role;

typedef struct image {
    bool wants;       /* some reader would take it packed */
    int64_t channels; /* above 0: it is packed */
    uint64_t area;    /* equal: equal spatial dimensions */
    uint32_t plain;   /* its plain copy, when one was made */
} image;

typedef struct pass {
    mq_program *p;
    image *images; /* by value */
    mq_step *steps;
    uint32_t step_count;
    int64_t block;
} pass;

/* --- what steps are --- */

static bool is_constant(const mq_program *p, uint32_t v)
{
    return v != MQ_NO_VALUE && p->values[v].kind == MQ_VALUE_CONST;
}

static const mq_tensor *constant(const mq_program *p, uint32_t v)
{
    return &p->values[v].tensor;
}

/* Can it be packed on both sides, as far as the weights say? */
static bool is_conv(const pass *a, const mq_step *step)
{
    if (!mq_fuse_is(step, "Conv") || !is_constant(a->p, step->inputs[1]) ||
        (step->input_count > 2 && !is_constant(a->p, step->inputs[2]))) {
        return false;
    }
    const mq_window_attrs *at = step->attrs;
    const mq_shape *w = &constant(a->p, step->inputs[1])->shape;
    if (constant(a->p, step->inputs[1])->dtype != MQ_DT_F32 || w->rank != 4 || at->group < 1 ||
        at->group > MQ_DIM_MAX || w->dims[1] < 1 || w->dims[0] < 1) {
        return false;
    }
    bool is_depthwise = w->dims[1] == 1 && w->dims[0] == at->group;
    bool has_blocks = w->dims[1] % a->block == 0 && w->dims[0] % (at->group * a->block) == 0;
    return at->group == 1 || is_depthwise || has_blocks;
}

static bool is_one_of(const mq_step *step, const char *const *names)
{
    for (size_t i = 0; names[i] != NULL; i++) {
        if (mq_fuse_is(step, names[i])) {
            return true;
        }
    }
    return false;
}

/* What fills up a last block must stay finite: no Div, Log, Exp, Pow. */
static const char *const unary[] = {"Relu", "LeakyRelu", "Sigmoid",     "Tanh",
                                    "Elu",  "HardSwish", "HardSigmoid", NULL};
static const char *const binary[] = {"Add", "Sub", "Mul", NULL};

static bool is_pool(const mq_step *step)
{
    static const char *const names[] = {"MaxPool", "AveragePool", "GlobalAveragePool", NULL};
    if (!is_one_of(step, names) || step->output_count != 1) {
        return false;
    }
    const mq_attr *counts = mq_node_attr(step->node, "count_include_pad");
    return counts == NULL || counts->i == 0;
}

static role role_of(const pass *a, const mq_step *step)
{
    float low = 0.0f, high = 0.0f;
    if (step->op == NULL || step->body_count > 0) {
        return ROLE_NONE;
    }
    if (is_conv(a, step)) {
        return ROLE_CONV;
    }
    if (is_pool(step)) {
        return ROLE_POOL;
    }
    if (step->op == &mq_op_activate || is_one_of(step, unary) ||
        mq_fuse_clamp(a->p, step, &low, &high) ||
        (is_one_of(step, binary) && step->op->since >= 7)) {
        return ROLE_MAP;
    }
    const mq_attr *axis = mq_fuse_is(step, "Concat") ? mq_node_attr(step->node, "axis") : NULL;
    return axis != NULL && axis->i == 1 ? ROLE_JOIN : ROLE_NONE;
}

/* From the last step to the first: who would like its input packed? */
static void find_wants(pass *a)
{
    for (uint32_t s = a->p->step_count; s-- > 0;) {
        const mq_step *step = &a->p->steps[s];
        role r = role_of(a, step);
        if (r == ROLE_CONV) {
            const mq_shape *w = &constant(a->p, step->inputs[1])->shape;
            int64_t channels = w->dims[1] * ((const mq_window_attrs *)step->attrs)->group;
            a->images[step->inputs[0]].wants |= channels >= a->block;
        } else if (r == ROLE_POOL || (r != ROLE_NONE && a->images[step->outputs[0]].wants)) {
            for (uint32_t i = 0; i < step->input_count; i++) {
                if (step->inputs[i] != MQ_NO_VALUE) {
                    a->images[step->inputs[i]].wants = true;
                }
            }
        }
    }
}

/* --- areas --- */

static uint64_t mixed(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

/* Of what a window makes of an area; `own` where that does not follow from the attributes. */
static uint64_t area_after(const mq_window_attrs *at, uint64_t area, const int64_t *kernel,
                           uint64_t own)
{
    bool is_plain = at->auto_pad.len == 0 || mq_span_is(at->auto_pad, "NOTSET");
    bool fits = (!at->strides.is_given || at->strides.count == 2) &&
                (!at->dilations.is_given || at->dilations.count == 2) &&
                (!at->pads.is_given || at->pads.count == 4);
    if (!is_plain || !fits || at->ceil_mode != 0) {
        return own;
    }
    for (int i = 0; i < 2; i++) {
        int64_t pads = at->pads.is_given ? at->pads.at[i] + at->pads.at[i + 2] : 0;
        int64_t dilation = at->dilations.is_given ? at->dilations.at[i] : 1;
        int64_t stride = at->strides.is_given ? at->strides.at[i] : 1;
        int64_t more = pads - dilation * (kernel[i] - 1);
        if (more != 0 || stride != 1) { /* out = (in + more - 1) / stride + 1 */
            area = mixed(mixed(area, (uint64_t)more * 2 + (uint64_t)i), (uint64_t)stride);
        }
    }
    return area;
}

/* --- the new program --- */

static uint32_t add_value(pass *a, uint32_t like)
{
    uint32_t v = a->p->value_count++;
    a->p->values[v] =
        (mq_value){.name = a->p->values[like].name, .kind = MQ_VALUE_STEP, .source = a->step_count};
    a->images[v] = (image){.plain = MQ_NO_VALUE, .area = v + 1};
    return v;
}

static mq_code no_memory(mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "no memory for the layout of a model");
}

/* The plain form of a value: itself, or made once by an Unpack step. */
static mq_code plain_of(pass *a, uint32_t v, const mq_node *node, uint32_t *out, mq_error *err)
{
    *out = v;
    if (v == MQ_NO_VALUE || a->images[v].channels == 0) {
        return MQ_OK;
    }
    if (a->images[v].plain == MQ_NO_VALUE) {
        mq_unpack_attrs *attrs = mq_arena_new(a->p->arena, mq_unpack_attrs, 1);
        uint32_t *ends = mq_arena_new(a->p->arena, uint32_t, 2);
        if (attrs == NULL || ends == NULL) {
            return no_memory(err);
        }
        attrs->channels = a->images[v].channels;
        ends[0] = v;
        ends[1] = add_value(a, v);
        a->images[v].plain = ends[1];
        a->steps[a->step_count++] = (mq_step){.op = &mq_op_unpack,
                                              .node = node,
                                              .attrs = attrs,
                                              .inputs = ends,
                                              .outputs = ends + 1,
                                              .input_count = 1,
                                              .output_count = 1,
                                              .formal_count = 1};
    }
    *out = a->images[v].plain;
    return MQ_OK;
}

/* A step that wants plain inputs. */
static mq_code keep(pass *a, mq_step *step, mq_error *err)
{
    for (uint32_t i = 0; i < step->input_count; i++) {
        mq_code code = plain_of(a, step->inputs[i], step->node, &step->inputs[i], err);
        if (code != MQ_OK) {
            return code;
        }
    }
    a->steps[a->step_count++] = *step;
    return MQ_OK;
}

static void keep_packed(pass *a, const mq_step *step, int64_t channels, uint64_t area)
{
    a->images[step->outputs[0]].channels = channels;
    a->images[step->outputs[0]].area = area;
    a->steps[a->step_count++] = *step;
}

/* --- convolutions --- */

static void take_over(pass *a, mq_step *step, uint32_t reader)
{
    step->outputs = a->p->steps[reader].outputs;
    a->p->steps[reader].op = NULL;
    a->p->fused_count++;
}

/* The Add behind a packed convolution of something packed and as large, which is there already. */
static bool join_sum(pass *a, mq_step *step, int64_t maps, uint64_t area, uint32_t *sum)
{
    uint32_t v = step->outputs[0];
    const mq_value *value = &a->p->values[v];
    if (value->uses != 1 || value->is_output) {
        return false;
    }
    const mq_step *add = &a->p->steps[value->reader];
    if (!mq_fuse_is(add, "Add") || add->op->since < 7 || add->input_count != 2) {
        return false;
    }
    uint32_t o = add->inputs[add->inputs[0] == v ? 1 : 0];
    if (o == v || o == step->inputs[0] || a->images[o].channels != maps ||
        a->images[o].area != area) {
        return false;
    }
    *sum = o;
    take_over(a, step, value->reader);
    return true;
}

static void join_clamp(pass *a, mq_step *step, mq_packed_conv_attrs *attrs)
{
    const mq_value *value = &a->p->values[step->outputs[0]];
    float low = -INFINITY, high = INFINITY;
    if (value->uses == 1 && !value->is_output &&
        mq_fuse_clamp(a->p, &a->p->steps[value->reader], &low, &high) && low <= high) {
        attrs->low = low;
        attrs->high = high;
        take_over(a, step, value->reader);
    }
}

static mq_code put_conv(pass *a, const mq_step *old, mq_error *err)
{
    mq_step step = *old;
    const mq_shape *w = &constant(a->p, step.inputs[1])->shape;
    const image *x = &a->images[step.inputs[0]];
    mq_packed_conv_attrs *attrs = mq_arena_new(a->p->arena, mq_packed_conv_attrs, 1);
    uint32_t *inputs = mq_arena_new(a->p->arena, uint32_t, 4), sum = MQ_NO_VALUE;
    if (attrs == NULL || inputs == NULL) {
        return no_memory(err);
    }
    *attrs = (mq_packed_conv_attrs){.window = *(const mq_window_attrs *)step.attrs,
                                    .block = a->block,
                                    .low = -INFINITY,
                                    .high = INFINITY,
                                    .x_is_packed = x->channels > 0};
    bool is_depthwise = w->dims[1] == 1 && attrs->window.group > 1; /* both sides the same */
    attrs->y_is_packed = is_depthwise ? attrs->x_is_packed
                                      : a->images[step.outputs[0]].wants && w->dims[0] >= a->block;
    uint64_t area = area_after(&attrs->window, x->area, w->dims + 2, (uint64_t)step.outputs[0] + 1);
    if (attrs->y_is_packed != 0) {
        (void)join_sum(a, &step, w->dims[0], area, &sum);
    }
    join_clamp(a, &step, attrs);
    inputs[0] = step.inputs[0];
    inputs[1] = step.inputs[1];
    inputs[2] = step.input_count > 2 ? step.inputs[2] : MQ_NO_VALUE;
    inputs[3] = sum;
    step.op = &mq_op_packed_conv;
    step.attrs = attrs;
    step.inputs = inputs;
    step.input_count = sum != MQ_NO_VALUE ? 4 : inputs[2] != MQ_NO_VALUE ? 3 : 2;
    keep_packed(a, &step, attrs->y_is_packed != 0 ? w->dims[0] : 0, area);
    return MQ_OK;
}

/* --- the others --- */

static mq_code put_pool(pass *a, mq_step *step, mq_error *err)
{
    const image *x = &a->images[step->inputs[0]];
    if (x->channels == 0) {
        return keep(a, step, err);
    }
    mq_packed_pool_attrs *attrs = mq_arena_new(a->p->arena, mq_packed_pool_attrs, 1);
    if (attrs == NULL) {
        return no_memory(err);
    }
    attrs->is_global = mq_fuse_is(step, "GlobalAveragePool");
    attrs->is_average = !mq_fuse_is(step, "MaxPool");
    attrs->window = *(const mq_window_attrs *)step->attrs; /* begins what pools have */
    uint64_t area = (uint64_t)step->outputs[0] + 1;
    if (attrs->is_global != 0) {
        area = 0; /* one position */
    } else if (attrs->window.kernel_shape.count == 2) {
        area = area_after(&attrs->window, x->area, attrs->window.kernel_shape.at, area);
    }
    step->op = &mq_op_packed_pool;
    step->attrs = attrs;
    keep_packed(a, step, x->channels, area);
    return MQ_OK;
}

/* Element-wise: all images packed with as many channels, other operands single constants. */
static mq_code put_map(pass *a, mq_step *step, mq_error *err)
{
    int64_t channels = 0;
    uint64_t area = 0;
    for (uint32_t i = 0; i < step->input_count; i++) {
        uint32_t v = step->inputs[i];
        if (v == MQ_NO_VALUE ||
            (is_constant(a->p, v) && constant(a->p, v)->shape.rank <= 1 &&
             constant(a->p, v)->bytes == mq_dtype_bytes(constant(a->p, v)->dtype))) {
            continue;
        }
        const image *x = &a->images[v];
        if (x->channels == 0 || (channels != 0 && x->channels != channels)) {
            return keep(a, step, err);
        }
        area = channels == 0 || area == x->area ? x->area : (uint64_t)step->outputs[0] + 1;
        channels = x->channels;
    }
    if (channels == 0) {
        return keep(a, step, err);
    }
    keep_packed(a, step, channels, area);
    return MQ_OK;
}

static mq_code put_join(pass *a, mq_step *step, mq_error *err)
{
    int64_t channels = 0;
    for (uint32_t i = 0; i < step->input_count; i++) {
        uint32_t v = step->inputs[i];
        if (v == MQ_NO_VALUE || a->images[v].channels == 0 ||
            a->images[v].channels % a->block != 0) {
            return keep(a, step, err);
        }
        channels += a->images[v].channels;
    }
    keep_packed(a, step, channels, a->images[step->inputs[0]].area);
    return MQ_OK;
}

static mq_code put_step(pass *a, mq_step *step, mq_error *err)
{
    switch (role_of(a, step)) {
    case ROLE_CONV:
        return put_conv(a, step, err);
    case ROLE_MAP:
        return put_map(a, step, err);
    case ROLE_JOIN:
        return put_join(a, step, err);
    case ROLE_POOL:
        return put_pool(a, step, err);
    case ROLE_NONE:
    default:
        return keep(a, step, err);
    }
}

static mq_code put_outputs(pass *a, mq_error *err)
{
    for (uint32_t i = 0; i < a->p->output_count; i++) {
        uint32_t v = a->p->outputs[i];
        if (a->images[v].channels == 0) {
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

/* Room for an Unpack of each value. */
static bool make_room(pass *a)
{
    mq_program *p = a->p;
    size_t values = (size_t)p->value_count * 2 + 1;
    mq_value *more = mq_arena_new(p->arena, mq_value, values);
    a->images = mq_arena_new(p->arena, image, values);
    a->steps = mq_arena_new(p->arena, mq_step, (size_t)p->step_count + values);
    if (more == NULL || a->images == NULL || a->steps == NULL || values >= UINT32_MAX) {
        return false;
    }
    memcpy(more, p->values, p->value_count * sizeof *more);
    p->values = more;
    for (uint32_t v = 0; v < p->value_count; v++) {
        a->images[v] = (image){.plain = MQ_NO_VALUE, .area = (uint64_t)v + 1};
    }
    return true;
}

mq_code mq_program_layout(mq_program *p, mq_error *err)
{
    pass a = {.p = p, .block = mq_dnnl_block()};
    bool has_conv = false;
    for (uint32_t s = 0; s < p->step_count; s++) {
        has_conv = has_conv || mq_fuse_is(&p->steps[s], "Conv");
    }
    if (a.block == 0 || p->kernels != 0 || !has_conv) {
        return MQ_OK;
    }
    if (!make_room(&a)) {
        return no_memory(err);
    }
    find_wants(&a);
    mq_code code = MQ_OK;
    for (uint32_t s = 0; s < p->step_count && code == MQ_OK; s++) {
        if (p->steps[s].op != NULL) {
            code = put_step(&a, &p->steps[s], err);
        }
    }
    code = code == MQ_OK ? put_outputs(&a, err) : code;
    if (code == MQ_OK) {
        p->steps = a.steps;
        p->step_count = a.step_count;
        mq_program_compact(p);
    }
    return code;
}

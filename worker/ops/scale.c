/* Operators that scale an element by statistics of its neighbours: RMSNormalization,
 * InstanceNormalization, GroupNormalization, LpNormalization, LRN, MeanVarianceNormalization; and
 * PRelu, Shrink, Hardmax. Sums are taken in double. For inference only.
 * onnx.ai/onnx/operators/onnx__GroupNormalization.html and its sisters. */
#include "worker/ops/element.h"
#include "worker/ops/pair.h"

#define FLOATS (MQ_T_FLOATS | MQ_T_HALF)

typedef struct scale_attrs {
    float epsilon, alpha, beta, bias, lambda;
    int64_t axis, num_groups, stash_type, p, size;
    mq_ints axes;
    bool is_per_group;
} scale_attrs;

typedef struct moments {
    double mean, variance;
} moments;

/* Of n elements from `first`. */
static moments moments_of(const mq_tensor *x, size_t first, size_t n)
{
    moments m = {0.0, 0.0};
    for (size_t i = 0; i < n; i++) {
        m.mean += mq_element(x, first + i);
    }
    m.mean /= (double)n;
    for (size_t i = 0; i < n; i++) {
        double d = mq_element(x, first + i) - m.mean;
        m.variance += d * d;
    }
    m.variance /= (double)n;
    return m;
}

/* --- RMSNormalization: x / sqrt(mean(x^2) + epsilon) * scale over dimensions axis.. --- */

static mq_code rms_shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape;
    int32_t axis;
    mq_shape both;
    mq_code code = mq_axis(((const scale_attrs *)call->attrs)->axis, x->rank, &axis, err);
    code = code == MQ_OK ? mq_broadcast(x, &call->inputs[1]->shape, &both, err) : code;
    if (code == MQ_OK && !mq_shape_eq(&both, x)) {
        code = mq_fail(err, MQ_E_ARG, "the scale does not broadcast to the input");
    }
    return code == MQ_OK ? mq_shape_same(call, err) : code;
}

static mq_code rms_run(const mq_op_call *call, mq_error *err)
{
    const scale_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *scale = call->inputs[1], *y = call->outputs[0];
    mq_strides s = mq_strides_of(&scale->shape, &x->shape);
    int64_t index[MQ_RANK_MAX] = {0};
    int32_t axis;
    mq_code code = mq_axis(a->axis, x->shape.rank, &axis, err);
    size_t n = mq_dims_product(&x->shape, axis, x->shape.rank);
    double inverse = 0.0;
    for (size_t i = 0, count = mq_elements(x); i < count && code == MQ_OK; i++) {
        if (i % n == 0) {
            double sum = 0.0;
            for (size_t k = 0; k < n; k++) {
                sum += mq_element(x, i + k) * mq_element(x, i + k);
            }
            inverse = 1.0 / sqrt(sum / (double)n + (double)a->epsilon);
        }
        size_t at = mq_offset(&s, index, x->shape.rank);
        mq_element_set(y, i, mq_element(x, i) * inverse * mq_element(scale, at));
        mq_next_index(&x->shape, index);
    }
    return code;
}

/* --- InstanceNormalization, GroupNormalization --- */

static mq_code group_shape(const mq_op_call *call, mq_error *err)
{
    const scale_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    int64_t channels = x->rank < 2 ? 0 : x->dims[1];
    int64_t groups = call->op->since == 1 ? channels : a->num_groups;
    if (channels < 1 || groups < 1 || channels % groups != 0) {
        return mq_fail(err, MQ_E_ARG, "%lld channels do not divide into %lld groups",
                       (long long)channels, (long long)groups);
    }
    int64_t due = a->is_per_group ? groups : channels;
    for (uint32_t i = 1; i < 3; i++) {
        if (mq_elements(call->inputs[i]) != (size_t)due) {
            return mq_fail(err, MQ_E_ARG, "input %u must have shape [%lld]", i, (long long)due);
        }
    }
    return mq_shape_same(call, err);
}

static mq_code group_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const scale_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    size_t channels = (size_t)x->shape.dims[1];
    size_t groups = call->op->since == 1 ? channels : (size_t)a->num_groups;
    size_t plane = mq_dims_product(&x->shape, 2, x->shape.rank);
    size_t n = channels / groups * plane;
    moments m = {0.0, 0.0};
    for (size_t i = 0, count = mq_elements(x); i < count; i++) {
        if (i % n == 0) {
            m = moments_of(x, i, n);
        }
        size_t c = a->is_per_group ? i / n % groups : i / plane % channels;
        double v = (mq_element(x, i) - m.mean) / sqrt(m.variance + (double)a->epsilon);
        v = v * mq_element(call->inputs[1], c) + mq_element(call->inputs[2], c);
        mq_element_set(call->outputs[0], i, v);
    }
    return MQ_OK;
}

static mq_code group_18_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    (void)err;
    ((scale_attrs *)attrs)->is_per_group = true; /* by channel from opset 21 on */
    return MQ_OK;
}

/* --- LpNormalization: x / |x|_p along an axis; zeros stay zeros --- */

static mq_code axis_shape(const mq_op_call *call, mq_error *err)
{
    int32_t axis;
    const scale_attrs *a = call->attrs;
    mq_code code = mq_axis(a->axis, call->inputs[0]->shape.rank, &axis, err);
    if (code == MQ_OK && a->p != 1 && a->p != 2) {
        code = mq_fail(err, MQ_E_ARG, "p is %lld, allowed are 1 and 2", (long long)a->p);
    }
    return code == MQ_OK ? mq_shape_same(call, err) : code;
}

/* Lines along an axis: line k begins at `first`, its n elements are `step` apart. */
typedef struct lines {
    size_t count, n, step;
} lines;

static lines lines_of(const mq_shape *x, int64_t axis)
{
    int32_t at = (int32_t)(axis < 0 ? axis + x->rank : axis);
    size_t step = mq_dims_product(x, at + 1, x->rank);
    return (lines){mq_dims_product(x, 0, at) * step, (size_t)x->dims[at], step};
}

static size_t line_first(const lines *l, size_t k)
{
    return k / l->step * l->n * l->step + k % l->step;
}

static mq_code lp_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const scale_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    lines l = lines_of(&x->shape, a->axis);
    for (size_t k = 0; k < l.count; k++) {
        size_t first = line_first(&l, k);
        double sum = 0.0;
        for (size_t i = 0; i < l.n; i++) {
            double v = mq_element(x, first + i * l.step);
            sum += a->p == 1 ? fabs(v) : v * v;
        }
        sum = a->p == 1 ? sum : sqrt(sum);
        for (size_t i = 0; i < l.n; i++) {
            double v = mq_element(x, first + i * l.step);
            mq_element_set(call->outputs[0], first + i * l.step, sum > 0.0 ? v / sum : 0.0);
        }
    }
    return MQ_OK;
}

/* --- Hardmax: 1 at the first maximum; before opset 13 the input is a matrix cut at axis --- */

static mq_code hardmax_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)err;
    scale_attrs *a = attrs;
    a->p = 1;
    a->is_per_group = opset < 13;
    if (a->is_per_group && mq_node_attr(node, "axis") == NULL) {
        a->axis = 1;
    }
    return MQ_OK;
}

static mq_code hardmax_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const scale_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    lines l = lines_of(&x->shape, a->axis);
    if (mq_elements(x) == 0) {
        return MQ_OK;
    }
    if (a->is_per_group) {
        l = (lines){l.count / l.step, l.n * l.step, 1};
    }
    for (size_t k = 0; k < l.count; k++) {
        size_t first = line_first(&l, k), best = 0;
        for (size_t i = 0; i < l.n; i++) {
            bool is_more = mq_element(x, first + i * l.step) > mq_element(x, first + best * l.step);
            best = is_more ? i : best;
        }
        for (size_t i = 0; i < l.n; i++) {
            mq_element_set(call->outputs[0], first + i * l.step, i == best ? 1.0 : 0.0);
        }
    }
    return MQ_OK;
}

/* --- LRN: by the squares of neighbouring channels --- */

static mq_code lrn_shape(const mq_op_call *call, mq_error *err)
{
    const scale_attrs *a = call->attrs;
    if (call->inputs[0]->shape.rank < 2 || a->size < 1) {
        return mq_fail(err, MQ_E_ARG, "rank %d, size %lld", call->inputs[0]->shape.rank,
                       (long long)a->size);
    }
    return mq_shape_same(call, err);
}

static mq_code lrn_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const scale_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    lines l = lines_of(&x->shape, 1);
    int64_t before = (a->size - 1) / 2, after = a->size - 1 - before, n = (int64_t)l.n;
    for (size_t k = 0; k < l.count; k++) {
        size_t first = line_first(&l, k);
        for (int64_t c = 0; c < n; c++) {
            double sum = 0.0;
            int64_t from = c < before ? 0 : c - before, to = after < n - c ? c + after + 1 : n;
            for (int64_t i = from; i < to; i++) {
                double v = mq_element(x, first + (size_t)i * l.step);
                sum += v * v;
            }
            size_t at = first + (size_t)c * l.step;
            double base = (double)a->bias + (double)a->alpha / (double)a->size * sum;
            mq_element_set(call->outputs[0], at, mq_element(x, at) / pow(base, (double)a->beta));
        }
    }
    return MQ_OK;
}

/* --- PRelu, Shrink --- */

static mq_code prelu_shape(const mq_op_call *call, mq_error *err)
{
    mq_shape both;
    mq_code code = mq_broadcast(&call->inputs[0]->shape, &call->inputs[1]->shape, &both, err);
    if (code == MQ_OK && !mq_shape_eq(&both, &call->inputs[0]->shape)) {
        code = mq_fail(err, MQ_E_ARG, "the slope does not broadcast to the input");
    }
    return code == MQ_OK ? mq_shape_same(call, err) : code;
}

static void prelu_floats(const mq_op_call *call)
{
    const mq_shape *shape = &call->inputs[0]->shape;
    mq_pair of = mq_pair_of(shape, &call->inputs[1]->shape, shape);
    const mq_pair *pair = &of;
    const void *pa = call->inputs[0]->data, *pb = call->inputs[1]->data;
    void *py = call->outputs[0]->data;
    MQ_PAIR_LOOP(float, float, x < 0.0f ? x * z : x)
}

static mq_code prelu_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0], *slope = call->inputs[1];
    if (x->dtype == MQ_DT_F32) {
        prelu_floats(call);
        return MQ_OK;
    }
    mq_strides s = mq_strides_of(&slope->shape, &x->shape);
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t i = 0, n = mq_elements(x); i < n; i++) {
        double v = mq_element(x, i);
        double factor = mq_element(slope, mq_offset(&s, index, x->shape.rank));
        mq_element_set(call->outputs[0], i, v < 0.0 ? v * factor : v);
        mq_next_index(&x->shape, index);
    }
    return MQ_OK;
}

static mq_code shrink_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const scale_attrs *a = call->attrs;
    double edge = (double)a->lambda, bias = (double)a->bias;
    for (size_t i = 0, n = mq_elements(call->inputs[0]); i < n; i++) {
        double x = mq_element(call->inputs[0], i);
        mq_element_set(call->outputs[0], i, x < -edge ? x + bias : x > edge ? x - bias : 0.0);
    }
    return MQ_OK;
}

/* --- rows --- */

#define FLOAT_ATTR(name_, field, value)                                                            \
    {                                                                                              \
        .name = name_, .type = MQ_ATTR_FLOAT, .offset = offsetof(scale_attrs, field), .f = (value) \
    }
#define INT_ATTR(name_, value)                                                                     \
    {                                                                                              \
        .name = #name_, .type = MQ_ATTR_INT, .offset = offsetof(scale_attrs, name_), .i = (value)  \
    }
#define END                                                                                        \
    {                                                                                              \
        .name = NULL                                                                               \
    }
static const mq_attr_spec rms_specs[] = {INT_ATTR(axis, -1), FLOAT_ATTR("epsilon", epsilon, 1e-5f),
                                         INT_ATTR(stash_type, 1), END};
static const mq_attr_spec instance_specs[] = {FLOAT_ATTR("epsilon", epsilon, 1e-5f), END};
static const mq_attr_spec group_specs[] = {FLOAT_ATTR("epsilon", epsilon, 1e-5f),
                                           INT_ATTR(num_groups, 1), INT_ATTR(stash_type, 1), END};
static const mq_attr_spec lp_specs[] = {INT_ATTR(axis, -1), INT_ATTR(p, 2), END};
static const mq_attr_spec hardmax_specs[] = {INT_ATTR(axis, -1), END};
static const mq_attr_spec lrn_specs[] = {FLOAT_ATTR("alpha", alpha, 0.0001f),
                                         FLOAT_ATTR("beta", beta, 0.75f),
                                         FLOAT_ATTR("bias", bias, 1.0f), INT_ATTR(size, 0), END};
static const mq_attr_spec shrink_specs[] = {FLOAT_ATTR("bias", bias, 0.0f),
                                            FLOAT_ATTR("lambd", lambda, 0.5f), END};
static const mq_attr_spec none_specs[] = {END};

#define ROW(symbol, name_, since_, inputs_, specs_, parse_, shape_, run_, cases_)                  \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {inputs_, inputs_},                                                                  \
        .out = {1, 1},                                                                             \
        .args = {{'T', FLOATS}},                                                                   \
        .attrs_bytes = sizeof(scale_attrs),                                                        \
        .specs = specs_,                                                                           \
        .parse = parse_,                                                                           \
        .shape = shape_,                                                                           \
        .run = run_,                                                                               \
        .cases = cases_,                                                                           \
    }
ROW(rms_normalization, "RMSNormalization", 23, 2, rms_specs, NULL, rms_shape, rms_run,
    "| f32[A,B,C] f32[C]; axis=1 | f64[A,B,C] f64[B,C]");
ROW(instance_normalization, "InstanceNormalization", 1, 3, instance_specs, NULL, group_shape,
    group_run, "| f32[A,C,B] f32[C] f32[C]");
ROW(group_normalization_18, "GroupNormalization", 18, 3, group_specs, group_18_parse, group_shape,
    group_run, "num_groups=2 | f32[A,4,B] f32[2] f32[2]");
ROW(group_normalization_21, "GroupNormalization", 21, 3, group_specs, NULL, group_shape, group_run,
    "num_groups=2 | f32[A,4,B] f32[4] f32[4]");
ROW(lp_normalization, "LpNormalization", 1, 1, lp_specs, NULL, axis_shape, lp_run,
    "| f32[A,B]; axis=0 p=1 | f64[A,B]");
ROW(hardmax, "Hardmax", 1, 1, hardmax_specs, hardmax_parse, axis_shape, hardmax_run,
    "axis=1 | f32[A,B,C]");
ROW(lrn, "LRN", 1, 1, lrn_specs, NULL, lrn_shape, lrn_run, "size=3 | f32[A,5,B]");
ROW(prelu, "PRelu", 7, 2, none_specs, NULL, prelu_shape, prelu_run, "| f32[A,B,C] f32[B,1]");
ROW(shrink, "Shrink", 9, 1, shrink_specs, NULL, mq_shape_same, shrink_run, "bias=0.5 | f32[A,B]");

/* Reductions: Sum, Mean, Max, Min, Prod, L1, L2, SumSquare, LogSum, LogSumExp, over axes given as
 * attribute (older opsets) or input. Floats are summed in double, in row-major order of the input;
 * integers wrap. onnx.ai/onnx/operators/onnx__ReduceSum.html and its sisters. */
#include "worker/ops/kit.h"
#include "worker/ops/rows.h"

typedef enum reduce_kind {
    SUM,
    MEAN,
    MAX,
    MIN,
    PROD,
    L1,
    L2,
    SUM_SQUARE,
    LOG_SUM,
    LOG_SUM_EXP,
} reduce_kind;

typedef struct reduce_attrs {
    mq_ints axes;
    int64_t keep_dims, is_noop;
    reduce_kind kind;
} reduce_attrs;

/* Bit per reduced axis. No axes: all, or none with noop_with_empty_axes. */
static mq_code axes_of(const mq_op_call *call, uint32_t *mask, mq_error *err)
{
    const reduce_attrs *a = call->attrs;
    const mq_tensor *input = mq_call_input(call, 1);
    int32_t rank = call->inputs[0]->shape.rank;
    int64_t list[MQ_RANK_MAX];
    size_t count = input != NULL ? mq_tensor_ints(input, list, MQ_RANK_MAX) : a->axes.count;
    *mask = 0;
    if (count > MQ_RANK_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "%zu axes, limit %d", count, MQ_RANK_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        int32_t axis;
        mq_code code = mq_axis(input != NULL ? list[i] : a->axes.at[i], rank, &axis, err);
        if (code != MQ_OK) {
            return code;
        }
        *mask |= 1u << axis;
    }
    if (count == 0 && a->is_noop == 0) {
        *mask = (1u << rank) - 1;
    }
    return MQ_OK;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const reduce_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    uint32_t mask;
    mq_code code = axes_of(call, &mask, err);
    mq_shape y = {.rank = 0};
    for (int32_t i = 0; i < x->rank && code == MQ_OK; i++) {
        bool is_reduced = (mask >> i & 1) != 0;
        if (!is_reduced || a->keep_dims != 0) {
            y.dims[y.rank++] = is_reduced ? 1 : x->dims[i];
        }
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = y;
    return code;
}

/* Strides of the output along the input's dimensions: 0 where it is reduced. */
static mq_strides out_strides(const mq_shape *x, uint32_t mask)
{
    mq_strides s = {{0}};
    size_t stride = 1;
    for (int32_t i = x->rank - 1; i >= 0; i--) {
        bool is_reduced = (mask >> i & 1) != 0;
        s.at[i] = is_reduced ? 0 : stride;
        stride *= is_reduced ? 1 : (size_t)x->dims[i];
    }
    return s;
}

/* Scratch: an accumulator an output element, and for LogSumExp its maximum. */
static size_t scratch(const mq_op_call *call)
{
    return 2 * mq_elements(call->outputs[0]) * sizeof(double);
}

static double number(const mq_tensor *t, size_t i)
{
    return t->dtype == MQ_DT_F32 ? (double)((const float *)t->data)[i]
                                 : ((const double *)t->data)[i];
}

static double first_of(reduce_kind kind)
{
    return kind == MAX ? -HUGE_VAL : kind == MIN ? HUGE_VAL : kind == PROD ? 1.0 : 0.0;
}

static double joined(reduce_kind kind, double sum, double x, double top)
{
    switch (kind) {
    case MAX:
        return x > sum || isnan(x) ? x : sum;
    case MIN:
        return x < sum || isnan(x) ? x : sum;
    case PROD:
        return sum * x;
    case L1:
        return sum + fabs(x);
    case L2:
    case SUM_SQUARE:
        return sum + x * x;
    case LOG_SUM_EXP:
        return sum + exp(x - top);
    case SUM:
    case MEAN:
    case LOG_SUM:
    default:
        return sum + x;
    }
}

static double finished(reduce_kind kind, double sum, double count, double top)
{
    return kind == MEAN          ? sum / count
           : kind == L2          ? sqrt(sum)
           : kind == LOG_SUM     ? log(sum)
           : kind == LOG_SUM_EXP ? log(sum) + top
                                 : sum;
}

/* For every input element in order: acc[its output] = joined(acc, x). Runs along the last
 * dimension are taken at once. */
static void accumulate(const mq_op_call *call, reduce_kind kind, uint32_t mask, double *acc,
                       const double *top)
{
    const mq_tensor *x = call->inputs[0];
    mq_strides s = out_strides(&x->shape, mask);
    mq_shape outer = x->shape;
    size_t n = 1, step = 0, count = mq_elements(x);
    if (outer.rank > 0) {
        outer.rank--;
        n = (size_t)outer.dims[outer.rank];
        step = s.at[outer.rank];
    }
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t at = 0; at < count; at += n) {
        size_t o = mq_offset(&s, index, outer.rank);
        if (kind == SUM || kind == MEAN) {
            for (size_t i = 0; i < n; i++) {
                acc[o + i * step] += number(x, at + i);
            }
        } else {
            for (size_t i = 0; i < n; i++) {
                double *sum = &acc[o + i * step];
                *sum = joined(kind, *sum, number(x, at + i), top == NULL ? 0.0 : top[o + i * step]);
            }
        }
        mq_next_index(&outer, index);
    }
}

/* float32 over the last dimensions: rows. False: it is something else. */
static bool run_rows(const mq_op_call *call, reduce_kind kind, uint32_t mask)
{
    const mq_tensor *x = call->inputs[0];
    bool is_squares = kind == L2 || kind == SUM_SQUARE;
    if (x->dtype != MQ_DT_F32 ||
        !(kind == SUM || kind == MEAN || kind == MAX || kind == MIN || is_squares)) {
        return false;
    }
    bool is_kept = false;
    size_t rows = mq_elements(call->outputs[0]);
    for (int32_t i = x->shape.rank - 1; i >= 0; i--) {
        bool is_reduced = (mask >> i & 1) != 0 || x->shape.dims[i] == 1;
        if (is_reduced && is_kept && x->shape.dims[i] != 1) {
            return false;
        }
        is_kept = is_kept || !is_reduced;
    }
    size_t n = rows == 0 ? 0 : mq_elements(x) / rows;
    mq_row_kind of = kind == MAX   ? MQ_ROW_MAX
                     : kind == MIN ? MQ_ROW_MIN
                     : is_squares  ? MQ_ROW_SQUARES
                                   : MQ_ROW_SUM;
    for (size_t r = 0; r < rows; r++) {
        double v = mq_row_wide(of, (const float *)x->data + r * n, n);
        ((float *)call->outputs[0]->data)[r] = (float)finished(kind, v, (double)n, 0.0);
    }
    return true;
}

static void run_floats(const mq_op_call *call, reduce_kind kind, uint32_t mask)
{
    if (run_rows(call, kind, mask)) {
        return;
    }
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    size_t n = mq_elements(y);
    double *acc = call->scratch, *top = acc + n;
    size_t part = n == 0 ? 0 : mq_elements(x) / n;
    double count = (double)part;
    for (size_t i = 0; i < n; i++) {
        acc[i] = first_of(kind);
        top[i] = first_of(MAX);
    }
    if (kind == LOG_SUM_EXP) {
        accumulate(call, MAX, mask, top, NULL);
        for (size_t i = 0; i < n; i++) {
            top[i] = isinf(top[i]) ? 0.0 : top[i];
        }
    }
    accumulate(call, kind, mask, acc, top);
    for (size_t i = 0; i < n; i++) {
        double v = finished(kind, acc[i], count, top[i]);
        if (y->dtype == MQ_DT_F32) {
            ((float *)y->data)[i] = (float)v;
        } else {
            ((double *)y->data)[i] = v;
        }
    }
}

static int64_t int_at(const mq_tensor *t, size_t i)
{
    switch ((int)t->dtype) {
    case MQ_DT_I8:
        return ((const int8_t *)t->data)[i];
    case MQ_DT_U8:
    case MQ_DT_BOOL:
        return ((const uint8_t *)t->data)[i];
    case MQ_DT_I32:
        return ((const int32_t *)t->data)[i];
    case MQ_DT_U32:
        return ((const uint32_t *)t->data)[i];
    default:
        return ((const int64_t *)t->data)[i];
    }
}

static void put_int(const mq_tensor *t, size_t i, int64_t v)
{
    memcpy((uint8_t *)t->data + i * mq_dtype_bytes(t->dtype), &v, mq_dtype_bytes(t->dtype));
}

static int64_t joined_int(reduce_kind kind, int64_t sum, int64_t x)
{
    uint64_t a = (uint64_t)sum, b = (uint64_t)x;
    switch ((int)kind) {
    case MAX:
        return x > sum ? x : sum;
    case MIN:
        return x < sum ? x : sum;
    case PROD:
        return (int64_t)(a * b);
    case L1:
        return (int64_t)(a + (x < 0 ? 0 - b : b));
    case L2:
    case SUM_SQUARE:
        return (int64_t)(a + b * b);
    default:
        return (int64_t)(a + b);
    }
}

static void run_ints(const mq_op_call *call, reduce_kind kind, uint32_t mask)
{
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    mq_strides s = out_strides(&x->shape, mask);
    size_t n = mq_elements(y), total = mq_elements(x);
    int64_t *acc = call->scratch, index[MQ_RANK_MAX] = {0};
    for (size_t i = 0; i < n; i++) {
        acc[i] = kind == MAX ? INT64_MIN : kind == MIN ? INT64_MAX : kind == PROD ? 1 : 0;
    }
    for (size_t i = 0; i < total; i++) {
        size_t o = mq_offset(&s, index, x->shape.rank);
        acc[o] = joined_int(kind, acc[o], int_at(x, i));
        mq_next_index(&x->shape, index);
    }
    size_t part = n == 0 ? 0 : total / n;
    for (size_t i = 0; i < n; i++) {
        double v = finished(kind, (double)acc[i], (double)part, 0.0);
        bool is_exact = kind != MEAN && kind != L2 && kind != LOG_SUM && kind != LOG_SUM_EXP;
        put_int(y, i, is_exact ? acc[i] : (int64_t)v);
    }
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    const reduce_attrs *a = call->attrs;
    uint32_t mask;
    mq_code code = axes_of(call, &mask, err);
    if (code != MQ_OK) {
        return code;
    }
    if (call->inputs[0]->dtype == MQ_DT_F32 || call->inputs[0]->dtype == MQ_DT_F64) {
        run_floats(call, a->kind, mask);
    } else {
        run_ints(call, a->kind, mask);
    }
    return MQ_OK;
}

/* Slope of the result by one element x of those it was made of. */
static float slope(reduce_kind kind, float x, float y, float count)
{
    switch ((int)kind) {
    case MEAN:
        return 1.0f / count;
    case L1:
        return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f;
    case L2:
        return y > 0.0f ? x / y : 0.0f;
    case SUM_SQUARE:
        return 2.0f * x;
    case LOG_SUM:
        return 1.0f / mq_expf(y);
    case LOG_SUM_EXP:
        return mq_expf(x - y);
    case MAX:
    case MIN:
        return mq_bits_float(x) == mq_bits_float(y) ? 1.0f : 0.0f;
    default:
        return 1.0f;
    }
}

static void grad(const mq_op_grad *g)
{
    const mq_op_call *call = &g->call;
    const reduce_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    uint32_t mask;
    if (g->dx[0] == NULL || axes_of(call, &mask, NULL) != MQ_OK) {
        return;
    }
    mq_strides s = out_strides(&x->shape, mask);
    size_t n = mq_elements(x), outs = mq_elements(call->outputs[0]);
    size_t part = outs == 0 ? 0 : n / outs;
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t i = 0; i < n; i++) {
        size_t o = mq_offset(&s, index, x->shape.rank);
        float y = ((const float *)call->outputs[0]->data)[o];
        float d = g->dy[0][o] * slope(a->kind, ((const float *)x->data)[i], y, (float)part);
        g->dx[0][i] = g->add[0] ? g->dx[0][i] + d : d;
        mq_next_index(&x->shape, index);
    }
}

/* For each output element, all input elements are looked at. */
static mq_code reference(const mq_op_call *call, mq_error *err)
{
    const reduce_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    uint32_t mask;
    mq_code code = axes_of(call, &mask, err);
    mq_strides s = out_strides(&x->shape, mask);
    for (size_t o = 0; o < mq_elements(y) && code == MQ_OK; o++) {
        int64_t index[MQ_RANK_MAX] = {0};
        double sum = a->kind == LOG_SUM_EXP ? 0.0 : first_of(a->kind), count = 0.0;
        for (size_t i = 0; i < mq_elements(x); i++) {
            if (mq_offset(&s, index, x->shape.rank) == o) {
                bool is_float = x->dtype == MQ_DT_F32 || x->dtype == MQ_DT_F64;
                sum = joined(a->kind, sum, is_float ? number(x, i) : (double)int_at(x, i), 0.0);
                count += 1.0;
            }
            mq_next_index(&x->shape, index);
        }
        double v = finished(a->kind, sum, count, 0.0);
        if (y->dtype == MQ_DT_F32) {
            ((float *)y->data)[o] = (float)v;
        } else if (y->dtype == MQ_DT_F64) {
            ((double *)y->data)[o] = v;
        } else {
            put_int(y, o, (int64_t)v);
        }
    }
    return code;
}

static const mq_attr_spec specs_1[] = {
    {.name = "axes", .type = MQ_ATTR_INTS, .offset = offsetof(reduce_attrs, axes)},
    {.name = "keepdims", .type = MQ_ATTR_INT, .offset = offsetof(reduce_attrs, keep_dims), .i = 1},
    {.name = NULL},
};

static const mq_attr_spec specs_13[] = {
    {.name = "keepdims", .type = MQ_ATTR_INT, .offset = offsetof(reduce_attrs, keep_dims), .i = 1},
    {.name = "noop_with_empty_axes",
     .type = MQ_ATTR_INT,
     .offset = offsetof(reduce_attrs, is_noop)},
    {.name = NULL},
};

#define TYPES (MQ_T_FLOATS | MQ_T_INDEX | MQ_T(MQ_DT_I8) | MQ_T(MQ_DT_U8) | MQ_T(MQ_DT_U32))
#define ROW(symbol, name_, since_, in_max, specs_, grad_, cases_)                                  \
    const mq_op mq_op_##symbol##_##since_ = {                                                      \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {1, in_max},                                                                         \
        .out = {1, 1},                                                                             \
        .args = {{'T', TYPES | MQ_T_BOOL}, {0, MQ_T(MQ_DT_I64)}},                                  \
        .shape_inputs = 2,                                                                         \
        .grad_keeps = MQ_GRAD_INPUTS | MQ_GRAD_OUTPUTS,                                            \
        .attrs_bytes = sizeof(reduce_attrs),                                                       \
        .specs = specs_,                                                                           \
        .parse = parse_##symbol,                                                                   \
        .shape = shape,                                                                            \
        .scratch = scratch,                                                                        \
        .run = run,                                                                                \
        .grad = grad_,                                                                             \
        .reference = reference,                                                                    \
        .cases = cases_,                                                                           \
    }
#define REDUCE(symbol, name_, kind_, input_since, grad_, sign)                                     \
    static mq_code parse_##symbol(const mq_node *node, int64_t opset, void *attrs, mq_error *err)  \
    {                                                                                              \
        (void)node;                                                                                \
        (void)opset;                                                                               \
        (void)err;                                                                                 \
        ((reduce_attrs *)attrs)->kind = kind_;                                                     \
        return MQ_OK;                                                                              \
    }                                                                                              \
    ROW(symbol, name_, 1, 1, specs_1, grad_,                                                       \
        "axes=(1) | f32[A,B,C]" sign "; keepdims=0 axes=(0,-1) | f32[A,B,C]" sign                  \
        "; | f64[A,B]" sign);                                                                      \
    ROW(symbol, name_, input_since, 2, specs_13, grad_,                                            \
        "| f32[A,B,C]" sign " i64{1}; keepdims=0 | f32[A,B]" sign " i64{-1}; | f64[A,B]" sign      \
        "; noop_with_empty_axes=1 | f32[A]" sign "; | f32[A,B,C]" sign " i64{0,2}")

REDUCE(reduce_sum, "ReduceSum", SUM, 13, grad, "");
REDUCE(reduce_mean, "ReduceMean", MEAN, 18, grad, "");
REDUCE(reduce_max, "ReduceMax", MAX, 18, grad, "");
REDUCE(reduce_min, "ReduceMin", MIN, 18, grad, "");
REDUCE(reduce_prod, "ReduceProd", PROD, 18, NULL, "");
REDUCE(reduce_l1, "ReduceL1", L1, 18, grad, "");
REDUCE(reduce_l2, "ReduceL2", L2, 18, grad, "");
REDUCE(reduce_sum_square, "ReduceSumSquare", SUM_SQUARE, 18, grad, "");
REDUCE(reduce_log_sum, "ReduceLogSum", LOG_SUM, 18, grad, "+");
REDUCE(reduce_log_sum_exp, "ReduceLogSumExp", LOG_SUM_EXP, 18, grad, "");

/* Cast and CastLike between all fixed-size types. Integers wrap as in C. A float becomes an
 * integer by truncation; outside the integer's range it becomes the nearest end, NaN becomes 0.
 * Text is not cast. onnx.ai/onnx/operators/onnx__Cast.html */
#include "worker/ops/half.h"

typedef struct cast_attrs {
    int64_t to, saturate;
    mq_span to_text, round_mode;
    mq_dtype dtype;
} cast_attrs;

static mq_code check_type(mq_dtype dtype, mq_error *err)
{
    if (dtype < 0 || (unsigned)dtype > 31 || (MQ_T_FIXED & MQ_T(dtype)) == 0) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "cast to element type %d", (int)dtype);
    }
    return MQ_OK;
}

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    cast_attrs *a = attrs;
    a->dtype = a->to < 0 || a->to > 31 ? MQ_DT_NONE : (mq_dtype)a->to;
    return check_type(a->dtype, err);
}

/* Below opset 6 the type is text: "FLOAT". */
static mq_code parse_1(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    static const struct {
        const char *text;
        mq_dtype dtype;
    } names[] = {{"FLOAT", MQ_DT_F32},  {"DOUBLE", MQ_DT_F64}, {"FLOAT16", MQ_DT_F16},
                 {"INT8", MQ_DT_I8},    {"INT16", MQ_DT_I16},  {"INT32", MQ_DT_I32},
                 {"INT64", MQ_DT_I64},  {"UINT8", MQ_DT_U8},   {"UINT16", MQ_DT_U16},
                 {"UINT32", MQ_DT_U32}, {"UINT64", MQ_DT_U64}, {"BOOL", MQ_DT_BOOL}};
    cast_attrs *a = attrs;
    for (size_t i = 0; i < MQ_COUNT_OF(names); i++) {
        if (mq_span_is(a->to_text, names[i].text)) {
            a->dtype = names[i].dtype;
        }
    }
    return check_type(a->dtype, err);
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const cast_attrs *a = call->attrs;
    call->outputs[0]->dtype = a->dtype;
    call->outputs[0]->shape = call->inputs[0]->shape;
    return MQ_OK;
}

static mq_code shape_like(const mq_op_call *call, mq_error *err)
{
    call->outputs[0]->dtype = call->inputs[1]->dtype;
    call->outputs[0]->shape = call->inputs[0]->shape;
    return check_type(call->inputs[1]->dtype, err);
}

/* One element on its way: a number as double, or exactly as 64-bit integer. */
typedef struct number {
    bool is_int, is_unsigned;
    int64_t i;
    double f;
} number;

#define AS_INT(type, is_u)                                                                         \
    (number)                                                                                       \
    {                                                                                              \
        .is_int = true, .is_unsigned = is_u, .i = (int64_t)((const type *)data)[at]                \
    }

static number get(mq_dtype dtype, const void *data, size_t at)
{
    switch ((int)dtype) {
    case MQ_DT_F64:
        return (number){.f = ((const double *)data)[at]};
    case MQ_DT_F16:
        return (number){.f = (double)mq_half_to_float(((const uint16_t *)data)[at])};
    case MQ_DT_BF16:
        return (number){.f = (double)mq_bfloat_to_float(((const uint16_t *)data)[at])};
    case MQ_DT_I8:
    case MQ_DT_I4:
        return AS_INT(int8_t, false);
    case MQ_DT_I16:
        return AS_INT(int16_t, false);
    case MQ_DT_I32:
        return AS_INT(int32_t, false);
    case MQ_DT_I64:
        return AS_INT(int64_t, false);
    case MQ_DT_U16:
        return AS_INT(uint16_t, true);
    case MQ_DT_U32:
        return AS_INT(uint32_t, true);
    case MQ_DT_U64:
        return AS_INT(uint64_t, true);
    case MQ_DT_U8:
    case MQ_DT_U4:
        return AS_INT(uint8_t, true);
    case MQ_DT_BOOL:
        return (number){.is_int = true, .i = ((const uint8_t *)data)[at] != 0};
    default:
        return (number){.f = (double)((const float *)data)[at]};
    }
}

/* The ends of an integer type as doubles: below low is low, from high on is the highest. */
static void ends_of(mq_dtype dtype, double *low, double *high)
{
    int bits = 8 * (int)mq_dtype_bytes(dtype);
    bool is_unsigned = (MQ_T_UNSIGNED >> dtype & 1) != 0;
    *low = is_unsigned ? 0.0 : -ldexp(1.0, bits - 1);
    *high = ldexp(1.0, is_unsigned ? bits : bits - 1);
}

static int64_t to_int(mq_dtype dtype, const number *n)
{
    double low, high;
    if (n->is_int || isnan(n->f)) {
        return n->i; /* 0 for NaN */
    }
    ends_of(dtype, &low, &high);
    if (n->f >= high) {
        return high > 1e19 ? -1 : high > 9e18 ? INT64_MAX : (int64_t)(high - 1.0);
    }
    double v = n->f < low ? low : n->f;
    return v >= 9223372036854775808.0 ? (int64_t)(uint64_t)v : (int64_t)v;
}

static float to_float(const number *n)
{
    if (!n->is_int) {
        return (float)n->f;
    }
    return n->is_unsigned ? (float)(uint64_t)n->i : (float)n->i;
}

static void put(mq_dtype dtype, void *data, size_t at, const number *n)
{
    int64_t i;
    switch ((int)dtype) {
    case MQ_DT_F32:
        ((float *)data)[at] = to_float(n);
        break;
    case MQ_DT_F64:
        ((double *)data)[at] = !n->is_int       ? n->f
                               : n->is_unsigned ? (double)(uint64_t)n->i
                                                : (double)n->i;
        break;
    case MQ_DT_F16:
        ((uint16_t *)data)[at] = mq_float_to_half(to_float(n));
        break;
    case MQ_DT_BF16:
        ((uint16_t *)data)[at] = mq_float_to_bfloat(to_float(n));
        break;
    case MQ_DT_BOOL:
        ((uint8_t *)data)[at] = n->is_int ? n->i != 0 : !(n->f >= 0.0 && n->f <= 0.0);
        break;
    default:
        if (dtype != MQ_DT_U4 && dtype != MQ_DT_I4) {
            i = to_int(dtype, n);
        } else { /* wraps at four bits, floats too: so the suite has it */
            i = to_int(MQ_DT_I64, n);
            i = dtype == MQ_DT_U4 ? i & 15 : ((i & 15) ^ 8) - 8;
        }
        memcpy((uint8_t *)data + at * mq_dtype_bytes(dtype), &i, mq_dtype_bytes(dtype));
        break;
    }
}

/* float32 to int32 or int64, with the ends of the type for what is beyond them and 0 for NaN. */
static void floats_to_ints(const float *x, const mq_tensor *y, size_t n)
{
    bool is_wide = y->dtype == MQ_DT_I64;
    float high = is_wide ? 9223372036854775808.0f : 2147483648.0f;
    int64_t most = is_wide ? INT64_MAX : INT32_MAX;
    for (size_t i = 0; i < n; i++) {
        float v = isnan(x[i]) ? 0.0f : x[i] < -high ? -high : x[i];
        int64_t to = v >= high ? most : (int64_t)v;
        if (is_wide) {
            ((int64_t *)y->data)[i] = to;
        } else {
            ((int32_t *)y->data)[i] = (int32_t)to;
        }
    }
}

/* The pairs that models use in every run get plain loops. */
static bool run_usual(const mq_tensor *x, const mq_tensor *y, size_t n)
{
    if (x->dtype == y->dtype && x->dtype != MQ_DT_BOOL) {
        memmove(y->data, x->data, x->bytes);
        return true;
    }
    if (x->dtype == MQ_DT_I32 && y->dtype == MQ_DT_F32) {
        for (size_t i = 0; i < n; i++) {
            ((float *)y->data)[i] = (float)((const int32_t *)x->data)[i];
        }
        return true;
    }
    if (x->dtype == MQ_DT_F32 && (y->dtype == MQ_DT_I32 || y->dtype == MQ_DT_I64)) {
        floats_to_ints(x->data, y, n);
        return true;
    }
    if (x->dtype == MQ_DT_I64 && y->dtype == MQ_DT_F32) {
        for (size_t i = 0; i < n; i++) {
            ((float *)y->data)[i] = (float)((const int64_t *)x->data)[i];
        }
        return true;
    }
    if (x->dtype == MQ_DT_U8 && y->dtype == MQ_DT_F32) {
        for (size_t i = 0; i < n; i++) {
            ((float *)y->data)[i] = (float)((const uint8_t *)x->data)[i];
        }
        return true;
    }
    return false;
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    size_t n = mq_elements(x);
    if (run_usual(x, y, n)) {
        return MQ_OK;
    }
    for (size_t i = 0; i < n; i++) {
        number v = get(x->dtype, x->data, i);
        put(y->dtype, y->data, i, &v);
    }
    return MQ_OK;
}

static void grad(const mq_op_grad *g)
{
    for (size_t i = 0, n = mq_elements(g->call.inputs[0]); i < n && g->dx[0] != NULL; i++) {
        g->dx[0][i] = g->add[0] ? g->dx[0][i] + g->dy[0][i] : g->dy[0][i];
    }
}

static const mq_attr_spec specs_1[] = {
    {.name = "to",
     .type = MQ_ATTR_STRING,
     .offset = offsetof(cast_attrs, to_text),
     .is_required = true},
    {.name = NULL},
};

static const mq_attr_spec specs_6[] = {
    {.name = "to", .type = MQ_ATTR_INT, .offset = offsetof(cast_attrs, to), .is_required = true},
    {.name = "saturate", .type = MQ_ATTR_INT, .offset = offsetof(cast_attrs, saturate), .i = 1},
    {.name = "round_mode",
     .type = MQ_ATTR_STRING,
     .offset = offsetof(cast_attrs, round_mode),
     .s = "up"},
    {.name = NULL},
};

static const mq_attr_spec specs_like[] = {
    {.name = "saturate", .type = MQ_ATTR_INT, .offset = offsetof(cast_attrs, saturate), .i = 1},
    {.name = "round_mode",
     .type = MQ_ATTR_STRING,
     .offset = offsetof(cast_attrs, round_mode),
     .s = "up"},
    {.name = NULL},
};

#define CAST(symbol, name_, since_, in_, specs_, parse_, shape_, flags_, cases_)                   \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {in_, in_},                                                                          \
        .out = {1, 1},                                                                             \
        .args = {{0, MQ_T_FIXED}},                                                                 \
        .flags = flags_,                                                                           \
        .attrs_bytes = sizeof(cast_attrs),                                                         \
        .specs = specs_,                                                                           \
        .parse = parse_,                                                                           \
        .shape = shape_,                                                                           \
        .run = run,                                                                                \
        .grad = grad,                                                                              \
        .cases = cases_,                                                                           \
    }
CAST(cast_1, "Cast", 1, 1, specs_1, parse_1, shape, 0, "to=INT32 | f32[A,B]");
CAST(cast_6, "Cast", 6, 1, specs_6, parse, shape, 0,
     "to=1 | i32[A]; to=7 | f32[A,B]; to=11 | f32[A]; to=1 | u8[A]; to=9 | f32[A]; to=10 | f32[A]");
CAST(cast_like, "CastLike", 15, 2, specs_like, NULL, shape_like, 0, "| f32[A,B] i32[C]");

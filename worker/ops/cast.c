/* Cast between numeric types. Whole numbers wrap as in C; a float outside the range of a whole
 * number becomes its nearest end, NaN becomes 0, any other value but 0 is true.
 * onnx.ai/onnx/operators/onnx__Cast.html */
#include "worker/ops/kit.h"

typedef struct cast_attrs {
    int64_t to;
    int64_t saturate; /* for 8-bit floats, which are not supported */
} cast_attrs;

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    const cast_attrs *a = attrs;
    (void)node;
    (void)opset;
    mq_dtype to = a->to > 0 && a->to < 32 ? (mq_dtype)a->to : MQ_DT_NONE;
    return mq_dtype_bytes(to) > 0
               ? MQ_OK
               : mq_fail(err, MQ_E_UNSUPPORTED, "attribute to: type %lld is not supported",
                         (long long)a->to);
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    (void)err;
    call->outputs[0]->shape = call->inputs[0]->shape;
    call->outputs[0]->dtype = (mq_dtype)((const cast_attrs *)call->attrs)->to;
    return MQ_OK;
}

/* A number on its way: whole ones keep all their bits. */
typedef struct number {
    bool is_float, is_unsigned;
    double f;
    int64_t i; /* bits of a uint64 when is_unsigned */
} number;

static double half_to_double(uint16_t bits)
{
    int exponent = bits >> 10 & 31;
    double fraction = (double)(bits & 1023);
    double v = exponent == 31  ? (fraction > 0 ? (double)NAN : (double)INFINITY)
               : exponent == 0 ? ldexp(fraction, -24)
                               : ldexp(1024 + fraction, exponent - 25);
    return (bits & 0x8000) != 0 ? -v : v;
}

/* Nearest, ties to even; beyond the largest: infinity. */
static uint16_t double_to_half(double v)
{
    uint16_t sign = signbit(v) ? 0x8000 : 0;
    double a = fabs(v);
    if (isnan(v)) {
        return 0x7e00;
    }
    if (a >= 65520) {
        return (uint16_t)(sign | 0x7c00);
    }
    int exponent = 0;
    (void)frexp(a, &exponent);
    int shift = exponent - 1 < -14 ? -24 : exponent - 11;
    double units = rint(ldexp(a, -shift)); /* up to 2048: then the exponent carries by itself */
    unsigned base = (unsigned)(shift + 24) << 10;
    return (uint16_t)(sign | (base + (unsigned)units));
}

static float bfloat_to_float(uint16_t bits)
{
    return mq_float_bits((uint32_t)bits << 16);
}

static uint16_t float_to_bfloat(float v)
{
    uint32_t bits = mq_bits_float(v);
    if (v != v) {
        return 0x7fc0;
    }
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static number load(const void *data, size_t i, mq_dtype dtype)
{
    switch ((int)dtype) {
    case MQ_DT_F32:
        return (number){.is_float = true, .f = (double)((const float *)data)[i]};
    case MQ_DT_F64:
        return (number){.is_float = true, .f = ((const double *)data)[i]};
    case MQ_DT_F16:
        return (number){.is_float = true, .f = half_to_double(((const uint16_t *)data)[i])};
    case MQ_DT_BF16:
        return (number){.is_float = true,
                        .f = (double)bfloat_to_float(((const uint16_t *)data)[i])};
    case MQ_DT_I8:
        return (number){.i = ((const int8_t *)data)[i]};
    case MQ_DT_I16:
        return (number){.i = ((const int16_t *)data)[i]};
    case MQ_DT_I32:
        return (number){.i = ((const int32_t *)data)[i]};
    case MQ_DT_I64:
        return (number){.i = ((const int64_t *)data)[i]};
    case MQ_DT_U16:
        return (number){.i = ((const uint16_t *)data)[i]};
    case MQ_DT_U32:
        return (number){.i = ((const uint32_t *)data)[i]};
    case MQ_DT_U64:
        return (number){.is_unsigned = true, .i = (int64_t)((const uint64_t *)data)[i]};
    default: /* uint8, bool */
        return (number){.i = ((const uint8_t *)data)[i]};
    }
}

static double as_double(number v)
{
    return v.is_float ? v.f : v.is_unsigned ? (double)(uint64_t)v.i : (double)v.i;
}

/* Bits of a whole number in low..high (as floats; the ends are powers of two). */
static uint64_t as_whole(number v, double low, double high)
{
    if (!v.is_float) {
        return (uint64_t)v.i;
    }
    if (v.f != v.f) {
        return 0;
    }
    if (low < 0) {
        return v.f <= low    ? (uint64_t)(int64_t)low
               : v.f >= high ? (uint64_t)high - 1
                             : (uint64_t)(int64_t)v.f;
    }
    return v.f <= 0      ? 0
           : v.f >= high ? (high > 1e19 ? UINT64_MAX : (uint64_t)high - 1)
                         : (uint64_t)v.f;
}

static void store(void *data, size_t i, mq_dtype dtype, number v)
{
    switch ((int)dtype) {
    case MQ_DT_F32:
        ((float *)data)[i] = (float)as_double(v);
        break;
    case MQ_DT_F64:
        ((double *)data)[i] = as_double(v);
        break;
    case MQ_DT_F16:
        ((uint16_t *)data)[i] = double_to_half(as_double(v));
        break;
    case MQ_DT_BF16:
        ((uint16_t *)data)[i] = float_to_bfloat((float)as_double(v));
        break;
    case MQ_DT_BOOL:
        ((uint8_t *)data)[i] = v.is_float ? !(v.f == 0) : v.i != 0;
        break;
    case MQ_DT_I8:
        ((int8_t *)data)[i] = (int8_t)as_whole(v, -0x1p7, 0x1p7);
        break;
    case MQ_DT_U8:
        ((uint8_t *)data)[i] = (uint8_t)as_whole(v, 0, 0x1p8);
        break;
    case MQ_DT_I16:
        ((int16_t *)data)[i] = (int16_t)as_whole(v, -0x1p15, 0x1p15);
        break;
    case MQ_DT_U16:
        ((uint16_t *)data)[i] = (uint16_t)as_whole(v, 0, 0x1p16);
        break;
    case MQ_DT_I32:
        ((int32_t *)data)[i] = (int32_t)as_whole(v, -0x1p31, 0x1p31);
        break;
    case MQ_DT_U32:
        ((uint32_t *)data)[i] = (uint32_t)as_whole(v, 0, 0x1p32);
        break;
    case MQ_DT_I64:
        ((int64_t *)data)[i] = (int64_t)as_whole(v, -0x1p63, 0x1p63);
        break;
    default:
        ((uint64_t *)data)[i] = as_whole(v, 0, 0x1p64);
        break;
    }
}

static mq_code reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0];
    mq_tensor *y = call->outputs[0];
    for (size_t i = 0; i < mq_elements(x); i++) {
        store(y->data, i, y->dtype, load(x->data, i, x->dtype));
    }
    return MQ_OK;
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *x = call->inputs[0];
    mq_tensor *y = call->outputs[0];
    size_t n = mq_elements(x);
    if (x->dtype == y->dtype) {
        if (n > 0) {
            memmove(y->data, x->data, n * mq_dtype_bytes(x->dtype));
        }
        return MQ_OK;
    }
    if (x->dtype == MQ_DT_I32 && y->dtype == MQ_DT_F32) {
        const int32_t *from = x->data;
        float *to = y->data;
        for (size_t i = 0; i < n; i++) {
            to[i] = (float)from[i];
        }
        return MQ_OK;
    }
    return reference(call, err);
}

static const mq_attr_spec specs[] = {
    {.name = "to", .type = MQ_ATTR_INT, .offset = offsetof(cast_attrs, to), .is_required = true},
    {.name = "saturate", .type = MQ_ATTR_INT, .offset = offsetof(cast_attrs, saturate), .i = 1},
    {.name = NULL},
};

const mq_op mq_op_cast = {
    .name = "Cast",
    .domain = "",
    .since = 6,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{0, MQ_T_FIXED}},
    .attrs_bytes = sizeof(cast_attrs),
    .specs = specs,
    .parse = parse,
    .shape = shape,
    .run = run,
    .reference = reference,
    .cases = "to=1 | i32[A,B]; to=1 | u8[A]; to=1 | f64[A]; to=11 | f32[A]; to=1 | i64[A,B,C];"
             "to=1 | f16{1.5,-2,65504,0}; to=10 | f32{1.5,-2,65520,1e-7}; to=9 | f32{0,1,-2};"
             "to=3 | f32{1000,-1000,1.9,-1.9}; to=7 | f32[A]; to=6 | i64{5,-5}; to=1 | bool{1,0}",
};

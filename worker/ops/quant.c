/* QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear. Rounding is to nearest even, results
 * saturate. Scales are one number, one per index of `axis`, or one per block_size indices of it.
 * onnx.ai/onnx/operators/onnx__QuantizeLinear.html */
#include "worker/ops/kit.h"
#include "worker/ops/qrange.h"

typedef struct quant_attrs {
    int64_t axis, saturate, block_size, output_dtype, precision;
} quant_attrs;

#define QUANT_TYPES                                                                                \
    (MQ_T(MQ_DT_U8) | MQ_T(MQ_DT_I8) | MQ_T(MQ_DT_U16) | MQ_T(MQ_DT_I16) | MQ_T_FOUR)

/* Nearest even, for |x| below 2^22; what is larger saturates anyway. */
static inline float round_even(float x)
{
    return (x + 12582912.0f) - 12582912.0f;
}

static void limits(mq_dtype dtype, float *low, float *high)
{
    *low = dtype == MQ_DT_I8    ? -128.0f
           : dtype == MQ_DT_I16 ? -32768.0f
           : dtype == MQ_DT_I4  ? -8.0f
                                : 0.0f;
    *high = dtype == MQ_DT_I8    ? 127.0f
            : dtype == MQ_DT_I4  ? 7.0f
            : dtype == MQ_DT_U4  ? 15.0f
            : dtype == MQ_DT_I16 ? 32767.0f
            : dtype == MQ_DT_U16 ? 65535.0f
                                 : 255.0f;
}

/* Runs of elements that share a scale. Element i is in row i / inner of the axis, which has
 * `length` rows. Without blocks each row has its own scale; with them `block` rows share `inner`
 * scales. */
typedef struct layout {
    size_t run, inner, length, block, blocks;
    bool is_one;
} layout;

static layout layout_of(const mq_op_call *call)
{
    const quant_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    size_t count = mq_elements(call->inputs[1]);
    if (count == 1 && a->block_size == 0) {
        return (layout){mq_elements(call->inputs[0]), 1, 1, 0, 0, true};
    }
    int32_t axis = (int32_t)(a->axis < 0 ? a->axis + x->rank : a->axis);
    size_t inner = mq_dims_product(x, axis + 1, x->rank), length = (size_t)x->dims[axis];
    if (a->block_size == 0) {
        return (layout){inner, inner, length, 0, 0, false};
    }
    size_t block = (size_t)a->block_size;
    return (layout){1, inner, length, block, (length + block - 1) / block, false};
}

/* Number of the scale for the run that begins with element i. */
static size_t scale_of(const layout *l, size_t i)
{
    if (l->is_one) {
        return 0;
    }
    size_t row = i / l->inner, at = row % l->length;
    return l->block == 0 ? at
                         : (row / l->length * l->blocks + at / l->block) * l->inner + i % l->inner;
}

static mq_code check_blocks(const mq_op_call *call, int32_t axis, mq_error *err)
{
    int64_t size = ((const quant_attrs *)call->attrs)->block_size;
    mq_shape want = call->inputs[0]->shape;
    want.dims[axis] = (want.dims[axis] + size - 1) / size;
    if (!mq_shape_eq(&want, &call->inputs[1]->shape)) {
        char a[96], b[96];
        return mq_fail(err, MQ_E_ARG, "scale %s where blocks of %lld along axis %d need %s",
                       mq_shape_text(&call->inputs[1]->shape, a, sizeof a), (long long)size, axis,
                       mq_shape_text(&want, b, sizeof b));
    }
    return MQ_OK;
}

static mq_code check_scales(const mq_op_call *call, mq_error *err)
{
    const quant_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *s = &call->inputs[1]->shape;
    const mq_tensor *zero = mq_call_input(call, 2);
    int32_t axis;
    if (zero != NULL && mq_elements(zero) != mq_elements(call->inputs[1])) {
        return mq_fail(err, MQ_E_ARG, "scale and zero point differ in shape");
    }
    if (mq_elements(call->inputs[1]) == 1 && a->block_size == 0) {
        return MQ_OK;
    }
    mq_code code = mq_axis(a->axis, x->rank, &axis, err);
    if (code == MQ_OK && a->block_size != 0) {
        return check_blocks(call, axis, err);
    }
    if (code == MQ_OK && (s->rank != 1 || s->dims[0] != x->dims[axis])) {
        char text[128];
        code = mq_fail(err, MQ_E_ARG, "scale %s where [] or [%lld] (axis %d) is due",
                       mq_shape_text(s, text, sizeof text), (long long)x->dims[axis], axis);
    }
    return code;
}

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    const quant_attrs *a = attrs;
    if (a->block_size < 0 || a->block_size > MQ_DIM_MAX) {
        return mq_fail(err, MQ_E_FORMAT, "attribute 'block_size' is %lld",
                       (long long)a->block_size);
    }
    if (a->output_dtype < 0 || a->output_dtype > 31) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "output_dtype %lld", (long long)a->output_dtype);
    }
    return MQ_OK;
}

/* --- QuantizeLinear --- */

static mq_code quantize_shape(const mq_op_call *call, mq_error *err)
{
    const quant_attrs *a = call->attrs;
    const mq_tensor *zero = mq_call_input(call, 2);
    mq_dtype dtype = zero != NULL           ? zero->dtype
                     : a->output_dtype != 0 ? (mq_dtype)a->output_dtype
                                            : MQ_DT_U8;
    if ((QUANT_TYPES & MQ_T(dtype)) == 0) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "quantized type %s", mq_dtype_name(dtype));
    }
    call->outputs[0]->dtype = dtype;
    call->outputs[0]->shape = call->inputs[0]->shape;
    return check_scales(call, err);
}

static float zero_at(const mq_tensor *t, size_t i)
{
    if (t == NULL) {
        return 0.0f;
    }
    switch ((int)t->dtype) {
    case MQ_DT_I8:
    case MQ_DT_I4:
        return (float)((const int8_t *)t->data)[i];
    case MQ_DT_U4:
    case MQ_DT_U8:
        return (float)((const uint8_t *)t->data)[i];
    case MQ_DT_I16:
        return (float)((const int16_t *)t->data)[i];
    case MQ_DT_U16:
        return (float)((const uint16_t *)t->data)[i];
    default:
        return (float)((const int32_t *)t->data)[i];
    }
}

#define QUANTIZE(type)                                                                             \
    for (size_t i = 0; i < n; i++) {                                                               \
        float q = x[i] / scale;                                                                    \
        q = q > low - zero - 1.0f ? q : low - zero - 1.0f; /* NaN too */                           \
        q = q < high - zero + 1.0f ? q : high - zero + 1.0f;                                       \
        q = round_even(q) + zero;                                                                  \
        q = q < low ? low : q > high ? high : q;                                                   \
        ((type *)y)[i] = (type)(int32_t)q;                                                         \
    }

/* n elements with one scale. Division, not the product with the inverse: ties are as the page says.
 */
static void quantize_run_of(const float *x, void *y, mq_dtype dtype, size_t n, float scale,
                            float zero)
{
    float low, high;
    limits(dtype, &low, &high);
    switch ((int)dtype) {
    case MQ_DT_I8:
    case MQ_DT_I4:
        QUANTIZE(int8_t)
        break;
    case MQ_DT_I16:
        QUANTIZE(int16_t)
        break;
    case MQ_DT_U16:
        QUANTIZE(uint16_t)
        break;
    default:
        QUANTIZE(uint8_t)
        break;
    }
}

static mq_code quantize_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0], *zero = mq_call_input(call, 2), *y = call->outputs[0];
    layout l = layout_of(call);
    size_t total = mq_elements(x), run = l.run;
    size_t each = mq_dtype_bytes(y->dtype);
    for (size_t at = 0; at < total && run > 0; at += run) {
        size_t k = scale_of(&l, at);
        quantize_run_of((const float *)x->data + at, (uint8_t *)y->data + at * each, y->dtype, run,
                        ((const float *)call->inputs[1]->data)[k], zero_at(zero, k));
    }
    return MQ_OK;
}

static mq_code quantize_reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0], *zero = mq_call_input(call, 2), *y = call->outputs[0];
    layout l = layout_of(call);
    float low, high;
    limits(y->dtype, &low, &high);
    for (size_t i = 0; i < mq_elements(x); i++) {
        size_t k = scale_of(&l, i);
        double q = rint((double)(((const float *)x->data)[i] /
                                 ((const float *)call->inputs[1]->data)[k])) +
                   (double)zero_at(zero, k);
        int32_t v = (int32_t)fmax((double)low, fmin((double)high, q));
        memcpy((uint8_t *)y->data + i * mq_dtype_bytes(y->dtype), &v, mq_dtype_bytes(y->dtype));
    }
    return MQ_OK;
}

static const mq_attr_spec specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(quant_attrs, axis), .i = 1},
    {.name = "saturate", .type = MQ_ATTR_INT, .offset = offsetof(quant_attrs, saturate), .i = 1},
    {.name = "block_size", .type = MQ_ATTR_INT, .offset = offsetof(quant_attrs, block_size)},
    {.name = "output_dtype", .type = MQ_ATTR_INT, .offset = offsetof(quant_attrs, output_dtype)},
    {.name = "precision", .type = MQ_ATTR_INT, .offset = offsetof(quant_attrs, precision)},
    {.name = NULL},
};

const mq_op mq_op_quantize_linear = {
    .name = "QuantizeLinear",
    .domain = "",
    .since = 10,
    .in = {2, 3},
    .out = {1, 1},
    .args = {{0, MQ_T(MQ_DT_F32)}, {0, MQ_T(MQ_DT_F32)}, {0, QUANT_TYPES}},
    .attrs_bytes = sizeof(quant_attrs),
    .specs = specs,
    .parse = parse,
    .shape = quantize_shape,
    .run = quantize_run,
    .reference = quantize_reference,
    .cases = "| f32[A,B] f32{0.02} u8{128}; | f32[A,B] f32{0.01} i8{3}; | f32[A] f32{0.001};"
             "axis=0 | f32[2,B] f32{0.1,0.01} i8{0,1}; | f32[A,2,B] f32{0.01,0.02} u8{1,2};"
             "| f32[A] f32{0.0001} i16{5}; block_size=2 axis=0 | f32[3,2] f32[2,2]+",
};

/* --- DequantizeLinear --- */

static mq_code dequantize_shape(const mq_op_call *call, mq_error *err)
{
    call->outputs[0]->dtype = MQ_DT_F32;
    call->outputs[0]->shape = call->inputs[0]->shape;
    return check_scales(call, err);
}

#define DEQUANTIZE(type)                                                                           \
    for (size_t i = 0; i < n; i++) {                                                               \
        y[i] = ((float)((const type *)x)[i] - zero) * scale;                                       \
    }

static void dequantize_run_of(const void *x, float *y, mq_dtype dtype, size_t n, float scale,
                              float zero)
{
    switch ((int)dtype) {
    case MQ_DT_I8:
    case MQ_DT_I4:
        DEQUANTIZE(int8_t)
        break;
    case MQ_DT_U8:
    case MQ_DT_U4:
        DEQUANTIZE(uint8_t)
        break;
    case MQ_DT_I16:
        DEQUANTIZE(int16_t)
        break;
    case MQ_DT_U16:
        DEQUANTIZE(uint16_t)
        break;
    default:
        DEQUANTIZE(int32_t)
        break;
    }
}

static mq_code dequantize_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0], *zero = mq_call_input(call, 2);
    layout l = layout_of(call);
    size_t total = mq_elements(x), run = l.run;
    size_t each = mq_dtype_bytes(x->dtype);
    for (size_t at = 0; at < total && run > 0; at += run) {
        size_t k = scale_of(&l, at);
        dequantize_run_of((const uint8_t *)x->data + at * each,
                          (float *)call->outputs[0]->data + at, x->dtype, run,
                          ((const float *)call->inputs[1]->data)[k], zero_at(zero, k));
    }
    return MQ_OK;
}

static mq_code dequantize_reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    layout l = layout_of(call);
    for (size_t i = 0; i < mq_elements(call->inputs[0]); i++) {
        size_t k = scale_of(&l, i);
        double x = (double)zero_at(call->inputs[0], i) - (double)zero_at(mq_call_input(call, 2), k);
        ((float *)call->outputs[0]->data)[i] =
            (float)(x * (double)((const float *)call->inputs[1]->data)[k]);
    }
    return MQ_OK;
}

const mq_op mq_op_dequantize_linear = {
    .name = "DequantizeLinear",
    .domain = "",
    .since = 10,
    .in = {2, 3},
    .out = {1, 1},
    .args = {{'T', QUANT_TYPES | MQ_T(MQ_DT_I32)},
             {0, MQ_T(MQ_DT_F32)},
             {'T', QUANT_TYPES | MQ_T(MQ_DT_I32)}},
    .attrs_bytes = sizeof(quant_attrs),
    .specs = specs,
    .parse = parse,
    .shape = dequantize_shape,
    .run = dequantize_run,
    .reference = dequantize_reference,
    .cases =
        "| u8[A,B] f32{0.02} u8{128}; | i8[A,B] f32{0.01}; axis=0 | i8[2,B] f32{0.1,0.01} i8{0,1};"
        "| i32[A] f32{0.001}; block_size=3 axis=1 | u8[2,6,2] f32[2,2,2]",
};

/* --- DynamicQuantizeLinear: range of x widened to hold 0, mapped to 0..255 --- */

static mq_code dynamic_shape(const mq_op_call *call, mq_error *err)
{
    (void)err;
    for (uint32_t i = 0; i < call->output_count; i++) {
        if (call->outputs[i] != NULL) {
            call->outputs[i]->dtype = i == 1 ? MQ_DT_F32 : MQ_DT_U8;
            call->outputs[i]->shape = i == 0 ? call->inputs[0]->shape : (mq_shape){.rank = 0};
        }
    }
    return MQ_OK;
}

static void give(const mq_op_call *call, float scale, uint8_t zero)
{
    const mq_tensor *s = mq_call_output(call, 1), *z = mq_call_output(call, 2);
    if (s != NULL) {
        *(float *)s->data = scale;
    }
    if (z != NULL) {
        *(uint8_t *)z->data = zero;
    }
}

static mq_code dynamic_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    float scale;
    uint8_t zero;
    mq_qrange(call->inputs[0]->data, mq_elements(call->inputs[0]), &scale, &zero,
              call->outputs[0]->data);
    give(call, scale, zero);
    return MQ_OK;
}

static mq_code dynamic_reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const float *x = call->inputs[0]->data;
    double low = 0.0, high = 0.0;
    for (size_t i = 0; i < mq_elements(call->inputs[0]); i++) {
        low = fmin(low, (double)x[i]);
        high = fmax(high, (double)x[i]);
    }
    float scale = (float)((high - low) / 255.0);
    scale = scale > 0.0f ? scale : 1.0f;
    float zero = rintf(fminf(255.0f, -(float)low / scale));
    for (size_t i = 0; i < mq_elements(call->inputs[0]); i++) {
        float v = fminf(255.0f, fmaxf(0.0f, rintf(x[i] / scale) + zero));
        ((uint8_t *)call->outputs[0]->data)[i] = (uint8_t)v;
    }
    give(call, scale, (uint8_t)zero);
    return MQ_OK;
}

const mq_op mq_op_dynamic_quantize_linear = {
    .name = "DynamicQuantizeLinear",
    .domain = "",
    .since = 11,
    .in = {1, 1},
    .out = {1, 3},
    .args = {{0, MQ_T(MQ_DT_F32)}},
    .shape = dynamic_shape,
    .run = dynamic_run,
    .reference = dynamic_reference,
    .cases = "| f32[A,B]; | f32[A]+; | f32{0,0,0}; | f32{-1,-2,-3}",
};

/* QLinearAdd, internal: the sum of two quantized tensors, quantized again; what exec/fuse_qdq.c
 * makes of DequantizeLinear twice, Add, QuantizeLinear: the same float operations in the same
 * order. Inputs a, its scale and zero point, b, its, the result's. */
#include "worker/ops/element.h"
#include "worker/ops/simd.h"

#define BYTES (MQ_T(MQ_DT_U8) | MQ_T(MQ_DT_I8))

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    for (uint32_t i = 1; i < 8; i += i == 2 ? 2 : 1) {
        if (mq_elements(call->inputs[i]) != 1) {
            return mq_fail(err, MQ_E_ARG, "scales and zero points must be single numbers");
        }
    }
    call->outputs[0]->dtype = call->inputs[7]->dtype;
    return mq_broadcast(&call->inputs[0]->shape, &call->inputs[3]->shape, &call->outputs[0]->shape,
                        err);
}

typedef struct factors {
    float a_scale, b_scale, y_scale, a_zero, b_zero, y_zero, low, high;
} factors;

static inline float sum_of(float a, float b, const factors *f)
{
    float v = (a - f->a_zero) * f->a_scale + (b - f->b_zero) * f->b_scale;
    v = v / f->y_scale;
    v = v > -4194304.0f ? v : -4194304.0f; /* NaN too; beyond, rounding by adding fails */
    v = v < 4194304.0f ? v : 4194304.0f;
    v = (v + 12582912.0f) - 12582912.0f + f->y_zero; /* to nearest even */
    v = v < f->low ? f->low : v;
    return v > f->high ? f->high : v;
}

#define ADD(type)                                                                                  \
    MQ_ALWAYS_INLINE void loop_##type(const type *a, const type *b, type *y, size_t n,             \
                                      const factors *all)                                          \
    {                                                                                              \
        factors f = *all;                                                                          \
        for (size_t i = 0; i < n; i++) {                                                           \
            y[i] = (type)(int32_t)sum_of((float)a[i], (float)b[i], &f);                            \
        }                                                                                          \
    }                                                                                              \
    MQ_SIMD(add_##type, (const type *a, const type *b, type *y, size_t n, const factors *all),     \
            loop_##type(a, b, y, n, all), (a, b, y, n, all))
ADD(uint8_t)
ADD(int8_t)

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *a = call->inputs[0], *b = call->inputs[3];
    mq_tensor *y = call->outputs[0];
    bool is_signed = y->dtype == MQ_DT_I8;
    factors f = {(float)mq_element(call->inputs[1], 0),
                 (float)mq_element(call->inputs[4], 0),
                 (float)mq_element(call->inputs[6], 0),
                 (float)mq_element(call->inputs[2], 0),
                 (float)mq_element(call->inputs[5], 0),
                 (float)mq_element(call->inputs[7], 0),
                 is_signed ? -128.0f : 0.0f,
                 is_signed ? 127.0f : 255.0f};
    size_t n = mq_elements(y);
    bool is_plain =
        mq_shape_eq(&a->shape, &b->shape) && a->dtype == y->dtype && b->dtype == a->dtype;
    if (is_plain && is_signed) {
        add_int8_t(a->data, b->data, y->data, n, &f);
    } else if (is_plain) {
        add_uint8_t(a->data, b->data, y->data, n, &f);
    } else if (n > 0) {
        mq_strides sa = mq_strides_of(&a->shape, &y->shape),
                   sb = mq_strides_of(&b->shape, &y->shape);
        int64_t index[MQ_RANK_MAX] = {0};
        size_t i = 0;
        do {
            float va = (float)mq_element(a, mq_offset(&sa, index, y->shape.rank));
            float vb = (float)mq_element(b, mq_offset(&sb, index, y->shape.rank));
            mq_element_set_int(y, i++, (int64_t)sum_of(va, vb, &f));
        } while (mq_next_index(&y->shape, index));
    }
    return MQ_OK;
}

const mq_op mq_op_qlinear_add = {
    .name = "QLinearAdd",
    .domain = "maasq",
    .since = 1,
    .in = {8, 8},
    .out = {1, 1},
    .args = {{0, BYTES},
             {0, MQ_T(MQ_DT_F32)},
             {0, BYTES},
             {0, BYTES},
             {0, MQ_T(MQ_DT_F32)},
             {0, BYTES},
             {0, MQ_T(MQ_DT_F32)},
             {0, BYTES}},
    .flags = MQ_OP_INTERNAL | MQ_OP_ELEMENTWISE,
    .shape = shape,
    .run = run,
    .cases = "| u8[A,B] f32{0.5} u8{3} u8[A,B] f32{0.25} u8{9} f32{0.5} u8{7};"
             "| i8[A,B,C] f32{0.5} i8{3} u8[B,1] f32{0.25} u8{9} f32{0.5} i8{-7}",
};

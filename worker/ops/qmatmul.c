/* MatMulInteger, QLinearMatMul and the fused dynamic form. A constant right matrix is packed once
 * at load. onnx.ai/onnx/operators/onnx__MatMulInteger.html, onnx__QLinearMatMul.html,
 * onnx__DynamicQuantizeLinear.html */
#include "worker/ops/qmatmul.h"

#include "shared/base/math.h"
#include "worker/ops/product.h"
#include "worker/ops/qgemm.h"
#include "worker/ops/qrange.h"
#include "worker/ops/simd.h"

#define BYTES (MQ_T(MQ_DT_U8) | MQ_T(MQ_DT_I8))

/* --- what all three share --- */

static size_t rounded(size_t bytes)
{
    return mq_align_up(bytes, 64);
}

/* Scratch: left operand as unsigned bytes, its row sums, the right matrix packed, 32-bit results.
 */
typedef struct layout {
    size_t left, sums, packed, results, end;
} layout;

static layout layout_of(const mq_product *p, bool needs_results)
{
    layout l = {.left = 0};
    l.sums = l.left + rounded((size_t)(p->m * p->k));
    l.packed = l.sums + rounded((size_t)p->m * sizeof(int32_t));
    l.results = l.packed + rounded(mq_qpack_bytes(p->k, p->n));
    l.end = l.results + (needs_results ? rounded((size_t)(p->m * p->n) * sizeof(int32_t)) : 0);
    return l;
}

static bool fill(void *arg, void *memory)
{
    const mq_tensor *b = arg;
    mq_qmatrix packed;
    mq_qpack(&packed, b->data, b->dtype == MQ_DT_U8, b->shape.dims[0], b->shape.dims[1], memory);
    return true;
}

/* Packs a constant 2-D matrix that is input `index`. */
static mq_code prepare_input(const mq_op_call *call, uint32_t index, mq_arena *arena,
                             const void **state, mq_error *err)
{
    const mq_tensor *b = mq_call_input(call, index);
    *state = NULL;
    if (b == NULL || b->data == NULL || b->shape.rank != 2) {
        return MQ_OK;
    }
    mq_qmatrix *packed = mq_arena_new(arena, mq_qmatrix, 1);
    size_t bytes = mq_qpack_bytes(b->shape.dims[0], b->shape.dims[1]);
    uint64_t form = mq_pack_form(mq_pack_form('Q', b->dtype), (uint64_t)b->shape.dims[0]);
    const void *memory =
        mq_packs_get(call->packs, arena, mq_pack_key_of(call->packs, b->data, form), bytes + 64,
                     fill, (void *)(uintptr_t)b);
    if (packed == NULL || memory == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for packed weights (%zu bytes)", bytes);
    }
    *packed = mq_qpacked(memory, b->dtype == MQ_DT_U8, b->shape.dims[0], b->shape.dims[1]);
    *state = packed;
    return MQ_OK;
}

static int32_t zero_at(const mq_tensor *t, size_t i)
{
    if (t == NULL) {
        return 0;
    }
    i = mq_elements(t) == 1 ? 0 : i;
    return t->dtype == MQ_DT_U8 ? ((const uint8_t *)t->data)[i] : ((const int8_t *)t->data)[i];
}

MQ_ALWAYS_INLINE void take_out_loop(int32_t *restrict row, int64_t n, int32_t za,
                                    const int32_t *restrict sums)
{
    for (int64_t j = 0; j < n; j++) {
        row[j] -= za * sums[j];
    }
}
MQ_SIMD(take_out_row, (int32_t *restrict row, int64_t n, int32_t za, const int32_t *restrict sums),
        take_out_loop(row, n, za, sums), (row, n, za, sums))

/* Zero points and the shifts of the unsigned-times-signed form, taken out of raw sums:
 * sum (a - za)(b - zb) = sum ab - za sum b - zb sum a + k za zb. */
static void take_out(const mq_product *p, const mq_qmatrix *b, const uint8_t *left,
                     int32_t *row_sums, const mq_tensor *zero_a, int32_t shift_a,
                     const mq_tensor *zero_b, int32_t *c)
{
    bool is_b_plain = true;
    for (int64_t j = 0; j < p->n && (j == 0 || (zero_b != NULL && mq_elements(zero_b) > 1)); j++) {
        is_b_plain = is_b_plain && zero_at(zero_b, (size_t)j) == b->shift;
    }
    for (int64_t r = 0; r < p->m; r++) {
        int32_t za = zero_at(zero_a, (size_t)r) + shift_a, sum = 0;
        for (int64_t i = 0; i < p->k && !is_b_plain; i++) {
            sum += left[r * p->k + i];
        }
        row_sums[r] = sum;
        int32_t *row = c + r * p->n;
        if (za != 0) {
            take_out_row(row, p->n, za, b->sums);
        }
        for (int64_t j = 0; j < p->n && !is_b_plain; j++) {
            int32_t zb = zero_at(zero_b, (size_t)j) - b->shift;
            row[j] += zb * ((int32_t)p->k * za - sum);
        }
    }
}

/* One matrix of the batch into 32-bit results. */
static void one(const mq_op_call *call, const mq_product *p, size_t index_a, const mq_qmatrix *b,
                const mq_tensor *zero_a, const mq_tensor *zero_b, int32_t *c)
{
    const mq_tensor *a = call->inputs[0];
    layout l = layout_of(p, false);
    uint8_t *memory = call->scratch;
    size_t bytes = (size_t)(p->m * p->k);
    const uint8_t *left = (const uint8_t *)a->data + index_a * bytes;
    int32_t shift = 0;
    if (a->dtype == MQ_DT_I8) {
        for (size_t i = 0; i < bytes; i++) {
            memory[l.left + i] = left[i] ^ 0x80;
        }
        left = memory + l.left;
        shift = 128;
    }
    mq_qgemm(left, p->m, b, c);
    take_out(p, b, left, (int32_t *)(void *)(memory + l.sums), zero_a, shift, zero_b, c);
}

/* The right matrix of a batch: packed at load, or now. */
static mq_qmatrix right_of(const mq_op_call *call, const mq_product *p, const mq_tensor *b,
                           size_t index)
{
    if (call->state != NULL) {
        return *(const mq_qmatrix *)call->state;
    }
    mq_qmatrix packed;
    layout l = layout_of(p, false);
    const uint8_t *at = (const uint8_t *)b->data + index * (size_t)(p->k * p->n);
    mq_qpack(&packed, at, b->dtype == MQ_DT_U8, p->k, p->n, (uint8_t *)call->scratch + l.packed);
    return packed;
}

static mq_code check_zero(const mq_tensor *t, int64_t along, const char *what, mq_error *err)
{
    size_t count = t == NULL ? 1 : mq_elements(t);
    if (count != 1 && count != (size_t)along) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "%s has %zu elements; 1 or %lld are supported", what,
                       count, (long long)along);
    }
    return MQ_OK;
}

/* --- MatMulInteger --- */

static mq_code integer_shape(const mq_op_call *call, mq_error *err)
{
    mq_tensor *y = call->outputs[0];
    mq_code code =
        mq_product_shape(&call->inputs[0]->shape, &call->inputs[1]->shape, &y->shape, err);
    y->dtype = MQ_DT_I32;
    if (code != MQ_OK) {
        return code;
    }
    mq_product p = mq_product_of(&call->inputs[0]->shape, &call->inputs[1]->shape);
    code = check_zero(mq_call_input(call, 2), p.m, "a_zero_point", err);
    return code == MQ_OK ? check_zero(mq_call_input(call, 3), p.n, "b_zero_point", err) : code;
}

static size_t integer_scratch(const mq_op_call *call)
{
    mq_product p = mq_product_of(&call->inputs[0]->shape, &call->inputs[1]->shape);
    return layout_of(&p, false).end;
}

static mq_code integer_prepare(const mq_op_call *call, mq_arena *arena, const void **state,
                               mq_error *err)
{
    return prepare_input(call, 1, arena, state, err);
}

static mq_code integer_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    mq_product p = mq_product_of(&call->inputs[0]->shape, &call->inputs[1]->shape);
    for (size_t i = 0; i < p.count; i++) {
        size_t a, b;
        mq_product_at(&p, i, &a, &b);
        mq_qmatrix right = right_of(call, &p, call->inputs[1], b);
        one(call, &p, a, &right, mq_call_input(call, 2), mq_call_input(call, 3),
            (int32_t *)call->outputs[0]->data + i * (size_t)(p.m * p.n));
    }
    return MQ_OK;
}

static int32_t byte_at(const mq_tensor *t, size_t i)
{
    return t->dtype == MQ_DT_U8 ? ((const uint8_t *)t->data)[i] : ((const int8_t *)t->data)[i];
}

static mq_code integer_reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    mq_product p = mq_product_of(&call->inputs[0]->shape, &call->inputs[1]->shape);
    for (size_t e = 0; e < p.count * (size_t)(p.m * p.n); e++) {
        size_t a, b, row = e / (size_t)p.n % (size_t)p.m, column = e % (size_t)p.n;
        mq_product_at(&p, e / (size_t)(p.m * p.n), &a, &b);
        int32_t sum = 0;
        for (size_t i = 0; i < (size_t)p.k; i++) {
            sum += (byte_at(call->inputs[0], (a * (size_t)p.m + row) * (size_t)p.k + i) -
                    zero_at(mq_call_input(call, 2), row)) *
                   (byte_at(call->inputs[1], (b * (size_t)p.k + i) * (size_t)p.n + column) -
                    zero_at(mq_call_input(call, 3), column));
        }
        ((int32_t *)call->outputs[0]->data)[e] = sum;
    }
    return MQ_OK;
}

const mq_op mq_op_matmul_integer = {
    .name = "MatMulInteger",
    .domain = "",
    .since = 10,
    .in = {2, 4},
    .out = {1, 1},
    .args = {{'A', BYTES}, {'B', BYTES}, {'A', BYTES}, {'B', BYTES}},
    .shape = integer_shape,
    .scratch = integer_scratch,
    .prepare = integer_prepare,
    .run = integer_run,
    .reference = integer_reference,
    .cases = "| u8[M,K] i8[K,N]; | u8[M,K] i8[K,N] u8{131} i8{0}; | i8[M,K] i8[K,N] i8{-3} i8{7};"
             "| u8[M,K] u8[K,N] u8{5} u8{130}; | u8[B,M,K] i8[B,K,N] u8{9}; | i8[M,K] u8[K,N];"
             "| u8[B,M,K] i8[K,N]; | u8[M,K] i8[K,N] u8[M] i8[N]",
};

/* --- QLinearMatMul --- */

static mq_code linear_shape(const mq_op_call *call, mq_error *err)
{
    mq_tensor *y = call->outputs[0];
    mq_code code =
        mq_product_shape(&call->inputs[0]->shape, &call->inputs[3]->shape, &y->shape, err);
    y->dtype = call->inputs[7]->dtype;
    if (code != MQ_OK) {
        return code;
    }
    mq_product p = mq_product_of(&call->inputs[0]->shape, &call->inputs[3]->shape);
    static const char *const names[] = {"",        "a_scale",      "a_zero_point", "",
                                        "b_scale", "b_zero_point", "y_scale",      "y_zero_point"};
    for (uint32_t i = 1; i < 8 && code == MQ_OK; i++) {
        int64_t along = i < 3 ? p.m : i < 6 ? p.n : 1;
        code = i == 3 ? MQ_OK : check_zero(call->inputs[i], along, names[i], err);
    }
    return code;
}

static size_t linear_scratch(const mq_op_call *call)
{
    mq_product p = mq_product_of(&call->inputs[0]->shape, &call->inputs[3]->shape);
    return layout_of(&p, true).end;
}

static mq_code linear_prepare(const mq_op_call *call, mq_arena *arena, const void **state,
                              mq_error *err)
{
    return prepare_input(call, 3, arena, state, err);
}

static float scale_at(const mq_tensor *t, size_t i)
{
    return ((const float *)t->data)[mq_elements(t) == 1 ? 0 : i];
}

static void requantize(const mq_op_call *call, const mq_product *p, const int32_t *c, uint8_t *y)
{
    bool is_unsigned = call->outputs[0]->dtype == MQ_DT_U8;
    float low = is_unsigned ? 0.0f : -128.0f, high = is_unsigned ? 255.0f : 127.0f;
    float zero = (float)zero_at(call->inputs[7], 0), scale_y = scale_at(call->inputs[6], 0);
    for (int64_t e = 0; e < p->m * p->n; e++) {
        float scale = scale_at(call->inputs[1], (size_t)(e / p->n)) *
                      scale_at(call->inputs[4], (size_t)(e % p->n)) / scale_y;
        float v = (float)c[e] * scale;
        v = v > -1000.0f ? v : -1000.0f; /* NaN too */
        v = v < 1000.0f ? v : 1000.0f;
        v = (v + 12582912.0f) - 12582912.0f + zero; /* to nearest even */
        v = v < low ? low : v > high ? high : v;
        y[e] = (uint8_t)(int32_t)v;
    }
}

static mq_code linear_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    mq_product p = mq_product_of(&call->inputs[0]->shape, &call->inputs[3]->shape);
    layout l = layout_of(&p, true);
    int32_t *c = (int32_t *)(void *)((uint8_t *)call->scratch + l.results);
    for (size_t i = 0; i < p.count; i++) {
        size_t a, b;
        mq_product_at(&p, i, &a, &b);
        mq_qmatrix right = right_of(call, &p, call->inputs[3], b);
        one(call, &p, a, &right, call->inputs[2], call->inputs[5], c);
        requantize(call, &p, c, (uint8_t *)call->outputs[0]->data + i * (size_t)(p.m * p.n));
    }
    return MQ_OK;
}

const mq_op mq_op_qlinear_matmul = {
    .name = "QLinearMatMul",
    .domain = "",
    .since = 10,
    .in = {8, 8},
    .out = {1, 1},
    .args = {{'A', BYTES},
             {0, MQ_T(MQ_DT_F32)},
             {'A', BYTES},
             {'B', BYTES},
             {0, MQ_T(MQ_DT_F32)},
             {'B', BYTES},
             {0, MQ_T(MQ_DT_F32)},
             {'Y', BYTES}},
    .shape = linear_shape,
    .scratch = linear_scratch,
    .prepare = linear_prepare,
    .run = linear_run,
    .cases = "| u8[M,K] f32{0.01} u8{113} i8[K,N] f32{0.02} i8{0} f32{0.05} u8{118};"
             "| i8[B,M,K] f32{0.01} i8{3} i8[B,K,N] f32{0.02} i8{1} f32{0.05} i8{-8}",
};

/* --- the fused dynamic form --- */

static mq_code dense_shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape, *w = &call->inputs[1]->shape;
    mq_tensor *y = call->outputs[0];
    y->dtype = MQ_DT_F32;
    return mq_product_shape(x, w, &y->shape, err);
}

static size_t dense_scratch(const mq_op_call *call)
{
    mq_product p = mq_product_of(&call->inputs[0]->shape, &call->inputs[1]->shape);
    return layout_of(&p, false).end + 2 * (size_t)p.n * sizeof(float); /* scales, zeros */
}

/* 32-bit results become floats where they lie: cast, scale, bias, activation. scales: one a column;
 * b: negative zeros when there is no bias, which change nothing. */
MQ_ALWAYS_INLINE void finish_loop(int32_t *c, int64_t n, const float *restrict scales,
                                  const float *restrict b, bool is_relu)
{
    for (int64_t j = 0; j < n; j++) {
        float v = (float)c[j] * scales[j] + b[j];
        v = is_relu && v < 0.0f ? 0.0f : v;
        memcpy(&c[j], &v, sizeof v);
    }
}
MQ_SIMD(finish_row,
        (int32_t * c, int64_t n, const float *restrict scales, const float *restrict b,
         bool is_relu),
        finish_loop(c, n, scales, b, is_relu), (c, n, scales, b, is_relu))

static void finish(const mq_op_call *call, const mq_product *p, float scale, float *scales)
{
    const mq_qdense_attrs *a = call->attrs;
    const mq_tensor *ws = call->inputs[3], *bias = mq_call_input(call, 4);
    const float *w = ws->data;
    float *zeros = scales + p->n;
    bool is_single = mq_elements(ws) == 1;
    for (int64_t j = 0; j < p->n; j++) {
        scales[j] = scale * w[is_single ? 0 : j];
        zeros[j] = -0.0f;
    }
    int32_t *c = call->outputs[0]->data;
    for (int64_t r = 0; r < p->m; r++) {
        finish_row(c + r * p->n, p->n, scales, bias == NULL ? zeros : bias->data,
                   a->act == MQ_ACT_RELU);
        if (a->act != MQ_ACT_RELU && a->act != MQ_ACT_NONE) {
            float *y = (float *)(void *)c + r * p->n;
            mq_act_map((mq_act){a->act, a->a, a->b}, y, y, (size_t)p->n);
        }
    }
}

static mq_code dense_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    mq_product p = mq_product_of(&call->inputs[0]->shape, &call->inputs[1]->shape);
    layout l = layout_of(&p, false);
    uint8_t *memory = call->scratch, zero;
    float scale;
    mq_qrange(call->inputs[0]->data, (size_t)(p.m * p.k), &scale, &zero, memory + l.left);
    mq_qmatrix right = right_of(call, &p, call->inputs[1], 0);
    int32_t *c = call->outputs[0]->data;
    mq_tensor zero_a = {MQ_DT_U8, {.rank = 0}, &zero, 1};
    mq_qgemm(memory + l.left, p.m, &right, c);
    take_out(&p, &right, memory + l.left, (int32_t *)(void *)(memory + l.sums), &zero_a, 0,
             mq_call_input(call, 2), c);
    finish(call, &p, scale, (float *)(void *)(memory + l.end));
    return MQ_OK;
}

const mq_op mq_op_qdense = {
    .name = "DynamicQuantizedDense",
    .domain = "maasq",
    .since = 1,
    .in = {4, 5},
    .out = {1, 1},
    .args = {{0, MQ_T(MQ_DT_F32)}, {'W', BYTES}, {'W', BYTES}, {0, MQ_T(MQ_DT_F32)}},
    .flags = MQ_OP_INTERNAL,
    .attrs_bytes = sizeof(mq_qdense_attrs),
    .shape = dense_shape,
    .scratch = dense_scratch,
    .prepare = integer_prepare,
    .run = dense_run,
    .cases = "| f32[M,K] i8[K,N] i8{3} f32{0.01} f32[N]; | f32[1,K] u8[K,N] u8{128} f32[N]",
};

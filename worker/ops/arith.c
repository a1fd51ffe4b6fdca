/* Add, Sub, Mul, Div of two broadcast operands, all number types. Opsets 1 and 6 align the second
 * operand by `axis` and only with `broadcast`; from 7 on as NumPy does.
 * onnx.ai/onnx/operators/onnx__Add.html and its three sisters. Integers wrap around; integer
 * division by zero is an error. */
#include "worker/ops/pair.h"

typedef struct arith_attrs {
    int64_t axis, broadcast;
    mq_ints consumed_inputs;
    bool has_axis;
} arith_attrs;

/* The second operand's shape as it aligns with the first. */
static mq_shape aligned(const mq_op_call *call)
{
    const arith_attrs *at = call->attrs;
    mq_shape b = call->inputs[1]->shape;
    const mq_shape *a = &call->inputs[0]->shape;
    if (at == NULL || !at->has_axis || at->axis < -a->rank || at->axis > a->rank) {
        return b; /* shape_old refuses an axis out of range */
    }
    int64_t axis = at->axis < 0 ? at->axis + a->rank : at->axis;
    while (b.rank < a->rank - axis && b.rank < MQ_RANK_MAX) {
        b.dims[b.rank++] = 1;
    }
    return b;
}

static mq_code parse_old(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)opset;
    (void)err;
    ((arith_attrs *)attrs)->has_axis = mq_node_attr(node, "axis") != NULL;
    return MQ_OK;
}

static mq_code shape_old(const mq_op_call *call, mq_error *err)
{
    const arith_attrs *at = call->attrs;
    const mq_shape *a = &call->inputs[0]->shape;
    mq_shape b = aligned(call);
    if (at->has_axis && (at->axis < -a->rank || at->axis > a->rank)) {
        return mq_fail(err, MQ_E_ARG, "axis %lld is outside %d..%d", (long long)at->axis, -a->rank,
                       a->rank);
    }
    if (!at->broadcast && !mq_shape_eq(a, &b)) {
        return mq_fail(err, MQ_E_ARG, "the shapes differ and broadcast is 0");
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    return mq_broadcast(a, &b, &call->outputs[0]->shape, err);
}

#define KERNEL(symbol, type, suffix, expr)                                                         \
    static void symbol##_##suffix(const mq_pair *pair, const void *pa, const void *pb, void *py)   \
    {                                                                                              \
        MQ_PAIR_LOOP(type, type, expr)                                                             \
    }
#define INT_KERNEL(symbol, type, suffix, op)                                                       \
    KERNEL(symbol, type, suffix, (type)((uint64_t)x op(uint64_t) z))
#define KERNELS(symbol, op)                                                                        \
    MQ_ALWAYS_INLINE void symbol##_loop(const mq_pair *pair, const void *pa, const void *pb,       \
                                        void *py){MQ_PAIR_LOOP(                                    \
        float, float, x op z)} MQ_SIMD(symbol##_f32,                                               \
                                       (const mq_pair *pair, const void *pa, const void *pb,       \
                                        void *py),                                                 \
                                       symbol##_loop(pair, pa, pb, py), (pair, pa, pb, py))        \
        KERNEL(symbol, double, f64, x op z)
#define INT_KERNELS(symbol, op)                                                                    \
    INT_KERNEL(symbol, int8_t, i8, op)                                                             \
    INT_KERNEL(symbol, int16_t, i16, op)                                                           \
    INT_KERNEL(symbol, int32_t, i32, op)                                                           \
    INT_KERNEL(symbol, int64_t, i64, op)                                                           \
    INT_KERNEL(symbol, uint8_t, u8, op)                                                            \
    INT_KERNEL(symbol, uint16_t, u16, op)                                                          \
    INT_KERNEL(symbol, uint32_t, u32, op)                                                          \
    INT_KERNEL(symbol, uint64_t, u64, op)

KERNELS(add, +)
INT_KERNELS(add, +)
KERNELS(sub, -)
INT_KERNELS(sub, -)
KERNELS(mul, *)
INT_KERNELS(mul, *)
KERNELS(div, /)
#define NEGATED(x) (0 - (uint64_t)(x)) /* INT_MIN / -1 wraps instead of trapping */
KERNEL(div, int8_t, i8, (int8_t)(z == -1 ? (int)NEGATED(x) : x / z))
KERNEL(div, int16_t, i16, (int16_t)(z == -1 ? (int)NEGATED(x) : x / z))
KERNEL(div, int32_t, i32, z == -1 ? (int32_t)NEGATED(x) : x / z)
KERNEL(div, int64_t, i64, z == -1 ? (int64_t)NEGATED(x) : x / z)
KERNEL(div, uint8_t, u8, (uint8_t)(x / z))
KERNEL(div, uint16_t, u16, (uint16_t)(x / z))
KERNEL(div, uint32_t, u32, x / z)
KERNEL(div, uint64_t, u64, x / z)

typedef void kernel(const mq_pair *pair, const void *pa, const void *pb, void *py);

#define DISPATCH(symbol)                                                                           \
    static kernel *symbol##_kernel(mq_dtype dtype)                                                 \
    {                                                                                              \
        switch ((int)dtype) {                                                                      \
        case MQ_DT_F64:                                                                            \
            return symbol##_f64;                                                                   \
        case MQ_DT_I8:                                                                             \
            return symbol##_i8;                                                                    \
        case MQ_DT_I16:                                                                            \
            return symbol##_i16;                                                                   \
        case MQ_DT_I32:                                                                            \
            return symbol##_i32;                                                                   \
        case MQ_DT_I64:                                                                            \
            return symbol##_i64;                                                                   \
        case MQ_DT_U8:                                                                             \
            return symbol##_u8;                                                                    \
        case MQ_DT_U16:                                                                            \
            return symbol##_u16;                                                                   \
        case MQ_DT_U32:                                                                            \
            return symbol##_u32;                                                                   \
        case MQ_DT_U64:                                                                            \
            return symbol##_u64;                                                                   \
        default:                                                                                   \
            return symbol##_f32;                                                                   \
        }                                                                                          \
    }

/* Does an integer tensor hold a zero? */
static bool has_zero(const mq_tensor *t)
{
    size_t each = mq_dtype_bytes(t->dtype), n = mq_elements(t);
    static const uint8_t zero[8];
    bool is_float = t->dtype == MQ_DT_F32 || t->dtype == MQ_DT_F64;
    for (size_t i = 0; i < n && !is_float; i++) {
        if (memcmp((const uint8_t *)t->data + i * each, zero, each) == 0) {
            return true;
        }
    }
    return false;
}

#define RUN(symbol, check)                                                                         \
    DISPATCH(symbol)                                                                               \
    static mq_code run_##symbol(const mq_op_call *call, mq_error *err)                             \
    {                                                                                              \
        mq_shape b = aligned(call);                                                                \
        mq_pair pair = mq_pair_of(&call->inputs[0]->shape, &b, &call->outputs[0]->shape);          \
        if (check) {                                                                               \
            return mq_fail(err, MQ_E_NUMERIC, "integer division by zero");                         \
        }                                                                                          \
        symbol##_kernel(call->inputs[0]->dtype)(&pair, call->inputs[0]->data,                      \
                                                call->inputs[1]->data, call->outputs[0]->data);    \
        return MQ_OK;                                                                              \
    }

RUN(add, false)
RUN(sub, false)
RUN(mul, false)
RUN(div, has_zero(call->inputs[1]))

/* Gradients: summed over what was broadcast, in row-major order of the output. */
#define GRAD(symbol, slope_x, slope_z)                                                             \
    static void grad_##symbol(const mq_op_grad *g)                                                 \
    {                                                                                              \
        const mq_op_call *call = &g->call;                                                         \
        mq_shape sb = aligned(call);                                                               \
        mq_pair pair = mq_pair_of(&call->inputs[0]->shape, &sb, &call->outputs[0]->shape);         \
        size_t n = pair.dims[pair.rank - 1];                                                       \
        size_t da = pair.a[pair.rank - 1], db = pair.b[pair.rank - 1];                             \
        for (int which = 0; which < 2; which++) {                                                  \
            if (g->dx[which] != NULL && !g->add[which]) {                                          \
                memset(g->dx[which], 0, mq_elements(call->inputs[which]) * sizeof(float));         \
            }                                                                                      \
        }                                                                                          \
        for (size_t o = 0; o < pair.outer; o++) {                                                  \
            size_t ia, ib;                                                                         \
            mq_pair_at(&pair, o, &ia, &ib);                                                        \
            const float *a = (const float *)call->inputs[0]->data + ia;                            \
            const float *b = (const float *)call->inputs[1]->data + ib;                            \
            const float *dy = g->dy[0] + o * n;                                                    \
            for (size_t i = 0; i < n && g->dx[0] != NULL; i++) {                                   \
                const float x = a[i * da], z = b[i * db], d = dy[i];                               \
                (void)x;                                                                           \
                (void)z;                                                                           \
                g->dx[0][ia + i * da] += (slope_x);                                                \
            }                                                                                      \
            for (size_t i = 0; i < n && g->dx[1] != NULL; i++) {                                   \
                const float x = a[i * da], z = b[i * db], d = dy[i];                               \
                (void)x;                                                                           \
                (void)z;                                                                           \
                g->dx[1][ib + i * db] += (slope_z);                                                \
            }                                                                                      \
        }                                                                                          \
    }

GRAD(add, d, d)
GRAD(sub, d, -d)
GRAD(mul, d *z, d *x)
GRAD(div, d / z, -d *x / (z * z))

/* The plain way: index vectors, double arithmetic (integers as int64). */
static double as_double(const mq_tensor *t, size_t i)
{
    switch ((int)t->dtype) {
    case MQ_DT_F64:
        return ((const double *)t->data)[i];
    case MQ_DT_I64:
        return (double)((const int64_t *)t->data)[i];
    case MQ_DT_I32:
        return (double)((const int32_t *)t->data)[i];
    case MQ_DT_U8:
        return (double)((const uint8_t *)t->data)[i];
    default:
        return (double)((const float *)t->data)[i];
    }
}

static void put_double(const mq_tensor *t, size_t i, double v)
{
    switch ((int)t->dtype) {
    case MQ_DT_F64:
        ((double *)t->data)[i] = v;
        break;
    case MQ_DT_I64:
        ((int64_t *)t->data)[i] = (int64_t)v;
        break;
    case MQ_DT_I32:
        ((int32_t *)t->data)[i] = (int32_t)v;
        break;
    case MQ_DT_U8:
        ((uint8_t *)t->data)[i] = (uint8_t)(int64_t)v;
        break;
    default:
        ((float *)t->data)[i] = (float)v;
        break;
    }
}

#define REFERENCE(symbol, expr)                                                                    \
    static mq_code reference_##symbol(const mq_op_call *call, mq_error *err)                       \
    {                                                                                              \
        (void)err;                                                                                 \
        const mq_shape *s = &call->outputs[0]->shape;                                              \
        mq_shape shape_b = aligned(call);                                                          \
        mq_strides a = mq_strides_of(&call->inputs[0]->shape, s), b = mq_strides_of(&shape_b, s);  \
        int64_t index[MQ_RANK_MAX] = {0};                                                          \
        for (size_t i = 0; i < mq_elements(call->outputs[0]); i++) {                               \
            double x = as_double(call->inputs[0], mq_offset(&a, index, s->rank));                  \
            double z = as_double(call->inputs[1], mq_offset(&b, index, s->rank));                  \
            put_double(call->outputs[0], i, (expr));                                               \
            mq_next_index(s, index);                                                               \
        }                                                                                          \
        return MQ_OK;                                                                              \
    }
REFERENCE(add, x + z)
REFERENCE(sub, x - z)
REFERENCE(mul, x *z)
REFERENCE(div, x / z)

static const mq_attr_spec old_specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(arith_attrs, axis)},
    {.name = "broadcast", .type = MQ_ATTR_INT, .offset = offsetof(arith_attrs, broadcast)},
    {.name = "consumed_inputs",
     .type = MQ_ATTR_INTS,
     .offset = offsetof(arith_attrs, consumed_inputs)},
    {.name = NULL},
};

#define COMMON(symbol, name_)                                                                      \
    .name = name_, .domain = "", .in = {2, 2}, .out = {1, 1}, .args = {{'T', MQ_T_NUMBERS}},       \
    .flags = MQ_OP_ELEMENTWISE, .params = 3, .grad_keeps = MQ_GRAD_INPUTS, .run = run_##symbol,    \
    .grad = grad_##symbol, .reference = reference_##symbol

#define ARITH(symbol, name_)                                                                       \
    const mq_op mq_op_##symbol##_1 = {COMMON(symbol, name_),                                       \
                                      .since = 1,                                                  \
                                      .attrs_bytes = sizeof(arith_attrs),                          \
                                      .specs = old_specs,                                          \
                                      .parse = parse_old,                                          \
                                      .shape = shape_old,                                          \
                                      .cases = "| f32[A,B] f32[A,B];"                              \
                                               "broadcast=1 axis=1 | f32[A,B,C] f32[B]+;"          \
                                               "broadcast=1 | f32[A,B,C] f32[B,C]+"};              \
    const mq_op mq_op_##symbol##_7 = {                                                             \
        COMMON(symbol, name_), .since = 7, .shape = mq_shape_broadcast,                            \
        .cases = "| f32[A,B,C] f32[A,B,C]+; | f32[A,B] f32[B]+; | f32[A,1,C] f32[B,1]+;"           \
                 "| f64[A] f64[]+; | f32[] f32[A,B]+; | i32[A,B] i32[A,1]+; | i64[A] i64[A]+;"     \
                 "| u8[A,B] u8[1,B]+; | f32[A,1,B,1] f32[C,1,D]+; | f32[0,A] f32[A]+"}

ARITH(add, "Add");
ARITH(sub, "Sub");
ARITH(mul, "Mul");
ARITH(div, "Div");

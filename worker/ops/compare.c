/* Comparisons (Equal, Greater, Less, ...), logic (And, Or, Xor, Not) and Where. Results are bool
 * tensors of one byte an element, 0 or 1. */
#include "worker/ops/pair.h"

static mq_code bool_broadcast(const mq_op_call *call, mq_error *err)
{
    mq_code code = mq_shape_broadcast(call, err);
    call->outputs[0]->dtype = MQ_DT_BOOL;
    return code;
}

#define TYPED(type, expr)                                                                          \
    {                                                                                              \
        MQ_PAIR_LOOP(type, uint8_t, expr)                                                          \
        break;                                                                                     \
    }

#define COMPARE(symbol, expr)                                                                      \
    static mq_code run_##symbol(const mq_op_call *call, mq_error *err)                             \
    {                                                                                              \
        (void)err;                                                                                 \
        mq_pair walk = mq_pair_of(&call->inputs[0]->shape, &call->inputs[1]->shape,                \
                                  &call->outputs[0]->shape);                                       \
        const mq_pair *pair = &walk;                                                               \
        const void *pa = call->inputs[0]->data, *pb = call->inputs[1]->data;                       \
        void *py = call->outputs[0]->data;                                                         \
        switch ((int)call->inputs[0]->dtype) {                                                     \
        case MQ_DT_F64:                                                                            \
            TYPED(double, expr)                                                                    \
        case MQ_DT_I8:                                                                             \
            TYPED(int8_t, expr)                                                                    \
        case MQ_DT_I16:                                                                            \
            TYPED(int16_t, expr)                                                                   \
        case MQ_DT_I32:                                                                            \
            TYPED(int32_t, expr)                                                                   \
        case MQ_DT_I64:                                                                            \
            TYPED(int64_t, expr)                                                                   \
        case MQ_DT_BOOL:                                                                           \
        case MQ_DT_U8:                                                                             \
            TYPED(uint8_t, expr)                                                                   \
        case MQ_DT_U16:                                                                            \
            TYPED(uint16_t, expr)                                                                  \
        case MQ_DT_U32:                                                                            \
            TYPED(uint32_t, expr)                                                                  \
        case MQ_DT_U64:                                                                            \
            TYPED(uint64_t, expr)                                                                  \
        default:                                                                                   \
            TYPED(float, expr)                                                                     \
        }                                                                                          \
        return MQ_OK;                                                                              \
    }                                                                                              \
    static mq_code reference_##symbol(const mq_op_call *call, mq_error *err)                       \
    {                                                                                              \
        (void)err;                                                                                 \
        const mq_shape *s = &call->outputs[0]->shape;                                              \
        mq_strides sa = mq_strides_of(&call->inputs[0]->shape, s);                                 \
        mq_strides sb = mq_strides_of(&call->inputs[1]->shape, s);                                 \
        int64_t index[MQ_RANK_MAX] = {0};                                                          \
        for (size_t i = 0; i < mq_elements(call->outputs[0]); i++) {                               \
            double x = number(call->inputs[0], mq_offset(&sa, index, s->rank));                    \
            double z = number(call->inputs[1], mq_offset(&sb, index, s->rank));                    \
            ((uint8_t *)call->outputs[0]->data)[i] = (expr);                                       \
            mq_next_index(s, index);                                                               \
        }                                                                                          \
        return MQ_OK;                                                                              \
    }

static double number(const mq_tensor *t, size_t i)
{
    return t->dtype == MQ_DT_F32   ? (double)((const float *)t->data)[i]
           : t->dtype == MQ_DT_F64 ? ((const double *)t->data)[i]
           : t->dtype == MQ_DT_I32 ? (double)((const int32_t *)t->data)[i]
           : t->dtype == MQ_DT_I64 ? (double)((const int64_t *)t->data)[i]
                                   : (double)((const uint8_t *)t->data)[i];
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wfloat-equal"
COMPARE(equal, x == z)
COMPARE(greater, x > z)
COMPARE(less, x < z)
COMPARE(greater_equal, x >= z)
COMPARE(less_equal, x <= z)
COMPARE(and, x != 0 && z != 0)
COMPARE(or, x != 0 || z != 0)
COMPARE(xor, (x != 0) != (z != 0))
#pragma GCC diagnostic pop

/* Below opset 7 the second operand is aligned by `axis`, which is not supported here. */
#define OP(symbol, name_, since_, types_, cases_)                                                  \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {2, 2},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{'T', types_}},                                                                   \
        .shape = bool_broadcast,                                                                   \
        .run = run_##symbol,                                                                       \
        .reference = reference_##symbol,                                                           \
        .cases = cases_,                                                                           \
    }
#define NUMBERS "| f32[A,B] f32[A,B]; | i64[A,B] i64[B]; | f64[A,1] f64[1,B]; | u8[A] u8[]"
#define BOOLS   "| bool[A,B] bool[A,B]; | bool[A,1,B] bool[C,1]"
OP(equal, "Equal", 7, MQ_T_NUMBERS | MQ_T_BOOL, NUMBERS);
OP(greater, "Greater", 7, MQ_T_NUMBERS, NUMBERS);
OP(less, "Less", 7, MQ_T_NUMBERS, NUMBERS);
OP(greater_equal, "GreaterOrEqual", 12, MQ_T_NUMBERS, NUMBERS);
OP(less_equal, "LessOrEqual", 12, MQ_T_NUMBERS, NUMBERS);
OP(and, "And", 7, MQ_T_BOOL, BOOLS);
OP(or, "Or", 7, MQ_T_BOOL, BOOLS);
OP(xor, "Xor", 7, MQ_T_BOOL, BOOLS);

/* --- Not --- */

static mq_code not_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    for (size_t i = 0, n = mq_elements(call->inputs[0]); i < n; i++) {
        ((uint8_t *)call->outputs[0]->data)[i] = ((const uint8_t *)call->inputs[0]->data)[i] == 0;
    }
    return MQ_OK;
}

const mq_op mq_op_not = {
    .name = "Not",
    .domain = "",
    .since = 1,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{'T', MQ_T_BOOL}},
    .flags = MQ_OP_ELEMENTWISE,
    .shape = mq_shape_same,
    .run = not_run,
    .reference = not_run,
    .cases = "| bool[A,B]; | bool[]",
};

/* --- Where --- */

static mq_code where_shape(const mq_op_call *call, mq_error *err)
{
    mq_shape both;
    mq_code code = mq_broadcast(&call->inputs[1]->shape, &call->inputs[2]->shape, &both, err);
    call->outputs[0]->dtype = call->inputs[1]->dtype;
    return code != MQ_OK
               ? code
               : mq_broadcast(&call->inputs[0]->shape, &both, &call->outputs[0]->shape, err);
}

/* Which input and which of its elements output element i is. */
typedef struct where_walk {
    mq_strides strides[3];
    int64_t index[MQ_RANK_MAX];
    const mq_shape *shape;
    const uint8_t *condition;
} where_walk;

static where_walk where_start(const mq_op_call *call)
{
    where_walk w = {.shape = &call->outputs[0]->shape, .condition = call->inputs[0]->data};
    for (int i = 0; i < 3; i++) {
        w.strides[i] = mq_strides_of(&call->inputs[i]->shape, w.shape);
    }
    return w;
}

static uint32_t where_next(where_walk *w, size_t *at)
{
    size_t c = mq_offset(&w->strides[0], w->index, w->shape->rank);
    uint32_t which = w->condition[c] != 0 ? 1 : 2;
    *at = mq_offset(&w->strides[which], w->index, w->shape->rank);
    mq_next_index(w->shape, w->index);
    return which;
}

/* Elements of four bytes, run by run along the last dimension. */
static void where_words(const mq_op_call *call)
{
    where_walk w = where_start(call);
    mq_shape outer = *w.shape;
    uint32_t *y = call->outputs[0]->data;
    size_t count = mq_elements(call->outputs[0]), n = 1, step[3] = {0, 0, 0};
    if (outer.rank > 0) {
        outer.rank--;
        n = (size_t)outer.dims[outer.rank];
        for (int i = 0; i < 3; i++) {
            step[i] = w.strides[i].at[outer.rank];
        }
    }
    for (size_t at = 0; at < count; at += n, y += n) {
        const uint8_t *c = w.condition + mq_offset(&w.strides[0], w.index, outer.rank);
        const uint32_t *a = call->inputs[1]->data, *b = call->inputs[2]->data;
        a += mq_offset(&w.strides[1], w.index, outer.rank);
        b += mq_offset(&w.strides[2], w.index, outer.rank);
        for (size_t i = 0; i < n; i++) {
            uint32_t u = a[i * step[1]], v = b[i * step[2]];
            y[i] = c[i * step[0]] != 0 ? u : v;
        }
        mq_next_index(&outer, w.index);
    }
}

static mq_code where_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *y = call->outputs[0];
    if (y->dtype != MQ_DT_STR && mq_dtype_bytes(y->dtype) == sizeof(uint32_t)) {
        where_words(call);
        return MQ_OK;
    }
    where_walk w = where_start(call);
    size_t each = y->dtype == MQ_DT_STR ? sizeof(mq_span) : mq_dtype_bytes(y->dtype);
    for (size_t i = 0, n = mq_elements(y); i < n; i++) {
        size_t at;
        uint32_t which = where_next(&w, &at);
        memcpy((uint8_t *)y->data + i * each,
               (const uint8_t *)call->inputs[which]->data + at * each, each);
    }
    return MQ_OK;
}

static void where_grad(const mq_op_grad *g)
{
    where_walk w = where_start(&g->call);
    for (uint32_t i = 1; i < 3; i++) {
        if (g->dx[i] != NULL && !g->add[i]) {
            memset(g->dx[i], 0, mq_elements(g->call.inputs[i]) * sizeof(float));
        }
    }
    for (size_t i = 0, n = mq_elements(g->call.outputs[0]); i < n; i++) {
        size_t at;
        uint32_t which = where_next(&w, &at);
        if (g->dx[which] != NULL) {
            g->dx[which][at] += g->dy[0][i];
        }
    }
}

const mq_op mq_op_where = {
    .name = "Where",
    .domain = "",
    .since = 9,
    .in = {3, 3},
    .out = {1, 1},
    .args = {{0, MQ_T_BOOL},
             {'T', MQ_T_FIXED | MQ_T(MQ_DT_STR)},
             {'T', MQ_T_FIXED | MQ_T(MQ_DT_STR)}},
    .grad_keeps = MQ_GRAD_INPUTS,
    .shape = where_shape,
    .run = where_run,
    .grad = where_grad,
    .cases = "| bool[A,B] f32[A,B] f32[A,B]; | bool[A,1] f32[B] f32[]; | bool[B] i64[A,1] i64[A,B]",
};

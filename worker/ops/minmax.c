/* Min, Max, Sum and Mean over any number of broadcast operands. NaN in any operand gives NaN. */
#include "worker/ops/pair.h"

#define MIN_OF(x, z) ((x) != (x) ? (x) : (z) != (z) ? (z) : (z) < (x) ? (z) : (x))
#define MAX_OF(x, z) ((x) != (x) ? (x) : (z) != (z) ? (z) : (z) > (x) ? (z) : (x))

/* y = op(y, b): the first operand has been copied to y. */
#define STEP(type, expr)                                                                           \
    {                                                                                              \
        MQ_PAIR_LOOP(type, type, (type)(expr))                                                     \
        break;                                                                                     \
    }

#define ACCUMULATE(symbol, expr)                                                                   \
    static void symbol##_step(const mq_tensor *out, const mq_tensor *operand)                      \
    {                                                                                              \
        mq_pair walk = mq_pair_of(&out->shape, &operand->shape, &out->shape);                      \
        const mq_pair *pair = &walk;                                                               \
        const void *pa = out->data, *pb = operand->data;                                           \
        void *py = out->data;                                                                      \
        switch ((int)out->dtype) {                                                                 \
        case MQ_DT_F64:                                                                            \
            STEP(double, expr)                                                                     \
        case MQ_DT_I8:                                                                             \
            STEP(int8_t, expr)                                                                     \
        case MQ_DT_I16:                                                                            \
            STEP(int16_t, expr)                                                                    \
        case MQ_DT_I32:                                                                            \
            STEP(int32_t, expr)                                                                    \
        case MQ_DT_I64:                                                                            \
            STEP(int64_t, expr)                                                                    \
        case MQ_DT_U8:                                                                             \
            STEP(uint8_t, expr)                                                                    \
        case MQ_DT_U16:                                                                            \
            STEP(uint16_t, expr)                                                                   \
        case MQ_DT_U32:                                                                            \
            STEP(uint32_t, expr)                                                                   \
        case MQ_DT_U64:                                                                            \
            STEP(uint64_t, expr)                                                                   \
        default:                                                                                   \
            STEP(float, expr)                                                                      \
        }                                                                                          \
    }

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wfloat-equal"
ACCUMULATE(min, MIN_OF(x, z))
ACCUMULATE(max, MAX_OF(x, z))
#pragma GCC diagnostic pop

static void sum_step(const mq_tensor *out, const mq_tensor *operand)
{
    mq_pair walk = mq_pair_of(&out->shape, &operand->shape, &out->shape);
    const mq_pair *pair = &walk;
    const void *pa = out->data, *pb = operand->data;
    void *py = out->data;
    if (out->dtype == MQ_DT_F64) {
        MQ_PAIR_LOOP(double, double, x + z)
    } else {
        MQ_PAIR_LOOP(float, float, x + z)
    }
}

/* The first operand broadcast into y. */
static void start(const mq_op_call *call)
{
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    size_t each = mq_dtype_bytes(y->dtype);
    mq_strides s = mq_strides_of(&x->shape, &y->shape);
    int64_t index[MQ_RANK_MAX] = {0};
    if (x->bytes == y->bytes) {
        memmove(y->data, x->data, y->bytes);
        return;
    }
    for (size_t i = 0; i < mq_elements(y); i++) {
        memcpy((uint8_t *)y->data + i * each,
               (const uint8_t *)x->data + mq_offset(&s, index, y->shape.rank) * each, each);
        mq_next_index(&y->shape, index);
    }
}

#define RUN(symbol, step)                                                                          \
    static mq_code run_##symbol(const mq_op_call *call, mq_error *err)                             \
    {                                                                                              \
        (void)err;                                                                                 \
        start(call);                                                                               \
        for (uint32_t i = 1; i < call->input_count; i++) {                                         \
            step(call->outputs[0], call->inputs[i]);                                               \
        }                                                                                          \
        return MQ_OK;                                                                              \
    }
RUN(min, min_step)
RUN(max, max_step)
RUN(sum, sum_step)

static mq_code run_mean(const mq_op_call *call, mq_error *err)
{
    mq_code code = run_sum(call, err);
    const mq_tensor *y = call->outputs[0];
    for (size_t i = 0, n = mq_elements(y); i < n; i++) {
        if (y->dtype == MQ_DT_F64) {
            ((double *)y->data)[i] /= (double)call->input_count;
        } else {
            ((float *)y->data)[i] /= (float)call->input_count;
        }
    }
    return code;
}

static void grad_scaled(const mq_op_grad *g, float scale)
{
    const mq_tensor *y = g->call.outputs[0];
    for (size_t i = 0, n = mq_elements(y); i < n && scale != 1.0f; i++) {
        g->dy[0][i] *= scale;
    }
    for (uint32_t i = 0; i < g->call.input_count; i++) {
        if (g->dx[i] != NULL) {
            mq_reduce_to(g->dy[0], &y->shape, g->dx[i], &g->call.inputs[i]->shape, g->add[i]);
        }
    }
}

static void grad_sum(const mq_op_grad *g)
{
    grad_scaled(g, 1.0f);
}

static void grad_mean(const mq_op_grad *g)
{
    grad_scaled(g, 1.0f / (float)g->call.input_count);
}

/* The first operand that equals the result gets the gradient. */
static void grad_pick(const mq_op_grad *g)
{
    const mq_op_call *call = &g->call;
    const mq_shape *s = &call->outputs[0]->shape;
    int64_t index[MQ_RANK_MAX] = {0};
    for (uint32_t k = 0; k < call->input_count; k++) {
        if (g->dx[k] != NULL && !g->add[k]) {
            memset(g->dx[k], 0, mq_elements(call->inputs[k]) * sizeof(float));
        }
    }
    for (size_t i = 0; i < mq_elements(call->outputs[0]); i++) {
        for (uint32_t k = 0; k < call->input_count; k++) {
            mq_strides strides = mq_strides_of(&call->inputs[k]->shape, s);
            size_t at = mq_offset(&strides, index, s->rank);
            if (mq_bits_float(((const float *)call->inputs[k]->data)[at]) !=
                mq_bits_float(((const float *)call->outputs[0]->data)[i])) {
                continue;
            }
            if (g->dx[k] != NULL) {
                g->dx[k][at] += g->dy[0][i];
            }
            break;
        }
        mq_next_index(s, index);
    }
}

static mq_code reference_of(const mq_op_call *call, int which)
{
    const mq_tensor *y = call->outputs[0];
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t i = 0; i < mq_elements(y); i++) {
        double v = 0.0;
        for (uint32_t k = 0; k < call->input_count; k++) {
            mq_strides s = mq_strides_of(&call->inputs[k]->shape, &y->shape);
            size_t at = mq_offset(&s, index, y->shape.rank);
            double x = y->dtype == MQ_DT_F32 ? (double)((const float *)call->inputs[k]->data)[at]
                       : y->dtype == MQ_DT_F64
                           ? ((const double *)call->inputs[k]->data)[at]
                           : (double)((const int32_t *)call->inputs[k]->data)[at];
            v = k == 0 ? x : which == 0 ? fmin(v, x) : which == 1 ? fmax(v, x) : v + x;
        }
        v = which == 3 ? v / (double)call->input_count : v;
        if (y->dtype == MQ_DT_F32) {
            ((float *)y->data)[i] = (float)v;
        } else if (y->dtype == MQ_DT_F64) {
            ((double *)y->data)[i] = v;
        } else {
            ((int32_t *)y->data)[i] = (int32_t)v;
        }
        mq_next_index(&y->shape, index);
    }
    return MQ_OK;
}

#define REFERENCE(symbol, which)                                                                   \
    static mq_code reference_##symbol(const mq_op_call *call, mq_error *err)                       \
    {                                                                                              \
        (void)err;                                                                                 \
        return reference_of(call, which);                                                          \
    }
REFERENCE(min, 0)
REFERENCE(max, 1)
REFERENCE(sum, 2)
REFERENCE(mean, 3)

#define OP(symbol, name_, since_, types_, grad_, cases_)                                           \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {1, UINT32_MAX},                                                                     \
        .out = {1, 1},                                                                             \
        .args = {{'T', types_}},                                                                   \
        .grad_keeps = MQ_GRAD_INPUTS | MQ_GRAD_OUTPUTS,                                            \
        .shape = mq_shape_broadcast,                                                               \
        .run = run_##symbol,                                                                       \
        .grad = grad_,                                                                             \
        .reference = reference_##symbol,                                                           \
        .cases = cases_,                                                                           \
    }
#define FLOATS "| f32[A,B] f32[A,B]; | f32[A,1] f32[B] f32[A,B]; | f64[A] f64[]; | f32[A]"
OP(min, "Min", 1, MQ_T_NUMBERS, grad_pick, FLOATS "; | i32[A,B] i32[B]");
OP(max, "Max", 1, MQ_T_NUMBERS, grad_pick, FLOATS "; | i32[A,B] i32[B]");
OP(sum, "Sum", 1, MQ_T_FLOATS, grad_sum, FLOATS);
OP(mean, "Mean", 1, MQ_T_FLOATS, grad_mean, FLOATS);

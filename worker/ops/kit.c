/* Shared helpers of the operators; see kit.h. */
#include "worker/ops/flat.h"

#include "shared/base/assert.h"

mq_code mq_axis(int64_t axis, int32_t rank, int32_t *out, mq_error *err)
{
    if (axis < -(int64_t)rank || axis >= rank) {
        return mq_fail(err, MQ_E_ARG, "axis %lld is outside %d..%d", (long long)axis, -rank,
                       rank - 1);
    }
    *out = (int32_t)(axis < 0 ? axis + rank : axis);
    return MQ_OK;
}

size_t mq_tensor_ints(const mq_tensor *t, int64_t *out, size_t room)
{
    size_t count = mq_elements(t);
    for (size_t i = 0; i < count && i < room; i++) {
        out[i] =
            t->dtype == MQ_DT_I32 ? ((const int32_t *)t->data)[i] : ((const int64_t *)t->data)[i];
    }
    return count;
}

mq_code mq_shape_same(const mq_op_call *call, mq_error *err)
{
    (void)err;
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = call->inputs[0]->shape;
    return MQ_OK;
}

mq_code mq_broadcast(const mq_shape *a, const mq_shape *b, mq_shape *out, mq_error *err)
{
    mq_shape r = {.rank = a->rank > b->rank ? a->rank : b->rank};
    for (int32_t i = 0; i < r.rank; i++) {
        int32_t ia = i - (r.rank - a->rank), ib = i - (r.rank - b->rank);
        int64_t da = ia < 0 ? 1 : a->dims[ia], db = ib < 0 ? 1 : b->dims[ib];
        if (da != db && da != 1 && db != 1) {
            char ta[128], tb[128];
            return mq_fail(err, MQ_E_ARG, "shapes %s and %s do not broadcast",
                           mq_shape_text(a, ta, sizeof ta), mq_shape_text(b, tb, sizeof tb));
        }
        r.dims[i] = da == 1 ? db : da;
    }
    *out = r;
    return MQ_OK;
}

mq_code mq_shape_broadcast(const mq_op_call *call, mq_error *err)
{
    mq_shape shape = call->inputs[0]->shape;
    for (uint32_t i = 1; i < call->input_count; i++) {
        mq_code code = mq_broadcast(&shape, &call->inputs[i]->shape, &shape, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = shape;
    return MQ_OK;
}

mq_strides mq_strides_of(const mq_shape *operand, const mq_shape *out)
{
    mq_strides s = {{0}};
    size_t stride = 1;
    int32_t shift = out->rank - operand->rank;
    for (int32_t i = operand->rank - 1; i >= 0; i--) {
        s.at[i + shift] = operand->dims[i] == 1 ? 0 : stride;
        stride *= (size_t)operand->dims[i];
    }
    return s;
}

bool mq_next_index(const mq_shape *shape, int64_t *index)
{
    for (int32_t i = shape->rank - 1; i >= 0; i--) {
        if (++index[i] < shape->dims[i]) {
            return true;
        }
        index[i] = 0;
    }
    return false;
}

size_t mq_offset(const mq_strides *strides, const int64_t *index, int32_t rank)
{
    size_t offset = 0;
    for (int32_t i = 0; i < rank; i++) {
        offset += strides->at[i] * (size_t)index[i];
    }
    return offset;
}

/* Columns of [rows, n] added into n: the bias case, vectorized over columns. */
static void sum_rows(const float *from, size_t rows, size_t n, float *to)
{
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = 0; i < n; i++) {
            to[i] += from[r * n + i];
        }
    }
}

void mq_reduce_to(const float *from, const mq_shape *full, float *to, const mq_shape *part,
                  bool is_added)
{
    mq_tensor f = {.shape = *full}, p = {.shape = *part};
    size_t count = mq_elements(&f), small = mq_elements(&p);
    if (!is_added) {
        memset(to, 0, small * sizeof *to);
    }
    if (count == 0) {
        return;
    }
    bool is_tail = true; /* part is the last dimensions of full */
    for (int32_t i = 0; i < part->rank; i++) {
        is_tail = is_tail && part->dims[i] == full->dims[full->rank - part->rank + i];
    }
    if (is_tail) {
        sum_rows(from, count / small, small, to);
        return;
    }
    mq_strides strides = mq_strides_of(part, full);
    int64_t index[MQ_RANK_MAX] = {0};
    size_t i = 0;
    do {
        to[mq_offset(&strides, index, full->rank)] += from[i++];
    } while (mq_next_index(full, index));
    MQ_ASSERT(i == count);
}

float mq_logf(float x)
{
    uint32_t bits = mq_bits_float(x);
    if (x != x || bits == 0x7f800000u) {
        return x;
    }
    if (x <= 0.0f) {
        return x == 0.0f ? mq_float_bits(0xff800000u) : mq_float_bits(0x7fc00000u);
    }
    int32_t e = 0;
    if (bits < 0x00800000u) { /* denormal */
        bits = mq_bits_float(x * 8388608.0f);
        e = -23;
    }
    e += (int32_t)(bits >> 23) - 126;
    float m = mq_float_bits((bits & 0x007fffffu) | 0x3f000000u); /* [0.5, 1) */
    if (m < 0.707106781f) {
        e--;
        m = m + m;
    }
    m = m - 1.0f;
    static const float c[9] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                               -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                               2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    float z = m * m, p = c[0], n = (float)e;
    for (int i = 1; i < 9; i++) {
        p = p * m + c[i];
    }
    float y = m * z * p;
    y = y - n * 2.12194440e-4f;
    y = y - 0.5f * z;
    return (m + y) + n * 0.693359375f;
}

float mq_tanhf(float x)
{
    return mq_tanh_flat(x);
}

float mq_erff(float x)
{
    return mq_erf_flat(x);
}

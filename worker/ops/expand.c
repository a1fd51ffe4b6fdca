/* Expand: broadcasts to a shape. onnx.ai/onnx/operators/onnx__Expand.html */
#include "worker/ops/copy.h"

#define ANY_TYPE (MQ_T_FIXED | MQ_T(MQ_DT_STR))

static mq_code expand_shape(const mq_op_call *call, mq_error *err)
{
    int64_t dims[MQ_RANK_MAX];
    size_t count = mq_tensor_ints(call->inputs[1], dims, MQ_RANK_MAX);
    if (count > MQ_RANK_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "rank %zu is above %d", count, MQ_RANK_MAX);
    }
    mq_shape want = {.rank = (int32_t)count};
    for (size_t i = 0; i < count; i++) {
        want.dims[i] = dims[i];
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    return mq_broadcast(&call->inputs[0]->shape, &want, &call->outputs[0]->shape, err);
}

static mq_code expand_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    mq_strides s = mq_strides_of(&x->shape, &y->shape);
    ptrdiff_t strides[MQ_RANK_MAX];
    for (int32_t i = 0; i < MQ_RANK_MAX; i++) {
        strides[i] = (ptrdiff_t)s.at[i];
    }
    mq_copy_strided(y->data, &y->shape, x->data, strides, mq_each(x));
    return MQ_OK;
}

static void expand_grad(const mq_op_grad *g)
{
    if (g->dx[0] != NULL) {
        mq_reduce_to(g->dy[0], &g->call.outputs[0]->shape, g->dx[0], &g->call.inputs[0]->shape,
                     g->add[0]);
    }
}

static mq_code expand_reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    mq_strides s = mq_strides_of(&x->shape, &y->shape);
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t i = 0; i < mq_elements(y); i++) {
        memcpy((uint8_t *)y->data + i * mq_each(y),
               (const uint8_t *)x->data + mq_offset(&s, index, y->shape.rank) * mq_each(x),
               mq_each(y));
        mq_next_index(&y->shape, index);
    }
    return MQ_OK;
}

const mq_op mq_op_expand = {
    .name = "Expand",
    .domain = "",
    .since = 8,
    .in = {2, 2},
    .out = {1, 1},
    .args = {{'T', ANY_TYPE}, {0, MQ_T(MQ_DT_I64)}},
    .shape_inputs = 2,
    .shape = expand_shape,
    .run = expand_run,
    .grad = expand_grad,
    .reference = expand_reference,
    .cases = "| f32[A,1] i64{2,1,3}; | u8[1,A,1] i64{4,1,2}; | f64[] i64{3,2}",
};

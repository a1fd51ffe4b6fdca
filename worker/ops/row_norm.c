/* RowNorm, internal: a residual sum and a layer normalization; see norm.h. */
#include "worker/ops/norm.h"

#include "worker/ops/pair.h"
#include "worker/ops/rows.h"

#define F32(t) ((const float *)(t)->data)

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *more = mq_call_input(call, 3);
    mq_shape y = call->inputs[0]->shape;
    if (more != NULL) {
        mq_code code = mq_broadcast(&y, &more->shape, &y, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    for (uint32_t i = 1; i < call->input_count && i < 3; i++) {
        const mq_tensor *t = call->inputs[i];
        if (t != NULL &&
            (y.rank < 1 || t->shape.rank != 1 || t->shape.dims[0] != y.dims[y.rank - 1])) {
            char text[128];
            return mq_fail(err, MQ_E_ARG, "input %u is %s where the rows have length %lld", i,
                           mq_shape_text(&t->shape, text, sizeof text),
                           y.rank < 1 ? 0LL : (long long)y.dims[y.rank - 1]);
        }
    }
    call->outputs[0]->dtype = MQ_DT_F32;
    call->outputs[0]->shape = y;
    return MQ_OK;
}

static void add_broadcast(const mq_op_call *call)
{
    mq_pair of =
        mq_pair_of(&call->inputs[0]->shape, &call->inputs[3]->shape, &call->outputs[0]->shape);
    const mq_pair *pair = &of;
    const void *pa = call->inputs[0]->data, *pb = call->inputs[3]->data;
    void *py = call->outputs[0]->data;
    MQ_PAIR_LOOP(float, float, x + z)
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_norm_attrs *a = call->attrs;
    const mq_tensor *bias = mq_call_input(call, 2), *more = mq_call_input(call, 3);
    mq_tensor *out = call->outputs[0];
    size_t total = mq_elements(out), n = (size_t)out->shape.dims[out->shape.rank - 1];
    bool is_same = more != NULL && mq_shape_eq(&call->inputs[0]->shape, &more->shape);
    const float *x = F32(call->inputs[0]);
    if (more != NULL && !is_same) {
        add_broadcast(call);
        x = out->data;
    }
    for (size_t at = 0; at < total; at += n) {
        const float *row = x + at;
        float *y = (float *)out->data + at;
        if (is_same) {
            mq_row_add(row, F32(more) + at, y, n);
            row = y;
        }
        mq_row_layer_norm(row, F32(call->inputs[1]), bias == NULL ? NULL : F32(bias), a->epsilon, y,
                          n, NULL, NULL);
    }
    return MQ_OK;
}

static mq_code reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_norm_attrs *a = call->attrs;
    const mq_tensor *bias = mq_call_input(call, 2), *more = mq_call_input(call, 3);
    mq_tensor *out = call->outputs[0];
    size_t total = mq_elements(out), n = (size_t)out->shape.dims[out->shape.rank - 1];
    float *y = out->data;
    if (more != NULL) {
        add_broadcast(call);
    } else {
        memmove(y, call->inputs[0]->data, out->bytes);
    }
    for (size_t at = 0; at < total; at += n) {
        double mean = 0.0, variance = 0.0;
        for (size_t i = 0; i < n; i++) {
            mean += (double)y[at + i] / (double)n;
        }
        for (size_t i = 0; i < n; i++) {
            variance += ((double)y[at + i] - mean) * ((double)y[at + i] - mean) / (double)n;
        }
        for (size_t i = 0; i < n; i++) {
            double v = ((double)y[at + i] - mean) / sqrt(variance + (double)a->epsilon);
            v = v * (double)F32(call->inputs[1])[i] + (bias == NULL ? 0.0 : (double)F32(bias)[i]);
            y[at + i] = (float)v;
        }
    }
    return MQ_OK;
}

static const mq_attr_spec specs[] = {
    {.name = "epsilon",
     .type = MQ_ATTR_FLOAT,
     .offset = offsetof(mq_norm_attrs, epsilon),
     .f = 1e-5f},
    {.name = NULL},
};

const mq_op mq_op_row_norm = {
    .name = "RowNorm",
    .domain = "maasq",
    .since = 1,
    .in = {2, 4},
    .out = {1, 1},
    .args = {{'T', MQ_T(MQ_DT_F32)}},
    .flags = MQ_OP_INTERNAL | MQ_OP_ELEMENTWISE,
    .attrs_bytes = sizeof(mq_norm_attrs),
    .specs = specs,
    .shape = shape,
    .run = run,
    .reference = reference,
    .cases = "epsilon=0.5 | f32[A,B,24] f32[24]; epsilon=0.5 | f32[A,40] f32[40] f32[40];"
             "epsilon=0.5 | f32[A,B,40] f32[40] f32[40] f32[A,B,40];"
             "epsilon=0.5 | f32[B,33] f32[33] - f32[A,1,33];"
             "epsilon=0.5 | f32[A,70] f32[70] f32[70] f32[70]; | f32[0,C] f32[C]",
};

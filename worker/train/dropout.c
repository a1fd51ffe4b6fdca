/* Dropout with drawn masks; see dropout.h. */
#include "worker/train/dropout.h"

#include "worker/ops/kit.h"
#include "worker/train/philox.h"

/* y = x where the element stays, times 1 / (1 - ratio); 0 elsewhere. Adds when asked. */
static void pass(const mq_dropout_attrs *a, const mq_shape *shape, const float *x, float *y,
                 bool is_added)
{
    size_t rows = shape->rank < 1 ? 1 : (size_t)shape->dims[0];
    size_t width = shape->rank < 1 ? 1 : mq_dims_product(shape, 1, shape->rank);
    float scale = 1.0F / (1.0F - a->ratio);
    uint32_t falls = (uint32_t)((double)a->ratio * 4294967296.0);
    uint32_t counter[4] = {0, 0, (uint32_t)a->draw->step, MQ_PURPOSE_DROPOUT | a->layer << 8};
    for (size_t r = 0; r < rows; r++, x += width, y += width) {
        counter[1] = (uint32_t)(a->draw->first_row + r);
        for (size_t i = 0; i < width; i += 4) {
            counter[0] = (uint32_t)(i / 4);
            mq_philox_block b = mq_philox(a->draw->seed, counter);
            for (size_t j = 0; j < 4 && i + j < width; j++) {
                float v = b.word[j] < falls ? 0.0F : x[i + j] * scale;
                y[i + j] = is_added ? y[i + j] + v : v;
            }
        }
    }
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    return mq_shape_same(call, err);
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    pass(call->attrs, &call->inputs[0]->shape, call->inputs[0]->data, call->outputs[0]->data,
         false);
    return MQ_OK;
}

static void grad(const mq_op_grad *g)
{
    if (g->dx[0] != NULL) {
        pass(g->call.attrs, &g->call.inputs[0]->shape, g->dy[0], g->dx[0], g->add[0]);
    }
}

const mq_op mq_op_training_dropout = {
    .name = "TrainingDropout",
    .domain = "",
    .since = 1,
    .in = {1, 3},
    .out = {1, 1},
    .args = {{'T', MQ_T(MQ_DT_F32)}},
    .flags = MQ_OP_INTERNAL,
    .attrs_bytes = sizeof(mq_dropout_attrs),
    .shape = shape,
    .run = run,
    .grad = grad,
};

/* RotaryEmbedding: pairs of each head turned by an angle of their position.
 * onnx.ai/onnx/operators/onnx__RotaryEmbedding.html */
#include "worker/ops/element.h"

#define FLOAT_TYPES (MQ_T_FLOATS | MQ_T_HALF)

typedef struct rotary_attrs {
    int64_t interleaved, rotary_embedding_dim, num_heads;
} rotary_attrs;

/* The input as [batch, steps, heads, size], wherever these lie. */
typedef struct rotary_view {
    int64_t batch, steps, heads, size, turned; /* turned: leading elements of a head, even */
    int64_t by_batch, by_step, by_head;        /* strides */
} rotary_view;

static mq_code view_of(const mq_op_call *call, rotary_view *v, mq_error *err)
{
    const rotary_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    if (x->rank == 4) {
        *v = (rotary_view){
            .batch = x->dims[0], .heads = x->dims[1], .steps = x->dims[2], .size = x->dims[3]};
        v->by_step = v->size;
        v->by_head = v->size * v->steps;
        v->by_batch = v->by_head * v->heads;
    } else if (x->rank == 3 && a->num_heads > 0 && x->dims[2] % a->num_heads == 0) {
        *v = (rotary_view){.batch = x->dims[0],
                           .heads = a->num_heads,
                           .steps = x->dims[1],
                           .size = x->dims[2] / a->num_heads};
        v->by_head = v->size;
        v->by_step = x->dims[2];
        v->by_batch = v->by_step * v->steps;
    } else {
        return mq_fail(err, MQ_E_ARG,
                       "input must be [batch, heads, steps, size], or [batch, steps, "
                       "hidden] with num_heads that divides hidden");
    }
    v->turned = a->rotary_embedding_dim != 0 ? a->rotary_embedding_dim : v->size;
    if (v->turned < 0 || v->turned > v->size || v->turned % 2 != 0) {
        return mq_fail(err, MQ_E_ARG, "rotary_embedding_dim %lld of a head of %lld",
                       (long long)v->turned, (long long)v->size);
    }
    return MQ_OK;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    rotary_view v = {0};
    const mq_shape *c = &call->inputs[1]->shape, *s = &call->inputs[2]->shape;
    const mq_tensor *ids = mq_call_input(call, 3);
    mq_code code = view_of(call, &v, err);
    if (code != MQ_OK) {
        return code;
    }
    int32_t rank = ids == NULL ? 3 : 2;
    bool is_good = mq_shape_eq(c, s) && c->rank == rank && c->dims[rank - 1] == v.turned / 2;
    if (ids == NULL) {
        is_good = is_good && c->dims[0] == v.batch && c->dims[1] == v.steps;
    } else {
        is_good = is_good && ids->shape.rank == 2 && ids->shape.dims[0] == v.batch &&
                  ids->shape.dims[1] == v.steps;
    }
    if (!is_good) {
        return mq_fail(err, MQ_E_ARG,
                       "cos_cache and sin_cache must be [positions, %lld] with "
                       "position_ids [batch, steps], or [batch, steps, %lld]",
                       (long long)v.turned / 2, (long long)v.turned / 2);
    }
    return mq_shape_same(call, err);
}

static void turn_head(const mq_op_call *call, const rotary_view *v, size_t base, size_t cache)
{
    const rotary_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    size_t half = (size_t)v->turned / 2;
    for (size_t i = 0; i < half; i++) {
        size_t first = base + (a->interleaved != 0 ? 2 * i : i);
        size_t second = a->interleaved != 0 ? first + 1 : first + half;
        double c = mq_element(call->inputs[1], cache + i),
               s = mq_element(call->inputs[2], cache + i);
        double p = mq_element(x, first), q = mq_element(x, second);
        mq_element_set(y, first, c * p - s * q);
        mq_element_set(y, second, s * p + c * q);
    }
    for (size_t i = 2 * half; i < (size_t)v->size; i++) {
        mq_element_set(y, base + i, mq_element(x, base + i));
    }
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *ids = mq_call_input(call, 3);
    rotary_view v = {0};
    mq_code code = view_of(call, &v, err);
    for (int64_t i = 0; i < v.batch * v.steps && code == MQ_OK; i++) {
        int64_t position = i;
        if (ids != NULL) {
            position = mq_element_int(ids, (size_t)i);
            if (position < 0 || position >= call->inputs[1]->shape.dims[0]) {
                return mq_fail(err, MQ_E_ARG, "position_ids[%lld] is %lld of %lld", (long long)i,
                               (long long)position, (long long)call->inputs[1]->shape.dims[0]);
            }
        }
        for (int64_t h = 0; h < v.heads; h++) {
            int64_t base = i / v.steps * v.by_batch + i % v.steps * v.by_step + h * v.by_head;
            turn_head(call, &v, (size_t)base, (size_t)(position * (v.turned / 2)));
        }
    }
    return code;
}

#define ROTARY_INT(name_)                                                                          \
    {                                                                                              \
        .name = #name_, .type = MQ_ATTR_INT, .offset = offsetof(rotary_attrs, name_)               \
    }
static const mq_attr_spec specs[] = {ROTARY_INT(interleaved),
                                     ROTARY_INT(rotary_embedding_dim),
                                     ROTARY_INT(num_heads),
                                     {.name = NULL}};

const mq_op mq_op_rotary_embedding = {
    .name = "RotaryEmbedding",
    .domain = "",
    .since = 23,
    .in = {3, 4},
    .out = {1, 1},
    .args = {{'T', FLOAT_TYPES}, {'T', FLOAT_TYPES}, {'T', FLOAT_TYPES}, {0, MQ_T(MQ_DT_I64)}},
    .attrs_bytes = sizeof(rotary_attrs),
    .specs = specs,
    .shape = shape,
    .run = run,
    .cases =
        "| f32[A,B,C,4] f32[A,C,2] f32[A,C,2]; num_heads=2 interleaved=1 | f64[1,3,8] f64[1,3,2] "
        "f64[1,3,2]; rotary_embedding_dim=2 | f32[A,B,C,4] f32[A,C,1] f32[A,C,1]",
};

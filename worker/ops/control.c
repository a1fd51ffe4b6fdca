/* What the operators that hold graphs share; see control.h. And If, the simplest of them. */
#include "worker/ops/control.h"

#include "shared/base/math.h"

static mq_code no_memory(mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "no memory for what a graph within the node makes");
}

/* --- carried values --- */

void mq_carried_init(mq_carried *c, mq_tensor *at, uint32_t count, size_t memory_bytes_max)
{
    *c = (mq_carried){.at = at, .count = count};
    mq_arena_init(&c->arenas[0], memory_bytes_max);
    mq_arena_init(&c->arenas[1], memory_bytes_max);
}

mq_code mq_carried_take(mq_carried *c, const mq_tensor *from, mq_error *err)
{
    mq_arena *arena = &c->arenas[c->turn & 1];
    c->turn++;
    mq_arena_reset(arena);
    for (uint32_t i = 0; i < c->count; i++) {
        if (!mq_value_copy(arena, &from[i], &c->at[i])) {
            return no_memory(err);
        }
    }
    return MQ_OK;
}

void mq_carried_release(mq_carried *c)
{
    mq_arena_release(&c->arenas[0]);
    mq_arena_release(&c->arenas[1]);
}

/* --- stacks --- */

void mq_stack_init(mq_stack *s, const mq_op_call *call)
{
    *s = (mq_stack){.count = 0};
    mq_buf_init(&s->bytes, call->arena->limit_bytes);
}

mq_code mq_stack_push(mq_stack *s, mq_arena *arena, const mq_tensor *t, mq_error *err)
{
    if (t->dtype == MQ_DT_SEQUENCE || t->dtype == MQ_DT_EMPTY || t->shape.rank == MQ_RANK_MAX) {
        return mq_fail(err, MQ_E_UNSUPPORTED,
                       "a scan output must be a tensor of at most %d dimensions", MQ_RANK_MAX - 1);
    }
    if (s->count == 0) {
        s->dtype = t->dtype;
        s->shape = t->shape;
    }
    if (s->dtype != t->dtype || !mq_shape_eq(&s->shape, &t->shape)) {
        char a[96], b[96];
        return mq_fail(err, MQ_E_ARG, "a scan output changes from %s %s to %s %s",
                       mq_dtype_name(s->dtype), mq_shape_text(&s->shape, a, sizeof a),
                       mq_dtype_name(t->dtype), mq_shape_text(&t->shape, b, sizeof b));
    }
    mq_tensor kept = *t;
    if (t->dtype == MQ_DT_STR && !mq_value_copy(arena, t, &kept)) {
        return no_memory(err);
    }
    if (!mq_buf_add(&s->bytes, kept.data, kept.bytes)) {
        return no_memory(err);
    }
    s->count++;
    return MQ_OK;
}

mq_code mq_make_tensor(mq_arena *arena, mq_dtype dtype, const mq_shape *shape, mq_tensor *out,
                       mq_error *err)
{
    size_t count, bytes;
    mq_code code = mq_shape_count(shape, &count, err);
    if (code != MQ_OK) {
        return code;
    }
    if (!mq_mul_size(count, mq_value_item_bytes(dtype), &bytes) || bytes == SIZE_MAX) {
        return no_memory(err);
    }
    *out = (mq_tensor){dtype, *shape, mq_arena_alloc(arena, bytes + 1, 1), bytes};
    return out->data == NULL ? no_memory(err) : MQ_OK;
}

mq_code mq_stack_finish(const mq_stack *s, const mq_op_call *call, int64_t axis, bool is_reversed,
                        mq_tensor *out, mq_error *err)
{
    mq_shape shape = s->shape;
    int32_t at;
    mq_code code = mq_axis(axis, s->shape.rank + 1, &at, err);
    if (code == MQ_OK && s->shape.rank == MQ_RANK_MAX) {
        code = mq_fail(err, MQ_E_UNSUPPORTED, "a scan output has more than %d dimensions",
                       MQ_RANK_MAX - 1);
    }
    if (code != MQ_OK) {
        return code;
    }
    shape.rank++;
    memmove(shape.dims + at + 1, shape.dims + at,
            (size_t)(s->shape.rank - at) * sizeof shape.dims[0]);
    shape.dims[at] = (int64_t)s->count;
    code = mq_make_tensor(call->arena, s->dtype, &shape, out, err);
    if (code != MQ_OK || out->bytes == 0) {
        return code;
    }
    size_t outer = mq_dims_product(&shape, 0, at);
    size_t each = mq_dims_product(&shape, at + 1, shape.rank) * mq_value_item_bytes(s->dtype);
    for (size_t t = 0; t < s->count; t++) {
        const uint8_t *from = s->bytes.data + (is_reversed ? s->count - 1 - t : t) * outer * each;
        for (size_t o = 0; o < outer; o++) {
            memcpy((uint8_t *)out->data + (o * s->count + t) * each, from + o * each, each);
        }
    }
    return MQ_OK;
}

mq_code mq_condition(const mq_tensor *t, const char *what, bool *out, mq_error *err)
{
    if (t->dtype != MQ_DT_BOOL || t->bytes != 1) {
        char text[96];
        return mq_fail(err, MQ_E_ARG, "%s is %s %s where one boolean is due", what,
                       mq_dtype_name(t->dtype), mq_shape_text(&t->shape, text, sizeof text));
    }
    *out = *(const uint8_t *)t->data != 0;
    return MQ_OK;
}

/* --- If --- */

typedef struct if_attrs {
    const mq_graph *then_branch, *else_branch;
} if_attrs;

static mq_code if_run(const mq_op_call *call, mq_error *err)
{
    bool is_then = false;
    mq_code code = mq_condition(call->inputs[0], "the condition", &is_then, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_tensor *made = mq_arena_new(call->arena, mq_tensor, (size_t)call->output_count + 1);
    if (made == NULL) {
        return no_memory(err);
    }
    code = call->graphs->run(call->graphs, is_then ? 0 : 1, NULL, 0, made, call->output_count, err);
    for (uint32_t i = 0; i < call->output_count && code == MQ_OK; i++) {
        if (call->outputs[i] != NULL) {
            *call->outputs[i] = made[i]; /* the graph runs once in this run: it stays */
        }
    }
    return code;
}

static const mq_attr_spec if_specs[] = {
    {.name = "then_branch",
     .type = MQ_ATTR_GRAPH,
     .offset = offsetof(if_attrs, then_branch),
     .is_required = true},
    {.name = "else_branch",
     .type = MQ_ATTR_GRAPH,
     .offset = offsetof(if_attrs, else_branch),
     .is_required = true},
    {.name = NULL},
};

const mq_op mq_op_if = {
    .name = "If",
    .domain = "",
    .since = 1,
    .in = {1, 1},
    .out = {1, UINT32_MAX},
    .args = {{0, MQ_T_BOOL}},
    .flags = MQ_OP_MAKES,
    .attrs_bytes = sizeof(if_attrs),
    .specs = if_specs,
    .run = if_run,
};

/* NonZero, Compress, Unique: outputs whose size depends on values.
 * onnx.ai/onnx/operators/onnx__Unique.html, onnx__Compress.html, onnx__NonZero.html */
#include "worker/ops/copy.h"
#include "worker/ops/order.h"

#define ANY_TYPE       (MQ_T_FIXED | MQ_T(MQ_DT_STR))
#define WORK_BYTES_MAX ((size_t)1 << 30)

/* --- NonZero: [rank, count] indices --- */

static bool is_set(const mq_tensor *x, size_t i)
{
    return mq_is_float(x->dtype) ? mq_element(x, i) != 0.0 : mq_element_int(x, i) != 0;
}

static mq_code nonzero_shape(const mq_op_call *call, mq_error *err)
{
    (void)err;
    int64_t count = 0;
    for (size_t i = 0; i < mq_elements(call->inputs[0]); i++) {
        count += is_set(call->inputs[0], i);
    }
    call->outputs[0]->dtype = MQ_DT_I64;
    call->outputs[0]->shape = (mq_shape){2, {call->inputs[0]->shape.rank, count}};
    return MQ_OK;
}

static mq_code nonzero_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0];
    int64_t *y = call->outputs[0]->data, count = call->outputs[0]->shape.dims[1];
    int64_t index[MQ_RANK_MAX] = {0}, at = 0;
    for (size_t i = 0; i < mq_elements(x); i++) {
        for (int32_t d = 0; d < x->shape.rank && is_set(x, i); d++) {
            y[d * count + at] = index[d];
        }
        at += is_set(x, i);
        mq_next_index(&x->shape, index);
    }
    return MQ_OK;
}

const mq_op mq_op_non_zero = {
    .name = "NonZero",
    .domain = "",
    .since = 9,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{0, MQ_T_FIXED}},
    .shape_inputs = 1,
    .shape = nonzero_shape,
    .run = nonzero_run,
    .cases = "| bool[A,B,C]; | f32[A,B]; | u8[A]",
};

/* --- Compress: slices whose condition holds, along an axis or of the flat tensor --- */

typedef struct axis_attrs {
    int64_t axis, sorted;
    bool has_axis;
} axis_attrs;

static mq_code axis_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)opset;
    (void)err;
    ((axis_attrs *)attrs)->has_axis = mq_node_attr(node, "axis") != NULL;
    return MQ_OK;
}

/* A tensor seen as [outer, count, inner] along the axis; without one, as [1, all, 1]. */
typedef struct slices {
    size_t outer, count, inner;
    int32_t axis;
} slices;

static mq_code slices_of(const mq_op_call *call, slices *s, mq_error *err)
{
    const axis_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    *s = (slices){1, mq_elements(call->inputs[0]), 1, 0};
    if (!a->has_axis) {
        return MQ_OK;
    }
    mq_code code = mq_axis(a->axis, x->rank, &s->axis, err);
    if (code == MQ_OK) {
        s->outer = mq_dims_product(x, 0, s->axis);
        s->count = (size_t)x->dims[s->axis];
        s->inner = mq_dims_product(x, s->axis + 1, x->rank);
    }
    return code;
}

/* Output 0: input 0 with `count` slices. */
static void set_slices(const mq_op_call *call, const slices *s, int64_t count)
{
    const axis_attrs *a = call->attrs;
    mq_tensor *y = call->outputs[0];
    y->dtype = call->inputs[0]->dtype;
    y->shape = a->has_axis ? call->inputs[0]->shape : (mq_shape){.rank = 1};
    y->shape.dims[s->axis] = count;
}

static void copy_slice(const mq_op_call *call, const slices *s, size_t to, size_t from)
{
    size_t each = mq_each(call->inputs[0]) * s->inner;
    size_t count =
        s->outer == 0 || s->inner == 0 ? 0 : mq_elements(call->outputs[0]) / (s->outer * s->inner);
    for (size_t o = 0; o < s->outer && each > 0; o++) {
        memcpy((uint8_t *)call->outputs[0]->data + (o * count + to) * each,
               (const uint8_t *)call->inputs[0]->data + (o * s->count + from) * each, each);
    }
}

static mq_code compress_shape(const mq_op_call *call, mq_error *err)
{
    slices s;
    const mq_tensor *condition = call->inputs[1];
    mq_code code = slices_of(call, &s, err);
    int64_t count = 0;
    if (code == MQ_OK && (condition->shape.rank != 1 || mq_elements(condition) > s.count)) {
        code =
            mq_fail(err, MQ_E_ARG, "condition must have one axis of at most %zu entries", s.count);
    }
    for (size_t i = 0; code == MQ_OK && i < mq_elements(condition); i++) {
        count += mq_element_int(condition, i) != 0;
    }
    if (code == MQ_OK) {
        set_slices(call, &s, count);
    }
    return code;
}

static mq_code compress_run(const mq_op_call *call, mq_error *err)
{
    slices s;
    mq_code code = slices_of(call, &s, err);
    size_t at = 0;
    for (size_t i = 0; code == MQ_OK && i < mq_elements(call->inputs[1]); i++) {
        if (mq_element_int(call->inputs[1], i) != 0) {
            copy_slice(call, &s, at++, i);
        }
    }
    return code;
}

static const mq_attr_spec compress_specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(axis_attrs, axis)},
    {.name = NULL},
};

const mq_op mq_op_compress = {
    .name = "Compress",
    .domain = "",
    .since = 9,
    .in = {2, 2},
    .out = {1, 1},
    .args = {{0, ANY_TYPE}, {0, MQ_T_BOOL}},
    .shape_inputs = 2,
    .attrs_bytes = sizeof(axis_attrs),
    .specs = compress_specs,
    .parse = axis_parse,
    .shape = compress_shape,
    .run = compress_run,
    .cases = "axis=1 | f32[A,3] bool{1,0,1}; | u8[2,2] bool{0,1,1}; axis=-2 | f32[4,B] bool{0,1}",
};

/* --- Unique --- */

typedef struct unique_view {
    const mq_tensor *x;
    slices s;
} unique_view;

/* Slices compare element by element, in row-major order. */
static int unique_order(const void *arg, size_t a, size_t b)
{
    const unique_view *v = arg;
    const slices *s = &v->s;
    int order = 0;
    for (size_t o = 0; o < s->outer && order == 0; o++) {
        for (size_t i = 0; i < s->inner && order == 0; i++) {
            order = mq_element_compare(v->x, (o * s->count + a) * s->inner + i,
                                       (o * s->count + b) * s->inner + i);
        }
    }
    return order;
}

static int number_order(const void *arg, size_t a, size_t b)
{
    const size_t *first = arg;
    return first[a] < first[b] ? -1 : 1;
}

/* What run writes: for each distinct slice where it first is and how often, and for each slice
 * which of them it is. */
typedef struct unique_found {
    size_t *first, *times, *which, count;
} unique_found;

/* Distinct slices in order of first appearance instead of by value. */
static void by_appearance(unique_found *f, size_t total, size_t *order, size_t *spare)
{
    for (size_t i = 0; i < f->count; i++) {
        order[i] = i;
    }
    mq_sort_indices(order, spare, f->count, number_order, f->first);
    size_t *place = spare; /* from the number by value to the number by appearance */
    for (size_t i = 0; i < f->count; i++) {
        place[order[i]] = i;
    }
    for (size_t i = 0; i < total; i++) {
        f->which[i] = place[f->which[i]];
    }
    for (size_t i = 0; i < f->count; i++) { /* counts and firsts anew */
        f->times[i] = 0;
    }
    for (size_t i = total; i > 0; i--) {
        f->times[f->which[i - 1]]++;
        f->first[f->which[i - 1]] = i - 1;
    }
}

static mq_code find_unique(const mq_op_call *call, mq_arena *arena, unique_view *v, unique_found *f,
                           mq_error *err)
{
    const axis_attrs *a = call->attrs;
    v->x = call->inputs[0];
    mq_code code = slices_of(call, &v->s, err);
    if (code != MQ_OK) {
        return code;
    }
    size_t n = v->s.count;
    size_t *order = mq_arena_new(arena, size_t, n + 1), *spare = mq_arena_new(arena, size_t, n + 1);
    f->first = mq_arena_new(arena, size_t, n + 1);
    f->times = mq_arena_new(arena, size_t, n + 1);
    f->which = mq_arena_new(arena, size_t, n + 1);
    if (order == NULL || spare == NULL || f->first == NULL || f->times == NULL ||
        f->which == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory to sort %zu slices", n);
    }
    for (size_t i = 0; i < n; i++) {
        order[i] = i;
    }
    mq_sort_indices(order, spare, n, unique_order, v);
    f->count = 0;
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || unique_order(v, order[i - 1], order[i]) != 0) {
            f->first[f->count] = order[i];
            f->times[f->count++] = 0;
        }
        f->times[f->count - 1]++;
        f->which[order[i]] = f->count - 1;
    }
    if (a->sorted == 0) {
        by_appearance(f, n, order, spare);
    }
    return MQ_OK;
}

static mq_code unique_shape(const mq_op_call *call, mq_error *err)
{
    mq_arena arena;
    unique_view v = {0};
    unique_found f = {0};
    mq_arena_init(&arena, WORK_BYTES_MAX);
    mq_code code = find_unique(call, &arena, &v, &f, err);
    for (uint32_t i = 1; i < call->output_count && code == MQ_OK; i++) {
        if (call->outputs[i] != NULL) {
            call->outputs[i]->dtype = MQ_DT_I64;
            call->outputs[i]->shape = (mq_shape){1, {(int64_t)(i == 2 ? v.s.count : f.count)}};
        }
    }
    if (code == MQ_OK && call->outputs[0] != NULL) {
        set_slices(call, &v.s, (int64_t)f.count);
    }
    mq_arena_release(&arena);
    return code;
}

static void put_indices(const mq_op_call *call, uint32_t output, const size_t *from)
{
    mq_tensor *y = mq_call_output(call, output);
    for (size_t i = 0; y != NULL && i < mq_elements(y); i++) {
        ((int64_t *)y->data)[i] = (int64_t)from[i];
    }
}

static mq_code unique_run(const mq_op_call *call, mq_error *err)
{
    mq_arena arena;
    unique_view v = {0};
    unique_found f = {0};
    mq_arena_init(&arena, WORK_BYTES_MAX);
    mq_code code = find_unique(call, &arena, &v, &f, err);
    if (code == MQ_OK) {
        for (size_t i = 0; i < f.count && call->outputs[0] != NULL; i++) {
            copy_slice(call, &v.s, i, f.first[i]);
        }
        put_indices(call, 1, f.first);
        put_indices(call, 2, f.which);
        put_indices(call, 3, f.times);
    }
    mq_arena_release(&arena);
    return code;
}

static const mq_attr_spec unique_specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(axis_attrs, axis)},
    {.name = "sorted", .type = MQ_ATTR_INT, .offset = offsetof(axis_attrs, sorted), .i = 1},
    {.name = NULL},
};

const mq_op mq_op_unique = {
    .name = "Unique",
    .domain = "",
    .since = 11,
    .in = {1, 1},
    .out = {1, 4},
    .args = {{0, ANY_TYPE}},
    .shape_inputs = 1,
    .attrs_bytes = sizeof(axis_attrs),
    .specs = unique_specs,
    .parse = axis_parse,
    .shape = unique_shape,
    .run = unique_run,
    .cases = "| i32[A,B]; axis=1 | u8[2,5]; sorted=0 | i64[12]; axis=-2 sorted=0 | bool[5,2,2]",
};

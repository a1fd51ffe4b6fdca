/* Operators that move elements about: Transpose, Concat, Slice, Gather. Any element
 * type; gradients where training needs them. */
#include "worker/ops/copy.h"

#define ANY_TYPE (MQ_T_FIXED | MQ_T(MQ_DT_STR))

static void clear_grad(const mq_op_grad *g, uint32_t i)
{
    if (g->dx[i] != NULL && !g->add[i]) {
        memset(g->dx[i], 0, mq_elements(g->call.inputs[i]) * sizeof(float));
    }
}

/* --- Transpose --- */

typedef struct transpose_attrs {
    mq_ints perm; /* default: reversed */
} transpose_attrs;

/* Input dimension that becomes output dimension i. */
static int32_t perm_at(const mq_op_call *call, int32_t i)
{
    const transpose_attrs *a = call->attrs;
    return a->perm.is_given ? (int32_t)a->perm.at[i] : call->inputs[0]->shape.rank - 1 - i;
}

static mq_code transpose_shape(const mq_op_call *call, mq_error *err)
{
    const transpose_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    mq_shape y = {.rank = x->rank};
    uint32_t seen = 0;
    if (a->perm.is_given && a->perm.count != (size_t)x->rank) {
        return mq_fail(err, MQ_E_ARG, "perm has %zu entries, the input rank %d", a->perm.count,
                       x->rank);
    }
    for (int32_t i = 0; i < x->rank; i++) {
        int64_t from = a->perm.is_given ? a->perm.at[i] : x->rank - 1 - i;
        if (from < 0 || from >= x->rank || (seen >> from & 1) != 0) {
            return mq_fail(err, MQ_E_ARG, "perm is not a permutation of 0..%d", x->rank - 1);
        }
        seen |= 1u << from;
        y.dims[i] = x->dims[from];
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = y;
    return MQ_OK;
}

static void transpose_strides(const mq_op_call *call, ptrdiff_t *strides)
{
    ptrdiff_t rows[MQ_RANK_MAX];
    mq_row_strides(&call->inputs[0]->shape, rows);
    for (int32_t i = 0; i < call->inputs[0]->shape.rank; i++) {
        strides[i] = rows[perm_at(call, i)];
    }
}

static mq_code transpose_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    ptrdiff_t strides[MQ_RANK_MAX];
    transpose_strides(call, strides);
    mq_copy_strided(call->outputs[0]->data, &call->outputs[0]->shape, call->inputs[0]->data,
                    strides, mq_each(call->inputs[0]));
    return MQ_OK;
}

static void transpose_grad(const mq_op_grad *g)
{
    ptrdiff_t strides[MQ_RANK_MAX];
    transpose_strides(&g->call, strides);
    clear_grad(g, 0);
    if (g->dx[0] != NULL) {
        mq_add_strided(g->dx[0], &g->call.outputs[0]->shape, g->dy[0], strides);
    }
}

static mq_code transpose_reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    size_t each = mq_each(x);
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t i = 0; i < mq_elements(x); i++) {
        size_t to = 0;
        for (int32_t d = 0; d < y->shape.rank; d++) {
            to = to * (size_t)y->shape.dims[d] + (size_t)index[perm_at(call, d)];
        }
        memcpy((uint8_t *)y->data + to * each, (const uint8_t *)x->data + i * each, each);
        mq_next_index(&x->shape, index);
    }
    return MQ_OK;
}

static const mq_attr_spec transpose_specs[] = {
    {.name = "perm", .type = MQ_ATTR_INTS, .offset = offsetof(transpose_attrs, perm)},
    {.name = NULL},
};

const mq_op mq_op_transpose = {
    .name = "Transpose",
    .domain = "",
    .since = 1,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{'T', ANY_TYPE}},
    .attrs_bytes = sizeof(transpose_attrs),
    .specs = transpose_specs,
    .shape = transpose_shape,
    .run = transpose_run,
    .grad = transpose_grad,
    .reference = transpose_reference,
    .cases = "| f32[A,B]; perm=(0,2,1) | f32[A,B,C]; perm=(2,0,1) | f64[A,B,C]; | u8[A,B,C];"
             "perm=(0,1,3,2) | i64[A,B,C,D]; | f32[]",
};

/* --- Concat --- */

typedef struct axis_attrs {
    int64_t axis;
} axis_attrs;

static mq_code concat_shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape;
    mq_shape y = *x;
    int32_t axis;
    mq_code code = mq_axis(((const axis_attrs *)call->attrs)->axis, x->rank, &axis, err);
    for (uint32_t i = 1; i < call->input_count && code == MQ_OK; i++) {
        const mq_shape *more = &call->inputs[i]->shape;
        bool is_alike = more->rank == x->rank;
        for (int32_t d = 0; d < x->rank && is_alike; d++) {
            is_alike = d == axis || more->dims[d] == x->dims[d];
        }
        if (!is_alike) {
            char a[128], b[128];
            return mq_fail(err, MQ_E_ARG, "%s and %s do not join along axis %d",
                           mq_shape_text(x, a, sizeof a), mq_shape_text(more, b, sizeof b), axis);
        }
        y.dims[axis] += more->dims[axis];
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = y;
    return code;
}

static mq_code concat_run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *y = call->outputs[0];
    int32_t axis;
    mq_code code = mq_axis(((const axis_attrs *)call->attrs)->axis, y->shape.rank, &axis, err);
    if (code != MQ_OK) {
        return code;
    }
    size_t outer = mq_dims_product(&y->shape, 0, axis), each = mq_each(y), at = 0;
    size_t row = mq_dims_product(&y->shape, axis, y->shape.rank) * each;
    for (uint32_t i = 0; i < call->input_count; i++) {
        const mq_tensor *x = call->inputs[i];
        size_t part = mq_dims_product(&x->shape, axis, x->shape.rank) * each;
        for (size_t o = 0; o < outer && part > 0; o++) {
            memcpy((uint8_t *)y->data + o * row + at, (const uint8_t *)x->data + o * part, part);
        }
        at += part;
    }
    return MQ_OK;
}

static void concat_grad(const mq_op_grad *g)
{
    const mq_tensor *y = g->call.outputs[0];
    int64_t axis = ((const axis_attrs *)g->call.attrs)->axis;
    int32_t cut = (int32_t)(axis < 0 ? axis + y->shape.rank : axis);
    size_t outer = mq_dims_product(&y->shape, 0, cut), at = 0;
    size_t row = mq_dims_product(&y->shape, cut, y->shape.rank);
    for (uint32_t i = 0; i < g->call.input_count; i++) {
        size_t part = mq_dims_product(&g->call.inputs[i]->shape, cut, y->shape.rank);
        clear_grad(g, i);
        for (size_t k = 0; k < outer * part && g->dx[i] != NULL; k++) {
            g->dx[i][k] += g->dy[0][k / part * row + at + k % part];
        }
        at += part;
    }
}

static mq_code concat_reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *y = call->outputs[0];
    int64_t axis = ((const axis_attrs *)call->attrs)->axis;
    int32_t cut = (int32_t)(axis < 0 ? axis + y->shape.rank : axis);
    size_t each = mq_each(y);
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t k = 0; k < mq_elements(y); k++) {
        int64_t along = index[cut];
        uint32_t i = 0;
        while (along >= call->inputs[i]->shape.dims[cut]) {
            along -= call->inputs[i++]->shape.dims[cut];
        }
        size_t from = 0;
        for (int32_t d = 0; d < y->shape.rank; d++) {
            from = from * (size_t)call->inputs[i]->shape.dims[d] +
                   (size_t)(d == cut ? along : index[d]);
        }
        memcpy((uint8_t *)y->data + k * each, (const uint8_t *)call->inputs[i]->data + from * each,
               each);
        mq_next_index(&y->shape, index);
    }
    return MQ_OK;
}

static const mq_attr_spec concat_specs_1[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(axis_attrs, axis), .i = 1},
    {.name = NULL},
};

static const mq_attr_spec concat_specs_4[] = {
    {.name = "axis",
     .type = MQ_ATTR_INT,
     .offset = offsetof(axis_attrs, axis),
     .is_required = true},
    {.name = NULL},
};

#define CONCAT(symbol, since_, specs_)                                                             \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = "Concat",                                                                          \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {1, UINT32_MAX},                                                                     \
        .out = {1, 1},                                                                             \
        .args = {{'T', ANY_TYPE}},                                                                 \
        .attrs_bytes = sizeof(axis_attrs),                                                         \
        .specs = specs_,                                                                           \
        .shape = concat_shape,                                                                     \
        .run = concat_run,                                                                         \
        .grad = concat_grad,                                                                       \
        .reference = concat_reference,                                                             \
        .cases = "axis=1 | f32[A,B] f32[A,C]; axis=0 | f32[A,B] f32[C,B] f32[D,B];"                \
                 "axis=-1 | i64[A,B,C] i64[A,B,D]; axis=0 | u8[A]",                                \
    }
CONCAT(concat_1, 1, concat_specs_1);
CONCAT(concat_4, 4, concat_specs_4);

/* --- Slice: attributes below opset 10, inputs from then on --- */

typedef struct slice_attrs {
    mq_ints starts, ends, axes;
} slice_attrs;

typedef struct slice {
    mq_shape shape; /* of the output */
    int64_t start[MQ_RANK_MAX], step[MQ_RANK_MAX];
} slice;

typedef struct slice_lists {
    int64_t starts[MQ_RANK_MAX], ends[MQ_RANK_MAX], axes[MQ_RANK_MAX], steps[MQ_RANK_MAX];
    size_t count, axis_count, step_count;
} slice_lists;

static mq_code slice_read(const mq_op_call *call, slice_lists *l, mq_error *err)
{
    const slice_attrs *a = call->attrs;
    size_t ends;
    if (call->op->since < 10) {
        l->count = a->starts.count;
        ends = a->ends.count;
        l->axis_count = a->axes.count;
        for (size_t i = 0; i < MQ_RANK_MAX; i++) {
            l->starts[i] = i < l->count ? a->starts.at[i] : 0;
            l->ends[i] = i < ends ? a->ends.at[i] : 0;
            l->axes[i] = i < l->axis_count ? a->axes.at[i] : (int64_t)i;
        }
    } else {
        const mq_tensor *axes = mq_call_input(call, 3), *steps = mq_call_input(call, 4);
        l->count = mq_tensor_ints(call->inputs[1], l->starts, MQ_RANK_MAX);
        ends = mq_tensor_ints(call->inputs[2], l->ends, MQ_RANK_MAX);
        l->axis_count = axes == NULL ? 0 : mq_tensor_ints(axes, l->axes, MQ_RANK_MAX);
        l->step_count = steps == NULL ? 0 : mq_tensor_ints(steps, l->steps, MQ_RANK_MAX);
    }
    if (ends != l->count || l->count > MQ_RANK_MAX ||
        (l->axis_count != 0 && l->axis_count != l->count) ||
        (l->step_count != 0 && l->step_count != l->count)) {
        return mq_fail(err, MQ_E_ARG, "starts, ends, axes and steps differ in length");
    }
    for (size_t i = 0; i < l->count; i++) {
        l->axes[i] = l->axis_count == 0 ? (int64_t)i : l->axes[i];
        l->steps[i] = l->step_count == 0 ? 1 : l->steps[i];
    }
    return MQ_OK;
}

static int64_t clamp(int64_t v, int64_t low, int64_t high)
{
    return v < low ? low : v > high ? high : v;
}

static mq_code slice_of(const mq_op_call *call, slice *out, mq_error *err)
{
    slice_lists l = {.count = 0};
    const mq_shape *x = &call->inputs[0]->shape;
    mq_code code = slice_read(call, &l, err);
    *out = (slice){.shape = *x};
    for (int32_t i = 0; i < x->rank; i++) {
        out->step[i] = 1;
    }
    for (size_t i = 0; i < l.count && code == MQ_OK; i++) {
        int32_t axis;
        code = mq_axis(l.axes[i], x->rank, &axis, err);
        if (code != MQ_OK) {
            return code;
        }
        int64_t dim = x->dims[axis], step = l.steps[i], start = l.starts[i], end = l.ends[i];
        if (step < -MQ_DIM_MAX || step > MQ_DIM_MAX) {
            step = step < 0 ? -MQ_DIM_MAX : MQ_DIM_MAX;
        }
        if (step == 0) {
            return mq_fail(err, MQ_E_ARG, "steps[%zu] is 0", i);
        }
        start = clamp(start < 0 ? start + dim : start, 0, step > 0 ? dim : dim - 1);
        end = end < 0 && end >= -dim ? end + dim : end;
        end = clamp(end, step > 0 ? 0 : -1, dim);
        int64_t count =
            step > 0 ? (end - start + step - 1) / step : (start - end - step - 1) / -step;
        out->shape.dims[axis] = count < 0 || dim == 0 ? 0 : count;
        out->start[axis] = start;
        out->step[axis] = step;
    }
    return code;
}

static mq_code slice_shape(const mq_op_call *call, mq_error *err)
{
    slice s;
    mq_code code = slice_of(call, &s, err);
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = s.shape;
    return code;
}

/* Offset of the first element, and strides. */
static ptrdiff_t slice_strides(const slice *s, const mq_shape *x, ptrdiff_t *strides)
{
    ptrdiff_t first = 0;
    mq_row_strides(x, strides);
    for (int32_t i = 0; i < x->rank; i++) {
        first += strides[i] * (ptrdiff_t)s->start[i];
        strides[i] *= (ptrdiff_t)s->step[i];
    }
    return first;
}

static mq_code slice_run(const mq_op_call *call, mq_error *err)
{
    slice s;
    ptrdiff_t strides[MQ_RANK_MAX];
    mq_code code = slice_of(call, &s, err);
    if (code == MQ_OK && mq_elements(call->outputs[0]) > 0) {
        const mq_tensor *x = call->inputs[0];
        ptrdiff_t first = slice_strides(&s, &x->shape, strides) * (ptrdiff_t)mq_each(x);
        mq_copy_strided(call->outputs[0]->data, &s.shape, (const uint8_t *)x->data + first, strides,
                        mq_each(x));
    }
    return code;
}

static void slice_grad(const mq_op_grad *g)
{
    slice s;
    ptrdiff_t strides[MQ_RANK_MAX];
    clear_grad(g, 0);
    if (g->dx[0] != NULL && slice_of(&g->call, &s, NULL) == MQ_OK &&
        mq_elements(g->call.outputs[0]) > 0) {
        ptrdiff_t first = slice_strides(&s, &g->call.inputs[0]->shape, strides);
        mq_add_strided(g->dx[0] + first, &s.shape, g->dy[0], strides);
    }
}

static mq_code slice_reference(const mq_op_call *call, mq_error *err)
{
    slice s;
    mq_code code = slice_of(call, &s, err);
    size_t each = mq_each(call->inputs[0]);
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t i = 0; i < mq_elements(call->outputs[0]) && code == MQ_OK; i++) {
        size_t from = 0;
        for (int32_t d = 0; d < s.shape.rank; d++) {
            from = from * (size_t)call->inputs[0]->shape.dims[d] +
                   (size_t)(s.start[d] + index[d] * s.step[d]);
        }
        memcpy((uint8_t *)call->outputs[0]->data + i * each,
               (const uint8_t *)call->inputs[0]->data + from * each, each);
        mq_next_index(&s.shape, index);
    }
    return code;
}

static const mq_attr_spec slice_specs[] = {
    {.name = "starts",
     .type = MQ_ATTR_INTS,
     .offset = offsetof(slice_attrs, starts),
     .is_required = true},
    {.name = "ends",
     .type = MQ_ATTR_INTS,
     .offset = offsetof(slice_attrs, ends),
     .is_required = true},
    {.name = "axes", .type = MQ_ATTR_INTS, .offset = offsetof(slice_attrs, axes)},
    {.name = NULL},
};

const mq_op mq_op_slice_1 = {
    .name = "Slice",
    .domain = "",
    .since = 1,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{'T', ANY_TYPE}},
    .attrs_bytes = sizeof(slice_attrs),
    .specs = slice_specs,
    .shape = slice_shape,
    .run = slice_run,
    .grad = slice_grad,
    .reference = slice_reference,
    .cases =
        "starts=(1,0) ends=(3,2) axes=(1,0) | f32[4,5,A]; starts=(0,-3) ends=(9,-1) | f32[A,5]",
};

const mq_op mq_op_slice_10 = {
    .name = "Slice",
    .domain = "",
    .since = 10,
    .in = {3, 5},
    .out = {1, 1},
    .args = {{'T', ANY_TYPE}, {'I', MQ_T_INDEX}},
    .shape_inputs = 30,
    .shape = slice_shape,
    .run = slice_run,
    .grad = slice_grad,
    .reference = slice_reference,
    .cases = "| f32[4,5] i64{1,0} i64{3,100}; | f32[6,A] i64{5} i64{-100} i64{0} i64{-2};"
             "| u8[7] i32{-3} i32{7}; | f32[5,A,4] i64{0,3} i64{4,0} i64{0,-1} i64{2,-1};"
             "| f32[4] i64{3} i64{1}",
};

/* --- Gather: rows of `axis` by index; negative indices count from the end --- */

static mq_code gather_shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape, *i = &call->inputs[1]->shape;
    int32_t axis;
    mq_code code = mq_axis(((const axis_attrs *)call->attrs)->axis, x->rank, &axis, err);
    if (code != MQ_OK) {
        return code;
    }
    if (x->rank - 1 + i->rank > MQ_RANK_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "rank above %d", MQ_RANK_MAX);
    }
    mq_shape y = {.rank = x->rank - 1 + i->rank};
    for (int32_t d = 0; d < y.rank; d++) {
        y.dims[d] = d < axis             ? x->dims[d]
                    : d < axis + i->rank ? i->dims[d - axis]
                                         : x->dims[d - i->rank + 1];
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = y;
    return MQ_OK;
}

static int64_t index_at(const mq_tensor *t, size_t i)
{
    return t->dtype == MQ_DT_I32 ? ((const int32_t *)t->data)[i] : ((const int64_t *)t->data)[i];
}

static mq_code gather_run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *x = call->inputs[0], *indices = call->inputs[1];
    int32_t axis;
    mq_code code = mq_axis(((const axis_attrs *)call->attrs)->axis, x->shape.rank, &axis, err);
    size_t each = mq_each(x), count = mq_elements(indices);
    size_t outer = mq_dims_product(&x->shape, 0, axis);
    size_t row = mq_dims_product(&x->shape, axis + 1, x->shape.rank) * each;
    int64_t dim = x->shape.dims[axis];
    for (size_t i = 0; i < count && code == MQ_OK; i++) {
        int64_t at = index_at(indices, i);
        if (at < -dim || at >= dim) {
            return mq_fail(err, MQ_E_ARG, "indices[%zu] is %lld, outside %lld..%lld", i,
                           (long long)at, (long long)-dim, (long long)dim - 1);
        }
        at = at < 0 ? at + dim : at;
        for (size_t o = 0; o < outer && row > 0; o++) {
            memcpy((uint8_t *)call->outputs[0]->data + (o * count + i) * row,
                   (const uint8_t *)x->data + (o * (size_t)dim + (size_t)at) * row, row);
        }
    }
    return code;
}

static void gather_grad(const mq_op_grad *g)
{
    const mq_tensor *x = g->call.inputs[0], *indices = g->call.inputs[1];
    int64_t attr = ((const axis_attrs *)g->call.attrs)->axis;
    int32_t axis = (int32_t)(attr < 0 ? attr + x->shape.rank : attr);
    size_t count = mq_elements(indices), outer = mq_dims_product(&x->shape, 0, axis);
    size_t row = mq_dims_product(&x->shape, axis + 1, x->shape.rank);
    int64_t dim = x->shape.dims[axis];
    clear_grad(g, 0);
    for (size_t k = 0; k < outer * count * row && g->dx[0] != NULL; k++) {
        int64_t at = index_at(indices, k / row % count);
        at = at < 0 ? at + dim : at;
        g->dx[0][(k / row / count * (size_t)dim + (size_t)at) * row + k % row] += g->dy[0][k];
    }
}

static const mq_attr_spec gather_specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(axis_attrs, axis)},
    {.name = NULL},
};

const mq_op mq_op_gather = {
    .name = "Gather",
    .domain = "",
    .since = 1,
    .in = {2, 2},
    .out = {1, 1},
    .args = {{'T', ANY_TYPE}, {'I', MQ_T_INDEX}},
    .params = 1,
    .grad_keeps = MQ_GRAD_INPUTS,
    .attrs_bytes = sizeof(axis_attrs),
    .specs = gather_specs,
    .shape = gather_shape,
    .run = gather_run,
    .grad = gather_grad,
    .cases = "| f32[4,A] i64{0,3,-1,0}; axis=1 | f32[A,3,B] i32{2,-3}; axis=-1 | i64[A,5] i64{4}",
};

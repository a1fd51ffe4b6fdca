/* Reading and writing single elements or slices by index tensors: GatherElements, GatherND,
 * ScatterElements (and its first form Scatter), ScatterND. Negative indices count from the end.
 * onnx.ai/onnx/operators/onnx__ScatterND.html and its sisters. */
#include "worker/ops/copy.h"
#include "worker/ops/element.h"

#define ANY_TYPE (MQ_T_FIXED | MQ_T(MQ_DT_STR))

typedef enum reduction {
    REPLACE,
    ADD,
    MULTIPLY,
    MAXIMUM,
    MINIMUM,
} reduction;

typedef struct index_attrs {
    int64_t axis, batch_dims;
    mq_span reduction;
    reduction how;
} index_attrs;

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    static const char *const names[] = {"none", "add", "mul", "max", "min"};
    index_attrs *a = attrs;
    for (int i = 0; i < 5; i++) {
        if (a->reduction.len == 0 || mq_span_is(a->reduction, names[i])) {
            a->how = (reduction)i;
            return MQ_OK;
        }
    }
    return mq_fail(err, MQ_E_ARG, "reduction is none of none, add, mul, max, min");
}

/* Index i of the tensor within 0..dim-1. */
static mq_code index_at(const mq_tensor *indices, size_t i, int64_t dim, int64_t *out,
                        mq_error *err)
{
    int64_t at = mq_element_int(indices, i);
    if (at < -dim || at >= dim) {
        return mq_fail(err, MQ_E_ARG, "indices[%zu] is %lld, outside %lld..%lld", i, (long long)at,
                       (long long)-dim, (long long)dim - 1);
    }
    *out = at < 0 ? at + dim : at;
    return MQ_OK;
}

static double joined(reduction how, double a, double b)
{
    switch (how) {
    case ADD:
        return a + b;
    case MULTIPLY:
        return a * b;
    case MAXIMUM:
        return a > b || isnan(a) ? a : b;
    case MINIMUM:
        return a < b || isnan(a) ? a : b;
    case REPLACE:
    default:
        return b;
    }
}

static int64_t joined_int(reduction how, int64_t a, int64_t b)
{
    switch (how) {
    case ADD:
        return (int64_t)((uint64_t)a + (uint64_t)b);
    case MULTIPLY:
        return (int64_t)((uint64_t)a * (uint64_t)b);
    case MAXIMUM:
        return a > b ? a : b;
    case MINIMUM:
        return a < b ? a : b;
    case REPLACE:
    default:
        return b;
    }
}

/* y[to..] = reduction with from[at..], n elements. */
static void put(reduction how, const mq_tensor *y, size_t to, const mq_tensor *from, size_t at,
                size_t n)
{
    size_t each = mq_each(y);
    if (how == REPLACE) {
        memcpy((uint8_t *)y->data + to * each, (const uint8_t *)from->data + at * each, n * each);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (mq_is_float(y->dtype)) {
            mq_element_set(y, to + i, joined(how, mq_element(y, to + i), mq_element(from, at + i)));
        } else {
            mq_element_set_int(
                y, to + i,
                joined_int(how, mq_element_int(y, to + i), mq_element_int(from, at + i)));
        }
    }
}

/* --- GatherElements, ScatterElements: the index replaces one coordinate --- */

static mq_code elements_check(const mq_op_call *call, int32_t *axis, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape, *i = &call->inputs[1]->shape;
    mq_code code = mq_axis(((const index_attrs *)call->attrs)->axis, x->rank, axis, err);
    bool is_fit = i->rank == x->rank;
    for (int32_t d = 0; d < x->rank && code == MQ_OK && is_fit; d++) {
        is_fit = d == *axis || i->dims[d] <= x->dims[d];
    }
    if (code == MQ_OK && !is_fit) {
        char tx[128], ti[128];
        code = mq_fail(err, MQ_E_ARG, "indices %s do not lie within %s",
                       mq_shape_text(i, ti, sizeof ti), mq_shape_text(x, tx, sizeof tx));
    }
    return code;
}

static mq_code gather_elements_shape(const mq_op_call *call, mq_error *err)
{
    int32_t axis;
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = call->inputs[1]->shape;
    return elements_check(call, &axis, err);
}

/* Offset in x of the element that indices[i], whose index vector is given, means. */
static mq_code element_offset(const mq_op_call *call, int32_t axis, size_t i, const int64_t *index,
                              size_t *out, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape;
    int64_t at = 0;
    mq_code code = index_at(call->inputs[1], i, x->dims[axis], &at, err);
    *out = 0;
    for (int32_t d = 0; d < x->rank; d++) {
        *out = *out * (size_t)x->dims[d] + (size_t)(d == axis ? at : index[d]);
    }
    return code;
}

static mq_code gather_elements_run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *x = call->inputs[0], *indices = call->inputs[1];
    int64_t index[MQ_RANK_MAX] = {0};
    int32_t axis;
    size_t from, each = mq_each(x);
    mq_code code = elements_check(call, &axis, err);
    for (size_t i = 0, n = mq_elements(indices); i < n && code == MQ_OK; i++) {
        code = element_offset(call, axis, i, index, &from, err);
        if (code == MQ_OK) {
            memcpy((uint8_t *)call->outputs[0]->data + i * each,
                   (const uint8_t *)x->data + from * each, each);
        }
        mq_next_index(&indices->shape, index);
    }
    return code;
}

static mq_code scatter_elements_shape(const mq_op_call *call, mq_error *err)
{
    int32_t axis;
    mq_code code = elements_check(call, &axis, err);
    if (code == MQ_OK && !mq_shape_eq(&call->inputs[1]->shape, &call->inputs[2]->shape)) {
        code = mq_fail(err, MQ_E_ARG, "indices and updates differ in shape");
    }
    return code == MQ_OK ? mq_shape_same(call, err) : code;
}

static void copy_input(const mq_op_call *call)
{
    size_t bytes = mq_elements(call->inputs[0]) * mq_each(call->inputs[0]);
    if (bytes > 0) {
        memcpy(call->outputs[0]->data, call->inputs[0]->data, bytes);
    }
}

static mq_code scatter_elements_run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *indices = call->inputs[1];
    int64_t index[MQ_RANK_MAX] = {0};
    int32_t axis;
    size_t to;
    mq_code code = elements_check(call, &axis, err);
    copy_input(call);
    for (size_t i = 0, n = mq_elements(indices); i < n && code == MQ_OK; i++) {
        code = element_offset(call, axis, i, index, &to, err);
        if (code == MQ_OK) {
            put(((const index_attrs *)call->attrs)->how, call->outputs[0], to, call->inputs[2], i,
                1);
        }
        mq_next_index(&indices->shape, index);
    }
    return code;
}

/* --- GatherND, ScatterND: the last dimension of the indices is a tuple of coordinates --- */

/* How x is addressed: `batch` leading dimensions in step, then a tuple of `tuple` coordinates, each
 * naming a slice of `slice` elements. */
typedef struct tuples {
    int32_t batch, tuple;
    size_t slice, count; /* tuples in all */
} tuples;

static mq_code tuples_of(const mq_op_call *call, tuples *t, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape, *i = &call->inputs[1]->shape;
    int64_t batch = ((const index_attrs *)call->attrs)->batch_dims;
    int64_t tuple = i->rank < 1 ? 0 : i->dims[i->rank - 1];
    if (i->rank < 1 || batch < 0 || batch >= i->rank || batch > x->rank ||
        tuple > x->rank - batch || tuple < (batch == x->rank ? 0 : 1)) {
        char tx[128], ti[128];
        return mq_fail(err, MQ_E_ARG, "indices %s do not fit %s with %lld batch dimensions",
                       mq_shape_text(i, ti, sizeof ti), mq_shape_text(x, tx, sizeof tx),
                       (long long)batch);
    }
    *t = (tuples){(int32_t)batch, (int32_t)tuple, 1, mq_dims_product(i, 0, i->rank - 1)};
    t->slice = mq_dims_product(x, t->batch + t->tuple, x->rank);
    for (int32_t d = 0; d < t->batch; d++) {
        if (x->dims[d] != i->dims[d]) {
            return mq_fail(err, MQ_E_ARG, "batch dimension %d is %lld and %lld", d,
                           (long long)x->dims[d], (long long)i->dims[d]);
        }
    }
    return MQ_OK;
}

/* Offset in x of the slice that tuple k names. */
static mq_code slice_offset(const mq_op_call *call, const tuples *t, size_t k, size_t *out,
                            mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape, *i = &call->inputs[1]->shape;
    size_t per_batch = mq_dims_product(i, t->batch, i->rank - 1);
    size_t at = per_batch == 0 ? 0 : k / per_batch;
    mq_code code = MQ_OK;
    for (int32_t d = 0; d < t->tuple && code == MQ_OK; d++) {
        int64_t dim = x->dims[t->batch + d], coordinate = 0;
        code = index_at(call->inputs[1], k * (size_t)t->tuple + (size_t)d, dim, &coordinate, err);
        at = at * (size_t)dim + (size_t)coordinate;
    }
    *out = at * t->slice;
    return code;
}

static mq_code gather_nd_shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape, *i = &call->inputs[1]->shape;
    tuples t;
    mq_code code = tuples_of(call, &t, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_shape y = {.rank = i->rank - 1 + x->rank - t.batch - t.tuple};
    if (y.rank > MQ_RANK_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "rank above %d", MQ_RANK_MAX);
    }
    for (int32_t d = 0; d < y.rank; d++) {
        y.dims[d] = d < i->rank - 1 ? i->dims[d] : x->dims[t.batch + t.tuple + d - i->rank + 1];
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = y;
    return MQ_OK;
}

static mq_code gather_nd_run(const mq_op_call *call, mq_error *err)
{
    tuples t;
    size_t from, each = mq_each(call->inputs[0]);
    mq_code code = tuples_of(call, &t, err);
    for (size_t k = 0; code == MQ_OK && k < t.count && t.slice > 0; k++) {
        code = slice_offset(call, &t, k, &from, err);
        if (code == MQ_OK) {
            memcpy((uint8_t *)call->outputs[0]->data + k * t.slice * each,
                   (const uint8_t *)call->inputs[0]->data + from * each, t.slice * each);
        }
    }
    return code;
}

static mq_code scatter_nd_shape(const mq_op_call *call, mq_error *err)
{
    tuples t;
    mq_code code = tuples_of(call, &t, err);
    if (code == MQ_OK && mq_elements(call->inputs[2]) != t.count * t.slice) {
        code = mq_fail(err, MQ_E_ARG, "updates have %zu elements where %zu are due",
                       mq_elements(call->inputs[2]), t.count * t.slice);
    }
    return code == MQ_OK ? mq_shape_same(call, err) : code;
}

static mq_code scatter_nd_run(const mq_op_call *call, mq_error *err)
{
    tuples t;
    size_t to;
    mq_code code = tuples_of(call, &t, err);
    copy_input(call);
    for (size_t k = 0; code == MQ_OK && k < t.count && t.slice > 0; k++) {
        code = slice_offset(call, &t, k, &to, err);
        if (code == MQ_OK) {
            put(((const index_attrs *)call->attrs)->how, call->outputs[0], to, call->inputs[2],
                k * t.slice, t.slice);
        }
    }
    return code;
}

/* --- rows --- */

#define AXIS                                                                                       \
    {                                                                                              \
        .name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(index_attrs, axis)                 \
    }
#define REDUCTION                                                                                  \
    {                                                                                              \
        .name = "reduction", .type = MQ_ATTR_STRING, .offset = offsetof(index_attrs, reduction),   \
        .s = "none"                                                                                \
    }
static const mq_attr_spec axis_specs[] = {AXIS, {.name = NULL}};
static const mq_attr_spec axis_reduction_specs[] = {AXIS, REDUCTION, {.name = NULL}};
static const mq_attr_spec reduction_specs[] = {REDUCTION, {.name = NULL}};
static const mq_attr_spec batch_specs[] = {
    {.name = "batch_dims", .type = MQ_ATTR_INT, .offset = offsetof(index_attrs, batch_dims)},
    {.name = NULL},
};

#define ROW(symbol, name_, since_, inputs_, what, specs_, parse_, cases_)                          \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {inputs_, inputs_},                                                                  \
        .out = {1, 1},                                                                             \
        .args = {{'T', ANY_TYPE}, {'I', MQ_T_INDEX}, {'T', ANY_TYPE}},                             \
        .attrs_bytes = sizeof(index_attrs),                                                        \
        .specs = specs_,                                                                           \
        .parse = parse_,                                                                           \
        .shape = what##_shape,                                                                     \
        .run = what##_run,                                                                         \
        .cases = cases_,                                                                           \
    }
ROW(gather_elements, "GatherElements", 11, 2, gather_elements, axis_specs, NULL,
    "| f32[4] i64{3,0,-1}; axis=-1 | u8[3] i32{0,2}");
ROW(scatter_elements, "ScatterElements", 11, 3, scatter_elements, axis_reduction_specs, parse,
    "| f32[4] i64{3,0} f32{7,8}; reduction=add | i64[3] i32{0,-1} i64{2,9}");
ROW(scatter, "Scatter", 9, 3, scatter_elements, axis_specs, NULL, "| f32[4] i64{3,0} f32{7,8}");
ROW(gather_nd, "GatherND", 11, 2, gather_nd, batch_specs, NULL, "| f32[4,A] i64{3}");
ROW(scatter_nd, "ScatterND", 11, 3, scatter_nd, reduction_specs, parse,
    "| f32[4] i64{3} f32{7}; reduction=max | f32[2,3] i64{-1} f32{1,2,3}");

/* LabelEncoder in its three forms, CategoryMapper and FeatureVectorizer of ai.onnx.ml. Equal keys:
 * the last one counts. onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html */
#include "worker/ops/ml.h"
#include "worker/ops/order.h"

#define KEY_TYPES                                                                                  \
    (MQ_T(MQ_DT_STR) | MQ_T(MQ_DT_I64) | MQ_T(MQ_DT_I32) | MQ_T(MQ_DT_I16) | MQ_T_FLOATS)

typedef struct map_attrs {
    mq_strings keys_strings, values_strings;
    mq_ints keys_int64s, values_int64s;
    mq_floats keys_floats, values_floats;
    const mq_init *keys_tensor, *values_tensor, *default_tensor;
    mq_span default_string;
    int64_t default_int64;
    float default_float;
    mq_tensor keys, values, otherwise; /* keys without data: both directions of CategoryMapper */
} map_attrs;

static mq_tensor list(mq_dtype dtype, const void *at, size_t count)
{
    size_t each = dtype == MQ_DT_STR ? sizeof(mq_span) : mq_dtype_bytes(dtype);
    return (mq_tensor){dtype, {1, {(int64_t)count}}, (void *)(uintptr_t)at, count * each};
}

static mq_tensor any_list(const mq_strings *s, const mq_ints *i, const mq_floats *f,
                          const mq_init *tensor)
{
    return tensor != NULL ? tensor->tensor
           : s->is_given  ? list(MQ_DT_STR, s->at, s->count)
           : i->is_given  ? list(MQ_DT_I64, i->at, i->count)
           : f->is_given  ? list(MQ_DT_F32, f->at, f->count)
                          : (mq_tensor){.dtype = MQ_DT_NONE};
}

/* The default of the values' type. */
static mq_code set_default(map_attrs *a, mq_error *err)
{
    static const int64_t minus_one = -1;
    mq_dtype dtype = a->values.dtype;
    if (a->default_tensor != NULL) {
        a->otherwise = a->default_tensor->tensor;
        if (a->otherwise.dtype != dtype || mq_elements(&a->otherwise) != 1) {
            return mq_fail(err, MQ_E_FORMAT,
                           "default_tensor must be one value of the values' type");
        }
        return MQ_OK;
    }
    a->otherwise = dtype == MQ_DT_STR   ? list(dtype, &a->default_string, 1)
                   : dtype == MQ_DT_F32 ? list(dtype, &a->default_float, 1)
                   : dtype == MQ_DT_I64 ? list(dtype, &a->default_int64, 1)
                   : dtype == MQ_DT_F64 ? list(dtype, "\0\0\0\0\0\0\0\x80", 1) /* -0.0 */
                                        : list(dtype, &minus_one, 1);
    return MQ_OK;
}

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    map_attrs *a = attrs;
    a->keys = any_list(&a->keys_strings, &a->keys_int64s, &a->keys_floats, a->keys_tensor);
    a->values =
        any_list(&a->values_strings, &a->values_int64s, &a->values_floats, a->values_tensor);
    if (a->keys.dtype == MQ_DT_NONE || a->values.dtype == MQ_DT_NONE ||
        mq_elements(&a->keys) != mq_elements(&a->values) ||
        ((MQ_T(a->keys.dtype) | MQ_T(a->values.dtype)) & ~KEY_TYPES) != 0) {
        return mq_fail(err, MQ_E_FORMAT, "keys and values must both be given, equally many");
    }
    return set_default(a, err);
}

/* Opset 1: strings to their place in classes_strings, and back. CategoryMapper: two lists. */
static mq_code parse_pairs(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    map_attrs *a = attrs;
    if (a->values_int64s.is_given && a->values_int64s.count != a->keys_strings.count) {
        return mq_fail(err, MQ_E_FORMAT, "cats_int64s and cats_strings differ in length");
    }
    return MQ_OK;
}

static bool is_paired(const map_attrs *a)
{
    return a->keys.dtype == MQ_DT_NONE;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const map_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    if (is_paired(a)) {
        call->outputs[0]->dtype = x->dtype == MQ_DT_STR ? MQ_DT_I64 : MQ_DT_STR;
    } else if (x->dtype != a->keys.dtype) {
        return mq_fail(err, MQ_E_ARG, "input is %s, the keys are %s", mq_dtype_name(x->dtype),
                       mq_dtype_name(a->keys.dtype));
    } else {
        call->outputs[0]->dtype = a->values.dtype;
    }
    call->outputs[0]->shape = x->shape;
    return MQ_OK;
}

static size_t scratch(const mq_op_call *call)
{
    const map_attrs *a = call->attrs;
    return is_paired(a) ? 0 : 2 * (mq_elements(&a->keys) + 1) * sizeof(size_t);
}

static int by_key(const void *arg, size_t x, size_t y)
{
    return mq_element_compare(arg, x, y);
}

static int compare_with(const mq_tensor *keys, size_t k, const mq_tensor *x, size_t i)
{
    uint8_t both[2 * sizeof(mq_span)]; /* two elements side by side */
    size_t each = x->dtype == MQ_DT_STR ? sizeof(mq_span) : mq_dtype_bytes(x->dtype);
    mq_span texts[2];
    mq_tensor pair = {.dtype = x->dtype, .data = both};
    if (x->dtype == MQ_DT_STR) {
        texts[0] = ((const mq_span *)keys->data)[k];
        texts[1] = ((const mq_span *)x->data)[i];
        pair.data = texts;
    } else {
        memcpy(both, (const uint8_t *)keys->data + k * each, each);
        memcpy(both + each, (const uint8_t *)x->data + i * each, each);
    }
    return mq_element_compare(&pair, 0, 1);
}

/* The last of the equal keys, or SIZE_MAX. */
static size_t find(const mq_tensor *keys, const size_t *order, const mq_tensor *x, size_t i)
{
    size_t low = 0, high = mq_elements(keys);
    while (low < high) { /* the first key above x */
        size_t middle = low + (high - low) / 2;
        if (compare_with(keys, order[middle], x, i) <= 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low > 0 && compare_with(keys, order[low - 1], x, i) == 0 ? order[low - 1] : SIZE_MAX;
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const map_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    size_t count = mq_elements(&a->keys);
    size_t each = y->dtype == MQ_DT_STR ? sizeof(mq_span) : mq_dtype_bytes(y->dtype);
    size_t *order = call->scratch;
    for (size_t i = 0; i < count; i++) {
        order[i] = i;
    }
    mq_sort_indices(order, order + count, count, by_key, &a->keys);
    for (size_t i = 0; i < mq_elements(x); i++) {
        size_t at = find(&a->keys, order, x, i);
        const uint8_t *from =
            at == SIZE_MAX ? a->otherwise.data : (const uint8_t *)a->values.data + at * each;
        memcpy((uint8_t *)y->data + i * each, from, each);
    }
    return MQ_OK;
}

static int64_t pair_number(const map_attrs *a, mq_span text)
{
    for (size_t k = a->keys_strings.count; k > 0; k--) {
        if (mq_span_eq(a->keys_strings.at[k - 1], text)) {
            return a->values_int64s.is_given ? a->values_int64s.at[k - 1] : (int64_t)(k - 1);
        }
    }
    return a->default_int64;
}

static mq_span pair_text(const map_attrs *a, int64_t number)
{
    for (size_t k = a->keys_strings.count; k > 0; k--) {
        int64_t at = a->values_int64s.is_given ? a->values_int64s.at[k - 1] : (int64_t)(k - 1);
        if (at == number) {
            return a->keys_strings.at[k - 1];
        }
    }
    return a->default_string;
}

static mq_code run_pairs(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const map_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    for (size_t i = 0; i < mq_elements(x); i++) {
        if (x->dtype == MQ_DT_STR) {
            ((int64_t *)call->outputs[0]->data)[i] = pair_number(a, ((const mq_span *)x->data)[i]);
        } else {
            ((mq_span *)call->outputs[0]->data)[i] = pair_text(a, mq_element_int(x, i));
        }
    }
    return MQ_OK;
}

#define DEFAULTS                                                                                   \
    MQ_ML_TEXT(map_attrs, "default_string", default_string, "_Unused"),                            \
    {                                                                                              \
        .name = "default_int64", .type = MQ_ATTR_INT,                                              \
        .offset = offsetof(map_attrs, default_int64), .i = -1                                      \
    }
#define LISTS                                                                                      \
    MQ_ML_ATTR(STRINGS, map_attrs, "keys_strings", keys_strings),                                  \
        MQ_ML_ATTR(STRINGS, map_attrs, "values_strings", values_strings),                          \
        MQ_ML_ATTR(INTS, map_attrs, "keys_int64s", keys_int64s),                                   \
        MQ_ML_ATTR(INTS, map_attrs, "values_int64s", values_int64s),                               \
        MQ_ML_ATTR(FLOATS, map_attrs, "keys_floats", keys_floats),                                 \
        MQ_ML_ATTR(FLOATS, map_attrs, "values_floats", values_floats),                             \
    {                                                                                              \
        .name = "default_float", .type = MQ_ATTR_FLOAT,                                            \
        .offset = offsetof(map_attrs, default_float), .f = -0.0f                                   \
    }

static const mq_attr_spec specs_1[] = {
    MQ_ML_ATTR(STRINGS, map_attrs, "classes_strings", keys_strings), DEFAULTS, {.name = NULL}};
static const mq_attr_spec specs_2[] = {LISTS, DEFAULTS, {.name = NULL}};
static const mq_attr_spec specs_4[] = {
    LISTS,
    DEFAULTS,
    MQ_ML_ATTR(TENSOR, map_attrs, "keys_tensor", keys_tensor),
    MQ_ML_ATTR(TENSOR, map_attrs, "values_tensor", values_tensor),
    MQ_ML_ATTR(TENSOR, map_attrs, "default_tensor", default_tensor),
    {.name = NULL},
};
static const mq_attr_spec category_specs[] = {
    MQ_ML_ATTR(STRINGS, map_attrs, "cats_strings", keys_strings),
    MQ_ML_ATTR(INTS, map_attrs, "cats_int64s", values_int64s),
    DEFAULTS,
    {.name = NULL}};

#define PAIRS(symbol, name_, specs_, cases_)                                                       \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = (name_),                                                                           \
        .domain = "ai.onnx.ml",                                                                    \
        .since = 1,                                                                                \
        .in = {1, 1},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{0, MQ_T(MQ_DT_STR) | MQ_T(MQ_DT_I64)}},                                          \
        .attrs_bytes = sizeof(map_attrs),                                                          \
        .specs = (specs_),                                                                         \
        .parse = parse_pairs,                                                                      \
        .shape = shape,                                                                            \
        .run = run_pairs,                                                                          \
        .cases = (cases_),                                                                         \
    }
PAIRS(ml_label_encoder_1, "LabelEncoder", specs_1, "classes_strings=(a,b,c) | i64{0,2,5}");
PAIRS(ml_category_mapper, "CategoryMapper", category_specs,
      "cats_strings=(a,b) cats_int64s=(7,9) | i64{9,7,1}");

#define LABELS(since_, specs_, cases_)                                                             \
    const mq_op mq_op_ml_label_encoder_##since_ = {                                                \
        .name = "LabelEncoder",                                                                    \
        .domain = "ai.onnx.ml",                                                                    \
        .since = (since_),                                                                         \
        .in = {1, 1},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{0, KEY_TYPES}},                                                                  \
        .attrs_bytes = sizeof(map_attrs),                                                          \
        .specs = (specs_),                                                                         \
        .parse = parse,                                                                            \
        .shape = shape,                                                                            \
        .scratch = scratch,                                                                        \
        .run = run,                                                                                \
        .cases = (cases_),                                                                         \
    }
LABELS(2, specs_2, "keys_int64s=(3,1,2) values_floats=(0.5,1.5,2.5) | i64{1,2,3,4,1}");
LABELS(4, specs_4, "keys_floats=(0.5,1.5) values_int64s=(4,2) | f32{1.5,0.5,2.0}");

/* --- FeatureVectorizer: inputs [N, Ci] side by side, each cut or filled up with zeros --- */

typedef struct vectorizer_attrs {
    mq_ints dimensions;
} vectorizer_attrs;

static int64_t width_of(const mq_op_call *call, uint32_t i)
{
    const vectorizer_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[i]->shape;
    return a->dimensions.is_given ? a->dimensions.at[i] : x->rank == 0 ? 1 : x->dims[x->rank - 1];
}

static mq_code vectorizer_shape(const mq_op_call *call, mq_error *err)
{
    const vectorizer_attrs *a = call->attrs;
    int64_t width = 0;
    size_t rows = 1, first = 1, columns;
    if (a->dimensions.is_given && a->dimensions.count != call->input_count) {
        return mq_fail(err, MQ_E_FORMAT, "%zu inputdimensions for %u inputs", a->dimensions.count,
                       call->input_count);
    }
    for (uint32_t i = 0; i < call->input_count; i++) {
        mq_code code = mq_ml_rows(call->inputs[i], &rows, &columns, err);
        int64_t more = code == MQ_OK ? width_of(call, i) : 0;
        if (code == MQ_OK && (more < 0 || more > MQ_DIM_MAX || (i > 0 && rows != first))) {
            code = mq_fail(err, MQ_E_ARG, "input %u has %zu rows, the first %zu; width %lld", i,
                           rows, first, (long long)more);
        }
        if (code != MQ_OK) {
            return code;
        }
        first = rows;
        width += more;
    }
    call->outputs[0]->dtype = MQ_DT_F32;
    call->outputs[0]->shape = (mq_shape){2, {(int64_t)rows, width}};
    return MQ_OK;
}

static mq_code vectorizer_run(const mq_op_call *call, mq_error *err)
{
    float *y = call->outputs[0]->data;
    size_t width = (size_t)call->outputs[0]->shape.dims[1], at = 0;
    for (uint32_t i = 0; i < call->input_count; i++) {
        size_t rows, columns, more = (size_t)width_of(call, i);
        mq_code code = mq_ml_rows(call->inputs[i], &rows, &columns, err);
        if (code != MQ_OK) {
            return code;
        }
        for (size_t k = 0; k < rows * more; k++) {
            size_t r = k / more, c = k % more;
            y[r * width + at + c] =
                c < columns ? (float)mq_element(call->inputs[i], r * columns + c) : 0.0f;
        }
        at += more;
    }
    return MQ_OK;
}

static const mq_attr_spec vectorizer_specs[] = {
    MQ_ML_ATTR(INTS, vectorizer_attrs, "inputdimensions", dimensions), {.name = NULL}};

const mq_op mq_op_ml_feature_vectorizer = {
    .name = "FeatureVectorizer",
    .domain = "ai.onnx.ml",
    .since = 1,
    .in = {1, UINT32_MAX},
    .out = {1, 1},
    .args = {{0, MQ_ML_INPUTS}},
    .attrs_bytes = sizeof(vectorizer_attrs),
    .specs = vectorizer_specs,
    .shape = vectorizer_shape,
    .run = vectorizer_run,
    .cases =
        "inputdimensions=(2,3) | f32[A,2] i64[A,3]; | f32[A,1]; inputdimensions=(1) | f64[A,3]",
};

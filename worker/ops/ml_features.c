/* Operators of ai.onnx.ml that prepare features: Scaler, Normalizer, Imputer, Binarizer,
 * OneHotEncoder, ArrayFeatureExtractor. onnx.ai/onnx/operators/index.html, domain ai.onnx.ml */
#include "worker/ops/copy.h"
#include "worker/ops/ml.h"

typedef struct feature_attrs {
    mq_floats offset, scale, imputed_floats;
    mq_ints imputed_ints, cats_ints;
    mq_strings cats_strings;
    mq_span norm;
    float replaced_float, threshold;
    int64_t replaced_int, zeros;
} feature_attrs;

/* Element of a list with one entry for all columns or one for each. */
static mq_code check_list(size_t count, size_t columns, const char *name, mq_error *err)
{
    return count == 1 || count == columns
               ? MQ_OK
               : mq_fail(err, MQ_E_ARG, "%s has %zu entries for %zu features", name, count,
                         columns);
}

static mq_code float_shape(const mq_op_call *call, mq_error *err)
{
    mq_code code = mq_shape_same(call, err);
    call->outputs[0]->dtype = MQ_DT_F32;
    return code;
}

static size_t columns_of(const mq_tensor *x)
{
    return x->shape.rank == 0 ? 1 : (size_t)x->shape.dims[x->shape.rank - 1];
}

/* --- Scaler: (x - offset) * scale --- */

static mq_code scaler_shape(const mq_op_call *call, mq_error *err)
{
    const feature_attrs *a = call->attrs;
    mq_code code = check_list(a->offset.count, columns_of(call->inputs[0]), "offset", err);
    code = code == MQ_OK ? check_list(a->scale.count, columns_of(call->inputs[0]), "scale", err)
                         : code;
    return code == MQ_OK ? float_shape(call, err) : code;
}

static mq_code scaler_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const feature_attrs *a = call->attrs;
    size_t columns = columns_of(call->inputs[0]);
    for (size_t i = 0, n = mq_elements(call->inputs[0]); i < n; i++) {
        size_t c = i % columns;
        double offset = (double)a->offset.at[a->offset.count == 1 ? 0 : c];
        double scale = (double)a->scale.at[a->scale.count == 1 ? 0 : c];
        mq_element_set(call->outputs[0], i, (mq_element(call->inputs[0], i) - offset) * scale);
    }
    return MQ_OK;
}

/* --- Normalizer: rows by their largest, absolute or squared sum --- */

static mq_code normalizer_shape(const mq_op_call *call, mq_error *err)
{
    const feature_attrs *a = call->attrs;
    size_t rows, columns;
    mq_code code = mq_ml_rows(call->inputs[0], &rows, &columns, err);
    if (code == MQ_OK && !mq_span_is(a->norm, "MAX") && !mq_span_is(a->norm, "L1") &&
        !mq_span_is(a->norm, "L2")) {
        code = mq_fail(err, MQ_E_ARG, "norm is none of MAX, L1, L2");
    }
    return code == MQ_OK ? float_shape(call, err) : code;
}

static mq_code normalizer_run(const mq_op_call *call, mq_error *err)
{
    const feature_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    size_t rows, n;
    mq_code code = mq_ml_rows(x, &rows, &n, err);
    bool is_max = mq_span_is(a->norm, "MAX"), is_l2 = mq_span_is(a->norm, "L2");
    for (size_t r = 0; r < rows && code == MQ_OK; r++) {
        double sum = is_max ? -HUGE_VAL : 0.0;
        for (size_t i = r * n; i < (r + 1) * n; i++) {
            double v = mq_element(x, i);
            sum = is_max ? fmax(sum, v) : sum + (is_l2 ? v * v : fabs(v));
        }
        sum = is_l2 ? sqrt(sum) : sum;
        for (size_t i = r * n; i < (r + 1) * n; i++) {
            double v = mq_element(x, i);
            mq_element_set(call->outputs[0], i, fabs(sum) > 0.0 ? v / sum : v);
        }
    }
    return code;
}

/* --- Imputer: one value (or NaN) is replaced --- */

static mq_code imputer_shape(const mq_op_call *call, mq_error *err)
{
    const feature_attrs *a = call->attrs;
    bool is_float = mq_is_float(call->inputs[0]->dtype);
    mq_code code = check_list(is_float ? a->imputed_floats.count : a->imputed_ints.count,
                              columns_of(call->inputs[0]),
                              is_float ? "imputed_value_floats" : "imputed_value_int64s", err);
    return code == MQ_OK ? mq_shape_same(call, err) : code;
}

static mq_code imputer_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const feature_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    size_t columns = columns_of(x);
    for (size_t i = 0, n = mq_elements(x); i < n; i++) {
        size_t c = i % columns;
        if (mq_is_float(x->dtype)) {
            double v = mq_element(x, i), gone = (double)a->replaced_float;
            bool is_gone = isnan(gone) ? isnan(v) : v >= gone && v <= gone;
            size_t k = a->imputed_floats.count == 1 ? 0 : c;
            mq_element_set(y, i, is_gone ? (double)a->imputed_floats.at[k] : v);
        } else {
            int64_t v = mq_element_int(x, i);
            size_t k = a->imputed_ints.count == 1 ? 0 : c;
            mq_element_set_int(y, i, v == a->replaced_int ? a->imputed_ints.at[k] : v);
        }
    }
    return MQ_OK;
}

/* --- Binarizer --- */

static mq_code binarizer_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    double edge = (double)((const feature_attrs *)call->attrs)->threshold;
    for (size_t i = 0, n = mq_elements(call->inputs[0]); i < n; i++) {
        mq_element_set(call->outputs[0], i, mq_element(call->inputs[0], i) > edge ? 1.0 : 0.0);
    }
    return MQ_OK;
}

/* --- OneHotEncoder: a new last dimension with a 1 at the category --- */

static size_t categories(const feature_attrs *a)
{
    return a->cats_strings.count > 0 ? a->cats_strings.count : a->cats_ints.count;
}

static mq_code encoder_shape(const mq_op_call *call, mq_error *err)
{
    const feature_attrs *a = call->attrs;
    mq_shape y = call->inputs[0]->shape;
    bool is_text = call->inputs[0]->dtype == MQ_DT_STR;
    if (y.rank >= MQ_RANK_MAX || is_text != (a->cats_strings.count > 0)) {
        return mq_fail(err, MQ_E_ARG, "the input is %s, the categories are %s",
                       mq_dtype_name(call->inputs[0]->dtype),
                       a->cats_strings.count > 0 ? "strings" : "integers");
    }
    y.dims[y.rank++] = (int64_t)categories(a);
    call->outputs[0]->dtype = MQ_DT_F32;
    call->outputs[0]->shape = y;
    return MQ_OK;
}

static bool is_category(const feature_attrs *a, const mq_tensor *x, size_t i, size_t k)
{
    return x->dtype == MQ_DT_STR ? mq_span_eq(((const mq_span *)x->data)[i], a->cats_strings.at[k])
                                 : (int64_t)mq_element(x, i) == a->cats_ints.at[k];
}

static mq_code encoder_run(const mq_op_call *call, mq_error *err)
{
    const feature_attrs *a = call->attrs;
    size_t n = categories(a);
    float *y = call->outputs[0]->data;
    for (size_t i = 0; i < mq_elements(call->inputs[0]); i++) {
        bool is_found = false;
        for (size_t k = 0; k < n; k++) {
            bool is_it = is_category(a, call->inputs[0], i, k);
            y[i * n + k] = is_it ? 1.0f : 0.0f;
            is_found = is_found || is_it;
        }
        if (!is_found && a->zeros == 0) {
            return mq_fail(err, MQ_E_ARG, "element %zu is none of the %zu categories", i, n);
        }
    }
    return MQ_OK;
}

/* --- ArrayFeatureExtractor: columns by index --- */

static mq_code extractor_shape(const mq_op_call *call, mq_error *err)
{
    mq_shape y = call->inputs[0]->shape;
    if (y.rank < 1) {
        return mq_fail(err, MQ_E_ARG, "rank 0, at least 1 is due");
    }
    y = y.rank == 1 ? (mq_shape){2, {1}} : y;
    y.dims[y.rank - 1] = (int64_t)mq_elements(call->inputs[1]);
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = y;
    return MQ_OK;
}

static mq_code extractor_run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *x = call->inputs[0];
    size_t each = mq_each(x), columns = columns_of(x), n = mq_elements(call->inputs[1]);
    for (size_t i = 0, count = mq_elements(call->outputs[0]); i < count; i++) {
        int64_t c = mq_element_int(call->inputs[1], i % n);
        if (c < 0 || c >= (int64_t)columns) {
            return mq_fail(err, MQ_E_ARG, "index %lld is outside 0..%zu", (long long)c,
                           columns - 1);
        }
        memcpy((uint8_t *)call->outputs[0]->data + i * each,
               (const uint8_t *)x->data + (i / n * columns + (size_t)c) * each, each);
    }
    return MQ_OK;
}

/* --- rows --- */

#define ATTR(type_, name_, field_) MQ_ML_ATTR(type_, feature_attrs, name_, field_)
static const mq_attr_spec scaler_specs[] = {
    ATTR(FLOATS, "offset", offset), ATTR(FLOATS, "scale", scale), {.name = NULL}};
static const mq_attr_spec normalizer_specs[] = {MQ_ML_TEXT(feature_attrs, "norm", norm, "MAX"),
                                                {.name = NULL}};
static const mq_attr_spec imputer_specs[] = {ATTR(FLOATS, "imputed_value_floats", imputed_floats),
                                             ATTR(INTS, "imputed_value_int64s", imputed_ints),
                                             ATTR(FLOAT, "replaced_value_float", replaced_float),
                                             ATTR(INT, "replaced_value_int64", replaced_int),
                                             {.name = NULL}};
static const mq_attr_spec binarizer_specs[] = {ATTR(FLOAT, "threshold", threshold), {.name = NULL}};
static const mq_attr_spec encoder_specs[] = {
    ATTR(INTS, "cats_int64s", cats_ints),
    ATTR(STRINGS, "cats_strings", cats_strings),
    {.name = "zeros", .type = MQ_ATTR_INT, .offset = offsetof(feature_attrs, zeros), .i = 1},
    {.name = NULL}};
static const mq_attr_spec none_specs[] = {{.name = NULL}};

#define ROW(symbol, name_, inputs_, types_, specs_, shape_, run_, cases_)                          \
    const mq_op mq_op_ml_##symbol = {                                                              \
        .name = name_,                                                                             \
        .domain = "ai.onnx.ml",                                                                    \
        .since = 1,                                                                                \
        .in = {inputs_, inputs_},                                                                  \
        .out = {1, 1},                                                                             \
        .args = {{0, types_}, {0, MQ_T(MQ_DT_I64)}},                                               \
        .attrs_bytes = sizeof(feature_attrs),                                                      \
        .specs = specs_,                                                                           \
        .shape = shape_,                                                                           \
        .run = run_,                                                                               \
        .cases = cases_,                                                                           \
    }
ROW(scaler, "Scaler", 1, MQ_ML_INPUTS, scaler_specs, scaler_shape, scaler_run,
    "offset=(0.5) scale=(2.0) | f32[A,B]; offset=(0.5,1.0) scale=(2.0,3.0) | i64[A,2]");
ROW(normalizer, "Normalizer", 1, MQ_ML_INPUTS, normalizer_specs, normalizer_shape, normalizer_run,
    "norm=L2 | f32[A,B]; | f64[A]; norm=L1 | i64[A,B]");
ROW(imputer, "Imputer", 1, MQ_ML_INPUTS, imputer_specs, imputer_shape, imputer_run,
    "imputed_value_int64s=(7) replaced_value_int64=2 | i64[A,B]");
ROW(binarizer, "Binarizer", 1, MQ_ML_INPUTS, binarizer_specs, mq_shape_same, binarizer_run,
    "threshold=0.5 | f32[A,B]");
ROW(one_hot_encoder, "OneHotEncoder", 1, MQ_ML_INPUTS | MQ_T(MQ_DT_STR), encoder_specs,
    encoder_shape, encoder_run, "cats_int64s=(1,2,3) | i64[A,B]");
ROW(array_feature_extractor, "ArrayFeatureExtractor", 2, MQ_ML_INPUTS | MQ_T(MQ_DT_STR), none_specs,
    extractor_shape, extractor_run, "| f32[A,4] i64{3,0,3}");

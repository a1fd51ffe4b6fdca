/* TfIdfVectorizer: how often n-grams of a pool occur in a row of tokens, tokens of an n-gram lying
 * 1 to max_skip_count + 1 apart. onnx.ai/onnx/operators/onnx__TfIdfVectorizer.html */
#include "worker/ops/element.h"

typedef struct tfidf_attrs {
    int64_t max_gram_length, max_skip_count, min_gram_length;
    mq_span mode;
    mq_ints ngram_counts, ngram_indexes, pool_int64s;
    mq_strings pool_strings;
    mq_floats weights;
    int64_t columns;
    bool is_counted, is_weighted; /* TF or TFIDF; IDF or TFIDF */
} tfidf_attrs;

static mq_code check_lists(const tfidf_attrs *a, mq_error *err)
{
    size_t pool = a->pool_strings.is_given ? a->pool_strings.count : a->pool_int64s.count;
    size_t grams = 0;
    if (a->ngram_counts.count < 1 || a->ngram_counts.count > 64 ||
        (int64_t)a->ngram_counts.count < a->max_gram_length || a->ngram_indexes.count < 1) {
        return mq_fail(err, MQ_E_FORMAT, "ngram_counts must have an entry for each gram length");
    }
    for (size_t i = 0; i < a->ngram_counts.count; i++) {
        int64_t from = a->ngram_counts.at[i];
        int64_t to = i + 1 < a->ngram_counts.count ? a->ngram_counts.at[i + 1] : (int64_t)pool;
        if (from < 0 || to < from || to > (int64_t)pool || (to - from) % (int64_t)(i + 1) != 0) {
            return mq_fail(err, MQ_E_FORMAT, "ngram_counts[%zu] is %lld of a pool of %zu", i,
                           (long long)from, pool);
        }
        grams += (size_t)(to - from) / (i + 1);
    }
    if (grams > a->ngram_indexes.count ||
        (a->weights.is_given && a->weights.count != a->ngram_indexes.count)) {
        return mq_fail(err, MQ_E_FORMAT, "%zu n-grams, %zu indexes, %zu weights", grams,
                       a->ngram_indexes.count, a->weights.count);
    }
    return MQ_OK;
}

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    tfidf_attrs *a = attrs;
    a->is_counted = mq_span_is(a->mode, "TF") || mq_span_is(a->mode, "TFIDF");
    a->is_weighted = mq_span_is(a->mode, "IDF") || mq_span_is(a->mode, "TFIDF");
    if (!a->is_counted && !a->is_weighted) {
        return mq_fail(err, MQ_E_FORMAT, "mode is none of TF, IDF, TFIDF");
    }
    if (a->min_gram_length < 1 || a->max_gram_length < a->min_gram_length ||
        a->max_gram_length > 64 || a->max_skip_count < 0 || a->max_skip_count > 4096 ||
        a->pool_strings.is_given == a->pool_int64s.is_given) {
        return mq_fail(err, MQ_E_FORMAT,
                       "gram lengths %lld to %lld (1 to 64), max_skip_count %lld (0 to 4096), one "
                       "pool",
                       (long long)a->min_gram_length, (long long)a->max_gram_length,
                       (long long)a->max_skip_count);
    }
    for (size_t i = 0; i < a->ngram_indexes.count; i++) {
        int64_t index = a->ngram_indexes.at[i];
        if (index < 0 || index >= MQ_DIM_MAX) {
            return mq_fail(err, MQ_E_FORMAT, "ngram_indexes[%zu] is %lld", i, (long long)index);
        }
        a->columns = index + 1 > a->columns ? index + 1 : a->columns;
    }
    return check_lists(a, err);
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const tfidf_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    if (x->shape.rank > 2 || (x->dtype == MQ_DT_STR) != a->pool_strings.is_given) {
        return mq_fail(err, MQ_E_ARG, "input must be [C] or [N, C], of the pool's type");
    }
    call->outputs[0]->dtype = MQ_DT_F32;
    call->outputs[0]->shape = x->shape.rank == 2 ? (mq_shape){2, {x->shape.dims[0], a->columns}}
                                                 : (mq_shape){1, {a->columns}};
    return MQ_OK;
}

static bool is_token(const tfidf_attrs *a, const mq_tensor *x, size_t i, size_t pool)
{
    return x->dtype == MQ_DT_STR
               ? mq_span_eq(((const mq_span *)x->data)[i], a->pool_strings.at[pool])
               : mq_element_int(x, i) == a->pool_int64s.at[pool];
}

/* Counts n-grams of one length with tokens `step` apart in the row from..to. */
static void count_grams(const mq_op_call *call, size_t from, size_t to, size_t n, size_t step,
                        float *out)
{
    const tfidf_attrs *a = call->attrs;
    size_t pool = a->pool_strings.is_given ? a->pool_strings.count : a->pool_int64s.count, id = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        id += (size_t)(a->ngram_counts.at[i + 1] - a->ngram_counts.at[i]) / (i + 1);
    }
    size_t first = (size_t)a->ngram_counts.at[n - 1];
    size_t end = n < a->ngram_counts.count ? (size_t)a->ngram_counts.at[n] : pool;
    for (size_t start = from; start + step * (n - 1) < to; start++) {
        for (size_t g = first, k = id; g < end; g += n, k++) {
            size_t i = 0;
            while (i < n && is_token(a, call->inputs[0], start + i * step, g + i)) {
                i++;
            }
            out[a->ngram_indexes.at[k]] += i == n ? 1.0f : 0.0f;
        }
    }
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const tfidf_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    size_t rows = x->rank == 2 ? (size_t)x->dims[0] : 1, columns = (size_t)a->columns;
    size_t length = x->rank == 0 ? 1 : (size_t)x->dims[x->rank - 1];
    float *y = call->outputs[0]->data;
    for (size_t r = 0; r < rows; r++, y += columns) {
        memset(y, 0, columns * sizeof *y);
        for (size_t n = (size_t)a->min_gram_length; n <= (size_t)a->max_gram_length; n++) {
            size_t steps = n == 1 ? 1 : (size_t)a->max_skip_count + 1;
            for (size_t step = 1; step <= steps; step++) {
                count_grams(call, r * length, (r + 1) * length, n, step, y);
            }
        }
        for (size_t i = 0; i < columns; i++) {
            float weight = a->is_weighted && i < a->weights.count ? a->weights.at[i] : 1.0f;
            y[i] = weight * (a->is_counted ? y[i] : y[i] > 0.0f ? 1.0f : 0.0f);
        }
    }
    return MQ_OK;
}

#define TFIDF(type_, name_)                                                                        \
    {                                                                                              \
        .name = #name_, .type = MQ_ATTR_##type_, .offset = offsetof(tfidf_attrs, name_),           \
        .is_required = true                                                                        \
    }
#define TFIDF_MAY(type_, name_)                                                                    \
    {                                                                                              \
        .name = #name_, .type = MQ_ATTR_##type_, .offset = offsetof(tfidf_attrs, name_)            \
    }
static const mq_attr_spec specs[] = {
    TFIDF(INT, max_gram_length),  TFIDF(INT, max_skip_count),
    TFIDF(INT, min_gram_length),  TFIDF(STRING, mode),
    TFIDF(INTS, ngram_counts),    TFIDF(INTS, ngram_indexes),
    TFIDF_MAY(INTS, pool_int64s), TFIDF_MAY(STRINGS, pool_strings),
    TFIDF_MAY(FLOATS, weights),   {.name = NULL},
};

const mq_op mq_op_tfidf_vectorizer = {
    .name = "TfIdfVectorizer",
    .domain = "",
    .since = 9,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{0, MQ_T_INDEX | MQ_T(MQ_DT_STR)}},
    .attrs_bytes = sizeof(tfidf_attrs),
    .specs = specs,
    .parse = parse,
    .shape = shape,
    .run = run,
    .cases = "mode=TF min_gram_length=1 max_gram_length=2 max_skip_count=1 ngram_counts=(0,3) "
             "ngram_indexes=(0,1,2,3,4) pool_int64s=(1,2,3,1,2,2,3) | i64[A,9]; mode=TFIDF "
             "min_gram_length=2 max_gram_length=2 max_skip_count=0 ngram_counts=(0,0) "
             "ngram_indexes=(1,0) pool_int64s=(1,2,2,3) weights=(0.5,2.5) | i32[12]",
};

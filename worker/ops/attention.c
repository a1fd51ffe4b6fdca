/* Attention: softmax(scale Q K^T + mask) V by heads, with grouped heads, a past to go on from,
 * causal masks and a cap on scores. Sums are taken in double; for inference only.
 * onnx.ai/onnx/operators/onnx__Attention.html */
#include "worker/ops/element.h"

enum { Q, K, V, MASK, PAST_K, PAST_V, LENGTHS };

/* What output 3 shows: the scores after each stage. */
enum { SOFTCAP_STAGE = 1, MASK_STAGE = 2 };

typedef struct attention_attrs {
    int64_t is_causal, kv_num_heads, q_num_heads, qk_matmul_output_mode, softmax_precision;
    int64_t left_window_size, right_window_size; /* keys seen around the own position, -1: all */
    float scale, softcap;
    bool has_scale;
} attention_attrs;

/* One of Q, K, V as [batch, heads, rows, width], whichever rank it has. */
typedef struct side {
    const mq_tensor *t;
    size_t batch, heads, rows, width;
    bool is_flat; /* [batch, rows, heads * width] */
} side;

typedef struct attention {
    side q, k, v;
    size_t past, total; /* rows of keys before these, and in all */
} attention;

static mq_code side_of(const mq_tensor *t, int64_t heads, const char *name, side *out,
                       mq_error *err)
{
    const mq_shape *s = &t->shape;
    *out = (side){.t = t, .batch = (size_t)s->dims[0], .is_flat = s->rank == 3};
    if (s->rank == 4) {
        out->heads = (size_t)s->dims[1];
        out->rows = (size_t)s->dims[2];
        out->width = (size_t)s->dims[3];
        return MQ_OK;
    }
    if (s->rank != 3 || heads < 1 || s->dims[2] % heads != 0) {
        char text[128];
        return mq_fail(err, MQ_E_ARG,
                       "%s %s: rank 4, or rank 3 with a width that %lld heads divide", name,
                       mq_shape_text(s, text, sizeof text), (long long)heads);
    }
    out->rows = (size_t)s->dims[1];
    out->heads = (size_t)heads;
    out->width = (size_t)(s->dims[2] / heads);
    return MQ_OK;
}

static mq_code attention_of(const mq_op_call *call, attention *x, mq_error *err)
{
    const attention_attrs *a = call->attrs;
    const mq_tensor *past_k = mq_call_input(call, PAST_K), *past_v = mq_call_input(call, PAST_V);
    mq_code code = side_of(call->inputs[Q], a->q_num_heads, "Q", &x->q, err);
    code = code == MQ_OK ? side_of(call->inputs[K], a->kv_num_heads, "K", &x->k, err) : code;
    code = code == MQ_OK ? side_of(call->inputs[V], a->kv_num_heads, "V", &x->v, err) : code;
    if (code != MQ_OK) {
        return code;
    }
    bool is_fit = x->q.batch == x->k.batch && x->k.batch == x->v.batch && x->k.heads > 0 &&
                  x->q.heads % x->k.heads == 0 && x->k.heads == x->v.heads &&
                  x->q.width == x->k.width && x->k.rows == x->v.rows;
    x->past = 0;
    if (is_fit && (past_k != NULL) != (past_v != NULL)) {
        return mq_fail(err, MQ_E_ARG, "past_key and past_value go together");
    }
    if (is_fit && past_k != NULL) {
        const mq_shape *k = &past_k->shape, *v = &past_v->shape;
        is_fit = k->rank == 4 && v->rank == 4 && k->dims[0] == (int64_t)x->k.batch &&
                 v->dims[0] == k->dims[0] && k->dims[1] == (int64_t)x->k.heads &&
                 v->dims[1] == k->dims[1] && k->dims[2] == v->dims[2] &&
                 k->dims[3] == (int64_t)x->k.width && v->dims[3] == (int64_t)x->v.width;
        x->past = is_fit ? (size_t)k->dims[2] : 0;
    }
    x->total = x->past + x->k.rows;
    if (!is_fit) {
        return mq_fail(err, MQ_E_ARG, "the shapes of Q, K, V and their past do not go together");
    }
    return MQ_OK;
}

static mq_code check_mask(const mq_op_call *call, const attention *x, mq_error *err)
{
    const mq_tensor *mask = mq_call_input(call, MASK);
    const mq_tensor *lengths = mq_call_input(call, LENGTHS);
    mq_shape scores = {
        4, {(int64_t)x->q.batch, (int64_t)x->q.heads, (int64_t)x->q.rows, (int64_t)x->total}};
    mq_shape both;
    if (lengths != NULL && mq_elements(lengths) != x->q.batch) {
        return mq_fail(err, MQ_E_ARG, "nonpad_kv_seqlen has %zu entries for a batch of %zu",
                       mq_elements(lengths), x->q.batch);
    }
    if (mask == NULL) {
        return MQ_OK;
    }
    mq_shape s = mask->shape;
    if (s.rank > 0 && s.dims[s.rank - 1] < (int64_t)x->total) {
        s.dims[s.rank - 1] = (int64_t)x->total; /* what the mask does not reach is not attended */
    }
    mq_code code = mq_broadcast(&s, &scores, &both, err);
    if (code == MQ_OK && !mq_shape_eq(&both, &scores)) {
        code = mq_fail(err, MQ_E_ARG, "attn_mask does not broadcast to the scores");
    }
    return code;
}

static void set_shape(mq_tensor *t, mq_dtype dtype, size_t a, size_t b, size_t c, size_t d)
{
    if (t != NULL) {
        t->dtype = dtype;
        t->shape = (mq_shape){4, {(int64_t)a, (int64_t)b, (int64_t)c, (int64_t)d}};
    }
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    attention x;
    mq_code code = attention_of(call, &x, err);
    code = code == MQ_OK ? check_mask(call, &x, err) : code;
    if (code != MQ_OK) {
        return code;
    }
    mq_tensor *y = call->outputs[0];
    set_shape(y, x.q.t->dtype, x.q.batch, x.q.heads, x.q.rows, x.v.width);
    if (x.q.is_flat) {
        y->shape = (mq_shape){
            3, {(int64_t)x.q.batch, (int64_t)x.q.rows, (int64_t)(x.q.heads * x.v.width)}};
    }
    set_shape(mq_call_output(call, 1), x.k.t->dtype, x.k.batch, x.k.heads, x.total, x.k.width);
    set_shape(mq_call_output(call, 2), x.v.t->dtype, x.v.batch, x.v.heads, x.total, x.v.width);
    set_shape(mq_call_output(call, 3), x.q.t->dtype, x.q.batch, x.q.heads, x.q.rows, x.total);
    return MQ_OK;
}

static double at(const side *s, size_t batch, size_t head, size_t row, size_t i)
{
    size_t offset = s->is_flat ? ((batch * s->rows + row) * s->heads + head) * s->width + i
                               : ((batch * s->heads + head) * s->rows + row) * s->width + i;
    return mq_element(s->t, offset);
}

/* A key or value, from the past or from now. */
static double kept(const side *s, const mq_tensor *past, size_t past_rows, size_t batch,
                   size_t head, size_t row, size_t i)
{
    if (row < past_rows) {
        return mq_element(past, ((batch * s->heads + head) * past_rows + row) * s->width + i);
    }
    return at(s, batch, head, row - past_rows, i);
}

/* What the masks add to the score of a key: -infinity hides it. */
static double bias_of(const mq_op_call *call, const attention *x, size_t batch, size_t head,
                      size_t row, size_t key)
{
    const attention_attrs *a = call->attrs;
    const mq_tensor *mask = mq_call_input(call, MASK), *lengths = mq_call_input(call, LENGTHS);
    size_t length = lengths == NULL ? x->total : (size_t)mq_element_int(lengths, batch);
    /* query rows line up with the last keys of the sequence that is not padding */
    size_t before = lengths == NULL ? x->past : length < x->q.rows ? 0 : length - x->q.rows;
    if (key >= length || (a->is_causal != 0 && key > row + before)) {
        return -HUGE_VAL;
    }
    int64_t away = (int64_t)key - (int64_t)(row + before);
    if ((a->left_window_size >= 0 && -away > a->left_window_size) ||
        (a->right_window_size >= 0 && away > a->right_window_size)) {
        return -HUGE_VAL;
    }
    if (mask == NULL) {
        return 0.0;
    }
    int64_t index[4] = {(int64_t)batch, (int64_t)head, (int64_t)row, (int64_t)key};
    size_t offset = 0;
    for (int32_t d = 0; d < mask->shape.rank; d++) {
        int64_t dim = mask->shape.dims[d], i = index[4 - mask->shape.rank + d];
        bool is_last = d == mask->shape.rank - 1;
        if (is_last && dim > 1 && i >= dim) {
            return -HUGE_VAL;
        }
        offset = offset * (size_t)dim + (size_t)(dim == 1 ? 0 : i);
    }
    double v = mq_element(mask, offset);
    return mask->dtype != MQ_DT_BOOL ? v : v > 0.0 ? 0.0 : -HUGE_VAL;
}

static void softmax(double *scores, size_t n)
{
    double top = -HUGE_VAL, sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        top = fmax(top, scores[i]);
    }
    for (size_t i = 0; i < n; i++) {
        scores[i] = isinf(top) ? 0.0 : exp(scores[i] - top); /* nothing to attend to: zeros */
        sum += scores[i];
    }
    for (size_t i = 0; i < n && sum > 0.0; i++) {
        scores[i] /= sum;
    }
}

static void keep_stage(const mq_op_call *call, int64_t stage, size_t first, const double *scores,
                       size_t n)
{
    const attention_attrs *a = call->attrs;
    mq_tensor *out = mq_call_output(call, 3);
    for (size_t i = 0; out != NULL && a->qk_matmul_output_mode == stage && i < n; i++) {
        mq_element_set(out, first + i, scores[i]);
    }
}

/* The weights of one query row over all keys. */
static void weights_of(const mq_op_call *call, const attention *x, size_t batch, size_t head,
                       size_t row, double *scores)
{
    const attention_attrs *a = call->attrs;
    const mq_tensor *past = mq_call_input(call, PAST_K);
    size_t group = head / (x->q.heads / x->k.heads), n = x->total;
    size_t first = ((batch * x->q.heads + head) * x->q.rows + row) * n;
    double scale = a->has_scale ? (double)a->scale : 1.0 / sqrt((double)x->q.width);
    for (size_t key = 0; key < n; key++) {
        double sum = 0.0;
        for (size_t i = 0; i < x->q.width; i++) {
            sum +=
                at(&x->q, batch, head, row, i) * kept(&x->k, past, x->past, batch, group, key, i);
        }
        scores[key] = sum * scale;
    }
    keep_stage(call, 0, first, scores, n);
    for (size_t key = 0; key < n && a->softcap > 0.0f; key++) {
        scores[key] = (double)a->softcap * tanh(scores[key] / (double)a->softcap);
    }
    keep_stage(call, SOFTCAP_STAGE, first, scores, n);
    for (size_t key = 0; key < n; key++) {
        scores[key] += bias_of(call, x, batch, head, row, key);
    }
    keep_stage(call, MASK_STAGE, first, scores, n);
    softmax(scores, n);
    keep_stage(call, 3, first, scores, n);
}

static void put_present(const mq_op_call *call, const attention *x)
{
    for (int s = 0; s < 2; s++) {
        const side *from = s == 0 ? &x->k : &x->v;
        const mq_tensor *past = mq_call_input(call, s == 0 ? PAST_K : PAST_V);
        mq_tensor *out = mq_call_output(call, (uint32_t)s + 1);
        for (size_t i = 0; out != NULL && i < mq_elements(out); i++) {
            size_t row = i / from->width % x->total, head = i / from->width / x->total;
            mq_element_set(out, i,
                           kept(from, past, x->past, head / from->heads, head % from->heads, row,
                                i % from->width));
        }
    }
}

static size_t scratch(const mq_op_call *call)
{
    attention x;
    return attention_of(call, &x, NULL) == MQ_OK ? (x.total + x.v.width) * sizeof(double) : 0;
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    attention x;
    mq_code code = attention_of(call, &x, err);
    if (code != MQ_OK) {
        return code;
    }
    const mq_tensor *past = mq_call_input(call, PAST_V);
    double *scores = call->scratch, *sums = scores + x.total;
    for (size_t r = 0; r < x.q.batch * x.q.heads * x.q.rows; r++) {
        size_t row = r % x.q.rows, head = r / x.q.rows % x.q.heads;
        size_t batch = r / x.q.rows / x.q.heads, group = head / (x.q.heads / x.k.heads);
        weights_of(call, &x, batch, head, row, scores);
        memset(sums, 0, x.v.width * sizeof *sums);
        for (size_t key = 0; key < x.total; key++) {
            for (size_t i = 0; scores[key] > 0.0 && i < x.v.width; i++) {
                sums[i] += scores[key] * kept(&x.v, past, x.past, batch, group, key, i);
            }
        }
        size_t to = x.q.is_flat ? (batch * x.q.rows + row) * x.q.heads + head : r;
        for (size_t i = 0; i < x.v.width; i++) {
            mq_element_set(call->outputs[0], to * x.v.width + i, sums[i]);
        }
    }
    put_present(call, &x);
    return MQ_OK;
}

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)opset;
    attention_attrs *a = attrs;
    a->has_scale = mq_node_attr(node, "scale") != NULL;
    if (a->qk_matmul_output_mode < 0 || a->qk_matmul_output_mode > 3) {
        return mq_fail(err, MQ_E_ARG, "qk_matmul_output_mode is %lld, allowed are 0 to 3",
                       (long long)a->qk_matmul_output_mode);
    }
    return MQ_OK;
}

#define INT_ATTR(name_, value)                                                                     \
    {                                                                                              \
        .name = #name_, .type = MQ_ATTR_INT, .offset = offsetof(attention_attrs, name_),           \
        .i = (value)                                                                               \
    }
static const mq_attr_spec specs[] = {
    INT_ATTR(is_causal, 0),
    INT_ATTR(kv_num_heads, 0),
    INT_ATTR(q_num_heads, 0),
    INT_ATTR(qk_matmul_output_mode, 0),
    INT_ATTR(softmax_precision, 0),
    INT_ATTR(left_window_size, -1),
    INT_ATTR(right_window_size, -1),
    {.name = "scale", .type = MQ_ATTR_FLOAT, .offset = offsetof(attention_attrs, scale)},
    {.name = "softcap", .type = MQ_ATTR_FLOAT, .offset = offsetof(attention_attrs, softcap)},
    {.name = NULL},
};

#define FLOATS (MQ_T_FLOATS | MQ_T_HALF)
const mq_op mq_op_attention = {
    .name = "Attention",
    .domain = "",
    .since = 23,
    .in = {3, 7},
    .out = {1, 4},
    .args = {{'T', FLOATS},
             {'T', FLOATS},
             {0, FLOATS},
             {0, FLOATS | MQ_T_INTS | MQ_T_BOOL},
             {0, FLOATS},
             {0, FLOATS},
             {0, MQ_T(MQ_DT_I64)}},
    .attrs_bytes = sizeof(attention_attrs),
    .specs = specs,
    .parse = parse,
    .shape = shape,
    .scratch = scratch,
    .run = run,
    .cases = "| f32[A,2,3,4] f32[A,2,5,4] f32[A,2,5,B]; left_window_size=1 right_window_size=0 | "
             "f32[1,1,4,2] f32[1,1,4,2] f32[1,1,4,2];"
             "q_num_heads=4 kv_num_heads=2 is_causal=1 | f32[A,3,8] f32[A,3,4] f32[A,3,6];"
             "softcap=2.0 scale=0.5 | f64[1,2,3,4] f64[1,1,5,4] f64[1,1,5,2] f64[3,5]",
};

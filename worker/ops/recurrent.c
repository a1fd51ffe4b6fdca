/* Recurrent layers: attributes, shapes, and time; see recurrent.h. The product with W is one for
 * all of time, that with R one a step. */
#include "worker/ops/recurrent.h"

#include <strings.h>

#include "shared/base/math.h"
#include "worker/blas/blas.h"

/* --- activations --- */

typedef struct act_name {
    const char *name;
    mq_activate kind;
    bool has_alpha, has_beta;
    float alpha, beta; /* defaults */
} act_name;

static const act_name act_names[] = {
    {"Sigmoid", MQ_ACTIVATE_SIGMOID, false, false, 0.0f, 0.0f},
    {"Tanh", MQ_ACTIVATE_TANH, false, false, 0.0f, 0.0f},
    {"Relu", MQ_ACTIVATE_RELU, false, false, 0.0f, 0.0f},
    {"Affine", MQ_ACTIVATE_AFFINE, true, true, 1.0f, 0.0f},
    {"LeakyRelu", MQ_ACTIVATE_LEAKY_RELU, true, false, 0.01f, 0.0f},
    {"ThresholdedRelu", MQ_ACTIVATE_THRESHOLDED_RELU, true, false, 1.0f, 0.0f},
    {"ScaledTanh", MQ_ACTIVATE_SCALED_TANH, true, true, 1.0f, 1.0f},
    {"HardSigmoid", MQ_ACTIVATE_HARD_SIGMOID, true, true, 0.2f, 0.5f},
    {"Elu", MQ_ACTIVATE_ELU, true, false, 1.0f, 0.0f},
    {"Softsign", MQ_ACTIVATE_SOFTSIGN, false, false, 0.0f, 0.0f},
    {"Softplus", MQ_ACTIVATE_SOFTPLUS, false, false, 0.0f, 0.0f},
};

static const act_name *find_act(mq_span name)
{
    for (size_t i = 0; i < MQ_COUNT_OF(act_names); i++) {
        if (strlen(act_names[i].name) == name.len &&
            strncasecmp(act_names[i].name, (const char *)name.data, name.len) == 0) {
            return &act_names[i];
        }
    }
    return NULL;
}

/* alpha and beta are lists for those activations, in order, that have one. */
static mq_code parse_acts(mq_recurrent_attrs *a, const char *const *defaults, mq_error *err)
{
    size_t count = a->acts_each * (size_t)a->directions, alphas = 0, betas = 0;
    if (a->activations.is_given && a->activations.count != count &&
        a->activations.count != a->acts_each) {
        return mq_fail(err, MQ_E_FORMAT, "attribute 'activations' has %zu names where %zu are due",
                       a->activations.count, count);
    }
    for (size_t i = 0; i < count; i++) {
        mq_span name = mq_str(defaults[i % a->acts_each]);
        if (a->activations.is_given) {
            name = a->activations.at[i % a->activations.count];
        }
        const act_name *act = find_act(name);
        if (act == NULL) {
            return mq_fail(err, MQ_E_UNSUPPORTED, "activation '%.*s' is not known",
                           (int)(name.len < 40 ? name.len : 40), (const char *)name.data);
        }
        a->acts[i] = (mq_activation){act->kind, act->alpha, act->beta};
        if (act->has_alpha && alphas < a->alpha.count) {
            a->acts[i].alpha = a->alpha.at[alphas++];
        }
        if (act->has_beta && betas < a->beta.count) {
            a->acts[i].beta = a->beta.at[betas++];
        }
    }
    return MQ_OK;
}

float mq_recurrent_activate(const mq_recurrent_step *s, uint32_t which, float v)
{
    const mq_activation *act = &s->acts[which];
    float clip = s->attrs->clip;
    if (clip > 0.0f) {
        v = v > clip ? clip : v < -clip ? -clip : v;
    }
    switch (act->kind) {
    case MQ_ACTIVATE_SIGMOID:
        return mq_sigmoidf(v);
    case MQ_ACTIVATE_TANH:
        return mq_tanhf(v);
    case MQ_ACTIVATE_RELU:
        return v > 0.0f ? v : 0.0f;
    case MQ_ACTIVATE_AFFINE:
        return act->alpha * v + act->beta;
    case MQ_ACTIVATE_LEAKY_RELU:
        return v >= 0.0f ? v : act->alpha * v;
    case MQ_ACTIVATE_THRESHOLDED_RELU:
        return v >= act->alpha ? v : 0.0f;
    case MQ_ACTIVATE_SCALED_TANH:
        return act->alpha * mq_tanhf(act->beta * v);
    case MQ_ACTIVATE_HARD_SIGMOID:
        v = act->alpha * v + act->beta;
        return v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v;
    case MQ_ACTIVATE_ELU:
        return v >= 0.0f ? v : act->alpha * (mq_expf(v) - 1.0f);
    case MQ_ACTIVATE_SOFTSIGN:
        return v / (1.0f + fabsf(v));
    case MQ_ACTIVATE_SOFTPLUS:
        return (v > 0.0f ? v : 0.0f) + mq_logf(1.0f + mq_expf(-fabsf(v)));
    }
    return v;
}

/* --- attributes --- */

#define SPEC(name_, type_, field)                                                                  \
    {                                                                                              \
        .name = name_, .type = type_, .offset = offsetof(mq_recurrent_attrs, field)                \
    }

const mq_attr_spec mq_recurrent_specs[] = {
    SPEC("activation_alpha", MQ_ATTR_FLOATS, alpha),
    SPEC("activation_beta", MQ_ATTR_FLOATS, beta),
    SPEC("activations", MQ_ATTR_STRINGS, activations),
    SPEC("clip", MQ_ATTR_FLOAT, clip),
    {.name = "direction",
     .type = MQ_ATTR_STRING,
     .offset = offsetof(mq_recurrent_attrs, direction),
     .s = "forward"},
    SPEC("hidden_size", MQ_ATTR_INT, hidden_size),
    SPEC("layout", MQ_ATTR_INT, layout),
    SPEC("linear_before_reset", MQ_ATTR_INT, linear_before_reset),
    SPEC("input_forget", MQ_ATTR_INT, input_forget),
    SPEC("output_sequence", MQ_ATTR_INT, output_sequence),
    {.name = NULL},
};

mq_code mq_recurrent_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)opset;
    static const char *const rnn[] = {"Tanh"}, *const gru[] = {"Sigmoid", "Tanh"},
                             *const lstm[] = {"Sigmoid", "Tanh", "Tanh"};
    mq_recurrent_attrs *a = attrs;
    const char *const *defaults = node->op_type[0] == 'R'   ? rnn
                                  : node->op_type[0] == 'G' ? gru
                                                            : lstm;
    a->acts_each = node->op_type[0] == 'R' ? 1 : node->op_type[0] == 'G' ? 2 : 3;
    a->is_reversed = mq_span_eq(a->direction, mq_str("reverse"));
    bool is_both = mq_span_eq(a->direction, mq_str("bidirectional"));
    if (!a->is_reversed && !is_both && !mq_span_eq(a->direction, mq_str("forward"))) {
        return mq_fail(err, MQ_E_FORMAT,
                       "attribute 'direction' is none of forward, reverse, bidirectional");
    }
    if (a->layout != 0 && a->layout != 1) {
        return mq_fail(err, MQ_E_FORMAT, "attribute 'layout' is %lld where 0 or 1 is due",
                       (long long)a->layout);
    }
    a->directions = is_both ? 2 : 1;
    return parse_acts(a, defaults, err);
}

/* --- shapes --- */

typedef struct sizes {
    size_t time, batch, input, hidden, directions;
} sizes;

static sizes sizes_of(const mq_op_call *call)
{
    const mq_recurrent_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape, *r = &call->inputs[2]->shape;
    return (sizes){.time = (size_t)x->dims[a->layout == 0 ? 0 : 1],
                   .batch = (size_t)x->dims[a->layout == 0 ? 1 : 0],
                   .input = (size_t)x->dims[2],
                   .hidden = (size_t)r->dims[2],
                   .directions = (size_t)a->directions};
}

static mq_code want_shape(const mq_op_call *call, uint32_t i, mq_shape want, mq_error *err)
{
    const mq_tensor *t = mq_call_input(call, i);
    if (t != NULL && !mq_shape_eq(&t->shape, &want)) {
        char a[96], b[96];
        return mq_fail(err, MQ_E_ARG, "input %u has shape %s where %s is due", i,
                       mq_shape_text(&t->shape, a, sizeof a), mq_shape_text(&want, b, sizeof b));
    }
    return MQ_OK;
}

mq_code mq_recurrent_shape(const mq_op_call *call, mq_error *err)
{
    const mq_recurrent_attrs *a = call->attrs;
    if (call->inputs[0]->shape.rank != 3 || call->inputs[2]->shape.rank != 3) {
        return mq_fail(err, MQ_E_ARG, "inputs 0 and 2 must have three dimensions");
    }
    sizes n = sizes_of(call);
    int64_t h = (int64_t)n.hidden, dirs = a->directions, batch = (int64_t)n.batch;
    int64_t gates = a->acts_each == 1 ? 1 : (int64_t)a->acts_each + 1;
    mq_shape state = {3, {dirs, batch, h}};
    if (a->layout == 1) {
        state = (mq_shape){3, {batch, dirs, h}};
    }
    if (a->hidden_size != 0 && a->hidden_size != h) {
        return mq_fail(err, MQ_E_ARG, "attribute 'hidden_size' is %lld, but R has %lld",
                       (long long)a->hidden_size, (long long)h);
    }
    if (h < 1 || h > MQ_DIM_MAX / 8) {
        return mq_fail(err, MQ_E_ARG, "a hidden size of %lld", (long long)h);
    }
    mq_code code = want_shape(call, 1, (mq_shape){3, {dirs, gates * h, (int64_t)n.input}}, err);
    code = code != MQ_OK ? code : want_shape(call, 2, (mq_shape){3, {dirs, gates * h, h}}, err);
    code = code != MQ_OK ? code : want_shape(call, 3, (mq_shape){2, {dirs, 2 * gates * h}}, err);
    code = code != MQ_OK ? code : want_shape(call, 4, (mq_shape){1, {batch}}, err);
    code = code != MQ_OK ? code : want_shape(call, 5, state, err);
    code = code != MQ_OK ? code : want_shape(call, 6, state, err);
    code = code != MQ_OK ? code : want_shape(call, 7, (mq_shape){2, {dirs, 3 * h}}, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_shape y = {4, {(int64_t)n.time, dirs, batch, h}};
    if (a->layout == 1) {
        y = (mq_shape){4, {batch, (int64_t)n.time, dirs, h}};
    }
    for (uint32_t i = 0; i < call->output_count; i++) {
        if (call->outputs[i] != NULL) {
            call->outputs[i]->dtype = call->inputs[0]->dtype;
            call->outputs[i]->shape = i == 0 ? y : state;
        }
    }
    return MQ_OK;
}

/* Floats: x for all of time, rec, h, c, room; then row pointers and flags. */
size_t mq_recurrent_scratch(const mq_op_call *call)
{
    const mq_recurrent_attrs *a = call->attrs;
    sizes n = sizes_of(call);
    size_t gates = a->acts_each == 1 ? 1 : (size_t)a->acts_each + 1;
    size_t rows, floats, bytes; /* an input of no columns may have any number of rows */
    if (!mq_mul_size(n.time + 1, n.batch, &rows) || !mq_add_size(rows, 3 * n.batch, &rows) ||
        !mq_mul_size(rows, gates * n.hidden, &floats) || !mq_mul_size(floats, 8, &bytes)) {
        return SIZE_MAX / 4; /* more than any arena gives */
    }
    return floats * sizeof(float) + n.batch * (sizeof(float *) + sizeof(bool)) + 64;
}

/* --- running --- */

void mq_recurrent_product(const mq_recurrent_step *s, const float *h, size_t from, size_t count)
{
    mq_blas_gemm_fast(&(mq_gemm){.trans_b = true,
                                 .m = (int64_t)s->batch,
                                 .n = (int64_t)(count * s->hidden),
                                 .k = (int64_t)s->hidden,
                                 .alpha = 1.0f,
                                 .a = h,
                                 .b = s->r + from * s->hidden * s->hidden,
                                 .c = s->rec + from * s->hidden,
                                 .lda = (int64_t)s->hidden,
                                 .ldb = (int64_t)s->hidden,
                                 .ldc = (int64_t)(s->gates * s->hidden)});
}

/* All of time times W, plus biases. */
static void inputs_by_w(const mq_op_call *call, const sizes *n, size_t d, size_t gates, float *out)
{
    const mq_recurrent_attrs *a = call->attrs;
    const mq_tensor *bias = mq_call_input(call, 3);
    size_t wide = gates * n->hidden, rows = n->time * n->batch;
    /* A GRU that resets after the product keeps the recurrent bias of its last gate apart. */
    size_t joined = a->linear_before_reset != 0 && gates == 3 ? 2 * n->hidden : wide;
    mq_blas_gemm_fast(&(mq_gemm){.trans_b = true,
                                 .m = (int64_t)rows,
                                 .n = (int64_t)wide,
                                 .k = (int64_t)n->input,
                                 .alpha = 1.0f,
                                 .a = call->inputs[0]->data,
                                 .b = (const float *)call->inputs[1]->data + d * wide * n->input,
                                 .c = out,
                                 .lda = (int64_t)n->input,
                                 .ldb = (int64_t)n->input,
                                 .ldc = (int64_t)wide});
    if (bias == NULL) {
        return;
    }
    const float *b = (const float *)bias->data + d * 2 * wide;
    for (size_t row = 0; row < rows; row++) {
        for (size_t i = 0; i < wide; i++) {
            out[row * wide + i] += i < joined ? b[i] + b[wide + i] : b[i];
        }
    }
}

static mq_code check_lengths(const mq_op_call *call, const sizes *n, mq_error *err)
{
    const mq_tensor *lengths = mq_call_input(call, 4);
    for (size_t b = 0; lengths != NULL && b < n->batch; b++) {
        int32_t length = ((const int32_t *)lengths->data)[b];
        if (length < 0 || (size_t)length > n->time) {
            return mq_fail(err, MQ_E_ARG, "sequence_lens: %d is outside 0..%zu", length, n->time);
        }
    }
    return MQ_OK;
}

/* Where a state [hidden] of row b lies, in floats. */
static size_t state_at(const mq_recurrent_attrs *a, const sizes *n, size_t d, size_t b)
{
    return (a->layout == 0 ? d * n->batch + b : b * n->directions + d) * n->hidden;
}

static void load_state(const mq_op_call *call, const sizes *n, uint32_t input, size_t d, float *out)
{
    const mq_tensor *from = mq_call_input(call, input);
    for (size_t b = 0; b < n->batch; b++) {
        for (size_t i = 0; i < n->hidden; i++) {
            out[b * n->hidden + i] =
                from == NULL ? 0.0f
                             : ((const float *)from->data)[state_at(call->attrs, n, d, b) + i];
        }
    }
}

static void save_state(const mq_op_call *call, const sizes *n, uint32_t output, size_t d,
                       const float *from)
{
    mq_tensor *to = mq_call_output(call, output);
    for (size_t b = 0; to != NULL && b < n->batch; b++) {
        memcpy((float *)to->data + state_at(call->attrs, n, d, b), from + b * n->hidden,
               n->hidden * sizeof(float));
    }
}

/* One direction, once its x is there. */
static void run_direction(const mq_op_call *call, const sizes *n, size_t d, mq_recurrent_step *s,
                          float *x, bool *is_active, void (*step)(const mq_recurrent_step *s))
{
    const mq_recurrent_attrs *a = call->attrs;
    const mq_tensor *lengths = mq_call_input(call, 4);
    bool is_reversed = a->is_reversed || d == 1;
    for (size_t t = 0; t < n->time; t++) {
        for (size_t b = 0; b < n->batch; b++) {
            size_t length = lengths == NULL ? n->time : (size_t)((const int32_t *)lengths->data)[b];
            size_t at = !is_reversed ? t : t < length ? length - 1 - t : t;
            is_active[b] = t < length;
            s->x[b] =
                x + (a->layout == 0 ? at * n->batch + b : b * n->time + at) * s->gates * n->hidden;
        }
        step(s);
        mq_tensor *y = mq_call_output(call, 0);
        for (size_t b = 0; y != NULL && b < n->batch; b++) {
            size_t row = (size_t)(s->x[b] - x) / (s->gates * n->hidden);
            size_t at = a->layout == 0 ? row / n->batch : row % n->time;
            size_t to = a->layout == 0 ? (at * n->directions + d) * n->batch + b
                                       : (b * n->time + at) * n->directions + d;
            if (is_active[b]) {
                memcpy((float *)y->data + to * n->hidden, s->h + b * n->hidden,
                       n->hidden * sizeof(float));
            } else {
                memset((float *)y->data + to * n->hidden, 0, n->hidden * sizeof(float));
            }
        }
    }
}

mq_code mq_recurrent_run(const mq_op_call *call, size_t gates,
                         void (*step)(const mq_recurrent_step *s), mq_error *err)
{
    const mq_recurrent_attrs *a = call->attrs;
    sizes n = sizes_of(call);
    size_t wide = gates * n.hidden;
    mq_code code = check_lengths(call, &n, err);
    if (code != MQ_OK) {
        return code;
    }
    float **rows = call->scratch;
    float *x = (float *)(void *)(rows + n.batch);
    float *rec = x + n.time * n.batch * wide, *h = rec + n.batch * wide;
    float *c = h + n.batch * n.hidden, *room = c + n.batch * n.hidden;
    bool *is_active = (bool *)(void *)(room + n.batch * n.hidden);
    for (size_t d = 0; d < n.directions; d++) {
        const mq_tensor *bias = mq_call_input(call, 3), *peepholes = mq_call_input(call, 7);
        mq_recurrent_step s = {
            .attrs = a,
            .acts = a->acts + d * a->acts_each,
            .batch = n.batch,
            .hidden = n.hidden,
            .gates = gates,
            .r = (const float *)call->inputs[2]->data + d * wide * n.hidden,
            .r_bias = bias == NULL ? NULL : (const float *)bias->data + d * 2 * wide + wide,
            .peepholes =
                peepholes == NULL ? NULL : (const float *)peepholes->data + d * 3 * n.hidden,
            .is_active = is_active,
            .x = rows,
            .rec = rec,
            .room = room,
            .h = h,
            .c = c};
        inputs_by_w(call, &n, d, gates, x);
        load_state(call, &n, 5, d, h);
        load_state(call, &n, 6, d, c);
        run_direction(call, &n, d, &s, x, is_active, step);
        save_state(call, &n, 1, d, h);
        save_state(call, &n, 2, d, c);
    }
    return MQ_OK;
}

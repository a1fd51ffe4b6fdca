/* BatchNormalization and LayerNormalization. */
#include "worker/ops/kit.h"
#include "worker/ops/rows.h"

typedef struct norm_attrs {
    float epsilon, momentum;
    int64_t spatial, is_test, training_mode, axis, stash_type;
    mq_ints consumed_inputs;
} norm_attrs;

#define F32(t) ((const float *)(t)->data)

/* --- BatchNormalization: y = (x - mean) / sqrt(var + epsilon) * scale + bias, per channel --- */

static mq_code batch_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    const norm_attrs *a = attrs;
    if ((a->training_mode != 0 && opset < 14) || a->spatial == 0) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "%s",
                       a->spatial == 0 ? "spatial 0 is not supported"
                                       : "training_mode belongs to opset 14 and above");
    }
    return MQ_OK;
}

static mq_code batch_shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape;
    int64_t channels = x->rank < 2 ? 1 : x->dims[1];
    for (uint32_t i = 1; i < 5; i++) {
        const mq_shape *s = &call->inputs[i]->shape;
        if (s->rank != 1 || s->dims[0] != channels) {
            return mq_fail(err, MQ_E_ARG, "input %u must have shape [%lld]", i,
                           (long long)channels);
        }
    }
    for (uint32_t i = 1; i < 3; i++) { /* running mean and variance */
        mq_tensor *running = mq_call_output(call, i);
        if (running != NULL) {
            running->dtype = call->inputs[3]->dtype;
            running->shape = call->inputs[3]->shape;
        }
    }
    return mq_shape_same(call, err);
}

static size_t batch_scratch(const mq_op_call *call)
{
    return 2 * mq_elements(call->inputs[1]) * sizeof(float);
}

/* Per channel: y = x * factor + shift. */
static void batch_factors(const mq_op_call *call, float *factor, float *shift)
{
    const norm_attrs *a = call->attrs;
    for (size_t c = 0, n = mq_elements(call->inputs[1]); c < n; c++) {
        factor[c] = F32(call->inputs[1])[c] / sqrtf(F32(call->inputs[4])[c] + a->epsilon);
        shift[c] = F32(call->inputs[2])[c] - F32(call->inputs[3])[c] * factor[c];
    }
}

/* training_mode: mean and variance are those of the batch; the running ones move towards them. */
static void batch_moments(const mq_op_call *call, size_t c, size_t inner, double *mean,
                          double *variance)
{
    const mq_tensor *x = call->inputs[0];
    size_t channels = mq_elements(call->inputs[1]), total = mq_elements(x) / channels;
    size_t outer = inner == 0 ? 0 : total / inner;
    double sum = 0.0, square = 0.0;
    for (size_t row = 0; row < outer; row++) {
        const float *at = F32(x) + (row * channels + c) * inner;
        for (size_t i = 0; i < inner; i++) {
            sum += (double)at[i];
        }
    }
    *mean = sum / (double)total;
    for (size_t row = 0; row < outer; row++) {
        const float *at = F32(x) + (row * channels + c) * inner;
        for (size_t i = 0; i < inner; i++) {
            double away = (double)at[i] - *mean;
            square += away * away;
        }
    }
    *variance = square / (double)total;
}

static float batch_moved(const mq_op_call *call, uint32_t input, size_t c, double moment)
{
    const norm_attrs *a = call->attrs;
    double keep = (double)a->momentum;
    return (float)((double)F32(call->inputs[input])[c] * keep + moment * (1.0 - keep));
}

/* Fills the running outputs, and the factors when they are those of the batch. */
static void batch_running(const mq_op_call *call, size_t inner, float *factor, float *shift)
{
    const norm_attrs *a = call->attrs;
    bool is_training = a->training_mode != 0 && mq_elements(call->inputs[0]) > 0;
    double keep = is_training ? (double)a->momentum : 1.0;
    for (size_t c = 0, n = mq_elements(call->inputs[1]); c < n; c++) {
        double moments[2] = {0.0, 0.0};
        if (is_training) {
            batch_moments(call, c, inner, &moments[0], &moments[1]);
            double scale = (double)F32(call->inputs[1])[c];
            double f = scale / sqrt(moments[1] + (double)a->epsilon);
            factor[c] = (float)f;
            shift[c] = (float)((double)F32(call->inputs[2])[c] - moments[0] * f);
        }
        for (uint32_t i = 0; i < 2; i++) {
            mq_tensor *running = mq_call_output(call, i + 1);
            if (running != NULL) {
                double was = (double)F32(call->inputs[3 + i])[c];
                ((float *)running->data)[c] = (float)(was * keep + moments[i] * (1.0 - keep));
            }
        }
    }
}

static mq_code batch_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_shape *s = &call->inputs[0]->shape;
    size_t channels = mq_elements(call->inputs[1]);
    size_t inner = s->rank < 2 ? 1 : mq_dims_product(s, 2, s->rank);
    size_t outer = s->rank < 1 ? 1 : (size_t)s->dims[0];
    float *factor = call->scratch, *shift = factor + channels;
    batch_factors(call, factor, shift);
    batch_running(call, inner, factor, shift);
    const float *x = call->inputs[0]->data;
    float *y = call->outputs[0]->data;
    for (size_t row = 0; row < outer * channels; row++) {
        float f = factor[row % channels], b = shift[row % channels];
        for (size_t i = 0; i < inner; i++) {
            y[row * inner + i] = x[row * inner + i] * f + b;
        }
    }
    return MQ_OK;
}

/* With the batch's own moments, which depend on x too: one channel.
 * dx = scale / deviation (dy - mean(dy) - n mean(dy n)), n the normalized x (Ioffe, Szegedy 2015).
 */
static void batch_grad_channel(const mq_op_grad *g, size_t c, size_t inner)
{
    const mq_op_call *call = &g->call;
    const norm_attrs *a = call->attrs;
    size_t channels = mq_elements(call->inputs[1]), total = mq_elements(call->inputs[0]) / channels;
    size_t outer = inner == 0 ? 0 : total / inner;
    double mean, variance, sum = 0.0, product = 0.0;
    batch_moments(call, c, inner, &mean, &variance);
    double inverse = 1.0 / sqrt(variance + (double)a->epsilon);
    for (size_t row = 0; row < outer; row++) {
        size_t k = (row * channels + c) * inner;
        for (size_t end = k + inner; k < end; k++) {
            sum += (double)g->dy[0][k];
            product += (double)g->dy[0][k] * ((double)F32(call->inputs[0])[k] - mean) * inverse;
        }
    }
    for (size_t row = 0; row < outer && g->dx[0] != NULL; row++) {
        size_t k = (row * channels + c) * inner;
        for (size_t end = k + inner; k < end; k++) {
            double n = ((double)F32(call->inputs[0])[k] - mean) * inverse;
            double d = (double)F32(call->inputs[1])[c] * inverse *
                       ((double)g->dy[0][k] - (sum + n * product) / (double)total);
            g->dx[0][k] = (float)(d + (g->add[0] ? (double)g->dx[0][k] : 0.0));
        }
    }
    if (call->input_count > 4 && g->dx[3] != NULL) {
        g->dx[3][c] = batch_moved(call, 3, c, mean);
    }
    if (call->input_count > 4 && g->dx[4] != NULL) {
        g->dx[4][c] = batch_moved(call, 4, c, variance);
    }
    for (uint32_t i = 1; i < 3; i++) {
        if (g->dx[i] != NULL) {
            double d = i == 1 ? product : sum;
            g->dx[i][c] = (float)(d + (g->add[i] ? (double)g->dx[i][c] : 0.0));
        }
    }
}

/* The statistics stay as they are; scale and bias are trained. */
static void batch_grad(const mq_op_grad *g)
{
    const mq_op_call *call = &g->call;
    const norm_attrs *a = call->attrs;
    const mq_shape *s = &call->inputs[0]->shape;
    size_t channels = mq_elements(call->inputs[1]);
    size_t inner = s->rank < 2 ? 1 : mq_dims_product(s, 2, s->rank);
    for (size_t c = 0; a->training_mode != 0 && c < channels; c++) {
        batch_grad_channel(g, c, inner);
    }
    if (a->training_mode != 0) {
        return;
    }
    for (uint32_t i = 1; i < 3; i++) {
        if (g->dx[i] != NULL && !g->add[i]) {
            memset(g->dx[i], 0, channels * sizeof(float));
        }
    }
    for (size_t k = 0, n = mq_elements(call->inputs[0]); k < n; k++) {
        size_t c = k / inner % channels;
        float inverse = 1.0f / sqrtf(F32(call->inputs[4])[c] + a->epsilon), d = g->dy[0][k];
        if (g->dx[0] != NULL) {
            float v = d * F32(call->inputs[1])[c] * inverse;
            g->dx[0][k] = g->add[0] ? g->dx[0][k] + v : v;
        }
        if (g->dx[1] != NULL) {
            g->dx[1][c] += d * (F32(call->inputs[0])[k] - F32(call->inputs[3])[c]) * inverse;
        }
        if (g->dx[2] != NULL) {
            g->dx[2][c] += d;
        }
    }
}

static mq_code batch_reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const norm_attrs *a = call->attrs;
    const mq_shape *s = &call->inputs[0]->shape;
    size_t channels = mq_elements(call->inputs[1]);
    size_t inner = s->rank < 2 ? 1 : mq_dims_product(s, 2, s->rank);
    for (size_t k = 0, n = mq_elements(call->inputs[0]); k < n; k++) {
        size_t c = k / inner % channels;
        double mean = (double)F32(call->inputs[3])[c], variance = (double)F32(call->inputs[4])[c];
        if (a->training_mode != 0) {
            batch_moments(call, c, inner, &mean, &variance);
        }
        double x = ((double)F32(call->inputs[0])[k] - mean) / sqrt(variance + (double)a->epsilon);
        ((float *)call->outputs[0]->data)[k] =
            (float)(x * (double)F32(call->inputs[1])[c] + (double)F32(call->inputs[2])[c]);
    }
    return MQ_OK;
}

static const void *batch_training(const void *attrs, mq_arena *arena)
{
    norm_attrs *out = mq_arena_new(arena, norm_attrs, 1);
    if (out != NULL) {
        *out = *(const norm_attrs *)attrs;
        out->training_mode = 1;
    }
    return out;
}

static const mq_attr_spec batch_specs[] = {
    {.name = "epsilon", .type = MQ_ATTR_FLOAT, .offset = offsetof(norm_attrs, epsilon), .f = 1e-5f},
    {.name = "momentum",
     .type = MQ_ATTR_FLOAT,
     .offset = offsetof(norm_attrs, momentum),
     .f = 0.9f},
    {.name = "spatial", .type = MQ_ATTR_INT, .offset = offsetof(norm_attrs, spatial), .i = 1},
    {.name = "is_test", .type = MQ_ATTR_INT, .offset = offsetof(norm_attrs, is_test)},
    {.name = "training_mode", .type = MQ_ATTR_INT, .offset = offsetof(norm_attrs, training_mode)},
    {.name = "consumed_inputs",
     .type = MQ_ATTR_INTS,
     .offset = offsetof(norm_attrs, consumed_inputs)},
    {.name = NULL},
};

#define BATCH(symbol, since_, cases_)                                                              \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = "BatchNormalization",                                                              \
        .domain = "",                                                                              \
        .since = (since_),                                                                         \
        .in = {5, 5},                                                                              \
        .out = {1, (since_) < 14 ? 1 : 3},                                                         \
        .args = {{'T', MQ_T(MQ_DT_F32)}},                                                          \
        .params = 6,                                                                               \
        .follows = 24,                                                                             \
        .no_grad = 24,                                                                             \
        .grad_keeps = MQ_GRAD_INPUTS,                                                              \
        .attrs_bytes = sizeof(norm_attrs),                                                         \
        .specs = batch_specs,                                                                      \
        .parse = batch_parse,                                                                      \
        .shape = batch_shape,                                                                      \
        .scratch = batch_scratch,                                                                  \
        .run = batch_run,                                                                          \
        .training = batch_training,                                                                \
        .grad = batch_grad,                                                                        \
        .reference = batch_reference,                                                              \
        .cases = (cases_),                                                                         \
    }
#define BATCH_CASES                                                                                \
    "| f32[N,C,H] f32[C] f32[C] f32[C] f32[C]+;"                                                   \
    "epsilon=0.01 | f32[N,C] f32[C] f32[C] f32[C] f32[C]+"
BATCH(batch_normalization, 1, BATCH_CASES);
BATCH(batch_normalization_14, 14,
      BATCH_CASES "; training_mode=1 epsilon=0.5 momentum=0.75 | f32[3,C,H] f32[C] f32[C] f32[C] "
                  "f32[C]+");

/* --- LayerNormalization: over dimensions axis.. --- */

static mq_code layer_shape(const mq_op_call *call, mq_error *err)
{
    const norm_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    int32_t axis;
    mq_code code = mq_axis(a->axis, x->rank, &axis, err);
    mq_shape part = {.rank = 0}, both;
    for (int32_t i = axis; i < x->rank && code == MQ_OK; i++) {
        part.dims[part.rank++] = x->dims[i];
    }
    for (uint32_t i = 1; i < call->input_count && code == MQ_OK; i++) {
        if (call->inputs[i] != NULL) {
            code = mq_broadcast(&call->inputs[i]->shape, &part, &both, err);
            if (code == MQ_OK && !mq_shape_eq(&call->inputs[i]->shape, &part)) {
                code = mq_fail(err, MQ_E_UNSUPPORTED, "input %u is not of the normalized shape", i);
            }
        }
    }
    mq_shape kept = *x;
    for (int32_t i = axis; i < x->rank && code == MQ_OK; i++) {
        kept.dims[i] = 1;
    }
    for (uint32_t i = 1; i < 3; i++) {
        mq_tensor *more = mq_call_output(call, i);
        if (more != NULL) {
            more->dtype = MQ_DT_F32;
            more->shape = kept;
        }
    }
    return code == MQ_OK ? mq_shape_same(call, err) : code;
}

/* Mean and 1 / deviation of one row, summed in order. */
static void moments(const float *x, size_t n, float epsilon, float *mean, float *inverse)
{
    double sum = 0.0, square = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i];
    }
    double m = sum / (double)n;
    for (size_t i = 0; i < n; i++) {
        square += ((double)x[i] - m) * ((double)x[i] - m);
    }
    *mean = (float)m;
    *inverse = (float)(1.0 / sqrt(square / (double)n + (double)epsilon));
}

static size_t layer_width(const mq_op_call *call)
{
    const norm_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    int32_t axis = (int32_t)(a->axis < 0 ? a->axis + x->rank : a->axis);
    return mq_dims_product(x, axis, x->rank);
}

static mq_code layer_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const norm_attrs *a = call->attrs;
    const mq_tensor *bias = mq_call_input(call, 2);
    mq_tensor *means = mq_call_output(call, 1), *inverses = mq_call_output(call, 2);
    size_t n = layer_width(call), rows = n == 0 ? 0 : mq_elements(call->inputs[0]) / n;
    const float *scale = F32(call->inputs[1]);
    for (size_t r = 0; r < rows; r++) {
        const float *x = F32(call->inputs[0]) + r * n;
        float *y = (float *)call->outputs[0]->data + r * n;
        mq_row_layer_norm(x, scale, bias == NULL ? NULL : F32(bias), a->epsilon, y, n,
                          means == NULL ? NULL : (float *)means->data + r,
                          inverses == NULL ? NULL : (float *)inverses->data + r);
    }
    return MQ_OK;
}

/* With h = (x - mean) / deviation and e = dy scale: dx = (e - mean(e) - h mean(e h)) / deviation.
 */
static void layer_grad(const mq_op_grad *g)
{
    const mq_op_call *call = &g->call;
    const norm_attrs *a = call->attrs;
    size_t n = layer_width(call), rows = n == 0 ? 0 : mq_elements(call->inputs[0]) / n;
    for (uint32_t i = 1; i < call->input_count; i++) {
        if (g->dx[i] != NULL && !g->add[i]) {
            memset(g->dx[i], 0, n * sizeof(float));
        }
    }
    for (size_t r = 0; r < rows; r++) {
        const float *x = F32(call->inputs[0]) + r * n, *scale = F32(call->inputs[1]);
        const float *dy = g->dy[0] + r * n;
        float mean, inverse, sum = 0.0f, sum_h = 0.0f;
        moments(x, n, a->epsilon, &mean, &inverse);
        for (size_t i = 0; i < n; i++) {
            float h = (x[i] - mean) * inverse;
            sum += dy[i] * scale[i];
            sum_h += dy[i] * scale[i] * h;
            if (g->dx[1] != NULL) {
                g->dx[1][i] += dy[i] * h;
            }
            if (call->input_count > 2 && g->dx[2] != NULL) {
                g->dx[2][i] += dy[i];
            }
        }
        for (size_t i = 0; i < n && g->dx[0] != NULL; i++) {
            float h = (x[i] - mean) * inverse;
            float v = (dy[i] * scale[i] - sum / (float)n - h * (sum_h / (float)n)) * inverse;
            g->dx[0][r * n + i] = g->add[0] ? g->dx[0][r * n + i] + v : v;
        }
    }
}

static const mq_attr_spec layer_specs[] = {
    {.name = "epsilon", .type = MQ_ATTR_FLOAT, .offset = offsetof(norm_attrs, epsilon), .f = 1e-5f},
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(norm_attrs, axis), .i = -1},
    {.name = "stash_type", .type = MQ_ATTR_INT, .offset = offsetof(norm_attrs, stash_type), .i = 1},
    {.name = NULL},
};

const mq_op mq_op_layer_normalization = {
    .name = "LayerNormalization",
    .domain = "",
    .since = 17,
    .in = {2, 3},
    .out = {1, 3},
    .args = {{'T', MQ_T(MQ_DT_F32)}},
    .params = 6,
    .grad_keeps = MQ_GRAD_INPUTS,
    .attrs_bytes = sizeof(norm_attrs),
    .specs = layer_specs,
    .shape = layer_shape,
    .run = layer_run,
    .grad = layer_grad,
    .cases = "| f32[A,B,C] f32[C] f32[C]; axis=1 | f32[A,B,C] f32[B,C]",
};

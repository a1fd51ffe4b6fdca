/* Normalization: LayerNormalization that exporters write as nine nodes, with the residual sum
 * before it; and what scales or shifts the channels of a convolution, which its weights take over.
 */
#include "worker/exec/fuse.h"

#include <math.h>

#include "worker/ops/norm.h"
#include "worker/ops/window.h"

/* --- LayerNormalization --- */

/* Is the step a mean over the last axis that keeps it? */
static bool is_last_mean(const mq_program *p, uint32_t s)
{
    if (s == MQ_NO_VALUE) {
        return false;
    }
    const mq_step *step = &p->steps[s];
    const mq_attr *keep = mq_node_attr(step->node, "keepdims");
    const mq_attr *axes = mq_node_attr(step->node, "axes");
    if (keep != NULL && keep->i == 0) {
        return false;
    }
    if (step->input_count == 2 && mq_fuse_is_const(p, step->inputs[1])) {
        const mq_tensor *t = &p->values[step->inputs[1]].tensor;
        int64_t axis = 0;
        if (t->dtype != MQ_DT_I64 || t->bytes != sizeof axis) {
            return false;
        }
        memcpy(&axis, t->data, sizeof axis);
        return axis == -1;
    }
    return step->input_count == 1 && axes != NULL && axes->count == 1 && axes->ints[0] == -1;
}

/* The value whose square v is, as Pow(x, 2) or x x; MQ_NO_VALUE: none. uses: how often it reads. */
static uint32_t root_of_square(const mq_program *p, uint32_t v, uint32_t *uses)
{
    uint32_t pow = mq_fuse_maker(p, v, "Pow"), mul = mq_fuse_maker(p, v, "Mul");
    if (!mq_fuse_uses(p, v, 1)) {
        return MQ_NO_VALUE;
    }
    if (pow != MQ_NO_VALUE && mq_fuse_is_number(p, p->steps[pow].inputs[1], 2.0f)) {
        *uses = 1;
        return p->steps[pow].inputs[0];
    }
    *uses = 2;
    return mul != MQ_NO_VALUE && p->steps[mul].inputs[0] == p->steps[mul].inputs[1]
               ? p->steps[mul].inputs[0]
               : MQ_NO_VALUE;
}

/* x and epsilon of the pattern that ends in this division; false: it is none. */
static bool find_moments(const mq_program *p, const mq_step *div, uint32_t *x, float *epsilon)
{
    uint32_t centred = div->inputs[0], uses = 0;
    uint32_t sub = mq_fuse_maker(p, centred, "Sub");
    uint32_t root = mq_fuse_maker(p, div->inputs[1], "Sqrt");
    if (sub == MQ_NO_VALUE || root == MQ_NO_VALUE || !mq_fuse_uses(p, div->inputs[1], 1)) {
        return false;
    }
    uint32_t sum = p->steps[root].inputs[0], add = mq_fuse_maker(p, sum, "Add");
    if (add == MQ_NO_VALUE || !mq_fuse_uses(p, sum, 1)) {
        return false;
    }
    const uint32_t *in = p->steps[add].inputs;
    uint32_t variance = mq_fuse_number(p, in[1], epsilon)   ? in[0]
                        : mq_fuse_number(p, in[0], epsilon) ? in[1]
                                                            : MQ_NO_VALUE;
    uint32_t second = mq_fuse_maker(p, variance, "ReduceMean");
    if (!is_last_mean(p, second) || !mq_fuse_uses(p, variance, 1) ||
        root_of_square(p, p->steps[second].inputs[0], &uses) != centred ||
        !mq_fuse_uses(p, centred, uses + 1)) {
        return false;
    }
    uint32_t mean = p->steps[sub].inputs[1], first = mq_fuse_maker(p, mean, "ReduceMean");
    *x = p->steps[sub].inputs[0];
    return is_last_mean(p, first) && mq_fuse_uses(p, mean, 1) && p->steps[first].inputs[0] == *x;
}

mq_code mq_fuse_layer_norm(mq_program *p, uint32_t s, bool *fired, mq_error *err)
{
    mq_norm_attrs attrs;
    uint32_t x;
    if (!mq_fuse_is(&p->steps[s], "Div") || !find_moments(p, &p->steps[s], &x, &attrs.epsilon)) {
        return MQ_OK;
    }
    uint32_t mul = mq_fuse_next(p, s, "Mul");
    if (mul == MQ_NO_VALUE) {
        return MQ_OK;
    }
    uint32_t scale = mq_fuse_other(&p->steps[mul], p->steps[s].outputs[0]);
    uint32_t add = mq_fuse_next(p, mul, "Add"), bias = MQ_NO_VALUE;
    int64_t n = mq_fuse_vector(p, scale);
    if (n == 0) {
        return MQ_OK;
    }
    if (add != MQ_NO_VALUE) {
        bias = mq_fuse_other(&p->steps[add], p->steps[mul].outputs[0]);
    }
    bool has_bias = bias != MQ_NO_VALUE && mq_fuse_vector(p, bias) == n;
    *fired = true;
    return mq_fuse_put(p, has_bias ? add : mul, &mq_op_row_norm, &attrs,
                       (const uint32_t[]){x, scale, has_bias ? bias : MQ_NO_VALUE}, 3, err);
}

/* LayerNormalization itself becomes the same kernel where it normalizes the last axis. */
static bool is_plain_norm(const mq_step *step)
{
    const mq_attr *axis = mq_node_attr(step->node, "axis");
    return mq_fuse_is(step, "LayerNormalization") && (axis == NULL || axis->i == -1) &&
           step->output_count == 1;
}

mq_code mq_fuse_skip_norm(mq_program *p, uint32_t s, bool *fired, mq_error *err)
{
    const mq_step *step = &p->steps[s];
    bool is_row = step->op == &mq_op_row_norm && step->input_count == 3;
    if (!is_row && !is_plain_norm(step)) {
        return MQ_OK;
    }
    uint32_t x = step->inputs[0], add = mq_fuse_maker(p, x, "Add");
    mq_norm_attrs attrs = {1e-5f};
    if (add == MQ_NO_VALUE || !mq_fuse_uses(p, x, 1) || mq_fuse_has_double(p)) {
        return MQ_OK;
    }
    if (is_row) {
        attrs = *(const mq_norm_attrs *)step->attrs;
    } else {
        const mq_attr *epsilon = mq_node_attr(step->node, "epsilon");
        attrs.epsilon = epsilon == NULL ? attrs.epsilon : epsilon->f;
    }
    *fired = true;
    const uint32_t inputs[] = {p->steps[add].inputs[0], step->inputs[1],
                               step->input_count > 2 ? step->inputs[2] : MQ_NO_VALUE,
                               p->steps[add].inputs[1]};
    return mq_fuse_put(p, s, &mq_op_row_norm, &attrs, inputs, 4, err);
}

/* --- channels of a convolution --- */

/* y[c] = factor[c] x + shift[c], as constants with one number or one for each channel. */
typedef struct affine {
    const float *factor, *shift; /* NULL: 1, 0 */
    bool is_one;                 /* a single number for all channels */
    const mq_tensor *norm[4];    /* scale, bias, mean, variance: instead of the above */
    float epsilon;
} affine;

/* Does the constant have one number, or `channels` along dimension 1 of an output of that rank? */
static bool is_by_channel(const mq_tensor *t, int64_t channels, int32_t rank, bool *is_one)
{
    int32_t at = t->shape.rank - (rank - 1); /* the channels' dimension in it */
    *is_one = true;
    if (t->dtype != MQ_DT_F32 || t->shape.rank > rank) {
        return false;
    }
    for (int32_t i = 0; i < t->shape.rank; i++) {
        if (t->shape.dims[i] != 1 && (i != at || t->shape.dims[i] != channels)) {
            return false;
        }
        *is_one = *is_one && t->shape.dims[i] == 1;
    }
    return true;
}

static bool norm_of(const mq_program *p, const mq_step *step, int64_t channels, affine *a)
{
    const mq_attr *mode = mq_node_attr(step->node, "training_mode");
    const mq_attr *epsilon = mq_node_attr(step->node, "epsilon");
    if (step->output_count != 1 || step->input_count != 5 || (mode != NULL && mode->i != 0)) {
        return false;
    }
    for (uint32_t i = 0; i < 4; i++) {
        if (mq_fuse_vector(p, step->inputs[i + 1]) != channels) {
            return false;
        }
        a->norm[i] = &p->values[step->inputs[i + 1]].tensor;
    }
    a->epsilon = epsilon == NULL ? 1e-5f : epsilon->f;
    return true;
}

/* What the reader of a convolution's output v does to its channels; false: something else. */
static bool affine_of(const mq_program *p, const mq_step *step, uint32_t v, int64_t channels,
                      int32_t rank, affine *a)
{
    *a = (affine){.factor = NULL};
    if (mq_fuse_is(step, "BatchNormalization")) {
        return step->inputs[0] == v && norm_of(p, step, channels, a);
    }
    bool is_mul = mq_fuse_is(step, "Mul");
    if (!is_mul && !mq_fuse_is(step, "Add")) {
        return false;
    }
    uint32_t by = mq_fuse_other(step, v);
    if (by == v || !mq_fuse_is_const(p, by) ||
        !is_by_channel(&p->values[by].tensor, channels, rank, &a->is_one)) {
        return false;
    }
    *(is_mul ? &a->factor : &a->shift) = p->values[by].tensor.data;
    return true;
}

static void affine_at(const affine *a, size_t c, float *factor, float *shift)
{
    if (a->norm[0] != NULL) {
        const float *in[4];
        for (size_t i = 0; i < 4; i++) {
            in[i] = a->norm[i]->data;
        }
        *factor = in[0][c] / sqrtf(in[3][c] + a->epsilon);
        *shift = in[1][c] - in[2][c] * *factor;
        return;
    }
    c = a->is_one ? 0 : c;
    *factor = a->factor == NULL ? 1.0f : a->factor[c];
    *shift = a->shift == NULL ? 0.0f : a->shift[c];
}

static void fold_bias(const affine *a, const float *bias, size_t channels, float *new_bias)
{
    for (size_t c = 0; c < channels; c++) {
        float factor, shift;
        affine_at(a, c, &factor, &shift);
        new_bias[c] = (bias == NULL ? 0.0f : bias[c]) * factor + shift;
    }
}

typedef struct folding {
    const affine *a;
    const mq_tensor *w;
} folding;

static bool fold_weights(void *arg, void *memory)
{
    const folding *f = arg;
    size_t channels = (size_t)f->w->shape.dims[0];
    size_t each = f->w->bytes / sizeof(float) / channels;
    const float *w = f->w->data;
    float *new_w = memory;
    for (size_t c = 0; c < channels; c++) {
        float factor, shift;
        affine_at(f->a, c, &factor, &shift);
        for (size_t i = 0; i < each; i++) {
            new_w[c * each + i] = w[c * each + i] * factor;
        }
    }
    return true;
}

/* Weights times the channels' factors, as a constant. Which factors is part of the piece's key. */
static uint32_t folded_weights(mq_program *p, const affine *a, const mq_tensor *w)
{
    uint32_t epsilon;
    folding f = {a, w};
    mq_shape shape = w->shape;
    const void *by[2] = {a->norm[0] == NULL ? (const void *)a->factor : a->norm[0]->data,
                         a->norm[0] == NULL ? NULL : a->norm[3]->data};
    memcpy(&epsilon, &a->epsilon, sizeof epsilon);
    uint64_t form = mq_pack_form('B', epsilon);
    for (size_t i = 0; i < 2; i++) {
        form = mq_pack_form(form, by[i] == NULL ? 0 : mq_pack_key_of(p->packs, by[i], 0).owner);
    }
    const float *data = mq_packs_get(p->packs, p->arena, mq_pack_key_of(p->packs, w->data, form),
                                     w->bytes, fold_weights, &f);
    return data == NULL ? MQ_NO_VALUE : mq_fuse_constant_at(p, &shape, data);
}

mq_code mq_fuse_conv_affine(mq_program *p, uint32_t s, bool *fired, mq_error *err)
{
    const mq_step *conv = &p->steps[s];
    uint32_t r = conv->op == &mq_op_conv ? mq_fuse_reader(p, s) : MQ_NO_VALUE;
    if (r == MQ_NO_VALUE || !mq_fuse_is_const(p, conv->inputs[1]) ||
        (conv->input_count > 2 && mq_fuse_vector(p, conv->inputs[2]) == 0)) {
        return MQ_OK;
    }
    const mq_tensor *w = &p->values[conv->inputs[1]].tensor;
    affine a;
    if (w->dtype != MQ_DT_F32 || w->shape.rank < 3 || w->bytes == 0 || conv->input_count > 3 ||
        !affine_of(p, &p->steps[r], conv->outputs[0], w->shape.dims[0], w->shape.rank, &a)) {
        return MQ_OK;
    }
    size_t channels = (size_t)w->shape.dims[0];
    if (conv->input_count > 2 && mq_fuse_vector(p, conv->inputs[2]) != w->shape.dims[0]) {
        return MQ_OK;
    }
    bool scales = a.norm[0] != NULL || a.factor != NULL;
    uint32_t inputs[3] = {conv->inputs[0], conv->inputs[1], MQ_NO_VALUE};
    inputs[1] = scales ? folded_weights(p, &a, w) : inputs[1];
    inputs[2] = mq_fuse_constant(p, &(mq_shape){1, {(int64_t)channels}});
    if (inputs[1] == MQ_NO_VALUE || inputs[2] == MQ_NO_VALUE) {
        return MQ_OK; /* a second copy of the weights does not fit: two kernels do it as well */
    }
    const float *bias = conv->input_count > 2 ? p->values[conv->inputs[2]].tensor.data : NULL;
    fold_bias(&a, bias, channels, p->values[inputs[2]].tensor.data);
    *fired = true;
    return mq_fuse_put(p, r, conv->op, conv->attrs, inputs, 3, err);
}

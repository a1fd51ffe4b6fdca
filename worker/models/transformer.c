/* Transformer encoder (Vaswani and others, 2017; normalization before each part, as Xiong and
 * others, 2020): rows of features are tokens, the mean over tokens is classified.
 *
 *   [N, T, F] -> linear to D, + positions -> L x (attention, feed-forward of 4 D with GELU)
 *             -> LayerNorm -> mean over T -> classes */
#include <math.h>
#include <stdio.h>

#include "worker/models/builder.h"

extern mq_arch_build_fn mq_arch_build_transformer;

typedef struct sizes {
    int64_t tokens, features, layers, width, heads, classes;
} sizes;

enum { LAYERS_MAX = 96 };

/* Name of a part of layer n. */
static mq_built part(int64_t n, const char *name)
{
    mq_built out;
    (void)snprintf(out.name, sizeof out.name, "layer%lld.%s", (long long)n, name);
    return out;
}

/* [N, T, D] -> [N, heads, T, D / heads], or the last two exchanged for the keys. */
static mq_built heads(mq_builder *b, const sizes *s, int64_t n, const char *name, mq_built x,
                      bool is_key)
{
    mq_built p = part(n, name);
    char cut[MQ_BUILDER_NAME_SIZE], turn[MQ_BUILDER_NAME_SIZE];
    (void)snprintf(cut, sizeof cut, "%.50s.heads", p.name);
    (void)snprintf(turn, sizeof turn, "%.50s.turn", p.name);
    const int64_t dims[] = {0, 0, s->heads, s->width / s->heads};
    x = mq_build_two(b, "Reshape", cut, x, mq_build_ints(b, cut, "shape", dims, 4));
    x = mq_build_one(b, "Transpose", turn, x);
    mq_build_list(b, "perm", is_key ? (int64_t[]){0, 2, 3, 1} : (int64_t[]){0, 2, 1, 3}, 4);
    return x;
}

static mq_built attention(mq_builder *b, const sizes *s, int64_t n, mq_built x)
{
    mq_built qkv[3];
    static const char *const names[] = {"query", "key", "value"};
    for (int i = 0; i < 3; i++) {
        qkv[i] = mq_build_linear(b, part(n, names[i]).name, x, s->width, s->width, MQ_FIRST_XAVIER);
        qkv[i] = heads(b, s, n, names[i], qkv[i], i == 1);
    }
    float scale = (float)(1 / sqrt((double)s->width / (double)s->heads));
    mq_built by = mq_build_real(b, part(n, "scores").name, "scale", scale);
    mq_built y = mq_build_two(b, "MatMul", part(n, "scores").name, qkv[0], qkv[1]);
    y = mq_build_two(b, "Mul", part(n, "scaled").name, y, by);
    y = mq_build_one(b, "Softmax", part(n, "softmax").name, y);
    mq_build_int(b, "axis", -1);
    y = mq_build_two(b, "MatMul", part(n, "mixed").name, y, qkv[2]);
    y = mq_build_one(b, "Transpose", part(n, "joined.turn").name, y);
    mq_build_list(b, "perm", (int64_t[]){0, 2, 1, 3}, 4);
    mq_built flat = part(n, "joined");
    const int64_t dims[] = {0, 0, s->width};
    y = mq_build_two(b, "Reshape", flat.name, y, mq_build_ints(b, flat.name, "shape", dims, 3));
    return mq_build_linear(b, part(n, "attention").name, y, s->width, s->width, MQ_FIRST_XAVIER);
}

/* x / 2 (1 + erf(x / sqrt 2)): Hendrycks and Gimpel, 2016. */
static mq_built gelu(mq_builder *b, int64_t n, mq_built x)
{
    mq_built g = part(n, "gelu");
    mq_built root = mq_build_real(b, g.name, "root", (float)sqrt(0.5));
    mq_built one = mq_build_real(b, g.name, "one", 1),
             half = mq_build_real(b, g.name, "half", 0.5F);
    mq_built y = mq_build_two(b, "Mul", part(n, "gelu.a").name, x, root);
    y = mq_build_one(b, "Erf", part(n, "gelu.b").name, y);
    y = mq_build_two(b, "Add", part(n, "gelu.c").name, y, one);
    y = mq_build_two(b, "Mul", part(n, "gelu.d").name, x, y);
    return mq_build_two(b, "Mul", g.name, y, half);
}

static mq_built layer(mq_builder *b, const sizes *s, int64_t n, mq_built x)
{
    mq_built y = mq_build_layer_norm(b, part(n, "norm1").name, x, s->width);
    x = mq_build_two(b, "Add", part(n, "add1").name, x, attention(b, s, n, y));
    y = mq_build_layer_norm(b, part(n, "norm2").name, x, s->width);
    y = mq_build_linear(b, part(n, "up").name, y, s->width, 4 * s->width, MQ_FIRST_XAVIER);
    y = gelu(b, n, y);
    y = mq_build_linear(b, part(n, "down").name, y, 4 * s->width, s->width, MQ_FIRST_XAVIER);
    return mq_build_two(b, "Add", part(n, "add2").name, x, y);
}

static mq_code read_sizes(const mq_arch_sizes *in, sizes *s, mq_error *err)
{
    if (in->count != 6) {
        return mq_fail(err, MQ_E_ARG,
                       "exactly six sizes are needed: tokens-features-layers-width-heads-classes, "
                       "not %u",
                       in->count);
    }
    *s = (sizes){in->size[0], in->size[1], in->size[2], in->size[3], in->size[4], in->size[5]};
    if (s->layers > LAYERS_MAX) {
        return mq_fail(err, MQ_E_ARG, "%lld layers; the limit is %d", (long long)s->layers,
                       LAYERS_MAX);
    }
    if (s->width % s->heads != 0) {
        return mq_fail(err, MQ_E_ARG, "a width of %lld cannot be cut into %lld heads",
                       (long long)s->width, (long long)s->heads);
    }
    return MQ_OK;
}

mq_code mq_arch_build_transformer(mq_model *model, const mq_arch_sizes *in, uint64_t seed,
                                  mq_error *err)
{
    sizes s = {0};
    mq_builder b = {.model = model, .seed = seed, .err = err};
    b.code = read_sizes(in, &s, err);
    if (b.code != MQ_OK) {
        return b.code;
    }
    mq_built x = mq_build_input(&b, 2, (int64_t[]){s.tokens, s.features});
    x = mq_build_linear(&b, "embed", x, s.features, s.width, MQ_FIRST_XAVIER);
    mq_built positions = mq_build_weight(
        &b, "positions", "weight", &(mq_shape){2, {s.tokens, s.width}}, MQ_FIRST_NORMAL, 0, 0);
    x = mq_build_two(&b, "Add", "positions", x, positions);
    for (int64_t n = 0; n < s.layers; n++) {
        x = layer(&b, &s, n, x);
    }
    x = mq_build_layer_norm(&b, "norm", x, s.width);
    x = mq_build_one(&b, "ReduceMean", "mean", x);
    mq_build_list(&b, "axes", (int64_t[]){1}, 1);
    mq_build_int(&b, "keepdims", 0);
    (void)mq_build_gemm(&b, "classes", x, s.width, s.classes, MQ_FIRST_XAVIER);
    mq_build_output(&b, "logits", s.classes);
    return b.code;
}

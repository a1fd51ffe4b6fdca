/* Networks of matrix products: an MLP, and BERT-base (Devlin and others, 2018, arXiv:1810.04805) in
 * the form that PyTorch exports below opset 17: LayerNormalization in nine nodes, GELU by Erf,
 * MatMul and Add apart, heads by Reshape and Transpose. int8: dynamically quantized products
 * (DynamicQuantizeLinear, MatMulInteger, Cast, Mul), products of the same input sharing its
 * quantized form. */
#include <math.h>
#include <stdlib.h>

#include "tests/bench/models/kit.h"

kit_make kit_make_mlp, kit_make_bert;

enum { WIDTH = 768, INNER = 3072, HEADS = 12, LAYERS = 12, SEQUENCE = 128, WORDS = 30522 };

/* What products read: the value and, in int8 models, its quantized form, scale and zero point. */
typedef struct feed {
    kit_value x, quantized[3];
} feed;

static feed feed_of(kit *k, kit_value x)
{
    feed f = {.x = x};
    if (k->is_int8) {
        kit_node_many(k, "DynamicQuantizeLinear", &x, 1, f.quantized, 3);
    }
    return f;
}

static kit_value product_int8(kit *k, const feed *f, int64_t in, int64_t out, float deviation)
{
    const mq_shape shape = {2, {in, out}};
    size_t count = (size_t)(in * out);
    int8_t *w = calloc(count, 1), zero = 0;
    if (w == NULL) {
        exit(1);
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t z = mq_prng_next(&k->prng);
        w[i] =
            (int8_t)((int64_t)((z & 63) + (z >> 8 & 63) + (z >> 16 & 63) + (z >> 24 & 63)) - 126);
    }
    kit_value q = kit_bytes(k, MQ_DT_I8, &shape, w, count);
    free(w);
    kit_value z = kit_bytes(k, MQ_DT_I8, &(mq_shape){.rank = 0}, &zero, 1);
    kit_value s = kit_real(k, deviation / 37.0F);
    kit_value scale = KIT_NODE(k, "Mul", f->quantized[1], s);
    kit_value sum = KIT_NODE(k, "MatMulInteger", f->quantized[0], q, f->quantized[2], z);
    kit_value cast = KIT_NODE(k, "Cast", sum);
    kit_int(k, "to", MQ_DT_F32);
    return KIT_NODE(k, "Mul", cast, scale);
}

static kit_value linear(kit *k, const feed *f, int64_t in, int64_t out, float gain)
{
    const float deviation = gain / sqrtf((float)in);
    kit_value bias = kit_normal(k, &(mq_shape){1, {out}}, 0.0F, 0.02F);
    if (k->is_int8) {
        return KIT_NODE(k, "Add", product_int8(k, f, in, out, deviation), bias);
    }
    kit_value w = kit_normal(k, &(mq_shape){2, {in, out}}, 0.0F, deviation);
    return KIT_NODE(k, "Add", KIT_NODE(k, "MatMul", f->x, w), bias);
}

void kit_make_mlp(kit *k)
{
    static const int64_t sizes[] = {784, 256, 128, 10};
    kit_value x = kit_input(k, "input", MQ_DT_F32, 2, (int64_t[]){-1, sizes[0]});
    for (int i = 0; i < 3; i++) {
        if (k->is_int8) {
            feed f = feed_of(k, x);
            x = linear(k, &f, sizes[i], sizes[i + 1], sqrtf(2.0F));
        } else {
            kit_value w = kit_normal(k, &(mq_shape){2, {sizes[i + 1], sizes[i]}}, 0.0F,
                                     sqrtf(2.0F / (float)sizes[i]));
            kit_value b = kit_normal(k, &(mq_shape){1, {sizes[i + 1]}}, 0.0F, 0.1F);
            x = KIT_NODE(k, "Gemm", x, w, b);
            kit_int(k, "transB", 1);
        }
        x = i < 2 ? KIT_NODE(k, "Relu", x) : x;
    }
    kit_output(k, x, "logits", 2, (int64_t[]){-1, 10});
}

static kit_value reduce_mean(kit *k, kit_value x)
{
    kit_value y = KIT_NODE(k, "ReduceMean", x);
    kit_list(k, "axes", (int64_t[]){-1}, 1);
    return y;
}

static kit_value layer_norm(kit *k, kit_value x)
{
    const mq_shape line = {1, {WIDTH}};
    kit_value centred = KIT_NODE(k, "Sub", x, reduce_mean(k, x));
    kit_value two = kit_real(k, 2.0F), epsilon = kit_real(k, 1e-12F);
    kit_value variance = reduce_mean(k, KIT_NODE(k, "Pow", centred, two));
    kit_value root = KIT_NODE(k, "Sqrt", KIT_NODE(k, "Add", variance, epsilon));
    kit_value y = KIT_NODE(k, "Div", centred, root);
    kit_value gamma = kit_normal(k, &line, 1.0F, 0.05F), beta = kit_normal(k, &line, 0.0F, 0.05F);
    return KIT_NODE(k, "Add", KIT_NODE(k, "Mul", y, gamma), beta);
}

static kit_value transpose(kit *k, kit_value x, const int64_t *order)
{
    kit_value y = KIT_NODE(k, "Transpose", x);
    kit_list(k, "perm", order, 4);
    return y;
}

static kit_value head(kit *k, const feed *f, const int64_t *order)
{
    kit_value x = linear(k, f, WIDTH, WIDTH, 1.0F);
    kit_value shape = kit_ints(k, (int64_t[]){0, 0, HEADS, WIDTH / HEADS}, 4);
    return transpose(k, KIT_NODE(k, "Reshape", x, shape), order);
}

static kit_value attention(kit *k, kit_value x, kit_value mask)
{
    static const int64_t by_head[] = {0, 2, 1, 3}, keys[] = {0, 2, 3, 1};
    feed f = feed_of(k, x);
    kit_value q = head(k, &f, by_head), key = head(k, &f, keys), v = head(k, &f, by_head);
    kit_value root = kit_real(k, sqrtf((float)WIDTH / HEADS));
    kit_value score = KIT_NODE(k, "Div", KIT_NODE(k, "MatMul", q, key), root);
    kit_value p = KIT_NODE(k, "Softmax", KIT_NODE(k, "Add", score, mask));
    kit_int(k, "axis", -1);
    kit_value y = transpose(k, KIT_NODE(k, "MatMul", p, v), by_head);
    kit_value shape = kit_ints(k, (int64_t[]){0, 0, WIDTH}, 3);
    feed out = feed_of(k, KIT_NODE(k, "Reshape", y, shape));
    return linear(k, &out, WIDTH, WIDTH, 1.0F);
}

static kit_value gelu(kit *k, kit_value x)
{
    kit_value root = kit_real(k, sqrtf(2.0F)), one = kit_real(k, 1.0F), half = kit_real(k, 0.5F);
    kit_value erf = KIT_NODE(k, "Erf", KIT_NODE(k, "Div", x, root));
    return KIT_NODE(k, "Mul", KIT_NODE(k, "Mul", x, KIT_NODE(k, "Add", erf, one)), half);
}

static kit_value embed(kit *k, kit_value ids, kit_value types)
{
    kit_value words = kit_normal(k, &(mq_shape){2, {WORDS, WIDTH}}, 0.0F, 0.5F);
    kit_value kinds = kit_normal(k, &(mq_shape){2, {2, WIDTH}}, 0.0F, 0.5F);
    kit_value places = kit_normal(k, &(mq_shape){3, {1, SEQUENCE, WIDTH}}, 0.0F, 0.5F);
    kit_value x = KIT_NODE(k, "Gather", words, ids), y = KIT_NODE(k, "Gather", kinds, types);
    return layer_norm(k, KIT_NODE(k, "Add", KIT_NODE(k, "Add", x, y), places));
}

/* 0 where the mask is 1, -10000 where it is 0, as [N, 1, 1, S]. */
static kit_value mask_of(kit *k, kit_value mask)
{
    kit_value axis = kit_ints(k, (int64_t[]){1, 2}, 2), one = kit_real(k, 1.0F),
              much = kit_real(k, -10000.0F);
    kit_value cast = KIT_NODE(k, "Cast", KIT_NODE(k, "Unsqueeze", mask, axis));
    kit_int(k, "to", MQ_DT_F32);
    return KIT_NODE(k, "Mul", KIT_NODE(k, "Sub", one, cast), much);
}

void kit_make_bert(kit *k)
{
    static const int64_t dims[] = {-1, SEQUENCE};
    kit_value ids = kit_input(k, "input_ids", MQ_DT_I64, 2, dims);
    kit_value given = kit_input(k, "attention_mask", MQ_DT_I64, 2, dims);
    kit_value types = kit_input(k, "token_type_ids", MQ_DT_I64, 2, dims);
    kit_value mask = mask_of(k, given), x = embed(k, ids, types);
    for (int i = 0; i < LAYERS; i++) {
        x = layer_norm(k, KIT_NODE(k, "Add", attention(k, x, mask), x));
        feed f = feed_of(k, x);
        feed inner = feed_of(k, gelu(k, linear(k, &f, WIDTH, INNER, 1.0F)));
        x = layer_norm(k, KIT_NODE(k, "Add", linear(k, &inner, INNER, WIDTH, 1.5F), x));
    }
    int64_t zero = 0;
    kit_value first = kit_bytes(k, MQ_DT_I64, &(mq_shape){.rank = 0}, &zero, sizeof zero);
    kit_value token = KIT_NODE(k, "Gather", x, first);
    kit_int(k, "axis", 1);
    feed f = feed_of(k, token);
    kit_value pooled = KIT_NODE(k, "Tanh", linear(k, &f, WIDTH, WIDTH, 1.0F));
    kit_output(k, x, "last_hidden_state", 3, (int64_t[]){-1, SEQUENCE, WIDTH});
    kit_output(k, pooled, "pooler_output", 2, (int64_t[]){-1, WIDTH});
}

/* Fusion for inference: each rule fires on the nodes that exporters write, gives what the nodes
 * give, and leaves alone what is read from outside the pattern. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "tests/worker/mlp.h"
#include "worker/exec/program.h"
#include "worker/exec/session.h"

#define A MQ_NODE_ARGS

static mq_error err;
static mq_prng prng = {17};

static mq_model *new_model(void)
{
    mq_model *m;
    mlp_must(mq_model_new(&m, "pattern", 0, &err), &err);
    return m;
}

static mq_node *op(mq_model *m, const char *type, const char *const *in, uint32_t in_count,
                   const char *const *out, uint32_t out_count)
{
    mq_node *node;
    mq_node_spec spec = {type, NULL, NULL, in, in_count, out, out_count};
    mlp_must(mq_model_add_node(m, m->graph.node_count, &spec, &node, &err), &err);
    return node;
}

static void set_int(mq_model *m, mq_node *node, const char *name, int64_t v)
{
    mlp_must(mq_node_set_int(m, node, name, v, &err), &err);
}

static void set_float(mq_model *m, mq_node *node, const char *name, float v)
{
    mlp_must(mq_node_set_float(m, node, name, v, &err), &err);
}

static void input(mq_model *m, const char *name, const mq_shape *shape)
{
    mq_value_info info = {.name = name, .dtype = MQ_DT_F32, .rank = shape->rank};
    memcpy(info.dims, shape->dims, sizeof info.dims);
    mlp_must(mq_model_set_input(m, &info, &err), &err);
}

static void output(mq_model *m, const char *name)
{
    mq_value_info info = {.name = name, .dtype = MQ_DT_F32, .rank = -1};
    mlp_must(mq_model_set_output(m, &info, &err), &err);
}

static void number(mq_model *m, const char *name, float v)
{
    mlp_must(mq_model_set_init(m, name, MQ_DT_F32, &(mq_shape){.rank = 0}, mq_span_of(&v, 4), &err),
             &err);
}

static void random_init(mq_model *m, const char *name, mq_shape shape, float scale)
{
    mlp_init(m, name, &shape, scale, &prng);
}

/* Runs with random inputs in both ways; returns the steps of the fused one. The operators that it
 * has left are in `left`, each with a space behind it. */
static char left[1024];

static uint32_t agree(const mq_model *m, double tolerance)
{
    mq_session *fused, *plain;
    mq_session_stats stats;
    mq_tensor in[4];
    const mq_value_info *infos;
    const mq_tensor *a, *b;
    mlp_must(mq_session_new(&fused, m, NULL, &err), &err);
    mlp_must(mq_session_new(&plain, m, &(mq_session_options){.no_fusion = true}, &err), &err);
    size_t count = mq_session_inputs(plain, &infos);
    assert_true(count <= 4);
    for (size_t i = 0; i < count; i++) {
        mq_shape shape = {.rank = infos[i].rank};
        size_t elements = 1;
        for (int32_t d = 0; d < shape.rank; d++) {
            shape.dims[d] = infos[i].dims[d];
            elements *= (size_t)shape.dims[d];
        }
        float *x = malloc(elements * sizeof *x);
        assert_non_null(x);
        for (size_t k = 0; k < elements; k++) {
            x[k] = mlp_random(&prng, 3.0f);
        }
        in[i] = (mq_tensor){MQ_DT_F32, shape, x, elements * sizeof *x};
    }
    mlp_must(mq_session_run(fused, in, count, &a, &err), &err);
    mlp_must(mq_session_run(plain, in, count, &b, &err), &err);
    for (size_t o = 0; o < mq_session_outputs(plain, &infos); o++) {
        assert_true(mq_shape_eq(&a[o].shape, &b[o].shape));
        assert_int_equal(a[o].bytes, b[o].bytes);
        for (size_t k = 0; k < a[o].bytes / sizeof(float); k++) {
            double x = (double)((const float *)a[o].data)[k], y = (double)((float *)b[o].data)[k];
            if (!(fabs(x - y) <= tolerance * (1.0 + fabs(y)))) {
                fail_msg("output %zu element %zu: %.9g where %.9g is due", o, k, x, y);
            }
        }
    }
    for (size_t i = 0; i < count; i++) {
        free(in[i].data);
    }
    mq_session_stats_get(fused, &stats);
    mq_session_free(fused);
    mq_session_free(plain);
    mq_program p;
    left[0] = '\0';
    mlp_must(mq_program_init(&p, m, NULL, (size_t)1 << 26, &err), &err);
    mlp_must(mq_program_fold(&p, &err), &err);
    mlp_must(mq_program_optimize(&p, &err), &err);
    for (uint32_t s = 0; s < p.step_count; s++) {
        size_t at = strlen(left);
        snprintf(left + at, sizeof left - at, "%s ", p.steps[s].op->name);
    }
    assert_int_equal(p.step_count, stats.step_count);
    mq_program_release(&p);
    return stats.step_count;
}

/* The fused program is these operators; with value `inner` as an output too, it is not. */
static void expect(mq_model *m, const char *operators, const char *inner)
{
    mlp_must(mq_model_verify(m, &err), &err);
    agree(m, 2e-5);
    assert_string_equal(left, operators);
    output(m, inner);
    agree(m, 2e-5);
    assert_string_not_equal(left, operators);
    mq_model_free(m);
}

static const mq_shape rows = {3, {2, 5, 24}};

/* --- equal steps --- */

static void equal_steps_are_one(void **state)
{
    (void)state;
    for (int form = 0; form < 3; form++) { /* the same, another attribute, an output */
        mq_model *m = new_model();
        input(m, "x", &rows);
        output(m, "y");
        set_float(m, op(m, "Elu", A("x"), A("a")), "alpha", 0.5f);
        op(m, "Identity", A("x"), A("x2"));
        set_float(m, op(m, "Elu", A("x2"), A("b")), "alpha", form == 1 ? 0.25f : 0.5f);
        op(m, "Exp", A("a"), A("c"));
        op(m, "Exp", A("b"), A("d"));
        op(m, "Add", A("c", "d"), A("y"));
        if (form == 2) {
            output(m, "d");
        }
        mlp_must(mq_model_verify(m, &err), &err);
        agree(m, 1e-6);
        assert_string_equal(left, form == 0   ? "Elu Exp Add "
                                  : form == 1 ? "Elu Elu Exp Exp Add "
                                              : "Elu Exp Exp Add ");
        mq_model_free(m);
    }
}

/* --- activations --- */

static void gelu_by_erf(void **state)
{
    (void)state;
    for (int form = 0; form < 4; form++) {
        mq_model *m = new_model();
        input(m, "x", &rows);
        output(m, "y");
        number(m, "one", 1.0f);
        number(m, "half", 0.5f);
        number(m, "root", form == 1 ? 0.70710678f : 1.41421356f);
        op(m, form == 1 ? "Mul" : "Div", A("x", "root"), A("d"));
        op(m, "Erf", A("d"), A("e"));
        op(m, "Add", form == 1 ? (const char *[]){"one", "e"} : (const char *[]){"e", "one"}, 2,
           A("a"));
        if (form == 2) {
            op(m, "Mul", A("x", "half"), A("h"));
            op(m, "Mul", A("h", "a"), A("y"));
        } else if (form == 3) {
            op(m, "Mul", A("half", "a"), A("m"));
            op(m, "Mul", A("x", "m"), A("y"));
        } else {
            op(m, "Mul", A("x", "a"), A("m"));
            op(m, "Mul", A("m", "half"), A("y"));
        }
        expect(m, "Activate ", form == 0 ? "e" : form == 1 ? "d" : form == 2 ? "h" : "m");
    }
}

static void gelu_by_tanh(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        mq_model *m = new_model();
        input(m, "x", &rows);
        output(m, "y");
        number(m, "one", 1.0f);
        number(m, "three", 3.0f);
        number(m, "half", 0.5f);
        number(m, "c", 0.044715f);
        number(m, "root", 0.7978846f);
        if (form == 0) {
            op(m, "Pow", A("x", "three"), A("x3"));
        } else {
            op(m, "Mul", A("x", "x"), A("x2"));
            op(m, "Mul", A("x", "x2"), A("x3"));
        }
        op(m, "Mul", A("x3", "c"), A("cx"));
        op(m, "Add", A("x", "cx"), A("s"));
        op(m, "Mul", A("root", "s"), A("t"));
        op(m, "Tanh", A("t"), A("e"));
        op(m, "Add", A("e", "one"), A("a"));
        op(m, "Mul", A("x", "half"), A("h"));
        op(m, "Mul", A("h", "a"), A("y"));
        expect(m, "Activate ", form == 0 ? "x3" : "s");
    }
}

static void silu_and_hard_swish(void **state)
{
    (void)state;
    for (int form = 0; form < 3; form++) {
        mq_model *m = new_model();
        input(m, "x", &rows);
        output(m, "y");
        number(m, "c", 1.702f);
        if (form == 1) {
            op(m, "Mul", A("x", "c"), A("cx"));
        }
        mq_node *node = op(m, form == 2 ? "HardSigmoid" : "Sigmoid",
                           form == 1 ? (const char *[]){"cx"} : (const char *[]){"x"}, 1, A("s"));
        if (form == 2) {
            set_float(m, node, "alpha", 0.3f);
        }
        op(m, "Mul", A("s", "x"), A("y"));
        expect(m, "Activate ", "s");
    }
}

static void hard_swish_by_clip(void **state)
{
    (void)state;
    for (int form = 0; form < 3; form++) {
        mq_model *m = new_model();
        input(m, "x", &rows);
        output(m, "y");
        number(m, "three", 3.0f);
        number(m, "six", 6.0f);
        number(m, "sixth", 1.0f / 6.0f);
        number(m, "zero", 0.0f);
        op(m, "Add", A("x", "three"), A("a"));
        op(m, "Clip", A("a", "zero", "six"), A("c"));
        if (form == 0) {
            op(m, "Mul", A("x", "c"), A("m"));
            op(m, "Div", A("m", "six"), A("y"));
        } else if (form == 1) {
            op(m, "Mul", A("c", "sixth"), A("m"));
            op(m, "Mul", A("m", "x"), A("y"));
        } else {
            op(m, "Div", A("c", "six"), A("y"));
        }
        expect(m, "Activate ", form == 2 ? "c" : "m");
    }
}

static void double_precision_is_left_alone(void **state)
{
    (void)state;
    mq_model *m = new_model();
    input(m, "x", &rows);
    output(m, "y");
    set_int(m, op(m, "Cast", A("x"), A("d")), "to", MQ_DT_F64);
    op(m, "Sigmoid", A("d"), A("s"));
    op(m, "Mul", A("s", "d"), A("t"));
    set_int(m, op(m, "Cast", A("t"), A("y")), "to", MQ_DT_F32);
    mlp_must(mq_model_verify(m, &err), &err);
    agree(m, 1e-6);
    assert_string_equal(left, "Cast Sigmoid Mul Cast ");
    mq_model_free(m);
}

static void dense_takes_over_activations(void **state)
{
    (void)state;
    static const char *const types[] = {"Sigmoid",     "Tanh",      "LeakyRelu",
                                        "HardSigmoid", "HardSwish", "Clip"};
    for (size_t i = 0; i < 6; i++) {
        mq_model *m = new_model();
        input(m, "x", &rows);
        output(m, "y");
        random_init(m, "w", (mq_shape){2, {24, 12}}, 0.5f);
        random_init(m, "b", (mq_shape){1, {12}}, 0.5f);
        number(m, "low", -0.25f);
        number(m, "high", 0.5f);
        op(m, "MatMul", A("x", "w"), A("p"));
        op(m, "Add", A("p", "b"), A("s"));
        op(m, types[i], (const char *[]){"s", "low", "high"}, i == 5 ? 3 : 1, A("y"));
        expect(m, "Dense ", "s");
    }
}

/* Steps from quantized rows xq, xs, xz to output y, with names that end in a letter. */
static void quantized_product(mq_model *m, char letter, const char *y)
{
    char w[3] = {'w', letter}, ws[4] = {'w', 's', letter}, i[3] = {'i', letter};
    char f[3] = {'f', letter}, s[3] = {'s', letter};
    int8_t weights[24 * 8];
    for (size_t k = 0; k < sizeof weights; k++) {
        weights[k] = (int8_t)mq_prng_next(&prng);
    }
    mlp_must(mq_model_set_init(m, w, MQ_DT_I8, &(mq_shape){2, {24, 8}},
                               mq_span_of(weights, sizeof weights), &err),
             &err);
    number(m, ws, 0.01f);
    op(m, "MatMulInteger", (const char *[]){"xq", w, "xz"}, 3, (const char *[]){i}, 1);
    set_int(m, op(m, "Cast", (const char *[]){i}, 1, (const char *[]){f}, 1), "to", MQ_DT_F32);
    op(m, "Mul", (const char *[]){"xs", ws}, 2, (const char *[]){s}, 1);
    op(m, "Mul", (const char *[]){f, s}, 2, &y, 1);
}

static void products_share_the_quantized_rows(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        mq_model *m = new_model();
        input(m, "x", &rows);
        op(m, "DynamicQuantizeLinear", A("x"), A("xq", "xs", "xz"));
        quantized_product(m, 'a', "ya");
        quantized_product(m, 'b', "yb");
        op(m, "Tanh", A("yb"), A("t"));
        output(m, "ya");
        output(m, "t");
        expect(m, "DynamicQuantizedDense DynamicQuantizedDense ", form == 0 ? "yb" : "fa");
    }
}

/* --- normalization --- */

static void layer_norm_nodes(mq_model *m, const char *x, const char *y, bool by_product)
{
    mq_node *mean = op(m, "ReduceMean", &x, 1, A("mean"));
    int64_t axis = -1;
    mlp_must(mq_node_set_ints(m, mean, "axes", &axis, 1, &err), &err);
    op(m, "Sub", (const char *[]){x, "mean"}, 2, A("d"));
    if (by_product) {
        op(m, "Mul", A("d", "d"), A("d2"));
    } else {
        op(m, "Pow", A("d", "two"), A("d2"));
    }
    mq_node *variance = op(m, "ReduceMean", A("d2"), A("v"));
    mlp_must(mq_node_set_ints(m, variance, "axes", &axis, 1, &err), &err);
    op(m, "Add", A("v", "eps"), A("ve"));
    op(m, "Sqrt", A("ve"), A("root"));
    op(m, "Div", A("d", "root"), A("n"));
    op(m, "Mul", A("n", "scale"), A("ns"));
    op(m, "Add", A("ns", "bias"), &y, 1);
    number(m, "two", 2.0f);
    number(m, "eps", 1e-5f);
    random_init(m, "scale", (mq_shape){1, {24}}, 2.0f);
    random_init(m, "bias", (mq_shape){1, {24}}, 2.0f);
}

static void layer_norm_of_nine_nodes(void **state)
{
    (void)state;
    static const char *const inner[] = {"d", "v", "mean", "n"};
    for (size_t i = 0; i < 4; i++) {
        mq_model *m = new_model();
        input(m, "x", &rows);
        output(m, "y");
        layer_norm_nodes(m, "x", "y", i % 2 == 1);
        expect(m, "RowNorm ", inner[i]);
    }
}

static void layer_norm_with_the_sum_before_it(void **state)
{
    (void)state;
    for (int form = 0; form < 3; form++) {
        mq_model *m = new_model();
        input(m, "x", &rows);
        input(m, "r", form == 1 ? &(mq_shape){2, {5, 24}} : &rows);
        output(m, "y");
        op(m, "Add", A("x", "r"), A("s"));
        if (form == 2) {
            random_init(m, "scale", (mq_shape){1, {24}}, 2.0f);
            op(m, "LayerNormalization", A("s", "scale"), A("y"));
        } else {
            layer_norm_nodes(m, "s", "y", false);
        }
        expect(m, "RowNorm ", "s");
    }
}

/* --- attention --- */

static void transpose(mq_model *m, const char *x, const char *y, const int64_t *perm, size_t rank)
{
    mq_node *node = op(m, "Transpose", &x, 1, &y, 1);
    mlp_must(mq_node_set_ints(m, node, "perm", perm, rank, &err), &err);
}

#define PERM4(...) ((const int64_t[]){__VA_ARGS__})

enum { BY_DIV, BY_TWO_FACTORS, WITHOUT_MASK, ATTENTION_FORMS };

/* q, k, v of [2, 6, 3, 8] as a projection's Reshape gives them. */
static mq_model *attention_model(int form)
{
    mq_model *m = new_model();
    mq_shape shape = {4, {2, 6, 3, 8}}, mask = {4, {2, 1, 1, 6}};
    input(m, "q", &shape);
    input(m, "k", &shape);
    input(m, "v", &shape);
    output(m, "y");
    number(m, "root", 2.8284271f);
    number(m, "s", 0.5f);
    transpose(m, "q", "qt", PERM4(0, 2, 1, 3), 4);
    transpose(m, "v", "vt", PERM4(0, 2, 1, 3), 4);
    transpose(m, "k", "kt", PERM4(0, 2, 3, 1), 4);
    if (form == BY_TWO_FACTORS) {
        op(m, "Mul", A("qt", "s"), A("qs"));
        op(m, "Mul", A("kt", "s"), A("ks"));
        op(m, "MatMul", A("qs", "ks"), A("scores"));
    } else {
        op(m, "MatMul", A("qt", "kt"), A("raw"));
        op(m, "Div", A("raw", "root"), A("scores"));
    }
    if (form != WITHOUT_MASK) {
        input(m, "mask", &mask);
        op(m, "Add", A("scores", "mask"), A("masked"));
    }
    const char *last = form == WITHOUT_MASK ? "scores" : "masked";
    set_int(m, op(m, "Softmax", &last, 1, A("p")), "axis", -1);
    op(m, "MatMul", A("p", "vt"), A("o"));
    transpose(m, "o", "y", PERM4(0, 2, 1, 3), 4);
    return m;
}

static void attention_makes_no_transposition(void **state)
{
    (void)state;
    static const char *const inner[][4] = {
        {"raw", "scores", "p", "masked"}, {"qs", "kt", "scores", "o"}, {"scores", "p", "qt", "vt"}};
    for (int form = 0; form < ATTENTION_FORMS; form++) {
        for (size_t i = 0; i < 4; i++) {
            expect(attention_model(form), "Heads ", inner[form][i]);
        }
    }
}

static void attention_with_the_sequence_first(void **state)
{
    (void)state;
    mq_model *m = new_model();
    mq_shape shape = {3, {7, 4, 8}};
    input(m, "q", &shape);
    input(m, "k", &shape);
    input(m, "v", &shape);
    output(m, "y");
    transpose(m, "q", "qt", PERM4(1, 0, 2), 3);
    transpose(m, "k", "kt", PERM4(1, 2, 0), 3);
    transpose(m, "v", "vt", PERM4(1, 0, 2), 3);
    op(m, "MatMul", A("qt", "kt"), A("scores"));
    set_int(m, op(m, "Softmax", A("scores"), A("p")), "axis", 2);
    op(m, "MatMul", A("p", "vt"), A("o"));
    transpose(m, "o", "y", PERM4(1, 0, 2), 3);
    expect(m, "Heads ", "scores");
}

static void a_softmax_over_queries_is_left_alone(void **state)
{
    (void)state;
    mq_model *m = attention_model(WITHOUT_MASK);
    for (uint32_t n = 0; n < m->graph.node_count; n++) {
        if (strcmp(m->graph.nodes[n].op_type, "Softmax") == 0) {
            set_int(m, &m->graph.nodes[n], "axis", 2);
        }
    }
    mlp_must(mq_model_verify(m, &err), &err);
    agree(m, 2e-5);
    assert_null(strstr(left, "Heads"));
    mq_model_free(m);
}

/* --- convolution --- */

static void conv_takes_over_what_scales_its_channels(void **state)
{
    (void)state;
    static const char *const types[] = {"BatchNormalization", "Add", "Mul"};
    for (int form = 0; form < 6; form++) {
        mq_model *m = new_model();
        mq_shape image = {4, {2, 3, 6, 5}};
        input(m, "x", &image);
        output(m, "y");
        random_init(m, "w", (mq_shape){4, {4, 3, 3, 3}}, 0.5f);
        random_init(m, "b", (mq_shape){1, {4}}, 0.5f);
        op(m, "Conv", (const char *[]){"x", "w", "b"}, form % 2 == 0 ? 2 : 3, A("c"));
        if (form < 2) {
            for (size_t i = 0; i < 4; i++) {
                static const char *const names[] = {"scale", "shift", "mean", "var"};
                random_init(m, names[i], (mq_shape){1, {4}}, 0.5f);
            }
            float *var = mq_graph_init(&m->graph, "var")->tensor.data;
            for (int i = 0; i < 4; i++) {
                var[i] = fabsf(var[i]) + 0.1f;
            }
            op(m, types[0], A("c", "scale", "shift", "mean", "var"), A("y"));
        } else {
            random_init(m, "k", form < 4 ? (mq_shape){3, {4, 1, 1}} : (mq_shape){4, {1, 1, 1, 1}},
                        2.0f);
            op(m, types[form % 2 + 1], A("k", "c"), A("y"));
        }
        expect(m, "Conv ", "c");
    }
}

static void conv_leaves_alone_what_is_not_by_channel(void **state)
{
    (void)state;
    mq_model *m = new_model();
    mq_shape image = {4, {1, 3, 4, 4}};
    input(m, "x", &image);
    output(m, "y");
    random_init(m, "w", (mq_shape){4, {4, 3, 1, 1}}, 0.5f);
    random_init(m, "k", (mq_shape){1, {4}}, 2.0f); /* along the last axis */
    op(m, "Conv", A("x", "w"), A("c"));
    op(m, "Mul", A("c", "k"), A("y"));
    mlp_must(mq_model_verify(m, &err), &err);
    agree(m, 1e-5);
    assert_string_equal(left, "Conv Mul ");
    mq_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_steps_are_one),
        cmocka_unit_test(gelu_by_erf),
        cmocka_unit_test(gelu_by_tanh),
        cmocka_unit_test(silu_and_hard_swish),
        cmocka_unit_test(hard_swish_by_clip),
        cmocka_unit_test(double_precision_is_left_alone),
        cmocka_unit_test(dense_takes_over_activations),
        cmocka_unit_test(products_share_the_quantized_rows),
        cmocka_unit_test(layer_norm_of_nine_nodes),
        cmocka_unit_test(layer_norm_with_the_sum_before_it),
        cmocka_unit_test(attention_makes_no_transposition),
        cmocka_unit_test(attention_with_the_sequence_first),
        cmocka_unit_test(a_softmax_over_queries_is_left_alone),
        cmocka_unit_test(conv_takes_over_what_scales_its_channels),
        cmocka_unit_test(conv_leaves_alone_what_is_not_by_channel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

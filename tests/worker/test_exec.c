/* Sessions: fused and plain runs agree, plans follow shapes, errors name what is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "tests/worker/mlp.h"
#include "worker/exec/session.h"

static const int64_t sizes[] = {20, 16, 12, 5};

static mq_session *session_of(const mq_model *model, const mq_session_options *options)
{
    mq_session *s;
    mq_error err;
    mlp_must(mq_session_new(&s, model, options, &err), &err);
    return s;
}

static mq_tensor rows_of(float *data, int64_t rows, int64_t columns)
{
    return (mq_tensor){MQ_DT_F32, {2, {rows, columns}}, data, (size_t)(rows * columns) * 4};
}

static void random_floats(float *x, size_t count, uint64_t seed)
{
    mq_prng prng = {seed};
    for (size_t i = 0; i < count; i++) {
        x[i] = mlp_random(&prng, 1.0f);
    }
}

static void must_run(mq_session *s, const mq_tensor *in, const mq_tensor **out)
{
    mq_error err;
    mlp_must(mq_session_run(s, in, 1, out, &err), &err);
}

static void fused_and_plain_agree(void **state)
{
    (void)state;
    float x[64 * 20];
    random_floats(x, 64 * 20, 3);
    for (int flags = 0; flags < 8; flags++) {
        mq_model *model = mlp_new(sizes, 4, flags & ~(flags & 4 ? 1 : 0), 1);
        mq_session *fused = session_of(model, NULL);
        mq_session *plain = session_of(model, &(mq_session_options){.no_fusion = true});
        mq_session_stats fs, ps;
        for (int64_t rows = 1; rows <= 64; rows *= 4) {
            mq_tensor in = rows_of(x, rows, 20);
            const mq_tensor *a, *b;
            must_run(fused, &in, &a);
            must_run(plain, &in, &b);
            assert_true(mq_shape_eq(&a->shape, &b->shape));
            assert_int_equal(a->shape.dims[0], rows);
            for (int64_t i = 0; i < rows * 5; i++) {
                double u = (double)((const float *)a->data)[i];
                double v = (double)((const float *)b->data)[i];
                assert_true(fabs(u - v) < 1e-5 * (1.0 + fabs(v)));
            }
        }
        mq_session_stats_get(fused, &fs);
        mq_session_stats_get(plain, &ps);
        assert_int_equal(fs.step_count, 3 + ((flags & MLP_SOFTMAX) != 0));
        assert_int_equal(ps.step_count, model->graph.node_count);
        assert_int_equal(fs.plan_count, 4);
        assert_true(fs.is_planned);
        mq_session_free(fused);
        mq_session_free(plain);
        mq_model_free(model);
    }
}

static void a_second_run_of_a_shape_takes_no_memory(void **state)
{
    (void)state;
    float x[300 * 20];
    random_floats(x, 300 * 20, 3);
    mq_model *model = mlp_new(sizes, 4, 0, 1);
    mq_session *s = session_of(model, &(mq_session_options){.plans_max = 4});
    mq_session_stats first, later;
    const mq_tensor *out;
    for (int64_t rows = 1; rows <= 300; rows++) { /* old plans go */
        mq_tensor in = rows_of(x, rows, 20);
        must_run(s, &in, &out);
        assert_int_equal(out->shape.dims[0], rows);
    }
    mq_session_stats_get(s, &first);
    assert_int_equal(first.plan_count, 4);
    mq_tensor in = rows_of(x, 300, 20);
    for (int i = 0; i < 10; i++) {
        must_run(s, &in, &out);
    }
    mq_session_stats_get(s, &later);
    assert_int_equal(first.plan_bytes, later.plan_bytes);
    assert_int_equal(first.packed_bytes, later.packed_bytes);
    mq_session_free(s);
    mq_model_free(model);
}

static void expect_run_error(mq_session *s, const mq_tensor *in, size_t count, const char *words)
{
    mq_error err = {.text = ""};
    const mq_tensor *out;
    mq_code code = mq_session_run(s, in, count, &out, &err);
    if (code != MQ_E_ARG || strstr(err.text, words) == NULL) {
        fail_msg("code %s, text '%s', expected '%s'", mq_code_name(code), err.text, words);
    }
}

static void wrong_inputs_are_refused_by_name(void **state)
{
    (void)state;
    float x[40] = {0};
    mq_model *model = mlp_new(sizes, 4, 0, 1);
    mq_session *s = session_of(model, NULL);
    const mq_tensor good = rows_of(x, 2, 20);
    mq_tensor in = rows_of(x, 2, 19);
    const mq_tensor *out;
    expect_run_error(s, &in, 1, "'x': dimension 1 is 19 where the model wants 20");
    in = good, in.shape = (mq_shape){1, {40}};
    expect_run_error(s, &in, 1, "rank 1 where the model wants 2");
    in = good, in.dtype = MQ_DT_F64;
    expect_run_error(s, &in, 1, "float64 where the model wants float32");
    in = good, in.bytes = 156;
    expect_run_error(s, &in, 1, "156 bytes where its shape needs 160");
    in = good, in.shape.dims[0] = -1;
    expect_run_error(s, &in, 1, "'x'");
    in = good, in.data = (char *)x + 1;
    expect_run_error(s, &in, 1, "aligned");
    expect_run_error(s, &good, 0, "0 inputs where the model wants 1");
    must_run(s, &good, &out); /* unharmed */
    in = rows_of(x, 0, 20);
    must_run(s, &in, &out);
    assert_int_equal(out->bytes, 0);
    mq_session_free(s);
    mq_model_free(model);
}

static void unknown_operators_are_refused_by_name(void **state)
{
    (void)state;
    mq_error err;
    mq_session *s;
    mq_buf text;
    mq_model *model = mlp_new(sizes, 4, 0, 1);
    mq_buf_init(&text, 4096);
    assert_int_equal(mq_session_check(model, &text), 0);
    mq_node_spec odd = {"Sorcery", "com.example", "wand", MQ_NODE_ARGS("y"), MQ_NODE_ARGS("z")};
    assert_int_equal(mq_model_add_node(model, model->graph.node_count, &odd, NULL, &err), MQ_OK);
    assert_int_equal(mq_session_new(&s, model, NULL, &err), MQ_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "node 'wand' (Sorcery of com.example, opset 0)"));
    assert_null(s);
    assert_int_equal(mq_model_set_opset(model, "", 28, &err), MQ_OK);
    size_t nodes = model->graph.node_count;
    assert_int_equal(mq_session_check(model, &text), nodes);
    assert_non_null(strstr((const char *)text.data, "Sorcery"));
    mq_buf_release(&text);
    mq_model_free(model);
}

static void a_bad_attribute_is_refused_by_name(void **state)
{
    (void)state;
    mq_error err;
    mq_session *s;
    mq_model *model = mlp_new(sizes, 4, 0, 1);
    assert_int_equal(mq_node_set_int(model, &model->graph.nodes[0], "magic", 1, &err), MQ_OK);
    assert_int_equal(mq_session_new(&s, model, NULL, &err), MQ_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "node 'w0'"));
    assert_non_null(strstr(err.text, "'magic'"));
    mq_node_remove_attr(&model->graph.nodes[0], "magic");
    assert_int_equal(mq_node_set_float(model, &model->graph.nodes[0], "transB", 1.0f, &err), MQ_OK);
    assert_int_equal(mq_session_new(&s, model, NULL, &err), MQ_E_FORMAT);
    mq_model_free(model);
}

/* x [N, 6] -> Reshape by the input `shape` -> Add -> y: the shape is a value of the run. */
static mq_model *reshape_model(void)
{
    mq_error err;
    mq_model *m;
    mlp_must(mq_model_new(&m, "dynamic", 0, &err), &err);
    mlp_io(m, "x", 6, "y", -1);
    mq_model_remove_output(m, "y");
    mq_value_info shape = {.name = "shape", .dtype = MQ_DT_I64, .rank = 1, .dims = {-1}};
    mq_value_info y = {.name = "y", .dtype = MQ_DT_F32, .rank = -1};
    mlp_must(mq_model_set_input(m, &shape, &err), &err);
    mlp_must(mq_model_set_output(m, &y, &err), &err);
    mq_node_spec reshape = {"Reshape", NULL, "r", MQ_NODE_ARGS("x", "shape"), MQ_NODE_ARGS("r")};
    mq_node_spec add = {"Add", NULL, "a", MQ_NODE_ARGS("r", "r"), MQ_NODE_ARGS("y")};
    mlp_must(mq_model_add_node(m, 0, &reshape, NULL, &err), &err);
    mlp_must(mq_model_add_node(m, 1, &add, NULL, &err), &err);
    return m;
}

static void shapes_that_depend_on_values_work(void **state)
{
    (void)state;
    float x[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    int64_t to[2] = {3, 4};
    mq_error err;
    mq_model *model = reshape_model();
    mq_session *s = session_of(model, NULL);
    mq_session_stats stats;
    const mq_tensor *out;
    mq_tensor in[2] = {rows_of(x, 2, 6), {MQ_DT_I64, {1, {2}}, to, sizeof to}};
    for (int round = 0; round < 3; round++) {
        to[0] = round == 1 ? -1 : 3;
        to[1] = round == 1 ? 2 : 4;
        assert_int_equal(mq_session_run(s, in, 2, &out, &err), MQ_OK);
        assert_int_equal(out->shape.dims[0], round == 1 ? 6 : 3);
        assert_true(((const float *)out->data)[11] == 22.0f);
    }
    mq_session_stats_get(s, &stats);
    assert_false(stats.is_planned);
    to[0] = 5;
    assert_int_equal(mq_session_run(s, in, 2, &out, &err), MQ_E_ARG);
    assert_non_null(strstr(err.text, "Reshape"));
    assert_int_equal(mq_session_shapes(s, in, 2, &out, &err), MQ_E_UNSUPPORTED);
    mq_session_free(s);
    mq_model_free(model);
}

static void shapes_are_told_without_a_run(void **state)
{
    (void)state;
    mq_error err;
    mq_model *model = mlp_new(sizes, 4, 0, 1);
    mq_session *s = session_of(model, NULL);
    mq_tensor in = {MQ_DT_F32, {2, {7, 20}}, NULL, 0};
    const mq_tensor *out;
    assert_int_equal(mq_session_shapes(s, &in, 1, &out, &err), MQ_OK);
    assert_int_equal(out->shape.dims[0], 7);
    assert_int_equal(out->shape.dims[1], 5);
    assert_null(out->data);
    mq_session_free(s);
    mq_model_free(model);
}

typedef struct seen {
    int count;
    char names[16][16];
} seen;

static void note(void *arg, const char *name, const mq_tensor *value)
{
    seen *s = arg;
    assert_non_null(value->data);
    assert_true(s->count < 16);
    snprintf(s->names[s->count++], 16, "%s", name);
}

static void an_observer_sees_every_value_in_order(void **state)
{
    (void)state;
    float x[20] = {1};
    seen s = {0};
    mq_model *model = mlp_new(sizes, 4, 0, 1);
    mq_session *session =
        session_of(model, &(mq_session_options){.observe = note, .observe_arg = &s});
    mq_tensor in = rows_of(x, 1, 20);
    const mq_tensor *out;
    must_run(session, &in, &out);
    const char *expected[] = {"x", "h0", "a0", "h1", "a1", "y"};
    assert_int_equal(s.count, 6);
    for (int i = 0; i < 6; i++) {
        assert_string_equal(s.names[i], expected[i]);
    }
    mq_session_free(session);
    mq_model_free(model);
}

static void memory_stays_in_its_limit(void **state)
{
    (void)state;
    mq_error err;
    static float x[20000 * 20];
    mq_model *model = mlp_new(sizes, 4, 0, 1);
    mq_session *s = session_of(model, &(mq_session_options){.memory_bytes_max = 1 << 19});
    const mq_tensor *out;
    mq_tensor small = rows_of(x, 4, 20), large = rows_of(x, 20000, 20);
    must_run(s, &small, &out);
    assert_int_equal(mq_session_run(s, &large, 1, &out, &err), MQ_E_LIMIT);
    must_run(s, &small, &out);
    mq_session_free(s);
    mq_model_free(model);
}

/* The chain that dynamic quantization writes, for one layer of 20 to 12. */
static mq_model *quantized_model(bool is_per_column, bool is_unsigned)
{
    mq_error err;
    mq_model *m;
    mq_prng prng = {8};
    uint8_t w[240];
    float scales[12], bias[12];
    for (int i = 0; i < 240; i++) {
        w[i] = (uint8_t)mq_prng_next(&prng);
    }
    random_floats(bias, 12, 4);
    for (int i = 0; i < 12; i++) {
        scales[i] = 0.01f + 0.001f * (float)i;
    }
    uint8_t zero = is_unsigned ? 131 : 0;
    mq_dtype type = is_unsigned ? MQ_DT_U8 : MQ_DT_I8;
    mlp_must(mq_model_new(&m, "quantized", 0, &err), &err);
    mlp_io(m, "x", 20, "y", 12);
    mq_shape ws = {2, {20, 12}}, scalar = {.rank = 0}, n = {1, {12}};
    mlp_must(mq_model_set_init(m, "w", type, &ws, mq_span_of(w, 240), &err), &err);
    mlp_must(mq_model_set_init(m, "wz", type, &scalar, mq_span_of(&zero, 1), &err), &err);
    mlp_must(mq_model_set_init(m, "ws", MQ_DT_F32, is_per_column ? &n : &scalar,
                               mq_span_of(scales, is_per_column ? 48 : 4), &err),
             &err);
    mlp_must(mq_model_set_init(m, "b", MQ_DT_F32, &n, mq_span_of(bias, 48), &err), &err);
    const mq_node_spec nodes[] = {
        {"DynamicQuantizeLinear", NULL, "q", MQ_NODE_ARGS("x"), MQ_NODE_ARGS("xq", "xs", "xz")},
        {"MatMulInteger", NULL, "mm", MQ_NODE_ARGS("xq", "w", "xz", "wz"), MQ_NODE_ARGS("i")},
        {"Cast", NULL, "cast", MQ_NODE_ARGS("i"), MQ_NODE_ARGS("f")},
        {"Mul", NULL, "scales", MQ_NODE_ARGS("xs", "ws"), MQ_NODE_ARGS("s")},
        {"Mul", NULL, "scale", MQ_NODE_ARGS("f", "s"), MQ_NODE_ARGS("m")},
        {"Add", NULL, "add", MQ_NODE_ARGS("m", "b"), MQ_NODE_ARGS("h")},
        {"Relu", NULL, "relu", MQ_NODE_ARGS("h"), MQ_NODE_ARGS("y")},
    };
    for (uint32_t i = 0; i < 7; i++) {
        mq_node *node;
        mlp_must(mq_model_add_node(m, i, &nodes[i], &node, &err), &err);
        if (i == 2) {
            mlp_must(mq_node_set_int(m, node, "to", MQ_DT_F32, &err), &err);
        }
    }
    mlp_must(mq_model_verify(m, &err), &err);
    return m;
}

static void a_quantized_layer_is_one_kernel_with_the_same_bits(void **state)
{
    (void)state;
    float x[9 * 20];
    random_floats(x, 9 * 20, 6);
    for (int form = 0; form < 4; form++) {
        mq_model *model = quantized_model((form & 1) != 0, (form & 2) != 0);
        mq_session *fused = session_of(model, NULL);
        mq_session *plain = session_of(model, &(mq_session_options){.no_fusion = true});
        mq_session_stats stats;
        const mq_tensor *a, *b;
        for (int64_t rows = 1; rows <= 9; rows += 4) {
            mq_tensor in = rows_of(x, rows, 20);
            must_run(fused, &in, &a);
            must_run(plain, &in, &b);
            assert_memory_equal(a->data, b->data, b->bytes);
        }
        mq_session_stats_get(fused, &stats);
        assert_int_equal(stats.step_count, 1);
        mq_session_free(fused);
        mq_session_free(plain);
        mq_model_free(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fused_and_plain_agree),
        cmocka_unit_test(a_second_run_of_a_shape_takes_no_memory),
        cmocka_unit_test(wrong_inputs_are_refused_by_name),
        cmocka_unit_test(unknown_operators_are_refused_by_name),
        cmocka_unit_test(a_bad_attribute_is_refused_by_name),
        cmocka_unit_test(shapes_that_depend_on_values_work),
        cmocka_unit_test(shapes_are_told_without_a_run),
        cmocka_unit_test(an_observer_sees_every_value_in_order),
        cmocka_unit_test(memory_stays_in_its_limit),
        cmocka_unit_test(a_quantized_layer_is_one_kernel_with_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

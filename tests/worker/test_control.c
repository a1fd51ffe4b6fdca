/* Graphs within nodes: If, Loop, Scan, SequenceMap, with values from around them; sequences; half
 * precision where a kernel has none of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/worker/mlp.h"
#include "worker/exec/session.h"
#include "worker/ops/half.h"

#define A MQ_NODE_ARGS

static mq_error err;

static mq_model *new_model(const char *name)
{
    mq_model *m;
    mlp_must(mq_model_new(&m, name, 0, &err), &err);
    mlp_must(mq_model_set_opset(m, "", 18, &err), &err);
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

static void input(mq_model *m, const char *name, mq_dtype dtype, int32_t rank)
{
    mq_value_info info = {.name = name, .dtype = dtype, .rank = rank, .dims = {-1, -1, -1}};
    mlp_must(mq_model_set_input(m, &info, &err), &err);
}

static void output(mq_model *m, const char *name, mq_dtype dtype)
{
    mq_value_info info = {.name = name, .dtype = dtype, .rank = -1};
    mlp_must(mq_model_set_output(m, &info, &err), &err);
}

static void i64(mq_model *m, const char *name, int32_t rank, int64_t v)
{
    mq_shape shape = {rank, {1}};
    mlp_must(mq_model_set_init(m, name, MQ_DT_I64, &shape, mq_span_of(&v, sizeof v), &err), &err);
}

static void truth(mq_model *m, const char *name, uint8_t v)
{
    mlp_must(
        mq_model_set_init(m, name, MQ_DT_BOOL, &(mq_shape){.rank = 0}, mq_span_of(&v, 1), &err),
        &err);
}

/* Makes inner's graph an attribute; inner must live until the outer one is opened. */
static void hold(mq_model *m, mq_node *node, const char *name, mq_model *inner)
{
    mlp_must(mq_node_set_int(m, node, name, 0, &err), &err);
    mq_attr *attr = &node->attrs[node->attr_count - 1];
    attr->type = MQ_ATTR_GRAPH;
    attr->graph = &inner->graph;
}

/* Through the file format, so that what runs is what a file says. */
static mq_session *open_session(mq_model *m, mq_model **loaded, const mq_session_options *options)
{
    mq_session *s;
    mlp_must(mq_model_clone(loaded, m, 0, &err), &err);
    mlp_must(mq_session_new(&s, *loaded, options, &err), &err);
    return s;
}

/* A Loop over "x" (carried, one longer each trip by "k" from around it), scan output the trip. */
static mq_model *growing_loop(mq_model **body)
{
    mq_model *m = new_model("outer"), *b = new_model("body");
    input(b, "i", MQ_DT_I64, 0);
    input(b, "c", MQ_DT_BOOL, 0);
    input(b, "x_in", MQ_DT_I64, 1);
    op(b, "Concat", A("x_in", "k"), A("x_out"));
    mlp_must(mq_node_set_int(b, &b->graph.nodes[0], "axis", 0, &err), &err);
    i64(b, "four", 0, 4);
    op(b, "Less", A("i", "four"), A("c_out"));
    op(b, "Identity", A("i"), A("trip"));
    output(b, "c_out", MQ_DT_BOOL);
    output(b, "x_out", MQ_DT_I64);
    output(b, "trip", MQ_DT_I64);
    input(m, "m", MQ_DT_I64, 0);
    input(m, "go", MQ_DT_BOOL, 0);
    input(m, "x", MQ_DT_I64, 1);
    input(m, "k", MQ_DT_I64, 1);
    hold(m, op(m, "Loop", A("m", "go", "x"), A("y", "trips")), "body", b);
    output(m, "y", MQ_DT_I64);
    output(m, "trips", MQ_DT_I64);
    *body = b;
    return m;
}

static void a_loop_carries_captures_and_stacks(void **state)
{
    (void)state;
    mq_model *body, *loaded, *m = growing_loop(&body);
    mq_session *s = open_session(m, &loaded, NULL);
    static const struct {
        int64_t trips;
        uint8_t go;
        int64_t length; /* of y: one for each trip, then the first */
    } cases[] = {{3, 1, 4}, {0, 1, 1}, {9, 0, 1}, {9, 1, 6}, {-5, 1, 1}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        int64_t trips = cases[c].trips, x = 7, k = 8;
        uint8_t go = cases[c].go;
        mq_tensor in[4] = {{MQ_DT_I64, {.rank = 0}, &trips, 8},
                           {MQ_DT_BOOL, {.rank = 0}, &go, 1},
                           {MQ_DT_I64, {1, {1}}, &x, 8},
                           {MQ_DT_I64, {1, {1}}, &k, 8}};
        const mq_tensor *out;
        mlp_must(mq_session_run(s, in, 4, &out, &err), &err);
        assert_int_equal(out[0].shape.rank, 1);
        assert_int_equal(out[0].shape.dims[0], cases[c].length);
        assert_int_equal(out[1].shape.rank, 1);
        assert_int_equal(out[1].shape.dims[0], cases[c].length - 1);
        for (int64_t i = 0; i < cases[c].length; i++) {
            assert_int_equal(((const int64_t *)out[0].data)[i], i == 0 ? 7 : 8);
        }
        for (int64_t i = 0; i + 1 < cases[c].length; i++) {
            assert_int_equal(((const int64_t *)out[1].data)[i], i);
        }
    }
    mq_session_free(s);
    mq_model_free(loaded);
    mq_model_free(m);
    mq_model_free(body);
}

static bool stop_after(void *arg)
{
    uint32_t *left = arg;
    return (*left)-- == 0;
}

static void an_endless_loop_is_stopped_by_its_owner(void **state)
{
    (void)state;
    mq_model *m = new_model("outer"), *b = new_model("body"), *loaded;
    const mq_tensor *out;
    input(b, "i", MQ_DT_I64, 0);
    input(b, "c", MQ_DT_BOOL, 0);
    op(b, "Identity", A("c"), A("c_out"));
    op(b, "Identity", A("i"), A("trip"));
    output(b, "c_out", MQ_DT_BOOL);
    output(b, "trip", MQ_DT_I64);
    truth(m, "yes", 1);
    hold(m, op(m, "Loop", A("", "yes"), A("trips")), "body", b);
    output(m, "trips", MQ_DT_I64);
    uint32_t left = 1000;
    mq_session *s =
        open_session(m, &loaded, &(mq_session_options){.stop = stop_after, .stop_arg = &left});
    assert_int_equal(mq_session_run(s, NULL, 0, &out, &err), MQ_E_CANCELLED);
    mq_session_free(s);
    mq_model_free(loaded);
    mq_model_free(m);
    mq_model_free(b);
}

/* If within If: the inner branches read a value of the main graph through the outer one. */
static void nested_branches_see_what_is_around_them(void **state)
{
    (void)state;
    mq_model *m = new_model("outer"), *t = new_model("then"), *e = new_model("else");
    mq_model *tt = new_model("then2"), *te = new_model("else2"), *loaded;
    op(tt, "Neg", A("x"), A("r"));
    output(tt, "r", MQ_DT_F32);
    op(te, "Add", A("x", "twice"), A("r2"));
    output(te, "r2", MQ_DT_F32);
    op(t, "Add", A("x", "x"), A("twice"));
    mq_node *inner = op(t, "If", A("b"), A("ry"));
    hold(t, inner, "then_branch", tt);
    hold(t, inner, "else_branch", te);
    output(t, "ry", MQ_DT_F32);
    op(e, "Identity", A("x"), A("same"));
    output(e, "same", MQ_DT_F32);
    input(m, "a", MQ_DT_BOOL, 0);
    input(m, "b", MQ_DT_BOOL, 0);
    input(m, "x", MQ_DT_F32, 1);
    mq_node *node = op(m, "If", A("a"), A("y"));
    hold(m, node, "then_branch", t);
    hold(m, node, "else_branch", e);
    output(m, "y", MQ_DT_F32);
    mq_session *s = open_session(m, &loaded, NULL);
    for (int c = 0; c < 4; c++) {
        uint8_t a = c & 1, b = (uint8_t)(c >> 1);
        float x[2] = {1.5f, -2.0f};
        mq_tensor in[3] = {{MQ_DT_BOOL, {.rank = 0}, &a, 1},
                           {MQ_DT_BOOL, {.rank = 0}, &b, 1},
                           {MQ_DT_F32, {1, {2}}, x, sizeof x}};
        const mq_tensor *out;
        mlp_must(mq_session_run(s, in, 3, &out, &err), &err);
        float factor = a == 0 ? 1.0f : b == 0 ? 3.0f : -1.0f;
        assert_true(((const float *)out[0].data)[0] == factor * x[0]);
        assert_true(((const float *)out[0].data)[1] == factor * x[1]);
    }
    mq_session_free(s);
    mq_model *all[] = {loaded, m, t, e, tt, te};
    for (size_t i = 0; i < 6; i++) {
        mq_model_free(all[i]);
    }
}

/* Running sums over columns, from the last to the first; the sums become columns again. */
static void a_scan_goes_along_an_axis_in_either_direction(void **state)
{
    (void)state;
    mq_model *m = new_model("outer"), *b = new_model("body"), *loaded;
    int64_t one = 1;
    input(b, "s", MQ_DT_F32, 1);
    input(b, "x", MQ_DT_F32, 1);
    op(b, "Add", A("s", "x"), A("s2"));
    op(b, "Identity", A("s2"), A("sum"));
    output(b, "s2", MQ_DT_F32);
    output(b, "sum", MQ_DT_F32);
    input(m, "start", MQ_DT_F32, 1);
    input(m, "in", MQ_DT_F32, 2);
    mq_node *node = op(m, "Scan", A("start", "in"), A("last", "sums"));
    hold(m, node, "body", b);
    mlp_must(mq_node_set_int(m, node, "num_scan_inputs", 1, &err), &err);
    mlp_must(mq_node_set_ints(m, node, "scan_input_axes", &one, 1, &err), &err);
    mlp_must(mq_node_set_ints(m, node, "scan_input_directions", &one, 1, &err), &err);
    mlp_must(mq_node_set_ints(m, node, "scan_output_axes", &one, 1, &err), &err);
    mlp_must(mq_node_set_ints(m, node, "scan_output_directions", &one, 1, &err), &err);
    output(m, "last", MQ_DT_F32);
    output(m, "sums", MQ_DT_F32);
    mq_session *s = open_session(m, &loaded, NULL);
    float start[2] = {0.0f, 10.0f}, x[6] = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f};
    mq_tensor in[2] = {{MQ_DT_F32, {1, {2}}, start, sizeof start},
                       {MQ_DT_F32, {2, {2, 3}}, x, sizeof x}};
    const mq_tensor *out;
    mlp_must(mq_session_run(s, in, 2, &out, &err), &err);
    static const float last[2] = {6.0f, 25.0f};
    static const float sums[6] = {6.0f, 5.0f, 3.0f, 25.0f, 21.0f, 16.0f};
    assert_memory_equal(out[0].data, last, sizeof last);
    assert_int_equal(out[1].shape.dims[0], 2);
    assert_int_equal(out[1].shape.dims[1], 3);
    assert_memory_equal(out[1].data, sums, sizeof sums);
    mq_session_free(s);
    mq_model_free(loaded);
    mq_model_free(m);
    mq_model_free(b);
}

/* A Loop fills a sequence, SequenceMap doubles each item, ConcatFromSequence joins them. */
static void sequences_travel_through_graphs(void **state)
{
    (void)state;
    mq_model *m = new_model("outer"), *b = new_model("body"), *map = new_model("map"), *loaded;
    input(b, "i", MQ_DT_I64, 0);
    input(b, "c", MQ_DT_BOOL, 0);
    input(b, "s", MQ_DT_I64, 0);
    op(b, "Identity", A("c"), A("c_out"));
    op(b, "SequenceInsert", A("s", "i"), A("s_out"));
    output(b, "c_out", MQ_DT_BOOL);
    output(b, "s_out", MQ_DT_NONE);
    input(map, "item", MQ_DT_I64, 0);
    op(map, "Add", A("item", "item"), A("double"));
    output(map, "double", MQ_DT_I64);
    i64(m, "three", 0, 3);
    op(m, "SequenceEmpty", NULL, 0, A("none"));
    hold(m, op(m, "Loop", A("three", "", "none"), A("filled")), "body", b);
    op(m, "Optional", A("filled"), A("maybe"));
    op(m, "OptionalHasElement", A("maybe"), A("has"));
    op(m, "OptionalGetElement", A("maybe"), A("surely"));
    hold(m, op(m, "SequenceMap", A("surely"), A("mapped")), "body", map);
    mlp_must(mq_node_set_int(m, op(m, "ConcatFromSequence", A("mapped"), A("y")), "axis", 0, &err),
             &err);
    mlp_must(mq_node_set_int(m, &m->graph.nodes[m->graph.node_count - 1], "new_axis", 1, &err),
             &err);
    op(m, "SequenceLength", A("mapped"), A("length"));
    output(m, "y", MQ_DT_I64);
    output(m, "length", MQ_DT_I64);
    output(m, "has", MQ_DT_BOOL);
    mq_session *s = open_session(m, &loaded, NULL);
    const mq_tensor *out;
    static const int64_t want[3] = {0, 2, 4};
    mlp_must(mq_session_run(s, NULL, 0, &out, &err), &err);
    assert_int_equal(out[0].bytes, sizeof want);
    assert_memory_equal(out[0].data, want, sizeof want);
    assert_int_equal(*(const int64_t *)out[1].data, 3);
    assert_int_equal(*(const uint8_t *)out[2].data, 1);
    mq_session_free(s);
    mq_model_free(loaded);
    mq_model_free(m);
    mq_model_free(b);
    mq_model_free(map);
}

/* 1 + 2^-10 squared: in half precision each product would lose what the sum of both keeps. */
static void half_precision_is_rounded_once_for_each_node(void **state)
{
    (void)state;
    mq_model *m = new_model("outer"), *loaded;
    input(m, "x", MQ_DT_F16, 2);
    op(m, "MatMul", A("x", "x"), A("y"));
    output(m, "y", MQ_DT_F16);
    mq_session *s = open_session(m, &loaded, NULL);
    uint16_t x[4];
    float wide[4] = {1.0009765625f, 0.5f, -0.25f, 2.0f};
    for (int i = 0; i < 4; i++) {
        x[i] = mq_float_to_half(wide[i]);
    }
    mq_tensor in = {MQ_DT_F16, {2, {2, 2}}, x, sizeof x};
    const mq_tensor *out;
    mlp_must(mq_session_run(s, &in, 1, &out, &err), &err);
    assert_int_equal(out[0].dtype, MQ_DT_F16);
    for (int i = 0; i < 4; i++) {
        float sum = wide[i / 2 * 2] * wide[i % 2] + wide[i / 2 * 2 + 1] * wide[2 + i % 2];
        assert_int_equal(((const uint16_t *)out[0].data)[i], mq_float_to_half(sum));
    }
    mq_session_free(s);
    mq_model_free(loaded);
    mq_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loop_carries_captures_and_stacks),
        cmocka_unit_test(an_endless_loop_is_stopped_by_its_owner),
        cmocka_unit_test(nested_branches_see_what_is_around_them),
        cmocka_unit_test(a_scan_goes_along_an_axis_in_either_direction),
        cmocka_unit_test(sequences_travel_through_graphs),
        cmocka_unit_test(half_precision_is_rounded_once_for_each_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

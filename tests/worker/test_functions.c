/* Model-local functions: calls become nodes, attributes and names are the call's own, and files
 * that would grow or never end are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/exec/session.h"
#include "worker/onnx/pb.h"

/* A file under construction: model header, then the graph, then functions. */
static mq_buf file;

static void import(uint32_t field, const char *domain, int64_t version)
{
    size_t at = mq_pb_begin(&file, field);
    mq_pb_put_str(&file, 1, domain);
    mq_pb_put_int(&file, 2, version);
    mq_pb_end(&file, at);
}

/* Words of a list "a b c" as fields of this number; "_" is an omitted one. */
static void words(uint32_t field, const char *list)
{
    while (*list != '\0') {
        size_t len = strcspn(list, " ");
        bool is_omitted = len == 1 && list[0] == '_';
        mq_pb_put_bytes(&file, field, mq_span_of(list, is_omitted ? 0 : len));
        list += len + (list[len] == ' ');
    }
}

static size_t begin_node(uint32_t field, const char *op, const char *domain, const char *in,
                         const char *out)
{
    size_t at = mq_pb_begin(&file, field);
    words(1, in);
    words(2, out);
    mq_pb_put_str(&file, 3, op);
    mq_pb_put_str(&file, 4, op);
    mq_pb_put_str(&file, 7, domain);
    return at;
}

static void node(uint32_t field, const char *op, const char *domain, const char *in,
                 const char *out)
{
    mq_pb_end(&file, begin_node(field, op, domain, in, out));
}

static void float_attr(uint32_t field, const char *name, float value)
{
    size_t at = mq_pb_begin(&file, field);
    mq_pb_put_str(&file, 1, name);
    mq_pb_put_float(&file, 2, value);
    mq_pb_put_int(&file, 20, MQ_ATTR_FLOAT);
    mq_pb_end(&file, at);
}

static void ref_attr(const char *name, const char *ref, mq_attr_type type)
{
    size_t at = mq_pb_begin(&file, 5);
    mq_pb_put_str(&file, 1, name);
    mq_pb_put_str(&file, 21, ref);
    mq_pb_put_int(&file, 20, type);
    mq_pb_end(&file, at);
}

static void value(uint32_t field, const char *name, int64_t dim, int64_t type)
{
    size_t at = mq_pb_begin(&file, field);
    mq_pb_put_str(&file, 1, name);
    size_t t = mq_pb_begin(&file, 2), tensor = mq_pb_begin(&file, 1);
    mq_pb_put_int(&file, 1, type);
    size_t shape = mq_pb_begin(&file, 2);
    if (dim > 0) {
        size_t d = mq_pb_begin(&file, 1);
        mq_pb_put_int(&file, 1, dim);
        mq_pb_end(&file, d);
    }
    mq_pb_end(&file, shape);
    mq_pb_end(&file, tensor);
    mq_pb_end(&file, t);
    mq_pb_end(&file, at);
}

static void begin_file(void)
{
    mq_buf_init(&file, (size_t)1 << 22);
    mq_pb_put_int(&file, 1, 8);
    import(8, "", 17);
    import(8, "mine", 1);
}

static size_t begin_function(const char *name, const char *in, const char *out)
{
    size_t at = mq_pb_begin(&file, 25);
    mq_pb_put_str(&file, 1, name);
    mq_pb_put_str(&file, 10, "mine");
    words(4, in);
    words(5, out);
    import(9, "", 17);
    return at;
}

/* A graph x[2] -> y[2] of the nodes that `fill` writes (field 1). */
static void graph(void (*fill)(void))
{
    size_t at = mq_pb_begin(&file, 7);
    fill();
    value(11, "x", 2, MQ_DT_F32);
    value(12, "y", 2, MQ_DT_F32);
    mq_pb_end(&file, at);
}

static mq_model *load(void)
{
    mq_model *m = NULL;
    mq_error err;
    if (mq_model_load(&m, mq_buf_span(&file), 0, &err) != MQ_OK) {
        fail_msg("%s", err.text);
    }
    return m;
}

static void expect(float x0, float x1, float y0, float y1)
{
    mq_model *m = load();
    mq_session *s = NULL;
    mq_error err;
    float x[2] = {x0, x1};
    mq_tensor in = {MQ_DT_F32, {1, {2}}, x, sizeof x};
    const mq_tensor *out = NULL;
    if (mq_session_new(&s, m, NULL, &err) != MQ_OK ||
        mq_session_run(s, &in, 1, &out, &err) != MQ_OK) {
        fail_msg("%s", err.text);
        return;
    }
    assert_true(((const float *)out[0].data)[0] == y0);
    assert_true(((const float *)out[0].data)[1] == y1);
    mq_session_free(s);
    mq_model_free(m);
    mq_buf_release(&file);
}

static void expect_error(mq_code code, const char *words_of_it)
{
    mq_model *m = NULL;
    mq_error err = {.text = ""};
    mq_code got = mq_model_load(&m, mq_buf_span(&file), 0, &err);
    if (got != code || strstr(err.text, words_of_it) == NULL) {
        fail_msg("code %s, text '%s', expected '%s'", mq_code_name(got), err.text, words_of_it);
    }
    mq_model_free(m);
    mq_buf_release(&file);
}

/* --- what works --- */

static void calls_leak_twice(void)
{
    node(1, "Leak", "mine", "x", "a");                   /* the default */
    size_t at = begin_node(1, "Leak", "mine", "a", "y"); /* its own */
    float_attr(5, "slope", 0.25f);
    mq_pb_end(&file, at);
}

static void an_attribute_is_the_calls_or_the_default(void **state)
{
    (void)state;
    begin_file();
    graph(calls_leak_twice);
    size_t fn = begin_function("Leak", "v", "w");
    size_t at = begin_node(7, "LeakyRelu", "", "v", "inner");
    ref_attr("alpha", "slope", MQ_ATTR_FLOAT);
    mq_pb_end(&file, at);
    node(7, "Identity", "", "inner", "w");
    float_attr(11, "slope", 0.5f);
    mq_pb_end(&file, fn);
    expect(-8, 4, -1, 4);
}

static void calls_elu(void)
{
    node(1, "Soft", "mine", "x", "y");
}

static void an_attribute_without_value_is_left_out(void **state)
{
    (void)state;
    begin_file();
    graph(calls_elu);
    size_t fn = begin_function("Soft", "v", "w");
    mq_pb_put_str(&file, 6, "slope"); /* has no default here, LeakyRelu's own is 0.01 */
    size_t at = begin_node(7, "LeakyRelu", "", "v", "w");
    ref_attr("alpha", "slope", MQ_ATTR_FLOAT);
    mq_pb_end(&file, at);
    mq_pb_end(&file, fn);
    expect(-100, 3, -100 * 0.01f, 3);
}

static void calls_outer(void)
{
    node(1, "Outer", "mine", "x x", "y _");
}

static void functions_call_functions_and_names_do_not_clash(void **state)
{
    (void)state;
    begin_file();
    graph(calls_outer);
    size_t fn =
        begin_function("Outer", "x y", "z same"); /* names of the main graph, other things */
    node(7, "Inner", "mine", "x y", "t");
    node(7, "Inner", "mine", "t y", "z");
    node(7, "Identity", "", "t", "same");
    mq_pb_end(&file, fn);
    fn = begin_function("Inner", "x z", "y");
    node(7, "Mul", "", "x z", "t");
    node(7, "Add", "", "t z", "y");
    mq_pb_end(&file, fn);
    expect(2, 3, 14, 39); /* (x x + x) x + x */
}

static void uses_made_names(void)
{
    node(1, "Neg", "", "x", "__call0/t");
    node(1, "Twice", "mine", "__call0/t", "y");
}

static void made_names_avoid_the_models(void **state)
{
    (void)state;
    begin_file();
    graph(uses_made_names);
    size_t fn = begin_function("Twice", "x", "y");
    node(7, "Add", "", "x x", "t");
    node(7, "Identity", "", "t", "y");
    mq_pb_end(&file, fn);
    expect(1, -2, -2, 4);
}

static void an_output_may_be_an_input(void **state)
{
    (void)state;
    begin_file();
    graph(calls_elu);
    mq_pb_end(&file, begin_function("Soft", "v", "v"));
    expect(1, -2, 1, -2);
}

static void branch(const char *name, const char *op, const char *domain, const char *in)
{
    size_t at = mq_pb_begin(&file, 5);
    mq_pb_put_str(&file, 1, name);
    size_t g = mq_pb_begin(&file, 6);
    node(1, op, domain, in, "b");
    value(12, "b", 2, MQ_DT_F32);
    mq_pb_end(&file, g);
    mq_pb_put_int(&file, 20, MQ_ATTR_GRAPH);
    mq_pb_end(&file, at);
}

static void chooses(void)
{
    node(1, "ReduceMax", "", "x", "most");
    node(1, "Reshape", "", "most none", "most1");
    node(1, "Greater", "", "most1 zero", "is_big");
    size_t at = begin_node(1, "If", "", "is_big", "c");
    branch("then_branch", "Twice", "mine", "x");
    branch("else_branch", "Neg", "", "x");
    mq_pb_end(&file, at);
    node(1, "Choose", "mine", "is_big c", "y");
    float zero = 0;
    at = mq_pb_begin(&file, 5);
    mq_pb_put_int(&file, 2, MQ_DT_F32);
    mq_pb_put_str(&file, 8, "zero");
    mq_pb_put_bytes(&file, 9, mq_span_of(&zero, sizeof zero));
    mq_pb_end(&file, at);
    at = mq_pb_begin(&file, 5);
    mq_pb_put_int(&file, 1, 0);
    mq_pb_put_int(&file, 2, MQ_DT_I64);
    mq_pb_put_str(&file, 8, "none");
    mq_pb_end(&file, at);
}

static void write_twice_and_choose(void)
{
    size_t fn = begin_function("Twice", "x", "y");
    node(7, "Add", "", "x x", "y");
    mq_pb_end(&file, fn);
    fn =
        begin_function("Choose", "c v", "w"); /* a graph inside that calls, and reads v around it */
    size_t at = begin_node(7, "If", "", "c", "w");
    branch("then_branch", "Twice", "mine", "v");
    branch("else_branch", "Identity", "", "v");
    mq_pb_end(&file, at);
    mq_pb_end(&file, fn);
}

static void graphs_call_functions_and_functions_hold_graphs(void **state)
{
    (void)state;
    begin_file();
    graph(chooses);
    write_twice_and_choose();
    expect(1, 2, 4, 8);
    begin_file();
    graph(chooses);
    write_twice_and_choose();
    expect(-1, -2, 1, 2);
}

static void an_expanded_model_is_saved_without_functions(void **state)
{
    (void)state;
    begin_file();
    graph(calls_leak_twice);
    size_t fn = begin_function("Leak", "v", "w");
    node(7, "Relu", "", "v", "w");
    mq_pb_end(&file, fn);
    mq_model *m = load();
    mq_buf again;
    mq_error err;
    mq_buf_init(&again, (size_t)1 << 20);
    assert_int_equal(mq_model_save(m, &again, &err), MQ_OK);
    mq_model_free(m);
    mq_buf_release(&file);
    file = again;
    expect(-8, 4, 0, 4);
}

/* --- what is refused --- */

static void recursion_is_refused(void **state)
{
    (void)state;
    begin_file();
    graph(calls_elu);
    size_t fn = begin_function("Soft", "v", "w");
    node(7, "Hard", "mine", "v", "w");
    mq_pb_end(&file, fn);
    fn = begin_function("Hard", "v", "w");
    node(7, "Soft", "mine", "v", "w");
    mq_pb_end(&file, fn);
    expect_error(MQ_E_LIMIT, "16 deep, or calls itself");
    begin_file(); /* through a graph */
    graph(chooses);
    write_twice_and_choose();
    fn = begin_function("Neg", "v", "w");
    mq_pb_put_str(&file, 10, "");
    size_t at = begin_node(7, "If", "", "v", "w");
    branch("then_branch", "Neg", "", "v");
    branch("else_branch", "Neg", "", "v");
    mq_pb_end(&file, at);
    mq_pb_end(&file, fn);
    expect_error(MQ_E_LIMIT, "nested deeper than 4");
}

static void exponential_growth_is_refused(void **state)
{
    (void)state;
    begin_file();
    graph(calls_elu);
    for (int level = 0; level < 15; level++) {
        char name[16], next[16];
        snprintf(name, sizeof name, level == 0 ? "Soft" : "f%d", level);
        snprintf(next, sizeof next, "f%d", level + 1);
        size_t fn = begin_function(name, "v", "w");
        for (int i = 0; i < 4; i++) { /* 4 to the power of 15 nodes in the end */
            char out[4] = {i < 3 ? 'r' : 'w', i < 3 ? (char)('0' + i) : '\0', '\0'};
            if (level < 14) {
                node(7, next, "mine", "v", out);
            } else {
                node(7, "Relu", "", "v", out);
            }
        }
        mq_pb_end(&file, fn);
    }
    expect_error(MQ_E_LIMIT, "more than 100000 nodes once functions are expanded");
}

static void another_opset_inside_is_refused(void **state)
{
    (void)state;
    begin_file();
    graph(calls_elu);
    size_t fn = begin_function("Soft", "v", "w");
    node(7, "Relu", "", "v", "w");
    import(9, "", 13);
    mq_pb_end(&file, fn);
    expect_error(MQ_E_UNSUPPORTED, "function 'Soft' imports opset 13 of domain '', the model 17");
}

static void a_domain_of_a_function_becomes_the_models(void **state)
{
    (void)state;
    begin_file();
    graph(calls_elu);
    size_t fn = begin_function("Soft", "v", "w");
    import(9, "ai.onnx.ml", 3);
    size_t at = begin_node(7, "Binarizer", "ai.onnx.ml", "v", "w");
    float_attr(5, "threshold", 1.5f);
    mq_pb_end(&file, at);
    mq_pb_end(&file, fn);
    expect(1, 2, 0, 1);
}

static void wrong_functions_are_refused_by_name(void **state)
{
    (void)state;
    begin_file();
    graph(calls_elu);
    size_t fn = begin_function("Soft", "v v", "w");
    mq_pb_end(&file, fn);
    expect_error(MQ_E_FORMAT, "function 'Soft': 'v' is given twice");
    begin_file();
    graph(calls_elu);
    for (int i = 0; i < 2; i++) {
        fn = begin_function("Soft", "v", "w");
        node(7, "Relu", "", "v", "w");
        mq_pb_end(&file, fn);
    }
    expect_error(MQ_E_FORMAT, "function 'Soft' of domain 'mine' is given twice");
    begin_file();
    graph(calls_elu);
    fn = begin_function("Soft", "", "w");
    mq_pb_end(&file, fn);
    expect_error(MQ_E_FORMAT, "more inputs or outputs than function 'Soft' has");
    begin_file();
    graph(calls_elu);
    fn = begin_function("Soft", "v", "w"); /* never makes w */
    mq_pb_end(&file, fn);
    expect_error(MQ_E_FORMAT, "'y'");
    begin_file();
    graph(calls_elu);
    fn = begin_function("Soft", "v", "w");
    mq_pb_put_str(&file, 13, "second");
    mq_pb_end(&file, fn);
    expect_error(MQ_E_UNSUPPORTED, "overloads");
}

static void refers_in_the_main_graph(void)
{
    size_t at = begin_node(1, "LeakyRelu", "", "x", "y");
    ref_attr("alpha", "slope", MQ_ATTR_FLOAT);
    mq_pb_end(&file, at);
}

static void references_outside_of_functions_are_refused(void **state)
{
    (void)state;
    begin_file();
    graph(refers_in_the_main_graph);
    expect_error(MQ_E_FORMAT, "refers to 'slope' outside of a function");
    begin_file();
    graph(calls_elu);
    size_t fn = begin_function("Soft", "v", "w");
    size_t at = mq_pb_begin(&file, 11); /* nor may a default be one */
    mq_pb_put_str(&file, 1, "slope");
    mq_pb_put_str(&file, 21, "other");
    mq_pb_put_int(&file, 20, MQ_ATTR_FLOAT);
    mq_pb_end(&file, at);
    mq_pb_end(&file, fn);
    expect_error(MQ_E_FORMAT, "refers to 'other' outside of a function");
}

static void cut_and_flipped_files_end_in_an_error_or_a_model(void **state)
{
    (void)state;
    begin_file();
    graph(chooses);
    write_twice_and_choose();
    uint8_t *bytes = malloc(file.len);
    assert_non_null(bytes);
    for (size_t len = 0; len < 9 * file.len; len++) {
        mq_model *m = NULL;
        mq_error err;
        size_t n = len < file.len ? len : file.len;
        memcpy(bytes, file.data, file.len);
        if (len >= file.len) {
            bytes[len % file.len] ^= (uint8_t)(1u << (len / file.len - 1));
        }
        if (mq_model_load(&m, mq_span_of(bytes, n), (size_t)1 << 22, &err) == MQ_OK) {
            mq_session *s = NULL;
            if (mq_session_new(&s, m, NULL, &err) == MQ_OK) {
                mq_session_free(s);
            }
            mq_model_free(m);
        }
    }
    free(bytes);
    mq_buf_release(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_attribute_is_the_calls_or_the_default),
        cmocka_unit_test(an_attribute_without_value_is_left_out),
        cmocka_unit_test(functions_call_functions_and_names_do_not_clash),
        cmocka_unit_test(made_names_avoid_the_models),
        cmocka_unit_test(an_output_may_be_an_input),
        cmocka_unit_test(graphs_call_functions_and_functions_hold_graphs),
        cmocka_unit_test(an_expanded_model_is_saved_without_functions),
        cmocka_unit_test(recursion_is_refused),
        cmocka_unit_test(exponential_growth_is_refused),
        cmocka_unit_test(another_opset_inside_is_refused),
        cmocka_unit_test(a_domain_of_a_function_becomes_the_models),
        cmocka_unit_test(wrong_functions_are_refused_by_name),
        cmocka_unit_test(references_outside_of_functions_are_refused),
        cmocka_unit_test(cut_and_flipped_files_end_in_an_error_or_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

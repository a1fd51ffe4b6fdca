/* The ONNX reader, writer, verifier and editor: honest files come back as they were, hostile ones
 * end in an error that says where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/worker/mlp.h"
#include "worker/onnx/pb.h"

static const int64_t sizes[] = {6, 5, 4};

/* A model with one of everything: attributes of each kind, a subgraph, strings, metadata. */
static mq_model *rich_model(void)
{
    mq_error err;
    mq_model *m = mlp_new(sizes, 3, MLP_TRANSPOSED | MLP_SOFTMAX, 3);
    mq_node *node = &m->graph.nodes[0];
    int64_t ints[3] = {1, -2, INT64_MAX};
    float floats[2] = {0.5f, -1.25f};
    mq_tensor t = {MQ_DT_F32, {1, {2}}, floats, sizeof floats};
    assert_int_equal(mq_node_set_ints(m, node, "ints", ints, 3, &err), MQ_OK);
    assert_int_equal(mq_node_set_floats(m, node, "floats", floats, 2, &err), MQ_OK);
    assert_int_equal(mq_node_set_float(m, node, "alpha", 0.75f, &err), MQ_OK);
    assert_int_equal(mq_node_set_string(m, node, "text", mq_str("caf\xc3\xa9"), &err), MQ_OK);
    assert_int_equal(mq_node_set_tensor(m, node, "tensor", &t, &err), MQ_OK);
    assert_int_equal(mq_model_set_metadata(m, "author", "test", &err), MQ_OK);
    assert_int_equal(mq_model_set_opset(m, "ai.onnx.ml", 3, &err), MQ_OK);
    mq_shape three = {1, {3}};
    assert_int_equal(mq_model_set_init(m, "unused", MQ_DT_I64, &three, mq_span_of(ints, 24), &err),
                     MQ_OK);
    return m;
}

static mq_buf save(const mq_model *m)
{
    mq_buf buf;
    mq_error err;
    mq_buf_init(&buf, (size_t)1 << 24);
    if (mq_model_save(m, &buf, &err) != MQ_OK) {
        fail_msg("%s", err.text);
    }
    return buf;
}

static void saved_and_loaded_is_the_same(void **state)
{
    (void)state;
    mq_error err;
    mq_model *m = rich_model(), *back, *copy;
    mq_buf one = save(m);
    assert_int_equal(mq_model_load(&back, mq_buf_span(&one), 0, &err), MQ_OK);
    assert_int_equal(back->graph.node_count, m->graph.node_count);
    assert_int_equal(mq_model_opset(back, "ai.onnx"), MQ_MODEL_OPSET);
    assert_int_equal(mq_model_opset(back, "ai.onnx.ml"), 3);
    assert_int_equal(mq_model_opset(back, "other"), 0);
    assert_string_equal(mq_model_metadata(back, "author"), "test");
    const mq_node *node = &back->graph.nodes[0];
    assert_int_equal(mq_node_attr(node, "ints")->count, 3);
    assert_true(mq_node_attr(node, "ints")->ints[2] == INT64_MAX);
    assert_true(mq_node_attr(node, "floats")->floats[1] == -1.25f);
    assert_true(mq_span_is(mq_node_attr(node, "text")->s, "caf\xc3\xa9"));
    assert_int_equal(mq_node_attr(node, "tensor")->tensor->tensor.bytes, 8);
    assert_string_equal(back->graph.inputs[0].dim_names[0], "N");
    const mq_init *w = mq_graph_init(&back->graph, "w0"), *given = mq_graph_init(&m->graph, "w0");
    assert_int_equal(w->tensor.bytes, given->tensor.bytes);
    assert_memory_equal(w->tensor.data, given->tensor.data, w->tensor.bytes);
    mq_buf two = save(back);
    assert_int_equal(one.len, two.len);
    assert_memory_equal(one.data, two.data, one.len);
    assert_int_equal(mq_model_clone(&copy, back, 0, &err), MQ_OK);
    mq_model_free(back);
    mq_model_free(m);
    mq_buf three = save(copy);
    assert_int_equal(one.len, three.len);
    assert_memory_equal(one.data, three.data, one.len);
    mq_model_free(copy);
    mq_buf_release(&one);
    mq_buf_release(&two);
    mq_buf_release(&three);
}

/* Loads; frees what loads; errors must have a text. True when it loaded. */
static bool try_load(const uint8_t *bytes, size_t len, size_t memory)
{
    mq_error err = {.text = ""};
    mq_model *m = NULL;
    uint8_t *exact = malloc(len + 1); /* so that the sanitizer sees every byte past the end */
    assert_non_null(exact);
    memcpy(exact, bytes, len);
    uint8_t *tight = realloc(exact, len > 0 ? len : 1);
    assert_non_null(tight);
    mq_code code = mq_model_load(&m, mq_span_of(tight, len), memory, &err);
    if (code == MQ_OK) {
        mq_buf out = save(m);
        mq_buf_release(&out);
        mq_model_free(m);
    } else {
        assert_null(m);
        assert_true(err.text[0] != '\0');
        assert_int_equal(err.code, code);
    }
    free(tight);
    return code == MQ_OK;
}

static void every_truncation_is_an_error_or_a_smaller_model(void **state)
{
    (void)state;
    mq_model *m = rich_model();
    mq_buf file = save(m);
    size_t loaded = 0;
    for (size_t len = 0; len < file.len; len++) {
        loaded += try_load(file.data, len, 0);
    }
    assert_true(try_load(file.data, file.len, 0));
    assert_true(loaded <= 16); /* cuts between the fields behind the graph */
    mq_model_free(m);
    mq_buf_release(&file);
}

static void flipped_bytes_never_crash(void **state)
{
    (void)state;
    mq_model *m = rich_model();
    mq_buf file = save(m);
    mq_prng prng = {11};
    uint8_t *bytes = malloc(file.len);
    assert_non_null(bytes);
    for (int round = 0; round < 6000; round++) {
        memcpy(bytes, file.data, file.len);
        uint64_t flips = 1 + mq_prng_below(&prng, 4);
        for (uint64_t i = 0; i < flips; i++) {
            size_t at = mq_prng_below(&prng, file.len);
            bytes[at] = (uint8_t)(round % 3 == 0 ? mq_prng_next(&prng)
                                                 : bytes[at] ^ 1u << mq_prng_below(&prng, 8));
        }
        try_load(bytes, file.len, (size_t)1 << 22);
    }
    free(bytes);
    mq_model_free(m);
    mq_buf_release(&file);
}

static void memory_stays_in_its_limit(void **state)
{
    (void)state;
    mq_buf file;
    mq_error err;
    mq_model *m;
    mq_buf_init(&file, (size_t)1 << 22);
    mq_pb_put_int(&file, 1, 8);
    size_t graph = mq_pb_begin(&file, 7);
    for (int i = 0; i < 50000; i++) {
        mq_pb_put_bytes(&file, 1, mq_str("")); /* empty nodes: two bytes in the file */
    }
    mq_pb_end(&file, graph);
    assert_int_equal(mq_model_load(&m, mq_buf_span(&file), 100000, &err), MQ_E_LIMIT);
    assert_non_null(strstr(err.text, "memory"));
    mq_buf_reset(&file);
    mq_pb_put_int(&file, 1, 8);
    graph = mq_pb_begin(&file, 7);
    for (int i = 0; i <= MQ_MODEL_NODES_MAX; i++) {
        mq_pb_put_bytes(&file, 1, mq_str(""));
    }
    mq_pb_end(&file, graph);
    assert_int_equal(mq_model_load(&m, mq_buf_span(&file), 0, &err), MQ_E_LIMIT);
    assert_non_null(strstr(err.text, "100000"));
    mq_buf_release(&file);
}

/* A file whose graph holds what `fill` writes, and the error it must give. */
static void expect_graph(void (*fill)(mq_buf *), mq_code code, const char *words)
{
    mq_buf file;
    mq_error err = {.text = ""};
    mq_model *m = NULL;
    mq_buf_init(&file, (size_t)1 << 20);
    mq_pb_put_int(&file, 1, 8);
    size_t graph = mq_pb_begin(&file, 7);
    fill(&file);
    mq_pb_end(&file, graph);
    mq_code got = mq_model_load(&m, mq_buf_span(&file), 0, &err);
    if (got != code || (words != NULL && strstr(err.text, words) == NULL)) {
        fail_msg("code %s, text '%s', expected '%s'", mq_code_name(got), err.text, words);
    }
    mq_model_free(m);
    mq_buf_release(&file);
}

static void node(mq_buf *buf, const char *name, const char *in, const char *out)
{
    size_t at = mq_pb_begin(buf, 1);
    mq_pb_put_str(buf, 1, in);
    mq_pb_put_str(buf, 2, out);
    mq_pb_put_str(buf, 3, name);
    mq_pb_put_str(buf, 4, "Relu");
    mq_pb_end(buf, at);
}

static void value(mq_buf *buf, uint32_t field, const char *name)
{
    size_t at = mq_pb_begin(buf, field);
    mq_pb_put_str(buf, 1, name);
    size_t type = mq_pb_begin(buf, 2), tensor = mq_pb_begin(buf, 1);
    mq_pb_put_int(buf, 1, 1);
    mq_pb_end(buf, tensor);
    mq_pb_end(buf, type);
    mq_pb_end(buf, at);
}

static void cycle(mq_buf *buf)
{
    node(buf, "one", "b", "a");
    node(buf, "two", "a", "b");
}

static void twice(mq_buf *buf)
{
    value(buf, 11, "x");
    node(buf, "one", "x", "y");
    node(buf, "two", "x", "y");
}

static void nowhere(mq_buf *buf)
{
    node(buf, "lonely", "ghost", "y");
}

static void no_output(mq_buf *buf)
{
    value(buf, 11, "x");
    value(buf, 12, "never");
}

static void not_utf8(mq_buf *buf)
{
    node(buf, "bad\xff", "x", "y");
}

static void overlong_utf8(mq_buf *buf)
{
    node(buf, "\xc0\xaf", "x", "y");
}

static void wrong_wire(mq_buf *buf)
{
    mq_pb_put_int(buf, 1, 5); /* a node as a number */
}

static void external(mq_buf *buf)
{
    size_t at = mq_pb_begin(buf, 5);
    mq_pb_put_int(buf, 2, 1);
    mq_pb_put_str(buf, 8, "weights");
    mq_pb_put_int(buf, 14, 1);
    mq_pb_end(buf, at);
}

static void tensor_head(mq_buf *buf, int64_t dim, int64_t dtype)
{
    mq_pb_put_int(buf, 1, dim);
    mq_pb_put_int(buf, 2, dtype);
    mq_pb_put_str(buf, 8, "t");
}

static void short_tensor(mq_buf *buf)
{
    size_t at = mq_pb_begin(buf, 5);
    tensor_head(buf, 4, 1);
    mq_pb_put_bytes(buf, 9, mq_str("12345678"));
    mq_pb_end(buf, at);
}

static void huge_tensor(mq_buf *buf)
{
    size_t at = mq_pb_begin(buf, 5);
    for (int i = 0; i < 5; i++) {
        mq_pb_put_int(buf, 1, 0x7fffffff);
    }
    tensor_head(buf, 1, 11);
    mq_pb_end(buf, at);
}

static void rank_nine(mq_buf *buf)
{
    size_t at = mq_pb_begin(buf, 5);
    for (int i = 0; i < 9; i++) {
        mq_pb_put_int(buf, 1, 1);
    }
    mq_pb_end(buf, at);
}

static void broken_graphs_are_refused_by_name(void **state)
{
    (void)state;
    expect_graph(cycle, MQ_E_FORMAT, "cycle");
    expect_graph(twice, MQ_E_FORMAT, "'y' is made twice");
    expect_graph(nowhere, MQ_E_FORMAT, "'lonely' (Relu) reads 'ghost'");
    expect_graph(no_output, MQ_E_FORMAT, "'never'");
    expect_graph(not_utf8, MQ_E_FORMAT, "UTF-8");
    expect_graph(overlong_utf8, MQ_E_FORMAT, "UTF-8");
    expect_graph(wrong_wire, MQ_E_FORMAT, "wire type");
    expect_graph(external, MQ_E_UNSUPPORTED, "'weights'");
    expect_graph(short_tensor, MQ_E_FORMAT, "8 bytes where its shape needs 16");
    expect_graph(huge_tensor, MQ_E_FORMAT, "overflow");
    expect_graph(rank_nine, MQ_E_LIMIT, "rank above 8");
}

static void deep_graphs_are_refused(void **state)
{
    (void)state;
    mq_buf levels[2], *inner = &levels[0], *outer = &levels[1];
    mq_error err;
    mq_model *m;
    mq_buf_init(inner, (size_t)1 << 16);
    mq_buf_init(outer, (size_t)1 << 16);
    for (int depth = 1; depth <= 5; depth++) {
        mq_buf_reset(outer);
        mq_pb_put_int(outer, 1, 8);
        mq_pb_put_bytes(outer, 7, mq_buf_span(inner));
        mq_code code = mq_model_load(&m, mq_buf_span(outer), 0, &err);
        assert_int_equal(code, depth <= MQ_MODEL_DEPTH_MAX ? MQ_OK : MQ_E_LIMIT);
        if (code == MQ_OK) {
            mq_model_free(m);
        }
        mq_buf_reset(outer); /* the next graph has this one as an attribute of its only node */
        size_t n = mq_pb_begin(outer, 1);
        mq_pb_put_str(outer, 4, "If");
        size_t a = mq_pb_begin(outer, 5);
        mq_pb_put_str(outer, 1, "body");
        mq_pb_put_bytes(outer, 6, mq_buf_span(inner));
        mq_pb_put_int(outer, 20, MQ_ATTR_GRAPH);
        mq_pb_end(outer, a);
        mq_pb_end(outer, n);
        mq_buf *swap = inner;
        inner = outer;
        outer = swap;
    }
    mq_buf_release(inner);
    mq_buf_release(outer);
}

static void nodes_out_of_order_are_sorted(void **state)
{
    (void)state;
    mq_buf file;
    mq_error err;
    mq_model *m;
    mq_buf_init(&file, 4096);
    mq_pb_put_int(&file, 1, 8);
    size_t graph = mq_pb_begin(&file, 7);
    node(&file, "last", "b", "c");
    node(&file, "first", "x", "a");
    node(&file, "middle", "a", "b");
    value(&file, 11, "x");
    value(&file, 12, "c");
    mq_pb_end(&file, graph);
    assert_int_equal(mq_model_load(&m, mq_buf_span(&file), 0, &err), MQ_OK);
    assert_string_equal(m->graph.nodes[0].name, "first");
    assert_string_equal(m->graph.nodes[1].name, "middle");
    assert_string_equal(m->graph.nodes[2].name, "last");
    mq_model_free(m);
    mq_buf_release(&file);
}

static void varints_longer_than_64_bits_are_refused(void **state)
{
    (void)state;
    mq_error err;
    mq_model *m;
    const uint8_t overlong[] = {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02};
    assert_int_equal(mq_model_load(&m, mq_span_of(overlong, sizeof overlong), 0, &err),
                     MQ_E_FORMAT);
    assert_non_null(strstr(err.text, "offset 0"));
    const uint8_t group[] = {0x08, 0x08, 0x0b};
    assert_int_equal(mq_model_load(&m, mq_span_of(group, sizeof group), 0, &err), MQ_E_FORMAT);
    assert_int_equal(mq_model_load(&m, mq_span_of(NULL, 0), 0, &err), MQ_E_FORMAT);
    assert_non_null(strstr(err.text, "not an ONNX model"));
}

/* Loads a TensorProto with these dims and a typed list. */
static void typed(int64_t dtype, uint32_t field, mq_span packed, mq_code code, const void *expected,
                  size_t bytes)
{
    mq_buf buf;
    mq_arena arena;
    mq_init init;
    mq_error err = {.text = ""};
    mq_buf_init(&buf, 4096);
    mq_arena_init(&arena, 65536);
    tensor_head(&buf, 2, dtype);
    mq_pb_put_bytes(&buf, field, packed);
    mq_code got = mq_tensor_proto_load(&arena, mq_buf_span(&buf), &init, &err);
    if (got != code) {
        fail_msg("type %d: %s %s", (int)dtype, mq_code_name(got), err.text);
    }
    if (code == MQ_OK) {
        assert_int_equal(init.tensor.bytes, bytes);
        assert_memory_equal(init.tensor.data, expected, bytes);
    }
    mq_arena_release(&arena);
    mq_buf_release(&buf);
}

static void typed_lists_are_read(void **state)
{
    (void)state;
    const float f[2] = {1.5f, -2.0f};
    const double d[2] = {1.5, -2.0};
    const uint8_t small[2] = {1, 0};
    const int8_t signed8[2] = {-1, 2};
    const uint16_t half[2] = {0x3c00, 0xc000};
    const int64_t big[2] = {-1, 300};
    const uint32_t u32[2] = {0xffffffffu, 3};
    const mq_span minus_one_two = mq_str("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02");
    typed(1, 4, mq_span_of(f, sizeof f), MQ_OK, f, sizeof f);
    typed(11, 10, mq_span_of(d, sizeof d), MQ_OK, d, sizeof d);
    typed(9, 5, mq_span_of("\x01\x00", 2), MQ_OK, small, 2);
    typed(3, 5, minus_one_two, MQ_OK, signed8, 2);
    typed(10, 5, mq_str("\x80\x78\x80\x80\x03"), MQ_OK, half, 4);
    typed(7, 7, mq_str("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\xac\x02"), MQ_OK, big, 16);
    typed(12, 11, mq_str("\xff\xff\xff\xff\x0f\x03"), MQ_OK, u32, 8);
    typed(2, 5, minus_one_two, MQ_E_FORMAT, NULL, 0);             /* -1 is no uint8 */
    typed(1, 5, mq_span_of("\x01\x00", 2), MQ_E_FORMAT, NULL, 0); /* floats are not there */
    typed(1, 4, mq_span_of(f, 4), MQ_E_FORMAT, NULL, 0);          /* one of two */
    typed(1, 4, mq_span_of(f, 7), MQ_E_FORMAT, NULL, 0);          /* cut in a value */
    typed(14, 4, mq_span_of(f, 8), MQ_E_UNSUPPORTED, NULL, 0);    /* complex64 */
}

static void editing_changes_what_it_says(void **state)
{
    (void)state;
    mq_error err;
    mq_model *m = mlp_new(sizes, 3, 0, 5);
    mq_shape one = {1, {5}};
    float bias[5] = {1, 2, 3, 4, 5};
    size_t used = m->arena.used_bytes;
    for (int i = 0; i < 10000; i++) { /* equal sizes are overwritten in place */
        assert_int_equal(mq_model_set_init(m, "b0", MQ_DT_F32, &one, mq_span_of(bias, 20), &err),
                         MQ_OK);
    }
    assert_int_equal(m->arena.used_bytes, used);
    assert_memory_equal(mq_graph_init(&m->graph, "b0")->tensor.data, bias, 20);
    assert_int_equal(mq_model_set_init(m, "b0", MQ_DT_F32, &one, mq_span_of(bias, 16), &err),
                     MQ_E_FORMAT);
    assert_int_equal(mq_graph_use_count(&m->graph, "a0"), 1);
    assert_int_equal(mq_graph_producer(&m->graph, "a0"), 1);
    assert_string_equal(mq_model_unique_name(m, "w0"), "w0_1");
    mq_node_spec extra = {"Relu", NULL, "extra", MQ_NODE_ARGS("y"), MQ_NODE_ARGS("dead")};
    assert_int_equal(mq_model_add_node(m, 0, &extra, NULL, &err), MQ_OK);
    assert_int_equal(mq_model_verify(m, &err), MQ_OK); /* sorts it behind what makes y */
    assert_string_equal(m->graph.nodes[m->graph.node_count - 1].name, "extra");
    assert_int_equal(mq_model_remove_dead(m), 1);
    assert_int_equal(mq_model_replace_uses(m, "a0", "h0", &err), MQ_OK); /* skip the Relu */
    assert_int_equal(mq_model_remove_dead(m), 1);
    assert_int_equal(m->graph.node_count, 2);
    assert_int_equal(mq_model_verify(m, &err), MQ_OK);
    mq_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saved_and_loaded_is_the_same),
        cmocka_unit_test(every_truncation_is_an_error_or_a_smaller_model),
        cmocka_unit_test(flipped_bytes_never_crash),
        cmocka_unit_test(memory_stays_in_its_limit),
        cmocka_unit_test(broken_graphs_are_refused_by_name),
        cmocka_unit_test(deep_graphs_are_refused),
        cmocka_unit_test(nodes_out_of_order_are_sorted),
        cmocka_unit_test(varints_longer_than_64_bits_are_refused),
        cmocka_unit_test(typed_lists_are_read),
        cmocka_unit_test(editing_changes_what_it_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Architectures: texts become ONNX models whose weights follow from text and seed alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "worker/models/arch.h"
#include "worker/models/meta.h"

static mq_model *build(const char *arch, uint64_t seed)
{
    mq_model *model = NULL;
    mq_error err = {0};
    if (mq_arch_build(&model, arch, seed, &err) != MQ_OK) {
        fail_msg("%s: %s", arch, err.text);
    }
    return model;
}

static void an_mlp_has_its_layers_inputs_and_outputs(void **state)
{
    (void)state;
    mq_model *m = build("mlp:784-256-128-10", 1);
    size_t params, nonzero;
    mq_model_count(m, &params, &nonzero);
    assert_int_equal(params, 785 * 256 + 257 * 128 + 129 * 10);
    assert_true(nonzero > params - 2 * (256 + 128 + 10) && nonzero <= params - (256 + 128 + 10));
    assert_int_equal(m->graph.node_count, 5);
    assert_string_equal(m->graph.nodes[0].op_type, "Gemm");
    assert_string_equal(m->graph.nodes[1].op_type, "Relu");
    assert_int_equal(m->graph.input_count, 1);
    assert_string_equal(m->graph.inputs[0].name, "input");
    assert_int_equal(m->graph.inputs[0].dims[0], -1);
    assert_int_equal(m->graph.inputs[0].dims[1], 784);
    assert_string_equal(m->graph.outputs[0].name, "logits");
    assert_int_equal(m->graph.outputs[0].dims[1], 10);
    assert_string_equal(mq_model_metadata(m, "maasq.arch"), "mlp:784-256-128-10");
    assert_true(mq_model_opset(m, "") >= 13);
    mq_model_free(m);
}

static void every_row_of_the_table_builds_saves_and_loads(void **state)
{
    (void)state;
    static const char *const texts[] = {
#define MQ_ARCH(symbol, name, form, small, summary) name ":" small,
#include "worker/models/arch.def"
#undef MQ_ARCH
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        mq_model *m = build(texts[i], 7), *again = NULL;
        char one[MQ_SHA256_HEX], two[MQ_SHA256_HEX];
        mq_buf file;
        mq_buf_init(&file, 1 << 28);
        assert_int_equal(mq_model_save(m, &file, NULL), MQ_OK);
        assert_int_equal(mq_model_load(&again, mq_buf_span(&file), 0, NULL), MQ_OK);
        mq_model_weights_hash(m, one);
        mq_model_weights_hash(again, two);
        assert_string_equal(one, two);
        mq_model_free(m);
        mq_model_free(again);
        mq_buf_release(&file);
    }
}

static void equal_seeds_give_equal_weights_and_others_do_not(void **state)
{
    (void)state;
    char hash[3][MQ_SHA256_HEX];
    const uint64_t seeds[3] = {1, 1, 2};
    for (int i = 0; i < 3; i++) {
        mq_model *m = build("mlp:20-30-4", seeds[i]);
        mq_model_weights_hash(m, hash[i]);
        mq_model_free(m);
    }
    assert_string_equal(hash[0], hash[1]);
    assert_string_not_equal(hash[0], hash[2]);
}

static void a_wrong_text_is_refused_with_the_forms(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *words;
    } cases[] = {
        {"lstm:1", "\"lstm:1\" is not known; there are mlp:IN-HIDDEN-...-OUT logistic"},
        {"", "is not known"},
        {"mlp", "the sizes are missing; the form is mlp:IN-HIDDEN-...-OUT"},
        {"mlp:", "at \"\" expected a number in 1..1048576"},
        {"mlp:784", "at least an input and an output size"},
        {"mlp:784-", "at \"\" expected a number"},
        {"mlp:784-0-10", "at \"0-10\" expected a number"},
        {"mlp:784--10", "at \"-10\" expected a number"},
        {"mlp:784-x", "at \"x\" expected a number"},
        {"mlp:784-9999999999", "at \"9999999999\" expected a number in 1..1048576"},
        {"mlp:1048576-1048576", "parameters; the limit is 268435456"},
        {"logistic:3-4-5", "exactly two sizes are needed, not 3"},
        {"linear:3", "exactly two sizes are needed, not 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mq_model *model = NULL;
        mq_error err = {0};
        assert_int_equal(mq_arch_build(&model, cases[i].arch, 1, &err), MQ_E_ARG);
        assert_null(model);
        if (strstr(err.text, cases[i].words) == NULL) {
            fail_msg("%s: %s", cases[i].arch, err.text);
        }
    }
}

static void meta_says_what_a_version_is(void **state)
{
    (void)state;
    mq_model *m = build("logistic:3-2", 1);
    mq_model_meta meta;
    mq_buf out;
    mq_buf_init(&out, 1 << 16);
    mq_model_meta_init(&meta);
    meta.kind = "logistic:3-2";
    meta.pass = "new";
    meta.accuracy = 0.5;
    assert_int_equal(mq_model_meta_write(&meta, m, "abc", 12, "job1", &out, NULL), MQ_OK);
    mq_buf_add(&out, "", 1);
    const char *text = (const char *)out.data;
    assert_non_null(strstr(text, "{\"blob\":\"abc\",\"bytes\":12,\"params\":8,\"nonzero\":6,"));
    assert_non_null(strstr(text, "\"kind\":\"logistic:3-2\",\"parent\":null,\"pass\":\"new\""));
    assert_non_null(
        strstr(text, "\"metrics\":{\"accuracy\":0.5,\"loss\":null},\"latency_us\":null"));
    assert_non_null(
        strstr(text, "\"inputs\":[{\"name\":\"input\",\"dtype\":\"float32\",\"shape\":[-1,3]}]"));
    assert_non_null(strstr(text, "\"report\":null}"));
    mq_buf_release(&out);
    mq_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_mlp_has_its_layers_inputs_and_outputs),
        cmocka_unit_test(every_row_of_the_table_builds_saves_and_loads),
        cmocka_unit_test(equal_seeds_give_equal_weights_and_others_do_not),
        cmocka_unit_test(a_wrong_text_is_refused_with_the_forms),
        cmocka_unit_test(meta_says_what_a_version_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Fine-tuning: frozen tensors keep their bytes, the others move as ever; a head of another width.
 * Members are real processes. */
#include "tests/worker/train_fixture.h"

#include "worker/models/builder.h"
#include "worker/models/head.h"
#include "worker/models/meta.h"
#include "worker/train/net.h"

static mq_forked_outcome outcome;
static char body[1024];

static mq_code run(fixture *f, const char *fields, const char *blob, uint32_t members)
{
    mq_error err = {MQ_OK, ""};
    (void)snprintf(body, sizeof body,
                   "{\"model\":\"m\",\"data\":\"d\",\"batch\":64,\"epochs\":2,%s}", fields);
    mq_forked_job job = {.run = mq_kind_run_train,
                         .body = mq_str(body),
                         .model = "base@4",
                         .model_blob = blob,
                         .memory_bytes_max = (size_t)512 << 20};
    assert_int_equal(mq_forked_gang_start(f->gang, &job, members, &err), MQ_OK);
    if (mq_forked_gang_wait(f->gang, FX_TIMEOUT_MS, &outcome, &err) != MQ_OK) {
        fail_msg("%s", err.text);
    }
    return outcome.code;
}

static void trains(fixture *f, const char *fields, const char *blob, uint32_t members,
                   char weights[MQ_SHA256_HEX])
{
    if (run(f, fields, blob, members) != MQ_OK) {
        fail_msg("%s: %s", fields, outcome.error);
    }
    fx_field(outcome.result, "weights_hash", weights, MQ_SHA256_HEX);
}

static void refuses(fixture *f, const char *fields, const char *word)
{
    assert_int_not_equal(run(f, fields, f->model_blob, 1), MQ_OK);
    if (strstr(outcome.error, word) == NULL) {
        fail_msg("%s: no \"%s\" in: %s", fields, word, outcome.error);
    }
}

/* A stored model; the file must outlive it. */
static mq_model *open_model(const fixture *f, const char *blob, mq_map_file *file)
{
    char path[200];
    mq_model *model = NULL;
    mq_error err = {MQ_OK, ""};
    (void)snprintf(path, sizeof path, "%s/%s", f->dir, blob);
    if (mq_map_file_open(file, path, 1 << 24, &err) != MQ_OK ||
        mq_model_load(&model, file->bytes, 0, &err) != MQ_OK) {
        fail_msg("%s", err.text);
    }
    return model;
}

/* Is the tensor the same in both models? */
static bool is_equal(const mq_model *a, const mq_model *b, const char *name)
{
    const mq_init *x = mq_graph_init(&a->graph, name), *y = mq_graph_init(&b->graph, name);
    assert_non_null(x);
    assert_non_null(y);
    assert_int_equal(x->tensor.bytes, y->tensor.bytes);
    return memcmp(x->tensor.data, y->tensor.data, x->tensor.bytes) == 0;
}

static void frozen_tensors_keep_their_bytes_in_any_gang(void **state)
{
    static const char *const ways[] = {"\"mode\":\"gang\"", "\"mode\":\"gang\"",
                                       "\"run\":{\"transport\":\"message\"}"};
    fixture *f = *state;
    char first[MQ_SHA256_HEX] = "", weights[MQ_SHA256_HEX], blob[MQ_SHA256_HEX], fields[256];
    for (uint32_t i = 0; i < 3; i++) {
        (void)snprintf(fields, sizeof fields,
                       "\"freeze\":[\"fc1.*\",\"fc2.bias\"],\"optimizer\":\"adam\","
                       "\"weight_decay\":0.1,\"clip_norm\":1,%s",
                       ways[i]);
        trains(f, fields, f->model_blob, i + 1, weights);
        if (i == 0) {
            memcpy(first, weights, sizeof first);
        }
        assert_string_equal(first, weights);
    }
    mq_map_file before_file, after_file;
    fx_field(outcome.result, "blob", blob, sizeof blob);
    mq_model *before = open_model(f, f->model_blob, &before_file);
    mq_model *after = open_model(f, blob, &after_file);
    assert_true(is_equal(before, after, "fc1.weight"));
    assert_true(is_equal(before, after, "fc1.bias"));
    assert_true(is_equal(before, after, "fc2.bias"));
    assert_false(is_equal(before, after, "fc2.weight"));
    assert_false(is_equal(before, after, "fc3.weight"));
    mq_model_free(before);
    mq_model_free(after);
    mq_map_file_release(&before_file);
    mq_map_file_release(&after_file);
}

static void what_frozen_names_are_and_their_order_is_hashed_once(void **state)
{
    char a[MQ_SHA256_HEX], b[MQ_SHA256_HEX], none[MQ_SHA256_HEX];
    fixture *f = *state;
    assert_int_equal(run(f, "\"freeze\":[\"fc1.*\",\"fc2.*\"]", f->model_blob, 1), MQ_OK);
    fx_field(outcome.result, "manifest", a, sizeof a);
    assert_int_equal(run(f, "\"freeze\":[\"fc2.*\",\"fc1.*\",\"fc2.*\"]", f->model_blob, 1), MQ_OK);
    fx_field(outcome.result, "manifest", b, sizeof b);
    assert_int_equal(run(f, "\"lr\":0.1", f->model_blob, 1), MQ_OK);
    fx_field(outcome.result, "manifest", none, sizeof none);
    assert_string_equal(a, b);
    assert_string_not_equal(a, none);
}

static void patterns_that_fit_nothing_or_everything_are_refused(void **state)
{
    refuses(*state, "\"freeze\":[\"conv*\"]", "fc1.weight");
    refuses(*state, "\"freeze\":[\"*\"]", "every trainable tensor");
    refuses(*state, "\"freeze\":[\"fc1.weigh\"]", "fits no trainable tensor");
    refuses(*state, "\"freeze\":\"fc1\"", "freeze: must be a list");
    refuses(*state, "\"freeze\":[\"\"]", "freeze[0]");
    refuses(*state, "\"freeze\":[7]", "freeze[0]");
}

static void patterns_fit_whole_names(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *name;
        bool fits;
    } cases[] = {{"fc1.*", "fc1.weight", true},
                 {"fc1", "fc1.weight", false},
                 {"*", "", true},
                 {"*.bias", "a.b.bias", true},
                 {"a*b*c", "aXbYbZc", true},
                 {"a*b*c", "aXbYbZ", false},
                 {"fc?.w*", "fc2.weight", true},
                 {"?", "", false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mq_freeze f = {.count = 1};
        (void)snprintf(f.patterns[0], sizeof f.patterns[0], "%s", cases[i].pattern);
        assert_int_equal(mq_freeze_fits(&f, cases[i].name), cases[i].fits);
    }
    assert_false(mq_freeze_fits(NULL, "fc1.weight"));
}

/* Stores a net with BatchNorm. */
static void put_net(const fixture *f, char blob[MQ_SHA256_HEX])
{
    mq_error err = {MQ_OK, ""};
    mq_builder b = {.seed = 3, .err = &err};
    mq_buf bytes;
    mq_buf_init(&bytes, 1 << 20);
    assert_int_equal(mq_model_new(&b.model, "net", 0, &err), MQ_OK);
    mq_built x = mq_build_input(&b, 3, (const int64_t[]){1, 4, 5});
    x = mq_build_conv(&b, "conv", x, 1, 6, (mq_window){3, 1, 1}, false);
    x = mq_build_batch_norm(&b, "norm", x, 6);
    x = mq_build_one(&b, "Relu", "relu", x);
    x = mq_build_one(&b, "Flatten", "flatten", x);
    (void)mq_build_gemm(&b, "fc", x, 6 * 4 * 5, FX_CLASSES, MQ_FIRST_XAVIER);
    mq_build_output(&b, "logits", FX_CLASSES);
    assert_int_equal(b.code, MQ_OK);
    assert_int_equal(mq_model_save(b.model, &bytes, &err), MQ_OK);
    assert_int_equal(mq_forked_gang_put(f->gang, mq_buf_span(&bytes), blob, &err), MQ_OK);
    mq_buf_release(&bytes);
    mq_model_free(b.model);
}

static void a_frozen_normalization_keeps_its_moments(void **state)
{
    fixture *f = *state;
    char blob[MQ_SHA256_HEX], one[MQ_SHA256_HEX], two[MQ_SHA256_HEX], trained[MQ_SHA256_HEX];
    put_net(f, blob);
    trains(f, "\"freeze\":[\"conv*\",\"norm*\"],\"lr\":0.01", blob, 1, one);
    trains(f, "\"freeze\":[\"conv*\",\"norm*\"],\"lr\":0.01", blob, 2, two);
    assert_string_equal(one, two);
    fx_field(outcome.result, "blob", trained, sizeof trained);
    mq_map_file before_file, after_file;
    mq_model *before = open_model(f, blob, &before_file);
    mq_model *after = open_model(f, trained, &after_file);
    for (uint32_t i = 0; i < before->graph.initializer_count; i++) {
        const char *name = before->graph.initializers[i].name;
        bool stays = strncmp(name, "fc", 2) != 0;
        assert_int_equal(is_equal(before, after, name), stays);
    }
    mq_model_free(before);
    mq_model_free(after);
    mq_map_file_release(&before_file);
    mq_map_file_release(&after_file);
}

static void a_head_of_another_width_is_put_on_and_checked(void **state)
{
    fixture *f = *state;
    char wide[MQ_SHA256_HEX], fields[256], one[MQ_SHA256_HEX], two[MQ_SHA256_HEX];
    fx_model(f, "mlp:20-24-16-9", wide);
    (void)snprintf(fields, sizeof fields, "\"init\":{\"head\":4},\"freeze\":[\"fc1.*\",\"fc2.*\"]");
    trains(f, fields, wide, 1, one);
    assert_non_null(strstr(outcome.result, "\"parent\":\"base@4\""));
    assert_non_null(strstr(outcome.result, "\"shape\":[-1,4]"));
    trains(f, fields, wide, 3, two);
    assert_string_equal(one, two);
    refuses(f, "\"init\":{\"head\":3}", "4 classes; the model's output has only 3");
    refuses(f, "\"init\":{\"head\":0}", "head");
    refuses(f, "\"init\":{\"head\":4,\"arch\":\"mlp:20-4\"}", "init");
    refuses(f, "\"init\":{}", "init");
}

static void a_graph_without_such_a_layer_is_refused_by_its_operator(void **state)
{
    (void)state;
    mq_error err = {MQ_OK, ""};
    mq_builder b = {.seed = 3, .err = &err};
    assert_int_equal(mq_model_new(&b.model, "net", 0, &err), MQ_OK);
    mq_built x = mq_build_input(&b, 1, (const int64_t[]){4});
    x = mq_build_one(&b, "Relu", "relu", x);
    mq_build_output(&b, "y", 4);
    assert_int_equal(mq_model_replace_head(b.model, 3, 1, &err), MQ_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "Relu"));
    assert_int_equal(mq_model_replace_head(b.model, 0, 1, &err), MQ_E_ARG);
    mq_model_free(b.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frozen_tensors_keep_their_bytes_in_any_gang),
        cmocka_unit_test(what_frozen_names_are_and_their_order_is_hashed_once),
        cmocka_unit_test(patterns_that_fit_nothing_or_everything_are_refused),
        cmocka_unit_test(patterns_fit_whole_names),
        cmocka_unit_test(a_frozen_normalization_keeps_its_moments),
        cmocka_unit_test(a_head_of_another_width_is_put_on_and_checked),
        cmocka_unit_test(a_graph_without_such_a_layer_is_refused_by_its_operator),
    };
    return cmocka_run_group_tests(tests, fx_setup, fx_teardown);
}

/* What training refuses, and what it says; what it does with a run that somebody has finished. */
#include "tests/worker/train_fixture.h"

static mq_forked_outcome outcome;
static char body[1024];

static void run(fixture *f, const char *fields, uint32_t members)
{
    mq_error err = {MQ_OK, ""};
    (void)snprintf(body, sizeof body, "{\"model\":\"m\",%s}", fields);
    mq_forked_job job = {.run = mq_kind_run_train,
                         .body = mq_str(body),
                         .model = "base@4",
                         .model_blob = f->model_blob,
                         .memory_bytes_max = (size_t)512 << 20};
    assert_int_equal(mq_forked_gang_start(f->gang, &job, members, &err), MQ_OK);
    if (mq_forked_gang_wait(f->gang, FX_TIMEOUT_MS, &outcome, &err) != MQ_OK) {
        fail_msg("%s", err.text);
    }
}

static void refuses(fixture *f, const char *fields, mq_code code, const char *word)
{
    run(f, fields, 1);
    if (outcome.code != code || strstr(outcome.error, word) == NULL) {
        fail_msg("%s: %s, \"%s\" (no \"%s\")", fields, mq_code_name(outcome.code), outcome.error,
                 word);
    }
}

static void inputs_that_do_not_fit_are_refused_by_name(void **state)
{
    fixture *f = *state;
    char fields[256], wide[MQ_SHA256_HEX], narrow[MQ_SHA256_HEX];
    fx_model(f, "mlp:21-8-4", wide);
    fx_model(f, "mlp:20-8-3", narrow);
    fx_dataset(f, "few", 50, -1);
    fx_dataset(f, "wrong", 100, 42);
    refuses(f, "\"data\":\"nowhere@1\"", MQ_E_NOT_FOUND, "nowhere@1");
    refuses(f, "\"data\":\"d\",\"eval\":\"nothing\"", MQ_E_NOT_FOUND, "eval");
    refuses(f, "\"data\":\"few\"", MQ_E_ARG, "batch: 256 is more than the 50 rows");
    refuses(f, "\"data\":\"wrong\",\"batch\":64", MQ_E_CORRUPT, "row 42: label 77 is outside 0..3");
    refuses(f, "\"data\":\"d\",\"batch\":60", MQ_E_ARG, "batch");
    refuses(f, "\"data\":\"d\",\"init\":{\"arch\":\"mpl:3-4\"}", MQ_E_ARG, "init.arch");
    (void)snprintf(fields, sizeof fields, "\"data\":\"d\",\"init\":{\"blob\":\"%s\"}", wide);
    refuses(f, fields, MQ_E_ARG, "the model takes");
    (void)snprintf(fields, sizeof fields, "\"data\":\"d\",\"init\":{\"blob\":\"%s\"}", narrow);
    refuses(f, fields, MQ_E_ARG, "4 classes");
    memset(wide, 'a', MQ_SHA256_HEX - 1);
    (void)snprintf(fields, sizeof fields, "\"data\":\"d\",\"init\":{\"blob\":\"%s\"}", wide);
    refuses(f, fields, MQ_E_NOT_FOUND, "first model");
}

static void bytes_that_are_no_model_are_refused(void **state)
{
    fixture *f = *state;
    char fields[256], hash[MQ_SHA256_HEX];
    assert_int_equal(mq_forked_gang_put(f->gang, mq_str("no model at all"), hash, NULL), MQ_OK);
    (void)snprintf(fields, sizeof fields, "\"data\":\"d\",\"init\":{\"blob\":\"%s\"}", hash);
    run(f, fields, 1);
    assert_int_not_equal(outcome.code, MQ_OK);
    assert_non_null(strstr(outcome.error, "first model"));
}

static void a_run_that_diverges_names_its_step_in_every_gang(void **state)
{
    static const char *const modes[] = {"gang", "gang", "pipeline:2"};
    for (uint32_t i = 0; i < 3; i++) {
        char fields[256];
        (void)snprintf(fields, sizeof fields,
                       "\"data\":\"d\",\"batch\":64,\"lr\":100,\"weight_decay\":1,\"epochs\":50,"
                       "\"mode\":\"%s\"",
                       modes[i]);
        run(*state, fields, i == 0 ? 1 : 2);
        assert_int_equal(outcome.code, MQ_E_NUMERIC);
        assert_non_null(strstr(outcome.error, "step "));
        assert_non_null(strstr(outcome.error, "lr"));
    }
}

static void shared_memory_between_hosts_is_refused(void **state)
{
    fixture *f = *state;
    mq_error err = {MQ_OK, ""};
    mq_forked_job job = {.run = mq_kind_run_train,
                         .body = mq_str("{\"model\":\"m\",\"data\":\"d\",\"batch\":64,"
                                        "\"run\":{\"transport\":\"shm\"}}"),
                         .model = "base@4",
                         .model_blob = f->model_blob,
                         .is_spread = true};
    assert_int_equal(mq_forked_gang_start(f->gang, &job, 2, &err), MQ_OK);
    assert_int_equal(mq_forked_gang_wait(f->gang, FX_TIMEOUT_MS, &outcome, &err), MQ_OK);
    assert_int_equal(outcome.code, MQ_E_ARG);
    assert_non_null(strstr(outcome.error, "transport"));
}

static void more_stages_than_cuts_are_refused(void **state)
{
    run(*state, "\"data\":\"d\",\"batch\":64,\"mode\":\"pipeline:12\"", 12);
    assert_int_not_equal(outcome.code, MQ_OK);
    assert_non_null(strstr(outcome.error, "stage"));
}

static void a_model_goes_on_from_the_jobs_model_and_names_it_as_parent(void **state)
{
    run(*state, "\"data\":\"d\",\"batch\":64,\"epochs\":1", 1);
    assert_int_equal(outcome.code, MQ_OK);
    assert_non_null(strstr(outcome.result, "\"parent\":\"base@4\""));
    assert_non_null(strstr(outcome.result, "\"dataset\":\"d@1\""));
    assert_non_null(strstr(outcome.result, "\"pass\":\"train\""));
}

/* A finished run's memo becomes an answer of the registry, as the broker would keep it. */
static void remember(fixture *f, char *weights, size_t size)
{
    char hash[MQ_SHA256_HEX];
    static char answer[MQ_FORKED_TEXT_MAX + 200];
    char *memo = strstr(outcome.published, "\nmemo ");
    assert_non_null(memo);
    memo += strlen("\nmemo ");
    (void)mq_span_copy(mq_span_of(memo, MQ_SHA256_HEX - 1), hash, sizeof hash);
    char *meta = memo + MQ_SHA256_HEX;
    (void)snprintf(answer, sizeof answer, "{\"name\":\"%s\",\"version\":1,\"meta\":%.*s}", hash,
                   (int)strcspn(meta, "\n"), meta);
    mq_forked_gang_answer(f->gang, "memo", hash, answer);
    fx_field(outcome.result, "weights_hash", weights, size);
}

static void an_equal_run_is_not_done_twice_unless_asked_for(void **state)
{
    fixture *f = *state;
    char first[MQ_SHA256_HEX], second[MQ_SHA256_HEX];
    static const char fields[] = "\"data\":\"d\",\"batch\":64,\"epochs\":2,\"seed\":99";
    run(f, fields, 2);
    assert_int_equal(outcome.code, MQ_OK);
    assert_non_null(strstr(outcome.result, "\"reused\":false"));
    assert_non_null(strstr(outcome.result, "\"steps_run\":20"));
    remember(f, first, sizeof first);
    run(f, fields, 2);
    assert_int_equal(outcome.code, MQ_OK);
    assert_non_null(strstr(outcome.result, "\"reused\":true"));
    assert_non_null(strstr(outcome.published, "model m "));
    fx_field(outcome.result, "weights_hash", second, sizeof second);
    assert_string_equal(first, second);
    run(f, "\"data\":\"d\",\"batch\":64,\"epochs\":2,\"seed\":99,\"run\":{\"reuse\":false}", 1);
    assert_int_equal(outcome.code, MQ_OK);
    assert_non_null(strstr(outcome.result, "\"reused\":false"));
    fx_field(outcome.result, "weights_hash", second, sizeof second);
    assert_string_equal(first, second);
}

static void a_memory_limit_that_is_too_small_is_named(void **state)
{
    fixture *f = *state;
    mq_error err = {MQ_OK, ""};
    mq_forked_job job = {.run = mq_kind_run_train,
                         .body = mq_str("{\"model\":\"m\",\"data\":\"d\",\"batch\":64}"),
                         .model_blob = f->model_blob,
                         .memory_bytes_max = 40000};
    assert_int_equal(mq_forked_gang_start(f->gang, &job, 1, &err), MQ_OK);
    assert_int_equal(mq_forked_gang_wait(f->gang, FX_TIMEOUT_MS, &outcome, &err), MQ_OK);
    assert_int_equal(outcome.code, MQ_E_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inputs_that_do_not_fit_are_refused_by_name),
        cmocka_unit_test(bytes_that_are_no_model_are_refused),
        cmocka_unit_test(a_run_that_diverges_names_its_step_in_every_gang),
        cmocka_unit_test(shared_memory_between_hosts_is_refused),
        cmocka_unit_test(more_stages_than_cuts_are_refused),
        cmocka_unit_test(a_model_goes_on_from_the_jobs_model_and_names_it_as_parent),
        cmocka_unit_test(an_equal_run_is_not_done_twice_unless_asked_for),
        cmocka_unit_test(a_memory_limit_that_is_too_small_is_named),
    };
    return cmocka_run_group_tests(tests, fx_setup, fx_teardown);
}

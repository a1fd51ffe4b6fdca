/* More epochs go on from a finished run's state, to the bits of all epochs at once. Members are
 * real processes. */
#include "tests/worker/train_fixture.h"

static mq_forked_outcome outcome;

typedef struct proof {
    char weights[MQ_SHA256_HEX], chain[MQ_SHA256_HEX];
} proof;

static void run(fixture *f, const char *fields, uint32_t epochs, uint32_t members, bool is_new,
                proof *out)
{
    mq_error err = {MQ_OK, ""};
    char body[512];
    (void)snprintf(body, sizeof body,
                   "{\"model\":\"m\",\"data\":\"d\",\"batch\":64,\"optimizer\":\"adam\","
                   "\"epochs\":%u,\"run\":{\"commit_ms\":10,\"reuse\":%s},%s}",
                   epochs, is_new ? "false" : "true", fields);
    mq_forked_job job = {.run = mq_kind_run_train,
                         .body = mq_str(body),
                         .model_blob = f->model_blob,
                         .memory_bytes_max = (size_t)512 << 20};
    assert_int_equal(mq_forked_gang_start(f->gang, &job, members, &err), MQ_OK);
    assert_int_equal(mq_forked_gang_wait(f->gang, FX_TIMEOUT_MS, &outcome, &err), MQ_OK);
    if (outcome.code != MQ_OK) {
        fail_msg("%s: %s", fields, outcome.error);
    }
    fx_field(outcome.result, "weights_hash", out->weights, sizeof out->weights);
    fx_field(outcome.result, "chain", out->chain, sizeof out->chain);
}

/* The state that the last run published becomes an answer of the registry. */
static void remember(fixture *f)
{
    char key[MQ_SHA256_HEX + 8], answer[600];
    const char *memo = strstr(outcome.published, "\nmemo state.");
    assert_non_null(memo);
    memo += strlen("\nmemo ");
    (void)mq_span_copy(mq_span_of(memo, strlen("state.") + MQ_SHA256_HEX - 1), key, sizeof key);
    const char *meta = memo + strlen(key) + 1;
    (void)snprintf(answer, sizeof answer, "{\"name\":\"%s\",\"version\":1,\"meta\":%.*s}", key,
                   (int)strcspn(meta, "\n"), meta);
    mq_forked_gang_answer(f->gang, "memo", key, answer);
}

static void same(const proof *a, const proof *b)
{
    assert_string_equal(a->weights, b->weights);
    assert_string_equal(a->chain, b->chain);
}

static void goes_on(fixture *f, const char *fields)
{
    proof few, all, more;
    run(f, fields, 3, 2, false, &few);
    remember(f);
    run(f, fields, 7, 1, true, &all);
    assert_non_null(strstr(outcome.result, "\"continued_from\":0"));
    run(f, fields, 7, 3, false, &more);
    assert_null(strstr(outcome.result, "\"continued_from\":0"));
    same(&all, &more);
    assert_string_not_equal(few.weights, more.weights);
    remember(f);
    run(f, fields, 3, 1, false, &more); /* the state is past its end: it begins anew */
    assert_non_null(strstr(outcome.result, "\"continued_from\":0"));
    same(&few, &more);
    assert_null(strstr(outcome.published, "memo state."));
}

static void more_epochs_give_the_bits_of_all_at_once(void **state)
{
    goes_on(*state, "\"schedule\":\"constant\"");
    goes_on(*state, "\"schedule\":\"step\",\"step_epochs\":2,\"gamma\":0.5,\"warmup_steps\":7");
    goes_on(*state, "\"schedule\":\"constant\",\"validation\":0.5,\"lr\":0.001");
}

static void a_schedule_that_knows_the_end_begins_anew(void **state)
{
    proof few, more;
    run(*state, "\"schedule\":\"cosine\"", 2, 1, false, &few);
    assert_null(strstr(outcome.published, "memo state."));
    run(*state, "\"schedule\":\"cosine\"", 4, 1, false, &more);
    assert_non_null(strstr(outcome.result, "\"continued_from\":0"));
}

static void a_run_that_was_stopped_early_ends_where_it_did(void **state)
{
    static const char fields[] = "\"schedule\":\"constant\",\"validation\":0.5,\"lr\":0.05,"
                                 "\"patience\":2";
    proof few, more;
    run(*state, fields, 60, 1, false, &few);
    assert_non_null(strstr(outcome.result, "\"stopped\":true"));
    remember(*state);
    run(*state, fields, 80, 2, false, &more);
    same(&few, &more);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_epochs_give_the_bits_of_all_at_once),
        cmocka_unit_test(a_schedule_that_knows_the_end_begins_anew),
        cmocka_unit_test(a_run_that_was_stopped_early_ends_where_it_did),
    };
    return cmocka_run_group_tests(tests, fx_setup, fx_teardown);
}

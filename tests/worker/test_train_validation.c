/* Validation: rows held out, the best epoch published, training stopped early; the same bits
 * however the work is shared. Members are real processes. */
#include "tests/worker/train_fixture.h"

#include "worker/train/manifest.h"
#include "worker/train/state.h"

static mq_forked_outcome outcome;
static char body[1024];

typedef struct way {
    uint32_t members;
    const char *mode, *transport;
    uint64_t kill_at; /* of seat 1 */
} way;

static const way alone = {1, "gang", "auto", 0};

static mq_code run(fixture *f, const char *fields, const way *w)
{
    mq_error err = {MQ_OK, ""};
    (void)snprintf(body, sizeof body,
                   "{\"model\":\"m\",\"data\":\"d\",\"batch\":64,\"mode\":\"%s\",\"run\":{"
                   "\"commit_ms\":10,\"progress_ms\":0,\"reuse\":false,\"transport\":\"%s\"},%s}",
                   w->mode, w->transport, fields);
    mq_forked_job job = {.run = mq_kind_run_train,
                         .body = mq_str(body),
                         .model_blob = f->model_blob,
                         .is_spread = strcmp(w->transport, "message") == 0,
                         .memory_bytes_max = (size_t)512 << 20};
    mq_forked_gang_kill_at(f->gang, 1, w->kill_at);
    assert_int_equal(mq_forked_gang_start(f->gang, &job, w->members, &err), MQ_OK);
    if (mq_forked_gang_wait(f->gang, FX_TIMEOUT_MS, &outcome, &err) != MQ_OK) {
        fail_msg("%s", err.text);
    }
    return outcome.code;
}

static void trains(fixture *f, const char *fields, const way *w, char weights[MQ_SHA256_HEX])
{
    if (run(f, fields, w) != MQ_OK) {
        fail_msg("%s: %s", fields, outcome.error);
    }
    fx_field(outcome.result, "weights_hash", weights, MQ_SHA256_HEX);
}

static double number(const char *field)
{
    char key[64];
    (void)snprintf(key, sizeof key, "\"%s\":", field);
    const char *at = strstr(outcome.result, key);
    if (at == NULL) {
        fail_msg("no %s in %s", field, outcome.result);
        return 0;
    }
    return strtod(at + strlen(key), NULL);
}

/* Learns fast and then gets worse: half of the rows are soon known by heart. */
static const char overfits[] = "\"validation\":0.5,\"optimizer\":\"adam\",\"lr\":0.05,"
                               "\"schedule\":\"constant\"";

static void early_stopping_gives_one_hash_however_the_work_is_shared(void **state)
{
    static const way ways[] = {{2, "gang", "shm", 20},
                               {3, "gang", "message", 0},
                               {2, "pipeline:2", "auto", 0},
                               {3, "pipeline:3", "auto", 40}};
    char want[MQ_SHA256_HEX], got[MQ_SHA256_HEX], fields[512];
    (void)snprintf(fields, sizeof fields, "%s,\"epochs\":60,\"patience\":3", overfits);
    trains(*state, fields, &alone, want);
    double steps = number("steps_run"), best = number("best_step");
    assert_non_null(strstr(outcome.result, "\"stopped\":true"));
    assert_true(steps < 60 * 5);
    assert_true(steps == best + 3 * 5);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        trains(*state, fields, &ways[i], got);
        assert_string_equal(want, got);
        assert_true(number("steps_run") == steps && number("best_step") == best);
    }
}

static void the_best_epoch_is_published_unless_the_last_is_asked_for(void **state)
{
    char best[MQ_SHA256_HEX], last[MQ_SHA256_HEX], only[MQ_SHA256_HEX], fields[512];
    (void)snprintf(fields, sizeof fields, "%s,\"epochs\":40", overfits);
    trains(*state, fields, &alone, best);
    uint64_t best_step = (uint64_t)number("best_step");
    assert_true(best_step > 0 && best_step < 200 && best_step % 5 == 0);
    assert_non_null(strstr(outcome.result, "\"published\":\"best\""));
    (void)snprintf(fields, sizeof fields, "%s,\"epochs\":40,\"last\":true", overfits);
    trains(*state, fields, &alone, last);
    assert_string_not_equal(best, last);
    /* The best epoch's weights are those of a run that ends there. */
    (void)snprintf(fields, sizeof fields, "%s,\"epochs\":%llu,\"last\":true", overfits,
                   (unsigned long long)best_step / 5);
    trains(*state, fields, &alone, only);
    assert_string_equal(best, only);
}

static void a_dataset_may_be_what_validation_scores(void **state)
{
    char one[MQ_SHA256_HEX], two[MQ_SHA256_HEX];
    static const way pair = {2, "gang", "shm", 0};
    fx_dataset(*state, "v", 101, -1); /* not a whole number of shards */
    static const char fields[] = "\"validation\":\"v\",\"patience\":2,\"epochs\":6,\"lr\":0.1";
    trains(*state, fields, &alone, one);
    assert_true(number("best_step") > 0);
    trains(*state, fields, &pair, two);
    assert_string_equal(one, two);
}

static void refuses(fixture *f, const char *fields, const char *word)
{
    assert_int_not_equal(run(f, fields, &alone), MQ_OK);
    if (strstr(outcome.error, word) == NULL) {
        fail_msg("%s: no \"%s\" in: %s", fields, word, outcome.error);
    }
}

static void wrong_fields_are_refused_by_name(void **state)
{
    fx_dataset(*state, "few", 100, -1);
    refuses(*state, "\"validation\":0.7", "validation: must be a share");
    refuses(*state, "\"validation\":0", "validation: must be a share");
    refuses(*state, "\"validation\":\"nowhere\"", "validation");
    refuses(*state, "\"patience\":3", "patience: needs validation");
    refuses(*state, "\"last\":true", "last: needs validation");
    refuses(*state, "\"validation\":0.1,\"patience\":0", "patience");
    refuses(*state, "\"validation\":0.1,\"min_delta\":-1", "min_delta");
}

/* Held out or trained on, each row once; another seed splits otherwise. */
static void a_split_is_a_function_of_seed_and_rows(void **state)
{
    (void)state;
    mq_validation v = {.share = 0.1};
    assert_int_equal(mq_validation_held(&v, 640), 64);
    assert_int_equal(mq_validation_held(&v, 5), 1);
    mq_validation none = {0};
    assert_int_equal(mq_validation_held(&none, 640), 0);
    mq_validated seen = {0};
    v.patience = 2;
    v.min_delta = 0.1;
    assert_true(mq_validated_take(&seen, &v, 10, 1.0, 0.5));
    assert_true(mq_validated_take(&seen, &v, 20, 0.95, 0.6)); /* best, yet not by enough */
    assert_int_equal(seen.waited, 1);
    assert_int_equal(seen.is_stopped, 0);
    assert_false(mq_validated_take(&seen, &v, 30, 0.96, 0.6));
    assert_int_equal(seen.is_stopped, 1);
    assert_int_equal(seen.best_step, 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(early_stopping_gives_one_hash_however_the_work_is_shared),
        cmocka_unit_test(the_best_epoch_is_published_unless_the_last_is_asked_for),
        cmocka_unit_test(a_dataset_may_be_what_validation_scores),
        cmocka_unit_test(wrong_fields_are_refused_by_name),
        cmocka_unit_test(a_split_is_a_function_of_seed_and_rows),
    };
    return cmocka_run_group_tests(tests, fx_setup, fx_teardown);
}

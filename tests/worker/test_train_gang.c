/* The promise of training: the same manifest gives the same bits, on any number of members, by any
 * transport, whoever is killed or joins on the way. Members are real processes. */
#include "tests/worker/train_fixture.h"

#include "shared/base/clock.h"

static const char manifest[] =
    "{\"model\":\"m\",\"data\":\"d\",\"init\":{\"arch\":\"mlp:20-24-16-4\"},\"epochs\":%u,"
    "\"batch\":64,\"shards\":8,\"lr\":0.05,\"mode\":\"%s\","
    "\"run\":{\"commit_ms\":10,\"progress_ms\":0,\"transport\":\"%s\"}}";

typedef struct trial {
    uint32_t members, epochs;
    const char *mode, *transport;
    bool keep_checkpoint;
} trial;

static char body[1024];
static mq_forked_outcome outcome;

static void start(fixture *f, const trial *t)
{
    mq_error err = {MQ_OK, ""};
    (void)snprintf(body, sizeof body, manifest, t->epochs, t->mode, t->transport);
    mq_forked_job job = {
        .run = mq_kind_run_train,
        .body = mq_str(body),
        .is_spread = strcmp(t->transport, "message") == 0,
        .keep_checkpoint = t->keep_checkpoint,
        .memory_bytes_max = (size_t)512 << 20,
    };
    assert_int_equal(mq_forked_gang_start(f->gang, &job, t->members, &err), MQ_OK);
}

/* Weights hash and chain of the published model. */
typedef struct proof {
    char weights[MQ_SHA256_HEX], chain[MQ_SHA256_HEX], manifest[MQ_SHA256_HEX];
} proof;

static void finish(fixture *f, proof *out)
{
    mq_error err = {MQ_OK, ""};
    mq_code code = mq_forked_gang_wait(f->gang, FX_TIMEOUT_MS, &outcome, &err);
    if (code != MQ_OK || outcome.code != MQ_OK) {
        fail_msg("%s %s (%u deaths, %u epochs)", err.text, outcome.error, outcome.deaths,
                 outcome.epochs);
    }
    fx_field(outcome.result, "weights_hash", out->weights, sizeof out->weights);
    fx_field(outcome.result, "chain", out->chain, sizeof out->chain);
    fx_field(outcome.result, "manifest", out->manifest, sizeof out->manifest);
    assert_non_null(strstr(outcome.published, "model m {"));
    assert_non_null(strstr(outcome.published, "memo "));
}

static void same(const proof *a, const proof *b)
{
    assert_string_equal(a->manifest, b->manifest);
    assert_string_equal(a->weights, b->weights);
    assert_string_equal(a->chain, b->chain);
}

static const trial alone = {1, 3, "gang", "auto", false};

static const proof *expected(fixture *f)
{
    static proof p;
    if (p.weights[0] == '\0') {
        start(f, &alone);
        finish(f, &p);
    }
    return &p;
}

static void any_number_of_members_and_any_transport_gives_one_hash(void **state)
{
    static const uint32_t members[] = {1, 2, 3, 5, 8, 9};
    static const char *const transports[] = {"shm", "message"};
    for (size_t w = 0; w < 6; w++) {
        for (size_t i = 0; i < 2; i++) {
            proof p;
            trial t = {members[w], 3, "gang", transports[i], false};
            start(*state, &t);
            finish(*state, &p);
            same(&p, expected(*state));
        }
    }
}

static void training_learns(void **state)
{
    proof p;
    trial t = {2, 40, "gang", "auto", false};
    start(*state, &t);
    finish(*state, &p);
    const char *at = strstr(outcome.result, "\"train_accuracy\":");
    assert_non_null(at);
    assert_true(strtod(at + strlen("\"train_accuracy\":"), NULL) > 0.9);
    assert_non_null(strstr(outcome.result, "\"steps_run\":400"));
    assert_non_null(strstr(outcome.result, "\"workers_seen\":2"));
    assert_non_null(strstr(outcome.progress, "\"step\":400,\"steps\":400"));
    assert_non_null(strstr(outcome.progress, "\"curve\":[{"));
    assert_true(outcome.checkpoint_step == 400);
}

/* Kills at moments drawn from all host calls of a run, one or two members of three. */
static void kills(fixture *f, const char *mode, const char *transport, uint32_t rounds,
                  uint64_t seed)
{
    mq_prng prng = {seed};
    proof p;
    trial t = {3, 3, mode, transport, false};
    uint32_t deaths = 0;
    uint64_t calls[3];
    start(f, &t);
    finish(f, &p);
    memcpy(calls, outcome.calls, sizeof calls);
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t first = (uint32_t)mq_prng_below(&prng, 3), second = (first + 1) % 3;
        mq_forked_gang_kill_at(f->gang, first, 1 + mq_prng_below(&prng, calls[first] * 3 / 4));
        if (round % 2 == 1) {
            mq_forked_gang_kill_at(f->gang, second, 1 + mq_prng_below(&prng, calls[second]));
        }
        start(f, &t);
        finish(f, &p);
        same(&p, expected(f));
        deaths += outcome.deaths;
    }
    print_message("%u deaths in %u runs (%s, %s)\n", deaths, rounds, mode, transport);
    assert_true(deaths >= rounds / 2);
}

static void killed_members_change_nothing_by_shared_memory(void **state)
{
    kills(*state, "gang", "shm", 24, 1);
}

static void killed_members_change_nothing_by_messages(void **state)
{
    kills(*state, "gang", "message", 24, 2);
}

static void members_may_join_in_the_middle(void **state)
{
    fixture *f = *state;
    static const char *const transports[] = {"shm", "message"};
    for (size_t i = 0; i < 2; i++) {
        proof p, q;
        trial t = {1, 60, "gang", transports[i], false};
        start(f, &t);
        finish(f, &q);
        start(f, &t);
        for (uint32_t joins = 0; joins < 3; joins++) {
            int64_t until_ms = mq_clock_mono_ms() + FX_TIMEOUT_MS;
            while (mq_forked_gang_calls(f->gang, joins) < 100 && mq_clock_mono_ms() < until_ms) {
                (void)mq_forked_gang_turn(f->gang);
            }
            assert_int_equal(mq_forked_gang_join(f->gang, NULL), MQ_OK);
        }
        finish(f, &p);
        same(&p, &q);
        assert_true(outcome.epochs >= 4);
    }
}

static void a_run_whose_members_all_died_goes_on_from_its_checkpoint(void **state)
{
    fixture *f = *state;
    for (uint64_t call = 150; call < 400; call += 60) {
        proof p;
        trial t = {2, 3, "gang", "auto", false};
        mq_forked_gang_kill_at(f->gang, 0, call);
        mq_forked_gang_kill_at(f->gang, 1, call);
        start(f, &t);
        assert_int_equal(mq_forked_gang_wait(f->gang, FX_TIMEOUT_MS, &outcome, NULL), MQ_OK);
        if (outcome.code == MQ_OK) {
            continue; /* done before the moment came */
        }
        assert_int_equal(outcome.deaths, 2);
        t.keep_checkpoint = true;
        start(f, &t);
        finish(f, &p);
        same(&p, expected(f));
    }
}

static void a_pipeline_of_any_depth_gives_the_hash_of_a_gang(void **state)
{
    static const char *const modes[] = {"pipeline:1", "pipeline:2", "pipeline:3", "pipeline:2"};
    static const uint32_t members[] = {1, 2, 3, 3};
    static const char *const transports[] = {"auto", "message"};
    for (size_t i = 0; i < 8; i++) {
        proof p;
        trial t = {members[i % 4], 3, modes[i % 4], transports[i / 4], false};
        start(*state, &t);
        finish(*state, &p);
        same(&p, expected(*state));
    }
}

static void killed_stages_change_nothing(void **state)
{
    kills(*state, "pipeline:3", "auto", 12, 3);
}

static void a_hung_member_is_reported_and_replaced(void **state)
{
    fixture *f = *state;
    proof p, q;
    trial t = {2, 200, "gang", "auto", false};
    start(f, &t);
    finish(f, &q);
    start(f, &t);
    int64_t until_ms = mq_clock_mono_ms() + FX_TIMEOUT_MS;
    while (mq_forked_gang_calls(f->gang, 1) < 100 && mq_clock_mono_ms() < until_ms) {
        (void)mq_forked_gang_turn(f->gang);
    }
    mq_forked_gang_stop(f->gang, 1);
    finish(f, &p);
    same(&p, &q);
    assert_int_equal(outcome.deaths, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_members_and_any_transport_gives_one_hash),
        cmocka_unit_test(training_learns),
        cmocka_unit_test(killed_members_change_nothing_by_shared_memory),
        cmocka_unit_test(killed_members_change_nothing_by_messages),
        cmocka_unit_test(members_may_join_in_the_middle),
        cmocka_unit_test(a_run_whose_members_all_died_goes_on_from_its_checkpoint),
        cmocka_unit_test(a_pipeline_of_any_depth_gives_the_hash_of_a_gang),
        cmocka_unit_test(killed_stages_change_nothing),
        cmocka_unit_test(a_hung_member_is_reported_and_replaced),
    };
    return cmocka_run_group_tests(tests, fx_setup, fx_teardown);
}

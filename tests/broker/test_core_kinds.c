/* Kinds that no table has: their policy is what workers announce, else the default. */
#include "shared/job/kinds.h"
#include "tests/support/core_world.h"

static world w;

static void announce(uint32_t worker, const mq_msg_kind_limit *limits, uint32_t count)
{
    mq_span kinds[] = {mq_str("my.kind"), mq_str("echo")};
    mq_msg_kind_limit copy[2];
    for (uint32_t i = 0; i < count; i++) {
        copy[i] = limits[i];
    }
    mq_msg_ready m = {.worker = mq_str(w_uuid(worker)),
                      .slots = 4,
                      .kinds = kinds,
                      .kinds_count = 2,
                      .limits = copy,
                      .limits_count = count};
    mq_input in = {.type = MQ_IN_READY, .conn = 100 + worker, .as.ready = &m};
    w_step(&w, &in);
    w_credit(&w, worker, 1, 4, 0);
    w_turn(&w);
}

/* What the job was given when it does not say anything itself. */
static mq_job_record view_of(const char *id)
{
    static mq_job_record view;
    w_turn(&w);
    assert_true(mq_core_record(w.core, mq_core_find(w.core, mq_str(id)), &view));
    return view;
}

static void a_kind_that_nobody_serves_is_taken_and_waits(void **state)
{
    (void)state;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, id, "my.kind", "x");
    mq_job_record view = view_of(id);
    assert_int_equal(view.max_run_ms, mq_kind_policy_of(mq_str("my.kind"))->max_run_ms);
    assert_int_equal(view.attempts_max, 5);
    assert_string_equal(w_state(&w, id), "queued");
    announce(1, NULL, 0);
    w_expect(&w, MQ_OUT_JOB, id);
    w_close(&w);
}

static void what_a_worker_announces_holds_for_jobs_that_do_not_say(void **state)
{
    (void)state;
    char id[MQ_ULID_SIZE], other[MQ_ULID_SIZE];
    static const mq_msg_kind_limit limits[] = {
        {.kind = {(const uint8_t *)"my.kind", 7},
         .max_run_ms = 777,
         .attempts_max = 2,
         .body_bytes_max = 8},
        {.kind = {(const uint8_t *)"echo", 4}, .max_run_ms = 777, .attempts_max = 2}};
    w_open(&w);
    announce(1, limits, 2);
    w_credit(&w, 1, 2, 0, 0);
    w_submit(&w, id, "my.kind", "12345678");
    assert_int_equal(view_of(id).max_run_ms, 777);
    assert_int_equal(view_of(id).attempts_max, 2);
    w_id(&w, other);
    mq_msg_submit_job item = {
        .id = mq_str(other), .kind = mq_str("my.kind"), .max_run_ms = 5000, .attempts_max = 9};
    w_submit_item(&w, 1, 1, &item, "x");
    assert_int_equal(view_of(other).max_run_ms, 5000);
    assert_int_equal(view_of(other).attempts_max, 9);
    w_submit(&w, id, "my.kind", "123456789");
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id)->verdict, "limit");
    w_submit(&w, id, "echo", "built-in kinds are not changed");
    assert_int_equal(view_of(id).attempts_max, mq_kind_policy_of(mq_str("echo"))->attempts_max);
    w_close(&w);
}

static void nonsense_and_too_many_kinds_do_no_harm(void **state)
{
    (void)state;
    char id[MQ_ULID_SIZE], name[32];
    w_open(&w);
    mq_msg_kind_limit wild = {.kind = mq_str("my.kind"),
                              .max_run_ms = UINT64_MAX,
                              .attempts_max = UINT64_MAX,
                              .body_bytes_max = UINT64_MAX};
    announce(1, &wild, 1);
    w_credit(&w, 1, 2, 0, 0);
    w_submit(&w, id, "my.kind", "x");
    assert_int_equal(view_of(id).attempts_max, 1000);
    assert_int_equal(view_of(id).max_run_ms, 604800000);
    mq_msg_kind_limit blank = {.kind = mq_str("a b"), .attempts_max = 3};
    announce(1, &blank, 1);
    for (uint32_t i = 0; i < 300; i++) {
        (void)snprintf(name, sizeof name, "kind.%u", i);
        mq_msg_kind_limit many = {.kind = mq_str(name), .attempts_max = i + 1};
        announce(1, &many, 1);
        w_credit(&w, 1, i + 3, 0, 0);
    }
    w_submit(&w, id, "kind.299", "x");
    assert_int_equal(view_of(id).attempts_max, 300);
    w_submit(&w, id, "kind.0", "x"); /* gave way */
    assert_int_equal(view_of(id).attempts_max, 5);
    w_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kind_that_nobody_serves_is_taken_and_waits),
        cmocka_unit_test(what_a_worker_announces_holds_for_jobs_that_do_not_say),
        cmocka_unit_test(nonsense_and_too_many_kinds_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

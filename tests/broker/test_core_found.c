/* What the simulator has found (tests/sim), each as the shortest story that shows it. */
#include "tests/support/core_world.h"

static void a_repeated_failure_of_a_transient_job_is_a_dup_at_once(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "infer", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_result(&w, 1, &job, "crash", NULL);
    w_forget(&w);
    w_result(&w, 1, &job, "crash", NULL);
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "dup");
    w_credit(&w, 1, 2, 1, 1);
    w_turn(&w);
    w_result(&w, 1, w_expect(&w, MQ_OUT_JOB, id), "ok", "y");
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "succeeded");
    w_close(&w);
}

static void a_drain_that_was_lost_is_said_again_at_each_beat(void **unused)
{
    (void)unused;
    world w;
    mq_span args[] = {mq_str(w_uuid(1))};
    mq_msg_command m = {.verb = mq_str("drain"), .args = args, .args_count = 1};
    mq_input in = {.type = MQ_IN_COMMAND, .conn = 1, .rid = 4, .as.command = &m};
    w_open(&w);
    w_worker(&w, 1, 1);
    w_step(&w, &in);
    (void)w_expect(&w, MQ_OUT_DRAIN, NULL);
    w_beat(&w, 1, 2, 1, 0, NULL, 0);
    (void)w_expect(&w, MQ_OUT_DRAIN, NULL);
    w_close(&w);
}

static void cancel(world *w, const char *id, bool is_hard)
{
    mq_msg_cancel m = {.id = mq_str(id), .is_hard = is_hard};
    mq_input in = {.type = MQ_IN_CANCEL, .conn = 1, .rid = 9, .as.cancel = &m};
    w_step(w, &in);
}

static void a_cancel_of_a_repeat_is_put_off_while_the_shard_is_loaded(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_drop_core(&w);
    w_begin(&w);
    mq_msg_submit_job item = {.id = mq_str(id), .kind = mq_str("echo")};
    w_submit_item(&w, 1, 2, &item, "x");
    w_forget(&w);
    cancel(&w, id, true);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "busy");
    w_load(&w);
    w_turn(&w);
    w_forget(&w);
    cancel(&w, id, true);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "ok");
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "cancelled");
    w_close(&w);
}

/* The store is slow: the job has ended before its create could even be sent. */
static void a_record_stored_before_the_end_shows_nothing_of_it(void **unused)
{
    (void)unused;
    static mq_job_record r;
    world w;
    char first[MQ_ULID_SIZE], second[MQ_ULID_SIZE], id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w.is_held = true; /* two commits are under way from here on */
    w_submit(&w, first, "sleep", "x");
    w_turn(&w);
    w_submit(&w, second, "sleep", "x");
    w_turn(&w);
    w_worker(&w, 2, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry *job = w_find(&w, MQ_OUT_JOB, id);
    if (job == NULL) { /* the other two had the slots */
        w_worker(&w, 3, 2);
        w_turn(&w);
        job = w_expect(&w, MQ_OUT_JOB, id);
    }
    w_entry copy = *job;
    w_result(&w, (uint32_t)(copy.conn - 100), &copy, "fatal", NULL);
    uint32_t slot = mq_core_find(w.core, mq_str(id));
    assert_true(slot != MQ_CORE_NO_SLOT && mq_core_record(w.core, slot, &r));
    assert_true(mq_span_is(r.state, "leased"));
    assert_int_equal(r.flags, 0);
    assert_int_equal(r.ended_ms, 0);
    assert_int_equal(r.code.len + r.error.len, 0);
    w.is_held = false;
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "dead");
    w_close(&w);
}

static void an_id_from_a_clock_that_runs_ahead_is_not_new_after_a_takeover(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    uint8_t random[10] = {7};
    w_open(&w);
    w_worker(&w, 1, 1);
    mq_ulid_make(w.now_ms + 100000, random, id);
    mq_msg_submit_job item = {.id = mq_str(id), .kind = mq_str("echo")};
    w_submit_item(&w, 1, 1, &item, "x");
    w_turn(&w);
    w_result(&w, 1, w_expect(&w, MQ_OUT_JOB, id), "ok", "y");
    w_turn(&w);
    w_crash(&w);
    w_worker(&w, 2, 1);
    w_forget(&w);
    w_submit_item(&w, 1, 2, &item, "x"); /* the first acknowledgement got lost */
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, id);
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id)->verdict, "dup");
    w_close(&w);
}

static void a_result_after_its_lease_was_given_up_is_stale(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    cancel(&w, id, false);
    w_turn(&w);
    w_sleep(&w, w.config.lease_ms + 1); /* nobody answers the cancel */
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "cancelled");
    w_result(&w, 1, &job, "ok", "y");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "stale");
    w_close(&w);
}

static void a_repeat_is_known_whatever_the_clocks_say_by_then(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_forget(&w);
    w.now_ms += MQ_ID_PAST_MS + 1000;
    mq_msg_submit_job item = {.id = mq_str(id), .kind = mq_str("echo")};
    w_submit_item(&w, 1, 2, &item, "x");
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id)->verdict, "dup");
    w_close(&w);
}

static void a_wrong_clock_refuses_nothing_that_may_yet_be_loaded(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_drop_core(&w);
    w.now_ms += MQ_ID_PAST_MS + 1000;
    w_begin(&w);
    w_forget(&w);
    mq_msg_submit_job item = {.id = mq_str(id), .kind = mq_str("echo")};
    w_submit_item(&w, 1, 2, &item, "x");
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id)->verdict, "busy");
    w_load(&w);
    w_submit_item(&w, 1, 3, &item, "x");
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id)->verdict, "dup");
    w_close(&w);
}

/* One parent is unknown, so the child's end is decided before its create is stored; the other one
 * dies meanwhile. Only the create reaches the store before the crash. */
static void a_child_that_failed_before_its_create_was_stored_keeps_its_dead_parent(void **unused)
{
    (void)unused;
    world w;
    char dead[MQ_ULID_SIZE], late[MQ_ULID_SIZE], child[MQ_ULID_SIZE];
    mq_input turn = {.type = MQ_IN_TURN};
    w_open(&w);
    w_submit(&w, dead, "echo", "x");
    w_sleep(&w, 100);
    w_crash(&w); /* from here on, ids may be known to the store */
    w_worker(&w, 1, 1);
    w_turn(&w);
    w_id(&w, late);
    w_id(&w, child);
    mq_span deps[2] = {mq_str(dead), mq_str(late)};
    mq_msg_submit_job item = {
        .id = mq_str(child), .kind = mq_str("echo"), .deps = deps, .deps_count = 2};
    w.is_held = true;
    w_submit_item(&w, 1, 1, &item, "c");
    w_turn(&w);
    w_result(&w, 1, w_expect(&w, MQ_OUT_JOB, dead), "fatal", NULL);
    w_turn(&w);
    w_process(&w); /* nobody knows the one parent, the other one's end is stored */
    w_step(&w, &turn);
    w_store_turn(&w); /* the child is stored, its end is not */
    w.is_held = false;
    w_crash(&w);
    assert_string_equal(w_state(&w, child), "blocked");
    w_forget(&w);
    w_worker(&w, 2, 2);
    item = (mq_msg_submit_job){.id = mq_str(late), .kind = mq_str("echo")};
    w_submit_item(&w, 1, 1, &item, "x");
    w_turn(&w);
    w_result(&w, 2, w_expect(&w, MQ_OUT_JOB, late), "ok", "y");
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, child);
    assert_string_equal(w_state(&w, child), "");
    w_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_repeated_failure_of_a_transient_job_is_a_dup_at_once),
        cmocka_unit_test(a_drain_that_was_lost_is_said_again_at_each_beat),
        cmocka_unit_test(a_cancel_of_a_repeat_is_put_off_while_the_shard_is_loaded),
        cmocka_unit_test(a_record_stored_before_the_end_shows_nothing_of_it),
        cmocka_unit_test(an_id_from_a_clock_that_runs_ahead_is_not_new_after_a_takeover),
        cmocka_unit_test(a_result_after_its_lease_was_given_up_is_stale),
        cmocka_unit_test(a_repeat_is_known_whatever_the_clocks_say_by_then),
        cmocka_unit_test(a_wrong_clock_refuses_nothing_that_may_yet_be_loaded),
        cmocka_unit_test(a_child_that_failed_before_its_create_was_stored_keeps_its_dead_parent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

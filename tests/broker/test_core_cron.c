/* Recurring jobs in the core: a firing's job and its time are stored together, once. */
#include "tests/support/core_world.h"

static void cron_at(world *w, mq_cron_what what, const char *name, int64_t at_ms, const char *id,
                    const char *key)
{
    mq_msg_submit_job item = {.id = mq_str(id),
                              .kind = mq_str("echo"),
                              .durability = mq_str("durable"),
                              .unique = mq_str(key),
                              .is_quiet = true};
    bool is_fire = what == MQ_CRON_FIRE;
    bool is_command = !is_fire && what != MQ_CRON_SKIP;
    mq_input in = {.type = MQ_IN_CRON,
                   .conn = is_command ? 5 : 0,
                   .rid = 9,
                   .body = is_fire ? w_new_bytes(w, mq_str("tick")) : NULL,
                   .as.cron = {what, mq_str(name), mq_str("definition"), at_ms, &item}};
    w_step(w, &in);
}

static void cron(world *w, mq_cron_what what, const char *name)
{
    cron_at(w, what, name, 0, "", "");
    w_turn(w);
}

/* Last time dealt with; -1 when there is no such entry. */
static int64_t last_of(world *w, const char *name)
{
    static mq_entry entry;
    mq_entry_view v;
    for (uint32_t i = 0; i < w->config.registry_max; i++) {
        if (mq_core_entry(w->core, i, &v) && v.key.type == MQ_ENTRY_CRON &&
            mq_span_is(v.key.name, name)) {
            assert_int_equal(mq_entry_read(v.value, &entry, NULL), MQ_OK);
            assert_true(mq_span_is(entry.meta, "definition"));
            return entry.at_ms;
        }
    }
    return -1;
}

static void an_added_one_is_stored_before_it_is_answered(void **unused)
{
    (void)unused;
    world w;
    w_open(&w);
    w.is_held = true;
    cron(&w, MQ_CRON_ADD, "nightly");
    w_expect_none(&w, MQ_OUT_REPLY, NULL);
    w.is_held = false;
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "ok");
    int64_t at = last_of(&w, "nightly");
    w_crash(&w);
    assert_int_equal(last_of(&w, "nightly"), at);
    cron(&w, MQ_CRON_ADD, "nightly"); /* a repeat */
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "ok");
    cron(&w, MQ_CRON_ADD, "no name");
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "bad_argument");
    w_close(&w);
}

static void a_firing_makes_one_job_and_moves_the_time_with_it(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE], other[MQ_ULID_SIZE];
    w_open(&w);
    cron(&w, MQ_CRON_ADD, "a");
    int64_t due = w.now_ms + 60000;
    w.now_ms = due;
    w_worker(&w, 1, 1);
    w_id(&w, id);
    cron_at(&w, MQ_CRON_FIRE, "a", due, id, "");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_JOB, id)->payload, "tick");
    assert_int_equal(last_of(&w, "a"), due);
    w_id(&w, other); /* the same time again, under whatever id: dealt with */
    cron_at(&w, MQ_CRON_FIRE, "a", due, other, "");
    w_turn(&w);
    assert_string_equal(w_state(&w, other), "");
    w_crash(&w);
    assert_int_equal(last_of(&w, "a"), due);
    assert_string_equal(w_state(&w, id), "leased");
    w_close(&w);
}

static void a_firing_that_is_not_stored_is_fired_again_by_the_next_owner(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    cron(&w, MQ_CRON_ADD, "a");
    int64_t before = last_of(&w, "a");
    int64_t due = w.now_ms + 60000;
    w.now_ms = due;
    w_id(&w, id);
    cron_at(&w, MQ_CRON_FIRE, "a", due, id, ""); /* no turn: it is in no commit */
    w_crash(&w);
    assert_int_equal(last_of(&w, "a"), before);
    assert_string_equal(w_state(&w, id), "");
    cron_at(&w, MQ_CRON_FIRE, "a", due, id, "");
    w_turn(&w);
    assert_int_equal(last_of(&w, "a"), due);
    assert_string_equal(w_state(&w, id), "queued");
    w_close(&w);
}

static void a_commit_whose_answer_is_lost_fires_once(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    cron(&w, MQ_CRON_ADD, "a");
    int64_t due = w.now_ms + 60000;
    w.now_ms = due;
    w_id(&w, id);
    cron_at(&w, MQ_CRON_FIRE, "a", due, id, "");
    w.is_held = true;
    w_turn(&w); /* applied, the answer is lost with the broker */
    w_crash(&w);
    w.is_held = false;
    assert_int_equal(last_of(&w, "a"), due);
    assert_string_equal(w_state(&w, id), "queued");
    w_close(&w);
}

static void a_name_that_is_taken_again_does_not_fire_a_time_twice(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    cron(&w, MQ_CRON_ADD, "a");
    w.now_ms += 60000;
    w_worker(&w, 1, 1);
    int64_t due = w.now_ms + 1;
    w_id(&w, id);
    cron_at(&w, MQ_CRON_FIRE, "a", due, id, "");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_result(&w, 1, &job, "ok", NULL);
    w_turn(&w);
    cron(&w, MQ_CRON_REMOVE, "a");
    assert_int_equal(last_of(&w, "a"), -1);
    cron(&w, MQ_CRON_ADD, "a");
    w_crash(&w); /* what ended is not remembered: the store must tell */
    w_worker(&w, 1, 1);
    w_forget(&w);
    cron_at(&w, MQ_CRON_FIRE, "a", due, id, "");
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, id);
    assert_int_equal(last_of(&w, "a"), due);
    w_close(&w);
}

static void paused_ones_do_not_fire_and_make_up_for_nothing(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    cron(&w, MQ_CRON_PAUSE, "a");
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "not_found");
    cron(&w, MQ_CRON_ADD, "a");
    cron(&w, MQ_CRON_PAUSE, "a");
    w.now_ms += 600000;
    w_id(&w, id);
    cron_at(&w, MQ_CRON_FIRE, "a", w.now_ms, id, "");
    w_turn(&w);
    assert_string_equal(w_state(&w, id), "");
    w_crash(&w);
    cron(&w, MQ_CRON_RESUME, "a");
    assert_int_equal(last_of(&w, "a"), w.now_ms);
    cron_at(&w, MQ_CRON_SKIP, "a", w.now_ms + 5, "", "");
    w_turn(&w);
    assert_int_equal(last_of(&w, "a"), w.now_ms + 5);
    w_close(&w);
}

static void one_that_runs_alone_lets_a_time_go_by_while_the_last_one_runs(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE], next[MQ_ULID_SIZE];
    w_open(&w);
    cron(&w, MQ_CRON_ADD, "a");
    w.now_ms += 60000;
    w_id(&w, id);
    cron_at(&w, MQ_CRON_FIRE, "a", w.now_ms, id, "cron/a");
    w_turn(&w);
    w.now_ms += 60000;
    w_id(&w, next);
    cron_at(&w, MQ_CRON_FIRE, "a", w.now_ms, next, "cron/a");
    w_turn(&w);
    assert_string_equal(w_state(&w, id), "queued");
    assert_string_equal(w_state(&w, next), "");
    assert_int_equal(last_of(&w, "a"), w.now_ms);
    w_close(&w);
}

static void a_full_broker_fires_later(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    cron(&w, MQ_CRON_ADD, "a");
    int64_t before = last_of(&w, "a");
    mq_input in = {.type = MQ_IN_PRESSURE, .as.is_full = true};
    w_step(&w, &in);
    w.now_ms += 60000;
    w_id(&w, id);
    cron_at(&w, MQ_CRON_FIRE, "a", w.now_ms, id, "");
    w_turn(&w);
    assert_string_equal(w_state(&w, id), "");
    assert_int_equal(last_of(&w, "a"), before);
    w_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_added_one_is_stored_before_it_is_answered),
        cmocka_unit_test(a_firing_makes_one_job_and_moves_the_time_with_it),
        cmocka_unit_test(a_firing_that_is_not_stored_is_fired_again_by_the_next_owner),
        cmocka_unit_test(a_commit_whose_answer_is_lost_fires_once),
        cmocka_unit_test(a_name_that_is_taken_again_does_not_fire_a_time_twice),
        cmocka_unit_test(paused_ones_do_not_fire_and_make_up_for_nothing),
        cmocka_unit_test(one_that_runs_alone_lets_a_time_go_by_while_the_last_one_runs),
        cmocka_unit_test(a_full_broker_fires_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

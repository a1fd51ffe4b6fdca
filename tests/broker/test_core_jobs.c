/* The core's rules for single jobs: submit, order, results, retries, cancel, limits. */
#include "tests/support/core_world.h"

static void a_submit_is_acknowledged_only_after_its_commit(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w.is_held = true;
    w_submit(&w, id, "echo", "hello");
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_SUBMITTED, id);
    w.is_held = false;
    w_turn(&w);
    w_entry *e = w_expect(&w, MQ_OUT_SUBMITTED, id);
    assert_string_equal(e->verdict, "ok");
    assert_string_equal(e->state, "queued");
    assert_int_equal(e->conn, 1);
    w_close(&w);
}

static void a_job_runs_and_its_result_is_committed_once(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "hello");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    assert_string_equal(job.payload, "hello");
    assert_int_equal(job.conn, 101);
    assert_int_equal(job.attempt, 1);
    w.is_held = true;
    w_result(&w, 1, &job, "ok", "world");
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_VERDICT, id);
    assert_string_equal(w_state(&w, id), "leased"); /* decided, but not stored */
    w.is_held = false;
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "ok");
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, id);
    assert_string_equal(end->state, "succeeded");
    assert_string_equal(end->payload, "world");
    assert_string_equal(w_state(&w, id), "");
    w_result(&w, 1, &job, "ok", "again");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "dup");
    w_expect_none(&w, MQ_OUT_ENDED, id);
    w_close(&w);
}

static void a_job_may_start_before_its_commit_but_not_end_before_it(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w.is_held = true;
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_result(&w, 1, &job, "ok", "y");
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_SUBMITTED, id);
    w_expect_none(&w, MQ_OUT_VERDICT, id);
    w.is_held = false;
    w_turn(&w);
    w_entry *ack = w_expect(&w, MQ_OUT_SUBMITTED, id);
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, id);
    assert_true(ack < end);
    w_expect(&w, MQ_OUT_VERDICT, id);
    w_close(&w);
}

static void resubmit(world *w, const char *id, const char *body, const char *verdict,
                     const char *state)
{
    mq_msg_submit_job item = {.id = mq_str(id), .kind = mq_str("echo")};
    w_submit_item(w, 2, 9, &item, body);
    w_turn(w);
    w_entry *e = w_expect(w, MQ_OUT_SUBMITTED, id);
    assert_string_equal(e->verdict, verdict);
    assert_string_equal(e->state, state);
    assert_int_equal(e->rid, 9);
}

static void the_same_id_is_a_dup_and_other_content_a_conflict(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_expect(&w, MQ_OUT_SUBMITTED, id);
    resubmit(&w, id, "x", "dup", "queued");
    resubmit(&w, id, "other", "conflict", "queued");
    w_worker(&w, 1, 1);
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_result(&w, 1, &job, "ok", "y");
    w_turn(&w);
    resubmit(&w, id, "x", "dup", "succeeded");
    resubmit(&w, id, "other", "conflict", "succeeded");
    w_crash(&w); /* forgets what ended: the store tells */
    resubmit(&w, id, "x", "dup", "succeeded");
    resubmit(&w, id, "other", "conflict", "succeeded");
    w_expect_none(&w, MQ_OUT_JOB, id);
    w_close(&w);
}

static void a_forgotten_job_that_ended_is_never_run_again(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE], other[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    uint64_t seen = 0;
    w_submit(&w, id, "echo", "x");
    for (uint32_t i = 0; i <= w.config.recent_max; i++) {
        w_turn(&w);
        w_entry job = *w_expect(&w, MQ_OUT_JOB, NULL);
        w_result(&w, 1, &job, "ok", "y");
        w_credit(&w, 1, 2 + i, 1, ++seen);
        w_turn(&w);
        w_submit(&w, other, "echo", "z");
    }
    w_turn(&w);
    w_forget(&w);
    w_worker(&w, 2, 4);
    resubmit(&w, id, "x", "dup", "succeeded");
    w_entry *again = w_find(&w, MQ_OUT_JOB, id);
    assert_null(again);
    w_close(&w);
}

static const char *submit_verdict(world *w, mq_msg_submit_job *item, const char *body)
{
    w_forget(w);
    w_submit_item(w, 1, 1, item, body);
    w_turn(w);
    w_entry *e = w_expect(w, MQ_OUT_SUBMITTED, NULL);
    if (strcmp(e->verdict, "ok") != 0) {
        assert_true(e->text[0] != '\0');
    }
    return e->verdict;
}

static void bad_submits_are_refused_by_name(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    mq_msg_submit_job item = {.id = mq_str("short"), .kind = mq_str("echo")};
    assert_string_equal(submit_verdict(&w, &item, "x"), "bad_argument");
    uint8_t random[10] = {1};
    mq_ulid_make(w.now_ms - MQ_ID_PAST_MS - 1, random, id);
    item.id = mq_str(id);
    assert_string_equal(submit_verdict(&w, &item, "x"), "clock");
    mq_ulid_make(w.now_ms + MQ_ID_FUTURE_MS + 1, random, id);
    assert_string_equal(submit_verdict(&w, &item, "x"), "clock");
    w_id(&w, id);
    item.kind = mq_str("");
    assert_string_equal(submit_verdict(&w, &item, "x"), "bad_argument");
    item.kind = mq_str("echo");
    item.priority = 10;
    assert_string_equal(submit_verdict(&w, &item, "x"), "bad_argument");
    item.priority = 9;
    item.seats_min = 3;
    item.seats_max = 2;
    assert_string_equal(submit_verdict(&w, &item, "x"), "bad_argument");
    item.seats_min = item.seats_max = 0;
    item.durability = mq_str("replicated");
    assert_string_equal(submit_verdict(&w, &item, "x"), "busy"); /* no replica has confirmed */
    item.durability = mq_str("sometimes");
    assert_string_equal(submit_verdict(&w, &item, "x"), "bad_argument");
    item.durability = mq_str("durable");
    item.kind = mq_str("sleep");
    char *big = calloc(1, 5000);
    memset(big, 'x', 4999);
    assert_string_equal(submit_verdict(&w, &item, big), "limit");
    free(big);
    mq_span deps[1] = {mq_str("nonsense")};
    item.deps = deps;
    item.deps_count = 1;
    assert_string_equal(submit_verdict(&w, &item, "x"), "bad_argument");
    item.deps_count = 0;
    assert_string_equal(submit_verdict(&w, &item, "x"), "ok");
    w_close(&w);
}

static void priority_goes_first_and_age_decides_inside(void **unused)
{
    (void)unused;
    world w;
    char ids[6][MQ_ULID_SIZE];
    static const uint64_t priority[6] = {0, 5, 9, 5, 0, 9};
    static const int order[6] = {2, 5, 1, 3, 0, 4};
    w_open(&w);
    for (int i = 0; i < 6; i++) {
        w_id(&w, ids[i]);
        mq_msg_submit_job item = {
            .id = mq_str(ids[i]), .kind = mq_str("echo"), .priority = priority[i]};
        w_submit_item(&w, 1, 1, &item, "x");
    }
    w_turn(&w);
    w_worker(&w, 1, 6);
    w_turn(&w);
    for (int i = 0; i < 6; i++) {
        assert_string_equal(w_expect(&w, MQ_OUT_JOB, NULL)->id, ids[order[i]]);
    }
    w_close(&w);
}

static void a_retried_job_keeps_its_age(void **unused)
{
    (void)unused;
    world w;
    char a[MQ_ULID_SIZE], b[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, a, "echo", "a");
    w_submit(&w, b, "echo", "b");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, a);
    w_result(&w, 1, &job, "return", NULL);
    w_turn(&w);
    w_credit(&w, 1, 2, 1, 1);
    w_turn(&w);
    w_entry again = *w_expect(&w, MQ_OUT_JOB, NULL);
    assert_string_equal(again.id, a);
    assert_true(again.grant > job.grant);
    assert_int_equal(again.attempt, 1); /* a return is no attempt */
    w_close(&w);
}

static void clean_failures_back_off_and_end_dead(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_id(&w, id);
    mq_msg_submit_job item = {.id = mq_str(id), .kind = mq_str("echo"), .attempts_max = 3};
    w_submit_item(&w, 1, 1, &item, "x");
    w_turn(&w);
    for (uint64_t i = 1; i <= 3; i++) {
        w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
        assert_int_equal(job.attempt, i);
        w_result(&w, 1, &job, "retry", NULL);
        w_turn(&w);
        assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "ok");
        w_credit(&w, 1, i + 1, 1, i);
        if (i < 3) {
            for (int k = 0; k < 100 && strcmp(w_state(&w, id), "leased") != 0; k++) {
                w_sleep(&w, 100);
                w_beat(&w, 1, (uint64_t)(i * 1000) + (uint64_t)k, 1, i, NULL, 0);
                w_turn(&w);
            }
        }
    }
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, id);
    assert_string_equal(end->state, "dead");
    assert_string_equal(end->why, "attempts");
    assert_string_equal(end->code, "io");
    assert_string_equal(end->text, "it broke");
    w_close(&w);
}

static void a_later_attempt_is_sent_only_after_it_is_stored(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_result(&w, 1, &job, "crash", NULL);
    w_turn(&w);
    w.is_held = true;
    w_credit(&w, 1, 2, 1, 1);
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, id);
    w.is_held = false;
    w_turn(&w);
    assert_int_equal(w_expect(&w, MQ_OUT_JOB, id)->attempt, 2);
    w_close(&w);
}

static void a_failure_that_is_told_twice_counts_once(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    static mq_job_record r;
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    for (int i = 0; i < 3; i++) {
        w_result(&w, 1, &job, "retry", NULL);
        w_turn(&w);
        assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, i == 0 ? "ok" : "dup");
    }
    assert_true(mq_core_record(w.core, mq_core_find(w.core, mq_str(id)), &r));
    assert_int_equal(r.attempts, 1);
    w_close(&w);
}

static void a_fatal_error_is_the_end(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_result(&w, 1, &job, "fatal", NULL);
    w_turn(&w);
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, id);
    assert_string_equal(end->state, "dead");
    assert_string_equal(end->why, "error");
    w_close(&w);
}

static void three_crashes_are_poison_even_over_broker_crashes(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    for (uint32_t i = 1; i <= 3; i++) {
        w_worker(&w, i, 1);
        for (int k = 0; k < 100 && strcmp(w_state(&w, id), "leased") != 0; k++) {
            w_sleep(&w, 50);
        }
        w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
        w_result(&w, i, &job, "crash", NULL);
        w_turn(&w);
        if (i < 3) {
            w_crash(&w);
        }
    }
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, id);
    assert_string_equal(end->state, "dead");
    assert_string_equal(end->why, "poison");
    w_close(&w);
}

static void cancel(world *w, const char *id, bool is_hard)
{
    mq_msg_cancel m = {.rid = 5, .id = mq_str(id), .is_hard = is_hard};
    mq_input in = {.type = MQ_IN_CANCEL, .conn = 3, .rid = 5, .as.cancel = &m};
    w_step(w, &in);
    w_turn(w);
}

static void a_queued_job_is_cancelled_at_once_after_its_commit(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w.is_held = true;
    cancel(&w, id, false);
    w_expect_none(&w, MQ_OUT_REPLY, NULL);
    w.is_held = false;
    w_turn(&w);
    w_entry *reply = w_expect(&w, MQ_OUT_REPLY, NULL);
    assert_string_equal(reply->verdict, "ok");
    assert_string_equal(reply->state, "cancelled");
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "cancelled");
    cancel(&w, id, false);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "dup");
    cancel(&w, "01ARZ3NDEKTSV4RRFFQ69G5FAV", false);
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->verdict, "not_found");
    w_worker(&w, 1, 1);
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, id);
    w_close(&w);
}

static void a_running_job_is_asked_to_stop(void **unused)
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
    w_entry *told = w_expect(&w, MQ_OUT_BEATEN, id);
    assert_string_equal(told->verdict, "cancel");
    assert_string_equal(w_expect(&w, MQ_OUT_REPLY, NULL)->state, "leased");
    w_crash(&w); /* the wish is stored */
    mq_msg_held held = w_held(&job);
    w_ready_held(&w, 1, 1, "fp", &held, 1);
    assert_string_equal(w_expect(&w, MQ_OUT_REGISTERED, id)->verdict, "cancel");
    w_result(&w, 1, &job, "cancelled", NULL);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "cancelled");
    w_close(&w);
}

static void a_result_that_comes_before_a_soft_cancel_wins(void **unused)
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
    w_result(&w, 1, &job, "ok", "y");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "succeeded");
    w_close(&w);
}

static void a_hard_cancel_makes_the_lease_stale(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    cancel(&w, id, true);
    assert_string_equal(w_expect(&w, MQ_OUT_BEATEN, id)->verdict, "stale");
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "cancelled");
    w_result(&w, 1, &job, "ok", "y");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "stale");
    w_close(&w);
}

static void run_at_and_ttl_are_kept(void **unused)
{
    (void)unused;
    world w;
    char later[MQ_ULID_SIZE], never[MQ_ULID_SIZE];
    w_open(&w);
    w_id(&w, later);
    mq_msg_submit_job item = {
        .id = mq_str(later), .kind = mq_str("echo"), .run_at_ms = w.now_ms + 5000};
    w_submit_item(&w, 1, 1, &item, "x");
    w_id(&w, never);
    item = (mq_msg_submit_job){.id = mq_str(never), .kind = mq_str("echo"), .ttl_ms = 2000};
    w_submit_item(&w, 1, 1, &item, "x");
    w_turn(&w);
    assert_string_equal(w_state(&w, later), "scheduled");
    w_sleep(&w, 1999);
    assert_string_equal(w_state(&w, never), "queued");
    w_crash(&w);
    w_sleep(&w, 1);
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, never)->state, "expired");
    w_sleep(&w, 2999);
    assert_string_equal(w_state(&w, later), "scheduled");
    w_sleep(&w, 1);
    assert_string_equal(w_state(&w, later), "queued");
    w_close(&w);
}

static void full_is_answered_busy(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    mq_core_config config = w_config();
    config.live_max = 5;
    config.tenant_live_max = 3;
    w_open_config(&w, &config);
    mq_msg_submit_job item = {.kind = mq_str("echo"), .tenant = mq_str("t")};
    for (int i = 0; i < 4; i++) {
        w_id(&w, id);
        item.id = mq_str(id);
        assert_string_equal(submit_verdict(&w, &item, "x"), i < 3 ? "ok" : "busy");
    }
    item.tenant = mq_str("u");
    for (int i = 0; i < 3; i++) {
        w_id(&w, id);
        item.id = mq_str(id);
        assert_string_equal(submit_verdict(&w, &item, "x"), i < 2 ? "ok" : "busy");
    }
    mq_input in = {.type = MQ_IN_PRESSURE, .as.is_full = true};
    w_step(&w, &in);
    w_id(&w, id);
    item.id = mq_str(id);
    assert_string_equal(submit_verdict(&w, &item, "x"), "busy");
    w_close(&w);
}

static void transient_jobs_never_touch_the_store(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_turn(&w);
    w.is_held = true; /* a commit would show: nothing would come back */
    w_submit(&w, id, "infer", "x");
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id)->verdict, "ok");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_result(&w, 1, &job, "ok", "answer");
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->payload, "answer");
    mq_core_stats stats;
    mq_core_stats_read(w.core, &stats);
    assert_int_equal(stats.sequence, 0);
    w_close(&w);
}

static void transient_jobs_are_bounded_and_expire(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE], first[MQ_ULID_SIZE] = "";
    mq_core_config config = w_config();
    config.transient_per_slot = 2;
    w_open_config(&w, &config);
    w_worker(&w, 1, 1);
    for (int i = 0; i < 5; i++) {
        w_submit(&w, id, "infer", "x");
        if (i == 0) {
            memcpy(first, id, sizeof id);
        }
        assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id)->verdict, i < 4 ? "ok" : "busy");
    }
    for (int i = 0; i < 31; i++) {
        w_sleep(&w, 1000);
        w_beat(&w, 1, (uint64_t)i + 1, 0, 0, NULL, 0);
    }
    int expired = 0;
    for (w_entry *e = w_find(&w, MQ_OUT_ENDED, NULL); e != NULL;
         e = w_find(&w, MQ_OUT_ENDED, NULL)) {
        expired += strcmp(e->state, "expired") == 0;
    }
    assert_int_equal(expired, 4);
    w_close(&w);
}

static void a_transient_job_is_tried_once_more_when_its_worker_dies(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_id(&w, id);
    mq_msg_submit_job item = {.id = mq_str(id), .kind = mq_str("infer"), .ttl_ms = 60000};
    w_submit_item(&w, 1, 1, &item, "x");
    w_turn(&w);
    assert_int_equal(w_expect(&w, MQ_OUT_JOB, id)->conn, 101);
    w_sleep(&w, 3800); /* worker 1 falls silent */
    w_worker(&w, 2, 1);
    w_turn(&w);
    assert_int_equal(w_expect(&w, MQ_OUT_JOB, id)->conn, 102);
    w_sleep(&w, 3800);
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, id);
    assert_string_equal(end->state, "dead");
    assert_string_equal(end->why, "lost");
    w_close(&w);
}

static void a_full_peer_gets_its_job_back_without_penalty(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    mq_input in = {.type = MQ_IN_UNSENT,
                   .conn = 101,
                   .as.unsent = {.id = mq_str(id), .grant = job.grant, .is_gone = true}};
    w_step(&w, &in);
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, id);
    w_worker(&w, 2, 1);
    w_turn(&w);
    w_entry *again = w_expect(&w, MQ_OUT_JOB, id);
    assert_int_equal(again->conn, 102);
    assert_int_equal(again->attempt, 1);
    w_close(&w);
}

static void only_workers_of_the_kind_and_queue_get_a_job(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE], other[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 2);
    w_submit(&w, id, "my.kind", "x");
    mq_span kinds[] = {mq_str("echo")};
    mq_span tags[] = {mq_str("queue=special"), mq_str("gpu")};
    mq_msg_ready m = {.worker = mq_str(w_uuid(2)),
                      .slots = 2,
                      .kinds = kinds,
                      .kinds_count = 1,
                      .tags = tags,
                      .tags_count = 2};
    mq_input in = {.type = MQ_IN_READY, .conn = 102, .as.ready = &m};
    w_step(&w, &in);
    w_credit(&w, 2, 1, 2, 0);
    w_id(&w, other);
    mq_msg_submit_job item = {
        .id = mq_str(other), .kind = mq_str("echo"), .queue = mq_str("special")};
    w_credit(&w, 1, 2, 0, 0);
    w_submit_item(&w, 1, 1, &item, "x");
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, id);
    assert_int_equal(w_expect(&w, MQ_OUT_JOB, other)->conn, 102);
    w_close(&w);
}

/* One job that took so long, then six at once: how many of these the first one's worker gets. */
static int at_one_worker(uint64_t run_us)
{
    world w;
    char id[MQ_ULID_SIZE];
    int counts[2] = {0};
    w_open(&w);
    w_worker(&w, 1, 8);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    mq_msg_result_item item = {.id = mq_str(id),
                               .epoch = job.epoch,
                               .grant = job.grant,
                               .class = mq_str("ok"),
                               .run_us = run_us};
    w_result_item(&w, 1, &item, "r");
    w_worker(&w, 2, 8);
    w_turn(&w);
    for (int i = 0; i < 6; i++) {
        w_submit(&w, id, "echo", "x");
    }
    w_turn(&w);
    for (w_entry *e = w_find(&w, MQ_OUT_JOB, NULL); e != NULL; e = w_find(&w, MQ_OUT_JOB, NULL)) {
        counts[e->conn - 101]++;
    }
    w_close(&w);
    assert_int_equal(counts[0] + counts[1], 6);
    return counts[0] > counts[1] ? counts[0] : counts[1];
}

static void jobs_quicker_than_a_message_go_together_and_longer_ones_to_all(void **unused)
{
    (void)unused;
    assert_int_equal(at_one_worker(5), 6);
    assert_int_equal(at_one_worker(90), 4); /* pairs */
    assert_int_equal(at_one_worker(5000), 3);
}

/* Runs one echo job to its end, so that the kind is known as quick. */
static void warm_up(world *w)
{
    char id[MQ_ULID_SIZE];
    w_submit(w, id, "echo", "x");
    w_turn(w);
    w_entry job = *w_expect(w, MQ_OUT_JOB, id);
    w_result(w, 1, &job, "ok", "y");
    w_turn(w);
    w_forget(w);
}

static uint64_t commits(const world *w)
{
    mq_core_stats stats;
    mq_core_stats_read(w->core, &stats);
    return stats.sequence;
}

static void a_quick_job_that_ends_at_once_is_one_write_and_told_in_order_after_it(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 4);
    warm_up(&w);
    uint64_t before = commits(&w);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    w_expect_none(&w, MQ_OUT_SUBMITTED, id);
    assert_int_equal(commits(&w), before);
    w_result(&w, 1, &job, "ok", "y");
    w_expect_none(&w, MQ_OUT_ENDED, id);
    w_turn(&w);
    w_entry *told = w_expect(&w, MQ_OUT_SUBMITTED, id);
    w_entry *ended = w_expect(&w, MQ_OUT_ENDED, id);
    assert_true(told < ended);
    assert_string_equal(told->verdict, "ok");
    assert_string_equal(told->state, "leased"); /* its end follows: nobody has to ask for it */
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "ok");
    assert_int_equal(commits(&w), before + 1);
    w_drop_core(&w);
    w_begin(&w);
    w_load(&w);
    resubmit(&w, id, "x", "dup", "succeeded");
    w_close(&w);
}

static void a_quick_job_that_does_not_end_at_once_is_stored_and_acknowledged(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE], lost[MQ_ULID_SIZE];
    w_open(&w);
    w_worker(&w, 1, 4);
    warm_up(&w);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_SUBMITTED, id);
    w_sleep(&w, 20);
    assert_string_equal(w_expect(&w, MQ_OUT_SUBMITTED, id)->verdict, "ok");
    w_submit(&w, lost, "echo", "x");
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_SUBMITTED, lost);
    w_drop_core(&w); /* it was not acknowledged: nobody knows it, whoever sent it sends it again */
    w_begin(&w);
    w_load(&w);
    assert_int_equal(mq_core_find(w.core, mq_str(lost)), MQ_CORE_NO_SLOT);
    assert_int_not_equal(mq_core_find(w.core, mq_str(id)), MQ_CORE_NO_SLOT);
    w_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_submit_is_acknowledged_only_after_its_commit),
        cmocka_unit_test(a_job_runs_and_its_result_is_committed_once),
        cmocka_unit_test(a_job_may_start_before_its_commit_but_not_end_before_it),
        cmocka_unit_test(the_same_id_is_a_dup_and_other_content_a_conflict),
        cmocka_unit_test(a_forgotten_job_that_ended_is_never_run_again),
        cmocka_unit_test(bad_submits_are_refused_by_name),
        cmocka_unit_test(priority_goes_first_and_age_decides_inside),
        cmocka_unit_test(a_retried_job_keeps_its_age),
        cmocka_unit_test(clean_failures_back_off_and_end_dead),
        cmocka_unit_test(a_later_attempt_is_sent_only_after_it_is_stored),
        cmocka_unit_test(a_failure_that_is_told_twice_counts_once),
        cmocka_unit_test(a_fatal_error_is_the_end),
        cmocka_unit_test(three_crashes_are_poison_even_over_broker_crashes),
        cmocka_unit_test(a_queued_job_is_cancelled_at_once_after_its_commit),
        cmocka_unit_test(a_running_job_is_asked_to_stop),
        cmocka_unit_test(a_result_that_comes_before_a_soft_cancel_wins),
        cmocka_unit_test(a_hard_cancel_makes_the_lease_stale),
        cmocka_unit_test(run_at_and_ttl_are_kept),
        cmocka_unit_test(full_is_answered_busy),
        cmocka_unit_test(transient_jobs_never_touch_the_store),
        cmocka_unit_test(transient_jobs_are_bounded_and_expire),
        cmocka_unit_test(a_transient_job_is_tried_once_more_when_its_worker_dies),
        cmocka_unit_test(a_full_peer_gets_its_job_back_without_penalty),
        cmocka_unit_test(only_workers_of_the_kind_and_queue_get_a_job),
        cmocka_unit_test(jobs_quicker_than_a_message_go_together_and_longer_ones_to_all),
        cmocka_unit_test(a_quick_job_that_ends_at_once_is_one_write_and_told_in_order_after_it),
        cmocka_unit_test(a_quick_job_that_does_not_end_at_once_is_stored_and_acknowledged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

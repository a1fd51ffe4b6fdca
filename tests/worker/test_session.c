/* The worker's session core: events and times in, actions out. No process, no socket, no clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "worker/core/session.h"

static mq_worker_session s;
static mq_ws_actions out;
static int64_t now_ms;
static uint32_t hand; /* of the next session */

static void begin(uint32_t slots, uint32_t prefetch, uint32_t brokers)
{
    mq_ws_config config = {.broker_count = brokers,
                           .slot_count = slots,
                           .prefetch = prefetch,
                           .drain_ms = 10000,
                           .hand = hand,
                           .seed = 7};
    now_ms = 1000000;
    out.count = 0;
    mq_ws_init(&s, &config, now_ms);
    for (uint32_t i = 0; i < slots; i++) {
        mq_ws_on_slot_ready(&s, i, now_ms, &out);
    }
}

static void flush(void)
{
    out.count = 0;
    mq_ws_flush(&s, now_ms, &out);
}

/* Actions of a type in `out`. */
static uint32_t count(mq_ws_action_type type)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < out.count; i++) {
        n += out.at[i].type == type;
    }
    return n;
}

static const mq_ws_action *find(mq_ws_action_type type)
{
    for (uint32_t i = 0; i < out.count; i++) {
        if (out.at[i].type == type) {
            return &out.at[i];
        }
    }
    fail_msg("no action of type %d", (int)type);
    return &out.at[0];
}

static void welcome(void)
{
    mq_msg_welcome m = {.beat_ms = 1000};
    mq_ws_on_welcome(&s, &m, now_ms, &out);
}

static void registered(void)
{
    mq_msg_registered m = {.epoch = 3, .beat_ms = 1000, .lease_ms = 3000};
    mq_ws_on_registered(&s, &m, now_ms, &out);
}

static void serve(uint32_t slots, uint32_t prefetch)
{
    begin(slots, prefetch, 2);
    flush();
    welcome();
    flush();
    registered();
    flush();
    assert_int_equal(s.link, MQ_WS_SERVING);
}

static void job(uint64_t grant, bool is_transient)
{
    mq_msg_job_item item = {.id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                            .epoch = 3,
                            .grant = grant,
                            .is_transient = is_transient,
                            .max_run_ms = 60000};
    mq_msg_job m = {.jobs = &item, .jobs_count = 1};
    out.count = 0;
    mq_ws_on_job(&s, &m, now_ms, &out);
}

static mq_msg_held_verdict verdict_of(uint64_t grant, const char *text)
{
    return (mq_msg_held_verdict){.id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                                 .epoch = 3,
                                 .grant = grant,
                                 .verdict = mq_str(text)};
}

static void verdict(uint64_t grant, const char *text)
{
    mq_msg_held_verdict v = verdict_of(grant, text);
    mq_msg_verdict m = {.verdicts = &v, .verdicts_count = 1};
    out.count = 0;
    mq_ws_on_verdict(&s, &m, now_ms, &out);
}

static void beaten(uint64_t grant, const char *text)
{
    mq_msg_held_verdict v = verdict_of(grant, text);
    mq_msg_beaten m = {.verdicts = &v, .verdicts_count = 1};
    out.count = 0;
    mq_ws_on_beaten(&s, &m, now_ms, &out);
}

static void ended(uint32_t slot, mq_code code)
{
    mq_error error = {.code = code, .text = "because"};
    out.count = 0;
    mq_ws_on_ended(&s, slot, &error, 5, 100, now_ms, &out);
}

/* --- the connection --- */

static void it_greets_registers_and_beats(void **state)
{
    (void)state;
    begin(2, 0, 1);
    flush();
    assert_int_equal(out.at[0].type, MQ_WS_CONNECT);
    assert_int_equal(out.at[1].type, MQ_WS_SEND_HELLO);
    flush();
    assert_int_equal(out.count, 0);
    now_ms += MQ_WS_HELLO_MS; /* repeated until answered */
    flush();
    assert_int_equal(count(MQ_WS_SEND_HELLO), 1);
    welcome();
    flush();
    assert_int_equal(count(MQ_WS_SEND_READY), 1);
    now_ms += MQ_WS_HELLO_MS;
    flush();
    assert_int_equal(count(MQ_WS_SEND_READY), 1);
    registered();
    flush();
    assert_int_equal(count(MQ_WS_SEND_BEAT), 1);
    assert_int_equal(s.free_told, 2);
    uint64_t seq = s.seq;
    int64_t beat_at_ms = mq_ws_deadline(&s, now_ms);
    assert_in_range(beat_at_ms, now_ms + 900, now_ms + 1000);
    now_ms += 1100;
    flush();
    assert_int_equal(count(MQ_WS_SEND_BEAT), 1);
    assert_int_equal(s.seq, seq + 1);
}

static void it_goes_to_the_next_broker_after_three_silent_intervals(void **state)
{
    (void)state;
    serve(1, 0);
    job(1, false);
    flush();
    now_ms += 2999;
    flush();
    assert_int_equal(count(MQ_WS_CONNECT), 0);
    now_ms += 1;
    flush();
    assert_int_equal(find(MQ_WS_CONNECT)->index, 1);
    assert_int_equal(count(MQ_WS_SEND_HELLO), 1);
    now_ms += MQ_WS_ANSWER_MS; /* that one is silent too: back to the first */
    flush();
    assert_int_equal(find(MQ_WS_CONNECT)->index, 0);
    welcome();
    flush();
    static mq_msg_held held[MQ_WS_JOBS_MAX];
    static uint32_t jobs[MQ_WS_JOBS_MAX];
    assert_int_equal(mq_ws_held(&s, held, jobs), 1); /* what it holds is presented */
    assert_int_equal(held[0].grant, 1);
}

static void it_registers_again_when_the_broker_does_not_know_it(void **state)
{
    (void)state;
    serve(1, 0);
    mq_msg_error m = {.code = mq_str("not_found")};
    mq_ws_on_error(&s, &m, now_ms, &out);
    flush();
    assert_int_equal(count(MQ_WS_SEND_HELLO), 1);
    serve(1, 0);
    mq_ws_on_link_down(&s, now_ms);
    flush();
    assert_int_equal(count(MQ_WS_SEND_HELLO), 1);
    assert_int_equal(count(MQ_WS_CONNECT), 0); /* the socket connects again by itself */
    serve(1, 0);
    m.code = mq_str("moved");
    out.count = 0;
    mq_ws_on_error(&s, &m, now_ms, &out);
    assert_int_equal(find(MQ_WS_CONNECT)->index, 1);
}

/* --- credit --- */

static void credit_is_absolute_and_counts_what_was_seen(void **state)
{
    (void)state;
    serve(2, 0);
    job(1, false);
    assert_int_equal(find(MQ_WS_ACCEPT)->item, 0);
    flush();
    /* The acceptance goes out before the job starts. */
    assert_int_equal(out.at[0].type, MQ_WS_SEND_BEAT);
    assert_int_equal(count(MQ_WS_START), 1);
    assert_int_equal(s.jobs_seen, 1);
    assert_int_equal(mq_ws_credit(&s, now_ms), 1);
    mq_ws_on_slot_dead(&s, 1, mq_str("signal 9"), true, now_ms, &out); /* an idle one */
    flush();
    assert_int_equal(count(MQ_WS_SEND_CREDIT), 1);
    assert_int_equal(s.free_told, 0);
    ended(0, MQ_OK);
    flush();
    assert_int_equal(out.at[0].type, MQ_WS_SEND_RESULT);
    assert_int_equal(out.at[1].type, MQ_WS_SEND_CREDIT); /* the slot is free before the verdict */
    assert_int_equal(s.free_told, 1);
}

static void a_job_sent_twice_is_one_job(void **state)
{
    (void)state;
    serve(2, 0);
    job(1, false);
    job(1, false);
    assert_int_equal(count(MQ_WS_ACCEPT), 0);
    assert_int_equal(s.jobs_seen, 2);
    flush();
    assert_int_equal(count(MQ_WS_START), 1);
}

static void jobs_beyond_the_slots_wait_in_order_and_too_many_are_returned(void **state)
{
    (void)state;
    serve(1, 1);
    for (uint64_t grant = 1; grant <= 5; grant++) {
        job(grant, false);
    }
    flush();
    assert_int_equal(count(MQ_WS_START), 1);
    assert_int_equal(s.jobs[find(MQ_WS_START)->index].grant, 1);
    assert_int_equal(count(MQ_WS_SEND_RESULT), 2); /* 2 x slots + prefetch may wait */
    assert_int_equal(s.jobs[find(MQ_WS_SEND_RESULT)->index].class, MQ_WS_CLASS_RETURN);
    ended(0, MQ_OK);
    flush();
    assert_int_equal(s.jobs[find(MQ_WS_START)->index].grant, 2);
}

static void more_is_asked_for_only_while_jobs_are_quick(void **state)
{
    (void)state;
    serve(2, 8);
    assert_int_equal(mq_ws_credit(&s, now_ms), 2); /* nothing is known of them yet */
    job(1, false);
    flush();
    ended(0, MQ_OK); /* 5 us */
    assert_int_equal(mq_ws_credit(&s, now_ms), 2 + 8);
    job(2, false);
    job(3, false);
    flush();
    assert_int_equal(mq_ws_credit(&s, now_ms), 8);
    now_ms += 21; /* both slots are at something long */
    flush();
    assert_int_equal(mq_ws_credit(&s, now_ms), 0);
    mq_error ok = {.code = MQ_OK};
    for (uint32_t i = 0; i < 30; i++) { /* jobs of a second: one a slot */
        mq_ws_on_ended(&s, 0, &ok, 1000000, 0, now_ms, &out);
        job(10 + i, false);
        flush();
    }
    assert_int_equal(mq_ws_credit(&s, now_ms), 0);
    mq_ws_on_ended(&s, 0, &ok, 1000000, 0, now_ms, &out);
    assert_int_equal(mq_ws_credit(&s, now_ms), 1);
}

static void a_job_that_waits_too_long_for_a_slot_is_given_back(void **state)
{
    (void)state;
    serve(1, 4);
    job(1, false);
    job(2, false);
    flush();
    assert_int_equal(count(MQ_WS_START), 1);
    assert_in_range(mq_ws_deadline(&s, now_ms), now_ms, now_ms + MQ_WS_WAIT_MS);
    now_ms += MQ_WS_WAIT_MS;
    flush();
    const mq_ws_job *j = &s.jobs[find(MQ_WS_SEND_RESULT)->index];
    assert_int_equal(j->grant, 2);
    assert_int_equal(j->class, MQ_WS_CLASS_RETURN);
}

/* --- results --- */

static void a_result_is_kept_and_sent_again_until_its_verdict(void **state)
{
    (void)state;
    serve(1, 0);
    job(1, false);
    flush();
    ended(0, MQ_OK);
    flush();
    assert_int_equal(count(MQ_WS_SEND_RESULT), 1);
    assert_int_equal(s.kept_bytes, 100);
    now_ms += MQ_WS_RESEND_MS;
    s.heard_ms = now_ms;
    flush();
    assert_int_equal(count(MQ_WS_SEND_RESULT), 1);
    now_ms += MQ_WS_RESEND_MS; /* the second time it waits twice as long */
    s.heard_ms = now_ms;
    flush();
    assert_int_equal(count(MQ_WS_SEND_RESULT), 0);
    beaten(1, "ok"); /* of a beat: the lease is renewed, nothing is committed */
    assert_int_equal(count(MQ_WS_FORGET), 0);
    verdict(1, "ok");
    assert_int_equal(count(MQ_WS_FORGET), 1);
    assert_int_equal(s.kept_bytes, 0);
}

static void each_final_verdict_ends_it(void **state)
{
    (void)state;
    static const char *const verdicts[] = {"ok", "dup", "stale", "unknown"};
    for (size_t i = 0; i < 4; i++) {
        serve(1, 0);
        job(1, false);
        flush();
        ended(0, MQ_OK);
        flush();
        verdict(1, verdicts[i]);
        assert_int_equal(count(MQ_WS_FORGET), 1);
    }
}

static void a_missing_blob_is_uploaded_before_the_result_goes_again(void **state)
{
    (void)state;
    serve(1, 0);
    job(1, false);
    flush();
    ended(0, MQ_OK);
    flush();
    verdict(1, "missing");
    uint32_t index = find(MQ_WS_UPLOAD)->index;
    now_ms += 10 * MQ_WS_RESEND_MS;
    s.heard_ms = now_ms;
    flush();
    assert_int_equal(count(MQ_WS_SEND_RESULT), 0);
    mq_ws_on_uploaded(&s, index, true, now_ms);
    flush();
    assert_int_equal(count(MQ_WS_SEND_RESULT), 1);
    assert_int_equal(s.jobs[index].class, MQ_WS_CLASS_OK);
    verdict(1, "missing");
    mq_ws_on_uploaded(&s, index, false, now_ms);
    assert_int_equal(s.jobs[index].class, MQ_WS_CLASS_RETRY);
    assert_int_equal(s.jobs[index].error.code, MQ_E_MISSING);
}

static void a_transient_result_is_sent_once(void **state)
{
    (void)state;
    serve(1, 0);
    job(1, true);
    flush();
    ended(0, MQ_OK);
    flush();
    assert_int_equal(count(MQ_WS_SEND_RESULT), 1);
    flush();
    assert_int_equal(count(MQ_WS_SEND_RESULT), 0);
    assert_int_equal(count(MQ_WS_FORGET), 1);
}

static void a_result_that_found_no_room_goes_again_soon(void **state)
{
    (void)state;
    for (int is_transient = 0; is_transient < 2; is_transient++) {
        serve(1, 0);
        job(1, is_transient == 1);
        flush();
        ended(0, MQ_OK);
        flush();
        mq_ws_on_unsent(&s, find(MQ_WS_SEND_RESULT)->index, now_ms);
        flush();
        assert_int_equal(count(MQ_WS_SEND_RESULT), 0);
        assert_int_equal(mq_ws_deadline(&s, now_ms), now_ms + MQ_WS_UNSENT_MS);
        now_ms += MQ_WS_UNSENT_MS;
        flush();
        assert_int_equal(count(MQ_WS_SEND_RESULT), 1);
    }
}

static void codes_become_classes(void **state)
{
    (void)state;
    static const struct {
        mq_code code;
        mq_ws_class class;
    } cases[] = {
        {MQ_OK, MQ_WS_CLASS_OK},           {MQ_E_ARG, MQ_WS_CLASS_FATAL},
        {MQ_E_IO, MQ_WS_CLASS_RETRY},      {MQ_E_BUSY, MQ_WS_CLASS_RETRY},
        {MQ_E_TIMEOUT, MQ_WS_CLASS_RETRY}, {MQ_E_MISSING, MQ_WS_CLASS_RETRY},
        {MQ_E_NUMERIC, MQ_WS_CLASS_FATAL}, {MQ_E_INTERNAL, MQ_WS_CLASS_RETRY},
        {MQ_E_STALE, MQ_WS_CLASS_RETRY},   {MQ_E_UNSUPPORTED, MQ_WS_CLASS_FATAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        serve(1, 0);
        job(1, false);
        flush();
        uint32_t index = find(MQ_WS_START)->index;
        ended(0, cases[i].code);
        assert_int_equal(s.jobs[index].class, cases[i].class);
        assert_int_equal(s.jobs[index].error.code, cases[i].code);
    }
}

/* --- stopping --- */

static void a_dead_slot_is_a_crash_with_its_reason(void **state)
{
    (void)state;
    serve(1, 0);
    job(1, false);
    flush();
    out.count = 0;
    mq_ws_on_slot_dead(&s, 0, mq_str("signal 11"), true, now_ms, &out);
    flush();
    const mq_ws_job *j = &s.jobs[find(MQ_WS_SEND_RESULT)->index];
    assert_int_equal(j->class, MQ_WS_CLASS_CRASH);
    assert_string_equal(j->error.text, "signal 11");
}

static void a_dead_program_of_a_job_is_a_crash_and_the_slot_lives(void **state)
{
    (void)state;
    serve(1, 0);
    job(1, false);
    flush();
    out.count = 0;
    mq_ws_on_crashed(&s, 0, mq_str("signal 11: segmentation fault"), 77, now_ms, &out);
    flush();
    const mq_ws_job *j = &s.jobs[find(MQ_WS_SEND_RESULT)->index];
    assert_int_equal(j->class, MQ_WS_CLASS_CRASH);
    assert_int_equal(j->run_us, 77);
    assert_int_equal(s.free_told, 1);
    verdict(1, "ok");
    job(2, false);
    flush();
    beaten(2, "cancel");
    mq_ws_on_crashed(&s, 0, mq_str("signal 15"), 78, now_ms, &out); /* it died of being asked */
    flush();
    assert_int_equal(s.jobs[find(MQ_WS_SEND_RESULT)->index].class, MQ_WS_CLASS_CANCELLED);
}

static void cancel_asks_first_and_kills_after_five_seconds(void **state)
{
    (void)state;
    serve(1, 0);
    job(1, false);
    flush();
    beaten(1, "cancel");
    assert_int_equal(count(MQ_WS_CANCEL), 1);
    beaten(1, "cancel");
    assert_int_equal(count(MQ_WS_CANCEL), 0);
    now_ms += MQ_WS_CANCEL_MS - 1;
    s.heard_ms = now_ms;
    flush();
    assert_int_equal(count(MQ_WS_KILL), 0);
    now_ms += 1;
    flush();
    assert_int_equal(count(MQ_WS_KILL), 1);
    mq_ws_on_slot_dead(&s, 0, mq_str("signal 9"), true, now_ms, &out);
    flush();
    assert_int_equal(s.jobs[find(MQ_WS_SEND_RESULT)->index].class, MQ_WS_CLASS_CANCELLED);
}

static void a_result_that_was_ready_beats_a_cancel(void **state)
{
    (void)state;
    serve(1, 0);
    job(1, false);
    flush();
    uint32_t index = find(MQ_WS_START)->index;
    beaten(1, "cancel");
    ended(0, MQ_OK);
    assert_int_equal(s.jobs[index].class, MQ_WS_CLASS_OK);
}

static void a_stale_job_leaves_no_result(void **state)
{
    (void)state;
    serve(2, 0);
    job(1, false);
    flush();
    beaten(1, "stale");
    assert_int_equal(count(MQ_WS_CANCEL), 1);
    static mq_msg_held held[MQ_WS_JOBS_MAX];
    static uint32_t jobs[MQ_WS_JOBS_MAX];
    assert_int_equal(mq_ws_held(&s, held, jobs), 0);
    ended(0, MQ_OK);
    assert_int_equal(count(MQ_WS_FORGET), 1);
    flush();
    assert_int_equal(count(MQ_WS_SEND_RESULT), 0);
}

static void max_run_ends_as_a_timeout(void **state)
{
    (void)state;
    serve(1, 0);
    job(1, false);
    flush();
    now_ms += 60000;
    s.heard_ms = now_ms;
    flush();
    assert_int_equal(count(MQ_WS_CANCEL), 1);
    ended(0, MQ_E_CANCELLED);
    flush();
    const mq_ws_job *j = &s.jobs[find(MQ_WS_SEND_RESULT)->index];
    assert_int_equal(j->class, MQ_WS_CLASS_RETRY);
    assert_int_equal(j->error.code, MQ_E_TIMEOUT);
}

/* --- drain --- */

static void a_drain_finishes_what_runs_returns_the_rest_and_leaves(void **state)
{
    (void)state;
    serve(1, 1);
    job(1, false);
    job(2, false);
    flush();
    mq_ws_drain(&s, 0, now_ms);
    flush();
    assert_int_equal(mq_ws_credit(&s, now_ms), 0);
    assert_int_equal(s.jobs[find(MQ_WS_SEND_RESULT)->index].grant, 2);
    assert_int_equal(s.jobs[find(MQ_WS_SEND_RESULT)->index].class, MQ_WS_CLASS_RETURN);
    job(3, false); /* one that was on its way */
    flush();
    assert_int_equal(s.jobs[find(MQ_WS_SEND_RESULT)->index].class, MQ_WS_CLASS_RETURN);
    verdict(2, "ok");
    verdict(3, "ok");
    flush();
    assert_int_equal(count(MQ_WS_EXIT), 0);
    ended(0, MQ_OK);
    flush();
    verdict(1, "ok");
    flush();
    assert_int_equal(count(MQ_WS_SEND_BYE), 1);
    assert_int_equal(count(MQ_WS_EXIT), 1);
}

static void after_its_deadline_a_drain_returns_what_runs_and_does_not_hang(void **state)
{
    (void)state;
    serve(1, 0);
    job(1, false);
    flush();
    mq_ws_drain(&s, 500, now_ms);
    flush();
    now_ms += 500;
    flush();
    assert_int_equal(count(MQ_WS_CANCEL), 1);
    ended(0, MQ_E_CANCELLED);
    flush();
    assert_int_equal(s.jobs[find(MQ_WS_SEND_RESULT)->index].class, MQ_WS_CLASS_RETURN);
    now_ms += MQ_WS_CANCEL_MS + MQ_WS_FAREWELL_MS; /* no verdict ever comes */
    flush();
    assert_int_equal(count(MQ_WS_EXIT), 1);
    serve(1, 0);
    job(1, false);
    flush();
    mq_ws_stop_now(&s, now_ms);
    flush();
    assert_int_equal(count(MQ_WS_KILL), 1);
}

/* --- short jobs ahead of time --- */

/* One slot that runs the first of `jobs` short jobs and has the others. */
static void hand_over(uint32_t jobs)
{
    hand = 8;
    serve(1, 16);
    hand = 0;
    job(100, false);
    flush();
    ended(0, MQ_OK); /* 5 us: what comes is short, as far as is known */
    verdict(100, "ok");
    for (uint64_t grant = 1; grant <= jobs; grant++) {
        job(grant, false);
    }
    flush();
    assert_int_equal(count(MQ_WS_START), jobs);
    assert_int_equal(s.jobs[s.slots[0]].grant, 1);
    assert_int_equal(s.handed_by[0], jobs - 1);
}

static uint32_t in_state(mq_ws_state state)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < MQ_WS_JOBS_MAX; i++) {
        n += s.jobs[i].state == state;
    }
    return n;
}

static void short_jobs_are_given_ahead_and_run_in_order(void **state)
{
    (void)state;
    hand_over(4);
    for (uint64_t grant = 1; grant <= 4; grant++) {
        assert_int_equal(s.jobs[s.slots[0]].grant, grant);
        ended(0, MQ_OK);
    }
    assert_int_equal(s.slots[0], MQ_WS_SLOT_IDLE);
    flush();
    assert_int_equal(count(MQ_WS_SEND_RESULT), 4);
}

static void they_are_taken_back_when_the_one_before_them_is_long(void **state)
{
    (void)state;
    hand_over(4);
    now_ms += MQ_WS_HAND_MS;
    assert_int_equal(mq_ws_deadline(&s, now_ms), now_ms);
    flush();
    assert_int_equal(count(MQ_WS_RECALL), 3);
    uint32_t begun = s.handed[0][0]; /* the slot was faster with this one */
    for (uint32_t i = 0, n = out.count; i < n; i++) {
        if (out.at[i].type == MQ_WS_RECALL && out.at[i].index != begun) {
            mq_ws_on_recalled(&s, out.at[i].index, &out);
        }
    }
    assert_int_equal(in_state(MQ_WS_WAITING), 2);
    assert_int_equal(s.jobs[s.waiting_head].grant, 3); /* in order */
    flush();
    assert_int_equal(count(MQ_WS_RECALL) + count(MQ_WS_START), 0);
    assert_true(mq_ws_deadline(&s, now_ms) > now_ms); /* and nobody is asked all the time */
    ended(0, MQ_OK);
    assert_int_equal(s.slots[0], begun);
}

static void a_slots_death_costs_the_job_it_had_begun_and_no_other(void **state)
{
    (void)state;
    hand_over(4);
    mq_ws_on_slot_dead(&s, 0, mq_str("signal 9"), true, now_ms, &out);
    assert_int_equal(in_state(MQ_WS_WAITING), 3);
    flush();
    assert_int_equal(count(MQ_WS_SEND_RESULT), 1);
    const mq_ws_job *dead = &s.jobs[find(MQ_WS_SEND_RESULT)->index];
    assert_int_equal(dead->grant, 1);
    assert_int_equal(dead->class, MQ_WS_CLASS_CRASH);
    mq_ws_on_slot_ready(&s, 0, now_ms, &out);
    flush();
    assert_int_equal(s.jobs[s.slots[0]].grant, 2);
    /* It dies again, between two jobs: nobody is to blame. */
    mq_ws_on_slot_dead(&s, 0, mq_str("signal 9"), false, now_ms, &out);
    assert_int_equal(in_state(MQ_WS_WAITING), 3);
    assert_int_equal(s.jobs[s.waiting_head].grant, 2);
}

static void one_that_is_cancelled_is_taken_back_or_stopped_when_it_begins(void **state)
{
    (void)state;
    hand_over(3);
    beaten(2, "cancel");
    assert_int_equal(count(MQ_WS_RECALL), 1);
    mq_ws_on_recalled(&s, find(MQ_WS_RECALL)->index, &out);
    flush();
    assert_int_equal(s.jobs[find(MQ_WS_SEND_RESULT)->index].class, MQ_WS_CLASS_CANCELLED);
    beaten(3, "cancel"); /* too late to take it back */
    ended(0, MQ_OK);
    assert_int_equal(count(MQ_WS_CANCEL), 1);
    assert_int_equal(s.jobs[s.slots[0]].grant, 3);
    ended(0, MQ_E_CANCELLED);
    assert_int_equal(in_state(MQ_WS_ENDED), 3);
}

/* --- anything at all --- */

/* Carries out what is to be recalled; one in `odds` has been begun already (0: none). */
static void take_back(mq_prng *prng, uint64_t odds)
{
    for (uint32_t i = 0; i < out.count; i++) {
        if (out.at[i].type == MQ_WS_RECALL && (odds == 0 || mq_prng_below(prng, odds) > 0)) {
            mq_ws_on_recalled(&s, out.at[i].index, &out);
        }
    }
}

static void no_order_of_events_breaks_it(void **state)
{
    (void)state;
    static const char *const words[] = {"ok", "dup", "stale", "cancel", "timeout", "missing", "x"};
    for (uint64_t seed = 1; seed <= 300; seed++) {
        mq_prng prng = {.state = seed};
        hand = seed % 2 == 0 ? 4 : 0;
        serve(3, 2 + 2 * hand);
        hand = 0;
        uint64_t granted = 0;
        for (int step = 0; step < 400; step++) {
            uint64_t pick = mq_prng_below(&prng, 12);
            uint64_t grant = 1 + mq_prng_below(&prng, granted + 1);
            uint32_t slot = (uint32_t)mq_prng_below(&prng, 3);
            const char *word = words[mq_prng_below(&prng, 7)];
            bool is_busy = s.slots[slot] < MQ_WS_JOBS_MAX;
            now_ms += (int64_t)mq_prng_below(&prng, 800);
            if (pick < 3) {
                job(++granted, mq_prng_below(&prng, 4) == 0);
            } else if (pick == 3) {
                verdict(grant, word);
            } else if (pick == 4) {
                beaten(grant, word);
            } else if (pick == 5 && is_busy) {
                ended(slot, (mq_code)mq_prng_below(&prng, MQ_CODE_COUNT));
            } else if (pick == 6 && s.slots[slot] == MQ_WS_SLOT_DEAD) {
                mq_ws_on_slot_ready(&s, slot, now_ms, &out);
            } else if (pick == 7 && s.slots[slot] != MQ_WS_SLOT_DEAD) {
                mq_ws_on_slot_dead(&s, slot, mq_str("signal 9"), seed % 3 != 0, now_ms, &out);
            } else if (pick == 8) {
                welcome();
                registered();
            } else if (pick == 9 && mq_prng_below(&prng, 20) == 0) {
                mq_ws_on_link_down(&s, now_ms);
            } else if (pick == 10) {
                mq_ws_on_uploaded(&s, (uint32_t)mq_prng_below(&prng, MQ_WS_JOBS_MAX), pick % 2 == 0,
                                  now_ms);
            }
            flush();
            take_back(&prng, 3);
            assert_true(mq_ws_deadline(&s, now_ms) >= now_ms);
            uint32_t running = 0, busy = 0;
            size_t kept = 0;
            for (uint32_t i = 0; i < MQ_WS_JOBS_MAX; i++) {
                running += s.jobs[i].state == MQ_WS_RUNNING;
                kept += s.jobs[i].kept_bytes;
            }
            for (uint32_t i = 0; i < 3; i++) {
                busy += s.slots[i] < MQ_WS_JOBS_MAX;
            }
            assert_int_equal(running, busy);
            assert_int_equal(s.waiting_count, in_state(MQ_WS_WAITING));
            assert_int_equal(s.handed_count, in_state(MQ_WS_HANDED));
            assert_int_equal(s.handed_count, s.handed_by[0] + s.handed_by[1] + s.handed_by[2]);
            assert_int_equal(kept, s.kept_bytes);
        }
        /* However it stands, a drain ends. */
        mq_ws_drain(&s, 1000, now_ms);
        bool is_out = false;
        for (int i = 0; i < 100 && !is_out; i++) {
            now_ms += 200;
            flush();
            take_back(&prng, 0);
            is_out = count(MQ_WS_EXIT) == 1;
        }
        assert_true(is_out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_greets_registers_and_beats),
        cmocka_unit_test(it_goes_to_the_next_broker_after_three_silent_intervals),
        cmocka_unit_test(it_registers_again_when_the_broker_does_not_know_it),
        cmocka_unit_test(credit_is_absolute_and_counts_what_was_seen),
        cmocka_unit_test(a_job_sent_twice_is_one_job),
        cmocka_unit_test(jobs_beyond_the_slots_wait_in_order_and_too_many_are_returned),
        cmocka_unit_test(more_is_asked_for_only_while_jobs_are_quick),
        cmocka_unit_test(a_job_that_waits_too_long_for_a_slot_is_given_back),
        cmocka_unit_test(a_result_is_kept_and_sent_again_until_its_verdict),
        cmocka_unit_test(each_final_verdict_ends_it),
        cmocka_unit_test(a_missing_blob_is_uploaded_before_the_result_goes_again),
        cmocka_unit_test(a_transient_result_is_sent_once),
        cmocka_unit_test(a_result_that_found_no_room_goes_again_soon),
        cmocka_unit_test(codes_become_classes),
        cmocka_unit_test(a_dead_slot_is_a_crash_with_its_reason),
        cmocka_unit_test(a_dead_program_of_a_job_is_a_crash_and_the_slot_lives),
        cmocka_unit_test(cancel_asks_first_and_kills_after_five_seconds),
        cmocka_unit_test(a_result_that_was_ready_beats_a_cancel),
        cmocka_unit_test(a_stale_job_leaves_no_result),
        cmocka_unit_test(max_run_ends_as_a_timeout),
        cmocka_unit_test(a_drain_finishes_what_runs_returns_the_rest_and_leaves),
        cmocka_unit_test(after_its_deadline_a_drain_returns_what_runs_and_does_not_hang),
        cmocka_unit_test(short_jobs_are_given_ahead_and_run_in_order),
        cmocka_unit_test(they_are_taken_back_when_the_one_before_them_is_long),
        cmocka_unit_test(a_slots_death_costs_the_job_it_had_begun_and_no_other),
        cmocka_unit_test(one_that_is_cancelled_is_taken_back_or_stopped_when_it_begins),
        cmocka_unit_test(no_order_of_events_breaks_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The client session, pure: time and answers go in, actions come out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/src/core.h"

enum { CAPACITY = 64 };

typedef struct fixture {
    mq_ccore core;
    int64_t now;
} fixture;

static const char id_a[] = "01J000000000000000000000AA";
static const char id_b[] = "01J000000000000000000000BB";

static void set_up(fixture *f, uint32_t window)
{
    mq_ccore_config config = {.capacity = CAPACITY, .window = window, .seed = 7};
    mq_error err;
    assert_int_equal(mq_ccore_init(&f->core, &config, &err), MQ_OK);
    f->now = 1000;
}

/* Advances to the next action and returns it; fails when none comes within limit_ms. */
static mq_ccore_action next_within(fixture *f, int64_t limit_ms)
{
    mq_ccore_action action;
    int64_t end = f->now + limit_ms;
    while (!mq_ccore_next(&f->core, f->now, &action)) {
        int64_t due = mq_ccore_deadline(&f->core);
        assert_true(due > f->now); /* a deadline in the past with nothing to do would spin */
        assert_true(due <= end);
        f->now = due;
    }
    return action;
}

/* The same, but hellos are skipped. */
static mq_ccore_action next_real(fixture *f, int64_t limit_ms)
{
    int64_t end = f->now + limit_ms;
    mq_ccore_action action = next_within(f, limit_ms);
    while (action.what == MQ_CCORE_HELLO) {
        action = next_within(f, end - f->now);
    }
    return action;
}

/* The same with a broker that answers each hello, so that it never seems silent. */
static mq_ccore_action next_answered(fixture *f, int64_t limit_ms)
{
    int64_t end = f->now + limit_ms;
    mq_ccore_action action;
    do {
        mq_ccore_heard(&f->core, f->now);
        action = next_within(f, end - f->now);
    } while (action.what == MQ_CCORE_HELLO);
    return action;
}

static void expect_quiet(fixture *f)
{
    mq_ccore_action action;
    assert_false(mq_ccore_next(&f->core, f->now, &action));
}

static void link_up(fixture *f)
{
    mq_ccore_linked(&f->core, f->now);
    assert_int_equal(next_within(f, 0).what, MQ_CCORE_HELLO);
}

static uint32_t accept(fixture *f, const char *id)
{
    uint32_t accepted = MQ_CCORE_NONE;
    mq_ccore_heard(&f->core, f->now);
    assert_int_equal(mq_ccore_submitted(&f->core, f->now, mq_str(id), MQ_OK, 0, false, &accepted),
                     MQ_CCORE_NONE);
    return accepted;
}

static void submit_waits_for_a_link_then_goes_out(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 10);
    uint32_t slot = mq_ccore_submit(&f.core, f.now, mq_str(id_a), false, INT64_MAX);
    expect_quiet(&f);
    link_up(&f);
    mq_ccore_action action = next_within(&f, 0);
    assert_int_equal(action.what, MQ_CCORE_SUBMIT);
    assert_int_equal(action.slot, slot);
    expect_quiet(&f);
    mq_ccore_release(&f.core);
}

static void lost_ack_is_resent_with_growing_pauses_and_the_same_id(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 10);
    link_up(&f);
    uint32_t slot = mq_ccore_submit(&f.core, f.now, mq_str(id_a), false, INT64_MAX);
    assert_int_equal(next_real(&f, 0).what, MQ_CCORE_SUBMIT);
    int64_t sent = f.now;
    for (int i = 0; i < 20; i++) {
        mq_ccore_action action = next_answered(&f, 40000); /* only this answer gets lost */
        assert_int_equal(action.what, MQ_CCORE_SUBMIT);
        assert_int_equal(action.slot, slot);
        int64_t pause = f.now - sent;
        assert_true(pause >= 250 && pause <= 30250);
        assert_true(i > 0 || pause == 1000);
        sent = f.now;
    }
    assert_int_equal(f.core.entries[slot].sends, 21);
    assert_int_equal(accept(&f, id_a), slot);
    assert_int_equal(mq_ccore_done(&f.core, mq_str(id_a)), slot);
    assert_int_equal(mq_ccore_count(&f.core), 0);
    mq_ccore_release(&f.core);
}

static void answers_that_come_twice_end_a_job_once(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 10);
    link_up(&f);
    uint32_t slot = mq_ccore_submit(&f.core, f.now, mq_str(id_a), false, INT64_MAX);
    (void)next_real(&f, 0);
    assert_int_equal(accept(&f, id_a), slot);
    assert_int_equal(accept(&f, id_a), MQ_CCORE_NONE); /* dup */
    f.now += 5000;
    mq_ccore_heard(&f.core, f.now);
    mq_ccore_action ask = next_real(&f, 0);
    assert_int_equal(ask.what, MQ_CCORE_ASK);
    assert_int_equal(mq_ccore_done(&f.core, mq_str(id_a)), slot);
    assert_int_equal(mq_ccore_done(&f.core, mq_str(id_a)), MQ_CCORE_NONE);
    mq_code code;
    assert_int_equal(mq_ccore_state(&f.core, f.now, ask.rid, MQ_OK, true, &code), MQ_CCORE_NONE);
    assert_int_equal(mq_ccore_submitted(&f.core, f.now, mq_str(id_a), MQ_E_ARG, 0, false, NULL),
                     MQ_CCORE_NONE);
    mq_ccore_release(&f.core);
}

static void answer_of_an_earlier_tenant_of_the_slot_is_ignored(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 10);
    link_up(&f);
    uint32_t first = mq_ccore_open(&f.core, f.now, mq_str(id_a));
    mq_ccore_action ask = next_real(&f, 0);
    mq_ccore_drop(&f.core, first);
    uint32_t second = mq_ccore_open(&f.core, f.now, mq_str(id_b));
    assert_int_equal(first, second);
    mq_code code;
    assert_int_equal(mq_ccore_state(&f.core, f.now, ask.rid, MQ_OK, true, &code), MQ_CCORE_NONE);
    assert_int_equal(mq_ccore_count(&f.core), 1);
    mq_ccore_release(&f.core);
}

static void done_before_ack_ends_the_job(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 10);
    link_up(&f);
    uint32_t slot = mq_ccore_submit(&f.core, f.now, mq_str(id_a), true, f.now + 9000);
    (void)next_real(&f, 0);
    assert_int_equal(mq_ccore_done(&f.core, mq_str(id_a)), slot);
    assert_int_equal(accept(&f, id_a), MQ_CCORE_NONE);
    assert_int_equal(f.core.sent_count, 0);
    mq_ccore_release(&f.core);
}

static void window_bounds_unanswered_submits(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    link_up(&f);
    char ids[8][MQ_ULID_SIZE];
    for (int i = 0; i < 8; i++) {
        uint8_t random[10] = {(uint8_t)i};
        mq_ulid_make(5, random, ids[i]);
        assert_int_not_equal(mq_ccore_submit(&f.core, f.now, mq_str(ids[i]), false, INT64_MAX),
                             MQ_CCORE_NONE);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(next_within(&f, 0).what, MQ_CCORE_SUBMIT);
    }
    expect_quiet(&f);
    assert_int_not_equal(accept(&f, ids[0]), MQ_CCORE_NONE);
    mq_ccore_action action = next_within(&f, 0);
    assert_int_equal(action.what, MQ_CCORE_SUBMIT);
    assert_string_equal(f.core.entries[action.slot].id, ids[3]); /* in order of submission */
    expect_quiet(&f);
    mq_ccore_release(&f.core);
}

static void capacity_and_open_ids_are_refused(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    assert_int_not_equal(mq_ccore_submit(&f.core, f.now, mq_str(id_a), false, INT64_MAX),
                         MQ_CCORE_NONE);
    assert_int_equal(mq_ccore_submit(&f.core, f.now, mq_str(id_a), false, INT64_MAX),
                     MQ_CCORE_NONE);
    for (int i = 1; i < CAPACITY; i++) {
        assert_int_not_equal(mq_ccore_call(&f.core, f.now, INT64_MAX), MQ_CCORE_NONE);
    }
    assert_int_equal(mq_ccore_call(&f.core, f.now, INT64_MAX), MQ_CCORE_NONE);
    mq_ccore_release(&f.core);
}

static void busy_is_tried_again_after_the_brokers_wish(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    link_up(&f);
    uint32_t slot = mq_ccore_submit(&f.core, f.now, mq_str(id_a), false, INT64_MAX);
    (void)next_real(&f, 0);
    int64_t refused = f.now;
    assert_int_equal(mq_ccore_submitted(&f.core, f.now, mq_str(id_a), MQ_E_BUSY, 400, false, NULL),
                     MQ_CCORE_NONE);
    mq_ccore_action action = next_real(&f, 1000);
    assert_int_equal(action.what, MQ_CCORE_SUBMIT);
    assert_int_equal(action.slot, slot);
    assert_true(f.now - refused >= 400 && f.now - refused <= 800);
    mq_ccore_release(&f.core);
}

static void refused_for_good_ends_the_job(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    link_up(&f);
    uint32_t slot = mq_ccore_submit(&f.core, f.now, mq_str(id_a), false, INT64_MAX);
    (void)next_real(&f, 0);
    assert_int_equal(
        mq_ccore_submitted(&f.core, f.now, mq_str(id_a), MQ_E_CONFLICT, 0, false, NULL), slot);
    assert_int_equal(mq_ccore_count(&f.core), 0);
    mq_ccore_release(&f.core);
}

static void refused_batch_is_taken_apart_to_find_the_bad_one(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 8);
    link_up(&f);
    uint32_t a = mq_ccore_submit(&f.core, f.now, mq_str(id_a), false, INT64_MAX);
    uint32_t b = mq_ccore_submit(&f.core, f.now, mq_str(id_b), false, INT64_MAX);
    (void)next_real(&f, 0);
    (void)next_real(&f, 0);
    uint64_t rid = mq_ccore_new_batch(&f.core);
    mq_ccore_batched(&f.core, a, rid);
    mq_ccore_batched(&f.core, b, rid);
    (void)mq_ccore_error(&f.core, f.now, rid, MQ_E_FORMAT, 0);
    uint64_t rids[2];
    for (int i = 0; i < 2; i++) {
        mq_ccore_action action = next_real(&f, 0);
        assert_int_equal(action.what, MQ_CCORE_SUBMIT);
        assert_true(action.is_solo);
        rids[i] = mq_ccore_new_batch(&f.core);
        mq_ccore_batched(&f.core, action.slot, rids[i]);
    }
    assert_int_equal(accept(&f, id_a), a);
    (void)mq_ccore_error(&f.core, f.now, rids[1], MQ_E_FORMAT, 0);
    mq_ccore_action end = next_real(&f, 0);
    assert_int_equal(end.what, MQ_CCORE_END);
    assert_int_equal(end.slot, b);
    assert_int_equal(end.code, MQ_E_FORMAT);
    mq_ccore_release(&f.core);
}

static void silence_tries_the_next_broker_after_three_intervals(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    link_up(&f);
    (void)mq_ccore_submit(&f.core, f.now, mq_str(id_a), false, INT64_MAX);
    int64_t start = f.now;
    mq_ccore_action action = next_real(&f, 0);
    while (action.what != MQ_CCORE_ROTATE) {
        action = next_within(&f, 10000);
    }
    assert_int_equal(f.now - start, MQ_CCORE_SILENT_MAX * MQ_CCORE_SILENT_MS);
    expect_quiet(&f); /* nothing goes out without a link */
    mq_ccore_linked(&f.core, f.now);
    assert_int_equal(next_within(&f, 0).what, MQ_CCORE_HELLO);
    assert_int_equal(next_within(&f, 0).what, MQ_CCORE_SUBMIT); /* at once, with the same id */
    mq_ccore_release(&f.core);
}

static void closed_connection_tries_the_next_broker_sooner(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    link_up(&f);
    (void)mq_ccore_submit(&f.core, f.now, mq_str(id_a), false, INT64_MAX);
    (void)next_real(&f, 0);
    int64_t start = f.now;
    mq_ccore_unlinked(&f.core, f.now);
    assert_int_equal(next_within(&f, 10000).what, MQ_CCORE_ROTATE);
    assert_int_equal(f.now - start, MQ_CCORE_SILENT_MS / 2);
    mq_ccore_release(&f.core);
}

static void idle_session_wants_nothing(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    link_up(&f);
    expect_quiet(&f);
    assert_true(mq_ccore_deadline(&f.core) == INT64_MAX);
    mq_ccore_release(&f.core);
}

static void open_durable_job_is_asked_for_until_it_ends(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    link_up(&f);
    uint32_t slot = mq_ccore_submit(&f.core, f.now, mq_str(id_a), false, f.now + 60000);
    (void)next_real(&f, 0);
    (void)accept(&f, id_a);
    mq_code code;
    for (int i = 0; i < 50; i++) { /* far behind the time until which it was offered */
        mq_ccore_action action = next_answered(&f, 60000);
        assert_int_equal(action.what, MQ_CCORE_ASK);
        assert_int_equal(mq_ccore_state(&f.core, f.now, action.rid, MQ_OK, false, &code),
                         MQ_CCORE_NONE);
    }
    mq_ccore_action action = next_answered(&f, 60000);
    assert_int_equal(mq_ccore_state(&f.core, f.now, action.rid, MQ_OK, true, &code), slot);
    assert_int_equal(code, MQ_OK);
    mq_ccore_release(&f.core);
}

static void transient_job_lost_with_its_broker_is_sent_again_until_its_time_is_over(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    link_up(&f);
    int64_t ttl = f.now + 9000;
    uint32_t slot = mq_ccore_submit(&f.core, f.now, mq_str(id_a), true, ttl);
    (void)next_real(&f, 0);
    (void)accept(&f, id_a);
    mq_ccore_unlinked(&f.core, f.now);
    f.now += 300;
    mq_ccore_linked(&f.core, f.now);
    mq_ccore_action action = next_real(&f, 10);
    assert_int_equal(action.what, MQ_CCORE_ASK);
    mq_code code;
    assert_int_equal(mq_ccore_state(&f.core, f.now, action.rid, MQ_E_NOT_FOUND, false, &code),
                     MQ_CCORE_NONE);
    assert_int_equal(next_real(&f, 0).what, MQ_CCORE_SUBMIT);
    int sends = 2;
    while ((action = next_real(&f, 10000)).what != MQ_CCORE_END) {
        sends += action.what == MQ_CCORE_SUBMIT;
        if (action.what == MQ_CCORE_ROTATE) {
            mq_ccore_linked(&f.core, f.now);
        }
    }
    assert_true(sends >= 3);
    assert_int_equal(action.slot, slot);
    assert_int_equal(action.code, MQ_E_TIMEOUT);
    assert_int_equal(action.sends, sends);
    assert_true(f.now == ttl);
    mq_ccore_release(&f.core);
}

/* Each submit says that it has ended, and nobody has its end: that is not asked for ever. */
static void job_whose_end_is_lost_is_given_up(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    link_up(&f);
    uint32_t slot = mq_ccore_submit(&f.core, f.now, mq_str(id_a), true, f.now + 600000);
    uint32_t ended = MQ_CCORE_NONE;
    mq_code code = MQ_OK;
    int rounds = 0;
    for (; ended == MQ_CCORE_NONE && rounds < 10; rounds++) {
        assert_int_equal(next_real(&f, 10).what, MQ_CCORE_SUBMIT);
        assert_int_equal(mq_ccore_submitted(&f.core, f.now, mq_str(id_a), MQ_OK, 0, true, NULL),
                         MQ_CCORE_NONE);
        mq_ccore_action action = next_real(&f, 10);
        assert_int_equal(action.what, MQ_CCORE_ASK);
        ended = mq_ccore_state(&f.core, f.now, action.rid, MQ_E_NOT_FOUND, false, &code);
    }
    assert_int_equal(ended, slot);
    assert_int_equal(code, MQ_E_NOT_FOUND);
    assert_int_equal(rounds, MQ_CCORE_ENDED_MAX);
    mq_ccore_release(&f.core);
}

static void job_opened_by_an_unknown_id_is_not_found(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    link_up(&f);
    uint32_t slot = mq_ccore_open(&f.core, f.now, mq_str(id_a));
    mq_ccore_action action = next_real(&f, 0);
    mq_code code;
    assert_int_equal(mq_ccore_state(&f.core, f.now, action.rid, MQ_E_NOT_FOUND, false, &code),
                     slot);
    assert_int_equal(code, MQ_E_NOT_FOUND);
    mq_ccore_release(&f.core);
}

static void jobs_that_a_broker_lost_are_offered_again_within_the_window(void **state)
{
    (void)state;
    fixture f;
    mq_code code = MQ_OK;
    set_up(&f, 1);
    link_up(&f);
    for (int i = 0; i < 2; i++) {
        const char *id = i == 0 ? id_a : id_b;
        assert_int_not_equal(mq_ccore_submit(&f.core, f.now, mq_str(id), true, INT64_MAX),
                             MQ_CCORE_NONE);
        (void)next_real(&f, 0);
        (void)accept(&f, id);
    }
    for (int i = 0; i < 2; i++) {
        mq_ccore_action action = next_real(&f, i == 0 ? 2000 : 0);
        assert_int_equal(action.what, MQ_CCORE_ASK);
        (void)mq_ccore_state(&f.core, f.now, action.rid, MQ_E_NOT_FOUND, false, &code);
        assert_int_equal(code, MQ_OK);
    }
    assert_int_equal(next_real(&f, 0).what, MQ_CCORE_SUBMIT);
    assert_int_equal(f.core.sent_count, 1);
    assert_int_equal(f.core.waiting_count, 1);
    mq_ccore_release(&f.core);
}

static void cancel_before_sending_ends_here_and_later_is_asked_for_until_met(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    uint32_t a = mq_ccore_submit(&f.core, f.now, mq_str(id_a), false, INT64_MAX);
    assert_true(mq_ccore_cancel(&f.core, f.now, a, false));
    assert_int_equal(mq_ccore_count(&f.core), 0);
    link_up(&f);
    uint32_t b = mq_ccore_submit(&f.core, f.now, mq_str(id_b), false, INT64_MAX);
    (void)next_real(&f, 0);
    assert_false(mq_ccore_cancel(&f.core, f.now, b, true)); /* the ack is still under way */
    (void)accept(&f, id_b);
    mq_ccore_action action = next_real(&f, 0);
    assert_int_equal(action.what, MQ_CCORE_ASK);
    assert_int_equal(action.cancel, 2);
    action = next_real(&f, 2000);
    assert_int_equal(action.cancel, 2); /* not answered: again */
    assert_int_equal(mq_ccore_answered(&f.core, f.now, action.rid, MQ_E_BUSY), MQ_CCORE_NONE);
    mq_ccore_heard(&f.core, f.now);
    action = next_real(&f, 2000);
    assert_int_equal(action.cancel, 2); /* put off: again */
    assert_int_equal(mq_ccore_answered(&f.core, 0, action.rid, MQ_OK), MQ_CCORE_NONE);
    mq_ccore_heard(&f.core, f.now);
    action = next_real(&f, 5000);
    assert_int_equal(action.cancel, 0);
    mq_ccore_release(&f.core);
}

static void call_is_resent_with_one_rid_until_answered(void **state)
{
    (void)state;
    fixture f;
    set_up(&f, 3);
    link_up(&f);
    uint32_t slot = mq_ccore_call(&f.core, f.now, INT64_MAX);
    mq_ccore_action first = next_real(&f, 0);
    assert_int_equal(first.what, MQ_CCORE_SEND);
    mq_ccore_action second = next_real(&f, 1000);
    assert_true(first.rid == second.rid);
    assert_int_equal(mq_ccore_answered(&f.core, 0, first.rid, MQ_OK), slot);
    assert_int_equal(mq_ccore_answered(&f.core, 0, first.rid, MQ_OK), MQ_CCORE_NONE);
    mq_ccore_release(&f.core);
}

/* A broker that loses, repeats and forgets at random: each job ends exactly once. */
static void run_seed(uint64_t seed)
{
    fixture f;
    set_up(&f, 5);
    mq_prng prng = {seed};
    link_up(&f);
    char ids[40][MQ_ULID_SIZE];
    int ends[CAPACITY] = {0};
    int job_of[CAPACITY];
    for (int i = 0; i < 40; i++) {
        uint8_t random[10] = {(uint8_t)i};
        mq_ulid_make((int64_t)seed, random, ids[i]);
        bool is_transient = i % 2 == 0;
        uint32_t slot = mq_ccore_submit(&f.core, f.now, mq_str(ids[i]), is_transient,
                                        is_transient ? f.now + 60000 : INT64_MAX);
        job_of[slot] = i;
    }
    bool is_calm = false;
    for (int step = 0; mq_ccore_count(&f.core) > 0; step++) {
        assert_true(step < 20000);
        is_calm = step > 3000;
        mq_ccore_action action = next_within(&f, 40000);
        uint64_t dice = mq_prng_below(&prng, 10);
        if (action.what == MQ_CCORE_END) {
            ends[job_of[action.slot]]++;
            continue;
        }
        if (action.what == MQ_CCORE_ROTATE || (!is_calm && dice == 9)) {
            mq_ccore_unlinked(&f.core, f.now);
            mq_ccore_linked(&f.core, f.now + 10);
            f.now += 10;
            continue;
        }
        if (!is_calm && dice < 5) {
            continue; /* lost */
        }
        mq_ccore_heard(&f.core, f.now);
        mq_code code = MQ_OK;
        uint32_t ended = MQ_CCORE_NONE;
        char id[MQ_CCORE_ID_SIZE];
        if (action.what == MQ_CCORE_SUBMIT) {
            memcpy(id, f.core.entries[action.slot].id, sizeof id);
            (void)mq_ccore_submitted(&f.core, f.now, mq_str(id), MQ_OK, 0, false, NULL);
            if (dice % 2 == 0) {
                ended = mq_ccore_done(&f.core, mq_str(id));
                assert_int_equal(mq_ccore_done(&f.core, mq_str(id)), MQ_CCORE_NONE);
            }
        } else if (action.what == MQ_CCORE_ASK) {
            mq_code verdict = !is_calm && dice == 8 ? MQ_E_NOT_FOUND : MQ_OK;
            ended = mq_ccore_state(&f.core, f.now, action.rid, verdict, dice % 2 == 0, &code);
        }
        if (ended != MQ_CCORE_NONE) {
            ends[job_of[ended]]++;
        }
    }
    for (int i = 0; i < 40; i++) {
        assert_int_equal(ends[i], 1);
    }
    assert_int_equal(f.core.sent_count, 0);
    assert_int_equal(f.core.waiting_count, 0);
    mq_ccore_release(&f.core);
}

static void each_job_ends_exactly_once_whatever_is_lost(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        run_seed(seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(submit_waits_for_a_link_then_goes_out),
        cmocka_unit_test(lost_ack_is_resent_with_growing_pauses_and_the_same_id),
        cmocka_unit_test(answers_that_come_twice_end_a_job_once),
        cmocka_unit_test(answer_of_an_earlier_tenant_of_the_slot_is_ignored),
        cmocka_unit_test(done_before_ack_ends_the_job),
        cmocka_unit_test(window_bounds_unanswered_submits),
        cmocka_unit_test(capacity_and_open_ids_are_refused),
        cmocka_unit_test(busy_is_tried_again_after_the_brokers_wish),
        cmocka_unit_test(refused_for_good_ends_the_job),
        cmocka_unit_test(refused_batch_is_taken_apart_to_find_the_bad_one),
        cmocka_unit_test(silence_tries_the_next_broker_after_three_intervals),
        cmocka_unit_test(closed_connection_tries_the_next_broker_sooner),
        cmocka_unit_test(idle_session_wants_nothing),
        cmocka_unit_test(open_durable_job_is_asked_for_until_it_ends),
        cmocka_unit_test(transient_job_lost_with_its_broker_is_sent_again_until_its_time_is_over),
        cmocka_unit_test(job_whose_end_is_lost_is_given_up),
        cmocka_unit_test(job_opened_by_an_unknown_id_is_not_found),
        cmocka_unit_test(jobs_that_a_broker_lost_are_offered_again_within_the_window),
        cmocka_unit_test(cancel_before_sending_ends_here_and_later_is_asked_for_until_met),
        cmocka_unit_test(call_is_resent_with_one_rid_until_answered),
        cmocka_unit_test(each_job_ends_exactly_once_whatever_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The core's rules for gangs: forming, rosters, deaths, checkpoints, results. */
#include "tests/support/core_world.h"

static const char hash_a[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
static const char hash_b[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

static void submit_gang(world *w, char id[MQ_ULID_SIZE], uint64_t least, uint64_t most)
{
    w_id(w, id);
    mq_msg_submit_job item = {
        .id = mq_str(id), .kind = mq_str("train"), .seats_min = least, .seats_max = most};
    w_submit_item(w, 1, 1, &item, "manifest");
    w_turn(w);
}

/* All seats that were sent so far, in order of seat. */
static uint32_t seats_of(world *w, const char *id, w_entry out[8])
{
    uint32_t count = 0;
    for (w_entry *e = w_find(w, MQ_OUT_JOB, id); e != NULL; e = w_find(w, MQ_OUT_JOB, id)) {
        out[count++] = *e;
    }
    return count;
}

static void beat_seat(world *w, uint32_t worker, uint64_t seq, const w_entry *seat)
{
    mq_msg_held held = w_held(seat);
    w_beat(w, worker, seq, 0, 1, &held, 1);
    w_turn(w);
}

static void a_gang_forms_only_with_its_least_seats_at_once(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    w_open(&w);
    submit_gang(&w, id, 2, 4);
    w_worker(&w, 1, 1);
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_worker(&w, 2, 1);
    w_turn(&w);
    assert_int_equal(seats_of(&w, id, seats), 2);
    assert_int_equal(seats[0].epoch, seats[1].epoch);
    assert_int_not_equal(seats[0].grant, seats[1].grant);
    assert_int_equal(seats[0].seat, 0);
    assert_int_equal(seats[1].seat, 1);
    assert_int_equal(seats[0].gang_epoch, seats[1].gang_epoch);
    assert_true(seats[0].gang_epoch > 0);
    assert_int_equal(seats[0].member_count, 2);
    assert_string_equal(seats[0].payload, "manifest");
    w_close(&w);
}

static void only_equal_fingerprints_share_a_gang(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    w_open(&w);
    submit_gang(&w, id, 2, 3);
    w_ready_held(&w, 1, 1, "A", NULL, 0);
    w_credit(&w, 1, 1, 1, 0);
    w_ready_held(&w, 2, 1, "B", NULL, 0);
    w_credit(&w, 2, 1, 1, 0);
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_ready_held(&w, 3, 1, "B", NULL, 0);
    w_credit(&w, 3, 1, 1, 0);
    w_turn(&w);
    assert_int_equal(seats_of(&w, id, seats), 2);
    assert_int_equal(seats[0].conn, 102);
    assert_int_equal(seats[1].conn, 103);
    w_close(&w);
}

static void seats_are_idle_slots_not_prefetch(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_open(&w);
    submit_gang(&w, id, 2, 2);
    w_ready_held(&w, 1, 1, "fp", NULL, 0);
    w_credit(&w, 1, 1, 3, 0); /* one slot, two more asked for in advance */
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_close(&w);
}

static void a_waiting_gang_does_not_hold_others_up_and_gets_its_turn(void **unused)
{
    (void)unused;
    world w;
    char gang[MQ_ULID_SIZE], id[MQ_ULID_SIZE];
    w_entry seats[8];
    w_open(&w);
    w_worker(&w, 1, 1);
    w_worker(&w, 2, 1);
    w_submit(&w, id, "echo", "x");
    w_turn(&w);
    w_entry job = *w_expect(&w, MQ_OUT_JOB, id);
    submit_gang(&w, gang, 2, 2);
    w_submit(&w, id, "echo", "x"); /* runs on the other one, though the gang is older */
    w_turn(&w);
    w_entry second = *w_expect(&w, MQ_OUT_JOB, id);
    for (int i = 0; i < 25; i++) { /* a stream of small jobs: first one, then the other ends */
        w_submit(&w, id, "echo", "x");
        w_sleep(&w, 500);
        w_credit(&w, 1, 100 + (uint64_t)i, 0, 1);
        w_credit(&w, 2, 100 + (uint64_t)i, 0, 1);
        mq_msg_held h1 = w_held(&job), h2 = w_held(&second);
        w_beat(&w, 1, 100 + (uint64_t)i, 0, 1, &h1, 1);
        w_beat(&w, 2, 100 + (uint64_t)i, 0, 1, &h2, 1);
    }
    w_expect_none(&w, MQ_OUT_JOB, NULL);
    w_result(&w, 1, &job, "ok", "y");
    w_turn(&w);
    w_credit(&w, 1, 200, 1, 1);
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, NULL); /* kept free for the gang */
    w_result(&w, 2, &second, "ok", "y");
    w_turn(&w);
    w_credit(&w, 2, 200, 1, 1);
    w_turn(&w);
    assert_int_equal(seats_of(&w, gang, seats), 2);
    w_close(&w);
}

/* A gang of three single-slot workers, all accepted. */
static void three(world *w, char id[MQ_ULID_SIZE], w_entry seats[8], uint64_t most)
{
    w_open(w);
    w_worker(w, 1, 1);
    w_worker(w, 2, 1);
    w_worker(w, 3, 1);
    submit_gang(w, id, 1, most);
    assert_int_equal(seats_of(w, id, seats), 3);
    for (uint32_t i = 0; i < 3; i++) {
        beat_seat(w, i + 1, 1, &seats[i]);
    }
    w_forget(w);
}

static void survivors_get_a_roster_at_once_when_a_peer_reports_a_death(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 3);
    mq_msg_lost lost = {.id = mq_str(id),
                        .epoch = seats[0].epoch,
                        .grant = seats[0].grant,
                        .gang_epoch = seats[0].gang_epoch,
                        .seat = 1};
    mq_input in = {.type = MQ_IN_LOST, .conn = 102, .as.lost = &lost};
    w_step(&w, &in); /* not from the accuser's connection */
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_ROSTER, id);
    in.conn = 101;
    w_step(&w, &in);
    w_turn(&w);
    w_entry *r = w_expect(&w, MQ_OUT_ROSTER, id);
    assert_int_equal(r->member_count, 2);
    assert_int_equal(r->members[0], 0);
    assert_int_equal(r->members[1], 2);
    assert_true(r->gang_epoch > seats[0].gang_epoch);
    w_expect(&w, MQ_OUT_ROSTER, id);
    w_expect_none(&w, MQ_OUT_ROSTER, id);
    w_forget(&w);
    beat_seat(&w, 2, 2, &seats[1]); /* the accused is fenced */
    assert_string_equal(w_expect(&w, MQ_OUT_BEATEN, id)->verdict, "stale");
    w_step(&w, &in); /* the same accusation again: it is of an old roster */
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_ROSTER, id);
    assert_string_equal(w_state(&w, id), "leased");
    w_close(&w);
}

static void a_silent_member_lapses_alone(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 3);
    for (uint64_t i = 2; i < 9; i++) {
        w_sleep(&w, 1000);
        beat_seat(&w, 1, i, &seats[0]);
        beat_seat(&w, 3, i, &seats[2]);
    }
    w_entry *r = w_expect(&w, MQ_OUT_ROSTER, id);
    assert_int_equal(r->member_count, 2);
    assert_string_equal(w_state(&w, id), "leased");
    w_close(&w);
}

static void with_the_last_member_the_job_goes_back_with_its_checkpoint(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 3);
    mq_msg_checkpoint c = {.id = mq_str(id),
                           .epoch = seats[0].epoch,
                           .grant = seats[0].grant,
                           .gang_epoch = seats[0].gang_epoch,
                           .step = 100,
                           .chain = mq_str("c100"),
                           .blob = mq_str(hash_a),
                           .meta = mq_str("{}")};
    mq_input in = {.type = MQ_IN_CHECKPOINT, .conn = 101, .as.checkpoint = &c};
    w_step(&w, &in);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_CHECKPOINTED, id)->verdict, "ok");
    w_sleep(&w, 5000);
    assert_string_equal(w_state(&w, id), "queued");
    w_crash(&w);
    w_worker(&w, 4, 1);
    w_turn(&w);
    w_entry *again = w_expect(&w, MQ_OUT_JOB, id);
    assert_int_equal(again->step, 100);
    assert_string_equal(again->chain, "c100");
    assert_string_equal(again->blob, hash_a);
    assert_int_equal(again->seat, 3); /* numbers are not used twice */
    w_close(&w);
}

static void checkpoints_are_fenced_by_epoch_and_step(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 3);
    mq_msg_checkpoint c = {.id = mq_str(id),
                           .epoch = seats[0].epoch,
                           .grant = seats[0].grant,
                           .gang_epoch = seats[0].gang_epoch,
                           .step = 10,
                           .chain = mq_str("c"),
                           .blob = mq_str(hash_a)};
    mq_input in = {.type = MQ_IN_CHECKPOINT, .conn = 101, .as.checkpoint = &c};
    w.is_held = true;
    w_step(&w, &in);
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_CHECKPOINTED, id); /* not before it is stored */
    w.is_held = false;
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_CHECKPOINTED, id)->verdict, "ok");
    w_step(&w, &in);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_CHECKPOINTED, id)->verdict, "dup");
    c.step = 9;
    w_step(&w, &in);
    assert_string_equal(w_expect(&w, MQ_OUT_CHECKPOINTED, id)->verdict, "stale");
    c.step = 11;
    c.gang_epoch--;
    w_step(&w, &in);
    assert_string_equal(w_expect(&w, MQ_OUT_CHECKPOINTED, id)->verdict, "stale");
    c.gang_epoch++;
    c.blob = mq_str("nonsense");
    w_step(&w, &in);
    assert_string_equal(w_expect(&w, MQ_OUT_CHECKPOINTED, id)->verdict, "bad_argument");
    assert_int_equal(w.unpinned_count, 0);
    c.blob = mq_str(hash_b);
    w_step(&w, &in);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_CHECKPOINTED, id)->verdict, "ok");
    assert_int_equal(w.unpinned_count, 1); /* the one before is let go */
    assert_string_equal(w.unpinned[0], hash_a);
    w_close(&w);
}

static void a_gang_grows_by_slots_that_nobody_waits_for(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 4);
    w_worker(&w, 4, 1);
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_JOB, id); /* at most one change a second */
    w.is_held = false;
    w_sleep(&w, 1100);
    w_entry joined = *w_expect(&w, MQ_OUT_JOB, id);
    assert_int_equal(joined.conn, 104);
    assert_int_equal(joined.seat, 3);
    assert_int_equal(joined.member_count, 4);
    for (int i = 0; i < 3; i++) {
        w_entry *r = w_expect(&w, MQ_OUT_ROSTER, id);
        assert_int_equal(r->member_count, 4);
        assert_int_equal(r->gang_epoch, joined.gang_epoch);
    }
    w_close(&w);
}

static void a_seat_that_joins_is_stored_before_it_is_told(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 4);
    w_worker(&w, 4, 1);
    w_turn(&w);
    w.is_held = true;
    w_sleep(&w, 1100);
    w_expect_none(&w, MQ_OUT_JOB, id);
    w_expect_none(&w, MQ_OUT_ROSTER, id);
    w.is_held = false;
    w_turn(&w);
    w_expect(&w, MQ_OUT_JOB, id);
    w_expect(&w, MQ_OUT_ROSTER, id);
    w_close(&w);
}

static void the_first_result_with_content_commits_and_the_others_stop(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 3);
    w_result(&w, 2, &seats[1], "ok", NULL); /* done, but it brings nothing */
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_ENDED, id);
    w_expect_none(&w, MQ_OUT_ROSTER, id);
    w_result(&w, 1, &seats[0], "ok", "weights");
    w_turn(&w);
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, id);
    assert_string_equal(end->payload, "weights");
    int ok = 0, stale = 0;
    for (w_entry *e = w_find(&w, MQ_OUT_VERDICT, id); e != NULL;
         e = w_find(&w, MQ_OUT_VERDICT, id)) {
        ok += strcmp(e->verdict, "ok") == 0 && e->grant == seats[0].grant;
        stale += strcmp(e->verdict, "ok") != 0 && e->grant == seats[1].grant;
    }
    assert_int_equal(ok, 1);
    assert_int_equal(stale, 1);
    assert_string_equal(w_expect(&w, MQ_OUT_BEATEN, id)->verdict, "cancel"); /* seat 2 */
    beat_seat(&w, 3, 2, &seats[2]);
    assert_string_equal(w_expect(&w, MQ_OUT_BEATEN, id)->verdict, "cancel");
    w_result(&w, 3, &seats[2], "ok", "too late");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "stale");
    w_result(&w, 1, &seats[0], "ok", "weights");
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "dup");
    w_expect_none(&w, MQ_OUT_ENDED, id);
    w_close(&w);
}

static void empty_results_of_all_seats_are_a_result(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 3);
    for (uint32_t i = 0; i < 3; i++) {
        w_expect_none(&w, MQ_OUT_ENDED, id);
        w_result(&w, i + 1, &seats[i], "ok", NULL);
        w_turn(&w);
    }
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "succeeded");
    w_close(&w);
}

static void a_fatal_seat_ends_the_gang(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 3);
    w_result(&w, 2, &seats[1], "fatal", NULL);
    w_turn(&w);
    w_entry *end = w_expect(&w, MQ_OUT_ENDED, id);
    assert_string_equal(end->state, "dead");
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "ok");
    w_expect(&w, MQ_OUT_BEATEN, id);
    w_expect(&w, MQ_OUT_BEATEN, id);
    w_close(&w);
}

static void crashes_of_seats_are_poison_unless_there_is_progress(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 3);
    w_result(&w, 3, &seats[2], "crash", NULL);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_VERDICT, id)->verdict, "ok");
    w_entry r = *w_expect(&w, MQ_OUT_ROSTER, id);
    assert_int_equal(r.member_count, 2);
    w_result(&w, 2, &seats[1], "crash", NULL);
    w_turn(&w);
    w_forget(&w);
    uint64_t gang_epoch = 0;
    mq_record_member members[MQ_GANG_SEATS_MAX];
    assert_int_equal(
        mq_core_members(w.core, mq_core_find(w.core, mq_str(id)), &gang_epoch, members), 1);
    mq_msg_checkpoint c = {.id = mq_str(id),
                           .epoch = seats[0].epoch,
                           .grant = seats[0].grant,
                           .gang_epoch = gang_epoch,
                           .step = 1,
                           .blob = mq_str(hash_a)};
    mq_input in = {.type = MQ_IN_CHECKPOINT, .conn = 101, .as.checkpoint = &c};
    w_step(&w, &in);
    w_turn(&w);
    assert_string_equal(w_expect(&w, MQ_OUT_CHECKPOINTED, id)->verdict, "ok");
    w_result(&w, 1, &seats[0], "crash", NULL); /* the third, but the first since the step */
    w_turn(&w);
    w_expect_none(&w, MQ_OUT_ENDED, id);
    assert_string_equal(w_state(&w, id), "queued");
    w_close(&w);
}

static void a_gang_that_is_cancelled_ends_when_its_members_stop(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 3);
    mq_msg_cancel m = {.id = mq_str(id)};
    mq_input in = {.type = MQ_IN_CANCEL, .conn = 1, .rid = 1, .as.cancel = &m};
    w_step(&w, &in);
    w_turn(&w);
    for (uint32_t i = 0; i < 3; i++) {
        assert_string_equal(w_expect(&w, MQ_OUT_BEATEN, id)->verdict, "cancel");
    }
    for (uint32_t i = 0; i < 3; i++) {
        w_expect_none(&w, MQ_OUT_ENDED, id);
        w_result(&w, i + 1, &seats[i], "cancelled", NULL);
        w_turn(&w);
    }
    assert_string_equal(w_expect(&w, MQ_OUT_ENDED, id)->state, "cancelled");
    w_close(&w);
}

static void members_keep_their_seats_over_a_broker_crash(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 3);
    w_crash(&w);
    w_turn(&w);
    for (uint32_t i = 0; i < 3; i++) {
        mq_msg_held held = w_held(&seats[i]);
        w_ready_held(&w, i + 1, 1, "fp", &held, 1);
        assert_string_equal(w_expect(&w, MQ_OUT_REGISTERED, id)->verdict, "ok");
        w_turn(&w);
        if (i < 2) {
            w_expect_none(&w, MQ_OUT_ROSTER, id);
        }
    }
    for (int i = 0; i < 3; i++) { /* a new roster under the new owner's epoch */
        w_entry *r = w_expect(&w, MQ_OUT_ROSTER, id);
        assert_int_equal(r->member_count, 3);
        assert_true(r->gang_epoch > seats[0].gang_epoch);
        assert_int_equal(r->epoch, seats[0].epoch);
    }
    w_expect_none(&w, MQ_OUT_JOB, id);
    w_close(&w);
}

static void members_that_do_not_come_back_lapse_after_grace(void **unused)
{
    (void)unused;
    world w;
    char id[MQ_ULID_SIZE];
    w_entry seats[8];
    three(&w, id, seats, 3);
    w_crash(&w);
    mq_msg_held held = w_held(&seats[0]);
    w_ready_held(&w, 1, 1, "fp", &held, 1);
    for (uint64_t i = 1; i <= 16; i++) { /* job leases of 15 s in this test's jobs: 3 s here */
        w_sleep(&w, 1000);
        beat_seat(&w, 1, i, &seats[0]);
    }
    w_entry *r = w_expect(&w, MQ_OUT_ROSTER, id);
    assert_int_equal(r->member_count, 1);
    assert_string_equal(w_state(&w, id), "leased");
    w_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gang_forms_only_with_its_least_seats_at_once),
        cmocka_unit_test(only_equal_fingerprints_share_a_gang),
        cmocka_unit_test(seats_are_idle_slots_not_prefetch),
        cmocka_unit_test(a_waiting_gang_does_not_hold_others_up_and_gets_its_turn),
        cmocka_unit_test(survivors_get_a_roster_at_once_when_a_peer_reports_a_death),
        cmocka_unit_test(a_silent_member_lapses_alone),
        cmocka_unit_test(with_the_last_member_the_job_goes_back_with_its_checkpoint),
        cmocka_unit_test(checkpoints_are_fenced_by_epoch_and_step),
        cmocka_unit_test(a_gang_grows_by_slots_that_nobody_waits_for),
        cmocka_unit_test(a_seat_that_joins_is_stored_before_it_is_told),
        cmocka_unit_test(the_first_result_with_content_commits_and_the_others_stop),
        cmocka_unit_test(empty_results_of_all_seats_are_a_result),
        cmocka_unit_test(a_fatal_seat_ends_the_gang),
        cmocka_unit_test(crashes_of_seats_are_poison_unless_there_is_progress),
        cmocka_unit_test(a_gang_that_is_cancelled_ends_when_its_members_stop),
        cmocka_unit_test(members_keep_their_seats_over_a_broker_crash),
        cmocka_unit_test(members_that_do_not_come_back_lapse_after_grace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

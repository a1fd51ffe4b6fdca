/* What a store promises about jobs, told once and checked on both stores. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/store_world.h"

/* ---- jobs ---- */

static void a_created_job_is_in_its_segment_with_its_body(void **state)
{
    world *w = *state;
    char a[MQ_ULID_SIZE];
    char b[MQ_ULID_SIZE];
    char c[MQ_ULID_SIZE];
    take(w);
    mq_store_create three[] = {
        {.id = id_of(w, 1, a), .number = 5, .record = mq_str("ra"), .body = mq_str("ba")},
        {.id = id_of(w, 2, b), .number = MQ_STORE_SEGMENT_JOBS, .record = mq_str("rb")},
        {.id = id_of(w, 3, c), .number = 6, .record = mq_str("rc"), .body = large(w)},
    };
    commit(w, &(mq_store_batch){.creates = three, .create_count = 3});
    assert_int_equal(w->got.reply.dup_count, 0);
    mq_test_segments(w->store, &w->got);
    mq_test_sort(&w->got);
    assert_int_equal(w->got.pair_count, 2);
    assert_true(mq_span_is(w->got.pairs[0].field, "0"));
    assert_true(mq_span_is(w->got.pairs[1].field, "1"));
    assert_int_equal(count_part(w, MQ_PART_LIVE, 0), 2);
    assert_int_equal(count_part(w, MQ_PART_LIVE, 1), 1);
    assert_true(mq_span_is(w->got.pairs[0].field, b));
    assert_true(mq_span_is(w->got.pairs[0].value, "rb"));
    assert_int_equal(count_part(w, MQ_PART_REQ, 0), 3);
    mq_span ids[] = {mq_str(c), mq_str(a), mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"), mq_str(b)};
    mq_test_bodies(w->store, ids, 4, &w->got);
    assert_int_equal(w->got.code, MQ_OK);
    mq_test_sort(&w->got);
    assert_int_equal(w->got.pair_count, 3);
    assert_true(mq_span_is(w->got.pairs[0].value, "ba"));
    assert_int_equal(w->got.pairs[1].value.len, 0);
    assert_true(mq_span_eq(w->got.pairs[2].value, large(w)));
    assert_job(w, mq_str(b), "rb", (mq_span){0});
}

static void a_known_id_is_refused_and_the_rest_of_the_batch_applied(void **state)
{
    world *w = *state;
    char live[MQ_ULID_SIZE];
    char done[MQ_ULID_SIZE];
    char dead[MQ_ULID_SIZE];
    char fresh[MQ_ULID_SIZE];
    take(w);
    create(w, id_of(w, 1, live), 1, "live", mq_str("body"));
    create(w, id_of(w, 2, done), 2, "x", mq_str("b"));
    finish(w, (mq_store_finish){.id = mq_str(done), .number = 2, .record = mq_str("done")});
    create(w, id_of(w, 3, dead), 3, "x", mq_str("b"));
    finish(w, (mq_store_finish){
                  .id = mq_str(dead), .number = 3, .record = mq_str("dead"), .is_dead = true});
    mq_store_create four[] = {
        {.id = mq_str(done), .number = 10, .record = mq_str("no"), .body = large(w)},
        {.id = id_of(w, 4, fresh), .number = 11, .record = mq_str("yes"), .body = large(w)},
        {.id = mq_str(dead), .number = 12, .record = mq_str("no")},
        {.id = mq_str(live), .number = 40000, .record = mq_str("no"), .body = mq_str("no")},
    };
    commit(w, &(mq_store_batch){.creates = four, .create_count = 4});
    assert_int_equal(w->got.reply.dup_count, 3);
    assert_int_equal(w->got.reply.dups[0], 0);
    assert_int_equal(w->got.reply.dups[1], 2);
    assert_int_equal(w->got.reply.dups[2], 3);
    assert_job(w, mq_str(live), "live", (mq_span){0});
    assert_job(w, mq_str(done), "done", (mq_span){0});
    assert_job(w, mq_str(dead), "dead", (mq_span){0});
    assert_job(w, mq_str(fresh), "yes", (mq_span){0});
    mq_test_bodies(w->store, &(mq_span){(const uint8_t *)live, MQ_ULID_LEN}, 1, &w->got);
    assert_true(mq_span_is(w->got.pairs[0].value, "body"));
    assert_int_equal(count_part(w, MQ_PART_LIVE, 0), 2);
    assert_int_equal(count_part(w, MQ_PART_LIVE, 2), 0);
}

static void a_put_replaces_the_record(void **state)
{
    world *w = *state;
    char text[MQ_ULID_SIZE];
    take(w);
    create(w, id_of(w, 1, text), 7, "first", mq_str("b"));
    mq_store_put put = {.id = mq_str(text), .number = 7, .record = mq_str("second")};
    commit(w, &(mq_store_batch){.puts = &put, .put_count = 1});
    assert_int_equal(w->got.reply.ignored_count, 0);
    assert_job(w, mq_str(text), "second", (mq_span){0});
}

static void changes_of_jobs_that_are_not_live_are_ignored_and_counted(void **state)
{
    world *w = *state;
    char done[MQ_ULID_SIZE];
    char live[MQ_ULID_SIZE];
    char none[MQ_ULID_SIZE];
    char ok[MQ_ULID_SIZE];
    take(w);
    create(w, id_of(w, 1, done), 1, "x", mq_str("b"));
    finish(w,
           (mq_store_finish){
               .id = mq_str(done), .number = 1, .record = mq_str("r1"), .result = mq_str("one")});
    create(w, id_of(w, 2, live), 2, "live", mq_str("b"));
    create(w, id_of(w, 4, ok), 3, "x", mq_str("b"));
    mq_store_put puts[] = {
        {.id = id_of(w, 3, none), .number = 3, .record = mq_str("no")},
        {.id = mq_str(live), .number = 20000, .record = mq_str("wrong segment")},
    };
    mq_store_finish finishes[] = {
        {.id = mq_str(done), .number = 1, .record = mq_str("no"), .retention_ms = HOUR_MS},
        {.id = mq_str(ok), .number = 3, .record = mq_str("end"), .retention_ms = HOUR_MS},
    };
    commit(w, &(mq_store_batch){
                  .puts = puts, .put_count = 2, .finishes = finishes, .finish_count = 2});
    assert_int_equal(w->got.reply.ignored_count, 3);
    assert_job(w, mq_str(done), "r1", mq_str("one"));
    assert_job(w, mq_str(live), "live", (mq_span){0});
    assert_job(w, mq_str(ok), "end", (mq_span){0});
    assert_no_job(w, mq_str(none));
    /* A finish under a wrong segment number is no finish. */
    mq_store_finish wrong = {
        .id = mq_str(live), .number = 20000, .record = mq_str("no"), .retention_ms = HOUR_MS};
    commit(w, &(mq_store_batch){.finishes = &wrong, .finish_count = 1});
    assert_int_equal(w->got.reply.ignored_count, 1);
    assert_job(w, mq_str(live), "live", (mq_span){0});
    assert_int_equal(count_part(w, MQ_PART_LIVE, 1), 0);
    assert_int_equal(count_part(w, MQ_PART_REQ, 0), 1);
}

static void a_finished_job_keeps_record_and_result_and_leaves_nothing_live(void **state)
{
    world *w = *state;
    char a[MQ_ULID_SIZE];
    char b[MQ_ULID_SIZE];
    take(w);
    create(w, id_of(w, 1, a), 1, "x", mq_str("b"));
    create(w, id_of(w, 2, b), 2, "x", large(w));
    finish(w, (mq_store_finish){
                  .id = mq_str(a), .number = 1, .record = mq_str("ra"), .result = mq_str("small")});
    finish(w, (mq_store_finish){
                  .id = mq_str(b), .number = 2, .record = mq_str("rb"), .result = large(w)});
    assert_job(w, mq_str(a), "ra", mq_str("small"));
    assert_job(w, mq_str(b), "rb", large(w));
    mq_test_segments(w->store, &w->got);
    assert_int_equal(w->got.pair_count, 0);
    assert_int_equal(count_part(w, MQ_PART_REQ, 0), 0);
}

static void a_job_that_ends_at_once_is_refused_when_its_id_is_known(void **state)
{
    world *w = *state;
    char a[MQ_ULID_SIZE];
    char b[MQ_ULID_SIZE];
    char c[MQ_ULID_SIZE];
    take(w);
    mq_store_finish first = {.id = id_of(w, 1, a),
                             .record = mq_str("memo"),
                             .result = mq_str("known"),
                             .retention_ms = HOUR_MS,
                             .is_new = true};
    commit(w, &(mq_store_batch){.finishes = &first, .finish_count = 1});
    assert_int_equal(w->got.reply.dup_count, 0);
    create(w, id_of(w, 2, b), 2, "live", mq_str("b"));
    mq_store_finish three[] = {
        {.id = mq_str(b), .record = mq_str("no"), .retention_ms = HOUR_MS, .is_new = true},
        {.id = id_of(w, 3, c), .record = mq_str("rc"), .retention_ms = HOUR_MS, .is_new = true},
        {.id = mq_str(a), .record = mq_str("no"), .retention_ms = HOUR_MS, .is_new = true},
    };
    char d[MQ_ULID_SIZE];
    mq_store_create created = {.id = id_of(w, 4, d), .number = 4, .record = mq_str("rd")};
    commit(w, &(mq_store_batch){
                  .creates = &created, .create_count = 1, .finishes = three, .finish_count = 3});
    assert_int_equal(w->got.reply.dup_count, 2);
    assert_int_equal(w->got.reply.dups[0], 1);
    assert_int_equal(w->got.reply.dups[1], 3);
    assert_job(w, mq_str(a), "memo", mq_str("known"));
    assert_job(w, mq_str(b), "live", (mq_span){0});
    assert_job(w, mq_str(c), "rc", (mq_span){0});
    assert_job(w, mq_str(d), "rd", (mq_span){0});
}

static void a_dead_job_keeps_its_body_and_can_run_again(void **state)
{
    world *w = *state;
    char a[MQ_ULID_SIZE];
    char b[MQ_ULID_SIZE];
    take(w);
    create(w, id_of(w, 1, a), 1, "x", mq_str("small"));
    create(w, id_of(w, 2, b), 2, "x", large(w));
    mq_store_finish two[] = {
        {.id = mq_str(a),
         .number = 1,
         .record = mq_str("da"),
         .retention_ms = HOUR_MS,
         .is_dead = true},
        {.id = mq_str(b),
         .number = 2,
         .record = mq_str("db"),
         .result = large(w),
         .retention_ms = HOUR_MS,
         .is_dead = true},
    };
    commit(w, &(mq_store_batch){.finishes = two, .finish_count = 2});
    assert_int_equal(count_part(w, MQ_PART_DEAD, 0), 2);
    mq_test_sort(&w->got);
    assert_true(mq_span_is(w->got.pairs[1].field, b));
    assert_true(mq_span_is(w->got.pairs[1].value, "db"));
    assert_job(w, mq_str(b), "db", large(w));
    mq_span ids[] = {mq_str(a), mq_str(b)};
    mq_test_bodies(w->store, ids, 2, &w->got);
    assert_int_equal(w->got.pair_count, 0);
    mq_store_revive again[] = {
        {.id = mq_str(b), .number = 100000, .record = mq_str("lb")},
        {.id = mq_str(a), .number = 100001, .record = mq_str("la")},
        {.id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"), .number = 1, .record = mq_str("no")},
    };
    commit(w, &(mq_store_batch){.revives = again, .revive_count = 3});
    assert_int_equal(w->got.reply.ignored_count, 1);
    assert_int_equal(count_part(w, MQ_PART_DEAD, 0), 0);
    assert_int_equal(count_part(w, MQ_PART_LIVE, 6), 2);
    mq_test_bodies(w->store, ids, 2, &w->got);
    mq_test_sort(&w->got);
    assert_true(mq_span_is(w->got.pairs[0].value, "small"));
    assert_true(mq_span_eq(w->got.pairs[1].value, large(w)));
    finish(w, (mq_store_finish){.id = mq_str(b), .number = 100000, .record = mq_str("end")});
    assert_job(w, mq_str(b), "end", (mq_span){0});
}

static void a_dead_letter_can_be_put_away(void **state)
{
    world *w = *state;
    char a[MQ_ULID_SIZE];
    take(w);
    create(w, id_of(w, 1, a), 1, "x", large(w));
    finish(w,
           (mq_store_finish){.id = mq_str(a), .number = 1, .record = mq_str("d"), .is_dead = true});
    mq_store_finish away = {
        .id = mq_str(a), .record = mq_str("gone"), .retention_ms = HOUR_MS, .was_dead = true};
    commit(w, &(mq_store_batch){.finishes = &away, .finish_count = 1});
    assert_int_equal(w->got.reply.ignored_count, 0);
    assert_int_equal(count_part(w, MQ_PART_DEAD, 0), 0);
    assert_job(w, mq_str(a), "gone", (mq_span){0});
    commit(w, &(mq_store_batch){.finishes = &away, .finish_count = 1});
    assert_int_equal(w->got.reply.ignored_count, 1);
}

static void a_done_job_is_forgotten_after_its_retention_and_not_before(void **state)
{
    world *w = *state;
    char a[MQ_ULID_SIZE];
    take(w);
    create(w, id_of(w, 1, a), 1, "x", mq_str("b"));
    finish(w, (mq_store_finish){.id = mq_str(a),
                                .number = 1,
                                .record = mq_str("end"),
                                .result = large(w),
                                .retention_ms = 300});
    int64_t give_up_ms = mq_clock_mono_ms() + 30000;
    int64_t before_ms = mq_clock_mono_ms();
    do {
        w->clock_ms += w->is_redis ? 0 : 150;
        mq_clock_sleep_ms(w->is_redis ? 20 : 0);
        mq_test_job(w->store, mq_str(a), &w->got);
    } while (w->got.code == MQ_OK && mq_clock_mono_ms() < give_up_ms);
    assert_int_equal(w->got.code, MQ_E_NOT_FOUND);
    assert_true(!w->is_redis || mq_clock_mono_ms() - before_ms >= 290);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(a_created_job_is_in_its_segment_with_its_body),
        BOTH(a_known_id_is_refused_and_the_rest_of_the_batch_applied),
        BOTH(a_put_replaces_the_record),
        BOTH(changes_of_jobs_that_are_not_live_are_ignored_and_counted),
        BOTH(a_finished_job_keeps_record_and_result_and_leaves_nothing_live),
        BOTH(a_job_that_ends_at_once_is_refused_when_its_id_is_known),
        BOTH(a_dead_job_keeps_its_body_and_can_run_again),
        BOTH(a_dead_letter_can_be_put_away),
        BOTH(a_done_job_is_forgotten_after_its_retention_and_not_before),
    };
    return cmocka_run_group_tests_name("store jobs", tests, NULL, NULL);
}

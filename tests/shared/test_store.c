/* What a store promises about ownership, order and limits, told once and checked on both: the
 * in-memory model and Redis. Jobs are in test_store_jobs.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/store_world.h"

/* ---- ownership ---- */

static void an_empty_store_is_initialised_only_when_allowed(void **state)
{
    world *w = *state;
    mq_test_acquire(w->store, "a", HOUR_MS, true, false, &w->got);
    assert_int_equal(w->got.code, MQ_E_NOT_FOUND);
    assert_false(w->got.owner.is_ours);
    mq_test_acquire(w->store, "a", HOUR_MS, true, true, &w->got);
    assert_int_equal(w->got.code, MQ_OK);
    assert_true(w->got.owner.is_ours);
    assert_int_equal(w->got.owner.epoch, 1);
    assert_int_equal(w->got.owner.sequence, 0);
    assert_int_equal(strlen(w->got.owner.instance), 36);
    char instance[64];
    memcpy(instance, w->got.owner.instance, sizeof instance);
    mq_test_acquire(w->other, "b", HOUR_MS, true, true, &w->got);
    assert_int_equal(w->got.code, MQ_OK);
    assert_string_equal(w->got.owner.instance, instance);
}

static void a_renewal_keeps_the_epoch_and_a_takeover_raises_it(void **state)
{
    world *w = *state;
    take(w);
    int64_t until_ms = w->got.owner.until_ms;
    assert_true(until_ms > w->got.owner.now_ms);
    mq_test_acquire(w->store, "broker-a", HOUR_MS, false, false, &w->got);
    assert_true(w->got.owner.is_ours);
    assert_int_equal(w->got.owner.epoch, w->epoch);
    assert_true(w->got.owner.until_ms >= until_ms);
    mq_test_acquire(w->store, "broker-a", HOUR_MS, true, false, &w->got);
    assert_true(w->got.owner.is_ours);
    assert_int_equal(w->got.owner.epoch, w->epoch + 1);
}

static void a_shard_that_is_held_is_not_given_and_its_owner_is_named(void **state)
{
    world *w = *state;
    take(w);
    mq_test_acquire(w->other, "broker-b", HOUR_MS, true, false, &w->got);
    assert_int_equal(w->got.code, MQ_OK);
    assert_false(w->got.owner.is_ours);
    assert_int_equal(w->got.owner.epoch, w->epoch);
    assert_string_equal(w->got.owner.owner, "broker-a");
    assert_string_equal(w->got.owner.endpoint, "tcp:there");
}

static void data_of_another_lineage_are_left_as_they_are(void **state)
{
    world *w = *state;
    char first[MQ_LINEAGE_ID_SIZE], second[MQ_LINEAGE_ID_SIZE];
    take(w);
    assert_int_equal(strlen(w->got.owner.lineage), 16);
    memcpy(first, w->got.owner.lineage, sizeof first);
    mq_test_acquire_seen(w->store, "broker-a", HOUR_MS, true, false, first, &w->got);
    assert_true(w->got.owner.is_ours);
    (void)snprintf(second, sizeof second, "%.16s", w->got.owner.lineage);
    assert_string_not_equal(first, second);
    assert_string_equal(w->got.owner.lineage + 17, first);
    /* A renewal adds nothing. */
    mq_test_acquire_seen(w->store, "broker-a", HOUR_MS, false, false, second, &w->got);
    assert_true(w->got.owner.is_ours);
    assert_int_equal(strlen(w->got.owner.lineage), 33);
    int64_t until_ms = w->got.owner.until_ms;
    for (int is_takeover = 0; is_takeover < 2; is_takeover++) {
        mq_test_acquire_seen(w->store, "broker-a", HOUR_MS / 2, is_takeover, true,
                             "0123456789abcdef", &w->got);
        assert_int_equal(w->got.code, MQ_OK);
        assert_false(w->got.owner.is_ours);
        assert_int_equal(w->got.owner.epoch, w->epoch + 1);
        assert_int_equal(w->got.owner.until_ms, until_ms);
        assert_int_equal(strlen(w->got.owner.lineage), 33);
    }
}

static void a_lineage_ends_with_its_oldest_ids(void **state)
{
    world *w = *state;
    char seen[MQ_LINEAGE_ID_SIZE] = "", oldest[MQ_LINEAGE_ID_SIZE] = "";
    take(w);
    (void)snprintf(oldest, sizeof oldest, "%.16s", w->got.owner.lineage);
    for (int i = 1; i < MQ_LINEAGE_IDS; i++) {
        mq_test_acquire_seen(w->store, "broker-a", HOUR_MS, true, false, seen, &w->got);
        assert_true(w->got.owner.is_ours);
        (void)snprintf(seen, sizeof seen, "%.16s", w->got.owner.lineage);
    }
    assert_int_equal(strlen(w->got.owner.lineage), MQ_LINEAGE_SIZE - 1);
    mq_test_acquire_seen(w->store, "broker-a", HOUR_MS, true, false, oldest, &w->got);
    assert_true(w->got.owner.is_ours);
    assert_int_equal(strlen(w->got.owner.lineage), MQ_LINEAGE_SIZE - 1);
    mq_test_acquire_seen(w->store, "broker-a", HOUR_MS, true, false, oldest, &w->got);
    assert_false(w->got.owner.is_ours);
    mq_test_acquire_seen(w->store, "broker-a", HOUR_MS, true, false, seen, &w->got);
    assert_true(w->got.owner.is_ours);
}

static void an_expired_tenure_permits_takeover_but_not_a_mere_renewal(void **state)
{
    world *w = *state;
    mq_test_acquire(w->store, "broker-a", TENURE_MS, true, true, &w->got);
    assert_true(w->got.owner.is_ours);
    int64_t give_up_ms = mq_clock_mono_ms() + 30000;
    do {
        w->clock_ms += TENURE_MS;
        mq_clock_sleep_ms(w->is_redis ? 20 : 0);
        mq_test_acquire(w->other, "broker-b", HOUR_MS, false, false, &w->got);
        assert_false(w->got.owner.is_ours);
    } while (w->got.owner.until_ms > w->got.owner.now_ms && mq_clock_mono_ms() < give_up_ms);
    /* The holder may still renew: expiry alone takes nothing away. */
    mq_test_acquire(w->store, "broker-a", TENURE_MS, false, false, &w->got);
    assert_true(w->got.owner.is_ours);
    assert_int_equal(w->got.owner.epoch, 1);
    do {
        w->clock_ms += TENURE_MS;
        mq_clock_sleep_ms(w->is_redis ? 20 : 0);
        mq_test_acquire(w->other, "broker-b", HOUR_MS, true, false, &w->got);
    } while (!w->got.owner.is_ours && mq_clock_mono_ms() < give_up_ms);
    assert_int_equal(w->got.owner.epoch, 2);
    mq_test_acquire(w->store, "broker-a", HOUR_MS, false, false, &w->got);
    assert_false(w->got.owner.is_ours);
}

static void a_released_shard_is_free_at_once_and_only_its_owner_releases_it(void **state)
{
    world *w = *state;
    take(w);
    mq_test_release(w->other, w->epoch + 1, &w->got);
    assert_int_equal(w->got.code, MQ_E_STALE);
    mq_test_release(w->store, w->epoch, &w->got);
    assert_int_equal(w->got.code, MQ_OK);
    mq_test_acquire(w->store, "broker-a", HOUR_MS, false, false, &w->got);
    assert_false(w->got.owner.is_ours);
    mq_test_acquire(w->other, "broker-b", HOUR_MS, true, false, &w->got);
    assert_true(w->got.owner.is_ours);
    assert_int_equal(w->got.owner.epoch, w->epoch + 1);
    mq_test_release(w->store, w->epoch, &w->got);
    assert_int_equal(w->got.code, MQ_E_STALE);
}

/* ---- fencing ---- */

static void an_old_owner_changes_nothing(void **state)
{
    world *w = *state;
    char text[MQ_ULID_SIZE];
    take(w);
    mq_test_acquire(w->other, "broker-a", HOUR_MS, true, false, &w->got);
    mq_store_create one = {.id = id_of(w, 1, text), .record = mq_str("r")};
    mq_store_batch batch = {.epoch = w->epoch, .sequence = 1, .creates = &one, .create_count = 1};
    mq_test_commit(w->store, &batch, &w->got);
    assert_int_equal(w->got.reply.verdict, MQ_STORE_FENCED);
    mq_test_segments(w->store, &w->got);
    assert_int_equal(w->got.pair_count, 0);
}

static void a_sequence_is_applied_once_and_without_holes(void **state)
{
    world *w = *state;
    take(w);
    mq_store_count one = {.name = mq_str("n"), .delta = 1};
    mq_store_batch batch = {.epoch = w->epoch, .counters = &one, .counter_count = 1};
    static const struct {
        uint64_t sequence;
        mq_store_verdict verdict;
    } steps[] = {{2, MQ_STORE_GAP}, {1, MQ_STORE_OK},  {1, MQ_STORE_DUP},
                 {2, MQ_STORE_OK},  {1, MQ_STORE_GAP}, {4, MQ_STORE_GAP}};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        batch.sequence = steps[i].sequence;
        mq_test_commit(w->store, &batch, &w->got);
        assert_int_equal(w->got.reply.verdict, steps[i].verdict);
    }
    mq_test_scan(w->store, MQ_PART_COUNTERS, 0, &w->got);
    assert_int_equal(w->got.pair_count, 1);
    assert_true(mq_span_is(w->got.pairs[0].value, "2"));
    mq_test_acquire(w->store, "broker-a", HOUR_MS, true, false, &w->got);
    assert_int_equal(w->got.owner.sequence, 2);
}

typedef struct two_replies {
    mq_store_verdict verdict[2];
    uint64_t sequence[2];
    uint32_t count;
    bool is_done;
} two_replies;

static void on_two(void *arg, const mq_store_reply *reply)
{
    two_replies *r = arg;
    r->verdict[r->count] = reply->verdict;
    r->sequence[r->count++] = reply->sequence;
    r->is_done = r->count == 2;
}

static void two_commits_may_be_under_way_and_a_third_must_wait(void **state)
{
    world *w = *state;
    take(w);
    two_replies replies = {.count = 0};
    mq_store_batch batch = {.epoch = w->epoch, .event = mq_str("turn")};
    for (uint64_t i = 1; i <= 2; i++) {
        batch.sequence = i;
        assert_int_equal(w->store->ops->commit(w->store, &batch, on_two, &replies, NULL), MQ_OK);
    }
    mq_error err;
    batch.sequence = 3;
    assert_int_equal(w->store->ops->commit(w->store, &batch, on_two, &replies, &err), MQ_E_BUSY);
    assert_non_null(strstr(err.text, "2 commits"));
    assert_int_equal(replies.count, 0);
    mq_test_store_wait(w->store, &replies.is_done);
    assert_int_equal(replies.verdict[0], MQ_STORE_OK);
    assert_int_equal(replies.verdict[1], MQ_STORE_OK);
    assert_int_equal(replies.sequence[0], 1);
    assert_int_equal(replies.sequence[1], 2);
    assert_int_equal(count_part(w, MQ_PART_EVENTS, 0), 2);
}

/* ---- the rest of a commit ---- */

static void registry_fields_are_set_and_deleted_in_order(void **state)
{
    world *w = *state;
    take(w);
    mq_store_set sets[] = {
        {mq_str("m:a"), mq_str("1")}, {mq_str("m:b"), mq_str("2")}, {mq_str("m:a"), (mq_span){0}},
        {mq_str("m:c"), mq_str("")},  {mq_str("m:b"), mq_str("3")},
    };
    commit(w, &(mq_store_batch){.registry = sets, .registry_count = 5});
    assert_int_equal(count_part(w, MQ_PART_REGISTRY, 0), 2);
    mq_test_sort(&w->got);
    assert_true(mq_span_is(w->got.pairs[0].field, "m:b"));
    assert_true(mq_span_is(w->got.pairs[0].value, "3"));
    assert_true(mq_span_is(w->got.pairs[1].field, "m:c"));
    assert_true(mq_span_is(w->got.pairs[1].value, ""));
}

static void counters_add_up_and_the_newest_events_come_first(void **state)
{
    world *w = *state;
    take(w);
    mq_store_count counts[] = {{mq_str("up"), 5}, {mq_str("down"), -7}, {mq_str("up"), 1}};
    for (int i = 0; i < 300; i++) {
        char text[24];
        snprintf(text, sizeof text, "event %d", i);
        commit(w, &(mq_store_batch){
                      .counters = counts, .counter_count = i < 2 ? 3 : 0, .event = mq_str(text)});
    }
    assert_int_equal(count_part(w, MQ_PART_COUNTERS, 0), 2);
    mq_test_sort(&w->got);
    assert_true(mq_span_is(w->got.pairs[0].value, "-14"));
    assert_true(mq_span_is(w->got.pairs[1].value, "12"));
    assert_int_equal(count_part(w, MQ_PART_EVENTS, 0), MQ_STORE_EVENTS_SCAN);
    assert_true(mq_span_is(w->got.pairs[0].value, "event 299"));
    assert_true(mq_span_is(w->got.pairs[255].value, "event 44"));
    assert_int_equal(w->got.pairs[0].field.len, 13);
}

static void the_largest_batch_fits_and_a_larger_one_is_refused_unsent(void **state)
{
    world *w = *state;
    take(w);
    static char texts[MQ_STORE_JOBS_MAX + 1][MQ_ULID_SIZE];
    mq_store_create creates[MQ_STORE_JOBS_MAX + 1];
    mq_store_finish finishes[MQ_STORE_JOBS_MAX];
    for (uint32_t i = 0; i <= MQ_STORE_JOBS_MAX; i++) {
        /* Backwards and across minutes and segments, so that everything has to be sorted. */
        mq_span id = id_of(w, (uint64_t)(MQ_STORE_JOBS_MAX - i) * 700, texts[i]);
        creates[i] = (mq_store_create){
            .id = id, .number = 16000 + i, .record = id, .body = mq_span_of(id.data, i % 27)};
    }
    mq_error err;
    mq_store_batch batch = {.epoch = w->epoch,
                            .sequence = 1,
                            .creates = creates,
                            .create_count = MQ_STORE_JOBS_MAX + 1};
    assert_int_equal(w->store->ops->commit(w->store, &batch, mq_test_on_commit, NULL, &err),
                     MQ_E_LIMIT);
    assert_non_null(strstr(err.text, "513 jobs, at most 512"));
    batch.create_count = MQ_STORE_JOBS_MAX;
    commit(w, &batch);
    assert_int_equal(w->got.reply.dup_count, 0);
    assert_int_equal(count_part(w, MQ_PART_LIVE, 0), 384);
    assert_int_equal(count_part(w, MQ_PART_LIVE, 1), 128);
    for (uint32_t i = 0; i < w->got.pair_count; i++) {
        assert_true(mq_span_eq(w->got.pairs[i].field, w->got.pairs[i].value));
    }
    commit(w, &batch);
    assert_int_equal(w->got.reply.dup_count, MQ_STORE_JOBS_MAX);
    for (uint32_t i = 0; i < MQ_STORE_JOBS_MAX; i++) {
        assert_int_equal(w->got.reply.dups[i], i);
        finishes[i] = (mq_store_finish){.id = creates[i].id,
                                        .number = creates[i].number,
                                        .record = mq_str("end"),
                                        .result = creates[i].id,
                                        .retention_ms = HOUR_MS};
    }
    commit(w, &(mq_store_batch){.finishes = finishes, .finish_count = MQ_STORE_JOBS_MAX});
    assert_int_equal(w->got.reply.ignored_count, 0);
    assert_job(w, creates[300].id, "end", creates[300].id);
    mq_test_segments(w->store, &w->got);
    assert_int_equal(w->got.pair_count, 0);
}

static void a_batch_that_breaks_a_limit_is_refused_by_name(void **state)
{
    world *w = *state;
    take(w);
    mq_error err;
    mq_store_create bad_id = {.id = mq_str("not-a-ulid"), .record = mq_str("r")};
    mq_store_batch batch = {
        .epoch = w->epoch, .sequence = 1, .creates = &bad_id, .create_count = 1};
    assert_int_equal(w->store->ops->commit(w->store, &batch, mq_test_on_commit, NULL, &err),
                     MQ_E_ARG);
    assert_non_null(strstr(err.text, "create 0: id \"not-a-ulid\""));
    static uint8_t bytes[MQ_STORE_RECORD_MAX + 1];
    char text[MQ_ULID_SIZE];
    mq_store_put put = {.id = id_of(w, 1, text), .record = mq_span_of(bytes, sizeof bytes)};
    batch = (mq_store_batch){.epoch = w->epoch, .sequence = 1, .puts = &put, .put_count = 1};
    assert_int_equal(w->store->ops->commit(w->store, &batch, mq_test_on_commit, NULL, &err),
                     MQ_E_LIMIT);
    assert_non_null(strstr(err.text, "put 0: record has 65537 bytes, at most 65536"));
    mq_store_finish forever = {.id = mq_str(text), .record = mq_str("r")};
    batch =
        (mq_store_batch){.epoch = w->epoch, .sequence = 1, .finishes = &forever, .finish_count = 1};
    assert_int_equal(w->store->ops->commit(w->store, &batch, mq_test_on_commit, NULL, &err),
                     MQ_E_ARG);
    assert_non_null(strstr(err.text, "retention"));
}

static void free_answers_what_is_still_under_way(void **state)
{
    world *w = *state;
    take(w);
    mq_store *store = open_store(w);
    mq_test_answer a;
    mq_test_answer b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    mq_store_batch batch = {.epoch = w->epoch, .sequence = 1, .event = mq_str("e")};
    assert_int_equal(store->ops->commit(store, &batch, mq_test_on_commit, &a, NULL), MQ_OK);
    assert_int_equal(store->ops->segments(store, mq_test_on_field, &b, NULL), MQ_OK);
    store->ops->free(store);
    assert_true(a.is_done);
    assert_int_equal(a.reply.verdict, MQ_STORE_FAILED);
    assert_string_not_equal(a.reply.err.text, "");
    assert_true(b.is_done);
    assert_int_not_equal(b.code, MQ_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(an_empty_store_is_initialised_only_when_allowed),
        BOTH(a_renewal_keeps_the_epoch_and_a_takeover_raises_it),
        BOTH(a_shard_that_is_held_is_not_given_and_its_owner_is_named),
        BOTH(data_of_another_lineage_are_left_as_they_are),
        BOTH(a_lineage_ends_with_its_oldest_ids),
        BOTH(an_expired_tenure_permits_takeover_but_not_a_mere_renewal),
        BOTH(a_released_shard_is_free_at_once_and_only_its_owner_releases_it),
        BOTH(an_old_owner_changes_nothing),
        BOTH(a_sequence_is_applied_once_and_without_holes),
        BOTH(two_commits_may_be_under_way_and_a_third_must_wait),
        BOTH(registry_fields_are_set_and_deleted_in_order),
        BOTH(counters_add_up_and_the_newest_events_come_first),
        BOTH(the_largest_batch_fits_and_a_larger_one_is_refused_unsent),
        BOTH(a_batch_that_breaks_a_limit_is_refused_by_name),
        BOTH(free_answers_what_is_still_under_way),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}

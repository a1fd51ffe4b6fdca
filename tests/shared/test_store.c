/* What a store promises, told once and checked on both: the in-memory model and Redis. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shared/base/ulid.h"
#include "tests/support/redis.h"
#include "tests/support/store.h"

enum { LARGE = MQ_STORE_INLINE_MAX + 1000, HOUR_MS = 3600 * 1000, TENURE_MS = 200 };

typedef struct world {
    bool is_redis;
    mq_test_redis redis;
    mq_memory *memory;
    int64_t clock_ms; /* the model's */
    mq_store *store;
    mq_store *other; /* second broker's */
    mq_test_answer got;
    uint64_t epoch;
    uint64_t sequence;
    uint64_t next; /* number of the next id */
    uint8_t large[LARGE];
} world;

static mq_store *open_store(world *w)
{
    mq_store *store = NULL;
    mq_error err;
    mq_code code = w->is_redis ? mq_store_redis_new(&store, w->redis.url, 0, &err)
                               : mq_store_memory_new(&store, w->memory, &w->clock_ms, &err);
    assert_int_equal(code, MQ_OK);
    mq_test_store_connect(store);
    return store;
}

static void take(world *w)
{
    mq_test_acquire(w->store, "broker-a", HOUR_MS, true, true, &w->got);
    assert_int_equal(w->got.code, MQ_OK);
    assert_true(w->got.owner.is_ours);
    w->epoch = w->got.owner.epoch;
    w->sequence = w->got.owner.sequence;
}

static int setup(void **state, bool is_redis)
{
    world *w = calloc(1, sizeof *w);
    w->is_redis = is_redis;
    w->clock_ms = mq_clock_wall_ms();
    if (is_redis) {
        mq_test_redis_init(&w->redis);
        mq_test_redis_start(&w->redis, NULL);
    } else {
        w->memory = mq_memory_new();
    }
    for (size_t i = 0; i < LARGE; i++) {
        w->large[i] = (uint8_t)(i * 7);
    }
    w->store = open_store(w);
    w->other = open_store(w);
    *state = w;
    return 0;
}

static int setup_memory(void **state)
{
    return setup(state, false);
}

static int setup_redis(void **state)
{
    return setup(state, true);
}

static int teardown(void **state)
{
    world *w = *state;
    w->store->ops->free(w->store);
    w->other->ops->free(w->other);
    if (w->is_redis) {
        mq_test_redis_release(&w->redis);
    }
    mq_memory_free(w->memory);
    mq_test_answer_reset(&w->got);
    free(w);
    return 0;
}

/* The n-th id of a test; ids of one test stand in the same minutes on both stores. */
static mq_span id_of(const world *w, uint64_t n, char text[MQ_ULID_SIZE])
{
    uint8_t random[10] = {0};
    memcpy(random, &n, sizeof n);
    mq_ulid_make(w->clock_ms - 1000 + (int64_t)n, random, text);
    return mq_span_of(text, MQ_ULID_LEN);
}

static mq_span large(const world *w)
{
    return mq_span_of(w->large, LARGE);
}

/* Commits with the next sequence and wants it applied. */
static void commit(world *w, mq_store_batch *batch)
{
    batch->epoch = w->epoch;
    batch->sequence = w->sequence + 1;
    mq_test_commit(w->store, batch, &w->got);
    assert_string_equal(w->got.err.text, "");
    assert_string_equal(w->got.reply.err.text, "");
    assert_int_equal(w->got.reply.verdict, MQ_STORE_OK);
    assert_int_equal(w->got.reply.sequence, w->sequence + 1);
    w->sequence++;
}

static void create(world *w, mq_span id, uint64_t number, const char *record, mq_span body)
{
    mq_store_create one = {.id = id, .number = number, .record = mq_str(record), .body = body};
    commit(w, &(mq_store_batch){.creates = &one, .create_count = 1});
}

static void finish(world *w, mq_store_finish one)
{
    one.retention_ms = one.retention_ms == 0 ? HOUR_MS : one.retention_ms;
    commit(w, &(mq_store_batch){.finishes = &one, .finish_count = 1});
}

static void assert_job(world *w, mq_span id, const char *record, mq_span result)
{
    mq_test_job(w->store, id, &w->got);
    assert_int_equal(w->got.code, MQ_OK);
    assert_true(mq_span_is(w->got.record, record));
    assert_true(mq_span_eq(w->got.result, result));
}

static void assert_no_job(world *w, mq_span id)
{
    mq_test_job(w->store, id, &w->got);
    assert_int_equal(w->got.code, MQ_E_NOT_FOUND);
}

static uint32_t count_part(world *w, mq_store_part part, uint64_t segment)
{
    mq_test_scan(w->store, part, segment, &w->got);
    assert_int_equal(w->got.code, MQ_OK);
    return w->got.pair_count;
}

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
        {.id = mq_str(a), .number = 1, .record = mq_str("da"), .is_dead = true},
        {.id = mq_str(b),
         .number = 2,
         .record = mq_str("db"),
         .result = mq_str("why"),
         .is_dead = true},
    };
    commit(w, &(mq_store_batch){.finishes = two, .finish_count = 2});
    assert_int_equal(count_part(w, MQ_PART_DEAD, 0), 2);
    mq_test_sort(&w->got);
    assert_true(mq_span_is(w->got.pairs[1].field, b));
    assert_true(mq_span_is(w->got.pairs[1].value, "db"));
    assert_job(w, mq_str(b), "db", mq_str("why"));
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

#define BOTH(fact)                                                                                 \
    {"memory: " #fact, fact, setup_memory, teardown, NULL},                                        \
    {                                                                                              \
        "redis: " #fact, fact, setup_redis, teardown, NULL                                         \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(an_empty_store_is_initialised_only_when_allowed),
        BOTH(a_renewal_keeps_the_epoch_and_a_takeover_raises_it),
        BOTH(a_shard_that_is_held_is_not_given_and_its_owner_is_named),
        BOTH(an_expired_tenure_permits_takeover_but_not_a_mere_renewal),
        BOTH(a_released_shard_is_free_at_once_and_only_its_owner_releases_it),
        BOTH(an_old_owner_changes_nothing),
        BOTH(a_sequence_is_applied_once_and_without_holes),
        BOTH(two_commits_may_be_under_way_and_a_third_must_wait),
        BOTH(a_created_job_is_in_its_segment_with_its_body),
        BOTH(a_known_id_is_refused_and_the_rest_of_the_batch_applied),
        BOTH(a_put_replaces_the_record),
        BOTH(changes_of_jobs_that_are_not_live_are_ignored_and_counted),
        BOTH(a_finished_job_keeps_record_and_result_and_leaves_nothing_live),
        BOTH(a_job_that_ends_at_once_is_refused_when_its_id_is_known),
        BOTH(a_dead_job_keeps_its_body_and_can_run_again),
        BOTH(a_dead_letter_can_be_put_away),
        BOTH(a_done_job_is_forgotten_after_its_retention_and_not_before),
        BOTH(registry_fields_are_set_and_deleted_in_order),
        BOTH(counters_add_up_and_the_newest_events_come_first),
        BOTH(the_largest_batch_fits_and_a_larger_one_is_refused_unsent),
        BOTH(a_batch_that_breaks_a_limit_is_refused_by_name),
        BOTH(free_answers_what_is_still_under_way),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}

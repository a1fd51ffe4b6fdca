/* What can only happen with a real Redis: full memory, a library that is gone or old, a server that
 * hangs, is not there, or comes back without its identity. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/store_world.h"

static int setup_owner(void **state)
{
    int failed = setup_redis(state);
    take(*state);
    return failed;
}

static redisContext *raw(const world *w)
{
    struct timeval limit = {.tv_sec = 30};
    redisContext *c = redisConnectUnixWithTimeout(w->redis.socket, limit);
    assert_non_null(c);
    assert_int_equal(c->err, 0);
    return c;
}

/* One command by another client; its integer, or 0. */
static long long run(const world *w, const char *command)
{
    redisContext *c = raw(w);
    redisReply *reply = redisCommand(c, command);
    assert_non_null(reply);
    if (reply->type == REDIS_REPLY_ERROR) {
        print_error("%s: %s\n", command, reply->str);
    }
    assert_int_not_equal(reply->type, REDIS_REPLY_ERROR);
    long long number = reply->type == REDIS_REPLY_INTEGER ? reply->integer : 0;
    freeReplyObject(reply);
    redisFree(c);
    return number;
}

static mq_store_verdict try_commit(world *w, mq_store_batch batch)
{
    batch.epoch = w->epoch;
    batch.sequence = w->sequence + 1;
    mq_test_commit(w->store, &batch, &w->got);
    w->sequence += w->got.reply.verdict == MQ_STORE_OK;
    return w->got.reply.verdict;
}

static void a_full_memory_refuses_new_jobs_whole_and_lets_old_ones_end(void **state)
{
    world *w = *state;
    char a[MQ_ULID_SIZE];
    char b[MQ_ULID_SIZE];
    create(w, id_of(w, 1, a), 1, "first", mq_str("body"));
    run(w, "CONFIG SET maxmemory 1");
    mq_store_put put = {mq_str(a), 1, mq_str("second")};
    mq_store_create small = {id_of(w, 2, b), 2, mq_str("no"), mq_str("body")};
    mq_store_create big = {mq_str(b), 2, mq_str("no"), large(w)};
    mq_store_batch batch = {.creates = &small, .create_count = 1, .puts = &put, .put_count = 1};
    assert_int_equal(try_commit(w, batch), MQ_STORE_FULL);
    batch.creates = &big;
    assert_int_equal(try_commit(w, batch), MQ_STORE_FULL);
    assert_job(w, mq_str(a), "first", (mq_span){0});
    assert_int_equal(try_commit(w, (mq_store_batch){.puts = &put, .put_count = 1}), MQ_STORE_OK);
    finish(w, (mq_store_finish){
                  .id = mq_str(a), .number = 1, .record = mq_str("end"), .result = large(w)});
    assert_job(w, mq_str(a), "end", large(w));
    mq_test_acquire(w->store, "broker-a", HOUR_MS, false, false, &w->got);
    assert_true(w->got.owner.is_ours);
    assert_int_equal(w->got.owner.max_bytes, 1);
    assert_true(w->got.owner.used_bytes > 1);
    run(w, "CONFIG SET maxmemory 0");
    assert_int_equal(try_commit(w, batch), MQ_STORE_OK);
    assert_int_equal(w->got.reply.ignored_count, 1);
}

static void a_commit_behind_a_full_one_is_full_and_not_a_gap(void **state)
{
    world *w = *state;
    char a[MQ_ULID_SIZE];
    run(w, "CONFIG SET maxmemory 1");
    mq_store_create one = {id_of(w, 1, a), 1, mq_str("r"), large(w)};
    mq_store_batch batch = {.epoch = w->epoch, .sequence = 1, .creates = &one, .create_count = 1};
    mq_test_answer answers[2];
    memset(answers, 0, sizeof answers);
    assert_int_equal(w->store->ops->commit(w->store, &batch, mq_test_on_commit, &answers[0], NULL),
                     MQ_OK);
    batch = (mq_store_batch){.epoch = w->epoch, .sequence = 2, .event = mq_str("e")};
    assert_int_equal(w->store->ops->commit(w->store, &batch, mq_test_on_commit, &answers[1], NULL),
                     MQ_OK);
    mq_test_store_wait(w->store, &answers[1].is_done);
    assert_int_equal(answers[0].reply.verdict, MQ_STORE_FULL);
    assert_int_equal(answers[1].reply.verdict, MQ_STORE_FULL);
}

static void a_large_value_that_is_not_published_goes_by_itself(void **state)
{
    world *w = *state;
    char a[MQ_ULID_SIZE];
    mq_store_create one = {id_of(w, 1, a), 1, mq_str("r"), large(w)};
    mq_store_batch batch = {.epoch = w->epoch, .sequence = 7, .creates = &one, .create_count = 1};
    mq_test_commit(w->store, &batch, &w->got);
    assert_int_equal(w->got.reply.verdict, MQ_STORE_GAP);
    char command[160];
    static const char life[] =
        "EVAL return(redis.call('PTTL',redis.call('KEYS','{mq:0}:body:%llu.%d.*:%s')[1])) 0";
    snprintf(command, sizeof command, life, (unsigned long long)w->epoch, 7, a);
    assert_true(run(w, command) > 0);
    create(w, mq_str(a), 1, "r", large(w));
    snprintf(command, sizeof command, life, (unsigned long long)w->epoch, 1, a);
    assert_int_equal(run(w, command), -1);
}

static void a_repetition_of_a_commit_leaves_alone_what_the_commit_published(void **state)
{
    world *w = *state;
    char a[MQ_ULID_SIZE];
    mq_store_create one = {id_of(w, 1, a), 1, mq_str("r"), large(w)};
    commit(w, &(mq_store_batch){.creates = &one, .create_count = 1});
    uint8_t other[LARGE];
    memset(other, 'z', sizeof other);
    one.body = mq_span_of(other, sizeof other);
    mq_store_batch again = {.creates = &one, .create_count = 1};
    again.epoch = w->epoch;
    again.sequence = w->sequence;
    mq_test_commit(w->store, &again, &w->got);
    assert_int_equal(w->got.reply.verdict, MQ_STORE_DUP);
    mq_test_bodies(w->store, &one.id, 1, &w->got);
    assert_int_equal(w->got.pair_count, 1);
    assert_true(mq_span_eq(w->got.pairs[0].value, large(w)));
    char command[160];
    snprintf(command, sizeof command,
             "EVAL return(redis.call('PTTL','{mq:0}:body:'..redis.call('HGET','{mq:0}:ref','%s')"
             "..':%s')) 0",
             a, a);
    assert_int_equal(run(w, command), -1); /* and it stays */
}

static void the_library_survives_a_kill_and_is_loaded_again_when_it_is_gone(void **state)
{
    world *w = *state;
    mq_test_redis_kill(&w->redis);
    mq_test_redis_start(&w->redis, NULL);
    assert_true(run(w, "FCALL mq1_version 0") >= 1); /* nobody has loaded it since */
    while (w->store->ops->is_connected(w->store)) {
        mq_test_store_turn(w->store);
    }
    mq_test_store_connect(w->store);
    run(w, "FUNCTION FLUSH");
    assert_int_equal(try_commit(w, (mq_store_batch){.event = mq_str("e")}), MQ_STORE_FAILED);
    assert_non_null(strstr(w->got.reply.err.text, "Function not found"));
    mq_test_store_connect(w->store);
    assert_int_equal(try_commit(w, (mq_store_batch){.event = mq_str("e")}), MQ_STORE_OK);
}

static void an_older_library_is_replaced_and_a_newer_one_is_left(void **state)
{
    world *w = *state;
    static const char *const texts[] = {
        "#!lua name=maasq1\nredis.register_function('mq1_version', function() return 0 end)",
        "#!lua name=maasq1\nredis.register_function('mq1_version', function() return 99 end)"};
    for (int i = 0; i < 2; i++) {
        redisContext *c = raw(w);
        redisReply *reply = redisCommand(c, "FUNCTION LOAD REPLACE %s", texts[i]);
        assert_int_equal(reply->type, REDIS_REPLY_STRING);
        freeReplyObject(reply);
        redisFree(c);
        mq_store *late = open_store(w);
        long long revision = run(w, "FCALL mq1_version 0");
        assert_true(i == 0 ? revision >= 1 && revision < 99 : revision == 99);
        late->ops->free(late);
    }
}

static void data_without_its_identity_is_refused_for_good(void **state)
{
    world *w = *state;
    run(w, "DEL mq:instance");
    mq_test_acquire(w->store, "broker-a", HOUR_MS, true, true, &w->got);
    assert_int_equal(w->got.code, MQ_E_CORRUPT);
    assert_false(w->got.owner.is_ours);
    assert_non_null(strstr(w->got.err.text, "mq:instance"));
    assert_int_equal(run(w, "EXISTS mq:instance"), 0);
}

static void calls_without_a_server_are_busy_until_it_is_there(void **state)
{
    world *w = *state;
    mq_test_redis_kill(&w->redis);
    int64_t give_up_ms = mq_clock_mono_ms() + 30000;
    while (strstr(mq_store_redis_trouble(w->store), "cannot connect") == NULL) {
        assert_true(mq_clock_mono_ms() < give_up_ms);
        mq_test_store_turn(w->store);
    }
    assert_false(w->store->ops->is_connected(w->store));
    assert_int_equal(w->store->ops->fd(w->store), -1);
    mq_error err;
    mq_store_batch batch = {.epoch = w->epoch, .sequence = 1, .event = mq_str("e")};
    assert_int_equal(w->store->ops->commit(w->store, &batch, mq_test_on_commit, NULL, &err),
                     MQ_E_BUSY);
    assert_non_null(strstr(err.text, "not connected"));
    assert_int_equal(w->store->ops->segments(w->store, mq_test_on_field, NULL, &err), MQ_E_BUSY);
    mq_test_redis_start(&w->redis, NULL);
    mq_test_store_connect(w->store);
    assert_string_equal(mq_store_redis_trouble(w->store), "");
    assert_int_equal(try_commit(w, (mq_store_batch){.event = mq_str("e")}), MQ_STORE_OK);
}

/* The call is given up after five seconds; the commit waits in the old connection's socket and is
 * executed when the server goes on, before or after its owner has come back. Either way it is
 * applied at most once and never over what came later. */
static void a_server_that_hangs_fails_the_call_and_its_late_commit_does_no_harm(void **state)
{
    world *w = *state;
    mq_store_count one = {mq_str("n"), 1};
    kill(w->redis.pid, SIGSTOP);
    mq_test_answer late;
    memset(&late, 0, sizeof late);
    mq_store_batch batch = {.epoch = w->epoch, .sequence = 1, .counters = &one, .counter_count = 1};
    assert_int_equal(w->store->ops->commit(w->store, &batch, mq_test_on_commit, &late, NULL),
                     MQ_OK);
    mq_test_store_wait(w->store, &late.is_done);
    assert_int_equal(late.reply.verdict, MQ_STORE_FAILED);
    assert_non_null(strstr(late.reply.err.text, "no answer from Redis"));
    assert_false(w->store->ops->is_connected(w->store));
    kill(w->redis.pid, SIGCONT);
    mq_test_store_connect(w->store);
    take(w);
    bool was_applied = w->sequence == 1;
    one.delta = 10;
    commit(w, &(mq_store_batch){.counters = &one, .counter_count = 1});
    mq_test_scan(w->store, MQ_PART_COUNTERS, 0, &w->got);
    assert_int_equal(w->got.pair_count, 1);
    assert_true(mq_span_is(w->got.pairs[0].value, was_applied ? "11" : "10"));
    mq_test_acquire(w->store, "broker-a", HOUR_MS, false, false, &w->got);
    assert_int_equal(w->got.owner.sequence, w->sequence);
}

static void a_long_sleep_before_a_call_is_not_taken_for_its_wait(void **state)
{
    world *w = *state;
    mq_test_answer late;
    memset(&late, 0, sizeof late);
    mq_store_batch batch = {.epoch = w->epoch, .sequence = 1, .event = mq_str("e")};
    assert_int_equal(w->store->ops->commit(w->store, &batch, mq_test_on_commit, &late, NULL),
                     MQ_OK);
    w->store->ops->process(w->store, 0, mq_clock_mono_ms() + 600000);
    assert_true(w->store->ops->is_connected(w->store));
    mq_test_store_wait(w->store, &late.is_done);
    assert_int_equal(late.reply.verdict, MQ_STORE_OK);
}

static void a_whole_segment_is_read_in_one_scan(void **state)
{
    world *w = *state;
    static char texts[MQ_STORE_JOBS_MAX][MQ_ULID_SIZE];
    static mq_store_create creates[MQ_STORE_JOBS_MAX];
    static uint8_t record[300];
    for (uint32_t n = 0; n < MQ_STORE_SEGMENT_JOBS; n += MQ_STORE_JOBS_MAX) {
        for (uint32_t i = 0; i < MQ_STORE_JOBS_MAX; i++) {
            creates[i] = (mq_store_create){.id = id_of(w, n + i, texts[i]),
                                           .number = n + i,
                                           .record = mq_span_of(record, sizeof record),
                                           .body = mq_str("body")};
        }
        commit(w, &(mq_store_batch){.creates = creates, .create_count = MQ_STORE_JOBS_MAX});
    }
    assert_int_equal(count_part(w, MQ_PART_LIVE, 0), MQ_STORE_SEGMENT_JOBS);
    assert_int_equal(w->got.pairs[77].value.len, sizeof record);
    assert_int_equal(count_part(w, MQ_PART_REQ, 0), MQ_STORE_SEGMENT_JOBS);
}

#define FACT(name) cmocka_unit_test_setup_teardown(name, setup_owner, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FACT(a_full_memory_refuses_new_jobs_whole_and_lets_old_ones_end),
        FACT(a_commit_behind_a_full_one_is_full_and_not_a_gap),
        FACT(a_large_value_that_is_not_published_goes_by_itself),
        FACT(a_repetition_of_a_commit_leaves_alone_what_the_commit_published),
        FACT(the_library_survives_a_kill_and_is_loaded_again_when_it_is_gone),
        FACT(an_older_library_is_replaced_and_a_newer_one_is_left),
        FACT(data_without_its_identity_is_refused_for_good),
        FACT(calls_without_a_server_are_busy_until_it_is_there),
        FACT(a_server_that_hangs_fails_the_call_and_its_late_commit_does_no_harm),
        FACT(a_long_sleep_before_a_call_is_not_taken_for_its_wait),
        FACT(a_whole_segment_is_read_in_one_scan),
    };
    return cmocka_run_group_tests_name("store on Redis", tests, NULL, NULL);
}

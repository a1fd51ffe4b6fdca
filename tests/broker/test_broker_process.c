/* A real maasq-broker with a private redis-server, and clients and workers that this test makes
 * from raw ZeroMQ sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <zmq.h>

#include "tests/support/broker_process.h"

static void a_job_goes_through_a_real_broker(void **unused)
{
    (void)unused;
    mq_test_redis redis;
    broker b;
    peer client;
    static echo_worker w;
    char id[MQ_ULID_SIZE];
    start(&redis, &b);
    peer_open(&client, b.front);
    hello(&client, "client");
    assert_true(client.as.welcome.instance.len > 0);
    assert_int_equal(client.as.welcome.beat_ms, 1000);
    worker_open(&w, &b, 1);
    mq_ulid_new(id);
    submit_one(&client, id, "echo", "through it all");
    await(&client, MQ_CMD_submitted);
    assert_true(mq_span_is(client.as.submitted.jobs[0].verdict, "ok"));
    while (!hear(&client, 20) || client.command != MQ_CMD_done) {
        worker_turn(&w, 20);
    }
    assert_true(mq_span_is(client.as.done.jobs[0].state, "succeeded"));
    assert_true(mq_span_is(client.payload, "through it all"));
    mq_msg_get get = {.rid = 7, .id = mq_str(id), .want_result = true};
    say(&client, MQ_CMD_get, &get, (mq_span){0});
    await(&client, MQ_CMD_state);
    assert_int_equal(client.as.state.rid, 7);
    assert_true(mq_span_is(client.as.state.state, "succeeded"));
    assert_true(mq_span_is(client.payload, "through it all"));
    submit_one(&client, id, "echo", "through it all");
    await(&client, MQ_CMD_submitted);
    assert_true(mq_span_is(client.as.submitted.jobs[0].verdict, "dup"));
    peer_close(&client);
    peer_close(&w.peer);
    stop(&redis, &b);
}

static void gets_wait_for_the_end_or_for_their_time(void **unused)
{
    (void)unused;
    mq_test_redis redis;
    broker b;
    peer client;
    static echo_worker w;
    char id[MQ_ULID_SIZE];
    start(&redis, &b);
    peer_open(&client, b.front);
    hello(&client, "client");
    mq_ulid_new(id);
    submit_one(&client, id, "echo", "body");
    await(&client, MQ_CMD_submitted);
    for (uint64_t rid = 10; rid < 15; rid++) {
        mq_msg_get get = {.rid = rid,
                          .id = mq_str(id),
                          .wait_ms = rid == 12 ? 200 : 30000,
                          .want_result = rid != 14};
        say(&client, MQ_CMD_get, &get, (mq_span){0});
    }
    await(&client, MQ_CMD_state);
    assert_int_equal(client.as.state.rid, 12);
    assert_true(mq_span_is(client.as.state.state, "queued"));
    worker_open(&w, &b, 1);
    unsigned answered = 0;
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (answered != (1U << 10 | 1U << 11 | 1U << 13 | 1U << 14)) {
        assert_true(mq_clock_mono_ms() < until_ms);
        worker_turn(&w, 10);
        while (hear(&client, 10)) {
            if (client.command == MQ_CMD_state) {
                assert_true(mq_span_is(client.as.state.state, "succeeded"));
                assert_true(mq_span_is(client.payload, client.as.state.rid == 14 ? "" : "body"));
                answered |= 1U << client.as.state.rid;
            }
        }
    }
    mq_msg_get unknown = {.rid = 20, .id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV")};
    say(&client, MQ_CMD_get, &unknown, (mq_span){0});
    await(&client, MQ_CMD_state);
    assert_true(mq_span_is(client.as.state.verdict, "not_found"));
    peer_close(&client);
    peer_close(&w.peer);
    stop(&redis, &b);
}

static void raw_send(peer *p, const void *a, size_t a_len, const void *b, size_t b_len, int parts)
{
    (void)zmq_send(p->socket, a, a_len, parts > 1 ? ZMQ_SNDMORE : 0);
    for (int i = 1; i < parts; i++) {
        (void)zmq_send(p->socket, b, b_len, i < parts - 1 ? ZMQ_SNDMORE : 0);
    }
}

static void garbage_is_refused_by_name_and_does_no_harm(void **unused)
{
    (void)unused;
    mq_test_redis redis;
    broker b;
    peer p;
    mq_prng prng = {11};
    start(&redis, &b);
    peer_open(&p, b.front);
    hello(&p, "client");
    raw_send(&p, "x", 1, "y", 1, 1);
    raw_send(&p, "MQ\x01\x0a", 4, "y", 1, 2);
    raw_send(&p, "MQ\x01\x0a", 4, "y", 1, 9);
    for (int i = 0; i < 300; i++) { /* right frames, wrong bytes */
        uint8_t head[4] = {'M', 'Q', 1, (uint8_t)mq_prng_below(&prng, 64)};
        uint8_t header[64];
        for (size_t k = 0; k < sizeof header; k++) {
            header[k] = (uint8_t)mq_prng_next(&prng);
        }
        raw_send(&p, head, sizeof head, header, mq_prng_below(&prng, sizeof header), 3);
    }
    raw_send(&p, "MQ\x09\x0a", 4, "\x80", 1, 3); /* a version to come */
    bool has_version = false;
    bool has_format = false;
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (!has_version) { /* what was sent last is answered last */
        if (mq_clock_mono_ms() > until_ms) {
            fail_msg("no answer to a version to come");
        }
        if (!hear(&p, 300) || p.command == MQ_CMD_welcome) {
            continue; /* a broker that starts slowly is greeted twice and answers twice */
        }
        assert_int_equal(p.command, MQ_CMD_error);
        assert_true(p.as.error.text.len > 0);
        has_version |= mq_span_is(p.as.error.code, "version");
        has_format |= mq_span_is(p.as.error.code, "bad_format");
    }
    assert_true(has_format);
    mq_msg_submit_job job = {.id = mq_str("x"), .kind = mq_str("echo"), .len = 100};
    mq_msg_submit m = {.rid = 5, .jobs = &job, .jobs_count = 1};
    say(&p, MQ_CMD_submit, &m, mq_str("short"));
    await(&p, MQ_CMD_error);
    assert_int_equal(p.as.error.rid, 5);
    hello(&p, "client");
    peer_close(&p);
    stop(&redis, &b);
}

static void an_empty_store_is_not_initialised_unless_told(void **unused)
{
    (void)unused;
    mq_test_redis redis;
    broker b;
    mq_test_redis_init(&redis);
    mq_test_redis_start(&redis, NULL);
    broker_init(&b, &redis, "one");
    broker_start(&b);
    log_wait(&b, "shard not served");
    assert_false(log_says(&b, "shard loaded"));
    broker_kill(&b);
    stop(&redis, &b);
}

static void a_store_that_returns_empty_stops_the_service(void **unused)
{
    (void)unused;
    mq_test_redis redis;
    broker b;
    peer p;
    char file[320];
    start(&redis, &b);
    peer_open(&p, b.front);
    hello(&p, "client");
    while (hear(&p, 500)) { /* more than one hello may have been needed */
    }
    mq_test_redis_kill(&redis);
    (void)snprintf(file, sizeof file, "rm -rf %s/appendonlydir %s/appendonly.aof %s/dump.rdb",
                   redis.dir, redis.dir, redis.dir);
    assert_int_equal(system(file), 0); /* NOLINT: a path of our own */
    mq_test_redis_start(&redis, NULL);
    log_wait(&b, "empty");
    mq_msg_hello m = {.role = mq_str("client"), .version_min = 1, .version_max = 1};
    say(&p, MQ_CMD_hello, &m, (mq_span){0});
    assert_false(hear(&p, 1000));
    peer_close(&p);
    stop(&redis, &b);
}

static void a_stopped_broker_gives_its_shard_back_and_another_sends_clients_away(void **unused)
{
    (void)unused;
    mq_test_redis redis;
    broker one, two;
    peer p;
    start(&redis, &one);
    peer_open(&p, one.front);
    hello(&p, "client");
    broker_init(&two, &redis, "two");
    two.more[0] = "--name";
    two.more[1] = "second";
    broker_start(&two);
    peer q;
    peer_open(&q, two.front);
    mq_msg_hello m = {.role = mq_str("client"), .version_min = 1, .version_max = 1};
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    do {
        assert_true(mq_clock_mono_ms() < until_ms);
        say(&q, MQ_CMD_hello, &m, (mq_span){0});
    } while (!hear(&q, 300) || q.command != MQ_CMD_error);
    assert_true(mq_span_is(q.as.error.code, "moved"));
    assert_true(mq_span_is(q.as.error.text, one.front));
    kill(one.pid, SIGTERM);
    assert_int_equal(broker_wait(&one), 0);
    hello(&q, "client"); /* it has taken over */
    assert_true(mq_span_is(q.as.welcome.broker, "second"));
    peer_close(&p);
    peer_close(&q);
    broker_kill(&two);
    stop(&redis, &one);
}

static void a_result_is_taken_only_when_its_blobs_are_there(void **unused)
{
    (void)unused;
    mq_test_redis redis;
    broker b;
    peer client;
    static echo_worker w;
    char id[MQ_ULID_SIZE], hash[MQ_SHA256_HEX];
    mq_error err;
    start(&redis, &b);
    peer_open(&client, b.front);
    hello(&client, "client");
    worker_open(&w, &b, 1);
    while (!w.is_registered) { /* a turn with the job in it would send its plain result */
        worker_turn(&w, 50);
    }
    mq_ulid_new(id);
    submit_one(&client, id, "echo", "x");
    while (!w.held[0].is_used) {
        if (hear(&w.peer, 50) && w.peer.command == MQ_CMD_job) {
            take_jobs(&w);
        }
    }
    mq_sha256_hex_of(mq_str("the model"), hash);
    mq_span blobs[1] = {mq_str(hash)};
    mq_msg_published model = {.type = mq_str("model"),
                              .name = mq_str("m"),
                              .meta = mq_str("{\"kind\":\"test\"}"),
                              .blobs = blobs,
                              .blobs_count = 1};
    mq_msg_result_item item = {.id = mq_str(id),
                               .epoch = w.held[0].epoch,
                               .grant = w.held[0].grant,
                               .class = mq_str("ok"),
                               .publish = &model,
                               .publish_count = 1};
    mq_msg_result m = {.worker = mq_str(w.uuid), .jobs = &item, .jobs_count = 1};
    say(&w.peer, MQ_CMD_result, &m, (mq_span){0});
    await(&w.peer, MQ_CMD_verdict);
    assert_true(mq_span_is(w.peer.as.verdict.verdicts[0].verdict, "missing"));
    assert_true(mq_span_is(w.peer.as.verdict.verdicts[0].missing[0], hash));
    mq_blobs *store = NULL;
    assert_int_equal(mq_blobs_new(&store, b.blobs, &err), MQ_OK);
    assert_int_equal(mq_blobs_put(store, mq_str("the model"), hash, &err), MQ_OK);
    mq_blobs_free(store);
    say(&w.peer, MQ_CMD_result, &m, (mq_span){0});
    await(&w.peer, MQ_CMD_verdict);
    assert_true(mq_span_is(w.peer.as.verdict.verdicts[0].verdict, "ok"));
    mq_msg_query query = {.rid = 3, .what = mq_str("model"), .name = mq_str("m")};
    say(&client, MQ_CMD_query, &query, (mq_span){0});
    await(&client, MQ_CMD_answer);
    assert_true(mq_span_is(client.as.answer.verdict, "ok"));
    assert_non_null(memmem(client.payload.data, client.payload.len, "\"kind\":\"test\"", 13));
    peer_close(&client);
    peer_close(&w.peer);
    stop(&redis, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_goes_through_a_real_broker),
        cmocka_unit_test(gets_wait_for_the_end_or_for_their_time),
        cmocka_unit_test(garbage_is_refused_by_name_and_does_no_harm),
        cmocka_unit_test(an_empty_store_is_not_initialised_unless_told),
        cmocka_unit_test(a_store_that_returns_empty_stops_the_service),
        cmocka_unit_test(a_stopped_broker_gives_its_shard_back_and_another_sends_clients_away),
        cmocka_unit_test(a_result_is_taken_only_when_its_blobs_are_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

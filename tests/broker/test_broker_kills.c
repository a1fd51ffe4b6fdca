/* Acknowledged jobs survive kills of the broker and of Redis, seen by raw peers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <zmq.h>

#include "tests/support/broker_process.h"

typedef struct tracked {
    char id[MQ_ULID_SIZE];
    bool is_acked;
    int ends;
    int64_t sent_ms;
} tracked;

enum { CHAOS_JOBS = 500, CHAOS_KILLS = 8, WINDOW = 64 };

static tracked *find_job(tracked *all, mq_span id)
{
    for (int i = 0; i < CHAOS_JOBS; i++) {
        if (mq_span_is(id, all[i].id)) {
            return &all[i];
        }
    }
    fail_msg("an unknown job");
    abort();
}

static void client_turn(peer *client, tracked *all)
{
    while (hear(client, 1)) {
        for (uint32_t i = 0;
             client->command == MQ_CMD_submitted && i < client->as.submitted.jobs_count; i++) {
            const mq_msg_submitted_job *j = &client->as.submitted.jobs[i];
            bool is_ok = mq_span_is(j->verdict, "ok") || mq_span_is(j->verdict, "dup");
            assert_false(mq_span_is(j->verdict, "conflict"));
            find_job(all, j->id)->is_acked |= is_ok;
        }
        for (uint32_t i = 0; client->command == MQ_CMD_done && i < client->as.done.jobs_count;
             i++) {
            find_job(all, client->as.done.jobs[i].id)->ends++;
        }
    }
    int64_t now_ms = mq_clock_mono_ms();
    int open_jobs = 0;
    for (int i = 0; i < CHAOS_JOBS && open_jobs < WINDOW; i++) {
        tracked *t = &all[i];
        if (t->is_acked) {
            continue;
        }
        open_jobs++;
        if (now_ms - t->sent_ms > 1000) {
            t->sent_ms = now_ms;
            submit_one(client, t->id, "echo", t->id);
        }
    }
}

static int acked(const tracked *all)
{
    int count = 0;
    for (int i = 0; i < CHAOS_JOBS; i++) {
        count += all[i].is_acked;
    }
    return count;
}

static void check_end(peer *client, echo_worker *workers, const tracked *t)
{
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    for (;;) {
        mq_msg_get get = {.rid = 1, .id = mq_str(t->id), .want_result = true};
        say(client, MQ_CMD_get, &get, (mq_span){0});
        for (int k = 0; k < 20; k++) {
            worker_turn(&workers[0], 0);
            worker_turn(&workers[1], 0);
            if (!hear(client, 10) || client->command != MQ_CMD_state ||
                !mq_span_is(client->as.state.id, t->id)) {
                continue;
            }
            if (mq_span_is(client->as.state.verdict, "not_found")) {
                fail_msg("acknowledged job %s is lost", t->id);
            }
            if (mq_span_is(client->as.state.state, "succeeded")) {
                assert_true(mq_span_is(client->payload, t->id));
                return;
            }
            assert_false(mq_span_is(client->as.state.state, "dead"));
            break;
        }
        if (mq_clock_mono_ms() > until_ms) {
            fail_msg("job %s does not end", t->id);
        }
    }
}

static void acknowledged_jobs_survive_kills_of_broker_and_redis(void **unused)
{
    (void)unused;
    mq_test_redis redis;
    broker b;
    peer client;
    static echo_worker workers[2];
    tracked *all = calloc(CHAOS_JOBS, sizeof *all);
    mq_prng prng = {(uint64_t)mq_clock_mono_ns()};
    print_message("seed %llu\n", (unsigned long long)prng.state);
    start(&redis, &b);
    peer_open(&client, b.front);
    hello(&client, "client");
    worker_open(&workers[0], &b, 1);
    worker_open(&workers[1], &b, 2);
    for (int i = 0; i < CHAOS_JOBS; i++) {
        mq_ulid_new(all[i].id);
    }
    int kills = 0;
    int64_t until_ms = mq_clock_mono_ms() + 3 * WAIT_MS;
    while (acked(all) < CHAOS_JOBS) {
        client_turn(&client, all);
        worker_turn(&workers[0], 1);
        worker_turn(&workers[1], 1);
        /* The next kill comes when so many more jobs are acknowledged. */
        if (kills < CHAOS_KILLS && acked(all) > (kills + 1) * CHAOS_JOBS / (CHAOS_KILLS + 2)) {
            kills++;
            if (mq_prng_below(&prng, 2) == 0) {
                broker_kill(&b);
                broker_start(&b);
            } else {
                mq_test_redis_kill(&redis);
                mq_test_redis_start(&redis, NULL);
            }
        }
        if (mq_clock_mono_ms() > until_ms) {
            fail_msg("only %d of %d jobs were acknowledged", acked(all), CHAOS_JOBS);
        }
    }
    assert_int_equal(kills, CHAOS_KILLS);
    for (int i = 0; i < CHAOS_JOBS; i++) {
        check_end(&client, workers, &all[i]);
        assert_true(all[i].ends <= 1);
    }
    peer_close(&client);
    peer_close(&workers[0].peer);
    peer_close(&workers[1].peer);
    free(all);
    stop(&redis, &b);
}

/* Somebody takes a job's record away behind the broker's back. */
static void take_record(const mq_test_redis *redis, const char *id)
{
    redisContext *c = redisConnectUnix(redis->socket);
    assert_true(c != NULL && c->err == 0);
    static const char *const keys[] = {"{mq:0}:live:0", "{mq:0}:req"};
    for (int i = 0; i < 2; i++) {
        redisReply *reply = redisCommand(c, "HDEL %s %s", keys[i], id);
        assert_non_null(reply);
        assert_int_equal(reply->integer, 1);
        freeReplyObject(reply);
    }
    redisFree(c);
}

static void a_job_that_the_store_does_not_have_is_never_told_to_have_ended(void **unused)
{
    (void)unused;
    mq_test_redis redis;
    broker b;
    peer client;
    static echo_worker w;
    char id[2][MQ_ULID_SIZE];
    start(&redis, &b);
    peer_open(&client, b.front);
    hello(&client, "client");
    for (int i = 0; i < 2; i++) {
        mq_ulid_new(id[i]);
        submit_one(&client, id[i], "echo", "x");
        await(&client, MQ_CMD_submitted);
    }
    take_record(&redis, id[0]);
    worker_open(&w, &b, 1);
    bool is_over = false;
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (!is_over) {
        assert_true(mq_clock_mono_ms() < until_ms);
        worker_turn(&w, 10);
        while (hear(&client, 10)) {
            for (uint32_t i = 0; client.command == MQ_CMD_done && i < client.as.done.jobs_count;
                 i++) {
                assert_true(mq_span_is(client.as.done.jobs[i].id, id[1]));
            }
        }
        is_over = log_says(&b, "commit ignored in part");
    }
    /* It reads the store again, and goes on with what is there. */
    is_over = false;
    while (!is_over) {
        assert_true(mq_clock_mono_ms() < until_ms + WAIT_MS);
        mq_msg_get again = {.rid = 7, .id = mq_str(id[1])};
        say(&client, MQ_CMD_get, &again, (mq_span){0});
        for (int i = 0; i < 10; i++) {
            worker_turn(&w, 10);
        }
        while (hear(&client, 10)) {
            is_over |=
                client.command == MQ_CMD_state && mq_span_is(client.as.state.state, "succeeded");
        }
    }
    mq_msg_get get = {.rid = 8, .id = mq_str(id[0])};
    say(&client, MQ_CMD_get, &get, (mq_span){0});
    do {
        await(&client, MQ_CMD_state);
    } while (client.as.state.rid != 8);
    assert_true(mq_span_is(client.as.state.verdict, "not_found"));
    peer_close(&client);
    peer_close(&w.peer);
    stop(&redis, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acknowledged_jobs_survive_kills_of_broker_and_redis),
        cmocka_unit_test(a_job_that_the_store_does_not_have_is_never_told_to_have_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

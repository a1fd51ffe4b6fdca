/* The failure matrix (tests/README.md), a named test for each row that needs no network: what is
 * killed or lost at which moment, and what happens then. The moments are not left to chance: writes
 * of Redis are held up (CLIENT PAUSE) or the broker is stopped until a commit is just where the row
 * wants it. */
#include "tests/e2e/world.h"

#include <hiredis/hiredis.h>

#include "tests/support/volume.h"

enum {
    BODY_BYTES = 3000, /* so large that a commit with it is seen to have reached Redis */
    LEASE_MS = 4000,
    SHORT_LEASE_MS = 600,
};

static uint64_t seqs[2]; /* of the workers MINE and OTHERS */

static int start(void **state)
{
    (void)state;
    sys_options options = {.lease_ms = LEASE_MS, .beat_ms = 1000};
    context = zmq_ctx_new();
    sys_start(&system_, &options);
    seqs[0] = seqs[1] = 0;
    return 0;
}

static int stop(void **state)
{
    (void)state;
    sys_stop(&system_, false);
    if (peers_open == 0) {
        zmq_ctx_term(context);
    }
    return 0;
}

/* ---- Redis, directly ---- */

static redisContext *redis_open(void)
{
    char path[160];
    snprintf(path, sizeof path, "%s/state.sock", system_.dir);
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    for (;;) {
        redisContext *c = redisConnectUnixWithTimeout(path, (struct timeval){.tv_sec = 30});
        redisReply *reply = c == NULL || c->err != 0 ? NULL : redisCommand(c, "PING");
        bool is_up = reply != NULL && reply->type == REDIS_REPLY_STATUS;
        freeReplyObject(reply);
        if (is_up) {
            return c;
        }
        redisFree(c);
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(10);
    }
}

static void redis_say(redisContext *c, const char *command)
{
    redisReply *reply = redisCommand(c, command);
    assert_true(reply != NULL && reply->type == REDIS_REPLY_STATUS);
    freeReplyObject(reply);
}

/* Writes wait from now on; the broker's next commit stays in front of Redis. */
static redisContext *hold_writes(void)
{
    redisContext *c = redis_open();
    redis_say(c, "CLIENT PAUSE 600000 WRITE");
    return c;
}

static long number_in(const char *line, const char *field)
{
    const char *at = strstr(line, field);
    return at == NULL ? 0 : strtol(at + strlen(field), NULL, 10);
}

/* Waits until a commit with a large body is with Redis and waits there. */
static void await_held_commit(redisContext *c)
{
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    for (;;) {
        redisReply *reply = redisCommand(c, "CLIENT LIST");
        assert_true(reply != NULL && reply->str != NULL);
        bool is_there = false;
        for (char *line = reply->str; line != NULL && *line != '\0'; line = strchr(line, '\n')) {
            line += *line == '\n';
            is_there |= number_in(line, " qbuf=") + number_in(line, " argv-mem=") > BODY_BYTES;
        }
        freeReplyObject(reply);
        if (is_there) {
            return;
        }
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(5);
    }
}

/* Waits until the job is open in the store, or is not any more. */
static void await_stored(redisContext *c, const char *id, bool is_open)
{
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    for (;;) {
        redisReply *reply = redisCommand(c, "HEXISTS {mq:0}:req %s", id);
        assert_true(reply != NULL && reply->type == REDIS_REPLY_INTEGER);
        bool is_right = (reply->integer == 1) == is_open;
        freeReplyObject(reply);
        if (is_right) {
            return;
        }
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(5);
    }
}

static void restart(sys_role role)
{
    sys_kill(&system_, role, 0, SIGKILL);
    sys_spawn(&system_, role, 0);
}

/* ---- jobs ---- */

static mq_span large_body(void)
{
    static char body[BODY_BYTES];
    memset(body, 'b', sizeof body);
    return mq_span_of(body, sizeof body);
}

/* Sends a submit of an id; does not wait. lease_ms: 0 = the broker's. */
static void send_submit(peer *p, const char *id, const char *kind, uint64_t lease_ms)
{
    mq_span body = large_body();
    mq_msg_submit_job job = {
        .id = mq_str(id), .kind = mq_str(kind), .lease_ms = lease_ms, .len = body.len};
    mq_msg_submit m = {.rid = 1, .jobs = &job, .jobs_count = 1};
    peer_send(p, MQ_CMD_submit, &m, body);
}

/* The verdict on one submit, which is sent again, as clients do, when the broker cannot serve yet
 * or starts over; then "ok" may have become "dup". */
static void submit_as(peer *p, const char *id, const char *kind, uint64_t lease_ms,
                      const char *verdict)
{
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    int sends = 0;
    while (mq_clock_mono_ms() < until_ms) {
        send_submit(p, id, kind, lease_ms);
        sends++;
        bool has_heard = peer_receive(p, 2000);
        while (has_heard && p->command != MQ_CMD_submitted && p->command != MQ_CMD_error) {
            has_heard = peer_receive(p, 2000);
        }
        if (!has_heard || p->command == MQ_CMD_error) {
            mq_clock_sleep_ms(100);
            continue;
        }
        mq_span said = p->m.submitted.jobs[0].verdict;
        if (!mq_span_is(said, verdict) && (sends == 1 || !mq_span_is(said, "dup"))) {
            fail_msg("verdict %.*s instead of %s", MQ_SPAN_ARG(said), verdict);
        }
        return;
    }
    fail_msg("no verdict on job %s", id);
}

static void submitted_as(peer *p, const char *id, const char *kind, const char *verdict)
{
    submit_as(p, id, kind, 0, verdict);
}

/* A number in a job's record, as the broker tells it. */
static long told_of(peer *p, const char *id, const char *field)
{
    mq_msg_query m = {.rid = 9, .what = mq_str("job"), .name = mq_str(id)};
    peer_send(p, MQ_CMD_query, &m, (mq_span){0});
    peer_await(p, MQ_CMD_answer);
    json_t *json = json_loadb((const char *)p->payload.data, p->payload.len, 0, NULL);
    assert_non_null(json);
    const json_t *value = json_object_get(json, field);
    assert_true(json_is_integer(value));
    long number = (long)json_integer_value(value);
    json_decref(json);
    return number;
}

static long counter(peer *p, const char *name)
{
    json_t *json = query(p, "status");
    long n = (long)json_integer_value(json_object_get(json_object_get(json, "counters"), name));
    json_decref(json);
    return n;
}

/* A fresh connection, once the broker welcomes it. */
static void reopen_client(peer *p)
{
    mq_msg_hello hello = {.role = mq_str("client"), .version_min = 1, .version_max = 1};
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    peer_open(p, context, system_.front, NULL);
    do {
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(20);
        peer_send(p, MQ_CMD_hello, &hello, (mq_span){0});
    } while (!peer_receive(p, 1000) || p->command != MQ_CMD_welcome);
}

static void new_job(peer *p, const char *kind, char id[MQ_ULID_SIZE], uint64_t lease_ms)
{
    mq_ulid_new(id);
    submit_as(p, id, kind, lease_ms, "ok");
}

static void large_result(peer *worker, const char *uuid, const mq_msg_held *held)
{
    mq_msg_result_item item = {
        .id = held->id, .epoch = held->epoch, .grant = held->grant, .class = mq_str("ok")};
    peer_result(worker, uuid, &item, large_body());
}

/* The verdict on a result, which is sent again, as workers do, while the broker is loading. */
static void result_as(peer *worker, const char *uuid, const mq_msg_held *held, const char *verdict)
{
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    bool has_heard = false;
    while (!has_heard) {
        assert_true(mq_clock_mono_ms() < until_ms);
        large_result(worker, uuid, held);
        do {
            has_heard = peer_receive(worker, 1000);
        } while (has_heard && worker->command != MQ_CMD_verdict);
    }
    mq_span said = worker->m.verdict.verdicts[0].verdict;
    if (!mq_span_is(said, verdict)) {
        fail_msg("verdict %.*s instead of %s", MQ_SPAN_ARG(said), verdict);
    }
}

/* A worker comes back after its broker did: registers with what it holds; the verdict on that. */
static void register_again(peer *worker, const char *uuid, const char *kind, mq_msg_held *held,
                           const char *verdict)
{
    mq_span kinds[] = {mq_str(kind)};
    mq_msg_ready ready = {.worker = mq_str(uuid),
                          .name = mq_str("raw"),
                          .host = mq_str("raw"),
                          .fingerprint = mq_str("raw"),
                          .slots = 1,
                          .kinds = kinds,
                          .kinds_count = 1,
                          .held = held,
                          .held_count = held == NULL ? 0 : 1};
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    do {
        assert_true(mq_clock_mono_ms() < until_ms);
        peer_send(worker, MQ_CMD_ready, &ready, (mq_span){0});
    } while (!peer_receive(worker, 1000) || worker->command != MQ_CMD_registered);
    if (held != NULL) {
        mq_span said = worker->m.registered.verdicts[0].verdict;
        if (!mq_span_is(said, verdict)) {
            fail_msg("held: %.*s instead of %s", MQ_SPAN_ARG(said), verdict);
        }
    }
}

/* ---- clients ---- */

static void a_client_killed_before_its_ack_submits_again_and_has_one_job(void **state)
{
    (void)state;
    peer p;
    char id[MQ_ULID_SIZE];
    open_client(&p);
    long before = counter(&p, "submitted") - counter(&p, "dups");
    mq_ulid_new(id);
    send_submit(&p, id, "row1", 0);
    redisContext *c = redis_open();
    await_stored(c, id, true); /* taken, and nobody reads the answer */
    peer_close(&p);
    open_client(&p);
    submitted_as(&p, id, "row1", "dup");
    assert_int_equal(counter(&p, "submitted") - counter(&p, "dups"), before + 1);
    redisFree(c);
    peer_close(&p);
}

static void a_client_killed_after_its_ack_finds_the_result_by_id(void **state)
{
    (void)state;
    peer p, worker;
    char id[MQ_ULID_SIZE];
    open_client(&p);
    new_job(&p, "row2", id, 0);
    peer_close(&p);
    open_worker(&worker, MINE, "row2");
    mq_msg_held held = take_job(&worker, MINE, &seqs[0], 0, id);
    result_as(&worker, MINE, &held, "ok");
    open_client(&p);
    mq_msg_get get = {.rid = 5, .id = mq_str(id), .want_result = true};
    peer_send(&p, MQ_CMD_get, &get, (mq_span){0});
    peer_await(&p, MQ_CMD_state);
    SAYS(p.m.state.state, "succeeded");
    assert_int_equal(p.payload.len, BODY_BYTES);
    peer_close(&worker);
    peer_close(&p);
}

/* ---- the broker ---- */

static void a_broker_killed_before_the_commit_leaves_nothing_behind(void **state)
{
    (void)state;
    peer p;
    char id[MQ_ULID_SIZE];
    open_client(&p);
    redisContext *c = hold_writes();
    mq_ulid_new(id);
    send_submit(&p, id, "row3", 0);
    await_held_commit(c);
    restart(SYS_BROKER); /* with its connection goes the commit that waits */
    redis_say(c, "CLIENT UNPAUSE");
    peer_close(&p);
    reopen_client(&p);
    submitted_as(&p, id, "row3", "ok");
    redisFree(c);
    peer_close(&p);
}

static void a_broker_killed_between_commit_and_ack_answers_dup(void **state)
{
    (void)state;
    peer p;
    char id[MQ_ULID_SIZE];
    open_client(&p);
    redisContext *c = hold_writes();
    mq_ulid_new(id);
    send_submit(&p, id, "row4", 0);
    await_held_commit(c);
    kill(sys_pid(&system_, SYS_BROKER, 0), SIGSTOP); /* it cannot answer any more */
    redis_say(c, "CLIENT UNPAUSE");
    await_stored(c, id, true);
    restart(SYS_BROKER);
    peer_close(&p);
    reopen_client(&p);
    submitted_as(&p, id, "row4", "dup");
    redisFree(c);
    peer_close(&p);
}

static void a_broker_killed_after_a_grant_nobody_saw_costs_no_crash(void **state)
{
    (void)state;
    peer p, worker, other;
    char id[MQ_ULID_SIZE];
    open_client(&p);
    new_job(&p, "row5", id, SHORT_LEASE_MS);
    open_worker(&worker, MINE, "row5");
    (void)take_job(&worker, MINE, &seqs[0], 0, id); /* and never says that it has it */
    restart(SYS_BROKER);
    peer_close(&worker);
    peer_close(&p);
    peer_open(&other, context, system_.back, NULL);
    register_again(&other, OTHERS, "row5", NULL, "");
    mq_msg_held held = take_job(&other, OTHERS, &seqs[1], 0, id);
    result_as(&other, OTHERS, &held, "ok");
    reopen_client(&p);
    assert_int_equal(told_of(&p, id, "crashes"), 0);
    peer_close(&other);
    peer_close(&p);
}

static void a_broker_killed_after_a_grant_that_was_seen_finds_its_worker_at_it(void **state)
{
    (void)state;
    peer p, worker;
    char id[MQ_ULID_SIZE], later[MQ_ULID_SIZE];
    open_client(&p);
    new_job(&p, "row6", id, 0);
    open_worker(&worker, MINE, "row6");
    mq_msg_held held = take_job(&worker, MINE, &seqs[0], 0, id);
    peer_beat(&worker, MINE, ++seqs[0], 0, 1, &held);
    peer_await(&worker, MQ_CMD_beaten);
    new_job(&p, "later", later, 0); /* once this is stored, the grant is */
    restart(SYS_BROKER);
    peer_close(&worker); /* a new connection of the same worker */
    peer_open(&worker, context, system_.back, NULL);
    register_again(&worker, MINE, "row6", &held, "ok");
    result_as(&worker, MINE, &held, "ok");
    peer_close(&p);
    reopen_client(&p);
    assert_int_equal(told_of(&p, id, "lapses"), 0);
    peer_close(&worker);
    peer_close(&p);
}

/* A job whose result has been sent, with writes held up until the commit of it waits. */
static redisContext *result_under_way(const char *kind, peer *worker, char id[MQ_ULID_SIZE],
                                      mq_msg_held *held)
{
    peer p;
    open_client(&p);
    new_job(&p, kind, id, 0);
    peer_close(&p);
    open_worker(worker, MINE, kind);
    *held = take_job(worker, MINE, &seqs[0], 0, id);
    redisContext *c = hold_writes();
    large_result(worker, MINE, held);
    await_held_commit(c);
    return c;
}

static void a_broker_killed_with_a_result_in_memory_gets_it_again(void **state)
{
    (void)state;
    peer worker;
    char id[MQ_ULID_SIZE];
    mq_msg_held held;
    redisContext *c = result_under_way("row7", &worker, id, &held);
    restart(SYS_BROKER);
    redis_say(c, "CLIENT UNPAUSE");
    peer_close(&worker);
    peer_open(&worker, context, system_.back, NULL);
    register_again(&worker, MINE, "row7", &held, "ok");
    result_as(&worker, MINE, &held, "ok");
    redisFree(c);
    peer_close(&worker);
}

static void a_broker_killed_between_a_results_commit_and_its_verdict_says_dup(void **state)
{
    (void)state;
    peer worker;
    char id[MQ_ULID_SIZE];
    mq_msg_held held;
    redisContext *c = result_under_way("row8", &worker, id, &held);
    kill(sys_pid(&system_, SYS_BROKER, 0), SIGSTOP);
    redis_say(c, "CLIENT UNPAUSE");
    await_stored(c, id, false);
    restart(SYS_BROKER);
    peer_close(&worker);
    peer_open(&worker, context, system_.back, NULL);
    register_again(&worker, MINE, "row8", NULL, "");
    result_as(&worker, MINE, &held, "dup");
    redisFree(c);
    peer_close(&worker);
}

/* ---- workers ---- */

/* The second worker runs the job that the first one had; its record then. */
static void taken_over(const char *kind, const char *id, bool was_seen)
{
    peer p, worker, other;
    open_client(&p);
    open_worker(&worker, MINE, kind);
    mq_msg_held held = take_job(&worker, MINE, &seqs[0], 0, id);
    if (was_seen) {
        peer_beat(&worker, MINE, ++seqs[0], 0, 1, &held);
        peer_await(&worker, MQ_CMD_beaten);
    }
    peer_close(&worker); /* gone */
    open_worker(&other, OTHERS, kind);
    held = take_job(&other, OTHERS, &seqs[1], 0, id);
    result_as(&other, OTHERS, &held, "ok");
    assert_int_equal(told_of(&p, id, "crashes"), 0);
    assert_int_equal(told_of(&p, id, "lapses"), 1);
    peer_close(&other);
    peer_close(&p);
}

static void a_worker_killed_before_its_beat_costs_a_lapse_and_no_crash(void **state)
{
    (void)state;
    peer p;
    char id[MQ_ULID_SIZE];
    open_client(&p);
    new_job(&p, "row9", id, SHORT_LEASE_MS);
    taken_over("row9", id, false);
    peer_close(&p);
}

static void a_worker_killed_while_computing_costs_a_lapse_and_no_crash(void **state)
{
    (void)state;
    peer p;
    char id[MQ_ULID_SIZE];
    open_client(&p);
    new_job(&p, "row10", id, SHORT_LEASE_MS);
    taken_over("row10", id, true);
    peer_close(&p);
}

static void a_worker_killed_after_its_result_has_done_its_job(void **state)
{
    (void)state;
    peer p, worker;
    char id[MQ_ULID_SIZE];
    open_client(&p);
    new_job(&p, "row11", id, 0);
    open_worker(&worker, MINE, "row11");
    mq_msg_held held = take_job(&worker, MINE, &seqs[0], 0, id);
    send_result(&worker, MINE, &held, "ok");
    redisContext *c = redis_open();
    await_stored(c, id, false);
    peer_close(&worker); /* before it has read the verdict */
    check_state(&p, id, "succeeded");
    assert_int_equal(told_of(&p, id, "grant") > 0, 1);
    assert_int_equal(told_of(&p, id, "lapses"), 0);
    redisFree(c);
    peer_close(&p);
}

static void
a_worker_stopped_past_its_lease_may_still_commit_when_nobody_else_has_the_job(void **state)
{
    (void)state;
    peer p, worker;
    char id[MQ_ULID_SIZE];
    open_client(&p);
    new_job(&p, "row12", id, SHORT_LEASE_MS);
    open_worker(&worker, MINE, "row12");
    mq_msg_held held = take_job(&worker, MINE, &seqs[0], 0, id);
    check_state(&p, id, "queued"); /* it has lapsed */
    result_as(&worker, MINE, &held, "ok");
    check_state(&p, id, "succeeded");
    peer_close(&worker);
    peer_close(&p);
}

static void a_worker_stopped_past_its_lease_is_stale_once_another_has_the_job(void **state)
{
    (void)state;
    peer p, worker, other;
    char id[MQ_ULID_SIZE];
    open_client(&p);
    new_job(&p, "row13", id, SHORT_LEASE_MS);
    open_worker(&worker, MINE, "row13");
    mq_msg_held late = take_job(&worker, MINE, &seqs[0], 0, id);
    open_worker(&other, OTHERS, "row13");
    mq_msg_held held = take_job(&other, OTHERS, &seqs[1], 0, id);
    send_result(&worker, MINE, &late, "ok");
    await_verdict(&worker, "stale");
    result_as(&other, OTHERS, &held, "ok");
    check_state(&p, id, "succeeded");
    peer_close(&other);
    peer_close(&worker);
    peer_close(&p);
}

/* ---- Redis ---- */

static void redis_killed_before_the_write_has_nothing_and_takes_it_again(void **state)
{
    (void)state;
    peer p;
    char id[MQ_ULID_SIZE];
    open_client(&p);
    long before = counter(&p, "submitted") - counter(&p, "dups");
    redisContext *c = hold_writes();
    mq_ulid_new(id);
    send_submit(&p, id, "row14", 0);
    await_held_commit(c);
    restart(SYS_STATE_REDIS);
    redisFree(c);
    submitted_as(&p, id, "row14", "ok");
    assert_int_equal(counter(&p, "submitted") - counter(&p, "dups"), before + 1);
    peer_close(&p);
}

static void redis_killed_after_the_write_has_the_job_once(void **state)
{
    (void)state;
    peer p;
    char id[MQ_ULID_SIZE];
    open_client(&p);
    long before = counter(&p, "submitted") - counter(&p, "dups");
    redisContext *c = hold_writes();
    mq_ulid_new(id);
    send_submit(&p, id, "row15", 0);
    await_held_commit(c);
    kill(sys_pid(&system_, SYS_BROKER, 0), SIGSTOP);
    redis_say(c, "CLIENT UNPAUSE");
    await_stored(c, id, true);
    restart(SYS_STATE_REDIS);
    kill(sys_pid(&system_, SYS_BROKER, 0), SIGCONT);
    redisFree(c);
    c = redis_open();
    await_stored(c, id, true);
    check_state(&p, id, "queued");
    assert_int_equal(counter(&p, "submitted") - counter(&p, "dups"), before + 1);
    redisFree(c);
    peer_close(&p);
}

static void redis_away_for_three_leases_costs_no_running_job_its_lease(void **state)
{
    (void)state;
    peer p, worker;
    char id[MQ_ULID_SIZE], later[MQ_ULID_SIZE];
    open_client(&p);
    new_job(&p, "row16", id, SHORT_LEASE_MS);
    open_worker(&worker, MINE, "row16");
    mq_msg_held held = take_job(&worker, MINE, &seqs[0], 0, id);
    peer_beat(&worker, MINE, ++seqs[0], 0, 1, &held);
    peer_await(&worker, MQ_CMD_beaten);
    new_job(&p, "later", later, 0); /* once this is stored, the grant is */
    sys_kill(&system_, SYS_STATE_REDIS, 0, SIGKILL);
    int64_t until_ms = mq_clock_mono_ms() + 3 * SHORT_LEASE_MS;
    while (mq_clock_mono_ms() < until_ms) {
        (void)peer_receive(&worker, 50);
    }
    sys_spawn(&system_, SYS_STATE_REDIS, 0);
    register_again(&worker, MINE, "row16", &held, "ok");
    result_as(&worker, MINE, &held, "ok");
    assert_int_equal(told_of(&p, id, "lapses"), 0);
    peer_close(&worker);
    peer_close(&p);
}

/* Waits until the broker refuses, and tells a client why. */
static void await_refusal(const char *text)
{
    peer p;
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    mq_msg_hello hello = {.role = mq_str("client"), .version_min = 1, .version_max = 1};
    char said[600] = "";
    peer_open(&p, context, system_.front, NULL);
    do {
        if (mq_clock_mono_ms() > until_ms) {
            fail_msg("clients are not told \"%s\" but \"%s\"", text, said);
        }
        mq_clock_sleep_ms(20);
        peer_send(&p, MQ_CMD_hello, &hello, (mq_span){0});
        if (peer_receive(&p, 500) && p.command == MQ_CMD_error) {
            SAYS(p.m.error.code, "busy");
            (void)mq_span_copy(p.m.error.text, said, sizeof said);
        }
    } while (strstr(said, text) == NULL);
    peer_close(&p);
}

/* Other data than the broker has seen: refused by it and by one that is started then; the right
 * ones are served again, with what was acknowledged in them. */
static void refused_until_right(bool is_empty, const char *text)
{
    peer p;
    char old[MQ_ULID_SIZE], new[MQ_ULID_SIZE];
    open_client(&p);
    new_job(&p, "row17", old, 0);
    sys_kill(&system_, SYS_STATE_REDIS, 0, SIGKILL);
    volume_copy(&system_);
    sys_spawn(&system_, SYS_STATE_REDIS, 0);
    mq_ulid_new(new);
    submitted_as(&p, new, "row17", "ok");
    mq_clock_sleep_ms(
        300); /* the witness is written every 200 ms, and by the commits of renewals */
    submitted_as(&p, new, "row17", "dup");
    sys_kill(&system_, SYS_STATE_REDIS, 0, SIGKILL);
    volume_exchange(&system_, is_empty);
    sys_spawn(&system_, SYS_STATE_REDIS, 0);
    await_refusal(text);
    restart(SYS_BROKER);
    await_refusal(text);
    sys_kill(&system_, SYS_STATE_REDIS, 0, SIGKILL);
    volume_restore(&system_);
    sys_spawn(&system_, SYS_STATE_REDIS, 0);
    peer_close(&p);
    reopen_client(&p);
    check_state(&p, old, "queued");
    check_state(&p, new, "queued");
    peer_close(&p);
}

static void redis_that_returns_older_is_refused_and_clients_are_told(void **state)
{
    (void)state;
    refused_until_right(false, "older than what was acknowledged");
}

static void redis_that_returns_empty_is_refused_and_clients_are_told(void **state)
{
    (void)state;
    refused_until_right(true, "it is empty");
}

static void redis_of_another_deployment_is_refused_and_clients_are_told(void **state)
{
    (void)state;
    redisContext *c = redis_open();
    redisReply *was = redisCommand(c, "GET mq:instance");
    assert_true(was != NULL && was->type == REDIS_REPLY_STRING);
    redis_say(c, "SET mq:instance 11111111-2222-4333-8444-555555555555");
    await_refusal("another deployment");
    redisReply *set = redisCommand(c, "SET mq:instance %s", was->str);
    freeReplyObject(set);
    freeReplyObject(was);
    redisFree(c);
    peer p;
    reopen_client(&p);
    peer_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_killed_before_its_ack_submits_again_and_has_one_job),
        cmocka_unit_test(a_client_killed_after_its_ack_finds_the_result_by_id),
        cmocka_unit_test(a_broker_killed_before_the_commit_leaves_nothing_behind),
        cmocka_unit_test(a_broker_killed_between_commit_and_ack_answers_dup),
        cmocka_unit_test(a_broker_killed_after_a_grant_nobody_saw_costs_no_crash),
        cmocka_unit_test(a_broker_killed_after_a_grant_that_was_seen_finds_its_worker_at_it),
        cmocka_unit_test(a_broker_killed_with_a_result_in_memory_gets_it_again),
        cmocka_unit_test(a_broker_killed_between_a_results_commit_and_its_verdict_says_dup),
        cmocka_unit_test(a_worker_killed_before_its_beat_costs_a_lapse_and_no_crash),
        cmocka_unit_test(a_worker_killed_while_computing_costs_a_lapse_and_no_crash),
        cmocka_unit_test(a_worker_killed_after_its_result_has_done_its_job),
        cmocka_unit_test(
            a_worker_stopped_past_its_lease_may_still_commit_when_nobody_else_has_the_job),
        cmocka_unit_test(a_worker_stopped_past_its_lease_is_stale_once_another_has_the_job),
        cmocka_unit_test(redis_killed_before_the_write_has_nothing_and_takes_it_again),
        cmocka_unit_test(redis_killed_after_the_write_has_the_job_once),
        cmocka_unit_test(redis_away_for_three_leases_costs_no_running_job_its_lease),
        cmocka_unit_test(redis_that_returns_older_is_refused_and_clients_are_told),
        cmocka_unit_test(redis_that_returns_empty_is_refused_and_clients_are_told),
        cmocka_unit_test(redis_of_another_deployment_is_refused_and_clients_are_told),
    };
    if (getenv("MAASQ_ONLY") != NULL) {
        cmocka_set_test_filter(getenv("MAASQ_ONLY"));
    }
    return cmocka_run_group_tests(tests, start, stop);
}

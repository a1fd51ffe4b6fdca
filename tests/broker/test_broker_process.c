/* A real maasq-broker with a private redis-server, and clients and workers that this test makes
 * from raw ZeroMQ sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <zmq.h>

#include "shared/base/arena.h"
#include "shared/base/prng.h"
#include "shared/base/ulid.h"
#include "shared/blob/blob.h"
#include "shared/wire/messages.h"
#include "tests/support/redis.h"

enum { WAIT_MS = 60000, STEP_MS = 20 };

/* ---- a broker process ---- */

typedef struct broker {
    mq_test_redis *redis;
    pid_t pid;
    char front[160], back[160], blobs[160], log[160];
    const char *more[8];
} broker;

static void program(char *out, size_t size, const char *name)
{
    ssize_t len = readlink("/proc/self/exe", out, size - 1);
    assert_true(len > 0);
    out[len] = '\0';
    for (int up = 0; up < 3; up++) { /* build/V/tests/broker/test_x -> build/V */
        *strrchr(out, '/') = '\0';
    }
    size_t at = strlen(out);
    (void)snprintf(out + at, size - at, "/%s", name);
}

static void broker_start(broker *b)
{
    char path[512];
    program(path, sizeof path, "maasq-broker");
    const char *argv[24] = {path,      "--front",     b->front,  "--back",      b->back,
                            "--store", b->redis->url, "--blobs", b->blobs,      "--lease-ms",
                            "10000",   "--beat-ms",   "1000",    "--log-level", "debug"};
    int n = 15;
    for (int i = 0; i < 8 && b->more[i] != NULL; i++) {
        argv[n++] = b->more[i];
    }
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = open(b->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(fd, 2);
        execv(path, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    b->pid = pid;
}

static void broker_init(broker *b, mq_test_redis *redis, const char *name)
{
    *b = (broker){.redis = redis};
    (void)snprintf(b->front, sizeof b->front, "ipc://%s/%s-front", redis->dir, name);
    (void)snprintf(b->back, sizeof b->back, "ipc://%s/%s-back", redis->dir, name);
    (void)snprintf(b->blobs, sizeof b->blobs, "dir:%s/blobs", redis->dir);
    (void)snprintf(b->log, sizeof b->log, "%s/%s.log", redis->dir, name);
}

/* Waits for the end of the process; its exit status, or -signal. */
static int broker_wait(broker *b)
{
    int status = 0;
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (waitpid(b->pid, &status, WNOHANG) == 0) {
        if (mq_clock_mono_ms() > until_ms) {
            fail_msg("the broker does not end");
        }
        mq_clock_sleep_ms(STEP_MS);
    }
    b->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void broker_kill(broker *b)
{
    if (b->pid > 0) {
        kill(b->pid, SIGKILL);
        (void)broker_wait(b);
    }
}

static bool log_says(const broker *b, const char *text)
{
    static char all[1 << 20];
    FILE *file = fopen(b->log, "r");
    size_t len = file == NULL ? 0 : fread(all, 1, sizeof all - 1, file);
    all[len] = '\0';
    if (file != NULL) {
        (void)fclose(file);
    }
    return strstr(all, text) != NULL;
}

static void log_wait(const broker *b, const char *text)
{
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (!log_says(b, text)) {
        if (mq_clock_mono_ms() > until_ms) {
            fail_msg("the broker never said: %s", text);
        }
        mq_clock_sleep_ms(STEP_MS);
    }
}

/* ---- a peer ---- */

typedef struct peer {
    void *context, *socket;
    mq_arena arena;
    mq_buf header;
    zmq_msg_t frames[3];
    bool has_frames;
    mq_command command; /* of the last message */
    mq_span payload;
    union {
        mq_msg_welcome welcome;
        mq_msg_error error;
        mq_msg_submitted submitted;
        mq_msg_done done;
        mq_msg_state state;
        mq_msg_reply reply;
        mq_msg_answer answer;
        mq_msg_event event;
        mq_msg_registered registered;
        mq_msg_job job;
        mq_msg_beaten beaten;
        mq_msg_verdict verdict;
    } as;
} peer;

static void peer_open(peer *p, const char *endpoint)
{
    int linger = 0;
    memset(p, 0, sizeof *p);
    p->context = zmq_ctx_new();
    p->socket = zmq_socket(p->context, ZMQ_DEALER);
    assert_int_equal(zmq_setsockopt(p->socket, ZMQ_LINGER, &linger, sizeof linger), 0);
    assert_int_equal(zmq_connect(p->socket, endpoint), 0);
    mq_arena_init(&p->arena, 64 << 20);
    mq_buf_init(&p->header, MQ_HEADER_BYTES_MAX);
}

static void drop_frames(peer *p)
{
    for (int i = 0; p->has_frames && i < 3; i++) {
        zmq_msg_close(&p->frames[i]);
    }
    p->has_frames = false;
    mq_arena_reset(&p->arena);
}

static void peer_close(peer *p)
{
    drop_frames(p);
    zmq_close(p->socket);
    zmq_ctx_term(p->context);
    mq_arena_release(&p->arena);
    mq_buf_release(&p->header);
}

static void say(peer *p, mq_command command, const void *message, mq_span payload)
{
    mq_error err;
    uint8_t head[4];
    mq_buf_reset(&p->header);
    if (mq_wire_encode(command, message, &p->header, &err) != MQ_OK) {
        fail_msg("%s", err.text);
    }
    mq_wire_head(command, head);
    (void)zmq_send(p->socket, head, sizeof head, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    (void)zmq_send(p->socket, p->header.data, p->header.len, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    (void)zmq_send(p->socket, payload.data, payload.len, ZMQ_DONTWAIT);
}

/* Next message within wait_ms; false when there is none. */
static bool hear(peer *p, int wait_ms)
{
    zmq_pollitem_t item = {p->socket, 0, ZMQ_POLLIN, 0};
    mq_error err = {0};
    drop_frames(p);
    if (zmq_poll(&item, 1, wait_ms) <= 0) {
        return false;
    }
    for (int i = 0; i < 3; i++) {
        zmq_msg_init(&p->frames[i]);
        assert_true(zmq_msg_recv(&p->frames[i], p->socket, 0) >= 0);
    }
    p->has_frames = true;
    mq_span head = mq_span_of(zmq_msg_data(&p->frames[0]), zmq_msg_size(&p->frames[0]));
    mq_span header = mq_span_of(zmq_msg_data(&p->frames[1]), zmq_msg_size(&p->frames[1]));
    p->payload = mq_span_of(zmq_msg_data(&p->frames[2]), zmq_msg_size(&p->frames[2]));
    assert_int_equal(mq_wire_command(head, &p->command, &err), MQ_OK);
    if (mq_wire_decode(p->command, header, &p->as, &p->arena, &err) != MQ_OK) {
        fail_msg("%s: %s", mq_command_name(p->command), err.text);
    }
    return true;
}

/* The next message of a command; others are passed over. */
static void await(peer *p, mq_command command)
{
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    do {
        if (mq_clock_mono_ms() > until_ms) {
            fail_msg("no %s came", mq_command_name(command));
        }
    } while (!hear(p, 100) || p->command != command);
}

static void hello(peer *p, const char *role)
{
    mq_msg_hello m = {.role = mq_str(role), .version_min = 1, .version_max = 1};
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    do {
        if (mq_clock_mono_ms() > until_ms) {
            fail_msg("no welcome came");
        }
        say(p, MQ_CMD_hello, &m, (mq_span){0});
    } while (!hear(p, 300) || p->command != MQ_CMD_welcome);
}

static void submit_one(peer *p, const char *id, const char *kind, const char *body)
{
    mq_msg_submit_job job = {.id = mq_str(id), .kind = mq_str(kind), .len = strlen(body)};
    mq_msg_submit m = {.rid = 1, .jobs = &job, .jobs_count = 1};
    say(p, MQ_CMD_submit, &m, mq_str(body));
}

/* ---- a worker made by hand: echoes ---- */

typedef struct held_job {
    bool is_used;
    char id[MQ_ULID_SIZE];
    uint64_t epoch, grant;
    size_t body_len;
    char body[128];
    int64_t sent_ms;
} held_job;

enum { HELD = 16 };

typedef struct echo_worker {
    peer peer;
    char uuid[33];
    bool is_registered;
    uint64_t seq, seen;
    int64_t beat_ms, ready_ms;
    held_job held[HELD];
} echo_worker;

static void worker_open(echo_worker *w, const broker *b, int number)
{
    memset(w, 0, sizeof *w);
    peer_open(&w->peer, b->back);
    (void)snprintf(w->uuid, sizeof w->uuid, "%032x", number);
}

static uint32_t list_held(const echo_worker *w, mq_msg_held out[HELD])
{
    uint32_t count = 0;
    for (int i = 0; i < HELD; i++) {
        const held_job *h = &w->held[i];
        if (h->is_used) {
            out[count++] = (mq_msg_held){.id = mq_str(h->id), .epoch = h->epoch, .grant = h->grant};
        }
    }
    return count;
}

static void say_ready(echo_worker *w)
{
    mq_msg_held held[HELD];
    mq_span kinds[] = {mq_str("echo")};
    mq_msg_ready m = {.worker = mq_str(w->uuid),
                      .name = mq_str("raw"),
                      .fingerprint = mq_str("fp"),
                      .slots = HELD,
                      .kinds = kinds,
                      .kinds_count = 1,
                      .held = held};
    m.held_count = list_held(w, held);
    say(&w->peer, MQ_CMD_ready, &m, (mq_span){0});
}

static void say_beat(echo_worker *w)
{
    mq_msg_held held[HELD];
    mq_msg_beat m = {
        .worker = mq_str(w->uuid), .seq = ++w->seq, .jobs_seen = w->seen, .jobs = held};
    m.jobs_count = list_held(w, held);
    m.free = HELD - m.jobs_count;
    say(&w->peer, MQ_CMD_beat, &m, (mq_span){0});
}

static void say_result(echo_worker *w, held_job *h, int64_t now_ms)
{
    mq_msg_result_item item = {.id = mq_str(h->id),
                               .epoch = h->epoch,
                               .grant = h->grant,
                               .class = mq_str("ok"),
                               .len = h->body_len};
    mq_msg_result m = {.worker = mq_str(w->uuid), .jobs = &item, .jobs_count = 1};
    h->sent_ms = now_ms;
    say(&w->peer, MQ_CMD_result, &m, mq_span_of(h->body, h->body_len));
}

static void take_jobs(echo_worker *w)
{
    const uint8_t *at = w->peer.payload.data;
    for (uint32_t i = 0; i < w->peer.as.job.jobs_count; i++) {
        const mq_msg_job_item *job = &w->peer.as.job.jobs[i];
        w->seen++;
        for (int k = 0; k < HELD; k++) {
            held_job *h = &w->held[k];
            if (!h->is_used) {
                *h = (held_job){.is_used = true,
                                .epoch = job->epoch,
                                .grant = job->grant,
                                .body_len = (size_t)job->len};
                (void)mq_span_copy(job->id, h->id, sizeof h->id);
                assert_true(job->len <= sizeof h->body);
                memcpy(h->body, at, (size_t)job->len);
                break;
            }
        }
        at += job->len;
    }
    say_beat(w);
}

static void take_verdicts(echo_worker *w, const mq_msg_held_verdict *v, uint32_t count, bool is_end)
{
    for (uint32_t i = 0; i < count; i++) {
        for (int k = 0; k < HELD; k++) {
            held_job *h = &w->held[k];
            bool is_it = h->is_used && mq_span_is(v[i].id, h->id) && h->epoch == v[i].epoch &&
                         h->grant == v[i].grant;
            if (is_it && (is_end || mq_span_is(v[i].verdict, "stale"))) {
                h->is_used = false;
            }
        }
    }
}

/* A turn of the worker: whatever came, beats, results again after half a second. */
static void worker_turn(echo_worker *w, int wait_ms)
{
    while (hear(&w->peer, wait_ms)) {
        wait_ms = 0;
        if (w->peer.command == MQ_CMD_job) {
            take_jobs(w);
        } else if (w->peer.command == MQ_CMD_verdict) {
            take_verdicts(w, w->peer.as.verdict.verdicts, w->peer.as.verdict.verdicts_count, true);
        } else if (w->peer.command == MQ_CMD_registered) {
            w->is_registered = true;
            take_verdicts(w, w->peer.as.registered.verdicts, w->peer.as.registered.verdicts_count,
                          false);
            say_beat(w);
        } else if (w->peer.command == MQ_CMD_beaten) {
            take_verdicts(w, w->peer.as.beaten.verdicts, w->peer.as.beaten.verdicts_count, false);
        } else if (w->peer.command == MQ_CMD_error) {
            w->is_registered = false;
        }
    }
    int64_t now_ms = mq_clock_mono_ms();
    if (!w->is_registered && now_ms - w->ready_ms > 200) {
        w->ready_ms = now_ms;
        say_ready(w);
    } else if (w->is_registered && now_ms - w->beat_ms > 400) {
        w->beat_ms = now_ms;
        say_beat(w);
    }
    for (int i = 0; i < HELD; i++) {
        if (w->held[i].is_used && now_ms - w->held[i].sent_ms > 500) {
            say_result(w, &w->held[i], now_ms);
        }
    }
}

/* ---- tests ---- */

static void start(mq_test_redis *redis, broker *b)
{
    mq_test_redis_init(redis);
    mq_test_redis_start(redis, NULL);
    broker_init(b, redis, "one");
    b->more[0] = "--init";
    broker_start(b);
}

static void stop(mq_test_redis *redis, broker *b)
{
    broker_kill(b);
    mq_test_redis_release(redis);
}

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
    mq_ulid_new(id);
    submit_one(&client, id, "echo", "x");
    while (!w.held[0].is_used) {
        if (!w.is_registered) {
            worker_turn(&w, 50);
        } else if (hear(&w.peer, 50) && w.peer.command == MQ_CMD_job) {
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
        cmocka_unit_test(acknowledged_jobs_survive_kills_of_broker_and_redis),
        cmocka_unit_test(garbage_is_refused_by_name_and_does_no_harm),
        cmocka_unit_test(an_empty_store_is_not_initialised_unless_told),
        cmocka_unit_test(a_store_that_returns_empty_stops_the_service),
        cmocka_unit_test(a_stopped_broker_gives_its_shard_back_and_another_sends_clients_away),
        cmocka_unit_test(a_result_is_taken_only_when_its_blobs_are_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

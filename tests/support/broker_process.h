/* A real maasq-broker with a private redis-server, and clients and workers that a test makes itself
 * out of raw ZeroMQ sockets: every message it sends or sees is explicit. */
#ifndef MQ_TEST_BROKER_PROCESS_H
#define MQ_TEST_BROKER_PROCESS_H

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

static inline void program(char *out, size_t size, const char *name)
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

static inline void broker_start(broker *b)
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

static inline void broker_init(broker *b, mq_test_redis *redis, const char *name)
{
    *b = (broker){.redis = redis};
    (void)snprintf(b->front, sizeof b->front, "ipc://%s/%s-front", redis->dir, name);
    (void)snprintf(b->back, sizeof b->back, "ipc://%s/%s-back", redis->dir, name);
    (void)snprintf(b->blobs, sizeof b->blobs, "dir:%s/blobs", redis->dir);
    (void)snprintf(b->log, sizeof b->log, "%s/%s.log", redis->dir, name);
}

/* Waits for the end of the process; its exit status, or -signal. */
static inline int broker_wait(broker *b)
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

static inline void broker_kill(broker *b)
{
    if (b->pid > 0) {
        kill(b->pid, SIGKILL);
        (void)broker_wait(b);
    }
}

static inline bool log_says(const broker *b, const char *text)
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

static inline void log_wait(const broker *b, const char *text)
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

static inline void peer_open(peer *p, const char *endpoint)
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

static inline void drop_frames(peer *p)
{
    for (int i = 0; p->has_frames && i < 3; i++) {
        zmq_msg_close(&p->frames[i]);
    }
    p->has_frames = false;
    mq_arena_reset(&p->arena);
}

static inline void peer_close(peer *p)
{
    drop_frames(p);
    zmq_close(p->socket);
    zmq_ctx_term(p->context);
    mq_arena_release(&p->arena);
    mq_buf_release(&p->header);
}

static inline void say(peer *p, mq_command command, const void *message, mq_span payload)
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
static inline bool hear(peer *p, int wait_ms)
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
static inline void await(peer *p, mq_command command)
{
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    do {
        if (mq_clock_mono_ms() > until_ms) {
            fail_msg("no %s came", mq_command_name(command));
        }
    } while (!hear(p, 100) || p->command != command);
}

static inline void hello(peer *p, const char *role)
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

static inline void submit_one(peer *p, const char *id, const char *kind, const char *body)
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

static inline void worker_open(echo_worker *w, const broker *b, int number)
{
    memset(w, 0, sizeof *w);
    peer_open(&w->peer, b->back);
    (void)snprintf(w->uuid, sizeof w->uuid, "%032x", number);
}

static inline uint32_t list_held(const echo_worker *w, mq_msg_held out[HELD])
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

static inline void say_ready(echo_worker *w)
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

static inline void say_beat(echo_worker *w)
{
    mq_msg_held held[HELD];
    mq_msg_beat m = {
        .worker = mq_str(w->uuid), .seq = ++w->seq, .jobs_seen = w->seen, .jobs = held};
    m.jobs_count = list_held(w, held);
    m.free = HELD - m.jobs_count;
    say(&w->peer, MQ_CMD_beat, &m, (mq_span){0});
}

static inline void say_result(echo_worker *w, held_job *h, int64_t now_ms)
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

static inline void take_jobs(echo_worker *w)
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

static inline void take_verdicts(echo_worker *w, const mq_msg_held_verdict *v, uint32_t count,
                                 bool is_end)
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
static inline void worker_turn(echo_worker *w, int wait_ms)
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

/* ---- the whole ---- */

static inline void start(mq_test_redis *redis, broker *b)
{
    mq_test_redis_init(redis);
    mq_test_redis_start(redis, NULL);
    broker_init(b, redis, "one");
    b->more[0] = "--init";
    broker_start(b);
}

static inline void stop(mq_test_redis *redis, broker *b)
{
    broker_kill(b);
    mq_test_redis_release(redis);
}

#endif

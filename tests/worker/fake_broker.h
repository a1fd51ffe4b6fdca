/* A broker for tests of the worker: a ROUTER that the test drives by hand, and supervisors as child
 * processes of the test program itself (its main hands --broker and --slot to the worker's code).
 */
#ifndef MQ_TEST_FAKE_BROKER_H
#define MQ_TEST_FAKE_BROKER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <zmq.h>

#include "shared/base/clock.h"
#include "shared/wire/messages.h"
#include "worker/io/supervisor.h"

enum {
    FAKE_WAIT_MS = 60000,
    FAKE_WORKERS_MAX = 4,
    FAKE_BEAT_MS = 200,
    FAKE_LEASE_MS = 2000,
};

typedef struct fake_worker {
    pid_t pid;
    uint8_t identity[32];
    size_t identity_len;
    char id[33], host[65], gang_unix[109], gang_tcp[129], fingerprint[65];
    uint64_t slots, free, jobs_seen, beats;
    bool is_registered, is_gone;
} fake_worker;

typedef union fake_message {
    mq_msg_hello hello;
    mq_msg_ready ready;
    mq_msg_credit credit;
    mq_msg_beat beat;
    mq_msg_result result;
    mq_msg_progress progress;
    mq_msg_checkpoint checkpoint;
    mq_msg_lost lost;
    mq_msg_bye bye;
    mq_msg_query query;
} fake_message;

typedef struct fake_broker {
    void *context, *router;
    char dir[128], endpoint[192];
    char blobs[256]; /* URL told to workers */
    mq_arena arena;
    zmq_msg_t frames[4];
    bool has_frames;
    mq_command command; /* of the last message */
    fake_message m;
    mq_span payload;
    fake_worker *from;
    fake_worker workers[FAKE_WORKERS_MAX];
    uint32_t worker_count;
    uint64_t grant;
} fake_broker;

#define FAKE __attribute__((unused)) static

FAKE void fake_bind(fake_broker *f)
{
    int none = 0;
    f->router = zmq_socket(f->context, ZMQ_ROUTER);
    assert_non_null(f->router);
    assert_int_equal(zmq_setsockopt(f->router, ZMQ_LINGER, &none, sizeof none), 0);
    assert_int_equal(zmq_bind(f->router, f->endpoint), 0);
}

FAKE void fake_open(fake_broker *f)
{
    const char *tmp = getenv("TMPDIR");
    *f = (fake_broker){.context = zmq_ctx_new()};
    (void)snprintf(f->dir, sizeof f->dir, "%s/maasq-worker-XXXXXX", tmp == NULL ? "/tmp" : tmp);
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->endpoint, sizeof f->endpoint, "ipc://%s/back.sock", f->dir);
    (void)snprintf(f->blobs, sizeof f->blobs, "dir:%s/blobs", f->dir);
    mq_arena_init(&f->arena, 64 << 20);
    fake_bind(f);
}

FAKE int fake_remove(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

FAKE void fake_frames_close(fake_broker *f)
{
    for (int i = 0; f->has_frames && i < 4; i++) {
        zmq_msg_close(&f->frames[i]);
    }
    f->has_frames = false;
}

FAKE int fake_reap(fake_broker *f, uint32_t worker)
{
    int status = -1;
    int64_t until_ms = mq_clock_mono_ms() + FAKE_WAIT_MS;
    pid_t pid = f->workers[worker].pid;
    while (pid > 0 && waitpid(pid, &status, WNOHANG) == 0) {
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(5);
    }
    f->workers[worker].pid = 0;
    return status;
}

FAKE void fake_close(fake_broker *f)
{
    for (uint32_t i = 0; i < f->worker_count; i++) {
        if (f->workers[i].pid > 0) {
            kill(f->workers[i].pid, SIGKILL);
            (void)fake_reap(f, i);
        }
    }
    fake_frames_close(f);
    mq_arena_release(&f->arena);
    if (f->router != NULL) {
        zmq_close(f->router);
    }
    zmq_ctx_term(f->context);
    (void)nftw(f->dir, fake_remove, 16, FTW_DEPTH | FTW_PHYS);
}

/* Starts a supervisor: this program again, with the worker's arguments. `more`: NULL-terminated. */
FAKE uint32_t fake_start(fake_broker *f, const char *slots, const char *const *more)
{
    char cache[192];
    const char *argv[32] = {"worker", "--broker",    f->endpoint, "--slots",    slots, "--cache",
                            cache,    "--log-level", "warn",      "--prefetch", "0"};
    size_t n = 11;
    (void)snprintf(cache, sizeof cache, "%s/cache", f->dir);
    for (; more != NULL && *more != NULL; more++) {
        argv[n++] = *more;
    }
    pid_t parent = getpid();
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent) {
            execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
        }
        _exit(127);
    }
    uint32_t at = f->worker_count++;
    f->workers[at] = (fake_worker){.pid = pid};
    return at;
}

FAKE void fake_send(fake_broker *f, fake_worker *to, mq_command command, const void *message,
                    mq_span payload)
{
    mq_error err;
    mq_buf header;
    uint8_t head[4];
    mq_buf_init(&header, MQ_HEADER_BYTES_MAX);
    mq_wire_head(command, head);
    assert_int_equal(mq_wire_encode(command, message, &header, &err), MQ_OK);
    (void)zmq_send(f->router, to->identity, to->identity_len, ZMQ_SNDMORE);
    (void)zmq_send(f->router, head, sizeof head, ZMQ_SNDMORE);
    (void)zmq_send(f->router, header.data, header.len, ZMQ_SNDMORE);
    (void)zmq_send(f->router, payload.data, payload.len, 0);
    mq_buf_release(&header);
}

/* Receives one message within timeout_ms; false when none came. */
FAKE bool fake_receive(fake_broker *f, int64_t timeout_ms)
{
    zmq_pollitem_t item = {.socket = f->router, .events = ZMQ_POLLIN};
    mq_error err;
    fake_frames_close(f);
    mq_arena_reset(&f->arena);
    if (zmq_poll(&item, 1, (long)timeout_ms) <= 0) {
        return false;
    }
    for (int i = 0; i < 4; i++) {
        zmq_msg_init(&f->frames[i]);
        assert_true(zmq_msg_recv(&f->frames[i], f->router, 0) >= 0);
        assert_int_equal(zmq_msg_more(&f->frames[i]), i < 3);
    }
    f->has_frames = true;
    mq_span s[4];
    for (int i = 0; i < 4; i++) {
        s[i] = mq_span_of(zmq_msg_data(&f->frames[i]), zmq_msg_size(&f->frames[i]));
    }
    assert_int_equal(mq_wire_command(s[1], &f->command, &err), MQ_OK);
    assert_int_equal(mq_wire_decode(f->command, s[2], &f->m, &f->arena, &err), MQ_OK);
    f->payload = s[3];
    f->from = NULL;
    for (uint32_t i = 0; i < f->worker_count; i++) {
        fake_worker *w = &f->workers[i];
        if (mq_span_eq(s[0], mq_span_of(w->identity, w->identity_len))) {
            f->from = w;
        }
    }
    if (f->command == MQ_CMD_ready) { /* a pid tells which of our children it is */
        for (uint32_t i = 0; i < f->worker_count; i++) {
            fake_worker *w = &f->workers[i];
            if ((uint64_t)w->pid == f->m.ready.pid) {
                memcpy(w->identity, s[0].data, s[0].len);
                w->identity_len = s[0].len;
                f->from = w;
            }
        }
    }
    return true;
}

FAKE void fake_on_ready(fake_broker *f)
{
    const mq_msg_ready *r = &f->m.ready;
    fake_worker *w = f->from;
    assert_non_null(w);
    mq_span_copy(r->worker, w->id, sizeof w->id);
    mq_span_copy(r->host, w->host, sizeof w->host);
    mq_span_copy(r->gang_unix, w->gang_unix, sizeof w->gang_unix);
    mq_span_copy(r->gang_tcp, w->gang_tcp, sizeof w->gang_tcp);
    mq_span_copy(r->fingerprint, w->fingerprint, sizeof w->fingerprint);
    w->slots = r->slots;
    w->is_registered = true;
    mq_msg_registered answer = {
        .worker = r->worker, .epoch = 1, .beat_ms = FAKE_BEAT_MS, .lease_ms = FAKE_LEASE_MS};
    fake_send(f, w, MQ_CMD_registered, &answer, (mq_span){0});
}

/* Answers what every broker answers; true when the message is one of these. */
FAKE bool fake_routine(fake_broker *f)
{
    if (f->command == MQ_CMD_hello) {
        fake_worker to = {.identity_len = zmq_msg_size(&f->frames[0])};
        memcpy(to.identity, zmq_msg_data(&f->frames[0]), to.identity_len);
        mq_msg_welcome m = {.version = 1,
                            .broker = mq_str("fake"),
                            .blobs = mq_str(f->blobs),
                            .beat_ms = FAKE_BEAT_MS,
                            .lease_ms = FAKE_LEASE_MS};
        fake_send(f, &to, MQ_CMD_welcome, &m, (mq_span){0});
        return true;
    }
    if (f->command == MQ_CMD_ready) {
        fake_on_ready(f);
        return true;
    }
    if (f->command == MQ_CMD_beat && f->from != NULL) {
        f->from->free = f->m.beat.free;
        f->from->jobs_seen = f->m.beat.jobs_seen;
        f->from->beats++;
        mq_msg_beaten m = {.seq = f->m.beat.seq};
        fake_send(f, f->from, MQ_CMD_beaten, &m, (mq_span){0});
        return true;
    }
    if (f->command == MQ_CMD_credit && f->from != NULL) {
        f->from->free = f->m.credit.free;
        f->from->jobs_seen = f->m.credit.jobs_seen;
        return true;
    }
    if (f->command == MQ_CMD_bye && f->from != NULL) {
        f->from->is_gone = true;
    }
    return false;
}

/* Serves until a message of this command has come. */
FAKE void fake_expect(fake_broker *f, mq_command command)
{
    int64_t until_ms = mq_clock_mono_ms() + FAKE_WAIT_MS;
    for (;;) {
        int64_t left_ms = until_ms - mq_clock_mono_ms();
        if (left_ms <= 0) {
            fail_msg("no %s within %d ms", mq_command_name(command), FAKE_WAIT_MS);
        }
        if (fake_receive(f, left_ms)) {
            (void)fake_routine(f);
            if (f->command == command) {
                return;
            }
        }
    }
}

/* Serves until the worker is registered and has this many free slots. */
FAKE void fake_wait_free(fake_broker *f, uint32_t worker, uint64_t count)
{
    int64_t until_ms = mq_clock_mono_ms() + FAKE_WAIT_MS;
    fake_worker *w = &f->workers[worker];
    while (!w->is_registered || w->free != count) {
        int64_t left_ms = until_ms - mq_clock_mono_ms();
        if (left_ms <= 0) {
            fail_msg("worker %u: registered %d, free %llu, not %llu", worker, w->is_registered,
                     (unsigned long long)w->free, (unsigned long long)count);
        }
        if (fake_receive(f, left_ms)) {
            (void)fake_routine(f);
        }
    }
}

/* Grants one job; returns its grant number. */
FAKE uint64_t fake_job(fake_broker *f, uint32_t worker, const char *kind, const char *body,
                       uint64_t max_run_ms)
{
    mq_msg_job_item item = {
        .id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        .epoch = 1,
        .grant = ++f->grant,
        .kind = mq_str(kind),
        .attempt = 1,
        .lease_ms = FAKE_LEASE_MS,
        .max_run_ms = max_run_ms,
        .len = strlen(body),
    };
    mq_msg_job m = {.jobs = &item, .jobs_count = 1};
    fake_send(f, &f->workers[worker], MQ_CMD_job, &m, mq_str(body));
    return item.grant;
}

/* Waits for the result of this grant; its payload (text) into out when out is not NULL. */
FAKE mq_msg_result_item fake_result(fake_broker *f, uint64_t grant, char *out, size_t size)
{
    for (;;) {
        size_t at = 0;
        fake_expect(f, MQ_CMD_result);
        for (uint32_t i = 0; i < f->m.result.jobs_count; i++) {
            mq_msg_result_item r = f->m.result.jobs[i];
            if (r.grant == grant) {
                if (out != NULL) {
                    mq_span_copy(mq_span_of(f->payload.data + at, r.len), out, size);
                }
                return r;
            }
            at += r.len;
        }
    }
}

FAKE void fake_verdict(fake_broker *f, uint32_t worker, uint64_t grant, const char *verdict)
{
    mq_msg_held_verdict v = {.id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                             .epoch = 1,
                             .grant = grant,
                             .verdict = mq_str(verdict)};
    mq_msg_verdict m = {.verdicts = &v, .verdicts_count = 1};
    fake_send(f, &f->workers[worker], MQ_CMD_verdict, &m, (mq_span){0});
}

/* A verdict on a lease in an answer to a beat. */
FAKE void fake_beaten(fake_broker *f, uint32_t worker, uint64_t grant, const char *verdict)
{
    mq_msg_held_verdict v = {.id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                             .epoch = 1,
                             .grant = grant,
                             .verdict = mq_str(verdict)};
    mq_msg_beaten m = {.verdicts = &v, .verdicts_count = 1};
    fake_send(f, &f->workers[worker], MQ_CMD_beaten, &m, (mq_span){0});
}

/* First child process of a supervisor: one of its slots; 0 when there is none. */
FAKE pid_t fake_slot_pid(const fake_broker *f, uint32_t worker)
{
    char path[96], text[256] = "";
    (void)snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)f->workers[worker].pid,
                   (int)f->workers[worker].pid);
    FILE *file = fopen(path, "r");
    if (file == NULL || fgets(text, sizeof text, file) == NULL) {
        text[0] = '\0';
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return (pid_t)strtol(text, NULL, 10);
}

/* Runs the worker's code in this process, as maasq-worker would. */
FAKE int fake_worker_main(int argc, char **argv)
{
    mq_worker_options options;
    mq_error err;
    if (mq_worker_options_read(&options, argc, argv, &err) != MQ_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 2;
    }
    mq_log_setup("worker", options.log_level, false);
    int status = mq_supervisor_run(&options);
    mq_worker_options_release(&options);
    return status;
}

/* --- gangs: the members are (worker, seat) pairs --- */

typedef struct fake_member {
    uint32_t worker;
    uint64_t seat;
    uint64_t grant;
} fake_member;

FAKE void fake_members(fake_broker *f, const fake_member *members, uint32_t count,
                       mq_msg_member *out)
{
    for (uint32_t i = 0; i < count; i++) {
        const fake_worker *w = &f->workers[members[i].worker];
        out[i] = (mq_msg_member){.seat = members[i].seat,
                                 .worker = mq_str(w->id),
                                 .host = mq_str(w->host),
                                 .gang_unix = mq_str(w->gang_unix),
                                 .gang_tcp = mq_str(w->gang_tcp)};
    }
}

/* Grants member `which` its seat under this roster. */
FAKE void fake_gang_job(fake_broker *f, fake_member *members, uint32_t count, uint32_t which,
                        uint64_t gang_epoch, const char *kind, const char *body)
{
    mq_msg_member list[8];
    fake_members(f, members, count, list);
    members[which].grant = ++f->grant;
    mq_msg_job_item item = {
        .id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        .epoch = 1,
        .grant = members[which].grant,
        .kind = mq_str(kind),
        .attempt = 1,
        .lease_ms = FAKE_LEASE_MS,
        .seat = members[which].seat,
        .gang_epoch = gang_epoch,
        .members = list,
        .members_count = count,
        .len = strlen(body),
    };
    mq_msg_job m = {.jobs = &item, .jobs_count = 1};
    fake_send(f, &f->workers[members[which].worker], MQ_CMD_job, &m, mq_str(body));
}

/* A new roster to all its members, who hold the grants they had. */
FAKE void fake_roster(fake_broker *f, const fake_member *members, uint32_t count,
                      uint64_t gang_epoch)
{
    mq_msg_member list[8];
    fake_members(f, members, count, list);
    for (uint32_t i = 0; i < count; i++) {
        mq_msg_roster m = {.id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                           .epoch = 1,
                           .grant = members[i].grant,
                           .gang_epoch = gang_epoch,
                           .members = list,
                           .members_count = count};
        fake_send(f, &f->workers[members[i].worker], MQ_CMD_roster, &m, (mq_span){0});
    }
}

#endif

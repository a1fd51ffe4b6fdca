/* The bare ZeroMQ echo; see ceiling.h. Its broker passes messages on and keeps nothing. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include "client/cli/ceiling.h"
#include "shared/base/clock.h"
#include "shared/base/span.h"

enum { PASS_A_TURN = 256, WAIT_MS = 30000 };

static void set_hwm(void *socket)
{
    int marks = 4096, linger = 0;
    (void)zmq_setsockopt(socket, ZMQ_SNDHWM, &marks, sizeof marks);
    (void)zmq_setsockopt(socket, ZMQ_RCVHWM, &marks, sizeof marks);
    (void)zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
}

/* Moves one message; its first frame becomes `to` (nothing for a DEALER's peer). */
static bool pass(void *from, void *into, const uint8_t to[5])
{
    zmq_msg_t frame;
    (void)zmq_msg_init(&frame);
    if (zmq_msg_recv(&frame, from, ZMQ_DONTWAIT) < 0) {
        (void)zmq_msg_close(&frame);
        return false;
    }
    if (to != NULL) { /* to the worker: its identity, then the client's, then the body */
        (void)zmq_send(into, to, 5, ZMQ_SNDMORE);
        (void)zmq_msg_send(&frame, into, ZMQ_SNDMORE);
    } else { /* back: the worker's identity is dropped, the client's is next */
        (void)zmq_msg_close(&frame);
        (void)zmq_msg_init(&frame);
    }
    int more = 1;
    while (more != 0) {
        (void)zmq_msg_init(&frame);
        if (zmq_msg_recv(&frame, from, 0) < 0) {
            break;
        }
        more = zmq_msg_more(&frame);
        (void)zmq_msg_send(&frame, into, more != 0 ? ZMQ_SNDMORE : 0);
    }
    return true;
}

static _Noreturn void broker_main(const char *dir, int told)
{
    char text[128];
    void *context = zmq_ctx_new();
    void *front = zmq_socket(context, ZMQ_ROUTER), *back = zmq_socket(context, ZMQ_ROUTER);
    uint8_t worker[5] = {0}, hello[8];
    size_t size = sizeof text;
    set_hwm(front);
    set_hwm(back);
    (void)snprintf(text, sizeof text, "ipc://%s/back", dir);
    bool is_up = zmq_bind(back, text) == 0 && zmq_bind(front, "tcp://127.0.0.1:*") == 0;
    is_up = is_up && zmq_recv(back, worker, sizeof worker, 0) == (int)sizeof worker &&
            zmq_recv(back, hello, sizeof hello, 0) >= 0 &&
            zmq_getsockopt(front, ZMQ_LAST_ENDPOINT, text, &size) == 0 &&
            write(told, text, sizeof text) == (ssize_t)sizeof text;
    while (is_up) { /* NOLINT(bugprone-infinite-loop) until it is killed */
        zmq_pollitem_t items[] = {{front, 0, ZMQ_POLLIN, 0}, {back, 0, ZMQ_POLLIN, 0}};
        (void)zmq_poll(items, 2, -1);
        for (int i = 0; i < PASS_A_TURN && pass(back, front, NULL); i++) {
        }
        for (int i = 0; i < PASS_A_TURN && pass(front, back, worker); i++) {
        }
    }
    _exit(1);
}

static _Noreturn void worker_main(const char *dir)
{
    char text[128];
    void *context = zmq_ctx_new();
    void *socket = zmq_socket(context, ZMQ_DEALER);
    set_hwm(socket);
    (void)snprintf(text, sizeof text, "ipc://%s/back", dir);
    bool is_up = zmq_connect(socket, text) == 0 && zmq_send(socket, "ready", 5, 0) == 5;
    while (is_up) {
        zmq_msg_t frame;
        (void)zmq_msg_init(&frame);
        is_up = zmq_msg_recv(&frame, socket, 0) >= 0;
        int more = is_up && zmq_msg_more(&frame) != 0 ? ZMQ_SNDMORE : 0;
        is_up = is_up && zmq_msg_send(&frame, socket, more) >= 0;
    }
    _exit(1);
}

static pid_t child(void)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)) {
        _exit(1);
    }
    return pid;
}

mq_code mq_zmq_echo_start(mq_zmq_echo *e, mq_error *err)
{
    int told[2];
    *e = (mq_zmq_echo){0};
    (void)snprintf(e->dir, sizeof e->dir, "/tmp/maasq-zmq-XXXXXX");
    if (mkdtemp(e->dir) == NULL || pipe(told) != 0) {
        return mq_fail(err, MQ_E_IO, "%s: %s", e->dir, strerror(errno));
    }
    e->broker = child();
    if (e->broker == 0) {
        broker_main(e->dir, told[1]);
    }
    e->worker = child();
    if (e->worker == 0) {
        worker_main(e->dir);
    }
    close(told[1]);
    bool is_up = read(told[0], e->front, sizeof e->front) == (ssize_t)sizeof e->front;
    close(told[0]);
    int wait_ms = WAIT_MS;
    e->context = is_up ? zmq_ctx_new() : NULL;
    e->socket = e->context == NULL ? NULL : zmq_socket(e->context, ZMQ_DEALER);
    if (e->socket == NULL) {
        return mq_fail(err, MQ_E_IO, "the bare ZeroMQ echo does not start");
    }
    set_hwm(e->socket);
    (void)zmq_setsockopt(e->socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
    return zmq_connect(e->socket, e->front) == 0
               ? MQ_OK
               : mq_fail(err, MQ_E_IO, "%s: %s", e->front, zmq_strerror(zmq_errno()));
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

mq_code mq_zmq_echo_run(mq_zmq_echo *e, int64_t count, int64_t window, size_t bytes,
                        double *seconds, double *p50_ms, mq_error *err)
{
    uint8_t *body = calloc(1, bytes + 1);
    double *each = window == 1 ? calloc((size_t)count, sizeof *each) : NULL;
    if (body == NULL || (window == 1 && each == NULL)) {
        free(body);
        free(each);
        return mq_fail(err, MQ_E_LIMIT, "no memory for the bare echo");
    }
    bool is_up = true;
    int64_t sent = 0, start_ns = mq_clock_mono_ns(), shot_ns = start_ns;
    for (int64_t got = 0; got < count && is_up; got++) {
        while (sent < count && sent - got < window && is_up) {
            shot_ns = mq_clock_mono_ns();
            is_up = zmq_send(e->socket, body, bytes, 0) >= 0;
            sent++;
        }
        is_up = is_up && zmq_recv(e->socket, body, bytes, 0) >= 0;
        if (each != NULL) {
            each[got] = (double)(mq_clock_mono_ns() - shot_ns) / 1e6;
        }
    }
    *seconds = (double)(mq_clock_mono_ns() - start_ns) / 1e9;
    if (each != NULL) {
        qsort(each, (size_t)count, sizeof *each, by_size);
        *p50_ms = each[count / 2];
    }
    free(each);
    free(body);
    return is_up ? MQ_OK : mq_fail(err, MQ_E_TIMEOUT, "the bare ZeroMQ echo answers nothing");
}

void mq_zmq_echo_stop(mq_zmq_echo *e)
{
    const pid_t pids[] = {e->broker, e->worker};
    for (int i = 0; i < 2; i++) {
        if (pids[i] > 0) {
            (void)kill(pids[i], SIGKILL);
            (void)waitpid(pids[i], NULL, 0);
        }
    }
    if (e->socket != NULL) {
        (void)zmq_close(e->socket);
    }
    if (e->context != NULL) {
        (void)zmq_ctx_term(e->context);
    }
    char path[96];
    (void)snprintf(path, sizeof path, "%s/back", e->dir);
    (void)unlink(path);
    (void)rmdir(e->dir);
}

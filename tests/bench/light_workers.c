/* Many workers in one process: each has its own connection and the real session core, and its slot
 * is a copy of the body. What a broker makes of a large fleet shows with it on one machine.
 *
 *     light_workers ENDPOINT COUNT        until SIGTERM */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "shared/base/buf.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"
#include "worker/core/session.h"
#include "worker/io/broker_link.h"
#include "worker/io/supervisor.h"

/* PREFETCH and HAND as maasq-worker has them when it is not told otherwise. */
enum {
    TICK_MS = 50,
    BODY_MAX = 64 << 10,
    PREFETCH = 192,
    HAND = MQ_WS_HAND_MAX,
    EVENTS = 256,
    RESULTS_MAX = 256, /* in one message */
    RESULTS_BYTES_MAX = 1 << 20,
};

typedef struct light {
    mq_worker_session session;
    mq_broker_link link;
    char worker[33];
    mq_buf bodies[MQ_WS_JOBS_MAX]; /* of accepted jobs, which are their results */
} light;

static const char *endpoint;
static mq_ws_actions actions;
static volatile sig_atomic_t is_over;

static void on_signal(int number)
{
    (void)number;
    is_over = 1;
}

static void send(light *w, const mq_ws_action *a)
{
    static mq_msg_held held[MQ_WS_JOBS_MAX];
    static uint32_t jobs[MQ_WS_JOBS_MAX];
    mq_worker_session *s = &w->session;
    if (a->type == MQ_WS_SEND_HELLO) {
        mq_msg_hello m = {.role = mq_str("worker"),
                          .name = mq_str("light"),
                          .version_min = MQ_WIRE_VERSION,
                          .version_max = MQ_WIRE_VERSION};
        mq_broker_link_send(&w->link, MQ_CMD_hello, &m, (mq_span){0});
    } else if (a->type == MQ_WS_SEND_READY) {
        mq_span kind = mq_str("echo");
        mq_msg_ready m = {.worker = mq_str(w->worker),
                          .name = mq_str("light"),
                          .host = mq_str("bench"),
                          .version = mq_str(MQ_VERSION),
                          .slots = 1,
                          .kinds = &kind,
                          .kinds_count = 1,
                          .held = held,
                          .held_count = mq_ws_held(s, held, jobs)};
        mq_broker_link_send(&w->link, MQ_CMD_ready, &m, (mq_span){0});
    } else if (a->type == MQ_WS_SEND_BEAT) {
        mq_msg_beat m = {.worker = mq_str(w->worker),
                         .seq = s->seq,
                         .free = s->free_told,
                         .jobs_seen = s->jobs_seen,
                         .jobs = held,
                         .jobs_count = mq_ws_held(s, held, jobs)};
        mq_broker_link_send(&w->link, MQ_CMD_beat, &m, (mq_span){0});
    } else {
        mq_msg_credit m = {.worker = mq_str(w->worker),
                           .seq = s->seq,
                           .free = s->free_told,
                           .jobs_seen = s->jobs_seen};
        mq_broker_link_send(&w->link, MQ_CMD_credit, &m, (mq_span){0});
    }
}

/* Results that leave as one message, as those of a real worker do. */
static struct {
    uint32_t count;
    uint32_t jobs[RESULTS_MAX];
    mq_msg_result_item items[RESULTS_MAX];
    mq_buf payload;
} results;

static void send_results(light *w, int64_t now_ms)
{
    uint32_t count = results.count;
    mq_msg_result m = {.worker = mq_str(w->worker), .jobs = results.items, .jobs_count = count};
    results.count = 0;
    if (count > 0 &&
        !mq_broker_link_send(&w->link, MQ_CMD_result, &m, mq_buf_span(&results.payload))) {
        for (uint32_t i = 0; i < count; i++) {
            mq_ws_on_unsent(&w->session, results.jobs[i], now_ms);
        }
    }
    mq_buf_reset(&results.payload);
}

static void add_result(light *w, uint32_t index, int64_t now_ms)
{
    const mq_ws_job *job = &w->session.jobs[index];
    mq_span body = mq_buf_span(&w->bodies[index]);
    if (results.count == RESULTS_MAX || results.payload.len + body.len > RESULTS_BYTES_MAX) {
        send_results(w, now_ms);
    }
    results.jobs[results.count] = index;
    results.items[results.count++] =
        (mq_msg_result_item){.id = mq_str(job->id),
                             .epoch = job->epoch,
                             .grant = job->grant,
                             .class = mq_str(mq_ws_class_name(job->class)),
                             .code = mq_str(mq_code_name(job->error.code)),
                             .run_us = job->run_us,
                             .len = body.len};
    (void)mq_buf_add_span(&results.payload, body);
}

/* Does what the session says; a started job ends at once. */
static void act(light *w, int64_t now_ms)
{
    mq_error err = {.code = MQ_OK};
    for (uint32_t i = 0; i < actions.count; i++) {
        const mq_ws_action a = actions.at[i];
        if (a.type != MQ_WS_SEND_RESULT) {
            send_results(w, now_ms);
        }
        switch (a.type) {
        case MQ_WS_CONNECT:
            if (mq_broker_link_connect(&w->link, endpoint, &err) != MQ_OK) {
                fprintf(stderr, "light_workers: %s\n", err.text);
            }
            break;
        case MQ_WS_SEND_HELLO:
        case MQ_WS_SEND_READY:
        case MQ_WS_SEND_BEAT:
        case MQ_WS_SEND_CREDIT:
            send(w, &a);
            break;
        case MQ_WS_SEND_RESULT:
            add_result(w, a.index, now_ms);
            break;
        case MQ_WS_START: /* run() */
        case MQ_WS_SEND_BYE:
        case MQ_WS_ACCEPT:
        case MQ_WS_RECALL:
        case MQ_WS_CANCEL:
        case MQ_WS_KILL:
        case MQ_WS_UPLOAD:
        case MQ_WS_FORGET:
        case MQ_WS_EXIT:
            break;
        }
    }
    actions.count = 0;
    send_results(w, now_ms);
}

/* Ends what was started, in order: the one that runs, then those behind it. */
static void run(light *w, int64_t now_ms)
{
    mq_error ok = {.code = MQ_OK};
    while (w->session.slots[0] < MQ_WS_JOBS_MAX) {
        mq_ws_on_ended(&w->session, 0, &ok, 1, 0, now_ms, &actions);
    }
    act(w, now_ms);
}

static void flush(light *w, int64_t now_ms)
{
    for (int i = 0; i < 8; i++) { /* an end makes room for a start */
        mq_ws_flush(&w->session, now_ms, &actions);
        if (actions.count == 0) {
            return;
        }
        act(w, now_ms);
        run(w, now_ms);
    }
}

static void on_jobs(light *w, const mq_msg_job *m, mq_span payload, int64_t now_ms)
{
    size_t at = 0;
    mq_ws_on_job(&w->session, m, now_ms, &actions);
    for (uint32_t i = 0; i < m->jobs_count && m->jobs[i].len <= payload.len - at; i++) {
        mq_span body = mq_span_of(payload.data + at, m->jobs[i].len);
        at += m->jobs[i].len;
        for (uint32_t k = 0; k < actions.count; k++) {
            if (actions.at[k].type == MQ_WS_ACCEPT && actions.at[k].item == i) {
                mq_buf *to = &w->bodies[actions.at[k].index];
                to->limit = BODY_MAX;
                mq_buf_reset(to);
                (void)mq_buf_add_span(to, body);
            }
        }
    }
}

static void turn(light *w, int64_t now_ms)
{
    mq_broker_message in;
    mq_broker_link_change change;
    while ((change = mq_broker_link_event(&w->link)) != MQ_BROKER_LINK_SAME) {
        if (change == MQ_BROKER_LINK_UP) {
            mq_ws_on_link_up(&w->session, now_ms);
        } else {
            mq_ws_on_link_down(&w->session, now_ms);
        }
    }
    while (mq_broker_link_receive(&w->link, &in) == MQ_OK) {
        union {
            mq_msg_welcome welcome;
            mq_msg_registered registered;
            mq_msg_job job;
            mq_msg_beaten beaten;
            mq_msg_verdict verdict;
            mq_msg_error error;
        } m;
        bool is_known = in.command == MQ_CMD_welcome || in.command == MQ_CMD_registered ||
                        in.command == MQ_CMD_job || in.command == MQ_CMD_beaten ||
                        in.command == MQ_CMD_verdict || in.command == MQ_CMD_error;
        if (!is_known || mq_wire_decode(in.command, in.header, &m, &w->link.arena, NULL) != MQ_OK) {
            mq_ws_on_other(&w->session, now_ms);
        } else if (in.command == MQ_CMD_welcome) {
            mq_ws_on_welcome(&w->session, &m.welcome, now_ms, &actions);
        } else if (in.command == MQ_CMD_registered) {
            mq_ws_on_registered(&w->session, &m.registered, now_ms, &actions);
        } else if (in.command == MQ_CMD_job) {
            on_jobs(w, &m.job, in.payload, now_ms);
        } else if (in.command == MQ_CMD_beaten) {
            mq_ws_on_beaten(&w->session, &m.beaten, now_ms, &actions);
        } else if (in.command == MQ_CMD_verdict) {
            mq_ws_on_verdict(&w->session, &m.verdict, now_ms, &actions);
        } else {
            mq_ws_on_error(&w->session, &m.error, now_ms, &actions);
        }
        act(w, now_ms);
    }
    flush(w, now_ms);
}

static bool watch(int epoll, void *socket, uint32_t number)
{
    int fd = -1;
    size_t size = sizeof fd;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    return socket != NULL && zmq_getsockopt(socket, ZMQ_FD, &fd, &size) == 0 &&
           epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static light *start(void *context, uint32_t number, int epoll)
{
    light *w = calloc(1, sizeof *w);
    mq_ws_config config = {
        .broker_count = 1, .slot_count = 1, .prefetch = PREFETCH, .hand = HAND, .seed = number + 1};
    int64_t now_ms = mq_clock_mono_ms();
    if (w == NULL) {
        return NULL;
    }
    mq_worker_uuid(w->worker);
    mq_broker_link_init(&w->link, context);
    mq_ws_init(&w->session, &config, now_ms);
    mq_ws_on_slot_ready(&w->session, 0, now_ms, &actions);
    flush(w, now_ms); /* connects */
    return watch(epoll, w->link.socket, number) && watch(epoll, w->link.monitor, number) ? w : NULL;
}

int main(int argc, char **argv)
{
    uint32_t count = argc == 3 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    struct rlimit files;
    if (count == 0 || count > 4000) {
        fprintf(stderr, "usage: light_workers ENDPOINT COUNT (1..4000)\n");
        return 2;
    }
    endpoint = argv[1];
    (void)getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files);
    (void)signal(SIGTERM, on_signal);
    (void)signal(SIGINT, on_signal);
    light **all = calloc(count, sizeof *all);
    mq_buf_init(&results.payload, RESULTS_BYTES_MAX + BODY_MAX);
    void *context = zmq_ctx_new();
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (all == NULL || context == NULL || epoll < 0 ||
        zmq_ctx_set(context, ZMQ_MAX_SOCKETS, (int)count * 4 + 16) != 0) {
        free(all);
        return 1;
    }
    for (uint32_t i = 0; i < count; i++) {
        all[i] = start(context, i, epoll);
        if (all[i] == NULL) {
            fprintf(stderr, "light_workers: only %u of %u could start\n", i, count);
            free(all);
            return 1;
        }
    }
    int64_t tick_ms = 0;
    while (is_over == 0) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll, events, EVENTS, TICK_MS);
        int64_t now_ms = mq_clock_mono_ms();
        for (int i = 0; i < n; i++) {
            turn(all[events[i].data.u32], now_ms);
        }
        if (now_ms - tick_ms >= TICK_MS) {
            tick_ms = now_ms;
            for (uint32_t i = 0; i < count; i++) { /* the edge of a ZMQ_FD may have been missed */
                turn(all[i], now_ms);
            }
        }
    }
    _exit(0); /* the kernel closes a thousand connections faster than libzmq */
}

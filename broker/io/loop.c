/* The event loop: one thread, bounded work a turn. A turn takes what the sockets and the store
 * have, feeds it to the core, then ends with MQ_IN_TURN, which runs timers, dispatches, and yields
 * the one commit that holds everything the turn changed. While the shard is not served the sockets
 * are not read: senders feel it as backpressure and nothing is lost. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "broker/io/broker.h"
#include "broker/io/cron.h"
#include "broker/io/dead.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/base/log.h"
#include "shared/base/math.h"

enum {
    FRONT_PER_TURN = 256, /* messages */
    BACK_PER_TURN = 512,
    FRONT_HWM = 4096, /* a window of 1,000 jobs has two answers each */
    BACK_HWM = 1000,
    FRONT_FRAME_MAX = 2 << 20, /* a batch of submits; larger inputs go through blobs */
    BACK_FRAME_MAX = MQ_PAYLOAD_BYTES_MAX,
    POLL_MS_MAX = 1000,
    STOP_MS = 10000, /* for commits under way at a stop */
};

int64_t mq_broker_now(const mq_broker *b)
{
    return mq_clock_mono_ms() + b->store_offset_ms;
}

static mq_code open_all(mq_broker *b, mq_error *err)
{
    mq_buf_init(&b->header, MQ_HEADER_BYTES_MAX);
    mq_buf_init(&b->payload, MQ_OUT_PAYLOAD_MAX);
    b->started_ms = mq_clock_mono_ms();
    b->store_offset_ms = mq_clock_wall_ms() - b->started_ms;
    b->watches = calloc(MQ_WATCHES_MAX, sizeof *b->watches);
    b->context = zmq_ctx_new();
    if (b->watches == NULL || b->context == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the broker's tables");
    }
    mq_code code = mq_curves_new(&b->curves, err);
    if (code == MQ_OK) {
        code = mq_gets_new(&b->gets, err);
    }
    if (code == MQ_OK) {
        code = mq_outbox_new(&b->outbox, err);
    }
    if (code == MQ_OK) {
        code = mq_pins_new(&b->pins, b->config->blobs, err);
    }
    if (code == MQ_OK) {
        code = mq_side_open(&b->front, MQ_FRONT, b->context, b->config->front, FRONT_HWM,
                            FRONT_FRAME_MAX, err);
    }
    if (code == MQ_OK) {
        code = mq_side_open(&b->back, MQ_BACK, b->context, b->config->back, BACK_HWM,
                            BACK_FRAME_MAX, err);
    }
    return code == MQ_OK ? mq_own_open(b, err) : code;
}

static void close_all(mq_broker *b)
{
    mq_own_release(b);
    mq_dead_release(b);
    mq_cron_release(b);
    mq_receive_release(b);
    mq_late_release(b);
    mq_pins_free(b->pins);
    mq_side_close(&b->front);
    mq_side_close(&b->back);
    if (b->context != NULL) {
        zmq_ctx_term(b->context);
    }
    mq_curves_free(b->curves);
    mq_buf_release(&b->header);
    mq_buf_release(&b->payload);
    mq_gets_free(b->gets);
    mq_outbox_free(b->outbox);
    free(b->watches);
}

/* {"front":..,"back":..,"pid":..}: how `maasq up` and tests find a broker on any free port. */
static mq_code write_endpoints(const mq_broker *b, mq_error *err)
{
    char text[640];
    int len = snprintf(text, sizeof text, "{\"front\":\"%s\",\"back\":\"%s\",\"pid\":%ld}\n",
                       b->front.endpoint, b->back.endpoint, (long)getpid());
    return mq_file_write(b->config->endpoint_file, mq_span_of(text, (size_t)len), 0644, err);
}

static int signals_open(mq_error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    int fd = -1;
    if (sigprocmask(SIG_BLOCK, &set, NULL) == 0) {
        fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    }
    if (fd < 0) {
        mq_fail(err, MQ_E_IO, "signalfd: %s", strerror(errno));
    }
    return fd;
}

static int64_t deadline(const mq_broker *b)
{
    int64_t at_ms = mq_min_i64(mq_own_deadline(b), b->store->ops->deadline(b->store));
    at_ms = mq_min_i64(at_ms, b->rate_at_ms);
    if (mq_own_is_serving(b)) { /* nothing else is done otherwise: no reason to wake for it */
        at_ms = mq_min_i64(at_ms, mq_gets_deadline(b));
        int64_t core_ms = mq_core_deadline(b->core);
        if (core_ms < INT64_MAX) {
            at_ms = mq_min_i64(at_ms, core_ms - b->store_offset_ms);
        }
    }
    return at_ms;
}

static void wait(mq_broker *b, int signal_fd, short *store_events)
{
    bool is_serving = mq_own_is_serving(b);
    short in = is_serving ? ZMQ_POLLIN : 0;
    int store_fd = b->store->ops->fd(b->store);
    zmq_pollitem_t items[] = {
        {b->front.socket, 0, mq_own_has_moved(b) || mq_own_is_refusing(b) ? ZMQ_POLLIN : in, 0},
        {b->back.socket, 0, in, 0},
        {NULL, signal_fd, ZMQ_POLLIN, 0},
        {NULL, mq_pins_fd(b->pins), in, 0},
        {NULL, store_fd, 0, 0},
    };
    short wanted = store_fd < 0 ? 0 : b->store->ops->events(b->store);
    items[4].events = (short)(((wanted & POLLIN) != 0 ? ZMQ_POLLIN : 0) |
                              ((wanted & POLLOUT) != 0 ? ZMQ_POLLOUT : 0) | ZMQ_POLLERR);
    int64_t left_ms = deadline(b) - mq_clock_mono_ms();
    left_ms = left_ms < 0 ? 0 : mq_min_i64(left_ms, POLL_MS_MAX);
    left_ms = mq_min_i64(left_ms, mq_late_wait_ms(b));
    zmq_poll(items, store_fd < 0 ? 4 : 5, (long)left_ms);
    *store_events = (short)(((items[4].revents & ZMQ_POLLIN) != 0 ? POLLIN : 0) |
                            ((items[4].revents & ZMQ_POLLOUT) != 0 ? POLLOUT : 0) |
                            ((items[4].revents & ZMQ_POLLERR) != 0 ? POLLERR : 0));
    struct signalfd_siginfo info;
    if (read(signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        mq_log(MQ_INFO, "stopping", "signal=%u", info.ssi_signo);
        b->is_stopping = true;
    }
}

static void turn(mq_broker *b, short store_events)
{
    b->store->ops->process(b->store, store_events, mq_clock_mono_ms());
    mq_own_tick(b);
    if (mq_own_is_serving(b)) {
        b->served_ms = mq_clock_mono_ms();
        mq_receive_pinned(b);
        mq_receive(b, &b->back, BACK_PER_TURN);
        mq_receive(b, &b->front, FRONT_PER_TURN);
    } else if (mq_own_has_moved(b)) {
        mq_receive_moved(b, FRONT_PER_TURN);
    } else if (mq_own_is_refusing(b)) {
        mq_receive_refused(b, FRONT_PER_TURN);
    }
    if (mq_own_is_serving(b)) {
        mq_input in = {.type = MQ_IN_TURN};
        mq_act_step(b, &in);
        mq_gets_tick(b);
        mq_dead_tick(b);
        mq_cron_tick(b);
    }
    mq_outbox_flush(b);
    mq_late_turn(b);
    mq_asks_turn(b->asks);
    mq_answer_tick(b);
}

mq_code mq_broker_run(const mq_broker_config *config, mq_error *err)
{
    mq_broker *b = calloc(1, sizeof *b);
    if (b == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the broker");
    }
    b->config = config;
    int signal_fd = signals_open(err);
    mq_code code = signal_fd < 0 ? err->code : open_all(b, err);
    bool is_announced = config->endpoint_file[0] == '\0';
    int64_t stop_ms = 0;
    while (code == MQ_OK) {
        short store_events = 0;
        wait(b, signal_fd, &store_events);
        turn(b, store_events);
        if (!is_announced && mq_own_is_serving(b)) {
            code = write_endpoints(b, err);
            is_announced = true;
        }
        if (b->is_stopping) {
            stop_ms = stop_ms == 0 ? mq_clock_mono_ms() + STOP_MS : stop_ms;
            if (mq_own_leave(b) || mq_clock_mono_ms() > stop_ms) {
                break;
            }
        }
    }
    close_all(b);
    if (signal_fd >= 0) {
        close(signal_fd);
    }
    free(b);
    return code;
}

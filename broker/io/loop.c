/* The event loop: one thread, bounded work a turn. A turn takes what the sockets and the stores
 * have, feeds it to the shards' cores, then ends with MQ_IN_TURN for each of them, which runs
 * timers, dispatches, and yields the one commit that holds everything the turn changed in that
 * shard. While no shard is served here and no other broker is known the sockets are not read:
 * senders feel it as backpressure and nothing is lost. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "broker/io/cron.h"
#include "broker/io/dead.h"
#include "broker/io/node.h"
#include "broker/io/retention.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/base/log.h"
#include "shared/base/math.h"
#include "shared/wire/poll.h"

enum {
    FRONT_PER_TURN = 256, /* messages */
    BACK_PER_TURN = 512,
    TURN_MS = 50,     /* of one side: tenures are renewed and commits go out between turns */
    FRONT_HWM = 4096, /* a window of 1,000 jobs has two answers each */
    BACK_HWM = 1000,
    FRONT_FRAME_MAX = 2 << 20, /* a batch of submits; larger inputs go through blobs */
    BACK_FRAME_MAX = MQ_PAYLOAD_BYTES_MAX,
    POLL_MS_MAX = 1000,
    STOP_POLL_MS = 20,
    STOP_MS = 10000, /* for commits under way at a stop */
    FIXED_ITEMS = 5, /* front, back, signals, pins, table; then a store for each shard */
    FRONT_AT = 0,
    BACK_AT = 1,
    SIGNALS_AT = 2,
};

int64_t mq_broker_now(const mq_broker *b)
{
    return mq_clock_mono_ms() + b->store_offset_ms;
}

/* ---- one shard ---- */

static mq_code open_shard(mq_broker *b, mq_error *err)
{
    mq_buf_init(&b->header, MQ_HEADER_BYTES_MAX);
    mq_buf_init(&b->payload, MQ_OUT_PAYLOAD_MAX);
    b->started_ms = mq_clock_mono_ms();
    b->store_offset_ms = mq_clock_wall_ms() - b->started_ms;
    b->watches = calloc(MQ_WATCHES_MAX, sizeof *b->watches);
    if (b->watches == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the broker's tables");
    }
    mq_code code = mq_curves_new(&b->curves, err);
    if (code == MQ_OK) {
        code = mq_gets_new(&b->gets, err);
    }
    if (code == MQ_OK) {
        code = mq_outbox_new(&b->outbox, err);
    }
    return code == MQ_OK ? mq_own_open(b, err) : code;
}

mq_code mq_shard_open(mq_broker **out, mq_node *node, uint32_t shard, mq_error *err)
{
    mq_broker *b = calloc(1, sizeof *b);
    if (b == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a shard");
    }
    b->config = node->config;
    b->node = node;
    b->shard = shard;
    b->owner_id = node->self.broker.id;
    b->told = node->self.broker.front;
    b->witness = &node->witness[shard];
    b->front = &node->front;
    b->back = &node->back;
    b->pins = node->pins;
    mq_code code = open_shard(b, err);
    if (code != MQ_OK) {
        mq_shard_free(b);
        return code;
    }
    *out = b;
    return MQ_OK;
}

void mq_shard_free(mq_broker *b)
{
    mq_own_release(b);
    mq_dead_release(b);
    mq_cron_release(b);
    mq_retention_release(b);
    mq_receive_release(b);
    mq_late_release(b);
    mq_curves_free(b->curves);
    mq_buf_release(&b->header);
    mq_buf_release(&b->payload);
    mq_gets_free(b->gets);
    mq_outbox_free(b->outbox);
    free(b->watches);
    free(b);
}

/* ---- the process ---- */

static mq_code open_all(mq_node *n, mq_error *err)
{
    n->context = zmq_ctx_new();
    if (n->context == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the broker's tables");
    }
    mq_code code = mq_pins_new(&n->pins, n->config->blobs, err);
    if (code == MQ_OK) {
        code = mq_side_open(&n->front, MQ_FRONT, n->context, n->config->front, FRONT_HWM,
                            FRONT_FRAME_MAX, err);
    }
    if (code == MQ_OK) {
        code = mq_side_open(&n->back, MQ_BACK, n->context, n->config->back, BACK_HWM,
                            BACK_FRAME_MAX, err);
    }
    return code == MQ_OK ? mq_node_open(n, err) : code;
}

static void close_all(mq_node *n)
{
    mq_node_release(n);
    mq_pins_free(n->pins);
    mq_side_close(&n->front);
    mq_side_close(&n->back);
    if (n->context != NULL) {
        zmq_ctx_term(n->context);
    }
}

/* {"front":..,"back":..,"pid":..}: how `maasq up` and tests find a broker on any free port. */
static mq_code write_endpoints(const mq_node *n, mq_error *err)
{
    char text[640];
    int len = snprintf(text, sizeof text, "{\"front\":\"%s\",\"back\":\"%s\",\"pid\":%ld}\n",
                       n->self.broker.front, n->self.broker.back, (long)getpid());
    return mq_file_write(n->config->endpoint_file, mq_span_of(text, (size_t)len), 0644, err);
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

static int64_t shard_deadline(const mq_broker *b)
{
    int64_t at_ms = mq_min_i64(mq_own_deadline(b), b->store->ops->deadline(b->store));
    at_ms = mq_min_i64(at_ms, b->rate_at_ms);
    if (b->leave_ms != 0) {
        at_ms = mq_min_i64(at_ms, b->leave_ms);
    }
    if (mq_own_is_serving(b)) { /* nothing else is done otherwise: no reason to wake for it */
        at_ms = mq_min_i64(mq_min_i64(at_ms, mq_gets_deadline(b)), mq_want_deadline(b));
        at_ms = mq_min_i64(at_ms, mq_replicas_deadline(b));
        int64_t core_ms = mq_core_deadline(b->core);
        if (core_ms < INT64_MAX) {
            at_ms = mq_min_i64(at_ms, core_ms - b->store_offset_ms);
        }
    }
    return at_ms;
}

static long wait_ms(const mq_node *n)
{
    int64_t now_ms = mq_clock_mono_ms();
    int64_t at_ms = n->stop_ms != 0 ? now_ms + STOP_POLL_MS : mq_node_deadline(n);
    int64_t late_ms = INT64_MAX;
    for (uint32_t s = 0; s < n->view.shard_count; s++) {
        if (n->shards[s] != NULL) {
            at_ms = mq_min_i64(at_ms, shard_deadline(n->shards[s]));
            late_ms = mq_min_i64(late_ms, mq_late_wait_ms(n->shards[s]));
        }
    }
    int64_t left_ms = at_ms <= now_ms ? 0 : mq_min_i64(at_ms - now_ms, POLL_MS_MAX);
    return (long)mq_min_i64(left_ms, late_ms);
}

/* Someone can be served here, or sent on to where it is. */
static bool may_read(mq_node *n)
{
    bool may = false;
    for (uint32_t s = 0; s < n->view.shard_count; s++) {
        mq_broker *b = n->shards[s];
        if (b != NULL) {
            b->is_open = mq_own_is_serving(b);
            b->served_ms = b->is_open ? mq_clock_mono_ms() : b->served_ms;
            may |= b->is_open || mq_own_is_refusing(b);
        }
        may |= mq_node_owner(n, s) != NULL;
    }
    return may;
}

/* What the wait found: at the sockets, at the table's connection and at the shards' stores. */
typedef struct loop_events {
    bool front, back;
    short table, shards[MQ_CLUSTER_SHARDS_MAX];
} loop_events;

static void poll_all(mq_node *n, int signal_fd, loop_events *out)
{
    mq_poll_item items[FIXED_ITEMS + MQ_CLUSTER_SHARDS_MAX];
    uint32_t of[FIXED_ITEMS + MQ_CLUSTER_SHARDS_MAX];
    int count = 0, table_at = -1;
    short in = may_read(n) ? POLLIN : 0;
    *out = (loop_events){0};
    items[count++] =
        (mq_poll_item){.socket = n->front.socket, .events = in, .is_drained = n->front.is_drained};
    items[count++] =
        (mq_poll_item){.socket = n->back.socket, .events = in, .is_drained = n->back.is_drained};
    items[count++] = (mq_poll_item){.fd = signal_fd, .events = POLLIN};
    items[count++] = (mq_poll_item){.fd = mq_pins_fd(n->pins), .events = in};
    if (mq_cluster_fd(n->cluster) >= 0) {
        table_at = count;
        items[count++] = (mq_poll_item){.fd = mq_cluster_fd(n->cluster),
                                        .events = (short)(mq_cluster_events(n->cluster) | POLLERR)};
    }
    int first = count;
    for (uint32_t s = 0; s < n->view.shard_count; s++) {
        mq_store *store = n->shards[s] == NULL ? NULL : n->shards[s]->store;
        int fd = store == NULL ? -1 : store->ops->fd(store);
        if (fd >= 0) {
            of[count] = s;
            items[count++] =
                (mq_poll_item){.fd = fd, .events = (short)(store->ops->events(store) | POLLERR)};
        }
    }
    (void)mq_poll(items, count, wait_ms(n));
    out->table = table_at < 0 ? 0 : items[table_at].revents;
    for (int i = first; i < count; i++) {
        out->shards[of[i]] = items[i].revents;
    }
    out->front = items[FRONT_AT].revents != 0 || !n->front.is_drained;
    out->back = items[BACK_AT].revents != 0 || !n->back.is_drained;
    struct signalfd_siginfo info;
    if (items[SIGNALS_AT].revents != 0 &&
        read(signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        mq_log(MQ_INFO, "stopping", "signal=%u", info.ssi_signo);
        n->stop_ms = n->stop_ms == 0 ? mq_clock_mono_ms() + STOP_MS : n->stop_ms;
    }
}

static void receive(mq_node *n, mq_side *side, int limit)
{
    int64_t until_ms = mq_clock_mono_ms() + TURN_MS;
    for (int count = 0; count < limit && (count == 0 || mq_clock_mono_ms() < until_ms); count++) {
        mq_frames frames;
        if (!mq_side_receive(side, &frames)) {
            return;
        }
        mq_broker *b = frames.shard < n->view.shard_count ? n->shards[frames.shard] : NULL;
        if (frames.bad != MQ_OK) {
            mq_node_error(n, frames.conn, frames.bad, frames.err.text);
        } else if (!mq_node_answer(n, &frames)) {
            if (b != NULL && b->is_open && b->core != NULL) {
                mq_receive(b, &frames);
            } else {
                mq_node_refuse(n, &frames);
            }
        }
        mq_frames_release(&frames);
    }
}

static void receive_pinned(mq_node *n)
{
    mq_pin_answer answer;
    while (mq_pins_next(n->pins, &answer)) {
        uint64_t shard = answer.ticket >> 48;
        mq_broker *b = shard < MQ_CLUSTER_SHARDS_MAX ? n->shards[shard] : NULL;
        if (b != NULL && b->is_open) {
            mq_receive_pinned(b, &answer);
        }
    }
}

static void turn_shard(mq_broker *b)
{
    if (mq_own_is_serving(b)) {
        mq_input in = {.type = MQ_IN_TURN};
        mq_act_step(b, &in);
        mq_gets_tick(b);
        mq_want_tick(b);
        mq_replicas_tick(b);
        mq_dead_tick(b);
        mq_cron_tick(b);
        mq_retention_tick(b);
    }
    mq_outbox_flush(b);
    mq_late_turn(b);
    mq_asks_turn(b->asks);
    mq_answer_tick(b);
}

static void turn(mq_node *n, const loop_events *events)
{
    int64_t now_ms = mq_clock_mono_ms();
    mq_cluster_process(n->cluster, events->table, now_ms);
    for (uint32_t s = 0; s < n->view.shard_count; s++) {
        mq_broker *b = n->shards[s];
        if (b != NULL) {
            b->store->ops->process(b->store, events->shards[s], now_ms);
            mq_own_tick(b);
        }
    }
    if (n->stop_ms == 0) {
        mq_node_tick(n);
    }
    if (may_read(n)) {
        receive_pinned(n);
        if (events->back) {
            receive(n, &n->back, BACK_PER_TURN);
        }
        if (events->front) {
            receive(n, &n->front, FRONT_PER_TURN);
        }
    }
    for (uint32_t s = 0; s < n->view.shard_count; s++) {
        if (n->shards[s] != NULL) {
            turn_shard(n->shards[s]);
        }
    }
    mq_lend_tick(n);
}

static mq_code run(mq_node *n, int signal_fd, mq_error *err)
{
    bool is_announced = n->config->endpoint_file[0] == '\0';
    mq_code code = MQ_OK;
    while (code == MQ_OK) {
        loop_events events;
        poll_all(n, signal_fd, &events);
        turn(n, &events);
        if (!is_announced && mq_node_is_ready(n)) {
            code = write_endpoints(n, err);
            is_announced = true;
        }
        if (n->fatal.code != MQ_OK) {
            *err = n->fatal;
            return err->code;
        }
        if (n->stop_ms != 0 && mq_node_leave(n, mq_clock_mono_ms() > n->stop_ms)) {
            break;
        }
    }
    return code;
}

mq_code mq_broker_run(const mq_broker_config *config, mq_error *err)
{
    mq_node *n = calloc(1, sizeof *n);
    if (n == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the broker");
    }
    n->config = config;
    int signal_fd = signals_open(err);
    mq_code code = signal_fd < 0 ? err->code : open_all(n, err);
    if (code == MQ_OK) {
        code = run(n, signal_fd, err);
    }
    close_all(n);
    if (signal_fd >= 0) {
        close(signal_fd);
    }
    free(n);
    return code;
}

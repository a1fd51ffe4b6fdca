/* Sockets of the client: one DEALER, its monitor, a descriptor to wake it and a timer, all behind
 * one epoll descriptor, which the I/O thread or the caller's own loop waits on. Must not know jobs.
 *
 *     epoll -+- DEALER      messages from the broker (ZMQ_FD: look at ZMQ_EVENTS, never at the fd)
 *            +- monitor     handshake done, connection lost
 *            +- event_fd    another thread queued something
 *            `- timer_fd    the core's deadline */
#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <zmq.h>

#include "client/src/client.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

enum {
    RECEIVE_MAX = 1000, /* messages of one turn */
    HWM = 1000,
    LINGER_MS = 500, /* for a cancel or the like on the way out when the client is freed */
    HEADER_BYTES = MQ_HEADER_BYTES_MAX,
    PAYLOAD_BYTES = MQ_PAYLOAD_BYTES_MAX,
    ARENA_BYTES = 8 << 20,
};

static mq_code watch_fd(mq_io *io, int fd, mq_io_source source, mq_error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = source};
    if (epoll_ctl(io->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        return mq_fail(err, MQ_E_IO, "epoll: %s", strerror(errno));
    }
    return MQ_OK;
}

static mq_code watch_socket(mq_io *io, void *socket, mq_io_source source, mq_error *err)
{
    int fd = -1;
    size_t size = sizeof fd;
    if (zmq_getsockopt(socket, ZMQ_FD, &fd, &size) != 0) {
        return mq_fail(err, MQ_E_IO, "ZMQ_FD: %s", zmq_strerror(zmq_errno()));
    }
    return watch_fd(io, fd, source, err);
}

static bool set(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

static mq_code open_dealer(mq_io *io, const char *url, mq_error *err)
{
    io->is_drained = io->is_monitor_drained = false;
    io->dealer = zmq_socket(io->context, ZMQ_DEALER);
    if (io->dealer == NULL) {
        return mq_fail(err, MQ_E_IO, "ZeroMQ socket: %s", zmq_strerror(zmq_errno()));
    }
    void *s = io->dealer;
    bool is_set = set(s, ZMQ_LINGER, LINGER_MS) && set(s, ZMQ_SNDHWM, HWM) &&
                  set(s, ZMQ_RCVHWM, HWM) && set(s, ZMQ_RECONNECT_IVL, 100) &&
                  set(s, ZMQ_RECONNECT_IVL_MAX, 2000) && set(s, ZMQ_HANDSHAKE_IVL, 5000) &&
                  set(s, ZMQ_HEARTBEAT_IVL, 700) && set(s, ZMQ_HEARTBEAT_TIMEOUT, 2100) &&
                  set(s, ZMQ_TCP_KEEPALIVE, 1);
    int events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED;
    char name[48]; /* the former monitor's name may be taken a little longer */
    (void)snprintf(name, sizeof name, "inproc://monitor-%llu", (unsigned long long)io->links++);
    if (!is_set || zmq_socket_monitor(s, name, events) != 0) {
        return mq_fail(err, MQ_E_IO, "ZeroMQ option: %s", zmq_strerror(zmq_errno()));
    }
    io->monitor = zmq_socket(io->context, ZMQ_PAIR);
    if (io->monitor == NULL || !set(io->monitor, ZMQ_LINGER, 0) ||
        zmq_connect(io->monitor, name) != 0) {
        return mq_fail(err, MQ_E_IO, "ZeroMQ monitor: %s", zmq_strerror(zmq_errno()));
    }
    if (zmq_connect(s, url) != 0) {
        return mq_fail(err, MQ_E_ARG, "broker %s: %s", url, zmq_strerror(zmq_errno()));
    }
    mq_code code = watch_socket(io, s, MQ_IO_DEALER, err);
    return code != MQ_OK ? code : watch_socket(io, io->monitor, MQ_IO_MONITOR, err);
}

/* Closing a socket closes its descriptor, which leaves epoll by itself. */
static void close_dealer(mq_io *io)
{
    if (io->dealer != NULL) {
        (void)zmq_socket_monitor(io->dealer, NULL, 0);
        (void)zmq_close(io->dealer);
    }
    if (io->monitor != NULL) {
        (void)zmq_close(io->monitor);
    }
    io->dealer = NULL;
    io->monitor = NULL;
}

mq_code mq_io_init(maasq_client *client, mq_error *err)
{
    mq_io *io = &client->io;
    mq_buf_init(&io->header, HEADER_BYTES);
    mq_buf_init(&io->payload, PAYLOAD_BYTES);
    mq_arena_init(&io->arena, ARENA_BYTES);
    io->timer_ms = INT64_MAX;
    io->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    io->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    io->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    io->context = zmq_ctx_new();
    if (io->epoll_fd < 0 || io->event_fd < 0 || io->timer_fd < 0 || io->context == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no descriptors for a client: %s", strerror(errno));
    }
    mq_code code = watch_fd(io, io->event_fd, MQ_IO_WOKEN, err);
    if (code == MQ_OK) {
        code = watch_fd(io, io->timer_fd, MQ_IO_TIMER, err);
    }
    if (code == MQ_OK) {
        (void)snprintf(client->url, sizeof client->url, "%s",
                       client->brokers[client->broker_index]);
        code = open_dealer(io, client->url, err);
    }
    return code;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        (void)close(*fd);
    }
    *fd = -1;
}

void mq_io_release(mq_io *io)
{
    close_dealer(io);
    if (io->context != NULL) {
        (void)zmq_ctx_term(io->context);
        io->context = NULL;
        mq_buf_release(&io->header);
        mq_buf_release(&io->payload);
        mq_arena_release(&io->arena);
    }
    close_fd(&io->epoll_fd);
    close_fd(&io->event_fd);
    close_fd(&io->timer_fd);
}

void mq_io_reconnect(maasq_client *client)
{
    mq_io *io = &client->io;
    const char *url = client->moved_to;
    if (url[0] == '\0') {
        client->broker_index = (client->broker_index + 1) % client->broker_count;
        url = client->brokers[client->broker_index];
    }
    close_dealer(io);
    client->is_welcome = false;
    mq_error err;
    (void)snprintf(client->url, sizeof client->url, "%s", url);
    if (open_dealer(io, url, &err) != MQ_OK) { /* tried again after the next silent intervals */
        client->refusal = err;
        close_dealer(io);
    }
    client->moved_to[0] = '\0';
}

static int events_of(void *socket)
{
    int events = 0;
    size_t size = sizeof events;
    return socket != NULL && zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size) == 0 ? events : 0;
}

bool mq_io_is_writable(mq_io *io)
{
    io->is_drained = false; /* the question may take a message's signal away */
    io->is_blocked = (events_of(io->dealer) & ZMQ_POLLOUT) == 0;
    return !io->is_blocked;
}

/* Connection events: a frame of event number (u16) and value (u32), then the address. */
static void read_monitor(maasq_client *client, int64_t now_ms)
{
    mq_io *io = &client->io;
    for (int i = 0; i < RECEIVE_MAX && io->monitor != NULL; i++) {
        uint8_t frame[6];
        int n = zmq_recv(io->monitor, frame, sizeof frame, ZMQ_DONTWAIT);
        io->is_monitor_drained = n < 0 && zmq_errno() == EAGAIN;
        if (n < 0) {
            return;
        }
        (void)zmq_recv(io->monitor, NULL, 0, ZMQ_DONTWAIT);
        uint16_t event = 0;
        memcpy(&event, frame, sizeof event);
        if (n == (int)sizeof frame && event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
            mq_ccore_linked(&client->core, now_ms);
        } else if (n == (int)sizeof frame && event == ZMQ_EVENT_DISCONNECTED) {
            client->is_welcome = false;
            mq_ccore_unlinked(&client->core, now_ms);
        }
    }
}

/* Receives one message. Anything but three frames is dropped whole. False: nothing there. */
static bool read_message(maasq_client *client, int64_t now_ms)
{
    zmq_msg_t frames[3];
    int count = 0;
    bool is_more = true;
    client->io.is_drained = false;
    while (is_more) {
        zmq_msg_t extra;
        zmq_msg_t *frame = count < 3 ? &frames[count] : &extra;
        zmq_msg_init(frame);
        if (zmq_msg_recv(frame, client->io.dealer, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(frame);
            client->io.is_drained = count == 0 && zmq_errno() == EAGAIN;
            break;
        }
        is_more = zmq_msg_more(frame) != 0;
        if (count >= 3) {
            zmq_msg_close(frame);
        }
        count++;
    }
    if (count == 3) {
        mq_client_receive(client, now_ms,
                          mq_span_of(zmq_msg_data(&frames[0]), zmq_msg_size(&frames[0])),
                          mq_span_of(zmq_msg_data(&frames[1]), zmq_msg_size(&frames[1])),
                          mq_span_of(zmq_msg_data(&frames[2]), zmq_msg_size(&frames[2])));
    }
    for (int i = 0; i < count && i < 3; i++) {
        zmq_msg_close(&frames[i]);
    }
    return count > 0;
}

bool mq_io_send(mq_io *io, mq_command command, const void *message, mq_span payload)
{
    uint8_t head[6];
    size_t head_bytes = mq_wire_head_to(command, io->shard, head);
    mq_buf_reset(&io->header);
    mq_error err;
    if (mq_wire_encode(command, message, &io->header, &err) != MQ_OK || io->dealer == NULL) {
        return false;
    }
    int more = ZMQ_SNDMORE | ZMQ_DONTWAIT;
    io->is_drained = false;
    io->sent++;
    return zmq_send(io->dealer, head, head_bytes, more) >= 0 &&
           zmq_send(io->dealer, io->header.data, io->header.len, more) >= 0 &&
           zmq_send(io->dealer, payload.data, payload.len, ZMQ_DONTWAIT) >= 0;
}

static void set_timer(mq_io *io, int64_t now_ms, int64_t due_ms)
{
    if (io->is_blocked) { /* ZMQ_FD tells when there is room; this is the safety net */
        due_ms = mq_max_i64(due_ms, now_ms + 100);
    }
    if (due_ms >= io->timer_ms) {
        return; /* a turn too early is harmless, and sets it again */
    }
    io->timer_ms = due_ms;
    int64_t left_ms = mq_max_i64(due_ms - now_ms, 0);
    struct itimerspec spec = {
        .it_value = {.tv_sec = left_ms / 1000,
                     .tv_nsec = left_ms == 0 ? 1 : (long)(left_ms % 1000) * 1000000}};
    (void)timerfd_settime(io->timer_fd, 0, &spec, NULL);
}

/* Which descriptors have something; takes what woke us off them. */
static uint32_t ready(maasq_client *client)
{
    mq_io *io = &client->io;
    struct epoll_event events[MQ_IO_SOURCES + MQ_ULID_SHARDS_MAX];
    uint64_t count = 0;
    uint32_t bits = 0;
    int n = epoll_wait(io->epoll_fd, events, MQ_IO_SOURCES + MQ_ULID_SHARDS_MAX, 0);
    for (int i = 0; i < n; i++) {
        bits |= 1U << events[i].data.u32;
    }
    if ((bits & 1U << MQ_IO_WOKEN) != 0) {
        (void)!read(io->event_fd, &count, sizeof count);
        client->is_woken = false;
    }
    if ((bits & 1U << MQ_IO_TIMER) != 0 && read(io->timer_fd, &count, sizeof count) > 0) {
        io->timer_ms = INT64_MAX; /* it has fired: set it again */
    }
    return bits;
}

/* True when something waits that no descriptor will tell of. */
static bool is_missed(mq_io *io)
{
    return (!io->is_drained && (events_of(io->dealer) & ZMQ_POLLIN) != 0) ||
           (!io->is_monitor_drained && (events_of(io->monitor) & ZMQ_POLLIN) != 0);
}

bool mq_io_push(maasq_client *client, int64_t now_ms)
{
    mq_io *io = &client->io;
    bool is_more = mq_client_act(client, now_ms);
    int64_t due_ms = mq_ccore_deadline(&client->core);
    set_timer(io, now_ms, client->again_ms == 0 ? due_ms : mq_min_i64(due_ms, client->again_ms));
    return is_more || is_missed(io);
}

bool mq_io_turn(maasq_client *client)
{
    mq_io *io = &client->io;
    uint32_t bits = ready(client);
    int64_t now_ms = mq_clock_mono_ms();
    if (!io->is_monitor_drained || (bits & 1U << MQ_IO_MONITOR) != 0) {
        read_monitor(client, now_ms);
    }
    bool is_there = !io->is_drained || (bits & 1U << MQ_IO_DEALER) != 0;
    for (int i = 0; i < RECEIVE_MAX && is_there && io->dealer != NULL; i++) {
        is_there = read_message(client, now_ms);
    }
    if (client->again_ms != 0 && now_ms >= client->again_ms && client->core.is_linked) {
        uint32_t silent_count = client->core.silent_count; /* nobody has really answered */
        client->again_ms = 0;
        mq_ccore_linked(&client->core, now_ms);
        client->core.silent_count = silent_count;
    }
    return mq_io_push(client, now_ms);
}

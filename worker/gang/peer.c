/* Connections between supervisors: Unix streams on one host, ZeroMQ between hosts. Knows frames and
 * who sent them, not what they mean. */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/log.h"
#include "shared/base/math.h"
#include "worker/gang/gang.h"

enum {
    BACKLOG = 512,
    READS_A_TURN = 8,
    MESSAGES_A_TURN = 256,
    LINGER_MS = 1000,
    HEARTBEAT_MS = 1000
};

/* "@NAME" to an abstract address; 0 when it is not one. */
static socklen_t unix_address(mq_span text, struct sockaddr_un *out)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (text.len < 2 || text.len > sizeof out->sun_path || text.data[0] != '@') {
        return 0;
    }
    memcpy(out->sun_path + 1, text.data + 1, text.len - 1);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + text.len);
}

mq_code mq_peer_listen(mq_gang_plane *plane, mq_error *err)
{
    struct sockaddr_un address;
    (void)snprintf(plane->unix_address, sizeof plane->unix_address, "@maasq-gang-%s",
                   plane->worker);
    socklen_t len = unix_address(mq_str(plane->unix_address), &address);
    plane->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (plane->listen_fd < 0 ||
        bind(plane->listen_fd, (const struct sockaddr *)&address, len) != 0 ||
        listen(plane->listen_fd, BACKLOG) != 0) {
        return mq_fail(err, MQ_E_IO, "gang listener: %s", strerror(errno));
    }
    return MQ_OK;
}

static bool is_same_user(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof cred;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.uid == geteuid();
}

/* --- ways out --- */

static void dealer_close(mq_peer *p)
{
    int linger = LINGER_MS;
    if (p->dealer != NULL) {
        (void)zmq_socket_monitor(p->dealer, NULL, 0);
        (void)zmq_setsockopt(p->dealer, ZMQ_LINGER, &linger, sizeof linger);
        zmq_close(p->dealer);
    }
    if (p->monitor != NULL) {
        zmq_close(p->monitor);
    }
    p->dealer = p->monitor = NULL;
}

static void peer_release(mq_peer *p)
{
    mq_stream_release(&p->stream);
    dealer_close(p);
    p->is_used = false;
}

void mq_peer_close_all(mq_gang_plane *plane)
{
    for (uint32_t i = 0; i < MQ_GANG_PEERS_MAX; i++) {
        if (plane->peers[i].is_used) {
            peer_release(&plane->peers[i]);
        }
        if (plane->in[i].is_used) {
            mq_stream_release(&plane->in[i].stream);
        }
    }
    if (plane->listen_fd >= 0) {
        close(plane->listen_fd);
    }
    if (plane->router != NULL) {
        zmq_close(plane->router);
    }
}

static mq_code connect_unix(mq_gang_plane *plane, mq_peer *p, mq_span where, mq_error *err)
{
    struct sockaddr_un address;
    socklen_t len = unix_address(where, &address);
    int fd = len == 0 ? -1 : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return mq_fail(err, MQ_E_ARG, "\"%.*s\" is not an abstract Unix address",
                       MQ_SPAN_ARG(where));
    }
    if (connect(fd, (const struct sockaddr *)&address, len) != 0 || !is_same_user(fd)) {
        int failure = errno;
        close(fd);
        return mq_fail(err, MQ_E_IO, "%.*s: %s", MQ_SPAN_ARG(where), strerror(failure));
    }
    mq_stream_init(&p->stream, fd, MQ_PEER_QUEUE_BYTES);
    mq_slot_peer_hello hello = {.version = MQ_PEER_VERSION, .worker = mq_str(plane->worker)};
    return mq_stream_send(&p->stream, MQ_FRAME_peer_hello, &hello, -1, err);
}

static void set_int(void *socket, int option, int value)
{
    MQ_ASSERT(zmq_setsockopt(socket, option, &value, sizeof value) == 0);
}

static mq_code connect_zmq(mq_gang_plane *plane, mq_peer *p, mq_span where, mq_error *err)
{
    char endpoint[129], name[64];
    mq_span_copy(where, endpoint, sizeof endpoint);
    p->dealer = zmq_socket(plane->config.context, ZMQ_DEALER);
    MQ_ASSERT(p->dealer != NULL);
    /* What may wait is bounded by the slots' windows, not by a count of messages. */
    set_int(p->dealer, ZMQ_SNDHWM, 0);
    set_int(p->dealer, ZMQ_RECONNECT_IVL, 50);
    set_int(p->dealer, ZMQ_RECONNECT_IVL_MAX, 1000);
    set_int(p->dealer, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS);
    set_int(p->dealer, ZMQ_HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS);
    (void)snprintf(name, sizeof name, "inproc://peer-%p-%llu", (void *)plane,
                   (unsigned long long)plane->monitor_count++);
    p->monitor = zmq_socket(plane->config.context, ZMQ_PAIR);
    MQ_ASSERT(p->monitor != NULL);
    if (zmq_socket_monitor(p->dealer, name, ZMQ_EVENT_DISCONNECTED) != 0 ||
        zmq_connect(p->monitor, name) != 0) {
        return mq_fail(err, MQ_E_IO, "monitor: %s", zmq_strerror(errno));
    }
    if (zmq_connect(p->dealer, endpoint) != 0) {
        return mq_fail(err, MQ_E_ARG, "\"%s\": %s", endpoint, zmq_strerror(errno));
    }
    return MQ_OK;
}

uint32_t mq_peer_get(mq_gang_plane *plane, const mq_msg_member *member)
{
    uint32_t open = MQ_GANG_NO_PEER;
    mq_error err;
    for (uint32_t i = 0; i < MQ_GANG_PEERS_MAX; i++) {
        if (plane->peers[i].is_used && mq_span_is(member->worker, plane->peers[i].worker)) {
            return i;
        }
        open = !plane->peers[i].is_used && open == MQ_GANG_NO_PEER ? i : open;
    }
    if (open == MQ_GANG_NO_PEER) {
        mq_log(MQ_WARN, "too many peers", "limit=%d", MQ_GANG_PEERS_MAX);
        return MQ_GANG_NO_PEER;
    }
    mq_peer *p = &plane->peers[open];
    plane->high = open >= plane->high ? open + 1 : plane->high;
    *p = (mq_peer){.is_used = true,
                   .is_same_host = mq_span_is(member->host, plane->host),
                   .stream = {.fd = -1}};
    mq_span_copy(member->worker, p->worker, sizeof p->worker);
    mq_code code = p->is_same_host ? connect_unix(plane, p, member->gang_unix, &err)
                                   : connect_zmq(plane, p, member->gang_tcp, &err);
    if (code != MQ_OK) {
        mq_log(MQ_INFO, "gang member not reachable", "worker=%s error=\"%s\"", p->worker, err.text);
        peer_release(p);
        return MQ_GANG_NO_PEER;
    }
    return open;
}

static void peer_died(mq_gang_plane *plane, uint32_t index)
{
    mq_peer *p = &plane->peers[index];
    mq_gang_on_peer_death(plane, p->worker);
    peer_release(p);
}

void mq_peer_send(mq_gang_plane *plane, uint32_t peer, mq_frame_type type, const void *message,
                  int fd)
{
    mq_peer *p = &plane->peers[peer];
    mq_error err;
    if (p->is_same_host) {
        if (mq_stream_send(&p->stream, type, message, fd, &err) != MQ_OK) {
            mq_log(MQ_INFO, "gang member gone", "worker=%s error=\"%s\"", p->worker, err.text);
            peer_died(plane, peer);
        }
        return;
    }
    mq_span rest;
    uint8_t byte = (uint8_t)type;
    mq_buf_reset(&plane->scratch);
    mq_buf_add(&plane->scratch, &byte, 1);
    mq_frame_encode(type, message, &plane->scratch, &rest);
    mq_buf_add_span(&plane->scratch, rest);
    if (plane->scratch.is_full ||
        zmq_send(p->dealer, plane->scratch.data, plane->scratch.len, ZMQ_DONTWAIT) < 0) {
        mq_log(MQ_WARN, "gang message not sent", "worker=%s frame=%s", p->worker,
               mq_frame_name((uint8_t)type));
    }
}

void mq_peer_check(mq_gang_plane *plane, uint32_t peer)
{
    mq_peer *p = &plane->peers[peer];
    mq_error err;
    if (!p->is_used || p->stream.fd < 0) {
        return;
    }
    /* Nothing is ever sent our way here, so what can be read is the end. */
    mq_code code = mq_stream_flush(&p->stream, &err);
    if (code == MQ_OK) {
        code = mq_stream_read(&p->stream, &err);
    }
    if (code != MQ_OK && code != MQ_E_BUSY) {
        peer_died(plane, peer);
    }
}

void mq_peer_check_monitor(mq_gang_plane *plane, uint32_t peer)
{
    mq_peer *p = &plane->peers[peer];
    uint8_t event[6];
    char address[256];
    bool is_over = false;
    while (p->is_used && p->monitor != NULL &&
           zmq_recv(p->monitor, event, sizeof event, ZMQ_DONTWAIT) >= 0) {
        (void)zmq_recv(p->monitor, address, sizeof address, 0);
        is_over = true; /* no other event is asked for */
    }
    if (is_over) {
        mq_log(MQ_INFO, "gang member gone", "worker=%s error=\"connection ended\"", p->worker);
        peer_died(plane, peer);
    }
}

void mq_peer_tidy(mq_gang_plane *plane)
{
    bool is_needed[MQ_GANG_PEERS_MAX] = {false};
    for (uint32_t i = 0; i < plane->config.slot_count; i++) {
        const mq_gang *g = &plane->gangs[i];
        for (uint32_t k = 0; g->is_used && k < g->count; k++) {
            if (g->members[k].peer < MQ_GANG_PEERS_MAX) {
                is_needed[g->members[k].peer] = true;
            }
        }
    }
    /* Ways to living peers of this host stay: closing one would look like our death. */
    for (uint32_t i = 0; i < MQ_GANG_PEERS_MAX; i++) {
        mq_peer *p = &plane->peers[i];
        if (p->is_used && !p->is_same_host && !is_needed[i]) {
            peer_release(p);
        }
    }
}

/* --- ways in --- */

void mq_peer_accept(mq_gang_plane *plane)
{
    for (int i = 0; i < READS_A_TURN; i++) {
        int fd = accept4(plane->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        uint32_t open = 0;
        if (fd < 0) {
            return;
        }
        while (open < MQ_GANG_PEERS_MAX && plane->in[open].is_used) {
            open++;
        }
        if (open == MQ_GANG_PEERS_MAX || !is_same_user(fd)) {
            plane->refused++;
            close(fd);
            continue;
        }
        plane->high = open >= plane->high ? open + 1 : plane->high;
        plane->in[open] = (mq_peer_in){.is_used = true};
        mq_stream_init(&plane->in[open].stream, fd, 0);
    }
}

static mq_code on_hello(mq_peer_in *in, const mq_frame *f, mq_error *err)
{
    mq_slot_peer_hello m;
    mq_code code = mq_frame_decode(f->type, f->body, &m, err);
    if (code == MQ_OK && m.version != MQ_PEER_VERSION) {
        code = mq_fail(err, MQ_E_VERSION, "peer speaks version %llu, this is %d",
                       (unsigned long long)m.version, MQ_PEER_VERSION);
    }
    if (code == MQ_OK) {
        mq_span_copy(m.worker, in->worker, sizeof in->worker);
    }
    return code;
}

static mq_code read_in(mq_gang_plane *plane, mq_peer_in *in, mq_error *err)
{
    mq_code code = MQ_OK;
    for (int i = 0; i < READS_A_TURN && code == MQ_OK; i++) {
        code = mq_stream_read(&in->stream, err);
        while (code == MQ_OK) {
            mq_frame f;
            code = mq_stream_next(&in->stream, &f, err);
            if (code == MQ_OK && in->worker[0] == '\0') {
                code = f.type == MQ_FRAME_peer_hello
                           ? on_hello(in, &f, err)
                           : mq_fail(err, MQ_E_FORMAT, "peer: no hello first");
            } else if (code == MQ_OK) {
                mq_gang_on_peer_frame(plane, in->worker, f.type, f.body, &f.fd);
            }
            if (f.fd >= 0) {
                close(f.fd);
            }
        }
        code = code == MQ_E_BUSY && i + 1 < READS_A_TURN ? MQ_OK : code;
        if (in->stream.in.len - in->stream.in_at == 0 && code == MQ_E_BUSY) {
            break;
        }
    }
    return code;
}

void mq_peer_read(mq_gang_plane *plane, uint32_t index)
{
    mq_peer_in *in = &plane->in[index];
    mq_error err = {0};
    if (!in->is_used) {
        return;
    }
    mq_code code = read_in(plane, in, &err);
    if (code == MQ_OK || code == MQ_E_BUSY) {
        return;
    }
    if (code != MQ_E_IO) {
        plane->refused++;
        mq_log(MQ_WARN, "gang connection refused", "error=\"%s\"", err.text);
    }
    char worker[33];
    memcpy(worker, in->worker, sizeof worker);
    mq_stream_release(&in->stream);
    in->is_used = false;
    if (worker[0] == '\0') {
        return;
    }
    for (uint32_t i = 0; i < MQ_GANG_PEERS_MAX; i++) {
        if (plane->peers[i].is_used && strcmp(plane->peers[i].worker, worker) == 0) {
            peer_died(plane, i);
        }
    }
}

void mq_peer_read_router(mq_gang_plane *plane)
{
    for (int i = 0; i < MESSAGES_A_TURN; i++) {
        zmq_msg_t identity, message;
        int none = -1;
        zmq_msg_init(&identity);
        zmq_msg_init(&message);
        bool has_one = zmq_msg_recv(&identity, plane->router, ZMQ_DONTWAIT) >= 0;
        bool is_whole =
            has_one && zmq_msg_more(&identity) && zmq_msg_recv(&message, plane->router, 0) >= 0;
        bool has_more = is_whole && zmq_msg_more(&message);
        const uint8_t *data = zmq_msg_data(&message);
        size_t len = zmq_msg_size(&message);
        if (is_whole && !has_more && len > 0) {
            mq_gang_on_peer_frame(plane, "", data[0], mq_span_of(data + 1, len - 1), &none);
        } else if (has_one) {
            plane->refused++;
        }
        while (has_more) {
            has_more = zmq_msg_recv(&message, plane->router, 0) >= 0 && zmq_msg_more(&message);
        }
        zmq_msg_close(&identity);
        zmq_msg_close(&message);
        plane->is_router_drained = !has_one && zmq_errno() == EAGAIN;
        if (!has_one) {
            return;
        }
    }
}

/* The gang plane as a whole: its sockets, its addresses, its share of the loop; see plane.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "worker/gang/gang.h"

/* Local address of the route to a broker at "tcp://HOST:PORT"; false when there is none to find. */
static bool address_find(const char *broker, char *out, size_t size)
{
    char host[128], port[8];
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM}, *found = NULL;
    const char *colon = strrchr(broker, ':');
    if (strncmp(broker, "tcp://", 6) != 0 || colon == NULL || colon < broker + 6) {
        return false;
    }
    mq_span name = mq_span_of(broker + 6, (size_t)(colon - broker - 6));
    if (!mq_span_copy(name, host, sizeof host) || !mq_span_copy(mq_str(colon + 1), port, 8) ||
        getaddrinfo(host, port, &hints, &found) != 0) {
        return false;
    }
    struct sockaddr_storage self;
    socklen_t len = sizeof self;
    int fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool is_found = fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
                    getsockname(fd, (struct sockaddr *)&self, &len) == 0 &&
                    getnameinfo((const struct sockaddr *)&self, len, out, (socklen_t)size, NULL, 0,
                                NI_NUMERICHOST) == 0;
    if (fd >= 0) {
        close(fd);
    }
    freeaddrinfo(found);
    return is_found;
}

/* What peers are told: the bound endpoint with a wildcard address replaced. */
static mq_code address_tell(mq_gang_plane *plane, const char *bound, mq_error *err)
{
    static const char *const wild[] = {"tcp://0.0.0.0:", "tcp://[::]:", "tcp://*:"};
    char address[110];
    for (size_t i = 0; i < sizeof wild / sizeof wild[0]; i++) {
        size_t len = strlen(wild[i]);
        if (strncmp(bound, wild[i], len) != 0) {
            continue;
        }
        (void)snprintf(address, sizeof address, "%s", plane->config.address);
        if (*address == '\0' && !address_find(plane->config.broker, address, sizeof address)) {
            return mq_fail(err, MQ_E_ARG,
                           "--gang-bind %s: no address to tell peers; name it by --gang-host",
                           plane->config.bind);
        }
        (void)snprintf(plane->tcp_address, sizeof plane->tcp_address, "tcp://%s:%.5s", address,
                       bound + len);
        return MQ_OK;
    }
    return mq_span_copy(mq_str(bound), plane->tcp_address, sizeof plane->tcp_address)
               ? MQ_OK
               : mq_fail(err, MQ_E_LIMIT, "--gang-bind %s: longer than %zu bytes", bound,
                         sizeof plane->tcp_address - 1);
}

static mq_code router_bind(mq_gang_plane *plane, mq_error *err)
{
    int none = 0;
    int64_t bytes = MQ_PEER_MESSAGE_BYTES_MAX;
    char bound[256];
    size_t len = sizeof bound;
    plane->router = zmq_socket(plane->config.context, ZMQ_ROUTER);
    MQ_ASSERT(plane->router != NULL);
    MQ_ASSERT(zmq_setsockopt(plane->router, ZMQ_LINGER, &none, sizeof none) == 0);
    MQ_ASSERT(zmq_setsockopt(plane->router, ZMQ_RCVHWM, &none, sizeof none) == 0);
    MQ_ASSERT(zmq_setsockopt(plane->router, ZMQ_MAXMSGSIZE, &bytes, sizeof bytes) == 0);
    if (zmq_bind(plane->router, plane->config.bind) != 0) {
        return mq_fail(err, MQ_E_ARG, "--gang-bind %s: %s", plane->config.bind,
                       zmq_strerror(errno));
    }
    MQ_ASSERT(zmq_getsockopt(plane->router, ZMQ_LAST_ENDPOINT, bound, &len) == 0);
    return address_tell(plane, bound, err);
}

mq_code mq_gang_plane_new(mq_gang_plane **out, const mq_gang_config *config, mq_error *err)
{
    *out = NULL;
    mq_gang_plane *plane = calloc(1, sizeof *plane);
    if (plane == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "gang plane: no memory");
    }
    MQ_ASSERT(config->slot_count <= sizeof plane->gangs / sizeof plane->gangs[0]);
    plane->config = *config;
    plane->listen_fd = -1;
    (void)snprintf(plane->worker, sizeof plane->worker, "%s", config->worker);
    (void)snprintf(plane->host, sizeof plane->host, "%s", config->host);
    for (size_t i = 0; i < sizeof plane->gangs / sizeof plane->gangs[0]; i++) {
        plane->gangs[i].segment_fd = -1;
    }
    mq_buf_init(&plane->scratch, MQ_PEER_MESSAGE_BYTES_MAX);
    mq_code code = mq_peer_listen(plane, err);
    if (code == MQ_OK) {
        code = router_bind(plane, err);
    }
    if (code != MQ_OK) {
        mq_gang_plane_free(plane);
        return code;
    }
    *out = plane;
    return MQ_OK;
}

void mq_gang_plane_free(mq_gang_plane *plane)
{
    if (plane == NULL) {
        return;
    }
    for (size_t i = 0; i < sizeof plane->gangs / sizeof plane->gangs[0]; i++) {
        if (plane->gangs[i].segment_fd >= 0) {
            close(plane->gangs[i].segment_fd);
        }
    }
    mq_peer_close_all(plane);
    mq_early_expire(plane, INT64_MAX);
    mq_buf_release(&plane->scratch);
    free(plane);
}

const char *mq_gang_unix(const mq_gang_plane *plane)
{
    return plane->unix_address;
}

const char *mq_gang_tcp(const mq_gang_plane *plane)
{
    return plane->tcp_address;
}

uint32_t mq_gang_poll_items(mq_gang_plane *plane, mq_poll_item *items)
{
    uint32_t n = 0;
    items[n++] = (mq_poll_item){.fd = plane->listen_fd, .events = POLLIN};
    items[n++] = (mq_poll_item){
        .socket = plane->router, .events = POLLIN, .is_drained = plane->is_router_drained};
    for (uint32_t i = 0; i < plane->high; i++) {
        const mq_peer *p = &plane->peers[i];
        if (p->is_used && p->stream.fd >= 0) {
            short events = mq_stream_is_waiting(&p->stream) ? POLLIN | POLLOUT : POLLIN;
            plane->polled[n] = i;
            items[n++] = (mq_poll_item){.fd = p->stream.fd, .events = events};
        }
        if (p->is_used && p->monitor != NULL) {
            plane->polled[n] = i;
            items[n++] = (mq_poll_item){.socket = p->monitor, .events = POLLIN};
        }
        if (plane->in[i].is_used) {
            plane->polled[n] = MQ_GANG_PEERS_MAX + i;
            items[n++] = (mq_poll_item){.fd = plane->in[i].stream.fd, .events = POLLIN};
        }
    }
    MQ_ASSERT(n <= MQ_GANG_POLL_MAX);
    return n;
}

void mq_gang_process(mq_gang_plane *plane, const mq_poll_item *items, uint32_t count,
                     int64_t now_ms)
{
    plane->now_ms = now_ms;
    for (uint32_t n = 2; n < count; n++) {
        uint32_t what = plane->polled[n];
        if (items[n].revents == 0) {
            continue;
        }
        if (what < MQ_GANG_PEERS_MAX && items[n].socket != NULL) {
            mq_peer_check_monitor(plane, what);
        } else if (what < MQ_GANG_PEERS_MAX) {
            mq_peer_check(plane, what);
        } else {
            mq_peer_read(plane, what - MQ_GANG_PEERS_MAX);
        }
    }
    if (items[0].revents != 0) {
        mq_peer_accept(plane);
    }
    if (items[1].revents != 0) {
        mq_peer_read_router(plane);
    }
    mq_early_expire(plane, now_ms);
}

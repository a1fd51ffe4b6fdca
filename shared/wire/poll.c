/* See poll.h. Must not know what the sockets carry. */
#include "shared/wire/poll.h"

#include <errno.h>
#include <zmq.h>

#include "shared/base/assert.h"

static bool is_readable(void *socket)
{
    int events = 0;
    size_t size = sizeof events;
    return zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size) == 0 && (events & ZMQ_POLLIN) != 0;
}

/* The descriptor to wait on; -1 = not this one. Sets revents when the answer is known already. */
static int prepare(mq_poll_item *item)
{
    item->revents = 0;
    if (item->events == 0 || item->socket == NULL) {
        return item->events == 0 ? -1 : item->fd;
    }
    if (!item->is_drained && is_readable(item->socket)) {
        item->revents = POLLIN;
        return -1;
    }
    int fd = -1;
    size_t size = sizeof fd;
    return zmq_getsockopt(item->socket, ZMQ_FD, &fd, &size) == 0 ? fd : -1;
}

bool mq_poll(mq_poll_item *items, int count, long wait_ms)
{
    struct pollfd fds[MQ_POLL_MAX];
    MQ_ASSERT(count <= MQ_POLL_MAX);
    for (int i = 0; i < count; i++) {
        short events = items[i].socket != NULL ? POLLIN : items[i].events;
        fds[i] = (struct pollfd){.fd = prepare(&items[i]), .events = events};
        wait_ms = items[i].revents != 0 ? 0 : wait_ms;
    }
    int ready = poll(fds, (nfds_t)count, (int)wait_ms);
    if (ready < 0) {
        return errno == EINTR;
    }
    for (int i = 0; i < count && ready > 0; i++) {
        short got = fds[i].revents;
        bool is_failed = (got & ~(POLLIN | POLLOUT)) != 0;
        if (got != 0) {
            items[i].revents = (short)((got & (POLLIN | POLLOUT)) | (is_failed ? POLLERR : 0));
            ready--;
        }
    }
    return true;
}

/* Waiting on ZeroMQ sockets and descriptors together, with one system call where zmq_poll makes a
 * dozen: that one asks every socket twice a call, and each question is a poll of its mailbox.
 *
 * A socket's descriptor tells of news only once, and any call on the socket may swallow it. So a
 * socket is asked (ZMQ_EVENTS) before the wait unless its last call was a receive that found
 * nothing: after that one its descriptor cannot miss anything. See the manual page of
 * zmq_getsockopt, ZMQ_FD. */
#ifndef MQ_WIRE_POLL_H
#define MQ_WIRE_POLL_H

#include <poll.h>
#include <stdbool.h>

enum { MQ_POLL_MAX = 1024 };

typedef struct mq_poll_item {
    void *socket; /* ZeroMQ's, or NULL: then fd */
    int fd;
    short events;    /* of poll.h; for a socket POLLIN or nothing. 0 = not looked at */
    short revents;   /* filled; POLLHUP and the like read POLLERR */
    bool is_drained; /* socket: its last call was a receive that found nothing */
} mq_poll_item;

/* Waits until something is there or wait_ms have passed. A socket's POLLIN means that a receive is
 * worth trying; it may find nothing. count <= MQ_POLL_MAX. Returns false when poll failed (errno is
 * set), but for a signal, which reads as nothing there. */
bool mq_poll(mq_poll_item *items, int count, long wait_ms);

#endif

/* Framing over a Unix stream socket with descriptors; see stream.h. Knows no message but the head.
 */
#include "worker/slot/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"

enum {
    READ_BYTES = 256 * 1024,
    KEEP_BYTES = 4 << 20, /* an empty buffer larger than this is given back */
    HEAD_LIMIT = 256 * 1024,
};

void mq_stream_init(mq_stream *s, int fd, size_t out_limit)
{
    *s = (mq_stream){.fd = fd};
    int flags = fcntl(fd, F_GETFL);
    MQ_ASSERT(flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
    mq_buf_init(&s->in, (size_t)MQ_FRAME_BYTES_MAX + MQ_FRAME_HEAD_BYTES + READ_BYTES);
    mq_buf_init(&s->out, out_limit);
    mq_buf_init(&s->head, HEAD_LIMIT);
}

void mq_stream_release(mq_stream *s)
{
    for (uint32_t i = 0; i < s->fd_in_count; i++) {
        close(s->fds_in[i]);
    }
    for (uint32_t i = 0; i < s->fd_out_count; i++) {
        close(s->fds_out[i].fd);
    }
    if (s->fd >= 0) {
        close(s->fd);
    }
    mq_buf_release(&s->in);
    mq_buf_release(&s->out);
    mq_buf_release(&s->head);
    *s = (mq_stream){.fd = -1};
}

/* One sendmsg of up to two pieces, with a descriptor when fd >= 0. Returns bytes sent, 0 when the
 * socket is full, -1 on failure. */
static ssize_t send_some(int to, mq_span a, mq_span b, int fd)
{
    struct iovec iov[2] = {{(void *)(uintptr_t)a.data, a.len}, {(void *)(uintptr_t)b.data, b.len}};
    _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = b.len > 0 ? 2 : 1};
    if (fd >= 0) {
        msg.msg_control = control;
        msg.msg_controllen = sizeof control;
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        MQ_ASSERT(c != NULL);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    for (;;) {
        ssize_t n = sendmsg(to, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            return n;
        }
        if (errno != EINTR) {
            return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
        }
    }
}

/* Gives memory back and moves what waits to the front. */
static void out_tidy(mq_stream *s)
{
    if (s->out_at == s->out.len) {
        s->out_at = 0;
        mq_buf_reset(&s->out);
        if (s->out.capacity > KEEP_BYTES) {
            mq_buf_release(&s->out);
        }
    } else if (s->out_at > s->out.len / 2) {
        memmove(s->out.data, s->out.data + s->out_at, s->out.len - s->out_at);
        for (uint32_t i = 0; i < s->fd_out_count; i++) {
            s->fds_out[i].at -= s->out_at;
        }
        s->out.len -= s->out_at;
        s->out_at = 0;
    }
}

mq_code mq_stream_flush(mq_stream *s, mq_error *err)
{
    while (mq_stream_is_waiting(s)) {
        size_t end = s->out.len;
        int fd = -1;
        if (s->fd_out_count > 0) {
            bool is_due = s->fds_out[0].at == s->out_at;
            fd = is_due ? s->fds_out[0].fd : -1;
            /* Stop before the next descriptor: it must go with its own frame's first byte. */
            if (!is_due) {
                end = s->fds_out[0].at;
            } else if (s->fd_out_count > 1) {
                end = s->fds_out[1].at;
            }
        }
        ssize_t n = send_some(s->fd, mq_span_of(s->out.data + s->out_at, end - s->out_at),
                              (mq_span){0}, fd);
        if (n < 0) {
            return mq_fail(err, MQ_E_IO, "stream: %s", strerror(errno));
        }
        if (n == 0) {
            break;
        }
        if (fd >= 0) {
            close(fd);
            s->fd_out_count--;
            memmove(&s->fds_out[0], &s->fds_out[1], s->fd_out_count * sizeof s->fds_out[0]);
        }
        s->out_at += (size_t)n;
    }
    out_tidy(s);
    return MQ_OK;
}

static mq_code enqueue(mq_stream *s, mq_span head, mq_span rest, size_t sent, int pass_fd,
                       mq_error *err)
{
    if (pass_fd >= 0) {
        int copy = s->fd_out_count < MQ_STREAM_FDS_MAX ? fcntl(pass_fd, F_DUPFD_CLOEXEC, 0) : -1;
        if (copy < 0) {
            return mq_fail(err, MQ_E_LIMIT, "stream: %u descriptors wait already", s->fd_out_count);
        }
        s->fds_out[s->fd_out_count].at = s->out.len;
        s->fds_out[s->fd_out_count++].fd = copy;
    }
    size_t skip = mq_min_size(sent, head.len);
    sent -= skip;
    mq_buf_add(&s->out, head.data + skip, head.len - skip);
    if (rest.len > sent) {
        mq_buf_add(&s->out, rest.data + sent, rest.len - sent);
    }
    return s->out.is_full
               ? mq_fail(err, MQ_E_LIMIT, "stream: more than %zu bytes wait", s->out.limit)
               : MQ_OK;
}

/* Encodes head and body into s->head but for the last field, *rest. */
static mq_code encode(mq_stream *s, mq_frame_type type, const void *message, bool has_fd,
                      mq_span *rest, mq_error *err)
{
    mq_buf_reset(&s->head);
    uint8_t *head = mq_buf_extend(&s->head, MQ_FRAME_HEAD_BYTES);
    if (s->fd < 0 || head == NULL) {
        return mq_fail(err, MQ_E_IO, "stream: closed");
    }
    mq_frame_encode(type, message, &s->head, rest);
    size_t body = s->head.len - MQ_FRAME_HEAD_BYTES + rest->len;
    if (s->head.is_full || body > MQ_FRAME_BYTES_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "frame %s: %zu bytes; the limit is %d",
                       mq_frame_name((uint8_t)type), body, MQ_FRAME_BYTES_MAX);
    }
    head = s->head.data;
    for (int i = 0; i < 4; i++) {
        head[i] = (uint8_t)(body >> (8 * i));
    }
    head[4] = (uint8_t)type;
    head[5] = has_fd;
    head[6] = head[7] = 0;
    return MQ_OK;
}

mq_code mq_stream_send(mq_stream *s, mq_frame_type type, const void *message, int pass_fd,
                       mq_error *err)
{
    mq_span rest;
    mq_code code = encode(s, type, message, pass_fd >= 0, &rest, err);
    if (code != MQ_OK) {
        return code;
    }
    ssize_t n = 0;
    if (!mq_stream_is_waiting(s)) {
        n = send_some(s->fd, mq_buf_span(&s->head), rest, pass_fd);
        if (n < 0) {
            return mq_fail(err, MQ_E_IO, "stream: %s", strerror(errno));
        }
    }
    if ((size_t)n == s->head.len + rest.len) {
        return MQ_OK;
    }
    return enqueue(s, mq_buf_span(&s->head), rest, (size_t)n, n > 0 ? -1 : pass_fd, err);
}

mq_code mq_stream_queue(mq_stream *s, mq_frame_type type, const void *message, mq_error *err)
{
    mq_span rest;
    mq_code code = encode(s, type, message, false, &rest, err);
    return code != MQ_OK ? code : enqueue(s, mq_buf_span(&s->head), rest, 0, -1, err);
}

/* Room for the rest of the frame that has begun, or for one ordinary read. */
static size_t read_room(const mq_stream *s)
{
    size_t have = s->in.len - s->in_at;
    if (have < MQ_FRAME_HEAD_BYTES) {
        return READ_BYTES;
    }
    const uint8_t *h = s->in.data + s->in_at;
    size_t body = (size_t)h[0] | (size_t)h[1] << 8 | (size_t)h[2] << 16 | (size_t)h[3] << 24;
    size_t whole = mq_min_size(body, MQ_FRAME_BYTES_MAX) + MQ_FRAME_HEAD_BYTES;
    return whole > have ? mq_max_size(whole - have, READ_BYTES) : READ_BYTES;
}

static mq_code take_fds(mq_stream *s, struct msghdr *msg, mq_error *err)
{
    bool is_lost = (msg->msg_flags & MSG_CTRUNC) != 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (s->fd_in_count < MQ_STREAM_FDS_MAX) {
                s->fds_in[s->fd_in_count++] = fd;
            } else {
                close(fd);
                is_lost = true;
            }
        }
    }
    return is_lost ? mq_fail(err, MQ_E_IO, "stream: more descriptors than the limit of %d",
                             MQ_STREAM_FDS_MAX)
                   : MQ_OK;
}

mq_code mq_stream_read(mq_stream *s, mq_error *err)
{
    if (s->fd < 0) {
        return mq_fail(err, MQ_E_IO, "stream: closed");
    }
    if (s->in_at > 0) {
        memmove(s->in.data, s->in.data + s->in_at, s->in.len - s->in_at);
        s->in.len -= s->in_at;
        s->in_at = 0;
        if (s->in.len == 0 && s->in.capacity > KEEP_BYTES) {
            mq_buf_release(&s->in);
        }
    }
    size_t before = s->in.len;
    size_t room = read_room(s);
    uint8_t *at = mq_buf_extend(&s->in, room);
    if (at == NULL) {
        return mq_fail(err, MQ_E_IO, "stream: no memory for %zu bytes", room);
    }
    s->in.len = before;
    struct iovec iov = {at, room};
    _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(8 * sizeof(int))];
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(s->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) {
        bool is_idle = errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
        return mq_fail(err, is_idle ? MQ_E_BUSY : MQ_E_IO, "stream: %s", strerror(errno));
    }
    if (n == 0) {
        return mq_fail(err, MQ_E_IO, "stream: the other end is gone");
    }
    s->in.len = before + (size_t)n;
    return take_fds(s, &msg, err);
}

mq_code mq_stream_next(mq_stream *s, mq_frame *out, mq_error *err)
{
    size_t have = s->in.len - s->in_at;
    *out = (mq_frame){.fd = -1};
    if (have < MQ_FRAME_HEAD_BYTES) {
        return MQ_E_BUSY;
    }
    const uint8_t *h = s->in.data + s->in_at;
    size_t body = (size_t)h[0] | (size_t)h[1] << 8 | (size_t)h[2] << 16 | (size_t)h[3] << 24;
    if (body > MQ_FRAME_BYTES_MAX || h[5] > 1) {
        return mq_fail(err, MQ_E_FORMAT, "frame %s: %zu bytes and %u descriptors; limits %d and 1",
                       mq_frame_name(h[4]), body, h[5], MQ_FRAME_BYTES_MAX);
    }
    if (have < MQ_FRAME_HEAD_BYTES + body) {
        return MQ_E_BUSY;
    }
    out->type = h[4];
    out->body = mq_span_of(h + MQ_FRAME_HEAD_BYTES, body);
    if (h[5] == 1) {
        if (s->fd_in_count == 0) {
            return mq_fail(err, MQ_E_FORMAT, "frame %s: its descriptor is missing",
                           mq_frame_name(h[4]));
        }
        out->fd = s->fds_in[0];
        s->fd_in_count--;
        memmove(&s->fds_in[0], &s->fds_in[1], s->fd_in_count * sizeof s->fds_in[0]);
    }
    s->in_at += MQ_FRAME_HEAD_BYTES + body;
    return MQ_OK;
}

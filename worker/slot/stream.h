/* Frames over a stream socket that never blocks: reads what is there, queues what does not fit.
 * Used by both ends of a slot's socketpair and by the Unix connections of the gang plane. One
 * thread. */
#ifndef MQ_WORKER_SLOT_STREAM_H
#define MQ_WORKER_SLOT_STREAM_H

#include "worker/slot/protocol.h"

enum { MQ_STREAM_FDS_MAX = 32 };

typedef struct mq_frame {
    uint8_t type;
    int fd;       /* -1, or owned by whoever takes the frame */
    mq_span body; /* borrowed until the next mq_stream_read */
} mq_frame;

typedef struct mq_stream {
    int fd; /* owned; -1 = closed */
    mq_buf in;
    size_t in_at; /* bytes of `in` that were taken */
    int fds_in[MQ_STREAM_FDS_MAX];
    uint32_t fd_in_count;
    mq_buf out; /* waiting bytes */
    size_t out_at;
    struct {
        size_t at; /* in out: goes with this byte */
        int fd;    /* owned until sent */
    } fds_out[MQ_STREAM_FDS_MAX];
    uint32_t fd_out_count;
    mq_buf head; /* scratch for encoding */
} mq_stream;

/* Takes fd and makes it non-blocking. out_limit: most bytes that may wait. */
void mq_stream_init(mq_stream *s, int fd, size_t out_limit);

/* Closes everything, also descriptors that wait. */
void mq_stream_release(mq_stream *s);

/* Sends or queues a frame. pass_fd: -1, or a descriptor to pass, duplicated here (the caller keeps
 * its own). MQ_E_LIMIT when too much waits already, MQ_E_IO when the other end is gone. */
MQ_MUST_USE mq_code mq_stream_send(mq_stream *s, mq_frame_type type, const void *message,
                                   int pass_fd, mq_error *err);

/* Queues a frame to go out with the next flush, together with others. */
MQ_MUST_USE mq_code mq_stream_queue(mq_stream *s, mq_frame_type type, const void *message,
                                    mq_error *err);

/* Sends what waits as far as it goes. */
MQ_MUST_USE mq_code mq_stream_flush(mq_stream *s, mq_error *err);

/* True while bytes wait to be sent: poll for POLLOUT. */
static inline bool mq_stream_is_waiting(const mq_stream *s)
{
    return s->out.len > s->out_at;
}

/* Reads once. MQ_OK: something came; MQ_E_BUSY: nothing there; MQ_E_IO: end or error. */
MQ_MUST_USE mq_code mq_stream_read(mq_stream *s, mq_error *err);

/* Next whole frame: MQ_OK; MQ_E_BUSY: not yet; MQ_E_FORMAT: broken framing, close it. */
MQ_MUST_USE mq_code mq_stream_next(mq_stream *s, mq_frame *out, mq_error *err);

#endif

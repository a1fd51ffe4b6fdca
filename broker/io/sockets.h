/* The broker's two ROUTER sockets. A connection is a number made from the 5-byte identity that
 * libzmq gives each peer; peers that chose their own identity are dropped, since any peer could
 * then take another's place. A send that succeeds is no delivery (ZeroMQ loses what a dead peer had
 * not read): nothing here is ever counted as one. */
#ifndef MQ_BROKER_IO_SOCKETS_H
#define MQ_BROKER_IO_SOCKETS_H

#include <zmq.h>

#include "shared/wire/messages.h"

typedef enum mq_side_name { MQ_FRONT = 1, MQ_BACK = 2 } mq_side_name;

typedef struct mq_side {
    void *socket;
    mq_side_name name;
    char endpoint[256]; /* as really bound */
    bool is_drained;    /* the last call on it was a receive that found nothing (mq_poll_item) */
    uint64_t received, sent, dropped, unroutable;
} mq_side;

/* One received message; header and payload are valid until mq_frames_release. */
typedef struct mq_frames {
    uint64_t conn;
    uint32_t shard; /* that it is for */
    mq_command command;
    mq_code bad; /* MQ_OK, or why the message is refused (version) */
    mq_error err;
    mq_span header, payload;
    zmq_msg_t header_msg, payload_msg;
} mq_frames;

/* Binds. hwm: messages queued per peer; frame_bytes_max: larger frames close the connection. */
MQ_MUST_USE mq_code mq_side_open(mq_side *side, mq_side_name name, void *context,
                                 const char *endpoint, int hwm, int64_t frame_bytes_max,
                                 mq_error *err);
void mq_side_close(mq_side *side);

/* True and *out filled when a message was there; malformed ones are dropped and counted on the way.
 * One whose version is not ours is handed out with `bad` set, so that it can be told. */
bool mq_side_receive(mq_side *side, mq_frames *out);
void mq_frames_release(mq_frames *frames);

/* MQ_OK; MQ_E_NOT_FOUND: no such peer; MQ_E_BUSY: its queue is full. Never waits. Copies. */
mq_code mq_side_send(mq_side *side, uint64_t conn, mq_command command, mq_span header,
                     mq_span payload);

/* Which side a connection is on. */
static inline mq_side_name mq_conn_side(uint64_t conn)
{
    return (mq_side_name)(conn >> 32);
}

#endif

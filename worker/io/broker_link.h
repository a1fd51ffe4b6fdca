/* The DEALER socket to the current broker: connects, sends messages of the table, receives them as
 * frames. Nothing that is sent counts as delivered; the session sends again. */
#ifndef MQ_WORKER_IO_BROKER_LINK_H
#define MQ_WORKER_IO_BROKER_LINK_H

#include <zmq.h>

#include "shared/wire/messages.h"

typedef struct mq_broker_link {
    void *context; /* borrowed */
    void *socket;  /* NULL = not connected */
    void *monitor; /* tells of the connection's ups and downs */
    uint32_t monitor_number;
    uint32_t shard;     /* that its messages are for */
    char endpoint[256]; /* that it was last connected to */
    bool is_up;     /* as the monitor said: else nothing is sent that a later broker would get */
    mq_buf header;  /* scratch for encoding */
    mq_arena arena; /* lists of the message being handled */
    zmq_msg_t frames[3];
    bool has_frames;
    bool is_drained, is_monitor_drained; /* mq_poll_item */
    bool is_ready;                       /* something may be there to receive */
    uint64_t unsent;                     /* messages that did not fit or had no connection */
    uint64_t refused;                    /* messages that broke the protocol */
} mq_broker_link;

typedef struct mq_broker_message {
    mq_command command;
    mq_span header;
    mq_span payload;
} mq_broker_message;

typedef enum mq_broker_link_change {
    MQ_BROKER_LINK_SAME,
    MQ_BROKER_LINK_UP,
    MQ_BROKER_LINK_GONE
} mq_broker_link_change;

void mq_broker_link_init(mq_broker_link *link, void *context);
void mq_broker_link_release(mq_broker_link *link);

/* Drops the connection and begins one to endpoint. linger of what was not sent: none. */
MQ_MUST_USE mq_code mq_broker_link_connect(mq_broker_link *link, const char *endpoint,
                                           mq_error *err);

/* Sends one message; false (and counted) when there is no connection or no room. */
bool mq_broker_link_send(mq_broker_link *link, mq_command command, const void *message,
                         mq_span payload);

/* Next message: MQ_OK (spans and lists live until the next call), or MQ_E_BUSY when there is none.
 * Messages that break the protocol are dropped and counted. */
MQ_MUST_USE mq_code mq_broker_link_receive(mq_broker_link *link, mq_broker_message *out);

/* Next change of the connection; to be called until it says SAME. */
mq_broker_link_change mq_broker_link_event(mq_broker_link *link);

/* Before the last release: gives what was sent up to ms to leave. */
void mq_broker_link_linger(mq_broker_link *link, int ms);

#endif

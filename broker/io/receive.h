/* A message in work: what receive.c and results.c share. Private to them. */
#ifndef MQ_BROKER_IO_RECEIVE_H
#define MQ_BROKER_IO_RECEIVE_H

#include "broker/io/broker.h"

typedef struct mq_incoming {
    mq_broker *b;
    uint64_t conn;
    mq_command command;
    mq_span header, payload;
} mq_incoming;

/* Decodes into *message (lists from the broker's arena, which it empties first); tells the sender
 * what is wrong. */
bool mq_incoming_decode(const mq_incoming *m, void *message);

/* Takes the next `len` bytes of a payload. */
bool mq_incoming_slice(mq_span *rest, uint64_t len, mq_span *out);

/* True when the items' lengths add up to the payload; else the sender is told. */
bool mq_incoming_fits(const mq_incoming *m, uint64_t rid, uint64_t sum, bool is_overflow);

/* Feeds the core, when there is one; else the input's body is released. */
bool mq_incoming_step(mq_broker *b, mq_input *in);

/* results.c */
void mq_incoming_result(const mq_incoming *m, mq_frames *frames);
void mq_incoming_checkpoint(const mq_incoming *m, mq_frames *frames);

#endif

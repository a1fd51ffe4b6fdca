/* The value of a finished job in a done bucket or in dead: one byte 'i' (result inside) or 'r'
 * (result under its own key), four bytes length of the record (little-endian), the record, then the
 * result's bytes or the token of its key. */
#ifndef MQ_STORE_VALUE_H
#define MQ_STORE_VALUE_H

#include "shared/base/arena.h"
#include "shared/base/error.h"

enum { MQ_VALUE_HEAD_BYTES = 5 };

typedef struct mq_value {
    mq_span record;
    mq_span result; /* when !is_large */
    mq_span token;  /* when is_large */
    bool is_large;
} mq_value;

/* Packed bytes, in the arena; empty when there was no room. */
mq_span mq_value_pack(mq_arena *arena, const mq_value *value);

/* Spans borrow from bytes. MQ_E_FORMAT for what mq_value_pack did not make. */
MQ_MUST_USE mq_code mq_value_read(mq_value *value, mq_span bytes, mq_error *err);

#endif

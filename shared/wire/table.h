/* messages.def as data: one shape per message and item, for the encoder, the decoder, the tests and
 * the protocol page. Rows never change at run time. */
#ifndef MQ_WIRE_TABLE_H
#define MQ_WIRE_TABLE_H

#include "shared/wire/messages.h"

typedef enum mq_field_type {
    MQ_FIELD_U64,
    MQ_FIELD_I64,
    MQ_FIELD_BOOL,
    MQ_FIELD_TEXT,
    MQ_FIELD_TEXTS,
    MQ_FIELD_LIST,
} mq_field_type;

enum { MQ_FIELDS_MAX = 64, MQ_COMMAND_MAX = 63, MQ_KEY_BYTES_MAX = 15 };

typedef struct mq_shape mq_shape;

/* A key as it stands on the wire: MessagePack's short text. */
typedef struct mq_wire_key {
    uint8_t head; /* 0xa0 | length */
    char text[MQ_KEY_BYTES_MAX];
} mq_wire_key;

typedef struct mq_field {
    mq_wire_key wire;
    uint64_t mask; /* of wire's first 8 bytes as a little-endian word: those that the key has */
    const char *key;
    uint32_t key_len; /* bytes, at most MQ_KEY_BYTES_MAX */
    mq_field_type type;
    uint32_t offset;       /* of the field in its struct */
    uint32_t word_offset;  /* of the struct's word that tells whether there is anything to write: */
    uint64_t word_mask;    /* these bits of it, read as little-endian, are not all 0 */
    uint32_t count_offset; /* texts and lists: of <field>_count */
    uint32_t count_max;    /* texts and lists */
    uint32_t text_max;     /* bytes; text and texts */
    const mq_shape *item;  /* list */
} mq_field;

struct mq_shape {
    const char *name;
    const char *from; /* "client,worker": who may send it; empty for items */
    const char *to;
    const mq_field *fields;
    uint32_t field_count;
    uint32_t size; /* bytes of the struct */
};

/* Shape of a command, or NULL when there is no such message. */
const mq_shape *mq_wire_shape(mq_command command);

#endif

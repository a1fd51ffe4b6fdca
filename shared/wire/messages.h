/* The structs of messages.def, their encoder and their checked decoder. */
#ifndef MQ_WIRE_MESSAGES_H
#define MQ_WIRE_MESSAGES_H

#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/base/error.h"

enum {
    MQ_WIRE_VERSION = 1,
    MQ_HEADER_BYTES_MAX = 1 << 20,   /* MessagePack header of one message */
    MQ_PAYLOAD_BYTES_MAX = 64 << 20, /* payload frame */
    MQ_WIRE_DEPTH_MAX = 8,
    MQ_WIRE_NODES_MAX = 65536,
};

/* Structs: mq_msg_<name> for messages and items alike. Spans point into the decoded frame (or at
 * what the sender keeps until encoding); lists live in the arena given to mq_wire_decode. */
#define MQ_MSG(name, command, from, to)                                                            \
    typedef struct mq_msg_##name mq_msg_##name;                                                    \
    struct mq_msg_##name {
#define MQ_ITEM(name)                  MQ_MSG(name, 0, "", "")
#define MQ_U64(name, field, key)       uint64_t field;
#define MQ_I64(name, field, key)       int64_t field;
#define MQ_BOOL(name, field, key)      bool field;
#define MQ_TEXT(name, field, key, max) mq_span field;
#define MQ_TEXTS(name, field, key, count, max)                                                     \
    mq_span *field;                                                                                \
    uint32_t field##_count;
#define MQ_LIST(name, field, key, item, count)                                                     \
    mq_msg_##item *field;                                                                          \
    uint32_t field##_count;
#define MQ_END(name)                                                                               \
    }                                                                                              \
    ;
#include "shared/wire/messages.def"
#undef MQ_MSG
#undef MQ_ITEM
#undef MQ_U64
#undef MQ_I64
#undef MQ_BOOL
#undef MQ_TEXT
#undef MQ_TEXTS
#undef MQ_LIST
#undef MQ_END

/* Command numbers: MQ_CMD_<name>; items have none that is ever sent. */
typedef enum mq_command {
    MQ_CMD_none = 0,
#define MQ_MSG(name, command, from, to) MQ_CMD_##name = command,
#define MQ_ITEM(name)
#define MQ_U64(name, field, key)
#define MQ_I64(name, field, key)
#define MQ_BOOL(name, field, key)
#define MQ_TEXT(name, field, key, max)
#define MQ_TEXTS(name, field, key, count, max)
#define MQ_LIST(name, field, key, item, count)
#define MQ_END(name)
#include "shared/wire/messages.def"
#undef MQ_MSG
#undef MQ_ITEM
#undef MQ_U64
#undef MQ_I64
#undef MQ_BOOL
#undef MQ_TEXT
#undef MQ_TEXTS
#undef MQ_LIST
#undef MQ_END
} mq_command;

/* First frame of a message: "MQ", version, command. */
void mq_wire_head(mq_command command, uint8_t out[4]);

/* The same for a message to a shard: 4 bytes for shard 0, 6 for others. Returns how many. */
size_t mq_wire_head_to(mq_command command, uint32_t shard, uint8_t out[6]);

/* Shard that a first frame names; 0 when it names none. */
uint32_t mq_wire_shard(mq_span frame);

/* Command of a first frame; MQ_E_FORMAT when it is not one of ours, MQ_E_VERSION for another
 * version (the text names both). */
MQ_MUST_USE mq_code mq_wire_command(mq_span frame, mq_command *out, mq_error *err);

/* Name of a command ("submit"), "unknown" otherwise. */
const char *mq_command_name(mq_command command);

/* Appends the header of message `command` from its struct. Zero, false and empty fields are left
 * out. A text or list beyond its limit is our own bug (asserted); a full buffer is MQ_E_LIMIT. */
MQ_MUST_USE mq_code mq_wire_encode(mq_command command, const void *message, mq_buf *out,
                                   mq_error *err);

/* A message that grows item by item: its last field is a list (submitted, done, job, verdict ...).
 * Items are written as they come, nothing is kept of them. */
typedef struct mq_wire_list {
    const struct mq_shape *item;
    uint32_t count, count_max;
    size_t count_at; /* in the buffer, which is the caller's */
} mq_wire_list;

/* Empties out and begins message `command` in it; message: its other fields (the list in it is not
 * looked at). */
MQ_MUST_USE bool mq_wire_list_begin(mq_wire_list *list, mq_command command, const void *message,
                                    mq_buf *out);
/* Adds one item. False: it does not fit any more, the header is as it was before. */
MQ_MUST_USE bool mq_wire_list_add(mq_wire_list *list, const void *item, mq_buf *out);
/* Ends it: out is a whole header now. */
void mq_wire_list_end(const mq_wire_list *list, mq_buf *out);

/* Reads a header into the struct of `command` (zeroed first). Never trusts a length: depth, nodes,
 * text and list limits are checked, duplicate keys, trailing bytes, ext types and wrong types
 * refused with the key's name. Lists are taken from the arena. Spans borrow from `header`. */
MQ_MUST_USE mq_code mq_wire_decode(mq_command command, mq_span header, void *message,
                                   mq_arena *arena, mq_error *err);

#endif

/* The rows of messages.def as constant tables. Nothing but data and its lookup. */
#include "shared/wire/table.h"

/* The lowest `bytes` bytes of a word. */
#define MASK(bytes) ((bytes) >= 8 ? UINT64_MAX : (UINT64_C(1) << (8 * ((bytes)&7))) - 1)

/* tested, bytes: the part of the field that is 0 when it is absent (a count, a length, the value).
 * It is looked at as part of the aligned word that it stands in. */
#define ROW(name, text, kind, field, tested, bytes_tested, count_at, counts, bytes, shape)         \
    {.wire = {0xa0 | (sizeof(text) - 1), text},                                                    \
     .mask = MASK(sizeof(text)),                                                                   \
     .key = (text),                                                                                \
     .key_len = sizeof(text) - 1,                                                                  \
     .type = (kind),                                                                               \
     .offset = offsetof(mq_msg_##name, field),                                                     \
     .word_offset = offsetof(mq_msg_##name, tested) & ~(size_t)7,                                  \
     .word_mask = MASK(bytes_tested) << 8 * (offsetof(mq_msg_##name, tested) & 7),                 \
     .count_offset = (count_at),                                                                   \
     .count_max = (counts),                                                                        \
     .text_max = (bytes),                                                                          \
     .item = (shape)},

/* Items stand above the messages that hold them, so one pass builds everything. */
#define MQ_MSG(name, command, from_, to_)                                                          \
    static const char from_of_##name[] = from_;                                                    \
    static const char to_of_##name[] = to_;                                                        \
    static const mq_field fields_##name[] = {
#define MQ_ITEM(name)             MQ_MSG(name, 0, "", "")
#define MQ_U64(name, field, key)  ROW(name, key, MQ_FIELD_U64, field, field, 8, 0, 0, 0, NULL)
#define MQ_I64(name, field, key)  ROW(name, key, MQ_FIELD_I64, field, field, 8, 0, 0, 0, NULL)
#define MQ_BOOL(name, field, key) ROW(name, key, MQ_FIELD_BOOL, field, field, 1, 0, 0, 0, NULL)
#define MQ_TEXT(name, field, key, max)                                                             \
    ROW(name, key, MQ_FIELD_TEXT, field, field.len, sizeof(size_t), 0, 0, max, NULL)
#define MQ_TEXTS(name, field, key, count, max)                                                     \
    ROW(name, key, MQ_FIELD_TEXTS, field, field##_count, 4,                                        \
        offsetof(mq_msg_##name, field##_count), count, max, NULL)
#define MQ_LIST(name, field, key, item, count)                                                     \
    ROW(name, key, MQ_FIELD_LIST, field, field##_count, 4, offsetof(mq_msg_##name, field##_count), \
        count, 0, &shape_##item)
#define MQ_END(name_)                                                                              \
    }                                                                                              \
    ;                                                                                              \
    _Static_assert(sizeof fields_##name_ / sizeof fields_##name_[0] <= MQ_FIELDS_MAX,              \
                   "a message has at most 64 fields");                                             \
    _Static_assert(sizeof(mq_msg_##name_) % 8 == 0, "read in words");                              \
    static const mq_shape shape_##name_ = {                                                        \
        .name = #name_,                                                                            \
        .from = from_of_##name_,                                                                   \
        .to = to_of_##name_,                                                                       \
        .fields = fields_##name_,                                                                  \
        .field_count = sizeof fields_##name_ / sizeof fields_##name_[0],                           \
        .size = sizeof(mq_msg_##name_),                                                            \
    };
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

static const mq_shape *const shapes[MQ_COMMAND_MAX + 1] = {
#define MQ_MSG(name, command, from, to) [command] = &shape_##name,
#define MQ_ITEM(name)
#define MQ_U64(name, field, key)
#define MQ_I64(name, field, key)
#define MQ_BOOL(name, field, key)
#define MQ_TEXT(name, field, key, max)
#define MQ_TEXTS(name, field, key, count, max)
#define MQ_LIST(name, field, key, item, count)
#define MQ_END(name)
#include "shared/wire/messages.def"
};

const mq_shape *mq_wire_shape(mq_command command)
{
    return (unsigned)command <= MQ_COMMAND_MAX ? shapes[command] : NULL;
}

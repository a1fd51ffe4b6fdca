/* Packs and unpacks the bodies of slot.def. Pure; knows bytes and the table, no sockets. */
#include "worker/slot/protocol.h"

#include "shared/base/assert.h"
#include "shared/base/math.h"

typedef enum field_kind { FIELD_END = 0, FIELD_U64, FIELD_TEXT, FIELD_REST } field_kind;

typedef struct field {
    field_kind kind;
    uint32_t max;
    size_t offset; /* in the struct */
    const char *name;
} field;

typedef struct layout {
    const char *name;
    size_t size; /* of the struct */
    field fields[MQ_FRAME_FIELDS_MAX];
} layout;

static const layout layouts[256] = {
#define MQ_FRAME(name, type, fds)       [type] = {#name, sizeof(mq_slot_##name), {
#define MQ_FRAME_U64(name, field)       {FIELD_U64, 0, offsetof(mq_slot_##name, field), #field},
#define MQ_FRAME_TEXT(name, field, max) {FIELD_TEXT, max, offsetof(mq_slot_##name, field), #field},
#define MQ_FRAME_REST(name, field)      {FIELD_REST, 0, offsetof(mq_slot_##name, field), #field},
#define MQ_FRAME_END(name)                                                                         \
    {                                                                                              \
        FIELD_END, 0, 0, NULL                                                                      \
    }                                                                                              \
    }                                                                                              \
    }                                                                                              \
    ,
#include "worker/slot/slot.def"
#undef MQ_FRAME
#undef MQ_FRAME_U64
#undef MQ_FRAME_TEXT
#undef MQ_FRAME_REST
#undef MQ_FRAME_END
};

static void put_le(uint8_t *at, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t get_le(const uint8_t *at, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

const char *mq_frame_name(uint8_t type)
{
    return layouts[type].name == NULL ? "unknown" : layouts[type].name;
}

void mq_frame_encode(mq_frame_type type, const void *message, mq_buf *out, mq_span *rest)
{
    const layout *l = &layouts[type];
    const uint8_t *base = message;
    uint8_t number[8];
    MQ_ASSERT(l->name != NULL);
    *rest = (mq_span){0};
    for (const field *f = l->fields; f->kind != FIELD_END; f++) {
        if (f->kind == FIELD_U64) {
            uint64_t value;
            memcpy(&value, base + f->offset, sizeof value);
            put_le(number, value, 8);
            mq_buf_add(out, number, 8);
            continue;
        }
        mq_span text;
        memcpy(&text, base + f->offset, sizeof text);
        if (f->kind == FIELD_REST) {
            *rest = text;
            continue;
        }
        MQ_ASSERT(text.len <= f->max);
        put_le(number, text.len, 4);
        mq_buf_add(out, number, 4);
        mq_buf_add_span(out, text);
    }
}

mq_code mq_frame_decode(uint8_t type, mq_span body, void *message, mq_error *err)
{
    const layout *l = &layouts[type];
    uint8_t *base = message;
    size_t at = 0;
    if (l->name == NULL) {
        return mq_fail(err, MQ_E_FORMAT, "frame type %u is not known", type);
    }
    memset(message, 0, l->size);
    for (const field *f = l->fields; f->kind != FIELD_END; f++) {
        size_t left = body.len - at;
        size_t need = f->kind == FIELD_U64 ? 8 : f->kind == FIELD_TEXT ? 4 : 0;
        if (left < need) {
            return mq_fail(err, MQ_E_FORMAT, "frame %s: ends inside %s", l->name, f->name);
        }
        if (f->kind == FIELD_U64) {
            uint64_t value = get_le(body.data + at, 8);
            memcpy(base + f->offset, &value, sizeof value);
            at += 8;
            continue;
        }
        size_t len = left;
        if (f->kind == FIELD_TEXT) {
            len = get_le(body.data + at, 4);
            at += 4;
            if (len > f->max || len > left - 4) {
                return mq_fail(err, MQ_E_FORMAT, "frame %s: %s of %zu bytes; the limit is %zu",
                               l->name, f->name, len, mq_min_size(f->max, left - 4));
            }
        }
        mq_span text = mq_span_of(len == 0 ? NULL : body.data + at, len);
        memcpy(base + f->offset, &text, sizeof text);
        at += len;
    }
    if (at != body.len) {
        return mq_fail(err, MQ_E_FORMAT, "frame %s: %zu bytes too many", l->name, body.len - at);
    }
    return MQ_OK;
}

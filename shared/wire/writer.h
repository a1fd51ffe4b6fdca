/* Writes MessagePack into an mq_buf: a thin layer over msgpack-c's packer. What does not fit sets
 * the buffer's sticky is_full flag, so a whole record is written first and checked once at the end.
 * Not thread-safe. */
#ifndef MQ_WIRE_WRITER_H
#define MQ_WIRE_WRITER_H

#include <endian.h>
#include <msgpack/pack.h>

#include "shared/base/buf.h"

typedef struct mq_writer {
    msgpack_packer packer;
    mq_buf *buf; /* borrowed; written at its end */
} mq_writer;

/* msgpack-c's write hook; data is the mq_buf. */
static inline int mq_writer_append(void *data, const char *bytes, size_t len)
{
    mq_buf *buf = data;
    if (len <= buf->capacity - buf->len && !buf->is_full) {
        memcpy(buf->data + buf->len, bytes, len);
        buf->len += len;
        return 0;
    }
    return mq_buf_add(buf, bytes, len) ? 0 : -1;
}

static inline void mq_writer_init(mq_writer *w, mq_buf *buf)
{
    w->buf = buf;
    msgpack_packer_init(&w->packer, buf, mq_writer_append);
}

/* Most values are small numbers and short texts; where there is room they are written in place, in
 * the bytes that msgpack-c would choose, without its call for each piece. */
static inline uint8_t *mq_writer_room(mq_writer *w, size_t len)
{
    mq_buf *buf = w->buf;
    return len <= buf->capacity - buf->len && !buf->is_full ? buf->data + buf->len : NULL;
}

/* Copies a few bytes without a call: most texts are ids, names and verdicts. */
static inline void mq_writer_copy(uint8_t *to, const uint8_t *from, size_t len)
{
    if (len > 32 || len < 8) {
        if (len > 0) {
            memcpy(to, from, len);
        }
    } else if (len >= 16) {
        memcpy(to, from, 16);
        memcpy(to + len - 16, from + len - 16, 16);
    } else {
        memcpy(to, from, 8);
        memcpy(to + len - 8, from + len - 8, 8);
    }
}

/* The first len bytes of 16 that are packed already. */
static inline void mq_write_raw16(mq_writer *w, const void *bytes, size_t len)
{
    uint8_t *at = mq_writer_room(w, 16);
    if (at == NULL) {
        (void)mq_buf_add(w->buf, bytes, len);
        return;
    }
    memcpy(at, bytes, 16);
    w->buf->len += len;
}

/* Opens a list of count values, or a map of count pairs (key, value, key, value ...). The caller
 * then writes exactly that many. */
static inline void mq_write_array(mq_writer *w, size_t count)
{
    msgpack_pack_array(&w->packer, count);
}

static inline void mq_write_map(mq_writer *w, size_t count)
{
    uint8_t *at = count < 16 ? mq_writer_room(w, 1) : NULL;
    if (at != NULL) {
        at[0] = (uint8_t)(0x80 | count);
        w->buf->len++;
        return;
    }
    msgpack_pack_map(&w->packer, count);
}

/* A number at a place with room for 9 bytes. Returns where it ends. */
static inline uint8_t *mq_writer_u64(uint8_t *at, uint64_t value)
{
    if (value < 128) {
        at[0] = (uint8_t)value;
        return at + 1;
    }
    size_t width = value <= 0xff ? 1 : value <= 0xffff ? 2 : value <= 0xffffffff ? 4 : 8;
    at[0] = (uint8_t)(0xcc + (width > 1) + (width > 2) + (width > 4));
    uint64_t big = htobe64(value << (64 - 8 * width));
    memcpy(at + 1, &big, 8);
    return at + 1 + width;
}

static inline void mq_write_u64(mq_writer *w, uint64_t value)
{
    uint8_t *at = mq_writer_room(w, 9);
    if (at == NULL) {
        msgpack_pack_uint64(&w->packer, value);
        return;
    }
    w->buf->len += (size_t)(mq_writer_u64(at, value) - at);
}

static inline void mq_write_i64(mq_writer *w, int64_t value)
{
    if (value >= 0) {
        mq_write_u64(w, (uint64_t)value);
    } else {
        msgpack_pack_int64(&w->packer, value);
    }
}

static inline void mq_write_f64(mq_writer *w, double value)
{
    msgpack_pack_double(&w->packer, value);
}

static inline void mq_write_bool(mq_writer *w, bool value)
{
    if (value) {
        msgpack_pack_true(&w->packer);
    } else {
        msgpack_pack_false(&w->packer);
    }
}

static inline void mq_write_nil(mq_writer *w)
{
    msgpack_pack_nil(&w->packer);
}

/* Text: MessagePack str. */
static inline void mq_write_text(mq_writer *w, mq_span s)
{
    uint8_t *at = s.len < 256 ? mq_writer_room(w, s.len + 2) : NULL;
    if (at != NULL) {
        size_t head = s.len < 32 ? 1 : 2;
        at[0] = s.len < 32 ? (uint8_t)(0xa0 | s.len) : 0xd9;
        at[1] = (uint8_t)s.len; /* overwritten by a text below 32 bytes */
        mq_writer_copy(at + head, s.data, s.len);
        w->buf->len += head + s.len;
        return;
    }
    msgpack_pack_str(&w->packer, s.len);
    if (s.len > 0) {
        msgpack_pack_str_body(&w->packer, s.data, s.len);
    }
}

/* A literal of at most 31 bytes: inline, so that its length and bytes are constants. */
static inline __attribute__((always_inline)) void mq_write_key(mq_writer *w, const char *key)
{
    size_t len = strlen(key);
    uint8_t *at = mq_writer_room(w, len + 1);
    if (at == NULL) {
        mq_write_text(w, mq_str(key));
        return;
    }
    at[0] = (uint8_t)(0xa0 | len);
    memcpy(at + 1, key, len); /* NOLINT(bugprone-not-null-terminated-result) */
    w->buf->len += len + 1;
}

/* Both in one piece. */
static inline __attribute__((always_inline)) void mq_write_key_u64(mq_writer *w, const char *key,
                                                                   uint64_t value)
{
    size_t len = strlen(key);
    uint8_t *at = mq_writer_room(w, len + 10);
    if (at == NULL) {
        mq_write_key(w, key);
        mq_write_u64(w, value);
        return;
    }
    at[0] = (uint8_t)(0xa0 | len);
    memcpy(at + 1, key, len);
    w->buf->len = (size_t)(mq_writer_u64(at + 1 + len, value) - w->buf->data);
}

/* Raw bytes: MessagePack bin. */
static inline void mq_write_bytes(mq_writer *w, mq_span s)
{
    msgpack_pack_bin(&w->packer, s.len);
    if (s.len > 0) {
        msgpack_pack_bin_body(&w->packer, s.data, s.len);
    }
}

#endif

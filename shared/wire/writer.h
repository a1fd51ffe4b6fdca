/* Writes MessagePack into an mq_buf: a thin layer over msgpack-c's packer. What does not fit sets
 * the buffer's sticky is_full flag, so a whole record is written first and checked once at the end.
 * Not thread-safe. */
#ifndef MQ_WIRE_WRITER_H
#define MQ_WIRE_WRITER_H

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

/* Opens a list of count values, or a map of count pairs (key, value, key, value ...). The caller
 * then writes exactly that many. */
static inline void mq_write_array(mq_writer *w, size_t count)
{
    msgpack_pack_array(&w->packer, count);
}

static inline void mq_write_map(mq_writer *w, size_t count)
{
    msgpack_pack_map(&w->packer, count);
}

static inline void mq_write_u64(mq_writer *w, uint64_t value)
{
    msgpack_pack_uint64(&w->packer, value);
}

static inline void mq_write_i64(mq_writer *w, int64_t value)
{
    msgpack_pack_int64(&w->packer, value);
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
    msgpack_pack_str(&w->packer, s.len);
    if (s.len > 0) {
        msgpack_pack_str_body(&w->packer, s.data, s.len);
    }
}

static inline void mq_write_key(mq_writer *w, const char *key)
{
    mq_write_text(w, mq_str(key));
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

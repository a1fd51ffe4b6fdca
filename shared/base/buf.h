/* Growable byte buffer with a stated maximum; what does not fit sets a sticky flag instead of
 * growing on, so that a run of appends is checked once at the end. Owns its bytes. */
#ifndef MQ_BASE_BUF_H
#define MQ_BASE_BUF_H

#include "shared/base/span.h"

typedef struct mq_buf {
    uint8_t *data; /* owned */
    size_t len;
    size_t capacity;
    size_t limit; /* most bytes it may ever hold */
    bool is_full; /* sticky: an append did not fit or memory ran out */
} mq_buf;

void mq_buf_init(mq_buf *buf, size_t limit);
void mq_buf_release(mq_buf *buf);

/* Empties the buffer, keeps its memory, clears is_full. */
void mq_buf_reset(mq_buf *buf);

/* Each appends all or nothing; false sets is_full. */
bool mq_buf_grow_add(mq_buf *buf, const void *data, size_t len);

static inline bool mq_buf_add(mq_buf *buf, const void *data, size_t len)
{
    if (len == 0 || len > buf->capacity - buf->len || buf->is_full) {
        return mq_buf_grow_add(buf, data, len);
    }
    memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    return true;
}

static inline bool mq_buf_add_span(mq_buf *buf, mq_span s)
{
    return mq_buf_add(buf, s.data, s.len);
}

bool mq_buf_add_str(mq_buf *buf, const char *s);
bool mq_buf_printf(mq_buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Bytes of the UTF-8 sequence that s begins with (shortest form, no surrogates), or 0 when it is
 * none. s is not empty. */
size_t mq_utf8_len(mq_span s);

/* Appends s as a JSON string with quotes; bytes that are not UTF-8 become U+FFFD. */
bool mq_buf_add_json(mq_buf *buf, mq_span s);

/* Makes room for len bytes and returns where to write them (then counted as used), or NULL. */
uint8_t *mq_buf_extend(mq_buf *buf, size_t len);

static inline mq_span mq_buf_span(const mq_buf *buf)
{
    return (mq_span){buf->data, buf->len};
}

#endif

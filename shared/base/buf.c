/* Growable byte buffer; see buf.h. */
#include "shared/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/math.h"

void mq_buf_init(mq_buf *buf, size_t limit)
{
    *buf = (mq_buf){.limit = limit};
}

void mq_buf_release(mq_buf *buf)
{
    free(buf->data);
    *buf = (mq_buf){.limit = buf->limit};
}

void mq_buf_reset(mq_buf *buf)
{
    buf->len = 0;
    buf->is_full = false;
}

uint8_t *mq_buf_extend(mq_buf *buf, size_t len)
{
    size_t need;
    if (buf->is_full || !mq_add_size(buf->len, len, &need) || need > buf->limit) {
        buf->is_full = true;
        return NULL;
    }
    if (need > buf->capacity || buf->data == NULL) {
        size_t capacity = mq_min_size(buf->limit, mq_max_size(need, buf->capacity * 2 + 256));
        uint8_t *data = realloc(buf->data, capacity == 0 ? 1 : capacity);
        if (data == NULL) {
            buf->is_full = true;
            return NULL;
        }
        buf->data = data;
        buf->capacity = capacity;
    }
    uint8_t *at = buf->data + buf->len;
    buf->len = need;
    return at;
}

bool mq_buf_grow_add(mq_buf *buf, const void *data, size_t len)
{
    uint8_t *at = mq_buf_extend(buf, len);
    if (at == NULL) {
        return false;
    }
    if (len > 0) {
        memcpy(at, data, len);
    }
    return true;
}

bool mq_buf_add_str(mq_buf *buf, const char *s)
{
    return mq_buf_add(buf, s, strlen(s));
}

bool mq_buf_printf(mq_buf *buf, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (len < 0) {
        buf->is_full = true;
        return false;
    }
    if ((size_t)len < sizeof text) {
        return mq_buf_add(buf, text, (size_t)len);
    }
    uint8_t *at = mq_buf_extend(buf, (size_t)len + 1);
    if (at == NULL) {
        return false;
    }
    va_start(args, fmt);
    vsnprintf((char *)at, (size_t)len + 1, fmt, args);
    va_end(args);
    buf->len--;
    return true;
}

size_t mq_utf8_len(mq_span s)
{
    uint8_t c = s.data[0];
    size_t n = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : 0;
    if (c >= 0xF0 && c < 0xF5) {
        n = 4;
    }
    if (n == 0 || n > s.len) {
        return 0;
    }
    for (size_t i = 1; i < n; i++) {
        if ((s.data[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    bool is_bad = (c == 0xE0 && s.data[1] < 0xA0) || (c == 0xED && s.data[1] >= 0xA0) ||
                  (c == 0xF0 && s.data[1] < 0x90) || (c == 0xF4 && s.data[1] >= 0x90);
    return is_bad ? 0 : n;
}

bool mq_buf_add_json(mq_buf *buf, mq_span s)
{
    mq_buf_add(buf, "\"", 1);
    size_t i = 0;
    while (i < s.len) {
        uint8_t c = s.data[i];
        size_t n = mq_utf8_len(mq_span_of(s.data + i, s.len - i));
        if (c == '"' || c == '\\') {
            mq_buf_printf(buf, "\\%c", c);
        } else if (c < 0x20) {
            mq_buf_printf(buf, "\\u%04x", c);
        } else if (n == 0) {
            mq_buf_add_str(buf, "\\ufffd");
        } else {
            mq_buf_add(buf, s.data + i, n);
        }
        i += n == 0 ? 1 : n;
    }
    return mq_buf_add(buf, "\"", 1);
}

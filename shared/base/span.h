/* Borrowed bytes and text, passed by value. A span never owns its bytes; it is valid as long as
 * whatever it points into. Text is UTF-8 and not NUL-terminated. */
#ifndef MQ_BASE_SPAN_H
#define MQ_BASE_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct mq_span {
    const uint8_t *data; /* may be NULL when len is 0 */
    size_t len;          /* bytes */
} mq_span;

static inline mq_span mq_span_of(const void *data, size_t len)
{
    return (mq_span){(const uint8_t *)data, len};
}

/* Span over a NUL-terminated string, without the NUL. NULL gives the empty span. */
static inline mq_span mq_str(const char *s)
{
    return (mq_span){(const uint8_t *)s, s == NULL ? 0 : strlen(s)};
}

static inline bool mq_span_eq(mq_span a, mq_span b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static inline bool mq_span_is(mq_span a, const char *s)
{
    return mq_span_eq(a, mq_str(s));
}

/* Copies a span into a fixed text buffer, always NUL-terminated; false when it was cut. */
static inline bool mq_span_copy(mq_span s, char *out, size_t size)
{
    size_t n = s.len < size ? s.len : size - 1;
    if (n > 0) {
        memcpy(out, s.data, n);
    }
    out[n] = '\0';
    return n == s.len;
}

/* For printf: printf("%.*s", MQ_SPAN_ARG(s)). */
#define MQ_SPAN_ARG(s)                                                                             \
    (int)((s).len), (const char *)((s).data != NULL ? (s).data : (const uint8_t *)"")

#endif

/* Checks JSON texts; see json.h. Must not know what they say. */
#include "shared/base/json.h"

#include <string.h>

#include "shared/base/buf.h"

typedef struct reader {
    mq_span rest;
} reader;

static int peek(const reader *r)
{
    return r->rest.len == 0 ? -1 : r->rest.data[0];
}

static void skip(reader *r, size_t n)
{
    r->rest = mq_span_of(r->rest.data + n, r->rest.len - n);
}

static void blank(reader *r)
{
    while (peek(r) == ' ' || peek(r) == '\t' || peek(r) == '\n' || peek(r) == '\r') {
        skip(r, 1);
    }
}

static bool take(reader *r, char c)
{
    bool is_there = peek(r) == c;
    skip(r, is_there ? 1 : 0);
    return is_there;
}

static bool take_word(reader *r, const char *word)
{
    size_t n = strlen(word);
    bool is_there = r->rest.len >= n && memcmp(r->rest.data, word, n) == 0;
    skip(r, is_there ? n : 0);
    return is_there;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(int c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool digits(reader *r)
{
    bool is_any = is_digit(peek(r));
    while (is_digit(peek(r))) {
        skip(r, 1);
    }
    return is_any;
}

static bool number(reader *r)
{
    (void)take(r, '-');
    if (!take(r, '0') && !digits(r)) {
        return false;
    }
    if (take(r, '.') && !digits(r)) {
        return false;
    }
    if (take(r, 'e') || take(r, 'E')) {
        (void)(take(r, '+') || take(r, '-'));
        return digits(r);
    }
    return true;
}

/* Behind a backslash. */
static bool escape(reader *r)
{
    int c = peek(r);
    if (c < 0 || strchr("\"\\/bfnrtu", c) == NULL || c == 0) {
        return false;
    }
    skip(r, 1);
    for (int i = 0; c == 'u' && i < 4; i++) {
        if (!is_hex(peek(r))) {
            return false;
        }
        skip(r, 1);
    }
    return true;
}

static bool string(reader *r)
{
    if (!take(r, '"')) {
        return false;
    }
    while (peek(r) >= 0x20) {
        size_t n = mq_utf8_len(r->rest);
        if (take(r, '"')) {
            return true;
        }
        if (take(r, '\\')) {
            n = 0;
            if (!escape(r)) {
                return false;
            }
        } else if (n == 0) {
            return false;
        }
        skip(r, n);
    }
    return false;
}

static bool scalar(reader *r)
{
    int c = peek(r);
    if (c == '"') {
        return string(r);
    }
    if (c == '-' || is_digit(c)) {
        return number(r);
    }
    return take_word(r, "true") || take_word(r, "false") || take_word(r, "null");
}

static bool name(reader *r)
{
    blank(r);
    if (!string(r)) {
        return false;
    }
    blank(r);
    return take(r, ':');
}

bool mq_json_is_object(mq_span s)
{
    char open[MQ_JSON_DEPTH_MAX]; /* '{' or '[', outermost first */
    int depth = 0;
    reader r = {s};
    blank(&r);
    if (peek(&r) != '{') {
        return false;
    }
    do { /* one value a round: begins it, then ends whatever ends behind it */
        blank(&r);
        bool is_empty = false;
        if (peek(&r) == '{' || peek(&r) == '[') {
            if (depth == MQ_JSON_DEPTH_MAX) {
                return false;
            }
            open[depth++] = (char)peek(&r);
            skip(&r, 1);
            blank(&r);
            is_empty = peek(&r) == (open[depth - 1] == '{' ? '}' : ']');
            if (!is_empty && open[depth - 1] == '{' && !name(&r)) {
                return false;
            }
            if (!is_empty) {
                continue;
            }
        } else if (!scalar(&r)) {
            return false;
        }
        blank(&r);
        while (depth > 0 && take(&r, open[depth - 1] == '{' ? '}' : ']')) {
            depth--;
            blank(&r);
        }
        if (depth > 0 && (!take(&r, ',') || (open[depth - 1] == '{' && !name(&r)))) {
            return false;
        }
    } while (depth > 0);
    return r.rest.len == 0;
}

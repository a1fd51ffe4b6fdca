/* Checked cursor over MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md) from
 * outside. One pass, no allocation, no recursion. The first fault sticks: from then on every read
 * gives zero, false or empty, so that a whole record is read first and checked once:
 *
 *     mq_reader r;
 *     mq_reader_init(&r, bytes, 256);
 *     uint32_t n = mq_read_array(&r);
 *     uint64_t id = mq_read_u64(&r); ...
 *     return mq_reader_done(&r, "record", err);
 *
 * Checked: every length against the bytes that are left (a list of n needs at least n, a map 2n),
 * depth, number of values, types, no ext, nothing after the value. Spans borrow from the input. */
#ifndef MQ_WIRE_READER_H
#define MQ_WIRE_READER_H

#include <endian.h>

#include "shared/base/error.h"
#include "shared/base/span.h"

enum { MQ_READER_DEPTH_MAX = 8 };

typedef enum mq_reader_type {
    MQ_READ_NONE, /* at the end, or after a fault */
    MQ_READ_NIL,
    MQ_READ_BOOL,
    MQ_READ_INT,
    MQ_READ_FLOAT,
    MQ_READ_TEXT,
    MQ_READ_BYTES,
    MQ_READ_ARRAY,
    MQ_READ_MAP,
    MQ_READ_EXT, /* never accepted */
} mq_reader_type;

typedef struct mq_reader {
    const uint8_t *start;
    const uint8_t *at;
    const uint8_t *end;
    const char *fault;   /* what was wrong first; NULL = nothing yet */
    mq_code code;        /* MQ_E_FORMAT or MQ_E_LIMIT with a fault */
    uint32_t nodes_left; /* 0 after a fault, so that the ordinary forms below look at one thing */
    uint32_t depth;      /* open lists and maps */
    uint32_t left[MQ_READER_DEPTH_MAX]; /* values still expected in each */
} mq_reader;

/* nodes_max: most values (containers and keys count too) that may be read. Borrows bytes. */
void mq_reader_init(mq_reader *r, mq_span bytes, uint32_t nodes_max);

/* Type of the next value; reads nothing. */
mq_reader_type mq_reader_peek(const mq_reader *r);

/* ---- for the functions below ---- */

/* Ends one value: counts it in the container it stands in and closes those that are complete. */
static inline void mq_reader_finish(mq_reader *r)
{
    while (r->depth > 0 && --r->left[r->depth - 1] == 0) {
        r->depth--;
    }
}

/* As if `values` values of the innermost list or map had been read one by one, up to `at`. */
static inline void mq_reader_took(mq_reader *r, const uint8_t *at, uint32_t values)
{
    r->at = at;
    r->nodes_left -= values;
    r->left[r->depth - 1] -= values - 1;
    mq_reader_finish(r);
}

/* First byte of an integer that is not negative. */
static inline bool mq_reader_is_number(uint8_t c)
{
    return c <= 0x7f || (c & 0xfc) == 0xcc;
}

/* Reads one; nine bytes must be there. Returns where it ends. */
static inline const uint8_t *mq_reader_number(const uint8_t *at, uint64_t *out)
{
    size_t width = *at <= 0x7f ? 0 : (size_t)1 << (*at & 3);
    *out = *at;
    if (width > 0) {
        memcpy(out, at + 1, sizeof *out);
        *out = be64toh(*out) >> (64 - 8 * width);
    }
    return at + 1 + width;
}

/* Takes the next value when it is exactly this short text (1..31 bytes) and a map's key, so that a
 * value follows it. False: nothing has been taken. */
static inline bool mq_reader_is_key(mq_reader *r, const char *key, uint32_t len)
{
    if ((size_t)(r->end - r->at) <= len || r->at[0] != (0xa0 | len) || r->depth == 0 ||
        r->left[r->depth - 1] < 2 || r->nodes_left == 0 || memcmp(r->at + 1, key, len) != 0) {
        return false;
    }
    r->nodes_left--;
    r->left[r->depth - 1]--;
    r->at += 1 + len;
    return true;
}

/* The general forms, with every check and fault. */
uint64_t mq_read_any_u64(mq_reader *r);
mq_span mq_read_any_text(mq_reader *r);

/* ---- values ---- */

/* Each takes one value of exactly that type (an integer may come in any width that holds it). */
static inline uint64_t mq_read_u64(mq_reader *r)
{
    uint64_t value;
    if (r->nodes_left == 0 || r->end - r->at < 9 || !mq_reader_is_number(*r->at)) {
        return mq_read_any_u64(r);
    }
    r->at = mq_reader_number(r->at, &value);
    r->nodes_left--;
    mq_reader_finish(r);
    return value;
}

int64_t mq_read_i64(mq_reader *r);
double mq_read_f64(mq_reader *r);
bool mq_read_bool(mq_reader *r);
void mq_read_nil(mq_reader *r);

static inline mq_span mq_read_text(mq_reader *r)
{
    size_t have = (size_t)(r->end - r->at);
    size_t len = have == 0 ? 32 : (size_t)*r->at ^ 0xa0;
    if (r->nodes_left == 0 || len >= 32 || len >= have) {
        return mq_read_any_text(r);
    }
    mq_span text = mq_span_of(r->at + 1, len);
    r->at += 1 + len;
    r->nodes_left--;
    mq_reader_finish(r);
    return text;
}

mq_span mq_read_bytes(mq_reader *r);

/* Opens a list (number of values) or a map (number of pairs); it closes by itself after the last
 * value. */
uint32_t mq_read_array(mq_reader *r);
uint32_t mq_read_map(mq_reader *r);

/* Passes over one value with everything in it. */
void mq_read_skip(mq_reader *r);

/* Records a fault of the caller's own (a field beyond its limit); the first one stays. text must
 * live as long as the reader (a literal). */
void mq_reader_fault(mq_reader *r, mq_code code, const char *text);

static inline bool mq_reader_failed(const mq_reader *r)
{
    return r->fault != NULL;
}

/* MQ_OK when there was no fault, all containers are complete and no byte is left; else the fault's
 * code with "<what>: <fault> at byte <n>". */
MQ_MUST_USE mq_code mq_reader_done(mq_reader *r, const char *what, mq_error *err);

#endif

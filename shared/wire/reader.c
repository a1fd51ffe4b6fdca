/* Checked MessagePack cursor; see reader.h for the rules. It knows the format and nothing of our
 * messages. */
#include "shared/wire/reader.h"

#include "shared/base/assert.h"

void mq_reader_init(mq_reader *r, mq_span bytes, uint32_t nodes_max)
{
    r->start = bytes.data;
    r->at = bytes.data;
    r->end = bytes.len == 0 ? bytes.data : bytes.data + bytes.len;
    r->fault = NULL;
    r->code = MQ_OK;
    r->nodes_left = nodes_max;
    r->depth = 0;
}

void mq_reader_fault(mq_reader *r, mq_code code, const char *text)
{
    MQ_ASSERT(code != MQ_OK);
    if (r->fault == NULL) {
        r->fault = text;
        r->code = code;
        r->nodes_left = 0;
    }
}

mq_reader_type mq_reader_peek(const mq_reader *r)
{
    if (r->fault != NULL || r->at == r->end) {
        return MQ_READ_NONE;
    }
    uint8_t c = *r->at;
    if (c <= 0x7f || c >= 0xe0 || (c >= 0xcc && c <= 0xd3)) {
        return MQ_READ_INT;
    }
    if ((c & 0xe0) == 0xa0 || (c >= 0xd9 && c <= 0xdb)) {
        return MQ_READ_TEXT;
    }
    if ((c & 0xf0) == 0x80 || c == 0xde || c == 0xdf) {
        return MQ_READ_MAP;
    }
    if ((c & 0xf0) == 0x90 || c == 0xdc || c == 0xdd) {
        return MQ_READ_ARRAY;
    }
    if (c == 0xc2 || c == 0xc3) {
        return MQ_READ_BOOL;
    }
    if (c >= 0xc4 && c <= 0xc6) {
        return MQ_READ_BYTES;
    }
    if (c == 0xca || c == 0xcb) {
        return MQ_READ_FLOAT;
    }
    return c == 0xc0 ? MQ_READ_NIL : MQ_READ_EXT;
}

/* Starts one value: false when there is none to take. */
static bool begin(mq_reader *r)
{
    if (r->fault != NULL) {
        return false;
    }
    if (r->at == r->end) {
        mq_reader_fault(r, MQ_E_FORMAT, "bytes end inside a value");
        return false;
    }
    if (r->nodes_left == 0) {
        mq_reader_fault(r, MQ_E_LIMIT, "too many values");
        return false;
    }
    r->nodes_left--;
    return true;
}

/* len bytes after `head` bytes of type and length; NULL (with the fault) when they are not there.
 */
static const uint8_t *take(mq_reader *r, size_t head, size_t len)
{
    size_t have = (size_t)(r->end - r->at);
    if (have < head || have - head < len) {
        mq_reader_fault(r, MQ_E_FORMAT, "bytes end inside a value");
        return NULL;
    }
    const uint8_t *at = r->at + head;
    r->at = at + len;
    return at;
}

static uint64_t big_endian(const uint8_t *p, size_t len)
{
    uint64_t v = 0;
    for (size_t i = 0; i < len; i++) {
        v = v << 8 | p[i];
    }
    return v;
}

/* An integer of any width: its bits, and whether they are a negative number. */
static uint64_t integer(mq_reader *r, bool *is_negative)
{
    *is_negative = false;
    if (!begin(r)) {
        return 0;
    }
    uint8_t c = *r->at;
    uint64_t v = 0;
    if (c <= 0x7f || c >= 0xe0) {
        r->at++;
        v = c <= 0x7f ? c : UINT64_C(0xffffffffffffff00) | c;
        *is_negative = c >= 0xe0;
    } else if (c >= 0xcc && c <= 0xd3) {
        size_t len = (size_t)1 << ((c - 0xcc) & 3);
        const uint8_t *p = take(r, 1, len);
        if (p == NULL) {
            return 0;
        }
        v = big_endian(p, len);
        if (c >= 0xd0 && (p[0] & 0x80) != 0) {
            v |= len == 8 ? 0 : UINT64_MAX << (8 * len);
            *is_negative = true;
        }
    } else {
        mq_reader_fault(r, MQ_E_FORMAT, "expects an integer");
        return 0;
    }
    mq_reader_finish(r);
    return v;
}

uint64_t mq_read_any_u64(mq_reader *r)
{
    bool is_negative;
    uint64_t v = integer(r, &is_negative);
    if (is_negative) {
        mq_reader_fault(r, MQ_E_FORMAT, "expects an integer that is not negative");
        return 0;
    }
    return v;
}

int64_t mq_read_i64(mq_reader *r)
{
    bool is_negative;
    uint64_t v = integer(r, &is_negative);
    if (!is_negative && v > INT64_MAX) {
        mq_reader_fault(r, MQ_E_FORMAT, "expects an integer below 2^63");
        return 0;
    }
    return (int64_t)v;
}

double mq_read_f64(mq_reader *r)
{
    if (!begin(r)) {
        return 0;
    }
    uint8_t c = *r->at;
    double value = 0;
    if (c == 0xcb) {
        const uint8_t *p = take(r, 1, 8);
        if (p == NULL) {
            return 0;
        }
        uint64_t bits = big_endian(p, 8);
        memcpy(&value, &bits, sizeof value);
    } else if (c == 0xca) {
        const uint8_t *p = take(r, 1, 4);
        if (p == NULL) {
            return 0;
        }
        uint32_t bits = (uint32_t)big_endian(p, 4);
        float narrow;
        memcpy(&narrow, &bits, sizeof narrow);
        value = (double)narrow;
    } else {
        mq_reader_fault(r, MQ_E_FORMAT, "expects a floating point number");
        return 0;
    }
    mq_reader_finish(r);
    return value;
}

bool mq_read_bool(mq_reader *r)
{
    if (!begin(r)) {
        return false;
    }
    uint8_t c = *r->at;
    if (c != 0xc2 && c != 0xc3) {
        mq_reader_fault(r, MQ_E_FORMAT, "expects true or false");
        return false;
    }
    r->at++;
    mq_reader_finish(r);
    return c == 0xc3;
}

void mq_read_nil(mq_reader *r)
{
    if (!begin(r)) {
        return;
    }
    if (*r->at != 0xc0) {
        mq_reader_fault(r, MQ_E_FORMAT, "expects nil");
        return;
    }
    r->at++;
    mq_reader_finish(r);
}

/* A length-prefixed run whose 8-, 16- and 32-bit forms start at `first`. */
static mq_span run(mq_reader *r, uint8_t first, const char *expects)
{
    uint8_t c = *r->at;
    size_t head = 1;
    size_t len = 0;
    if (first == 0xd9 && (c & 0xe0) == 0xa0) {
        len = c & 0x1f;
    } else if (c >= first && c <= first + 2) {
        size_t width = (size_t)1 << (c - first);
        const uint8_t *p = r->at + 1;
        if ((size_t)(r->end - p) < width) {
            mq_reader_fault(r, MQ_E_FORMAT, "bytes end inside a length");
            return (mq_span){0};
        }
        len = (size_t)big_endian(p, width);
        head += width;
    } else {
        mq_reader_fault(r, MQ_E_FORMAT, expects);
        return (mq_span){0};
    }
    const uint8_t *p = take(r, head, len);
    if (p == NULL) {
        return (mq_span){0};
    }
    mq_reader_finish(r);
    return mq_span_of(p, len);
}

mq_span mq_read_any_text(mq_reader *r)
{
    return begin(r) ? run(r, 0xd9, "expects text") : (mq_span){0};
}

mq_span mq_read_bytes(mq_reader *r)
{
    return begin(r) ? run(r, 0xc4, "expects raw bytes") : (mq_span){0};
}

/* Opens a container of `per` values an entry; fix: its short form, wide: its 16-bit form. */
static uint32_t open_container(mq_reader *r, uint8_t fix, uint8_t wide, uint32_t per,
                               const char *expects)
{
    if (!begin(r)) {
        return 0;
    }
    uint8_t c = *r->at;
    uint64_t count = 0;
    size_t width = 0;
    if ((c & 0xf0) == fix) {
        count = c & 0x0f;
    } else if (c == wide || c == wide + 1) {
        width = c == wide ? 2 : 4;
    } else {
        mq_reader_fault(r, MQ_E_FORMAT, expects);
        return 0;
    }
    const uint8_t *p = take(r, 1, width);
    if (p == NULL) {
        return 0;
    }
    count = width == 0 ? count : big_endian(p, width);
    if (count == 0) {
        mq_reader_finish(r);
        return 0;
    }
    if (count * per > (uint64_t)(r->end - r->at)) {
        mq_reader_fault(r, MQ_E_FORMAT, "a list or map claims more values than bytes are left");
        return 0;
    }
    if (count * per > r->nodes_left) {
        mq_reader_fault(r, MQ_E_LIMIT, "too many values");
        return 0;
    }
    if (r->depth == MQ_READER_DEPTH_MAX) {
        mq_reader_fault(r, MQ_E_LIMIT, "lists and maps are nested deeper than 8");
        return 0;
    }
    r->left[r->depth++] = (uint32_t)(count * per);
    return (uint32_t)count;
}

uint32_t mq_read_array(mq_reader *r)
{
    return open_container(r, 0x90, 0xdc, 1, "expects a list");
}

uint32_t mq_read_map(mq_reader *r)
{
    return open_container(r, 0x80, 0xde, 2, "expects a map");
}

/* One value; a container is only opened, its content comes as the next values. */
static void skip_one(mq_reader *r)
{
    switch (mq_reader_peek(r)) {
    case MQ_READ_NIL:
        mq_read_nil(r);
        return;
    case MQ_READ_BOOL:
        (void)mq_read_bool(r);
        return;
    case MQ_READ_INT: {
        bool is_negative;
        (void)integer(r, &is_negative);
        return;
    }
    case MQ_READ_FLOAT:
        (void)mq_read_f64(r);
        return;
    case MQ_READ_TEXT:
        (void)mq_read_text(r);
        return;
    case MQ_READ_BYTES:
        (void)mq_read_bytes(r);
        return;
    case MQ_READ_ARRAY:
        (void)mq_read_array(r);
        return;
    case MQ_READ_MAP:
        (void)mq_read_map(r);
        return;
    case MQ_READ_EXT:
        mq_reader_fault(r, MQ_E_FORMAT, "extension types are refused");
        return;
    case MQ_READ_NONE:
        mq_reader_fault(r, MQ_E_FORMAT, "bytes end inside a value");
        return;
    }
}

void mq_read_skip(mq_reader *r)
{
    /* The value is over when what is open is what was open before it, less the value itself. A
     * container that it completes may close its parents too, so count what remains in the parent
     * instead of comparing depths. */
    uint32_t depth = r->depth;
    uint32_t left = depth > 0 ? r->left[depth - 1] : 0;
    do {
        skip_one(r);
    } while (r->fault == NULL &&
             (r->depth > depth || (depth > 0 && r->depth == depth && r->left[depth - 1] == left)));
}

mq_code mq_reader_done(mq_reader *r, const char *what, mq_error *err)
{
    if (r->fault == NULL && r->depth > 0) {
        mq_reader_fault(r, MQ_E_FORMAT, "a list or map was not read to its end");
    }
    if (r->fault == NULL && r->at != r->end) {
        mq_reader_fault(r, MQ_E_FORMAT, "bytes follow the value");
    }
    if (r->fault != NULL) {
        return mq_fail(err, r->code, "%s: %s at byte %zu", what, r->fault,
                       (size_t)(r->at - r->start));
    }
    return MQ_OK;
}

/* Encoder and decoder of every message, driven by the table. They know MessagePack through reader.h
 * and writer.h and no message by name. */
#include "shared/wire/messages.h"

#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "shared/wire/reader.h"
#include "shared/wire/table.h"
#include "shared/wire/writer.h"

/* New fields may be added by later versions; so many unknown ones are kept apart in one map. */
enum {
    UNKNOWN_KEYS_MAX = 16,
    PAIR_BYTES = 24, /* a key of at most 7 bytes and a number, read in words */
};

_Static_assert((int)MQ_WIRE_DEPTH_MAX == (int)MQ_READER_DEPTH_MAX, "one depth limit");

void mq_wire_head(mq_command command, uint8_t out[4])
{
    out[0] = 'M';
    out[1] = 'Q';
    out[2] = MQ_WIRE_VERSION;
    out[3] = (uint8_t)command;
}

size_t mq_wire_head_to(mq_command command, uint32_t shard, uint8_t out[6])
{
    MQ_ASSERT(shard <= UINT16_MAX);
    mq_wire_head(command, out);
    out[4] = (uint8_t)(shard >> 8);
    out[5] = (uint8_t)shard;
    return shard == 0 ? 4 : 6;
}

uint32_t mq_wire_shard(mq_span frame)
{
    return frame.len == 6 ? (uint32_t)frame.data[4] << 8 | frame.data[5] : 0;
}

mq_code mq_wire_command(mq_span frame, mq_command *out, mq_error *err)
{
    if ((frame.len != 4 && frame.len != 6) || frame.data[0] != 'M' || frame.data[1] != 'Q') {
        return mq_fail(err, MQ_E_FORMAT,
                       "first frame: expects 4 bytes, \"MQ\" version command, or 6 with a shard, "
                       "got %zu bytes",
                       frame.len);
    }
    if (frame.data[2] != MQ_WIRE_VERSION) {
        return mq_fail(err, MQ_E_VERSION,
                       "first frame: protocol version %u, this side speaks version %d",
                       frame.data[2], MQ_WIRE_VERSION);
    }
    mq_command command = (mq_command)frame.data[3];
    if (mq_wire_shape(command) == NULL) {
        return mq_fail(err, MQ_E_FORMAT, "first frame: no message has the command number %u",
                       frame.data[3]);
    }
    *out = command;
    return MQ_OK;
}

const char *mq_command_name(mq_command command)
{
    const mq_shape *shape = mq_wire_shape(command);
    return shape == NULL ? "unknown" : shape->name;
}

/* ---- encoding ---- */

static const void *at(const void *message, uint32_t offset)
{
    return (const uint8_t *)message + offset;
}

static uint32_t count_of(const mq_field *f, const void *message)
{
    return *(const uint32_t *)at(message, f->count_offset);
}

static void encode_shape(mq_writer *w, const mq_shape *shape, const void *message);

static void encode_list(mq_writer *w, const mq_field *f, const void *message)
{
    uint32_t count = count_of(f, message);
    MQ_ASSERT(count <= f->count_max);
    mq_write_array(w, count);
    const uint8_t *items = *(const uint8_t *const *)at(message, f->offset);
    for (uint32_t i = 0; i < count; i++) {
        encode_shape(w, f->item, items + (size_t)i * f->item->size);
    }
}

static void encode_texts(mq_writer *w, const mq_field *f, const void *message)
{
    uint32_t count = count_of(f, message);
    MQ_ASSERT(count <= f->count_max);
    mq_write_array(w, count);
    const mq_span *texts = *(const mq_span *const *)at(message, f->offset);
    for (uint32_t i = 0; i < count; i++) {
        MQ_ASSERT(texts[i].len <= f->text_max);
        mq_write_text(w, texts[i]);
    }
}

/* Zero, false and empty fields do not travel. */
static bool is_absent(const mq_field *f, const void *message)
{
    uint64_t word;
    memcpy(&word, at(message, f->word_offset), sizeof word);
    return (le64toh(word) & f->word_mask) == 0;
}

static void encode_value(mq_writer *w, const mq_field *f, const void *message)
{
    switch (f->type) {
    case MQ_FIELD_U64:
        mq_write_u64(w, *(const uint64_t *)at(message, f->offset));
        return;
    case MQ_FIELD_I64:
        mq_write_i64(w, *(const int64_t *)at(message, f->offset));
        return;
    case MQ_FIELD_BOOL:
        mq_write_bool(w, true);
        return;
    case MQ_FIELD_TEXT: {
        const mq_span *text = at(message, f->offset);
        MQ_ASSERT(text->len <= f->text_max);
        mq_write_text(w, *text);
        return;
    }
    case MQ_FIELD_TEXTS:
        encode_texts(w, f, message);
        return;
    case MQ_FIELD_LIST:
        encode_list(w, f, message);
        return;
    }
}

/* Writes the count into the head of the map that begins at `from`. Few maps have more entries than
 * a head of one byte can say: only then what follows is moved. */
static void close_map(mq_buf *out, size_t from, uint32_t count)
{
    if (out->is_full) {
        return;
    }
    if (count < 16) {
        out->data[from] = (uint8_t)(0x80 | count);
    } else if (mq_buf_extend(out, 2) != NULL) {
        memmove(out->data + from + 3, out->data + from + 1, out->len - from - 3);
        out->data[from] = 0xde;
        out->data[from + 1] = 0;
        out->data[from + 2] = (uint8_t)count; /* at most MQ_FIELDS_MAX */
    }
}

/* Key and value of what nearly all fields are, numbers and short texts, in one piece at a place
 * with room for ROOM bytes. Returns where they end; NULL: it is something else. */
static inline uint8_t *encode_small(uint8_t *to, const mq_field *f, const void *message)
{
    const void *from = at(message, f->offset);
    memcpy(to, &f->wire, sizeof f->wire);
    to += 1 + f->key_len;
    if (f->type == MQ_FIELD_U64) {
        uint64_t value;
        memcpy(&value, from, sizeof value);
        return mq_writer_u64(to, value);
    }
    if (f->type != MQ_FIELD_TEXT || ((const mq_span *)from)->len >= 32) {
        return NULL;
    }
    const mq_span *text = from;
    MQ_ASSERT(text->len <= f->text_max);
    *to++ = (uint8_t)(0xa0 | text->len);
    mq_writer_copy(to, text->data, text->len);
    return to + text->len;
}

/* Returns how many of the fields were there. */
static uint32_t encode_fields(mq_writer *w, const mq_field *f, const mq_field *end,
                              const void *message)
{
    enum { ROOM = sizeof(mq_wire_key) + 32 };
    mq_buf *out = w->buf;
    uint8_t *to = out->data + out->len; /* written back before anybody else writes */
    size_t room = out->is_full ? 0 : out->capacity - out->len;
    uint32_t count = 0;
    for (; f < end; f++) {
        if (is_absent(f, message)) {
            continue;
        }
        count++;
        uint8_t *after = room < ROOM ? NULL : encode_small(to, f, message);
        if (after != NULL) {
            room -= (size_t)(after - to);
            to = after;
            continue;
        }
        out->len = (size_t)(to - out->data);
        mq_write_raw16(w, &f->wire, 1 + f->key_len);
        encode_value(w, f, message);
        to = out->data + out->len;
        room = out->is_full ? 0 : out->capacity - out->len;
    }
    out->len = (size_t)(to - out->data);
    return count;
}

static void encode_shape(mq_writer *w, const mq_shape *shape, const void *message)
{
    size_t from = w->buf->len;
    mq_write_map(w, 0);
    uint32_t count = encode_fields(w, shape->fields, shape->fields + shape->field_count, message);
    close_map(w->buf, from, count);
}

mq_code mq_wire_encode(mq_command command, const void *message, mq_buf *out, mq_error *err)
{
    const mq_shape *shape = mq_wire_shape(command);
    MQ_ASSERT(shape != NULL);
    size_t start = out->len;
    bool was_full = out->is_full;
    mq_writer w;
    mq_writer_init(&w, out);
    encode_shape(&w, shape, message);
    if (out->is_full || out->len - start > MQ_HEADER_BYTES_MAX) {
        size_t limit = mq_min_size(out->limit - start, MQ_HEADER_BYTES_MAX);
        out->len = start; /* all or nothing */
        out->is_full = was_full;
        return mq_fail(err, MQ_E_LIMIT, "%s: header is larger than %zu bytes; send fewer items",
                       shape->name, limit);
    }
    return MQ_OK;
}

/* ---- growing lists ---- */

bool mq_wire_list_begin(mq_wire_list *list, mq_command command, const void *message, mq_buf *out)
{
    const mq_shape *shape = mq_wire_shape(command);
    MQ_ASSERT(shape != NULL && shape->fields[shape->field_count - 1].type == MQ_FIELD_LIST);
    const mq_field *last = &shape->fields[shape->field_count - 1];
    mq_writer w;
    mq_buf_reset(out);
    mq_writer_init(&w, out);
    mq_write_map(&w, 0);
    uint32_t count = encode_fields(&w, shape->fields, last, message);
    close_map(out, 0, count + 1);
    mq_write_raw16(&w, &last->wire, 1 + last->key_len);
    *list = (mq_wire_list){.item = last->item, .count_max = last->count_max, .count_at = out->len};
    const uint8_t head[3] = {0xdc}; /* a list whose count has 16 bits: it is not known yet */
    return mq_buf_add(out, head, sizeof head);
}

bool mq_wire_list_add(mq_wire_list *list, const void *item, mq_buf *out)
{
    size_t from = out->len;
    mq_writer w;
    if (list->count == list->count_max) {
        return false;
    }
    mq_writer_init(&w, out);
    encode_shape(&w, list->item, item);
    if (out->is_full || out->len > MQ_HEADER_BYTES_MAX) {
        out->len = from;
        out->is_full = false;
        return false;
    }
    list->count++;
    return true;
}

void mq_wire_list_end(const mq_wire_list *list, mq_buf *out)
{
    MQ_ASSERT(list->count <= UINT16_MAX && list->count_at + 3 <= out->len);
    out->data[list->count_at + 1] = (uint8_t)(list->count >> 8);
    out->data[list->count_at + 2] = (uint8_t)list->count;
}

/* ---- decoding ---- */

typedef struct decoder {
    mq_reader reader;
    mq_arena *arena;
    mq_error *err;
} decoder;

static mq_code decode_shape(decoder *d, const mq_shape *shape, void *message,
                            uint8_t after[MQ_FIELDS_MAX + 1]);

/* The reader's fault, if any, as an error that starts with the key. */
static mq_code check(decoder *d, const char *key)
{
    if (!mq_reader_failed(&d->reader)) {
        return MQ_OK;
    }
    return mq_fail(d->err, d->reader.code, "%s: %s at byte %zu", key, d->reader.fault,
                   (size_t)(d->reader.at - d->reader.start));
}

static void *slot(void *message, uint32_t offset)
{
    return (uint8_t *)message + offset;
}

/* Opens a list and takes room for it, not zeroed: *items stays NULL when it is empty. */
static mq_code open_list(decoder *d, const mq_field *f, size_t size, void *message, uint8_t **items)
{
    uint32_t count = mq_read_array(&d->reader);
    if (count > f->count_max) {
        return mq_fail(d->err, MQ_E_LIMIT, "%s: %u entries, at most %u are allowed", f->key, count,
                       f->count_max);
    }
    *items = NULL;
    if (count > 0) {
        *items = mq_arena_take(d->arena, count, size);
        if (*items == NULL) {
            return mq_fail(d->err, MQ_E_LIMIT, "%s: no memory left for %u entries of this message",
                           f->key, count);
        }
    }
    *(void **)slot(message, f->offset) = *items;
    *(uint32_t *)slot(message, f->count_offset) = count;
    return check(d, f->key);
}

static mq_code decode_text(decoder *d, const mq_field *f, mq_span *out)
{
    *out = mq_read_text(&d->reader);
    if (out->len > f->text_max) {
        return mq_fail(d->err, MQ_E_LIMIT, "%s: %zu bytes, at most %u are allowed", f->key,
                       out->len, f->text_max);
    }
    return check(d, f->key);
}

static mq_code decode_texts(decoder *d, const mq_field *f, void *message)
{
    uint8_t *items;
    mq_code code = open_list(d, f, sizeof(mq_span), message, &items);
    uint32_t count = code == MQ_OK ? count_of(f, message) : 0;
    mq_span *texts = *(mq_span **)slot(message, f->offset);
    for (uint32_t i = 0; i < count && code == MQ_OK; i++) {
        code = decode_text(d, f, &texts[i]);
    }
    return code;
}

static mq_code decode_list(decoder *d, const mq_field *f, void *message)
{
    uint8_t *items;
    mq_code code = open_list(d, f, f->item->size, message, &items);
    uint32_t count = code == MQ_OK ? count_of(f, message) : 0;
    uint8_t after[MQ_FIELDS_MAX + 1] = {0};
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *item = items + (size_t)i * f->item->size;
        memset(item, 0, f->item->size); /* just before it is filled: it is in the cache then */
        code = decode_shape(d, f->item, item, after);
        if (code != MQ_OK) {
            return d->err == NULL ? code : mq_wrap(d->err, "%s[%u]", f->key, i);
        }
    }
    return code;
}

static mq_code decode_field(decoder *d, const mq_field *f, void *message)
{
    void *out = slot(message, f->offset);
    switch (f->type) {
    case MQ_FIELD_U64:
        *(uint64_t *)out = mq_read_u64(&d->reader);
        return check(d, f->key);
    case MQ_FIELD_I64:
        *(int64_t *)out = mq_read_i64(&d->reader);
        return check(d, f->key);
    case MQ_FIELD_BOOL:
        *(bool *)out = mq_read_bool(&d->reader);
        return check(d, f->key);
    case MQ_FIELD_TEXT:
        return decode_text(d, f, out);
    case MQ_FIELD_TEXTS:
        return decode_texts(d, f, message);
    case MQ_FIELD_LIST:
        return decode_list(d, f, message);
    }
    return MQ_OK;
}

static bool is_key(const mq_field *f, mq_span key)
{
    return f->key_len == key.len && memcmp(f->key, key.data, key.len) == 0;
}

/* Index of a key, or field_count. Senders write in table order, so the search starts where the last
 * one ended. */
static uint32_t find_field(const mq_shape *shape, mq_span key, uint32_t next)
{
    for (uint32_t i = next; i < shape->field_count; i++) {
        if (is_key(&shape->fields[i], key)) {
            return i;
        }
    }
    for (uint32_t i = 0; i < next; i++) {
        if (is_key(&shape->fields[i], key)) {
            return i;
        }
    }
    return shape->field_count;
}

/* The same for a key that lies ahead, without reading it first. */
static uint32_t next_field(decoder *d, const mq_shape *shape, uint32_t next)
{
    for (uint32_t i = next; i < shape->field_count; i++) {
        if (mq_reader_is_key(&d->reader, shape->fields[i].key, shape->fields[i].key_len)) {
            return i;
        }
    }
    return shape->field_count;
}

typedef struct unknown_keys {
    mq_span keys[UNKNOWN_KEYS_MAX];
    uint32_t count;
} unknown_keys;

/* How far a map has been read. */
typedef struct progress {
    uint64_t seen;  /* bit i: field i */
    uint32_t next;  /* field that most likely follows */
    uint8_t *after; /* of a list's items: field that came next in the item before, by `next` */
    unknown_keys unknown;
} progress;

/* Steps over a key of a later version; even those may come only once. */
static mq_code skip_unknown(decoder *d, unknown_keys *unknown, mq_span key)
{
    for (uint32_t i = 0; i < unknown->count; i++) {
        if (mq_span_eq(unknown->keys[i], key)) {
            return mq_fail(d->err, MQ_E_FORMAT, "%.*s: this key stands twice in one map",
                           (int)mq_min_size(key.len, 64), (const char *)key.data);
        }
    }
    if (unknown->count == UNKNOWN_KEYS_MAX) {
        return mq_fail(d->err, MQ_E_LIMIT, "more than %d unknown keys in one map",
                       UNKNOWN_KEYS_MAX);
    }
    unknown->keys[unknown->count++] = key;
    mq_read_skip(&d->reader);
    return check(d, "unknown key");
}

/* The next key, whose first bytes are `word`, is that of field i (or begins like it when it is
 * longer than a word). */
static inline bool is_word(const mq_shape *shape, uint32_t i, uint64_t word)
{
    uint64_t key;
    if (i >= shape->field_count) {
        return false;
    }
    memcpy(&key, &shape->fields[i].wire, sizeof key);
    return ((word ^ key) & htole64(shape->fields[i].mask)) == 0;
}

/* Takes pairs as long as they are what nearly all are: a key of the table that lies ahead, with a
 * number or a short text. Nothing is checked less than below, but each check is made once, and
 * where the cursor stands is written back at the end. Returns how many of `pairs` were taken. */
static uint32_t decode_run(decoder *d, const mq_shape *shape, void *message, uint32_t pairs,
                           progress *p)
{
    mq_reader *r = &d->reader;
    const uint8_t *from = r->at;
    uint64_t seen = p->seen;
    uint32_t most = pairs < r->nodes_left / 2 ? pairs : r->nodes_left / 2, taken = 0, i = p->next;
    while (taken < most && r->end - from >= PAIR_BYTES) {
        uint64_t word;
        memcpy(&word, from, sizeof word);
        uint32_t before = i;
        i = p->after[before] >= before ? p->after[before] : before;
        if (!is_word(shape, i, word)) {
            for (i = before; i < shape->field_count && !is_word(shape, i, word); i++) {
            }
            p->after[before] = (uint8_t)i;
        }
        const mq_field *f = &shape->fields[i];
        if (i == shape->field_count || f->key_len > 7 || (seen >> i & 1) != 0) {
            break;
        }
        const uint8_t *value = from + 1 + f->key_len;
        void *out = slot(message, f->offset);
        if (f->type == MQ_FIELD_TEXT) {
            size_t len = (size_t)*value ^ 0xa0;
            if (len >= 32 || len > f->text_max || (size_t)(r->end - value) <= len) {
                break;
            }
            *(mq_span *)out = mq_span_of(value + 1, len);
            from = value + 1 + len;
        } else if (f->type == MQ_FIELD_U64 && mq_reader_is_number(*value)) {
            from = mq_reader_number(value, out);
        } else {
            break;
        }
        seen |= UINT64_C(1) << i++;
        taken++;
    }
    if (taken > 0) {
        p->next = i;
        p->seen = seen;
        mq_reader_took(r, from, taken * 2);
    }
    return taken;
}

/* One pair, whatever it is. */
static mq_code decode_pair(decoder *d, const mq_shape *shape, void *message, progress *p)
{
    uint32_t index = next_field(d, shape, p->next);
    mq_span key = {0};
    if (index == shape->field_count) {
        key = mq_read_text(&d->reader);
        mq_code code = check(d, "key");
        if (code != MQ_OK) {
            return code;
        }
        index = find_field(shape, key, p->next);
    }
    if (index == shape->field_count) {
        return skip_unknown(d, &p->unknown, key);
    }
    if ((p->seen >> index & 1) != 0) {
        return mq_fail(d->err, MQ_E_FORMAT, "%s: this key stands twice in one map",
                       shape->fields[index].key);
    }
    p->seen |= UINT64_C(1) << index;
    p->next = index + 1;
    return decode_field(d, &shape->fields[index], message);
}

static mq_code decode_shape(decoder *d, const mq_shape *shape, void *message,
                            uint8_t after[MQ_FIELDS_MAX + 1])
{
    progress p;
    p.after = after;
    p.unknown.count = p.next = 0;
    p.seen = 0;
    uint32_t count = mq_read_map(&d->reader);
    mq_code code = check(d, shape->name);
    for (uint32_t i = 0; i < count && code == MQ_OK;) {
        uint32_t taken = decode_run(d, shape, message, count - i, &p);
        i += taken;
        if (taken == 0) {
            code = decode_pair(d, shape, message, &p);
            i++;
        }
    }
    return code;
}

mq_code mq_wire_decode(mq_command command, mq_span header, void *message, mq_arena *arena,
                       mq_error *err)
{
    const mq_shape *shape = mq_wire_shape(command);
    MQ_ASSERT(shape != NULL);
    memset(message, 0, shape->size);
    if (header.len > MQ_HEADER_BYTES_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "%s: header of %zu bytes, at most %d are allowed",
                       shape->name, header.len, MQ_HEADER_BYTES_MAX);
    }
    decoder d = {.arena = arena, .err = err};
    mq_reader_init(&d.reader, header, MQ_WIRE_NODES_MAX);
    uint8_t after[MQ_FIELDS_MAX + 1] = {0};
    mq_code code = decode_shape(&d, shape, message, after);
    if (code == MQ_OK) {
        return mq_reader_done(&d.reader, shape->name, err);
    }
    return err == NULL ? code : mq_wrap(err, "%s", shape->name);
}

/* Safetensors reader; see safetensors.h. The header's JSON is a tiny subset, scanned
 * here in one pass without a tree: an inference request must not pay for more, and broker and
 * client do not link a JSON library for it. */
#include "shared/tensor/safetensors.h"

#include <stdlib.h>

#include "shared/base/map.h"
#include "shared/base/math.h"

enum { PREFIX_BYTES = 8, NAME_SHOWN = 80, GROWTH = 8 };

/* Cursor over the header. at only grows; offsets in messages count from the file's start. */
typedef struct scanner {
    const uint8_t *begin, *at, *end;
    mq_error *err;
} scanner;

typedef struct offsets {
    uint64_t begin, end;
} offsets;

static void skip_space(scanner *s)
{
    while (s->at < s->end &&
           (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t')) {
        s->at++;
    }
}

static mq_code expected(const scanner *s, const char *what)
{
    size_t offset = (size_t)(s->at - s->begin) + PREFIX_BYTES;
    if (s->at >= s->end) {
        return mq_fail(s->err, MQ_E_FORMAT, "safetensors header ends at byte %zu: expected %s",
                       offset, what);
    }
    return mq_fail(s->err, MQ_E_FORMAT, "safetensors header at byte %zu: expected %s, not 0x%02x",
                   offset, what, *s->at);
}

/* Skips space and takes c when it is next. */
static bool take(scanner *s, char c)
{
    skip_space(s);
    if (s->at < s->end && *s->at == (uint8_t)c) {
        s->at++;
        return true;
    }
    return false;
}

/* A JSON string; *out is what stands between the quotes, escapes left as they are. */
static mq_code take_string(scanner *s, const char *what, bool *has_escape, mq_span *out)
{
    if (!take(s, '"')) {
        return expected(s, what);
    }
    const uint8_t *from = s->at;
    *has_escape = false;
    while (s->at < s->end && *s->at != '"') {
        if (*s->at < 0x20) {
            return expected(s, "no control character inside a string");
        }
        if (*s->at == '\\') {
            *has_escape = true;
            s->at++;
        }
        s->at++;
    }
    if (s->at >= s->end) {
        s->at = s->end;
        return expected(s, "the closing quote of a string");
    }
    *out = mq_span_of(from, (size_t)(s->at - from));
    s->at++;
    return MQ_OK;
}

static mq_code take_number(scanner *s, uint64_t *out)
{
    skip_space(s);
    const uint8_t *from = s->at;
    uint64_t value = 0;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9') {
        if (value > (UINT64_C(1) << 56)) {
            return expected(s, "a number below 2^56");
        }
        value = value * 10 + (uint64_t)(*s->at++ - '0');
    }
    if (s->at == from || (*from == '0' && s->at - from > 1)) {
        return expected(s, "a whole number without sign or leading zero");
    }
    *out = value;
    return MQ_OK;
}

static mq_code take_shape(scanner *s, mq_shape *shape)
{
    *shape = (mq_shape){0};
    if (!take(s, '[')) {
        return expected(s, "'[' of a shape");
    }
    if (take(s, ']')) {
        return MQ_OK;
    }
    do {
        uint64_t dim;
        if (shape->rank == MQ_RANK_MAX) {
            return expected(s, "at most 8 dimensions");
        }
        mq_code code = take_number(s, &dim);
        if (code != MQ_OK) {
            return code;
        }
        if (dim > (uint64_t)MQ_DIM_MAX) {
            return expected(s, "a dimension of at most 2^31-1 before this");
        }
        shape->dims[shape->rank++] = (int64_t)dim;
    } while (take(s, ','));
    return take(s, ']') ? MQ_OK : expected(s, "',' or ']' in a shape");
}

static mq_code take_offsets(scanner *s, offsets *out)
{
    if (!take(s, '[')) {
        return expected(s, "'[' of data_offsets");
    }
    mq_code code = take_number(s, &out->begin);
    if (code == MQ_OK && !take(s, ',')) {
        code = expected(s, "',' between data_offsets");
    }
    if (code == MQ_OK) {
        code = take_number(s, &out->end);
    }
    if (code == MQ_OK && !take(s, ']')) {
        code = expected(s, "']' after two data_offsets");
    }
    return code;
}

static mq_code take_dtype(scanner *s, mq_dtype *out)
{
    mq_span text;
    bool has_escape;
    mq_code code = take_string(s, "a dtype", &has_escape, &text);
    if (code != MQ_OK) {
        return code;
    }
    *out = mq_dtype_parse_safetensors(text);
    if (*out == MQ_DT_NONE) {
        return mq_fail(s->err, MQ_E_UNSUPPORTED,
                       "safetensors: dtype \"%.*s\" is not supported; known are F32, F64, F16, "
                       "BF16, I8..I64, U8..U64 and BOOL",
                       (int)mq_min_size(text.len, NAME_SHOWN), (const char *)text.data);
    }
    return MQ_OK;
}

enum { SEEN_DTYPE = 1, SEEN_SHAPE = 2, SEEN_OFFSETS = 4, SEEN_ALL = 7 };

/* One "key": value of a tensor's description. */
static mq_code take_field(scanner *s, unsigned *seen, mq_tensor *tensor, offsets *range)
{
    mq_span key;
    bool has_escape;
    mq_code code = take_string(s, "\"dtype\", \"shape\" or \"data_offsets\"", &has_escape, &key);
    if (code != MQ_OK) {
        return code;
    }
    unsigned bit = mq_span_is(key, "dtype")          ? SEEN_DTYPE
                   : mq_span_is(key, "shape")        ? SEEN_SHAPE
                   : mq_span_is(key, "data_offsets") ? SEEN_OFFSETS
                                                     : 0u;
    if (bit == 0 || (*seen & bit) != 0) {
        return mq_fail(s->err, MQ_E_FORMAT, "safetensors: key \"%.*s\" is %s",
                       (int)mq_min_size(key.len, NAME_SHOWN), (const char *)key.data,
                       bit == 0 ? "not one of dtype, shape, data_offsets" : "given twice");
    }
    *seen |= bit;
    if (!take(s, ':')) {
        return expected(s, "':'");
    }
    return bit == SEEN_DTYPE   ? take_dtype(s, &tensor->dtype)
           : bit == SEEN_SHAPE ? take_shape(s, &tensor->shape)
                               : take_offsets(s, range);
}

static mq_code take_tensor(scanner *s, mq_span name, mq_tensor *tensor, offsets *range)
{
    unsigned seen = 0;
    int shown = (int)mq_min_size(name.len, NAME_SHOWN);
    if (!take(s, '{')) {
        return expected(s, "'{' of a tensor");
    }
    do {
        mq_code code = take_field(s, &seen, tensor, range);
        if (code != MQ_OK) {
            return mq_wrap(s->err, "tensor \"%.*s\"", shown, (const char *)name.data);
        }
    } while (take(s, ','));
    if (!take(s, '}')) {
        return expected(s, "',' or '}' in a tensor");
    }
    if (seen != SEEN_ALL) {
        return mq_fail(s->err, MQ_E_FORMAT, "safetensors: tensor \"%.*s\" lacks %s", shown,
                       (const char *)name.data,
                       (seen & SEEN_DTYPE) == 0   ? "dtype"
                       : (seen & SEEN_SHAPE) == 0 ? "shape"
                                                  : "data_offsets");
    }
    return MQ_OK;
}

/* {"key":"value",...}: checked and kept as text. */
static mq_code take_metadata(scanner *s, mq_span *out)
{
    mq_span text;
    bool has_escape;
    skip_space(s);
    const uint8_t *from = s->at;
    if (!take(s, '{')) {
        return expected(s, "'{' of __metadata__");
    }
    if (!take(s, '}')) {
        do {
            mq_code code = take_string(s, "a metadata key", &has_escape, &text);
            if (code == MQ_OK && !take(s, ':')) {
                code = expected(s, "':'");
            }
            if (code == MQ_OK) {
                code = take_string(s, "a metadata value that is a string", &has_escape, &text);
            }
            if (code != MQ_OK) {
                return code;
            }
        } while (take(s, ','));
        if (!take(s, '}')) {
            return expected(s, "',' or '}' in __metadata__");
        }
    }
    *out = mq_span_of(from, (size_t)(s->at - from));
    return MQ_OK;
}

/* Room for one more entry: the inline ones, then 64, 512 and MQ_ST_TENSORS_MAX of them. */
static mq_code make_room(mq_safetensors *st, offsets **ranges, mq_error *err)
{
    uint32_t count = st->count;
    if (count == MQ_ST_TENSORS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "safetensors: more than %d tensors", MQ_ST_TENSORS_MAX);
    }
    if (count != MQ_ST_INLINE && count != MQ_ST_INLINE * GROWTH &&
        count != MQ_ST_INLINE * GROWTH * GROWTH) {
        return MQ_OK;
    }
    mq_st_entry *many = mq_arena_new(&st->arena, mq_st_entry, (size_t)count * GROWTH);
    offsets *more = mq_arena_new(&st->arena, offsets, (size_t)count * GROWTH);
    if (many == NULL || more == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "safetensors: no memory for the list of tensors");
    }
    memcpy(many, st->entries, count * sizeof *many);
    memcpy(more, *ranges, count * sizeof *more);
    st->entries = many;
    *ranges = more;
    return MQ_OK;
}
_Static_assert(MQ_ST_INLINE *GROWTH *GROWTH *GROWTH == MQ_ST_TENSORS_MAX, "growth ends there");

/* One "name": {...} of the header. *ranges runs beside st->entries. */
static mq_code take_entry(scanner *s, mq_safetensors *st, offsets **ranges)
{
    mq_span name;
    bool has_escape;
    mq_code code = take_string(s, "a tensor's name", &has_escape, &name);
    if (code != MQ_OK) {
        return code;
    }
    if (!take(s, ':')) {
        return expected(s, "':'");
    }
    if (mq_span_is(name, "__metadata__")) {
        if (st->metadata.data != NULL) {
            return mq_fail(s->err, MQ_E_FORMAT, "safetensors: __metadata__ is given twice");
        }
        return take_metadata(s, &st->metadata);
    }
    if (name.len == 0 || name.len > MQ_ST_NAME_MAX || has_escape) {
        return mq_fail(s->err, MQ_E_FORMAT,
                       "safetensors: a tensor's name has %zu bytes%s; allowed are 1..%d without "
                       "escapes",
                       name.len, has_escape ? " and an escape" : "", MQ_ST_NAME_MAX);
    }
    code = make_room(st, ranges, s->err);
    if (code != MQ_OK) {
        return code;
    }
    st->entries[st->count].name = name;
    code = take_tensor(s, name, &st->entries[st->count].tensor, &(*ranges)[st->count]);
    st->count += code == MQ_OK;
    return code;
}

static mq_code scan_header(scanner *s, mq_safetensors *st, offsets **ranges)
{
    if (s->at == s->end || *s->at != '{') {
        return expected(s, "'{'");
    }
    s->at++;
    if (!take(s, '}')) {
        do {
            mq_code code = take_entry(s, st, ranges);
            if (code != MQ_OK) {
                return code;
            }
        } while (take(s, ','));
        if (!take(s, '}')) {
            return expected(s, "',' or '}'");
        }
    }
    while (s->at < s->end && *s->at == ' ') {
        s->at++;
    }
    return s->at == s->end ? MQ_OK : expected(s, "only spaces after the header");
}

static mq_code check_unique(const mq_safetensors *st, mq_error *err)
{
    mq_code code = MQ_OK;
    mq_span twice = {0};
    if (st->count <= MQ_ST_INLINE) {
        for (uint32_t i = 1; i < st->count; i++) {
            for (uint32_t k = 0; k < i; k++) {
                if (mq_span_eq(st->entries[i].name, st->entries[k].name)) {
                    twice = st->entries[i].name;
                }
            }
        }
    } else {
        mq_map map;
        /* The seed keeps hostile names from being made to collide for a known hash. */
        code = mq_map_init(&map, st->count, (uint64_t)(uintptr_t)st, err);
        for (uint32_t i = 0; code == MQ_OK && i < st->count; i++) {
            if (mq_map_find(&map, st->entries[i].name) != MQ_MAP_NONE) {
                twice = st->entries[i].name;
            }
            mq_map_put(&map, st->entries[i].name, i);
        }
        if (code == MQ_OK) {
            mq_map_release(&map);
        }
    }
    if (twice.len > 0) {
        return mq_fail(err, MQ_E_FORMAT, "safetensors: tensor \"%.*s\" is given twice",
                       (int)mq_min_size(twice.len, NAME_SHOWN), (const char *)twice.data);
    }
    return code;
}

static int compare_ranges(const void *a, const void *b)
{
    const offsets *x = a, *y = b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return x->end < y->end ? -1 : x->end > y->end;
}

/* The ranges cover 0..len exactly once. Sorts them when they are not in order already. */
static mq_code check_cover(offsets *ranges, uint32_t count, size_t len, mq_error *err)
{
    bool is_sorted = true;
    for (uint32_t i = 1; i < count; i++) {
        is_sorted = is_sorted && compare_ranges(&ranges[i - 1], &ranges[i]) <= 0;
    }
    if (!is_sorted) {
        qsort(ranges, count, sizeof *ranges, compare_ranges);
    }
    uint64_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (ranges[i].begin != at) {
            return mq_fail(err, MQ_E_FORMAT,
                           "safetensors: data_offsets [%llu,%llu] %s: the bytes before end at %llu",
                           (unsigned long long)ranges[i].begin, (unsigned long long)ranges[i].end,
                           ranges[i].begin < at ? "overlap others" : "leave a gap",
                           (unsigned long long)at);
        }
        at = ranges[i].end;
    }
    if (at != len) {
        return mq_fail(err, MQ_E_FORMAT,
                       "safetensors: %zu bytes of data where the header describes %llu", len,
                       (unsigned long long)at);
    }
    return MQ_OK;
}

/* Points the tensors at their data; needs ranges beside entries, so it runs before sorting. */
static mq_code bind_data(mq_safetensors *st, const offsets *ranges, mq_span data, mq_error *err)
{
    st->is_aligned = true;
    for (uint32_t i = 0; i < st->count; i++) {
        mq_tensor *t = &st->entries[i].tensor;
        offsets r = ranges[i];
        mq_error cause;
        bool is_inside = r.begin <= r.end && r.end <= data.len;
        if (!is_inside) {
            mq_fail(&cause, MQ_E_FORMAT,
                    "data_offsets [%llu,%llu] are outside the %zu bytes of data",
                    (unsigned long long)r.begin, (unsigned long long)r.end, data.len);
        }
        mq_shape shape = t->shape;
        size_t len = is_inside ? (size_t)(r.end - r.begin) : 0;
        if (!is_inside || mq_tensor_of(t, t->dtype, &shape, mq_span_of(data.data + r.begin, len),
                                       &cause) != MQ_OK) {
            mq_span name = st->entries[i].name;
            return mq_fail(err, MQ_E_FORMAT, "safetensors: tensor \"%.*s\": %s",
                           (int)mq_min_size(name.len, NAME_SHOWN), (const char *)name.data,
                           cause.text);
        }
        st->is_aligned =
            st->is_aligned && ((uintptr_t)t->data & (mq_dtype_bytes(t->dtype) - 1)) == 0;
    }
    return MQ_OK;
}

mq_code mq_safetensors_read(mq_safetensors *st, mq_span bytes, mq_error *err)
{
    offsets few[MQ_ST_INLINE], *ranges = few;
    uint64_t header_len = 0;
    st->entries = st->few;
    st->count = 0;
    st->is_aligned = false;
    st->metadata = (mq_span){0};
    mq_arena_init(&st->arena, (size_t)1 << 20);
    if (bytes.len < PREFIX_BYTES) {
        return mq_fail(err, MQ_E_FORMAT, "safetensors: %zu bytes; the length alone takes %d",
                       bytes.len, PREFIX_BYTES);
    }
    for (int i = PREFIX_BYTES - 1; i >= 0; i--) {
        header_len = header_len << 8 | bytes.data[i];
    }
    if (header_len > MQ_ST_HEADER_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "safetensors: header of %llu bytes; the limit is %d",
                       (unsigned long long)header_len, MQ_ST_HEADER_MAX);
    }
    if (header_len > bytes.len - PREFIX_BYTES) {
        return mq_fail(err, MQ_E_FORMAT, "safetensors: header of %llu bytes in a file of %zu",
                       (unsigned long long)header_len, bytes.len);
    }
    const uint8_t *header = bytes.data + PREFIX_BYTES;
    scanner s = {header, header, header + header_len, err};
    mq_code code = scan_header(&s, st, &ranges);
    if (code == MQ_OK) {
        code = check_unique(st, err);
    }
    mq_span data = mq_span_of(s.end, bytes.len - PREFIX_BYTES - (size_t)header_len);
    if (code == MQ_OK) {
        code = bind_data(st, ranges, data, err);
    }
    if (code == MQ_OK) {
        code = check_cover(ranges, st->count, data.len, err);
    }
    if (code != MQ_OK) {
        st->count = 0;
    }
    return code;
}

void mq_safetensors_release(mq_safetensors *st)
{
    mq_arena_release(&st->arena);
    st->entries = st->few;
    st->count = 0;
}

const mq_tensor *mq_safetensors_find(const mq_safetensors *st, mq_span name)
{
    for (uint32_t i = 0; i < st->count; i++) {
        if (mq_span_eq(st->entries[i].name, name)) {
            return &st->entries[i].tensor;
        }
    }
    return NULL;
}

/* Format "npy", versions 1 to 3 (numpy/lib/format.py describes it):
 *
 *   93 'NUMPY' | major minor | header length: 2 bytes LE (v1) or 4 (v2, v3) | header | numbers
 *   header: {'descr': '<f4', 'fortran_order': False, 'shape': (60000, 784), }
 *
 * The header is a Python dictionary with exactly these keys; only what NumPy writes for plain
 * numbers is taken, never objects or records. */
#include <stdio.h>

#include "shared/base/math.h"
#include "worker/data/import.h"

static bool detect(mq_span bytes);
static mq_code parse(mq_span bytes, mq_array *out, mq_error *err);

const mq_format mq_format_npy = {.name = "npy", .detect = detect, .parse = parse};

static const uint8_t magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

/* Cursor over the header's text; offset is that of `begin` in the file. */
typedef struct cursor {
    const char *begin, *at, *end;
    size_t offset;
    mq_error *err;
} cursor;

static bool detect(mq_span bytes)
{
    return bytes.len >= sizeof magic && memcmp(bytes.data, magic, sizeof magic) == 0;
}

static mq_code expected(const cursor *c, const char *what)
{
    return mq_fail(c->err, MQ_E_FORMAT, "NPY header, byte %zu: expected %s",
                   c->offset + (size_t)(c->at - c->begin), what);
}

static bool take(cursor *c, const char *text)
{
    size_t len = strlen(text);
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n')) {
        c->at++;
    }
    if ((size_t)(c->end - c->at) < len || memcmp(c->at, text, len) != 0) {
        return false;
    }
    c->at += len;
    return true;
}

/* '<f4' and the like, with the kinds and sizes that have an element type here. */
static mq_code take_descr(cursor *c, mq_array *out)
{
    static const struct {
        const char *text;
        mq_dtype dtype;
    } kinds[] = {{"b1", MQ_DT_BOOL}, {"i1", MQ_DT_I8},  {"u1", MQ_DT_U8},  {"i2", MQ_DT_I16},
                 {"u2", MQ_DT_U16},  {"i4", MQ_DT_I32}, {"u4", MQ_DT_U32}, {"i8", MQ_DT_I64},
                 {"u8", MQ_DT_U64},  {"f2", MQ_DT_F16}, {"f4", MQ_DT_F32}, {"f8", MQ_DT_F64}};
    const char *quote = take(c, "'") ? "'" : take(c, "\"") ? "\"" : NULL;
    if (quote == NULL) {
        return expected(c, "a type such as '<f4' (records and objects are not supported)");
    }
    out->is_big_endian = take(c, ">");
    if (!out->is_big_endian && !take(c, "<") && !take(c, "|")) {
        return expected(c, "'<', '>' or '|' before a type");
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (take(c, kinds[i].text)) {
            out->dtype = kinds[i].dtype;
            return take(c, quote) ? MQ_OK : expected(c, "the quote after a type");
        }
    }
    return mq_fail(c->err, MQ_E_UNSUPPORTED,
                   "NPY type \"%.*s\" is not supported; known are b1, i1..i8, u1..u8, f2, f4, f8",
                   (int)mq_min_size((size_t)(c->end - c->at), 8), c->at);
}

/* (60000, 28, 28) or (10,) or () */
static mq_code take_shape(cursor *c, mq_shape *shape)
{
    if (!take(c, "(")) {
        return expected(c, "'(' of a shape");
    }
    while (!take(c, ")")) {
        int64_t dim = 0;
        const char *from = c->at;
        if (shape->rank == MQ_RANK_MAX) {
            return expected(c, "at most 8 dimensions");
        }
        while (c->at < c->end && *c->at >= '0' && *c->at <= '9' && dim <= MQ_DIM_MAX) {
            dim = dim * 10 + (*c->at++ - '0');
        }
        if (c->at == from || dim > MQ_DIM_MAX) {
            return expected(c, "a dimension in 0..2^31-1");
        }
        shape->dims[shape->rank++] = dim;
        if (!take(c, ",")) {
            return take(c, ")") ? MQ_OK : expected(c, "',' or ')' in a shape");
        }
    }
    return MQ_OK;
}

static mq_code take_entry(cursor *c, mq_array *out, unsigned *seen)
{
    if (take(c, "'descr':") || take(c, "\"descr\":")) {
        *seen |= 1;
        return take_descr(c, out);
    }
    if (take(c, "'fortran_order':") || take(c, "\"fortran_order\":")) {
        *seen |= 2;
        out->is_fortran = take(c, "True");
        return out->is_fortran || take(c, "False") ? MQ_OK : expected(c, "True or False");
    }
    if (take(c, "'shape':") || take(c, "\"shape\":")) {
        if ((*seen & 4) != 0) {
            return expected(c, "one shape only");
        }
        *seen |= 4;
        return take_shape(c, &out->shape);
    }
    return expected(c, "'descr', 'fortran_order' or 'shape'");
}

static mq_code parse_header(cursor *c, mq_array *out)
{
    unsigned seen = 0;
    if (!take(c, "{")) {
        return expected(c, "'{'");
    }
    while (!take(c, "}")) {
        mq_code code = take_entry(c, out, &seen);
        if (code != MQ_OK) {
            return code;
        }
        if (!take(c, ",")) {
            if (!take(c, "}")) {
                return expected(c, "',' or '}'");
            }
            break;
        }
    }
    take(c, "");
    if (c->at != c->end) {
        return expected(c, "only spaces after '}'");
    }
    return seen == 7 ? MQ_OK : expected(c, "descr, fortran_order and shape before the end");
}

static mq_code parse(mq_span bytes, mq_array *out, mq_error *err)
{
    char text[128];
    const uint8_t *b = bytes.data;
    *out = (mq_array){0};
    if (bytes.len < 10 || !detect(bytes)) {
        return mq_fail(err, MQ_E_FORMAT,
                       "byte 0: no NPY header: expected 93 'NUMPY', a version and "
                       "a header length; the file has %zu bytes",
                       bytes.len);
    }
    if (b[6] < 1 || b[6] > 3 || b[7] != 0) {
        return mq_fail(err, MQ_E_VERSION, "byte 6: NPY version %d.%d; supported are 1.0 to 3.0",
                       b[6], b[7]);
    }
    size_t before = b[6] == 1 ? 10 : 12, header = (size_t)b[8] | (size_t)b[9] << 8, count, need;
    if (before == 12 && bytes.len >= 12) {
        header |= (size_t)b[10] << 16 | (size_t)b[11] << 24;
    }
    if (bytes.len < before || header > bytes.len - before || header > (1 << 20)) {
        return mq_fail(err, MQ_E_FORMAT,
                       "NPY header of %zu bytes is cut (or longer than 1 MiB): "
                       "the file has %zu bytes",
                       header, bytes.len);
    }
    const char *start = (const char *)b + before;
    cursor c = {start, start, start + header, before, err};
    mq_error cause;
    mq_code code = parse_header(&c, out);
    if (code != MQ_OK) {
        return code;
    }
    if (mq_shape_count(&out->shape, &count, &cause) != MQ_OK) {
        return mq_fail(err, MQ_E_FORMAT, "NPY header: %s", cause.text);
    }
    out->data = mq_span_of(start + header, bytes.len - before - header);
    if (!mq_mul_size(count, mq_dtype_bytes(out->dtype), &need) || need != out->data.len) {
        return mq_fail(err, MQ_E_FORMAT,
                       "%s of %s needs %zu bytes behind the header of %zu; there are %zu: the file "
                       "is cut or has something behind its end",
                       mq_dtype_name(out->dtype), mq_shape_text(&out->shape, text, sizeof text),
                       count * mq_dtype_bytes(out->dtype), before + header, out->data.len);
    }
    return MQ_OK;
}

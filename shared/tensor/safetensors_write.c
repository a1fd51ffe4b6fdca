/* Safetensors writer; see safetensors.h. */
#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "shared/tensor/safetensors.h"

enum { PREFIX_BYTES = 8, DATA_ALIGN = 64, NAME_SHOWN = 80 };

/* Sets every entry's byte count and checks what a reader would refuse. */
static mq_code measure(mq_st_entry *entries, uint32_t count, size_t *total, mq_error *err)
{
    *total = 0;
    if (count > MQ_ST_TENSORS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "safetensors: %u tensors; the limit is %d", count,
                       MQ_ST_TENSORS_MAX);
    }
    for (uint32_t i = 0; i < count; i++) {
        mq_st_entry *e = &entries[i];
        size_t elements = 0, each = mq_dtype_bytes(e->tensor.dtype);
        bool is_plain = e->name.len > 0 && e->name.len <= MQ_ST_NAME_MAX;
        for (size_t k = 0; k < e->name.len; k++) {
            uint8_t c = e->name.data[k];
            is_plain = is_plain && c >= 0x20 && c != '"' && c != '\\';
        }
        if (!is_plain || mq_span_is(e->name, "__metadata__")) {
            return mq_fail(err, MQ_E_ARG,
                           "safetensors: tensor %u: name \"%.*s\" is not writable: "
                           "1..%d bytes without quote, backslash and control characters",
                           i, (int)mq_min_size(e->name.len, NAME_SHOWN),
                           e->name.len == 0 ? "" : (const char *)e->name.data, MQ_ST_NAME_MAX);
        }
        mq_code code = mq_shape_count(&e->tensor.shape, &elements, err);
        if (code != MQ_OK) {
            return mq_wrap(err, "safetensors: tensor \"%.*s\"", MQ_SPAN_ARG(e->name));
        }
        if (each == 0 || !mq_mul_size(elements, each, &e->tensor.bytes) ||
            !mq_add_size(*total, e->tensor.bytes, total)) {
            return mq_fail(err, MQ_E_ARG, "safetensors: tensor \"%.*s\" has no storable size",
                           (int)mq_min_size(e->name.len, NAME_SHOWN), (const char *)e->name.data);
        }
    }
    return MQ_OK;
}

/* Gives each entry its place: larger elements first, so that all stay aligned. data holds the
 * offset for now, as nothing is allocated yet. */
static void assign_offsets(mq_st_entry *entries, uint32_t count)
{
    uintptr_t at = 0;
    for (size_t each = 8; each > 0; each /= 2) {
        for (uint32_t i = 0; i < count; i++) {
            if (mq_dtype_bytes(entries[i].tensor.dtype) == each) {
                entries[i].tensor.data = (void *)at;
                at += entries[i].tensor.bytes;
            }
        }
    }
}

static void write_header(const mq_st_entry *entries, uint32_t count, mq_span metadata, mq_buf *out)
{
    mq_buf_add_str(out, "{");
    if (metadata.len > 0) {
        mq_buf_add_str(out, "\"__metadata__\":");
        mq_buf_add_span(out, metadata);
    }
    for (uint32_t i = 0; i < count; i++) {
        char shape[256];
        const mq_tensor *t = &entries[i].tensor;
        uintptr_t at = (uintptr_t)t->data;
        mq_buf_add_str(out, i > 0 || metadata.len > 0 ? ",\"" : "\"");
        mq_buf_add_span(out, entries[i].name);
        mq_buf_printf(out, "\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                      mq_dtype_safetensors(t->dtype), mq_shape_text(&t->shape, shape, sizeof shape),
                      (size_t)at, (size_t)at + t->bytes);
    }
    mq_buf_add_str(out, "}");
}

mq_code mq_safetensors_reserve(mq_st_entry *entries, uint32_t count, mq_span metadata, mq_buf *out,
                               mq_error *err)
{
    size_t total, start = out->len;
    mq_code code = measure(entries, count, &total, err);
    if (code != MQ_OK) {
        return code;
    }
    assign_offsets(entries, count);
    mq_buf_extend(out, PREFIX_BYTES);
    write_header(entries, count, metadata, out);
    while (!out->is_full && (out->len - start) % DATA_ALIGN != 0) {
        mq_buf_add(out, " ", 1);
    }
    size_t header_len = out->len - start - PREFIX_BYTES;
    uint8_t *data = mq_buf_extend(out, total);
    if (data == NULL || out->is_full) {
        return mq_fail(err, MQ_E_LIMIT, "safetensors: %zu bytes of data and the header exceed %zu",
                       total, out->limit);
    }
    if (header_len > MQ_ST_HEADER_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "safetensors: header of %zu bytes; the limit is %d",
                       header_len, MQ_ST_HEADER_MAX);
    }
    for (size_t i = 0; i < PREFIX_BYTES; i++) {
        out->data[start + i] = (uint8_t)(header_len >> (8 * i));
    }
    for (uint32_t i = 0; i < count; i++) {
        entries[i].tensor.data = data + (uintptr_t)entries[i].tensor.data;
    }
    return MQ_OK;
}

mq_code mq_safetensors_write(const mq_st_entry *entries, uint32_t count, mq_span metadata,
                             mq_buf *out, mq_error *err)
{
    mq_st_entry few[MQ_ST_INLINE], *copy = few;
    mq_arena arena;
    mq_arena_init(&arena, (size_t)1 << 20);
    if (count > MQ_ST_INLINE) {
        copy = mq_arena_new(&arena, mq_st_entry, count);
    }
    mq_code code = MQ_OK;
    if (copy == NULL) {
        code = mq_fail(err, MQ_E_LIMIT, "safetensors: %u tensors; the limit is %d", count,
                       MQ_ST_TENSORS_MAX);
    } else {
        if (count > 0) {
            memcpy(copy, entries, count * sizeof *copy);
        }
        code = mq_safetensors_reserve(copy, count, metadata, out, err);
    }
    for (uint32_t i = 0; code == MQ_OK && i < count; i++) {
        MQ_ASSERT(copy[i].tensor.bytes == entries[i].tensor.bytes);
        if (entries[i].tensor.bytes > 0) {
            memcpy(copy[i].tensor.data, entries[i].tensor.data, entries[i].tensor.bytes);
        }
    }
    mq_arena_release(&arena);
    return code;
}

/* Packs and reads registry values and the names of their fields. It must not know what is in a
 * meta. */
#include "shared/job/entry.h"

#include "shared/base/assert.h"
#include "shared/base/sha256.h"
#include "shared/wire/reader.h"
#include "shared/wire/writer.h"

enum { ENTRY_NODES_MAX = 1100, VERSION_DIGITS = 10 };

static const char *const prefixes[] = {
    [MQ_ENTRY_MODEL] = "model/", [MQ_ENTRY_ALIAS] = "model/",   [MQ_ENTRY_DATASET] = "dataset/",
    [MQ_ENTRY_MEMO] = "memo/",   [MQ_ENTRY_QUEUE] = "queue/",   [MQ_ENTRY_KIND] = "kind/",
    [MQ_ENTRY_LIMIT] = "limit/", [MQ_ENTRY_TENANT] = "tenant/", [MQ_ENTRY_CRON] = "cron/",
};

bool mq_entry_name_ok(mq_span s)
{
    if (s.len == 0 || s.len > MQ_ENTRY_NAME_MAX) {
        return false;
    }
    for (size_t i = 0; i < s.len; i++) {
        uint8_t c = s.data[i];
        if (c <= ' ' || c >= 0x7f || c == '/' || c == '@' || c == '"' || c == '\\') {
            return false;
        }
    }
    return true;
}

static size_t add(char *out, size_t len, mq_span s)
{
    MQ_ASSERT(len + s.len <= MQ_ENTRY_FIELD_MAX);
    if (s.len > 0) {
        memcpy(out + len, s.data, s.len);
    }
    return len + s.len;
}

size_t mq_entry_field(const mq_entry_key *key, char out[MQ_ENTRY_FIELD_MAX])
{
    size_t len = add(out, 0, mq_str(prefixes[key->type]));
    len = add(out, len, key->name);
    if (key->type == MQ_ENTRY_ALIAS) {
        len = add(out, len, mq_str("/a/"));
        len = add(out, len, key->alias);
    } else if (key->type == MQ_ENTRY_MODEL || key->type == MQ_ENTRY_DATASET) {
        MQ_ASSERT(key->version <= MQ_ENTRY_VERSION_MAX);
        char digits[VERSION_DIGITS];
        uint32_t n = key->version;
        for (int i = VERSION_DIGITS - 1; i >= 0; i--, n /= 10) {
            digits[i] = (char)('0' + n % 10);
        }
        len = add(out, len, mq_str("/v/"));
        len = add(out, len, mq_span_of(digits, sizeof digits));
    }
    return len;
}

static bool take(mq_span *s, const char *prefix)
{
    size_t n = strlen(prefix);
    if (s->len < n || memcmp(s->data, prefix, n) != 0) {
        return false;
    }
    *s = mq_span_of(s->data + n, s->len - n);
    return true;
}

/* "name/v/0000000001" or "name/a/alias" behind the prefix. */
static bool read_tail(mq_span s, mq_entry_key *out)
{
    size_t slash = 0;
    while (slash < s.len && s.data[slash] != '/') {
        slash++;
    }
    out->name = mq_span_of(s.data, slash);
    mq_span tail = mq_span_of(s.data + slash, s.len - slash);
    if (out->type == MQ_ENTRY_MODEL && take(&tail, "/a/")) {
        out->type = MQ_ENTRY_ALIAS;
        out->alias = tail;
        return mq_entry_name_ok(out->name) && mq_entry_name_ok(tail);
    }
    if (!take(&tail, "/v/") || tail.len != VERSION_DIGITS) {
        return false;
    }
    uint64_t n = 0;
    for (size_t i = 0; i < tail.len; i++) {
        if (tail.data[i] < '0' || tail.data[i] > '9') {
            return false;
        }
        n = n * 10 + (uint64_t)(tail.data[i] - '0');
    }
    out->version = (uint32_t)n;
    return n >= 1 && n <= MQ_ENTRY_VERSION_MAX && mq_entry_name_ok(out->name);
}

/* The other types: a name behind the prefix. */
static bool read_plain(mq_span s, mq_entry_key *out)
{
    for (size_t i = MQ_ENTRY_MEMO; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (take(&s, prefixes[i])) {
            out->type = (mq_entry_type)i;
            out->name = s;
            return s.len > 0 && s.len <= MQ_ENTRY_NAME_MAX;
        }
    }
    return false;
}

mq_code mq_entry_field_read(mq_span field, mq_entry_key *out, mq_error *err)
{
    *out = (mq_entry_key){0};
    mq_span s = field;
    bool is_ok = false;
    if (take(&s, prefixes[MQ_ENTRY_MODEL])) {
        out->type = MQ_ENTRY_MODEL;
        is_ok = read_tail(s, out);
    } else if (take(&s, prefixes[MQ_ENTRY_DATASET])) {
        out->type = MQ_ENTRY_DATASET;
        is_ok = read_tail(s, out);
    } else {
        is_ok = read_plain(s, out);
    }
    if (!is_ok) {
        return mq_fail(err, MQ_E_FORMAT, "registry field \"%.*s\": not a known form",
                       MQ_SPAN_ARG(mq_span_of(field.data, field.len < 128 ? field.len : 128)));
    }
    return MQ_OK;
}

mq_code mq_entry_pack(const mq_entry *entry, mq_buf *out, mq_error *err)
{
    MQ_ASSERT(entry->blob_count <= MQ_ENTRY_BLOBS_MAX);
    MQ_ASSERT(entry->before_count <= MQ_ENTRY_BEFORE_MAX);
    mq_writer w;
    mq_writer_init(&w, out);
    mq_write_map(&w, entry->before_count > 0 ? 11 : 10);
    mq_write_key(&w, "meta");
    mq_write_bytes(&w, entry->meta);
    mq_write_key(&w, "job");
    mq_write_text(&w, entry->job);
    mq_write_key(&w, "finger");
    mq_write_text(&w, entry->fingerprint);
    mq_write_key(&w, "at");
    mq_write_i64(&w, entry->at_ms);
    mq_write_key(&w, "version");
    mq_write_u64(&w, entry->version);
    mq_write_key(&w, "deleted");
    mq_write_bool(&w, entry->is_deleted);
    mq_write_key(&w, "paused");
    mq_write_bool(&w, entry->is_paused);
    if (entry->before_count > 0) {
        mq_write_key(&w, "before");
        mq_write_array(&w, entry->before_count);
        for (uint32_t i = 0; i < entry->before_count; i++) {
            mq_write_u64(&w, entry->before[i]);
        }
    }
    mq_write_key(&w, "drain");
    mq_write_bool(&w, entry->is_draining);
    mq_write_key(&w, "n");
    mq_write_array(&w, MQ_ENTRY_NUMBERS);
    for (uint32_t i = 0; i < MQ_ENTRY_NUMBERS; i++) {
        mq_write_u64(&w, entry->numbers[i]);
    }
    mq_write_key(&w, "blobs");
    mq_write_array(&w, entry->blob_count);
    for (uint32_t i = 0; i < entry->blob_count; i++) {
        mq_write_text(&w, entry->blobs[i]);
    }
    return out->is_full
               ? mq_fail(err, MQ_E_LIMIT, "registry value: does not fit into %zu bytes", out->limit)
               : MQ_OK;
}

static void read_blobs(mq_reader *in, mq_entry *out)
{
    uint32_t count = mq_read_array(in);
    if (count > MQ_ENTRY_BLOBS_MAX) {
        mq_reader_fault(in, MQ_E_LIMIT, "more than 1024 blobs");
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        out->blobs[i] = mq_read_text(in);
        if (!mq_sha256_is_hex(out->blobs[i])) {
            mq_reader_fault(in, MQ_E_FORMAT, "a blob's name is not 64 hex digits");
        }
    }
    out->blob_count = count;
}

static void read_before(mq_reader *in, mq_entry *out)
{
    uint32_t count = mq_read_array(in);
    if (count > MQ_ENTRY_BEFORE_MAX) {
        mq_reader_fault(in, MQ_E_LIMIT, "an alias remembers more than 16 versions");
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        out->before[i] = (uint32_t)mq_read_u64(in);
    }
    out->before_count = count;
}

static void read_numbers(mq_reader *in, mq_entry *out)
{
    uint32_t count = mq_read_array(in);
    for (uint32_t i = 0; i < count && !mq_reader_failed(in); i++) {
        uint64_t n = mq_read_u64(in);
        if (i < MQ_ENTRY_NUMBERS) { /* more: of a later version */
            out->numbers[i] = n;
        }
    }
}

static void read_entry_field(mq_reader *in, mq_span name, mq_entry *out)
{
    if (mq_span_is(name, "meta")) {
        out->meta = mq_read_bytes(in);
    } else if (mq_span_is(name, "job")) {
        out->job = mq_read_text(in);
    } else if (mq_span_is(name, "finger")) {
        out->fingerprint = mq_read_text(in);
    } else if (mq_span_is(name, "at")) {
        out->at_ms = mq_read_i64(in);
    } else if (mq_span_is(name, "version")) {
        out->version = (uint32_t)mq_read_u64(in);
    } else if (mq_span_is(name, "deleted")) {
        out->is_deleted = mq_read_bool(in);
    } else if (mq_span_is(name, "paused")) {
        out->is_paused = mq_read_bool(in);
    } else if (mq_span_is(name, "drain")) {
        out->is_draining = mq_read_bool(in);
    } else if (mq_span_is(name, "n")) {
        read_numbers(in, out);
    } else if (mq_span_is(name, "blobs")) {
        read_blobs(in, out);
    } else if (mq_span_is(name, "before")) {
        read_before(in, out);
    } else {
        mq_read_skip(in);
    }
}

mq_code mq_entry_read(mq_span packed, mq_entry *out, mq_error *err)
{
    memset(out, 0, offsetof(mq_entry, blobs));
    mq_reader in;
    mq_reader_init(&in, packed, ENTRY_NODES_MAX);
    uint32_t count = mq_read_map(&in);
    for (uint32_t i = 0; i < count && !mq_reader_failed(&in); i++) {
        mq_span name = mq_read_text(&in);
        read_entry_field(&in, name, out);
    }
    return mq_reader_done(&in, "registry value", err);
}

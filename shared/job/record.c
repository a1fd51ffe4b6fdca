/* Packs and reads a job's record; the fields are in record.def. It must not know who decides what
 * is in it, nor where it is kept. */
#include "shared/job/record.h"

#include "shared/base/assert.h"
#include "shared/wire/reader.h"
#include "shared/wire/writer.h"

enum { RECORD_NODES_MAX = 1024 };

_Static_assert(MQ_STATE_COUNT <= 16 && MQ_EVENT_COUNT <= 16, "a transition packs both into 4 bits");

uint64_t mq_transition_pack(mq_transition t)
{
    MQ_ASSERT(t.at_ms >= 0 && t.at_ms < INT64_C(1) << 44);
    return (uint64_t)t.at_ms << 20 | (uint64_t)(t.grants & 0xfff) << 8 | (uint64_t)t.event << 4 |
           (uint64_t)t.to;
}

mq_transition mq_transition_unpack(uint64_t word)
{
    return (mq_transition){.at_ms = (int64_t)(word >> 20),
                           .grants = (uint32_t)(word >> 8 & 0xfff),
                           .event = (mq_event)(word >> 4 & 0xf),
                           .to = (mq_state)(word & 0xf)};
}

/* Returns how many of them there are. */
static uint32_t write_lists(mq_writer *w, const mq_job_record *r)
{
    if (r->dep_count > 0) {
        mq_write_key(w, "deps");
        mq_write_array(w, r->dep_count);
        for (uint32_t i = 0; i < r->dep_count; i++) {
            mq_write_text(w, r->deps[i]);
        }
    }
    if (r->member_count > 0) {
        mq_write_key(w, "mem");
        mq_write_array(w, (size_t)r->member_count * 3);
        for (uint32_t i = 0; i < r->member_count; i++) {
            mq_write_u64(w, r->members[i].seat);
            mq_write_u64(w, r->members[i].grant);
            mq_write_text(w, r->members[i].worker);
        }
    }
    if (r->history_count > 0) {
        mq_write_key(w, "hist");
        mq_write_array(w, r->history_count);
        for (uint32_t i = 0; i < r->history_count; i++) {
            mq_write_u64(w, r->history[i]);
        }
    }
    return (r->dep_count > 0 ? 1U : 0U) + (r->member_count > 0 ? 1U : 0U) +
           (r->history_count > 0 ? 1U : 0U);
}

/* Writes the count into the map's head at `from`, which has room for 65,535: as nearly all records
 * have 16 fields or more, it is what the count needs. */
static void close_map(mq_buf *out, size_t from, uint32_t count)
{
    uint8_t *head = out->data + from;
    if (out->is_full) {
        return;
    }
    if (count < 16) {
        head[0] = (uint8_t)(0x80 | count);
        memmove(head + 1, head + 3, out->len - from - 3);
        out->len -= 2;
    } else {
        head[1] = (uint8_t)(count >> 8);
        head[2] = (uint8_t)count;
    }
}

mq_code mq_job_record_pack(const mq_job_record *record, mq_buf *out, mq_error *err)
{
    const mq_job_record *r = record;
    MQ_ASSERT(r->dep_count <= MQ_RECORD_DEPS_MAX && r->member_count <= MQ_RECORD_MEMBERS_MAX);
    MQ_ASSERT(r->history_count <= MQ_RECORD_HISTORY_MAX);
    mq_writer w;
    mq_writer_init(&w, out);
    size_t from = out->len;
    uint32_t count = 0;
    const uint8_t map_head[3] = {0xde};
    (void)mq_buf_add(out, map_head, sizeof map_head);
#define MQ_REC_U64(field, key)                                                                     \
    if (r->field != 0) {                                                                           \
        count++;                                                                                   \
        mq_write_key_u64(&w, key, r->field);                                                       \
    }
#define MQ_REC_I64(field, key)                                                                     \
    if (r->field != 0) {                                                                           \
        count++;                                                                                   \
        mq_write_key(&w, key);                                                                     \
        mq_write_i64(&w, r->field);                                                                \
    }
#define MQ_REC_TEXT(field, key, max)                                                               \
    MQ_ASSERT(r->field.len <= (max));                                                              \
    if (r->field.len > 0) {                                                                        \
        count++;                                                                                   \
        mq_write_key(&w, key);                                                                     \
        mq_write_text(&w, r->field);                                                               \
    }
#define MQ_REC_BYTES(field, key, max)                                                              \
    MQ_ASSERT(r->field.len <= (max));                                                              \
    if (r->field.len > 0) {                                                                        \
        count++;                                                                                   \
        mq_write_key(&w, key);                                                                     \
        mq_write_bytes(&w, r->field);                                                              \
    }
#include "shared/job/record.def"
#undef MQ_REC_U64
#undef MQ_REC_I64
#undef MQ_REC_TEXT
#undef MQ_REC_BYTES
    count += write_lists(&w, r);
    close_map(out, from, count);
    if (out->is_full) {
        return mq_fail(err, MQ_E_LIMIT, "job record: does not fit into %zu bytes", out->limit);
    }
    return MQ_OK;
}

static void read_deps(mq_reader *in, mq_job_record *r)
{
    uint32_t count = mq_read_array(in);
    if (count > MQ_RECORD_DEPS_MAX) {
        mq_reader_fault(in, MQ_E_LIMIT, "more than 64 deps");
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        r->deps[i] = mq_read_text(in);
        if (r->deps[i].len > 32) {
            mq_reader_fault(in, MQ_E_LIMIT, "a dep is longer than 32 bytes");
        }
    }
    r->dep_count = count;
}

static void read_members(mq_reader *in, mq_job_record *r)
{
    uint32_t count = mq_read_array(in);
    if (count % 3 != 0 || count / 3 > MQ_RECORD_MEMBERS_MAX) {
        mq_reader_fault(in, MQ_E_LIMIT, "members are not at most 64 triples");
        return;
    }
    for (uint32_t i = 0; i < count / 3; i++) {
        r->members[i].seat = mq_read_u64(in);
        r->members[i].grant = mq_read_u64(in);
        r->members[i].worker = mq_read_text(in);
        if (r->members[i].worker.len > 32) {
            mq_reader_fault(in, MQ_E_LIMIT, "a member's worker is longer than 32 bytes");
        }
    }
    r->member_count = count / 3;
}

static void read_history(mq_reader *in, mq_job_record *r)
{
    uint32_t count = mq_read_array(in);
    if (count > MQ_RECORD_HISTORY_MAX) {
        mq_reader_fault(in, MQ_E_LIMIT, "more than 16 transitions");
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        r->history[i] = mq_read_u64(in);
    }
    r->history_count = count;
}

static void read_field(mq_reader *in, mq_span name, mq_job_record *r)
{
#define MQ_REC_U64(field, key)                                                                     \
    if (mq_span_is(name, key)) {                                                                   \
        r->field = mq_read_u64(in);                                                                \
        return;                                                                                    \
    }
#define MQ_REC_I64(field, key)                                                                     \
    if (mq_span_is(name, key)) {                                                                   \
        r->field = mq_read_i64(in);                                                                \
        return;                                                                                    \
    }
#define READ_SPAN(field, key, max, read)                                                           \
    if (mq_span_is(name, key)) {                                                                   \
        r->field = read(in);                                                                       \
        if (r->field.len > (max)) {                                                                \
            mq_reader_fault(in, MQ_E_LIMIT, key " is longer than " #max " bytes");                 \
        }                                                                                          \
        return;                                                                                    \
    }
#define MQ_REC_TEXT(field, key, max)  READ_SPAN(field, key, max, mq_read_text)
#define MQ_REC_BYTES(field, key, max) READ_SPAN(field, key, max, mq_read_bytes)
#include "shared/job/record.def"
#undef MQ_REC_U64
#undef MQ_REC_I64
#undef MQ_REC_TEXT
#undef MQ_REC_BYTES
#undef READ_SPAN
    if (mq_span_is(name, "deps")) {
        read_deps(in, r);
    } else if (mq_span_is(name, "mem")) {
        read_members(in, r);
    } else if (mq_span_is(name, "hist")) {
        read_history(in, r);
    } else {
        mq_read_skip(in);
    }
}

mq_code mq_job_record_read(mq_span packed, mq_job_record *out, mq_error *err)
{
    memset(out, 0, sizeof *out);
    mq_reader in;
    mq_reader_init(&in, packed, RECORD_NODES_MAX);
    uint32_t count = mq_read_map(&in);
    for (uint32_t i = 0; i < count && !mq_reader_failed(&in); i++) {
        mq_span name = mq_read_text(&in);
        read_field(&in, name, out);
    }
    mq_code code = mq_reader_done(&in, "job record", err);
    if (code != MQ_OK) {
        return code;
    }
    if (out->id.len == 0 || out->kind.len == 0) {
        return mq_fail(err, MQ_E_FORMAT, "job record: id or kind is missing");
    }
    if (mq_state_parse(out->state) == MQ_STATE_REFUSED) {
        return mq_fail(err, MQ_E_FORMAT, "job record: state \"%.*s\" is not known",
                       MQ_SPAN_ARG(out->state));
    }
    return MQ_OK;
}

static bool lists_equal(const mq_job_record *a, const mq_job_record *b, const char **field)
{
    *field = "deps";
    if (a->dep_count != b->dep_count) {
        return false;
    }
    for (uint32_t i = 0; i < a->dep_count; i++) { /* a set: a takeover may turn the order */
        uint32_t k = 0;
        while (k < b->dep_count && !mq_span_eq(a->deps[i], b->deps[k])) {
            k++;
        }
        if (k == b->dep_count) {
            return false;
        }
    }
    *field = "members";
    if (a->member_count != b->member_count) {
        return false;
    }
    for (uint32_t i = 0; i < a->member_count; i++) {
        const mq_record_member *x = &a->members[i];
        const mq_record_member *y = &b->members[i];
        if (x->seat != y->seat || x->grant != y->grant || !mq_span_eq(x->worker, y->worker)) {
            return false;
        }
    }
    *field = "history";
    return a->history_count == b->history_count &&
           memcmp(a->history, b->history, sizeof a->history[0] * a->history_count) == 0;
}

bool mq_job_record_equal(const mq_job_record *a, const mq_job_record *b, const char **field)
{
    const char *ignored;
    field = field != NULL ? field : &ignored;
#define MQ_REC_U64(name, key)                                                                      \
    if (a->name != b->name) {                                                                      \
        *field = #name;                                                                            \
        return false;                                                                              \
    }
#define MQ_REC_I64(name, key) MQ_REC_U64(name, key)
#define MQ_REC_TEXT(name, key, max)                                                                \
    if (!mq_span_eq(a->name, b->name)) {                                                           \
        *field = #name;                                                                            \
        return false;                                                                              \
    }
#define MQ_REC_BYTES(name, key, max) MQ_REC_TEXT(name, key, max)
#include "shared/job/record.def"
#undef MQ_REC_U64
#undef MQ_REC_I64
#undef MQ_REC_TEXT
#undef MQ_REC_BYTES
    return lists_equal(a, b, field);
}

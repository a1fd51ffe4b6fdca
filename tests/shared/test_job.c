/* shared/job: the life cycle for every state and event, kinds, backoff, records, registry values.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shared/job/entry.h"
#include "shared/job/kinds.h"
#include "shared/job/lifecycle.h"
#include "shared/job/record.h"
#include "shared/job/retry.h"
#include "shared/wire/writer.h"

/* The rules of the life in words, written apart from the table: what each event may do. */
static mq_state expected(mq_state from, mq_event event)
{
    bool is_terminal = from == MQ_STATE_SUCCEEDED || from == MQ_STATE_DEAD ||
                       from == MQ_STATE_CANCELLED || from == MQ_STATE_EXPIRED;
    bool is_waiting =
        from == MQ_STATE_BLOCKED || from == MQ_STATE_SCHEDULED || from == MQ_STATE_QUEUED;
    if (event == MQ_EVENT_REQUEUE) {
        return from == MQ_STATE_DEAD ? MQ_STATE_QUEUED : MQ_STATE_REFUSED;
    }
    if (is_terminal) {
        return MQ_STATE_REFUSED;
    }
    switch (event) {
    case MQ_EVENT_SUBMIT:
        return from == MQ_STATE_NONE ? MQ_STATE_QUEUED : MQ_STATE_REFUSED;
    case MQ_EVENT_BLOCK:
        return from == MQ_STATE_NONE ? MQ_STATE_BLOCKED : MQ_STATE_REFUSED;
    case MQ_EVENT_DELAY:
        return from == MQ_STATE_NONE || from == MQ_STATE_BLOCKED ? MQ_STATE_SCHEDULED
                                                                 : MQ_STATE_REFUSED;
    case MQ_EVENT_RELEASE:
        return from == MQ_STATE_BLOCKED ? MQ_STATE_QUEUED : MQ_STATE_REFUSED;
    case MQ_EVENT_DUE:
        return from == MQ_STATE_SCHEDULED ? MQ_STATE_QUEUED : MQ_STATE_REFUSED;
    case MQ_EVENT_GRANT:
        return from == MQ_STATE_QUEUED ? MQ_STATE_LEASED : MQ_STATE_REFUSED;
    case MQ_EVENT_COMPLETE:
        return from == MQ_STATE_BLOCKED ? MQ_STATE_REFUSED : MQ_STATE_SUCCEEDED;
    case MQ_EVENT_RETRY:
        return from == MQ_STATE_LEASED ? MQ_STATE_SCHEDULED : MQ_STATE_REFUSED;
    case MQ_EVENT_FAIL:
        return from == MQ_STATE_LEASED ? MQ_STATE_DEAD : MQ_STATE_REFUSED;
    case MQ_EVENT_LAPSE:
        return from == MQ_STATE_LEASED ? MQ_STATE_QUEUED : MQ_STATE_REFUSED;
    case MQ_EVENT_CANCEL:
        return MQ_STATE_CANCELLED;
    case MQ_EVENT_EXPIRE:
        return is_waiting ? MQ_STATE_EXPIRED : MQ_STATE_REFUSED;
    case MQ_EVENT_REQUEUE:
    case MQ_EVENT_COUNT:
        break;
    }
    return MQ_STATE_REFUSED;
}

static void every_state_and_event_does_what_the_rules_say(void **unused)
{
    (void)unused;
    for (unsigned s = 0; s < MQ_STATE_COUNT; s++) {
        for (unsigned e = 0; e < MQ_EVENT_COUNT; e++) {
            mq_state got = mq_lifecycle_next((mq_state)s, (mq_event)e);
            if (got != expected((mq_state)s, (mq_event)e)) {
                fail_msg("%s + %s gives %s", mq_state_name((mq_state)s), mq_event_name((mq_event)e),
                         mq_state_name(got));
            }
        }
    }
}

static void only_a_dead_job_leaves_a_terminal_state(void **unused)
{
    (void)unused;
    for (unsigned s = 0; s < MQ_STATE_COUNT; s++) {
        for (unsigned e = 0; e < MQ_EVENT_COUNT && mq_state_is_terminal((mq_state)s); e++) {
            bool may = s == MQ_STATE_DEAD && e == MQ_EVENT_REQUEUE;
            assert_int_equal(mq_lifecycle_next((mq_state)s, (mq_event)e) != MQ_STATE_REFUSED, may);
        }
    }
}

static void names_of_states_read_back(void **unused)
{
    (void)unused;
    for (unsigned s = 0; s < MQ_STATE_COUNT; s++) {
        assert_int_equal(mq_state_parse(mq_str(mq_state_name((mq_state)s))), s);
    }
    assert_int_equal(mq_state_parse(mq_str("running")), MQ_STATE_REFUSED);
}

static void kinds_have_policies_and_own_kinds_a_default(void **unused)
{
    (void)unused;
    for (uint32_t i = 0; i < mq_kind_policy_count(); i++) {
        const mq_kind_policy *kind = mq_kind_policy_at(i);
        assert_ptr_equal(mq_kind_policy_find(mq_str(kind->name)), kind);
        assert_true(kind->max_run_ms > 0 && kind->attempts_max > 0 && kind->body_bytes_max > 0);
    }
    assert_true(mq_kind_policy_find(mq_str("train"))->is_gang);
    assert_true(mq_kind_policy_find(mq_str("infer"))->is_transient);
    assert_null(mq_kind_policy_find(mq_str("my.own")));
    assert_false(mq_kind_policy_of(mq_str("my.own"))->is_gang);
}

static void backoff_doubles_to_its_ceiling_and_jitters_below_it(void **unused)
{
    (void)unused;
    assert_int_equal(mq_retry_ceiling_ms(1), 2000);
    assert_int_equal(mq_retry_ceiling_ms(5), 32000);
    assert_int_equal(mq_retry_ceiling_ms(9), MQ_RETRY_MAX_MS);
    assert_int_equal(mq_retry_ceiling_ms(UINT32_MAX), MQ_RETRY_MAX_MS);
    mq_prng prng = {42};
    int64_t least = INT64_MAX;
    int64_t most = 0;
    for (int i = 0; i < 2000; i++) {
        int64_t ms = mq_retry_delay_ms(3, &prng);
        assert_in_range(ms, 0, 8000);
        least = ms < least ? ms : least;
        most = ms > most ? ms : most;
    }
    assert_true(least < 400 && most > 7600);
}

static void fill(mq_job_record *r)
{
    static const char text[] = "0123456789abcdef0123456789abcdef";
    memset(r, 0, sizeof *r);
    uint64_t n = 1;
#define MQ_REC_U64(field, key)        r->field = n++ * 1000003;
#define MQ_REC_I64(field, key)        r->field = (int64_t)(n++ * 77777777);
#define MQ_REC_TEXT(field, key, max)  r->field = mq_span_of(text, (max) < 32 ? (max) : 32);
#define MQ_REC_BYTES(field, key, max) MQ_REC_TEXT(field, key, max)
#include "shared/job/record.def"
#undef MQ_REC_U64
#undef MQ_REC_I64
#undef MQ_REC_TEXT
#undef MQ_REC_BYTES
    r->state = mq_str("leased");
    r->dep_count = MQ_RECORD_DEPS_MAX;
    for (uint32_t i = 0; i < r->dep_count; i++) {
        r->deps[i] = mq_span_of(text, i % 26 + 1);
    }
    r->member_count = MQ_RECORD_MEMBERS_MAX;
    for (uint32_t i = 0; i < r->member_count; i++) {
        r->members[i] = (mq_record_member){i, UINT64_MAX - i, mq_span_of(text, 32)};
    }
    r->history_count = MQ_RECORD_HISTORY_MAX;
    for (uint32_t i = 0; i < r->history_count; i++) {
        r->history[i] = mq_transition_pack(
            (mq_transition){1700000000000 + i, i * 300, MQ_EVENT_GRANT, MQ_STATE_LEASED});
    }
}

static void a_record_reads_back_field_by_field(void **unused)
{
    (void)unused;
    mq_job_record *in = malloc(sizeof *in);
    mq_job_record *out = malloc(sizeof *out);
    mq_buf buf;
    mq_error err = {0};
    const char *field = "";
    mq_buf_init(&buf, MQ_RECORD_BYTES_MAX);
    fill(in);
    assert_int_equal(mq_job_record_pack(in, &buf, &err), MQ_OK);
    assert_int_equal(mq_job_record_read(mq_buf_span(&buf), out, &err), MQ_OK);
    if (!mq_job_record_equal(in, out, &field)) {
        fail_msg("field %s differs", field);
    }
    out->attempts++;
    assert_false(mq_job_record_equal(in, out, &field));
    assert_string_equal(field, "attempts");
    mq_buf_release(&buf);
    free(in);
    free(out);
}

static void a_damaged_record_is_refused_and_never_overread(void **unused)
{
    (void)unused;
    mq_job_record *r = malloc(sizeof *r);
    mq_buf buf;
    mq_error err = {0};
    mq_buf_init(&buf, MQ_RECORD_BYTES_MAX);
    fill(r);
    assert_int_equal(mq_job_record_pack(r, &buf, &err), MQ_OK);
    for (size_t len = 0; len < buf.len; len++) {
        uint8_t *cut = malloc(len + 1);
        memcpy(cut, buf.data, len);
        assert_int_not_equal(mq_job_record_read(mq_span_of(cut, len), r, &err), MQ_OK);
        free(cut);
    }
    mq_prng prng = {7};
    for (int i = 0; i < 20000; i++) { /* any outcome but a crash */
        size_t at = mq_prng_below(&prng, buf.len);
        uint8_t was = buf.data[at];
        buf.data[at] = (uint8_t)mq_prng_next(&prng);
        (void)!mq_job_record_read(mq_buf_span(&buf), r, &err);
        buf.data[at] = was;
    }
    mq_buf_release(&buf);
    free(r);
}

static void a_record_without_its_state_is_refused(void **unused)
{
    (void)unused;
    mq_buf buf;
    mq_error err = {0};
    mq_buf_init(&buf, 256);
    mq_writer w;
    mq_writer_init(&w, &buf);
    mq_write_map(&w, 3);
    mq_write_key(&w, "id");
    mq_write_text(&w, mq_str("x"));
    mq_write_key(&w, "kind");
    mq_write_text(&w, mq_str("echo"));
    mq_write_key(&w, "st");
    mq_write_text(&w, mq_str("flying"));
    mq_job_record *r = malloc(sizeof *r);
    assert_int_equal(mq_job_record_read(mq_buf_span(&buf), r, &err), MQ_E_FORMAT);
    assert_non_null(strstr(err.text, "flying"));
    free(r);
    mq_buf_release(&buf);
}

static void registry_fields_read_back(void **unused)
{
    (void)unused;
    static const mq_entry_key keys[] = {
        {MQ_ENTRY_MODEL, {(const uint8_t *)"m", 1}, {0}, 17},
        {MQ_ENTRY_ALIAS, {(const uint8_t *)"m", 1}, {(const uint8_t *)"prod", 4}, 0},
        {MQ_ENTRY_DATASET, {(const uint8_t *)"fashion", 7}, {0}, 999999999},
        {MQ_ENTRY_MEMO, {(const uint8_t *)"a/b@c", 5}, {0}, 0},
        {MQ_ENTRY_QUEUE, {(const uint8_t *)"default", 7}, {0}, 0},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        char field[MQ_ENTRY_FIELD_MAX];
        mq_entry_key out;
        mq_error err = {0};
        size_t len = mq_entry_field(&keys[i], field);
        assert_int_equal(mq_entry_field_read(mq_span_of(field, len), &out, &err), MQ_OK);
        assert_int_equal(out.type, keys[i].type);
        assert_int_equal(out.version, keys[i].version);
        assert_true(mq_span_eq(out.name, keys[i].name));
        assert_true(mq_span_eq(out.alias, keys[i].alias));
    }
    static const char *const bad[] = {"",           "model/",           "model/m",
                                      "model/m/v/", "model/m/v/1",      "model/m/v/000000000x",
                                      "model/m/a/", "dataset/d/a/prod", "memo/",
                                      "other/x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        mq_entry_key out;
        assert_int_equal(mq_entry_field_read(mq_str(bad[i]), &out, NULL), MQ_E_FORMAT);
    }
}

static void registry_values_read_back(void **unused)
{
    (void)unused;
    static const char hash[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    mq_entry *in = calloc(1, sizeof *in);
    mq_entry *out = calloc(1, sizeof *out);
    mq_buf buf;
    mq_error err = {0};
    mq_buf_init(&buf, MQ_ENTRY_BYTES_MAX);
    in->meta = mq_str("{\"a\":1}");
    in->job = mq_str("01J");
    in->fingerprint = mq_str("fp");
    in->at_ms = 1700000000000;
    in->before_count = MQ_ENTRY_BEFORE_MAX;
    in->before[0] = 7;
    in->before[MQ_ENTRY_BEFORE_MAX - 1] = MQ_ENTRY_VERSION_MAX;
    in->blob_count = MQ_ENTRY_BLOBS_MAX;
    for (uint32_t i = 0; i < in->blob_count; i++) {
        in->blobs[i] = mq_str(hash);
    }
    assert_int_equal(mq_entry_pack(in, &buf, &err), MQ_OK);
    assert_int_equal(mq_entry_read(mq_buf_span(&buf), out, &err), MQ_OK);
    assert_true(mq_span_eq(in->meta, out->meta) && mq_span_eq(in->job, out->job));
    assert_int_equal(out->blob_count, in->blob_count);
    assert_int_equal(out->at_ms, in->at_ms);
    assert_int_equal(out->before_count, in->before_count);
    assert_memory_equal(out->before, in->before, sizeof in->before);
    assert_int_not_equal(mq_entry_read(mq_span_of(buf.data, buf.len - 1), out, &err), MQ_OK);
    mq_buf_release(&buf);
    free(in);
    free(out);
}

static void names_of_models_are_checked(void **unused)
{
    (void)unused;
    assert_true(mq_entry_name_ok(mq_str("fashion-mlp_2.0")));
    static const char *const bad[] = {"", "a b", "a/b", "a@b", "a\"b", "a\\b", "\x7f", "\xc3\xa4"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(mq_entry_name_ok(mq_str(bad[i])));
    }
}

static void a_backoff_of_its_own_stays_below_its_ceiling(void **unused)
{
    (void)unused;
    mq_prng prng = {9};
    int64_t most = 0;
    for (int i = 0; i < 2000; i++) {
        assert_in_range(mq_retry_delay_own(0, 10, 1000, &prng), 0, 10);
        assert_in_range(mq_retry_delay_own(3, 10, 1000, &prng), 0, 80);
        assert_in_range(mq_retry_delay_own(60, 10, 1000, &prng), 0, 1000);
        assert_in_range(mq_retry_delay_own(UINT32_MAX, INT64_MAX / 2, INT64_MAX - 1, &prng), 0,
                        INT64_MAX - 1);
        int64_t ms = mq_retry_delay_own(3, 10, 1000, &prng);
        most = ms > most ? ms : most;
    }
    assert_in_range(most, 70, 80); /* full jitter: the whole range is used */
    assert_in_range(mq_retry_delay_own(1, 0, 0, &prng), 0, 2 * MQ_RETRY_BASE_MS);
    assert_in_range(mq_retry_delay_own(1, 600000, 0, &prng), 0, MQ_RETRY_MAX_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_state_and_event_does_what_the_rules_say),
        cmocka_unit_test(only_a_dead_job_leaves_a_terminal_state),
        cmocka_unit_test(names_of_states_read_back),
        cmocka_unit_test(kinds_have_policies_and_own_kinds_a_default),
        cmocka_unit_test(backoff_doubles_to_its_ceiling_and_jitters_below_it),
        cmocka_unit_test(a_record_reads_back_field_by_field),
        cmocka_unit_test(a_damaged_record_is_refused_and_never_overread),
        cmocka_unit_test(a_record_without_its_state_is_refused),
        cmocka_unit_test(registry_fields_read_back),
        cmocka_unit_test(registry_values_read_back),
        cmocka_unit_test(names_of_models_are_checked),
        cmocka_unit_test(a_backoff_of_its_own_stays_below_its_ceiling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

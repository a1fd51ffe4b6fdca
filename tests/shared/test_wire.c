/* Messages and the checked MessagePack cursor. The tests walk the table, so a new message is tested
 * by being there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shared/base/prng.h"
#include "shared/wire/messages.h"
#include "shared/wire/reader.h"
#include "shared/wire/table.h"
#include "shared/wire/writer.h"

enum { ARENA_BYTES = 16 << 20, STRUCT_BYTES = 1024, ROUNDS = 40 };

/* ---- random messages, whatever their shape ---- */

static mq_span random_text(mq_prng *rng, mq_arena *arena, uint32_t max)
{
    uint32_t bound = mq_prng_below(rng, 8) == 0 ? max : (max < 40 ? max : 40);
    size_t len = mq_prng_below(rng, 4) == 0 ? 0 : mq_prng_below(rng, (uint64_t)bound + 1);
    uint8_t *bytes = mq_arena_alloc(arena, len + 1, 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t)mq_prng_next(rng);
    }
    return mq_span_of(bytes, len);
}

static uint64_t random_number(mq_prng *rng)
{
    uint64_t bits = mq_prng_below(rng, 65);
    return bits == 0 ? 0 : mq_prng_next(rng) >> (64 - bits);
}

static void fill(mq_prng *rng, mq_arena *arena, const mq_shape *shape, uint8_t *message);

static void fill_field(mq_prng *rng, mq_arena *arena, const mq_field *f, uint8_t *message)
{
    uint32_t few = f->count_max < 3 ? f->count_max : 3;
    uint32_t count = (uint32_t)mq_prng_below(rng, (uint64_t)few + 1);
    switch (f->type) {
    case MQ_FIELD_U64:
    case MQ_FIELD_I64:
        *(uint64_t *)(void *)(message + f->offset) = random_number(rng);
        return;
    case MQ_FIELD_BOOL:
        *(bool *)(message + f->offset) = mq_prng_below(rng, 2) == 1;
        return;
    case MQ_FIELD_TEXT:
        *(mq_span *)(void *)(message + f->offset) = random_text(rng, arena, f->text_max);
        return;
    case MQ_FIELD_TEXTS: {
        mq_span *texts = mq_arena_new(arena, mq_span, count + 1);
        for (uint32_t i = 0; i < count; i++) {
            texts[i] = random_text(rng, arena, f->text_max);
        }
        *(mq_span **)(void *)(message + f->offset) = texts;
        *(uint32_t *)(void *)(message + f->count_offset) = count;
        return;
    }
    case MQ_FIELD_LIST: {
        uint8_t *items = mq_arena_alloc(arena, count + 1, f->item->size);
        for (uint32_t i = 0; i < count; i++) {
            fill(rng, arena, f->item, items + (size_t)i * f->item->size);
        }
        *(uint8_t **)(void *)(message + f->offset) = items;
        *(uint32_t *)(void *)(message + f->count_offset) = count;
        return;
    }
    }
}

static void fill(mq_prng *rng, mq_arena *arena, const mq_shape *shape, uint8_t *message)
{
    for (uint32_t i = 0; i < shape->field_count; i++) {
        if (mq_prng_below(rng, 4) != 0) {
            fill_field(rng, arena, &shape->fields[i], message);
        }
    }
}

static void assert_same(const mq_shape *shape, const uint8_t *a, const uint8_t *b);

static void assert_same_list(const mq_field *f, const uint8_t *a, const uint8_t *b)
{
    uint32_t count = *(const uint32_t *)(const void *)(a + f->count_offset);
    assert_int_equal(count, *(const uint32_t *)(const void *)(b + f->count_offset));
    const uint8_t *x = *(const uint8_t *const *)(const void *)(a + f->offset);
    const uint8_t *y = *(const uint8_t *const *)(const void *)(b + f->offset);
    for (uint32_t i = 0; i < count; i++) {
        if (f->type == MQ_FIELD_LIST) {
            assert_same(f->item, x + (size_t)i * f->item->size, y + (size_t)i * f->item->size);
        } else {
            assert_true(mq_span_eq(((const mq_span *)(const void *)x)[i],
                                   ((const mq_span *)(const void *)y)[i]));
        }
    }
}

static void assert_same(const mq_shape *shape, const uint8_t *a, const uint8_t *b)
{
    for (uint32_t i = 0; i < shape->field_count; i++) {
        const mq_field *f = &shape->fields[i];
        const void *x = a + f->offset;
        const void *y = b + f->offset;
        switch (f->type) {
        case MQ_FIELD_U64:
        case MQ_FIELD_I64:
            assert_int_equal(*(const uint64_t *)x, *(const uint64_t *)y);
            break;
        case MQ_FIELD_BOOL:
            assert_int_equal(*(const bool *)x, *(const bool *)y);
            break;
        case MQ_FIELD_TEXT:
            assert_true(mq_span_eq(*(const mq_span *)x, *(const mq_span *)y));
            break;
        case MQ_FIELD_TEXTS:
        case MQ_FIELD_LIST:
            assert_same_list(f, a, b);
            break;
        }
    }
}

typedef struct world {
    mq_arena arena;
    mq_buf buf;
    mq_prng rng;
    _Alignas(16) uint8_t sent[STRUCT_BYTES];
    _Alignas(16) uint8_t got[STRUCT_BYTES];
} world;

static void world_init(world *w, uint64_t seed)
{
    mq_arena_init(&w->arena, ARENA_BYTES);
    mq_buf_init(&w->buf, MQ_HEADER_BYTES_MAX);
    w->rng = (mq_prng){seed};
}

static void world_release(world *w)
{
    mq_arena_release(&w->arena);
    mq_buf_release(&w->buf);
}

static void encode_random(world *w, mq_command command)
{
    const mq_shape *shape = mq_wire_shape(command);
    assert_true(shape->size <= STRUCT_BYTES);
    mq_arena_reset(&w->arena);
    mq_buf_reset(&w->buf);
    memset(w->sent, 0, sizeof w->sent);
    fill(&w->rng, &w->arena, shape, w->sent);
    mq_error err = {.text = ""};
    assert_int_equal(mq_wire_encode(command, w->sent, &w->buf, &err), MQ_OK);
}

/* Decodes a copy of exactly the given bytes, so that a sanitizer sees every byte read beyond. */
static mq_code decode_copy(world *w, mq_command command, const void *bytes, size_t len,
                           mq_error *err)
{
    uint8_t *copy = malloc(len == 0 ? 1 : len);
    assert_non_null(copy);
    memcpy(copy, bytes, len);
    mq_code code = mq_wire_decode(command, mq_span_of(copy, len), w->got, &w->arena, err);
    free(copy);
    return code;
}

/* Moves to the next command of the table; false after the last one. */
static bool next_command(mq_command *command)
{
    int number = (int)*command + 1;
    while (number <= MQ_COMMAND_MAX && mq_wire_shape((mq_command)number) == NULL) {
        number++;
    }
    *command = (mq_command)number;
    return number <= MQ_COMMAND_MAX;
}

#define EACH_COMMAND(command) for (mq_command command = MQ_CMD_none; next_command(&command);)

static void every_message_comes_back_as_it_was_sent(void **state)
{
    (void)state;
    world w;
    world_init(&w, 1);
    mq_arena received;
    mq_arena_init(&received, ARENA_BYTES);
    EACH_COMMAND(command)
    {
        for (int round = 0; round < ROUNDS; round++) {
            encode_random(&w, command);
            mq_arena_reset(&received);
            mq_error err = {.text = ""};
            mq_code code = mq_wire_decode(command, mq_buf_span(&w.buf), w.got, &received, &err);
            assert_string_equal(err.text, "");
            assert_int_equal(code, MQ_OK);
            assert_same(mq_wire_shape(command), w.sent, w.got);
        }
    }
    mq_arena_release(&received);
    world_release(&w);
}

static void a_message_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    world w;
    world_init(&w, 2);
    EACH_COMMAND(command)
    {
        for (int round = 0; round < 4; round++) {
            encode_random(&w, command);
            size_t step = 1 + w.buf.len / 400;
            for (size_t len = 0; len < w.buf.len; len += step) {
                mq_error err = {.text = ""};
                assert_int_not_equal(decode_copy(&w, command, w.buf.data, len, &err), MQ_OK);
                assert_string_not_equal(err.text, "");
            }
        }
    }
    world_release(&w);
}

static void flipped_bits_are_refused_or_read_as_another_valid_message(void **state)
{
    (void)state;
    world w;
    world_init(&w, 3);
    uint32_t refused = 0;
    EACH_COMMAND(command)
    {
        for (int round = 0; round < 200; round++) {
            encode_random(&w, command);
            for (uint64_t flips = 1 + mq_prng_below(&w.rng, 3); flips > 0; flips--) {
                uint64_t bit = mq_prng_below(&w.rng, w.buf.len * 8);
                w.buf.data[bit / 8] ^= (uint8_t)(1U << (bit % 8));
            }
            mq_code code = mq_wire_decode(command, mq_buf_span(&w.buf), w.got, &w.arena, NULL);
            refused += code != MQ_OK;
            if (code == MQ_OK) {
                mq_buf again;
                mq_buf_init(&again, MQ_HEADER_BYTES_MAX);
                assert_int_equal(mq_wire_encode(command, w.got, &again, NULL), MQ_OK);
                mq_buf_release(&again);
            }
        }
    }
    assert_true(refused > 1000);
    world_release(&w);
}

static void random_bytes_never_crash_the_decoder(void **state)
{
    (void)state;
    world w;
    world_init(&w, 4);
    uint8_t bytes[64];
    EACH_COMMAND(command)
    {
        for (int round = 0; round < 500; round++) {
            size_t len = mq_prng_below(&w.rng, sizeof bytes);
            for (size_t i = 0; i < len; i++) {
                bytes[i] = (uint8_t)mq_prng_next(&w.rng);
            }
            bytes[0] = (uint8_t)(0x80 | (bytes[0] & 0x0f));
            mq_arena_reset(&w.arena);
            (void)!decode_copy(&w, command, bytes, len, NULL);
        }
    }
    world_release(&w);
}

typedef struct bad_case {
    const char *what;
    mq_command command;
    const char *bytes;
    size_t len;
    mq_code code;
    const char *text; /* must be in the error */
} bad_case;

#define BYTES(s) (s), sizeof(s) - 1

static const bad_case bad_cases[] = {
    {"not a map", MQ_CMD_cancel, BYTES("\x93\x01\x02\x03"), MQ_E_FORMAT, "expects a map"},
    {"empty", MQ_CMD_cancel, BYTES(""), MQ_E_FORMAT, "bytes end"},
    {"map32 claims 2^28 pairs", MQ_CMD_cancel, BYTES("\xdf\x10\x00\x00\x00"), MQ_E_FORMAT,
     "more values than bytes"},
    {"array32 claims 2^28 jobs", MQ_CMD_submit, BYTES("\x81\xa4jobs\xdd\x10\x00\x00\x00"),
     MQ_E_FORMAT, "jobs"},
    {"array32 claims 2^32-1 jobs", MQ_CMD_submit, BYTES("\x81\xa4jobs\xdd\xff\xff\xff\xff"),
     MQ_E_FORMAT, "jobs"},
    {"text claims 2^32-1 bytes", MQ_CMD_cancel, BYTES("\x81\xa2id\xdb\xff\xff\xff\xff"),
     MQ_E_FORMAT, "id"},
    {"key stands twice", MQ_CMD_cancel, BYTES("\x82\xa3rid\x01\xa3rid\x02"), MQ_E_FORMAT,
     "rid: this key stands twice"},
    {"unknown key stands twice", MQ_CMD_cancel, BYTES("\x82\xa3new\x01\xa3new\x02"), MQ_E_FORMAT,
     "new: this key stands twice"},
    {"text where a number belongs", MQ_CMD_cancel, BYTES("\x81\xa3rid\xa1x"), MQ_E_FORMAT,
     "rid: expects an integer"},
    {"float where a number belongs", MQ_CMD_cancel, BYTES("\x81\xa3rid\xca\x00\x00\x00\x00"),
     MQ_E_FORMAT, "rid: expects an integer"},
    {"negative where it may not be", MQ_CMD_cancel, BYTES("\x81\xa3rid\xff"), MQ_E_FORMAT,
     "not negative"},
    {"number where text belongs", MQ_CMD_cancel, BYTES("\x81\xa2id\x05"), MQ_E_FORMAT,
     "id: expects text"},
    {"raw bytes where text belongs", MQ_CMD_cancel, BYTES("\x81\xa2id\xc4\x01x"), MQ_E_FORMAT,
     "id: expects text"},
    {"number where a flag belongs", MQ_CMD_cancel, BYTES("\x81\xa4hard\x01"), MQ_E_FORMAT,
     "hard: expects true or false"},
    {"key is a number", MQ_CMD_cancel, BYTES("\x81\x05\x01"), MQ_E_FORMAT, "key: expects text"},
    {"text beyond its limit", MQ_CMD_cancel,
     BYTES("\x81\xa2id\xd9\x21"
           "000000000000000000000000000000000"),
     MQ_E_LIMIT, "id: 33 bytes, at most 32"},
    {"list beyond its limit", MQ_CMD_command,
     BYTES("\x81\xa4"
           "args\xdc\x00\x19\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0"
           "\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0\xa0"),
     MQ_E_LIMIT, "args: 25 entries, at most 24"},
    {"ext type", MQ_CMD_cancel, BYTES("\x81\xa3new\xd4\x01\x00"), MQ_E_FORMAT,
     "extension types are refused"},
    {"reserved byte c1", MQ_CMD_cancel, BYTES("\x81\xa3new\xc1"), MQ_E_FORMAT, "refused"},
    {"nil for a field", MQ_CMD_cancel, BYTES("\x81\xa3rid\xc0"), MQ_E_FORMAT, "rid"},
    {"trailing byte", MQ_CMD_cancel, BYTES("\x80\x00"), MQ_E_FORMAT, "bytes follow"},
    {"nested deeper than 8", MQ_CMD_cancel,
     BYTES("\x81\xa3new\x91\x91\x91\x91\x91\x91\x91\x91\x91\x01"), MQ_E_LIMIT, "deeper than 8"},
    {"fault inside the second item is named", MQ_CMD_verdict,
     BYTES("\x81\xa8verdicts\x92\x80\x81\xa2id\x07"), MQ_E_FORMAT,
     "verdict: verdicts[1]: id: expects text"},
};

static void bad_headers_are_refused_with_the_key_and_the_reason(void **state)
{
    (void)state;
    world w;
    world_init(&w, 5);
    for (size_t i = 0; i < sizeof bad_cases / sizeof bad_cases[0]; i++) {
        const bad_case *c = &bad_cases[i];
        mq_error err = {.text = ""};
        mq_code code = decode_copy(&w, c->command, c->bytes, c->len, &err);
        if (code != c->code || strstr(err.text, c->text) == NULL) {
            print_error("%s: got %s \"%s\"\n", c->what, mq_code_name(code), err.text);
        }
        assert_int_equal(code, c->code);
        assert_non_null(strstr(err.text, c->text));
    }
    world_release(&w);
}

static void unknown_keys_of_any_content_are_skipped(void **state)
{
    (void)state;
    world w;
    world_init(&w, 6);
    static const char bytes[] = "\x87\xa1"
                                "a\x93\x01\x81\xa1x\xc3\x90\xa3rid\x07\xa1"
                                "b\xc0\xa1"
                                "c\xc4\x02zz"
                                "\xa2id\xa1J\xa1"
                                "d\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\xa1"
                                "e\x80";
    mq_error err = {.text = ""};
    assert_int_equal(mq_wire_decode(MQ_CMD_cancel, mq_span_of(BYTES(bytes)), w.got, &w.arena, &err),
                     MQ_OK);
    mq_msg_cancel message;
    memcpy(&message, w.got, sizeof message);
    assert_int_equal(message.rid, 7);
    assert_true(mq_span_is(message.id, "J"));
    world_release(&w);
}

static void more_than_sixteen_unknown_keys_are_refused(void **state)
{
    (void)state;
    world w;
    world_init(&w, 7);
    mq_writer writer;
    for (uint32_t count = 16; count <= 17; count++) {
        mq_buf_reset(&w.buf);
        mq_writer_init(&writer, &w.buf);
        mq_write_map(&writer, count);
        for (uint32_t i = 0; i < count; i++) {
            char key[8];
            snprintf(key, sizeof key, "k%u", i);
            mq_write_key(&writer, key);
            mq_write_nil(&writer);
        }
        assert_int_equal(decode_copy(&w, MQ_CMD_bye, w.buf.data, w.buf.len, NULL),
                         count == 16 ? MQ_OK : MQ_E_LIMIT);
    }
    world_release(&w);
}

static void a_small_arena_is_a_limit_error_and_not_a_crash(void **state)
{
    (void)state;
    world w;
    world_init(&w, 8);
    mq_msg_job_item items[256];
    memset(items, 0, sizeof items);
    mq_msg_job job = {.jobs = items, .jobs_count = 256};
    assert_int_equal(mq_wire_encode(MQ_CMD_job, &job, &w.buf, NULL), MQ_OK);
    mq_arena small;
    mq_arena_init(&small, 20000);
    mq_error err;
    assert_int_equal(mq_wire_decode(MQ_CMD_job, mq_buf_span(&w.buf), &job, &small, &err),
                     MQ_E_LIMIT);
    assert_non_null(strstr(err.text, "no memory"));
    mq_arena_release(&small);
    world_release(&w);
}

static void a_buffer_that_is_too_small_keeps_what_it_had(void **state)
{
    (void)state;
    mq_buf buf;
    mq_buf_init(&buf, 20);
    assert_true(mq_buf_add_str(&buf, "before"));
    mq_msg_cancel message = {.rid = 1, .id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV")};
    mq_error err;
    assert_int_equal(mq_wire_encode(MQ_CMD_cancel, &message, &buf, &err), MQ_E_LIMIT);
    assert_non_null(strstr(err.text, "cancel"));
    assert_true(mq_span_is(mq_buf_span(&buf), "before"));
    assert_true(mq_buf_add_str(&buf, "after"));
    mq_buf_release(&buf);
}

static void first_frames_name_version_and_command(void **state)
{
    (void)state;
    uint8_t head[4];
    mq_command command;
    EACH_COMMAND(sent)
    {
        mq_wire_head(sent, head);
        assert_int_equal(mq_wire_command(mq_span_of(head, 4), &command, NULL), MQ_OK);
        assert_int_equal(command, sent);
        assert_string_not_equal(mq_command_name(sent), "unknown");
        assert_string_not_equal(mq_wire_shape(sent)->from, "");
    }
    mq_error err;
    mq_wire_head(MQ_CMD_submit, head);
    assert_int_equal(mq_wire_command(mq_span_of(head, 3), &command, &err), MQ_E_FORMAT);
    head[2] = 9;
    assert_int_equal(mq_wire_command(mq_span_of(head, 4), &command, &err), MQ_E_VERSION);
    assert_non_null(strstr(err.text, "version 9"));
    mq_wire_head((mq_command)200, head);
    assert_int_equal(mq_wire_command(mq_span_of(head, 4), &command, &err), MQ_E_FORMAT);
    assert_string_equal(mq_command_name((mq_command)200), "unknown");
}

static void keys_are_unique_and_short_in_every_map(void **state)
{
    (void)state;
    EACH_COMMAND(command)
    {
        const mq_shape *shape = mq_wire_shape(command);
        for (uint32_t i = 0; i < shape->field_count; i++) {
            assert_true(shape->fields[i].key_len <= 31);
            for (uint32_t k = 0; k < i; k++) {
                assert_string_not_equal(shape->fields[i].key, shape->fields[k].key);
            }
        }
    }
}

/* ---- the cursor by itself ---- */

static void numbers_of_every_width_are_read(void **state)
{
    (void)state;
    mq_buf buf;
    mq_buf_init(&buf, 1 << 16);
    mq_writer w;
    mq_writer_init(&w, &buf);
    mq_write_array(&w, 64 * 4);
    for (int bit = 0; bit < 64; bit++) {
        uint64_t v = UINT64_C(1) << bit;
        mq_write_u64(&w, v);
        mq_write_u64(&w, v - 1);
        mq_write_i64(&w, (int64_t)(v - 1));
        mq_write_i64(&w, -(int64_t)(v - 1) - 1);
    }
    mq_reader r;
    mq_reader_init(&r, mq_buf_span(&buf), 1000);
    assert_int_equal(mq_read_array(&r), 64 * 4);
    for (int bit = 0; bit < 64; bit++) {
        uint64_t v = UINT64_C(1) << bit;
        assert_int_equal(mq_read_u64(&r), v);
        assert_int_equal(mq_read_u64(&r), v - 1);
        assert_int_equal(mq_read_i64(&r), (int64_t)(v - 1));
        assert_int_equal(mq_read_i64(&r), -(int64_t)(v - 1) - 1);
    }
    assert_int_equal(mq_reader_done(&r, "numbers", NULL), MQ_OK);
    mq_buf_release(&buf);
}

static void the_first_fault_sticks_and_later_reads_are_empty(void **state)
{
    (void)state;
    mq_reader r;
    mq_reader_init(&r, mq_str("\x93\x01\xa1x\x02"), 10);
    assert_int_equal(mq_read_array(&r), 3);
    assert_int_equal(mq_read_u64(&r), 1);
    assert_int_equal(mq_read_u64(&r), 0); /* it is text */
    assert_int_equal(mq_read_text(&r).len, 0);
    assert_int_equal(mq_read_array(&r), 0);
    mq_error err;
    assert_int_equal(mq_reader_done(&r, "record", &err), MQ_E_FORMAT);
    assert_string_equal(err.text, "record: expects an integer at byte 2");
}

static void too_many_values_are_a_limit(void **state)
{
    (void)state;
    mq_reader r;
    mq_reader_init(&r, mq_str("\x93\x01\x02\x03"), 3);
    assert_int_equal(mq_read_array(&r), 0);
    assert_int_equal(mq_reader_done(&r, "record", NULL), MQ_E_LIMIT);
}

static void a_list_not_read_to_its_end_is_noticed(void **state)
{
    (void)state;
    mq_reader r;
    mq_reader_init(&r, mq_str("\x92\x01\x02"), 10);
    assert_int_equal(mq_read_array(&r), 2);
    assert_int_equal(mq_read_u64(&r), 1);
    assert_int_equal(mq_reader_done(&r, "record", NULL), MQ_E_FORMAT);
}

static void skip_passes_over_exactly_one_value(void **state)
{
    (void)state;
    mq_reader r; /* [[1, {2: [3]}], 4, [[]], 5] */
    mq_reader_init(&r, mq_span_of(BYTES("\x94\x92\x01\x81\x02\x91\x03\x04\x91\x90\x05")), 32);
    assert_int_equal(mq_read_array(&r), 4);
    mq_read_skip(&r);
    assert_int_equal(mq_read_u64(&r), 4);
    mq_read_skip(&r);
    assert_int_equal(mq_read_u64(&r), 5);
    assert_int_equal(mq_reader_done(&r, "list", NULL), MQ_OK);
}

/* ---- growing lists ---- */

static void a_list_that_grows_reads_like_one_written_at_once(void **unused)
{
    (void)unused;
    enum { ITEMS = 300 };
    mq_error err;
    mq_arena arena;
    mq_buf header;
    mq_wire_list list;
    mq_msg_submitted m = {.rid = 77}, read;
    mq_arena_init(&arena, ARENA_BYTES);
    mq_buf_init(&header, MQ_HEADER_BYTES_MAX);
    assert_true(mq_wire_list_begin(&list, MQ_CMD_submitted, &m, &header));
    for (uint64_t i = 0; i < ITEMS; i++) {
        mq_msg_submitted_job item = {.id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"), .retry_ms = i};
        assert_true(mq_wire_list_add(&list, &item, &header));
    }
    mq_wire_list_end(&list, &header);
    assert_int_equal(mq_wire_decode(MQ_CMD_submitted, mq_buf_span(&header), &read, &arena, &err),
                     MQ_OK);
    assert_int_equal(read.rid, 77);
    assert_int_equal(read.jobs_count, ITEMS);
    for (uint64_t i = 0; i < ITEMS; i++) {
        assert_int_equal(read.jobs[i].retry_ms, i);
        assert_true(mq_span_is(read.jobs[i].id, "01ARZ3NDEKTSV4RRFFQ69G5FAV"));
    }
    mq_buf_release(&header);
    mq_arena_release(&arena);
}

static void a_list_that_is_full_stays_whole(void **unused)
{
    (void)unused;
    mq_error err;
    mq_arena arena;
    mq_buf header;
    mq_wire_list list;
    mq_msg_done m = {0}, read;
    uint32_t count = 0;
    char error[500];
    memset(error, 'x', sizeof error);
    mq_msg_done_job item = {.id = mq_str("a"), .error = mq_span_of(error, sizeof error)};
    mq_arena_init(&arena, ARENA_BYTES);
    mq_buf_init(&header, 10000);
    assert_true(mq_wire_list_begin(&list, MQ_CMD_done, &m, &header));
    while (mq_wire_list_add(&list, &item, &header)) {
        count++;
    }
    assert_in_range(count, 10, 20);
    mq_wire_list_end(&list, &header);
    assert_int_equal(mq_wire_decode(MQ_CMD_done, mq_buf_span(&header), &read, &arena, &err), MQ_OK);
    assert_int_equal(read.jobs_count, count);
    mq_buf_release(&header);
    mq_arena_release(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_comes_back_as_it_was_sent),
        cmocka_unit_test(a_message_cut_at_any_byte_is_refused),
        cmocka_unit_test(flipped_bits_are_refused_or_read_as_another_valid_message),
        cmocka_unit_test(random_bytes_never_crash_the_decoder),
        cmocka_unit_test(bad_headers_are_refused_with_the_key_and_the_reason),
        cmocka_unit_test(unknown_keys_of_any_content_are_skipped),
        cmocka_unit_test(more_than_sixteen_unknown_keys_are_refused),
        cmocka_unit_test(a_small_arena_is_a_limit_error_and_not_a_crash),
        cmocka_unit_test(a_buffer_that_is_too_small_keeps_what_it_had),
        cmocka_unit_test(first_frames_name_version_and_command),
        cmocka_unit_test(keys_are_unique_and_short_in_every_map),
        cmocka_unit_test(numbers_of_every_width_are_read),
        cmocka_unit_test(the_first_fault_sticks_and_later_reads_are_empty),
        cmocka_unit_test(too_many_values_are_a_limit),
        cmocka_unit_test(a_list_not_read_to_its_end_is_noticed),
        cmocka_unit_test(skip_passes_over_exactly_one_value),
        cmocka_unit_test(a_list_that_grows_reads_like_one_written_at_once),
        cmocka_unit_test(a_list_that_is_full_stays_whole),
    };
    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}

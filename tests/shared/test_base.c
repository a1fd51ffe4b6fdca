/* Facts about shared/base: arena, buf, heap, map, math, ulid, sha256, file, error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "shared/base/arena.h"
#include "shared/base/file.h"
#include "shared/base/heap.h"
#include "shared/base/json.h"
#include "shared/base/log.h"
#include "shared/base/map.h"
#include "shared/base/math.h"
#include "shared/base/prng.h"
#include "shared/base/sha256.h"
#include "shared/base/ulid.h"

static void arena_stops_at_its_limit_and_can_be_used_again(void **state)
{
    (void)state;
    mq_arena arena;
    mq_arena_init(&arena, 64 * 1024);
    size_t got = 0;
    while (mq_arena_alloc(&arena, 1, 1000) != NULL) {
        got += 1000;
        assert_true(got <= 64 * 1024);
    }
    assert_true(got >= 32 * 1024);
    assert_true(arena.used_bytes <= arena.limit_bytes);
    mq_arena_reset(&arena);
    assert_non_null(mq_arena_alloc(&arena, 1, 1000));
    assert_null(mq_arena_alloc(&arena, SIZE_MAX / 2, 3));
    mq_arena_release(&arena);
}

static void arena_memory_is_zeroed_and_aligned_after_reset(void **state)
{
    (void)state;
    mq_arena arena;
    mq_arena_init(&arena, 1 << 20);
    for (int round = 0; round < 3; round++) {
        for (size_t size = 1; size < 5000; size = size * 2 + 1) {
            uint8_t *p = mq_arena_alloc(&arena, 1, size);
            assert_non_null(p);
            assert_int_equal((uintptr_t)p % (size >= 64 ? 64 : 16), 0);
            for (size_t i = 0; i < size; i++) {
                assert_int_equal(p[i], 0);
            }
            memset(p, 0xAA, size);
        }
        mq_arena_reset(&arena);
    }
    assert_string_equal(mq_arena_printf(&arena, "%d-%s", 7, "x"), "7-x");
    mq_arena_release(&arena);
}

static void buf_append_is_all_or_nothing_and_fullness_sticks(void **state)
{
    (void)state;
    mq_buf buf;
    mq_buf_init(&buf, 10);
    assert_true(mq_buf_add(&buf, "12345", 5));
    assert_false(mq_buf_add(&buf, "123456", 6));
    assert_int_equal(buf.len, 5);
    assert_false(mq_buf_add(&buf, "1", 1));
    mq_buf_reset(&buf);
    assert_true(mq_buf_add(&buf, "1234567890", 10));
    mq_buf_release(&buf);
}

static void json_text_is_escaped_and_bad_utf8_replaced(void **state)
{
    (void)state;
    mq_buf buf;
    mq_buf_init(&buf, 1000);
    mq_buf_add_json(&buf, mq_span_of("a\"\\\n\xff\xc3\xa9\xed\xa0\x80", 10));
    mq_buf_add(&buf, "", 1);
    assert_string_equal((char *)buf.data,
                        "\"a\\\"\\\\\\u000a\\ufffd\xc3\xa9\\ufffd\\ufffd\\ufffd\"");
    mq_buf_release(&buf);
}

static void long_printf_into_buf_is_whole(void **state)
{
    (void)state;
    mq_buf buf;
    mq_buf_init(&buf, 10000);
    char text[2000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    assert_true(mq_buf_printf(&buf, "[%s]", text));
    assert_int_equal(buf.len, sizeof text + 1);
    assert_int_equal(buf.data[buf.len - 1], ']');
    mq_buf_release(&buf);
}

enum { HEAP_IDS = 200 };

static void heap_gives_the_least_after_any_moves_and_removals(void **state)
{
    (void)state;
    mq_heap_entry entries[HEAP_IDS];
    uint32_t positions[HEAP_IDS];
    int64_t keys[HEAP_IDS];
    bool is_in[HEAP_IDS] = {false};
    mq_heap heap;
    mq_heap_init(&heap, entries, positions, HEAP_IDS);
    mq_prng prng = {1};
    for (int i = 0; i < 20000; i++) {
        uint32_t id = (uint32_t)mq_prng_below(&prng, HEAP_IDS);
        if (mq_prng_below(&prng, 3) == 0) {
            mq_heap_remove(&heap, id);
            is_in[id] = false;
        } else {
            keys[id] = (int64_t)mq_prng_below(&prng, 50);
            mq_heap_set(&heap, id, keys[id]);
            is_in[id] = true;
        }
        const mq_heap_entry *top = mq_heap_top(&heap);
        uint32_t count = 0;
        for (uint32_t k = 0; k < HEAP_IDS; k++) {
            assert_int_equal(mq_heap_has(&heap, k), is_in[k]);
            if (is_in[k]) {
                count++;
                assert_true(top->key < keys[k] || (top->key == keys[k] && top->id <= k));
            }
        }
        assert_int_equal(count, heap.count);
    }
}

enum { MAP_KEYS = 300 };

static void map_agrees_with_a_plain_list_under_random_calls(void **state)
{
    (void)state;
    static char names[MAP_KEYS][16];
    uint32_t model[MAP_KEYS];
    mq_map map;
    assert_int_equal(mq_map_init(&map, 200, 7, NULL), MQ_OK);
    for (int i = 0; i < MAP_KEYS; i++) {
        snprintf(names[i], sizeof names[i], "k%d", i);
        model[i] = MQ_MAP_NONE;
    }
    mq_prng prng = {2};
    uint32_t count = 0;
    for (int i = 0; i < 50000; i++) {
        uint32_t k = (uint32_t)mq_prng_below(&prng, MAP_KEYS);
        mq_span key = mq_str(names[k]);
        if (mq_prng_below(&prng, 2) == 0) {
            assert_int_equal(mq_map_remove(&map, key), model[k]);
            count -= model[k] != MQ_MAP_NONE;
            model[k] = MQ_MAP_NONE;
        } else {
            uint32_t value = (uint32_t)mq_prng_below(&prng, 1000);
            bool is_put = mq_map_put(&map, key, value);
            assert_int_equal(is_put, model[k] != MQ_MAP_NONE || count < 200);
            count += is_put && model[k] == MQ_MAP_NONE;
            model[k] = is_put ? value : model[k];
        }
        assert_int_equal(mq_map_find(&map, key), model[k]);
        assert_int_equal(map.count, count);
    }
    for (int i = 0; i < MAP_KEYS; i++) {
        assert_int_equal(mq_map_find(&map, mq_str(names[i])), model[i]);
    }
    mq_map_release(&map);
}

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    size_t out = 5;
    assert_false(mq_mul_size(SIZE_MAX, 2, &out));
    assert_false(mq_add_size(SIZE_MAX, 1, &out));
    assert_int_equal(out, 5);
    assert_true(mq_mul_size(3, 4, &out));
    assert_int_equal(out, 12);
}

static void ulid_keeps_its_time_and_sorts_by_it(void **state)
{
    (void)state;
    uint8_t zeros[10] = {0}, ones[10];
    memset(ones, 0xff, sizeof ones);
    char a[MQ_ULID_SIZE], b[MQ_ULID_SIZE];
    mq_ulid_make(1469918176385, ones, a);
    mq_ulid_make(1469918176386, zeros, b);
    assert_true(strcmp(a, b) < 0);
    assert_int_equal(mq_ulid_ms(mq_str(a)), 1469918176385);
    assert_int_equal(strncmp(a, "01ARYZ6S41", 10), 0); /* the example of the ULID specification */
    assert_int_equal(mq_ulid_ms(mq_str("01ARYZ6S41TSV4RRFFQ69G5FA")), -1);
    assert_int_equal(mq_ulid_ms(mq_str("81ARYZ6S41TSV4RRFFQ69G5FAV")), -1);
    assert_int_equal(mq_ulid_ms(mq_str("01ARYZ6S41TSV4RRFFQ69G5FAU")), -1);
    assert_int_equal(mq_ulid_ms(mq_str("01aryz6s41tsv4rrffq69g5fav")), -1);
    mq_ulid_new(a);
    assert_true(mq_ulid_ms(mq_str(a)) > 1700000000000);
}

static void sha256_is_the_published_one(void **state)
{
    (void)state;
    char hex[MQ_SHA256_HEX];
    mq_sha256_hex_of(mq_str("abc"), hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_true(mq_sha256_is_hex(mq_str(hex)));
    hex[0] = 'B';
    assert_false(mq_sha256_is_hex(mq_str(hex)));
    assert_false(mq_sha256_is_hex(mq_str("../../etc/passwd")));
}

static void files_are_written_whole_and_read_back(void **state)
{
    (void)state;
    char dir[80];
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%.60s/mq-base-XXXXXX", tmp == NULL ? "/tmp" : tmp);
    assert_non_null(mkdtemp(dir));
    char path[128], deep[128];
    snprintf(path, sizeof path, "%s/file", dir);
    snprintf(deep, sizeof deep, "%s/a/b/c", dir);
    mq_error err;
    assert_int_equal(mq_file_write(path, mq_str("hello"), 0600, &err), MQ_OK);
    mq_map_file map;
    assert_int_equal(mq_map_file_open(&map, path, 100, &err), MQ_OK);
    assert_true(mq_span_is(map.bytes, "hello"));
    mq_map_file_release(&map);
    assert_int_equal(mq_map_file_open(&map, path, 4, &err), MQ_E_LIMIT);
    assert_non_null(strstr(err.text, "limit is 4"));
    assert_int_equal(mq_map_file_open(&map, "/no/such", 4, &err), MQ_E_NOT_FOUND);
    mq_buf buf;
    mq_buf_init(&buf, 3);
    assert_int_equal(mq_file_read(path, &buf, &err), MQ_E_LIMIT);
    mq_buf_release(&buf);
    assert_int_equal(mq_dir_make(deep, &err), MQ_OK);
    assert_int_equal(mq_dir_make(deep, &err), MQ_OK);
    assert_int_equal(access(deep, F_OK), 0);
    char link[160], kept[96];
    snprintf(kept, sizeof kept, "%s.kept", dir); /* what a link points to is not removed */
    snprintf(link, sizeof link, "%s/link", deep);
    assert_int_equal(mq_dir_make(kept, &err), MQ_OK);
    assert_int_equal(symlink(kept, link), 0);
    assert_int_equal(mq_dir_remove(dir, &err), MQ_OK);
    assert_int_not_equal(access(dir, F_OK), 0);
    assert_int_equal(access(kept, F_OK), 0);
    assert_int_equal(mq_dir_remove(dir, &err), MQ_OK); /* there is none any more */
    assert_int_equal(mq_dir_remove(kept, &err), MQ_OK);
    assert_int_equal(mq_dir_remove("", &err), MQ_E_ARG);
    assert_int_equal(mq_dir_remove("/proc/self", &err), MQ_E_IO);
}

static void errors_carry_their_context(void **state)
{
    (void)state;
    mq_error err;
    assert_int_equal(mq_fail(&err, MQ_E_ARG, "batch: %d is outside 1..%d", 0, 64), MQ_E_ARG);
    assert_int_equal(mq_wrap(&err, "job %s", "J"), MQ_E_ARG);
    assert_string_equal(err.text, "job J: batch: 0 is outside 1..64");
    for (int i = 0; i < MQ_CODE_COUNT; i++) {
        const char *name = mq_code_name((mq_code)i);
        assert_int_equal(mq_code_parse(name, strlen(name)), i);
    }
    mq_log_level level;
    assert_true(mq_log_level_parse("warn", &level));
    assert_false(mq_log_level_parse("loud", &level));
}

static void a_text_is_json_or_not_as_rfc_8259_says(void **state)
{
    (void)state;
    static const char *const good[] = {
        "{}",
        " { } ",
        "{\"a\":1,\"b\":[1,-0.5e+3,true,false,null,{\"c\":[]}]}",
        "{\"\":\"\\u00e9\\n\\\"\"}",
        "{\"a\":\"\xc3\xa9\",\"b\":{},\"c\":[[],[{}]]}",
        "{\"n\":0,\"m\":[0.0,10,1E9]}",
    };
    static const char *const bad[] = {
        "",
        "[]",
        "1",
        "{",
        "}",
        "{}{}",
        "{},",
        "{a:1}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":[1,]}",
        "{\"a\":01}",
        "{\"a\":+1}",
        "{\"a\":1.}",
        "{\"a\":1e}",
        "{\"a\":NaN}",
        "{\"a\":\"\xff\"}",
        "{\"a\":\"",
        "{\"a\":\"\\",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12g4\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":[}",
        "{\"a\":[1}",
        "{\"a\":{]}",
        "{]}",
        "{\"a\":1 2}",
        "{\"a\":tru}",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        if (!mq_json_is_object(mq_str(good[i]))) {
            fail_msg("%s is JSON", good[i]);
        }
        for (size_t cut = 0; good[i][cut] != '\0';
             cut++) { /* no part of it is, nor is it overread */
            size_t len = strlen(good[i]) - 1 - cut;
            char *part = malloc(len + 1);
            assert_non_null(part);
            memcpy(part, good[i], len);
            char *exact = realloc(part, len == 0 ? 1 : len);
            bool is_rest_blank = mq_json_is_object(mq_span_of(exact, len));
            assert_true(!is_rest_blank || good[i][len] == ' ');
            free(exact);
        }
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (mq_json_is_object(mq_str(bad[i]))) {
            fail_msg("%s is no JSON object", bad[i]);
        }
    }
    char deep[2 * 8 * (MQ_JSON_DEPTH_MAX + 1)] = "";
    for (int levels = MQ_JSON_DEPTH_MAX; levels <= MQ_JSON_DEPTH_MAX + 1; levels++) {
        size_t len = (size_t)snprintf(deep, sizeof deep, "{\"a\":");
        memset(deep + len, '[', (size_t)levels - 1);
        memset(deep + len + levels - 1, ']', (size_t)levels - 1);
        deep[len + 2 * (size_t)levels - 2] = '}';
        assert_int_equal(mq_json_is_object(mq_span_of(deep, len + 2 * (size_t)levels - 1)),
                         levels == MQ_JSON_DEPTH_MAX);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arena_stops_at_its_limit_and_can_be_used_again),
        cmocka_unit_test(arena_memory_is_zeroed_and_aligned_after_reset),
        cmocka_unit_test(buf_append_is_all_or_nothing_and_fullness_sticks),
        cmocka_unit_test(json_text_is_escaped_and_bad_utf8_replaced),
        cmocka_unit_test(long_printf_into_buf_is_whole),
        cmocka_unit_test(heap_gives_the_least_after_any_moves_and_removals),
        cmocka_unit_test(map_agrees_with_a_plain_list_under_random_calls),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(ulid_keeps_its_time_and_sorts_by_it),
        cmocka_unit_test(sha256_is_the_published_one),
        cmocka_unit_test(files_are_written_whole_and_read_back),
        cmocka_unit_test(errors_carry_their_context),
        cmocka_unit_test(a_text_is_json_or_not_as_rfc_8259_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Which bytes count as a JSON object, so that they may be put into an answer unread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shared/base/json.h"
#include "shared/base/prng.h"

static void well_formed_objects_pass(void **unused)
{
    (void)unused;
    static const char *const good[] = {
        "{}",
        " { } ",
        "{\"a\":1}",
        "{\"a\":-0.5e+10,\"b\":[],\"c\":[1,2,{\"d\":null}],\"e\":{\"f\":true,\"g\":false}}",
        "{\"\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00Ff \"}",
        "{\"a\":[[[[]]]]}\n",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        if (!mq_json_is_object(mq_str(good[i]))) {
            fail_msg("refused: %s", good[i]);
        }
    }
}

static void everything_else_is_refused(void **unused)
{
    (void)unused;
    static const char *const bad[] = {
        "",
        "1",
        "[]",
        "{",
        "}",
        "{}}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":1e}",
        "{\"a\":tru}",
        "{\"a\":[1,]}",
        "{\"a\":[1}",
        "{\"a\":\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12\"}",
        "{} {}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":\"\n\"}",
        "{\"a\":+1}",
        "{\"a\":NaN}",
        "{\"a\":'b'}",
        "{]",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (mq_json_is_object(mq_str(bad[i]))) {
            fail_msg("taken: %s", bad[i]);
        }
    }
}

static void depth_is_bounded(void **unused)
{
    (void)unused;
    for (int depth = 1; depth <= 2 * MQ_JSON_DEPTH_MAX; depth++) {
        char text[8 + 4 * MQ_JSON_DEPTH_MAX] = "{\"a\":";
        size_t lists = (size_t)depth - 1;
        memset(text + 5, '[', lists);
        memset(text + 5 + lists, ']', lists);
        memcpy(text + 5 + 2 * lists, lists == 0 ? "0}" : "}", lists == 0 ? 2 : 1);
        assert_int_equal(mq_json_is_object(mq_str(text)), depth <= MQ_JSON_DEPTH_MAX);
    }
}

static void texts_are_utf8(void **unused)
{
    (void)unused;
    assert_true(mq_json_is_object(mq_str("{\"\xc3\xa9\":\"\xf0\x9f\x98\x80\"}")));
    static const char *const bad[] = {
        "{\"a\":\"\xff\"}",             /* no such byte */
        "{\"a\":\"\xc3\"}",             /* cut off */
        "{\"a\":\"\xc0\xaf\"}",         /* longer than it need be */
        "{\"a\":\"\xed\xa0\x80\"}",     /* a surrogate */
        "{\"a\":\"\xf4\x90\x80\x80\"}", /* above U+10FFFF */
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (mq_json_is_object(mq_str(bad[i]))) {
            fail_msg("taken: row %zu", i);
        }
    }
}

static void damaged_objects_are_never_overread(void **unused)
{
    (void)unused;
    static const char text[] = "{\"a\":[1,2.5e3,\"x\\u0041\"],\"b\":{\"c\":null,\"d\":true}}";
    mq_prng prng = {5};
    for (int i = 0; i < 20000; i++) {
        size_t len = mq_prng_below(&prng, sizeof text);
        char *copy = malloc(len + 1); /* exactly as long, for the sanitizer */
        memcpy(copy, text, len);
        if (len > 0 && i % 2 == 0) {
            copy[mq_prng_below(&prng, len)] = (char)mq_prng_next(&prng);
        }
        char *exact = realloc(copy, len == 0 ? 1 : len);
        (void)mq_json_is_object(mq_span_of(exact, len));
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(well_formed_objects_pass),
        cmocka_unit_test(everything_else_is_refused),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(texts_are_utf8),
        cmocka_unit_test(damaged_objects_are_never_overread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

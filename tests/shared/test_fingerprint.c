/* Which failures count as the same one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shared/job/fingerprint.h"

static void print_of(const char *kind, const char *code, const char *error,
                     char to[MQ_FINGERPRINT_SIZE])
{
    mq_error_fingerprint(mq_str(kind), mq_str("error"), mq_str(code), mq_str(error), to);
}

static bool is_same(const char *a, const char *b)
{
    char x[MQ_FINGERPRINT_SIZE], y[MQ_FINGERPRINT_SIZE];
    print_of("echo", "io", a, x);
    print_of("echo", "io", b, y);
    assert_int_equal(strlen(x), MQ_FINGERPRINT_SIZE - 1);
    return strcmp(x, y) == 0;
}

static void numbers_ids_and_blanks_do_not_tell_causes_apart(void **unused)
{
    (void)unused;
    assert_true(is_same("row 17: bad", "row 4711: bad"));
    assert_true(is_same("file /tmp/a1b2 gone", "file /tmp/ffee9 gone"));
    assert_true(is_same("at 0x7fff12", "at  0x12\n"));
    assert_true(is_same("2026-11-23T10:00:00Z late", "2027-01-03T23:59:01Z late"));
    assert_true(is_same("", ""));
}

static void words_kind_and_code_do(void **unused)
{
    (void)unused;
    char x[MQ_FINGERPRINT_SIZE], y[MQ_FINGERPRINT_SIZE];
    assert_false(is_same("row 17: bad", "row 17: good"));
    assert_false(is_same("row 17", "row x"));
    assert_false(is_same("", "x"));
    print_of("echo", "io", "x", x);
    print_of("sleep", "io", "x", y);
    assert_string_not_equal(x, y);
    print_of("echo", "limit", "x", y);
    assert_string_not_equal(x, y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_ids_and_blanks_do_not_tell_causes_apart),
        cmocka_unit_test(words_kind_and_code_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

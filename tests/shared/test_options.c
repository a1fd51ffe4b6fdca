/* Facts about the option tables of the daemons. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "shared/base/options.h"

typedef struct config {
    const char *name;
    int64_t count, bytes;
    bool is_on;
    mq_option_list all;
} config;

static const mq_option table[] = {
    {"name", "NAME", MQ_OPT_TEXT, offsetof(config, name), 1, 5, "a name"},
    {"count", "N", MQ_OPT_INT, offsetof(config, count), -2, 9, "a count"},
    {"bytes", "BYTES", MQ_OPT_BYTES, offsetof(config, bytes), 0, INT64_C(1) << 40, "a size"},
    {"on", "", MQ_OPT_FLAG, offsetof(config, is_on), 0, 0, "a flag"},
    {"also", "X", MQ_OPT_LIST, offsetof(config, all), 1, 3, "again and again"},
};

static mq_code parse(config *c, mq_error *err, const char *a, const char *b)
{
    char *argv[] = {(char *)(uintptr_t) "x", (char *)(uintptr_t)a, (char *)(uintptr_t)b, NULL};
    return mq_options_parse(table, sizeof table / sizeof table[0], b == NULL ? 2 : 3, argv, c, err);
}

static void values_are_read_in_both_spellings(void **state)
{
    (void)state;
    config c = {0};
    mq_error err;
    assert_int_equal(parse(&c, &err, "--name", "abc"), MQ_OK);
    assert_string_equal(c.name, "abc");
    assert_int_equal(parse(&c, &err, "--count=-2", "--on"), MQ_OK);
    assert_int_equal(c.count, -2);
    assert_true(c.is_on);
    assert_int_equal(parse(&c, &err, "--bytes", "3M"), MQ_OK);
    assert_int_equal(c.bytes, 3 << 20);
    assert_int_equal(parse(&c, &err, "--bytes=2G", NULL), MQ_OK);
    assert_int_equal(c.bytes, INT64_C(2) << 30);
}

static void a_list_keeps_its_values_in_order_and_has_a_limit(void **state)
{
    (void)state;
    config c = {0};
    mq_error err;
    assert_int_equal(parse(&c, &err, "--also", "a"), MQ_OK);
    assert_int_equal(parse(&c, &err, "--also=b=c", NULL), MQ_OK);
    assert_int_equal(c.all.count, 2);
    assert_string_equal(c.all.at[0], "a");
    assert_string_equal(c.all.at[1], "b=c");
    assert_int_equal(parse(&c, &err, "--also", "long"), MQ_E_ARG);
    for (uint32_t i = 2; i < MQ_OPTION_LIST_MAX; i++) {
        assert_int_equal(parse(&c, &err, "--also", "x"), MQ_OK);
    }
    assert_int_equal(parse(&c, &err, "--also", "x"), MQ_E_ARG);
    assert_non_null(strstr(err.text, "more than"));
}

static void bad_values_name_the_option_and_its_limits(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"--count", "10", "-2..9"},         {"--count", "x", "not a number"},
        {"--count", "1K", "not a number"},  {"--count", NULL, "needs a value"},
        {"--bytes", "3T", "not a number"},  {"--bytes", "99999999999G", "not a number"},
        {"--name", "toolong", "1..5"},      {"--name=", NULL, "1..5"},
        {"--on=1", NULL, "takes no value"}, {"--nam", "x", "unknown option"},
        {"stray", NULL, "begin with --"},   {"--count", "", "not a number"},
        {"--count", " 1", "not a number"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        config c = {0};
        mq_error err;
        assert_int_equal(parse(&c, &err, cases[i][0], cases[i][1]), MQ_E_ARG);
        assert_non_null(strstr(err.text, cases[i][2]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_read_in_both_spellings),
        cmocka_unit_test(a_list_keeps_its_values_in_order_and_has_a_limit),
        cmocka_unit_test(bad_values_name_the_option_and_its_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

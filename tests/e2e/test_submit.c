/* What submitters and operators can ask for, through real processes and the command line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/clock.h"
#include "tests/support/system.h"

enum { OUT_MAX = 1 << 18, WAIT_MS = 60000 };

static sys system_;
static char out[OUT_MAX], err[OUT_MAX];

/* Runs the command line; its exit status. Its output is in out and err. */
#define MAASQ(...)                                                                                 \
    sys_run(&system_, (const char *const[]){"maasq", __VA_ARGS__, NULL}, out, sizeof out, err,     \
            sizeof err)

#define MUST(...)                                                                                  \
    do {                                                                                           \
        if (MAASQ(__VA_ARGS__) != 0) {                                                             \
            fail_msg("%s", err);                                                                   \
        }                                                                                          \
    } while (0)

/* The JSON that the last command printed; owned. */
static json_t *answer(void)
{
    json_t *json = json_loads(out, JSON_DECODE_ANY, NULL);
    if (json == NULL) {
        fail_msg("no JSON: %s%s", out, err);
    }
    return json;
}

static int64_t number_of(const char *key)
{
    json_t *json = answer();
    int64_t n = json_integer_value(json_object_get(json, key));
    json_decref(json);
    return n;
}

static void text_of(const char *key, char *to, size_t size)
{
    json_t *json = answer();
    const char *text = json_string_value(json_object_get(json, key));
    snprintf(to, size, "%s", text == NULL ? "" : text);
    json_decref(json);
}

/* The last line that the last command printed. */
static void take_line(char to[64])
{
    snprintf(to, 64, "%.*s", (int)strcspn(out, "\n"), out);
}

static uint32_t dead_count(const char *filter)
{
    MUST("queue", "dead", "--filter", filter, "--limit", "1000", "--json");
    json_t *json = answer();
    uint32_t count = (uint32_t)json_array_size(json_object_get(json, "jobs"));
    json_decref(json);
    return count;
}

/* A job that dies at once: its body is wrong. */
static void submit_dead(const char *param)
{
    assert_int_not_equal(MAASQ("job", "submit", "sleep", "--param", param, "--wait"), 0);
}

static void dead_jobs_are_grouped_by_cause_retried_and_purged(void **unused)
{
    (void)unused;
    char print[32] = "", filter[64];
    submit_dead("ms=-1");
    submit_dead("ms=-2");
    submit_dead("ms=-77");
    submit_dead("wrong=1");
    MUST("queue", "dead", "--group", "--json");
    json_t *json = answer();
    assert_int_equal(json_integer_value(json_object_get(json, "total")), 4);
    json_t *groups = json_object_get(json, "groups");
    assert_int_equal(json_array_size(groups), 2);
    json_t *first = json_array_get(groups, 0);
    assert_int_equal(json_integer_value(json_object_get(first, "count")), 3);
    assert_string_equal(json_string_value(json_object_get(first, "kind")), "sleep");
    snprintf(print, sizeof print, "%s", json_string_value(json_object_get(first, "fingerprint")));
    json_decref(json);
    snprintf(filter, sizeof filter, "fingerprint=%s", print);
    assert_int_equal(dead_count(filter), 3);

    MUST("job", "retry", "--filter", filter, "--json"); /* they die again */
    assert_int_equal(number_of("matched"), 3);
    assert_int_equal(number_of("done"), 3);
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (dead_count("kind=sleep") < 4 && mq_clock_mono_ms() < until_ms) {
        mq_clock_sleep_ms(20);
    }
    MUST("job", "retry", "--filter", "kind=train", "--json");
    assert_int_equal(number_of("matched"), 0);
    assert_int_equal(MAASQ("job", "retry"), 2);
    assert_int_equal(MAASQ("queue", "purge"), 2);
    assert_int_not_equal(MAASQ("queue", "purge", "--filter", "colour=red"), 0);
    assert_non_null(strstr(err, "colour"));

    MUST("queue", "purge", "--filter", filter, "--json");
    assert_int_equal(number_of("done"), 3);
    assert_int_equal(dead_count("kind=sleep"), 1);
    MUST("job", "retry", "--all", "--json");
    assert_int_equal(number_of("done"), 1);
    while (dead_count("kind=sleep") < 1 && mq_clock_mono_ms() < until_ms) {
        mq_clock_sleep_ms(20);
    }
    MUST("queue", "purge", "--all", "--json");
    assert_int_equal(number_of("done"), 1);
    assert_int_equal(dead_count("kind=sleep"), 0);
}

static void dead_jobs_are_swept_after_their_retention(void **unused)
{
    (void)unused;
    sys_kill(&system_, SYS_BROKER, 0, SIGTERM);
    system_.options.broker_args[0] = "--dead-retention-ms";
    system_.options.broker_args[1] = "1500";
    sys_spawn(&system_, SYS_BROKER, 0);
    submit_dead("ms=-1");
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (dead_count("kind=sleep") > 0) {
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(50);
    }
    sys_kill(&system_, SYS_BROKER, 0, SIGTERM);
    system_.options.broker_args[0] = NULL;
    sys_spawn(&system_, SYS_BROKER, 0);
}

static int start(void **unused)
{
    (void)unused;
    (void)text_of;
    (void)take_line;
    sys_start(&system_, &(sys_options){.workers = 1, .slots = 2});
    return 0;
}

static int stop(void **unused)
{
    (void)unused;
    sys_stop(&system_, false);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dead_jobs_are_grouped_by_cause_retried_and_purged),
        cmocka_unit_test(dead_jobs_are_swept_after_their_retention),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

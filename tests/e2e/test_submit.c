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
#include "shared/base/file.h"
#include "shared/base/ulid.h"
#include "tests/support/command.h"

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

static void a_unique_key_has_one_live_job_even_over_a_kill(void **unused)
{
    (void)unused;
    char first[64], second[64], after[64];
    MUST("job", "submit", "sleep", "--param", "ms=600000", "--unique", "night");
    take_line(first);
    MUST("job", "submit", "sleep", "--param", "ms=1", "--unique", "night");
    take_line(second);
    assert_string_equal(first, second);
    sys_kill(&system_, SYS_BROKER, 0, SIGKILL);
    sys_spawn(&system_, SYS_BROKER, 0);
    MUST("job", "submit", "sleep", "--param", "ms=1", "--unique", "night");
    take_line(second);
    assert_string_equal(first, second);
    MUST("job", "cancel", first, "--hard");
    MUST("job", "submit", "sleep", "--param", "ms=1", "--unique", "night", "--wait");
    MUST("job", "submit", "echo", "--unique", "night");
    take_line(after);
    assert_string_not_equal(first, after);
}

static void write_file(const char *name, const char *text, char path[160])
{
    mq_error why;
    snprintf(path, 160, "%s/%s", system_.dir, name);
    assert_int_equal(mq_file_write(path, mq_str(text), 0600, &why), MQ_OK);
}

static void a_group_has_a_callback_and_a_rule_for_failures(void **unused)
{
    (void)unused;
    char good[160], bad[160];
    write_file("good",
               "{\"kind\":\"sleep\",\"param\":{\"ms\":50}}\n"
               "{\"kind\":\"echo\",\"body\":\"b\"}\n"
               "{\"kind\":\"echo\"}\n",
               good);
    write_file("bad", "{\"kind\":\"sleep\",\"param\":{\"ms\":-1}}\n{\"kind\":\"echo\"}\n", bad);
    MUST("job", "submit", "echo", "--param", "all=true", "--group", good, "--wait");
    assert_non_null(strstr(out, "{\"all\":true}"));
    assert_int_not_equal(MAASQ("job", "submit", "echo", "--group", bad, "--wait", "--json"), 0);
    char state[32];
    text_of("state", state, sizeof state);
    assert_string_equal(state, "cancelled");
    MUST("job", "submit", "echo", "--param", "all=true", "--group", bad, "--on-failure", "run",
         "--wait");
    assert_non_null(strstr(out, "{\"all\":true}"));
    MUST("job", "submit", "echo", "--param", "last=1", "--group", good, "--chain", "--wait");
    assert_int_not_equal(
        MAASQ("job", "submit", "echo", "--group", bad, "--chain", "--wait", "--json"), 0);
    text_of("state", state, sizeof state);
    assert_string_equal(state, "cancelled");
    assert_int_not_equal(MAASQ("job", "submit", "echo", "--group", "/nonexistent"), 0);
    MUST("queue", "purge", "--all");
}

static void a_group_may_be_larger_than_a_list_of_parents(void **unused)
{
    (void)unused;
    static char text[16384];
    char path[160];
    size_t used = 0;
    for (int i = 0; i < 150; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "{\"kind\":\"echo\"}\n");
    }
    write_file("many", text, path);
    MUST("job", "submit", "echo", "--param", "all=true", "--group", path, "--wait");
    assert_non_null(strstr(out, "{\"all\":true}"));
}

static void attempts_backoff_and_run_limit_are_the_jobs_own(void **unused)
{
    (void)unused;
    assert_int_not_equal(MAASQ("job", "submit", "sleep", "--param", "ms=600000", "--run-limit", "1",
                               "--attempts", "2", "--backoff", "0.01", "--wait", "--json"),
                         0);
    assert_int_equal(number_of("attempts"), 2);
    char why[64], code[32];
    text_of("why", why, sizeof why);
    text_of("code", code, sizeof code);
    assert_string_equal(why, "attempts");
    assert_string_equal(code, "timeout");
    assert_int_equal(MAASQ("job", "submit", "echo", "--attempts", "0"), 2);
    assert_int_equal(MAASQ("job", "submit", "echo", "--on-failure", "explode"), 2);
    MUST("queue", "purge", "--all");
}

static void progress_is_readable_after_the_end_and_a_restart(void **unused)
{
    (void)unused;
    char id[64];
    MUST("job", "submit", "sleep", "--param", "ms=900", "--param", "progress=true");
    take_line(id);
    MUST("job", "log", id, "--follow"); /* returns at the end */
    sys_kill(&system_, SYS_BROKER, 0, SIGKILL);
    sys_spawn(&system_, SYS_BROKER, 0);
    MUST("job", "log", id, "--json");
    json_t *json = answer();
    assert_string_equal(json_string_value(json_object_get(json, "state")), "succeeded");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "progress"), "ms")),
                     900);
    json_decref(json);
}

/* The worker's slot processes. */
static int slots(pid_t to[SYS_SLOTS_MAX])
{
    return sys_children(sys_pid(&system_, SYS_WORKER, 0), to);
}

static void wait_state(const char *id, const char *wanted)
{
    char state[32] = "";
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (strcmp(state, wanted) != 0) {
        assert_true(mq_clock_mono_ms() < until_ms);
        MUST("job", "show", id, "--json");
        text_of("state", state, sizeof state);
        mq_clock_sleep_ms(10);
    }
}

static void a_soft_cancel_reaches_the_handler_and_its_slot_lives_on(void **unused)
{
    (void)unused;
    char id[64];
    pid_t before[SYS_SLOTS_MAX], after[SYS_SLOTS_MAX];
    MUST("job", "submit", "sleep", "--param", "ms=600000");
    take_line(id);
    wait_state(id, "leased");
    int count = slots(before);
    assert_int_equal(count, 2);
    MUST("job", "cancel", id);
    wait_state(id, "cancelled");
    assert_int_equal(slots(after), count);
    assert_memory_equal(before, after, (size_t)count * sizeof before[0]);
    MUST("job", "submit", "echo", "--wait");
}

static void a_hard_cancel_ends_at_once_and_kills_the_slot_that_does_not_listen(void **unused)
{
    (void)unused;
    char id[64];
    pid_t before[SYS_SLOTS_MAX], after[SYS_SLOTS_MAX];
    MUST("job", "submit", "sleep", "--param", "ms=600000");
    take_line(id);
    wait_state(id, "leased");
    int count = slots(before);
    for (int i = 0; i < count; i++) {
        kill(before[i], SIGSTOP); /* deaf to whatever is asked of it */
    }
    MUST("job", "cancel", id, "--hard");
    wait_state(id, "cancelled");
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    bool is_killed = false;
    while (!is_killed) {
        assert_true(mq_clock_mono_ms() < until_ms);
        int now = slots(after);
        int common = 0;
        for (int i = 0; i < count; i++) {
            for (int k = 0; k < now; k++) {
                common += before[i] == after[k];
            }
        }
        is_killed = common < count && now == count;
        mq_clock_sleep_ms(20);
    }
    for (int i = 0; i < count; i++) {
        kill(before[i], SIGCONT);
    }
    MUST("job", "submit", "echo", "--wait");
}

static void a_queued_job_is_cancelled_before_it_runs(void **unused)
{
    (void)unused;
    char id[64];
    MUST("job", "submit", "sleep", "--param", "ms=1", "--at", "+3600");
    take_line(id);
    MUST("job", "cancel", id);
    wait_state(id, "cancelled");
}

static void the_oldest_results_make_room_and_their_ids_stay_known(void **unused)
{
    (void)unused;
    static char text[100001];
    char path[160], id[MQ_ULID_SIZE] = "", first[MQ_ULID_SIZE] = "";
    memset(text, 'x', sizeof text - 1);
    write_file("large", text, path);
    sys_kill(&system_, SYS_BROKER, 0, SIGTERM);
    system_.options.broker_args[0] = "--results-bytes-max";
    system_.options.broker_args[1] = "500000";
    sys_spawn(&system_, SYS_BROKER, 0);
    for (int i = 0; i < 8; i++) { /* submitted an hour ago, a minute apart */
        uint8_t random[10] = {(uint8_t)i, (uint8_t)mq_clock_mono_ns()};
        mq_ulid_make(mq_clock_wall_ms() - 3600000 + i * 60000, random, id);
        MUST("job", "submit", "echo", "--input", path, "--id", id, "--output", "/dev/null");
        memcpy(first, i == 0 ? id : first, sizeof first);
    }
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    int64_t kept = INT64_MAX;
    while (kept > 500000) {
        assert_true(mq_clock_mono_ms() < until_ms);
        MUST("status", "--json");
        json_t *json = answer();
        json_t *status = json_object_get(json, "status");
        json_t *store = json_object_get(status == NULL ? json : status, "store");
        kept = json_integer_value(json_object_get(store, "results_bytes"));
        assert_int_equal(json_integer_value(json_object_get(store, "results_bytes_max")), 500000);
        json_decref(json);
        mq_clock_sleep_ms(50);
    }
    assert_true(kept > 300000); /* not more than needed, by the minute */
    MUST("job", "wait", first);
    assert_int_equal(strlen(out), 0); /* its result made room */
    MUST("job", "wait", id);
    assert_true(strlen(out) >= 100000);
    MUST("job", "submit", "echo", "--input", path, "--id", first); /* known: not run again */
    MUST("job", "show", first, "--json");
    char state[32];
    text_of("state", state, sizeof state);
    assert_string_equal(state, "succeeded");
    sys_kill(&system_, SYS_BROKER, 0, SIGTERM);
    system_.options.broker_args[0] = NULL;
    sys_spawn(&system_, SYS_BROKER, 0);
}

static int64_t beats_from_ms; /* wall clock: when the recurring job was added */

static void a_recurring_job_is_added_and_shown(void **unused)
{
    (void)unused;
    MUST("queue", "pause", "beats"); /* so that all stay where they can be counted */
    MUST("cron", "add", "beat", "* * * * *", "echo", "--param", "tick=1", "--queue", "beats");
    beats_from_ms = mq_clock_wall_ms();
    MUST("cron", "add", "night", "30 2 * * *", "echo", "--tz", "Europe/Berlin", "--missed", "once",
         "--alone");
    MUST("cron", "next", "night", "--count", "3", "--json");
    json_t *json = answer();
    json_t *row = json_array_get(json_object_get(json, "cron"), 0);
    assert_string_equal(json_string_value(json_object_get(row, "zone")), "Europe/Berlin");
    assert_int_equal(json_array_size(json_object_get(row, "next_ms")), 3);
    json_decref(json);
    MUST("cron", "pause", "night");
    MUST("cron", "list", "--json");
    json = answer();
    assert_int_equal(json_array_size(json_object_get(json, "cron")), 2);
    json_decref(json);
    MUST("cron", "resume", "night");
    MUST("cron", "remove", "night");
    assert_int_not_equal(MAASQ("cron", "next", "night"), 0);
    assert_int_not_equal(MAASQ("cron", "add", "x", "61 * * * *", "echo"), 0);
    assert_non_null(strstr(err, "minute"));
    assert_int_not_equal(MAASQ("cron", "add", "x", "1 * * * *", "echo", "--tz", "Mars/Base"), 0);
    assert_non_null(strstr(err, "Mars/Base"));
    assert_int_not_equal(MAASQ("cron", "add", "x", "1 * * * *", "echo", "--missed", "maybe"), 0);
    assert_int_not_equal(MAASQ("cron", "add", "beat", "1 * * * *", "echo"), 0);
}

/* Over the kills of the broker that the tests between made. */
static void it_ran_once_for_each_of_its_times(void **unused)
{
    (void)unused;
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS + 60000;
    for (;;) {
        int64_t asked_ms = mq_clock_wall_ms();
        MUST("job", "list", "--filter", "queue=beats", "--limit", "1000", "--json");
        json_t *json = answer();
        int64_t ran = (int64_t)json_array_size(json_object_get(json, "jobs"));
        json_decref(json);
        int64_t begun = mq_clock_wall_ms() / 60000 - beats_from_ms / 60000;
        assert_in_range(ran, 0, begun);
        if (ran >= 1 && asked_ms % 60000 > 5000 && ran == begun) {
            break;
        }
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(250);
    }
    MUST("cron", "remove", "beat");
}

static int start(void **unused)
{
    (void)unused;
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
        cmocka_unit_test(a_recurring_job_is_added_and_shown),
        cmocka_unit_test(dead_jobs_are_grouped_by_cause_retried_and_purged),
        cmocka_unit_test(dead_jobs_are_swept_after_their_retention),
        cmocka_unit_test(a_unique_key_has_one_live_job_even_over_a_kill),
        cmocka_unit_test(a_group_has_a_callback_and_a_rule_for_failures),
        cmocka_unit_test(a_group_may_be_larger_than_a_list_of_parents),
        cmocka_unit_test(attempts_backoff_and_run_limit_are_the_jobs_own),
        cmocka_unit_test(progress_is_readable_after_the_end_and_a_restart),
        cmocka_unit_test(a_soft_cancel_reaches_the_handler_and_its_slot_lives_on),
        cmocka_unit_test(a_hard_cancel_ends_at_once_and_kills_the_slot_that_does_not_listen),
        cmocka_unit_test(a_queued_job_is_cancelled_before_it_runs),
        cmocka_unit_test(the_oldest_results_make_room_and_their_ids_stay_known),
        cmocka_unit_test(it_ran_once_for_each_of_its_times),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

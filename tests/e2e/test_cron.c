/* Recurring jobs through real processes: what a run is told, and what becomes of times that were
 * missed. The past is made by setting back, while the broker is dead, the time that its store holds
 * as dealt with last: as if everything had been down since then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <hiredis/hiredis.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/clock.h"
#include "shared/job/entry.h"
#include "tests/support/command.h"

enum { MISSED_MINUTES = 10 };

static size_t jobs_of(const char *queue)
{
    char filter[64];
    snprintf(filter, sizeof filter, "queue=%s", queue);
    MUST("job", "list", "--filter", filter, "--limit", "1000", "--json");
    json_t *json = answer();
    size_t count = json_array_size(json_object_get(json, "jobs"));
    json_decref(json);
    return count;
}

/* A field of the only recurring job of that name; 0 when it is not there yet. */
static int64_t last_of(const char *name)
{
    MUST("cron", "next", name, "--json");
    json_t *json = answer();
    const json_t *row = json_array_get(json_object_get(json, "cron"), 0);
    int64_t at = json_integer_value(json_object_get(row, "last_ms"));
    json_decref(json);
    return at;
}

static redisReply *field_of(redisContext *c, const char *verb, const char *field,
                            const mq_buf *value)
{
    redisReply *r = value == NULL ? redisCommand(c, "%s {mq:0}:reg %s", verb, field)
                                  : redisCommand(c, "%s {mq:0}:reg %s %b", verb, field, value->data,
                                                 value->len);
    if (r == NULL || r->type == REDIS_REPLY_ERROR) {
        fail_msg("redis: %s", r == NULL ? c->errstr : r->str);
    }
    return r;
}

/* The broker is dead: sets back the time that was dealt with last. */
static void set_back(redisContext *c, const char *name, int64_t minutes)
{
    static mq_entry entry;
    char field[MQ_ENTRY_FIELD_MAX + 1] = "";
    mq_buf packed;
    mq_entry_key key = {.type = MQ_ENTRY_CRON, .name = mq_str(name)};
    field[mq_entry_field(&key, field)] = '\0';
    redisReply *was = field_of(c, "HGET", field, NULL);
    assert_int_equal(was->type, REDIS_REPLY_STRING);
    assert_int_equal(mq_entry_read(mq_span_of(was->str, was->len), &entry, NULL), MQ_OK);
    entry.at_ms -= minutes * 60000;
    mq_buf_init(&packed, MQ_ENTRY_BYTES_MAX);
    assert_int_equal(mq_entry_pack(&entry, &packed, NULL), MQ_OK);
    freeReplyObject(field_of(c, "HSET", field, &packed));
    freeReplyObject(was);
    mq_buf_release(&packed);
}

/* ---- facts ---- */

static void missed_times_are_skipped_made_up_for_once_or_all_made_up_for(void **unused)
{
    (void)unused;
    static const char *const rules[] = {"skip", "once", "all"};
    char path[160];
    int64_t before[3];
    for (int i = 0; i < 3; i++) {
        MUST("queue", "pause", rules[i]); /* so that all stay where they can be counted */
        MUST("cron", "add", rules[i], "* * * * *", "echo", "--missed", rules[i], "--queue",
             rules[i]);
    }
    sys_kill(&system_, SYS_BROKER, 0, SIGKILL);
    snprintf(path, sizeof path, "%s/state.sock", system_.dir);
    redisContext *c = redisConnectUnixWithTimeout(path, (struct timeval){.tv_sec = 30});
    assert_true(c != NULL && c->err == 0);
    int64_t down_ms = mq_clock_wall_ms();
    for (int i = 0; i < 3; i++) {
        set_back(c, rules[i], MISSED_MINUTES);
        before[i] = down_ms / 60000 * 60000;
    }
    redisFree(c);
    sys_spawn(&system_, SYS_BROKER, 0);
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    for (int i = 0; i < 3; i++) { /* each has dealt with all its times up to the kill */
        while (last_of(rules[i]) < before[i]) {
            assert_true(mq_clock_mono_ms() < until_ms);
            mq_clock_sleep_ms(50);
        }
    }
    /* Minutes that begin meanwhile bring runs of their own: at most one each. A time that came less
     * than a minute ago is late and not missed, so `skip` runs it as well as `once` does. */
    size_t skipped = jobs_of("skip"), once = jobs_of("once"), all = jobs_of("all");
    size_t since = (size_t)(mq_clock_wall_ms() / 60000 - down_ms / 60000);
    assert_in_range(skipped, 0, 1 + since);
    assert_in_range(once, 1, 1 + since);
    assert_in_range(all, MISSED_MINUTES, MISSED_MINUTES + 1 + since);
    for (int i = 0; i < 3; i++) {
        MUST("cron", "remove", rules[i]);
    }
}

/* The whole of what was missed is more than a minute ago. */
static void a_skipped_time_makes_no_job(void **unused)
{
    (void)unused;
    char path[160], schedule[64];
    int64_t now_s = mq_clock_wall_ms() / 1000;
    /* Each hour at a minute that lies 5 minutes behind. */
    snprintf(schedule, sizeof schedule, "%d * * * *", (int)((now_s / 60 + 55) % 60));
    static const char *const names[] = {"rest", "single"};
    for (int i = 0; i < 2; i++) {
        MUST("queue", "pause", names[i]);
        MUST("cron", "add", names[i], schedule, "echo", "--missed", i == 0 ? "skip" : "once",
             "--queue", names[i]);
    }
    int64_t added_ms = last_of("rest");
    sys_kill(&system_, SYS_BROKER, 0, SIGKILL);
    snprintf(path, sizeof path, "%s/state.sock", system_.dir);
    redisContext *c = redisConnectUnixWithTimeout(path, (struct timeval){.tv_sec = 30});
    assert_true(c != NULL && c->err == 0);
    set_back(c, "rest", 180);
    set_back(c, "single", 180);
    redisFree(c);
    sys_spawn(&system_, SYS_BROKER, 0);
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (last_of("rest") < added_ms - 600000 || last_of("single") < added_ms - 600000) {
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(50);
    }
    assert_int_equal(jobs_of("rest"), 0);
    assert_int_equal(jobs_of("single"), 1);
    MUST("cron", "remove", "rest");
    MUST("cron", "remove", "single");
}

static int64_t number_of(const char *key)
{
    json_t *json = answer();
    int64_t n = json_integer_value(json_object_get(json, key));
    json_decref(json);
    return n;
}

static void a_run_has_the_rules_that_were_given(void **unused)
{
    (void)unused;
    char id[64] = "", path[160];
    MUST("queue", "pause", "ruled");
    MUST("cron", "add", "ruled", "0 0 1 1 *", "echo", "--missed", "once", "--queue", "ruled",
         "--tenant", "acme", "--limit-key", "stripe", "--attempts", "2", "--backoff", "0.5",
         "--backoff-max", "7", "--run-limit", "9", "--keep", "3600", "--priority", "8", "--need",
         "no-such-tag", "--memory", "1000", "--ttl", "86400");
    MUST("cron", "list");
    assert_non_null(strstr(out, "tenant=acme key=stripe memory=1000 attempts=2 backoff=500"));
    sys_kill(&system_, SYS_BROKER, 0, SIGKILL);
    snprintf(path, sizeof path, "%s/state.sock", system_.dir);
    redisContext *c = redisConnectUnixWithTimeout(path, (struct timeval){.tv_sec = 30});
    assert_true(c != NULL && c->err == 0);
    set_back(c, "ruled", (int64_t)366 * 24 * 60);
    redisFree(c);
    sys_spawn(&system_, SYS_BROKER, 0);
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (jobs_of("ruled") == 0) {
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(50);
    }
    assert_int_equal(jobs_of("ruled"), 1);
    MUST("job", "list", "--filter", "queue=ruled", "--json");
    json_t *json = answer();
    const json_t *row = json_array_get(json_object_get(json, "jobs"), 0);
    snprintf(id, sizeof id, "%s", json_string_value(json_object_get(row, "id")));
    assert_string_equal(json_string_value(json_object_get(row, "tenant")), "acme");
    assert_int_equal(json_integer_value(json_object_get(row, "priority")), 8);
    json_decref(json);
    MUST("job", "show", id, "--json");
    assert_int_equal(number_of("attempts_max"), 2);
    assert_int_equal(number_of("max_run_ms"), 9000);
    assert_int_equal(number_of("keep_ms"), 3600000);
    MUST("job", "cancel", id);
    MUST("cron", "remove", "ruled");
}

static void a_rule_that_no_job_may_have_is_refused(void **unused)
{
    (void)unused;
    assert_int_equal(MAASQ("cron", "add", "x", "1 * * * *", "echo", "--attempts", "0"), 2);
    assert_non_null(strstr(err, "--attempts"));
    assert_int_equal(MAASQ("cron", "add", "x", "1 * * * *", "echo", "--tenant", "a b"), 2);
    assert_non_null(strstr(err, "--tenant"));
    assert_int_equal(MAASQ("cron", "add", "x", "1 * * * *", "echo", "--limit-key", "*"), 1);
    assert_non_null(strstr(err, "lkey"));
    assert_int_equal(MAASQ("cron", "add", "x", "1 * * * *", "echo", "--keep", "0.001"), 1);
    assert_non_null(strstr(err, "keep"));
    assert_int_not_equal(MAASQ("cron", "next", "x"), 0);
}

static int start(void **unused)
{
    (void)unused;
    sys_start(&system_, &(sys_options){.workers = 1, .slots = 1});
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
        cmocka_unit_test(missed_times_are_skipped_made_up_for_once_or_all_made_up_for),
        cmocka_unit_test(a_skipped_time_makes_no_job),
        cmocka_unit_test(a_run_has_the_rules_that_were_given),
        cmocka_unit_test(a_rule_that_no_job_may_have_is_refused),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

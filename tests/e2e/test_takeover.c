/* What happens to the shards of a broker that dies or hangs: another one takes them over, clients
 * and workers follow, what runs ends once, and the one that was stopped is refused and comes back
 * as one among others. And: nobody takes a shard over from a store that has forgotten part of it,
 * not even a broker that never owned that shard.
 *
 * How long it takes is printed, from the signal to the end of a job that was submitted to that
 * shard right behind it; MAASQ_TAKEOVERS=n (`make takeover KILLS=n`) measures n of each kind. */
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

#include "client/include/maasq.h"
#include "shared/base/clock.h"
#include "shared/base/ulid.h"
#include "tests/support/system.h"
#include "tests/support/volume.h"

enum {
    BROKERS = 2,
    SHARDS = 2,
    WORKERS = 2,
    SLOTS = 4,
    IN_FLIGHT = 12, /* jobs that run, or wait, when the signal comes */
    TAKEOVERS_MAX = 1000,
    WAIT_MS = 120000,
    STEP_MS = 10,
};

typedef struct row {
    char name[64]; /* of the owner that is alive, or "" */
    bool is_settled;
    uint64_t epoch;
} row;

static sys system_;

static int start(void **state)
{
    (void)state;
    /* Tenure, lease and beats as they are by default. */
    sys_options o = {
        .workers = WORKERS, .slots = SLOTS, .brokers = BROKERS, .broker_args = {"--shards", "2"}};
    sys_start(&system_, &o);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    sys_stop(&system_, false);
    return 0;
}

/* ---- looking ---- */

static bool look(row rows[SHARDS])
{
    static char text[65536];
    const char *const argv[] = {"maasq", "shard", "list", "--json", "--timeout", "5", NULL};
    if (sys_run(&system_, argv, text, sizeof text, NULL, 0) != 0) {
        return false;
    }
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(json);
    size_t i;
    json_t *shard;
    memset(rows, 0, SHARDS * sizeof *rows);
    json_array_foreach(json_object_get(json, "shards"), i, shard)
    {
        assert_true(i < SHARDS);
        const char *owner = json_string_value(json_object_get(shard, "owner"));
        const char *target = json_string_value(json_object_get(shard, "target"));
        snprintf(rows[i].name, sizeof rows[i].name, "%s",
                 json_string_value(json_object_get(shard, "name")));
        rows[i].epoch = (uint64_t)json_integer_value(json_object_get(shard, "epoch"));
        rows[i].is_settled = owner[0] != '\0' && strcmp(owner, target) == 0;
    }
    json_decref(json);
    return true;
}

/* Every broker has a shard and every shard its broker. */
static void await_settled(row rows[SHARDS])
{
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    for (;;) {
        bool is_there = look(rows) && strcmp(rows[0].name, rows[1].name) != 0;
        for (int s = 0; s < SHARDS; s++) {
            is_there = is_there && rows[s].is_settled;
        }
        if (is_there) {
            return;
        }
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(STEP_MS);
    }
}

/* Another owner than `before` has the shard, under a later epoch. */
static void await_successor(int shard, const row *before)
{
    row rows[SHARDS];
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (!look(rows) || rows[shard].name[0] == '\0' ||
           strcmp(rows[shard].name, before->name) == 0 || rows[shard].epoch <= before->epoch) {
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(STEP_MS);
    }
}

static int64_t redis_number(const char *command, int shard, const char *field)
{
    char line[256], text[64] = "";
    snprintf(line, sizeof line, "redis-cli -s %s/state.sock HGET {mq:%d}:%s %s", system_.dir, shard,
             command, field);
    FILE *pipe = popen(line, "r"); /* NOLINT: a path of our own */
    assert_non_null(pipe);
    (void)!fgets(text, sizeof text, pipe);
    assert_int_equal(pclose(pipe), 0);
    return strtoll(text, NULL, 10);
}

/* ---- jobs ---- */

static maasq_client *connect_client(void)
{
    maasq_error err;
    maasq_options o = {.size = sizeof o, .brokers = system_.front};
    maasq_client *client = maasq_client_new(&o, &err);
    assert_non_null(client);
    assert_int_equal(maasq_connect(client, WAIT_MS, &err), MAASQ_OK);
    return client;
}

static maasq_job *submit_to(maasq_client *client, int shard, const char *kind, const char *body)
{
    char id[MQ_ULID_SIZE];
    maasq_error err;
    do {
        mq_ulid_new(id);
    } while (mq_ulid_shard(mq_str(id), SHARDS) != (uint32_t)shard);
    maasq_spec spec = {
        .size = sizeof spec, .id = id, .kind = kind, .body = body, .body_bytes = strlen(body)};
    maasq_job *job = maasq_submit(client, &spec, NULL, NULL, &err);
    if (job == NULL) {
        fail_msg("submit: %s", err.text);
    }
    return job;
}

static void await_end(maasq_job **job)
{
    maasq_view view;
    maasq_error err;
    assert_int_equal(maasq_wait(*job, WAIT_MS, &err), MAASQ_OK);
    assert_int_equal(maasq_result(*job, &view, &err), MAASQ_OK);
    maasq_job_release(job);
}

/* ---- takeovers ---- */

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *what, int64_t *times, int count)
{
    if (count > 0) {
        qsort(times, (size_t)count, sizeof *times, compare);
        print_message("%s: next job of its shard ended after %lld ms (median), %lld ms (longest of "
                      "%d)\n",
                      what, (long long)times[count / 2], (long long)times[count - 1], count);
    }
}

/* Returns how long it took until a job of the shard ended that was submitted after the signal. */
static int64_t take_over(maasq_client *client, int shard, int signal_number)
{
    row before[SHARDS];
    maasq_job *running[IN_FLIGHT];
    await_settled(before);
    int victim = before[shard].name[1] - '0';
    for (int i = 0; i < IN_FLIGHT; i++) {
        running[i] = submit_to(client, i % SHARDS, "sleep", "{\"ms\":300}");
    }
    maasq_error err;
    assert_int_equal(maasq_flush(client, WAIT_MS, &err), MAASQ_OK);
    int64_t from_ms = mq_clock_mono_ms();
    if (signal_number == SIGSTOP) {
        assert_int_equal(kill(sys_pid(&system_, SYS_BROKER, victim), SIGSTOP), 0);
    } else {
        sys_kill(&system_, SYS_BROKER, victim, signal_number);
    }
    maasq_job *next = submit_to(client, shard, "echo", "x");
    await_end(&next);
    int64_t took_ms = mq_clock_mono_ms() - from_ms;
    await_successor(shard, &before[shard]);
    for (int i = 0; i < IN_FLIGHT; i++) {
        await_end(&running[i]);
    }
    if (signal_number == SIGSTOP) {
        assert_int_equal(kill(sys_pid(&system_, SYS_BROKER, victim), SIGCONT), 0);
    } else {
        sys_spawn(&system_, SYS_BROKER, victim);
    }
    return took_ms;
}

static void shards_of_a_dead_or_stopped_broker_are_taken_over(void **state)
{
    (void)state;
    static int64_t times[2][TAKEOVERS_MAX];
    static const int signals[] = {SIGKILL, SIGSTOP};
    const char *text = getenv("MAASQ_TAKEOVERS");
    int count = text == NULL || *text == '\0' ? 1 : (int)strtol(text, NULL, 10);
    assert_in_range(count, 1, TAKEOVERS_MAX);
    maasq_client *client = connect_client();
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < 2; k++) {
            times[k][i] = take_over(client, (i + k) % SHARDS, signals[k]);
        }
    }
    row rows[SHARDS];
    await_settled(rows); /* the last one that was stopped has its share again */
    int64_t succeeded = 0;
    for (int s = 0; s < SHARDS; s++) {
        succeeded += redis_number("count", s, "succeeded");
    }
    assert_int_equal(succeeded, 2 * count * (IN_FLIGHT + 1)); /* each was committed, and once */
    print_times("owner killed", times[0], count);
    print_times("owner stopped", times[1], count);
    assert_int_equal(maasq_client_free(&client), MAASQ_OK);
}

/* ---- older data ---- */

/* Sequence in the file in which a broker keeps what it saw of a shard, 0 = none. */
static int64_t witnessed(int broker, int shard)
{
    char path[160], instance[64];
    long long sequence = 0;
    snprintf(path, sizeof path, "%s/witness%d/shard-%d", system_.dir, broker, shard);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "%63s %lld", instance, &sequence) != 2) {
            sequence = 0;
        }
        fclose(file);
    }
    return sequence;
}

static int count_log(int broker, const char *text)
{
    char command[256];
    int count = 0;
    snprintf(command, sizeof command, "grep -acE '%s' %s/broker%d.log", text, system_.dir, broker);
    FILE *pipe = popen(command, "r"); /* NOLINT: a path of our own */
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
}

static void restart_redis(void (*change)(void))
{
    sys_kill(&system_, SYS_STATE_REDIS, 0, SIGKILL);
    change();
    sys_spawn(&system_, SYS_STATE_REDIS, 0);
}

static void copy(void)
{
    volume_copy(&system_);
}

static void bring_older(void)
{
    volume_exchange(&system_, false);
}

static void bring_right(void)
{
    volume_restore(&system_);
}

static void older_data_of_a_dead_brokers_shard_are_refused_by_the_others(void **state)
{
    (void)state;
    row rows[SHARDS];
    char text[96];
    maasq_client *client = connect_client();
    await_settled(rows);
    maasq_job *job = submit_to(client, 0, "echo", "in the copy");
    await_end(&job);
    restart_redis(copy);
    await_settled(rows);
    const int dead = rows[0].name[1] - '0', other = 1 - dead; /* shard 0 is its from here on */
    job = submit_to(client, 0, "echo", "not in the copy");
    await_end(&job);
    int64_t sequence = redis_number("owner", 0, "sequence");
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (witnessed(other, 0) < sequence) { /* by one that never owned it since */
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(STEP_MS);
    }
    sys_kill(&system_, SYS_BROKER, dead, SIGKILL);
    restart_redis(bring_older);
    snprintf(text, sizeof text, "shard=0 reason=the store is older than what was acknowledged");
    for (until_ms = mq_clock_mono_ms() + WAIT_MS; count_log(other, text) == 0;) {
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(10 * STEP_MS);
    }
    /* Nor by one that is started anew: it has it in its file. */
    int before = count_log(other, text);
    sys_kill(&system_, SYS_BROKER, other, SIGKILL);
    sys_spawn(&system_, SYS_BROKER, other);
    for (until_ms = mq_clock_mono_ms() + WAIT_MS; count_log(other, text) == before;) {
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(10 * STEP_MS);
    }
    job = submit_to(client, 0, "echo", "x");
    restart_redis(bring_right);
    await_end(&job); /* with the right data the same broker serves the shard */
    sys_spawn(&system_, SYS_BROKER, dead);
    assert_int_equal(maasq_client_free(&client), MAASQ_OK);
}

/* ---- before the first welcome ---- */

static void jobs_that_are_submitted_before_a_broker_answers_go_to_their_shards(void **state)
{
    (void)state;
    maasq_job *jobs[IN_FLIGHT];
    int64_t before[SHARDS];
    row rows[SHARDS];
    maasq_error err;
    maasq_options o = {.size = sizeof o, .brokers = system_.front};
    await_settled(rows);
    for (int s = 0; s < SHARDS; s++) {
        before[s] = redis_number("count", s, "succeeded");
    }
    for (int b = 0; b < BROKERS; b++) {
        assert_int_equal(kill(sys_pid(&system_, SYS_BROKER, b), SIGSTOP), 0);
    }
    maasq_client *client = maasq_client_new(&o, &err);
    assert_non_null(client);
    for (int i = 0; i < IN_FLIGHT; i++) {
        jobs[i] = submit_to(client, i % SHARDS, "echo", "x");
    }
    assert_int_not_equal(maasq_wait(jobs[1], 50, &err), MAASQ_OK);
    maasq_job *asked = maasq_open(client, maasq_job_id(jobs[1]), NULL, NULL, &err);
    assert_null(asked); /* it is open here */
    maasq_client *other = maasq_client_new(&o, &err);
    assert_non_null(other);
    asked = maasq_open(other, maasq_job_id(jobs[1]), NULL, NULL, &err);
    assert_non_null(asked);
    maasq_cancel(jobs[0], 0); /* it has never been sent */
    assert_true(maasq_is_done(jobs[0]));
    for (int b = 0; b < BROKERS; b++) {
        assert_int_equal(kill(sys_pid(&system_, SYS_BROKER, b), SIGCONT), 0);
    }
    size_t first = 0;
    assert_int_equal(maasq_wait_any(jobs + 1, IN_FLIGHT - 1, WAIT_MS, &first, &err), MAASQ_OK);
    maasq_job_release(&jobs[0]);
    for (int i = 1; i < IN_FLIGHT; i++) {
        await_end(&jobs[i]);
    }
    /* It may have been asked for before it came. */
    assert_int_equal(maasq_wait(asked, WAIT_MS, &err), MAASQ_OK);
    maasq_job_release(&asked);
    assert_int_equal(redis_number("count", 0, "succeeded") - before[0], IN_FLIGHT / SHARDS - 1);
    assert_int_equal(redis_number("count", 1, "succeeded") - before[1], IN_FLIGHT / SHARDS);
    assert_int_equal(maasq_client_free(&other), MAASQ_OK);
    assert_int_equal(maasq_client_free(&client), MAASQ_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_of_a_dead_or_stopped_broker_are_taken_over),
        cmocka_unit_test(jobs_that_are_submitted_before_a_broker_answers_go_to_their_shards),
        cmocka_unit_test(older_data_of_a_dead_brokers_shard_are_refused_by_the_others),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

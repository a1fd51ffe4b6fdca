/* Three brokers share four shards over one Redis while jobs run: brokers are killed, stopped past
 * their tenure, drained and started again at random, each until all that it had has another owner
 * under a later epoch. Every acknowledged job ends once. How long a takeover takes is measured by
 * test_takeover. MAASQ_SEED=n repeats a run, MAASQ_SHARD_FAULTS=n makes it longer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <signal.h>
#include <sys/random.h>

#include "client/include/maasq.h"
#include "shared/base/clock.h"
#include "shared/base/prng.h"
#include "shared/base/ulid.h"
#include "tests/support/system.h"

enum {
    BROKERS = 3,
    SHARDS = 4,
    WORKERS = 3,
    JOBS = 2000,
    SLOW_EVERY = 25,
    FAULTS = 6,
    WAIT_MS = 120000,
    STEP_MS = 20,
};

static sys system_;
static mq_prng prng;

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text == NULL || *text == '\0' ? otherwise : strtoull(text, NULL, 10);
}

static int start(void **state)
{
    (void)state;
    uint64_t seed = 0;
    assert_int_equal(getrandom(&seed, sizeof seed, 0), sizeof seed);
    seed = number("MAASQ_SEED", seed % 1000000);
    print_message("MAASQ_SEED=%llu\n", (unsigned long long)seed);
    prng.state = seed;
    sys_options o = {.workers = WORKERS,
                     .slots = 1,
                     .lease_ms = 3000,
                     .beat_ms = 500,
                     .brokers = BROKERS,
                     .broker_args = {"--shards", "4"}};
    sys_start(&system_, &o);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    sys_stop(&system_, false);
    return 0;
}

static int ask(const char *const argv[], char *out, size_t size)
{
    return sys_run(&system_, argv, out, size, NULL, 0);
}

/* A shard as the table has it. */
typedef struct row {
    char name[32]; /* of the owner that is alive, or "" */
    uint64_t epoch;
} row;

/* False when nobody answers. */
static bool look(row rows[SHARDS])
{
    static char list[65536];
    memset(rows, 0, SHARDS * sizeof *rows);
    const char *const argv[] = {"maasq", "shard", "list", "--json", "--timeout", "5", NULL};
    if (ask(argv, list, sizeof list) != 0) {
        return false;
    }
    json_t *json = json_loads(list, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(json);
    size_t i;
    json_t *shard;
    json_array_foreach(json_object_get(json, "shards"), i, shard)
    {
        assert_true(i < SHARDS);
        snprintf(rows[i].name, sizeof rows[i].name, "%s",
                 json_string_value(json_object_get(shard, "name")));
        rows[i].epoch = (uint64_t)json_integer_value(json_object_get(shard, "epoch"));
    }
    assert_int_equal(json_array_size(json_object_get(json, "shards")), SHARDS);
    json_decref(json);
    return true;
}

static void await_owned(row rows[SHARDS])
{
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    for (int owned = 0; owned < SHARDS;) {
        owned = look(rows) ? 0 : -SHARDS;
        for (int s = 0; s < SHARDS; s++) {
            owned += rows[s].name[0] != '\0';
        }
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(STEP_MS);
    }
}

/* What `broker` had in `before` has another owner, under a later epoch. Returns how many shards. */
static int await_taken(const row before[SHARDS], const char *broker)
{
    row rows[SHARDS];
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    for (;;) {
        int left = 0, went = 0;
        await_owned(rows);
        for (int s = 0; s < SHARDS; s++) {
            bool was_its = strcmp(before[s].name, broker) == 0;
            left +=
                was_its && (strcmp(rows[s].name, broker) == 0 || rows[s].epoch <= before[s].epoch);
            went += was_its;
        }
        if (left == 0) {
            return went;
        }
        assert_true(mq_clock_mono_ms() < until_ms);
    }
}

static void drain(const char *broker, bool is_undo)
{
    const char *const argv[] = {"maasq", "broker", "drain", broker, is_undo ? "--undo" : NULL,
                                NULL};
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (ask(argv, NULL, 0) != 0) {
        assert_true(mq_clock_mono_ms() < until_ms);
        mq_clock_sleep_ms(STEP_MS);
    }
}

/* Takes all its shards away from the broker that has this one. */
static void fault(int kind, int shard)
{
    static const char *const names[] = {"SIGKILL", "a stop", "SIGTERM", "a drain"};
    row before[SHARDS];
    char name[32];
    await_owned(before);
    memcpy(name, before[shard].name, sizeof name);
    int broker = name[1] - '0'; /* "b1" */
    switch (kind) {
    case 0:
    case 2:
        sys_kill(&system_, SYS_BROKER, broker, kind == 0 ? SIGKILL : SIGTERM);
        break;
    case 1:
        assert_int_equal(kill(sys_pid(&system_, SYS_BROKER, broker), SIGSTOP), 0);
        break;
    default:
        drain(name, false);
    }
    int went = await_taken(before, name);
    print_message("%d shards of %s have others after %s\n", went, name, names[kind]);
    if (kind == 1) {
        assert_int_equal(kill(sys_pid(&system_, SYS_BROKER, broker), SIGCONT), 0);
    } else if (kind == 3) {
        drain(name, true);
    } else {
        sys_spawn(&system_, SYS_BROKER, broker);
    }
    assert_true(went > 0);
}

static int64_t succeeded(void)
{
    int64_t sum = 0;
    for (int s = 0; s < SHARDS; s++) {
        char command[256], text[64] = "";
        snprintf(command, sizeof command, "redis-cli -s %s/state.sock HGET {mq:%d}:count succeeded",
                 system_.dir, s);
        FILE *pipe = popen(command, "r"); /* NOLINT: a path of our own */
        assert_non_null(pipe);
        (void)!fgets(text, sizeof text, pipe);
        assert_int_equal(pclose(pipe), 0);
        sum += strtoll(text, NULL, 10);
    }
    return sum;
}

static void jobs_end_once_while_shards_change_hands(void **state)
{
    (void)state;
    static maasq_job *jobs[JOBS];
    int shards_used[SHARDS] = {0};
    maasq_error err;
    maasq_options o = {.size = sizeof o, .brokers = system_.front};
    maasq_client *client = maasq_client_new(&o, &err);
    assert_non_null(client);
    assert_int_equal(maasq_connect(client, WAIT_MS, &err), MAASQ_OK);
    /* Some take a while, so that there are always some under way. */
    maasq_spec quick = {.size = sizeof quick, .kind = "echo", .body = "x", .body_bytes = 1};
    maasq_spec slow = {
        .size = sizeof slow, .kind = "sleep", .body = "{\"ms\":700}", .body_bytes = 10};
    int faults = (int)number("MAASQ_SHARD_FAULTS", FAULTS);
    int first = (int)mq_prng_below(&prng, 4), sent = 0;
    for (int f = 0; f <= faults; f++) {
        for (int until = JOBS * (f + 1) / (faults + 1); sent < until; sent++) {
            const maasq_spec *spec = sent % SLOW_EVERY == 0 ? &slow : &quick;
            jobs[sent] = maasq_submit(client, spec, NULL, NULL, &err);
            assert_non_null(jobs[sent]);
            shards_used[mq_ulid_shard(mq_str(maasq_job_id(jobs[sent])), SHARDS)]++;
        }
        if (f < faults) {
            fault((first + f) % 4, (int)mq_prng_below(&prng, SHARDS));
        }
    }
    for (int i = 0; i < JOBS; i++) {
        maasq_view view;
        assert_int_equal(maasq_wait(jobs[i], WAIT_MS, &err), MAASQ_OK);
        assert_int_equal(maasq_result(jobs[i], &view, &err), MAASQ_OK);
        maasq_job_release(&jobs[i]);
    }
    for (int s = 0; s < SHARDS; s++) {
        assert_true(shards_used[s] > 0);
    }
    assert_int_equal(succeeded(), JOBS); /* each was committed, and once */
    assert_int_equal(maasq_client_free(&client), MAASQ_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_end_once_while_shards_change_hands),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

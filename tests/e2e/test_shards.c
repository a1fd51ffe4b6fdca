/* Three brokers share four shards over one Redis while jobs run: brokers are killed, stopped past
 * their tenure, drained and started again at random. Every acknowledged job ends once, and all
 * shards are owned again. MAASQ_SEED=n repeats a run, MAASQ_SHARD_FAULTS=n makes it longer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
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
    FAULTS = 6,
    WAIT_MS = 120000,
    STEP_MS = 20,
    STOP_MS = 4500, /* past the tenure of 3 s */
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

/* How many of the shards have an owner that is alive; -1 when nobody answers. */
static int owned(char *list, size_t size)
{
    const char *const argv[] = {"maasq", "shard", "list", "--json", "--timeout", "5", NULL};
    if (ask(argv, list, size) != 0) {
        return -1;
    }
    int count = 0;
    for (const char *at = list; (at = strstr(at, "\"owner\":")) != NULL; at++) {
        const char *value = at + strlen("\"owner\":");
        value += strspn(value, " ");
        count += strncmp(value, "\"\"", 2) != 0;
    }
    return count;
}

static void await_all_owned(const char *after)
{
    static char list[65536];
    int64_t from_ms = mq_clock_mono_ms();
    while (owned(list, sizeof list) != SHARDS) {
        assert_true(mq_clock_mono_ms() - from_ms < WAIT_MS);
        mq_clock_sleep_ms(STEP_MS);
    }
    print_message("all shards owned %lld ms after %s\n", (long long)(mq_clock_mono_ms() - from_ms),
                  after);
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

static void fault(int kind, int broker)
{
    char name[32];
    switch (kind) {
    case 0:
        sys_kill(&system_, SYS_BROKER, broker, SIGKILL);
        await_all_owned("SIGKILL");
        sys_spawn(&system_, SYS_BROKER, broker);
        break;
    case 1:
        assert_int_equal(kill(sys_pid(&system_, SYS_BROKER, broker), SIGSTOP), 0);
        mq_clock_sleep_ms(STOP_MS);
        assert_int_equal(kill(sys_pid(&system_, SYS_BROKER, broker), SIGCONT), 0);
        await_all_owned("a stop past the tenure");
        break;
    case 2:
        sys_kill(&system_, SYS_BROKER, broker, SIGTERM);
        await_all_owned("SIGTERM");
        sys_spawn(&system_, SYS_BROKER, broker);
        break;
    default:
        snprintf(name, sizeof name, "b%d", broker);
        drain(name, false);
        await_all_owned("a drain");
        drain(name, true);
    }
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
    maasq_spec spec = {.size = sizeof spec, .kind = "echo", .body = "x", .body_bytes = 1};
    int faults = (int)number("MAASQ_SHARD_FAULTS", FAULTS);
    int first = (int)mq_prng_below(&prng, 4), sent = 0;
    for (int f = 0; f <= faults; f++) {
        for (int until = JOBS * (f + 1) / (faults + 1); sent < until; sent++) {
            jobs[sent] = maasq_submit(client, &spec, NULL, NULL, &err);
            assert_non_null(jobs[sent]);
            shards_used[mq_ulid_shard(mq_str(maasq_job_id(jobs[sent])), SHARDS)]++;
        }
        if (f < faults) {
            fault((first + f) % 4, (int)mq_prng_below(&prng, BROKERS));
        }
    }
    for (int i = 0; i < JOBS; i++) {
        maasq_view view;
        assert_int_equal(maasq_wait(jobs[i], WAIT_MS, &err), MAASQ_OK);
        assert_int_equal(maasq_result(jobs[i], &view, &err), MAASQ_OK);
        maasq_job_release(&jobs[i]);
    }
    await_all_owned("the last job");
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

/* The promise of the queue, with real processes: 2,000 jobs run while workers, slots, the broker
 * and redis-server are killed with SIGKILL at random moments. Every acknowledged job must reach one
 * terminal state with at most one commit, and none may be dead but the planted poison.
 *
 * MAASQ_SEED repeats a choice of victims; MAASQ_CHAOS_KILLS and MAASQ_CHAOS_JOBS make it longer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/include/maasq.h"
#include "shared/base/clock.h"
#include "shared/base/prng.h"
#include "tests/support/system.h"

enum {
    JOBS = 2000,
    KILLS = 14,
    POISON_EVERY = 700, /* jobs 350, 1050, 1750: kill the slot that runs them, every time */
    SLEEP_EVERY = 4,    /* jobs that take 5 to 60 ms, so that kills hit running ones */
    END_MS = 120000,    /* everything must have ended by then */
    BODY_MAX = 64,
};

typedef struct tally {
    atomic_int callbacks; /* of one job: must end at 1 */
} tally;

static int number_from(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text == NULL ? otherwise : (int)strtol(text, NULL, 10);
}

static void on_done(maasq_job *job, void *arg)
{
    (void)job;
    atomic_fetch_add(&((tally *)arg)->callbacks, 1);
}

static bool is_poison(int i)
{
    return i % POISON_EVERY == POISON_EVERY / 2;
}

static maasq_job *submit(maasq_client *client, int i, tally *t)
{
    char body[BODY_MAX];
    maasq_spec spec = {.size = sizeof spec, .kind = "echo", .body = body};
    if (is_poison(i)) {
        spec.kind = "crash";
        snprintf(body, sizeof body, "{\"signal\":9}");
    } else if (i % SLEEP_EVERY == 0) {
        spec.kind = "sleep";
        snprintf(body, sizeof body, "{\"ms\":%d}", 5 + i % 56);
    } else {
        snprintf(body, sizeof body, "job number %d", i);
    }
    spec.body_bytes = strlen(body);
    maasq_error err;
    maasq_job *job = maasq_submit(client, &spec, on_done, t, &err);
    if (job == NULL) {
        fail_msg("job %d was not queued: %s", i, err.text);
    }
    return job;
}

/* Kills something and brings it back. Returns what it was. */
static const char *kill_something(sys *s, mq_prng *prng)
{
    pid_t slots[SYS_SLOTS_MAX];
    int worker = (int)mq_prng_below(prng, (uint64_t)s->options.workers);
    switch (mq_prng_below(prng, 5)) {
    case 0:
        sys_kill(s, SYS_BROKER, 0, SIGKILL);
        sys_spawn(s, SYS_BROKER, 0);
        return "broker";
    case 1:
        sys_kill(s, SYS_STATE_REDIS, 0, SIGKILL);
        sys_spawn(s, SYS_STATE_REDIS, 0);
        return "redis";
    case 2: {
        int count = sys_children(sys_pid(s, SYS_WORKER, worker), slots);
        if (count > 0) {
            kill(slots[mq_prng_below(prng, (uint64_t)count)], SIGKILL);
        }
        return "slot";
    }
    default:
        sys_kill(s, SYS_WORKER, worker, SIGKILL);
        sys_spawn(s, SYS_WORKER, worker);
        return "worker";
    }
}

/* How often the stored record of a job says that it was committed. */
static int commits_of(maasq_client *client, const char *id)
{
    char *text = NULL;
    maasq_error err;
    if (maasq_query(client, "job", id, NULL, 0, 30000, &text, &err) != 0) {
        fail_msg("job %s cannot be read back: %s", id, err.text);
    }
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    json_t *history = json_object_get(json, "history");
    assert_true(json_is_array(history));
    int commits = 0;
    size_t at;
    json_t *entry;
    json_array_foreach(history, at, entry)
    {
        const char *event = json_string_value(json_object_get(entry, "event"));
        commits += event != NULL && strcmp(event, "complete") == 0;
    }
    json_decref(json);
    maasq_free(text);
    return commits;
}

/* What the system knows of a job that ended wrongly, for the one who has to find out why. */
static void show(maasq_client *client, const char *id)
{
    char *text = NULL;
    maasq_error err;
    int code = maasq_query(client, "job", id, NULL, 0, 30000, &text, &err);
    fprintf(stderr, "%s\n", code == 0 ? text : err.text);
    maasq_free(text);
}

static void check_end(maasq_client *client, maasq_job *job, int i, const tally *t)
{
    maasq_info info = {.size = sizeof info};
    maasq_job_info(job, &info);
    maasq_view view;
    maasq_error err;
    int callbacks = atomic_load(&t->callbacks);
    if (callbacks != 1) {
        fail_msg("job %d: %d callbacks", i, callbacks);
    }
    if (is_poison(i)) {
        if (strcmp(info.state, "dead") != 0 || strcmp(info.why, "poison") != 0) {
            show(client, info.id);
            fail_msg("poison job %d is %s (%s)", i, info.state, info.why);
        }
        return;
    }
    if (strcmp(info.state, "succeeded") != 0 || maasq_result(job, &view, &err) != 0) {
        show(client, info.id);
        fail_msg("job %d (%s) is %s: %s %s", i, info.id, info.state, info.why, info.error);
    }
    if (i % SLEEP_EVERY != 0) {
        char body[BODY_MAX];
        int len = snprintf(body, sizeof body, "job number %d", i);
        assert_int_equal(view.bytes, len);
        assert_memory_equal(view.data, body, view.bytes);
    }
    assert_int_equal(commits_of(client, info.id), 1);
}

/* The store's own counters must agree: a second commit of any job would show there. */
static void check_counters(maasq_client *client, int jobs, int poison)
{
    char *text = NULL;
    maasq_error err;
    assert_int_equal(maasq_query(client, "status", NULL, NULL, 0, 30000, &text, &err), 0);
    json_t *json = json_loads(text, 0, NULL);
    json_t *counters = json_object_get(json, "counters");
    assert_true(json_is_object(counters));
    assert_int_equal(json_integer_value(json_object_get(counters, "submitted")), jobs);
    assert_int_equal(json_integer_value(json_object_get(counters, "succeeded")), jobs - poison);
    assert_int_equal(json_integer_value(json_object_get(counters, "dead")), poison);
    json_decref(json);
    maasq_free(text);
}

static void acknowledged_jobs_end_once_whatever_is_killed(void **state)
{
    (void)state;
    int jobs_count = number_from("MAASQ_CHAOS_JOBS", JOBS);
    int kills_wanted = number_from("MAASQ_CHAOS_KILLS", KILLS);
    mq_prng prng = {(uint64_t)number_from("MAASQ_SEED", (int)(mq_clock_wall_ms() & 0xffffff))};
    printf("seed %llu\n", (unsigned long long)prng.state);
    sys_options options = {.workers = 3, .slots = 2, .lease_ms = 2000, .beat_ms = 400};
    sys s;
    sys_start(&s, &options);

    maasq_error err;
    maasq_options client_options = {.size = sizeof client_options, .brokers = s.front};
    maasq_client *client = maasq_client_new(&client_options, &err);
    assert_non_null(client);
    maasq_job **jobs = calloc((size_t)jobs_count, sizeof(maasq_job *));
    tally *tallies = calloc((size_t)jobs_count, sizeof *tallies);
    assert_true(jobs != NULL && tallies != NULL);

    int kills = 0, poison = 0, counts[4] = {0};
    for (int i = 0; i < jobs_count; i++) {
        jobs[i] = submit(client, i, &tallies[i]);
        poison += is_poison(i);
        mq_clock_sleep_ms(i % 3 == 0 ? 6 : 2);
        if (i * kills_wanted / jobs_count > kills) {
            const char *what = kill_something(&s, &prng);
            counts[what[0] == 'b' ? 0 : what[0] == 'r' ? 1 : what[0] == 's' ? 2 : 3]++;
            kills++;
        }
    }
    int64_t give_up_ms = mq_clock_mono_ms() + END_MS;
    for (int i = 0; i < jobs_count; i++) {
        int64_t left_ms = give_up_ms - mq_clock_mono_ms();
        if (maasq_wait(jobs[i], left_ms > 0 ? left_ms : 0, &err) != 0) {
            sys_stop(&s, true);
            fail_msg("job %d (%s) has not ended: %s: %s", i, maasq_job_id(jobs[i]),
                     maasq_state(jobs[i]), err.text);
        }
    }
    while (mq_clock_mono_ms() < give_up_ms &&
           atomic_load(&tallies[jobs_count - 1].callbacks) == 0) {
        mq_clock_sleep_ms(5);
    }
    for (int i = 0; i < jobs_count; i++) {
        check_end(client, jobs[i], i, &tallies[i]);
        maasq_job_release(&jobs[i]);
    }
    check_counters(client, jobs_count, poison);
    printf("jobs acknowledged %d, kills %d (broker %d, redis %d, slot %d, worker %d), lost 0, "
           "committed twice 0, dead %d (planted %d)\n",
           jobs_count, kills, counts[0], counts[1], counts[2], counts[3], poison, poison);
    maasq_client_free(&client);
    free(jobs);
    free(tallies);
    sys_stop(&s, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acknowledged_jobs_end_once_whatever_is_killed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

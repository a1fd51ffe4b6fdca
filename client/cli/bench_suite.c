/* `maasq bench queue --suite`: private systems with one and two workers, and beside them, in turn,
 * what ZeroMQ and Redis do alone with the same bytes. Every figure is a median over the rounds,
 * every ratio one of a single run. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/cli/ceiling.h"
#include "client/cli/load.h"
#include "client/cli/suite.h"
#include "client/cli/system.h"
#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/base/math.h"

enum {
    ROUNDS_MAX = 100,
    WINDOW = 1000,
    LARGE_WINDOW = 128,
    LARGE_BYTES = 65536,
    SMALL_BYTES = 100,
    LIGHT_WORKERS = 1000,
    SYSTEMS = 3, /* one worker, two workers, light workers */
    START_S = 90,
};

typedef enum figure {
    F_ZMQ,
    F_ZMQ_MS,
    F_SLOT_MS,  /* to another process and back */
    F_FLOOR_MS, /* the bare echo and that */
    F_ZMQ_64K,
    F_REDIS_128,
    F_REDIS_512,
    F_HSET_512,
    F_REDIS_MS,
    F_REDIS_64K,
    F_DURABLE_1,
    F_DURABLE_2,
    F_TRANSIENT_1,
    F_TRANSIENT_2,
    F_DURABLE_MS,
    F_TRANSIENT_MS,
    F_DURABLE_64K,
    F_TRANSIENT_64K,
    F_LIGHT,
    F_LIGHT_TRANSIENT,
    F_SUBMIT_EMPTY,
    F_SUBMIT_FULL,
    F_LATENCY_EMPTY,
    F_LATENCY_FULL,
    F_BYTES_PER_JOB,
    F_BROKER_RSS,
    F_ACCEPT_MS,
    F_DISPATCH_MS,
    F_LOADED_MS,
    F_COUNT
} figure;

typedef struct system_of {
    char dir[64];
    mq_cli cli;
    bool is_up;
    pid_t light; /* its program of light workers, 0 = none */
} system_of;

typedef struct suite {
    mq_cli *cli;
    const mq_suite_options *o;
    mq_zmq_echo zmq;
    mq_bare_redis redis;
    system_of systems[SYSTEMS];
    double all[F_COUNT][ROUNDS_MAX];
    int count[F_COUNT];
} suite;

static void note(suite *s, figure f, double value)
{
    if (s->count[f] < ROUNDS_MAX) {
        s->all[f][s->count[f]++] = value;
    }
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(suite *s, figure f)
{
    if (s->count[f] == 0) {
        return (double)NAN;
    }
    qsort(s->all[f], (size_t)s->count[f], sizeof(double), by_size);
    return s->all[f][s->count[f] / 2];
}

/* ---- private systems ---- */

static pid_t spawn(char *const argv[], const char *program)
{
    pid_t parent = getpid();
    (void)fflush(NULL); /* what waits there is not the child's to print */
    pid_t pid = fork();
    if (pid == 0) {
        bool is_ours = prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == parent;
        if (is_ours && freopen("/dev/null", "w", stdout) != NULL) {
            (void)execv(program, argv);
        }
        _exit(127);
    }
    return pid;
}

static bool run(char *const argv[])
{
    int status = 1;
    pid_t pid = spawn(argv, "/proc/self/exe");
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static int system_start(suite *s, system_of *m, const char *workers)
{
    char name[] = "maasq", up[] = "up", w[] = "--workers", slots[] = "--slots", one[] = "1",
         data[] = "--data", detach[] = "--detach";
    (void)snprintf(m->dir, sizeof m->dir, "/tmp/maasq-bench-XXXXXX");
    if (mkdtemp(m->dir) == NULL) {
        return mq_cli_fail(s->cli, "%s: %s", m->dir, strerror(errno));
    }
    char *argv[] = {name,   up,     w,   (char *)(uintptr_t)workers, slots, one, data,
                    m->dir, detach, NULL};
    m->is_up = run(argv);
    m->cli = *s->cli;
    m->cli.client = NULL;
    m->cli.broker = m->cli.found_broker;
    if (!m->is_up || !mq_system_broker(m->dir, m->cli.found_broker, sizeof m->cli.found_broker)) {
        return mq_cli_fail(s->cli, "maasq up --data %s does not start", m->dir);
    }
    return mq_cli_connect(&m->cli);
}

static void system_stop(system_of *m)
{
    char name[] = "maasq", down[] = "down", data[] = "--data";
    char *argv[] = {name, down, data, m->dir, NULL};
    (void)maasq_client_free(&m->cli.client);
    if (m->light > 0) {
        (void)kill(m->light, SIGTERM);
        (void)waitpid(m->light, NULL, 0);
    }
    if (m->is_up) {
        (void)run(argv);
    }
    if (m->dir[0] != '\0') {
        mq_error err;
        if (mq_dir_remove(m->dir, &err) != MQ_OK) {
            (void)fprintf(stderr, "maasq: %s\n", err.text);
        }
    }
}

/* The 1,000 connect to the back socket of the third system, whose own worker takes part as well. */
static int start_light(suite *s, system_of *m)
{
    char endpoint[128], count[16];
    (void)snprintf(endpoint, sizeof endpoint, "ipc://%.63s/run/back", m->dir);
    (void)snprintf(count, sizeof count, "%d", LIGHT_WORKERS);
    char *argv[] = {(char *)(uintptr_t)s->o->light, endpoint, count, NULL};
    m->light = spawn(argv, s->o->light);
    int64_t until_ms = mq_clock_mono_ms() + START_S * 1000;
    while (mq_clock_mono_ms() < until_ms) {
        json_t *status = NULL;
        if (mq_cli_query(&m->cli, "status", "", "", 0, &status) != MQ_EXIT_OK) {
            return MQ_EXIT_FAILED;
        }
        int64_t workers = mq_js_int(mq_js(status, "workers"), "count");
        json_decref(status);
        if (workers > LIGHT_WORKERS) {
            return MQ_EXIT_OK;
        }
        mq_clock_sleep_ms(100);
    }
    return mq_cli_fail(s->cli, "%s: its workers do not register", s->o->light);
}

/* ---- one measurement each ---- */

static int echo(suite *s, system_of *m, const mq_echo *e, figure rate, figure p50)
{
    mq_load l;
    double seconds = 0;
    if (!mq_load_init(&l, e->jobs, e->window)) {
        return mq_cli_fail(s->cli, "no memory for %lld jobs", (long long)e->jobs);
    }
    int status = mq_load_echo(&m->cli, &l, e, &seconds);
    if (status == MQ_EXIT_OK && l.failed > 0) {
        status = mq_cli_fail(s->cli, "%s", l.error);
    }
    if (status == MQ_EXIT_OK) {
        if (rate != F_COUNT) {
            note(s, rate, (double)l.ended / seconds);
        }
        if (p50 != F_COUNT) {
            note(s, p50, mq_load_percentile(&l, 0.5));
        }
    }
    mq_load_release(&l);
    return status;
}

static int ceilings(suite *s)
{
    mq_error err;
    int64_t n = s->o->jobs;
    uint32_t few = (uint32_t)mq_max_i64(n / 20, 50), jobs = (uint32_t)n;
    double seconds = 0, ms = 0, rate = 0;
    mq_code code = mq_zmq_echo_run(&s->zmq, n * 5, WINDOW, SMALL_BYTES, &seconds, &ms, &err);
    note(s, F_ZMQ, (double)n * 5 / seconds);
    if (code == MQ_OK) {
        code = mq_zmq_echo_run(&s->zmq, few, 1, SMALL_BYTES, &seconds, &ms, &err);
        note(s, F_ZMQ_MS, ms);
        double zmq_ms = ms;
        code = code == MQ_OK ? mq_wake_run(few, &ms, &err) : code;
        note(s, F_SLOT_MS, ms);
        note(s, F_FLOOR_MS, zmq_ms + ms);
    }
    if (code == MQ_OK) {
        code = mq_zmq_echo_run(&s->zmq, few * 2, LARGE_WINDOW, LARGE_BYTES, &seconds, &ms, &err);
        note(s, F_ZMQ_64K, few * 2 / seconds);
    }
    const struct {
        uint32_t batch;
        figure f;
    } batches[] = {{128, F_REDIS_128}, {512, F_REDIS_512}};
    for (int i = 0; i < 2 && code == MQ_OK; i++) {
        code = mq_bare_redis_commits(&s->redis, jobs, batches[i].batch, &rate, &err);
        note(s, batches[i].f, rate);
    }
    if (code == MQ_OK) {
        code = mq_bare_redis_hsets(&s->redis, jobs, 512, &rate, &err);
        note(s, F_HSET_512, rate);
    }
    if (code == MQ_OK) {
        code = mq_bare_redis_values(&s->redis, few, 1, SMALL_BYTES, &rate, &ms, &err);
        note(s, F_REDIS_MS, ms);
    }
    if (code == MQ_OK) {
        code = mq_bare_redis_values(&s->redis, few, LARGE_WINDOW, LARGE_BYTES, &rate, &ms, &err);
        note(s, F_REDIS_64K, rate);
    }
    return code == MQ_OK ? MQ_EXIT_OK : mq_cli_fail(s->cli, "%s", err.text);
}

static int ours(suite *s)
{
    int64_t n = s->o->jobs, few = mq_max_i64(n / 20, 50);
    const struct {
        int system;
        mq_echo echo;
        figure rate, p50;
    } cases[] = {
        {0, {NULL, SMALL_BYTES, n, WINDOW, false}, F_DURABLE_1, F_COUNT},
        {0, {NULL, SMALL_BYTES, n * 3, WINDOW, true}, F_TRANSIENT_1, F_COUNT},
        {0, {NULL, SMALL_BYTES, few, 1, false}, F_COUNT, F_DURABLE_MS},
        {0, {NULL, SMALL_BYTES, few, 1, true}, F_COUNT, F_TRANSIENT_MS},
        {0, {NULL, LARGE_BYTES, few, LARGE_WINDOW, false}, F_DURABLE_64K, F_COUNT},
        {0, {NULL, LARGE_BYTES, few * 2, LARGE_WINDOW, true}, F_TRANSIENT_64K, F_COUNT},
        {1, {NULL, SMALL_BYTES, n, WINDOW, false}, F_DURABLE_2, F_COUNT},
        {1, {NULL, SMALL_BYTES, n * 3, WINDOW, true}, F_TRANSIENT_2, F_COUNT},
        {2, {NULL, SMALL_BYTES, n, WINDOW, false}, F_LIGHT, F_COUNT},
        {2, {NULL, SMALL_BYTES, n * 3, WINDOW, true}, F_LIGHT_TRANSIENT, F_COUNT},
    };
    int status = MQ_EXIT_OK;
    for (size_t i = 0; i < sizeof cases / sizeof *cases && status == MQ_EXIT_OK; i++) {
        if (s->systems[cases[i].system].is_up) {
            status =
                echo(s, &s->systems[cases[i].system], &cases[i].echo, cases[i].rate, cases[i].p50);
        }
    }
    return status;
}

/* ---- a long queue ---- */

/* Submits and lets go; seconds until all are stored. */
static int submit_quietly(suite *s, system_of *m, int64_t count, double *rate)
{
    char body[SMALL_BYTES];
    maasq_error why = {0};
    memset(body, 'x', sizeof body);
    maasq_spec spec = {.size = sizeof spec,
                       .kind = "echo",
                       .queue = "bulk",
                       .body = body,
                       .body_bytes = sizeof body,
                       .durability = MAASQ_DURABLE};
    int64_t start_ns = mq_clock_mono_ns(), until_ms = mq_clock_mono_ms() + 600000;
    for (int64_t i = 0; i < count && mq_clock_mono_ms() < until_ms;) {
        maasq_job *job = maasq_submit(m->cli.client, &spec, NULL, NULL, &why);
        if (job != NULL) {
            maasq_job_release(&job);
            i++;
        } else if (why.code == MAASQ_E_BUSY) {
            mq_clock_sleep_ms(1);
        } else {
            return mq_cli_fail(s->cli, "%s", why.text);
        }
    }
    if (maasq_flush(m->cli.client, 120000, &why) != MAASQ_OK) {
        return mq_cli_fail(s->cli, "%s", why.text);
    }
    *rate = (double)count / ((double)(mq_clock_mono_ns() - start_ns) / 1e9);
    return MQ_EXIT_OK;
}

static pid_t member_pid(const system_of *m, const char *name)
{
    static mq_system_file file;
    mq_error err;
    pid_t pid = 0;
    if (mq_system_read(&file, m->dir, &err) == MQ_OK) {
        for (int i = 0; i < file.member_count; i++) {
            if (strcmp(file.members[i].name, name) == 0) {
                pid = file.members[i].process.pid;
            }
        }
    }
    return pid;
}

static double rss_mib(pid_t pid)
{
    char path[64];
    unsigned long pages = 0, resident = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *f = fopen(path, "r");
    if (f != NULL) {
        if (fscanf(f, /* NOLINT(cert-err34-c) the kernel's writing */ "%lu %lu", &pages,
                   &resident) != 2) {
            resident = 0;
        }
        (void)fclose(f);
    }
    return (double)resident * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

static int used_bytes(system_of *m, double *out, bool *is_loading)
{
    json_t *status = NULL;
    if (mq_cli_query(&m->cli, "status", "", "", 0, &status) != MQ_EXIT_OK) {
        return MQ_EXIT_FAILED;
    }
    *out = (double)mq_js_int(mq_js(status, "store"), "used_bytes");
    *is_loading = json_is_true(mq_js(status, "broker.is_loading"));
    json_decref(status);
    return MQ_EXIT_OK;
}

/* Kills the broker, which `maasq up` starts again, and counts from its death. */
static int restart(suite *s, system_of *m)
{
    const mq_echo one = {NULL, SMALL_BYTES, 1, 1, false};
    double bytes = 0;
    bool is_loading = true;
    int64_t start_ms = mq_clock_mono_ms();
    (void)kill(member_pid(m, "broker"), SIGKILL);
    (void)maasq_client_free(&m->cli.client);
    while (mq_cli_connect(&m->cli) != MQ_EXIT_OK && mq_clock_mono_ms() - start_ms < 60000) {
        (void)maasq_client_free(&m->cli.client);
        (void)mq_system_broker(m->dir, m->cli.found_broker, sizeof m->cli.found_broker);
    }
    note(s, F_ACCEPT_MS, (double)(mq_clock_mono_ms() - start_ms));
    int status = echo(s, m, &one, F_COUNT, F_COUNT);
    note(s, F_DISPATCH_MS, (double)(mq_clock_mono_ms() - start_ms));
    while (status == MQ_EXIT_OK && is_loading && mq_clock_mono_ms() - start_ms < 120000) {
        status = used_bytes(m, &bytes, &is_loading);
        mq_clock_sleep_ms(20);
    }
    note(s, F_LOADED_MS, (double)(mq_clock_mono_ms() - start_ms));
    return status;
}

static int long_queue(suite *s)
{
    system_of *m = &s->systems[0];
    const char *const queue[] = {"bulk"};
    const mq_echo single = {NULL, SMALL_BYTES, mq_max_i64(s->o->jobs / 20, 50), 1, false};
    double rate = 0, before = 0, after = 0;
    bool is_loading = false;
    int64_t part = mq_max_i64(s->o->backlog / 20, 1);
    int status = mq_cli_command(&m->cli, "pause", queue, 1);
    status = status != MQ_EXIT_OK ? status : used_bytes(m, &before, &is_loading);
    status = status != MQ_EXIT_OK ? status : echo(s, m, &single, F_COUNT, F_LATENCY_EMPTY);
    for (int64_t sent = 0; sent < s->o->backlog && status == MQ_EXIT_OK; sent += part) {
        status = submit_quietly(s, m, part, &rate);
        if (sent == 0) {
            note(s, F_SUBMIT_EMPTY, rate);
        }
    }
    note(s, F_SUBMIT_FULL, rate);
    status = status != MQ_EXIT_OK ? status : echo(s, m, &single, F_COUNT, F_LATENCY_FULL);
    mq_clock_sleep_ms(2000); /* the broker asks for the store's memory once a second */
    status = status != MQ_EXIT_OK ? status : used_bytes(m, &after, &is_loading);
    note(s, F_BYTES_PER_JOB, (after - before) / (double)s->o->backlog - SMALL_BYTES);
    note(s, F_BROKER_RSS, rss_mib(member_pid(m, "broker")));
    return status != MQ_EXIT_OK ? status : restart(s, m);
}

/* ---- the table ---- */

typedef struct line {
    const char *name, *unit;
    figure value;
    const char *ceiling_name;
    figure ceiling, plus; /* plus: added to the ceiling, F_COUNT = nothing */
    double aim;           /* of the ratio; 0 = none. Negative: at most */
} line;

static const line lines[] = {
    {"redis-commits-128", "jobs/s", F_REDIS_128, NULL, F_COUNT, F_COUNT, 0},
    {"redis-commits-512", "jobs/s", F_REDIS_512, "redis-hset-512", F_HSET_512, F_COUNT, 0.8},
    {"durable-100B-1w", "jobs/s", F_DURABLE_1, "redis-commits-512", F_REDIS_512, F_COUNT, 0.6},
    {"durable-100B-2w", "jobs/s", F_DURABLE_2, "redis-commits-512", F_REDIS_512, F_COUNT, 0.6},
    {"transient-100B-1w", "jobs/s", F_TRANSIENT_1, "zmq-echo", F_ZMQ, F_COUNT, 0.4},
    {"transient-100B-2w", "jobs/s", F_TRANSIENT_2, "zmq-echo", F_ZMQ, F_COUNT, 0.4},
    {"durable-latency", "ms", F_DURABLE_MS, "redis-write+zmq-echo", F_ZMQ_MS, F_REDIS_MS, -3},
    {"transient-latency", "ms", F_TRANSIENT_MS, "zmq-echo", F_ZMQ_MS, F_COUNT, -1.5},
    {"durable-64KiB", "jobs/s", F_DURABLE_64K, "redis-set-64KiB", F_REDIS_64K, F_COUNT, 0.7},
    /* The echo's way has twelve wake-ups (its threads and ZeroMQ's, there and back), ours the
     * slot's two besides: a handler's crash must not take its worker along. What is above that is
     * work. */
    {"slot-hand-over", "ms", F_SLOT_MS, NULL, F_COUNT, F_COUNT, 0},
    {"latency-floor", "ms", F_FLOOR_MS, "zmq-echo", F_ZMQ_MS, F_COUNT, 0},
    {"latency-above-floor", "ms", F_TRANSIENT_MS, "zmq-echo+slot-hand-over", F_FLOOR_MS, F_COUNT,
     0},
    {"transient-64KiB", "jobs/s", F_TRANSIENT_64K, "zmq-echo-64KiB", F_ZMQ_64K, F_COUNT, 0.7},
    {"durable-1000-workers", "jobs/s", F_LIGHT, "durable-100B-2w", F_DURABLE_2, F_COUNT, 0.85},
    {"transient-1000-workers", "jobs/s", F_LIGHT_TRANSIENT, "transient-100B-2w", F_TRANSIENT_2,
     F_COUNT, 0.85},
    {"submit-long-queue", "jobs/s", F_SUBMIT_FULL, "empty-queue", F_SUBMIT_EMPTY, F_COUNT, 0.75},
    {"latency-long-queue", "ms", F_LATENCY_FULL, "empty-queue", F_LATENCY_EMPTY, F_COUNT, -1.25},
    {"redis-bytes-beyond-body", "B/job", F_BYTES_PER_JOB, NULL, F_COUNT, F_COUNT, 0},
    {"broker-memory", "MiB", F_BROKER_RSS, NULL, F_COUNT, F_COUNT, 0},
    {"restart-accepts", "ms", F_ACCEPT_MS, NULL, F_COUNT, F_COUNT, 0},
    {"restart-dispatches", "ms", F_DISPATCH_MS, NULL, F_COUNT, F_COUNT, 0},
    {"restart-loaded", "ms", F_LOADED_MS, NULL, F_COUNT, F_COUNT, 0},
};

static void print_line(suite *s, const line *l)
{
    double value = median(s, l->value);
    double ceiling = l->ceiling == F_COUNT ? (double)NAN : median(s, l->ceiling);
    if (l->plus != F_COUNT) {
        ceiling += median(s, l->plus);
    }
    if (isnan(value)) {
        return;
    }
    int digits = strcmp(l->unit, "ms") == 0 ? 3 : 2;
    if (s->cli->is_json) {
        json_t *o = json_pack("{s:s, s:s, s:f, s:s}", "bench", "queue", "case", l->name, "value",
                              value, "unit", l->unit);
        if (!isnan(ceiling)) {
            (void)json_object_set_new(o, "ceiling", json_string(l->ceiling_name));
            (void)json_object_set_new(o, "ceiling_value", json_real(ceiling));
            (void)json_object_set_new(o, "ratio", json_real(value / ceiling));
        }
        if (l->aim != 0) {
            (void)json_object_set_new(o, "aim", json_real(fabs(l->aim)));
        }
        (void)json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        printf("\n");
        json_decref(o);
    } else if (isnan(ceiling)) {
        printf("%-24s %12.*f %-6s\n", l->name, digits, value, l->unit);
    } else if (l->aim == 0) {
        printf("%-24s %12.*f %-6s  %-22s %12.*f  ratio %.2f\n", l->name, digits, value, l->unit,
               l->ceiling_name, digits, ceiling, value / ceiling);
    } else {
        printf("%-24s %12.*f %-6s  %-22s %12.*f  ratio %.2f (aim %s %.2f)\n", l->name, digits,
               value, l->unit, l->ceiling_name, digits, ceiling, value / ceiling,
               l->aim < 0 ? "at most" : "at least", fabs(l->aim));
    }
}

static int start_all(suite *s)
{
    mq_error err;
    if (mq_zmq_echo_start(&s->zmq, &err) != MQ_OK ||
        mq_bare_redis_start(&s->redis, &err) != MQ_OK) {
        return mq_cli_fail(s->cli, "%s", err.text);
    }
    static const char *const workers[SYSTEMS] = {"1", "2", "1"};
    int count = s->o->light == NULL ? 2 : 3, status = MQ_EXIT_OK;
    for (int i = 0; i < count && status == MQ_EXIT_OK; i++) {
        status = system_start(s, &s->systems[i], workers[i]);
    }
    return status == MQ_EXIT_OK && count == 3 ? start_light(s, &s->systems[2]) : status;
}

int mq_suite_run(mq_cli *cli, const mq_suite_options *options)
{
    static suite s; /* large */
    memset(&s, 0, sizeof s);
    s.cli = cli;
    s.o = options;
    int status = start_all(&s);
    for (int i = 0; i < options->rounds && status == MQ_EXIT_OK; i++) {
        status = ceilings(&s);
        status = status == MQ_EXIT_OK ? ours(&s) : status;
    }
    if (status == MQ_EXIT_OK && options->backlog > 0) {
        status = long_queue(&s);
    }
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        print_line(&s, &lines[i]);
    }
    for (int i = 0; i < SYSTEMS; i++) {
        system_stop(&s.systems[i]);
    }
    mq_zmq_echo_stop(&s.zmq);
    mq_bare_redis_stop(&s.redis);
    return status;
}

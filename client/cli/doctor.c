/* `maasq doctor`: goes through everything a working system needs, in the order in which one depends
 * on the other, and says for each what to do when it is not so. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/cli.h"
#include "client/cli/system.h"
#include "shared/base/clock.h"
#include "shared/base/file.h"

enum { ECHO_MS = 20000, SKEW_MS_MAX = 60000 };

typedef struct doctor {
    mq_cli *cli;
    json_t *checks; /* owned */
    int failed;
} doctor;

typedef enum verdict { FINE, WARNING, FAILED } verdict;

static void report(doctor *d, verdict found, const char *what, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void report(doctor *d, verdict found, const char *what, const char *fmt, ...)
{
    static const char *const names[] = {"ok", "warning", "failed"};
    char text[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    d->failed += found == FAILED;
    if (!d->cli->is_json) {
        printf("%-8s %-10s %s\n", names[found], what, text);
        (void)fflush(stdout);
    }
    (void)json_array_append_new(d->checks, json_pack("{s:s, s:s, s:s}", "check", what, "verdict",
                                                     names[found], "text", text));
}

/* The local system: who of it lives. */
static void check_local(doctor *d, const mq_argv *args)
{
    char dir[MQ_SYSTEM_DIR_MAX + 1];
    mq_error err;
    mq_system_file *file = calloc(1, sizeof *file);
    if (file == NULL ||
        mq_system_dir(mq_argv_text(args, "data", NULL), false, dir, &err) != MQ_OK ||
        mq_system_read(file, dir, &err) != MQ_OK) {
        report(d, mq_argv_has(args, "data") ? FAILED : FINE, "local",
               "no system of `maasq up` here%s", mq_argv_has(args, "data") ? " in --data" : "");
        free(file);
        return;
    }
    int dead = 0;
    for (int i = 0; i < file->member_count; i++) {
        dead += !mq_process_lives(file->members[i].process);
    }
    bool is_supervised = mq_process_lives(file->supervisor);
    report(d, is_supervised && dead == 0 ? FINE : FAILED, "local", "%s: %d of %d processes live%s",
           dir, file->member_count - dead, file->member_count,
           is_supervised ? "" : ", nobody supervises them: run `maasq up` again");
    free(file);
}

/* A redis-server of ours that is not told to write every change at once would lose what was
 * acknowledged. The broker's own word counts, else the local configuration. */
static void check_store(doctor *d, const json_t *status, const mq_argv *args)
{
    const json_t *store = json_object_get(status, "store");
    const char *fsync = mq_js_text(store, "fsync", "");
    char dir[MQ_SYSTEM_DIR_MAX + 1];
    char path[256];
    mq_buf text;
    mq_buf_init(&text, 65536);
    if (fsync[0] == '\0' &&
        mq_system_dir(mq_argv_text(args, "data", NULL), false, dir, NULL) == MQ_OK) {
        (void)snprintf(path, sizeof path, "%s/run/state.conf", dir);
        if (mq_file_read(path, &text, NULL) == MQ_OK && mq_buf_add(&text, "", 1)) {
            bool is_always = strstr((const char *)text.data, "\nappendfsync always") != NULL;
            fsync = is_always ? "always" : "not always";
        }
    }
    mq_buf_release(&text);
    bool is_down = json_is_false(json_object_get(store, "connected"));
    if (is_down) {
        report(d, FAILED, "store", "the broker cannot reach its Redis: see its log");
    } else if (fsync[0] == '\0') {
        report(d, WARNING, "store",
               "reachable; whether it writes at once (appendfsync always) is not "
               "known from here");
    } else {
        report(d, strcmp(fsync, "always") == 0 ? FINE : FAILED, "store",
               "reachable, appendfsync %s%s", fsync,
               strcmp(fsync, "always") == 0 ? "" : ": acknowledged jobs can be lost");
    }
}

/* Before new jobs are answered busy. */
static void check_room(doctor *d, const json_t *status)
{
    const json_t *store = json_object_get(status, "store");
    const char *level = mq_js_text(store, "level", "ok");
    bool is_ok = strcmp(level, "ok") == 0;
    report(d,
           is_ok                        ? FINE
           : strcmp(level, "warn") == 0 ? WARNING
                                        : FAILED,
           "room", "the store uses %lld %% of its memory, %.1f MB of it finished jobs%s",
           (long long)mq_js_int(store, "used_percent"),
           (double)mq_js_int(store, "results_bytes") / 1e6,
           is_ok ? ""
                 : ": at 80 % new jobs are answered busy; raise its maxmemory, lower the broker's "
                   "--retention-ms or --results-bytes-max, or `maasq queue purge`");
}

static void check_broker(doctor *d, const json_t *status)
{
    const json_t *broker = json_object_get(status, "broker");
    const char *version = mq_js_text(broker, "version", MQ_VERSION);
    report(d, strcmp(version, MQ_VERSION) == 0 ? FINE : WARNING, "broker",
           "%s answers, version %s (this program: %s)", mq_js_text(broker, "name", "it"), version,
           MQ_VERSION);
    int64_t now_ms = mq_js_int(status, "now_ms");
    int64_t skew_ms = now_ms == 0 ? 0 : now_ms - mq_clock_wall_ms();
    bool is_near = skew_ms < SKEW_MS_MAX && skew_ms > -SKEW_MS_MAX;
    report(d, is_near ? FINE : WARNING, "clock", "the broker's differs by %.1f s%s",
           (double)skew_ms / 1000, is_near ? "" : ": run a time service on both machines");
}

static void check_workers(doctor *d)
{
    json_t *answer = NULL;
    if (mq_cli_query(d->cli, "workers", "", "", 0, &answer) != MQ_EXIT_OK) {
        report(d, FAILED, "workers", "the broker did not say");
        return;
    }
    const json_t *workers = json_object_get(answer, "workers");
    size_t count = json_array_size(workers);
    const char *first = mq_js_text(json_array_get(workers, 0), "fingerprint", "");
    bool is_mixed = false;
    int64_t slots = 0;
    size_t i;
    json_t *one;
    json_array_foreach(workers, i, one)
    {
        is_mixed |= strcmp(mq_js_text(one, "fingerprint", ""), first) != 0;
        slots += mq_js_int(one, "slots");
    }
    report(d, count == 0 ? FAILED : FINE, "workers", "%zu with %lld slots%s", count,
           (long long)slots, count == 0 ? ": start one, for example with `maasq up`" : "");
    if (is_mixed) {
        report(d, WARNING, "numerics",
               "workers differ in CPU or libraries: trainings stay on equal "
               "ones, equal work is not shared between them");
    }
    json_decref(answer);
}

static void check_blobs(doctor *d)
{
    char hash[MAASQ_HASH_SIZE];
    static const char text[] = "maasq doctor was here";
    void *data = NULL;
    size_t bytes = 0;
    maasq_error err;
    bool is_good = maasq_blob_put(d->cli->client, text, sizeof text, hash, &err) == MAASQ_OK &&
                   maasq_blob_get(d->cli->client, hash, &data, &bytes, &err) == MAASQ_OK;
    bool is_same = is_good && bytes == sizeof text && memcmp(data, text, bytes) == 0;
    report(d, is_same ? FINE : FAILED, "blobs", "%s",
           is_same   ? "a blob was written and read back"
           : is_good ? "a blob came back changed"
                     : err.text);
    maasq_free(data);
}

static void check_echo(doctor *d)
{
    maasq_spec spec = {.size = sizeof spec, .kind = "echo", .body = "doctor", .body_bytes = 6};
    maasq_error err;
    int64_t start_ns = mq_clock_mono_ns();
    maasq_job *job = maasq_submit(d->cli->client, &spec, NULL, NULL, &err);
    bool is_good = job != NULL && maasq_wait(job, ECHO_MS, &err) == MAASQ_OK &&
                   maasq_result(job, NULL, &err) == MAASQ_OK;
    if (is_good) {
        report(d, FINE, "echo", "a durable job went through in %.1f ms",
               (double)(mq_clock_mono_ns() - start_ns) / 1e6);
    } else {
        report(d, FAILED, "echo", "%s", err.text);
    }
    maasq_job_release(&job);
}

static void check_dead(doctor *d, const json_t *status)
{
    int64_t dead = mq_js_int(status, "counters.dead");
    report(d, dead == 0 ? FINE : WARNING, "dead", "%lld jobs have ended dead so far%s",
           (long long)dead,
           dead == 0 ? "" : ": `maasq queue dead` shows why, `maasq job retry ID` brings one back");
}

/* Kinds in quarantine, and jobs that nobody who is connected could ever run. */
static void check_held(doctor *d, const json_t *status)
{
    size_t i;
    json_t *alarm;
    int64_t stuck = mq_js_int(status, "held.no_worker");
    json_array_foreach(json_object_get(status, "alarms"), i, alarm)
    {
        report(d, WARNING, "alarm", "%s", json_string_value(alarm));
    }
    report(d, stuck == 0 ? FINE : WARNING, "routing",
           stuck == 0 ? "every waiting job has a worker that could run it"
                      : "%lld jobs wait for what no connected worker has: `maasq queue list` shows "
                        "what",
           (long long)stuck);
}

int mq_cmd_doctor(mq_cli *cli, const mq_argv *args)
{
    doctor d = {.cli = cli, .checks = json_array()};
    json_t *status = NULL;
    check_local(&d, args);
    if (mq_cli_query(cli, "status", "", "", 0, &status) != MQ_EXIT_OK) {
        report(&d, FAILED, "broker", "it does not answer");
    } else {
        check_broker(&d, status);
        check_store(&d, status, args);
        check_room(&d, status);
        check_blobs(&d);
        check_workers(&d);
        check_echo(&d);
        check_dead(&d, status);
        check_held(&d, status);
    }
    json_decref(status);
    int exit_status = d.failed == 0 ? MQ_EXIT_OK : MQ_EXIT_FAILED;
    if (cli->is_json) {
        (void)mq_cli_json(json_pack("{s:b, s:o}", "healthy", d.failed == 0, "checks", d.checks));
    } else {
        json_decref(d.checks);
        printf("%s\n", d.failed == 0 ? "everything works" : "not everything works, see above");
    }
    return exit_status;
}

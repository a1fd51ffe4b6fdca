/* `maasq queue` and `maasq worker`: what operators see and steer of the fleet. */
#include <stdio.h>
#include <string.h>

#include "client/cli/fleet.h"
#include "client/cli/out.h"

/* One shard may have no job of a paused queue while another has: its row says nothing more. */
static bool is_said_by_another(const json_t *queues, const json_t *queue)
{
    size_t i;
    json_t *other;
    bool has_kind = mq_js_text(queue, "kind", "")[0] != '\0';
    json_array_foreach(queues, i, other)
    {
        if (!has_kind && mq_js_text(other, "kind", "")[0] != '\0' &&
            strcmp(mq_js_text(other, "queue", ""), mq_js_text(queue, "queue", "")) == 0) {
            return true;
        }
    }
    return false;
}

void mq_fleet_queues(const json_t *answer)
{
    mq_table *table = mq_table_new("queue|kind|model|needs|>waiting|oldest|state");
    size_t i;
    json_t *queue;
    json_array_foreach(json_object_get(answer, "queues"), i, queue)
    {
        if (is_said_by_another(json_object_get(answer, "queues"), queue)) {
            continue;
        }
        bool is_paused = json_is_true(json_object_get(queue, "is_paused"));
        bool is_draining = json_is_true(json_object_get(queue, "is_draining"));
        mq_table_cell(table, "%s", mq_js_text(queue, "queue", "-"));
        mq_table_cell(table, "%s", mq_js_text(queue, "kind", "-"));
        mq_table_cell(table, "%s", mq_js_text(queue, "model", "-"));
        mq_table_cell(table, "%s", mq_js_text(queue, "needs", "-"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(queue, "waiting"));
        mq_table_cell(table, "%s", mq_out_ms(mq_js_int(queue, "oldest_ms")));
        const char *waits = mq_js_text(queue, "waits", "");
        mq_table_cell(table, "%s",
                      is_paused && waits[0] == '\0' ? "paused"
                      : waits[0] != '\0'            ? waits
                      : is_draining                 ? "draining"
                                                    : "open");
    }
    mq_table_print(table, "no queue has a job that waits, and none is paused");
}

int mq_cmd_queue_list(mq_cli *cli, const mq_argv *args)
{
    (void)args;
    json_t *answer = NULL;
    int status = mq_cli_query(cli, "queues", "", "", 0, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    mq_fleet_queues(answer);
    json_decref(answer);
    return MQ_EXIT_OK;
}

/* A command of one argument; says what was done. */
static int act(mq_cli *cli, const char *verb, const char *what, const char *done)
{
    int status = mq_cli_command(cli, verb, &what, 1);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (cli->is_json) {
        return mq_cli_json(json_pack("{s:s, s:s}", "verb", verb, "name", what));
    }
    printf("%s %s\n", what, done);
    return MQ_EXIT_OK;
}

int mq_cmd_queue_pause(mq_cli *cli, const mq_argv *args)
{
    return act(cli, "pause", mq_argv_word(args, 0), "is paused: running jobs go on, no more start");
}

int mq_cmd_queue_resume(mq_cli *cli, const mq_argv *args)
{
    return act(cli, "resume", mq_argv_word(args, 0), "is open again");
}

int mq_cmd_queue_drain(mq_cli *cli, const mq_argv *args)
{
    return act(cli, "drain-queue", mq_argv_word(args, 0),
               "takes no new jobs; those it has run to their end");
}

int mq_cmd_kind_pause(mq_cli *cli, const mq_argv *args)
{
    return act(cli, "pause-kind", mq_argv_word(args, 0),
               "is paused: running jobs go on, no more start");
}

int mq_cmd_kind_resume(mq_cli *cli, const mq_argv *args)
{
    return act(cli, "resume-kind", mq_argv_word(args, 0), "is open again");
}

int mq_cmd_kind_list(mq_cli *cli, const mq_argv *args)
{
    (void)args;
    json_t *answer = NULL;
    int status = mq_cli_query(cli, "kinds", "", "", 0, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    mq_table *table = mq_table_new("kind|>workers|>waiting|>crashes in a row|state");
    size_t i;
    json_t *kind;
    json_array_foreach(json_object_get(answer, "kinds"), i, kind)
    {
        const char *why = mq_js_text(kind, "why", "");
        mq_table_cell(table, "%s", mq_js_text(kind, "kind", "?"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(kind, "workers"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(kind, "waiting"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(kind, "crash_row"));
        mq_table_cell(table, "%s", why[0] == '\0' ? "open" : why);
    }
    mq_table_print(table, "no kinds");
    json_decref(answer);
    return MQ_EXIT_OK;
}

/* What a worker runs, as "kind id, kind id". */
static void jobs_text(const json_t *worker, char *out, size_t size)
{
    size_t i;
    size_t len = 0;
    json_t *job;
    out[0] = '\0';
    json_array_foreach(json_object_get(worker, "jobs"), i, job)
    {
        int n = snprintf(out + len, size - len, "%s%s %s", i == 0 ? "" : ", ",
                         mq_js_text(job, "kind", "?"), mq_js_text(job, "id", "?"));
        len += n > 0 ? (size_t)n : 0;
        if (len >= size) {
            return;
        }
    }
}

int mq_cmd_worker_list(mq_cli *cli, const mq_argv *args)
{
    (void)args;
    json_t *answer = NULL;
    int status = mq_cli_query(cli, "workers", "", "", 0, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    mq_table *table = mq_table_new("name|worker|host|>pid|>slots|>free|>memory|beat|state|runs");
    size_t i;
    json_t *worker;
    json_array_foreach(json_object_get(answer, "workers"), i, worker)
    {
        char jobs[90];
        jobs_text(worker, jobs, sizeof jobs);
        mq_table_cell(table, "%s", mq_js_text(worker, "name", "?"));
        mq_table_cell(table, "%.12s", mq_js_text(worker, "worker", "?"));
        mq_table_cell(table, "%.12s", mq_js_text(worker, "host", "?"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(worker, "pid"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(worker, "slots"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(worker, "free"));
        mq_table_cell(table, "%s", mq_out_bytes(mq_js_real(worker, "rss_bytes")));
        mq_table_cell(table, "%s", mq_out_ms(mq_js_int(worker, "beat_age_ms")));
        mq_table_cell(table, "%s",
                      json_is_true(json_object_get(worker, "is_draining")) ? "draining" : "ready");
        mq_table_cell(table, "%s", jobs);
    }
    mq_table_print(table, "no worker is connected: start one, for example with `maasq up`");
    json_decref(answer);
    return MQ_EXIT_OK;
}

/* A worker's uuid for a name or the beginning of a uuid; empty when none or several fit. */
static int find_worker(mq_cli *cli, const char *given, char out[64])
{
    json_t *answer = NULL;
    if (mq_cli_query(cli, "workers", "", "", 0, &answer) != MQ_EXIT_OK) {
        return MQ_EXIT_FAILED;
    }
    int found = 0;
    size_t i;
    json_t *worker;
    json_array_foreach(json_object_get(answer, "workers"), i, worker)
    {
        const char *uuid = mq_js_text(worker, "worker", "");
        if (strcmp(mq_js_text(worker, "name", ""), given) == 0 ||
            strncmp(uuid, given, strlen(given)) == 0) {
            (void)snprintf(out, 64, "%s", uuid);
            found++;
        }
    }
    json_decref(answer);
    if (found != 1) {
        return mq_cli_fail(cli, "%s: %s; `maasq worker list` shows them", given,
                           found == 0 ? "no such worker" : "several workers are named so");
    }
    return MQ_EXIT_OK;
}

int mq_cmd_worker_drain(mq_cli *cli, const mq_argv *args)
{
    char uuid[64];
    int status = find_worker(cli, mq_argv_word(args, 0), uuid);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    bool is_undo = mq_argv_has(args, "undo");
    return act(cli, is_undo ? "undrain" : "drain", uuid,
               is_undo ? "takes jobs again" : "takes no more jobs and ends when its last one has");
}

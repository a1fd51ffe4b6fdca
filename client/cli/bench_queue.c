/* `maasq bench queue`: echo jobs through the running system; with --suite through private ones and
 * against what their parts can do by themselves (bench_suite.c). */
#include <stdio.h>
#include <string.h>

#include "client/cli/load.h"
#include "client/cli/suite.h"

static int print_queue(mq_cli *cli, mq_load *l, double seconds, const char *class, int64_t bytes)
{
    json_t *latency = mq_load_json(l);
    double rate = (double)l->ended / seconds;
    if (cli->is_json) {
        char name[64];
        (void)snprintf(name, sizeof name, "%s-%lldB", class, (long long)bytes);
        json_t *line = json_pack("{s:s, s:s, s:f, s:s, s:I, s:I, s:I, s:o}", "bench", "queue",
                                 "case", name, "value", rate, "unit", "jobs/s", "jobs",
                                 (json_int_t)l->ended, "failed", (json_int_t)l->failed, "window",
                                 (json_int_t)l->window, "latency_ms", latency);
        (void)json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        printf("\n");
        json_decref(line);
    } else {
        printf("%lld %s echo jobs of %lld bytes, window %lld: %.0f jobs/s, %lld failed\n",
               (long long)l->ended, class, (long long)bytes, (long long)l->window, rate,
               (long long)l->failed);
        mq_load_print(latency);
        json_decref(latency);
    }
    return l->failed == 0 ? MQ_EXIT_OK : mq_cli_fail(cli, "%s", l->error);
}

int mq_cmd_bench_queue(mq_cli *cli, const mq_argv *args)
{
    int64_t rounds = 3, backlog = 0;
    mq_echo echo = {.bytes = 100, .jobs = 20000, .window = 1000};
    mq_error err;
    if (mq_argv_int(args, "jobs", 1, MQ_LOAD_JOBS_MAX, &echo.jobs, &err) != MQ_OK ||
        mq_argv_int(args, "bytes", 0, 1 << 20, &echo.bytes, &err) != MQ_OK ||
        mq_argv_int(args, "window", 1, 60000, &echo.window, &err) != MQ_OK ||
        mq_argv_int(args, "rounds", 1, 100, &rounds, &err) != MQ_OK ||
        mq_argv_int(args, "backlog", 0, 1000000, &backlog, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    echo.is_transient = mq_argv_has(args, "transient");
    if (mq_argv_has(args, "suite")) {
        mq_suite_options o = {.rounds = (int)rounds,
                              .jobs = echo.jobs,
                              .backlog = backlog,
                              .light = mq_argv_text(args, "light", NULL)};
        return mq_suite_run(cli, &o);
    }
    int status = mq_cli_connect(cli);
    mq_load l;
    double seconds = 0;
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (!mq_load_init(&l, echo.jobs, echo.window)) {
        return mq_cli_fail(cli, "no memory for %lld jobs", (long long)echo.jobs);
    }
    status = mq_load_echo(cli, &l, &echo, &seconds);
    if (status == MQ_EXIT_OK) {
        status =
            print_queue(cli, &l, seconds, echo.is_transient ? "transient" : "durable", echo.bytes);
    }
    mq_load_release(&l);
    return status;
}

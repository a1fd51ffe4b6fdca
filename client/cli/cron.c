/* `maasq cron`: recurring jobs. */
#include <stdio.h>

#include "client/cli/cli.h"
#include "client/cli/out.h"

enum { BODY_MAX = 32768, NEXT_MAX = 100 };

int mq_cmd_cron_add(mq_cli *cli, const mq_argv *args)
{
    mq_error err;
    maasq_error why;
    mq_buf body;
    int64_t priority = 5;
    char last[16];
    if (mq_argv_int(args, "priority", 1, 9, &priority, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    (void)snprintf(last, sizeof last, "%lld%s", (long long)priority,
                   mq_argv_has(args, "alone") ? " alone" : "");
    mq_buf_init(&body, BODY_MAX);
    if (mq_job_body(args, &body, &err) != MQ_OK) {
        mq_buf_release(&body);
        return err.code == MQ_E_ARG ? mq_cli_usage(cli, "%s", err.text)
                                    : mq_cli_fail(cli, "%s", err.text);
    }
    const char *words[] = {mq_argv_word(args, 0),           mq_argv_word(args, 1),
                           mq_argv_text(args, "tz", "UTC"), mq_argv_text(args, "missed", "skip"),
                           mq_argv_word(args, 2),           mq_argv_text(args, "queue", ""),
                           mq_argv_text(args, "model", ""), last};
    int status = mq_cli_connect(cli);
    if (status == MQ_EXIT_OK && maasq_act(cli->client, "cron-add", words, 8, body.data, body.len,
                                          cli->timeout_ms, NULL, &why) != MAASQ_OK) {
        status = mq_cli_fail(cli, "%s", why.text);
    }
    mq_buf_release(&body);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (cli->is_json) {
        return mq_cli_json(json_pack("{s:s, s:s}", "name", words[0], "schedule", words[1]));
    }
    printf("%s runs %s at \"%s\" (%s); `maasq cron next %s` shows when\n", words[0], words[4],
           words[1], words[2], words[0]);
    return MQ_EXIT_OK;
}

int mq_cmd_cron_list(mq_cli *cli, const mq_argv *args)
{
    json_t *answer = NULL;
    (void)args;
    int status = mq_cli_query(cli, "cron", "", "", 0, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    mq_table *table = mq_table_new("name|schedule|zone|missed|kind|queue|state|next (UTC)");
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(answer, "cron"), i, row)
    {
        bool is_paused = json_is_true(json_object_get(row, "is_paused"));
        const char *error = mq_js_text(row, "error", NULL);
        json_int_t next = json_integer_value(json_array_get(json_object_get(row, "next_ms"), 0));
        mq_table_cell(table, "%s", mq_js_text(row, "name", "?"));
        mq_table_cell(table, "%s", mq_js_text(row, "schedule", "?"));
        mq_table_cell(table, "%s", mq_js_text(row, "zone", "?"));
        mq_table_cell(table, "%s", mq_js_text(row, "missed", "?"));
        mq_table_cell(table, "%s", mq_js_text(row, "kind", "?"));
        mq_table_cell(table, "%s", mq_js_text(row, "queue", "default"));
        mq_table_cell(table, "%s", error != NULL ? error : is_paused ? "paused" : "runs");
        mq_table_cell(table, "%s", next == 0 ? "-" : mq_out_time(next));
    }
    mq_table_print(table, "no recurring jobs: maasq cron add NAME \"*/5 * * * *\" KIND");
    json_decref(answer);
    return MQ_EXIT_OK;
}

int mq_cmd_cron_next(mq_cli *cli, const mq_argv *args)
{
    json_t *answer = NULL;
    mq_error err;
    int64_t count = 5;
    if (mq_argv_int(args, "count", 1, NEXT_MAX, &count, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    int status = mq_cli_query(cli, "cron", mq_argv_word(args, 0), "", (uint32_t)count, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    const json_t *row = json_array_get(json_object_get(answer, "cron"), 0);
    size_t i;
    json_t *at;
    json_array_foreach(json_object_get(row, "next_ms"), i, at)
    {
        printf("%s UTC\n", mq_out_time(json_integer_value(at)));
    }
    if (i == 0) {
        printf("never: %s\n", mq_js_text(row, "error", "it is paused, or has no time left"));
    }
    json_decref(answer);
    return MQ_EXIT_OK;
}

static int act(mq_cli *cli, const mq_argv *args, const char *verb, const char *done)
{
    const char *name = mq_argv_word(args, 0);
    int status = mq_cli_command(cli, verb, &name, 1);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (cli->is_json) {
        return mq_cli_json(json_pack("{s:s, s:s}", "verb", verb, "name", name));
    }
    printf("%s %s\n", name, done);
    return MQ_EXIT_OK;
}

int mq_cmd_cron_remove(mq_cli *cli, const mq_argv *args)
{
    return act(cli, args, "cron-remove", "is removed");
}

int mq_cmd_cron_pause(mq_cli *cli, const mq_argv *args)
{
    return act(cli, args, "cron-pause", "is paused: its times go by without a job");
}

int mq_cmd_cron_resume(mq_cli *cli, const mq_argv *args)
{
    return act(cli, args, "cron-resume", "runs again, from now on");
}

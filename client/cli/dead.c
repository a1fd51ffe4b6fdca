/* `maasq queue dead`, `queue purge` and `job retry`: dead jobs, by cause and in bulk. */
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/cli.h"
#include "client/cli/out.h"

/* ---- what there is ---- */

static int print_groups(const mq_cli *cli, json_t *answer)
{
    if (cli->is_json) {
        return mq_cli_json(answer);
    }
    mq_table *table =
        mq_table_new("fingerprint|>jobs|kind|why|code|last (UTC)|error of the newest");
    size_t i;
    json_t *group;
    json_array_foreach(json_object_get(answer, "groups"), i, group)
    {
        mq_table_cell(table, "%s", mq_js_text(group, "fingerprint", "?"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(group, "count"));
        mq_table_cell(table, "%s", mq_js_text(group, "kind", "?"));
        mq_table_cell(table, "%s", mq_js_text(group, "why", "-"));
        mq_table_cell(table, "%s", mq_js_text(group, "code", "-"));
        mq_table_cell(table, "%s", mq_out_time(mq_js_int(group, "last_ms")));
        mq_table_cell(table, "%.70s", mq_js_text(group, "error", ""));
    }
    mq_table_print(table, "no dead jobs");
    if (mq_js_int(answer, "total") > 0) {
        printf("\n%lld dead jobs; again: maasq job retry --filter fingerprint=F, or --all\n",
               (long long)mq_js_int(answer, "total"));
    }
    json_decref(answer);
    return MQ_EXIT_OK;
}

int mq_cmd_queue_dead(mq_cli *cli, const mq_argv *args)
{
    const char *filter = mq_argv_text(args, "filter", "");
    char all[4096]; /* the filter may hold the cursor of a list of many shards */
    json_t *answer = NULL;
    if (mq_argv_has(args, "group")) {
        int status = mq_cli_query(cli, "dead", "", filter, 0, &answer);
        return status != MQ_EXIT_OK ? status : print_groups(cli, answer);
    }
    if (snprintf(all, sizeof all, "state=dead %s", filter) >= (int)sizeof all) {
        return mq_cli_usage(cli, "--filter: more than 4,000 letters");
    }
    return mq_job_list(cli, args, all);
}

/* ---- what is done with it ---- */

/* One verb over a filter; prints what was done. */
static int bulk(mq_cli *cli, const mq_argv *args, const char *verb, const char *done)
{
    const char *filter = mq_argv_text(args, "filter", "");
    char *text = NULL;
    maasq_error err;
    if (mq_argv_has(args, "all") == (filter[0] != '\0')) {
        return mq_cli_usage(cli, "either --filter \"kind=train code=io\" or --all");
    }
    if (mq_cli_connect(cli) != MQ_EXIT_OK) {
        return MQ_EXIT_FAILED;
    }
    if (maasq_act(cli->client, verb, &filter, 1, NULL, 0, cli->timeout_ms, &text, &err) !=
        MAASQ_OK) {
        return mq_cli_fail(cli, "%s", err.text);
    }
    json_t *counts = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    maasq_free(text);
    if (cli->is_json) {
        return mq_cli_json(counts);
    }
    int64_t left = mq_js_int(counts, "left");
    int64_t skipped = mq_js_int(counts, "skipped");
    printf("%lld of %lld dead jobs %s\n", (long long)mq_js_int(counts, "done"),
           (long long)mq_js_int(counts, "matched"), done);
    if (skipped > 0) {
        printf("%lld could not be (busy, or changed meanwhile)\n", (long long)skipped);
    }
    if (left > 0) {
        printf("%lld are left: run it again\n", (long long)left);
    }
    json_decref(counts);
    return MQ_EXIT_OK;
}

int mq_cmd_queue_purge(mq_cli *cli, const mq_argv *args)
{
    return bulk(cli, args, "purge", "are gone for good");
}

int mq_cmd_job_retry(mq_cli *cli, const mq_argv *args)
{
    const char *id = mq_argv_word(args, 0);
    size_t i = 0;
    if (id == NULL) {
        return bulk(cli, args, "retry-all", "are queued again");
    }
    if (mq_argv_has(args, "filter") || mq_argv_has(args, "all")) {
        return mq_cli_usage(cli, "either ids, or --filter, or --all");
    }
    for (; (id = mq_argv_word(args, i)) != NULL; i++) {
        if (mq_cli_command(cli, "retry", &id, 1) != MQ_EXIT_OK) {
            return MQ_EXIT_FAILED;
        }
    }
    if (cli->is_json) {
        return mq_cli_json(json_pack("{s:I}", "retried", (json_int_t)i));
    }
    printf("%zu job%s queued again\n", i, i == 1 ? "" : "s");
    return MQ_EXIT_OK;
}

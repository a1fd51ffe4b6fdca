/* `maasq limit` and `maasq tenant`: what operators set for the whole fleet. */
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/cli.h"
#include "client/cli/out.h"

enum { NUMBER_SIZE = 24 };

/* "10/s", "600/min", "5/h". */
static mq_code read_rate(const char *text, char rate[NUMBER_SIZE], char period[NUMBER_SIZE],
                         mq_error *err)
{
    static const struct {
        const char *name, *ms;
    } periods[] = {
        {"s", "1000"}, {"sec", "1000"}, {"min", "60000"}, {"m", "60000"}, {"h", "3600000"}};
    const char *slash = strchr(text, '/');
    int64_t n = 0;
    if (slash != NULL && slash - text < NUMBER_SIZE) {
        (void)mq_span_copy(mq_span_of(text, (size_t)(slash - text)), rate, NUMBER_SIZE);
        for (size_t i = 0; mq_text_int(rate, &n) && n > 0 && i < sizeof periods / sizeof *periods;
             i++) {
            if (strcmp(slash + 1, periods[i].name) == 0) {
                (void)snprintf(period, NUMBER_SIZE, "%s", periods[i].ms);
                return MQ_OK;
            }
        }
    }
    return mq_fail(err, MQ_E_ARG, "--rate: '%.40s' is not N/s, N/min or N/h", text);
}

int mq_cmd_limit_set(mq_cli *cli, const mq_argv *args)
{
    mq_error err;
    int64_t concurrency = 0, burst = 0;
    char numbers[4][NUMBER_SIZE] = {"0", "0", "0", "0"};
    const char *rate = mq_argv_text(args, "rate", NULL);
    mq_code code = mq_argv_int(args, "concurrency", 1, 1000000, &concurrency, &err);
    code = code != MQ_OK ? code : mq_argv_int(args, "burst", 1, 1000000, &burst, &err);
    if (code == MQ_OK && rate != NULL) {
        code = read_rate(rate, numbers[1], numbers[2], &err);
    }
    if (code != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    if (concurrency == 0 && rate == NULL) {
        return mq_cli_usage(cli, "a limit has --concurrency N, --rate N/PERIOD or both; "
                                 "`maasq limit remove` takes one away");
    }
    (void)snprintf(numbers[0], NUMBER_SIZE, "%lld", (long long)concurrency);
    (void)snprintf(numbers[3], NUMBER_SIZE, "%lld", (long long)burst);
    const char *target = mq_argv_word(args, 0);
    const char *words[] = {target, numbers[0], numbers[1], numbers[2], numbers[3]};
    int status = mq_cli_command(cli, "limit", words, 5);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (cli->is_json) {
        return mq_cli_json(json_pack("{s:s, s:I, s:s}", "limit", target, "concurrency",
                                     (json_int_t)concurrency, "rate", rate == NULL ? "" : rate));
    }
    printf("%s is limited\n", target);
    return MQ_EXIT_OK;
}

int mq_cmd_limit_remove(mq_cli *cli, const mq_argv *args)
{
    const char *words[] = {mq_argv_word(args, 0), "0", "0", "0", "0"};
    int status = mq_cli_command(cli, "limit", words, 5);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (cli->is_json) {
        return mq_cli_json(json_pack("{s:s}", "removed", words[0]));
    }
    printf("%s has no limit any more\n", words[0]);
    return MQ_EXIT_OK;
}

/* One of the lists, as JSON or through print. */
static int list(mq_cli *cli, const mq_argv *args, const char *what,
                void (*print)(const json_t *rows))
{
    int64_t limit = 1000;
    mq_error err;
    json_t *answer = NULL;
    if (mq_argv_int(args, "limit", 1, 100000, &limit, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    int status = mq_cli_query(cli, what, "", "", (uint32_t)limit, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    print(json_object_get(answer, what));
    json_decref(answer);
    return MQ_EXIT_OK;
}

static void cell_count(mq_table *table, const json_t *row, const char *key)
{
    int64_t n = mq_js_int(row, key);
    if (n == 0) {
        mq_table_cell(table, "-");
    } else {
        mq_table_cell(table, "%lld", (long long)n);
    }
}

static void print_limits(const json_t *rows)
{
    mq_table *table = mq_table_new("limit|>running|>at most|>starts|in ms|>burst|>left|waited for");
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        bool has_rate = mq_js_int(row, "rate") > 0;
        mq_table_cell(table, "%s=%s%s", mq_js_text(row, "type", "?"), mq_js_text(row, "name", "?"),
                      json_is_true(json_object_get(row, "is_own")) ||
                              strcmp(mq_js_text(row, "name", ""), "*") == 0
                          ? ""
                          : " (of key=*)");
        mq_table_cell(table, "%lld", (long long)mq_js_int(row, "running"));
        cell_count(table, row, "concurrency");
        cell_count(table, row, "rate");
        cell_count(table, row, "period_ms");
        cell_count(table, row, "burst");
        mq_table_cell(table, has_rate ? "%lld" : "-", (long long)mq_js_int(row, "tokens"));
        mq_table_cell(table, "%s",
                      json_is_true(json_object_get(row, "is_waited_for")) ? "yes" : "no");
    }
    mq_table_print(table, "no limit is set");
}

int mq_cmd_limit_list(mq_cli *cli, const mq_argv *args)
{
    return list(cli, args, "limits", print_limits);
}

static void print_tenants(const json_t *rows)
{
    mq_table *table = mq_table_new("tenant|>live jobs|>quota|>weight");
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        mq_table_cell(table, "%s", mq_js_text(row, "tenant", "?"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(row, "live"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(row, "quota"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(row, "weight"));
    }
    mq_table_print(table, "no tenant has live jobs or settings");
}

int mq_cmd_tenant_list(mq_cli *cli, const mq_argv *args)
{
    return list(cli, args, "tenants", print_tenants);
}

/* One of a tenant's two numbers; "" leaves the other as it is. */
static int set_tenant(mq_cli *cli, const mq_argv *args, bool is_weight, int64_t most)
{
    int64_t n = 0;
    const char *name = mq_argv_word(args, 0);
    const char *value = mq_argv_word(args, 1);
    if (!mq_text_int(value, &n) || n < 0 || n > most) {
        return mq_cli_usage(cli, "'%.40s' is not a number of 0..%lld", value, (long long)most);
    }
    const char *words[] = {name, is_weight ? value : "", is_weight ? "" : value};
    int status = mq_cli_command(cli, "tenant", words, 3);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (cli->is_json) {
        return mq_cli_json(
            json_pack("{s:s, s:I}", "tenant", name, is_weight ? "weight" : "quota", (json_int_t)n));
    }
    printf("tenant %s: %s %lld\n", name, is_weight ? "weight" : "quota", (long long)n);
    return MQ_EXIT_OK;
}

int mq_cmd_tenant_weight(mq_cli *cli, const mq_argv *args)
{
    return set_tenant(cli, args, true, 1000);
}

int mq_cmd_tenant_quota(mq_cli *cli, const mq_argv *args)
{
    return set_tenant(cli, args, false, 1000000000);
}

/* `maasq cron`: recurring jobs. */
#include <stdio.h>
#include <string.h>

#include "client/cli/cli.h"
#include "client/cli/out.h"

enum { BODY_MAX = 32768, NEXT_MAX = 100 };

/* An option that becomes a rule of the runs; numbers are seconds on the command line. */
static const struct {
    const char *option, *rule;
    double most;
    int scale; /* 0 = text */
} rules[] = {
    {"tenant", "tenant", 0, 0},
    {"limit-key", "key", 0, 0},
    {"memory", "memory", 0x1p50, 1},
    {"attempts", "attempts", 1000, 1},
    {"backoff", "backoff", 86400, 1000},
    {"backoff-max", "backoff-max", 86400, 1000},
    {"run-limit", "run-limit", 2592000, 1000},
    {"ttl", "ttl", 2592000, 1000},
    {"keep", "keep", 31536000, 1000},
};

enum {
    RULES = sizeof rules / sizeof rules[0],
    RULE_BYTES = 400, /* --need has up to 320 */
    FIXED = 7,        /* arguments in front of the priority */
};

typedef struct rule_texts {
    char texts[RULES + 2][RULE_BYTES];
    size_t count;
} rule_texts;

/* Priority and first rule are one argument, then a rule each. */
static mq_code read_rules(const mq_argv *args, rule_texts *out, mq_error *err)
{
    int64_t priority = 5;
    mq_code code = mq_argv_int(args, "priority", 1, 9, &priority, err);
    (void)snprintf(out->texts[out->count++], RULE_BYTES, "%lld%s", (long long)priority,
                   mq_argv_has(args, "alone") ? " alone" : "");
    for (size_t i = 0; i < RULES && code == MQ_OK; i++) {
        double value = 0;
        const char *text = mq_argv_text(args, rules[i].option, NULL);
        if (text == NULL) {
            continue;
        }
        char *to = out->texts[out->count++];
        if (rules[i].scale == 0) {
            (void)snprintf(to, RULE_BYTES, "%s=%s", rules[i].rule, text);
            code = strchr(text, ' ') == NULL && strlen(text) <= 64 && text[0] != '\0'
                       ? MQ_OK
                       : mq_fail(err, MQ_E_ARG, "--%s: 1 to 64 letters without a blank",
                                 rules[i].option);
        } else {
            code = mq_argv_real(args, rules[i].option, rules[i].scale == 1 ? 1 : 0.001,
                                rules[i].most, &value, err);
            (void)snprintf(to, RULE_BYTES, "%s=%lld", rules[i].rule,
                           (long long)(value * rules[i].scale));
        }
    }
    const char *tag = NULL;
    char *needs = out->texts[out->count];
    size_t len = (size_t)snprintf(needs, RULE_BYTES, "need=");
    for (size_t i = 0; code == MQ_OK && (tag = mq_argv_nth(args, "need", i)) != NULL; i++) {
        len += (size_t)snprintf(needs + len, RULE_BYTES - len, "%s%s", i > 0 ? "," : "", tag);
        if (len >= 192) {
            return mq_fail(err, MQ_E_ARG, "--need: more than 186 bytes");
        }
        out->count += i == 0;
    }
    return code;
}

int mq_cmd_cron_add(mq_cli *cli, const mq_argv *args)
{
    mq_error err;
    maasq_error why;
    mq_buf body;
    rule_texts rule = {.count = 0};
    if (read_rules(args, &rule, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    mq_buf_init(&body, BODY_MAX);
    if (mq_job_body(args, &body, &err) != MQ_OK) {
        mq_buf_release(&body);
        return err.code == MQ_E_ARG ? mq_cli_usage(cli, "%s", err.text)
                                    : mq_cli_fail(cli, "%s", err.text);
    }
    const char *words[FIXED + RULES + 2] = {
        mq_argv_word(args, 0),           mq_argv_word(args, 1),
        mq_argv_text(args, "tz", "UTC"), mq_argv_text(args, "missed", "skip"),
        mq_argv_word(args, 2),           mq_argv_text(args, "queue", ""),
        mq_argv_text(args, "model", "")};
    for (size_t i = 0; i < rule.count; i++) {
        words[FIXED + i] = rule.texts[i];
    }
    int status = mq_cli_connect(cli);
    if (status == MQ_EXIT_OK &&
        maasq_act(cli->client, "cron-add", words, FIXED + rule.count, body.data, body.len,
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
    mq_table *table = mq_table_new("name|schedule|zone|missed|kind|queue|rules|state|next (UTC)");
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
        const char *said = mq_js_text(row, "rules", "");
        mq_table_cell(table, "%s", said[0] == '\0' ? "-" : said);
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

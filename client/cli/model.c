/* `maasq model`: new, import, export, list, show, promote, rollback, check. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/fleet.h"
#include "client/cli/follow.h"
#include "client/cli/out.h"

/* Runs a job that publishes a version and prints which one. */
static int publish(mq_cli *cli, const char *kind, const char *name, json_t *takes_body)
{
    json_t *result = NULL;
    char id[32];
    int status = mq_follow_json(cli, kind, NULL, takes_body, &result, id);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    int64_t version = mq_follow_version(cli, "model", name, id, result);
    const json_t *meta = json_object_get(result, "meta");
    if (cli->is_json) {
        status = mq_cli_json(json_pack("{s:s, s:I, s:s, s:O?}", "name", name, "version",
                                       (json_int_t)version, "job", id, "meta", meta));
    } else {
        printf("%s@%lld: %s, %lld parameters, %s\n", name, (long long)version,
               mq_js_text(meta, "kind", "?"), (long long)mq_js_int(meta, "params"),
               mq_out_bytes(mq_js_real(meta, "bytes")));
    }
    json_decref(result);
    return status;
}

int mq_cmd_model_new(mq_cli *cli, const mq_argv *args)
{
    int64_t seed = 1;
    mq_error err;
    const char *arch = mq_argv_text(args, "arch", NULL);
    if (arch == NULL) {
        return mq_cli_usage(cli, "--arch is missing, for example --arch mlp:784-256-128-10");
    }
    if (mq_argv_int(args, "seed", 0, INT64_MAX, &seed, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    const char *name = mq_argv_word(args, 0);
    return publish(
        cli, "model.new", name,
        json_pack("{s:s, s:s, s:I}", "name", name, "arch", arch, "seed", (json_int_t)seed));
}

int mq_cmd_model_import(mq_cli *cli, const mq_argv *args)
{
    char hash[MAASQ_HASH_SIZE];
    maasq_error err;
    const char *name = mq_argv_word(args, 0);
    int status = mq_cli_connect(cli);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (maasq_blob_put_file(cli->client, mq_argv_word(args, 1), hash, &err) != MAASQ_OK) {
        return mq_cli_fail(cli, "%s", err.text);
    }
    return publish(cli, "model.import", name, json_pack("{s:s, s:s}", "name", name, "blob", hash));
}

int mq_cmd_model_export(mq_cli *cli, const mq_argv *args)
{
    json_t *answer = NULL;
    maasq_error err;
    const char *path = mq_argv_word(args, 1);
    int status = mq_cli_query(cli, "model", mq_argv_word(args, 0), "", 0, &answer);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    const json_t *meta = json_object_get(answer, "meta");
    const char *blob = mq_js_text(meta, "blob", "");
    if (maasq_blob_get_file(cli->client, blob, path, &err) != MAASQ_OK) {
        status = mq_cli_fail(cli, "%s", err.text);
    } else if (cli->is_json) {
        status = mq_cli_json(
            json_pack("{s:s, s:I, s:s, s:s, s:I}", "name", mq_js_text(answer, "name", ""),
                      "version", (json_int_t)mq_js_int(answer, "version"), "file", path, "blob",
                      blob, "bytes", (json_int_t)mq_js_int(meta, "bytes")));
    } else {
        printf("%s@%lld -> %s (%s, sha256 %s)\n", mq_js_text(answer, "name", "?"),
               (long long)mq_js_int(answer, "version"), path,
               mq_out_bytes(mq_js_real(meta, "bytes")), blob);
    }
    json_decref(answer);
    return status;
}

/* "prod canary" for the aliases that point to a version. */
static void aliases_text(const json_t *version, char *out, size_t size)
{
    size_t i;
    size_t len = 0;
    json_t *alias;
    out[0] = '\0';
    json_array_foreach(json_object_get(version, "aliases"), i, alias)
    {
        int n =
            snprintf(out + len, size - len, "%s%s", i == 0 ? "" : " ", json_string_value(alias));
        len += n > 0 ? (size_t)n : 0;
        if (len >= size) {
            return;
        }
    }
}

static void print_version(mq_table *table, const char *name, const json_t *version)
{
    const json_t *meta = json_object_get(version, "meta");
    int64_t number = mq_js_int(version, "version");
    char alias[64];
    aliases_text(version, alias, sizeof alias);
    mq_table_cell(table, "%s@%lld", name, (long long)number);
    mq_table_cell(table, "%s", mq_js_text(meta, "parent", "-"));
    mq_table_cell(table, "%s", mq_js_text(meta, "pass", "-"));
    mq_table_cell(table, "%s", mq_out_number(mq_js_real(meta, "metrics.accuracy"), 4));
    mq_table_cell(table, "%s", mq_out_bytes(mq_js_real(meta, "bytes")));
    mq_table_cell(table, "%lld", (long long)mq_js_int(meta, "params"));
    mq_table_cell(table, "%lld", (long long)mq_js_int(meta, "nonzero"));
    mq_table_cell(table, "%s", mq_out_number(mq_js_real(meta, "latency_us"), 0));
    mq_table_cell(table, "%s", alias);
}

static void print_versions(const json_t *answer)
{
    const json_t *versions = json_object_get(answer, "versions");
    const char *name = mq_js_text(answer, "name", "?");
    mq_table *table =
        mq_table_new("version|parent|pass|>accuracy|>size|>parameters|>not zero|>us a row|aliases");
    size_t i;
    json_t *one;
    json_array_foreach(versions, i, one)
    {
        print_version(table, name, one);
    }
    mq_table_print(table, "no versions");
}

/* "prod=3 canary=4" of all versions. */
static void all_aliases(const json_t *versions, char *out, size_t size)
{
    size_t i;
    size_t len = 0;
    json_t *one;
    out[0] = '\0';
    json_array_foreach(versions, i, one)
    {
        size_t k;
        json_t *alias;
        json_array_foreach(json_object_get(one, "aliases"), k, alias)
        {
            int n = snprintf(out + len, size - len, "%s%s=%lld", len == 0 ? "" : " ",
                             json_string_value(alias), (long long)mq_js_int(one, "version"));
            len += n > 0 ? (size_t)n : 0;
            if (len >= size) {
                return;
            }
        }
    }
}

/* Version that an alias points to, 0 when there is no such alias. */
static int64_t version_of_alias(const json_t *versions, const char *alias)
{
    size_t i;
    json_t *one;
    json_array_foreach(versions, i, one)
    {
        size_t k;
        json_t *text;
        json_array_foreach(json_object_get(one, "aliases"), k, text)
        {
            if (strcmp(json_string_value(text), alias) == 0) {
                return mq_js_int(one, "version");
            }
        }
    }
    return 0;
}

void mq_fleet_models(const json_t *answer)
{
    mq_table *table = mq_table_new("model|>versions|kind|>accuracy|>size|aliases");
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(answer, "models"), i, one)
    {
        const json_t *versions = json_object_get(one, "versions");
        const json_t *latest = json_array_get(versions, json_array_size(versions) - 1);
        const json_t *meta = json_object_get(latest, "meta");
        char aliases[96];
        all_aliases(versions, aliases, sizeof aliases);
        mq_table_cell(table, "%s@%lld", mq_js_text(one, "name", "?"),
                      (long long)mq_js_int(latest, "version"));
        mq_table_cell(table, "%zu", json_array_size(versions));
        mq_table_cell(table, "%s", mq_js_text(meta, "kind", "-"));
        mq_table_cell(table, "%s", mq_out_number(mq_js_real(meta, "metrics.accuracy"), 4));
        mq_table_cell(table, "%s", mq_out_bytes(mq_js_real(meta, "bytes")));
        mq_table_cell(table, "%s", aliases);
    }
    mq_table_print(table,
                   "no models yet: `maasq model new NAME --arch A` or `maasq train NAME ...`");
}

static int list_models(mq_cli *cli)
{
    json_t *answer = NULL;
    int status = mq_cli_query(cli, "models", "", "", 0, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    mq_fleet_models(answer);
    json_decref(answer);
    return MQ_EXIT_OK;
}

int mq_cmd_model_list(mq_cli *cli, const mq_argv *args)
{
    const char *name = mq_argv_word(args, 0);
    json_t *answer = NULL;
    if (name == NULL) {
        return list_models(cli);
    }
    int status = mq_cli_query(cli, "model", name, "", 0, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    print_versions(answer);
    json_decref(answer);
    return MQ_EXIT_OK;
}

int mq_cmd_model_show(mq_cli *cli, const mq_argv *args)
{
    json_t *answer = NULL;
    int status = mq_cli_query(cli, "model", mq_argv_word(args, 0), "", 0, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    const json_t *meta = json_object_get(answer, "meta");
    static const char *const texts[] = {"kind",    "blob",   "weights_hash", "manifest",
                                        "dataset", "parent", "pass",         "job"};
    printf("%s@%lld, made at %s\n", mq_js_text(answer, "name", "?"),
           (long long)mq_js_int(answer, "version"), mq_out_time(mq_js_int(answer, "at_ms")));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        printf("  %-13s %s\n", texts[i], mq_js_text(meta, texts[i], "-"));
    }
    static const char *const values[] = {"inputs", "outputs", "metrics", "validation", "report"};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char *text = json_dumps(json_object_get(meta, values[i]), JSON_COMPACT | JSON_ENCODE_ANY);
        printf("  %-13s %.1000s\n", values[i], text == NULL ? "-" : text);
        free(text);
    }
    mq_fleet_curve(json_object_get(meta, "curve"));
    printf("\n");
    print_versions(answer);
    json_decref(answer);
    return MQ_EXIT_OK;
}

/* "m@3" into "m" and the version it means now. */
static int resolve(mq_cli *cli, const char *given, char name[192], int64_t *version)
{
    json_t *answer = NULL;
    int status = mq_cli_query(cli, "model", given, "", 0, &answer);
    if (status == MQ_EXIT_OK) {
        (void)snprintf(name, 192, "%s", mq_js_text(answer, "name", ""));
        *version = mq_js_int(answer, "version");
    }
    json_decref(answer);
    return status;
}

static int move_alias(mq_cli *cli, const char *name, const char *alias, int64_t version,
                      const char *expected, const char *how)
{
    char number[24];
    (void)snprintf(number, sizeof number, "%lld", (long long)version);
    const char *words[] = {name, alias, number, expected, how};
    int status = mq_cli_command(cli, "alias", words, 5);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (cli->is_json) {
        return mq_cli_json(json_pack("{s:s, s:s, s:I}", "name", name, "alias", alias, "version",
                                     (json_int_t)version));
    }
    printf("%s@%s is %s@%lld\n", name, alias, name, (long long)version);
    return MQ_EXIT_OK;
}

int mq_cmd_model_promote(mq_cli *cli, const mq_argv *args)
{
    char name[192];
    int64_t version = 0;
    const char *given = mq_argv_word(args, 0);
    if (strchr(given, '@') == NULL) {
        return mq_cli_usage(cli, "'%.80s' names no version; write NAME@V", given);
    }
    int status = resolve(cli, given, name, &version);
    return status != MQ_EXIT_OK ? status
                                : move_alias(cli, name, mq_argv_word(args, 1), version,
                                             mq_argv_text(args, "expect", ""), "");
}

/* The latest version that the alias pointed to before and that is still there; 0: none. */
static int64_t version_before(const json_t *answer, const char *alias)
{
    size_t i;
    json_t *before;
    json_array_foreach(json_object_get(json_object_get(answer, "before"), alias), i, before)
    {
        size_t k;
        json_t *one;
        json_array_foreach(json_object_get(answer, "versions"), k, one)
        {
            if (mq_js_int(one, "version") == json_integer_value(before)) {
                return json_integer_value(before);
            }
        }
    }
    return 0;
}

int mq_cmd_model_rollback(mq_cli *cli, const mq_argv *args)
{
    const char *name = mq_argv_word(args, 0), *alias = mq_argv_word(args, 1);
    json_t *answer = NULL;
    int status = mq_cli_query(cli, "model", name, "", 0, &answer);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    int64_t now = version_of_alias(json_object_get(answer, "versions"), alias);
    int64_t before = version_before(answer, alias);
    json_decref(answer);
    if (now == 0) {
        return mq_cli_fail(cli, "%s has no alias %s", name, alias);
    }
    if (before == 0) {
        return mq_cli_fail(cli,
                           "%s@%s has pointed to no other version before %lld that is still there; "
                           "`maasq model promote %s@V %s` points it to any",
                           name, alias, (long long)now, name, alias);
    }
    char expected[24];
    (void)snprintf(expected, sizeof expected, "%lld", (long long)now);
    return move_alias(cli, name, alias, before, expected, "back");
}

int mq_cmd_model_check(mq_cli *cli, const mq_argv *args)
{
    const char *file = mq_argv_word(args, 0), *refs = mq_argv_text(args, "refs", NULL);
    if (access(file, R_OK) != 0) {
        return mq_cli_fail(cli, "%s cannot be read", file);
    }
    const char *argv[8] = {"maasq-worker", "--local", "check", file};
    int argc = 4;
    if (refs != NULL) {
        argv[argc++] = "--refs";
        argv[argc++] = refs;
    }
    if (cli->is_json) {
        argv[argc++] = "--json";
    }
    return mq_cli_exec(cli, "maasq-worker", (char **)(uintptr_t)argv);
}

/* `maasq job`: any kind of job, from the outside. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cli/cli.h"
#include "client/cli/follow.h"
#include "client/cli/group.h"
#include "client/cli/out.h"
#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/job/kinds.h"

enum { DEPS_MAX = 64, BODY_BYTES_MAX = 1 << 20, PARAMS_MAX = 256, NEEDS_BYTES_MAX = 257 };

/* ---- submit ---- */

/* "k=v" into the object: v as JSON when it is a number, true, false, null, an array or an object,
 * else as text. */
static mq_code add_param(json_t *object, const char *param, mq_error *err)
{
    const char *equal = strchr(param, '=');
    if (equal == NULL || equal == param) {
        return mq_fail(err, MQ_E_ARG, "--param: '%.80s' is not KEY=VALUE", param);
    }
    char key[128];
    if (!mq_span_copy(mq_span_of(param, (size_t)(equal - param)), key, sizeof key)) {
        return mq_fail(err, MQ_E_ARG, "--param: a key has at most %zu bytes", sizeof key - 1);
    }
    json_t *value = json_loads(equal + 1, JSON_DECODE_ANY, NULL);
    if (value == NULL) {
        value = json_string(equal + 1);
    }
    if (value == NULL || json_object_set_new(object, key, value) != 0) {
        return mq_fail(err, MQ_E_FORMAT, "--param %s: not UTF-8 text", key);
    }
    return MQ_OK;
}

mq_code mq_job_body(const mq_argv *args, mq_buf *body, mq_error *err)
{
    const char *input = mq_argv_text(args, "input", NULL);
    if (input != NULL && mq_argv_has(args, "param")) {
        return mq_fail(err, MQ_E_ARG, "--input and --param exclude each other");
    }
    if (input != NULL) {
        return mq_file_read(input, body, err);
    }
    if (!mq_argv_has(args, "param")) {
        return MQ_OK;
    }
    json_t *object = json_object();
    mq_code code = MQ_OK;
    const char *param = NULL;
    for (size_t i = 0; code == MQ_OK && (param = mq_argv_nth(args, "param", i)) != NULL; i++) {
        code = add_param(object, param, err);
    }
    char *text = json_dumps(object, JSON_COMPACT);
    if (code == MQ_OK && (text == NULL || !mq_buf_add_str(body, text))) {
        code = mq_fail(err, MQ_E_LIMIT, "--param: more than %d bytes", BODY_BYTES_MAX);
    }
    free(text);
    json_decref(object);
    return code;
}

/* "90", "90s", "15m", "2h", "3d": milliseconds, or -1. */
static int64_t read_span(const char *text)
{
    static const char units[] = "smhd";
    static const int64_t seconds[] = {1, 60, 3600, 86400};
    char *end = NULL;
    errno = 0;
    long long n = text[0] >= '0' && text[0] <= '9' ? strtoll(text, &end, 10) : -1;
    const char *unit = end == NULL || *end == '\0' ? units : strchr(units, *end);
    bool is_whole = end != NULL && (*end == '\0' || end[1] == '\0');
    if (n < 0 || errno != 0 || unit == NULL || !is_whole || n > INT64_MAX / 86400 / 1000) {
        return -1;
    }
    return (int64_t)n * seconds[unit - units] * 1000;
}

/* "2026-11-23T16:00:00Z", or from now: "+90" (seconds), "+15m", "+2h", "+1d". */
static mq_code read_time(const char *text, int64_t *out, mq_error *err)
{
    struct tm parts = {0};
    int64_t span_ms = text[0] == '+' ? read_span(text + 1) : -1;
    if (span_ms >= 0 && span_ms <= INT64_MAX - mq_clock_wall_ms()) {
        *out = mq_clock_wall_ms() + span_ms;
        return MQ_OK;
    }
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &parts);
    if (end == NULL || strcmp(end, "Z") != 0) {
        return mq_fail(
            err, MQ_E_ARG,
            "--at: '%.40s' is neither a span from now (+90, +15m, +2h, +1d) nor a UTC time "
            "as 2026-11-23T16:00:00Z",
            text);
    }
    *out = (int64_t)timegm(&parts) * 1000;
    return MQ_OK;
}

/* How it is tried, how long it is kept, and what else it must be true of it to run. */
static mq_code read_rules(const mq_argv *args, maasq_spec *spec, mq_error *err)
{
    int64_t keep = 0, attempts = 0, run = 0;
    double backoff = 0, backoff_max = 0;
    const char *rule = mq_argv_text(args, "on-failure", "cancel");
    mq_code code = mq_argv_int(args, "keep", 1, 31536000, &keep, err);
    code = code != MQ_OK ? code : mq_argv_int(args, "attempts", 1, 1000, &attempts, err);
    code = code != MQ_OK ? code : mq_argv_int(args, "run-limit", 1, 2592000, &run, err);
    code = code != MQ_OK ? code : mq_argv_real(args, "backoff", 0.001, 86400, &backoff, err);
    code =
        code != MQ_OK ? code : mq_argv_real(args, "backoff-max", 0.001, 86400, &backoff_max, err);
    if (code == MQ_OK && strcmp(rule, "cancel") != 0 && strcmp(rule, "run") != 0) {
        code = mq_fail(err, MQ_E_ARG, "--on-failure: '%.40s' is neither cancel nor run", rule);
    }
    spec->keep_ms = (uint64_t)keep * 1000;
    spec->attempts_max = (uint32_t)attempts;
    spec->max_run_ms = (uint64_t)run * 1000;
    spec->backoff_ms = (uint64_t)(backoff * 1000);
    spec->backoff_max_ms = (uint64_t)(backoff_max * 1000);
    spec->on_failure = strcmp(rule, "run") == 0 ? MAASQ_RUN : MAASQ_CANCEL;
    spec->unique = mq_argv_text(args, "unique", NULL);
    return code;
}

/* --need TAG... as the list that a spec takes. */
static mq_code read_needs(const mq_argv *args, mq_buf *needs, mq_error *err)
{
    const char *tag = NULL;
    for (size_t i = 0; (tag = mq_argv_nth(args, "need", i)) != NULL; i++) {
        if ((i > 0 && !mq_buf_add_str(needs, ",")) || !mq_buf_add_str(needs, tag)) {
            return mq_fail(err, MQ_E_ARG, "--need: more than %zu bytes", needs->limit);
        }
    }
    return mq_buf_add(needs, "", 1) ? MQ_OK : mq_fail(err, MQ_E_ARG, "--need: too many tags");
}

static mq_code read_durability(const mq_argv *args, maasq_spec *spec, mq_error *err)
{
    static const char *const names[] = {
        [MAASQ_TRANSIENT] = "transient",
        [MAASQ_DURABLE] = "durable",
        [MAASQ_REPLICATED] = "replicated",
    };
    const char *text = mq_argv_text(args, "durability", NULL);
    spec->durability = mq_argv_has(args, "transient") ? MAASQ_TRANSIENT : MAASQ_BY_KIND;
    for (int i = MAASQ_TRANSIENT; text != NULL && i <= MAASQ_REPLICATED; i++) {
        if (strcmp(text, names[i]) == 0) {
            spec->durability = i;
            return MQ_OK;
        }
    }
    return text == NULL
               ? MQ_OK
               : mq_fail(err, MQ_E_ARG,
                         "--durability: \"%.20s\" is not transient, durable or replicated", text);
}

static mq_code read_spec(const mq_argv *args, maasq_spec *spec, const char **deps, mq_error *err)
{
    int64_t priority = 0, ttl = 0, memory = 0;
    *spec = (maasq_spec){.size = sizeof *spec,
                         .kind = mq_argv_word(args, 0),
                         .id = mq_argv_text(args, "id", NULL),
                         .model = mq_argv_text(args, "model", NULL),
                         .queue = mq_argv_text(args, "queue", NULL),
                         .tenant = mq_argv_text(args, "tenant", NULL),
                         .limit_key = mq_argv_text(args, "limit-key", NULL),
                         .deps = deps};
    mq_code code = read_durability(args, spec, err);
    code = code != MQ_OK ? code : mq_argv_int(args, "priority", 1, 9, &priority, err);
    code = code != MQ_OK ? code : mq_argv_int(args, "ttl", 1, 31536000, &ttl, err);
    code = code != MQ_OK ? code : mq_argv_int(args, "memory", 1, INT64_C(1) << 50, &memory, err);
    if (code == MQ_OK && mq_argv_has(args, "at")) {
        code = read_time(mq_argv_text(args, "at", ""), &spec->run_at_ms, err);
    }
    code = code != MQ_OK ? code : read_rules(args, spec, err);
    spec->priority = (uint32_t)priority;
    spec->ttl_ms = (uint64_t)ttl * 1000;
    spec->memory_bytes = (uint64_t)memory;
    const char *dep = NULL;
    while (code == MQ_OK && (dep = mq_argv_nth(args, "after", spec->deps_count)) != NULL) {
        if (spec->deps_count == DEPS_MAX) {
            return mq_fail(err, MQ_E_ARG, "--after: at most %d jobs", DEPS_MAX);
        }
        deps[spec->deps_count++] = dep;
    }
    return code;
}

static bool list_has(const json_t *list, const char *text)
{
    size_t i;
    json_t *one;
    json_array_foreach(list, i, one)
    {
        const char *value = json_string_value(one);
        if (value != NULL && strcmp(value, text) == 0) {
            return true;
        }
    }
    return false;
}

/* A kind that is not in the table must be one that some worker was started with. */
static int check_kind(mq_cli *cli, const char *kind)
{
    if (mq_kind_policy_find(mq_str(kind)) != NULL) {
        return MQ_EXIT_OK;
    }
    json_t *answer = NULL;
    if (mq_cli_query(cli, "workers", "", "", 0, &answer) != MQ_EXIT_OK) {
        return MQ_EXIT_FAILED;
    }
    bool is_known = false;
    size_t i;
    json_t *worker;
    json_array_foreach(json_object_get(answer, "workers"), i, worker)
    {
        is_known |= list_has(json_object_get(worker, "kinds"), kind);
    }
    json_decref(answer);
    if (!is_known) {
        return mq_cli_fail(cli,
                           "kind '%s': neither built in nor offered by any worker; built in are "
                           "echo, sleep, infer, train and what `maasq worker list --json` shows; "
                           "with --any-kind it waits for a worker that offers it",
                           kind);
    }
    return MQ_EXIT_OK;
}

/* Writes a result to a file, or to standard output with a line end. */
static int write_result(const mq_cli *cli, const maasq_job *job, const char *path)
{
    maasq_view view = {0};
    mq_error err;
    (void)maasq_result(job, &view, NULL);
    if (path != NULL) {
        if (mq_file_write(path, mq_span_of(view.data, view.bytes), 0644, &err) != MQ_OK) {
            return mq_cli_fail(cli, "%s", err.text);
        }
        return MQ_EXIT_OK;
    }
    if (view.bytes > 0) {
        (void)fwrite(view.data, 1, view.bytes, stdout);
        (void)fputc('\n', stdout);
    }
    return MQ_EXIT_OK;
}

/* The result as JSON where it is, else its size. */
static json_t *result_json(const maasq_job *job)
{
    maasq_view view = {0};
    if (maasq_result(job, &view, NULL) != MAASQ_OK) {
        return json_null();
    }
    json_t *value =
        json_loadb(view.data, view.bytes, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    return value != NULL ? value : json_pack("{s:I}", "bytes", (json_int_t)view.bytes);
}

static int print_end(const mq_cli *cli, const maasq_job *job, int status, const char *path)
{
    if (status == MQ_EXIT_OK && (path != NULL || !cli->is_json)) {
        status = write_result(cli, job, path);
    }
    if (!cli->is_json) {
        return status;
    }
    maasq_info info = {.size = sizeof info};
    maasq_job_info(job, &info);
    int printed = mq_cli_json(json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:I, s:f, s:f, s:o}", "id", info.id, "state", info.state, "why",
        info.why, "code", info.code == 0 ? "" : maasq_code_name(info.code), "error", info.error,
        "attempts", (json_int_t)info.attempts, "queue_ms", (double)info.queue_us / 1000, "run_ms",
        (double)info.run_us / 1000, "result", result_json(job)));
    return status != MQ_EXIT_OK ? status : printed;
}

/* Its unique key was taken: the id of the job that has it. */
static int print_other(const mq_cli *cli, const maasq_info *info)
{
    if (cli->is_json) {
        return mq_cli_json(
            json_pack("{s:s, s:s, s:b}", "id", info->other, "state", "live", "is_dup", 1));
    }
    fprintf(stderr, "a live job has this key\n");
    printf("%s\n", info->other);
    return MQ_EXIT_OK;
}

/* Submits and follows; a job that has the unique key already is followed instead. */
static int submit_and_wait(mq_cli *cli, const maasq_spec *spec, maasq_job **job)
{
    maasq_error err;
    *job = maasq_submit(cli->client, spec, NULL, NULL, &err);
    if (*job == NULL) {
        return mq_cli_fail(cli, "%s", err.text);
    }
    maasq_info info = {.size = sizeof info};
    if (spec->unique != NULL && maasq_flush(cli->client, cli->timeout_ms, &err) == MAASQ_OK) {
        maasq_job_info(*job, &info);
    }
    if (info.other != NULL && info.other[0] != '\0') {
        maasq_job *other = maasq_open(cli->client, info.other, NULL, NULL, &err);
        maasq_job_release(job);
        *job = other;
        if (other == NULL) {
            return mq_cli_fail(cli, "%s", err.text);
        }
    }
    return mq_follow(cli, *job, true);
}

static int submit_only(mq_cli *cli, const maasq_spec *spec)
{
    maasq_error err;
    maasq_job *job = maasq_submit(cli->client, spec, NULL, NULL, &err);
    if (job == NULL) {
        return mq_cli_fail(cli, "%s", err.text);
    }
    int status = MQ_EXIT_OK;
    maasq_info info = {.size = sizeof info};
    int flushed = maasq_flush(cli->client, cli->timeout_ms, &err);
    maasq_job_info(job, &info);
    if (flushed == MAASQ_OK && info.other[0] != '\0') {
        status = print_other(cli, &info);
    } else if (flushed != MAASQ_OK ||
               (maasq_is_done(job) && maasq_result(job, NULL, &err) != MAASQ_OK)) {
        status = mq_cli_fail(cli, "%s", err.text);
    } else if (cli->is_json) {
        status = mq_cli_json(
            json_pack("{s:s, s:s}", "id", maasq_job_id(job), "state", maasq_state(job)));
    } else {
        printf("%s\n", maasq_job_id(job));
    }
    maasq_job_release(&job);
    return status;
}

int mq_cmd_job_submit(mq_cli *cli, const mq_argv *args)
{
    const char *deps[DEPS_MAX];
    maasq_spec spec;
    mq_error err;
    mq_buf body, needs;
    if (read_spec(args, &spec, deps, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    mq_buf_init(&body, (size_t)64 << 20);
    mq_buf_init(&needs, NEEDS_BYTES_MAX);
    if (read_needs(args, &needs, &err) != MQ_OK || mq_job_body(args, &body, &err) != MQ_OK) {
        mq_buf_release(&body);
        mq_buf_release(&needs);
        return err.code == MQ_E_ARG ? mq_cli_usage(cli, "%s", err.text)
                                    : mq_cli_fail(cli, "%s", err.text);
    }
    spec.body = body.data;
    spec.body_bytes = body.len;
    spec.needs = (const char *)needs.data;
    int status = mq_cli_connect(cli);
    if (status == MQ_EXIT_OK && !mq_argv_has(args, "any-kind")) {
        status = check_kind(cli, spec.kind);
    }
    bool is_waiting =
        mq_argv_has(args, "wait") || mq_argv_has(args, "output") || mq_argv_has(args, "transient");
    maasq_job *job = NULL;
    bool is_group = mq_argv_has(args, "group");
    if (status == MQ_EXIT_OK && is_group) {
        status = mq_group_submit(cli, args, &spec, &job);
        status = status == MQ_EXIT_OK && is_waiting ? mq_follow(cli, job, true) : status;
    } else if (status == MQ_EXIT_OK && !is_waiting) {
        status = submit_only(cli, &spec);
    } else if (status == MQ_EXIT_OK) {
        status = submit_and_wait(cli, &spec, &job);
    }
    if (job != NULL && is_waiting) {
        status = print_end(cli, job, status, mq_argv_text(args, "output", NULL));
    }
    maasq_job_release(&job);
    mq_buf_release(&body);
    mq_buf_release(&needs);
    return status;
}

/* ---- the others ---- */

static void print_job_row(mq_table *table, const json_t *job)
{
    char line[256];
    mq_progress_line(json_object_get(job, "progress"), "", 0, line, sizeof line);
    const char *error = mq_js_text(job, "error", line);
    mq_table_cell(table, "%s", mq_js_text(job, "id", "?"));
    mq_table_cell(table, "%s", mq_js_text(job, "kind", "?"));
    mq_table_cell(table, "%s", mq_js_text(job, "model", "-"));
    mq_table_cell(table, "%s", mq_js_text(job, "state", "?"));
    mq_table_cell(table, "%lld", (long long)mq_js_int(job, "attempts"));
    mq_table_cell(table, "%s", mq_out_time(mq_js_int(job, "submitted_ms")));
    mq_table_cell(table, "%.80s", error);
}

int mq_job_list(mq_cli *cli, const mq_argv *args, const char *filter)
{
    int64_t limit = 50;
    mq_error err;
    json_t *answer = NULL;
    if (mq_argv_int(args, "limit", 1, 100000, &limit, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    int status = mq_cli_query(cli, "jobs", "", filter, (uint32_t)limit, &answer);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (cli->is_json) {
        return mq_cli_json(answer);
    }
    mq_table *table = mq_table_new("id|kind|model|state|>tries|submitted (UTC)|progress or error");
    size_t i;
    json_t *job;
    json_array_foreach(json_object_get(answer, "jobs"), i, job)
    {
        print_job_row(table, job);
    }
    mq_table_print(table, "no such jobs");
    if (mq_js_text(answer, "next", "")[0] != '\0') {
        printf("\nthere are more: --filter \"after=%s\" goes on\n", mq_js_text(answer, "next", ""));
    }
    json_decref(answer);
    return MQ_EXIT_OK;
}

int mq_cmd_job_list(mq_cli *cli, const mq_argv *args)
{
    return mq_job_list(cli, args, mq_argv_text(args, "filter", ""));
}

static void print_history(const json_t *job)
{
    size_t i;
    json_t *one;
    printf("\nhistory\n");
    json_array_foreach(json_object_get(job, "history"), i, one)
    {
        printf("  %s  %-9s -> %s\n", mq_out_time(mq_js_int(one, "at_ms")),
               mq_js_text(one, "event", "?"), mq_js_text(one, "state", "?"));
    }
}

int mq_cmd_job_show(mq_cli *cli, const mq_argv *args)
{
    json_t *job = NULL;
    int status = mq_cli_query(cli, "job", mq_argv_word(args, 0), "", 0, &job);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(job);
    }
    static const char *const texts[] = {"id",        "kind",  "queue", "model", "tenant",
                                        "limit_key", "needs", "state", "waits", "why",
                                        "code",      "error", "worker"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *value = mq_js_text(job, texts[i], "");
        if (value[0] != '\0') {
            printf("%-10s %s\n", texts[i], value);
        }
    }
    printf("%-10s %lld (%lld crashes)\n", "attempts", (long long)mq_js_int(job, "attempts"),
           (long long)mq_js_int(job, "crashes"));
    printf("%-10s %s\n", "submitted", mq_out_time(mq_js_int(job, "submitted_ms")));
    printf("%-10s %s\n", "ended", mq_out_time(mq_js_int(job, "ended_ms")));
    char line[512];
    mq_progress_line(json_object_get(job, "progress"), "", 0, line, sizeof line);
    if (line[0] != '\0') {
        printf("%-10s %s\n", "progress", line);
    }
    if (json_array_size(json_object_get(job, "history")) > 0) {
        print_history(job);
    }
    json_decref(job);
    return MQ_EXIT_OK;
}

maasq_job *mq_job_open(mq_cli *cli, const char *id)
{
    maasq_error err;
    if (mq_cli_connect(cli) != MQ_EXIT_OK) {
        return NULL;
    }
    maasq_job *job = maasq_open(cli->client, id, NULL, NULL, &err);
    if (job == NULL) {
        (void)mq_cli_fail(cli, "%s", err.text);
    }
    return job;
}

int mq_cmd_job_wait(mq_cli *cli, const mq_argv *args)
{
    maasq_job *job = mq_job_open(cli, mq_argv_word(args, 0));
    if (job == NULL) {
        return MQ_EXIT_FAILED;
    }
    int status = mq_follow(cli, job, false);
    status = print_end(cli, job, status, mq_argv_text(args, "output", NULL));
    maasq_job_release(&job);
    return status;
}

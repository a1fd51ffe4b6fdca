/* `maasq dataset`: import, list, show, rows. */
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/cli.h"
#include "client/cli/follow.h"
#include "client/cli/out.h"
#include "client/cli/rows.h"

enum { ROWS_SHOWN_MAX = 10000 };

/* {"name":FILE,"blob":HASH} of an uploaded file; NULL after a message. */
static json_t *upload(mq_cli *cli, const char *path)
{
    char hash[MAASQ_HASH_SIZE];
    maasq_error err;
    if (maasq_blob_put_file(cli->client, path, hash, &err) != MAASQ_OK) {
        (void)mq_cli_fail(cli, "%s", err.text);
        return NULL;
    }
    const char *slash = strrchr(path, '/');
    json_t *file = json_pack("{s:s, s:s}", "name", slash == NULL ? path : slash + 1, "blob", hash);
    if (file == NULL) {
        (void)mq_cli_fail(cli, "%s: the file's name is not UTF-8", path);
    }
    return file;
}

static bool add_options(json_t *body, const mq_argv *args)
{
    static const struct {
        const char *option, *field;
    } texts[] = {{"format", "format"}, {"label-type", "label_type"}, {"missing", "missing"}};
    bool is_good = true;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *value = mq_argv_text(args, texts[i].option, NULL);
        is_good &=
            value == NULL || json_object_set_new(body, texts[i].field, json_string(value)) == 0;
    }
    const char *column = mq_argv_text(args, "label-column", NULL);
    int64_t number = 0;
    if (column != NULL) {
        json_t *value =
            mq_text_int(column, &number) ? json_integer((json_int_t)number) : json_string(column);
        is_good &= json_object_set_new(body, "label_column", value) == 0;
    }
    if (mq_argv_has(args, "categorical")) {
        json_t *list = json_array();
        const char *one = NULL;
        for (size_t i = 0; (one = mq_argv_nth(args, "categorical", i)) != NULL; i++) {
            is_good &= json_array_append_new(list, json_string(one)) == 0;
        }
        is_good &= json_object_set_new(body, "categorical", list) == 0;
    }
    return is_good;
}

/* Uploads all files and puts the request together; NULL after a message. */
static json_t *import_body(mq_cli *cli, const mq_argv *args)
{
    json_t *body = json_pack("{s:s, s:[]}", "name", mq_argv_word(args, 0), "files");
    bool is_good = body != NULL && add_options(body, args);
    const char *path = NULL;
    for (size_t i = 1; is_good && (path = mq_argv_word(args, i)) != NULL; i++) {
        json_t *file = upload(cli, path);
        is_good = file != NULL && json_array_append_new(json_object_get(body, "files"), file) == 0;
    }
    const char *labels = mq_argv_text(args, "labels", NULL);
    if (is_good && labels != NULL) {
        json_t *file = upload(cli, labels);
        is_good = file != NULL && json_object_set_new(body, "labels", file) == 0;
    }
    if (!is_good) {
        json_decref(body);
        return NULL;
    }
    return body;
}

static void describe(const json_t *meta, char *out, size_t size)
{
    char *shape = json_dumps(mq_js(meta, "features.x.shape"), JSON_COMPACT);
    int n = snprintf(out, size, "%lld rows, x %s %s", (long long)mq_js_int(meta, "rows"),
                     mq_js_text(meta, "features.x.dtype", "?"), shape == NULL ? "?" : shape);
    free(shape);
    size_t len = n > 0 && (size_t)n < size ? (size_t)n : 0;
    int64_t classes = mq_js_int(meta, "features.y.classes");
    if (classes > 0) {
        (void)snprintf(out + len, size - len, ", %lld classes", (long long)classes);
    } else {
        (void)snprintf(out + len, size - len, ", %s",
                       json_is_object(mq_js(meta, "features.y")) ? "values" : "no labels");
    }
}

int mq_cmd_dataset_import(mq_cli *cli, const mq_argv *args)
{
    int status = mq_cli_connect(cli);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    json_t *body = import_body(cli, args);
    if (body == NULL) {
        return MQ_EXIT_FAILED;
    }
    json_t *result = NULL;
    char id[32];
    status = mq_follow_json(cli, "dataset.import", NULL, body, &result, id);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    const char *name = mq_argv_word(args, 0);
    int64_t version = mq_follow_version(cli, "dataset", name, id, result);
    const json_t *meta = json_object_get(result, "meta");
    if (cli->is_json) {
        status = mq_cli_json(json_pack("{s:s, s:I, s:s, s:O?}", "name", name, "version",
                                       (json_int_t)version, "job", id, "meta", meta));
    } else {
        char text[256];
        describe(meta, text, sizeof text);
        printf("%s@%lld: %s\n", name, (long long)version, text);
    }
    json_decref(result);
    return status;
}

int mq_cmd_dataset_list(mq_cli *cli, const mq_argv *args)
{
    (void)args;
    json_t *answer = NULL;
    int status = mq_cli_query(cli, "datasets", "", "", 0, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    mq_table *table = mq_table_new("dataset|>versions|contents of the latest");
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(answer, "datasets"), i, one)
    {
        const json_t *versions = json_object_get(one, "versions");
        const json_t *latest = json_array_get(versions, json_array_size(versions) - 1);
        char text[256];
        describe(json_object_get(latest, "meta"), text, sizeof text);
        mq_table_cell(table, "%s@%lld", mq_js_text(one, "name", "?"),
                      (long long)mq_js_int(latest, "version"));
        mq_table_cell(table, "%zu", json_array_size(versions));
        mq_table_cell(table, "%s", text);
    }
    mq_table_print(table, "no datasets yet: `maasq dataset import NAME FILE...`");
    json_decref(answer);
    return MQ_EXIT_OK;
}

int mq_cmd_dataset_show(mq_cli *cli, const mq_argv *args)
{
    json_t *answer = NULL;
    int status = mq_cli_query(cli, "dataset", mq_argv_word(args, 0), "", 0, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    const json_t *meta = json_object_get(answer, "meta");
    char text[256];
    describe(meta, text, sizeof text);
    printf("%s@%lld: %s\n", mq_js_text(answer, "name", "?"),
           (long long)mq_js_int(answer, "version"), text);
    printf("format %s, %zu shards, made by job %s at %s\n", mq_js_text(meta, "format", "?"),
           json_array_size(json_object_get(meta, "shards")), mq_js_text(answer, "job", "?"),
           mq_out_time(mq_js_int(answer, "at_ms")));
    char *stats = json_dumps(json_object_get(meta, "stats"), JSON_COMPACT | JSON_ENCODE_ANY);
    if (stats != NULL) {
        printf("stats %.2000s\n", stats);
    }
    free(stats);
    json_decref(answer);
    return MQ_EXIT_OK;
}

static json_t *row_json(const mq_rows *rows, const float *x, double y)
{
    json_t *numbers = json_array();
    for (size_t i = 0; i < rows->x_count; i++) {
        (void)json_array_append_new(numbers, json_real((double)x[i]));
    }
    json_t *label = json_null();
    if (rows->is_labelled) {
        label = rows->classes > 0 ? json_integer((json_int_t)y) : json_real(y);
    }
    return json_pack("{s:o, s:o}", "x", numbers, "y", label);
}

static int print_rows(mq_cli *cli, mq_rows *rows, uint64_t skip, uint64_t count)
{
    float *x = malloc(rows->x_count * sizeof *x);
    json_t *list = json_array();
    int status = x == NULL ? mq_cli_fail(cli, "no memory for a row") : MQ_EXIT_OK;
    for (uint64_t i = skip; status == MQ_EXIT_OK && i < skip + count && i < rows->count; i++) {
        double y = 0;
        status = mq_rows_get(rows, i, x, &y);
        if (status == MQ_EXIT_OK && cli->is_json) {
            (void)json_array_append_new(list, row_json(rows, x, y));
        } else if (status == MQ_EXIT_OK) {
            printf("%llu: y=%g x=", (unsigned long long)i, y);
            for (size_t k = 0; k < rows->x_count && k < 12; k++) {
                printf("%s%.4g", k == 0 ? "" : ",", (double)x[k]);
            }
            printf("%s\n", rows->x_count > 12 ? ",..." : "");
        }
    }
    free(x);
    if (status != MQ_EXIT_OK || !cli->is_json) {
        json_decref(list);
        return status;
    }
    return mq_cli_json(json_pack("{s:s, s:I, s:I, s:o}", "dataset", rows->name, "rows_total",
                                 (json_int_t)rows->count, "skip", (json_int_t)skip, "rows", list));
}

int mq_cmd_dataset_rows(mq_cli *cli, const mq_argv *args)
{
    int64_t count = 10, skip = 0;
    mq_error err;
    if (mq_argv_int(args, "first", 1, ROWS_SHOWN_MAX, &count, &err) != MQ_OK ||
        mq_argv_int(args, "skip", 0, INT64_MAX / 2, &skip, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    mq_rows rows;
    int status = mq_rows_open(&rows, cli, mq_argv_word(args, 0));
    if (status == MQ_EXIT_OK) {
        status = print_rows(cli, &rows, (uint64_t)skip, (uint64_t)count);
    }
    mq_rows_release(&rows);
    return status;
}

/* `maasq bench serve`, `infer` and `train`: what the running system does with real requests, and
 * what one process does alone (train: handed to maasq-worker --local). Latencies are of this
 * client, from submit to callback. The queue's own are in bench_queue.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cli.h"
#include "client/cli/load.h"
#include "client/cli/npy.h"
#include "client/cli/rows.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"
#include "shared/base/prng.h"

enum {
    SERVE_TTL_MS = 60000,
    REQUEST_BYTES_MAX = 1000000,
};

/* ---- serve ---- */

typedef struct serve {
    mq_cli *cli;
    mq_rows rows;
    mq_load load;
    json_t *model;  /* owned */
    char name[224]; /* as asked, so that an alias is served as an alias */
    maasq_tensor input;
    float *x; /* owned */
} serve;

/* One row as the model's only input: [1, the input's own shape] when sizes agree, else [1,
 * x_count]. */
static void shape_input(serve *s)
{
    const json_t *input = json_array_get(mq_js(s->model, "meta.inputs"), 0);
    const json_t *dims = json_object_get(input, "shape");
    s->input = (maasq_tensor){.dtype = MAASQ_F32,
                              .rank = 2,
                              .shape = {1, (int64_t)s->rows.x_count},
                              .data = s->x,
                              .bytes = s->rows.x_count * sizeof *s->x};
    (void)mq_span_copy(mq_str(mq_js_text(input, "name", "input")), s->input.name, MAASQ_NAME_SIZE);
    size_t rank = json_array_size(dims);
    int64_t count = 1;
    for (size_t i = 1; i < rank; i++) {
        count *= mq_max_i64(0, json_integer_value(json_array_get(dims, i)));
    }
    if (rank > 1 && rank <= MAASQ_RANK_MAX && count == (int64_t)s->rows.x_count) {
        s->input.rank = (int)rank;
        for (size_t i = 1; i < rank; i++) {
            s->input.shape[i] = json_integer_value(json_array_get(dims, i));
        }
    }
}

/* Sends the input as it is now, as soon as the window allows. */
static int fire(serve *s, double label)
{
    maasq_error err;
    if (!mq_load_wait(&s->load, s->load.window)) {
        return mq_cli_fail(s->cli, "no answer for a minute");
    }
    mq_shot *one = mq_load_shot(&s->load, label);
    maasq_job *job = one == NULL ? NULL
                                 : maasq_infer(s->cli->client, s->name, &s->input, 1, SERVE_TTL_MS,
                                               mq_load_done, one, &err);
    if (job == NULL) {
        if (one != NULL) {
            mq_load_unsent(&s->load, one);
        }
        return mq_cli_fail(s->cli, "%s", one == NULL ? "no memory" : err.text);
    }
    maasq_job_release(&job);
    return MQ_EXIT_OK;
}

static int fire_row(serve *s, int64_t i)
{
    double y = 0;
    int status = mq_rows_get(&s->rows, (uint64_t)i % s->rows.count, s->x, &y);
    return status != MQ_EXIT_OK ? status : fire(s, s->rows.is_labelled ? y : (double)NAN);
}

static int print_serve(serve *s, double seconds)
{
    mq_load *l = &s->load;
    json_t *latency = mq_load_json(l);
    int64_t answered = l->ended - l->failed;
    double accuracy = answered == 0 ? 0 : (double)l->correct / (double)answered;
    double rate = (double)l->ended / seconds;
    if (s->cli->is_json) {
        char name[512];
        (void)snprintf(name, sizeof name, "%s-%s", s->name, s->rows.name);
        json_t *line =
            json_pack("{s:s, s:s, s:f, s:s, s:s, s:I, s:s, s:I, s:I, s:I, s:f, s:f, s:I, s:o}",
                      "bench", "serve", "case", name, "value", rate, "unit", "requests/s", "model",
                      s->name, "version", (json_int_t)mq_js_int(s->model, "version"), "data",
                      s->rows.name, "requests", (json_int_t)l->count, "answered",
                      (json_int_t)answered, "failed", (json_int_t)l->failed, "accuracy", accuracy,
                      "seconds", seconds, "window", (json_int_t)l->window, "latency_ms", latency);
        (void)json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        printf("\n");
        json_decref(line);
        return l->failed == 0 ? MQ_EXIT_OK : mq_cli_fail(s->cli, "%s", l->error);
    }
    printf("%lld requests to %s (version %lld), rows of %s, window %lld\n"
           "  answered %lld, failed %lld, accuracy %.4f, %.0f requests/s\n",
           (long long)l->count, s->name, (long long)mq_js_int(s->model, "version"), s->rows.name,
           (long long)l->window, (long long)answered, (long long)l->failed, accuracy, rate);
    mq_load_print(latency);
    json_decref(latency);
    return l->failed == 0 ? MQ_EXIT_OK : mq_cli_fail(s->cli, "%s", l->error);
}

/* All requests, timed: of the dataset's rows, or the same input again and again. */
static int fire_all(serve *s, double *seconds)
{
    int status = MQ_EXIT_OK;
    int64_t start_ns = mq_clock_mono_ns();
    for (int64_t i = 0; status == MQ_EXIT_OK && i < s->load.count; i++) {
        status = s->rows.count > 0 ? fire_row(s, i) : fire(s, (double)NAN);
    }
    if (status == MQ_EXIT_OK && !mq_load_wait(&s->load, 1)) {
        status = mq_cli_fail(s->cli, "no answer for a minute");
    }
    if (status != MQ_EXIT_OK) {
        (void)maasq_client_free(&s->cli->client); /* its callbacks use the mq_load */
    }
    *seconds = (double)(mq_clock_mono_ns() - start_ns) / 1e9;
    return status;
}

static int run_serve(serve *s)
{
    s->x = calloc(s->rows.x_count, sizeof *s->x);
    if (s->x == NULL || s->rows.count == 0) {
        return mq_cli_fail(s->cli, "dataset %s: no rows, or no memory for one", s->rows.name);
    }
    shape_input(s);
    double seconds = 0;
    int status = fire_all(s, &seconds);
    return status != MQ_EXIT_OK ? status : print_serve(s, seconds);
}

int mq_cmd_bench_serve(mq_cli *cli, const mq_argv *args)
{
    int64_t requests = 1000, window = 64;
    mq_error err;
    const char *data = mq_argv_text(args, "data", NULL);
    if (data == NULL) {
        return mq_cli_usage(cli, "--data is missing: the dataset whose rows are asked about");
    }
    if (mq_argv_int(args, "requests", 1, MQ_LOAD_JOBS_MAX, &requests, &err) != MQ_OK ||
        mq_argv_int(args, "window", 1, 60000, &window, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    static serve s;
    s.cli = cli;
    (void)snprintf(s.name, sizeof s.name, "%s", mq_argv_word(args, 0));
    int status = mq_cli_query(cli, "model", s.name, "", 0, &s.model);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    status = mq_rows_open(&s.rows, cli, data);
    if (status == MQ_EXIT_OK && !mq_load_init(&s.load, requests, window)) {
        status = mq_cli_fail(cli, "no memory for %lld requests", (long long)requests);
    }
    if (status == MQ_EXIT_OK) {
        status = run_serve(&s);
        mq_load_release(&s.load);
    }
    mq_rows_release(&s.rows);
    json_decref(s.model);
    free(s.x);
    return status;
}

/* ---- infer ---- */

/* `rows` random rows of the model's first input; free dimensions behind the first count as 1. */
static int random_input(serve *s, int64_t rows)
{
    const json_t *input = json_array_get(mq_js(s->model, "meta.inputs"), 0);
    const json_t *dims = json_object_get(input, "shape");
    size_t rank = json_array_size(dims);
    if (strcmp(mq_js_text(input, "dtype", ""), "float32") != 0 || rank < 1 ||
        rank > MAASQ_RANK_MAX) {
        return mq_cli_fail(s->cli, "%s: its first input is not float32 with 1..%d dimensions",
                           s->name, MAASQ_RANK_MAX);
    }
    s->input = (maasq_tensor){.dtype = MAASQ_F32, .rank = (int)rank};
    size_t count = 1;
    for (size_t i = 0; i < rank; i++) {
        int64_t dim = json_integer_value(json_array_get(dims, i));
        s->input.shape[i] = dim > 0 ? dim : i == 0 ? rows : 1;
        count *= (size_t)s->input.shape[i];
    }
    if (count * sizeof *s->x > REQUEST_BYTES_MAX) {
        return mq_cli_fail(s->cli, "--rows: %zu bytes a request, at most %d", count * sizeof *s->x,
                           REQUEST_BYTES_MAX);
    }
    s->x = calloc(count, sizeof *s->x);
    if (s->x == NULL) {
        return mq_cli_fail(s->cli, "no memory for a request");
    }
    mq_prng prng = {1};
    for (size_t i = 0; i < count; i++) {
        s->x[i] = (float)mq_prng_below(&prng, 1000) / 1000.0F;
    }
    s->input.data = s->x;
    s->input.bytes = count * sizeof *s->x;
    (void)mq_span_copy(mq_str(mq_js_text(input, "name", "input")), s->input.name, MAASQ_NAME_SIZE);
    return MQ_EXIT_OK;
}

static int print_infer(serve *s, double seconds)
{
    mq_load *l = &s->load;
    json_t *latency = mq_load_json(l);
    int64_t rows = s->input.shape[0];
    double rate = (double)(l->ended * rows) / seconds;
    if (s->cli->is_json) {
        char name[300];
        (void)snprintf(name, sizeof name, "%s-%lldrows", s->name, (long long)rows);
        json_t *line = json_pack("{s:s, s:s, s:f, s:s, s:I, s:I, s:I, s:o}", "bench", "infer",
                                 "case", name, "value", rate, "unit", "rows/s", "requests",
                                 (json_int_t)l->ended, "failed", (json_int_t)l->failed, "window",
                                 (json_int_t)l->window, "latency_ms", latency);
        (void)json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        printf("\n");
        json_decref(line);
    } else {
        printf("%lld requests of %lld rows to %s, window %lld: %.0f rows/s, %lld failed\n",
               (long long)l->ended, (long long)rows, s->name, (long long)l->window, rate,
               (long long)l->failed);
        mq_load_print(latency);
        json_decref(latency);
    }
    return l->failed == 0 ? MQ_EXIT_OK : mq_cli_fail(s->cli, "%s", l->error);
}

/* A file: in one process, without any system (worker/local/bench_infer.c). */
static int infer_file(mq_cli *cli, const mq_argv *args)
{
    static const char *const values[][2] = {
        {"batch", "--batch"}, {"seconds", "--seconds"}, {"threads", "--threads"}};
    static const char *const flags[][2] = {
        {"profile", "--profile"}, {"own", "--own"}, {"exact-batch", "--exact-batch"}};
    const char *argv[16] = {"maasq-worker", "--local", "bench-infer", mq_argv_word(args, 0)};
    size_t argc = 4;
    for (size_t i = 0; i < 3; i++) {
        const char *value = mq_argv_text(args, values[i][0], NULL);
        if (value != NULL) {
            argv[argc++] = values[i][1];
            argv[argc++] = value;
        }
        if (mq_argv_has(args, flags[i][0])) {
            argv[argc++] = flags[i][1];
        }
    }
    if (cli->is_json) {
        argv[argc++] = "--json";
    }
    return mq_cli_exec(cli, "maasq-worker", (char **)(uintptr_t)argv);
}

int mq_cmd_bench_infer(mq_cli *cli, const mq_argv *args)
{
    const char *name = mq_argv_word(args, 0);
    size_t len = strlen(name);
    if (len > 5 && strcmp(name + len - 5, ".onnx") == 0) {
        return infer_file(cli, args);
    }
    int64_t requests = 5000, window = 64, rows = 1;
    mq_error err;
    if (mq_argv_int(args, "requests", 1, MQ_LOAD_JOBS_MAX, &requests, &err) != MQ_OK ||
        mq_argv_int(args, "rows", 1, 65536, &rows, &err) != MQ_OK ||
        mq_argv_int(args, "window", 1, 60000, &window, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    static serve s;
    s.cli = cli;
    (void)snprintf(s.name, sizeof s.name, "%s", mq_argv_word(args, 0));
    int status = mq_cli_query(cli, "model", s.name, "", 0, &s.model);
    status = status != MQ_EXIT_OK ? status : random_input(&s, rows);
    if (status == MQ_EXIT_OK && !mq_load_init(&s.load, requests, window)) {
        status = mq_cli_fail(cli, "no memory for %lld requests", (long long)requests);
    }
    if (status == MQ_EXIT_OK) {
        double seconds = 0;
        status = fire_all(&s, &seconds);
        status = status != MQ_EXIT_OK ? status : print_infer(&s, seconds);
        mq_load_release(&s.load);
    }
    json_decref(s.model);
    free(s.x);
    return status;
}

/* ---- alone ---- */

static int run_local(mq_cli *cli, const mq_argv *args, const char *command)
{
    const char *argv[MQ_ARGV_GIVEN_MAX + 4] = {"maasq-worker", "--local", command};
    for (size_t i = 0; i < args->word_count; i++) {
        argv[3 + i] = args->words[i];
    }
    return mq_cli_exec(cli, "maasq-worker", (char **)(uintptr_t)argv);
}

int mq_cmd_bench_train(mq_cli *cli, const mq_argv *args)
{
    return run_local(cli, args, "bench-train");
}

/* `maasq bench`: what the running system does with real jobs (queue, serve), and what one process
 * does alone (infer, train: handed to maasq-worker --local). Latencies are of this client, from
 * submit to callback. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/cli.h"
#include "client/cli/npy.h"
#include "client/cli/rows.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"
#include "shared/base/prng.h"

enum {
    JOBS_MAX = 10000000,
    STALL_MS = 60000, /* without any job ending */
    SERVE_TTL_MS = 60000,
    REQUEST_BYTES_MAX = 1000000,
};

/* Jobs under way, bounded by a window. */
typedef struct load {
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t changed;
    int64_t count; /* jobs in all */
    int64_t sent, ended, failed, correct;
    int64_t window;
    float *latency_ms; /* owned; one per job, in order of their end */
    char error[512];   /* of the first that failed */
} load;

typedef struct shot {
    load *load;
    int64_t start_ns;
    double label; /* NAN: none to compare with */
} shot;

static bool load_init(load *l, int64_t count, int64_t window)
{
    *l = (load){.count = count, .window = window};
    pthread_condattr_t attr;
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->changed, &attr);
    pthread_condattr_destroy(&attr);
    l->latency_ms = calloc((size_t)count, sizeof *l->latency_ms);
    return l->latency_ms != NULL;
}

static void load_release(load *l)
{
    free(l->latency_ms);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
}

/* Index of the greatest number in each answer's only row. */
static bool is_correct(const maasq_job *job, double label)
{
    maasq_tensor out;
    size_t count = 0;
    if (maasq_outputs(job, &out, 1, &count, NULL) != MAASQ_OK || count == 0) {
        return false;
    }
    size_t best = 0;
    for (size_t i = 1; i < mq_tensor_count(&out); i++) {
        best = mq_tensor_number(&out, i) > mq_tensor_number(&out, best) ? i : best;
    }
    return (double)best == label;
}

static void on_done(maasq_job *job, void *arg)
{
    shot *s = arg;
    load *l = s->load;
    maasq_error err;
    int64_t now_ns = mq_clock_mono_ns();
    bool is_good = maasq_result(job, NULL, &err) == MAASQ_OK;
    bool is_right = is_good && !isnan(s->label) && is_correct(job, s->label);
    pthread_mutex_lock(&l->lock);
    l->latency_ms[l->ended++] = (float)((double)(now_ns - s->start_ns) / 1e6);
    l->failed += !is_good;
    l->correct += is_right;
    if (!is_good && l->error[0] == '\0') {
        (void)snprintf(l->error, sizeof l->error, "%s", err.text);
    }
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
    free(s);
}

/* Waits until fewer than `most` jobs are under way. False when nothing ended for a minute. */
static bool wait_below(load *l, int64_t most)
{
    pthread_mutex_lock(&l->lock);
    bool is_stalled = false;
    while (l->sent - l->ended >= most && !is_stalled) {
        int64_t ended = l->ended;
        int64_t limit_ms = mq_clock_mono_ms() + STALL_MS;
        struct timespec until = {.tv_sec = limit_ms / 1000};
        is_stalled =
            pthread_cond_timedwait(&l->changed, &l->lock, &until) != 0 && l->ended == ended;
    }
    pthread_mutex_unlock(&l->lock);
    return !is_stalled;
}

static shot *new_shot(load *l, double label)
{
    shot *s = malloc(sizeof *s);
    if (s != NULL) {
        *s = (shot){l, mq_clock_mono_ns(), label};
        pthread_mutex_lock(&l->lock);
        l->sent++;
        pthread_mutex_unlock(&l->lock);
    }
    return s;
}

static void unsent(load *l, shot *s)
{
    pthread_mutex_lock(&l->lock);
    l->sent--;
    pthread_mutex_unlock(&l->lock);
    free(s);
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(const load *l, double p)
{
    if (l->ended == 0) {
        return (double)NAN;
    }
    int64_t at = (int64_t)ceil(p * (double)l->ended) - 1;
    return (double)l->latency_ms[mq_max_i64(at, 0)];
}

static json_t *latency_json(load *l)
{
    qsort(l->latency_ms, (size_t)l->ended, sizeof *l->latency_ms, by_size);
    return json_pack("{s:f, s:f, s:f, s:f}", "p50", percentile(l, 0.5), "p90", percentile(l, 0.9),
                     "p99", percentile(l, 0.99), "max", percentile(l, 1));
}

static void print_latency(const json_t *latency)
{
    printf("  latency ms   p50 %.2f   p90 %.2f   p99 %.2f   max %.2f\n", mq_js_real(latency, "p50"),
           mq_js_real(latency, "p90"), mq_js_real(latency, "p99"), mq_js_real(latency, "max"));
}

/* ---- queue ---- */

static bool send_echo(mq_cli *cli, load *l, const maasq_spec *spec, maasq_error *err)
{
    shot *s = new_shot(l, (double)NAN);
    maasq_job *job = s == NULL ? NULL : maasq_submit(cli->client, spec, on_done, s, err);
    if (job == NULL && s != NULL) {
        unsent(l, s);
    }
    bool is_sent = job != NULL;
    maasq_job_release(&job);
    return is_sent;
}

static int print_queue(mq_cli *cli, load *l, double seconds, const char *class, int64_t bytes)
{
    json_t *latency = latency_json(l);
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
        print_latency(latency);
        json_decref(latency);
    }
    return l->failed == 0 ? MQ_EXIT_OK : mq_cli_fail(cli, "%s", l->error);
}

int mq_cmd_bench_queue(mq_cli *cli, const mq_argv *args)
{
    int64_t jobs = 20000, bytes = 100, window = 1000;
    mq_error err;
    maasq_error why = {0};
    if (mq_argv_int(args, "jobs", 1, JOBS_MAX, &jobs, &err) != MQ_OK ||
        mq_argv_int(args, "bytes", 0, 1 << 20, &bytes, &err) != MQ_OK ||
        mq_argv_int(args, "window", 1, 60000, &window, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    int status = mq_cli_connect(cli);
    load l;
    if (status != MQ_EXIT_OK) {
        return status;
    }
    char *body = calloc(1, (size_t)bytes + 1);
    bool has_load = load_init(&l, jobs, window);
    if (!has_load || body == NULL) {
        free(body);
        if (has_load) {
            load_release(&l);
        }
        return mq_cli_fail(cli, "no memory for %lld jobs", (long long)jobs);
    }
    memset(body, 'x', (size_t)bytes);
    bool is_transient = mq_argv_has(args, "transient");
    maasq_spec spec = {.size = sizeof spec,
                       .kind = "echo",
                       .body = body,
                       .body_bytes = (size_t)bytes,
                       .durability = is_transient ? MAASQ_TRANSIENT : MAASQ_DURABLE};
    int64_t start_ns = mq_clock_mono_ns();
    bool is_going = true;
    while (is_going && l.sent < jobs) {
        is_going = wait_below(&l, window) && send_echo(cli, &l, &spec, &why);
    }
    is_going = is_going && wait_below(&l, 1);
    double seconds = (double)(mq_clock_mono_ns() - start_ns) / 1e9;
    if (!is_going) {
        status = mq_cli_fail(cli, "%s after %lld jobs",
                             why.text[0] != '\0' ? why.text : "no job ended for a minute",
                             (long long)l.ended);
        (void)maasq_client_free(&cli->client); /* its callbacks use the load */
    } else {
        status = print_queue(cli, &l, seconds, is_transient ? "transient" : "durable", bytes);
    }
    free(body);
    load_release(&l);
    return status;
}

/* ---- serve ---- */

typedef struct serve {
    mq_cli *cli;
    mq_rows rows;
    load load;
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
    if (!wait_below(&s->load, s->load.window)) {
        return mq_cli_fail(s->cli, "no answer for a minute");
    }
    shot *one = new_shot(&s->load, label);
    maasq_job *job = one == NULL ? NULL
                                 : maasq_infer(s->cli->client, s->name, &s->input, 1, SERVE_TTL_MS,
                                               on_done, one, &err);
    if (job == NULL) {
        if (one != NULL) {
            unsent(&s->load, one);
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
    load *l = &s->load;
    json_t *latency = latency_json(l);
    int64_t answered = l->ended - l->failed;
    double accuracy = answered == 0 ? 0 : (double)l->correct / (double)answered;
    double rate = (double)l->ended / seconds;
    if (s->cli->is_json) {
        int status = mq_cli_json(json_pack(
            "{s:s, s:s, s:I, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:I, s:o}", "bench", "serve",
            "model", s->name, "version", (json_int_t)mq_js_int(s->model, "version"), "data",
            s->rows.name, "requests", (json_int_t)l->count, "answered", (json_int_t)answered,
            "failed", (json_int_t)l->failed, "accuracy", accuracy, "requests_per_s", rate,
            "seconds", seconds, "window", (json_int_t)l->window, "latency_ms", latency));
        return l->failed == 0 ? status : mq_cli_fail(s->cli, "%s", l->error);
    }
    printf("%lld requests to %s (version %lld), rows of %s, window %lld\n"
           "  answered %lld, failed %lld, accuracy %.4f, %.0f requests/s\n",
           (long long)l->count, s->name, (long long)mq_js_int(s->model, "version"), s->rows.name,
           (long long)l->window, (long long)answered, (long long)l->failed, accuracy, rate);
    print_latency(latency);
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
    if (status == MQ_EXIT_OK && !wait_below(&s->load, 1)) {
        status = mq_cli_fail(s->cli, "no answer for a minute");
    }
    if (status != MQ_EXIT_OK) {
        (void)maasq_client_free(&s->cli->client); /* its callbacks use the load */
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
    if (mq_argv_int(args, "requests", 1, JOBS_MAX, &requests, &err) != MQ_OK ||
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
    if (status == MQ_EXIT_OK && !load_init(&s.load, requests, window)) {
        status = mq_cli_fail(cli, "no memory for %lld requests", (long long)requests);
    }
    if (status == MQ_EXIT_OK) {
        status = run_serve(&s);
        load_release(&s.load);
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
    load *l = &s->load;
    json_t *latency = latency_json(l);
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
        print_latency(latency);
        json_decref(latency);
    }
    return l->failed == 0 ? MQ_EXIT_OK : mq_cli_fail(s->cli, "%s", l->error);
}

int mq_cmd_bench_infer(mq_cli *cli, const mq_argv *args)
{
    int64_t requests = 5000, window = 64, rows = 1;
    mq_error err;
    if (mq_argv_int(args, "requests", 1, JOBS_MAX, &requests, &err) != MQ_OK ||
        mq_argv_int(args, "rows", 1, 65536, &rows, &err) != MQ_OK ||
        mq_argv_int(args, "window", 1, 60000, &window, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    static serve s;
    s.cli = cli;
    (void)snprintf(s.name, sizeof s.name, "%s", mq_argv_word(args, 0));
    int status = mq_cli_query(cli, "model", s.name, "", 0, &s.model);
    status = status != MQ_EXIT_OK ? status : random_input(&s, rows);
    if (status == MQ_EXIT_OK && !load_init(&s.load, requests, window)) {
        status = mq_cli_fail(cli, "no memory for %lld requests", (long long)requests);
    }
    if (status == MQ_EXIT_OK) {
        double seconds = 0;
        status = fire_all(&s, &seconds);
        status = status != MQ_EXIT_OK ? status : print_infer(&s, seconds);
        load_release(&s.load);
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

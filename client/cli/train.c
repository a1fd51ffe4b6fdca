/* `maasq train`: names become immutable versions, options become the manifest (its fields are
 * described in worker/train/manifest.h), the gang job is followed to its end. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/cli.h"
#include "client/cli/follow.h"
#include "client/cli/out.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

enum { SEATS_MAX = 64 };

typedef struct train_options {
    int64_t epochs, batch, shards, seed, max_steps, commit_ms, priority;
    int64_t head;                     /* 0 = not given */
    int64_t workers_min, workers_max; /* 0 = not given */
} train_options;

typedef struct train_job {
    mq_cli *cli;
    const mq_argv *args;
    train_options options;
    const char *name;
    char data[192], eval[192]; /* with their versions */
    char validation[192];      /* likewise, or "" */
    double share;              /* of the rows, for validation; 0 = none */
    char from[192];            /* "m@3", or "" with --arch */
    int64_t rows;
    json_t *recipe;
} train_job;

static mq_code read_options(const mq_argv *args, train_options *o, mq_error *err)
{
    *o = (train_options){.epochs = 5, .batch = 256, .shards = 8, .seed = 1, .commit_ms = 2000};
    const struct {
        const char *name;
        int64_t min, max, *out;
    } whole[] = {{"epochs", 1, 10000, &o->epochs},
                 {"batch", 1, 65536, &o->batch},
                 {"shards", 1, 64, &o->shards},
                 {"seed", 0, INT64_MAX, &o->seed},
                 {"max-steps", 0, 1000000000, &o->max_steps},
                 {"commit-ms", 10, 3600000, &o->commit_ms},
                 {"head", 1, 65536, &o->head},
                 {"priority", 1, 9, &o->priority}};
    mq_code code = MQ_OK;
    for (size_t i = 0; code == MQ_OK && i < sizeof whole / sizeof *whole; i++) {
        code = mq_argv_int(args, whole[i].name, whole[i].min, whole[i].max, whole[i].out, err);
    }
    return code != MQ_OK ? code
                         : mq_argv_range(args, "workers", 1, SEATS_MAX, &o->workers_min,
                                         &o->workers_max, err);
}

/* "name" or "name@v" of a dataset or model into "name@number". */
static int resolve(train_job *t, const char *what, const char *given, char out[192], int64_t *rows)
{
    json_t *answer = NULL;
    int status = mq_cli_query(t->cli, what, given, "", 0, &answer);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    (void)snprintf(out, 192, "%s@%lld", mq_js_text(answer, "name", given),
                   (long long)mq_js_int(answer, "version"));
    if (rows != NULL) {
        *rows = mq_js_int(answer, "meta.rows");
    }
    json_decref(answer);
    return MQ_EXIT_OK;
}

static int resolve_names(train_job *t)
{
    const char *eval = mq_argv_text(t->args, "eval", NULL);
    const char *from = mq_argv_text(t->args, "from", NULL);
    int status = resolve(t, "dataset", mq_argv_text(t->args, "data", ""), t->data, &t->rows);
    if (status == MQ_EXIT_OK && eval != NULL) {
        status = resolve(t, "dataset", eval, t->eval, NULL);
    }
    if (status == MQ_EXIT_OK && t->share == 0 && mq_argv_has(t->args, "validation")) {
        status =
            resolve(t, "dataset", mq_argv_text(t->args, "validation", ""), t->validation, NULL);
    }
    if (status == MQ_EXIT_OK && from != NULL) {
        status = resolve(t, "model", from, t->from, NULL);
    }
    return status;
}

/* Seats: what was asked for; else a stage each for a pipeline, else every slot there is. */
static int find_seats(train_job *t)
{
    const char *mode = mq_argv_text(t->args, "mode", "gang");
    int64_t stages = 1;
    json_t *answer = NULL;
    if (t->options.workers_max != 0) {
        return MQ_EXIT_OK;
    }
    if (strncmp(mode, "pipeline:", 9) == 0 && mq_text_int(mode + 9, &stages) && stages >= 1 &&
        stages <= SEATS_MAX) {
        t->options.workers_min = t->options.workers_max = stages;
        return MQ_EXIT_OK;
    }
    int status = mq_cli_query(t->cli, "workers", "", "", 0, &answer);
    int64_t slots = 0;
    size_t i;
    json_t *worker;
    json_array_foreach(json_object_get(answer, "workers"), i, worker)
    {
        slots += mq_js_int(worker, "slots");
    }
    json_decref(answer);
    t->options.workers_min = 1;
    t->options.workers_max = mq_max_i64(1, mq_min_i64(slots, t->options.shards));
    return status;
}

/* "1,0.5,2" */
static mq_code read_list(const char *text, const char *option, json_t **out, mq_error *err)
{
    *out = json_array();
    for (const char *at = text; *at != '\0';) {
        char item[64];
        size_t len = strcspn(at, ",");
        double x = 0;
        if (!mq_span_copy(mq_span_of(at, len), item, sizeof item) || !mq_text_real(item, &x)) {
            return mq_fail(err, MQ_E_ARG, "--%s: \"%.40s\" is no list of numbers such as 1,0.5,2",
                           option, text);
        }
        (void)json_array_append_new(*out, json_real(x));
        at += len + (at[len] == ',' ? 1 : 0);
    }
    return MQ_OK;
}

/* How weights follow from losses (worker/train/recipe.h): only what was given goes into the
 * manifest, whose reader knows the defaults, the limits and what belongs together. */
static mq_code read_recipe(const mq_argv *args, json_t *out, mq_error *err)
{
    static const struct {
        const char *option, *field;
        char type; /* text, real, integer, flag, list of reals */
        double most;
    } all[] = {{"loss", "loss", 't', 0},
               {"label-smoothing", "label_smoothing", 'r', 1},
               {"class-weights", "class_weights", 'l', 0},
               {"optimizer", "optimizer", 't', 0},
               {"lr", "lr", 'r', 100},
               {"momentum", "momentum", 'r', 1},
               {"nesterov", "nesterov", 'f', 0},
               {"beta1", "beta1", 'r', 1},
               {"beta2", "beta2", 'r', 1},
               {"rho", "rho", 'r', 1},
               {"epsilon", "epsilon", 'r', 1},
               {"weight-decay", "weight_decay", 'r', 1},
               {"schedule", "schedule", 't', 0},
               {"warmup-steps", "warmup_steps", 'i', 1e9},
               {"step-epochs", "step_epochs", 'i', 10000},
               {"gamma", "gamma", 'r', 1},
               {"crop", "crop", 'i', 32},
               {"shift", "shift", 'i', 32},
               {"flip", "flip", 'f', 0},
               {"patience", "patience", 'i', 10000},
               {"min-delta", "min_delta", 'r', 1e6},
               {"last", "last", 'f', 0},
               {"clip-value", "clip_value", 'r', 1e6},
               {"clip-norm", "clip_norm", 'r', 1e6}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const char *given = mq_argv_text(args, all[i].option, NULL);
        double real = 0;
        int64_t whole = 0;
        mq_code code = MQ_OK;
        json_t *value = NULL;
        if (!mq_argv_has(args, all[i].option)) {
            continue;
        }
        switch (all[i].type) {
        case 'r':
            code = mq_argv_real(args, all[i].option, 0, all[i].most, &real, err);
            value = json_real(real);
            break;
        case 'i':
            code = mq_argv_int(args, all[i].option, 0, (int64_t)all[i].most, &whole, err);
            value = json_integer(whole);
            break;
        case 'l':
            code = read_list(given, all[i].option, &value, err);
            break;
        default:
            value = all[i].type == 'f' ? json_true() : json_string(given);
        }
        if (json_object_set_new(out, all[i].field, value) != 0 && code == MQ_OK) {
            code = mq_fail(err, MQ_E_ARG, "--%s: not UTF-8", all[i].option);
        }
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

static json_t *manifest(const train_job *t)
{
    const train_options *o = &t->options;
    json_t *m = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:{s:I, s:b}}", "model",
                          t->name, "data", t->data, "epochs", (json_int_t)o->epochs, "batch",
                          (json_int_t)o->batch, "shards", (json_int_t)o->shards, "seed",
                          (json_int_t)o->seed, "max_steps", (json_int_t)o->max_steps, "mode",
                          mq_argv_text(t->args, "mode", "gang"), "run", "commit_ms",
                          (json_int_t)o->commit_ms, "reuse", !mq_argv_has(t->args, "no-reuse"));
    const char *arch = mq_argv_text(t->args, "arch", NULL);
    if (m != NULL) {
        (void)json_object_update(m, t->recipe);
    }
    if (m != NULL && arch != NULL) {
        (void)json_object_set_new(m, "init", json_pack("{s:s}", "arch", arch));
    }
    if (m != NULL && (t->share > 0 || t->validation[0] != '\0')) {
        (void)json_object_set_new(m, "validation",
                                  t->share > 0 ? json_real(t->share) : json_string(t->validation));
    }
    if (m != NULL && t->options.head > 0) {
        (void)json_object_set_new(m, "init", json_pack("{s:I}", "head", t->options.head));
    }
    json_t *freeze = json_array();
    for (size_t i = 0; mq_argv_nth(t->args, "freeze", i) != NULL; i++) {
        (void)json_array_append_new(freeze, json_string(mq_argv_nth(t->args, "freeze", i)));
    }
    if (m != NULL && json_array_size(freeze) > 0) {
        (void)json_object_set(m, "freeze", freeze);
    }
    json_decref(freeze);
    if (m != NULL && t->eval[0] != '\0') {
        (void)json_object_set_new(m, "eval", json_string(t->eval));
    }
    return m;
}

static int64_t steps_of(const train_job *t)
{
    int64_t held = (int64_t)((double)t->rows * t->share);
    held = t->share > 0 && held == 0 ? 1 : held;
    int64_t steps = (t->rows - held) / t->options.batch * t->options.epochs;
    return t->options.max_steps > 0 ? mq_min_i64(steps, t->options.max_steps) : steps;
}

/* Stable fields; what a result does not have is null. */
static json_t *result_json(const train_job *t, const json_t *result, const char *id,
                           int64_t version, double seconds)
{
    const json_t *meta = json_object_get(result, "meta");
    bool is_reused = json_is_true(json_object_get(result, "reused"));
    bool has_part = json_object_get(meta, "continued_from") != NULL;
    int64_t continued = has_part ? mq_js_int(meta, "continued_from") : 0;
    int64_t steps_run = is_reused ? 0 : mq_js_int(meta, "steps_run") - continued;
    return json_pack(
        "{s:s, s:I, s:s, s:O?, s:O?, s:I, s:I, s:O?, s:b, s:O?, s:O?, s:O?, s:s, s:s, s:s, s:f, "
        "s:O?, s:O?, s:I}",
        "name", t->name, "version", (json_int_t)version, "job", id, "manifest",
        json_object_get(meta, "manifest"), "weights_hash", json_object_get(meta, "weights_hash"),
        "steps", (json_int_t)steps_of(t), "steps_run", (json_int_t)steps_run, "workers_seen",
        json_object_get(meta, "workers_seen"), "reused", is_reused, "accuracy",
        mq_js(meta, "metrics.accuracy"), "train_accuracy", mq_js(meta, "metrics.train_accuracy"),
        "loss", mq_js(meta, "metrics.loss"), "data", t->data, "eval", t->eval, "from", t->from,
        "seconds", seconds, "fingerprint", json_object_get(result, "fingerprint"), "validation",
        json_object_get(meta, "validation"), "continued_from", (json_int_t)continued);
}

static void print_result(const json_t *r)
{
    printf("%s@%lld%s\n", mq_js_text(r, "name", "?"), (long long)mq_js_int(r, "version"),
           json_is_true(json_object_get(r, "reused"))
               ? " (an equal run was found, nothing to train)"
               : "");
    printf("  accuracy       %s on %s, %s on the training data\n",
           mq_out_number(mq_js_real(r, "accuracy"), 4), mq_js_text(r, "eval", "nothing"),
           mq_out_number(mq_js_real(r, "train_accuracy"), 4));
    if (json_is_object(json_object_get(r, "validation"))) {
        bool is_stopped = json_is_true(mq_js(r, "validation.stopped"));
        printf(
            "  validation     loss %s, accuracy %s, best after step %lld%s; the %s is published\n",
            mq_out_number(mq_js_real(r, "validation.loss"), 4),
            mq_out_number(mq_js_real(r, "validation.accuracy"), 4),
            (long long)mq_js_int(r, "validation.best_step"), is_stopped ? ", stopped early" : "",
            mq_js_text(r, "validation.published", "last"));
    }
    printf("  steps          %lld of %lld, at most %lld workers at a time, %.1f s\n",
           (long long)mq_js_int(r, "steps_run"), (long long)mq_js_int(r, "steps"),
           (long long)mq_js_int(r, "workers_seen"), mq_js_real(r, "seconds"));
    printf("  manifest       %s\n  weights hash   %s\n", mq_js_text(r, "manifest", "-"),
           mq_js_text(r, "weights_hash", "-"));
}

static int print_end(train_job *t, const maasq_job *job, double seconds)
{
    maasq_view view = {0};
    (void)maasq_result(job, &view, NULL);
    json_t *result = json_loadb(view.data, view.bytes, JSON_REJECT_DUPLICATES, NULL);
    if (result == NULL) {
        return mq_cli_fail(t->cli, "job %s: its result is no JSON", maasq_job_id(job));
    }
    const char *id = maasq_job_id(job);
    int64_t version = mq_follow_version(t->cli, "model", t->name, id, result);
    json_t *out = result_json(t, result, id, version, seconds);
    json_decref(result);
    if (t->cli->is_json) {
        return mq_cli_json(out);
    }
    print_result(out);
    json_decref(out);
    return MQ_EXIT_OK;
}

static int run(train_job *t)
{
    json_t *m = manifest(t);
    char *body = m == NULL ? NULL : json_dumps(m, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(m);
    if (body == NULL) {
        return mq_cli_fail(t->cli, "the manifest has a text that is not UTF-8");
    }
    maasq_spec spec = {.size = sizeof spec,
                       .kind = "train",
                       .model = t->from[0] == '\0' ? NULL : t->from,
                       .body = body,
                       .body_bytes = strlen(body),
                       .priority = (uint32_t)t->options.priority,
                       .seats_min = (uint32_t)t->options.workers_min,
                       .seats_max = (uint32_t)t->options.workers_max};
    maasq_error err;
    int64_t start_ms = mq_clock_mono_ms();
    maasq_job *job = maasq_submit(t->cli->client, &spec, NULL, NULL, &err);
    free(body);
    int status = MQ_EXIT_OK;
    if (job == NULL || maasq_flush(t->cli->client, t->cli->timeout_ms, &err) != MAASQ_OK) {
        status = mq_cli_fail(t->cli, "%s", err.text);
    } else if (mq_argv_has(t->args, "follow") || maasq_is_done(job)) {
        status = mq_follow(t->cli, job, false);
        status = status != MQ_EXIT_OK
                     ? status
                     : print_end(t, job, (double)(mq_clock_mono_ms() - start_ms) / 1000);
    } else if (t->cli->is_json) {
        status = mq_cli_json(
            json_pack("{s:s, s:s}", "job", maasq_job_id(job), "state", maasq_state(job)));
    } else {
        printf("%s is queued; `maasq job wait %s` follows it, `maasq top` shows it\n",
               maasq_job_id(job), maasq_job_id(job));
    }
    maasq_job_release(&job);
    return status;
}

static int train(train_job *t)
{
    mq_error err;
    if (read_options(t->args, &t->options, &err) != MQ_OK ||
        read_recipe(t->args, t->recipe, &err) != MQ_OK) {
        return mq_cli_usage(t->cli, "%s", err.text);
    }
    if (!mq_argv_has(t->args, "data")) {
        return mq_cli_usage(t->cli, "--data is missing: the dataset to train on");
    }
    if (mq_argv_has(t->args, "arch") == mq_argv_has(t->args, "from")) {
        return mq_cli_usage(t->cli,
                            "give one of --arch A (fresh weights) and --from NAME@V (those of a "
                            "version)");
    }
    const char *validation = mq_argv_text(t->args, "validation", "");
    if (mq_text_real(validation, &t->share) && !(t->share > 0 && t->share <= 0.5)) {
        return mq_cli_usage(t->cli, "--validation: a share is more than 0 and at most 0.5");
    }
    if (t->options.head > 0 && !mq_argv_has(t->args, "from")) {
        return mq_cli_usage(t->cli,
                            "--head replaces the last layer of the version that --from names");
    }
    int status = resolve_names(t);
    status = status != MQ_EXIT_OK ? status : find_seats(t);
    return status != MQ_EXIT_OK ? status : run(t);
}

int mq_cmd_train(mq_cli *cli, const mq_argv *args)
{
    train_job t = {
        .cli = cli, .args = args, .name = mq_argv_word(args, 0), .recipe = json_object()};
    int status = train(&t);
    json_decref(t.recipe);
    return status;
}

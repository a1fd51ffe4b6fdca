/* `maasq evaluate` and `maasq optimize`: jobs on a model's version and a dataset. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/cli.h"
#include "client/cli/follow.h"
#include "client/cli/out.h"

/* "name@number" of what was given, for an immutable request. */
static int pin(mq_cli *cli, const char *what, const char *given, char name[192], char full[224])
{
    json_t *answer = NULL;
    int status = mq_cli_query(cli, what, given, "", 0, &answer);
    if (status == MQ_EXIT_OK) {
        (void)snprintf(name, 192, "%s", mq_js_text(answer, "name", ""));
        (void)snprintf(full, 224, "%s@%lld", name, (long long)mq_js_int(answer, "version"));
    }
    json_decref(answer);
    return status;
}

int mq_cmd_evaluate(mq_cli *cli, const mq_argv *args)
{
    char name[192], model[224], data[224];
    const char *dataset = mq_argv_text(args, "data", NULL);
    if (dataset == NULL) {
        return mq_cli_usage(cli, "--data is missing: the dataset to score on");
    }
    int status = pin(cli, "model", mq_argv_word(args, 0), name, model);
    status = status != MQ_EXIT_OK ? status : pin(cli, "dataset", dataset, name, data);
    json_t *result = NULL;
    if (status == MQ_EXIT_OK) {
        status =
            mq_follow_json(cli, "evaluate", model,
                           json_pack("{s:s, s:s}", "model", model, "data", data), &result, NULL);
    }
    if (status == MQ_EXIT_OK && cli->is_json) {
        return mq_cli_json(result);
    }
    if (status == MQ_EXIT_OK) {
        printf("%s on %s: accuracy %s, loss %s, %lld rows, %.0f rows/s\n", model, data,
               mq_out_number(mq_js_real(result, "accuracy"), 4),
               mq_out_number(mq_js_real(result, "loss"), 4), (long long)mq_js_int(result, "rows"),
               mq_js_real(result, "rows_per_s"));
    }
    json_decref(result);
    return status;
}

/* What may be said about fine-tuning; NAN and -1: the worker's default. */
typedef struct tuning {
    int64_t epochs, batch, seed;
    double lr, momentum;
} tuning;

static mq_code read_tuning(const mq_argv *args, tuning *t, mq_error *err)
{
    *t = (tuning){.epochs = 0, .batch = -1, .seed = -1, .lr = (double)NAN, .momentum = (double)NAN};
    mq_code code = mq_argv_int(args, "finetune", 0, 10000, &t->epochs, err);
    code = code != MQ_OK ? code : mq_argv_int(args, "batch", 1, 65536, &t->batch, err);
    code = code != MQ_OK ? code : mq_argv_int(args, "seed", 0, INT64_MAX, &t->seed, err);
    code = code != MQ_OK ? code : mq_argv_real(args, "lr", 0, 100, &t->lr, err);
    return code != MQ_OK ? code : mq_argv_real(args, "momentum", 0, 1, &t->momentum, err);
}

/* The request of an optimize job: {"model","passes":[..],"data"?,"eval"?,"finetune_epochs"?,...}.
 */
static json_t *optimize_body(const mq_argv *args, const char *model, const char *data,
                             const char *eval, const tuning *t)
{
    json_t *passes = json_array();
    const char *pass = NULL;
    for (size_t i = 0; (pass = mq_argv_nth(args, "pass", i)) != NULL; i++) {
        (void)json_array_append_new(passes, json_string(pass));
    }
    json_t *body = json_pack("{s:s, s:o}", "model", model, "passes", passes);
    const struct {
        const char *key;
        json_t *value; /* NULL: not said */
    } fields[] = {{"data", data[0] == '\0' ? NULL : json_string(data)},
                  {"eval", eval[0] == '\0' ? NULL : json_string(eval)},
                  {"finetune_epochs", t->epochs == 0 ? NULL : json_integer((json_int_t)t->epochs)},
                  {"batch", t->batch < 0 ? NULL : json_integer((json_int_t)t->batch)},
                  {"seed", t->seed < 0 ? NULL : json_integer((json_int_t)t->seed)},
                  {"lr", isnan(t->lr) ? NULL : json_real(t->lr)},
                  {"momentum", isnan(t->momentum) ? NULL : json_real(t->momentum)}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (fields[i].value != NULL) {
            (void)json_object_set_new(body, fields[i].key, fields[i].value);
        }
    }
    return body;
}

static int print_optimized(mq_cli *cli, const char *model, const char *name, int64_t version,
                           const char *id, const json_t *result)
{
    const json_t *meta = json_object_get(result, "meta");
    if (cli->is_json) {
        return mq_cli_json(json_pack(
            "{s:s, s:I, s:s, s:s, s:O?, s:O?, s:O?, s:O?, s:O?, s:O?}", "name", name, "version",
            (json_int_t)version, "parent", model, "job", id, "pass", json_object_get(meta, "pass"),
            "accuracy", mq_js(meta, "metrics.accuracy"), "bytes", json_object_get(meta, "bytes"),
            "nonzero", json_object_get(meta, "nonzero"), "latency_us",
            json_object_get(meta, "latency_us"), "report", json_object_get(meta, "report")));
    }
    printf(
        "%s@%lld from %s by %s: accuracy %s, %s, %lld of %lld parameters not zero, %s us a row\n",
        name, (long long)version, model, mq_js_text(meta, "pass", "?"),
        mq_out_number(mq_js_real(meta, "metrics.accuracy"), 4),
        mq_out_bytes(mq_js_real(meta, "bytes")), (long long)mq_js_int(meta, "nonzero"),
        (long long)mq_js_int(meta, "params"), mq_out_number(mq_js_real(meta, "latency_us"), 0));
    return MQ_EXIT_OK;
}

int mq_cmd_optimize(mq_cli *cli, const mq_argv *args)
{
    char name[192], unused[192], model[224], data[224] = "", eval[224] = "";
    tuning t;
    mq_error err;
    if (read_tuning(args, &t, &err) != MQ_OK) {
        return mq_cli_usage(cli, "%s", err.text);
    }
    if (!mq_argv_has(args, "pass")) {
        return mq_cli_usage(cli, "--pass is missing, for example --pass prune:0.8");
    }
    if (t.epochs > 0 && !mq_argv_has(args, "data")) {
        return mq_cli_usage(cli, "--finetune needs --data: what to train on");
    }
    int status = pin(cli, "model", mq_argv_word(args, 0), name, model);
    if (status == MQ_EXIT_OK && mq_argv_has(args, "data")) {
        status = pin(cli, "dataset", mq_argv_text(args, "data", ""), unused, data);
    }
    if (status == MQ_EXIT_OK && mq_argv_has(args, "eval")) {
        status = pin(cli, "dataset", mq_argv_text(args, "eval", ""), unused, eval);
    }
    if (status != MQ_EXIT_OK) {
        return status;
    }
    json_t *result = NULL;
    char id[32];
    status = mq_follow_json(cli, "optimize", model, optimize_body(args, model, data, eval, &t),
                            &result, id);
    if (status == MQ_EXIT_OK) {
        int64_t version = mq_follow_version(cli, "model", name, id, result);
        status = print_optimized(cli, model, name, version, id, result);
    }
    json_decref(result);
    return status;
}

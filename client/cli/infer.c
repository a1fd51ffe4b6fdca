/* `maasq infer`: a file of numbers in, a model's answer out. */
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/cli.h"
#include "client/cli/npy.h"
#include "client/cli/out.h"
#include "shared/base/file.h"
#include "shared/tensor/tensor.h"

enum { BYTES_MAX = 64 << 20, OUTPUTS_MAX = 64 };

typedef struct request {
    mq_buf file;  /* bytes of the input file */
    mq_buf store; /* numbers read from JSON */
    json_t *json; /* owned */
    maasq_tensor inputs[MAASQ_TENSORS_MAX];
    size_t count;
} request;

static void release(request *r)
{
    mq_buf_release(&r->file);
    mq_buf_release(&r->store);
    json_decref(r->json);
}

/* What the registry says of the model's input of that name; the first one for "". */
static const json_t *declared(const json_t *model, const char *name)
{
    size_t i;
    json_t *one;
    json_array_foreach(mq_js(model, "meta.inputs"), i, one)
    {
        if (name[0] == '\0' || strcmp(mq_js_text(one, "name", ""), name) == 0) {
            return one;
        }
    }
    return NULL;
}

static int dtype_of(const json_t *input)
{
    mq_dtype dtype = mq_dtype_parse(mq_str(mq_js_text(input, "dtype", "float32")));
    return dtype == MQ_DT_NONE ? MAASQ_F32 : (int)dtype;
}

/* Names the tensor as the model does and compares its shape (-1 and names: any size). */
static mq_code fit(const json_t *model, maasq_tensor *tensor, mq_error *err)
{
    const json_t *input = declared(model, tensor->name);
    if (input == NULL) {
        return json_array_size(mq_js(model, "meta.inputs")) == 0
                   ? MQ_OK
                   : mq_fail(err, MQ_E_ARG, "input '%s': the model has no such input",
                             tensor->name);
    }
    (void)mq_span_copy(mq_str(mq_js_text(input, "name", "")), tensor->name, sizeof tensor->name);
    const json_t *dims = json_object_get(input, "shape");
    bool fits = !json_is_array(dims) || json_array_size(dims) == (size_t)tensor->rank;
    for (size_t i = 0; fits && i < json_array_size(dims); i++) {
        const json_t *dim = json_array_get(dims, i);
        fits = !json_is_integer(dim) || json_integer_value(dim) < 0 ||
               json_integer_value(dim) == tensor->shape[i];
    }
    if (!fits) {
        char *want = json_dumps(dims, JSON_COMPACT);
        mq_shape shape = {.rank = tensor->rank};
        memcpy(shape.dims, tensor->shape, sizeof tensor->shape);
        char have[160];
        (void)mq_fail(err, MQ_E_ARG, "input '%s': its shape is %s, the model wants %s (-1: any)",
                      tensor->name, mq_shape_text(&shape, have, sizeof have),
                      want == NULL ? "?" : want);
        free(want);
        return MQ_E_ARG;
    }
    return MQ_OK;
}

/* JSON: a list is the only input, an object names them. */
static mq_code read_json(request *r, const json_t *model, const char *name, mq_error *err)
{
    json_error_t where;
    r->json = json_loadb((const char *)r->file.data, r->file.len, JSON_REJECT_DUPLICATES, &where);
    if (r->json == NULL) {
        return mq_fail(err, MQ_E_FORMAT, "no JSON at line %d, column %d: %s", where.line,
                       where.column, where.text);
    }
    /* Room for all numbers at once: tensors point into the store. */
    if (mq_buf_extend(&r->store, 1 << 16) == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory");
    }
    mq_buf_reset(&r->store);
    if (json_is_array(r->json)) {
        r->count = 1;
        mq_code code =
            mq_json_tensor(r->json, dtype_of(declared(model, name)), &r->inputs[0], &r->store, err);
        (void)mq_span_copy(mq_str(name), r->inputs[0].name, MAASQ_NAME_SIZE);
        return code;
    }
    size_t offsets[MAASQ_TENSORS_MAX];
    const char *key = NULL;
    json_t *value = NULL;
    mq_code code = MQ_OK;
    json_object_foreach(r->json, key, value)
    {
        if (r->count == MAASQ_TENSORS_MAX || strlen(key) >= MAASQ_NAME_SIZE) {
            return mq_fail(err, MQ_E_LIMIT, "more than %d inputs, or a name longer than %d bytes",
                           MAASQ_TENSORS_MAX, MAASQ_NAME_SIZE - 1);
        }
        offsets[r->count] = r->store.len;
        maasq_tensor *tensor = &r->inputs[r->count++];
        code = mq_json_tensor(value, dtype_of(declared(model, key)), tensor, &r->store, err);
        if (code != MQ_OK) {
            return mq_wrap(err, "input '%s'", key);
        }
        (void)mq_span_copy(mq_str(key), tensor->name, MAASQ_NAME_SIZE);
    }
    for (size_t i = 0; i < r->count; i++) { /* the store may have moved while it grew */
        r->inputs[i].data = r->store.data + offsets[i];
    }
    return r->count > 0 ? MQ_OK
                        : mq_fail(err, MQ_E_FORMAT, "no input: neither a list nor an object");
}

static mq_code read_input(request *r, const char *path, const json_t *model, const char *name,
                          mq_error *err)
{
    mq_code code = mq_file_read(path, &r->file, err);
    if (code != MQ_OK) {
        return code;
    }
    if (r->file.len > 0 && r->file.data[0] == 0x93) {
        r->count = 1;
        code = mq_npy_read(mq_buf_span(&r->file), &r->inputs[0], err);
        (void)mq_span_copy(mq_str(name), r->inputs[0].name, MAASQ_NAME_SIZE);
    } else {
        code = read_json(r, model, name, err);
    }
    for (size_t i = 0; code == MQ_OK && i < r->count; i++) {
        code = fit(model, &r->inputs[i], err);
    }
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "%s", path);
}

static int write_npy(const mq_cli *cli, const maasq_tensor *output, const char *path)
{
    mq_buf out;
    mq_error err;
    mq_buf_init(&out, (size_t)512 << 20);
    mq_code code = mq_npy_write(output, &out, &err);
    code = code != MQ_OK ? code : mq_file_write(path, mq_buf_span(&out), 0644, &err);
    mq_buf_release(&out);
    return code == MQ_OK ? MQ_EXIT_OK : mq_cli_fail(cli, "%s", err.text);
}

static json_t *outputs_json(const maasq_tensor *outputs, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *shape = json_array();
        for (int d = 0; d < outputs[i].rank; d++) {
            (void)json_array_append_new(shape, json_integer((json_int_t)outputs[i].shape[d]));
        }
        (void)json_array_append_new(list,
                                    json_pack("{s:s, s:s, s:o, s:o?}", "name", outputs[i].name,
                                              "dtype", mq_dtype_name((mq_dtype)outputs[i].dtype),
                                              "shape", shape, "data", mq_tensor_json(&outputs[i])));
    }
    return list;
}

static int print_outputs(mq_cli *cli, const maasq_job *job, const json_t *model, const char *path)
{
    static maasq_tensor outputs[OUTPUTS_MAX];
    size_t count = 0;
    maasq_error err;
    if (maasq_outputs(job, outputs, OUTPUTS_MAX, &count, &err) != MAASQ_OK) {
        return mq_cli_fail(cli, "%s", err.text);
    }
    count = count < OUTPUTS_MAX ? count : OUTPUTS_MAX;
    if (path != NULL && count > 0) {
        int status = write_npy(cli, &outputs[0], path);
        if (status != MQ_EXIT_OK || !cli->is_json) {
            return status;
        }
    }
    maasq_info info = {.size = sizeof info};
    maasq_job_info(job, &info);
    json_t *list = outputs_json(outputs, count);
    if (cli->is_json) {
        return mq_cli_json(
            json_pack("{s:s, s:I, s:o, s:f, s:f}", "name", mq_js_text(model, "name", ""), "version",
                      (json_int_t)mq_js_int(model, "version"), "outputs", list, "queue_ms",
                      (double)info.queue_us / 1000, "run_ms", (double)info.run_us / 1000));
    }
    for (size_t i = 0; i < count; i++) {
        char *text = json_dumps(json_object_get(json_array_get(list, i), "data"),
                                JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(7));
        printf("%s%s%s\n", count > 1 ? outputs[i].name : "", count > 1 ? ": " : "",
               text == NULL ? "(no numbers)" : text);
        free(text);
    }
    json_decref(list);
    return MQ_EXIT_OK;
}

static int ask(mq_cli *cli, const request *r, const json_t *model, const char *path)
{
    char full[224];
    maasq_error err;
    (void)snprintf(full, sizeof full, "%s@%lld", mq_js_text(model, "name", ""),
                   (long long)mq_js_int(model, "version"));
    maasq_job *job =
        maasq_infer(cli->client, full, r->inputs, r->count, cli->timeout_ms, NULL, NULL, &err);
    if (job == NULL) {
        return mq_cli_fail(cli, "%s", err.text);
    }
    int status = MQ_EXIT_OK;
    if (maasq_wait(job, cli->timeout_ms + 1000, &err) != MAASQ_OK ||
        maasq_result(job, NULL, &err) != MAASQ_OK) {
        status = mq_cli_fail(cli, "%s: %s", full, err.text);
    } else {
        status = print_outputs(cli, job, model, path);
    }
    maasq_job_release(&job);
    return status;
}

int mq_cmd_infer(mq_cli *cli, const mq_argv *args)
{
    const char *path = mq_argv_text(args, "input", NULL);
    json_t *model = NULL;
    if (path == NULL) {
        return mq_cli_usage(cli, "--input is missing: an NPY or JSON file");
    }
    int status = mq_cli_query(cli, "model", mq_argv_word(args, 0), "", 0, &model);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    static request r;
    mq_error err;
    mq_buf_init(&r.file, BYTES_MAX);
    mq_buf_init(&r.store, BYTES_MAX);
    if (read_input(&r, path, model, mq_argv_text(args, "name", ""), &err) != MQ_OK) {
        status = mq_cli_fail(cli, "%s", err.text);
    } else {
        status = ask(cli, &r, model, mq_argv_text(args, "output", NULL));
    }
    release(&r);
    json_decref(model);
    return status;
}

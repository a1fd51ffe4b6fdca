/* `check`: says of an ONNX file whether it runs here, and compares it with reference outputs. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/file.h"
#include "worker/exec/compare.h"
#include "worker/exec/session.h"
#include "worker/local/local.h"

enum { USAGE = 2, TEXT_BYTES_MAX = 1 << 20, TENSORS_MAX = 64 };
#define FILE_BYTES_MAX  ((size_t)4 << 30)
#define ARENA_BYTES_MAX ((size_t)2 << 30)
/* As ONNX's own backend tests, but for the absolute part: references of whole models come from
 * runtimes whose logistic function alone is off by 1e-7. */
#define RELATIVE 1e-3
#define ABSOLUTE 1e-5

typedef struct check_args {
    const char *file;
    const char *refs;
    bool is_json;
} check_args;

typedef struct check_report {
    uint32_t nodes;
    size_t parameters, problems, outputs;
    double largest; /* difference, absolute */
    size_t wrong;   /* elements outside the tolerance */
    bool is_compared;
} check_report;

static mq_code args_read(int argc, char **argv, check_args *args, mq_error *err)
{
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            args->is_json = true;
        } else if (strcmp(argv[i], "--refs") == 0 && i + 1 < argc) {
            args->refs = argv[++i];
        } else if (argv[i][0] != '-' && args->file == NULL) {
            args->file = argv[i];
        } else {
            return mq_fail(err, MQ_E_ARG, "check: \"%.60s\" is not an argument of it", argv[i]);
        }
    }
    return args->file != NULL ? MQ_OK : mq_fail(err, MQ_E_ARG, "check: FILE.onnx is missing");
}

/* Loads DIR/<prefix>_N.pb for N = 0, 1, ... until one is not there. The files stay mapped. */
static mq_code refs_load(const char *dir, const char *prefix, mq_arena *arena, mq_map_file *maps,
                         mq_init *out, size_t *count, mq_error *err)
{
    char path[4096];
    for (*count = 0; *count < TENSORS_MAX; (*count)++) {
        int n = snprintf(path, sizeof path, "%s/%s_%zu.pb", dir, prefix, *count);
        if (n < 0 || (size_t)n >= sizeof path) {
            return mq_fail(err, MQ_E_LIMIT, "--refs: path too long");
        }
        mq_code code = mq_map_file_open(&maps[*count], path, FILE_BYTES_MAX, err);
        if (code == MQ_E_NOT_FOUND) {
            return MQ_OK;
        }
        if (code == MQ_OK) {
            code = mq_tensor_proto_load(arena, maps[*count].bytes, &out[*count], err);
        }
        /* Bytes in the file begin anywhere; what runs wants them aligned. */
        mq_tensor *t = &out[*count].tensor;
        if (code == MQ_OK && t->bytes > 0) {
            t->data = mq_arena_copy(arena, mq_span_of(t->data, t->bytes));
            code = t->data != NULL ? MQ_OK : mq_fail(err, MQ_E_LIMIT, "no memory");
        }
        if (code != MQ_OK) {
            return mq_wrap(err, "%s", path);
        }
    }
    return mq_fail(err, MQ_E_LIMIT, "--refs: more than %d files %s_N.pb", TENSORS_MAX, prefix);
}

/* Counts what differs; only type and shape are an error at once. */
static mq_code compare(const mq_tensor *got, const mq_tensor *want, size_t index,
                       check_report *report, mq_error *err)
{
    mq_difference d = {0};
    mq_code code = mq_tensor_compare(got, want, (mq_tolerance){RELATIVE, ABSOLUTE}, &d, err);
    report->wrong += d.wrong;
    report->largest = d.largest > report->largest ? d.largest : report->largest;
    return code == MQ_OK || d.wrong > 0 ? MQ_OK : mq_wrap(err, "output %zu", index);
}

static mq_code run_refs(const mq_model *model, const char *dir, mq_arena *arena,
                        check_report *report, mq_map_file *maps, mq_error *err)
{
    mq_init inputs[TENSORS_MAX] = {0}, outputs[TENSORS_MAX] = {0};
    mq_tensor given[TENSORS_MAX];
    const mq_tensor *got = NULL;
    size_t input_count = 0, output_count = 0;
    mq_session *session = NULL;
    mq_code code = refs_load(dir, "input", arena, maps, inputs, &input_count, err);
    if (code == MQ_OK) {
        code = refs_load(dir, "output", arena, maps + TENSORS_MAX, outputs, &output_count, err);
    }
    if (code == MQ_OK && output_count == 0) {
        code = mq_fail(err, MQ_E_NOT_FOUND, "--refs: no output_0.pb in %s", dir);
    }
    if (code == MQ_OK) {
        code = mq_session_new(&session, model, NULL, err);
    }
    for (size_t i = 0; i < input_count; i++) {
        given[i] = inputs[i].tensor;
    }
    if (code == MQ_OK) {
        code = mq_session_run(session, given, input_count, &got, err);
    }
    const mq_value_info *infos;
    size_t have = code == MQ_OK ? mq_session_outputs(session, &infos) : 0;
    if (code == MQ_OK && have < output_count) {
        code = mq_fail(err, MQ_E_CONFLICT, "the model has %zu outputs, the references %zu", have,
                       output_count);
    }
    for (size_t i = 0; code == MQ_OK && i < output_count; i++) {
        code = compare(&got[i], &outputs[i].tensor, i, report, err);
    }
    report->is_compared = code == MQ_OK;
    report->outputs = output_count;
    mq_session_free(session);
    return code;
}

static mq_code check(const check_args *args, check_report *report, mq_buf *text, mq_error *err)
{
    mq_map_file file;
    mq_map_file maps[2 * TENSORS_MAX] = {0};
    mq_model *model = NULL;
    mq_arena arena;
    size_t bytes;
    mq_code code = mq_map_file_open(&file, args->file, FILE_BYTES_MAX, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_arena_init(&arena, ARENA_BYTES_MAX);
    code = mq_model_load(&model, file.bytes, 0, err);
    if (code == MQ_OK) {
        report->nodes = model->graph.node_count;
        mq_model_sizes(model, &report->parameters, &bytes);
        report->problems = mq_session_check(model, text);
        if (report->problems == 0 && args->refs != NULL) {
            code = run_refs(model, args->refs, &arena, report, maps, err);
        }
    } else {
        (void)mq_wrap(err, "%s", args->file);
    }
    mq_model_free(model);
    for (size_t i = 0; i < 2 * TENSORS_MAX; i++) {
        mq_map_file_release(&maps[i]);
    }
    mq_arena_release(&arena);
    mq_map_file_release(&file);
    return code;
}

static void print_json(const check_args *args, const check_report *r, const mq_buf *text,
                       mq_code code, const mq_error *err)
{
    mq_buf out;
    mq_buf_init(&out, 4 * TEXT_BYTES_MAX);
    bool is_ok = code == MQ_OK && r->problems == 0 && r->wrong == 0;
    mq_buf_add_str(&out, "{\"file\":");
    mq_buf_add_json(&out, mq_str(args->file));
    mq_buf_printf(&out, ",\"ok\":%s,\"nodes\":%u,\"parameters\":%zu,\"problems\":%zu,\"text\":",
                  is_ok ? "true" : "false", r->nodes, r->parameters, r->problems);
    mq_buf_add_json(&out, mq_buf_span(text));
    if (r->is_compared) {
        mq_buf_printf(&out, ",\"outputs\":%zu,\"wrong_elements\":%zu,\"largest_difference\":%.9g",
                      r->outputs, r->wrong, r->largest);
    }
    if (code != MQ_OK) {
        mq_buf_printf(&out, ",\"code\":\"%s\",\"error\":", mq_code_name(code));
        mq_buf_add_json(&out, mq_str(err->text));
    }
    mq_buf_add_str(&out, "}\n");
    (void)fwrite(out.data, 1, out.len, stdout);
    mq_buf_release(&out);
}

static void print_text(const check_args *args, const check_report *r, const mq_buf *text)
{
    printf("%s: %u nodes, %zu parameters\n", args->file, r->nodes, r->parameters);
    if (r->problems > 0) {
        printf("does not run here, %zu problem%s:\n%.*s\n", r->problems,
               r->problems == 1 ? "" : "s", (int)text->len,
               text->len == 0 ? "" : (const char *)text->data);
    } else {
        puts("all of it runs here");
    }
    if (r->is_compared) {
        printf("%zu output%s compared: largest difference %.3g, %zu elements outside the "
               "tolerance\n",
               r->outputs, r->outputs == 1 ? "" : "s", r->largest, r->wrong);
    }
}

int mq_local_check(int argc, char **argv)
{
    check_args args = {0};
    check_report report = {0};
    mq_error err = {0};
    mq_buf text;
    if (args_read(argc, argv, &args, &err) != MQ_OK) {
        fprintf(stderr, "maasq-worker: %s\n", err.text);
        return USAGE;
    }
    mq_buf_init(&text, TEXT_BYTES_MAX);
    mq_code code = check(&args, &report, &text, &err);
    if (args.is_json) {
        print_json(&args, &report, &text, code, &err);
    } else if (code == MQ_OK) {
        print_text(&args, &report, &text);
    }
    if (code != MQ_OK) {
        fprintf(stderr, "maasq-worker: %s: %s\n", mq_code_name(code), err.text);
    } else if (report.problems > 0) { /* failures are named on standard error, as everywhere */
        const char *end = memchr(text.data, '\n', text.len);
        fprintf(stderr, "maasq-worker: unsupported: %s: %.*s%s\n", args.file,
                (int)(end == NULL ? text.len : (size_t)(end - (const char *)text.data)),
                (const char *)text.data, report.problems > 1 ? " (and more)" : "");
    }
    mq_buf_release(&text);
    return code == MQ_OK && report.problems == 0 && report.wrong == 0 ? 0 : 1;
}

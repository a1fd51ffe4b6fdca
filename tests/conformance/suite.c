/* Runs one vector of the ONNX backend suite; see suite.h. A crash or a hang costs the child only.
 */
#include "tests/conformance/suite.h"

#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/file.h"
#include "worker/exec/compare.h"
#include "worker/exec/session.h"

enum { TENSORS_MAX = 64, SETS_MAX = 16 };
#define FILE_BYTES_MAX  ((size_t)2 << 30)
#define ARENA_BYTES_MAX ((size_t)2 << 30)

static mq_tolerance tolerance_of(const char *folder)
{
    mq_tolerance by = {1e-3, 1e-7};
    char path[SUITE_PATH];
    snprintf(path, sizeof path, "%.900s/data.json", folder);
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    const json_t *rtol = json_object_get(root, "rtol"), *atol = json_object_get(root, "atol");
    by.relative = json_is_number(rtol) ? json_number_value(rtol) : by.relative;
    by.absolute = json_is_number(atol) ? json_number_value(atol) : by.absolute;
    json_decref(root);
    return by;
}

/* MQ_E_NOT_FOUND when there is no such file. The tensor's bytes are aligned and in the arena. */
static mq_code read_tensor(const char *set, const char *kind, size_t i, mq_arena *arena,
                           mq_tensor *out, mq_error *err)
{
    char path[SUITE_PATH];
    mq_map_file map;
    mq_init init;
    snprintf(path, sizeof path, "%.900s/%s_%zu.pb", set, kind, i);
    mq_code code = mq_map_file_open(&map, path, FILE_BYTES_MAX, err);
    if (code != MQ_OK) {
        return code;
    }
    code = mq_tensor_proto_load(arena, map.bytes, &init, err);
    if (code == MQ_OK) {
        *out = init.tensor;
        out->data = mq_arena_copy(arena, mq_span_of(init.tensor.data, init.tensor.bytes));
    }
    for (size_t k = 0; code == MQ_OK && out->dtype == MQ_DT_STR && k < out->bytes / sizeof(mq_span);
         k++) {
        mq_span *text = (mq_span *)out->data + k;
        text->data = mq_arena_copy(arena, *text);
    }
    mq_map_file_release(&map);
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "%s_%zu.pb", kind, i);
}

static mq_code run_set(mq_session *session, const char *set, mq_tolerance by, mq_arena *arena,
                       mq_error *err)
{
    const mq_value_info *info;
    mq_tensor inputs[TENSORS_MAX] = {0}, want;
    const mq_tensor *outputs;
    size_t count = mq_session_inputs(session, &info);
    size_t output_count = mq_session_outputs(session, &info), compared = 0;
    mq_code code = count <= TENSORS_MAX ? MQ_OK : mq_fail(err, MQ_E_UNSUPPORTED, "inputs");
    for (size_t i = 0; i < count && code == MQ_OK; i++) {
        code = read_tensor(set, "input", i, arena, &inputs[i], err);
        if (code != MQ_OK) {
            return mq_fail(err, MQ_E_UNSUPPORTED, "input %zu cannot be read", i);
        }
    }
    if (code == MQ_OK) {
        code = mq_session_run(session, inputs, count, &outputs, err);
    }
    for (size_t i = 0; code == MQ_OK && i < output_count; i++) {
        code = read_tensor(set, "output", i, arena, &want, err);
        if (code == MQ_E_NOT_FOUND) {
            code = MQ_OK;
            continue;
        }
        compared++;
        if (code == MQ_OK && mq_tensor_compare(&outputs[i], &want, by, NULL, err) != MQ_OK) {
            code = mq_wrap(err, "output %zu", i);
        }
    }
    if (code == MQ_OK && compared == 0 && output_count > 0) {
        code = mq_fail(err, MQ_E_UNSUPPORTED, "no output_0.pb to compare with");
    }
    return code;
}

static mq_code run_sets(const mq_model *model, const char *folder, bool is_plain, mq_error *err)
{
    char set[SUITE_PATH];
    mq_session *session = NULL;
    mq_arena arena;
    mq_session_options options = {.no_fusion = is_plain};
    mq_arena_init(&arena, ARENA_BYTES_MAX);
    mq_code code = mq_session_new(&session, model, &options, err);
    for (int i = 0; code == MQ_OK && i < SETS_MAX; i++) {
        snprintf(set, sizeof set, "%.900s/test_data_set_%d", folder, i);
        if (access(set, R_OK) != 0) {
            code = i > 0 ? MQ_OK : mq_fail(err, MQ_E_UNSUPPORTED, "no test_data_set_0");
            break;
        }
        code = run_set(session, set, tolerance_of(folder), &arena, err);
    }
    mq_session_free(session);
    mq_arena_release(&arena);
    return code;
}

static void run_here(const char *folder, suite_result *out)
{
    char path[SUITE_PATH];
    mq_error err = {0};
    mq_map_file map;
    mq_model *model = NULL;
    snprintf(path, sizeof path, "%.900s/model.onnx", folder);
    mq_code code = mq_map_file_open(&map, path, FILE_BYTES_MAX, &err);
    if (code == MQ_OK) {
        code = mq_model_load(&model, map.bytes, 0, &err);
    }
    if (code == MQ_OK && model->graph.node_count == 1) {
        snprintf(out->op, sizeof out->op, "%s%.60s", model->graph.nodes[0].domain[0] ? "ml:" : "",
                 model->graph.nodes[0].op_type);
    }
    for (int plain = 0; plain < 2 && code == MQ_OK; plain++) {
        code = run_sets(model, folder, plain == 1, &err);
    }
    out->verdict = code == MQ_OK              ? SUITE_PASSED
                   : code == MQ_E_UNSUPPORTED ? SUITE_REFUSED
                                              : SUITE_FAILED;
    if (code != MQ_OK) {
        snprintf(out->reason, sizeof out->reason, "%s: %.360s", mq_code_name(code), err.text);
    }
    mq_model_free(model);
    mq_map_file_release(&map);
}

void suite_run(const char *folder, unsigned limit_s, suite_result *out)
{
    *out = (suite_result){.verdict = SUITE_FAILED, .op = "(several)", .reason = "no process"};
    int ends[2];
    if (pipe(ends) != 0) {
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        alarm(limit_s);
        run_here(folder, out);
        _exit(write(ends[1], out, sizeof *out) == (ssize_t)sizeof *out ? 0 : 1);
    }
    close(ends[1]);
    suite_result got;
    ssize_t n = pid > 0 ? read(ends[0], &got, sizeof got) : -1;
    close(ends[0]);
    int status = 0;
    if (pid > 0 && waitpid(pid, &status, 0) == pid && n == (ssize_t)sizeof got && status == 0) {
        *out = got;
    } else if (WIFSIGNALED(status)) {
        snprintf(out->reason, sizeof out->reason, "signal %d%s", WTERMSIG(status),
                 WTERMSIG(status) == SIGALRM ? " (took too long)" : "");
    } else {
        snprintf(out->reason, sizeof out->reason, "the process ended with status %d", status);
    }
}

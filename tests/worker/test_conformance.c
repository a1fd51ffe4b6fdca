/* Public ONNX test vectors: those in tests/data/onnx always, the suite and the models under
 * ${MAASQ_SHARED:-../shared}/data when they are there. A model either runs and agrees, or is
 * refused as unsupported; nothing else is allowed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/file.h"
#include "worker/exec/compare.h"
#include "worker/exec/session.h"

enum { TENSORS_MAX = 16, PATH_LEN = 1024 };

typedef struct tally {
    int agreed, refused;
} tally;

/* Absolute tolerance: the suite's for one operator. References of whole models come from a runtime
 * whose logistic function alone is off by up to 1e-7. */
static double slack = 1e-7;

static void compare(const char *folder, size_t output, const mq_tensor *got, const mq_tensor *want)
{
    mq_error err;
    if (mq_tensor_compare(got, want, (mq_tolerance){1e-3, slack}, NULL, &err) != MQ_OK) {
        fail_msg("%s: output %zu: %s", folder, output, err.text);
    }
}

/* A tensor from a file, its bytes copied so that they are aligned; false when there is no file. */
static bool read_tensor(const char *folder, const char *kind, size_t i, mq_arena *arena,
                        mq_tensor *out)
{
    char path[PATH_LEN];
    mq_map_file map;
    mq_init init;
    mq_error err;
    snprintf(path, sizeof path, "%s/test_data_set_0/%s_%zu.pb", folder, kind, i);
    if (access(path, R_OK) != 0) {
        return false;
    }
    assert_int_equal(mq_map_file_open(&map, path, (size_t)1 << 30, &err), MQ_OK);
    mq_code code = mq_tensor_proto_load(arena, map.bytes, &init, &err);
    if (code == MQ_OK) {
        *out = init.tensor;
        out->data = mq_arena_copy(arena, mq_span_of(init.tensor.data, init.tensor.bytes));
    }
    for (size_t k = 0; code == MQ_OK && out->dtype == MQ_DT_STR && k < out->bytes / sizeof(mq_span);
         k++) { /* the file goes away */
        mq_span *text = (mq_span *)out->data + k;
        text->data = mq_arena_copy(arena, *text);
    }
    mq_map_file_release(&map);
    return code == MQ_OK;
}

static mq_code run_session(mq_session *session, const char *folder, mq_arena *arena, mq_error *err)
{
    const mq_value_info *info;
    mq_tensor inputs[TENSORS_MAX], want;
    const mq_tensor *outputs;
    size_t count = mq_session_inputs(session, &info);
    assert_true(count <= TENSORS_MAX);
    for (size_t i = 0; i < count; i++) {
        if (!read_tensor(folder, "input", i, arena, &inputs[i])) {
            return mq_fail(err, MQ_E_UNSUPPORTED, "input %zu cannot be read", i);
        }
    }
    mq_code code = mq_session_run(session, inputs, count, &outputs, err);
    for (size_t i = 0; code == MQ_OK && i < mq_session_outputs(session, &info); i++) {
        if (read_tensor(folder, "output", i, arena, &want)) {
            compare(folder, i, &outputs[i], &want);
        }
    }
    return code;
}

static void run_folder(const char *folder, const char *model_path, tally *sum)
{
    mq_error err;
    mq_map_file map;
    mq_model *model = NULL;
    mq_session *session = NULL;
    mq_arena arena;
    mq_arena_init(&arena, (size_t)1 << 30);
    assert_int_equal(mq_map_file_open(&map, model_path, (size_t)1 << 30, &err), MQ_OK);
    mq_code code = mq_model_load(&model, map.bytes, 0, &err);
    for (int plain = 0; code == MQ_OK && plain < 2; plain++) { /* fused, and node by node */
        mq_session_options options = {.no_fusion = plain == 1};
        code = mq_session_new(&session, model, &options, &err);
        if (code == MQ_OK) {
            code = run_session(session, folder, &arena, &err);
        }
        mq_session_free(session);
        session = NULL;
    }
    if (code != MQ_OK && code != MQ_E_UNSUPPORTED) {
        fail_msg("%s: %s: %s", folder, mq_code_name(code), err.text);
    }
    sum->agreed += code == MQ_OK;
    sum->refused += code != MQ_OK;
    mq_model_free(model);
    mq_arena_release(&arena);
    mq_map_file_release(&map);
}

/* Every folder in `path` that holds a model (or whose model is models/NAME.onnx). */
static void run_all(const char *path, const char *models, tally *sum)
{
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        char folder[PATH_LEN], model[PATH_LEN];
        snprintf(folder, sizeof folder, "%.400s/%.200s", path, entry->d_name);
        if (models == NULL) {
            snprintf(model, sizeof model, "%.700s/model.onnx", folder);
        } else {
            snprintf(model, sizeof model, "%.400s/%.200s.onnx", models, entry->d_name);
        }
        if (entry->d_name[0] != '.' && access(model, R_OK) == 0) {
            run_folder(folder, model, sum);
        }
    }
    closedir(dir);
}

static void vectors_of_this_repository_agree(void **state)
{
    (void)state;
    tally sum = {0};
    run_all("tests/data/onnx", NULL, &sum);
    assert_true(sum.agreed >= 17);
    assert_int_equal(sum.refused, 0);
}

static const char *shared_data(char *path, const char *name)
{
    const char *root = getenv("MAASQ_SHARED");
    snprintf(path, PATH_LEN, "%s/data/%s", root == NULL ? "../shared" : root, name);
    return access(path, R_OK) == 0 ? path : NULL;
}

/* Runs a program and waits; true when it ended with status 0. */
static bool run_program(const char *const argv[])
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void the_public_suite_agrees_or_is_refused(void **state)
{
    (void)state;
    char archive[PATH_LEN], folder[PATH_LEN / 2], path[PATH_LEN];
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/maasq-conformance-XXXXXX", tmp == NULL ? "/tmp" : tmp);
    if (shared_data(archive, "onnx-conformance.tar.xz") == NULL) {
        print_message("no onnx-conformance.tar.xz under MAASQ_SHARED: left out\n");
        skip();
    }
    assert_non_null(mkdtemp(folder));
    bool is_unpacked = run_program((const char *[]){"tar", "xJf", archive, "-C", folder, NULL});
    tally sum = {0};
    static const char *const groups[] = {"node",  "simple",           "pytorch-converted",
                                         "light", "pytorch-operator", "ml"};
    for (size_t i = 0; is_unpacked && i < sizeof groups / sizeof groups[0]; i++) {
        snprintf(path, sizeof path, "%s/onnx-conformance/data/%s", folder, groups[i]);
        run_all(path, NULL, &sum);
    }
    run_program((const char *[]){"rm", "-rf", folder, NULL});
    if (!is_unpacked) {
        fail_msg("tar cannot unpack %s: is it whole, is xz-utils installed?", archive);
    }
    print_message("%d agree, %d refused as unsupported\n", sum.agreed, sum.refused);
    assert_true(sum.agreed >= 1006);
}

static void real_models_agree_or_are_refused(void **state)
{
    (void)state;
    char models[PATH_LEN], refs[PATH_LEN];
    tally sum = {0};
    if (shared_data(models, "models") == NULL) {
        print_message("no models under MAASQ_SHARED: left out\n");
        skip();
    }
    snprintf(refs, sizeof refs, "%.1000s/refs", models);
    slack = 1e-5;
    run_all(refs, models, &sum);
    slack = 1e-7;
    print_message("%d agree, %d refused as unsupported\n", sum.agreed, sum.refused);
    assert_true(sum.agreed >= 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_of_this_repository_agree),
        cmocka_unit_test(the_public_suite_agrees_or_is_refused),
        cmocka_unit_test(real_models_agree_or_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

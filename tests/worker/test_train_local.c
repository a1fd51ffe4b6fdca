/* The train kind inside this process, in a directory without a broker: leaks and errors show here
 * that a forked member would take with it. */
#include "tests/worker/train_fixture.h"

#include <sys/stat.h>

#include "worker/slot/local_host.h"

typedef struct local {
    char dir[64];
    mq_local_host *host;
} local;

static void publish_dataset(local *l)
{
    static uint8_t x[FX_ROWS * FX_FEATURES], y[FX_ROWS];
    char hash[MQ_SHA256_HEX], path[200], meta[600];
    fx_rows(FX_ROWS, x, y);
    mq_st_entry entries[2] = {
        {mq_str("x"), {MQ_DT_U8, {2, {FX_ROWS, FX_FEATURES}}, x, sizeof x}},
        {mq_str("y"), {MQ_DT_U8, {1, {FX_ROWS}}, y, sizeof y}},
    };
    mq_buf bytes;
    mq_buf_init(&bytes, 1 << 20);
    assert_int_equal(mq_safetensors_write(entries, 2, mq_str(""), &bytes, NULL), MQ_OK);
    assert_int_equal(mq_local_host_put(l->host, mq_buf_span(&bytes), hash, NULL), MQ_OK);
    mq_buf_release(&bytes);
    (void)snprintf(path, sizeof path, "%s/dataset/d", l->dir);
    assert_int_equal(mq_dir_make(path, NULL), MQ_OK);
    (void)snprintf(path, sizeof path, "%s/dataset/d/1.json", l->dir);
    (void)snprintf(meta, sizeof meta,
                   "{\"name\":\"d\",\"version\":1,\"meta\":{\"rows\":%d,\"features\":{\"x\":{"
                   "\"dtype\":\"uint8\",\"shape\":[%d]},\"y\":{\"dtype\":\"uint8\",\"classes\":%d}"
                   "},\"shards\":[{\"blob\":\"%s\",\"rows\":%d}]}}",
                   FX_ROWS, FX_FEATURES, FX_CLASSES, hash, FX_ROWS);
    assert_int_equal(mq_file_write(path, mq_str(meta), 0600, NULL), MQ_OK);
}

static int setup(void **state)
{
    static local l;
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(l.dir, sizeof l.dir, "%.40s/mq-train-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(l.dir) == NULL || mq_local_host_new(&l.host, l.dir, NULL) != MQ_OK) {
        return 1;
    }
    publish_dataset(&l);
    *state = &l;
    return 0;
}

static int teardown(void **state)
{
    local *l = *state;
    mq_local_host_free(l->host);
    return fx_remove(l->dir);
}

/* Cancels at the n-th question. */
static bool is_cancelled(void *arg)
{
    int *left = arg;
    return --*left == 0;
}

static mq_code train(local *l, const char *fields, const char *id, int *cancel_at, char *weights,
                     mq_error *err)
{
    char body[512];
    mq_buf result;
    (void)snprintf(body, sizeof body,
                   "{\"model\":\"m\",\"data\":\"d@1\",\"eval\":\"d\",\"batch\":64,\"epochs\":6,"
                   "\"init\":{\"arch\":\"mlp:20-24-16-4\"},"
                   "\"run\":{\"commit_ms\":10,\"reuse\":false}%s}",
                   fields);
    mq_local_job job = {.kind = "train",
                        .body = mq_str(body),
                        .id = id,
                        .is_cancelled = cancel_at != NULL ? is_cancelled : NULL,
                        .arg = cancel_at};
    mq_buf_init(&result, 1 << 20);
    mq_code code = mq_local_host_run(l->host, &job, &result, err);
    if (code == MQ_OK) {
        assert_true(mq_buf_add(&result, "", 1));
        fx_field((const char *)result.data, "weights_hash", weights, MQ_SHA256_HEX);
        assert_non_null(strstr((const char *)result.data, "\"accuracy\":0."));
    }
    mq_buf_release(&result);
    return code;
}

static void a_cancelled_run_goes_on_under_its_id_to_the_same_weights(void **state)
{
    static const char *const ids[] = {"01J00000000000000000000001", "01J00000000000000000000002"};
    char calm[MQ_SHA256_HEX], resumed[MQ_SHA256_HEX];
    mq_error err = {MQ_OK, ""};
    int cancel_at = 40;
    assert_int_equal(train(*state, "", ids[0], NULL, calm, &err), MQ_OK);
    assert_int_equal(train(*state, "", ids[1], &cancel_at, resumed, &err), MQ_E_CANCELLED);
    assert_int_equal(train(*state, "", ids[1], NULL, resumed, &err), MQ_OK);
    assert_string_equal(calm, resumed);
}

static void pipelines_and_errors_leave_nothing_behind(void **state)
{
    char weights[MQ_SHA256_HEX];
    mq_error err = {MQ_OK, ""};
    assert_int_equal(train(*state, ",\"mode\":\"pipeline:2\"", NULL, NULL, weights, &err), MQ_OK);
    assert_int_equal(train(*state, ",\"shards\":5", NULL, NULL, weights, &err), MQ_E_ARG);
    assert_int_equal(train(*state, ",\"lr\":100,\"weight_decay\":1", NULL, NULL, weights, &err),
                     MQ_E_NUMERIC);
    assert_non_null(strstr(err.text, "step "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cancelled_run_goes_on_under_its_id_to_the_same_weights),
        cmocka_unit_test(pipelines_and_errors_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

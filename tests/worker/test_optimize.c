/* The kind "optimize" on real images: versions with parents and reports, pruned weights that stay
 * zero through fine-tuning, int8 files a quarter of the size, and refusals. Skipped where the
 * package dataset-fashion-mnist is not installed. */
#include "tests/worker/rows.h"

#include "worker/onnx/model.h"

#define FOLDER "/usr/share/datasets/fashion-mnist/"

static bool is_ready;

static const char *uploaded(const char *path)
{
    static char ring[2][MQ_SHA256_HEX];
    static int at;
    mq_map_file file;
    char *hash = ring[at++ % 2];
    if (mq_map_file_open(&file, path, (size_t)64 << 20, NULL) != MQ_OK) {
        return NULL;
    }
    assert_int_equal(mq_local_host_put(local, file.bytes, hash, NULL), MQ_OK);
    mq_map_file_release(&file);
    return hash;
}

/* Trains a small model on the 10,000 test images. */
static int setup(void **state)
{
    char body[1024];
    if (local_setup(state) != 0) {
        return 1;
    }
    const char *x = uploaded(FOLDER "t10k-images-idx3-ubyte.gz");
    const char *y = uploaded(FOLDER "t10k-labels-idx1-ubyte.gz");
    if (x == NULL || y == NULL) {
        return 0;
    }
    snprintf(body, sizeof body,
             "{\"name\":\"fashion\",\"files\":[{\"name\":\"x\",\"blob\":\"%s\"}],"
             "\"labels\":{\"name\":\"y\",\"blob\":\"%s\"}}",
             x, y);
    json_decref(run_body("dataset.import", body));
    json_decref(run_body("train", "{\"model\":\"m\",\"data\":\"fashion\",\"eval\":\"fashion\","
                                  "\"init\":{\"arch\":\"mlp:784-64-10\"},\"epochs\":3,"
                                  "\"shards\":2}"));
    is_ready = true;
    return 0;
}

static void need_data(void)
{
    if (!is_ready) {
        skip();
    }
}

static void pruning_with_finetuning_keeps_zeros_and_wins_accuracy_back(void **state)
{
    (void)state;
    need_data();
    json_t *once = run_body("optimize", "{\"model\":\"m@1\",\"passes\":[\"prune:0.9\"],"
                                        "\"eval\":\"fashion\"}");
    json_t *tuned = run_body("optimize", "{\"model\":\"m@1\",\"passes\":[\"prune:0.9\"],"
                                         "\"data\":\"fashion\",\"finetune_epochs\":4,\"lr\":0.1}");
    json_t *again = run_body("optimize", "{\"model\":\"m@1\",\"passes\":[\"prune:0.9\"],"
                                         "\"data\":\"fashion\",\"finetune_epochs\":4,\"lr\":0.1}");
    double before = number_at(once, "meta.report.before.accuracy");
    double at_once = number_at(once, "meta.metrics.accuracy");
    double after = number_at(tuned, "meta.metrics.accuracy");
    assert_true(before > 0.75);
    assert_true(at_once < after);
    assert_true(after > before - 0.03);
    assert_string_equal(json_string_value(at_path(tuned, "meta.parent")), "m@1");
    assert_string_equal(json_string_value(at_path(tuned, "meta.pass")), "prune:0.9");
    assert_string_equal(json_string_value(at_path(tuned, "meta.kind")), "mlp:784-64-10");
    assert_string_equal(json_string_value(at_path(tuned, "meta.dataset")), "fashion@1");
    size_t weights = 784 * 64 + 64 * 10, kept = weights - weights * 9 / 10;
    assert_true(number_at(tuned, "meta.nonzero") <= (double)(kept + 74 + 2));
    assert_true(number_at(tuned, "meta.nonzero") >= (double)kept * 0.99);
    assert_int_equal(number_at(tuned, "meta.report.finetune.steps"), 4 * (10000 / 256));
    assert_int_equal(number_at(tuned, "meta.report.before.bytes"),
                     number_at(tuned, "meta.report.after.bytes"));
    assert_true(number_at(tuned, "meta.report.after.latency_us") > 0);
    assert_string_equal(json_string_value(at_path(tuned, "meta.weights_hash")),
                        json_string_value(at_path(again, "meta.weights_hash")));
    json_decref(once);
    json_decref(tuned);
    json_decref(again);
}

static void a_quantized_version_is_a_quarter_and_as_good(void **state)
{
    (void)state;
    need_data();
    json_t *r = run_body("optimize", "{\"model\":\"m@1\",\"passes\":[\"quantize:int8\"],"
                                     "\"eval\":\"fashion\"}");
    assert_true(number_at(r, "meta.bytes") < 0.30 * number_at(r, "meta.report.before.bytes"));
    assert_true(fabs(number_at(r, "meta.metrics.accuracy") -
                     number_at(r, "meta.report.before.accuracy")) < 0.01);
    json_decref(r);
}

static void passes_run_in_the_tables_order(void **state)
{
    (void)state;
    need_data();
    json_t *r = run_body("optimize", "{\"model\":\"m@1\",\"passes\":[\"quantize:int8\","
                                     "\"prune:0.5\",\"clip:max-norm=2\",\"fold\"]}");
    assert_string_equal(json_string_value(at_path(r, "meta.pass")),
                        "fold+clip:max-norm=2+prune:0.5+quantize:int8");
    assert_int_equal(json_array_size(at_path(r, "meta.report.passes")), 4);
    assert_string_equal(json_string_value(at_path(r, "meta.report.passes.2.pass")), "prune:0.5");
    assert_true(json_is_null(at_path(r, "meta.metrics.accuracy")));
    json_decref(r);
}

static void wrong_requests_are_refused(void **state)
{
    (void)state;
    need_data();
    static const struct {
        const char *body;
        mq_code code;
        const char *words;
    } cases[] = {
        {"{\"model\":\"m@1\"}", MQ_E_ARG, "passes: expected a list of 1..16"},
        {"{\"model\":\"m@1\",\"passes\":[\"prune:2\"]}", MQ_E_ARG, "value \"2\" is not a number"},
        {"{\"model\":\"m@1\",\"passes\":[\"prune:0.1\",\"prune:0.2\"]}", MQ_E_ARG,
         "each pass at most once"},
        {"{\"passes\":[\"fold\"]}", MQ_E_ARG, "model: is required"},
        {"{\"model\":\"m@99\",\"passes\":[\"fold\"]}", MQ_E_NOT_FOUND, "model m@99"},
        {"{\"model\":\"m@1\",\"passes\":[\"fold\"],\"data\":\"none\"}", MQ_E_NOT_FOUND,
         "dataset none"},
        {"{\"model\":\"m@1\",\"passes\":[\"fold\"],\"data\":\"fashion\",\"finetune_epochs\":1}",
         MQ_E_ARG, "finetune_epochs: needs the pass prune"},
        {"{\"model\":\"m@1\",\"passes\":[\"prune:0.1\"],\"finetune_epochs\":1}", MQ_E_ARG,
         "finetune_epochs: needs data"},
        {"{\"model\":\"m@1\",\"passes\":[\"prune:0.1\"],\"data\":\"fashion\","
         "\"finetune_epochs\":1,\"batch\":20000}",
         MQ_E_ARG, "has 10000 rows, fewer than batch 20000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        run_refused(&(mq_local_job){.kind = "optimize", .body = mq_str(cases[i].body)},
                    cases[i].code, cases[i].words);
    }
}

static bool at_once(void *arg)
{
    return ++*(int *)arg > 3;
}

static void a_cancelled_optimization_publishes_nothing(void **state)
{
    (void)state;
    need_data();
    int calls = 0;
    mq_buf text;
    uint64_t versions = 1;
    char name[32];
    mq_local_job job = {.kind = "optimize",
                        .body = mq_str("{\"model\":\"m@1\",\"passes\":[\"prune:0.1\"],"
                                       "\"data\":\"fashion\",\"finetune_epochs\":1000}"),
                        .is_cancelled = at_once,
                        .arg = &calls};
    mq_buf_init(&text, 1 << 20);
    do {
        snprintf(name, sizeof name, "m@%llu", (unsigned long long)++versions);
    } while (mq_local_host_query(local, "model", name, &text, NULL) == MQ_OK);
    run_refused(&job, MQ_E_CANCELLED, "cancelled");
    assert_int_equal(mq_local_host_query(local, "model", name, &text, NULL), MQ_E_NOT_FOUND);
    mq_buf_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pruning_with_finetuning_keeps_zeros_and_wins_accuracy_back),
        cmocka_unit_test(a_quantized_version_is_a_quarter_and_as_good),
        cmocka_unit_test(passes_run_in_the_tables_order),
        cmocka_unit_test(wrong_requests_are_refused),
        cmocka_unit_test(a_cancelled_optimization_publishes_nothing),
    };
    return cmocka_run_group_tests(tests, setup, local_teardown);
}

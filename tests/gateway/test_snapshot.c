/* What is drawn from the broker's answers: which version a name means, training curves that stay
 * bounded, and metrics that a Prometheus server can read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/gateway/curves.h"
#include "client/gateway/metrics.h"
#include "client/gateway/registry.h"

static json_t *parse(const char *text)
{
    json_error_t why;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (root == NULL) {
        fail_msg("%s: %s", text, why.text);
    }
    return root;
}

static const char models_text[] =
    "{\"models\":[{\"name\":\"a\",\"versions\":[{\"version\":1,\"meta\":{}},{\"version\":3,"
    "\"aliases\":[]}]},"
    "{\"name\":\"m\",\"versions\":[{\"version\":1,\"aliases\":[],\"meta\":{\"inputs\":[{\"name\":"
    "\"x\","
    "\"dtype\":\"float32\",\"shape\":[-1,784]}]}},{\"version\":2,\"aliases\":[\"old\",\"prod\"]},"
    "{\"version\":10,\"aliases\":[\"canary\"]}]}]}";

static json_int_t version_of(const json_t *answer, const char *name, const char *version)
{
    mq_model_view view;
    return mq_registry_find(answer, name, version, &view) ? view.version : 0;
}

static void a_name_means_prod_or_the_highest_version(void **state)
{
    (void)state;
    json_t *models = parse(models_text);
    assert_int_equal(version_of(models, "a", ""), 3);
    assert_int_equal(version_of(models, "m", ""), 2);
    assert_int_equal(version_of(models, "m", "10"), 10);
    assert_int_equal(version_of(models, "m", "canary"), 10);
    assert_int_equal(version_of(models, "m", "4"), 0);
    assert_int_equal(version_of(models, "m", "lost"), 0);
    assert_int_equal(version_of(models, "m", "nobody"), 0);
    assert_int_equal(version_of(models, "m", "1x"), 0);
    assert_int_equal(version_of(models, "z", ""), 0);
    assert_int_equal(version_of(NULL, "m", ""), 0);
    assert_int_equal(version_of(json_array_get(json_object_get(models, "models"), 1), "m", ""), 2);
    json_decref(models);
}

static void a_versions_inputs_are_read(void **state)
{
    (void)state;
    json_t *models = parse(models_text);
    mq_model_view view;
    const char *name;
    mq_dtype dtype;
    mq_shape shape;
    assert_true(mq_registry_find(models, "m", "1", &view));
    assert_true(mq_registry_tensor(&view, "inputs", 0, &name, &dtype, &shape));
    assert_string_equal(name, "x");
    assert_int_equal(dtype, MQ_DT_F32);
    assert_int_equal(shape.rank, 2);
    assert_int_equal(shape.dims[0], -1);
    assert_int_equal(shape.dims[1], 784);
    assert_false(mq_registry_tensor(&view, "inputs", 1, &name, &dtype, &shape));
    assert_false(mq_registry_tensor(&view, "outputs", 0, &name, &dtype, &shape));
    json_decref(models);
}

static void report(mq_curves *curves, const char *job, double step, double loss)
{
    char text[256];
    snprintf(text, sizeof text,
             "[{\"id\":\"%s\",\"state\":\"leased\",\"model\":\"m\",\"kind\":\"train\","
             "\"progress\":{\"step\":%.0f,\"loss\":%g}}]",
             job, step, loss);
    json_t *jobs = parse(text);
    mq_curves_add(curves, jobs);
    json_decref(jobs);
}

static void a_curve_keeps_its_shape_and_its_bounds(void **state)
{
    (void)state;
    static mq_curves curves;
    memset(&curves, 0, sizeof curves);
    for (int i = 1; i <= 10000; i++) {
        report(&curves, "01A", i, 1000.0 / i);
        report(&curves, "01A", i, 1000.0 / i); /* the same report again adds nothing */
    }
    json_t *json = mq_curves_json(&curves);
    assert_int_equal(json_array_size(json), 1);
    json_t *points = json_object_get(json_array_get(json, 0), "points");
    size_t count = json_array_size(points);
    assert_in_range(count, MQ_CURVE_POINTS_MAX / 2, MQ_CURVE_POINTS_MAX + 1);
    double before = 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *point = json_array_get(points, i);
        double step = json_number_value(json_array_get(point, 0));
        assert_true(step > before);
        assert_true(fabs(json_number_value(json_array_get(point, 1)) - 1000.0 / step) <
                    1e-3 * 1000 / step);
        assert_true(json_is_null(json_array_get(point, 2)));
        before = step;
    }
    assert_true(before == 10000);
    json_decref(json);
}

static void a_training_that_goes_back_to_its_checkpoint_redraws(void **state)
{
    (void)state;
    static mq_curves curves;
    memset(&curves, 0, sizeof curves);
    report(&curves, "01A", 10, 3);
    report(&curves, "01A", 20, 2);
    report(&curves, "01A", 30, 1);
    report(&curves, "01A", 15, 2.5);
    json_t *json = mq_curves_json(&curves);
    json_t *points = json_object_get(json_array_get(json, 0), "points");
    assert_int_equal(json_array_size(points), 2);
    assert_true(json_number_value(json_array_get(json_array_get(points, 1), 0)) == 15);
    json_decref(json);
}

static void a_curve_begins_with_what_the_training_remembers(void **state)
{
    (void)state;
    static mq_curves curves;
    memset(&curves, 0, sizeof curves);
    json_t *jobs =
        parse("[{\"id\":\"01A\",\"state\":\"leased\",\"model\":\"\",\"progress\":{\"model\":\"m\","
              "\"step\":30,\"loss\":1,\"curve\":[{\"step\":10,\"loss\":3,\"accuracy\":0.25},{},"
              "{\"step\":20,\"loss\":2}]}}]");
    mq_curves_add(&curves, jobs);
    mq_curves_add(&curves, jobs);
    json_decref(jobs);
    json_t *json = mq_curves_json(&curves);
    const json_t *curve = json_array_get(json, 0);
    const json_t *points = json_object_get(curve, "points");
    assert_string_equal(json_string_value(json_object_get(curve, "model")), "m");
    assert_int_equal(json_array_size(points), 3);
    assert_true(json_number_value(json_array_get(json_array_get(points, 0), 2)) == 0.25);
    assert_true(json_number_value(json_array_get(json_array_get(points, 2), 0)) == 30);
    json_decref(json);
}

static void a_version_keeps_the_curve_of_a_training_that_nobody_watched(void **state)
{
    (void)state;
    static mq_curves curves;
    memset(&curves, 0, sizeof curves);
    json_t *models =
        parse("[{\"name\":\"old\",\"versions\":[{\"version\":1,\"job\":\"01A\",\"at_ms\":5,"
              "\"meta\":{\"curve\":"
              "[{\"step\":1,\"loss\":1},{\"step\":2,\"loss\":1}]}}]},"
              "{\"name\":\"m\",\"versions\":[{\"version\":7,\"job\":\"01B\",\"at_ms\":9,\"meta\":{"
              "\"curve\":"
              "[{\"step\":1,\"loss\":3},{\"step\":2,\"loss\":2},{\"step\":3,\"loss\":1}]}},"
              "{\"version\":8,\"job\":\"01C\",\"at_ms\":11,\"meta\":null}]}]");
    report(&curves, "01B", 1, 3);
    mq_curves_recall(&curves, models); /* still running: not yet */
    json_t *json = mq_curves_json(&curves);
    assert_int_equal(json_array_size(json_object_get(json_array_get(json, 0), "points")), 1);
    json_decref(json);
    mq_curves_add(&curves, NULL);
    mq_curves_recall(&curves, models);
    mq_curves_recall(&curves, models);
    mq_curves_recall(&curves, NULL);
    json = mq_curves_json(&curves);
    assert_int_equal(json_array_size(json), 1);
    assert_int_equal(json_array_size(json_object_get(json_array_get(json, 0), "points")), 3);
    assert_string_equal(json_string_value(json_object_get(json_array_get(json, 0), "model")),
                        "m@7");
    assert_true(json_is_false(json_object_get(json_array_get(json, 0), "running")));
    json_decref(json);
    json_decref(models);
}

static void curves_of_ended_trainings_give_way(void **state)
{
    (void)state;
    static mq_curves curves;
    memset(&curves, 0, sizeof curves);
    for (int i = 0; i < 2 * MQ_CURVES_MAX; i++) {
        char job[8];
        snprintf(job, sizeof job, "01%c", 'A' + i);
        report(&curves, job, 1, 1);
    }
    json_t *json = mq_curves_json(&curves);
    assert_int_equal(json_array_size(json), MQ_CURVES_MAX);
    for (size_t i = 0; i < MQ_CURVES_MAX; i++) {
        const json_t *curve = json_array_get(json, i);
        char job[8];
        snprintf(job, sizeof job, "01%c", 'A' + 2 * MQ_CURVES_MAX - 1 - (int)i);
        assert_string_equal(json_string_value(json_object_get(curve, "job")), job);
        assert_int_equal(json_is_true(json_object_get(curve, "running")), i == 0);
    }
    json_decref(json);
    /* What is no training, or no sound JSON of one, is passed over. */
    json_t *jobs = parse("[7,{},{\"id\":\"x\",\"state\":\"leased\"},{\"id\":5,\"state\":\"leased\","
                         "\"progress\":{\"step\":1,\"loss\":1}},{\"id\":\"y\",\"state\":\"queued\","
                         "\"progress\":{\"step\":1,\"loss\":1}},{\"id\":\"z\",\"state\":\"leased\","
                         "\"progress\":{\"step\":\"1\",\"loss\":1}}]");
    mq_curves_add(&curves, jobs);
    mq_curves_add(&curves, NULL);
    json_decref(jobs);
    json = mq_curves_json(&curves);
    assert_int_equal(json_array_size(json), MQ_CURVES_MAX);
    json_decref(json);
}

/* ---- a reader of the exposition format, as strict as the documents ---- */

static size_t skip_name(const char *line, size_t i)
{
    size_t start = i;
    while (isalnum((unsigned char)line[i]) || line[i] == '_' || line[i] == ':') {
        i++;
    }
    assert_true(i > start && !isdigit((unsigned char)line[start]));
    return i;
}

/* Checks name{label="value",...} number and copies the name. */
static void check_sample(const char *line, char name[128])
{
    size_t i = skip_name(line, 0);
    snprintf(name, 128, "%.*s", (int)i, line);
    if (line[i] == '{') {
        do {
            i = skip_name(line, i + 1);
            assert_int_equal(line[i], '=');
            assert_int_equal(line[i + 1], '"');
            for (i += 2; line[i] != '"'; i++) {
                assert_int_not_equal(line[i], '\0');
                if (line[i] == '\\') {
                    i++;
                    assert_non_null(strchr("\\\"n", line[i]));
                }
            }
            i++;
        } while (line[i] == ',');
        assert_int_equal(line[i], '}');
        i++;
    }
    assert_int_equal(line[i], ' ');
    char *end = NULL;
    strtod(line + i + 1, &end);
    assert_true(end != line + i + 1 && *end == '\0');
}

/* Every sample belongs to the family announced last, no family comes twice, no sample comes twice.
 */
static void check_exposition(char *text)
{
    char family[128] = "";
    char seen[8192] = " ";
    char lines[16384] = "\n";
    char *save = NULL;
    assert_int_equal(text[strlen(text) - 1], '\n');
    for (char *line = strtok_r(text, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        char name[128];
        if (strncmp(line, "# HELP ", 7) == 0) {
            size_t end = skip_name(line, 7);
            snprintf(family, sizeof family, "%.*s", (int)(end - 7), line + 7);
            char key[140];
            snprintf(key, sizeof key, " %s ", family);
            assert_null(strstr(seen, key));
            size_t used = strlen(seen);
            snprintf(seen + used, sizeof seen - used, "%s ", family);
        } else if (strncmp(line, "# TYPE ", 7) == 0) {
            size_t end = skip_name(line, 7);
            assert_memory_equal(line + 7, family, end - 7);
            const char *type = line + end + 1;
            bool is_counter = strcmp(type, "counter") == 0;
            assert_true(is_counter || strcmp(type, "gauge") == 0);
            size_t len = strlen(family);
            assert_int_equal(is_counter, len > 6 && strcmp(family + len - 6, "_total") == 0);
        } else {
            check_sample(line, name);
            assert_string_equal(name, family);
            char key[512];
            snprintf(key, sizeof key, "\n%.*s ", (int)(strrchr(line, ' ') - line), line);
            assert_null(strstr(lines, key));
            size_t used = strlen(lines);
            snprintf(lines + used, sizeof lines - used, "%s\n", line);
        }
    }
}

static const char root_text[] =
    "{\"at_ms\":10000,\"status\":{\"jobs\":{\"queued\":3,\"leased\":2},\"counters\":{\"submitted\":"
    "12,"
    "\"succeeded\":5,\"dead\":1,\"retried\":2},\"store\":{\"connected\":true,\"commits\":9,"
    "\"commit_us\":1500,"
    "\"used_bytes\":1000,\"max_bytes\":2000}},"
    "\"workers\":{\"workers\":[{\"slots\":4,\"free\":1},{\"slots\":2,\"free\":2,\"is_draining\":"
    "true}]},"
    "\"queues\":{\"queues\":[{\"queue\":\"we\\\"ird\\\\\\nname\",\"kind\":\"echo\",\"model\":\"\","
    "\"waiting\":3,"
    "\"oldest_ms\":6000},{\"queue\":\"b\",\"kind\":\"infer\",\"model\":\"m@1\",\"waiting\":0,"
    "\"oldest_ms\":0}]},"
    "\"models\":{\"models\":[{\"name\":\"m\",\"versions\":[{\"version\":2,\"aliases\":[\"prod\","
    "\"canary\"]}]}]},"
    "\"curves\":[{\"job\":\"2\",\"model\":\"m\",\"running\":true,\"points\":[[1,9,null],[2,0.5,"
    "null]]},"
    "{\"job\":\"1\",\"model\":\"m\",\"running\":true,\"points\":[[7,7,null]]},"
    "{\"job\":\"0\",\"model\":\"n\",\"running\":false,\"points\":[[7,7,null]]}]}";

static void metrics_follow_the_exposition_format(void **state)
{
    (void)state;
    json_t *root = parse(root_text);
    mq_metrics_gateway own = {.is_ok = true, .streams = 2, .answers = {0, 0, 7, 0, 1, 0}};
    mq_buf out;
    mq_buf_init(&out, 1 << 20);
    mq_metrics_write(root, &own, &out);
    mq_buf_add(&out, "", 1);
    char *text = (char *)out.data;
    assert_non_null(strstr(text, "\nmaasq_up 1\n"));
    assert_non_null(strstr(text, "\nmaasq_jobs{state=\"queued\"} 3\n"));
    assert_non_null(strstr(text, "\nmaasq_store_commit_seconds 0.0015\n"));
    assert_non_null(strstr(text, "\nmaasq_jobs_finished_total{state=\"dead\"} 1\n"));
    assert_non_null(strstr(text, "\nmaasq_workers{state=\"draining\"} 1\n"));
    assert_non_null(strstr(text, "\nmaasq_slots{state=\"busy\"} 3\n"));
    assert_non_null(strstr(text, "\nmaasq_queue_oldest_seconds{queue=\"we\\\"ird\\\\\\nname\",kind="
                                 "\"echo\",model=\"\"} 6\n"));
    assert_non_null(
        strstr(text, "\nmaasq_model_info{model=\"m\",version=\"2\",alias=\"prod\"} 1\n"));
    assert_non_null(strstr(text, "\nmaasq_training_loss{model=\"m\"} 0.5\n"));
    assert_null(strstr(text, "model=\"n\"")); /* not running any more */
    check_exposition(text);
    mq_buf_release(&out);
    json_decref(root);
}

static void metrics_of_an_unreachable_system_are_still_sound(void **state)
{
    (void)state;
    mq_metrics_gateway own = {.is_ok = false};
    const char *const roots[] = {
        "{}", "{\"status\":null,\"workers\":null,\"queues\":[],\"curves\":[]}",
        "{\"status\":{\"jobs\":[],\"counters\":{\"dead\":\"x\"}},\"workers\":{\"workers\":{}}}"};
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) {
        json_t *root = parse(roots[i]);
        mq_buf out;
        mq_buf_init(&out, 1 << 20);
        mq_metrics_write(root, &own, &out);
        mq_buf_add(&out, "", 1);
        assert_non_null(strstr((char *)out.data, "\nmaasq_up 0\n"));
        check_exposition((char *)out.data);
        mq_buf_release(&out);
        json_decref(root);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_means_prod_or_the_highest_version),
        cmocka_unit_test(a_versions_inputs_are_read),
        cmocka_unit_test(a_curve_keeps_its_shape_and_its_bounds),
        cmocka_unit_test(a_training_that_goes_back_to_its_checkpoint_redraws),
        cmocka_unit_test(a_curve_begins_with_what_the_training_remembers),
        cmocka_unit_test(a_version_keeps_the_curve_of_a_training_that_nobody_watched),
        cmocka_unit_test(curves_of_ended_trainings_give_way),
        cmocka_unit_test(metrics_follow_the_exposition_format),
        cmocka_unit_test(metrics_of_an_unreachable_system_are_still_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

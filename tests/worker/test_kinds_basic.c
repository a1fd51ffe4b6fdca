/* The kinds without numerics, run in a directory instead of behind a broker, and that directory
 * itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker/kinds/kind.h"
#include "worker/slot/local_host.h"

static char dir[256];
static mq_local_host *host;

static int make_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/mq-kinds-XXXXXX", tmp == NULL ? "/tmp" : tmp);
    return mkdtemp(dir) == NULL || mq_local_host_new(&host, dir, NULL) != MQ_OK;
}

static int remove_dir(void **state)
{
    (void)state;
    char command[512];
    mq_local_host_free(host);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

static mq_code run(mq_local_job job, char *result, size_t size, mq_error *err)
{
    mq_buf out;
    mq_buf_init(&out, 1 << 20);
    mq_code code = mq_local_host_run(host, &job, &out, err);
    mq_span_copy(mq_buf_span(&out), result, size);
    mq_buf_release(&out);
    return code;
}

static void every_row_of_the_table_is_found_by_its_name(void **state)
{
    (void)state;
#define MQ_KIND(symbol, wire, gang, transient, run_ms, attempts, body_bytes)                       \
    assert_non_null(mq_kind_find(mq_str(wire)));                                                   \
    assert_string_equal(mq_kind_find(mq_str(wire))->name, wire);
#include "shared/job/kinds.def"
#undef MQ_KIND
    assert_null(mq_kind_find(mq_str("no-such")));
    assert_null(mq_kind_find(mq_str("")));
}

static void echo_gives_back_its_body(void **state)
{
    (void)state;
    char text[64];
    mq_error err = {0};
    assert_int_equal(
        run((mq_local_job){.kind = "echo", .body = mq_str("{\"a\":1}")}, text, sizeof text, &err),
        MQ_OK);
    assert_string_equal(text, "{\"a\":1}");
}

static void sleep_ends_by_itself_and_tells_how_long(void **state)
{
    (void)state;
    char text[64];
    assert_int_equal(
        run((mq_local_job){.kind = "sleep", .body = mq_str("{\"ms\":1}")}, text, sizeof text, NULL),
        MQ_OK);
    assert_non_null(strstr(text, "\"slept_ms\":"));
}

static void count_progress(void *arg, mq_span json)
{
    assert_non_null(memmem(json.data, json.len, "fraction", 8));
    ++*(int *)arg;
}

static bool is_told_twice(void *arg)
{
    return *(int *)arg >= 2;
}

static void a_sleeping_job_tells_progress_and_stops_when_cancelled(void **state)
{
    (void)state;
    int told = 0;
    char text[64];
    mq_error err = {0};
    mq_local_job job = {.kind = "sleep",
                        .body = mq_str("{\"ms\":3600000,\"progress\":true}"),
                        .progress = count_progress,
                        .is_cancelled = is_told_twice,
                        .arg = &told};
    assert_int_equal(run(job, text, sizeof text, &err), MQ_E_CANCELLED);
    assert_int_equal(told, 2);
    assert_string_equal(text, "");
}

static void refused(const char *kind, const char *body, mq_code code, const char *words)
{
    char text[64];
    mq_error err = {0};
    mq_code got = run((mq_local_job){.kind = kind, .body = mq_str(body)}, text, sizeof text, &err);
    if (got != code || strstr(err.text, words) == NULL) {
        fail_msg("%s %s\n gave %s: %s\n not %s: %s", kind, body, mq_code_name(got), err.text,
                 mq_code_name(code), words);
    }
}

static void a_wrong_body_is_refused_by_field_and_limit(void **state)
{
    (void)state;
    refused("sleep", "{", MQ_E_FORMAT, "body: byte");
    refused("sleep", "[]", MQ_E_FORMAT, "expected a JSON object");
    refused("sleep", "{}", MQ_E_ARG, "ms: is required, 0..3600000");
    refused("sleep", "{\"ms\":-1}", MQ_E_ARG, "ms: -1 is outside 0..3600000");
    refused("sleep", "{\"ms\":\"1\"}", MQ_E_ARG, "ms: expected a whole number");
    refused("sleep", "{\"ms\":1,\"ms\":2}", MQ_E_FORMAT, "duplicate");
    refused("sleep", "{\"ms\":1,\"progress\":1}", MQ_E_ARG, "progress: expected true or false");
    refused("sleep", "{\"msec\":1}", MQ_E_ARG, "\"msec\" is not known; known are ms, progress");
    refused("crash", "{\"signal\":1}", MQ_E_ARG, "signal: 1 is not one of");
    refused("crash", "{\"signal\":99}", MQ_E_ARG, "signal: 99 is outside 1..64");
    refused("none", "{}", MQ_E_NOT_FOUND, "job kind \"none\" is not known");
}

static void crash_dies_by_the_signal_it_was_given(void **state)
{
    (void)state;
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char text[64];
        run((mq_local_job){.kind = "crash", .body = mq_str("{\"signal\":9}")}, text, sizeof text,
            NULL);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void crash_survives_a_later_attempt(void **state)
{
    (void)state;
    char text[64];
    mq_local_job job = {
        .kind = "crash", .body = mq_str("{\"signal\":9,\"attempts\":2}"), .attempt = 3};
    assert_int_equal(run(job, text, sizeof text, NULL), MQ_OK);
    assert_string_equal(text, "{\"survived_attempt\":3}");
}

static void a_blob_is_stored_once_and_checked_when_opened(void **state)
{
    (void)state;
    char hash[MQ_SHA256_HEX], again[MQ_SHA256_HEX], path[512];
    mq_error err = {0};
    mq_map_file file;
    assert_int_equal(mq_local_host_put(host, mq_str("bytes"), hash, &err), MQ_OK);
    assert_int_equal(mq_local_host_put(host, mq_str("bytes"), again, &err), MQ_OK);
    assert_string_equal(hash, again);
    assert_int_equal(mq_local_host_blob(host, hash, &file, &err), MQ_OK);
    assert_true(mq_span_is(file.bytes, "bytes"));
    mq_map_file_release(&file);
    snprintf(path, sizeof path, "%s/blob/%.2s/%s", dir, hash, hash);
    assert_int_equal(mq_file_write(path, mq_str("other"), 0600, &err), MQ_OK);
    assert_int_equal(mq_local_host_blob(host, hash, &file, &err), MQ_E_CORRUPT);
    hash[0] = hash[0] == 'a' ? 'b' : 'a';
    assert_int_equal(mq_local_host_blob(host, hash, &file, &err), MQ_E_NOT_FOUND);
    assert_int_equal(mq_local_host_blob(host, "../../etc/passwd", &file, &err), MQ_E_ARG);
}

static void a_name_that_would_leave_the_directory_is_refused(void **state)
{
    (void)state;
    mq_buf json;
    mq_error err = {0};
    mq_buf_init(&json, 1000);
    assert_int_equal(mq_local_host_query(host, "model", "../x", &json, &err), MQ_E_ARG);
    assert_int_equal(mq_local_host_query(host, "model", "m@../../x", &json, &err), MQ_E_ARG);
    assert_int_equal(mq_local_host_query(host, "blob", "x", &json, &err), MQ_E_ARG);
    assert_int_equal(mq_local_host_query(host, "model", "m", &json, &err), MQ_E_NOT_FOUND);
    mq_buf_release(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_of_the_table_is_found_by_its_name),
        cmocka_unit_test(echo_gives_back_its_body),
        cmocka_unit_test(sleep_ends_by_itself_and_tells_how_long),
        cmocka_unit_test(a_sleeping_job_tells_progress_and_stops_when_cancelled),
        cmocka_unit_test(a_wrong_body_is_refused_by_field_and_limit),
        cmocka_unit_test(crash_dies_by_the_signal_it_was_given),
        cmocka_unit_test(crash_survives_a_later_attempt),
        cmocka_unit_test(a_blob_is_stored_once_and_checked_when_opened),
        cmocka_unit_test(a_name_that_would_leave_the_directory_is_refused),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}

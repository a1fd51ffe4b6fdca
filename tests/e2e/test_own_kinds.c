/* Users' own kinds from a shared object (worker/examples/text_kinds.c), through a real broker:
 * results, failures, crashes, cancelling, limits, progress, children, blobs; and what a worker
 * refuses at its start. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/own_kinds.h"

static sys s;
static maasq_client *client;
static char bin[OWN_PATH_MAX], library[OWN_PATH_MAX + 64];
static bool is_over;

static int start(void **state)
{
    (void)state;
    own_bin(bin);
    (void)snprintf(library, sizeof library, "%s/worker/examples/text_kinds.so", bin);
    sys_options options = {.workers = 1,
                           .slots = 2,
                           .lease_ms = 3000,
                           .beat_ms = 200,
                           .worker_args = {"--handlers", library, "--env", "TEXT_KINDS=1"}};
    sys_start(&s, &options);
    client = own_client(&s);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    maasq_client_free(&client);
    sys_stop(&s, !is_over);
    return 0;
}

static void a_handler_gives_result_progress_and_log(void **state)
{
    (void)state;
    char out[64], json[128] = "";
    maasq_info info;
    maasq_job *job = own_submit(client, "text.upper", "hello, W\xC3\xB6rld", NULL);
    assert_int_equal(own_end(job, &info, out, sizeof out), 0);
    assert_string_equal(info.state, "succeeded");
    assert_string_equal(out, "HELLO, W\xC3\xB6RLD");
    maasq_error err;
    char *text = NULL;
    assert_int_equal(
        maasq_query(client, "job", maasq_job_id(job), NULL, 0, OWN_WAIT_MS, &text, &err), 0);
    (void)snprintf(json, sizeof json, "\"kind\":\"text.upper\"");
    assert_non_null(strstr(text, json));
    maasq_free(text);
    maasq_job_release(&job);
}

static void failures_are_retried_or_final_as_the_handler_says(void **state)
{
    (void)state;
    char out[8];
    maasq_info info;
    maasq_job *job = own_submit(client, "text.end", "permanent", NULL);
    assert_int_equal(own_end(job, &info, out, sizeof out), MAASQ_E_FAILED);
    assert_string_equal(info.state, "dead");
    assert_string_equal(info.error, "input: must be retry, permanent, crash or once, 9 bytes came");
    maasq_job_release(&job);

    job = own_submit(client, "text.end", "retry", NULL); /* 2 attempts, says the handler */
    assert_int_equal(own_end(job, &info, out, sizeof out), MAASQ_E_INTERNAL);
    assert_string_equal(info.state, "dead");
    assert_int_equal(info.attempts, 2);
    assert_string_equal(info.error, "attempt 2: asked to fail");
    maasq_job_release(&job);

    job = own_submit(client, "text.end", "once", NULL);
    assert_int_equal(own_end(job, &info, out, sizeof out), 0);
    assert_string_equal(info.state, "succeeded");
    maasq_job_release(&job);
}

static void a_crash_costs_its_job_and_nothing_else(void **state)
{
    (void)state;
    char out[16];
    maasq_info info;
    maasq_spec spec = {.crashes_max = 2};
    maasq_job *job = own_submit(client, "text.end", "crash", &spec);
    maasq_job *other = own_submit(client, "text.upper", "beside", NULL);
    assert_int_not_equal(own_end(job, &info, out, sizeof out), 0);
    assert_string_equal(info.state, "dead");
    assert_string_equal(info.why, "poison");
    assert_non_null(strstr(info.error, "signal 6"));
    assert_int_equal(own_end(other, &info, out, sizeof out), 0);
    assert_string_equal(out, "BESIDE");
    maasq_job_release(&job);
    maasq_job_release(&other);
}

static void cancel_asks_first_and_kills_then(void **state)
{
    (void)state;
    char out[16];
    maasq_info info;
    static const struct {
        const char *body;
        int hard;
    } rows[] = {{"", 0}, {"deaf", 0}, {"", 1}, {"deaf", 1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        maasq_job *job = own_submit(client, "text.wait", rows[i].body, NULL);
        own_await_progress(job);
        maasq_cancel(job, rows[i].hard);
        assert_int_equal(own_end(job, &info, out, sizeof out), MAASQ_E_CANCELLED);
        assert_string_equal(info.state, "cancelled");
        maasq_job_release(&job);
    }
    for (int i = 0; i < 2; i++) { /* both slots are at work again */
        maasq_job *job = own_submit(client, "text.upper", "again", NULL);
        assert_int_equal(own_end(job, &info, out, sizeof out), 0);
        assert_string_equal(out, "AGAIN");
        maasq_job_release(&job);
    }
}

static void a_run_limit_ends_the_attempt(void **state)
{
    (void)state;
    char out[16];
    maasq_info info;
    maasq_spec spec = {.max_run_ms = 300, .attempts_max = 1};
    maasq_job *job = own_submit(client, "text.wait", "", &spec);
    assert_int_equal(own_end(job, &info, out, sizeof out), MAASQ_E_TIMEOUT);
    assert_string_equal(info.state, "dead");
    maasq_job_release(&job);
}

/* Jobs of the kind that have succeeded. */
static int succeeded(const char *filter)
{
    char *text = NULL;
    maasq_error err;
    int count = 0;
    assert_int_equal(maasq_query(client, "jobs", NULL, filter, 100, OWN_WAIT_MS, &text, &err), 0);
    for (char *at = text; (at = strstr(at, "\"state\":\"succeeded\"")) != NULL; at++) {
        count++;
    }
    maasq_free(text);
    return count;
}

static void children_are_made_with_the_result_and_run(void **state)
{
    (void)state;
    char out[64];
    maasq_info info;
    int64_t give_up_ms = mq_clock_mono_ms() + OWN_WAIT_MS;
    int before = succeeded("kind=text.upper");
    maasq_job *job = own_submit(client, "text.split", "one\ntwo\nthree", NULL);
    assert_int_equal(own_end(job, &info, out, sizeof out), 0);
    assert_string_equal(out, "{\"children\":3}");
    maasq_job_release(&job);
    while (succeeded("kind=text.upper") < before + 3) {
        assert_true(mq_clock_mono_ms() < give_up_ms);
        mq_clock_sleep_ms(20);
    }
    assert_int_equal(succeeded("kind=text.upper"), before + 3);
}

static void a_handler_stores_and_reads_blobs(void **state)
{
    (void)state;
    char hash[80];
    maasq_info info;
    maasq_error err;
    void *data = NULL;
    size_t bytes = 0;
    maasq_job *job = own_submit(client, "text.store", "kept for good", NULL);
    assert_int_equal(own_end(job, &info, hash, sizeof hash), 0);
    assert_int_equal(strlen(hash), 64);
    assert_int_equal(maasq_blob_get(client, hash, &data, &bytes, &err), 0);
    assert_int_equal(bytes, 13);
    assert_memory_equal(data, "kept for good", 13);
    maasq_free(data);
    maasq_job_release(&job);
}

static void the_supervisor_never_loads_the_file(void **state)
{
    (void)state;
    pid_t slots[SYS_SLOTS_MAX];
    char command[128];
    pid_t worker = sys_pid(&s, SYS_WORKER, 0);
    (void)snprintf(command, sizeof command, "grep -q text_kinds.so /proc/%d/maps", (int)worker);
    assert_int_not_equal(system(command), 0);
    assert_int_equal(sys_children(worker, slots), 2);
    (void)snprintf(command, sizeof command, "grep -q text_kinds.so /proc/%d/maps", (int)slots[0]);
    assert_int_equal(system(command), 0);
}

static void a_wrong_file_is_refused_at_the_start(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"other_abi", "was built for handler version 2, this worker has version 1"},
        {"no_table", "exports no maasq_handler"},
        {"taken_name", "is one of maasq's own"},
        {"not_there", "no such file"},
    };
    char path[OWN_PATH_MAX + 64];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        (void)snprintf(path, sizeof path, "%s/tests/handlers/%s.so", bin, rows[i][0]);
        own_refused(&s, "--handlers", path, NULL, NULL, rows[i][1]);
    }
    own_refused(&s, "--handlers", library, "--handlers", library, "is there already");
    own_refused(&s, "--handlers", library, "--env", "TEXT_KINDS_REFUSE=1",
                "its init refuses: TEXT_KINDS_REFUSE is set");
    own_refused(&s, "--handlers", "/dev/null", NULL, NULL, "/dev/null");
    is_over = true;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_handler_gives_result_progress_and_log),
        cmocka_unit_test(failures_are_retried_or_final_as_the_handler_says),
        cmocka_unit_test(a_crash_costs_its_job_and_nothing_else),
        cmocka_unit_test(cancel_asks_first_and_kills_then),
        cmocka_unit_test(a_run_limit_ends_the_attempt),
        cmocka_unit_test(children_are_made_with_the_result_and_run),
        cmocka_unit_test(a_handler_stores_and_reads_blobs),
        cmocka_unit_test(the_supervisor_never_loads_the_file),
        cmocka_unit_test(a_wrong_file_is_refused_at_the_start),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

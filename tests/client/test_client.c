/* The client library against a fake broker: futures, callbacks, waits, results. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/client/fixture.h"

static void echo_comes_back_and_calls_back_once(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    atomic_int calls = 0;
    maasq_job *job = submit(f, "echo", "hello", count_done, &calls);
    expect_body(f, job, "hello");
    wait_count(&calls, 1);
    maasq_info info = {.size = sizeof info};
    maasq_job_info(job, &info);
    assert_string_equal(info.state, "succeeded");
    assert_int_equal(info.attempts, 1);
    assert_int_equal(info.queue_us, 5);
    assert_int_equal(info.sends, 1);
    maasq_job_release(&job);
    assert_null(job);
    tear_down(f);
}

static void answers_sent_twice_call_back_once(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    atomic_int calls = 0;
    for (int i = 0; i < 100; i++) {
        maasq_job *job = submit(f, "twice", "x", count_done, &calls);
        maasq_job_release(&job); /* the callback still comes */
    }
    wait_count(&calls, 100);
    maasq_job *last = submit(f, "echo", "y", NULL, NULL);
    expect_body(f, last, "y"); /* every repeated answer has been read by now */
    assert_int_equal(atomic_load(&calls), 100);
    maasq_job_release(&last);
    tear_down(f);
}

static void lost_submit_is_sent_again(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    maasq_job *job = submit(f, "lossy", "again", NULL, NULL);
    expect_body(f, job, "again");
    maasq_info info = {.size = sizeof info};
    maasq_job_info(job, &info);
    assert_true(info.sends >= 2);
    maasq_job_release(&job);
    tear_down(f);
}

static void busy_broker_is_asked_again(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    maasq_job *job = submit(f, "busy", "later", NULL, NULL);
    expect_body(f, job, "later");
    maasq_job_release(&job);
    tear_down(f);
}

static void end_that_is_not_told_is_found_by_asking(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    maasq_job *job = submit(f, "slow", "found", NULL, NULL);
    expect_body(f, job, "found");
    assert_true(fake_read(&f->broker, &f->broker.gets) >= 1);
    maasq_job_release(&job);
    tear_down(f);
}

static void failures_carry_code_and_text(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    maasq_job *dead = submit(f, "dead", "", NULL, NULL);
    maasq_job *refused = submit(f, "refused", "", NULL, NULL);
    assert_int_equal(maasq_wait(dead, LONG_MS, &f->err), 0);
    assert_int_equal(maasq_result(dead, NULL, &f->err), MAASQ_E_NUMERIC);
    assert_string_equal(f->err.text, "the job said no");
    assert_string_equal(maasq_state(dead), "dead");
    assert_int_equal(maasq_wait(refused, LONG_MS, &f->err), 0);
    assert_int_equal(maasq_result(refused, NULL, &f->err), MAASQ_E_ARG);
    assert_string_equal(maasq_state(refused), "lost");
    maasq_job_release(&dead);
    maasq_job_release(&refused);
    tear_down(f);
}

static void many_jobs_travel_in_batches(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    assert_int_equal(maasq_connect(f->client, LONG_MS, &f->err), 0);
    enum { N = 1500 };
    maasq_spec *specs = calloc(N, sizeof *specs);
    maasq_job **jobs = calloc(N, sizeof *jobs);
    atomic_int calls = 0;
    for (int i = 0; i < N; i++) {
        specs[i] =
            (maasq_spec){.size = sizeof *specs, .kind = "echo", .body = "b", .body_bytes = 1};
    }
    assert_int_equal(maasq_submit_many(f->client, specs, N, jobs, count_done, &calls, &f->err), N);
    for (int i = 0; i < N; i++) {
        assert_int_equal(maasq_wait(jobs[i], LONG_MS, &f->err), 0);
        maasq_job_release(&jobs[i]);
    }
    wait_count(&calls, N);
    assert_true(fake_read(&f->broker, &f->broker.batch_max) > 1);
    assert_true(fake_read(&f->broker, &f->broker.batch_max) <= 512);
    free(specs);
    free(jobs);
    tear_down(f);
}

static void full_client_refuses_with_busy_and_no_callback(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    atomic_int calls = 0;
    maasq_spec spec = {.size = sizeof spec, .kind = "deaf"};
    int queued = 0;
    maasq_job *job = NULL;
    while ((job = maasq_submit(f->client, &spec, count_done, &calls, &f->err)) != NULL) {
        maasq_job_release(&job);
        queued++;
        assert_true(queued <= 2000);
    }
    assert_int_equal(queued, 2000);
    assert_int_equal(f->err.code, MAASQ_E_BUSY);
    assert_int_equal(maasq_client_free(&f->client), 0); /* ends them all here */
    assert_int_equal(atomic_load(&calls), 2000);
    tear_down(f);
}

static void bad_specs_name_the_field(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    static const char long_name[80] =
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    static const char *const bad_dep[] = {"nonsense"};
    const struct {
        maasq_spec spec;
        const char *word;
    } cases[] = {
        {{.size = sizeof(maasq_spec)}, "kind"},
        {{.size = 0, .kind = "echo"}, "spec.size"},
        {{.size = sizeof(maasq_spec), .kind = long_name}, "kind"},
        {{.size = sizeof(maasq_spec), .kind = "echo", .queue = long_name}, "queue"},
        {{.size = sizeof(maasq_spec), .kind = "echo", .id = "short"}, "id"},
        {{.size = sizeof(maasq_spec), .kind = "echo", .priority = 10}, "priority"},
        {{.size = sizeof(maasq_spec), .kind = "echo", .body_bytes = 3}, "body"},
        {{.size = sizeof(maasq_spec), .kind = "sleep", .body = long_name, .body_bytes = 5000},
         "at most 4096"},
        {{.size = sizeof(maasq_spec), .kind = "echo", .deps = bad_dep, .deps_count = 1}, "deps"},
        {{.size = sizeof(maasq_spec), .kind = "train", .seats_min = 3, .seats_max = 2}, "seats"},
        {{.size = sizeof(maasq_spec), .kind = "echo", .durability = 9}, "durability"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_null(maasq_submit(f->client, &cases[i].spec, NULL, NULL, &f->err));
        assert_true(f->err.code < 0);
        assert_non_null(strstr(f->err.text, cases[i].word));
    }
    tear_down(f);
}

static void waits_have_limits(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    maasq_job *job = submit(f, "deaf", "", NULL, NULL);
    assert_int_equal(maasq_wait(job, 20, &f->err), MAASQ_E_TIMEOUT);
    assert_non_null(strstr(f->err.text, "sending"));
    assert_int_equal(maasq_wait(job, -1, &f->err), MAASQ_E_ARG);
    assert_int_equal(maasq_result(job, NULL, &f->err), MAASQ_E_BUSY);
    assert_int_equal(maasq_wait_any(&job, 1, 20, NULL, &f->err), MAASQ_E_TIMEOUT);
    assert_int_equal(maasq_flush(f->client, 20, &f->err), MAASQ_E_TIMEOUT);
    maasq_job_release(&job);
    tear_down(f);
}

static void wait_any_finds_the_one_that_ended(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    maasq_job *jobs[3] = {submit(f, "open", "", NULL, NULL), NULL,
                          submit(f, "echo", "x", NULL, NULL)};
    size_t index = 9;
    assert_int_equal(maasq_wait_any(jobs, 3, LONG_MS, &index, &f->err), 0);
    assert_int_equal(index, 2);
    maasq_job_release(&jobs[0]);
    maasq_job_release(&jobs[2]);
    tear_down(f);
}

static void cancel_reaches_a_running_job(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    atomic_int calls = 0;
    maasq_job *job = submit(f, "open", "", count_done, &calls);
    assert_int_equal(maasq_flush(f->client, LONG_MS, &f->err), 0);
    maasq_cancel(job, 0);
    assert_int_equal(maasq_wait(job, LONG_MS, &f->err), 0);
    assert_string_equal(maasq_state(job), "cancelled");
    assert_int_equal(maasq_result(job, NULL, &f->err), MAASQ_E_CANCELLED);
    wait_count(&calls, 1);
    maasq_job_release(&job);
    tear_down(f);
}

static void note_event(maasq_job *job, const maasq_event *event, void *arg)
{
    assert_non_null(maasq_job_id(job));
    if (strcmp(event->progress, "{\"step\":3}") == 0 && strcmp(event->log, "a line") == 0) {
        atomic_fetch_add((atomic_int *)arg, 1);
    }
}

static void watched_job_tells_its_progress(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    atomic_int events = 0;
    maasq_job *job = submit(f, "open", "", NULL, NULL);
    assert_int_equal(maasq_on_progress(job, note_event, &events, &f->err), 0);
    int64_t end = mq_clock_mono_ms() + LONG_MS;
    while (atomic_load(&events) == 0 && mq_clock_mono_ms() < end) {
        (void)poll(NULL, 0, 1);
    }
    assert_true(atomic_load(&events) > 0);
    char text[64];
    assert_int_equal(maasq_progress(job, text, sizeof text), 10);
    assert_string_equal(text, "{\"step\":3}");
    assert_string_equal(maasq_state(job), "leased");
    maasq_job_release(&job);
    tear_down(f);
}

static void job_of_another_process_is_opened_by_id(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    maasq_job *job = submit(f, "echo", "kept", NULL, NULL);
    expect_body(f, job, "kept");
    maasq_job *again = maasq_open(f->client, maasq_job_id(job), NULL, NULL, &f->err);
    assert_non_null(again);
    expect_body(f, again, "kept");
    maasq_job_release(&again);
    again = maasq_open(f->client, "01J00000000000000000000000", NULL, NULL, &f->err);
    assert_int_equal(maasq_wait(again, LONG_MS, &f->err), 0);
    assert_int_equal(maasq_result(again, NULL, &f->err), MAASQ_E_NOT_FOUND);
    maasq_job_release(&again);
    assert_null(maasq_open(f->client, "not-an-id", NULL, NULL, &f->err));
    maasq_job_release(&job);
    tear_down(f);
}

static void queries_and_commands_get_answers(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    char *json = NULL;
    assert_int_equal(maasq_query(f->client, "status", NULL, NULL, 0, LONG_MS, &json, &f->err), 0);
    assert_string_equal(json, "{\"n\":1}");
    maasq_free(json);
    assert_int_equal(maasq_query(f->client, "model", "nobody", "", 0, LONG_MS, &json, &f->err),
                     MAASQ_E_NOT_FOUND);
    assert_string_equal(f->err.text, "no such thing");
    const char *args[] = {"default"};
    assert_int_equal(maasq_command(f->client, "pause", args, 1, LONG_MS, &f->err), 0);
    assert_true(fake_read(&f->broker, &f->broker.commands) >=
                2); /* sent again, its answer was lost */
    tear_down(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(echo_comes_back_and_calls_back_once),
        cmocka_unit_test(answers_sent_twice_call_back_once),
        cmocka_unit_test(lost_submit_is_sent_again),
        cmocka_unit_test(busy_broker_is_asked_again),
        cmocka_unit_test(end_that_is_not_told_is_found_by_asking),
        cmocka_unit_test(failures_carry_code_and_text),
        cmocka_unit_test(many_jobs_travel_in_batches),
        cmocka_unit_test(full_client_refuses_with_busy_and_no_callback),
        cmocka_unit_test(bad_specs_name_the_field),
        cmocka_unit_test(waits_have_limits),
        cmocka_unit_test(wait_any_finds_the_one_that_ended),
        cmocka_unit_test(cancel_reaches_a_running_job),
        cmocka_unit_test(watched_job_tells_its_progress),
        cmocka_unit_test(job_of_another_process_is_opened_by_id),
        cmocka_unit_test(queries_and_commands_get_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

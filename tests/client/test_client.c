/* The client library against a fake broker: futures, callbacks, waits, restarts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <stdatomic.h>

#include "client/include/maasq.h"
#include "tests/client/fake_broker.h"

enum { LONG_MS = 60000 };

typedef struct fixture {
    char dir[128];
    fake_broker broker;
    maasq_client *client;
    maasq_error err;
} fixture;

static fixture *set_up(int own_loop)
{
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(f->dir, sizeof f->dir, "%s/maasq-client-XXXXXX", tmp == NULL ? "/tmp" : tmp);
    assert_non_null(mkdtemp(f->dir));
    fake_start(&f->broker, f->dir, "front");
    maasq_options options = {.size = sizeof options,
                             .brokers = f->broker.url,
                             .name = "test",
                             .jobs_max = 2000,
                             .own_loop = own_loop};
    f->client = maasq_client_new(&options, &f->err);
    assert_non_null(f->client);
    return f;
}

static void remove_dir(const char *dir)
{
    static const char *const names[] = {"front", "other"};
    for (size_t i = 0; i < 2; i++) {
        char path[256];
        (void)snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(dir);
}

static void tear_down(fixture *f)
{
    assert_int_equal(maasq_client_free(&f->client), 0);
    fake_stop(&f->broker);
    remove_dir(f->dir);
    free(f);
}

static maasq_job *submit(fixture *f, const char *kind, const char *body, maasq_done_fn *done,
                         void *arg)
{
    maasq_spec spec = {.size = sizeof spec, .kind = kind, .body = body, .body_bytes = strlen(body)};
    maasq_job *job = maasq_submit(f->client, &spec, done, arg, &f->err);
    assert_non_null(job);
    return job;
}

static void count_done(maasq_job *job, void *arg)
{
    assert_true(maasq_is_done(job));
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void wait_count(const atomic_int *counter, int wanted)
{
    int64_t end = mq_clock_mono_ms() + LONG_MS;
    while (atomic_load(counter) < wanted && mq_clock_mono_ms() < end) {
        (void)poll(NULL, 0, 1);
    }
    assert_int_equal(atomic_load(counter), wanted);
}

static void expect_body(fixture *f, maasq_job *job, const char *body)
{
    maasq_view view;
    assert_int_equal(maasq_wait(job, LONG_MS, &f->err), 0);
    assert_int_equal(maasq_result(job, &view, &f->err), 0);
    assert_int_equal(view.bytes, strlen(body));
    assert_memory_equal(view.data, body, view.bytes);
}

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

static void no_broker_is_said_with_its_address(void **state)
{
    (void)state;
    maasq_error err;
    maasq_options options = {.size = sizeof options, .brokers = "ipc:///nowhere/at-all"};
    maasq_client *client = maasq_client_new(&options, &err);
    assert_non_null(client);
    assert_int_equal(maasq_connect(client, 50, &err), MAASQ_E_TIMEOUT);
    assert_non_null(strstr(err.text, "ipc:///nowhere/at-all"));
    char *json = NULL;
    assert_int_equal(maasq_query(client, "status", NULL, NULL, 0, 50, &json, &err),
                     MAASQ_E_TIMEOUT);
    assert_null(json);
    maasq_spec spec = {.size = sizeof spec, .kind = "infer", .ttl_ms = 50};
    maasq_job *job = maasq_submit(client, &spec, NULL, NULL, &err);
    assert_non_null(job);
    assert_int_equal(maasq_wait(job, LONG_MS, &err), 0); /* transient: its time is over */
    assert_int_equal(maasq_result(job, NULL, &err), MAASQ_E_TIMEOUT);
    assert_int_equal(maasq_client_free(&client), 0);
    assert_string_equal(maasq_state(job), "lost"); /* readable after its client */
    maasq_job_release(&job);
    options.brokers = "http://localhost";
    assert_null(maasq_client_new(&options, &err));
    assert_non_null(strstr(err.text, "http://localhost"));
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

static void restarted_broker_gets_open_jobs_again(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    atomic_int calls = 0;
    maasq_job *job = submit(f, "open", "kept", count_done, &calls);
    assert_int_equal(maasq_flush(f->client, LONG_MS, &f->err), 0);
    fake_stop(&f->broker); /* and all its memory */
    fake_start(&f->broker, f->dir, "front");
    int64_t end = mq_clock_mono_ms() + LONG_MS;
    while (fake_read(&f->broker, &f->broker.submits) == 0 && mq_clock_mono_ms() < end) {
        (void)poll(NULL, 0, 5);
    }
    assert_true(fake_read(&f->broker, &f->broker.submits) >= 1);
    maasq_cancel(job, 1);
    assert_int_equal(maasq_wait(job, LONG_MS, &f->err), 0);
    wait_count(&calls, 1);
    maasq_job_release(&job);
    tear_down(f);
}

static void silent_broker_is_left_for_the_next_one(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    fake_broker *other = calloc(1, sizeof *other);
    fake_start(other, f->dir, "other");
    char list[600];
    (void)snprintf(list, sizeof list, "%s,%s", f->broker.url, other->url);
    maasq_options options = {.size = sizeof options, .brokers = list};
    pthread_mutex_lock(&f->broker.lock);
    f->broker.is_mute = true;
    pthread_mutex_unlock(&f->broker.lock);
    for (int i = 0; i < 4; i++) { /* the first broker is drawn by chance */
        maasq_client *client = maasq_client_new(&options, &f->err);
        assert_non_null(client);
        assert_int_equal(maasq_connect(client, LONG_MS, &f->err), 0);
        maasq_spec spec = {.size = sizeof spec, .kind = "echo"};
        maasq_job *job = maasq_submit(client, &spec, NULL, NULL, &f->err);
        assert_int_equal(maasq_wait(job, LONG_MS, &f->err), 0);
        maasq_job_release(&job);
        assert_int_equal(maasq_client_free(&client), 0);
    }
    fake_stop(other);
    free(other);
    tear_down(f);
}

static void moved_goes_to_the_owner(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    fake_broker *other = calloc(1, sizeof *other);
    fake_start(other, f->dir, "other");
    pthread_mutex_lock(&f->broker.lock);
    f->broker.moved_from = 1;
    memcpy(f->broker.moved_to, other->url, sizeof other->url);
    pthread_mutex_unlock(&f->broker.lock);
    maasq_job *job = submit(f, "echo", "there", NULL, NULL);
    expect_body(f, job, "there");
    assert_int_equal(fake_read(other, &other->submits), 1);
    maasq_job_release(&job);
    fake_stop(other);
    free(other);
    tear_down(f);
}

static void misuse(maasq_job *job, void *arg)
{
    fixture *f = arg;
    maasq_error err;
    maasq_client *client = f->client;
    char *json = NULL;
    maasq_spec spec = {.size = sizeof spec, .kind = "deaf"};
    maasq_job *other = maasq_submit(client, &spec, NULL, NULL, &err); /* this is allowed */
    assert_non_null(other);
    assert_int_equal(maasq_wait(other, 10, &err), MAASQ_E_ARG);
    assert_int_equal(maasq_query(client, "status", NULL, NULL, 0, 10, &json, &err), MAASQ_E_ARG);
    assert_int_equal(maasq_client_free(&client), MAASQ_E_ARG);
    maasq_job_release(&other);
    maasq_job_release(&job); /* legal here */
}

static void blocking_in_a_callback_is_refused(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    (void)submit(f, "echo", "", misuse, f);
    maasq_job *last = submit(f, "echo", "", NULL, NULL);
    assert_int_equal(maasq_wait(last, LONG_MS, &f->err), 0);
    maasq_job_release(&last);
    tear_down(f);
}

static void own_loop_runs_callbacks_in_dispatch(void **state)
{
    (void)state;
    fixture *f = set_up(1);
    atomic_int calls = 0;
    for (int i = 0; i < 20; i++) {
        maasq_job *job = submit(f, "echo", "z", count_done, &calls);
        maasq_job_release(&job);
    }
    int64_t end = mq_clock_mono_ms() + LONG_MS;
    struct pollfd p = {maasq_fd(f->client), POLLIN, 0};
    int ended = 0;
    while (ended < 20 && mq_clock_mono_ms() < end) {
        assert_true(poll(&p, 1, 1000) >= 0);
        int n = maasq_dispatch(f->client, &f->err);
        assert_true(n >= 0);
        ended += n;
        assert_int_equal(atomic_load(&calls), ended);
    }
    assert_int_equal(ended, 20);
    maasq_job *job = submit(f, "echo", "w", NULL, NULL);
    expect_body(f, job, "w"); /* waiting dispatches by itself */
    maasq_job_release(&job);
    tear_down(f);
}

static void threaded_client_has_no_loop_to_offer(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    assert_int_equal(maasq_fd(f->client), -1);
    assert_int_equal(maasq_dispatch(f->client, &f->err), MAASQ_E_ARG);
    tear_down(f);
}

static void tensors_go_in_and_come_out(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    const float row[2] = {1.5F, -2.0F};
    maasq_tensor in = {.name = "x",
                       .dtype = MAASQ_F32,
                       .rank = 2,
                       .shape = {1, 2},
                       .data = row,
                       .bytes = sizeof row};
    maasq_job *job = maasq_infer(f->client, "m@1", &in, 1, LONG_MS, NULL, NULL, &f->err);
    assert_non_null(job);
    assert_int_equal(maasq_wait(job, LONG_MS, &f->err), 0);
    maasq_tensor out;
    size_t count = 0;
    assert_int_equal(maasq_outputs(job, &out, 1, &count, &f->err), 0);
    assert_int_equal(count, 1);
    assert_string_equal(out.name, "x");
    assert_int_equal(out.rank, 2);
    assert_int_equal(out.shape[1], 2);
    assert_memory_equal(out.data, row, sizeof row);
    maasq_job_release(&job);
    in.bytes = 7;
    assert_null(maasq_infer(f->client, "m", &in, 1, LONG_MS, NULL, NULL, &f->err));
    assert_non_null(strstr(f->err.text, "inputs[0] 'x'"));
    assert_null(maasq_infer(f->client, "", &in, 1, LONG_MS, NULL, NULL, &f->err));
    tear_down(f);
}

static void blobs_go_to_the_store_that_the_broker_names(void **state)
{
    (void)state;
    char dir[64] = "/tmp/maasq-blobs-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char url[80];
    (void)snprintf(url, sizeof url, "dir:%s", dir);
    setenv("FAKE_BLOBS", url, 1);
    fixture *f = set_up(0);
    char hash[MAASQ_HASH_SIZE];
    assert_int_equal(maasq_blob_put(f->client, "blob bytes", 10, hash, &f->err), 0);
    void *data = NULL;
    size_t bytes = 0;
    assert_int_equal(maasq_blob_get(f->client, hash, &data, &bytes, &f->err), 0);
    assert_int_equal(bytes, 10);
    assert_memory_equal(data, "blob bytes", 10);
    maasq_free(data);
    char path[128];
    (void)snprintf(path, sizeof path, "%s/copy", dir);
    assert_int_equal(maasq_blob_get_file(f->client, hash, path, &f->err), 0);
    char again[MAASQ_HASH_SIZE];
    assert_int_equal(maasq_blob_put_file(f->client, path, again, &f->err), 0);
    assert_string_equal(hash, again);
    memset(hash, 'a', 64);
    assert_int_equal(maasq_blob_get(f->client, hash, &data, &bytes, &f->err), MAASQ_E_NOT_FOUND);
    assert_int_equal(maasq_blob_get(f->client, "xyz", &data, &bytes, &f->err), MAASQ_E_ARG);
    tear_down(f);
    unsetenv("FAKE_BLOBS");
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
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
        cmocka_unit_test(no_broker_is_said_with_its_address),
        cmocka_unit_test(wait_any_finds_the_one_that_ended),
        cmocka_unit_test(cancel_reaches_a_running_job),
        cmocka_unit_test(watched_job_tells_its_progress),
        cmocka_unit_test(job_of_another_process_is_opened_by_id),
        cmocka_unit_test(queries_and_commands_get_answers),
        cmocka_unit_test(restarted_broker_gets_open_jobs_again),
        cmocka_unit_test(silent_broker_is_left_for_the_next_one),
        cmocka_unit_test(moved_goes_to_the_owner),
        cmocka_unit_test(blocking_in_a_callback_is_refused),
        cmocka_unit_test(own_loop_runs_callbacks_in_dispatch),
        cmocka_unit_test(threaded_client_has_no_loop_to_offer),
        cmocka_unit_test(tensors_go_in_and_come_out),
        cmocka_unit_test(blobs_go_to_the_store_that_the_broker_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

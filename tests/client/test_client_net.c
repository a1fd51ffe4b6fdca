/* The client library against fake brokers that vanish, are silent or moved; own event loops,
 * tensors, blobs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/client/fixture.h"

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

/* What calls answered inside a callback; judged by the test's own thread. */
typedef struct misuses {
    fixture *f;
    bool is_submitted;
    int wait, query, free;
    atomic_int calls;
} misuses;

static void misuse(maasq_job *job, void *arg)
{
    misuses *m = arg;
    maasq_error err;
    maasq_client *client = m->f->client;
    char *json = NULL;
    maasq_spec spec = {.size = sizeof spec, .kind = "deaf"};
    maasq_job *other = maasq_submit(client, &spec, NULL, NULL, &err); /* this is allowed */
    m->is_submitted = other != NULL;
    m->wait = other == NULL ? 0 : maasq_wait(other, 10, &err);
    m->query = maasq_query(client, "status", NULL, NULL, 0, 10, &json, &err);
    m->free = maasq_client_free(&client);
    maasq_job_release(&other);
    maasq_job_release(&job); /* legal here */
    atomic_fetch_add(&m->calls, 1);
}

static void blocking_in_a_callback_is_refused(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    misuses m = {.f = f};
    (void)submit(f, "echo", "", misuse, &m);
    wait_count(&m.calls, 1);
    assert_true(m.is_submitted);
    assert_int_equal(m.wait, MAASQ_E_ARG);
    assert_int_equal(m.query, MAASQ_E_ARG);
    assert_int_equal(m.free, MAASQ_E_ARG);
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

static void *wait_long(void *arg)
{
    maasq_error err;
    return (void *)(intptr_t)maasq_wait(arg, LONG_MS, &err);
}

enum { WAITERS = 4, EACH = 100 };

typedef struct waiters {
    fixture *f;
    atomic_int waited, called, called_here;
    pthread_t threads[WAITERS];
} waiters;

static _Thread_local bool is_waiter;

/* A callback never runs on a thread that waits. */
static void note_thread(maasq_job *job, void *arg)
{
    (void)job;
    waiters *w = arg;
    atomic_fetch_add(&w->called_here, is_waiter ? 1 : 0);
    atomic_fetch_add(&w->called, 1);
}

static void *wait_for_each(void *arg)
{
    waiters *w = arg;
    is_waiter = true;
    maasq_error err;
    maasq_spec spec = {.size = sizeof spec, .kind = "echo", .body = "x", .body_bytes = 1};
    for (int i = 0; i < EACH; i++) {
        bool has_callback = i % 10 == 9;
        maasq_job *job =
            maasq_submit(w->f->client, &spec, has_callback ? note_thread : NULL, w, &err);
        if (job != NULL && maasq_wait(job, LONG_MS, &err) == MAASQ_OK &&
            maasq_result(job, NULL, &err) == MAASQ_OK) {
            atomic_fetch_add(&w->waited, 1);
        }
        maasq_job_release(&job);
    }
    return NULL;
}

/* Whoever waits takes the turns; with callbacks about, the client's own thread does. */
static void threads_that_wait_take_turns(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    waiters w = {.f = f};
    for (int i = 0; i < WAITERS; i++) {
        assert_int_equal(pthread_create(&w.threads[i], NULL, wait_for_each, &w), 0);
    }
    for (int i = 0; i < WAITERS; i++) {
        assert_int_equal(pthread_join(w.threads[i], NULL), 0);
    }
    assert_int_equal(w.waited, WAITERS * EACH);
    wait_count(&w.called, WAITERS * EACH / 10);
    assert_int_equal(w.called_here, 0);
    tear_down(f);
}

static void job_that_nobody_waits_for_ends_too(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    maasq_job *job = submit(f, "echo", "a", NULL, NULL);
    expect_body(f, job, "a"); /* led by this thread, so the client's own is parked now */
    maasq_job_release(&job);
    job = submit(f, "echo", "b", NULL, NULL);
    int64_t end_ms = mq_clock_mono_ms() + LONG_MS;
    while (maasq_is_done(job) == 0 && mq_clock_mono_ms() < end_ms) {
        mq_clock_sleep_ms(1);
    }
    assert_true(maasq_is_done(job) != 0);
    maasq_job_release(&job);
    tear_down(f);
}

static void freeing_ends_the_wait_of_another_thread(void **state)
{
    (void)state;
    fixture *f = set_up(0);
    maasq_job *job = submit(f, "deaf", "", NULL, NULL);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wait_long, job), 0);
    assert_int_equal(maasq_client_free(&f->client), MAASQ_OK);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_string_equal(maasq_state(job), "lost");
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
    char dir[64];
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(dir, sizeof dir, "%.40s/maasq-blobs-XXXXXX", tmp == NULL ? "/tmp" : tmp);
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
        cmocka_unit_test(no_broker_is_said_with_its_address),
        cmocka_unit_test(restarted_broker_gets_open_jobs_again),
        cmocka_unit_test(silent_broker_is_left_for_the_next_one),
        cmocka_unit_test(moved_goes_to_the_owner),
        cmocka_unit_test(blocking_in_a_callback_is_refused),
        cmocka_unit_test(own_loop_runs_callbacks_in_dispatch),
        cmocka_unit_test(threads_that_wait_take_turns),
        cmocka_unit_test(job_that_nobody_waits_for_ends_too),
        cmocka_unit_test(freeing_ends_the_wait_of_another_thread),
        cmocka_unit_test(threaded_client_has_no_loop_to_offer),
        cmocka_unit_test(tensors_go_in_and_come_out),
        cmocka_unit_test(blobs_go_to_the_store_that_the_broker_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A client connected to a fake broker, for tests of the library. Include after cmocka.h. */
#ifndef MQ_TESTS_CLIENT_FIXTURE_H
#define MQ_TESTS_CLIENT_FIXTURE_H

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

static inline fixture *set_up(int own_loop)
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

static inline void remove_dir(const char *dir)
{
    static const char *const names[] = {"front", "other"};
    for (size_t i = 0; i < 2; i++) {
        char path[256];
        (void)snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(dir);
}

static inline void tear_down(fixture *f)
{
    assert_int_equal(maasq_client_free(&f->client), 0);
    fake_stop(&f->broker);
    remove_dir(f->dir);
    free(f);
}

static inline maasq_job *submit(fixture *f, const char *kind, const char *body, maasq_done_fn *done,
                                void *arg)
{
    maasq_spec spec = {.size = sizeof spec, .kind = kind, .body = body, .body_bytes = strlen(body)};
    maasq_job *job = maasq_submit(f->client, &spec, done, arg, &f->err);
    assert_non_null(job);
    return job;
}

static inline void count_done(maasq_job *job, void *arg)
{
    assert_true(maasq_is_done(job));
    atomic_fetch_add((atomic_int *)arg, 1);
}

static inline void wait_count(const atomic_int *counter, int wanted)
{
    int64_t end = mq_clock_mono_ms() + LONG_MS;
    while (atomic_load(counter) < wanted && mq_clock_mono_ms() < end) {
        (void)poll(NULL, 0, 1);
    }
    assert_int_equal(atomic_load(counter), wanted);
}

static inline void expect_body(fixture *f, maasq_job *job, const char *body)
{
    maasq_view view;
    assert_int_equal(maasq_wait(job, LONG_MS, &f->err), 0);
    assert_int_equal(maasq_result(job, &view, &f->err), 0);
    assert_int_equal(view.bytes, strlen(body));
    assert_memory_equal(view.data, body, view.bytes);
}

#endif

/* Threads that wait and callbacks mixed: whoever takes the turns, callbacks come on the client's
 * own thread only, one after another, and once for each job. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>

#include "tests/client/fixture.h"

enum { THREADS = 6, JOBS = 120 };

typedef struct mixed {
    fixture *f;
    pthread_mutex_t lock; /* first, has_first */
    pthread_t first;      /* that ran a callback */
    bool has_first;
    atomic_int inside;          /* callbacks that run at this moment */
    atomic_int calls, overlaps; /* in all; begun while another one ran */
    atomic_int strays;          /* on another thread than the first one, or on one of ours */
    atomic_int waited, wrong;
    atomic_int each[THREADS * JOBS];
} mixed;

/* Of one job with a callback. */
typedef struct told {
    mixed *m;
    int index;
} told;

typedef struct worker {
    mixed *m;
    int number;
    told told[JOBS];
    pthread_t thread;
} worker;

static _Thread_local bool is_ours;

static void on_done(maasq_job *job, void *arg)
{
    told *t = arg;
    mixed *m = t->m;
    atomic_fetch_add(&m->overlaps, atomic_fetch_add(&m->inside, 1) != 0 ? 1 : 0);
    pthread_mutex_lock(&m->lock);
    if (!m->has_first) {
        m->first = pthread_self();
        m->has_first = true;
    }
    bool is_stray = is_ours || pthread_equal(m->first, pthread_self()) == 0;
    pthread_mutex_unlock(&m->lock);
    atomic_fetch_add(&m->strays, is_stray ? 1 : 0);
    atomic_fetch_add(&m->wrong, maasq_is_done(job) != 0 ? 0 : 1);
    atomic_fetch_add(&m->each[t->index], 1);
    atomic_fetch_sub(&m->inside, 1);
    atomic_fetch_add(&m->calls, 1);
}

/* Of three jobs one has a callback and is waited for, one has one and is let go, one has none. */
static void *mix(void *arg)
{
    worker *w = arg;
    mixed *m = w->m;
    maasq_error err;
    maasq_spec spec = {.size = sizeof spec, .kind = "echo", .body = "x", .body_bytes = 1};
    is_ours = true;
    for (int i = 0; i < JOBS; i++) {
        w->told[i] = (told){m, w->number * JOBS + i};
        bool has_callback = i % 3 != 2;
        maasq_job *job = maasq_submit(m->f->client, &spec, has_callback ? on_done : NULL,
                                      has_callback ? &w->told[i] : NULL, &err);
        if (job == NULL) {
            atomic_fetch_add(&m->wrong, 1);
            continue;
        }
        if (i % 3 != 1) {
            bool is_one = (i + w->number) % 2 == 0;
            size_t index = 1;
            int code = is_one ? maasq_wait(job, LONG_MS, &err)
                              : maasq_wait_any(&job, 1, LONG_MS, &index, &err);
            atomic_fetch_add(code == MAASQ_OK ? &m->waited : &m->wrong, 1);
        } else if (i % 10 == 1) {
            atomic_fetch_add(&m->wrong,
                             maasq_flush(m->f->client, LONG_MS, &err) == MAASQ_OK ? 0 : 1);
        }
        maasq_job_release(&job);
    }
    return NULL;
}

static void callbacks_come_on_the_clients_own_thread_only(void **state)
{
    (void)state;
    mixed *m = calloc(1, sizeof *m);
    worker *workers = calloc(THREADS, sizeof *workers);
    assert_non_null(m);
    assert_non_null(workers);
    m->f = set_up(0);
    assert_int_equal(pthread_mutex_init(&m->lock, NULL), 0);
    for (int i = 0; i < THREADS; i++) {
        workers[i].m = m;
        workers[i].number = i;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, mix, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
    }
    wait_count(&m->calls, THREADS * JOBS / 3 * 2);
    tear_down(m->f); /* a callback that came twice has come by now */
    assert_int_equal(m->calls, THREADS * JOBS / 3 * 2);
    assert_int_equal(m->strays, 0);
    assert_int_equal(m->overlaps, 0);
    assert_int_equal(m->wrong, 0);
    assert_int_equal(m->waited, THREADS * JOBS / 3 * 2);
    for (int i = 0; i < THREADS * JOBS; i++) {
        assert_int_equal(m->each[i], i % JOBS % 3 != 2 ? 1 : 0);
    }
    pthread_mutex_destroy(&m->lock);
    free(workers);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(callbacks_come_on_the_clients_own_thread_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

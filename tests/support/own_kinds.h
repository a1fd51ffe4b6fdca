/* For tests of users' own kinds: a running system, one job at a time, and what became of it. */
#ifndef MQ_TEST_OWN_KINDS_H
#define MQ_TEST_OWN_KINDS_H

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/include/maasq.h"
#include "shared/base/clock.h"
#include "tests/support/system.h"

enum { OWN_WAIT_MS = 120000, OWN_PATH_MAX = 600 };

#define OWN __attribute__((unused)) static

/* build/V of this test program. */
OWN void own_bin(char out[OWN_PATH_MAX])
{
    ssize_t len = readlink("/proc/self/exe", out, OWN_PATH_MAX - 1);
    assert_true(len > 0);
    out[len] = '\0';
    for (int up = 0; up < 3; up++) {
        *strrchr(out, '/') = '\0';
    }
}

OWN maasq_client *own_client(const sys *s)
{
    maasq_error err;
    maasq_options options = {.size = sizeof options, .brokers = s->front};
    maasq_client *client = maasq_client_new(&options, &err);
    if (client == NULL || maasq_connect(client, OWN_WAIT_MS, &err) != 0) {
        fail_msg("no client: %s", err.text);
    }
    return client;
}

OWN maasq_job *own_submit(maasq_client *client, const char *kind, const char *body,
                          const maasq_spec *more)
{
    maasq_error err;
    maasq_spec spec = more != NULL ? *more : (maasq_spec){0};
    spec.size = sizeof spec;
    spec.kind = kind;
    spec.body = body;
    spec.body_bytes = strlen(body);
    maasq_job *job = maasq_submit(client, &spec, NULL, NULL, &err);
    if (job == NULL) {
        fail_msg("%s was not queued: %s", kind, err.text);
    }
    return job;
}

/* Waits for the end; *info and the result (NUL-terminated, cut) say how it was. */
OWN int own_end(maasq_job *job, maasq_info *info, char *out, size_t size)
{
    maasq_error err;
    maasq_view view = {0};
    if (maasq_wait(job, OWN_WAIT_MS, &err) != 0) {
        fail_msg("job %s: %s", maasq_job_id(job), err.text);
    }
    *info = (maasq_info){.size = sizeof *info};
    maasq_job_info(job, info);
    int code = maasq_result(job, &view, &err);
    size_t len = view.bytes < size ? view.bytes : size - 1;
    if (len > 0) {
        memcpy(out, view.data, len);
    }
    out[len] = '\0';
    return code;
}

OWN void own_seen(maasq_job *job, const maasq_event *event, void *arg)
{
    (void)job;
    if (event->progress[0] != '\0') {
        atomic_fetch_add((atomic_int *)arg, 1);
    }
}

/* Waits until the job has told progress: it runs. */
OWN void own_await_progress(maasq_job *job)
{
    static atomic_int seen; /* outlives a late event */
    maasq_error err;
    char text[64];
    int64_t give_up_ms = mq_clock_mono_ms() + OWN_WAIT_MS;
    atomic_store(&seen, 0);
    assert_int_equal(maasq_on_progress(job, own_seen, &seen, &err), 0);
    while (atomic_load(&seen) == 0 && maasq_progress(job, text, sizeof text) == 0) {
        assert_true(mq_clock_mono_ms() < give_up_ms && !maasq_is_done(job));
        mq_clock_sleep_ms(5);
    }
    assert_int_equal(maasq_on_progress(job, NULL, NULL, &err), 0);
}

/* A worker with these options must not start, with this sentence on standard error. */
OWN void own_refused(const sys *s, const char *option, const char *value, const char *more,
                     const char *more_value, const char *sentence)
{
    char err[8192];
    const char *const argv[] = {"maasq-worker", "--broker", s->back, "--slots",  "1",
                                option,         value,      more,    more_value, NULL};
    int status = sys_run(s, argv, NULL, 0, err, sizeof err);
    if (status != 1 || strstr(err, sentence) == NULL) {
        fail_msg("%s %s: exit status %d, not \"%s\" in: %s", option, value, status, sentence, err);
    }
}

#endif

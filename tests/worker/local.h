/* For tests of job kinds: a mq_local_host in a directory of its own. */
#ifndef MQ_TESTS_WORKER_LOCAL_H
#define MQ_TESTS_WORKER_LOCAL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "worker/slot/local_host.h"

static char local_dir[256];
static mq_local_host *local;

static int local_setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(local_dir, sizeof local_dir, "%s/mq-local-XXXXXX", tmp == NULL ? "/tmp" : tmp);
    return mkdtemp(local_dir) == NULL || mq_local_host_new(&local, local_dir, NULL) != MQ_OK;
}

static int local_teardown(void **state)
{
    (void)state;
    char command[512];
    mq_local_host_free(local);
    snprintf(command, sizeof command, "rm -rf '%s'", local_dir);
    return system(command);
}

/* Hash of stored bytes; valid until 8 more calls. */
static inline const char *put(mq_span bytes)
{
    static char ring[8][MQ_SHA256_HEX];
    static int at;
    char *hash = ring[at++ % 8];
    assert_int_equal(mq_local_host_put(local, bytes, hash, NULL), MQ_OK);
    return hash;
}

/* Runs a job and parses its result; fails the test when the job fails. */
static inline json_t *run_ok(const mq_local_job *job)
{
    mq_buf out;
    mq_error err = {0};
    mq_buf_init(&out, 64 << 20);
    if (mq_local_host_run(local, job, &out, &err) != MQ_OK) {
        fail_msg("%s %.*s: %s", job->kind, MQ_SPAN_ARG(job->body), err.text);
    }
    json_t *result = json_loadb((const char *)out.data, out.len, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(result);
    mq_buf_release(&out);
    return result;
}

static inline json_t *run_body(const char *kind, const char *body)
{
    return run_ok(&(mq_local_job){.kind = kind, .body = mq_str(body)});
}

/* The job must fail with this code and these words. */
static inline void run_refused(const mq_local_job *job, mq_code code, const char *words)
{
    mq_buf out;
    mq_error err = {0};
    mq_buf_init(&out, 64 << 20);
    mq_code got = mq_local_host_run(local, job, &out, &err);
    mq_buf_release(&out);
    if (got != code || strstr(err.text, words) == NULL) {
        fail_msg("%s %.*s\n gave %s: %s\n not  %s: %s", job->kind, MQ_SPAN_ARG(job->body),
                 mq_code_name(got), err.text, mq_code_name(code), words);
    }
}

/* "a.b.c" of a JSON object; borrowed. */
static inline json_t *at_path(json_t *value, const char *path)
{
    char key[64];
    while (*path != '\0') {
        size_t n = strcspn(path, ".");
        assert_true(n < sizeof key);
        mq_span_copy(mq_span_of(path, n), key, sizeof key);
        value = json_is_array(value) ? json_array_get(value, (size_t)strtoul(key, NULL, 10))
                                     : json_object_get(value, key);
        path += n + (path[n] == '.');
    }
    return value;
}

static inline double number_at(json_t *value, const char *path)
{
    json_t *found = at_path(value, path);
    if (!json_is_number(found)) {
        fail_msg("%s is not a number", path);
    }
    return json_number_value(found);
}

#endif

/* Groups and chains, made of what the system has: dependencies and a callback job that depends on
 * all members. It must not know sockets. */
#include <stdlib.h>

#include "client/src/client.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

enum { DEPS_MAX = 64, MEMBERS_MAX = DEPS_MAX * DEPS_MAX };

typedef struct group {
    maasq_client *client;
    int64_t deadline_ms;
    maasq_error *err;
    maasq_job *members[MEMBERS_MAX];
    maasq_job *joins[DEPS_MAX]; /* each gathers 64 members */
    size_t count, join_count;
    char near[MQ_CCORE_ID_SIZE]; /* id of the first member: all live in its shard */
    bool is_home;                /* one of them must live in shard 0 */
} group;

static bool is_home(const maasq_spec *given)
{
    maasq_spec spec = {.size = 0};
    memcpy(&spec, given, mq_min_size(given->size, sizeof spec));
    return spec.kind != NULL && mq_spec_is_home(&spec);
}

/* Waits until everything sent is acknowledged, and looks whether some of it was refused. */
static bool settle(group *g, maasq_job *const *jobs, size_t count)
{
    int64_t left_ms = mq_max_i64(0, g->deadline_ms - mq_clock_mono_ms());
    if (maasq_flush(g->client, left_ms, g->err) != MAASQ_OK) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        maasq_info info = {.size = sizeof info};
        maasq_job_info(jobs[i], &info);
        if (strcmp(info.state, "lost") == 0) {
            mq_client_fail(g->err, (mq_code)-info.code, "member %zu, job %s: %s", i, info.id,
                           info.error);
            return false;
        }
    }
    return true;
}

/* Submits one job behind others. */
static maasq_job *submit_after(group *g, const maasq_spec *given, maasq_job *const *after,
                               size_t count)
{
    const char *deps[DEPS_MAX];
    maasq_spec spec = {.size = 0};
    memcpy(&spec, given, mq_min_size(given->size, sizeof spec));
    spec.size = sizeof spec;
    if (spec.deps_count + count > DEPS_MAX) {
        mq_client_fail(g->err, MQ_E_ARG, "deps: %zu with those of the group, at most %d",
                       spec.deps_count + count, DEPS_MAX);
        return NULL;
    }
    for (size_t i = 0; i < spec.deps_count; i++) {
        deps[i] = spec.deps[i];
    }
    for (size_t i = 0; i < count; i++) {
        deps[spec.deps_count + i] = maasq_job_id(after[i]);
    }
    spec.deps = deps;
    spec.deps_count += count;
    return maasq_submit(g->client, &spec, NULL, NULL, g->err);
}

/* Submits a member that waits for nobody, into the group's shard. */
static maasq_job *submit_first(group *g, const maasq_spec *spec)
{
    static const char home[] = "00000000000000000000000000"; /* an id of shard 0 */
    mq_error why = {0};
    const char *near = g->is_home ? home : g->near[0] == '\0' ? NULL : g->near;
    maasq_job *job = mq_client_submit_near(g->client, spec, near, NULL, NULL, &why);
    if (job == NULL) {
        (void)mq_client_error(g->err, &why);
    }
    return job;
}

static bool submit_members(group *g, const maasq_spec *specs, size_t count, int is_chain)
{
    for (size_t i = 0; i < count; i++) {
        bool is_linked = is_chain != 0 && i > 0;
        maasq_job *job = is_linked ? submit_after(g, &specs[i], &g->members[i - 1], 1)
                                   : submit_first(g, &specs[i]);
        if (job == NULL) {
            return false;
        }
        if (i == 0) {
            (void)mq_span_copy(mq_str(maasq_job_id(job)), g->near, sizeof g->near);
        }
        g->members[g->count++] = job;
        /* The next one of a chain would be cancelled if its parent were not known yet. */
        if (is_chain != 0 && !settle(g, &g->members[i], 1)) {
            return false;
        }
    }
    return settle(g, g->members, g->count);
}

/* A callback waits for at most 64 jobs: more members are gathered by jobs that do nothing. */
static maasq_job *submit_callback(group *g, const maasq_spec *callback, int is_chain)
{
    if (is_chain != 0) {
        return submit_after(g, callback, &g->members[g->count - 1], 1);
    }
    if (g->count + callback->deps_count <= DEPS_MAX) {
        return submit_after(g, callback, g->members, g->count);
    }
    maasq_spec join = {.size = sizeof join,
                       .kind = "echo",
                       .queue = callback->queue,
                       .tenant = callback->tenant,
                       .priority = callback->priority,
                       .durability = MAASQ_DURABLE,
                       .on_failure = callback->on_failure};
    for (size_t at = 0; at < g->count; at += DEPS_MAX) {
        maasq_job *job =
            submit_after(g, &join, g->members + at, mq_min_size(DEPS_MAX, g->count - at));
        if (job == NULL) {
            return NULL;
        }
        g->joins[g->join_count++] = job;
    }
    return settle(g, g->joins, g->join_count) ? submit_after(g, callback, g->joins, g->join_count)
                                              : NULL;
}

static maasq_job *run(group *g, const maasq_spec *members, size_t count, int is_chain,
                      const maasq_spec *callback)
{
    if (!submit_members(g, members, count, is_chain)) {
        return NULL;
    }
    if (callback != NULL) {
        maasq_job *job = submit_callback(g, callback, is_chain);
        if (job != NULL && !settle(g, &job, 1)) {
            maasq_job_release(&job);
        }
        return job;
    }
    maasq_job *last = g->members[g->count - 1];
    pthread_mutex_lock(&last->client->lock);
    last->refs++;
    pthread_mutex_unlock(&last->client->lock);
    return last;
}

maasq_job *maasq_group(maasq_client *client, const maasq_spec *members, size_t count, int is_chain,
                       const maasq_spec *callback, maasq_job **jobs, int64_t timeout_ms,
                       maasq_error *err)
{
    for (size_t i = 0; jobs != NULL && i < count && i < MEMBERS_MAX; i++) {
        jobs[i] = NULL;
    }
    if (members == NULL || count == 0 || count > MEMBERS_MAX) {
        mq_client_fail(err, MQ_E_ARG, "group: %zu members, must be 1..%d", count, MEMBERS_MAX);
        return NULL;
    }
    group *g = calloc(1, sizeof *g);
    int64_t deadline_ms = mq_client_deadline(timeout_ms, err);
    if (g == NULL || deadline_ms < 0) {
        free(g);
        return NULL;
    }
    g->client = client;
    for (size_t i = 0; i < count; i++) {
        g->is_home |= is_home(&members[i]);
    }
    g->is_home |= callback != NULL && is_home(callback);
    g->deadline_ms = deadline_ms;
    g->err = err;
    maasq_job *out = run(g, members, count, is_chain, callback);
    for (size_t i = 0; i < g->count; i++) {
        if (jobs != NULL) {
            jobs[i] = g->members[i];
        } else {
            maasq_job_release(&g->members[i]);
        }
    }
    for (size_t i = 0; i < g->join_count; i++) {
        maasq_job_release(&g->joins[i]);
    }
    free(g);
    return out;
}

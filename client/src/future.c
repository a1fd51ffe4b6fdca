/* Jobs as futures: how they end, are waited for, asked about and let go. Must not know sockets or
 * the wire's bytes. */
#include <stdio.h>
#include <stdlib.h>

#include "client/src/client.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

static const struct {
    const char *name;
    bool is_terminal;
} states[] = {
#define MQ_STATE(symbol, text, terminal) {text, terminal},
#define MQ_EVENT(symbol, text)
#define MQ_STEP(from, event, to)
#include "shared/job/lifecycle.def"
#undef MQ_STATE
#undef MQ_EVENT
#undef MQ_STEP
};

const char *mq_job_state(mq_span name, bool *is_terminal)
{
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        if (mq_span_is(name, states[i].name)) {
            if (is_terminal != NULL) {
                *is_terminal = states[i].is_terminal;
            }
            return states[i].name;
        }
    }
    if (is_terminal != NULL) {
        *is_terminal = false;
    }
    return NULL;
}

/* Copy with a NUL behind it; NULL for empty, and when memory is gone (then the text is lost). */
static char *copy_text(mq_span s)
{
    char *out = s.len == 0 ? NULL : malloc(s.len + 1);
    if (out != NULL) {
        memcpy(out, s.data, s.len);
        out[s.len] = '\0';
    }
    return out;
}

void mq_job_count(maasq_job *job)
{
    if (!job->is_counted) {
        job->is_counted = true;
        job->client->callbacks++;
        mq_lead_attend(job->client);
    }
}

static void uncount(maasq_job *job)
{
    if (job->is_counted) {
        job->is_counted = false;
        job->client->callbacks--;
    }
}

void mq_job_unref(maasq_job *job)
{
    MQ_ASSERT(job->refs > 0);
    if (--job->refs > 0) {
        return;
    }
    maasq_client *client = job->client;
    MQ_ASSERT(job->slot == MQ_CCORE_NONE);
    MQ_ASSERT(client->refs > 1); /* whoever calls holds one as well */
    client->refs--;
    uncount(job);
    free(job->block);
    free(job->progress);
    free(job->error);
    free(job->result);
    free(job);
}

/* The session's hold on a job moves from its slot to the caller of this. */
static maasq_job *take_job(maasq_client *client, uint32_t slot)
{
    maasq_job *job = client->slots[slot].job;
    MQ_ASSERT(job != NULL);
    client->slots[slot].job = NULL;
    MQ_ASSERT(client->job_count > 0);
    client->job_count--;
    client->job_bytes -= job->block_bytes;
    job->slot = MQ_CCORE_NONE;
    free(job->block);
    job->block = NULL;
    job->block_bytes = 0;
    job->body = (mq_span){0};
    return job;
}

void mq_job_end(maasq_client *client, uint32_t slot, const mq_end *end)
{
    maasq_job *job = take_job(client, slot);
    MQ_ASSERT(!job->is_done);
    job->state = end->state;
    job->code = -(int)end->code;
    job->error = copy_text(end->error);
    (void)mq_span_copy(end->why, job->why, sizeof job->why);
    (void)mq_span_copy(end->other, job->other, sizeof job->other);
    job->attempts = end->attempts;
    job->sends = end->sends;
    job->queue_us = end->queue_us;
    job->run_us = end->run_us;
    if (end->code == MQ_OK && end->result.len > 0) {
        job->result = copy_text(end->result);
        job->result_bytes = end->result.len;
        if (job->result == NULL) {
            job->result_bytes = 0;
            job->code = MAASQ_E_LIMIT;
            job->error = copy_text(mq_str("no memory for the result: ask for it again by its id"));
        }
    }
    job->is_done = true;
    job->next = NULL;
    if (client->ended_tail == NULL) {
        client->ended = job;
    } else {
        client->ended_tail->next = job;
    }
    client->ended_tail = job;
}

void mq_job_tell(maasq_client *client, uint32_t slot, const char *state, mq_span progress,
                 mq_span log)
{
    maasq_job *job = client->slots[slot].job;
    MQ_ASSERT(job != NULL);
    if (state != NULL) {
        job->state = state;
    }
    if (progress.len > 0) {
        free(job->progress);
        job->progress = copy_text(progress);
    }
    if (job->event == NULL || client->told_count >= MQ_CLIENT_EVENTS_MAX) {
        return;
    }
    mq_told *told = calloc(1, sizeof *told);
    if (told == NULL) {
        return;
    }
    job->refs++;
    *told = (mq_told){.job = job,
                      .state = state == NULL ? "" : state,
                      .progress = copy_text(progress),
                      .log = copy_text(log)};
    if (client->told_tail == NULL) {
        client->told = told;
    } else {
        client->told_tail->next = told;
    }
    client->told_tail = told;
    client->told_count++;
}

void mq_job_accepted(maasq_client *client, uint32_t slot)
{
    maasq_job *job = client->slots[slot].job;
    job->state = "queued";
    if (job->refs == 1 && job->done == NULL) {
        mq_ccore_drop(&client->core, slot);
        mq_job_unref(take_job(client, slot));
    }
}

static void run_events(maasq_client *client)
{
    pthread_mutex_lock(&client->lock);
    while (client->told != NULL) {
        mq_told *told = client->told;
        client->told = told->next;
        if (client->told == NULL) {
            client->told_tail = NULL;
        }
        client->told_count--;
        maasq_event_fn *fn = told->job->event;
        void *arg = told->job->event_arg;
        maasq_event event = {.size = sizeof event,
                             .state = told->state,
                             .progress = told->progress == NULL ? "" : told->progress,
                             .log = told->log == NULL ? "" : told->log};
        if (fn != NULL) {
            pthread_mutex_unlock(&client->lock);
            fn(told->job, &event, arg);
            pthread_mutex_lock(&client->lock);
        }
        mq_job_unref(told->job);
        free(told->progress);
        free(told->log);
        free(told);
    }
    pthread_mutex_unlock(&client->lock);
}

/* The job that ended first leaves the list. */
static maasq_job *take_ended(maasq_client *client)
{
    maasq_job *job = client->ended;
    client->ended = job->next;
    if (client->ended == NULL) {
        client->ended_tail = NULL;
    }
    return job;
}

void mq_job_reap(maasq_client *client)
{
    MQ_ASSERT(client->callbacks == 0);
    while (client->ended != NULL) {
        mq_job_unref(take_ended(client));
    }
}

int mq_job_callbacks(maasq_client *client)
{
    run_events(client); /* before the ends, so that no event comes after `done` */
    int count = 0;
    pthread_mutex_lock(&client->lock);
    while (client->ended != NULL) {
        maasq_job *job = take_ended(client);
        if (job->done != NULL) {
            pthread_mutex_unlock(&client->lock);
            job->done(job, job->done_arg);
            pthread_mutex_lock(&client->lock);
        }
        uncount(job);
        mq_job_unref(job);
        count++;
    }
    pthread_mutex_unlock(&client->lock);
    return count;
}

void maasq_job_release(maasq_job **handle)
{
    if (handle == NULL || *handle == NULL) {
        return;
    }
    maasq_job *job = *handle;
    *handle = NULL;
    maasq_client *client = mq_job_lock(job);
    client->refs++; /* the job may be the client's last holder */
    uint32_t slot = job->slot;
    if (slot != MQ_CCORE_NONE && job->refs == 2 && job->done == NULL &&
        client->core.entries[slot].phase == MQ_CCORE_OPEN) {
        mq_ccore_drop(&client->core, slot);
        mq_job_unref(take_job(client, slot));
    }
    mq_job_unref(job);
    mq_client_unref_unlock(client);
}

maasq_client *mq_job_lock(const maasq_job *job)
{
    for (;;) {
        maasq_client *client = job->client;
        pthread_mutex_lock(&client->lock);
        if (client == job->client) {
            return client;
        }
        pthread_mutex_unlock(&client->lock);
    }
}

typedef struct one_wait {
    const maasq_job *job;
    const maasq_client *client; /* whose lock is held */
} one_wait;

static bool job_is_done(const void *arg)
{
    const one_wait *one = arg;
    return one->job->client != one->client || one->job->is_done;
}

int maasq_wait(maasq_job *job, int64_t timeout_ms, maasq_error *err)
{
    if (job == NULL) {
        return mq_client_fail(err, MQ_E_ARG, "job: NULL; give one from maasq_submit");
    }
    int64_t deadline_ms = mq_client_deadline(timeout_ms, err);
    if (deadline_ms < 0) {
        return MAASQ_E_ARG;
    }
    maasq_client *client = mq_job_lock(job);
    mq_code code = MQ_OK;
    while (code == MQ_OK && !job->is_done) {
        one_wait one = {job, client};
        code = mq_client_wait(client, job_is_done, &one, deadline_ms);
        if (client != job->client) {
            pthread_mutex_unlock(&client->lock);
            client = mq_job_lock(job);
        }
    }
    const char *state = job->state;
    pthread_mutex_unlock(&client->lock);
    if (code == MQ_E_ARG) {
        return mq_client_fail(err, code, "maasq_wait: must not be called in a callback");
    }
    if (code == MQ_E_TIMEOUT) {
        return mq_client_fail(err, code, "job %s has not ended within %lld ms, it is %s", job->id,
                              (long long)timeout_ms, state);
    }
    return MAASQ_OK;
}

typedef struct any_wait {
    maasq_job *const *jobs;
    size_t count;
    const maasq_client *client; /* of all of them, when it is one */
} any_wait;

static size_t first_done(const any_wait *any)
{
    size_t i = 0;
    while (i < any->count && (any->jobs[i] == NULL || !any->jobs[i]->is_done)) {
        i++;
    }
    return i;
}

static bool have_moved(const any_wait *any)
{
    bool have = false;
    for (size_t i = 0; i < any->count; i++) {
        have |= any->jobs[i] != NULL && any->jobs[i]->client != any->client;
    }
    return have;
}

static bool any_is_done(const void *arg)
{
    const any_wait *any = arg;
    return have_moved(any) || first_done(any) < any->count;
}

static const maasq_client *root_of_client(const maasq_client *client)
{
    return client->primary == NULL ? client : client->primary;
}

static const maasq_client *root_of(const maasq_job *job)
{
    return root_of_client(job->client);
}

static bool never(const void *arg)
{
    (void)arg;
    return false;
}

/* Jobs of several shards have several locks: looked at in turn, every few milliseconds. */
static mq_code wait_spread(const any_wait *any, maasq_client *client, int64_t deadline_ms,
                           size_t *first)
{
    enum { SLICE_MS = 5 };
    for (;;) {
        for (size_t i = 0; i < any->count; i++) {
            if (any->jobs[i] != NULL && maasq_is_done(any->jobs[i])) {
                *first = i;
                return MQ_OK;
            }
        }
        int64_t now_ms = mq_clock_mono_ms();
        if (now_ms >= deadline_ms) {
            return MQ_E_TIMEOUT;
        }
        pthread_mutex_lock(&client->lock);
        int64_t until_ms = now_ms + SLICE_MS < deadline_ms ? now_ms + SLICE_MS : deadline_ms;
        mq_code code = mq_client_wait(client, never, NULL, until_ms);
        bool is_closing = client->is_closing;
        pthread_mutex_unlock(&client->lock);
        if (code == MQ_E_ARG || is_closing) {
            return code;
        }
    }
}

int maasq_wait_any(maasq_job *const *jobs, size_t count, int64_t timeout_ms, size_t *index,
                   maasq_error *err)
{
    int64_t deadline_ms = mq_client_deadline(timeout_ms, err);
    if (deadline_ms < 0) {
        return MAASQ_E_ARG;
    }
    maasq_client *client = NULL;
    bool is_spread = false;
    for (size_t i = 0; jobs != NULL && i < count; i++) {
        if (jobs[i] != NULL && client != NULL && root_of(jobs[i]) != root_of_client(client)) {
            return mq_client_fail(err, MQ_E_ARG, "jobs[%zu]: belongs to another client", i);
        }
        is_spread |= jobs[i] != NULL && client != NULL && jobs[i]->client != client;
        client = jobs[i] != NULL ? jobs[i]->client : client;
    }
    if (client == NULL) {
        return mq_client_fail(err, MQ_E_ARG, "jobs: there is none to wait for");
    }
    any_wait any = {jobs, count, client};
    size_t first = 0;
    mq_code code = MQ_OK;
    if (!is_spread) {
        pthread_mutex_lock(&client->lock);
        code = mq_client_wait(client, any_is_done, &any, deadline_ms);
        is_spread = have_moved(&any);
        first = is_spread ? 0 : first_done(&any);
        pthread_mutex_unlock(&client->lock);
    }
    if (is_spread && code != MQ_E_ARG) {
        code = wait_spread(&any, client, deadline_ms, &first);
    }
    if (code == MQ_E_ARG) {
        return mq_client_fail(err, code, "maasq_wait_any: must not be called in a callback");
    }
    if (code != MQ_OK) {
        return mq_client_fail(err, code, "none of %zu jobs has ended within %lld ms", count,
                              (long long)timeout_ms);
    }
    if (index != NULL) {
        *index = first;
    }
    return MAASQ_OK;
}

int maasq_is_done(const maasq_job *job)
{
    maasq_client *client = mq_job_lock(job);
    bool is_done = job->is_done;
    pthread_mutex_unlock(&client->lock);
    return is_done;
}

const char *maasq_job_id(const maasq_job *job)
{
    return job->id;
}

const char *maasq_state(const maasq_job *job)
{
    maasq_client *client = mq_job_lock(job);
    const char *state = job->state;
    pthread_mutex_unlock(&client->lock);
    return state;
}

size_t maasq_progress(const maasq_job *job, char *out, size_t size)
{
    maasq_client *client = mq_job_lock(job);
    mq_span progress = mq_str(job->progress);
    if (size > 0) {
        (void)mq_span_copy(progress, out, size);
    }
    pthread_mutex_unlock(&client->lock);
    return progress.len;
}

int maasq_result(const maasq_job *job, maasq_view *view, maasq_error *err)
{
    maasq_info info = {.size = sizeof info};
    maasq_job_info(job, &info);
    if (!maasq_is_done(job)) {
        return mq_client_fail(err, MQ_E_BUSY, "job %s has not ended yet, it is %s", job->id,
                              info.state);
    }
    if (info.code != MAASQ_OK) {
        return mq_client_fail(err, (mq_code)-info.code, "%s",
                              info.error[0] != '\0' ? info.error : info.state);
    }
    if (view != NULL) {
        *view = (maasq_view){job->result, job->result_bytes};
    }
    return MAASQ_OK;
}

void maasq_job_info(const maasq_job *job, maasq_info *info)
{
    maasq_client *client = mq_job_lock(job);
    maasq_info all = {.size = sizeof all,
                      .id = job->id,
                      .state = job->state,
                      .why = job->why,
                      .error = job->is_done && job->error != NULL ? job->error : "",
                      .code = job->code,
                      .attempts = job->attempts,
                      .queue_us = job->queue_us,
                      .run_us = job->run_us,
                      .sends = job->sends,
                      .other = job->other};
    if (job->slot != MQ_CCORE_NONE) {
        all.sends = client->core.entries[job->slot].sends;
    }
    pthread_mutex_unlock(&client->lock);
    all.size = info->size;
    memcpy(info, &all, mq_min_size(info->size, sizeof all));
}

int maasq_on_progress(maasq_job *job, maasq_event_fn *fn, void *arg, maasq_error *err)
{
    if (job == NULL) {
        return mq_client_fail(err, MQ_E_ARG, "job: NULL; give one from maasq_submit");
    }
    maasq_client *client = mq_job_lock(job);
    job->event = fn;
    job->event_arg = arg;
    if (fn != NULL && !job->is_done) {
        mq_job_count(job);
    }
    if (job->slot != MQ_CCORE_NONE) {
        mq_ccore_watch(&client->core, mq_clock_mono_ms(), job->slot, fn != NULL);
        mq_client_wake(client);
    }
    pthread_mutex_unlock(&client->lock);
    return MAASQ_OK;
}

void maasq_cancel(maasq_job *job, int hard)
{
    if (job == NULL) {
        return;
    }
    maasq_client *client = mq_job_lock(job);
    uint32_t slot = job->slot;
    if (slot != MQ_CCORE_NONE &&
        mq_ccore_cancel(&client->core, mq_clock_mono_ms(), slot, hard != 0)) {
        mq_job_end(client, slot,
                   &(mq_end){.state = "cancelled",
                             .code = MQ_E_CANCELLED,
                             .error = mq_str("cancelled before it was sent")});
        pthread_cond_broadcast(&client->changed);
    }
    if (slot != MQ_CCORE_NONE) {
        mq_client_wake(client);
    }
    pthread_mutex_unlock(&client->lock);
}

/* Jobs under way and their latencies; see load.h. */
#include "client/cli/load.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/npy.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

enum { STALL_MS = 60000 /* without any job ending */ };

bool mq_load_init(mq_load *l, int64_t count, int64_t window)
{
    *l = (mq_load){.count = count, .window = window};
    pthread_condattr_t attr;
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->changed, &attr);
    pthread_condattr_destroy(&attr);
    l->latency_ms = calloc((size_t)count, sizeof *l->latency_ms);
    return l->latency_ms != NULL;
}

void mq_load_release(mq_load *l)
{
    free(l->latency_ms);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
}

/* Index of the greatest number in each answer's only row. */
static bool is_correct(const maasq_job *job, double label)
{
    maasq_tensor out;
    size_t count = 0;
    if (maasq_outputs(job, &out, 1, &count, NULL) != MAASQ_OK || count == 0) {
        return false;
    }
    size_t best = 0;
    for (size_t i = 1; i < mq_tensor_count(&out); i++) {
        best = mq_tensor_number(&out, i) > mq_tensor_number(&out, best) ? i : best;
    }
    return (double)best == label;
}

void mq_load_done(maasq_job *job, void *arg)
{
    mq_shot *s = arg;
    mq_load *l = s->load;
    maasq_error err;
    int64_t now_ns = mq_clock_mono_ns();
    bool is_good = maasq_result(job, NULL, &err) == MAASQ_OK;
    bool is_right = is_good && !isnan(s->label) && is_correct(job, s->label);
    pthread_mutex_lock(&l->lock);
    l->latency_ms[l->ended++] = (float)((double)(now_ns - s->start_ns) / 1e6);
    l->failed += !is_good;
    l->correct += is_right;
    if (!is_good && l->error[0] == '\0') {
        (void)snprintf(l->error, sizeof l->error, "%s", err.text);
    }
    if (l->sent - l->ended < l->wake_at) {
        l->wake_at = 0;
        pthread_cond_signal(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    free(s);
}

/* Waits until fewer than `most` jobs are under way. False when nothing ended for a minute. */
bool mq_load_wait(mq_load *l, int64_t most)
{
    pthread_mutex_lock(&l->lock);
    bool is_stalled = false;
    /* Woken once for an eighth of the window, not for each job. */
    int64_t goal = l->sent - l->ended >= most ? most - (most > 1 ? most / 8 : 0) : most;
    while (l->sent - l->ended >= goal && !is_stalled) {
        l->wake_at = goal;
        int64_t ended = l->ended;
        int64_t limit_ms = mq_clock_mono_ms() + STALL_MS;
        struct timespec until = {.tv_sec = limit_ms / 1000};
        is_stalled =
            pthread_cond_timedwait(&l->changed, &l->lock, &until) != 0 && l->ended == ended;
    }
    pthread_mutex_unlock(&l->lock);
    return !is_stalled;
}

mq_shot *mq_load_shot(mq_load *l, double label)
{
    mq_shot *s = malloc(sizeof *s);
    if (s != NULL) {
        *s = (mq_shot){l, mq_clock_mono_ns(), label};
        pthread_mutex_lock(&l->lock);
        l->sent++;
        pthread_mutex_unlock(&l->lock);
    }
    return s;
}

void mq_load_unsent(mq_load *l, mq_shot *s)
{
    pthread_mutex_lock(&l->lock);
    l->sent--;
    pthread_mutex_unlock(&l->lock);
    free(s);
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

double mq_load_percentile(mq_load *l, double p)
{
    if (l->ended == 0) {
        return (double)NAN;
    }
    qsort(l->latency_ms, (size_t)l->ended, sizeof *l->latency_ms, by_size);
    int64_t at = (int64_t)ceil(p * (double)l->ended) - 1;
    return (double)l->latency_ms[mq_max_i64(at, 0)];
}

json_t *mq_load_json(mq_load *l)
{
    return json_pack("{s:f, s:f, s:f, s:f}", "p50", mq_load_percentile(l, 0.5), "p90",
                     mq_load_percentile(l, 0.9), "p99", mq_load_percentile(l, 0.99), "max",
                     mq_load_percentile(l, 1));
}

void mq_load_print(const json_t *latency)
{
    printf("  latency ms   p50 %.2f   p90 %.2f   p99 %.2f   max %.2f\n", mq_js_real(latency, "p50"),
           mq_js_real(latency, "p90"), mq_js_real(latency, "p99"), mq_js_real(latency, "max"));
}

static int send_all(mq_cli *cli, mq_load *l, const mq_echo *echo, const maasq_spec *spec)
{
    maasq_error why = {0};
    bool is_going = true;
    while (is_going && l->sent < echo->jobs) {
        is_going = mq_load_wait(l, echo->window);
        mq_shot *s = is_going ? mq_load_shot(l, (double)NAN) : NULL;
        maasq_job *job = s == NULL ? NULL : maasq_submit(cli->client, spec, mq_load_done, s, &why);
        if (job == NULL && s != NULL) {
            mq_load_unsent(l, s);
        }
        is_going = job != NULL;
        maasq_job_release(&job);
    }
    if (is_going && mq_load_wait(l, 1)) {
        return MQ_EXIT_OK;
    }
    int64_t ended = l->ended;
    (void)maasq_client_free(&cli->client); /* its callbacks use the load */
    return mq_cli_fail(cli, "%s after %lld jobs",
                       why.text[0] != '\0' ? why.text : "no job ended for a minute",
                       (long long)ended);
}

/* One after the other, each submitted and waited for, as a caller who has one question does. */
static int send_singly(mq_cli *cli, mq_load *l, const mq_echo *echo, const maasq_spec *spec)
{
    maasq_error why = {0};
    while (l->sent < echo->jobs) {
        int64_t start_ns = mq_clock_mono_ns();
        maasq_job *job = maasq_submit(cli->client, spec, NULL, NULL, &why);
        if (job == NULL || maasq_wait(job, STALL_MS, &why) != MAASQ_OK) {
            maasq_job_release(&job);
            return mq_cli_fail(cli, "%s after %lld jobs", why.text, (long long)l->ended);
        }
        l->sent++;
        l->latency_ms[l->ended++] = (float)((double)(mq_clock_mono_ns() - start_ns) / 1e6);
        if (maasq_result(job, NULL, &why) != MAASQ_OK && l->failed++ == 0) {
            (void)snprintf(l->error, sizeof l->error, "%s", why.text);
        }
        maasq_job_release(&job);
    }
    return MQ_EXIT_OK;
}

int mq_load_echo(mq_cli *cli, mq_load *l, const mq_echo *echo, double *seconds)
{
    char *body = calloc(1, (size_t)echo->bytes + 1);
    if (body == NULL) {
        return mq_cli_fail(cli, "no memory for a body of %lld bytes", (long long)echo->bytes);
    }
    memset(body, 'x', (size_t)echo->bytes);
    maasq_spec spec = {.size = sizeof spec,
                       .kind = "echo",
                       .queue = echo->queue,
                       .body = body,
                       .body_bytes = (size_t)echo->bytes,
                       .durability = echo->is_transient ? MAASQ_TRANSIENT : MAASQ_DURABLE};
    int64_t start_ns = mq_clock_mono_ns();
    int status =
        echo->window == 1 ? send_singly(cli, l, echo, &spec) : send_all(cli, l, echo, &spec);
    *seconds = (double)(mq_clock_mono_ns() - start_ns) / 1e9;
    free(body);
    return status;
}

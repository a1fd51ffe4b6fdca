/* The snapshot thread; see snapshot.h. Knows which questions there are, not what their answers
 * hold. */
#include <stdio.h>
#include <stdlib.h>

#include "client/gateway/curves.h"
#include "client/gateway/events.h"
#include "client/gateway/snapshot.h"

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"

/* What is asked. Slow ones only when the mark (what status and events say about them) has changed,
 * or after MQ_SNAPSHOT_SLOW_MS: they cost the broker more. */
static const struct question {
    const char *member;
    const char *what;
    const char *filter;
    uint32_t limit;
    bool is_slow;
} questions[] = {
    {"status", "status", "", 0, false},
    {"events", "events", "", 60, false},
    {"workers", "workers", "", 200, false},
    {"queues", "queues", "", 200, false},
    {"running", "jobs", "state=leased", 100, false},
    {"jobs", "jobs", "", 60, false},
    {"models", "models", "", 0, true},
    {"datasets", "datasets", "", 0, true},
    {"dead", "jobs", "state=dead", 50, true},
};
enum { QUESTIONS = sizeof questions / sizeof *questions };

struct mq_snapshot {
    mq_gateway *gateway;
    pthread_t thread;
    bool has_thread;
    json_t *answers[QUESTIONS]; /* the thread's own, like the rest up to the lock */
    int64_t asked_ms[QUESTIONS];
    json_t *marks[QUESTIONS]; /* when it was asked */
    mq_curves curves;
    bool was_ok;
    char error[MAASQ_ERROR_TEXT_MAX];
    pthread_mutex_t lock; /* guards frame and is_stopping */
    pthread_cond_t change;
    mq_frame *frame; /* one reference is ours */
    bool is_stopping;
};

static void *keep_asking(void *arg);
static bool ask_all(mq_snapshot *snapshot);
static json_t *ask(mq_snapshot *snapshot, const struct question *question);
static json_t *make_mark(const mq_snapshot *snapshot);
static void take(mq_snapshot *snapshot, size_t i, json_t *answer);
static void make_slim(json_t *models);
static void publish(mq_snapshot *snapshot, bool is_ok);
static bool pause_until(mq_snapshot *snapshot, int64_t wake_ms);
static json_t *gateway_json(const mq_gateway *gateway);

mq_code mq_snapshot_new(mq_snapshot **out, mq_gateway *gateway, mq_error *err)
{
    *out = NULL;
    mq_snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (snapshot == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the snapshot");
    }
    snapshot->gateway = gateway;
    snapshot->was_ok = true;
    snprintf(snapshot->error, sizeof snapshot->error, "the broker has not been asked yet");
    pthread_mutex_init(&snapshot->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&snapshot->change, &attributes);
    pthread_condattr_destroy(&attributes);
    publish(snapshot, false);
    *out = snapshot;
    if (pthread_create(&snapshot->thread, NULL, keep_asking, snapshot) != 0) {
        return mq_fail(err, MQ_E_LIMIT, "no thread for the snapshot");
    }
    snapshot->has_thread = true;
    return MQ_OK;
}

void mq_snapshot_stop(mq_snapshot *snapshot)
{
    if (snapshot == NULL) {
        return;
    }
    pthread_mutex_lock(&snapshot->lock);
    snapshot->is_stopping = true;
    pthread_cond_broadcast(&snapshot->change);
    pthread_mutex_unlock(&snapshot->lock);
    if (snapshot->has_thread) {
        pthread_join(snapshot->thread, NULL);
        snapshot->has_thread = false;
    }
}

void mq_snapshot_free(mq_snapshot *snapshot)
{
    if (snapshot == NULL) {
        return;
    }
    mq_snapshot_stop(snapshot);
    for (size_t i = 0; i < QUESTIONS; i++) {
        json_decref(snapshot->answers[i]);
        json_decref(snapshot->marks[i]);
    }
    mq_frame_release(snapshot->frame);
    pthread_cond_destroy(&snapshot->change);
    pthread_mutex_destroy(&snapshot->lock);
    free(snapshot);
}

mq_frame *mq_snapshot_take(mq_snapshot *snapshot)
{
    pthread_mutex_lock(&snapshot->lock);
    mq_frame *frame = snapshot->frame;
    atomic_fetch_add(&frame->references, 1);
    pthread_mutex_unlock(&snapshot->lock);
    return frame;
}

uint64_t mq_snapshot_number(mq_snapshot *snapshot)
{
    pthread_mutex_lock(&snapshot->lock);
    uint64_t number = snapshot->frame->number;
    pthread_mutex_unlock(&snapshot->lock);
    return number;
}

void mq_frame_release(mq_frame *frame)
{
    if (frame != NULL && atomic_fetch_sub(&frame->references, 1) == 1) {
        json_decref(frame->root);
        free(frame->text);
        free(frame);
    }
}

static void *keep_asking(void *arg)
{
    mq_snapshot *snapshot = arg;
    for (;;) {
        int64_t start_ms = mq_clock_mono_ms();
        bool is_ok = ask_all(snapshot);
        if (is_ok != snapshot->was_ok) {
            snapshot->was_ok = is_ok;
            mq_log(is_ok ? MQ_INFO : MQ_WARN, is_ok ? "broker answers" : "broker does not answer",
                   "broker=%s why=\"%s\"", snapshot->gateway->config.broker,
                   is_ok ? "" : snapshot->error);
        }
        publish(snapshot, is_ok);
        mq_events_wake(snapshot->gateway->events);
        if (!pause_until(snapshot, start_ms + MQ_SNAPSHOT_EVERY_MS)) {
            return NULL;
        }
    }
}

/* False when the broker did not answer; the answers of before stay. */
static bool ask_all(mq_snapshot *snapshot)
{
    json_t *mark = NULL;
    bool is_ok = true;
    for (size_t i = 0; i < QUESTIONS && is_ok; i++) {
        const struct question *question = &questions[i];
        if (question->is_slow && mark == NULL) {
            mark = make_mark(snapshot);
        }
        bool is_fresh = question->is_slow && snapshot->answers[i] != NULL &&
                        mq_clock_mono_ms() - snapshot->asked_ms[i] < MQ_SNAPSHOT_SLOW_MS &&
                        json_equal(snapshot->marks[i], mark);
        json_t *answer = is_fresh ? NULL : ask(snapshot, question);
        if (answer != NULL) {
            take(snapshot, i, answer);
            json_decref(snapshot->marks[i]);
            snapshot->marks[i] = json_incref(mark);
        }
        is_ok = is_fresh || answer != NULL;
    }
    json_decref(mark);
    if (is_ok) {
        snapshot->error[0] = '\0';
    }
    return is_ok;
}

/* Owned, NULL (with the reason in snapshot->error) when there is none. */
static json_t *ask(mq_snapshot *snapshot, const struct question *question)
{
    maasq_error why = {0};
    char *text = NULL;
    json_t *answer = NULL;
    int code = maasq_query(snapshot->gateway->client, question->what, NULL, question->filter,
                           question->limit, MQ_SNAPSHOT_ASK_MS, &text, &why);
    if (code == 0) {
        json_error_t at;
        answer = json_loads(text, JSON_REJECT_DUPLICATES, &at);
        if (answer == NULL) {
            snprintf(why.text, sizeof why.text, "%s: the broker's answer is no JSON: %s",
                     question->what, at.text);
        }
    }
    maasq_free(text);
    if (answer == NULL) {
        snprintf(snapshot->error, sizeof snapshot->error, "%s", why.text);
    }
    return answer;
}

/* What tells that models, datasets or dead jobs have changed: their numbers, and the last event. */
static json_t *make_mark(const mq_snapshot *snapshot)
{
    const json_t *status = snapshot->answers[0];
    const json_t *events = json_object_get(snapshot->answers[1], "events");
    json_t *mark = json_object();
    json_object_set(mark, "registry", json_object_get(status, "registry"));
    json_object_set(mark, "dead", json_object_get(json_object_get(status, "counters"), "dead"));
    json_object_set(mark, "published",
                    json_object_get(json_object_get(status, "counters"), "published"));
    json_object_set(mark, "event", json_object_get(json_array_get(events, 0), "n"));
    return mark;
}

static void take(mq_snapshot *snapshot, size_t i, json_t *answer)
{
    const char *member = questions[i].member;
    json_decref(snapshot->answers[i]);
    snapshot->answers[i] = answer;
    snapshot->asked_ms[i] = mq_clock_mono_ms();
    if (strcmp(member, "running") == 0) {
        mq_curves_add(&snapshot->curves, json_object_get(answer, "jobs"));
    } else if (strcmp(member, "models") == 0) {
        mq_curves_recall(&snapshot->curves, json_object_get(answer, "models"));
        make_slim(json_object_get(answer, "models"));
    }
}

/* Every page gets every frame: the long parts of a version are for those who ask for it. */
static void make_slim(json_t *models)
{
    for (size_t i = 0; i < json_array_size(models); i++) {
        const json_t *versions = json_object_get(json_array_get(models, i), "versions");
        for (size_t v = 0; v < json_array_size(versions); v++) {
            json_t *meta = json_object_get(json_array_get(versions, v), "meta");
            json_object_del(meta, "curve");
            json_object_del(meta, "report");
        }
    }
}

static void publish(mq_snapshot *snapshot, bool is_ok)
{
    mq_frame *frame = calloc(1, sizeof *frame);
    json_t *root = json_object();
    MQ_ASSERT(frame != NULL && root != NULL);
    json_object_set_new(root, "at_ms", json_integer(mq_clock_wall_ms()));
    json_object_set_new(root, "ok", json_boolean(is_ok));
    json_object_set_new(root, "error", json_string(snapshot->error));
    json_object_set_new(root, "gateway", gateway_json(snapshot->gateway));
    for (size_t i = 0; i < QUESTIONS; i++) {
        json_t *answer = snapshot->answers[i];
        json_object_set_new(root, questions[i].member,
                            answer == NULL ? json_null() : json_incref(answer));
    }
    json_object_set_new(root, "curves", mq_curves_json(&snapshot->curves));
    frame->references = 1;
    frame->is_ok = is_ok;
    frame->root = root;
    frame->text = json_dumps(root, JSON_COMPACT);
    MQ_ASSERT(frame->text != NULL);
    frame->len = strlen(frame->text);
    pthread_mutex_lock(&snapshot->lock);
    mq_frame *old = snapshot->frame;
    frame->number = old == NULL ? 1 : old->number + 1;
    snapshot->frame = frame;
    pthread_mutex_unlock(&snapshot->lock);
    mq_frame_release(old);
}

/* False when it is time to stop. */
static bool pause_until(mq_snapshot *snapshot, int64_t wake_ms)
{
    struct timespec wake = {.tv_sec = wake_ms / 1000, .tv_nsec = wake_ms % 1000 * 1000000};
    pthread_mutex_lock(&snapshot->lock);
    int waited = 0;
    while (!snapshot->is_stopping && waited == 0) {
        waited = pthread_cond_timedwait(&snapshot->change, &snapshot->lock, &wake);
    }
    bool goes_on = !snapshot->is_stopping;
    pthread_mutex_unlock(&snapshot->lock);
    return goes_on;
}

static json_t *gateway_json(const mq_gateway *gateway)
{
    json_t *object = json_object();
    json_object_set_new(object, "version", json_string(MQ_VERSION));
    json_object_set_new(object, "broker", json_string(gateway->config.broker));
    json_object_set_new(object, "read_only", json_boolean(gateway->config.is_read_only));
    return object;
}

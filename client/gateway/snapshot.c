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

/* What is asked: member of the frame = the question's name. */
static const struct {
    const char *what;
    const char *filter;
} questions[] = {
    {"status", ""}, {"workers", ""},  {"queues", ""}, {"jobs", ""},
    {"models", ""}, {"datasets", ""}, {"events", ""},
};
enum { QUESTIONS = sizeof questions / sizeof *questions };

struct mq_snapshot {
    mq_gateway *gateway;
    pthread_t thread;
    bool has_thread;
    json_t *answers[QUESTIONS]; /* the thread's own, like the rest up to the lock */
    json_t *models;             /* name -> {"summary": as listed, "model": as asked for} */
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
static bool ask(mq_snapshot *snapshot, const char *what, const char *name, const char *filter,
                json_t **out);
static bool ask_versions(mq_snapshot *snapshot, json_t *models);
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
    }
    json_decref(snapshot->models);
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
    for (size_t i = 0; i < QUESTIONS; i++) {
        const char *what = questions[i].what;
        json_t *answer = NULL;
        bool is_models = strcmp(what, "models") == 0;
        if (!ask(snapshot, what, NULL, questions[i].filter, &answer) ||
            (is_models && !ask_versions(snapshot, json_object_get(answer, "models")))) {
            json_decref(answer);
            return false;
        }
        json_decref(snapshot->answers[i]);
        snapshot->answers[i] = answer;
        if (strcmp(what, "jobs") == 0) {
            mq_curves_add(&snapshot->curves, json_object_get(answer, "jobs"));
        }
    }
    snapshot->error[0] = '\0';
    return true;
}

static bool ask(mq_snapshot *snapshot, const char *what, const char *name, const char *filter,
                json_t **out)
{
    maasq_error why = {0};
    char *text = NULL;
    int code = maasq_query(snapshot->gateway->client, what, name, filter, MQ_SNAPSHOT_ROWS_MAX,
                           MQ_SNAPSHOT_ASK_MS, &text, &why);
    *out = NULL;
    if (code == 0) {
        json_error_t at;
        *out = json_loads(text, JSON_REJECT_DUPLICATES, &at);
        if (*out == NULL) {
            snprintf(why.text, sizeof why.text, "%s: the broker's answer is no JSON: %s", what,
                     at.text);
        }
    }
    maasq_free(text);
    if (*out == NULL) {
        snprintf(snapshot->error, sizeof snapshot->error, "%s", why.text);
    }
    return *out != NULL;
}

/* Replaces what the list says of a model by all of its versions. A model is asked for only when its
 * line in the list has changed. */
static bool ask_versions(mq_snapshot *snapshot, json_t *models)
{
    json_t *known = json_object();
    bool is_ok = true;
    size_t count = json_array_size(models);
    count = count < MQ_SNAPSHOT_MODELS_MAX ? count : MQ_SNAPSHOT_MODELS_MAX;
    for (size_t i = 0; i < count && is_ok; i++) {
        json_t *summary = json_array_get(models, i);
        const char *name = json_string_value(json_object_get(summary, "name"));
        json_t *entry = name == NULL ? NULL : json_object_get(snapshot->models, name);
        if (name == NULL) {
            continue;
        }
        if (entry == NULL || !json_equal(json_object_get(entry, "summary"), summary)) {
            json_t *model = NULL;
            is_ok = ask(snapshot, "model", name, NULL, &model);
            entry = json_object();
            json_object_set(entry, "summary", summary);
            json_object_set_new(entry, "model", is_ok ? model : json_null());
            json_object_set_new(known, name, entry);
        } else {
            json_object_set(known, name, entry);
        }
        if (is_ok) {
            json_array_set(models, i, json_object_get(entry, "model"));
        }
    }
    json_decref(snapshot->models);
    snapshot->models = known;
    if (!is_ok) {
        json_object_clear(snapshot->models);
    }
    return is_ok;
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
        json_object_set_new(root, questions[i].what,
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

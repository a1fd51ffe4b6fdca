/* Blob transfers beside the supervisor's loop; see blob_thread.h. */
#include "worker/io/blob_thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "shared/base/assert.h"

enum { URL_MAX = 520 };

typedef struct queue {
    mq_blob_request at[MQ_BLOB_REQUESTS_MAX];
    uint32_t first, count;
} queue;

struct mq_blob_thread {
    pthread_t thread;
    pthread_mutex_t lock; /* guards asked, answered, url, is_over */
    pthread_cond_t changed;
    queue asked, answered;
    char url[URL_MAX];
    bool is_over;
    int event_fd;
    mq_blob_cache *cache; /* of the thread */
    mq_blobs *blobs;      /* of the thread; NULL until used, or after a change of url */
    char blobs_url[URL_MAX];
};

static void queue_put(queue *q, const mq_blob_request *request)
{
    MQ_ASSERT(q->count < MQ_BLOB_REQUESTS_MAX);
    q->at[(q->first + q->count++) % MQ_BLOB_REQUESTS_MAX] = *request;
}

static mq_blob_request queue_take(queue *q)
{
    MQ_ASSERT(q->count > 0);
    mq_blob_request request = q->at[q->first];
    q->first = (q->first + 1) % MQ_BLOB_REQUESTS_MAX;
    q->count--;
    return request;
}

static mq_code store_open(mq_blob_thread *t, const char *url, mq_error *err)
{
    if (t->blobs != NULL && strcmp(url, t->blobs_url) == 0) {
        return MQ_OK;
    }
    mq_blobs_free(t->blobs);
    t->blobs = NULL;
    if (*url == '\0') {
        return mq_fail(err, MQ_E_IO, "blob store: not known yet, no broker has answered");
    }
    memcpy(t->blobs_url, url, URL_MAX);
    return mq_blobs_new(&t->blobs, url, err);
}

static mq_code put(mq_blob_thread *t, mq_blob_request *r, mq_error *err)
{
    mq_map_file map;
    char hash[MQ_SHA256_HEX];
    mq_code code = mq_map_file_fd(&map, r->fd, MQ_BLOB_BYTES_MAX, err);
    if (code == MQ_OK) {
        code = mq_blobs_put(t->blobs, map.bytes, hash, err);
        mq_map_file_release(&map);
    }
    if (code == MQ_OK && r->type == MQ_BLOB_UPLOAD && strcmp(hash, r->hash) != 0) {
        code = mq_fail(err, MQ_E_CORRUPT, "blob %.16s: kept bytes hash to %.16s", r->hash, hash);
    }
    if (code == MQ_OK) {
        memcpy(r->hash, hash, sizeof hash);
    }
    return code;
}

static void serve(mq_blob_thread *t, const char *url, mq_blob_request *r)
{
    mq_error err = {0};
    r->code = store_open(t, url, &err);
    if (r->code == MQ_OK && r->type == MQ_BLOB_OPEN) {
        r->fd = -1;
        r->code = mq_blob_cache_open(t->cache, t->blobs, r->hash, &r->fd, &err);
    } else if (r->code == MQ_OK) {
        r->code = put(t, r, &err);
    }
    memcpy(r->text, err.text, sizeof r->text);
    if (r->code == MQ_OK) {
        r->text[0] = '\0';
    }
}

static void *run(void *arg)
{
    mq_blob_thread *t = arg;
    char url[URL_MAX];
    MQ_ASSERT(pthread_mutex_lock(&t->lock) == 0);
    for (;;) {
        while (!t->is_over && (t->asked.count == 0 || t->answered.count == MQ_BLOB_REQUESTS_MAX)) {
            MQ_ASSERT(pthread_cond_wait(&t->changed, &t->lock) == 0);
        }
        if (t->is_over) {
            break;
        }
        mq_blob_request request = queue_take(&t->asked);
        memcpy(url, t->url, sizeof url);
        (void)pthread_mutex_unlock(&t->lock);
        serve(t, url, &request);
        MQ_ASSERT(pthread_mutex_lock(&t->lock) == 0);
        queue_put(&t->answered, &request);
        uint64_t one = 1;
        MQ_ASSERT(write(t->event_fd, &one, sizeof one) == (ssize_t)sizeof one);
    }
    (void)pthread_mutex_unlock(&t->lock);
    return NULL;
}

mq_code mq_blob_thread_new(mq_blob_thread **out, const char *cache_dir, size_t cache_bytes,
                           mq_error *err)
{
    sigset_t all, before;
    *out = NULL;
    mq_blob_thread *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "blob thread: no memory");
    }
    MQ_ASSERT(pthread_mutex_init(&t->lock, NULL) == 0);
    MQ_ASSERT(pthread_cond_init(&t->changed, NULL) == 0);
    t->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    mq_code code = t->event_fd < 0 ? mq_fail(err, MQ_E_IO, "eventfd: %s", strerror(errno))
                                   : mq_blob_cache_new(&t->cache, cache_dir, cache_bytes, err);
    if (code == MQ_OK) {
        sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &before);
        int failure = pthread_create(&t->thread, NULL, run, t);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        code = failure == 0 ? MQ_OK : mq_fail(err, MQ_E_IO, "blob thread: %s", strerror(failure));
    }
    if (code != MQ_OK) {
        mq_blob_cache_free(t->cache);
        if (t->event_fd >= 0) {
            close(t->event_fd);
        }
        free(t);
        return code;
    }
    *out = t;
    return MQ_OK;
}

static void queue_close(queue *q)
{
    while (q->count > 0) {
        mq_blob_request request = queue_take(q);
        if (request.fd >= 0) {
            close(request.fd);
        }
    }
}

void mq_blob_thread_free(mq_blob_thread *t)
{
    if (t == NULL) {
        return;
    }
    MQ_ASSERT(pthread_mutex_lock(&t->lock) == 0);
    t->is_over = true;
    pthread_cond_broadcast(&t->changed);
    (void)pthread_mutex_unlock(&t->lock);
    (void)pthread_join(t->thread, NULL);
    queue_close(&t->asked);
    queue_close(&t->answered);
    mq_blobs_free(t->blobs);
    mq_blob_cache_free(t->cache);
    close(t->event_fd);
    (void)pthread_cond_destroy(&t->changed);
    (void)pthread_mutex_destroy(&t->lock);
    free(t);
}

void mq_blob_thread_store(mq_blob_thread *t, const char *url)
{
    MQ_ASSERT(pthread_mutex_lock(&t->lock) == 0);
    mq_span_copy(mq_str(url), t->url, sizeof t->url);
    (void)pthread_mutex_unlock(&t->lock);
}

mq_code mq_blob_thread_ask(mq_blob_thread *t, const mq_blob_request *request, mq_error *err)
{
    mq_code code = MQ_OK;
    MQ_ASSERT(pthread_mutex_lock(&t->lock) == 0);
    if (t->asked.count < MQ_BLOB_REQUESTS_MAX) {
        queue_put(&t->asked, request);
        pthread_cond_broadcast(&t->changed);
    } else {
        code = mq_fail(err, MQ_E_BUSY, "blobs: %d requests wait already", MQ_BLOB_REQUESTS_MAX);
    }
    (void)pthread_mutex_unlock(&t->lock);
    if (code != MQ_OK && request->fd >= 0) {
        close(request->fd);
    }
    return code;
}

bool mq_blob_thread_answer(mq_blob_thread *t, mq_blob_request *out)
{
    MQ_ASSERT(pthread_mutex_lock(&t->lock) == 0);
    bool has_one = t->answered.count > 0;
    if (has_one) {
        *out = queue_take(&t->answered);
        pthread_cond_broadcast(&t->changed);
    } else {
        uint64_t count;
        (void)!read(t->event_fd, &count, sizeof count); /* empty queue, quiet descriptor */
    }
    (void)pthread_mutex_unlock(&t->lock);
    return has_one;
}

int mq_blob_thread_fd(const mq_blob_thread *t)
{
    return t->event_fd;
}

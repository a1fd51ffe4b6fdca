/* Loaded models of this process; see session_cache.h. */
#include "worker/kinds/session_cache.h"

#include <stdlib.h>

#include "shared/base/assert.h"
#include "worker/dnnl/dnnl.h"

typedef struct warm {
    char blob[MQ_SHA256_HEX]; /* "" = free */
    mq_map_file file;
    mq_model *model; /* borrows file */
    mq_session *session;
    size_t bytes;
    uint64_t used; /* turn of the last use */
} warm;

/* Belongs to the thread that runs jobs. */
static warm cache[MQ_SESSION_CACHE_COUNT_MAX];
static uint64_t turn;

static void drop(warm *w)
{
    mq_session_free(w->session);
    mq_model_free(w->model);
    mq_map_file_release(&w->file);
    *w = (warm){0};
}

static warm *oldest(void)
{
    warm *found = NULL;
    for (size_t i = 0; i < MQ_SESSION_CACHE_COUNT_MAX; i++) {
        if (cache[i].session != NULL && (found == NULL || cache[i].used < found->used)) {
            found = &cache[i];
        }
    }
    return found;
}

/* A free place with room for bytes more. */
static warm *make_room(size_t bytes)
{
    size_t total = bytes;
    warm *place = NULL;
    for (size_t i = 0; i < MQ_SESSION_CACHE_COUNT_MAX; i++) {
        total += cache[i].bytes;
        place = cache[i].session == NULL ? &cache[i] : place;
    }
    while (place == NULL || total > MQ_SESSION_CACHE_BYTES_MAX) {
        warm *old = oldest();
        if (old == NULL) {
            break; /* one model alone may be larger than the limit */
        }
        total -= old->bytes;
        drop(old);
        place = old;
    }
    MQ_ASSERT(place != NULL);
    return place;
}

static mq_code load(mq_host *host, const char *blob, warm *w, mq_error *err)
{
    const char *threads = getenv("MAASQ_THREADS"); /* the worker's --threads */
    mq_dnnl_threads(threads == NULL ? 1 : (int)strtol(threads, NULL, 10));
    mq_code code = host->ops->blob_open(host, blob, &w->file, err);
    if (code == MQ_OK) {
        code = mq_model_load(&w->model, w->file.bytes, 0, err);
    }
    if (code == MQ_OK) {
        const char *limit = getenv("MAASQ_PACKS_BYTES");
        const mq_pack_place place = {.dir = getenv("MAASQ_PACKS"),
                                     .model = blob,
                                     .limit_bytes = limit == NULL ? 0 : strtoull(limit, NULL, 10)};
        const mq_session_options options = {.packs = &place, .file = &w->file};
        code = mq_session_new(&w->session, w->model, &options, err);
    }
    if (code != MQ_OK) {
        drop(w);
        return mq_wrap(err, "model %s", host->model);
    }
    mq_session_stats stats;
    mq_session_stats_get(w->session, &stats);
    memcpy(w->blob, blob, MQ_SHA256_HEX);
    w->bytes = w->file.bytes.len + stats.packed_bytes;
    return MQ_OK;
}

mq_code mq_session_cache_get(mq_host *host, const char *blob, mq_session **out, mq_error *err)
{
    for (size_t i = 0; i < MQ_SESSION_CACHE_COUNT_MAX; i++) {
        if (cache[i].session != NULL && strcmp(cache[i].blob, blob) == 0) {
            cache[i].used = ++turn;
            *out = cache[i].session;
            return MQ_OK;
        }
    }
    warm fresh = {0};
    mq_code code = load(host, blob, &fresh, err);
    if (code != MQ_OK) {
        return code;
    }
    fresh.used = ++turn;
    warm *place = make_room(fresh.bytes);
    *place = fresh;
    *out = place->session;
    return MQ_OK;
}

size_t mq_session_cache_count(void)
{
    size_t count = 0;
    for (size_t i = 0; i < MQ_SESSION_CACHE_COUNT_MAX; i++) {
        count += cache[i].session != NULL;
    }
    return count;
}

void mq_session_cache_clear(void)
{
    for (size_t i = 0; i < MQ_SESSION_CACHE_COUNT_MAX; i++) {
        if (cache[i].session != NULL) {
            drop(&cache[i]);
        }
    }
}

/* A deployment of several shards: one session a shard, each as if there were no other. The user's
 * client is that of shard 0; the others are made when a job goes there, and are dispatched by the
 * same thread. Must not know sockets or messages. */
#include <errno.h>
#include <sys/epoll.h>

#include "client/src/client.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"

static bool is_known(const void *arg)
{
    return ((const maasq_client *)arg)->shard_count > 0;
}

uint32_t mq_client_shards(maasq_client *primary, int64_t deadline_ms)
{
    pthread_mutex_lock(&primary->lock);
    if (primary->shard_count == 0 && deadline_ms > mq_clock_mono_ms()) {
        /* A question without a text: hello is sent until somebody answers. */
        uint32_t slot = mq_ccore_call(&primary->core, mq_clock_mono_ms(), INT64_MAX);
        mq_client_wake(primary);
        (void)mq_client_wait(primary, is_known, primary, deadline_ms);
        if (slot != MQ_CCORE_NONE) {
            mq_ccore_drop(&primary->core, slot);
        }
    }
    uint32_t shards = primary->shard_count == 0 ? 1 : primary->shard_count;
    pthread_mutex_unlock(&primary->lock);
    return shards;
}

/* The primary's descriptor speaks for all. */
static mq_code join(maasq_client *primary, maasq_client *client, mq_error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = MQ_IO_SHARD};
    if (epoll_ctl(primary->io.epoll_fd, EPOLL_CTL_ADD, client->io.epoll_fd, &event) != 0) {
        return mq_fail(err, MQ_E_IO, "epoll: %s", strerror(errno));
    }
    return MQ_OK;
}

maasq_client *mq_client_of(maasq_client *primary, uint32_t shard, mq_error *err)
{
    MQ_ASSERT(shard < MQ_ULID_SHARDS_MAX);
    if (shard == 0) {
        return primary;
    }
    pthread_mutex_lock(&primary->lock);
    maasq_client *found = primary->others[shard];
    pthread_mutex_unlock(&primary->lock);
    if (found != NULL) {
        return found;
    }
    maasq_client *made = mq_client_new_shard(primary, shard, err);
    if (made == NULL) {
        return NULL;
    }
    pthread_mutex_lock(&primary->lock);
    found = primary->others[shard]; /* another thread may have been quicker */
    bool is_late = found != NULL || primary->is_closing;
    if (!is_late && join(primary, made, err) == MQ_OK) {
        primary->others[shard] = made;
        found = made;
    }
    pthread_mutex_unlock(&primary->lock);
    if (found != made) {
        pthread_mutex_lock(&made->lock);
        mq_client_unref_unlock(made);
        if (found == NULL && is_late) {
            (void)mq_fail(err, MQ_E_CANCELLED, "the client is being freed");
        }
    }
    return found;
}

uint32_t mq_client_all(maasq_client *primary, maasq_client *out[MQ_ULID_SHARDS_MAX])
{
    uint32_t count = 0;
    out[count++] = primary;
    if (primary->primary != NULL) {
        return count;
    }
    pthread_mutex_lock(&primary->lock);
    for (uint32_t s = 1; s < primary->shard_count; s++) {
        if (primary->others[s] != NULL) {
            out[count++] = primary->others[s];
        }
    }
    pthread_mutex_unlock(&primary->lock);
    return count;
}

/* ---- jobs that came before the first welcome ---- */

maasq_client *mq_client_lock_for(maasq_client *primary, const char *id, mq_error *err)
{
    pthread_mutex_lock(&primary->lock);
    uint32_t shards = primary->shard_count;
    uint32_t shard = shards < 2 ? 0 : mq_ulid_shard(mq_str(id), shards);
    if (shard == 0) {
        return primary;
    }
    pthread_mutex_unlock(&primary->lock);
    maasq_client *client = mq_client_of(primary, shard, err);
    if (client != NULL) {
        pthread_mutex_lock(&client->lock);
    }
    return client;
}

/* From one client's slots to another's; false when that one has no room. Under both locks. */
static bool move(maasq_client *from, uint32_t slot, maasq_client *to)
{
    maasq_job *job = from->slots[slot].job;
    const mq_ccore_entry *e = &from->core.entries[slot];
    int64_t now_ms = mq_clock_mono_ms();
    uint32_t at = e->is_opened ? mq_ccore_open(&to->core, now_ms, mq_str(job->id))
                               : mq_ccore_submit(&to->core, now_ms, mq_str(job->id),
                                                 e->is_transient, e->give_up_ms);
    if (at == MQ_CCORE_NONE) {
        return false;
    }
    if (e->is_watched) {
        mq_ccore_watch(&to->core, now_ms, at, true);
    }
    if (e->cancel != 0) { /* of an opened one: one that was not sent has ended by that */
        (void)!mq_ccore_cancel(&to->core, now_ms, at, e->cancel == 2);
    }
    mq_ccore_drop(&from->core, slot);
    from->slots[slot].job = NULL;
    from->job_count--;
    from->job_bytes -= job->block_bytes;
    from->refs--; /* the primary's user holds another one */
    to->slots[at].job = job;
    to->job_count++;
    to->job_bytes += job->block_bytes;
    to->refs++;
    job->slot = at;
    job->client = to;
    mq_client_wake(to);
    return true;
}

/* Moves the jobs of one shard. False: not all of them could go; later again. */
static bool move_shard(maasq_client *primary, uint32_t shard)
{
    mq_error err;
    maasq_client *to = NULL;
    bool is_done = true;
    pthread_mutex_lock(&primary->lock);
    for (uint32_t i = 0; is_done && i < primary->core.capacity; i++) {
        const maasq_job *job = primary->slots[i].job;
        if (job == NULL || mq_ulid_shard(mq_str(job->id), primary->shard_count) != shard) {
            continue;
        }
        if (to == NULL) { /* made without the lock; then from the beginning */
            pthread_mutex_unlock(&primary->lock);
            to = mq_client_of(primary, shard, &err);
            pthread_mutex_lock(&primary->lock);
            is_done = to != NULL;
            i = UINT32_MAX;
            continue;
        }
        pthread_mutex_lock(&to->lock); /* the primary's lock goes first, here as everywhere */
        is_done = move(primary, i, to);
        pthread_mutex_unlock(&to->lock);
    }
    pthread_cond_broadcast(&primary->changed);
    pthread_mutex_unlock(&primary->lock);
    return is_done;
}

void mq_client_move_held(maasq_client *primary)
{
    pthread_mutex_lock(&primary->lock);
    bool must = primary->must_move && !primary->is_closing;
    uint32_t shards = primary->shard_count;
    pthread_mutex_unlock(&primary->lock);
    for (uint32_t s = 1; must && s < shards; s++) {
        must = move_shard(primary, s);
    }
    if (must) {
        pthread_mutex_lock(&primary->lock);
        primary->must_move = false;
        mq_ccore_hold(&primary->core, mq_clock_mono_ms(), false);
        mq_client_wake(primary);
        pthread_mutex_unlock(&primary->lock);
    }
}

/* ---- where the shards are ---- */

void mq_client_routes_learn(maasq_client *client, const mq_msg_routes *m)
{
    mq_client_routes *r = client->routes;
    pthread_mutex_lock(&r->lock);
    if (m->version > r->version) {
        r->version = m->version;
        for (uint32_t i = 0; i < m->routes_count; i++) {
            uint64_t shard = m->routes[i].shard;
            mq_span url = m->routes[i].endpoint;
            if (shard < MQ_ULID_SHARDS_MAX && url.len < sizeof r->at[shard].url) {
                r->at[shard].epoch = m->routes[i].epoch;
                (void)mq_span_copy(url, r->at[shard].url, sizeof r->at[shard].url);
            }
        }
    }
    pthread_mutex_unlock(&r->lock);
}

bool mq_client_routes_follow(maasq_client *client, char url[MQ_CLIENT_URL_MAX])
{
    mq_client_routes *r = client->routes;
    pthread_mutex_lock(&r->lock);
    uint64_t epoch = r->at[client->shard].epoch;
    bool is_news = client->routes_seen != r->version;
    memcpy(url, r->at[client->shard].url, MQ_CLIENT_URL_MAX);
    client->routes_seen = r->version;
    pthread_mutex_unlock(&r->lock);
    if (!is_news || url[0] == '\0') {
        return false;
    }
    /* A broker that has welcomed us owned the shard then, whatever its endpoint is called. */
    bool has_successor = client->route_epoch != 0 && epoch > client->route_epoch;
    bool must_go = (!client->is_welcome || has_successor) && strcmp(url, client->url) != 0;
    client->route_epoch = epoch;
    return must_go;
}

uint64_t mq_client_routes_epoch(maasq_client *client)
{
    pthread_mutex_lock(&client->routes->lock);
    uint64_t epoch = client->routes->at[client->shard].epoch;
    pthread_mutex_unlock(&client->routes->lock);
    return epoch;
}

uint64_t mq_client_routes_version(maasq_client *client)
{
    pthread_mutex_lock(&client->routes->lock);
    uint64_t version = client->routes->version;
    pthread_mutex_unlock(&client->routes->lock);
    return version;
}

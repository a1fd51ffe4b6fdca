/* The commit of the in-memory model: what lua/commit.lua does, said once more as plainly as
 * possible. The differential test holds the two together. No queue, no clock. */
#include <stdio.h>

#include "shared/base/assert.h"
#include "shared/store/batch.h"
#include "shared/store/memory.h"

enum { EVENTS_KEPT = MQ_STORE_EVENTS_SCAN };

static mq_span key_of(const uint64_t *number)
{
    return mq_span_of(number, sizeof *number);
}

uint64_t mq_memory_used(const mq_memory *m)
{
    return m->live.bytes + m->req.bytes + m->done.bytes + m->dead.bytes + m->dead_req.bytes +
           m->registry.bytes;
}

mq_dict_entry *mq_memory_find_done(const mq_memory *m, mq_span id, int64_t now_ms)
{
    uint64_t minute = (uint64_t)mq_batch_minute(id);
    const mq_dict_entry *bucket = mq_dict_find(&m->buckets, key_of(&minute));
    return bucket == NULL || (int64_t)bucket->extra <= now_ms ? NULL : mq_dict_find(&m->done, id);
}

/* Buckets whose time is over go, with everything in them. */
static void expire(mq_memory *m, int64_t now_ms)
{
    bool is_any = false; /* a job is never without its bucket: else there is nothing to look for */
    for (uint32_t i = 0; i < m->buckets.count; i++) {
        is_any = is_any || (int64_t)m->buckets.entries[i].extra <= now_ms;
    }
    if (!is_any) {
        return;
    }
    for (uint32_t i = m->done.count; i > 0; i--) {
        mq_span id = m->done.entries[i - 1].key;
        if (mq_memory_find_done(m, id, now_ms) == NULL) {
            mq_dict_remove(&m->done, id);
        }
    }
    for (uint32_t i = m->buckets.count; i > 0; i--) {
        if ((int64_t)m->buckets.entries[i - 1].extra <= now_ms) {
            mq_dict_remove(&m->buckets, m->buckets.entries[i - 1].key);
        }
    }
}

static bool exists(const mq_memory *m, mq_span id, int64_t now_ms)
{
    return mq_dict_find(&m->live, id) != NULL || mq_dict_find(&m->dead, id) != NULL ||
           mq_memory_find_done(m, id, now_ms) != NULL;
}

static bool is_live_in(const mq_memory *m, mq_span id, uint64_t number)
{
    const mq_dict_entry *e = mq_dict_find(&m->live, id);
    return e != NULL && e->extra == mq_batch_segment(number);
}

/* Record and result as one value; extra tells where the record ends. */
static void put_pair(mq_dict *dict, mq_span id, mq_span record, mq_span result)
{
    mq_buf both;
    mq_buf_init(&both, (size_t)MQ_STORE_RECORD_MAX + MQ_STORE_BODY_MAX);
    mq_buf_add_span(&both, record);
    mq_buf_add_span(&both, result);
    MQ_ASSERT(!both.is_full);
    mq_dict_put(dict, id, mq_buf_span(&both), record.len);
    mq_buf_release(&both);
}

static void put_done(mq_memory *m, const mq_store_finish *f, int64_t now_ms)
{
    uint64_t minute = (uint64_t)mq_batch_minute(f->id);
    int64_t expires_ms = now_ms + f->retention_ms;
    const mq_dict_entry *bucket = mq_dict_find(&m->buckets, key_of(&minute));
    if (bucket == NULL || (int64_t)bucket->extra < expires_ms) {
        mq_dict_put(&m->buckets, key_of(&minute), (mq_span){0}, (uint64_t)expires_ms);
    }
    put_pair(&m->done, f->id, f->record, f->result);
}

/* True when the finish was applied. */
static bool finish(mq_memory *m, const mq_store_finish *f, int64_t now_ms)
{
    if (f->was_dead) {
        if (!mq_dict_remove(&m->dead, f->id)) {
            return false;
        }
        mq_dict_remove(&m->dead_req, f->id);
        put_done(m, f, now_ms);
        return true;
    }
    if (!f->is_new && !is_live_in(m, f->id, f->number)) {
        return false;
    }
    if (f->is_dead) {
        const mq_dict_entry *body = mq_dict_find(&m->req, f->id);
        put_pair(&m->dead, f->id, f->record, f->result);
        MQ_ASSERT(body != NULL);
        mq_dict_put(&m->dead_req, f->id, body->value, 0);
    } else {
        put_done(m, f, now_ms);
    }
    mq_dict_remove(&m->live, f->id);
    mq_dict_remove(&m->req, f->id);
    return true;
}

static bool revive(mq_memory *m, const mq_store_revive *r)
{
    if (!mq_dict_remove(&m->dead, r->id)) {
        return false;
    }
    const mq_dict_entry *body = mq_dict_find(&m->dead_req, r->id);
    MQ_ASSERT(body != NULL);
    mq_dict_put(&m->live, r->id, r->record, mq_batch_segment(r->number));
    mq_dict_put(&m->req, r->id, body->value, 0);
    mq_dict_remove(&m->dead_req, r->id);
    return true;
}

static void apply_jobs(mq_memory *m, const mq_store_batch *b, int64_t now_ms, uint32_t *dups,
                       mq_store_reply *reply)
{
    for (uint32_t i = 0; i < b->create_count; i++) {
        const mq_store_create *c = &b->creates[i];
        if (exists(m, c->id, now_ms)) {
            dups[reply->dup_count++] = i;
            continue;
        }
        mq_dict_put(&m->live, c->id, c->record, mq_batch_segment(c->number));
        mq_dict_put(&m->req, c->id, c->body, 0);
    }
    for (uint32_t i = 0; i < b->put_count; i++) {
        const mq_store_put *p = &b->puts[i];
        if (is_live_in(m, p->id, p->number)) {
            mq_dict_put(&m->live, p->id, p->record, mq_batch_segment(p->number));
        } else {
            reply->ignored_count++;
        }
    }
    for (uint32_t i = 0; i < b->finish_count; i++) {
        const mq_store_finish *f = &b->finishes[i];
        if (f->is_new && exists(m, f->id, now_ms)) {
            dups[reply->dup_count++] = b->create_count + i;
        } else if (!finish(m, f, now_ms)) {
            reply->ignored_count++;
        }
    }
    for (uint32_t i = 0; i < b->revive_count; i++) {
        reply->ignored_count += !revive(m, &b->revives[i]);
    }
}

static void add_to_counter(mq_memory *m, mq_span name, int64_t delta)
{
    const mq_dict_entry *e = mq_dict_find(&m->counters, name);
    int64_t before = e == NULL ? 0 : (int64_t)e->extra;
    mq_dict_put(&m->counters, name, (mq_span){0}, (uint64_t)(before + delta));
}

static void apply_rest(mq_memory *m, const mq_store_batch *b, uint32_t dup_count, int64_t now_ms)
{
    for (uint32_t i = 0; i < b->registry_count; i++) {
        const mq_store_set *r = &b->registry[i];
        if (r->value.data == NULL) {
            mq_dict_remove(&m->registry, r->field);
        } else {
            mq_dict_put(&m->registry, r->field, r->value, 0);
        }
    }
    for (uint32_t i = 0; i < b->counter_count; i++) {
        add_to_counter(m, b->counters[i].name, b->counters[i].delta);
    }
    if (dup_count > 0) {
        add_to_counter(m, mq_str("dups"), dup_count);
    }
    if (b->event.len > 0) {
        uint64_t number = m->event_count++;
        mq_dict_put(&m->events, key_of(&number), b->event, (uint64_t)now_ms);
        if (number >= EVENTS_KEPT) {
            number -= EVENTS_KEPT;
            mq_dict_remove(&m->events, key_of(&number));
        }
    }
}

/* An id stands at most once in a batch: the core folds a turn's changes into one. */
static void check_ids_once(const mq_store_batch *b)
{
    mq_map ids;
    mq_code code = mq_map_init(&ids, MQ_STORE_JOBS_MAX, 0, NULL);
    MQ_ASSERT(code == MQ_OK);
    for (uint32_t i = 0; i < b->create_count; i++) {
        MQ_ASSERT(mq_map_find(&ids, b->creates[i].id) == MQ_MAP_NONE);
        (void)mq_map_put(&ids, b->creates[i].id, i);
    }
    for (uint32_t i = 0; i < b->put_count; i++) {
        MQ_ASSERT(mq_map_find(&ids, b->puts[i].id) == MQ_MAP_NONE);
        (void)mq_map_put(&ids, b->puts[i].id, i);
    }
    for (uint32_t i = 0; i < b->finish_count; i++) {
        MQ_ASSERT(mq_map_find(&ids, b->finishes[i].id) == MQ_MAP_NONE);
        (void)mq_map_put(&ids, b->finishes[i].id, i);
    }
    for (uint32_t i = 0; i < b->revive_count; i++) {
        MQ_ASSERT(mq_map_find(&ids, b->revives[i].id) == MQ_MAP_NONE);
        (void)mq_map_put(&ids, b->revives[i].id, i);
    }
    mq_map_release(&ids);
}

void mq_memory_apply(mq_memory *m, const mq_store_batch *b, int64_t now_ms, mq_arena *arena,
                     mq_store_reply *reply)
{
    check_ids_once(b);
    if (m->max_bytes > 0 && mq_memory_used(m) > m->max_bytes && mq_batch_adds(b)) {
        reply->verdict = MQ_STORE_FULL; /* Redis too refuses before it runs the function */
        return;
    }
    if (b->epoch == 0 || b->epoch != m->epoch) {
        reply->verdict = MQ_STORE_FENCED;
        return;
    }
    if (b->sequence != m->sequence + 1) {
        reply->verdict = b->sequence == m->sequence ? MQ_STORE_DUP : MQ_STORE_GAP;
        return;
    }
    expire(m, now_ms);
    uint32_t *dups = mq_arena_new(arena, uint32_t, b->create_count + b->finish_count + 1);
    MQ_ASSERT(dups != NULL);
    apply_jobs(m, b, now_ms, dups, reply);
    apply_rest(m, b, reply->dup_count, now_ms);
    m->sequence = b->sequence;
    reply->verdict = MQ_STORE_OK;
    reply->dups = dups;
}

uint64_t mq_memory_trim(mq_memory *m, uint64_t minute, mq_store_trim mode, int64_t now_ms,
                        bool *is_there)
{
    uint64_t freed = 0;
    uint32_t left = 0;
    char name[48];
    expire(m, now_ms);
    for (uint32_t i = m->done.count; i > 0; i--) {
        mq_dict_entry *e = &m->done.entries[i - 1];
        if ((uint64_t)mq_batch_minute(e->key) != minute) {
            continue;
        }
        left++;
        if (mode == MQ_TRIM_LOOK) {
            continue;
        }
        freed += e->value.len - e->extra;
        if (mode == MQ_TRIM_ALL) {
            freed += e->extra;
            left--;
            mq_dict_remove(&m->done, e->key);
        } else {
            mq_dict_put(&m->done, e->key, mq_span_of(e->value.data, (size_t)e->extra), e->extra);
        }
    }
    (void)snprintf(name, sizeof name, MQ_STORE_KEPT_PREFIX "%llu", (unsigned long long)minute);
    mq_dict_entry *count = mq_dict_find(&m->counters, mq_str(name));
    if (freed > 0) {
        uint64_t bits = (count == NULL ? 0 : count->extra) - freed;
        mq_dict_put(&m->counters, mq_str(name), (mq_span){0}, bits);
    }
    if (left == 0) {
        mq_dict_remove(&m->counters, mq_str(name));
        mq_dict_remove(&m->buckets, key_of(&minute));
    }
    *is_there = left > 0;
    return freed;
}

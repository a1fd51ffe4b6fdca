/* Calls to a store that wait for their answer, and copies of what it says, for tests. */
#ifndef MQ_TEST_STORE_H
#define MQ_TEST_STORE_H

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/arena.h"
#include "shared/base/clock.h"
#include "shared/store/store.h"

enum { MQ_TEST_STORE_WAIT_MS = 60000 };

typedef struct mq_test_pair {
    mq_span field;
    mq_span value;
} mq_test_pair;

/* One answer, copied. */
typedef struct mq_test_answer {
    bool is_done;
    mq_code code;
    mq_error err;
    mq_store_owner owner;
    mq_store_reply reply;
    uint32_t dups[MQ_STORE_JOBS_MAX];
    mq_test_pair *pairs; /* owned; their bytes are in the arena */
    uint32_t pair_count;
    uint32_t pair_capacity;
    mq_span record;
    mq_span result;
    mq_arena arena;
} mq_test_answer;

static inline void mq_test_answer_reset(mq_test_answer *a)
{
    free(a->pairs);
    mq_arena_release(&a->arena);
    memset(a, 0, sizeof *a);
    mq_arena_init(&a->arena, (size_t)1 << 32);
}

static inline void mq_test_on_owner(void *arg, mq_code code, const mq_store_owner *owner,
                                    const mq_error *err)
{
    mq_test_answer *a = arg;
    a->is_done = true;
    a->code = code;
    a->owner = *owner;
    if (code != MQ_OK) {
        a->err = *err;
    }
}

static inline void mq_test_on_commit(void *arg, const mq_store_reply *reply)
{
    mq_test_answer *a = arg;
    a->is_done = true;
    a->reply = *reply;
    if (reply->dup_count > 0) {
        memcpy(a->dups, reply->dups, sizeof *reply->dups * reply->dup_count);
    }
    a->reply.dups = a->dups;
}

static inline mq_span mq_test_keep(mq_test_answer *a, mq_span s)
{
    return mq_span_of(mq_arena_copy(&a->arena, s), s.len);
}

static inline void mq_test_on_field(void *arg, mq_code code, mq_span field, mq_span value,
                                    const mq_error *err)
{
    mq_test_answer *a = arg;
    if (field.data == NULL) {
        a->is_done = true;
        a->code = code;
        if (code != MQ_OK) {
            a->err = *err;
        }
        return;
    }
    if (a->pair_count == a->pair_capacity) {
        a->pair_capacity = a->pair_capacity * 2 + 64;
        a->pairs = realloc(a->pairs, sizeof *a->pairs * a->pair_capacity);
    }
    a->pairs[a->pair_count++] = (mq_test_pair){mq_test_keep(a, field), mq_test_keep(a, value)};
}

static inline void mq_test_on_job(void *arg, mq_code code, mq_span record, mq_span result,
                                  const mq_error *err)
{
    mq_test_answer *a = arg;
    a->is_done = true;
    a->code = code;
    a->record = mq_test_keep(a, record);
    a->result = mq_test_keep(a, result);
    if (code != MQ_OK) {
        a->err = *err;
    }
}

/* One turn of the store's part of an event loop. */
static inline void mq_test_store_turn(mq_store *store)
{
    int fd = store->ops->fd(store);
    struct pollfd p = {.fd = fd, .events = fd < 0 ? 0 : store->ops->events(store)};
    int64_t wait_ms = store->ops->deadline(store) - mq_clock_mono_ms();
    wait_ms = wait_ms < 0 ? 0 : wait_ms > 50 ? 50 : wait_ms;
    int ready = poll(&p, fd < 0 ? 0 : 1, (int)wait_ms);
    store->ops->process(store, ready > 0 ? p.revents : 0, mq_clock_mono_ms());
}

static inline void mq_test_store_wait(mq_store *store, const bool *is_done)
{
    int64_t until_ms = mq_clock_mono_ms() + MQ_TEST_STORE_WAIT_MS;
    while (!*is_done) {
        if (mq_clock_mono_ms() > until_ms) {
            fprintf(stderr, "the store gave no answer in a minute\n");
            exit(1);
        }
        mq_test_store_turn(store);
    }
}

static inline void mq_test_store_connect(mq_store *store)
{
    int64_t until_ms = mq_clock_mono_ms() + MQ_TEST_STORE_WAIT_MS;
    while (!store->ops->is_connected(store)) {
        if (mq_clock_mono_ms() > until_ms) {
            fprintf(stderr, "the store did not connect in a minute\n");
            exit(1);
        }
        mq_test_store_turn(store);
    }
}

/* A call that was refused at once is an answer too: its code and text. */
static inline void mq_test_refused(mq_test_answer *a, mq_code code)
{
    a->is_done = code != MQ_OK;
    a->code = code;
    a->reply.verdict = MQ_STORE_FAILED;
}

/* seen: an id that must be in the store's lineage, "" = none. */
static inline void mq_test_acquire_seen(mq_store *store, const char *owner, int64_t ttl_ms,
                                        bool is_takeover, bool may_init, const char *seen,
                                        mq_test_answer *a)
{
    mq_test_answer_reset(a);
    mq_test_refused(a, store->ops->acquire(store, mq_str(owner), mq_str("tcp:there"), ttl_ms,
                                           is_takeover, may_init, mq_str(seen), mq_test_on_owner, a,
                                           &a->err));
    mq_test_store_wait(store, &a->is_done);
}

static inline void mq_test_acquire(mq_store *store, const char *owner, int64_t ttl_ms,
                                   bool is_takeover, bool may_init, mq_test_answer *a)
{
    mq_test_acquire_seen(store, owner, ttl_ms, is_takeover, may_init, "", a);
}

static inline void mq_test_release(mq_store *store, uint64_t epoch, mq_test_answer *a)
{
    mq_test_answer_reset(a);
    mq_test_refused(a, store->ops->release(store, epoch, mq_test_on_owner, a, &a->err));
    mq_test_store_wait(store, &a->is_done);
}

static inline void mq_test_commit(mq_store *store, const mq_store_batch *batch, mq_test_answer *a)
{
    mq_test_answer_reset(a);
    mq_test_refused(a, store->ops->commit(store, batch, mq_test_on_commit, a, &a->err));
    mq_test_store_wait(store, &a->is_done);
}

static inline void mq_test_segments(mq_store *store, mq_test_answer *a)
{
    mq_test_answer_reset(a);
    mq_test_refused(a, store->ops->segments(store, mq_test_on_field, a, &a->err));
    mq_test_store_wait(store, &a->is_done);
}

static inline void mq_test_scan(mq_store *store, mq_store_part part, uint64_t segment,
                                mq_test_answer *a)
{
    mq_test_answer_reset(a);
    mq_test_refused(a, store->ops->scan(store, part, segment, mq_test_on_field, a, &a->err));
    mq_test_store_wait(store, &a->is_done);
}

static inline void mq_test_bodies(mq_store *store, const mq_span *ids, uint32_t count,
                                  mq_test_answer *a)
{
    mq_test_answer_reset(a);
    mq_test_refused(a, store->ops->bodies(store, ids, count, mq_test_on_field, a, &a->err));
    mq_test_store_wait(store, &a->is_done);
}

static inline void mq_test_job(mq_store *store, mq_span id, mq_test_answer *a)
{
    mq_test_answer_reset(a);
    mq_test_refused(a, store->ops->job(store, id, mq_test_on_job, a, &a->err));
    mq_test_store_wait(store, &a->is_done);
}

static inline void mq_test_trim(mq_store *store, uint64_t epoch, uint64_t minute,
                                mq_store_trim mode, mq_test_answer *a)
{
    mq_test_answer_reset(a);
    mq_test_refused(a, store->ops->trim(store, epoch, minute, mode, mq_test_on_field, a, &a->err));
    mq_test_store_wait(store, &a->is_done);
}

static inline int mq_test_pair_order(const void *a, const void *b)
{
    const mq_test_pair *x = a;
    const mq_test_pair *y = b;
    size_t len = x->field.len < y->field.len ? x->field.len : y->field.len;
    int order = memcmp(x->field.data, y->field.data, len);
    return order != 0 ? order : (x->field.len > y->field.len) - (x->field.len < y->field.len);
}

static inline void mq_test_sort(mq_test_answer *a)
{
    if (a->pair_count > 1) {
        qsort(a->pairs, a->pair_count, sizeof *a->pairs, mq_test_pair_order);
    }
}

#endif

/* A world for facts that hold on both stores: the in-memory model, or Redis with a private server.
 * Two stores over the same data, as two brokers would have them. */
#ifndef MQ_TEST_STORE_WORLD_H
#define MQ_TEST_STORE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shared/base/ulid.h"
#include "tests/support/redis.h"
#include "tests/support/store.h"

enum { LARGE = MQ_STORE_INLINE_MAX + 1000, HOUR_MS = 3600 * 1000, TENURE_MS = 200 };

typedef struct world {
    bool is_redis;
    mq_test_redis redis;
    mq_memory *memory;
    int64_t clock_ms; /* the model's */
    mq_store *store;
    mq_store *other; /* second broker's */
    mq_test_answer got;
    uint64_t epoch;
    uint64_t sequence;
    uint64_t next; /* number of the next id */
    uint8_t large[LARGE];
} world;

static inline mq_store *open_store(world *w)
{
    mq_store *store = NULL;
    mq_error err;
    mq_code code = w->is_redis ? mq_store_redis_new(&store, w->redis.url, 0, &err)
                               : mq_store_memory_new(&store, w->memory, &w->clock_ms, &err);
    assert_int_equal(code, MQ_OK);
    mq_test_store_connect(store);
    return store;
}

static inline void take(world *w)
{
    mq_test_acquire(w->store, "broker-a", HOUR_MS, true, true, &w->got);
    assert_int_equal(w->got.code, MQ_OK);
    assert_true(w->got.owner.is_ours);
    w->epoch = w->got.owner.epoch;
    w->sequence = w->got.owner.sequence;
}

static inline int setup(void **state, bool is_redis)
{
    world *w = calloc(1, sizeof *w);
    w->is_redis = is_redis;
    w->clock_ms = mq_clock_wall_ms();
    if (is_redis) {
        mq_test_redis_init(&w->redis);
        mq_test_redis_start(&w->redis, NULL);
    } else {
        w->memory = mq_memory_new();
    }
    for (size_t i = 0; i < LARGE; i++) {
        w->large[i] = (uint8_t)(i * 7);
    }
    w->store = open_store(w);
    w->other = open_store(w);
    *state = w;
    return 0;
}

static inline int setup_memory(void **state)
{
    return setup(state, false);
}

static inline int setup_redis(void **state)
{
    return setup(state, true);
}

static inline int teardown(void **state)
{
    world *w = *state;
    w->store->ops->free(w->store);
    w->other->ops->free(w->other);
    if (w->is_redis) {
        mq_test_redis_release(&w->redis);
    }
    mq_memory_free(w->memory);
    mq_test_answer_reset(&w->got);
    free(w);
    return 0;
}

/* The n-th id of a test; ids of one test stand in the same minutes on both stores. */
static inline mq_span id_of(const world *w, uint64_t n, char text[MQ_ULID_SIZE])
{
    uint8_t random[10] = {0};
    memcpy(random, &n, sizeof n);
    mq_ulid_make(w->clock_ms - 1000 + (int64_t)n, random, text);
    return mq_span_of(text, MQ_ULID_LEN);
}

static inline mq_span large(const world *w)
{
    return mq_span_of(w->large, LARGE);
}

/* Commits with the next sequence and wants it applied. */
static inline void commit(world *w, mq_store_batch *batch)
{
    batch->epoch = w->epoch;
    batch->sequence = w->sequence + 1;
    mq_test_commit(w->store, batch, &w->got);
    assert_string_equal(w->got.err.text, "");
    assert_string_equal(w->got.reply.err.text, "");
    assert_int_equal(w->got.reply.verdict, MQ_STORE_OK);
    assert_int_equal(w->got.reply.sequence, w->sequence + 1);
    w->sequence++;
}

static inline void create(world *w, mq_span id, uint64_t number, const char *record, mq_span body)
{
    mq_store_create one = {.id = id, .number = number, .record = mq_str(record), .body = body};
    commit(w, &(mq_store_batch){.creates = &one, .create_count = 1});
}

static inline void finish(world *w, mq_store_finish one)
{
    one.retention_ms = one.retention_ms == 0 ? HOUR_MS : one.retention_ms;
    commit(w, &(mq_store_batch){.finishes = &one, .finish_count = 1});
}

static inline void assert_job(world *w, mq_span id, const char *record, mq_span result)
{
    mq_test_job(w->store, id, &w->got);
    assert_int_equal(w->got.code, MQ_OK);
    assert_true(mq_span_is(w->got.record, record));
    assert_true(mq_span_eq(w->got.result, result));
}

static inline void assert_no_job(world *w, mq_span id)
{
    mq_test_job(w->store, id, &w->got);
    assert_int_equal(w->got.code, MQ_E_NOT_FOUND);
}

static inline uint32_t count_part(world *w, mq_store_part part, uint64_t segment)
{
    mq_test_scan(w->store, part, segment, &w->got);
    assert_int_equal(w->got.code, MQ_OK);
    return w->got.pair_count;
}

#define BOTH(fact)                                                                                 \
    {"memory: " #fact, fact, setup_memory, teardown, NULL},                                        \
    {                                                                                              \
        "redis: " #fact, fact, setup_redis, teardown, NULL                                         \
    }

#endif

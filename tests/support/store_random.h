/* Random batches for a store, and the comparison of two stores field by field: for the differential
 * test and the kill test. Ids come from a small pool, so that everything happens to every job. */
#ifndef MQ_TEST_STORE_RANDOM_H
#define MQ_TEST_STORE_RANDOM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shared/base/prng.h"
#include "shared/base/ulid.h"
#include "tests/support/store.h"

enum {
    MQ_RANDOM_IDS = 300,
    MQ_RANDOM_JOBS = 40, /* of one batch */
    MQ_RANDOM_SEGMENTS = 4,
    MQ_RANDOM_RETENTION_MS = 24 * 3600 * 1000,
};

typedef enum mq_guess { MQ_GUESS_NONE, MQ_GUESS_LIVE, MQ_GUESS_DEAD, MQ_GUESS_DONE } mq_guess;

typedef struct mq_random {
    mq_prng rng;
    int64_t now_ms; /* of the start: the same seed and time give the same batches */
    char ids[MQ_RANDOM_IDS][MQ_ULID_SIZE];
    uint64_t numbers[MQ_RANDOM_IDS]; /* as last used in a create or revive */
    uint8_t guesses[MQ_RANDOM_IDS];  /* where the job should be now, see below */
    bool is_used[MQ_RANDOM_IDS];     /* in the batch that is being made */
    mq_arena arena;                  /* bytes of that batch */
    mq_store_create creates[MQ_RANDOM_JOBS];
    mq_store_put puts[MQ_RANDOM_JOBS];
    mq_store_finish finishes[MQ_RANDOM_JOBS];
    mq_store_revive revives[MQ_RANDOM_JOBS];
    mq_store_set sets[8];
    mq_store_count counts[4];
    uint64_t made;
} mq_random;

static inline void mq_random_id(mq_random *r, uint64_t i)
{
    uint8_t random[10];
    for (int k = 0; k < 10; k++) {
        random[k] = (uint8_t)mq_prng_next(&r->rng);
    }
    r->guesses[i] = MQ_GUESS_NONE;
    mq_ulid_make(r->now_ms - (int64_t)mq_prng_below(&r->rng, 5 * 60000), random, r->ids[i]);
}

static inline void mq_random_init(mq_random *r, uint64_t seed)
{
    memset(r, 0, sizeof *r);
    r->rng.state = seed;
    r->now_ms = mq_clock_wall_ms();
    mq_arena_init(&r->arena, (size_t)1 << 30);
    for (uint64_t i = 0; i < MQ_RANDOM_IDS; i++) {
        mq_random_id(r, i);
    }
}

static inline void mq_random_release(mq_random *r)
{
    mq_arena_release(&r->arena);
}

static inline mq_span mq_random_bytes(mq_random *r)
{
    static const size_t sizes[] = {
        0, 1, 30, 100, 300, MQ_STORE_INLINE_MAX, MQ_STORE_INLINE_MAX + 1, 20000};
    uint64_t kind = mq_prng_below(&r->rng, 64);
    size_t len = sizes[kind < 3 ? 5 + kind : kind % 5];
    uint8_t *bytes = mq_arena_alloc(&r->arena, len + 8, 1);
    uint64_t start = mq_prng_next(&r->rng);
    for (size_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t)(start + i * 31);
    }
    return mq_span_of(bytes, len);
}

static inline mq_span mq_random_record(mq_random *r, const char *what)
{
    char *text = mq_arena_printf(&r->arena, "%s-%llu", what, (unsigned long long)r->made++);
    return mq_str(text);
}

static inline uint64_t mq_random_number(mq_random *r)
{
    return mq_prng_below(&r->rng, MQ_RANDOM_SEGMENTS * MQ_STORE_SEGMENT_JOBS);
}

/* The number a job is known under, now and then a wrong one. */
static inline uint64_t mq_random_known(mq_random *r, uint64_t i)
{
    return mq_prng_below(&r->rng, 20) == 0 ? mq_random_number(r) : r->numbers[i];
}

/* What to do to a job: mostly what suits it, now and then anything. Below 6 create, 6..8 put, 9
 * revive, 10 finish, 11 put a dead letter away, 12 create and finish, 13 die. */
static inline uint64_t mq_random_kind(mq_random *r, uint64_t i)
{
    static const uint8_t suits[4][4] = {
        {0, 0, 0, 12}, {6, 10, 10, 13}, {9, 9, 11, 11}, {0, 6, 10, 12}};
    static const uint8_t becomes[14] = {
        [0] = MQ_GUESS_LIVE,  [6] = MQ_GUESS_LIVE,  [9] = MQ_GUESS_LIVE, [10] = MQ_GUESS_DONE,
        [11] = MQ_GUESS_DONE, [12] = MQ_GUESS_DONE, [13] = MQ_GUESS_DEAD};
    if (mq_prng_below(&r->rng, 8) == 0) {
        return mq_prng_below(&r->rng, 14);
    }
    uint8_t kind = suits[r->guesses[i]][mq_prng_below(&r->rng, 4)];
    r->guesses[i] = r->guesses[i] == MQ_GUESS_DONE ? MQ_GUESS_DONE : becomes[kind];
    return kind;
}

static inline void mq_random_job(mq_random *r, uint64_t i, mq_store_batch *b)
{
    mq_span id = mq_str(r->ids[i]);
    uint64_t kind = mq_random_kind(r, i);
    if (kind < 6) {
        r->numbers[i] = mq_random_number(r);
        r->creates[b->create_count++] =
            (mq_store_create){id, r->numbers[i], mq_random_record(r, "new"), mq_random_bytes(r)};
    } else if (kind < 9) {
        r->puts[b->put_count++] =
            (mq_store_put){id, mq_random_known(r, i), mq_random_record(r, "put")};
    } else if (kind < 10) {
        r->numbers[i] = mq_random_number(r);
        r->revives[b->revive_count++] =
            (mq_store_revive){id, r->numbers[i], mq_random_record(r, "again")};
    } else {
        mq_store_finish f = {.id = id,
                             .number = mq_random_known(r, i),
                             .record = mq_random_record(r, "end"),
                             .retention_ms = MQ_RANDOM_RETENTION_MS,
                             .is_dead = kind == 13,
                             .is_new = kind == 12,
                             .was_dead = kind == 11};
        f.result = mq_random_bytes(r);
        r->finishes[b->finish_count++] = f;
    }
}

/* Epoch and sequence are the caller's. Everything is borrowed until the next call. */
static inline void mq_random_batch(mq_random *r, mq_store_batch *b)
{
    mq_arena_reset(&r->arena);
    memset(r->is_used, 0, sizeof r->is_used);
    *b = (mq_store_batch){.creates = r->creates,
                          .puts = r->puts,
                          .finishes = r->finishes,
                          .revives = r->revives,
                          .registry = r->sets,
                          .counters = r->counts};
    for (uint64_t n = mq_prng_below(&r->rng, MQ_RANDOM_JOBS + 1); n > 0; n--) {
        uint64_t i = mq_prng_below(&r->rng, MQ_RANDOM_IDS);
        if (!r->is_used[i]) {
            r->is_used[i] = true;
            if (r->guesses[i] == MQ_GUESS_DONE && mq_prng_below(&r->rng, 4) > 0) {
                mq_random_id(r, i); /* or all would soon be done */
            }
            mq_random_job(r, i, b);
        }
    }
    for (b->registry_count = 0; mq_prng_below(&r->rng, 3) == 0 && b->registry_count < 8;) {
        char *field = mq_arena_printf(&r->arena, "f%u", (unsigned)mq_prng_below(&r->rng, 20));
        bool is_set = mq_prng_below(&r->rng, 3) > 0;
        r->sets[b->registry_count++] =
            (mq_store_set){mq_str(field), is_set ? mq_random_bytes(r) : (mq_span){0}};
    }
    for (b->counter_count = 0; b->counter_count < mq_prng_below(&r->rng, 4);) {
        static const char *const names[] = {"a", "b", "c"};
        r->counts[b->counter_count] = (mq_store_count){
            mq_str(names[b->counter_count]), (int64_t)mq_prng_below(&r->rng, 2001) - 1000};
        b->counter_count++;
    }
    if (mq_prng_below(&r->rng, 2) == 0) {
        b->event = mq_random_record(r, "event");
    }
}

/* ---- comparison ---- */

static inline void mq_same_pairs(const char *what, mq_test_answer *a, mq_test_answer *b,
                                 bool is_ordered)
{
    if (!is_ordered) {
        mq_test_sort(a);
        mq_test_sort(b);
    }
    if (a->code != b->code || a->pair_count != b->pair_count) {
        print_error("%s: %s with %u fields, and %s with %u (%s / %s)\n", what,
                    mq_code_name(a->code), a->pair_count, mq_code_name(b->code), b->pair_count,
                    a->err.text, b->err.text);
    }
    assert_int_equal(a->code, b->code);
    assert_int_equal(a->pair_count, b->pair_count);
    for (uint32_t i = 0; i < a->pair_count; i++) {
        bool is_same = mq_span_eq(a->pairs[i].value, b->pairs[i].value) &&
                       (is_ordered || mq_span_eq(a->pairs[i].field, b->pairs[i].field));
        if (!is_same) {
            print_error("%s: %.*s = %.40s, and %.*s = %.40s\n", what,
                        MQ_SPAN_ARG(a->pairs[i].field), (const char *)a->pairs[i].value.data,
                        MQ_SPAN_ARG(b->pairs[i].field), (const char *)b->pairs[i].value.data);
        }
        assert_true(is_same);
    }
}

static inline void mq_same_jobs(mq_store *x, mq_store *y, const mq_random *r, mq_test_answer *a,
                                mq_test_answer *b)
{
    mq_span ids[MQ_RANDOM_IDS];
    for (int i = 0; i < MQ_RANDOM_IDS; i++) {
        ids[i] = mq_str(r->ids[i]);
        mq_test_job(x, ids[i], a);
        mq_test_job(y, ids[i], b);
        bool is_same = a->code == b->code && mq_span_eq(a->record, b->record) &&
                       mq_span_eq(a->result, b->result);
        if (!is_same) {
            print_error("job %s: %s %.*s, and %s %.*s (results %zu, %zu)\n", r->ids[i],
                        mq_code_name(a->code), MQ_SPAN_ARG(a->record), mq_code_name(b->code),
                        MQ_SPAN_ARG(b->record), a->result.len, b->result.len);
        }
        assert_true(is_same);
    }
    mq_test_bodies(x, ids, MQ_RANDOM_IDS, a);
    mq_test_bodies(y, ids, MQ_RANDOM_IDS, b);
    mq_same_pairs("bodies", a, b, false);
}

/* Everything that can be read from two stores is the same. */
static inline void mq_same_stores(mq_store *x, mq_store *y, const mq_random *r)
{
    static const struct {
        mq_store_part part;
        const char *name;
    } parts[] = {{MQ_PART_REQ, "req"},
                 {MQ_PART_DEAD, "dead"},
                 {MQ_PART_REGISTRY, "registry"},
                 {MQ_PART_COUNTERS, "counters"},
                 {MQ_PART_EVENTS, "events"}};
    mq_test_answer a;
    mq_test_answer b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    mq_test_segments(x, &a);
    mq_test_segments(y, &b);
    mq_same_pairs("segments", &a, &b, false);
    for (uint64_t segment = 0; segment < MQ_RANDOM_SEGMENTS; segment++) {
        mq_test_scan(x, MQ_PART_LIVE, segment, &a);
        mq_test_scan(y, MQ_PART_LIVE, segment, &b);
        mq_same_pairs("live", &a, &b, false);
    }
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        mq_test_scan(x, parts[i].part, 0, &a);
        mq_test_scan(y, parts[i].part, 0, &b);
        mq_same_pairs(parts[i].name, &a, &b, parts[i].part == MQ_PART_EVENTS);
    }
    mq_same_jobs(x, y, r, &a, &b);
    mq_test_answer_reset(&a);
    mq_test_answer_reset(&b);
}

#endif

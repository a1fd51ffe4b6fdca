/* The same random calls to Redis and to the in-memory model: every reply, after each call the jobs
 * that it named, and again and again the whole state are compared; then jobs that the calls have
 * lost sight of are ended, so that the state stays of one size however long it takes. Then the same
 * with redis-server killed in the middle: what was acknowledged is there, and the sequence tells
 * about the rest.
 *
 *   MQ_DIFF_CALLS=100000   more calls        MQ_DIFF_KILLS=200   more kills        MQ_SEED=7 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/redis.h"
#include "tests/support/store_random.h"

enum {
    CALLS = 2500,
    KILLS = 12,
    COMPARE_EVERY = 250,  /* calls, at first */
    COMPARE_LATER = 2500, /* after LATER calls: the jobs of each call are compared anyway */
    LATER = 10000,
    SAY_EVERY = 100000,
    TENURE_MS = 3600 * 1000,
};

static long setting(const char *name, long normal)
{
    const char *text = getenv(name);
    return text == NULL ? normal : strtol(text, NULL, 10);
}

/* ---- both stores side by side ---- */

typedef struct world {
    mq_test_redis server;
    mq_memory *memory;
    int64_t clock_ms;
    mq_store *redis[2]; /* two brokers */
    mq_store *model[2];
    mq_random random;
    uint64_t epoch;
    uint64_t sequence;
    bool is_full;
    mq_test_answer a, b;
    uint32_t verdicts[6];
    uint32_t dups, ignored, trimmed, retired;
    uint64_t touched;
    uint32_t old_owners, repeats, holes, oversized; /* asked for, not only met */
} world;

static int setup_with(void **state, const char *more)
{
    world *w = calloc(1, sizeof *w);
    mq_test_redis_init(&w->server);
    mq_test_redis_start(&w->server, more);
    w->memory = mq_memory_new();
    w->clock_ms = mq_clock_wall_ms();
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mq_store_redis_new(&w->redis[i], w->server.url, 0, NULL), MQ_OK);
        assert_int_equal(mq_store_memory_new(&w->model[i], w->memory, &w->clock_ms, NULL), MQ_OK);
        mq_test_store_connect(w->redis[i]);
    }
    uint64_t seed = (uint64_t)setting("MQ_SEED", 1);
    print_message("seed %llu\n", (unsigned long long)seed);
    mq_random_init(&w->random, seed);
    *state = w;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, NULL);
}

/* It is not killed here: nothing is written to a disk. */
static int setup_volatile(void **state)
{
    return setup_with(state, "appendonly no\n");
}

static int teardown(void **state)
{
    world *w = *state;
    for (int i = 0; i < 2; i++) {
        w->redis[i]->ops->free(w->redis[i]);
        w->model[i]->ops->free(w->model[i]);
    }
    mq_test_redis_release(&w->server);
    mq_memory_free(w->memory);
    mq_random_release(&w->random);
    mq_test_answer_reset(&w->a);
    mq_test_answer_reset(&w->b);
    free(w);
    return 0;
}

static void acquire(world *w, int broker, bool is_takeover)
{
    mq_test_acquire(w->redis[broker], "owner", TENURE_MS, is_takeover, true, &w->a);
    mq_test_acquire(w->model[broker], "owner", TENURE_MS, is_takeover, true, &w->b);
    assert_int_equal(w->a.code, w->b.code);
    assert_int_equal(w->a.owner.is_ours, w->b.owner.is_ours);
    assert_int_equal(w->a.owner.epoch, w->b.owner.epoch);
    assert_int_equal(w->a.owner.sequence, w->b.owner.sequence);
    assert_string_equal(w->a.owner.owner, w->b.owner.owner);
    assert_int_equal(strlen(w->a.owner.lineage), strlen(w->b.owner.lineage));
    w->epoch = w->a.owner.epoch;
    w->sequence = w->a.owner.sequence;
}

/* Memory fills up on both, or has room again. */
static void set_full(world *w, bool is_full)
{
    struct timeval limit = {.tv_sec = 30};
    redisContext *c = redisConnectUnixWithTimeout(w->server.socket, limit);
    redisReply *reply = redisCommand(c, "CONFIG SET maxmemory %s", is_full ? "1" : "0");
    assert_int_equal(reply->type, REDIS_REPLY_STATUS);
    freeReplyObject(reply);
    redisFree(c);
    mq_memory_set_max(w->memory, is_full ? 1 : 0);
    w->is_full = is_full;
}

static void compare_replies(world *w, const mq_store_batch *batch, const mq_test_answer *a,
                            const mq_test_answer *b)
{
    if (a->reply.verdict != b->reply.verdict) {
        print_error("verdict %d, and %d (epoch %llu sequence %llu of %llu; %s)\n", a->reply.verdict,
                    b->reply.verdict, (unsigned long long)batch->epoch,
                    (unsigned long long)batch->sequence, (unsigned long long)w->sequence,
                    a->reply.err.text);
    }
    assert_int_equal(a->reply.verdict, b->reply.verdict);
    assert_int_equal(a->reply.sequence, b->reply.sequence);
    assert_int_equal(a->reply.dup_count, b->reply.dup_count);
    assert_memory_equal(a->dups, b->dups, sizeof a->dups[0] * a->reply.dup_count);
    assert_int_equal(a->reply.ignored_count, b->reply.ignored_count);
    w->verdicts[a->reply.verdict]++;
    w->dups += a->reply.dup_count;
    w->ignored += a->reply.ignored_count;
    if (a->reply.verdict == MQ_STORE_OK) {
        w->sequence++;
    }
}

/* Asks both stores for a job each time; all questions of a batch are under way at once. */
typedef struct asked {
    mq_span ids[MQ_RANDOM_JOBS];
    mq_test_answer answers[2][MQ_RANDOM_JOBS];
    uint32_t count;
} asked;

static void add_id(asked *all, mq_span id)
{
    if (all->count < MQ_RANDOM_JOBS) {
        all->ids[all->count++] = id;
    }
}

/* The jobs that a batch named are the same on both, whatever became of the batch. */
static void compare_touched(world *w, const mq_store_batch *b, int broker)
{
    static asked all;
    mq_store *stores[2] = {w->redis[broker], w->model[broker]};
    all.count = 0;
    for (uint32_t i = 0; i < b->create_count; i++) {
        add_id(&all, b->creates[i].id);
    }
    for (uint32_t i = 0; i < b->put_count; i++) {
        add_id(&all, b->puts[i].id);
    }
    for (uint32_t i = 0; i < b->finish_count; i++) {
        add_id(&all, b->finishes[i].id);
    }
    for (uint32_t i = 0; i < b->revive_count; i++) {
        add_id(&all, b->revives[i].id);
    }
    for (int k = 0; k < 2; k++) {
        for (uint32_t i = 0; i < all.count; i++) {
            mq_test_answer *a = &all.answers[k][i];
            mq_test_answer_reset(a);
            assert_int_equal(stores[k]->ops->job(stores[k], all.ids[i], mq_test_on_job, a, NULL),
                             MQ_OK);
        }
        for (uint32_t i = 0; i < all.count; i++) {
            mq_test_store_wait(stores[k], &all.answers[k][i].is_done);
        }
    }
    for (uint32_t i = 0; i < all.count; i++) {
        const mq_test_answer *a = &all.answers[0][i], *m = &all.answers[1][i];
        if (a->code != m->code || !mq_span_eq(a->record, m->record) ||
            !mq_span_eq(a->result, m->result)) {
            fail_msg("job %.26s after commit %llu: %s %.*s (result %zu), and %s %.*s (result %zu)",
                     (const char *)all.ids[i].data, (unsigned long long)w->sequence,
                     mq_code_name(a->code), MQ_SPAN_ARG(a->record), a->result.len,
                     mq_code_name(m->code), MQ_SPAN_ARG(m->record), m->result.len);
        }
    }
    w->touched += all.count;
}

/* Mostly right, now and then an old owner, a repetition or a hole. */
static void number(world *w, mq_store_batch *batch)
{
    uint64_t kind = mq_prng_below(&w->random.rng, 24);
    bool is_old = kind == 0 && w->epoch > 1;
    batch->epoch = is_old ? w->epoch - 1 : w->epoch;
    batch->sequence = w->sequence + 1;
    w->old_owners += is_old;
    if (kind == 1 && w->sequence > 0) {
        batch->sequence = w->sequence;
        w->repeats++;
    } else if (kind == 2 && w->sequence > 1) {
        batch->sequence = w->sequence - 1 - mq_prng_below(&w->random.rng, w->sequence - 1);
        w->holes++;
    } else if (kind == 3) {
        batch->sequence = w->sequence + 2;
        w->holes++;
    }
}

static void one_commit(world *w, int broker)
{
    mq_store_batch batch;
    mq_random_batch(&w->random, &batch);
    number(w, &batch);
    mq_test_commit(w->redis[broker], &batch, &w->a);
    mq_test_commit(w->model[broker], &batch, &w->b);
    compare_replies(w, &batch, &w->a, &w->b);
    compare_touched(w, &batch, broker);
}

/* More than fits one commit, in jobs or in bytes: both refuse it alike, and nothing is sent. */
static void one_oversized(world *w, int broker)
{
    static mq_store_put puts[MQ_STORE_JOBS_MAX + 1];
    static uint8_t bytes[MQ_STORE_RECORD_MAX + 1];
    mq_store_batch batch;
    mq_error errs[2];
    mq_random_batch(&w->random, &batch);
    batch.epoch = w->epoch;
    batch.sequence = w->sequence + 1;
    uint64_t kind = mq_prng_below(&w->random.rng, 3);
    for (int i = 0; kind == 0 && i <= MQ_STORE_JOBS_MAX; i++) {
        puts[i] = (mq_store_put){mq_str(w->random.ids[i % MQ_RANDOM_IDS]), 1, mq_str("r")};
    }
    puts[0] = (mq_store_put){mq_str(w->random.ids[0]), 1, mq_span_of(bytes, sizeof bytes)};
    if (kind < 2) {
        batch.puts = puts;
        batch.put_count = kind == 0 ? MQ_STORE_JOBS_MAX + 1 : 1;
    } else {
        batch.registry_count = MQ_STORE_REGISTRY_MAX + 1;
    }
    for (int k = 0; k < 2; k++) {
        mq_store *store = k == 0 ? w->redis[broker] : w->model[broker];
        assert_int_equal(
            store->ops->commit(store, &batch, mq_test_on_commit, k == 0 ? &w->a : &w->b, &errs[k]),
            MQ_E_LIMIT);
    }
    assert_string_equal(errs[0].text, errs[1].text);
    w->oversized++;
}

/* Two under way at a time; the second may come out as a gap, or as full with the first. */
static void two_commits(world *w, int broker)
{
    mq_test_answer answers[2][2];
    mq_store_batch batches[2];
    memset(answers, 0, sizeof answers);
    for (int i = 0; i < 2; i++) {
        mq_random_batch(&w->random, &batches[i]);
        batches[i].epoch = w->epoch;
        batches[i].sequence = w->sequence + 1 + (uint64_t)i;
        for (int k = 0; k < 2; k++) {
            mq_store *store = k == 0 ? w->redis[broker] : w->model[broker];
            assert_int_equal(
                store->ops->commit(store, &batches[i], mq_test_on_commit, &answers[i][k], NULL),
                MQ_OK);
        }
    }
    for (int i = 0; i < 2; i++) {
        mq_test_store_wait(w->redis[broker], &answers[i][0].is_done);
        mq_test_store_wait(w->model[broker], &answers[i][1].is_done);
        compare_replies(w, &batches[i], &answers[i][0], &answers[i][1]);
        mq_test_answer_reset(&answers[i][0]);
        mq_test_answer_reset(&answers[i][1]);
    }
    compare_touched(w, &batches[1], broker);
}

static bool is_in_pool(const world *w, mq_span id)
{
    for (int i = 0; i < MQ_RANDOM_IDS; i++) {
        if (mq_span_is(id, w->random.ids[i])) {
            return true;
        }
    }
    return false;
}

/* Ends what the scan found and the calls will not name again. */
static void retire(world *w, int broker, mq_test_answer *found, uint64_t segment, bool is_dead)
{
    static mq_store_finish finishes[MQ_STORE_JOBS_MAX];
    for (uint32_t at = 0; at < found->pair_count;) {
        mq_store_batch batch = {.finishes = finishes};
        for (; at < found->pair_count && batch.finish_count < MQ_STORE_JOBS_MAX; at++) {
            if (!is_in_pool(w, found->pairs[at].field)) {
                finishes[batch.finish_count++] =
                    (mq_store_finish){.id = found->pairs[at].field,
                                      .number = segment * MQ_STORE_SEGMENT_JOBS,
                                      .record = mq_str("retired"),
                                      .retention_ms = MQ_RANDOM_RETENTION_MS,
                                      .was_dead = is_dead};
            }
        }
        if (batch.finish_count > 0) {
            batch.epoch = w->epoch;
            batch.sequence = w->sequence + 1;
            mq_test_commit(w->redis[broker], &batch, &w->a);
            mq_test_commit(w->model[broker], &batch, &w->b);
            compare_replies(w, &batch, &w->a, &w->b);
            assert_int_equal(w->a.reply.verdict, MQ_STORE_OK);
            assert_int_equal(w->a.reply.ignored_count, 0); /* what is read there is there */
            w->retired += batch.finish_count;
        }
    }
}

static void retire_all(world *w, int broker)
{
    mq_test_answer found;
    memset(&found, 0, sizeof found);
    for (uint64_t segment = 0; segment < MQ_RANDOM_SEGMENTS; segment++) {
        mq_test_scan(w->redis[broker], MQ_PART_LIVE, segment, &found);
        retire(w, broker, &found, segment, false);
    }
    mq_test_scan(w->redis[broker], MQ_PART_DEAD, 0, &found);
    retire(w, broker, &found, 0, true);
    mq_test_answer_reset(&found);
}

/* Room is made in a bucket, now and then by an owner that is none any more. */
static void trim(world *w, int broker)
{
    mq_prng *rng = &w->random.rng;
    uint64_t epoch = w->epoch - (mq_prng_below(rng, 8) == 0);
    uint64_t minute = (uint64_t)w->random.now_ms / 60000 - mq_prng_below(rng, 6);
    mq_store_trim mode = (mq_store_trim)mq_prng_below(rng, 3);
    mq_test_trim(w->redis[broker], epoch, minute, mode, &w->a);
    mq_test_trim(w->model[broker], epoch, minute, mode, &w->b);
    assert_int_equal(w->a.code, w->b.code);
    assert_int_equal(w->a.code, epoch == w->epoch ? MQ_OK : MQ_E_STALE);
    assert_int_equal(w->a.pair_count, w->b.pair_count);
    for (uint32_t i = 0; i < w->a.pair_count; i++) {
        assert_true(mq_span_eq(w->a.pairs[i].field, w->b.pairs[i].field));
        assert_true(mq_span_eq(w->a.pairs[i].value, w->b.pairs[i].value));
        w->trimmed +=
            mq_span_is(w->a.pairs[i].field, "freed") && !mq_span_is(w->a.pairs[i].value, "0");
    }
}

static long long ask(redisContext *c, const char *command, const char *name)
{
    redisReply *reply = redisCommand(c, command, name);
    assert_non_null(reply);
    assert_int_equal(reply->type, REDIS_REPLY_INTEGER);
    long long number = reply->integer;
    freeReplyObject(reply);
    return number;
}

/* What the interface does not show: every large body belongs to a job that is live or dead, and
 * what no commit has published goes by itself. */
static void assert_no_orphans(const world *w)
{
    struct timeval limit = {.tv_sec = 30};
    redisContext *c = redisConnectUnixWithTimeout(w->server.socket, limit);
    redisReply *refs = redisCommand(c, "HKEYS {mq:0}:ref");
    redisReply *keys = redisCommand(c, "KEYS {mq:0}:body:*");
    redisReply *results = redisCommand(c, "KEYS {mq:0}:result:*");
    assert_true(refs->elements > 0 && results->elements > 0); /* or there is nothing to look at */
    size_t permanent = 0;
    for (size_t i = 0; i < keys->elements; i++) {
        permanent += ask(c, "PTTL %s", keys->element[i]->str) == -1;
    }
    assert_int_equal(permanent, refs->elements);
    for (size_t i = 0; i < refs->elements; i++) {
        const char *id = refs->element[i]->str;
        assert_int_equal(
            ask(c, "HEXISTS {mq:0}:req %s", id) + ask(c, "HEXISTS {mq:0}:dead:req %s", id), 1);
    }
    for (size_t i = 0; i < results->elements; i++) {
        assert_true(ask(c, "PTTL %s", results->element[i]->str) > 0);
    }
    freeReplyObject(refs);
    freeReplyObject(keys);
    freeReplyObject(results);
    redisFree(c);
}

static void redis_and_the_model_answer_alike_and_hold_the_same(void **state)
{
    world *w = *state;
    long calls = setting("MQ_DIFF_CALLS", CALLS);
    acquire(w, 0, true);
    int broker = 0;
    for (long i = 0; i < calls; i++) {
        uint64_t kind = mq_prng_below(&w->random.rng, 100);
        if (kind < 2) {
            broker = (int)mq_prng_below(&w->random.rng, 2);
            acquire(w, broker, true);
        } else if (kind < 4) {
            acquire(w, (int)mq_prng_below(&w->random.rng, 2), false);
        } else if (i > 100 && kind < (w->is_full ? 14 : 5)) {
            set_full(w, !w->is_full);
        } else if (kind < 7 && i < calls - 200) {
            trim(w, broker);
        } else if (kind < 25) {
            two_commits(w, broker);
        } else if (kind < 27) {
            one_oversized(w, broker);
        } else {
            one_commit(w, (int)mq_prng_below(&w->random.rng, 2));
        }
        long every = i < LATER ? COMPARE_EVERY : COMPARE_LATER;
        if (i % every == every - 1) {
            mq_same_stores(w->redis[0], w->model[0], &w->random);
            retire_all(w, broker);
        }
        if (i % SAY_EVERY == SAY_EVERY - 1) {
            print_message("%ld calls, %llu commits, no difference\n", i + 1,
                          (unsigned long long)w->sequence);
        }
    }
    mq_same_stores(w->redis[1], w->model[1], &w->random);
    assert_no_orphans(w);
    print_message("%ld calls: ok %u dup %u fenced %u gap %u full %u; %u known ids, %u ignored\n",
                  calls, w->verdicts[MQ_STORE_OK], w->verdicts[MQ_STORE_DUP],
                  w->verdicts[MQ_STORE_FENCED], w->verdicts[MQ_STORE_GAP],
                  w->verdicts[MQ_STORE_FULL], w->dups, w->ignored);
    print_message("compared: %llu jobs after their call; ended to keep the state small: %u\n",
                  (unsigned long long)w->touched, w->retired);
    print_message("asked: old owner %u, repeated %u, hole or stale sequence %u, oversized %u\n",
                  w->old_owners, w->repeats, w->holes, w->oversized);
    assert_true(w->old_owners > 0 && w->repeats > 0 && w->holes > 0 && w->oversized > 0);
    for (int verdict = MQ_STORE_OK; verdict <= MQ_STORE_FULL; verdict++) {
        assert_true(w->verdicts[verdict] > 0); /* or the test has not tested it */
    }
    assert_int_equal(w->verdicts[MQ_STORE_FAILED], 0);
    assert_true(w->trimmed > 5);
}

/* ---- kills ---- */

/* Commits that are with Redis and not yet in the model. Each keeps what its batch borrows. */
typedef struct waiting {
    mq_random random; /* a copy that makes the same batch again */
    uint64_t sequence;
    mq_test_answer answer;
} waiting;

/* The model gets a commit once it is known to be applied. */
static void apply_to_model(world *w, waiting *one)
{
    mq_store_batch batch;
    mq_random_batch(&one->random, &batch);
    batch.epoch = w->b.owner.epoch;
    batch.sequence = one->sequence;
    mq_test_answer got;
    memset(&got, 0, sizeof got);
    mq_test_commit(w->model[0], &batch, &got);
    assert_int_equal(got.reply.verdict, MQ_STORE_OK);
    if (one->answer.reply.verdict == MQ_STORE_OK) {
        assert_int_equal(one->answer.reply.dup_count, got.reply.dup_count);
        assert_int_equal(one->answer.reply.ignored_count, got.reply.ignored_count);
    }
    mq_test_answer_reset(&got);
    mq_random_release(&one->random);
}

static void send_one(world *w, waiting *one, uint64_t sequence)
{
    memset(one, 0, sizeof *one);
    one->random = w->random;
    mq_arena_init(&one->random.arena, (size_t)1 << 30);
    one->sequence = sequence;
    mq_store_batch batch;
    mq_random_batch(&w->random, &batch);
    batch.epoch = w->epoch;
    batch.sequence = sequence;
    assert_int_equal(
        w->redis[0]->ops->commit(w->redis[0], &batch, mq_test_on_commit, &one->answer, NULL),
        MQ_OK);
}

/* Takes the shard again on both, after a restart or at the start. */
static void take_again(world *w)
{
    mq_test_store_connect(w->redis[0]);
    for (;;) { /* an acquire can meet the end of a connection too */
        mq_test_acquire(w->redis[0], "owner", TENURE_MS, true, true, &w->a);
        if (w->a.code == MQ_OK) {
            break;
        }
        mq_test_store_connect(w->redis[0]);
    }
    mq_test_acquire(w->model[0], "owner", TENURE_MS, true, true, &w->b);
    assert_true(w->a.owner.is_ours);
    w->epoch = w->a.owner.epoch;
}

/* One life of the server: commits, two at a time, until it is killed after `turns` more loop turns.
 * Returns how many commits were acknowledged. */
static uint32_t one_life(world *w, uint64_t commits, uint64_t turns, uint32_t *unknown)
{
    waiting ring[2];
    memset(ring, 0, sizeof ring);
    uint32_t first = 0;
    uint32_t count = 0;
    uint32_t acked = 0;
    uint64_t sequence = w->a.owner.sequence;
    assert_int_equal(sequence, w->b.owner.sequence);
    bool is_killed = false;
    for (;;) {
        if (count < 2 && commits > 0) {
            commits--;
            send_one(w, &ring[(first + count++) % 2], ++sequence);
        }
        if (!is_killed && commits == 0 && turns-- == 0) {
            mq_test_redis_kill(&w->server);
            is_killed = true;
        }
        mq_test_store_turn(w->redis[0]);
        while (count > 0 && ring[first].answer.is_done &&
               ring[first].answer.reply.verdict == MQ_STORE_OK) {
            apply_to_model(w, &ring[first]); /* acknowledged */
            acked++;
            first = (first + 1) % 2;
            count--;
        }
        if (is_killed && (count == 0 || ring[(first + count - 1) % 2].answer.is_done)) {
            break;
        }
    }
    mq_test_redis_start(&w->server, NULL);
    take_again(w);
    for (; count > 0; count--) { /* the stored sequence tells which of the others were applied */
        waiting *one = &ring[first];
        assert_int_equal(one->answer.reply.verdict, MQ_STORE_FAILED);
        (*unknown)++;
        if (one->sequence <= w->a.owner.sequence) {
            apply_to_model(w, one);
        } else {
            mq_random_release(&one->random);
        }
        first = (first + 1) % 2;
    }
    return acked;
}

static void what_was_acknowledged_survives_kill_9_and_the_sequence_tells_the_rest(void **state)
{
    world *w = *state;
    long kills = setting("MQ_DIFF_KILLS", KILLS);
    uint32_t acked = 0;
    uint32_t unknown = 0;
    take_again(w);
    for (long i = 0; i < kills; i++) {
        uint64_t commits = 3 + mq_prng_below(&w->random.rng, 40);
        acked += one_life(w, commits, mq_prng_below(&w->random.rng, 6), &unknown);
        mq_test_acquire(w->model[0], "owner", TENURE_MS, false, false, &w->b);
        assert_int_equal(w->a.owner.sequence, w->b.owner.sequence);
        mq_same_stores(w->redis[0], w->model[0], &w->random);
    }
    print_message("%ld kills: %u commits acknowledged, %u unanswered\n", kills, acked, unknown);
    assert_true(acked > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(redis_and_the_model_answer_alike_and_hold_the_same,
                                        setup_volatile, teardown),
        cmocka_unit_test_setup_teardown(
            what_was_acknowledged_survives_kill_9_and_the_sequence_tells_the_rest, setup, teardown),
    };
    return cmocka_run_group_tests_name("store against its model", tests, NULL, NULL);
}

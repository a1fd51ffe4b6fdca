/* Limits lent to shards: the arithmetic by itself, under lost, late and repeated messages, crashes
 * and changed limits, and against its twin in Redis. MAASQ_SEED=n repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sys/random.h>

#include "shared/base/prng.h"
#include "shared/store/lend.h"
#include "shared/store/store.h"
#include "tests/support/redis.h"

enum { SHARDS_MAX = 6, FLYING_MAX = 32, LIVES = 300, STEPS = 2000, CALLS = 3000 };

static mq_lend_grant asked(mq_lend_book *book, mq_lend_ask ask, int64_t now_ms)
{
    mq_lend_grant g;
    static uint64_t number;
    ask.number = ask.number != 0 ? ask.number : ++number;
    ask.epoch = ask.epoch != 0 ? ask.epoch : 1;
    mq_lend(book, 4, &ask, now_ms, &g);
    return g;
}

static void one_shard_alone_gets_the_whole_cap(void **state)
{
    (void)state;
    mq_lend_book book = {0};
    mq_lend_grant g = asked(&book, (mq_lend_ask){.shard = 2, .cap = 10, .need = 1000}, 1);
    assert_true(g.is_good);
    assert_int_equal(g.held, 10);
}

static void others_get_a_fair_share_when_it_is_given_back(void **state)
{
    (void)state;
    mq_lend_book book = {0};
    mq_lend_grant g = asked(&book, (mq_lend_ask){.shard = 0, .cap = 10, .need = 50}, 1);
    assert_int_equal(g.held, 10);
    g = asked(&book, (mq_lend_ask){.shard = 1, .cap = 10, .need = 3}, 1);
    assert_int_equal(g.held, 0); /* nothing is free */
    g = asked(&book, (mq_lend_ask){.shard = 0, .cap = 10, .held = 10, .need = 50}, 1);
    assert_int_equal(g.held, 10);
    assert_int_equal(g.share, 7); /* the other needs 3 */
    (void)asked(&book, (mq_lend_ask){.shard = 0, .cap = 10, .held = 7, .need = 50}, 1);
    g = asked(&book, (mq_lend_ask){.shard = 1, .cap = 10, .need = 3}, 1);
    assert_int_equal(g.held, 3);
}

static void what_is_unused_stays_until_another_lacks_it(void **state)
{
    (void)state;
    mq_lend_book book = {0};
    (void)asked(&book, (mq_lend_ask){.shard = 0, .cap = 8, .need = 8}, 1);
    mq_lend_grant g = asked(&book, (mq_lend_ask){.shard = 0, .cap = 8, .held = 8, .need = 1}, 1);
    assert_int_equal(g.share, 8);
    (void)asked(&book, (mq_lend_ask){.shard = 3, .cap = 8, .need = 2}, 1);
    g = asked(&book, (mq_lend_ask){.shard = 0, .cap = 8, .held = 8, .need = 1}, 1);
    assert_int_equal(g.share, 1);
}

static void a_lowered_cap_lends_nothing_until_enough_is_back(void **state)
{
    (void)state;
    mq_lend_book book = {0};
    (void)asked(&book, (mq_lend_ask){.shard = 0, .cap = 10, .need = 10}, 1);
    mq_lend_grant g = asked(&book, (mq_lend_ask){.shard = 1, .cap = 4, .need = 4}, 1);
    assert_int_equal(g.held, 0);
    g = asked(&book, (mq_lend_ask){.shard = 0, .cap = 4, .held = 10, .need = 10}, 1);
    assert_int_equal(g.share, 2);
}

static void old_asks_and_old_owners_change_nothing(void **state)
{
    (void)state;
    mq_lend_book book = {0};
    mq_lend_ask ask = {.shard = 0, .cap = 5, .need = 5, .epoch = 7, .number = 2};
    assert_int_equal(asked(&book, ask, 1).held, 5);
    mq_lend_book before = book;
    ask.need = 0;
    assert_false(asked(&book, ask, 1).is_good); /* the same number again */
    ask.number = 1;
    assert_false(asked(&book, ask, 1).is_good);
    ask = (mq_lend_ask){.shard = 0, .cap = 5, .epoch = 6, .number = 99};
    assert_false(asked(&book, ask, 1).is_good);
    assert_memory_equal(&before, &book, sizeof book);
    ask = (mq_lend_ask){.shard = 0, .cap = 5, .epoch = 8, .number = 1, .held = 2, .need = 2};
    assert_int_equal(asked(&book, ask, 1).held, 2); /* a new owner says what still runs */
}

static void tokens_lent_and_left_are_never_more_than_the_burst(void **state)
{
    (void)state;
    mq_lend_book book = {0};
    mq_lend_ask ask = {.shard = 0, .rate = 10, .period_ms = 1000, .burst = 5, .want = 3};
    assert_int_equal(asked(&book, ask, 1000).tokens, 3);
    ask.have = 3;
    ask.want = 100;
    mq_lend_grant g = asked(&book, ask, 100000); /* it has used none: 2 are left, however late */
    assert_int_equal(g.tokens, 2);
    ask.have = 5;
    ask.back = 0;
    g = asked(&book, ask, 200000);
    assert_int_equal(g.tokens, 0);
    assert_int_equal(g.wait_ms, 100);
    ask.have = 0;                                          /* used all of them */
    assert_int_equal(asked(&book, ask, 200100).tokens, 0); /* the bucket was held back until now */
    assert_int_equal(asked(&book, ask, 200300).tokens, 2);
}

/* ---- many lives ---- */

typedef struct borrower {
    uint64_t epoch, number, held, share, running, tokens, waiting;
} borrower;

typedef struct message {
    bool is_used, is_answer, is_slow;
    mq_lend_ask ask;
    mq_lend_grant grant;
} message;

typedef struct world {
    mq_prng prng;
    uint32_t shards;
    uint64_t cap, rate, period_ms, burst;
    int64_t now_ms;
    mq_lend_book book;
    borrower all[SHARDS_MAX];
    message flying[FLYING_MAX];
    uint64_t level; /* of a bucket that every start has to pay */
    uint64_t started;
} world;

static uint64_t below(world *w, uint64_t n)
{
    return mq_prng_below(&w->prng, n);
}

static void pass_time(world *w, uint64_t ms)
{
    w->now_ms += (int64_t)ms;
    w->level += ms * w->rate;
    w->level = w->level > w->burst * w->period_ms ? w->burst * w->period_ms : w->level;
}

static uint64_t running(const world *w)
{
    uint64_t sum = 0;
    for (uint32_t s = 0; s < w->shards; s++) {
        sum += w->all[s].running;
    }
    return sum;
}

static void keep_only(borrower *b)
{
    uint64_t keep = b->share > b->running ? b->share : b->running;
    b->held = b->held > keep ? keep : b->held;
}

static void send_ask(world *w, uint32_t shard)
{
    borrower *b = &w->all[shard];
    message *m = &w->flying[below(w, FLYING_MAX)]; /* what was there is lost */
    uint64_t need = b->running + b->waiting;
    uint64_t back = b->waiting == 0 ? b->tokens : 0;
    b->tokens -= back;
    *m = (message){.is_used = true, .is_slow = below(w, 8) == 0};
    m->ask = (mq_lend_ask){.shard = shard,
                           .epoch = b->epoch,
                           .number = ++b->number,
                           .cap = w->cap,
                           .held = b->held,
                           .need = need < w->cap ? need : w->cap,
                           .rate = w->rate,
                           .period_ms = w->period_ms,
                           .burst = w->burst,
                           .have = b->tokens,
                           .back = back,
                           .want = b->waiting};
}

static void deliver(world *w)
{
    message *m = &w->flying[below(w, FLYING_MAX)];
    if (!m->is_used || (m->is_slow && below(w, 50) != 0)) {
        return;
    }
    borrower *b = &w->all[m->ask.shard];
    if (!m->is_answer) {
        mq_lend(&w->book, w->shards, &m->ask, w->now_ms, &m->grant);
        m->is_answer = true;
        return;
    }
    m->is_used = false;
    if (m->grant.is_good && m->ask.epoch == b->epoch && m->ask.number == b->number) {
        b->held = m->grant.held < b->running ? b->running : m->grant.held;
        b->share = m->grant.share;
        b->tokens += m->grant.tokens;
        keep_only(b);
        if (below(w, 4) != 0) {
            return;
        }
        m->is_used = true; /* and it comes again: not the latest any more once another is sent */
        b->number++;
    }
}

static void start_job(world *w, borrower *b)
{
    bool is_open = b->waiting > 0 && b->running < b->held && (w->rate == 0 || b->tokens > 0);
    if (!is_open) {
        return;
    }
    b->waiting--;
    b->running++;
    w->started++;
    if (w->rate > 0) {
        b->tokens--;
        assert_true(w->level >= w->period_ms); /* the fleet keeps to rate and burst */
        w->level -= w->period_ms;
    }
}

static void crash(borrower *b)
{
    b->epoch++;
    b->number = 0;
    b->held = b->share = b->running; /* all that the new owner knows */
    b->tokens = 0;
}

static void step(world *w)
{
    borrower *b = &w->all[below(w, w->shards)];
    switch (below(w, 12)) {
    case 0:
        b->waiting += below(w, 30);
        break;
    case 1:
    case 2:
    case 3:
        start_job(w, b);
        break;
    case 4:
    case 5:
        if (b->running > 0) {
            b->running--;
            keep_only(b);
        }
        break;
    case 6:
    case 7:
        send_ask(w, (uint32_t)(b - w->all));
        break;
    case 8:
        if (below(w, 20) == 0) {
            crash(b);
        }
        break;
    case 9:
        pass_time(w, below(w, 200));
        break;
    default:
        for (int i = 0; i < 8; i++) {
            deliver(w);
        }
    }
}

/* All messages come at once, until nothing changes. */
static void calm(world *w)
{
    memset(w->flying, 0, sizeof w->flying);
    for (int i = 0; i < 200; i++) {
        pass_time(w, 1000);
        for (uint32_t s = 0; s < w->shards; s++) {
            send_ask(w, s);
            for (int k = 0; k < FLYING_MAX; k++) {
                message *m = &w->flying[k];
                if (m->is_used && !m->is_answer) {
                    mq_lend(&w->book, w->shards, &m->ask, w->now_ms, &m->grant);
                    borrower *b = &w->all[m->ask.shard];
                    assert_true(m->grant.is_good);
                    b->held = m->grant.held < b->running ? b->running : m->grant.held;
                    b->share = m->grant.share;
                    b->tokens += m->grant.tokens;
                    keep_only(b);
                    m->is_used = false;
                }
            }
        }
    }
}

static void the_sum_never_exceeds_the_limit(void **state)
{
    (void)state;
    uint64_t seed = 0;
    const char *told = getenv("MAASQ_SEED");
    assert_int_equal(getrandom(&seed, sizeof seed, 0), sizeof seed);
    seed = told != NULL ? strtoull(told, NULL, 10) : seed % 1000000;
    print_message("MAASQ_SEED=%llu\n", (unsigned long long)seed);
    uint64_t started = 0;
    for (int life = 0; life < LIVES; life++) {
        world w = {.prng.state = seed + (uint64_t)life * 7919, .now_ms = 1000};
        w.shards = 2 + (uint32_t)below(&w, SHARDS_MAX - 1);
        w.cap = 1 + below(&w, 20);
        w.rate = below(&w, 2) * (1 + below(&w, 50));
        w.period_ms = w.rate == 0 ? 0 : 1 + below(&w, 3000);
        w.burst = w.rate == 0 ? 0 : 1 + below(&w, 20);
        w.level = w.burst * w.period_ms;
        for (uint32_t s = 0; s < w.shards; s++) {
            w.all[s].epoch = 1;
        }
        for (int i = 0; i < STEPS; i++) {
            step(&w);
            assert_true(running(&w) <= w.cap);
        }
        /* When all is quiet, one shard with work gets all of the cap. */
        for (uint32_t s = 0; s < w.shards; s++) {
            w.all[s].running = w.all[s].waiting = 0;
            keep_only(&w.all[s]);
        }
        w.all[0].waiting = 1000;
        calm(&w);
        assert_int_equal(w.all[0].held, w.cap);
        started += w.started;
    }
    assert_true(started > LIVES * 10);
}

/* ---- the twin ---- */

static void ask_redis(redisContext *c, uint32_t shards, int64_t now_ms, const mq_lend_ask *a,
                      mq_lend_grant *out)
{
    redisReply *r = redisCommand(
        c,
        "FCALL mq1_lend 2 mq:lend {mq:%u}:owner %u %lld queue=q %u %llu %llu %llu %llu %llu %llu "
        "%llu %llu %llu %llu %llu",
        a->shard, shards, (long long)now_ms, a->shard, (unsigned long long)a->epoch,
        (unsigned long long)a->number, (unsigned long long)a->cap, (unsigned long long)a->held,
        (unsigned long long)a->need, (unsigned long long)a->rate, (unsigned long long)a->period_ms,
        (unsigned long long)a->burst, (unsigned long long)a->have, (unsigned long long)a->back,
        (unsigned long long)a->want);
    assert_non_null(r);
    if (r->type == REDIS_REPLY_ERROR) {
        print_message("%s\n", r->str);
    }
    assert_int_equal(r->type, REDIS_REPLY_ARRAY);
    assert_int_equal(r->elements, 5);
    *out = (mq_lend_grant){.is_good = r->element[0]->integer == 1,
                           .held = (uint64_t)r->element[1]->integer,
                           .share = (uint64_t)r->element[2]->integer,
                           .tokens = (uint64_t)r->element[3]->integer,
                           .wait_ms = (uint64_t)r->element[4]->integer};
    freeReplyObject(r);
}

static void redis_answers_as_the_arithmetic_does(void **state)
{
    (void)state;
    mq_test_redis redis;
    mq_error err = {0};
    mq_prng prng = {.state = 42};
    mq_lend_book book = {0};
    uint64_t epochs[SHARDS_MAX] = {1, 1, 1, 1, 1, 1}, numbers[SHARDS_MAX] = {0};
    int64_t now_ms = 1000;
    mq_test_redis_init(&redis);
    mq_test_redis_start(&redis, "port 0\nappendonly no\nsave \"\"\n");
    assert_int_equal(mq_store_redis_load(redis.url, &err), MQ_OK);
    redisContext *c = redisConnectUnix(redis.socket);
    assert_true(c != NULL && c->err == 0);
    for (uint32_t s = 0; s < SHARDS_MAX; s++) {
        freeReplyObject(redisCommand(c, "HSET {mq:%u}:owner epoch 1", s));
    }
    for (int i = 0; i < CALLS; i++) {
        uint32_t s = (uint32_t)mq_prng_below(&prng, SHARDS_MAX);
        if (mq_prng_below(&prng, 100) == 0) {
            freeReplyObject(redisCommand(c, "HSET {mq:%u}:owner epoch %llu", s,
                                         (unsigned long long)++epochs[s]));
            numbers[s] = 0;
        }
        now_ms += (int64_t)mq_prng_below(&prng, 300);
        bool is_old = mq_prng_below(&prng, 20) == 0;
        mq_lend_ask a = {.shard = s,
                         .epoch = epochs[s],
                         .number = is_old ? numbers[s] : ++numbers[s],
                         .cap = mq_prng_below(&prng, 30),
                         .held = mq_prng_below(&prng, 12),
                         .need = mq_prng_below(&prng, 30),
                         .rate = mq_prng_below(&prng, 3) * mq_prng_below(&prng, 40),
                         .have = mq_prng_below(&prng, 4),
                         .back = mq_prng_below(&prng, 4),
                         .want = mq_prng_below(&prng, 20)};
        a.period_ms = a.rate == 0 ? 0 : mq_prng_below(&prng, 10) == 0 ? 700 : 1000;
        a.burst = a.rate == 0 ? 0 : 1 + mq_prng_below(&prng, 20);
        mq_lend_grant model, real;
        mq_lend(&book, SHARDS_MAX, &a, now_ms, &model);
        ask_redis(c, SHARDS_MAX, now_ms, &a, &real);
        assert_int_equal(model.is_good, real.is_good);
        assert_int_equal(model.held, real.held);
        assert_int_equal(model.share, real.share);
        assert_int_equal(model.tokens, real.tokens);
        assert_int_equal(model.wait_ms, real.wait_ms);
    }
    mq_lend_ask stranger = {.shard = 0, .epoch = epochs[0] + 1, .number = 1, .cap = 5, .need = 5};
    mq_lend_grant g;
    ask_redis(c, SHARDS_MAX, now_ms, &stranger, &g);
    assert_false(g.is_good); /* not the shard's owner */
    redisFree(c);
    mq_test_redis_release(&redis);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_shard_alone_gets_the_whole_cap),
        cmocka_unit_test(others_get_a_fair_share_when_it_is_given_back),
        cmocka_unit_test(what_is_unused_stays_until_another_lacks_it),
        cmocka_unit_test(a_lowered_cap_lends_nothing_until_enough_is_back),
        cmocka_unit_test(old_asks_and_old_owners_change_nothing),
        cmocka_unit_test(tokens_lent_and_left_are_never_more_than_the_burst),
        cmocka_unit_test(the_sum_never_exceeds_the_limit),
        cmocka_unit_test(redis_answers_as_the_arithmetic_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* How a worker lends its free slots to the owners of several shards (worker/core/lend.c): a model
 * of owners that use what they were told, at once or late, over links that delay everything.
 * However that goes, no more jobs come than there are slots, and who has jobs gets slots.
 * MAASQ_SEED=n repeats one run, MAASQ_SEEDS=n makes more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <string.h>

#include "worker/core/session.h"

enum {
    SHARDS = 3,
    SLOTS = 4,
    QUEUE_MAX = 4096,
    WORDS = 6,
    SEEDS = 40,
    STEPS = 4000,
    CALM_STEPS = 400000
};

/* Either way: what is on a link. */
typedef struct word {
    enum { TOLD, BEAT, JOB, BEATEN, WANT } type;
    uint64_t seq, free, seen, grant, waiting;
} word;

typedef struct queue {
    word at[QUEUE_MAX];
    uint32_t first, count;
} queue;

/* A shard's owner. */
typedef struct owner {
    queue to_owner, to_worker;
    uint64_t free, seen; /* as told last */
    uint64_t sent;       /* jobs, in all */
    uint64_t waiting;    /* jobs that it has */
    uint64_t ended;
} owner;

static mq_worker_session s;
static mq_ws_actions out;
static int64_t now_ms;
static owner owners[SHARDS];
static uint64_t grants;
static uint32_t owner_of[1 << 20]; /* of a grant */
static mq_prng prng;

static void push(queue *q, word w)
{
    assert_true(q->count < QUEUE_MAX);
    q->at[(q->first + q->count++) % QUEUE_MAX] = w;
}

static word pop(queue *q)
{
    assert_true(q->count > 0);
    word w = q->at[q->first];
    q->first = (q->first + 1) % QUEUE_MAX;
    q->count--;
    return w;
}

static uint64_t usable(const owner *o)
{
    uint64_t since = o->sent - o->seen;
    return o->free > since ? o->free - since : 0;
}

/* Does what the session wants done; nothing may wait for a slot. */
static void act(void)
{
    mq_ws_actions todo = out;
    out.count = 0;
    for (uint32_t i = 0; i < todo.count; i++) {
        const mq_ws_action *a = &todo.at[i];
        owner *o = &owners[a->talk];
        mq_ws_from(&s, a->talk);
        if (a->type == MQ_WS_SEND_BEAT || a->type == MQ_WS_SEND_CREDIT) {
            push(&o->to_owner, (word){.type = a->type == MQ_WS_SEND_BEAT ? BEAT : TOLD,
                                      .seq = s.seq,
                                      .free = s.free_told,
                                      .seen = s.jobs_seen});
        } else if (a->type == MQ_WS_SEND_RESULT) {
            const mq_ws_job *job = &s.jobs[a->index];
            mq_msg_held_verdict v = {
                .id = mq_str(job->id), .epoch = 1, .grant = job->grant, .verdict = mq_str("ok")};
            mq_msg_verdict m = {.verdicts = &v, .verdicts_count = 1};
            assert_int_equal(owner_of[job->grant], a->talk);
            o->ended++;
            mq_ws_on_verdict(&s, &m, now_ms, &out);
        }
    }
    assert_int_equal(s.waiting_count, 0);
}

static void turn(void)
{
    mq_ws_flush(&s, now_ms, &out);
    while (out.count > 0) {
        act();
        mq_ws_flush(&s, now_ms, &out);
    }
}

static void deliver_to_owner(owner *o)
{
    word w = pop(&o->to_owner);
    o->free = w.free;
    o->seen = w.seen;
    if (w.type == BEAT) {
        push(&o->to_worker, (word){.type = BEATEN, .seq = w.seq});
    }
}

static void deliver_to_worker(uint32_t shard)
{
    word w = pop(&owners[shard].to_worker);
    mq_ws_from(&s, shard);
    if (w.type == BEATEN) {
        mq_msg_beaten m = {.seq = w.seq};
        mq_ws_on_beaten(&s, &m, now_ms, &out);
    } else if (w.type == WANT) {
        mq_msg_want m = {.waiting = w.waiting};
        mq_ws_on_want(&s, &m, now_ms);
    } else {
        mq_msg_job_item item = {.id = mq_str("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                                .epoch = 1,
                                .grant = w.grant,
                                .max_run_ms = 60000};
        mq_msg_job m = {.jobs = &item, .jobs_count = 1};
        mq_ws_on_job(&s, &m, now_ms, &out);
    }
    turn();
}

static void dispatch(uint32_t shard)
{
    owner *o = &owners[shard];
    if (o->waiting > 0 && usable(o) > 0) {
        o->waiting--;
        o->sent++;
        owner_of[++grants] = shard;
        push(&o->to_worker, (word){.type = JOB, .grant = grants});
    }
}

static void want(uint32_t shard)
{
    owner *o = &owners[shard];
    if (o->to_worker.count < WORDS) { /* as often as they are read */
        push(&o->to_worker, (word){.type = WANT, .waiting = o->waiting});
    }
}

static void end_one(void)
{
    uint32_t slot = (uint32_t)mq_prng_below(&prng, SLOTS);
    if (s.slots[slot] < MQ_WS_JOBS_MAX) {
        mq_error error = {.code = MQ_OK, .text = ""};
        /* Slow jobs: none is asked for beyond free slots. */
        mq_ws_on_ended(&s, slot, &error, 5, 100000, now_ms, &out);
        turn();
    }
}

static void step(bool is_calm)
{
    uint32_t shard = (uint32_t)mq_prng_below(&prng, SHARDS);
    owner *o = &owners[shard];
    switch (mq_prng_below(&prng, 8)) {
    case 0:
        o->waiting += is_calm ? 0 : mq_prng_below(&prng, 3);
        break;
    case 1:
        want(shard);
        break;
    case 2:
        now_ms += 1 + (int64_t)mq_prng_below(&prng, 100);
        turn();
        break;
    case 3:
        end_one();
        break;
    case 4:
    case 5:
        dispatch(shard);
        break;
    case 6:
        if (o->to_owner.count > 0) {
            deliver_to_owner(o);
        }
        break;
    default:
        if (o->to_worker.count > 0) {
            deliver_to_worker(shard);
        }
    }
}

static void begin(void)
{
    mq_ws_config config = {
        .broker_count = SHARDS, .slot_count = SLOTS, .drain_ms = 10000, .seed = 7};
    memset(owners, 0, sizeof owners);
    now_ms = 1000000;
    grants = 0;
    out.count = 0;
    mq_ws_init(&s, &config, now_ms);
    for (uint32_t i = 0; i < SLOTS; i++) {
        mq_ws_on_slot_ready(&s, i, now_ms, &out);
    }
    mq_ws_flush(&s, now_ms, &out);
    for (uint32_t k = 0; k < SHARDS; k++) {
        mq_msg_welcome welcome = {.beat_ms = 60000, .shards = SHARDS, .shard = k};
        mq_msg_registered registered = {.epoch = 1, .beat_ms = 60000, .lease_ms = 180000};
        mq_ws_from(&s, k);
        if (k > 0) {
            mq_ws_flush(&s, now_ms, &out);
            mq_ws_from(&s, k);
        }
        mq_ws_on_welcome(&s, &welcome, now_ms, &out);
        mq_ws_on_registered(&s, &registered, now_ms, &out);
        assert_int_equal(s.link, MQ_WS_SERVING);
    }
    turn();
}

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text == NULL || *text == '\0' ? otherwise : strtoull(text, NULL, 10);
}

static void no_more_jobs_come_than_there_are_slots_and_who_has_jobs_gets_slots(void **state)
{
    (void)state;
    uint64_t first = number("MAASQ_SEED", 1), seeds = number("MAASQ_SEEDS", SEEDS);
    seeds = getenv("MAASQ_SEED") != NULL ? 1 : seeds;
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        prng.state = seed;
        begin();
        for (int i = 0; i < STEPS; i++) {
            step(false); /* act() asserts that no job waits for a slot */
        }
        /* Calm: no new jobs. All that wait get their turn, whatever the owners held back. */
        uint64_t left = 1;
        for (int i = 0; left > 0 && i < CALM_STEPS; i++) {
            step(true);
            left = 0;
            for (uint32_t k = 0; k < SHARDS; k++) {
                left += owners[k].waiting + (owners[k].sent - owners[k].ended);
            }
        }
        if (left > 0) {
            fail_msg("seed %llu: %llu jobs never came to a slot", (unsigned long long)seed,
                     (unsigned long long)left);
        }
    }
}

static void all_slots_go_to_the_one_shard_that_has_jobs(void **state)
{
    (void)state;
    prng.state = 3;
    begin();
    owners[1].waiting = SLOTS;
    for (int i = 0; i < STEPS && owners[1].sent < SLOTS; i++) {
        want(1);
        now_ms += 50;
        turn();
        for (uint32_t k = 0; k < SHARDS; k++) {
            while (owners[k].to_owner.count > 0) {
                deliver_to_owner(&owners[k]);
            }
            dispatch(k);
            while (owners[k].to_worker.count > 0) {
                deliver_to_worker(k);
            }
        }
    }
    assert_int_equal(owners[1].sent, SLOTS); /* at the same time: none has ended */
    for (uint32_t i = 0; i < SLOTS; i++) {
        assert_true(s.slots[i] < MQ_WS_JOBS_MAX);
    }
}

static void what_was_lent_to_an_owner_that_is_gone_is_lent_to_others(void **state)
{
    (void)state;
    prng.state = 5;
    begin();
    uint64_t lent = 0;
    for (uint32_t k = 0; k < SHARDS; k++) {
        lent += s.loans[k].share;
    }
    assert_int_equal(lent, SLOTS); /* nobody wants any: all are given out in turn */
    mq_ws_from(&s, 0);
    mq_ws_on_link_down(&s, now_ms);
    turn();
    assert_int_equal(s.loans[0].share + s.loans[0].held, 0);
    assert_int_equal(s.loans[1].share + s.loans[2].share, SLOTS);
}

static void a_route_of_a_later_epoch_moves_only_links_that_are_behind(void **state)
{
    (void)state;
    begin();
    assert_false(mq_ws_is_behind(&s, 1, 1)); /* the epoch that it is registered under */
    assert_true(mq_ws_is_behind(&s, 1, 2));
    assert_false(mq_ws_is_behind(&s, SHARDS, 2)); /* a shard that it does not know */
    mq_ws_from(&s, 2);
    mq_ws_go(&s, 1, now_ms, &out);
    assert_int_equal(s.at, 2); /* what is at hand stays at hand */
    assert_int_equal(s.link, MQ_WS_SERVING);
    assert_int_equal(s.talks[1].link, MQ_WS_GREETING);
    assert_int_equal(out.at[out.count - 1].type, MQ_WS_CONNECT);
    assert_int_equal(out.at[out.count - 1].talk, 1);
    assert_true(mq_ws_is_behind(&s, 1, 1)); /* it asks: whoever owns the shard may be told */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_more_jobs_come_than_there_are_slots_and_who_has_jobs_gets_slots),
        cmocka_unit_test(all_slots_go_to_the_one_shard_that_has_jobs),
        cmocka_unit_test(what_was_lent_to_an_owner_that_is_gone_is_lent_to_others),
        cmocka_unit_test(a_route_of_a_later_epoch_moves_only_links_that_are_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

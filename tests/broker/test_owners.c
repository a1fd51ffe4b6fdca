/* Many brokers and shards in one simulated life each seed: the real plan (broker/core/plan.h) and
 * the model of the store (shared/store), with node.c's and own.c's rules of ownership told again
 * around them, while brokers die, stop, come back, are drained and have shards moved to them, and
 * while calls and answers take their time. After every step: no two brokers serve a shard within
 * their tenure, and the store takes commits only of the last one that acquired it. Then, without
 * faults, everything is where the plan wants it. MAASQ_SEED=n repeats one life, MAASQ_SEEDS=n lives
 * more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <string.h>

#include "broker/core/plan.h"
#include "shared/base/prng.h"
#include "shared/store/store.h"

enum {
    BROKERS = 4,
    SHARDS = 6,
    SEEDS = 60,
    TICK_MS = 10,
    FAULTS_MS = 60000,
    CALM_MS = 15000,
    TENURE_MS = 3000,
    RENEW_MS = TENURE_MS / 3,
    LOOK_MS = 500,
    UNSETTLED_MS = 100,
    RETRY_MS = 250,
    TAKEOVER_MS = 5000, /* what is promised */
    DELAY_MS = 400,     /* of a call, and of its answer, at most */
};

typedef enum op_type { NOTHING, ACQUIRE, RENEW, COMMIT, RELEASE } op_type;

/* The one call of a broker about a shard that is under way. */
typedef struct op {
    op_type type;
    int64_t sent_ms, exec_ms, answer_ms; /* exec_ms -1: it has been carried out */
    uint64_t epoch, sequence;
    bool is_ours;
    mq_store_verdict verdict;
    mq_store_owner found;
} op;

typedef struct hold {
    bool is_held; /* believes that it owns the shard */
    uint64_t epoch, sequence;
    int64_t renewed_ms, retry_ms;
    op op;
} hold;

typedef struct table {
    int64_t until_ms[BROKERS];
    bool is_draining[BROKERS];
    uint32_t owner[SHARDS], pin[SHARDS];
    uint64_t epoch[SHARDS];
} table;

typedef struct broker {
    bool is_up;
    int64_t stopped_ms; /* SIGSTOP until then */
    table view;
    int64_t view_ms, told_ms;
    bool has_view;
    uint32_t target[MQ_PLAN_SHARDS_MAX];
    hold holds[SHARDS];
} broker;

static mq_prng prng;
static int64_t now_ms;
static bool has_faults;
static table board;
static broker brokers[BROKERS];
static mq_memory *disks[SHARDS];
static mq_store *stores[SHARDS];
static uint32_t holder[SHARDS]; /* who acquired it last */
static uint64_t taken[SHARDS], sequences[SHARDS];
static unsigned long long commits, refused, takeovers, last_seed;

static uint64_t draw(uint64_t n)
{
    return mq_prng_below(&prng, n);
}

static bool is_alive_in(const table *t, uint32_t b, int64_t at_ms)
{
    return t->until_ms[b] > at_ms;
}

static bool is_serving(const hold *h)
{
    return h->is_held && now_ms < h->renewed_ms + TENURE_MS;
}

/* ---- the store ---- */

static void on_owner(void *arg, mq_code code, const mq_store_owner *owner, const mq_error *err)
{
    op *o = arg;
    (void)err;
    o->is_ours = code == MQ_OK && owner->is_ours;
    if (code == MQ_OK) {
        o->found = *owner;
    }
}

static void on_commit(void *arg, const mq_store_reply *reply)
{
    ((op *)arg)->verdict = reply->verdict;
}

static void carry_out(uint32_t b, uint32_t s, op *o)
{
    char name[8];
    mq_error err;
    mq_store *store = stores[s];
    snprintf(name, sizeof name, "b%u", b);
    o->exec_ms = -1;
    if (o->type == COMMIT) {
        mq_store_batch batch = {.epoch = o->epoch, .sequence = o->sequence};
        assert_int_equal(store->ops->commit(store, &batch, on_commit, o, &err), MQ_OK);
    } else if (o->type == RELEASE) {
        assert_int_equal(store->ops->release(store, o->epoch, on_owner, o, &err), MQ_OK);
    } else {
        assert_int_equal(store->ops->acquire(store, mq_str(name), mq_str("at"), TENURE_MS,
                                             o->type == ACQUIRE, true, mq_str(""), on_owner, o,
                                             &err),
                         MQ_OK);
    }
    store->ops->process(store, 0, now_ms);
    if (o->type == ACQUIRE && o->is_ours) {
        assert_true(o->found.epoch > taken[s]); /* epochs only grow */
        taken[s] = o->found.epoch;
        holder[s] = b;
        takeovers++;
    }
    if (o->type == COMMIT && o->verdict == MQ_STORE_OK) {
        /* The only one that may, and each sequence once. */
        assert_int_equal(holder[s], b);
        assert_int_equal(o->epoch, taken[s]);
        assert_int_equal(o->sequence, sequences[s] + 1);
        sequences[s] = o->sequence;
        commits++;
    }
    refused += o->type == COMMIT && o->verdict != MQ_STORE_OK;
}

/* ---- a broker ---- */

static void send(hold *h, op_type type)
{
    h->op = (op){.type = type,
                 .sent_ms = now_ms,
                 .exec_ms = now_ms + (int64_t)draw(draw(20) == 0 ? DELAY_MS : 20),
                 .epoch = h->epoch,
                 .sequence = h->sequence + 1};
    if (has_faults && type == COMMIT &&
        draw(500) == 0) { /* stuck in a connection: others take over meanwhile */
        h->op.exec_ms += (int64_t)draw(2 * TENURE_MS);
    }
    h->op.answer_ms = h->op.exec_ms + (int64_t)draw(draw(20) == 0 ? DELAY_MS : 20);
}

static void answered(hold *h)
{
    op o = h->op;
    h->op.type = NOTHING;
    h->retry_ms = now_ms + RETRY_MS;
    if (o.type == ACQUIRE && o.is_ours) {
        h->is_held = true;
        h->epoch = o.found.epoch;
        h->sequence = o.found.sequence;
        h->renewed_ms = o.sent_ms; /* the tenure is counted from sending */
    } else if (o.type == RENEW && o.is_ours && o.found.epoch == h->epoch) {
        h->renewed_ms = o.sent_ms;
    } else if (o.type == COMMIT && o.verdict == MQ_STORE_OK) {
        h->sequence = o.sequence;
    } else {
        h->is_held = false; /* refused, taken over, or given back */
    }
}

static void look(broker *b, uint32_t self)
{
    mq_plan_in in = {.broker_count = BROKERS, .shard_count = SHARDS};
    b->view = board;
    b->view_ms = now_ms;
    b->has_view = true;
    for (uint32_t i = 0; i < BROKERS; i++) {
        in.is_alive[i] = i == self || is_alive_in(&board, i, now_ms);
        in.is_active[i] = in.is_alive[i] && !board.is_draining[i];
    }
    memcpy(in.owner, board.owner, sizeof board.owner);
    memcpy(in.pin, board.pin, sizeof board.pin);
    mq_plan(&in, b->target);
}

static void tell(broker *b, uint32_t self)
{
    board.until_ms[self] = now_ms + TENURE_MS;
    for (uint32_t s = 0; s < SHARDS; s++) {
        const hold *h = &b->holds[s];
        if (is_serving(h) && h->epoch >= board.epoch[s]) {
            board.owner[s] = self;
            board.epoch[s] = h->epoch;
        } else if (!is_serving(h) && board.owner[s] == self) {
            board.owner[s] = MQ_PLAN_NONE;
        }
    }
    b->told_ms = now_ms;
}

/* True when the shard is where it should be. */
static bool follow(broker *b, uint32_t self, uint32_t s)
{
    hold *h = &b->holds[s];
    bool is_ours = b->target[s] == self;
    uint32_t owner = b->view.owner[s];
    bool is_anothers =
        owner != MQ_PLAN_NONE && owner != self && is_alive_in(&b->view, owner, b->view_ms);
    if (h->op.type != NOTHING) {
        return false;
    }
    if (h->is_held && !is_ours) {
        send(h, RELEASE);
        h->is_held = false; /* before it is sent */
        return false;
    }
    if (!h->is_held && is_ours && !is_anothers && now_ms >= h->retry_ms) {
        send(h, ACQUIRE);
        return false;
    }
    if (h->is_held && now_ms >= h->renewed_ms + RENEW_MS) {
        send(h, RENEW);
    } else if (is_serving(h) && draw(10) == 0) {
        send(h, COMMIT);
    }
    return is_ours ? is_serving(h) : is_anothers;
}

static void run_broker(uint32_t self)
{
    broker *b = &brokers[self];
    bool is_settled = b->has_view, has_changed = false;
    for (uint32_t s = 0; s < SHARDS; s++) {
        hold *h = &b->holds[s];
        bool was = is_serving(h);
        if (h->op.type != NOTHING && h->op.exec_ms < 0 && now_ms >= h->op.answer_ms) {
            answered(h);
        }
        bool is_there = b->has_view && follow(b, self, s);
        is_settled = is_settled && is_there;
        has_changed |= was != is_serving(h);
    }
    if (has_changed || now_ms >= b->told_ms + RENEW_MS) {
        tell(b, self);
        look(b, self);
    } else if (now_ms >= b->view_ms + (is_settled ? LOOK_MS : UNSETTLED_MS)) {
        look(b, self);
    }
}

/* ---- the world ---- */

static void check(void)
{
    for (uint32_t s = 0; s < SHARDS; s++) {
        uint32_t serving = 0;
        for (uint32_t b = 0; b < BROKERS; b++) {
            serving += brokers[b].is_up && is_serving(&brokers[b].holds[s]);
        }
        assert_true(serving <= 1);
    }
}

static void die(uint32_t b)
{
    /* What it had sent is carried out all the same, by way of its socket. */
    brokers[b].is_up = false;
    for (uint32_t s = 0; s < SHARDS; s++) {
        brokers[b].holds[s].is_held = false;
    }
}

static void rise(uint32_t b)
{
    broker fresh = {.is_up = true};
    for (uint32_t s = 0; s < SHARDS; s++) { /* only what is still on its way is left */
        fresh.holds[s].op = brokers[b].holds[s].op;
        fresh.holds[s].op.type = NOTHING;
    }
    brokers[b] = fresh;
}

static void tick(void)
{
    now_ms += TICK_MS;
    for (uint32_t b = 0; b < BROKERS; b++) {
        for (uint32_t s = 0; s < SHARDS; s++) {
            op *o = &brokers[b].holds[s].op;
            if (o->type != NOTHING && o->exec_ms >= 0 && now_ms >= o->exec_ms) {
                carry_out(b, s, o);
                check();
            }
        }
        if (brokers[b].is_up && now_ms >= brokers[b].stopped_ms) {
            run_broker(b);
            check();
        }
    }
}

static void fault(void)
{
    uint32_t b = (uint32_t)draw(BROKERS), s = (uint32_t)draw(SHARDS);
    switch (draw(6)) {
    case 0:
        if (brokers[b].is_up) {
            die(b);
        } else {
            rise(b);
        }
        break;
    case 1:
        brokers[b].stopped_ms = now_ms + (int64_t)draw(2 * TENURE_MS);
        break;
    case 2:
        board.pin[s] = draw(3) == 0 ? MQ_PLAN_NONE : b;
        break;
    case 3:
        board.is_draining[b] = draw(2) == 0;
        break;
    default:
        if (!brokers[b].is_up) {
            rise(b);
        }
    }
}

static void calm(void)
{
    has_faults = false;
    for (uint32_t b = 0; b < BROKERS; b++) {
        brokers[b].stopped_ms = 0;
        if (!brokers[b].is_up) {
            rise(b);
        }
    }
    for (int64_t until_ms = now_ms + CALM_MS; now_ms < until_ms;) {
        tick();
    }
}

static void begin(uint64_t seed)
{
    mq_error err;
    last_seed = seed;
    prng.state = seed;
    now_ms = 1000000;
    memset(brokers, 0, sizeof brokers);
    memset(&board, 0, sizeof board);
    memset(taken, 0, sizeof taken);
    memset(sequences, 0, sizeof sequences);
    for (uint32_t s = 0; s < SHARDS; s++) {
        board.owner[s] = board.pin[s] = MQ_PLAN_NONE;
        disks[s] = mq_memory_new();
        assert_non_null(disks[s]);
        assert_int_equal(mq_store_memory_new(&stores[s], disks[s], &now_ms, &err), MQ_OK);
    }
    for (uint32_t b = 0; b < BROKERS; b++) {
        brokers[b].is_up = true;
    }
}

static void end(void)
{
    for (uint32_t s = 0; s < SHARDS; s++) {
        stores[s]->ops->free(stores[s]);
        mq_memory_free(disks[s]);
    }
}

/* Everybody serves what the plan gives it, and nobody anything else. */
static void check_settled(void)
{
    uint32_t active = 0;
    for (uint32_t b = 0; b < BROKERS; b++) {
        active += !board.is_draining[b];
    }
    for (uint32_t s = 0; s < SHARDS; s++) {
        uint32_t owner = MQ_PLAN_NONE;
        for (uint32_t b = 0; b < BROKERS; b++) {
            owner = is_serving(&brokers[b].holds[s]) ? b : owner;
            assert_int_equal(brokers[b].target[s], brokers[0].target[s]); /* one plan */
        }
        assert_int_not_equal(owner, MQ_PLAN_NONE);
        assert_int_equal(owner, brokers[0].target[s]);
        assert_false(active > 0 && board.is_draining[owner]);
        bool is_pinned = board.pin[s] != MQ_PLAN_NONE && !board.is_draining[board.pin[s]];
        assert_true(!is_pinned || owner == board.pin[s]);
    }
}

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text == NULL || *text == '\0' ? otherwise : strtoull(text, NULL, 10);
}

static void a_shard_has_one_owner_whatever_happens_to_brokers(void **state)
{
    (void)state;
    uint64_t first = number("MAASQ_SEED", 1);
    uint64_t seeds = getenv("MAASQ_SEED") != NULL ? 1 : number("MAASQ_SEEDS", SEEDS);
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        begin(seed);
        has_faults = true;
        int64_t fault_ms = now_ms;
        for (int64_t until_ms = now_ms + FAULTS_MS; now_ms < until_ms;) {
            tick();
            if (now_ms >= fault_ms) {
                fault_ms = now_ms + (int64_t)draw(1500);
                fault();
            }
        }
        calm();
        check_settled();
        end();
    }
    print_message("%llu takeovers and hand-overs, %llu commits, %llu refused\n", takeovers, commits,
                  refused);
    assert_true(takeovers > seeds * SHARDS);
    assert_true(seeds < SEEDS || refused > 0); /* the fence has been tried */
}

static void a_dead_or_stopped_brokers_shards_are_served_within_five_seconds(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        bool had[SHARDS], is_served = false;
        begin(seed);
        calm();
        check_settled();
        uint32_t victim = (uint32_t)draw(BROKERS);
        for (uint64_t wait = draw(100); wait > 0; wait--) {
            tick();
        }
        for (uint32_t s = 0; s < SHARDS; s++) {
            had[s] = is_serving(&brokers[victim].holds[s]);
        }
        if (seed % 2 == 0) {
            die(victim);
        } else {
            brokers[victim].stopped_ms = INT64_MAX;
        }
        int64_t from_ms = now_ms;
        while (!is_served) {
            assert_true(now_ms - from_ms < TAKEOVER_MS); /* of simulated time */
            tick();
            is_served = true;
            for (uint32_t s = 0; s < SHARDS; s++) {
                bool is_taken = !had[s];
                for (uint32_t b = 0; b < BROKERS; b++) {
                    is_taken |= b != victim && is_serving(&brokers[b].holds[s]);
                }
                is_served = is_served && is_taken;
            }
        }
        end();
    }
}

static int say_seed(void **state)
{
    (void)state;
    print_message("last seed %llu\n", last_seed);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_shard_has_one_owner_whatever_happens_to_brokers, say_seed),
        cmocka_unit_test(a_dead_or_stopped_brokers_shards_are_served_within_five_seconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The plan of shards: equal shares, few moves, wishes first, for every table of a seeded walk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/core/plan.h"
#include "shared/base/prng.h"

enum { WALKS = 2000, STEPS = 12 };

static mq_plan_in table(uint32_t brokers, uint32_t shards)
{
    mq_plan_in in = {.broker_count = brokers, .shard_count = shards};
    for (uint32_t b = 0; b < brokers; b++) {
        in.is_active[b] = in.is_alive[b] = true;
    }
    for (uint32_t s = 0; s < shards; s++) {
        in.owner[s] = in.pin[s] = MQ_PLAN_NONE;
    }
    return in;
}

static void shares_of(const mq_plan_in *in, const uint32_t *out, uint32_t *least, uint32_t *most)
{
    *least = UINT32_MAX;
    *most = 0;
    for (uint32_t b = 0; b < in->broker_count; b++) {
        uint32_t n = 0;
        for (uint32_t s = 0; s < in->shard_count; s++) {
            n += out[s] == b;
        }
        if (in->is_active[b]) {
            *least = n < *least ? n : *least;
            *most = n > *most ? n : *most;
        }
    }
}

static void one_broker_owns_all(void **state)
{
    (void)state;
    mq_plan_in in = table(1, 5);
    uint32_t out[MQ_PLAN_SHARDS_MAX];
    mq_plan(&in, out);
    for (int s = 0; s < 5; s++) {
        assert_int_equal(out[s], 0);
    }
}

static void a_second_broker_gets_half_and_the_first_keeps_the_rest(void **state)
{
    (void)state;
    mq_plan_in in = table(2, 4);
    uint32_t out[MQ_PLAN_SHARDS_MAX];
    for (int s = 0; s < 4; s++) {
        in.owner[s] = 1;
    }
    mq_plan(&in, out);
    assert_int_equal(out[0], 1);
    assert_int_equal(out[1], 1);
    assert_int_equal(out[2], 0);
    assert_int_equal(out[3], 0);
}

static void a_single_shard_stays_where_it_is(void **state)
{
    (void)state;
    mq_plan_in in = table(3, 1);
    uint32_t out[MQ_PLAN_SHARDS_MAX];
    in.owner[0] = 2;
    mq_plan(&in, out);
    assert_int_equal(out[0], 2);
}

static void a_wish_is_granted_while_its_broker_is_active(void **state)
{
    (void)state;
    mq_plan_in in = table(2, 4);
    uint32_t out[MQ_PLAN_SHARDS_MAX];
    for (uint32_t s = 0; s < 4; s++) {
        in.owner[s] = s / 2;
    }
    in.pin[0] = 1;
    mq_plan(&in, out);
    assert_int_equal(out[0], 1);
    assert_int_equal(out[1], 0);
    in.is_active[1] = false;
    mq_plan(&in, out);
    assert_int_equal(out[0], 0);
    assert_int_equal(out[3], 0);
}

static void when_all_drain_they_keep_what_they_have(void **state)
{
    (void)state;
    mq_plan_in in = table(2, 4);
    uint32_t out[MQ_PLAN_SHARDS_MAX];
    for (uint32_t s = 0; s < 4; s++) {
        in.owner[s] = s == 3;
    }
    in.is_active[0] = in.is_active[1] = false;
    mq_plan(&in, out);
    for (uint32_t s = 0; s < 4; s++) {
        assert_int_equal(out[s], s == 3);
    }
    in.is_alive[0] = in.is_alive[1] = false;
    mq_plan(&in, out);
    assert_int_equal(out[0], MQ_PLAN_NONE);
}

/* Brokers come and go; after each step the plan is fair, and carried out it does not change. */
static void every_plan_is_fair_and_settles_at_once(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < WALKS; seed++) {
        mq_prng prng = {seed};
        mq_plan_in in =
            table(1 + (uint32_t)mq_prng_below(&prng, 6), 1 + (uint32_t)mq_prng_below(&prng, 16));
        for (int step = 0; step < STEPS; step++) {
            uint32_t out[MQ_PLAN_SHARDS_MAX], again[MQ_PLAN_SHARDS_MAX], least, most, moved = 0;
            uint32_t b = (uint32_t)mq_prng_below(&prng, in.broker_count);
            in.is_alive[b] = mq_prng_below(&prng, 3) > 0;
            in.is_active[b] = in.is_alive[b] && mq_prng_below(&prng, 4) > 0;
            mq_plan(&in, out);
            shares_of(&in, out, &least, &most);
            for (uint32_t s = 0; s < in.shard_count; s++) {
                bool is_there = in.owner[s] != MQ_PLAN_NONE && in.is_active[in.owner[s]];
                moved += is_there && out[s] != in.owner[s];
            }
            if (least == UINT32_MAX) {
                break; /* nobody is active */
            }
            assert_true(most - least <= 1);
            mq_plan_in then = in;
            for (uint32_t s = 0; s < in.shard_count; s++) {
                assert_true(in.is_active[out[s]]);
                then.owner[s] = out[s];
            }
            mq_plan(&then, again);
            assert_memory_equal(out, again, in.shard_count * sizeof *out);
            assert_true(moved <= in.shard_count / 2 + 1);
            in = then;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_broker_owns_all),
        cmocka_unit_test(a_second_broker_gets_half_and_the_first_keeps_the_rest),
        cmocka_unit_test(a_single_shard_stays_where_it_is),
        cmocka_unit_test(a_wish_is_granted_while_its_broker_is_active),
        cmocka_unit_test(when_all_drain_they_keep_what_they_have),
        cmocka_unit_test(every_plan_is_fair_and_settles_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

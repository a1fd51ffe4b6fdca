/* The core's hash index by itself: it grows, shrinks and finds what is in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "broker/core/state.h"

enum { VALUES = 60000, MOST = 131072, FEW = 1000 };

/* Few different hashes, so that many values share one. */
static uint32_t hash_of(const mq_core *core, uint32_t value)
{
    (void)core;
    return value / 3 * UINT32_C(2654435761);
}

static bool is_value(const mq_core *core, uint32_t value, const void *key)
{
    (void)core;
    return value == *(const uint32_t *)key;
}

static void expect(const mq_index *index, uint32_t value, bool is_in)
{
    uint32_t found = mq_index_find(NULL, index, hash_of(NULL, value), is_value, &value);
    assert_int_equal(found, is_in ? value : MQ_NONE);
}

static void open_index(mq_index *index)
{
    *index = (mq_index){.most = MOST, .hash_of = hash_of};
    index->regions[0] = calloc(MOST, sizeof(mq_index_slot));
    index->regions[1] = calloc(MOST / 2, sizeof(mq_index_slot));
    assert_true(index->regions[0] != NULL && index->regions[1] != NULL);
    mq_index_init(index);
}

static void close_index(mq_index *index)
{
    free(index->regions[0]);
    free(index->regions[1]);
}

static void everything_is_found_while_it_grows_and_goes(void **unused)
{
    (void)unused;
    mq_index index;
    open_index(&index);
    uint32_t small = index.mask;
    for (int round = 0; round < 3;
         round++) { /* regions are used again, with what was left in them */
        for (uint32_t v = 0; v < VALUES; v++) {
            mq_index_put(NULL, &index, v);
            expect(&index, v / 2, true);
            expect(&index, v + 1, false);
        }
        assert_int_equal(index.count, VALUES);
        assert_true(index.mask > small && index.mask < MOST);
        for (uint32_t i = 0; i < VALUES;
             i++) { /* in another order: 7919 and 60000 have no factor in common */
            uint32_t v = (uint32_t)((uint64_t)i * 7919 % VALUES);
            expect(&index, v, true);
            mq_index_remove(NULL, &index, v);
            expect(&index, v, false);
            expect(&index, (uint32_t)((uint64_t)(VALUES - 1) * 7919 % VALUES), i + 1 < VALUES);
        }
        assert_int_equal(index.mask, small);
    }
    close_index(&index);
}

static void one_that_has_little_in_it_stays_small(void **unused)
{
    (void)unused;
    mq_index index;
    open_index(&index);
    uint32_t small = index.mask;
    for (uint32_t v = 0; v < VALUES; v++) { /* a queue of a thousand, for long */
        mq_index_put(NULL, &index, v);
        if (v >= FEW) {
            mq_index_remove(NULL, &index, v - FEW);
            expect(&index, v - FEW, false);
        }
        assert_int_equal(index.mask, small);
    }
    close_index(&index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_found_while_it_grows_and_goes),
        cmocka_unit_test(one_that_has_little_in_it_stays_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

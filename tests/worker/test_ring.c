/* The ring of short results: what is put comes out, full and broken ones are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "worker/slot/ring.h"

static mq_ring ring;
static uint8_t buffer[MQ_RING_RESULT_MAX];

static int set_up(void **state)
{
    (void)state;
    memset(&ring, 0, sizeof ring);
    return 0;
}

static void records_come_out_as_they_went_in(void **state)
{
    (void)state;
    uint8_t result[MQ_RING_RESULT_MAX];
    uint64_t head = 0;
    mq_ring_record r;
    for (uint64_t i = 0; i < 5000; i++) { /* around the end many times, with every length */
        size_t bytes = (size_t)(i * 37 % (MQ_RING_RESULT_MAX + 1));
        memset(result, (int)(i & 255), sizeof result);
        assert_true(mq_ring_put(&ring, i / 3, i + 1, i * 2, mq_span_of(result, bytes)));
        assert_int_equal(mq_ring_peek(&ring, head, &r, buffer, NULL), MQ_OK);
        assert_true(r.after == i / 3 && r.run == i + 1 && r.run_us == i * 2 && r.bytes == bytes);
        assert_memory_equal(buffer, result, bytes);
        mq_ring_took(&ring, &head, &r);
    }
    assert_int_equal(mq_ring_peek(&ring, head, &r, buffer, NULL), MQ_E_BUSY);
}

static void full_ring_and_large_results_are_refused(void **state)
{
    (void)state;
    static const uint8_t large[MQ_RING_RESULT_MAX + 1];
    uint64_t head = 0, puts = 0;
    mq_ring_record r;
    assert_false(mq_ring_put(&ring, 0, 1, 0, mq_span_of(large, sizeof large)));
    while (mq_ring_put(&ring, 0, ++puts, 0, mq_span_of(large, 100))) {
        assert_true(puts < MQ_RING_BYTES);
    }
    for (uint64_t i = 1; i < puts; i++) {
        assert_int_equal(mq_ring_peek(&ring, head, &r, buffer, NULL), MQ_OK);
        assert_int_equal(r.run, i);
        mq_ring_took(&ring, &head, &r);
    }
    assert_true(mq_ring_put(&ring, 0, 1, 0, mq_span_of(large, 100))); /* there is room again */
}

static void reader_is_behind_until_it_took_the_record(void **state)
{
    (void)state;
    uint64_t head = 0;
    mq_ring_record r;
    assert_true(mq_ring_put(&ring, 0, 1, 0, mq_span_of("x", 1)));
    uint64_t at = atomic_load(&ring.tail);
    assert_true(mq_ring_is_behind(&ring, at));
    assert_int_equal(mq_ring_peek(&ring, head, &r, buffer, NULL), MQ_OK);
    mq_ring_took(&ring, &head, &r);
    assert_false(mq_ring_is_behind(&ring, at));
}

/* A slot may write anything there at any time. */
static void broken_numbers_are_refused(void **state)
{
    (void)state;
    mq_ring_record r;
    mq_error err;
    assert_true(mq_ring_put(&ring, 0, 1, 0, mq_span_of("x", 1)));
    uint64_t tail = atomic_load(&ring.tail);
    const uint64_t tails[] = {1, 3, MQ_RING_BYTES / 8 + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        atomic_store(&ring.tail, tails[i]);
        assert_int_equal(mq_ring_peek(&ring, 0, &r, buffer, &err), MQ_E_FORMAT);
    }
    atomic_store(&ring.tail, tail);
    const uint64_t sizes[] = {9, MQ_RING_RESULT_MAX + 1, UINT64_MAX, UINT64_MAX - 6};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ring.words[3] = sizes[i];
        assert_int_equal(mq_ring_peek(&ring, 0, &r, buffer, &err), MQ_E_FORMAT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(records_come_out_as_they_went_in, set_up),
        cmocka_unit_test_setup(full_ring_and_large_results_are_refused, set_up),
        cmocka_unit_test_setup(reader_is_behind_until_it_took_the_record, set_up),
        cmocka_unit_test_setup(broken_numbers_are_refused, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A log that ends inside a transaction: what was acknowledged stays, what was not is gone, also
 * after the next restart, which is where redis-server by itself goes wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shared/base/file.h"
#include "tests/support/store_world.h"

enum { CUTS = 8 };

#define LOG_NAME "appendonlydir/appendonly.aof.1.incr.aof"

static void log_path(const world *w, char path[160])
{
    snprintf(path, 160, "%s/" LOG_NAME, w->redis.dir);
}

static void read_log(const world *w, mq_buf *bytes)
{
    char path[160];
    log_path(w, path);
    mq_buf_reset(bytes);
    assert_int_equal(mq_file_read(path, bytes, NULL), MQ_OK);
}

static void write_log(const world *w, mq_span bytes)
{
    char path[160];
    log_path(w, path);
    assert_int_equal(mq_file_write(path, bytes, 0600, NULL), MQ_OK);
}

/* Offset of the last MULTI. */
static size_t last_multi(const mq_buf *log)
{
    static const char multi[] = "*1\r\n$5\r\nMULTI\r\n";
    for (size_t at = log->len - (sizeof multi - 1); at > 0; at--) {
        if (memcmp(log->data + at, multi, sizeof multi - 1) == 0) {
            return at;
        }
    }
    fail();
    return 0;
}

static void restart(world *w)
{
    mq_test_redis_start(&w->redis, NULL); /* repairs the log */
    while (w->store->ops->is_connected(w->store)) {
        mq_test_store_turn(w->store);
    }
    mq_test_store_connect(w->store);
    take(w);
}

static void wait_until_down(world *w)
{
    mq_test_redis_kill(&w->redis);
    while (w->store->ops->is_connected(w->store)) {
        mq_test_store_turn(w->store);
    }
}

static long long counter(world *w)
{
    mq_test_scan(w->store, MQ_PART_COUNTERS, 0, &w->got);
    return w->got.pair_count == 0 ? 0 : strtoll((const char *)w->got.pairs[0].value.data, NULL, 10);
}

static void a_transaction_torn_anywhere_is_gone_for_good_and_later_ones_stay(void **state)
{
    world *w = *state;
    mq_store_count one = {mq_str("n"), 1};
    char id[MQ_ULID_SIZE];
    mq_buf log;
    mq_buf_init(&log, 1 << 24);
    take(w);
    commit(w, &(mq_store_batch){.counters = &one, .counter_count = 1});
    for (uint64_t i = 0; i < CUTS; i++) {
        uint64_t before = w->sequence;
        long long count = counter(w);
        mq_store_create job = {id_of(w, i, id), i, mq_str("torn"), mq_str("body")};
        commit(w, &(mq_store_batch){
                      .counters = &one, .counter_count = 1, .creates = &job, .create_count = 1});
        wait_until_down(w);
        read_log(w, &log);
        size_t from = last_multi(&log);
        size_t keep = from + (log.len - from) * i / CUTS + 1;
        write_log(w, mq_span_of(log.data, keep)); /* as if killed in the middle of the write */
        restart(w);
        assert_int_equal(w->sequence, before);
        assert_int_equal(counter(w), count);
        assert_no_job(w, mq_str(id));
        one.delta = 1000; /* acknowledged after the tear, and then Redis is killed again */
        commit(w, &(mq_store_batch){.counters = &one, .counter_count = 1});
        one.delta = 1;
        wait_until_down(w);
        restart(w);
        assert_int_equal(w->sequence, before + 1);
        assert_int_equal(counter(w), count + 1000);
        assert_no_job(w, mq_str(id));
    }
    mq_buf_release(&log);
}

static void a_whole_log_is_left_as_it_is(void **state)
{
    world *w = *state;
    take(w);
    commit(w, &(mq_store_batch){.event = mq_str("e")});
    wait_until_down(w);
    mq_buf before;
    mq_buf after;
    mq_buf_init(&before, 1 << 24);
    mq_buf_init(&after, 1 << 24);
    read_log(w, &before);
    size_t cut_bytes = 99;
    assert_int_equal(mq_aof_repair(w->redis.dir, &cut_bytes, NULL), MQ_OK);
    assert_int_equal(cut_bytes, 0);
    read_log(w, &after);
    assert_true(mq_span_eq(mq_buf_span(&before), mq_buf_span(&after)));
    mq_buf_release(&before);
    mq_buf_release(&after);
    restart(w);
}

static void the_end_is_cut_at_every_byte_where_it_may_be_torn(void **state)
{
    world *w = *state;
    take(w);
    commit(w, &(mq_store_batch){.event = mq_str("first")});
    commit(w, &(mq_store_batch){.event = mq_str("second")});
    wait_until_down(w);
    mq_buf log;
    mq_buf now;
    mq_buf_init(&log, 1 << 24);
    mq_buf_init(&now, 1 << 24);
    read_log(w, &log);
    size_t from = last_multi(&log);
    for (size_t keep = from; keep < log.len; keep++) {
        size_t cut_bytes = 0;
        write_log(w, mq_span_of(log.data, keep));
        assert_int_equal(mq_aof_repair(w->redis.dir, &cut_bytes, NULL), MQ_OK);
        assert_int_equal(cut_bytes, keep - from);
        read_log(w, &now);
        assert_int_equal(now.len, from);
    }
    /* A file system may have left zeros where bytes were to come. */
    memset(log.data + from + 20, 0, log.len - from - 20);
    write_log(w, mq_buf_span(&log));
    assert_int_equal(mq_aof_repair(w->redis.dir, NULL, NULL), MQ_OK);
    read_log(w, &now);
    assert_int_equal(now.len, from);
    mq_buf_release(&log);
    mq_buf_release(&now);
    restart(w);
}

static void damage_before_the_end_is_refused_and_not_touched(void **state)
{
    world *w = *state;
    take(w);
    for (int i = 0; i < 3; i++) {
        commit(w, &(mq_store_batch){.event = mq_str("event")});
    }
    wait_until_down(w);
    mq_buf log;
    mq_buf now;
    mq_buf_init(&log, 1 << 24);
    mq_buf_init(&now, 1 << 24);
    read_log(w, &log);
    mq_error err;
    size_t at = last_multi(&log);
    while (log.data[at] != '$') {
        at++;
    }
    log.data[at] = '%';
    write_log(w, mq_buf_span(&log));
    assert_int_equal(mq_aof_repair(w->redis.dir, NULL, &err), MQ_E_CORRUPT);
    assert_non_null(strstr(err.text, "damaged at byte"));
    read_log(w, &now);
    assert_true(mq_span_eq(mq_buf_span(&log), mq_buf_span(&now)));
    mq_buf_release(&log);
    mq_buf_release(&now);
}

static void a_folder_without_a_log_needs_nothing(void **state)
{
    (void)state;
    size_t cut_bytes = 99;
    assert_int_equal(mq_aof_repair("/nonexistent/maasq", &cut_bytes, NULL), MQ_OK);
    assert_int_equal(cut_bytes, 0);
}

#define FACT(name) cmocka_unit_test_setup_teardown(name, setup_redis, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FACT(a_transaction_torn_anywhere_is_gone_for_good_and_later_ones_stay),
        FACT(a_whole_log_is_left_as_it_is),
        FACT(the_end_is_cut_at_every_byte_where_it_may_be_torn),
        FACT(damage_before_the_end_is_refused_and_not_touched),
        cmocka_unit_test(a_folder_without_a_log_needs_nothing),
    };
    return cmocka_run_group_tests_name("log of a killed redis-server", tests, NULL, NULL);
}

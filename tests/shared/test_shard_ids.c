/* Which shard an id belongs to, and how a message says which shard it is for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "shared/base/ulid.h"
#include "shared/wire/messages.h"

enum { IDS = 4096 };

static void every_id_has_one_shard_and_new_ones_are_spread(void **state)
{
    (void)state;
    for (uint32_t shards = 1; shards <= MQ_ULID_SHARDS_MAX; shards++) {
        uint32_t counts[MQ_ULID_SHARDS_MAX] = {0};
        for (int i = 0; i < IDS; i++) {
            char id[MQ_ULID_SIZE];
            mq_ulid_new(id);
            uint32_t shard = mq_ulid_shard(mq_str(id), shards);
            assert_true(shard < shards);
            assert_int_equal(mq_ulid_shard(mq_str(id), shards), shard);
            counts[shard]++;
        }
        for (uint32_t s = 0; s < shards; s++) { /* 64 each at 64 shards: far from none */
            assert_true(counts[s] > IDS / shards / 4);
        }
    }
}

static void the_letters_alone_decide(void **state)
{
    (void)state;
    char id[MQ_ULID_SIZE], other[MQ_ULID_SIZE];
    /* Letters 11 and 12 are the first ten random bits: "00" is 0, "0Z" is 31, "10" is 32. */
    assert_int_equal(mq_ulid_shard(mq_str("01ARZ3NDEK00V4RRFFQ69G5FAV"), 64), 0);
    assert_int_equal(mq_ulid_shard(mq_str("01ARZ3NDEK0ZV4RRFFQ69G5FAV"), 64), 31);
    assert_int_equal(mq_ulid_shard(mq_str("01ARZ3NDEK10V4RRFFQ69G5FAV"), 64), 32);
    assert_int_equal(mq_ulid_shard(mq_str("01ARZ3NDEKZZV4RRFFQ69G5FAV"), 1000), 23);
    assert_int_equal(mq_ulid_shard(mq_str("7ZZZZZZZZZ10000000000000A0"), 64), 32);
    assert_int_equal(mq_ulid_shard(mq_str("no ulid"), 64), 0);
    assert_int_equal(mq_ulid_shard(mq_str(""), 64), 0);
    for (int i = 0; i < IDS; i++) {
        mq_ulid_new(id);
        mq_ulid_new(other);
        mq_ulid_follow(id, mq_str(other));
        for (uint32_t shards = 1; shards <= MQ_ULID_SHARDS_MAX; shards += 7) {
            assert_int_equal(mq_ulid_shard(mq_str(id), shards),
                             mq_ulid_shard(mq_str(other), shards));
        }
        mq_ulid_set_home(id);
        for (uint32_t shards = 1; shards <= MQ_ULID_SHARDS_MAX; shards++) {
            assert_int_equal(mq_ulid_shard(mq_str(id), shards), 0);
        }
        assert_true(mq_ulid_ms(mq_str(id)) >= 0); /* it still is a ULID */
    }
}

static void an_id_can_be_made_for_a_shard(void **state)
{
    (void)state;
    for (uint32_t shards = 1; shards <= MQ_ULID_SHARDS_MAX; shards++) {
        for (uint32_t s = 0; s < shards; s++) {
            char id[MQ_ULID_SIZE], before[MQ_ULID_SIZE];
            mq_ulid_new(id);
            memcpy(before, id, sizeof id);
            mq_ulid_set_shard(id, s, shards);
            assert_int_equal(mq_ulid_shard(mq_str(id), shards), s);
            assert_memory_equal(id, before, 10);
            assert_memory_equal(id + 12, before + 12, MQ_ULID_LEN - 12);
        }
    }
}

static void the_first_frame_names_the_shard(void **state)
{
    (void)state;
    uint8_t head[6];
    mq_command command;
    for (uint32_t shard = 0; shard < MQ_ULID_SHARDS_MAX; shard++) {
        size_t bytes = mq_wire_head_to(MQ_CMD_submit, shard, head);
        assert_int_equal(bytes, shard == 0 ? 4 : 6);
        assert_int_equal(mq_wire_shard(mq_span_of(head, bytes)), shard);
        assert_int_equal(mq_wire_command(mq_span_of(head, bytes), &command, NULL), MQ_OK);
        assert_int_equal(command, MQ_CMD_submit);
    }
    assert_int_equal(mq_wire_head_to(MQ_CMD_submit, 0x1234, head), 6);
    assert_int_equal(head[4], 0x12); /* high byte first */
    assert_int_equal(head[5], 0x34);
    assert_int_equal(mq_wire_shard(mq_span_of(head, 6)), 0x1234);
    assert_int_equal(mq_wire_shard(mq_span_of(head, 4)), 0);
    assert_int_equal(mq_wire_shard(mq_span_of(head, 0)), 0);
    assert_int_not_equal(mq_wire_command(mq_span_of(head, 5), &command, NULL), MQ_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_id_has_one_shard_and_new_ones_are_spread),
        cmocka_unit_test(the_letters_alone_decide),
        cmocka_unit_test(an_id_can_be_made_for_a_shard),
        cmocka_unit_test(the_first_frame_names_the_shard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* ULIDs; see ulid.h. */
#include "shared/base/ulid.h"

#include <sys/random.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"

static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

void mq_ulid_make(int64_t wall_ms, const uint8_t random[10], char out[MQ_ULID_SIZE])
{
    uint64_t ms = (uint64_t)wall_ms & UINT64_C(0xffffffffffff);
    for (int i = 9; i >= 0; i--) {
        out[i] = digits[ms & 31];
        ms >>= 5;
    }
    for (int half = 0; half < 2; half++) { /* 40 bits are 8 letters */
        uint64_t bits = 0;
        for (int i = 0; i < 5; i++) {
            bits = bits << 8 | random[half * 5 + i];
        }
        for (int i = 7; i >= 0; i--) {
            out[10 + half * 8 + i] = digits[bits & 31];
            bits >>= 5;
        }
    }
    out[MQ_ULID_LEN] = '\0';
}

void mq_ulid_new(char out[MQ_ULID_SIZE])
{
    uint8_t random[10];
    MQ_ASSERT(getrandom(random, sizeof random, 0) == (ssize_t)sizeof random);
    mq_ulid_make(mq_clock_wall_ms(), random, out);
}

/* Value + 1 of each letter, 0 for what is none. */
static const uint8_t values[256] = {
    ['0'] = 1,  ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
    ['8'] = 9,  ['9'] = 10, ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
    ['G'] = 17, ['H'] = 18, ['J'] = 19, ['K'] = 20, ['M'] = 21, ['N'] = 22, ['P'] = 23, ['Q'] = 24,
    ['R'] = 25, ['S'] = 26, ['T'] = 27, ['V'] = 28, ['W'] = 29, ['X'] = 30, ['Y'] = 31, ['Z'] = 32,
};

int64_t mq_ulid_ms(mq_span s)
{
    if (s.len != MQ_ULID_LEN || s.data[0] > '7') {
        return -1;
    }
    uint64_t ms = 0, bad = 0; /* bit 63 of bad: some letter is none; looked at once, at the end */
    for (size_t i = 0; i < 10; i++) {
        uint64_t value = (uint64_t)values[s.data[i]] - 1;
        bad |= value;
        ms = ms << 5 | (value & 31);
    }
    for (size_t i = 10; i < MQ_ULID_LEN; i++) {
        bad |= (uint64_t)values[s.data[i]] - 1;
    }
    return bad >> 63 != 0 ? -1 : (int64_t)ms;
}

/* Value of a letter, or -1. */
static int digit_of(uint8_t letter)
{
    const char *at = letter == '\0' ? NULL : strchr(digits, letter);
    return at == NULL ? -1 : (int)(at - digits);
}

uint32_t mq_ulid_shard(mq_span id, uint32_t shards)
{
    MQ_ASSERT(shards > 0);
    if (id.len != MQ_ULID_LEN) {
        return 0;
    }
    int high = digit_of(id.data[MQ_ULID_SHARD_AT]), low = digit_of(id.data[MQ_ULID_SHARD_AT + 1]);
    return high < 0 || low < 0 ? 0 : (uint32_t)(high * 32 + low) % shards;
}

void mq_ulid_set_shard(char id[MQ_ULID_SIZE], uint32_t shard, uint32_t shards)
{
    MQ_ASSERT(shard < shards && shards <= MQ_ULID_SHARDS_MAX);
    uint32_t value = mq_ulid_shard(mq_span_of(id, MQ_ULID_LEN), MQ_ULID_SHARD_VALUES);
    value = value / shards * shards + shard;
    value -= value >= MQ_ULID_SHARD_VALUES ? shards : 0;
    id[MQ_ULID_SHARD_AT] = digits[value / 32];
    id[MQ_ULID_SHARD_AT + 1] = digits[value % 32];
}

void mq_ulid_set_home(char id[MQ_ULID_SIZE])
{
    id[MQ_ULID_SHARD_AT] = id[MQ_ULID_SHARD_AT + 1] = digits[0];
}

void mq_ulid_follow(char id[MQ_ULID_SIZE], mq_span other)
{
    MQ_ASSERT(other.len == MQ_ULID_LEN);
    memcpy(id + MQ_ULID_SHARD_AT, other.data + MQ_ULID_SHARD_AT, 2);
}

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

/* Value of each letter and the bit IS_LETTER; 0 for what is none. */
enum { IS_LETTER = 0x80 };
static const uint8_t values[256] = {
    ['0'] = IS_LETTER | 0,  ['1'] = IS_LETTER | 1,  ['2'] = IS_LETTER | 2,  ['3'] = IS_LETTER | 3,
    ['4'] = IS_LETTER | 4,  ['5'] = IS_LETTER | 5,  ['6'] = IS_LETTER | 6,  ['7'] = IS_LETTER | 7,
    ['8'] = IS_LETTER | 8,  ['9'] = IS_LETTER | 9,  ['A'] = IS_LETTER | 10, ['B'] = IS_LETTER | 11,
    ['C'] = IS_LETTER | 12, ['D'] = IS_LETTER | 13, ['E'] = IS_LETTER | 14, ['F'] = IS_LETTER | 15,
    ['G'] = IS_LETTER | 16, ['H'] = IS_LETTER | 17, ['J'] = IS_LETTER | 18, ['K'] = IS_LETTER | 19,
    ['M'] = IS_LETTER | 20, ['N'] = IS_LETTER | 21, ['P'] = IS_LETTER | 22, ['Q'] = IS_LETTER | 23,
    ['R'] = IS_LETTER | 24, ['S'] = IS_LETTER | 25, ['T'] = IS_LETTER | 26, ['V'] = IS_LETTER | 27,
    ['W'] = IS_LETTER | 28, ['X'] = IS_LETTER | 29, ['Y'] = IS_LETTER | 30, ['Z'] = IS_LETTER | 31,
};

int64_t mq_ulid_ms(mq_span s)
{
    if (s.len != MQ_ULID_LEN || s.data[0] > '7') {
        return -1;
    }
    const uint8_t *at = s.data;
    uint64_t ms = 0;
    uint8_t all = IS_LETTER; /* looked at once, at the end */
    for (size_t i = 0; i < 10; i += 2) {
        uint8_t high = values[at[i]], low = values[at[i + 1]];
        all &= high & low;
        ms = ms << 10 | (uint64_t)(high & 31) << 5 | (low & 31);
    }
    for (size_t i = 10; i < MQ_ULID_LEN; i += 4) {
        all &= values[at[i]] & values[at[i + 1]] & values[at[i + 2]] & values[at[i + 3]];
    }
    return all == 0 ? -1 : (int64_t)ms;
}

int64_t mq_ulid_time(const char id[MQ_ULID_LEN])
{
    uint64_t ms = 0;
    for (int i = 0; i < 10; i += 2) {
        uint8_t high = values[(uint8_t)id[i]], low = values[(uint8_t)id[i + 1]];
        ms = ms << 10 | (uint64_t)(high & 31) << 5 | (low & 31);
    }
    return (int64_t)ms;
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

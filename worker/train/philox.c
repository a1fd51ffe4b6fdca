/* Counter-based random numbers and the row permutation; see philox.h. Knows nothing of training. */
#include "worker/train/philox.h"

#include "shared/base/assert.h"

enum { PHILOX_ROUNDS = 10, FEISTEL_ROUNDS = 6 };

mq_philox_block mq_philox(uint64_t key, const uint32_t counter[4])
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t p0 = UINT64_C(0xD2511F53) * c0;
        uint64_t p1 = UINT64_C(0xCD9E8D57) * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += UINT32_C(0x9E3779B9); /* golden ratio */
        k1 += UINT32_C(0xBB67AE85); /* sqrt(3) - 1 */
    }
    return (mq_philox_block){{c0, c1, c2, c3}};
}

void mq_permutation_init(mq_permutation *p, uint64_t seed, uint32_t epoch, uint64_t rows)
{
    MQ_ASSERT(rows >= 1);
    MQ_ASSERT(rows <= UINT64_C(1) << 31);
    uint32_t half_bits = 1;
    while ((UINT64_C(1) << (2 * half_bits)) < rows) {
        half_bits++;
    }
    *p = (mq_permutation){seed, rows, epoch, half_bits};
}

uint64_t mq_permutation_at(const mq_permutation *p, uint64_t position)
{
    MQ_ASSERT(position < p->rows);
    uint32_t mask = (UINT32_C(1) << p->half_bits) - 1;
    uint64_t x = position;
    /* The domain is less than four times the rows, so the walk is short; being a walk on a cycle
     * that contains position itself, it ends. */
    do {
        uint32_t left = (uint32_t)(x >> p->half_bits), right = (uint32_t)x & mask;
        for (uint32_t round = 0; round < FEISTEL_ROUNDS; round++) {
            uint32_t counter[4] = {right, round, p->epoch, MQ_PURPOSE_PERMUTATION};
            uint32_t next = left ^ (mq_philox(p->key, counter).word[0] & mask);
            left = right;
            right = next;
        }
        x = (uint64_t)left << p->half_bits | right;
    } while (x >= p->rows);
    return x;
}

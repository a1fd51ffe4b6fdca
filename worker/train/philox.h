/* Philox4x32-10: random numbers as a pure function of (key, counter), so that nothing has a state
 * that would have to be saved, sent or restored. The key is the job's seed; the counter says what
 * the number is for:
 *
 *     c[0] block number within the draw    c[2] step or epoch
 *     c[1] global row or element / layer   c[3] purpose
 *
 * Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
#ifndef MQ_WORKER_TRAIN_PHILOX_H
#define MQ_WORKER_TRAIN_PHILOX_H

#include <stdint.h>

/* What a number is drawn for; the last word of the counter. Append only: numbers are in results. */
typedef enum mq_purpose {
    MQ_PURPOSE_INIT = 1,
    MQ_PURPOSE_PERMUTATION = 2,
    MQ_PURPOSE_DROPOUT = 3,
    MQ_PURPOSE_AUGMENT = 4,
    MQ_PURPOSE_FINGERPRINT = 5,
} mq_purpose;

typedef struct mq_philox_block {
    uint32_t word[4];
} mq_philox_block;

/* Ten rounds over the counter under the key. Pure. */
mq_philox_block mq_philox(uint64_t key, const uint32_t counter[4]);

/* Keyed bijection of 0..rows-1: position -> row, computed and not stored. A Feistel network of six
 * rounds (each one Philox block) over the smallest even number of bits that holds rows, walked on
 * while it lands outside (Black, Rogaway: "Ciphers with arbitrary finite domains", 2002). */
typedef struct mq_permutation {
    uint64_t key;
    uint64_t rows; /* 1..2^31 */
    uint32_t epoch;
    uint32_t half_bits;
} mq_permutation;

void mq_permutation_init(mq_permutation *p, uint64_t seed, uint32_t epoch, uint64_t rows);
uint64_t mq_permutation_at(const mq_permutation *p, uint64_t position);

#endif

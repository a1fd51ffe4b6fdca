/* Products of 8-bit integers with exact 32-bit sums, the right matrix packed once.
 *
 * Inside, the left operand is unsigned and the right one signed; int8 on the left and uint8 on the
 * right are shifted by 128, which zero points and sums make good. Packed: blocks of 16 columns, in
 * each, groups of 4 rows: 16 columns x 4 bytes, so that one 64-byte load meets 4 bytes of the left
 * row (vpdpbusd). Kernels: AVX-512 VNNI, AVX2, portable; all give the same integers. */
#ifndef MQ_WORKER_OPS_QGEMM_H
#define MQ_WORKER_OPS_QGEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mq_qmatrix {
    int64_t k, n;
    const int8_t *packed;
    const int32_t *sums; /* of each column */
    int32_t shift;       /* added to stored values to get the original ones: 0 or 128 */
} mq_qmatrix;

/* Memory that mq_qpack fills, to be aligned to 64 bytes. */
size_t mq_qpack_bytes(int64_t k, int64_t n);

/* b: k x n, row-major, int8 or uint8. */
void mq_qpack(mq_qmatrix *out, const void *b, bool is_unsigned, int64_t k, int64_t n, void *memory);

/* What mq_qpack has filled before, in memory or in a file. */
mq_qmatrix mq_qpacked(const void *memory, bool is_unsigned, int64_t k, int64_t n);

/* c[m,n] = sum over k of a * stored b (without zero points), a: m x k uint8, rows k apart. */
void mq_qgemm(const uint8_t *a, int64_t m, const mq_qmatrix *b, int32_t *c);

/* The same with kernel number i of those this machine has, for tests; false when there is none. */
bool mq_qgemm_with(int i, const uint8_t *a, int64_t m, const mq_qmatrix *b, int32_t *c);

/* Name of the kernel mq_qgemm uses. */
const char *mq_qgemm_name(void);

#endif

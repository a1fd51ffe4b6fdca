/* 8-bit integer products; see qgemm.h. */
#include "worker/ops/qgemm.h"

#include <string.h>

#include "shared/base/math.h"

enum { COLUMNS = 16, GROUP = 4, BLOCK = COLUMNS * GROUP, PANEL = 4 /* blocks at a time */ };

static int64_t groups_of(int64_t k)
{
    return (k + GROUP - 1) / GROUP;
}

static int64_t blocks_of(int64_t n)
{
    return (n + COLUMNS - 1) / COLUMNS;
}

size_t mq_qpack_bytes(int64_t k, int64_t n)
{
    size_t packed = (size_t)(groups_of(k) * blocks_of(n)) * BLOCK;
    return packed + (size_t)(blocks_of(n) * COLUMNS) * sizeof(int32_t);
}

void mq_qpack(mq_qmatrix *out, const void *b, bool is_unsigned, int64_t k, int64_t n, void *memory)
{
    int8_t *packed = memory;
    size_t bytes = (size_t)(groups_of(k) * blocks_of(n)) * BLOCK;
    int32_t *sums = (int32_t *)(void *)((uint8_t *)memory + bytes);
    memset(memory, 0, mq_qpack_bytes(k, n));
    for (int64_t i = 0; i < k; i++) {
        for (int64_t j = 0; j < n; j++) {
            int32_t v = is_unsigned ? ((const uint8_t *)b)[i * n + j] - 128
                                    : ((const int8_t *)b)[i * n + j];
            int64_t block = j / COLUMNS, group = i / GROUP;
            packed[(block * groups_of(k) + group) * BLOCK + j % COLUMNS * GROUP + i % GROUP] =
                (int8_t)v;
            sums[j] += v;
        }
    }
    *out = mq_qpacked(memory, is_unsigned, k, n);
}

mq_qmatrix mq_qpacked(const void *memory, bool is_unsigned, int64_t k, int64_t n)
{
    const uint8_t *sums = (const uint8_t *)memory + (size_t)(groups_of(k) * blocks_of(n)) * BLOCK;
    return (mq_qmatrix){k, n, memory, (const int32_t *)(const void *)sums, is_unsigned ? 128 : 0};
}

/* Four bytes of a row as one number; past its end zeros. */
static inline uint32_t left_group(const uint8_t *row, int64_t k, int64_t group)
{
    uint32_t v = 0;
    int64_t left = k - group * GROUP;
    if (left >= GROUP) {
        memcpy(&v, row + group * GROUP, GROUP);
    } else {
        memcpy(&v, row + group * GROUP, (size_t)left);
    }
    return v;
}

/* `rows` rows (1..4) times `blocks` blocks (1..PANEL) of 16 columns from `block` on, into
 * sums[row][block * 16 + column]. */
typedef void kernel(const uint8_t *a, int rows, const mq_qmatrix *b, int64_t block, int blocks,
                    int32_t sums[4][PANEL * COLUMNS]);

static void portable(const uint8_t *a, int rows, const mq_qmatrix *b, int64_t block, int blocks,
                     int32_t sums[4][PANEL * COLUMNS])
{
    int64_t groups = groups_of(b->k);
    for (int r = 0; r < rows; r++) {
        memset(sums[r], 0, sizeof sums[r]);
        for (int i = 0; i < blocks; i++) {
            const int8_t *at = b->packed + (block + i) * groups * BLOCK;
            int32_t *sum = sums[r] + i * COLUMNS;
            for (int64_t g = 0; g < groups; g++, at += BLOCK) {
                uint32_t x = left_group(a + r * b->k, b->k, g);
                const int32_t x0 = (int32_t)(x & 255), x1 = (int32_t)(x >> 8 & 255);
                const int32_t x2 = (int32_t)(x >> 16 & 255), x3 = (int32_t)(x >> 24);
                for (int c = 0; c < COLUMNS; c++) {
                    sum[c] += x0 * at[c * 4] + x1 * at[c * 4 + 1] + x2 * at[c * 4 + 2] +
                              x3 * at[c * 4 + 3];
                }
            }
        }
    }
}

#if defined(__x86_64__)
#include <immintrin.h>

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define AVX2 __attribute__((target("avx2")))

/* Four bytes of a row in every lane. */
#define LANES_OF(row, g) _mm512_set1_epi32((int)whole_group((row) + (g)*GROUP))

static inline uint32_t whole_group(const uint8_t *at)
{
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return v;
}

/* Four rows times two blocks: eight sums, so that none waits for itself. */
VNNI static void vnni_4x2(const uint8_t *a, const mq_qmatrix *b, const int8_t *p0, const int8_t *p1,
                          int32_t *sums)
{
    int64_t whole = b->k / GROUP, k = b->k;
    __m512i s[4][2], x[4];
    for (int r = 0; r < 4; r++) {
        s[r][0] = s[r][1] = _mm512_setzero_si512();
    }
    for (int64_t g = 0; g < whole; g++) {
        __m512i w0 = _mm512_loadu_si512(p0 + g * BLOCK), w1 = _mm512_loadu_si512(p1 + g * BLOCK);
        for (int r = 0; r < 4; r++) {
            x[r] = LANES_OF(a + r * k, g);
            s[r][0] = _mm512_dpbusd_epi32(s[r][0], x[r], w0);
            s[r][1] = _mm512_dpbusd_epi32(s[r][1], x[r], w1);
        }
    }
    for (int r = 0; r < 4; r++) {
        if (whole < groups_of(k)) {
            x[r] = _mm512_set1_epi32((int)left_group(a + r * k, k, whole));
            s[r][0] = _mm512_dpbusd_epi32(s[r][0], x[r], _mm512_loadu_si512(p0 + whole * BLOCK));
            s[r][1] = _mm512_dpbusd_epi32(s[r][1], x[r], _mm512_loadu_si512(p1 + whole * BLOCK));
        }
        _mm512_storeu_si512(sums + r * PANEL * COLUMNS, s[r][0]);
        _mm512_storeu_si512(sums + r * PANEL * COLUMNS + COLUMNS, s[r][1]);
    }
}

/* One row times four blocks. Blocks past the last repeat the last. */
VNNI static void vnni_row(const uint8_t *a, const mq_qmatrix *b, int64_t block, int blocks,
                          int32_t *sums)
{
    int64_t step = groups_of(b->k) * BLOCK, whole = b->k / GROUP;
    const int8_t *p[PANEL];
    __m512i s[PANEL];
    for (int i = 0; i < PANEL; i++) {
        p[i] = b->packed + (block + (i < blocks ? i : blocks - 1)) * step;
        s[i] = _mm512_setzero_si512();
    }
    for (int64_t g = 0; g < whole; g++) {
        __m512i x = LANES_OF(a, g);
        for (int i = 0; i < PANEL; i++) {
            s[i] = _mm512_dpbusd_epi32(s[i], x, _mm512_loadu_si512(p[i] + g * BLOCK));
        }
    }
    for (int i = 0; i < PANEL; i++) {
        if (whole < groups_of(b->k)) {
            __m512i x = _mm512_set1_epi32((int)left_group(a, b->k, whole));
            s[i] = _mm512_dpbusd_epi32(s[i], x, _mm512_loadu_si512(p[i] + whole * BLOCK));
        }
        _mm512_storeu_si512(sums + i * COLUMNS, s[i]);
    }
}

VNNI static void vnni(const uint8_t *a, int rows, const mq_qmatrix *b, int64_t block, int blocks,
                      int32_t sums[4][PANEL * COLUMNS])
{
    int64_t step = groups_of(b->k) * BLOCK;
    for (int i = 0; rows == 4 && i < blocks; i += 2) {
        const int8_t *p0 = b->packed + (block + i) * step;
        vnni_4x2(a, b, p0, i + 1 < blocks ? p0 + step : p0, sums[0] + i * COLUMNS);
    }
    for (int r = 0; rows != 4 && r < rows; r++) {
        vnni_row(a + r * b->k, b, block, blocks, sums[r]);
    }
}

/* vpmaddubsw would saturate, so bytes are widened to 16 bits first: exact. */
AVX2 static void avx2_block(const uint8_t *row, const mq_qmatrix *b, const int8_t *at,
                            int32_t *sums)
{
    int64_t groups = groups_of(b->k);
    __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
    for (int64_t g = 0; g < groups; g++, at += BLOCK) {
        __m128i bytes = _mm_cvtsi32_si128((int)left_group(row, b->k, g));
        __m256i x = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(bytes));
        const __m128i *w = (const __m128i *)(const void *)at;
        s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(_mm_loadu_si128(w))));
        s1 = _mm256_add_epi32(s1,
                              _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(_mm_loadu_si128(w + 1))));
        s2 = _mm256_add_epi32(s2,
                              _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(_mm_loadu_si128(w + 2))));
        s3 = _mm256_add_epi32(s3,
                              _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(_mm_loadu_si128(w + 3))));
    }
    /* each holds 4 columns x 2 halves: add neighbours and put the columns in order */
    __m256i low = _mm256_permute4x64_epi64(_mm256_hadd_epi32(s0, s1), 0xd8);
    __m256i high = _mm256_permute4x64_epi64(_mm256_hadd_epi32(s2, s3), 0xd8);
    _mm256_storeu_si256((__m256i *)(void *)sums, low);
    _mm256_storeu_si256((__m256i *)(void *)(sums + 8), high);
}

AVX2 static void avx2(const uint8_t *a, int rows, const mq_qmatrix *b, int64_t block, int blocks,
                      int32_t sums[4][PANEL * COLUMNS])
{
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < blocks; i++) {
            avx2_block(a + r * b->k, b, b->packed + (block + i) * groups_of(b->k) * BLOCK,
                       sums[r] + i * COLUMNS);
        }
    }
}
#endif

typedef struct choice {
    const char *name;
    kernel *run;
} choice;

/* Kernels of this machine, best first. */
static int choices(choice out[3])
{
    int count = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) {
        out[count++] = (choice){"avx512-vnni", vnni};
    }
    if (__builtin_cpu_supports("avx2")) {
        out[count++] = (choice){"avx2", avx2};
    }
#endif
    out[count++] = (choice){"portable", portable};
    return count;
}

static void run_with(kernel *run, const uint8_t *a, int64_t m, const mq_qmatrix *b, int32_t *c)
{
    int32_t sums[4][PANEL * COLUMNS];
    for (int64_t block = 0; block < blocks_of(b->n); block += PANEL) {
        int blocks = (int)mq_min_i64(PANEL, blocks_of(b->n) - block);
        int64_t first = block * COLUMNS;
        size_t width = (size_t)mq_min_i64(PANEL * COLUMNS, b->n - first);
        for (int64_t r = 0; r < m; r += 4) {
            int rows = (int)mq_min_i64(4, m - r);
            run(a + r * b->k, rows, b, block, blocks, sums);
            for (int i = 0; i < rows; i++) {
                memcpy(c + (r + i) * b->n + first, sums[i], width * sizeof(int32_t));
            }
        }
    }
}

void mq_qgemm(const uint8_t *a, int64_t m, const mq_qmatrix *b, int32_t *c)
{
    choice list[3];
    choices(list);
    run_with(list[0].run, a, m, b, c);
}

bool mq_qgemm_with(int i, const uint8_t *a, int64_t m, const mq_qmatrix *b, int32_t *c)
{
    choice list[3];
    if (i < 0 || i >= choices(list)) {
        return false;
    }
    run_with(list[i].run, a, m, b, c);
    return true;
}

const char *mq_qgemm_name(void)
{
    choice list[3];
    choices(list);
    return list[0].name;
}

/* MatMulInteger: uint8 or int8 matrices, exact int32 sums, zero points taken off.
 *
 *     y = (A - za) (B - zb) = A B - za colsum(B) - rowsum(A) zb + K za zb
 *
 * Inside, A is uint8 and B int8 (the other forms are shifted by 128, their zero points too). B is
 * packed, once at load where it is constant, so that a kernel takes 4 values of K for 16 columns at
 * a time: what VPDPBUSD of AVX-512 VNNI multiplies in one instruction.
 *
 *     packed: [column block of 16][quad of K][16 columns][4 of K]
 *
 * B has rank 2, A any rank from 2: its leading dimensions are rows.
 * onnx.ai/onnx/operators/onnx__MatMulInteger.html */
#include <immintrin.h>

#include "shared/base/math.h"
#include "worker/ops/kit.h"

enum { COLUMNS = 16, QUAD = 4, BLOCKS_MAX = 4 };

typedef struct packed {
    size_t k, n, quads, blocks;
    int8_t *w;         /* blocks x quads x 64 bytes */
    int32_t *col_sums; /* of the int8 values; n of them */
    int32_t *zeros;    /* zero point of each column, shifted as w is; n of them */
    bool has_zeros;    /* one of them is not 0 */
} packed;

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *a = &call->inputs[0]->shape, *b = &call->inputs[1]->shape;
    char ta[128], tb[128];
    if (b->rank != 2 || a->rank < 2 || a->dims[a->rank - 1] != b->dims[0]) {
        return mq_fail(err, MQ_E_ARG,
                       "shapes %s and %s do not multiply (the second must have two dimensions)",
                       mq_shape_text(a, ta, sizeof ta), mq_shape_text(b, tb, sizeof tb));
    }
    size_t rows = mq_dims_product(a, 0, a->rank - 1), columns = (size_t)b->dims[1];
    for (uint32_t i = 2; i < 4; i++) {
        const mq_tensor *zero = mq_call_input(call, i);
        size_t count = zero == NULL ? 1 : mq_elements(zero);
        if (count != 1 && count != (i == 2 ? rows : columns)) {
            return mq_fail(err, MQ_E_ARG, "zero point %u has %zu values; expected 1 or %zu", i - 2,
                           count, i == 2 ? rows : columns);
        }
    }
    call->outputs[0]->dtype = MQ_DT_I32;
    call->outputs[0]->shape = *a;
    call->outputs[0]->shape.dims[a->rank - 1] = b->dims[1];
    return MQ_OK;
}

static size_t packed_bytes(const mq_op_call *call)
{
    const mq_shape *b = &call->inputs[1]->shape;
    size_t quads = ((size_t)b->dims[0] + QUAD - 1) / QUAD;
    size_t blocks = ((size_t)b->dims[1] + COLUMNS - 1) / COLUMNS;
    return blocks * quads * COLUMNS * QUAD + 2 * mq_align_up((size_t)b->dims[1] * 4, 64);
}

/* Packs B into `at` (packed_bytes, 64-byte aligned, any contents). */
static packed pack(const mq_op_call *call, uint8_t *at)
{
    const mq_tensor *b = call->inputs[1], *zb = mq_call_input(call, 3);
    const uint8_t *values = b->data, *zeros = zb == NULL ? NULL : zb->data;
    uint8_t flip = b->dtype == MQ_DT_U8 ? 0x80 : 0;
    packed p = {.k = (size_t)b->shape.dims[0], .n = (size_t)b->shape.dims[1]};
    p.quads = (p.k + QUAD - 1) / QUAD;
    p.blocks = (p.n + COLUMNS - 1) / COLUMNS;
    size_t bytes = p.blocks * p.quads * COLUMNS * QUAD, lines = mq_align_up(p.n * 4, 64);
    p.w = (int8_t *)at;
    p.col_sums = (int32_t *)(void *)(at + bytes);
    p.zeros = (int32_t *)(void *)(at + bytes + lines);
    memset(at, 0, bytes + lines);
    for (size_t k = 0; k < p.k; k++) {
        for (size_t n = 0; n < p.n; n++) {
            int8_t v = (int8_t)(values[k * p.n + n] ^ flip);
            size_t block = n / COLUMNS * p.quads + k / QUAD;
            p.w[(block * COLUMNS + n % COLUMNS) * QUAD + k % QUAD] = v;
            p.col_sums[n] += v;
        }
    }
    for (size_t n = 0; n < p.n; n++) {
        uint8_t z = zeros == NULL ? 0 : zeros[mq_elements(zb) == 1 ? 0 : n];
        p.zeros[n] = (int8_t)(z ^ flip);
        p.has_zeros = p.has_zeros || p.zeros[n] != 0;
    }
    return p;
}

static mq_code prepare(const mq_op_call *call, mq_arena *arena, const void **state, mq_error *err)
{
    const mq_tensor *zb = mq_call_input(call, 3);
    if (call->inputs[1]->data == NULL || (zb != NULL && zb->data == NULL)) {
        return MQ_OK;
    }
    packed *p = mq_arena_new(arena, packed, 1);
    uint8_t *at = mq_arena_alloc(arena, packed_bytes(call) + 64, 1);
    if (p == NULL || at == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for packed weights");
    }
    *p = pack(call, at);
    *state = p;
    return MQ_OK;
}

static size_t row_bytes(const mq_op_call *call)
{
    const mq_shape *a = &call->inputs[0]->shape;
    return mq_align_up((size_t)a->dims[a->rank - 1] + QUAD, 64);
}

static size_t scratch(const mq_op_call *call)
{
    return row_bytes(call) + (call->state == NULL ? packed_bytes(call) : 0);
}

/* --- kernels: acc[block][column] = sum over K, for 1..BLOCKS_MAX neighbouring blocks --- */

typedef void kernel(const uint8_t *row, const int8_t *w, size_t quads, size_t blocks, int32_t *acc);

static void kernel_plain(const uint8_t *row, const int8_t *w, size_t quads, size_t blocks,
                         int32_t *acc)
{
    memset(acc, 0, blocks * COLUMNS * sizeof *acc);
    for (size_t b = 0; b < blocks; b++) {
        int32_t *to = acc + b * COLUMNS;
        for (size_t q = 0; q < quads; q++, w += COLUMNS * QUAD) {
            const uint8_t *a = row + q * QUAD;
            for (size_t c = 0; c < COLUMNS; c++) {
                to[c] += a[0] * w[c * QUAD] + a[1] * w[c * QUAD + 1] + a[2] * w[c * QUAD + 2] +
                         a[3] * w[c * QUAD + 3];
            }
        }
    }
}

#define WIDE(isa) static __attribute__((target(isa), noinline)) void

/* 16-bit products: the 8-bit instruction of AVX2 would saturate. */
WIDE("avx2")
kernel_avx2(const uint8_t *row, const int8_t *w, size_t quads, size_t blocks, int32_t *acc)
{
    for (size_t b = 0; b < blocks; b++, acc += COLUMNS) {
        __m256i sum[QUAD] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                             _mm256_setzero_si256()};
        for (size_t q = 0; q < quads; q++, w += COLUMNS * QUAD) {
            int32_t four;
            memcpy(&four, row + q * QUAD, sizeof four);
            __m256i a = _mm256_cvtepu8_epi16(_mm_set1_epi32(four));
            for (int i = 0; i < QUAD; i++) {
                __m128i part = _mm_loadu_si128((const __m128i *)(const void *)(w + 16 * i));
                sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(a, _mm256_cvtepi8_epi16(part)));
            }
        }
        for (int i = 0; i < QUAD; i++) { /* pairs of half sums: 4 columns each */
            int32_t halves[8];
            _mm256_storeu_si256((__m256i *)(void *)halves, sum[i]);
            for (int c = 0; c < 4; c++) {
                acc[4 * i + c] = halves[2 * c] + halves[2 * c + 1];
            }
        }
    }
}

WIDE("avx512f,avx512bw,avx512vnni")
kernel_vnni(const uint8_t *row, const int8_t *w, size_t quads, size_t blocks, int32_t *acc)
{
    __m512i sum[BLOCKS_MAX] = {_mm512_setzero_si512(), _mm512_setzero_si512(),
                               _mm512_setzero_si512(), _mm512_setzero_si512()};
    size_t step = quads * COLUMNS * QUAD;
    for (size_t q = 0; q < quads; q++, w += COLUMNS * QUAD) {
        int32_t four;
        memcpy(&four, row + q * QUAD, sizeof four);
        __m512i a = _mm512_set1_epi32(four);
        if (blocks == BLOCKS_MAX) { /* four sums at once hide the instruction's latency */
            sum[0] = _mm512_dpbusd_epi32(sum[0], a, _mm512_loadu_si512(w));
            sum[1] = _mm512_dpbusd_epi32(sum[1], a, _mm512_loadu_si512(w + step));
            sum[2] = _mm512_dpbusd_epi32(sum[2], a, _mm512_loadu_si512(w + 2 * step));
            sum[3] = _mm512_dpbusd_epi32(sum[3], a, _mm512_loadu_si512(w + 3 * step));
        } else {
            for (size_t b = 0; b < blocks; b++) {
                sum[b] = _mm512_dpbusd_epi32(sum[b], a, _mm512_loadu_si512(w + b * step));
            }
        }
    }
    for (size_t b = 0; b < blocks; b++) {
        _mm512_storeu_si512(acc + b * COLUMNS, sum[b]);
    }
}

static kernel *choose_kernel(void)
{
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw")) {
        return kernel_vnni;
    }
    return __builtin_cpu_supports("avx2") ? kernel_avx2 : kernel_plain;
}

/* --- one row --- */

/* Takes the zero points off and writes up to COLUMNS x blocks sums. Unsigned: sums wrap as int32
 * sums of the plain formula would. */
static void finish(const packed *p, const int32_t *acc, size_t from, size_t count, int32_t za,
                   int32_t row_sum, int32_t *y)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t v = (uint32_t)acc[i] - (uint32_t)za * (uint32_t)p->col_sums[from + i];
        if (p->has_zeros) {
            uint32_t zb = (uint32_t)p->zeros[from + i];
            v += zb * ((uint32_t)za * (uint32_t)p->k - (uint32_t)row_sum);
        }
        y[i] = (int32_t)v;
    }
}

static void run_row(const packed *p, kernel *multiply, const uint8_t *row, int32_t za, int32_t *y)
{
    int32_t acc[BLOCKS_MAX * COLUMNS];
    int32_t row_sum = 0;
    for (size_t k = 0; k < p->k && p->has_zeros; k++) {
        row_sum += row[k];
    }
    for (size_t b = 0; b < p->blocks; b += BLOCKS_MAX) {
        size_t blocks = mq_min_size(BLOCKS_MAX, p->blocks - b);
        size_t from = b * COLUMNS;
        multiply(row, p->w + b * p->quads * COLUMNS * QUAD, p->quads, blocks, acc);
        finish(p, acc, from, mq_min_size(blocks * COLUMNS, p->n - from), za, row_sum, y + from);
    }
}

static mq_code run_with(const mq_op_call *call, kernel *multiply)
{
    const mq_tensor *a = call->inputs[0], *za = mq_call_input(call, 2);
    uint8_t flip = a->dtype == MQ_DT_I8 ? 0x80 : 0, *row = call->scratch;
    packed fresh;
    const packed *p = call->state;
    if (p == NULL) {
        fresh = pack(call, row + row_bytes(call));
        p = &fresh;
    }
    size_t rows = mq_dims_product(&a->shape, 0, a->shape.rank - 1);
    memset(row, 0, row_bytes(call));
    for (size_t r = 0; r < rows; r++) {
        const uint8_t *from = (const uint8_t *)a->data + r * p->k;
        uint8_t z = za == NULL ? 0 : ((const uint8_t *)za->data)[mq_elements(za) == 1 ? 0 : r];
        for (size_t k = 0; k < p->k; k++) {
            row[k] = from[k] ^ flip;
        }
        run_row(p, multiply, row, z ^ flip, (int32_t *)call->outputs[0]->data + r * p->n);
    }
    return MQ_OK;
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    return run_with(call, choose_kernel());
}

static int32_t value_of(const mq_tensor *t, size_t i)
{
    return t == NULL              ? 0
           : t->dtype == MQ_DT_I8 ? ((const int8_t *)t->data)[i]
                                  : ((const uint8_t *)t->data)[i];
}

static double flop(const mq_op_call *call)
{
    const mq_shape *a = &call->inputs[0]->shape;
    return 2.0 * (double)mq_elements(call->outputs[0]) * (double)a->dims[a->rank - 1];
}

static mq_code reference(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *a = call->inputs[0], *b = call->inputs[1];
    const mq_tensor *za = mq_call_input(call, 2), *zb = mq_call_input(call, 3);
    size_t k = (size_t)b->shape.dims[0], n = (size_t)b->shape.dims[1];
    for (size_t i = 0; i < mq_elements(call->outputs[0]); i++) {
        size_t row = i / n, column = i % n;
        int32_t sum = 0;
        int32_t zero_a = value_of(za, za != NULL && mq_elements(za) > 1 ? row : 0);
        int32_t zero_b = value_of(zb, zb != NULL && mq_elements(zb) > 1 ? column : 0);
        for (size_t j = 0; j < k; j++) {
            sum += (value_of(a, row * k + j) - zero_a) * (value_of(b, j * n + column) - zero_b);
        }
        ((int32_t *)call->outputs[0]->data)[i] = sum;
    }
    return MQ_OK;
}

const mq_op mq_op_matmul_integer = {
    .name = "MatMulInteger",
    .domain = "",
    .since = 10,
    .in = {2, 4},
    .out = {1, 1},
    .args = {{'A', MQ_T(MQ_DT_U8) | MQ_T(MQ_DT_I8)},
             {'B', MQ_T(MQ_DT_U8) | MQ_T(MQ_DT_I8)},
             {'A', MQ_T(MQ_DT_U8) | MQ_T(MQ_DT_I8)},
             {'B', MQ_T(MQ_DT_U8) | MQ_T(MQ_DT_I8)}},
    .shape = shape,
    .scratch = scratch,
    .prepare = prepare,
    .run = run,
    .flop = flop,
    .reference = reference,
    .cases = "| u8[M,K] i8[K,N]; | u8[M,K] i8[K,N] u8{7}; | u8[M,K] i8[K,N] u8{7} i8{-3};"
             "| i8[M,K] u8[K,N] i8{-5} u8{200}; | i8[M,K] i8[K,N]; | u8[M,K] u8[K,N] u8{255} u8{1};"
             "| u8[2,M,K] i8[K,N] u8{9}; | u8[1,784] i8[784,256] u8{0}; | u8[3,5] i8[5,70] u8{1};"
             "| u8[2,K] i8[K,3] u8{1,2} i8{1,-2,3}",
};

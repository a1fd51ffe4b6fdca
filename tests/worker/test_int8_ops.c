/* The operators that int8 models are made of: every kernel of the 8-bit product gives the exact
 * sums, and DynamicQuantizeLinear is right at the edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "shared/base/prng.h"
#include "worker/ops/op.h"
#include "worker/ops/qgemm.h"

static int32_t left_at(const uint8_t *a, int64_t i)
{
    return a[i];
}

/* Random bytes with many extremes. */
static void *bytes(size_t count, mq_prng *prng)
{
    uint8_t *p = malloc(count + 1);
    assert_non_null(p);
    for (size_t i = 0; i < count; i++) {
        uint64_t r = mq_prng_next(prng);
        p[i] = (uint8_t)((r >> 8 & 7) != 0 ? r : (r & 1) != 0 ? 255 : 128);
    }
    return p;
}

static void compare(int kernel, bool is_unsigned, int64_t m, int64_t k, int64_t n, mq_prng *prng)
{
    uint8_t *a = bytes((size_t)(m * k), prng), *b = bytes((size_t)(k * n), prng);
    int32_t *c = calloc((size_t)(m * n), sizeof *c);
    void *memory = aligned_alloc(64, (mq_qpack_bytes(k, n) + 63) / 64 * 64);
    mq_qmatrix packed;
    assert_true(c != NULL && memory != NULL);
    mq_qpack(&packed, b, is_unsigned, k, n, memory);
    assert_true(mq_qgemm_with(kernel, a, m, &packed, c));
    for (int64_t e = 0; e < m * n; e++) {
        int32_t sum = 0, column = 0;
        for (int64_t i = 0; i < k; i++) {
            int32_t w = is_unsigned ? b[i * n + e % n] - 128 : (int8_t)b[i * n + e % n];
            sum += left_at(a, e / n * k + i) * w;
            column += w;
        }
        assert_int_equal(c[e], sum);
        assert_int_equal(packed.sums[e % n], column);
    }
    free(a);
    free(b);
    free(c);
    free(memory);
}

static void every_kernel_gives_the_exact_sums(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1},   {1, 4, 16},   {2, 5, 17},   {3, 64, 64},
                                       {5, 33, 10}, {1, 784, 65}, {2, 7, 130},  {1, 1023, 3},
                                       {4, 8, 64},  {9, 130, 81}, {8, 64, 256}, {7, 3, 15}};
    mq_prng prng = {1};
    int kernels = 0;
    for (int kernel = 0; kernel < 3; kernel++) {
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            int32_t c;
            uint8_t zero = 0;
            mq_qmatrix none = {.k = 0, .n = 0};
            if (!mq_qgemm_with(kernel, &zero, 0, &none, &c)) {
                continue; /* this machine has fewer */
            }
            kernels = kernel + 1;
            compare(kernel, false, sizes[s][0], sizes[s][1], sizes[s][2], &prng);
            compare(kernel, true, sizes[s][0], sizes[s][1], sizes[s][2], &prng);
        }
    }
    assert_true(kernels >= 1);
}

static void run_op(const char *name, const mq_op_call *given)
{
    mq_op_call call = *given;
    call.op = mq_op_find("", name, 17);
    assert_non_null(call.op);
    assert_int_equal(call.op->run(&call, NULL), MQ_OK);
}

static void quantizing_keeps_zero_exact_and_survives_odd_values(void **state)
{
    (void)state;
    float x[6] = {-1, 0, 1, 3, (float)NAN, (float)INFINITY}, scale;
    uint8_t y[6], zero;
    mq_tensor in = {MQ_DT_F32, {1, {4}}, x, 16}, out[3] = {{MQ_DT_U8, {1, {4}}, y, 4},
                                                           {MQ_DT_F32, {0, {0}}, &scale, 4},
                                                           {MQ_DT_U8, {0, {0}}, &zero, 1}};
    const mq_tensor *inputs[1] = {&in};
    mq_tensor *outputs[3] = {&out[0], &out[1], &out[2]};
    mq_op_call call = {.inputs = inputs, .outputs = outputs, .input_count = 1, .output_count = 3};
    run_op("DynamicQuantizeLinear", &call);
    assert_int_equal(zero, 64);
    assert_int_equal(y[0], 0);
    assert_int_equal(y[1], 64);
    assert_int_equal(y[2], 128);
    assert_int_equal(y[3], 255);
    assert_true(fabsf(scale - 4.0f / 255.0f) < 1e-9f);
    in.shape.dims[0] = 6; /* must not be undefined behaviour; the numbers are nobody's promise */
    run_op("DynamicQuantizeLinear", &call);
    memset(x, 0, sizeof x);
    run_op("DynamicQuantizeLinear", &call);
    assert_true(scale == 1.0f && zero == 0 && y[5] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_gives_the_exact_sums),
        cmocka_unit_test(quantizing_keeps_zero_exact_and_survives_odd_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

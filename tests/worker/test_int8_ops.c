/* The operators that int8 models are made of: every kernel of MatMulInteger gives the exact sums,
 * and Cast and DynamicQuantizeLinear agree with their plain forms at the edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "shared/base/prng.h"
#include "worker/ops/op.h"

/* A copy of the file under another name, to reach the kernels that this CPU would not choose. */
#define mq_op_matmul_integer copy_of_matmul_integer
extern const mq_op copy_of_matmul_integer;
#include "worker/ops/matmul_integer.c"
#undef mq_op_matmul_integer

typedef struct matrices {
    mq_tensor a, b, za, zb, y, expected;
} matrices;

static void fill(mq_tensor *t, mq_dtype dtype, int64_t rows, int64_t columns, mq_prng *prng)
{
    size_t count = (size_t)(rows * columns), each = mq_dtype_bytes(dtype);
    *t = (mq_tensor){dtype, {2, {rows, columns}}, malloc(count * each + 1), count * each};
    assert_non_null(t->data);
    for (size_t i = 0; i < t->bytes; i++) {
        uint64_t r = mq_prng_next(prng);
        ((uint8_t *)t->data)[i] = (uint8_t)(r >> 8 & 7 ? r : (r & 1 ? 255 : 128)); /* extremes */
    }
}

static void compare(kernel *multiply, mq_dtype da, mq_dtype db, bool with_zeros, mq_prng *prng)
{
    static const int64_t sizes[][3] = {{1, 1, 1},    {1, 4, 16},  {2, 5, 17},  {3, 64, 64},
                                       {1, 784, 65}, {5, 33, 10}, {2, 7, 130}, {1, 1023, 3}};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        matrices m;
        int64_t rows = sizes[s][0], k = sizes[s][1], n = sizes[s][2];
        fill(&m.a, da, rows, k, prng);
        fill(&m.b, db, k, n, prng);
        fill(&m.za, da, 1, 1, prng);
        fill(&m.zb, db, 1, n, prng);
        fill(&m.y, MQ_DT_I32, rows, n, prng);
        fill(&m.expected, MQ_DT_I32, rows, n, prng);
        const mq_tensor *inputs[4] = {&m.a, &m.b, &m.za, &m.zb};
        mq_tensor *outputs[1] = {&m.y};
        mq_op_call call = {.op = &copy_of_matmul_integer,
                           .inputs = inputs,
                           .outputs = outputs,
                           .input_count = with_zeros ? 4 : 2,
                           .output_count = 1};
        call.scratch = aligned_alloc(64, (scratch(&call) + 63) / 64 * 64);
        assert_non_null(call.scratch);
        assert_int_equal(run_with(&call, multiply), MQ_OK);
        outputs[0] = &m.expected;
        assert_int_equal(reference(&call, NULL), MQ_OK);
        assert_memory_equal(m.y.data, m.expected.data, m.y.bytes);
        free(call.scratch);
        for (mq_tensor *t = &m.a; t <= &m.expected; t++) {
            free(t->data);
        }
    }
}

static void every_kernel_gives_the_exact_sums(void **state)
{
    (void)state;
    mq_prng prng = {1};
    kernel *kernels[3] = {kernel_plain, NULL, NULL};
    kernels[1] = __builtin_cpu_supports("avx2") ? kernel_avx2 : NULL;
    kernels[2] = choose_kernel();
    const mq_dtype types[2] = {MQ_DT_U8, MQ_DT_I8};
    for (size_t i = 0; i < 3; i++) {
        for (int form = 0; form < 8 && kernels[i] != NULL; form++) {
            compare(kernels[i], types[form & 1], types[form >> 1 & 1], form >> 2, &prng);
        }
    }
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

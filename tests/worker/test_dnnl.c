/* The back end of oneDNN against our own kernels: the same products both ways. Where it is not
 * built in or the CPU has nothing for it, everything says so and models run all the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <string.h>

#include "tests/worker/mlp.h"
#include "worker/dnnl/dnnl.h"
#include "worker/exec/session.h"

static float *floats(size_t count, uint64_t seed)
{
    mq_prng prng = {seed};
    float *x = malloc((count + 1) * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < count; i++) {
        x[i] = mlp_random(&prng, 1.0f);
    }
    return x;
}

static void *memory_of(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    assert_non_null(p);
    return p;
}

static void check_floats(mq_dnnl_dense *d, const mq_dnnl_dense_spec *spec, int64_t m)
{
    float *x = floats((size_t)(m * spec->k), 7), *y = floats((size_t)(m * spec->n), 8);
    const float *w = spec->w;
    assert_true(mq_dnnl_dense_ready(d, m));
    assert_true(mq_dnnl_dense_ready(d, m));
    void *scratch = memory_of(mq_dnnl_dense_scratch(d, m));
    assert_true(mq_dnnl_dense_run(d, m, x, y, scratch));
    for (int64_t e = 0; e < m * spec->n; e++) {
        int64_t r = e / spec->n, c = e % spec->n;
        double sum = spec->bias == NULL ? 0.0 : (double)spec->bias[c];
        for (int64_t i = 0; i < spec->k; i++) {
            sum += (double)x[r * spec->k + i] *
                   (double)w[spec->is_transposed ? c * spec->k + i : i * spec->n + c];
        }
        sum = spec->is_relu && sum < 0.0 ? 0.0 : sum;
        assert_true(fabs((double)y[e] - sum) < 2e-6 * (double)spec->k);
    }
    free(x);
    free(y);
    free(scratch);
}

static void float_products_agree_with_plain_sums(void **state)
{
    (void)state;
    static const int64_t sizes[][2] = {{1, 1}, {3, 17}, {16, 64}, {65, 33}, {130, 70}};
    for (int form = 0; form < 8 && mq_dnnl_is_there(); form++) {
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            mq_arena arena;
            mq_arena_init(&arena, (size_t)1 << 22);
            int64_t k = sizes[s][0], n = sizes[s][1];
            float *w = floats((size_t)(k * n), 1), *bias = floats((size_t)n, 2);
            mq_dnnl_dense_spec spec = {.is_transposed = (form & 1) != 0,
                                       .is_relu = (form & 2) != 0,
                                       .k = k,
                                       .n = n,
                                       .w = w,
                                       .bias = (form & 4) != 0 ? bias : NULL};
            mq_dnnl_dense *d = mq_dnnl_dense_new(&spec, &arena);
            assert_non_null(d);
            assert_false(mq_dnnl_dense_run(d, 5, w, w, NULL)); /* nothing was made for 5 rows */
            for (int64_t m = 1; m < 40; m += 2) {              /* more than are kept */
                check_floats(d, &spec, m);
            }
            mq_dnnl_dense_free(d);
            mq_arena_release(&arena);
            free(w);
            free(bias);
        }
    }
}

static void products_of_bytes_are_exact(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1}, {2, 5, 17}, {9, 130, 81}, {33, 1023, 64}};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0] && mq_dnnl_is_there(); s++) {
        int64_t m = sizes[s][0], k = sizes[s][1], n = sizes[s][2];
        mq_arena arena;
        mq_prng prng = {3 + s};
        mq_arena_init(&arena, (size_t)1 << 22);
        uint8_t *x = malloc((size_t)(m * k));
        int8_t *w = malloc((size_t)(k * n));
        int32_t *y = memory_of((size_t)(m * n) * sizeof *y);
        assert_true(x != NULL && w != NULL);
        for (int64_t i = 0; i < m * k; i++) { /* many extremes, where sums of pairs overflow */
            uint64_t r = mq_prng_next(&prng);
            x[i] = (uint8_t)((r & 256) != 0 ? 255 : r);
        }
        for (int64_t i = 0; i < k * n; i++) {
            uint64_t r = mq_prng_next(&prng);
            w[i] = (int8_t)((r & 256) != 0 ? 127 : (r & 512) != 0 ? -128 : (int)(r & 255) - 128);
        }
        mq_dnnl_dense *d = mq_dnnl_dense_new(
            &(mq_dnnl_dense_spec){.is_int8 = true, .k = k, .n = n, .w = w}, &arena);
        if (d != NULL) { /* CPUs without VNNI have no exact kernel */
            assert_true(mq_dnnl_dense_ready(d, m));
            void *scratch = memory_of(mq_dnnl_dense_scratch(d, m));
            assert_true(mq_dnnl_dense_run(d, m, x, y, scratch));
            for (int64_t e = 0; e < m * n; e++) {
                int32_t sum = 0;
                for (int64_t i = 0; i < k; i++) {
                    sum += x[e / n * k + i] * w[i * n + e % n];
                }
                assert_int_equal(y[e], sum);
            }
            free(scratch);
        }
        mq_dnnl_dense_free(d);
        mq_arena_release(&arena);
        free(x);
        free(w);
        free(y);
    }
}

static void a_full_arena_is_no_error(void **state)
{
    (void)state;
    mq_arena arena;
    mq_arena_init(&arena, 64 * 1024);
    float *w = floats(300 * 300, 1);
    mq_dnnl_dense *d = mq_dnnl_dense_new(&(mq_dnnl_dense_spec){.k = 300, .n = 300, .w = w}, &arena);
    assert_false(mq_dnnl_dense_ready(d, 8)); /* 360 000 bytes do not go in */
    assert_false(mq_dnnl_dense_run(d, 8, w, w, NULL));
    assert_int_equal(mq_dnnl_dense_scratch(d, 8), 0);
    mq_dnnl_dense_free(d);
    mq_arena_release(&arena);
    free(w);
}

static int thread_count(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/task");
    assert_non_null(dir);
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        count += e->d_name[0] != '.';
    }
    closedir(dir);
    return count;
}

static mq_session *session_of(const mq_model *model, const mq_session_options *options)
{
    mq_session *s;
    mq_error err;
    mlp_must(mq_session_new(&s, model, options, &err), &err);
    return s;
}

static const float *run(mq_session *s, float *x, int64_t rows, int64_t columns)
{
    mq_error err;
    const mq_tensor *out;
    mq_tensor in = {MQ_DT_F32, {2, {rows, columns}}, x, (size_t)(rows * columns) * 4};
    mlp_must(mq_session_run(s, &in, 1, &out, &err), &err);
    return out->data;
}

static void models_give_the_same_with_and_without_it(void **state)
{
    (void)state;
    static const int64_t sizes[] = {300, 256, 130, 10};
    float *x = floats(64 * 300, 5);
    int threads = thread_count();
    for (int flags = 0; flags < 8; flags++) {
        mq_model *model = mlp_new(sizes, 4, flags & ~(flags & 4 ? 1 : 0), 1);
        mq_session *with = session_of(model, NULL);
        mq_session *own = session_of(model, &(mq_session_options){.own_kernels = true});
        for (int64_t rows = 1; rows <= 64; rows *= 2) {
            const float *a = run(with, x, rows, 300), *b = run(own, x, rows, 300);
            for (int64_t i = 0; i < rows * 10; i++) {
                assert_true(fabs((double)(a[i] - b[i])) < 1e-5 * (1.0 + fabs((double)b[i])));
            }
        }
        mq_session_free(with);
        mq_session_free(own);
        mq_model_free(model);
    }
    assert_int_equal(thread_count(), threads);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float_products_agree_with_plain_sums),
        cmocka_unit_test(products_of_bytes_are_exact),
        cmocka_unit_test(a_full_arena_is_no_error),
        cmocka_unit_test(models_give_the_same_with_and_without_it),
    };
    printf("back end: %s\n", mq_dnnl_name());
    return cmocka_run_group_tests(tests, NULL, NULL);
}

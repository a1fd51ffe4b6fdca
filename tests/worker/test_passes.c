/* Optimization passes: what each does to a model, that a second run changes nothing, that answers
 * stay (fold) or stay near (quantize), and what is said of wrong arguments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "worker/exec/session.h"
#include "worker/models/arch.h"
#include "worker/models/meta.h"
#include "worker/passes/pass.h"
#include "worker/passes/weights.h"

static mq_model *mlp(uint64_t seed)
{
    mq_model *m = NULL;
    assert_int_equal(mq_arch_build(&m, "mlp:64-48-32-10", seed, NULL), MQ_OK);
    return m;
}

static void apply(mq_model *m, const char *text)
{
    const mq_pass *pass;
    mq_pass_args args;
    mq_buf report;
    mq_error err = {0};
    mq_buf_init(&report, 1 << 16);
    mq_code code = mq_pass_parse(text, &pass, &args, NULL, &err);
    if (code == MQ_OK) {
        code = mq_pass_apply(pass, &args, m, &report, &err);
    }
    if (code != MQ_OK) {
        fail_msg("%s: %s", text, err.text);
    }
    mq_buf_release(&report);
}

static mq_buf saved(const mq_model *m)
{
    mq_buf file;
    mq_buf_init(&file, 16 << 20);
    assert_int_equal(mq_model_save(m, &file, NULL), MQ_OK);
    return file;
}

static void run_once_more_changes_nothing(mq_model *m, const char *text)
{
    mq_buf one = saved(m);
    apply(m, text);
    mq_buf two = saved(m);
    if (!mq_span_eq(mq_buf_span(&one), mq_buf_span(&two))) {
        fail_msg("%s: a second run changed the model", text);
    }
    mq_buf_release(&one);
    mq_buf_release(&two);
}

static void passes_are_idempotent(void **state)
{
    (void)state;
    static const char *const texts[] = {"fold",
                                        "clip:l1=30",
                                        "clip:l1=0.5",
                                        "clip:l1=3,scope=row",
                                        "clip:l2=1",
                                        "clip:l2=1,to=unit",
                                        "clip:max-norm=1",
                                        "clip:value=0.05",
                                        "prune:0.8",
                                        "prune:0",
                                        "prune:0.999",
                                        "prune:0.5,scope=global",
                                        "quantize:int8",
                                        "clip:l1=30,to=threshold"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        for (uint64_t seed = 1; seed <= 3; seed++) {
            mq_model *m = mlp(seed);
            apply(m, texts[i]);
            run_once_more_changes_nothing(m, texts[i]);
            mq_model_free(m);
        }
    }
}

static double norm(const mq_weight *w, bool is_l1)
{
    double sum = 0;
    for (size_t i = 0; i < w->count; i++) {
        double v = (double)w->values[i];
        sum += is_l1 ? fabs(v) : v * v;
    }
    return is_l1 ? sum : sqrt(sum);
}

static void clip_follows_the_threshold_rule(void **state)
{
    (void)state;
    mq_weights before, after;
    mq_model *m = mlp(1);
    assert_int_equal(mq_weights_get(&before, m, NULL), MQ_OK);
    assert_int_equal(before.count, 3);
    double threshold = (norm(&before.list[0], true) + norm(&before.list[2], true)) / 2;
    char text[64];
    snprintf(text, sizeof text, "clip:l1=%.6f", threshold);
    apply(m, text);
    assert_int_equal(mq_weights_get(&after, m, NULL), MQ_OK);
    int clipped = 0;
    for (size_t t = 0; t < 3; t++) {
        double was = norm(&before.list[t], true), is = norm(&after.list[t], true);
        if (was > threshold) {
            assert_true(fabs(is - 1) < 1e-5);
            assert_true(fabs((double)after.list[t].values[7] -
                             (double)before.list[t].values[7] / was) < 1e-8);
            clipped++;
        } else {
            assert_memory_equal(before.list[t].values, after.list[t].values,
                                before.list[t].count * sizeof(float));
        }
    }
    assert_in_range(clipped, 1, 2);
    mq_weights_release(&before);
    mq_weights_release(&after);
    mq_model_free(m);
}

static void clip_by_row_bounds_the_weights_of_each_output(void **state)
{
    (void)state;
    mq_model *m = mlp(1);
    mq_weights w;
    apply(m, "clip:max-norm=0.5");
    assert_int_equal(mq_weights_get(&w, m, NULL), MQ_OK);
    for (size_t t = 0; t < w.count; t++) {
        mq_weight_rows rows = mq_weight_rows_of(&w.list[t]);
        assert_int_equal(rows.channels, w.list[t].shape.dims[0]);
        for (size_t c = 0; c < rows.channels; c++) {
            double sum = 0;
            for (size_t i = 0; i < rows.inner; i++) {
                double v = (double)w.list[t].values[c * rows.inner + i];
                sum += v * v;
            }
            assert_true(sqrt(sum) <= 0.5 * (1 + 1e-5));
        }
    }
    mq_weights_release(&w);
    mq_model_free(m);
}

static void clip_by_value_bounds_every_weight(void **state)
{
    (void)state;
    mq_model *m = mlp(1);
    mq_weights w;
    apply(m, "clip:value=0.03125");
    assert_int_equal(mq_weights_get(&w, m, NULL), MQ_OK);
    size_t at_bound = 0;
    for (size_t i = 0; i < w.list[0].count; i++) {
        assert_true(fabsf(w.list[0].values[i]) <= 0.03125f);
        at_bound += fabsf(w.list[0].values[i]) == 0.03125f;
    }
    assert_true(at_bound > 0);
    mq_weights_release(&w);
    mq_model_free(m);
}

static void prune_zeroes_exactly_the_smallest(void **state)
{
    (void)state;
    mq_model *m = mlp(1);
    mq_weights before, after;
    assert_int_equal(mq_weights_get(&before, m, NULL), MQ_OK);
    apply(m, "prune:0.8");
    assert_int_equal(mq_weights_get(&after, m, NULL), MQ_OK);
    for (size_t t = 0; t < after.count; t++) {
        size_t zeros = 0;
        float largest_gone = 0, smallest_kept = 1e9f;
        for (size_t i = 0; i < after.list[t].count; i++) {
            float was = fabsf(before.list[t].values[i]), is = after.list[t].values[i];
            zeros += is == 0;
            largest_gone = is == 0 && was > largest_gone ? was : largest_gone;
            smallest_kept = is != 0 && was < smallest_kept ? was : smallest_kept;
            assert_true(is == 0 || is == before.list[t].values[i]);
        }
        assert_int_equal(zeros, (size_t)(0.8 * (double)after.list[t].count + 1e-6));
        assert_true(largest_gone <= smallest_kept);
    }
    mq_weights_release(&before);
    mq_weights_release(&after);
    mq_model_free(m);
}

static void equal_magnitudes_fall_in_order_of_index(void **state)
{
    (void)state;
    mq_model *m = NULL;
    mq_weights w;
    const float same[8] = {1, -1, 1, -1, 1, -1, 1, 2};
    assert_int_equal(mq_arch_build(&m, "linear:4-2", 1, NULL), MQ_OK);
    assert_int_equal(mq_model_set_init(m, "fc1.weight", MQ_DT_F32, &(mq_shape){2, {2, 4}},
                                       mq_span_of(same, sizeof same), NULL),
                     MQ_OK);
    apply(m, "prune:0.5");
    assert_int_equal(mq_weights_get(&w, m, NULL), MQ_OK);
    const float expected[8] = {0, 0, 0, 0, 1, -1, 1, 2};
    assert_memory_equal(w.list[0].values, expected, sizeof expected);
    mq_weights_release(&w);
    mq_model_free(m);
}

static void prune_global_takes_from_where_weights_are_small(void **state)
{
    (void)state;
    mq_model *m = mlp(1);
    mq_weights w;
    apply(m, "prune:0.5,scope=global");
    assert_int_equal(mq_weights_get(&w, m, NULL), MQ_OK);
    size_t zeros[3] = {0}, total = 0;
    for (size_t t = 0; t < 3; t++) {
        for (size_t i = 0; i < w.list[t].count; i++) {
            zeros[t] += w.list[t].values[i] == 0;
        }
        total += zeros[t];
    }
    assert_int_equal(total, (size_t)(0.5 * (double)w.elements));
    assert_true(zeros[0] * w.list[2].count > zeros[2] * w.list[0].count);
    mq_weights_release(&w);
    mq_model_free(m);
}

/* Runs one input of [rows, count]; out gets the first output. */
static void answers(const mq_model *m, const float *x, int64_t rows, int64_t count, float *out,
                    size_t out_count)
{
    mq_session *s;
    mq_error err = {0};
    const mq_tensor *y;
    if (mq_session_new(&s, m, NULL, &err) != MQ_OK) {
        fail_msg("%s", err.text);
    }
    mq_tensor in = {
        MQ_DT_F32, {2, {rows, count}}, (void *)(uintptr_t)x, (size_t)(rows * count) * sizeof *x};
    if (mq_session_run(s, &in, 1, &y, &err) != MQ_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(y[0].bytes, out_count * sizeof *out);
    memcpy(out, y[0].data, y[0].bytes);
    mq_session_free(s);
}

static void quantize_shrinks_the_file_and_answers_nearly_the_same(void **state)
{
    (void)state;
    mq_model *m = NULL;
    enum { ROWS = 16 };
    static float x[ROWS * 784], one[ROWS * 10], two[ROWS * 10];
    assert_int_equal(mq_arch_build(&m, "mlp:784-256-128-10", 1, NULL), MQ_OK);
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++) {
        x[i] = (float)(i * 7919 % 256) / 255.0f;
    }
    answers(m, x, ROWS, 784, one, ROWS * 10);
    mq_buf before = saved(m);
    apply(m, "quantize:int8");
    mq_buf after = saved(m);
    assert_true(after.len * 100 < before.len * 27);
    answers(m, x, ROWS, 784, two, ROWS * 10);
    float largest = 0;
    for (int i = 0; i < ROWS * 10; i++) {
        largest = fabsf(one[i]) > largest ? fabsf(one[i]) : largest;
    }
    for (int i = 0; i < ROWS * 10; i++) {
        assert_true(fabsf(one[i] - two[i]) < 0.02f * largest);
    }
    for (uint32_t n = 0; n < m->graph.node_count; n++) {
        assert_string_not_equal(m->graph.nodes[n].op_type, "Gemm");
    }
    mq_model *again = NULL;
    assert_int_equal(mq_model_load(&again, mq_buf_span(&after), 0, NULL), MQ_OK);
    mq_model_free(again);
    mq_buf_release(&before);
    mq_buf_release(&after);
    mq_model_free(m);
}

/* --- fold --- */

static void set_vector(mq_model *m, const char *name, const float *v, int64_t rows, int64_t columns)
{
    mq_shape shape = {rows == 0 ? 1 : 2, {rows == 0 ? columns : rows, columns}};
    size_t count = (size_t)(columns * (rows == 0 ? 1 : rows));
    assert_int_equal(
        mq_model_set_init(m, name, MQ_DT_F32, &shape, mq_span_of(v, count * sizeof *v), NULL),
        MQ_OK);
}

static void add_node(mq_model *m, const char *op_type, const char *const *in, uint32_t in_count,
                     const char *const *out, uint32_t out_count)
{
    mq_node_spec spec = {op_type, "", out[0], in, in_count, out, out_count};
    assert_int_equal(mq_model_add_node(m, m->graph.node_count, &spec, NULL, NULL), MQ_OK);
}

static mq_model *with_ends(int64_t in, int64_t out)
{
    mq_model *m;
    assert_int_equal(mq_model_new(&m, "g", 0, NULL), MQ_OK);
    mq_value_info x = {"x", MQ_DT_F32, 2, {-1, in}, {"N"}};
    mq_value_info y = {"y", MQ_DT_F32, 2, {-1, out}, {"N"}};
    assert_int_equal(mq_model_set_input(m, &x, NULL), MQ_OK);
    assert_int_equal(mq_model_set_output(m, &y, NULL), MQ_OK);
    return m;
}

static void fold_computes_constants_and_drops_what_does_nothing(void **state)
{
    (void)state;
    mq_model *m = with_ends(2, 2);
    float a[4] = {1, 2, 3, 4}, b[2] = {10, 20}, x[4] = {1, 2, -3, 4}, one[4], two[4];
    set_vector(m, "a", a, 2, 2);
    set_vector(m, "b", b, 0, 2);
    add_node(m, "Mul", MQ_NODE_ARGS("a", "b"), MQ_NODE_ARGS("ab"));
    add_node(m, "Add", MQ_NODE_ARGS("ab", "a"), MQ_NODE_ARGS("w"));
    add_node(m, "Identity", MQ_NODE_ARGS("x"), MQ_NODE_ARGS("x1"));
    add_node(m, "MatMul", MQ_NODE_ARGS("x1", "w"), MQ_NODE_ARGS("p"));
    add_node(m, "Dropout", MQ_NODE_ARGS("p"), MQ_NODE_ARGS("d"));
    add_node(m, "Relu", MQ_NODE_ARGS("d"), MQ_NODE_ARGS("y"));
    add_node(m, "Exp", MQ_NODE_ARGS("x"), MQ_NODE_ARGS("nobody"));
    answers(m, x, 2, 2, one, 4);
    apply(m, "fold");
    assert_int_equal(m->graph.node_count, 2);
    assert_int_equal(m->graph.initializer_count, 1);
    answers(m, x, 2, 2, two, 4);
    assert_memory_equal(one, two, sizeof one);
    run_once_more_changes_nothing(m, "fold");
    mq_model_free(m);
}

static void fold_puts_batch_normalization_into_gemm(void **state)
{
    (void)state;
    for (int form = 0; form < 4; form++) { /* with and without bias and transB */
        mq_model *m = with_ends(3, 2);
        float w[6] = {1, -2, 3, .5f, 2, -1}, b[2] = {.1f, -.2f}, x[6] = {1, 2, 3, -1, .5f, 4};
        float scale[2] = {2, .5f}, shift[2] = {1, -1}, mean[2] = {.3f, -.4f}, var[2] = {4, .25f};
        bool has_bias = form & 1, is_transposed = form & 2;
        set_vector(m, "w", w, is_transposed ? 2 : 3, is_transposed ? 3 : 2);
        set_vector(m, "b", b, 0, 2);
        set_vector(m, "s", scale, 0, 2);
        set_vector(m, "t", shift, 0, 2);
        set_vector(m, "m", mean, 0, 2);
        set_vector(m, "v", var, 0, 2);
        const char *in[3] = {"x", "w", "b"};
        add_node(m, "Gemm", in, has_bias ? 3 : 2, MQ_NODE_ARGS("g"));
        assert_int_equal(mq_node_set_int(m, &m->graph.nodes[0], "transB", is_transposed, NULL),
                         MQ_OK);
        add_node(m, "BatchNormalization", MQ_NODE_ARGS("g", "s", "t", "m", "v"), MQ_NODE_ARGS("y"));
        float got[4];
        apply(m, "fold");
        assert_int_equal(m->graph.node_count, 1);
        answers(m, x, 2, 3, got, 4);
        for (int r = 0; r < 2; r++) {
            for (int c = 0; c < 2; c++) {
                double sum = has_bias ? (double)b[c] : 0;
                for (int k = 0; k < 3; k++) {
                    sum += (double)x[r * 3 + k] * (double)w[is_transposed ? c * 3 + k : k * 2 + c];
                }
                double y =
                    (sum - (double)mean[c]) / sqrt((double)var[c] + 1e-5) * (double)scale[c] +
                    (double)shift[c];
                assert_true(fabs(y - (double)got[r * 2 + c]) < 1e-5 * (1 + fabs(y)));
            }
        }
        run_once_more_changes_nothing(m, "fold");
        mq_model_free(m);
    }
}

/* --- arguments --- */

static void wrong_arguments_are_refused_with_value_and_limits(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"shrink", "pass \"shrink\" is not known; there are: fold; clip:l1=T"},
        {"", "pass \"\" is not known"},
        {"prune", "value is required, a number in 0..0.999"},
        {"prune:", "at \"\" expected VALUE or KEY=VALUE"},
        {"prune:1.5", "value \"1.5\" is not a number in 0..0.999"},
        {"prune:-0.1", "is not a number in 0..0.999"},
        {"prune:nan", "is not a number in 0..0.999"},
        {"prune:0.5x", "is not a number"},
        {"prune:0.5,", "at \"\" expected VALUE"},
        {"prune:0.5,0.6", "a value alone (\"0.6\") is given twice"},
        {"prune:0.5,scope=row", "scope \"row\" is none of tensor, global"},
        {"prune:0.5,by=row", "item \"by\" is not known to this pass"},
        {"clip:5", "a value alone (\"5\") is not known to this pass"},
        {"clip", "exactly one of l1=T, l2=T, max-norm=T, value=T is required"},
        {"clip:l1=3,l2=4", "exactly one of"},
        {"clip:l1=0", "l1 \"0\" is not a number in 1e-06..1e+09"},
        {"clip:value=1,scope=row", "scope and to are for l1 and l2"},
        {"clip:=5", "expected VALUE or KEY=VALUE"},
        {"quantize", "the type is required: quantize:int8"},
        {"quantize:int3", "value \"int3\" is none of int8"},
        {"fold:1", "a value alone (\"1\") is not known"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const mq_pass *pass;
        mq_pass_args args;
        mq_error err = {0};
        assert_int_equal(mq_pass_parse(cases[i].text, &pass, &args, NULL, &err), MQ_E_ARG);
        if (strstr(err.text, cases[i].words) == NULL) {
            fail_msg("%s: %s", cases[i].text, err.text);
        }
    }
}

static void weights_that_are_not_finite_are_refused_by_name(void **state)
{
    (void)state;
    mq_model *m = NULL;
    const float bad[2] = {1, (float)NAN};
    assert_int_equal(mq_arch_build(&m, "linear:2-1", 1, NULL), MQ_OK);
    set_vector(m, "fc1.weight", bad, 1, 2);
    static const char *const texts[] = {"prune:0.5", "clip:l1=1", "quantize:int8"};
    for (size_t i = 0; i < 3; i++) {
        const mq_pass *pass;
        mq_pass_args args;
        mq_buf report;
        mq_error err = {0};
        mq_buf_init(&report, 1 << 16);
        assert_int_equal(mq_pass_parse(texts[i], &pass, &args, NULL, &err), MQ_OK);
        assert_int_equal(mq_pass_apply(pass, &args, m, &report, &err), MQ_E_NUMERIC);
        assert_non_null(strstr(err.text, "\"fc1.weight\""));
        mq_buf_release(&report);
    }
    mq_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_are_idempotent),
        cmocka_unit_test(clip_follows_the_threshold_rule),
        cmocka_unit_test(clip_by_row_bounds_the_weights_of_each_output),
        cmocka_unit_test(clip_by_value_bounds_every_weight),
        cmocka_unit_test(prune_zeroes_exactly_the_smallest),
        cmocka_unit_test(equal_magnitudes_fall_in_order_of_index),
        cmocka_unit_test(prune_global_takes_from_where_weights_are_small),
        cmocka_unit_test(quantize_shrinks_the_file_and_answers_nearly_the_same),
        cmocka_unit_test(fold_computes_constants_and_drops_what_does_nothing),
        cmocka_unit_test(fold_puts_batch_normalization_into_gemm),
        cmocka_unit_test(wrong_arguments_are_refused_with_value_and_limits),
        cmocka_unit_test(weights_that_are_not_finite_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

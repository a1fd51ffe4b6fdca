/* Every row of the operator table, by the cases it carries: shape() agrees with run(), run() with
 * the plain reference and with itself, packed or in place; gradients with finite differences. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "shared/base/map.h"
#include "tests/worker/op_case.h"
#include "worker/blas/blas.h"

enum { TRIALS = 4 };

typedef void check(op_case *c, const char *what, mq_prng *prng);

/* Runs the check on every case of every row, several times. */
static void each_case(check *run)
{
    const mq_op *const *table;
    size_t rows = mq_op_table(&table);
    mq_blas_init();
    for (size_t r = 0; r < rows; r++) {
        mq_prng prng = {mq_hash64(mq_str(table[r]->name), (uint64_t)table[r]->since)};
        for (int trial = 0; trial < TRIALS; trial++) {
            op_case c;
            for (int i = 0; op_case_init(&c, table[r], i, &prng); i++) {
                char what[96];
                snprintf(what, sizeof what, "%s-%d case %d trial %d", table[r]->name,
                         table[r]->since, i, trial);
                run(&c, what, &prng);
                op_case_release(&c);
            }
        }
    }
}

static void must_run(op_case *c, const char *what)
{
    mq_error err;
    if (mq_op_run(&c->call, &err) != MQ_OK) {
        fail_msg("%s: %s", what, err.text);
    }
    if (!op_case_is_intact(c)) {
        fail_msg("%s: writes past its output", what);
    }
}

static void every_row_has_a_case(void **state)
{
    (void)state;
    const mq_op *const *table;
    size_t rows = mq_op_table(&table);
    assert_true(rows > 100);
    for (size_t r = 0; r < rows; r++) {
        assert_non_null(table[r]->run);
        if ((table[r]->flags & MQ_OP_MAKES) ==
            0) { /* those have graphs or sequences: test_control */
            assert_non_null(table[r]->cases);
            assert_non_null(strchr(table[r]->cases, '|'));
            assert_non_null(table[r]->shape);
        }
        for (size_t k = 0; k < r; k++) { /* no row twice */
            assert_false(strcmp(table[r]->name, table[k]->name) == 0 &&
                         strcmp(table[r]->domain, table[k]->domain) == 0 &&
                         table[r]->since == table[k]->since);
        }
    }
}

static void same_bytes_twice(op_case *c, const char *what, mq_prng *prng)
{
    (void)prng;
    uint8_t first[CASE_OUTPUTS_MAX][16384];
    must_run(c, what);
    for (uint32_t i = 0; i < c->call.output_count; i++) {
        assert_true(c->outputs[i].bytes <= sizeof first[i]);
        memcpy(first[i], c->outputs[i].data, c->outputs[i].bytes);
    }
    op_case_renew(c);
    must_run(c, what);
    for (uint32_t i = 0; i < c->call.output_count; i++) {
        if (memcmp(first[i], c->outputs[i].data, c->outputs[i].bytes) != 0) {
            fail_msg("%s: output %u differs when run again", what, i);
        }
    }
    if (c->call.op->prepare != NULL) {
        mq_error err;
        op_case_renew(c);
        assert_int_equal(c->call.op->prepare(&c->call, &c->arena, &c->call.state, &err), MQ_OK);
        must_run(c, what);
        assert_memory_equal(first[0], c->outputs[0].data, c->outputs[0].bytes);
        if (c->call.op->release != NULL && c->call.state != NULL) {
            c->call.op->release(c->call.state);
        }
        c->call.state = NULL;
    }
}

static void in_place_as_apart(op_case *c, const char *what, mq_prng *prng)
{
    (void)prng;
    if ((c->call.op->flags & MQ_OP_ELEMENTWISE) == 0) {
        return;
    }
    must_run(c, what);
    mq_tensor apart = c->outputs[0];
    for (uint32_t i = 0; i < c->call.input_count; i++) {
        if (c->input_ptrs[i] == NULL || c->inputs[i].dtype != apart.dtype ||
            !mq_shape_eq(&c->inputs[i].shape, &apart.shape)) {
            continue;
        }
        void *kept = mq_arena_copy(&c->arena, mq_span_of(c->inputs[i].data, apart.bytes));
        c->outputs[0].data = c->inputs[i].data;
        mq_error err;
        assert_int_equal(mq_op_run(&c->call, &err), MQ_OK);
        if (memcmp(c->outputs[0].data, apart.data, apart.bytes) != 0) {
            fail_msg("%s: in place over input %u it differs", what, i);
        }
        memcpy(c->inputs[i].data, kept, apart.bytes);
    }
}

static double value(const mq_tensor *t, size_t i)
{
    int64_t v = 0;
    if (t->dtype == MQ_DT_F32) {
        return (double)((const float *)t->data)[i];
    }
    if (t->dtype == MQ_DT_F64) {
        return ((const double *)t->data)[i];
    }
    memcpy(&v, (const uint8_t *)t->data + i * mq_dtype_bytes(t->dtype), mq_dtype_bytes(t->dtype));
    return (double)v;
}

static void like_the_reference(op_case *c, const char *what, mq_prng *prng)
{
    (void)prng;
    mq_error err;
    if (c->call.op->reference == NULL) {
        return;
    }
    must_run(c, what);
    mq_tensor got = c->outputs[0];
    op_case_renew(c);
    assert_int_equal(c->call.op->reference(&c->call, &err), MQ_OK);
    double tolerance = got.dtype == MQ_DT_F64 ? 1e-12 : got.dtype == MQ_DT_F32 ? 2e-6 : 0.0;
    for (size_t i = 0; i < got.bytes / mq_dtype_bytes(got.dtype); i++) {
        double a = value(&got, i), b = value(&c->outputs[0], i);
        if (!(fabs(a - b) <= tolerance * (1.0 + fabs(b))) && !(isnan(a) && isnan(b))) {
            fail_msg("%s: element %zu is %.9g, reference %.9g", what, i, a, b);
        }
    }
}

/* Weighted sum of output 0. */
static double loss(op_case *c, const float *weights)
{
    mq_error err;
    assert_int_equal(mq_op_run(&c->call, &err), MQ_OK);
    double sum = 0.0;
    for (size_t i = 0; i < c->outputs[0].bytes / sizeof(float); i++) {
        sum += (double)((const float *)c->outputs[0].data)[i] * (double)weights[i];
    }
    return sum;
}

/* Difference quotients of the loss to either side of *x. */
typedef struct slopes {
    double up, down;
} slopes;

static slopes differences(op_case *c, const float *weights, float *x, float h, double base)
{
    float kept = *x;
    slopes s;
    *x = kept + h;
    s.up = (loss(c, weights) - base) / (double)(*x - kept);
    *x = kept - h;
    s.down = (loss(c, weights) - base) / (double)(*x - kept);
    *x = kept;
    return s;
}

static void one_gradient(op_case *c, uint32_t input, const float *weights, const char *what)
{
    float *dx[CASE_INPUTS_MAX] = {NULL}, *dy[CASE_OUTPUTS_MAX] = {NULL};
    bool add[CASE_INPUTS_MAX] = {false};
    size_t n = c->inputs[input].bytes / sizeof(float), outs = c->outputs[0].bytes;
    float *x = c->inputs[input].data;
    double base = loss(c, weights);
    for (int is_added = 0; is_added < 2; is_added++) {
        dy[0] = mq_arena_copy(&c->arena, mq_span_of(weights, outs));
        dx[input] = mq_arena_new(&c->arena, float, n);
        assert_non_null(dx[input]);
        for (size_t i = 0; i < n; i++) {
            dx[input][i] = is_added ? 1.0f : 777.0f;
        }
        add[input] = is_added;
        c->call.op->grad(&(mq_op_grad){c->call, dy, dx, add});
        for (size_t i = 0; i < n; i++) {
            slopes wide = differences(c, weights, &x[i], 4e-3f, base);
            slopes narrow = differences(c, weights, &x[i], 2e-3f, base);
            double g = (double)dx[input][i] - (is_added ? 1.0 : 0.0);
            /* Richardson: the curvature of the slope drops out */
            double middle = (2.0 * (narrow.up + narrow.down) - (wide.up + wide.down) / 2.0) / 3.0;
            double up = wide.up, down = wide.down;
            double slack = 1e-2 * (1.0 + fabs(middle));
            bool is_near = fabs(g - middle) <= slack || fabs(g - up) <= slack / 4.0 ||
                           fabs(g - down) <= slack / 4.0; /* either side of a kink */
            if (!is_near) {
                fail_msg("%s: gradient %zu of input %u is %g, differences say %g (%g, %g)", what, i,
                         input, g, middle, down, up);
            }
        }
        loss(c, weights);
    }
}

static void gradients_as_differences(op_case *c, const char *what, mq_prng *prng)
{
    float weights[4096];
    size_t outs = c->outputs[0].bytes / sizeof(float);
    if (c->call.op->grad == NULL || c->outputs[0].dtype != MQ_DT_F32) {
        return;
    }
    assert_true(outs <= sizeof weights / sizeof weights[0]);
    for (size_t i = 0; i < outs; i++) {
        weights[i] = (float)case_random(MQ_DT_F32, false, prng);
    }
    must_run(c, what);
    for (uint32_t i = 0; i < c->call.input_count; i++) {
        if (c->input_ptrs[i] != NULL && c->inputs[i].dtype == MQ_DT_F32 && c->is_random[i] &&
            (c->call.op->no_grad >> i & 1) == 0) {
            one_gradient(c, i, weights, what);
        }
    }
}

static void every_row_is_deterministic_and_stays_in_its_output(void **state)
{
    (void)state;
    each_case(same_bytes_twice);
}

static void every_elementwise_row_runs_in_place(void **state)
{
    (void)state;
    each_case(in_place_as_apart);
}

static void every_row_agrees_with_its_reference(void **state)
{
    (void)state;
    each_case(like_the_reference);
}

static void every_gradient_agrees_with_finite_differences(void **state)
{
    (void)state;
    each_case(gradients_as_differences);
}

static void lookup_takes_the_highest_version_not_above_the_opset(void **state)
{
    (void)state;
    assert_int_equal(mq_op_find("", "Add", 6)->since, 1);
    assert_int_equal(mq_op_find("ai.onnx", "Add", 7)->since, 7);
    assert_int_equal(mq_op_find("", "Softmax", 12)->since, 1);
    assert_int_equal(mq_op_find("", "Softmax", 26)->since, 13);
    assert_null(mq_op_find("", "Gelu", 19));
    assert_null(mq_op_find("com.example", "Add", 7));
    assert_null(mq_op_find("", "NoSuchOperator", 17));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_has_a_case),
        cmocka_unit_test(every_row_is_deterministic_and_stays_in_its_output),
        cmocka_unit_test(every_elementwise_row_runs_in_place),
        cmocka_unit_test(every_row_agrees_with_its_reference),
        cmocka_unit_test(every_gradient_agrees_with_finite_differences),
        cmocka_unit_test(lookup_takes_the_highest_version_not_above_the_opset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

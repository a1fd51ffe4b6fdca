/* Losses, optimizers, schedules and clipping: each against its formula in double precision, each
 * derivative against differences, and what does not fit together is refused by name. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/prng.h"
#include "worker/train/manifest.h"
#include "worker/train/state.h"

enum { COUNT = 2500, STEPS = 5 };

static mq_code read(const char *fields, mq_recipe *out, mq_error *err)
{
    json_t *o = json_loads(fields, 0, NULL);
    assert_non_null(o);
    mq_code code = mq_recipe_read(out, o, err);
    json_decref(o);
    return code;
}

static mq_recipe recipe(const char *fields)
{
    mq_recipe r;
    mq_error err = {MQ_OK, ""};
    if (read(fields, &r, &err) != MQ_OK) {
        fail_msg("%s: %s", fields, err.text);
    }
    return r;
}

static void refuses(const char *fields, const char *word)
{
    mq_recipe r;
    mq_error err = {MQ_OK, ""};
    assert_int_equal(read(fields, &r, &err), MQ_E_ARG);
    if (strstr(err.text, word) == NULL) {
        fail_msg("%s: no \"%s\" in: %s", fields, word, err.text);
    }
}

static void what_does_not_fit_is_refused_by_name(void **unused)
{
    (void)unused;
    refuses("{\"optimizer\":\"adam\",\"momentum\":0.9}",
            "momentum: optimizer \"adam\" has no such");
    refuses("{\"optimizer\":\"sgd\",\"beta1\":0.9}", "beta1");
    refuses("{\"optimizer\":\"adam\",\"rho\":0.9}", "rho");
    refuses("{\"epsilon\":1e-8}", "epsilon");
    refuses("{\"optimizer\":\"adam\",\"epsilon\":0}", "epsilon");
    refuses("{\"optimizer\":\"adam\",\"beta2\":1}", "beta2");
    refuses("{\"optimizer\":\"adam\",\"nesterov\":true}", "nesterov");
    refuses("{\"nesterov\":1}", "nesterov");
    refuses("{\"loss\":\"mse\",\"label_smoothing\":0.1}", "label_smoothing");
    refuses("{\"label_smoothing\":1}", "label_smoothing");
    refuses("{\"loss\":\"l1\",\"class_weights\":[1]}", "class_weights");
    refuses("{\"class_weights\":[]}", "class_weights");
    refuses("{\"class_weights\":[1,-1]}", "class_weights[1]");
    refuses("{\"class_weights\":[1,\"2\"]}", "class_weights[1]");
    refuses("{\"schedule\":\"one-cycle\",\"warmup_steps\":5}", "warmup_steps");
    refuses("{\"schedule\":\"cosine\",\"gamma\":0.5}", "gamma");
    refuses("{\"schedule\":\"step\",\"step_epochs\":0}", "step_epochs");
    refuses("{\"clip_norm\":-1}", "clip_norm");
    refuses("{\"clip_value\":\"1\"}", "clip_value");
}

/* --- optimizers --- */

typedef struct trained {
    mq_arena arena;
    mq_state state;
    mq_tree_scratch *scratch;
    float g[COUNT];
    double w[COUNT], m[COUNT], v[COUNT]; /* the reference */
} trained;

static const mq_state_param params[] = {
    {{0, 1000}, false}, {{1000, 1}, false}, {{1001, COUNT - 1001}, false}};
static const mq_piece pieces[] = {{0, COUNT}};

static trained *make(const mq_recipe *r)
{
    trained *t = calloc(1, sizeof *t);
    assert_non_null(t);
    mq_arena_init(&t->arena, 1 << 20);
    assert_int_equal(mq_state_init(&t->state, &t->arena, r->optimizer, false, params, 3, NULL),
                     MQ_OK);
    t->scratch = mq_arena_new(&t->arena, mq_tree_scratch, 1);
    assert_non_null(t->scratch);
    mq_prng prng = {7};
    for (size_t i = 0; i < COUNT; i++) {
        t->state.weights[i] = (float)mq_prng_below(&prng, 2000) / 1000 - 1;
        t->w[i] = (double)t->state.weights[i];
    }
    return t;
}

static void drop(trained *t)
{
    mq_arena_release(&t->arena);
    free(t);
}

static double sign(double x)
{
    return x > 0 ? 1 : x < 0 ? -1 : 0;
}

/* The step of optimizer.h for one weight, t counted from 1; r: LAMB's direction. */
static void reference(const mq_recipe *r, double lr, uint64_t t, double g, double *w, double *m,
                      double *v, double *direction)
{
    double decay = r->weight_decay, d = g + decay * *w;
    bool is_coupled = r->optimizer != MQ_OPTIMIZER_ADAMW && r->optimizer != MQ_OPTIMIZER_LAMB;
    double used = is_coupled ? d : g;
    switch (r->optimizer) {
    case MQ_OPTIMIZER_SGD:
        *m = r->momentum * *m + d;
        *w -= lr * (r->is_nesterov ? d + r->momentum * *m : *m);
        return;
    case MQ_OPTIMIZER_RMSPROP:
        *m = r->rho * *m + (1 - r->rho) * d * d;
        *w -= lr * d / (sqrt(*m) + r->epsilon);
        return;
    case MQ_OPTIMIZER_ADAGRAD:
        *m += d * d;
        *w -= lr * d / (sqrt(*m) + r->epsilon);
        return;
    case MQ_OPTIMIZER_ADAM:
    case MQ_OPTIMIZER_ADAMW:
    case MQ_OPTIMIZER_LAMB:
    case MQ_OPTIMIZER_COUNT:
        break;
    }
    *m = r->beta1 * *m + (1 - r->beta1) * used;
    *v = r->beta2 * *v + (1 - r->beta2) * used * used;
    *direction = *m / (1 - pow(r->beta1, (double)t)) /
                 (sqrt(*v / (1 - pow(r->beta2, (double)t))) + r->epsilon);
    if (r->optimizer == MQ_OPTIMIZER_ADAMW) {
        *w -= lr * decay * *w;
    }
    if (r->optimizer != MQ_OPTIMIZER_LAMB) {
        *w -= lr * *direction;
    }
}

static void reference_lamb(const mq_recipe *r, double lr, trained *t, const double *direction)
{
    for (size_t p = 0; p < 3; p++) {
        double ww = 0, rr = 0;
        size_t end = params[p].at.first + params[p].at.count;
        for (size_t i = params[p].at.first; i < end; i++) {
            double x = direction[i] + r->weight_decay * t->w[i];
            ww += t->w[i] * t->w[i];
            rr += x * x;
        }
        for (size_t i = params[p].at.first; i < end; i++) {
            t->w[i] -= lr * sqrt(ww) / sqrt(rr) * (direction[i] + r->weight_decay * t->w[i]);
        }
    }
}

static void follows_its_formula(const char *fields)
{
    static double direction[COUNT];
    mq_recipe r = recipe(fields);
    trained *t = make(&r);
    mq_plan plan = {.rows = 1000, .steps = STEPS, .steps_per_epoch = STEPS, .point_steps = 1};
    mq_tree_view view = {1, {{0, 0, t->g}}};
    mq_prng prng = {11};
    for (uint64_t step = 0; step < STEPS; step++) {
        double squares[3], norm = 0, lr = (double)mq_recipe_step(&r, step, STEPS, STEPS).lr;
        for (size_t i = 0; i < COUNT; i++) {
            t->g[i] = (float)mq_prng_below(&prng, 2000) / 1000 - 1;
            double g = (double)t->g[i], most = r.clip_value;
            g = most > 0 && fabs(g) > most ? sign(g) * most : g;
            norm += g * g;
        }
        double by = r.clip_norm > 0 && sqrt(norm) > r.clip_norm ? r.clip_norm / sqrt(norm) : 1;
        mq_state_squares(&t->state, &r, &view, pieces, 1, t->scratch, squares);
        assert_true(fabs(squares[0] + squares[1] + squares[2] - norm) < 1e-4);
        float scale = r.clip_norm > 0 ? mq_state_clip(&r, squares, 3) : 1;
        mq_state_update(&t->state, &r, &plan, &view, scale, pieces, 1, t->scratch);
        t->state.record.step++;
        for (size_t i = 0; i < COUNT; i++) {
            double g = (double)t->g[i], most = r.clip_value;
            g = (most > 0 && fabs(g) > most ? sign(g) * most : g) * by;
            reference(&r, lr, step + 1, g, &t->w[i], &t->m[i], &t->v[i], &direction[i]);
        }
        if (r.optimizer == MQ_OPTIMIZER_LAMB) {
            reference_lamb(&r, lr, t, direction);
        }
    }
    for (size_t i = 0; i < COUNT; i++) {
        if (!(fabs(t->w[i] - (double)t->state.weights[i]) < 2e-5)) {
            fail_msg("%s: weight %zu is %g, should be %g", fields, i, (double)t->state.weights[i],
                     t->w[i]);
        }
    }
    drop(t);
}

static void each_optimizer_follows_its_formula(void **unused)
{
    (void)unused;
    follows_its_formula("{}");
    follows_its_formula("{\"nesterov\":true,\"weight_decay\":0.1,\"momentum\":0.7}");
    follows_its_formula("{\"optimizer\":\"adam\"}");
    follows_its_formula("{\"optimizer\":\"adam\",\"weight_decay\":0.1,\"beta1\":0.5,\"lr\":0.01}");
    follows_its_formula("{\"optimizer\":\"adamw\",\"weight_decay\":0.1,\"beta2\":0.9}");
    follows_its_formula("{\"optimizer\":\"rmsprop\",\"weight_decay\":0.1}");
    follows_its_formula("{\"optimizer\":\"adagrad\",\"lr\":0.1}");
    follows_its_formula("{\"optimizer\":\"lamb\",\"weight_decay\":0.1,\"lr\":0.01}");
    follows_its_formula("{\"clip_norm\":0.5,\"clip_value\":0.3}");
    follows_its_formula("{\"optimizer\":\"lamb\",\"clip_norm\":2}");
}

/* A stage of a pipeline updates its own parameters only, to the same bits. */
static void parts_of_the_vector_are_updated_to_the_same_bits(void **unused)
{
    (void)unused;
    static const mq_piece stages[2][1] = {{{0, 1001}}, {{1001, COUNT - 1001}}};
    static const char *const fields[] = {"{\"optimizer\":\"adam\"}", "{\"optimizer\":\"lamb\"}"};
    for (size_t f = 0; f < 2; f++) {
        mq_recipe r = recipe(fields[f]);
        trained *whole = make(&r), *cut = make(&r);
        mq_plan plan = {.rows = 1000, .steps = STEPS, .steps_per_epoch = STEPS, .point_steps = 1};
        mq_prng prng = {5};
        double a[3], b[2][3];
        for (size_t i = 0; i < COUNT; i++) {
            whole->g[i] = cut->g[i] = (float)mq_prng_below(&prng, 2000) / 1000 - 1;
        }
        mq_tree_view view = {1, {{0, 0, whole->g}}};
        mq_state_squares(&whole->state, &r, &view, pieces, 1, whole->scratch, a);
        mq_state_update(&whole->state, &r, &plan, &view, 1, pieces, 1, whole->scratch);
        for (size_t s = 0; s < 2; s++) {
            mq_state_squares(&cut->state, &r, &view, stages[s], 1, cut->scratch, b[s]);
            mq_state_update(&cut->state, &r, &plan, &view, 1, stages[s], 1, cut->scratch);
        }
        for (size_t p = 0; p < 3; p++) {
            double sum = b[0][p] + b[1][p];
            assert_memory_equal(&a[p], &sum, sizeof sum);
        }
        for (uint32_t v = 0; v < whole->state.vector_count; v++) {
            assert_memory_equal(whole->state.vectors[v], cut->state.vectors[v],
                                COUNT * sizeof(float));
        }
        drop(whole);
        drop(cut);
    }
}

/* --- schedules --- */

static void schedules_follow_their_formulas(void **unused)
{
    (void)unused;
    enum { T = 200, EPOCH = 20, WARM = 20 };
    mq_recipe cosine = recipe("{\"lr\":1,\"warmup_steps\":20}");
    mq_recipe linear = recipe("{\"lr\":1,\"schedule\":\"linear\",\"warmup_steps\":20}");
    mq_recipe step = recipe("{\"lr\":1,\"schedule\":\"step\",\"step_epochs\":3,\"gamma\":0.5}");
    mq_recipe cycle = recipe("{\"lr\":1,\"schedule\":\"one-cycle\"}");
    double top = 0;
    for (uint64_t s = 0; s < T; s++) {
        double warm = (double)(s + 1) / WARM, x = ((double)s - WARM) / (T - WARM);
        double c = s < WARM ? warm : (1 + cos(M_PI * x)) / 2, l = s < WARM ? warm : 1 - x;
        assert_true(fabs((double)mq_recipe_step(&cosine, s, T, EPOCH).lr - c) < 1e-6);
        assert_true(fabs((double)mq_recipe_step(&linear, s, T, EPOCH).lr - l) < 1e-6);
        double falls = pow(0.5, (double)(s / EPOCH / 3));
        assert_true(fabs((double)mq_recipe_step(&step, s, T, EPOCH).lr - falls) < 1e-6);
        double rate = (double)mq_recipe_step(&cycle, s, T, EPOCH).lr;
        top = rate > top ? rate : top;
        assert_true(s != 59 || fabs(rate - 1) < 1e-6); /* 0.3 T - 1 */
    }
    assert_true(fabs(top - 1) < 1e-6);
    assert_true(fabs((double)mq_recipe_step(&cycle, 0, T, EPOCH).lr - 0.04) < 1e-6);
    assert_true(fabs((double)mq_recipe_step(&cycle, T - 1, T, EPOCH).lr - 4e-6) < 1e-8);
}

/* --- losses --- */

enum { ROWS = 40, WIDTH_MAX = 5 };

static double loss_of(const mq_loss_spec *spec, const float *out, const mq_label *labels,
                      int64_t width, float *d)
{
    mq_loss_sums sums;
    mq_loss_rows(spec, out, labels, 1, width, d, &sums);
    return sums.loss;
}

/* Central differences row by row; kinks lie on a grid that the outputs avoid. */
static void derivative_is_right(const char *fields, int64_t width)
{
    mq_recipe r = recipe(fields);
    mq_prng prng = {3};
    float d[WIDTH_MAX], unused[WIDTH_MAX];
    for (int row = 0; row < ROWS; row++) {
        float z[WIDTH_MAX];
        mq_label label;
        for (int64_t c = 0; c < width; c++) {
            z[c] = (float)mq_prng_below(&prng, 40) / 10 - 2 + 0.03f + 0.01f * (float)c;
        }
        if (mq_loss_of(r.loss.loss)->is_value) {
            label.value = (float)mq_prng_below(&prng, 40) / 10 - 2;
        } else {
            label.class_number = (int32_t)mq_prng_below(&prng, width == 1 ? 2 : (uint64_t)width);
        }
        (void)loss_of(&r.loss, z, &label, width, d);
        for (int64_t c = 0; c < width; c++) {
            float kept = z[c], step = 0.002f;
            z[c] = kept + step;
            double up = loss_of(&r.loss, z, &label, width, unused);
            z[c] = kept - step;
            double down = loss_of(&r.loss, z, &label, width, unused);
            z[c] = kept;
            double slope = (up - down) / (2 * (double)step);
            if (!(fabs(slope - (double)d[c]) < 3e-3 * (1 + fabs(slope)))) {
                fail_msg("%s: row %d, output %d: derivative %g, differences say %g", fields, row,
                         (int)c, (double)d[c], slope);
            }
        }
    }
}

static void derivatives_are_those_of_the_losses(void **unused)
{
    (void)unused;
    derivative_is_right("{}", 5);
    derivative_is_right("{\"label_smoothing\":0.2}", 4);
    derivative_is_right("{\"class_weights\":[1,2,0.5,3]}", 4);
    derivative_is_right("{\"label_smoothing\":0.1,\"class_weights\":[1,2]}", 2);
    derivative_is_right("{\"loss\":\"binary\"}", 1);
    derivative_is_right("{\"loss\":\"binary\",\"class_weights\":[1,4]}", 1);
    derivative_is_right("{\"loss\":\"hinge\"}", 5);
    derivative_is_right("{\"loss\":\"hinge\"}", 1);
    derivative_is_right("{\"loss\":\"mse\"}", 1);
    derivative_is_right("{\"loss\":\"l1\"}", 1);
}

static void losses_have_their_known_values(void **unused)
{
    (void)unused;
    float d[3];
    float z[3] = {1, 2, 4}, one[1] = {-3};
    double sum = exp(1) + exp(2) + exp(4);
    mq_recipe plain = recipe("{}"), smooth = recipe("{\"label_smoothing\":0.3}");
    mq_recipe binary = recipe("{\"loss\":\"binary\"}"), hinge = recipe("{\"loss\":\"hinge\"}");
    mq_label y = {.class_number = 1};
    assert_true(fabs(loss_of(&plain.loss, z, &y, 3, d) - (log(sum) - 2)) < 1e-6);
    double mixed = log(sum) - 0.7 * 2 - 0.1 * (1 + 2 + 4);
    assert_true(fabs(loss_of(&smooth.loss, z, &y, 3, d) - mixed) < 1e-6);
    assert_true(fabs(loss_of(&binary.loss, one, &y, 1, d) - log(1 + exp(3))) < 1e-6);
    assert_true(fabs(loss_of(&hinge.loss, z, &y, 3, d) - 3) < 1e-6);
    assert_true(fabs(loss_of(&hinge.loss, one, &y, 1, d) - 4) < 1e-6);
    float far[1] = {200};
    y.class_number = 0;
    assert_true(fabs(loss_of(&binary.loss, far, &y, 1, d) - 200) < 1e-4);
    assert_true(fabs((double)d[0] - 1) < 1e-6);
}

static void labels_and_widths_that_do_not_fit_are_refused(void **unused)
{
    (void)unused;
    mq_error err = {MQ_OK, ""};
    mq_recipe binary = recipe("{\"loss\":\"binary\"}"), mse = recipe("{\"loss\":\"mse\"}");
    mq_recipe plain = recipe("{}"), weighted = recipe("{\"class_weights\":[1,2,3]}");
    assert_int_equal(mq_loss_check_width(&binary.loss, 2, &err), MQ_E_ARG);
    assert_int_equal(mq_loss_check_width(&mse.loss, 2, &err), MQ_E_ARG);
    assert_int_equal(mq_loss_check_width(&plain.loss, 1, &err), MQ_E_ARG);
    assert_non_null(strstr(err.text, "binary"));
    assert_int_equal(mq_loss_check_width(&weighted.loss, 4, &err), MQ_E_ARG);
    assert_int_equal(mq_loss_check_width(&weighted.loss, 3, &err), MQ_OK);
    mq_label two[2] = {{.class_number = 1}, {.class_number = 2}};
    assert_int_equal(mq_loss_check_labels(&binary.loss, two, 2, 1, &err), MQ_E_ARG);
    assert_non_null(strstr(err.text, "row 1"));
    mq_label bad = {.value = NAN};
    assert_int_equal(mq_loss_check_labels(&mse.loss, &bad, 1, 1, &err), MQ_E_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_does_not_fit_is_refused_by_name),
        cmocka_unit_test(each_optimizer_follows_its_formula),
        cmocka_unit_test(parts_of_the_vector_are_updated_to_the_same_bits),
        cmocka_unit_test(schedules_follow_their_formulas),
        cmocka_unit_test(derivatives_are_those_of_the_losses),
        cmocka_unit_test(losses_have_their_known_values),
        cmocka_unit_test(labels_and_widths_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

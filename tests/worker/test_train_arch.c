/* Every architecture trains: the gradient of the whole net agrees with differences of its loss, and
 * stages of a pipeline give the bits of the whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "tests/worker/mlp.h"
#include "worker/models/arch.h"
#include "worker/train/net.h"

enum { ROWS = 6, SAMPLES = 24 };

typedef struct trial {
    mq_model *model;
    mq_net *net;
    size_t total, width;
    float *flat, *grads, *unused, *x;
    mq_label labels[ROWS];
    float scale;
} trial;

static float *floats(size_t count)
{
    float *out = calloc(count, sizeof *out);
    assert_non_null(out);
    return out;
}

static trial begin(const char *arch)
{
    trial t = {.scale = 1.0F / ROWS};
    mq_error err = {MQ_OK, ""};
    mq_shape in;
    mlp_must(mq_arch_build(&t.model, arch, 5, &err), &err);
    mq_net_options options = {.rows = ROWS, .stage_count = 1};
    bool is_value = strncmp(arch, "linear", 6) == 0;
    options.loss.loss = is_value ? MQ_LOSS_MSE : MQ_LOSS_CROSS_ENTROPY;
    mlp_must(mq_net_new(&t.net, t.model, &options, &err), &err);
    t.total = mq_net_param_total(t.net);
    mq_net_input_shape(t.net, &in);
    mlp_must(mq_shape_count(&in, &t.width, &err), &err);
    t.flat = floats(t.total);
    t.grads = floats(t.total);
    t.unused = floats(t.total);
    t.x = floats(t.width);
    mq_prng prng = {3};
    for (size_t i = 0; i < t.width; i++) {
        t.x[i] = mlp_random(&prng, 1);
    }
    for (int r = 0; r < ROWS; r++) {
        if (is_value) {
            t.labels[r].value = mlp_random(&prng, 1);
        } else {
            t.labels[r].class_number = (int32_t)mq_prng_below(&prng, 4);
        }
    }
    mq_net_params_get(t.net, t.flat);
    return t;
}

static void end(trial *t)
{
    free(t->flat);
    free(t->grads);
    free(t->unused);
    free(t->x);
    mq_net_free(t->net);
    mq_model_free(t->model);
}

static double loss(trial *t, float *grads)
{
    mq_error err = {MQ_OK, ""};
    mq_net_stats stats;
    mlp_must(mq_net_step(t->net, t->flat, t->x, t->labels, t->scale, grads, &stats, &err), &err);
    return stats.loss_sum / ROWS;
}

/* A few numbers of each parameter; kinks of ReLU and pooling allow a few to be off. */
static void differences_agree(const char *arch)
{
    trial t = begin(arch);
    const mq_net_param *params;
    size_t count = mq_net_params(t.net, &params), looked = 0, off = 0;
    double worst = 0;
    (void)loss(&t, t.grads);
    mq_prng prng = {9};
    for (size_t n = 0; n < SAMPLES; n++) {
        const mq_net_param *p = &params[n * count / SAMPLES];
        if (p->follows) {
            continue;
        }
        size_t i = p->offset + mq_prng_below(&prng, p->count);
        float kept = t.flat[i], h = 1e-3F;
        t.flat[i] = kept + h;
        double up = loss(&t, t.unused);
        t.flat[i] = kept - h;
        double down = loss(&t, t.unused);
        t.flat[i] = kept;
        double slope = (up - down) / (2 * (double)h), away = fabs(slope - (double)t.grads[i]);
        looked++;
        if (away > 5e-3 * (1 + fabs(slope))) {
            print_message("%s: %s: %g, differences say %g\n", arch, p->name, (double)t.grads[i],
                          slope);
            off++;
        }
        worst = away > worst ? away : worst;
    }
    print_message("%s: %zu parameters, %zu of %zu off, worst by %g\n", arch, t.total, off, looked,
                  worst);
    assert_true(off * 10 <= looked);
    end(&t);
}

static void gradients_of_architectures_agree_with_differences(void **unused)
{
    (void)unused;
    static const char *const texts[] = {
        "mlp:20-16-4", "logistic:20-4",           "linear:20-1",     "lenet:1-12-12-4",
        "cnn:1-8-8-4", "transformer:5-4-2-8-2-4", "resnet18:1-8-8-4"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        differences_agree(texts[i]);
    }
}

/* BatchNorm of [N, 2]: what the batch's moments are, and where the running ones move. */
static void batch_norm_trains_on_the_batch_and_moves_its_moments(void **unused)
{
    (void)unused;
    mq_error err = {MQ_OK, ""};
    mq_model *model;
    const float ones[2] = {1, 1}, mean[2] = {4, -4}, var[2] = {1, 9};
    const float x[4] = {1, 2, 3, 6}; /* means 2 and 4, variances 1 and 4 */
    const mq_shape two = {1, {2}};
    mq_label labels[2] = {{.class_number = 0}, {.class_number = 1}};
    mlp_must(mq_model_new(&model, "bn", 0, &err), &err);
    const char *const names[] = {"scale", "bias", "mean", "var"};
    const float *const values[] = {ones, ones, mean, var};
    for (int i = 0; i < 4; i++) {
        mlp_must(
            mq_model_set_init(model, names[i], MQ_DT_F32, &two, mq_span_of(values[i], 8), &err),
            &err);
    }
    mq_node_spec spec = {"BatchNormalization", NULL, "bn",
                         MQ_NODE_ARGS("x", "scale", "bias", "mean", "var"), MQ_NODE_ARGS("y")};
    mlp_must(mq_model_add_node(model, 0, &spec, NULL, &err), &err);
    mlp_io(model, "x", 2, "y", 2);
    mq_net *net;
    mlp_must(
        mq_net_new(&net, model, &(mq_net_options){.rows = 2, .stage_count = 1, .shards = 4}, &err),
        &err);
    const mq_net_param *params;
    assert_int_equal(mq_net_params(net, &params), 4);
    assert_false(params[0].follows);
    assert_false(params[1].follows);
    assert_true(params[2].follows);
    assert_true(params[3].follows);
    float flat[8], grads[8];
    mq_net_stats stats;
    mq_net_params_get(net, flat);
    mlp_must(mq_net_step(net, flat, x, labels, 0.5F, grads, &stats, &err), &err);
    /* normalized: -1, 1 in both columns, so both rows have equal logits */
    assert_true(fabs(stats.loss_sum - 2 * log(2)) < 1e-4);
    const float moved[4] = {0.9F * 4 + 0.2F, -0.9F * 4 + 0.4F, 0.9F + 0.1F, 0.9F * 9 + 0.4F};
    for (int i = 0; i < 4; i++) {
        assert_true(fabsf(grads[4 + i] - moved[i] / 4) < 1e-6F);
    }
    mq_net_free(net);
    mq_model_free(model);
}

/* Dropout: as many fall as the ratio says, others for another step, row or layer, the same ones
 * again backward, and the mean stays. */
static void dropout_draws_by_step_and_row(void **unused)
{
    (void)unused;
    enum { COLUMNS = 999, LINES = 8 };
    static float x[LINES * COLUMNS], y[4][LINES * COLUMNS], dx[LINES * COLUMNS];
    const mq_draw draws[4] = {{7, 3, 16}, {7, 4, 16}, {7, 3, 17}, {8, 3, 16}};
    mq_draw draw;
    mq_dropout_attrs attrs = {0.25F, 0, &draw};
    mq_tensor in = {MQ_DT_F32, {2, {LINES, COLUMNS}}, x, sizeof x}, out = in;
    const mq_tensor *inputs[] = {&in};
    mq_tensor *outputs[] = {&out};
    mq_op_call call = {.op = &mq_op_training_dropout,
                       .attrs = &attrs,
                       .inputs = inputs,
                       .outputs = outputs,
                       .input_count = 1,
                       .output_count = 1};
    size_t fallen = 0, differ[4] = {0};
    for (size_t i = 0; i < LINES * COLUMNS; i++) {
        x[i] = 1;
    }
    for (int d = 0; d < 4; d++) {
        draw = draws[d];
        out.data = y[d];
        assert_int_equal(call.op->run(&call, NULL), MQ_OK);
    }
    for (size_t i = 0; i < LINES * COLUMNS; i++) {
        fallen += y[0][i] == 0;
        assert_true(y[0][i] == 0 || fabsf(y[0][i] - 1 / 0.75F) < 1e-6F);
        for (int d = 1; d < 4; d++) {
            differ[d] += y[d][i] != y[0][i];
        }
    }
    assert_true(fallen * 100 > LINES * COLUMNS * 23 && fallen * 100 < LINES * COLUMNS * 27);
    for (int d = 1; d < 4; d++) {
        assert_true(differ[d] > LINES * COLUMNS / 4);
    }
    /* row 17 is the second of a batch that begins at row 16 */
    assert_memory_equal(y[2], y[0] + COLUMNS, (LINES - 1) * COLUMNS * sizeof(float));
    float *dy[] = {x}, *to[] = {dx};
    const bool add[] = {false};
    draw = draws[0];
    call.op->grad(&(mq_op_grad){.call = call, .dy = dy, .dx = to, .add = add});
    assert_memory_equal(dx, y[0], sizeof dx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_architectures_agree_with_differences),
        cmocka_unit_test(batch_norm_trains_on_the_batch_and_moves_its_moments),
        cmocka_unit_test(dropout_draws_by_step_and_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

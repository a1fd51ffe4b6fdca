/* Compiled training steps: gradients, equal bits whatever is cut or moved, errors that name what is
 * wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "tests/worker/mlp.h"
#include "worker/train/net.h"

enum { ROWS = 12 };

static const int64_t sizes[] = {20, 16, 12, 5};

typedef struct batch {
    float x[ROWS * 20];
    mq_label labels[ROWS];
} batch;

static batch make_batch(void)
{
    batch b;
    mq_prng prng = {99};
    for (int i = 0; i < ROWS * 20; i++) {
        b.x[i] = mlp_random(&prng, 1.0f);
    }
    for (int i = 0; i < ROWS; i++) {
        b.labels[i].class_number = (int32_t)mq_prng_below(&prng, 5);
    }
    return b;
}

static mq_net *net_of(const mq_model *model, uint32_t stage, uint32_t count)
{
    mq_net *net;
    mq_error err;
    mq_net_options o = {
        .rows = ROWS, .stage = stage, .stage_count = count};
    mlp_must(mq_net_new(&net, model, &o, &err), &err);
    return net;
}

/* Aligned to 64 bytes plus `shift` floats. */
static float *floats(size_t count, size_t shift)
{
    float *p = aligned_alloc(64, ((count + shift) * 4 + 127) / 64 * 64);
    MQ_ASSERT(p != NULL);
    memset(p, 0, (count + shift) * 4);
    return p + shift;
}

static void step(mq_net *net, const float *flat, const batch *b, float *grads, mq_net_stats *stats)
{
    mq_error err;
    mlp_must(mq_net_step(net, flat, b->x, b->labels, 1.0f / ROWS, grads, stats, &err), &err);
}

static void gradients_agree_with_finite_differences(void **state)
{
    (void)state;
    batch b = make_batch();
    for (int flags = 0; flags < 8; flags++) {
        mq_model *model = mlp_new(sizes, 4, flags & ~(flags & 4 ? 1 : 0), 1);
        mq_net *net = net_of(model, 0, 1);
        size_t total = mq_net_param_total(net);
        float *flat = floats(total, 0), *grads = floats(total, 0), *scratch = floats(total, 0);
        mq_net_stats stats, up, down;
        mq_net_params_get(net, flat);
        step(net, flat, &b, grads, &stats);
        assert_true(stats.loss_sum > 0.0);
        for (size_t i = 0; i < total; i += 7) {
            float kept = flat[i], h = 2e-3f;
            flat[i] = kept + h;
            step(net, flat, &b, scratch, &up);
            flat[i] = kept - h;
            step(net, flat, &b, scratch, &down);
            flat[i] = kept;
            double slope = (up.loss_sum - down.loss_sum) / ROWS / (double)(2.0f * h);
            if (fabs(slope - (double)grads[i]) > 2e-3) {
                fail_msg("flags %d: gradient %zu is %g, differences say %g", flags, i,
                         (double)grads[i], slope);
            }
        }
        free(flat);
        free(grads);
        free(scratch);
        mq_net_free(net);
        mq_model_free(model);
    }
}

static void loss_and_hits_are_those_of_the_plain_formula(void **state)
{
    (void)state;
    batch b = make_batch();
    mq_error err;
    mq_model *model;
    assert_int_equal(mq_model_new(&model, "one layer", 0, &err), MQ_OK);
    mq_prng prng = {5};
    mlp_init(model, "w", &(mq_shape){2, {20, 5}}, 0.5f, &prng);
    mq_node_spec mm = {"MatMul", NULL, "mm", MQ_NODE_ARGS("x", "w"), MQ_NODE_ARGS("y")};
    assert_int_equal(mq_model_add_node(model, 0, &mm, NULL, &err), MQ_OK);
    mlp_io(model, "x", 20, "y", 5);
    mq_net *net = net_of(model, 0, 1);
    float *flat = floats(100, 0), *grads = floats(100, 0);
    mq_net_params_get(net, flat);
    mq_net_stats stats;
    step(net, flat, &b, grads, &stats);
    double loss = 0.0, expected[100] = {0};
    int64_t correct = 0;
    for (int r = 0; r < ROWS; r++) {
        double z[5] = {0}, sum = 0.0;
        int top = 0;
        for (int c = 0; c < 5; c++) {
            for (int i = 0; i < 20; i++) {
                z[c] += (double)b.x[r * 20 + i] * (double)flat[i * 5 + c];
            }
            sum += exp(z[c]);
            top = z[c] > z[top] ? c : top;
        }
        loss += log(sum) - z[b.labels[r].class_number];
        correct += top == b.labels[r].class_number;
        for (int c = 0; c < 5; c++) {
            double d = (exp(z[c]) / sum - (c == b.labels[r].class_number ? 1.0 : 0.0)) / ROWS;
            for (int i = 0; i < 20; i++) {
                expected[i * 5 + c] += d * (double)b.x[r * 20 + i];
            }
        }
    }
    assert_true(fabs(stats.loss_sum - loss) < 1e-4);
    assert_int_equal(stats.correct, correct);
    for (int i = 0; i < 100; i++) {
        assert_true(fabs((double)grads[i] - expected[i]) < 1e-6);
    }
    free(flat);
    free(grads);
    mq_net_free(net);
    mq_model_free(model);
}

static void equal_inputs_give_equal_bits_at_any_alignment(void **state)
{
    (void)state;
    batch b = make_batch();
    mq_model *model = mlp_new(sizes, 4, 0, 1);
    mq_net *net = net_of(model, 0, 1), *other = net_of(model, 0, 1);
    size_t total = mq_net_param_total(net);
    float *first = floats(total, 0);
    mq_net_stats stats, again;
    for (size_t shift = 0; shift < 8; shift++) {
        float *flat = floats(total, shift), *grads = floats(total, 7 - shift);
        mq_net_params_get(net, flat);
        memset(grads, 0xff, total * 4); /* written, not added to */
        step(shift % 2 == 0 ? net : other, flat, &b, grads, &again);
        if (shift == 0) {
            memcpy(first, grads, total * 4);
            stats = again;
        }
        assert_memory_equal(first, grads, total * 4);
        assert_memory_equal(&stats.loss_sum, &again.loss_sum, sizeof stats.loss_sum);
        free(flat - shift);
        free(grads - (7 - shift));
    }
    free(first);
    mq_net_free(net);
    mq_net_free(other);
    mq_model_free(model);
}

/* Runs the stages as a pipeline with two micro-batches under way at once. */
static void run_stages(const mq_model *model, uint32_t count, const float *flat, const batch *b,
                       float *grads, mq_net_stats *stats)
{
    mq_error err;
    mq_net *nets[8];
    float *edge[9];
    for (uint32_t s = 0; s < count; s++) {
        mq_shape shape;
        nets[s] = net_of(model, s, count);
        mq_net_output_shape(nets[s], &shape);
        edge[s + 1] = floats((size_t)(ROWS * shape.dims[shape.rank - 1]), 0);
    }
    for (uint32_t slot = 3; slot < 5; slot++) {
        const float *x = b->x;
        for (uint32_t s = 0; s < count; s++) {
            bool is_last = s + 1 == count;
            mlp_must(mq_net_forward(nets[s], slot, flat, x, is_last ? b->labels : NULL,
                                    is_last ? NULL : edge[s + 1], stats, &err),
                     &err);
            x = edge[s + 1];
        }
    }
    for (uint32_t slot = 3; slot < 5; slot++) {
        for (uint32_t s = count; s-- > 0;) {
            float *dy = s + 1 == count ? NULL : edge[s + 1];
            mlp_must(mq_net_backward(nets[s], slot, flat, dy, 1.0f / ROWS, s == 0 ? NULL : edge[s],
                                     grads, &err),
                     &err);
        }
    }
    for (uint32_t s = 0; s < count; s++) {
        free(edge[s + 1]);
        mq_net_free(nets[s]);
    }
}

static void stages_give_the_bits_of_the_whole(void **state)
{
    (void)state;
    batch b = make_batch();
    for (int flags = 0; flags < 8; flags++) {
        mq_model *model = mlp_new(sizes, 4, flags & ~(flags & 4 ? 1 : 0), 2);
        mq_net *net = net_of(model, 0, 1);
        size_t total = mq_net_param_total(net), owned = 0;
        float *flat = floats(total, 0), *whole = floats(total, 0), *cut = floats(total, 0);
        mq_net_stats stats, cut_stats;
        mq_net_params_get(net, flat);
        step(net, flat, &b, whole, &stats);
        for (uint32_t count = 2; count <= 3; count++) {
            owned = 0;
            for (uint32_t s = 0; s < count; s++) {
                mq_net *part = net_of(model, s, count);
                const mq_net_param *params;
                assert_int_equal(mq_net_param_total(part), total);
                size_t n = mq_net_params(part, &params);
                assert_true(n > 0);
                for (size_t i = 0; i < n; i++) {
                    owned += params[i].count;
                }
                mq_net_free(part);
            }
            assert_int_equal(owned, total);
            memset(cut, 0xff, total * 4);
            run_stages(model, count, flat, &b, cut, &cut_stats);
            assert_memory_equal(whole, cut, total * 4);
            assert_memory_equal(&stats.loss_sum, &cut_stats.loss_sum, sizeof stats.loss_sum);
            assert_int_equal(stats.correct, cut_stats.correct);
        }
        free(flat);
        free(whole);
        free(cut);
        mq_net_free(net);
        mq_model_free(model);
    }
}

static void training_lowers_the_loss_and_the_model_takes_the_weights(void **state)
{
    (void)state;
    batch b = make_batch();
    mq_error err;
    mq_model *model = mlp_new(sizes, 4, MLP_SOFTMAX, 4);
    mq_net *net = net_of(model, 0, 1);
    size_t total = mq_net_param_total(net);
    float *flat = floats(total, 0), *grads = floats(total, 0), *back = floats(total, 0);
    mq_net_stats first, last = {0};
    mq_net_params_get(net, flat);
    step(net, flat, &b, grads, &first);
    for (int i = 0; i < 300; i++) {
        for (size_t k = 0; k < total; k++) {
            flat[k] -= 0.5f * grads[k];
        }
        step(net, flat, &b, grads, &last);
    }
    assert_true(last.loss_sum < first.loss_sum / 20.0);
    assert_int_equal(last.correct, ROWS);
    assert_int_equal(mq_net_params_set(flat, NULL, model, &err), MQ_OK);
    mq_net_params_get(net, back);
    assert_memory_equal(flat, back, total * 4);
    free(flat);
    free(grads);
    free(back);
    mq_net_free(net);
    mq_model_free(model);
}

static void a_label_out_of_range_names_its_row(void **state)
{
    (void)state;
    batch b = make_batch();
    mq_error err;
    mq_net_stats stats;
    mq_model *model = mlp_new(sizes, 4, 0, 4);
    mq_net *net = net_of(model, 0, 1);
    float *flat = floats(mq_net_param_total(net), 0), *grads = floats(mq_net_param_total(net), 0);
    const int32_t bad[] = {5, -1, INT32_MAX, INT32_MIN};
    for (int i = 0; i < 4; i++) {
        b.labels[3].class_number = bad[i];
        assert_int_equal(mq_net_step(net, flat, b.x, b.labels, 1.0f, grads, &stats, &err),
                         MQ_E_ARG);
        assert_non_null(strstr(err.text, "row 3"));
        assert_int_equal(mq_net_forward(net, 0, flat, b.x, b.labels, NULL, &stats, &err), MQ_E_ARG);
    }
    assert_int_equal(mq_net_backward(net, 0, flat, NULL, 1.0f, NULL, grads, &err), MQ_E_ARG);
    free(flat);
    free(grads);
    mq_net_free(net);
    mq_model_free(model);
}

static void expect_refusal(mq_model *model, const mq_net_options *o, mq_code code, const char *word)
{
    mq_net *net;
    mq_error err = {.text = ""};
    mq_code got = mq_net_new(&net, model, o, &err);
    if (got != code || strstr(err.text, word) == NULL) {
        fail_msg("code %s, text '%s', expected '%s'", mq_code_name(got), err.text, word);
    }
    assert_null(net);
}

static void what_cannot_be_trained_is_refused_by_name(void **state)
{
    (void)state;
    mq_error err;
    mq_net_options good = {.rows = 4, .stage_count = 1}, o;
    mq_model *model = mlp_new(sizes, 4, 0, 4);
    o = good, o.rows = 0;
    expect_refusal(model, &o, MQ_E_ARG, "rows");
    o = good, o.loss.loss = MQ_LOSS_MSE;
    expect_refusal(model, &o, MQ_E_ARG, "mse");
    o = good, o.loss.weight_count = 3;
    expect_refusal(model, &o, MQ_E_ARG, "class_weights");
    o = good, o.stage_count = 17;
    expect_refusal(model, &o, MQ_E_ARG, "stages");
    o = good, o.stage_count = 9;
    expect_refusal(model, &o, MQ_E_ARG, "stages");
    o = good, o.memory_bytes_max = 20000;
    expect_refusal(model, &o, MQ_E_LIMIT, "memory");
    mq_node *node = &model->graph.nodes[0];
    const char *kept = node->op_type;
    node->op_type = "Sorcery";
    expect_refusal(model, &good, MQ_E_UNSUPPORTED, "Sorcery");
    node->op_type = kept;
    mq_node_spec arg = {"ArgMax", NULL, "pick", MQ_NODE_ARGS("y"), MQ_NODE_ARGS("best")};
    assert_int_equal(mq_model_add_node(model, model->graph.node_count, &arg, NULL, &err), MQ_OK);
    mq_value_info best = {.name = "best", .dtype = MQ_DT_I64, .rank = -1};
    mq_model_remove_output(model, "y");
    assert_int_equal(mq_model_set_output(model, &best, &err), MQ_OK);
    expect_refusal(model, &good, MQ_E_ARG, "cross-entropy");
    mq_model_free(model);
}

static void the_bare_products_are_those_of_the_step(void **state)
{
    (void)state;
    mq_model *model = mlp_new(sizes, 4, 0, 4);
    mq_net *net = net_of(model, 0, 1);
    /* forward and weight gradient of each layer, input gradient of all but the first */
    double expected = 2.0 * ROWS * (2.0 * 20 * 16 + 3.0 * 16 * 12 + 3.0 * 12 * 5);
    assert_true(fabs(mq_net_gemm_flop(net) - expected) < 0.5);
    float *flat = floats(mq_net_param_total(net), 0);
    mq_net_gemm_only(net, flat);
    mq_net_gemm_only(net, flat);
    free(flat);
    mq_net_free(net);
    mq_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_agree_with_finite_differences),
        cmocka_unit_test(loss_and_hits_are_those_of_the_plain_formula),
        cmocka_unit_test(equal_inputs_give_equal_bits_at_any_alignment),
        cmocka_unit_test(stages_give_the_bits_of_the_whole),
        cmocka_unit_test(training_lowers_the_loss_and_the_model_takes_the_weights),
        cmocka_unit_test(a_label_out_of_range_names_its_row),
        cmocka_unit_test(what_cannot_be_trained_is_refused_by_name),
        cmocka_unit_test(the_bare_products_are_those_of_the_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

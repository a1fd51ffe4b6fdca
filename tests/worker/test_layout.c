/* Networks of convolutions in packed layout give what they give in the plain one: residual sums,
 * clamps, depthwise, few channels, pools, gates, joins, and outputs from the middle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "tests/worker/mlp.h"
#include "worker/dnnl/dnnl.h"
#include "worker/exec/session.h"
#include "worker/ops/packed.h"

typedef struct net {
    mq_model *model;
    mq_prng prng;
    mq_error err;
} net;

static mq_node *add(net *n, const char *op, const char *const *in, uint32_t in_count,
                    const char *out)
{
    mq_node *node;
    const char *const outs[] = {out};
    mq_node_spec spec = {.op_type = op,
                         .name = out,
                         .inputs = in,
                         .input_count = in_count,
                         .outputs = outs,
                         .output_count = 1};
    mlp_must(mq_model_add_node(n->model, n->model->graph.node_count, &spec, &node, &n->err),
             &n->err);
    return node;
}

static void one(net *n, const char *op, const char *x, const char *y)
{
    (void)add(n, op, (const char *const[]){x}, 1, y);
}

static void two(net *n, const char *op, const char *a, const char *b, const char *y)
{
    (void)add(n, op, (const char *const[]){a, b}, 2, y);
}

static void ints(net *n, mq_node *node, const char *name, int64_t value, size_t count)
{
    int64_t list[4] = {value, value, value, value};
    mlp_must(mq_node_set_ints(n->model, node, name, list, count, &n->err), &n->err);
}

static void conv(net *n, const char *x, const char *y, const int64_t *dims, int64_t stride,
                 int64_t group)
{
    char w[40], b[40];
    (void)snprintf(w, sizeof w, "%s.w", y);
    (void)snprintf(b, sizeof b, "%s.b", y);
    mq_shape shape = {4, {dims[0], dims[1], dims[2], dims[2]}};
    mlp_init(n->model, w, &shape, 1.0f / (float)(dims[1] * dims[2]), &n->prng);
    mlp_init(n->model, b, &(mq_shape){1, {dims[0]}}, 0.2f, &n->prng);
    mq_node *node = add(n, "Conv", (const char *const[]){x, w, b}, 3, y);
    ints(n, node, "pads", dims[2] / 2, 4);
    ints(n, node, "strides", stride, 2);
    mlp_must(mq_node_set_int(n->model, node, "group", group, &n->err), &n->err);
}

static void pool(net *n, const char *op, const char *x, const char *y, int64_t kernel,
                 int64_t stride, int64_t pad)
{
    mq_node *node = add(n, op, (const char *const[]){x}, 1, y);
    ints(n, node, "kernel_shape", kernel, 2);
    ints(n, node, "strides", stride, 2);
    ints(n, node, "pads", pad, 4);
}

static void clip(net *n, const char *x, const char *y)
{
    (void)add(n, "Clip", (const char *const[]){x, "low", "high"}, 3, y);
}

#define DIMS(...) ((const int64_t[]){__VA_ARGS__})

/* A stem, residual blocks (one with a branch that shrinks), a gate, depthwise, 12 channels, joins;
 * outputs: the last, one from the middle, and one that is packed and read on. */
static mq_model *network(void)
{
    net n = {.prng = {11}};
    const float low = 0.0f, high = 1.5f;
    mlp_must(mq_model_new(&n.model, "net", 0, &n.err), &n.err);
    mq_shape scalar = {.rank = 0};
    mlp_must(mq_model_set_init(n.model, "low", MQ_DT_F32, &scalar, mq_span_of(&low, 4), &n.err),
             &n.err);
    mlp_must(mq_model_set_init(n.model, "high", MQ_DT_F32, &scalar, mq_span_of(&high, 4), &n.err),
             &n.err);
    conv(&n, "x", "c1", DIMS(16, 3, 3), 1, 1);
    one(&n, "Relu", "c1", "r1");
    pool(&n, "MaxPool", "r1", "p1", 3, 2, 1);
    conv(&n, "p1", "c2", DIMS(24, 16, 1), 1, 1); /* a block that keeps its size */
    clip(&n, "c2", "k2");
    conv(&n, "k2", "c3", DIMS(24, 1, 3), 1, 24);
    one(&n, "HardSigmoid", "c3", "h3");
    conv(&n, "h3", "c4", DIMS(16, 24, 1), 1, 1);
    two(&n, "Add", "c4", "p1", "s4");
    one(&n, "Relu", "s4", "r4");
    conv(&n, "r4", "c5", DIMS(32, 16, 3), 2, 1); /* one that shrinks, both ways */
    conv(&n, "r4", "c6", DIMS(32, 16, 1), 2, 1);
    two(&n, "Add", "c6", "c5", "s6");
    one(&n, "GlobalAveragePool", "s6", "g6"); /* a gate, which broadcasts */
    conv(&n, "g6", "c7", DIMS(32, 32, 1), 1, 1);
    one(&n, "Sigmoid", "c7", "m7");
    two(&n, "Mul", "m7", "s6", "m8");
    conv(&n, "m8", "c8", DIMS(32, 32, 1), 1, 1);
    two(&n, "Add", "c8", "g6", "s8"); /* a sum that is no residual one */
    conv(&n, "s8", "c9", DIMS(12, 32, 3), 1, 1);
    conv(&n, "c9", "c10", DIMS(16, 12, 3), 1, 1);
    (void)add(&n, "Concat", (const char *const[]){"s8", "c10"}, 2, "j");
    mlp_must(mq_node_set_int(n.model, &n.model->graph.nodes[n.model->graph.node_count - 1], "axis",
                             1, &n.err),
             &n.err);
    conv(&n, "j", "c11", DIMS(16, 12, 3), 1, 4); /* groups that are no blocks */
    pool(&n, "AveragePool", "c11", "y", 2, 2, 0);
    static const char *const names[] = {"y", "h3", "s6"};
    mlp_must(mq_model_set_input(n.model,
                                &(mq_value_info){.name = "x",
                                                 .dtype = MQ_DT_F32,
                                                 .rank = 4,
                                                 .dims = {-1, 3, -1, -1},
                                                 .dim_names = {"N", NULL, "H", "W"}},
                                &n.err),
             &n.err);
    for (int i = 0; i < 3; i++) {
        mlp_must(mq_model_set_output(
                     n.model,
                     &(mq_value_info){
                         .name = names[i], .dtype = MQ_DT_F32, .rank = 4, .dims = {-1, -1, -1, -1}},
                     &n.err),
                 &n.err);
    }
    mlp_must(mq_model_verify(n.model, &n.err), &n.err);
    return n.model;
}

static mq_session *session_of(const mq_model *model, bool is_own)
{
    mq_session *s;
    mq_error err;
    mq_session_options options = {.own_kernels = is_own};
    mlp_must(mq_session_new(&s, model, &options, &err), &err);
    return s;
}

static void outputs_agree(const mq_tensor *a, const mq_tensor *b)
{
    for (int i = 0; i < 3; i++) {
        assert_true(mq_shape_eq(&a[i].shape, &b[i].shape));
        for (size_t k = 0; k < a[i].bytes / 4; k++) {
            double u = (double)((const float *)a[i].data)[k];
            double v = (double)((const float *)b[i].data)[k];
            assert_true(fabs(u - v) < 1e-5 * (1.0 + fabs(v)));
        }
    }
}

static void packed_networks_give_what_plain_ones_give(void **state)
{
    (void)state;
    mq_model *model = network();
    mq_session *packed = session_of(model, false), *plain = session_of(model, true);
    mq_prng prng = {3};
    float *x = malloc((size_t)2 * 3 * 40 * 40 * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < (size_t)2 * 3 * 40 * 40; i++) {
        x[i] = mlp_random(&prng, 1.0f);
    }
    static const int64_t sizes[][3] = {{1, 16, 16}, {2, 40, 33}, {1, 17, 40}, {2, 40, 33}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        mq_error err;
        const mq_tensor *a, *b;
        mq_shape shape = {4, {sizes[i][0], 3, sizes[i][1], sizes[i][2]}};
        size_t bytes = (size_t)(shape.dims[0] * 3 * shape.dims[2] * shape.dims[3]) * sizeof *x;
        mq_tensor in = {MQ_DT_F32, shape, x, bytes};
        mlp_must(mq_session_run(packed, &in, 1, &a, &err), &err);
        mlp_must(mq_session_run(plain, &in, 1, &b, &err), &err);
        outputs_agree(a, b);
    }
    mq_session_stats with, without;
    mq_session_stats_get(packed, &with);
    mq_session_stats_get(plain, &without);
    if (mq_dnnl_is_there()) { /* sums and clamps went into convolutions */
        assert_true(with.fused_count >= without.fused_count + 4);
    }
    mq_session_free(packed);
    mq_session_free(plain);
    mq_model_free(model);
    free(x);
}

static void run_packed(mq_op_call *call, bool has_state, float *y, size_t count, float *memory)
{
    mq_error err;
    mq_arena arena;
    mq_arena_init(&arena, (size_t)1 << 24);
    for (size_t i = 0; i < count; i++) {
        y[i] = 0.25f; /* the sum */
    }
    call->state = NULL;
    if (has_state) {
        mlp_must(mq_op_packed_conv.prepare(call, &arena, &call->state, &err), &err);
    }
    mlp_must(mq_op_packed_conv.shape(call, &err), &err);
    mlp_must(mq_op_ready(call, &err), &err);
    assert_true(mq_op_scratch(call) <= (size_t)1 << 20);
    call->scratch = memory;
    mlp_must(mq_op_packed_conv.run(call, &err), &err);
    if (call->state != NULL) {
        mq_op_packed_conv.release(call->state);
    }
    mq_arena_release(&arena);
}

/* What oneDNN has no kernel for goes another way to the same numbers. */
static void a_packed_convolution_needs_no_kernel_of_its_own(void **state)
{
    (void)state;
    enum { Y_MAX = 2 * 2 * 25 * 16 };
    static float x[Y_MAX], w[20 * 20 * 9], bias[20], a[Y_MAX], b[Y_MAX];
    size_t block = mq_dnnl_block() > 0 ? (size_t)mq_dnnl_block() : 16;
    size_t blocks = (20 + block - 1) / block, count = 2 * blocks * 25 * block;
    assert_true(count <= Y_MAX);
    float *memory = aligned_alloc(64, (size_t)1 << 20);
    assert_non_null(memory);
    mq_prng prng = {5};
    for (size_t i = 0; i < count; i++) { /* channels from 20 on fill up the last block */
        bool is_filled = i / (25 * block) % blocks * block + i % block >= 20;
        x[i] = is_filled ? 0.0f : mlp_random(&prng, 1.0f);
    }
    for (size_t i = 0; i < sizeof w / sizeof w[0]; i++) {
        w[i] = mlp_random(&prng, 0.1f);
    }
    static const int64_t pads[] = {1, 1, 1, 1};
    mq_packed_conv_attrs attrs = {.window = {.pads = {pads, 4, true}, .group = 1},
                                  .block = (int64_t)block,
                                  .low = 0.0f,
                                  .high = 1.0f,
                                  .x_is_packed = 1,
                                  .y_is_packed = 1};
    mq_tensor in[] = {
        {MQ_DT_F32, {5, {2, (int64_t)blocks, 5, 5, (int64_t)block}}, x, count * sizeof(float)},
        {MQ_DT_F32, {4, {20, 20, 3, 3}}, w, sizeof w},
        {MQ_DT_F32, {1, {20}}, bias, sizeof bias},
        {MQ_DT_F32, {5, {2, (int64_t)blocks, 5, 5, (int64_t)block}}, NULL, count * sizeof(float)}};
    mq_tensor out = {.dtype = MQ_DT_F32}, *outs[] = {&out};
    const mq_tensor *ins[] = {&in[0], &in[1], &in[2], &in[3]};
    mq_op_call call = {.op = &mq_op_packed_conv,
                       .attrs = &attrs,
                       .inputs = ins,
                       .outputs = outs,
                       .input_count = 4,
                       .output_count = 1};
    in[3].data = out.data = a;
    run_packed(&call, true, a, count, memory);
    in[3].data = out.data = b;
    run_packed(&call, false, b, count, memory);
    for (size_t i = 0; i < count; i++) {
        bool is_filled = i / (25 * block) % blocks * block + i % block >= 20;
        assert_true(is_filled || fabsf(a[i] - b[i]) < 1e-5f);
    }
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_networks_give_what_plain_ones_give),
        cmocka_unit_test(a_packed_convolution_needs_no_kernel_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A network quantized as DequantizeLinear, operator, QuantizeLinear runs on bytes and gives what
 * its floats give, up to a step or two of the last quantization. */
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

static const float step_of_y = 0.02f;

typedef struct net {
    mq_model *model;
    mq_prng prng;
    mq_error err;
} net;

static mq_node *add(net *n, const char *op, const char *const *in, uint32_t count, const char *out)
{
    mq_node *node;
    const char *const outs[] = {out};
    mq_node_spec spec = {.op_type = op,
                         .name = out,
                         .inputs = in,
                         .input_count = count,
                         .outputs = outs,
                         .output_count = 1};
    mlp_must(mq_model_add_node(n->model, n->model->graph.node_count, &spec, &node, &n->err),
             &n->err);
    return node;
}

static void ints(net *n, mq_node *node, const char *name, int64_t value, size_t count)
{
    int64_t list[4] = {value, value, value, value};
    mlp_must(mq_node_set_ints(n->model, node, name, list, count, &n->err), &n->err);
}

static void init(net *n, const char *name, mq_dtype dtype, mq_shape shape, const void *data,
                 size_t bytes)
{
    mlp_must(mq_model_set_init(n->model, name, dtype, &shape, mq_span_of(data, bytes), &n->err),
             &n->err);
}

/* out = dequantized quantized x. */
static void quantize(net *n, const char *x, const char *out, mq_dtype dtype, int zero)
{
    char s[40], z[40], q[40];
    uint8_t byte = (uint8_t)zero;
    (void)snprintf(s, sizeof s, "%s.s", out);
    (void)snprintf(z, sizeof z, "%s.z", out);
    (void)snprintf(q, sizeof q, "%s.q", out);
    init(n, s, MQ_DT_F32, (mq_shape){.rank = 0}, &step_of_y, 4);
    init(n, z, dtype, (mq_shape){.rank = 0}, &byte, 1);
    (void)add(n, "QuantizeLinear", (const char *const[]){x, s, z}, 3, q);
    (void)add(n, "DequantizeLinear", (const char *const[]){q, s, z}, 3, out);
}

enum { MAPS_MAX = 48, WEIGHTS_MAX = 48 * 48 * 9 };

static void conv(net *n, const char *x, const char *y, const int64_t *d, int64_t stride,
                 int64_t group)
{
    char w[40], q[40], s[40], z[40], b[40];
    static int8_t weights[WEIGHTS_MAX];
    int8_t zeros[MAPS_MAX] = {0};
    float scales[MAPS_MAX];
    size_t count = (size_t)(d[0] * d[1] * d[2] * d[2]);
    for (size_t i = 0; i < count; i++) {
        weights[i] = (int8_t)((int)(mq_prng_next(&n->prng) % 255) - 127);
    }
    for (int64_t i = 0; i < d[0]; i++) {
        scales[i] = (1.0f + 0.1f * (float)(i % 5)) / (90.0f * (float)(d[1] * d[2]));
    }
    (void)snprintf(w, sizeof w, "%s.w", y);
    (void)snprintf(q, sizeof q, "%s.wq", y);
    (void)snprintf(s, sizeof s, "%s.ws", y);
    (void)snprintf(z, sizeof z, "%s.wz", y);
    (void)snprintf(b, sizeof b, "%s.b", y);
    init(n, q, MQ_DT_I8, (mq_shape){4, {d[0], d[1], d[2], d[2]}}, weights, count);
    init(n, s, MQ_DT_F32, (mq_shape){1, {d[0]}}, scales, (size_t)d[0] * 4);
    init(n, z, MQ_DT_I8, (mq_shape){1, {d[0]}}, zeros, (size_t)d[0]);
    mlp_init(n->model, b, &(mq_shape){1, {d[0]}}, 0.3f, &n->prng);
    mq_node *node = add(n, "DequantizeLinear", (const char *const[]){q, s, z}, 3, w);
    mlp_must(mq_node_set_int(n->model, node, "axis", 0, &n->err), &n->err);
    node = add(n, "Conv", (const char *const[]){x, w, b}, 3, y);
    ints(n, node, "pads", d[2] / 2, 4);
    ints(n, node, "strides", stride, 2);
    mlp_must(mq_node_set_int(n->model, node, "group", group, &n->err), &n->err);
}

#define DIMS(...) ((const int64_t[]){__VA_ARGS__})

static mq_model *network(void)
{
    net n = {.prng = {11}};
    mlp_must(mq_model_new(&n.model, "net", 0, &n.err), &n.err);
    quantize(&n, "x", "x0", MQ_DT_U8, 128);
    conv(&n, "x0", "c1", DIMS(32, 3, 3), 1, 1);
    (void)add(&n, "Relu", (const char *const[]){"c1"}, 1, "r1");
    quantize(&n, "r1", "x1", MQ_DT_U8, 0);
    mq_node *pool = add(&n, "MaxPool", (const char *const[]){"x1"}, 1, "p1");
    ints(&n, pool, "kernel_shape", 3, 2);
    ints(&n, pool, "strides", 2, 2);
    ints(&n, pool, "pads", 1, 4);
    quantize(&n, "p1", "x2", MQ_DT_U8, 0);
    conv(&n, "x2", "c2", DIMS(48, 32, 1), 1, 1);
    quantize(&n, "c2", "x3", MQ_DT_U8, 120);
    conv(&n, "x3", "c3", DIMS(48, 1, 3), 1, 48);
    quantize(&n, "c3", "x4", MQ_DT_I8, 3);
    conv(&n, "x4", "c4", DIMS(32, 48, 1), 1, 1);
    quantize(&n, "c4", "x5", MQ_DT_U8, 128);
    (void)add(&n, "Add", (const char *const[]){"x5", "x2"}, 2, "s5");
    (void)add(&n, "Relu", (const char *const[]){"s5"}, 1, "r5");
    quantize(&n, "r5", "x6", MQ_DT_U8, 0);
    conv(&n, "x6", "c6", DIMS(20, 32, 3), 2, 1);
    quantize(&n, "c6", "y", MQ_DT_U8, 128);
    (void)add(&n, "GlobalAveragePool", (const char *const[]){"x6"}, 1, "g");
    mlp_must(mq_model_set_input(n.model,
                                &(mq_value_info){.name = "x",
                                                 .dtype = MQ_DT_F32,
                                                 .rank = 4,
                                                 .dims = {-1, 3, -1, -1},
                                                 .dim_names = {"N", NULL, "H", "W"}},
                                &n.err),
             &n.err);
    for (int i = 0; i < 2; i++) {
        mlp_must(mq_model_set_output(n.model,
                                     &(mq_value_info){.name = i == 0 ? "y" : "g",
                                                      .dtype = MQ_DT_F32,
                                                      .rank = 4,
                                                      .dims = {-1, -1, -1, -1}},
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

static void bytes_give_what_floats_give(void **state)
{
    (void)state;
    mq_model *model = network();
    mq_session *bytes = session_of(model, false), *floats = session_of(model, true);
    mq_prng prng = {3};
    static float x[2 * 3 * 33 * 40];
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++) {
        x[i] = mlp_random(&prng, 2.0f);
    }
    static const int64_t sizes[][3] = {{1, 16, 16}, {2, 33, 40}, {1, 9, 17}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        mq_error err;
        const mq_tensor *a, *b;
        mq_shape shape = {4, {sizes[i][0], 3, sizes[i][1], sizes[i][2]}};
        size_t count = (size_t)(shape.dims[0] * 3 * shape.dims[2] * shape.dims[3]);
        mq_tensor in = {MQ_DT_F32, shape, x, count * sizeof *x};
        mlp_must(mq_session_run(bytes, &in, 1, &a, &err), &err);
        mlp_must(mq_session_run(floats, &in, 1, &b, &err), &err);
        for (int o = 0; o < 2; o++) {
            double worst = 0.0, largest = 0.0;
            assert_true(mq_shape_eq(&a[o].shape, &b[o].shape));
            for (size_t k = 0; k < a[o].bytes / 4; k++) {
                double u = (double)((const float *)a[o].data)[k];
                double v = (double)((const float *)b[o].data)[k];
                worst = fmax(worst, fabs(u - v));
                largest = fmax(largest, fabs(v));
            }
            assert_true(worst < 2.5 * (double)step_of_y);
            assert_true(largest > 10.0 * (double)step_of_y); /* something to compare */
        }
    }
    mq_session_stats with, without;
    mq_session_stats_get(bytes, &with);
    mq_session_stats_get(floats, &without);
    assert_true(!mq_dnnl_has_bytes() || with.step_count + 9 < without.step_count);
    mq_session_free(bytes);
    mq_session_free(floats);
    mq_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_give_what_floats_give),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Functions of one variable that inference needs now and then: trigonometric and hyperbolic ones,
 * Round, Mish, Swish, and the tests IsNaN and IsInf. By libm, so there are no gradients: training
 * promises bits that libm does not. */
#include "worker/ops/element.h"

#define FLOATS (MQ_T_FLOATS | MQ_T_HALF)

#define MAP(symbol, name_, since_, expr, cases_)                                                   \
    static mq_code run_##symbol(const mq_op_call *call, mq_error *err)                             \
    {                                                                                              \
        (void)err;                                                                                 \
        for (size_t i = 0, n = mq_elements(call->inputs[0]); i < n; i++) {                         \
            double x = mq_element(call->inputs[0], i);                                             \
            mq_element_set(call->outputs[0], i, (expr));                                           \
        }                                                                                          \
        return MQ_OK;                                                                              \
    }                                                                                              \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {1, 1},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{'T', FLOATS}},                                                                   \
        .flags = MQ_OP_ELEMENTWISE,                                                                \
        .shape = mq_shape_same,                                                                    \
        .run = run_##symbol,                                                                       \
        .cases = cases_,                                                                           \
    }

#define ANY "| f32[A,B]; | f64[A]; | f32[]"

MAP(sin, "Sin", 7, sin(x), ANY);
MAP(cos, "Cos", 7, cos(x), ANY);
MAP(tan, "Tan", 7, tan(x), ANY);
MAP(asin, "Asin", 7, asin(x), ANY);
MAP(acos, "Acos", 7, acos(x), ANY);
MAP(atan, "Atan", 7, atan(x), ANY);
MAP(sinh, "Sinh", 9, sinh(x), ANY);
MAP(cosh, "Cosh", 9, cosh(x), ANY);
MAP(asinh, "Asinh", 9, asinh(x), ANY);
MAP(acosh, "Acosh", 9, acosh(x), ANY);
MAP(atanh, "Atanh", 9, atanh(x), ANY);
MAP(round, "Round", 11, nearbyint(x), ANY); /* halves to even */
MAP(mish, "Mish", 18, x *tanh((x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x)))), ANY);

/* --- Swish: x * sigmoid(alpha x) --- */

typedef struct swish_attrs {
    float alpha;
} swish_attrs;

static mq_code swish_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    double alpha = (double)((const swish_attrs *)call->attrs)->alpha;
    for (size_t i = 0, n = mq_elements(call->inputs[0]); i < n; i++) {
        double x = mq_element(call->inputs[0], i);
        mq_element_set(call->outputs[0], i, x / (1.0 + exp(-alpha * x)));
    }
    return MQ_OK;
}

static const mq_attr_spec swish_specs[] = {
    {.name = "alpha", .type = MQ_ATTR_FLOAT, .offset = offsetof(swish_attrs, alpha), .f = 1.0f},
    {.name = NULL},
};

const mq_op mq_op_swish = {
    .name = "Swish",
    .domain = "",
    .since = 24,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{'T', FLOATS}},
    .flags = MQ_OP_ELEMENTWISE,
    .attrs_bytes = sizeof(swish_attrs),
    .specs = swish_specs,
    .shape = mq_shape_same,
    .run = swish_run,
    .cases = ANY "; alpha=0.5 | f32[A]",
};

/* --- IsNaN, IsInf --- */

typedef struct test_attrs {
    int64_t detect_negative, detect_positive;
    bool is_nan;
} test_attrs;

static mq_code nan_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    (void)err;
    ((test_attrs *)attrs)->is_nan = true;
    return MQ_OK;
}

static mq_code test_shape(const mq_op_call *call, mq_error *err)
{
    mq_code code = mq_shape_same(call, err);
    call->outputs[0]->dtype = MQ_DT_BOOL;
    return code;
}

static mq_code test_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const test_attrs *a = call->attrs;
    for (size_t i = 0, n = mq_elements(call->inputs[0]); i < n; i++) {
        double x = mq_element(call->inputs[0], i);
        bool is_found =
            a->is_nan ? isnan(x) : isinf(x) && (x > 0.0 ? a->detect_positive : a->detect_negative);
        ((uint8_t *)call->outputs[0]->data)[i] = is_found;
    }
    return MQ_OK;
}

static const mq_attr_spec nan_specs[] = {{.name = NULL}};
static const mq_attr_spec inf_specs[] = {
    {.name = "detect_negative",
     .type = MQ_ATTR_INT,
     .offset = offsetof(test_attrs, detect_negative),
     .i = 1},
    {.name = "detect_positive",
     .type = MQ_ATTR_INT,
     .offset = offsetof(test_attrs, detect_positive),
     .i = 1},
    {.name = NULL},
};

#define TEST(symbol, name_, since_, specs_, parse_)                                                \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {1, 1},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{'T', FLOATS}},                                                                   \
        .attrs_bytes = sizeof(test_attrs),                                                         \
        .specs = specs_,                                                                           \
        .parse = parse_,                                                                           \
        .shape = test_shape,                                                                       \
        .run = test_run,                                                                           \
        .cases = ANY,                                                                              \
    }
TEST(is_nan, "IsNaN", 9, nan_specs, nan_parse);
TEST(is_inf, "IsInf", 10, inf_specs, NULL);

/* Mod, and the operators on bits: BitwiseAnd, BitwiseOr, BitwiseXor, BitwiseNot, BitShift, BitCast.
 * onnx.ai/onnx/operators/onnx__Mod.html and its sisters. */
#include "worker/ops/copy.h"
#include "worker/ops/element.h"

typedef enum bits_kind {
    MOD,
    AND,
    OR,
    XOR,
    SHIFT,
} bits_kind;

typedef struct bits_attrs {
    bits_kind kind;
    int64_t fmod, to;
    mq_span direction;
    bool is_right;
} bits_attrs;

/* The sign is the divisor's (fmod: the dividend's); by zero it is 0, integers have no answer. */
static int64_t int_mod(int64_t x, int64_t z, bool is_fmod, bool is_u64)
{
    if (z == 0) {
        return 0;
    }
    if (is_u64) {
        return (int64_t)((uint64_t)x % (uint64_t)z);
    }
    int64_t r = z == -1 ? 0 : x % z;
    return !is_fmod && r != 0 && (r < 0) != (z < 0) ? r + z : r;
}

static double float_mod(double x, double z, bool is_fmod)
{
    double r = fmod(x, z);
    bool is_other = (r < 0.0) != (z < 0.0) && (r < 0.0 || r > 0.0);
    return !is_fmod && is_other ? r + z : r;
}

static int64_t shifted(int64_t x, int64_t by, bool is_right)
{
    uint64_t v = (uint64_t)x, n = (uint64_t)by;
    return n > 63 ? 0 : (int64_t)(is_right ? v >> n : v << n);
}

static int64_t combined(const bits_attrs *a, int64_t x, int64_t z, bool is_u64)
{
    switch (a->kind) {
    case AND:
        return x & z;
    case OR:
        return x | z;
    case XOR:
        return x ^ z;
    case SHIFT:
        return shifted(x, z, a->is_right);
    case MOD:
    default:
        return int_mod(x, z, a->fmod != 0, is_u64);
    }
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const bits_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *z = call->inputs[1], *y = call->outputs[0];
    mq_strides sx = mq_strides_of(&x->shape, &y->shape), sz = mq_strides_of(&z->shape, &y->shape);
    int64_t index[MQ_RANK_MAX] = {0};
    for (size_t i = 0, n = mq_elements(y); i < n; i++) {
        size_t ix = mq_offset(&sx, index, y->shape.rank), iz = mq_offset(&sz, index, y->shape.rank);
        if (mq_is_float(x->dtype)) {
            mq_element_set(y, i, float_mod(mq_element(x, ix), mq_element(z, iz), a->fmod != 0));
        } else {
            mq_element_set_int(
                y, i,
                combined(a, mq_element_int(x, ix), mq_element_int(z, iz), x->dtype == MQ_DT_U64));
        }
        mq_next_index(&y->shape, index);
    }
    return MQ_OK;
}

#define PARSE(symbol, kind_)                                                                       \
    static mq_code parse_##symbol(const mq_node *node, int64_t opset, void *attrs, mq_error *err)  \
    {                                                                                              \
        (void)node;                                                                                \
        (void)opset;                                                                               \
        (void)err;                                                                                 \
        ((bits_attrs *)attrs)->kind = kind_;                                                       \
        return MQ_OK;                                                                              \
    }
PARSE(mod, MOD)
PARSE(and, AND)
PARSE(or, OR)
PARSE(xor, XOR)

static mq_code parse_shift(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    bits_attrs *a = attrs;
    a->kind = SHIFT;
    a->is_right = mq_span_is(a->direction, "RIGHT");
    if (!a->is_right && !mq_span_is(a->direction, "LEFT")) {
        return mq_fail(err, MQ_E_ARG, "direction is neither LEFT nor RIGHT");
    }
    return MQ_OK;
}

static const mq_attr_spec none[] = {{.name = NULL}};
static const mq_attr_spec mod_specs[] = {
    {.name = "fmod", .type = MQ_ATTR_INT, .offset = offsetof(bits_attrs, fmod)},
    {.name = NULL},
};
static const mq_attr_spec shift_specs[] = {
    {.name = "direction",
     .type = MQ_ATTR_STRING,
     .offset = offsetof(bits_attrs, direction),
     .is_required = true},
    {.name = NULL},
};

#define ROW(symbol, name_, since_, kind, types_, specs_, cases_)                                   \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {2, 2},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{'T', types_}},                                                                   \
        .attrs_bytes = sizeof(bits_attrs),                                                         \
        .specs = specs_,                                                                           \
        .parse = parse_##kind,                                                                     \
        .shape = mq_shape_broadcast,                                                               \
        .run = run,                                                                                \
        .cases = cases_,                                                                           \
    }

ROW(mod, "Mod", 10, mod, MQ_T_NUMBERS | MQ_T_HALF, mod_specs,
    "| i32[A,B] i32[B]+; fmod=1 | f32[A,B] f32[A,1]; | i64[A]+ i64[A]+");
ROW(bitwise_and, "BitwiseAnd", 18, and, MQ_T_INTS, none, "| i32[A,B] i32[B]; | u8[A] u8[A]");
ROW(bitwise_or, "BitwiseOr", 18, or, MQ_T_INTS, none, "| i64[A,B] i64[A,1]; | u16[A] u16[A]");
ROW(bitwise_xor, "BitwiseXor", 18, xor, MQ_T_INTS, none, "| i32[A,B] i32[B]; | i8[A] i8[A]");
ROW(bit_shift, "BitShift", 11, shift, MQ_T_UNSIGNED, shift_specs,
    "direction=LEFT | u32[A,B] u32[B]; direction=RIGHT | u8[A] u8[A]");

static mq_code not_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const uint8_t *x = call->inputs[0]->data;
    uint8_t *y = call->outputs[0]->data;
    for (size_t i = 0; i < call->inputs[0]->bytes; i++) {
        y[i] = (uint8_t)~x[i];
    }
    return MQ_OK;
}

const mq_op mq_op_bitwise_not = {
    .name = "BitwiseNot",
    .domain = "",
    .since = 18,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{'T', MQ_T_INTS}},
    .flags = MQ_OP_ELEMENTWISE,
    .shape = mq_shape_same,
    .run = not_run,
    .cases = "| i32[A,B]; | u8[A]",
};

/* --- BitCast: the same bytes as another type of equal width --- */

static mq_code cast_shape(const mq_op_call *call, mq_error *err)
{
    const bits_attrs *a = call->attrs;
    mq_dtype to = a->to > 0 && a->to < 32 ? (mq_dtype)a->to : MQ_DT_NONE;
    size_t each = mq_dtype_bytes(call->inputs[0]->dtype);
    if (mq_dtype_bytes(to) != each) {
        return mq_fail(err, mq_dtype_bytes(to) == 0 ? MQ_E_UNSUPPORTED : MQ_E_ARG,
                       "%s cannot become element type %lld: widths differ",
                       mq_dtype_name(call->inputs[0]->dtype), (long long)a->to);
    }
    call->outputs[0]->dtype = to;
    call->outputs[0]->shape = call->inputs[0]->shape;
    return MQ_OK;
}

static mq_code cast_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    if (call->inputs[0]->bytes > 0) {
        memcpy(call->outputs[0]->data, call->inputs[0]->data, call->inputs[0]->bytes);
    }
    return MQ_OK;
}

static const mq_attr_spec cast_specs[] = {
    {.name = "to", .type = MQ_ATTR_INT, .offset = offsetof(bits_attrs, to), .is_required = true},
    {.name = NULL},
};

const mq_op mq_op_bit_cast = {
    .name = "BitCast",
    .domain = "",
    .since = 26,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{'T', MQ_T_FIXED}},
    .attrs_bytes = sizeof(bits_attrs),
    .specs = cast_specs,
    .shape = cast_shape,
    .run = cast_run,
    .cases = "to=6 | f32[A,B]; to=2 | i8[A]",
};

/* DepthToSpace and SpaceToDepth: blocks of the plane become channels and back.
 * onnx.ai/onnx/operators/onnx__DepthToSpace.html */
#include "worker/ops/copy.h"

typedef struct block_attrs {
    int64_t blocksize;
    mq_span mode;
    bool is_to_space;
} block_attrs;

static mq_code to_space_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    block_attrs *a = attrs;
    a->is_to_space = true;
    if (!mq_span_is(a->mode, "DCR") && !mq_span_is(a->mode, "CRD")) {
        return mq_fail(err, MQ_E_ARG, "mode is neither DCR nor CRD");
    }
    return MQ_OK;
}

static mq_code block_shape(const mq_op_call *call, mq_error *err)
{
    const block_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    int64_t b = a->blocksize;
    if (x->rank != 4 || b < 1 || b > 32768) {
        return mq_fail(err, MQ_E_ARG, "rank %d where 4 is due, blocksize %lld", x->rank,
                       (long long)b);
    }
    bool is_whole =
        a->is_to_space ? x->dims[1] % (b * b) == 0 : x->dims[2] % b == 0 && x->dims[3] % b == 0;
    if (!is_whole) {
        char text[128];
        return mq_fail(err, MQ_E_ARG, "%s does not divide into blocks of %lld",
                       mq_shape_text(x, text, sizeof text), (long long)b);
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape =
        a->is_to_space
            ? (mq_shape){4, {x->dims[0], x->dims[1] / (b * b), x->dims[2] * b, x->dims[3] * b}}
            : (mq_shape){4, {x->dims[0], x->dims[1] * b * b, x->dims[2] / b, x->dims[3] / b}};
    return MQ_OK;
}

static mq_code block_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const block_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    const mq_tensor *wide = a->is_to_space ? y : x, *deep = a->is_to_space ? x : y;
    int64_t b = a->blocksize, c = wide->shape.dims[1], h = wide->shape.dims[2];
    int64_t w = wide->shape.dims[3], each = (int64_t)mq_each(x);
    bool is_crd = a->is_to_space && mq_span_is(a->mode, "CRD");
    for (int64_t i = 0, n = (int64_t)mq_elements(x); i < n; i++) {
        int64_t px = i % w, py = i / w % h, channel = i / w / h % c, image = i / w / h / c;
        int64_t block = py % b * b + px % b;
        int64_t depth = is_crd ? channel * b * b + block : block * c + channel;
        int64_t at = ((image * deep->shape.dims[1] + depth) * (h / b) + py / b) * (w / b) + px / b;
        int64_t from = a->is_to_space ? at : i, to = a->is_to_space ? i : at;
        memcpy((uint8_t *)y->data + to * each, (const uint8_t *)x->data + from * each,
               (size_t)each);
    }
    return MQ_OK;
}

static const mq_attr_spec to_space_specs[] = {
    {.name = "blocksize",
     .type = MQ_ATTR_INT,
     .offset = offsetof(block_attrs, blocksize),
     .is_required = true},
    {.name = "mode", .type = MQ_ATTR_STRING, .offset = offsetof(block_attrs, mode), .s = "DCR"},
    {.name = NULL},
};
static const mq_attr_spec to_depth_specs[] = {
    {.name = "blocksize",
     .type = MQ_ATTR_INT,
     .offset = offsetof(block_attrs, blocksize),
     .is_required = true},
    {.name = NULL},
};

#define BLOCKS(symbol, name_, specs_, parse_, cases_)                                              \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = 1,                                                                                \
        .in = {1, 1},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{'T', MQ_T_FIXED}},                                                               \
        .attrs_bytes = sizeof(block_attrs),                                                        \
        .specs = specs_,                                                                           \
        .parse = parse_,                                                                           \
        .shape = block_shape,                                                                      \
        .run = block_run,                                                                          \
        .cases = cases_,                                                                           \
    }
BLOCKS(depth_to_space, "DepthToSpace", to_space_specs, to_space_parse,
       "blocksize=2 | f32[A,8,B,C]; blocksize=2 mode=CRD | u8[A,4,B,C]");
BLOCKS(space_to_depth, "SpaceToDepth", to_depth_specs, NULL, "blocksize=2 | f32[A,B,4,6]");

/* PackedConv and Unpack; see packed.h. oneDNN computes the convolution; what it has no kernel for
 * goes through plain copies and Conv's own kernels. */
#include "worker/ops/packed.h"

#include <math.h>

#include "shared/base/math.h"
#include "worker/ops/conv.h"

static int64_t blocks_of(int64_t channels, int64_t block)
{
    return (channels + block - 1) / block;
}

static mq_shape packed_shape(const mq_shape *plain, int64_t block)
{
    mq_shape s = *plain;
    s.dims[1] = blocks_of(plain->dims[1], block);
    s.dims[s.rank++] = block;
    return s;
}

/* --- between layouts --- */

/* One image. */
static void unpack(const float *x, int64_t channels, int64_t block, int64_t area, float *y)
{
    if (area == 1) {
        memcpy(y, x, (size_t)channels * sizeof *y);
        return;
    }
    for (int64_t c = 0; c < channels; c++) {
        const float *from = x + c / block * area * block + c % block;
        for (int64_t i = 0; i < area; i++) {
            y[c * area + i] = from[i * block];
        }
    }
}

/* One image; add: to what is there. */
static void pack(const float *x, int64_t channels, int64_t block, int64_t area, bool adds, float *y)
{
    for (int64_t c = 0; c < blocks_of(channels, block) * block; c++) {
        float *to = y + c / block * area * block + c % block;
        for (int64_t i = 0; i < area; i++) {
            float v = c < channels ? x[c * area + i] : 0.0f;
            to[i * block] = adds ? to[i * block] + v : v;
        }
    }
}

static mq_code unpack_shape(const mq_op_call *call, mq_error *err)
{
    const mq_unpack_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    if (x->rank < 3 || blocks_of(a->channels, x->dims[x->rank - 1]) != x->dims[1]) {
        return mq_fail(err, MQ_E_ARG, "%lld channels are not what the packed tensor has",
                       (long long)a->channels);
    }
    call->outputs[0]->dtype = MQ_DT_F32;
    call->outputs[0]->shape = *x;
    call->outputs[0]->shape.rank--;
    call->outputs[0]->shape.dims[1] = a->channels;
    return MQ_OK;
}

static mq_code unpack_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_shape *x = &call->inputs[0]->shape, *y = &call->outputs[0]->shape;
    int64_t area = (int64_t)mq_dims_product(y, 2, y->rank), block = x->dims[x->rank - 1];
    const float *from = call->inputs[0]->data;
    float *to = call->outputs[0]->data;
    for (int64_t n = 0; n < y->dims[0]; n++) {
        unpack(from + n * x->dims[1] * area * block, y->dims[1], block, area,
               to + n * y->dims[1] * area);
    }
    return MQ_OK;
}

static const mq_attr_spec unpack_specs[] = {
    {.name = "channels", .type = MQ_ATTR_INT, .offset = offsetof(mq_unpack_attrs, channels)},
    {.name = NULL},
};

const mq_op mq_op_unpack = {
    .name = "Unpack",
    .domain = "maasq",
    .since = 1,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{0, MQ_T(MQ_DT_F32)}},
    .flags = MQ_OP_INTERNAL,
    .attrs_bytes = sizeof(mq_unpack_attrs),
    .specs = unpack_specs,
    .shape = unpack_shape,
    .run = unpack_run,
    .cases = "channels=5 | f32[A,2,B,C,4]; channels=8 | f32[A,1,1,8]",
};

/* --- PackedConv --- */

/* The call as Conv would see it: shapes only, data where plain copies will lie. */
typedef struct plain {
    mq_tensor x, y;
    const mq_tensor *inputs[3];
    mq_tensor *outputs[1];
    mq_op_call call;
} plain;

static mq_code plain_of(const mq_op_call *call, plain *p, mq_error *err)
{
    const mq_packed_conv_attrs *a = call->attrs;
    const mq_tensor *w = call->inputs[1];
    p->x = *call->inputs[0];
    p->y = (mq_tensor){.dtype = MQ_DT_F32};
    if (a->x_is_packed && p->x.shape.rank > 2) {
        p->x.shape.rank--;
        int64_t channels = w->shape.dims[1] * a->window.group;
        if (blocks_of(channels, a->block) != p->x.shape.dims[1]) {
            return mq_fail(err, MQ_E_ARG, "the input has not the %lld channels of the weights",
                           (long long)channels);
        }
        p->x.shape.dims[1] = channels;
    }
    p->inputs[0] = &p->x;
    p->inputs[1] = w;
    p->inputs[2] = mq_call_input(call, 2);
    p->outputs[0] = &p->y;
    p->call = (mq_op_call){.op = &mq_op_conv,
                           .attrs = &a->window,
                           .inputs = p->inputs,
                           .outputs = p->outputs,
                           .input_count = p->inputs[2] == NULL ? 2 : 3,
                           .output_count = 1,
                           .kernels = MQ_KERNELS_OWN};
    mq_code code = mq_op_conv.shape(&p->call, err);
    p->x.bytes = mq_elements(&p->x) * sizeof(float);
    p->y.bytes = mq_elements(&p->y) * sizeof(float);
    return code;
}

static mq_code conv_shape(const mq_op_call *call, mq_error *err)
{
    const mq_packed_conv_attrs *a = call->attrs;
    const mq_tensor *sum = mq_call_input(call, 3);
    plain p;
    mq_code code = plain_of(call, &p, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_tensor *y = call->outputs[0];
    y->dtype = MQ_DT_F32;
    y->shape = a->y_is_packed ? packed_shape(&p.y.shape, a->block) : p.y.shape;
    if (sum != NULL && !mq_shape_eq(&sum->shape, &y->shape)) {
        char ts[128], ty[128];
        return mq_fail(err, MQ_E_ARG, "a sum of %s and %s is not possible here",
                       mq_shape_text(&y->shape, ty, sizeof ty),
                       mq_shape_text(&sum->shape, ts, sizeof ts));
    }
    return MQ_OK;
}

static mq_dnnl_conv *dnnl_of(const mq_op_call *call)
{
    return (mq_dnnl_conv *)(uintptr_t)call->state;
}

static mq_code conv_prepare(const mq_op_call *call, mq_arena *arena, const void **state,
                            mq_error *err)
{
    (void)err;
    const mq_packed_conv_attrs *a = call->attrs;
    mq_dnnl_conv_spec spec;
    *state = NULL;
    if (call->kernels != 0 || !mq_conv_spec_of(call, &a->window, &spec)) {
        return MQ_OK;
    }
    spec.x_is_packed = a->x_is_packed;
    spec.y_is_packed = a->y_is_packed;
    spec.has_sum = mq_call_input(call, 3) != NULL;
    spec.low = a->low;
    spec.high = a->high;
    *state = mq_dnnl_conv_new(&spec, arena);
    return MQ_OK;
}

static void conv_release(const void *state)
{
    mq_dnnl_conv_free((mq_dnnl_conv *)(uintptr_t)state);
}

static mq_dnnl_conv_size size_of(const plain *p, const mq_op_call *call)
{
    const mq_packed_conv_attrs *a = call->attrs;
    mq_window w = {0};
    (void)!mq_window_of(&a->window, &p->x.shape, call->inputs[1]->shape.dims + 2, &w, NULL);
    return mq_conv_size_of(&w, p->x.shape.dims[0]);
}

static mq_code conv_ready(const mq_op_call *call, mq_error *err)
{
    plain p;
    mq_code code = plain_of(call, &p, err);
    if (code == MQ_OK && p.x.bytes > 0 && p.y.bytes > 0) {
        mq_dnnl_conv_size size = size_of(&p, call);
        (void)mq_dnnl_conv_ready(dnnl_of(call), &size);
    }
    return code;
}

/* Room for plain copies of both sides, and what Conv wants. */
typedef struct room {
    size_t x_at, y_at, conv_at, end;
} room;

static room room_of(const plain *p)
{
    room r = {.y_at = mq_align_up(p->x.bytes, 64)};
    r.conv_at = r.y_at + mq_align_up(p->y.bytes, 64);
    r.end = r.conv_at + mq_op_conv.scratch(&p->call);
    return r;
}

static size_t conv_scratch(const mq_op_call *call)
{
    plain p;
    if (plain_of(call, &p, NULL) != MQ_OK) {
        return 0;
    }
    mq_dnnl_conv_size size = size_of(&p, call);
    if (mq_dnnl_conv_has(dnnl_of(call), &size)) {
        return mq_dnnl_conv_scratch(dnnl_of(call), &size);
    }
    return room_of(&p).end;
}

static void clamp(float *y, size_t count, float low, float high)
{
    for (size_t i = 0; i < count; i++) {
        float v = y[i] < low ? low : y[i];
        y[i] = v > high ? high : v;
    }
}

/* By way of plain copies. y holds the sum when there is one. */
static mq_code run_plain(const mq_op_call *call, plain *p, mq_error *err)
{
    const mq_packed_conv_attrs *a = call->attrs;
    room r = room_of(p);
    uint8_t *memory = call->scratch;
    int64_t in = (int64_t)mq_dims_product(&p->x.shape, 2, p->x.shape.rank);
    int64_t out = (int64_t)mq_dims_product(&p->y.shape, 2, p->y.shape.rank);
    int64_t channels = p->x.shape.dims[1], maps = p->y.shape.dims[1];
    float *x = (float *)(void *)(memory + r.x_at), *y = (float *)(void *)(memory + r.y_at);
    for (int64_t n = 0; a->x_is_packed && n < p->x.shape.dims[0]; n++) {
        unpack((const float *)call->inputs[0]->data +
                   n * blocks_of(channels, a->block) * a->block * in,
               channels, a->block, in, x + n * channels * in);
    }
    p->x.data = a->x_is_packed ? x : call->inputs[0]->data;
    p->y.data = y;
    p->call.scratch = memory + r.conv_at;
    mq_code code = mq_op_conv.run(&p->call, err);
    bool adds = mq_call_input(call, 3) != NULL;
    float *to = call->outputs[0]->data;
    for (int64_t n = 0; n < p->y.shape.dims[0] && code == MQ_OK; n++) {
        if (a->y_is_packed) {
            pack(y + n * maps * out, maps, a->block, out, adds,
                 to + n * blocks_of(maps, a->block) * a->block * out);
        } else {
            memcpy(to + n * maps * out, y + n * maps * out, (size_t)(maps * out) * sizeof *to);
        }
    }
    clamp(to, mq_elements(call->outputs[0]), a->low, a->high);
    return code;
}

static mq_code conv_run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *sum = mq_call_input(call, 3);
    mq_tensor *y = call->outputs[0];
    plain p;
    mq_code code = plain_of(call, &p, err);
    if (code != MQ_OK || mq_elements(y) == 0) {
        return code;
    }
    if (sum != NULL && sum->data != y->data) {
        memcpy(y->data, sum->data, mq_elements(y) * sizeof(float));
    }
    mq_dnnl_conv_size size = size_of(&p, call);
    if (mq_dnnl_conv_has(dnnl_of(call), &size)) {
        bool done =
            mq_dnnl_conv_run(dnnl_of(call), &size, call->inputs[0]->data, y->data, call->scratch);
        return done ? MQ_OK : mq_fail(err, MQ_E_LIMIT, "oneDNN had no memory for a convolution");
    }
    return run_plain(call, &p, err);
}

static double conv_flop(const mq_op_call *call)
{
    plain p;
    return plain_of(call, &p, NULL) == MQ_OK ? mq_op_conv.flop(&p.call) : 0.0;
}

/* Tests make calls of text; fusion fills the struct itself. */
static const mq_attr_spec conv_specs[] = {
    MQ_WINDOW_INTS(strides),
    MQ_WINDOW_INTS(pads),
    MQ_WINDOW_INTS(dilations),
    MQ_WINDOW_INT(group, 1),
    MQ_WINDOW_AUTO_PAD,
    {.name = "block", .type = MQ_ATTR_INT, .offset = offsetof(mq_packed_conv_attrs, block), .i = 4},
    {.name = "low",
     .type = MQ_ATTR_FLOAT,
     .offset = offsetof(mq_packed_conv_attrs, low),
     .f = -INFINITY},
    {.name = "high",
     .type = MQ_ATTR_FLOAT,
     .offset = offsetof(mq_packed_conv_attrs, high),
     .f = INFINITY},
    {.name = "x_is_packed",
     .type = MQ_ATTR_INT,
     .offset = offsetof(mq_packed_conv_attrs, x_is_packed)},
    {.name = "y_is_packed",
     .type = MQ_ATTR_INT,
     .offset = offsetof(mq_packed_conv_attrs, y_is_packed)},
    {.name = NULL},
};

const mq_op mq_op_packed_conv = {
    .name = "PackedConv",
    .domain = "maasq",
    .since = 1,
    .in = {2, 4},
    .out = {1, 1},
    .args = {{0, MQ_T(MQ_DT_F32)}},
    .flags = MQ_OP_INTERNAL | MQ_OP_OVER_LAST,
    .attrs_bytes = sizeof(mq_packed_conv_attrs),
    .specs = conv_specs,
    .shape = conv_shape,
    .scratch = conv_scratch,
    .prepare = conv_prepare,
    .release = conv_release,
    .ready = conv_ready,
    .run = conv_run,
    .flop = conv_flop,
    .cases = "pads=(1,1,1,1) y_is_packed=1 | f32[N,3,5,5] f32[6,3,3,3] f32[6];"
             "x_is_packed=1 strides=(2,2) | f32[N,2,5,6,4] f32[3,7,2,2];"
             "x_is_packed=1 y_is_packed=1 low=0.0 high=6.0 | f32[1,1,4,4,4] f32[5,4,1,1] f32[5] "
             "f32[1,2,4,4,4]",
};

/* PackedQConv; see packed_q.h. What oneDNN has no kernel for goes through plain copies and
 * QLinearConv's own loops. */
#include "worker/ops/packed_q.h"

#include "shared/base/math.h"
#include "worker/ops/conv.h"

enum { INPUTS_MAX = 9 };

/* The call as QLinearConv would see it: shapes only. */
typedef struct plain {
    mq_tensor x, y;
    const mq_tensor *inputs[INPUTS_MAX];
    mq_tensor *outputs[1];
    mq_op_call call;
} plain;

static mq_code plain_of(const mq_op_call *call, plain *p, mq_error *err)
{
    const mq_packed_qconv_attrs *a = call->attrs;
    memcpy(p->inputs, call->inputs, call->input_count * sizeof(p->inputs[0]));
    p->x = *call->inputs[0];
    p->y = (mq_tensor){.dtype = MQ_DT_NONE};
    if (p->x.shape.rank != 4) {
        return mq_fail(err, MQ_E_ARG, "rank %d where images have 4", p->x.shape.rank);
    }
    if (a->x_is_packed != 0) {
        const int64_t *d = call->inputs[0]->shape.dims;
        p->x.shape = (mq_shape){4, {d[0], d[3], d[1], d[2]}};
    }
    p->inputs[0] = &p->x;
    p->outputs[0] = &p->y;
    p->call = *call;
    p->call.op = &mq_op_qlinear_conv;
    p->call.attrs = &a->window;
    p->call.inputs = p->inputs;
    p->call.outputs = p->outputs;
    p->call.state = NULL;
    mq_code code = mq_op_qlinear_conv.shape(&p->call, err);
    p->y.bytes = code == MQ_OK ? mq_elements(&p->y) : 0;
    return code;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const mq_packed_qconv_attrs *a = call->attrs;
    plain p;
    mq_code code = plain_of(call, &p, err);
    if (code == MQ_OK) {
        const int64_t *d = p.y.shape.dims;
        call->outputs[0]->dtype = p.y.dtype;
        call->outputs[0]->shape =
            a->y_is_packed != 0 ? (mq_shape){4, {d[0], d[2], d[3], d[1]}} : p.y.shape;
    }
    return code;
}

static mq_dnnl_conv *dnnl_of(const mq_op_call *call)
{
    return (mq_dnnl_conv *)(uintptr_t)call->state;
}

static mq_code prepare(const mq_op_call *call, mq_arena *arena, const void **state, mq_error *err)
{
    (void)err;
    const mq_packed_qconv_attrs *a = call->attrs;
    mq_dnnl_conv_spec spec;
    *state = NULL;
    if (call->kernels == 0 && mq_dnnl_has_bytes() &&
        mq_qconv_spec_of(call, &a->window, true, arena, &spec)) {
        spec.x_is_packed = a->x_is_packed != 0;
        spec.y_is_packed = a->y_is_packed != 0;
        *state = mq_dnnl_conv_new(&spec, arena);
    }
    return MQ_OK;
}

static void release(const void *state)
{
    mq_dnnl_conv_free((mq_dnnl_conv *)(uintptr_t)state);
}

static mq_dnnl_conv_size size_of(const plain *p)
{
    mq_window w = {0};
    (void)!mq_window_of(p->call.attrs, &p->x.shape, p->inputs[3]->shape.dims + 2, &w, NULL);
    return mq_conv_size_of(&w, p->x.shape.dims[0]);
}

static mq_code ready(const mq_op_call *call, mq_error *err)
{
    plain p;
    mq_code code = plain_of(call, &p, err);
    if (code == MQ_OK && p.x.bytes > 0 && p.y.bytes > 0) {
        mq_dnnl_conv_size size = size_of(&p);
        (void)mq_dnnl_conv_ready(dnnl_of(call), &size);
    }
    return code;
}

static size_t scratch(const mq_op_call *call)
{
    plain p;
    if (plain_of(call, &p, NULL) != MQ_OK) {
        return 0;
    }
    mq_dnnl_conv_size size = size_of(&p);
    if (mq_dnnl_conv_has(dnnl_of(call), &size)) {
        return mq_dnnl_conv_scratch(dnnl_of(call), &size);
    }
    return mq_align_up(mq_elements(&p.x), 64) + mq_align_up(p.y.bytes, 64) +
           mq_op_qlinear_conv.scratch(&p.call);
}

/* One image from [area][channels] to [channels][area] (or the other way, sizes swapped). */
static void turn(const uint8_t *x, int64_t rows, int64_t columns, uint8_t *y)
{
    for (int64_t c = 0; c < columns; c++) {
        for (int64_t r = 0; r < rows; r++) {
            y[c * rows + r] = x[r * columns + c];
        }
    }
}

static mq_code run_plain(const mq_op_call *call, plain *p, mq_error *err)
{
    const mq_packed_qconv_attrs *a = call->attrs;
    uint8_t *x = call->scratch, *y = x + mq_align_up(mq_elements(&p->x), 64);
    const int64_t *dx = p->x.shape.dims, *dy = p->y.shape.dims;
    int64_t in = dx[2] * dx[3], out = dy[2] * dy[3];
    for (int64_t n = 0; a->x_is_packed != 0 && n < dx[0]; n++) {
        const uint8_t *from = (const uint8_t *)call->inputs[0]->data + n * in * dx[1];
        turn(from, in, dx[1], x + n * in * dx[1]);
    }
    p->x.data = a->x_is_packed != 0 ? x : call->inputs[0]->data;
    p->y.data = y;
    p->call.scratch = y + mq_align_up(p->y.bytes, 64);
    mq_code code = mq_op_qlinear_conv.run(&p->call, err);
    uint8_t *to = call->outputs[0]->data;
    if (a->y_is_packed == 0) {
        memcpy(to, y, p->y.bytes);
    }
    for (int64_t n = 0; a->y_is_packed != 0 && n < dy[0]; n++) {
        turn(y + n * out * dy[1], dy[1], out, to + n * out * dy[1]);
    }
    return code;
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    plain p;
    mq_code code = plain_of(call, &p, err);
    if (code != MQ_OK || p.y.bytes == 0) {
        return code;
    }
    mq_dnnl_conv_size size = size_of(&p);
    bool done = mq_dnnl_conv_has(dnnl_of(call), &size);
    if (done) {
        done = mq_dnnl_conv_run(dnnl_of(call), &size, call->inputs[0]->data, call->outputs[0]->data,
                                call->scratch);
        return done ? MQ_OK : mq_fail(err, MQ_E_LIMIT, "oneDNN had no memory for a convolution");
    }
    return run_plain(call, &p, err);
}

static const mq_attr_spec specs[] = {
    MQ_WINDOW_AUTO_PAD,
    MQ_WINDOW_INTS(strides),
    MQ_WINDOW_INTS(pads),
    MQ_WINDOW_INTS(dilations),
    MQ_WINDOW_INT(group, 1),
    {.name = "x_is_packed",
     .type = MQ_ATTR_INT,
     .offset = offsetof(mq_packed_qconv_attrs, x_is_packed)},
    {.name = "y_is_packed",
     .type = MQ_ATTR_INT,
     .offset = offsetof(mq_packed_qconv_attrs, y_is_packed)},
    {.name = NULL},
};

#define BYTES (MQ_T(MQ_DT_U8) | MQ_T(MQ_DT_I8))

const mq_op mq_op_packed_qconv = {
    .name = "PackedQConv",
    .domain = "maasq",
    .since = 1,
    .in = {8, INPUTS_MAX},
    .out = {1, 1},
    .args = {{0, BYTES},
             {0, MQ_T(MQ_DT_F32)},
             {0, BYTES},
             {0, BYTES},
             {0, MQ_T(MQ_DT_F32)},
             {0, BYTES},
             {0, MQ_T(MQ_DT_F32)},
             {0, BYTES | MQ_T(MQ_DT_I32)}},
    .flags = MQ_OP_INTERNAL,
    .attrs_bytes = sizeof(mq_packed_qconv_attrs),
    .specs = specs,
    .shape = shape,
    .scratch = scratch,
    .prepare = prepare,
    .release = release,
    .ready = ready,
    .run = run,
    .cases = "x_is_packed=1 pads=(1,1,1,1) | u8[2,5,4,6] f32{0.02} u8{3} i8[3,6,3,3] "
             "f32{0.1,0.2,0.3} i8{0,0,0} f32{0.5} u8{128} i32[3];"
             "y_is_packed=1 strides=(2,2) | i8[1,6,4,4] f32{0.5} i8{1} i8[2,6,1,1] f32{0.25} "
             "i8{0} f32{1.5} i8{-3};"
             "x_is_packed=1 y_is_packed=1 | u8[1,3,3,4] f32{0.5} u8{1} i8[5,4,2,2] f32{0.25} "
             "i8{0} f32{1.5} u8{3}",
};

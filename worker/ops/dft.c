/* DFT and STFT. Complex numbers are a last axis of 2, real ones of 1.
 * onnx.ai/onnx/operators/onnx__DFT.html, onnx__STFT.html */
#include "worker/ops/element.h"
#include "worker/ops/fft.h"

#define REAL_TYPES (MQ_T_FLOATS | MQ_T_HALF)

typedef struct dft_attrs {
    int64_t axis, inverse, onesided;
} dft_attrs;

typedef struct dft_plan {
    int32_t axis;
    size_t parts; /* 1: real, 2: complex */
    size_t in, n; /* points there are, length of the transform */
    size_t out;   /* points wanted */
    bool is_half; /* the input is the first half of a Hermitian spectrum */
} dft_plan;

static mq_code one_number(const mq_tensor *t, const char *what, int64_t *out, mq_error *err)
{
    if (t != NULL) {
        if (mq_elements(t) != 1) {
            return mq_fail(err, MQ_E_ARG, "%s must be one number", what);
        }
        *out = mq_element_int(t, 0);
    }
    return MQ_OK;
}

static mq_code plan_of(const mq_op_call *call, dft_plan *p, mq_error *err)
{
    const dft_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    int64_t axis = a->axis, length;
    if (x->rank < 2 || x->dims[x->rank - 1] < 1 || x->dims[x->rank - 1] > 2) {
        return mq_fail(err, MQ_E_ARG, "input must end in an axis of 1 (real) or 2 (complex)");
    }
    mq_code code = one_number(mq_call_input(call, 2), "axis", &axis, err);
    if (code == MQ_OK) {
        code = mq_axis(axis, x->rank, &p->axis, err);
    }
    if (code == MQ_OK && p->axis == x->rank - 1) {
        code = mq_fail(err, MQ_E_ARG, "axis %d is that of real and imaginary parts", p->axis);
    }
    if (code != MQ_OK) {
        return code;
    }
    p->parts = (size_t)x->dims[x->rank - 1];
    p->in = (size_t)x->dims[p->axis];
    p->is_half = a->inverse != 0 && a->onesided != 0;
    length = p->is_half ? 2 * ((int64_t)p->in - 1) : (int64_t)p->in;
    code = one_number(mq_call_input(call, 1), "dft_length", &length, err);
    if (code == MQ_OK && (length < 1 || length > (int64_t)MQ_FFT_LENGTH_MAX)) {
        code = mq_fail(err, MQ_E_ARG, "dft_length is %lld, allowed are 1 to %zu", (long long)length,
                       MQ_FFT_LENGTH_MAX);
    }
    p->n = code == MQ_OK ? (size_t)length : 1;
    p->out = a->onesided != 0 && a->inverse == 0 ? p->n / 2 + 1 : p->n;
    return code;
}

static mq_code dft_shape(const mq_op_call *call, mq_error *err)
{
    dft_plan p = {0};
    mq_code code = plan_of(call, &p, err);
    if (code == MQ_OK) {
        mq_tensor *y = call->outputs[0];
        y->dtype = call->inputs[0]->dtype;
        y->shape = call->inputs[0]->shape;
        y->shape.dims[p.axis] = (int64_t)p.out;
        y->shape.dims[y->shape.rank - 1] = p.is_half ? 1 : 2;
    }
    return code;
}

static size_t dft_scratch(const mq_op_call *call)
{
    dft_plan p = {0};
    mq_error err;
    return plan_of(call, &p, &err) == MQ_OK ? (p.n + mq_fft_work(p.n)) * sizeof(mq_complex) : 0;
}

/* Points base, base + step, ... of the input; what is missing is 0, or mirrored. */
static void gather(const mq_tensor *x, const dft_plan *p, size_t base, size_t step, mq_complex *to)
{
    size_t given = p->is_half ? p->n / 2 + 1 : p->n;
    for (size_t i = 0; i < given; i++) {
        size_t at = base + i * step;
        to[i] = (mq_complex){0.0, 0.0};
        if (i < p->in) {
            to[i] = (mq_complex){mq_element(x, at), p->parts == 2 ? mq_element(x, at + 1) : 0.0};
        }
    }
    for (size_t i = given; i < p->n; i++) {
        to[i] = (mq_complex){to[p->n - i].re, -to[p->n - i].im};
    }
}

static mq_code dft_run(const mq_op_call *call, mq_error *err)
{
    const dft_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0], *y = call->outputs[0];
    dft_plan p = {0};
    mq_code code = plan_of(call, &p, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_complex *points = call->scratch, *work = points + p.n;
    size_t outer = mq_dims_product(&x->shape, 0, p.axis), parts = p.is_half ? 1 : 2;
    size_t inner = mq_dims_product(&x->shape, p.axis + 1, x->shape.rank - 1);
    double scale = a->inverse != 0 ? 1.0 / (double)p.n : 1.0;
    for (size_t o = 0; o < outer * inner; o++) {
        size_t row = o / inner, column = o % inner;
        gather(x, &p, (row * p.in * inner + column) * p.parts, inner * p.parts, points);
        mq_fft(points, p.n, a->inverse != 0, work);
        for (size_t i = 0; i < p.out; i++) {
            size_t at = ((row * p.out + i) * inner + column) * parts;
            mq_element_set(y, at, points[i].re * scale);
            if (parts == 2) {
                mq_element_set(y, at + 1, points[i].im * scale);
            }
        }
    }
    return MQ_OK;
}

#define DFT_INT(name_, value_)                                                                     \
    {                                                                                              \
        .name = #name_, .type = MQ_ATTR_INT, .offset = offsetof(dft_attrs, name_), .i = (value_)   \
    }
static const mq_attr_spec specs_17[] = {
    DFT_INT(axis, 1), DFT_INT(inverse, 0), DFT_INT(onesided, 0), {.name = NULL}};
static const mq_attr_spec specs_20[] = {DFT_INT(inverse, 0), DFT_INT(onesided, 0), {.name = NULL}};

static mq_code parse_20(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    (void)err;
    ((dft_attrs *)attrs)->axis = -2;
    return MQ_OK;
}

const mq_op mq_op_dft_17 = {
    .name = "DFT",
    .domain = "",
    .since = 17,
    .in = {1, 2},
    .out = {1, 1},
    .args = {{0, REAL_TYPES}, {0, MQ_T_INDEX}},
    .shape_inputs = 2,
    .attrs_bytes = sizeof(dft_attrs),
    .specs = specs_17,
    .shape = dft_shape,
    .scratch = dft_scratch,
    .run = dft_run,
    .cases = "| f32[A,8,1]; axis=1 onesided=1 | f64[A,7,B,2] i64{5}; inverse=1 | f32[A,6,2]",
};

const mq_op mq_op_dft_20 = {
    .name = "DFT",
    .domain = "",
    .since = 20,
    .in = {1, 3},
    .out = {1, 1},
    .args = {{0, REAL_TYPES}, {0, MQ_T_INDEX}, {0, MQ_T(MQ_DT_I64)}},
    .shape_inputs = 6,
    .attrs_bytes = sizeof(dft_attrs),
    .specs = specs_20,
    .parse = parse_20,
    .shape = dft_shape,
    .scratch = dft_scratch,
    .run = dft_run,
    .cases = "| f32[A,5,1]; onesided=1 | f32[8,A,1] i64{12} i64{0}; "
             "inverse=1 onesided=1 | f64[A,5,2]; inverse=1 | f32[A,3,2] - i64{-2}",
};

/* --- STFT: frames of the signal, each times the window, each transformed --- */

typedef struct stft_attrs {
    int64_t onesided;
} stft_attrs;

typedef struct stft_plan {
    size_t step, length, frames, bins, parts;
} stft_plan;

static mq_code stft_plan_of(const mq_op_call *call, stft_plan *p, mq_error *err)
{
    const stft_attrs *a = call->attrs;
    const mq_shape *x = &call->inputs[0]->shape;
    const mq_tensor *window = mq_call_input(call, 2);
    int64_t step = 0, length = x->rank > 1 ? x->dims[1] : 0;
    if (x->rank < 2 || x->rank > 3 || (x->rank == 3 && (x->dims[2] < 1 || x->dims[2] > 2))) {
        return mq_fail(err, MQ_E_ARG, "signal must be [batch, length, 1 or 2]");
    }
    if (window != NULL) {
        length = (int64_t)mq_elements(window);
    }
    mq_code code = one_number(call->inputs[1], "frame_step", &step, err);
    if (code == MQ_OK) {
        code = one_number(mq_call_input(call, 3), "frame_length", &length, err);
    }
    if (code == MQ_OK &&
        (step < 1 || length < 1 || length > x->dims[1] || length > (int64_t)MQ_FFT_LENGTH_MAX ||
         (window != NULL && (int64_t)mq_elements(window) != length))) {
        code = mq_fail(err, MQ_E_ARG,
                       "frame_step %lld, frame_length %lld do not fit a signal of %lld and its "
                       "window",
                       (long long)step, (long long)length, (long long)x->dims[1]);
    }
    if (code == MQ_OK) {
        size_t n = (size_t)length;
        *p = (stft_plan){(size_t)step, n, (size_t)((x->dims[1] - length) / step + 1),
                         a->onesided != 0 ? n / 2 + 1 : n, x->rank == 3 ? (size_t)x->dims[2] : 1};
    }
    return code;
}

static mq_code stft_shape(const mq_op_call *call, mq_error *err)
{
    stft_plan p = {0};
    mq_code code = stft_plan_of(call, &p, err);
    if (code == MQ_OK) {
        call->outputs[0]->dtype = call->inputs[0]->dtype;
        call->outputs[0]->shape =
            (mq_shape){4, {call->inputs[0]->shape.dims[0], (int64_t)p.frames, (int64_t)p.bins, 2}};
    }
    return code;
}

static size_t stft_scratch(const mq_op_call *call)
{
    stft_plan p = {0};
    mq_error err;
    return stft_plan_of(call, &p, &err) == MQ_OK
               ? (p.length + mq_fft_work(p.length)) * sizeof(mq_complex)
               : 0;
}

static mq_code stft_run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *x = call->inputs[0], *window = mq_call_input(call, 2), *y = call->outputs[0];
    stft_plan p = {0};
    mq_code code = stft_plan_of(call, &p, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_complex *points = call->scratch, *work = points + p.length;
    size_t signal = (size_t)x->shape.dims[1], batch = (size_t)x->shape.dims[0];
    for (size_t f = 0; f < batch * p.frames; f++) {
        size_t from = f / p.frames * signal + f % p.frames * p.step;
        for (size_t i = 0; i < p.length; i++) {
            double w = window == NULL ? 1.0 : mq_element(window, i);
            size_t at = (from + i) * p.parts;
            points[i] =
                (mq_complex){w * mq_element(x, at), p.parts == 2 ? w * mq_element(x, at + 1) : 0.0};
        }
        mq_fft(points, p.length, false, work);
        for (size_t i = 0; i < p.bins; i++) {
            mq_element_set(y, (f * p.bins + i) * 2, points[i].re);
            mq_element_set(y, (f * p.bins + i) * 2 + 1, points[i].im);
        }
    }
    return MQ_OK;
}

static const mq_attr_spec stft_specs[] = {
    {.name = "onesided", .type = MQ_ATTR_INT, .offset = offsetof(stft_attrs, onesided), .i = 1},
    {.name = NULL},
};

const mq_op mq_op_stft = {
    .name = "STFT",
    .domain = "",
    .since = 17,
    .in = {2, 4},
    .out = {1, 1},
    .args = {{'T', REAL_TYPES}, {0, MQ_T_INDEX}, {'T', REAL_TYPES}, {0, MQ_T_INDEX}},
    .shape_inputs = 2 | 8,
    .attrs_bytes = sizeof(stft_attrs),
    .specs = stft_specs,
    .shape = stft_shape,
    .scratch = stft_scratch,
    .run = stft_run,
    .cases = "| f32[A,16,1] i64{4} f32[8]; onesided=0 | f64[A,9,2] i64{2} - i64{5}",
};

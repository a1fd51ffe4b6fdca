/* HannWindow, HammingWindow, BlackmanWindow, MelWeightMatrix: tables for signal processing.
 * onnx.ai/onnx/operators/onnx__HannWindow.html, onnx__MelWeightMatrix.html */
#include "worker/ops/element.h"

#define PI 3.14159265358979323846

typedef struct table_attrs {
    int64_t output_datatype, periodic;
} table_attrs;

static mq_code table_parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    int64_t dtype = ((table_attrs *)attrs)->output_datatype;
    if (dtype < 1 || dtype > 31 || (MQ_T((mq_dtype)dtype) & (MQ_T_NUMBERS | MQ_T_HALF)) == 0) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "output_datatype %lld is not a number here",
                       (long long)dtype);
    }
    return MQ_OK;
}

static const mq_attr_spec table_specs[] = {
    {.name = "output_datatype",
     .type = MQ_ATTR_INT,
     .offset = offsetof(table_attrs, output_datatype),
     .i = MQ_DT_F32},
    {.name = "periodic", .type = MQ_ATTR_INT, .offset = offsetof(table_attrs, periodic), .i = 1},
    {.name = NULL},
};

static mq_code window_shape(const mq_op_call *call, mq_error *err)
{
    const table_attrs *a = call->attrs;
    if (mq_elements(call->inputs[0]) != 1) {
        return mq_fail(err, MQ_E_ARG, "size must be one number");
    }
    int64_t size = mq_element_int(call->inputs[0], 0);
    if (size < 0 || size > MQ_DIM_MAX) {
        return mq_fail(err, MQ_E_ARG, "size is %lld", (long long)size);
    }
    call->outputs[0]->dtype = (mq_dtype)a->output_datatype;
    call->outputs[0]->shape = (mq_shape){1, {size}};
    return MQ_OK;
}

/* c[0] - c[1] cos(2 pi i / N) + c[2] cos(4 pi i / N) */
static mq_code window_run(const mq_op_call *call, const double *c)
{
    const table_attrs *a = call->attrs;
    int64_t size = call->outputs[0]->shape.dims[0];
    double steps = (double)(a->periodic != 0 ? size : size - 1);
    for (int64_t i = 0; i < size; i++) {
        double t = steps > 0.0 ? 2.0 * PI * (double)i / steps : PI;
        mq_element_set(call->outputs[0], (size_t)i, c[0] - c[1] * cos(t) + c[2] * cos(2.0 * t));
    }
    return MQ_OK;
}

static mq_code hann_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    return window_run(call, (const double[]){0.5, 0.5, 0.0});
}

static mq_code hamming_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    return window_run(call, (const double[]){25.0 / 46.0, 21.0 / 46.0, 0.0});
}

static mq_code blackman_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    return window_run(call, (const double[]){0.42, 0.5, 0.08});
}

#define WINDOW(symbol_, name_)                                                                     \
    const mq_op mq_op_##symbol_##_window = {                                                       \
        .name = (name_),                                                                           \
        .domain = "",                                                                              \
        .since = 17,                                                                               \
        .in = {1, 1},                                                                              \
        .out = {1, 1},                                                                             \
        .args = {{0, MQ_T_INDEX}},                                                                 \
        .shape_inputs = 1,                                                                         \
        .attrs_bytes = sizeof(table_attrs),                                                        \
        .specs = table_specs,                                                                      \
        .parse = table_parse,                                                                      \
        .shape = window_shape,                                                                     \
        .run = symbol_##_run,                                                                      \
        .cases = "| i32{7}; periodic=0 output_datatype=11 | i64{8}; periodic=0 | i64{1}",          \
    };

WINDOW(hann, "HannWindow")
WINDOW(hamming, "HammingWindow")
WINDOW(blackman, "BlackmanWindow")

/* --- MelWeightMatrix: triangles on the mel scale, [dft_length / 2 + 1, num_mel_bins] --- */

static mq_code mel_shape(const mq_op_call *call, mq_error *err)
{
    const table_attrs *a = call->attrs;
    for (uint32_t i = 0; i < 5; i++) {
        if (mq_elements(call->inputs[i]) != 1) {
            return mq_fail(err, MQ_E_ARG, "input %u must be one number", i);
        }
    }
    int64_t bins = mq_element_int(call->inputs[0], 0), length = mq_element_int(call->inputs[1], 0);
    if (bins < 0 || bins > 1 << 20 || length < 1 || length > MQ_DIM_MAX) {
        return mq_fail(err, MQ_E_ARG, "num_mel_bins %lld, dft_length %lld", (long long)bins,
                       (long long)length);
    }
    call->outputs[0]->dtype = (mq_dtype)a->output_datatype;
    call->outputs[0]->shape = (mq_shape){2, {length / 2 + 1, bins}};
    return MQ_OK;
}

typedef struct mel_scale {
    double low, step, length, rate;
    int64_t last;
} mel_scale;

/* Spectrogram bin of edge i of the triangles. */
static int64_t mel_edge(const mel_scale *s, int64_t i)
{
    double hertz = 700.0 * (pow(10.0, ((double)i * s->step + s->low) / 2595.0) - 1.0);
    double bin = floor((s->length + 1.0) * hertz / s->rate);
    return bin >= 0.0 && bin <= (double)s->last ? (int64_t)bin : -1;
}

static mq_code mel_run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *y = call->outputs[0];
    int64_t bins = y->shape.dims[1];
    double low = 2595.0 * log10(1.0 + mq_element(call->inputs[3], 0) / 700.0);
    double high = 2595.0 * log10(1.0 + mq_element(call->inputs[4], 0) / 700.0);
    mel_scale s = {low, (high - low) / (double)(bins + 2), mq_element(call->inputs[1], 0),
                   mq_element(call->inputs[2], 0), y->shape.dims[0] - 1};
    memset(y->data, 0, mq_elements(y) * mq_dtype_bytes(y->dtype));
    for (int64_t i = 0; i < bins; i++) {
        int64_t left = mel_edge(&s, i), center = mel_edge(&s, i + 1), right = mel_edge(&s, i + 2);
        if (left < 0 || center < left || right < center) {
            return mq_fail(err, MQ_E_ARG,
                           "edges of mel bin %lld are outside the spectrogram: lower and upper "
                           "edge must lie between 0 and half the sample rate",
                           (long long)i);
        }
        for (int64_t j = left; j < right || j == center; j++) {
            double v = j < center    ? (double)(j - left) / (double)(center - left)
                       : j == center ? 1.0
                                     : (double)(right - j) / (double)(right - center);
            mq_element_set(y, (size_t)(j * bins + i), v);
        }
    }
    return MQ_OK;
}

static const mq_attr_spec mel_specs[] = {
    {.name = "output_datatype",
     .type = MQ_ATTR_INT,
     .offset = offsetof(table_attrs, output_datatype),
     .i = MQ_DT_F32},
    {.name = NULL},
};

const mq_op mq_op_mel_weight_matrix = {
    .name = "MelWeightMatrix",
    .domain = "",
    .since = 17,
    .in = {5, 5},
    .out = {1, 1},
    .args = {{0, MQ_T_INDEX}, {0, MQ_T_INDEX}, {0, MQ_T_INDEX}, {0, MQ_T_FLOATS | MQ_T_HALF}},
    .shape_inputs = 3,
    .attrs_bytes = sizeof(table_attrs),
    .specs = mel_specs,
    .parse = table_parse,
    .shape = mel_shape,
    .run = mel_run,
    .cases = "| i64{8} i64{16} i64{8192} f32{0} f32{4096}; "
             "output_datatype=11 | i32{4} i32{32} i32{100} f32{5} f32{40}",
};

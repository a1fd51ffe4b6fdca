/* Networks for images, as PyTorch exports them for inference (BatchNormalization already folded
 * into the convolutions), float or with QuantizeLinear / DequantizeLinear around every operator.
 *   LeNet        LeCun and others, 1998, in the wider form of the Caffe example (20 and 50 maps)
 *   MobileNetV2  Sandler and others, 2018 (arXiv:1801.04381), width 1
 *   ResNet-50    He and others, 2016 (arXiv:1512.03385), stride in the 3x3 of a block */
#include <math.h>

#include "tests/bench/models/kit.h"

kit_make kit_make_lenet, kit_make_mobilenetv2, kit_make_resnet50;

enum { CHANNELS_MAX = 4096 };

typedef enum follow { NOTHING, RELU, RELU6 } follow;

typedef struct layer {
    int64_t in, out, size, stride, pad, groups;
    follow then;
    float gain; /* of the variance that keeps its size */
} layer;

/* Ranges that hold nearly all of what such a layer gives. */
static kit_value ranged(kit *k, kit_value x, follow then)
{
    return then == RELU    ? kit_qdq(k, x, 8.0F / 255.0F, 0)
           : then == RELU6 ? kit_qdq(k, x, 6.0F / 255.0F, 0)
                           : kit_qdq(k, x, 12.0F / 255.0F, 128);
}

static kit_value activate(kit *k, kit_value x, follow then)
{
    if (then == RELU) {
        x = KIT_NODE(k, "Relu", x);
    } else if (then == RELU6) {
        kit_value low = kit_real(k, 0.0F), high = kit_real(k, 6.0F);
        x = KIT_NODE(k, "Clip", x, low, high);
    }
    return ranged(k, x, then);
}

static void weights(kit *k, kit_value x, const mq_shape *shape, float deviation, kit_value *out)
{
    if (k->is_int8) {
        static float scales[CHANNELS_MAX];
        out[0] = kit_weights_int8(k, shape, 0, deviation, scales);
        out[1] = kit_bias_int32(k, shape->dims[0], x.scale, scales);
    } else {
        out[0] = kit_normal(k, shape, 0.0F, deviation);
        out[1] = kit_normal(k, &(mq_shape){1, {shape->dims[0]}}, 0.0F, 0.1F);
    }
}

static kit_value convolve(kit *k, kit_value x, layer l)
{
    const int64_t per_group = l.in / l.groups;
    const mq_shape shape = {4, {l.out, per_group, l.size, l.size}};
    kit_value w[2];
    weights(k, x, &shape, l.gain * sqrtf(2.0F / (float)(per_group * l.size * l.size)), w);
    kit_value y = KIT_NODE(k, "Conv", x, w[0], w[1]);
    kit_list(k, "kernel_shape", (int64_t[]){l.size, l.size}, 2);
    kit_list(k, "strides", (int64_t[]){l.stride, l.stride}, 2);
    kit_list(k, "pads", (int64_t[]){l.pad, l.pad, l.pad, l.pad}, 4);
    kit_list(k, "dilations", (int64_t[]){1, 1}, 2);
    kit_int(k, "group", l.groups);
    return activate(k, y, l.then);
}

static kit_value max_pool(kit *k, kit_value x, int64_t size, int64_t stride, int64_t pad)
{
    kit_value y = KIT_NODE(k, "MaxPool", x);
    kit_list(k, "kernel_shape", (int64_t[]){size, size}, 2);
    kit_list(k, "strides", (int64_t[]){stride, stride}, 2);
    kit_list(k, "pads", (int64_t[]){pad, pad, pad, pad}, 4);
    return kit_qdq(k, y, x.scale, x.zero);
}

static kit_value flatten(kit *k, kit_value x)
{
    return kit_qdq(k, KIT_NODE(k, "Flatten", x), x.scale, x.zero);
}

static kit_value dense(kit *k, kit_value x, int64_t in, int64_t out, follow then)
{
    kit_value w[2];
    weights(k, x, &(mq_shape){2, {out, in}}, sqrtf(2.0F / (float)in), w);
    kit_value y = KIT_NODE(k, "Gemm", x, w[0], w[1]);
    kit_int(k, "transB", 1);
    return activate(k, y, then);
}

static kit_value image(kit *k, int64_t channels, int64_t size)
{
    kit_value x = kit_input(k, "input", MQ_DT_F32, 4, (int64_t[]){-1, channels, size, size});
    return kit_qdq(k, x, 8.0F / 255.0F, 128);
}

void kit_make_lenet(kit *k)
{
    kit_value x = image(k, 1, 28);
    x = convolve(k, x, (layer){1, 20, 5, 1, 0, 1, RELU, 1.0F});
    x = max_pool(k, x, 2, 2, 0);
    x = convolve(k, x, (layer){20, 50, 5, 1, 0, 1, RELU, 1.0F});
    x = max_pool(k, x, 2, 2, 0);
    x = dense(k, flatten(k, x), 800, 500, RELU);
    x = dense(k, x, 500, 10, NOTHING);
    kit_output(k, x, "logits", 2, (int64_t[]){-1, 10});
}

static kit_value classify(kit *k, kit_value x, int64_t width)
{
    kit_value y = kit_qdq(k, KIT_NODE(k, "GlobalAveragePool", x), x.scale, x.zero);
    return dense(k, flatten(k, y), width, 1000, NOTHING);
}

static kit_value joined(kit *k, kit_value x, kit_value y, follow then)
{
    return activate(k, KIT_NODE(k, "Add", x, y), then);
}

/* expand 1x1, depthwise 3x3, project 1x1 */
static kit_value inverted(kit *k, kit_value x, int64_t in, int64_t out, int64_t stride,
                          int64_t factor)
{
    const int64_t wide = in * factor;
    kit_value y = x;
    if (factor > 1) {
        y = convolve(k, y, (layer){in, wide, 1, 1, 0, 1, RELU6, 1.0F});
    }
    y = convolve(k, y, (layer){wide, wide, 3, stride, 1, wide, RELU6, 1.0F});
    bool is_residual = stride == 1 && in == out;
    y = convolve(k, y, (layer){wide, out, 1, 1, 0, 1, NOTHING, is_residual ? 0.3F : 0.7F});
    return is_residual ? joined(k, x, y, NOTHING) : y;
}

void kit_make_mobilenetv2(kit *k)
{
    static const int64_t blocks[][4] = {/* factor, channels, repeats, first stride */
                                        {1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                                        {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};
    kit_value x = image(k, 3, 224);
    int64_t in = 32;
    x = convolve(k, x, (layer){3, in, 3, 2, 1, 1, RELU6, 1.0F});
    for (size_t b = 0; b < sizeof blocks / sizeof blocks[0]; b++) {
        for (int64_t r = 0; r < blocks[b][2]; r++) {
            x = inverted(k, x, in, blocks[b][1], r == 0 ? blocks[b][3] : 1, blocks[b][0]);
            in = blocks[b][1];
        }
    }
    x = convolve(k, x, (layer){in, 1280, 1, 1, 0, 1, RELU6, 1.0F});
    kit_output(k, classify(k, x, 1280), "logits", 2, (int64_t[]){-1, 1000});
}

static kit_value bottleneck(kit *k, kit_value x, int64_t in, int64_t width, int64_t stride)
{
    const int64_t out = 4 * width;
    kit_value y = convolve(k, x, (layer){in, width, 1, 1, 0, 1, RELU, 1.0F});
    y = convolve(k, y, (layer){width, width, 3, stride, 1, 1, RELU, 1.0F});
    y = convolve(k, y, (layer){width, out, 1, 1, 0, 1, NOTHING, 0.3F});
    if (in != out) {
        x = convolve(k, x, (layer){in, out, 1, stride, 0, 1, NOTHING, 0.9F});
    }
    return joined(k, y, x, RELU);
}

void kit_make_resnet50(kit *k)
{
    static const int64_t repeats[] = {3, 4, 6, 3};
    kit_value x = image(k, 3, 224);
    int64_t in = 64;
    x = convolve(k, x, (layer){3, in, 7, 2, 3, 1, RELU, 1.0F});
    x = max_pool(k, x, 3, 2, 1);
    for (int64_t s = 0; s < 4; s++) {
        for (int64_t r = 0; r < repeats[s]; r++) {
            const int64_t width = (int64_t)64 << s;
            x = bottleneck(k, x, in, width, r == 0 && s > 0 ? 2 : 1);
            in = 4 * width;
        }
    }
    kit_output(k, classify(k, x, 2048), "logits", 2, (int64_t[]){-1, 1000});
}

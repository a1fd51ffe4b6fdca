/* Convolutional networks for images [N, C, H, W]:
 *
 *   lenet   LeCun and others, 1998, with ReLU and max pooling: 5x5 6, pool, 5x5 16, pool, 120, 84
 *   cnn     3x3 32, 3x3 64, pool, 128
 *   resnet  He and others, 2016 (arXiv:1512.03385): blocks of two 3x3 (18, 34) or of 1x1, 3x3, 1x1
 *           (50) around a shortcut, BatchNorm behind every convolution. Images of less than 64
 * pixels get a 3x3 stem without pooling, as the paper's CIFAR nets have. */
#include <stdio.h>

#include "worker/models/builder.h"

extern mq_arch_build_fn mq_arch_build_lenet, mq_arch_build_cnn, mq_arch_build_resnet18,
    mq_arch_build_resnet34, mq_arch_build_resnet50;

typedef struct image {
    int64_t channels, height, width, classes;
} image;

enum { PIXELS_MAX = 4096 };

/* "C-H-W-CLASSES" */
static mq_code read_image(const mq_arch_sizes *s, int64_t least, image *out, mq_error *err)
{
    if (s->count != 4) {
        return mq_fail(err, MQ_E_ARG,
                       "exactly four sizes are needed: channels-height-width-classes, not %u",
                       s->count);
    }
    *out = (image){s->size[0], s->size[1], s->size[2], s->size[3]};
    if (out->height < least || out->width < least || out->height > PIXELS_MAX ||
        out->width > PIXELS_MAX) {
        return mq_fail(err, MQ_E_ARG,
                       "an image of %lld x %lld pixels; height and width must be in %lld..%d",
                       (long long)out->height, (long long)out->width, (long long)least, PIXELS_MAX);
    }
    return MQ_OK;
}

static mq_built add_input(mq_builder *b, const image *i)
{
    return mq_build_input(b, 3, (int64_t[]){i->channels, i->height, i->width});
}

static mq_built relu(mq_builder *b, const char *layer, mq_built x)
{
    return mq_build_one(b, "Relu", layer, x);
}

mq_code mq_arch_build_lenet(mq_model *model, const mq_arch_sizes *sizes, uint64_t seed,
                            mq_error *err)
{
    image i = {0};
    mq_builder b = {.model = model, .seed = seed, .err = err};
    const mq_window pool = {2, 2, 0};
    b.code = read_image(sizes, 12, &i, err);
    if (b.code != MQ_OK) {
        return b.code;
    }
    int64_t h = (i.height / 2 - 4) / 2, w = (i.width / 2 - 4) / 2;
    mq_built x = add_input(&b, &i);
    x = relu(&b, "relu1", mq_build_conv(&b, "conv1", x, i.channels, 6, (mq_window){5, 1, 2}, true));
    x = mq_build_max_pool(&b, "pool1", x, pool);
    x = relu(&b, "relu2", mq_build_conv(&b, "conv2", x, 6, 16, (mq_window){5, 1, 0}, true));
    x = mq_build_max_pool(&b, "pool2", x, pool);
    x = mq_build_one(&b, "Flatten", "flatten", x);
    x = relu(&b, "relu3", mq_build_gemm(&b, "fc1", x, 16 * h * w, 120, MQ_FIRST_HE));
    x = relu(&b, "relu4", mq_build_gemm(&b, "fc2", x, 120, 84, MQ_FIRST_HE));
    (void)mq_build_gemm(&b, "fc3", x, 84, i.classes, MQ_FIRST_XAVIER);
    mq_build_output(&b, "logits", i.classes);
    return b.code;
}

mq_code mq_arch_build_cnn(mq_model *model, const mq_arch_sizes *sizes, uint64_t seed, mq_error *err)
{
    image i = {0};
    mq_builder b = {.model = model, .seed = seed, .err = err};
    b.code = read_image(sizes, 6, &i, err);
    if (b.code != MQ_OK) {
        return b.code;
    }
    const mq_window w = {3, 1, 0};
    int64_t area = ((i.height - 4) / 2) * ((i.width - 4) / 2);
    mq_built x = add_input(&b, &i);
    x = relu(&b, "relu1", mq_build_conv(&b, "conv1", x, i.channels, 32, w, true));
    x = relu(&b, "relu2", mq_build_conv(&b, "conv2", x, 32, 64, w, true));
    x = mq_build_max_pool(&b, "pool", x, (mq_window){2, 2, 0});
    x = mq_build_one(&b, "Flatten", "flatten", x);
    x = relu(&b, "relu3", mq_build_gemm(&b, "fc1", x, 64 * area, 128, MQ_FIRST_HE));
    (void)mq_build_gemm(&b, "fc2", x, 128, i.classes, MQ_FIRST_XAVIER);
    mq_build_output(&b, "logits", i.classes);
    return b.code;
}

/* --- residual networks --- */

/* Convolution, BatchNorm and, where wanted, ReLU, named after the block. */
static mq_built unit(mq_builder *b, const char *block, int number, mq_built x, int64_t in,
                     int64_t out, mq_window w, bool has_relu)
{
    char conv[MQ_BUILDER_NAME_SIZE], norm[MQ_BUILDER_NAME_SIZE], act[MQ_BUILDER_NAME_SIZE];
    (void)snprintf(conv, sizeof conv, "%.40s.conv%d", block, number);
    (void)snprintf(norm, sizeof norm, "%.40s.bn%d", block, number);
    (void)snprintf(act, sizeof act, "%.40s.relu%d", block, number);
    x = mq_build_batch_norm(b, norm, mq_build_conv(b, conv, x, in, out, w, false), out);
    return has_relu ? relu(b, act, x) : x;
}

/* One block from `in` channels to `out`; `inner` channels within. */
static mq_built block(mq_builder *b, const char *name, mq_built x, int64_t in, int64_t inner,
                      int64_t out, int64_t stride)
{
    char add[MQ_BUILDER_NAME_SIZE], act[MQ_BUILDER_NAME_SIZE];
    (void)snprintf(add, sizeof add, "%.40s.add", name);
    (void)snprintf(act, sizeof act, "%.40s.relu", name);
    bool is_bottleneck = inner != out;
    mq_built y, around = x;
    if (is_bottleneck) {
        y = unit(b, name, 1, x, in, inner, (mq_window){1, 1, 0}, true);
        y = unit(b, name, 2, y, inner, inner, (mq_window){3, stride, 1}, true);
        y = unit(b, name, 3, y, inner, out, (mq_window){1, 1, 0}, false);
    } else {
        y = unit(b, name, 1, x, in, out, (mq_window){3, stride, 1}, true);
        y = unit(b, name, 2, y, out, out, (mq_window){3, 1, 1}, false);
    }
    if (stride != 1 || in != out) {
        around = unit(b, name, 0, x, in, out, (mq_window){1, stride, 0}, false);
    }
    return relu(b, act, mq_build_two(b, "Add", add, y, around));
}

static mq_code build_resnet(mq_model *model, const mq_arch_sizes *sizes, uint64_t seed,
                            const uint32_t depths[4], int64_t widen, mq_error *err)
{
    image i = {0};
    mq_builder b = {.model = model, .seed = seed, .err = err};
    b.code = read_image(sizes, 8, &i, err);
    if (b.code != MQ_OK) {
        return b.code;
    }
    bool is_small = i.height < 64 || i.width < 64;
    mq_built x = add_input(&b, &i);
    x = unit(&b, "stem", 1, x, i.channels, 64,
             is_small ? (mq_window){3, 1, 1} : (mq_window){7, 2, 3}, true);
    if (!is_small) {
        x = mq_build_max_pool(&b, "stem.pool", x, (mq_window){3, 2, 1});
    }
    int64_t in = 64;
    for (uint32_t stage = 0; stage < 4; stage++) {
        int64_t inner = INT64_C(64) << stage;
        for (uint32_t n = 0; n < depths[stage]; n++) {
            char name[MQ_BUILDER_NAME_SIZE];
            (void)snprintf(name, sizeof name, "layer%u.%u", stage + 1, n);
            x = block(&b, name, x, in, inner, inner * widen, n == 0 && stage > 0 ? 2 : 1);
            in = inner * widen;
        }
    }
    x = mq_build_one(&b, "GlobalAveragePool", "pool", x);
    x = mq_build_one(&b, "Flatten", "flatten", x);
    (void)mq_build_gemm(&b, "fc", x, in, i.classes, MQ_FIRST_XAVIER);
    mq_build_output(&b, "logits", i.classes);
    return b.code;
}

mq_code mq_arch_build_resnet18(mq_model *model, const mq_arch_sizes *sizes, uint64_t seed,
                               mq_error *err)
{
    return build_resnet(model, sizes, seed, (const uint32_t[]){2, 2, 2, 2}, 1, err);
}

mq_code mq_arch_build_resnet34(mq_model *model, const mq_arch_sizes *sizes, uint64_t seed,
                               mq_error *err)
{
    return build_resnet(model, sizes, seed, (const uint32_t[]){3, 4, 6, 3}, 1, err);
}

mq_code mq_arch_build_resnet50(mq_model *model, const mq_arch_sizes *sizes, uint64_t seed,
                               mq_error *err)
{
    return build_resnet(model, sizes, seed, (const uint32_t[]){3, 4, 6, 3}, 4, err);
}

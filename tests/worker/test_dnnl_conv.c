/* Convolutions of oneDNN against plain sums: floats in both layouts, clamped and added to what is
 * there; bytes to the last bit as 32-bit sums, and rescaled. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/prng.h"
#include "worker/dnnl/dnnl.h"

typedef struct shape {
    int64_t batch, channels, maps, group, in, kernel, stride, dilation, begin, end;
} shape;

static const shape shapes[] = {
    {1, 3, 8, 1, 9, 3, 1, 1, 1, 1},   {2, 16, 16, 1, 7, 1, 1, 1, 0, 0},
    {1, 20, 36, 1, 8, 3, 2, 1, 1, 0}, {2, 24, 24, 24, 6, 3, 1, 1, 1, 1},
    {1, 8, 12, 4, 5, 2, 1, 2, 1, 2},  {1, 64, 16, 1, 5, 5, 2, 1, 2, 2},
    {1, 1, 1, 1, 3, 3, 1, 1, 1, 1},   {1, 7, 5, 1, 4, 1, 2, 1, 0, 0},
};

static int64_t out_of(const shape *s)
{
    return (s->in + s->begin + s->end - s->dilation * (s->kernel - 1) - 1) / s->stride + 1;
}

static mq_dnnl_conv_size size_of(const shape *s)
{
    int64_t out = out_of(s);
    return (mq_dnnl_conv_size){.batch = s->batch,
                               .in = {s->in, s->in},
                               .out = {out, out},
                               .begin = {s->begin, s->begin},
                               .end = {s->end, s->end}};
}

static mq_dnnl_conv_spec spec_of(const shape *s, const void *w, const void *bias)
{
    return (mq_dnnl_conv_spec){.x_type = MQ_DT_F32,
                               .y_type = MQ_DT_F32,
                               .axes = 2,
                               .channels = s->channels,
                               .maps = s->maps,
                               .group = s->group,
                               .kernel = {s->kernel, s->kernel},
                               .stride = {s->stride, s->stride},
                               .dilation = {s->dilation, s->dilation},
                               .w = w,
                               .bias = bias,
                               .low = -INFINITY,
                               .high = INFINITY};
}

static void *memory_of(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    assert_non_null(p);
    memset(p, 0, (bytes + 127) / 64 * 64);
    return p;
}

/* Position of an element of [N, C, H, W] in the layout. */
static size_t place(bool is_packed, bool is_bytes, int64_t channels, int64_t hw, int64_t n,
                    int64_t c, int64_t at)
{
    if (!is_packed) {
        return (size_t)((n * channels + c) * hw + at);
    }
    if (is_bytes) {
        return (size_t)((n * hw + at) * channels + c);
    }
    int64_t block = mq_dnnl_block(), blocks = (channels + block - 1) / block;
    return (size_t)(((n * blocks + c / block) * hw + at) * block + c % block);
}

typedef struct data {
    double *x, *w, *bias, *y; /* plain, what they mean */
    size_t x_count, w_count, y_count;
} data;

static double random_of(mq_prng *prng, bool is_bytes)
{
    uint64_t r = mq_prng_next(prng);
    if (is_bytes) {
        return (r & 1024) != 0 ? 127.0 : (double)(r % 255) - 127.0;
    }
    return (double)(r >> 40) / 8388608.0 - 1.0;
}

static double sum_at(const shape *s, const data *d, int64_t n, int64_t m, int64_t oy, int64_t ox)
{
    int64_t per = s->channels / s->group, g = m / (s->maps / s->group);
    double sum = d->bias[m];
    for (int64_t c = 0; c < per; c++) {
        for (int64_t k = 0; k < s->kernel * s->kernel; k++) {
            int64_t y = oy * s->stride - s->begin + k / s->kernel * s->dilation;
            int64_t x = ox * s->stride - s->begin + k % s->kernel * s->dilation;
            if (y >= 0 && y < s->in && x >= 0 && x < s->in) {
                sum += d->x[((n * s->channels + g * per + c) * s->in + y) * s->in + x] *
                       d->w[(m * per + c) * s->kernel * s->kernel + k];
            }
        }
    }
    return sum;
}

static data data_of(const shape *s, bool is_bytes, double x_shift, uint64_t seed)
{
    mq_prng prng = {seed};
    int64_t out = out_of(s);
    data d = {.x_count = (size_t)(s->batch * s->channels * s->in * s->in),
              .w_count = (size_t)(s->maps * s->channels / s->group * s->kernel * s->kernel),
              .y_count = (size_t)(s->batch * s->maps * out * out)};
    d.x = memory_of(d.x_count * sizeof(double));
    d.w = memory_of(d.w_count * sizeof(double));
    d.y = memory_of(d.y_count * sizeof(double));
    d.bias = memory_of((size_t)s->maps * sizeof(double));
    for (size_t i = 0; i < d.x_count; i++) {
        d.x[i] = random_of(&prng, is_bytes) + x_shift;
    }
    for (size_t i = 0; i < d.w_count; i++) {
        d.w[i] = random_of(&prng, is_bytes);
    }
    for (int64_t i = 0; i < s->maps; i++) {
        d.bias[i] = is_bytes ? (double)(mq_prng_next(&prng) % 2000) : random_of(&prng, false);
    }
    for (size_t i = 0; i < d.y_count; i++) {
        int64_t at = (int64_t)i % (out * out), m = (int64_t)i / (out * out) % s->maps;
        d.y[i] = sum_at(s, &d, (int64_t)i / (out * out) / s->maps, m, at / out, at % out);
    }
    return d;
}

static void data_free(data *d)
{
    free(d->x);
    free(d->w);
    free(d->y);
    free(d->bias);
}

/* Runs; false: there is no such kernel. */
static bool run(const mq_dnnl_conv_spec *spec, const shape *s, const void *x, void *y)
{
    mq_arena arena;
    mq_arena_init(&arena, (size_t)1 << 24);
    mq_dnnl_conv_size size = size_of(s);
    mq_dnnl_conv *conv = mq_dnnl_conv_new(spec, &arena);
    bool has = conv != NULL && mq_dnnl_conv_ready(conv, &size);
    if (has) {
        void *scratch = memory_of(mq_dnnl_conv_scratch(conv, &size));
        assert_true(mq_dnnl_conv_run(conv, &size, x, y, scratch));
        free(scratch);
    }
    mq_dnnl_conv_free(conv);
    mq_arena_release(&arena);
    return has;
}

static void check_floats(const shape *s, int form)
{
    bool x_packed = (form & 1) != 0, y_packed = (form & 2) != 0, has_sum = form == 7;
    data d = data_of(s, false, 0.0, 3);
    int64_t hw = s->in * s->in, out = out_of(s), area = out * out;
    float *x = memory_of((d.x_count + 16 * (size_t)(s->batch * hw)) * sizeof *x);
    float *y = memory_of((d.y_count + 16 * (size_t)(s->batch * area)) * sizeof *y);
    float *w = memory_of(d.w_count * sizeof *w), *bias = memory_of((size_t)s->maps * sizeof *bias);
    for (size_t i = 0; i < d.x_count; i++) {
        int64_t at = (int64_t)i % hw, c = (int64_t)i / hw % s->channels;
        x[place(x_packed, false, s->channels, hw, (int64_t)i / hw / s->channels, c, at)] =
            (float)d.x[i];
    }
    for (size_t i = 0; i < d.w_count; i++) {
        w[i] = (float)d.w[i];
    }
    for (int64_t i = 0; i < s->maps; i++) {
        bias[i] = (float)d.bias[i];
    }
    for (size_t i = 0; i < d.y_count && has_sum; i++) {
        int64_t at = (int64_t)i % area, m = (int64_t)i / area % s->maps;
        y[place(true, false, s->maps, area, (int64_t)i / area / s->maps, m, at)] = 0.5f;
    }
    mq_dnnl_conv_spec spec = spec_of(s, w, bias);
    spec.x_is_packed = x_packed, spec.y_is_packed = y_packed, spec.has_sum = has_sum;
    spec.low = form >= 4 ? 0.0f : spec.low;
    spec.high = form >= 5 ? 6.0f : spec.high;
    if (run(&spec, s, x, y)) {
        for (size_t i = 0; i < d.y_count; i++) {
            int64_t at = (int64_t)i % area, m = (int64_t)i / area % s->maps;
            double v = d.y[i] + (has_sum ? 0.5 : 0.0), got;
            v = fmin(fmax(v, (double)spec.low), (double)spec.high);
            got = (double)
                y[place(y_packed, false, s->maps, area, (int64_t)i / area / s->maps, m, at)];
            assert_true(fabs(got - v) < 1e-4);
        }
    }
    free(x);
    free(y);
    free(w);
    free(bias);
    data_free(&d);
}

static void convolutions_of_floats_agree_with_plain_sums(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0] && mq_dnnl_is_there(); i++) {
        for (int form = 0; form < 8; form++) {
            check_floats(&shapes[i], form);
        }
    }
}

static void write_bytes(const data *d, const shape *s, bool is_signed, int32_t zero, bool is_packed,
                        uint8_t *x)
{
    int64_t hw = s->in * s->in;
    for (size_t i = 0; i < d->x_count; i++) {
        int64_t at = (int64_t)i % hw, c = (int64_t)i / hw % s->channels;
        int v = (int)d->x[i] + zero;
        x[place(is_packed, true, s->channels, hw, (int64_t)i / hw / s->channels, c, at)] =
            is_signed ? (uint8_t)(int8_t)v : (uint8_t)v;
    }
}

/* The y that a rounded and clamped sum becomes. */
static int rescaled(double sum, float scale, int32_t zero, bool is_signed)
{
    double v = rint((double)((float)sum * scale) + (double)zero), low = is_signed ? -128.0 : 0.0;
    return (int)fmin(fmax(v, low), low + 255.0);
}

static void check_bytes(const shape *s, int form)
{
    bool is_signed = (form & 1) != 0, is_packed = (form & 2) != 0, is_whole = (form & 4) != 0;
    int32_t zero = is_signed ? 0 : 128;
    data d = data_of(s, true, 0.0, 5);
    int64_t out = out_of(s), area = out * out;
    uint8_t *x = memory_of(d.x_count), *y = memory_of(d.y_count * 4);
    int8_t *w = memory_of(d.w_count);
    int32_t *bias = memory_of((size_t)s->maps * sizeof *bias);
    float *scales = memory_of((size_t)s->maps * sizeof *scales);
    write_bytes(&d, s, is_signed, zero, is_packed, x);
    for (size_t i = 0; i < d.w_count; i++) {
        w[i] = (int8_t)d.w[i];
    }
    for (int64_t i = 0; i < s->maps; i++) {
        bias[i] = (int32_t)d.bias[i];
        scales[i] = 0.001f + 0.0001f * (float)(i % 7);
    }
    mq_dnnl_conv_spec spec = spec_of(s, w, bias);
    spec.x_type = is_signed ? MQ_DT_I8 : MQ_DT_U8;
    spec.y_type = is_whole ? MQ_DT_I32 : spec.x_type;
    spec.scales = is_whole ? NULL : scales;
    spec.x_zero = zero, spec.y_zero = is_whole ? 0 : 3;
    spec.x_is_packed = spec.y_is_packed = is_packed;
    if (run(&spec, s, x, y)) {
        for (size_t i = 0; i < d.y_count; i++) {
            int64_t at = (int64_t)i % area, m = (int64_t)i / area % s->maps;
            size_t p = place(is_packed, true, s->maps, area, (int64_t)i / area / s->maps, m, at);
            if (is_whole) {
                assert_int_equal(((const int32_t *)(const void *)y)[p], (int)d.y[i]);
            } else {
                int got = is_signed ? (int8_t)y[p] : y[p];
                assert_int_equal(got, rescaled(d.y[i], scales[m], 3, is_signed));
            }
        }
    }
    free(x);
    free(y);
    free(w);
    free(bias);
    free(scales);
    data_free(&d);
}

static void convolutions_of_bytes_are_exact(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0] && mq_dnnl_is_there(); i++) {
        for (int form = 0; form < 8; form++) {
            check_bytes(&shapes[i], form);
        }
    }
}

/* The usual ones must have a kernel where oneDNN is there at all: else all above proves nothing. */
static void what_networks_are_made_of_has_kernels(void **state)
{
    (void)state;
    float *w = memory_of(sizeof(float) * 64 * 64 * 25), *x = memory_of(sizeof(float) * 1 << 16);
    float *y = memory_of(sizeof(float) * 1 << 16);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0] && mq_dnnl_is_there(); i++) {
        mq_dnnl_conv_spec spec = spec_of(&shapes[i], w, NULL);
        assert_true(run(&spec, &shapes[i], x, y));
        spec.x_is_packed = spec.y_is_packed = true;
        assert_true(i == 0 || i > 3 || run(&spec, &shapes[i], x, y));
    }
    free(w);
    free(x);
    free(y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolutions_of_floats_agree_with_plain_sums),
        cmocka_unit_test(convolutions_of_bytes_are_exact),
        cmocka_unit_test(what_networks_are_made_of_has_kernels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

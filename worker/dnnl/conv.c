/* Convolutions with constant weights: weights packed once, a kernel for each size. Where a side is
 * plain and the kernel wants another layout, it is copied on the way in or out. */
#include "worker/dnnl/engine.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { SIZES_MAX = 8, DIMS_MAX = 2 + MQ_DNNL_AXES_MAX, ALIGN = 64 };

typedef struct sized {
    bool is_used;
    uint64_t used; /* turn of its last use */
    mq_dnnl_conv_size size;
    mq_dnnl_kernel in, conv, out; /* in and out: only where layouts differ */
    size_t x_at, y_at, scratch_bytes;
} sized;

struct mq_dnnl_conv {
    mq_dnnl_conv_spec spec;
    mq_arena *arena;
    dnnl_stream_t stream;
    dnnl_memory_desc_t packed_desc;
    const void *packed; /* NULL before the first kernel */
    uint64_t turn;
    sized sizes[SIZES_MAX];
};

static bool is_bytes(const mq_dnnl_conv *c)
{
    return c->spec.x_type != MQ_DT_F32;
}

static dnnl_data_type_t type_of(mq_dtype type)
{
    switch ((int)type) {
    case MQ_DT_U8:
        return dnnl_u8;
    case MQ_DT_I8:
        return dnnl_s8;
    case MQ_DT_I32:
        return dnnl_s32;
    default:
        return dnnl_f32;
    }
}

mq_dnnl_conv *mq_dnnl_conv_new(const mq_dnnl_conv_spec *spec, mq_arena *arena)
{
    bool fits = mq_dnnl_engine() != NULL && spec->axes >= 1 && spec->axes <= MQ_DNNL_AXES_MAX &&
                spec->channels >= 1 && spec->maps >= 1 && spec->group >= 1;
    if (!fits || (spec->x_type != MQ_DT_F32 && !mq_dnnl_has_bytes())) {
        return NULL;
    }
    mq_dnnl_conv *c = mq_arena_new(arena, mq_dnnl_conv, 1);
    if (c == NULL || dnnl_stream_create(&c->stream, mq_dnnl_engine(), dnnl_stream_default_flags) !=
                         dnnl_success) {
        return NULL;
    }
    c->spec = *spec;
    c->arena = arena;
    return c;
}

static void release(sized *s)
{
    mq_dnnl_kernel_free(&s->in);
    mq_dnnl_kernel_free(&s->conv);
    mq_dnnl_kernel_free(&s->out);
    *s = (sized){.is_used = false};
}

void mq_dnnl_conv_free(mq_dnnl_conv *c)
{
    if (c == NULL) {
        return;
    }
    for (size_t i = 0; i < SIZES_MAX; i++) {
        release(&c->sizes[i]);
    }
    dnnl_stream_destroy(c->stream);
    c->stream = NULL;
}

static bool same_size(const mq_dnnl_conv *c, const mq_dnnl_conv_size *a, const mq_dnnl_conv_size *b)
{
    size_t bytes = (size_t)c->spec.axes * sizeof a->in[0];
    return a->batch == b->batch && memcmp(a->in, b->in, bytes) == 0 &&
           memcmp(a->out, b->out, bytes) == 0 && memcmp(a->begin, b->begin, bytes) == 0 &&
           memcmp(a->end, b->end, bytes) == 0;
}

static sized *find(const mq_dnnl_conv *c, const mq_dnnl_conv_size *size)
{
    for (size_t i = 0; c != NULL && i < SIZES_MAX; i++) {
        if (c->sizes[i].is_used && same_size(c, &c->sizes[i].size, size)) {
            return (sized *)(uintptr_t)&c->sizes[i];
        }
    }
    return NULL;
}

/* --- layouts --- */

typedef struct descs {
    dnnl_memory_desc_t x, w, bias, y;             /* as the kernel is asked for */
    dnnl_memory_desc_t x_given, y_given, w_given; /* as they lie */
} descs;

static bool describe_side(const mq_dnnl_conv *c, int64_t batch, int64_t channels,
                          const int64_t *spatial, mq_dtype type, bool is_packed,
                          dnnl_memory_desc_t *given, dnnl_memory_desc_t *asked)
{
    static const dnnl_format_tag_t plain[] = {dnnl_abc, dnnl_abcd, dnnl_abcde};
    static const dnnl_format_tag_t last[] = {dnnl_acb, dnnl_acdb, dnnl_acdeb};
    static const dnnl_format_tag_t by16[] = {dnnl_aBc16b, dnnl_aBcd16b, dnnl_aBcde16b};
    static const dnnl_format_tag_t by8[] = {dnnl_aBc8b, dnnl_aBcd8b, dnnl_aBcde8b};
    const dnnl_format_tag_t *tags = !is_packed              ? plain
                                    : is_bytes(c)           ? last
                                    : mq_dnnl_block() == 16 ? by16
                                                            : by8;
    dnnl_dims_t dims = {batch, channels};
    for (int32_t i = 0; i < c->spec.axes; i++) {
        dims[2 + i] = spatial[i];
    }
    if (dnnl_memory_desc_init_by_tag(given, c->spec.axes + 2, dims, type_of(type),
                                     tags[c->spec.axes - 1]) != dnnl_success) {
        return false;
    }
    if (is_packed) {
        *asked = *given;
        return true;
    }
    return dnnl_memory_desc_init_by_tag(asked, c->spec.axes + 2, dims, type_of(type),
                                        dnnl_format_tag_any) == dnnl_success;
}

static bool describe_weights(const mq_dnnl_conv *c, descs *out)
{
    static const dnnl_format_tag_t tags[] = {dnnl_abc, dnnl_abcd, dnnl_abcde, dnnl_abcdef};
    const mq_dnnl_conv_spec *s = &c->spec;
    bool has_groups = s->group > 1;
    dnnl_dims_t dims = {s->group, s->maps / s->group, s->channels / s->group};
    int rank = s->axes + 2 + has_groups;
    if (!has_groups) {
        dims[0] = s->maps;
        dims[1] = s->channels;
    }
    for (int32_t i = 0; i < s->axes; i++) {
        dims[2 + has_groups + i] = s->kernel[i];
    }
    const dnnl_dims_t maps = {s->maps};
    dnnl_data_type_t type = is_bytes(c) ? dnnl_s8 : dnnl_f32;
    return dnnl_memory_desc_init_by_tag(&out->w_given, rank, dims, type, tags[rank - 3]) ==
               dnnl_success &&
           dnnl_memory_desc_init_by_tag(&out->w, rank, dims, type, dnnl_format_tag_any) ==
               dnnl_success &&
           dnnl_memory_desc_init_by_tag(&out->bias, 1, maps, is_bytes(c) ? dnnl_s32 : dnnl_f32,
                                        dnnl_a) == dnnl_success;
}

static bool describe(const mq_dnnl_conv *c, const mq_dnnl_conv_size *size, descs *out)
{
    const mq_dnnl_conv_spec *s = &c->spec;
    bool done = describe_side(c, size->batch, s->channels, size->in, s->x_type, s->x_is_packed,
                              &out->x_given, &out->x) &&
                describe_side(c, size->batch, s->maps, size->out, s->y_type, s->y_is_packed,
                              &out->y_given, &out->y) &&
                describe_weights(c, out);
    if (done && c->packed != NULL) {
        out->w = c->packed_desc;
    }
    return done;
}

/* --- kernels --- */

static bool add_clamp(const mq_dnnl_conv_spec *s, dnnl_post_ops_t after)
{
    if (isinf(s->low) && isinf(s->high)) {
        return true;
    }
    bool is_relu = isinf(s->high) && !(s->low < 0.0f) && !(s->low > 0.0f);
    return dnnl_post_ops_append_eltwise(
               after, 1.0f, is_relu ? dnnl_eltwise_relu : dnnl_eltwise_clip,
               is_relu ? 0.0f : s->low, is_relu ? 0.0f : s->high) == dnnl_success;
}

static bool add_bytes(const mq_dnnl_conv_spec *s, dnnl_primitive_attr_t attr)
{
    bool done = true;
    if (s->x_zero != 0) {
        done = dnnl_primitive_attr_set_zero_points(attr, DNNL_ARG_SRC, 1, 0, &s->x_zero) ==
               dnnl_success;
    }
    if (s->scales != NULL && done) {
        done =
            dnnl_primitive_attr_set_output_scales(attr, s->maps, 1 << 1, s->scales) == dnnl_success;
    }
    if (s->y_zero != 0 && done) {
        done = dnnl_primitive_attr_set_zero_points(attr, DNNL_ARG_DST, 1, 0, &s->y_zero) ==
               dnnl_success;
    }
    return done;
}

static dnnl_primitive_attr_t attributes(const mq_dnnl_conv *c)
{
    dnnl_primitive_attr_t attr = mq_dnnl_attr();
    dnnl_post_ops_t after = NULL;
    if (attr == NULL) {
        return NULL;
    }
    bool done;
    if (is_bytes(c)) {
        done = add_bytes(&c->spec, attr);
    } else {
        done = dnnl_post_ops_create(&after) == dnnl_success &&
               (!c->spec.has_sum || dnnl_post_ops_append_sum(after, 1.0f) == dnnl_success) &&
               add_clamp(&c->spec, after) &&
               dnnl_primitive_attr_set_post_ops(attr, after) == dnnl_success;
    }
    if (after != NULL) {
        dnnl_post_ops_destroy(after);
    }
    if (!done) {
        dnnl_primitive_attr_destroy(attr);
        return NULL;
    }
    return attr;
}

/* Weights in the layout that this kernel chose; later kernels are asked to take the same. */
static bool pack(mq_dnnl_conv *c, const descs *at, const_dnnl_primitive_desc_t pd)
{
    const dnnl_memory_desc_t *to = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    const void *memory =
        mq_dnnl_pack(c->spec.packs, c->arena, c->spec.key, &at->w_given, c->spec.w, to);
    if (memory == NULL) {
        return false;
    }
    c->packed_desc = *to;
    c->packed = memory;
    return true;
}

static size_t rounded(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Arguments, and copies where a plain side is not what the kernel wants. */
static bool connect(mq_dnnl_conv *c, const descs *at, const_dnnl_primitive_desc_t pd, sized *out)
{
    const dnnl_memory_desc_t *x = dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0);
    const dnnl_memory_desc_t *y = dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0);
    out->x_at = rounded(out->conv.scratch_bytes);
    out->y_at = out->x_at;
    if (dnnl_memory_desc_equal(x, &at->x_given) == 0) {
        out->y_at += rounded(dnnl_memory_desc_get_size(x));
        if (!mq_dnnl_reorder_new(&out->in, &at->x_given, x)) {
            return false;
        }
    }
    out->scratch_bytes = out->y_at;
    if (dnnl_memory_desc_equal(y, &at->y_given) == 0) {
        out->scratch_bytes += rounded(dnnl_memory_desc_get_size(y));
        if (c->spec.has_sum || !mq_dnnl_reorder_new(&out->out, y, &at->y_given)) {
            return false;
        }
    }
    return mq_dnnl_kernel_arg(&out->conv, DNNL_ARG_SRC, x, NULL) &&
           mq_dnnl_kernel_arg(&out->conv, DNNL_ARG_DST, y, NULL) &&
           mq_dnnl_kernel_arg(&out->conv, DNNL_ARG_WEIGHTS, &c->packed_desc, c->packed) &&
           (c->spec.bias == NULL ||
            mq_dnnl_kernel_arg(&out->conv, DNNL_ARG_BIAS, &at->bias, c->spec.bias));
}

static bool make(mq_dnnl_conv *c, sized *out)
{
    descs at;
    dnnl_convolution_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_dims_t stride = {0}, dilation = {0}, begin = {0}, end = {0};
    if (!describe(c, &out->size, &at)) {
        return false;
    }
    for (int32_t i = 0; i < c->spec.axes; i++) {
        stride[i] = c->spec.stride[i];
        dilation[i] = c->spec.dilation[i] - 1; /* oneDNN counts what lies between */
        begin[i] = out->size.begin[i];
        end[i] = out->size.end[i];
    }
    dnnl_primitive_attr_t attr = attributes(c);
    bool done = attr != NULL &&
                dnnl_dilated_convolution_forward_desc_init(
                    &desc, dnnl_forward_inference, dnnl_convolution_direct, &at.x, &at.w,
                    c->spec.bias == NULL ? NULL : &at.bias, &at.y, stride, dilation, begin,
                    end) == dnnl_success &&
                mq_dnnl_kernel_new(&out->conv, &desc, attr, &pd);
    done = done && mq_dnnl_is_fast(pd) && (c->packed != NULL || pack(c, &at, pd)) &&
           connect(c, &at, pd, out);
    if (pd != NULL) {
        dnnl_primitive_desc_destroy(pd);
    }
    if (attr != NULL) {
        dnnl_primitive_attr_destroy(attr);
    }
    return done;
}

bool mq_dnnl_conv_ready(mq_dnnl_conv *c, const mq_dnnl_conv_size *size)
{
    if (c == NULL || find(c, size) != NULL) {
        return c != NULL;
    }
    sized fresh = {.is_used = true, .used = ++c->turn, .size = *size};
    if (!make(c, &fresh)) {
        release(&fresh);
        return false;
    }
    sized *place = &c->sizes[0];
    for (size_t i = 1; i < SIZES_MAX; i++) {
        place = c->sizes[i].used < place->used ? &c->sizes[i] : place;
    }
    release(place);
    *place = fresh;
    return true;
}

bool mq_dnnl_conv_has(const mq_dnnl_conv *c, const mq_dnnl_conv_size *size)
{
    return find(c, size) != NULL;
}

size_t mq_dnnl_conv_scratch(const mq_dnnl_conv *c, const mq_dnnl_conv_size *size)
{
    const sized *at = find(c, size);
    return at == NULL ? 0 : at->scratch_bytes;
}

bool mq_dnnl_conv_run(mq_dnnl_conv *c, const mq_dnnl_conv_size *size, const void *x, void *y,
                      void *scratch)
{
    sized *at = find(c, size);
    uint8_t *memory = scratch;
    bool done = at != NULL;
    if (!done) {
        return false;
    }
    at->used = ++c->turn;
    bool copies_in = at->in.primitive != NULL, copies_out = at->out.primitive != NULL;
    if (copies_in) {
        mq_dnnl_kernel_set(&at->in, DNNL_ARG_FROM, x);
        mq_dnnl_kernel_set(&at->in, DNNL_ARG_TO, memory + at->x_at);
        done = mq_dnnl_kernel_run(&at->in, c->stream);
    }
    mq_dnnl_kernel_set(&at->conv, DNNL_ARG_SRC, copies_in ? memory + at->x_at : x);
    mq_dnnl_kernel_set(&at->conv, DNNL_ARG_DST, copies_out ? memory + at->y_at : y);
    if (at->conv.scratch_bytes > 0) {
        mq_dnnl_kernel_set(&at->conv, DNNL_ARG_SCRATCHPAD, memory);
    }
    done = done && mq_dnnl_kernel_run(&at->conv, c->stream);
    if (copies_out && done) {
        mq_dnnl_kernel_set(&at->out, DNNL_ARG_FROM, memory + at->y_at);
        mq_dnnl_kernel_set(&at->out, DNNL_ARG_TO, y);
        done = mq_dnnl_kernel_run(&at->out, c->stream);
    }
    return done;
}

/* x W + b with a constant W: one packed copy of W, one kernel for each number of rows. */
#include "worker/dnnl/engine.h"

#include <stdint.h>

enum { SIZES_MAX = 16 };

typedef struct sized {
    int64_t m;     /* 0: none */
    uint64_t used; /* turn of its last use */
    mq_dnnl_kernel kernel;
} sized;

struct mq_dnnl_dense {
    mq_dnnl_dense_spec spec;
    mq_arena *arena;
    dnnl_stream_t stream;
    dnnl_memory_desc_t packed_desc;
    const void *packed; /* NULL before the first kernel */
    uint64_t turn;
    sized sizes[SIZES_MAX];
};

mq_dnnl_dense *mq_dnnl_dense_new(const mq_dnnl_dense_spec *spec, mq_arena *arena)
{
    if (mq_dnnl_engine() == NULL || spec->k < 1 || spec->n < 1 ||
        (spec->is_int8 && !mq_dnnl_has_bytes())) {
        return NULL;
    }
    mq_dnnl_dense *d = mq_arena_new(arena, mq_dnnl_dense, 1);
    if (d == NULL || dnnl_stream_create(&d->stream, mq_dnnl_engine(), dnnl_stream_default_flags) !=
                         dnnl_success) {
        return NULL;
    }
    d->spec = *spec;
    d->arena = arena;
    return d;
}

void mq_dnnl_dense_free(mq_dnnl_dense *d)
{
    if (d == NULL) {
        return;
    }
    for (size_t i = 0; i < SIZES_MAX; i++) {
        mq_dnnl_kernel_free(&d->sizes[i].kernel);
    }
    dnnl_stream_destroy(d->stream);
    d->stream = NULL;
}

static sized *find(const mq_dnnl_dense *d, int64_t m)
{
    for (size_t i = 0; i < SIZES_MAX && m > 0; i++) {
        if (d->sizes[i].m == m) {
            return (sized *)(uintptr_t)&d->sizes[i];
        }
    }
    return NULL;
}

static sized *oldest(mq_dnnl_dense *d)
{
    sized *found = &d->sizes[0];
    for (size_t i = 1; i < SIZES_MAX; i++) {
        found = d->sizes[i].used < found->used ? &d->sizes[i] : found;
    }
    return found;
}

typedef struct descs {
    dnnl_memory_desc_t x, w, bias, y;
} descs;

static bool matrix(dnnl_memory_desc_t *out, int64_t rows, int64_t columns, dnnl_data_type_t type,
                   dnnl_format_tag_t tag)
{
    const dnnl_dims_t dims = {rows, columns};
    return dnnl_memory_desc_init_by_tag(out, 2, dims, type, tag) == dnnl_success;
}

static bool describe(const mq_dnnl_dense *d, int64_t m, dnnl_format_tag_t w_tag, descs *out)
{
    bool q = d->spec.is_int8;
    return matrix(&out->x, m, d->spec.k, q ? dnnl_u8 : dnnl_f32, dnnl_ab) &&
           matrix(&out->w, d->spec.k, d->spec.n, q ? dnnl_s8 : dnnl_f32, w_tag) &&
           matrix(&out->bias, 1, d->spec.n, dnnl_f32, dnnl_ab) &&
           matrix(&out->y, m, d->spec.n, q ? dnnl_s32 : dnnl_f32, dnnl_ab);
}

static dnnl_primitive_attr_t attributes(const mq_dnnl_dense *d)
{
    dnnl_primitive_attr_t attr = mq_dnnl_attr();
    dnnl_post_ops_t after = NULL;
    if (attr == NULL || !d->spec.is_relu) {
        return attr;
    }
    bool done =
        dnnl_post_ops_create(&after) == dnnl_success &&
        dnnl_post_ops_append_eltwise(after, 1.0f, dnnl_eltwise_relu, 0.0f, 0.0f) == dnnl_success &&
        dnnl_primitive_attr_set_post_ops(attr, after) == dnnl_success;
    if (after != NULL) {
        dnnl_post_ops_destroy(after);
    }
    if (!done) {
        dnnl_primitive_attr_destroy(attr);
        attr = NULL;
    }
    return attr;
}

/* W in the layout that this kernel chose; later kernels are asked to take the same. */
static bool pack(mq_dnnl_dense *d, const_dnnl_primitive_desc_t pd)
{
    descs from;
    const dnnl_memory_desc_t *to = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    if (!describe(d, 1, d->spec.is_transposed ? dnnl_ba : dnnl_ab, &from)) {
        return false;
    }
    const void *memory = mq_dnnl_pack(d->spec.packs, d->arena, d->spec.key, &from.w, d->spec.w, to);
    if (memory == NULL) {
        return false;
    }
    d->packed_desc = *to;
    d->packed = memory;
    return true;
}

static bool make(mq_dnnl_dense *d, int64_t m, mq_dnnl_kernel *kernel)
{
    descs at;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    if (!describe(d, m, dnnl_format_tag_any, &at)) {
        return false;
    }
    at.w = d->packed != NULL ? d->packed_desc : at.w;
    dnnl_primitive_attr_t attr = attributes(d);
    bool has_bias = d->spec.bias != NULL;
    bool done = attr != NULL &&
                dnnl_matmul_desc_init(&desc, &at.x, &at.w, has_bias ? &at.bias : NULL, &at.y) ==
                    dnnl_success &&
                mq_dnnl_kernel_new(kernel, &desc, attr, &pd);
    done = done && mq_dnnl_is_fast(pd) && (d->packed != NULL || pack(d, pd)) &&
           mq_dnnl_kernel_arg(kernel, DNNL_ARG_SRC, &at.x, NULL) &&
           mq_dnnl_kernel_arg(kernel, DNNL_ARG_DST, &at.y, NULL) &&
           mq_dnnl_kernel_arg(kernel, DNNL_ARG_WEIGHTS, &d->packed_desc, d->packed) &&
           (!has_bias || mq_dnnl_kernel_arg(kernel, DNNL_ARG_BIAS, &at.bias, d->spec.bias));
    if (!done) {
        mq_dnnl_kernel_free(kernel);
    }
    if (pd != NULL) {
        dnnl_primitive_desc_destroy(pd);
    }
    if (attr != NULL) {
        dnnl_primitive_attr_destroy(attr);
    }
    return done;
}

bool mq_dnnl_dense_ready(mq_dnnl_dense *d, int64_t m)
{
    if (d == NULL || m < 1) {
        return false;
    }
    if (find(d, m) != NULL) {
        return true;
    }
    mq_dnnl_kernel kernel = {.primitive = NULL};
    if (!make(d, m, &kernel)) {
        return false;
    }
    sized *place = oldest(d);
    mq_dnnl_kernel_free(&place->kernel);
    *place = (sized){.m = m, .used = ++d->turn, .kernel = kernel};
    return true;
}

size_t mq_dnnl_dense_scratch(const mq_dnnl_dense *d, int64_t m)
{
    const sized *at = d == NULL ? NULL : find(d, m);
    return at == NULL ? 0 : at->kernel.scratch_bytes;
}

bool mq_dnnl_dense_run(mq_dnnl_dense *d, int64_t m, const void *x, void *y, void *scratch)
{
    sized *at = d == NULL ? NULL : find(d, m);
    if (at == NULL) {
        return false;
    }
    at->used = ++d->turn;
    mq_dnnl_kernel_set(&at->kernel, DNNL_ARG_SRC, x);
    mq_dnnl_kernel_set(&at->kernel, DNNL_ARG_DST, y);
    if (at->kernel.scratch_bytes > 0) {
        mq_dnnl_kernel_set(&at->kernel, DNNL_ARG_SCRATCHPAD, scratch);
    }
    return mq_dnnl_kernel_run(&at->kernel, d->stream);
}

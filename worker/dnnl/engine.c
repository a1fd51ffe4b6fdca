/* The engine of the process, and what all kernels share. oneDNN's objects are made and destroyed
 * here; must not know what they compute. */
#include "worker/dnnl/engine.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* OpenMP's own names; omp.h comes with gcc and not with every clang. */
void omp_set_num_threads(int count);

static dnnl_engine_t engine;
static char name[80] = "none";
static bool has_vnni;
static int block;
static _Thread_local int threads_set;

static const struct {
    dnnl_cpu_isa_t isa;
    const char *name;
    bool has_vnni; /* without it, products of bytes saturate within pairs */
} names[] = {
    {dnnl_cpu_isa_avx2, "avx2", false},
    {dnnl_cpu_isa_avx2_vnni, "avx2_vnni", false}, /* its products of bytes are those of avx2 */
    {dnnl_cpu_isa_avx512_core, "avx512_core", false},
    {dnnl_cpu_isa_avx512_core_vnni, "avx512_core_vnni", true},
    {dnnl_cpu_isa_avx512_core_bf16, "avx512_core_bf16", true},
    {dnnl_cpu_isa_avx512_core_amx, "avx512_core_amx", true},
};

static void init(void)
{
    mq_dnnl_enter();
    size_t i = 0, count = sizeof names / sizeof names[0];
    while (i < count && names[i].isa != dnnl_get_effective_cpu_isa()) {
        i++;
    }
    if (i == count || dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success) {
        engine = NULL;
        return;
    }
    const dnnl_version_t *v = dnnl_version();
    (void)snprintf(name, sizeof name, "onednn %d.%d.%d %s", v->major, v->minor, v->patch,
                   names[i].name);
    has_vnni = names[i].has_vnni;
    block = names[i].isa == dnnl_cpu_isa_avx2 || names[i].isa == dnnl_cpu_isa_avx2_vnni ? 8 : 16;
}

dnnl_engine_t mq_dnnl_engine(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init);
    return engine;
}

bool mq_dnnl_is_there(void)
{
    return mq_dnnl_engine() != NULL;
}

const char *mq_dnnl_name(void)
{
    (void)mq_dnnl_engine();
    return name;
}

int mq_dnnl_block(void)
{
    return mq_dnnl_engine() == NULL ? 0 : block;
}

bool mq_dnnl_has_bytes(void)
{
    return mq_dnnl_engine() != NULL && has_vnni;
}

void mq_dnnl_threads(int count)
{
    threads_set = count < 1 ? 1 : count;
    omp_set_num_threads(threads_set);
}

void mq_dnnl_enter(void)
{
    if (threads_set == 0) {
        mq_dnnl_threads(1);
    }
}

dnnl_primitive_attr_t mq_dnnl_attr(void)
{
    dnnl_primitive_attr_t attr = NULL;
    if (dnnl_primitive_attr_create(&attr) != dnnl_success) {
        return NULL;
    }
    if (dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user) != dnnl_success) {
        dnnl_primitive_attr_destroy(attr);
        return NULL;
    }
    return attr;
}

bool mq_dnnl_kernel_new(mq_dnnl_kernel *kernel, const void *op_desc, dnnl_primitive_attr_t attr,
                        dnnl_primitive_desc_t *pd)
{
    *kernel = (mq_dnnl_kernel){.primitive = NULL};
    *pd = NULL;
    mq_dnnl_enter();
    if (dnnl_primitive_desc_create(pd, op_desc, attr, engine, NULL) != dnnl_success) {
        return false;
    }
    const dnnl_memory_desc_t *scratch =
        dnnl_primitive_desc_query_md(*pd, dnnl_query_scratchpad_md, 0);
    kernel->scratch_bytes = scratch == NULL ? 0 : dnnl_memory_desc_get_size(scratch);
    if (dnnl_primitive_create(&kernel->primitive, *pd) != dnnl_success ||
        (kernel->scratch_bytes > 0 &&
         !mq_dnnl_kernel_arg(kernel, DNNL_ARG_SCRATCHPAD, scratch, NULL))) {
        mq_dnnl_kernel_free(kernel);
        dnnl_primitive_desc_destroy(*pd);
        *pd = NULL;
        return false;
    }
    return true;
}

bool mq_dnnl_reorder_new(mq_dnnl_kernel *kernel, const dnnl_memory_desc_t *from,
                         const dnnl_memory_desc_t *to)
{
    dnnl_primitive_desc_t pd = NULL;
    *kernel = (mq_dnnl_kernel){.primitive = NULL};
    mq_dnnl_enter();
    bool done =
        dnnl_reorder_primitive_desc_create(&pd, from, engine, to, engine, NULL) == dnnl_success &&
        dnnl_primitive_create(&kernel->primitive, pd) == dnnl_success &&
        mq_dnnl_kernel_arg(kernel, DNNL_ARG_FROM, from, NULL) &&
        mq_dnnl_kernel_arg(kernel, DNNL_ARG_TO, to, NULL);
    if (pd != NULL) {
        dnnl_primitive_desc_destroy(pd);
    }
    if (!done) {
        mq_dnnl_kernel_free(kernel);
    }
    return done;
}

bool mq_dnnl_is_fast(const_dnnl_primitive_desc_t pd)
{
    const char *text = NULL;
    return dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &text) == dnnl_success &&
           text != NULL && strncmp(text, "ref", 3) != 0;
}

bool mq_dnnl_kernel_arg(mq_dnnl_kernel *kernel, int arg, const dnnl_memory_desc_t *desc,
                        const void *handle)
{
    dnnl_memory_t memory = NULL;
    if (kernel->arg_count == MQ_KERNEL_ARGS_MAX ||
        dnnl_memory_create(&memory, desc, engine, DNNL_MEMORY_NONE) != dnnl_success) {
        return false;
    }
    kernel->args[kernel->arg_count++] = (dnnl_exec_arg_t){arg, memory};
    if (handle != NULL) {
        mq_dnnl_kernel_set(kernel, arg, handle);
    }
    return true;
}

void mq_dnnl_kernel_set(mq_dnnl_kernel *kernel, int arg, const void *handle)
{
    for (int i = 0; i < kernel->arg_count; i++) {
        if (kernel->args[i].arg == arg) { /* oneDNN writes only to what is an output */
            (void)dnnl_memory_set_data_handle(kernel->args[i].memory, (void *)(uintptr_t)handle);
        }
    }
}

bool mq_dnnl_kernel_run(mq_dnnl_kernel *kernel, dnnl_stream_t stream)
{
    mq_dnnl_enter();
    return dnnl_primitive_execute(kernel->primitive, stream, kernel->arg_count, kernel->args) ==
           dnnl_success;
}

void mq_dnnl_kernel_free(mq_dnnl_kernel *kernel)
{
    for (int i = 0; i < kernel->arg_count; i++) {
        dnnl_memory_destroy(kernel->args[i].memory);
    }
    if (kernel->primitive != NULL) {
        dnnl_primitive_destroy(kernel->primitive);
    }
    *kernel = (mq_dnnl_kernel){.primitive = NULL};
}

bool mq_dnnl_reorder(const dnnl_memory_desc_t *from, const void *data, const dnnl_memory_desc_t *to,
                     void *out)
{
    dnnl_stream_t stream = NULL;
    mq_dnnl_kernel kernel = {.primitive = NULL};
    bool done = mq_dnnl_reorder_new(&kernel, from, to) &&
                dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) == dnnl_success;
    if (done) {
        mq_dnnl_kernel_set(&kernel, DNNL_ARG_FROM, data);
        mq_dnnl_kernel_set(&kernel, DNNL_ARG_TO, out);
        done = mq_dnnl_kernel_run(&kernel, stream);
        dnnl_stream_destroy(stream);
    }
    mq_dnnl_kernel_free(&kernel);
    return done;
}

/* --- packed weights --- */

typedef struct repack {
    const dnnl_memory_desc_t *from, *to;
    const void *data;
} repack;

static bool fill(void *arg, void *memory)
{
    const repack *r = arg;
    return mq_dnnl_reorder(r->from, r->data, r->to, memory);
}

/* All that says where an element lies; 0: a layout that only oneDNN knows. */
static uint64_t form_of(const dnnl_memory_desc_t *d)
{
    const dnnl_blocking_desc_t *b = &d->format_desc.blocking;
    if (d->format_kind != dnnl_blocked) {
        return 0;
    }
    uint64_t form = mq_pack_form((uint64_t)d->ndims, (uint64_t)d->data_type);
    form = mq_pack_form(form, (uint64_t)d->offset0);
    for (int i = 0; i < d->ndims; i++) {
        form = mq_pack_form(form, (uint64_t)d->dims[i]);
        form = mq_pack_form(form, (uint64_t)d->padded_dims[i]);
        form = mq_pack_form(form, (uint64_t)d->padded_offsets[i]);
        form = mq_pack_form(form, (uint64_t)b->strides[i]);
    }
    for (int i = 0; i < b->inner_nblks; i++) {
        form = mq_pack_form(form, (uint64_t)b->inner_blks[i]);
        form = mq_pack_form(form, (uint64_t)b->inner_idxs[i]);
    }
    uint32_t scale;
    memcpy(&scale, &d->extra.scale_adjust, sizeof scale);
    form = mq_pack_form(form, d->extra.flags);
    if (d->extra.flags != 0) {
        form = mq_pack_form(form, (uint64_t)d->extra.compensation_mask);
        form = mq_pack_form(form, (uint64_t)d->extra.asymm_compensation_mask);
        form = mq_pack_form(form, scale);
    }
    return form == 0 ? 1 : form;
}

const void *mq_dnnl_pack(mq_packs *packs, mq_arena *arena, mq_pack_key key,
                         const dnnl_memory_desc_t *from, const void *data,
                         const dnnl_memory_desc_t *to)
{
    repack r = {from, to, data};
    uint64_t a = form_of(from), b = form_of(to);
    key.form = mq_pack_form(mq_pack_form(key.form, a), b);
    key.owner = a == 0 || b == 0 ? 0 : key.owner;
    return mq_packs_get(packs, arena, key, dnnl_memory_desc_get_size(to) + 64, fill, &r);
}

/* Inside worker/dnnl only: the engine, and a primitive with its arguments. */
#ifndef MQ_WORKER_DNNL_ENGINE_H
#define MQ_WORKER_DNNL_ENGINE_H

#include <dnnl.h>

#include "worker/dnnl/dnnl.h"

enum { MQ_KERNEL_ARGS_MAX = 8 };

/* A primitive, its memory objects by argument, and the stream it runs in. */
typedef struct mq_dnnl_kernel {
    dnnl_primitive_t primitive; /* NULL: none */
    dnnl_exec_arg_t args[MQ_KERNEL_ARGS_MAX];
    int arg_count;
    size_t scratch_bytes;
} mq_dnnl_kernel;

/* The process's engine; NULL when there is none. */
dnnl_engine_t mq_dnnl_engine(void);

/* Sets the calling thread's number of OpenMP threads, when it is not set yet. */
void mq_dnnl_enter(void);

/* Attributes with the scratch memory given by us; NULL: no memory. */
dnnl_primitive_attr_t mq_dnnl_attr(void);

/* The primitive of an operation descriptor; attr may be NULL. On success *pd is to be destroyed by
 * the caller, who asks it for layouts. */
bool mq_dnnl_kernel_new(mq_dnnl_kernel *kernel, const void *op_desc, dnnl_primitive_attr_t attr,
                        dnnl_primitive_desc_t *pd);

/* Adds an argument; handle NULL: set before each run. */
bool mq_dnnl_kernel_arg(mq_dnnl_kernel *kernel, int arg, const dnnl_memory_desc_t *desc,
                        const void *handle);
void mq_dnnl_kernel_set(mq_dnnl_kernel *kernel, int arg, const void *handle);
bool mq_dnnl_kernel_run(mq_dnnl_kernel *kernel, dnnl_stream_t stream);
void mq_dnnl_kernel_free(mq_dnnl_kernel *kernel);

/* Is it one of the fast ones? What oneDNN calls "ref" is slower than any kernel of ours. */
bool mq_dnnl_is_fast(const_dnnl_primitive_desc_t pd);

/* A kernel from DNNL_ARG_FROM to DNNL_ARG_TO, which copies into another layout. */
bool mq_dnnl_reorder_new(mq_dnnl_kernel *kernel, const dnnl_memory_desc_t *from,
                         const dnnl_memory_desc_t *to);

/* Constant data in another layout, as a piece of packs (key: of the data). NULL: no memory, or a
 * copy that cannot be. */
const void *mq_dnnl_pack(mq_packs *packs, mq_arena *arena, mq_pack_key key,
                         const dnnl_memory_desc_t *from, const void *data,
                         const dnnl_memory_desc_t *to);

/* Copies constant data into another layout. */
bool mq_dnnl_reorder(const dnnl_memory_desc_t *from, const void *data, const dnnl_memory_desc_t *to,
                     void *out);

#endif

/* Optional kernels of oneDNN (Debian's libdnnl, C API of 2.x): the only way to it. Built without it
 * (make DNNL=0, or the header is not there), or on a CPU that it knows nothing better for than
 * plain code, every function here says "no" and callers use their own kernels; so a failure is
 * never an error, only a slower way.
 *
 * Primitives are compiled code: milliseconds to make, so they are made once per model and shape, in
 * `ready`, and kept. Sums are in an order of oneDNN's own: floats may differ in the last bits from
 * our own kernels, and with the number of rows. 8-bit products are exact.
 *
 * Threads: an object belongs to one thread at a time. oneDNN's own thread pool (OpenMP) stays at
 * one thread unless mq_dnnl_threads says otherwise. */
#ifndef MQ_WORKER_DNNL_DNNL_H
#define MQ_WORKER_DNNL_DNNL_H

#include <stdbool.h>

#include "shared/base/arena.h"

/* Is there a oneDNN, and does it have kernels for this CPU (x86-64 with AVX2 or better)? */
bool mq_dnnl_is_there(void);

/* Such as "onednn 2.6.3 avx512_core_vnni", or "none"; static. */
const char *mq_dnnl_name(void);

/* Threads of what the calling thread makes and runs from now on; 1 before the first call. */
void mq_dnnl_threads(int count);

/* --- x W + b with a constant W, for any number of rows --- */

typedef struct mq_dnnl_dense mq_dnnl_dense;

typedef struct mq_dnnl_dense_spec {
    bool is_int8;       /* x uint8 [m,k], w int8, y int32, no bias; otherwise all are float32 */
    bool is_transposed; /* w is stored [n,k] and not [k,n] */
    bool is_relu;
    int64_t k, n;
    const void *w;     /* borrowed, as all of it */
    const float *bias; /* [n], or NULL */
} mq_dnnl_dense_spec;

/* NULL: there is none (for bytes: no exact one, which takes VNNI). W is packed when the first
 * kernel is made, into the arena, which must outlive the object. */
mq_dnnl_dense *mq_dnnl_dense_new(const mq_dnnl_dense_spec *spec, mq_arena *arena);
void mq_dnnl_dense_free(mq_dnnl_dense *dense);

/* Makes the kernel for m rows; again is quick. The last 16 different m are kept. */
bool mq_dnnl_dense_ready(mq_dnnl_dense *dense, int64_t m);

/* Bytes of scratch that a run needs; 0 also where there is no kernel for m. */
size_t mq_dnnl_dense_scratch(const mq_dnnl_dense *dense, int64_t m);

/* y[m,n] = x W + b, relu. False: there is no kernel for m. scratch aligned to 64 bytes. */
bool mq_dnnl_dense_run(mq_dnnl_dense *dense, int64_t m, const void *x, void *y, void *scratch);

#endif

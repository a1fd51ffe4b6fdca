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
#include "shared/tensor/tensor.h"
#include "worker/packs/packs.h"

/* Is there a oneDNN, and does it have kernels for this CPU (x86-64 with AVX2 or better)? */
bool mq_dnnl_is_there(void);

/* And products of bytes into 32-bit sums that do not saturate on the way (VNNI)? */
bool mq_dnnl_has_bytes(void);

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
    mq_packs *packs;   /* where W packed is kept; NULL: in the arena */
    mq_pack_key key;   /* of W, form 0 */
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

/* --- convolutions with constant weights --- */

/* Layouts of [N, C, D1, ..]: plain as ONNX has them, or packed as kernels like them: floats
 * [N, C', D1, .., B] in blocks of B = mq_dnnl_block() channels, the last one filled up with zeros;
 * bytes [N, D1, .., C]. */
int mq_dnnl_block(void);

enum { MQ_DNNL_AXES_MAX = 3 };

typedef struct mq_dnnl_conv_spec {
    mq_dtype x_type, y_type; /* float32 both; or bytes (u8, i8) to bytes or int32 */
    int32_t axes;            /* 1..MQ_DNNL_AXES_MAX spatial ones */
    int64_t channels, maps, group;
    int64_t kernel[MQ_DNNL_AXES_MAX], stride[MQ_DNNL_AXES_MAX], dilation[MQ_DNNL_AXES_MAX];
    const void *w;       /* [maps, channels/group, kernel..], float32 or int8; borrowed, as all */
    const void *bias;    /* [maps] float32, for bytes int32; or NULL */
    const float *scales; /* bytes to bytes: [maps], y = round((sum + bias) scale) + y_zero */
    int32_t x_zero, y_zero;
    float low, high;               /* floats: y is clamped to these; infinities: it is not */
    bool x_is_packed, y_is_packed; /* layouts; weights and bias are always plain */
    bool has_sum;                  /* floats, packed y: adds to what y holds, before the clamp */
    mq_packs *packs;               /* where W packed is kept; NULL: in the arena */
    mq_pack_key key;               /* of W, form 0 */
} mq_dnnl_conv_spec;

/* What a kernel is made for. */
typedef struct mq_dnnl_conv_size {
    int64_t batch;
    int64_t in[MQ_DNNL_AXES_MAX], out[MQ_DNNL_AXES_MAX];
    int64_t begin[MQ_DNNL_AXES_MAX], end[MQ_DNNL_AXES_MAX]; /* padding */
} mq_dnnl_conv_size;

typedef struct mq_dnnl_conv mq_dnnl_conv;

/* As mq_dnnl_dense_*: NULL and false mean that there is none. The last 8 sizes are kept. */
mq_dnnl_conv *mq_dnnl_conv_new(const mq_dnnl_conv_spec *spec, mq_arena *arena);
void mq_dnnl_conv_free(mq_dnnl_conv *conv);
bool mq_dnnl_conv_ready(mq_dnnl_conv *conv, const mq_dnnl_conv_size *size);
bool mq_dnnl_conv_has(const mq_dnnl_conv *conv, const mq_dnnl_conv_size *size);
size_t mq_dnnl_conv_scratch(const mq_dnnl_conv *conv, const mq_dnnl_conv_size *size);
bool mq_dnnl_conv_run(mq_dnnl_conv *conv, const mq_dnnl_conv_size *size, const void *x, void *y,
                      void *scratch);

#endif

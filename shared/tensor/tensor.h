/* Tensors as everything here passes them: an element type, a shape of at most 8 dimensions and
 * row-major, little-endian, borrowed bytes. Shapes from outside are checked before any product. */
#ifndef MQ_TENSOR_TENSOR_H
#define MQ_TENSOR_TENSOR_H

#include "shared/base/error.h"
#include "shared/base/span.h"

typedef enum mq_dtype {
    MQ_DT_NONE = 0,
#define MQ_DTYPE(name, text, bytes, onnx, safetensors, oip) MQ_DT_##name = onnx,
#include "shared/tensor/dtype.def"
#undef MQ_DTYPE
} mq_dtype;

enum { MQ_RANK_MAX = 8 };
#define MQ_DIM_MAX INT64_C(0x7fffffff)

typedef struct mq_shape {
    int32_t rank; /* 0 = scalar */
    int64_t dims[MQ_RANK_MAX];
} mq_shape;

typedef struct mq_tensor {
    mq_dtype dtype;
    mq_shape shape;
    void *data;   /* borrowed; element count * mq_dtype_bytes */
    size_t bytes; /* length of data */
} mq_tensor;

/* 0 for MQ_DT_NONE, MQ_DT_STR and unknown values. */
size_t mq_dtype_bytes(mq_dtype dtype);

/* Lower-case name such as "float32"; "none" when unknown. */
const char *mq_dtype_name(mq_dtype dtype);
const char *mq_dtype_safetensors(mq_dtype dtype); /* "F32" */
const char *mq_dtype_oip(mq_dtype dtype);         /* "FP32" */

/* Each gives MQ_DT_NONE when the name is not known. */
mq_dtype mq_dtype_parse(mq_span text);
mq_dtype mq_dtype_parse_safetensors(mq_span text);
mq_dtype mq_dtype_parse_oip(mq_span text);

/* Number of elements; MQ_E_ARG with a sentence when rank is outside 0..8, a dimension outside
 * 0..2^31-1, or the product overflows. A dimension of 0 gives 0 elements. */
MQ_MUST_USE mq_code mq_shape_count(const mq_shape *shape, size_t *out, mq_error *err);

bool mq_shape_eq(const mq_shape *a, const mq_shape *b);

/* "[2,3,4]" into out; cut when too long. Returns out. */
char *mq_shape_text(const mq_shape *shape, char *out, size_t size);

/* Checks dtype, shape and that data.len is exactly the bytes they need; fills *out (borrows data).
 */
MQ_MUST_USE mq_code mq_tensor_of(mq_tensor *out, mq_dtype dtype, const mq_shape *shape,
                                 mq_span data, mq_error *err);

#endif

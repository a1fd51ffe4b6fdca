/* Tensors in files as people have them: NPY (https://numpy.org/doc/stable/reference/generated/
 * numpy.lib.format.html, versions 1 to 3, little-endian, C order) and JSON (nested lists of
 * numbers). */
#ifndef MQ_CLI_NPY_H
#define MQ_CLI_NPY_H

#include <jansson.h>

#include "client/include/maasq.h"
#include "shared/base/buf.h"
#include "shared/base/error.h"

/* Reads an NPY file's bytes: dtype, rank, shape and data (borrowed from bytes). Errors name what is
 * wrong at which byte. */
MQ_MUST_USE mq_code mq_npy_read(mq_span bytes, maasq_tensor *out, mq_error *err);

/* Appends an NPY file. */
MQ_MUST_USE mq_code mq_npy_write(const maasq_tensor *tensor, mq_buf *out, mq_error *err);

/* Nested lists into a tensor of `dtype` (float32, float64, int32, int64, uint8); lists of one level
 * must have one length. Data are appended to store and pointed into. */
MQ_MUST_USE mq_code mq_json_tensor(const json_t *lists, int dtype, maasq_tensor *out, mq_buf *store,
                                   mq_error *err);

/* A tensor as nested lists; owned by the caller. NULL for a type without numbers. */
json_t *mq_tensor_json(const maasq_tensor *tensor);

/* Number i of a tensor. */
double mq_tensor_number(const maasq_tensor *tensor, size_t i);

/* Product of the dimensions. */
size_t mq_tensor_count(const maasq_tensor *tensor);

#endif

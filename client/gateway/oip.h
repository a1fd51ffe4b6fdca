/* Open Inference Protocol v2, the inference exchange: request bytes to tensors, tensors to response
 * bytes, in JSON or with the binary tensor extension. Pure; knows no sockets and no models.
 *
 * Binary extension: the body is JSON, then raw tensors in the order in which inputs name them;
 * the header Inference-Header-Content-Length tells how long the JSON is. An input's parameter
 * binary_data_size stands in place of its data. Little-endian, row-major.
 * https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data. */
#ifndef MQ_GATEWAY_OIP_H
#define MQ_GATEWAY_OIP_H

#include <jansson.h>

#include "client/include/maasq.h"
#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/tensor/tensor.h"

enum {
    MQ_OIP_ID_SIZE = 256,
    MQ_OIP_VALUES_MAX = 1500000,        /* JSON values, lists and objects in one request */
    MQ_OIP_TENSOR_BYTES_MAX = 16 << 20, /* all inputs of one request */
    MQ_OIP_TIMEOUT_MS = 30000,          /* when the request names none */
    MQ_OIP_TIMEOUT_MS_MAX = 600000,
};

typedef struct mq_oip_output {
    char name[MAASQ_NAME_SIZE];
    bool is_binary;
} mq_oip_output;

typedef struct mq_oip_request {
    char id[MQ_OIP_ID_SIZE]; /* "" = none */
    int64_t timeout_ms;
    bool is_binary;                         /* outputs that say nothing else */
    uint32_t input_count, output_count;     /* no outputs = all of the model's */
    maasq_tensor inputs[MAASQ_TENSORS_MAX]; /* data: in the arena, or borrowed from the body */
    mq_oip_output outputs[MAASQ_TENSORS_MAX];
} mq_oip_request;

/* Reads a body. json_bytes: length of the JSON in it, -1 = all. Errors name the field. */
MQ_MUST_USE mq_code mq_oip_read(mq_oip_request *out, mq_arena *arena, mq_span body,
                                int64_t json_bytes, mq_error *err);

/* A body that is nothing but the one input's bytes (header value 0): name, type and shape are the
 * model's, whose single variable dimension (-1) follows from the length. */
MQ_MUST_USE mq_code mq_oip_read_raw(mq_oip_request *out, mq_span body, const char *name,
                                    mq_dtype dtype, const mq_shape *shape, mq_error *err);

/* Appends the response. *json_bytes: length of the JSON part when tensors follow it, else 0. An
 * output that was asked for and is not there: MQ_E_NOT_FOUND; NaN or infinity in JSON: MQ_E_ARG. */
MQ_MUST_USE mq_code mq_oip_write(const mq_oip_request *request, const char *model,
                                 const char *version, const maasq_tensor *outputs, size_t count,
                                 mq_buf *out, size_t *json_bytes, mq_error *err);

/* One number or bool of JSON into element `index` of data; the reader's and its test's. */
MQ_MUST_USE mq_code mq_oip_store(mq_dtype dtype, const json_t *value, void *data, size_t index,
                                 mq_error *err);

/* Appends a tensor's elements as a flat JSON array. */
MQ_MUST_USE mq_code mq_oip_print(mq_dtype dtype, const void *data, size_t count, mq_buf *out,
                                 mq_error *err);

/* Parses text with limits: at most MQ_OIP_VALUES_MAX values, no duplicate keys, no trailing bytes.
 * Returns owned (json_decref), NULL with MQ_E_FORMAT or MQ_E_LIMIT in err. */
json_t *mq_json_read(mq_span text, mq_error *err);

#endif

/* Safetensors: the container of inference requests and answers, dataset shards and checkpoints.
 *
 *     +----------------+--------------------------------+---------------------------+
 *     | u64 LE: length | JSON header, padded with ' '   | tensor bytes, back to back|
 *     +----------------+--------------------------------+---------------------------+
 *     {"__metadata__":{"k":"v"},"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}
 *
 * (https://github.com/huggingface/safetensors, section Format.) Bytes come from outside and are
 * checked whole before anything is handed out: offsets cover the data exactly once (no gap, no
 * overlap, nothing behind the end), sizes follow from dtype and shape, names are unique. Reading
 * copies nothing; up to MQ_ST_INLINE tensors it does not allocate. Names with JSON escapes and
 * keys other than dtype, shape and data_offsets are refused. */
#ifndef MQ_TENSOR_SAFETENSORS_H
#define MQ_TENSOR_SAFETENSORS_H

#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/tensor/tensor.h"

enum {
    MQ_ST_HEADER_MAX = 1 << 20, /* bytes of JSON */
    MQ_ST_TENSORS_MAX = 4096,
    MQ_ST_NAME_MAX = 512, /* bytes of a tensor's name; at least 1 */
    MQ_ST_INLINE = 8,
};

typedef struct mq_st_entry {
    mq_span name;     /* borrowed: from the bytes read, or from whoever writes */
    mq_tensor tensor; /* data borrowed likewise */
} mq_st_entry;

/* Do not copy the struct: entries may point into it. */
typedef struct mq_safetensors {
    mq_st_entry *entries; /* count of them, in the header's order */
    uint32_t count;
    bool is_aligned; /* every tensor's data is aligned for its element type; else copy before use */
    mq_span metadata; /* the __metadata__ object as JSON text (checked: strings only), or empty */
    mq_arena arena;
    mq_st_entry few[MQ_ST_INLINE];
} mq_safetensors;

/* Reads. bytes are borrowed until release. Release also after an error. MQ_E_FORMAT names the
 * tensor or the byte offset; MQ_E_LIMIT a stated limit; MQ_E_UNSUPPORTED a dtype. */
MQ_MUST_USE mq_code mq_safetensors_read(mq_safetensors *st, mq_span bytes, mq_error *err);
void mq_safetensors_release(mq_safetensors *st);

/* The tensor of that name, or NULL. Borrowed until release. */
const mq_tensor *mq_safetensors_find(const mq_safetensors *st, mq_span name);

/* Appends a whole file to out. metadata: JSON object of strings, or empty. tensor.bytes must fit
 * dtype and shape. Data are laid out by descending element size and start at a multiple of 64, so
 * that they are aligned wherever the file is. The header keeps the order of entries. */
MQ_MUST_USE mq_code mq_safetensors_write(const mq_st_entry *entries, uint32_t count,
                                         mq_span metadata, mq_buf *out, mq_error *err);

/* The same without copying data in: each entry's dtype and shape are read, its data and bytes are
 * set to where the caller writes them, borrowed from out until the next append. The bytes there are
 * not initialized. out should be empty, else the data are aligned only relative to its length. */
MQ_MUST_USE mq_code mq_safetensors_reserve(mq_st_entry *entries, uint32_t count, mq_span metadata,
                                           mq_buf *out, mq_error *err);

#endif

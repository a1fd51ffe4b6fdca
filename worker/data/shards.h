/* Rows in, shards out: what every importer writes to. Rows are gathered into blobs of about
 * MQ_SHARD_BYTES in safetensors layout ("x", "y"; see dataset.h), statistics are kept on the way.
 */
#ifndef MQ_WORKER_DATA_SHARDS_H
#define MQ_WORKER_DATA_SHARDS_H

#include "worker/data/dataset.h"

enum {
    MQ_SHARD_BYTES = 6 << 20, /* aim; a shard holds at least one row */
    MQ_SHARD_ROW_BYTES_MAX = 256 << 20,
    MQ_SHARD_CLASS_COUNTS_MAX = 1000, /* classes whose counts go into the meta */
};

/* What the rows are. */
typedef struct mq_shards_spec {
    mq_dtype x_dtype; /* MQ_DT_U8 or MQ_DT_F32 */
    mq_shape x_shape; /* of one row */
    mq_dtype y_dtype; /* MQ_DT_U8, MQ_DT_I32, MQ_DT_F32 or MQ_DT_NONE */
    int32_t classes;  /* > 0 for MQ_DT_U8 and MQ_DT_I32, else 0 */
} mq_shards_spec;

typedef struct mq_shards mq_shards;

/* The host is borrowed until free. rows_total (0: not known) is for progress reports. */
MQ_MUST_USE mq_code mq_shards_new(mq_shards **out, mq_host *host, const mq_shards_spec *spec,
                                  uint64_t rows_total, mq_error *err);
void mq_shards_free(mq_shards *shards);

/* Appends count rows: x of x_dtype, y (ignored without labels) of y_dtype, any alignment. Labels
 * were checked by the caller to be in 0..classes-1. */
MQ_MUST_USE mq_code mq_shards_add(mq_shards *shards, uint64_t count, const void *x, const void *y,
                                  mq_error *err);

/* Stores the last shard. MQ_E_FORMAT when there was no row at all. */
MQ_MUST_USE mq_code mq_shards_end(mq_shards *shards, mq_error *err);

uint64_t mq_shards_rows(const mq_shards *shards);

/* After end: hashes of the shards for mq_publish (borrowed until free), and the meta's members
 * "rows", "features", "shards", "stats" as JSON text, without braces around them. categories: JSON
 * list of the classes' names, or empty. */
uint32_t mq_shards_blobs(const mq_shards *shards, const char ***out);
void mq_shards_meta(const mq_shards *shards, mq_span categories, mq_buf *out);

#endif

/* What a blob store implements; private to shared/blob. blob.c checks names, sizes and hashes
 * before and after these calls, so an implementation only moves bytes. */
#ifndef MQ_BLOB_STORE_H
#define MQ_BLOB_STORE_H

#include "shared/base/url.h"
#include "shared/blob/blob.h"

/* One piece of a blob in order; a failure ends the read with that code. */
typedef mq_code mq_blob_sink(void *arg, mq_span piece, mq_error *err);

typedef struct mq_blob_ops {
    mq_code (*put)(mq_blobs *, const char *hash, mq_span bytes, int64_t deadline_ms, mq_error *);
    mq_code (*get)(mq_blobs *, const char *hash, int64_t deadline_ms, mq_blob_sink *, void *arg,
                   mq_error *);
    /* MQ_OK only when every byte is there; renews the time to live. */
    mq_code (*find)(mq_blobs *, const char *hash, size_t *size, int64_t deadline_ms, mq_error *);
    mq_code (*pin)(mq_blobs *, const char *hash, int64_t deadline_ms, mq_error *);
    mq_code (*unpin)(mq_blobs *, const char *hash, int64_t deadline_ms, mq_error *);
    void (*free)(mq_blobs *);
} mq_blob_ops;

struct mq_blobs {
    const mq_blob_ops *ops;
};

/* deadline_ms everywhere: monotonic, as mq_clock_mono_ms. */
MQ_MUST_USE mq_code mq_blobs_redis_new(mq_blobs **out, const mq_url *url, mq_error *err);
MQ_MUST_USE mq_code mq_blobs_dir_new(mq_blobs **out, const mq_url *url, mq_error *err);

#endif

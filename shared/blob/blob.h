/* Blobs: immutable bytes named by their SHA-256, cut into chunks of 1 MiB. Two stores behind one
 * interface: a second redis-server, and a directory. Calls block (worker: blob thread; client:
 * caller); every call has a deadline.
 *
 * In Redis: mq:b:<hash>:<n> = chunk n, mq:b:<hash> = "<bytes>" written last, so that a blob exists
 * only when it is whole. Writing, or finding it present, renews a 24 h time to live on all its
 * keys; pin makes them permanent (the commit that names a blob is sent only after its pin), unpin
 * gives the 24 h back. In a directory: <dir>/<2 hex>/<hash>, written as a temporary file, fsynced,
 * renamed; pin is a hard link <dir>/pin/<hash>. */
#ifndef MQ_BLOB_BLOB_H
#define MQ_BLOB_BLOB_H

#include "shared/base/error.h"
#include "shared/base/file.h"
#include "shared/base/sha256.h"

enum {
    MQ_BLOB_CHUNK_BYTES = 1 << 20,
    MQ_BLOB_TTL_MS = 24 * 3600 * 1000,
    MQ_BLOB_DEADLINE_MS = 60000, /* for one whole put or get */
};
#define MQ_BLOB_BYTES_MAX ((size_t)1 << 30)

typedef struct mq_blobs mq_blobs;

/* url: "unix:/path.sock[,user=U,secret=FILE]", "tcp:HOST:PORT[,user=U,secret=FILE]" or "dir:/path".
 * Connects at the first call and again after a failure. Not thread-safe: one per thread. */
MQ_MUST_USE mq_code mq_blobs_new(mq_blobs **out, const char *url, mq_error *err);
void mq_blobs_free(mq_blobs *blobs);

/* Stores bytes (at most MQ_BLOB_BYTES_MAX) and writes their name. Idempotent. */
MQ_MUST_USE mq_code mq_blobs_put(mq_blobs *blobs, mq_span bytes, char hash[MQ_SHA256_HEX],
                                 mq_error *err);

/* Appends the blob's bytes to a file descriptor, hashing as they pass: MQ_E_CORRUPT when they are
 * not what the name says, MQ_E_NOT_FOUND, MQ_E_IO. size: may be NULL. */
MQ_MUST_USE mq_code mq_blobs_get(mq_blobs *blobs, const char *hash, int fd, size_t *size,
                                 mq_error *err);

/* MQ_OK and *size (may be NULL), or MQ_E_NOT_FOUND. Renews the time to live. */
MQ_MUST_USE mq_code mq_blobs_find(mq_blobs *blobs, const char *hash, size_t *size, mq_error *err);

MQ_MUST_USE mq_code mq_blobs_pin(mq_blobs *blobs, const char *hash, mq_error *err);
MQ_MUST_USE mq_code mq_blobs_unpin(mq_blobs *blobs, const char *hash, mq_error *err);

/* Local cache: files named by hash in a directory shared by all processes of a host, filled once
 * (temporary file + rename), verified when filled, mapped read-only. Kept below limit_bytes by
 * removing the files that were used longest ago (mapped ones stay readable). */
typedef struct mq_blob_cache mq_blob_cache;
MQ_MUST_USE mq_code mq_blob_cache_new(mq_blob_cache **out, const char *dir, size_t limit_bytes,
                                      mq_error *err);
void mq_blob_cache_free(mq_blob_cache *cache);

/* Descriptor (owned by the caller, read-only) of the cached file, fetched from blobs when absent.
 */
MQ_MUST_USE mq_code mq_blob_cache_open(mq_blob_cache *cache, mq_blobs *blobs, const char *hash,
                                       int *fd, mq_error *err);

#endif

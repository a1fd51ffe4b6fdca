/* Front of the blob stores: names, limits, deadlines and hashes. Nothing below it is trusted to
 * give back what was put in. Knows neither Redis nor folders. */
#include "shared/blob/blob.h"

#include "shared/base/clock.h"
#include "shared/blob/store.h"

/* A running read: pieces go to the hash and to the descriptor. */
typedef struct reading {
    mq_sha256 *hash;
    int fd;
    size_t size;
} reading;

static mq_code check_name(const char *hash, mq_error *err);
static mq_code take_piece(void *arg, mq_span piece, mq_error *err);

mq_code mq_blobs_new(mq_blobs **out, const char *url, mq_error *err)
{
    *out = NULL;
    mq_url at;
    mq_code code = mq_url_parse(&at, url, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "blobs");
    }
    return at.kind == MQ_URL_DIR ? mq_blobs_dir_new(out, &at, err)
                                 : mq_blobs_redis_new(out, &at, err);
}

void mq_blobs_free(mq_blobs *blobs)
{
    if (blobs != NULL) {
        blobs->ops->free(blobs);
    }
}

mq_code mq_blobs_put(mq_blobs *blobs, mq_span bytes, char hash[MQ_SHA256_HEX], mq_error *err)
{
    hash[0] = '\0';
    if (bytes.len > MQ_BLOB_BYTES_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "blob: %zu bytes; the limit is %zu: cut it into shards",
                       bytes.len, MQ_BLOB_BYTES_MAX);
    }
    mq_sha256_hex_of(bytes, hash);
    int64_t deadline_ms = mq_clock_mono_ms() + MQ_BLOB_DEADLINE_MS;
    size_t size = 0;
    mq_code code = blobs->ops->find(blobs, hash, &size, deadline_ms, err);
    if (code == MQ_E_NOT_FOUND || (code == MQ_OK && size != bytes.len)) {
        code = blobs->ops->put(blobs, hash, bytes, deadline_ms, err);
    }
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "blob %.12s: put", hash);
}

mq_code mq_blobs_get(mq_blobs *blobs, const char *hash, int fd, size_t *size, mq_error *err)
{
    if (check_name(hash, err) != MQ_OK) {
        return MQ_E_ARG;
    }
    reading to = {mq_sha256_new(), fd, 0};
    int64_t deadline_ms = mq_clock_mono_ms() + MQ_BLOB_DEADLINE_MS;
    mq_code code = blobs->ops->get(blobs, hash, deadline_ms, take_piece, &to, err);
    uint8_t digest[MQ_SHA256_BYTES];
    char seen[MQ_SHA256_HEX];
    mq_sha256_end(to.hash, digest);
    mq_sha256_hex(digest, seen);
    if (code != MQ_OK) {
        return mq_wrap(err, "blob %.12s: get", hash);
    }
    if (strcmp(seen, hash) != 0) {
        return mq_fail(err, MQ_E_CORRUPT, "blob %.12s: the stored %zu bytes hash to %.12s", hash,
                       to.size, seen);
    }
    if (size != NULL) {
        *size = to.size;
    }
    return MQ_OK;
}

mq_code mq_blobs_find(mq_blobs *blobs, const char *hash, size_t *size, mq_error *err)
{
    if (check_name(hash, err) != MQ_OK) {
        return MQ_E_ARG;
    }
    size_t found = 0;
    int64_t deadline_ms = mq_clock_mono_ms() + MQ_BLOB_DEADLINE_MS;
    mq_code code = blobs->ops->find(blobs, hash, &found, deadline_ms, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "blob %.12s: find", hash);
    }
    if (size != NULL) {
        *size = found;
    }
    return MQ_OK;
}

mq_code mq_blobs_pin(mq_blobs *blobs, const char *hash, mq_error *err)
{
    if (check_name(hash, err) != MQ_OK) {
        return MQ_E_ARG;
    }
    int64_t deadline_ms = mq_clock_mono_ms() + MQ_BLOB_DEADLINE_MS;
    mq_code code = blobs->ops->pin(blobs, hash, deadline_ms, err);
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "blob %.12s: pin", hash);
}

mq_code mq_blobs_unpin(mq_blobs *blobs, const char *hash, mq_error *err)
{
    if (check_name(hash, err) != MQ_OK) {
        return MQ_E_ARG;
    }
    int64_t deadline_ms = mq_clock_mono_ms() + MQ_BLOB_DEADLINE_MS;
    mq_code code = blobs->ops->unpin(blobs, hash, deadline_ms, err);
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "blob %.12s: unpin", hash);
}

static mq_code check_name(const char *hash, mq_error *err)
{
    if (hash == NULL || !mq_sha256_is_hex(mq_str(hash))) {
        return mq_fail(err, MQ_E_ARG,
                       "blob name \"%.80s\": must be 64 lower-case hex digits (a SHA-256)",
                       hash == NULL ? "" : hash);
    }
    return MQ_OK;
}

static mq_code take_piece(void *arg, mq_span piece, mq_error *err)
{
    reading *to = arg;
    if (piece.len > MQ_BLOB_BYTES_MAX - to->size) {
        return mq_fail(err, MQ_E_LIMIT, "more than %zu bytes are stored under this name",
                       MQ_BLOB_BYTES_MAX);
    }
    to->size += piece.len;
    mq_sha256_add(to->hash, piece);
    return mq_fd_write(to->fd, piece, err);
}

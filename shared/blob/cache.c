/* Local cache of blobs: one folder a host, files named by hash. A file appears under its name only
 * after its bytes were checked, so a reader needs no lock; filling takes a lock per first two
 * digits, so that ten slots wanting one model fetch it once. Knows no store beyond mq_blobs. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/blob/blob.h"

enum {
    CACHE_FILES_MAX = 65536,
    LOCK_POLL_MS = 10,
    TEMP_AGE_S = 3600, /* an unfinished file this old belongs to nobody */
};

struct mq_blob_cache {
    char dir[PATH_MAX - 128];
    size_t limit_bytes;
};

/* A cached file as eviction sees it. */
typedef struct cached {
    struct timespec used;
    size_t bytes;
    char name[MQ_SHA256_HEX];
} cached;

static mq_code open_file(const mq_blob_cache *cache, const char *hash, int *fd, mq_error *err);
static mq_code fill(mq_blob_cache *cache, mq_blobs *blobs, const char *hash, mq_error *err);
static mq_code fetch(mq_blob_cache *cache, mq_blobs *blobs, const char *hash, mq_error *err);
static mq_code lock(const mq_blob_cache *cache, const char *hash, int *fd, mq_error *err);
static void make_room(const mq_blob_cache *cache, size_t bytes);
static cached *list(int dir_fd, DIR *dir, size_t *count, size_t *total);
static int by_use(const void *a, const void *b);

mq_code mq_blob_cache_new(mq_blob_cache **out, const char *dir, size_t limit_bytes, mq_error *err)
{
    *out = NULL;
    if (limit_bytes == 0) {
        return mq_fail(err, MQ_E_ARG, "cache: the limit must be at least 1 byte");
    }
    mq_blob_cache *cache = calloc(1, sizeof *cache);
    if (cache == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a cache");
    }
    cache->limit_bytes = limit_bytes;
    mq_code code = mq_span_copy(mq_str(dir), cache->dir, sizeof cache->dir)
                       ? mq_dir_make(dir, err)
                       : mq_fail(err, MQ_E_ARG, "cache folder: path of more than %zu bytes",
                                 sizeof cache->dir - 1);
    if (code != MQ_OK) {
        free(cache);
        return mq_wrap(err, "cache");
    }
    *out = cache;
    return MQ_OK;
}

void mq_blob_cache_free(mq_blob_cache *cache)
{
    free(cache);
}

mq_code mq_blob_cache_open(mq_blob_cache *cache, mq_blobs *blobs, const char *hash, int *fd,
                           mq_error *err)
{
    *fd = -1;
    if (hash == NULL || !mq_sha256_is_hex(mq_str(hash))) {
        return mq_fail(err, MQ_E_ARG, "blob name: must be 64 lower-case hex digits (a SHA-256)");
    }
    mq_code code = open_file(cache, hash, fd, err);
    if (code != MQ_E_NOT_FOUND) {
        return code;
    }
    /* Eviction by another process may take the file between filling and opening: once more then. */
    for (int i = 0; i < 2 && code == MQ_E_NOT_FOUND; i++) {
        code = fill(cache, blobs, hash, err);
        if (code != MQ_OK) {
            return code;
        }
        code = open_file(cache, hash, fd, err);
    }
    return code == MQ_E_NOT_FOUND
               ? mq_fail(err, MQ_E_LIMIT,
                         "cache %s: %.12s is evicted as soon as it is there: raise the cache's "
                         "limit of %zu bytes",
                         cache->dir, hash, cache->limit_bytes)
               : code;
}

static mq_code open_file(const mq_blob_cache *cache, const char *hash, int *fd, mq_error *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", cache->dir, hash);
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (*fd < 0) {
        return mq_fail(err, errno == ENOENT ? MQ_E_NOT_FOUND : MQ_E_IO, "%s: %s", path,
                       strerror(errno));
    }
    futimens(*fd, NULL); /* used just now; a read-only cache merely loses the order */
    return MQ_OK;
}

static mq_code fill(mq_blob_cache *cache, mq_blobs *blobs, const char *hash, mq_error *err)
{
    int lock_fd = -1;
    int fd = -1;
    mq_code code = lock(cache, hash, &lock_fd, err);
    if (code != MQ_OK) {
        return code;
    }
    code = open_file(cache, hash, &fd, err);
    if (code == MQ_OK) {
        close(fd); /* another process filled it while we waited */
    } else if (code == MQ_E_NOT_FOUND) {
        code = fetch(cache, blobs, hash, err);
    }
    close(lock_fd);
    return code;
}

static mq_code fetch(mq_blob_cache *cache, mq_blobs *blobs, const char *hash, mq_error *err)
{
    size_t size;
    mq_code code = mq_blobs_find(blobs, hash, &size, err);
    if (code != MQ_OK) {
        return code;
    }
    if (size > cache->limit_bytes) {
        return mq_fail(err, MQ_E_LIMIT,
                       "blob %.12s: %zu bytes do not fit the cache %s of %zu bytes", hash, size,
                       cache->dir, cache->limit_bytes);
    }
    make_room(cache, size);
    char temp[PATH_MAX];
    char path[PATH_MAX];
    snprintf(temp, sizeof temp, "%s/new.XXXXXX", cache->dir);
    snprintf(path, sizeof path, "%s/%s", cache->dir, hash);
    int fd = mkostemp(temp, O_CLOEXEC);
    if (fd < 0) {
        return mq_fail(err, MQ_E_IO, "%s: %s", temp, strerror(errno));
    }
    code = mq_blobs_get(blobs, hash, fd, NULL, err);
    if (code == MQ_OK && fchmod(fd, 0400) != 0) {
        code = mq_fail(err, MQ_E_IO, "%s: %s", temp, strerror(errno));
    }
    if (code == MQ_OK && rename(temp, path) != 0) {
        code = mq_fail(err, MQ_E_IO, "%s: %s", path, strerror(errno));
    }
    close(fd);
    if (code != MQ_OK) {
        unlink(temp);
    }
    return code;
}

/* Lock files stay: removing one while another process waits on it would make two locks of it. */
static mq_code lock(const mq_blob_cache *cache, const char *hash, int *fd, mq_error *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/lock.%.2s", cache->dir, hash);
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*fd < 0) {
        return mq_fail(err, MQ_E_IO, "%s: %s", path, strerror(errno));
    }
    int64_t deadline_ms = mq_clock_mono_ms() + MQ_BLOB_DEADLINE_MS;
    while (flock(*fd, LOCK_EX | LOCK_NB) != 0) {
        if ((errno != EWOULDBLOCK && errno != EINTR) || mq_clock_mono_ms() > deadline_ms) {
            int why = errno;
            close(*fd);
            *fd = -1;
            return mq_fail(err, MQ_E_TIMEOUT, "%s: another process holds it: %s", path,
                           strerror(why));
        }
        mq_clock_sleep_ms(LOCK_POLL_MS);
    }
    return MQ_OK;
}

/* Removes the files used longest ago until `bytes` more fit below the limit. */
static void make_room(const mq_blob_cache *cache, size_t bytes)
{
    DIR *dir = opendir(cache->dir);
    if (dir == NULL) {
        return;
    }
    size_t count = 0;
    size_t total = 0;
    cached *files = list(dirfd(dir), dir, &count, &total);
    if (count > 0) {
        qsort(files, count, sizeof *files, by_use);
    }
    for (size_t i = 0; i < count && total > cache->limit_bytes - bytes; i++) {
        if (unlinkat(dirfd(dir), files[i].name, 0) == 0) {
            total -= files[i].bytes;
        }
    }
    free(files);
    closedir(dir);
}

/* The cached files (owned by the caller, NULL when there are none) and the sum of their bytes. */
static cached *list(int dir_fd, DIR *dir, size_t *count, size_t *total)
{
    cached *files = NULL;
    size_t capacity = 0;
    const struct dirent *entry;
    while (*count < CACHE_FILES_MAX && (entry = readdir(dir)) != NULL) {
        struct stat st;
        if (fstatat(dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode)) {
            continue;
        }
        if (strncmp(entry->d_name, "new.", 4) == 0 &&
            st.st_mtim.tv_sec < mq_clock_wall_ms() / 1000 - TEMP_AGE_S) {
            unlinkat(dir_fd, entry->d_name, 0);
        }
        if (!mq_sha256_is_hex(mq_str(entry->d_name))) {
            continue;
        }
        if (*count == capacity) {
            capacity = capacity == 0 ? 64 : 2 * capacity;
            cached *more = realloc(files, capacity * sizeof *files);
            if (more == NULL) {
                break;
            }
            files = more;
        }
        cached *file = &files[(*count)++];
        *file = (cached){.used = st.st_mtim, .bytes = (size_t)st.st_size};
        mq_span_copy(mq_str(entry->d_name), file->name, sizeof file->name);
        *total += file->bytes;
    }
    return files;
}

static int by_use(const void *a, const void *b)
{
    const cached *x = a;
    const cached *y = b;
    if (x->used.tv_sec != y->used.tv_sec) {
        return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    }
    return (x->used.tv_nsec > y->used.tv_nsec) - (x->used.tv_nsec < y->used.tv_nsec);
}

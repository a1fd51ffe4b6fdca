/* Blobs in a folder of one host or of a shared file system; layout in blob.h. The time to live is
 * the file's modification time; a file with a second link (its pin) is permanent. Each put clears
 * the folder it writes to of what has expired, so that there is no collector to run; whoever gives
 * a file a new life holds the folder's lock shared meanwhile, the one who clears holds it alone, so
 * that nothing goes between the look at a file and its removal. Knows no
 * hashes beyond their text; the deadline cannot be kept over a file system that hangs. */
#include "shared/blob/store.h"

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

enum { READ_BYTES = 1 << 20, SWEEP_FILES_MAX = 4096 };

typedef struct dir_blobs {
    mq_blobs base;
    char root[MQ_URL_TEXT_MAX];
} dir_blobs;

static mq_code dir_put(mq_blobs *, const char *, mq_span, int64_t, mq_error *);
static mq_code dir_get(mq_blobs *, const char *, int64_t, mq_blob_sink *, void *, mq_error *);
static mq_code dir_find(mq_blobs *, const char *, size_t *, int64_t, mq_error *);
static mq_code dir_pin(mq_blobs *, const char *, int64_t, mq_error *);
static mq_code dir_unpin(mq_blobs *, const char *, int64_t, mq_error *);
static void dir_free(mq_blobs *);
static mq_code open_blob(mq_blobs *blobs, const char *hash, int *fd, size_t *size, mq_error *err);
static mq_code write_blob(const char *folder, const char *path, mq_span bytes, mq_error *err);
static void sync_folder(const char *folder);
static int lock_folder(mq_blobs *blobs, const char *hash);
static void sweep(const char *folder);
static void file_path(mq_blobs *blobs, const char *hash, char path[PATH_MAX]);
static void pin_path(mq_blobs *blobs, const char *hash, char path[PATH_MAX]);

static const mq_blob_ops ops = {
    .put = dir_put,
    .get = dir_get,
    .find = dir_find,
    .pin = dir_pin,
    .unpin = dir_unpin,
    .free = dir_free,
};

mq_code mq_blobs_dir_new(mq_blobs **out, const mq_url *url, mq_error *err)
{
    dir_blobs *d = calloc(1, sizeof *d);
    if (d == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a blob store");
    }
    d->base.ops = &ops;
    mq_span_copy(mq_str(url->path), d->root, sizeof d->root);
    *out = &d->base;
    return MQ_OK;
}

static void dir_free(mq_blobs *blobs)
{
    free((dir_blobs *)blobs);
}

static mq_code dir_put(mq_blobs *blobs, const char *hash, mq_span bytes, int64_t deadline_ms,
                       mq_error *err)
{
    (void)deadline_ms;
    char folder[PATH_MAX];
    char path[PATH_MAX];
    snprintf(folder, sizeof folder, "%s/%.2s", ((dir_blobs *)blobs)->root, hash);
    file_path(blobs, hash, path);
    mq_code code = mq_dir_make(folder, err);
    if (code != MQ_OK) {
        return code;
    }
    sweep(folder);
    int lock = lock_folder(blobs, hash);
    code = write_blob(folder, path, bytes, err);
    if (lock >= 0) {
        close(lock);
    }
    return code;
}

static mq_code dir_get(mq_blobs *blobs, const char *hash, int64_t deadline_ms, mq_blob_sink *sink,
                       void *arg, mq_error *err)
{
    int fd = -1;
    mq_code code = open_blob(blobs, hash, &fd, NULL, err);
    if (code != MQ_OK) {
        return code;
    }
    uint8_t *piece = malloc(READ_BYTES);
    if (piece == NULL) {
        code = mq_fail(err, MQ_E_LIMIT, "no memory to read into");
    }
    while (code == MQ_OK) {
        ssize_t n = read(fd, piece, READ_BYTES);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            code = mq_fail(err, MQ_E_IO, "read: %s", strerror(errno));
        }
        if (n <= 0) {
            break;
        }
        code = mq_clock_mono_ms() > deadline_ms
                   ? mq_fail(err, MQ_E_TIMEOUT, "reading takes longer than the deadline")
                   : sink(arg, mq_span_of(piece, (size_t)n), err);
    }
    free(piece);
    close(fd);
    return code;
}

static mq_code dir_find(mq_blobs *blobs, const char *hash, size_t *size, int64_t deadline_ms,
                        mq_error *err)
{
    (void)deadline_ms;
    int fd = -1;
    int lock = lock_folder(blobs, hash);
    mq_code code = open_blob(blobs, hash, &fd, size, err);
    if (code == MQ_OK && futimens(fd, NULL) != 0) {
        code = mq_fail(err, MQ_E_IO, "renewing its time: %s", strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
    if (lock >= 0) {
        close(lock);
    }
    return code;
}

static mq_code dir_pin(mq_blobs *blobs, const char *hash, int64_t deadline_ms, mq_error *err)
{
    (void)deadline_ms;
    char folder[PATH_MAX];
    char path[PATH_MAX];
    char pin[PATH_MAX];
    snprintf(folder, sizeof folder, "%s/pin", ((dir_blobs *)blobs)->root);
    file_path(blobs, hash, path);
    pin_path(blobs, hash, pin);
    int made = link(path, pin);
    if (made != 0 && errno == ENOENT && mq_dir_make(folder, err) == MQ_OK) {
        made = link(path, pin);
    }
    if (made != 0 && errno == ENOENT && access(pin, F_OK) != 0) {
        return mq_fail(err, MQ_E_NOT_FOUND, "not in the store");
    }
    if (made != 0 && errno != EEXIST && errno != ENOENT) {
        return mq_fail(err, MQ_E_IO, "%s: %s", pin, strerror(errno));
    }
    /* A sweep may have taken the file between its look and this link: put it back. */
    if (link(pin, path) != 0 && errno != EEXIST) {
        return mq_fail(err, MQ_E_IO, "%s: %s", path, strerror(errno));
    }
    sync_folder(folder);
    return MQ_OK;
}

static mq_code dir_unpin(mq_blobs *blobs, const char *hash, int64_t deadline_ms, mq_error *err)
{
    char pin[PATH_MAX];
    size_t size;
    pin_path(blobs, hash, pin);
    mq_code code = dir_find(blobs, hash, &size, deadline_ms, err);
    if (code != MQ_OK) {
        return code;
    }
    if (unlink(pin) != 0 && errno != ENOENT) {
        return mq_fail(err, MQ_E_IO, "%s: %s", pin, strerror(errno));
    }
    return MQ_OK;
}

/* Opens the file, or its pin when the file is gone. */
static mq_code open_blob(mq_blobs *blobs, const char *hash, int *fd, size_t *size, mq_error *err)
{
    char path[PATH_MAX];
    file_path(blobs, hash, path);
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (*fd < 0 && errno == ENOENT) {
        pin_path(blobs, hash, path);
        *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    }
    if (*fd < 0) {
        return errno == ENOENT ? mq_fail(err, MQ_E_NOT_FOUND, "not in the store")
                               : mq_fail(err, MQ_E_IO, "%s: %s", path, strerror(errno));
    }
    struct stat st;
    if (fstat(*fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(*fd);
        return mq_fail(err, MQ_E_CORRUPT, "%s: not a regular file", path);
    }
    if (size != NULL) {
        *size = (size_t)st.st_size;
    }
    return MQ_OK;
}

static mq_code write_blob(const char *folder, const char *path, mq_span bytes, mq_error *err)
{
    char temp[PATH_MAX];
    snprintf(temp, sizeof temp, "%.3500s/new.XXXXXX", folder);
    int fd = mkostemp(temp, O_CLOEXEC);
    if (fd < 0) {
        return mq_fail(err, MQ_E_IO, "%s: %s", temp, strerror(errno));
    }
    mq_code code = mq_fd_write(fd, bytes, err);
    if (code == MQ_OK && fsync(fd) != 0) {
        code = mq_fail(err, MQ_E_IO, "fsync: %s", strerror(errno));
    }
    close(fd);
    if (code == MQ_OK && rename(temp, path) != 0) {
        code = mq_fail(err, MQ_E_IO, "%s: %s", path, strerror(errno));
    }
    if (code != MQ_OK) {
        unlink(temp);
        return code;
    }
    sync_folder(folder);
    return MQ_OK;
}

static void sync_folder(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

/* The lock of a blob's folder, shared, until the descriptor is closed; -1 when there is none. */
static int lock_folder(mq_blobs *blobs, const char *hash)
{
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s/%.2s", ((dir_blobs *)blobs)->root, hash);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd >= 0 && flock(fd, LOCK_SH) != 0 && errno == EINTR) {
    }
    return fd;
}

/* Removes what nobody pinned or renewed for the time to live, abandoned temporary files included.
 */
static void sweep(const char *folder)
{
    DIR *dir = opendir(folder);
    if (dir == NULL) {
        return;
    }
    if (flock(dirfd(dir), LOCK_EX | LOCK_NB) != 0) { /* others write: the next put clears */
        closedir(dir);
        return;
    }
    int64_t oldest_ms = mq_clock_wall_ms() - MQ_BLOB_TTL_MS;
    const struct dirent *entry;
    for (int i = 0; i < SWEEP_FILES_MAX && (entry = readdir(dir)) != NULL; i++) {
        struct stat st;
        if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(st.st_mode) && st.st_nlink == 1 &&
            (int64_t)st.st_mtim.tv_sec * 1000 < oldest_ms) {
            unlinkat(dirfd(dir), entry->d_name, 0);
        }
    }
    closedir(dir);
}

static void file_path(mq_blobs *blobs, const char *hash, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/%.2s/%s", ((dir_blobs *)blobs)->root, hash, hash);
}

static void pin_path(mq_blobs *blobs, const char *hash, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/pin/%s", ((dir_blobs *)blobs)->root, hash);
}

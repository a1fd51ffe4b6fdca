/* Whole-file helpers; see file.h. */
#include "shared/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

mq_code mq_map_file_fd(mq_map_file *map, int fd, size_t limit, mq_error *err)
{
    struct stat st;
    *map = (mq_map_file){0};
    if (fstat(fd, &st) != 0) {
        return mq_fail(err, MQ_E_IO, "stat: %s", strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return mq_fail(err, MQ_E_ARG, "not a regular file");
    }
    if ((uint64_t)st.st_size > limit) {
        return mq_fail(err, MQ_E_LIMIT, "%lld bytes; the limit is %zu", (long long)st.st_size,
                       limit);
    }
    if (st.st_size == 0) {
        return MQ_OK;
    }
    void *at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        return mq_fail(err, MQ_E_IO, "mmap: %s", strerror(errno));
    }
    map->bytes = mq_span_of(at, (size_t)st.st_size);
    return MQ_OK;
}

mq_code mq_map_file_open(mq_map_file *map, const char *path, size_t limit, mq_error *err)
{
    *map = (mq_map_file){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        mq_code code = errno == ENOENT ? MQ_E_NOT_FOUND : MQ_E_IO;
        return mq_fail(err, code, "%s: %s", path, strerror(errno));
    }
    mq_code code = mq_map_file_fd(map, fd, limit, err);
    close(fd);
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "%s", path);
}

void mq_map_file_rest(const mq_map_file *map)
{
    if (map->bytes.len > 0) { /* a private mapping that nobody writes: nothing is lost */
        (void)madvise((void *)(uintptr_t)map->bytes.data, map->bytes.len, MADV_DONTNEED);
    }
}

void mq_map_file_release(mq_map_file *map)
{
    if (map->bytes.len > 0) {
        munmap((void *)(uintptr_t)map->bytes.data, map->bytes.len);
    }
    *map = (mq_map_file){0};
}

mq_code mq_file_read(const char *path, mq_buf *buf, mq_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        mq_code code = errno == ENOENT ? MQ_E_NOT_FOUND : MQ_E_IO;
        return mq_fail(err, code, "%s: %s", path, strerror(errno));
    }
    mq_code code = MQ_OK;
    uint8_t chunk[65536];
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            code = mq_fail(err, MQ_E_IO, "%s: %s", path, strerror(errno));
        }
        if (n <= 0) {
            break;
        }
        if (!mq_buf_add(buf, chunk, (size_t)n)) {
            code = mq_fail(err, MQ_E_LIMIT, "%s: longer than the limit of %zu bytes", path,
                           buf->limit);
            break;
        }
    }
    close(fd);
    return code;
}

mq_code mq_fd_write(int fd, mq_span bytes, mq_error *err)
{
    while (bytes.len > 0) {
        ssize_t n = write(fd, bytes.data, bytes.len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return mq_fail(err, MQ_E_IO, "write: %s", strerror(errno));
        }
        bytes = mq_span_of(bytes.data + n, bytes.len - (size_t)n);
    }
    return MQ_OK;
}

static void sync_folder(const char *path)
{
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash == NULL) {
        snprintf(folder, sizeof folder, ".");
    } else {
        slash[slash == folder ? 1 : 0] = '\0';
    }
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

mq_code mq_file_write(const char *path, mq_span bytes, unsigned mode, mq_error *err)
{
    char temp[PATH_MAX];
    int len = snprintf(temp, sizeof temp, "%s.tmp.%ld", path, (long)getpid());
    if (len < 0 || (size_t)len >= sizeof temp) {
        return mq_fail(err, MQ_E_ARG, "%s: path is too long", path);
    }
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (fd < 0) {
        return mq_fail(err, MQ_E_IO, "%s: %s", temp, strerror(errno));
    }
    mq_code code = mq_fd_write(fd, bytes, err);
    if (code == MQ_OK && fsync(fd) != 0) {
        code = mq_fail(err, MQ_E_IO, "fsync: %s", strerror(errno));
    }
    close(fd);
    if (code == MQ_OK && rename(temp, path) != 0) {
        code = mq_fail(err, MQ_E_IO, "rename: %s", strerror(errno));
    }
    if (code != MQ_OK) {
        unlink(temp);
        return mq_wrap(err, "%s", path);
    }
    sync_folder(path);
    return MQ_OK;
}

mq_code mq_dir_make(const char *path, mq_error *err)
{
    char part[PATH_MAX];
    if (!mq_span_copy(mq_str(path), part, sizeof part) || part[0] == '\0') {
        return mq_fail(err, MQ_E_ARG, "%s: not a usable path", path);
    }
    for (char *at = part + 1;; at++) {
        if (*at != '/' && *at != '\0') {
            continue;
        }
        char end = *at;
        *at = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST) {
            return mq_fail(err, MQ_E_IO, "%s: %s", part, strerror(errno));
        }
        *at = end;
        if (end == '\0') {
            return MQ_OK;
        }
    }
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *at)
{
    (void)st;
    (void)flag;
    (void)at;
    (void)remove(path); /* what stays keeps its folder, which the last look finds */
    return 0;
}

mq_code mq_dir_remove(const char *path, mq_error *err)
{
    enum { FOLDERS_OPEN = 32 };
    struct stat st;
    if (path[0] == '\0') {
        return mq_fail(err, MQ_E_ARG, "no path to remove");
    }
    (void)nftw(path, remove_one, FOLDERS_OPEN, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    if (lstat(path, &st) == 0) {
        return mq_fail(err, MQ_E_IO, "%s: it or something in it cannot be removed", path);
    }
    return MQ_OK;
}

/* Whole files: read, map, write so that a crash leaves the old or the new file, never a torn one.
 */
#ifndef MQ_BASE_FILE_H
#define MQ_BASE_FILE_H

#include "shared/base/buf.h"
#include "shared/base/error.h"

typedef struct mq_map_file {
    mq_span bytes; /* read-only, valid until release */
} mq_map_file;

/* Maps a regular file of at most limit bytes read-only. Errors name the path. */
MQ_MUST_USE mq_code mq_map_file_open(mq_map_file *map, const char *path, size_t limit,
                                     mq_error *err);
MQ_MUST_USE mq_code mq_map_file_fd(mq_map_file *map, int fd, size_t limit, mq_error *err);
void mq_map_file_release(mq_map_file *map);

/* Gives the pages back that were read so far; they come again when they are read again. */
void mq_map_file_rest(const mq_map_file *map);

/* Appends a file's or a pipe's bytes to buf (bounded by the buffer's own limit). */
MQ_MUST_USE mq_code mq_file_read(const char *path, mq_buf *buf, mq_error *err);

/* Writes path.tmp.<pid>, fsyncs, renames over path, fsyncs the folder. mode as for open(2). */
MQ_MUST_USE mq_code mq_file_write(const char *path, mq_span bytes, unsigned mode, mq_error *err);

/* All bytes to a descriptor, through short writes and EINTR. */
MQ_MUST_USE mq_code mq_fd_write(int fd, mq_span bytes, mq_error *err);

/* mkdir -p with mode 0700 for what is missing. */
MQ_MUST_USE mq_code mq_dir_make(const char *path, mq_error *err);

/* Removes a folder with all that is in it; links are removed, never followed, and other file
 * systems are left alone. Goes on past what cannot be removed and then reports it. MQ_OK when there
 * is no such path. */
MQ_MUST_USE mq_code mq_dir_remove(const char *path, mq_error *err);

#endif

/* A thread that does the supervisor's blob transfers, so that beats never wait for them. Requests
 * go in through a bounded queue, answers come back through another with an eventfd to poll.
 *
 * Threads: all functions are called from the supervisor's thread. */
#ifndef MQ_WORKER_IO_BLOB_THREAD_H
#define MQ_WORKER_IO_BLOB_THREAD_H

#include "shared/blob/blob.h"

enum { MQ_BLOB_REQUESTS_MAX = 512 };

typedef enum mq_blob_request_type {
    MQ_BLOB_OPEN,
    MQ_BLOB_PUT,
    MQ_BLOB_UPLOAD
} mq_blob_request_type;

typedef struct mq_blob_request {
    mq_blob_request_type type;
    uint32_t slot;       /* who asked: open, put */
    uint32_t generation; /* of that slot's process */
    uint64_t rid;
    uint32_t job; /* upload: the session's job */
    int fd;       /* put, upload: the bytes; owned by the request. Answer to open: the file */
    char hash[MQ_SHA256_HEX]; /* open: wanted; answer to put: its name */
    mq_code code;             /* of the answer */
    char text[MQ_ERROR_TEXT_MAX];
} mq_blob_request;

typedef struct mq_blob_thread mq_blob_thread;

/* Starts it. cache_dir is made when missing. */
MQ_MUST_USE mq_code mq_blob_thread_new(mq_blob_thread **out, const char *cache_dir,
                                       size_t cache_bytes, mq_error *err);

/* Stops it after the transfer under way; open requests are dropped. */
void mq_blob_thread_free(mq_blob_thread *t);

/* Which store to use from now on. */
void mq_blob_thread_store(mq_blob_thread *t, const char *url);

/* Queues a request (takes its fd in any case). MQ_E_BUSY when the queue is full. */
MQ_MUST_USE mq_code mq_blob_thread_ask(mq_blob_thread *t, const mq_blob_request *request,
                                       mq_error *err);

/* Next answer (its fd is the caller's now); false when there is none. */
bool mq_blob_thread_answer(mq_blob_thread *t, mq_blob_request *out);

/* Readable while there are answers. */
int mq_blob_thread_fd(const mq_blob_thread *t);

#endif

/* Bounded decompression of gzip files (RFC 1952) in memory. */
#ifndef MQ_WORKER_DATA_GUNZIP_H
#define MQ_WORKER_DATA_GUNZIP_H

#include "shared/base/buf.h"
#include "shared/base/error.h"

/* A small file may not become a huge one: output is at most this much per byte of input, beyond a
 * free allowance, and never more than the buffer's own limit. */
enum { MQ_GUNZIP_RATIO_MAX = 200, MQ_GUNZIP_FREE_BYTES = 64 << 20 };

/* True for bytes that start like a gzip file. */
bool mq_gunzip_is(mq_span bytes);

/* Appends what all members of the file hold; checksums are verified. MQ_E_FORMAT says at which byte
 * of the compressed file it is cut, damaged or followed by something else. */
MQ_MUST_USE mq_code mq_gunzip(mq_span bytes, mq_buf *out, mq_error *err);

#endif

/* The directory behind mq_local_host: blobs and versions as files. See local_host.h for the layout.
 * Names come from outside and become file names, so they are checked here. */
#ifndef MQ_WORKER_SLOT_LOCAL_REGISTRY_H
#define MQ_WORKER_SLOT_LOCAL_REGISTRY_H

#include "worker/slot/host.h"

#define MQ_LOCAL_BLOB_BYTES_MAX ((size_t)1 << 30)
enum { MQ_LOCAL_PATH_MAX = 1024, MQ_LOCAL_META_BYTES_MAX = 4 << 20 };

MQ_MUST_USE mq_code mq_local_blob_put(const char *dir, mq_span bytes, char hash[MQ_SHA256_HEX],
                                      mq_error *err);
MQ_MUST_USE mq_code mq_local_blob_open(const char *dir, const char *hash, mq_map_file *out,
                                       mq_error *err);

/* Stores meta as the next version of type/name. */
MQ_MUST_USE mq_code mq_local_publish(const char *dir, const char *type, const char *name,
                                     mq_span meta, mq_error *err);
MQ_MUST_USE mq_code mq_local_query(const char *dir, const char *what, const char *name,
                                   mq_buf *json, mq_error *err);
MQ_MUST_USE mq_code mq_local_alias(const char *dir, const char *model, const char *alias,
                                   uint64_t version, mq_error *err);

#endif

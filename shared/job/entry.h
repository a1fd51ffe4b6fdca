/* A value of the registry as it is stored: one packed MessagePack map a field of {s}:reg.
 *
 *   field                        value
 *   model/<name>/v/<n>           meta (JSON), blobs, job, time, fingerprint; or deleted
 *   model/<name>/a/<alias>       version, time, the versions it pointed to before
 *   dataset/<name>/v/<n>         as a model's version
 *   memo/<key>                   meta = the result to return, job, time, fingerprint
 *   queue/<name>                 paused, or draining
 *   kind/<name>                  paused, meta = why
 *   limit/<type>=<name>          numbers: concurrency, rate, period_ms, burst
 *   tenant/<name>                numbers: weight, quota
 *   cron/<name>                  meta = the definition (broker/io/cron.c), at = last time dealt
 *                                with, paused; or deleted
 *
 * <n> has 10 digits, so that text order is number order. Names hold none of "/" and "@". Pure. */
#ifndef MQ_JOB_ENTRY_H
#define MQ_JOB_ENTRY_H

#include "shared/base/buf.h"
#include "shared/base/error.h"

enum {
    MQ_ENTRY_BLOBS_MAX = 1024,
    MQ_ENTRY_META_MAX = 65536,
    MQ_ENTRY_BYTES_MAX = 160 * 1024, /* of one packed value */
    MQ_ENTRY_FIELD_MAX = 288,        /* of a field's name */
    MQ_ENTRY_NAME_MAX = 128,         /* of a model, dataset, alias or memo key */
    MQ_ENTRY_VERSION_MAX = 999999999,
    MQ_ENTRY_BEFORE_MAX = 16, /* versions that an alias remembers */
    MQ_ENTRY_NUMBERS = 4,
};

typedef enum mq_entry_type {
    MQ_ENTRY_MODEL,   /* a model's version */
    MQ_ENTRY_ALIAS,   /* of a model */
    MQ_ENTRY_DATASET, /* a dataset's version */
    MQ_ENTRY_MEMO,
    MQ_ENTRY_QUEUE,
    MQ_ENTRY_KIND,
    MQ_ENTRY_LIMIT,
    MQ_ENTRY_TENANT,
    MQ_ENTRY_CRON,
} mq_entry_type;

typedef struct mq_entry_key {
    mq_entry_type type;
    mq_span name;     /* model, dataset, memo key or queue */
    mq_span alias;    /* alias only */
    uint32_t version; /* model and dataset */
} mq_entry_key;

/* Spans borrow: from the caller when packing, from the packed bytes after reading. */
typedef struct mq_entry {
    mq_span meta;        /* JSON object, unread */
    mq_span job;         /* id of the job that made it */
    mq_span fingerprint; /* numeric fingerprint of the worker that made it */
    int64_t at_ms;
    uint32_t version; /* alias: where it points; 0 = removed */
    bool is_deleted;  /* a version that was taken back; its number is not used again */
    uint32_t before_count;
    uint32_t before[MQ_ENTRY_BEFORE_MAX]; /* alias: where it pointed before, latest first */
    bool is_paused;                       /* queue, kind */
    bool is_draining;                     /* queue: takes no new jobs */
    uint64_t numbers[MQ_ENTRY_NUMBERS];
    uint32_t blob_count;
    mq_span blobs[MQ_ENTRY_BLOBS_MAX]; /* 64 hex digits each */
} mq_entry;

/* Writes the field's name, at most MQ_ENTRY_FIELD_MAX bytes; returns its length. */
size_t mq_entry_field(const mq_entry_key *key, char out[MQ_ENTRY_FIELD_MAX]);

/* Takes a field's name apart. MQ_E_FORMAT. Spans borrow from field. */
MQ_MUST_USE mq_code mq_entry_field_read(mq_span field, mq_entry_key *out, mq_error *err);

/* MQ_E_LIMIT when the buffer is full. */
MQ_MUST_USE mq_code mq_entry_pack(const mq_entry *entry, mq_buf *out, mq_error *err);
MQ_MUST_USE mq_code mq_entry_read(mq_span packed, mq_entry *out, mq_error *err);

/* True when s may name a model, dataset or alias: 1..128 bytes of printable ASCII without blanks,
 * "/", "@", quotes and backslash. */
bool mq_entry_name_ok(mq_span s);

#endif

/* Arguments of the commit function (the layout is in lua/commit.lua). Private to shared/store. */
#ifndef MQ_STORE_REDIS_ARGS_H
#define MQ_STORE_REDIS_ARGS_H

#include "shared/base/arena.h"
#include "shared/store/keys.h"
#include "shared/store/store.h"

/* A growing list of arguments; the bytes are borrowed or in the arena. */
typedef struct mq_args {
    const char **argv; /* owned */
    size_t *lens;      /* owned */
    uint32_t count;
    uint32_t capacity;
    bool is_full; /* sticky: memory ran out */
    mq_arena *arena;
} mq_args;

void mq_args_release(mq_args *args);
void mq_args_add(mq_args *args, mq_span s);      /* borrows s */
void mq_args_text(mq_args *args, const char *s); /* borrows s */
void mq_args_number(mq_args *args, int64_t number);

/* A value that goes ahead of the commit under a key of its own. */
typedef struct mq_large {
    const char *key; /* NUL-terminated, in the arena */
    mq_span value;   /* borrowed from the batch */
    int64_t retention_ms;
    uint16_t candidate; /* body: position of its create among the candidates, from 1 */
    bool is_result;
} mq_large;

typedef struct mq_commit_args {
    mq_args keys;
    mq_args args;
    mq_arena arena; /* everything that is not borrowed; valid until the next build */
    mq_large large[MQ_STORE_JOBS_MAX];
    uint32_t large_count;
    uint16_t order[MQ_STORE_JOBS_MAX]; /* candidate -> index as in mq_store_reply.dups */
    uint64_t attempt; /* grows with each batch; begins anywhere, so that no two stores share it */
    char token[MQ_TOKEN_BYTES];
} mq_commit_args;

void mq_commit_args_init(mq_commit_args *c);
void mq_commit_args_release(mq_commit_args *c);

/* Lays out a batch that mq_batch_check has accepted; borrows it until the command is formatted. */
MQ_MUST_USE mq_code mq_commit_args_build(mq_commit_args *c, const mq_keys *keys,
                                         const mq_store_batch *batch, mq_error *err);

/* Retention with the slack that lua/commit.lua gives to buckets. */
int64_t mq_commit_slack(int64_t retention_ms);

#endif

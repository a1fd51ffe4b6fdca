/* Every key name in Redis, and nowhere else. {mq:<shard>} keeps a shard's keys in one slot. What
 * each holds: store.h. */
#ifndef MQ_STORE_KEYS_H
#define MQ_STORE_KEYS_H

#include "shared/base/span.h"

enum { MQ_KEY_BYTES = 128, MQ_TOKEN_BYTES = 64 };

#define MQ_KEY_INSTANCE "mq:instance"
#define MQ_KEY_CLUSTER  "mq:cluster"
#define MQ_KEY_LEND     "mq:lend"

/* The keys every commit names, in the order the function wants them. */
typedef enum mq_key {
    MQ_KEY_OWNER,
    MQ_KEY_SEGMENTS,
    MQ_KEY_REQ,
    MQ_KEY_REF,
    MQ_KEY_DEAD,
    MQ_KEY_DEAD_REQ,
    MQ_KEY_REG,
    MQ_KEY_COUNT,
    MQ_KEY_EVENTS,
    MQ_KEY_FIXED, /* how many */
} mq_key;

typedef struct mq_keys {
    char fixed[MQ_KEY_FIXED][MQ_KEY_BYTES];
    char live[MQ_KEY_BYTES]; /* prefixes; a number follows */
    char done[MQ_KEY_BYTES];
    char body[MQ_KEY_BYTES]; /* prefixes; "<token>:<id>" follows */
    char result[MQ_KEY_BYTES];
} mq_keys;

void mq_keys_init(mq_keys *keys, uint32_t shard);

void mq_key_numbered(const char *prefix, uint64_t number, char out[MQ_KEY_BYTES]);

/* A large value's token: which attempt at which commit it came with,
 * "<epoch>.<sequence>.<attempt>", the last in hexadecimal. A refused repetition of a commit must
 * not touch what the commit itself has published. */
void mq_key_token(uint64_t epoch, uint64_t sequence, uint64_t attempt, char out[MQ_TOKEN_BYTES]);
void mq_key_large(const char *prefix, mq_span token, mq_span id, char out[MQ_KEY_BYTES]);

#endif

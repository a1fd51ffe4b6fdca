/* ULID: 48 bits of milliseconds and 80 random bits as 26 letters of Crockford's base 32, so that
 * text order is time order (https://github.com/ulid/spec). The client makes job ids with it. */
#ifndef MQ_BASE_ULID_H
#define MQ_BASE_ULID_H

#include "shared/base/span.h"

enum {
    MQ_ULID_LEN = 26,
    MQ_ULID_SIZE = 27,     /* counts the NUL */
    MQ_ULID_SHARD_AT = 10, /* the two letters that tell the shard */
    MQ_ULID_SHARD_VALUES = 1024,
    MQ_ULID_SHARDS_MAX = 64,
};

/* New id from the wall clock and getrandom(2). Thread-safe. */
void mq_ulid_new(char out[MQ_ULID_SIZE]);

/* The same from given parts; pure. random: 10 bytes. */
void mq_ulid_make(int64_t wall_ms, const uint8_t random[10], char out[MQ_ULID_SIZE]);

/* The shard of a deployment with `shards` of them that an id belongs to: the number that its
 * letters 11 and 12 (the first ten random bits) make, modulo shards. 0 when id is no ULID. shards:
 * at least
 * 1. Whoever has an id finds its job by this alone. */
uint32_t mq_ulid_shard(mq_span id, uint32_t shards);

/* Sets those two letters so that the id belongs to this shard; the others of equal shard keep their
 * chance. shard: less than shards, at most MQ_ULID_SHARDS_MAX. */
void mq_ulid_set_shard(char id[MQ_ULID_SIZE], uint32_t shard, uint32_t shards);

/* Sets them so that the id belongs to shard 0, however many there are. */
void mq_ulid_set_home(char id[MQ_ULID_SIZE]);

/* Gives id the two letters of another: both belong to one shard, however many there are. */
void mq_ulid_follow(char id[MQ_ULID_SIZE], mq_span other);

/* Milliseconds in an id, or -1 when s is not a ULID in upper case. */
int64_t mq_ulid_ms(mq_span s);

/* The same of an id that is known to be one: looks at its first ten letters only. */
int64_t mq_ulid_time(const char id[MQ_ULID_LEN]);

#endif

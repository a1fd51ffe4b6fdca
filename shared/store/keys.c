/* Names of keys; see keys.h. */
#include "shared/store/keys.h"

#include <stdio.h>

#include "shared/base/assert.h"

static const char *const names[MQ_KEY_FIXED] = {
    [MQ_KEY_OWNER] = "owner", [MQ_KEY_SEGMENTS] = "segments", [MQ_KEY_REQ] = "req",
    [MQ_KEY_REF] = "ref",     [MQ_KEY_DEAD] = "dead",         [MQ_KEY_DEAD_REQ] = "dead:req",
    [MQ_KEY_REG] = "reg",     [MQ_KEY_COUNT] = "count",       [MQ_KEY_EVENTS] = "events",
};

void mq_keys_init(mq_keys *keys, uint32_t shard)
{
    for (int i = 0; i < MQ_KEY_FIXED; i++) {
        snprintf(keys->fixed[i], MQ_KEY_BYTES, "{mq:%u}:%s", shard, names[i]);
    }
    snprintf(keys->live, MQ_KEY_BYTES, "{mq:%u}:live:", shard);
    snprintf(keys->done, MQ_KEY_BYTES, "{mq:%u}:done:", shard);
    snprintf(keys->body, MQ_KEY_BYTES, "{mq:%u}:body:", shard);
    snprintf(keys->result, MQ_KEY_BYTES, "{mq:%u}:result:", shard);
}

void mq_key_numbered(const char *prefix, uint64_t number, char out[MQ_KEY_BYTES])
{
    int len = snprintf(out, MQ_KEY_BYTES, "%s%llu", prefix, (unsigned long long)number);
    MQ_ASSERT(len > 0 && len < MQ_KEY_BYTES);
}

void mq_key_token(uint64_t epoch, uint64_t sequence, uint64_t attempt, char out[MQ_TOKEN_BYTES])
{
    int len = snprintf(out, MQ_TOKEN_BYTES, "%llu.%llu.%llx", (unsigned long long)epoch,
                       (unsigned long long)sequence, (unsigned long long)attempt);
    MQ_ASSERT(len > 0 && len < MQ_TOKEN_BYTES);
}

void mq_key_large(const char *prefix, mq_span token, mq_span id, char out[MQ_KEY_BYTES])
{
    MQ_ASSERT(token.len < MQ_TOKEN_BYTES && id.len <= 32);
    int len =
        snprintf(out, MQ_KEY_BYTES, "%s%.*s:%.*s", prefix, MQ_SPAN_ARG(token), MQ_SPAN_ARG(id));
    MQ_ASSERT(len > 0 && len < MQ_KEY_BYTES);
}

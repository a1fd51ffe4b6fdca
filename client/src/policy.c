/* Commands that every shard must obey: pauses, drains, shares and limits. Each shard keeps its own
 * copy, so a shard that is taken over goes on obeying. Jobs with a limit key live in shard 0, so a
 * key's limit holds as it is; the limit of a queue or a kind is divided among the shards. It must
 * not know what a command does. */
#include <stdio.h>
#include <stdlib.h>

#include "client/src/client.h"
#include "shared/base/clock.h"

enum { ARGS_MAX = 24, DIGITS = 24, LIMIT_ARGS = 5 };

bool mq_policy_is_everywhere(const char *verb)
{
    static const char *const verbs[] = {"pause",       "resume", "drain-queue", "pause-kind",
                                        "resume-kind", "limit",  "tenant"};
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(verb, verbs[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* A shard's part of a whole: the first ones take what is left over. None gets 0 of something, so
 * a cap below the number of shards becomes one each. */
static uint64_t part(uint64_t whole, uint32_t shard, uint32_t shards)
{
    uint64_t own = whole / shards + (shard < whole % shards ? 1 : 0);
    return whole > 0 && own == 0 ? 1 : own;
}

static bool is_divided(const char *verb, const char *const *args, size_t count)
{
    return strcmp(verb, "limit") == 0 && count == LIMIT_ARGS &&
           (strncmp(args[0], "queue=", 6) == 0 || strncmp(args[0], "kind=", 5) == 0);
}

/* Concurrency, rate and burst in parts; a rate too small to be cut has a longer period. */
static void divide(const char *const *args, uint32_t shard, uint32_t shards,
                   char out[LIMIT_ARGS][DIGITS])
{
    uint64_t n[LIMIT_ARGS] = {0};
    for (int i = 1; i < LIMIT_ARGS; i++) {
        n[i] = strtoull(args[i], NULL, 10);
    }
    uint64_t period = n[2] > 0 && n[2] < shards ? n[3] * shards : n[3];
    uint64_t rate = n[2] < shards ? n[2] : part(n[2], shard, shards);
    const uint64_t parts[LIMIT_ARGS] = {0, part(n[1], shard, shards), rate, period,
                                        part(n[4], shard, shards)};
    for (int i = 1; i < LIMIT_ARGS; i++) {
        (void)snprintf(out[i], DIGITS, "%llu", (unsigned long long)parts[i]);
    }
}

int mq_policy_everywhere(maasq_client *primary, const char *verb, const char *const *args,
                         size_t count, int64_t timeout_ms, maasq_error *err)
{
    if (timeout_ms < 0) {
        return mq_client_fail(err, MQ_E_ARG, "%s: timeout_ms must not be negative", verb);
    }
    uint32_t shards = mq_client_shards(primary, mq_clock_mono_ms() + timeout_ms);
    mq_error why = {0};
    mq_span spans[ARGS_MAX];
    char parts[LIMIT_ARGS][DIGITS];
    int code = MAASQ_OK;
    for (uint32_t shard = 0; shard < shards && code == MAASQ_OK; shard++) {
        maasq_client *client = mq_client_of(primary, shard, &why);
        if (client == NULL) {
            return mq_client_error(err, &why);
        }
        for (size_t i = 0; i < count; i++) {
            spans[i] = mq_str(args[i]);
        }
        if (shards > 1 && is_divided(verb, args, count)) {
            divide(args, shard, shards, parts);
            for (size_t i = 1; i < LIMIT_ARGS; i++) {
                spans[i] = mq_str(parts[i]);
            }
        }
        code = mq_client_command(client, verb, spans, (uint32_t)count, timeout_ms, err);
    }
    return code;
}

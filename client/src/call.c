/* Questions and commands: one message, one answer, sent again until it comes. */
#include <stdio.h>
#include <stdlib.h>

#include "client/src/spread.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"

enum {
    ARGS_MAX = 24,
    ARG_BYTES_MAX = 192,
    VERB_BYTES_MAX = 32,
    FILTER_BYTES_MAX = 256, /* without the cursor of a list */
    BODY_BYTES_MAX = 1 << 20
};

static bool call_is_done(const void *arg)
{
    return ((const mq_call *)arg)->is_done;
}

bool mq_client_call_begin(maasq_client *client, mq_call *call)
{
    pthread_mutex_lock(&client->lock);
    call->slot = client->is_closing ? MQ_CCORE_NONE
                                    : mq_ccore_call(&client->core, mq_clock_mono_ms(), INT64_MAX);
    if (call->slot != MQ_CCORE_NONE) {
        client->slots[call->slot].call = call;
        mq_client_wake(client);
    }
    pthread_mutex_unlock(&client->lock);
    return call->slot != MQ_CCORE_NONE;
}

mq_code mq_client_call_wait(maasq_client *client, const mq_call *call, int64_t deadline_ms)
{
    pthread_mutex_lock(&client->lock);
    mq_code code = mq_client_wait(client, call_is_done, call, deadline_ms);
    pthread_mutex_unlock(&client->lock);
    return code;
}

bool mq_client_call_end(maasq_client *client, mq_call *call)
{
    pthread_mutex_lock(&client->lock);
    if (!call->is_done) {
        client->slots[call->slot].call = NULL;
        mq_ccore_drop(&client->core, call->slot);
        if (client->refusal.code != MQ_OK) { /* why it is not answered */
            (void)snprintf(call->text, sizeof call->text, "%s", client->refusal.text);
        } else {
            (void)snprintf(call->text, sizeof call->text, "no answer (%s)",
                           client->was_welcome ? "the broker was reachable before"
                                               : "no broker has answered at all");
        }
    }
    pthread_mutex_unlock(&client->lock);
    return call->is_done;
}

static int run(maasq_client *client, mq_call *call, const char *what, int64_t timeout_ms,
               maasq_error *err)
{
    int64_t deadline_ms = mq_client_deadline(timeout_ms, err);
    if (deadline_ms < 0) {
        return MAASQ_E_ARG;
    }
    if (!mq_client_call_begin(client, call)) {
        return mq_client_fail(err, MQ_E_BUSY, "%s: more than %d calls are under way", what,
                              MQ_CLIENT_CALLS_MAX);
    }
    mq_code code = mq_client_call_wait(client, call, deadline_ms);
    if (code == MQ_OK) {
        MQ_ASSERT(call->is_done);
    }
    (void)mq_client_call_end(client, call);
    if (code == MQ_E_ARG) {
        return mq_client_fail(err, code, "%s: must not be called in a callback", what);
    }
    if (!call->is_done) {
        return mq_client_fail(err, code, "%s: no answer within %lld ms (%.300s)", what,
                              (long long)timeout_ms, call->text);
    }
    if (call->code != MAASQ_OK) {
        return mq_client_fail(err, (mq_code)-call->code, "%s", call->text);
    }
    return MAASQ_OK;
}

static bool fits(const char *text, size_t max)
{
    return text == NULL || strlen(text) <= max;
}

/* What has a job's id for its name is asked of the job's shard, everything else of shard 0. */
static maasq_client *client_for(maasq_client *primary, const char *id, int64_t timeout_ms,
                                maasq_error *err)
{
    mq_error why = {0};
    if (id == NULL || mq_ulid_ms(mq_str(id)) < 0 || timeout_ms < 0) {
        return primary;
    }
    uint32_t shards = mq_client_shards(primary, mq_clock_mono_ms() + timeout_ms);
    maasq_client *client = mq_client_of(primary, mq_ulid_shard(mq_str(id), shards), &why);
    if (client == NULL) {
        (void)mq_client_error(err, &why);
    }
    return client;
}

int maasq_query(maasq_client *client, const char *what, const char *name, const char *filter,
                uint32_t limit, int64_t timeout_ms, char **json, maasq_error *err)
{
    if (what == NULL || !fits(what, VERB_BYTES_MAX) || !fits(name, ARG_BYTES_MAX) ||
        !fits(filter, FILTER_BYTES_MAX + MQ_CURSORS_SIZE) || json == NULL) {
        return mq_client_fail(err, MQ_E_ARG,
                              "query: what has at most %d bytes, name %d, filter %d; json is not "
                              "NULL",
                              VERB_BYTES_MAX, ARG_BYTES_MAX, FILTER_BYTES_MAX);
    }
    mq_call call = {
        .command = MQ_CMD_query,
        .query = {
            .what = mq_str(what), .name = mq_str(name), .filter = mq_str(filter), .limit = limit}};
    *json = NULL;
    if (mq_merge_knows(what) && timeout_ms >= 0) {
        uint32_t shards = mq_client_shards(client, mq_clock_mono_ms() + timeout_ms);
        if (shards > 1) {
            return mq_spread_query(client, shards, &call.query, timeout_ms, json, err);
        }
    }
    if (call.query.filter.len > FILTER_BYTES_MAX) {
        return mq_client_fail(err, MQ_E_ARG, "filter: more than %d bytes", FILTER_BYTES_MAX);
    }
    client = client_for(client, strcmp(what, "job") == 0 ? name : NULL, timeout_ms, err);
    if (client == NULL) {
        return MAASQ_E_LIMIT;
    }
    int code = run(client, &call, what, timeout_ms, err);
    if (code == MAASQ_OK) {
        *json = call.json;
    } else {
        free(call.json);
    }
    return code;
}

int maasq_command(maasq_client *client, const char *verb, const char *const *args, size_t count,
                  int64_t timeout_ms, maasq_error *err)
{
    return maasq_act(client, verb, args, count, NULL, 0, timeout_ms, NULL, err);
}

int maasq_act(maasq_client *client, const char *verb, const char *const *args, size_t count,
              const void *body, size_t body_bytes, int64_t timeout_ms, char **text,
              maasq_error *err)
{
    mq_span spans[ARGS_MAX];
    bool is_good = verb != NULL && fits(verb, VERB_BYTES_MAX) && count <= ARGS_MAX;
    for (size_t i = 0; is_good && i < count; i++) {
        is_good = args[i] != NULL && fits(args[i], ARG_BYTES_MAX);
        spans[i] = mq_str(args[i]);
    }
    if (!is_good) {
        return mq_client_fail(err, MQ_E_ARG,
                              "command: the verb has at most %d bytes, and there are at most %d "
                              "arguments of at most %d bytes",
                              VERB_BYTES_MAX, ARGS_MAX, ARG_BYTES_MAX);
    }
    if (body_bytes > BODY_BYTES_MAX) {
        return mq_client_fail(err, MQ_E_ARG, "%s: a body of %zu bytes, at most %d", verb,
                              body_bytes, BODY_BYTES_MAX);
    }
    if (mq_spread_is_wanted(verb) && timeout_ms >= 0) {
        uint32_t shards = mq_client_shards(client, mq_clock_mono_ms() + timeout_ms);
        if (shards > 1) {
            mq_msg_command request = {
                .verb = mq_str(verb), .args = spans, .args_count = (uint32_t)count};
            return mq_spread_command(client, shards, &request, timeout_ms, text, err);
        }
    }
    client = client_for(client, count > 0 ? args[0] : NULL, timeout_ms, err);
    if (client == NULL) {
        return MAASQ_E_LIMIT;
    }
    mq_call call = {
        .command = MQ_CMD_command,
        .body = mq_span_of(body, body_bytes),
        .request = {.verb = mq_str(verb), .args = spans, .args_count = (uint32_t)count}};
    int code = run(client, &call, verb, timeout_ms, err);
    if (code == MAASQ_OK && text != NULL) {
        *text = strdup(call.text);
        return *text != NULL ? code : mq_client_fail(err, MQ_E_LIMIT, "no memory for an answer");
    }
    return code;
}

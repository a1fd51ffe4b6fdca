/* Sends the core's commits to the store and tells it what was stored; counts what they did. A
 * commit that is refused or whose outcome is not known ends the core (own.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/io/broker.h"
#include "broker/io/retention.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"

static const char *const counter_names[MQ_COUNTERS] = {
    "submitted", "granted", "succeeded", "dead",    "cancelled", "expired",
    "retried",   "lapsed",  "crashed",   "spawned", "published", "checkpoints",
};

const char *mq_counter_name(uint32_t index)
{
    return counter_names[index];
}

static void tally_of(const mq_tally *t, uint32_t out[MQ_COUNTERS])
{
    const uint32_t all[MQ_COUNTERS] = {t->submitted, t->granted, t->succeeded, t->dead,
                                       t->cancelled, t->expired, t->retried,   t->lapsed,
                                       t->crashed,   t->spawned, t->published, t->checkpoints};
    memcpy(out, all, sizeof all);
}

typedef struct commit {
    mq_broker *b;
    uint64_t generation;
    int64_t sent_ns;
    uint32_t jobs;
    uint32_t tally[MQ_COUNTERS];
    mq_kept_delta kept;
} commit;

static void on_commit(void *arg, const mq_store_reply *reply)
{
    commit *c = arg;
    mq_broker *b = c->b;
    if (c->generation != b->generation || b->core == NULL) {
        free(c);
        return;
    }
    if (reply->verdict != MQ_STORE_OK) {
        static const char *const why[] = {
            [MQ_STORE_OK] = "",
            [MQ_STORE_DUP] = "a commit had been applied before",
            [MQ_STORE_FENCED] = "another broker took the shard over",
            [MQ_STORE_GAP] = "the store's sequence is not ours",
            [MQ_STORE_FULL] = "the store's memory is full",
            [MQ_STORE_FAILED] = "a commit's outcome is not known",
        };
        mq_log(MQ_WARN, "commit refused", "sequence=%llu reason=%s %s",
               (unsigned long long)reply->sequence, why[reply->verdict],
               reply->verdict == MQ_STORE_FAILED ? reply->err.text : "");
        free(c);
        mq_own_drop(b, why[reply->verdict]);
        return;
    }
    if (reply->ignored_count > 0) {
        /* It holds other jobs than this core believes: nothing of the commit may be told. */
        static const char why[] = "the store does not have a job that was changed";
        mq_log(MQ_ERROR_LEVEL, "commit ignored in part", "sequence=%llu changes=%u reason=%s",
               (unsigned long long)reply->sequence, reply->ignored_count, why);
        free(c);
        mq_own_drop(b, why);
        return;
    }
    b->sequence = reply->sequence;
    b->commits++;
    b->commit_us_sum += (mq_clock_mono_ns() - c->sent_ns) / 1000;
    b->commit_jobs += c->jobs;
    for (uint32_t i = 0; i < MQ_COUNTERS; i++) {
        b->counters[i] += c->tally[i];
    }
    b->dups += reply->dup_count;
    mq_loss_count(b);
    mq_witness_note(b->witness, b->witness->instance, b->sequence, "", mq_clock_mono_ms());
    mq_retention_add(b, &c->kept);
    mq_input in = {.type = MQ_IN_STORED};
    in.as.stored.sequence = reply->sequence;
    in.as.stored.dups = reply->dups;
    in.as.stored.dup_count = reply->dup_count;
    free(c);
    mq_act_step(b, &in);
}

/* {"seq":7,"submitted":3,...}: what operators and the event stream see of a commit. */
static mq_span event_of(uint64_t sequence, const uint32_t tally[MQ_COUNTERS], char *out,
                        size_t size)
{
    size_t used = (size_t)snprintf(out, size, "{\"seq\":%llu", (unsigned long long)sequence);
    for (uint32_t i = 0; i < MQ_COUNTERS; i++) {
        if (tally[i] > 0) {
            used +=
                (size_t)snprintf(out + used, size - used, ",\"%s\":%u", counter_names[i], tally[i]);
        }
    }
    used += (size_t)snprintf(out + used, size - used, "}");
    MQ_ASSERT(used < size);
    return mq_span_of(out, used);
}

void mq_commit_send(mq_broker *b, const mq_outputs *out)
{
    mq_store_batch batch = *out->batch;
    mq_store_count counters[MQ_COUNTERS + MQ_KEPT_PER_COMMIT];
    char names[MQ_KEPT_PER_COMMIT][32];
    char event[512];
    commit *c = malloc(sizeof *c);
    MQ_ASSERT(c != NULL);
    c->b = b;
    c->generation = b->generation;
    c->sent_ns = mq_clock_mono_ns();
    c->jobs = batch.create_count + batch.put_count + batch.finish_count;
    tally_of(&out->tally, c->tally);
    for (uint32_t i = 0; i < MQ_COUNTERS; i++) {
        if (c->tally[i] > 0) {
            counters[batch.counter_count++] =
                (mq_store_count){mq_str(counter_names[i]), c->tally[i]};
        }
    }
    mq_retention_sum(&batch, &c->kept);
    for (uint32_t i = 0; i < c->kept.count; i++) {
        int len = snprintf(names[i], sizeof names[i], MQ_STORE_KEPT_PREFIX "%llu",
                           (unsigned long long)c->kept.minutes[i]);
        counters[batch.counter_count++] =
            (mq_store_count){mq_span_of(names[i], (size_t)len), c->kept.bytes[i]};
    }
    batch.counters = counters;
    batch.event = event_of(batch.sequence, c->tally, event, sizeof event);
    mq_error err;
    if (b->store->ops->commit(b->store, &batch, on_commit, c, &err) != MQ_OK) {
        free(c);
        b->own = MQ_OWN_NONE; /* the loop drops the core once the outputs have been dealt with */
        mq_own_trouble(b, err.text);
    } else if (out->wants_replicas) {
        mq_replicas_ask(b);
    }
}

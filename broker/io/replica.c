/* Asks the store's replicas what they hold (WAIT) and tells the core: behind each commit that has
 * something of the class `replicated` in it, again while something waits, and once a second besides
 * while replicas are connected, so that the class closes and opens by itself. What is sent behind a
 * question on the same connection waits as long as the question does: it waits long only when it is
 * answered as a rule, and hardly at all once a replica has failed to answer. Decides nothing. */
#include <stdlib.h>

#include "broker/io/broker.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/math.h"

enum {
    PATIENT_MS = 100, /* a question behind a commit, while the class is open */
    GLANCE_MS = 10,   /* a question to replicas that did not answer the last one in time */
    AGAIN_MS = 100,   /* between questions while answers wait */
    IDLE_MS = 1000,   /* between questions otherwise */
};

static void note_change(mq_broker *b, const mq_replica_view *view)
{
    if (view->is_open == b->is_replica_told_open) {
        return;
    }
    b->is_replica_told_open = view->is_open;
    const char *text = view->is_open ? "open" : "closed";
    mq_log(view->is_open ? MQ_INFO : MQ_WARN, "durability replicated",
           "shard=%lld class=%s confirmed_by=%u wanted=%u waiting=%u", (long long)b->shard, text,
           view->count, view->wanted, view->waiting);
    mq_answer_news(b, "replicas", "durability replicated is %s: %u of %u replicas confirm", text,
                   view->count, view->wanted);
}

static void tell(mq_broker *b, uint64_t sequence, uint32_t count)
{
    mq_input in = {.type = MQ_IN_REPLICAS};
    in.as.replicas.sequence = sequence;
    in.as.replicas.count = count;
    mq_act_step(b, &in);
    mq_replica_view view;
    mq_core_replicas(b->core, &view);
    note_change(b, &view);
    b->replica_ms = mq_clock_mono_ms() + (view.waiting > 0 ? AGAIN_MS : IDLE_MS);
}

typedef struct question {
    mq_broker *b;
    uint64_t generation;
} question;

static void on_replicas(void *arg, mq_code code, uint64_t sequence, uint32_t count,
                        const mq_error *err)
{
    question q = *(question *)arg;
    free(arg);
    if (q.generation != q.b->generation || q.b->core == NULL) {
        return;
    }
    q.b->is_asking_replicas = false;
    if (code != MQ_OK) {
        mq_log(MQ_WARN, "replicas cannot be asked", "error=%s", err->text);
    }
    tell(q.b, sequence, count);
    if (q.b->must_ask_replicas && q.b->core != NULL) {
        mq_replicas_ask(q.b);
    }
}

void mq_replicas_ask(mq_broker *b)
{
    mq_replica_view view;
    mq_core_replicas(b->core, &view);
    b->must_ask_replicas = b->is_asking_replicas;
    if (b->is_asking_replicas || view.wanted == 0) {
        return; /* one question at a time: it is asked again when the answer is there */
    }
    question *q = malloc(sizeof *q);
    MQ_ASSERT(q != NULL);
    *q = (question){b, b->generation};
    mq_error err;
    int64_t wait_ms = view.is_open ? PATIENT_MS : GLANCE_MS;
    b->replica_ms = mq_clock_mono_ms() + IDLE_MS;
    if (b->store->ops->replicas(b->store, view.wanted, wait_ms, on_replicas, q, &err) != MQ_OK) {
        free(q);
        b->replica_ms = mq_clock_mono_ms() + AGAIN_MS;
        return;
    }
    b->is_asking_replicas = true;
}

void mq_replicas_reset(mq_broker *b)
{
    b->is_asking_replicas = b->must_ask_replicas = b->is_replica_told_open = false;
    b->replica_ms = 0;
}

void mq_replicas_tick(mq_broker *b)
{
    int64_t now_ms = mq_clock_mono_ms();
    if (b->is_asking_replicas || now_ms < b->replica_ms) {
        return;
    }
    mq_replica_view view;
    mq_core_replicas(b->core, &view);
    if (b->replicas_online >= view.wanted) {
        mq_replicas_ask(b);
    } else {
        b->replica_ms = now_ms + IDLE_MS;
        if (view.is_open || view.count != b->replicas_online) {
            tell(b, 0, b->replicas_online);
        }
    }
}

int64_t mq_replicas_deadline(const mq_broker *b)
{
    return b->is_asking_replicas || b->config->replicas == 0 ? INT64_MAX : b->replica_ms;
}

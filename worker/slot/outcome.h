/* What a running job has given so far: result bytes, things to publish, child jobs. Shared by the
 * slot's host and the local host, so that both refuse the same mistakes. Owns copies of everything.
 */
#ifndef MQ_WORKER_SLOT_OUTCOME_H
#define MQ_WORKER_SLOT_OUTCOME_H

#include "shared/base/arena.h"
#include "worker/slot/host.h"

enum {
    MQ_PUBLISH_NAME_MAX = 128,
    MQ_PUBLISH_META_MAX = 65536,
    MQ_SPAWN_KIND_MAX = 64,
    MQ_SPAWN_MODEL_MAX = 128,
    MQ_SPAWN_BODY_MAX = 65536,
    MQ_RESULT_BYTES_MAX = 32 << 20, /* larger results are blobs */
    MQ_OUTCOME_BYTES_MAX =
        900 << 10, /* all of publish and spawn: they go in one message's header */
};

typedef struct mq_outcome {
    mq_arena arena;
    mq_buf result;
    mq_publish publish[MQ_PUBLISH_MAX]; /* strings live in the arena */
    mq_spawn spawn[MQ_SPAWN_MAX];
    uint32_t publish_count;
    uint32_t spawn_count;
    size_t header_bytes; /* of publish and spawn */
} mq_outcome;

void mq_outcome_init(mq_outcome *outcome);
void mq_outcome_release(mq_outcome *outcome);

/* Forgets everything, for the next job. */
void mq_outcome_reset(mq_outcome *outcome);

/* As mq_host_ops.result, publish and spawn: copy after checking every limit. */
MQ_MUST_USE mq_code mq_outcome_result(mq_outcome *outcome, mq_span bytes, mq_error *err);
MQ_MUST_USE mq_code mq_outcome_publish(mq_outcome *outcome, const mq_publish *what, mq_error *err);
MQ_MUST_USE mq_code mq_outcome_spawn(mq_outcome *outcome, const mq_spawn *child, mq_error *err);

/* True for a model or dataset name: 1..128 of letters, digits, '.', '_', '-', not starting with a
 * '.'. */
bool mq_outcome_is_name(mq_span name);

#endif

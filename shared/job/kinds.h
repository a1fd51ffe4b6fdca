/* What the broker and the client know of a job kind: the policy columns of kinds.def. What a kind
 * computes is the worker's (worker/kinds). Pure. */
#ifndef MQ_JOB_KINDS_H
#define MQ_JOB_KINDS_H

#include "shared/base/span.h"

typedef struct mq_kind_policy {
    const char *name;
    bool is_gang;            /* has seats; 1..1 when the submitter names none */
    bool is_transient;       /* durability when the submitter names none */
    uint64_t max_run_ms;     /* default limit of one run */
    uint32_t attempts_max;   /* default */
    uint32_t body_bytes_max; /* of the request */
} mq_kind_policy;

/* Policy of a kind of the table; NULL for a user's own kind. */
const mq_kind_policy *mq_kind_policy_find(mq_span name);

/* The same, with the policy of users' own kinds instead of NULL (name is then ""). */
const mq_kind_policy *mq_kind_policy_of(mq_span name);

/* Rows of the table, 0 <= index < count. */
uint32_t mq_kind_policy_count(void);
const mq_kind_policy *mq_kind_policy_at(uint32_t index);

#endif

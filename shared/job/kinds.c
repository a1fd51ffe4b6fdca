/* The policy table of job kinds, from kinds.def. It must not know what a kind does. */
#include "shared/job/kinds.h"

#include "shared/base/assert.h"

static const mq_kind_policy policies[] = {
#define MQ_KIND(symbol, name, is_gang, is_transient, max_run_ms, attempts_max, body_bytes_max)     \
    {name, is_gang, is_transient, max_run_ms, attempts_max, body_bytes_max},
#include "shared/job/kinds.def"
#undef MQ_KIND
};

/* Lengths of their names: most rows are passed by without a look at the text. */
static const size_t name_lens[] = {
#define MQ_KIND(symbol, name, is_gang, is_transient, max_run_ms, attempts_max, body_bytes_max)     \
    sizeof(name) - 1,
#include "shared/job/kinds.def"
#undef MQ_KIND
};

static const mq_kind_policy own_kind = {"", false, false, 3600000, 5, 1048576};

enum { POLICY_COUNT = sizeof policies / sizeof policies[0] };

const mq_kind_policy *mq_kind_policy_find(mq_span name)
{
    for (uint32_t i = 0; i < POLICY_COUNT; i++) {
        if (name.len == name_lens[i] && memcmp(name.data, policies[i].name, name.len) == 0) {
            return &policies[i];
        }
    }
    return NULL;
}

const mq_kind_policy *mq_kind_policy_of(mq_span name)
{
    const mq_kind_policy *policy = mq_kind_policy_find(name);
    return policy != NULL ? policy : &own_kind;
}

uint32_t mq_kind_policy_count(void)
{
    return POLICY_COUNT;
}

const mq_kind_policy *mq_kind_policy_at(uint32_t index)
{
    MQ_ASSERT(index < POLICY_COUNT);
    return &policies[index];
}

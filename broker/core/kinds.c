/* Policies of kinds that shared/job/kinds.def does not have, as workers announce them. They are not
 * stored: after a start they come back with the workers. It must not know what a kind does. */
#include "broker/core/state.h"

enum { RUN_MS_MAX = 604800000, ATTEMPTS_MAX = 1000 };

/* Its index, or MQ_NONE. */
static uint32_t find(const mq_core *core, mq_span name)
{
    for (uint32_t i = 0; i < core->told_kind_count; i++) {
        if (mq_span_is(name, core->told_kinds[i].name)) {
            return i;
        }
    }
    return MQ_NONE;
}

/* Number from outside into 1..max; 0 stands for otherwise. */
static uint64_t within(uint64_t value, uint64_t max, uint64_t otherwise)
{
    return value == 0 ? otherwise : value < max ? value : max;
}

void mq_kinds_told(mq_core *core, const mq_msg_kind_limit *told)
{
    const mq_kind_policy *plain = mq_kind_policy_of((mq_span){0});
    if (!mq_entry_name_ok(told->kind) || told->kind.len >= sizeof core->told_kinds[0].name ||
        mq_kind_policy_find(told->kind) != NULL) {
        return; /* what is built in is the same for everybody */
    }
    uint32_t at = find(core, told->kind);
    if (at == MQ_NONE) { /* full: the one that was announced first gives way */
        at = core->told_kind_next++ % MQ_TOLD_KINDS_MAX;
        core->told_kind_count += core->told_kind_count < MQ_TOLD_KINDS_MAX;
    }
    mq_told_kind *kind = &core->told_kinds[at];
    (void)mq_span_copy(told->kind, kind->name, sizeof kind->name);
    kind->policy = *plain;
    kind->policy.name = kind->name;
    kind->policy.max_run_ms = within(told->max_run_ms, RUN_MS_MAX, plain->max_run_ms);
    kind->policy.attempts_max =
        (uint32_t)within(told->attempts_max, ATTEMPTS_MAX, plain->attempts_max);
    kind->policy.body_bytes_max =
        (uint32_t)within(told->body_bytes_max, plain->body_bytes_max, plain->body_bytes_max);
}

const mq_kind_policy *mq_kinds_policy(const mq_core *core, mq_span name)
{
    const mq_kind_policy *policy = mq_kind_policy_find(name);
    uint32_t told = policy == NULL ? find(core, name) : MQ_NONE;
    return told != MQ_NONE ? &core->told_kinds[told].policy : mq_kind_policy_of(name);
}

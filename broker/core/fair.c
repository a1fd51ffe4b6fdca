/* Fairness between tenants: start-time fair queueing (P. Goyal, H. Vin, H. Cheng, "Start-time Fair
 * Queueing", SIGCOMM 1996) over starts of jobs, each priority by itself. A tenant's tag is the
 * virtual time at which its last start ends, 1/weight after its beginning; inside a priority the
 * tenant with the lowest tag goes first, whatever it has waiting. The virtual now is the beginning
 * of what was started last at this priority, so nobody saves up credit while it has nothing to do
 * or nobody to do it. (One virtual time for all priorities would jump with each start of a higher
 * one, and what tenants below are owed would be forgotten: the simulator has seen 2 to 1 between
 * equals.) Tags are not stored: after a takeover all tenants begin as equals. It must not know
 * lanes. */
#include "broker/core/state.h"

enum { ONE_START_BITS = 20 };

void mq_fair_charge(mq_core *core, const mq_job *job, uint32_t starts)
{
    mq_name *t = &core->names[job->tenant];
    uint32_t rank = 9U - job->priority;
    uint32_t weight = t->weight == 0 ? 1 : t->weight;
    uint64_t now = core->virtual_now[rank];
    uint64_t from = t->finish[rank] > now ? t->finish[rank] : now;
    MQ_ASSERT(weight <= MQ_WEIGHT_MAX && starts > 0);
    core->virtual_now[rank] = from;
    t->finish[rank] = from + ((uint64_t)starts << ONE_START_BITS) / weight;
}

uint32_t mq_tenant_quota(const mq_core *core, uint32_t tenant)
{
    uint32_t quota = core->names[tenant].quota;
    uint32_t most = core->config.tenant_live_max;
    return quota == 0 || quota > most ? most : quota;
}

void mq_tenant_set(mq_core *core, mq_span name, uint32_t weight, uint32_t quota)
{
    uint32_t no = mq_name_find(core, name);
    bool is_set = weight != 0 || quota != 0;
    bool was_set = no != MQ_NONE && (core->names[no].weight != 0 || core->names[no].quota != 0);
    if (is_set && !was_set) {
        no = mq_name_take(core, name); /* held as long as it has settings */
    }
    if (no == MQ_NONE) {
        return;
    }
    core->names[no].weight = weight;
    core->names[no].quota = quota;
    if (was_set && !is_set) {
        mq_name_drop(core, no);
    }
}

bool mq_core_tenant(const mq_core *core, uint32_t index, mq_tenant_view *out)
{
    if (index >= core->name_slots.high) {
        return false;
    }
    const mq_name *t = &core->names[index];
    if (t->live == 0 && t->weight == 0 && t->quota == 0) {
        return false;
    }
    *out = (mq_tenant_view){.name = mq_name_text(core, index),
                            .live = t->live,
                            .weight = t->weight == 0 ? 1 : t->weight,
                            .quota = mq_tenant_quota(core, index)};
    return true;
}

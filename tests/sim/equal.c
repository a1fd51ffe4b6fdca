/* What the owner's core knows besides its jobs is what the store holds, when nothing is under way:
 * the registry byte by byte, and what follows from it and from the records: limits in force, what
 * is counted under them, the live jobs of each tenant. */
#include "tests/sim/sim.h"
#include "tests/support/core_equal.h"

static void check_registry(sim *s, const sim_broker *b)
{
    const mq_dict *stored = &s->disk->registry;
    uint32_t most = s->config.registry_max, count = 0;
    for (uint32_t i = 0; i < stored->count; i++) {
        const mq_dict_entry *e = &stored->entries[i];
        SIM_CHECK(s, core_has_entry(b->core, most, e->key, e->value),
                  "registry: %.*s differs between store and memory", MQ_SPAN_ARG(e->key));
        count += !core_is_tombstone(e->value);
    }
    SIM_CHECK(s, count == core_entries(b->core, most),
              "registry: %u entries are stored, %u are in memory", count,
              core_entries(b->core, most));
}

static bool is_leased_under(sim *s, const mq_core *core, uint32_t slot, const mq_limit_view *l)
{
    mq_job_view job;
    if (!mq_core_job(core, slot, &job) || job.state != MQ_STATE_LEASED ||
        !mq_core_record(core, slot, &s->a)) {
        return false;
    }
    mq_span name = l->type == MQ_LIMIT_QUEUE  ? job.queue
                   : l->type == MQ_LIMIT_KIND ? job.kind
                                              : s->a.limit_key;
    return mq_span_eq(name, l->name);
}

/* Limits that were set are stored so, and each counts the leases that there are. */
static void check_limits(sim *s, const sim_broker *b)
{
    static mq_entry entry;
    mq_limit_view l;
    char field[128];
    for (uint32_t i = 0; i < s->config.limits_max; i++) {
        if (!mq_core_limit(b->core, i, &l)) {
            continue;
        }
        (void)snprintf(field, sizeof field, "limit/%s=%.*s", mq_limit_type_name(l.type),
                       MQ_SPAN_ARG(l.name));
        const mq_dict_entry *e = mq_dict_find(&s->disk->registry, mq_str(field));
        bool is_stored = e != NULL && mq_entry_read(e->value, &entry, NULL) == MQ_OK;
        SIM_CHECK(s, !l.is_own || is_stored, "%s is in force and not stored", field);
        SIM_CHECK(s,
                  !l.is_own || (entry.numbers[0] == l.concurrency && entry.numbers[1] == l.rate &&
                                entry.numbers[2] == l.period_ms && entry.numbers[3] == l.burst),
                  "%s: its rule differs between store and memory", field);
        uint32_t running = 0;
        for (uint32_t slot = 0; slot < mq_core_slots(b->core) && i > 0; slot++) {
            running += is_leased_under(s, b->core, slot, &l);
        }
        SIM_CHECK(s, i == 0 || running == l.running, "%s: %u jobs run, %u are counted", field,
                  running, l.running);
    }
}

static void check_tenants(sim *s, const sim_broker *b)
{
    mq_tenant_view t;
    mq_job_view job;
    for (uint32_t i = 0; i < s->config.names_max; i++) {
        if (!mq_core_tenant(b->core, i, &t)) {
            continue;
        }
        uint32_t live = 0;
        for (uint32_t slot = 0; slot < mq_core_slots(b->core); slot++) {
            live += mq_core_job(b->core, slot, &job) && !job.is_transient &&
                    mq_span_eq(job.tenant, t.name) && !mq_state_is_terminal(job.state);
        }
        SIM_CHECK(s, live == t.live, "tenant %.*s has %u live jobs, %u are counted",
                  MQ_SPAN_ARG(t.name), live, t.live);
    }
}

void sim_check_rest_equal(sim *s, sim_broker *b)
{
    check_registry(s, b);
    check_limits(s, b);
    check_tenants(s, b);
}

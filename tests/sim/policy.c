/* What the order of starts must keep to: caps and rates by value, priorities, age, fair shares. The
 * checker looks at a core after each turn - who holds what, who waits and why - and keeps its own
 * count of starts; it never reads the counters and tags by which the core decides. */
#include "tests/sim/sim.h"

enum { TENANTS = 3, PRIORITIES = 10 };

typedef struct sim_rule { /* a limit in force, as it was seen first */
    bool is_used, is_seen;
    mq_limit_type type;
    char name[16];
    uint32_t concurrency, rate, period_ms, burst;
    uint64_t since; /* turn */
    uint32_t start_count;
    int64_t starts[SIM_STARTS_MAX]; /* core time, since it is in force */
} sim_rule;

typedef struct sim_pair { /* two tenants, both with jobs that could start at one priority */
    bool is_on;
    uint64_t priority;
    uint64_t starts[2];
} sim_pair;

typedef struct sim_ready { /* of a tenant, in the lane that is watched */
    bool is_any;
    uint64_t priority;
} sim_ready;

struct sim_policy {
    uint64_t turn;
    uint32_t broker;
    uint64_t generation;
    int64_t core_ms; /* the core's time: it does not go back */
    struct {
        uint64_t epoch, grant, turn; /* of the lease seen last */
        uint64_t held;               /* turn in which somebody held it last */
        char queue[16], kind[16], key[16];
    } jobs[SIM_ALL];
    sim_rule rules[SIM_RULES_MAX];
    uint32_t weights[TENANTS];
    bool is_settled[TENANTS][PRIORITIES]; /* has had a start of that priority under its weight */
    sim_pair pairs[TENANTS][TENANTS];
    /* of this turn */
    uint32_t held[SIM_ALL], held_count, started[SIM_ALL], started_count;
    bool has_gang;
};

typedef struct visit {
    sim *s;
    sim_broker *b;
} visit;

/* ---- who holds what ---- */

static void on_held(void *arg, const mq_job_view *view, uint32_t seat, bool is_accepted)
{
    const visit *v = arg;
    sim_policy *p = v->s->policy;
    uint32_t no = sim_job_find(v->s, view->id);
    (void)seat;
    (void)is_accepted;
    if (no == SIM_NONE || p->jobs[no].held == p->turn) {
        return;
    }
    p->jobs[no].held = p->turn;
    p->held[p->held_count++] = no;
    p->has_gang = p->has_gang || view->seats > 0;
    (void)mq_span_copy(view->queue, p->jobs[no].queue, sizeof p->jobs[no].queue);
    (void)mq_span_copy(view->kind, p->jobs[no].kind, sizeof p->jobs[no].kind);
    (void)mq_span_copy(mq_str(v->s->jobs[no].key), p->jobs[no].key, sizeof p->jobs[no].key);
    uint32_t slot = mq_core_find(v->b->core, view->id);
    if (view->seats > 0 || !mq_core_record(v->b->core, slot, &v->s->a)) {
        return;
    }
    const mq_job_record *r = &v->s->a;
    (void)mq_span_copy(r->limit_key, p->jobs[no].key, sizeof p->jobs[no].key);
    if (r->epoch != p->jobs[no].epoch || r->grant != p->jobs[no].grant) {
        p->jobs[no].epoch = r->epoch;
        p->jobs[no].grant = r->grant;
        bool is_own = r->epoch == v->b->epoch;   /* else loaded: started under another owner */
        p->jobs[no].turn = is_own ? p->turn : 0; /* such a start was that owner's to answer for */
        if (is_own) {
            p->started[p->started_count++] = no;
        }
    }
}

static void look_at_workers(sim *s, sim_broker *b)
{
    visit v = {s, b};
    s->policy->held_count = s->policy->started_count = 0;
    s->policy->has_gang = false;
    for (uint32_t i = 0; i < s->config.workers_max; i++) {
        mq_core_held(b->core, i, on_held, &v);
    }
}

/* ---- caps and rates ---- */

static bool is_under(const sim_policy *p, uint32_t no, const sim_rule *r)
{
    const char *name = r->type == MQ_LIMIT_QUEUE  ? p->jobs[no].queue
                       : r->type == MQ_LIMIT_KIND ? p->jobs[no].kind
                                                  : p->jobs[no].key;
    return strcmp(name, r->name) == 0;
}

static sim_rule *rule_of(sim *s, const mq_limit_view *view)
{
    sim_policy *p = s->policy;
    sim_rule *free_one = NULL;
    for (uint32_t i = 0; i < SIM_RULES_MAX; i++) {
        sim_rule *r = &p->rules[i];
        if (r->is_used && r->type == view->type && mq_span_is(view->name, r->name)) {
            return r;
        }
        free_one = !r->is_used ? r : free_one;
    }
    SIM_CHECK(s, free_one != NULL, "more than %d limits", SIM_RULES_MAX);
    *free_one = (sim_rule){.is_used = true, .type = view->type, .since = UINT64_MAX};
    (void)mq_span_copy(view->name, free_one->name, sizeof free_one->name);
    return free_one;
}

static void see_rules(sim *s, sim_broker *b)
{
    sim_policy *p = s->policy;
    mq_limit_view view;
    for (uint32_t i = 0; i < SIM_RULES_MAX; i++) {
        p->rules[i].is_seen = false;
    }
    for (uint32_t i = 1; i < s->config.limits_max; i++) {
        if (!mq_core_limit(b->core, i, &view)) {
            continue;
        }
        sim_rule *r = rule_of(s, &view);
        r->is_seen = true;
        bool is_same = r->since != UINT64_MAX && r->concurrency == view.concurrency &&
                       r->rate == view.rate && r->period_ms == view.period_ms &&
                       r->burst == view.burst;
        if (!is_same) {
            r->concurrency = view.concurrency;
            r->rate = view.rate;
            r->period_ms = view.period_ms;
            r->burst = view.burst;
            r->since = p->turn;
            r->start_count = 0;
        }
    }
    for (uint32_t i = 0; i < SIM_RULES_MAX; i++) {
        p->rules[i].is_used = p->rules[i].is_used && p->rules[i].is_seen;
    }
}

/* Never more than the cap, unless all of them had started before it was set. */
static void check_cap(sim *s, const sim_rule *r)
{
    const sim_policy *p = s->policy;
    uint32_t count = 0;
    uint64_t latest = 0;
    for (uint32_t i = 0; i < p->held_count; i++) {
        uint32_t no = p->held[i];
        if (is_under(p, no, r)) {
            count++;
            latest = p->jobs[no].turn > latest ? p->jobs[no].turn : latest;
        }
    }
    SIM_CHECK(s, count <= r->concurrency || latest <= r->since,
              "%u jobs run under the limit %s=%s of %u", count, mq_limit_type_name(r->type),
              r->name, r->concurrency);
}

/* In no interval more starts than a full bucket and what has come since. */
static void check_rate(sim *s, sim_rule *r, int64_t core_ms)
{
    if (r->start_count == SIM_STARTS_MAX) {
        memmove(r->starts, r->starts + 1, sizeof r->starts - sizeof r->starts[0]);
        r->start_count--;
    }
    r->starts[r->start_count++] = core_ms;
    for (uint32_t i = 0; i < r->start_count; i++) {
        uint64_t passed_ms = (uint64_t)(core_ms - r->starts[i]);
        uint64_t most = r->burst + passed_ms * r->rate / r->period_ms;
        SIM_CHECK(s, r->start_count - i <= most,
                  "%u starts in %llu ms under the limit %s=%s of %u in %u ms", r->start_count - i,
                  (unsigned long long)passed_ms, mq_limit_type_name(r->type), r->name, r->rate,
                  r->period_ms);
    }
}

static void check_limits(sim *s)
{
    sim_policy *p = s->policy;
    for (uint32_t i = 0; i < SIM_RULES_MAX; i++) {
        sim_rule *r = &p->rules[i];
        if (!r->is_used) {
            continue;
        }
        if (r->concurrency > 0) {
            check_cap(s, r);
        }
        for (uint32_t k = 0; k < p->started_count && r->rate > 0; k++) {
            if (is_under(p, p->started[k], r) && r->since < p->turn) {
                check_rate(s, r, p->core_ms);
            }
        }
    }
}

/* ---- order ---- */

/* A job that waits and that nothing but the want of a slot holds back. */
static bool could_start(const mq_core *core, uint32_t slot)
{
    mq_hold_view hold;
    return mq_core_job_hold(core, slot, &hold) &&
           (hold.hold == MQ_HOLD_NONE || hold.hold == MQ_HOLD_BUSY);
}

static bool same_lane(const mq_job_view *a, const mq_job_view *b)
{
    return mq_span_eq(a->queue, b->queue) && mq_span_eq(a->kind, b->kind) &&
           a->is_transient == b->is_transient;
}

static bool has_gang_of(const sim *s, const char *key)
{
    bool is_there = false;
    for (uint32_t i = 0; i < s->job_count && key[0] != '\0' && !is_there; i++) {
        is_there = s->jobs[i].seats_max > 0 && strcmp(s->jobs[i].key, key) == 0;
    }
    return is_there;
}

/* Nobody that could have run on the same worker waits before what has just started. */
static void check_order(sim *s, const sim_broker *b)
{
    const sim_policy *p = s->policy;
    mq_job_view waiting, begun;
    for (uint32_t slot = 0; p->started_count > 0 && slot < mq_core_slots(b->core); slot++) {
        if (!could_start(b->core, slot) || !mq_core_job(b->core, slot, &waiting)) {
            continue;
        }
        const sim_job *k = sim_job_get(s, waiting.id);
        if (has_gang_of(s, k->key)) { /* its end may have made room behind the starts */
            continue;
        }
        for (uint32_t i = 0; i < p->started_count; i++) {
            const sim_job *j = &s->jobs[p->started[i]];
            uint32_t at = mq_core_find(b->core, mq_str(j->id));
            if (!mq_core_job(b->core, at, &begun) || !same_lane(&begun, &waiting)) {
                continue;
            }
            SIM_CHECK(s, waiting.priority <= begun.priority,
                      "job %s of priority %u starts before %s of %u", j->id, begun.priority, k->id,
                      waiting.priority);
            SIM_CHECK(s,
                      waiting.priority != begun.priority ||
                          !mq_span_eq(waiting.tenant, begun.tenant) ||
                          begun.number < waiting.number,
                      "job %s starts before %s, an older one of its tenant", j->id, k->id);
        }
    }
}

/* ---- shares ---- */

static uint32_t tenant_of(const sim_job *j)
{
    return j->tenant[0] == 't' ? (uint32_t)(j->tenant[1] - '0') : TENANTS;
}

/* The lane whose shares are watched. */
static bool is_watched(const sim_job *j)
{
    return strcmp(j->queue, "default") == 0 && strcmp(j->kind, "echo") == 0 && !j->is_transient;
}

static void see_ready(sim *s, const sim_broker *b, sim_ready out[TENANTS])
{
    memset(out, 0, TENANTS * sizeof *out);
    mq_job_view view;
    for (uint32_t slot = 0; slot < mq_core_slots(b->core); slot++) {
        if (!could_start(b->core, slot) || !mq_core_job(b->core, slot, &view)) {
            continue;
        }
        const sim_job *j = sim_job_get(s, view.id);
        uint32_t t = tenant_of(j);
        if (t < TENANTS && is_watched(j) && (!out[t].is_any || view.priority > out[t].priority)) {
            out[t] = (sim_ready){true, view.priority};
        }
    }
}

/* What a tenant has been charged for stays charged when its weight changes: it counts from its next
 * start of that priority on. */
static void see_weights(const sim *s, const sim_broker *b, bool is_same)
{
    sim_policy *p = s->policy;
    uint32_t now[TENANTS] = {1, 1, 1};
    mq_tenant_view view;
    for (uint32_t i = 0; i < s->config.names_max; i++) {
        if (mq_core_tenant(b->core, i, &view) && view.name.len == 2 && view.name.data[0] == 't' &&
            view.name.data[1] - '0' < TENANTS) {
            now[view.name.data[1] - '0'] = view.weight;
        }
    }
    for (uint32_t t = 0; t < TENANTS; t++) {
        for (uint32_t i = 0; i < PRIORITIES; i++) {
            bool *is_settled = &p->is_settled[t][i];
            *is_settled = !is_same || (*is_settled && p->weights[t] == now[t]);
        }
    }
    memcpy(p->weights, now, sizeof now);
}

/* While two tenants both have jobs that could start, at one priority, their starts by weight differ
 * by at most one start of each (Goyal, Vin, Cheng: SFQ, theorem 1). */
static void check_pair(sim *s, uint32_t a, uint32_t b, const sim_ready now[TENANTS], bool is_same)
{
    sim_policy *p = s->policy;
    sim_pair *pair = &p->pairs[a][b];
    const uint64_t wa = p->weights[a], wb = p->weights[b];
    bool is_both = now[a].is_any && now[b].is_any && now[a].priority == now[b].priority &&
                   p->is_settled[a][now[a].priority % PRIORITIES] &&
                   p->is_settled[b][now[a].priority % PRIORITIES];
    if (!is_same || !is_both || !pair->is_on || pair->priority != now[a].priority) {
        *pair = (sim_pair){.is_on = is_both, .priority = now[a].priority};
        return;
    }
    for (uint32_t i = 0; i < p->started_count; i++) {
        const sim_job *j = &s->jobs[p->started[i]];
        uint32_t t = tenant_of(j);
        if (t != a && t != b) {
            continue;
        }
        if (!is_watched(j) || j->priority != pair->priority) {
            *pair = (sim_pair){.is_on = true, .priority = now[a].priority};
            return;
        }
        pair->starts[t == b]++;
    }
    uint64_t sa = pair->starts[0] * wb, sb = pair->starts[1] * wa;
    SIM_CHECK(s, (sa > sb ? sa - sb : sb - sa) <= wa + wb,
              "tenants t%u and t%u, of weights %llu and %llu, had %llu and %llu starts while both "
              "had work",
              a, b, (unsigned long long)wa, (unsigned long long)wb,
              (unsigned long long)pair->starts[0], (unsigned long long)pair->starts[1]);
    s->shares += p->started_count > 0;
}

static void check_shares(sim *s, const sim_broker *b, bool is_same)
{
    sim_policy *p = s->policy;
    sim_ready now[TENANTS];
    see_ready(s, b, now);
    see_weights(s, b, is_same);
    is_same = is_same && !p->has_gang;
    for (uint32_t i = 0; i < TENANTS; i++) {
        for (uint32_t k = i + 1; k < TENANTS; k++) {
            check_pair(s, i, k, now, is_same);
        }
    }
    for (uint32_t i = 0; i < p->started_count; i++) {
        const sim_job *j = &s->jobs[p->started[i]];
        uint32_t t = tenant_of(j);
        if (t < TENANTS) {
            p->is_settled[t][j->priority % PRIORITIES] = true;
        }
    }
}

/* ---- a turn ---- */

void sim_policy_step(sim *s, sim_broker *b, const mq_input *in)
{
    if (s->policy != NULL && s->policy->broker == b->no && s->policy->generation == b->generation) {
        /* The core's time is the latest that any input has said, not only a turn. */
        s->policy->core_ms = mq_max_i64(s->policy->core_ms, in->now_ms);
    }
    if (in->type != MQ_IN_TURN) {
        return;
    }
    if (s->policy == NULL) {
        s->policy = calloc(1, sizeof *s->policy);
        MQ_ASSERT(s->policy != NULL);
    }
    sim_policy *p = s->policy;
    if (b->core == NULL || b->epoch != s->disk->epoch) {
        return; /* of a broker that does not know yet that it is not the owner */
    }
    bool is_same = p->broker == b->no && p->generation == b->generation;
    p->core_ms = is_same ? mq_max_i64(p->core_ms, in->now_ms) : in->now_ms;
    p->broker = b->no;
    p->generation = b->generation;
    p->turn++;
    look_at_workers(s, b);
    see_rules(s, b);
    if (s->rate[SIM_F_CLOCK] == 0) { /* cores do not count time that goes back */
        check_limits(s);
    }
    check_order(s, b);
    check_shares(s, b, is_same);
}

void sim_policy_free(sim *s)
{
    free(s->policy);
    s->policy = NULL;
}

/* What holds jobs back, for people: the reason of one job or of a lane, limits and tenants as JSON.
 * It decides nothing. */
#include <stdio.h>

#include "broker/io/answers.h"
#include "shared/base/math.h"
#include "shared/job/entry.h"
#include "shared/job/kinds.h"

/* Why a kind is paused. */
static void kind_text(const mq_broker *b, mq_span kind, char *out, size_t size)
{
    static mq_entry entry;
    mq_kind_view k;
    out[0] = '\0';
    if (!mq_core_kind(b->core, kind, &k) || mq_entry_read(k.value, &entry, NULL) != MQ_OK) {
        return;
    }
    if (k.quarantined_after == 0) {
        (void)snprintf(out, size, "kind %.*s is paused by an operator", MQ_SPAN_ARG(kind));
        return;
    }
    (void)snprintf(out, size,
                   "kind %.*s is in quarantine: %u jobs in a row crashed their slots, job %.*s was "
                   "the last; `maasq kind resume %.*s` lets it run again",
                   MQ_SPAN_ARG(kind), k.quarantined_after, MQ_SPAN_ARG(entry.job),
                   MQ_SPAN_ARG(kind));
}

static void limit_text(const mq_broker *b, const mq_hold_view *h, char *out, size_t size)
{
    const mq_limit_view *l = &h->limit;
    int len =
        snprintf(out, size, "limit %s=%.*s: ", mq_limit_type_name(l->type), MQ_SPAN_ARG(l->name));
    size_t at = len < 0 ? 0 : mq_min_size((size_t)len, size - 1);
    if (h->is_rate) {
        (void)snprintf(out + at, size - at, "rate %u in %u ms, the next start in %lld ms", l->rate,
                       l->period_ms, (long long)mq_max_i64(0, l->next_ms - mq_broker_now(b)));
    } else {
        (void)snprintf(out + at, size - at, "concurrency %u of %u", l->running, l->concurrency);
    }
}

static void worker_text(const mq_hold_view *h, char *out, size_t size)
{
    switch (h->misfit) {
    case MQ_MISFIT_MEMORY:
        (void)snprintf(out, size, "no connected worker has as much memory: it needs %.*s",
                       MQ_SPAN_ARG(h->needs));
        return;
    case MQ_MISFIT_TAGS:
        (void)snprintf(out, size, "no connected worker has the tags: it needs %.*s",
                       MQ_SPAN_ARG(h->needs));
        return;
    case MQ_MISFIT_QUEUE:
        (void)snprintf(out, size, "no connected worker serves queue %.*s", MQ_SPAN_ARG(h->queue));
        return;
    case MQ_MISFIT_KIND:
    case MQ_MISFIT_NONE:
        break;
    }
    (void)snprintf(out, size,
                   h->workers == 0 ? "no worker is connected"
                                   : "no connected worker runs kind %.*s",
                   MQ_SPAN_ARG(h->kind));
}

const char *mq_hold_text(const mq_broker *b, const mq_hold_view *h, char *out, size_t size)
{
    out[0] = '\0';
    switch (h->hold) {
    case MQ_HOLD_NONE:
        break;
    case MQ_HOLD_QUEUE_PAUSED:
        (void)snprintf(out, size, "queue %.*s is paused", MQ_SPAN_ARG(h->queue));
        break;
    case MQ_HOLD_KIND_PAUSED:
        kind_text(b, h->kind, out, size);
        break;
    case MQ_HOLD_LIMIT:
        limit_text(b, h, out, size);
        break;
    case MQ_HOLD_NO_WORKER:
        worker_text(h, out, size);
        break;
    case MQ_HOLD_BUSY:
        (void)snprintf(out, size, "all workers that can run it are busy");
        break;
    }
    return out;
}

void mq_answer_limits(mq_broker *b, const mq_msg_query *query, mq_buf *out)
{
    mq_limit_view l;
    uint32_t rows = 0;
    uint32_t most = query->limit == 0 ? 1000 : mq_answer_limit(query);
    mq_json_key(out, "limits");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < b->core_config.limits_max && rows < most; i++) {
        if (!mq_core_limit(b->core, i, &l)) {
            continue;
        }
        rows++;
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_text(out, "type", mq_str(mq_limit_type_name(l.type)));
        mq_json_text(out, "name", l.name);
        mq_json_int(out, "concurrency", l.concurrency);
        mq_json_int(out, "running", l.running);
        mq_json_int(out, "rate", l.rate);
        mq_json_int(out, "period_ms", l.period_ms);
        mq_json_int(out, "burst", l.burst);
        mq_json_int(out, "tokens", l.tokens);
        mq_json_bool(out, "is_own", l.is_own);
        mq_json_bool(out, "is_waited_for", l.is_waited_for);
        mq_buf_add_str(out, "}");
    }
    mq_buf_add_str(out, "]");
}

void mq_answer_tenants(mq_broker *b, const mq_msg_query *query, mq_buf *out)
{
    mq_tenant_view t;
    uint32_t rows = 0;
    uint32_t most = query->limit == 0 ? 1000 : mq_answer_limit(query);
    mq_json_key(out, "tenants");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < b->core_config.names_max && rows < most; i++) {
        if (!mq_core_tenant(b->core, i, &t)) {
            continue;
        }
        rows++;
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_text(out, "tenant", t.name);
        mq_json_int(out, "live", t.live);
        mq_json_int(out, "weight", t.weight);
        mq_json_int(out, "quota", t.quota);
        mq_buf_add_str(out, "}");
    }
    mq_buf_add_str(out, "]");
}

/* ---- kinds ---- */

enum { KINDS_MAX = 512 };

typedef struct kind_list {
    uint32_t count;
    mq_span names[KINDS_MAX];
} kind_list;

static void add_kind(kind_list *list, mq_span name)
{
    for (uint32_t i = 0; i < list->count; i++) {
        if (mq_span_eq(list->names[i], name)) {
            return;
        }
    }
    if (list->count < KINDS_MAX) {
        list->names[list->count++] = name;
    }
}

/* Those of the table, of the workers, of jobs that wait, and those that are paused. */
static void collect_kinds(const mq_broker *b, kind_list *list)
{
    mq_worker_view w;
    mq_lane_view l;
    mq_entry_view e;
    list->count = 0;
    for (uint32_t i = 0; i < b->core_config.registry_max; i++) {
        if (mq_core_entry(b->core, i, &e) && e.key.type == MQ_ENTRY_KIND) {
            add_kind(list, e.key.name);
        }
    }
    for (uint32_t i = 0; i < mq_kind_policy_count(); i++) {
        add_kind(list, mq_str(mq_kind_policy_at(i)->name));
    }
    for (uint32_t i = 0; i < b->core_config.workers_max; i++) {
        for (uint32_t k = 0; mq_core_worker(b->core, i, &w) && k < w.kind_count; k++) {
            add_kind(list, w.kinds[k]);
        }
    }
    for (uint32_t i = 0; i < b->core_config.lanes_max; i++) {
        if (mq_core_lane(b->core, i, &l)) {
            add_kind(list, l.kind);
        }
    }
}

static uint32_t waiting_of(const mq_broker *b, mq_span kind)
{
    mq_lane_view l;
    uint32_t count = 0;
    for (uint32_t i = 0; i < b->core_config.lanes_max; i++) {
        count += mq_core_lane(b->core, i, &l) && mq_span_eq(l.kind, kind) ? l.waiting : 0;
    }
    return count;
}

static uint32_t workers_of(const mq_broker *b, mq_span kind)
{
    mq_worker_view w;
    uint32_t count = 0;
    for (uint32_t i = 0; i < b->core_config.workers_max; i++) {
        bool has = false;
        for (uint32_t k = 0; mq_core_worker(b->core, i, &w) && k < w.kind_count; k++) {
            has = has || mq_span_eq(w.kinds[k], kind);
        }
        count += has;
    }
    return count;
}

void mq_answer_kinds(mq_broker *b, const mq_msg_query *query, mq_buf *out)
{
    static kind_list list;
    mq_kind_view k;
    char why[512];
    (void)query;
    collect_kinds(b, &list);
    mq_json_key(out, "kinds");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < list.count; i++) {
        (void)mq_core_kind(b->core, list.names[i], &k);
        kind_text(b, list.names[i], why, sizeof why);
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_text(out, "kind", list.names[i]);
        mq_json_bool(out, "is_paused", k.is_paused);
        mq_json_bool(out, "is_quarantined", k.quarantined_after > 0);
        mq_json_text(out, "why", mq_str(why));
        mq_json_int(out, "crash_row", k.crash_row);
        mq_json_int(out, "waiting", waiting_of(b, list.names[i]));
        mq_json_int(out, "workers", workers_of(b, list.names[i]));
        mq_buf_add_str(out, "}");
    }
    mq_buf_add_str(out, "]");
}

static bool has_lane(const mq_broker *b, mq_span queue)
{
    mq_lane_view l;
    for (uint32_t i = 0; i < b->core_config.lanes_max; i++) {
        if (mq_core_lane(b->core, i, &l) && mq_span_eq(l.queue, queue)) {
            return true;
        }
    }
    return false;
}

void mq_answer_idle_queues(const mq_broker *b, mq_buf *out)
{
    static mq_entry entry;
    mq_entry_view e;
    for (uint32_t i = 0; i < b->core_config.registry_max; i++) {
        if (!mq_core_entry(b->core, i, &e) || e.key.type != MQ_ENTRY_QUEUE ||
            mq_entry_read(e.value, &entry, NULL) != MQ_OK ||
            !(entry.is_paused || entry.is_draining) || has_lane(b, e.key.name)) {
            continue;
        }
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_text(out, "queue", e.key.name);
        mq_json_bool(out, "is_paused", entry.is_paused);
        mq_json_bool(out, "is_draining", entry.is_draining);
        mq_buf_add_str(out, "}");
    }
}

/* ---- status ---- */

/* Jobs that wait for more than a free worker. */
static void add_held(const mq_broker *b, mq_buf *out)
{
    mq_lane_view l;
    mq_hold_view h;
    uint64_t held[MQ_HOLD_BUSY + 1] = {0};
    for (uint32_t i = 0; i < b->core_config.lanes_max; i++) {
        if (mq_core_lane(b->core, i, &l) && mq_core_lane_hold(b->core, i, &h)) {
            bool is_whole = h.hold != MQ_HOLD_NONE && h.hold != MQ_HOLD_BUSY;
            held[is_whole ? h.hold : MQ_HOLD_LIMIT] += is_whole ? l.waiting : l.blocked;
        }
    }
    uint64_t paused = held[MQ_HOLD_QUEUE_PAUSED] + held[MQ_HOLD_KIND_PAUSED];
    mq_json_key(out, "held");
    mq_buf_printf(out, "{\"paused\":%llu,\"limit\":%llu,\"no_worker\":%llu}",
                  (unsigned long long)paused, (unsigned long long)held[MQ_HOLD_LIMIT],
                  (unsigned long long)held[MQ_HOLD_NO_WORKER]);
}

void mq_status_holds(const mq_broker *b, const mq_core_stats *s, mq_buf *out)
{
    mq_entry_view e;
    mq_kind_view k;
    char why[512];
    add_held(b, out);
    mq_json_key(out, "kinds");
    mq_buf_printf(out, "{\"paused\":%u,\"quarantined\":%u}", s->kinds_paused, s->kinds_quarantined);
    mq_json_key(out, "alarms");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; s->kinds_quarantined > 0 && i < b->core_config.registry_max; i++) {
        if (mq_core_entry(b->core, i, &e) && e.key.type == MQ_ENTRY_KIND &&
            mq_core_kind(b->core, e.key.name, &k) && k.quarantined_after > 0) {
            kind_text(b, e.key.name, why, sizeof why);
            mq_json_comma(out);
            mq_buf_add_json(out, mq_str(why));
        }
    }
    mq_buf_add_str(out, "]");
}

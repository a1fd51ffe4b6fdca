/* Read-only questions answered as JSON objects: what operators see (status, workers, queues, jobs,
 * events) and what clients and workers look up in the registry. Fields: broker/README.md. Reads the
 * core between steps, changes nothing. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/io/answers.h"
#include "broker/io/retention.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/json.h"
#include "shared/base/math.h"

enum { LIST_DEFAULT = 100, LIST_MAX = 1000 };

void mq_answer_news(mq_broker *b, const char *type, const char *fmt, ...)
{
    mq_news *n = &b->news[b->news_count++ % MQ_NEWS_MAX];
    n->at_ms = mq_clock_wall_ms();
    snprintf(n->type, sizeof n->type, "%s", type);
    va_list args;
    va_start(args, fmt);
    vsnprintf(n->text, sizeof n->text, fmt, args);
    va_end(args);
}

/* Submitted and ended so far, durable and transient. */
static void totals(const mq_broker *b, int64_t out[2])
{
    mq_core_stats s = {0};
    if (b->core != NULL) {
        mq_core_stats_read(b->core, &s);
    }
    out[0] = b->counters[0] - b->dups + b->transient_base[0] + (int64_t)s.transient_submitted;
    out[1] = b->counters[2] + b->counters[3] + b->counters[4] + b->counters[5] +
             b->transient_base[1] + (int64_t)s.transient_ended;
}

void mq_answer_tick(mq_broker *b)
{
    int64_t now_ms = mq_clock_mono_ms();
    if (now_ms < b->rate_at_ms) {
        return;
    }
    b->rate_at_ms = now_ms + 1000;
    if (!mq_own_is_serving(b)) {
        b->rate_count = 0;
        return;
    }
    totals(b, b->rates[b->rate_index]);
    b->rate_index = (b->rate_index + 1) % MQ_RATE_SECONDS;
    b->rate_count += b->rate_count < MQ_RATE_SECONDS;
}

/* Per second over the samples kept; 0 while there are too few. */
static double rate(const mq_broker *b, int which)
{
    if (b->rate_count < 2) {
        return 0;
    }
    uint32_t last = (b->rate_index + MQ_RATE_SECONDS - 1) % MQ_RATE_SECONDS;
    uint32_t first = (b->rate_index + MQ_RATE_SECONDS - b->rate_count) % MQ_RATE_SECONDS;
    return (double)(b->rates[last][which] - b->rates[first][which]) / (b->rate_count - 1);
}

/* ---- JSON pieces ---- */

void mq_json_key(mq_buf *out, const char *key)
{
    uint8_t last = out->len > 0 ? out->data[out->len - 1] : '{';
    mq_buf_printf(out, "%s\"%s\":", last == '{' || last == '[' ? "" : ",", key);
}

void mq_json_comma(mq_buf *out)
{
    uint8_t last = out->len > 0 ? out->data[out->len - 1] : '{';
    if (last != '{' && last != '[') {
        mq_buf_add(out, ",", 1);
    }
}

void mq_json_text(mq_buf *out, const char *key, mq_span value)
{
    mq_json_key(out, key);
    mq_buf_add_json(out, value);
}

void mq_json_int(mq_buf *out, const char *key, int64_t value)
{
    mq_json_key(out, key);
    mq_buf_printf(out, "%lld", (long long)value);
}

void mq_json_bool(mq_buf *out, const char *key, bool value)
{
    mq_json_key(out, key);
    mq_buf_add_str(out, value ? "true" : "false");
}

void mq_json_raw(mq_buf *out, const char *key, mq_span object)
{
    mq_json_key(out, key);
    if (mq_json_is_object(object)) { /* it came from a worker */
        mq_buf_add_span(out, object);
    } else {
        mq_buf_add_str(out, "null");
    }
}

/* ---- status ---- */

/* The class `replicated` and who confirms it. */
static void status_replicas(const mq_broker *b, mq_buf *out)
{
    mq_replica_view view = {0};
    if (b->core != NULL) {
        mq_core_replicas(b->core, &view);
    }
    mq_json_key(out, "replicas");
    mq_buf_add_str(out, "{");
    mq_json_int(out, "online", b->replicas_online);
    mq_json_int(out, "confirmed_by", view.count);
    mq_json_int(out, "wanted", view.wanted);
    mq_json_bool(out, "is_open", view.is_open);
    mq_json_int(out, "waiting", view.waiting);
    mq_buf_add_str(out, "}");
}

static void status_store(const mq_broker *b, mq_buf *out)
{
    mq_json_key(out, "store");
    mq_buf_add_str(out, "{");
    mq_json_bool(out, "connected", b->store->ops->is_connected(b->store));
    mq_json_int(out, "used_bytes", (int64_t)b->used_bytes);
    mq_json_int(out, "max_bytes", (int64_t)b->store_max_bytes);
    mq_json_bool(out, "is_full", b->is_full);
    mq_json_text(out, "level", mq_str(mq_retention_level(b)));
    mq_json_int(out, "used_percent", mq_retention_percent(b));
    status_replicas(b, out);
    mq_json_int(out, "results_bytes", mq_retention_bytes(b));
    mq_json_int(out, "results_bytes_max", mq_retention_max(b));
    mq_json_int(out, "commits", b->commits);
    mq_json_int(out, "commit_us", b->commits == 0 ? 0 : b->commit_us_sum / b->commits);
    mq_json_key(out, "jobs_per_commit");
    mq_buf_printf(out, "%.2f", b->commits == 0 ? 0.0 : (double)b->commit_jobs / (double)b->commits);
    mq_buf_add_str(out, "}");
}

static void status_broker(const mq_broker *b, const mq_core_stats *s, mq_buf *out)
{
    mq_json_key(out, "broker");
    mq_buf_add_str(out, "{");
    mq_json_text(out, "name", mq_str(b->config->name));
    mq_json_text(out, "version", mq_str(MQ_VERSION));
    mq_json_text(out, "instance", mq_str(b->witness->instance));
    mq_json_text(out, "front", mq_str(b->front->endpoint));
    mq_json_text(out, "back", mq_str(b->back->endpoint));
    mq_json_int(out, "shard", b->shard);
    mq_json_int(out, "epoch", (int64_t)s->epoch);
    mq_json_int(out, "sequence", (int64_t)s->sequence);
    mq_json_int(out, "uptime_ms", mq_clock_mono_ms() - b->started_ms);
    mq_json_bool(out, "is_loading", s->is_loading);
    mq_json_int(out, "dropped", (int64_t)(b->front->dropped + b->back->dropped));
    mq_json_int(out, "unroutable", (int64_t)(b->front->unroutable + b->back->unroutable));
    mq_buf_add_str(out, "}");
}

static void status_counts(const mq_broker *b, const mq_core_stats *s, mq_buf *out)
{
    mq_json_key(out, "jobs");
    mq_buf_add_str(out, "{");
    for (int i = MQ_STATE_NONE + 1; i < MQ_STATE_COUNT; i++) {
        if (!mq_state_is_terminal((mq_state)i)) {
            mq_json_int(out, mq_state_name((mq_state)i), s->by_state[i]);
        }
    }
    mq_json_int(out, "transient", s->transient);
    mq_buf_add_str(out, "}");
    mq_json_key(out, "counters");
    mq_buf_add_str(out, "{");
    for (uint32_t i = 0; i < MQ_COUNTERS; i++) {
        mq_json_int(out, mq_counter_name(i), b->counters[i] - (i == 0 ? b->dups : 0));
    }
    mq_json_int(out, "transient_submitted", b->transient_base[0] + (int64_t)s->transient_submitted);
    mq_json_int(out, "transient_ended", b->transient_base[1] + (int64_t)s->transient_ended);
    mq_json_int(out, "load_errors", (int64_t)s->load_errors);
    mq_json_int(out, "refused_busy", (int64_t)s->refused_busy);
    mq_json_int(out, "memo_hits", (int64_t)s->memo_hits);
    mq_json_int(out, "quarantines", (int64_t)s->quarantines);
    mq_json_int(out, "dups", b->dups);
    mq_buf_add_str(out, "}");
    mq_json_key(out, "rates");
    mq_buf_printf(out, "{\"submitted_per_s\":%.1f,\"ended_per_s\":%.1f}", rate(b, 0), rate(b, 1));
}

static void answer_status(mq_broker *b, const mq_msg_query *query, mq_buf *out)
{
    mq_core_stats s;
    (void)query;
    mq_core_stats_read(b->core, &s);
    status_broker(b, &s, out);
    status_store(b, out);
    status_counts(b, &s, out);
    mq_json_key(out, "workers");
    mq_buf_printf(out, "{\"count\":%u,\"slots\":%u,\"free\":%u}", s.workers, s.slots, s.free_slots);
    mq_json_key(out, "registry");
    mq_buf_printf(out, "{\"models\":%u,\"datasets\":%u,\"memos\":%u}", s.models, s.datasets,
                  s.memos);
    mq_json_key(out, "memory");
    mq_buf_printf(out, "{\"jobs\":%u,\"jobs_max\":%u,\"held_bytes\":%llu,\"pool_bytes\":%llu}",
                  s.jobs, s.jobs_max, (unsigned long long)s.held_bytes,
                  (unsigned long long)s.pool_bytes_used);
    mq_json_int(out, "gangs", s.gangs);
    mq_status_holds(b, &s, out);
    mq_json_int(out, "now_ms", mq_broker_now(b));
}

/* ---- workers, queues, events ---- */

typedef struct held_list {
    mq_broker *b;
    mq_buf *out;
} held_list;

static void on_held(void *arg, const mq_job_view *job, uint32_t seat, bool is_accepted)
{
    held_list *h = arg;
    mq_json_comma(h->out);
    mq_buf_add_str(h->out, "{");
    mq_json_text(h->out, "id", job->id);
    mq_json_text(h->out, "kind", job->kind);
    mq_json_text(h->out, "model", job->model);
    mq_json_int(h->out, "seat", seat);
    mq_json_bool(h->out, "is_accepted", is_accepted);
    mq_json_raw(h->out, "progress", mq_curves_last(h->b->curves, job->id));
    mq_buf_add_str(h->out, "}");
}

static void answer_workers(mq_broker *b, const mq_msg_query *query, mq_buf *out)
{
    (void)query;
    mq_json_key(out, "workers");
    mq_buf_add_str(out, "[");
    mq_worker_view w;
    for (uint32_t i = 0; i < b->core_config.workers_max; i++) {
        if (!mq_core_worker(b->core, i, &w)) {
            continue;
        }
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_text(out, "worker", w.uuid);
        mq_json_text(out, "name", w.name);
        mq_json_text(out, "host", w.host);
        mq_json_text(out, "version", w.version);
        mq_json_text(out, "fingerprint", w.fingerprint);
        mq_json_int(out, "pid", (int64_t)w.pid);
        mq_json_int(out, "slots", w.slots);
        mq_json_int(out, "free", w.free);
        mq_json_int(out, "rss_bytes", (int64_t)w.rss_bytes);
        mq_json_int(out, "load_milli", (int64_t)w.load_milli);
        mq_json_int(out, "beat_age_ms", mq_max_i64(0, mq_broker_now(b) - w.seen_ms));
        mq_json_int(out, "joined_ms", w.joined_ms);
        mq_json_bool(out, "is_draining", w.is_draining);
        mq_json_key(out, "kinds");
        mq_buf_add_str(out, "[");
        for (uint32_t k = 0; k < w.kind_count; k++) {
            mq_json_comma(out);
            mq_buf_add_json(out, w.kinds[k]);
        }
        mq_buf_add_str(out, "]");
        mq_json_key(out, "tags");
        mq_buf_add_str(out, "[");
        for (uint32_t k = 0; k < w.tag_count; k++) {
            mq_json_comma(out);
            mq_buf_add_json(out, w.tags[k]);
        }
        mq_buf_add_str(out, "]");
        mq_json_int(out, "memory_bytes", (int64_t)w.memory_bytes);
        mq_json_int(out, "memory_held", (int64_t)w.memory_held);
        mq_json_key(out, "jobs");
        mq_buf_add_str(out, "[");
        held_list list = {b, out};
        mq_core_held(b->core, i, on_held, &list);
        mq_buf_add_str(out, "]}");
    }
    mq_buf_add_str(out, "]");
}

static void answer_queues(mq_broker *b, const mq_msg_query *query, mq_buf *out)
{
    (void)query;
    mq_lane_view l;
    mq_hold_view hold;
    char why[512];
    mq_json_key(out, "queues");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < b->core_config.lanes_max; i++) {
        if (!mq_core_lane(b->core, i, &l)) {
            continue;
        }
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_text(out, "queue", l.queue);
        mq_json_text(out, "kind", l.kind);
        mq_json_text(out, "model", l.model);
        mq_json_int(out, "waiting", l.waiting);
        mq_json_int(out, "oldest_ms", l.waiting == 0 ? 0 : mq_broker_now(b) - l.oldest_ms);
        mq_json_bool(out, "is_paused", l.is_paused);
        mq_json_bool(out, "is_draining", l.is_draining);
        mq_json_text(out, "needs", l.needs);
        mq_json_int(out, "tenants", l.tenants);
        mq_json_int(out, "blocked", l.blocked);
        if (mq_core_lane_hold(b->core, i, &hold)) {
            mq_json_text(out, "waits", mq_str(mq_hold_text(b, &hold, why, sizeof why)));
        }
        mq_buf_add_str(out, "}");
    }
    mq_answer_idle_queues(b, out);
    mq_buf_add_str(out, "]");
}

static void answer_events(mq_broker *b, const mq_msg_query *query, mq_buf *out)
{
    uint32_t limit = (uint32_t)mq_min_size(query->limit == 0 ? LIST_DEFAULT : query->limit,
                                           mq_min_size(b->news_count, MQ_NEWS_MAX));
    limit = (uint32_t)mq_min_size(limit, mq_min_size(b->news_count, MQ_NEWS_MAX));
    mq_json_key(out, "events");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < limit; i++) { /* newest first */
        const mq_news *n = &b->news[(b->news_count - 1 - i) % MQ_NEWS_MAX];
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_int(out, "n", b->news_count - 1 - i);
        mq_json_int(out, "at_ms", n->at_ms);
        mq_json_text(out, "type", mq_str(n->type));
        mq_json_text(out, "text", mq_str(n->text));
        mq_buf_add_str(out, "}");
    }
    mq_buf_add_str(out, "]");
}

/* ---- the table ---- */

typedef void answer_fn(mq_broker *b, const mq_msg_query *query, mq_buf *out);

static const struct {
    const char *what;
    answer_fn *answer;
} rows[] = {
    {"status", answer_status},      {"workers", answer_workers}, {"queues", answer_queues},
    {"events", answer_events},      {"kinds", mq_answer_kinds},  {"limits", mq_answer_limits},
    {"tenants", mq_answer_tenants},
};

void mq_answer_send(mq_broker *b, uint64_t conn, uint64_t rid, mq_code code, const char *text,
                    mq_buf *out)
{
    if (code == MQ_OK && out->is_full) {
        code = MQ_E_LIMIT;
        text = "the answer is too large: ask for less";
    }
    mq_msg_answer answer = {
        .rid = rid, .verdict = mq_str(mq_code_name(code)), .text = mq_str(text)};
    mq_act_send(b, conn, MQ_CMD_answer, &answer, code == MQ_OK ? mq_buf_span(out) : (mq_span){0});
}

uint32_t mq_answer_limit(const mq_msg_query *query)
{
    return query->limit == 0 ? LIST_DEFAULT : (uint32_t)mq_min_size(query->limit, LIST_MAX);
}

void mq_answer_query(mq_broker *b, uint64_t conn, const mq_msg_query *query)
{
    mq_buf out;
    mq_error err = {.code = MQ_OK};
    if (b->core == NULL || mq_answer_jobs(b, conn, query)) {
        return; /* answered later, when the store has */
    }
    mq_buf_init(&out, MQ_ANSWER_BYTES_MAX);
    mq_buf_add_str(&out, "{");
    mq_code code = mq_answer_registry(b, query, &out, &err);
    for (size_t i = 0; code == MQ_E_UNSUPPORTED && i < sizeof rows / sizeof rows[0]; i++) {
        if (mq_span_is(query->what, rows[i].what)) {
            rows[i].answer(b, query, &out);
            code = MQ_OK;
        }
    }
    mq_buf_add_str(&out, "}");
    if (code == MQ_E_UNSUPPORTED) {
        mq_fail(&err, MQ_E_ARG,
                "what: \"%.*s\" is none of status, workers, queues, kinds, limits, tenants, "
                "events, jobs, "
                "job, models, model, "
                "datasets, dataset, memo",
                MQ_SPAN_ARG(query->what));
        code = MQ_E_ARG;
    }
    mq_answer_send(b, conn, query->rid, code, code == MQ_OK ? "" : err.text, &out);
    mq_buf_release(&out);
}

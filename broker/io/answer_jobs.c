/* Questions about jobs: filtered lists and one job with its history and progress. Live jobs come
 * from memory, ended ones from what is remembered, dead letters and single ended jobs from the
 * store. */
#include <stdio.h>
#include <stdlib.h>

#include "broker/io/answers.h"
#include "broker/io/cron.h"
#include "broker/io/dead.h"
#include "broker/io/filter.h"
#include "shared/base/assert.h"
#include "shared/base/json.h"
#include "shared/base/ulid.h"
#include "shared/job/fingerprint.h"

enum { SCAN_MAX = 200000 /* jobs looked at for one answer: the loop must not stand still */ };

static void add_facts(mq_buf *out, const mq_facts *j)
{
    mq_json_text(out, "id", j->id);
    mq_json_text(out, "kind", j->kind);
    mq_json_text(out, "queue", j->queue);
    mq_json_text(out, "model", j->model);
    mq_json_text(out, "tenant", j->tenant);
    mq_json_text(out, "state", j->state);
    mq_json_text(out, "worker", j->worker);
    mq_json_text(out, "why", j->why);
}

static uint32_t add_live(mq_broker *b, const mq_filter *f, uint32_t limit, mq_buf *out)
{
    uint32_t rows = 0;
    mq_job_view v;
    uint32_t slot = 0;
    for (uint32_t seen = 0; slot < mq_core_slots(b->core) && rows < limit && seen < SCAN_MAX;
         slot++) {
        if (!mq_core_job(b->core, slot, &v)) {
            continue;
        }
        seen++;
        mq_facts j = {.id = v.id,
                      .kind = v.kind,
                      .queue = v.queue,
                      .model = v.model,
                      .tenant = v.tenant,
                      .state = mq_str(mq_state_name(v.state)),
                      .worker = v.worker};
        if (mq_state_is_terminal(v.state) || !mq_filter_matches(f, &j)) {
            continue;
        }
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        add_facts(out, &j);
        mq_json_int(out, "priority", v.priority);
        mq_json_int(out, "attempts", v.attempts);
        mq_json_int(out, "seats", v.seats);
        mq_json_int(out, "submitted_ms", v.submitted_ms);
        mq_json_int(out, "leased_ms", v.leased_ms);
        mq_json_int(out, "run_at_ms", v.run_at_ms);
        mq_json_bool(out, "is_transient", v.is_transient);
        mq_json_raw(out, "progress", mq_curves_last(b->curves, v.id));
        mq_buf_add_str(out, "}");
        rows++;
    }
    return rows;
}

static void add_recent(mq_broker *b, const mq_filter *f, uint32_t limit, mq_buf *out)
{
    mq_recent_view v;
    uint32_t rows = 0;
    for (uint32_t back = 0; rows < limit && mq_core_recent(b->core, back, &v); back++) {
        mq_facts j = {.id = v.id,
                      .kind = v.kind,
                      .queue = v.queue,
                      .model = v.model,
                      .state = mq_str(mq_state_name(v.state)),
                      .why = v.why};
        if (v.id.len == 0 || !mq_filter_matches(f, &j)) { /* empty: brought back by an operator */
            continue;
        }
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        add_facts(out, &j);
        mq_json_int(out, "submitted_ms", v.submitted_ms);
        mq_json_int(out, "ended_ms", v.ended_ms);
        mq_json_int(out, "queue_us", (int64_t)v.queue_us);
        mq_json_int(out, "run_us", (int64_t)v.run_us);
        mq_buf_add_str(out, "}");
        rows++;
    }
}

/* ---- what needs the store ---- */

/* A question that waits for the store. */
typedef struct waiting {
    mq_broker *b;
    uint64_t conn, rid;
    uint32_t limit, rows;
    mq_buf out;
    char filter_text[256];
    mq_filter filter;
} waiting;

static waiting *waiting_new(mq_broker *b, uint64_t conn, const mq_msg_query *query)
{
    waiting *w = b->lookups < MQ_LOOKUPS_MAX ? calloc(1, sizeof *w) : NULL;
    if (w == NULL) {
        mq_act_error(b, conn, query->rid, MQ_E_BUSY, "too many look-ups under way", 1000);
        return NULL;
    }
    b->lookups++;
    *w = (waiting){.b = b, .conn = conn, .rid = query->rid, .limit = mq_answer_limit(query)};
    mq_buf_init(&w->out, MQ_ANSWER_BYTES_MAX);
    mq_buf_add_str(&w->out, "{");
    return w;
}

static void waiting_end(waiting *w, mq_code code, const char *text)
{
    w->b->lookups--;
    mq_buf_add_str(&w->out, "}");
    mq_answer_send(w->b, w->conn, w->rid, code, text, &w->out);
    mq_buf_release(&w->out);
    free(w);
}

static void add_history(mq_buf *out, const mq_job_record *r)
{
    mq_json_key(out, "history");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < r->history_count; i++) {
        mq_transition t = mq_transition_unpack(r->history[i]);
        mq_json_comma(out);
        mq_buf_printf(out, "{\"at_ms\":%lld,\"event\":\"%s\",\"state\":\"%s\",\"grants\":%u}",
                      (long long)t.at_ms, mq_event_name(t.event), mq_state_name(t.to), t.grants);
    }
    mq_buf_add_str(out, "]");
}

static void add_curve(mq_broker *b, mq_buf *out, mq_span id)
{
    mq_json_key(out, "curve");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0;; i++) {
        mq_span point = mq_curves_point(b->curves, id, i);
        if (point.len == 0) {
            break;
        }
        if (mq_json_is_object(point)) {
            mq_json_comma(out);
            mq_buf_add_span(out, point);
        }
    }
    mq_buf_add_str(out, "]");
}

/* The tail of a log that was kept with the job's end; returns its number of lines. */
static uint32_t add_kept_log(mq_buf *out, mq_span log)
{
    uint32_t lines = 0;
    while (log.len > 0) {
        size_t n = 0;
        while (n < log.len && log.data[n] != '\n') {
            n++;
        }
        mq_json_comma(out);
        mq_buf_add_json(out, mq_span_of(log.data, n));
        n += n < log.len;
        log = mq_span_of(log.data + n, log.len - n);
        lines++;
    }
    return lines;
}

/* What the job said: from memory while it is there, else what was kept with its end. log_from:
 * number of the first line given, from 0. */
static void add_progress(mq_broker *b, mq_buf *out, const mq_job_record *r)
{
    mq_span last = mq_curves_last(b->curves, r->id);
    uint32_t lines = 0;
    mq_json_raw(out, "progress", last.len > 0 ? last : r->progress);
    add_curve(b, out, r->id);
    mq_json_key(out, "log");
    mq_buf_add_str(out, "[");
    uint64_t total = mq_curves_log_total(b->curves, r->id);
    for (mq_span line = {0}; (line = mq_curves_log(b->curves, r->id, lines)).len > 0; lines++) {
        mq_json_comma(out);
        mq_buf_add_json(out, line);
    }
    if (lines == 0) {
        lines = add_kept_log(out, r->log);
        total = r->log_lines;
    }
    mq_buf_add_str(out, "]");
    mq_json_int(out, "log_from", (int64_t)(total > lines ? total - lines : 0));
}

static void add_record(mq_broker *b, mq_buf *out, const mq_job_record *r)
{
    char print[MQ_FINGERPRINT_SIZE];
    mq_facts j = mq_facts_of(r, print);
    add_facts(out, &j);
    mq_json_text(out, "fingerprint", j.fingerprint);
    mq_json_text(out, "code", r->code);
    mq_json_text(out, "error", r->error);
    mq_json_text(out, "trace", r->trace);
    mq_json_text(out, "memo", r->memo);
    mq_json_text(out, "limit_key", r->limit_key);
    mq_json_text(out, "needs", r->needs);
    mq_json_int(out, "priority", (int64_t)r->priority);
    mq_json_int(out, "attempts", (int64_t)r->attempts);
    mq_json_int(out, "attempts_max", (int64_t)r->attempts_max);
    mq_json_int(out, "max_run_ms", (int64_t)r->max_run_ms);
    mq_json_int(out, "backoff_ms", (int64_t)r->backoff_ms);
    mq_json_int(out, "backoff_max_ms", (int64_t)r->backoff_max_ms);
    mq_json_int(out, "keep_ms", (int64_t)r->keep_ms);
    mq_json_text(out, "unique", r->unique);
    mq_json_bool(out, "runs_anyway", (r->flags & MQ_REC_ANYWAY) != 0);
    mq_json_int(out, "crashes", (int64_t)r->crashes);
    mq_json_int(out, "lapses", (int64_t)r->lapses);
    mq_json_int(out, "epoch", (int64_t)r->epoch);
    mq_json_int(out, "grant", (int64_t)r->grant);
    mq_json_int(out, "submitted_ms", r->submitted_ms);
    mq_json_int(out, "leased_ms", r->leased_ms);
    mq_json_int(out, "ended_ms", r->ended_ms);
    mq_json_int(out, "run_at_ms", r->run_at_ms);
    mq_json_int(out, "queue_us", (int64_t)r->queue_us);
    mq_json_int(out, "run_us", (int64_t)r->run_us);
    mq_json_int(out, "body_bytes", (int64_t)r->body_bytes);
    mq_json_int(out, "result_bytes", (int64_t)r->result_bytes);
    mq_json_int(out, "seats_min", (int64_t)r->seats_min);
    mq_json_int(out, "seats_max", (int64_t)r->seats_max);
    mq_json_int(out, "step", (int64_t)r->step);
    mq_json_text(out, "chain", r->chain);
    mq_json_key(out, "deps");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < r->dep_count; i++) {
        mq_json_comma(out);
        mq_buf_add_json(out, r->deps[i]);
    }
    mq_buf_add_str(out, "]");
    add_history(out, r);
    add_progress(b, out, r);
}

static void on_job(void *arg, mq_code code, mq_span packed, mq_span result, const mq_error *err)
{
    static mq_job_record record;
    waiting *w = arg;
    mq_error why;
    (void)result;
    if (code == MQ_OK) {
        code = mq_job_record_read(packed, &record, &why);
        if (code == MQ_OK) {
            add_record(w->b, &w->out, &record);
        }
    } else {
        mq_fail(&why, code, "%s",
                code == MQ_E_NOT_FOUND ? "no job has this id (or its retention is over)"
                                       : err->text);
    }
    waiting_end(w, code, code == MQ_OK ? "" : why.text);
}

static void answer_job(mq_broker *b, uint64_t conn, const mq_msg_query *query)
{
    static mq_job_record record;
    mq_error err;
    waiting *w = waiting_new(b, conn, query);
    if (w == NULL) {
        return;
    }
    uint32_t slot = mq_core_find(b->core, query->name);
    if (slot != MQ_CORE_NO_SLOT && mq_core_record(b->core, slot, &record) &&
        !mq_state_is_terminal(mq_state_parse(record.state))) {
        add_record(b, &w->out, &record);
        mq_hold_view hold;
        char why[512];
        if (mq_core_job_hold(b->core, slot, &hold)) {
            mq_json_text(&w->out, "waits", mq_str(mq_hold_text(b, &hold, why, sizeof why)));
        }
        waiting_end(w, MQ_OK, "");
    } else if (mq_ulid_ms(query->name) < 0) {
        waiting_end(w, MQ_E_ARG, "name: a job's id has 26 letters");
    } else if (mq_asks_job(b->asks, query->name, on_job, w, &err) != MQ_OK) {
        waiting_end(w, MQ_E_BUSY, err.text);
    }
}

static void on_dead(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    static mq_job_record r;
    waiting *w = arg;
    mq_error why;
    if (code == MQ_OK && field.data != NULL) {
        if (w->rows < w->limit && mq_job_record_read(value, &r, &why) == MQ_OK) {
            char print[MQ_FINGERPRINT_SIZE];
            mq_facts j = mq_facts_of(&r, print);
            if (mq_filter_matches(&w->filter, &j)) {
                mq_json_comma(&w->out);
                mq_buf_add_str(&w->out, "{");
                add_record(w->b, &w->out, &r);
                mq_buf_add_str(&w->out, "}");
                w->rows++;
            }
        }
        return;
    }
    mq_buf_add_str(&w->out, "]");
    w->b->scans--;
    waiting_end(w, code, code == MQ_OK ? "" : err->text);
}

static void answer_dead(mq_broker *b, waiting *w)
{
    mq_error err;
    mq_json_key(&w->out, "jobs");
    mq_buf_add_str(&w->out, "[");
    if (b->scans == MQ_SCANS_MAX) { /* each may be long; the store's calls are for others too */
        waiting_end(w, MQ_E_BUSY, "too many lists of dead letters under way");
    } else if (b->store->ops->scan(b->store, MQ_PART_DEAD, 0, on_dead, w, &err) != MQ_OK) {
        waiting_end(w, MQ_E_BUSY, err.text);
    } else {
        b->scans++;
    }
}

static void answer_list(mq_broker *b, uint64_t conn, const mq_msg_query *query)
{
    mq_error err;
    mq_span state = {0};
    waiting *w = waiting_new(b, conn, query);
    if (w == NULL) {
        return;
    }
    mq_span_copy(query->filter, w->filter_text, sizeof w->filter_text);
    mq_code code = mq_filter_read(mq_str(w->filter_text), &w->filter, &err);
    if (code != MQ_OK) {
        waiting_end(w, code, err.text);
        return;
    }
    state = mq_filter_value(&w->filter, "state");
    if (state.len > 0 && mq_state_parse(state) == MQ_STATE_REFUSED) {
        mq_fail(&err, MQ_E_ARG, "filter: there is no state \"%.*s\"", MQ_SPAN_ARG(state));
        waiting_end(w, MQ_E_ARG, err.text);
        return;
    }
    if (mq_span_is(state, "dead")) {
        answer_dead(b, w);
        return;
    }
    mq_json_key(&w->out, "jobs");
    mq_buf_add_str(&w->out, "[");
    uint32_t rows = add_live(b, &w->filter, w->limit, &w->out);
    add_recent(b, &w->filter, w->limit - rows, &w->out);
    mq_buf_add_str(&w->out, "]");
    waiting_end(w, MQ_OK, "");
}

bool mq_answer_jobs(mq_broker *b, uint64_t conn, const mq_msg_query *query)
{
    if (mq_span_is(query->what, "job")) {
        answer_job(b, conn, query);
        return true;
    }
    if (mq_span_is(query->what, "jobs")) {
        answer_list(b, conn, query);
        return true;
    }
    return mq_dead_query(b, conn, query) || mq_cron_query(b, conn, query);
}

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
#include "shared/base/math.h"
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

/* Where a list goes on: a letter and two numbers. Live jobs stand by the epoch of their owner and
 * their slot, which a job keeps while it lives; jobs that ended lately by how many ended before;
 * dead letters by their id. */
typedef struct position {
    char part; /* l, r, d; 0 = the beginning */
    uint64_t epoch, at;
    char id[MQ_ULID_SIZE];
} position;

enum { CURSOR_SIZE = 48 };

static mq_code read_position(const mq_broker *b, mq_span text, position *out, mq_error *err)
{
    mq_core_stats s;
    char copy[CURSOR_SIZE];
    unsigned long long epoch = 0, at = 0;
    *out = (position){0};
    if (text.len == 0) {
        return MQ_OK;
    }
    bool fits = text.len < sizeof copy;
    (void)mq_span_copy(text, copy, sizeof copy);
    if (fits && copy[0] == 'd' && text.len == 1 + MQ_ULID_LEN) {
        out->part = 'd';
        memcpy(out->id, copy + 1, sizeof out->id);
        return MQ_OK;
    }
    char *end = copy;
    epoch = fits && (copy[0] == 'l' || copy[0] == 'r') ? strtoull(copy + 1, &end, 10) : 0;
    at = *end == '-' ? strtoull(end + 1, &end, 10) : 0;
    if (epoch == 0 || *end != '\0') {
        return mq_fail(err, MQ_E_ARG, "filter: after=%.*s is no cursor of this list",
                       MQ_SPAN_ARG(text));
    }
    *out = (position){.part = copy[0], .epoch = epoch, .at = at};
    mq_core_stats_read(b->core, &s);
    if (s.epoch != epoch) {
        return mq_fail(
            err, MQ_E_STALE,
            "filter: after=%.*s: shard %u has been taken over since; begin the list again",
            MQ_SPAN_ARG(text), b->shard);
    }
    return MQ_OK;
}

/* A list in the making. */
typedef struct page {
    mq_broker *b;
    const mq_filter *filter;
    mq_buf *out;
    uint64_t epoch;
    uint32_t rows, limit;
    char next[CURSOR_SIZE]; /* "" = there is no more */
} page;

static void set_cursor(page *p, char part, uint64_t at)
{
    snprintf(p->next, sizeof p->next, "%c%llu-%llu", part, (unsigned long long)p->epoch,
             (unsigned long long)at);
    mq_json_text(p->out, "cursor", mq_str(p->next));
    mq_buf_add_str(p->out, "}");
    p->rows++;
}

/* False: there are more, page->next says where. */
static bool add_live(page *p, uint32_t slot)
{
    mq_job_view v;
    mq_buf *out = p->out;
    uint32_t seen = 0, slots = mq_core_slots(p->b->core);
    for (; slot < slots && p->rows < p->limit && seen < SCAN_MAX; slot++) {
        if (!mq_core_job(p->b->core, slot, &v)) {
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
        if (mq_state_is_terminal(v.state) || !mq_filter_matches(p->filter, &j)) {
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
        mq_json_raw(out, "progress", mq_curves_last(p->b->curves, v.id));
        set_cursor(p, 'l', slot + 1);
    }
    if (slot < slots) {
        snprintf(p->next, sizeof p->next, "l%llu-%u", (unsigned long long)p->epoch, slot);
    }
    return slot == slots;
}

/* Newest first; those that end meanwhile come in front of the list and are not met again. upto: how
 * many had ended, of those that are still to come. */
static bool add_recent(page *p, uint64_t upto)
{
    mq_recent_view v;
    mq_buf *out = p->out;
    uint64_t total = mq_core_recent_total(p->b->core);
    uint64_t back = total > upto ? total - upto : 0;
    for (; p->rows < p->limit && back < total && mq_core_recent(p->b->core, (uint32_t)back, &v);
         back++) {
        mq_facts j = {.id = v.id,
                      .kind = v.kind,
                      .queue = v.queue,
                      .model = v.model,
                      .state = mq_str(mq_state_name(v.state)),
                      .why = v.why};
        if (v.id.len == 0 ||
            !mq_filter_matches(p->filter, &j)) { /* empty: brought back by an operator */
            continue;
        }
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        add_facts(out, &j);
        mq_json_int(out, "submitted_ms", v.submitted_ms);
        mq_json_int(out, "ended_ms", v.ended_ms);
        mq_json_int(out, "queue_us", (int64_t)v.queue_us);
        mq_json_int(out, "run_us", (int64_t)v.run_us);
        set_cursor(p, 'r', total - back - 1);
    }
    snprintf(p->next, sizeof p->next, "r%llu-%llu", (unsigned long long)p->epoch,
             (unsigned long long)(total - back));
    return back >= total || !mq_core_recent(p->b->core, (uint32_t)back, &v);
}

static void add_jobs(page *p, const position *at)
{
    mq_core_stats s;
    mq_core_stats_read(p->b->core, &s);
    p->epoch = s.epoch;
    bool is_end = at->part == 'r' || add_live(p, (uint32_t)mq_min_size(at->at, UINT32_MAX));
    if (is_end) {
        is_end = add_recent(p, at->part == 'r' ? at->at : UINT64_MAX);
    }
    if (is_end) {
        p->next[0] = '\0';
    }
}

/* ---- what needs the store ---- */

/* A dead letter of a page. */
typedef struct dead_row {
    char id[MQ_ULID_SIZE];
    char *record; /* owned, packed */
    size_t bytes;
} dead_row;

/* A question that waits for the store. */
typedef struct waiting {
    mq_broker *b;
    uint64_t conn, rid;
    uint32_t limit, rows;
    mq_buf out;
    char filter_text[256];
    mq_filter filter;
    position at;
    dead_row *dead; /* owned: the newest `limit` dead letters below `at`, the newest first */
    bool has_more;
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
    for (uint32_t i = 0; w->dead != NULL && i < w->rows; i++) {
        free(w->dead[i].record);
    }
    free(w->dead);
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

/* Keeps it if it is among the newest of the page. */
static void keep_dead(waiting *w, mq_span id, mq_span record)
{
    uint32_t at = w->rows;
    char key[MQ_ULID_SIZE];
    (void)mq_span_copy(id, key, sizeof key);
    while (at > 0 && strcmp(w->dead[at - 1].id, key) < 0) {
        at--;
    }
    if (at > 0 && strcmp(w->dead[at - 1].id, key) == 0) {
        return; /* a scan may give one twice */
    }
    w->has_more = w->has_more || w->rows == w->limit;
    char *copy = at == w->limit ? NULL : malloc(record.len);
    if (copy == NULL) {
        return;
    }
    memcpy(copy, record.data, record.len);
    if (w->rows == w->limit) {
        free(w->dead[--w->rows].record);
    }
    memmove(&w->dead[at + 1], &w->dead[at], (w->rows - at) * sizeof *w->dead);
    w->dead[at] = (dead_row){.record = copy, .bytes = record.len};
    memcpy(w->dead[at].id, key, sizeof key);
    w->rows++;
}

static void write_dead(waiting *w)
{
    static mq_job_record r;
    char cursor[CURSOR_SIZE] = "";
    for (uint32_t i = 0; i < w->rows; i++) {
        const dead_row *row = &w->dead[i];
        if (mq_job_record_read(mq_span_of(row->record, row->bytes), &r, NULL) == MQ_OK) {
            snprintf(cursor, sizeof cursor, "d%s", row->id);
            mq_json_comma(&w->out);
            mq_buf_add_str(&w->out, "{");
            add_record(w->b, &w->out, &r);
            mq_json_text(&w->out, "cursor", mq_str(cursor));
            mq_buf_add_str(&w->out, "}");
        }
    }
    mq_buf_add_str(&w->out, "]");
    mq_json_text(&w->out, "next", mq_str(w->has_more ? cursor : ""));
}

static void on_dead(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    static mq_job_record r;
    waiting *w = arg;
    if (code == MQ_OK && field.data != NULL) {
        char print[MQ_FINGERPRINT_SIZE];
        char id[MQ_ULID_SIZE];
        if (mq_job_record_read(value, &r, NULL) != MQ_OK || r.id.len != MQ_ULID_LEN) {
            return;
        }
        mq_facts j = mq_facts_of(&r, print);
        (void)mq_span_copy(r.id, id, sizeof id);
        bool is_of_page = w->at.part != 'd' || strcmp(id, w->at.id) < 0;
        if (is_of_page && mq_filter_matches(&w->filter, &j)) {
            keep_dead(w, r.id, value);
        }
        return;
    }
    write_dead(w);
    w->b->scans--;
    waiting_end(w, code, code == MQ_OK ? "" : err->text);
}

static void answer_dead(mq_broker *b, waiting *w)
{
    mq_error err;
    mq_json_key(&w->out, "jobs");
    mq_buf_add_str(&w->out, "[");
    w->dead = calloc((size_t)w->limit + 1, sizeof *w->dead);
    if (b->scans == MQ_SCANS_MAX || w->dead == NULL) { /* the store's calls are for others too */
        waiting_end(w, MQ_E_BUSY, "too many lists of dead letters under way");
    } else if (b->store->ops->scan(b->store, MQ_PART_DEAD, 0, on_dead, w, &err) != MQ_OK) {
        waiting_end(w, MQ_E_BUSY, err.text);
    } else {
        b->scans++;
    }
}

/* Takes the term after= out of the filter, which knows only what a job has. */
static mq_span take_cursor(char *text)
{
    char *at = strstr(text, "after=");
    if (at == NULL || (at > text && at[-1] != ' ')) {
        return (mq_span){0};
    }
    size_t n = strcspn(at, " ");
    static char cursor[CURSOR_SIZE * 2];
    (void)mq_span_copy(mq_span_of(at + 6, n - 6), cursor, sizeof cursor);
    memset(at, ' ', n);
    return mq_str(cursor);
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
    mq_code code = read_position(b, take_cursor(w->filter_text), &w->at, &err);
    code = code == MQ_OK ? mq_filter_read(mq_str(w->filter_text), &w->filter, &err) : code;
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
    bool is_dead = mq_span_is(state, "dead");
    if (w->at.part != 0 && is_dead != (w->at.part == 'd')) {
        waiting_end(w, MQ_E_ARG, "filter: after= is the cursor of another list");
        return;
    }
    if (is_dead) {
        answer_dead(b, w);
        return;
    }
    mq_json_key(&w->out, "jobs");
    mq_buf_add_str(&w->out, "[");
    page p = {.b = b, .filter = &w->filter, .out = &w->out, .limit = w->limit};
    add_jobs(&p, &w->at);
    mq_buf_add_str(&w->out, "]");
    mq_json_text(&w->out, "next", mq_str(p.next));
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

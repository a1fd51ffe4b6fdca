/* Dead letters in bulk; see dead.h. It decides nothing about a job: each one goes through the
 * core's own command, and the core looks it up in the store again. */
#include "broker/io/dead.h"

#include <stdio.h>
#include <stdlib.h>

#include "broker/io/answers.h"
#include "broker/io/filter.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/map.h"
#include "shared/base/math.h"
#include "shared/base/ulid.h"
#include "shared/job/fingerprint.h"

enum { SWEEP_MS_MAX = 3600000, GROUP_SLOTS = 2048 };

/* ---- actions ---- */

typedef struct bulk {
    uint64_t serial; /* rid of its commands; 0 = unused */
    uint64_t conn, rid, generation;
    const char *verb;      /* of the core: retry, discard */
    int64_t ended_before;  /* sweep: jobs that ended before; else INT64_MAX */
    bool is_read;          /* the store has given all ids */
    bool is_failed;        /* or could not */
    char filter_text[256]; /* filter borrows from it */
    mq_filter filter;
    uint32_t count, next, inflight;
    uint64_t matched, done, skipped;
    char (*ids)[MQ_ULID_LEN]; /* owned */
    uint32_t capacity;
} bulk;

struct mq_dead {
    bulk all[MQ_BULKS_MAX];
    uint64_t serials;
    int64_t sweep_ms; /* monotonic: when the next sweep is due */
};

static mq_dead *state_of(mq_broker *b)
{
    if (b->dead == NULL) {
        b->dead = calloc(1, sizeof *b->dead);
        MQ_ASSERT(b->dead != NULL);
    }
    return b->dead;
}

static bulk *bulk_of(const mq_broker *b, uint64_t serial)
{
    for (int i = 0; b->dead != NULL && i < MQ_BULKS_MAX; i++) {
        if (b->dead->all[i].serial == serial) {
            return &b->dead->all[i];
        }
    }
    return NULL;
}

static void bulk_free(bulk *k)
{
    free(k->ids);
    *k = (bulk){0};
}

static void reply(mq_broker *b, uint64_t conn, uint64_t rid, const char *verdict, const char *text)
{
    mq_msg_reply message = {.rid = rid, .verdict = mq_str(verdict), .text = mq_str(text)};
    mq_act_send(b, conn, MQ_CMD_reply, &message, (mq_span){0});
}

static void bulk_end(mq_broker *b, bulk *k)
{
    char text[160];
    snprintf(text, sizeof text, "{\"matched\":%llu,\"done\":%llu,\"skipped\":%llu,\"left\":%llu}",
             (unsigned long long)k->matched, (unsigned long long)k->done,
             (unsigned long long)k->skipped, (unsigned long long)(k->matched - k->count));
    if (k->conn != MQ_CONN_SELF) {
        reply(b, k->conn, k->rid, k->is_failed ? "busy" : "ok",
              k->is_failed ? "the store gave no list of dead letters, or the shard is being loaded "
                             "again; ask again"
                           : text);
    } else if (k->done > 0) {
        mq_answer_news(b, "sweep", "%llu dead letters are older than their retention and gone",
                       (unsigned long long)k->done);
    }
    bulk_free(k);
}

static void bulk_add(bulk *k, mq_span id)
{
    k->matched++;
    if (k->count == MQ_BULK_IDS_MAX || id.len != MQ_ULID_LEN) {
        return;
    }
    if (k->count == k->capacity) {
        uint32_t capacity = k->capacity == 0 ? 256 : k->capacity * 2;
        char(*ids)[MQ_ULID_LEN] = realloc(k->ids, (size_t)capacity * sizeof *ids);
        if (ids == NULL) {
            return; /* the rest is counted as left */
        }
        k->ids = ids;
        k->capacity = capacity;
    }
    memcpy(k->ids[k->count++], id.data, MQ_ULID_LEN);
}

typedef struct scan {
    mq_broker *b;
    uint64_t serial;
} scan;

static void on_field(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    static mq_job_record r;
    char print[MQ_FINGERPRINT_SIZE];
    scan *s = arg;
    bulk *k = bulk_of(s->b, s->serial);
    (void)err;
    if (code == MQ_OK && field.data != NULL) {
        if (k != NULL && mq_job_record_read(value, &r, NULL) == MQ_OK) {
            mq_facts facts = mq_facts_of(&r, print);
            if (r.ended_ms < k->ended_before && mq_filter_matches(&k->filter, &facts)) {
                bulk_add(k, r.id);
            }
        }
        return;
    }
    if (k != NULL) {
        k->is_read = true;
        k->is_failed = code != MQ_OK;
    }
    s->b->scans--;
    free(s);
}

static bool start_scan(mq_broker *b, uint64_t serial)
{
    mq_error err;
    scan *s = b->scans < MQ_SCANS_MAX ? malloc(sizeof *s) : NULL;
    if (s == NULL) {
        return false;
    }
    *s = (scan){b, serial};
    b->scans++;
    if (b->store->ops->scan(b->store, MQ_PART_DEAD, 0, on_field, s, &err) != MQ_OK) {
        b->scans--;
        free(s);
        return false;
    }
    return true;
}

/* A new action, its list on the way; NULL when there are too many. */
static bulk *bulk_start(mq_broker *b, uint64_t conn, uint64_t rid, const char *verb)
{
    mq_dead *dead = state_of(b);
    bulk *k = bulk_of(b, 0);
    if (k == NULL) {
        return NULL;
    }
    *k = (bulk){.serial = ++dead->serials,
                .conn = conn,
                .rid = rid,
                .generation = b->generation,
                .verb = verb,
                .ended_before = INT64_MAX};
    return k;
}

/* A command that is sent again because its answer takes long is one command. */
static bool is_under_way(const mq_broker *b, uint64_t conn, uint64_t rid)
{
    for (int i = 0; b->dead != NULL && i < MQ_BULKS_MAX; i++) {
        const bulk *k = &b->dead->all[i];
        if (k->serial != 0 && k->conn == conn && k->rid == rid) {
            return true;
        }
    }
    return false;
}

bool mq_dead_command(mq_broker *b, uint64_t conn, const mq_msg_command *m)
{
    mq_error err;
    bool is_retry = mq_span_is(m->verb, "retry-all");
    if (!is_retry && !mq_span_is(m->verb, "purge")) {
        return false;
    }
    if (is_under_way(b, conn, m->rid)) {
        return true;
    }
    bulk *k = bulk_start(b, conn, m->rid, is_retry ? "retry" : "discard");
    if (k == NULL) {
        reply(b, conn, m->rid, "busy", "too many bulk actions under way; ask again");
        return true;
    }
    mq_span text = m->args_count > 0 ? m->args[0] : (mq_span){0};
    (void)mq_span_copy(text, k->filter_text, sizeof k->filter_text);
    if (mq_filter_read(mq_str(k->filter_text), &k->filter, &err) != MQ_OK) {
        reply(b, conn, m->rid, mq_code_name(err.code), err.text);
        bulk_free(k);
    } else if (!start_scan(b, k->serial)) {
        reply(b, conn, m->rid, "busy", "the store takes no more questions now; ask again");
        bulk_free(k);
    }
    return true;
}

void mq_dead_replied(mq_broker *b, uint64_t rid, mq_span verdict)
{
    bulk *k = rid == 0 ? NULL : bulk_of(b, rid);
    if (k != NULL) {
        MQ_ASSERT(k->inflight > 0);
        k->inflight--;
        k->done += mq_span_is(verdict, "ok");
        k->skipped += !mq_span_is(verdict, "ok");
    }
}

static void feed(mq_broker *b, bulk *k)
{
    uint64_t serial = k->serial;
    while (k->serial == serial && k->generation == b->generation && k->next < k->count &&
           k->inflight < MQ_BULK_WINDOW) {
        mq_span id = mq_span_of(k->ids[k->next++], MQ_ULID_LEN);
        mq_msg_command command = {.rid = serial, .verb = mq_str(k->verb)};
        command.args = &id;
        command.args_count = 1;
        k->inflight++;
        mq_input in = {.type = MQ_IN_COMMAND, .conn = MQ_CONN_SELF, .rid = serial};
        in.as.command = &command;
        mq_act_step(b, &in);
    }
}

/* Dead letters whose retention is over go, looked for often enough that none stays much longer. */
static void sweep(mq_broker *b, int64_t now_ms)
{
    mq_dead *dead = state_of(b);
    int64_t retention_ms = b->core_config.dead_retention_ms;
    if (now_ms < dead->sweep_ms || b->own != MQ_OWN_SERVING) {
        return;
    }
    dead->sweep_ms = now_ms + mq_max_i64(250, mq_min_i64(SWEEP_MS_MAX, retention_ms / 8));
    bulk *k = is_under_way(b, MQ_CONN_SELF, 0) ? NULL : bulk_start(b, MQ_CONN_SELF, 0, "discard");
    if (k != NULL) {
        k->ended_before = mq_broker_now(b) - retention_ms;
        if (!start_scan(b, k->serial)) {
            bulk_free(k);
        }
    }
}

void mq_dead_tick(mq_broker *b)
{
    sweep(b, mq_clock_mono_ms());
    for (int i = 0; i < MQ_BULKS_MAX && b->core != NULL; i++) {
        bulk *k = &b->dead->all[i];
        if (k->serial == 0) {
            continue;
        }
        if (k->generation != b->generation) { /* what was under way is not answered any more */
            k->is_failed = k->is_read = true;
            k->next = k->count;
            k->inflight = 0;
        } else if (k->is_read) {
            feed(b, k);
        }
        if (k->is_read && k->inflight == 0 && k->next == k->count) {
            bulk_end(b, k);
        }
    }
}

void mq_dead_release(mq_broker *b)
{
    for (int i = 0; b->dead != NULL && i < MQ_BULKS_MAX; i++) {
        bulk_free(&b->dead->all[i]);
    }
    free(b->dead);
    b->dead = NULL;
}

/* ---- groups ---- */

typedef struct group {
    char print[MQ_FINGERPRINT_SIZE];
    char kind[65], why[65], code[33], error[513]; /* of the newest */
    char id[MQ_ULID_SIZE];
    uint64_t count;
    int64_t first_ms, last_ms;
} group;

typedef struct grouping {
    mq_broker *b;
    uint64_t conn, rid;
    char filter_text[256];
    mq_filter filter;
    uint64_t total, others;
    uint32_t count;
    uint16_t slots[GROUP_SLOTS]; /* by fingerprint: group + 1 */
    group groups[MQ_DEAD_GROUPS_MAX];
} grouping;

static group *group_for(grouping *g, const char *print)
{
    uint32_t at = (uint32_t)(mq_hash64(mq_str(print), 0) % GROUP_SLOTS);
    while (g->slots[at] != 0) {
        group *one = &g->groups[g->slots[at] - 1];
        if (strcmp(one->print, print) == 0) {
            return one;
        }
        at = (at + 1) % GROUP_SLOTS;
    }
    if (g->count == MQ_DEAD_GROUPS_MAX) {
        return NULL;
    }
    group *one = &g->groups[g->count++];
    g->slots[at] = (uint16_t)g->count;
    memcpy(one->print, print, sizeof one->print);
    one->first_ms = INT64_MAX;
    return one;
}

static void group_add(grouping *g, const mq_job_record *r)
{
    char print[MQ_FINGERPRINT_SIZE];
    mq_facts facts = mq_facts_of(r, print);
    if (!mq_filter_matches(&g->filter, &facts)) {
        return;
    }
    mq_error_fingerprint(r->kind, r->why, r->code, r->error, print);
    group *one = group_for(g, print);
    g->total++;
    if (one == NULL) {
        g->others++;
        return;
    }
    one->count++;
    one->first_ms = mq_min_i64(one->first_ms, r->ended_ms);
    if (r->ended_ms >= one->last_ms) {
        one->last_ms = r->ended_ms;
        (void)mq_span_copy(r->kind, one->kind, sizeof one->kind);
        (void)mq_span_copy(r->why, one->why, sizeof one->why);
        (void)mq_span_copy(r->code, one->code, sizeof one->code);
        (void)mq_span_copy(r->error, one->error, sizeof one->error);
        (void)mq_span_copy(r->id, one->id, sizeof one->id);
    }
}

static int larger_first(const void *a, const void *b)
{
    const group *x = a;
    const group *y = b;
    return x->count == y->count ? strcmp(x->print, y->print) : (x->count < y->count) * 2 - 1;
}

static void send_groups(const grouping *g, mq_buf *out)
{
    mq_json_int(out, "total", (int64_t)g->total);
    mq_json_int(out, "others", (int64_t)g->others);
    mq_json_int(out, "retention_ms", g->b->core_config.dead_retention_ms);
    mq_json_key(out, "groups");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < g->count; i++) {
        const group *one = &g->groups[i];
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_text(out, "fingerprint", mq_str(one->print));
        mq_json_text(out, "kind", mq_str(one->kind));
        mq_json_text(out, "why", mq_str(one->why));
        mq_json_text(out, "code", mq_str(one->code));
        mq_json_text(out, "error", mq_str(one->error));
        mq_json_int(out, "count", (int64_t)one->count);
        mq_json_int(out, "first_ms", one->first_ms);
        mq_json_int(out, "last_ms", one->last_ms);
        mq_json_text(out, "id", mq_str(one->id));
        mq_buf_add_str(out, "}");
    }
    mq_buf_add_str(out, "]}");
}

static void on_grouped(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    static mq_job_record r;
    grouping *g = arg;
    if (code == MQ_OK && field.data != NULL) {
        if (mq_job_record_read(value, &r, NULL) == MQ_OK) {
            group_add(g, &r);
        }
        return;
    }
    mq_buf out;
    mq_buf_init(&out, MQ_ANSWER_BYTES_MAX);
    mq_buf_add_str(&out, "{");
    qsort(g->groups, g->count, sizeof g->groups[0], larger_first);
    send_groups(g, &out);
    mq_answer_send(g->b, g->conn, g->rid, code, code == MQ_OK ? "" : err->text, &out);
    mq_buf_release(&out);
    g->b->scans--;
    free(g);
}

bool mq_dead_query(mq_broker *b, uint64_t conn, const mq_msg_query *query)
{
    mq_error err;
    if (!mq_span_is(query->what, "dead")) {
        return false;
    }
    grouping *g = b->scans < MQ_SCANS_MAX ? calloc(1, sizeof *g) : NULL;
    if (g == NULL) {
        mq_act_error(b, conn, query->rid, MQ_E_BUSY, "too many lists of dead letters under way",
                     1000);
        return true;
    }
    *g = (grouping){.b = b, .conn = conn, .rid = query->rid};
    (void)mq_span_copy(query->filter, g->filter_text, sizeof g->filter_text);
    if (mq_filter_read(mq_str(g->filter_text), &g->filter, &err) != MQ_OK) {
        mq_act_error(b, conn, query->rid, err.code, err.text, 0);
        free(g);
        return true;
    }
    b->scans++;
    if (b->store->ops->scan(b->store, MQ_PART_DEAD, 0, on_grouped, g, &err) != MQ_OK) {
        b->scans--;
        mq_act_error(b, conn, query->rid, MQ_E_BUSY, err.text, 1000);
        free(g);
    }
    return true;
}

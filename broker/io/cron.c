/* Recurring jobs; see cron.h. A definition is kept as eight texts, each with a NUL behind it, and
 * the body behind them: schedule, zone, missed, kind, queue, model, priority, rules (cron_rules.h,
 * "" = none). The id of a firing is a hash of its name and time, so that it is one job fleet-wide
 * however often it is tried. */
#include "broker/io/cron.h"

#include <stdio.h>
#include <stdlib.h>

#include "broker/io/answers.h"
#include "broker/io/body.h"
#include "broker/io/cron_rules.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/map.h"
#include "shared/base/math.h"
#include "shared/base/ulid.h"
#include "shared/job/cron.h"
#include "shared/job/kinds.h"

enum { TICK_MS = 1000, TEXTS = 8, NEXT_MAX = 100, PRIORITY_DEFAULT = 5 };
enum { SCHEDULE, ZONE, MISSED, KIND, QUEUE, MODEL, PRIORITY, RULES };

typedef struct definition {
    mq_span texts[TEXTS];
    mq_span body;
    mq_cron_rules rules;
    mq_cron cron;
    const mq_zone *zone; /* of the cache */
} definition;

/* What was computed for an entry, as long as the entry is the same. */
typedef struct timed {
    uint32_t index; /* in the registry */
    int64_t at_ms;  /* last time dealt with */
    bool is_paused;
    int64_t due_s;
} timed;

typedef struct zone_slot {
    char name[MQ_ZONE_NAME_MAX + 1];
    mq_zone *zone; /* owned */
} zone_slot;

struct mq_crons {
    int64_t tick_ms; /* monotonic */
    uint64_t generation;
    uint32_t count, zone_count;
    timed all[MQ_CRONS_MAX];
    zone_slot zones[MQ_CRON_ZONES_MAX];
};

static mq_crons *crons_of(mq_broker *b)
{
    if (b->crons == NULL) {
        b->crons = calloc(1, sizeof *b->crons);
        MQ_ASSERT(b->crons != NULL);
    }
    return b->crons;
}

static void zones_clear(mq_crons *c)
{
    for (uint32_t i = 0; i < c->zone_count; i++) {
        free(c->zones[i].zone);
    }
    c->zone_count = 0;
}

void mq_cron_release(mq_broker *b)
{
    if (b->crons != NULL) {
        zones_clear(b->crons);
    }
    free(b->crons);
    b->crons = NULL;
}

static mq_code zone_of(mq_broker *b, mq_span name, const mq_zone **out, mq_error *err)
{
    mq_crons *c = crons_of(b);
    for (uint32_t i = 0; i < c->zone_count; i++) {
        if (mq_span_is(name, c->zones[i].name)) {
            *out = c->zones[i].zone;
            return MQ_OK;
        }
    }
    if (c->zone_count == MQ_CRON_ZONES_MAX) { /* read again as they are needed */
        zones_clear(c);
    }
    mq_zone *zone = malloc(sizeof *zone);
    if (zone == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a time zone");
    }
    if (mq_zone_open(name, zone, err) != MQ_OK) {
        free(zone);
        return err->code;
    }
    zone_slot *slot = &c->zones[c->zone_count++];
    (void)mq_span_copy(name, slot->name, sizeof slot->name);
    slot->zone = zone;
    *out = zone;
    return MQ_OK;
}

/* ---- definitions ---- */

/* A job of the definition, as it is submitted at each of its times. */
static mq_msg_submit_job item_of(const definition *d, const char *id)
{
    mq_span priority = d->texts[PRIORITY];
    mq_msg_submit_job item = {.id = mq_str(id),
                              .kind = d->texts[KIND],
                              .queue = d->texts[QUEUE],
                              .model = d->texts[MODEL],
                              .durability = mq_str("durable"),
                              .priority = priority.len > 0 ? (uint64_t)(priority.data[0] - '0')
                                                           : PRIORITY_DEFAULT,
                              .is_quiet = true,
                              .len = d->body.len};
    mq_cron_rules_set(&d->rules, &item);
    return item;
}

static mq_code check(mq_broker *b, definition *d, mq_error *err)
{
    static const char *const missed[] = {"skip", "once", "all"};
    bool is_missed = false;
    for (int i = 0; i < 3; i++) {
        is_missed |= mq_span_is(d->texts[MISSED], missed[i]);
    }
    if (!is_missed) {
        return mq_fail(err, MQ_E_ARG, "missed: must be skip, once or all");
    }
    if (d->texts[KIND].len > 64 || d->texts[QUEUE].len > 64 || d->texts[MODEL].len > 128) {
        return mq_fail(err, MQ_E_ARG, "kind, queue: at most 64 bytes; model: at most 128");
    }
    mq_span priority = d->texts[PRIORITY];
    if (priority.len > 1 ||
        (priority.len == 1 && (priority.data[0] < '0' || priority.data[0] > '9'))) {
        return mq_fail(err, MQ_E_ARG, "priority: must be 0..9");
    }
    if (d->body.len > MQ_CRON_BODY_MAX ||
        d->body.len > mq_kind_policy_of(d->texts[KIND])->body_bytes_max) {
        return mq_fail(err, MQ_E_LIMIT, "body: %zu bytes, at most %d and what the kind allows",
                       d->body.len, MQ_CRON_BODY_MAX);
    }
    mq_code code = mq_cron_rules_read(d->texts[RULES], &d->rules, err);
    code = code != MQ_OK ? code : mq_cron_parse(d->texts[SCHEDULE], &d->cron, err);
    return code == MQ_OK ? zone_of(b, d->texts[ZONE], &d->zone, err) : code;
}

static mq_code definition_read(mq_broker *b, mq_span meta, definition *out, mq_error *err)
{
    *out = (definition){0};
    for (int i = 0; i < TEXTS; i++) {
        const uint8_t *end = meta.len == 0 ? NULL : memchr(meta.data, '\0', meta.len);
        if (end == NULL) {
            return mq_fail(err, MQ_E_FORMAT, "cron: its definition cannot be read");
        }
        size_t n = (size_t)(end - meta.data);
        out->texts[i] = mq_span_of(meta.data, n);
        meta = mq_span_of(meta.data + n + 1, meta.len - n - 1);
    }
    out->body = meta;
    return check(b, out, err);
}

/* ---- commands ---- */

static void id_of(mq_span name, int64_t at_ms, int64_t now_ms, char out[MQ_ULID_SIZE])
{
    uint8_t random[16];
    uint64_t a = mq_hash64(name, (uint64_t)at_ms);
    uint64_t b = mq_hash64(name, a);
    memcpy(random, &a, 8);
    memcpy(random + 8, &b, 8);
    /* Ids live for two hours: an older firing gets a new time, and is one job because the time that
     * is dealt with is stored with it. */
    bool is_young = at_ms > now_ms - MQ_ID_PAST_MS / 2;
    mq_ulid_make(is_young ? at_ms : now_ms, random, out);
    mq_ulid_set_home(out); /* recurring jobs live in shard 0 */
}

static void reply_error(mq_broker *b, uint64_t conn, uint64_t rid, const mq_error *err)
{
    mq_msg_reply message = {
        .rid = rid, .verdict = mq_str(mq_code_name(err->code)), .text = mq_str(err->text)};
    mq_act_send(b, conn, MQ_CMD_reply, &message, (mq_span){0});
}

/* The rules: what stands behind the priority ("5 alone"), and the arguments behind that. */
static void add_rules(const mq_msg_command *m, mq_buf *meta)
{
    for (uint32_t i = PRIORITY + 1; i < m->args_count; i++) {
        mq_span word = m->args[i];
        if (i == PRIORITY + 1) {
            size_t skip = word.len < 2 ? word.len : 2;
            word = mq_span_of(word.data + skip, word.len - skip);
        }
        mq_buf_add_span(meta, word);
        mq_buf_add_str(meta, i + 1 < m->args_count && word.len > 0 ? " " : "");
    }
}

static mq_code pack(mq_broker *b, const mq_msg_command *m, mq_span body, mq_buf *meta,
                    mq_error *err)
{
    definition d;
    if (m->args_count < 5) {
        return mq_fail(err, MQ_E_ARG, "cron-add: name, schedule, zone, missed and kind are needed");
    }
    if (mq_core_crons(b->core) >= MQ_CRONS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "cron: there are %d names, the most there may be",
                       MQ_CRONS_MAX);
    }
    for (uint32_t i = 1; i <= TEXTS; i++) {
        mq_span text = i < m->args_count ? m->args[i] : (mq_span){0};
        if (i == ZONE + 1 && text.len == 0) {
            text = mq_str("UTC");
        }
        if (i == RULES + 1) {
            add_rules(m, meta);
            break;
        }
        if (i == PRIORITY + 1 && text.len > 1) {
            text.len = 1;
        }
        if (text.len > 0 && memchr(text.data, '\0', text.len) != NULL) {
            return mq_fail(err, MQ_E_ARG, "cron-add: an argument has a zero byte");
        }
        mq_buf_add_span(meta, text);
        mq_buf_add(meta, "", 1);
    }
    mq_buf_add(meta, "", 1);
    if (body.len > MQ_CRON_BODY_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "body: %zu bytes, at most %d", body.len, MQ_CRON_BODY_MAX);
    }
    mq_buf_add_span(meta, body);
    mq_code code = definition_read(b, mq_buf_span(meta), &d, err);
    if (code == MQ_OK) { /* what no job may say, no recurring one may either */
        char id[MQ_ULID_SIZE];
        id_of(m->args[0], mq_broker_now(b), mq_broker_now(b), id);
        mq_msg_submit_job item = item_of(&d, id);
        code = mq_core_check(b->core, &item, err);
    }
    return code;
}

bool mq_cron_command(mq_broker *b, uint64_t conn, const mq_msg_command *m, mq_span body)
{
    static const struct {
        const char *verb;
        mq_cron_what what;
    } verbs[] = {{"cron-add", MQ_CRON_ADD},
                 {"cron-remove", MQ_CRON_REMOVE},
                 {"cron-pause", MQ_CRON_PAUSE},
                 {"cron-resume", MQ_CRON_RESUME}};
    size_t at = 0;
    while (at < 4 && !mq_span_is(m->verb, verbs[at].verb)) {
        at++;
    }
    if (at == 4) {
        return false;
    }
    mq_error err;
    mq_buf meta;
    mq_buf_init(&meta, MQ_ENTRY_META_MAX);
    mq_code code = m->args_count == 0 ? mq_fail(&err, MQ_E_ARG, "cron: its name is needed")
                   : verbs[at].what == MQ_CRON_ADD ? pack(b, m, body, &meta, &err)
                                                   : MQ_OK;
    if (code != MQ_OK) {
        reply_error(b, conn, m->rid, &err);
    } else {
        mq_input in = {.type = MQ_IN_CRON, .conn = conn, .rid = m->rid};
        in.as.cron.what = verbs[at].what;
        in.as.cron.name = m->args[0];
        in.as.cron.meta = mq_buf_span(&meta);
        mq_act_step(b, &in);
    }
    mq_buf_release(&meta);
    return true;
}

/* ---- firing ---- */

static void fire(mq_broker *b, mq_span name, const definition *d, int64_t at_s)
{
    char id[MQ_ULID_SIZE], key[MQ_ENTRY_NAME_MAX + 8] = "";
    bool is_full = false;
    id_of(name, at_s * 1000, mq_broker_now(b), id);
    (void)snprintf(key, sizeof key, "cron/%.*s", MQ_SPAN_ARG(name));
    mq_msg_submit_job item = item_of(d, id);
    if (d->rules.is_alone) {
        item.unique = mq_span_of(key, mq_min_size(strlen(key), 128));
    }
    mq_input in = {.type = MQ_IN_CRON, .body = mq_body_new(d->body, &is_full)};
    if (is_full) {
        return; /* no memory: again in a second */
    }
    in.as.cron.what = MQ_CRON_FIRE;
    in.as.cron.name = name;
    in.as.cron.at_ms = at_s * 1000;
    in.as.cron.item = &item;
    mq_act_step(b, &in);
}

/* What is due now is fired; what was missed, by its rule. */
static void deal(mq_broker *b, mq_span name, const definition *d, int64_t last_s, int64_t due_s,
                 int64_t now_s)
{
    if (now_s - due_s > MQ_CRON_LATE_S && !mq_span_is(d->texts[MISSED], "all")) {
        int64_t latest_s = mq_cron_last(&d->cron, d->zone, last_s, now_s);
        due_s = latest_s > due_s ? latest_s : due_s;
        if (now_s - due_s > MQ_CRON_LATE_S && mq_span_is(d->texts[MISSED], "skip")) {
            mq_input in = {.type = MQ_IN_CRON};
            in.as.cron.what = MQ_CRON_SKIP;
            in.as.cron.name = name;
            in.as.cron.at_ms = due_s * 1000;
            mq_act_step(b, &in);
            return;
        }
    }
    fire(b, name, d, due_s);
}

static int64_t floor_s(int64_t ms)
{
    return ms / 1000 - (ms % 1000 < 0);
}

/* The entry's place in the table: rows stand in the order of the registry. */
static timed *row_of(mq_crons *c, uint32_t *row, uint32_t index)
{
    if (*row == MQ_CRONS_MAX) {
        return NULL;
    }
    timed *t = &c->all[(*row)++];
    if (t->index != index) {
        *t = (timed){.index = index, .at_ms = INT64_MIN};
    }
    return t;
}

/* One entry: computes when it is due if that is not known, and deals with it. */
static bool look(mq_broker *b, timed *t, const mq_entry_view *v)
{
    static mq_entry entry;
    definition d;
    mq_error err;
    char name_text[MQ_ENTRY_NAME_MAX + 1];
    int64_t now_s = floor_s(mq_broker_now(b));
    if (mq_entry_read(v->value, &entry, &err) != MQ_OK) {
        return false;
    }
    bool is_same = t->at_ms == entry.at_ms && t->is_paused == entry.is_paused;
    if (is_same && (entry.is_paused || t->due_s > now_s)) {
        return false;
    }
    if (definition_read(b, entry.meta, &d, &err) != MQ_OK) {
        if (!is_same) { /* said once: a zone that is not here any more, for example */
            mq_answer_news(b, "cron", "%.*s does not run: %s", MQ_SPAN_ARG(v->key.name), err.text);
        }
        *t = (timed){t->index, entry.at_ms, entry.is_paused, INT64_MAX};
        return false;
    }
    if (!is_same) {
        int64_t due_s = mq_cron_next(&d.cron, d.zone, floor_s(entry.at_ms));
        *t = (timed){t->index, entry.at_ms, entry.is_paused, due_s};
    }
    if (entry.is_paused || t->due_s > now_s) {
        return false;
    }
    /* The step changes the registry: nothing of the view may be used behind it but this copy. */
    (void)mq_span_copy(v->key.name, name_text, sizeof name_text);
    deal(b, mq_str(name_text), &d, floor_s(entry.at_ms), t->due_s, now_s);
    return true;
}

void mq_cron_tick(mq_broker *b)
{
    mq_crons *c = crons_of(b);
    int64_t now_ms = mq_clock_mono_ms();
    mq_entry_view v;
    if (now_ms < c->tick_ms || b->own != MQ_OWN_SERVING) {
        return;
    }
    c->tick_ms = now_ms + TICK_MS;
    if (c->generation != b->generation) {
        c->generation = b->generation;
        memset(c->all, 0xff, sizeof c->all);
    }
    uint32_t row = 0, fired = 0;
    if (mq_core_crons(b->core) == 0) {
        return;
    }
    for (uint32_t i = 0; i < b->core_config.registry_max && b->core != NULL; i++) {
        if (!mq_core_entry(b->core, i, &v) || v.key.type != MQ_ENTRY_CRON) {
            continue;
        }
        timed *t = row_of(c, &row, i);
        fired += t != NULL && look(b, t, &v);
        if (fired >= MQ_CRON_FIRES_PER_TURN) {
            break;
        }
    }
    if (fired > 0) { /* one that has more to make up for goes on soon */
        c->tick_ms = now_ms + 20;
    }
}

/* ---- questions ---- */

static void add_next(const mq_broker *b, const definition *d, const mq_entry *entry, uint32_t count,
                     mq_buf *out)
{
    int64_t at = floor_s(mq_max_i64(entry->at_ms, mq_broker_now(b)));
    mq_json_key(out, "next_ms");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < count && !entry->is_paused; i++) {
        at = mq_cron_next(&d->cron, d->zone, at);
        if (at == INT64_MAX) {
            break;
        }
        mq_json_comma(out);
        mq_buf_printf(out, "%lld", (long long)at * 1000);
    }
    mq_buf_add_str(out, "]");
}

static void add_row(mq_broker *b, const mq_entry_view *v, uint32_t next, mq_buf *out)
{
    static mq_entry entry;
    static const char *const names[TEXTS] = {"schedule", "zone",  "missed",   "kind",
                                             "queue",    "model", "priority", "rules"};
    definition d;
    mq_error err = {0};
    if (mq_entry_read(v->value, &entry, &err) != MQ_OK) {
        return;
    }
    mq_code code = definition_read(b, entry.meta, &d, &err);
    mq_json_comma(out);
    mq_buf_add_str(out, "{");
    mq_json_text(out, "name", v->key.name);
    for (int i = 0; i < TEXTS; i++) {
        mq_json_text(out, names[i], d.texts[i]);
    }
    mq_json_text(out, "alone", mq_str(d.rules.is_alone ? "alone" : ""));
    mq_json_int(out, "body_bytes", (int64_t)d.body.len);
    mq_json_bool(out, "is_paused", entry.is_paused);
    mq_json_int(out, "last_ms", entry.at_ms);
    mq_json_text(out, "error", mq_str(code == MQ_OK ? "" : err.text));
    if (code == MQ_OK) {
        add_next(b, &d, &entry, next, out);
    }
    mq_buf_add_str(out, "}");
}

bool mq_cron_query(mq_broker *b, uint64_t conn, const mq_msg_query *query)
{
    mq_buf out;
    mq_entry_view v;
    uint32_t rows = 0;
    if (!mq_span_is(query->what, "cron")) {
        return false;
    }
    bool is_one = query->name.len > 0;
    uint32_t next =
        is_one ? (uint32_t)mq_min_size(query->limit == 0 ? 5 : query->limit, NEXT_MAX) : 1;
    mq_buf_init(&out, MQ_ANSWER_BYTES_MAX);
    mq_buf_add_str(&out, "{");
    mq_json_key(&out, "cron");
    mq_buf_add_str(&out, "[");
    for (uint32_t i = 0; i < b->core_config.registry_max; i++) {
        if (mq_core_entry(b->core, i, &v) && v.key.type == MQ_ENTRY_CRON &&
            (!is_one || mq_span_eq(v.key.name, query->name))) {
            add_row(b, &v, next, &out);
            rows++;
        }
    }
    mq_buf_add_str(&out, "]}");
    bool is_there = !is_one || rows > 0;
    mq_answer_send(b, conn, query->rid, is_there ? MQ_OK : MQ_E_NOT_FOUND,
                   is_there ? "" : "cron: there is none of this name", &out);
    mq_buf_release(&out);
    return true;
}

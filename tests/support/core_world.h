/* The broker's core with a store around it (in memory, or Redis when w_redis_url is set), for
 * tests: every output is copied into a log, bodies are counted, commits go to the store model and
 * come back when the test says so. A crash throws core and store connection away and loads a new
 * core from the model's "disk". */
#ifndef MQ_TESTS_CORE_WORLD_H
#define MQ_TESTS_CORE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "broker/core/core.h"
#include "shared/base/sha256.h"
#include "shared/base/ulid.h"
#include "shared/store/redis_store.h"
#include "tests/support/store.h"

enum { W_LOG_MAX = 65536, W_MEMBERS = 64, W_T0 = 1700000000 };

/* "unix:...": the record is in this Redis instead of the model. */
__attribute__((unused)) static const char *w_redis_url;

typedef struct w_entry {
    mq_output_type type;
    uint64_t conn, rid, epoch, grant, gang_epoch, seat, step, attempt;
    char id[40], verdict[40], state[20], text[200], why[64], code[40], model[170], blob[72],
        chain[72];
    uint32_t member_count;
    uint64_t members[W_MEMBERS]; /* seats */
    char *payload;               /* owned, NUL-terminated */
    size_t payload_len;
    bool is_read;
} w_entry;

typedef struct world {
    int64_t now_ms;
    mq_core_config config;
    void *memory;
    mq_core *core;
    mq_outputs *out;
    mq_memory *disk;
    mq_store *store;
    uint64_t epoch;
    bool is_held; /* answers of the store wait */
    int bytes_alive;
    uint64_t ids; /* made so far */
    uint32_t asks_open;
    uint32_t log_count;
    w_entry *log;
    char unpinned[64][MQ_SHA256_HEX];
    uint32_t unpinned_count;
    uint64_t max_segment;
    bool has_segment;
    char segments[64][24];
    uint32_t segment_count;
} world;

typedef struct w_bytes {
    mq_bytes bytes;
    world *w;
    char data[];
} w_bytes;

static inline mq_bytes *w_new_bytes(world *w, mq_span s)
{
    if (s.len == 0) {
        return NULL;
    }
    w_bytes *b = malloc(sizeof *b + s.len);
    memcpy(b->data, s.data, s.len);
    b->bytes = (mq_bytes){(const uint8_t *)b->data, s.len};
    b->w = w;
    w->bytes_alive++;
    return &b->bytes;
}

static inline void w_step(world *w, mq_input *in);

/* ---- answers of the store ---- */

typedef struct w_call {
    world *w;
    mq_core *core; /* it was for this one */
    uint32_t ask;
    char id[32];
    bool is_answered;
} w_call;

static inline w_call *w_new_call(world *w)
{
    w_call *c = calloc(1, sizeof *c);
    c->w = w;
    c->core = w->core;
    return c;
}

static inline void w_on_commit(void *arg, const mq_store_reply *reply)
{
    w_call *c = arg;
    world *w = c->w;
    bool is_current = c->core == w->core && w->core != NULL;
    free(c);
    if (is_current) {
        assert_int_equal(reply->verdict, MQ_STORE_OK);
        assert_int_equal(reply->ignored_count, 0);
        mq_input in = {.type = MQ_IN_STORED,
                       .as.stored = {reply->sequence, reply->dups, reply->dup_count}};
        w_step(w, &in);
    }
}

static inline void w_on_job(void *arg, mq_code code, mq_span record, mq_span result,
                            const mq_error *err)
{
    w_call *c = arg;
    world *w = c->w;
    (void)result;
    (void)err;
    if (c->core == w->core && w->core != NULL) {
        mq_input in = {
            .type = MQ_IN_FOUND,
            .as.found = {.ask = c->ask, .record = code == MQ_OK ? record : (mq_span){0}}};
        w_step(w, &in);
    }
    free(c);
}

static inline void w_on_body(void *arg, mq_code code, mq_span field, mq_span value,
                             const mq_error *err)
{
    w_call *c = arg;
    world *w = c->w;
    (void)code;
    (void)err;
    bool is_current = c->core == w->core && w->core != NULL;
    if (field.data != NULL && is_current) {
        c->is_answered = true;
        mq_input in = {.type = MQ_IN_BODY, .body = w_new_bytes(w, value), .as.id = mq_str(c->id)};
        w_step(w, &in);
    } else if (field.data == NULL) {
        if (is_current && !c->is_answered) {
            mq_input in = {.type = MQ_IN_BODY, .as.id = mq_str(c->id)};
            w_step(w, &in);
        }
        free(c);
    }
}

/* ---- outputs ---- */

static inline void w_copy(char *out, size_t size, mq_span s)
{
    (void)mq_span_copy(s, out, size);
}
#define W_COPY(field, span) w_copy(e->field, sizeof e->field, span)

static inline void w_members(w_entry *e, const mq_msg_member *rows, uint32_t count)
{
    e->member_count = count;
    for (uint32_t i = 0; i < count; i++) {
        e->members[i] = rows[i].seat;
    }
}

static inline w_entry *w_log(world *w, const mq_output *o)
{
    assert_true(w->log_count < W_LOG_MAX);
    w_entry *e = &w->log[w->log_count++];
    memset(e, 0, sizeof *e);
    e->type = o->type;
    e->conn = o->conn;
    e->rid = o->rid;
    return e;
}

/* One log entry for each verdict of a message. */
static inline void w_log_verdicts(world *w, const mq_output *o, const mq_msg_held_verdict *v,
                                  uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        w_entry *e = w_log(w, o);
        W_COPY(id, v[i].id);
        W_COPY(verdict, v[i].verdict);
        e->epoch = v[i].epoch;
        e->grant = v[i].grant;
    }
    if (count == 0) {
        (void)w_log(w, o);
    }
}

static inline void w_log_job(world *w, const mq_output *o)
{
    w_entry *e = w_log(w, o);
    const mq_msg_job_item *j = &o->as.job;
    W_COPY(id, j->id);
    W_COPY(model, j->model);
    W_COPY(blob, j->blob);
    W_COPY(chain, j->chain);
    W_COPY(text, j->model_blob);
    e->epoch = j->epoch;
    e->grant = j->grant;
    e->gang_epoch = j->gang_epoch;
    e->seat = j->seat;
    e->step = j->step;
    e->attempt = j->attempt;
    w_members(e, j->members, j->members_count);
    assert_int_equal(j->len, o->payload.len);
}

static inline void w_log_ended(world *w, const mq_output *o)
{
    w_entry *e = w_log(w, o);
    const mq_ended *d = &o->as.ended;
    W_COPY(id, d->done.id);
    W_COPY(state, d->done.state);
    W_COPY(why, d->done.why);
    W_COPY(code, d->done.code);
    W_COPY(text, d->done.error);
}

/* What goes to the store and the shell, not to a peer. */
static inline void w_act_store(world *w, const mq_output *o)
{
    mq_error err = {0};
    w_call *c = NULL;
    if (o->type == MQ_OUT_RELEASE) {
        w->bytes_alive--;
        free(o->bytes);
    } else if (o->type == MQ_OUT_FETCH) {
        c = w_new_call(w);
        w_copy(c->id, sizeof c->id, o->as.ask.id);
        mq_span id = mq_str(c->id);
        assert_int_equal(w->store->ops->bodies(w->store, &id, 1, w_on_body, c, &err), MQ_OK);
    } else if (o->type == MQ_OUT_ASK) {
        c = w_new_call(w);
        c->ask = o->as.ask.ask;
        assert_int_equal(w->store->ops->job(w->store, o->as.ask.id, w_on_job, c, &err), MQ_OK);
    } else if (w->unpinned_count < 64) {
        w_copy(w->unpinned[w->unpinned_count++], MQ_SHA256_HEX, o->as.hash);
    }
}

static inline void w_keep_payload(world *w, const mq_output *o)
{
    if (o->payload.len > 0 && w->log_count > 0 &&
        (o->type == MQ_OUT_JOB || o->type == MQ_OUT_ENDED)) {
        w_entry *e = &w->log[w->log_count - 1];
        e->payload = malloc(o->payload.len + 1);
        memcpy(e->payload, o->payload.data, o->payload.len);
        e->payload[o->payload.len] = '\0';
        e->payload_len = o->payload.len;
    }
}

static inline void w_act(world *w, const mq_output *o)
{
    w_entry *e = NULL;
    switch (o->type) {
    case MQ_OUT_SUBMITTED:
        e = w_log(w, o);
        W_COPY(id, o->as.submitted.id);
        W_COPY(verdict, o->as.submitted.verdict);
        W_COPY(state, o->as.submitted.state);
        W_COPY(text, o->as.submitted.text);
        break;
    case MQ_OUT_REPLY:
        e = w_log(w, o);
        W_COPY(verdict, o->as.reply.verdict);
        W_COPY(state, o->as.reply.state);
        W_COPY(text, o->as.reply.text);
        break;
    case MQ_OUT_ENDED:
        w_log_ended(w, o);
        break;
    case MQ_OUT_CHANGED:
        e = w_log(w, o);
        W_COPY(id, o->as.changed.id);
        W_COPY(state, mq_str(mq_state_name(o->as.changed.state)));
        break;
    case MQ_OUT_JOB:
        w_log_job(w, o);
        break;
    case MQ_OUT_VERDICT:
        w_log_verdicts(w, o, &o->as.verdict, 1);
        break;
    case MQ_OUT_REGISTERED:
        w_log_verdicts(w, o, o->as.registered.verdicts, o->as.registered.verdicts_count);
        break;
    case MQ_OUT_BEATEN:
        w_log_verdicts(w, o, o->as.beaten.verdicts, o->as.beaten.verdicts_count);
        break;
    case MQ_OUT_CHECKPOINTED:
        e = w_log(w, o);
        W_COPY(id, o->as.checkpointed.id);
        W_COPY(verdict, o->as.checkpointed.verdict);
        e->grant = o->as.checkpointed.grant;
        e->step = o->as.checkpointed.step;
        break;
    case MQ_OUT_ROSTER:
        e = w_log(w, o);
        W_COPY(id, o->as.roster.id);
        e->epoch = o->as.roster.epoch;
        e->grant = o->as.roster.grant;
        e->gang_epoch = o->as.roster.gang_epoch;
        w_members(e, o->as.roster.members, o->as.roster.members_count);
        break;
    case MQ_OUT_DRAIN:
        (void)w_log(w, o);
        break;
    case MQ_OUT_ERROR:
        e = w_log(w, o);
        W_COPY(code, o->as.error.code);
        W_COPY(text, o->as.error.text);
        break;
    case MQ_OUT_RELEASE:
    case MQ_OUT_FETCH:
    case MQ_OUT_ASK:
    case MQ_OUT_UNPIN:
        w_act_store(w, o);
        break;
    }
    w_keep_payload(w, o);
}

static inline void w_step(world *w, mq_input *in)
{
    in->now_ms = w->now_ms;
    mq_core_step(w->core, in, w->out);
    const mq_store_batch *batch = w->out->batch;
    uint32_t count = w->out->count;
    for (uint32_t i = 0; i < count; i++) {
        w_act(w, &w->out->items[i]);
    }
    if (batch != NULL) {
        mq_error err = {0};
        w_call *c = w_new_call(w);
        mq_code code = w->store->ops->commit(w->store, batch, w_on_commit, c, &err);
        if (code != MQ_OK) {
            fail_msg("commit: %s", err.text);
        }
    }
}

/* Nothing is under way with the store. */
static inline bool w_store_is_idle(world *w)
{
    if (w_redis_url == NULL) {
        return w->store->ops->deadline(w->store) == INT64_MAX;
    }
    const mq_redis_store *s = (const mq_redis_store *)w->store;
    bool is_idle = s->flight_count == 0;
    for (uint32_t i = 0; i < MQ_STORE_CALLS_MAX && is_idle; i++) {
        is_idle = !s->calls[i].is_used;
    }
    return is_idle;
}

static inline void w_store_turn(world *w)
{
    if (w_redis_url == NULL) {
        w->store->ops->process(w->store, 0, w->now_ms);
    } else {
        mq_test_store_turn(w->store);
    }
}

/* Lets turns and store work until nothing is left to do at this time. */
static inline void w_turn(world *w)
{
    for (int i = 0; i < 64; i++) {
        mq_input in = {.type = MQ_IN_TURN};
        w_step(w, &in);
        for (int k = 0; !w->is_held && !w_store_is_idle(w); k++) {
            assert_true(k < 100000);
            w_store_turn(w);
        }
        bool is_idle = w_store_is_idle(w) || w->is_held;
        if (is_idle && mq_core_deadline(w->core) > w->now_ms) {
            return;
        }
        if (w->is_held && i > 8) {
            return;
        }
    }
}

static inline void w_sleep(world *w, int64_t ms)
{
    w->now_ms += ms;
    w_turn(w);
}

/* ---- life ---- */

static inline mq_core_config w_config(void)
{
    mq_core_config c = mq_core_config_default();
    c.jobs_max = 4096;
    c.live_max = 3000;
    c.tenant_live_max = 3000;
    c.workers_max = 32;
    c.gangs_max = 16;
    c.names_max = 512;
    c.lanes_max = 64;
    c.edges_max = 4096;
    c.waiters_max = 32768;
    c.asks_max = 256;
    c.registry_max = 512;
    c.blobs_max = 1024;
    c.recent_max = 64;
    c.pool_bytes = 32 << 20;
    c.held_bytes_max = 64 << 20;
    c.lease_ms = 3000;
    c.beat_ms = 1000;
    c.seed = 7;
    return c;
}

static inline void w_on_owner(void *arg, mq_code code, const mq_store_owner *owner,
                              const mq_error *err)
{
    mq_store_owner *out = arg;
    if (code != MQ_OK) {
        fail_msg("acquire: %s", err->text);
    }
    *out = *owner;
}

static inline void w_on_segment(void *arg, mq_code code, mq_span field, mq_span value,
                                const mq_error *err)
{
    world *w = arg;
    (void)value;
    (void)err;
    assert_int_equal(code, MQ_OK);
    if (field.data != NULL) {
        assert_true(w->segment_count < 64);
        w_copy(w->segments[w->segment_count++], 24, field);
        uint64_t n = strtoull(w->segments[w->segment_count - 1], NULL, 10);
        w->max_segment = w->has_segment && w->max_segment > n ? w->max_segment : n;
        w->has_segment = true;
    }
}

static inline void w_on_reg(void *arg, mq_code code, mq_span field, mq_span value,
                            const mq_error *err)
{
    world *w = arg;
    (void)err;
    assert_int_equal(code, MQ_OK);
    if (field.data != NULL) {
        mq_input in = {.type = MQ_IN_REGISTRY, .as.registry = {field, value}};
        w_step(w, &in);
    }
}

static inline void w_on_live(void *arg, mq_code code, mq_span field, mq_span value,
                             const mq_error *err)
{
    world *w = arg;
    (void)err;
    assert_int_equal(code, MQ_OK);
    if (field.data != NULL) {
        mq_input in = {.type = MQ_IN_LOAD, .as.record = value};
        w_step(w, &in);
    }
}

static inline void w_process(world *w)
{
    for (int i = 0; !w_store_is_idle(w); i++) {
        assert_true(i < 100000);
        w_store_turn(w);
    }
}

/* Takes the shard over and begins; segments are not loaded yet. */
static inline void w_begin(world *w)
{
    mq_error err = {0};
    mq_store_owner owner = {0};
    if (w_redis_url == NULL) {
        assert_int_equal(mq_store_memory_new(&w->store, w->disk, &w->now_ms, &err), MQ_OK);
    } else {
        assert_int_equal(mq_store_redis_new(&w->store, w_redis_url, 0, &err), MQ_OK);
        mq_test_store_connect(w->store);
    }
    assert_int_equal(w->store->ops->acquire(w->store, mq_str("test"), mq_str("tcp:x"), 3000, true,
                                            true, mq_str(""), w_on_owner, &owner, &err),
                     MQ_OK);
    w_process(w);
    w->epoch = owner.epoch;
    w->segment_count = 0;
    w->has_segment = false;
    w->max_segment = 0;
    assert_int_equal(w->store->ops->segments(w->store, w_on_segment, w, &err), MQ_OK);
    w_process(w);
    w->memory = calloc(1, mq_core_bytes(&w->config));
    w->core = mq_core_init(w->memory, &w->config);
    mq_input in = {.type = MQ_IN_BEGIN,
                   .as.begin = {owner.epoch, owner.sequence,
                                (w->has_segment ? w->max_segment + 1 : 0) * MQ_STORE_SEGMENT_JOBS}};
    w_step(w, &in);
    assert_int_equal(w->store->ops->scan(w->store, MQ_PART_REGISTRY, 0, w_on_reg, w, &err), MQ_OK);
    w_process(w);
}

static inline void w_load(world *w)
{
    mq_error err = {0};
    for (uint32_t i = 0; i < w->segment_count; i++) {
        assert_int_equal(w->store->ops->scan(w->store, MQ_PART_LIVE,
                                             strtoull(w->segments[i], NULL, 10), w_on_live, w,
                                             &err),
                         MQ_OK);
        w_process(w);
    }
    mq_input in = {.type = MQ_IN_LOADED};
    w_step(w, &in);
    mq_core_stats stats;
    mq_core_stats_read(w->core, &stats);
    assert_int_equal(stats.load_errors, 0);
}

static inline void w_drop_core(world *w)
{
    while (w->core != NULL && !mq_core_drain_bytes(w->core, w->out)) {
        for (uint32_t i = 0; i < w->out->count; i++) {
            w_act(w, &w->out->items[i]);
        }
    }
    for (uint32_t i = 0; w->core != NULL && i < w->out->count; i++) {
        w_act(w, &w->out->items[i]);
    }
    w->core = NULL;
    w->store->ops->free(w->store); /* answers under way are lost */
    free(w->memory);
}

static inline void w_crash(world *w)
{
    w_drop_core(w);
    w_begin(w);
    w_load(w);
}

static inline void w_open_config(world *w, const mq_core_config *config)
{
    memset(w, 0, sizeof *w);
    w->now_ms = (int64_t)W_T0 * 1000;
    w->config = *config;
    w->disk = mq_memory_new();
    w->out = malloc(sizeof *w->out);
    w->log = calloc(W_LOG_MAX, sizeof *w->log);
    w_begin(w);
    w_load(w);
    w_turn(w);
}

static inline void w_open(world *w)
{
    mq_core_config config = w_config();
    w_open_config(w, &config);
}

static inline void w_forget(world *w)
{
    for (uint32_t i = 0; i < w->log_count; i++) {
        free(w->log[i].payload);
    }
    w->log_count = 0;
}

static inline void w_close(world *w)
{
    w_drop_core(w);
    w_forget(w);
    assert_int_equal(w->bytes_alive, 0);
    mq_memory_free(w->disk);
    free(w->out);
    free(w->log);
}

/* ---- what tests say ---- */

static inline void w_id(world *w, char out[MQ_ULID_SIZE])
{
    uint8_t random[10] = {0};
    uint64_t n = ++w->ids;
    memcpy(random, &n, sizeof n);
    mq_ulid_make(w->now_ms, random, out);
}

static inline void w_submit_item(world *w, uint64_t conn, uint64_t rid, mq_msg_submit_job *item,
                                 const char *body)
{
    mq_input in = {.type = MQ_IN_SUBMIT,
                   .conn = conn,
                   .rid = rid,
                   .body = w_new_bytes(w, mq_str(body)),
                   .as.submit = item};
    w_step(w, &in);
}

/* A plain durable job of a kind. */
static inline void w_submit(world *w, char id[MQ_ULID_SIZE], const char *kind, const char *body)
{
    w_id(w, id);
    mq_msg_submit_job item = {.id = mq_str(id), .kind = mq_str(kind)};
    w_submit_item(w, 1, 1, &item, body);
}

/* uuid from a number. */
static inline const char *w_uuid(uint32_t n)
{
    static char text[8][40];
    static int at;
    at = (at + 1) % 8;
    (void)snprintf(text[at], sizeof text[at], "%032x", n);
    return text[at];
}

/* Worker n is connection 100 + n. Registers with free slots; all take every kind that tests use. */
static inline void w_ready_held(world *w, uint32_t n, uint64_t slots, const char *fingerprint,
                                mq_msg_held *held, uint32_t held_count)
{
    mq_span kinds[] = {mq_str("echo"), mq_str("train"), mq_str("infer"), mq_str("sleep")};
    mq_msg_ready m = {.worker = mq_str(w_uuid(n)),
                      .name = mq_str("w"),
                      .host = mq_str("h"),
                      .fingerprint = mq_str(fingerprint),
                      .gang_unix = mq_str("/tmp/x"),
                      .slots = slots,
                      .kinds = kinds,
                      .kinds_count = 4,
                      .held = held,
                      .held_count = held_count};
    mq_input in = {.type = MQ_IN_READY, .conn = 100 + n, .as.ready = &m};
    w_step(w, &in);
}

static inline void w_credit(world *w, uint32_t n, uint64_t seq, uint64_t free_slots, uint64_t seen)
{
    mq_msg_credit m = {
        .worker = mq_str(w_uuid(n)), .seq = seq, .free = free_slots, .jobs_seen = seen};
    mq_input in = {.type = MQ_IN_CREDIT, .conn = 100 + n, .as.credit = &m};
    w_step(w, &in);
}

static inline void w_worker(world *w, uint32_t n, uint64_t slots)
{
    w_ready_held(w, n, slots, "fp", NULL, 0);
    w_credit(w, n, 1, slots, 0);
}

static inline void w_beat(world *w, uint32_t n, uint64_t seq, uint64_t free_slots, uint64_t seen,
                          mq_msg_held *held, uint32_t count)
{
    mq_msg_beat m = {.worker = mq_str(w_uuid(n)),
                     .seq = seq,
                     .free = free_slots,
                     .jobs_seen = seen,
                     .jobs = held,
                     .jobs_count = count};
    mq_input in = {.type = MQ_IN_BEAT, .conn = 100 + n, .as.beat = &m};
    w_step(w, &in);
}

static inline void w_result_item(world *w, uint32_t n, mq_msg_result_item *item, const char *bytes)
{
    mq_bytes *bodies[64] = {0};
    item->len = bytes == NULL ? 0 : strlen(bytes);
    for (uint32_t i = 0; i < item->spawn_count; i++) {
        bodies[i] = w_new_bytes(w, item->spawn[i].body);
    }
    mq_input in = {.type = MQ_IN_RESULT,
                   .conn = 100 + n,
                   .body = w_new_bytes(w, mq_str(bytes)),
                   .as.result = {item, mq_str(w_uuid(n)), bodies}};
    w_step(w, &in);
}

static inline void w_result(world *w, uint32_t n, const w_entry *job, const char *class,
                            const char *bytes)
{
    char id[40];
    memcpy(id, job->id, sizeof id);
    mq_msg_result_item item = {.id = mq_str(id),
                               .epoch = job->epoch,
                               .grant = job->grant,
                               .class = mq_str(class),
                               .code = mq_str(strcmp(class, "ok") == 0 ? "" : "io"),
                               .error = mq_str(strcmp(class, "ok") == 0 ? "" : "it broke"),
                               .run_us = 5};
    w_result_item(w, n, &item, bytes);
}

/* First entry of a type (and id, unless NULL) that was not found before; NULL when there is none.
 */
static inline w_entry *w_find(world *w, mq_output_type type, const char *id)
{
    for (uint32_t i = 0; i < w->log_count; i++) {
        w_entry *e = &w->log[i];
        if (!e->is_read && e->type == type && (id == NULL || strcmp(e->id, id) == 0)) {
            e->is_read = true;
            return e;
        }
    }
    return NULL;
}

static inline w_entry *w_expect(world *w, mq_output_type type, const char *id)
{
    w_entry *e = w_find(w, type, id);
    if (e == NULL) {
        fail_msg("no output %d for %s", (int)type, id == NULL ? "anybody" : id);
        abort(); /* not reached: tells the compiler that e is there */
    }
    return e;
}

static inline void w_expect_none(world *w, mq_output_type type, const char *id)
{
    if (w_find(w, type, id) != NULL) {
        fail_msg("unexpected output %d for %s", (int)type, id == NULL ? "anybody" : id);
    }
}

static inline const char *w_state(world *w, const char *id)
{
    static mq_job_record r;
    static char text[20];
    uint32_t slot = mq_core_find(w->core, mq_str(id));
    if (slot == MQ_CORE_NO_SLOT || !mq_core_record(w->core, slot, &r)) {
        return "";
    }
    w_copy(text, sizeof text, r.state);
    return text;
}

static inline mq_msg_held w_held(const w_entry *job)
{
    return (mq_msg_held){.id = mq_str(job->id), .epoch = job->epoch, .grant = job->grant};
}

#endif

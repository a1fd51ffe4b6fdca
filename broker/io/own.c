/* Ownership of the shard and its record: acquires it under a new epoch, loads what the store holds,
 * renews the tenure, sends commits and gives the shard back at the end. When a commit is refused or
 * its outcome is not known, the core is thrown away and everything begins anew: nothing unanswered
 * had been acknowledged. Decides nothing about jobs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "broker/io/body.h"
#include "broker/io/node.h"
#include "broker/io/retention.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/math.h"

enum {
    CONNECT_MS = 5,       /* between looks whether a new shard's connection is there */
    RETRY_MS = 250,       /* between attempts to get the shard */
    REFUSE_MS = 3000,     /* not served for so long: clients are told why */
    DAMAGED_MS = 5000,    /* the same when what is stored could not be read */
    SEGMENTS_MAX = 65536, /* live segments at a takeover must be fewer */
};

void mq_own_trouble(mq_broker *b, const char *text)
{
    if (strcmp(b->trouble, text) != 0) {
        snprintf(b->trouble, sizeof b->trouble, "%s", text);
        mq_log(MQ_WARN, "shard not served", "shard=%lld reason=%s", (long long)b->shard, text);
    }
}

/* Throws the core away, with the bodies it holds. Not from within a step. */
static void free_core(mq_broker *b)
{
    bool is_empty = b->core == NULL;
    while (!is_empty) {
        is_empty = mq_core_drain_bytes(b->core, b->out);
        for (uint32_t i = 0; i < b->out->count; i++) {
            mq_body_release(b->out->items[i].bytes);
        }
        b->out->count = 0;
    }
    if (b->core_memory != NULL) {
        munmap(b->core_memory, b->core_bytes);
    }
    b->core = NULL;
    b->core_memory = NULL;
}

void mq_own_drop(mq_broker *b, const char *why)
{
    b->generation++;
    mq_witness_flush(b->witness, INT64_MAX);
    if (b->core != NULL) {
        mq_core_stats stats;
        mq_core_stats_read(b->core, &stats);
        b->transient_base[0] += (int64_t)stats.transient_submitted;
        b->transient_base[1] += (int64_t)stats.transient_ended;
        mq_answer_news(b, "reload", "%s", why);
    }
    free_core(b);
    if (b->own != MQ_OWN_STOPPED) {
        b->own = MQ_OWN_NONE;
    }
    b->is_renewing = false;
    b->retry_ms = mq_clock_mono_ms() + RETRY_MS;
    mq_own_trouble(b, why);
}

static void core_config(mq_broker *b)
{
    const mq_broker_config *c = b->config;
    mq_core_config *k = &b->core_config;
    *k = mq_core_config_default();
    k->live_max = (uint32_t)c->jobs_max;
    k->jobs_max = k->live_max + k->transient_max;
    k->tenant_live_max = (uint32_t)c->tenant_jobs_max;
    k->workers_max = (uint32_t)c->workers_max;
    k->held_bytes_max = (uint64_t)c->body_bytes_max;
    k->is_away = b->shard != 0;
    k->lease_ms = c->lease_ms;
    k->beat_ms = c->beat_ms;
    k->retention_ms = c->retention_ms;
    k->dead_retention_ms = c->dead_retention_ms;
    k->replicas = (uint32_t)c->replicas;
    k->replicate_ms = c->replicate_ms;
    k->affinity_wait_ms = c->affinity_wait_ms;
    k->quarantine_jobs = (uint32_t)c->quarantine_jobs;
    k->shards = mq_node_shards(b->node);
    MQ_ASSERT(getrandom(&k->seed, sizeof k->seed, 0) == (ssize_t)sizeof k->seed);
}

/* Fresh core in untouched pages: a large limit costs address space only. */
static bool make_core(mq_broker *b)
{
    core_config(b);
    b->core_bytes = mq_core_bytes(&b->core_config);
    void *memory = mmap(NULL, b->core_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        mq_own_trouble(b, "no address space for the job table; lower --jobs-max");
        return false;
    }
    b->core_memory = memory;
    b->core = mq_core_init(memory, &b->core_config);
    mq_replicas_reset(b);
    b->generation++;
    return true;
}

/* ---- loading ---- */

static void load_next(mq_broker *b);

typedef struct load {
    mq_broker *b;
    uint64_t generation;
} load;

static load *load_new(mq_broker *b)
{
    load *l = malloc(sizeof *l);
    MQ_ASSERT(l != NULL);
    *l = (load){b, b->generation};
    return l;
}

/* What cannot be read is not passed over: the service stops until an operator has seen to it. */
static bool is_readable(mq_broker *b)
{
    mq_core_stats stats;
    mq_core_stats_read(b->core, &stats);
    if (stats.load_errors == 0) {
        return true;
    }
    mq_own_drop(b, "a stored record cannot be read, or --jobs-max is below what is stored");
    b->retry_ms = mq_clock_mono_ms() + DAMAGED_MS;
    return false;
}

static void on_live(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    load *l = arg;
    mq_broker *b = l->b;
    bool is_current = l->generation == b->generation && b->own == MQ_OWN_LOADING;
    if (code == MQ_OK && field.data != NULL) {
        if (is_current) {
            mq_input in = {.type = MQ_IN_LOAD};
            in.as.record = value;
            mq_act_step(b, &in);
        }
        return;
    }
    free(l);
    if (!is_current) {
        return;
    }
    if (code != MQ_OK) {
        mq_own_drop(b, err->text);
        return;
    }
    if (is_readable(b)) {
        b->segment_next++;
        load_next(b);
    }
}

static void loaded(mq_broker *b)
{
    mq_input in = {.type = MQ_IN_LOADED};
    mq_act_step(b, &in);
    b->own = MQ_OWN_SERVING;
    mq_gets_loaded(b);
    mq_core_stats stats;
    mq_core_stats_read(b->core, &stats);
    mq_log(MQ_INFO, "shard loaded", "shard=%lld epoch=%llu sequence=%llu jobs=%u",
           (long long)b->shard, (unsigned long long)b->epoch, (unsigned long long)b->sequence,
           stats.jobs);
}

static void load_next(mq_broker *b)
{
    mq_error err;
    if (b->segment_next == b->segment_count) {
        loaded(b);
        return;
    }
    load *l = load_new(b);
    if (b->store->ops->scan(b->store, MQ_PART_LIVE, b->segments[b->segment_next], on_live, l,
                            &err) != MQ_OK) {
        free(l);
        mq_own_drop(b, err.text);
    }
}

static void on_registry(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    load *l = arg;
    mq_broker *b = l->b;
    bool is_current = l->generation == b->generation && b->own == MQ_OWN_REGISTRY;
    if (code == MQ_OK && field.data != NULL) {
        if (is_current) {
            mq_input in = {.type = MQ_IN_REGISTRY};
            in.as.registry.field = field;
            in.as.registry.value = value;
            mq_act_step(b, &in);
        }
        return;
    }
    free(l);
    if (!is_current) {
        return;
    }
    if (code != MQ_OK) {
        mq_own_drop(b, err->text);
        return;
    }
    if (!is_readable(b)) {
        return;
    }
    b->own = MQ_OWN_LOADING;
    b->trouble[0] = '\0';
    b->is_full = false;
    mq_answer_news(b, "owner", "broker %s serves shard %lld under epoch %llu", b->config->name,
                   (long long)b->shard, (unsigned long long)b->epoch);
    b->segment_next = 0;
    load_next(b);
}

static void on_counter(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    load *l = arg;
    mq_broker *b = l->b;
    bool is_current = l->generation == b->generation && b->own == MQ_OWN_COUNTERS;
    if (code == MQ_OK && field.data != NULL) {
        char text[24];
        for (uint32_t i = 0; is_current && i < MQ_COUNTERS; i++) {
            if (mq_span_is(field, mq_counter_name(i)) && mq_span_copy(value, text, sizeof text)) {
                b->counters[i] = strtoll(text, NULL, 10);
            }
        }
        if (is_current) {
            mq_retention_load(b, field, value);
        }
        if (is_current && mq_span_is(field, "dups") && mq_span_copy(value, text, sizeof text)) {
            b->dups = strtoll(text, NULL, 10);
        }
        return;
    }
    if (!is_current || code != MQ_OK) {
        free(l);
        if (is_current) {
            mq_own_drop(b, err->text);
        }
        return;
    }
    mq_loss_tell(b);
    mq_error why;
    b->own = MQ_OWN_REGISTRY;
    if (b->store->ops->scan(b->store, MQ_PART_REGISTRY, 0, on_registry, l, &why) != MQ_OK) {
        free(l);
        mq_own_drop(b, why.text);
    }
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static void begin(mq_broker *b, load *l)
{
    mq_error err;
    uint64_t last = 0;
    if (b->segment_count > 0) {
        qsort(b->segments, b->segment_count, sizeof *b->segments, compare_numbers);
        last = b->segments[b->segment_count - 1] + 1;
    }
    mq_input in = {.type = MQ_IN_BEGIN};
    in.as.begin.epoch = b->epoch;
    in.as.begin.sequence = b->sequence;
    in.as.begin.first_number = last * MQ_STORE_SEGMENT_JOBS;
    mq_act_step(b, &in);
    b->own = MQ_OWN_COUNTERS;
    memset(b->counters, 0, sizeof b->counters);
    mq_retention_reset(b);
    b->dups = 0;
    if (b->store->ops->scan(b->store, MQ_PART_COUNTERS, 0, on_counter, l, &err) != MQ_OK) {
        free(l);
        mq_own_drop(b, err.text);
    }
}

static void on_segment(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    load *l = arg;
    mq_broker *b = l->b;
    (void)value;
    bool is_current = l->generation == b->generation && b->own == MQ_OWN_SEGMENTS;
    if (code == MQ_OK && field.data != NULL) {
        char text[24];
        if (is_current && b->segment_count < SEGMENTS_MAX &&
            mq_span_copy(field, text, sizeof text)) {
            b->segments[b->segment_count++] = strtoull(text, NULL, 10);
        }
        return;
    }
    if (!is_current) {
        free(l);
    } else if (code != MQ_OK || b->segment_count == SEGMENTS_MAX) {
        free(l);
        mq_own_drop(b, code != MQ_OK ? err->text : "the shard has too many live segments");
    } else {
        begin(b, l);
    }
}

/* ---- ownership ---- */

static void note_time(mq_broker *b, const mq_store_owner *owner)
{
    b->store_offset_ms = owner->now_ms - mq_clock_mono_ms();
    b->used_bytes = owner->used_bytes;
    b->store_max_bytes = owner->max_bytes;
    b->replicas_online = owner->replicas;
}

/* An empty, foreign or older store stops the service until an operator has looked at it. */
static bool is_our_deployment(mq_broker *b, const mq_store_owner *owner)
{
    mq_error why;
    if (mq_witness_check(b->witness, owner->instance, owner->sequence, owner->lineage, &why) !=
        MQ_OK) {
        mq_own_trouble(b, why.text);
        return false;
    }
    mq_witness_note(b->witness, owner->instance, owner->sequence, owner->lineage,
                    mq_clock_mono_ms());
    return true;
}

static void on_acquired(void *arg, mq_code code, const mq_store_owner *owner, const mq_error *err)
{
    mq_broker *b = arg;
    if (b->own != MQ_OWN_ASKED) {
        return;
    }
    b->own = MQ_OWN_NONE;
    b->retry_ms = mq_clock_mono_ms() + RETRY_MS;
    b->is_elsewhere = false;
    if (code != MQ_OK) {
        mq_own_trouble(b, err->text);
        return;
    }
    if (!is_our_deployment(b, owner)) {
        b->retry_ms = mq_clock_mono_ms() + DAMAGED_MS;
        return;
    }
    if (!owner->is_ours) {
        char text[256];
        snprintf(text, sizeof text, "broker %.40s at %.100s owns the shard", owner->owner,
                 owner->endpoint);
        b->is_elsewhere = true;
        mq_own_trouble(b, text);
        return;
    }
    if (b->witness->left.is_set && strcmp(b->witness->left.instance, owner->instance) == 0 &&
        owner->epoch <= b->witness->left.epoch) {
        b->retry_ms = 0; /* older data: on to an epoch that no lease has ever had */
        return;
    }
    if (!make_core(b)) {
        return;
    }
    note_time(b, owner);
    b->renewed_ms = b->renew_sent_ms;
    b->epoch = owner->epoch;
    b->sequence = owner->sequence;
    snprintf(b->lineage, sizeof b->lineage, "%.*s", (int)sizeof b->lineage - 1, owner->lineage);
    b->segment_count = 0;
    b->own = MQ_OWN_SEGMENTS;
    load *l = load_new(b);
    mq_error why;
    if (b->store->ops->segments(b->store, on_segment, l, &why) != MQ_OK) {
        free(l);
        mq_own_drop(b, why.text);
    }
}

static void press(mq_broker *b)
{
    bool is_full = b->is_stopping ||
                   (b->store_max_bytes > 0 && mq_retention_percent(b) >= MQ_STORE_FULL_PERCENT);
    if (b->core == NULL || is_full == b->is_full) {
        return;
    }
    b->is_full = is_full;
    mq_input in = {.type = MQ_IN_PRESSURE};
    in.as.is_full = is_full;
    mq_act_step(b, &in);
}

static void on_renewed(void *arg, mq_code code, const mq_store_owner *owner, const mq_error *err)
{
    mq_broker *b = arg;
    if (!b->is_renewing || b->core == NULL) {
        return;
    }
    b->is_renewing = false;
    if (code != MQ_OK) {
        mq_own_drop(b, err->text);
    } else if (!is_our_deployment(b, owner)) {
        char why[sizeof b->trouble];
        snprintf(why, sizeof why, "%s", b->trouble);
        mq_own_drop(b, why);
    } else if (!owner->is_ours || owner->epoch != b->epoch) {
        mq_own_drop(b, "another broker took the shard over");
    } else {
        note_time(b, owner);
        b->renewed_ms = b->renew_sent_ms;
        press(b);
    }
}

static void ask_for_shard(mq_broker *b, bool is_takeover)
{
    mq_error err;
    bool may_init = b->config->may_init && b->witness->instance[0] == '\0';
    b->renew_sent_ms = mq_clock_mono_ms();
    mq_code code = b->store->ops->acquire(
        b->store, mq_str(b->owner_id), mq_str(b->told), b->config->tenure_ms, is_takeover, may_init,
        mq_str(b->witness->lineage), is_takeover ? on_acquired : on_renewed, b, &err);
    bool is_connecting = b->renew_sent_ms < b->started_ms + RETRY_MS;
    if (code != MQ_OK && is_connecting) {
        b->retry_ms = b->renew_sent_ms + CONNECT_MS;
    } else if (code != MQ_OK) {
        b->retry_ms = b->renew_sent_ms + RETRY_MS;
        mq_own_trouble(b, err.text);
    } else if (is_takeover) {
        b->own = MQ_OWN_ASKED;
    } else {
        b->is_renewing = true;
    }
}

mq_code mq_own_open(mq_broker *b, mq_error *err)
{
    b->segments = calloc(SEGMENTS_MAX, sizeof *b->segments);
    b->out = calloc(1, sizeof *b->out);
    if (b->segments == NULL || b->out == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the broker's tables");
    }
    snprintf(b->trouble, sizeof b->trouble, "starting");
    b->served_ms = mq_clock_mono_ms();
    mq_code code = mq_store_redis_new(&b->store, b->config->store, b->shard, err);
    return code == MQ_OK ? mq_asks_new(&b->asks, b->store, err) : code;
}

/* When the tenure is to be renewed; not at once again after an attempt that could not be sent. */
static int64_t renew_at(const mq_broker *b)
{
    return mq_max_i64(b->renewed_ms + b->config->tenure_ms / 3, b->retry_ms);
}

void mq_own_tick(mq_broker *b)
{
    int64_t now_ms = mq_clock_mono_ms();
    mq_witness_flush(b->witness, now_ms);
    if (b->own == MQ_OWN_STOPPED) {
        return;
    }
    /* What comes back behind a broken connection may be another store: nothing is read from it
     * before it has been looked at as at a takeover. */
    if (b->core != NULL && !b->store->ops->is_connected(b->store)) {
        mq_own_drop(b, "the connection to the store is lost");
        return;
    }
    if (b->core != NULL && b->own == MQ_OWN_NONE) { /* a commit could not even be sent */
        char why[sizeof b->trouble];
        snprintf(why, sizeof why, "%s", b->trouble);
        mq_own_drop(b, why);
    }
    if (b->core == NULL) {
        if (b->own == MQ_OWN_NONE && now_ms >= b->retry_ms && !b->is_stopping) {
            ask_for_shard(b, true);
        }
        return;
    }
    press(b);
    if (!b->is_renewing && now_ms >= renew_at(b)) {
        ask_for_shard(b, false);
    }
}

bool mq_own_is_refusing(const mq_broker *b)
{
    return b->core == NULL && !b->is_elsewhere && b->own != MQ_OWN_STOPPED &&
           mq_clock_mono_ms() > b->served_ms + REFUSE_MS;
}

bool mq_own_is_serving(const mq_broker *b)
{
    return b->core != NULL && (b->own == MQ_OWN_LOADING || b->own == MQ_OWN_SERVING) &&
           mq_clock_mono_ms() < b->renewed_ms + b->config->tenure_ms;
}

int64_t mq_own_deadline(const mq_broker *b)
{
    if (b->own == MQ_OWN_NONE) {
        return b->core == NULL ? b->retry_ms : 0; /* 0: this core is to be dropped */
    }
    if (b->core == NULL) {
        return INT64_MAX;
    }
    return mq_min_i64(mq_witness_deadline(b->witness), b->is_renewing ? INT64_MAX : renew_at(b));
}

/* ---- the end ---- */

static void on_left(void *arg, mq_code code, const mq_store_owner *owner, const mq_error *err)
{
    mq_broker *b = arg;
    (void)owner;
    if (code != MQ_OK) {
        mq_log(MQ_WARN, "shard not given back", "error=%s", err->text);
    }
    b->own = MQ_OWN_STOPPED;
}

bool mq_own_leave(mq_broker *b, bool is_late)
{
    if (b->own == MQ_OWN_STOPPED) {
        return true;
    }
    if (b->core == NULL && b->own == MQ_OWN_ASKED) {
        return false; /* the shard may still become ours, or is being given back */
    }
    if (b->core == NULL) {
        b->own = MQ_OWN_STOPPED;
        return true;
    }
    mq_core_stats stats;
    mq_core_stats_read(b->core, &stats);
    bool is_busy = stats.commits_inflight > 0 || stats.waiters > 0;
    if ((is_busy && !is_late) || b->own == MQ_OWN_ASKED) {
        return false;
    }
    mq_error err;
    uint64_t epoch = b->epoch;
    b->own = MQ_OWN_ASKED;
    mq_own_drop(b, b->leave_ms != 0 ? "handed over" : "stopping");
    b->own = MQ_OWN_ASKED;
    if (b->store->ops->release(b->store, epoch, on_left, b, &err) != MQ_OK) {
        b->own = MQ_OWN_STOPPED;
    }
    return b->own == MQ_OWN_STOPPED;
}

void mq_own_release(mq_broker *b)
{
    free_core(b);
    mq_witness_flush(b->witness, INT64_MAX);
    if (b->store != NULL) {
        b->store->ops->free(b->store);
    }
    mq_asks_free(b->asks);
    free(b->segments);
    free(b->out);
}

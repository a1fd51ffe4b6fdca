/* The process's place among the brokers: see node.h. Must not know what is in a message. */
#include "broker/io/node.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "broker/core/plan.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/base/log.h"
#include "shared/base/map.h"
#include "shared/base/math.h"

enum {
    LOOK_MS = 500,       /* how often the table is read while others are there */
    UNSETTLED_MS = 100,  /* while a shard is not where it should be */
    OVER_MS = 20,        /* at least between looks, however late somebody is */
    HAND_OVER_MS = 1000, /* for what is under way when a shard goes; then it is asked for again */
};

_Static_assert((int)MQ_PLAN_BROKERS_MAX == (int)MQ_CLUSTER_BROKERS_MAX, "one limit");
_Static_assert((int)MQ_PLAN_SHARDS_MAX == (int)MQ_CLUSTER_SHARDS_MAX, "one limit");

uint32_t mq_node_shards(const mq_node *n)
{
    return n->view.shard_count == 0 ? 1 : n->view.shard_count;
}

uint64_t mq_node_ticket(mq_node *n, uint32_t shard)
{
    return (uint64_t)shard << 48 | (++n->next_ticket & UINT64_C(0xffffffffffff));
}

static bool is_us(const mq_node *n, const char *id)
{
    return strcmp(id, n->self.broker.id) == 0;
}

const mq_cluster_broker *mq_node_owner(const mq_node *n, uint32_t shard)
{
    if (shard >= n->view.shard_count) {
        return NULL;
    }
    const char *id = n->view.shards[shard].owner;
    const mq_cluster_broker *b = is_us(n, id) ? NULL : mq_cluster_find(&n->view, id);
    return b != NULL && b->is_alive ? b : NULL;
}

/* The broker that the plan gives a shard to, or NULL. */
static const mq_cluster_broker *target_of(const mq_node *n, uint32_t shard)
{
    uint32_t at = n->target[shard];
    return at < n->view.broker_count ? &n->view.brokers[at] : NULL;
}

static bool is_ours_to_own(const mq_node *n, uint32_t shard)
{
    const mq_cluster_broker *b = target_of(n, shard);
    return b != NULL && is_us(n, b->id);
}

/* ---- following the plan ---- */

static void make_plan(mq_node *n)
{
    mq_plan_in in = {.broker_count = n->view.broker_count, .shard_count = n->view.shard_count};
    for (uint32_t b = 0; b < in.broker_count; b++) {
        const mq_cluster_broker *broker = &n->view.brokers[b];
        /* We know better than the table how we are: it is late after an outage of its store. */
        in.is_alive[b] = is_us(n, broker->id) ? !n->is_stopping : broker->is_alive;
        in.is_active[b] = in.is_alive[b] && !broker->is_draining;
    }
    for (uint32_t s = 0; s < in.shard_count; s++) {
        in.owner[s] = in.pin[s] = MQ_PLAN_NONE;
        for (uint32_t b = 0; b < in.broker_count; b++) {
            const char *id = n->view.brokers[b].id;
            in.owner[s] = strcmp(id, n->view.shards[s].owner) == 0 ? b : in.owner[s];
            in.pin[s] = strcmp(id, n->view.shards[s].pin) == 0 ? b : in.pin[s];
        }
    }
    mq_plan(&in, n->target);
}

/* What was seen of the shard's store outlives the shard's stay here. */
static mq_code open_witness(mq_node *n, uint32_t s, mq_error *err)
{
    mq_witness *w = &n->witness[s];
    if (n->has_witness[s]) {
        return MQ_OK;
    }
    mq_code code = mq_witness_open(w, n->config->witness, s, n->config->must_adopt, err);
    n->has_witness[s] = code == MQ_OK;
    if (code == MQ_OK && w->instance[0] == '\0') { /* other shards know the deployment */
        snprintf(w->instance, sizeof w->instance, "%s", n->instance);
    }
    return code;
}

/* What the table says of shards that others own is witnessed too: should an owner die and the store
 * come back with less, whoever takes the shard over refuses it. Within tenure/3 + LOOK_MS of a
 * commit, and written to the file at most once a look. A table whose lineage lacks what was seen is
 * believed nothing: it may be that of a former primary. */
static void witness_others(mq_node *n)
{
    mq_error err;
    int64_t now_ms = mq_clock_mono_ms();
    for (uint32_t s = 0; s < n->view.shard_count && n->view.instance[0] != '\0'; s++) {
        mq_witness *w = &n->witness[s];
        if (n->view.shards[s].sequence == 0 || n->shards[s] != NULL) {
            continue; /* nothing to see, or seen by ourselves */
        }
        if (open_witness(n, s, &err) != MQ_OK) {
            n->fatal = err;
            return;
        }
        const mq_cluster_shard *told = &n->view.shards[s];
        bool is_ours = w->instance[0] == '\0' || strcmp(w->instance, n->view.instance) == 0;
        if (is_ours && (told->lineage[0] == '\0' || strstr(told->lineage, w->lineage) != NULL)) {
            mq_witness_note(w, n->view.instance, told->sequence, told->lineage, now_ms);
        }
    }
}

static void begin_shard(mq_node *n, uint32_t s)
{
    mq_error err;
    if (open_witness(n, s, &err) != MQ_OK) {
        n->fatal = err;
    } else if (mq_shard_open(&n->shards[s], n, s, &err) != MQ_OK) {
        mq_log(MQ_WARN, "shard not begun", "shard=%u error=%s", s, err.text);
    }
}

static void end_shard(mq_node *n, uint32_t s)
{
    mq_outbox_flush(n->shards[s]); /* answers of commits that came in this turn */
    mq_shard_free(n->shards[s]);
    n->shards[s] = NULL;
    n->told_epoch[s] = 0;
    n->must_tell = true;
}

/* Nothing new is taken while what is under way ends; then the owner's record is cleared and the
 * shard's peers are sent on. */
static void hand_over(mq_node *n, uint32_t s, int64_t now_ms)
{
    mq_broker *b = n->shards[s];
    if (b->leave_ms == 0) {
        b->leave_ms = now_ms + HAND_OVER_MS;
        b->is_stopping = true;
        const mq_cluster_broker *to = target_of(n, s);
        mq_log(MQ_INFO, "shard goes", "shard=%u to=%s", s, to == NULL ? "nobody" : to->name);
    }
    if (mq_own_leave(b, now_ms >= b->leave_ms)) {
        mq_node_tell_moved(n, s, target_of(n, s));
        end_shard(n, s);
    }
}

/* What one shard needs now. True when it is where it should be. */
static bool follow(mq_node *n, uint32_t s, int64_t now_ms)
{
    mq_broker *b = n->shards[s];
    bool is_ours = is_ours_to_own(n, s);
    if (b != NULL && (b->leave_ms != 0 || (!is_ours && mq_own_is_serving(b)))) {
        hand_over(n, s, now_ms);
        return false;
    }
    if (b != NULL && !is_ours && b->core == NULL && b->own == MQ_OWN_NONE) {
        end_shard(n, s); /* another broker's by now */
        return true;
    }
    if (b == NULL && is_ours && mq_node_owner(n, s) == NULL && !n->is_stopping) {
        begin_shard(n, s);
        return false;
    }
    return is_ours ? b != NULL && mq_own_is_serving(b) : mq_node_owner(n, s) != NULL;
}

static void follow_all(mq_node *n)
{
    int64_t now_ms = mq_clock_mono_ms();
    n->is_settled = mq_cluster_find(&n->view, n->self.broker.id) != NULL;
    if (!n->is_settled) {
        return; /* we are not entered yet: nothing is planned for us */
    }
    for (uint32_t s = 0; s < n->view.shard_count; s++) {
        n->is_settled &= follow(n, s, now_ms);
        const mq_broker *b = n->shards[s];
        if (b != NULL && n->instance[0] == '\0') {
            snprintf(n->instance, sizeof n->instance, "%s", b->witness->instance);
        }
        uint64_t epoch = b != NULL && mq_own_is_serving(b) ? b->epoch : 0;
        if (epoch != n->told_epoch[s]) {
            n->since_ms[s] = b == NULL ? 0 : mq_broker_now(b);
            n->told_epoch[s] = epoch;
            n->must_tell = true;
        }
    }
}

bool mq_node_is_ready(const mq_node *n)
{
    bool is_ready = n->view.shard_count > 0;
    for (uint32_t s = 0; s < n->view.shard_count; s++) {
        is_ready &= !is_ours_to_own(n, s) ||
                    (n->shards[s] != NULL && mq_own_is_serving(n->shards[s])) ||
                    mq_node_owner(n, s) != NULL;
    }
    return is_ready;
}

/* ---- the table ---- */

static void on_view(void *arg, mq_code code, const mq_cluster_view *view, const mq_error *err)
{
    mq_node *n = arg;
    if (code != MQ_OK) {
        /* Shards that are here find out for themselves, and when it matters. */
        if (n->view.shard_count == 0 && strcmp(n->trouble, err->text) != 0) {
            snprintf(n->trouble, sizeof n->trouble, "%s", err->text);
            mq_log(MQ_WARN, "shard not served", "reason=%s", err->text);
        }
        return;
    }
    n->trouble[0] = '\0';
    if (n->config->shards != 0 && view->shard_count != (uint32_t)n->config->shards) {
        mq_fail(&n->fatal, MQ_E_ARG,
                "--shards %lld: this deployment has %u, fixed when it was made; leave the option "
                "out",
                (long long)n->config->shards, view->shard_count);
        return;
    }
    n->view = *view;
    n->view_ms = mq_clock_mono_ms();
    if (!n->is_left) {
        witness_others(n);
        make_plan(n);
    }
}

/* Processor time of this process in thousandths of a core since the last look. */
static uint64_t load_milli(mq_node *n, int64_t now_ms)
{
    struct timespec t;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) != 0 || now_ms <= n->cpu_at_ms) {
        return n->self.broker.load_milli;
    }
    int64_t cpu_ms = (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
    int64_t load = (cpu_ms - n->cpu_ms) * 1000 / (now_ms - n->cpu_at_ms);
    n->cpu_ms = cpu_ms;
    n->cpu_at_ms = now_ms;
    return load < 0 ? 0 : (uint64_t)load;
}

static void fill_self(mq_node *n, int64_t now_ms)
{
    mq_cluster_self *self = &n->self;
    self->broker.load_milli = load_milli(n, now_ms);
    self->owned_count = 0;
    self->may_init = n->config->may_init && n->instance[0] == '\0';
    for (uint32_t s = 0; s < n->view.shard_count; s++) {
        const mq_broker *b = n->shards[s];
        if (b != NULL && n->told_epoch[s] != 0 && b->core != NULL) {
            mq_core_stats stats;
            mq_core_stats_read(b->core, &stats);
            self->owned[self->owned_count].shard = s;
            self->owned[self->owned_count].epoch = n->told_epoch[s];
            self->owned[self->owned_count].jobs = stats.jobs;
            self->owned[self->owned_count].sequence = b->witness->sequence;
            memcpy(self->owned[self->owned_count].lineage, b->lineage, sizeof b->lineage);
            self->owned[self->owned_count++].since_ms = n->since_ms[s];
        }
    }
}

/* When the table is read again because of others: regularly, and as soon as one of them that was
 * alive is dead unless it has said so again. INT64_MAX: there is nobody else. */
static int64_t look_at_others(const mq_node *n, int64_t last_ms)
{
    int64_t at_ms = INT64_MAX;
    for (uint32_t i = 0; i < n->view.broker_count; i++) {
        const mq_cluster_broker *b = &n->view.brokers[i];
        if (b->is_alive && !is_us(n, b->id)) {
            int64_t over_ms = n->view_ms + (b->until_ms - n->view.now_ms) + 1;
            at_ms = mq_min_i64(at_ms, mq_max_i64(over_ms, last_ms + OVER_MS));
        }
    }
    return at_ms == INT64_MAX ? at_ms : mq_min_i64(at_ms, last_ms + LOOK_MS);
}

static int64_t look_at(const mq_node *n)
{
    int64_t last_ms = mq_max_i64(n->told_ms, n->looked_ms);
    if (n->view.shard_count == 0 || !mq_cluster_is_connected(n->cluster)) {
        return INT64_MAX; /* our own entry comes first */
    }
    if (!n->is_settled) {
        return last_ms + UNSETTLED_MS;
    }
    return look_at_others(n, last_ms);
}

static int64_t tell_at(const mq_node *n)
{
    int64_t at_ms = n->told_ms + n->config->tenure_ms / 3;
    if (!mq_cluster_is_connected(n->cluster)) {
        return INT64_MAX; /* its descriptor wakes the loop */
    }
    at_ms = n->must_tell ? mq_min_i64(at_ms, n->told_ms + UNSETTLED_MS / 5) : at_ms;
    return mq_max_i64(at_ms, n->tell_retry_ms);
}

void mq_node_tick(mq_node *n)
{
    if (n->is_left) {
        return;
    }
    follow_all(n);
    int64_t now_ms = mq_clock_mono_ms();
    if (now_ms >= tell_at(n)) {
        fill_self(n, now_ms);
        n->self.ttl_ms = n->config->tenure_ms;
        if (mq_cluster_tell(n->cluster, &n->self)) {
            n->must_tell = false;
            n->told_ms = now_ms;
        } else {
            n->tell_retry_ms = now_ms + LOOK_MS / 2;
        }
    } else if (now_ms >= look_at(n)) {
        n->looked_ms = now_ms;
        (void)mq_cluster_tell(n->cluster, NULL);
    }
    mq_node_tell_routes(n);
}

int64_t mq_node_deadline(const mq_node *n)
{
    int64_t at_ms = mq_min_i64(tell_at(n), look_at(n));
    return mq_min_i64(mq_min_i64(at_ms, mq_lend_deadline(n)), mq_cluster_deadline(n->cluster));
}

bool mq_node_leave(mq_node *n, bool is_late)
{
    bool is_empty = true;
    if (!n->is_stopping) {
        n->is_stopping = true;
        make_plan(n);
    }
    for (uint32_t s = 0; s < MQ_CLUSTER_SHARDS_MAX; s++) {
        mq_broker *b = n->shards[s];
        if (b != NULL) {
            b->is_stopping = true;
            if (mq_own_leave(b, is_late)) {
                mq_node_tell_moved(n, s, s < n->view.shard_count ? target_of(n, s) : NULL);
                end_shard(n, s);
            }
        }
        is_empty &= n->shards[s] == NULL;
    }
    if (is_empty && !n->is_left) {
        n->self.owned_count = 0;
        n->self.ttl_ms = 0;
        n->is_left = mq_cluster_tell(n->cluster, &n->self);
        n->told_version = UINT64_MAX;
        return is_late || !mq_cluster_is_connected(n->cluster); /* nobody to tell it */
    }
    bool is_told = n->is_left && mq_cluster_find(&n->view, n->self.broker.id) == NULL;
    return is_empty && (is_told || is_late || !mq_cluster_is_connected(n->cluster));
}

/* ---- the beginning ---- */

/* Whoever listens at this endpoint of this host: a broker that is started again there takes its
 * shards back at once, under new epochs, instead of waiting for its own tenure to run out. Only one
 * process can listen there. */
static void name_owner(mq_node *n)
{
    char host[65] = "";
    char text[sizeof n->front.endpoint + 160];
    mq_error err;
    mq_buf boot; /* hosts that were copied have the same name, even "localhost" */
    mq_buf_init(&boot, 64);
    (void)gethostname(host, sizeof host - 1);
    if (mq_file_read("/proc/sys/kernel/random/boot_id", &boot, &err) != MQ_OK) {
        mq_buf_reset(&boot);
    }
    int len = snprintf(text, sizeof text, "%s %.*s %s", host, MQ_SPAN_ARG(mq_buf_span(&boot)),
                       n->front.endpoint);
    mq_buf_release(&boot);
    char *id = n->self.broker.id;
    snprintf(id, MQ_CLUSTER_ID_SIZE, "%.40s-%016llx", n->config->name,
             (unsigned long long)mq_hash64(mq_span_of(text, (size_t)len), 0));
    for (char *c = id; *c != '\0'; c++) {
        *c = (unsigned char)*c <= ' ' ? '_' : *c; /* the table's records are words */
    }
}

static mq_code name_endpoint(const char *option, const char *told, const char *bound,
                             char out[MQ_CLUSTER_URL_SIZE], mq_error *err)
{
    const char *text = told[0] != '\0' ? told : bound;
    if (strlen(text) >= MQ_CLUSTER_URL_SIZE || strchr(text, ' ') != NULL) {
        return mq_fail(err, MQ_E_ARG, "--%s %s: longer than %d bytes, or with a blank", option,
                       text, MQ_CLUSTER_URL_SIZE - 1);
    }
    snprintf(out, MQ_CLUSTER_URL_SIZE, "%s", text);
    return MQ_OK;
}

mq_code mq_node_open(mq_node *n, mq_error *err)
{
    mq_cluster_broker *us = &n->self.broker;
    name_owner(n);
    snprintf(us->name, sizeof us->name, "%.63s", n->config->name);
    us->since_ms = mq_clock_wall_ms();
    n->self.shards_wanted = (uint32_t)n->config->shards;
    n->told_ms = mq_clock_mono_ms() - n->config->tenure_ms;
    mq_buf_init(&n->header, MQ_HEADER_BYTES_MAX);
    mq_buf_init(&n->answer, MQ_ANSWER_BYTES_MAX);
    mq_arena_init(&n->arena, 8 << 20);
    mq_code code =
        name_endpoint("front-told", n->config->front_told, n->front.endpoint, us->front, err);
    if (code == MQ_OK) {
        code = name_endpoint("back-told", n->config->back_told, n->back.endpoint, us->back, err);
    }
    return code == MQ_OK ? mq_cluster_new(&n->cluster, n->config->store, on_view, n, err) : code;
}

void mq_node_release(mq_node *n)
{
    for (uint32_t s = 0; s < MQ_CLUSTER_SHARDS_MAX; s++) {
        if (n->shards[s] != NULL) {
            mq_shard_free(n->shards[s]);
        }
        if (n->has_witness[s]) {
            mq_witness_close(&n->witness[s]);
        }
    }
    mq_cluster_free(n->cluster);
    mq_buf_release(&n->header);
    mq_buf_release(&n->answer);
    mq_arena_release(&n->arena);
}

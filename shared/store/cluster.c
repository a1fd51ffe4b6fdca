/* The table of brokers and shards over Redis; see cluster.h. Must not know who should own what. */
#include "shared/store/cluster.h"

#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/store/conn.h"
#include "shared/store/keys.h"

enum { WORD_BYTES = 64 + MQ_CLUSTER_LINEAGE_SIZE, RECORD_BYTES = 640, FIXED_WORDS = 9 };

typedef struct setting {
    mq_cluster *cluster;
    mq_cluster_on_set *on_set;
    void *arg;
} setting;

struct mq_cluster {
    mq_conn conn;
    mq_cluster_on_view *on_view;
    void *arg;
    bool is_asking;                    /* a tell is under way */
    bool has_table;                    /* it has been seen: never made again */
    char instance[MQ_CLUSTER_ID_SIZE]; /* as last read; "" = the store has none */
    bool has_self;                     /* self is what is being told */
    mq_cluster_self self;
    mq_cluster_view view; /* scratch */
    /* Scratch of the command: */
    const char *argv[FIXED_WORDS + 3 * MQ_CLUSTER_SHARDS_MAX];
    size_t lens[FIXED_WORDS + 3 * MQ_CLUSTER_SHARDS_MAX];
    int argc;
    char numbers[3 * MQ_CLUSTER_SHARDS_MAX + 4][WORD_BYTES];
    char record[RECORD_BYTES];
};

mq_code mq_cluster_new(mq_cluster **out, const char *url, mq_cluster_on_view *on_view, void *arg,
                       mq_error *err)
{
    mq_url at;
    mq_code code = mq_url_parse(&at, url, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_cluster *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the table of shards");
    }
    c->on_view = on_view;
    c->arg = arg;
    code = mq_conn_init(&c->conn, &at, NULL, NULL, err);
    if (code != MQ_OK) {
        free(c);
        return code;
    }
    *out = c;
    return MQ_OK;
}

void mq_cluster_free(mq_cluster *c)
{
    if (c != NULL) {
        c->on_view = NULL; /* what is under way is answered to nobody */
        mq_conn_release(&c->conn);
        free(c);
    }
}

/* ---- reading ---- */

static int compare_ids(const void *a, const void *b)
{
    return strcmp(((const mq_cluster_broker *)a)->id, ((const mq_cluster_broker *)b)->id);
}

/* "until since load front back name"; a record that is no such thing is not shown. */
static void read_broker(mq_cluster_view *view, const char *id, const char *text)
{
    mq_cluster_broker b = {0};
    long long until = 0, since = 0, load = 0;
    int at = 0;
    if (view->broker_count == MQ_CLUSTER_BROKERS_MAX || strlen(id) >= sizeof b.id ||
        sscanf(text, /* NOLINT(cert-err34-c) a broker's writing */
               "%lld %lld %lld %127s %127s %n", &until, &since, &load, b.front, b.back, &at) < 5 ||
        at == 0) {
        return;
    }
    snprintf(b.id, sizeof b.id, "%s", id);
    snprintf(b.name, sizeof b.name, "%.63s", text + at);
    b.until_ms = until;
    b.since_ms = since;
    b.load_milli = load < 0 ? 0 : (uint64_t)load;
    b.is_alive = until > view->now_ms;
    view->brokers[view->broker_count++] = b;
}

static void read_shard(mq_cluster_shard *s, const char *text)
{
    unsigned long long epoch = 0, jobs = 0, sequence = 0;
    long long since = 0;
    if (sscanf(text, /* NOLINT(cert-err34-c) a broker's writing */
               "%63s %llu %lld %llu %llu %271s", s->owner, &epoch, &since, &jobs, &sequence,
               s->lineage) < 2) {
        s->owner[0] = '\0';
        return;
    }
    if (strcmp(s->owner, "-") == 0) {
        s->owner[0] = '\0';
    }
    s->epoch = epoch;
    s->since_ms = since;
    s->jobs = jobs;
    s->sequence = sequence;
}

static mq_cluster_shard *shard_of(mq_cluster_view *view, const char *number)
{
    unsigned long k = strtoul(number, NULL, 10);
    return k < MQ_CLUSTER_SHARDS_MAX ? &view->shards[k] : NULL;
}

static void read_field(mq_cluster_view *view, const char *field, const char *value)
{
    mq_cluster_shard *shard = shard_of(view, field[0] != '\0' ? field + 2 : field);
    if (strcmp(field, "shards") == 0) {
        view->shard_count = (uint32_t)strtoul(value, NULL, 10);
    } else if (strcmp(field, "version") == 0) {
        view->version = strtoull(value, NULL, 10);
    } else if (strncmp(field, "b:", 2) == 0) {
        read_broker(view, field + 2, value);
    } else if (strncmp(field, "o:", 2) == 0 && shard != NULL) {
        read_shard(shard, value);
    } else if (strncmp(field, "p:", 2) == 0 && shard != NULL) {
        snprintf(shard->pin, sizeof shard->pin, "%.63s", value);
    }
}

const mq_cluster_broker *mq_cluster_find(const mq_cluster_view *view, const char *id)
{
    for (uint32_t i = 0; i < view->broker_count; i++) {
        if (strcmp(view->brokers[i].id, id) == 0) {
            return &view->brokers[i];
        }
    }
    return NULL;
}

static mq_code read_view(mq_cluster *c, const redisReply *r, mq_error *err)
{
    mq_cluster_view *view = &c->view;
    *view = (mq_cluster_view){0};
    memcpy(view->instance, c->instance, sizeof view->instance);
    if (r->type == REDIS_REPLY_ERROR) {
        return mq_fail(err, MQ_E_IO, "Redis answers: %.300s", r->str);
    }
    bool is_right = r->type == REDIS_REPLY_ARRAY && r->elements % 2 == 1;
    for (size_t i = 0; is_right && i < r->elements; i++) {
        is_right = r->element[i]->type == REDIS_REPLY_STRING;
    }
    if (!is_right) {
        return mq_fail(err, MQ_E_INTERNAL, "the table of shards is not a list of texts");
    }
    view->now_ms = strtoll(r->element[0]->str, NULL, 10);
    for (size_t i = 1; i < r->elements; i += 2) {
        read_field(view, r->element[i]->str, r->element[i + 1]->str);
    }
    for (size_t i = 1; i < r->elements; i += 2) {
        for (uint32_t k = 0; k < view->broker_count; k++) {
            view->brokers[k].is_draining |=
                strncmp(r->element[i]->str, "d:", 2) == 0 &&
                strcmp(r->element[i]->str + 2, view->brokers[k].id) == 0;
        }
    }
    qsort(view->brokers, view->broker_count, sizeof *view->brokers, compare_ids);
    if (view->shard_count < 1 || view->shard_count > MQ_CLUSTER_SHARDS_MAX) {
        return mq_fail(err, MQ_E_CORRUPT, "%s: shards is %u, outside 1..%d", MQ_KEY_CLUSTER,
                       view->shard_count, MQ_CLUSTER_SHARDS_MAX);
    }
    c->has_table = true;
    return MQ_OK;
}

static void on_table(void *arg, const redisReply *reply)
{
    mq_cluster *c = arg;
    mq_error err = {0};
    c->is_asking = false;
    mq_code code = reply == NULL ? mq_fail(&err, MQ_E_IO, "store: connection lost")
                                 : read_view(c, reply, &err);
    if (c->on_view != NULL) {
        c->on_view(c->arg, code, code == MQ_OK ? &c->view : NULL, &err);
    }
}

/* ---- telling ---- */

static void word(mq_cluster *c, const char *text)
{
    MQ_ASSERT(c->argc < (int)(sizeof c->argv / sizeof c->argv[0]));
    c->argv[c->argc] = text;
    c->lens[c->argc++] = strlen(text);
}

static bool send_table(mq_cluster *c)
{
    const mq_cluster_self *self = &c->self;
    bool may_make = !c->has_table && (c->instance[0] != '\0' || self->may_init);
    int n = 0;
    c->argc = 0;
    word(c, "FCALL");
    word(c, "mq1_cluster");
    word(c, "1");
    word(c, MQ_KEY_CLUSTER);
    word(c, c->has_self ? self->broker.id : "");
    snprintf(c->numbers[n], WORD_BYTES, "%lld", (long long)self->ttl_ms);
    word(c, c->numbers[n++]);
    snprintf(c->record, sizeof c->record, "%lld %llu %s %s %s", (long long)self->broker.since_ms,
             (unsigned long long)self->broker.load_milli, self->broker.front, self->broker.back,
             self->broker.name);
    word(c, c->record);
    snprintf(c->numbers[n], WORD_BYTES, "%u", self->shards_wanted);
    word(c, c->numbers[n++]);
    word(c, may_make && c->has_self ? "1" : "0");
    for (uint32_t i = 0; c->has_self && i < self->owned_count; i++) {
        snprintf(c->numbers[n], WORD_BYTES, "%u", self->owned[i].shard);
        word(c, c->numbers[n++]);
        snprintf(c->numbers[n], WORD_BYTES, "%llu", (unsigned long long)self->owned[i].epoch);
        word(c, c->numbers[n++]);
        snprintf(c->numbers[n], WORD_BYTES, "%lld %llu %llu %s", (long long)self->owned[i].since_ms,
                 (unsigned long long)self->owned[i].jobs,
                 (unsigned long long)self->owned[i].sequence, self->owned[i].lineage);
        word(c, c->numbers[n++]);
    }
    return mq_conn_send(&c->conn, on_table, c, c->argc, c->argv, c->lens);
}

static void on_instance(void *arg, const redisReply *reply)
{
    mq_cluster *c = arg;
    bool is_there = reply != NULL && reply->type == REDIS_REPLY_STRING;
    snprintf(c->instance, sizeof c->instance, "%.*s", is_there ? (int)reply->len : 0,
             is_there ? reply->str : "");
}

/* Whether this is a deployment's store decides whether a missing table may be made. */
static void on_first_instance(void *arg, const redisReply *reply)
{
    mq_cluster *c = arg;
    on_instance(c, reply);
    if (reply == NULL || c->on_view == NULL || !send_table(c)) {
        on_table(c, NULL);
    }
}

bool mq_cluster_tell(mq_cluster *c, const mq_cluster_self *self)
{
    if (c->is_asking || c->conn.state != MQ_CONN_UP || c->conn.must_drop) {
        return false;
    }
    c->has_self = self != NULL;
    c->self = self != NULL ? *self : (mq_cluster_self){0};
    const char *argv[] = {"GET", MQ_KEY_INSTANCE};
    const size_t lens[] = {3, strlen(MQ_KEY_INSTANCE)};
    c->is_asking = c->has_table
                       ? mq_conn_send(&c->conn, on_instance, c, 2, argv, lens) && send_table(c)
                       : mq_conn_send(&c->conn, on_first_instance, c, 2, argv, lens);
    return c->is_asking;
}

/* ---- wishes ---- */

static void on_set(void *arg, const redisReply *reply)
{
    setting *s = arg;
    mq_error err = {0};
    mq_code code = MQ_OK;
    if (reply == NULL || reply->type == REDIS_REPLY_ERROR) {
        code = mq_fail(&err, MQ_E_IO, "store: %.300s",
                       reply == NULL ? "connection lost, outcome unknown" : reply->str);
    }
    if (s->cluster->on_view != NULL) {
        s->on_set(s->arg, code, &err);
    }
    free(s);
}

static mq_code set(mq_cluster *c, const char *field, const char *value, mq_cluster_on_set *fn,
                   void *arg, mq_error *err)
{
    const char *argv[] = {"FCALL", "mq1_cluster_set", "1", MQ_KEY_CLUSTER, field, value};
    size_t lens[6];
    for (int i = 0; i < 6; i++) {
        lens[i] = strlen(argv[i]);
    }
    setting *s = malloc(sizeof *s);
    if (s == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a call");
    }
    *s = (setting){c, fn, arg};
    if (c->conn.state != MQ_CONN_UP || !mq_conn_send(&c->conn, on_set, s, 6, argv, lens)) {
        free(s);
        return mq_fail(err, MQ_E_BUSY, "store: not connected: %s", c->conn.trouble.text);
    }
    return MQ_OK;
}

mq_code mq_cluster_pin(mq_cluster *c, uint32_t shard, const char *broker, mq_cluster_on_set *fn,
                       void *arg, mq_error *err)
{
    char field[16];
    snprintf(field, sizeof field, "p:%u", shard);
    return set(c, field, broker, fn, arg, err);
}

mq_code mq_cluster_drain(mq_cluster *c, const char *broker, bool is_draining, mq_cluster_on_set *fn,
                         void *arg, mq_error *err)
{
    char field[MQ_CLUSTER_ID_SIZE + 4];
    snprintf(field, sizeof field, "d:%.63s", broker);
    return set(c, field, is_draining ? "1" : "", fn, arg, err);
}

/* ---- the loop's side ---- */

int mq_cluster_fd(const mq_cluster *c)
{
    return mq_conn_fd(&c->conn);
}

short mq_cluster_events(const mq_cluster *c)
{
    return mq_conn_events(&c->conn);
}

void mq_cluster_process(mq_cluster *c, short revents, int64_t now_ms)
{
    mq_conn_process(&c->conn, revents, now_ms);
}

int64_t mq_cluster_deadline(const mq_cluster *c)
{
    return mq_conn_deadline(&c->conn);
}

bool mq_cluster_is_connected(const mq_cluster *c)
{
    return c->conn.state == MQ_CONN_UP && !c->conn.must_drop;
}

mq_conn *mq_cluster_conn(mq_cluster *c)
{
    return &c->conn;
}

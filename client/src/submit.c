/* Submitting: checks a spec field by field, copies it into one block and hands it to the session.
 */
#include <stdlib.h>

#include "client/src/client.h"
#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

enum {
    DEPS_MAX = 64,
    SEATS_MAX = 64,
    SHARDS_MS = 5000, /* for a broker's word, when it decides where the job is */
    PRIORITY_MAX = 9,
    PRIORITY_DEFAULT = 5,
    TRANSIENT_TTL_MS = 30000,
};
#define TTL_MS_MAX  (UINT64_C(366) * 24 * 3600 * 1000)
#define DAY_MS      (UINT64_C(24) * 3600 * 1000)
#define KEEP_MS_MAX (365 * DAY_MS)

typedef struct kind_row {
    const char *name;
    bool is_transient;
    size_t body_bytes_max;
} kind_row;

static const kind_row kinds[] = {
#define MQ_KIND(symbol, name, gang, transient, run_ms, attempts, bytes) {name, transient, bytes},
#include "shared/job/kinds.def"
#undef MQ_KIND
};

static const kind_row *kind_of(const char *name)
{
    static const kind_row other = {"", false, MQ_CLIENT_BODY_BYTES_MAX};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return &kinds[i];
        }
    }
    return &other;
}

bool mq_spec_is_home(const maasq_spec *s)
{
    const char *const keys[] = {s->model, s->memo, s->unique, s->limit_key};
    static const char *const plain[] = {"echo", "sleep", "crash"}; /* of the built-in kinds */
    bool is_home = s->seats_min > 0 || s->seats_max > 0;
    bool is_builtin = kind_of(s->kind)->name[0] != '\0', is_plain = false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        is_home |= keys[i] != NULL && keys[i][0] != '\0';
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        is_plain |= strcmp(s->kind, plain[i]) == 0;
    }
    return is_home || (is_builtin && !is_plain);
}

static mq_code check_numbers(const maasq_spec *s, mq_error *err)
{
    size_t body_max = kind_of(s->kind)->body_bytes_max;
    if (s->body_bytes > body_max) {
        return mq_fail(err, MQ_E_LIMIT,
                       "body: %zu bytes, but kind %s takes at most %zu; put large inputs into a "
                       "blob and name its hash",
                       s->body_bytes, s->kind, body_max);
    }
    if (s->body_bytes > 0 && s->body == NULL) {
        return mq_fail(err, MQ_E_ARG, "body: NULL with body_bytes %zu", s->body_bytes);
    }
    if (s->priority > PRIORITY_MAX) {
        return mq_fail(err, MQ_E_ARG, "priority: %u is outside 1..%d", s->priority, PRIORITY_MAX);
    }
    if (s->seats_min > SEATS_MAX || s->seats_max > SEATS_MAX ||
        (s->seats_max != 0 && s->seats_min > s->seats_max)) {
        return mq_fail(err, MQ_E_ARG, "seats: %u..%u is not within 1..%d", s->seats_min,
                       s->seats_max, SEATS_MAX);
    }
    if (s->durability < MAASQ_BY_KIND || s->durability > MAASQ_REPLICATED) {
        return mq_fail(err, MQ_E_ARG, "durability: %d is none of MAASQ_BY_KIND..MAASQ_REPLICATED",
                       s->durability);
    }
    if (s->on_failure != MAASQ_CANCEL && s->on_failure != MAASQ_RUN) {
        return mq_fail(err, MQ_E_ARG, "on_failure: %d is neither MAASQ_CANCEL nor MAASQ_RUN",
                       s->on_failure);
    }
    if (s->keep_ms > KEEP_MS_MAX || (s->keep_ms > 0 && s->keep_ms < 1000)) {
        return mq_fail(err, MQ_E_ARG, "keep_ms: %llu is outside 1000..%lld (365 days)",
                       (unsigned long long)s->keep_ms, (long long)KEEP_MS_MAX);
    }
    if (s->backoff_ms > DAY_MS || s->backoff_max_ms > DAY_MS) {
        return mq_fail(err, MQ_E_ARG, "backoff_ms, backoff_max_ms: at most %lld (1 day)",
                       (long long)DAY_MS);
    }
    if (s->ttl_ms > TTL_MS_MAX || s->lease_ms > TTL_MS_MAX || s->max_run_ms > TTL_MS_MAX) {
        return mq_fail(err, MQ_E_ARG, "ttl_ms, lease_ms, max_run_ms: at most one year");
    }
    return MQ_OK;
}

static mq_code check_text(const char *field, const char *text, size_t max, mq_error *err)
{
    if (text != NULL && strlen(text) > max) {
        return mq_fail(err, MQ_E_ARG, "%s: %zu bytes, at most %zu", field, strlen(text), max);
    }
    return MQ_OK;
}

static mq_code check_texts(const maasq_spec *s, mq_error *err)
{
    if (s->kind == NULL || s->kind[0] == '\0') {
        return mq_fail(err, MQ_E_ARG, "kind: empty; name one, for example \"echo\"");
    }
    const struct {
        const char *field, *text;
        size_t max;
    } texts[] = {
        {"kind", s->kind, 64},      {"model", s->model, 128},        {"queue", s->queue, 64},
        {"tenant", s->tenant, 64},  {"memo", s->memo, 128},          {"trace", s->trace, 64},
        {"unique", s->unique, 128}, {"limit_key", s->limit_key, 64}, {"needs", s->needs, 256}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (check_text(texts[i].field, texts[i].text, texts[i].max, err) != MQ_OK) {
            return MQ_E_ARG;
        }
    }
    if (s->id != NULL && mq_ulid_ms(mq_str(s->id)) < 0) {
        return mq_fail(err, MQ_E_ARG, "id: '%.40s' is not a ULID of 26 upper-case letters", s->id);
    }
    if (s->deps_count > DEPS_MAX || (s->deps_count > 0 && s->deps == NULL)) {
        return mq_fail(err, MQ_E_ARG, "deps: %zu, at most %d", s->deps_count, DEPS_MAX);
    }
    for (size_t i = 0; i < s->deps_count; i++) {
        if (s->deps[i] == NULL || mq_ulid_ms(mq_str(s->deps[i])) < 0) {
            return mq_fail(err, MQ_E_ARG, "deps[%zu]: not the id of a job, a ULID", i);
        }
    }
    return MQ_OK;
}

/* Copies a text into the block at *at; returns it there. */
static mq_span put(uint8_t **at, mq_span s)
{
    mq_span out = mq_span_of(*at, s.len);
    if (s.len > 0) {
        memcpy(*at, s.data, s.len);
        *at += s.len;
    }
    return out;
}

static size_t block_bytes(const maasq_spec *s, const char *tenant)
{
    size_t bytes = s->deps_count * sizeof(mq_span) + s->body_bytes;
    const char *texts[] = {s->kind,  s->model,  s->queue,     tenant,  s->memo,
                           s->trace, s->unique, s->limit_key, s->needs};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        bytes += mq_str(texts[i]).len;
    }
    return bytes + s->deps_count * MQ_ULID_LEN;
}

static void copy_numbers(mq_msg_submit_job *r, const maasq_spec *s, bool is_transient)
{
    static const char *const durabilities[] = {"durable", "transient", "durable", "replicated"};
    r->durability = mq_str(is_transient ? "transient" : durabilities[s->durability]);
    r->priority = s->priority == 0 ? PRIORITY_DEFAULT : s->priority;
    r->run_at_ms = s->run_at_ms;
    r->ttl_ms = s->ttl_ms == 0 && is_transient ? TRANSIENT_TTL_MS : s->ttl_ms;
    r->lease_ms = s->lease_ms;
    r->max_run_ms = s->max_run_ms;
    r->attempts_max = s->attempts_max;
    r->crashes_max = s->crashes_max;
    r->seats_min = s->seats_min;
    r->seats_max = s->seats_max;
    r->runs_anyway = s->on_failure == MAASQ_RUN;
    r->keep_ms = s->keep_ms;
    r->backoff_ms = s->backoff_ms;
    r->backoff_max_ms = s->backoff_max_ms;
    r->memory_bytes = s->memory_bytes;
    r->len = s->body_bytes;
}

/* Copies the request into the job's block. False when memory is gone. */
static bool copy_request(maasq_job *job, const maasq_spec *s, const char *tenant, bool is_transient)
{
    job->block_bytes = block_bytes(s, tenant);
    job->block = malloc(job->block_bytes + 1);
    if (job->block == NULL) {
        return false;
    }
    mq_msg_submit_job *r = &job->request;
    r->deps = job->block; /* first, for its alignment */
    r->deps_count = (uint32_t)s->deps_count;
    uint8_t *at = (uint8_t *)job->block + s->deps_count * sizeof(mq_span);
    for (size_t i = 0; i < s->deps_count; i++) {
        r->deps[i] = put(&at, mq_str(s->deps[i]));
    }
    r->kind = put(&at, mq_str(s->kind));
    r->model = put(&at, mq_str(s->model));
    r->queue = put(&at, mq_str(s->queue));
    r->tenant = put(&at, mq_str(tenant));
    r->memo = put(&at, mq_str(s->memo));
    r->trace = put(&at, mq_str(s->trace));
    r->unique = put(&at, mq_str(s->unique));
    r->limit_key = put(&at, mq_str(s->limit_key));
    r->needs = put(&at, mq_str(s->needs));
    job->body = put(&at, mq_span_of(s->body, s->body_bytes));
    MQ_ASSERT(at <= (uint8_t *)job->block + job->block_bytes);
    r->id = mq_str(job->id);
    copy_numbers(r, s, is_transient);
    return true;
}

/* A new id by the broker's clock when that is far from ours: ids outside its window are refused. */
static void new_id(const maasq_client *client, char out[MQ_ULID_SIZE])
{
    char here[MQ_ULID_SIZE];
    mq_ulid_new(here);
    memcpy(out, here, sizeof here);
    if (client->clock_ahead_ms > 60000 || client->clock_ahead_ms < -60000) {
        static const uint8_t zero[10];
        mq_ulid_make(mq_clock_wall_ms() + client->clock_ahead_ms, zero, out);
        memcpy(out + 10, here + 10, MQ_ULID_LEN - 10); /* keep the random letters */
    }
}

static maasq_job *new_job(maasq_client *client, maasq_done_fn *done, void *arg, mq_error *err)
{
    maasq_job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        (void)mq_fail(err, MQ_E_LIMIT, "no memory for a job");
        return NULL;
    }
    job->client = client;
    job->slot = MQ_CCORE_NONE;
    job->state = "sending";
    job->done = done;
    job->done_arg = arg;
    return job;
}

/* Gives the job its slot. Under the lock. */
static mq_code enter_one(maasq_client *client, maasq_job *job, bool is_transient, bool is_opened,
                         mq_error *err)
{
    if (client->is_closing) {
        return mq_fail(err, MQ_E_CANCELLED, "the client is being freed");
    }
    if (mq_ccore_find(&client->core, mq_str(job->id)) != MQ_CCORE_NONE) {
        return mq_fail(err, MQ_E_EXISTS, "id: job %s is open in this client already", job->id);
    }
    if (client->job_count >= client->jobs_max ||
        client->job_bytes + job->block_bytes > client->bytes_max) {
        return mq_fail(err, MQ_E_BUSY,
                       "%u jobs with %llu bytes are open, at most %u and %llu: wait for one to end",
                       client->job_count, (unsigned long long)client->job_bytes, client->jobs_max,
                       (unsigned long long)client->bytes_max);
    }
    int64_t now_ms = mq_clock_mono_ms();
    int64_t give_up_ms = now_ms + (is_transient ? (int64_t)job->request.ttl_ms : client->submit_ms);
    job->slot = is_opened ? mq_ccore_open(&client->core, now_ms, mq_str(job->id))
                          : mq_ccore_submit(&client->core, now_ms, mq_str(job->id), is_transient,
                                            give_up_ms);
    MQ_ASSERT(job->slot != MQ_CCORE_NONE); /* jobs_max leaves room for calls */
    job->refs = 2;
    job->client = client;
    client->refs++;
    client->slots[job->slot].job = job;
    client->job_count++;
    client->job_bytes += job->block_bytes;
    if (job->done != NULL) {
        mq_job_count(job);
    }
    /* The only one is sent at once, from here; of many, several go together. */
    bool is_only = mq_ccore_count(&client->core) == 1 && client->core.is_linked;
    if (!is_only || client->is_own_loop || mq_io_push(client, now_ms)) {
        mq_client_wake(client);
    }
    return MQ_OK;
}

/* The same with the client that the job's id belongs to. */
static mq_code enter(maasq_client *primary, maasq_job *job, bool is_transient, bool is_opened,
                     mq_error *err)
{
    maasq_client *client = mq_client_lock_for(primary, job->id, err);
    if (client == NULL) {
        return err->code;
    }
    mq_code code = enter_one(client, job, is_transient, is_opened, err);
    pthread_mutex_unlock(&client->lock);
    return code;
}

/* The job's id, which says where it belongs: a new one when it has none yet. */
static mq_code name_job(maasq_client *primary, const maasq_spec *s, const char *near,
                        char id[MQ_ULID_SIZE], mq_error *err)
{
    bool is_home = mq_spec_is_home(s);
    bool must_agree = s->deps_count > 0 || (is_home && s->id != NULL);
    uint32_t shards =
        mq_client_shards(primary, must_agree ? mq_clock_mono_ms() + SHARDS_MS : INT64_MIN);
    if (s->id != NULL) {
        (void)mq_span_copy(mq_str(s->id), id, MQ_ULID_SIZE);
    } else {
        pthread_mutex_lock(&primary->lock);
        new_id(primary, id);
        pthread_mutex_unlock(&primary->lock);
        if (s->deps_count > 0 || near != NULL) {
            mq_ulid_follow(id, mq_str(s->deps_count > 0 ? s->deps[0] : near));
        } else if (is_home) {
            mq_ulid_set_home(id);
        }
    }
    uint32_t shard = mq_ulid_shard(mq_str(id), shards);
    for (size_t i = 0; i < s->deps_count; i++) {
        if (mq_ulid_shard(mq_str(s->deps[i]), shards) != shard) {
            return mq_fail(err, MQ_E_ARG,
                           "deps[%zu]: %s is not in the job's shard %u; make jobs that depend on "
                           "each other as a group, or give them ids with equal letters 11 and 12",
                           i, s->deps[i], shard);
        }
    }
    if (is_home && shard != 0) {
        return mq_fail(err, MQ_E_ARG,
                       "id, deps: shard %u, but jobs with seats, a model, a key, or of a kind that "
                       "publishes live in shard 0 (letters 11 and 12 of the id are 00)",
                       shard);
    }
    return MQ_OK;
}

maasq_job *mq_client_submit_near(maasq_client *primary, const maasq_spec *given, const char *near,
                                 maasq_done_fn *done, void *arg, mq_error *err)
{
    char id[MQ_ULID_SIZE];
    maasq_spec s = {.size = 0};
    if (given == NULL || given->size < sizeof given->size || given->size > 4096) {
        (void)mq_fail(err, MQ_E_ARG, "spec.size: set it to sizeof(maasq_spec)");
        return NULL;
    }
    memcpy(&s, given, mq_min_size(given->size, sizeof s));
    if (check_texts(&s, err) != MQ_OK || check_numbers(&s, err) != MQ_OK) {
        return NULL;
    }
    bool is_transient = s.durability == MAASQ_TRANSIENT ||
                        (s.durability == MAASQ_BY_KIND && kind_of(s.kind)->is_transient);
    if (name_job(primary, &s, near, id, err) != MQ_OK) {
        return NULL;
    }
    const char *tenant = s.tenant != NULL && s.tenant[0] != '\0' ? s.tenant : primary->tenant;
    maasq_job *job = new_job(primary, done, arg, err);
    if (job == NULL) {
        return NULL;
    }
    if (!copy_request(job, &s, tenant, is_transient)) {
        (void)mq_fail(err, MQ_E_LIMIT, "no memory for a body of %zu bytes", s.body_bytes);
        free(job);
        return NULL;
    }
    memcpy(job->id, id, sizeof id);
    job->request.id = mq_str(job->id);
    if (enter(primary, job, is_transient, false, err) != MQ_OK) {
        free(job->block);
        free(job);
        return NULL;
    }
    return job;
}

maasq_job *maasq_submit(maasq_client *client, const maasq_spec *spec, maasq_done_fn *done,
                        void *arg, maasq_error *err)
{
    mq_error why = {0};
    maasq_job *job = mq_client_submit_near(client, spec, NULL, done, arg, &why);
    if (job == NULL) {
        (void)mq_client_error(err, &why);
    }
    return job;
}

size_t maasq_submit_many(maasq_client *client, const maasq_spec *specs, size_t count,
                         maasq_job **jobs, maasq_done_fn *done, void *arg, maasq_error *err)
{
    mq_error why = {0};
    size_t queued = 0;
    const uint8_t *at = (const uint8_t *)specs; /* the caller's structs may be of another size */
    for (size_t i = 0; i < count; i++) {
        jobs[i] = NULL;
    }
    while (queued < count) {
        maasq_spec spec = {.size = 0};
        memcpy(&spec.size, at, sizeof spec.size);
        size_t size = spec.size;
        memcpy(&spec, at, mq_min_size(size, sizeof spec));
        jobs[queued] = mq_client_submit_near(client, &spec, NULL, done, arg, &why);
        if (jobs[queued] == NULL) {
            (void)mq_client_fail(err, why.code, "specs[%zu]: %s", queued, why.text);
            break;
        }
        queued++;
        at += size;
    }
    return queued;
}

maasq_job *maasq_open(maasq_client *primary, const char *id, maasq_done_fn *done, void *arg,
                      maasq_error *err)
{
    mq_error why = {0};
    if (id == NULL || mq_ulid_ms(mq_str(id)) < 0) {
        (void)mq_client_fail(err, MQ_E_ARG, "id: '%.40s' is not a job id, a ULID of 26 letters",
                             id == NULL ? "" : id);
        return NULL;
    }
    maasq_job *job = new_job(primary, done, arg, &why);
    if (job != NULL) {
        (void)mq_span_copy(mq_str(id), job->id, sizeof job->id);
        job->state = "asked";
        if (enter(primary, job, false, true, &why) != MQ_OK) {
            free(job);
            job = NULL;
        }
    }
    if (job == NULL) {
        (void)mq_client_error(err, &why);
    }
    return job;
}

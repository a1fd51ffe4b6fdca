/* A job's host without a broker; see local_host.h. Holds what a job gives until it has succeeded,
 * then puts it into the directory: the same all-or-nothing as a broker's commit. */
#include "worker/slot/local_host.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"
#include "shared/base/ulid.h"
#include "worker/kinds/kind.h"
#include "worker/slot/local_registry.h"
#include "worker/slot/outcome.h"

enum { CHECKPOINT_META_MAX = 4096, DEPTH_MAX = 16 };

typedef struct stored_checkpoint {
    char job_id[MQ_ULID_SIZE];
    uint64_t step;
    char blob[MQ_SHA256_HEX], chain[MQ_SHA256_HEX];
    mq_buf meta;
} stored_checkpoint;

struct mq_local_host {
    char dir[512];
    uint32_t jobs_run;            /* in this call of run */
    stored_checkpoint checkpoint; /* of the gang job that ran last */
};

/* One job while it runs. */
typedef struct local_run {
    mq_host base; /* first member: the job kind's view */
    mq_local_host *owner;
    const mq_local_job *job;
    bool is_gang;
    char job_id[MQ_ULID_SIZE], model[300], model_blob[MQ_SHA256_HEX];
    mq_outcome outcome;
} local_run;

static const mq_host_ops ops;
static mq_code run_job(mq_local_host *owner, const mq_local_job *job, uint32_t depth,
                       mq_buf *result, mq_error *err);

mq_code mq_local_host_new(mq_local_host **out, const char *dir, mq_error *err)
{
    *out = NULL;
    mq_code code = mq_dir_make(dir, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_local_host *owner = calloc(1, sizeof *owner);
    if (owner == NULL || strlen(dir) >= sizeof owner->dir) {
        free(owner);
        return mq_fail(err, MQ_E_LIMIT, "%s: no memory, or longer than 511 bytes", dir);
    }
    snprintf(owner->dir, sizeof owner->dir, "%s", dir);
    mq_buf_init(&owner->checkpoint.meta, CHECKPOINT_META_MAX);
    *out = owner;
    return MQ_OK;
}

void mq_local_host_free(mq_local_host *owner)
{
    if (owner != NULL) {
        mq_buf_release(&owner->checkpoint.meta);
        free(owner);
    }
}

mq_code mq_local_host_put(mq_local_host *owner, mq_span bytes, char hash[MQ_SHA256_HEX],
                          mq_error *err)
{
    return mq_local_blob_put(owner->dir, bytes, hash, err);
}

mq_code mq_local_host_query(mq_local_host *owner, const char *what, const char *name, mq_buf *json,
                            mq_error *err)
{
    return mq_local_query(owner->dir, what, name, json, err);
}

mq_code mq_local_host_alias(mq_local_host *owner, const char *model, const char *alias,
                            uint64_t version, mq_error *err)
{
    return mq_local_alias(owner->dir, model, alias, version, err);
}

mq_code mq_local_host_blob(mq_local_host *owner, const char *hash, mq_map_file *out, mq_error *err)
{
    return mq_local_blob_open(owner->dir, hash, out, err);
}

mq_code mq_local_host_run(mq_local_host *owner, const mq_local_job *job, mq_buf *result,
                          mq_error *err)
{
    owner->jobs_run = 0;
    return run_job(owner, job, 0, result, err);
}

/* --- what a job may ask --- */

static local_run *run_of(mq_host *host)
{
    return (local_run *)host;
}

static mq_code blob_open(mq_host *host, const char *hash, mq_map_file *out, mq_error *err)
{
    return mq_local_blob_open(run_of(host)->owner->dir, hash, out, err);
}

static mq_code blob_put(mq_host *host, mq_span bytes, char hash[MQ_SHA256_HEX], mq_error *err)
{
    return mq_local_blob_put(run_of(host)->owner->dir, bytes, hash, err);
}

static mq_code query(mq_host *host, const char *what, const char *name, mq_buf *json, mq_error *err)
{
    return mq_local_query(run_of(host)->owner->dir, what, name, json, err);
}

static void progress(mq_host *host, mq_span json)
{
    const mq_local_job *job = run_of(host)->job;
    MQ_ASSERT(json.len <= 4096);
    if (job->progress != NULL) {
        job->progress(job->arg, json);
    }
}

static void log_line(mq_host *host, mq_span text)
{
    const mq_local_job *job = run_of(host)->job;
    if (job->log != NULL) {
        job->log(job->arg, text);
    }
}

static mq_code check(mq_host *host, mq_error *err)
{
    const mq_local_job *job = run_of(host)->job;
    return job->is_cancelled != NULL && job->is_cancelled(job->arg)
               ? mq_fail(err, MQ_E_CANCELLED, "cancelled by request")
               : MQ_OK;
}

static mq_code give_result(mq_host *host, mq_span bytes, mq_error *err)
{
    return mq_outcome_result(&run_of(host)->outcome, bytes, err);
}

static mq_code give_publish(mq_host *host, const mq_publish *publish, mq_error *err)
{
    for (uint32_t i = 0; i < publish->blob_count; i++) {
        mq_map_file file;
        mq_code code = mq_local_blob_open(run_of(host)->owner->dir, publish->blobs[i], &file, err);
        if (code != MQ_OK) {
            return mq_wrap(err, "publish %s", publish->name);
        }
        mq_map_file_release(&file);
    }
    return mq_outcome_publish(&run_of(host)->outcome, publish, err);
}

static mq_code give_spawn(mq_host *host, const mq_spawn *spawn, mq_error *err)
{
    return mq_outcome_spawn(&run_of(host)->outcome, spawn, err);
}

/* --- a gang of one --- */

static void roster(mq_host *host, mq_roster *out)
{
    *out = (mq_roster){0};
    if (run_of(host)->is_gang) {
        *out = (mq_roster){.epoch = 1, .count = 1, .members = {{.seat = 0, .is_same_host = true}}};
    }
}

static mq_code roster_wait(mq_host *host, uint64_t after, int64_t timeout_ms, mq_roster *out,
                           mq_error *err)
{
    roster(host, out);
    if (out->epoch > after) {
        return MQ_OK;
    }
    mq_clock_sleep_ms(timeout_ms);
    return mq_fail(err, MQ_E_TIMEOUT, "the roster of a local job never changes");
}

static void report_lost(mq_host *host, uint64_t epoch, uint32_t seat)
{
    (void)host, (void)epoch, (void)seat;
}

static mq_code segment(mq_host *host, uint64_t epoch, size_t bytes, int64_t timeout_ms, void **out,
                       mq_error *err)
{
    (void)host, (void)epoch, (void)timeout_ms;
    *out = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return *out == MAP_FAILED ? mq_fail(err, MQ_E_LIMIT, "segment of %zu bytes: no memory", bytes)
                              : MQ_OK;
}

static void segment_release(mq_host *host, void *at, size_t bytes)
{
    (void)host;
    munmap(at, bytes);
}

static bool is_broken(mq_host *host, uint64_t epoch)
{
    (void)host;
    return epoch != 1;
}

static mq_code gang_send(mq_host *host, uint64_t epoch, uint32_t to_seat, uint32_t tag,
                         mq_span bytes, mq_error *err)
{
    (void)host, (void)epoch, (void)tag, (void)bytes;
    return mq_fail(err, MQ_E_ARG, "seat %u: a local gang has only seat 0", to_seat);
}

static mq_code gang_recv(mq_host *host, uint64_t epoch, int64_t timeout_ms, mq_gang_message *out,
                         mq_error *err)
{
    (void)host, (void)epoch;
    *out = (mq_gang_message){0};
    mq_clock_sleep_ms(timeout_ms);
    return mq_fail(err, MQ_E_TIMEOUT, "a local gang has nobody to send");
}

static mq_code checkpoint(mq_host *host, uint64_t epoch, uint64_t step, const char *chain,
                          const char *blob, mq_span meta, mq_error *err)
{
    local_run *run = run_of(host);
    stored_checkpoint *c = &run->owner->checkpoint;
    if (epoch != 1 || step <= c->step) {
        return mq_fail(err, MQ_E_STALE, "checkpoint of step %llu after step %llu",
                       (unsigned long long)step, (unsigned long long)c->step);
    }
    mq_buf_reset(&c->meta);
    if (!mq_buf_add_span(&c->meta, meta)) {
        return mq_fail(err, MQ_E_LIMIT, "checkpoint meta: more than %d bytes", CHECKPOINT_META_MAX);
    }
    snprintf(c->job_id, sizeof c->job_id, "%s", run->job_id);
    snprintf(c->blob, sizeof c->blob, "%s", blob);
    snprintf(c->chain, sizeof c->chain, "%s", chain);
    c->step = step;
    return MQ_OK;
}

static uint64_t checkpointed(mq_host *host)
{
    return run_of(host)->owner->checkpoint.step;
}

static const mq_host_ops ops = {
    .blob_open = blob_open,
    .blob_put = blob_put,
    .query = query,
    .progress = progress,
    .log = log_line,
    .check = check,
    .result = give_result,
    .publish = give_publish,
    .spawn = give_spawn,
    .roster = roster,
    .roster_wait = roster_wait,
    .report_lost = report_lost,
    .segment = segment,
    .segment_release = segment_release,
    .is_broken = is_broken,
    .gang_send = gang_send,
    .gang_recv = gang_recv,
    .checkpoint = checkpoint,
    .checkpointed = checkpointed,
};

/* --- running --- */

static bool is_gang_kind(const char *kind)
{
#define MQ_KIND(symbol, name, gang, transient, run_ms, attempts, body_bytes)                       \
    if (strcmp(kind, name) == 0) {                                                                 \
        return gang != 0;                                                                          \
    }
#include "shared/job/kinds.def"
#undef MQ_KIND
    return false;
}

/* Fills in the job's model as the broker would: resolved name and blob. */
static mq_code resolve_model(local_run *run, mq_error *err)
{
    mq_buf answer;
    json_t *root = NULL;
    json_int_t version = 0;
    const char *blob = NULL, *name = run->job->model;
    if (name == NULL || name[0] == '\0') {
        return MQ_OK;
    }
    mq_buf_init(&answer, MQ_LOCAL_META_BYTES_MAX);
    mq_code code = mq_local_query(run->owner->dir, "model", name, &answer, err);
    if (code == MQ_OK) {
        root = json_loadb((const char *)answer.data, answer.len, JSON_REJECT_DUPLICATES, NULL);
        if (root == NULL ||
            json_unpack(root, "{s:I,s:{s:s}}", "version", &version, "meta", "blob", &blob) != 0) {
            code = mq_fail(err, MQ_E_CORRUPT, "model %s: its record lacks version or blob", name);
        } else {
            snprintf(run->model, sizeof run->model, "%.*s@%lld", (int)strcspn(name, "@"), name,
                     (long long)version);
            snprintf(run->model_blob, sizeof run->model_blob, "%s", blob);
        }
    }
    json_decref(root);
    mq_buf_release(&answer);
    return code;
}

static void prepare(local_run *run, mq_local_host *owner, const mq_local_job *job)
{
    stored_checkpoint *c = &owner->checkpoint;
    run->owner = owner;
    run->job = job;
    run->is_gang = is_gang_kind(job->kind);
    if (job->id == NULL) {
        mq_ulid_new(run->job_id);
    } else {
        snprintf(run->job_id, sizeof run->job_id, "%s", job->id);
    }
    if (strcmp(c->job_id, run->job_id) != 0) {
        c->step = 0;
        c->blob[0] = c->chain[0] = c->job_id[0] = '\0';
        mq_buf_reset(&c->meta);
    }
    mq_outcome_init(&run->outcome);
    run->base = (mq_host){
        .ops = &ops,
        .job_id = run->job_id,
        .kind = job->kind,
        .attempt = job->attempt == 0 ? 1 : job->attempt,
        .body = job->body,
        .model = run->model,
        .model_blob = run->model_blob,
        .checkpoint_meta = mq_buf_span(&c->meta),
        .checkpoint_blob = c->blob,
        .checkpoint_chain = c->chain,
        .checkpoint_step = c->step,
        .memory_bytes_max = job->memory_bytes_max,
    };
}

/* Stores what the job published, then runs its children. */
static mq_code commit(const local_run *run, uint32_t depth, mq_error *err)
{
    const mq_outcome *o = &run->outcome;
    mq_code code = MQ_OK;
    for (uint32_t i = 0; i < o->publish_count && code == MQ_OK; i++) {
        const mq_publish *p = &o->publish[i];
        code = mq_local_publish(run->owner->dir, p->type, p->name, p->meta, err);
    }
    for (uint32_t i = 0; i < o->spawn_count && code == MQ_OK; i++) {
        mq_local_job child = *run->job;
        child.kind = o->spawn[i].kind;
        child.model = o->spawn[i].model;
        child.body = o->spawn[i].body;
        child.id = NULL;
        child.attempt = 1;
        mq_buf ignored;
        mq_buf_init(&ignored, MQ_RESULT_BYTES_MAX);
        code = run_job(run->owner, &child, depth + 1, &ignored, err);
        mq_buf_release(&ignored);
        if (code != MQ_OK) {
            return mq_wrap(err, "child %u (%s)", i + 1, child.kind);
        }
    }
    return code;
}

static mq_code run_job(mq_local_host *owner, const mq_local_job *job, uint32_t depth,
                       mq_buf *result, mq_error *err)
{
    const mq_kind *kind = mq_kind_find(mq_str(job->kind));
    if (kind == NULL) {
        return mq_fail(err, MQ_E_NOT_FOUND, "job kind \"%.64s\" is not known", job->kind);
    }
    if (depth > DEPTH_MAX || owner->jobs_run++ >= MQ_LOCAL_JOBS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "more than %d children, or %d generations of them",
                       MQ_LOCAL_JOBS_MAX, DEPTH_MAX);
    }
    local_run *run = calloc(1, sizeof *run);
    if (run == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory");
    }
    prepare(run, owner, job);
    mq_code code = resolve_model(run, err);
    if (code == MQ_OK) {
        code = kind->run(&run->base, err);
    }
    if (code == MQ_OK && !mq_buf_add_span(result, mq_buf_span(&run->outcome.result))) {
        code = mq_fail(err, MQ_E_LIMIT, "result: %zu bytes", run->outcome.result.len);
    }
    if (code == MQ_OK) {
        code = commit(run, depth, err);
    }
    mq_outcome_release(&run->outcome);
    free(run);
    return code;
}

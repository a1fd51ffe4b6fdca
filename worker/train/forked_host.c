/* The child of a forked gang: mq_host over memory that all members share; see forked_gang.h. Every
 * call is counted, so that a member can be made to die at any one of them. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"
#include "worker/train/forked_gang.h"

#define BLOB_BYTES_MAX ((size_t)4 << 30)
enum { PAGE = 4096 };

typedef struct ring_head {
    uint64_t epoch;
    uint32_t tag, len;
} ring_head;

typedef struct forked_host {
    mq_host base;
    mq_forked_gang *gang;
    mq_forked_shared *shared;
    mq_forked_seat *self;
    uint32_t seat;
    uint32_t next_from; /* seat to look at first */
    bool is_loud;
    mq_forked_checkpoint checkpoint; /* at start */
    uint8_t message[MQ_GANG_PIECE_MAX];
} forked_host;

static forked_host *host_of(mq_host *base)
{
    forked_host *h = (forked_host *)base;
    uint64_t calls = atomic_fetch_add(&h->self->calls, 1) + 1;
    if (calls == atomic_load(&h->self->kill_at)) {
        (void)raise(SIGKILL);
    }
    return h;
}

static void nap(void)
{
    struct timespec some = {0, 50000};
    (void)nanosleep(&some, NULL);
}

/* --- blobs and registry --- */

static mq_code blob_open(mq_host *base, const char *hash, mq_map_file *out, mq_error *err)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", host_of(base)->gang->dir, hash);
    return mq_map_file_open(out, path, BLOB_BYTES_MAX, err);
}

static mq_code blob_put(mq_host *base, mq_span bytes, char hash[MQ_SHA256_HEX], mq_error *err)
{
    return mq_forked_gang_put(host_of(base)->gang, bytes, hash, err);
}

static mq_code query(mq_host *base, const char *what, const char *name, mq_buf *json, mq_error *err)
{
    const mq_forked_gang *g = host_of(base)->gang;
    for (uint32_t i = 0; i < g->answer_count; i++) {
        if (strcmp(g->answers[i].what, what) == 0 && strcmp(g->answers[i].name, name) == 0) {
            return mq_buf_add_str(json, g->answers[i].json)
                       ? MQ_OK
                       : mq_fail(err, MQ_E_LIMIT, "answer too long");
        }
    }
    return mq_fail(err, MQ_E_NOT_FOUND, "%s %s: no such thing", what, name);
}

/* --- the job --- */

static void progress(mq_host *base, mq_span json)
{
    forked_host *h = host_of(base);
    (void)mq_span_copy(json, h->self->progress, sizeof h->self->progress);
    h->self->progress_count++;
}

static void log_line(mq_host *base, mq_span text)
{
    forked_host *h = host_of(base);
    if (h->is_loud) {
        (void)fprintf(stderr, "seat %u: %.*s\n", h->seat, MQ_SPAN_ARG(text));
    }
}

static mq_code check(mq_host *base, mq_error *err)
{
    return atomic_load(&host_of(base)->shared->is_over) != 0
               ? mq_fail(err, MQ_E_CANCELLED, "the job is over")
               : MQ_OK;
}

static mq_code result(mq_host *base, mq_span bytes, mq_error *err)
{
    forked_host *h = host_of(base);
    return mq_span_copy(bytes, h->self->result, sizeof h->self->result)
               ? MQ_OK
               : mq_fail(err, MQ_E_LIMIT, "result: more than %d bytes", MQ_FORKED_TEXT_MAX);
}

static mq_code publish(mq_host *base, const mq_publish *p, mq_error *err)
{
    forked_host *h = host_of(base);
    size_t at = strlen(h->self->published), room = sizeof h->self->published - at;
    int len = snprintf(h->self->published + at, room, "%s %s %.*s\n", p->type, p->name,
                       MQ_SPAN_ARG(p->meta));
    return len > 0 && (size_t)len < room
               ? MQ_OK
               : mq_fail(err, MQ_E_LIMIT, "publish: more than %d bytes", MQ_FORKED_TEXT_MAX);
}

static mq_code spawn(mq_host *base, const mq_spawn *s, mq_error *err)
{
    (void)host_of(base);
    return mq_fail(err, MQ_E_UNSUPPORTED, "spawn of %s: a forked gang runs one job", s->kind);
}

/* --- rosters --- */

static void roster_of(forked_host *h, uint64_t epoch, mq_roster *out)
{
    const mq_forked_roster *r = &h->shared->rosters[epoch];
    *out = (mq_roster){.epoch = epoch, .count = r->count};
    for (uint32_t i = 0; i < r->count; i++) {
        out->members[i] = (mq_gang_member){r->seats[i], !h->gang->job.is_spread};
        out->self = r->seats[i] == h->seat ? i : out->self;
    }
}

static void roster(mq_host *base, mq_roster *out)
{
    forked_host *h = host_of(base);
    roster_of(h, atomic_load(&h->shared->epoch), out);
}

static mq_code roster_wait(mq_host *base, uint64_t after, int64_t timeout_ms, mq_roster *out,
                           mq_error *err)
{
    forked_host *h = host_of(base);
    int64_t until_ms = mq_clock_mono_ms() + timeout_ms;
    while (atomic_load(&h->shared->epoch) <= after) {
        if (mq_clock_mono_ms() >= until_ms) {
            return mq_fail(err, MQ_E_TIMEOUT, "no roster after %llu", (unsigned long long)after);
        }
        nap();
    }
    roster_of(h, atomic_load(&h->shared->epoch), out);
    return MQ_OK;
}

static void report_lost(mq_host *base, uint64_t epoch, uint32_t seat)
{
    forked_host *h = host_of(base);
    if (epoch == atomic_load(&h->shared->epoch)) {
        atomic_fetch_or(&h->shared->lost_seats, 1U << seat);
    }
}

static bool is_broken_now(const forked_host *h, uint64_t epoch)
{
    uint32_t dead = atomic_load(&h->shared->broken_seats);
    const mq_forked_roster *r = &h->shared->rosters[epoch];
    bool is_dead = atomic_load(&h->shared->epoch) != epoch;
    for (uint32_t i = 0; i < r->count; i++) {
        is_dead = is_dead || (dead >> r->seats[i] & 1) != 0;
    }
    return is_dead;
}

static bool is_broken(mq_host *base, uint64_t epoch)
{
    return is_broken_now(host_of(base), epoch);
}

static mq_code stale(uint64_t epoch, mq_error *err)
{
    return mq_fail(err, MQ_E_STALE, "roster %llu is over", (unsigned long long)epoch);
}

static mq_code segment(mq_host *base, uint64_t epoch, size_t bytes, int64_t timeout_ms, void **out,
                       mq_error *err)
{
    forked_host *h = host_of(base);
    mq_forked_roster *r = &h->shared->rosters[epoch];
    int64_t until_ms = mq_clock_mono_ms() + timeout_ms;
    if (r->seats[0] == h->seat) {
        size_t at = atomic_fetch_add(&h->shared->pool_used, mq_align_up(bytes, PAGE));
        if (at + bytes > MQ_FORKED_POOL_BYTES) {
            return mq_fail(err, MQ_E_LIMIT, "segments of more than %zu bytes",
                           MQ_FORKED_POOL_BYTES);
        }
        atomic_store(&r->segment, at + 1);
    }
    while (atomic_load(&r->segment) == 0) {
        if (is_broken_now(h, epoch)) {
            return stale(epoch, err);
        }
        if (mq_clock_mono_ms() >= until_ms) {
            return mq_fail(err, MQ_E_TIMEOUT, "seat %u made no segment", r->seats[0]);
        }
        nap();
    }
    *out = h->gang->pool + atomic_load(&r->segment) - 1;
    return MQ_OK;
}

static void segment_release(mq_host *base, void *at, size_t bytes)
{
    (void)host_of(base);
    (void)at; /* the pool goes with the job */
    (void)bytes;
}

/* --- messages --- */

static void ring_copy(mq_forked_ring *ring, uint64_t at, void *bytes, size_t len, bool is_write)
{
    uint8_t *p = bytes;
    while (len > 0) {
        size_t offset = (size_t)(at % MQ_FORKED_RING_BYTES);
        size_t n = mq_min_size(len, MQ_FORKED_RING_BYTES - offset);
        if (is_write) {
            memcpy(ring->bytes + offset, p, n);
        } else {
            memcpy(p, ring->bytes + offset, n);
        }
        p += n;
        at += n;
        len -= n;
    }
}

static mq_code gang_send(mq_host *base, uint64_t epoch, uint32_t to_seat, uint32_t tag,
                         mq_span bytes, mq_error *err)
{
    forked_host *h = host_of(base);
    mq_forked_ring *ring = &h->shared->rings[h->seat][to_seat];
    ring_head head = {epoch, tag, (uint32_t)bytes.len};
    MQ_ASSERT(bytes.len <= MQ_GANG_PIECE_MAX);
    uint64_t at = atomic_load(&ring->written), need = sizeof head + bytes.len;
    while (MQ_FORKED_RING_BYTES - (at - atomic_load(&ring->read)) < need) {
        if (is_broken_now(h, epoch)) {
            return stale(epoch, err);
        }
        nap();
    }
    ring_copy(ring, at, &head, sizeof head, true);
    ring_copy(ring, at + sizeof head, (void *)(uintptr_t)bytes.data, bytes.len, true);
    atomic_store(&ring->written, at + need);
    return is_broken_now(h, epoch) ? stale(epoch, err) : MQ_OK;
}

/* Takes one message of the epoch from any ring; older ones are dropped on the way. */
static bool take_message(forked_host *h, uint64_t epoch, mq_gang_message *out)
{
    for (uint32_t i = 0; i < MQ_FORKED_SEATS_MAX; i++) {
        uint32_t from = (h->next_from + i) % MQ_FORKED_SEATS_MAX;
        mq_forked_ring *ring = &h->shared->rings[from][h->seat];
        uint64_t at = atomic_load(&ring->read);
        while (at < atomic_load(&ring->written)) {
            ring_head head;
            ring_copy(ring, at, &head, sizeof head, false);
            if (head.epoch > epoch) {
                break;
            }
            ring_copy(ring, at + sizeof head, h->message, head.len, false);
            at += sizeof head + head.len;
            atomic_store(&ring->read, at);
            if (head.epoch == epoch) {
                h->next_from = from + 1;
                *out = (mq_gang_message){from, epoch, head.tag, {h->message, head.len}};
                return true;
            }
        }
    }
    return false;
}

static mq_code gang_recv(mq_host *base, uint64_t epoch, int64_t timeout_ms, mq_gang_message *out,
                         mq_error *err)
{
    forked_host *h = host_of(base);
    int64_t until_ms = mq_clock_mono_ms() + timeout_ms;
    for (int turn = 0;; turn++) {
        if (is_broken_now(h, epoch)) {
            return stale(epoch, err);
        }
        if (take_message(h, epoch, out)) {
            return MQ_OK;
        }
        if (mq_clock_mono_ms() >= until_ms) {
            return mq_fail(err, MQ_E_TIMEOUT, "no message within %lld ms", (long long)timeout_ms);
        }
        if (turn < 50) {
            (void)sched_yield();
        } else {
            nap();
        }
    }
}

/* --- checkpoints --- */

static mq_code checkpoint(mq_host *base, uint64_t epoch, uint64_t step, const char *chain,
                          const char *blob, mq_span meta, mq_error *err)
{
    forked_host *h = host_of(base);
    uint32_t at = atomic_load(&h->shared->checkpoint);
    if (epoch != atomic_load(&h->shared->epoch)) {
        return stale(epoch, err);
    }
    if (at < 2 && h->shared->checkpoints[at].step >= step) {
        return MQ_OK;
    }
    uint32_t next = at == 0 ? 1 : 0;
    mq_forked_checkpoint *c = &h->shared->checkpoints[next];
    c->step = step;
    (void)mq_span_copy(mq_str(chain), c->chain, sizeof c->chain);
    (void)mq_span_copy(mq_str(blob), c->blob, sizeof c->blob);
    (void)mq_span_copy(meta, c->meta, sizeof c->meta);
    atomic_store(&h->shared->checkpoint, next);
    return MQ_OK;
}

static uint64_t checkpointed(mq_host *base)
{
    forked_host *h = host_of(base);
    uint32_t at = atomic_load(&h->shared->checkpoint);
    return at < 2 ? h->shared->checkpoints[at].step : 0;
}

static const mq_host_ops ops = {
    .blob_open = blob_open,
    .blob_put = blob_put,
    .query = query,
    .progress = progress,
    .log = log_line,
    .check = check,
    .result = result,
    .publish = publish,
    .spawn = spawn,
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

static void set_facts(forked_host *h)
{
    const mq_forked_job *job = &h->gang->job;
    uint32_t at = atomic_load(&h->shared->checkpoint);
    if (at < 2) {
        h->checkpoint = h->shared->checkpoints[at];
    }
    h->base = (mq_host){
        .ops = &ops,
        .job_id = "01FORKED0000000000000000AA",
        .kind = "train",
        .attempt = 1,
        .body = job->body,
        .model = job->model != NULL ? job->model : "",
        .model_blob = job->model_blob != NULL ? job->model_blob : "",
        .checkpoint_meta = mq_str(h->checkpoint.meta),
        .checkpoint_blob = h->checkpoint.blob,
        .checkpoint_chain = h->checkpoint.chain,
        .checkpoint_step = h->checkpoint.step,
        .memory_bytes_max = job->memory_bytes_max,
    };
}

void mq_forked_host_run(mq_forked_gang *gang, uint32_t seat)
{
    static forked_host h;
    mq_error err = {MQ_OK, ""};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    h = (forked_host){.gang = gang,
                      .shared = gang->shared,
                      .self = &gang->shared->seats[seat],
                      .seat = seat,
                      .is_loud = getenv("MAASQ_TRAIN_LOG") != NULL};
    /* The roster that names this seat may be a moment away. */
    mq_roster now;
    do {
        roster_of(&h, atomic_load(&h.shared->epoch), &now);
    } while (now.members[now.self].seat != seat);
    set_facts(&h);
    mq_code code = gang->job.run(&h.base, &err);
    h.self->code = code;
    (void)mq_span_copy(mq_str(code == MQ_OK ? "" : err.text), h.self->error, sizeof h.self->error);
    atomic_store(&h.self->is_done, 1);
    _exit(0);
}

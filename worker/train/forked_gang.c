/* The parent of a forked gang: it deals rosters and sees deaths, as a broker would; see
 * forked_gang.h. Knows nothing of training. */
#include "worker/train/forked_gang.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"

mq_code mq_forked_gang_new(mq_forked_gang **out, const char *dir, mq_error *err)
{
    mq_forked_gang *g = calloc(1, sizeof *g);
    *out = g;
    if (g == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a gang");
    }
    g->dir = dir;
    return MQ_OK;
}

static void drop_shared(mq_forked_gang *g)
{
    if (g->shared != NULL) {
        munmap(g->shared, sizeof *g->shared);
        munmap(g->pool, MQ_FORKED_POOL_BYTES);
    }
    g->shared = NULL;
    g->pool = NULL;
}

static void kill_all(mq_forked_gang *g)
{
    for (uint32_t s = 0; s < g->seat_count; s++) {
        if (g->pids[s] != 0) {
            (void)kill(g->pids[s], SIGKILL);
            (void)waitpid(g->pids[s], NULL, 0);
            g->pids[s] = 0;
        }
    }
}

void mq_forked_gang_free(mq_forked_gang *g)
{
    if (g == NULL) {
        return;
    }
    kill_all(g);
    drop_shared(g);
    for (uint32_t i = 0; i < g->answer_count; i++) {
        free(g->answers[i].what);
        free(g->answers[i].name);
        free(g->answers[i].json);
    }
    free(g);
}

mq_code mq_forked_gang_put(mq_forked_gang *g, mq_span bytes, char hash[MQ_SHA256_HEX],
                           mq_error *err)
{
    char path[512], fresh[560];
    mq_sha256_hex_of(bytes, hash);
    (void)snprintf(path, sizeof path, "%s/%s", g->dir, hash);
    (void)snprintf(fresh, sizeof fresh, "%s.%d", path, (int)getpid());
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return mq_fail(err, MQ_E_IO, "%s: %s", fresh, strerror(errno));
    }
    mq_code code = mq_fd_write(fd, bytes, err);
    close(fd);
    if (code == MQ_OK && rename(fresh, path) != 0) {
        code = mq_fail(err, MQ_E_IO, "%s: %s", path, strerror(errno));
    }
    return code;
}

void mq_forked_gang_answer(mq_forked_gang *g, const char *what, const char *name, const char *json)
{
    uint32_t i = 0;
    while (i < g->answer_count &&
           (strcmp(g->answers[i].what, what) != 0 || strcmp(g->answers[i].name, name) != 0)) {
        i++;
    }
    MQ_ASSERT(i < MQ_FORKED_ANSWERS_MAX);
    mq_forked_answer *a = &g->answers[i];
    if (i == g->answer_count) {
        g->answer_count++;
    } else {
        free(a->what);
        free(a->name);
        free(a->json);
    }
    *a = (mq_forked_answer){strdup(what), strdup(name), strdup(json)};
    MQ_ASSERT(a->what != NULL && a->name != NULL && a->json != NULL);
}

void mq_forked_gang_kill_at(mq_forked_gang *g, uint32_t seat, uint64_t call)
{
    MQ_ASSERT(seat < MQ_FORKED_SEATS_MAX);
    g->kill_at[seat] = call;
    if (g->shared != NULL) {
        atomic_store(&g->shared->seats[seat].kill_at, call);
    }
}

uint64_t mq_forked_gang_calls(const mq_forked_gang *g, uint32_t seat)
{
    return atomic_load(&g->shared->seats[seat].calls);
}

/* A new roster of all living seats; `also` (or UINT32_MAX) is about to be forked. */
static void deal(mq_forked_gang *g, uint32_t also)
{
    uint64_t epoch = atomic_load(&g->shared->epoch) + 1;
    MQ_ASSERT(epoch < MQ_FORKED_EPOCHS_MAX);
    mq_forked_roster *r = &g->shared->rosters[epoch];
    r->count = 0;
    for (uint32_t s = 0; s < g->seat_count; s++) {
        if (g->pids[s] != 0 || s == also) {
            r->seats[r->count++] = s;
        }
    }
    atomic_store(&g->shared->epoch, epoch);
}

static mq_code fork_seat(mq_forked_gang *g, uint32_t seat, mq_error *err)
{
    atomic_store(&g->shared->seats[seat].kill_at, g->kill_at[seat]);
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        return mq_fail(err, MQ_E_IO, "fork: %s", strerror(errno));
    }
    if (pid == 0) {
        mq_forked_host_run(g, seat);
    }
    g->pids[seat] = (int)pid;
    return MQ_OK;
}

static void *map_shared(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
                    -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

mq_code mq_forked_gang_start(mq_forked_gang *g, const mq_forked_job *job, uint32_t count,
                             mq_error *err)
{
    MQ_ASSERT(g->shared == NULL);
    MQ_ASSERT(count >= 1 && count <= MQ_FORKED_SEATS_MAX);
    g->shared = map_shared(sizeof *g->shared);
    g->pool = map_shared(MQ_FORKED_POOL_BYTES);
    if (g->shared == NULL || g->pool == NULL) {
        return mq_fail(err, MQ_E_IO, "mmap: %s", strerror(errno));
    }
    g->job = *job;
    g->seat_count = count;
    g->deaths = 0;
    g->crashes = 0;
    g->winner = UINT32_MAX;
    atomic_store(&g->shared->checkpoint, 2);
    if (job->keep_checkpoint && g->before.step > 0) {
        g->shared->checkpoints[0] = g->before;
        atomic_store(&g->shared->checkpoint, 0);
    }
    for (uint32_t s = 0; s < count; s++) {
        g->pids[s] = -1; /* about to be */
    }
    deal(g, UINT32_MAX);
    mq_code code = MQ_OK;
    for (uint32_t s = 0; s < count; s++) {
        g->pids[s] = 0;
        code = code != MQ_OK ? code : fork_seat(g, s, err);
    }
    return code;
}

mq_code mq_forked_gang_join(mq_forked_gang *g, mq_error *err)
{
    if (g->seat_count == MQ_FORKED_SEATS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "all %d seats are used", MQ_FORKED_SEATS_MAX);
    }
    uint32_t seat = g->seat_count++;
    mq_code code = fork_seat(g, seat, err);
    if (code == MQ_OK) {
        deal(g, UINT32_MAX);
    }
    return code;
}

void mq_forked_gang_kill(mq_forked_gang *g, uint32_t seat)
{
    if (seat < g->seat_count && g->pids[seat] > 0) {
        (void)kill(g->pids[seat], SIGKILL);
    }
}

void mq_forked_gang_stop(mq_forked_gang *g, uint32_t seat)
{
    if (seat < g->seat_count && g->pids[seat] > 0) {
        (void)kill(g->pids[seat], SIGSTOP);
    }
}

void mq_forked_gang_go_on(mq_forked_gang *g, uint32_t seat)
{
    if (seat < g->seat_count && g->pids[seat] > 0) {
        (void)kill(g->pids[seat], SIGCONT);
    }
}

/* A member is gone: finished, failed, told to stop, or dead. */
static void seat_gone(mq_forked_gang *g, uint32_t seat, int status)
{
    mq_forked_seat *s = &g->shared->seats[seat];
    g->pids[seat] = 0;
    if (atomic_load(&s->is_done) != 0) {
        if (s->code != MQ_E_CANCELLED && g->winner == UINT32_MAX) {
            g->winner = seat;
            atomic_store(&g->shared->is_over, 1);
        }
        return;
    }
    g->deaths++;
    g->crashes += !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL;
    atomic_fetch_or(&g->shared->broken_seats, 1U << seat);
    if (atomic_load(&g->shared->is_over) == 0) {
        deal(g, UINT32_MAX);
    }
}

bool mq_forked_gang_turn(mq_forked_gang *g)
{
    bool is_any = false;
    for (uint32_t s = 0; s < g->seat_count; s++) {
        if (g->pids[s] == 0) {
            continue;
        }
        /* A member reported lost that still lives hangs: the broker would end its lease. */
        if ((atomic_load(&g->shared->lost_seats) >> s & 1) != 0) {
            (void)kill(g->pids[s], SIGKILL);
        }
        int status = 0;
        if (waitpid(g->pids[s], &status, WNOHANG) == g->pids[s]) {
            seat_gone(g, s, status);
        }
        is_any = is_any || g->pids[s] != 0;
    }
    return !is_any;
}

static void collect(mq_forked_gang *g, mq_forked_outcome *out)
{
    *out = (mq_forked_outcome){.code = MQ_E_IO, .error = "all members died"};
    out->deaths = g->deaths;
    out->epochs = (uint32_t)atomic_load(&g->shared->epoch);
    uint32_t at = atomic_load(&g->shared->checkpoint);
    g->before = at < 2 ? g->shared->checkpoints[at] : (mq_forked_checkpoint){0};
    out->checkpoint_step = g->before.step;
    memcpy(out->checkpoint_chain, g->before.chain, sizeof out->checkpoint_chain);
    for (uint32_t s = 0; s < g->seat_count; s++) {
        const mq_forked_seat *seat = &g->shared->seats[s];
        out->progress_count += seat->progress_count;
        out->calls[s] = atomic_load(&g->shared->seats[s].calls);
        if (seat->progress_count > 0) {
            memcpy(out->progress, seat->progress, sizeof out->progress);
        }
    }
    if (g->winner != UINT32_MAX) {
        const mq_forked_seat *s = &g->shared->seats[g->winner];
        out->code = s->code;
        memcpy(out->error, s->error, sizeof out->error);
        memcpy(out->result, s->result, sizeof out->result);
        memcpy(out->published, s->published, sizeof out->published);
    }
    if (g->crashes > 0) {
        out->code = MQ_E_INTERNAL;
        (void)snprintf(out->error, sizeof out->error, "%u members crashed", g->crashes);
    }
}

mq_code mq_forked_gang_wait(mq_forked_gang *g, int64_t timeout_ms, mq_forked_outcome *out,
                            mq_error *err)
{
    int64_t until_ms = mq_clock_mono_ms() + timeout_ms;
    mq_code code = MQ_OK;
    while (!mq_forked_gang_turn(g)) {
        if (mq_clock_mono_ms() > until_ms) {
            code = mq_fail(err, MQ_E_TIMEOUT, "the gang did not end within %lld ms",
                           (long long)timeout_ms);
            kill_all(g);
            break;
        }
        mq_clock_sleep_ms(1);
    }
    collect(g, out);
    drop_shared(g);
    memset(g->kill_at, 0, sizeof g->kill_at);
    return code;
}

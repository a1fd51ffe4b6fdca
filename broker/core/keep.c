/* Creates that wait a moment for the end of their job, so that both are one write: a job of a quick
 * kind is sent to a worker at once, and when its result comes within MQ_KEEP_MS, what the store
 * gets is the finished job (is_new) and nothing before it. Its submit is acknowledged by that
 * commit, as ever only after it is stored; a crash before it loses a job that nobody was told of,
 * and whoever submitted it does so again. It must not know what a commit looks like.
 *
 * Kept are only first attempts whose id is surely new, of kinds whose longer runs of late are short
 * and whose jobs did end in time of late. Nothing that another record of the store would name is
 * kept, and nothing that keeps another job out: no parents, no gangs, no firings of recurring jobs,
 * no unique keys, none that are replicated. */
#include "broker/core/state.h"

enum {
    KEEP_RUN_US = 1000, /* longer ones are created at once */
    MISS_COST = 4,      /* of an end that did not come in time, against 1 that did */
    MISSES_MAX = 64,
    MISSES_MANY = 32, /* then only one in PROBE is tried */
    PROBE = 64,
};

static bool is_quick(const mq_core *core, const mq_job *job)
{
    const mq_name *kind = &core->names[job->kind];
    return kind->run_us > 0 && kind->run_us <= KEEP_RUN_US &&
           (kind->keep_misses < MISSES_MANY || job->number % PROBE == 0);
}

static bool is_first(const mq_job *job)
{
    bool is_under_way = job->state == MQ_STATE_LEASED && job->grants == 1 && job->gang == MQ_NONE;
    return job->is_fresh && !job->is_cancelling && job->grants <= 1 &&
           job->attempts + job->crashes + job->lapses == 0 &&
           (is_under_way || (job->state == MQ_STATE_QUEUED && job->in_lane));
}

static bool is_named(const mq_core *core, const mq_job *job)
{
    return job->is_replicated || job->seats_max > 0 || job->cron != 0 || job->unique.at != 0 ||
           job->parents != MQ_NONE || job->children != MQ_NONE || job->deps_len > 0 ||
           core->unresolved_head != MQ_NONE;
}

bool mq_keep(mq_core *core, mq_job *job)
{
    if (job->is_kept) { /* it is still as it has to be, or it goes now */
        bool stays = job->create == MQ_CREATE_NEW && is_first(job) && !is_named(core, job);
        if (!stays) {
            mq_keep_drop(core, job);
        }
        return stays;
    }
    if (job->create != MQ_CREATE_NEW || job->was_kept || core->is_full || !is_first(job) ||
        is_named(core, job) || !is_quick(core, job)) {
        return false;
    }
    uint32_t no = mq_job_no(core, job);
    job->is_kept = job->was_kept = true;
    job->kept_ms = core->now_ms;
    job->kept_next = MQ_NONE;
    job->kept_prev = core->kept_tail;
    *(core->kept_tail == MQ_NONE ? &core->kept_head : &core->jobs[core->kept_tail].kept_next) = no;
    core->kept_tail = no;
    core->stats.kept++;
    return true;
}

void mq_keep_drop(mq_core *core, mq_job *job)
{
    if (!job->is_kept) {
        return;
    }
    job->is_kept = false;
    core->stats.kept--;
    *(job->kept_prev == MQ_NONE ? &core->kept_head : &core->jobs[job->kept_prev].kept_next) =
        job->kept_next;
    *(job->kept_next == MQ_NONE ? &core->kept_tail : &core->jobs[job->kept_next].kept_prev) =
        job->kept_prev;
    uint32_t *misses = &core->names[job->kind].keep_misses;
    if (mq_job_ended(job)) {
        *misses -= *misses > 0;
    } else {
        *misses += *misses < MISSES_MAX ? MISS_COST : 0;
    }
}

void mq_keep_flush(mq_core *core)
{
    while (core->kept_head != MQ_NONE) {
        mq_job *job = mq_job_at(core, core->kept_head);
        mq_keep_drop(core, job);
        mq_job_dirty(core, job);
    }
}

void mq_keep_turn(mq_core *core)
{
    while (core->kept_head != MQ_NONE &&
           core->now_ms - core->jobs[core->kept_head].kept_ms >= MQ_KEEP_MS) {
        mq_job *job = mq_job_at(core, core->kept_head);
        mq_keep_drop(core, job);
        mq_job_dirty(core, job);
    }
}

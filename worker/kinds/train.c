/* Kind "train": trains a model on a dataset, alone or as a member of a gang. Body: see
 * worker/train/manifest.h. Result of the first member: {"name","meta",...}, with the model
 * published as the next version of its name and the run remembered under its manifest's hash. The
 * other members stay until the host says that the job is over (MQ_E_CANCELLED): until then one of
 * them may have to become the first. */
#include <stdlib.h>

#include "shared/base/clock.h"
#include "worker/kinds/kind.h"
#include "worker/train/train.h"

enum {
    ROSTER_WAIT_MS = 50,
    ROSTER_MISSING_MS_MAX = 600000, /* a broken roster without a new one */
    END_WAIT_MS_MAX = 3600000,      /* the first member at its last work */
};

mq_kind_run mq_kind_run_train;

static void current_roster(mq_host *host, mq_roster *out)
{
    host->ops->roster(host, out);
    if (out->epoch == 0 || out->count == 0) {
        *out = (mq_roster){.count = 1};
    }
}

/* Waits for a roster newer than *roster. MQ_E_CANCELLED when the job is over. */
static mq_code next_roster(mq_host *host, mq_roster *roster, int64_t ms_max, mq_error *err)
{
    uint64_t after = roster->epoch;
    int64_t until_ms = mq_clock_mono_ms() + ms_max;
    while (mq_clock_mono_ms() < until_ms) {
        mq_code code = host->ops->check(host, err);
        if (code != MQ_OK) {
            return code;
        }
        code = host->ops->roster_wait(host, after, ROSTER_WAIT_MS, roster, err);
        if (code != MQ_E_TIMEOUT) {
            return code;
        }
    }
    return mq_fail(err, MQ_E_TIMEOUT, "no new roster after %llu within %lld s",
                   (unsigned long long)after, (long long)ms_max / 1000);
}

/* Everything under one roster, up to the last step. */
static mq_code run_roster(mq_trainer *t, const mq_roster *roster, mq_error *err)
{
    uint32_t stages = t->m.stages < roster->count ? t->m.stages : roster->count;
    mq_arena_reset(&t->roster);
    mq_code code = mq_trainer_ready(t, err);
    if (code != MQ_OK) {
        return code;
    }
    if (roster->count == 1) {
        return mq_trainer_run_gang(t, roster, NULL, err);
    }
    mq_link link;
    code = mq_link_init(&link, t->host, roster, &t->roster, err);
    code = code != MQ_OK ? code : mq_trainer_meet(t, &link, err);
    if (code == MQ_OK && roster->self == 0) {
        mq_trainer_log(t, "%u members, from step %llu of %llu", roster->count,
                       (unsigned long long)t->state.record.step, (unsigned long long)t->plan.steps);
    }
    if (code == MQ_OK && stages == 1) {
        code = mq_trainer_run_gang(t, roster, &link, err);
    } else if (code == MQ_OK && roster->self < stages) {
        code = mq_trainer_run_pipeline(t, &link, stages, err);
    }
    mq_link_release(&link);
    return code;
}

static mq_code run(mq_trainer *t, mq_error *err)
{
    mq_host *host = t->host;
    mq_roster roster;
    bool is_found = false;
    current_roster(host, &roster);
    mq_code code = roster.self == 0 ? mq_trainer_reuse(t, &is_found, err) : MQ_OK;
    if (code != MQ_OK || is_found) {
        return code;
    }
    for (;;) {
        code = run_roster(t, &roster, err);
        if (code == MQ_OK && roster.self == 0) {
            return mq_trainer_finish(t, err);
        }
        if (code != MQ_OK && code != MQ_E_STALE) {
            return code;
        }
        code = next_roster(host, &roster, code == MQ_OK ? END_WAIT_MS_MAX : ROSTER_MISSING_MS_MAX,
                           err);
        if (code != MQ_OK) {
            return code;
        }
    }
}

mq_code mq_kind_run_train(mq_host *host, mq_error *err)
{
    mq_trainer *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a trainer");
    }
    mq_code code = mq_trainer_open(t, host, err);
    code = code != MQ_OK ? code : run(t, err);
    mq_trainer_close(t);
    free(t);
    return code;
}

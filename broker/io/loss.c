/* What --adopt gives up: tells how much of what had been acknowledged older data lack. Decides
 * nothing. */
#include <string.h>

#include "broker/io/broker.h"
#include "shared/base/log.h"
#include "shared/base/math.h"

static int64_t submitted_of(const mq_broker *b)
{
    return mq_max_i64(b->counters[0] - b->dups, 0);
}

static int64_t ended_of(const mq_broker *b)
{
    return mq_max_i64(b->counters[2] + b->counters[3] + b->counters[4] + b->counters[5], 0);
}

void mq_loss_count(mq_broker *b)
{
    mq_witness_count(b->witness, b->epoch, (uint64_t)submitted_of(b), (uint64_t)ended_of(b));
}

/* After --adopt: what had been seen and is not there. Counted from the deployment's counters, which
 * every commit writes; the last MQ_WITNESS_WRITE_MS before a kill of the broker are not in it. */
void mq_loss_tell(mq_broker *b)
{
    mq_witness *w = b->witness;
    if (w->left.is_set && strcmp(w->left.instance, w->instance) == 0 &&
        w->left.sequence > b->sequence) {
        int64_t jobs = mq_max_i64((int64_t)w->left.submitted - submitted_of(b), 0);
        int64_t ends = mq_max_i64((int64_t)w->left.ended - ended_of(b), 0);
        mq_log(MQ_WARN, "older data adopted",
               "shard=%lld lost_commits=%llu lost_jobs=%lld lost_ends=%lld epoch=%llu",
               (long long)b->shard, (unsigned long long)(w->left.sequence - b->sequence),
               (long long)jobs, (long long)ends, (unsigned long long)b->epoch);
        mq_answer_news(b, "adopted",
                       "older data adopted: at least %lld jobs are lost, %lld ends are forgotten "
                       "(%llu commits)",
                       (long long)jobs, (long long)ends,
                       (unsigned long long)(w->left.sequence - b->sequence));
    }
    w->left.is_set = false;
    mq_loss_count(b);
}

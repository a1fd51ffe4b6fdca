/* Dead letters that go for good: an operator purges them, or their retention is over. The job comes
 * into memory for the one commit that moves its record to the finished ones, where it stays
 * readable for the retention of results; its request is gone, so it can never be brought back. It
 * must not know who chose them. */
#include "broker/core/state.h"

void mq_discard_found(mq_core *core, const mq_ask *ask, const mq_job_record *r, mq_outputs *out)
{
    mq_span id = mq_span_of(ask->id, MQ_ULID_LEN);
    bool is_dead = r != NULL && mq_state_parse(r->state) == MQ_STATE_DEAD &&
                   (r->flags & MQ_REC_DISCARDED) == 0;
    if (!is_dead || mq_job_find(core, id) != NULL) {
        mq_say_reply(out, ask->conn, ask->rid, "not_found", "", "id: no dead job has it");
        return;
    }
    mq_job *job = mq_wait_room(core, 64) ? mq_job_new(core, id) : NULL;
    if (job == NULL || !mq_recover_apply(core, job, r)) {
        if (job != NULL) {
            mq_job_free(core, job);
        }
        mq_say_reply(out, ask->conn, ask->rid, "busy", "", "the broker's job memory is full");
        return;
    }
    job->create = MQ_CREATE_DISCARD;
    mq_waiter *w = mq_wait_job(core, job, MQ_WAIT_REPLY, ask->conn, ask->rid);
    MQ_ASSERT(w != NULL); /* there was room for 64 */
}

void mq_discard_stored(mq_core *core, mq_job *job, mq_outputs *out)
{
    uint32_t waiters = job->waiters;
    job->waiters = job->waiters_tail = MQ_NONE;
    mq_wait_release(core, waiters, out); /* those that came after the batch had gone */
    if (job->blob_len == MQ_HASH_LEN) {
        mq_span check = mq_pool_span(&core->pool, job->check);
        mq_span hash = mq_span_of(check.data + job->chain_len, MQ_HASH_LEN);
        if (mq_blob_drop(core, hash) == 0) {
            mq_out_add(out, MQ_OUT_UNPIN, 0, 0)->as.hash = hash;
        }
    }
    mq_deps_orphan(core, job); /* a child that had just found it here asks the store */
    mq_job_free(core, job);
}

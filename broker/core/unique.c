/* Keys that at most one live job has at a time. The key is in the job's record, so it is taken and
 * given back with the commits that make and end the job and holds over every takeover; while a
 * shard is still being loaded nobody can tell, and such submits are answered busy. It must not know
 * how jobs run. */
#include "broker/core/state.h"

static bool has_key(const mq_core *core, uint32_t value, const void *key)
{
    const mq_span *text = key;
    return mq_span_eq(mq_pool_span(&core->pool, core->jobs[value].unique), *text);
}

static uint32_t key_hash(const mq_core *core, uint32_t value)
{
    return mq_id_hash(mq_pool_span(&core->pool, core->jobs[value].unique));
}

void mq_unique_init(mq_core *core)
{
    core->unique_index.hash_of = key_hash;
}

mq_job *mq_unique_find(mq_core *core, mq_span key)
{
    uint32_t no = mq_index_find(core, &core->unique_index, mq_id_hash(key), has_key, &key);
    return no == MQ_NONE ? NULL : &core->jobs[no];
}

void mq_unique_hold(mq_core *core, mq_job *job)
{
    if (job->unique.at == 0 || job->holds_key) {
        return;
    }
    MQ_ASSERT(mq_unique_find(core, mq_pool_span(&core->pool, job->unique)) == NULL);
    job->holds_key = true;
    mq_index_put(core, &core->unique_index, mq_job_no(core, job));
}

void mq_unique_drop(mq_core *core, mq_job *job)
{
    if (job->holds_key) {
        job->holds_key = false;
        mq_index_remove(core, &core->unique_index, mq_job_no(core, job));
    }
}

/* What is told of a replicated job must be in its replicas first: until then the submit is sent
 * again, as whatever else is not confirmed yet. Answers that ride on the commit of the job's create
 * come before the job knows that commit's number: no replica has confirmed that one yet. */
static bool may_tell(const mq_core *core, const mq_job *job)
{
    bool is_numbered = job->create == MQ_CREATE_STORED || !job->is_replicated;
    return core->config.replicas == 0 || (is_numbered && mq_replica_has(core, job));
}

static void say(mq_core *core, mq_outputs *out, uint64_t conn, uint64_t rid, mq_span id,
                const mq_job *job)
{
    if (conn != 0 && !may_tell(core, job)) {
        core->stats.refused_busy++;
        mq_say_submitted(out, conn, rid, id, "busy", "",
                         "unique: too few replicas have confirmed the live job with this key; ask "
                         "again",
                         MQ_RETRY_LATER_MS);
    } else if (conn != 0) {
        mq_say_submitted(out, conn, rid, id, "dup", mq_state_name((mq_state)job->state),
                         "unique: a live job has this key", 0);
        out->items[out->count - 1].as.submitted.live = mq_span_of(job->id, MQ_ULID_LEN);
    }
}

void mq_unique_say(mq_core *core, const mq_waiter *w, mq_outputs *out)
{
    say(core, out, w->conn, w->rid, mq_pool_span(&core->pool, w->text), &core->jobs[w->job]);
}

bool mq_unique_answer(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_msg_submit_job *item = in->as.submit;
    mq_job *job = item->unique.len == 0 ? NULL : mq_unique_find(core, item->unique);
    bool is_unknown = item->unique.len > 0 && core->is_loading;
    if (job == NULL && !is_unknown) {
        return false;
    }
    bool is_stored = job != NULL && job->create == MQ_CREATE_STORED && !mq_job_ended(job);
    if (is_stored) {
        say(core, out, in->conn, in->rid, item->id, job);
        return true;
    }
    mq_waiter *w = NULL;
    mq_ref text = {0};
    if (job != NULL && mq_wait_room(core, 4096) && mq_pool_copy(&core->pool, item->id, &text)) {
        w = mq_wait_job(core, job, MQ_WAIT_UNIQUE, in->conn, in->rid);
    }
    if (w != NULL) { /* what it is told of must be stored first */
        w->text = text;
    } else {
        core->stats.refused_busy++;
        mq_say_submitted(out, in->conn, in->rid, item->id, "busy", "",
                         job == NULL ? "unique: the broker is still loading; ask again"
                                     : "too many answers wait for the store",
                         MQ_RETRY_LATER_MS);
    }
    return true;
}

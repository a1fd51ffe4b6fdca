/* The class `replicated`: what is told of such a job waits, behind the commit that stores it, until
 * enough replicas of the store have received that commit. Replicas receive commits in order, so one
 * number says it all: `replicated`, the last commit that enough of them hold. What is not confirmed
 * in time is answered busy: the job stays, and a repeat of its submit under the same id is a dup
 * that waits in its turn. Must not know how replicas are asked. */
#include "broker/core/state.h"

enum {
    RELEASES = 2048, /* answers in one step; the others follow in the next turn */
    ENDS = 512,      /* ends in one step */
};

static const char late_text[] =
    "durability replicated: the job is stored by the primary, but too few replicas have confirmed "
    "it in time; attach one, and submit it again under the same id (it is one job)";

void mq_replica_begin(mq_core *core)
{
    core->stored = core->begun_sequence = core->sequence;
    core->replicated = 0;
    core->is_replica_open = false;
    core->was_replica_open = core->config.replicas == 0;
    core->confirm_head = core->confirm_tail = core->unseen_head = core->unseen_tail = MQ_NONE;
}

bool mq_replica_has(const mq_core *core, const mq_job *job)
{
    return !job->is_replicated || core->config.replicas == 0 ||
           job->stored_sequence <= core->replicated;
}

const char *mq_replica_closed(const mq_core *core)
{
    if (core->config.replicas == 0) {
        return "durability replicated: this deployment's brokers run with --replicas 0; submit the "
               "job as durable";
    }
    return core->is_replica_open
               ? NULL
               : "durability replicated: too few replicas of the store confirm what is written; "
                 "attach one (maasq redis serve --replica-of), or submit the job as durable";
}

/* ---- answers ---- */

static void append(mq_core *core, uint32_t no)
{
    core->waiters[no].next = MQ_NONE;
    if (core->confirm_head == MQ_NONE) {
        core->confirm_head = no;
    } else {
        core->waiters[core->confirm_tail].next = no;
    }
    core->confirm_tail = no;
    core->confirm_count++;
}

/* The waiter no longer points at its job, which may end meanwhile: id and state go with it. */
static void hold(mq_core *core, uint32_t no, const mq_job *job, uint64_t sequence)
{
    mq_waiter *w = &core->waiters[no];
    bool is_hidden = mq_job_ended(job);
    w->job = MQ_NONE;
    w->sequence = sequence;
    w->until_ms = core->now_ms + core->config.replicate_ms;
    w->step = is_hidden ? job->before : job->state;
    if (!mq_pool_copy(&core->pool, mq_span_of(job->id, MQ_ULID_LEN), &w->text)) {
        mq_wait_free(core, no); /* whoever asked asks again */
        return;
    }
    append(core, no);
}

uint32_t mq_replica_hold_all(mq_core *core, uint32_t head, uint64_t sequence)
{
    uint32_t *at = &head;
    if (core->config.replicas == 0) {
        return head;
    }
    while (*at != MQ_NONE) {
        uint32_t no = *at;
        mq_waiter *w = &core->waiters[no];
        const mq_job *job = w->job == MQ_NONE ? NULL : &core->jobs[w->job];
        bool is_held = job != NULL && job->is_replicated &&
                       (w->type == MQ_WAIT_SUBMITTED || w->type == MQ_WAIT_REPLY);
        if (is_held) {
            *at = w->next;
            hold(core, no, job, sequence);
        } else {
            at = &w->next;
        }
    }
    return head;
}

bool mq_replica_hold_dup(mq_core *core, const mq_job *job, uint64_t conn, uint64_t rid)
{
    uint32_t no = mq_wait_take(core, MQ_WAIT_SUBMITTED, conn, rid);
    if (no == MQ_NONE) {
        return false;
    }
    core->waiters[no].verdict = MQ_SAY_DUP;
    hold(core, no, job, core->stored);
    return true;
}

static void say_held(mq_core *core, const mq_waiter *w, bool is_late, mq_outputs *out)
{
    mq_span id = mq_pool_span(&core->pool, w->text);
    const char *state = mq_state_name((mq_state)w->step);
    const char *verdict = is_late ? "busy" : w->verdict == MQ_SAY_DUP ? "dup" : "ok";
    if (w->type == MQ_WAIT_REPLY) {
        mq_say_reply(out, w->conn, w->rid, verdict, state, is_late ? late_text : "");
    } else {
        mq_say_submitted(out, w->conn, w->rid, id, verdict, is_late ? "" : state,
                         is_late ? late_text : "", is_late ? MQ_RETRY_LATER_MS : 0);
    }
}

/* ---- ends ---- */

void mq_replica_hold_end(mq_core *core, mq_job *job)
{
    uint32_t no = mq_job_no(core, job);
    job->is_unseen = true;
    job->next_unseen = MQ_NONE;
    if (core->unseen_head == MQ_NONE) {
        core->unseen_head = no;
    } else {
        core->jobs[core->unseen_tail].next_unseen = no;
    }
    core->unseen_tail = no;
    core->unseen_count++;
}

/* ---- progress ---- */

void mq_replica_turn(mq_core *core, mq_outputs *out)
{
    uint32_t budget = RELEASES;
    while (core->confirm_head != MQ_NONE && budget > 0) {
        uint32_t no = core->confirm_head;
        const mq_waiter *w = &core->waiters[no];
        bool is_late = w->sequence > core->replicated;
        if (is_late && w->until_ms > core->now_ms) {
            break;
        }
        budget--;
        core->stats.replica_late += is_late;
        core->confirm_head = w->next;
        core->confirm_count--;
        say_held(core, w, is_late, out);
        mq_wait_free(core, no);
    }
    for (uint32_t i = 0; i < ENDS && budget > 0 && core->unseen_head != MQ_NONE; i++) {
        mq_job *job = mq_job_at(core, core->unseen_head);
        if (job->stored_sequence > core->replicated) {
            break;
        }
        core->unseen_head = job->next_unseen;
        core->unseen_count--;
        job->is_unseen = false;
        mq_job_finished(core, job, out);
    }
    bool is_more = core->confirm_head != MQ_NONE &&
                   core->waiters[core->confirm_head].sequence <= core->replicated;
    is_more = is_more || (core->unseen_head != MQ_NONE &&
                          core->jobs[core->unseen_head].stored_sequence <= core->replicated);
    core->wants_turn = core->wants_turn || is_more;
}

void mq_replica_told(mq_core *core, const mq_input *in, mq_outputs *out)
{
    uint32_t count = in->as.replicas.count;
    core->replica_count = count;
    core->is_replica_open = core->config.replicas > 0 && count >= core->config.replicas;
    if (core->is_replica_open) {
        /* A commit that is under way may still be refused. */
        uint64_t sequence =
            in->as.replicas.sequence < core->stored ? in->as.replicas.sequence : core->stored;
        core->replicated = core->replicated < sequence ? sequence : core->replicated;
        core->was_replica_open = true;
        mq_replica_turn(core, out);
    }
}

int64_t mq_replica_deadline(const mq_core *core)
{
    return core->confirm_head == MQ_NONE ? INT64_MAX : core->waiters[core->confirm_head].until_ms;
}

void mq_core_replicas(const mq_core *core, mq_replica_view *out)
{
    *out = (mq_replica_view){
        .is_open = core->is_replica_open,
        .is_loaded = core->was_replica_open,
        .count = core->replica_count,
        .wanted = core->config.replicas,
        .waiting = core->confirm_count + core->unseen_count,
        .replicated = core->replicated,
    };
}

/* What the files of broker/core call of one another, file by file. The types are in state.h, which
 * includes this at its end. */
#ifndef MQ_BROKER_CORE_CALLS_H
#define MQ_BROKER_CORE_CALLS_H

#include "broker/core/state.h"

/* ---- table.c: slots, indices, names ---- */

/* Takes a slot of an array whose elements hold the index of the next free one at next_offset;
 * MQ_NONE when all are taken. The caller zeroes the element. */
uint32_t mq_slots_take(mq_slots *slots, const void *array, size_t stride, size_t next_offset);
#define MQ_TAKE(core, kind, array, type)                                                           \
    mq_slots_take(&(core)->kind##_slots, (core)->array, sizeof(type), offsetof(type, next_free))

/* Gives it back; the caller has stored the returned value in the element's next_free. */
uint32_t mq_slots_give(mq_slots *slots, uint32_t index);
static inline bool mq_slots_has(const mq_slots *slots, uint32_t spare)
{
    return slots->capacity - slots->count >= spare;
}

/* most and regions (zeroed) are set. */
void mq_index_init(mq_index *index);
typedef bool mq_index_is(const mq_core *core, uint32_t value, const void *key);
uint32_t mq_index_find(const mq_core *core, const mq_index *index, uint32_t hash, mq_index_is *is,
                       const void *key);
/* Something with this hash will be looked for soon. */
static inline void mq_index_foresee(const mq_index *index, uint32_t hash)
{
    __builtin_prefetch(&index->slots[hash & index->mask]);
}
void mq_index_put(const mq_core *core, mq_index *index, uint32_t value);
void mq_index_remove(const mq_core *core, mq_index *index, uint32_t value);

/* Index of a name with one more reference, MQ_NONE when the table or pool is full; 0 for "". */
uint32_t mq_name_take(mq_core *core, mq_span text);
uint32_t mq_name_find(const mq_core *core, mq_span text);
void mq_name_hold(mq_core *core, uint32_t name);
void mq_name_drop(mq_core *core, uint32_t name);

uint32_t mq_id_hash(mq_span id);
void mq_table_init(mq_core *core);

/* ---- kinds.c ---- */

/* A worker announces the policy of a kind; what makes no sense is ignored or cut to its limit. */
void mq_kinds_told(mq_core *core, const mq_msg_kind_limit *told);
/* Of any kind: built in, announced, or the default. */
const mq_kind_policy *mq_kinds_policy(const mq_core *core, mq_span name);

/* ---- pool.c ---- */

void mq_pool_init(mq_pool *pool, uint8_t *base, uint64_t bytes);
/* Room for len bytes, or a ref with at 0 when len is 0 or there is none. */
mq_ref mq_pool_take(mq_pool *pool, size_t len);
void mq_pool_give(mq_pool *pool, mq_ref ref);
bool mq_pool_copy(mq_pool *pool, mq_span s, mq_ref *out); /* false: no room */
bool mq_pool_has(const mq_pool *pool, uint64_t bytes);
static inline mq_span mq_pool_span(const mq_pool *pool, mq_ref ref)
{
    return (mq_span){ref.at == 0 ? NULL : pool->base + (uint64_t)ref.at * MQ_POOL_UNIT,
                     ref.at == 0 ? 0 : ref.len};
}
static inline mq_span mq_name_text(const mq_core *core, uint32_t name)
{
    return mq_pool_span(&core->pool, core->names[name].text);
}
static inline uint8_t *mq_pool_at(mq_pool *pool, mq_ref ref)
{
    return pool->base + (uint64_t)ref.at * MQ_POOL_UNIT;
}
/* Frees at the start of the next step. */
void mq_ref_drop(mq_core *core, mq_ref *ref);
void mq_graves_clear(mq_core *core);

/* ---- job.c: one job's life ---- */

static inline mq_job *mq_job_at(mq_core *core, uint32_t job)
{
    MQ_ASSERT(job < core->config.jobs_max && core->jobs[job].is_used);
    return &core->jobs[job];
}
static inline uint32_t mq_job_no(const mq_core *core, const mq_job *job)
{
    return (uint32_t)(job - core->jobs);
}
mq_job *mq_job_find(mq_core *core, mq_span id);
mq_job *mq_job_new(mq_core *core, mq_span id); /* NULL when full; put into the index */
void mq_job_free(mq_core *core, mq_job *job);  /* at the next step; gives back all it holds */
static inline bool mq_job_ended(const mq_job *job)
{
    return mq_state_is_terminal((mq_state)job->state);
}
/* Keeps what had been counted when a lease begins. */
void mq_job_lease_counts(mq_job *job);
/* The only place that changes a state: lanes, timers, counters, history, the dirty list. */
void mq_job_move(mq_core *core, mq_job *job, mq_event event, const char *why);
void mq_job_why(mq_job *job, const char *text, mq_span tail);
/* Puts a job that is QUEUED and may run into its lane (or ends it by its memo). */
void mq_job_ready(mq_core *core, mq_job *job);
void mq_job_timer(mq_core *core, mq_job *job);
void mq_job_dirty(mq_core *core, mq_job *job);
void mq_job_set_error(mq_core *core, mq_job *job, mq_span code, mq_span text);
void mq_job_fill(const mq_core *core, const mq_job *job, bool as_stored, mq_job_record *out);
/* Takes the input's bytes as the job's result. */
void mq_job_set_result(mq_core *core, mq_job *job, mq_bytes *bytes);
void mq_bytes_release(mq_core *core, mq_bytes *bytes, mq_outputs *out);

/* ---- text.c: messages without printf ---- */

void mq_text(mq_error *err, const char *text, mq_span tail);
mq_span mq_digits(uint64_t n, char out[21]); /* decimal */

/* ---- wait.c: answers ---- */

mq_output *mq_out_add(mq_outputs *out, mq_output_type type, uint64_t conn, uint64_t rid);
/* The same for a JOB, whose `as` the caller sets as a whole. */
mq_output *mq_out_job(mq_outputs *out, uint64_t conn);
void mq_out_release(mq_outputs *out, mq_bytes *bytes);
/* Text that lives as long as the outputs. */
mq_span mq_out_text(mq_outputs *out, mq_span a, mq_span b, mq_span c);
/* Gives back bytes of an input that were not kept. */
void mq_out_refuse(mq_outputs *out, mq_bytes *bytes);
/* New waiter on the job (and the job becomes dirty, so that it is released), NULL when full. */
mq_waiter *mq_wait_job(mq_core *core, mq_job *job, mq_wait_type type, uint64_t conn, uint64_t rid);
mq_waiter *mq_wait_reg(mq_core *core, uint32_t reg, mq_wait_type type, uint64_t conn, uint64_t rid);
bool mq_wait_room(const mq_core *core, uint32_t count);
void mq_wait_release(mq_core *core, uint32_t head, mq_outputs *out);
void mq_wait_free(mq_core *core, uint32_t waiter);
/* A waiter in no list; MQ_NONE when there is none left. */
uint32_t mq_wait_take(mq_core *core, mq_wait_type type, uint64_t conn, uint64_t rid);
void mq_say_submitted(mq_outputs *out, uint64_t conn, uint64_t rid, mq_span id, const char *verdict,
                      const char *state, const char *text, uint64_t retry_ms);
void mq_say_reply(mq_outputs *out, uint64_t conn, uint64_t rid, const char *verdict,
                  const char *state, const char *text);
void mq_say_verdict(mq_outputs *out, uint64_t conn, mq_span id, uint64_t epoch, uint64_t grant,
                    const char *verdict);
void mq_say_error(mq_outputs *out, uint64_t conn, uint64_t rid, mq_code code, const char *text);
void mq_say_ended(mq_core *core, mq_job *job, mq_outputs *out);

/* ---- ask.c: questions to the store, remembered ends ---- */

mq_ask *mq_ask_new(mq_core *core, mq_ask_type type, mq_span id, mq_outputs *out);
void mq_ask_found(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_recent_add(mq_core *core, const mq_job *job);
const mq_recent *mq_recent_find(const mq_core *core, mq_span id);

/* ---- unique.c, note.c ---- */

void mq_unique_init(mq_core *core);
mq_job *mq_unique_find(mq_core *core, mq_span key); /* NULL: nobody has it */
void mq_unique_hold(mq_core *core, mq_job *job);    /* its key is free */
void mq_unique_drop(mq_core *core, mq_job *job);
/* Answers a submit whose key a live job has, or that cannot be told yet; false: it may enter. */
bool mq_unique_answer(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_unique_say(mq_core *core, const mq_waiter *w, mq_outputs *out);
void mq_note(mq_core *core, const mq_input *in);

/* ---- cron.c ---- */

void mq_cron(mq_core *core, const mq_input *in, mq_outputs *out);

/* ---- dead.c ---- */

/* Answer to MQ_ASK_DISCARD; r NULL: the store has none. */
void mq_discard_found(mq_core *core, const mq_ask *ask, const mq_job_record *r, mq_outputs *out);
void mq_discard_stored(mq_core *core, mq_job *job, mq_outputs *out);

/* ---- lane.c ---- */

void mq_lane_init(mq_core *core);
bool mq_lane_push(mq_core *core, mq_job *job); /* false: no lane left */
void mq_lane_remove(mq_core *core, mq_job *job);
mq_job *mq_lane_top(mq_core *core, mq_lane *lane); /* NULL: all its strands are blocked */
static inline uint64_t mq_lane_key(const mq_job *job)
{
    MQ_ASSERT(job->priority <= 9 && job->number < UINT64_C(1) << MQ_AGE_BITS);
    return (uint64_t)(9 - job->priority) << MQ_AGE_BITS | job->number;
}
void mq_lanes_refresh(mq_core *core); /* pauses or limits have changed */

/* ---- tree.c, strand.c ---- */

bool mq_node_before(const mq_node *a, const mq_node *b);
/* Both return the new root of the heap. */
uint32_t mq_tree_add(mq_tree tree, uint32_t root, uint32_t i);
uint32_t mq_tree_remove(mq_tree tree, uint32_t root, uint32_t i);
uint32_t mq_strand_take(mq_core *core, const mq_job *job); /* of the job; MQ_NONE: none left */
void mq_strand_give(mq_core *core, uint32_t strand);       /* it is empty */
void mq_strand_place(mq_core *core, uint32_t strand);      /* its first job or its block changed */
mq_lane *mq_lane_of(mq_core *core, const mq_strand *strand);
void mq_lane_refresh(mq_core *core, mq_lane *lane);
const mq_flow *mq_lane_flow(mq_core *core, mq_lane *lane); /* the first, NULL: none is ready */

/* ---- fair.c ---- */

/* A tenant starts so many jobs (of a gang: members) now. Before the job leaves its lane. */
void mq_fair_charge(mq_core *core, const mq_job *job, uint32_t starts);
uint32_t mq_tenant_quota(const mq_core *core, uint32_t tenant);
void mq_tenant_set(mq_core *core, mq_span name, uint32_t weight, uint32_t quota);

/* ---- limit.c ---- */

/* False: the limit of its queue or kind holds the whole lane back now. */
bool mq_lane_open(mq_core *core, const mq_lane *lane);
bool mq_strand_open(mq_core *core, uint32_t strand); /* the same for the limit of its key */
void mq_limit_block(mq_core *core, uint32_t strand); /* until its limit opens */
void mq_limit_join(mq_core *core, uint32_t strand);  /* a new strand with a key */
void mq_limit_part(mq_core *core, uint32_t strand);  /* it goes */
void mq_limits_take(mq_core *core, mq_job *job);     /* it starts */
void mq_limits_give(mq_core *core, mq_job *job);     /* it is not leased any more */
void mq_limits_load(mq_core *core, mq_job *job);     /* it was leased when it was loaded */
void mq_limits_loaded(mq_core *core);
void mq_limits_turn(mq_core *core);
/* False: no room. concurrency and rate 0 remove it. */
/* lend.c: a limit that several shards share. */
bool mq_limit_is_lent(const mq_core *core, mq_limit_type type);
void mq_lend_begin(mq_core *core, mq_limit *l);
bool mq_lend_open(mq_core *core, mq_limit *l);
void mq_lend_take(mq_limit *l);                /* a job starts */
void mq_lend_give(mq_core *core, mq_limit *l); /* one has ended */
void mq_lend_counted(mq_limit *l);             /* running was counted anew */
void mq_lend_answered(mq_core *core, const mq_input *in);
bool mq_limit_set(mq_core *core, mq_limit_type type, mq_span name, const mq_limit *rule);

/* ---- route.c: what jobs need and workers have ---- */

/* NULL, or what is wrong with the needs of a submit. */
const char *mq_needs_check(const mq_msg_submit_job *item);
/* Its needs as one text, tags sorted, each once, "mem=BYTES" among them; empty: none. In a scratch
 * of the core, until the next call. */
mq_span mq_needs_text(mq_core *core, const mq_msg_submit_job *item);
/* Reads such a text into what a lane keeps. False: no room for names. */
bool mq_lane_needs(mq_core *core, mq_lane *lane);
void mq_lane_needs_drop(mq_core *core, mq_lane *lane);
mq_misfit mq_worker_misfit(const mq_worker *worker, const mq_lane *lane);
bool mq_worker_fits(const mq_worker *worker, const mq_lane *lane);
uint64_t mq_job_memory(const mq_core *core, const mq_job *job);
bool mq_worker_has_model(const mq_worker *worker, uint32_t model);
void mq_worker_saw_model(mq_core *core, mq_worker *worker, uint32_t model);
void mq_worker_forget_models(mq_core *core, mq_worker *worker);

/* ---- affinity.c ---- */

enum { MQ_AFFINITY_MOST = 2 };
/* Model blobs that the worker says it holds. */
void mq_worker_told_blobs(mq_worker *w, const mq_span *blobs, uint32_t count);
/* Blob that a job's model stands for now; empty when there is none. Borrowed until the next. */
mq_span mq_model_blob(mq_core *core, uint32_t model);
/* 0: it would have to fetch the model. Without a model all have it. */
uint32_t mq_affinity_of(const mq_worker *w, uint32_t model, mq_span blob);
/* The worker at hand lacks the model, one that is busy has it, and the job may wait for it still.
 */
bool mq_affinity_waits(mq_core *core, const mq_lane *lane, const mq_job *job, uint32_t worker);

/* ---- policy.c ---- */

/* Puts an entry of the registry into force: at loading, and when an operator has set it. */
void mq_policy_apply(mq_core *core, const mq_entry_key *key, const mq_entry *entry);
bool mq_kind_is_paused(const mq_core *core, mq_span name);
void mq_quarantine_crash(mq_core *core, const mq_job *job); /* quarantine.c; counted in crashes */
void mq_kinds_count(mq_core *core); /* the paused ones, for the statistics */
void mq_do_kind(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_do_limit_set(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_do_tenant_set(mq_core *core, const mq_input *in, mq_outputs *out);
/* command.c: writes core->making under key, answers when that is stored; false: refused. */
bool mq_command_write(mq_core *core, const mq_input *in, const mq_entry_key *key, mq_outputs *out);

/* ---- submit.c, deps.c ---- */

void mq_submit(mq_core *core, const mq_input *in, mq_outputs *out);
/* A child of a result, not visible before its parent's commit. */
mq_code mq_spawn_check(const mq_core *core, const mq_msg_spawned *spawn, mq_error *err);
mq_job *mq_spawn_new(mq_core *core, const mq_job *parent, const mq_msg_spawned *spawn,
                     mq_bytes *body);
void mq_spawn_start(mq_core *core, mq_job *job); /* its parent's commit is stored */
/* A job that nobody waits for, in state NONE; NULL when it is not allowed or there is no room.
 * Takes body then only. */
mq_job *mq_submit_new(mq_core *core, const mq_msg_submit_job *item, mq_bytes *body);
/* First state of a job whose dependencies are known. */
void mq_submit_place(mq_core *core, mq_job *job);
bool mq_deps_add(mq_core *core, mq_job *child, mq_job *parent); /* false: full */
void mq_deps_later(mq_core *core, mq_job *job);
void mq_deps_turn(mq_core *core, mq_outputs *out);
void mq_deps_answer(mq_core *core, mq_job *child, mq_span parent, mq_state state);
void mq_deps_release(mq_core *core, mq_job *parent, mq_state state); /* its end is stored */
void mq_deps_orphan(mq_core *core, mq_job *parent); /* it was never ours: look it up */
void mq_deps_drop(mq_core *core, mq_job *child);    /* the child goes */

/* ---- dispatch.c, lease.c, result.c, gang.c ---- */

void mq_dispatch(mq_core *core, mq_outputs *out);
void mq_run_note(mq_core *core, uint32_t kind, uint64_t run_us);  /* a job of the kind succeeded */
void mq_start_count(mq_core *core, mq_job *job, uint32_t starts); /* before it leaves its lane */
void mq_send_job(mq_core *core, mq_job *job, mq_outputs *out);    /* when nothing is waited for */
/* Jobs it may be sent now: its credit, which may hold more than its idle slots (it prefetches). */
/* ---- idle.c ---- */
/* To be called where a worker's free slots have become more. */
void mq_idle_note(mq_core *core, uint32_t worker);
/* First worker from `from` to before `to` that has a free slot; MQ_NONE when there is none. */
uint32_t mq_idle_next(mq_core *core, uint32_t from, uint32_t to);
uint32_t mq_idle_slots(const mq_core *core); /* free ones of all workers */
/* False: it surely has no free slot. */
bool mq_idle_is(const mq_core *core, uint32_t worker);

uint32_t mq_worker_free(const mq_worker *worker);
/* The same for jobs that are not transient: online slots are not theirs. */
uint32_t mq_worker_batch(const mq_worker *worker);
/* Slots that would start at once: what a seat of a gang needs. */
uint32_t mq_worker_idle(const mq_worker *worker);
mq_worker *mq_worker_find(mq_core *core, mq_span uuid);
void mq_worker_ready(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_worker_credit(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_worker_beat(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_worker_bye(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_worker_unsent(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_workers_turn(mq_core *core, mq_outputs *out);            /* those that fell silent */
void mq_fetch_body(mq_core *core, mq_job *job, mq_outputs *out); /* when it is not in memory */
void mq_body_came(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_job_item_fill(mq_core *core, const mq_job *job, mq_msg_job_item *item, mq_outputs *out);
void mq_hold(mq_core *core, mq_job *job, uint32_t worker);
void mq_unhold(mq_core *core, mq_job *job);
/* The lease is gone without a result: back to the queue, or the end. */
void mq_lapse(mq_core *core, mq_job *job, bool is_counted, const char *why, mq_outputs *out);
void mq_end_transient(mq_core *core, mq_job *job, mq_outputs *out);
void mq_timers_turn(mq_core *core, mq_outputs *out);
void mq_result(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_result_refuse(const mq_input *in, mq_outputs *out);
void mq_result_wait(mq_core *core, mq_job *job, const mq_input *in, mq_wait_verdict verdict);
void mq_result_failed(mq_core *core, mq_job *job, const mq_input *in, mq_outputs *out);
void mq_complete(mq_core *core, mq_job *job, const mq_input *in, mq_outputs *out);
void mq_end(mq_core *core, mq_job *job, mq_event event, const char *why, const mq_input *in,
            mq_outputs *out);
/* Names of blobs (64 digits each) to let go after the next commit of the job, unless still named.
 */
void mq_unpin_later(mq_core *core, mq_job *job, mq_ref text, uint32_t count);
void mq_complete_by_memo(mq_core *core, mq_job *job, uint32_t reg);
/* One clean failure: backs off or dies. */
void mq_fail_attempt(mq_core *core, mq_job *job, const char *why, mq_outputs *out);
void mq_cancel(mq_core *core, const mq_input *in, mq_outputs *out);

uint64_t mq_gang_next_epoch(mq_core *core);
uint32_t mq_gang_alive(const mq_gang *gang); /* seats that are not done */
mq_gang *mq_gang_of(mq_core *core, const mq_job *job);
uint32_t mq_gang_seat_at(const mq_gang *gang, uint64_t grant, mq_span worker);
mq_seat *mq_gang_seat(mq_gang *gang, uint64_t grant, mq_span worker);
bool mq_gang_form(mq_core *core, mq_lane *lane, mq_job *job, mq_outputs *out);
void mq_gang_turn(mq_core *core, mq_outputs *out); /* growth and rosters that are due */
void mq_gang_stored(mq_core *core, mq_job *job, mq_outputs *out);
bool mq_gang_load(mq_core *core, mq_job *job, const mq_job_record *record);
void mq_gang_claim(mq_core *core, mq_seat *seat, uint32_t worker);
/* A seat goes; with the last one the job goes back to the queue. */
void mq_gang_leave(mq_core *core, mq_job *job, mq_seat *seat, bool is_counted, mq_outputs *out);
void mq_gang_lapse(mq_core *core, mq_job *job, mq_outputs *out);
void mq_gang_worker_gone(mq_core *core, uint32_t worker, mq_outputs *out);
void mq_gang_end(mq_core *core, mq_job *job, uint64_t but_grant, mq_outputs *out);
void mq_gang_send_jobs(mq_core *core, mq_job *job, mq_outputs *out);
void mq_gang_cancel(mq_core *core, mq_job *job, mq_outputs *out);
int64_t mq_gang_lease_until(const mq_gang *gang);
void mq_gang_result(mq_core *core, mq_job *job, mq_seat *seat, const mq_input *in, mq_outputs *out);
void mq_checkpoint(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_lost(mq_core *core, const mq_input *in, mq_outputs *out);

/* ---- registry.c, command.c, blobs.c ---- */

void mq_registry_init(mq_core *core);
mq_code mq_publish_check(mq_core *core, const mq_msg_published *item, mq_error *err);
void mq_publish(mq_core *core, mq_job *job, const mq_msg_published *item, mq_span fingerprint);
void mq_publish_stored(mq_core *core, uint32_t reg);
uint32_t mq_memo_find(const mq_core *core, mq_span key);
bool mq_memo_usable(const mq_core *core, uint32_t reg);
void mq_registry_load(mq_core *core, const mq_input *in);
bool mq_queue_is_paused(const mq_core *core, mq_span name);
bool mq_queue_is_draining(const mq_core *core, mq_span name);
uint32_t mq_object_find(const mq_core *core, mq_entry_type type, mq_span name);
uint32_t mq_reg_new(mq_core *core, const mq_entry_key *key);
uint32_t mq_reg_find(const mq_core *core, const mq_entry_key *key);
bool mq_reg_set(mq_core *core, uint32_t reg, const mq_entry *entry);
void mq_reg_dirty(mq_core *core, uint32_t reg);
mq_entry_key mq_reg_key(const mq_core *core, const mq_reg *reg);
uint32_t mq_alias_version(const mq_core *core, mq_span model, mq_span alias);
void mq_command_do(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_blobs_init(mq_core *core);
void mq_blob_hold(mq_core *core, mq_span hash);
uint32_t mq_blob_drop(mq_core *core, mq_span hash); /* references left */
bool mq_blob_is_held(const mq_core *core, mq_span hash);
bool mq_blob_name_ok(mq_span hash);

/* ---- replica.c ---- */

void mq_replica_begin(mq_core *core);
/* Why the class is closed, NULL while it is open. */
const char *mq_replica_closed(const mq_core *core);
/* False: what is stored of the job is not confirmed, and nothing may be told of it. */
bool mq_replica_has(const mq_core *core, const mq_job *job);
/* Takes the answers about replicated jobs out of a list of waiters whose commit is stored. Returns
 * what is left of it. */
uint32_t mq_replica_hold_all(mq_core *core, uint32_t head, uint64_t sequence);
/* A repeat of a submit, to be answered when what is stored now is confirmed. */
bool mq_replica_hold_dup(mq_core *core, const mq_job *job, uint64_t conn, uint64_t rid);
/* The job's end is stored: it stays until that is confirmed. */
void mq_replica_hold_end(mq_core *core, mq_job *job);
void mq_replica_told(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_replica_turn(mq_core *core, mq_outputs *out);
int64_t mq_replica_deadline(const mq_core *core);

/* ---- keep.c ---- */

/* True: a changed job is not to be written yet, it is expected to end at once. */
bool mq_keep(mq_core *core, mq_job *job);
void mq_keep_drop(mq_core *core, mq_job *job); /* it is not kept any more, if it was */
void mq_keep_flush(mq_core *core);             /* all of them are to be written now */
void mq_keep_turn(mq_core *core);              /* those that have waited long enough */

/* ---- commit.c, recover.c ---- */

/* The job's end may be told. */
void mq_job_finished(mq_core *core, mq_job *job, mq_outputs *out);

void mq_drop_job(mq_core *core, mq_job *job, mq_outputs *out);
void mq_commit_build(mq_core *core, mq_outputs *out);
void mq_commit_stored(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_recover_begin(mq_core *core, const mq_input *in);
void mq_recover_job(mq_core *core, const mq_input *in, mq_outputs *out);
void mq_recover_done(mq_core *core, const mq_input *in);
/* A job from its record (which is stored): fields, names, state. False when there is no room. */
bool mq_recover_apply(mq_core *core, mq_job *job, const mq_job_record *record);

#endif

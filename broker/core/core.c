/* The core's memory, its one entry and what the shell may read. Every decision is in the other
 * files of this folder. */
#include "broker/core/core.h"

#include "broker/core/state.h"

mq_core_config mq_core_config_default(void)
{
    return (mq_core_config){
        .jobs_max = 1100000,
        .live_max = 1000000,
        .tenant_live_max = 1000000,
        .transient_max = 8192,
        .transient_per_slot = 1024, /* a client's whole window; deadlines bound the wait */
        .workers_max = 1024,
        .gangs_max = 256,
        .names_max = 65536,
        .lanes_max = 4096,
        .strands_max = 65536,
        .limits_max = 65536,
        .edges_max = 2000000,
        .waiters_max = 262144,
        .asks_max = 4096,
        .registry_max = 65536,
        .blobs_max = 262144,
        .recent_max = 65536,
        .pool_bytes = UINT64_C(2) << 30,
        .held_bytes_max = UINT64_C(1) << 30,
        .lease_ms = 15000,
        .beat_ms = 5000,
        .replicas = 1,
        .replicate_ms = 5000,
        .retention_ms = 86400000,
        .dead_retention_ms = INT64_C(7) * 86400000,
        .seed = 1,
    };
}

/* ---- layout ---- */

typedef struct cursor {
    uint8_t *base; /* NULL: only counting */
    size_t at;
} cursor;

static void *carve(cursor *c, size_t count, size_t size)
{
    c->at = mq_align_up(c->at, 64);
    void *p = c->base == NULL ? NULL : c->base + c->at;
    c->at += count * size;
    return p;
}

static mq_index carve_index(cursor *c, uint32_t capacity)
{
    uint32_t size = 16;
    while (size < capacity * 2) {
        size *= 2;
    }
    mq_index index = {.most = size};
    index.regions[0] = carve(c, size, sizeof(mq_index_slot));
    index.regions[1] = carve(c, size / 2, sizeof(mq_index_slot));
    mq_index_init(&index);
    return index;
}

static void carve_indices(mq_core *core, cursor *c, const mq_core_config *k)
{
    core->job_index = carve_index(c, k->jobs_max);
    core->name_index = carve_index(c, k->names_max);
    core->lane_index = carve_index(c, k->lanes_max);
    core->flow_index = carve_index(c, k->strands_max);
    core->strand_index = carve_index(c, k->strands_max);
    core->worker_index = carve_index(c, k->workers_max);
    core->object_index = carve_index(c, k->registry_max);
    core->blob_index = carve_index(c, k->blobs_max);
    core->recent_index = carve_index(c, k->recent_max);
    core->unique_index = carve_index(c, k->jobs_max);
}

/* Carves every array into *core, which may be a throw-away when only the size is wanted. */
static void lay_out(mq_core *core, cursor *c, const mq_core_config *k)
{
    core->jobs = carve(c, k->jobs_max, sizeof(mq_job));
    core->edges = carve(c, k->edges_max, sizeof(mq_edge));
    core->names = carve(c, k->names_max, sizeof(mq_name));
    core->lanes = carve(c, k->lanes_max, sizeof(mq_lane));
    core->flows = carve(c, k->strands_max, sizeof(mq_flow));
    core->strands = carve(c, k->strands_max, sizeof(mq_strand));
    core->limits = carve(c, k->limits_max, sizeof(mq_limit));
    core->workers = carve(c, k->workers_max, sizeof(mq_worker));
    core->idle = carve(c, (k->workers_max + 63) / 64, sizeof(uint64_t));
    core->gangs = carve(c, k->gangs_max, sizeof(mq_gang));
    core->waiters = carve(c, k->waiters_max, sizeof(mq_waiter));
    core->asks = carve(c, k->asks_max, sizeof(mq_ask));
    core->objects = carve(c, k->registry_max, sizeof(mq_object));
    core->regs = carve(c, k->registry_max, sizeof(mq_reg));
    core->blobs = carve(c, k->blobs_max, sizeof(mq_blob));
    core->recents = carve(c, k->recent_max, sizeof(mq_recent));
    core->graves_max = MQ_OUTPUTS_MAX;
    core->graves = carve(c, core->graves_max, sizeof(uint32_t));
    core->grave_refs = carve(c, (size_t)core->graves_max * 8, sizeof(mq_ref));
    core->assembly = carve(c, 1, sizeof(mq_assembly));
    core->timers.entries = carve(c, k->jobs_max, sizeof(mq_heap_entry));
    core->timers.positions = carve(c, k->jobs_max, sizeof(uint32_t));
    core->limit_timers.entries = carve(c, k->limits_max, sizeof(mq_heap_entry));
    core->limit_timers.positions = carve(c, k->limits_max, sizeof(uint32_t));
    carve_indices(core, c, k);
    core->pool.base = carve(c, k->pool_bytes, 1);
}

size_t mq_core_bytes(const mq_core_config *config)
{
    cursor c = {.base = NULL};
    static mq_core unused; /* only its pointers are set, to NULL */
    (void)carve(&c, 1, sizeof(mq_core));
    lay_out(&unused, &c, config);
    return c.at;
}

static void set_capacities(mq_core *core)
{
    const mq_core_config *k = &core->config;
    core->job_slots.capacity = k->jobs_max;
    core->edge_slots.capacity = k->edges_max;
    core->name_slots.capacity = k->names_max;
    core->lane_slots.capacity = k->lanes_max;
    core->flow_slots.capacity = k->strands_max;
    core->strand_slots.capacity = k->strands_max;
    core->limit_slots.capacity = k->limits_max;
    core->worker_slots.capacity = k->workers_max;
    core->gang_slots.capacity = k->gangs_max;
    core->waiter_slots.capacity = k->waiters_max;
    core->ask_slots.capacity = k->asks_max;
    core->object_slots.capacity = k->registry_max;
    core->reg_slots.capacity = k->registry_max;
    core->blob_slots.capacity = k->blobs_max;
}

mq_core *mq_core_init(void *memory, const mq_core_config *config)
{
    cursor c = {.base = memory};
    mq_core *core = carve(&c, 1, sizeof(mq_core));
    core->config = *config;
    lay_out(core, &c, config);
    set_capacities(core);
    mq_table_init(core);
    mq_lane_init(core);
    mq_unique_init(core);
    mq_registry_init(core);
    mq_blobs_init(core);
    mq_pool_init(&core->pool, core->pool.base, config->pool_bytes);
    mq_heap_init(&core->timers, core->timers.entries, core->timers.positions, config->jobs_max);
    mq_heap_init(&core->limit_timers, core->limit_timers.entries, core->limit_timers.positions,
                 config->limits_max);
    core->limit_slots.high = core->limit_slots.count = 1; /* limit 0 is none */
    core->prng.state = config->seed;
    core->affinity_ms = INT64_MAX;
    core->dirty_head = core->dirty_tail = MQ_NONE;
    core->kept_head = core->kept_tail = MQ_NONE;
    core->dirty_reg_head = core->dirty_reg_tail = MQ_NONE;
    core->unresolved_head = core->unresolved_tail = MQ_NONE;
    core->name_slots.high = core->name_slots.count = 1; /* name 0 is "" */
    core->packed = (mq_buf){.data = core->packed_bytes,
                            .capacity = sizeof core->packed_bytes,
                            .limit = sizeof core->packed_bytes};
    mq_assembly *a = core->assembly;
    a->records = (mq_buf){.data = a->record_bytes,
                          .capacity = sizeof a->record_bytes,
                          .limit = sizeof a->record_bytes};
    return core;
}

/* ---- the one entry ---- */

static void turn(mq_core *core, mq_outputs *out)
{
    core->wants_turn = false;
    mq_workers_turn(core, out);
    mq_timers_turn(core, out);
    mq_deps_turn(core, out);
    mq_replica_turn(core, out);
    mq_dispatch(core, out);
    mq_gang_turn(core, out);
    mq_keep_turn(core);
    mq_commit_build(core, out);
}

static void watch(mq_core *core, mq_span id)
{
    mq_job *job = mq_job_find(core, id);
    if (job != NULL) {
        job->is_watched = true;
    }
}

/* From the store and about it. False: of another kind. */
static bool step_store(mq_core *core, const mq_input *in, mq_outputs *out)
{
    switch ((int)in->type) {
    case MQ_IN_BEGIN:
        mq_recover_begin(core, in);
        break;
    case MQ_IN_REGISTRY:
        mq_registry_load(core, in);
        break;
    case MQ_IN_LOAD:
        mq_recover_job(core, in, out);
        break;
    case MQ_IN_LOADED:
        mq_recover_done(core, in);
        break;
    case MQ_IN_STORED:
        mq_commit_stored(core, in, out);
        break;
    case MQ_IN_BODY:
        mq_body_came(core, in, out);
        break;
    case MQ_IN_FOUND:
        mq_ask_found(core, in, out);
        break;
    case MQ_IN_REPLICAS:
        mq_replica_told(core, in, out);
        break;
    case MQ_IN_LENT:
        mq_lend_answered(core, in);
        break;
    case MQ_IN_PRESSURE:
        core->is_full = in->as.is_full;
        break;
    default:
        return false;
    }
    return true;
}

/* From clients, operators and the loop's own clients. False: of another kind. */
static bool step_client(mq_core *core, const mq_input *in, mq_outputs *out)
{
    switch ((int)in->type) {
    case MQ_IN_SUBMIT:
        mq_submit(core, in, out);
        break;
    case MQ_IN_CANCEL:
        mq_cancel(core, in, out);
        break;
    case MQ_IN_COMMAND:
        mq_command_do(core, in, out);
        break;
    case MQ_IN_CRON:
        mq_cron(core, in, out);
        break;
    case MQ_IN_WATCH:
        watch(core, in->as.id);
        break;
    case MQ_IN_NOTE:
        mq_note(core, in);
        break;
    default:
        return false;
    }
    return true;
}

/* From workers. False: of another kind. */
static bool step_worker(mq_core *core, const mq_input *in, mq_outputs *out)
{
    switch ((int)in->type) {
    case MQ_IN_READY:
        mq_worker_ready(core, in, out);
        break;
    case MQ_IN_CREDIT:
        mq_worker_credit(core, in, out);
        break;
    case MQ_IN_BEAT:
        mq_worker_beat(core, in, out);
        break;
    case MQ_IN_RESULT:
        mq_result(core, in, out);
        break;
    case MQ_IN_CHECKPOINT:
        mq_checkpoint(core, in, out);
        break;
    case MQ_IN_LOST:
        mq_lost(core, in, out);
        break;
    case MQ_IN_BYE:
        mq_worker_bye(core, in, out);
        break;
    case MQ_IN_UNSENT:
        mq_worker_unsent(core, in, out);
        break;
    default:
        return false;
    }
    return true;
}

static void step(mq_core *core, const mq_input *in, mq_outputs *out)
{
    if (in->type == MQ_IN_TURN) {
        turn(core, out);
    } else if (!step_store(core, in, out) && !step_client(core, in, out)) {
        bool is_known = step_worker(core, in, out);
        MQ_ASSERT(is_known);
    }
}

void mq_core_step(mq_core *core, const mq_input *in, mq_outputs *out)
{
    out->count = out->member_count = out->verdict_count = out->text_len = 0;
    out->batch = NULL;
    out->wants_replicas = false;
    mq_graves_clear(core);
    core->now_ms = mq_max_i64(core->now_ms, in->now_ms);
    MQ_ASSERT(core->is_begun || in->type == MQ_IN_BEGIN);
    core->wants_turn = core->wants_turn || in->type != MQ_IN_TURN;
    step(core, in, out);
}

bool mq_core_drain_bytes(mq_core *core, mq_outputs *out)
{
    out->count = 0;
    out->batch = NULL;
    for (uint32_t i = 0; i < core->job_slots.high; i++) {
        mq_job *job = &core->jobs[i];
        if (out->count + 2 > MQ_OUTPUTS_MAX) {
            return false;
        }
        if (job->is_used) {
            mq_out_refuse(out, job->body);
            mq_out_refuse(out, job->result);
            job->body = job->result = NULL;
        }
    }
    return true;
}

int64_t mq_core_deadline(const mq_core *core)
{
    if (core->wants_turn) {
        return core->now_ms;
    }
    int64_t at = mq_min_i64(mq_replica_deadline(core), core->affinity_ms);
    const mq_heap_entry *top = mq_heap_top(&core->timers);
    if (top != NULL) {
        at = mq_min_i64(at, top->key);
    }
    top = mq_heap_top(&core->limit_timers);
    if (top != NULL) {
        at = mq_min_i64(at, top->key);
    }
    if (core->kept_head != MQ_NONE) {
        at = mq_min_i64(at, core->jobs[core->kept_head].kept_ms + MQ_KEEP_MS);
    }
    if (core->worker_slots.count > 0) {
        at = mq_min_i64(at, core->workers_checked_ms + core->config.lease_ms / 4);
    }
    if (core->gang_slots.count > 0) {
        at = mq_min_i64(at, core->now_ms + MQ_GANG_CHANGE_MS);
    }
    return at;
}

/* ---- reading ---- */

void mq_core_stats_read(const mq_core *core, mq_core_stats *out)
{
    *out = core->stats;
    out->epoch = core->epoch;
    out->sequence = core->sequence;
    out->jobs = core->job_slots.count;
    out->jobs_max = core->config.jobs_max;
    out->transient = core->transient;
    out->workers = core->worker_slots.count;
    out->slots = core->slots_connected;
    out->free_slots = mq_idle_slots(core);
    out->gangs = core->gang_slots.count;
    out->waiters = core->waiter_slots.count;
    out->held_bytes = core->held_bytes;
    out->pool_bytes_used = core->pool.used_bytes;
    out->is_loading = core->is_loading;
    out->is_full = core->is_full;
}

uint32_t mq_core_crons(const mq_core *core)
{
    return core->stats.crons;
}

uint32_t mq_core_slots(const mq_core *core)
{
    return core->job_slots.high;
}

bool mq_core_record(const mq_core *core, uint32_t slot, mq_job_record *out)
{
    if (slot >= core->job_slots.high || !core->jobs[slot].is_used) {
        return false;
    }
    mq_job_fill(core, &core->jobs[slot], true, out);
    return true;
}

bool mq_core_job(const mq_core *core, uint32_t slot, mq_job_view *out)
{
    if (slot >= core->job_slots.high || !core->jobs[slot].is_used) {
        return false;
    }
    const mq_job *job = &core->jobs[slot];
    bool is_hidden = mq_job_ended(job) && !job->is_transient;
    *out = (mq_job_view){
        .id = mq_span_of(job->id, MQ_ULID_LEN),
        .kind = mq_name_text(core, job->kind),
        .queue = mq_name_text(core, job->queue),
        .model = mq_name_text(core, job->model),
        .tenant = mq_name_text(core, job->tenant),
        .worker = mq_str(job->holder),
        .state = (mq_state)(is_hidden ? job->before : job->state),
        .number = job->number,
        .submitted_ms = job->submitted_ms,
        .leased_ms = job->leased_ms,
        .run_at_ms = job->run_at_ms,
        .priority = job->priority,
        .attempts = job->attempts,
        .seats = job->gang == MQ_NONE ? 0 : core->gangs[job->gang].count,
        .is_transient = job->is_transient,
    };
    return true;
}

bool mq_core_holds(const mq_core *core, mq_span id, uint64_t epoch, uint64_t grant, mq_span worker)
{
    uint32_t no = mq_core_find(core, id);
    if (no == MQ_NONE || core->jobs[no].epoch != epoch) {
        return false;
    }
    const mq_job *job = &core->jobs[no];
    if (job->gang != MQ_NONE) {
        return mq_gang_seat_at(&core->gangs[job->gang], grant, worker) != MQ_NONE;
    }
    return !mq_job_ended(job) && job->grant == grant &&
           (worker.len == 0 || mq_span_is(worker, job->holder));
}

void mq_core_held(const mq_core *core, uint32_t worker, mq_core_on_held *on_held, void *arg)
{
    mq_job_view view;
    if (worker >= core->worker_slots.high || !core->workers[worker].is_used) {
        return;
    }
    for (uint32_t j = core->workers[worker].held_head; j != MQ_NONE; j = core->jobs[j].held_next) {
        if (mq_core_job(core, j, &view)) {
            on_held(arg, &view, 0, core->jobs[j].is_accepted);
        }
    }
    for (uint32_t g = 0; g < core->gang_slots.high; g++) {
        const mq_gang *gang = &core->gangs[g];
        for (uint32_t i = 0; gang->is_used && i < gang->count; i++) {
            if (gang->seats[i].worker == worker && mq_core_job(core, gang->job, &view)) {
                on_held(arg, &view, gang->seats[i].seat, gang->seats[i].is_accepted);
            }
        }
    }
}

/* Events in their order, the life of processes, faults. Must not know what messages mean. */
#include "tests/sim/sim.h"

#include <stdarg.h>

#include "shared/base/map.h"

static void fault_tick(sim *s, sim_event *e);
static void start_party(sim *s, uint32_t party);
static void stop_party(sim *s, uint32_t party);

uint64_t sim_draw(sim *s, uint64_t bound)
{
    return mq_prng_below(&s->prng, bound);
}

bool sim_fault_now(sim *s, sim_fault fault)
{
    if (s->is_calm || s->rate[fault] == 0 || sim_draw(s, s->rate[fault]) != 0) {
        return false;
    }
    s->injected[fault]++;
    return true;
}

int64_t sim_wall(const sim *s)
{
    return SIM_T0 + s->now_ms;
}

void sim_new_id(sim *s, int64_t wall_ms, char out[MQ_ULID_SIZE])
{
    uint8_t random[10] = {0};
    uint64_t n = mq_hash64(mq_span_of(&(uint64_t[]){s->seed, ++s->ids}, 16), 5);
    memcpy(random, &n, sizeof n);
    mq_ulid_make(wall_ms, random, out);
}

/* ---- what happened ---- */

void sim_trace(sim *s, const char *fmt, ...)
{
    char *line = s->lines[s->line_count++ % SIM_TRACE_LINES];
    int at = snprintf(line, SIM_LINE, "%8lld ", (long long)s->now_ms);
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(line + at, SIM_LINE - (size_t)at, fmt, args);
    va_end(args);
    s->hash = mq_hash64(mq_str(line), s->hash);
    if (s->does_print) {
        puts(line);
    }
}

_Noreturn void sim_fail(sim *s, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(s->reason, sizeof s->reason, fmt, args);
    va_end(args);
    longjmp(s->failed, 1);
}

/* ---- events ---- */

static bool is_before(const sim_event *a, const sim_event *b)
{
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->number < b->number;
}

static void push(sim *s, sim_event *e)
{
    if (s->heap_count == s->heap_capacity) {
        s->heap_capacity = s->heap_capacity * 2 + 256;
        s->heap = realloc(s->heap, s->heap_capacity * sizeof(sim_event *));
        MQ_ASSERT(s->heap != NULL);
    }
    uint32_t i = s->heap_count++;
    for (; i > 0 && is_before(e, s->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        s->heap[i] = s->heap[(i - 1) / 2];
    }
    s->heap[i] = e;
}

static sim_event *pop(sim *s)
{
    if (s->heap_count == 0) {
        return NULL;
    }
    sim_event *top = s->heap[0];
    sim_event *last = s->heap[--s->heap_count];
    uint32_t i = 0;
    for (uint32_t child = 1; child < s->heap_count; child = 2 * i + 1) {
        child += child + 1 < s->heap_count && is_before(s->heap[child + 1], s->heap[child]);
        if (!is_before(s->heap[child], last)) {
            break;
        }
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

void sim_at(sim *s, int64_t at_ms, sim_run *run, uint32_t party, uint64_t a, void *data)
{
    sim_event *e = malloc(sizeof *e);
    MQ_ASSERT(e != NULL);
    *e = (sim_event){.at_ms = mq_max_i64(at_ms, s->now_ms),
                     .number = ++s->event_numbers,
                     .run = run,
                     .party = party,
                     .life = party == SIM_NONE ? 0 : s->parties[party].life,
                     .a = a,
                     .data = data};
    push(s, e);
}

void sim_resume(sim *s, uint32_t party)
{
    uint32_t count = s->heap_count;
    s->parties[party].paused_until_ms = 0;
    s->heap_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        sim_event *e = s->heap[i];
        if (e->is_put_off && e->party == party) {
            e->at_ms = s->now_ms;
        }
        push(s, e); /* never behind what has been read */
    }
}

/* One event. False when there is none. */
static bool step(sim *s)
{
    sim_event *e = pop(s);
    if (e == NULL) {
        return false;
    }
    s->now_ms = e->at_ms;
    s->steps++;
    const sim_party *p = e->party == SIM_NONE ? NULL : &s->parties[e->party];
    bool is_gone = p != NULL && (!p->is_alive || p->life != e->life);
    if (!is_gone && p != NULL && p->paused_until_ms > s->now_ms) {
        e->at_ms = p->paused_until_ms; /* keeps its number, and so its place */
        e->is_put_off = true;
        push(s, e);
        return true;
    }
    if (!is_gone) {
        e->run(s, e);
    }
    free(e->data);
    free(e);
    return true;
}

/* ---- faults ---- */

static void restart(sim *s, sim_event *e)
{
    uint32_t party = (uint32_t)e->a;
    if (!s->parties[party].is_alive) {
        start_party(s, party);
    }
}

static void crash(sim *s, uint32_t party)
{
    if (s->parties[party].is_alive) {
        stop_party(s, party);
        int64_t ms = sim_draw(s, 3) == 0 ? (int64_t)sim_draw(s, 8000) : (int64_t)sim_draw(s, 500);
        sim_at(s, s->now_ms + ms, restart, SIM_NONE, party, NULL);
    }
}

static void pause_one(sim *s)
{
    sim_party *p = &s->parties[sim_draw(s, SIM_PARTIES)];
    int64_t ms =
        (int64_t)sim_draw(s, sim_draw(s, 2) == 0 ? 1000 : 8 * (uint64_t)s->config.lease_ms);
    if (p->is_alive) {
        sim_trace(s, "party %d is paused for %lld ms", (int)(p - s->parties), (long long)ms);
        p->paused_until_ms = mq_max_i64(p->paused_until_ms, s->now_ms + ms);
    }
}

static void store_faults(sim *s)
{
    if (sim_fault_now(s, SIM_F_STORE_BREAK)) {
        sim_store_break(s, &s->brokers[sim_draw(s, s->broker_count)]);
    }
    if (sim_fault_now(s, SIM_F_STORE_RESTART)) {
        s->store_down_ms = s->now_ms + (int64_t)sim_draw(s, 3000);
        sim_trace(s, "the store restarts");
        for (uint32_t i = 0; i < s->broker_count; i++) {
            sim_store_break(s, &s->brokers[i]);
        }
    }
    if (sim_fault_now(s, SIM_F_STORE_SLOW)) {
        s->store_slow_ms = s->now_ms + (int64_t)sim_draw(s, 5000);
    }
    if (sim_fault_now(s, SIM_F_STORE_FULL)) {
        s->full_until_ms = s->now_ms + (int64_t)sim_draw(s, 4000);
        mq_memory_set_max(s->disk, 1 + mq_memory_used(s->disk) * (9 + sim_draw(s, 8)) / 12);
    }
    if (s->full_until_ms != 0 && s->now_ms >= s->full_until_ms) {
        s->full_until_ms = 0;
        mq_memory_set_max(s->disk, 0);
    }
    if (sim_fault_now(s, SIM_F_CLOCK)) {
        s->store_skew_ms = (int64_t)sim_draw(s, 240000) - 120000;
        sim_trace(s, "the store's clock is %lld ms ahead", (long long)s->store_skew_ms);
    }
}

static void fault_tick(sim *s, sim_event *e)
{
    (void)e;
    if (s->is_calm) {
        return;
    }
    if (sim_fault_now(s, SIM_F_BROKER_CRASH)) {
        crash(s, (uint32_t)sim_draw(s, s->broker_count));
    }
    if (sim_fault_now(s, SIM_F_WORKER_CRASH)) {
        crash(s, sim_party_worker((uint32_t)sim_draw(s, s->worker_count)));
    }
    if (sim_fault_now(s, SIM_F_CLIENT_CRASH)) {
        crash(s, sim_party_client((uint32_t)sim_draw(s, s->client_count)));
    }
    if (sim_fault_now(s, SIM_F_PAUSE)) {
        pause_one(s);
    }
    if (s->conn_count > 0 && sim_fault_now(s, SIM_F_CUT)) {
        uint64_t recent = mq_min_size(s->conn_count, 12);
        sim_break(s, s->conn_count - sim_draw(s, recent));
    }
    if (sim_fault_now(s, SIM_F_PARTITION)) {
        sim_partition(s);
    }
    if (s->conn_count > 0 && sim_fault_now(s, SIM_F_STALL)) {
        sim_stall(s);
    }
    if (sim_fault_now(s, SIM_F_DRAIN)) {
        sim_client_command(s, &s->clients[0], "drain",
                           s->workers[sim_draw(s, s->worker_count)].uuid);
    }
    store_faults(s);
    sim_at(s, s->now_ms + 100, fault_tick, SIM_NONE, 0, NULL);
}

/* The mix: about half of the kinds, each at its own rate; ticks come ten times a second. */
static void draw_faults(sim *s)
{
    static const uint32_t usual[SIM_FAULTS] = {
        [SIM_F_BROKER_CRASH] = 80, [SIM_F_WORKER_CRASH] = 60, [SIM_F_CLIENT_CRASH] = 100,
        [SIM_F_SLOT_CRASH] = 12,   [SIM_F_PAUSE] = 60,        [SIM_F_CUT] = 40,
        [SIM_F_PARTITION] = 80,    [SIM_F_STALL] = 40,        [SIM_F_PIPE_FULL] = 30,
        [SIM_F_REPEAT] = 10,       [SIM_F_STORE_BREAK] = 80,  [SIM_F_STORE_RESTART] = 150,
        [SIM_F_STORE_SLOW] = 80,   [SIM_F_STORE_LATE] = 2,    [SIM_F_STORE_FULL] = 100,
        [SIM_F_CLOCK] = 200,       [SIM_F_SKEW] = 4,          [SIM_F_MISSING] = 4,
        [SIM_F_DRAIN] = 200,       [SIM_F_STALE] = 6,
    };
    bool is_quiet = sim_draw(s, 12) == 0; /* some lives have no faults at all */
    for (int i = 0; i < SIM_FAULTS; i++) {
        uint32_t scale = 1u << sim_draw(s, 4);
        bool is_on = sim_draw(s, 2) == 0 && !is_quiet;
        s->rate[i] = is_on ? (uint32_t)mq_max_i64(2, usual[i] * scale / 2) : 0;
    }
}

/* ---- processes ---- */

static void start_party(sim *s, uint32_t party)
{
    sim_party *p = &s->parties[party];
    p->is_alive = true;
    p->life++;
    p->paused_until_ms = 0;
    p->conn = 0;
    sim_trace(s, "party %u starts", party);
    if (party < SIM_BROKERS) {
        sim_broker_start(s, &s->brokers[party]);
    } else if (party < SIM_BROKERS + SIM_WORKERS) {
        sim_worker_start(s, &s->workers[party - SIM_BROKERS]);
    } else {
        sim_client_start(s, &s->clients[party - SIM_BROKERS - SIM_WORKERS]);
    }
}

static void stop_party(sim *s, uint32_t party)
{
    sim_trace(s, "party %u dies", party);
    s->parties[party].is_alive = false;
    sim_break_all_of(s, party);
    if (party < SIM_BROKERS) {
        sim_broker_stop(s, &s->brokers[party]);
    } else if (party < SIM_BROKERS + SIM_WORKERS) {
        sim_worker_stop(s, &s->workers[party - SIM_BROKERS]);
    } else {
        sim_client_stop(s, &s->clients[party - SIM_BROKERS - SIM_WORKERS]);
    }
}

static void start_all(sim *s)
{
    for (uint32_t i = 0; i < SIM_PARTIES; i++) {
        bool is_one = i < SIM_BROKERS ? i < s->broker_count
                      : i < SIM_BROKERS + SIM_WORKERS
                          ? i - SIM_BROKERS < s->worker_count
                          : i - SIM_BROKERS - SIM_WORKERS < s->client_count;
        if (is_one && !s->parties[i].is_alive) {
            start_party(s, i);
        }
    }
}

/* ---- a life ---- */

static void draw_config(sim *s)
{
    mq_core_config *c = &s->config;
    *c = mq_core_config_default();
    c->jobs_max = 1024;
    c->live_max = sim_draw(s, 4) == 0 ? 4 + (uint32_t)sim_draw(s, 12) : 512;
    c->tenant_live_max = sim_draw(s, 4) == 0 ? 4 + (uint32_t)sim_draw(s, 12) : 512;
    c->transient_max = 64;
    c->transient_per_slot = 1 + (uint32_t)sim_draw(s, 8);
    c->workers_max = 16;
    c->gangs_max = 8;
    c->names_max = 256;
    c->lanes_max = 32;
    c->edges_max = 1024;
    c->waiters_max = 8192;
    c->asks_max = sim_draw(s, 4) == 0 ? 1 + (uint32_t)sim_draw(s, 4) : 64;
    c->registry_max = 256;
    c->blobs_max = 256;
    c->recent_max = 1 + (uint32_t)sim_draw(s, 64);
    c->pool_bytes = 8 << 20;
    c->held_bytes_max = 4 << 20;
    c->lease_ms = 1000 + (int64_t)sim_draw(s, 5000);
    c->beat_ms = c->lease_ms / 3;
    c->seed = sim_draw(s, UINT64_MAX);
    s->tenure_ms = 1000 + (int64_t)sim_draw(s, 4000);
    s->broker_count = 1 + (uint32_t)sim_draw(s, SIM_BROKERS);
    s->worker_count = 1 + (uint32_t)sim_draw(s, SIM_WORKERS);
    s->client_count = 1 + (uint32_t)sim_draw(s, SIM_CLIENTS);
    s->slot_count = 1 + (uint32_t)sim_draw(s, SIM_SLOTS);
    s->prefetch = (uint32_t)sim_draw(s, 4);
    s->hand = (uint32_t)sim_draw(s, 9);
    s->delay_max_ms = sim_draw(s, 4) == 0 ? 300 : 1 + (int64_t)sim_draw(s, 10);
    s->store_max_ms = sim_draw(s, 4) == 0 ? 400 : 1 + (int64_t)sim_draw(s, 10);
    s->turn_max_ms = (int64_t)sim_draw(s, 3) * (int64_t)sim_draw(s, 20);
    s->fault_ms = sim_draw(s, 3) == 0 ? SIM_FAULT_MS : SIM_FAULT_MS / 4;
}

sim *sim_new(uint64_t seed, bool does_print)
{
    static mq_outputs out; /* large; emptied by each step */
    sim *s = calloc(1, sizeof *s);
    MQ_ASSERT(s != NULL);
    s->seed = seed;
    s->prng.state = seed * 0x2545f4914f6cdd1d + 1;
    s->does_print = does_print;
    s->out = &out;
    s->disk = mq_memory_new();
    mq_arena_init(&s->arena, 16 << 20);
    mq_buf_init(&s->header, MQ_HEADER_BYTES_MAX);
    mq_buf_init(&s->payload, MQ_PAYLOAD_BYTES_MAX);
    return s;
}

void sim_free(sim *s)
{
    for (uint32_t i = 0; i < SIM_PARTIES; i++) {
        if (s->parties[i].is_alive) {
            stop_party(s, i);
        }
    }
    sim_store_release(s);
    sim_policy_free(s);
    for (sim_event *e = pop(s); e != NULL; e = pop(s)) {
        free(e->data);
        free(e);
    }
    free(s->heap);
    free(s->conns);
    mq_arena_release(&s->arena);
    mq_buf_release(&s->header);
    mq_buf_release(&s->payload);
    mq_memory_free(s->disk);
    mq_memory_free(s->replica);
    mq_memory_free(s->former);
    free(s);
}

static void become_calm(sim *s)
{
    sim_trace(s, "calm");
    s->is_calm = true;
    s->store_down_ms = s->store_slow_ms = 0;
    mq_memory_set_max(s->disk, 0);
    memset(s->partition_ms, 0, sizeof s->partition_ms);
    for (uint32_t i = 0; i < SIM_PARTIES; i++) {
        sim_resume(s, i);
    }
    for (uint32_t i = 0; i < s->client_count; i++) {
        s->clients[i].skew_ms = 0;
    }
    for (uint32_t i = 0; i < s->conn_count; i++) {
        s->conns[i].stall_ms[0] = s->conns[i].stall_ms[1] = 0;
    }
    start_all(s);
    sim_replica_calm(s);
    sim_jobs_calm(s);
}

static void live(sim *s)
{
    draw_faults(s);
    draw_config(s);
    s->is_rush = s->seed % 6 == 3;
    sim_jobs_draw(s);
    sim_replica_init(s);
    start_all(s);
    sim_at(s, 100, fault_tick, SIM_NONE, 0, NULL);
    while (s->now_ms < s->fault_ms && step(s)) {
        sim_check_step(s);
    }
    become_calm(s);
    int64_t until_ms = s->now_ms + SIM_CALM_MS;
    uint64_t until_steps = s->steps + SIM_STEPS;
    while (!sim_check_is_over(s)) {
        if (s->now_ms >= until_ms || s->steps >= until_steps || !step(s)) {
            sim_check_dump(s);
            sim_fail(s, "not everything has ended after a long calm time");
        }
        sim_check_step(s);
    }
    sim_check_end(s);
}

bool sim_live(sim *s)
{
    if (setjmp(s->failed) != 0) {
        return false;
    }
    live(s);
    return true;
}

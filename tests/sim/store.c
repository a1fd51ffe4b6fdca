/* The in-memory store behind a link. A call is carried out when it arrives and answered when the
 * answer has come back; either may be lost with the link, and a commit that was on its way when its
 * link broke may be carried out late, after what its sender or another broker sent afterwards. Full
 * memory is the model's own. Must not know what records mean. */
#include "tests/sim/sim.h"

typedef enum op_type {
    OP_OWN,
    OP_COMMIT,
    OP_SEGMENTS,
    OP_SCAN,
    OP_BODY,
    OP_JOB,
    OP_REPLICAS
} op_type;

struct sim_op {
    struct sim_op *next;
    sim *s;
    sim_broker *b;
    uint64_t number, generation;
    op_type type;
    bool is_orphan; /* nobody waits for its answer any more */
    bool is_takeover, has_answer;
    int64_t late_ms;  /* not before */
    mq_store *handle; /* once carried out: holds the answer */
    mq_arena arena;   /* of batch */
    mq_store_batch batch;
    mq_store_part part;
    uint64_t segment;
    uint32_t ask;
    uint64_t conn, rid;
    char id[40], owner[16], endpoint[24], seen[MQ_LINEAGE_ID_SIZE];
};

/* ---- answers ---- */

static void on_owner(void *arg, mq_code code, const mq_store_owner *owner, const mq_error *err)
{
    sim_op *op = arg;
    (void)err;
    if (!op->is_orphan) {
        sim_broker_owned(op->s, op->b, op->is_takeover, code, owner);
    }
}

static void on_commit(void *arg, const mq_store_reply *reply)
{
    sim_op *op = arg;
    if (!op->is_orphan) {
        sim_broker_committed(op->s, op->b, op->generation, reply);
    }
}

static void on_field(void *arg, mq_code code, mq_span field, mq_span value, const mq_error *err)
{
    sim_op *op = arg;
    (void)err;
    if (op->is_orphan) {
        return;
    }
    if (op->type != OP_BODY) {
        sim_broker_field(op->s, op->b, op->generation, op->part, op->type == OP_SEGMENTS, code,
                         field, value);
    } else if (field.data != NULL || !op->has_answer) {
        op->has_answer = true;
        sim_broker_body(op->s, op->b, op->generation, mq_str(op->id), code, value,
                        field.data != NULL);
    }
}

static void on_job(void *arg, mq_code code, mq_span record, mq_span result, const mq_error *err)
{
    sim_op *op = arg;
    (void)err;
    if (op->is_orphan) {
        return;
    }
    if (op->ask != SIM_NONE) {
        sim_broker_found(op->s, op->b, op->generation, op->ask, code, record);
    } else {
        sim_broker_looked(op->s, op->b, op->conn, op->rid, mq_str(op->id), code, record, result);
    }
}

static void on_replicas(void *arg, mq_code code, uint64_t sequence, uint32_t count,
                        const mq_error *err)
{
    sim_op *op = arg;
    (void)err;
    if (!op->is_orphan) {
        sim_broker_replicas(op->s, op->b, op->generation, sequence, code == MQ_OK ? count : 0);
    }
}

/* ---- the way of a call ---- */

static sim_op *take(sim *s, uint64_t number)
{
    sim_op **at = &s->ops;
    while (*at != NULL && (*at)->number != number) {
        at = &(*at)->next;
    }
    sim_op *op = *at;
    if (op != NULL) {
        *at = op->next;
        op->next = NULL;
    }
    return op;
}

static void put(sim *s, sim_op *op)
{
    sim_op **at = &s->ops;
    while (*at != NULL && (*at)->number < op->number) {
        at = &(*at)->next;
    }
    op->next = *at;
    *at = op;
}

static void op_free(sim_op *op)
{
    op->is_orphan = true;
    if (op->handle != NULL) {
        op->handle->ops->free(op->handle);
    }
    mq_arena_release(&op->arena);
    free(op);
}

static int64_t trip(sim *s)
{
    int64_t ms = (int64_t)sim_draw(s, (uint64_t)s->store_max_ms + 1);
    bool is_slow = !s->is_calm && s->now_ms < s->store_slow_ms;
    return is_slow ? ms + (int64_t)sim_draw(s, 3000) : ms;
}

/* a: number of the call. */
static void answer(sim *s, sim_event *e)
{
    sim_op *op = take(s, e->a);
    if (op != NULL) {
        if (!op->is_orphan) {
            op->handle->ops->process(op->handle, 0, s->now_ms);
        }
        op_free(op);
    }
}

static mq_code run_commit(sim *s, sim_op *op, mq_error *err)
{
    uint64_t before = s->disk->sequence;
    sim_check_before(s, &op->batch);
    mq_code code = op->handle->ops->commit(op->handle, &op->batch, on_commit, op, err);
    bool is_applied = s->disk->sequence != before;
    sim_trace(s, "store: commit %llu.%llu of broker %u %s, %u new %u put %u end",
              (unsigned long long)op->batch.epoch, (unsigned long long)op->batch.sequence,
              op->b->no, is_applied ? "done" : "refused", op->batch.create_count,
              op->batch.put_count, op->batch.finish_count);
    sim_check_applied(s, &op->batch, is_applied);
    sim_replica_behind(s);
    return code;
}

static mq_code run_op(sim *s, sim_op *op, mq_error *err)
{
    mq_span id = mq_str(op->id);
    const mq_store_ops *ops = op->handle->ops;
    switch (op->type) {
    case OP_OWN:
        return ops->acquire(op->handle, mq_str(op->owner), mq_str(op->endpoint), s->tenure_ms,
                            op->is_takeover, true, mq_str(op->seen), on_owner, op, err);
    case OP_COMMIT:
        return run_commit(s, op, err);
    case OP_SEGMENTS:
        return ops->segments(op->handle, on_field, op, err);
    case OP_SCAN:
        return ops->scan(op->handle, op->part, op->segment, on_field, op, err);
    case OP_BODY:
        return ops->bodies(op->handle, &id, 1, on_field, op, err);
    case OP_REPLICAS:
        return ops->replicas(op->handle, 1, 1, on_replicas, op, err);
    case OP_JOB:
        break;
    }
    return ops->job(op->handle, id, on_job, op, err);
}

static void execute(sim *s, sim_event *e)
{
    sim_op *op = take(s, e->a);
    mq_error err = {0};
    if (op == NULL) {
        return;
    }
    put(s, op);
    if (op->late_ms > s->now_ms) {
        sim_at(s, op->late_ms, execute, SIM_NONE, op->number, NULL);
        return;
    }
    s->store_clock_ms = sim_wall(s) + s->store_skew_ms;
    mq_code code = mq_store_memory_new(&op->handle, s->disk, &s->store_clock_ms, &err);
    code = code == MQ_OK ? run_op(s, op, &err) : code;
    SIM_CHECK(s, code == MQ_OK, "the store does not take a call: %s", err.text);
    int64_t at_ms = mq_max_i64(s->now_ms + trip(s), op->b->answer_last_ms);
    if (!op->is_orphan) {
        op->b->answer_last_ms = at_ms;
    }
    /* A broker that is paused reads it later, one that died never. */
    sim_at(s, at_ms, answer, op->is_orphan ? SIM_NONE : op->b->no, op->number, NULL);
}

/* NULL: there is no link. */
static sim_op *call(sim *s, sim_broker *b, op_type type)
{
    if (!b->is_linked || s->now_ms < s->store_down_ms) {
        return NULL;
    }
    sim_op *op = calloc(1, sizeof *op);
    MQ_ASSERT(op != NULL);
    op->s = s;
    op->b = b;
    op->number = ++s->op_numbers;
    op->generation = b->generation;
    op->type = type;
    op->ask = SIM_NONE;
    mq_arena_init(&op->arena, SIZE_MAX / 2);
    put(s, op);
    b->store_last_ms = mq_max_i64(s->now_ms + trip(s), b->store_last_ms);
    sim_at(s, b->store_last_ms, execute, SIM_NONE, op->number, NULL);
    return op;
}

/* ---- calls ---- */

mq_code sim_store_acquire(sim *s, sim_broker *b, bool is_takeover)
{
    sim_op *op = call(s, b, OP_OWN);
    if (op == NULL) {
        return MQ_E_BUSY;
    }
    op->is_takeover = is_takeover;
    (void)snprintf(op->owner, sizeof op->owner, "broker-%u", b->no);
    (void)snprintf(op->endpoint, sizeof op->endpoint, "tcp://%u", b->no);
    (void)snprintf(op->seen, sizeof op->seen, "%s", s->witness[b->no].lineage);
    return MQ_OK;
}

static mq_span keep(sim_op *op, mq_span span)
{
    void *bytes = span.data == NULL ? NULL : mq_arena_copy(&op->arena, span);
    return mq_span_of(bytes, span.len);
}

static void *copy_rows(sim_op *op, const void *rows, uint32_t count, size_t size)
{
    return count == 0 ? NULL : mq_arena_copy(&op->arena, mq_span_of(rows, count * size));
}

static void copy_batch(sim_op *op, const mq_store_batch *from)
{
    mq_store_batch *to = &op->batch;
    *to = *from;
    mq_store_create *creates = copy_rows(op, from->creates, from->create_count, sizeof *creates);
    mq_store_put *puts = copy_rows(op, from->puts, from->put_count, sizeof *puts);
    mq_store_finish *finishes = copy_rows(op, from->finishes, from->finish_count, sizeof *finishes);
    mq_store_revive *revives = copy_rows(op, from->revives, from->revive_count, sizeof *revives);
    mq_store_set *sets = copy_rows(op, from->registry, from->registry_count, sizeof *sets);
    to->creates = creates;
    to->puts = puts;
    to->finishes = finishes;
    to->revives = revives;
    to->registry = sets;
    for (uint32_t i = 0; i < from->create_count; i++) {
        creates[i].id = keep(op, creates[i].id);
        creates[i].record = keep(op, creates[i].record);
        creates[i].body = keep(op, creates[i].body);
    }
    for (uint32_t i = 0; i < from->put_count; i++) {
        puts[i].id = keep(op, puts[i].id);
        puts[i].record = keep(op, puts[i].record);
    }
    for (uint32_t i = 0; i < from->finish_count; i++) {
        finishes[i].id = keep(op, finishes[i].id);
        finishes[i].record = keep(op, finishes[i].record);
        finishes[i].result = keep(op, finishes[i].result);
    }
    for (uint32_t i = 0; i < from->revive_count; i++) {
        revives[i].id = keep(op, revives[i].id);
        revives[i].record = keep(op, revives[i].record);
    }
    for (uint32_t i = 0; i < from->registry_count; i++) {
        sets[i].field = keep(op, sets[i].field);
        sets[i].value = keep(op, sets[i].value);
    }
}

/* The counters that broker/io/commit.c writes with a commit. */
static void add_counters(sim_op *op, const mq_tally *t)
{
    const struct {
        const char *name;
        uint32_t count;
    } rows[] = {{"submitted", t->submitted}, {"granted", t->granted},
                {"succeeded", t->succeeded}, {"dead", t->dead},
                {"cancelled", t->cancelled}, {"expired", t->expired},
                {"spawned", t->spawned},     {"published", t->published}};
    const uint32_t count = sizeof rows / sizeof rows[0];
    mq_store_count *counters = mq_arena_new(&op->arena, mq_store_count, count);
    MQ_ASSERT(counters != NULL);
    op->batch.counter_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (rows[i].count > 0) {
            counters[op->batch.counter_count++] =
                (mq_store_count){mq_str(rows[i].name), rows[i].count};
        }
    }
    op->batch.counters = counters;
}

bool sim_store_commit(sim *s, sim_broker *b, const mq_outputs *out)
{
    sim_op *op = call(s, b, OP_COMMIT);
    if (op == NULL) {
        return false;
    }
    copy_batch(op, out->batch);
    add_counters(op, &out->tally);
    s->commits++;
    if (out->wants_replicas && s->has_replica) {
        sim_store_replicas(s, b);
    }
    return true;
}

void sim_store_replicas(sim *s, sim_broker *b)
{
    sim_op *op = call(s, b, OP_REPLICAS);
    if (op != NULL) {
        b->is_asking_replicas = true;
        b->store_last_ms += (int64_t)sim_draw(s, 20); /* what comes behind it waits as long */
    }
}

void sim_store_segments(sim *s, sim_broker *b)
{
    if (call(s, b, OP_SEGMENTS) == NULL) {
        b->must_drop = true;
    }
}

void sim_store_scan(sim *s, sim_broker *b, mq_store_part part, uint64_t segment)
{
    sim_op *op = call(s, b, OP_SCAN);
    if (op == NULL) {
        b->must_drop = true;
        return;
    }
    op->part = part;
    op->segment = segment;
}

void sim_store_body(sim *s, sim_broker *b, mq_span id)
{
    sim_op *op = call(s, b, OP_BODY);
    if (op == NULL) {
        sim_broker_body(s, b, b->generation, id, MQ_E_IO, (mq_span){0}, false);
        return;
    }
    (void)mq_span_copy(id, op->id, sizeof op->id);
}

void sim_store_job(sim *s, sim_broker *b, mq_span id, uint32_t ask, uint64_t conn, uint64_t rid)
{
    sim_op *op = call(s, b, OP_JOB);
    if (op == NULL) {
        if (ask != SIM_NONE) {
            b->must_drop = true;
        } else {
            sim_broker_looked(s, b, conn, rid, id, MQ_E_IO, (mq_span){0}, (mq_span){0});
        }
        return;
    }
    (void)mq_span_copy(id, op->id, sizeof op->id);
    op->ask = ask;
    op->conn = conn;
    op->rid = rid;
}

/* ---- the end of a link ---- */

static void relink(sim *s, sim_event *e)
{
    sim_broker *b = &s->brokers[e->a];
    b->is_linked = true;
    sim_broker_wake(s, b, s->now_ms);
}

/* Tells whoever waits that the outcome is not known. */
static void op_fail(sim_op *op)
{
    mq_error err = {.code = MQ_E_IO, .text = "the link to the store broke"};
    mq_store_reply reply = {.verdict = MQ_STORE_FAILED, .sequence = op->batch.sequence, .err = err};
    mq_store_owner owner = {0};
    if (op->type == OP_OWN) {
        on_owner(op, err.code, &owner, &err);
    } else if (op->type == OP_COMMIT) {
        on_commit(op, &reply);
    } else if (op->type == OP_REPLICAS) {
        on_replicas(op, err.code, 0, 0, &err);
    } else if (op->type == OP_JOB) {
        on_job(op, err.code, (mq_span){0}, (mq_span){0}, &err);
    } else {
        on_field(op, err.code, (mq_span){0}, (mq_span){0}, &err);
    }
}

/* What is on its way and not carried out yet may be so later, or never. */
static void leave_behind(sim *s, sim_op *op)
{
    bool is_late =
        op->type == OP_COMMIT && op->handle == NULL && sim_fault_now(s, SIM_F_STORE_LATE);
    op->is_orphan = true;
    if (is_late) {
        op->late_ms = s->now_ms + (int64_t)sim_draw(s, 6000);
        put(s, op);
    } else {
        op_free(op);
    }
}

static void cut(sim *s, sim_broker *b, bool is_told)
{
    for (sim_op *op = s->ops; op != NULL;) {
        uint64_t number = op->number;
        if (op->b == b && !op->is_orphan) {
            (void)take(s, number);
            if (is_told) {
                op_fail(op);
            }
            leave_behind(s, op);
        }
        op = s->ops;
        while (op != NULL && op->number <= number) { /* NOLINT(clang-analyzer-unix.Malloc) */
            op = op->next;
        }
    }
}

void sim_store_break(sim *s, sim_broker *b)
{
    const sim_party *p = &s->parties[b->no];
    if (!b->is_linked || !p->is_alive || p->paused_until_ms > s->now_ms) {
        return;
    }
    sim_trace(s, "broker %u loses its link to the store", b->no);
    b->is_linked = false;
    cut(s, b, true);
    int64_t at_ms = mq_max_i64(s->now_ms, s->store_down_ms) + 20 + (int64_t)sim_draw(s, 1000);
    sim_at(s, at_ms, relink, b->no, b->no, NULL);
}

void sim_store_abandon(sim *s, sim_broker *b)
{
    cut(s, b, false);
}

void sim_store_release(sim *s)
{
    while (s->ops != NULL) {
        op_free(take(s, s->ops->number));
    }
}

bool sim_stored(const sim *s, mq_span id, mq_span *record, mq_span *result)
{
    const mq_memory *disk = s->is_former_back ? s->former : s->disk; /* the right one */
    const mq_dict_entry *e = mq_dict_find(&disk->live, id);
    *result = (mq_span){0};
    if (e != NULL) {
        *record = e->value;
        return true;
    }
    e = mq_dict_find(&disk->done, id);
    e = e == NULL ? mq_dict_find(&disk->dead, id) : e;
    if (e != NULL) {
        *record = mq_span_of(e->value.data, (size_t)e->extra);
        *result = mq_span_of(e->value.data + e->extra, e->value.len - (size_t)e->extra);
    }
    return e != NULL;
}

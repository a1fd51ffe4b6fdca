/* The broker's shell: what broker/io does around a core. Owns the shard by a tenure, loads, feeds
 * messages to the core, sends what it puts out, hands commits to the store. Decides nothing about
 * jobs. */
#include "tests/sim/sim.h"

enum { RETRY_MS = 250, GROUP_MAX = 64, UNSENT_MAX = 1024, FULL_PERCENT = 80, INBOX_MAX = 4096 };

typedef struct sim_bytes {
    mq_bytes bytes;
    sim_broker *b;
    uint8_t data[];
} sim_bytes;

typedef struct unsent {
    char id[33];
    uint64_t conn, grant;
    bool is_gone;
} unsent;

static bool step(sim *s, sim_broker *b, mq_input *in);

static mq_bytes *bytes_new(sim_broker *b, mq_span span)
{
    if (span.len == 0) {
        return NULL;
    }
    sim_bytes *bytes = malloc(sizeof *bytes + span.len);
    MQ_ASSERT(bytes != NULL);
    memcpy(bytes->data, span.data, span.len);
    bytes->bytes = (mq_bytes){bytes->data, span.len};
    bytes->b = b;
    b->bytes_alive++;
    return &bytes->bytes;
}

static void bytes_free(mq_bytes *bytes)
{
    if (bytes != NULL) {
        ((sim_bytes *)bytes)->b->bytes_alive--;
        free(bytes);
    }
}

/* ---- life ---- */

static void free_core(sim *s, sim_broker *b)
{
    bool is_empty = b->core == NULL;
    while (!is_empty) {
        is_empty = mq_core_drain_bytes(b->core, s->out);
        for (uint32_t i = 0; i < s->out->count; i++) {
            bytes_free(s->out->items[i].bytes);
        }
    }
    s->out->count = 0;
    free(b->memory);
    b->core = NULL;
    b->memory = NULL;
}

void sim_broker_drop(sim *s, sim_broker *b, const char *why)
{
    sim_trace(s, "broker %u drops its core: %s", b->no, why);
    free_core(s, b);
    SIM_CHECK(s, b->bytes_alive == 0, "broker %u: %u bodies were not given back", b->no,
              b->bytes_alive);
    b->generation++;
    b->own = SIM_OWN_NONE;
    b->is_renewing = b->must_drop = b->is_loading = b->is_asking_replicas = false;
    b->retry_ms = s->now_ms + RETRY_MS;
    sim_broker_wake(s, b, b->retry_ms);
}

void sim_broker_start(sim *s, sim_broker *b)
{
    uint64_t generation = b->generation + 1;
    uint32_t no = (uint32_t)(b - s->brokers);
    *b = (sim_broker){.no = no,
                      .generation = generation,
                      .moved_to = SIM_NONE,
                      .is_linked = true,
                      .wake_ms = INT64_MAX,
                      .wake = b->wake};
    sim_broker_wake(s, b, s->now_ms);
}

void sim_broker_stop(sim *s, sim_broker *b)
{
    sim_store_abandon(s, b);
    free_core(s, b);
    for (uint32_t i = 0; i < b->inbox_count; i++) {
        free(b->inbox[i]);
    }
    free(b->inbox);
    b->inbox = NULL;
    b->inbox_count = b->inbox_capacity = 0;
    b->bytes_alive = 0;
    b->generation++;
    b->own = SIM_OWN_NONE;
}

bool sim_broker_is_serving(const sim *s, const sim_broker *b)
{
    return b->core != NULL && b->own == SIM_OWN_SERVING && s->now_ms < b->renewed_ms + s->tenure_ms;
}

/* ---- loading: counters are left out, the core does not read them ---- */

static void load_next(sim *s, sim_broker *b)
{
    if (b->segment_next < b->segment_count) {
        sim_store_scan(s, b, MQ_PART_LIVE, b->segments[b->segment_next]);
        return;
    }
    mq_input in = {.type = MQ_IN_LOADED};
    (void)step(s, b, &in);
    b->is_loading = false;
    mq_core_stats stats;
    mq_core_stats_read(b->core, &stats);
    sim_trace(s, "broker %u has loaded %u jobs under epoch %llu", b->no, stats.jobs,
              (unsigned long long)b->epoch);
    SIM_CHECK(s, stats.load_errors == 0, "broker %u: %llu records could not be loaded", b->no,
              (unsigned long long)stats.load_errors);
    sim_broker_wake(s, b, s->now_ms);
}

static void begin(sim *s, sim_broker *b)
{
    uint64_t last = b->has_segment ? b->max_segment + 1 : 0;
    b->memory = calloc(1, mq_core_bytes(&s->config));
    MQ_ASSERT(b->memory != NULL);
    mq_core_config config = s->config;
    config.seed ^= b->epoch;
    b->core = mq_core_init(b->memory, &config);
    mq_input in = {.type = MQ_IN_BEGIN,
                   .as.begin = {b->epoch, b->sequence, last * MQ_STORE_SEGMENT_JOBS}};
    (void)step(s, b, &in);
    sim_store_scan(s, b, MQ_PART_REGISTRY, 0);
}

static void on_segment(sim *s, sim_broker *b, mq_span field)
{
    if (field.data == NULL) {
        begin(s, b);
        return;
    }
    char text[24];
    (void)mq_span_copy(field, text, sizeof text);
    uint64_t n = strtoull(text, NULL, 10);
    SIM_CHECK(s, b->segment_count < 64, "too many segments");
    b->segments[b->segment_count++] = n;
    b->max_segment = b->has_segment && b->max_segment > n ? b->max_segment : n;
    b->has_segment = true;
}

void sim_broker_field(sim *s, sim_broker *b, uint64_t generation, mq_store_part part,
                      bool is_segment, mq_code code, mq_span field, mq_span value)
{
    if (generation != b->generation || b->must_drop) {
        return;
    }
    if (code != MQ_OK) {
        sim_broker_drop(s, b, "a part could not be read");
    } else if (is_segment) {
        on_segment(s, b, field);
    } else if (part == MQ_PART_REGISTRY && field.data != NULL) {
        mq_input in = {.type = MQ_IN_REGISTRY, .as.registry = {field, value}};
        (void)step(s, b, &in);
    } else if (part == MQ_PART_REGISTRY) {
        b->own = SIM_OWN_SERVING;
        b->is_loading = true;
        load_next(s, b);
        sim_broker_wake(s, b, s->now_ms);
    } else if (field.data != NULL) {
        mq_input in = {.type = MQ_IN_LOAD, .as.record = value};
        (void)step(s, b, &in);
    } else {
        b->segment_next++;
        load_next(s, b);
    }
}

/* ---- ownership ---- */

static void note(sim *s, sim_broker *b, const mq_store_owner *owner)
{
    b->offset_ms = owner->now_ms - s->now_ms;
    b->renewed_ms = b->renew_sent_ms;
    b->used_bytes = owner->used_bytes;
    b->max_bytes = owner->max_bytes;
}

static void press(sim *s, sim_broker *b)
{
    bool is_full = b->max_bytes > 0 && b->used_bytes / FULL_PERCENT * 100 > b->max_bytes;
    if (is_full != b->is_full) {
        b->is_full = is_full;
        mq_input in = {.type = MQ_IN_PRESSURE, .as.is_full = is_full};
        (void)step(s, b, &in);
    }
}

static void acquired(sim *s, sim_broker *b, mq_code code, const mq_store_owner *owner)
{
    if (b->own != SIM_OWN_ASKED) {
        return;
    }
    b->own = SIM_OWN_NONE;
    b->retry_ms = s->now_ms + RETRY_MS;
    b->moved_to = SIM_NONE;
    sim_broker_wake(s, b, b->retry_ms);
    if (!sim_replica_is_right(s, b, code, owner)) {
        return;
    }
    if (!owner->is_ours) {
        b->moved_to = (uint32_t)strtoul(owner->owner + strlen("broker-"), NULL, 10);
        return;
    }
    sim_trace(s, "broker %u owns the shard, epoch %llu", b->no, (unsigned long long)owner->epoch);
    note(s, b, owner);
    b->epoch = owner->epoch;
    b->sequence = owner->sequence;
    b->segment_count = b->segment_next = 0;
    b->has_segment = b->is_full = false;
    b->own = SIM_OWN_READING;
    sim_store_segments(s, b);
}

void sim_broker_owned(sim *s, sim_broker *b, bool is_takeover, mq_code code,
                      const mq_store_owner *owner)
{
    if (is_takeover) {
        acquired(s, b, code, owner);
        return;
    }
    if (!b->is_renewing || b->core == NULL) {
        return;
    }
    b->is_renewing = false;
    if (!sim_replica_is_right(s, b, code, owner) || !owner->is_ours || owner->epoch != b->epoch) {
        sim_broker_drop(s, b, "not renewed");
        return;
    }
    note(s, b, owner);
    sim_broker_wake(s, b, s->now_ms);
}

static void ask_for_shard(sim *s, sim_broker *b, bool is_takeover)
{
    b->renew_sent_ms = s->now_ms;
    if (sim_store_acquire(s, b, is_takeover) != MQ_OK) {
        b->retry_ms = s->now_ms + RETRY_MS;
        sim_broker_wake(s, b, b->retry_ms);
    } else if (is_takeover) {
        b->own = SIM_OWN_ASKED;
    } else {
        b->is_renewing = true;
    }
}

static int64_t renew_at(const sim *s, const sim_broker *b)
{
    return mq_max_i64(b->renewed_ms + s->tenure_ms / 3, b->retry_ms);
}

static void tick(sim *s, sim_broker *b)
{
    if (b->must_drop) {
        sim_broker_drop(s, b, "the store could not be asked");
    }
    if (b->core == NULL) {
        if (b->own == SIM_OWN_NONE && s->now_ms >= b->retry_ms) {
            ask_for_shard(s, b, true);
        }
        return;
    }
    press(s, b);
    sim_replica_ask(s, b);
    if (!b->is_renewing && s->now_ms >= renew_at(s, b)) {
        ask_for_shard(s, b, false);
    }
}

/* ---- what the core puts out ---- */

static void send_group(sim *s, sim_broker *b, uint32_t from, uint32_t count, unsent *lost,
                       uint32_t *lost_count)
{
    mq_output *first = &s->out->items[from];
    mq_msg_job_item jobs[GROUP_MAX];
    mq_msg_submitted_job submitted[GROUP_MAX];
    mq_msg_done_job done[GROUP_MAX];
    mq_msg_held_verdict verdicts[GROUP_MAX];
    mq_buf_reset(&s->payload);
    for (uint32_t i = 0; i < count; i++) {
        const mq_output *o = &s->out->items[from + i];
        if (o->type == MQ_OUT_JOB) {
            sim_check_job_out(s, b, o);
            jobs[i] = o->as.job;
            jobs[i].len = o->payload.len;
        } else if (o->type == MQ_OUT_SUBMITTED) {
            submitted[i] = o->as.submitted;
        } else if (o->type == MQ_OUT_ENDED) {
            done[i] = o->as.ended.done;
            done[i].len = o->payload.len;
        } else {
            verdicts[i] = o->as.verdict;
        }
        mq_buf_add_span(&s->payload, o->payload);
    }
    mq_span payload = mq_buf_span(&s->payload);
    if (first->type == MQ_OUT_SUBMITTED) {
        mq_msg_submitted m = {.rid = first->rid, .jobs = submitted, .jobs_count = count};
        (void)sim_send(s, first->conn, true, MQ_CMD_submitted, &m, payload);
    } else if (first->type == MQ_OUT_ENDED) {
        mq_msg_done m = {.jobs = done, .jobs_count = count};
        mq_code code = sim_send(s, first->conn, true, MQ_CMD_done, &m, payload);
        if (code == MQ_E_BUSY && first->as.ended.is_transient) { /* kept back, sent later */
            uint32_t rate = s->rate[SIM_F_PIPE_FULL];
            s->rate[SIM_F_PIPE_FULL] = 0;
            (void)sim_send(s, first->conn, true, MQ_CMD_done, &m, payload);
            s->rate[SIM_F_PIPE_FULL] = rate;
        }
    } else if (first->type == MQ_OUT_VERDICT) {
        mq_msg_verdict m = {.verdicts = verdicts, .verdicts_count = count};
        (void)sim_send(s, first->conn, true, MQ_CMD_verdict, &m, payload);
    } else {
        mq_msg_job m = {.jobs = jobs, .jobs_count = count};
        mq_code code = sim_send(s, first->conn, true, MQ_CMD_job, &m, payload);
        for (uint32_t i = 0; i < count && code != MQ_OK && *lost_count < UNSENT_MAX; i++) {
            unsent *u = &lost[(*lost_count)++];
            (void)mq_span_copy(jobs[i].id, u->id, sizeof u->id);
            *u = (unsent){
                .conn = first->conn, .grant = jobs[i].grant, .is_gone = code == MQ_E_NOT_FOUND};
            (void)mq_span_copy(jobs[i].id, u->id, sizeof u->id);
        }
    }
}

static void act_single(sim *s, sim_broker *b, const mq_output *o)
{
    mq_span none = {0};
    switch ((int)o->type) {
    case MQ_OUT_REPLY: {
        mq_msg_reply m = o->as.reply;
        m.rid = o->rid;
        (void)sim_send(s, o->conn, true, MQ_CMD_reply, &m, none);
        break;
    }
    case MQ_OUT_REGISTERED:
        (void)sim_send(s, o->conn, true, MQ_CMD_registered, &o->as.registered, none);
        break;
    case MQ_OUT_BEATEN:
        (void)sim_send(s, o->conn, true, MQ_CMD_beaten, &o->as.beaten, none);
        break;
    case MQ_OUT_CHECKPOINTED:
        (void)sim_send(s, o->conn, true, MQ_CMD_checkpointed, &o->as.checkpointed, none);
        break;
    case MQ_OUT_ROSTER:
        (void)sim_send(s, o->conn, true, MQ_CMD_roster, &o->as.roster, none);
        break;
    case MQ_OUT_DRAIN:
        (void)sim_send(s, o->conn, true, MQ_CMD_drain, &o->as.drain, none);
        break;
    case MQ_OUT_ERROR: {
        mq_msg_error m = o->as.error;
        m.rid = o->rid;
        (void)sim_send(s, o->conn, true, MQ_CMD_error, &m, none);
        break;
    }
    case MQ_OUT_RELEASE:
        bytes_free(o->bytes);
        break;
    case MQ_OUT_FETCH:
        sim_store_body(s, b, o->as.ask.id);
        break;
    case MQ_OUT_ASK:
        sim_store_job(s, b, o->as.ask.id, o->as.ask.ask, 0, 0);
        break;
    default: /* for watchers and blobs: nobody here */
        break;
    }
}

static bool is_grouped(mq_output_type type)
{
    return type == MQ_OUT_SUBMITTED || type == MQ_OUT_ENDED || type == MQ_OUT_JOB ||
           type == MQ_OUT_VERDICT;
}

static void act_all(sim *s, sim_broker *b, unsent *lost, uint32_t *lost_count)
{
    for (uint32_t i = 0; i < s->out->count;) {
        const mq_output *o = &s->out->items[i];
        uint32_t count = 1;
        if (!is_grouped(o->type)) {
            act_single(s, b, o);
            i++;
            continue;
        }
        for (; i + count < s->out->count && count < GROUP_MAX; count++) {
            const mq_output *next = &s->out->items[i + count];
            if (next->type != o->type || next->conn != o->conn || next->rid != o->rid) {
                break;
            }
        }
        send_group(s, b, i, count, lost, lost_count);
        i += count;
    }
}

/* False when there is no core any more. Takes what the input owns. */
static bool step(sim *s, sim_broker *b, mq_input *in)
{
    static unsent lost[UNSENT_MAX];
    uint32_t lost_count = 0;
    in->now_ms = s->now_ms + b->offset_ms;
    mq_core_step(b->core, in, s->out);
    sim_policy_step(s, b, in);
    const mq_store_batch *batch = s->out->batch;
    act_all(s, b, lost, &lost_count);
    if (batch != NULL && !sim_store_commit(s, b, s->out)) {
        b->must_drop = true;
        sim_broker_wake(s, b, s->now_ms);
    }
    uint64_t generation = b->generation;
    unsent mine[16];
    lost_count = lost_count < 16 ? lost_count : 16; /* the leases of others lapse */
    memcpy(mine, lost, sizeof *lost * lost_count);
    for (uint32_t i = 0; i < lost_count && b->generation == generation; i++) {
        mq_input back = {.type = MQ_IN_UNSENT, .conn = mine[i].conn};
        back.as.unsent.id = mq_str(mine[i].id);
        back.as.unsent.grant = mine[i].grant;
        back.as.unsent.is_gone = mine[i].is_gone;
        (void)step(s, b, &back);
    }
    return b->core != NULL;
}

/* ---- answers of the store ---- */

void sim_broker_committed(sim *s, sim_broker *b, uint64_t generation, const mq_store_reply *reply)
{
    static const char *const why[] = {"", "dup", "fenced", "gap", "full", "outcome not known"};
    if (generation != b->generation || b->core == NULL) {
        return;
    }
    if (reply->verdict != MQ_STORE_OK) {
        sim_broker_drop(s, b, why[reply->verdict]);
        return;
    }
    SIM_CHECK(s, reply->ignored_count == 0, "commit %llu: %u changes of jobs that are not there",
              (unsigned long long)reply->sequence, reply->ignored_count);
    b->sequence = reply->sequence;
    mq_input in = {.type = MQ_IN_STORED,
                   .as.stored = {reply->sequence, reply->dups, reply->dup_count}};
    (void)step(s, b, &in);
    sim_broker_wake(s, b, s->now_ms + (int64_t)sim_draw(s, (uint64_t)s->turn_max_ms + 1));
}

bool sim_broker_step(sim *s, sim_broker *b, mq_input *in)
{
    return step(s, b, in);
}

static void fetch_again(sim *s, sim_event *e)
{
    sim_broker *b = &s->brokers[e->party];
    if (b->generation == e->a) {
        sim_store_body(s, b, mq_str(e->data));
    }
}

void sim_broker_body(sim *s, sim_broker *b, uint64_t generation, mq_span id, mq_code code,
                     mq_span value, bool is_there)
{
    if (generation != b->generation || b->core == NULL) {
        return;
    }
    if (code != MQ_OK) {
        char *copy = calloc(1, id.len + 1);
        MQ_ASSERT(copy != NULL);
        memcpy(copy, id.data, id.len);
        sim_at(s, s->now_ms + 200, fetch_again, b->no, generation, copy);
        return;
    }
    mq_input in = {.type = MQ_IN_BODY, .as.id = id};
    in.body = is_there ? bytes_new(b, value) : NULL;
    (void)step(s, b, &in);
    sim_broker_wake(s, b, s->now_ms);
}

void sim_broker_found(sim *s, sim_broker *b, uint64_t generation, uint32_t ask, mq_code code,
                      mq_span record)
{
    if (generation != b->generation || b->core == NULL) {
        return;
    }
    mq_input in = {.type = MQ_IN_FOUND};
    in.as.found.ask = ask;
    in.as.found.record = code == MQ_OK ? record : (mq_span){0};
    in.as.found.is_failed = code != MQ_OK && code != MQ_E_NOT_FOUND;
    bool is_failed = in.as.found.is_failed;
    (void)step(s, b, &in);
    b->must_drop = b->must_drop || is_failed; /* what hung on the answer is lost with it */
    sim_broker_wake(s, b, s->now_ms);
}

static void send_error(sim *s, uint64_t conn, uint64_t rid, mq_code code, const char *text)
{
    mq_msg_error m = {.rid = rid,
                      .code = mq_str(mq_code_name(code)),
                      .text = mq_str(text),
                      .retry_ms = code == MQ_E_BUSY ? 1000 : 0};
    (void)sim_send(s, conn, true, MQ_CMD_error, &m, (mq_span){0});
}

static void send_state(sim *s, uint64_t conn, uint64_t rid, const mq_job_record *r, mq_span result)
{
    mq_msg_state m = {.rid = rid,
                      .verdict = mq_str("ok"),
                      .id = r->id,
                      .kind = r->kind,
                      .state = r->state,
                      .why = r->why,
                      .code = r->code,
                      .error = r->error,
                      .epoch = r->epoch,
                      .grant = r->grant};
    (void)sim_send(s, conn, true, MQ_CMD_state, &m, result);
}

void sim_broker_looked(sim *s, sim_broker *b, uint64_t conn, uint64_t rid, mq_span id, mq_code code,
                       mq_span record, mq_span result)
{
    if (code == MQ_OK) {
        SIM_CHECK(s, mq_job_record_read(record, &s->a, NULL) == MQ_OK, "a record is not readable");
    }
    if (code == MQ_OK && sim_replica_is_sure(b, s->a.flags)) {
        send_state(s, conn, rid, &s->a, result);
    } else if (code == MQ_E_NOT_FOUND) {
        mq_msg_state m = {.rid = rid, .verdict = mq_str("not_found"), .id = id};
        (void)sim_send(s, conn, true, MQ_CMD_state, &m, (mq_span){0});
    } else {
        send_error(s, conn, rid, MQ_E_BUSY, "the store cannot be asked, or no replica is sure");
    }
}

/* ---- messages in ---- */

static void on_hello(sim *s, const sim_message *m)
{
    mq_msg_welcome welcome = {.version = MQ_WIRE_VERSION,
                              .now_ms = sim_wall(s) + s->store_skew_ms,
                              .beat_ms = (uint64_t)s->config.beat_ms,
                              .lease_ms = (uint64_t)s->config.lease_ms};
    (void)sim_send(s, m->conn, true, MQ_CMD_welcome, &welcome, (mq_span){0});
}

static void on_submit(sim *s, sim_broker *b, const sim_message *m, const mq_msg_submit *submit)
{
    size_t at = m->header_len;
    for (uint32_t i = 0; i < submit->jobs_count; i++) {
        mq_input in = {.type = MQ_IN_SUBMIT, .conn = m->conn, .rid = submit->rid};
        in.body = bytes_new(b, mq_span_of(m->bytes + at, submit->jobs[i].len));
        in.as.submit = &submit->jobs[i];
        at += submit->jobs[i].len;
        if (!step(s, b, &in)) {
            return;
        }
    }
}

static void on_get(sim *s, sim_broker *b, const sim_message *m, const mq_msg_get *get)
{
    uint32_t slot = mq_core_find(b->core, get->id);
    bool is_live = slot != MQ_CORE_NO_SLOT && mq_core_record(b->core, slot, &s->a) &&
                   !mq_state_is_terminal(mq_state_parse(s->a.state));
    if (is_live) {
        send_state(s, m->conn, get->rid, &s->a, (mq_span){0});
    } else {
        sim_store_job(s, b, get->id, SIM_NONE, m->conn, get->rid);
    }
}

static void tell_missing(sim *s, uint64_t conn, const mq_msg_result_item *item)
{
    mq_msg_held_verdict v = {.id = item->id,
                             .epoch = item->epoch,
                             .grant = item->grant,
                             .verdict = mq_str("missing"),
                             .missing = item->blobs,
                             .missing_count = item->blobs_count};
    mq_msg_verdict m = {.verdicts = &v, .verdicts_count = 1};
    (void)sim_send(s, conn, true, MQ_CMD_verdict, &m, (mq_span){0});
}

static void on_result(sim *s, sim_broker *b, const sim_message *m, const mq_msg_result *result)
{
    size_t at = m->header_len;
    for (uint32_t i = 0; i < result->jobs_count; i++) {
        const mq_msg_result_item *item = &result->jobs[i];
        mq_span bytes = mq_span_of(m->bytes + at, item->len);
        mq_bytes *bodies[64] = {NULL};
        at += item->len;
        if (item->blobs_count > 0 && sim_fault_now(s, SIM_F_MISSING)) {
            tell_missing(s, m->conn, item);
            continue;
        }
        for (uint32_t k = 0; k < item->spawn_count; k++) {
            bodies[k] = bytes_new(b, item->spawn[k].body);
        }
        mq_input in = {.type = MQ_IN_RESULT, .conn = m->conn, .body = bytes_new(b, bytes)};
        in.as.result.item = item;
        in.as.result.worker = result->worker;
        in.as.result.spawn_bodies = bodies;
        if (!step(s, b, &in)) {
            return;
        }
    }
}

/* Everything whose input is the message itself. */
static bool feed_plain(sim *s, sim_broker *b, const sim_message *m, void *message)
{
    mq_input in = {.conn = m->conn};
    switch ((int)m->command) {
    case MQ_CMD_cancel:
        in.type = MQ_IN_CANCEL;
        in.as.cancel = message;
        in.rid = in.as.cancel->rid;
        break;
    case MQ_CMD_command:
        in.type = MQ_IN_COMMAND;
        in.as.command = message;
        in.rid = in.as.command->rid;
        break;
    case MQ_CMD_ready:
        in.type = MQ_IN_READY;
        in.as.ready = message;
        break;
    case MQ_CMD_credit:
        in.type = MQ_IN_CREDIT;
        in.as.credit = message;
        break;
    case MQ_CMD_beat:
        in.type = MQ_IN_BEAT;
        in.as.beat = message;
        break;
    case MQ_CMD_checkpoint:
        in.type = MQ_IN_CHECKPOINT;
        in.as.checkpoint = message;
        break;
    case MQ_CMD_lost:
        in.type = MQ_IN_LOST;
        in.as.lost = message;
        break;
    case MQ_CMD_bye:
        in.type = MQ_IN_BYE;
        in.as.worker = ((mq_msg_bye *)message)->worker;
        break;
    default:
        return false;
    }
    return step(s, b, &in);
}

static void process(sim *s, sim_broker *b, const sim_message *m)
{
    union {
        mq_msg_submit submit;
        mq_msg_get get;
        mq_msg_result result;
        mq_msg_ready ready;
        mq_msg_beat beat;
        mq_msg_checkpoint checkpoint;
        mq_msg_command command;
    } any;
    mq_error err = {0};
    mq_arena_reset(&s->arena);
    mq_code code =
        mq_wire_decode(m->command, mq_span_of(m->bytes, m->header_len), &any, &s->arena, &err);
    SIM_CHECK(s, code == MQ_OK, "message %s: %s", mq_command_name(m->command), err.text);
    if (m->command == MQ_CMD_hello) {
        on_hello(s, m);
    } else if (m->command == MQ_CMD_submit) {
        on_submit(s, b, m, &any.submit);
    } else if (m->command == MQ_CMD_get) {
        on_get(s, b, m, &any.get);
    } else if (m->command == MQ_CMD_result) {
        on_result(s, b, m, &any.result);
    } else {
        (void)feed_plain(s, b, m, &any);
    }
}

static void tell_moved(sim *s, const sim_broker *b, const sim_message *m)
{
    char url[24];
    (void)snprintf(url, sizeof url, "tcp://%u", b->moved_to);
    bool is_client = s->conns[m->conn - 1].peer >= SIM_BROKERS + SIM_WORKERS;
    if (is_client) {
        send_error(s, m->conn, 0, MQ_E_MOVED, url);
    }
}

void sim_broker_receive(sim *s, sim_broker *b, sim_message *m)
{
    if (sim_broker_is_serving(s, b) && b->inbox_count == 0 && !b->must_drop) {
        process(s, b, m);
        free(m);
        sim_broker_wake(s, b, s->now_ms + (int64_t)sim_draw(s, (uint64_t)s->turn_max_ms + 1));
        return;
    }
    if (b->core == NULL && b->moved_to != SIM_NONE) {
        tell_moved(s, b, m);
        free(m);
        return;
    }
    if (b->inbox_count == INBOX_MAX) {
        sim_break(s, m->conn);
        free(m);
        return;
    }
    if (b->inbox_count == b->inbox_capacity) {
        b->inbox_capacity = b->inbox_capacity * 2 + 16;
        b->inbox = realloc(b->inbox, b->inbox_capacity * sizeof(sim_message *));
        MQ_ASSERT(b->inbox != NULL);
    }
    b->inbox[b->inbox_count++] = m;
}

static void read_inbox(sim *s, sim_broker *b)
{
    uint32_t i = 0;
    for (; i < b->inbox_count && sim_broker_is_serving(s, b) && !b->must_drop; i++) {
        process(s, b, b->inbox[i]); /* had arrived, whatever became of its connection */
        free(b->inbox[i]);
    }
    if (b->core == NULL && b->moved_to != SIM_NONE) {
        for (; i < b->inbox_count; i++) {
            tell_moved(s, b, b->inbox[i]);
            free(b->inbox[i]);
        }
    }
    memmove(b->inbox, b->inbox + i, (b->inbox_count - i) * sizeof(sim_message *));
    b->inbox_count -= i;
}

/* ---- turns ---- */

static int64_t deadline(const sim *s, const sim_broker *b)
{
    if (b->must_drop) {
        return s->now_ms;
    }
    if (b->core == NULL) {
        return b->own == SIM_OWN_NONE ? b->retry_ms : INT64_MAX;
    }
    int64_t at_ms = b->is_renewing ? INT64_MAX : renew_at(s, b);
    if (s->has_replica && !b->is_asking_replicas && sim_broker_is_serving(s, b)) {
        at_ms = mq_min_i64(at_ms, b->replicas_ms);
    }
    int64_t core_ms = mq_core_deadline(b->core);
    if (sim_broker_is_serving(s, b) && core_ms < INT64_MAX) {
        at_ms = mq_min_i64(at_ms, core_ms - b->offset_ms);
    }
    return at_ms;
}

/* a: number of the wake-up. */
static void turn(sim *s, sim_event *e)
{
    sim_broker *b = &s->brokers[e->party];
    if (e->a != b->wake) {
        return;
    }
    b->wake_ms = INT64_MAX;
    tick(s, b);
    if (b->inbox_count > 0) {
        read_inbox(s, b);
    }
    if (sim_broker_is_serving(s, b) && !b->must_drop) {
        mq_input in = {.type = MQ_IN_TURN};
        (void)step(s, b, &in);
        sim_check_equal(s, b);
    }
    int64_t at_ms = deadline(s, b);
    if (at_ms < INT64_MAX) {
        sim_broker_wake(s, b, mq_max_i64(at_ms, s->now_ms + 1));
    }
}

void sim_broker_wake(sim *s, sim_broker *b, int64_t at_ms)
{
    if (at_ms < b->wake_ms && s->parties[b->no].is_alive) {
        b->wake_ms = at_ms;
        sim_at(s, at_ms, turn, b->no, ++b->wake, NULL);
    }
}

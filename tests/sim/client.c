/* The client's shell: what client/src does around its core, with an application on top that keeps
 * its list of wanted jobs over a crash and submits them again. */
#include "tests/sim/sim.h"

static void wake(sim *s, sim_client *c, int64_t at_ms);
static void turn_now(sim *s, sim_client *c);

static uint32_t party_of(const sim_client *c)
{
    return sim_party_client(c->no);
}

static bool send(sim *s, sim_client *c, mq_command command, const void *m, mq_span payload)
{
    return sim_send(s, s->parties[party_of(c)].conn, false, command, m, payload) == MQ_OK;
}

/* ---- the application ---- */

/* The one end of a handle. */
static void handle_end(sim *s, sim_client *c, uint32_t slot, mq_code code, mq_span state,
                       mq_span result)
{
    MQ_ASSERT(slot < 512);
    uint32_t job = c->handles[slot];
    if (job == SIM_NONE) {
        return; /* a call */
    }
    c->handles[slot] = SIM_NONE;
    sim_job *j = &s->jobs[job];
    j->ends++;
    SIM_CHECK(s, j->ends <= j->handles, "job %s: its handle has ended twice", j->id);
    sim_trace(s, "client %u: job %s ends, code %s state %.*s", c->no, j->id, mq_code_name(code),
              MQ_SPAN_ARG(state));
    if (state.len > 0) {
        j->is_told = true;
        j->told = mq_state_parse(state);
        sim_check_told(s, j, state, result, "end");
        return;
    }
    mq_span record, stored;
    bool may_vanish = j->is_transient || !j->is_acked;
    /* A key that was taken for the first of two submits may be free for the second, and a wrong
     * clock may be right: these two refusals say only what was true when they were given. */
    SIM_CHECK(s,
              j->is_transient || code == MQ_E_CANCELLED || code == MQ_E_CLOCK ||
                  code == MQ_E_EXISTS || !sim_stored(s, mq_str(j->id), &record, &stored),
              "client %u: job %s is said not to be taken (%s), and is stored", c->no, j->id,
              mq_code_name(code));
    bool is_over = mq_state_is_terminal(j->state) && (code == MQ_E_CLOCK || code == MQ_E_EXISTS);
    SIM_CHECK(s, may_vanish || code == MQ_E_CANCELLED || is_over,
              "acknowledged job %s ends as lost: %s", j->id, mq_code_name(code));
    j->is_refused = true;
}

static void handle_open(sim *s, sim_client *c, uint32_t job)
{
    sim_job *j = &s->jobs[job];
    int64_t give_up_ms = j->is_transient ? s->now_ms + 60000 : INT64_MAX;
    uint32_t slot =
        mq_ccore_submit(&c->core, s->now_ms, mq_str(j->id), j->is_transient, give_up_ms);
    if (slot == MQ_CCORE_NONE) {
        SIM_CHECK(s, mq_ccore_find(&c->core, mq_str(j->id)) != MQ_CCORE_NONE,
                  "client %u has no room", c->no);
        return;
    }
    MQ_ASSERT(slot < 512 && c->handles[slot] == SIM_NONE);
    c->handles[slot] = job;
    j->handles++;
}

void sim_client_submit(sim *s, uint32_t job)
{
    sim_job *j = &s->jobs[job];
    sim_client *c = &s->clients[j->client];
    if (!j->is_made) {
        j->run_at_ms = j->delay_ms == 0 ? 0 : sim_wall(s) + (int64_t)j->delay_ms;
        j->is_made = true;
    }
    if (c->has_core) {
        handle_open(s, c, job);
        wake(s, c, s->now_ms);
    }
}

void sim_client_cancel(sim *s, uint32_t job)
{
    sim_job *j = &s->jobs[job];
    sim_client *c = &s->clients[j->client];
    uint32_t slot = c->has_core ? mq_ccore_find(&c->core, mq_str(j->id)) : MQ_CCORE_NONE;
    if (slot == MQ_CCORE_NONE) {
        return;
    }
    sim_trace(s, "client %u cancels %s", c->no, j->id);
    j->is_cancel_sent = true;
    if (mq_ccore_cancel(&c->core, s->now_ms, slot, j->is_cancel_hard)) {
        handle_end(s, c, slot, MQ_E_CANCELLED, (mq_span){0}, (mq_span){0});
    }
    wake(s, c, s->now_ms);
}

void sim_client_command(sim *s, sim_client *c, const char *verb, const char *args)
{
    uint32_t slot =
        c->has_core ? mq_ccore_call(&c->core, s->now_ms, s->now_ms + 20000) : MQ_CCORE_NONE;
    if (slot != MQ_CCORE_NONE) {
        MQ_ASSERT(slot < 512 && c->handles[slot] == SIM_NONE);
        (void)snprintf(c->calls[slot].verb, sizeof c->calls[slot].verb, "%s", verb);
        (void)snprintf(c->calls[slot].args, sizeof c->calls[slot].args, "%s", args);
        wake(s, c, s->now_ms);
    }
}

/* ---- messages out ---- */

typedef struct batch {
    mq_msg_submit_job jobs[16];
    mq_span deps[16][SIM_DEPS];
    uint32_t slots[16];
    uint32_t count;
    bool is_solo;
} batch;

static void batch_send(sim *s, sim_client *c, batch *b)
{
    if (b->count == 0) {
        return;
    }
    mq_msg_submit m = {
        .rid = mq_ccore_new_batch(&c->core), .jobs = b->jobs, .jobs_count = b->count};
    for (uint32_t i = 0; i < b->count; i++) {
        mq_ccore_batched(&c->core, b->slots[i], m.rid);
    }
    (void)send(s, c, MQ_CMD_submit, &m, mq_buf_span(&s->payload));
    mq_buf_reset(&s->payload);
    b->count = 0;
}

static void batch_add(sim *s, sim_client *c, batch *b, const mq_ccore_action *a)
{
    const sim_job *j = &s->jobs[c->handles[a->slot]];
    if (a->is_solo || b->is_solo || b->count >= c->batch_max) {
        batch_send(s, c, b);
    }
    uint32_t n = b->count++;
    for (uint32_t i = 0; i < j->dep_count; i++) {
        b->deps[n][i] = mq_str(s->jobs[j->deps[i]].id);
    }
    b->slots[n] = a->slot;
    b->is_solo = a->is_solo;
    b->jobs[n] = (mq_msg_submit_job){.id = mq_str(j->id),
                                     .kind = mq_str(j->kind),
                                     .queue = mq_str(j->queue),
                                     .tenant = mq_str(j->tenant),
                                     .durability = mq_str(j->is_transient    ? "transient"
                                                          : j->is_replicated ? "replicated"
                                                                             : "durable"),
                                     .priority = j->priority,
                                     .run_at_ms = j->run_at_ms,
                                     .ttl_ms = j->ttl_ms,
                                     .max_run_ms = j->max_run_ms,
                                     .attempts_max = j->attempts_max,
                                     .crashes_max = j->outcome == SIM_POISON ? 3 : 1000,
                                     .seats_min = j->seats_min,
                                     .seats_max = j->seats_max,
                                     .deps = b->deps[n],
                                     .deps_count = j->dep_count,
                                     .is_quiet = j->is_quiet,
                                     .unique = mq_str(j->unique),
                                     .limit_key = mq_str(j->key),
                                     .runs_anyway = j->runs_anyway,
                                     .len = strlen(j->body)};
    mq_buf_add_str(&s->payload, j->body);
}

static void ask(sim *s, sim_client *c, const mq_ccore_action *a)
{
    mq_span id = mq_str(s->jobs[c->handles[a->slot]].id);
    if (a->cancel != 0) {
        mq_msg_cancel m = {.rid = a->rid, .id = id, .is_hard = a->cancel == 2};
        (void)send(s, c, MQ_CMD_cancel, &m, (mq_span){0});
    }
    mq_msg_get m = {.rid = a->rid, .id = id, .want_result = true};
    (void)send(s, c, MQ_CMD_get, &m, (mq_span){0});
}

static void hello(sim *s, sim_client *c)
{
    mq_msg_hello m = {
        .role = mq_str("client"), .version_min = MQ_WIRE_VERSION, .version_max = MQ_WIRE_VERSION};
    (void)send(s, c, MQ_CMD_hello, &m, (mq_span){0});
}

static void command(sim *s, sim_client *c, const mq_ccore_action *a)
{
    mq_span args[8];
    uint32_t count = 0;
    const char *at = c->calls[a->slot].args;
    while (*at != '\0' && count < 8) {
        size_t len = strcspn(at, " ");
        args[count++] = mq_span_of(at, len);
        at += len + (at[len] == ' ');
    }
    mq_msg_command m = {
        .rid = a->rid, .verb = mq_str(c->calls[a->slot].verb), .args = args, .args_count = count};
    (void)send(s, c, MQ_CMD_command, &m, (mq_span){0});
}

static void act(sim *s, sim_client *c, batch *b, const mq_ccore_action *a)
{
    switch (a->what) {
    case MQ_CCORE_HELLO:
        hello(s, c);
        break;
    case MQ_CCORE_ROTATE:
        batch_send(s, c, b);
        sim_connect(s, party_of(c), (s->parties[party_of(c)].broker + 1) % s->broker_count);
        break;
    case MQ_CCORE_SUBMIT:
        batch_add(s, c, b, a);
        break;
    case MQ_CCORE_ASK:
        ask(s, c, a);
        break;
    case MQ_CCORE_SEND:
        command(s, c, a);
        break;
    case MQ_CCORE_END:
        handle_end(s, c, a->slot, a->code, (mq_span){0}, (mq_span){0});
        break;
    }
}

static void turn_now(sim *s, sim_client *c)
{
    batch b = {.count = 0};
    mq_ccore_action a;
    mq_buf_reset(&s->payload);
    for (int i = 0; i < 4096 && mq_ccore_next(&c->core, s->now_ms, &a); i++) {
        act(s, c, &b, &a);
    }
    batch_send(s, c, &b);
    SIM_CHECK(s, c->core.sent_count <= c->core.window, "client %u: %u submits unanswered of %u",
              c->no, c->core.sent_count, c->core.window);
    int64_t at_ms = mq_ccore_deadline(&c->core);
    if (at_ms < INT64_MAX) {
        wake(s, c, mq_max_i64(at_ms, s->now_ms + 1));
    }
}

static void turn(sim *s, sim_event *e)
{
    sim_client *c = &s->clients[e->party - SIM_BROKERS - SIM_WORKERS];
    if (e->a == c->wake) {
        c->wake_ms = INT64_MAX;
        turn_now(s, c);
    }
}

static void wake(sim *s, sim_client *c, int64_t at_ms)
{
    if (c->has_core && at_ms < c->wake_ms) {
        c->wake_ms = at_ms;
        sim_at(s, at_ms, turn, party_of(c), ++c->wake, NULL);
    }
}

/* ---- messages in: as in client/src/receive.c ---- */

static mq_code verdict_of(mq_span text)
{
    bool is_ok = mq_span_is(text, "ok") || mq_span_is(text, "dup");
    return is_ok ? MQ_OK : mq_code_parse((const char *)text.data, text.len);
}

static void on_submitted(sim *s, sim_client *c, const mq_msg_submitted *m)
{
    for (uint32_t i = 0; i < m->jobs_count; i++) {
        const mq_msg_submitted_job *j = &m->jobs[i];
        sim_job *job = sim_job_get(s, j->id);
        mq_code verdict = j->live.len > 0 ? MQ_E_EXISTS : verdict_of(j->verdict);
        bool is_ended = mq_state_is_terminal(mq_state_parse(j->state));
        uint32_t accepted = MQ_CCORE_NONE;
        SIM_CHECK(s, verdict != MQ_E_CONFLICT, "job %s: conflict with itself", job->id);
        /* The job that has the key: whoever is told of it relies on it. */
        sim_job *live = j->live.len > 0 ? sim_job_get(s, j->live) : NULL;
        if (live != NULL && live->is_replicated) {
            sim_check_acked(s, live, "unique");
        }
        if (verdict == MQ_OK) {
            char text[8];
            (void)mq_span_copy(j->verdict, text, sizeof text);
            sim_check_acked(s, job, text);
        }
        uint32_t slot = mq_ccore_submitted(&c->core, s->now_ms, j->id, verdict, j->retry_ms,
                                           is_ended, &accepted);
        if (slot != MQ_CCORE_NONE) {
            handle_end(s, c, slot, verdict, (mq_span){0}, (mq_span){0});
        }
    }
}

static void on_done(sim *s, sim_client *c, const mq_msg_done *m, mq_span payload)
{
    size_t at = 0;
    for (uint32_t i = 0; i < m->jobs_count; i++) {
        const mq_msg_done_job *j = &m->jobs[i];
        mq_span result = mq_span_of(payload.data + at, j->len);
        at += j->len;
        uint32_t slot = mq_ccore_done(&c->core, j->id);
        if (slot != MQ_CCORE_NONE) {
            handle_end(s, c, slot, MQ_OK, j->state, result);
        }
    }
}

static void on_state(sim *s, sim_client *c, const mq_msg_state *m, mq_span result)
{
    bool is_terminal = mq_state_is_terminal(mq_state_parse(m->state));
    mq_code lost = MQ_OK;
    uint32_t slot =
        mq_ccore_state(&c->core, s->now_ms, m->rid, verdict_of(m->verdict), is_terminal, &lost);
    if (slot != MQ_CCORE_NONE) {
        handle_end(s, c, slot, lost, lost == MQ_OK ? m->state : (mq_span){0}, result);
    }
}

static void on_reply(sim *s, sim_client *c, const mq_msg_reply *m)
{
    uint32_t slot = (uint32_t)m->rid;
    bool is_open = slot < c->core.capacity && c->core.entries[slot].phase == MQ_CCORE_OPEN &&
                   c->handles[slot] != SIM_NONE &&
                   c->core.entries[slot].generation == (uint32_t)(m->rid >> 32);
    sim_trace(s, "client %u: reply %.*s %.*s to %s", c->no, MQ_SPAN_ARG(m->verdict),
              MQ_SPAN_ARG(m->state), is_open ? s->jobs[c->handles[slot]].id : "a call");
    if (is_open && (mq_span_is(m->verdict, "ok") || mq_span_is(m->verdict, "dup"))) {
        sim_check_cancelled(s, &s->jobs[c->handles[slot]]);
    }
    (void)mq_ccore_answered(&c->core, s->now_ms, m->rid, verdict_of(m->verdict));
}

static void on_error(sim *s, sim_client *c, const mq_msg_error *m)
{
    mq_code code = mq_code_parse((const char *)m->code.data, m->code.len);
    (void)mq_ccore_error(&c->core, s->now_ms, m->rid, code, m->retry_ms);
    if (code == MQ_E_MOVED && m->text.len > 6) {
        sim_connect(s, party_of(c), (uint32_t)(m->text.data[6] - '0') % s->broker_count);
        mq_ccore_unlinked(&c->core, s->now_ms);
    }
}

void sim_client_receive(sim *s, sim_client *c, const sim_message *in)
{
    union {
        mq_msg_welcome welcome;
        mq_msg_submitted submitted;
        mq_msg_done done;
        mq_msg_state state;
        mq_msg_reply reply;
        mq_msg_error error;
    } any;
    mq_error err = {0};
    mq_span payload = mq_span_of(in->bytes + in->header_len, in->payload_len);
    mq_arena_reset(&s->arena);
    mq_code code =
        mq_wire_decode(in->command, mq_span_of(in->bytes, in->header_len), &any, &s->arena, &err);
    SIM_CHECK(s, code == MQ_OK, "message %s: %s", mq_command_name(in->command), err.text);
    mq_ccore_heard(&c->core, s->now_ms);
    if (in->command == MQ_CMD_submitted) {
        on_submitted(s, c, &any.submitted);
    } else if (in->command == MQ_CMD_done) {
        on_done(s, c, &any.done, payload);
    } else if (in->command == MQ_CMD_state) {
        on_state(s, c, &any.state, payload);
    } else if (in->command == MQ_CMD_reply) {
        on_reply(s, c, &any.reply);
    } else if (in->command == MQ_CMD_error) {
        on_error(s, c, &any.error);
    }
    wake(s, c, s->now_ms);
}

void sim_client_link(sim *s, sim_client *c, bool is_up)
{
    if (is_up) {
        mq_ccore_linked(&c->core, s->now_ms);
    } else {
        mq_ccore_unlinked(&c->core, s->now_ms);
    }
    wake(s, c, s->now_ms);
}

/* ---- life ---- */

void sim_client_start(sim *s, sim_client *c)
{
    uint64_t wakes = c->wake;
    c->no = (uint32_t)(c - s->clients);
    c->wake = wakes + 1;
    c->wake_ms = INT64_MAX;
    c->batch_max = 1 + (uint32_t)sim_draw(s, 16);
    c->skew_ms = sim_fault_now(s, SIM_F_SKEW) ? (int64_t)sim_draw(s, 400000) - 200000 : 0;
    for (uint32_t i = 0; i < 512; i++) {
        c->handles[i] = SIM_NONE;
    }
    mq_ccore_config config = {
        .capacity = 512, .window = 1 + (uint32_t)sim_draw(s, 24), .seed = sim_draw(s, UINT64_MAX)};
    mq_error err;
    mq_code code = mq_ccore_init(&c->core, &config, &err);
    MQ_ASSERT(code == MQ_OK);
    c->has_core = true;
    sim_connect(s, party_of(c), (uint32_t)sim_draw(s, s->broker_count));
    for (uint32_t i = 0; i < s->job_count; i++) { /* what it wanted before it crashed */
        sim_job *j = &s->jobs[i];
        if (j->client == c->no && j->is_made && !j->is_told && !j->is_refused) {
            handle_open(s, c, i);
        }
    }
    wake(s, c, s->now_ms);
}

void sim_client_stop(sim *s, sim_client *c)
{
    for (uint32_t i = 0; i < 512; i++) {
        if (c->handles[i] != SIM_NONE) {
            s->jobs[c->handles[i]].handles--;
            c->handles[i] = SIM_NONE;
        }
    }
    if (c->has_core) {
        mq_ccore_release(&c->core);
    }
    c->has_core = false;
    s->parties[party_of(c)].conn = 0;
}

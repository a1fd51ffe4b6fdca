/* Between the session and the world: its actions become messages and slots' work, the broker's
 * messages become its events. Knows the wire, no socket. */
#include <unistd.h>

#include "shared/base/log.h"
#include "shared/base/math.h"
#include "worker/io/supervisor.h"

enum {
    MESSAGES_A_TURN = 64,
    RESULTS_MAX = 256,                  /* of one message */
    HELD_PROGRESS_BYTES_MAX = 64 << 10, /* of all jobs in one beat */
    RESULT_HEADER_BYTES_MAX = 900 << 10,
    RESULT_PAYLOAD_BYTES_MAX = 48 << 20,
    KINDS_MAX = 64,
};

/* --- sending --- */

static void send_hello(mq_supervisor *sv)
{
    mq_msg_hello m = {.role = mq_str("worker"),
                      .name = mq_str(sv->name),
                      .version_min = MQ_WIRE_VERSION,
                      .version_max = MQ_WIRE_VERSION};
    mq_broker_link_send(mq_sv_link(sv), MQ_CMD_hello, &m, (mq_span){0});
}

static void send_ready(mq_supervisor *sv)
{
    static const char *const names[] = {
#define MQ_KIND(symbol, name, gang, transient, run_ms, attempts, body_bytes) name,
#include "shared/job/kinds.def"
#undef MQ_KIND
    };
    const uint32_t count = sizeof names / sizeof names[0];
    _Static_assert(sizeof names / sizeof names[0] + MQ_OWN_KINDS_MAX <= KINDS_MAX,
                   "READY lists at most 64 kinds");
    mq_span kinds[KINDS_MAX], tags[MQ_WORKER_TAGS_MAX];
    mq_msg_kind_limit limits[MQ_OWN_KINDS_MAX];
    for (size_t i = 0; i < count; i++) {
        kinds[i] = mq_str(names[i]);
    }
    uint32_t kind_count = count;
    for (uint32_t i = 0; i < sv->own.count && kind_count < KINDS_MAX; i++) {
        kinds[kind_count++] = mq_str(sv->own.at[i].name);
        limits[i] = (mq_msg_kind_limit){.kind = mq_str(sv->own.at[i].name),
                                        .max_run_ms = sv->own.at[i].max_run_ms,
                                        .attempts_max = sv->own.at[i].attempts_max,
                                        .body_bytes_max = sv->own.at[i].body_bytes_max};
    }
    uint32_t tag_count = sv->options->tag_count;
    for (uint32_t i = 0; i < tag_count; i++) {
        tags[i] = mq_str(sv->options->tags[i]);
    }
    for (uint32_t i = 0; tag_count < MQ_WORKER_TAGS_MAX; i++) {
        const char *tag = mq_worker_cpu_tag(i);
        if (tag == NULL) {
            break;
        }
        tags[tag_count++] = mq_str(tag);
    }
    mq_span models[MQ_MODELS_TOLD_MAX];
    mq_msg_ready m = {
        .worker = mq_str(sv->worker),
        .name = mq_str(sv->name),
        .host = mq_str(sv->host),
        .version = mq_str(MQ_VERSION),
        .fingerprint = mq_str(sv->fingerprint),
        .gang_unix = mq_str(mq_gang_unix(sv->gang)),
        .gang_tcp = mq_str(mq_gang_tcp(sv->gang)),
        .slots = sv->slot_count,
        .pid = (uint64_t)getpid(),
        .kinds = kinds,
        .kinds_count = kind_count,
        .limits = limits,
        .limits_count = sv->own.count,
        .tags = tags,
        .tags_count = tag_count,
        .memory_bytes = mq_worker_memory_bytes(sv->options->memory_bytes, sv->slot_count),
        .held = sv->held,
        .held_count = mq_ws_held(&sv->session, sv->held, sv->held_jobs),
        .blobs = models,
        .blobs_count = mq_models_list(sv, models),
    };
    mq_broker_link_send(mq_sv_link(sv), MQ_CMD_ready, &m, (mq_span){0});
}

static void measure(mq_supervisor *sv, int64_t now_ms)
{
    if (sv->measured_ms != 0 && now_ms - sv->measured_ms < MQ_MEASURE_MS) {
        return;
    }
    sv->measured_ms = now_ms;
    mq_models_look(sv);
    sv->load_milli = mq_worker_load_milli();
    sv->rss_bytes = mq_worker_rss_bytes(getpid());
    for (uint32_t i = 0; i < sv->slot_count; i++) {
        sv->rss_bytes += sv->slots[i].pid > 0 ? mq_worker_rss_bytes(sv->slots[i].pid) : 0;
    }
}

static void send_beat(mq_supervisor *sv, int64_t now_ms)
{
    measure(sv, now_ms);
    mq_span models[MQ_MODELS_TOLD_MAX];
    mq_msg_beat m = {
        .worker = mq_str(sv->worker),
        .seq = sv->session.seq,
        .free = sv->session.free_told,
        .jobs_seen = sv->session.jobs_seen,
        .rss_bytes = sv->rss_bytes,
        .load_milli = sv->load_milli,
        .is_draining = sv->session.is_draining,
        .jobs = sv->held,
        .jobs_count = mq_ws_held(&sv->session, sv->held, sv->held_jobs),
        .blobs = models,
        .blobs_count = mq_models_list(sv, models),
    };
    size_t bytes = 0;
    for (uint32_t i = 0; i < m.jobs_count; i++) {
        const mq_kept_job *kept = &sv->kept[sv->held_jobs[i]];
        if (bytes + kept->progress_len <= HELD_PROGRESS_BYTES_MAX) {
            bytes += kept->progress_len;
            sv->held[i].progress = mq_span_of(kept->progress, kept->progress_len);
        }
    }
    mq_broker_link_send(mq_sv_link(sv), MQ_CMD_beat, &m, (mq_span){0});
}

static void send_credit(mq_supervisor *sv)
{
    mq_msg_credit m = {.worker = mq_str(sv->worker),
                       .seq = sv->session.seq,
                       .free = sv->session.free_told,
                       .jobs_seen = sv->session.jobs_seen};
    mq_broker_link_send(mq_sv_link(sv), MQ_CMD_credit, &m, (mq_span){0});
}

/* Sends the results put together so far. */
static void results_flush(mq_supervisor *sv, int64_t now_ms)
{
    if (sv->result_count == 0) {
        return;
    }
    mq_ws_from(&sv->session, sv->result_talk);
    mq_msg_result m = {
        .worker = mq_str(sv->worker), .jobs = sv->results, .jobs_count = sv->result_count};
    bool is_sent =
        mq_broker_link_send(mq_sv_link(sv), MQ_CMD_result, &m, mq_buf_span(&sv->payload));
    for (uint32_t i = 0; i < sv->result_count && !is_sent; i++) {
        mq_ws_on_unsent(&sv->session, sv->result_jobs[i], now_ms);
    }
    sv->result_count = 0;
    sv->result_header_bytes = 0;
    mq_buf_reset(&sv->payload);
}

static void results_add(mq_supervisor *sv, uint32_t index, int64_t now_ms)
{
    mq_ws_job *job = &sv->session.jobs[index];
    mq_kept_job *kept = &sv->kept[index];
    bool is_ok = job->class == MQ_WS_CLASS_OK;
    size_t header_bytes = 1024 + (is_ok ? kept->header_bytes : 0);
    size_t bytes = is_ok ? kept->result.len : 0;
    if (sv->result_count == RESULTS_MAX ||
        sv->result_header_bytes + header_bytes > RESULT_HEADER_BYTES_MAX ||
        sv->payload.len + bytes > RESULT_PAYLOAD_BYTES_MAX) {
        results_flush(sv, now_ms);
    }
    sv->result_jobs[sv->result_count] = index;
    mq_msg_result_item *r = &sv->results[sv->result_count++];
    *r = (mq_msg_result_item){
        .id = mq_str(job->id),
        .epoch = job->epoch,
        .grant = job->grant,
        .class = mq_str(mq_ws_class_name(job->class)),
        .code = mq_str(mq_code_name(job->error.code)),
        .error = is_ok ? (mq_span){0} : mq_str(job->error.text),
        .run_us = job->run_us,
    };
    sv->result_header_bytes += header_bytes;
    if (is_ok && mq_buf_add_span(&sv->payload, mq_buf_span(&kept->result))) {
        r->len = bytes;
        r->publish = kept->publish;
        r->publish_count = kept->publish_count;
        r->spawn = kept->spawn;
        r->spawn_count = kept->spawn_count;
    }
}

static void connect_to(mq_supervisor *sv, uint32_t broker)
{
    mq_error err;
    char *moved = sv->moved[sv->session.at];
    uint32_t given = sv->options->broker_count;
    const char *endpoint = moved[0] != '\0' ? moved
                           : broker < given ? sv->options->brokers[broker]
                                            : sv->learned[(broker - given) % MQ_WORKER_BROKERS_MAX];
    if (mq_broker_link_connect(mq_sv_link(sv), endpoint, &err) != MQ_OK) {
        mq_log(MQ_WARN, "broker not reachable", "endpoint=%s error=\"%s\"", endpoint, err.text);
        return;
    }
    mq_log(MQ_DEBUG, "connecting", "shard=%u endpoint=%s", sv->session.at, endpoint);
    moved[0] = '\0';
}

/* Links of shards that the session has just learned of. */
static void links_grow(mq_supervisor *sv)
{
    for (; sv->link_count < sv->session.talk_count; sv->link_count++) {
        mq_broker_link_init(&sv->links[sv->link_count], sv->context);
        sv->links[sv->link_count].shard = sv->link_count;
    }
}

static void act(mq_supervisor *sv, const mq_ws_action *a, int64_t now_ms)
{
    if (a->type != MQ_WS_SEND_RESULT || a->talk != sv->result_talk) {
        results_flush(sv, now_ms);
        sv->result_talk = a->talk;
    }
    mq_ws_from(&sv->session, a->talk);
    switch (a->type) {
    case MQ_WS_CONNECT:
        connect_to(sv, a->index);
        break;
    case MQ_WS_SEND_HELLO:
        send_hello(sv);
        break;
    case MQ_WS_SEND_READY:
        send_ready(sv);
        break;
    case MQ_WS_SEND_BEAT:
        send_beat(sv, now_ms);
        break;
    case MQ_WS_SEND_CREDIT:
        send_credit(sv);
        break;
    case MQ_WS_SEND_RESULT:
        results_add(sv, a->index, now_ms);
        break;
    case MQ_WS_SEND_BYE: {
        mq_msg_bye m = {.worker = mq_str(sv->worker)};
        mq_broker_link_send(mq_sv_link(sv), MQ_CMD_bye, &m, (mq_span){0});
        break;
    }
    case MQ_WS_START:
        mq_sv_slot_start_job(sv, a->slot, a->index, now_ms);
        break;
    case MQ_WS_RECALL:
        mq_sv_slot_recall(sv, a->slot, a->index);
        break;
    case MQ_WS_CANCEL: {
        mq_slot_process *p = &sv->slots[a->slot];
        mq_slot_cancel m = {.run = sv->kept[a->index].run};
        atomic_store(&p->page->cancelled_run, m.run);
        mq_sv_to_slot(sv, a->slot, MQ_FRAME_cancel, &m, -1);
        break;
    }
    case MQ_WS_KILL:
        mq_slot_process_kill(&sv->slots[a->slot]);
        break;
    case MQ_WS_UPLOAD:
        mq_sv_upload(sv, a->index, a->missing, a->missing_count, now_ms);
        break;
    case MQ_WS_FORGET:
        mq_kept_forget(&sv->kept[a->index]);
        break;
    case MQ_WS_EXIT:
        sv->is_over = true;
        break;
    case MQ_WS_ACCEPT: /* done where the message is still at hand */
        break;
    }
}

void mq_sv_act(mq_supervisor *sv, int64_t now_ms)
{
    links_grow(sv);
    for (uint32_t i = 0; i < sv->actions.count; i++) {
        act(sv, &sv->actions.at[i], now_ms);
    }
    results_flush(sv, now_ms);
    sv->actions.count = 0;
}

/* --- receiving --- */

/* Any message a broker sends, decoded. */
typedef union any_message {
    mq_msg_welcome welcome;
    mq_msg_error error;
    mq_msg_registered registered;
    mq_msg_job job;
    mq_msg_beaten beaten;
    mq_msg_verdict verdict;
    mq_msg_checkpointed checkpointed;
    mq_msg_roster roster;
    mq_msg_drain drain;
    mq_msg_answer answer;
    mq_msg_routes routes;
    mq_msg_want want;
} any_message;

static void on_job(mq_supervisor *sv, const mq_msg_job *m, mq_span payload, int64_t now_ms)
{
    size_t at = 0, total = 0;
    for (uint32_t i = 0; i < m->jobs_count; i++) {
        total = mq_add_size(total, m->jobs[i].len, &total) ? total : SIZE_MAX;
    }
    if (total != payload.len) {
        mq_log(MQ_WARN, "message of the broker refused",
               "command=job error=\"bodies of %zu bytes, payload of %zu\"", total, payload.len);
        return;
    }
    mq_ws_on_job(&sv->session, m, now_ms, &sv->actions);
    for (uint32_t i = 0; i < m->jobs_count; i++) {
        mq_span body = mq_span_of(payload.data + at, m->jobs[i].len);
        at += m->jobs[i].len;
        for (uint32_t k = 0; k < sv->actions.count; k++) {
            const mq_ws_action *a = &sv->actions.at[k];
            if (a->type == MQ_WS_ACCEPT && a->item == i &&
                !mq_kept_accept(&sv->kept[a->index], &m->jobs[i], body)) {
                mq_log(MQ_ERROR_LEVEL, "no memory for a job", "id=%.*s bytes=%zu",
                       MQ_SPAN_ARG(m->jobs[i].id), body.len);
                mq_kept_forget(&sv->kept[a->index]); /* its start is refused */
            }
        }
    }
}

static void on_roster(mq_supervisor *sv, const mq_msg_roster *m, int64_t now_ms)
{
    uint32_t index = mq_ws_find(&sv->session, m->id, m->epoch, m->grant);
    if (index == UINT32_MAX || sv->session.jobs[index].state != MQ_WS_RUNNING) {
        return;
    }
    mq_gang_roster(sv->gang, sv->session.jobs[index].slot, m->id, m->gang_epoch,
                   (uint32_t)sv->kept[index].item.seat, m->members, m->members_count, now_ms);
}

static void on_welcome(mq_supervisor *sv, const mq_msg_welcome *m, int64_t now_ms)
{
    char url[520];
    if (*sv->options->blobs == '\0' && mq_span_copy(m->blobs, url, sizeof url)) {
        mq_blob_thread_store(sv->blobs, url);
    }
    mq_log(MQ_DEBUG, "welcome", "broker=%.*s", MQ_SPAN_ARG(m->broker));
    mq_ws_on_welcome(&sv->session, m, now_ms, &sv->actions);
}

static bool is_endpoint(mq_span url)
{
    return url.len > 6 && url.len < MQ_WORKER_URL_MAX &&
           (memcmp(url.data, "tcp://", 6) == 0 || memcmp(url.data, "ipc://", 6) == 0);
}

/* A broker that was not given may be the one that is left one day. */
static void learn(mq_supervisor *sv, mq_span url)
{
    bool is_known = !is_endpoint(url) || sv->learned_count == MQ_WORKER_BROKERS_MAX;
    for (uint32_t i = 0; i < sv->options->broker_count; i++) {
        is_known |= !is_known && mq_span_is(url, sv->options->brokers[i]);
    }
    for (uint32_t i = 0; i < sv->learned_count; i++) {
        is_known |= !is_known && mq_span_is(url, sv->learned[i]);
    }
    if (!is_known) {
        (void)mq_span_copy(url, sv->learned[sv->learned_count++], MQ_WORKER_URL_MAX);
        sv->session.config.broker_count = sv->options->broker_count + sv->learned_count;
    }
}

static void on_routes(mq_supervisor *sv, const mq_msg_routes *m, int64_t now_ms)
{
    mq_worker_session *s = &sv->session;
    mq_ws_on_other(s, now_ms);
    if (m->version < sv->routes) {
        return; /* old news */
    }
    sv->routes = m->version;
    for (uint32_t i = 0; i < m->routes_count; i++) {
        const mq_msg_route *r = &m->routes[i];
        learn(sv, r->endpoint);
        /* A broker that hangs does not tell of its successor: the other shards' brokers do. */
        if (is_endpoint(r->endpoint) && mq_ws_is_behind(s, r->shard, r->epoch) &&
            !mq_span_is(r->endpoint, sv->links[r->shard].endpoint)) {
            (void)mq_span_copy(r->endpoint, sv->moved[r->shard], MQ_WORKER_URL_MAX);
            mq_ws_go(s, (uint32_t)r->shard, now_ms, &sv->actions);
        }
    }
}

static void on_error(mq_supervisor *sv, const mq_msg_error *m, int64_t now_ms)
{
    bool is_moved = mq_span_is(m->code, "moved");
    if (is_moved && is_endpoint(m->text)) {
        (void)mq_span_copy(m->text, sv->moved[sv->session.at], MQ_WORKER_URL_MAX);
    }
    bool is_passing = is_moved || (m->rid == 0 && mq_span_is(m->code, "busy"));
    mq_log(is_passing ? MQ_DEBUG : MQ_WARN, "broker refuses", "code=%.*s error=\"%.*s\"",
           MQ_SPAN_ARG(m->code), MQ_SPAN_ARG(m->text));
    if (m->rid != 0 && !mq_span_is(m->code, "busy")) {
        mq_code code = mq_code_parse((const char *)m->code.data, m->code.len);
        mq_sv_answer(sv, m->rid, code == MQ_OK ? MQ_E_INTERNAL : code, m->text, (mq_span){0});
    }
    mq_ws_on_error(&sv->session, m, now_ms, &sv->actions);
}

static void on_answer(mq_supervisor *sv, const mq_msg_answer *m, mq_span json, int64_t now_ms)
{
    mq_code code = mq_code_parse((const char *)m->verdict.data, m->verdict.len);
    mq_ws_on_other(&sv->session, now_ms);
    mq_sv_answer(sv, m->rid, code, m->text, json);
}

static void dispatch(mq_supervisor *sv, const mq_broker_message *in, any_message *m, int64_t now_ms)
{
    mq_worker_session *s = &sv->session;
    switch ((int)in->command) {
    case MQ_CMD_welcome:
        on_welcome(sv, &m->welcome, now_ms);
        break;
    case MQ_CMD_error:
        on_error(sv, &m->error, now_ms);
        break;
    case MQ_CMD_registered:
        if (s->link == MQ_WS_REGISTERING) {
            mq_log(MQ_INFO, "registered", "shard=%u epoch=%llu slots=%u", s->at,
                   (unsigned long long)m->registered.epoch, sv->slot_count);
        }
        mq_ws_on_registered(s, &m->registered, now_ms, &sv->actions);
        break;
    case MQ_CMD_job:
        on_job(sv, &m->job, in->payload, now_ms);
        break;
    case MQ_CMD_beaten:
        mq_ws_on_beaten(s, &m->beaten, now_ms, &sv->actions);
        break;
    case MQ_CMD_verdict:
        mq_ws_on_verdict(s, &m->verdict, now_ms, &sv->actions);
        break;
    case MQ_CMD_checkpointed:
        mq_ws_on_other(s, now_ms);
        mq_sv_checkpointed(sv, &m->checkpointed, now_ms);
        break;
    case MQ_CMD_roster:
        mq_ws_on_other(s, now_ms);
        on_roster(sv, &m->roster, now_ms);
        break;
    case MQ_CMD_drain:
        mq_log(MQ_INFO, "drain", "by=broker deadline_ms=%llu",
               (unsigned long long)m->drain.deadline_ms);
        mq_ws_on_other(s, now_ms);
        mq_ws_drain(s, (int64_t)mq_min_size(m->drain.deadline_ms, INT32_MAX), now_ms);
        break;
    case MQ_CMD_answer:
        on_answer(sv, &m->answer, in->payload, now_ms);
        break;
    case MQ_CMD_routes:
        on_routes(sv, &m->routes, now_ms);
        break;
    case MQ_CMD_want:
        mq_ws_on_want(s, &m->want, now_ms);
        break;
    default:
        break;
    }
}

static bool is_for_workers(mq_command command)
{
    switch ((int)command) {
    case MQ_CMD_welcome:
    case MQ_CMD_error:
    case MQ_CMD_registered:
    case MQ_CMD_job:
    case MQ_CMD_beaten:
    case MQ_CMD_verdict:
    case MQ_CMD_checkpointed:
    case MQ_CMD_roster:
    case MQ_CMD_drain:
    case MQ_CMD_answer:
    case MQ_CMD_routes:
    case MQ_CMD_want:
        return true;
    default:
        return false;
    }
}

static bool receive_link(mq_supervisor *sv, uint32_t talk, int64_t now_ms)
{
    for (int i = 0; i < MESSAGES_A_TURN; i++) {
        mq_broker_message in;
        any_message m;
        mq_error err = {.text = "not for workers"};
        mq_ws_from(&sv->session, talk);
        if (mq_broker_link_receive(mq_sv_link(sv), &in) != MQ_OK) {
            return false;
        }
        if (!is_for_workers(in.command) ||
            mq_wire_decode(in.command, in.header, &m, &mq_sv_link(sv)->arena, &err) != MQ_OK) {
            mq_log(MQ_WARN, "message of the broker refused", "command=%s error=\"%s\"",
                   mq_command_name(in.command), err.text);
            continue;
        }
        dispatch(sv, &in, &m, now_ms);
        /* Spans of the actions borrow from the message: done before the next one is received. */
        mq_sv_act(sv, now_ms);
    }
    return true;
}

bool mq_sv_receive(mq_supervisor *sv, int64_t now_ms)
{
    bool has_more = false;
    for (uint32_t i = 0; i < sv->link_count; i++) {
        if (sv->links[i].is_ready) {
            sv->links[i].is_ready = receive_link(sv, i, now_ms);
            has_more |= sv->links[i].is_ready;
        }
    }
    return has_more;
}

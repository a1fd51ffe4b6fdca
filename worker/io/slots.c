/* Slot processes and the jobs in them: starts, frames, deaths. A slot is not trusted: whatever it
 * sends is checked, and one that breaks the protocol is killed. */
#include <poll.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/log.h"
#include "shared/base/math.h"
#include "worker/io/supervisor.h"

enum {
    READS_A_TURN = 8,
    START_FAILURES_MAX = 5,
    QUEUE_BYTES_MAX = 16 << 10, /* larger bodies are not copied to go with others */
};

/* Any frame a slot sends, decoded. */
typedef union any_frame {
    mq_slot_hello hello;
    mq_slot_kind kind;
    mq_slot_unfit unfit;
    mq_slot_open open;
    mq_slot_put put;
    mq_slot_query query;
    mq_slot_progress progress;
    mq_slot_log log;
    mq_slot_publish publish;
    mq_slot_spawn spawn;
    mq_slot_done done;
    mq_slot_fail fail;
    mq_slot_lost lost;
    mq_slot_want_segment want_segment;
    mq_slot_send send;
    mq_slot_consumed consumed;
    mq_slot_checkpoint checkpoint;
} any_frame;

static void kill_for(mq_supervisor *sv, uint32_t slot, const char *why)
{
    mq_log(MQ_WARN, "slot killed", "slot=%u pid=%d error=\"%s\"", slot, (int)sv->slots[slot].pid,
           why);
    mq_slot_process_kill(&sv->slots[slot]);
}

void mq_sv_to_slot(mq_supervisor *sv, uint32_t slot, mq_frame_type type, const void *message,
                   int fd)
{
    mq_slot_process *p = &sv->slots[slot];
    mq_error err;
    if (p->state != MQ_SLOT_UP && p->state != MQ_SLOT_STARTING) {
        return;
    }
    mq_code code = mq_stream_send(&p->stream, type, message, fd, &err);
    if (code == MQ_E_LIMIT) {
        kill_for(sv, slot, err.text);
    } /* an end of the stream is noticed by reading */
}

mq_kept_job *mq_sv_job_of(mq_supervisor *sv, uint32_t slot)
{
    uint32_t job = sv->session.slots[slot];
    return job < MQ_WS_JOBS_MAX && sv->slots[slot].is_running ? &sv->kept[job] : NULL;
}

/* --- jobs --- */

static bool is_member(const mq_msg_job_item *it)
{
    for (uint32_t i = 0; i < it->members_count; i++) {
        if (it->members[i].seat == it->seat) {
            return true;
        }
    }
    return false;
}

void mq_sv_slot_start_job(mq_supervisor *sv, uint32_t slot, uint32_t job, int64_t now_ms)
{
    mq_slot_process *p = &sv->slots[slot];
    mq_kept_job *kept = &sv->kept[job];
    const mq_msg_job_item *it = &kept->item;
    mq_error err = {0};
    if (!kept->is_used) {
        mq_fail(&err, MQ_E_BUSY, "no memory for the job's body");
    } else if (it->gang_epoch > 0 && !is_member(it)) {
        mq_fail(&err, MQ_E_INTERNAL, "roster: seat %llu is not in it",
                (unsigned long long)it->seat);
    }
    if (err.code != MQ_OK) {
        mq_ws_on_refused(&sv->session, job, &err, now_ms, &sv->actions);
        return;
    }
    kept->run = ++p->run;
    p->is_running = true;
    if (it->gang_epoch > 0) { /* such a job is never given ahead */
        atomic_store(&p->page->broken_epoch, 0);
        atomic_store(&p->page->roster_epoch, 0);
    }
    atomic_store(&p->claims->at[kept->run % MQ_SLOT_RUNS_MAX], kept->run * 4 + MQ_RUN_OFFERED);
    mq_slot_run m = {
        .run = kept->run,
        .job_id = it->id,
        .kind = it->kind,
        .attempt = it->attempt,
        .model = it->model,
        .model_blob = it->model_blob,
        .gang_epoch = it->gang_epoch,
        .checkpoint_step = it->step,
        .checkpoint_chain = it->chain,
        .checkpoint_blob = it->blob,
        .checkpoint_meta = it->meta,
        .body = kept->body,
    };
    if (m.body.len > QUEUE_BYTES_MAX) {
        mq_sv_to_slot(sv, slot, MQ_FRAME_run, &m, -1);
    } else if (mq_stream_queue(&p->stream, MQ_FRAME_run, &m, &err) == MQ_E_LIMIT) {
        kill_for(sv, slot, err.text);
    } else {
        p->is_unsent = true;
    }
    if (it->gang_epoch > 0) {
        mq_gang_roster(sv->gang, slot, it->id, it->gang_epoch, (uint32_t)it->seat, it->members,
                       it->members_count, now_ms);
    }
}

void mq_sv_slots_flush(mq_supervisor *sv)
{
    mq_error err;
    for (uint32_t i = 0; i < sv->slot_count; i++) {
        if (sv->slots[i].is_unsent) {
            sv->slots[i].is_unsent = false;
            (void)!mq_stream_flush(&sv->slots[i].stream, &err); /* reading notices an end */
        }
    }
}

void mq_sv_slot_recall(mq_supervisor *sv, uint32_t slot, uint32_t job)
{
    if (mq_slot_claim(sv->slots[slot].claims, sv->kept[job].run, MQ_RUN_RECALLED)) {
        mq_ws_on_recalled(&sv->session, job, &sv->actions);
    }
}

static void job_over(mq_supervisor *sv, uint32_t slot, const mq_error *error, uint64_t run_us,
                     bool is_crash, int64_t now_ms)
{
    mq_slot_process *p = &sv->slots[slot];
    const mq_kept_job *kept = mq_sv_job_of(sv, slot);
    MQ_ASSERT(kept != NULL);
    p->backoff_ms = MQ_SLOT_BACKOFF_MS;
    sv->asks[slot].is_open = false;
    mq_gang_leave(sv->gang, slot, error->code != MQ_OK);
    size_t bytes = error->code == MQ_OK ? kept->result.len + kept->header_bytes : 0;
    if (is_crash) {
        mq_ws_on_crashed(&sv->session, slot, mq_str(error->text), run_us, now_ms, &sv->actions);
    } else {
        mq_ws_on_ended(&sv->session, slot, error, run_us, bytes, now_ms, &sv->actions);
    }
    p->is_running = sv->session.slots[slot] < MQ_WS_JOBS_MAX;
}

static mq_code on_done(mq_supervisor *sv, uint32_t slot, const mq_slot_done *m, int64_t now_ms,
                       mq_error *err)
{
    mq_kept_job *kept = mq_sv_job_of(sv, slot);
    mq_error ok = {.code = MQ_OK};
    if (kept == NULL || m->run != kept->run) {
        return mq_fail(err, MQ_E_FORMAT, "done: that run is not under way");
    }
    mq_code code = mq_kept_result(kept, m->bytes, err);
    if (code == MQ_OK) {
        job_over(sv, slot, &ok, m->run_us, false, now_ms);
    }
    return code;
}

static mq_code on_fail(mq_supervisor *sv, uint32_t slot, const mq_slot_fail *m, int64_t now_ms,
                       mq_error *err)
{
    mq_error failure = {.code = MQ_E_INTERNAL};
    const mq_kept_job *kept = mq_sv_job_of(sv, slot);
    if (kept == NULL || m->run != kept->run) {
        return mq_fail(err, MQ_E_FORMAT, "fail: that run is not under way");
    }
    if (m->code > MQ_OK && m->code < MQ_CODE_COUNT) {
        failure.code = (mq_code)m->code;
    }
    mq_span_copy(m->text, failure.text, sizeof failure.text);
    job_over(sv, slot, &failure, m->run_us, m->is_crash != 0, now_ms);
    return MQ_OK;
}

static mq_code on_kind(mq_supervisor *sv, uint32_t slot, const mq_slot_kind *m, mq_error *err)
{
    mq_told_kinds *told = &sv->told[slot];
    if (sv->slots[slot].state != MQ_SLOT_STARTING || told->count == MQ_OWN_KINDS_MAX) {
        return mq_fail(err, MQ_E_FORMAT, "kind: after hello, or too many");
    }
    uint32_t at = told->count++;
    mq_span_copy(m->name, told->at[at].name, sizeof told->at[at].name);
    told->at[at].max_run_ms = m->max_run_ms;
    told->at[at].attempts_max = m->attempts_max;
    told->at[at].body_bytes_max = m->body_bytes_max;
    return MQ_OK;
}

/* What the slot was told to serve is wrong: at the worker's start that is its end. */
static mq_code on_unfit(mq_supervisor *sv, uint32_t slot, const mq_slot_unfit *m, mq_error *err)
{
    if (sv->slots[slot].state != MQ_SLOT_STARTING) {
        return mq_fail(err, MQ_E_FORMAT, "unfit: after hello");
    }
    char text[513];
    mq_span shown = mq_own_clean(m->text, text, sizeof text);
    mq_log(MQ_ERROR_LEVEL, "worker cannot serve", "error=\"%.*s\"", MQ_SPAN_ARG(shown));
    if (!sv->is_session_on) {
        sv->exit_status = 1;
        sv->is_over = true;
    } /* else the file changed while it ran: other slots go on, this one tries again */
    return MQ_OK;
}

static bool kinds_are_equal(const mq_told_kinds *a, const mq_told_kinds *b)
{
    bool is_equal = a->count == b->count;
    for (uint32_t i = 0; i < a->count && is_equal; i++) {
        is_equal = strcmp(a->at[i].name, b->at[i].name) == 0 &&
                   a->at[i].max_run_ms == b->at[i].max_run_ms &&
                   a->at[i].attempts_max == b->at[i].attempts_max &&
                   a->at[i].body_bytes_max == b->at[i].body_bytes_max;
    }
    return is_equal;
}

static mq_code on_hello(mq_supervisor *sv, uint32_t slot, const mq_slot_hello *m, int64_t now_ms,
                        mq_error *err)
{
    mq_slot_process *p = &sv->slots[slot];
    if (p->state != MQ_SLOT_STARTING) {
        return mq_fail(err, MQ_E_FORMAT, "hello: twice");
    }
    if (sv->is_session_on && !kinds_are_equal(&sv->told[slot], &sv->own)) {
        return mq_fail(err, MQ_E_CONFLICT,
                       "serves other kinds than the worker began with; were its "
                       "files changed? start the worker again");
    }
    p->state = MQ_SLOT_UP;
    if (m->fingerprint.len > 0 && sv->fingerprint[0] == '\0') {
        mq_span_copy(m->fingerprint, sv->fingerprint, sizeof sv->fingerprint);
        sv->slot_settings.want_fingerprint = false;
        sv->own = sv->told[slot];
        sv->is_session_on = true;
    }
    mq_log(MQ_DEBUG, "slot ready", "slot=%u pid=%d ms=%lld", slot, (int)p->pid,
           (long long)(now_ms - p->start_ms));
    mq_ws_on_slot_ready(&sv->session, slot, now_ms, &sv->actions);
    return MQ_OK;
}

/* --- blobs --- */

static mq_code on_open(mq_supervisor *sv, uint32_t slot, const mq_slot_open *m, mq_error *err)
{
    mq_blob_request r = {.type = MQ_BLOB_OPEN,
                         .slot = slot,
                         .generation = sv->slots[slot].generation,
                         .rid = m->rid,
                         .fd = -1};
    if (!mq_sha256_is_hex(m->hash)) {
        return mq_fail(err, MQ_E_FORMAT, "open: not a hash");
    }
    mq_span_copy(m->hash, r.hash, sizeof r.hash);
    mq_error busy;
    if (mq_blob_thread_ask(sv->blobs, &r, &busy) != MQ_OK) {
        mq_slot_opened no = {.rid = m->rid, .code = busy.code, .text = mq_str(busy.text)};
        mq_sv_to_slot(sv, slot, MQ_FRAME_opened, &no, -1);
    }
    return MQ_OK;
}

static mq_code on_put(mq_supervisor *sv, uint32_t slot, const mq_slot_put *m, int *fd,
                      mq_error *err)
{
    if (*fd < 0) {
        return mq_fail(err, MQ_E_FORMAT, "put: without its descriptor");
    }
    mq_blob_request r = {.type = MQ_BLOB_PUT,
                         .slot = slot,
                         .generation = sv->slots[slot].generation,
                         .rid = m->rid,
                         .fd = *fd};
    *fd = -1;
    mq_error busy;
    if (mq_blob_thread_ask(sv->blobs, &r, &busy) != MQ_OK) {
        mq_slot_stored no = {.rid = m->rid, .code = busy.code, .text = mq_str(busy.text)};
        mq_sv_to_slot(sv, slot, MQ_FRAME_stored, &no, -1);
    }
    return MQ_OK;
}

/* --- frames --- */

/* Frames that are only right while a job runs. */
static mq_code handle_job_frame(mq_supervisor *sv, uint32_t slot, mq_frame *f, const any_frame *m,
                                int64_t now_ms, mq_error *err)
{
    mq_kept_job *kept = mq_sv_job_of(sv, slot);
    uint32_t job = sv->session.slots[slot];
    if (kept == NULL) {
        return mq_fail(err, MQ_E_FORMAT, "frame %s outside a run", mq_frame_name(f->type));
    }
    switch (f->type) {
    case MQ_FRAME_open:
        return on_open(sv, slot, &m->open, err);
    case MQ_FRAME_put:
        return on_put(sv, slot, &m->put, &f->fd, err);
    case MQ_FRAME_query:
        mq_sv_ask(sv, slot, &m->query, now_ms);
        return MQ_OK;
    case MQ_FRAME_progress:
        mq_sv_progress(sv, job, m->progress.json, now_ms);
        return MQ_OK;
    case MQ_FRAME_log:
        mq_sv_log(sv, slot, job, m->log.text, now_ms);
        return MQ_OK;
    case MQ_FRAME_publish:
        return mq_kept_publish(kept, &m->publish, err);
    case MQ_FRAME_spawn:
        return mq_kept_spawn(kept, &m->spawn, err);
    case MQ_FRAME_lost:
        mq_gang_on_lost(sv->gang, slot, &m->lost);
        return MQ_OK;
    case MQ_FRAME_want_segment:
        mq_gang_on_want_segment(sv->gang, slot, &m->want_segment);
        return MQ_OK;
    case MQ_FRAME_send:
        mq_gang_on_send(sv->gang, slot, &m->send);
        return MQ_OK;
    case MQ_FRAME_consumed:
        mq_gang_on_consumed(sv->gang, slot, &m->consumed);
        return MQ_OK;
    case MQ_FRAME_checkpoint:
        mq_sv_checkpoint(sv, job, &m->checkpoint, now_ms);
        return MQ_OK;
    default:
        return mq_fail(err, MQ_E_FORMAT, "frame %s is not a slot's", mq_frame_name(f->type));
    }
}

static mq_code handle(mq_supervisor *sv, uint32_t slot, mq_frame *f, int64_t now_ms, mq_error *err)
{
    any_frame m;
    if (f->type < MQ_FRAME_hello || f->type > MQ_FRAME_news) {
        return mq_fail(err, MQ_E_FORMAT, "frame %u is not a slot's", f->type);
    }
    mq_code code = mq_frame_decode(f->type, f->body, &m, err);
    if (code != MQ_OK) {
        return code;
    }
    switch (f->type) {
    case MQ_FRAME_hello:
        return on_hello(sv, slot, &m.hello, now_ms, err);
    case MQ_FRAME_kind:
        return on_kind(sv, slot, &m.kind, err);
    case MQ_FRAME_unfit:
        return on_unfit(sv, slot, &m.unfit, err);
    case MQ_FRAME_done:
        return on_done(sv, slot, &m.done, now_ms, err);
    case MQ_FRAME_fail:
        return on_fail(sv, slot, &m.fail, now_ms, err);
    case MQ_FRAME_news: /* the ring is looked at before and after each frame */
        return MQ_OK;
    default:
        return handle_job_frame(sv, slot, f, &m, now_ms, err);
    }
}

/* Results in the ring, as far as the frames before them have been handled. */
static mq_code read_ring(mq_supervisor *sv, uint32_t slot, int64_t now_ms, mq_error *err)
{
    mq_slot_process *p = &sv->slots[slot];
    uint8_t result[MQ_RING_RESULT_MAX];
    for (;;) {
        mq_ring_record r;
        mq_code code = mq_ring_peek(&p->claims->ring, p->ring_head, &r, result, err);
        if (code == MQ_E_BUSY || (code == MQ_OK && r.after > p->frames_handled)) {
            return MQ_OK;
        }
        if (code == MQ_OK) {
            mq_slot_done m = {
                .run = r.run, .run_us = r.run_us, .bytes = mq_span_of(result, (size_t)r.bytes)};
            mq_ring_took(&p->claims->ring, &p->ring_head, &r);
            code = on_done(sv, slot, &m, now_ms, err);
        }
        if (code != MQ_OK) {
            return code;
        }
    }
}

/* Reads and handles at most `reads` times; the stream's failure is returned. */
static mq_code read_frames(mq_supervisor *sv, uint32_t slot, int reads, int64_t now_ms,
                           mq_error *err)
{
    mq_slot_process *p = &sv->slots[slot];
    mq_code code = MQ_OK;
    for (int i = 0; i < reads && code == MQ_OK; i++) {
        code = mq_stream_read(&p->stream, err);
        while (code == MQ_OK) {
            mq_frame frame;
            code = mq_stream_next(&p->stream, &frame, err);
            if (code == MQ_OK) {
                code = read_ring(sv, slot, now_ms, err);
                if (code == MQ_OK) {
                    code = handle(sv, slot, &frame, now_ms, err);
                    p->frames_handled++;
                }
                if (frame.fd >= 0) {
                    close(frame.fd);
                }
                if (code != MQ_OK) {
                    return code;
                }
            } else if (code == MQ_E_BUSY) {
                code = MQ_OK;
                break;
            }
        }
    }
    if (code == MQ_OK || code == MQ_E_BUSY || code == MQ_E_IO) {
        mq_code ring = read_ring(sv, slot, now_ms, err);
        code = ring == MQ_OK ? code : ring;
    }
    return code;
}

void mq_sv_rings_read(mq_supervisor *sv, int64_t now_ms)
{
    for (uint32_t i = 0; i < sv->slot_count; i++) {
        mq_error err;
        if (sv->slots[i].state == MQ_SLOT_UP && read_ring(sv, i, now_ms, &err) != MQ_OK) {
            kill_for(sv, i, err.text);
        }
    }
}

void mq_sv_slot_read(mq_supervisor *sv, uint32_t slot, int64_t now_ms)
{
    mq_slot_process *p = &sv->slots[slot];
    mq_error err = {0};
    if (p->state != MQ_SLOT_UP && p->state != MQ_SLOT_STARTING) {
        return;
    }
    mq_code code = mq_stream_is_waiting(&p->stream) ? mq_stream_flush(&p->stream, &err) : MQ_OK;
    if (code == MQ_OK || code == MQ_E_IO) {
        code = read_frames(sv, slot, READS_A_TURN, now_ms, &err);
    }
    if (code == MQ_E_IO) {
        mq_slot_process_kill(p); /* it has ended or is about to: reaped in a moment */
    } else if (code != MQ_OK && code != MQ_E_BUSY) {
        kill_for(sv, slot, err.text);
    }
}

/* --- processes --- */

void mq_sv_slots_start(mq_supervisor *sv, int64_t now_ms)
{
    mq_error err;
    for (uint32_t i = 0; i < sv->slot_count && !sv->session.is_draining; i++) {
        mq_slot_process *p = &sv->slots[i];
        if (p->state == MQ_SLOT_STARTING && now_ms - p->start_ms > MQ_SLOT_START_MS) {
            kill_for(sv, i, "no hello in time");
        }
        if (p->state != MQ_SLOT_DOWN || now_ms < p->start_ms) {
            continue;
        }
        sv->told[i].count = 0;
        if (mq_slot_process_start(p, &sv->slot_settings, now_ms, &err) != MQ_OK) {
            mq_log(MQ_ERROR_LEVEL, "slot does not start", "slot=%u error=\"%s\"", i, err.text);
            p->start_ms = now_ms + MQ_SLOT_BACKOFF_MS_MAX;
        }
    }
}

static void slot_ended(mq_supervisor *sv, uint32_t slot, int64_t now_ms)
{
    mq_slot_process *p = &sv->slots[slot];
    char why[64];
    mq_error err;
    /* What it said before it ended still counts: a result may be among it. */
    if (p->state == MQ_SLOT_UP) {
        (void)!read_frames(sv, slot, 100000, now_ms, &err);
    }
    bool had_said_hello =
        p->state == MQ_SLOT_UP || p->is_running || sv->session.slots[slot] != MQ_WS_SLOT_DEAD;
    const mq_kept_job *kept = mq_sv_job_of(sv, slot);
    bool was_running = kept != NULL && !mq_slot_claim(p->claims, kept->run, MQ_RUN_RECALLED);
    pid_t pid = p->pid;
    if (!mq_slot_process_reap(p, now_ms, why, sizeof why)) {
        return;
    }
    mq_log(MQ_WARN, "slot died", "slot=%u pid=%d why=\"%s\" job=%s", slot, (int)pid, why,
           was_running ? sv->session.jobs[sv->session.slots[slot]].id : "none");
    sv->asks[slot].is_open = false;
    if (was_running) {
        mq_gang_leave(sv->gang, slot, true);
    }
    if (had_said_hello) {
        mq_ws_on_slot_dead(&sv->session, slot, mq_str(why), was_running, now_ms, &sv->actions);
    } else if (!sv->is_session_on && ++sv->start_failures >= START_FAILURES_MAX) {
        mq_log(MQ_ERROR_LEVEL, "slots do not start", "failures=%u last=\"%s\"", sv->start_failures,
               why);
        sv->exit_status = 1;
        sv->is_over = true;
    }
}

void mq_sv_slots_reap(mq_supervisor *sv, int64_t now_ms)
{
    for (uint32_t i = 0; i < sv->slot_count; i++) {
        if (mq_slot_process_is_ended(&sv->slots[i])) {
            slot_ended(sv, i, now_ms);
        }
    }
}

int64_t mq_sv_slots_deadline(const mq_supervisor *sv, int64_t at_ms)
{
    for (uint32_t i = 0; i < sv->slot_count && !sv->session.is_draining; i++) {
        const mq_slot_process *p = &sv->slots[i];
        if (p->state == MQ_SLOT_DOWN) {
            at_ms = mq_min_i64(at_ms, p->start_ms);
        } else if (p->state == MQ_SLOT_STARTING) {
            at_ms = mq_min_i64(at_ms, p->start_ms + MQ_SLOT_START_MS);
        }
    }
    return at_ms;
}

/* What slots ask of the broker and the blob store: queries and checkpoints, sent again until they
 * are answered; progress and log lines, sent once; blobs, through the blob thread. */
#include <fcntl.h>
#include <unistd.h>

#include "shared/base/log.h"
#include "shared/base/math.h"
#include "worker/io/supervisor.h"

/* --- queries --- */

static void ask_send(mq_supervisor *sv, mq_slot_ask *ask, int64_t now_ms)
{
    mq_msg_query m = {.rid = ask->rid, .what = mq_str(ask->what), .name = mq_str(ask->name)};
    ask->sent_ms = now_ms;
    mq_ws_from(&sv->session, 0); /* the registry is there */
    mq_broker_link_send(mq_sv_link(sv), MQ_CMD_query, &m, (mq_span){0});
}

void mq_sv_ask(mq_supervisor *sv, uint32_t slot, const mq_slot_query *m, int64_t now_ms)
{
    mq_slot_ask *ask = &sv->asks[slot];
    *ask = (mq_slot_ask){.is_open = true,
                         .rid = ++sv->rid,
                         .slot_rid = m->rid,
                         .until_ms = now_ms + MQ_ASK_LIMIT_MS};
    mq_span_copy(m->what, ask->what, sizeof ask->what);
    mq_span_copy(m->name, ask->name, sizeof ask->name);
    ask_send(sv, ask, now_ms);
}

void mq_sv_answer(mq_supervisor *sv, uint64_t rid, mq_code code, mq_span text, mq_span json)
{
    for (uint32_t i = 0; i < sv->slot_count; i++) {
        mq_slot_ask *ask = &sv->asks[i];
        if (ask->is_open && ask->rid == rid) {
            mq_slot_answer m = {.rid = ask->slot_rid,
                                .code = code,
                                .text = mq_span_of(text.data, mq_min_size(text.len, 512)),
                                .json = json};
            ask->is_open = false;
            mq_sv_to_slot(sv, i, MQ_FRAME_answer, &m, -1);
        }
    }
}

/* --- checkpoints: one under way, a newer one waits behind it --- */

static void checkpoint_send(mq_supervisor *sv, uint32_t job, int64_t now_ms)
{
    mq_kept_job *kept = &sv->kept[job];
    const mq_ws_job *lease = &sv->session.jobs[job];
    const mq_kept_checkpoint *c = &kept->sent;
    mq_msg_checkpoint m = {
        .id = mq_str(lease->id),
        .epoch = lease->epoch,
        .grant = lease->grant,
        .gang_epoch = c->gang_epoch,
        .step = c->step,
        .chain = mq_str(c->chain),
        .blob = mq_str(c->blob),
        .meta = mq_span_of(c->meta, c->meta_len),
    };
    kept->checkpoint_ms = now_ms;
    mq_ws_from(&sv->session, lease->talk);
    mq_broker_link_send(mq_sv_link(sv), MQ_CMD_checkpoint, &m, (mq_span){0});
}

void mq_sv_checkpoint(mq_supervisor *sv, uint32_t job, const mq_slot_checkpoint *m, int64_t now_ms)
{
    mq_kept_job *kept = &sv->kept[job];
    mq_kept_checkpoint *c = kept->sent.step == 0 ? &kept->sent : &kept->next;
    *c = (mq_kept_checkpoint){.gang_epoch = m->epoch, .step = m->step, .meta_len = m->meta.len};
    mq_span_copy(m->chain, c->chain, sizeof c->chain);
    mq_span_copy(m->blob, c->blob, sizeof c->blob);
    if (m->meta.len > 0) {
        memcpy(c->meta, m->meta.data, m->meta.len);
    }
    if (c == &kept->sent) {
        checkpoint_send(sv, job, now_ms);
    }
}

void mq_sv_checkpointed(mq_supervisor *sv, const mq_msg_checkpointed *m, int64_t now_ms)
{
    for (uint32_t i = 0; i < sv->session.high; i++) {
        mq_kept_job *kept = &sv->kept[i];
        const mq_ws_job *job = &sv->session.jobs[i];
        if (!kept->is_used || job->state != MQ_WS_RUNNING || job->grant != m->grant ||
            !mq_span_is(m->id, job->id) || kept->sent.step == 0 || m->step < kept->sent.step) {
            continue;
        }
        bool is_ok = mq_span_is(m->verdict, "ok") || mq_span_is(m->verdict, "dup");
        if (mq_span_is(m->verdict, "busy")) {
            continue; /* it is sent again by itself */
        }
        kept->sent = kept->next;
        kept->next.step = 0;
        if (is_ok) {
            mq_slot_checkpointed told = {.step = m->step};
            mq_sv_to_slot(sv, job->slot, MQ_FRAME_checkpointed, &told, -1);
        } /* else refused by the fence: a new roster or a verdict is on its way */
        if (kept->sent.step != 0) {
            checkpoint_send(sv, i, now_ms);
        }
    }
}

/* --- progress and log lines --- */

static void progress_send(mq_supervisor *sv, uint32_t job, mq_span json, mq_span log)
{
    const mq_ws_job *lease = &sv->session.jobs[job];
    mq_msg_progress m = {.id = mq_str(lease->id),
                         .epoch = lease->epoch,
                         .grant = lease->grant,
                         .progress = json,
                         .log = log};
    mq_ws_from(&sv->session, lease->talk);
    mq_broker_link_send(mq_sv_link(sv), MQ_CMD_progress, &m, (mq_span){0});
}

void mq_sv_progress(mq_supervisor *sv, uint32_t job, mq_span json, int64_t now_ms)
{
    mq_kept_job *kept = &sv->kept[job];
    if (json.len == 0) {
        return;
    }
    memcpy(kept->progress, json.data, json.len);
    kept->progress_len = json.len;
    kept->is_progress_new = now_ms - kept->progress_ms < MQ_PROGRESS_MS;
    if (!kept->is_progress_new) {
        kept->progress_ms = now_ms;
        progress_send(sv, job, json, (mq_span){0});
    }
}

void mq_sv_log(mq_supervisor *sv, uint32_t slot, uint32_t job, mq_span text, int64_t now_ms)
{
    mq_slot_process *p = &sv->slots[slot];
    if (now_ms - p->log_ms >= 1000) {
        p->log_ms = now_ms;
        p->log_count = 0;
    }
    if (p->log_count++ < MQ_LOG_LINES) {
        mq_log(MQ_INFO, "job says", "id=%s text=\"%.*s\"", sv->session.jobs[job].id,
               MQ_SPAN_ARG(text));
        progress_send(sv, job, (mq_span){0}, text);
    }
}

/* --- blobs --- */

void mq_sv_upload(mq_supervisor *sv, uint32_t job, const mq_span *missing, uint32_t count,
                  int64_t now_ms)
{
    mq_kept_job *kept = &sv->kept[job];
    mq_error err;
    kept->uploads = 0;
    kept->is_upload_lost = false;
    for (uint32_t i = 0; i < count && !kept->is_upload_lost; i++) {
        mq_blob_request r = {.type = MQ_BLOB_UPLOAD, .job = job};
        int fd = mq_kept_blob_find(kept, missing[i]);
        r.fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
        r.rid = sv->session.jobs[job].grant;
        mq_span_copy(missing[i], r.hash, sizeof r.hash);
        if (r.fd < 0 || mq_blob_thread_ask(sv->blobs, &r, &err) != MQ_OK) {
            kept->is_upload_lost = true;
        } else {
            kept->uploads++;
        }
    }
    if (kept->uploads == 0) {
        mq_ws_on_uploaded(&sv->session, job, !kept->is_upload_lost, now_ms);
    }
}

static void uploaded(mq_supervisor *sv, const mq_blob_request *r, int64_t now_ms)
{
    mq_kept_job *kept = &sv->kept[r->job];
    if (!kept->is_used || sv->session.jobs[r->job].grant != r->rid || kept->uploads == 0) {
        return;
    }
    kept->uploads--;
    kept->is_upload_lost = kept->is_upload_lost || r->code != MQ_OK;
    if (kept->uploads == 0) {
        mq_ws_on_uploaded(&sv->session, r->job, !kept->is_upload_lost, now_ms);
    }
}

void mq_sv_blob_answers(mq_supervisor *sv, int64_t now_ms)
{
    mq_blob_request r;
    while (mq_blob_thread_answer(sv->blobs, &r)) {
        bool is_current = r.type != MQ_BLOB_UPLOAD && sv->slots[r.slot].pid > 0 &&
                          sv->slots[r.slot].generation == r.generation;
        if (r.code != MQ_OK) {
            mq_log(MQ_DEBUG, "blob", "hash=%.16s code=%s error=\"%s\"", r.hash,
                   mq_code_name(r.code), r.text);
        }
        if (r.type == MQ_BLOB_UPLOAD) {
            uploaded(sv, &r, now_ms);
        } else if (is_current && r.type == MQ_BLOB_OPEN) {
            mq_slot_opened m = {.rid = r.rid, .code = r.code, .text = mq_str(r.text)};
            if (r.code == MQ_OK) {
                mq_models_note(sv, r.slot, r.hash);
            }
            mq_sv_to_slot(sv, r.slot, MQ_FRAME_opened, &m, r.code == MQ_OK ? r.fd : -1);
        } else if (is_current) {
            mq_kept_job *kept = mq_sv_job_of(sv, r.slot);
            mq_slot_stored m = {
                .rid = r.rid, .code = r.code, .text = mq_str(r.text), .hash = mq_str(r.hash)};
            mq_sv_to_slot(sv, r.slot, MQ_FRAME_stored, &m, -1);
            if (kept != NULL && r.code == MQ_OK) {
                mq_kept_blob_add(kept, r.hash, r.fd);
                r.fd = -1;
            }
        }
        if (r.fd >= 0) {
            close(r.fd);
        }
    }
}

int64_t mq_sv_asks_due(mq_supervisor *sv, int64_t now_ms, int64_t at_ms)
{
    for (uint32_t i = 0; i < sv->slot_count; i++) {
        mq_slot_ask *ask = &sv->asks[i];
        if (ask->is_open && now_ms >= ask->until_ms) {
            mq_sv_answer(sv, ask->rid, MQ_E_TIMEOUT, mq_str("query: no answer from a broker"),
                         (mq_span){0});
        } else if (ask->is_open && now_ms - ask->sent_ms >= MQ_ASK_RESEND_MS) {
            ask_send(sv, ask, now_ms);
        }
        at_ms = ask->is_open ? mq_min_i64(at_ms, ask->sent_ms + MQ_ASK_RESEND_MS) : at_ms;
    }
    for (uint32_t i = 0; i < sv->session.high; i++) {
        mq_kept_job *kept = &sv->kept[i];
        if (!kept->is_used || sv->session.jobs[i].state != MQ_WS_RUNNING) {
            continue;
        }
        if (kept->sent.step != 0 && now_ms - kept->checkpoint_ms >= MQ_ASK_RESEND_MS) {
            checkpoint_send(sv, i, now_ms);
        }
        if (kept->is_progress_new && now_ms - kept->progress_ms >= MQ_PROGRESS_MS) {
            kept->is_progress_new = false;
            kept->progress_ms = now_ms;
            progress_send(sv, i, mq_span_of(kept->progress, kept->progress_len), (mq_span){0});
        }
        at_ms = kept->sent.step != 0 ? mq_min_i64(at_ms, kept->checkpoint_ms + MQ_ASK_RESEND_MS)
                                     : at_ms;
        at_ms =
            kept->is_progress_new ? mq_min_i64(at_ms, kept->progress_ms + MQ_PROGRESS_MS) : at_ms;
    }
    return at_ms;
}

/* The slot's end of the socketpair; see slot_host.h. Knows frames and one job, no network. */
#include "worker/slot/slot_host.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

enum {
    STRINGS_BYTES_MAX = 80 << 20,
    JSON_BYTES_MAX = 8 << 20,
    UNSENT_BYTES = 1 << 20,
    LATER_BYTES_MAX = 64 << 20, /* run frames given ahead: a slot that gets more stops */
    LATER_KEEP_BYTES = 1 << 20,
    QUICK_US = 20,   /* of a job whose end need not be told at once while there are more */
    UNTOLD_US = 200, /* of all of them together */
    UNTOLD_MAX = 64,
};

static mq_slot_host *slot_of(mq_host *host)
{
    return (mq_slot_host *)(void *)host;
}

void mq_slot_host_init(mq_slot_host *sh, int fd)
{
    *sh = (mq_slot_host){.reply = {.fd = -1}};
    mq_stream_init(&sh->stream, fd, MQ_SLOT_OUT_BYTES);
    mq_arena_init(&sh->strings, STRINGS_BYTES_MAX);
    mq_buf_init(&sh->reply.json, JSON_BYTES_MAX);
    mq_buf_init(&sh->later, LATER_BYTES_MAX);
    mq_outcome_init(&sh->outcome);
}

static void reply_clear(mq_slot_reply *reply)
{
    if (reply->fd >= 0) {
        close(reply->fd);
    }
    reply->is_here = false;
    reply->fd = -1;
    mq_buf_reset(&reply->json);
}

void mq_slot_host_release(mq_slot_host *sh)
{
    mq_slot_gang_reset(sh);
    reply_clear(&sh->reply);
    mq_buf_release(&sh->reply.json);
    mq_buf_release(&sh->later);
    mq_outcome_release(&sh->outcome);
    mq_arena_release(&sh->strings);
    mq_stream_release(&sh->stream);
    if (sh->page != NULL) {
        munmap((void *)(uintptr_t)sh->page, sizeof *sh->page);
    }
    sh->page = NULL;
    if (sh->claims != NULL) {
        munmap(sh->claims, sizeof *sh->claims);
    }
    sh->claims = NULL;
}

/* --- arriving frames --- */

static mq_code on_start(mq_slot_host *sh, const mq_slot_start *m, int fd, mq_error *err)
{
    if (sh->page != NULL || fd < 0) {
        return mq_fail(err, MQ_E_FORMAT, "start: without its page, or twice");
    }
    void *page = mmap(NULL, sizeof *sh->page, PROT_READ, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) {
        return mq_fail(err, MQ_E_IO, "start: mmap: %s", strerror(errno));
    }
    sh->page = page;
    sh->memory_bytes_max = m->memory_bytes_max;
    sh->want_fingerprint = m->want_fingerprint != 0;
    return MQ_OK;
}

static mq_code on_claims(mq_slot_host *sh, const mq_slot_claims *m, int fd, mq_error *err)
{
    if (sh->claims != NULL || fd < 0 || m->runs_max != MQ_SLOT_RUNS_MAX) {
        return mq_fail(err, MQ_E_FORMAT, "claims: without its page, of another size, or twice");
    }
    void *page = mmap(NULL, sizeof *sh->claims, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) {
        return mq_fail(err, MQ_E_IO, "claims: mmap: %s", strerror(errno));
    }
    sh->claims = page;
    return MQ_OK;
}

/* A run while another one is under way waits for its turn. */
static mq_code keep_run(mq_slot_host *sh, mq_span body, mq_error *err)
{
    uint32_t len = (uint32_t)body.len;
    bool is_kept = mq_buf_add(&sh->later, &len, sizeof len) && mq_buf_add_span(&sh->later, body);
    return is_kept ? MQ_OK
                   : mq_fail(err, MQ_E_LIMIT, "run: more than %d bytes ahead", LATER_BYTES_MAX);
}

static mq_code on_run(mq_slot_host *sh, const mq_slot_run *m, mq_error *err)
{
    mq_arena *a = &sh->strings;
    if (m->run == 0) {
        return mq_fail(err, MQ_E_FORMAT, "run: number 0");
    }
    if (sh->claims != NULL && !mq_slot_claim(sh->claims, m->run, MQ_RUN_BEGUN)) {
        return MQ_OK; /* taken back */
    }
    mq_arena_reset(a);
    sh->run = m->run;
    sh->gang_epoch = m->gang_epoch;
    sh->checkpointed = m->checkpoint_step;
    sh->host = (mq_host){
        .ops = &mq_slot_ops,
        .job_id = mq_arena_str(a, m->job_id),
        .kind = mq_arena_str(a, m->kind),
        .attempt = (uint32_t)m->attempt,
        .body = mq_span_of(mq_arena_str(a, m->body), m->body.len),
        .model = mq_arena_str(a, m->model),
        .model_blob = mq_arena_str(a, m->model_blob),
        .checkpoint_meta = mq_span_of(mq_arena_str(a, m->checkpoint_meta), m->checkpoint_meta.len),
        .checkpoint_blob = mq_arena_str(a, m->checkpoint_blob),
        .checkpoint_chain = mq_arena_str(a, m->checkpoint_chain),
        .checkpoint_step = m->checkpoint_step,
        .memory_bytes_max = sh->memory_bytes_max,
    };
    bool is_whole = sh->host.body.data != NULL && sh->host.checkpoint_meta.data != NULL &&
                    sh->host.checkpoint_chain != NULL && sh->host.job_id != NULL;
    return is_whole ? MQ_OK : mq_fail(err, MQ_E_LIMIT, "run: no memory for the job's body");
}

/* Keeps the answer when it is the one that is waited for; takes fd when it does. */
static void on_reply(mq_slot_host *sh, uint64_t rid, uint64_t code, mq_span text, int *fd)
{
    mq_slot_reply *reply = &sh->reply;
    if (rid != sh->rid || reply->is_here) {
        return;
    }
    reply->is_here = true;
    reply->code = code < MQ_CODE_COUNT ? (mq_code)code : MQ_E_INTERNAL;
    mq_span_copy(text, reply->text, sizeof reply->text);
    if (fd != NULL) {
        reply->fd = *fd;
        *fd = -1;
    }
}

/* Any frame of the table, decoded. */
typedef union any_frame {
    mq_slot_start start;
    mq_slot_claims claims;
    mq_slot_run run;
    mq_slot_roster roster;
    mq_slot_opened opened;
    mq_slot_stored stored;
    mq_slot_answer answer;
    mq_slot_segment segment;
    mq_slot_piece piece;
    mq_slot_window window;
    mq_slot_checkpointed checkpointed;
    mq_slot_cancel cancel;
    mq_slot_broken broken;
} any_frame;

static mq_code handle(mq_slot_host *sh, mq_frame *f, mq_error *err)
{
    any_frame m;
    if (f->type >= MQ_FRAME_hello) {
        return mq_fail(err, MQ_E_FORMAT, "frame %s is not for a slot", mq_frame_name(f->type));
    }
    if (f->type == MQ_FRAME_run && (sh->run != 0 || sh->later.len > 0)) {
        return keep_run(sh, f->body, err);
    }
    mq_code code = mq_frame_decode(f->type, f->body, &m, err);
    if (code != MQ_OK) {
        return code;
    }
    switch (f->type) {
    case MQ_FRAME_start:
        return on_start(sh, &m.start, f->fd, err);
    case MQ_FRAME_claims:
        return on_claims(sh, &m.claims, f->fd, err);
    case MQ_FRAME_run:
        return on_run(sh, &m.run, err);
    case MQ_FRAME_roster:
        return mq_slot_gang_on_roster(sh, &m.roster, err);
    case MQ_FRAME_piece:
        return mq_slot_gang_on_piece(sh, &m.piece, err);
    case MQ_FRAME_window:
        mq_slot_gang_on_window(sh, &m.window);
        break;
    case MQ_FRAME_checkpointed:
        sh->checkpointed = mq_max_size(sh->checkpointed, m.checkpointed.step);
        break;
    case MQ_FRAME_opened:
        on_reply(sh, m.opened.rid, m.opened.code, m.opened.text, &f->fd);
        break;
    case MQ_FRAME_stored:
        if (m.stored.rid == sh->rid) {
            mq_span_copy(m.stored.hash, sh->reply.hash, sizeof sh->reply.hash);
        }
        on_reply(sh, m.stored.rid, m.stored.code, m.stored.text, NULL);
        break;
    case MQ_FRAME_answer:
        if (m.answer.rid == sh->rid && !sh->reply.is_here) {
            mq_buf_add_span(&sh->reply.json, m.answer.json);
        }
        on_reply(sh, m.answer.rid, m.answer.code, m.answer.text, NULL);
        break;
    case MQ_FRAME_segment:
        sh->reply.bytes = m.segment.bytes; /* there is never a second question under way */
        on_reply(sh, m.segment.rid, m.segment.code, m.segment.text, &f->fd);
        break;
    default: /* cancel, broken: they only wake; the page has it */
        break;
    }
    return MQ_OK;
}

mq_code mq_slot_pump(mq_slot_host *sh, int64_t timeout_ms, mq_error *err)
{
    struct pollfd p = {.fd = sh->stream.fd, .events = POLLIN};
    p.events |= mq_stream_is_waiting(&sh->stream) ? POLLOUT : 0;
    int wait_ms = (int)mq_min_i64(mq_max_i64(timeout_ms, 0), 3600000);
    if (poll(&p, 1, wait_ms) < 0 && errno != EINTR) {
        return mq_fail(err, MQ_E_IO, "poll: %s", strerror(errno));
    }
    if ((p.revents & POLLOUT) != 0) {
        mq_code code = mq_stream_flush(&sh->stream, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    if ((p.revents & (POLLIN | POLLHUP | POLLERR)) == 0) {
        return MQ_OK;
    }
    mq_code code = mq_stream_read(&sh->stream, err);
    while (code == MQ_OK) {
        mq_frame frame;
        code = mq_stream_next(&sh->stream, &frame, err);
        if (code == MQ_OK) {
            code = handle(sh, &frame, err);
            if (frame.fd >= 0) {
                close(frame.fd);
            }
        }
    }
    if (code == MQ_E_BUSY) {
        return MQ_OK;
    }
    if (err != NULL) {
        (void)mq_wrap(err, "supervisor");
        err->code = MQ_E_IO;
    }
    return MQ_E_IO;
}

static mq_code drain_out(mq_slot_host *sh, size_t most, mq_error *err)
{
    int64_t until_ms = mq_clock_mono_ms() + MQ_SLOT_WRITE_MS;
    while (sh->stream.out.len - sh->stream.out_at > most) {
        int64_t left_ms = until_ms - mq_clock_mono_ms();
        if (left_ms <= 0) {
            return mq_fail(err, MQ_E_IO, "supervisor: reads nothing since %d ms", MQ_SLOT_WRITE_MS);
        }
        mq_code code = mq_slot_pump(sh, left_ms, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

mq_code mq_slot_send_frame(mq_slot_host *sh, mq_frame_type type, const void *message, int fd,
                           mq_error *err)
{
    mq_code code = mq_stream_send(&sh->stream, type, message, fd, err);
    sh->frames_sent++;
    return code != MQ_OK ? code : drain_out(sh, UNSENT_BYTES, err);
}

/* --- start, next, end --- */

mq_code mq_slot_host_start(mq_slot_host *sh, int64_t timeout_ms, mq_error *err)
{
    int64_t until_ms = mq_clock_mono_ms() + timeout_ms;
    while (sh->page == NULL) {
        int64_t left_ms = until_ms - mq_clock_mono_ms();
        if (left_ms <= 0) {
            return mq_fail(err, MQ_E_TIMEOUT, "no start within %lld ms", (long long)timeout_ms);
        }
        mq_code code = mq_slot_pump(sh, left_ms, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

mq_code mq_slot_host_hello(mq_slot_host *sh, const char *fingerprint, mq_error *err)
{
    mq_slot_hello hello = {.fingerprint = mq_str(fingerprint)};
    return mq_slot_send_frame(sh, MQ_FRAME_hello, &hello, -1, err);
}

mq_code mq_slot_host_kind(mq_slot_host *sh, const mq_slot_kind *kind, mq_error *err)
{
    return mq_slot_send_frame(sh, MQ_FRAME_kind, kind, -1, err);
}

mq_code mq_slot_host_unfit(mq_slot_host *sh, const char *why, mq_error *err)
{
    mq_slot_unfit m = {.text = mq_str(why)};
    mq_code code = mq_slot_send_frame(sh, MQ_FRAME_unfit, &m, -1, err);
    return code != MQ_OK ? code : drain_out(sh, 0, err);
}

/* Takes the next run that came ahead of time. */
static mq_code take_later(mq_slot_host *sh, mq_error *err)
{
    uint32_t len;
    mq_slot_run run;
    const uint8_t *at = sh->later.data + sh->later_at;
    memcpy(&len, at, sizeof len);
    mq_code code = mq_frame_decode(MQ_FRAME_run, mq_span_of(at + sizeof len, len), &run, err);
    if (code == MQ_OK) {
        code = on_run(sh, &run, err);
    }
    sh->later_at += sizeof len + len;
    if (sh->later_at == sh->later.len) {
        sh->later_at = 0;
        mq_buf_reset(&sh->later);
        if (sh->later.capacity > LATER_KEEP_BYTES) {
            mq_buf_release(&sh->later);
        }
    }
    return code;
}

/* Says that there is something in the ring, unless the supervisor is about to look anyway. */
static mq_code tell(mq_slot_host *sh, mq_error *err)
{
    const mq_slot_news news = {.results = sh->untold};
    sh->untold = 0;
    sh->untold_us = 0;
    if (mq_ring_is_behind(&sh->claims->ring, sh->told_at)) {
        return MQ_OK;
    }
    sh->told_at = atomic_load(&sh->claims->ring.tail);
    return mq_slot_send_frame(sh, MQ_FRAME_news, &news, -1, err);
}

mq_code mq_slot_host_next(mq_slot_host *sh, mq_error *err)
{
    while (sh->run == 0 || sh->roster.epoch < sh->gang_epoch) {
        bool has_later = sh->run == 0 && sh->later.len > 0;
        mq_code code = !has_later && sh->untold > 0 ? tell(sh, err) : MQ_OK;
        if (code == MQ_OK) {
            code = has_later ? take_later(sh, err) : mq_slot_pump(sh, 3600000, err);
        }
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

static mq_code send_progress(mq_slot_host *sh, mq_error *err)
{
    mq_slot_progress m = {.json = mq_span_of(sh->progress, sh->progress_len)};
    sh->progress_len = 0;
    sh->progress_ms = mq_clock_mono_ms();
    return mq_slot_send_frame(sh, MQ_FRAME_progress, &m, -1, err);
}

static mq_code send_publish(mq_slot_host *sh, const mq_publish *p, mq_error *err)
{
    mq_buf hashes;
    mq_buf_init(&hashes, (size_t)MQ_PUBLISH_BLOBS_MAX * 64);
    for (uint32_t i = 0; i < p->blob_count; i++) {
        mq_buf_add(&hashes, p->blobs[i], 64);
    }
    mq_slot_publish m = {.type = mq_str(p->type),
                         .name = mq_str(p->name),
                         .meta = p->meta,
                         .blobs = mq_buf_span(&hashes)};
    mq_code code = hashes.is_full ? mq_fail(err, MQ_E_LIMIT, "publish: no memory")
                                  : mq_slot_send_frame(sh, MQ_FRAME_publish, &m, -1, err);
    mq_buf_release(&hashes);
    return code;
}

/* A short result goes by the ring. While there is more to do, news of quick ones are kept back for
 * a moment; the supervisor looks by itself every millisecond then. */
static mq_code send_done(mq_slot_host *sh, uint64_t run_us, mq_span result, mq_error *err)
{
    if (sh->claims == NULL ||
        !mq_ring_put(&sh->claims->ring, sh->frames_sent, sh->run, run_us, result)) {
        mq_slot_done done = {.run = sh->run, .run_us = run_us, .bytes = result};
        return mq_slot_send_frame(sh, MQ_FRAME_done, &done, -1, err);
    }
    sh->untold++;
    sh->untold_us += run_us;
    bool may_wait = sh->later.len > 0 && run_us <= QUICK_US && sh->untold < UNTOLD_MAX &&
                    sh->untold_us < UNTOLD_US;
    return may_wait ? MQ_OK : tell(sh, err);
}

static mq_code send_outcome(mq_slot_host *sh, uint64_t run_us, mq_error *err)
{
    const mq_outcome *o = &sh->outcome;
    mq_code code = MQ_OK;
    for (uint32_t i = 0; code == MQ_OK && i < o->publish_count; i++) {
        code = send_publish(sh, &o->publish[i], err);
    }
    for (uint32_t i = 0; code == MQ_OK && i < o->spawn_count; i++) {
        mq_slot_spawn m = {.kind = mq_str(o->spawn[i].kind),
                           .model = mq_str(o->spawn[i].model),
                           .body = o->spawn[i].body};
        code = mq_slot_send_frame(sh, MQ_FRAME_spawn, &m, -1, err);
    }
    return code != MQ_OK ? code : send_done(sh, run_us, mq_buf_span(&o->result), err);
}

mq_code mq_slot_host_end(mq_slot_host *sh, mq_code code, uint64_t run_us, const mq_error *failure,
                         mq_error *err)
{
    mq_code sent = sh->progress_len > 0 ? send_progress(sh, err) : MQ_OK;
    if (sent == MQ_OK && code == MQ_OK) {
        sent = send_outcome(sh, run_us, err);
    } else if (sent == MQ_OK) {
        mq_slot_fail fail = {
            .run = sh->run,
            .run_us = run_us,
            .code = code,
            .is_crash = sh->host.is_crash,
            .text = mq_str(failure->code == code ? failure->text : mq_code_name(code)),
        };
        sent = mq_slot_send_frame(sh, MQ_FRAME_fail, &fail, -1, err);
    }
    mq_outcome_reset(&sh->outcome);
    mq_slot_gang_reset(sh);
    reply_clear(&sh->reply);
    sh->run = sh->gang_epoch = 0;
    sh->progress_ms = 0;
    return sent != MQ_OK ? sent : drain_out(sh, 0, err);
}

/* --- what the job may ask --- */

mq_code mq_slot_check(mq_host *host, mq_error *err)
{
    mq_slot_host *sh = slot_of(host);
    uint64_t cancelled = atomic_load_explicit(&sh->page->cancelled_run, memory_order_acquire);
    return cancelled >= sh->run ? mq_fail(err, MQ_E_CANCELLED, "cancelled by request") : MQ_OK;
}

/* Sends a question under a new rid and waits for its answer, which is then in sh->reply. */
static mq_code ask(mq_slot_host *sh, mq_frame_type type, const void *message, int fd, mq_error *err)
{
    reply_clear(&sh->reply);
    mq_code code = mq_slot_check(&sh->host, err);
    if (code == MQ_OK) {
        code = mq_slot_send_frame(sh, type, message, fd, err);
    }
    int64_t until_ms = mq_clock_mono_ms() + MQ_SLOT_ASK_MS;
    while (code == MQ_OK && !sh->reply.is_here) {
        int64_t left_ms = until_ms - mq_clock_mono_ms();
        if (left_ms <= 0) {
            return mq_fail(err, MQ_E_TIMEOUT, "%s: no answer within %d ms",
                           mq_frame_name((uint8_t)type), MQ_SLOT_ASK_MS);
        }
        code = mq_slot_pump(sh, mq_min_i64(left_ms, 1000), err);
        if (code == MQ_OK) {
            code = mq_slot_check(&sh->host, err);
        }
    }
    if (code == MQ_OK && sh->reply.code != MQ_OK) {
        code = mq_fail(err, sh->reply.code, "%s", sh->reply.text);
    }
    return code;
}

static mq_code op_blob_open(mq_host *host, const char *hash, mq_map_file *out, mq_error *err)
{
    mq_slot_host *sh = slot_of(host);
    *out = (mq_map_file){0};
    if (!mq_sha256_is_hex(mq_str(hash))) {
        return mq_fail(err, MQ_E_ARG, "blob: \"%.70s\" is not 64 lower-case hex digits", hash);
    }
    mq_slot_open m = {.rid = ++sh->rid, .hash = mq_str(hash)};
    mq_code code = ask(sh, MQ_FRAME_open, &m, -1, err);
    if (code == MQ_OK) {
        code = mq_map_file_fd(out, sh->reply.fd, SIZE_MAX, err);
    }
    reply_clear(&sh->reply);
    return code;
}

static mq_code op_blob_put(mq_host *host, mq_span bytes, char hash[MQ_SHA256_HEX], mq_error *err)
{
    mq_slot_host *sh = slot_of(host);
    int fd = memfd_create("maasq-blob", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return mq_fail(err, MQ_E_IO, "blob: memfd_create: %s", strerror(errno));
    }
    mq_code code = mq_fd_write(fd, bytes, err);
    mq_slot_put m = {.rid = ++sh->rid, .bytes = bytes.len};
    if (code == MQ_OK) {
        code = ask(sh, MQ_FRAME_put, &m, fd, err);
    }
    close(fd);
    if (code == MQ_OK) {
        memcpy(hash, sh->reply.hash, MQ_SHA256_HEX);
    }
    reply_clear(&sh->reply);
    return code;
}

static mq_code op_query(mq_host *host, const char *what, const char *name, mq_buf *json,
                        mq_error *err)
{
    mq_slot_host *sh = slot_of(host);
    mq_slot_query m = {.rid = ++sh->rid, .what = mq_str(what), .name = mq_str(name)};
    if (m.what.len > 32 || m.name.len > 192) {
        return mq_fail(err, MQ_E_ARG, "query: \"%.40s\" \"%.200s\" is longer than a name", what,
                       name);
    }
    mq_code code = ask(sh, MQ_FRAME_query, &m, -1, err);
    if (code == MQ_OK && !mq_buf_add_span(json, mq_buf_span(&sh->reply.json))) {
        code =
            mq_fail(err, MQ_E_LIMIT, "query: answer of %zu bytes does not fit", sh->reply.json.len);
    }
    reply_clear(&sh->reply);
    return code;
}

static void op_progress(mq_host *host, mq_span json)
{
    mq_slot_host *sh = slot_of(host);
    if (json.len == 0 || json.len > sizeof sh->progress) {
        return;
    }
    memcpy(sh->progress, json.data, json.len);
    sh->progress_len = json.len;
    if (mq_clock_mono_ms() - sh->progress_ms >= MQ_SLOT_PROGRESS_MS) {
        (void)send_progress(sh, NULL); /* a dead supervisor shows at the next question */
    }
}

static void op_log(mq_host *host, mq_span text)
{
    mq_slot_log m = {.text = mq_span_of(text.data, mq_min_size(text.len, 1024))};
    (void)mq_slot_send_frame(slot_of(host), MQ_FRAME_log, &m, -1, NULL);
}

static mq_code op_result(mq_host *host, mq_span bytes, mq_error *err)
{
    return mq_outcome_result(&slot_of(host)->outcome, bytes, err);
}

static mq_code op_publish(mq_host *host, const mq_publish *what, mq_error *err)
{
    return mq_outcome_publish(&slot_of(host)->outcome, what, err);
}

static mq_code op_spawn(mq_host *host, const mq_spawn *child, mq_error *err)
{
    return mq_outcome_spawn(&slot_of(host)->outcome, child, err);
}

const mq_host_ops mq_slot_ops = {
    .blob_open = op_blob_open,
    .blob_put = op_blob_put,
    .query = op_query,
    .progress = op_progress,
    .log = op_log,
    .check = mq_slot_check,
    .result = op_result,
    .publish = op_publish,
    .spawn = op_spawn,
    .roster = mq_slot_gang_roster,
    .roster_wait = mq_slot_gang_roster_wait,
    .report_lost = mq_slot_gang_report_lost,
    .segment = mq_slot_gang_segment,
    .segment_release = mq_slot_gang_segment_release,
    .is_broken = mq_slot_gang_is_broken,
    .gang_send = mq_slot_gang_send,
    .gang_recv = mq_slot_gang_recv,
    .checkpoint = mq_slot_gang_checkpoint,
    .checkpointed = mq_slot_gang_checkpointed,
};

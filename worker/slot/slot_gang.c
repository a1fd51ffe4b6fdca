/* The gang part of the slot's host: rosters, the shared segment, messages between members, and
 * checkpoints. What other members do is only known through the supervisor's frames and page. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"
#include "worker/slot/slot_host.h"

enum {
    SLICE_MS = 200,                            /* longest wait without a look at the page */
    CONSUMED_BYTES = MQ_SLOT_WINDOW_BYTES / 2, /* over all members: untold at most */
    ROSTER_MS = 5000,                          /* a roster that the page announces is on its way */
};

struct mq_piece {
    mq_piece *next;
    uint64_t epoch;
    uint32_t from_seat;
    uint32_t tag;
    size_t len;
    uint8_t bytes[];
};

static mq_slot_host *slot_of(mq_host *host)
{
    return (mq_slot_host *)(void *)host;
}

static void pieces_free(mq_piece *p)
{
    while (p != NULL) {
        mq_piece *next = p->next;
        free(p);
        p = next;
    }
}

void mq_slot_gang_reset(mq_slot_host *sh)
{
    pieces_free(sh->head);
    free(sh->current);
    sh->head = sh->tail = sh->current = NULL;
    sh->roster = (mq_roster){0};
    sh->sent_bytes = 0;
    sh->sent_epoch = 0;
    memset(sh->taken_bytes, 0, sizeof sh->taken_bytes);
}

/* --- arriving frames --- */

mq_code mq_slot_gang_on_roster(mq_slot_host *sh, const mq_slot_roster *m, mq_error *err)
{
    size_t count = m->members.len / MQ_SLOT_MEMBER_BYTES;
    if (m->members.len % MQ_SLOT_MEMBER_BYTES != 0 || count < 1 || count > MQ_SEATS_MAX ||
        m->self >= count) {
        return mq_fail(err, MQ_E_FORMAT, "roster: %zu bytes of members, self %llu", m->members.len,
                       (unsigned long long)m->self);
    }
    if (m->epoch <= sh->roster.epoch) {
        return MQ_OK;
    }
    mq_roster roster = {.epoch = m->epoch, .count = (uint32_t)count, .self = (uint32_t)m->self};
    for (size_t i = 0; i < count; i++) {
        const uint8_t *at = m->members.data + i * MQ_SLOT_MEMBER_BYTES;
        roster.members[i] = (mq_gang_member){
            .seat = (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
                    (uint32_t)at[3] << 24,
            .is_same_host = at[4] != 0,
        };
    }
    sh->roster = roster;
    memset(sh->taken_bytes, 0, sizeof sh->taken_bytes);
    return MQ_OK;
}

mq_code mq_slot_gang_on_piece(mq_slot_host *sh, const mq_slot_piece *m, mq_error *err)
{
    if (sh->run == 0 || m->epoch < sh->roster.epoch) {
        return MQ_OK;
    }
    mq_piece *p = malloc(sizeof *p + m->bytes.len);
    if (p == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "gang message: no memory for %zu bytes", m->bytes.len);
    }
    *p = (mq_piece){.epoch = m->epoch,
                    .from_seat = (uint32_t)m->from_seat,
                    .tag = (uint32_t)m->tag,
                    .len = m->bytes.len};
    if (m->bytes.len > 0) {
        memcpy(p->bytes, m->bytes.data, m->bytes.len);
    }
    if (sh->tail == NULL) {
        sh->head = p;
    } else {
        sh->tail->next = p;
    }
    sh->tail = p;
    return MQ_OK;
}

void mq_slot_gang_on_window(mq_slot_host *sh, const mq_slot_window *m)
{
    if (m->epoch == sh->sent_epoch) {
        sh->sent_bytes -= mq_min_size(sh->sent_bytes, m->bytes);
    }
}

/* --- rosters --- */

void mq_slot_gang_roster(mq_host *host, mq_roster *out)
{
    mq_slot_host *sh = slot_of(host);
    int64_t until_ms = mq_clock_mono_ms() + ROSTER_MS;
    while (atomic_load_explicit(&sh->page->roster_epoch, memory_order_acquire) > sh->roster.epoch &&
           mq_clock_mono_ms() < until_ms) {
        if (mq_slot_pump(sh, SLICE_MS, NULL) != MQ_OK) {
            break;
        }
    }
    *out = sh->roster;
}

mq_code mq_slot_gang_roster_wait(mq_host *host, uint64_t after, int64_t timeout_ms, mq_roster *out,
                                 mq_error *err)
{
    mq_slot_host *sh = slot_of(host);
    int64_t until_ms = mq_clock_mono_ms() + timeout_ms;
    mq_code code = mq_slot_check(host, err);
    while (code == MQ_OK && sh->roster.epoch <= after) {
        int64_t left_ms = until_ms - mq_clock_mono_ms();
        if (left_ms <= 0) {
            return mq_fail(err, MQ_E_TIMEOUT, "no roster after epoch %llu within %lld ms",
                           (unsigned long long)after, (long long)timeout_ms);
        }
        code = mq_slot_pump(sh, mq_min_i64(left_ms, SLICE_MS), err);
        if (code == MQ_OK) {
            code = mq_slot_check(host, err);
        }
    }
    *out = sh->roster;
    return code;
}

bool mq_slot_gang_is_broken(mq_host *host, uint64_t epoch)
{
    return atomic_load_explicit(&slot_of(host)->page->broken_epoch, memory_order_acquire) >= epoch;
}

void mq_slot_gang_report_lost(mq_host *host, uint64_t epoch, uint32_t seat)
{
    mq_slot_lost m = {.epoch = epoch, .seat = seat};
    (void)mq_slot_send_frame(slot_of(host), MQ_FRAME_lost, &m, -1, NULL);
}

/* MQ_OK while the job may go on under this epoch. */
static mq_code current(mq_slot_host *sh, uint64_t epoch, mq_error *err)
{
    mq_code code = mq_slot_check(&sh->host, err);
    if (code == MQ_OK && (mq_slot_gang_is_broken(&sh->host, epoch) || epoch < sh->roster.epoch)) {
        code = mq_fail(err, MQ_E_STALE, "gang epoch %llu is over", (unsigned long long)epoch);
    }
    return code;
}

/* --- the segment --- */

static mq_code segment_map(mq_slot_host *sh, size_t bytes, void **out, mq_error *err)
{
    mq_slot_reply *reply = &sh->reply;
    if (reply->code != MQ_OK) {
        return mq_fail(err, reply->code, "%s", reply->text);
    }
    if (reply->fd < 0 || reply->bytes != bytes) {
        return mq_fail(err, MQ_E_ARG, "segment: %zu bytes wanted, another member made it %llu",
                       bytes, (unsigned long long)reply->bytes);
    }
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, reply->fd, 0);
    if (at == MAP_FAILED) {
        return mq_fail(err, MQ_E_LIMIT, "segment: mmap of %zu bytes: %s", bytes, strerror(errno));
    }
    *out = at;
    return MQ_OK;
}

mq_code mq_slot_gang_segment(mq_host *host, uint64_t epoch, size_t bytes, int64_t timeout_ms,
                             void **out, mq_error *err)
{
    mq_slot_host *sh = slot_of(host);
    mq_slot_want_segment m = {.rid = ++sh->rid, .epoch = epoch, .bytes = bytes};
    int64_t until_ms = mq_clock_mono_ms() + timeout_ms;
    *out = NULL;
    if (bytes == 0) {
        return mq_fail(err, MQ_E_ARG, "segment: 0 bytes");
    }
    mq_code code = current(sh, epoch, err);
    sh->reply.is_here = false;
    if (code == MQ_OK) {
        code = mq_slot_send_frame(sh, MQ_FRAME_want_segment, &m, -1, err);
    }
    while (code == MQ_OK && !sh->reply.is_here) {
        int64_t left_ms = until_ms - mq_clock_mono_ms();
        if (left_ms <= 0) {
            return mq_fail(err, MQ_E_TIMEOUT, "segment: not there within %lld ms",
                           (long long)timeout_ms);
        }
        code = mq_slot_pump(sh, mq_min_i64(left_ms, SLICE_MS), err);
        if (code == MQ_OK) {
            code = current(sh, epoch, err);
        }
    }
    if (code == MQ_OK) {
        code = segment_map(sh, bytes, out, err);
    }
    if (sh->reply.fd >= 0) {
        close(sh->reply.fd);
    }
    sh->reply.fd = -1;
    sh->reply.is_here = false;
    return code;
}

void mq_slot_gang_segment_release(mq_host *host, void *at, size_t bytes)
{
    (void)host;
    if (at != NULL) {
        MQ_ASSERT(munmap(at, bytes) == 0);
    }
}

/* --- messages --- */

mq_code mq_slot_gang_send(mq_host *host, uint64_t epoch, uint32_t to_seat, uint32_t tag,
                          mq_span bytes, mq_error *err)
{
    mq_slot_host *sh = slot_of(host);
    if (bytes.len > MQ_GANG_PIECE_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "gang_send: %zu bytes; the limit is %d", bytes.len,
                       MQ_GANG_PIECE_MAX);
    }
    if (sh->sent_epoch != epoch) {
        sh->sent_epoch = epoch;
        sh->sent_bytes = 0;
    }
    mq_code code = current(sh, epoch, err);
    while (code == MQ_OK && sh->sent_bytes + bytes.len > MQ_SLOT_WINDOW_BYTES) {
        code = mq_slot_pump(sh, SLICE_MS, err);
        if (code == MQ_OK) {
            code = current(sh, epoch, err);
        }
    }
    if (code != MQ_OK) {
        return code;
    }
    sh->sent_bytes += bytes.len;
    mq_slot_send m = {.epoch = epoch, .to_seat = to_seat, .tag = tag, .bytes = bytes};
    return mq_slot_send_frame(sh, MQ_FRAME_send, &m, -1, err);
}

/* First message of the epoch, older ones dropped; NULL when there is none. */
static mq_piece *inbox_take(mq_slot_host *sh, uint64_t epoch)
{
    while (sh->head != NULL && sh->head->epoch <= epoch) {
        mq_piece *p = sh->head;
        sh->head = p->next;
        sh->tail = sh->head == NULL ? NULL : sh->tail;
        if (p->epoch == epoch) {
            return p;
        }
        free(p);
    }
    return NULL;
}

/* Opens the sender's window again, now and then. */
static mq_code tell_consumed(mq_slot_host *sh, const mq_piece *p, mq_error *err)
{
    for (uint32_t i = 0; i < sh->roster.count; i++) {
        if (sh->roster.members[i].seat != p->from_seat) {
            continue;
        }
        sh->taken_bytes[i] += p->len;
        if (sh->taken_bytes[i] < CONSUMED_BYTES / MQ_SEATS_MAX) {
            return MQ_OK;
        }
        mq_slot_consumed m = {
            .epoch = p->epoch, .from_seat = p->from_seat, .bytes = sh->taken_bytes[i]};
        sh->taken_bytes[i] = 0;
        return mq_slot_send_frame(sh, MQ_FRAME_consumed, &m, -1, err);
    }
    return MQ_OK;
}

mq_code mq_slot_gang_recv(mq_host *host, uint64_t epoch, int64_t timeout_ms, mq_gang_message *out,
                          mq_error *err)
{
    mq_slot_host *sh = slot_of(host);
    int64_t until_ms = mq_clock_mono_ms() + timeout_ms;
    free(sh->current);
    sh->current = NULL;
    mq_code code = current(sh, epoch, err);
    while (code == MQ_OK && (sh->current = inbox_take(sh, epoch)) == NULL) {
        int64_t left_ms = until_ms - mq_clock_mono_ms();
        if (left_ms < 0) {
            return mq_fail(err, MQ_E_TIMEOUT, "no gang message within %lld ms",
                           (long long)timeout_ms);
        }
        /* One look at the socket also when the time is up. */
        code = mq_slot_pump(sh, mq_min_i64(left_ms, SLICE_MS), err);
        if (code == MQ_OK) {
            code = current(sh, epoch, err);
        }
        until_ms = left_ms == 0 ? until_ms - 1 : until_ms;
    }
    if (code != MQ_OK) {
        return code;
    }
    const mq_piece *p = sh->current;
    *out = (mq_gang_message){.from_seat = p->from_seat,
                             .epoch = p->epoch,
                             .tag = p->tag,
                             .bytes = mq_span_of(p->bytes, p->len)};
    return tell_consumed(sh, p, err);
}

/* --- checkpoints --- */

mq_code mq_slot_gang_checkpoint(mq_host *host, uint64_t epoch, uint64_t step, const char *chain,
                                const char *blob, mq_span meta, mq_error *err)
{
    mq_slot_checkpoint m = {
        .epoch = epoch, .step = step, .chain = mq_str(chain), .blob = mq_str(blob), .meta = meta};
    if (m.chain.len > 64 || m.blob.len > 64 || meta.len > 4096) {
        return mq_fail(err, MQ_E_LIMIT,
                       "checkpoint: chain and blob of at most 64, meta of at most 4096 bytes");
    }
    mq_code code = mq_slot_check(host, err);
    return code != MQ_OK ? code
                         : mq_slot_send_frame(slot_of(host), MQ_FRAME_checkpoint, &m, -1, err);
}

uint64_t mq_slot_gang_checkpointed(mq_host *host)
{
    mq_slot_host *sh = slot_of(host);
    (void)mq_slot_pump(sh, 0, NULL);
    return sh->checkpointed;
}

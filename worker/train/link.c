/* Waiting for members and sending them vectors; see link.h. Knows no gradients. */
#include "worker/train/link.h"

#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

typedef struct piece_head {
    uint32_t kind, part;
    uint64_t step, offset, total;
} piece_head;

_Static_assert(sizeof(piece_head) == 32, "heads travel as bytes and have no padding");

enum { PIECE_BYTES = MQ_GANG_PIECE_MAX - (int)sizeof(piece_head), POLL_MS = 20 };

struct mq_link_stashed {
    mq_link_stashed *next;
    uint32_t rank;
    piece_head head;
    size_t len;
    uint8_t bytes[];
};

mq_code mq_link_init(mq_link *link, mq_host *host, const mq_roster *roster, mq_arena *arena,
                     mq_error *err)
{
    *link = (mq_link){.host = host, .roster = *roster, .patience_ms = MQ_LINK_LEASE_MS};
    link->expects = mq_arena_new(arena, mq_link_expect, MQ_LINK_EXPECT_MAX);
    link->piece = mq_arena_alloc(arena, 1, MQ_GANG_PIECE_MAX);
    if (link->expects == NULL || link->piece == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "memory: no room for gang messages in %zu bytes",
                       arena->limit_bytes);
    }
    return MQ_OK;
}

void mq_link_release(mq_link *link)
{
    while (link->stash != NULL) {
        mq_link_stashed *next = link->stash->next;
        free(link->stash);
        link->stash = next;
    }
    *link = (mq_link){0};
}

bool mq_link_is_one_host(const mq_link *link)
{
    bool is_one = true;
    for (uint32_t i = 0; i < link->roster.count; i++) {
        is_one = is_one && (i == link->roster.self || link->roster.members[i].is_same_host);
    }
    return is_one;
}

mq_code mq_link_wait_turn(mq_link *link, mq_link_wait *wait, uint32_t rank, mq_error *err)
{
    const mq_host_ops *ops = link->host->ops;
    uint64_t epoch = link->roster.epoch;
    mq_code code = ops->check(link->host, err);
    if (code != MQ_OK) {
        return code;
    }
    if (ops->is_broken(link->host, epoch)) {
        return mq_fail(err, MQ_E_STALE, "roster %llu is broken", (unsigned long long)epoch);
    }
    int64_t now = mq_clock_mono_ms();
    if (wait->since_ms == 0) {
        wait->since_ms = now;
    }
    if (now - wait->since_ms < link->patience_ms) {
        return MQ_OK;
    }
    wait->since_ms = now;
    if (wait->reports++ >= MQ_LINK_REPORTS_MAX) {
        return mq_fail(
            err, MQ_E_TIMEOUT, "seat %u did not answer in %d x %lld ms and was not replaced",
            link->roster.members[rank].seat, MQ_LINK_REPORTS_MAX, (long long)link->patience_ms);
    }
    ops->report_lost(link->host, epoch, link->roster.members[rank].seat);
    return MQ_OK;
}

static bool is_same(const mq_parcel *p, uint32_t rank, const piece_head *head)
{
    return p->rank == rank && (uint32_t)p->kind == head->kind && p->part == head->part &&
           p->step == head->step;
}

/* Copies a piece to where it belongs. */
static mq_code place(mq_link_expect *e, const piece_head *head, mq_span bytes, mq_error *err)
{
    if (head->total != e->bytes || head->offset != e->got || bytes.len > e->bytes - e->got) {
        return mq_fail(err, MQ_E_FORMAT,
                       "gang message: parcel %u.%u of step %llu: %zu bytes at %llu of %llu, "
                       "expected at %zu of %zu",
                       head->kind, head->part, (unsigned long long)head->step, bytes.len,
                       (unsigned long long)head->offset, (unsigned long long)head->total, e->got,
                       e->bytes);
    }
    if (bytes.len > 0) {
        memcpy(e->to + e->got, bytes.data, bytes.len);
    }
    e->got += bytes.len;
    return MQ_OK;
}

static mq_code put_aside(mq_link *link, uint32_t rank, const piece_head *head, mq_span bytes,
                         mq_error *err)
{
    if (bytes.len > MQ_LINK_STASH_BYTES_MAX - link->stash_bytes) {
        return mq_fail(err, MQ_E_LIMIT, "gang messages: more than %zu bytes came too early",
                       MQ_LINK_STASH_BYTES_MAX);
    }
    mq_link_stashed *s = malloc(sizeof *s + bytes.len);
    if (s == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "gang messages: no memory for %zu bytes", bytes.len);
    }
    *s = (mq_link_stashed){.rank = rank, .head = *head, .len = bytes.len};
    memcpy(s->bytes, bytes.data, bytes.len);
    link->stash_bytes += bytes.len;
    mq_link_stashed **end = &link->stash;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = s;
    return MQ_OK;
}

/* Takes one message in; MQ_E_TIMEOUT when there is none within timeout_ms. */
static mq_code take_in(mq_link *link, int64_t timeout_ms, mq_error *err)
{
    mq_gang_message msg;
    piece_head head;
    mq_code code =
        link->host->ops->gang_recv(link->host, link->roster.epoch, timeout_ms, &msg, err);
    if (code != MQ_OK) {
        return code;
    }
    uint32_t rank = 0;
    while (rank < link->roster.count && link->roster.members[rank].seat != msg.from_seat) {
        rank++;
    }
    if (rank == link->roster.count || msg.bytes.len < sizeof head) {
        return mq_fail(err, MQ_E_FORMAT, "gang message: %zu bytes from seat %u", msg.bytes.len,
                       msg.from_seat);
    }
    memcpy(&head, msg.bytes.data, sizeof head);
    mq_span bytes = {msg.bytes.data + sizeof head, msg.bytes.len - sizeof head};
    for (uint32_t i = 0; i < link->expect_count; i++) {
        mq_link_expect *e = &link->expects[i];
        if (e->is_open && is_same(&e->parcel, rank, &head)) {
            return place(e, &head, bytes, err);
        }
    }
    return put_aside(link, rank, &head, bytes, err);
}

mq_code mq_link_send(mq_link *link, const mq_parcel *parcel, mq_span bytes, mq_error *err)
{
    piece_head head = {(uint32_t)parcel->kind, parcel->part, parcel->step, 0, bytes.len};
    do {
        size_t len = mq_min_size(bytes.len - head.offset, PIECE_BYTES);
        memcpy(link->piece, &head, sizeof head);
        if (len > 0) {
            memcpy(link->piece + sizeof head, bytes.data + head.offset, len);
        }
        mq_code code = link->host->ops->gang_send(
            link->host, link->roster.epoch, link->roster.members[parcel->rank].seat, head.kind,
            mq_span_of(link->piece, sizeof head + len), err);
        if (code != MQ_OK) {
            return code;
        }
        head.offset += len;
        /* A peer that sends as much as we do must not be left with full queues. */
        code = head.offset < bytes.len ? take_in(link, 0, err) : MQ_OK;
        if (code != MQ_OK && code != MQ_E_TIMEOUT) {
            return code;
        }
    } while (head.offset < bytes.len);
    return MQ_OK;
}

static mq_link_expect *free_expect(mq_link *link)
{
    for (uint32_t i = 0; i < link->expect_count; i++) {
        if (!link->expects[i].is_open) {
            return &link->expects[i];
        }
    }
    MQ_ASSERT(link->expect_count < MQ_LINK_EXPECT_MAX);
    return &link->expects[link->expect_count++];
}

mq_code mq_link_expect_parcel(mq_link *link, const mq_parcel *parcel, void *to, size_t bytes,
                              mq_error *err)
{
    mq_link_expect *e = free_expect(link);
    *e = (mq_link_expect){*parcel, to, bytes, 0, true};
    mq_code code = MQ_OK;
    mq_link_stashed **at = &link->stash;
    while (*at != NULL && code == MQ_OK) {
        mq_link_stashed *s = *at;
        if (!is_same(parcel, s->rank, &s->head)) {
            at = &s->next;
            continue;
        }
        code = place(e, &s->head, mq_span_of(s->bytes, s->len), err);
        *at = s->next;
        link->stash_bytes -= s->len;
        free(s);
    }
    return code;
}

mq_code mq_link_take(mq_link *link, const mq_parcel *parcel, mq_error *err)
{
    mq_link_expect *e = NULL;
    for (uint32_t i = 0; i < link->expect_count; i++) {
        mq_link_expect *x = &link->expects[i];
        if (x->is_open && x->parcel.rank == parcel->rank && x->parcel.kind == parcel->kind &&
            x->parcel.part == parcel->part && x->parcel.step == parcel->step) {
            e = x;
        }
    }
    MQ_ASSERT(e != NULL);
    mq_link_wait wait = {0};
    size_t got = e->got;
    mq_code code = MQ_OK;
    while (e->got < e->bytes && code == MQ_OK) {
        code = take_in(link, POLL_MS, err);
        if (code == MQ_E_TIMEOUT) {
            code = mq_link_wait_turn(link, &wait, parcel->rank, err);
        }
        if (e->got > got) {
            got = e->got;
            wait = (mq_link_wait){0};
        }
    }
    e->is_open = false;
    return code;
}

mq_code mq_link_receive(mq_link *link, const mq_parcel *parcel, void *to, size_t bytes,
                        mq_error *err)
{
    mq_code code = mq_link_expect_parcel(link, parcel, to, bytes, err);
    return code == MQ_OK ? mq_link_take(link, parcel, err) : code;
}

/* Rosters, segments, messages and deaths of the local slots' gangs; see plane.h. Knows no sockets:
 * what goes to a peer goes through peer.c. */
#include "worker/gang/gang.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"

static mq_gang *gang_of(mq_gang_plane *plane, uint32_t slot)
{
    MQ_ASSERT(slot < plane->config.slot_count);
    return &plane->gangs[slot];
}

static mq_gang_seat *member_find(mq_gang *gang, uint64_t seat)
{
    for (uint32_t i = 0; i < gang->count; i++) {
        if (gang->members[i].seat == seat) {
            return &gang->members[i];
        }
    }
    return NULL;
}

/* Slot whose gang is in this job and seat, or UINT32_MAX. */
static uint32_t slot_find(const mq_gang_plane *plane, mq_span job_id, uint64_t seat)
{
    for (uint32_t i = 0; i < plane->config.slot_count; i++) {
        const mq_gang *g = &plane->gangs[i];
        if (g->is_used && g->seat == seat && mq_span_is(job_id, g->job_id)) {
            return i;
        }
    }
    return UINT32_MAX;
}

static void to_slot(mq_gang_plane *plane, uint32_t slot, mq_frame_type type, const void *message,
                    int fd)
{
    plane->config.to_slot(plane->config.arg, slot, type, message, fd);
}

static void page_raise(_Atomic uint64_t *field, uint64_t epoch)
{
    if (atomic_load_explicit(field, memory_order_relaxed) < epoch) {
        atomic_store_explicit(field, epoch, memory_order_release);
    }
}

/* The slot's current epoch cannot go on: it sees that in its page, and wakes. */
static void mark_broken(mq_gang_plane *plane, uint32_t slot)
{
    uint64_t epoch = plane->gangs[slot].epoch;
    mq_slot_page *page = plane->config.page(plane->config.arg, slot);
    if (atomic_load_explicit(&page->broken_epoch, memory_order_relaxed) >= epoch) {
        return;
    }
    page_raise(&page->broken_epoch, epoch);
    mq_slot_broken m = {.epoch = epoch};
    to_slot(plane, slot, MQ_FRAME_broken, &m, -1);
}

/* --- rosters --- */

static void segment_forget(mq_gang *gang)
{
    if (gang->segment_fd >= 0) {
        close(gang->segment_fd);
    }
    gang->segment_fd = -1;
    gang->is_waiting = false;
}

static void tell_roster(mq_gang_plane *plane, uint32_t slot)
{
    mq_gang *g = &plane->gangs[slot];
    uint8_t members[MQ_SEATS_MAX * MQ_SLOT_MEMBER_BYTES];
    mq_slot_roster m = {.epoch = g->epoch};
    for (uint32_t i = 0; i < g->count; i++) {
        uint8_t *at = members + (size_t)i * MQ_SLOT_MEMBER_BYTES;
        uint32_t seat = g->members[i].seat;
        for (int b = 0; b < 4; b++) {
            at[b] = (uint8_t)(seat >> (8 * b));
        }
        at[4] = g->members[i].is_same_host;
        m.self = seat == g->seat ? i : m.self;
    }
    m.members = mq_span_of(members, (size_t)g->count * MQ_SLOT_MEMBER_BYTES);
    to_slot(plane, slot, MQ_FRAME_roster, &m, -1);
    mq_slot_page *page = plane->config.page(plane->config.arg, slot);
    page_raise(&page->roster_epoch, g->epoch);
    page_raise(&page->broken_epoch, g->epoch - 1);
}

void mq_gang_roster(mq_gang_plane *plane, uint32_t slot, mq_span job_id, uint64_t epoch,
                    uint32_t seat, const mq_msg_member *members, uint32_t count, int64_t now_ms)
{
    mq_gang *g = gang_of(plane, slot);
    bool is_same_job = g->is_used && mq_span_is(job_id, g->job_id);
    bool is_member = false;
    plane->now_ms = now_ms;
    for (uint32_t i = 0; i < count; i++) {
        is_member = is_member || members[i].seat == seat;
    }
    if ((is_same_job && epoch <= g->epoch) || epoch == 0 || count > MQ_SEATS_MAX || !is_member) {
        return;
    }
    if (g->is_used) {
        segment_forget(g);
    }
    *g = (mq_gang){.is_used = true, .epoch = epoch, .seat = seat, .count = count, .segment_fd = -1};
    mq_span_copy(job_id, g->job_id, sizeof g->job_id);
    for (uint32_t i = 0; i < count; i++) {
        bool is_ours = mq_span_is(members[i].worker, plane->worker);
        g->members[i] = (mq_gang_seat){
            .seat = (uint32_t)members[i].seat,
            .peer = is_ours ? MQ_GANG_LOCAL : MQ_GANG_NO_PEER,
            .is_same_host = is_ours || mq_span_is(members[i].host, plane->host),
        };
    }
    tell_roster(plane, slot);
    for (uint32_t i = 0; i < count && g->is_used && g->epoch == epoch; i++) {
        if (g->members[i].peer == MQ_GANG_LOCAL) {
            continue;
        }
        g->members[i].peer = mq_peer_get(plane, &members[i]);
        if (g->members[i].peer == MQ_GANG_NO_PEER) {
            mark_broken(plane, slot);
            plane->config.lost(plane->config.arg, slot, epoch, g->members[i].seat);
        }
    }
    mq_peer_tidy(plane);
    mq_early_replay(plane);
}

void mq_gang_leave(mq_gang_plane *plane, uint32_t slot, bool is_death)
{
    mq_gang *g = gang_of(plane, slot);
    if (!g->is_used) {
        return;
    }
    mq_slot_peer_broken m = {.job_id = mq_str(g->job_id), .epoch = g->epoch, .seat = g->seat};
    uint64_t told[(MQ_GANG_PEERS_MAX + 63) / 64] = {0};
    for (uint32_t i = 0; is_death && i < g->count; i++) {
        uint32_t peer = g->members[i].peer;
        if (peer < MQ_GANG_PEERS_MAX && (told[peer / 64] >> (peer % 64) & 1) == 0) {
            told[peer / 64] |= UINT64_C(1) << (peer % 64);
            mq_peer_send(plane, peer, MQ_FRAME_peer_broken, &m, -1);
        }
    }
    for (uint32_t i = 0; is_death && i < plane->config.slot_count; i++) {
        const mq_gang *other = &plane->gangs[i];
        if (i != slot && other->is_used && other->epoch == g->epoch &&
            strcmp(other->job_id, g->job_id) == 0) {
            mark_broken(plane, i);
        }
    }
    segment_forget(g);
    g->is_used = false;
    mq_peer_tidy(plane);
}

void mq_gang_on_peer_death(mq_gang_plane *plane, const char *worker)
{
    for (uint32_t i = 0; i < plane->config.slot_count; i++) {
        mq_gang *g = &plane->gangs[i];
        for (uint32_t k = 0; g->is_used && k < g->count; k++) {
            uint32_t peer = g->members[k].peer;
            if (peer < MQ_GANG_PEERS_MAX && strcmp(plane->peers[peer].worker, worker) == 0) {
                g->members[k].peer = MQ_GANG_NO_PEER;
                mark_broken(plane, i);
                plane->config.lost(plane->config.arg, i, g->epoch, g->members[k].seat);
            }
        }
    }
}

void mq_gang_on_lost(mq_gang_plane *plane, uint32_t slot, const mq_slot_lost *m)
{
    mq_gang *g = gang_of(plane, slot);
    if (g->is_used && m->epoch == g->epoch && member_find(g, m->seat) != NULL) {
        plane->config.lost(plane->config.arg, slot, m->epoch, (uint32_t)m->seat);
    }
}

/* --- messages --- */

void mq_gang_on_send(mq_gang_plane *plane, uint32_t slot, const mq_slot_send *m)
{
    mq_gang *g = gang_of(plane, slot);
    const mq_gang_seat *to = g->is_used ? member_find(g, m->to_seat) : NULL;
    if (to == NULL || m->epoch != g->epoch || m->to_seat == g->seat) {
        return;
    }
    mq_slot_peer_piece p = {.job_id = mq_str(g->job_id),
                            .epoch = m->epoch,
                            .from_seat = g->seat,
                            .to_seat = m->to_seat,
                            .tag = m->tag,
                            .bytes = m->bytes};
    if (to->peer < MQ_GANG_PEERS_MAX) {
        mq_peer_send(plane, to->peer, MQ_FRAME_peer_piece, &p, -1);
        return;
    }
    uint32_t other = slot_find(plane, p.job_id, m->to_seat);
    if (to->peer == MQ_GANG_LOCAL && other != UINT32_MAX && plane->gangs[other].epoch == m->epoch) {
        mq_slot_piece piece = {
            .epoch = m->epoch, .from_seat = g->seat, .tag = m->tag, .bytes = m->bytes};
        to_slot(plane, other, MQ_FRAME_piece, &piece, -1);
    } else if (to->peer == MQ_GANG_LOCAL) {
        mq_span rest;
        int none = -1;
        mq_buf_reset(&plane->scratch);
        mq_frame_encode(MQ_FRAME_peer_piece, &p, &plane->scratch, &rest);
        mq_buf_add_span(&plane->scratch, rest);
        mq_early_add(plane, MQ_FRAME_peer_piece, mq_buf_span(&plane->scratch), &none);
    }
}

void mq_gang_on_consumed(mq_gang_plane *plane, uint32_t slot, const mq_slot_consumed *m)
{
    mq_gang *g = gang_of(plane, slot);
    const mq_gang_seat *from = g->is_used ? member_find(g, m->from_seat) : NULL;
    if (from == NULL || m->epoch != g->epoch) {
        return;
    }
    uint32_t other = slot_find(plane, mq_str(g->job_id), m->from_seat);
    if (from->peer < MQ_GANG_PEERS_MAX) {
        mq_slot_peer_window w = {.job_id = mq_str(g->job_id),
                                 .epoch = m->epoch,
                                 .from_seat = g->seat,
                                 .to_seat = m->from_seat,
                                 .bytes = m->bytes};
        mq_peer_send(plane, from->peer, MQ_FRAME_peer_window, &w, -1);
    } else if (other != UINT32_MAX && plane->gangs[other].epoch == m->epoch) {
        mq_slot_window w = {.epoch = m->epoch, .bytes = m->bytes};
        to_slot(plane, other, MQ_FRAME_window, &w, -1);
    }
}

/* --- the segment --- */

static void segment_answer(mq_gang_plane *plane, uint32_t slot, mq_code code, const char *text)
{
    mq_gang *g = &plane->gangs[slot];
    mq_slot_segment m = {
        .rid = g->want_rid, .code = code, .text = mq_str(text), .bytes = g->segment_bytes};
    g->is_waiting = false;
    to_slot(plane, slot, MQ_FRAME_segment, &m, code == MQ_OK ? g->segment_fd : -1);
}

/* A segment that nobody can shrink below what is mapped. */
static mq_code segment_make(uint64_t bytes, int *out, mq_error *err)
{
    int fd = memfd_create("maasq-gang", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int failure = errno;
        if (fd >= 0) {
            close(fd);
        }
        return mq_fail(err, MQ_E_IO, "segment of %llu bytes: %s", (unsigned long long)bytes,
                       strerror(failure));
    }
    *out = fd;
    return MQ_OK;
}

/* Slot of this gang (job and epoch) that makes the segment: the lowest seat of this host. Local
 * when it is one of ours, UINT32_MAX otherwise. */
static uint32_t maker_slot(const mq_gang_plane *plane, const mq_gang *g)
{
    for (uint32_t i = 0; i < g->count; i++) {
        if (g->members[i].is_same_host) {
            uint32_t slot = slot_find(plane, mq_str(g->job_id), g->members[i].seat);
            return slot != UINT32_MAX && plane->gangs[slot].epoch == g->epoch ? slot : UINT32_MAX;
        }
    }
    return UINT32_MAX;
}

/* Gives the segment to every local slot of the gang that waits for it. */
static void segment_hand_out(mq_gang_plane *plane, const mq_gang *from)
{
    for (uint32_t i = 0; i < plane->config.slot_count; i++) {
        mq_gang *g = &plane->gangs[i];
        if (!g->is_used || g->epoch != from->epoch || strcmp(g->job_id, from->job_id) != 0) {
            continue;
        }
        if (g->segment_fd < 0) {
            g->segment_fd = fcntl(from->segment_fd, F_DUPFD_CLOEXEC, 0);
            g->segment_bytes = from->segment_bytes;
        }
        if (g->is_waiting && g->segment_fd >= 0) {
            segment_answer(plane, i, MQ_OK, "");
        }
    }
}

static void segment_share(mq_gang_plane *plane, mq_gang *g)
{
    uint64_t told[(MQ_GANG_PEERS_MAX + 63) / 64] = {0};
    mq_slot_peer_segment m = {
        .job_id = mq_str(g->job_id), .epoch = g->epoch, .bytes = g->segment_bytes};
    for (uint32_t i = 0; i < g->count; i++) {
        uint32_t peer = g->members[i].peer;
        if (peer < MQ_GANG_PEERS_MAX && g->members[i].is_same_host &&
            (told[peer / 64] >> (peer % 64) & 1) == 0) {
            told[peer / 64] |= UINT64_C(1) << (peer % 64);
            mq_peer_send(plane, peer, MQ_FRAME_peer_segment, &m, g->segment_fd);
        }
    }
}

void mq_gang_on_want_segment(mq_gang_plane *plane, uint32_t slot, const mq_slot_want_segment *m)
{
    mq_gang *g = gang_of(plane, slot);
    mq_error err;
    g->want_rid = m->rid;
    g->want_bytes = m->bytes;
    g->is_waiting = true;
    if (!g->is_used || m->epoch != g->epoch) {
        segment_answer(plane, slot, MQ_E_STALE, "that gang epoch is over");
        return;
    }
    if (g->segment_fd >= 0) {
        segment_answer(plane, slot, MQ_OK, "");
        return;
    }
    uint32_t maker = maker_slot(plane, g);
    if (maker != slot && maker != UINT32_MAX && plane->gangs[maker].segment_fd >= 0) {
        segment_hand_out(plane, &plane->gangs[maker]);
    } else if (maker == slot) {
        if (segment_make(m->bytes, &g->segment_fd, &err) != MQ_OK) {
            segment_answer(plane, slot, MQ_E_IO, err.text);
            return;
        }
        g->segment_bytes = m->bytes;
        segment_share(plane, g);
        segment_hand_out(plane, g);
    } /* else it comes from the peer that makes it */
}

/* --- what peers send --- */

/* What the frame means for the local slot: deliver, keep for later, or drop. */
typedef enum verdict { DELIVER, EARLY, DROP } verdict;

static verdict judge(const mq_gang_plane *plane, uint32_t slot, uint64_t epoch)
{
    if (slot == UINT32_MAX) {
        return EARLY;
    }
    uint64_t current = plane->gangs[slot].epoch;
    return epoch == current ? DELIVER : epoch > current ? EARLY : DROP;
}

static verdict on_piece(mq_gang_plane *plane, const mq_slot_peer_piece *m)
{
    uint32_t slot = slot_find(plane, m->job_id, m->to_seat);
    verdict v = judge(plane, slot, m->epoch);
    if (v != DELIVER) {
        return v;
    }
    if (m->bytes.len > MQ_GANG_PIECE_MAX ||
        member_find(&plane->gangs[slot], m->from_seat) == NULL) {
        plane->refused++;
        return DROP;
    }
    mq_slot_piece piece = {
        .epoch = m->epoch, .from_seat = m->from_seat, .tag = m->tag, .bytes = m->bytes};
    to_slot(plane, slot, MQ_FRAME_piece, &piece, -1);
    return DELIVER;
}

static verdict on_window(mq_gang_plane *plane, const mq_slot_peer_window *m)
{
    uint32_t slot = slot_find(plane, m->job_id, m->to_seat);
    if (judge(plane, slot, m->epoch) == DELIVER) {
        mq_slot_window w = {.epoch = m->epoch, .bytes = m->bytes};
        to_slot(plane, slot, MQ_FRAME_window, &w, -1);
    }
    return DROP;
}

static verdict on_segment(mq_gang_plane *plane, const mq_slot_peer_segment *m, int *fd)
{
    struct stat st;
    verdict v = EARLY;
    for (uint32_t i = 0; i < plane->config.slot_count; i++) {
        mq_gang *g = &plane->gangs[i];
        if (!g->is_used || !mq_span_is(m->job_id, g->job_id) || m->epoch < g->epoch) {
            continue;
        }
        if (m->epoch > g->epoch) {
            return EARLY;
        }
        v = DELIVER;
        int seals = fcntl(*fd, F_GET_SEALS);
        if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(*fd, &st) != 0 ||
            (uint64_t)st.st_size != m->bytes) {
            plane->refused++;
            return DROP;
        }
        if (g->segment_fd < 0) {
            g->segment_fd = fcntl(*fd, F_DUPFD_CLOEXEC, 0);
            g->segment_bytes = m->bytes;
        }
        if (g->segment_fd >= 0) {
            segment_hand_out(plane, g);
        }
    }
    return v;
}

static verdict on_broken(mq_gang_plane *plane, const mq_slot_peer_broken *m)
{
    verdict v = DROP;
    for (uint32_t i = 0; i < plane->config.slot_count; i++) {
        const mq_gang *g = &plane->gangs[i];
        if (!g->is_used || !mq_span_is(m->job_id, g->job_id)) {
            continue;
        }
        if (m->epoch == g->epoch) {
            mark_broken(plane, i);
        } else if (m->epoch > g->epoch) {
            v = EARLY;
        }
    }
    return v;
}

void mq_gang_on_peer_frame(mq_gang_plane *plane, const char *worker, uint8_t type, mq_span body,
                           int *fd)
{
    union {
        mq_slot_peer_piece piece;
        mq_slot_peer_window window;
        mq_slot_peer_segment segment;
        mq_slot_peer_broken broken;
    } m;
    (void)worker;
    verdict v = DROP;
    bool is_ours = type > MQ_FRAME_peer_hello && type <= MQ_FRAME_peer_broken;
    if (!is_ours || mq_frame_decode(type, body, &m, NULL) != MQ_OK) {
        plane->refused++;
        return;
    }
    if (type == MQ_FRAME_peer_piece) {
        v = on_piece(plane, &m.piece);
    } else if (type == MQ_FRAME_peer_window) {
        v = on_window(plane, &m.window);
    } else if (type == MQ_FRAME_peer_segment && *fd >= 0) {
        v = on_segment(plane, &m.segment, fd);
    } else if (type == MQ_FRAME_peer_broken) {
        v = on_broken(plane, &m.broken);
    }
    if (v == EARLY) {
        mq_early_add(plane, type, body, fd);
    }
}

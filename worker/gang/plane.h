/* The gang plane: how the members of one gang job reach each other without the broker. Every
 * supervisor listens on a Unix stream socket (members of the same host) and a ZeroMQ ROUTER
 * (others) and tells both addresses in READY; rosters bring them to the peers.
 *
 *     gang (one local slot in one job's roster)          peer (one other supervisor)
 *       slot, job id, epoch, own seat                      worker id, Unix stream or DEALER
 *       members: seat -> worker ----------------------------^
 *       segment of this epoch (memfd)
 *
 * Every connection carries frames one way, from the supervisor that made it. Same host: a Unix
 * stream to the peer's abstract address (no file that could stay behind; the listener checks the
 * user). Its end, on either side, tells of a death at once: the epoch is marked broken in the pages
 * of all local slots of that gang and `lost` goes to the broker, which answers with a new roster.
 * Between hosts: DEALER to ROUTER, in order per pair; the end of the connection is taken for a
 * death in the same way (a killed process at once, a dead host after the heartbeat's limit): when
 * it was only the network, the broker's new roster is one member smaller than it could be, nothing
 * worse.
 *
 * A message of an epoch older than the local one is dropped; one of a job or epoch that is not here
 * yet waits a little (MQ_GANG_EARLY_*). What may be under way between two members is bounded by the
 * slots' own windows (worker/slot/protocol.h), so nothing here has to block.
 *
 * One thread: the supervisor's. */
#ifndef MQ_WORKER_GANG_PLANE_H
#define MQ_WORKER_GANG_PLANE_H

#include <zmq.h>

#include "shared/wire/messages.h"
#include "shared/wire/poll.h"
#include "worker/slot/protocol.h"

enum {
    MQ_GANG_PEERS_MAX = 128,
    MQ_GANG_EARLY_MS = 10000,
    MQ_GANG_EARLY_BYTES_MAX = 256 << 20,
    MQ_GANG_POLL_MAX = 2 * MQ_GANG_PEERS_MAX + 2, /* both directions, listener, ROUTER */
};

typedef struct mq_gang_plane mq_gang_plane;

typedef struct mq_gang_config {
    void *context;       /* ZeroMQ, borrowed */
    const char *worker;  /* id of this supervisor */
    const char *host;    /* id of the host */
    const char *bind;    /* ROUTER's endpoint, "*" = any port */
    const char *address; /* told to peers in place of a wildcard address, "" = found out */
    const char *broker;  /* an endpoint of a broker, for finding that address out */
    uint32_t slot_count;
    void *arg; /* for the calls below */
    void (*to_slot)(void *arg, uint32_t slot, mq_frame_type type, const void *message, int fd);
    mq_slot_page *(*page)(void *arg, uint32_t slot);
    /* A member of the slot's gang was seen to die. */
    void (*lost)(void *arg, uint32_t slot, uint64_t gang_epoch, uint32_t seat);
} mq_gang_config;

/* Binds both sockets. Copies the config's strings. */
MQ_MUST_USE mq_code mq_gang_plane_new(mq_gang_plane **out, const mq_gang_config *config,
                                      mq_error *err);
void mq_gang_plane_free(mq_gang_plane *plane);

/* Addresses for READY. unix: "@NAME", an abstract address. */
const char *mq_gang_unix(const mq_gang_plane *plane);
const char *mq_gang_tcp(const mq_gang_plane *plane);

/* The roster that a slot's job has from now on: at its start and at every change. Older or equal
 * epochs are ignored. Tells the slot. */
void mq_gang_roster(mq_gang_plane *plane, uint32_t slot, mq_span job_id, uint64_t epoch,
                    uint32_t seat, const mq_msg_member *members, uint32_t count, int64_t now_ms);

/* The slot's run is over. is_death: without a result; the other members are told. */
void mq_gang_leave(mq_gang_plane *plane, uint32_t slot, bool is_death);

/* Frames of a slot that concern its gang: send, consumed, want_segment, lost. */
void mq_gang_on_send(mq_gang_plane *plane, uint32_t slot, const mq_slot_send *m);
void mq_gang_on_consumed(mq_gang_plane *plane, uint32_t slot, const mq_slot_consumed *m);
void mq_gang_on_want_segment(mq_gang_plane *plane, uint32_t slot, const mq_slot_want_segment *m);
void mq_gang_on_lost(mq_gang_plane *plane, uint32_t slot, const mq_slot_lost *m);

/* What to poll, at most MQ_GANG_POLL_MAX; returns how many. Then process with the same items. */
uint32_t mq_gang_poll_items(mq_gang_plane *plane, mq_poll_item *items);
void mq_gang_process(mq_gang_plane *plane, const mq_poll_item *items, uint32_t count,
                     int64_t now_ms);

#endif

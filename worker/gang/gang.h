/* Inside worker/gang: the plane's data. Callers outside use plane.h. */
#ifndef MQ_WORKER_GANG_GANG_H
#define MQ_WORKER_GANG_GANG_H

#include "worker/gang/plane.h"
#include "worker/slot/host.h"
#include "worker/slot/stream.h"

enum {
    MQ_PEER_QUEUE_BYTES = 1 << 30,
    MQ_PEER_MESSAGE_BYTES_MAX = MQ_GANG_PIECE_MAX + 4096,
};

/* In place of a peer's index. */
#define MQ_GANG_NO_PEER UINT32_MAX
#define MQ_GANG_LOCAL   (UINT32_MAX - 1)

/* Our way to another supervisor. */
typedef struct mq_peer {
    bool is_used;
    bool is_same_host;
    char worker[33];
    mq_stream stream; /* same host; fd -1 = dead */
    void *dealer;     /* another host */
    void *monitor;    /* of the dealer: tells when its connection ends */
} mq_peer;

/* Another supervisor's way to us; worker is empty until its hello. */
typedef struct mq_peer_in {
    bool is_used;
    char worker[33];
    mq_stream stream;
} mq_peer_in;

typedef struct mq_gang_seat {
    uint32_t seat;
    uint32_t peer; /* index, MQ_GANG_LOCAL or MQ_GANG_NO_PEER */
    bool is_same_host;
} mq_gang_seat;

/* One local slot's place in the gang of its job. */
typedef struct mq_gang {
    bool is_used;
    char job_id[33];
    uint64_t epoch;
    uint32_t seat;
    uint32_t count;
    mq_gang_seat members[MQ_SEATS_MAX];
    int segment_fd; /* of this epoch; -1 = not there yet */
    uint64_t segment_bytes;
    bool is_waiting; /* for the segment */
    uint64_t want_rid, want_bytes;
} mq_gang;

/* A frame that came before its job or roster. */
typedef struct mq_early mq_early;
struct mq_early {
    mq_early *next;
    int64_t until_ms;
    uint8_t type;
    int fd; /* owned, or -1 */
    size_t len;
    uint8_t body[];
};

struct mq_gang_plane {
    mq_gang_config config; /* strings point into the plane */
    char worker[33], host[65];
    char unix_address[108], tcp_address[128];
    int listen_fd;
    void *router;
    bool is_router_drained; /* mq_poll_item */
    uint64_t monitor_count; /* makes their names */
    uint64_t refused;       /* connections and messages that broke the rules */
    mq_gang gangs[128];     /* by slot */
    uint32_t high; /* peers and ways in that are used are all below this index; never falls */
    mq_peer peers[MQ_GANG_PEERS_MAX];
    mq_peer_in in[MQ_GANG_PEERS_MAX];
    uint32_t polled[MQ_GANG_POLL_MAX]; /* which peer each poll item is; ways in: + PEERS_MAX */
    mq_early *early_head, *early_tail;
    size_t early_bytes;
    int64_t now_ms;
    mq_buf scratch;
};

/* peer.c: connections. */
mq_code mq_peer_listen(mq_gang_plane *plane, mq_error *err);
void mq_peer_close_all(mq_gang_plane *plane);
/* Index of the way to this member, made when there is none; MQ_GANG_NO_PEER when it is dead or the
 * table is full. */
uint32_t mq_peer_get(mq_gang_plane *plane, const mq_msg_member *member);
/* Sends or queues; a dead peer is noticed here too. */
void mq_peer_send(mq_gang_plane *plane, uint32_t peer, mq_frame_type type, const void *message,
                  int fd);
void mq_peer_accept(mq_gang_plane *plane);
void mq_peer_read(mq_gang_plane *plane, uint32_t in);
void mq_peer_read_router(mq_gang_plane *plane);
/* The way out has room again, or its other end is gone. */
void mq_peer_check(mq_gang_plane *plane, uint32_t peer);
void mq_peer_check_monitor(mq_gang_plane *plane, uint32_t peer);
/* Closes ways to other hosts that no gang needs. */
void mq_peer_tidy(mq_gang_plane *plane);

/* gang.c: what peers' frames and deaths mean. worker: the sender's id, "" between hosts. fd is
 * taken when the frame keeps it (then set to -1). */
void mq_gang_on_peer_frame(mq_gang_plane *plane, const char *worker, uint8_t type, mq_span body,
                           int *fd);
void mq_gang_on_peer_death(mq_gang_plane *plane, const char *worker);

/* early.c: frames that wait for their roster. */
void mq_early_add(mq_gang_plane *plane, uint8_t type, mq_span body, int *fd);
/* Takes out all that waits and hands it in again, oldest first. */
void mq_early_replay(mq_gang_plane *plane);
void mq_early_expire(mq_gang_plane *plane, int64_t now_ms);

#endif

/* One roster's worth of talk between the members of a gang: waiting with deadlines, and vectors
 * sent as messages. A link lives as long as its roster; whatever goes wrong with the roster shows
 * as MQ_E_STALE, upon which the caller drops the link and meets again under the next roster.
 *
 * A parcel is a run of bytes named by (kind, step, part). It travels in pieces of at most
 * MQ_GANG_PIECE_MAX bytes with this head (little-endian, all members are of one build):
 *
 *     | u32 kind | u32 part | u64 step | u64 offset | u64 total | bytes ... |
 *
 * The receiver says beforehand where a parcel goes (expect) and then waits for it; what arrives
 * before it is expected (a member may be one step ahead) is kept aside, within a limit. Sending
 * never blocks on a peer that is itself sending: arrived pieces are taken in between. */
#ifndef MQ_WORKER_TRAIN_LINK_H
#define MQ_WORKER_TRAIN_LINK_H

#include "shared/base/arena.h"
#include "worker/slot/host.h"

enum {
    MQ_LINK_LEASE_MS = 3000,   /* the least patience with a member */
    MQ_LINK_REPORTS_MAX = 200, /* reports of one silent member before the job gives up */
    MQ_LINK_EXPECT_MAX = 1024, /* parcels expected at a time */
};
#define MQ_LINK_STASH_BYTES_MAX ((size_t)1 << 30)

/* What a parcel is. Also the tag of its messages. */
typedef enum mq_parcel_kind {
    MQ_PARCEL_HELLO = 1,  /* who holds what, when a roster meets */
    MQ_PARCEL_STATE,      /* a whole state, to a member that lags */
    MQ_PARCEL_STATS,      /* loss sums of one's shards */
    MQ_PARCEL_ROOT,       /* one maximal root, or a segment of it; part = its number */
    MQ_PARCEL_SUM,        /* a finished segment; part = its owner */
    MQ_PARCEL_ACTIVATION, /* pipeline, forward; part = micro-batch */
    MQ_PARCEL_GRADIENT,   /* pipeline, backward; part = micro-batch */
    MQ_PARCEL_PLAN,       /* pipeline: rank 0 says what happens at the end of a step */
    MQ_PARCEL_STAGE,      /* pipeline: a stage's part of the vectors, to rank 0 */
} mq_parcel_kind;

typedef struct mq_parcel {
    uint32_t rank; /* the other side, an index into roster.members */
    mq_parcel_kind kind;
    uint32_t part;
    uint64_t step;
} mq_parcel;

typedef struct mq_link_expect {
    mq_parcel parcel;
    uint8_t *to; /* borrowed */
    size_t bytes, got;
    bool is_open;
} mq_link_expect;

typedef struct mq_link_stashed mq_link_stashed;

typedef struct mq_link {
    mq_host *host; /* borrowed */
    mq_roster roster;
    int64_t patience_ms; /* silence after which a member is reported; at least the lease */
    mq_link_expect *expects;
    uint32_t expect_count;  /* entries in use, open or not */
    mq_link_stashed *stash; /* owned list, oldest first */
    size_t stash_bytes;
    uint8_t *piece; /* MQ_GANG_PIECE_MAX bytes */
} mq_link;

MQ_MUST_USE mq_code mq_link_init(mq_link *link, mq_host *host, const mq_roster *roster,
                                 mq_arena *arena, mq_error *err);
void mq_link_release(mq_link *link);

/* A wait for one member, by whatever means. Start with {.since_ms = 0}. */
typedef struct mq_link_wait {
    int64_t since_ms; /* of the last report, or of the start */
    uint32_t reports;
} mq_link_wait;

/* To be called every few milliseconds while waiting for member `rank`: MQ_OK to go on waiting,
 * MQ_E_STALE when the roster is broken or replaced, MQ_E_CANCELLED, or MQ_E_TIMEOUT after
 * MQ_LINK_REPORTS_MAX reports without effect. Reports the member when patience runs out. */
MQ_MUST_USE mq_code mq_link_wait_turn(mq_link *link, mq_link_wait *wait, uint32_t rank,
                                      mq_error *err);

/* Sends a parcel to parcel.rank. */
MQ_MUST_USE mq_code mq_link_send(mq_link *link, const mq_parcel *parcel, mq_span bytes,
                                 mq_error *err);

/* Says where a parcel of exactly `bytes` bytes goes; `to` stays borrowed until it was waited for.
 */
MQ_MUST_USE mq_code mq_link_expect_parcel(mq_link *link, const mq_parcel *parcel, void *to,
                                          size_t bytes, mq_error *err);

/* Waits until an expected parcel is complete and forgets it. */
MQ_MUST_USE mq_code mq_link_take(mq_link *link, const mq_parcel *parcel, mq_error *err);

/* Both at once. */
MQ_MUST_USE mq_code mq_link_receive(mq_link *link, const mq_parcel *parcel, void *to, size_t bytes,
                                    mq_error *err);

/* True when member rank's roster shares one host throughout. */
bool mq_link_is_one_host(const mq_link *link);

#endif

/* How the members of a gang come by the sum of all shards' gradients. Two forms behind one table: a
 * shared segment (all members on one host) and messages. Both build the same tree over shards, so
 * the bits are the same; which one is used, and where vectors are cut, cannot be seen in a result.
 *
 *     fold own leaves into ops->roots(x, step)     the maximal roots of one's own shards
 *     ops->sum(x, step, stats, &view)              waits for the others' roots
 *     mq_state_update(state, .., &view, ..)        adds up what the view lists, updates
 *
 * Few roots in all (a gang of two to four): everybody reads all of them and adds them up while
 * updating, one wait a step. More: the vectors are cut into one segment per member; its owner adds
 * up, everybody reads the sums; two waits a step. */
#ifndef MQ_WORKER_TRAIN_EXCHANGE_H
#define MQ_WORKER_TRAIN_EXCHANGE_H

#include "worker/train/link.h"
#include "worker/train/manifest.h"
#include "worker/train/tree.h"

enum { MQ_EXCHANGE_ROOTS_MAX = 4 /* most roots that everybody reads directly */ };
#define MQ_EXCHANGE_SEGMENT_MAX ((size_t)2 << 30)

/* What one shard's step gave. */
typedef struct mq_shard_stats {
    double loss; /* summed over rows */
    uint64_t correct;
} mq_shard_stats;

typedef struct mq_exchange mq_exchange;

typedef struct mq_exchange_ops {
    const char *name;

    /* Where own roots of this step are to be put: as many vectors as mq_tree_roots gives for own
     * shards. Borrowed until the sum of the next step but one. */
    float *const *(*roots)(mq_exchange *x, uint64_t step);

    /* Own roots are in place and own shards' entries of stats[shards] are set: fills in the others'
     * and *view, whose nodes cover the tree. Borrowed until the next sum. Steps are taken in
     * order. MQ_E_STALE, MQ_E_CANCELLED, MQ_E_TIMEOUT as mq_link_wait_turn. */
    mq_code (*sum)(mq_exchange *x, uint64_t step, mq_shard_stats *stats, mq_tree_view *view,
                   mq_error *err);

    void (*release)(mq_exchange *x);
} mq_exchange_ops;

/* Which roots belong to whom. */
typedef struct mq_exchange_layout {
    uint32_t shards, count, self; /* count members */
    size_t floats;
    size_t stride;    /* floats from one vector to the next: floats rounded up to whole pages */
    mq_tree_view all; /* the roots of all members, in shard order */
    uint32_t root_first[MQ_SEATS_MAX + 1]; /* member r has all.nodes[root_first[r] ..) */
    uint32_t shard_first[MQ_SEATS_MAX + 1];
    size_t float_first[MQ_SEATS_MAX + 1]; /* segment of member r, multiples of 16 but for the end */
    bool is_direct;                       /* everybody reads all roots */
} mq_exchange_layout;

struct mq_exchange {
    const mq_exchange_ops *ops;
    mq_link *link; /* borrowed */
    mq_exchange_layout layout;
};

/* Opens the form that `transport` and the roster call for. Released by ops->release. MQ_E_ARG when
 * shared memory is asked for and members are on several hosts. */
MQ_MUST_USE mq_code mq_exchange_open(mq_exchange **out, mq_link *link, mq_transport transport,
                                     uint32_t shards, size_t floats, mq_arena *arena,
                                     mq_error *err);

/* The two forms; layout is filled in. */
MQ_MUST_USE mq_code mq_exchange_shm_open(mq_exchange **out, mq_link *link,
                                         const mq_exchange_layout *layout, mq_arena *arena,
                                         mq_error *err);
MQ_MUST_USE mq_code mq_exchange_message_open(mq_exchange **out, mq_link *link,
                                             const mq_exchange_layout *layout, mq_arena *arena,
                                             mq_error *err);

/* Bytes of shared memory that the layout needs; 0 when more than MQ_EXCHANGE_SEGMENT_MAX. */
size_t mq_exchange_shm_bytes(const mq_exchange_layout *layout);

#endif

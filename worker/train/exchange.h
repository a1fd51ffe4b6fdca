/* Who computes which shards of a step, and how everybody comes by the sum of all gradients. Three
 * forms behind one table: alone, a shared segment (all members on one host), and messages. All
 * build the same tree over shards, so the bits are the same; which form is used, who computed a
 * shard and where vectors are cut cannot be seen in a result. One step:
 *
 *     ops->begin(x, step)                           room for the step's gradients
 *     while (ops->next(x, step, &shard, &leaf))     a shard to compute, and where to
 *         compute; ops->done(x, step, shard, &stats)
 *     ops->sum(x, step, stats, &view)               waits for the others' shards
 *     mq_state_update(state, .., &view, ..)         adds up what the view lists, updates
 *
 * Alone and by messages a member computes the shards [S r / W, S (r+1) / W). In a shared segment
 * members take one shard after another from a common counter, so that one that is slow, or shares
 * its core with others, just does fewer. */
#ifndef MQ_WORKER_TRAIN_EXCHANGE_H
#define MQ_WORKER_TRAIN_EXCHANGE_H

#include "worker/train/link.h"
#include "worker/train/manifest.h"
#include "worker/train/tree.h"

enum {
    MQ_EXCHANGE_LEAVES_BYTES = 64 << 20 /* gradients kept side by side before they are added */
};
#define MQ_EXCHANGE_SEGMENT_MAX ((size_t)2 << 30)

/* What one shard's step gave. */
typedef struct mq_shard_stats {
    double loss; /* summed over rows */
    uint64_t correct;
} mq_shard_stats;

typedef struct mq_exchange mq_exchange;

/* Steps are taken in order. Codes are those of mq_link_wait_turn. */
typedef struct mq_exchange_ops {
    const char *name;

    MQ_MUST_USE mq_code (*begin)(mq_exchange *x, uint64_t step, mq_error *err);

    /* False when no shard is left for this member. *leaf: a whole vector to be filled, borrowed
     * until done. */
    bool (*next)(mq_exchange *x, uint64_t step, uint32_t *shard, float **leaf);

    /* The shard that next gave is computed. */
    void (*done)(mq_exchange *x, uint64_t step, uint32_t shard, const mq_shard_stats *stats);

    /* After next said false: stats[shards] of all shards, and *view whose nodes cover the tree.
     * Borrowed until the next begin. */
    MQ_MUST_USE mq_code (*sum)(mq_exchange *x, uint64_t step, mq_shard_stats *stats,
                               mq_tree_view *view, mq_error *err);

    void (*release)(mq_exchange *x);
} mq_exchange_ops;

struct mq_exchange {
    const mq_exchange_ops *ops;
    mq_link *link;                /* borrowed; NULL when alone */
    uint32_t shards, count, self; /* count members */
    size_t floats;
};

/* Opens the form that `transport` and the roster call for; link is NULL for a gang of one. pieces:
 * the one run of all floats, borrowed. Released by ops->release. MQ_E_ARG when shared memory is
 * asked for and members are on several hosts. */
MQ_MUST_USE mq_code mq_exchange_open(mq_exchange **out, mq_link *link, mq_transport transport,
                                     uint32_t shards, const mq_piece *piece, mq_arena *arena,
                                     mq_error *err);

/* --- for the forms --- */

MQ_MUST_USE mq_code mq_exchange_shm_open(mq_exchange **out, const mq_exchange *base,
                                         mq_arena *arena, mq_error *err);
MQ_MUST_USE mq_code mq_exchange_message_open(mq_exchange **out, const mq_exchange *base,
                                             const mq_piece *piece, mq_arena *arena, mq_error *err);

/* Bytes of shared memory that the shm form needs; 0 when more than MQ_EXCHANGE_SEGMENT_MAX. */
size_t mq_exchange_shm_bytes(const mq_exchange *base);

/* The part of a vector that is segment i of count: multiples of 16 floats but for the end. */
mq_piece mq_exchange_segment(size_t floats, uint32_t i, uint32_t count);

/* A member's own contiguous range of shards and the fold of their gradients. */
typedef struct mq_own_shards {
    uint32_t first, end, at;
    mq_fold fold;
    mq_shard_stats stats[MQ_TREE_SHARDS_MAX];
} mq_own_shards;

MQ_MUST_USE mq_code mq_own_shards_init(mq_own_shards *own, const mq_exchange *base,
                                       const mq_piece *piece, mq_arena *arena, mq_error *err);
void mq_own_shards_begin(mq_own_shards *own);
bool mq_own_shards_next(mq_own_shards *own, uint32_t *shard, float **leaf);
void mq_own_shards_done(mq_own_shards *own, uint32_t shard, const mq_shard_stats *stats);

#endif

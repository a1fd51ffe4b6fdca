/* The sum over logical shards: a complete binary tree over shard numbers, node = left + right in
 * fp32, whoever holds the shards. This is what makes the bits independent of the workers.
 *
 *     level 3              0                node (level, index) covers shards
 *     level 2        0           1          [index << level, (index + 1) << level)
 *     level 1     0     1     2     3
 *     level 0    0 1   2 3   4 5   6 7      the leaves: shard gradients
 *
 * A view lists nodes that lie side by side, in shard order, with where their vectors are. A member
 * that owns shards [first, end) folds them to its maximal nodes (mq_tree_roots), and the members'
 * views one after another make a view of the whole tree. Everything is element-wise, so any part of
 * the vectors can be summed by anybody. */
#ifndef MQ_WORKER_TRAIN_TREE_H
#define MQ_WORKER_TRAIN_TREE_H

#include "shared/base/arena.h"
#include "shared/base/error.h"

enum {
    MQ_TREE_SHARDS_MAX = 64, /* a power of two */
    MQ_TREE_LEVELS = 7,      /* log2 of it, and the leaves */
    MQ_TREE_ROOTS_MAX = 12,  /* maximal nodes of one member: 2 log2 S */
    MQ_TREE_BLOCK = 1024,    /* floats summed at a time, so that inner sums stay in the L1 cache */
};

typedef struct mq_tree_node {
    uint32_t level, index;
    const float *at; /* borrowed */
} mq_tree_node;

typedef struct mq_tree_view {
    uint32_t count;
    mq_tree_node nodes[MQ_TREE_SHARDS_MAX];
} mq_tree_view;

/* A run of floats within the parameter vector. */
typedef struct mq_piece {
    size_t first, count;
} mq_piece;

/* The maximal nodes of shards [first, end), in order, with at = NULL. */
void mq_tree_roots(uint32_t first, uint32_t end, mq_tree_view *out);

/* Shards of member rank of count members: [S r / W, S (r+1) / W). */
void mq_tree_range(uint32_t shards, uint32_t rank, uint32_t count, uint32_t *first, uint32_t *end);

/* Where mq_tree_block may put what it sums. */
typedef struct mq_tree_scratch {
    _Alignas(64) float rows[MQ_TREE_LEVELS + 1][MQ_TREE_BLOCK];
} mq_tree_scratch;

/* Sum of the `count` (<= MQ_TREE_BLOCK) floats from `first` over nodes[0..node_count), which
 * together are exactly one node. Borrowed from scratch, or a place in the one node's own vector. */
const float *mq_tree_block(const mq_tree_node *nodes, uint32_t node_count, size_t first,
                           size_t count, mq_tree_scratch *scratch);

/* The same over all pieces, into out (indexed like the vectors). out may be one of the vectors. */
void mq_tree_sum(const mq_tree_node *nodes, uint32_t node_count, const mq_piece *pieces,
                 size_t piece_count, float *out, mq_tree_scratch *scratch);

/* Puts one node per maximal root of `view` into out[i] (mq_tree_roots gives how many and which). */
void mq_tree_fold(const mq_tree_view *view, const mq_piece *pieces, size_t piece_count,
                  float *const *out, mq_tree_view *roots, mq_tree_scratch *scratch);

/* Takes leaves as they are computed. Up to `group` of them are kept side by side and summed in one
 * pass over memory (a third of the traffic of adding one by one); whole groups are merged with
 * their siblings at once, so that few buffers do for any number of shards. */
typedef struct mq_fold {
    mq_tree_view view; /* what is there so far */
    float **buffers;   /* buffer_count of them, each a whole vector */
    uint32_t buffer_count, group;
    uint64_t used; /* bit i: buffers[i] is in the view or handed out */
    const mq_piece *pieces;
    size_t piece_count;
    mq_tree_scratch *scratch;
} mq_fold;

/* For at most `leaves` leaves a step of `floats` floats each, group chosen so that the buffers stay
 * under bytes_max where that is possible. pieces are borrowed. MQ_E_LIMIT from the arena. */
MQ_MUST_USE mq_code mq_fold_init(mq_fold *fold, mq_arena *arena, size_t floats, uint32_t leaves,
                                 size_t bytes_max, const mq_piece *pieces, size_t piece_count,
                                 mq_error *err);

/* Forgets all leaves. */
void mq_fold_reset(mq_fold *fold);

/* Where the next leaf is to be written; then push it. Shards come in ascending order. */
float *mq_fold_next(mq_fold *fold);
void mq_fold_push(mq_fold *fold, uint32_t shard);

#endif

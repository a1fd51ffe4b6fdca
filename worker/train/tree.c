/* The fixed tree over shards; see tree.h. Knows nothing of nets, members or transports. */
#include "worker/train/tree.h"

#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/train/vec.h"

void mq_tree_range(uint32_t shards, uint32_t rank, uint32_t count, uint32_t *first, uint32_t *end)
{
    MQ_ASSERT(rank < count);
    *first = (uint32_t)((uint64_t)shards * rank / count);
    *end = (uint32_t)((uint64_t)shards * (rank + 1) / count);
}

void mq_tree_roots(uint32_t first, uint32_t end, mq_tree_view *out)
{
    MQ_ASSERT(end <= MQ_TREE_SHARDS_MAX);
    out->count = 0;
    while (first < end) {
        uint32_t level = 0;
        while ((first & ((2U << level) - 1)) == 0 && first + (2U << level) <= end) {
            level++;
        }
        out->nodes[out->count++] = (mq_tree_node){level, first >> level, NULL};
        first += 1U << level;
    }
}

static uint32_t first_shard(const mq_tree_node *node)
{
    return node->index << node->level;
}

static uint32_t end_shard(const mq_tree_node *node)
{
    return (node->index + 1) << node->level;
}

/* Sums into scratch rows from `depth` on; the result is in row `depth` unless it is a plain node.
 */
static const float *sum_block(const mq_tree_node *nodes, uint32_t node_count, size_t first,
                              size_t count, mq_tree_scratch *scratch, uint32_t depth)
{
    if (node_count == 1) {
        return nodes[0].at + first;
    }
    MQ_ASSERT(depth < MQ_TREE_LEVELS);
    uint32_t begin = first_shard(&nodes[0]), end = end_shard(&nodes[node_count - 1]);
    uint32_t middle = begin + (end - begin) / 2, split = 1;
    while (first_shard(&nodes[split]) < middle) {
        split++;
    }
    MQ_ASSERT(first_shard(&nodes[split]) == middle);
    const float *left = sum_block(nodes, split, first, count, scratch, depth);
    const float *right =
        sum_block(nodes + split, node_count - split, first, count, scratch, depth + 1);
    mq_vec_add(scratch->rows[depth], left, right, count);
    return scratch->rows[depth];
}

const float *mq_tree_block(const mq_tree_node *nodes, uint32_t node_count, size_t first,
                           size_t count, mq_tree_scratch *scratch)
{
    MQ_ASSERT(node_count >= 1);
    MQ_ASSERT(count <= MQ_TREE_BLOCK);
    return sum_block(nodes, node_count, first, count, scratch, 0);
}

void mq_tree_sum(const mq_tree_node *nodes, uint32_t node_count, const mq_piece *pieces,
                 size_t piece_count, float *out, mq_tree_scratch *scratch)
{
    for (size_t p = 0; p < piece_count; p++) {
        size_t end = pieces[p].first + pieces[p].count;
        for (size_t at = pieces[p].first; at < end; at += MQ_TREE_BLOCK) {
            size_t count = mq_min_size(MQ_TREE_BLOCK, end - at);
            const float *sum = mq_tree_block(nodes, node_count, at, count, scratch);
            if (sum != out + at) {
                memcpy(out + at, sum, count * sizeof *out);
            }
        }
    }
}

void mq_tree_fold(const mq_tree_view *view, const mq_piece *pieces, size_t piece_count,
                  float *const *out, mq_tree_view *roots, mq_tree_scratch *scratch)
{
    roots->count = 0;
    if (view->count == 0) {
        return;
    }
    mq_tree_roots(first_shard(&view->nodes[0]), end_shard(&view->nodes[view->count - 1]), roots);
    uint32_t from = 0;
    for (uint32_t i = 0; i < roots->count; i++) {
        uint32_t to = from;
        while (to < view->count && end_shard(&view->nodes[to]) <= end_shard(&roots->nodes[i])) {
            to++;
        }
        mq_tree_sum(view->nodes + from, to - from, pieces, piece_count, out[i], scratch);
        roots->nodes[i].at = out[i];
        from = to;
    }
    MQ_ASSERT(from == view->count);
}

mq_code mq_fold_init(mq_fold *fold, mq_arena *arena, size_t floats, uint32_t leaves,
                     size_t bytes_max, const mq_piece *pieces, size_t piece_count, mq_error *err)
{
    MQ_ASSERT(leaves <= MQ_TREE_SHARDS_MAX);
    *fold = (mq_fold){.group = 1, .pieces = pieces, .piece_count = piece_count};
    while (fold->group < leaves && fold->group * 2 * floats * sizeof(float) <= bytes_max) {
        fold->group *= 2;
    }
    /* A part of a group before and one behind the whole groups, and a stack of whole ones. */
    uint32_t most = 2 * fold->group + MQ_TREE_LEVELS;
    fold->buffer_count = leaves < most ? leaves : most;
    fold->buffers = mq_arena_new(arena, float *, fold->buffer_count);
    fold->scratch = mq_arena_new(arena, mq_tree_scratch, 1);
    bool is_ok = fold->scratch != NULL && (fold->buffers != NULL || fold->buffer_count == 0);
    for (uint32_t i = 0; is_ok && i < fold->buffer_count; i++) {
        fold->buffers[i] = mq_arena_new(arena, float, mq_align_up(floats, 16));
        is_ok = fold->buffers[i] != NULL;
    }
    if (!is_ok) {
        return mq_fail(err, MQ_E_LIMIT,
                       "memory: %u gradient buffers of %zu floats do not fit in the job's limit of "
                       "%zu bytes; take fewer shards or a worker with more memory",
                       fold->buffer_count, floats, arena->limit_bytes);
    }
    return MQ_OK;
}

void mq_fold_reset(mq_fold *fold)
{
    fold->view.count = 0;
    fold->used = 0;
}

float *mq_fold_next(mq_fold *fold)
{
    uint32_t i = 0;
    while (i < fold->buffer_count && (fold->used >> i & 1) != 0) {
        i++;
    }
    MQ_ASSERT(i < fold->buffer_count);
    return fold->buffers[i];
}

static uint32_t buffer_index(const mq_fold *fold, const float *at)
{
    uint32_t i = 0;
    while (i < fold->buffer_count && fold->buffers[i] != at) {
        i++;
    }
    MQ_ASSERT(i < fold->buffer_count);
    return i;
}

/* Replaces the last `count` nodes, which are one node together, by that node. */
static void merge(mq_fold *fold, uint32_t count)
{
    mq_tree_node *nodes = fold->view.nodes + fold->view.count - count;
    uint32_t begin = first_shard(&nodes[0]), end = end_shard(&nodes[count - 1]), level = 0;
    while (1U << level < end - begin) {
        level++;
    }
    float *out = fold->buffers[buffer_index(fold, nodes[0].at)];
    mq_tree_sum(nodes, count, fold->pieces, fold->piece_count, out, fold->scratch);
    for (uint32_t i = 1; i < count; i++) {
        fold->used &= ~(UINT64_C(1) << buffer_index(fold, nodes[i].at));
    }
    nodes[0] = (mq_tree_node){level, begin >> level, out};
    fold->view.count -= count - 1;
}

void mq_fold_push(mq_fold *fold, uint32_t shard)
{
    mq_tree_view *view = &fold->view;
    MQ_ASSERT(view->count < MQ_TREE_SHARDS_MAX);
    MQ_ASSERT(view->count == 0 || end_shard(&view->nodes[view->count - 1]) == shard);
    float *at = mq_fold_next(fold);
    fold->used |= UINT64_C(1) << buffer_index(fold, at);
    view->nodes[view->count++] = (mq_tree_node){0, shard, at};
    uint32_t group = fold->group, begin = shard + 1 - group;
    /* One group that is the whole sum is left as it is: the caller's next pass sums it. */
    bool is_whole_group = (shard + 1) % group == 0 && view->count >= group &&
                          first_shard(&view->nodes[view->count - group]) == begin;
    if (!is_whole_group || (group > 1 && fold->buffer_count <= group)) {
        return;
    }
    if (group > 1) {
        merge(fold, group);
    }
    while (view->count >= 2) {
        const mq_tree_node *left = &view->nodes[view->count - 2], *right = left + 1;
        if (left->level != right->level || (left->index ^ 1) != right->index) {
            break;
        }
        merge(fold, 2);
    }
}

/* Exchange by messages: between two, each sends the other its root; between more, a segment of each
 * root goes to the segment's owner, who adds up and sends the sum to all (reduce-scatter, then
 * all-gather: 2 (W-1)/W of the vector per member and step). */
#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/train/exchange.h"

/* Which roots and shards belong to whom. */
typedef struct message_layout {
    mq_tree_view all;                      /* the roots of all members, in shard order */
    uint32_t root_first[MQ_SEATS_MAX + 1]; /* member r has all.nodes[root_first[r] ..) */
    uint32_t shard_first[MQ_SEATS_MAX + 1];
    bool is_direct; /* two members: each adds up all */
} message_layout;

typedef struct message_exchange {
    mq_exchange base;
    message_layout layout;
    mq_own_shards own;
    mq_piece piece;                    /* all floats */
    float *roots[MQ_TREE_ROOTS_MAX];   /* own */
    float *theirs[MQ_TREE_SHARDS_MAX]; /* by root; whole vectors, of which own segment is used */
    float *sum;
} message_exchange;

static void lay_out(message_layout *l, const mq_exchange *base)
{
    *l = (message_layout){.is_direct = base->count == 2};
    for (uint32_t r = 0; r < base->count; r++) {
        uint32_t first, end;
        mq_tree_view own;
        mq_tree_range(base->shards, r, base->count, &first, &end);
        mq_tree_roots(first, end, &own);
        memcpy(l->all.nodes + l->all.count, own.nodes, own.count * sizeof own.nodes[0]);
        l->all.count += own.count;
        l->root_first[r + 1] = l->all.count;
        l->shard_first[r + 1] = end;
    }
}

static uint32_t owner_of(const message_layout *l, uint32_t root)
{
    uint32_t r = 0;
    while (l->root_first[r + 1] <= root) {
        r++;
    }
    return r;
}

/* The part of vectors that member `reader` adds up. */
static mq_piece part_for(const message_exchange *x, uint32_t reader)
{
    return x->layout.is_direct ? x->piece
                               : mq_exchange_segment(x->base.floats, reader, x->base.count);
}

static mq_code expect_all(message_exchange *x, uint64_t step, mq_shard_stats *stats, mq_error *err)
{
    const message_layout *l = &x->layout;
    mq_link *link = x->base.link;
    mq_piece own = part_for(x, x->base.self);
    mq_code code = MQ_OK;
    for (uint32_t r = 0; r < x->base.count && code == MQ_OK; r++) {
        uint32_t first = l->shard_first[r], shards = l->shard_first[r + 1] - first;
        mq_piece seg = part_for(x, r);
        if (r == x->base.self) {
            continue;
        }
        if (shards > 0) {
            code = mq_link_expect_parcel(link, &(mq_parcel){r, MQ_PARCEL_STATS, 0, step},
                                         stats + first, shards * sizeof *stats, err);
        }
        if (code == MQ_OK && !l->is_direct && seg.count > 0) {
            code = mq_link_expect_parcel(link, &(mq_parcel){r, MQ_PARCEL_SUM, r, step},
                                         x->sum + seg.first, seg.count * sizeof(float), err);
        }
    }
    for (uint32_t i = 0; i < l->all.count && code == MQ_OK && own.count > 0; i++) {
        uint32_t r = owner_of(l, i);
        if (r != x->base.self) {
            code = mq_link_expect_parcel(link, &(mq_parcel){r, MQ_PARCEL_ROOT, i, step},
                                         x->theirs[i] + own.first, own.count * sizeof(float), err);
        }
    }
    return code;
}

static mq_code send_roots(message_exchange *x, uint64_t step, const mq_shard_stats *stats,
                          mq_error *err)
{
    const message_layout *l = &x->layout;
    uint32_t first = l->shard_first[x->base.self],
             shards = l->shard_first[x->base.self + 1] - first;
    mq_code code = MQ_OK;
    /* Each begins with the member after it, so that not all send to member 0 at once. */
    for (uint32_t k = 1; k < x->base.count && code == MQ_OK && shards > 0; k++) {
        uint32_t to = (x->base.self + k) % x->base.count;
        mq_piece seg = part_for(x, to);
        code = mq_link_send(x->base.link, &(mq_parcel){to, MQ_PARCEL_STATS, 0, step},
                            mq_span_of(stats + first, shards * sizeof *stats), err);
        uint32_t root = l->root_first[x->base.self], end = l->root_first[x->base.self + 1];
        for (; root < end && code == MQ_OK && seg.count > 0; root++) {
            const float *at = x->roots[root - l->root_first[x->base.self]] + seg.first;
            code = mq_link_send(x->base.link, &(mq_parcel){to, MQ_PARCEL_ROOT, root, step},
                                mq_span_of(at, seg.count * sizeof(float)), err);
        }
    }
    return code;
}

static mq_code take_roots(message_exchange *x, uint64_t step, mq_tree_view *view, mq_error *err)
{
    const message_layout *l = &x->layout;
    mq_code code = MQ_OK;
    for (uint32_t r = 0; r < x->base.count && code == MQ_OK; r++) {
        if (r != x->base.self && l->shard_first[r + 1] > l->shard_first[r]) {
            code = mq_link_take(x->base.link, &(mq_parcel){r, MQ_PARCEL_STATS, 0, step}, err);
        }
    }
    *view = l->all;
    mq_piece own = part_for(x, x->base.self);
    for (uint32_t i = 0; i < l->all.count && code == MQ_OK; i++) {
        uint32_t r = owner_of(l, i);
        view->nodes[i].at = r == x->base.self ? x->roots[i - l->root_first[r]] : x->theirs[i];
        if (r != x->base.self && own.count > 0) {
            code = mq_link_take(x->base.link, &(mq_parcel){r, MQ_PARCEL_ROOT, i, step}, err);
        }
    }
    return code;
}

/* Adds up own segment, sends it to all and takes theirs. */
static mq_code share_sums(message_exchange *x, uint64_t step, mq_tree_view *view, mq_error *err)
{
    mq_piece own = part_for(x, x->base.self);
    mq_code code = MQ_OK;
    mq_tree_sum(view->nodes, view->count, &own, 1, x->sum, x->own.fold.scratch);
    for (uint32_t k = 1; k < x->base.count && code == MQ_OK && own.count > 0; k++) {
        uint32_t to = (x->base.self + k) % x->base.count;
        code = mq_link_send(x->base.link, &(mq_parcel){to, MQ_PARCEL_SUM, x->base.self, step},
                            mq_span_of(x->sum + own.first, own.count * sizeof(float)), err);
    }
    for (uint32_t r = 0; r < x->base.count && code == MQ_OK; r++) {
        if (r != x->base.self && part_for(x, r).count > 0) {
            code = mq_link_take(x->base.link, &(mq_parcel){r, MQ_PARCEL_SUM, r, step}, err);
        }
    }
    view->count = 1;
    view->nodes[0] = (mq_tree_node){(uint32_t)__builtin_ctz(x->base.shards), 0, x->sum};
    return code;
}

static mq_code message_begin(mq_exchange *base, uint64_t step, mq_error *err)
{
    (void)step;
    (void)err;
    mq_own_shards_begin(&((message_exchange *)base)->own);
    return MQ_OK;
}

static bool message_next(mq_exchange *base, uint64_t step, uint32_t *shard, float **leaf)
{
    (void)step;
    return mq_own_shards_next(&((message_exchange *)base)->own, shard, leaf);
}

static void message_done(mq_exchange *base, uint64_t step, uint32_t shard,
                         const mq_shard_stats *stats)
{
    (void)step;
    mq_own_shards_done(&((message_exchange *)base)->own, shard, stats);
}

static mq_code message_sum(mq_exchange *base, uint64_t step, mq_shard_stats *stats,
                           mq_tree_view *view, mq_error *err)
{
    message_exchange *x = (message_exchange *)base;
    const mq_own_shards *own = &x->own;
    mq_tree_fold(&own->fold.view, &x->piece, 1, x->roots, view, own->fold.scratch);
    memcpy(stats + own->first, own->stats + own->first, (own->end - own->first) * sizeof *stats);
    mq_code code = expect_all(x, step, stats, err);
    code = code != MQ_OK ? code : send_roots(x, step, stats, err);
    code = code != MQ_OK ? code : take_roots(x, step, view, err);
    if (code == MQ_OK && !x->layout.is_direct) {
        code = share_sums(x, step, view, err);
    }
    return code;
}

static void message_release(mq_exchange *base)
{
    (void)base; /* all memory is the arena's */
}

static const mq_exchange_ops message_ops = {"message",    message_begin, message_next,
                                            message_done, message_sum,   message_release};

static bool make_vectors(message_exchange *x, mq_arena *arena)
{
    const message_layout *l = &x->layout;
    size_t floats = mq_align_up(x->base.floats, 16);
    bool is_ok = true;
    for (uint32_t i = 0; i < l->all.count && is_ok; i++) {
        uint32_t r = owner_of(l, i);
        float *vector = mq_arena_new(arena, float, floats);
        is_ok = vector != NULL;
        if (r == x->base.self) {
            MQ_ASSERT(i - l->root_first[r] < MQ_TREE_ROOTS_MAX);
            x->roots[i - l->root_first[r]] = vector;
        } else {
            x->theirs[i] = vector;
        }
    }
    x->sum = is_ok ? mq_arena_new(arena, float, floats) : NULL;
    return x->sum != NULL;
}

mq_code mq_exchange_message_open(mq_exchange **out, const mq_exchange *base, const mq_piece *piece,
                                 mq_arena *arena, mq_error *err)
{
    message_exchange *x = mq_arena_new(arena, message_exchange, 1);
    if (x != NULL) {
        x->base = *base;
        x->base.ops = &message_ops;
        x->piece = *piece;
        lay_out(&x->layout, base);
    }
    if (x == NULL || !make_vectors(x, arena)) {
        return mq_fail(err, MQ_E_LIMIT,
                       "memory: exchange of %zu parameters with %u members does not fit in %zu "
                       "bytes",
                       base->floats, base->count, arena->limit_bytes);
    }
    *out = &x->base;
    return mq_own_shards_init(&x->own, base, &x->piece, arena, err);
}

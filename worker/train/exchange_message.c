/* Exchange by messages: between two, each sends the other its root; between more, a segment of each
 * root goes to the segment's owner, who adds up and sends the sum to all (reduce-scatter, then
 * all-gather: 2 (W-1)/W of the vector per member and step). */
#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/train/exchange.h"

typedef struct message_exchange {
    mq_exchange base;
    float *own[MQ_TREE_ROOTS_MAX];
    float *theirs[MQ_TREE_SHARDS_MAX]; /* by root; whole vectors, of which own segment is used */
    float *sum;
    mq_tree_scratch *scratch;
} message_exchange;

static float *const *message_roots(mq_exchange *base, uint64_t step)
{
    (void)step; /* what was sent has been copied */
    return ((message_exchange *)base)->own;
}

static uint32_t owner_of(const mq_exchange_layout *l, uint32_t root)
{
    uint32_t r = 0;
    while (l->root_first[r + 1] <= root) {
        r++;
    }
    return r;
}

/* The part of vectors that member `reader` adds up. */
static mq_piece part_for(const mq_exchange_layout *l, uint32_t reader)
{
    if (l->is_direct) {
        return (mq_piece){0, l->floats};
    }
    return (mq_piece){l->float_first[reader], l->float_first[reader + 1] - l->float_first[reader]};
}

static mq_code expect_all(message_exchange *x, uint64_t step, mq_shard_stats *stats, mq_error *err)
{
    const mq_exchange_layout *l = &x->base.layout;
    mq_link *link = x->base.link;
    mq_piece own = part_for(l, l->self);
    mq_code code = MQ_OK;
    for (uint32_t r = 0; r < l->count && code == MQ_OK; r++) {
        uint32_t first = l->shard_first[r], shards = l->shard_first[r + 1] - first;
        mq_piece seg = part_for(l, r);
        if (r == l->self) {
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
        if (r != l->self) {
            code = mq_link_expect_parcel(link, &(mq_parcel){r, MQ_PARCEL_ROOT, i, step},
                                         x->theirs[i] + own.first, own.count * sizeof(float), err);
        }
    }
    return code;
}

static mq_code send_roots(message_exchange *x, uint64_t step, const mq_shard_stats *stats,
                          mq_error *err)
{
    const mq_exchange_layout *l = &x->base.layout;
    uint32_t first = l->shard_first[l->self], shards = l->shard_first[l->self + 1] - first;
    mq_code code = MQ_OK;
    /* Each begins with the member after it, so that not all send to member 0 at once. */
    for (uint32_t k = 1; k < l->count && code == MQ_OK && shards > 0; k++) {
        uint32_t to = (l->self + k) % l->count;
        mq_piece seg = part_for(l, to);
        code = mq_link_send(x->base.link, &(mq_parcel){to, MQ_PARCEL_STATS, 0, step},
                            mq_span_of(stats + first, shards * sizeof *stats), err);
        uint32_t root = l->root_first[l->self], end = l->root_first[l->self + 1];
        for (; root < end && code == MQ_OK && seg.count > 0; root++) {
            const float *at = x->own[root - l->root_first[l->self]] + seg.first;
            code = mq_link_send(x->base.link, &(mq_parcel){to, MQ_PARCEL_ROOT, root, step},
                                mq_span_of(at, seg.count * sizeof(float)), err);
        }
    }
    return code;
}

static mq_code take_roots(message_exchange *x, uint64_t step, mq_tree_view *view, mq_error *err)
{
    const mq_exchange_layout *l = &x->base.layout;
    mq_code code = MQ_OK;
    for (uint32_t r = 0; r < l->count && code == MQ_OK; r++) {
        if (r != l->self && l->shard_first[r + 1] > l->shard_first[r]) {
            code = mq_link_take(x->base.link, &(mq_parcel){r, MQ_PARCEL_STATS, 0, step}, err);
        }
    }
    *view = l->all;
    mq_piece own = part_for(l, l->self);
    for (uint32_t i = 0; i < l->all.count && code == MQ_OK; i++) {
        uint32_t r = owner_of(l, i);
        view->nodes[i].at = r == l->self ? x->own[i - l->root_first[r]] : x->theirs[i];
        if (r != l->self && own.count > 0) {
            code = mq_link_take(x->base.link, &(mq_parcel){r, MQ_PARCEL_ROOT, i, step}, err);
        }
    }
    return code;
}

/* Adds up own segment, sends it to all and takes theirs. */
static mq_code share_sums(message_exchange *x, uint64_t step, mq_tree_view *view, mq_error *err)
{
    const mq_exchange_layout *l = &x->base.layout;
    mq_piece own = part_for(l, l->self);
    mq_code code = MQ_OK;
    mq_tree_sum(view->nodes, view->count, &own, 1, x->sum, x->scratch);
    for (uint32_t k = 1; k < l->count && code == MQ_OK && own.count > 0; k++) {
        uint32_t to = (l->self + k) % l->count;
        code = mq_link_send(x->base.link, &(mq_parcel){to, MQ_PARCEL_SUM, l->self, step},
                            mq_span_of(x->sum + own.first, own.count * sizeof(float)), err);
    }
    for (uint32_t r = 0; r < l->count && code == MQ_OK; r++) {
        if (r != l->self && part_for(l, r).count > 0) {
            code = mq_link_take(x->base.link, &(mq_parcel){r, MQ_PARCEL_SUM, r, step}, err);
        }
    }
    view->count = 1;
    view->nodes[0] = (mq_tree_node){(uint32_t)__builtin_ctz(l->shards), 0, x->sum};
    return code;
}

static mq_code message_sum(mq_exchange *base, uint64_t step, mq_shard_stats *stats,
                           mq_tree_view *view, mq_error *err)
{
    message_exchange *x = (message_exchange *)base;
    mq_code code = expect_all(x, step, stats, err);
    code = code != MQ_OK ? code : send_roots(x, step, stats, err);
    code = code != MQ_OK ? code : take_roots(x, step, view, err);
    if (code == MQ_OK && !base->layout.is_direct) {
        code = share_sums(x, step, view, err);
    }
    return code;
}

static void message_release(mq_exchange *base)
{
    (void)base; /* all memory is the arena's */
}

static const mq_exchange_ops message_ops = {"message", message_roots, message_sum, message_release};

mq_code mq_exchange_message_open(mq_exchange **out, mq_link *link, const mq_exchange_layout *layout,
                                 mq_arena *arena, mq_error *err)
{
    message_exchange *x = mq_arena_new(arena, message_exchange, 1);
    bool is_ok = x != NULL;
    const mq_exchange_layout *l = layout;
    for (uint32_t i = 0; i < l->all.count && is_ok; i++) {
        uint32_t r = owner_of(l, i);
        float *vector = mq_arena_new(arena, float, l->stride);
        is_ok = vector != NULL;
        if (r == l->self) {
            MQ_ASSERT(i - l->root_first[r] < MQ_TREE_ROOTS_MAX);
            x->own[i - l->root_first[r]] = vector;
        } else {
            x->theirs[i] = vector;
        }
    }
    if (is_ok) {
        x->sum = mq_arena_new(arena, float, l->stride);
        x->scratch = mq_arena_new(arena, mq_tree_scratch, 1);
        is_ok = x->sum != NULL && x->scratch != NULL;
    }
    if (!is_ok) {
        return mq_fail(err, MQ_E_LIMIT,
                       "memory: exchange of %zu parameters with %u members does not fit in %zu "
                       "bytes",
                       l->floats, l->count, arena->limit_bytes);
    }
    x->base = (mq_exchange){&message_ops, link, *l};
    *out = &x->base;
    return MQ_OK;
}

/* Choosing a form of exchange, the form of a gang of one, and what forms with a fixed share of the
 * shards have in common; see exchange.h. */
#include "worker/train/exchange.h"

#include "shared/base/assert.h"
#include "shared/base/math.h"

mq_piece mq_exchange_segment(size_t floats, uint32_t i, uint32_t count)
{
    size_t each = mq_align_up((floats + count - 1) / count, 16);
    size_t first = mq_min_size(each * i, floats);
    return (mq_piece){first, mq_min_size(each * (i + 1), floats) - first};
}

/* --- own shards --- */

mq_code mq_own_shards_init(mq_own_shards *own, const mq_exchange *base, const mq_piece *piece,
                           mq_arena *arena, mq_error *err)
{
    mq_tree_range(base->shards, base->self, base->count, &own->first, &own->end);
    return mq_fold_init(&own->fold, arena, base->floats, own->end - own->first,
                        MQ_EXCHANGE_LEAVES_BYTES, piece, 1, err);
}

void mq_own_shards_begin(mq_own_shards *own)
{
    own->at = own->first;
    mq_fold_reset(&own->fold);
}

bool mq_own_shards_next(mq_own_shards *own, uint32_t *shard, float **leaf)
{
    if (own->at == own->end) {
        return false;
    }
    *shard = own->at++;
    *leaf = mq_fold_next(&own->fold);
    return true;
}

void mq_own_shards_done(mq_own_shards *own, uint32_t shard, const mq_shard_stats *stats)
{
    own->stats[shard] = *stats;
    mq_fold_push(&own->fold, shard);
}

/* --- alone --- */

typedef struct alone_exchange {
    mq_exchange base;
    mq_own_shards own; /* all of them */
} alone_exchange;

static mq_code alone_begin(mq_exchange *base, uint64_t step, mq_error *err)
{
    (void)step;
    (void)err;
    mq_own_shards_begin(&((alone_exchange *)base)->own);
    return MQ_OK;
}

static bool alone_next(mq_exchange *base, uint64_t step, uint32_t *shard, float **leaf)
{
    (void)step;
    return mq_own_shards_next(&((alone_exchange *)base)->own, shard, leaf);
}

static void alone_done(mq_exchange *base, uint64_t step, uint32_t shard,
                       const mq_shard_stats *stats)
{
    (void)step;
    mq_own_shards_done(&((alone_exchange *)base)->own, shard, stats);
}

static mq_code alone_sum(mq_exchange *base, uint64_t step, mq_shard_stats *stats,
                         mq_tree_view *view, mq_error *err)
{
    const mq_own_shards *own = &((alone_exchange *)base)->own;
    (void)step;
    (void)err;
    memcpy(stats, own->stats, base->shards * sizeof *stats);
    *view = own->fold.view;
    return MQ_OK;
}

static void alone_release(mq_exchange *base)
{
    (void)base; /* all memory is the arena's */
}

static const mq_exchange_ops alone_ops = {"alone",    alone_begin, alone_next,
                                          alone_done, alone_sum,   alone_release};

static mq_code alone_open(mq_exchange **out, const mq_exchange *base, const mq_piece *piece,
                          mq_arena *arena, mq_error *err)
{
    alone_exchange *x = mq_arena_new(arena, alone_exchange, 1);
    if (x == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "memory: no room for a step in %zu bytes",
                       arena->limit_bytes);
    }
    x->base = *base;
    x->base.ops = &alone_ops;
    *out = &x->base;
    return mq_own_shards_init(&x->own, base, piece, arena, err);
}

/* --- choosing --- */

mq_code mq_exchange_open(mq_exchange **out, mq_link *link, mq_transport transport, uint32_t shards,
                         const mq_piece *piece, mq_arena *arena, mq_error *err)
{
    mq_exchange base = {.link = link, .shards = shards, .count = 1, .floats = piece->count};
    MQ_ASSERT(piece->first == 0);
    if (link == NULL) {
        return alone_open(out, &base, piece, arena, err);
    }
    base.count = link->roster.count;
    base.self = link->roster.self;
    bool is_one_host = mq_link_is_one_host(link);
    if (transport == MQ_TRANSPORT_SHM && !is_one_host) {
        return mq_fail(err, MQ_E_ARG,
                       "run.transport: \"shm\" was asked for, but the members are on several "
                       "hosts; leave it at \"auto\"");
    }
    if (transport != MQ_TRANSPORT_MESSAGE && is_one_host && mq_exchange_shm_bytes(&base) > 0) {
        return mq_exchange_shm_open(out, &base, arena, err);
    }
    return mq_exchange_message_open(out, &base, piece, arena, err);
}

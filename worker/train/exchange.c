/* Choosing a form of exchange and laying out who owns what; see exchange.h. */
#include "worker/train/exchange.h"

#include "shared/base/assert.h"
#include "shared/base/math.h"

enum { PAGE_FLOATS = 1024 };

static void lay_out(mq_exchange_layout *l, const mq_roster *roster, uint32_t shards, size_t floats)
{
    *l = (mq_exchange_layout){.shards = shards,
                              .count = roster->count,
                              .self = roster->self,
                              .floats = floats,
                              .stride = mq_align_up(floats, PAGE_FLOATS)};
    for (uint32_t r = 0; r < l->count; r++) {
        uint32_t first, end;
        mq_tree_view own;
        mq_tree_range(shards, r, l->count, &first, &end);
        mq_tree_roots(first, end, &own);
        memcpy(l->all.nodes + l->all.count, own.nodes, own.count * sizeof own.nodes[0]);
        l->all.count += own.count;
        l->root_first[r + 1] = l->all.count;
        l->shard_first[r + 1] = end;
        size_t cut = mq_align_up(floats / l->count * (r + 1), 16);
        l->float_first[r + 1] = r + 1 == l->count ? floats : mq_min_size(cut, floats);
    }
    l->is_direct = l->all.count <= MQ_EXCHANGE_ROOTS_MAX;
}

mq_code mq_exchange_open(mq_exchange **out, mq_link *link, mq_transport transport, uint32_t shards,
                         size_t floats, mq_arena *arena, mq_error *err)
{
    mq_exchange_layout layout;
    MQ_ASSERT(link->roster.count > 1);
    lay_out(&layout, &link->roster, shards, floats);
    bool is_one_host = mq_link_is_one_host(link);
    if (transport == MQ_TRANSPORT_SHM && !is_one_host) {
        return mq_fail(err, MQ_E_ARG,
                       "run.transport: \"shm\" was asked for, but the members are on several "
                       "hosts; leave it at \"auto\"");
    }
    if (transport != MQ_TRANSPORT_MESSAGE && is_one_host && mq_exchange_shm_bytes(&layout) > 0) {
        return mq_exchange_shm_open(out, link, &layout, arena, err);
    }
    /* A message to each other member costs as much as the bytes in it: only two read directly. */
    layout.is_direct = layout.count == 2;
    return mq_exchange_message_open(out, link, &layout, arena, err);
}

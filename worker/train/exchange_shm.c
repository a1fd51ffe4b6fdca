/* Exchange through a segment that all members map.
 *
 *     | flags[64], 128 bytes each | stats[2][64] | roots[2][R][stride] | sums[2][stride] |
 *
 * Two of everything, by the parity of the step: a member can write step t + 2 only after all have
 * posted t + 1, and who posts t + 1 has done reading t. Flags hold step + 1, each on a cache line
 * pair of its own, and are futex words: waiting is a short spin (the others are at the same point
 * to within some ten microseconds), then yielding, then sleeping in slices between which the roster
 * is looked at. A member that dies leaves the segment as it is; nobody reads a root whose flag is
 * not set, and a new roster gets a new segment. */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"
#include "worker/train/exchange.h"

enum {
    SPIN_NS = 60000,
    YIELD_NS = 400000,
    SLEEP_NS = 2000000,
    SEGMENT_TIMEOUT_MS = 10000,
};

typedef struct shm_flags {
    _Alignas(128) _Atomic uint32_t posted; /* step + 1 of the roots that are in place */
    _Atomic uint32_t summed;               /* step + 1 of the segment sum that is in place */
} shm_flags;

typedef struct shm_head {
    shm_flags flags[MQ_SEATS_MAX];
    mq_shard_stats stats[2][MQ_TREE_SHARDS_MAX];
} shm_head;

_Static_assert(sizeof(shm_head) % 64 == 0, "vectors start on a cache line");

typedef struct shm_exchange {
    mq_exchange base;
    void *segment;
    size_t bytes;
    shm_head *head;
    float *vectors; /* [2][R][stride], then [2][stride] when not direct */
    float *roots[2][MQ_TREE_ROOTS_MAX];
    mq_tree_scratch *scratch;
} shm_exchange;

size_t mq_exchange_shm_bytes(const mq_exchange_layout *l)
{
    size_t vectors = 2 * ((size_t)l->all.count + (l->is_direct ? 0 : 1)), bytes;
    if (!mq_mul_size(vectors, l->stride * sizeof(float), &bytes) ||
        !mq_add_size(bytes, mq_align_up(sizeof(shm_head), 4096), &bytes) ||
        bytes > MQ_EXCHANGE_SEGMENT_MAX) {
        return 0;
    }
    return bytes;
}

static float *vector_at(const shm_exchange *x, uint64_t step, uint32_t root)
{
    const mq_exchange_layout *l = &x->base.layout;
    return x->vectors + ((step & 1) * l->all.count + root) * l->stride;
}

static float *sum_at(const shm_exchange *x, uint64_t step)
{
    const mq_exchange_layout *l = &x->base.layout;
    return x->vectors + (2 * (size_t)l->all.count + (step & 1)) * l->stride;
}

static float *const *shm_roots(mq_exchange *base, uint64_t step)
{
    return ((shm_exchange *)base)->roots[step & 1];
}

static void set_flag(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
    (void)syscall(SYS_futex, word, FUTEX_WAKE, MQ_SEATS_MAX, NULL, NULL, 0);
}

static bool is_reached(_Atomic uint32_t *word, uint32_t value)
{
    return (int32_t)(atomic_load_explicit(word, memory_order_acquire) - value) >= 0;
}

static void pause_briefly(void)
{
    for (int i = 0; i < 32; i++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

static mq_code wait_flag(shm_exchange *x, _Atomic uint32_t *word, uint32_t value, uint32_t rank,
                         mq_error *err)
{
    int64_t begin_ns = mq_clock_mono_ns();
    for (int64_t past_ns = 0; past_ns < YIELD_NS; past_ns = mq_clock_mono_ns() - begin_ns) {
        if (is_reached(word, value)) {
            return MQ_OK;
        }
        if (past_ns < SPIN_NS) {
            pause_briefly();
        } else {
            (void)sched_yield();
        }
    }
    mq_link_wait wait = {0};
    for (;;) {
        uint32_t seen = atomic_load_explicit(word, memory_order_acquire);
        if ((int32_t)(seen - value) >= 0) {
            return MQ_OK;
        }
        mq_code code = mq_link_wait_turn(x->base.link, &wait, rank, err);
        if (code != MQ_OK) {
            return code;
        }
        struct timespec slice = {0, SLEEP_NS};
        (void)syscall(SYS_futex, word, FUTEX_WAIT, seen, &slice, NULL, 0);
    }
}

static mq_code wait_all(shm_exchange *x, bool is_summed, uint32_t value, mq_error *err)
{
    mq_code code = MQ_OK;
    for (uint32_t r = 0; r < x->base.layout.count && code == MQ_OK; r++) {
        shm_flags *f = &x->head->flags[r];
        code = wait_flag(x, is_summed ? &f->summed : &f->posted, value, r, err);
    }
    return code;
}

static mq_code shm_sum(mq_exchange *base, uint64_t step, mq_shard_stats *stats, mq_tree_view *view,
                       mq_error *err)
{
    shm_exchange *x = (shm_exchange *)base;
    const mq_exchange_layout *l = &base->layout;
    uint32_t value = (uint32_t)(step + 1), first = l->shard_first[l->self];
    mq_shard_stats *shared = x->head->stats[step & 1];
    memcpy(shared + first, stats + first, (l->shard_first[l->self + 1] - first) * sizeof *stats);
    set_flag(&x->head->flags[l->self].posted, value);
    mq_code code = wait_all(x, false, value, err);
    if (code != MQ_OK) {
        return code;
    }
    memcpy(stats, shared, l->shards * sizeof *stats);
    *view = l->all;
    for (uint32_t i = 0; i < view->count; i++) {
        view->nodes[i].at = vector_at(x, step, i);
    }
    if (l->is_direct) {
        return MQ_OK;
    }
    mq_piece own = {l->float_first[l->self], l->float_first[l->self + 1] - l->float_first[l->self]};
    mq_tree_sum(view->nodes, view->count, &own, 1, sum_at(x, step), x->scratch);
    set_flag(&x->head->flags[l->self].summed, value);
    code = wait_all(x, true, value, err);
    view->count = 1;
    view->nodes[0] = (mq_tree_node){(uint32_t)__builtin_ctz(l->shards), 0, sum_at(x, step)};
    return code;
}

static void shm_release(mq_exchange *base)
{
    shm_exchange *x = (shm_exchange *)base;
    mq_host *host = base->link->host;
    host->ops->segment_release(host, x->segment, x->bytes);
}

static const mq_exchange_ops shm_ops = {"shm", shm_roots, shm_sum, shm_release};

mq_code mq_exchange_shm_open(mq_exchange **out, mq_link *link, const mq_exchange_layout *layout,
                             mq_arena *arena, mq_error *err)
{
    shm_exchange *x = mq_arena_new(arena, shm_exchange, 1);
    mq_tree_scratch *scratch = mq_arena_new(arena, mq_tree_scratch, 1);
    if (x == NULL || scratch == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "memory: no room for the exchange in %zu bytes",
                       arena->limit_bytes);
    }
    x->base = (mq_exchange){&shm_ops, link, *layout};
    x->bytes = mq_exchange_shm_bytes(layout);
    x->scratch = scratch;
    mq_host *host = link->host;
    mq_code code = host->ops->segment(host, link->roster.epoch, x->bytes, SEGMENT_TIMEOUT_MS,
                                      &x->segment, err);
    if (code != MQ_OK) {
        return code;
    }
    x->head = x->segment;
    x->vectors = (float *)(void *)((uint8_t *)x->segment + mq_align_up(sizeof(shm_head), 4096));
    uint32_t first = layout->root_first[layout->self], end = layout->root_first[layout->self + 1];
    MQ_ASSERT(end - first <= MQ_TREE_ROOTS_MAX);
    for (uint64_t parity = 0; parity < 2; parity++) {
        for (uint32_t i = first; i < end; i++) {
            x->roots[parity][i - first] = vector_at(x, parity, i);
        }
    }
    *out = &x->base;
    return MQ_OK;
}

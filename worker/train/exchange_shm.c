/* Exchange through a segment that all members map.
 *
 *     | head: counters, flags, stats | leaves[depth][S][stride] | sums[depth][stride] |
 *
 * A step is a list of tasks that members take from a common counter, one by one: first the shards,
 * whose gradients go straight into the segment, then, when these are all done, the segments of the
 * sum; in the end everybody updates from the sums. Two members with few shards leave the second
 * part out: each adds up all leaves itself while updating, and nobody waits twice in a step. No bit
 * can show who took what: a shard is computed alone, a sum is element-wise along the fixed tree.
 *
 * There are two of everything (depth), by the parity of the step, so that a slow member may be a
 * step behind: buffers of step t are used again for t + 2, which begins only when all have reached
 * t + 1, that is, have done reading t. Where two would be too large there is one.
 *
 * The counters hold the roster's step with the count, (step + 1) << 8 | tasks, so that nobody has
 * to reset them; `done` is a futex word: waiting is a short spin, then yielding, then sleeping in
 * slices between which the roster is looked at. A member that dies leaves its task undone; the
 * others find the roster broken, and the next roster gets a new segment. */
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
    PAGE_FLOATS = 1024,
    PARTS_MAX = 64,            /* segments of the sum */
    LEAVES_DIRECT_MAX = 16,    /* times members but one: leaves that everybody adds up */
    AGAIN_NS_MIN = 200000,     /* least wait before a shard is computed again */
    PATIENCE_FIRST_MS = 30000, /* until some shard was done, nobody knows what one takes */
};
#define DEPTH_BYTES_MAX ((size_t)256 << 20)

/* One step's tasks. */
typedef struct shm_tasks {
    _Alignas(128) _Atomic uint32_t taken; /* (step + 1) << 8 | tasks taken */
    _Alignas(128) _Atomic uint32_t done;  /* likewise */
    _Alignas(128) _Atomic uint32_t finished[MQ_TREE_SHARDS_MAX + PARTS_MAX]; /* step + 1 */
    _Atomic uint32_t taker[MQ_TREE_SHARDS_MAX + PARTS_MAX];                  /* rank */
    mq_shard_stats stats[MQ_TREE_SHARDS_MAX];
} shm_tasks;

typedef struct shm_reached {
    _Alignas(128) _Atomic uint32_t step; /* steps done; what was read for them is free */
} shm_reached;

typedef struct shm_head {
    shm_tasks tasks[2];
    shm_reached reached[MQ_SEATS_MAX];
    _Alignas(128) _Atomic uint32_t slowest_ms; /* of all shards so far, at least 1 */
} shm_head;

_Static_assert(MQ_TREE_SHARDS_MAX + PARTS_MAX < 256, "a count of tasks fits in 8 bits");

/* A shard that another member has taken and not done, computed again. */
typedef struct shm_again {
    uint32_t shard;
    float *leaf; /* own memory */
    mq_shard_stats stats;
} shm_again;

typedef struct shm_exchange {
    mq_exchange base;
    void *segment;
    size_t bytes;
    shm_head *head;
    float *vectors;
    size_t stride;        /* floats from one vector to the next: whole pages */
    uint32_t depth;       /* 1 or 2 */
    uint32_t parts;       /* tasks of the sum; 0: everybody adds up all leaves */
    uint64_t first_step;  /* of this roster: all counting is from there; UINT64_MAX before it */
    int64_t task_ns;      /* when the shard under way was taken */
    int64_t shard_ns;     /* what the last one took */
    shm_again *again;     /* count - 1 of them when parts is 0: more shards cannot be under way */
    uint32_t again_count; /* of this step */
    mq_tree_scratch *scratch;
} shm_exchange;

/* --- layout --- */

static size_t stride_of(const mq_exchange *base)
{
    return mq_align_up(base->floats, PAGE_FLOATS);
}

static uint32_t parts_of(const mq_exchange *base)
{
    if (base->shards * (base->count - 1) <= LEAVES_DIRECT_MAX) {
        return 0;
    }
    uint32_t parts = 2 * base->count;
    return parts < PARTS_MAX ? parts : PARTS_MAX;
}

static uint32_t depth_of(const mq_exchange *base)
{
    size_t leaves = 0;
    bool is_ok = mq_mul_size(2 * (size_t)base->shards, stride_of(base) * sizeof(float), &leaves);
    return is_ok && leaves <= DEPTH_BYTES_MAX ? 2 : 1;
}

size_t mq_exchange_shm_bytes(const mq_exchange *base)
{
    size_t vectors = depth_of(base) * ((size_t)base->shards + (parts_of(base) > 0 ? 1 : 0));
    size_t bytes = 0;
    if (!mq_mul_size(vectors, stride_of(base) * sizeof(float), &bytes) ||
        !mq_add_size(bytes, mq_align_up(sizeof(shm_head), 4096), &bytes) ||
        bytes > MQ_EXCHANGE_SEGMENT_MAX) {
        return 0;
    }
    return bytes;
}

static shm_tasks *tasks_at(const shm_exchange *x, uint64_t step)
{
    return &x->head->tasks[step % x->depth];
}

static float *leaf_at(const shm_exchange *x, uint64_t step, uint32_t shard)
{
    return x->vectors + ((step % x->depth) * x->base.shards + shard) * x->stride;
}

static float *sum_at(const shm_exchange *x, uint64_t step)
{
    return x->vectors + (x->depth * (size_t)x->base.shards + step % x->depth) * x->stride;
}

/* --- waiting --- */

static void pause_briefly(void)
{
    for (int i = 0; i < 32; i++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

/* True when the word has come to `value`, counting on from wherever it is (modulo 2^32). */
static bool is_reached(_Atomic uint32_t *word, uint32_t value)
{
    return (int32_t)(atomic_load_explicit(word, memory_order_acquire) - value) >= 0;
}

/* Who is to blame while `word` is waited for. */
typedef uint32_t shm_blame(const shm_exchange *x, uint64_t step, uint32_t rank);

/* Looked at anew in every turn: the first shard may be done after the wait for it began. */
static void set_patience(const shm_exchange *x)
{
    uint32_t slowest_ms = atomic_load_explicit(&x->head->slowest_ms, memory_order_relaxed);
    int64_t patience_ms = slowest_ms == 0 ? PATIENCE_FIRST_MS : 10 * (int64_t)slowest_ms;
    x->base.link->patience_ms = mq_max_i64(patience_ms, MQ_LINK_LEASE_MS);
}

static mq_code wait_word(shm_exchange *x, _Atomic uint32_t *word, uint32_t value, shm_blame *blame,
                         uint64_t step, uint32_t rank, mq_error *err)
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
        set_patience(x);
        mq_code code = mq_link_wait_turn(x->base.link, &wait, blame(x, step, rank), err);
        if (code != MQ_OK) {
            return code;
        }
        struct timespec slice = {0, SLEEP_NS};
        (void)syscall(SYS_futex, word, FUTEX_WAIT, seen, &slice, NULL, 0);
    }
}

static void wake(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE, MQ_SEATS_MAX, NULL, NULL, 0);
}

static uint32_t blame_rank(const shm_exchange *x, uint64_t step, uint32_t rank)
{
    (void)x;
    (void)step;
    return rank;
}

/* Whoever took the first task that is not done. */
static uint32_t blame_taker(const shm_exchange *x, uint64_t step, uint32_t rank)
{
    shm_tasks *tasks = tasks_at(x, step);
    for (uint32_t i = 0; i < x->base.shards + x->parts; i++) {
        uint32_t taker = atomic_load(&tasks->taker[i]);
        if (atomic_load(&tasks->finished[i]) != (uint32_t)(step + 1) && taker < x->base.count &&
            taker != x->base.self) {
            return taker;
        }
    }
    return rank;
}

/* --- tasks --- */

static uint32_t word_of(uint64_t step, uint32_t count)
{
    return (uint32_t)(step + 1) << 8 | count;
}

/* Adds one to a counter, which may still be at an earlier step; the count before, or UINT32_MAX
 * when that is `most` already. */
static uint32_t count_up(_Atomic uint32_t *word, uint64_t step, uint32_t most)
{
    uint32_t seen = atomic_load_explicit(word, memory_order_acquire), next, count;
    do {
        bool is_now = seen >> 8 == word_of(step, 0) >> 8;
        count = is_now ? seen & 255 : 0;
        if (count >= most) {
            return UINT32_MAX;
        }
        next = word_of(step, count + 1);
    } while (!atomic_compare_exchange_weak(word, &seen, next));
    return count;
}

static bool take_task(shm_exchange *x, uint64_t step, uint32_t most, uint32_t *task)
{
    shm_tasks *tasks = tasks_at(x, step);
    *task = count_up(&tasks->taken, step, most);
    if (*task == UINT32_MAX) {
        return false;
    }
    atomic_store(&tasks->taker[*task], x->base.self);
    return true;
}

static void finish_task(shm_exchange *x, uint64_t step, uint32_t task)
{
    shm_tasks *tasks = tasks_at(x, step);
    atomic_store(&tasks->finished[task], (uint32_t)(step + 1));
    uint32_t count = count_up(&tasks->done, step, 255) + 1;
    if (count == x->base.shards || count == x->base.shards + x->parts) {
        wake(&tasks->done);
    }
}

static mq_code wait_tasks(shm_exchange *x, uint64_t step, uint32_t count, mq_error *err)
{
    return wait_word(x, &tasks_at(x, step)->done, word_of(step, count), blame_taker, step,
                     (x->base.self + 1) % x->base.count, err);
}

/* --- the table --- */

static mq_code shm_begin(mq_exchange *base, uint64_t step, mq_error *err)
{
    shm_exchange *x = (shm_exchange *)base;
    x->first_step = x->first_step == UINT64_MAX ? step : x->first_step;
    step -= x->first_step;
    x->again_count = 0;
    _Atomic uint32_t *own = &x->head->reached[base->self].step;
    atomic_store_explicit(own, (uint32_t)step, memory_order_release);
    wake(own);
    mq_code code = MQ_OK;
    /* Buffers are used again: all must have done with their last use. */
    bool is_again = step >= x->depth;
    for (uint32_t r = 0; r < base->count && code == MQ_OK && is_again; r++) {
        code = wait_word(x, &x->head->reached[r].step, (uint32_t)(step - x->depth + 1), blame_rank,
                         step, r, err);
    }
    return code;
}

static bool is_finished(const shm_exchange *x, uint64_t step, uint32_t shard)
{
    return atomic_load(&tasks_at(x, step)->finished[shard]) == (uint32_t)(step + 1);
}

static const shm_again *find_again(const shm_exchange *x, uint32_t shard)
{
    for (uint32_t i = 0; i < x->again_count; i++) {
        if (x->again[i].shard == shard) {
            return &x->again[i];
        }
    }
    return NULL;
}

/* All shards are taken. Waits as long as one takes; then gives one that is still not done. */
static bool next_again(shm_exchange *x, uint64_t step, uint32_t *shard, float **leaf)
{
    _Atomic uint32_t *done = &tasks_at(x, step)->done;
    int64_t begin_ns = mq_clock_mono_ns(), past_ns = 0;
    int64_t wait_ns = x->again_count > 0 ? 0 : mq_max_i64(x->shard_ns, AGAIN_NS_MIN);
    while (!is_reached(done, word_of(step, x->base.shards)) && past_ns < wait_ns) {
        if (past_ns < SPIN_NS) {
            pause_briefly();
        } else {
            (void)sched_yield();
        }
        past_ns = mq_clock_mono_ns() - begin_ns;
    }
    for (uint32_t s = 0; s < x->base.shards && x->again_count + 1 < x->base.count; s++) {
        if (!is_finished(x, step, s) && find_again(x, s) == NULL) {
            shm_again *again = &x->again[x->again_count++];
            again->shard = *shard = s;
            *leaf = again->leaf;
            return true;
        }
    }
    return false;
}

static bool shm_next(mq_exchange *base, uint64_t step, uint32_t *shard, float **leaf)
{
    shm_exchange *x = (shm_exchange *)base;
    step -= x->first_step;
    if (!take_task(x, step, base->shards, shard)) {
        return x->parts == 0 && next_again(x, step, shard, leaf);
    }
    *leaf = leaf_at(x, step, *shard);
    x->task_ns = mq_clock_mono_ns();
    return true;
}

static void shm_done(mq_exchange *base, uint64_t step, uint32_t shard, const mq_shard_stats *stats)
{
    shm_exchange *x = (shm_exchange *)base;
    step -= x->first_step;
    if (x->again_count > 0 && x->again[x->again_count - 1].shard == shard) {
        x->again[x->again_count - 1].stats = *stats;
        return;
    }
    tasks_at(x, step)->stats[shard] = *stats;
    finish_task(x, step, shard);
    x->shard_ns = mq_clock_mono_ns() - x->task_ns;
    uint32_t took_ms = (uint32_t)(x->shard_ns / 1000000) + 1;
    if (took_ms > atomic_load_explicit(&x->head->slowest_ms, memory_order_relaxed)) {
        atomic_store_explicit(&x->head->slowest_ms, took_ms, memory_order_relaxed);
    }
}

/* The second part of the step: segments of the sum. */
static mq_code sum_parts(shm_exchange *x, uint64_t step, mq_tree_view *view, mq_error *err)
{
    uint32_t task, shards = x->base.shards;
    while (take_task(x, step, shards + x->parts, &task)) {
        mq_piece part = mq_exchange_segment(x->base.floats, task - shards, x->parts);
        mq_tree_sum(view->nodes, view->count, &part, 1, sum_at(x, step), x->scratch);
        finish_task(x, step, task);
    }
    view->count = 1;
    view->nodes[0] = (mq_tree_node){(uint32_t)__builtin_ctz(shards), 0, sum_at(x, step)};
    return wait_tasks(x, step, shards + x->parts, err);
}

/* True when every shard is done, by its taker or again. */
static bool is_covered(const shm_exchange *x, uint64_t step)
{
    bool is_covered = x->again_count > 0;
    for (uint32_t s = 0; s < x->base.shards && is_covered; s++) {
        is_covered = is_finished(x, step, s) || find_again(x, s) != NULL;
    }
    return is_covered;
}

static mq_code shm_sum(mq_exchange *base, uint64_t step, mq_shard_stats *stats, mq_tree_view *view,
                       mq_error *err)
{
    shm_exchange *x = (shm_exchange *)base;
    step -= x->first_step;
    mq_code code = is_covered(x, step) ? MQ_OK : wait_tasks(x, step, base->shards, err);
    if (code != MQ_OK) {
        return code;
    }
    view->count = base->shards;
    for (uint32_t s = 0; s < base->shards; s++) {
        const shm_again *again = find_again(x, s);
        stats[s] = again != NULL ? again->stats : tasks_at(x, step)->stats[s];
        view->nodes[s] = (mq_tree_node){0, s, again != NULL ? again->leaf : leaf_at(x, step, s)};
    }
    return x->parts == 0 ? MQ_OK : sum_parts(x, step, view, err);
}

static void shm_release(mq_exchange *base)
{
    shm_exchange *x = (shm_exchange *)base;
    mq_host *host = base->link->host;
    host->ops->segment_release(host, x->segment, x->bytes);
}

static const mq_exchange_ops shm_ops = {"shm", shm_begin, shm_next, shm_done, shm_sum, shm_release};

static bool make_again(shm_exchange *x, mq_arena *arena)
{
    uint32_t room = x->parts == 0 ? x->base.count - 1 : 0;
    x->again = mq_arena_new(arena, shm_again, room + 1);
    bool is_ok = x->again != NULL;
    for (uint32_t i = 0; i < room && is_ok; i++) {
        x->again[i].leaf = mq_arena_new(arena, float, x->stride);
        is_ok = x->again[i].leaf != NULL;
    }
    return is_ok;
}

mq_code mq_exchange_shm_open(mq_exchange **out, const mq_exchange *base, mq_arena *arena,
                             mq_error *err)
{
    shm_exchange *x = mq_arena_new(arena, shm_exchange, 1);
    mq_tree_scratch *scratch = mq_arena_new(arena, mq_tree_scratch, 1);
    if (x == NULL || scratch == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "memory: no room for the exchange in %zu bytes",
                       arena->limit_bytes);
    }
    *x = (shm_exchange){
        .base = *base,
        .bytes = mq_exchange_shm_bytes(base),
        .stride = stride_of(base),
        .depth = depth_of(base),
        .parts = parts_of(base),
        .first_step = UINT64_MAX,
        .scratch = scratch,
    };
    x->base.ops = &shm_ops;
    if (!make_again(x, arena)) {
        return mq_fail(err, MQ_E_LIMIT, "memory: no room for %u gradients in %zu bytes",
                       x->base.count - 1, arena->limit_bytes);
    }
    mq_host *host = base->link->host;
    mq_code code = host->ops->segment(host, base->link->roster.epoch, x->bytes, SEGMENT_TIMEOUT_MS,
                                      &x->segment, err);
    if (code != MQ_OK) {
        return code;
    }
    x->head = x->segment;
    x->vectors = (float *)(void *)((uint8_t *)x->segment + mq_align_up(sizeof(shm_head), 4096));
    *out = &x->base;
    return MQ_OK;
}

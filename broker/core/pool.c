/* Texts, checkpoints and registry values of many sizes in one region: free lists by size class,
 * four classes a doubling, at most a quarter of a chunk unused. Chunks are not merged: the limit is
 * the region. It must not know what the bytes mean. */
#include "broker/core/state.h"

enum { CLASS_UNITS_FIRST = 4 }; /* up to 4 units every size has its own class */

/* Class of a number of units, and the units of a chunk of that class. */
static uint32_t class_of(uint64_t units, uint64_t *chunk)
{
    if (units <= CLASS_UNITS_FIRST) {
        *chunk = units;
        return (uint32_t)units - 1;
    }
    uint32_t shift = 0;
    while ((units - 1) >> shift >= 8) { /* brings units - 1 into 4..7 */
        shift++;
    }
    uint64_t top = (units - 1) >> shift;
    *chunk = (top + 1) << shift;
    return CLASS_UNITS_FIRST + shift * 4 + (uint32_t)(top - 4);
}

void mq_pool_init(mq_pool *pool, uint8_t *base, uint64_t bytes)
{
    *pool = (mq_pool){.base = base, .units = bytes / MQ_POOL_UNIT, .high = 1};
    MQ_ASSERT(pool->units <= UINT32_MAX);
}

mq_ref mq_pool_take(mq_pool *pool, size_t len)
{
    if (len == 0 || len > UINT32_MAX / 2) {
        return (mq_ref){0};
    }
    uint64_t chunk;
    uint32_t class = class_of((len + MQ_POOL_UNIT - 1) / MQ_POOL_UNIT, &chunk);
    MQ_ASSERT(class < MQ_POOL_CLASSES);
    uint32_t at = pool->free_head[class];
    if (at != 0) {
        memcpy(&pool->free_head[class], pool->base + (uint64_t)at * MQ_POOL_UNIT, sizeof at);
    } else if (pool->units - pool->high >= chunk) {
        at = (uint32_t)pool->high;
        pool->high += chunk;
    } else {
        return (mq_ref){0};
    }
    pool->used_bytes += chunk * MQ_POOL_UNIT;
    return (mq_ref){at, (uint32_t)len};
}

void mq_pool_give(mq_pool *pool, mq_ref ref)
{
    if (ref.at == 0) {
        return;
    }
    uint64_t chunk;
    uint32_t class = class_of(((uint64_t)ref.len + MQ_POOL_UNIT - 1) / MQ_POOL_UNIT, &chunk);
    memcpy(pool->base + (uint64_t)ref.at * MQ_POOL_UNIT, &pool->free_head[class],
           sizeof pool->free_head[class]);
    pool->free_head[class] = ref.at;
    MQ_ASSERT(pool->used_bytes >= chunk * MQ_POOL_UNIT);
    pool->used_bytes -= chunk * MQ_POOL_UNIT;
}

bool mq_pool_copy(mq_pool *pool, mq_span s, mq_ref *out)
{
    *out = mq_pool_take(pool, s.len);
    if (out->at == 0) {
        return s.len == 0;
    }
    memcpy(mq_pool_at(pool, *out), s.data, s.len);
    return true;
}

/* Room that was never used; freed chunks come on top. */
bool mq_pool_has(const mq_pool *pool, uint64_t bytes)
{
    return (pool->units - pool->high) * MQ_POOL_UNIT >= bytes;
}

void mq_ref_drop(mq_core *core, mq_ref *ref)
{
    if (ref->at != 0) {
        MQ_ASSERT(core->grave_ref_count < core->graves_max * 8);
        core->grave_refs[core->grave_ref_count++] = *ref;
    }
    *ref = (mq_ref){0};
}

void mq_graves_clear(mq_core *core)
{
    for (uint32_t i = 0; i < core->grave_ref_count; i++) {
        mq_pool_give(&core->pool, core->grave_refs[i]);
    }
    core->grave_ref_count = 0;
    for (uint32_t i = 0; i < core->grave_count; i++) {
        core->jobs[core->graves[i]].next_free = mq_slots_give(&core->job_slots, core->graves[i]);
    }
    core->grave_count = 0;
}

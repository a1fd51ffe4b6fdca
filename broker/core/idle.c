/* Which workers may have a free slot: one bit each, so that with a thousand workers a start does
 * not look at all that are busy, and one that nobody can take looks at none. A bit is set wherever
 * a worker's free slots can become more; it is cleared when the worker is looked at and has none.
 * So a bit too many costs one look, and none may be missing: the round over all workers (worker.c)
 * asserts that. It must not know what a slot is wanted for. */
#include "broker/core/state.h"

void mq_idle_note(mq_core *core, uint32_t worker)
{
    if (mq_worker_free(&core->workers[worker]) > 0) {
        core->idle[worker / 64] |= UINT64_C(1) << worker % 64;
    }
}

bool mq_idle_is(const mq_core *core, uint32_t worker)
{
    return (core->idle[worker / 64] >> worker % 64 & 1) != 0;
}

uint32_t mq_idle_next(mq_core *core, uint32_t from, uint32_t to)
{
    while (from < to) {
        uint64_t word = core->idle[from / 64] >> from % 64;
        if (word == 0) {
            from += 64 - from % 64;
            continue;
        }
        from += (uint32_t)__builtin_ctzll(word);
        if (from < to && mq_worker_free(&core->workers[from]) > 0) {
            return from;
        }
        if (from < to) {
            core->idle[from / 64] &= ~(UINT64_C(1) << from % 64);
        }
        from++;
    }
    return MQ_NONE;
}

uint32_t mq_idle_slots(const mq_core *core)
{
    uint32_t count = 0;
    for (uint32_t at = 0; at < core->worker_slots.high; at += 64) {
        for (uint64_t word = core->idle[at / 64]; word != 0; word &= word - 1) {
            uint32_t no = at + (uint32_t)__builtin_ctzll(word);
            count += no < core->worker_slots.high ? mq_worker_free(&core->workers[no]) : 0;
        }
    }
    return count;
}

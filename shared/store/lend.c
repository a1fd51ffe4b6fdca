/* The arithmetic of limits that are lent; see lend.h. No clock, no memory, no store. Every change
 * here has its twin in lua/lend.lua. */
#include "shared/store/lend.h"

#include "shared/base/assert.h"
#include "shared/base/math.h"

static uint64_t less(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Max-min fair: what a shard gets when all get as much as they need, or the same. The shards with
 * the lowest numbers get what is left over. */
static uint64_t share_of(const mq_lend_book *book, uint32_t shards, uint32_t shard, uint64_t cap)
{
    bool is_met[MQ_ULID_SHARDS_MAX] = {false};
    uint64_t left = cap;
    uint64_t open = shards;
    bool is_new = true;
    while (is_new && open > 0) {
        uint64_t each = left / open;
        is_new = false;
        for (uint32_t s = 0; s < shards; s++) {
            if (!is_met[s] && book->rows[s].need <= each) {
                is_met[s] = is_new = true;
                left -= book->rows[s].need;
                open--;
            }
        }
    }
    if (is_met[shard]) {
        return book->rows[shard].need;
    }
    uint64_t before = 0;
    for (uint32_t s = 0; s < shard; s++) {
        before += !is_met[s];
    }
    return left / open + (before < left % open ? 1 : 0);
}

static void lend_permits(mq_lend_book *book, uint32_t shards, const mq_lend_ask *ask,
                         mq_lend_grant *out)
{
    mq_lend_row *row = &book->rows[ask->shard];
    uint64_t sum = 0;
    bool is_short = false;
    for (uint32_t s = 0; s < shards; s++) {
        const mq_lend_row *other = &book->rows[s];
        sum += other->held;
        is_short = is_short || (s != ask->shard && other->need > other->held);
    }
    uint64_t room = sum < ask->cap ? ask->cap - sum : 0;
    uint64_t share = share_of(book, shards, ask->shard, ask->cap);
    if (share > row->held) {
        row->held += less(share - row->held, room);
    }
    bool is_over = sum > ask->cap; /* the cap was lowered */
    out->held = row->held;
    out->share = is_short || is_over || share > row->held ? share : row->held;
}

static void lend_tokens(mq_lend_book *book, uint32_t shards, const mq_lend_ask *ask, int64_t now_ms,
                        mq_lend_grant *out)
{
    mq_lend_row *row = &book->rows[ask->shard];
    uint64_t lent = 0;
    for (uint32_t s = 0; s < shards; s++) {
        lent += book->rows[s].out;
    }
    uint64_t room = lent < ask->burst ? (ask->burst - lent) * ask->period_ms : 0;
    if (book->period_ms != ask->period_ms) {
        book->level = book->at_ms == 0 ? room : 0;
        book->period_ms = ask->period_ms;
    } else if (now_ms > book->at_ms) {
        uint64_t ms = less((uint64_t)(now_ms - book->at_ms), room / ask->rate + 1);
        book->level = book->level + ms * ask->rate;
    }
    book->level = less(book->level, room);
    book->at_ms = mq_max_i64(book->at_ms, now_ms);
    uint64_t back = less(ask->back, row->out - less(row->out, ask->have));
    row->out = ask->have;
    book->level += back * ask->period_ms;
    out->tokens = less(ask->want, book->level / ask->period_ms);
    row->out += out->tokens;
    book->level -= out->tokens * ask->period_ms;
    uint64_t lacks = book->level >= ask->period_ms ? 0 : ask->period_ms - book->level;
    out->wait_ms = (lacks + ask->rate - 1) / ask->rate;
}

void mq_lend(mq_lend_book *book, uint32_t shards, const mq_lend_ask *ask, int64_t now_ms,
             mq_lend_grant *out)
{
    MQ_ASSERT(ask->shard < shards && shards <= MQ_ULID_SHARDS_MAX);
    mq_lend_row *row = &book->rows[ask->shard];
    *out = (mq_lend_grant){0};
    bool is_old =
        ask->epoch < row->epoch || (ask->epoch == row->epoch && ask->number <= row->number);
    if (is_old) {
        return;
    }
    bool is_next_owner = ask->epoch > row->epoch;
    row->epoch = ask->epoch;
    row->number = ask->number;
    row->held = ask->cap > 0 ? ask->held : 0;
    row->need = ask->cap > 0 ? ask->need : 0;
    row->out = ask->rate == 0 || is_next_owner ? 0 : row->out;
    out->is_good = true;
    if (ask->cap > 0) {
        lend_permits(book, shards, ask, out);
    }
    if (ask->rate > 0) {
        lend_tokens(book, shards, ask, now_ms, out);
    }
}

/* Lays a batch out as keys and arguments of the commit function: jobs of one hash lie together, so
 * that Lua can hand a whole run to one command. It sends nothing. */
#include "shared/store/redis_args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "shared/store/batch.h"
#include "shared/store/value.h"

enum { SLACK_MAX_MS = 60000 };
static const size_t arena_bytes_max = (size_t)256 << 20;

/* One job of a section on its way into runs: sorted by group, then number. */
typedef struct row {
    uint64_t group;  /* minute or segment: which hash */
    uint64_t number; /* second key, keeps segments together inside a minute */
    uint16_t index;
} row;

typedef struct rows {
    row row[MQ_STORE_JOBS_MAX];
    uint32_t count;
} rows;

int64_t mq_commit_slack(int64_t retention_ms)
{
    return retention_ms + mq_min_i64(SLACK_MAX_MS, retention_ms / 8);
}

/* ---- lists of arguments ---- */

void mq_args_release(mq_args *args)
{
    free(args->argv);
    free(args->lens);
    *args = (mq_args){0};
}

static bool args_room(mq_args *args)
{
    if (args->count < args->capacity) {
        return true;
    }
    uint32_t capacity = args->capacity * 2 + 1024;
    const char **argv = realloc(args->argv, sizeof *argv * capacity);
    if (argv == NULL) {
        args->is_full = true;
        return false;
    }
    args->argv = argv;
    size_t *lens = realloc(args->lens, sizeof *lens * capacity);
    if (lens == NULL) {
        args->is_full = true;
        return false;
    }
    args->lens = lens;
    args->capacity = capacity;
    return true;
}

void mq_args_add(mq_args *args, mq_span s)
{
    if (!args_room(args)) {
        return;
    }
    args->argv[args->count] = s.len == 0 ? "" : (const char *)s.data;
    args->lens[args->count++] = s.len;
}

void mq_args_text(mq_args *args, const char *s)
{
    mq_args_add(args, mq_str(s));
}

void mq_args_number(mq_args *args, int64_t number)
{
    if (number == 0 || number == 1) {
        mq_args_text(args, number == 0 ? "0" : "1");
        return;
    }
    char text[24];
    int len = snprintf(text, sizeof text, "%lld", (long long)number);
    const char *kept = mq_arena_str(args->arena, mq_span_of(text, (size_t)len));
    if (kept == NULL) {
        args->is_full = true;
        return;
    }
    mq_args_add(args, mq_span_of(kept, (size_t)len));
}

static void args_count(mq_args *args, uint32_t number)
{
    mq_args_number(args, (int64_t)number);
}

static void add_key(mq_commit_args *c, const char *prefix, uint64_t number)
{
    char key[MQ_KEY_BYTES];
    mq_key_numbered(prefix, number, key);
    const char *kept = mq_arena_str(&c->arena, mq_str(key));
    if (kept == NULL) {
        c->keys.is_full = true;
        return;
    }
    mq_args_text(&c->keys, kept);
}

/* ---- runs ---- */

/* Insertion keeps what is already in order in linear time, and it nearly always is. */
static void add_row(rows *r, uint64_t group, uint64_t number, uint32_t index)
{
    uint32_t at = r->count++;
    while (at > 0 && (r->row[at - 1].group > group ||
                      (r->row[at - 1].group == group && r->row[at - 1].number > number))) {
        r->row[at] = r->row[at - 1];
        at--;
    }
    r->row[at] = (row){group, number, (uint16_t)index};
}

/* End of the run that starts at `from`. */
static uint32_t run_end(const rows *r, uint32_t from)
{
    uint32_t to = from + 1;
    while (to < r->count && r->row[to].group == r->row[from].group) {
        to++;
    }
    return to;
}

static uint32_t run_count(const rows *r)
{
    uint32_t n = 0;
    for (uint32_t from = 0; from < r->count; from = run_end(r, from)) {
        n++;
    }
    return n;
}

/* ---- large values ---- */

static mq_span token_of(const mq_commit_args *c)
{
    return mq_str(c->token);
}

static mq_large *add_large(mq_commit_args *c, const char *prefix, mq_span id, mq_span value)
{
    char key[MQ_KEY_BYTES];
    mq_key_large(prefix, token_of(c), id, key);
    const char *kept = mq_arena_str(&c->arena, mq_str(key));
    if (kept == NULL) {
        return NULL;
    }
    mq_large *large = &c->large[c->large_count++];
    *large = (mq_large){.key = kept, .value = value};
    return large;
}

/* Packed record and result of a finish; a large result becomes a token. */
static mq_span value_of(mq_commit_args *c, const mq_store_finish *f)
{
    mq_value value = {.record = f->record, .result = f->result};
    if (f->result.len > MQ_STORE_INLINE_MAX) {
        value.is_large = true;
        value.token = token_of(c);
    }
    mq_span packed = mq_value_pack(&c->arena, &value);
    c->args.is_full |= packed.len == 0;
    return packed;
}

static bool collect_large(mq_commit_args *c, const mq_keys *keys, const mq_store_batch *b,
                          const rows *creates)
{
    for (uint32_t i = 0; i < creates->count; i++) {
        const mq_store_create *create = &b->creates[creates->row[i].index];
        if (create->body.len > MQ_STORE_INLINE_MAX) {
            mq_large *large = add_large(c, keys->body, create->id, create->body);
            if (large == NULL) {
                return false;
            }
            large->candidate = (uint16_t)(i + 1);
        }
    }
    for (uint32_t i = 0; i < b->finish_count; i++) {
        const mq_store_finish *f = &b->finishes[i];
        if (f->result.len > MQ_STORE_INLINE_MAX) {
            mq_large *large = add_large(c, keys->result, f->id, f->result);
            if (large == NULL) {
                return false;
            }
            large->is_result = true;
            large->retention_ms = f->retention_ms;
        }
    }
    return true;
}

static void put_large(mq_commit_args *c)
{
    uint32_t bodies = 0;
    while (bodies < c->large_count && !c->large[bodies].is_result) {
        bodies++;
    }
    args_count(&c->args, bodies);
    for (uint32_t i = 0; i < bodies; i++) {
        mq_args_number(&c->args, c->large[i].candidate);
        mq_args_add(&c->args, token_of(c));
        mq_args_text(&c->keys, c->large[i].key);
    }
    args_count(&c->args, c->large_count - bodies);
    for (uint32_t i = bodies; i < c->large_count; i++) {
        mq_args_number(&c->args, mq_commit_slack(c->large[i].retention_ms));
        mq_args_text(&c->keys, c->large[i].key);
    }
}

/* ---- sections, in the order of lua/commit.lua ---- */

static void put_creates(mq_commit_args *c, const mq_keys *keys, const mq_store_batch *b,
                        const rows *creates)
{
    args_count(&c->args, creates->count);
    for (uint32_t i = 0; i < creates->count; i++) {
        const mq_store_create *create = &b->creates[creates->row[i].index];
        mq_args_add(&c->args, create->id);
        mq_args_add(&c->args, create->record);
        bool is_large = create->body.len > MQ_STORE_INLINE_MAX; /* went ahead by itself */
        mq_args_add(&c->args, mq_span_of(create->body.data, is_large ? 0 : create->body.len));
    }
    args_count(&c->args, run_count(creates));
    for (uint32_t from = 0, to; from < creates->count; from = to) {
        to = run_end(creates, from);
        args_count(&c->args, to - from);
        add_key(c, keys->done, creates->row[from].group);
    }
    /* The same jobs, cut where the segment changes. */
    uint32_t runs = 0;
    for (uint32_t i = 0; i < creates->count; i++) {
        runs += i == 0 || mq_batch_segment(creates->row[i].number) !=
                              mq_batch_segment(creates->row[i - 1].number);
    }
    args_count(&c->args, runs);
    for (uint32_t from = 0, to; from < creates->count; from = to) {
        uint64_t segment = mq_batch_segment(creates->row[from].number);
        to = from + 1;
        while (to < creates->count && mq_batch_segment(creates->row[to].number) == segment) {
            to++;
        }
        mq_args_number(&c->args, (int64_t)segment);
        args_count(&c->args, to - from);
        add_key(c, keys->live, segment);
    }
}

/* Runs of finishes by minute: retention, count, pairs. */
static void put_done(mq_commit_args *c, const mq_keys *keys, const mq_store_batch *b,
                     const rows *done)
{
    args_count(&c->args, run_count(done));
    for (uint32_t from = 0, to; from < done->count; from = to) {
        to = run_end(done, from);
        int64_t retention_ms = 0;
        for (uint32_t i = from; i < to; i++) {
            retention_ms = mq_max_i64(retention_ms, b->finishes[done->row[i].index].retention_ms);
        }
        mq_args_number(&c->args, retention_ms);
        args_count(&c->args, to - from);
        add_key(c, keys->done, done->row[from].group);
        for (uint32_t i = from; i < to; i++) {
            const mq_store_finish *f = &b->finishes[done->row[i].index];
            mq_args_add(&c->args, f->id);
            mq_args_add(&c->args, value_of(c, f));
        }
    }
}

static void put_puts(mq_commit_args *c, const mq_keys *keys, const mq_store_batch *b,
                     const rows *puts)
{
    args_count(&c->args, run_count(puts));
    for (uint32_t from = 0, to; from < puts->count; from = to) {
        to = run_end(puts, from);
        args_count(&c->args, to - from);
        add_key(c, keys->live, puts->row[from].group);
        for (uint32_t i = from; i < to; i++) {
            mq_args_add(&c->args, b->puts[puts->row[i].index].id);
            mq_args_add(&c->args, b->puts[puts->row[i].index].record);
        }
    }
}

static void put_taken(mq_commit_args *c, const mq_keys *keys, const mq_store_batch *b,
                      const rows *taken)
{
    args_count(&c->args, run_count(taken));
    for (uint32_t from = 0, to; from < taken->count; from = to) {
        to = run_end(taken, from);
        mq_args_number(&c->args, (int64_t)taken->row[from].group);
        args_count(&c->args, to - from);
        add_key(c, keys->live, taken->row[from].group);
        for (uint32_t i = from; i < to; i++) {
            mq_args_add(&c->args, b->finishes[taken->row[i].index].id);
        }
    }
}

static void put_dead(mq_commit_args *c, const mq_store_batch *b)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < b->finish_count; i++) {
        count += b->finishes[i].is_dead;
    }
    args_count(&c->args, count);
    for (uint32_t i = 0; i < b->finish_count; i++) {
        if (b->finishes[i].is_dead) {
            mq_args_add(&c->args, b->finishes[i].id);
            mq_args_add(&c->args, value_of(c, &b->finishes[i]));
        }
    }
}

static void put_revives(mq_commit_args *c, const mq_keys *keys, const mq_store_batch *b)
{
    rows r;
    r.count = 0;
    for (uint32_t i = 0; i < b->revive_count; i++) {
        add_row(&r, mq_batch_segment(b->revives[i].number), 0, i);
    }
    args_count(&c->args, run_count(&r));
    for (uint32_t from = 0, to; from < r.count; from = to) {
        to = run_end(&r, from);
        mq_args_number(&c->args, (int64_t)r.row[from].group);
        args_count(&c->args, to - from);
        add_key(c, keys->live, r.row[from].group);
        for (uint32_t i = from; i < to; i++) {
            mq_args_add(&c->args, b->revives[r.row[i].index].id);
            mq_args_add(&c->args, b->revives[r.row[i].index].record);
        }
    }
}

static void put_rest(mq_commit_args *c, const mq_store_batch *b)
{
    args_count(&c->args, b->registry_count);
    for (uint32_t i = 0; i < b->registry_count; i++) {
        mq_args_add(&c->args, b->registry[i].field);
        mq_args_text(&c->args, b->registry[i].value.data == NULL ? "d" : "s");
        mq_args_add(&c->args, b->registry[i].value);
    }
    args_count(&c->args, b->counter_count);
    for (uint32_t i = 0; i < b->counter_count; i++) {
        mq_args_add(&c->args, b->counters[i].name);
        mq_args_number(&c->args, b->counters[i].delta);
    }
    mq_args_add(&c->args, b->event);
}

/* ---- whole ---- */

void mq_commit_args_init(mq_commit_args *c)
{
    *c = (mq_commit_args){.large_count = 0};
    uint64_t start = 0;
    while (getrandom(&start, sizeof start, 0) != (ssize_t)sizeof start) {
        MQ_ASSERT(errno == EINTR);
    }
    c->attempt = start >> 16;
    mq_arena_init(&c->arena, arena_bytes_max);
    c->keys.arena = &c->arena;
    c->args.arena = &c->arena;
}

void mq_commit_args_release(mq_commit_args *c)
{
    mq_args_release(&c->keys);
    mq_args_release(&c->args);
    mq_arena_release(&c->arena);
}

static void reset(mq_commit_args *c)
{
    mq_arena_reset(&c->arena);
    c->keys.count = 0;
    c->keys.is_full = false;
    c->args.count = 0;
    c->args.is_full = false;
    c->large_count = 0;
}

/* Finishes by what happens to them: rows by minute (new, from live, from dead) and by segment. */
typedef struct finish_rows {
    rows is_new;
    rows done;
    rows was_dead;
    rows taken;
} finish_rows;

static void sort_finishes(finish_rows *r, const mq_store_batch *b)
{
    r->is_new.count = r->done.count = r->was_dead.count = r->taken.count = 0;
    for (uint32_t i = 0; i < b->finish_count; i++) {
        const mq_store_finish *f = &b->finishes[i];
        uint64_t minute = (uint64_t)mq_batch_minute(f->id);
        if (f->is_new) {
            add_row(&r->is_new, minute, 0, i);
        } else if (f->was_dead) {
            add_row(&r->was_dead, minute, 0, i);
        } else {
            add_row(&r->taken, mq_batch_segment(f->number), 0, i);
            if (!f->is_dead) {
                add_row(&r->done, minute, 0, i);
            }
        }
    }
}

static void remember_order(mq_commit_args *c, const mq_store_batch *b, const rows *creates,
                           const rows *finishes)
{
    for (uint32_t i = 0; i < creates->count; i++) {
        c->order[i] = creates->row[i].index;
    }
    for (uint32_t i = 0; i < finishes->count; i++) {
        c->order[creates->count + i] = (uint16_t)(b->create_count + finishes->row[i].index);
    }
}

mq_code mq_commit_args_build(mq_commit_args *c, const mq_keys *keys, const mq_store_batch *b,
                             mq_error *err)
{
    reset(c);
    rows creates;
    rows puts;
    finish_rows finishes;
    creates.count = puts.count = 0;
    for (uint32_t i = 0; i < b->create_count; i++) {
        add_row(&creates, (uint64_t)mq_batch_minute(b->creates[i].id), b->creates[i].number, i);
    }
    for (uint32_t i = 0; i < b->put_count; i++) {
        add_row(&puts, mq_batch_segment(b->puts[i].number), 0, i);
    }
    sort_finishes(&finishes, b);
    remember_order(c, b, &creates, &finishes.is_new);
    mq_key_token(b->epoch, b->sequence, ++c->attempt, c->token);
    for (int i = 0; i < MQ_KEY_FIXED; i++) {
        mq_args_text(&c->keys, keys->fixed[i]);
    }
    mq_args_number(&c->args, (int64_t)b->epoch);
    mq_args_number(&c->args, (int64_t)b->sequence);
    mq_args_text(&c->args, keys->live);
    mq_args_text(&c->args, keys->body);
    bool is_ok = collect_large(c, keys, b, &creates);
    put_large(c);
    put_creates(c, keys, b, &creates);
    put_done(c, keys, b, &finishes.is_new);
    put_puts(c, keys, b, &puts);
    put_taken(c, keys, b, &finishes.taken);
    put_dead(c, b);
    put_done(c, keys, b, &finishes.done);
    put_done(c, keys, b, &finishes.was_dead);
    put_revives(c, keys, b);
    put_rest(c, b);
    if (!is_ok || c->keys.is_full || c->args.is_full) {
        return mq_fail(err, MQ_E_LIMIT, "no memory to send a commit of %u jobs",
                       b->create_count + b->put_count + b->finish_count + b->revive_count);
    }
    return MQ_OK;
}

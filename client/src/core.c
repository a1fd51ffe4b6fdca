/* The client session, pure; see core.h. Must not know sockets, threads, time or the jobs' contents.
 */
#include "client/src/core.h"

#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"

/* rids of submit messages have the top bit, so they never equal an entry's. */
#define BATCH_BIT (UINT64_C(1) << 63)

static void schedule(mq_ccore *core, uint32_t slot, int64_t due_ms);

mq_code mq_ccore_init(mq_ccore *core, const mq_ccore_config *config, mq_error *err)
{
    MQ_ASSERT(config->capacity > 0);
    MQ_ASSERT(config->window > 0);
    uint32_t n = config->capacity;
    *core = (mq_ccore){.capacity = n,
                       .window = config->window,
                       .prng = {config->seed},
                       .waiting_head = MQ_CCORE_NONE,
                       .waiting_tail = MQ_CCORE_NONE,
                       .silent_due_ms = INT64_MAX};
    if (mq_map_init(&core->ids, n, config->seed, err) != MQ_OK) {
        return err == NULL ? MQ_E_LIMIT : err->code;
    }
    core->entries = calloc(n, sizeof *core->entries);
    core->heap_entries = calloc(n, sizeof *core->heap_entries);
    core->heap_positions = calloc(n, sizeof *core->heap_positions);
    core->free_slots = calloc(n, sizeof *core->free_slots);
    if (core->entries == NULL || core->heap_entries == NULL || core->heap_positions == NULL ||
        core->free_slots == NULL) {
        mq_ccore_release(core);
        return mq_fail(err, MQ_E_LIMIT, "no memory for a client of %u jobs: lower jobs_max", n);
    }
    mq_heap_init(&core->timers, core->heap_entries, core->heap_positions, n);
    for (uint32_t i = 0; i < n; i++) { /* slot 0 is taken first */
        core->free_slots[i] = n - 1 - i;
    }
    core->free_count = n;
    return MQ_OK;
}

void mq_ccore_release(mq_ccore *core)
{
    mq_map_release(&core->ids);
    free(core->entries);
    free(core->heap_entries);
    free(core->heap_positions);
    free(core->free_slots);
    *core = (mq_ccore){0};
}

static mq_ccore_entry *entry_of(mq_ccore *core, uint32_t slot)
{
    MQ_ASSERT(slot < core->capacity);
    MQ_ASSERT(core->entries[slot].phase != MQ_CCORE_FREE);
    return &core->entries[slot];
}

static uint64_t rid_of(const mq_ccore *core, uint32_t slot)
{
    return ((uint64_t)core->entries[slot].generation << 32 | slot) & ~BATCH_BIT;
}

/* Slot of an entry's rid, MQ_CCORE_NONE when that entry is gone. */
static uint32_t slot_of(const mq_ccore *core, uint64_t rid)
{
    uint32_t slot = (uint32_t)rid;
    if (slot >= core->capacity || core->entries[slot].phase == MQ_CCORE_FREE ||
        rid_of(core, slot) != rid) {
        return MQ_CCORE_NONE;
    }
    return slot;
}

static uint32_t take(mq_ccore *core, int64_t now_ms, mq_ccore_phase phase, int64_t give_up_ms)
{
    if (core->free_count == 0) {
        return MQ_CCORE_NONE;
    }
    if (core->silent_due_ms == INT64_MAX) {
        core->silent_due_ms = now_ms + MQ_CCORE_SILENT_MS;
        core->silent_count = 0;
    }
    uint32_t slot = core->free_slots[--core->free_count];
    uint32_t generation = core->entries[slot].generation + 1;
    core->entries[slot] = (mq_ccore_entry){.phase = (uint8_t)phase,
                                           .generation = generation == 0 ? 1 : generation,
                                           .prev = MQ_CCORE_NONE,
                                           .next = MQ_CCORE_NONE,
                                           .give_up_ms = give_up_ms};
    return slot;
}

static void waiting_push(mq_ccore *core, uint32_t slot)
{
    mq_ccore_entry *entry = &core->entries[slot];
    entry->prev = core->waiting_tail;
    entry->next = MQ_CCORE_NONE;
    if (core->waiting_tail == MQ_CCORE_NONE) {
        core->waiting_head = slot;
    } else {
        core->entries[core->waiting_tail].next = slot;
    }
    core->waiting_tail = slot;
    core->waiting_count++;
}

static void waiting_remove(mq_ccore *core, uint32_t slot)
{
    mq_ccore_entry *entry = &core->entries[slot];
    if (entry->prev == MQ_CCORE_NONE) {
        core->waiting_head = entry->next;
    } else {
        core->entries[entry->prev].next = entry->next;
    }
    if (entry->next == MQ_CCORE_NONE) {
        core->waiting_tail = entry->prev;
    } else {
        core->entries[entry->next].prev = entry->prev;
    }
    MQ_ASSERT(core->waiting_count > 0);
    core->waiting_count--;
}

static void set_phase(mq_ccore *core, uint32_t slot, mq_ccore_phase phase)
{
    mq_ccore_entry *entry = &core->entries[slot];
    if (entry->phase == MQ_CCORE_WAITING) {
        waiting_remove(core, slot);
    }
    if (entry->phase == MQ_CCORE_SENT) {
        MQ_ASSERT(core->sent_count > 0);
        core->sent_count--;
    }
    core->sent_count += phase == MQ_CCORE_SENT;
    entry->phase = (uint8_t)phase;
    entry->tries = 0;
}

void mq_ccore_drop(mq_ccore *core, uint32_t slot)
{
    mq_ccore_entry *entry = entry_of(core, slot);
    if (entry->id[0] != '\0') {
        uint32_t was = mq_map_remove(&core->ids, mq_str(entry->id));
        MQ_ASSERT(was == slot);
    }
    set_phase(core, slot, MQ_CCORE_FREE);
    mq_heap_remove(&core->timers, slot);
    core->free_slots[core->free_count++] = slot;
    if (core->free_count == core->capacity) {
        core->silent_due_ms = INT64_MAX;
    }
}

static uint32_t take_job(mq_ccore *core, int64_t now_ms, mq_span id, mq_ccore_phase phase,
                         int64_t give_up_ms)
{
    if (id.len == 0 || id.len >= MQ_CCORE_ID_SIZE || mq_map_find(&core->ids, id) != MQ_MAP_NONE) {
        return MQ_CCORE_NONE;
    }
    uint32_t slot = take(core, now_ms, phase, give_up_ms);
    if (slot != MQ_CCORE_NONE) {
        mq_ccore_entry *entry = &core->entries[slot];
        (void)mq_span_copy(id, entry->id, sizeof entry->id);
        bool is_in = mq_map_put(&core->ids, mq_str(entry->id), slot);
        MQ_ASSERT(is_in); /* the map has as many places as there are slots */
    }
    return slot;
}

uint32_t mq_ccore_submit(mq_ccore *core, int64_t now_ms, mq_span id, bool is_transient,
                         int64_t give_up_ms)
{
    uint32_t slot = take_job(core, now_ms, id, MQ_CCORE_WAITING, give_up_ms);
    if (slot != MQ_CCORE_NONE) {
        core->entries[slot].is_transient = is_transient;
        waiting_push(core, slot);
        schedule(core, slot, INT64_MAX);
    }
    return slot;
}

uint32_t mq_ccore_open(mq_ccore *core, int64_t now_ms, mq_span id)
{
    uint32_t slot = take_job(core, now_ms, id, MQ_CCORE_OPEN, INT64_MAX);
    if (slot != MQ_CCORE_NONE) {
        core->entries[slot].is_opened = true;
        schedule(core, slot, now_ms);
    }
    return slot;
}

uint32_t mq_ccore_call(mq_ccore *core, int64_t now_ms, int64_t give_up_ms)
{
    uint32_t slot = take(core, now_ms, MQ_CCORE_CALL, give_up_ms);
    if (slot != MQ_CCORE_NONE) {
        schedule(core, slot, now_ms);
    }
    return slot;
}

/* Sets the slot's timer. Without a link only giving up is left to wait for. */
static void schedule(mq_ccore *core, uint32_t slot, int64_t due_ms)
{
    const mq_ccore_entry *entry = &core->entries[slot];
    bool is_waiting =
        entry->phase == MQ_CCORE_WAITING || (core->is_held && entry->phase == MQ_CCORE_OPEN);
    int64_t key = core->is_linked && !is_waiting ? due_ms : INT64_MAX;
    if (entry->refused != MQ_OK) {
        key = due_ms;
    }
    key = mq_min_i64(key, entry->give_up_ms);
    if (key == INT64_MAX) {
        mq_heap_remove(&core->timers, slot);
    } else {
        mq_heap_set(&core->timers, slot, key);
    }
}

bool mq_ccore_cancel(mq_ccore *core, int64_t now_ms, uint32_t slot, bool is_hard)
{
    mq_ccore_entry *entry = entry_of(core, slot);
    MQ_ASSERT(entry->phase != MQ_CCORE_CALL);
    if (entry->phase == MQ_CCORE_WAITING && entry->sends == 0) {
        mq_ccore_drop(core, slot);
        return true;
    }
    entry->cancel = is_hard ? 2 : 1;
    if (entry->phase == MQ_CCORE_OPEN) {
        entry->tries = 0;
        schedule(core, slot, now_ms);
    }
    return false;
}

void mq_ccore_watch(mq_ccore *core, int64_t now_ms, uint32_t slot, bool is_watched)
{
    mq_ccore_entry *entry = entry_of(core, slot);
    entry->is_watched = is_watched;
    if (is_watched && entry->phase == MQ_CCORE_OPEN) {
        entry->tries = 0;
        schedule(core, slot, now_ms);
    }
}

void mq_ccore_linked(mq_ccore *core, int64_t now_ms)
{
    core->is_linked = true;
    core->wants_hello = true;
    core->silent_count = 0;
    uint32_t asks = 0;
    for (uint32_t i = 0; i < core->capacity; i++) {
        mq_ccore_entry *entry = &core->entries[i];
        switch ((mq_ccore_phase)entry->phase) {
        case MQ_CCORE_SENT:
        case MQ_CCORE_CALL:
            entry->tries = 0;
            schedule(core, i, now_ms);
            break;
        case MQ_CCORE_OPEN: /* spread out, so that a broker that comes back is not flooded */
            entry->tries = 0;
            schedule(core, i, now_ms + (int64_t)asks++ * 1000 / MQ_CCORE_ASK_RATE);
            break;
        case MQ_CCORE_FREE:
        case MQ_CCORE_WAITING:
            break;
        }
    }
}

void mq_ccore_unlinked(mq_ccore *core, int64_t now_ms)
{
    core->is_linked = false;
    core->wants_hello = false;
    if (core->silent_due_ms != INT64_MAX) { /* a closed connection is worth two silent intervals */
        core->silent_count = MQ_CCORE_SILENT_MAX - 1;
        core->silent_due_ms = now_ms + MQ_CCORE_SILENT_MS / 2;
    }
    for (uint32_t i = 0; i < core->capacity; i++) {
        if (core->entries[i].phase != MQ_CCORE_FREE) {
            schedule(core, i, core->entries[i].refused != MQ_OK ? now_ms : INT64_MAX);
        }
    }
}

void mq_ccore_hold(mq_ccore *core, int64_t now_ms, bool is_held)
{
    core->is_held = is_held;
    for (uint32_t i = 0; i < core->capacity; i++) {
        if (core->entries[i].phase == MQ_CCORE_OPEN) {
            schedule(core, i, now_ms);
        }
    }
}

static bool may_submit(const mq_ccore *core)
{
    return core->is_linked && !core->is_held && core->waiting_count > 0 &&
           core->sent_count < core->window;
}

void mq_ccore_heard(mq_ccore *core, int64_t now_ms)
{
    core->silent_count = 0;
    if (core->silent_due_ms != INT64_MAX) {
        core->silent_due_ms = now_ms + MQ_CCORE_SILENT_MS;
    }
}

uint64_t mq_ccore_new_batch(mq_ccore *core)
{
    return ++core->batches | BATCH_BIT;
}

void mq_ccore_batched(mq_ccore *core, uint32_t slot, uint64_t rid)
{
    entry_of(core, slot)->batch = rid;
}

static bool is_passing(mq_code code)
{
    return code == MQ_E_BUSY || code == MQ_E_MOVED || code == MQ_E_STALE;
}

/* When to try again what was refused for the moment: the broker's wish, up to twice as late. */
static int64_t retry_due(mq_ccore *core, int64_t now_ms, uint64_t retry_ms)
{
    uint64_t ms = retry_ms == 0 ? 100 : retry_ms;
    ms = ms > MQ_CCORE_RESEND_MAX_MS ? MQ_CCORE_RESEND_MAX_MS : ms;
    return now_ms + (int64_t)(ms + mq_prng_below(&core->prng, ms + 1));
}

uint32_t mq_ccore_submitted(mq_ccore *core, int64_t now_ms, mq_span id, mq_code verdict,
                            uint64_t retry_ms, bool is_ended, uint32_t *accepted)
{
    if (accepted != NULL) {
        *accepted = MQ_CCORE_NONE;
    }
    uint32_t slot = mq_map_find(&core->ids, id);
    if (slot == MQ_MAP_NONE || core->entries[slot].phase != MQ_CCORE_SENT) {
        return MQ_CCORE_NONE; /* an answer that came twice */
    }
    mq_ccore_entry *entry = entry_of(core, slot);
    if (is_passing(verdict)) {
        /* The online lane is short and empties within milliseconds: the first tries come soon. */
        uint64_t soon_ms = UINT64_C(5) << (entry->tries < 16 ? entry->tries : 16);
        bool is_soon = entry->is_transient && retry_ms > soon_ms;
        schedule(core, slot, retry_due(core, now_ms, is_soon ? soon_ms : retry_ms));
        return MQ_CCORE_NONE;
    }
    if (verdict != MQ_OK) {
        mq_ccore_drop(core, slot);
        return slot;
    }
    set_phase(core, slot, MQ_CCORE_OPEN);
    if (!entry->is_transient) {
        entry->give_up_ms = INT64_MAX; /* it is on disk: it will end */
    }
    entry->ended = (uint8_t)(entry->ended + (is_ended && entry->ended < MQ_CCORE_ENDED_MAX));
    bool is_now = is_ended || entry->is_watched || entry->cancel != 0;
    schedule(core, slot, is_now ? now_ms : now_ms + MQ_CCORE_POLL_MS);
    if (accepted != NULL) {
        *accepted = slot;
    }
    return MQ_CCORE_NONE;
}

uint32_t mq_ccore_done(mq_ccore *core, mq_span id)
{
    uint32_t slot = mq_map_find(&core->ids, id);
    if (slot == MQ_MAP_NONE) {
        return MQ_CCORE_NONE;
    }
    mq_ccore_drop(core, slot);
    return slot;
}

/* Time of the next GET of an open job. */
static int64_t poll_due(mq_ccore *core, const mq_ccore_entry *entry, int64_t now_ms)
{
    int64_t most =
        entry->is_watched || entry->cancel != 0 ? MQ_CCORE_WATCH_POLL_MAX_MS : MQ_CCORE_POLL_MAX_MS;
    int64_t ms = MQ_CCORE_POLL_MS << (entry->tries < 8 ? entry->tries : 8);
    ms = mq_min_i64(ms, most);
    return now_ms + ms / 2 + (int64_t)mq_prng_below(&core->prng, (uint64_t)ms / 2 + 1);
}

uint32_t mq_ccore_state(mq_ccore *core, int64_t now_ms, uint64_t rid, mq_code verdict,
                        bool is_terminal, mq_code *code)
{
    *code = MQ_OK;
    uint32_t slot = slot_of(core, rid);
    if (slot == MQ_CCORE_NONE || core->entries[slot].phase != MQ_CCORE_OPEN) {
        return MQ_CCORE_NONE;
    }
    mq_ccore_entry *entry = &core->entries[slot];
    if (verdict == MQ_OK && is_terminal) {
        mq_ccore_drop(core, slot);
        return slot;
    }
    if (verdict != MQ_E_NOT_FOUND) {
        schedule(core, slot, poll_due(core, entry, now_ms));
        return MQ_CCORE_NONE;
    }
    /* Ended, says each submit, and its end is not there any more: a transient job whose last word
     * was lost, or one that was kept for too short a time. Asking on would never end. */
    if (entry->is_opened || entry->ended == MQ_CCORE_ENDED_MAX) {
        *code = MQ_E_NOT_FOUND;
        mq_ccore_drop(core, slot);
        return slot;
    }
    /* The broker lost it (a transient job with its broker, a durable one with a failed-over store):
     * offered again under the same id, when the window has room. */
    set_phase(core, slot, MQ_CCORE_WAITING);
    waiting_push(core, slot);
    schedule(core, slot, INT64_MAX);
    return MQ_CCORE_NONE;
}

uint32_t mq_ccore_answered(mq_ccore *core, int64_t now_ms, uint64_t rid, mq_code verdict)
{
    uint32_t slot = slot_of(core, rid);
    if (slot == MQ_CCORE_NONE) {
        return MQ_CCORE_NONE;
    }
    if (core->entries[slot].phase == MQ_CCORE_CALL) {
        mq_ccore_drop(core, slot);
        return slot;
    }
    if (!is_passing(verdict)) {
        core->entries[slot].cancel = 0;
    } else if (core->entries[slot].cancel != 0 && core->entries[slot].phase == MQ_CCORE_OPEN) {
        schedule(core, slot, retry_due(core, now_ms, 1000));
    }
    return MQ_CCORE_NONE;
}

static void batch_refused(mq_ccore *core, int64_t now_ms, uint64_t rid, mq_code code,
                          uint64_t retry_ms)
{
    for (uint32_t i = 0; i < core->capacity; i++) {
        mq_ccore_entry *entry = &core->entries[i];
        if (entry->phase != MQ_CCORE_SENT || entry->batch != rid) {
            continue;
        }
        if (is_passing(code)) {
            schedule(core, i, retry_due(core, now_ms, retry_ms));
        } else if (entry->is_solo || code == MQ_E_VERSION) {
            entry->refused = code;
            schedule(core, i, now_ms);
        } else {
            entry->is_solo = true;
            schedule(core, i, now_ms);
        }
    }
}

uint32_t mq_ccore_error(mq_ccore *core, int64_t now_ms, uint64_t rid, mq_code code,
                        uint64_t retry_ms)
{
    if ((rid & BATCH_BIT) != 0) {
        batch_refused(core, now_ms, rid, code, retry_ms);
        return MQ_CCORE_NONE;
    }
    uint32_t slot = slot_of(core, rid);
    if (slot == MQ_CCORE_NONE) {
        return MQ_CCORE_NONE;
    }
    if (core->entries[slot].phase == MQ_CCORE_CALL && !is_passing(code)) {
        mq_ccore_drop(core, slot);
        return slot;
    }
    schedule(core, slot, retry_due(core, now_ms, retry_ms));
    return MQ_CCORE_NONE;
}

/* Time of the next resend: 1 s after the first send, then full jitter below twice as long each
 * time, never at once. */
static int64_t resend_due(mq_ccore *core, uint32_t tries, int64_t now_ms)
{
    if (tries <= 1) {
        return now_ms + MQ_CCORE_RESEND_MS;
    }
    uint64_t most = (uint64_t)MQ_CCORE_RESEND_MS << (tries - 1 < 5 ? tries - 1 : 5);
    most = most > MQ_CCORE_RESEND_MAX_MS ? MQ_CCORE_RESEND_MAX_MS : most;
    return now_ms + MQ_CCORE_RESEND_MS / 4 + (int64_t)mq_prng_below(&core->prng, most);
}

static void end_action(mq_ccore *core, uint32_t slot, mq_code code, mq_ccore_action *out)
{
    *out = (mq_ccore_action){
        .what = MQ_CCORE_END, .slot = slot, .sends = core->entries[slot].sends, .code = code};
    mq_ccore_drop(core, slot);
}

static void submit_action(mq_ccore *core, int64_t now_ms, uint32_t slot, mq_ccore_action *out)
{
    mq_ccore_entry *entry = &core->entries[slot];
    entry->tries++;
    entry->sends++;
    schedule(core, slot, resend_due(core, entry->tries, now_ms));
    *out = (mq_ccore_action){.what = MQ_CCORE_SUBMIT, .slot = slot, .is_solo = entry->is_solo};
}

/* The slot's time has come. */
static void due_action(mq_ccore *core, int64_t now_ms, uint32_t slot, mq_ccore_action *out)
{
    mq_ccore_entry *entry = entry_of(core, slot);
    if (entry->refused != MQ_OK || now_ms >= entry->give_up_ms) {
        end_action(core, slot, entry->refused != MQ_OK ? entry->refused : MQ_E_TIMEOUT, out);
        return;
    }
    MQ_ASSERT(core->is_linked);
    if (entry->phase == MQ_CCORE_SENT) {
        submit_action(core, now_ms, slot, out);
        return;
    }
    entry->tries++;
    bool is_call = entry->phase == MQ_CCORE_CALL;
    *out = (mq_ccore_action){.what = is_call ? MQ_CCORE_SEND : MQ_CCORE_ASK,
                             .slot = slot,
                             .rid = rid_of(core, slot),
                             .wants_watch = entry->is_watched,
                             .cancel = entry->cancel};
    schedule(core, slot, resend_due(core, entry->tries, now_ms));
}

static bool silence_is_over(mq_ccore *core, int64_t now_ms, mq_ccore_action *out)
{
    if (now_ms >= core->silent_due_ms) {
        core->silent_due_ms = now_ms + MQ_CCORE_SILENT_MS;
        core->silent_count++;
        core->wants_hello = core->is_linked; /* any answer will do */
        /* Without a link there is nothing to wait for: the next broker may be there. */
        if (core->silent_count >= MQ_CCORE_SILENT_MAX || !core->is_linked) {
            mq_ccore_unlinked(core, now_ms);
            core->silent_count = 0;
            core->silent_due_ms = now_ms + MQ_CCORE_SILENT_MS;
            *out = (mq_ccore_action){.what = MQ_CCORE_ROTATE};
            return true;
        }
    }
    return false;
}

bool mq_ccore_next(mq_ccore *core, int64_t now_ms, mq_ccore_action *out)
{
    if (silence_is_over(core, now_ms, out)) {
        return true;
    }
    if (core->wants_hello) {
        core->wants_hello = false;
        *out = (mq_ccore_action){.what = MQ_CCORE_HELLO};
        return true;
    }
    const mq_heap_entry *top = mq_heap_top(&core->timers);
    if (top != NULL && top->key <= now_ms) {
        due_action(core, now_ms, top->id, out);
        return true;
    }
    if (may_submit(core)) {
        uint32_t slot = core->waiting_head;
        set_phase(core, slot, MQ_CCORE_SENT);
        submit_action(core, now_ms, slot, out);
        return true;
    }
    return false;
}

int64_t mq_ccore_deadline(const mq_ccore *core)
{
    if (core->wants_hello || may_submit(core)) {
        return 0;
    }
    const mq_heap_entry *top = mq_heap_top(&core->timers);
    return mq_min_i64(core->silent_due_ms, top == NULL ? INT64_MAX : top->key);
}

uint32_t mq_ccore_find(const mq_ccore *core, mq_span id)
{
    uint32_t slot = mq_map_find(&core->ids, id);
    return slot == MQ_MAP_NONE ? MQ_CCORE_NONE : slot;
}

uint32_t mq_ccore_count(const mq_ccore *core)
{
    return core->capacity - core->free_count;
}

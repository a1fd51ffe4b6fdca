/* The in-memory model behind store.h: answers wait in a queue until process, so that callers meet
 * the same order of things as with Redis. It must know neither Redis nor what records mean. */
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/base/map.h"
#include "shared/store/batch.h"
#include "shared/store/memory.h"

typedef struct field {
    mq_span name;
    mq_span value;
} field;

/* One answer on its way. Everything it points to is in its arena. */
typedef struct answer {
    struct answer *next;
    mq_arena arena;
    mq_store_on_owner *on_owner; /* exactly one of the five is set */
    mq_store_on_replicas *on_replicas;
    mq_store_on_commit *on_commit;
    mq_store_on_field *on_field;
    mq_store_on_job *on_job;
    void *arg;
    mq_error err; /* code MQ_OK: no error */
    mq_store_owner owner;
    mq_store_reply reply;
    uint32_t replicas;
    field *fields;
    uint32_t field_count;
    uint32_t field_capacity;
    mq_span record;
    mq_span result;
} answer;

typedef struct memory_store {
    mq_store base;
    mq_memory *disk;         /* borrowed */
    const int64_t *clock_ms; /* borrowed */
    answer *head;
    answer *last; /* of the queue; not used while it is empty */
    uint32_t commits;
    uint32_t calls;
    uint32_t fulls; /* answers FULL on their way: a commit behind them is no gap */
} memory_store;

static const char instance_text[] = "00000000-0000-4000-8000-6d656d6f7279";

mq_memory *mq_memory_new(void)
{
    mq_memory *memory = calloc(1, sizeof *memory);
    MQ_ASSERT(memory != NULL);
    return memory;
}

void mq_memory_free(mq_memory *m)
{
    if (m == NULL) {
        return;
    }
    mq_dict *dicts[] = {&m->live,     &m->req,      &m->done,     &m->buckets, &m->dead,
                        &m->dead_req, &m->registry, &m->counters, &m->events};
    for (size_t i = 0; i < sizeof dicts / sizeof dicts[0]; i++) {
        mq_dict_release(dicts[i]);
    }
    free(m);
}

void mq_memory_set_max(mq_memory *memory, uint64_t max_bytes)
{
    memory->max_bytes = max_bytes;
}

void mq_memory_set_replicas(mq_memory *memory, uint32_t count, uint64_t sequence)
{
    memory->replicas = count;
    memory->replica_sequence = sequence;
}

/* ---- the queue of answers ---- */

static memory_store *self(mq_store *store)
{
    return (memory_store *)store;
}

static answer *new_answer(memory_store *s, void *arg)
{
    answer *a = calloc(1, sizeof *a);
    MQ_ASSERT(a != NULL);
    mq_arena_init(&a->arena, SIZE_MAX / 2);
    a->arg = arg;
    a->err.code = MQ_OK;
    if (s->head == NULL) {
        s->head = a;
    } else {
        s->last->next = a;
    }
    s->last = a;
    s->calls++;
    return a;
}

static mq_span keep(answer *a, mq_span s)
{
    void *bytes = mq_arena_copy(&a->arena, s);
    MQ_ASSERT(bytes != NULL);
    return mq_span_of(bytes, s.len);
}

static void add_field(answer *a, mq_span name, mq_span value)
{
    if (a->field_count == a->field_capacity) {
        uint32_t capacity = a->field_capacity * 2 + 16;
        a->fields = realloc(a->fields, sizeof *a->fields * capacity);
        MQ_ASSERT(a->fields != NULL);
        a->field_capacity = capacity;
    }
    a->fields[a->field_count++] = (field){keep(a, name), keep(a, value)};
}

static void deliver_fields(answer *a)
{
    for (uint32_t i = 0; i < a->field_count && a->err.code == MQ_OK; i++) {
        a->on_field(a->arg, MQ_OK, a->fields[i].name, a->fields[i].value, NULL);
    }
    a->on_field(a->arg, a->err.code, (mq_span){0}, (mq_span){0}, &a->err);
}

static void deliver(memory_store *s, answer *a)
{
    s->head = a->next;
    s->calls--;
    if (a->on_commit != NULL) {
        s->commits--;
        s->fulls -= a->reply.verdict == MQ_STORE_FULL;
        a->on_commit(a->arg, &a->reply);
    } else if (a->on_owner != NULL) {
        a->on_owner(a->arg, a->err.code, &a->owner, &a->err);
    } else if (a->on_replicas != NULL) {
        a->on_replicas(a->arg, MQ_OK, a->reply.sequence, a->replicas, &a->err);
    } else if (a->on_job != NULL) {
        a->on_job(a->arg, a->err.code, a->record, a->result, &a->err);
    } else {
        deliver_fields(a);
    }
    free(a->fields);
    mq_arena_release(&a->arena);
    free(a);
}

static mq_code may_call(const memory_store *s, mq_error *err)
{
    if (s->calls >= MQ_STORE_CALLS_MAX) {
        return mq_fail(err, MQ_E_BUSY, "store: %d calls are under way, the most there may be",
                       MQ_STORE_CALLS_MAX);
    }
    return MQ_OK;
}

/* ---- ownership ---- */

static void fill_owner(const memory_store *s, answer *a, bool is_ours)
{
    const mq_memory *m = s->disk;
    mq_store_owner *o = &a->owner;
    *o = (mq_store_owner){.epoch = m->epoch,
                          .sequence = m->sequence,
                          .is_ours = is_ours,
                          .until_ms = m->until_ms,
                          .now_ms = *s->clock_ms,
                          .used_bytes = mq_memory_used(m),
                          .max_bytes = m->max_bytes,
                          .replicas = m->replicas};
    memcpy(o->owner, m->owner, sizeof o->owner);
    memcpy(o->endpoint, m->endpoint, sizeof o->endpoint);
    memcpy(o->lineage, m->lineage, sizeof o->lineage);
    if (m->has_instance) {
        memcpy(o->instance, instance_text, sizeof instance_text);
    }
}

/* A takeover's id; of who, when and what was before instead of chance: a model lives the same life
 * again. */
static void add_to_lineage(mq_memory *m, mq_span owner, int64_t now_ms)
{
    char before[MQ_LINEAGE_SIZE];
    uint64_t id = mq_hash64(mq_str(m->lineage), (uint64_t)now_ms);
    id = mq_hash64(owner, id ^ m->epoch);
    memcpy(before, m->lineage, sizeof before);
    snprintf(m->lineage, sizeof m->lineage, "%016llx%s%.*s", (unsigned long long)id,
             before[0] == '\0' ? "" : ".", MQ_LINEAGE_SIZE - 1 - MQ_LINEAGE_ID_SIZE, before);
}

/* Whether the caller holds the shard afterwards; the same rule as lua/owner.lua. */
static bool take(mq_memory *m, mq_span owner, mq_span endpoint, int64_t now_ms, int64_t ttl_ms,
                 bool is_takeover, const char *seen)
{
    if (strstr(m->lineage, seen) == NULL) {
        return false;
    }
    bool is_mine = m->owner[0] != '\0' && mq_span_is(owner, m->owner);
    bool is_held = m->owner[0] != '\0' && m->until_ms > now_ms;
    if (!is_mine && (is_held || !is_takeover)) {
        return false;
    }
    if (is_takeover) {
        m->epoch++;
        add_to_lineage(m, owner, now_ms);
    }
    m->until_ms = now_ms + ttl_ms;
    mq_span_copy(owner, m->owner, sizeof m->owner);
    mq_span_copy(endpoint, m->endpoint, sizeof m->endpoint);
    return true;
}

static mq_code acquire(mq_store *store, mq_span owner, mq_span endpoint, int64_t ttl_ms,
                       bool is_takeover, bool may_init, mq_span seen, mq_store_on_owner *callback,
                       void *arg, mq_error *err)
{
    memory_store *s = self(store);
    char id[MQ_LINEAGE_ID_SIZE];
    MQ_ASSERT(mq_span_copy(seen, id, sizeof id));
    mq_code code = mq_owner_check(owner, endpoint, ttl_ms, err);
    if (code == MQ_OK) {
        code = may_call(s, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    answer *a = new_answer(s, arg);
    a->on_owner = callback;
    bool is_ours = false;
    if (!s->disk->has_instance && !may_init) {
        mq_fail(&a->err, MQ_E_NOT_FOUND,
                "store: it is empty and this broker may not initialise it");
    } else {
        s->disk->has_instance = true;
        is_ours = take(s->disk, owner, endpoint, *s->clock_ms, ttl_ms, is_takeover, id);
    }
    fill_owner(s, a, is_ours);
    return MQ_OK;
}

static mq_code release(mq_store *store, uint64_t epoch, mq_store_on_owner *callback, void *arg,
                       mq_error *err)
{
    memory_store *s = self(store);
    mq_code code = may_call(s, err);
    if (code != MQ_OK) {
        return code;
    }
    answer *a = new_answer(s, arg);
    a->on_owner = callback;
    if (s->disk->epoch == epoch && s->disk->owner[0] != '\0') {
        s->disk->owner[0] = '\0';
        s->disk->endpoint[0] = '\0';
        s->disk->until_ms = 0;
    } else {
        mq_fail(&a->err, MQ_E_STALE, "store: epoch %llu does not own the shard",
                (unsigned long long)epoch);
    }
    fill_owner(s, a, false);
    return MQ_OK;
}

static mq_code replicas(mq_store *store, uint32_t enough, int64_t wait_ms,
                        mq_store_on_replicas *callback, void *arg, mq_error *err)
{
    memory_store *s = self(store);
    if (enough < 1 || wait_ms < 1 || wait_ms > MQ_STORE_WAIT_MS_MAX) {
        return mq_fail(err, MQ_E_ARG, "replicas: at least 1, for 1 to %d ms", MQ_STORE_WAIT_MS_MAX);
    }
    mq_code code = may_call(s, err);
    if (code == MQ_OK) {
        answer *a = new_answer(s, arg);
        a->on_replicas = callback;
        a->reply.sequence = s->disk->sequence;
        a->replicas = s->disk->replica_sequence >= s->disk->sequence ? s->disk->replicas : 0;
    }
    return code;
}

/* ---- commit ---- */

static mq_code commit(mq_store *store, const mq_store_batch *batch, mq_store_on_commit *callback,
                      void *arg, mq_error *err)
{
    memory_store *s = self(store);
    mq_code code = mq_batch_check(batch, err);
    if (code != MQ_OK) {
        return code;
    }
    if (s->commits >= MQ_STORE_INFLIGHT_MAX) {
        return mq_fail(err, MQ_E_BUSY, "store: %d commits are under way, the most there may be",
                       MQ_STORE_INFLIGHT_MAX);
    }
    answer *a = new_answer(s, arg);
    a->on_commit = callback;
    a->reply.sequence = batch->sequence;
    mq_memory_apply(s->disk, batch, *s->clock_ms, &a->arena, &a->reply);
    if (a->reply.verdict == MQ_STORE_GAP && s->fulls > 0) {
        a->reply.verdict = MQ_STORE_FULL;
    }
    s->fulls += a->reply.verdict == MQ_STORE_FULL;
    s->commits++;
    return MQ_OK;
}

/* ---- reading ---- */

static mq_code segments(mq_store *store, mq_store_on_field *callback, void *arg, mq_error *err)
{
    memory_store *s = self(store);
    mq_code code = may_call(s, err);
    if (code != MQ_OK) {
        return code;
    }
    answer *a = new_answer(s, arg);
    a->on_field = callback;
    mq_dict seen = {0};
    for (uint32_t i = 0; i < s->disk->live.count; i++) {
        char text[24];
        snprintf(text, sizeof text, "%llu", (unsigned long long)s->disk->live.entries[i].extra);
        if (mq_dict_find(&seen, mq_str(text)) == NULL) {
            mq_dict_put(&seen, mq_str(text), (mq_span){0}, 0);
            add_field(a, mq_str(text), (mq_span){0});
        }
    }
    mq_dict_release(&seen);
    return MQ_OK;
}

static void scan_counters(answer *a, const mq_dict *dict)
{
    for (uint32_t i = 0; i < dict->count; i++) {
        char text[24];
        snprintf(text, sizeof text, "%lld", (long long)dict->entries[i].extra);
        add_field(a, dict->entries[i].key, mq_str(text));
    }
}

static void scan_events(answer *a, const mq_memory *m)
{
    for (uint64_t n = m->event_count; n > 0 && m->event_count - n < MQ_STORE_EVENTS_SCAN; n--) {
        uint64_t number = n - 1;
        const mq_dict_entry *e = mq_dict_find(&m->events, mq_span_of(&number, sizeof number));
        MQ_ASSERT(e != NULL);
        char text[24];
        snprintf(text, sizeof text, "%lld", (long long)e->extra);
        add_field(a, mq_str(text), e->value);
    }
}

static void scan_dict(answer *a, const mq_dict *dict)
{
    for (uint32_t i = 0; i < dict->count; i++) {
        add_field(a, dict->entries[i].key, dict->entries[i].value);
    }
}

static mq_code scan(mq_store *store, mq_store_part part, uint64_t segment,
                    mq_store_on_field *callback, void *arg, mq_error *err)
{
    memory_store *s = self(store);
    mq_code code = may_call(s, err);
    if (code != MQ_OK) {
        return code;
    }
    answer *a = new_answer(s, arg);
    a->on_field = callback;
    const mq_memory *m = s->disk;
    switch (part) {
    case MQ_PART_LIVE:
        for (uint32_t i = 0; i < m->live.count; i++) {
            if (m->live.entries[i].extra == segment) {
                add_field(a, m->live.entries[i].key, m->live.entries[i].value);
            }
        }
        break;
    case MQ_PART_REQ:
        for (uint32_t i = 0; i < m->req.count; i++) {
            mq_span body = m->req.entries[i].value;
            body.len = body.len > MQ_STORE_INLINE_MAX ? 0 : body.len;
            add_field(a, m->req.entries[i].key, body);
        }
        break;
    case MQ_PART_DEAD:
        for (uint32_t i = 0; i < m->dead.count; i++) {
            const mq_dict_entry *e = &m->dead.entries[i];
            add_field(a, e->key, mq_span_of(e->value.data, (size_t)e->extra));
        }
        break;
    case MQ_PART_REGISTRY:
        scan_dict(a, &m->registry);
        break;
    case MQ_PART_COUNTERS:
        scan_counters(a, &m->counters);
        break;
    case MQ_PART_EVENTS:
        scan_events(a, m);
        break;
    }
    return MQ_OK;
}

static mq_code bodies(mq_store *store, const mq_span *ids, uint32_t count,
                      mq_store_on_field *callback, void *arg, mq_error *err)
{
    memory_store *s = self(store);
    mq_code code = mq_bodies_check(ids, count, err);
    if (code == MQ_OK) {
        code = may_call(s, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    answer *a = new_answer(s, arg);
    a->on_field = callback;
    for (uint32_t i = 0; i < count; i++) {
        const mq_dict_entry *e = mq_dict_find(&s->disk->req, ids[i]);
        if (e != NULL) {
            add_field(a, ids[i], e->value);
        }
    }
    return MQ_OK;
}

static mq_code job(mq_store *store, mq_span id, mq_store_on_job *callback, void *arg, mq_error *err)
{
    memory_store *s = self(store);
    mq_code code = mq_bodies_check(&id, 1, err);
    if (code == MQ_OK) {
        code = may_call(s, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    answer *a = new_answer(s, arg);
    a->on_job = callback;
    const mq_dict_entry *e = mq_dict_find(&s->disk->live, id);
    if (e != NULL) {
        a->record = keep(a, e->value);
        return MQ_OK;
    }
    e = mq_memory_find_done(s->disk, id, *s->clock_ms);
    if (e == NULL) {
        e = mq_dict_find(&s->disk->dead, id);
    }
    if (e == NULL) {
        mq_fail(&a->err, MQ_E_NOT_FOUND, "no job has the id %.*s", MQ_SPAN_ARG(id));
        return MQ_OK;
    }
    mq_span both = keep(a, e->value);
    a->record = mq_span_of(both.data, (size_t)e->extra);
    a->result = mq_span_of(both.data + e->extra, both.len - (size_t)e->extra);
    return MQ_OK;
}

/* ---- the event loop's side ---- */

static int no_fd(mq_store *store)
{
    (void)store;
    return -1;
}

static short no_events(mq_store *store)
{
    (void)store;
    return 0;
}

static void process(mq_store *store, short revents, int64_t now_ms)
{
    (void)revents;
    (void)now_ms;
    memory_store *s = self(store);
    /* Answers to calls that the callbacks make come with the next process. */
    for (uint32_t waiting = s->calls; waiting > 0; waiting--) {
        deliver(s, s->head);
    }
}

static int64_t deadline(mq_store *store)
{
    return self(store)->head != NULL ? 0 : INT64_MAX;
}

static bool is_connected(mq_store *store)
{
    (void)store;
    return true;
}

static void free_store(mq_store *store)
{
    memory_store *s = self(store);
    while (s->head != NULL) {
        answer *a = s->head;
        mq_fail(&a->err, MQ_E_CANCELLED, "store: closed before its answer was read");
        a->owner.is_ours = false;
        s->fulls -= a->on_commit != NULL && a->reply.verdict == MQ_STORE_FULL;
        a->reply = (mq_store_reply){
            .verdict = MQ_STORE_FAILED, .sequence = a->reply.sequence, .err = a->err};
        deliver(s, a);
    }
    free(s);
}

static void add_number(answer *a, const char *name, uint64_t number)
{
    char text[24];
    int len = snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    add_field(a, mq_str(name), mq_span_of(text, (size_t)len));
}

static mq_code trim(mq_store *store, uint64_t epoch, uint64_t minute, mq_store_trim mode,
                    mq_store_on_field *callback, void *arg, mq_error *err)
{
    memory_store *s = self(store);
    mq_code code = may_call(s, err);
    if (code != MQ_OK) {
        return code;
    }
    answer *a = new_answer(s, arg);
    a->on_field = callback;
    if (epoch != s->disk->epoch) {
        mq_fail(&a->err, MQ_E_STALE, "store: epoch %llu does not own the shard",
                (unsigned long long)epoch);
        return MQ_OK;
    }
    bool is_there = false;
    add_number(a, "freed", mq_memory_trim(s->disk, minute, mode, *s->clock_ms, &is_there));
    add_number(a, "there", is_there);
    return MQ_OK;
}

static const mq_store_ops ops = {
    .acquire = acquire,
    .release = release,
    .replicas = replicas,
    .commit = commit,
    .segments = segments,
    .scan = scan,
    .bodies = bodies,
    .job = job,
    .trim = trim,
    .fd = no_fd,
    .events = no_events,
    .process = process,
    .deadline = deadline,
    .is_connected = is_connected,
    .free = free_store,
};

mq_code mq_store_memory_new(mq_store **out, mq_memory *memory, const int64_t *clock_ms,
                            mq_error *err)
{
    memory_store *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a store");
    }
    s->base.ops = &ops;
    s->disk = memory;
    s->clock_ms = clock_ms;
    *out = &s->base;
    return MQ_OK;
}

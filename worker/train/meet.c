/* What happens when a roster begins: members say what they hold and become equal. Nobody votes: a
 * state is a function of (manifest, step), so the greatest step is simply the one with the least
 * left to do, and any copy of it will do. */
#include "shared/base/assert.h"
#include "worker/train/train.h"

enum { MEET_PATIENCE_MS = 15000 /* a new member may still be fetching its data */ };

typedef struct hello {
    char manifest[MQ_SHA256_HEX];
    char fingerprint[MQ_SHA256_HEX];
    uint8_t digest[MQ_SHA256_BYTES]; /* of the state held */
    uint8_t padding[6];
    uint64_t step;
} hello;

_Static_assert(sizeof(hello) == 2 * MQ_SHA256_HEX + MQ_SHA256_BYTES + 6 + 8, "no hidden padding");

static mq_code swap_hellos(mq_trainer *t, mq_link *link, hello *all, mq_error *err)
{
    const mq_roster *r = &link->roster;
    hello *own = &all[r->self];
    memcpy(own->manifest, t->m.hash, sizeof own->manifest);
    memcpy(own->fingerprint, t->fingerprint, sizeof own->fingerprint);
    own->step = t->state.record.step;
    mq_state_digest(&t->state, own->digest);
    mq_code code = MQ_OK;
    for (uint32_t i = 0; i < r->count && code == MQ_OK; i++) {
        if (i != r->self) {
            code = mq_link_send(link, &(mq_parcel){i, MQ_PARCEL_HELLO, 0, 0},
                                mq_span_of(own, sizeof *own), err);
        }
    }
    for (uint32_t i = 0; i < r->count && code == MQ_OK; i++) {
        if (i != r->self) {
            code = mq_link_receive(link, &(mq_parcel){i, MQ_PARCEL_HELLO, 0, 0}, &all[i],
                                   sizeof all[i], err);
        }
    }
    return code;
}

static mq_code compare(const mq_roster *r, const hello *all, uint32_t source, mq_error *err)
{
    const hello *own = &all[r->self];
    for (uint32_t i = 0; i < r->count; i++) {
        if (memcmp(all[i].manifest, own->manifest, sizeof own->manifest) != 0) {
            return mq_fail(err, MQ_E_CONFLICT,
                           "data: members resolved the manifest differently (seats %u and %u); "
                           "name dataset and model with their versions",
                           r->members[i].seat, r->members[r->self].seat);
        }
        if (memcmp(all[i].fingerprint, own->fingerprint, sizeof own->fingerprint) != 0) {
            return mq_fail(err, MQ_E_CONFLICT,
                           "fingerprint: seats %u and %u compute different bits (%.12s, %.12s); "
                           "only workers of one numeric class can share a gang",
                           r->members[i].seat, r->members[r->self].seat, all[i].fingerprint,
                           own->fingerprint);
        }
        if (all[i].step == all[source].step &&
            memcmp(all[i].digest, all[source].digest, sizeof own->digest) != 0) {
            return mq_fail(err, MQ_E_CONFLICT,
                           "state: seats %u and %u differ at step %llu; one of them computed "
                           "wrongly",
                           r->members[i].seat, r->members[source].seat,
                           (unsigned long long)all[i].step);
        }
    }
    return MQ_OK;
}

/* The runs of bytes that a state is: the record, then its vectors. */
static void *part_of(mq_state *state, uint32_t part, size_t *bytes)
{
    *bytes = part == 0 ? sizeof state->record : state->count * sizeof(float);
    return part == 0 ? (void *)&state->record : (void *)state->vectors[part - 1];
}

static mq_code give_state(mq_trainer *t, mq_link *link, uint32_t to, mq_error *err)
{
    mq_code code = MQ_OK;
    for (uint32_t part = 0; part <= t->state.vector_count && code == MQ_OK; part++) {
        size_t bytes;
        const void *from = part_of(&t->state, part, &bytes);
        code = mq_link_send(link, &(mq_parcel){to, MQ_PARCEL_STATE, part, 0},
                            mq_span_of(from, bytes), err);
    }
    return code;
}

static mq_code take_state(mq_trainer *t, mq_link *link, uint32_t from, const hello *expected,
                          mq_error *err)
{
    mq_code code = MQ_OK;
    t->is_whole = false;
    for (uint32_t part = 0; part <= t->state.vector_count && code == MQ_OK; part++) {
        size_t bytes;
        void *to = part_of(&t->state, part, &bytes);
        code = mq_link_receive(link, &(mq_parcel){from, MQ_PARCEL_STATE, part, 0}, to, bytes, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    uint8_t digest[MQ_SHA256_BYTES];
    mq_state_digest(&t->state, digest);
    if (memcmp(digest, expected->digest, sizeof digest) != 0) {
        return mq_fail(err, MQ_E_CORRUPT, "state: the copy from seat %u is damaged",
                       link->roster.members[from].seat);
    }
    t->is_whole = true;
    return MQ_OK;
}

mq_code mq_trainer_meet(mq_trainer *t, mq_link *link, mq_error *err)
{
    const mq_roster *r = &link->roster;
    MQ_ASSERT(t->is_whole);
    hello *all = mq_arena_new(&t->roster, hello, r->count);
    if (all == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "memory: no room for %u members", r->count);
    }
    link->patience_ms = MEET_PATIENCE_MS;
    mq_code code = swap_hellos(t, link, all, err);
    uint32_t source = 0;
    for (uint32_t i = 1; i < r->count; i++) {
        source = all[i].step > all[source].step ? i : source;
    }
    code = code != MQ_OK ? code : compare(r, all, source, err);
    for (uint32_t i = 0; i < r->count && code == MQ_OK && source == r->self; i++) {
        if (all[i].step < all[source].step) {
            code = give_state(t, link, i, err);
        }
    }
    if (code == MQ_OK && all[r->self].step < all[source].step) {
        code = take_state(t, link, source, &all[source], err);
    }
    link->patience_ms = MQ_LINK_LEASE_MS;
    if (t->state.record.workers_seen < r->count) {
        t->state.record.workers_seen = r->count;
    }
    return code;
}

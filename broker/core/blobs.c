/* Which blobs the registry and the checkpoints of live jobs name, so that the others can be let go.
 * It must not know what a blob holds. */
#include "broker/core/state.h"

static uint32_t blob_hash(const mq_core *core, uint32_t value)
{
    return mq_id_hash(mq_span_of(core->blobs[value].hash, MQ_HASH_LEN));
}

static bool blob_is(const mq_core *core, uint32_t value, const void *key)
{
    const mq_span *hash = key;
    return memcmp(core->blobs[value].hash, hash->data, MQ_HASH_LEN) == 0;
}

void mq_blobs_init(mq_core *core)
{
    core->blob_index.hash_of = blob_hash;
}

bool mq_blob_name_ok(mq_span hash)
{
    bool is_ok = hash.len == MQ_HASH_LEN;
    for (size_t i = 0; i < hash.len && is_ok; i++) {
        uint8_t c = hash.data[i];
        is_ok = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    }
    return is_ok;
}

static uint32_t find(const mq_core *core, mq_span hash)
{
    if (hash.len != MQ_HASH_LEN) {
        return MQ_NONE;
    }
    return mq_index_find(core, &core->blob_index, mq_id_hash(hash), blob_is, &hash);
}

/* A full table costs only this: the blob is never let go again (its count is never seen at 0). */
void mq_blob_hold(mq_core *core, mq_span hash)
{
    uint32_t no = find(core, hash);
    if (no == MQ_NONE) {
        no = hash.len == MQ_HASH_LEN ? MQ_TAKE(core, blob, blobs, mq_blob) : MQ_NONE;
        if (no == MQ_NONE) {
            return;
        }
        core->blobs[no] = (mq_blob){.refs = 0};
        memcpy(core->blobs[no].hash, hash.data, MQ_HASH_LEN);
        mq_index_put(core, &core->blob_index, no);
    }
    core->blobs[no].refs++;
}

uint32_t mq_blob_drop(mq_core *core, mq_span hash)
{
    uint32_t no = find(core, hash);
    if (no == MQ_NONE) {
        return UINT32_MAX;
    }
    uint32_t left = --core->blobs[no].refs;
    if (left == 0) {
        mq_index_remove(core, &core->blob_index, no);
        core->blobs[no].next_free = mq_slots_give(&core->blob_slots, no);
    }
    return left;
}

bool mq_blob_is_held(const mq_core *core, mq_span hash)
{
    /* A full table may have lost count: then everything counts as held. */
    return find(core, hash) != MQ_NONE || !mq_slots_has(&core->blob_slots, 1);
}

/* Inside of the in-memory model: its "disk" and the commit applied to it. Private to shared/store.
 */
#ifndef MQ_STORE_MEMORY_H
#define MQ_STORE_MEMORY_H

#include "shared/base/arena.h"
#include "shared/store/dict.h"
#include "shared/store/store.h"

struct mq_memory {
    bool has_instance;
    char owner[64];
    char endpoint[128];
    char lineage[MQ_LINEAGE_SIZE];
    uint64_t epoch;
    uint64_t sequence;
    int64_t until_ms;
    uint64_t max_bytes;
    uint32_t replicas; /* that hold the commits up to replica_sequence */
    uint64_t replica_sequence;
    mq_dict live;    /* id -> record; extra = segment */
    mq_dict req;     /* id -> body */
    mq_dict done;    /* id -> record + result; extra = bytes of the record */
    mq_dict buckets; /* minute (8 bytes) -> nothing; extra = when it expires, in ms */
    mq_dict dead;    /* id -> record + result; extra = bytes of the record */
    mq_dict dead_req;
    mq_dict registry;
    mq_dict counters; /* name -> nothing; extra = the count's bits */
    mq_dict events;   /* number (8 bytes) -> entry; extra = time in ms; the newest 256 */
    uint64_t event_count;
};

/* Bytes that count against max_bytes. */
uint64_t mq_memory_used(const mq_memory *memory);

/* Entry of done when its bucket has not expired, else NULL. */
mq_dict_entry *mq_memory_find_done(const mq_memory *memory, mq_span id, int64_t now_ms);

/* The trim of store.h; epoch has been checked. Returns the bytes freed. */
uint64_t mq_memory_trim(mq_memory *memory, uint64_t minute, mq_store_trim mode, int64_t now_ms,
                        bool *is_there);

/* Applies a batch that mq_batch_check has accepted; fills verdict, dups (from arena) and
 * ignored_count. */
void mq_memory_apply(mq_memory *memory, const mq_store_batch *batch, int64_t now_ms,
                     mq_arena *arena, mq_store_reply *reply);

#endif

/* Growing table from owned keys to owned bytes, for the in-memory model. Walks go by entry index,
 * whose order depends only on the calls made, never on hashing. Not thread-safe. */
#ifndef MQ_STORE_DICT_H
#define MQ_STORE_DICT_H

#include "shared/base/map.h"

typedef struct mq_dict_entry {
    mq_span key;                      /* over key_bytes */
    mq_span value;                    /* over value_bytes */
    uint64_t extra;                   /* the user's: a number that goes with it */
    uint8_t *key_bytes, *value_bytes; /* owned */
} mq_dict_entry;

typedef struct mq_dict {
    mq_map map; /* key -> index into entries */
    mq_dict_entry *entries;
    uint32_t count;
    uint32_t capacity;
    uint64_t bytes; /* of keys and values */
} mq_dict;

/* An all-zero dict is empty and ready. Out of memory stops the process: the model is for tests. */
void mq_dict_release(mq_dict *dict);

/* Entry of key or NULL; borrowed until the next change. */
mq_dict_entry *mq_dict_find(const mq_dict *dict, mq_span key);

/* Inserts or replaces; copies key and value. */
void mq_dict_put(mq_dict *dict, mq_span key, mq_span value, uint64_t extra);

/* True when it was in. The last entry takes its place. */
bool mq_dict_remove(mq_dict *dict, mq_span key);

#endif

/* Answers of several shards as one answer: rows of merge.def applied to JSON objects. It must not
 * know how they were asked.
 *
 * A merged answer has, beside its own fields, `"shards"`: how many there are, and `"missing"`:
 * [{"shard", "why"}] for those whose answer is not in it. A merged status also has `"owners"`: each
 * shard's own `broker` object. Rows of lists without a key have a field `shard`. */
#ifndef MQ_CLIENT_MERGE_H
#define MQ_CLIENT_MERGE_H

#include <stdint.h>

#include "client/src/client.h"

enum {
    MQ_CURSOR_SIZE = 64, /* of one shard, with its NUL */
    MQ_CURSORS_SIZE = MQ_ULID_SHARDS_MAX * MQ_CURSOR_SIZE,
};

/* One shard's part: its answer, or why there is none. Borrowed. */
typedef struct mq_merge_part {
    const char *json; /* NULL: there is none */
    const char *why;
    const char *after; /* where its list went on; "" = from its beginning, "end" = nowhere */
} mq_merge_part;

/* Has merge.def rows for this question? */
bool mq_merge_knows(const char *what);

/* limit: rows wanted of lists without a key, 0 = 100. *out: owned, NUL-terminated. Parts stand at
 * their shard's number; at least one has an answer, else MQ_E_ARG. MQ_E_FORMAT: an answer is no
 * JSON object. */
MQ_MUST_USE mq_code mq_merge(const char *what, const mq_merge_part *parts, uint32_t shards,
                             uint32_t limit, char **out, mq_error *err);

/* "0:POS,3:POS" (from `next` of a merged answer) into each shard's own position; shards it does not
 * name begin at the beginning. MQ_E_ARG when it is not of that form or names a shard above. */
MQ_MUST_USE mq_code mq_merge_cursors(const char *text, uint32_t shards,
                                     char out[MQ_ULID_SHARDS_MAX][MQ_CURSOR_SIZE], mq_error *err);

#endif

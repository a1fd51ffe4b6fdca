/* Values that are not tensors, and copies of any value. */
#include "shared/base/assert.h"
#include "worker/ops/kit.h"

enum { DEPTH_MAX = 4 }; /* sequences hold tensors, or sequences within optionals */

size_t mq_value_item_bytes(mq_dtype dtype)
{
    return dtype == MQ_DT_STR        ? sizeof(mq_span)
           : dtype == MQ_DT_SEQUENCE ? sizeof(mq_sequence)
                                     : mq_dtype_bytes(dtype);
}

static bool copy(mq_arena *arena, const mq_tensor *from, mq_tensor *to, int depth);

static bool copy_items(mq_arena *arena, mq_sequence *sequence, int depth)
{
    mq_tensor *items = mq_arena_new(arena, mq_tensor, sequence->count + 1);
    if (items == NULL || depth == DEPTH_MAX) {
        return false;
    }
    for (size_t i = 0; i < sequence->count; i++) {
        if (!copy(arena, &sequence->items[i], &items[i], depth + 1)) {
            return false;
        }
    }
    sequence->items = items;
    return true;
}

static bool copy(mq_arena *arena, const mq_tensor *from, mq_tensor *to, int depth)
{
    *to = *from;
    to->data = mq_arena_alloc(arena, from->bytes + 1, 1); /* aligned: it may hold structs */
    if (to->data == NULL) {
        return false;
    }
    if (from->bytes > 0) {
        memcpy(to->data, from->data, from->bytes);
    }
    if (from->dtype == MQ_DT_SEQUENCE) {
        return copy_items(arena, to->data, depth);
    }
    for (size_t i = 0; from->dtype == MQ_DT_STR && i < from->bytes / sizeof(mq_span); i++) {
        mq_span *text = (mq_span *)to->data + i;
        text->data = mq_arena_copy(arena, *text);
        if (text->data == NULL && text->len > 0) {
            return false;
        }
    }
    return true;
}

bool mq_value_copy(mq_arena *arena, const mq_tensor *from, mq_tensor *to)
{
    return copy(arena, from, to, 0);
}

/* Bump allocator with a fixed ceiling: one per job, message or graph. Everything in it is freed at
 * once. Blocks are taken from the heap as needed up to the ceiling; exhaustion returns NULL, which
 * the caller turns into MQ_E_LIMIT for that job while the process lives on.
 * Not thread-safe. Memory is zeroed. Alignment is 64 bytes for requests of 64 bytes and more, else
 * 16. */
#ifndef MQ_BASE_ARENA_H
#define MQ_BASE_ARENA_H

#include <stddef.h>

#include "shared/base/span.h"

typedef struct mq_arena_block mq_arena_block;

typedef struct mq_arena {
    mq_arena_block *head; /* newest block first; owned */
    size_t used_bytes;    /* taken from the heap so far */
    size_t limit_bytes;   /* ceiling for used_bytes */
} mq_arena;

/* Prepares an empty arena that may take up to limit_bytes from the heap. Allocates nothing. */
void mq_arena_init(mq_arena *arena, size_t limit_bytes);

/* Frees every block. The arena can be used again afterwards. */
void mq_arena_release(mq_arena *arena);

/* Forgets everything but keeps one block for reuse. */
void mq_arena_reset(mq_arena *arena);

/* Zeroed bytes, or NULL at the ceiling or when count * size overflows. */
void *mq_arena_alloc(mq_arena *arena, size_t count, size_t size);

/* The same without the zeroes, for what is written as a whole or piece by piece. */
void *mq_arena_take(mq_arena *arena, size_t count, size_t size);

/* Copy of bytes or text (NUL-terminated for convenience), or NULL at the ceiling. */
void *mq_arena_copy(mq_arena *arena, mq_span s);
char *mq_arena_str(mq_arena *arena, mq_span s);
char *mq_arena_printf(mq_arena *arena, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define mq_arena_new(arena, type, count) ((type *)mq_arena_alloc((arena), (count), sizeof(type)))

#endif

/* Bump allocator; see arena.h for the rules. */
#include "shared/base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"

enum { BLOCK_BYTES_MIN = 16 * 1024, ALIGN = 64 };

struct mq_arena_block {
    mq_arena_block *next;
    size_t size; /* usable bytes after the header */
    size_t used;
    _Alignas(ALIGN) uint8_t bytes[];
};

void mq_arena_init(mq_arena *arena, size_t limit_bytes)
{
    *arena = (mq_arena){.limit_bytes = limit_bytes};
}

void mq_arena_release(mq_arena *arena)
{
    mq_arena_block *block = arena->head;
    while (block != NULL) {
        mq_arena_block *next = block->next;
        free(block);
        block = next;
    }
    arena->head = NULL;
    arena->used_bytes = 0;
}

void mq_arena_reset(mq_arena *arena)
{
    mq_arena_block *keep = arena->head;
    if (keep == NULL) {
        return;
    }
    arena->head = keep->next;
    mq_arena_release(arena);
    keep->next = NULL;
    keep->used = 0;
    arena->head = keep;
    arena->used_bytes = sizeof *keep + keep->size;
}

static mq_arena_block *grow(mq_arena *arena, size_t need)
{
    size_t size = mq_max_size(need, BLOCK_BYTES_MIN);
    if (arena->head != NULL) {
        size = mq_max_size(size, mq_min_size(arena->head->size * 2, (size_t)1 << 20));
    }
    size_t total;
    if (!mq_add_size(size, sizeof(mq_arena_block), &total) || total > SIZE_MAX - ALIGN) {
        return NULL;
    }
    if (total > arena->limit_bytes - arena->used_bytes) {
        size = need;
        total = need + sizeof(mq_arena_block);
        if (total < need || total > arena->limit_bytes - arena->used_bytes) {
            return NULL;
        }
    }
    mq_arena_block *block = aligned_alloc(ALIGN, mq_align_up(total, ALIGN));
    if (block == NULL) {
        return NULL;
    }
    *block = (mq_arena_block){.next = arena->head, .size = size};
    arena->head = block;
    arena->used_bytes += total;
    return block;
}

void *mq_arena_take(mq_arena *arena, size_t count, size_t size)
{
    size_t bytes;
    if (!mq_mul_size(count, size, &bytes) || bytes > SIZE_MAX / 2) {
        return NULL;
    }
    size_t align = bytes >= ALIGN ? ALIGN : 16;
    mq_arena_block *block = arena->head;
    size_t at = block == NULL ? 0 : mq_align_up(block->used, align);
    if (block == NULL || at > block->size || bytes > block->size - at) {
        block = grow(arena, bytes);
        at = 0;
        if (block == NULL) {
            return NULL;
        }
    }
    block->used = at + bytes;
    MQ_ASSERT(block->used <= block->size);
    return block->bytes + at;
}

void *mq_arena_alloc(mq_arena *arena, size_t count, size_t size)
{
    void *p = mq_arena_take(arena, count, size);
    return p == NULL ? NULL : memset(p, 0, count * size);
}

void *mq_arena_copy(mq_arena *arena, mq_span s)
{
    void *p = mq_arena_alloc(arena, s.len, 1);
    if (p != NULL && s.len > 0) {
        memcpy(p, s.data, s.len);
    }
    return p;
}

char *mq_arena_str(mq_arena *arena, mq_span s)
{
    char *p = mq_arena_alloc(arena, s.len + 1, 1);
    if (p != NULL && s.len > 0) {
        memcpy(p, s.data, s.len);
    }
    return p;
}

char *mq_arena_printf(mq_arena *arena, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (len < 0) {
        return NULL;
    }
    char *p = mq_arena_alloc(arena, (size_t)len + 1, 1);
    if (p != NULL) {
        va_start(args, fmt);
        vsnprintf(p, (size_t)len + 1, fmt, args);
        va_end(args);
    }
    return p;
}

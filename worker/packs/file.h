/* Inside worker/packs only: one file of pieces, and the folder that holds them. */
#ifndef MQ_WORKER_PACKS_FILE_H
#define MQ_WORKER_PACKS_FILE_H

#include <limits.h>

#include "worker/packs/packs.h"

enum { MQ_PACK_PAGE = 4096, MQ_PACK_HEAD_BYTES = 256 * 1024, MQ_PACK_NAME_MAX = 64 };

typedef struct mq_pack_piece {
    mq_pack_key key;
    uint64_t at, bytes; /* in the file; at is a whole number of pages */
    uint64_t sum;       /* of its bytes */
} mq_pack_piece;

/* The first MQ_PACK_HEAD_BYTES of a file, as they lie there. */
typedef struct mq_pack_head {
    char magic[16];
    char boot[40];    /* the boot that it was written or checked in: not part of the sum */
    uint64_t time_ns; /* time of change of the file while nobody changes it */
    uint64_t sum;     /* of all below and time_ns */
    uint64_t bytes;   /* of the file */
    uint64_t count;   /* pieces */
    char class[256];
    char model[MQ_SHA256_HEX];
    mq_pack_piece pieces[MQ_PACK_PIECES_MAX];
} mq_pack_head;

typedef struct mq_pack_dir {
    char path[PATH_MAX - 128];
    char stem[MQ_PACK_NAME_MAX]; /* of the files of this model and class */
    char class[256];
    char model[MQ_SHA256_HEX];
    size_t limit_bytes;
    int64_t deadline_ms;
} mq_pack_dir;

/* Sixty-four bits of any bytes, as quick as memory is read. */
uint64_t mq_pack_sum(uint64_t sum, const void *bytes, size_t count);

/* Opens file n, checks it and maps its head (read-only; MQ_PACK_HEAD_BYTES, munmap gives it back).
 * -1: there is none, or it was wrong and is removed. */
int mq_pack_file_open(const mq_pack_dir *dir, uint32_t n, const mq_pack_head **head);

/* A new file under its temporary name; -1 when that cannot be. Only with the lock. */
int mq_pack_file_create(const mq_pack_dir *dir);

/* Writes the head and gives the file its name: number n. */
bool mq_pack_file_finish(const mq_pack_dir *dir, int fd, uint32_t n, mq_pack_head *head);
void mq_pack_file_abandon(const mq_pack_dir *dir);

/* The lock of this model and class, or -1: not within the deadline, or there is no such folder. */
int mq_pack_lock(const mq_pack_dir *dir);

/* Removes files used longest ago until bytes more fit; false: they never will. */
bool mq_pack_room(const mq_pack_dir *dir, size_t bytes);

#endif

/* Packed weights: what a model's constants become for the kernels of this machine (blocked layouts,
 * aligned copies, folded weights), made once for a host and mapped read-only by all its processes.
 *
 * A session asks for a piece by key and says how to make it:
 *
 *     const float *w = mq_packs_get(packs, arena, mq_pack_key_of(packs, source, form), bytes, fill,
 * arg);
 *
 * Found in a file: mapped, `fill` is not called. Otherwise it is filled in, written to the file
 * under construction and mapped from there in place, so that its pages are the page cache's.
 * Without a place, or when the place fails (no folder, no room, read-only), pieces are private
 * memory and all works as well.
 *
 * Files: <dir>/<32 digits of the model>-<16 digits of the class>.<n>, n below MQ_PACK_FILES_MAX;
 * mode 0600, in a folder that only its owner may write. A file is written under another name and
 * renamed when it is whole, and then never changed; later shapes that want other layouts add the
 * next n. One process at a time makes pieces of a model and class (a lock with a deadline; after
 * it, the others make private ones). Files used longest ago are removed above the limit; mapped
 * ones stay.
 *
 * The class is what decides how a piece looks beside its key: this program's build id, the CPU's
 * features, the back end, the session's options. A header carries it, its own checksum, the pieces'
 * checksums, and a stamp (this boot and the file's time of change): while the stamp holds, the file
 * is as it was written; when it does not (after a crash of the machine, an edit), all pieces are
 * checked before the first use. What is wrong is removed and made again.
 *
 * One thread an object. Pieces live until mq_packs_free. */
#ifndef MQ_WORKER_PACKS_PACKS_H
#define MQ_WORKER_PACKS_PACKS_H

#include "shared/base/arena.h"
#include "shared/base/error.h"
#include "shared/base/sha256.h"

enum {
    MQ_PACK_BYTES_MIN = 4096, /* smaller pieces come from the arena and are in no file */
    MQ_PACK_PIECES_MAX = 4096,
    MQ_PACK_FILES_MAX = 8,       /* of one model and class */
    MQ_PACK_DEADLINE_MS = 30000, /* how long another process's packing is waited for */
};
#define MQ_PACK_DIR_BYTES ((size_t)4 << 30) /* the folder's limit where nothing else is said */

typedef struct mq_packs mq_packs;

/* Where pieces are kept; texts are borrowed for the call of mq_packs_new. */
typedef struct mq_pack_place {
    const char *dir;     /* made when it is not there; NULL: private memory */
    const char *model;   /* SHA-256 of the model file, hexadecimal */
    size_t limit_bytes;  /* of the folder; 0: MQ_PACK_DIR_BYTES */
    int64_t deadline_ms; /* 0: MQ_PACK_DEADLINE_MS */
} mq_pack_place;

/* What makes two pieces the same: `owner` says which constant, `form` what becomes of it. */
typedef struct mq_pack_key {
    uint64_t owner, form;
} mq_pack_key;

/* place NULL, or without a folder: memory is private. kind: the session's part of the
 * class. bytes_max: all pieces together. NULL: no memory. */
mq_packs *mq_packs_new(const mq_pack_place *place, const char *kind, size_t bytes_max);
void mq_packs_free(mq_packs *packs);

/* The key of a constant that this model has at `source`: the same for the same address, otherwise
 * the next number. Numbers follow the order of calls, so a session asks in an order that depends on
 * the model alone (binding, folding, preparing), never on input shapes. packs may be NULL. */
mq_pack_key mq_pack_key_of(mq_packs *packs, const void *source, uint64_t form);

/* A form from numbers: sizes, layout, a letter for the kind of piece. */
uint64_t mq_pack_form(uint64_t form, uint64_t number);

/* Writes all of a piece's bytes into zeroed memory, aligned to 64; false: cannot be. */
typedef bool mq_pack_fill(void *arg, void *memory);

/* A piece, valid until mq_packs_free (from the arena: until that goes). packs NULL, or below
 * MQ_PACK_BYTES_MIN: from the arena. NULL: no memory within the limit, or fill said no. */
const void *mq_packs_get(mq_packs *packs, mq_arena *arena, mq_pack_key key, size_t bytes,
                         mq_pack_fill *fill, void *arg);

/* Ends a round of packing (after binding; after the plan for new shapes): the file under
 * construction gets its name, the lock goes. */
void mq_packs_settle(mq_packs *packs);

typedef struct mq_packs_stats {
    size_t bytes;         /* all pieces */
    size_t private_bytes; /* of them in no file */
    uint32_t found_count; /* taken from files */
    uint32_t made_count;  /* filled in by this process */
} mq_packs_stats;
void mq_packs_stats_get(const mq_packs *packs, mq_packs_stats *out);

#endif

/* Pieces of one session: found in files, or made, written and mapped in place; see packs.h. */
#include "worker/packs/packs.h"

#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/file.h"
#include "shared/base/math.h"
#include "worker/packs/file.h"

typedef struct piece {
    mq_pack_key key;
    void *at;
    size_t bytes;
    bool is_private;
} piece;

typedef struct source {
    const void *at;
    uint64_t owner;
} source;

enum { SOURCES_MAX = 1 << 14 };

struct mq_packs {
    mq_pack_dir dir;
    bool has_dir;
    size_t bytes_max;
    mq_packs_stats stats;
    uint32_t count, source_count;
    int files[MQ_PACK_FILES_MAX]; /* -1: not open */
    const mq_pack_head *heads[MQ_PACK_FILES_MAX];
    int lock_fd, new_fd; /* -1: none */
    uint64_t new_at;     /* bytes of the file under construction */
    mq_pack_head *new_head;
    piece pieces[MQ_PACK_PIECES_MAX];
    source sources[SOURCES_MAX];
};

/* --- the class --- */

static int find_build(struct dl_phdr_info *info, size_t size, void *out)
{
    (void)size;
    char *text = out;
    for (uint32_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *h = &info->dlpi_phdr[i];
        const uint8_t *note = (const uint8_t *)(uintptr_t)(info->dlpi_addr + h->p_vaddr);
        for (size_t at = 0; h->p_type == PT_NOTE && at + sizeof(ElfW(Nhdr)) <= h->p_memsz;) {
            ElfW(Nhdr) n;
            memcpy(&n, note + at, sizeof n);
            const uint8_t *id = note + at + sizeof n + mq_align_up(n.n_namesz, 4);
            for (uint32_t k = 0; n.n_type == NT_GNU_BUILD_ID && k < n.n_descsz && k < 20; k++) {
                (void)snprintf(text + 2 * k, 3, "%02x", id[k]);
            }
            at += sizeof n + mq_align_up(n.n_namesz, 4) + mq_align_up(n.n_descsz, 4);
        }
    }
    return 1; /* the first one is the program itself */
}

static void cpu_text(char *out, size_t room)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    (void)snprintf(out, room, "x86-64 %d%d%d%d%d", __builtin_cpu_supports("avx2") != 0,
                   __builtin_cpu_supports("fma") != 0, __builtin_cpu_supports("avx512f") != 0,
                   __builtin_cpu_supports("avx512bw") != 0,
                   __builtin_cpu_supports("avx512vnni") != 0);
#else
    (void)snprintf(out, room, "plain");
#endif
}

static bool set_dir(mq_pack_dir *dir, const mq_pack_place *place, const char *kind)
{
    char build[48] = "", cpu[32];
    mq_error err;
    if (place == NULL || place->dir == NULL || place->model == NULL ||
        !mq_sha256_is_hex(mq_str(place->model)) ||
        !mq_span_copy(mq_str(place->dir), dir->path, sizeof dir->path) ||
        sysconf(_SC_PAGESIZE) != MQ_PACK_PAGE) {
        return false;
    }
    (void)dl_iterate_phdr(find_build, build);
    cpu_text(cpu, sizeof cpu);
    int n = snprintf(dir->class, sizeof dir->class, "%s|%s|%s", build, cpu, kind);
    (void)snprintf(dir->stem, sizeof dir->stem, "%.32s-%016llx", place->model,
                   (unsigned long long)mq_pack_sum(1, dir->class, sizeof dir->class));
    memcpy(dir->model, place->model, MQ_SHA256_HEX);
    dir->limit_bytes = place->limit_bytes == 0 ? MQ_PACK_DIR_BYTES : place->limit_bytes;
    dir->deadline_ms = place->deadline_ms == 0 ? MQ_PACK_DEADLINE_MS : place->deadline_ms;
    return n > 0 && (size_t)n < sizeof dir->class && build[0] != '\0' &&
           mq_dir_make(dir->path, &err) == MQ_OK;
}

/* Files that appeared since the last look. */
static void open_files(mq_packs *p)
{
    for (uint32_t n = 0; n < MQ_PACK_FILES_MAX && p->has_dir; n++) {
        if (p->files[n] < 0) {
            p->files[n] = mq_pack_file_open(&p->dir, n, &p->heads[n]);
        }
    }
}

mq_packs *mq_packs_new(const mq_pack_place *place, const char *kind, size_t bytes_max)
{
    mq_packs *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return NULL;
    }
    p->bytes_max = bytes_max;
    p->lock_fd = p->new_fd = -1;
    for (uint32_t n = 0; n < MQ_PACK_FILES_MAX; n++) {
        p->files[n] = -1;
    }
    p->has_dir = set_dir(&p->dir, place, kind);
    open_files(p);
    return p;
}

void mq_packs_free(mq_packs *p)
{
    if (p == NULL) {
        return;
    }
    mq_packs_settle(p);
    for (uint32_t i = 0; i < p->count; i++) {
        (void)munmap(p->pieces[i].at, mq_align_up(p->pieces[i].bytes, MQ_PACK_PAGE));
    }
    for (uint32_t n = 0; n < MQ_PACK_FILES_MAX; n++) {
        if (p->files[n] >= 0) {
            (void)munmap((void *)(uintptr_t)p->heads[n], MQ_PACK_HEAD_BYTES);
            (void)close(p->files[n]);
        }
    }
    free(p);
}

/* --- keys --- */

uint64_t mq_pack_form(uint64_t form, uint64_t number)
{
    form = (form ^ number) * UINT64_C(0x9e3779b97f4a7c15);
    return form ^ form >> 31;
}

mq_pack_key mq_pack_key_of(mq_packs *p, const void *at, uint64_t form)
{
    if (p == NULL) {
        return (mq_pack_key){0, form};
    }
    uint64_t slot = mq_pack_form((uint64_t)(uintptr_t)at, 0) % SOURCES_MAX;
    while (p->sources[slot].at != NULL && p->sources[slot].at != at) {
        slot = (slot + 1) % SOURCES_MAX;
    }
    if (p->sources[slot].at == NULL) {
        if (p->source_count == SOURCES_MAX - 1) {
            return (mq_pack_key){0, 0}; /* kept in no file */
        }
        p->sources[slot] = (source){at, ++p->source_count};
    }
    return (mq_pack_key){p->sources[slot].owner, form};
}

/* --- pieces --- */

static bool same_key(mq_pack_key a, mq_pack_key b)
{
    return a.owner == b.owner && a.form == b.form;
}

static const void *add(mq_packs *p, mq_pack_key key, void *at, size_t bytes, bool is_private)
{
    p->pieces[p->count++] = (piece){key, at, bytes, is_private};
    p->stats.bytes += bytes;
    p->stats.private_bytes += is_private ? bytes : 0;
    return at;
}

static const void *find(mq_packs *p, mq_pack_key key, size_t bytes)
{
    for (uint32_t i = 0; i < p->count; i++) {
        if (same_key(p->pieces[i].key, key) && p->pieces[i].bytes == bytes) {
            return p->pieces[i].at;
        }
    }
    for (uint32_t n = 0; n < MQ_PACK_FILES_MAX; n++) {
        for (uint64_t i = 0; p->files[n] >= 0 && i < p->heads[n]->count; i++) {
            const mq_pack_piece *f = &p->heads[n]->pieces[i];
            if (!same_key(f->key, key) || f->bytes != bytes) {
                continue;
            }
            void *at = mmap(NULL, bytes, PROT_READ, MAP_SHARED, p->files[n], (off_t)f->at);
            if (at != MAP_FAILED) {
                p->stats.found_count++;
                return add(p, key, at, bytes, false);
            }
        }
    }
    return NULL;
}

/* Before something is made: the lock, and what others have written meanwhile. */
static void begin(mq_packs *p)
{
    if (!p->has_dir || p->lock_fd >= 0) {
        return;
    }
    p->lock_fd = mq_pack_lock(&p->dir);
    open_files(p);
    p->new_head = p->lock_fd < 0 ? NULL : calloc(1, sizeof *p->new_head);
    p->new_fd = p->new_head == NULL ? -1 : mq_pack_file_create(&p->dir);
    p->new_at = MQ_PACK_HEAD_BYTES;
    if (p->new_fd < 0) {
        p->has_dir = false; /* read-only, or somebody packs for longer than the deadline */
    }
}

/* The filled piece goes to the file and is mapped from there at the same address. */
static bool keep(mq_packs *p, mq_pack_key key, void *at, size_t bytes)
{
    size_t whole = mq_align_up(bytes, MQ_PACK_PAGE), done = 0;
    if (p->new_fd < 0 || p->new_at + whole > p->dir.limit_bytes || key.owner == 0) {
        return false;
    }
    while (done < whole) {
        ssize_t n =
            pwrite(p->new_fd, (const uint8_t *)at + done, whole - done, (off_t)(p->new_at + done));
        if (n <= 0) {
            return false;
        }
        done += (size_t)n;
    }
    mq_pack_head *h = p->new_head;
    uint64_t sum = mq_pack_sum(0, at, bytes);
    if (mmap(at, whole, PROT_READ, MAP_SHARED | MAP_FIXED, p->new_fd, (off_t)p->new_at) != at) {
        return false;
    }
    h->pieces[h->count++] = (mq_pack_piece){key, p->new_at, bytes, sum};
    p->new_at += whole;
    return true;
}

static const void *make(mq_packs *p, mq_pack_key key, size_t bytes, mq_pack_fill *fill, void *arg)
{
    size_t whole = mq_align_up(bytes, MQ_PACK_PAGE);
    void *at = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        return NULL;
    }
    if (!fill(arg, at)) {
        (void)munmap(at, whole);
        return NULL;
    }
    p->stats.made_count++;
    return add(p, key, at, bytes, !keep(p, key, at, bytes));
}

const void *mq_packs_get(mq_packs *p, mq_arena *arena, mq_pack_key key, size_t bytes,
                         mq_pack_fill *fill, void *arg)
{
    if (p == NULL || bytes < MQ_PACK_BYTES_MIN || p->count == MQ_PACK_PIECES_MAX) {
        void *at = mq_arena_alloc(arena, bytes == 0 ? 1 : bytes, 1);
        return at != NULL && fill(arg, at) ? at : NULL;
    }
    const void *found = key.owner == 0 ? NULL : find(p, key, bytes);
    if (found == NULL && (p->stats.bytes > p->bytes_max || bytes > p->bytes_max - p->stats.bytes)) {
        return NULL;
    }
    if (found == NULL) {
        begin(p);
        found = key.owner == 0 ? NULL : find(p, key, bytes); /* another has made it meanwhile */
    }
    return found != NULL ? found : make(p, key, bytes, fill, arg);
}

/* The first number that no file has. */
static uint32_t free_number(const mq_packs *p)
{
    uint32_t n = 0;
    while (n < MQ_PACK_FILES_MAX && p->files[n] >= 0) {
        n++;
    }
    return n;
}

void mq_packs_settle(mq_packs *p)
{
    if (p == NULL || p->lock_fd < 0) {
        return;
    }
    uint32_t n = free_number(p);
    bool is_kept = false;
    if (p->new_fd >= 0 && n < MQ_PACK_FILES_MAX && p->new_head->count > 0 &&
        mq_pack_room(&p->dir, p->new_at)) {
        p->new_head->bytes = p->new_at;
        is_kept = mq_pack_file_finish(&p->dir, p->new_fd, n, p->new_head);
    }
    if (p->new_fd >= 0) {
        if (!is_kept) {
            mq_pack_file_abandon(&p->dir); /* what is mapped stays until the session ends */
        }
        (void)close(p->new_fd);
    }
    free(p->new_head);
    p->new_head = NULL;
    (void)close(p->lock_fd);
    p->lock_fd = p->new_fd = -1;
    open_files(p);
}

void mq_packs_stats_get(const mq_packs *p, mq_packs_stats *out)
{
    *out = p == NULL ? (mq_packs_stats){0} : p->stats;
}

/* Files of pieces: checked, written, locked, evicted; see file.h. Knows nothing of kernels. */
#include "worker/packs/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/base/math.h"

enum { LOCK_POLL_MS = 5, DIR_FILES_MAX = 65536, TEMP_AGE_S = 3600, LANES = 8 };

_Static_assert(sizeof(mq_pack_head) <= MQ_PACK_HEAD_BYTES, "the head has room for its pieces");

static const char magic[16] = "maasq packs 1\n";
static const char suffix[] = ".packs";

/* Eight sums side by side, each step a product of two halves of 32 bits. */
uint64_t mq_pack_sum(uint64_t sum, const void *bytes, size_t count)
{
    const uint8_t *from = bytes;
    uint64_t lanes[LANES], word[LANES];
    for (uint32_t i = 0; i < LANES; i++) {
        lanes[i] = sum + i * UINT64_C(0x9e3779b97f4a7c15);
    }
    for (size_t at = 0; at < count; at += sizeof word) {
        size_t left = mq_min_size(count - at, sizeof word);
        if (left < sizeof word) {
            memset(word, 0, sizeof word);
        }
        memcpy(word, from + at, left);
        for (uint32_t i = 0; i < LANES; i++) {
            uint64_t mixed = word[i] ^ (lanes[i] >> 29) ^ UINT64_C(0xbf58476d1ce4e5b9);
            lanes[i] = lanes[i] * 3 + word[i] + (mixed & UINT32_MAX) * (mixed >> 32);
        }
    }
    sum = count;
    for (uint32_t i = 0; i < LANES; i++) {
        sum = (sum ^ lanes[i]) * UINT64_C(0x94d049bb133111eb);
        sum ^= sum >> 31;
    }
    return sum;
}

static uint64_t head_sum(const mq_pack_head *head)
{
    uint64_t sum = mq_pack_sum(head->time_ns, &head->bytes,
                               offsetof(mq_pack_head, pieces) - offsetof(mq_pack_head, bytes));
    return mq_pack_sum(sum, head->pieces, head->count * sizeof head->pieces[0]);
}

static void boot_id(char out[40])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    memset(out, 0, 40);
    if (fd < 0 || read(fd, out, 36) != 36) {
        memset(out, 0, 40); /* equal to no file's: all is checked each time */
    }
    if (fd >= 0) {
        close(fd);
    }
}

static uint64_t change_time(const struct stat *st)
{
    return (uint64_t)st->st_mtim.tv_sec * UINT64_C(1000000000) + (uint64_t)st->st_mtim.tv_nsec;
}

static bool set_times(int fd, uint64_t time_ns)
{
    const struct timespec times[2] = {
        {.tv_nsec = UTIME_NOW},
        {(time_t)(time_ns / 1000000000), (long)(time_ns % 1000000000)},
    };
    return futimens(fd, times) == 0;
}

/* --- reading --- */

static bool head_fits(const mq_pack_dir *dir, const mq_pack_head *head, const struct stat *st)
{
    if (memcmp(head->magic, magic, sizeof magic) != 0 || head->count > MQ_PACK_PIECES_MAX ||
        head->bytes != (uint64_t)st->st_size || head_sum(head) != head->sum ||
        memcmp(head->class, dir->class, sizeof head->class) != 0 ||
        memcmp(head->model, dir->model, sizeof head->model) != 0) {
        return false;
    }
    for (uint64_t i = 0; i < head->count; i++) {
        const mq_pack_piece *p = &head->pieces[i];
        if (p->at < MQ_PACK_HEAD_BYTES || p->at % MQ_PACK_PAGE != 0 || p->at > head->bytes ||
            p->bytes > head->bytes - p->at) {
            return false;
        }
    }
    return true;
}

/* Is every byte as it was written? Then it says so for this boot. */
static bool is_whole(int fd, const mq_pack_head *head, const struct stat *st)
{
    char boot[40];
    boot_id(boot);
    if (boot[0] != '\0' && memcmp(boot, head->boot, sizeof boot) == 0 &&
        change_time(st) == head->time_ns) {
        return true;
    }
    const uint8_t *all = mmap(NULL, head->bytes, PROT_READ, MAP_SHARED, fd, 0);
    bool is_right = all != MAP_FAILED;
    for (uint64_t i = 0; i < head->count && is_right; i++) {
        const mq_pack_piece *p = &head->pieces[i];
        is_right = mq_pack_sum(0, all + p->at, p->bytes) == p->sum;
    }
    if (all != MAP_FAILED) {
        (void)munmap((void *)(uintptr_t)all, head->bytes);
    }
    if (is_right && pwrite(fd, boot, sizeof boot, offsetof(mq_pack_head, boot)) == sizeof boot) {
        (void)set_times(fd, head->time_ns);
    }
    return is_right;
}

static bool is_ours(const struct stat *st)
{
    return S_ISREG(st->st_mode) && st->st_uid == geteuid() && (st->st_mode & 022) == 0;
}

static void path_of(const mq_pack_dir *dir, uint32_t n, char path[PATH_MAX])
{
    (void)snprintf(path, PATH_MAX, "%s/%s.%u%s", dir->path, dir->stem, n, suffix);
}

int mq_pack_file_open(const mq_pack_dir *dir, uint32_t n, const mq_pack_head **head)
{
    char path[PATH_MAX];
    struct stat st;
    *head = NULL;
    path_of(dir, n, path);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    fd = fd < 0 && errno != ENOENT ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : fd;
    if (fd < 0) {
        return -1;
    }
    void *map = MAP_FAILED;
    if (fstat(fd, &st) == 0 && is_ours(&st) && st.st_size >= MQ_PACK_HEAD_BYTES) {
        map = mmap(NULL, MQ_PACK_HEAD_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    }
    if (map != MAP_FAILED && head_fits(dir, map, &st) && is_whole(fd, map, &st)) {
        const struct timespec used[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
        (void)futimens(fd, used);
        *head = map;
        return fd;
    }
    if (map != MAP_FAILED) {
        (void)munmap(map, MQ_PACK_HEAD_BYTES);
    }
    close(fd);
    (void)unlink(path); /* torn, of an older build with this name, or not ours */
    return -1;
}

/* --- writing --- */

static void temp_of(const mq_pack_dir *dir, char path[PATH_MAX])
{
    (void)snprintf(path, PATH_MAX, "%s/%s.new", dir->path, dir->stem);
}

int mq_pack_file_create(const mq_pack_dir *dir)
{
    char path[PATH_MAX];
    temp_of(dir, path);
    (void)unlink(path); /* of a process that died while it packed: we have its lock */
    return open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
}

bool mq_pack_file_finish(const mq_pack_dir *dir, int fd, uint32_t n, mq_pack_head *head)
{
    char from[PATH_MAX], to[PATH_MAX];
    memcpy(head->magic, magic, sizeof magic);
    memcpy(head->class, dir->class, sizeof head->class);
    memcpy(head->model, dir->model, sizeof head->model);
    boot_id(head->boot);
    head->time_ns = (uint64_t)mq_clock_wall_ms() * 1000000;
    head->sum = head_sum(head);
    temp_of(dir, from);
    path_of(dir, n, to);
    mq_error err;
    bool done = ftruncate(fd, (off_t)head->bytes) == 0 && lseek(fd, 0, SEEK_SET) == 0 &&
                mq_fd_write(fd, (mq_span){(const uint8_t *)head, sizeof *head}, &err) == MQ_OK &&
                set_times(fd, head->time_ns) && rename(from, to) == 0;
    if (!done) {
        (void)unlink(from);
    }
    return done;
}

void mq_pack_file_abandon(const mq_pack_dir *dir)
{
    char path[PATH_MAX];
    temp_of(dir, path);
    (void)unlink(path);
}

/* Lock files stay: removing one while another process waits on it would make two locks of it. */
int mq_pack_lock(const mq_pack_dir *dir)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/lock.%.2s", dir->path, dir->stem);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    int64_t until_ms = mq_clock_mono_ms() + dir->deadline_ms;
    while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if ((errno != EWOULDBLOCK && errno != EINTR) || mq_clock_mono_ms() > until_ms) {
            close(fd);
            return -1;
        }
        mq_clock_sleep_ms(LOCK_POLL_MS);
    }
    return fd;
}

/* --- the folder's limit --- */

typedef struct kept {
    int64_t used_ns;
    size_t bytes;
    char name[MQ_PACK_NAME_MAX + 16];
} kept;

static int by_use(const void *a, const void *b)
{
    int64_t x = ((const kept *)a)->used_ns, y = ((const kept *)b)->used_ns;
    return (x > y) - (x < y);
}

/* One name of the folder, when it is a file of pieces; old unfinished ones go. */
static bool look(int dir_fd, const char *name, kept *out)
{
    struct stat st;
    size_t len = strlen(name), tail = sizeof suffix - 1;
    if (len >= sizeof out->name || fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(st.st_mode)) {
        return false;
    }
    if (len > 4 && strcmp(name + len - 4, ".new") == 0 &&
        st.st_mtim.tv_sec < mq_clock_wall_ms() / 1000 - TEMP_AGE_S) {
        (void)unlinkat(dir_fd, name, 0);
        return false;
    }
    if (len <= tail || strcmp(name + len - tail, suffix) != 0) {
        return false;
    }
    out->bytes = (size_t)st.st_size;
    out->used_ns = (int64_t)st.st_atim.tv_sec * 1000000000 + st.st_atim.tv_nsec;
    memcpy(out->name, name, len + 1);
    return true;
}

bool mq_pack_room(const mq_pack_dir *dir, size_t bytes)
{
    kept *list = NULL;
    size_t count = 0, room = 0, total = bytes;
    const struct dirent *entry;
    DIR *open_dir = opendir(dir->path);
    while (open_dir != NULL && count < DIR_FILES_MAX && (entry = readdir(open_dir)) != NULL) {
        if (count == room) {
            room = room == 0 ? 64 : 2 * room;
            kept *more = realloc(list, room * sizeof *list);
            if (more == NULL) {
                break;
            }
            list = more;
        }
        if (look(dirfd(open_dir), entry->d_name, &list[count])) {
            total += list[count++].bytes;
        }
    }
    if (count > 0) {
        qsort(list, count, sizeof *list, by_use);
    }
    for (size_t i = 0; i < count && total > dir->limit_bytes; i++) {
        total -= unlinkat(dirfd(open_dir), list[i].name, 0) == 0 ? list[i].bytes : 0;
    }
    free(list);
    if (open_dir != NULL) {
        closedir(open_dir);
    }
    return total <= dir->limit_bytes;
}

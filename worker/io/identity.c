/* Who and where this worker is: ids, load, memory. Reads /proc, nothing else. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/sha256.h"
#include "worker/io/supervisor.h"

void mq_worker_uuid(char out[33])
{
    uint8_t random[16];
    MQ_ASSERT(getrandom(random, sizeof random, 0) == (ssize_t)sizeof random);
    for (size_t i = 0; i < sizeof random; i++) {
        (void)snprintf(out + 2 * i, 3, "%02x", random[i]);
    }
}

/* Reads a small file as text; empty when it cannot be read. */
static void read_text(const char *path, char *out, size_t size)
{
    out[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);
    out[n > 0 ? n : 0] = '\0';
    if (fd >= 0) {
        close(fd);
    }
}

/* Abstract Unix addresses belong to a network namespace, so that is what makes a host; another user
 * is another host because peers check each other's. */
void mq_worker_host_id(char out[65])
{
    char boot[64], text[256], hash[MQ_SHA256_HEX];
    struct stat net = {0};
    read_text("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
    (void)stat("/proc/self/ns/net", &net);
    (void)snprintf(text, sizeof text, "%s %llu %llu %u", boot, (unsigned long long)net.st_dev,
                   (unsigned long long)net.st_ino, (unsigned)geteuid());
    mq_sha256_hex_of(mq_str(text), hash);
    (void)snprintf(out, 65, "%.32s", hash);
}

uint64_t mq_worker_load_milli(void)
{
    double load[1];
    return getloadavg(load, 1) == 1 && load[0] >= 0 ? (uint64_t)(load[0] * 1000.0) : 0;
}

const char *mq_worker_cpu_tag(uint32_t n)
{
    const char *tags[4] = {NULL};
    uint32_t count = 0;
#if defined(__x86_64__)
    tags[count++] = "x86_64";
    if (__builtin_cpu_supports("avx2")) {
        tags[count++] = "avx2";
    }
    if (__builtin_cpu_supports("avx512f")) {
        tags[count++] = "avx512";
    }
#elif defined(__aarch64__)
    tags[count++] = "aarch64";
#endif
    return n < count ? tags[n] : NULL;
}

uint64_t mq_worker_memory_bytes(int64_t slot_bytes, uint32_t slots)
{
    char text[64];
    long pages = sysconf(_SC_PHYS_PAGES);
    uint64_t most = pages < 1 ? 0 : (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
    read_text("/sys/fs/cgroup/memory.max", text, sizeof text); /* "max": no limit, reads as 0 */
    uint64_t group = (uint64_t)strtoull(text, NULL, 10);
    most = group > 0 && group < most ? group : most;
    uint64_t own = (uint64_t)slot_bytes * slots;
    return own > 0 && own < most ? own : most;
}

uint64_t mq_worker_rss_bytes(pid_t pid)
{
    char path[64], text[128];
    (void)snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    read_text(path, text, sizeof text);
    const char *resident = strchr(text, ' ');
    return resident == NULL
               ? 0
               : (uint64_t)strtoull(resident, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Namespaces, a bridge and virtual cables, by unshare(2), setns(2) and ip(8); see net.h. */
#include "tests/support/net.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs a shell command quietly; true when it succeeded. */
__attribute__((format(printf, 1, 2))) static bool run(const char *fmt, ...)
{
    char command[512];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(command, sizeof command - 16, fmt, args);
    va_end(args);
    if (len < 0 || (size_t)len >= sizeof command - 16) {
        return false;
    }
    snprintf(command + len, 16, " 2>/dev/null");
    return system(command) == 0;
}

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool is_written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0) {
        close(fd);
    }
    return is_written;
}

/* Root of the new user namespace is who we were outside. */
static bool map_users(unsigned uid, unsigned gid)
{
    char line[64];
    snprintf(line, sizeof line, "0 %u 1\n", uid);
    bool is_mapped = write_text("/proc/self/uid_map", line);
    snprintf(line, sizeof line, "0 %u 1\n", gid);
    return is_mapped && write_text("/proc/self/setgroups", "deny") &&
           write_text("/proc/self/gid_map", line);
}

bool net_enter(net *n, char *why, size_t size)
{
    memset(n, 0, sizeof *n);
    unsigned uid = geteuid(), gid = getegid();
    int flags = CLONE_NEWNET | CLONE_NEWNS | (uid == 0 ? 0 : CLONE_NEWUSER);
    if (unshare(flags) != 0 || (uid != 0 && !map_users(uid, gid))) {
        snprintf(why, size, "no namespaces here: %s", strerror(errno));
        return false;
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
        snprintf(why, size, "mounts cannot be made private: %s", strerror(errno));
        return false;
    }
    if (!run("ip link set lo up") || !run("ip link add br0 type bridge") ||
        !run("ip addr add 10.77.0.1/24 dev br0") || !run("ip link set br0 up")) {
        snprintf(why, size, "ip(8) cannot make a bridge in a namespace of its own");
        return false;
    }
    return true;
}

/* A process that does nothing in a new network namespace, until this one ends. */
static pid_t hold(void)
{
    int ready[2];
    if (pipe(ready) != 0) {
        return -1;
    }
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        char ok = unshare(CLONE_NEWNET) == 0;
        (void)!write(ready[1], &ok, 1);
        for (;;) {
            pause();
        }
    }
    char is_made = 0;
    bool is_read = pid > 0 && read(ready[0], &is_made, 1) == 1;
    close(ready[0]);
    close(ready[1]);
    return is_read && is_made ? pid : -1;
}

bool net_make(net *n, int count, char *why, size_t size)
{
    for (int node = 1; node <= count; node++) {
        char path[64];
        int pid = hold();
        n->holders[node] = pid;
        snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
        n->namespaces[node] = pid < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
        bool is_made =
            n->namespaces[node] >= 0 &&
            run("ip link add v%d type veth peer name eth0 netns %d", node, pid) &&
            run("ip link set v%d master br0 && ip link set v%d up", node, node) &&
            run("nsenter -t %d -n ip addr add 10.77.0.%d/24 dev eth0", pid, 1 + node) &&
            run("nsenter -t %d -n sh -c 'ip link set lo up && ip link set eth0 up'", pid);
        if (!is_made) {
            snprintf(why, size, "ip(8) cannot join a namespace to the bridge");
            return false;
        }
        n->count = node;
    }
    return true;
}

bool net_move(const net *n, int node)
{
    return node == 0 || setns(n->namespaces[node], CLONE_NEWNET) == 0;
}

void net_cut(const net *n, int node, bool is_cut)
{
    (void)n;
    (void)run("ip link set v%d %s", node, is_cut ? "down" : "up");
}

void net_block(const net *n, int node, int other, bool is_blocked)
{
    (void)run("nsenter -t %d -n ip route %s blackhole 10.77.0.%d/32", n->holders[node],
              is_blocked ? "replace" : "del", 1 + other);
}

bool net_disk(const char *folder, size_t bytes, char *why, size_t size)
{
    char option[48];
    snprintf(option, sizeof option, "size=%zu,mode=0700", bytes);
    if (mount("tmpfs", folder, "tmpfs", 0, option) != 0) {
        snprintf(why, size, "no tmpfs can be mounted: %s", strerror(errno));
        return false;
    }
    return true;
}

void net_close(net *n)
{
    for (int node = 1; node < NET_NODES_MAX; node++) {
        if (n->holders[node] > 0) {
            close(n->namespaces[node]);
            kill(n->holders[node], SIGKILL);
            waitpid(n->holders[node], NULL, 0);
        }
    }
    memset(n, 0, sizeof *n);
}

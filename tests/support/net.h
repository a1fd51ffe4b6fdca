/* A private network for tests that cut links: every process gets a network namespace of its own,
 * joined to the others by a bridge, so that a link can go down and come back as a pulled cable
 * does. Nothing of it is visible outside, and all of it goes with the test process.
 *
 * Node 0 is the test process itself (10.77.0.1); node n has the address 10.77.0.(1 + n). */
#ifndef MQ_TESTS_SUPPORT_NET_H
#define MQ_TESTS_SUPPORT_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { NET_NODES_MAX = 32, NET_PORT = 7700 };

typedef struct net {
    int count;                    /* nodes made, without node 0 */
    pid_t holders[NET_NODES_MAX]; /* sleeping processes that keep the namespaces */
    int namespaces[NET_NODES_MAX];
} net;

/* Moves this process into a network and a mount namespace of its own (with a user namespace when
 * it is not root). False where the machine does not allow that, with the reason; then nothing has
 * changed but maybe the namespace. Must run before the process makes threads. */
bool net_enter(net *n, char *why, size_t size);

/* Makes nodes 1..count. False with the reason. */
bool net_make(net *n, int count, char *why, size_t size);

/* For a child between fork and exec: moves it into the node's namespace. Node 0: nothing. */
bool net_move(const net *n, int node);

/* All links of a node go down, or come back. */
void net_cut(const net *n, int node, bool is_cut);

/* A node does not reach another one any more (a route into nowhere on its side), or does again. */
void net_block(const net *n, int node, int other, bool is_blocked);

/* Mounts a small disk (tmpfs) at a folder, only visible to this process and its children. */
bool net_disk(const char *folder, size_t bytes, char *why, size_t size);

void net_close(net *n);

#endif

/* The broker process: its two sockets, its place in the table of brokers, and the shards that it
 * owns (broker.h). It follows the plan (broker/core/plan.h): takes shards whose turn it is, hands
 * over those that should be elsewhere, sends peers to the owners of the others. Private to
 * broker/io. One thread.
 *
 *     table in Redis <-> node.c --> plan --> mq_shard_open, hand over
 *     front, back -----> loop.c --> the shard's receive.c, or node_peers.c: moved, routes */
#ifndef MQ_BROKER_IO_NODE_H
#define MQ_BROKER_IO_NODE_H

#include "broker/io/broker.h"
#include "shared/store/cluster.h"
#include "shared/store/lend.h"

enum {
    MQ_PEERS_MAX = 16384, /* connections that are told of changes */
};

/* Someone who said hello. */
typedef struct mq_peer {
    uint64_t conn; /* 0 = unused */
    uint32_t shard;
} mq_peer;

struct mq_node {
    const mq_broker_config *config;
    void *context;
    mq_side front, back;
    mq_pins *pins;
    mq_cluster *cluster;
    uint64_t next_ticket;
    int64_t stop_ms;                 /* asked to stop: until when; monotonic, 0 = not */
    bool is_stopping, is_left;       /* left: the table says that we are gone */
    char instance[MQ_INSTANCE_SIZE]; /* of the deployment; "" = not known yet */
    mq_witness witness[MQ_CLUSTER_SHARDS_MAX];
    bool has_witness[MQ_CLUSTER_SHARDS_MAX];
    char trouble[MQ_ERROR_TEXT_MAX]; /* why the table was not read; "" = it was */
    mq_error fatal;                  /* ends the process: a wrong --shards */

    mq_cluster_self self;
    mq_cluster_view view; /* as last read; shard_count 0 = never */
    int64_t view_ms;      /* monotonic; when it was */
    uint64_t told_version;
    int64_t told_ms, looked_ms; /* monotonic; when the table was last asked */
    int64_t tell_retry_ms;      /* it could not be asked: not before */
    bool must_tell;             /* what we own has changed */
    bool is_settled;            /* plan and table agree */
    int64_t cpu_ms, cpu_at_ms;

    uint32_t target[MQ_CLUSTER_SHARDS_MAX]; /* of the view's brokers, or MQ_PLAN_NONE */
    mq_broker *shards[MQ_CLUSTER_SHARDS_MAX];
    uint64_t told_epoch[MQ_CLUSTER_SHARDS_MAX]; /* of owned shards, as in self */
    int64_t since_ms[MQ_CLUSTER_SHARDS_MAX];

    bool is_lending; /* a call for lent permits is under way */
    uint32_t lend_first;
    mq_lend_line lend_lines[MQ_LEND_ASKS_MAX]; /* of that call */

    mq_peer peers[MQ_PEERS_MAX];
    mq_arena arena; /* of the message in work */
    mq_buf header, answer;
};

/* ---- node.c ---- */

MQ_MUST_USE mq_code mq_node_open(mq_node *n, mq_error *err);
void mq_node_release(mq_node *n);
/* Once a turn: tells the table what we are, follows the plan. */
void mq_node_tick(mq_node *n);
int64_t mq_node_deadline(const mq_node *n); /* monotonic */
/* Gives everything back; true when that is done. is_late: whatever is under way. */
bool mq_node_leave(mq_node *n, bool is_late);
/* Shards of the deployment, 1 while not known. */
uint32_t mq_node_shards(const mq_node *n);
/* Number for a pin that an answer to this shard goes with. */
uint64_t mq_node_ticket(mq_node *n, uint32_t shard);
/* Broker that owns the shard according to the table, alive and not us, or NULL. */
const mq_cluster_broker *mq_node_owner(const mq_node *n, uint32_t shard);
/* Every shard that the plan gives us is being served, or none is ours. */
bool mq_node_is_ready(const mq_node *n);

/* ---- node_peers.c ---- */

/* A peer said hello to a shard and has been welcomed: it hears of changes from now on. */
void mq_node_greeted(mq_node *n, uint64_t conn, uint32_t shard);
/* Tells every peer who owns what, when that has changed. */
void mq_node_tell_routes(mq_node *n);
/* The shard goes to `to`, or to nobody known (NULL): its clients and workers are told. */
void mq_node_tell_moved(mq_node *n, uint32_t shard, const mq_cluster_broker *to);
/* Refuses a whole message. */
void mq_node_error(mq_node *n, uint64_t conn, mq_code code, const char *text);
/* A message to a shard that is not served here, at most for the moment. */
void mq_node_refuse(mq_node *n, const mq_frames *frames);

/* ---- lend.c ---- */

/* Once a turn: asks for permits that this process's shards lack. */
void mq_lend_tick(mq_node *n);
int64_t mq_lend_deadline(const mq_node *n); /* monotonic */

/* ---- node_answer.c ---- */

/* Questions and commands about shards and brokers, which any broker answers. False: it is another
 * message. */
bool mq_node_answer(mq_node *n, const mq_frames *frames);

#endif

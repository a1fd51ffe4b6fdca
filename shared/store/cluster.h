/* The table of brokers and shards in Redis (lua/cluster.lua): brokers enter themselves and say
 * which shards they own, everyone reads where a shard is, operators leave their wishes. It is a
 * notice board: ownership itself is fenced by each shard's owner record (store.h), so a table that
 * is a second old, or lost, costs time and never a job. One thread, asynchronous like the store. */
#ifndef MQ_STORE_CLUSTER_H
#define MQ_STORE_CLUSTER_H

#include "shared/base/error.h"
#include "shared/base/ulid.h"

enum {
    MQ_CLUSTER_BROKERS_MAX = 64, /* more are not shown */
    MQ_CLUSTER_SHARDS_MAX = MQ_ULID_SHARDS_MAX,
    MQ_CLUSTER_ID_SIZE = 64,
    MQ_CLUSTER_URL_SIZE = 128,
    MQ_CLUSTER_LINEAGE_SIZE = 16 * 17, /* so many ids are shown */
};

typedef struct mq_cluster_broker {
    char id[MQ_CLUSTER_ID_SIZE]; /* without blanks; of an endpoint on a host: owner of a shard */
    char name[64];
    char front[MQ_CLUSTER_URL_SIZE], back[MQ_CLUSTER_URL_SIZE]; /* as others reach it */
    int64_t since_ms, until_ms; /* store time; until: dead unless it says so again before */
    uint64_t load_milli;        /* of a core, in the last second */
    bool is_alive, is_draining;
} mq_cluster_broker;

typedef struct mq_cluster_shard {
    char owner[MQ_CLUSTER_ID_SIZE]; /* "" = nobody */
    char pin[MQ_CLUSTER_ID_SIZE];   /* where operators want it; "" = anywhere */
    uint64_t epoch, jobs;
    uint64_t sequence;                     /* of the last commit that its last owner told of */
    int64_t since_ms;                      /* store time */
    char lineage[MQ_CLUSTER_LINEAGE_SIZE]; /* as told with it (store.h); "" of an older broker */
} mq_cluster_shard;

typedef struct mq_cluster_view {
    char instance[MQ_CLUSTER_ID_SIZE]; /* of the deployment; "" before its first commit */
    int64_t now_ms;                    /* store time */
    uint64_t version;                  /* grows with every change of an owner */
    uint32_t shard_count, broker_count;
    mq_cluster_broker brokers[MQ_CLUSTER_BROKERS_MAX]; /* by id */
    mq_cluster_shard shards[MQ_CLUSTER_SHARDS_MAX];
} mq_cluster_view;

/* What a broker says of itself. */
typedef struct mq_cluster_self {
    mq_cluster_broker broker; /* until_ms, is_alive, is_draining are not read */
    int64_t ttl_ms;           /* alive for so long; 0: it leaves */
    uint32_t shards_wanted;   /* of a table that is made now; 0 = 1 */
    bool may_init;            /* the table may be made in an empty store */
    uint32_t owned_count;
    struct {
        uint32_t shard;
        uint64_t epoch, jobs, sequence;
        int64_t since_ms;
        char lineage[MQ_CLUSTER_LINEAGE_SIZE];
    } owned[MQ_CLUSTER_SHARDS_MAX];
} mq_cluster_self;

typedef struct mq_cluster mq_cluster;

/* view: borrowed during the call, NULL unless code is MQ_OK. The callback may call again, but must
 * not free. */
typedef void mq_cluster_on_view(void *arg, mq_code code, const mq_cluster_view *view,
                                const mq_error *err);

/* url: as for mq_store_redis_new. Returns owned, not yet connected. */
MQ_MUST_USE mq_code mq_cluster_new(mq_cluster **out, const char *url, mq_cluster_on_view *on_view,
                                   void *arg, mq_error *err);
void mq_cluster_free(mq_cluster *cluster);

/* Says what self holds (NULL: only looks); the view comes through the callback. False while not
 * connected or while a former call is under way. */
bool mq_cluster_tell(mq_cluster *cluster, const mq_cluster_self *self);

/* Operators' wishes: shard to broker id ("" = anywhere); a broker gives its shards away, or not.
 * The callback is called with the outcome. MQ_E_BUSY while not connected. */
typedef void mq_cluster_on_set(void *arg, mq_code code, const mq_error *err);
MQ_MUST_USE mq_code mq_cluster_pin(mq_cluster *cluster, uint32_t shard, const char *broker,
                                   mq_cluster_on_set *on_set, void *arg, mq_error *err);
MQ_MUST_USE mq_code mq_cluster_drain(mq_cluster *cluster, const char *broker, bool is_draining,
                                     mq_cluster_on_set *on_set, void *arg, mq_error *err);

/* The loop's side, as in store.h. */
int mq_cluster_fd(const mq_cluster *cluster);
short mq_cluster_events(const mq_cluster *cluster);
void mq_cluster_process(mq_cluster *cluster, short revents, int64_t now_ms);
int64_t mq_cluster_deadline(const mq_cluster *cluster);
bool mq_cluster_is_connected(const mq_cluster *cluster);

/* Its connection, for other calls about the whole deployment (lend_redis.c). Borrowed. */
struct mq_conn;
struct mq_conn *mq_cluster_conn(mq_cluster *cluster);

/* Broker with this id, or NULL. */
const mq_cluster_broker *mq_cluster_find(const mq_cluster_view *view, const char *id);

#endif

/* One shard that this process owns, or is about to: the pure core and everything around it. The
 * process itself, with its sockets, is the node (node.h), which has one of these for each of its
 * shards. Private to broker/io. One thread (but for the pin thread, which is behind pin.h).
 *
 *     sockets --> node.c --> receive.c --> core --> act.c --> sockets
 *     store   <-> own.c     --> core --> act.c --> store, pins
 *     questions ---------------------> answer.c  (reads the core between steps)
 */
#ifndef MQ_BROKER_IO_BROKER_H
#define MQ_BROKER_IO_BROKER_H

#include "broker/config.h"
#include "broker/core/core.h"
#include "broker/io/asks.h"
#include "broker/io/curves.h"
#include "broker/io/pin.h"
#include "broker/io/sockets.h"
#include "broker/io/witness.h"
#include "shared/base/arena.h"
#include "shared/base/buf.h"
#include "shared/store/cluster.h"

enum {
    MQ_GETS_MAX = 65536, /* questions waiting for a job's end */
    MQ_WATCHES_MAX = 4096,
    MQ_PENDING_MAX = 1024,            /* results and checkpoints waiting for their pins */
    MQ_PENDING_BYTES_MAX = 256 << 20, /* of their frames; one alone may be more */
    MQ_LOOKUPS_MAX = 8192,            /* job look-ups under way in the store */
    MQ_SCANS_MAX = 8,                 /* of the dead letters under way */
    MQ_NEWS_MAX = 256,                /* events kept for operators */
    MQ_RATE_SECONDS = 10,
    MQ_GROUP_MAX = 512,            /* items of one outgoing message */
    MQ_OUT_PAYLOAD_MAX = 32 << 20, /* bytes of one outgoing payload made of several items */
    MQ_LATE_MAX = 4096,            /* answers that wait for room in their client's queue */
    MQ_LATE_BYTES_MAX = 64 << 20,
    MQ_ANSWER_BYTES_MAX = 32 << 20,
    MQ_COUNTERS = 12,
    MQ_INSTANCE_SIZE = 64,
};

typedef struct mq_late mq_late;           /* late.c */
typedef struct mq_dead mq_dead;           /* dead.c */
typedef struct mq_crons mq_crons;         /* cron.c */
typedef struct mq_retention mq_retention; /* retention.c */
typedef struct mq_outbox mq_outbox;       /* outbox.c */
typedef struct mq_node mq_node;           /* node.h */

/* Life of the ownership of the shard. */
typedef enum mq_own_state {
    MQ_OWN_NONE,     /* no core; asks for the shard */
    MQ_OWN_ASKED,    /* acquire is under way */
    MQ_OWN_SEGMENTS, /* the list of segments is under way */
    MQ_OWN_COUNTERS,
    MQ_OWN_REGISTRY, /* the registry is being read; then the sockets are served */
    MQ_OWN_LOADING,  /* segments are being read beside the service */
    MQ_OWN_SERVING,
    MQ_OWN_STOPPED, /* given back, or refused for good */
} mq_own_state;

/* One waiting `get`. */
typedef struct mq_get_wait {
    uint64_t conn, rid;
    uint32_t next; /* of the same job, or of the free list */
    bool want_result, is_used;
    uint8_t id_len;
    char id[32];
} mq_get_wait;

typedef struct mq_gets mq_gets;

typedef struct mq_watch {
    uint64_t conn;
    int64_t told_ms; /* monotonic; when the last event went out */
    uint8_t id_len;  /* 0 = unused */
    char id[32];
} mq_watch;

/* A message that waits for its pins. */
typedef struct mq_pending {
    struct mq_pending *next;
    uint64_t ticket, generation;
    mq_frames frames;
} mq_pending;

typedef struct mq_news {
    int64_t at_ms;
    char type[24];
    char text[200];
} mq_news;

typedef struct mq_broker {
    const mq_broker_config *config;
    mq_node *node;
    uint32_t shard;
    const char *owner_id; /* as the store knows us; the node's */
    const char *told;     /* our front endpoint as others reach it; the node's */
    bool is_elsewhere;    /* the last attempt found another owner */
    int64_t started_ms;
    bool is_stopping; /* or the shard is being handed over */
    bool is_open;     /* messages may be taken in this turn */
    bool is_wanting;  /* want.c: workers were told that jobs wait */
    int64_t want_ms;  /* when they are told again */
    int64_t leave_ms; /* node.c: then it is given up whatever is under way; 0 = it stays */

    mq_side *front, *back; /* the node's */
    mq_store *store;
    mq_pins *pins; /* the node's */
    mq_asks *asks;

    /* own.c */
    mq_own_state own;
    mq_witness *witness; /* of what the store has held; less is refused. The node's */
    int64_t served_ms;   /* monotonic: when the shard was last served */
    uint64_t generation; /* of the core: answers to an older one are dropped */
    void *core_memory;
    size_t core_bytes;
    mq_core_config core_config;
    mq_core *core;                               /* NULL while the shard is not ours */
    int64_t store_offset_ms;                     /* store clock - monotonic clock */
    int64_t renew_sent_ms, renewed_ms, retry_ms; /* monotonic */
    bool is_renewing;
    bool is_full;
    uint64_t used_bytes, store_max_bytes, epoch, sequence;
    char lineage[MQ_CLUSTER_LINEAGE_SIZE]; /* of the data, as far as the table tells it */
    uint32_t replicas_online;              /* as the store says */
    bool is_asking_replicas;               /* replica.c: a question is under way */
    bool is_replica_told_open;             /* as logged last */
    bool must_ask_replicas;                /* commits went out behind the question under way */
    int64_t replica_ms;                    /* monotonic: when to ask again */
    uint64_t *segments;
    uint32_t segment_count, segment_next;
    int64_t counters[MQ_COUNTERS]; /* as stored */
    int64_t commits, commit_us_sum, commit_jobs;
    int64_t dups;      /* of `submitted`: jobs that the store had already; as stored */
    char trouble[256]; /* why the shard is not served; "" = it is */

    /* receive.c */
    mq_arena arena; /* of the message in work */
    mq_pending *pending;
    uint32_t pending_count;
    size_t pending_bytes;

    /* act.c */
    mq_outputs *out;
    mq_buf header, payload;
    mq_outbox *outbox; /* owned */
    mq_late *late;     /* oldest first; owned */
    uint32_t late_count;
    size_t late_bytes;

    /* gets.c */
    mq_gets *gets; /* those that wait */
    uint32_t get_count;
    mq_watch *watches;
    uint32_t watch_end;
    uint32_t lookups, scans;
    mq_dead *dead;           /* bulk actions; NULL before the first */
    mq_crons *crons;         /* when recurring jobs are due; NULL before the first look */
    mq_retention *retention; /* bytes of finished jobs; NULL before the first look */

    /* answer.c */
    mq_curves *curves;
    mq_news news[MQ_NEWS_MAX];
    uint32_t news_count;
    int64_t rate_at_ms;
    uint32_t rate_index, rate_count;
    int64_t rates[MQ_RATE_SECONDS][2]; /* submitted and ended so far, once a second */
    int64_t transient_base[2];         /* of former cores */
} mq_broker;

/* Store time now. */
int64_t mq_broker_now(const mq_broker *b);

/* ---- act.c ---- */
/* Steps the core and does what it says. in->now_ms 0: now; the jobs of one message share theirs. */
void mq_act_step(mq_broker *b, mq_input *in);
/* Sends one message to a connection; a failed send is noted and forgotten. MQ_OK when it was
 * queued. */
mq_code mq_act_send(mq_broker *b, uint64_t conn, mq_command command, const void *message,
                    mq_span payload);
/* The same with a header that is written already. */
mq_code mq_act_send_packed(mq_broker *b, uint64_t conn, mq_command command, mq_span header,
                           mq_span payload);
void mq_act_error(mq_broker *b, uint64_t conn, uint64_t rid, mq_code code, const char *text,
                  uint64_t retry_ms);

/* ---- outbox.c ---- */
MQ_MUST_USE mq_code mq_outbox_new(mq_outbox **out, mq_error *err);
void mq_outbox_free(mq_outbox *box);
/* Keeps a submitted, ended or verdict for the message that the turn's end sends to its peer. False:
 * it is to be sent by itself, now (a large result); what was kept before has gone. */
bool mq_outbox_add(mq_broker *b, mq_output *o);
void mq_outbox_flush(mq_broker *b);

/* ---- late.c ---- */
/* Keeps a `done` that its client had no room for; false when there are too many. */
bool mq_late_add(mq_broker *b, uint64_t conn, mq_span header, mq_span payload);
/* Offers them again. */
void mq_late_turn(mq_broker *b);
/* How long the loop may wait because of them, INT64_MAX when there are none. */
int64_t mq_late_wait_ms(const mq_broker *b);
void mq_late_release(mq_broker *b);

/* ---- receive.c ---- */
/* One message to this shard; frames stay the caller's. */
void mq_receive(mq_broker *b, mq_frames *frames);
/* An answer of the pin thread to a ticket of this shard. */
void mq_receive_pinned(mq_broker *b, const mq_pin_answer *answer);
/* True while a message waits for a pin of this blob: it must not be unpinned now. */
bool mq_receive_is_pinning(const mq_broker *b, mq_span hash);
void mq_receive_release(mq_broker *b);

/* ---- own.c ---- */
MQ_MUST_USE mq_code mq_own_open(mq_broker *b, mq_error *err);
/* Acquires, renews, loads, gives back: whatever is due. */
void mq_own_tick(mq_broker *b);
/* Throws the core away: everything begins anew. Its callers are told nothing, they ask again. */
void mq_own_drop(mq_broker *b, const char *why);
/* Notes why the shard is not served, and logs it once. */
void mq_own_trouble(mq_broker *b, const char *text);
/* True when messages may be taken: the shard is ours and our tenure has not run out. */
/* It has not been served for so long that clients are told. */
bool mq_own_is_refusing(const mq_broker *b);
bool mq_own_is_serving(const mq_broker *b);
int64_t mq_own_deadline(const mq_broker *b); /* monotonic */
/* Gives the shard back when nothing is under way, or at once when it is late (what is not answered
 * is asked for again); true once that is done. */
bool mq_own_leave(mq_broker *b, bool is_late);
void mq_own_release(mq_broker *b);

/* ---- commit.c ---- */
/* Sends the core's batch to the store. */
void mq_commit_send(mq_broker *b, const mq_outputs *out);
const char *mq_counter_name(uint32_t index);

/* ---- loss.c ---- */
/* Tells the witness how many jobs there were with the last commit. */
void mq_loss_count(mq_broker *b);
/* A core begins, its counters are loaded: after --adopt says what is lost. */
void mq_loss_tell(mq_broker *b);

/* ---- replica.c ---- */
/* A commit has been sent whose answers wait for replicas: asks behind it. */
void mq_replicas_ask(mq_broker *b);
/* A new core. */
void mq_replicas_reset(mq_broker *b);
/* Once a turn, while there is a core. */
void mq_replicas_tick(mq_broker *b);
int64_t mq_replicas_deadline(const mq_broker *b); /* monotonic */

/* ---- want.c ---- */
/* Once a turn, while there is a core. */
void mq_want_tick(mq_broker *b);
int64_t mq_want_deadline(const mq_broker *b); /* monotonic */

/* ---- gets.c ---- */
MQ_MUST_USE mq_code mq_gets_new(mq_gets **out, mq_error *err);
void mq_gets_free(mq_gets *gets);
void mq_gets_ask(mq_broker *b, uint64_t conn, const mq_msg_get *get);
/* The job ended and that is stored. */
void mq_gets_ended(mq_broker *b, const mq_ended *ended, mq_span result);
void mq_gets_changed(mq_broker *b, mq_span id, mq_state state);
void mq_gets_progress(mq_broker *b, mq_span id, mq_span progress, mq_span log);
bool mq_gets_watch(mq_broker *b, uint64_t conn, mq_span id);
/* A core has been loaded: gets that wait for a job which ended meanwhile are answered now. */
void mq_gets_loaded(mq_broker *b);
void mq_gets_tick(mq_broker *b);
int64_t mq_gets_deadline(const mq_broker *b); /* monotonic */
/* The connection is gone. */
void mq_gets_drop(mq_broker *b, uint64_t conn);

/* ---- answer.c ---- */
void mq_answer_query(mq_broker *b, uint64_t conn, const mq_msg_query *query);
/* Adds an event that operators can read. */
void mq_answer_news(mq_broker *b, const char *type, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Once a second: samples the rates. */
void mq_answer_tick(mq_broker *b);

/* ---- loop.c ---- */
/* Makes what one shard needs; it then asks for the shard by itself. Returns owned. */
MQ_MUST_USE mq_code mq_shard_open(mq_broker **out, mq_node *node, uint32_t shard, mq_error *err);
void mq_shard_free(mq_broker *b);

/* Runs until SIGTERM or SIGINT; MQ_OK at a clean stop. */
MQ_MUST_USE mq_code mq_broker_run(const mq_broker_config *config, mq_error *err);

#endif

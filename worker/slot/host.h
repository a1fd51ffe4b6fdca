/* What a running job may ask of the world, and nothing more. A job kind sees only this table of
 * functions, so the same kind runs in a slot process under a supervisor (worker/slot), without a
 * broker (`maasq-worker --local`), and in tests. The slot has no network and no keys: every request
 * goes over its socketpair to the supervisor.
 *
 * Threads: all calls come from the one thread that runs the job.
 * Errors: any call may answer MQ_E_CANCELLED (the job was cancelled or its lease is gone: stop and
 * return that code) or MQ_E_IO (the supervisor is gone: the process is about to die). */
#ifndef MQ_WORKER_SLOT_HOST_H
#define MQ_WORKER_SLOT_HOST_H

#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/file.h"
#include "shared/base/sha256.h"

enum {
    MQ_SEATS_MAX = 64,           /* members of one gang */
    MQ_GANG_PIECE_MAX = 1 << 20, /* bytes of one gang message */
    MQ_PUBLISH_MAX = 8,          /* things one result may publish */
    MQ_PUBLISH_BLOBS_MAX = 1024, /* blobs one published thing may name */
    MQ_SPAWN_MAX = 64,           /* child jobs one result may create */
};

/* One member of a gang. Seats are numbered by the broker and never reused within a job. */
typedef struct mq_gang_member {
    uint32_t seat;
    bool is_same_host; /* shares the memory segment with this member */
} mq_gang_member;

/* Who is in the gang. Members are in seat order; self indexes members. */
typedef struct mq_roster {
    uint64_t epoch; /* grows with every change of membership; 0 = not a gang job */
    uint32_t count;
    uint32_t self;
    mq_gang_member members[MQ_SEATS_MAX];
} mq_roster;

/* A message from another member. bytes are borrowed until the next gang_recv. */
typedef struct mq_gang_message {
    uint32_t from_seat;
    uint64_t epoch; /* of the roster the sender was in */
    uint32_t tag;   /* meaning is the job kind's */
    mq_span bytes;
} mq_gang_message;

/* Something a finished job adds to the registry, in the same atomic commit as its result. */
typedef struct mq_publish {
    const char *type; /* "model", "dataset" or "memo" */
    const char *name; /* model or dataset name; for memo the key */
    mq_span meta;     /* JSON object; the broker stores it unread (a memo: the result to return) */
    const char *(*blobs); /* hex hashes that the registry must keep; blob_count of them */
    uint32_t blob_count;
} mq_publish;

/* A child job made in the same atomic commit as the result. */
typedef struct mq_spawn {
    const char *kind;
    const char *model; /* may be "" */
    mq_span body;
} mq_spawn;

typedef struct mq_host mq_host;

typedef struct mq_host_ops {
    /* Maps a blob read-only; its hash has been verified. Release with mq_map_file_release.
     * MQ_E_NOT_FOUND when the store does not have it. */
    mq_code (*blob_open)(mq_host *, const char *hash, mq_map_file *out, mq_error *);

    /* Stores bytes as a blob and writes its hash. Storing equal bytes again is cheap. */
    mq_code (*blob_put)(mq_host *, mq_span bytes, char hash[MQ_SHA256_HEX], mq_error *);

    /* Asks the registry: what = "model" | "dataset" | "memo", name = "m", "m@3", "m@prod".
     * Appends the answer, a JSON object {"name","version","meta":{...}}. MQ_E_NOT_FOUND. */
    mq_code (*query)(mq_host *, const char *what, const char *name, mq_buf *json, mq_error *);

    /* Latest progress as a JSON object of at most 4 KiB; never waits, may be dropped when many. */
    void (*progress)(mq_host *, mq_span json);

    /* One line for the job's log, at most 1 KiB; never waits. */
    void (*log)(mq_host *, mq_span text);

    /* MQ_OK to go on, MQ_E_CANCELLED to stop. Cheap enough for every step. */
    mq_code (*check)(mq_host *, mq_error *);

    /* The result's bytes (copied), things to publish and children (copied). Called before run
     * returns MQ_OK; the last call of each kind wins for result, publish and spawn add up. */
    mq_code (*result)(mq_host *, mq_span bytes, mq_error *);
    mq_code (*publish)(mq_host *, const mq_publish *, mq_error *);
    mq_code (*spawn)(mq_host *, const mq_spawn *, mq_error *);

    /* --- gang jobs only --- */

    /* Latest roster. Cheap; call at every step boundary. */
    void (*roster)(mq_host *, mq_roster *out);

    /* Waits until the roster's epoch is greater than `after` (a death was noticed and a new roster
     * is due), at most timeout_ms: MQ_E_TIMEOUT. */
    mq_code (*roster_wait)(mq_host *, uint64_t after, int64_t timeout_ms, mq_roster *out,
                           mq_error *);

    /* Tells the broker that a member did not answer in time; a new roster follows if it agrees. */
    void (*report_lost)(mq_host *, uint64_t epoch, uint32_t seat);

    /* Shared memory of `bytes` zeroed bytes common to the members of this roster that share the
     * host: the lowest seat makes it, the others receive it. Read-write, valid until
     * segment_release. MQ_E_STALE when the roster changed meanwhile, MQ_E_TIMEOUT after timeout_ms.
     */
    mq_code (*segment)(mq_host *, uint64_t epoch, size_t bytes, int64_t timeout_ms, void **out,
                       mq_error *);
    void (*segment_release)(mq_host *, void *at, size_t bytes);

    /* True once the roster `epoch` is known to be broken (a member's death was seen) or replaced.
     * Cheap enough for a spin loop: one atomic read. */
    bool (*is_broken)(mq_host *, uint64_t epoch);

    /* Sends at most MQ_GANG_PIECE_MAX bytes to a member; in order per pair; queues up to 64 MiB and
     * then waits. MQ_E_STALE when the roster changed. */
    mq_code (*gang_send)(mq_host *, uint64_t epoch, uint32_t to_seat, uint32_t tag, mq_span bytes,
                         mq_error *);

    /* Next message of this epoch (older ones are dropped). MQ_E_STALE when the roster changed,
     * MQ_E_TIMEOUT after timeout_ms. */
    mq_code (*gang_recv)(mq_host *, uint64_t epoch, int64_t timeout_ms, mq_gang_message *out,
                         mq_error *);

    /* Offers a checkpoint: fenced by the roster's epoch and step > the stored one. Does not wait;
     * at most one is under way (a newer one replaces a waiting one). meta: JSON object, at most 4
     * KiB. blob must have been stored. */
    mq_code (*checkpoint)(mq_host *, uint64_t epoch, uint64_t step, const char *chain,
                          const char *blob, mq_span meta, mq_error *);

    /* Latest acknowledged step of this member's checkpoints; 0 when none. */
    uint64_t (*checkpointed)(mq_host *);
} mq_host_ops;

/* Read-only facts of the job, then the functions. Implementations embed this as their first member.
 */
struct mq_host {
    const mq_host_ops *ops;
    const char *job_id;
    const char *kind;
    uint32_t attempt;             /* 1 = first */
    mq_span body;                 /* request body, borrowed for the whole run */
    const char *model;            /* resolved "name@version" of the job's model, or "" */
    const char *model_blob;       /* its ONNX blob, or "" */
    mq_span checkpoint_meta;      /* meta of the stored checkpoint, empty when none */
    const char *checkpoint_blob;  /* or "" */
    const char *checkpoint_chain; /* or "" */
    uint64_t checkpoint_step;     /* 0 when none */
    size_t memory_bytes_max;      /* ceiling for arenas of this job; 0: none was set */
    bool is_crash;                /* set by a kind that fails: a process it ran died by a signal */
};

#endif

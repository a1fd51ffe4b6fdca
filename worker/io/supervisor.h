/* The worker process: one thread that polls the broker's socket, the slots' sockets, signals, the
 * gang plane and the blob thread, feeds the pure session (worker/core) and does what it says.
 *
 *     broker --JOB--> mq_kept_job[i] --run--> slot process --done--> mq_kept_job[i] --RESULT-->
 * broker
 *
 * The session's job number i names everything the supervisor keeps for a job. It parses no models
 * and never waits: blobs go through the blob thread, sends never block. */
#ifndef MQ_WORKER_IO_SUPERVISOR_H
#define MQ_WORKER_IO_SUPERVISOR_H

#include "worker/core/session.h"
#include "worker/gang/plane.h"
#include "worker/io/blob_thread.h"
#include "worker/io/broker_link.h"
#include "worker/io/slot_process.h"
#include "worker/options.h"
#include "worker/own/own.h"

enum {
    MQ_KEPT_BLOBS_MAX = 64, /* blobs of a job that can be stored again when the store lost them */
    MQ_KEPT_BLOB_BYTES_MAX = 256 << 20,
    MQ_KEPT_PUBLISH_MAX = 8,
    MQ_KEPT_SPAWN_MAX = 64,
    MQ_ASK_RESEND_MS = 2000, /* a query or checkpoint without an answer */
    MQ_ASK_LIMIT_MS = 30000, /* a query fails then */
    MQ_PROGRESS_MS = 100,    /* progress of a job goes on at most so often */
    MQ_MEASURE_MS = 1000,    /* memory and load are read at most so often */
    MQ_WORKER_URL_MAX = 260,
    MQ_MODELS_TOLD_MAX = 8,
    MQ_CACHE_DIR_MAX = 512,
    MQ_LOG_LINES = 20, /* of a slot in a second; more are dropped */
};

/* A blob that this job stored: its bytes, until the result has its verdict. */
typedef struct mq_kept_blob {
    char hash[MQ_SHA256_HEX];
    int fd;
    size_t bytes;
} mq_kept_blob;

typedef struct mq_kept_checkpoint {
    uint64_t gang_epoch, step; /* step 0 = none */
    char chain[65], blob[65], meta[4096];
    size_t meta_len;
} mq_kept_checkpoint;

/* What belongs to one job of the session. */
typedef struct mq_kept_job {
    bool is_used;
    uint64_t run;         /* as its slot knows it */
    mq_arena arena;       /* copies of everything below */
    mq_msg_job_item item; /* as it came */
    mq_span body;
    mq_buf result;
    mq_msg_published publish[MQ_KEPT_PUBLISH_MAX];
    mq_msg_spawned spawn[MQ_KEPT_SPAWN_MAX];
    uint32_t publish_count, spawn_count;
    size_t header_bytes; /* of publish and spawn in a message */
    mq_kept_blob blobs[MQ_KEPT_BLOBS_MAX];
    uint32_t blob_count;
    size_t blob_bytes;
    uint32_t uploads;    /* under way */
    bool is_upload_lost; /* one of them failed */
    char progress[4096];
    size_t progress_len;
    bool is_progress_new;
    int64_t progress_ms;           /* last sent */
    mq_kept_checkpoint sent, next; /* under way; waiting behind it */
    int64_t checkpoint_ms;         /* when `sent` was sent */
} mq_kept_job;

/* Kinds of the user's own, as slots tell them. */
typedef struct mq_told_kinds {
    struct {
        char name[65];
        uint64_t max_run_ms, attempts_max, body_bytes_max;
    } at[MQ_OWN_KINDS_MAX];
    uint32_t count;
} mq_told_kinds;

/* The query a slot waits for; a slot asks one thing at a time. */
typedef struct mq_slot_ask {
    bool is_open;
    uint64_t rid;      /* towards the broker */
    uint64_t slot_rid; /* towards the slot */
    char what[33], name[193];
    int64_t sent_ms, until_ms;
} mq_slot_ask;

typedef struct mq_supervisor {
    const mq_worker_options *options;
    char worker[33]; /* fresh at every start */
    char name[65];
    char host[65];
    char fingerprint[65];                  /* empty until the first slot has told it */
    void *context;                         /* ZeroMQ */
    mq_broker_link links[MQ_WS_TALKS_MAX]; /* one a shard, as many as the session has */
    uint32_t link_count;
    char moved[MQ_WS_TALKS_MAX][MQ_WORKER_URL_MAX]; /* where a shard's owner is said to be, or "" */
    char learned[MQ_WORKER_BROKERS_MAX][MQ_WORKER_URL_MAX]; /* brokers that were not given */
    uint32_t learned_count;
    uint64_t routes; /* version of the latest routes */
    mq_blob_thread *blobs;
    mq_gang_plane *gang;
    mq_worker_session session;
    mq_ws_actions actions;
    bool is_session_on; /* the fingerprint is known, so it may register */
    bool is_over;
    int exit_status;
    int signal_fd;
    uint32_t signals; /* SIGTERM and SIGINT received */
    char **envp;
    mq_slot_settings slot_settings;
    uint32_t slot_count;
    uint32_t start_failures; /* processes that ended before any said hello */
    mq_slot_process slots[MQ_WS_SLOTS_MAX];
    mq_slot_ask asks[MQ_WS_SLOTS_MAX];
    mq_told_kinds own;                   /* those that the worker serves: the first slot's */
    mq_told_kinds told[MQ_WS_SLOTS_MAX]; /* of a slot that starts */
    uint64_t rid;
    uint64_t rss_bytes, load_milli; /* as last read */
    int64_t measured_ms;
    char cache_dir[MQ_CACHE_DIR_MAX];
    char models[MQ_MODELS_TOLD_MAX]
               [MQ_SHA256_HEX]; /* opened for jobs as their model, newest first */
    uint32_t model_count;
    mq_kept_job kept[MQ_WS_JOBS_MAX];
    mq_buf payload; /* scratch */
    mq_msg_held held[MQ_WS_JOBS_MAX];
    uint32_t held_jobs[MQ_WS_JOBS_MAX];
    mq_msg_result_item results[MQ_WS_JOBS_MAX]; /* being put together */
    uint32_t result_jobs[MQ_WS_JOBS_MAX];
    uint32_t result_count;
    uint32_t result_talk; /* shard they are for */
    size_t result_header_bytes;
} mq_supervisor;

/* The link of the shard that the session has at hand. */
static inline mq_broker_link *mq_sv_link(mq_supervisor *sv)
{
    return &sv->links[sv->session.at];
}

/* Runs a worker until it has drained. Returns the exit status. */
int mq_supervisor_run(const mq_worker_options *options);

/* --- inside worker/io --- */

/* Does what the session put out and clears it (act.c). */
void mq_sv_act(mq_supervisor *sv, int64_t now_ms);

/* Handles what the broker sent, at most some messages a turn; true when there may be more. */
bool mq_sv_receive(mq_supervisor *sv, int64_t now_ms);

/* Slots (slots.c): starts those that are due, reads their frames, notices deaths. */
void mq_sv_slots_start(mq_supervisor *sv, int64_t now_ms);
void mq_sv_slot_read(mq_supervisor *sv, uint32_t slot, int64_t now_ms);
/* Results that slots have put in their rings. */
void mq_sv_rings_read(mq_supervisor *sv, int64_t now_ms);
void mq_sv_slots_reap(mq_supervisor *sv, int64_t now_ms);
int64_t mq_sv_slots_deadline(const mq_supervisor *sv, int64_t at_ms);
/* Sends a frame to a slot; a slot that takes none any more is killed. */
void mq_sv_to_slot(mq_supervisor *sv, uint32_t slot, mq_frame_type type, const void *message,
                   int fd);
void mq_sv_slot_start_job(mq_supervisor *sv, uint32_t slot, uint32_t job, int64_t now_ms);
/* Runs that were queued go out. */
void mq_sv_slots_flush(mq_supervisor *sv);
/* Takes a job back unless the slot has begun it. */
void mq_sv_slot_recall(mq_supervisor *sv, uint32_t slot, uint32_t job);
/* The job a slot runs, or NULL. */
mq_kept_job *mq_sv_job_of(mq_supervisor *sv, uint32_t slot);

/* ---- models.c ---- */

/* A blob was opened for the slot's job. */
void mq_models_note(mq_supervisor *sv, uint32_t slot, const char *hash);
/* Forgets those whose files have gone. */
void mq_models_look(mq_supervisor *sv);
/* What the broker is told; borrowed. Returns how many. */
uint32_t mq_models_list(const mq_supervisor *sv, mq_span out[MQ_MODELS_TOLD_MAX]);

/* Kept jobs (kept.c). accept copies; false: no memory for it. */
bool mq_kept_accept(mq_kept_job *kept, const mq_msg_job_item *item, mq_span body);
void mq_kept_forget(mq_kept_job *kept);
MQ_MUST_USE mq_code mq_kept_publish(mq_kept_job *kept, const mq_slot_publish *m, mq_error *err);
MQ_MUST_USE mq_code mq_kept_spawn(mq_kept_job *kept, const mq_slot_spawn *m, mq_error *err);
MQ_MUST_USE mq_code mq_kept_result(mq_kept_job *kept, mq_span bytes, mq_error *err);
/* Takes fd. */
void mq_kept_blob_add(mq_kept_job *kept, const char *hash, int fd);
/* Descriptor of a kept blob, or -1. */
int mq_kept_blob_find(const mq_kept_job *kept, mq_span hash);

/* Queries, checkpoints, progress, blob answers (asks.c). */
void mq_sv_ask(mq_supervisor *sv, uint32_t slot, const mq_slot_query *m, int64_t now_ms);
void mq_sv_answer(mq_supervisor *sv, uint64_t rid, mq_code code, mq_span text, mq_span json);
void mq_sv_checkpoint(mq_supervisor *sv, uint32_t job, const mq_slot_checkpoint *m, int64_t now_ms);
void mq_sv_checkpointed(mq_supervisor *sv, const mq_msg_checkpointed *m, int64_t now_ms);
void mq_sv_progress(mq_supervisor *sv, uint32_t job, mq_span json, int64_t now_ms);
void mq_sv_log(mq_supervisor *sv, uint32_t slot, uint32_t job, mq_span text, int64_t now_ms);
void mq_sv_upload(mq_supervisor *sv, uint32_t job, const mq_span *missing, uint32_t count,
                  int64_t now_ms);
void mq_sv_blob_answers(mq_supervisor *sv, int64_t now_ms);
/* Sends again what is due; returns when to be called next, at most at_ms. */
int64_t mq_sv_asks_due(mq_supervisor *sv, int64_t now_ms, int64_t at_ms);

/* Who this worker is (identity.c). */
void mq_worker_uuid(char out[33]);
void mq_worker_host_id(char out[65]);
/* Load of the machine in thousandths, resident bytes of this process and its slots. */
uint64_t mq_worker_load_milli(void);
uint64_t mq_worker_rss_bytes(pid_t pid);
/* What the processor can do, as tags that jobs may need: NULL behind the last one. */
const char *mq_worker_cpu_tag(uint32_t n);
/* Memory that jobs may use here together: of the slots' limits, the control group, the machine the
 * smallest. slot_bytes 0: no limit of a slot. */
uint64_t mq_worker_memory_bytes(int64_t slot_bytes, uint32_t slots);

#endif

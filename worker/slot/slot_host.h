/* The slot's end of the socketpair: receives frames, keeps what the job will ask for, and offers it
 * all as a mq_host. One thread; one job at a time. */
#ifndef MQ_WORKER_SLOT_SLOT_HOST_H
#define MQ_WORKER_SLOT_SLOT_HOST_H

#include "worker/slot/outcome.h"
#include "worker/slot/stream.h"

enum {
    MQ_SLOT_ASK_MS = 180000,       /* patience with blob and registry answers */
    MQ_SLOT_WRITE_MS = 60000,      /* a supervisor that reads nothing so long is gone */
    MQ_SLOT_PROGRESS_MS = 50,      /* progress more often than this waits for the next call */
    MQ_SLOT_OUT_BYTES = 160 << 20, /* frames that may wait for the supervisor */
};

/* A gang message that waits for the job. */
typedef struct mq_piece mq_piece;

/* Answer to the question under way. */
typedef struct mq_slot_reply {
    bool is_here;
    uint64_t rid;
    mq_code code;
    char text[513];
    char hash[MQ_SHA256_HEX];
    int fd; /* owned until taken; -1 */
    uint64_t bytes;
    mq_buf json;
} mq_slot_reply;

typedef struct mq_slot_host {
    mq_host host; /* first: a mq_host * is a mq_slot_host * */
    mq_stream stream;
    const mq_slot_page *page; /* read-only map */
    mq_claims_page *claims;   /* NULL: every run is ours */
    mq_buf later;             /* run frames that came ahead of time: u32 length, body, ... */
    size_t later_at;          /* bytes of it that were taken */
    size_t memory_bytes_max;
    bool want_fingerprint;
    mq_arena strings;     /* of the current job */
    uint64_t frames_sent; /* to the supervisor */
    uint32_t untold;      /* results put in the ring since the last news */
    uint64_t untold_us;   /* run time of these jobs */
    uint64_t told_at;     /* the ring's tail at the last news */
    mq_outcome outcome;
    uint64_t run;        /* number of the current or pending run; 0 = none */
    uint64_t gang_epoch; /* of the run: it begins once this roster is here */
    uint64_t rid;
    mq_slot_reply reply;
    mq_roster roster;
    mq_piece *head, *tail; /* inbox, oldest first */
    mq_piece *current;     /* lent by the last gang_recv */
    uint64_t sent_bytes;   /* under sent_epoch, not yet received by members */
    uint64_t sent_epoch;
    uint64_t taken_bytes[MQ_SEATS_MAX]; /* received and not yet told, by index in the roster */
    uint64_t checkpointed;
    int64_t progress_ms; /* of the last one sent */
    char progress[4096]; /* waiting; empty = none */
    size_t progress_len;
} mq_slot_host;

/* Takes fd. */
void mq_slot_host_init(mq_slot_host *sh, int fd);
void mq_slot_host_release(mq_slot_host *sh);

/* Receives until `start` has come: MQ_E_TIMEOUT, MQ_E_IO. */
MQ_MUST_USE mq_code mq_slot_host_start(mq_slot_host *sh, int64_t timeout_ms, mq_error *err);
MQ_MUST_USE mq_code mq_slot_host_hello(mq_slot_host *sh, const char *fingerprint, mq_error *err);

/* Before hello: a kind of the user's own. In place of hello: why this slot cannot serve. */
MQ_MUST_USE mq_code mq_slot_host_kind(mq_slot_host *sh, const mq_slot_kind *kind, mq_error *err);
MQ_MUST_USE mq_code mq_slot_host_unfit(mq_slot_host *sh, const char *why, mq_error *err);

/* Waits for the next job, which is then in sh->host. MQ_E_IO: the supervisor is gone. */
MQ_MUST_USE mq_code mq_slot_host_next(mq_slot_host *sh, mq_error *err);

/* Sends what the job gave (code MQ_OK) or why it failed, and forgets the job. */
MQ_MUST_USE mq_code mq_slot_host_end(mq_slot_host *sh, mq_code code, uint64_t run_us,
                                     const mq_error *failure, mq_error *err);

/* --- inside worker/slot --- */

/* Handles what arrives within timeout_ms (0: what is there). MQ_E_IO when the supervisor is gone.
 */
mq_code mq_slot_pump(mq_slot_host *sh, int64_t timeout_ms, mq_error *err);

/* (Progress and log lines ignore failures: a dead supervisor shows at the next question.)
 * Sends a frame; waits while more than 1 MiB is unsent. */
mq_code mq_slot_send_frame(mq_slot_host *sh, mq_frame_type type, const void *message, int fd,
                           mq_error *err);

/* MQ_OK, or MQ_E_CANCELLED. */
mq_code mq_slot_check(mq_host *host, mq_error *err);

/* The gang part of mq_host_ops (slot_gang.c) and its share of arriving frames. */
extern const mq_host_ops mq_slot_ops;
void mq_slot_gang_roster(mq_host *host, mq_roster *out);
mq_code mq_slot_gang_roster_wait(mq_host *host, uint64_t after, int64_t timeout_ms, mq_roster *out,
                                 mq_error *err);
void mq_slot_gang_report_lost(mq_host *host, uint64_t epoch, uint32_t seat);
mq_code mq_slot_gang_segment(mq_host *host, uint64_t epoch, size_t bytes, int64_t timeout_ms,
                             void **out, mq_error *err);
void mq_slot_gang_segment_release(mq_host *host, void *at, size_t bytes);
bool mq_slot_gang_is_broken(mq_host *host, uint64_t epoch);
mq_code mq_slot_gang_send(mq_host *host, uint64_t epoch, uint32_t to_seat, uint32_t tag,
                          mq_span bytes, mq_error *err);
mq_code mq_slot_gang_recv(mq_host *host, uint64_t epoch, int64_t timeout_ms, mq_gang_message *out,
                          mq_error *err);
mq_code mq_slot_gang_checkpoint(mq_host *host, uint64_t epoch, uint64_t step, const char *chain,
                                const char *blob, mq_span meta, mq_error *err);
uint64_t mq_slot_gang_checkpointed(mq_host *host);
MQ_MUST_USE mq_code mq_slot_gang_on_roster(mq_slot_host *sh, const mq_slot_roster *m,
                                           mq_error *err);
MQ_MUST_USE mq_code mq_slot_gang_on_piece(mq_slot_host *sh, const mq_slot_piece *m, mq_error *err);
void mq_slot_gang_on_window(mq_slot_host *sh, const mq_slot_window *m);
void mq_slot_gang_reset(mq_slot_host *sh);

#endif

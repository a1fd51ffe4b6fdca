/* One run of a train job in one member: what its parts share. The order of a life:
 *
 *     mq_trainer_open          manifest -> names resolved, first model, data, plan, compiled net
 *     mq_trainer_ready         a whole state: the one held, else the last checkpoint, else step 0
 *     mq_trainer_meet          who holds what; all members get the same whole state
 *     mq_trainer_run_gang      steps until the last one, or MQ_E_STALE: meet again
 *     mq_trainer_run_pipeline  likewise, one stage of the net in each member
 *     mq_trainer_finish        member 0: evaluate, write ONNX, publish
 *
 * mq_kind_run_train (worker/kinds/train.c) calls them. */
#ifndef MQ_WORKER_TRAIN_TRAIN_H
#define MQ_WORKER_TRAIN_TRAIN_H

#include "worker/data/dataset.h"
#include "worker/train/exchange.h"
#include "worker/train/link.h"
#include "worker/train/manifest.h"
#include "worker/train/net.h"
#include "worker/train/philox.h"
#include "worker/train/state.h"
#include "worker/train/tree.h"

enum { MQ_TRAIN_EVAL_BATCH = 256 };

/* What member 0 tells the job's owner, and when it last did. */
typedef struct mq_reporter {
    int64_t progress_ms;   /* time of the last report */
    int64_t checkpoint_ms; /* time of the last offer */
    int64_t cost_ms;       /* what it took */
    uint64_t checkpoint_step;
    uint64_t rate_step; /* step at progress_ms */
    mq_sums sums;       /* since the last report */
    double rate;        /* samples per second, smoothed */
} mq_reporter;

typedef struct mq_trainer {
    mq_host *host; /* borrowed */
    mq_manifest m;
    mq_arena arena;  /* as long as the trainer */
    mq_arena roster; /* as long as one roster; reset by mq_trainer_run_* */
    char fingerprint[MQ_SHA256_HEX];

    mq_map_file init_file;         /* the first model's bytes, when they are a blob */
    char from_blob[MQ_SHA256_HEX]; /* the model that a run goes on from, "" = an architecture */
    mq_model *model;               /* owned: graph and first weights */
    mq_dataset *data;              /* owned */
    mq_net *net;                   /* owned: the whole graph for the rows of one shard */
    mq_plan plan;
    uint32_t shard_rows;
    float *x;    /* shard_rows rows of features */
    mq_label *y; /* their labels */
    float *row;  /* one row, for augmentation */
    mq_permutation permutation;
    mq_permutation split; /* of all rows: those held out for validation come first */
    mq_dataset *held;     /* owned: validation's own dataset, or NULL */

    mq_state_param *params;
    mq_state state;
    bool is_whole;                       /* state is whole: vectors and record all of record.step */
    char checkpoint_blob[MQ_SHA256_HEX]; /* newest checkpoint known, "" = none */
    uint64_t checkpoint_step;

    uint64_t continued_step; /* where a run of fewer epochs had ended; 0 = began anew */

    mq_reporter reporter;
} mq_trainer;

/* --- setup.c --- */

/* Reads the host's body and makes ready to train. Close also after an error. */
MQ_MUST_USE mq_code mq_trainer_open(mq_trainer *t, mq_host *host, mq_error *err);
void mq_trainer_close(mq_trainer *t);

/* Makes state whole. */
MQ_MUST_USE mq_code mq_trainer_ready(mq_trainer *t, mq_error *err);

/* --- meet.c --- */

/* All members of the link's roster say what they hold; the greatest step wins, and who lags gets
 * its state from the first member that has it. Fails with MQ_E_CONFLICT when manifests,
 * fingerprints or states of one step differ. */
MQ_MUST_USE mq_code mq_trainer_meet(mq_trainer *t, mq_link *link, mq_error *err);

/* --- step.c --- */

/* Loads features (x not NULL) and labels (y not NULL) of a shard of the state's step. */
MQ_MUST_USE mq_code mq_trainer_gather(mq_trainer *t, uint32_t shard, float *x, mq_label *y,
                                      mq_error *err);

/* MQ_OK, MQ_E_CANCELLED, or MQ_E_STALE when the roster is not `epoch` any more. For step ends. */
MQ_MUST_USE mq_code mq_trainer_check(mq_trainer *t, uint64_t epoch, mq_error *err);

/* Sums of a whole batch in the order of its shards. */
mq_sums mq_trainer_sums(const mq_trainer *t, const mq_shard_stats *stats);

/* Steps to the end of the run as a member of the roster. link is NULL for a gang of one. */
MQ_MUST_USE mq_code mq_trainer_run_gang(mq_trainer *t, const mq_roster *roster, mq_link *link,
                                        mq_error *err);

/* --- pipeline.c --- */

/* The same with one stage of the net in each of the first `stages` members. A roster's end leaves
 * every member with its stage only: state is not whole any more, and all go back to the last
 * checkpoint (at most run.commit_ms of work). */
MQ_MUST_USE mq_code mq_trainer_run_pipeline(mq_trainer *t, mq_link *link, uint32_t stages,
                                            mq_error *err);

/* --- validate.c --- */

/* At an epoch's end, and at the last step, with a whole state: scores the held-out rows and moves
 * the record; nothing otherwise, and without validation. MQ_E_NUMERIC as in mq_state_count. */
MQ_MUST_USE mq_code mq_trainer_validate(mq_trainer *t, mq_error *err);

/* --- continue.c --- */

/* Takes over the last state of a finished run of the same family with at most as many epochs. False
 * when there is none, or reuse is off; the state is then undefined. */
bool mq_trainer_continue(mq_trainer *t);

/* Member 0, at the end: remembers the last checkpoint under the family's hash, if it goes further
 * than the one remembered. */
MQ_MUST_USE mq_code mq_trainer_remember(mq_trainer *t, mq_error *err);

/* --- report.c, member 0 only --- */

void mq_trainer_report_begin(mq_trainer *t);

/* After each step: progress when it is time. */
void mq_trainer_report(mq_trainer *t, uint32_t workers, const mq_sums *step);

/* True when enough time has passed since the last checkpoint. */
bool mq_trainer_is_checkpoint_time(const mq_trainer *t);

/* True when a checkpoint is due after the present step: at that time, at most ends of epochs, and
 * at the end. */
bool mq_trainer_is_checkpoint_due(const mq_trainer *t);

/* Stores the (whole) state and offers it under the roster's epoch. */
MQ_MUST_USE mq_code mq_trainer_checkpoint(mq_trainer *t, uint64_t epoch, mq_error *err);

/* One line for the job's log. */
void mq_trainer_log(const mq_trainer *t, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* --- finish.c, member 0 only --- */

/* Appends the curve as a JSON array of {"epoch","step","loss","accuracy"}. */
void mq_trainer_curve(const mq_trainer *t, mq_buf *out);

/* Evaluates, writes the model, publishes it and the memo, sets the job's result. */
MQ_MUST_USE mq_code mq_trainer_finish(mq_trainer *t, mq_error *err);

/* Looks for a finished run of the same manifest with the same fingerprint. When there is one,
 * *is_found and the job's result is that run's, published under m.model when it was under another
 * name. */
MQ_MUST_USE mq_code mq_trainer_reuse(mq_trainer *t, bool *is_found, mq_error *err);

#endif

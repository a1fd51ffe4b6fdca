/* What this broker has seen the store hold, kept beside the store: the deployment's identity and
 * the last commit of a shard, its own or (as the table tells it) another broker's. A store that
 * comes back empty, as another deployment's, or with fewer commits than were acknowledged (a wrong
 * volume, a restored copy, a replica that was behind) is not served until an operator says so
 * (--adopt): acknowledged jobs would be forgotten silently.
 *
 * --adopt forgets what was seen, but remembers it to tell what is lost by it, and so that the new
 * ownership gets an epoch that no former one had: a lease of a job that the store has forgotten
 * must not be taken for one of another job's.
 *
 * Without a folder the memory is the process's own. With one it is a file of one line,
 * DIR/shard-N: "INSTANCE SEQUENCE EPOCH SUBMITTED ENDED LINEAGE", rewritten in place
 * MQ_WITNESS_WRITE_MS after a commit at the latest, which survives a kill of the process; so
 * commits of that last moment can be forgotten unnoticed only when every broker dies in the moment
 * in which the store is exchanged. One thread.
 *
 * Sequence and epoch are numbers, and numbers can be overtaken: a former primary that comes back
 * after a failover, or a copy that others have worked on, may have larger ones. So the last id of
 * the store's lineage (shared/store/store.h) is remembered as well, and data without it are
 * refused, at the store itself before a takeover changes anything.
 */
#ifndef MQ_BROKER_IO_WITNESS_H
#define MQ_BROKER_IO_WITNESS_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/error.h"

enum { MQ_WITNESS_WRITE_MS = 200 };

typedef struct mq_witness {
    char instance[64]; /* "" = none seen yet */
    uint64_t sequence;
    uint64_t epoch;            /* of the last ownership */
    uint64_t submitted, ended; /* jobs so far, as that commit left them */
    char lineage[17];          /* id of the last takeover seen; "" = none */
    struct {
        bool is_set;
        char instance[64];
        uint64_t sequence, epoch, submitted, ended;
    } left;           /* what --adopt has put aside */
    uint64_t written; /* sequence in the file */
    int64_t write_ms; /* monotonic: not before */
    int fd;           /* -1 = no file */
} mq_witness;

/* dir: "" = no file; else it is made when missing. must_adopt: what the file says goes to `left`.
 * MQ_E_IO; MQ_E_FORMAT for a file that is not one of ours. */
MQ_MUST_USE mq_code mq_witness_open(mq_witness *w, const char *dir, int64_t shard, bool must_adopt,
                                    mq_error *err);
void mq_witness_close(mq_witness *w);

/* MQ_OK, or MQ_E_CONFLICT with what is wrong and what to do. lineage: all ids that the store tells,
 * newest first. */
MQ_MUST_USE mq_code mq_witness_check(const mq_witness *w, const char *instance, uint64_t sequence,
                                     const char *lineage, mq_error *err);

/* The store holds this, and it has been checked. lineage: "" = as before. now_ms: monotonic. */
void mq_witness_note(mq_witness *w, const char *instance, uint64_t sequence, const char *lineage,
                     int64_t now_ms);

/* What that commit left, and whose it was; comes before the note of it. */
void mq_witness_count(mq_witness *w, uint64_t epoch, uint64_t submitted, uint64_t ended);

/* Writes what is not written yet when its time has come; at once with now_ms INT64_MAX. */
void mq_witness_flush(mq_witness *w, int64_t now_ms);
/* When that will be, INT64_MAX when all is written. */
int64_t mq_witness_deadline(const mq_witness *w);

#endif

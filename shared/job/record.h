/* A job as it is stored: one packed MessagePack value, with its last 16 transitions in it. The same
 * bytes are the live record, the final record and the dead letter. Pure. */
#ifndef MQ_JOB_RECORD_H
#define MQ_JOB_RECORD_H

#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/job/lifecycle.h"

enum {
    MQ_RECORD_DEPS_MAX = 64,
    MQ_RECORD_MEMBERS_MAX = 64,
    MQ_RECORD_HISTORY_MAX = 16,
    MQ_RECORD_BYTES_MAX = 16384, /* of one packed record */
};

/* Bits of `flags`. */
enum {
    MQ_REC_QUIET = 1,        /* no `done` to the submitter */
    MQ_REC_CANCELLING = 2,   /* soft cancel asked while it was leased */
    MQ_REC_SPENT = 4,        /* the token's failure has been counted; only a repeat can come */
    MQ_REC_ACCEPTED = 8,     /* the holder has beaten for the lease */
    MQ_REC_HAS_RESULT = 16,  /* a result (maybe of 0 bytes) was committed */
    MQ_REC_DISCARDED = 32,   /* its dead letter was put away: it cannot be brought back */
    MQ_REC_REPLICATED = 128, /* durability replicated */
    MQ_REC_ANYWAY = 64,      /* runs when its parents have ended, however they did */
};

/* One step of the life, packed into 64 bits: ms << 20 | grant number << 8 | event << 4 | state. The
 * grant number is the low 12 bits of how often the job had been granted. */
typedef struct mq_transition {
    int64_t at_ms;
    uint32_t grants;
    mq_event event;
    mq_state to;
} mq_transition;

uint64_t mq_transition_pack(mq_transition t);
mq_transition mq_transition_unpack(uint64_t word);

/* A seat that was leased when the record was written. */
typedef struct mq_record_member {
    uint64_t seat;
    uint64_t grant;
    mq_span worker; /* UUID */
} mq_record_member;

/* All spans are borrowed: from the caller when packing, from the packed bytes after reading. */
typedef struct mq_job_record {
#define MQ_REC_U64(field, key)        uint64_t field;
#define MQ_REC_I64(field, key)        int64_t field;
#define MQ_REC_TEXT(field, key, max)  mq_span field;
#define MQ_REC_BYTES(field, key, max) mq_span field;
#include "shared/job/record.def"
#undef MQ_REC_U64
#undef MQ_REC_I64
#undef MQ_REC_TEXT
#undef MQ_REC_BYTES
    uint32_t dep_count, member_count, history_count;
    mq_span deps[MQ_RECORD_DEPS_MAX]; /* parents that are not done yet */
    mq_record_member members[MQ_RECORD_MEMBERS_MAX];
    uint64_t history[MQ_RECORD_HISTORY_MAX]; /* oldest first, mq_transition_pack */
} mq_job_record;

/* Appends the packed record. MQ_E_LIMIT when the buffer is full; a field beyond its limit is our
 * own bug. */
MQ_MUST_USE mq_code mq_job_record_pack(const mq_job_record *record, mq_buf *out, mq_error *err);

/* Reads a packed record; every field is checked against its limit, the id, state, kind must be
 * there. MQ_E_FORMAT names the field. */
MQ_MUST_USE mq_code mq_job_record_read(mq_span packed, mq_job_record *out, mq_error *err);

/* True when all fields are equal: what the recovery test asks. *field (may be NULL) names the first
 * difference. */
bool mq_job_record_equal(const mq_job_record *a, const mq_job_record *b, const char **field);

#endif

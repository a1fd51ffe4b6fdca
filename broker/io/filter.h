/* "state=dead kind=train": which jobs a list or a bulk action is about. All terms must hold. */
#ifndef MQ_BROKER_IO_FILTER_H
#define MQ_BROKER_IO_FILTER_H

#include "shared/base/error.h"
#include "shared/job/record.h"

enum { MQ_FILTER_TERMS = 8 };

/* A job as a filter sees it; what a list does not know stays empty. */
typedef struct mq_facts {
    mq_span id, kind, queue, model, tenant, state, worker, why, code, fingerprint;
} mq_facts;

typedef struct mq_filter {
    uint32_t count;
    mq_span keys[MQ_FILTER_TERMS], values[MQ_FILTER_TERMS]; /* borrowed from the text */
} mq_filter;

/* MQ_E_ARG names the term that is not understood. Borrows text. */
MQ_MUST_USE mq_code mq_filter_read(mq_span text, mq_filter *out, mq_error *err);
bool mq_filter_matches(const mq_filter *filter, const mq_facts *facts);
/* Value of a term, empty when the filter has none of this key. */
mq_span mq_filter_value(const mq_filter *filter, const char *key);

/* Facts of a stored record; print (MQ_FINGERPRINT_SIZE) holds its fingerprint's text. Borrows both.
 */
mq_facts mq_facts_of(const mq_job_record *record, char *print);

#endif

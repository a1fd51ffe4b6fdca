/* One model file under our session, with inputs made up for it: what both sides of the comparison
 * run. */
#ifndef MQ_TESTS_BENCH_PEER_SUBJECT_H
#define MQ_TESTS_BENCH_PEER_SUBJECT_H

#include "shared/base/file.h"
#include "worker/exec/session.h"

enum { SUBJECT_VALUES_MAX = 8 };

typedef struct subject {
    mq_map_file file;
    mq_model *model;
    mq_session *session;
    mq_tensor inputs[SUBJECT_VALUES_MAX]; /* data owned */
    size_t input_count, output_count;
    const char *input_names[SUBJECT_VALUES_MAX], *output_names[SUBJECT_VALUES_MAX];
} subject;

/* Free first dimensions become `batch`, other free ones 16; floats are random in [0, 1), integers
 * random in 0 and 1, masks 1. */
MQ_MUST_USE mq_code subject_load(subject *s, const char *path, const mq_session_options *options,
                                 mq_error *err);
MQ_MUST_USE mq_code subject_inputs(subject *s, int64_t batch, mq_error *err);
void subject_release(subject *s);

#endif

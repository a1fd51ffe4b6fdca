/* One model file under a session, with inputs made up for it: what benchmarks run. */
#ifndef MQ_WORKER_LOCAL_SUBJECT_H
#define MQ_WORKER_LOCAL_SUBJECT_H

#include "shared/base/file.h"
#include "worker/exec/session.h"

enum { MQ_SUBJECT_VALUES_MAX = 8 };

typedef struct mq_subject {
    mq_map_file file;
    mq_model *model;
    mq_session *session;
    mq_tensor inputs[MQ_SUBJECT_VALUES_MAX]; /* data owned */
    size_t input_count, output_count;
    const char *input_names[MQ_SUBJECT_VALUES_MAX], *output_names[MQ_SUBJECT_VALUES_MAX];
} mq_subject;

/* Free first dimensions become `batch`, other free ones 16; floats are random in [0, 1), integers
 * random in 0 and 1, masks 1. */
MQ_MUST_USE mq_code mq_subject_load(mq_subject *s, const char *path,
                                    const mq_session_options *options, mq_error *err);
MQ_MUST_USE mq_code mq_subject_inputs(mq_subject *s, int64_t batch, mq_error *err);

/* The name of a model file's bytes, as the worker knows it of a blob. */
MQ_MUST_USE mq_code mq_subject_hash(const char *path, char hash[MQ_SHA256_HEX], mq_error *err);
void mq_subject_release(mq_subject *s);

#endif

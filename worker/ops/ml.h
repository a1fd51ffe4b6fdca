/* What the classifiers and regressors of ai.onnx.ml share. */
#ifndef MQ_WORKER_OPS_ML_H
#define MQ_WORKER_OPS_ML_H

#include "worker/ops/element.h"

#define MQ_ML_INPUTS (MQ_T(MQ_DT_F32) | MQ_T(MQ_DT_F64) | MQ_T(MQ_DT_I32) | MQ_T(MQ_DT_I64))

/* post_transform of a row of scores. */
typedef enum mq_ml_post {
    MQ_ML_NONE,
    MQ_ML_SOFTMAX,
    MQ_ML_LOGISTIC,
    MQ_ML_SOFTMAX_ZERO, /* scores that are 0 stay 0 */
    MQ_ML_PROBIT,
} mq_ml_post;

MQ_MUST_USE mq_code mq_ml_post_parse(mq_span name, mq_ml_post *out, mq_error *err);
void mq_ml_post_apply(mq_ml_post post, double *scores, size_t n);
double mq_ml_logistic(double x);

/* Labels of a classifier: integers or strings, whichever is given. */
typedef struct mq_ml_labels {
    mq_ints ints;
    mq_strings strings;
} mq_ml_labels;

size_t mq_ml_label_count(const mq_ml_labels *labels);
mq_dtype mq_ml_label_type(const mq_ml_labels *labels);
/* y[i] = label k; without labels, k itself. */
void mq_ml_label_put(const mq_ml_labels *labels, const mq_tensor *y, size_t i, size_t k);

/* Rows and columns of [N, C] or [C], which is one row. MQ_E_ARG for other ranks. */
MQ_MUST_USE mq_code mq_ml_rows(const mq_tensor *x, size_t *rows, size_t *columns, mq_error *err);

/* Sets outputs [rows] of labels and [rows, scores] of float32. */
void mq_ml_classifier_shape(const mq_op_call *call, const mq_ml_labels *labels, size_t rows,
                            size_t scores);

#define MQ_ML_ATTR(type_, struct_, name_, field_)                                                  \
    {                                                                                              \
        .name = (name_), .type = MQ_ATTR_##type_, .offset = offsetof(struct_, field_)              \
    }
#define MQ_ML_TEXT(struct_, name_, field_, value_)                                                 \
    {                                                                                              \
        .name = (name_), .type = MQ_ATTR_STRING, .offset = offsetof(struct_, field_),              \
        .s = (value_)                                                                              \
    }

#endif

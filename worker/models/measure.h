/* What a model costs and how well it answers, measured by running it. */
#ifndef MQ_WORKER_MODELS_MEASURE_H
#define MQ_WORKER_MODELS_MEASURE_H

#include "worker/data/dataset.h"
#include "worker/onnx/model.h"

/* Median time of one run on one row (free dimensions are 1) in microseconds: at most 201 runs or
 * 100 ms. NAN when the model does not run here on such inputs. */
double mq_model_latency_us(const mq_model *model);

/* Answers over a labelled dataset. Vectors have `classes` entries and are owned. */
typedef struct mq_score {
    uint64_t rows;
    double accuracy; /* share of rows whose largest output is the label; NAN for values */
    double loss;     /* mean softmax cross-entropy over the outputs, or mean squared error */
    int32_t classes; /* 0 for values */
    uint64_t *class_rows;
    uint64_t *class_correct;
    double rows_per_s; /* of the whole pass, reading included */
} mq_score;

/* Runs the model (one input, features as in dataset.h; its first output [rows, classes], or [rows]
 * or [rows, 1] for values) over all rows, `batch` at a time. Asks host->check between batches and
 * reports progress under `stage` when it is not NULL. Release also after an error. */
MQ_MUST_USE mq_code mq_model_score(mq_score *out, const mq_model *model, mq_dataset *data,
                                   uint32_t batch, mq_host *host, const char *stage, mq_error *err);
void mq_score_release(mq_score *score);

#endif

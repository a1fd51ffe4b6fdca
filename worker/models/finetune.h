/* Fine-tuning of a model by one worker: a few epochs of SGD with momentum over a dataset, for what
 * compression has cost. With keep_zeros, weights that are exactly 0 stay exactly 0.
 *
 * The result is a function of model, data and options, to the bit, within one numeric class
 * (TRAINING.md): rows come in the order of mq_permutation by seed and epoch, batches are whole. */
#ifndef MQ_WORKER_MODELS_FINETUNE_H
#define MQ_WORKER_MODELS_FINETUNE_H

#include "worker/data/dataset.h"
#include "worker/onnx/model.h"

typedef struct mq_finetune_options {
    uint32_t epochs; /* at least 1 */
    uint32_t batch;  /* rows of a step; at most the dataset's */
    double lr;       /* of the first step; falls to 0 in a straight line */
    double momentum;
    uint64_t seed;
    bool keep_zeros;
} mq_finetune_options;

typedef struct mq_finetune_result {
    uint64_t steps;
    double loss;     /* mean over the last epoch */
    double accuracy; /* likewise, on the training rows as they were seen */
} mq_finetune_result;

/* Trains model in place. Errors name what does not fit: no gradient, no class labels, rows of
 * another size, fewer rows than a batch; MQ_E_NUMERIC when the loss is not finite. Asks host->check
 * at every step and reports progress. */
MQ_MUST_USE mq_code mq_finetune(mq_model *model, mq_dataset *data,
                                const mq_finetune_options *options, mq_host *host,
                                mq_finetune_result *out, mq_error *err);

#endif

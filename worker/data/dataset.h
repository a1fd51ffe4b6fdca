/* A published dataset, opened for reading. Its rows lie in shards: blobs in safetensors layout with
 * tensors "x" ([rows, feature shape], uint8 or float32) and "y" ([rows]: uint8 or int32 class
 * numbers, or float32 values). Shards are mapped when first touched and stay mapped until free.
 *
 * Meaning of numbers, the same for training, evaluation and serving: uint8 features are divided by
 * 255 (mq_features_from_u8), float32 features are taken as they are.
 *
 * Meta, as the registry keeps it:
 *   {"rows":N,"format":"idx","features":{"x":{"dtype":"uint8","shape":[28,28]},
 *    "y":{"dtype":"uint8","classes":10}},"shards":[{"blob":hex,"rows":n,"bytes":b}],
 *    "columns":[...],"stats":{...},"source":[names]}
 * features.y.classes is absent for values; features.y is null when there are no labels. */
#ifndef MQ_WORKER_DATA_DATASET_H
#define MQ_WORKER_DATA_DATASET_H

#include "shared/tensor/tensor.h"
#include "worker/slot/host.h"

enum {
    MQ_DATASET_SHARDS_MAX = 1000,
    MQ_DATASET_CLASSES_MAX = 1 << 20,
};
#define MQ_DATASET_ROWS_MAX ((uint64_t)1 << 31)

typedef struct mq_dataset mq_dataset;

typedef struct mq_dataset_facts {
    char name[300]; /* "name@version", as the registry resolved it */
    uint64_t rows;
    mq_dtype x_dtype; /* MQ_DT_U8 or MQ_DT_F32 */
    mq_shape x_shape; /* of one row */
    size_t x_count;   /* elements of one row */
    mq_dtype y_dtype; /* MQ_DT_U8, MQ_DT_I32 or MQ_DT_F32; MQ_DT_NONE: no labels */
    int32_t classes;  /* 0 when y are values */
    uint32_t shards;
} mq_dataset_facts;

/* Asks the host's registry. The host is borrowed until free. MQ_E_NOT_FOUND names the dataset,
 * MQ_E_FORMAT the field of its meta that is wrong. */
MQ_MUST_USE mq_code mq_dataset_open(mq_dataset **out, mq_host *host, const char *name,
                                    mq_error *err);
void mq_dataset_free(mq_dataset *dataset);

const mq_dataset_facts *mq_dataset_facts_of(const mq_dataset *dataset);

/* Row r as features: x[0..x_count-1] gets floats; *y (may be NULL) the class number, *value (may be
 * NULL) the label as a float. Labels are checked against classes: MQ_E_CORRUPT names the row. */
MQ_MUST_USE mq_code mq_dataset_row(mq_dataset *dataset, uint64_t row, float *x, int32_t *y,
                                   float *value, mq_error *err);

/* Rows first .. first+count-1, one after the other, likewise. */
MQ_MUST_USE mq_code mq_dataset_rows(mq_dataset *dataset, uint64_t first, uint64_t count, float *x,
                                    int32_t *y, float *value, mq_error *err);

/* out[i] = in[i] / 255.0f for n elements. */
void mq_features_from_u8(const uint8_t *in, size_t n, float *out);

#endif

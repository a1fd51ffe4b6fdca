/* Rows of a published dataset, read from its shards in the blob store (their layout is described in
 * worker/data/dataset.h). For showing some and for asking a model about them. */
#ifndef MQ_CLI_ROWS_H
#define MQ_CLI_ROWS_H

#include "client/cli/cli.h"
#include "shared/tensor/safetensors.h"

typedef struct mq_rows {
    mq_cli *cli;
    json_t *answer; /* owned: the registry's */
    const json_t *shards;
    char name[192]; /* "fashion@1" */
    uint64_t count;
    size_t x_count; /* numbers of one row */
    mq_shape x_shape;
    bool is_labelled;
    int64_t classes; /* 0 when labels are values */
    /* the shard that is open */
    size_t shard;
    uint64_t first, last; /* its rows are first..last-1; none open when equal */
    void *bytes;          /* owned (maasq_free) */
    mq_safetensors file;
} mq_rows;

/* MQ_EXIT_OK, or the error has been printed. Release in both cases. */
int mq_rows_open(mq_rows *rows, mq_cli *cli, const char *dataset);
void mq_rows_release(mq_rows *rows);

/* Row number i < count: x_count floats (bytes are divided by 255, as workers do it) and its label
 * (0 when there are none). Reading in order fetches each shard once. */
int mq_rows_get(mq_rows *rows, uint64_t i, float *x, double *y);

#endif

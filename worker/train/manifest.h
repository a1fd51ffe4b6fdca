/* The body of a train job: a JSON object that says everything that decides the weights, and a
 * little that does not.
 *
 *     {"model":"fashion", "data":"fashion@1", "eval":"fashion-test@1",
 *      "init":{"blob":"<64 hex>"}, "epochs":5, "batch":256, "shards":8, "seed":1, "max_steps":0,
 *      "loss":"cross-entropy", "optimizer":"sgd", "lr":0.1, "momentum":0.9, "weight_decay":0,
 *      "schedule":"cosine", "mode":"gang",
 *      "run":{"commit_ms":2000,"progress_ms":250,"transport":"auto","reuse":true}}
 *
 * field         needed  limit / default              meaning
 * model         yes     name, 1..64 [A-Za-z0-9._-]   published under this name              (*)
 * data          yes     name or name@version, <= 128 dataset to train on; rows cut to whole batches
 * eval          no      likewise                     dataset for the accuracy at the end
 * init          no      {"blob":hex}, {"arch":text}  first weights and graph; without it the job's
 *                                                    model, which the broker resolved
 *   head        no      1..65536                     in init, with blob or alone: a fresh last
 *                                                    layer of so many outputs (models/head.h)
 * epochs        no      1..10000, 5                  passes over the data
 * batch         no      1..65536, 256                rows of one step
 * shards        no      1,2,4..64, 8                 logical shards = micro-batches; divides batch
 * micro_batches no      = shards                     accepted only with that value
 * seed          no      0..2^63-1, 1                 key of every random number
 * max_steps     no      0..10^9, 0 = no limit        stop after so many steps
 * validation, patience, min_delta, last  no        early stopping and the best epoch: validation.h
 * crop, shift, flip  no                              augmentation of images: augment.h
 * freeze        no      1..32 texts of 1..127 bytes  patterns of tensors that stay: freeze.h
 * loss, optimizer, lr, schedule, ... no              the recipe: recipe.h lists its fields
 * mode          no      "gang", "pipeline:1..16"     how members share the work             (*)
 * run           no      object                       how often and by what means            (*)
 *   commit_ms   no      10..3600000, 2000            time between checkpoints
 *   progress_ms no      0..60000, 250                time between progress reports
 *   transport   no      "auto", "shm", "message"     ("zmq" is the same as "message")
 *   reuse       no      true                         return an equal finished run's model
 *
 * (*) not part of the manifest hash, because it cannot change a weight. Neither is the number of
 * workers, which is no field at all. Other fields are refused.
 *
 * Gradients are accumulated over the shards: only one shard's activations are in memory at a time,
 * so a large batch needs more shards, not more memory.
 *
 * The canonical form is the object of the hashed fields, names sorted, without blanks,
 * data and eval with their versions, init as a blob. Its SHA-256 is the manifest hash. */
#ifndef MQ_WORKER_TRAIN_MANIFEST_H
#define MQ_WORKER_TRAIN_MANIFEST_H

#include "shared/base/buf.h"
#include "shared/base/error.h"
#include "shared/base/sha256.h"
#include "worker/train/augment.h"
#include "worker/train/freeze.h"
#include "worker/train/recipe.h"
#include "worker/train/validation.h"

enum {
    MQ_MANIFEST_NAME_SIZE = 65,
    MQ_MANIFEST_REF_SIZE = 129, /* name@version */
    MQ_MANIFEST_SHARDS_MAX = 64,
    MQ_MANIFEST_STAGES_MAX = 16,
    MQ_MANIFEST_BODY_MAX = 262144, /* bytes; as in kinds.def */
};

typedef enum mq_transport {
    MQ_TRANSPORT_AUTO, /* shared memory when all members are on one host, else messages */
    MQ_TRANSPORT_SHM,
    MQ_TRANSPORT_MESSAGE
} mq_transport;

typedef struct mq_manifest {
    /* hashed */
    char data[MQ_MANIFEST_REF_SIZE];
    char eval[MQ_MANIFEST_REF_SIZE]; /* "" = none */
    char init_blob[MQ_SHA256_HEX];   /* "" until sealed, unless given */
    uint32_t epochs, batch, shards;
    int64_t seed;
    mq_recipe recipe;
    mq_freeze freeze;
    mq_augment augment;
    mq_validation validation;
    uint64_t max_steps;
    /* not hashed */
    char model[MQ_MANIFEST_NAME_SIZE];
    char init_arch[MQ_MANIFEST_REF_SIZE]; /* "" = none */
    uint32_t init_head;                   /* 0 = the model's own; seen in init_blob */
    bool is_pipeline;
    uint32_t stages; /* 1 for a gang */
    uint32_t commit_ms, progress_ms;
    mq_transport transport;
    bool reuse;
    /* set by mq_manifest_seal */
    char hash[MQ_SHA256_HEX];
    char family[MQ_SHA256_HEX]; /* hash of all but epochs where mq_manifest_continues, else hash */
} mq_manifest;

/* Reads and checks. MQ_E_FORMAT for bytes that are no JSON object, MQ_E_ARG naming the field, its
 * limit and what to do otherwise. */
MQ_MUST_USE mq_code mq_manifest_parse(mq_manifest *out, mq_span body, mq_error *err);

/* Puts in what names were resolved to ("fashion@1"; eval may be "") and computes the hash. */
MQ_MUST_USE mq_code mq_manifest_seal(mq_manifest *m, const char *data, const char *eval,
                                     const char *init_blob, mq_error *err);

/* True when a state does not depend on the number of epochs: the schedule is constant or step, and
 * there is no max_steps. Then a run of more epochs goes on from one of fewer. */
bool mq_manifest_continues(const mq_manifest *m);

/* Appends the canonical form. */
MQ_MUST_USE mq_code mq_manifest_canonical(const mq_manifest *m, mq_buf *out, mq_error *err);

/* Steps of the whole run for a dataset of so many rows: epochs x whole batches, at most max_steps.
 * MQ_E_ARG when the rows do not fill one batch. */
MQ_MUST_USE mq_code mq_manifest_steps(const mq_manifest *m, uint64_t rows, uint64_t *steps,
                                      mq_error *err);

#endif

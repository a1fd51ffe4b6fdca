/* What the registry keeps of a model version: one JSON object, built here for every kind that
 * publishes a model.
 *
 *   {"blob":hex,"bytes":n,"params":n,"nonzero":n,"kind":"mlp:784-256-128-10"|"onnx",
 *    "parent":"m@1"|null,"pass":"new"|"import"|"train"|"prune:0.8"|...,"job":id,
 *    "dataset":"d@1"|null,"manifest":hex|null,"weights_hash":hex,
 *    "metrics":{"accuracy":a|null,"loss":l|null},"latency_us":x|null,
 *    "inputs":[{"name","dtype","shape":[-1,784]}],"outputs":[...],"report":{...}|null}
 */
#ifndef MQ_WORKER_MODELS_META_H
#define MQ_WORKER_MODELS_META_H

#include "worker/onnx/model.h"
#include "worker/slot/host.h"

/* Most bytes of a model version's file. */
#define MQ_MODEL_BYTES_MAX ((size_t)1 << 30)

/* Texts are borrowed for the call; NULL becomes null. NAN numbers become null. */
typedef struct mq_model_meta {
    const char *kind;     /* architecture as in `model new --arch`, or "onnx" */
    const char *parent;   /* "name@version" this one was made from */
    const char *pass;     /* what made it */
    const char *dataset;  /* "name@version" */
    const char *manifest; /* hash of the training manifest */
    double accuracy;      /* 0..1 on the data that `report` or `dataset` names */
    double loss;          /* mean over rows */
    double latency_us;    /* of one row, median */
    mq_span report;       /* JSON object, or empty */
} mq_model_meta;

/* All NULL and NAN. */
void mq_model_meta_init(mq_model_meta *meta);

/* SHA-256 over every initializer of the main graph in order: name, NUL, element type (1 byte), rank
 * (1 byte), dims (8 bytes each, little-endian), bytes. Two models with equal weights have equal
 * hashes whatever else their files say. String tensors count by their name and shape. */
void mq_model_weights_hash(const mq_model *model, char out[MQ_SHA256_HEX]);

/* Elements of all initializers, and those that are not zero. */
void mq_model_count(const mq_model *model, size_t *params, size_t *nonzero);

/* Appends the JSON object for a model whose file is the blob. */
MQ_MUST_USE mq_code mq_model_meta_write(const mq_model_meta *meta, const mq_model *model,
                                        const char *blob, size_t bytes, const char *job_id,
                                        mq_buf *out, mq_error *err);

/* Publishes a model whose file is stored already as the next version of name, and sets the job's
 * result to {"name":name,"meta":{...}}. Where meta->latency_us is NAN it is measured here. */
MQ_MUST_USE mq_code mq_model_publish_blob(mq_host *host, const char *name, const mq_model *model,
                                          const char *blob, size_t bytes, const mq_model_meta *meta,
                                          mq_error *err);

/* The same after saving the model and storing its bytes. */
MQ_MUST_USE mq_code mq_model_publish(mq_host *host, const char *name, const mq_model *model,
                                     const mq_model_meta *meta, mq_error *err);

/* A published model, opened: its ONNX file mapped and loaded, its meta at hand. */
typedef struct mq_model_ref {
    char name[300]; /* "name@version", as the registry resolved it */
    char blob[MQ_SHA256_HEX];
    char kind[256];  /* meta's kind, "onnx" when it has none */
    double accuracy; /* from meta, NAN when null */
    mq_map_file file;
    mq_model *model; /* owned; borrows file */
} mq_model_ref;

/* name: "m", "m@3" or "m@prod". Release also after an error. MQ_E_NOT_FOUND names it. */
MQ_MUST_USE mq_code mq_model_ref_open(mq_model_ref *ref, mq_host *host, const char *name,
                                      mq_error *err);
void mq_model_ref_release(mq_model_ref *ref);

#endif

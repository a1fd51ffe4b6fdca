/* An optimization pass: ONNX -> ONNX. To add one: a file with an mq_pass, a row in passes.def.
 *
 * A pass is named with its arguments in one text:
 *
 *     NAME[:ITEM[,ITEM...]]     ITEM = VALUE or KEY=VALUE       "prune:0.8,scope=global"
 *
 * Rules: running a pass twice with the same arguments gives what running it once gives; a model it
 * has nothing to do with stays as it is; everything is computed in a fixed order, so that equal
 * models give equal models. */
#ifndef MQ_WORKER_PASSES_PASS_H
#define MQ_WORKER_PASSES_PASS_H

#include "worker/onnx/model.h"

enum {
    MQ_PASS_TEXT_MAX = 128,
    MQ_PASS_ITEMS_MAX = 8,
    MQ_PASS_ITEM_MAX = 32, /* bytes of a key or a value, NUL included */
    MQ_PASS_REPORT_MAX = 16384,
};

typedef struct mq_pass_args {
    char text[MQ_PASS_TEXT_MAX + 1]; /* as given */
    uint32_t count;
    struct {
        char key[MQ_PASS_ITEM_MAX]; /* "" for a value alone */
        char value[MQ_PASS_ITEM_MAX];
    } items[MQ_PASS_ITEMS_MAX];
} mq_pass_args;

typedef struct mq_pass {
    const char *name;
    const char *form;     /* "prune:SPARSITY[,scope=tensor|global]" */
    const char *summary;  /* one line for help */
    bool is_for_finetune; /* fine-tuning follows it, keeping zeros zero */

    /* Checks arguments without a model. Errors name item, value and limits. */
    mq_code (*check)(const mq_pass_args *args, mq_error *err);

    /* Changes the model; appends members for its report to `report`: "\"pruned\":12". */
    mq_code (*run)(mq_model *model, const mq_pass_args *args, mq_buf *report, mq_error *err);
} mq_pass;

#define MQ_PASS(symbol) extern const mq_pass mq_pass_##symbol;
#include "worker/passes/passes.def"
#undef MQ_PASS

/* The table, in pipeline order. */
size_t mq_pass_table(const mq_pass *const **out);

/* Reads and checks "NAME:ITEMS". *index (may be NULL): its place in the table. */
MQ_MUST_USE mq_code mq_pass_parse(const char *text, const mq_pass **pass, mq_pass_args *args,
                                  size_t *index, mq_error *err);

/* Runs a pass, removes what it left dead, verifies the model, and appends the pass's report as a
 * JSON object {"pass":text,...}. */
MQ_MUST_USE mq_code mq_pass_apply(const mq_pass *pass, const mq_pass_args *args, mq_model *model,
                                  mq_buf *report, mq_error *err);

/* --- for passes --- */

/* The value of a key, or NULL. */
const char *mq_pass_item(const mq_pass_args *args, const char *key);

/* Number of a key; stays as it is when the key is absent, unless is_required. */
MQ_MUST_USE mq_code mq_pass_number(const mq_pass_args *args, const char *key, bool is_required,
                                   double min, double max, double *out, mq_error *err);

/* Position of the key's value in a NULL-terminated list; stays when absent. */
MQ_MUST_USE mq_code mq_pass_choice(const mq_pass_args *args, const char *key,
                                   const char *const *choices, int *out, mq_error *err);

/* Refuses keys that are not in the NULL-terminated list ("" = a value alone), and repeated ones. */
MQ_MUST_USE mq_code mq_pass_known(const mq_pass_args *args, const char *const *keys, mq_error *err);

#endif

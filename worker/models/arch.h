/* Architectures to start from: "mlp:784-256-128-10" -> an ONNX model with random first weights.
 * To add one: a file with mq_arch_build_<symbol> and a row in arch.def.
 *
 * What every built model has: opset 17, one input "input" of float32 [N, features...], one output
 * ("logits", or "output" for regression), metadata maasq.arch and maasq.seed. Weights follow from
 * arch and seed alone, to the bit, on every machine (worker/train/init.h). */
#ifndef MQ_WORKER_MODELS_ARCH_H
#define MQ_WORKER_MODELS_ARCH_H

#include "worker/onnx/model.h"

enum {
    MQ_ARCH_TEXT_MAX = 200, /* bytes of "mlp:..." */
    MQ_ARCH_SIZES_MAX = 64, /* numbers behind the colon */
    MQ_ARCH_SIZE_MAX = 1 << 20,
    MQ_ARCH_PARAMS_MAX = 1 << 28,
};

/* What stands behind the colon. */
typedef struct mq_arch_sizes {
    uint32_t count;
    int64_t size[MQ_ARCH_SIZES_MAX]; /* each 1..MQ_ARCH_SIZE_MAX */
} mq_arch_sizes;

typedef mq_code mq_arch_build_fn(mq_model *model, const mq_arch_sizes *sizes, uint64_t seed,
                                 mq_error *err);

/* Parses and builds; *out is owned by the caller (mq_model_free). MQ_E_ARG names what is wrong with
 * the text and what forms there are. */
MQ_MUST_USE mq_code mq_arch_build(mq_model **out, const char *arch, uint64_t seed, mq_error *err);

/* Parses only; *build may be NULL. */
MQ_MUST_USE mq_code mq_arch_parse(const char *arch, mq_arch_sizes *sizes, mq_arch_build_fn **build,
                                  mq_error *err);

#endif

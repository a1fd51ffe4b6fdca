/* A model's last layer replaced by a fresh one of another width: the start of fine-tuning for other
 * classes than the model was made for. */
#ifndef MQ_WORKER_MODELS_HEAD_H
#define MQ_WORKER_MODELS_HEAD_H

#include "worker/onnx/model.h"

enum { MQ_HEAD_WIDTH_MAX = 65536 };

/* The graph's only output must come from a Gemm, or a MatMul with or without an Add, whose weights
 * are float32 initializers that nothing else reads; Softmax, LogSoftmax, Sigmoid and Identity
 * behind it stay. Its weight becomes Xavier-uniform numbers of (seed), its bias 0, the output [..,
 * width]. MQ_E_UNSUPPORTED names what was found instead, MQ_E_ARG a width outside 1..65536. */
MQ_MUST_USE mq_code mq_model_replace_head(mq_model *model, int64_t width, uint64_t seed,
                                          mq_error *err);

#endif

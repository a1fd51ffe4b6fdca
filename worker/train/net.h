/* A training step compiled from an ONNX graph: forward, loss, backward over a fixed number of rows.
 * The graph is planned once (shapes, one arena, lifetimes); a step allocates nothing and always
 * issues the same kernels in the same order on the same shapes, so its bits depend only on its
 * inputs. Parameters live outside, in one flat vector of floats owned by the trainer.
 *
 * A net may be one stage of a pipeline: the nodes of `stage` out of `stage_count` in the graph's
 * order, cut where one tensor crosses (TRAINING.md: "cut anywhere" does not touch arithmetic).
 * The first stage takes the graph's input, the last computes the loss; between them travel the
 * boundary activation forward and its gradient backward.
 *
 * Not thread-safe; several nets may run in several threads. */
#ifndef MQ_WORKER_TRAIN_NET_H
#define MQ_WORKER_TRAIN_NET_H

#include "shared/tensor/tensor.h"
#include "worker/onnx/model.h"
#include "worker/train/dropout.h"
#include "worker/train/freeze.h"
#include "worker/train/loss.h"

typedef struct mq_net mq_net;

typedef struct mq_net_options {
    int64_t rows;         /* rows of one call, the graph's first input's batch dimension */
    mq_loss_spec loss;    /* over the last axis; a Softmax that it contains is cut off the graph */
    uint32_t stage;       /* 0-based; with stage_count 1 the whole graph */
    uint32_t stage_count; /* 1..16 */
    uint32_t shards;      /* that a batch is cut into; 0 = 1 */
    bool is_serving;      /* for mq_net_score: operators work as when serving */
    const mq_freeze *freeze; /* borrowed until mq_net_free; NULL = nothing is frozen */
    size_t memory_bytes_max;
} mq_net_options;

/* One trainable initializer inside the flat vector, in graph order. */
typedef struct mq_net_param {
    const char *name; /* borrowed from the model */
    size_t offset;    /* floats from the start of the WHOLE model's vector, also in a stage */
    size_t count;     /* floats */
    mq_shape shape;
    bool follows; /* a running moment: its "gradient" is its new value's share, 1 / shards of it */
} mq_net_param;

typedef struct mq_net_stats {
    double loss_sum; /* over rows, unscaled */
    int64_t correct; /* rows whose class is right */
} mq_net_stats;

/* Compiles. The model is borrowed until mq_net_free. Errors name the node, operator and reason:
 * unknown operator, no gradient, shape that does not fit, a cut that more than one tensor crosses.
 */
MQ_MUST_USE mq_code mq_net_new(mq_net **out, const mq_model *model, const mq_net_options *options,
                               mq_error *err);
void mq_net_free(mq_net *net);

/* Floats of the whole model's vector (the same for every stage). */
size_t mq_net_param_total(const mq_net *net);

/* The parameters this stage owns; returns how many, *out borrowed from the net. */
size_t mq_net_params(const mq_net *net, const mq_net_param **out);

/* Shapes at this stage's borders, with the batch dimension = rows. */
void mq_net_input_shape(const mq_net *net, mq_shape *out);
void mq_net_output_shape(const mq_net *net, mq_shape *out);

/* Copies the model's initializers into the flat vector / back into a model (new bytes owned by it).
 * freeze: as the net had it. */
void mq_net_params_get(const mq_net *net, float *flat);
MQ_MUST_USE mq_code mq_net_params_set(const float *flat, const mq_freeze *freeze, mq_model *model,
                                      mq_error *err);

/* What random numbers (Dropout) of the following mq_net_step or mq_net_forward are drawn for. */
void mq_net_draw(mq_net *net, const mq_draw *draw);

/* Whole graph: forward + backward. x: rows x input floats; labels: one a row (checked,
 * mq_loss_check_labels: MQ_E_ARG names the row). The gradient of scale * (sum over rows of the
 * loss) is WRITTEN (not added) to grads at each param's offset. */
MQ_MUST_USE mq_code mq_net_step(mq_net *net, const float *flat, const float *x,
                                const mq_label *labels, float scale, float *grads,
                                mq_net_stats *stats, mq_error *err);

/* Forward and loss only, over the whole graph. */
MQ_MUST_USE mq_code mq_net_score(mq_net *net, const float *flat, const float *x,
                                 const mq_label *labels, mq_net_stats *stats, mq_error *err);

/* Pipeline stages: forward keeps what backward needs, for one micro-batch slot (0..slots-1, slots
 * as needed up to 16, each with its own arena). y: boundary activation out (NULL in the last
 * stage). The last stage's forward takes labels and computes loss and stats; its backward takes dy
 * = NULL. dx: boundary gradient out (NULL in the first stage). */
MQ_MUST_USE mq_code mq_net_forward(mq_net *net, uint32_t slot, const float *flat, const float *x,
                                   const mq_label *labels, float *y, mq_net_stats *stats,
                                   mq_error *err);
MQ_MUST_USE mq_code mq_net_backward(mq_net *net, uint32_t slot, const float *flat, const float *dy,
                                    float scale, float *dx, float *grads, mq_error *err);

/* Multiply-adds x 2 of one step's matrix products alone (for the bare-GEMM ceiling), and a run of
 * exactly those products on scratch memory: what `bench train` compares with. */
double mq_net_gemm_flop(const mq_net *net);
void mq_net_gemm_only(mq_net *net, const float *flat);

#endif

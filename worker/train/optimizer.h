/* Optimizers: one table (optimizer.def), one step of each over a run of weights. All are
 * element-wise, with IEEE operations in a fixed order and no fused multiply-add, so that neither
 * the width of a CPU's vectors nor where a run is cut shows in the bits; LAMB also needs the norms
 * of whole parameters, which are added up in a fixed order.
 *
 *   g: gradient of the batch's mean loss, w: weight, t: number of the step from 1, d: weight decay
 *   sgd      g += d w; m = momentum m + g; w -= lr m            (nesterov: w -= lr (g + momentum
 * m)) adam     g += d w; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g g; w -= lr (m / (1 - b1^t)) /
 * (sqrt(v / (1 - b2^t)) + eps)     Kingma and Ba, 2015 adamw    as adam, with w -= lr d w instead
 * of g += d w                Loshchilov and Hutter, 2019 rmsprop  g += d w; v = rho v + (1-rho) g
 * g; w -= lr g / (sqrt(v) + eps) adagrad  g += d w; v += g g; w -= lr g / (sqrt(v) + eps) Duchi and
 * others, 2011 lamb     r = adam's direction + d w; w -= lr (|w| / |r|) r, the norms being those of
 * the parameter that w belongs to; 1 when one of them is 0         You and others, 2020 */
#ifndef MQ_WORKER_TRAIN_OPTIMIZER_H
#define MQ_WORKER_TRAIN_OPTIMIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum mq_optimizer {
#define MQ_OPTIMIZER(symbol, name, vectors, lr, epsilon, uses) MQ_OPTIMIZER_##symbol,
#include "worker/train/optimizer.def"
#undef MQ_OPTIMIZER
    MQ_OPTIMIZER_COUNT
} mq_optimizer;

enum {                       /* hyper-parameters that only some have */
       MQ_USES_MOMENTUM = 1, /* momentum, nesterov */
       MQ_USES_BETAS = 2,    /* beta1, beta2 */
       MQ_USES_RHO = 4,
       MQ_USES_EPSILON = 8,
       MQ_OPTIMIZER_VECTORS_MAX = 2,
};

typedef struct mq_optimizer_row {
    const char *name;
    uint32_t vectors;
    double lr, epsilon;
    uint32_t uses;
} mq_optimizer_row;

const mq_optimizer_row *mq_optimizer_of(mq_optimizer optimizer);

/* One step's numbers. */
typedef struct mq_opt_step {
    mq_optimizer optimizer;
    bool is_nesterov;
    float lr, momentum, decay, beta1, beta2, rho, epsilon;
    float unbias1, unbias2; /* 1 / (1 - beta^t) */
    float trust;            /* LAMB: |w| / |r| of the parameter */
} mq_opt_step;

/* What LAMB's norms are made of, for one block. */
typedef struct mq_opt_squares {
    double w, r;
} mq_opt_squares;

/* One step for `count` weights. vectors: as many as the row says, each of `count` floats. LAMB's
 * are moved by mq_optimizer_norms before, and only used here. */
void mq_optimizer_block(const mq_opt_step *step, const float *g, float *w, float *const *vectors,
                        size_t count);

/* LAMB: moves m and v, and adds the squares of w and r to *out. */
void mq_optimizer_norms(const mq_opt_step *step, const float *g, const float *w,
                        float *const *vectors, size_t count, mq_opt_squares *out);

/* base^n by repeated squaring: the same bits on every machine. */
double mq_power(double base, uint64_t n);

/* Sum of the squares of count floats in double, in a fixed order. */
double mq_squares(const float *x, size_t count);

#endif

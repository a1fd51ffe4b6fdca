/* The optimizers' loops; see optimizer.h. */
#include "worker/train/optimizer.h"

#include <math.h>

#include "worker/train/vec.h"

static const mq_optimizer_row rows[] = {
#define MQ_OPTIMIZER(symbol, name, vectors, lr, epsilon, uses)                                     \
    [MQ_OPTIMIZER_##symbol] = {name, vectors, lr, epsilon, uses},
#include "worker/train/optimizer.def"
#undef MQ_OPTIMIZER
};

const mq_optimizer_row *mq_optimizer_of(mq_optimizer optimizer)
{
    return &rows[optimizer];
}

double mq_power(double base, uint64_t n)
{
    double out = 1;
    for (; n > 0; n >>= 1, base *= base) {
        out = (n & 1) != 0 ? out * base : out;
    }
    return out;
}

double mq_squares(const float *x, size_t count)
{
    double lanes[8] = {0}, sum = 0;
    for (size_t i = 0; i < count; i++) {
        lanes[i % 8] += (double)x[i] * (double)x[i];
    }
    for (size_t i = 0; i < 8; i++) {
        sum += lanes[i];
    }
    return sum;
}

static void nesterov(const mq_opt_step *o, const float *restrict g, float *restrict w,
                     float *restrict m, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float d = g[i] + o->decay * w[i];
        float v = o->momentum * m[i] + d;
        m[i] = v;
        w[i] = w[i] - o->lr * (d + o->momentum * v);
    }
}

static void moments(const mq_opt_step *o, const float *restrict g, const float *restrict w,
                    float decay, float *restrict m, float *restrict v, size_t count)
{
    float b1 = o->beta1, b2 = o->beta2, a1 = 1.0F - b1, a2 = 1.0F - b2;
    for (size_t i = 0; i < count; i++) {
        float d = g[i] + decay * w[i];
        m[i] = b1 * m[i] + a1 * d;
        v[i] = b2 * v[i] + a2 * (d * d);
    }
}

static inline float direction(const mq_opt_step *o, float m, float v)
{
    return m * o->unbias1 / (sqrtf(v * o->unbias2) + o->epsilon);
}

static void adam(const mq_opt_step *o, float decoupled, float *restrict w, const float *restrict m,
                 const float *restrict v, size_t count)
{
    float keep = 1.0F - o->lr * decoupled;
    for (size_t i = 0; i < count; i++) {
        w[i] = keep * w[i] - o->lr * direction(o, m[i], v[i]);
    }
}

static void by_root(const mq_opt_step *o, float keep, float add, const float *restrict g,
                    float *restrict w, float *restrict v, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float d = g[i] + o->decay * w[i];
        v[i] = keep * v[i] + add * (d * d);
        w[i] = w[i] - o->lr * d / (sqrtf(v[i]) + o->epsilon);
    }
}

static void lamb(const mq_opt_step *o, float *restrict w, const float *restrict m,
                 const float *restrict v, size_t count)
{
    float rate = o->lr * o->trust;
    for (size_t i = 0; i < count; i++) {
        float r = direction(o, m[i], v[i]) + o->decay * w[i];
        w[i] = w[i] - rate * r;
    }
}

void mq_optimizer_norms(const mq_opt_step *step, const float *g, const float *w,
                        float *const *vectors, size_t count, mq_opt_squares *out)
{
    moments(step, g, w, 0, vectors[0], vectors[1], count);
    double lanes[8] = {0};
    for (size_t i = 0; i < count; i++) {
        float r = direction(step, vectors[0][i], vectors[1][i]) + step->decay * w[i];
        lanes[i % 8] += (double)r * (double)r;
    }
    for (size_t i = 0; i < 8; i++) {
        out->r += lanes[i];
    }
    out->w += mq_squares(w, count);
}

void mq_optimizer_block(const mq_opt_step *step, const float *g, float *w, float *const *vectors,
                        size_t count)
{
    switch (step->optimizer) {
    case MQ_OPTIMIZER_SGD:
        if (step->is_nesterov) {
            nesterov(step, g, w, vectors[0], count);
        } else {
            mq_vec_sgd(&(mq_sgd){step->lr, step->momentum, step->decay}, g, w, vectors[0], count);
        }
        return;
    case MQ_OPTIMIZER_ADAM:
        moments(step, g, w, step->decay, vectors[0], vectors[1], count);
        adam(step, 0, w, vectors[0], vectors[1], count);
        return;
    case MQ_OPTIMIZER_ADAMW:
        moments(step, g, w, 0, vectors[0], vectors[1], count);
        adam(step, step->decay, w, vectors[0], vectors[1], count);
        return;
    case MQ_OPTIMIZER_RMSPROP:
        by_root(step, step->rho, 1.0F - step->rho, g, w, vectors[0], count);
        return;
    case MQ_OPTIMIZER_ADAGRAD:
        by_root(step, 1.0F, 1.0F, g, w, vectors[0], count);
        return;
    case MQ_OPTIMIZER_LAMB:
        lamb(step, w, vectors[0], vectors[1], count);
        return;
    case MQ_OPTIMIZER_COUNT:
        return;
    }
}

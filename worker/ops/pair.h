/* Walking two operands that broadcast to one output, with neighbouring dimensions merged: equal
 * shapes become one loop, a bias two. */
#ifndef MQ_WORKER_OPS_PAIR_H
#define MQ_WORKER_OPS_PAIR_H

#include "worker/ops/kit.h"
#include "worker/ops/simd.h"

typedef struct mq_pair {
    int32_t rank; /* at least 1 */
    size_t dims[MQ_RANK_MAX];
    size_t a[MQ_RANK_MAX], b[MQ_RANK_MAX]; /* strides in elements; 0 repeats; last is 0 or 1 */
    size_t outer;                          /* product of all dims but the last */
} mq_pair;

/* Both shapes broadcast to out. */
mq_pair mq_pair_of(const mq_shape *a, const mq_shape *b, const mq_shape *out);

/* Offsets of operands for the o-th run along the last dimension. */
void mq_pair_at(const mq_pair *pair, size_t o, size_t *a, size_t *b);

/* y[i] = expr(x, z) over a pair; run inside a function with `pair`, `pa`, `pb`, `py` of the types
 * named. The three usual strides get loops of their own, which vectorize. */
#define MQ_PAIR_LOOP(type, out_type, expr)                                                         \
    for (size_t o = 0; o < pair->outer; o++) {                                                     \
        size_t ia, ib, n = pair->dims[pair->rank - 1];                                             \
        mq_pair_at(pair, o, &ia, &ib);                                                             \
        const type *a = (const type *)pa + ia, *b = (const type *)pb + ib;                         \
        out_type *y = (out_type *)py + o * n;                                                      \
        bool is_a = pair->a[pair->rank - 1] != 0, is_b = pair->b[pair->rank - 1] != 0;             \
        if (is_a && is_b) {                                                                        \
            MQ_EACH_ALONE                                                                          \
            for (size_t i = 0; i < n; i++) {                                                       \
                const type x = a[i], z = b[i];                                                     \
                y[i] = (expr);                                                                     \
            }                                                                                      \
        } else if (is_a) {                                                                         \
            const type z = b[0];                                                                   \
            MQ_EACH_ALONE                                                                          \
            for (size_t i = 0; i < n; i++) {                                                       \
                const type x = a[i];                                                               \
                y[i] = (expr);                                                                     \
            }                                                                                      \
        } else {                                                                                   \
            const type x = a[0];                                                                   \
            MQ_EACH_ALONE                                                                          \
            for (size_t i = 0; i < n; i++) {                                                       \
                const type z = b[is_b ? i : 0];                                                    \
                y[i] = (expr);                                                                     \
            }                                                                                      \
        }                                                                                          \
    }

#endif

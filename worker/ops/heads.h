/* The internal operator that fusion makes of attention as exporters write it: products with
 * transposed operands around a softmax. Operands are read, and the result is written, where they
 * lie: no transposition is ever made, and scores are kept for some rows at a time only.
 *
 * Inputs q, k, v and, perhaps, what is added to the scores (it broadcasts to them).
 *   y = transpose(softmax(scale Q K + mask) V, perm_y)
 * with Q, K, V = q, k, v transposed by their perm (absent: as they are), K as [.., width, keys]. */
#ifndef MQ_WORKER_OPS_HEADS_H
#define MQ_WORKER_OPS_HEADS_H

#include "worker/ops/op.h"

typedef struct mq_heads_attrs {
    float scale;
    mq_ints perm_q, perm_k, perm_v;
    mq_ints perm_y; /* leaves the last dimension where it is */
} mq_heads_attrs;

#endif

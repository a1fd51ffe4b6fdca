/* Order of elements of any type, and a stable sort of indices by it: for operators that select. */
#ifndef MQ_WORKER_OPS_ORDER_H
#define MQ_WORKER_OPS_ORDER_H

#include "worker/ops/element.h"

/* -1, 0 or 1. NaN equals NaN and lies above all numbers; strings by bytes. */
int mq_element_compare(const mq_tensor *t, size_t a, size_t b);

/* Below 0 when index a comes before index b; equal ones keep their order. */
typedef int mq_order(const void *arg, size_t a, size_t b);

/* Sorts `count` indices (merge sort, n log n always). spare: room for as many. */
void mq_sort_indices(size_t *indices, size_t *spare, size_t count, mq_order *order,
                     const void *arg);

#endif

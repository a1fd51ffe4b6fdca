/* Single elements of any numeric type, for operators whose time does not depend on it. */
#ifndef MQ_WORKER_OPS_ELEMENT_H
#define MQ_WORKER_OPS_ELEMENT_H

#include "worker/ops/half.h"

/* As a double; 64-bit integers beyond 2^53 are rounded. */
double mq_element(const mq_tensor *t, size_t i);
void mq_element_set(const mq_tensor *t, size_t i, double v);

/* Integers and booleans without rounding; uint64 wraps to the negative half. */
int64_t mq_element_int(const mq_tensor *t, size_t i);
void mq_element_set_int(const mq_tensor *t, size_t i, int64_t v);

static inline bool mq_is_float(mq_dtype dtype)
{
    return dtype == MQ_DT_F32 || dtype == MQ_DT_F64 || dtype == MQ_DT_F16 || dtype == MQ_DT_BF16;
}

#endif

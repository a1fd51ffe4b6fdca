/* Does a tensor equal its reference? The one rule that tests, `conformance` and `model check
 * --refs` share: type and shape equal; numbers within absolute + relative * |reference|; NaN equals
 * NaN, infinities by sign; integers and booleans by the same rule; strings byte by byte. */
#ifndef MQ_WORKER_EXEC_COMPARE_H
#define MQ_WORKER_EXEC_COMPARE_H

#include "shared/tensor/tensor.h"

typedef struct mq_tolerance {
    double relative, absolute;
} mq_tolerance;

typedef struct mq_difference {
    double largest; /* absolute difference of two finite numbers */
    size_t wrong;   /* elements outside the tolerance */
    size_t first;   /* the first of them */
    double got, want;
} mq_difference;

/* Both tensors have their data. MQ_E_CONFLICT when type or shape differ (said in err) or an element
 * is outside the tolerance (err names the first); *out is filled as far as elements were compared
 * and may be NULL. */
MQ_MUST_USE mq_code mq_tensor_compare(const mq_tensor *got, const mq_tensor *want, mq_tolerance by,
                                      mq_difference *out, mq_error *err);

#endif

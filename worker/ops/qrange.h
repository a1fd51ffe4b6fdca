/* The arithmetic of DynamicQuantizeLinear, shared with the fused form. */
#ifndef MQ_WORKER_OPS_QRANGE_H
#define MQ_WORKER_OPS_QRANGE_H

#include <stddef.h>
#include <stdint.h>

/* Scale and zero point that map the range of x, widened to hold 0, to 0..255; then the values
 * themselves, rounded to nearest even. NaN and infinities give some number. */
void mq_qrange(const float *x, size_t n, float *scale, uint8_t *zero, uint8_t *q);

#endif

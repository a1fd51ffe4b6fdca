/* Kernels over rows of floats, vectorized, that softmax, the norms and attention share. Sums go
 * into a fixed number of lanes and those are added in a fixed order, so a result has the same bits
 * on every processor. */
#ifndef MQ_WORKER_OPS_ROWS_H
#define MQ_WORKER_OPS_ROWS_H

#include <stdbool.h>
#include <stddef.h>

/* y = softmax(scale x + mask), mask NULL for none; y may be x. A row whose largest is -infinity
 * gives NaN, as the plain formula does. */
void mq_row_softmax(const float *x, const float *mask, float scale, float *y, size_t n);

/* y = (x - mean) / sqrt(variance + epsilon) * scale + bias of one row; bias may be NULL. y may be
 * x. *mean and *inverse get the row's mean and 1 / deviation when not NULL. */
void mq_row_layer_norm(const float *x, const float *scale, const float *bias, float epsilon,
                       float *y, size_t n, float *mean, float *inverse);

/* y = x / sqrt(mean(x^2) + epsilon) * scale. y may be x. */
void mq_row_rms_norm(const float *x, const float *scale, float epsilon, float *y, size_t n);

/* y = a + b; y may be either. */
void mq_row_add(const float *a, const float *b, float *y, size_t n);

/* In double precision: sum, sum of squares, largest, smallest (NaN when one is). */
typedef enum mq_row_kind { MQ_ROW_SUM, MQ_ROW_SQUARES, MQ_ROW_MAX, MQ_ROW_MIN } mq_row_kind;
double mq_row_wide(mq_row_kind kind, const float *x, size_t n);

float mq_row_sum(const float *x, size_t n);
float mq_row_max(const float *x, size_t n); /* n above 0; NaN only when it is the first */

#endif

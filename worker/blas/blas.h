/* The only user of cblas. Row-major single precision products on one thread. Which kernels
 * OpenBLAS runs is decided when the process starts (OPENBLAS_CORETYPE); for given kernels the bits
 * of a product depend only on its sizes, its flags and its operands. */
#ifndef MQ_WORKER_BLAS_BLAS_H
#define MQ_WORKER_BLAS_BLAS_H

#include <stdbool.h>
#include <stdint.h>

/* Sets one thread. Call before the first product; any thread may, and again is harmless. */
void mq_blas_init(void);

/* Core in use and version, such as "openblas 0.3.21 Haswell"; static. Part of the numeric
 * fingerprint of a training run. */
const char *mq_blas_core(void);

/* C[m,n] = alpha op(A) op(B) + beta C. op(A) is m x k: A is stored m x k, or k x m when trans_a.
 * ld* are the row lengths as stored. Beta 0 does not read C. Any size may be 0. */
typedef struct mq_gemm {
    bool trans_a, trans_b;
    int64_t m, n, k;
    float alpha, beta;
    const float *a, *b;
    float *c;
    int64_t lda, ldb, ldc;
} mq_gemm;

/* Always the matrix kernel. */
void mq_blas_gemm(const mq_gemm *g);

/* One row or column goes to gemv, several times faster (INFERENCE.md section 4). */
void mq_blas_gemm_fast(const mq_gemm *g);

/* Keeps a list of the single precision products that this thread runs, so that a benchmark can run
 * exactly those again; NULL stops it. What is past `room` is counted but not kept. */
typedef struct mq_gemm_log {
    mq_gemm *list; /* the caller's */
    uint32_t count, room;
} mq_gemm_log;
void mq_blas_log(mq_gemm_log *log);

/* Double precision, same meaning, for the f64 rows of the operator table. */
typedef struct mq_dgemm {
    bool trans_a, trans_b;
    int64_t m, n, k;
    double alpha, beta;
    const double *a, *b;
    double *c;
    int64_t lda, ldb, ldc;
} mq_dgemm;
void mq_blas_dgemm(const mq_dgemm *g);

#endif

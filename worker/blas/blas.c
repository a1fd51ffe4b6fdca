/* The only file that includes cblas.h. */
#include "worker/blas/blas.h"

#include <cblas.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>

#include "shared/base/assert.h"

static char core[128];
static _Thread_local mq_gemm_log *gemm_log;

static void init(void)
{
    openblas_set_num_threads(1);
    const char *config = openblas_get_config(); /* "OpenBLAS 0.3.21 NO_LAPACK ... Zen ..." */
    char version[32] = "";
    if (sscanf(config, "OpenBLAS %31s", version) != 1) {
        version[0] = '\0';
    }
    snprintf(core, sizeof core, "openblas %s %s", version, openblas_get_corename());
}

void mq_blas_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init);
}

const char *mq_blas_core(void)
{
    mq_blas_init();
    return core;
}

static enum CBLAS_TRANSPOSE flag(bool is_transposed)
{
    return is_transposed ? CblasTrans : CblasNoTrans;
}

static int as_int(int64_t n)
{
    MQ_ASSERT(n >= 0 && n <= INT_MAX);
    return (int)n;
}

/* k = 0: the product is zero, only beta speaks. */
static void scale_only(const mq_gemm *g)
{
    for (int64_t i = 0; i < g->m; i++) {
        for (int64_t j = 0; j < g->n; j++) {
            float *c = &g->c[i * g->ldc + j];
            *c = g->beta == 0.0f ? 0.0f : g->beta * *c;
        }
    }
}

void mq_blas_log(mq_gemm_log *log)
{
    gemm_log = log;
}

static void note(const mq_gemm *g)
{
    if (gemm_log == NULL) {
        return;
    }
    if (gemm_log->count < gemm_log->room) {
        gemm_log->list[gemm_log->count] = *g;
    }
    gemm_log->count++;
}

void mq_blas_gemm(const mq_gemm *g)
{
    note(g);
    if (g->m == 0 || g->n == 0) {
        return;
    }
    if (g->k == 0) {
        scale_only(g);
        return;
    }
    cblas_sgemm(CblasRowMajor, flag(g->trans_a), flag(g->trans_b), as_int(g->m), as_int(g->n),
                as_int(g->k), g->alpha, g->a, as_int(g->lda), g->b, as_int(g->ldb), g->beta, g->c,
                as_int(g->ldc));
}

/* One row of C: c = op(B)^T a, where a steps by 1 (A is 1 x k) or by lda (A is k x 1). */
static void row_times_matrix(const mq_gemm *g)
{
    int64_t rows = g->trans_b ? g->n : g->k, columns = g->trans_b ? g->k : g->n;
    cblas_sgemv(CblasRowMajor, flag(!g->trans_b), as_int(rows), as_int(columns), g->alpha, g->b,
                as_int(g->ldb), g->a, g->trans_a ? as_int(g->lda) : 1, g->beta, g->c, 1);
}

/* One column of C: c = op(A) b, where b steps by ldb (B is k x 1) or by 1 (B is 1 x k). */
static void matrix_times_column(const mq_gemm *g)
{
    int64_t rows = g->trans_a ? g->k : g->m, columns = g->trans_a ? g->m : g->k;
    cblas_sgemv(CblasRowMajor, flag(g->trans_a), as_int(rows), as_int(columns), g->alpha, g->a,
                as_int(g->lda), g->b, g->trans_b ? 1 : as_int(g->ldb), g->beta, g->c,
                as_int(g->ldc));
}

void mq_blas_gemm_fast(const mq_gemm *g)
{
    if (g->m == 1 && g->n > 0 && g->k > 0) {
        note(g);
        row_times_matrix(g);
    } else if (g->n == 1 && g->m > 0 && g->k > 0) {
        note(g);
        matrix_times_column(g);
    } else {
        mq_blas_gemm(g);
    }
}

void mq_blas_dgemm(const mq_dgemm *g)
{
    if (g->m == 0 || g->n == 0) {
        return;
    }
    if (g->k == 0) {
        for (int64_t i = 0; i < g->m * g->n; i++) {
            double *c = &g->c[i / g->n * g->ldc + i % g->n];
            *c = g->beta == 0.0 ? 0.0 : g->beta * *c;
        }
        return;
    }
    cblas_dgemm(CblasRowMajor, flag(g->trans_a), flag(g->trans_b), as_int(g->m), as_int(g->n),
                as_int(g->k), g->alpha, g->a, as_int(g->lda), g->b, as_int(g->ldb), g->beta, g->c,
                as_int(g->ldc));
}

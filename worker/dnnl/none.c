/* worker/dnnl built without oneDNN: there is nothing. */
#include "worker/dnnl/dnnl.h"

bool mq_dnnl_is_there(void)
{
    return false;
}

bool mq_dnnl_has_bytes(void)
{
    return false;
}

const char *mq_dnnl_name(void)
{
    return "none";
}

void mq_dnnl_threads(int count)
{
    (void)count;
}

mq_dnnl_dense *mq_dnnl_dense_new(const mq_dnnl_dense_spec *spec, mq_arena *arena)
{
    (void)spec, (void)arena;
    return NULL;
}

void mq_dnnl_dense_free(mq_dnnl_dense *dense)
{
    (void)dense;
}

bool mq_dnnl_dense_ready(mq_dnnl_dense *dense, int64_t m)
{
    (void)dense, (void)m;
    return false;
}

size_t mq_dnnl_dense_scratch(const mq_dnnl_dense *dense, int64_t m)
{
    (void)dense, (void)m;
    return 0;
}

bool mq_dnnl_dense_run(mq_dnnl_dense *dense, int64_t m, const void *x, void *y, void *scratch)
{
    (void)dense, (void)m, (void)x, (void)y, (void)scratch;
    return false;
}

int mq_dnnl_block(void)
{
    return 0;
}

mq_dnnl_conv *mq_dnnl_conv_new(const mq_dnnl_conv_spec *spec, mq_arena *arena)
{
    (void)spec, (void)arena;
    return NULL;
}

void mq_dnnl_conv_free(mq_dnnl_conv *conv)
{
    (void)conv;
}

bool mq_dnnl_conv_ready(mq_dnnl_conv *conv, const mq_dnnl_conv_size *size)
{
    (void)conv, (void)size;
    return false;
}

bool mq_dnnl_conv_has(const mq_dnnl_conv *conv, const mq_dnnl_conv_size *size)
{
    (void)conv, (void)size;
    return false;
}

size_t mq_dnnl_conv_scratch(const mq_dnnl_conv *conv, const mq_dnnl_conv_size *size)
{
    (void)conv, (void)size;
    return 0;
}

bool mq_dnnl_conv_run(mq_dnnl_conv *conv, const mq_dnnl_conv_size *size, const void *x, void *y,
                      void *scratch)
{
    (void)conv, (void)size, (void)x, (void)y, (void)scratch;
    return false;
}

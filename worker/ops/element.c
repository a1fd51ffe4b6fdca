/* Single elements by type; see element.h. Loads are by memcpy: tensors that are attributes lie
 * anywhere in the file. */
#include "worker/ops/element.h"

#define LOAD(type)                                                                                 \
    static inline type load_##type(const void *data, size_t i)                                     \
    {                                                                                              \
        type v;                                                                                    \
        memcpy(&v, (const uint8_t *)data + i * sizeof v, sizeof v);                                \
        return v;                                                                                  \
    }
LOAD(float)
LOAD(double)
LOAD(uint16_t)
LOAD(uint32_t)
LOAD(uint64_t)
LOAD(int16_t)
LOAD(int32_t)
LOAD(int64_t)

double mq_element(const mq_tensor *t, size_t i)
{
    switch ((int)t->dtype) {
    case MQ_DT_F32:
        return (double)load_float(t->data, i);
    case MQ_DT_F64:
        return load_double(t->data, i);
    case MQ_DT_F16:
        return (double)mq_half_to_float(load_uint16_t(t->data, i));
    case MQ_DT_BF16:
        return (double)mq_bfloat_to_float(load_uint16_t(t->data, i));
    case MQ_DT_U64:
        return (double)load_uint64_t(t->data, i);
    default:
        return (double)mq_element_int(t, i);
    }
}

void mq_element_set(const mq_tensor *t, size_t i, double v)
{
    switch ((int)t->dtype) {
    case MQ_DT_F32:
        ((float *)t->data)[i] = (float)v;
        break;
    case MQ_DT_F64:
        ((double *)t->data)[i] = v;
        break;
    case MQ_DT_F16:
        ((uint16_t *)t->data)[i] = mq_float_to_half((float)v);
        break;
    case MQ_DT_BF16:
        ((uint16_t *)t->data)[i] = mq_float_to_bfloat((float)v);
        break;
    default:
        mq_element_set_int(t, i, (int64_t)v);
        break;
    }
}

int64_t mq_element_int(const mq_tensor *t, size_t i)
{
    switch ((int)t->dtype) {
    case MQ_DT_I8:
    case MQ_DT_I4:
        return ((const int8_t *)t->data)[i];
    case MQ_DT_I16:
        return load_int16_t(t->data, i);
    case MQ_DT_I32:
        return load_int32_t(t->data, i);
    case MQ_DT_U16:
        return load_uint16_t(t->data, i);
    case MQ_DT_U32:
        return load_uint32_t(t->data, i);
    case MQ_DT_I64:
    case MQ_DT_U64:
        return load_int64_t(t->data, i);
    default:
        return ((const uint8_t *)t->data)[i];
    }
}

void mq_element_set_int(const mq_tensor *t, size_t i, int64_t v)
{
    size_t each = mq_dtype_bytes(t->dtype);
    memcpy((uint8_t *)t->data + i * each, &v, each); /* little-endian: the low bytes */
}

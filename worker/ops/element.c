/* Single elements by type; see element.h. */
#include "worker/ops/element.h"

double mq_element(const mq_tensor *t, size_t i)
{
    switch ((int)t->dtype) {
    case MQ_DT_F32:
        return (double)((const float *)t->data)[i];
    case MQ_DT_F64:
        return ((const double *)t->data)[i];
    case MQ_DT_F16:
        return (double)mq_half_to_float(((const uint16_t *)t->data)[i]);
    case MQ_DT_BF16:
        return (double)mq_bfloat_to_float(((const uint16_t *)t->data)[i]);
    case MQ_DT_U64:
        return (double)((const uint64_t *)t->data)[i];
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
        return ((const int16_t *)t->data)[i];
    case MQ_DT_I32:
        return ((const int32_t *)t->data)[i];
    case MQ_DT_U16:
        return ((const uint16_t *)t->data)[i];
    case MQ_DT_U32:
        return ((const uint32_t *)t->data)[i];
    case MQ_DT_I64:
    case MQ_DT_U64:
        return ((const int64_t *)t->data)[i];
    default:
        return ((const uint8_t *)t->data)[i];
    }
}

void mq_element_set_int(const mq_tensor *t, size_t i, int64_t v)
{
    size_t each = mq_dtype_bytes(t->dtype);
    memcpy((uint8_t *)t->data + i * each, &v, each); /* little-endian: the low bytes */
}

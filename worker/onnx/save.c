/* mq_model to ModelProto bytes, fields in number order, so that equal models give equal bytes. */
#include "worker/onnx/build.h"

static void write_info(mq_buf *buf, uint32_t number, const mq_value_info *info)
{
    size_t at = mq_pb_begin(buf, number);
    mq_pb_put_str(buf, 1, info->name);
    if (info->dtype != MQ_DT_NONE) {
        size_t type = mq_pb_begin(buf, 2), tensor = mq_pb_begin(buf, 1);
        mq_pb_put_int(buf, 1, (int64_t)info->dtype);
        if (info->rank >= 0) {
            size_t shape = mq_pb_begin(buf, 2);
            for (int32_t i = 0; i < info->rank; i++) {
                size_t dim = mq_pb_begin(buf, 1);
                if (info->dims[i] >= 0) {
                    mq_pb_put_int(buf, 1, info->dims[i]);
                } else if (info->dim_names[i] != NULL) {
                    mq_pb_put_str(buf, 2, info->dim_names[i]);
                }
                mq_pb_end(buf, dim);
            }
            mq_pb_end(buf, shape);
        }
        mq_pb_end(buf, tensor);
        mq_pb_end(buf, type);
    }
    mq_pb_end(buf, at);
}

/* raw_data of two elements a byte, the first in the low half. */
static void write_nibbles(mq_buf *buf, const mq_tensor *t)
{
    const uint8_t *in = t->data;
    size_t at = mq_pb_begin(buf, 9);
    for (size_t i = 0; i < t->bytes; i += 2) {
        uint8_t pair = (uint8_t)((in[i] & 15) | (i + 1 < t->bytes ? in[i + 1] & 15 : 0) << 4);
        mq_buf_add(buf, &pair, 1);
    }
    mq_pb_end(buf, at);
}

void mq_write_tensor(mq_buf *buf, const mq_init *init)
{
    const mq_tensor *t = &init->tensor;
    for (int32_t i = 0; i < t->shape.rank; i++) {
        mq_pb_put_int(buf, 1, t->shape.dims[i]);
    }
    mq_pb_put_int(buf, 2, (int64_t)t->dtype);
    if (t->dtype == MQ_DT_STR) {
        const mq_span *strings = t->data;
        for (size_t i = 0; i < t->bytes / sizeof *strings; i++) {
            mq_pb_put_bytes(buf, 6, strings[i]);
        }
    }
    if (init->name[0] != '\0') {
        mq_pb_put_str(buf, 8, init->name);
    }
    if (t->dtype == MQ_DT_U4 || t->dtype == MQ_DT_I4) {
        write_nibbles(buf, t);
    } else if (t->dtype != MQ_DT_STR) {
        mq_pb_put_bytes(buf, 9, mq_span_of(t->data, t->bytes));
    }
}

static void write_graph(mq_buf *buf, const mq_graph *graph);

static void write_attr_value(mq_buf *buf, const mq_attr *attr)
{
    size_t at;
    switch (attr->type) {
    case MQ_ATTR_FLOAT:
        mq_pb_put_float(buf, 2, attr->f);
        break;
    case MQ_ATTR_INT:
        mq_pb_put_int(buf, 3, attr->i);
        break;
    case MQ_ATTR_STRING:
        mq_pb_put_bytes(buf, 4, attr->s);
        break;
    case MQ_ATTR_TENSOR:
        at = mq_pb_begin(buf, 5);
        mq_write_tensor(buf, attr->tensor);
        mq_pb_end(buf, at);
        break;
    case MQ_ATTR_GRAPH:
        at = mq_pb_begin(buf, 6);
        write_graph(buf, attr->graph);
        mq_pb_end(buf, at);
        break;
    case MQ_ATTR_FLOATS: /* unpacked: onnx.proto is proto2 syntax without [packed] here */
        for (size_t i = 0; i < attr->count; i++) {
            mq_pb_put_float(buf, 7, attr->floats[i]);
        }
        break;
    case MQ_ATTR_INTS:
        for (size_t i = 0; i < attr->count; i++) {
            mq_pb_put_int(buf, 8, attr->ints[i]);
        }
        break;
    case MQ_ATTR_STRINGS:
        for (size_t i = 0; i < attr->count; i++) {
            mq_pb_put_bytes(buf, 9, attr->strings[i]);
        }
        break;
    }
}

static void write_node(mq_buf *buf, const mq_node *node)
{
    size_t at = mq_pb_begin(buf, 1);
    for (uint32_t i = 0; i < node->input_count; i++) {
        mq_pb_put_str(buf, 1, node->inputs[i]);
    }
    for (uint32_t i = 0; i < node->output_count; i++) {
        mq_pb_put_str(buf, 2, node->outputs[i]);
    }
    if (node->name[0] != '\0') {
        mq_pb_put_str(buf, 3, node->name);
    }
    mq_pb_put_str(buf, 4, node->op_type);
    for (uint32_t i = 0; i < node->attr_count; i++) {
        size_t attr = mq_pb_begin(buf, 5);
        mq_pb_put_str(buf, 1, node->attrs[i].name);
        write_attr_value(buf, &node->attrs[i]);
        mq_pb_put_int(buf, 20, (int64_t)node->attrs[i].type);
        mq_pb_end(buf, attr);
    }
    if (node->domain[0] != '\0') {
        mq_pb_put_str(buf, 7, node->domain);
    }
    mq_pb_end(buf, at);
}

static void write_graph(mq_buf *buf, const mq_graph *g)
{
    for (uint32_t i = 0; i < g->node_count; i++) {
        write_node(buf, &g->nodes[i]);
    }
    mq_pb_put_str(buf, 2, g->name);
    for (uint32_t i = 0; i < g->initializer_count; i++) {
        size_t at = mq_pb_begin(buf, 5);
        mq_write_tensor(buf, &g->initializers[i]);
        mq_pb_end(buf, at);
    }
    for (uint32_t i = 0; i < g->input_count; i++) {
        write_info(buf, 11, &g->inputs[i]);
    }
    for (uint32_t i = 0; i < g->output_count; i++) {
        write_info(buf, 12, &g->outputs[i]);
    }
    for (uint32_t i = 0; i < g->value_count; i++) {
        write_info(buf, 13, &g->values[i]);
    }
}

mq_code mq_model_save(const mq_model *model, mq_buf *out, mq_error *err)
{
    mq_pb_put_int(out, 1, model->ir_version);
    mq_pb_put_str(out, 2, model->producer_name);
    mq_pb_put_str(out, 3, model->producer_version);
    if (model->domain[0] != '\0') {
        mq_pb_put_str(out, 4, model->domain);
    }
    if (model->model_version != 0) {
        mq_pb_put_int(out, 5, model->model_version);
    }
    size_t at = mq_pb_begin(out, 7);
    write_graph(out, &model->graph);
    mq_pb_end(out, at);
    for (uint32_t i = 0; i < model->opset_count; i++) {
        at = mq_pb_begin(out, 8);
        mq_pb_put_str(out, 1, model->opsets[i].domain);
        mq_pb_put_int(out, 2, model->opsets[i].version);
        mq_pb_end(out, at);
    }
    for (uint32_t i = 0; i < model->metadata_count; i++) {
        at = mq_pb_begin(out, 14);
        mq_pb_put_str(out, 1, model->metadata[i].key);
        mq_pb_put_str(out, 2, model->metadata[i].value);
        mq_pb_end(out, at);
    }
    if (out->is_full) {
        return mq_fail(err, MQ_E_LIMIT, "the model's file is larger than its limit of %zu bytes",
                       out->limit);
    }
    return MQ_OK;
}

mq_code mq_tensor_proto_save(const mq_init *init, mq_buf *out, mq_error *err)
{
    mq_write_tensor(out, init);
    if (out->is_full) {
        return mq_fail(err, MQ_E_LIMIT, "tensor '%s' is larger than %zu bytes", init->name,
                       out->limit);
    }
    return MQ_OK;
}

/* The operator table and what every operator's node goes through at load: look-up, arity,
 * attributes by their specs, types by the row. */
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/ops/op.h"

static const mq_op *const table[] = {
#define MQ_OP(symbol) &mq_op_##symbol,
#include "worker/ops/ops.def"
#undef MQ_OP
};

enum { ROW_COUNT = sizeof table / sizeof table[0] };

size_t mq_op_table(const mq_op *const **out)
{
    *out = table;
    return ROW_COUNT;
}

const mq_op *mq_op_find(const char *domain, const char *name, int64_t opset)
{
    if (strcmp(domain, "ai.onnx") == 0) {
        domain = "";
    }
    const mq_op *best = NULL;
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const mq_op *op = table[i];
        if (op->since <= opset && (best == NULL || op->since > best->since) &&
            strcmp(op->name, name) == 0 && strcmp(op->domain, domain) == 0) {
            best = op;
        }
    }
    return best != NULL && best->until != 0 && opset > best->until ? NULL : best;
}

/* "node 'a' (Conv of ai.onnx, opset 11)" */
static char *describe(const mq_node *node, int64_t opset, char *out, size_t size)
{
    const char *domain = node->domain[0] == '\0' ? "ai.onnx" : node->domain;
    const char *name = node->name[0] != '\0'    ? node->name
                       : node->output_count > 0 ? node->outputs[0]
                                                : "";
    snprintf(out, size, "node '%.80s' (%.60s of %.60s, opset %lld)", name, node->op_type, domain,
             (long long)opset);
    return out;
}

static mq_code check_arity(const mq_node *node, const mq_op *op, mq_error *err)
{
    uint32_t in = node->input_count, out = node->output_count;
    while (in > 0 && node->inputs[in - 1][0] == '\0') {
        in--;
    }
    while (out > 0 && node->outputs[out - 1][0] == '\0') {
        out--;
    }
    if (in < op->in.min || in > op->in.max) {
        return mq_fail(err, MQ_E_FORMAT, "%u inputs where %u to %u are allowed", in, op->in.min,
                       op->in.max);
    }
    if (out < op->out.min || out > op->out.max) {
        return mq_fail(err, out > op->out.max ? MQ_E_UNSUPPORTED : MQ_E_FORMAT,
                       "%u outputs where %u to %u are supported", out, op->out.min, op->out.max);
    }
    for (uint32_t i = 0; i < op->in.min; i++) {
        if (node->inputs[i][0] == '\0') {
            return mq_fail(err, MQ_E_FORMAT, "input %u may not be omitted", i);
        }
    }
    return MQ_OK;
}

static void put_default(const mq_attr_spec *spec, uint8_t *at)
{
    mq_span text = mq_str(spec->s);
    if (spec->type == MQ_ATTR_FLOAT) {
        memcpy(at, &spec->f, sizeof spec->f);
    } else if (spec->type == MQ_ATTR_INT) {
        memcpy(at, &spec->i, sizeof spec->i);
    } else if (spec->type == MQ_ATTR_STRING) {
        memcpy(at, &text, sizeof text);
    }
}

static void put_value(const mq_attr *attr, uint8_t *at)
{
    mq_ints ints = {attr->ints, attr->count, true};
    mq_floats floats = {attr->floats, attr->count, true};
    mq_strings strings = {attr->strings, attr->count, true};
    switch (attr->type) {
    case MQ_ATTR_FLOAT:
        memcpy(at, &attr->f, sizeof attr->f);
        break;
    case MQ_ATTR_INT:
        memcpy(at, &attr->i, sizeof attr->i);
        break;
    case MQ_ATTR_STRING:
        memcpy(at, &attr->s, sizeof attr->s);
        break;
    case MQ_ATTR_TENSOR:
        memcpy(at, &attr->tensor, sizeof attr->tensor);
        break;
    case MQ_ATTR_GRAPH:
        memcpy(at, &attr->graph, sizeof attr->graph);
        break;
    case MQ_ATTR_FLOATS:
        memcpy(at, &floats, sizeof floats);
        break;
    case MQ_ATTR_INTS:
        memcpy(at, &ints, sizeof ints);
        break;
    case MQ_ATTR_STRINGS:
        memcpy(at, &strings, sizeof strings);
        break;
    }
}

mq_code mq_op_fill(const mq_node *node, const mq_op *op, void *attrs, mq_error *err)
{
    uint8_t *out = attrs;
    uint32_t known = 0;
    for (const mq_attr_spec *spec = op->specs; spec != NULL && spec->name != NULL; spec++) {
        const mq_attr *attr = mq_node_attr(node, spec->name);
        if (attr == NULL && spec->is_required) {
            return mq_fail(err, MQ_E_FORMAT, "attribute '%s' is required", spec->name);
        }
        if (attr != NULL && attr->type != spec->type) {
            return mq_fail(err, MQ_E_FORMAT, "attribute '%s' has type %d where %d is due",
                           spec->name, (int)attr->type, (int)spec->type);
        }
        known += attr != NULL;
        if (attr == NULL) {
            put_default(spec, out + spec->offset);
        } else {
            put_value(attr, out + spec->offset);
        }
    }
    if (known == node->attr_count) {
        return MQ_OK;
    }
    for (uint32_t i = 0; i < node->attr_count; i++) {
        const mq_attr_spec *spec = op->specs;
        while (spec != NULL && spec->name != NULL && strcmp(spec->name, node->attrs[i].name) != 0) {
            spec++;
        }
        bool is_hint = strcmp(node->attrs[i].name, "consumed_inputs") == 0; /* opset 1; no effect */
        if ((spec == NULL || spec->name == NULL) && !is_hint) {
            return mq_fail(err, MQ_E_UNSUPPORTED, "attribute '%s' is not known at this version",
                           node->attrs[i].name);
        }
    }
    return MQ_OK;
}

mq_code mq_op_bind(const mq_node *node, int64_t opset, mq_arena *arena, const mq_op **op,
                   const void **attrs, mq_error *err)
{
    char text[256];
    const mq_op *found = mq_op_find(node->domain, node->op_type, opset);
    if (found == NULL || (found->flags & MQ_OP_INTERNAL) != 0) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "%s: no such operator here",
                       describe(node, opset, text, sizeof text));
    }
    if (node->domain[0] == '\0' && opset > MQ_OPSET_MAX) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "%s: opsets above %d are not known here",
                       describe(node, opset, text, sizeof text), MQ_OPSET_MAX);
    }
    mq_code code = check_arity(node, found, err);
    void *filled = NULL;
    if (code == MQ_OK && found->attrs_bytes > 0) {
        filled = mq_arena_alloc(arena, found->attrs_bytes, 1);
        if (filled == NULL) {
            return mq_fail(err, MQ_E_LIMIT, "no memory for attributes");
        }
    }
    if (code == MQ_OK) {
        code = mq_op_fill(node, found, filled, err);
    }
    if (code == MQ_OK && found->parse != NULL) {
        code = found->parse(node, opset, filled, err);
    }
    if (code != MQ_OK) {
        return mq_wrap(err, "%s", describe(node, opset, text, sizeof text));
    }
    *op = found;
    *attrs = filled;
    return MQ_OK;
}

static mq_code check_types(const mq_op_call *call, mq_error *err)
{
    const mq_op *op = call->op;
    uint32_t last = 0;
    while (last + 1 < MQ_OP_ARGS_MAX && op->args[last + 1].types != 0) {
        last++;
    }
    for (uint32_t i = 0; i < call->input_count; i++) {
        if (call->inputs[i] == NULL) {
            continue;
        }
        const mq_op_arg *arg = &op->args[i < last ? i : last];
        mq_dtype dtype = call->inputs[i]->dtype;
        bool is_half = dtype == MQ_DT_F16 || dtype == MQ_DT_BF16;
        bool is_widened = call->is_widened && is_half && (arg->types & MQ_T(MQ_DT_F32)) != 0;
        if (((arg->types >> dtype) & 1) == 0 && !is_widened) {
            return mq_fail(err, MQ_E_UNSUPPORTED, "input %u is %s, which is not supported", i,
                           mq_dtype_name(dtype));
        }
        for (uint32_t k = 0; k < i && arg->group != 0; k++) {
            const mq_op_arg *other = &op->args[k < last ? k : last];
            if (other->group == arg->group && call->inputs[k] != NULL &&
                call->inputs[k]->dtype != dtype) {
                return mq_fail(err, MQ_E_FORMAT, "input %u is %s where input %u is %s", i,
                               mq_dtype_name(dtype), k, mq_dtype_name(call->inputs[k]->dtype));
            }
            if (other->group == arg->group) {
                break; /* the first of a group stands for all */
            }
        }
    }
    return MQ_OK;
}

mq_code mq_op_shape(mq_op_call *call, const mq_node *node, mq_error *err)
{
    bool is_made = (call->op->flags & MQ_OP_MAKES) != 0;
    call->is_widened = mq_widen_wants(call);
    mq_code code = check_types(call, err);
    if (code == MQ_OK && !is_made) {
        code = call->is_widened ? mq_widen_shape(call, err) : call->op->shape(call, err);
    }
    for (uint32_t i = 0; i < call->output_count && code == MQ_OK && !is_made; i++) {
        mq_tensor *out = call->outputs[i];
        size_t count, each;
        if (out == NULL) {
            continue;
        }
        code = mq_shape_count(&out->shape, &count, err);
        each = mq_value_item_bytes(out->dtype);
        if (code == MQ_OK && !mq_mul_size(count, each, &out->bytes)) {
            code = mq_fail(err, MQ_E_LIMIT, "output %u is too large", i);
        }
    }
    if (code != MQ_OK) {
        char text[256];
        return mq_wrap(err, "%s", describe(node, call->op->since, text, sizeof text));
    }
    return MQ_OK;
}

bool mq_op_has_scratch(const mq_op_call *call)
{
    return call->is_widened || call->op->scratch != NULL;
}

mq_code mq_op_ready(const mq_op_call *call, mq_error *err)
{
    bool wants = call->state != NULL && call->op->ready != NULL && !call->is_widened;
    return wants ? call->op->ready(call, err) : MQ_OK;
}

size_t mq_op_scratch(const mq_op_call *call)
{
    if (call->is_widened) {
        return mq_widen_scratch(call);
    }
    return call->op->scratch == NULL ? 0 : call->op->scratch(call);
}

mq_code mq_op_run(const mq_op_call *call, mq_error *err)
{
    return call->is_widened ? mq_widen_run(call, err) : call->op->run(call, err);
}

/* What fusion rules look with; see fuse.h. */
#include "worker/exec/fuse.h"

#include <math.h>

bool mq_fuse_is(const mq_step *step, const char *name)
{
    return step->op != NULL && strcmp(step->op->name, name) == 0 && step->op->domain[0] == '\0';
}

uint32_t mq_fuse_reader(const mq_program *p, uint32_t s)
{
    uint32_t v = p->steps[s].outputs[0];
    if (p->steps[s].output_count != 1 || p->values[v].uses != 1 || p->values[v].is_output) {
        return MQ_NO_VALUE;
    }
    return p->values[v].reader;
}

uint32_t mq_fuse_next(const mq_program *p, uint32_t s, const char *name)
{
    uint32_t r = mq_fuse_reader(p, s);
    return r != MQ_NO_VALUE && mq_fuse_is(&p->steps[r], name) ? r : MQ_NO_VALUE;
}

uint32_t mq_fuse_maker(const mq_program *p, uint32_t v, const char *name)
{
    if (v == MQ_NO_VALUE || p->values[v].kind != MQ_VALUE_STEP) {
        return MQ_NO_VALUE;
    }
    uint32_t s = p->values[v].source;
    return mq_fuse_is(&p->steps[s], name) && p->steps[s].outputs[0] == v ? s : MQ_NO_VALUE;
}

bool mq_fuse_uses(const mq_program *p, uint32_t v, uint32_t uses)
{
    return v != MQ_NO_VALUE && p->values[v].uses == uses && !p->values[v].is_output;
}

uint32_t mq_fuse_other(const mq_step *step, uint32_t v)
{
    return step->input_count != 2 ? MQ_NO_VALUE : step->inputs[step->inputs[0] == v ? 1 : 0];
}

bool mq_fuse_is_const(const mq_program *p, uint32_t v)
{
    return v != MQ_NO_VALUE && p->values[v].kind == MQ_VALUE_CONST;
}

bool mq_fuse_number(const mq_program *p, uint32_t v, float *out)
{
    if (!mq_fuse_is_const(p, v) || p->values[v].tensor.dtype != MQ_DT_F32 ||
        p->values[v].tensor.bytes != sizeof(float) || p->values[v].tensor.shape.rank > 1) {
        return false;
    }
    memcpy(out, p->values[v].tensor.data, sizeof *out);
    return true;
}

bool mq_fuse_is_number(const mq_program *p, uint32_t v, float near)
{
    float x;
    return mq_fuse_number(p, v, &x) && fabsf(x - near) <= 1e-4f * fabsf(near);
}

int64_t mq_fuse_vector(const mq_program *p, uint32_t v)
{
    bool is_one = mq_fuse_is_const(p, v) && p->values[v].tensor.dtype == MQ_DT_F32 &&
                  p->values[v].tensor.shape.rank == 1;
    return is_one ? p->values[v].tensor.shape.dims[0] : 0;
}

static bool graph_has_double(const mq_graph *g)
{
    for (uint32_t i = 0; i < g->input_count; i++) {
        if (g->inputs[i].dtype == MQ_DT_F64) {
            return true;
        }
    }
    for (uint32_t i = 0; i < g->initializer_count; i++) {
        if (g->initializers[i].tensor.dtype == MQ_DT_F64) {
            return true;
        }
    }
    for (uint32_t n = 0; n < g->node_count; n++) {
        for (uint32_t i = 0; i < g->nodes[n].attr_count; i++) {
            const mq_attr *a = &g->nodes[n].attrs[i];
            bool is_type = strcmp(a->name, "to") == 0 || strstr(a->name, "dtype") != NULL;
            if ((is_type && a->type == MQ_ATTR_INT && a->i == MQ_DT_F64) ||
                (a->tensor != NULL && a->tensor->tensor.dtype == MQ_DT_F64) ||
                (a->graph != NULL && graph_has_double(a->graph))) { /* MQ_MODEL_DEPTH_MAX */
                return true;
            }
        }
    }
    return false;
}

bool mq_fuse_has_double(mq_program *p)
{
    if (p->doubles == MQ_DOUBLE_UNKNOWN) {
        p->doubles = graph_has_double(&p->model->graph) ? MQ_DOUBLE_SOME : MQ_DOUBLE_NONE;
    }
    return p->doubles == MQ_DOUBLE_SOME;
}

mq_code mq_fuse_put(mq_program *p, uint32_t s, const mq_op *op, const void *attrs,
                    const uint32_t *inputs, uint32_t count, mq_error *err)
{
    mq_step *step = &p->steps[s];
    uint32_t *list = mq_arena_new(p->arena, uint32_t, (size_t)count + 2);
    void *kept = mq_arena_alloc(p->arena, op->attrs_bytes + 1, 1);
    if (list == NULL || kept == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for fusion");
    }
    memcpy(list, inputs, count * sizeof *list);
    if (op->attrs_bytes > 0) {
        memcpy(kept, attrs, op->attrs_bytes);
    }
    step->op = op;
    step->attrs = kept;
    step->inputs = list;
    step->input_count = count;
    step->formal_count = count;
    p->fused_count++;
    return MQ_OK;
}

uint32_t mq_fuse_constant(mq_program *p, const mq_shape *shape)
{
    return mq_fuse_constant_at(p, shape, NULL);
}

uint32_t mq_fuse_constant_at(mq_program *p, const mq_shape *shape, const float *data)
{
    size_t count = 1;
    for (int32_t i = 0; i < shape->rank; i++) {
        count *= (size_t)shape->dims[i];
    }
    if (p->value_count == p->value_room) {
        uint32_t room = p->value_room + 64 + p->value_room / 8;
        mq_value *values = mq_arena_new(p->arena, mq_value, room);
        if (values == NULL) {
            return MQ_NO_VALUE;
        }
        memcpy(values, p->values, p->value_count * sizeof *values);
        p->values = values;
        p->value_room = room;
    }
    float *own = data != NULL ? NULL : mq_arena_alloc(p->arena, count * sizeof *own + 1, 1);
    if (data == NULL && own == NULL) {
        return MQ_NO_VALUE;
    }
    void *at = own != NULL ? own : (void *)(uintptr_t)data;
    p->values[p->value_count] = (mq_value){.name = "",
                                           .kind = MQ_VALUE_CONST,
                                           .tensor = {MQ_DT_F32, *shape, at, count * sizeof *data}};
    return p->value_count++;
}

/* Half precision for operators that have no kernel of their own for it: a shadow of the call whose
 * float16 and bfloat16 tensors are float32. Inputs are widened (exact), the operator runs, float32
 * outputs are rounded to the half type (once, to nearest even). Must not know any operator.
 *
 * A shadow lies in the call's scratch: [the operator's scratch][structs][data of inputs, outputs].
 */
#include "shared/base/assert.h"
#include "shared/base/math.h"
#include "worker/ops/half.h"

enum { ALIGN = 64 };

typedef struct shadow {
    mq_op_call call;
    mq_tensor *tensors; /* inputs, then outputs */
    const mq_tensor **inputs;
    mq_tensor **outputs;
} shadow;

static bool is_half(mq_dtype dtype)
{
    return dtype == MQ_DT_F16 || dtype == MQ_DT_BF16;
}

/* The row's rule for input i: the last one given serves all further inputs. */
static mq_types types_of(const mq_op *op, uint32_t i)
{
    uint32_t last = 0;
    while (last + 1 < MQ_OP_ARGS_MAX && op->args[last + 1].types != 0) {
        last++;
    }
    return op->args[i < last ? i : last].types;
}

bool mq_widen_wants(const mq_op_call *call)
{
    bool wants = false;
    for (uint32_t i = 0; i < call->input_count; i++) {
        if (call->inputs[i] == NULL || !is_half(call->inputs[i]->dtype)) {
            continue;
        }
        mq_types types = types_of(call->op, i);
        if ((types >> call->inputs[i]->dtype & 1) == 0) {
            if ((types & MQ_T(MQ_DT_F32)) == 0) {
                return false; /* the check of types says so */
            }
            wants = true;
        }
    }
    return wants && (call->op->flags & MQ_OP_MAKES) == 0;
}

/* The half type that float32 outputs are rounded to: the first widened input's. */
static mq_dtype narrow_type(const mq_op_call *call)
{
    for (uint32_t i = 0; i < call->input_count; i++) {
        if (call->inputs[i] != NULL && is_half(call->inputs[i]->dtype) &&
            (types_of(call->op, i) & MQ_T(MQ_DT_F32)) != 0) {
            return call->inputs[i]->dtype;
        }
    }
    return MQ_DT_F32;
}

static bool is_input_widened(const mq_op_call *call, uint32_t i)
{
    return call->inputs[i] != NULL && is_half(call->inputs[i]->dtype) &&
           (types_of(call->op, i) & MQ_T(MQ_DT_F32)) != 0;
}

static size_t struct_bytes(const mq_op_call *call)
{
    size_t count = (size_t)call->input_count + call->output_count;
    return mq_align_up(count * (sizeof(mq_tensor) + sizeof(mq_tensor *)) + 1, ALIGN);
}

static size_t data_bytes(const mq_tensor *half)
{
    return mq_align_up(mq_elements(half) * sizeof(float) + 1, ALIGN);
}

/* Structs of the shadow at `at`; data pointers are those of the call. */
static void cast_shadow(const mq_op_call *call, uint8_t *at, shadow *out)
{
    size_t count = (size_t)call->input_count + call->output_count;
    out->tensors = (mq_tensor *)(void *)at;
    out->inputs = (const mq_tensor **)(void *)(at + count * sizeof(mq_tensor));
    out->outputs = (mq_tensor **)(void *)(out->inputs + call->input_count);
    for (uint32_t i = 0; i < call->input_count; i++) {
        out->inputs[i] = NULL;
        if (call->inputs[i] != NULL) {
            out->tensors[i] = *call->inputs[i];
            out->inputs[i] = &out->tensors[i];
            if (is_input_widened(call, i)) {
                out->tensors[i].dtype = MQ_DT_F32;
                out->tensors[i].bytes = mq_elements(call->inputs[i]) * sizeof(float);
            }
        }
    }
    for (uint32_t i = 0; i < call->output_count; i++) {
        out->outputs[i] = NULL;
        if (call->outputs[i] != NULL) {
            out->tensors[call->input_count + i] = *call->outputs[i];
            out->outputs[i] = &out->tensors[call->input_count + i];
        }
    }
    out->call = *call;
    out->call.inputs = out->inputs;
    out->call.outputs = out->outputs;
    out->call.is_widened = false;
}

static void widen(const mq_tensor *half, float *out)
{
    const uint16_t *in = half->data;
    size_t n = mq_elements(half);
    for (size_t i = 0; i < n; i++) {
        out[i] = half->dtype == MQ_DT_F16 ? mq_half_to_float(in[i]) : mq_bfloat_to_float(in[i]);
    }
}

static void narrow(const float *in, const mq_tensor *half)
{
    uint16_t *out = half->data;
    size_t n = mq_elements(half);
    for (size_t i = 0; i < n; i++) {
        out[i] = half->dtype == MQ_DT_F16 ? mq_float_to_half(in[i]) : mq_float_to_bfloat(in[i]);
    }
}

mq_code mq_widen_shape(const mq_op_call *call, mq_error *err)
{
    shadow s;
    mq_arena arena;
    mq_arena_init(&arena, (size_t)64 << 20);
    uint8_t *at = mq_arena_alloc(&arena, struct_bytes(call), 1);
    mq_code code = at == NULL ? mq_fail(err, MQ_E_LIMIT, "no memory for a call") : MQ_OK;
    if (code == MQ_OK) {
        cast_shadow(call, at, &s);
    }
    for (uint32_t i = 0; i < call->input_count && code == MQ_OK; i++) {
        if (!is_input_widened(call, i) || call->inputs[i]->data == NULL) {
            continue;
        }
        s.tensors[i].data = NULL;
        if (i < 32 && (call->op->shape_inputs >> i & 1) != 0) { /* shape() reads its values */
            s.tensors[i].data = mq_arena_alloc(&arena, data_bytes(call->inputs[i]), 1);
            if (s.tensors[i].data == NULL) {
                code = mq_fail(err, MQ_E_LIMIT, "no memory for a call");
            } else {
                widen(call->inputs[i], s.tensors[i].data);
            }
        }
    }
    if (code == MQ_OK) {
        code = call->op->shape(&s.call, err);
    }
    for (uint32_t i = 0; i < call->output_count && code == MQ_OK; i++) {
        if (call->outputs[i] == NULL) {
            continue;
        }
        call->outputs[i]->dtype = s.outputs[i]->dtype;
        call->outputs[i]->shape = s.outputs[i]->shape;
        if (s.outputs[i]->dtype == MQ_DT_F32 && (call->op->stay_wide >> i & 1) == 0) {
            call->outputs[i]->dtype = narrow_type(call);
        }
    }
    mq_arena_release(&arena);
    return code;
}

/* Is output i computed in float32 and then rounded? */
static bool is_output_widened(const mq_op_call *call, uint32_t i)
{
    return call->outputs[i] != NULL && is_half(call->outputs[i]->dtype);
}

static void widen_outputs(const mq_op_call *call, shadow *s)
{
    for (uint32_t i = 0; i < call->output_count; i++) {
        if (is_output_widened(call, i)) {
            s->outputs[i]->dtype = MQ_DT_F32;
            s->outputs[i]->bytes = mq_elements(call->outputs[i]) * sizeof(float);
        }
    }
}

size_t mq_widen_scratch(const mq_op_call *call)
{
    size_t bytes = 2 * (size_t)ALIGN + struct_bytes(call);
    for (uint32_t i = 0; i < call->input_count; i++) {
        bytes += is_input_widened(call, i) ? data_bytes(call->inputs[i]) : 0;
    }
    for (uint32_t i = 0; i < call->output_count; i++) {
        bytes += is_output_widened(call, i) ? data_bytes(call->outputs[i]) : 0;
    }
    if (call->op->scratch != NULL) {
        mq_arena arena;
        shadow s;
        mq_arena_init(&arena, (size_t)64 << 20);
        uint8_t *at = mq_arena_alloc(&arena, struct_bytes(call), 1);
        if (at == NULL) {
            bytes = SIZE_MAX / 4; /* the planner's arena then refuses it */
        } else {
            cast_shadow(call, at, &s);
            widen_outputs(call, &s);
            bytes += mq_align_up(call->op->scratch(&s.call), ALIGN);
        }
        mq_arena_release(&arena);
    }
    return bytes;
}

mq_code mq_widen_run(const mq_op_call *call, mq_error *err)
{
    shadow s;
    uint8_t *at = call->scratch;
    MQ_ASSERT(at != NULL);
    cast_shadow(call, at, &s);
    widen_outputs(call, &s);
    at += struct_bytes(call);
    for (uint32_t i = 0; i < call->input_count; i++) {
        if (is_input_widened(call, i)) {
            s.tensors[i].data = at;
            widen(call->inputs[i], s.tensors[i].data);
            at += data_bytes(call->inputs[i]);
        }
    }
    for (uint32_t i = 0; i < call->output_count; i++) {
        if (is_output_widened(call, i)) {
            s.outputs[i]->data = at;
            at += data_bytes(call->outputs[i]);
        }
    }
    s.call.scratch = at;
    mq_code code = call->op->run(&s.call, err);
    for (uint32_t i = 0; i < call->output_count && code == MQ_OK; i++) {
        if (is_output_widened(call, i)) {
            narrow(s.outputs[i]->data, call->outputs[i]);
        }
    }
    return code;
}

/* Det and MeanVarianceNormalization. onnx.ai/onnx/operators/onnx__Det.html,
 * onnx__MeanVarianceNormalization.html */
#include "worker/ops/element.h"

/* --- Det: the product of the pivots of an LU decomposition --- */

static mq_code det_shape(const mq_op_call *call, mq_error *err)
{
    const mq_shape *x = &call->inputs[0]->shape;
    if (x->rank < 2 || x->dims[x->rank - 1] != x->dims[x->rank - 2]) {
        return mq_fail(err, MQ_E_ARG, "input must be [.., M, M]");
    }
    call->outputs[0]->dtype = call->inputs[0]->dtype;
    call->outputs[0]->shape = *x;
    call->outputs[0]->shape.rank -= 2;
    return MQ_OK;
}

static size_t det_side(const mq_op_call *call)
{
    return (size_t)call->inputs[0]->shape.dims[call->inputs[0]->shape.rank - 1];
}

static size_t det_scratch(const mq_op_call *call)
{
    return det_side(call) * det_side(call) * sizeof(double);
}

static double determinant(double *m, size_t n)
{
    double product = 1.0;
    for (size_t k = 0; k < n && product != 0.0; k++) {
        size_t best = k;
        for (size_t i = k + 1; i < n; i++) {
            best = fabs(m[i * n + k]) > fabs(m[best * n + k]) ? i : best;
        }
        for (size_t j = 0; j < n && best != k; j++) {
            double swap = m[k * n + j];
            m[k * n + j] = m[best * n + j];
            m[best * n + j] = swap;
        }
        product *= best != k ? -m[k * n + k] : m[k * n + k];
        for (size_t i = k + 1; i < n && product != 0.0; i++) {
            double factor = m[i * n + k] / m[k * n + k];
            for (size_t j = k; j < n; j++) {
                m[i * n + j] -= factor * m[k * n + j];
            }
        }
    }
    return product;
}

static mq_code det_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    size_t n = det_side(call), count = mq_elements(call->outputs[0]);
    double *m = call->scratch;
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < n * n; k++) {
            m[k] = mq_element(call->inputs[0], i * n * n + k);
        }
        mq_element_set(call->outputs[0], i, determinant(m, n));
    }
    return MQ_OK;
}

const mq_op mq_op_det = {
    .name = "Det",
    .domain = "",
    .since = 11,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{0, MQ_T_FLOATS | MQ_T_HALF}},
    .shape = det_shape,
    .scratch = det_scratch,
    .run = det_run,
    .cases = "| f32[A,3,3]; | f64[4,4]; | f32[2,A,1,1]",
};

/* --- MeanVarianceNormalization: (x - mean) / (deviation + 1e-9) over the axes --- */

typedef struct mvn_attrs {
    mq_ints axes;
    bool is_reduced[MQ_RANK_MAX];
} mvn_attrs;

static mq_code reduced_axes(const mq_op_call *call, bool *is_reduced, mq_error *err)
{
    static const int64_t usual[] = {0, 2, 3};
    const mvn_attrs *a = call->attrs;
    const int64_t *axes = a->axes.is_given ? a->axes.at : usual;
    size_t count = a->axes.is_given ? a->axes.count : MQ_COUNT_OF(usual);
    mq_code code = MQ_OK;
    for (size_t i = 0; i < count && code == MQ_OK; i++) {
        int32_t axis = 0;
        code = mq_axis(axes[i], call->inputs[0]->shape.rank, &axis, err);
        is_reduced[axis] = true;
    }
    return code;
}

static mq_code mvn_shape(const mq_op_call *call, mq_error *err)
{
    bool is_reduced[MQ_RANK_MAX] = {false};
    mq_code code = reduced_axes(call, is_reduced, err);
    return code == MQ_OK ? mq_shape_same(call, err) : code;
}

static size_t mvn_scratch(const mq_op_call *call)
{
    return 2 * mq_elements(call->inputs[0]) * sizeof(double);
}

static mq_code mvn_run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *x = call->inputs[0];
    bool is_reduced[MQ_RANK_MAX] = {false};
    mq_code code = reduced_axes(call, is_reduced, err);
    size_t count = mq_elements(x), groups = 1;
    mq_strides to_group = {{0}};
    for (int32_t d = x->shape.rank - 1; d >= 0 && code == MQ_OK; d--) {
        to_group.at[d] = is_reduced[d] ? 0 : groups;
        groups *= is_reduced[d] ? 1 : (size_t)x->shape.dims[d];
    }
    if (code != MQ_OK || count == 0) {
        return code;
    }
    size_t members = count / groups;
    double *mean = call->scratch, *square = mean + groups, each = (double)members;
    for (size_t g = 0; g < groups; g++) {
        mean[g] = square[g] = 0.0;
    }
    for (int pass = 0; pass < 3; pass++) { /* means, deviations, results */
        int64_t index[MQ_RANK_MAX] = {0};
        for (size_t i = 0; i < count; i++) {
            size_t g = mq_offset(&to_group, index, x->shape.rank);
            double v = mq_element(x, i), away = v - mean[g] / each;
            mean[g] += pass == 0 ? v : 0.0;
            square[g] += pass == 1 ? away * away : 0.0;
            if (pass == 2) {
                mq_element_set(call->outputs[0], i, away / (sqrt(square[g] / each) + 1e-9));
            }
            mq_next_index(&x->shape, index);
        }
    }
    return MQ_OK;
}

static const mq_attr_spec mvn_specs[] = {
    {.name = "axes", .type = MQ_ATTR_INTS, .offset = offsetof(mvn_attrs, axes)},
    {.name = NULL},
};

const mq_op mq_op_mean_variance_normalization = {
    .name = "MeanVarianceNormalization",
    .domain = "",
    .since = 9,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{0, MQ_T_FLOATS | MQ_T_HALF}},
    .attrs_bytes = sizeof(mvn_attrs),
    .specs = mvn_specs,
    .shape = mvn_shape,
    .scratch = mvn_scratch,
    .run = mvn_run,
    .cases = "| f32[A,B,C,D]; axes=(-1) | f64[A,B]; axes=(0,1) | f32[A,B,3]",
};

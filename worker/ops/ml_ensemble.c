/* TreeEnsemble of ai.onnx.ml 5: trees whose leaves are a list of their own, with set membership as
 * a test. Nodes are used as the file lists them.
 * onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html */
#include "worker/ops/ml.h"

enum { NODES_MAX = 1 << 24 };

typedef enum test { TEST_LEQ, TEST_LT, TEST_GTE, TEST_GT, TEST_EQ, TEST_NEQ, TEST_MEMBER } test;
typedef enum aggregate { AVERAGE, SUM, LEAST, MOST } aggregate;

typedef struct ensemble_attrs {
    int64_t aggregate_function, n_targets, post_transform;
    mq_ints leaf_targetids, falseleafs, falsenodeids, featureids, missing, trueleafs, truenodeids;
    mq_ints tree_roots;
    const mq_init *leaf_weights, *membership_values, *hitrates, *modes, *splits;
} ensemble_attrs;

static size_t count_of(const mq_init *init)
{
    return init == NULL ? 0 : mq_elements(&init->tensor);
}

static mq_code check_node(const ensemble_attrs *a, size_t i, mq_error *err)
{
    int64_t nodes = (int64_t)a->featureids.count, leaves = (int64_t)a->leaf_targetids.count;
    int64_t yes = a->truenodeids.at[i], no = a->falsenodeids.at[i];
    int64_t yes_limit = a->trueleafs.at[i] != 0 ? leaves : nodes;
    int64_t no_limit = a->falseleafs.at[i] != 0 ? leaves : nodes;
    int64_t mode = mq_element_int(&a->modes->tensor, i);
    if (yes < 0 || yes >= yes_limit || no < 0 || no >= no_limit || mode < TEST_LEQ ||
        mode > TEST_MEMBER || a->featureids.at[i] < 0) {
        return mq_fail(err, MQ_E_FORMAT,
                       "node %zu: a child, its mode (0 to 6) or feature is out of range", i);
    }
    return MQ_OK;
}

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)node;
    (void)opset;
    const ensemble_attrs *a = attrs;
    size_t n = a->featureids.count, leaves = a->leaf_targetids.count, members = 0;
    if (n == 0 || n > NODES_MAX || leaves == 0 || leaves > NODES_MAX || a->falseleafs.count != n ||
        a->falsenodeids.count != n || a->trueleafs.count != n || a->truenodeids.count != n ||
        count_of(a->modes) != n || count_of(a->splits) != n ||
        (a->missing.is_given && a->missing.count != n) || count_of(a->leaf_weights) != leaves) {
        return mq_fail(err, MQ_E_FORMAT, "the lists of nodes, or of leaves, differ in length");
    }
    if (a->n_targets < 1 || a->n_targets > NODES_MAX || a->aggregate_function < 0 ||
        a->aggregate_function > 3 || a->post_transform < 0 || a->post_transform > 4 ||
        a->modes->tensor.dtype != MQ_DT_U8) {
        return mq_fail(err, MQ_E_FORMAT,
                       "n_targets %lld, aggregate_function %lld (0 to 3), post_transform %lld (0 "
                       "to 4), modes of uint8",
                       (long long)a->n_targets, (long long)a->aggregate_function,
                       (long long)a->post_transform);
    }
    mq_code code = MQ_OK;
    for (size_t i = 0; i < n && code == MQ_OK; i++) {
        code = check_node(a, i, err);
        members += mq_element_int(&a->modes->tensor, i) == TEST_MEMBER;
    }
    for (size_t i = 0; i < leaves && code == MQ_OK; i++) {
        if (a->leaf_targetids.at[i] < 0 || a->leaf_targetids.at[i] >= a->n_targets) {
            code = mq_fail(err, MQ_E_FORMAT, "leaf %zu is for target %lld of %lld", i,
                           (long long)a->leaf_targetids.at[i], (long long)a->n_targets);
        }
    }
    for (size_t i = 0; i < a->tree_roots.count && code == MQ_OK; i++) {
        if (a->tree_roots.at[i] < 0 || a->tree_roots.at[i] >= (int64_t)n) {
            code = mq_fail(err, MQ_E_FORMAT, "tree_roots[%zu] is no node", i);
        }
    }
    if (code == MQ_OK && members > 0 && count_of(a->membership_values) < members) {
        code = mq_fail(err, MQ_E_FORMAT, "membership_values holds no set for each of %zu nodes",
                       members);
    }
    return code;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const ensemble_attrs *a = call->attrs;
    size_t rows, columns;
    mq_code code = mq_ml_rows(call->inputs[0], &rows, &columns, err);
    for (size_t i = 0; i < a->featureids.count && code == MQ_OK; i++) {
        if (a->featureids.at[i] >= (int64_t)columns) {
            code = mq_fail(err, MQ_E_ARG, "node %zu tests feature %lld of %zu", i,
                           (long long)a->featureids.at[i], columns);
        }
    }
    if (code == MQ_OK) {
        call->outputs[0]->dtype = call->inputs[0]->dtype;
        call->outputs[0]->shape = (mq_shape){2, {(int64_t)rows, a->n_targets}};
    }
    return code;
}

/* Where each node's set begins in membership_values, and a row of scores with its counts. */
static size_t scratch(const mq_op_call *call)
{
    const ensemble_attrs *a = call->attrs;
    return a->featureids.count * sizeof(size_t) +
           (size_t)a->n_targets * (sizeof(double) + sizeof(size_t));
}

static void find_sets(const ensemble_attrs *a, size_t *starts)
{
    size_t at = 0, count = count_of(a->membership_values);
    for (size_t i = 0; i < a->featureids.count; i++) {
        starts[i] = at;
        if (mq_element_int(&a->modes->tensor, i) == TEST_MEMBER) {
            while (at < count && !isnan(mq_element(&a->membership_values->tensor, at))) {
                at++;
            }
            at += at < count; /* NaN ends a set */
        }
    }
}

static bool is_member(const ensemble_attrs *a, size_t at, double x)
{
    for (; at < count_of(a->membership_values); at++) {
        double v = mq_element(&a->membership_values->tensor, at);
        if (isnan(v)) {
            return false;
        }
        if (v <= x && v >= x) {
            return true;
        }
    }
    return false;
}

static bool is_yes(const ensemble_attrs *a, const size_t *starts, size_t i, double x)
{
    double split = mq_element(&a->splits->tensor, i);
    if (isnan(x) && a->missing.is_given && a->missing.at[i] != 0) {
        return true;
    }
    switch ((test)mq_element_int(&a->modes->tensor, i)) {
    case TEST_LEQ:
        return x <= split;
    case TEST_LT:
        return x < split;
    case TEST_GTE:
        return x >= split;
    case TEST_GT:
        return x > split;
    case TEST_EQ:
        return x <= split && x >= split;
    case TEST_NEQ:
        return !(x <= split && x >= split);
    case TEST_MEMBER:
        break;
    }
    return is_member(a, starts[i], x);
}

/* The leaf that a row of x ends in, or SIZE_MAX when the nodes form a circle. */
static size_t leaf_of(const ensemble_attrs *a, const size_t *starts, const mq_tensor *x, size_t row,
                      size_t columns, size_t root)
{
    size_t node = root;
    for (size_t steps = 0; steps <= a->featureids.count; steps++) {
        double v = mq_element(x, row * columns + (size_t)a->featureids.at[node]);
        bool yes = is_yes(a, starts, node, v);
        bool is_leaf = (yes ? a->trueleafs.at[node] : a->falseleafs.at[node]) != 0;
        node = (size_t)(yes ? a->truenodeids.at[node] : a->falsenodeids.at[node]);
        if (is_leaf) {
            return node;
        }
    }
    return SIZE_MAX;
}

static mq_code score_row(const mq_op_call *call, const size_t *starts, size_t row, double *scores,
                         size_t *times, mq_error *err)
{
    const ensemble_attrs *a = call->attrs;
    aggregate how = (aggregate)a->aggregate_function;
    size_t rows, columns, targets = (size_t)a->n_targets;
    mq_code code = mq_ml_rows(call->inputs[0], &rows, &columns, err);
    memset(scores, 0, targets * sizeof *scores);
    memset(times, 0, targets * sizeof *times);
    for (size_t t = 0; t < a->tree_roots.count && code == MQ_OK; t++) {
        size_t leaf =
            leaf_of(a, starts, call->inputs[0], row, columns, (size_t)a->tree_roots.at[t]);
        if (leaf == SIZE_MAX) {
            return mq_fail(err, MQ_E_FORMAT, "tree %zu runs in a circle", t);
        }
        size_t target = (size_t)a->leaf_targetids.at[leaf];
        double weight = mq_element(&a->leaf_weights->tensor, leaf), was = scores[target];
        bool is_first = times[target]++ == 0;
        scores[target] = how == SUM || how == AVERAGE ? was + weight
                         : is_first                   ? weight
                         : how == LEAST               ? fmin(was, weight)
                                                      : fmax(was, weight);
    }
    for (size_t k = 0; k < targets && how == AVERAGE; k++) {
        scores[k] /= (double)a->tree_roots.count;
    }
    return code;
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    static const mq_ml_post posts[] = {MQ_ML_NONE, MQ_ML_SOFTMAX, MQ_ML_LOGISTIC,
                                       MQ_ML_SOFTMAX_ZERO, MQ_ML_PROBIT};
    const ensemble_attrs *a = call->attrs;
    size_t targets = (size_t)a->n_targets, rows = (size_t)call->outputs[0]->shape.dims[0];
    double *scores = call->scratch;
    size_t *times = (void *)(scores + targets), *starts = times + targets;
    find_sets(a, starts);
    for (size_t r = 0; r < rows; r++) {
        mq_code code = score_row(call, starts, r, scores, times, err);
        if (code != MQ_OK) {
            return code;
        }
        mq_ml_post_apply(posts[a->post_transform], scores, targets);
        for (size_t k = 0; k < targets; k++) {
            mq_element_set(call->outputs[0], r * targets + k, scores[k]);
        }
    }
    return MQ_OK;
}

#define NEEDED(type_, name_, field_)                                                               \
    {                                                                                              \
        .name = (name_), .type = MQ_ATTR_##type_, .offset = offsetof(ensemble_attrs, field_),      \
        .is_required = true                                                                        \
    }
static const mq_attr_spec specs[] = {
    {.name = "aggregate_function",
     .type = MQ_ATTR_INT,
     .offset = offsetof(ensemble_attrs, aggregate_function),
     .i = SUM},
    {.name = "n_targets",
     .type = MQ_ATTR_INT,
     .offset = offsetof(ensemble_attrs, n_targets),
     .i = 1},
    {.name = "post_transform",
     .type = MQ_ATTR_INT,
     .offset = offsetof(ensemble_attrs, post_transform)},
    NEEDED(INTS, "leaf_targetids", leaf_targetids),
    NEEDED(TENSOR, "leaf_weights", leaf_weights),
    NEEDED(INTS, "nodes_falseleafs", falseleafs),
    NEEDED(INTS, "nodes_falsenodeids", falsenodeids),
    NEEDED(INTS, "nodes_featureids", featureids),
    NEEDED(TENSOR, "nodes_modes", modes),
    NEEDED(TENSOR, "nodes_splits", splits),
    NEEDED(INTS, "nodes_trueleafs", trueleafs),
    NEEDED(INTS, "nodes_truenodeids", truenodeids),
    NEEDED(INTS, "tree_roots", tree_roots),
    MQ_ML_ATTR(TENSOR, ensemble_attrs, "membership_values", membership_values),
    MQ_ML_ATTR(TENSOR, ensemble_attrs, "nodes_hitrates", hitrates),
    MQ_ML_ATTR(INTS, ensemble_attrs, "nodes_missing_value_tracks_true", missing),
    {.name = NULL},
};

const mq_op mq_op_ml_tree_ensemble = {
    .name = "TreeEnsemble",
    .domain = "ai.onnx.ml",
    .since = 5,
    .in = {1, 1},
    .out = {1, 1},
    .args = {{0, MQ_T_FLOATS | MQ_T_HALF}},
    .attrs_bytes = sizeof(ensemble_attrs),
    .specs = specs,
    .parse = parse,
    .shape = shape,
    .scratch = scratch,
    .run = run,
    .cases = "n_targets=2 leaf_targetids=(0,1,0) leaf_weights=f32:(5.25,12.5,7.0) "
             "nodes_falseleafs=(1,1) nodes_falsenodeids=(2,1) nodes_featureids=(0,1) "
             "nodes_modes=u8:(0,6) nodes_splits=f32:(0.5,0.0) nodes_trueleafs=(0,1) "
             "nodes_truenodeids=(1,0) tree_roots=(0) membership_values=f32:(1.25,0.5) | f32[A,2]",
};

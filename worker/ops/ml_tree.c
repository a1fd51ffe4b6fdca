/* TreeEnsembleClassifier and TreeEnsembleRegressor of ai.onnx.ml: nodes as parallel lists, leaves'
 * weights by (tree, node). The lists are packed into one array of nodes, once when the model is
 * loaded. onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleClassifier.html */
#include <stdlib.h>

#include "shared/base/math.h"
#include "worker/ops/ml.h"

enum { NODES_MAX = 1 << 24 };

typedef enum tree_mode {
    BRANCH_LEQ,
    BRANCH_LT,
    BRANCH_GTE,
    BRANCH_GT,
    BRANCH_EQ,
    BRANCH_NEQ,
    LEAF,
} tree_mode;

typedef enum aggregate {
    SUM,
    AVERAGE,
    LEAST,
    MOST,
} aggregate;

/* Numbers as a list of float32 or, from version 3 on, as a tensor of float32 or float64. */
typedef struct tree_list {
    mq_floats floats;
    const mq_init *tensor;
} tree_list;

static size_t list_count(const tree_list *l)
{
    return l->tensor != NULL ? mq_elements(&l->tensor->tensor) : l->floats.count;
}

static double list_at(const tree_list *l, size_t i)
{
    return l->tensor != NULL ? mq_element(&l->tensor->tensor, i) : (double)l->floats.at[i];
}

typedef struct tree_attrs {
    mq_ints trees, nodes, features, yes, no, missing;
    tree_list values, hitrates, base;
    mq_strings modes;
    mq_ints leaf_trees, leaf_nodes, leaf_ids; /* of classes or targets */
    tree_list leaf_weights;
    mq_ml_labels labels;
    mq_span post_name, aggregate_name;
    int64_t targets;
    mq_ml_post post;
    aggregate how;
    bool is_classifier, is_positive, is_one_class;
} tree_attrs;

typedef struct tree_node {
    tree_mode mode;
    bool is_missing_yes;
    int64_t feature;
    double value;
    uint32_t yes, no;            /* nodes; a branch */
    uint32_t first_leaf, leaves; /* weights; a leaf */
} tree_node;

typedef struct tree_weight {
    uint32_t id;
    double weight;
} tree_weight;

/* Key to node: sorted by tree, then node. */
typedef struct tree_key {
    int64_t tree, node;
    uint32_t at;
} tree_key;

/* Lies in one block: this, then roots, nodes, weights. */
typedef struct forest {
    uint32_t node_count, root_count, weight_count;
    uint32_t *roots;
    tree_node *nodes;
    tree_weight *weights;
    tree_key *keys, *leaf_keys; /* only while it is built */
} forest;

/* ---- attributes ---- */

static mq_code check_counts(const tree_attrs *a, mq_error *err)
{
    size_t n = a->nodes.count, w = a->leaf_ids.count;
    if (n == 0 || n > NODES_MAX || a->trees.count != n || a->features.count != n ||
        a->yes.count != n || a->no.count != n || list_count(&a->values) != n ||
        a->modes.count != n || (a->missing.count != 0 && a->missing.count != n)) {
        return mq_fail(err, MQ_E_ARG, "the nodes_* lists differ in length or are empty (limit %d)",
                       NODES_MAX);
    }
    if (w > NODES_MAX || a->leaf_trees.count != w || a->leaf_nodes.count != w ||
        list_count(&a->leaf_weights) != w) {
        return mq_fail(err, MQ_E_ARG, "the lists of leaves' weights differ in length");
    }
    return MQ_OK;
}

static mq_code parse(const mq_node *node, int64_t opset, void *attrs, mq_error *err)
{
    (void)opset;
    static const char *const names[] = {"SUM", "AVERAGE", "MIN", "MAX"};
    tree_attrs *a = attrs;
    mq_code code = check_counts(a, err);
    code = code == MQ_OK ? mq_ml_post_parse(a->post_name, &a->post, err) : code;
    a->is_classifier = strcmp(node->op_type, "TreeEnsembleClassifier") == 0;
    int64_t outputs = a->is_classifier ? (int64_t)mq_ml_label_count(&a->labels) : a->targets;
    a->is_positive = a->is_one_class = true;
    for (size_t i = 0; i < a->leaf_ids.count && code == MQ_OK; i++) {
        a->is_positive = a->is_positive && list_at(&a->leaf_weights, i) >= 0.0;
        a->is_one_class = a->is_one_class && a->leaf_ids.at[i] == a->leaf_ids.at[0];
        if (a->leaf_ids.at[i] < 0 || a->leaf_ids.at[i] >= outputs) {
            code = mq_fail(err, MQ_E_ARG, "weight %zu is for output %lld of %lld", i,
                           (long long)a->leaf_ids.at[i], (long long)outputs);
        }
    }
    a->is_one_class = a->is_one_class && a->is_classifier && outputs == 2;
    for (int i = 0; i < 4 && !a->is_classifier; i++) {
        a->how = mq_span_is(a->aggregate_name, names[i]) ? (aggregate)i : a->how;
    }
    if (code == MQ_OK && (outputs < 1 || outputs > NODES_MAX ||
                          (list_count(&a->base) != 0 && list_count(&a->base) != (size_t)outputs &&
                           !(a->is_one_class && list_count(&a->base) == 1)))) {
        code = mq_fail(err, MQ_E_ARG, "%zu base values for %lld outputs", list_count(&a->base),
                       (long long)outputs);
    }
    return code;
}

static size_t outputs_of(const tree_attrs *a)
{
    return a->is_classifier ? mq_ml_label_count(&a->labels) : (size_t)a->targets;
}

/* ---- packing ---- */

static size_t forest_bytes(const tree_attrs *a)
{
    size_t n = a->nodes.count, w = a->leaf_ids.count;
    return sizeof(forest) + n * (sizeof(uint32_t) + sizeof(tree_node) + sizeof(tree_key)) +
           w * (sizeof(tree_weight) + sizeof(tree_key)) + 64;
}

static int by_key(const void *pa, const void *pb)
{
    const tree_key *a = pa, *b = pb;
    int order = (a->tree > b->tree) - (a->tree < b->tree);
    order = order != 0 ? order : (a->node > b->node) - (a->node < b->node);
    return order != 0 ? order : (a->at > b->at) - (a->at < b->at);
}

/* Number of the node, or UINT32_MAX. */
static uint32_t find_node(const forest *f, int64_t tree, int64_t node)
{
    uint32_t low = 0, high = f->node_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const tree_key *k = &f->keys[middle];
        bool is_below = k->tree < tree || (k->tree == tree && k->node < node);
        low = is_below ? middle + 1 : low;
        high = is_below ? high : middle;
    }
    bool is_found = low < f->node_count && f->keys[low].tree == tree && f->keys[low].node == node;
    return is_found ? f->keys[low].at : UINT32_MAX;
}

static void layout(const tree_attrs *a, forest *f)
{
    size_t n = a->nodes.count, w = a->leaf_ids.count;
    uint8_t *at = (uint8_t *)(f + 1);
    f->keys = (tree_key *)(void *)at;
    f->leaf_keys = f->keys + n;
    f->nodes = (tree_node *)(void *)(f->leaf_keys + w);
    f->weights = (tree_weight *)(void *)(f->nodes + n);
    f->roots = (uint32_t *)(void *)(f->weights + w);
    f->node_count = (uint32_t)n;
    f->weight_count = (uint32_t)w;
    f->root_count = 0;
}

static mq_code read_node(const tree_attrs *a, forest *f, uint32_t i, mq_error *err)
{
    static const char *const names[] = {"BRANCH_LEQ", "BRANCH_LT",  "BRANCH_GTE", "BRANCH_GT",
                                        "BRANCH_EQ",  "BRANCH_NEQ", "LEAF"};
    tree_node *node = &f->nodes[i];
    int mode = 0;
    while (mode < 7 && !mq_span_is(a->modes.at[i], names[mode])) {
        mode++;
    }
    *node = (tree_node){.mode = (tree_mode)mode,
                        .is_missing_yes = a->missing.count > 0 && a->missing.at[i] != 0,
                        .feature = a->features.at[i],
                        .value = list_at(&a->values, i)};
    if (mode == 7) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "node %u has an unknown mode", i);
    }
    if (mode != LEAF) {
        node->yes = find_node(f, a->trees.at[i], a->yes.at[i]);
        node->no = find_node(f, a->trees.at[i], a->no.at[i]);
        if (node->yes == UINT32_MAX || node->no == UINT32_MAX || node->feature < 0) {
            return mq_fail(err, MQ_E_ARG, "node %u leads to a node that is not there", i);
        }
    }
    return MQ_OK;
}

/* A tree begins at the node that is listed first. */
static void find_roots(forest *f)
{
    for (uint32_t k = 0; k < f->node_count;) {
        uint32_t first = f->keys[k].at, end = k;
        while (end < f->node_count && f->keys[end].tree == f->keys[k].tree) {
            first = f->keys[end].at < first ? f->keys[end].at : first;
            end++;
        }
        f->roots[f->root_count++] = first;
        k = end;
    }
}

static mq_code read_leaves(const tree_attrs *a, forest *f, mq_error *err)
{
    for (uint32_t i = 0; i < f->weight_count; i++) {
        f->leaf_keys[i] = (tree_key){a->leaf_trees.at[i], a->leaf_nodes.at[i], i};
    }
    qsort(f->leaf_keys, f->weight_count, sizeof *f->leaf_keys, by_key);
    for (uint32_t i = 0; i < f->weight_count; i++) {
        const tree_key *k = &f->leaf_keys[i];
        uint32_t at = find_node(f, k->tree, k->node);
        if (at == UINT32_MAX || f->nodes[at].mode != LEAF) {
            return mq_fail(err, MQ_E_ARG, "weight %u is for a node that is no leaf", k->at);
        }
        tree_node *leaf = &f->nodes[at];
        leaf->first_leaf = leaf->leaves == 0 ? i : leaf->first_leaf;
        leaf->leaves++;
        f->weights[i] =
            (tree_weight){(uint32_t)a->leaf_ids.at[k->at], list_at(&a->leaf_weights, k->at)};
    }
    return MQ_OK;
}

static mq_code build(const tree_attrs *a, forest *f, mq_error *err)
{
    layout(a, f);
    for (uint32_t i = 0; i < f->node_count; i++) {
        f->keys[i] = (tree_key){a->trees.at[i], a->nodes.at[i], i};
    }
    qsort(f->keys, f->node_count, sizeof *f->keys, by_key);
    mq_code code = MQ_OK;
    for (uint32_t i = 0; i < f->node_count && code == MQ_OK; i++) {
        code = read_node(a, f, i, err);
    }
    find_roots(f);
    return code == MQ_OK ? read_leaves(a, f, err) : code;
}

static mq_code prepare(const mq_op_call *call, mq_arena *arena, const void **state, mq_error *err)
{
    forest *f = mq_arena_alloc(arena, forest_bytes(call->attrs), 1);
    if (f == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the trees");
    }
    *state = f;
    return build(call->attrs, f, err);
}

/* ---- running ---- */

static bool goes_yes(const tree_node *n, double x)
{
    double v = n->value;
    if (isnan(x) && n->is_missing_yes) {
        return true;
    }
    switch (n->mode) {
    case BRANCH_LEQ:
        return x <= v;
    case BRANCH_LT:
        return x < v;
    case BRANCH_GTE:
        return x >= v;
    case BRANCH_GT:
        return x > v;
    case BRANCH_EQ:
        return x >= v && x <= v;
    case BRANCH_NEQ:
    case LEAF:
    default:
        return !(x >= v && x <= v);
    }
}

/* The leaf that a row ends in; NULL when a feature is not there or the tree has a cycle. */
static const tree_node *leaf_of(const forest *f, uint32_t root, const mq_tensor *x, size_t row,
                                size_t columns)
{
    uint32_t at = root;
    for (uint32_t step = 0; step <= f->node_count; step++) {
        const tree_node *n = &f->nodes[at];
        if (n->mode == LEAF) {
            return n;
        }
        if (n->feature >= (int64_t)columns) {
            return NULL;
        }
        double v = mq_element(x, row * columns + (size_t)n->feature);
        at = goes_yes(n, v) ? n->yes : n->no;
    }
    return NULL;
}

static double joined(aggregate how, double sum, double w, bool is_first)
{
    return how == LEAST  ? (is_first ? w : fmin(sum, w))
           : how == MOST ? (is_first ? w : fmax(sum, w))
                         : sum + w;
}

static mq_code score_row(const mq_op_call *call, const forest *f, size_t row, size_t columns,
                         double *scores, mq_error *err)
{
    const tree_attrs *a = call->attrs;
    size_t n = outputs_of(a);
    memset(scores, 0, n * sizeof *scores);
    for (uint32_t t = 0; t < f->root_count; t++) {
        const tree_node *leaf = leaf_of(f, f->roots[t], call->inputs[0], row, columns);
        if (leaf == NULL) {
            return mq_fail(err, MQ_E_ARG,
                           "tree %u leads nowhere: a cycle, or a feature beyond the %zu given", t,
                           columns);
        }
        for (uint32_t i = 0; i < leaf->leaves; i++) {
            const tree_weight *w = &f->weights[leaf->first_leaf + i];
            scores[w->id] = joined(a->how, scores[w->id], w->weight, t == 0);
        }
    }
    for (size_t k = 0; k < n; k++) {
        scores[k] /= a->how == AVERAGE ? (double)f->root_count : 1.0;
        scores[k] += list_count(&a->base) == n ? list_at(&a->base, k) : 0.0;
    }
    return MQ_OK;
}

/* Two labels but weights of one class only: its score says which. */
static size_t one_class(const tree_attrs *a, double *scores)
{
    size_t id = a->leaf_ids.count == 0 ? 0 : (size_t)a->leaf_ids.at[0];
    double s = scores[id] + (list_count(&a->base) == 1 ? list_at(&a->base, 0) : 0.0);
    bool is_second = s > (a->is_positive ? 0.5 : 0.0);
    bool is_logistic = a->post == MQ_ML_LOGISTIC && !a->is_positive;
    scores[1] = is_logistic ? mq_ml_logistic(s) : s;
    scores[0] = is_logistic ? mq_ml_logistic(-s) : a->is_positive ? 1.0 - s : -s;
    return is_second;
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    const tree_attrs *a = call->attrs;
    size_t rows, columns, n = outputs_of(a);
    double *scores = call->scratch;
    forest *own = (forest *)(void *)(scores + n);
    mq_tensor *z = mq_call_output(call, a->is_classifier ? 1 : 0);
    mq_code code = mq_ml_rows(call->inputs[0], &rows, &columns, err);
    if (code == MQ_OK && call->state == NULL) {
        code = build(a, own, err);
    }
    const forest *f = call->state != NULL ? call->state : own;
    for (size_t r = 0; r < rows && code == MQ_OK; r++) {
        size_t best = 0;
        code = score_row(call, f, r, columns, scores, err);
        if (a->is_one_class) {
            best = one_class(a, scores);
        } else {
            for (size_t k = 1; k < n; k++) {
                best = scores[k] > scores[best] ? k : best;
            }
            mq_ml_post_apply(a->post, scores, n);
        }
        if (a->is_classifier && call->outputs[0] != NULL) {
            mq_ml_label_put(&a->labels, call->outputs[0], r, best);
        }
        for (size_t k = 0; z != NULL && k < n; k++) {
            mq_element_set(z, r * n + k, scores[k]);
        }
    }
    return code;
}

static size_t scratch(const mq_op_call *call)
{
    return outputs_of(call->attrs) * sizeof(double) + forest_bytes(call->attrs);
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    const tree_attrs *a = call->attrs;
    size_t rows, columns;
    mq_code code = mq_ml_rows(call->inputs[0], &rows, &columns, err);
    if (code == MQ_OK && a->is_classifier) {
        mq_ml_classifier_shape(call, &a->labels, rows, outputs_of(a));
    } else if (code == MQ_OK) {
        call->outputs[0]->dtype = MQ_DT_F32;
        call->outputs[0]->shape = (mq_shape){2, {(int64_t)rows, a->targets}};
    }
    return code;
}

/* ---- rows ---- */

#define ATTR(type_, name_, field_) MQ_ML_ATTR(type_, tree_attrs, name_, field_)
#define COMMON                                                                                     \
    ATTR(INTS, "nodes_treeids", trees), ATTR(INTS, "nodes_nodeids", nodes),                        \
        ATTR(INTS, "nodes_featureids", features), ATTR(INTS, "nodes_truenodeids", yes),            \
        ATTR(INTS, "nodes_falsenodeids", no),                                                      \
        ATTR(INTS, "nodes_missing_value_tracks_true", missing),                                    \
        ATTR(FLOATS, "nodes_values", values.floats),                                               \
        ATTR(FLOATS, "nodes_hitrates", hitrates.floats),                                           \
        ATTR(TENSOR, "nodes_values_as_tensor", values.tensor),                                     \
        ATTR(TENSOR, "nodes_hitrates_as_tensor", hitrates.tensor),                                 \
        ATTR(TENSOR, "base_values_as_tensor", base.tensor),                                        \
        ATTR(FLOATS, "base_values", base.floats), ATTR(STRINGS, "nodes_modes", modes),             \
        MQ_ML_TEXT(tree_attrs, "post_transform", post_name, "NONE")

static const mq_attr_spec classifier_specs[] = {
    COMMON,
    ATTR(INTS, "class_treeids", leaf_trees),
    ATTR(INTS, "class_nodeids", leaf_nodes),
    ATTR(INTS, "class_ids", leaf_ids),
    ATTR(FLOATS, "class_weights", leaf_weights.floats),
    ATTR(TENSOR, "class_weights_as_tensor", leaf_weights.tensor),
    ATTR(INTS, "classlabels_int64s", labels.ints),
    ATTR(STRINGS, "classlabels_strings", labels.strings),
    {.name = NULL}};
static const mq_attr_spec regressor_specs[] = {
    COMMON,
    ATTR(INTS, "target_treeids", leaf_trees),
    ATTR(INTS, "target_nodeids", leaf_nodes),
    ATTR(INTS, "target_ids", leaf_ids),
    ATTR(FLOATS, "target_weights", leaf_weights.floats),
    ATTR(TENSOR, "target_weights_as_tensor", leaf_weights.tensor),
    MQ_ML_TEXT(tree_attrs, "aggregate_function", aggregate_name, "SUM"),
    {.name = "n_targets", .type = MQ_ATTR_INT, .offset = offsetof(tree_attrs, targets), .i = 1},
    {.name = NULL}};

#define ROW(symbol, name_, specs_, outputs_, cases_)                                               \
    const mq_op mq_op_ml_##symbol = {                                                              \
        .name = name_,                                                                             \
        .domain = "ai.onnx.ml",                                                                    \
        .since = 1,                                                                                \
        .in = {1, 1},                                                                              \
        .out = {1, outputs_},                                                                      \
        .args = {{0, MQ_ML_INPUTS}},                                                               \
        .attrs_bytes = sizeof(tree_attrs),                                                         \
        .specs = specs_,                                                                           \
        .parse = parse,                                                                            \
        .shape = shape,                                                                            \
        .scratch = scratch,                                                                        \
        .prepare = prepare,                                                                        \
        .run = run,                                                                                \
        .cases = cases_,                                                                           \
    }
#define TREE_OF(values)                                                                            \
    "nodes_treeids=(0,0,0) nodes_nodeids=(0,1,2) nodes_featureids=(1,0,0) "                        \
    "nodes_truenodeids=(1,0,0) nodes_falsenodeids=(2,0,0) " values                                 \
    "nodes_modes=(BRANCH_LEQ,LEAF,LEAF) "
#define TREE TREE_OF("nodes_values=(0.5,0,0) ")
ROW(tree_ensemble_classifier, "TreeEnsembleClassifier", classifier_specs, 2,
    TREE "class_treeids=(0,0) class_nodeids=(1,2) class_ids=(0,1) class_weights=(1.0,1.0) "
         "classlabels_int64s=(7,9) | f32[A,2]");
ROW(tree_ensemble_regressor, "TreeEnsembleRegressor", regressor_specs, 1,
    TREE
    "target_treeids=(0,0) target_nodeids=(1,2) target_ids=(0,0) target_weights=(1.5,-2.0) | "
    "f32[A,2]; " TREE_OF(
        "nodes_values_as_tensor=f64:(0.5,0,0) ") "target_treeids=(0,0) target_nodeids=(1,2) "
                                                 "target_ids=(0,0) "
                                                 "target_weights_as_tensor=f64:(1.5,-2.0) "
                                                 "base_values_as_tensor=f64:(0.25) | f64[A,2]");

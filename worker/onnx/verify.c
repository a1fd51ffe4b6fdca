/* Is the graph a graph: every value made once, before it is read? Nodes that are out of order are
 * sorted (ONNX demands order; exporters sometimes do not keep it). Linear in nodes and names; the
 * walk has its own stack, so that a long chain cannot overflow the process's. */
#include <sys/random.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/map.h"
#include "worker/onnx/build.h"

/* Value of a map entry that is no node: given from outside, or constant. */
#define GIVEN (UINT32_MAX - 1)

/* Names visible in a graph: its own, then those of the graphs around it. */
typedef struct scope {
    const mq_graph *graph;
    const struct scope *outer;
    mq_map makers;
} scope;

static uint64_t hash_seed(void)
{
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed) {
        seed = (uint64_t)getpid() * 0x9e3779b97f4a7c15u;
    }
    return seed;
}

static mq_code declare(scope *s, const char *name, uint32_t maker, const char *what, mq_error *err)
{
    if (name[0] == '\0') {
        return MQ_OK;
    }
    if (mq_map_find(&s->makers, mq_str(name)) != MQ_MAP_NONE) {
        return mq_fail(err, MQ_E_FORMAT, "value '%s' is made twice (again as %s)", name, what);
    }
    MQ_ASSERT(mq_map_put(&s->makers, mq_str(name), maker));
    return MQ_OK;
}

static mq_code declare_all(scope *s, mq_error *err)
{
    const mq_graph *g = s->graph;
    mq_code code = MQ_OK;
    for (uint32_t i = 0; i < g->input_count && code == MQ_OK; i++) {
        code = declare(s, g->inputs[i].name, GIVEN, "a graph input", err);
    }
    for (uint32_t i = 0; i < g->initializer_count && code == MQ_OK; i++) {
        const char *name = g->initializers[i].name;
        uint32_t at = mq_map_find(&s->makers, mq_str(name));
        if (at == MQ_MAP_NONE) {
            code = declare(s, name, i, "an initializer", err);
        } else if (at != GIVEN) { /* an input may have a default, but one only */
            code = declare(s, name, i, "an initializer", err);
        } else {
            mq_map_put(&s->makers, mq_str(name), i);
        }
    }
    for (uint32_t i = 0; i < g->input_count + g->initializer_count && code == MQ_OK; i++) {
        const char *name =
            i < g->input_count ? g->inputs[i].name : g->initializers[i - g->input_count].name;
        mq_map_put(&s->makers, mq_str(name), GIVEN);
    }
    for (uint32_t n = 0; n < g->node_count && code == MQ_OK; n++) {
        for (uint32_t i = 0; i < g->nodes[n].output_count && code == MQ_OK; i++) {
            code = declare(s, g->nodes[n].outputs[i], n, "a node's output", err);
        }
    }
    return code;
}

/* Fails when a name is not visible; else *maker: node of this graph, or GIVEN. */
static mq_code resolve(const scope *s, const char *name, uint32_t *maker)
{
    uint32_t found = mq_map_find(&s->makers, mq_str(name));
    if (found != MQ_MAP_NONE) {
        *maker = found;
        return MQ_OK;
    }
    *maker = GIVEN;
    for (const scope *o = s->outer; o != NULL; o = o->outer) {
        if (mq_map_find(&o->makers, mq_str(name)) != MQ_MAP_NONE) {
            return MQ_OK;
        }
    }
    return MQ_E_NOT_FOUND;
}

/* The ordering walk. edges lists for each node the nodes whose values it reads, node n's from
 * first[n] on. */
typedef struct walk {
    const scope *s;
    mq_buf edges;    /* of uint32_t */
    uint32_t *first; /* node_count + 1 */
    uint32_t *next;  /* edge that is looked at next; UINT32_MAX: node not reached yet */
    uint32_t *stack;
    mq_node *sorted;
    uint32_t depth, placed;
    mq_error *err;
} walk;

static mq_code add_edge(walk *w, uint32_t node, const char *name)
{
    uint32_t maker;
    const mq_node *n = &w->s->graph->nodes[node];
    if (name[0] == '\0') {
        return MQ_OK;
    }
    if (resolve(w->s, name, &maker) != MQ_OK) {
        return mq_fail(w->err, MQ_E_FORMAT, "node '%s' (%s) reads '%s', which nothing makes",
                       n->name, n->op_type, name);
    }
    if (maker != GIVEN && !mq_buf_add(&w->edges, &maker, sizeof maker)) {
        return mq_fail(w->err, MQ_E_LIMIT, "no memory to sort the nodes");
    }
    return MQ_OK;
}

/* Names that a nested graph reads from outside are inputs of the node that holds it. Depth is
 * bounded by the reader. Names that are not found here belong to the nested graph itself. */
static mq_code add_graph_edges(walk *w, uint32_t node, const mq_graph *inner)
{
    mq_code code = MQ_OK;
    for (uint32_t n = 0; n < inner->node_count && code == MQ_OK; n++) {
        const mq_node *in = &inner->nodes[n];
        for (uint32_t i = 0; i < in->input_count && code == MQ_OK; i++) {
            if (mq_map_find(&w->s->makers, mq_str(in->inputs[i])) != MQ_MAP_NONE) {
                code = add_edge(w, node, in->inputs[i]);
            }
        }
        for (uint32_t i = 0; i < in->attr_count && code == MQ_OK; i++) {
            if (in->attrs[i].graph != NULL) {
                code = add_graph_edges(w, node, in->attrs[i].graph);
            }
        }
    }
    for (uint32_t i = 0; i < inner->output_count && code == MQ_OK; i++) {
        if (mq_map_find(&w->s->makers, mq_str(inner->outputs[i].name)) != MQ_MAP_NONE) {
            code = add_edge(w, node, inner->outputs[i].name);
        }
    }
    return code;
}

static mq_code add_node_edges(walk *w, uint32_t node)
{
    const mq_node *n = &w->s->graph->nodes[node];
    mq_code code = MQ_OK;
    w->first[node] = (uint32_t)(w->edges.len / sizeof(uint32_t));
    for (uint32_t i = 0; i < n->input_count && code == MQ_OK; i++) {
        code = add_edge(w, node, n->inputs[i]);
    }
    for (uint32_t i = 0; i < n->attr_count && code == MQ_OK; i++) {
        if (n->attrs[i].graph != NULL) {
            code = add_graph_edges(w, node, n->attrs[i].graph);
        }
    }
    return code;
}

/* Places a node after all it reads; keeps the given order where that already holds. */
static mq_code place(walk *w, uint32_t root)
{
    const uint32_t *edges = (const uint32_t *)(const void *)w->edges.data;
    w->stack[w->depth++] = root;
    w->next[root] = w->first[root];
    while (w->depth > 0) {
        uint32_t node = w->stack[w->depth - 1];
        if (w->next[node] == w->first[node + 1]) {
            w->next[node] = UINT32_MAX - 1; /* placed */
            w->sorted[w->placed++] = w->s->graph->nodes[node];
            w->depth--;
            continue;
        }
        uint32_t maker = edges[w->next[node]++];
        if (w->next[maker] == UINT32_MAX) {
            w->next[maker] = w->first[maker];
            w->stack[w->depth++] = maker;
        } else if (w->next[maker] != UINT32_MAX - 1) {
            const mq_node *n = &w->s->graph->nodes[node];
            return mq_fail(w->err, MQ_E_FORMAT, "node '%s' (%s, makes '%s') is part of a cycle",
                           n->name, n->op_type, n->output_count > 0 ? n->outputs[0] : "");
        }
    }
    return MQ_OK;
}

static mq_code sort_nodes(walk *w)
{
    uint32_t count = w->s->graph->node_count;
    for (uint32_t n = 0; n < count; n++) {
        mq_code code = add_node_edges(w, n);
        if (code != MQ_OK) {
            return code;
        }
        w->next[n] = UINT32_MAX;
    }
    w->first[count] = (uint32_t)(w->edges.len / sizeof(uint32_t));
    for (uint32_t n = 0; n < count; n++) {
        mq_code code = w->next[n] == UINT32_MAX ? place(w, n) : MQ_OK;
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

static mq_code verify_graph(mq_model *model, mq_graph *graph, const scope *outer, uint64_t seed,
                            mq_error *err);

static mq_code verify_nested(mq_model *model, const scope *s, uint64_t seed, mq_error *err)
{
    for (uint32_t n = 0; n < s->graph->node_count; n++) {
        const mq_node *node = &s->graph->nodes[n];
        for (uint32_t i = 0; i < node->attr_count; i++) {
            if (node->attrs[i].graph == NULL) {
                continue;
            }
            mq_code code = verify_graph(model, node->attrs[i].graph, s, seed, err);
            if (code != MQ_OK) {
                return mq_wrap(err, "graph '%s' of node '%s'", node->attrs[i].name, node->name);
            }
        }
    }
    return MQ_OK;
}

static mq_code verify_outputs(const scope *s, mq_error *err)
{
    for (uint32_t i = 0; i < s->graph->output_count; i++) {
        uint32_t maker;
        if (resolve(s, s->graph->outputs[i].name, &maker) != MQ_OK) {
            return mq_fail(err, MQ_E_FORMAT, "graph output '%s' is made by no node",
                           s->graph->outputs[i].name);
        }
    }
    return MQ_OK;
}

static mq_code order_graph(mq_graph *graph, const scope *s, mq_error *err)
{
    mq_arena scratch;
    mq_arena_init(&scratch, SIZE_MAX / 4);
    size_t count = graph->node_count;
    walk w = {.s = s,
              .first = mq_arena_new(&scratch, uint32_t, count + 1),
              .next = mq_arena_new(&scratch, uint32_t, count),
              .stack = mq_arena_new(&scratch, uint32_t, count),
              .sorted = mq_arena_new(&scratch, mq_node, count),
              .err = err};
    mq_buf_init(&w.edges, (size_t)UINT32_MAX * sizeof(uint32_t) / 2);
    mq_code code = MQ_OK;
    if (w.first == NULL || w.next == NULL || w.stack == NULL || w.sorted == NULL) {
        code = mq_fail(err, MQ_E_LIMIT, "no memory to sort %zu nodes", count);
    } else {
        code = sort_nodes(&w);
    }
    if (code == MQ_OK && count > 0) {
        MQ_ASSERT(w.placed == count);
        memcpy(graph->nodes, w.sorted, count * sizeof *w.sorted);
    }
    mq_buf_release(&w.edges);
    mq_arena_release(&scratch);
    return code;
}

static mq_code verify_graph(mq_model *model, mq_graph *graph, const scope *outer, uint64_t seed,
                            mq_error *err)
{
    size_t names = (size_t)graph->input_count + graph->initializer_count;
    for (uint32_t n = 0; n < graph->node_count; n++) {
        names += graph->nodes[n].output_count;
    }
    if (names > 4 * (size_t)MQ_MODEL_NODES_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "graph '%s' has more than %d values", graph->name,
                       4 * MQ_MODEL_NODES_MAX);
    }
    scope s = {.graph = graph, .outer = outer};
    mq_code code = mq_map_init(&s.makers, (uint32_t)names + 1, seed, err);
    if (code != MQ_OK) {
        return code;
    }
    code = declare_all(&s, err);
    if (code == MQ_OK) {
        code = order_graph(graph, &s, err);
    }
    if (code == MQ_OK) {
        code = verify_outputs(&s, err);
    }
    if (code == MQ_OK) {
        code = verify_nested(model, &s, seed, err);
    }
    mq_map_release(&s.makers);
    return code;
}

mq_code mq_model_verify(mq_model *model, mq_error *err)
{
    return verify_graph(model, &model->graph, NULL, hash_seed(), err);
}

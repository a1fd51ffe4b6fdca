/* Model-local functions: every call is replaced by the function's nodes, so that nothing after
 * loading knows of them. Names inside get a prefix of their own for each call; an attribute that
 * refers to one of the call's takes its value, or the function's default, or is left out. Calls of
 * calls nest to a stated depth, which ends cycles; the limit of nodes ends growth. Must not know
 * operators. */
#include "worker/onnx/functions.h"

#include <stdlib.h>

/* One call that is being replaced. */
typedef struct call {
    mq_loader *l;
    const mq_function *fn;
    const mq_node *node;
    uint32_t number; /* of the call: part of the names inside */
    mq_error *err;
} call;

static mq_code no_memory(mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "no memory to expand the model's functions");
}

static mq_code too_many_nodes(mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "more than %d nodes once functions are expanded",
                   MQ_MODEL_NODES_MAX);
}

static const mq_formal *find_formal(const mq_function *fn, const char *name)
{
    uint32_t low = 0, high = fn->input_count + fn->output_count, end = high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (strcmp(fn->formals[middle].name, name) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < end && strcmp(fn->formals[low].name, name) == 0 ? &fn->formals[low] : NULL;
}

/* What a name inside the function is called outside; NULL: no memory. */
static const char *renamed(const call *c, const char *name)
{
    const mq_formal *at = name[0] == '\0' ? NULL : find_formal(c->fn, name);
    if (name[0] == '\0') {
        return name;
    }
    if (at != NULL && !at->is_output) {
        return at->position < c->node->input_count ? c->node->inputs[at->position] : "";
    }
    if (at != NULL && at->position < c->node->output_count &&
        c->node->outputs[at->position][0] != '\0') {
        return c->node->outputs[at->position];
    }
    return mq_arena_printf(&c->l->model->arena, "%s%u/%s", c->l->prefix, c->number, name);
}

static mq_code rename_list(const call *c, const char ***list, uint32_t count)
{
    const char **fresh = mq_arena_new(&c->l->model->arena, const char *, (size_t)count + 1);
    for (uint32_t i = 0; i < count; i++) {
        if (fresh == NULL || (fresh[i] = renamed(c, (*list)[i])) == NULL) {
            return no_memory(c->err);
        }
    }
    *list = fresh;
    return fresh == NULL ? no_memory(c->err) : MQ_OK;
}

static mq_code copy_node(const call *c, const mq_node *from, mq_node *to);

static mq_code rename_infos(const call *c, mq_value_info **list, uint32_t count)
{
    mq_value_info *fresh = mq_arena_new(&c->l->model->arena, mq_value_info, (size_t)count + 1);
    for (uint32_t i = 0; i < count; i++) {
        if (fresh == NULL) {
            return no_memory(c->err);
        }
        fresh[i] = (*list)[i];
        fresh[i].name = renamed(c, fresh[i].name);
        if (fresh[i].name == NULL) {
            return no_memory(c->err);
        }
    }
    *list = fresh;
    return MQ_OK;
}

/* A graph inside the function. Depth was bounded when it was read. */
static mq_code copy_graph(const call *c, const mq_graph *from, mq_graph **to)
{
    mq_arena *arena = &c->l->model->arena;
    mq_graph *g = mq_arena_new(arena, mq_graph, 1);
    mq_node *nodes = mq_arena_new(arena, mq_node, (size_t)from->node_count + 1);
    mq_init *inits = mq_arena_new(arena, mq_init, (size_t)from->initializer_count + 1);
    if (g == NULL || nodes == NULL || inits == NULL) {
        return no_memory(c->err);
    }
    *g = *from;
    g->value_count = 0; /* hints */
    g->input_room = g->output_room = g->initializer_room = g->node_room = g->value_room = 0;
    g->nodes = nodes;
    g->initializers = inits;
    mq_code code = rename_infos(c, &g->inputs, g->input_count);
    code = code == MQ_OK ? rename_infos(c, &g->outputs, g->output_count) : code;
    for (uint32_t i = 0; i < g->initializer_count && code == MQ_OK; i++) {
        inits[i] = from->initializers[i];
        inits[i].name = renamed(c, inits[i].name);
        code = inits[i].name == NULL ? no_memory(c->err) : MQ_OK;
    }
    for (uint32_t n = 0; n < g->node_count && code == MQ_OK; n++) {
        code = copy_node(c, &from->nodes[n], &nodes[n]);
    }
    *to = g;
    return code;
}

/* The value that an attribute inside the function has in this call, or NULL: none. */
static const mq_attr *attr_value(const call *c, const mq_attr *attr)
{
    if (attr->ref == NULL) {
        return attr;
    }
    const mq_attr *given = mq_node_attr(c->node, attr->ref);
    for (uint32_t i = 0; i < c->fn->default_count && given == NULL; i++) {
        if (strcmp(c->fn->defaults[i].name, attr->ref) == 0) {
            given = &c->fn->defaults[i];
        }
    }
    return given;
}

static mq_code copy_node(const call *c, const mq_node *from, mq_node *to)
{
    mq_arena *arena = &c->l->model->arena;
    mq_code code = MQ_OK;
    if (c->l->model->node_total++ >= MQ_MODEL_NODES_MAX) {
        return too_many_nodes(c->err);
    }
    *to = *from;
    to->name = mq_arena_printf(arena, "%s%u/%s", c->l->prefix, c->number, from->name);
    to->attrs = mq_arena_new(arena, mq_attr, (size_t)from->attr_count + 1);
    to->attr_count = 0;
    if (to->name == NULL || to->attrs == NULL) {
        return no_memory(c->err);
    }
    for (uint32_t i = 0; i < from->attr_count && code == MQ_OK; i++) {
        const mq_attr *value = attr_value(c, &from->attrs[i]);
        if (value == NULL) {
            continue;
        }
        mq_attr *attr = &to->attrs[to->attr_count++];
        *attr = *value;
        attr->name = from->attrs[i].name;
        if (attr->graph != NULL && value == &from->attrs[i]) { /* the call's own graphs stay */
            code = copy_graph(c, value->graph, &attr->graph);
        }
    }
    code = code == MQ_OK ? rename_list(c, &to->inputs, to->input_count) : code;
    return code == MQ_OK ? rename_list(c, &to->outputs, to->output_count) : code;
}

static int compare_functions(const void *a, const void *b)
{
    const mq_function *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : strcmp(x->domain, y->domain);
}

static const mq_function *find_function(const mq_loader *l, const mq_node *node)
{
    mq_function key = {.name = node->op_type, .domain = node->domain};
    return bsearch(&key, l->functions, l->function_count, sizeof key, compare_functions);
}

/* A function's operators must mean what they mean in the model: the versions of the standard's
 * domains are the same. Domains that only the function imports become the model's. */
static mq_code check_opsets(const call *c)
{
    mq_model *m = c->l->model;
    for (uint32_t i = 0; i < c->fn->opset_count; i++) {
        const mq_opset *o = &c->fn->opsets[i];
        int64_t mine = mq_model_opset(m, o->domain);
        if (mine == 0) {
            if (m->opset_count == MQ_MODEL_OPSETS_MAX) {
                return mq_fail(c->err, MQ_E_LIMIT,
                               "more than %d opset imports with those of functions",
                               MQ_MODEL_OPSETS_MAX);
            }
            m->opsets[m->opset_count++] = *o;
        } else if (mine != o->version &&
                   (o->domain[0] == '\0' || strcmp(o->domain, "ai.onnx.ml") == 0)) {
            return mq_fail(c->err, MQ_E_UNSUPPORTED,
                           "function '%s' imports opset %lld of domain '%s', the model %lld; "
                           "convert one of them",
                           c->fn->name, (long long)o->version, o->domain, (long long)mine);
        }
    }
    return MQ_OK;
}

static mq_code expand_graph(mq_loader *l, mq_graph *g, uint32_t depth, mq_error *err);
static mq_code expand_node(mq_loader *l, mq_graph *out, mq_node *node, uint32_t calls,
                           uint32_t depth, mq_error *err);

/* Room for one more node of the expanded graph. */
static mq_node *add_node(mq_loader *l, mq_graph *g)
{
    return mq_grow(&l->model->arena, &g->nodes, &g->node_count, &g->node_room, sizeof(mq_node));
}

/* An output that is an input: one node between them. */
static mq_code pass_through(const call *c, mq_graph *out, uint32_t i)
{
    const char **names = mq_arena_new(&c->l->model->arena, const char *, 2);
    mq_node *node = names == NULL ? NULL : add_node(c->l, out);
    if (node == NULL) {
        return no_memory(c->err);
    }
    if (c->l->model->node_total++ >= MQ_MODEL_NODES_MAX) {
        return too_many_nodes(c->err);
    }
    names[0] = renamed(c, c->fn->outputs[i]);
    names[1] = c->node->outputs[i];
    *node = (mq_node){.op_type = "Identity",
                      .domain = "",
                      .name = "",
                      .inputs = names,
                      .outputs = names + 1,
                      .input_count = 1,
                      .output_count = 1};
    return names[0] == NULL ? no_memory(c->err) : MQ_OK;
}

static mq_code expand_call(mq_loader *l, mq_graph *out, const mq_node *node, const mq_function *fn,
                           uint32_t calls, uint32_t depth, mq_error *err)
{
    call c = {l, fn, node, l->call_count++, err};
    mq_code code = MQ_OK;
    if (calls == MQ_MODEL_CALLS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "function '%s' is called %d deep, or calls itself",
                       fn->name, MQ_MODEL_CALLS_MAX);
    }
    if (node->input_count > fn->input_count || node->output_count > fn->output_count) {
        return mq_fail(err, MQ_E_FORMAT, "node '%s': more inputs or outputs than function '%s' has",
                       node->name, fn->name);
    }
    code = check_opsets(&c);
    for (uint32_t n = 0; n < fn->node_count && code == MQ_OK; n++) {
        mq_node inner;
        code = copy_node(&c, &fn->nodes[n], &inner);
        if (code == MQ_OK) {
            code = expand_node(l, out, &inner, calls + 1, depth, err);
        }
    }
    for (uint32_t i = 0; i < node->output_count && code == MQ_OK; i++) {
        const mq_formal *at = find_formal(fn, fn->outputs[i]);
        bool is_input = at != NULL && !at->is_output;
        code = is_input && node->outputs[i][0] != '\0' ? pass_through(&c, out, i) : MQ_OK;
    }
    return code;
}

static mq_code expand_node(mq_loader *l, mq_graph *out, mq_node *node, uint32_t calls,
                           uint32_t depth, mq_error *err)
{
    const mq_function *fn = find_function(l, node);
    if (fn != NULL) {
        return expand_call(l, out, node, fn, calls, depth, err);
    }
    for (uint32_t i = 0; i < node->attr_count; i++) {
        if (node->attrs[i].graph != NULL) {
            mq_code code = expand_graph(l, node->attrs[i].graph, depth + 1, err);
            if (code != MQ_OK) {
                return code;
            }
        }
    }
    mq_node *slot = add_node(l, out);
    if (slot == NULL) {
        return no_memory(err);
    }
    *slot = *node;
    return MQ_OK;
}

static mq_code expand_graph(mq_loader *l, mq_graph *g, uint32_t depth, mq_error *err)
{
    mq_node *nodes = g->nodes;
    uint32_t count = g->node_count;
    mq_code code = MQ_OK;
    if (depth > MQ_MODEL_DEPTH_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "graphs nested deeper than %d", MQ_MODEL_DEPTH_MAX);
    }
    g->nodes = NULL;
    g->node_count = g->node_room = 0;
    for (uint32_t n = 0; n < count && code == MQ_OK; n++) {
        code = expand_node(l, g, &nodes[n], 0, depth, err);
    }
    return code;
}

/* Underscores that a name begins with, and those of all names of a graph: the prefix of names made
 * here has more, so that it clashes with none. */
static size_t underscores(const char *const *names, uint32_t count, size_t most)
{
    for (uint32_t i = 0; i < count; i++) {
        size_t n = strspn(names[i], "_");
        most = n > most ? n : most;
    }
    return most;
}

static size_t graph_underscores(const mq_graph *g, size_t most)
{
    for (uint32_t i = 0; i < g->input_count; i++) {
        most = underscores(&g->inputs[i].name, 1, most);
    }
    for (uint32_t i = 0; i < g->initializer_count; i++) {
        most = underscores(&g->initializers[i].name, 1, most);
    }
    for (uint32_t n = 0; n < g->node_count; n++) {
        const mq_node *node = &g->nodes[n];
        most = underscores((const char *const *)node->outputs, node->output_count, most);
        for (uint32_t i = 0; i < node->attr_count; i++) {
            if (node->attrs[i].graph != NULL) {
                most = graph_underscores(node->attrs[i].graph, most);
            }
        }
    }
    return most;
}

mq_code mq_expand_functions(mq_loader *l, mq_error *err)
{
    if (l->function_count == 0) {
        return MQ_OK;
    }
    qsort(l->functions, l->function_count, sizeof *l->functions, compare_functions);
    for (uint32_t i = 1; i < l->function_count; i++) {
        if (compare_functions(&l->functions[i - 1], &l->functions[i]) == 0) {
            return mq_fail(err, MQ_E_FORMAT, "function '%s' of domain '%s' is given twice",
                           l->functions[i].name, l->functions[i].domain);
        }
    }
    size_t most = graph_underscores(&l->model->graph, 0) + 1;
    char *prefix = mq_arena_new(&l->model->arena, char, most + sizeof "call");
    if (prefix == NULL) {
        return no_memory(err);
    }
    memset(prefix, '_', most);
    memcpy(prefix + most, "call", sizeof "call");
    l->prefix = prefix;
    return expand_graph(l, &l->model->graph, 1, err);
}

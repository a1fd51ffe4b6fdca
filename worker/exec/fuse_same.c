/* Common subexpressions: a step that computes what an earlier one has computed goes, and its
 * readers read that; steps that hand their input on (Identity, Dropout outside of training) go too.
 * For programs whose steps are still those of the file. */
#include "worker/exec/fuse.h"

enum { TENSOR_BYTES_MAX = 4096 }; /* larger attributes are equal only when they are the same */

typedef struct pass {
    mq_program *p;
    uint32_t *same;  /* by value: the one that stands for it */
    uint32_t *table; /* steps by hash, MQ_NO_VALUE: free */
    uint32_t mask;
} pass;

static uint64_t mixed(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

static bool is_same_tensor(const mq_tensor *a, const mq_tensor *b)
{
    return a->dtype == b->dtype && mq_shape_eq(&a->shape, &b->shape) && a->bytes == b->bytes &&
           a->dtype != MQ_DT_STR &&
           (a->data == b->data ||
            (a->bytes <= TENSOR_BYTES_MAX && memcmp(a->data, b->data, a->bytes) == 0));
}

static bool is_same_span(mq_span a, mq_span b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static bool is_same_attr(const mq_attr *a, const mq_attr *b)
{
    if (a->type != b->type || a->count != b->count || a->graph != NULL) {
        return false;
    }
    switch (a->type) {
    case MQ_ATTR_FLOAT:
        return memcmp(&a->f, &b->f, sizeof a->f) == 0;
    case MQ_ATTR_INT:
        return a->i == b->i;
    case MQ_ATTR_STRING:
        return is_same_span(a->s, b->s);
    case MQ_ATTR_TENSOR:
        return is_same_tensor(&a->tensor->tensor, &b->tensor->tensor);
    case MQ_ATTR_FLOATS:
        return a->count == 0 || memcmp(a->floats, b->floats, a->count * sizeof(float)) == 0;
    case MQ_ATTR_INTS:
        return a->count == 0 || memcmp(a->ints, b->ints, a->count * sizeof(int64_t)) == 0;
    case MQ_ATTR_STRINGS:
        for (size_t i = 0; i < a->count; i++) {
            if (!is_same_span(a->strings[i], b->strings[i])) {
                return false;
            }
        }
        return true;
    case MQ_ATTR_GRAPH:
    default:
        return false;
    }
}

static bool is_same_step(const mq_step *a, const mq_step *b)
{
    if (a->op != b->op || a->input_count != b->input_count || a->output_count != b->output_count ||
        a->node->attr_count != b->node->attr_count ||
        memcmp(a->inputs, b->inputs, a->input_count * sizeof *a->inputs) != 0) {
        return false;
    }
    for (uint32_t i = 0; i < a->output_count; i++) { /* the earlier has all that the later has */
        if (b->outputs[i] != MQ_NO_VALUE && a->outputs[i] == MQ_NO_VALUE) {
            return false;
        }
    }
    for (uint32_t i = 0; i < a->node->attr_count; i++) {
        const mq_attr *other = mq_node_attr(b->node, a->node->attrs[i].name);
        if (other == NULL || !is_same_attr(&a->node->attrs[i], other)) {
            return false;
        }
    }
    return true;
}

/* May others read the step's outputs instead of making their own? */
static bool is_mergeable(const pass *a, const mq_step *step)
{
    bool is_plain = step->op != NULL && step->body_count == 0 &&
                    (step->op->flags & (MQ_OP_MAKES | MQ_OP_INTERNAL)) == 0;
    for (uint32_t i = 0; i < step->output_count && is_plain; i++) {
        is_plain = step->outputs[i] == MQ_NO_VALUE || !a->p->values[step->outputs[i]].is_output;
    }
    return is_plain;
}

static bool is_handed_on(const mq_step *step)
{
    return mq_fuse_is(step, "Identity") || (mq_fuse_is(step, "Dropout") && step->op->since >= 7 &&
                                            step->input_count < 3 && step->output_count == 1);
}

/* An equal earlier step, or MQ_NO_VALUE; then s is in the table. */
static uint32_t find_equal(const pass *a, uint32_t s)
{
    const mq_step *step = &a->p->steps[s];
    uint64_t h = mixed(0, (uint64_t)(uintptr_t)step->op);
    for (uint32_t i = 0; i < step->input_count; i++) {
        h = mixed(h, step->inputs[i]);
    }
    uint32_t at = (uint32_t)h & a->mask;
    for (int tries = 0; tries < 64 && a->table[at] != MQ_NO_VALUE; tries++) {
        if (is_same_step(&a->p->steps[a->table[at]], step)) {
            return a->table[at];
        }
        at = (at + 1) & a->mask;
    }
    a->table[at] = s; /* after 64 others with its hash the last is forgotten: bounded time */
    return MQ_NO_VALUE;
}

static void read_what_stands_for_it(const pass *a, mq_step *step)
{
    for (uint32_t i = 0; i < step->input_count; i++) {
        if (step->inputs[i] != MQ_NO_VALUE) {
            step->inputs[i] = a->same[step->inputs[i]];
        }
    }
    for (uint32_t b = 0; b < step->body_count; b++) {
        for (uint32_t i = 0; i < step->bodies[b].capture_count; i++) {
            step->bodies[b].captures[i] = a->same[step->bodies[b].captures[i]];
        }
    }
}

static void merge(pass *a)
{
    mq_program *p = a->p;
    for (uint32_t s = 0; s < p->step_count; s++) {
        mq_step *step = &p->steps[s];
        read_what_stands_for_it(a, step);
        if (!is_mergeable(a, step)) {
            continue;
        }
        if (is_handed_on(step)) {
            a->same[step->outputs[0]] = step->inputs[0];
            p->fused_count++;
            continue;
        }
        uint32_t equal = find_equal(a, s);
        for (uint32_t i = 0; equal != MQ_NO_VALUE && i < step->output_count; i++) {
            if (step->outputs[i] != MQ_NO_VALUE) {
                a->same[step->outputs[i]] = p->steps[equal].outputs[i];
            }
        }
        p->fused_count += equal != MQ_NO_VALUE;
    }
    mq_program_compact(p);
}

mq_code mq_program_merge(mq_program *p, mq_error *err)
{
    mq_arena scratch;
    mq_arena_init(&scratch, p->arena->limit_bytes);
    pass a = {.p = p, .mask = 63};
    while (a.mask < 2 * (uint64_t)p->step_count) {
        a.mask = 2 * a.mask + 1;
    }
    a.same = mq_arena_new(&scratch, uint32_t, (size_t)p->value_count + 1);
    a.table = mq_arena_new(&scratch, uint32_t, (size_t)a.mask + 1);
    mq_code code = a.same == NULL || a.table == NULL
                       ? mq_fail(err, MQ_E_LIMIT, "no memory to look for equal steps")
                       : MQ_OK;
    if (code == MQ_OK) {
        for (uint32_t v = 0; v < p->value_count; v++) {
            a.same[v] = v;
        }
        memset(a.table, 0xff, ((size_t)a.mask + 1) * sizeof *a.table);
        merge(&a);
    }
    mq_arena_release(&scratch);
    return code;
}

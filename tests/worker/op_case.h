/* Reads the test cases that operators carry in their table row (mq_op.cases, see op.h) and makes
 * random calls of them. */
#ifndef MQ_TESTS_WORKER_OP_CASE_H
#define MQ_TESTS_WORKER_OP_CASE_H

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/base/prng.h"
#include "worker/ops/op.h"

enum { CASE_INPUTS_MAX = 12, CASE_OUTPUTS_MAX = 4, CASE_GUARD = 64, CASE_ATTRS_MAX = 16 };

typedef struct op_case {
    mq_arena arena; /* holds all below */
    mq_node node;
    mq_attr attrs[CASE_ATTRS_MAX];
    mq_tensor inputs[CASE_INPUTS_MAX], outputs[CASE_OUTPUTS_MAX];
    const mq_tensor *input_ptrs[CASE_INPUTS_MAX];
    mq_tensor *output_ptrs[CASE_OUTPUTS_MAX];
    bool is_random[CASE_INPUTS_MAX]; /* not a literal */
    int64_t dims[26];                /* by letter */
    mq_op_call call;
} op_case;

static inline void case_put(mq_tensor *t, size_t i, double v)
{
    int64_t n = (int64_t)v;
    if (t->dtype == MQ_DT_F32) {
        ((float *)t->data)[i] = (float)v;
    } else if (t->dtype == MQ_DT_F64) {
        ((double *)t->data)[i] = v;
    } else {
        memcpy((uint8_t *)t->data + i * mq_dtype_bytes(t->dtype), &n, mq_dtype_bytes(t->dtype));
    }
}

/* Floats keep a distance from 0 and from each other's kinks; integers are small. */
static inline double case_random(mq_dtype dtype, bool is_positive, mq_prng *prng)
{
    double u = (double)(mq_prng_next(prng) >> 11) / 9007199254740992.0;
    bool is_negative = !is_positive && (mq_prng_next(prng) & 1) != 0;
    bool is_unsigned = dtype == MQ_DT_U8 || dtype == MQ_DT_U16 || dtype == MQ_DT_U32 ||
                       dtype == MQ_DT_U64 || dtype == MQ_DT_BOOL;
    if (dtype == MQ_DT_F32 || dtype == MQ_DT_F64) {
        return (0.1 + 1.7 * u) * (is_negative ? -1.0 : 1.0);
    }
    if (dtype == MQ_DT_BOOL) {
        return u < 0.5 ? 0.0 : 1.0;
    }
    return (double)(int64_t)(1.0 + 9.0 * u) * (is_negative && !is_unsigned ? -1.0 : 1.0);
}

static inline mq_dtype case_dtype(const char **at)
{
    static const struct {
        const char *text;
        mq_dtype dtype;
    } names[] = {{"f32", MQ_DT_F32}, {"f64", MQ_DT_F64}, {"f16", MQ_DT_F16}, {"i8", MQ_DT_I8},
                 {"i16", MQ_DT_I16}, {"i32", MQ_DT_I32}, {"i64", MQ_DT_I64}, {"u8", MQ_DT_U8},
                 {"u16", MQ_DT_U16}, {"u32", MQ_DT_U32}, {"u64", MQ_DT_U64}, {"bool", MQ_DT_BOOL}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t len = strlen(names[i].text);
        if (strncmp(*at, names[i].text, len) == 0 && ((*at)[len] == '[' || (*at)[len] == '{')) {
            *at += len;
            return names[i].dtype;
        }
    }
    fprintf(stderr, "bad case at '%s'\n", *at);
    abort();
}

static inline void case_alloc(op_case *c, mq_tensor *t)
{
    size_t count;
    MQ_ASSERT(mq_shape_count(&t->shape, &count, NULL) == MQ_OK);
    t->bytes = count * (t->dtype == MQ_DT_STR ? sizeof(mq_span) : mq_dtype_bytes(t->dtype));
    t->data = mq_arena_alloc(&c->arena, t->bytes + CASE_GUARD, 1);
    MQ_ASSERT(t->data != NULL);
}

/* "[A,3]" or "{0,-1}" with an optional '+'. */
static inline void case_tensor(op_case *c, mq_tensor *t, const char **at, bool *is_random,
                               mq_prng *prng)
{
    double literal[16];
    t->dtype = case_dtype(at);
    *is_random = **at == '[';
    char end = *is_random ? ']' : '}';
    int count = 0;
    (*at)++;
    while (**at != end) {
        char *after;
        if (isupper((unsigned char)**at)) {
            t->shape.dims[t->shape.rank++] = c->dims[**at - 'A'];
            (*at)++;
        } else {
            double v = strtod(*at, &after);
            MQ_ASSERT(after != *at && count < 16);
            literal[count++] = v;
            if (*is_random) {
                t->shape.dims[t->shape.rank++] = (int64_t)v;
            }
            *at = after;
        }
        *at += **at == ',';
    }
    (*at)++;
    bool is_positive = **at == '+';
    *at += is_positive;
    if (!*is_random) {
        t->shape = (mq_shape){1, {count}};
    }
    case_alloc(c, t);
    for (size_t i = 0; i < t->bytes / mq_dtype_bytes(t->dtype); i++) {
        case_put(t, i, *is_random ? case_random(t->dtype, is_positive, prng) : literal[i]);
    }
}

/* "(text,text)" */
static inline void case_strings(op_case *c, mq_attr *a, const char **at)
{
    mq_span *strings = mq_arena_new(&c->arena, mq_span, 16);
    a->type = MQ_ATTR_STRINGS;
    a->strings = strings;
    while (**at != ')') {
        size_t len = strcspn(++*at, ",)");
        MQ_ASSERT(a->count < 16);
        strings[a->count++] = mq_span_of(*at, len);
        *at += len;
    }
    (*at)++;
}

/* "f32:(1,2)": a tensor of one axis */
static inline void case_tensor_attr(op_case *c, mq_attr *a, const char **at)
{
    mq_init *init = mq_arena_new(&c->arena, mq_init, 1);
    char text[128];
    size_t type = strcspn(*at, ":"), len = strcspn(*at, ")");
    MQ_ASSERT(len < sizeof text && type < len);
    /* as an input is written: f32{1,2} */
    snprintf(text, sizeof text, "%.*s{%.*s}", (int)type, *at, (int)(len - type - 2),
             *at + type + 2);
    const char *from = text;
    bool is_random;
    mq_prng unused = {0};
    case_tensor(c, &init->tensor, &from, &is_random, &unused);
    MQ_ASSERT(!is_random);
    a->type = MQ_ATTR_TENSOR;
    a->tensor = init;
    *at += len + 1;
}

/* name=1, name=0.5, name=f32:(1,2), name=(1,2), name=(0.5,1), name=text, name=(text,text) */
static inline void case_attr(op_case *c, const char **at)
{
    mq_attr *a = &c->attrs[c->node.attr_count++];
    const char *equals = strchr(*at, '=');
    MQ_ASSERT(equals != NULL && c->node.attr_count <= CASE_ATTRS_MAX);
    *a = (mq_attr){.name = mq_arena_str(&c->arena, mq_span_of(*at, (size_t)(equals - *at)))};
    *at = equals + 1;
    if (**at == '(') {
        size_t length = strcspn(*at, ")");
        bool is_float = memchr(*at, '.', length) != NULL;
        if (isalpha((unsigned char)(*at)[1])) {
            case_strings(c, a, at);
            return;
        }
        int64_t *ints = mq_arena_new(&c->arena, int64_t, 16);
        float *floats = mq_arena_new(&c->arena, float, 16);
        a->type = is_float ? MQ_ATTR_FLOATS : MQ_ATTR_INTS;
        a->ints = is_float ? NULL : ints;
        a->floats = is_float ? floats : NULL;
        while (**at != ')') {
            char *after;
            MQ_ASSERT(a->count < 16);
            if (is_float) {
                floats[a->count++] = strtof(*at + 1, &after);
            } else {
                ints[a->count++] = strtoll(*at + 1, &after, 10);
            }
            *at = after;
        }
        (*at)++;
        return;
    }
    size_t len = strcspn(*at, " ");
    if (memchr(*at, ':', len) != NULL) {
        case_tensor_attr(c, a, at);
        return;
    }
    char *after;
    const char *dot = memchr(*at, '.', len);
    if (isalpha((unsigned char)**at)) {
        a->type = MQ_ATTR_STRING;
        a->s = mq_span_of(*at, len);
    } else if (dot != NULL) {
        a->type = MQ_ATTR_FLOAT;
        a->f = strtof(*at, &after);
    } else {
        a->type = MQ_ATTR_INT;
        a->i = strtoll(*at, &after, 10);
    }
    *at += len;
}

static inline void case_read(op_case *c, const char *at, mq_prng *prng)
{
    while (*at != '|') {
        if (*at == ' ') {
            at++;
        } else {
            case_attr(c, &at);
        }
    }
    for (at++; *at != '\0' && *at != ';';) {
        uint32_t i = c->node.input_count;
        if (*at == ' ') {
            at++;
            continue;
        }
        MQ_ASSERT(i < CASE_INPUTS_MAX);
        c->node.input_count++;
        if (*at == '-') {
            at++;
            continue;
        }
        case_tensor(c, &c->inputs[i], &at, &c->is_random[i], prng);
        c->input_ptrs[i] = &c->inputs[i];
    }
}

static inline void op_case_release(op_case *c)
{
    mq_arena_release(&c->arena);
}

/* New memory for the outputs, filled with 0xa5. */
static inline void op_case_renew(op_case *c)
{
    for (uint32_t i = 0; i < c->call.output_count; i++) {
        case_alloc(c, &c->outputs[i]);
        memset(c->outputs[i].data, 0xa5, c->outputs[i].bytes + CASE_GUARD);
    }
}

/* Is what lies behind the outputs untouched? */
static inline bool op_case_is_intact(const op_case *c)
{
    for (uint32_t i = 0; i < c->call.output_count; i++) {
        const uint8_t *end = (const uint8_t *)c->outputs[i].data + c->outputs[i].bytes;
        for (int k = 0; k < CASE_GUARD; k++) {
            if (end[k] != 0xa5) {
                return false;
            }
        }
    }
    return true;
}

static inline void case_must(mq_code code, const mq_op *op, int index, const mq_error *err)
{
    if (code != MQ_OK) {
        fprintf(stderr, "%s-%d case %d: %s\n", op->name, op->since, index, err->text);
        abort();
    }
}

/* Case number `index` of the row with dimensions and values from prng; false after the last.
 * Outputs have shapes and memory, 64 bytes of 0xa5 behind each. Aborts on a malformed case. */
static inline bool op_case_init(op_case *c, const mq_op *op, int index, mq_prng *prng)
{
    const char *at = op->cases;
    for (int i = 0; i < index && at != NULL; i++) {
        at = strchr(at, ';');
        at = at == NULL ? NULL : at + 1;
    }
    if (at == NULL || strchr(at, '|') == NULL) {
        return false;
    }
    *c = (op_case){.node = {.op_type = op->name, .domain = op->domain, .name = "case"}};
    mq_arena_init(&c->arena, (size_t)1 << 24);
    for (int i = 0; i < 26; i++) {
        c->dims[i] = 2 + (int64_t)mq_prng_below(prng, 4);
    }
    case_read(c, at, prng);
    const char **names = mq_arena_new(&c->arena, const char *, CASE_INPUTS_MAX);
    for (uint32_t i = 0; i < c->node.input_count; i++) {
        names[i] = c->input_ptrs[i] == NULL ? "" : "x";
    }
    c->node.inputs = names;
    c->node.outputs = (const char **)mq_arena_new(&c->arena, const char *, CASE_OUTPUTS_MAX);
    c->node.output_count = op->out.max < CASE_OUTPUTS_MAX ? op->out.max : 1;
    for (uint32_t i = 0; i < c->node.output_count; i++) {
        c->node.outputs[i] = "y";
        c->output_ptrs[i] = &c->outputs[i];
    }
    c->node.attrs = c->attrs;
    mq_error err;
    void *filled = mq_arena_alloc(&c->arena, op->attrs_bytes + 1, 1);
    const void *attrs = filled;
    const mq_op *found = op;
    if ((op->flags & MQ_OP_INTERNAL) != 0 && op->specs != NULL) {
        case_must(mq_op_fill(&c->node, op, filled, &err), op, index, &err);
    } else if ((op->flags & MQ_OP_INTERNAL) == 0) {
        case_must(mq_op_bind(&c->node, op->since, &c->arena, &found, &attrs, &err), op, index,
                  &err);
        MQ_ASSERT(found == op);
    }
    c->call = (mq_op_call){.op = op,
                           .attrs = attrs,
                           .inputs = c->input_ptrs,
                           .outputs = c->output_ptrs,
                           .input_count = c->node.input_count,
                           .output_count = c->node.output_count};
    case_must(mq_op_shape(&c->call, &c->node, &err), op, index, &err);
    if (op->scratch != NULL) {
        c->call.scratch = mq_arena_alloc(&c->arena, op->scratch(&c->call) + CASE_GUARD, 1);
    }
    op_case_renew(c);
    return true;
}

#endif

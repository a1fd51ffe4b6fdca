/* Every operator with attributes, values and shapes that nobody sane would send: it may refuse them
 * or compute something, but never crash, write elsewhere or run on. Each row runs in a child. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/map.h"
#include "tests/worker/op_case.h"

enum { TRIALS = 60, LIMIT_S = 60 };
#define OUTPUT_BYTES_MAX ((size_t)1 << 18)

static int64_t odd_number(mq_prng *prng)
{
    static const int64_t odd[] = {0,
                                  -1,
                                  1,
                                  2,
                                  3,
                                  7,
                                  63,
                                  1000,
                                  -2,
                                  -1000,
                                  INT32_MAX,
                                  INT32_MIN,
                                  INT64_MAX,
                                  INT64_MIN,
                                  (int64_t)1 << 31,
                                  (int64_t)1 << 40};
    return odd[mq_prng_below(prng, sizeof odd / sizeof odd[0])];
}

static bool is_chosen(mq_prng *prng, uint32_t one_of)
{
    return mq_prng_below(prng, one_of) == 0;
}

/* Some attributes become odd numbers, or lists of another length. */
static void spoil_attrs(op_case *c, mq_prng *prng)
{
    for (uint32_t i = 0; i < c->node.attr_count; i++) {
        mq_attr *a = &c->attrs[i];
        if (!is_chosen(prng, 3)) {
            continue;
        }
        a->i = a->type == MQ_ATTR_INT ? odd_number(prng) : a->i;
        a->f = a->type == MQ_ATTR_FLOAT ? (float)odd_number(prng) : a->f;
        if ((a->type == MQ_ATTR_INTS || a->type == MQ_ATTR_FLOATS) && a->count > 0) {
            if (is_chosen(prng, 2)) {
                a->count = (uint32_t)mq_prng_below(prng, (uint32_t)a->count + 1);
            } else if (a->type == MQ_ATTR_INTS) {
                int64_t *list = mq_arena_new(&c->arena, int64_t, a->count);
                memcpy(list, a->ints, a->count * sizeof *list);
                list[mq_prng_below(prng, (uint32_t)a->count)] = odd_number(prng);
                a->ints = list;
            }
        }
    }
}

/* Some inputs change shape (their memory is as large as the new one needs) or hold odd numbers. */
static void spoil_inputs(op_case *c, mq_prng *prng)
{
    for (uint32_t i = 0; i < c->node.input_count; i++) {
        mq_tensor *t = &c->inputs[i];
        if (c->input_ptrs[i] == NULL || t->dtype == MQ_DT_STR) {
            continue;
        }
        if (is_chosen(prng, 3)) {
            t->shape.rank = (int32_t)mq_prng_below(prng, MQ_RANK_MAX + 1);
            for (int32_t d = 0; d < t->shape.rank; d++) {
                t->shape.dims[d] = (int64_t)mq_prng_below(prng, 4);
            }
            case_alloc(c, t);
        }
        size_t count = t->bytes / mq_dtype_bytes(t->dtype);
        for (size_t k = 0; k < count && t->dtype != MQ_DT_BOOL && is_chosen(prng, 2); k++) {
            int64_t half = odd_number(prng) / 2; /* whole, for every type */
            case_put(t, k, (double)half);
        }
    }
}

static bool spoiled_call(op_case *c, const mq_op *op, int index, mq_prng *prng)
{
    mq_error err;
    const char *at = op->cases;
    for (int i = 0; i < index && at != NULL; i++) {
        at = strchr(at, ';');
        at = at == NULL ? NULL : at + 1;
    }
    if (at == NULL || strchr(at, '|') == NULL) {
        return false;
    }
    *c = (op_case){.node = {.op_type = op->name, .domain = op->domain, .name = "hostile"}};
    mq_arena_init(&c->arena, (size_t)1 << 26);
    for (int i = 0; i < 26; i++) {
        c->dims[i] = (int64_t)mq_prng_below(prng, 5);
    }
    case_read(c, at, prng);
    spoil_attrs(c, prng);
    spoil_inputs(c, prng);
    const char **names = mq_arena_new(&c->arena, const char *, CASE_INPUTS_MAX + 1);
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
    const void *attrs = NULL;
    const mq_op *found = op;
    if (mq_op_bind(&c->node, op->since, &c->arena, &found, &attrs, &err) != MQ_OK) {
        return true;
    }
    c->call = (mq_op_call){.op = found,
                           .attrs = attrs,
                           .inputs = c->input_ptrs,
                           .outputs = c->output_ptrs,
                           .input_count = c->node.input_count,
                           .output_count = c->node.output_count};
    return true;
}

/* Shapes and, when the outputs are small, computes. */
static void call_it(op_case *c)
{
    mq_error err;
    if (c->call.op == NULL || mq_op_shape(&c->call, &c->node, &err) != MQ_OK) {
        return;
    }
    for (uint32_t i = 0; i < c->call.output_count; i++) {
        if (c->outputs[i].bytes > OUTPUT_BYTES_MAX) {
            return;
        }
    }
    if (c->call.op->scratch != NULL) {
        c->call.scratch = mq_arena_alloc(&c->arena, c->call.op->scratch(&c->call) + CASE_GUARD, 1);
        if (c->call.scratch == NULL) {
            return;
        }
    }
    op_case_renew(c);
    if (c->call.op->run(&c->call, &err) == MQ_OK && !op_case_is_intact(c)) {
        fprintf(stderr, "%s-%d writes past its output\n", c->call.op->name, c->call.op->since);
        abort();
    }
}

static void torment(const mq_op *op)
{
    mq_prng prng = {mq_hash64(mq_str(op->name), (uint64_t)op->since)};
    for (int trial = 0; trial < TRIALS; trial++) {
        op_case c;
        for (int i = 0; spoiled_call(&c, op, i, &prng); i++) {
            call_it(&c);
            op_case_release(&c);
        }
    }
}

static void no_row_falls_over_hostile_input(void **state)
{
    (void)state;
    const mq_op *const *table;
    size_t rows = mq_op_table(&table), bad = 0;
    for (size_t r = 0; r < rows; r++) {
        if ((table[r]->flags & MQ_OP_INTERNAL) != 0) {
            continue; /* these come from fusion only, which has checked */
        }
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            alarm(LIMIT_S);
            torment(table[r]);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (status != 0) {
            print_message("%s-%d: %s %d\n", table[r]->name, table[r]->since,
                          WIFSIGNALED(status) ? "signal" : "status",
                          WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
            bad++;
        }
    }
    assert_int_equal(bad, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(no_row_falls_over_hostile_input)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

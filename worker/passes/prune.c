/* Pass "prune:SPARSITY[,scope=tensor|global]": sets the weights of smallest magnitude to zero until
 * that share of them is zero, in each tensor or over all tensors together. Equal magnitudes fall in
 * order of tensor and index, so the result is one and the same everywhere. */
#include <stdio.h>
#include <stdlib.h>

#include "worker/passes/pass.h"
#include "worker/passes/weights.h"

static mq_code check(const mq_pass_args *args, mq_error *err);
static mq_code run(mq_model *model, const mq_pass_args *args, mq_buf *report, mq_error *err);

const mq_pass mq_pass_prune = {
    .name = "prune",
    .form = "prune:SPARSITY[,scope=tensor|global]",
    .summary = "zero the weights of smallest magnitude",
    .is_for_finetune = true,
    .check = check,
    .run = run,
};

#define SPARSITY_MAX 0.999
enum { HALF_VALUES = 65536 };

static mq_code parse(const mq_pass_args *args, double *sparsity, int *scope, mq_error *err)
{
    static const char *const scopes[] = {"tensor", "global", NULL};
    *scope = 0;
    mq_code code = mq_pass_known(args, (const char *[]){"", "scope", NULL}, err);
    if (code == MQ_OK) {
        code = mq_pass_number(args, "", true, 0, SPARSITY_MAX, sparsity, err);
    }
    return code == MQ_OK ? mq_pass_choice(args, "scope", scopes, scope, err) : code;
}

static mq_code check(const mq_pass_args *args, mq_error *err)
{
    double sparsity;
    int scope;
    return parse(args, &sparsity, &scope, err);
}

/* Elements of the share, safe from 0.29 * 100 being a hair below 29. */
static size_t share_of(double sparsity, size_t count)
{
    return (size_t)(sparsity * (double)count + 1e-6);
}

/* Bits of |x|: ordered as the magnitudes are. */
static uint32_t magnitude(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffffu;
}

/* Counts one half of the magnitudes' bits: the upper, or the lower of those with upper == want. */
static void count_half(const mq_weight *list, size_t tensors, bool is_upper, uint32_t want,
                       size_t *counts)
{
    memset(counts, 0, HALF_VALUES * sizeof *counts);
    for (size_t t = 0; t < tensors; t++) {
        for (size_t i = 0; i < list[t].count; i++) {
            uint32_t m = magnitude(list[t].values[i]);
            if (is_upper) {
                counts[m >> 16]++;
            } else if (m >> 16 == want) {
                counts[m & 0xffff]++;
            }
        }
    }
}

/* The value at which `rank` is used up: *rank becomes how many of that value are still to take. */
static uint32_t walk(const size_t *counts, size_t *rank)
{
    uint32_t v = 0;
    while (*rank > counts[v]) {
        *rank -= counts[v++];
    }
    return v;
}

/* Zeroes the `prune` smallest of the tensors' elements. counts: HALF_VALUES of scratch. */
static void zero_smallest(mq_weight *list, size_t tensors, size_t prune, size_t *counts)
{
    if (prune == 0) {
        return;
    }
    size_t rank = prune;
    count_half(list, tensors, true, 0, counts);
    uint32_t upper = walk(counts, &rank);
    count_half(list, tensors, false, upper, counts);
    uint32_t limit = upper << 16 | walk(counts, &rank);
    for (size_t t = 0; t < tensors; t++) {
        for (size_t i = 0; i < list[t].count; i++) {
            uint32_t m = magnitude(list[t].values[i]);
            if (m < limit || (m == limit && rank > 0)) {
                rank -= m == limit;
                list[t].values[i] = 0;
            }
        }
    }
}

static mq_code run(mq_model *model, const mq_pass_args *args, mq_buf *report, mq_error *err)
{
    double sparsity = 0;
    int scope;
    mq_weights weights;
    size_t zeros = 0;
    mq_code code = parse(args, &sparsity, &scope, err);
    if (code != MQ_OK) {
        return code;
    }
    size_t *counts = calloc(HALF_VALUES, sizeof *counts);
    code = mq_weights_get(&weights, model, err);
    if (counts == NULL) {
        code = mq_fail(err, MQ_E_LIMIT, "no memory for counting magnitudes");
    }
    if (code == MQ_OK && scope == 1) {
        size_t prune = share_of(sparsity, weights.elements);
        zero_smallest(weights.list, weights.count, prune, counts);
    }
    for (size_t t = 0; t < weights.count && code == MQ_OK; t++) {
        mq_weight *w = &weights.list[t];
        if (scope == 0) {
            zero_smallest(w, 1, share_of(sparsity, w->count), counts);
        }
        for (size_t i = 0; i < w->count; i++) {
            zeros += magnitude(w->values[i]) == 0;
        }
        code = mq_weight_set(w, model, err);
    }
    mq_buf_printf(report, "\"zeros\":%zu,\"of\":%zu", zeros, weights.elements);
    mq_weights_release(&weights);
    free(counts);
    return code;
}
